//! The structural half of the check: defaults, types, bounds, unknown fields.

use regex::Regex;
use serde_json::{Map, Value};

use super::Problem;

/// Fields of every Kubernetes object that its own schema does not list.
const ENVELOPE: [&str; 3] = ["apiVersion", "kind", "metadata"];

/// The resource with the schema's defaults filled in, as the API server stores it.
pub fn with_defaults(schema: &Value, value: &Value) -> Value {
    let mut value = value.clone();
    fill(schema, &mut value);
    value
}

fn fill(schema: &Value, value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, inner) in properties(schema) {
                let absent = fields.get(name).is_none_or(|there| there.is_null() && !is_nullable(inner));
                if let (true, Some(default)) = (absent, inner.get("default")) {
                    fields.insert(name.clone(), default.clone());
                }
                if let Some(there) = fields.get_mut(name) {
                    fill(inner, there);
                }
            }
        }
        Value::Array(items) => {
            if let Some(inner) = schema.get("items") {
                items.iter_mut().for_each(|item| fill(inner, item));
            }
        }
        _ => {}
    }
}

/// The resource without what says the schema's defaults: two that differ in such a field alone give the same, also where one is
/// of a version that did not know the field.
pub fn without_defaults(schema: &Value, value: &Value) -> Value {
    let mut value = value.clone();
    strip(schema, &mut value);
    value
}

fn strip(schema: &Value, value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, inner) in properties(schema) {
                let Some(there) = fields.get_mut(name) else { continue };
                strip(inner, there);
                let is_default = inner.get("default").is_some_and(|default| without_defaults(inner, default) == *there);
                if is_default || there.is_null() {
                    fields.remove(name);
                }
            }
        }
        Value::Array(items) => {
            if let Some(inner) = schema.get("items") {
                items.iter_mut().for_each(|item| strip(inner, item));
            }
        }
        _ => {}
    }
}

/// The named properties of a schema.
pub(super) fn properties(schema: &Value) -> impl Iterator<Item = (&String, &Value)> {
    schema.get("properties").and_then(Value::as_object).into_iter().flatten()
}

/// The path of a field below another.
pub(super) fn below(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

fn is_nullable(schema: &Value) -> bool {
    schema.get("nullable").and_then(Value::as_bool).unwrap_or(false)
}

/// Collects every structural problem of a value.
pub(super) fn check(schema: &Value, value: &Value, path: &str, problems: &mut Vec<Problem>) {
    if value.is_null() {
        if !is_nullable(schema) {
            problems.push(Problem::at(path, "must not be null"));
        }
        return;
    }
    if let Some(wanted) = wrong_type(schema, value) {
        problems.push(Problem::at(path, format!("must be of type {wanted}")));
        return;
    }
    if let Some(allowed) = schema.get("enum").and_then(Value::as_array)
        && !allowed.contains(value)
    {
        let allowed: Vec<&str> = allowed.iter().filter_map(Value::as_str).collect();
        problems.push(Problem::at(path, format!("unsupported value {value}: must be one of {}", allowed.join(", "))));
    }
    match value {
        Value::Object(fields) => check_object(schema, fields, path, problems),
        Value::Array(items) => check_array(schema, items, path, problems),
        Value::String(text) => check_string(schema, text, path, problems),
        Value::Number(number) => check_number(schema, number, path, problems),
        Value::Null | Value::Bool(_) => {}
    }
}

/// The type that the schema wants, when the value is of another.
fn wrong_type<'a>(schema: &'a Value, value: &Value) -> Option<&'a str> {
    if schema.get("x-kubernetes-int-or-string").and_then(Value::as_bool) == Some(true) {
        let fits = value.is_string() || value.is_i64() || value.is_u64();
        return (!fits).then_some("integer or string");
    }
    let wanted = schema.get("type").and_then(Value::as_str)?;
    let fits = match wanted {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        _ => true,
    };
    (!fits).then_some(wanted)
}

fn check_object(schema: &Value, fields: &Map<String, Value>, path: &str, problems: &mut Vec<Problem>) {
    let named = schema.get("properties").and_then(Value::as_object);
    let others = schema.get("additionalProperties");
    let keeps_unknown =
        schema.get("x-kubernetes-preserve-unknown-fields").is_some() || others == Some(&Value::Bool(true));
    for required in schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
        if !fields.contains_key(required) {
            problems.push(Problem::at(&below(path, required), "is required"));
        }
    }
    for (name, value) in fields {
        let path = below(path, name);
        match (named.and_then(|named| named.get(name)), others) {
            (Some(inner), _) => check(inner, value, &path, problems),
            (None, Some(inner)) if inner.is_object() => check(inner, value, &path, problems),
            (None, _) if keeps_unknown || ENVELOPE.contains(&path.as_str()) => {}
            (None, _) => problems.push(Problem::at(&path, "unknown field")),
        }
    }
}

fn check_array(schema: &Value, items: &[Value], path: &str, problems: &mut Vec<Problem>) {
    if let Some(most) = bound(schema, "maxItems")
        && items.len() as f64 > most
    {
        problems.push(Problem::at(path, format!("too many: {}: must have at most {most} items", items.len())));
    }
    if let Some(least) = bound(schema, "minItems")
        && (items.len() as f64) < least
    {
        problems.push(Problem::at(path, format!("should have at least {least} items")));
    }
    if let Some(inner) = schema.get("items") {
        for (index, item) in items.iter().enumerate() {
            check(inner, item, &format!("{path}[{index}]"), problems);
        }
    }
}

fn check_string(schema: &Value, text: &str, path: &str, problems: &mut Vec<Problem>) {
    let length = text.chars().count() as f64;
    if let Some(least) = bound(schema, "minLength").filter(|least| length < *least) {
        problems.push(Problem::at(path, format!("should be at least {least} chars long")));
    }
    if let Some(most) = bound(schema, "maxLength").filter(|most| length > *most) {
        problems.push(Problem::at(path, format!("may not be more than {most} bytes")));
    }
    if let Some(pattern) = schema.get("pattern").and_then(Value::as_str) {
        let matches = Regex::new(pattern).is_ok_and(|regex| regex.is_match(text));
        if !matches {
            problems.push(Problem::at(path, format!("should match '{pattern}'")));
        }
    }
}

fn check_number(schema: &Value, number: &serde_json::Number, path: &str, problems: &mut Vec<Problem>) {
    let value = number.as_f64().unwrap_or(f64::NAN);
    if let Some(least) = bound(schema, "minimum").filter(|least| value < *least) {
        problems.push(Problem::at(path, format!("should be greater than or equal to {least}")));
    }
    if let Some(most) = bound(schema, "maximum").filter(|most| value > *most) {
        problems.push(Problem::at(path, format!("should be less than or equal to {most}")));
    }
}

fn bound(schema: &Value, name: &str) -> Option<f64> {
    schema.get(name).and_then(Value::as_f64)
}
