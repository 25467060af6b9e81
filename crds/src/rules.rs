//! Checks a BrainyCluster as the API server would, without a cluster: first the structure (types, bounds, unknown
//! fields), then the rules in the Common Expression Language that the schema carries.

use std::fmt;

use cel::{Context, Program};
use serde::Deserialize;
use serde_json::Value;

use crate::manifest;

mod structure;

pub use structure::{with_defaults, without_defaults};

/// What is wrong with a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Which field: `spec.storage.bucket`; the whole resource is `(resource)`.
    pub field: String,
    /// Why it is refused.
    pub message: String,
}

impl Problem {
    fn at(path: &str, message: impl Into<String>) -> Self {
        Self { field: if path.is_empty() { "(resource)".to_owned() } else { path.to_owned() }, message: message.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

/// A rule that can't be evaluated: a defect of the schema, not of the resource.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no schema to check against.
    #[error(transparent)]
    Manifest(#[from] manifest::Error),
    /// The rule does not parse.
    #[error("the rule {rule:?} does not parse: {why}")]
    Parse {
        /// The rule.
        rule: String,
        /// The parser's words.
        why: String,
    },
    /// The rule does not yield true or false.
    #[error("the rule {rule:?} can't be evaluated: {why}")]
    Evaluate {
        /// The rule.
        rule: String,
        /// Why.
        why: String,
    },
}

/// Checks a resource, as a creation or, with `old`, as a change of what is there. No problem means that the API server
/// would take it.
pub fn check(resource: &Value, old: Option<&Value>) -> Result<Vec<Problem>, Error> {
    let schema = manifest::schema()?;
    let mut problems = identity_problems(resource);
    let resource = with_defaults(&schema, resource);
    structure::check(&schema, &resource, "", &mut problems);
    // As the API server does: rules are only asked about a resource whose structure holds.
    if problems.is_empty() {
        let old = old.map(|old| with_defaults(&schema, old));
        check_rules(&schema, &resource, old.as_ref(), "", &mut problems)?;
    }
    Ok(problems)
}

/// The BrainyClusters in a YAML text of one or more documents.
pub fn clusters_in(yaml: &str) -> Result<Vec<Value>, serde_yaml::Error> {
    let mut found = Vec::new();
    for document in serde_yaml::Deserializer::from_str(yaml) {
        let value = Value::deserialize(document)?;
        if value.get("kind").and_then(Value::as_str) == Some("BrainyCluster") {
            found.push(value);
        }
    }
    Ok(found)
}

/// The resource's name.
pub fn name_of(resource: &Value) -> &str {
    resource.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default()
}

fn identity_problems(resource: &Value) -> Vec<Problem> {
    let expected = [("apiVersion", "brainy.io/v1alpha1"), ("kind", "BrainyCluster")];
    let mut problems: Vec<Problem> = expected
        .into_iter()
        .filter(|(field, wanted)| resource.get(*field).and_then(Value::as_str) != Some(wanted))
        .map(|(field, wanted)| Problem::at(field, format!("must be {wanted}")))
        .collect();
    if name_of(resource).is_empty() {
        problems.push(Problem::at("metadata.name", "is required"));
    }
    problems
}

/// Evaluates the rules of a schema and of all that it contains.
fn check_rules(
    schema: &Value,
    value: &Value,
    old: Option<&Value>,
    path: &str,
    problems: &mut Vec<Problem>,
) -> Result<(), Error> {
    for rule in schema.get("x-kubernetes-validations").and_then(Value::as_array).into_iter().flatten() {
        let text = rule.get("rule").and_then(Value::as_str).unwrap_or_default();
        if !holds(text, value, old)? {
            let message = rule.get("message").and_then(Value::as_str).unwrap_or(text);
            problems.push(Problem::at(path, message));
        }
    }
    for (name, inner) in structure::properties(schema) {
        if let Some(inner_value) = value.get(name).filter(|value| !value.is_null()) {
            let inner_old = old.and_then(|old| old.get(name)).filter(|old| !old.is_null());
            check_rules(inner, inner_value, inner_old, &structure::below(path, name), problems)?;
        }
    }
    if let Some(inner) = schema.get("items") {
        // An item of a plain list has no counterpart in the old list: transition rules don't reach into it.
        for (index, item) in value.as_array().into_iter().flatten().enumerate() {
            check_rules(inner, item, None, &format!("{path}[{index}]"), problems)?;
        }
    }
    Ok(())
}

/// Whether a rule holds. A rule that speaks of the old value holds when there is none.
fn holds(rule: &str, value: &Value, old: Option<&Value>) -> Result<bool, Error> {
    let program = Program::compile(rule).map_err(|why| Error::Parse { rule: rule.to_owned(), why: why.to_string() })?;
    let needs_old = program.references().has_variable("oldSelf");
    let mut context = Context::default();
    context.add_variable_from_value("self", to_cel(value));
    match (needs_old, old) {
        (true, None) => return Ok(true),
        (true, Some(old)) => context.add_variable_from_value("oldSelf", to_cel(old)),
        (false, _) => {}
    }
    match program.execute(&context) {
        Ok(cel::Value::Bool(holds)) => Ok(holds),
        Ok(other) => {
            Err(Error::Evaluate { rule: rule.to_owned(), why: format!("it yields {:?}, not a bool", other.type_of()) })
        }
        Err(why) => Err(Error::Evaluate { rule: rule.to_owned(), why: why.to_string() }),
    }
}

/// JSON as the API server shows it to rules: whole numbers are `int`, and what is null is absent.
fn to_cel(value: &Value) -> cel::Value {
    match value {
        Value::Null => cel::Value::Null,
        Value::Bool(yes) => cel::Value::Bool(*yes),
        Value::Number(number) => {
            number.as_i64().map_or_else(|| cel::Value::Float(number.as_f64().unwrap_or(f64::NAN)), cel::Value::Int)
        }
        Value::String(text) => text.as_str().into(),
        Value::Array(items) => items.iter().map(to_cel).collect::<Vec<_>>().into(),
        Value::Object(fields) => fields
            .iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(name, value)| (name.clone(), to_cel(value)))
            .collect::<std::collections::HashMap<String, cel::Value>>()
            .into(),
    }
}
