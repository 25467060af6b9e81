//! One key: `/v1/kv/{key}`, and the two operations that compare or compute.

use std::str::FromStr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::response::Response;
use brainy_storage::{Condition, Key, Namespace, Operation, Version};
use serde::{Deserialize, Serialize};
use serde_json::Number;

use super::Api;
use super::answer::{self, Shown};
use super::problem::{Kind, Problem};
use super::request::{self, Given, Scope, Target};
use crate::routing::{Call, Reply};

/// `GET`: the value, with its version as ETag.
pub(super) async fn get(State(api): State<Arc<Api>>, target: Target) -> Result<Response, Problem> {
    read(&api, target.namespace.as_ref(), &target.key).await
}

/// The value of a key.
pub(super) async fn read(api: &Api, namespace: Option<&Namespace>, key: &Key) -> Result<Response, Problem> {
    let read = || async {
        match Problem::of(api.router.run_one(namespace, Call::Get { key: key.clone() }).await)? {
            Reply::Found(Some(entry)) => match answer::in_parts(&entry) {
                Some(problem) => Err(problem),
                None => Ok(answer::entry(&entry)),
            },
            Reply::Found(None) => Err(Problem::new(Kind::KeyNotFound, format!("key {:?} has no value", key.as_str()))),
            other => Err(answer::mismatched(&other)),
        }
    };
    api.outlet.answer(read).await
}

#[derive(Serialize)]
struct Written {
    version: String,
}

/// `PUT`: writes the body, if the condition in the headers holds.
pub(super) async fn put(State(api): State<Arc<Api>>, target: Target, request: Request) -> Result<Response, Problem> {
    let (condition, id) = (condition(request.headers())?, request::operation_id(request.headers())?);
    let (value, _room) = request::value(&api.intake, request).await?;
    let call = Call::of(target.key, Operation::Put { value, condition }, id);
    match Problem::of(api.router.run_one(target.namespace.as_ref(), call).await)? {
        Reply::Written(version) => Ok(answer::versioned(&Written { version: version.to_string() }, Some(&version))),
        Reply::Rejected(current) => Err(Problem::precondition(current.as_ref())),
        other => Err(answer::mismatched(&other)),
    }
}

#[derive(Serialize)]
struct Removed {
    removed: bool,
}

/// `DELETE`: removes the key, if the condition in the headers holds. A key that has no value is no error.
pub(super) async fn delete(
    State(api): State<Arc<Api>>,
    target: Target,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let condition = condition(&headers)?;
    request::without_operation_id(&headers, "to delete again what is gone does no harm")?;
    if condition == Condition::Absent {
        return Err(Problem::invalid("If-None-Match", "a DELETE can't ask that the key has no value"));
    }
    let call = Call::Remove { key: target.key, condition };
    match Problem::of(api.router.run_one(target.namespace.as_ref(), call).await)? {
        Reply::Removed(removed) => Ok(answer::json(&Removed { removed })),
        Reply::Rejected(current) => Err(Problem::precondition(current.as_ref())),
        other => Err(answer::mismatched(&other)),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct CompareAndSwap {
    key: String,
    #[serde(default)]
    old_value: Given,
    #[serde(default)]
    old_value_base64: Option<String>,
    #[serde(default)]
    new_value: Given,
    #[serde(default)]
    new_value_base64: Option<String>,
}

#[derive(Serialize)]
struct Swapped {
    swapped: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    current: Option<Shown>,
}

/// `POST kv:compareAndSwap`: writes `newValue` if the key's value equals `oldValue`; `null` is "no value".
pub(super) async fn compare_and_swap(
    State(api): State<Arc<Api>>,
    Scope(namespace): Scope,
    request: Request,
) -> Result<Response, Problem> {
    let id = request::operation_id(request.headers())?;
    let (asked, _room) = request::document::<CompareAndSwap>(&api.intake, request).await?;
    let swap = Operation::Swap {
        old: request::either_or_none("oldValue", asked.old_value, asked.old_value_base64)?,
        new: request::either_or_none("newValue", asked.new_value, asked.new_value_base64)?,
    };
    let call = Call::of(Key::new(asked.key)?, swap, id);
    match Problem::of(api.router.run_one(namespace.as_ref(), call).await)? {
        Reply::Swapped(version) => {
            let body = Swapped { swapped: true, version: version.as_ref().map(ToString::to_string), current: None };
            Ok(answer::versioned(&body, version.as_ref()))
        }
        Reply::Rejected(current) => {
            // Where there is no room for it, nothing was done: that is so.
            api.outlet.admit(answer::json(&Swapped {
                swapped: false,
                version: None,
                current: current.map(Shown::from),
            }))
        }
        other => Err(answer::mismatched(&other)),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Increment {
    key: String,
    delta: Number,
}

#[derive(Serialize)]
struct Sum {
    value: Number,
    version: String,
}

/// `POST kv:increment`: adds to a number; a key that has no value counts as 0.
pub(super) async fn increment(
    State(api): State<Arc<Api>>,
    Scope(namespace): Scope,
    request: Request,
) -> Result<Response, Problem> {
    let id = request::operation_id(request.headers())?;
    let (asked, _room) = request::document::<Increment>(&api.intake, request).await?;
    let call = Call::of(Key::new(asked.key)?, Operation::Increment { delta: asked.delta }, id);
    match Problem::of(api.router.run_one(namespace.as_ref(), call).await)? {
        Reply::Sum(value, version) => {
            Ok(answer::versioned(&Sum { value, version: version.to_string() }, Some(&version)))
        }
        other => Err(answer::mismatched(&other)),
    }
}

/// The condition in `If-Match` or `If-None-Match`.
fn condition(headers: &HeaderMap) -> Result<Condition, Problem> {
    let one = |name: header::HeaderName| {
        let mut values = headers.get_all(&name).iter();
        match (values.next(), values.next()) {
            (None, _) => Ok(None),
            (Some(value), None) => match value.to_str() {
                Ok(text) => Ok(Some(text.trim().to_owned())),
                Err(_) => Err(Problem::invalid(name.as_str(), "is no text")),
            },
            (Some(_), Some(_)) => Err(Problem::invalid(name.as_str(), "is given twice")),
        }
    };
    match (one(header::IF_MATCH)?, one(header::IF_NONE_MATCH)?) {
        (None, None) => Ok(Condition::Any),
        (Some(etag), None) => version(&etag).map(Condition::Version),
        (None, Some(star)) if star == "*" => Ok(Condition::Absent),
        (None, Some(_)) => Err(Problem::invalid("If-None-Match", "only * is taken: the key must have no value")),
        (Some(_), Some(_)) => Err(Problem::invalid("If-Match", "can't be combined with If-None-Match")),
    }
}

/// The version in an ETag.
fn version(etag: &str) -> Result<Version, Problem> {
    let bad =
        || Problem::invalid("If-Match", format!("{etag:?} is not one ETag of an earlier answer, such as \"1-a2b\""));
    let text = etag.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).ok_or_else(bad)?;
    Version::from_str(text).map_err(|_| bad())
}
