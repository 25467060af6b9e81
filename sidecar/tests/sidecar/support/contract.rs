//! Holds answers to the OpenAPI document: the status must be listed for the operation, the media type for the status,
//! and the body must be what its schema says, with no field that the schema does not name.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex};

use brainy_sidecar::http::openapi;
use jsonschema::Validator;
use serde_json::{Value, json};

use super::answer::Answer;

static DOCUMENT: LazyLock<Value> = LazyLock::new(|| {
    let mut document = openapi::document();
    close(&mut document);
    document
});
static VALIDATORS: Mutex<Option<HashMap<String, Validator>>> = Mutex::new(None);

/// Headers that say something of the answer: one that is sent must be described.
const TELLING: [&str; 2] = ["etag", "retry-after"];

/// Objects have the fields that are described, and no others.
fn close(part: &mut Value) {
    match part {
        Value::Object(fields) => {
            fields.values_mut().for_each(close);
            let describes_fields = fields.get("type") == Some(&json!("object")) && fields.contains_key("properties");
            if describes_fields && !fields.contains_key("additionalProperties") {
                fields.insert("additionalProperties".into(), false.into());
            }
        }
        Value::Array(items) => items.iter_mut().for_each(close),
        _ => {}
    }
}

fn resolve(part: &Value) -> &Value {
    match part.get("$ref").and_then(Value::as_str) {
        Some(reference) => DOCUMENT.pointer(reference.trim_start_matches('#')).unwrap(),
        None => part,
    }
}

/// What is wrong with a value; empty: it is as its schema says.
fn violations(schema: &Value, value: &Value) -> Vec<String> {
    let mut validators = VALIDATORS.lock().unwrap();
    let validators = validators.get_or_insert_default();
    let validator = validators.entry(schema.to_string()).or_insert_with(|| {
        let whole = json!({ "allOf": [schema], "components": DOCUMENT["components"] });
        jsonschema::validator_for(&whole).unwrap()
    });
    validator.iter_errors(value).map(|error| format!("{error} at {}", error.instance_path())).collect()
}

fn fits(template: &str, path: &str) -> bool {
    let mut parts = path.strip_prefix('/').unwrap_or(path).splitn(template.matches('/').count(), '/');
    template.trim_start_matches('/').split('/').all(|wanted| match parts.next() {
        Some(part) if wanted.starts_with('{') => !part.is_empty(),
        found => found == Some(wanted),
    })
}

/// An operation of the document: its method in lower case, its path, and its description.
pub(crate) fn operations() -> impl Iterator<Item = (&'static str, &'static str, &'static Value)> {
    DOCUMENT["paths"].as_object().unwrap().iter().flat_map(|(path, item)| {
        let operations = item.as_object().unwrap().iter().filter(|(_, part)| part.get("operationId").is_some());
        operations.map(move |(method, operation)| (method.as_str(), path.as_str(), operation))
    })
}

/// The operation that a request means; `Err`: the status of a request that means none.
fn operation(method: &str, path: &str) -> Result<&'static Value, u16> {
    let path = path.split('?').next().unwrap_or_default();
    let method = if method == "HEAD" { "get" } else { &method.to_lowercase() };
    let mut found = operations().filter(|(_, template, _)| fits(template, path)).peekable();
    if found.peek().is_none() {
        return Err(404);
    }
    found.find(|(offered, ..)| *offered == method).map(|(.., operation)| operation).ok_or(405)
}

/// Fails if an answer is not one that the document describes. Returns the operation's name, if the request meant one.
pub(crate) fn check(method: &str, path: &str, answer: &Answer) -> Option<&'static str> {
    let status = answer.status.as_u16();
    let problem = json!({ "$ref": "#/components/schemas/Problem" });
    let operation = match operation(method, path) {
        Ok(operation) => operation,
        Err(expected) => {
            // An empty key or namespace is at no path; that is said, and not only that nothing is there.
            assert!(status == expected || (status == 400 && expected == 404), "{method} {path}: {status}");
            assert_eq!(violations(&problem, &answer.json()), [""; 0], "{method} {path}");
            return None;
        }
    };
    let response = operation["responses"].get(status.to_string());
    let response = resolve(response.unwrap_or_else(|| panic!("{method} {path}: {status} is not described")));
    let media_type = answer.header("content-type").split(';').next().unwrap_or_default();
    let content = response["content"].get(media_type).or_else(|| response["content"].get("*/*"));
    let content = content.unwrap_or_else(|| panic!("{method} {path}: {status}: {media_type:?} is not described"));
    if media_type.ends_with("json") && method != "HEAD" {
        let wrong = violations(&content["schema"], &answer.json());
        assert_eq!(wrong, [""; 0], "{method} {path}: {status}: {}", answer.text());
    }
    for name in TELLING.into_iter().filter(|name| answer.headers.contains_key(*name)) {
        let described = response["headers"].as_object().into_iter().flatten();
        assert!(described.into_iter().any(|(known, _)| known.eq_ignore_ascii_case(name)), "{method} {path}: {name}");
    }
    operation["operationId"].as_str()
}

/// Fails if a request was served that the document does not allow.
pub(crate) fn check_request(path: &str, body: &Value, answer: &Answer) {
    let Ok(operation) = operation("POST", path) else { return };
    let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
    let wrong = violations(schema, body);
    assert!(wrong.is_empty() || !answer.status.is_success(), "{path} took {body}: {wrong:?}");
}
