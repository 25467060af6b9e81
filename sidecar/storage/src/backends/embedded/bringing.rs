//! Values on their way to the committer. A large one is written to its file before: many are at the same time, each by who brings
//! it, and only the small record is left to the one thread that commits.

use std::sync::Arc;

use super::blocking;
use super::edit::Sealed;
use super::engine::Engine;
use super::files::{LEAST_IN_A_FILE, NewFile};
use crate::envelope::{Encoded, Trail};
use crate::layers::compression::Compression;
use crate::{Error, Key, Operation, Value, Version};

/// A value that is to be written. Dropped, it leaves nothing.
#[derive(Debug)]
pub(super) enum Brought {
    /// One that goes into the tree.
    Value(Value),
    /// One that was large, in the form in which it is stored, with its file if it still is.
    Encoded(Encoded, Option<NewFile>),
}

impl Brought {
    /// What of it goes where.
    pub(super) fn seal(
        self,
        key: &Key,
        version: &Version,
        trail: &Trail,
        compression: Option<Compression>,
    ) -> Result<Sealed, Error> {
        let (revision, nonce) = (version.revision, version.tag.as_str());
        Ok(match self {
            Self::Value(value) => Sealed::Whole(Encoded::of(&value, compression)?.seal(key, revision, nonce, trail)),
            Self::Encoded(encoded, None) => Sealed::Whole(encoded.seal(key, revision, nonce, trail)),
            Self::Encoded(encoded, Some(file)) => Sealed::Filed(encoded.head(key, revision, nonce, trail), file),
        })
    }
}

/// Whether a value may be worth a file.
fn is_large(value: &Value) -> bool {
    match value {
        Value::Bytes(bytes) => bytes.len() >= LEAST_IN_A_FILE,
        Value::Object(object) => object.body.len() >= LEAST_IN_A_FILE,
        Value::Json(json) => length(json, LEAST_IN_A_FILE) >= LEAST_IN_A_FILE,
    }
}

/// How long the text of a JSON value is, at least; no longer looked at than until it is `enough`.
fn length(json: &serde_json::Value, enough: usize) -> usize {
    use serde_json::Value as Json;
    let add = |all: usize, key: usize, item: &Json| match all {
        all if all >= enough => all,
        all => all + key + length(item, enough - all) + 1,
    };
    match json {
        Json::Null | Json::Bool(_) => 4,
        Json::Number(_) => 1,
        Json::String(text) => text.len() + 2,
        Json::Array(items) => items.iter().fold(1, |all, item| add(all, 0, item)),
        Json::Object(fields) => fields.iter().fold(1, |all, (key, item)| add(all, key.len() + 3, item)),
    }
}

/// Brings one value.
pub(super) async fn one(
    engine: &Arc<Engine>,
    value: Value,
    compression: Option<Compression>,
) -> Result<Brought, Error> {
    if !is_large(&value) {
        return Ok(Brought::Value(value));
    }
    let engine = Arc::clone(engine);
    blocking(move || write(&engine, &[value], compression).pop().unwrap_or_else(|| Err(super::interrupted()))).await
}

/// Brings several, whose files share the flush of their names.
pub(super) async fn several(
    engine: &Arc<Engine>,
    values: Vec<Value>,
    compression: Option<Compression>,
) -> Vec<Result<Brought, Error>> {
    let mut large = Vec::new();
    let mut sort = |value| match is_large(&value) {
        true => {
            large.push(value);
            None
        }
        false => Some(Brought::Value(value)),
    };
    let small: Vec<Option<Brought>> = values.into_iter().map(&mut sort).collect();
    let mut written = if large.is_empty() {
        Vec::new()
    } else {
        let (engine, count) = (Arc::clone(engine), large.len());
        let written = blocking(move || Ok(write(&engine, &large, compression))).await;
        written.unwrap_or_else(|error| (0..count).map(|_| Err(error.clone())).collect())
    }
    .into_iter();
    let next = |small: Option<Brought>| match small {
        Some(value) => Ok(value),
        None => written.next().unwrap_or_else(|| Err(super::interrupted())),
    };
    small.into_iter().map(next).collect()
}

/// Of operations that are written as one, brings the value that is most likely to stand in the end, with the number of its operation.
/// If another one's does, that one goes into the tree, whatever its size.
pub(super) async fn last<'a>(
    engine: &Arc<Engine>,
    operations: impl DoubleEndedIterator<Item = &'a Operation> + ExactSizeIterator,
    compression: Option<Compression>,
) -> Result<Option<(usize, Brought)>, Error> {
    let value = |operation: &'a Operation| match operation {
        Operation::Put { value, .. } | Operation::Swap { new: Some(value), .. } => Some(value),
        _ => None,
    };
    let found = operations.enumerate().rev().find_map(|(number, operation)| Some((number, value(operation)?)));
    match found.filter(|(_, value)| is_large(value)) {
        None => Ok(None),
        Some((number, value)) => Ok(Some((number, one(engine, value.clone(), compression).await?))),
    }
}

fn write(engine: &Engine, values: &[Value], compression: Option<Compression>) -> Vec<Result<Brought, Error>> {
    let encoded: Vec<Result<Encoded, Error>> = values.iter().map(|value| Encoded::of(value, compression)).collect();
    let payloads: Vec<_> = encoded.iter().flatten().map(|encoded| encoded.payload().clone()).collect();
    let mut files = engine.write_files(&payloads).into_iter();
    let mut bring = |encoded| {
        let file = files.next().unwrap_or_else(|| Err(super::interrupted()))?;
        Ok(Brought::Encoded(encoded, file))
    };
    encoded.into_iter().map(|encoded| encoded.and_then(&mut bring)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_json_value_is_at_least_as_long_as_it_is_taken_for() {
        let text = "x".repeat(100);
        for value in [
            json!(null),
            json!(12345),
            json!(""),
            json!(text),
            json!([]),
            json!({}),
            json!([1, [text, {"a": text, "b": null}], true]),
        ] {
            let written = value.to_string().len();
            let taken = length(&value, usize::MAX);
            assert!((taken..=taken + 5).contains(&written), "{taken} of {written}");
        }
        let many = json!(vec![text; 50]);
        assert!((200..400).contains(&length(&many, 200)), "no longer looked at than needed");
    }
}
