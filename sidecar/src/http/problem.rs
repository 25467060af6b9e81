//! Errors as RFC 9457 problem documents. Each says whether the request certainly had no effect (`failed`) or may have
//! had one (`unknown`): a client must never take the one for the other (G4).

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use brainy_storage::{Entry, Error};
use serde::Serialize;

use crate::metrics::OutcomeLabel;
use crate::routing::Reply;

const MEDIA_TYPE: &str = "application/problem+json";

/// What went wrong. Its `type` never changes its meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The request can't be served as it is.
    InvalidRequest,
    /// No such resource.
    NotFound,
    /// The key has no value.
    KeyNotFound,
    /// The resource does not take this method.
    MethodNotAllowed,
    /// The body did not come in in time.
    RequestTimeout,
    /// The value is an object that is kept in parts.
    InParts,
    /// The stored value is no number.
    NotANumber,
    /// `If-Match` or `If-None-Match` did not hold.
    PreconditionFailed,
    /// The body is too large.
    TooLarge,
    /// Path and headers are too large.
    HeadTooLarge,
    /// The body's media type is not taken here.
    UnsupportedMediaType,
    /// The stored value is damaged.
    Corrupt,
    /// The shard has no server at the moment.
    NoServer,
    /// Storage refused or could not be reached.
    StorageUnavailable,
    /// Others hold locks that were asked for.
    Locked,
    /// Holders of locks waited in a circle.
    Deadlock,
    /// The holder of locks is none any more.
    LockLost,
    /// Named locks need a store that all nodes share.
    NoLocks,
    /// The process is no node of a cluster.
    NoCluster,
    /// The shards have one tier.
    NoTiers,
    /// The shards are in one region.
    NoRegions,
    /// Too many writers at once on one key.
    Contended,
    /// Too many connections at once, or too many bytes on their way in.
    Overloaded,
    /// It can't be known whether the request took effect.
    OutcomeUnknown,
}

impl Kind {
    const fn parts(self) -> (&'static str, &'static str, StatusCode) {
        match self {
            Self::InvalidRequest => ("invalid-request", "Invalid request", StatusCode::BAD_REQUEST),
            Self::NotFound => ("not-found", "No such resource", StatusCode::NOT_FOUND),
            Self::KeyNotFound => ("key-not-found", "No such key", StatusCode::NOT_FOUND),
            Self::MethodNotAllowed => ("method-not-allowed", "Method not allowed", StatusCode::METHOD_NOT_ALLOWED),
            Self::RequestTimeout => {
                ("request-timeout", "Request took too long to come in", StatusCode::REQUEST_TIMEOUT)
            }
            Self::InParts => ("in-parts", "Object in parts", StatusCode::CONFLICT),
            Self::NotANumber => ("not-a-number", "Not a number", StatusCode::CONFLICT),
            Self::PreconditionFailed => ("precondition-failed", "Precondition failed", StatusCode::PRECONDITION_FAILED),
            Self::TooLarge => ("too-large", "Request too large", StatusCode::PAYLOAD_TOO_LARGE),
            Self::HeadTooLarge => {
                ("head-too-large", "Path and headers too large", StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE)
            }
            Self::UnsupportedMediaType => {
                ("unsupported-media-type", "Unsupported media type", StatusCode::UNSUPPORTED_MEDIA_TYPE)
            }
            Self::Corrupt => ("corrupt", "Stored value is damaged", StatusCode::INTERNAL_SERVER_ERROR),
            Self::NoServer => ("no-server", "Shard has no server", StatusCode::SERVICE_UNAVAILABLE),
            Self::StorageUnavailable => ("storage-unavailable", "Storage unavailable", StatusCode::SERVICE_UNAVAILABLE),
            Self::Locked => ("locked", "Others hold the locks", StatusCode::CONFLICT),
            Self::Deadlock => ("deadlock", "Holders of locks wait for each other", StatusCode::CONFLICT),
            Self::LockLost => ("lock-lost", "The holder is none any more", StatusCode::CONFLICT),
            Self::NoLocks => ("no-locks", "Named locks are not offered here", StatusCode::SERVICE_UNAVAILABLE),
            Self::NoCluster => ("no-cluster", "No node of a cluster", StatusCode::CONFLICT),
            Self::NoTiers => ("no-tiers", "No cold tier", StatusCode::CONFLICT),
            Self::NoRegions => ("no-regions", "No other regions", StatusCode::CONFLICT),
            Self::Contended => ("contended", "Too many writers on one key", StatusCode::SERVICE_UNAVAILABLE),
            Self::Overloaded => ("overloaded", "Too much at once", StatusCode::SERVICE_UNAVAILABLE),
            Self::OutcomeUnknown => ("outcome-unknown", "Outcome unknown", StatusCode::GATEWAY_TIMEOUT),
        }
    }

    /// The request may have had an effect.
    pub fn outcome_unknown(self) -> bool {
        self == Self::OutcomeUnknown
    }

    /// The connection ends with the answer: the rest of the request is not read.
    fn ends_connection(self) -> bool {
        matches!(self, Self::RequestTimeout | Self::TooLarge | Self::HeadTooLarge | Self::Overloaded)
    }
}

/// A problem document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    kind: Kind,
    detail: String,
    field: Option<String>,
    current: Option<String>,
    /// The holders of locks that waited in a circle.
    cycle: Vec<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    r#type: String,
    title: &'a str,
    status: u16,
    detail: &'a str,
    outcome: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    current_version: Option<&'a str>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    cycle: &'a [String],
}

