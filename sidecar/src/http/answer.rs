//! Writes answers: values with their versions.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use brainy_storage::{Entry, Object, Value, Version};
use serde::Serialize;

use super::problem::{Kind, Problem};
use crate::routing::Reply;

/// A JSON document.
pub(super) fn json<T: Serialize>(body: &T) -> Response {
    match serde_json::to_vec(body) {
        Ok(text) => ([(header::CONTENT_TYPE, "application/json")], text).into_response(),
        // Nothing that is answered here has a form that JSON lacks.
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// A JSON document about a key that now stands at a version.
pub(super) fn versioned<T: Serialize>(body: &T, version: Option<&Version>) -> Response {
    with_etag(json(body), version)
}

/// A value as it was written: JSON, or bytes; an object's bytes with the content type that was given with them.
pub(super) fn entry(entry: &Entry) -> Response {
    let response = match &entry.value {
        Value::Json(value) => json(value),
        Value::Bytes(bytes) => ([(header::CONTENT_TYPE, OCTETS)], bytes.clone()).into_response(),
        Value::Object(object) => ([(header::CONTENT_TYPE, content_type(object))], object.body.clone()).into_response(),
    };
    with_etag(response, Some(&entry.version))
}

/// What is said instead of the bytes of an object that are not with it.
pub(super) fn in_parts(entry: &Entry) -> Option<Problem> {
    let Value::Object(Object { head, .. }) = &entry.value else { return None };
    let detail = format!("the value is an object of {} bytes, kept in parts: read it by S3", head.size);
    head.parts.is_some().then(|| Problem::new(Kind::InParts, detail))
}

const OCTETS: &str = "application/octet-stream";

fn content_type(object: &Object) -> HeaderValue {
    let given = object.head.headers.get("content-type").and_then(|given| HeaderValue::try_from(given).ok());
    given.unwrap_or(HeaderValue::from_static(OCTETS))
}

fn with_etag(mut response: Response, version: Option<&Version>) -> Response {
    let etag = version.and_then(|version| HeaderValue::try_from(format!("\"{version}\"")).ok());
    if let Some(etag) = etag {
        response.headers_mut().insert(header::ETAG, etag);
    }
    response
}

/// The fields of a value in a JSON document: `value` or `valueBase64`, and `version`.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Shown {
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<serde_json::Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    /// Of an object the content type that was given with its bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    content_type: Option<String>,
}

impl From<Entry> for Shown {
    fn from(entry: Entry) -> Self {
        let version = Some(entry.version.to_string());
        match entry.value {
            Value::Json(json) => Self { value: Some(json), version, ..Self::default() },
            Value::Bytes(bytes) => Self { value_base64: Some(BASE64.encode(bytes)), version, ..Self::default() },
            Value::Object(Object { head, body }) => Self {
                value_base64: head.parts.is_none().then(|| BASE64.encode(body)),
                version,
                content_type: head.headers.get("content-type").cloned(),
                ..Self::default()
            },
        }
    }
}

/// A reply that does not belong to what was asked: whatever was done, it is not what the client wanted to know.
pub(super) fn mismatched(reply: &Reply) -> Problem {
    tracing::error!(?reply, "a reply does not fit its call");
    Problem::new(Kind::OutcomeUnknown, "the answer of storage does not fit the request")
}
