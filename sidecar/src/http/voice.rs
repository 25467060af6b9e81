//! What a listener says where no request can be answered: one that could not be read, or for which there is no place. In the
//! language of its clients.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::problem::{Kind, Problem, message};

/// The language of a listener's clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Voice {
    /// Problem documents, as in the storage API.
    Problems,
    /// S3's errors.
    S3,
}

const XML: &str = "application/xml";

impl Voice {
    /// A whole HTTP message, after which the connection ends.
    pub(super) fn message(self, problem: &Problem) -> Vec<u8> {
        match self {
            Self::Problems => problem.message(),
            Self::S3 => message(status(problem.kind()), XML, &document(problem)),
        }
    }

    /// The answer to a request.
    pub(super) fn answer(self, problem: Problem) -> Response {
        match self {
            Self::Problems => problem.into_response(),
            Self::S3 => {
                let mut response = (status(problem.kind()), document(&problem)).into_response();
                response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(XML));
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
                response
            }
        }
    }
}

/// S3's code for a problem, with its status.
fn code(kind: Kind) -> (&'static str, StatusCode) {
    match kind {
        Kind::RequestTimeout => ("RequestTimeout", StatusCode::BAD_REQUEST),
        Kind::Overloaded => ("SlowDown", StatusCode::SERVICE_UNAVAILABLE),
        Kind::HeadTooLarge => ("RequestHeaderSectionTooLarge", StatusCode::BAD_REQUEST),
        Kind::InvalidRequest => ("InvalidRequest", StatusCode::BAD_REQUEST),
        _ => ("InternalError", StatusCode::INTERNAL_SERVER_ERROR),
    }
}

fn status(kind: Kind) -> StatusCode {
    code(kind).1
}

fn document(problem: &Problem) -> String {
    let (code, _) = code(problem.kind());
    let message = problem.detail().replace('&', "&amp;").replace('<', "&lt;");
    format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>{code}</Code><Message>{message}</Message></Error>")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s3_clients_are_told_in_their_own_words() {
        let problem = Problem::invalid("head", "has <this> & that");
        let said = String::from_utf8(Voice::S3.message(&problem)).unwrap_or_default();
        assert!(said.starts_with("HTTP/1.1 400 Bad Request\r\ncontent-type: application/xml\r\n"), "{said}");
        assert!(said.ends_with("<Code>InvalidRequest</Code><Message>head: has &lt;this> &amp; that</Message></Error>"));
        assert_eq!(Voice::S3.answer(Problem::new(Kind::Overloaded, "")).status(), StatusCode::SERVICE_UNAVAILABLE);
    }
}
