//! Writes answers: values with their versions.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use brainy_storage::{Entry, Value, Version};
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

/// A value as it was written: JSON, or bytes.
pub(super) fn entry(entry: &Entry) -> Response {
    let response = match &entry.value {
        Value::Json(value) => json(value),
        Value::Bytes(bytes) => ([(header::CONTENT_TYPE, "application/octet-stream")], bytes.clone()).into_response(),
    };
    with_etag(response, Some(&entry.version))
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
}

impl From<Entry> for Shown {
    fn from(entry: Entry) -> Self {
        let version = Some(entry.version.to_string());
        match entry.value {
            Value::Json(json) => Self { value: Some(json), value_base64: None, version },
            Value::Bytes(bytes) => Self { value: None, value_base64: Some(BASE64.encode(bytes)), version },
        }
    }
}

/// A reply that does not belong to what was asked: whatever was done, it is not what the client wanted to know.
pub(super) fn mismatched(reply: &Reply) -> Problem {
    tracing::error!(?reply, "a reply does not fit its call");
    Problem::new(Kind::OutcomeUnknown, "the answer of storage does not fit the request")
}
