//! Each request on its way in and out: it is looked at, the library makes an operation of it, and its answer gets an id that
//! logs and clients can name.

use std::convert::Infallible;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::http::request::Parts;
use axum::http::{HeaderValue, Method, Request, Response, StatusCode, header};
use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use s3s::config::{S3Config, StaticConfigProvider};
use s3s::crypto::Checksum as _;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::{S3Error, S3ErrorCode};
use tokio::time::{Instant, timeout_at};
use tower::Service;
use tracing::{Instrument, debug_span};

use super::access::Access;
use super::checksums::Sums;
use super::chunks::{Framing, treat};
use super::failure::{Answer, Failure};
use super::{Gateway, guard, incoming};
use crate::http::intake::Intake;
use crate::http::memory::Room;
use crate::traces;

/// Most bytes of a document: a thousand keys to be deleted, or ten thousand parts, however they are written.
const MOST_XML: usize = 8 * 1024 * 1024;

/// Takes requests in. Cheap to clone.
#[derive(Clone)]
pub(super) struct Door {
    service: S3Service,
    access: Access,
    intake: Intake,
}

impl Door {
    pub(super) fn new(gateway: Gateway, access: Access) -> Self {
        let intake = gateway.0.intake.clone();
        let mut config = S3Config::default();
        config.xml_max_body_size = MOST_XML;
        let mut builder = S3ServiceBuilder::new(gateway);
        builder.set_config(std::sync::Arc::new(StaticConfigProvider::new(std::sync::Arc::new(config))));
        if let Access::Keys(keys) = &access {
            builder.set_auth(keys.clone());
        }
        Self { service: builder.build(), access, intake }
    }

    async fn answer(self, request: Request<Body>) -> Response<Body> {
        let (mut parts, body) = request.into_parts();
        let prepared = match guard::check(&mut parts, &self.access) {
            Ok(framing) => self.prepare(&mut parts, body, framing).await.map_err(Failure::into_error),
            Err(error) => Err(error),
        };
        let answered = match prepared {
            Ok((body, _room)) => self.service.call(Request::from_parts(parts, body)).await,
            Err(error) => return refusal(error),
        };
        match answered {
            Ok(response) => response.map(Body::new),
            Err(error) => {
                let error: s3s::StdError = error.into();
                tracing::error!(%error, "an answer of S3 could not be made");
                refusal(S3Error::with_message(S3ErrorCode::InternalError, "The answer could not be made."))
            }
        }
    }

    /// The body as the library takes it: an object's as it comes, a document whole and looked at.
    async fn prepare(&self, parts: &mut Parts, body: Body, framing: Framing) -> Answer<(s3s::Body, Room)> {
        if let Framing::TakenApart(trailers) = &framing {
            parts.extensions.insert(trailers.clone());
        }
        if !is_document(parts) {
            let body = s3s::Body::http_body_unsync(treat(body, framing));
            return Ok((body, Room::default()));
        }
        if !matches!(framing, Framing::Plain) {
            let message = "A document is not sent in chunks.";
            return Err(Failure::new(S3ErrorCode::InvalidRequest, message));
        }
        let (text, room) = self.document(body).await?;
        if !is_about_an_upload(parts) {
            let mut sums = Sums::of(&parts.headers)?;
            sums.add(&text);
            sums.verify(None)?;
        }
        let signed = parts.headers.get("x-amz-content-sha256").map(|value| value.as_bytes().to_ascii_lowercase());
        if let Some(signed) = signed.filter(|signed| signed.len() == 64)
            && signed != brainy_storage::object::hex(s3s::crypto::Sha256::checksum(&text).as_ref()).into_bytes()
        {
            let message = "The provided 'x-amz-content-sha256' header does not match what was computed.";
            return Err(Failure::named("XAmzContentSHA256Mismatch", message));
        }
        parts.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(text.len()));
        Ok((s3s::Body::from(text), room))
    }

    async fn document(&self, body: Body) -> Answer<(Bytes, Room)> {
        let deadline = Instant::now() + self.intake.time();
        let (mut text, mut room) = (BytesMut::new(), Room::default());
        let mut body = body.into_data_stream();
        loop {
            let late = |_| Failure::new(S3ErrorCode::RequestTimeout, "The document did not come in in time.");
            let Some(bytes) = timeout_at(deadline, body.next()).await.map_err(late)? else {
                return Ok((text.freeze(), room));
            };
            let bytes = bytes.map_err(|error| incoming::broken(&error))?;
            if text.len() + bytes.len() > MOST_XML {
                let message = format!("The document has more than {MOST_XML} bytes.");
                return Err(Failure::new(S3ErrorCode::MaxMessageLengthExceeded, message));
            }
            text.extend_from_slice(&bytes);
            if room.bytes() == 0 && text.len() > Intake::SMALL {
                room = self.intake.room(MOST_XML as u64).await.ok_or_else(Failure::crowded)?;
            }
        }
    }
}

/// Whether checksums in the headers are those of the object that is put together, and not of the document that says how.
fn is_about_an_upload(parts: &Parts) -> bool {
    parts.uri.query().unwrap_or_default().split('&').any(|part| part.starts_with("uploadId="))
}

/// Whether the body of a request is a document, which the library takes whole, and no object or part of one.
fn is_document(parts: &Parts) -> bool {
    match parts.method {
        Method::POST => true,
        Method::PUT => {
            let of_object =
                parts.uri.path().trim_start_matches('/').split_once('/').is_some_and(|(_, key)| !key.is_empty());
            let query = parts.uri.query().unwrap_or_default();
            let plain = query.split('&').filter(|part| !part.is_empty()).all(|part| {
                let name = part.split('=').next().unwrap_or_default().to_ascii_lowercase();
                name.starts_with("x-amz-") || ["partnumber", "uploadid", "x-id"].contains(&name.as_str())
            });
            !(of_object && plain)
        }
        _ => false,
    }
}

/// An error as the answer to a request.
fn refusal(error: S3Error) -> Response<Body> {
    let ends =
        matches!(error.code(), S3ErrorCode::RequestTimeout | S3ErrorCode::SlowDown | S3ErrorCode::EntityTooLarge);
    match error.to_http_response() {
        Ok(response) => {
            let mut response = response.map(Body::new);
            if ends {
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            response
        }
        Err(error) => {
            let mut response = Response::new(Body::from(error.to_string()));
            *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            response
        }
    }
}

impl Service<Request<Body>> for Door {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let span = debug_span!(
            "request",
            otel.name = format!("S3 {}", request.method()),
            otel.kind = "server",
            http.response.status_code = tracing::field::Empty
        );
        traces::go_on(&request, &span);
        let (door, seen) = (self.clone(), span.clone());
        let answer = async move {
            let mut response = door.answer(request).await;
            seen.record("http.response.status_code", response.status().as_u16());
            let id = brainy_storage::chance::mark()[..16].to_uppercase();
            if let Ok(id) = HeaderValue::try_from(id) {
                response.headers_mut().insert("x-amz-request-id", id);
            }
            Ok(response)
        };
        answer.instrument(span).boxed()
    }
}
