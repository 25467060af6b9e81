//! Reads requests: the path, the body, the values in it. Whatever is wrong becomes a problem that names the field.

use axum::extract::{FromRequestParts, RawPathParams, Request};
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use axum::http::{HeaderMap, Uri};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use brainy_storage::{Key, Namespace, OperationId, Value};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};

use super::intake::{Intake, Rooms, Shape};
use super::problem::{Kind, Problem};

/// Most keys or items of one batch.
pub const MAX_BATCH: usize = 10_000;
/// Deepest nesting of a JSON value. The parser's own limit is 128, and a value travels inside other documents.
pub const MAX_DEPTH: usize = 96;

/// The namespace in the path, if it has one.
pub(super) struct Scope(pub(super) Option<Namespace>);

/// The key in the path, with its namespace if it has one. Percent-encoding is decoded exactly once; `.` and `..` are
/// keys like any other.
pub(super) struct Target {
    pub(super) namespace: Option<Namespace>,
    pub(super) key: Key,
}

/// Refuses an address whose percent-encoding is malformed, or whose text is not UTF-8: decoded at a guess, it would
/// stand for another key than was meant.
pub(super) fn check_encoding(uri: &Uri) -> Result<(), Problem> {
    for (field, text) in [("path", uri.path()), ("query", uri.query().unwrap_or_default())] {
        decodable(text).map_err(|problem| Problem::invalid(field, problem))?;
    }
    Ok(())
}

fn decodable(text: &str) -> Result<(), &'static str> {
    if !text.contains('%') {
        return Ok(());
    }
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
        decoded.push(match byte {
            b'%' => match (digit(rest.next()), digit(rest.next())) {
                (Some(high), Some(low)) => (high * 16 + low) as u8,
                _ => return Err("is malformed: a percent sign must be followed by two hexadecimal digits"),
            },
            plain => plain,
        });
    }
    std::str::from_utf8(&decoded).map(drop).map_err(|_| "is not UTF-8 when its percent-encoding is decoded")
}

/// What the path gives for each name, in one pass.
async fn path_parameters<const COUNT: usize>(
    parts: &mut Parts,
    names: [&str; COUNT],
) -> Result<[Option<String>; COUNT], Problem> {
    let parameters = RawPathParams::from_request_parts(parts, &())
        .await
        .map_err(|error| Problem::invalid("path", format!("can't be decoded: {error}")))?;
    let value = |name: &str| parameters.iter().find(|(found, _)| *found == name).map(|(_, value)| value.to_owned());
    Ok(names.map(value))
}

fn scope(namespace: Option<String>) -> Result<Option<Namespace>, Problem> {
    match namespace.map(Namespace::new).transpose()? {
        Some(reserved) if reserved.is_reserved() => {
            Err(Problem::invalid("namespace", "begins with U+0000: such names are the sidecar's own"))
        }
        namespace => Ok(namespace),
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Scope {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let [namespace] = path_parameters(parts, ["namespace"]).await?;
        Ok(Self(scope(namespace)?))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Target {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let [namespace, key] = path_parameters(parts, ["namespace", "key"]).await?;
        Ok(Self { namespace: scope(namespace)?, key: Key::new(key.unwrap_or_default())? })
    }
}

/// The body as a JSON document of a known shape.
///
/// It must be declared as JSON: a web page can make a browser send anything else to a loopback address without asking.
pub(super) async fn document<T: DeserializeOwned>(intake: &Intake, request: Request) -> Result<(T, Rooms), Problem> {
    if !is_json(request.headers()) {
        return Err(Problem::new(
            Kind::UnsupportedMediaType,
            "send JSON, with the header content-type: application/json",
        ));
    }
    let (body, rooms) = intake.take(request, Shape::Json).await?;
    Ok((json(&body)?, rooms))
}

/// The body as a value: JSON if it is declared so, else bytes.
pub(super) async fn value(intake: &Intake, request: Request) -> Result<(Value, Rooms), Problem> {
    if is_json(request.headers()) {
        let (body, rooms) = intake.take(request, Shape::Json).await?;
        return Ok((Value::Json(checked("body", json(&body)?)?), rooms));
    }
    let (body, rooms) = intake.take(request, Shape::Raw).await?;
    Ok((Value::Bytes(body), rooms))
}

fn json<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    serde_json::from_slice(body).map_err(|error| Problem::invalid("body", format!("malformed JSON: {error}")))
}

fn is_json(headers: &HeaderMap) -> bool {
    let declared = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    declared.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json")
}

/// The header by which a client names an operation, so that it is done once however often it is sent.
const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// The id that the client gave the operation, if it gave one.
pub(super) fn operation_id(headers: &HeaderMap) -> Result<Option<OperationId>, Problem> {
    let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => {
            let text = value.to_str().map_err(|_| Problem::invalid("Idempotency-Key", "is no text"))?.trim();
            // The draft has it as a quoted string; most clients send it bare.
            let bare = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(text);
            Ok(Some(OperationId::new(bare)?))
        }
        (Some(_), Some(_)) => Err(Problem::invalid("Idempotency-Key", "is given twice")),
    }
}

