//! The OpenAPI document, served at `/openapi.json`.
//!
//! `openapi.json` beside this file describes each path once. The paths of keys and values exist a second time under
//! `/v1/namespaces/{namespace}`, and some answers may be given to any request: those are derived here, so that nothing
//! drifts apart.

use axum::response::Response;
use serde_json::{Map, Value, json};

use super::answer;

const DOCUMENT: &str = include_str!("openapi.json");

/// `GET /openapi.json`.
pub(super) async fn serve() -> Response {
    answer::json(&document())
}

/// Answers that a request may get whatever it asks for: it can't be read, it does not come in, or too much does at once.
const ANY_REQUEST: [(&str, &str); 4] =
    [("400", "InvalidRequest"), ("408", "RequestTimeout"), ("431", "HeadTooLarge"), ("503", "Unavailable")];

/// The whole document.
pub fn document() -> Value {
    // The file is a part of the program, and a test reads it.
    let mut document: Value = serde_json::from_str(DOCUMENT).unwrap_or_default();
    document["info"]["version"] = env!("CARGO_PKG_VERSION").into();
    if let Some(paths) = document["paths"].as_object_mut() {
        paths.values_mut().for_each(complete);
        let namespaced: Map<String, Value> = paths.iter().filter_map(|(path, item)| in_namespace(path, item)).collect();
        paths.extend(namespaced);
    }
    document
}

/// Adds the answers that any request may get to the operations of a path.
fn complete(item: &mut Value) {
    let operations = item.as_object_mut().into_iter().flat_map(Map::values_mut);
    for responses in operations.filter_map(|operation| operation.get_mut("responses")?.as_object_mut()) {
        for (status, response) in ANY_REQUEST {
            let reference = json!({ "$ref": format!("#/components/responses/{response}") });
            responses.entry(status).or_insert(reference);
        }
    }
}

/// The same path in a namespace, if it is one of keys and values.
fn in_namespace(path: &str, item: &Value) -> Option<(String, Value)> {
    let rest = path.strip_prefix("/v1/kv")?;
    let mut item = item.clone();
    let parameter = json!({ "$ref": "#/components/parameters/Namespace" });
    match item["parameters"].as_array_mut() {
        Some(parameters) => parameters.push(parameter),
        None => item["parameters"] = json!([parameter]),
    }
    for operation in item.as_object_mut()?.values_mut() {
        if let Some(id) = operation.get("operationId").and_then(Value::as_str) {
            operation["operationId"] = format!("{id}InNamespace").into();
        }
    }
    Some((format!("/v1/namespaces/{{namespace}}/kv{rest}"), item))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::routes;
    use super::*;

    fn references<'a>(value: &'a Value, found: &mut BTreeSet<&'a str>) {
        match value {
            Value::Object(fields) => {
                found.extend(fields.get("$ref").and_then(Value::as_str));
                fields.values().for_each(|field| references(field, found));
            }
            Value::Array(items) => items.iter().for_each(|item| references(item, found)),
            _ => {}
        }
    }

    #[test]
    fn the_document_names_exactly_the_routes_that_exist() {
        let document = document();
        let methods = ["get", "put", "post", "delete", "patch", "head", "options"];
        let described: BTreeSet<String> = document["paths"]
            .as_object()
            .unwrap()
            .iter()
            .flat_map(|(path, item)| {
                let names = item.as_object().unwrap().keys().filter(|name| methods.contains(&name.as_str()));
                names.map(move |method| format!("{} {path}", method.to_uppercase()))
            })
            .collect();
        let served: BTreeSet<String> =
            routes::table().iter().map(|route| format!("{} {}", route.method, route.path.replace("{*", "{"))).collect();
        assert_eq!(described, served);
    }

    #[test]
    fn every_reference_in_the_document_leads_somewhere() {
        let document = document();
        let mut found = BTreeSet::new();
        references(&document, &mut found);
        assert!(found.len() > 10);
        for reference in found {
            assert!(document.pointer(reference.trim_start_matches('#')).is_some(), "{reference}");
        }
    }

    #[test]
    fn operation_ids_are_unique_and_path_parameters_described() {
        let document = document();
        let mut ids = BTreeSet::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            for operation in item.as_object().unwrap().values().filter(|part| part.get("operationId").is_some()) {
                assert!(ids.insert(operation["operationId"].as_str().unwrap().to_owned()), "{path}");
                assert!(operation["summary"].is_string() && operation["responses"].is_object(), "{path}");
            }
            let described = item["parameters"].as_array().map_or(0, Vec::len);
            assert_eq!(described, path.matches('{').count(), "{path}");
        }
    }
}