impl Problem {
    /// A problem; `detail` says what to do about it where that is not plain.
    pub fn new(kind: Kind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into(), field: None, current: None, cycle: Vec::new() }
    }

    /// An invalid field of the request.
    pub fn invalid(field: impl Into<String>, problem: impl std::fmt::Display) -> Self {
        let field = field.into();
        Self { detail: format!("{field}: {problem}"), field: Some(field), ..Self::new(Kind::InvalidRequest, "") }
    }

    /// Each of these holders of locks waits for the next, and the last for the first.
    pub fn deadlock(cycle: Vec<String>, detail: String) -> Self {
        Self { cycle, ..Self::new(Kind::Deadlock, detail) }
    }

    /// A condition that did not hold, and what stands there instead.
    pub fn precondition(current: Option<&Entry>) -> Self {
        let detail = match current {
            Some(entry) => format!("the key stands at version {}", entry.version),
            None => "the key has no value".into(),
        };
        Self { current: current.map(|entry| entry.version.to_string()), ..Self::new(Kind::PreconditionFailed, detail) }
    }

    /// The problem that a reply is, where it is one. `None`: the reply is an answer.
    pub fn of(reply: Reply) -> Result<Reply, Self> {
        match reply {
            Reply::Unknown(why) => Err(Self::new(
                Kind::OutcomeUnknown,
                format!("the write may or may not have taken effect, read before you repeat it: {why}"),
            )),
            Reply::NoServer(why) => Err(Self::new(Kind::NoServer, format!("nothing was done, try again: {why}"))),
            Reply::Failed(error) => Err(error.into()),
            answer => Ok(answer),
        }
    }

    /// The same problem, about a field of an item of a batch (`items[3].key`).
    #[must_use]
    pub fn in_item(mut self, list: &str, index: usize) -> Self {
        let field = self.field.take().map_or_else(String::new, |field| format!(".{field}"));
        let place = format!("{list}[{index}]{field}");
        self.detail =
            format!("{place}: {}", self.detail.split_once(": ").map_or(self.detail.as_str(), |(_, rest)| rest));
        self.field = Some(place);
        self
    }

    /// What to do about it.
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// What went wrong.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// As JSON: the body of an error, or a part of a batch's answer.
    pub fn document(&self) -> serde_json::Value {
        let (name, title, status) = self.kind.parts();
        let document = Document {
            r#type: format!("urn:brainy:problem:{name}"),
            title,
            status: status.as_u16(),
            detail: &self.detail,
            outcome: if self.kind.outcome_unknown() { "unknown" } else { "failed" },
            field: self.field.as_deref(),
            current_version: self.current.as_deref(),
            cycle: &self.cycle,
        };
        // Text and numbers always have a JSON form.
        serde_json::to_value(document).unwrap_or_default()
    }

    /// As a whole HTTP message, where there is no request to answer: what came in could not be read, or not to its end.
    /// The connection ends with it.
    pub(super) fn message(&self) -> Vec<u8> {
        let (_, _, status) = self.kind.parts();
        message(status, MEDIA_TYPE, &self.document().to_string())
    }
}

/// A whole HTTP message that ends its connection.
pub(super) fn message(status: StatusCode, media_type: &str, body: &str) -> Vec<u8> {
    let retry = if status == StatusCode::SERVICE_UNAVAILABLE { "retry-after: 1\r\n" } else { "" };
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: {media_type}\r\nconnection: close\r\n{retry}content-length: {}\r\n\r\n",
        body.len()
    );
    (head + body).into_bytes()
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let text = error.to_string();
        match error {
            Error::Invalid { field, problem } => Self::invalid(field, problem),
            Error::NotANumber { .. } => Self::new(Kind::NotANumber, text),
            Error::Corrupt { .. } => Self::new(Kind::Corrupt, text),
            Error::Unavailable { detail, .. } => Self::new(Kind::StorageUnavailable, format!("{text}: {detail}")),
            Error::Contended { .. } => Self::new(Kind::Contended, text),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let (_, _, status) = self.kind.parts();
        let mut response = (status, self.document().to_string()).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
        if self.kind.ends_connection() {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        let etag = self.current.as_ref().and_then(|version| HeaderValue::try_from(format!("\"{version}\"")).ok());
        if let Some(etag) = etag {
            headers.insert(header::ETAG, etag);
        }
        let label = if self.kind.outcome_unknown() { OutcomeLabel::Unknown } else { OutcomeLabel::Failed };
        response.extensions_mut().insert(label);
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_unknown_outcome_is_called_unknown() {
        let unknown = Problem::of(Reply::Unknown("lost".into())).unwrap_err().document();
        assert_eq!((unknown["outcome"].as_str(), unknown["status"].as_u64()), (Some("unknown"), Some(504)));
        for reply in [Reply::NoServer("w".into()), Reply::Failed(Error::unavailable("c", "d"))] {
            assert_eq!(Problem::of(reply).unwrap_err().document()["outcome"], "failed");
        }
    }

    #[test]
    fn a_problem_of_an_item_names_the_item() {
        let document = Problem::from(Error::invalid("key", "is empty")).in_item("items", 3).document();
        assert_eq!(document["field"], "items[3].key");
        assert_eq!(document["detail"], "items[3].key: is empty");
    }
}