/// Refuses an id where none is kept: to ignore it would break what the client relies on.
pub(super) fn without_operation_id(headers: &HeaderMap, instead: &str) -> Result<(), Problem> {
    match headers.get(IDEMPOTENCY_KEY) {
        None => Ok(()),
        Some(_) => Err(Problem::invalid("Idempotency-Key", format!("is not kept for this request: {instead}"))),
    }
}

/// A field that tells `null` from not being there.
#[derive(Debug, Default)]
pub(super) struct Given(pub(super) Option<serde_json::Value>);

impl<'de> Deserialize<'de> for Given {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        serde_json::Value::deserialize(deserializer).map(|value| Self(Some(value)))
    }
}

/// A value that comes as JSON in `name` or as base64 in `nameBase64`: exactly one of them.
pub(super) fn either(name: &str, json: Given, base64: Option<String>) -> Result<Value, Problem> {
    match (json.0, base64) {
        (Some(json), None) => Ok(Value::Json(checked(name, json)?)),
        (None, Some(text)) => match BASE64.decode(text) {
            Ok(bytes) => Ok(Value::Bytes(bytes.into())),
            Err(error) => Err(Problem::invalid(format!("{name}Base64"), format!("is no base64: {error}"))),
        },
        (None, None) => Err(Problem::invalid(name, format!("is missing: give {name} or {name}Base64"))),
        (Some(_), Some(_)) => Err(Problem::invalid(name, format!("give {name} or {name}Base64, not both"))),
    }
}

/// [`either`], where JSON `null` stands for "no value".
pub(super) fn either_or_none(name: &str, json: Given, base64: Option<String>) -> Result<Option<Value>, Problem> {
    either(name, json, base64).map(|value| Some(value).filter(|value| *value != Value::Json(serde_json::Value::Null)))
}

fn checked(name: &str, json: serde_json::Value) -> Result<serde_json::Value, Problem> {
    if depth(&json) > MAX_DEPTH {
        return Err(Problem::invalid(name, format!("is nested deeper than {MAX_DEPTH} levels")));
    }
    Ok(json)
}

/// How deep arrays and objects are nested; bounded, since the parser stops at 128.
fn depth(json: &serde_json::Value) -> usize {
    match json {
        serde_json::Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        serde_json::Value::Object(fields) => 1 + fields.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// The size of a batch, checked.
pub(super) fn batch_size(field: &str, count: usize) -> Result<(), Problem> {
    if count > MAX_BATCH {
        return Err(Problem::invalid(field, format!("has {count} entries; a batch may have {MAX_BATCH}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_can_not_be_decoded_is_refused() {
        for good in ["", "/v1/kv/a", "/v1/kv/%E2%82%ac", "/v1/kv/%2525", "/a?prefix=%20+x"] {
            assert_eq!(check_encoding(&good.parse().unwrap_or_default()), Ok(()), "{good}");
        }
        for (bad, field) in
            [("/%", "path"), ("/%4", "path"), ("/%zz", "path"), ("/%ff", "path"), ("/?prefix=%C3", "query")]
        {
            let problem = check_encoding(&bad.parse().unwrap()).unwrap_err().document();
            assert_eq!(problem["field"], field, "{bad}");
        }
    }
}
