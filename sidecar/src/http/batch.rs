//! Many keys at once: `kv:getBatch` and `kv:setBatch`. Not atomic as a whole; each item has its own outcome.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use brainy_storage::{Condition, Key, Namespace};
use serde::{Deserialize, Serialize};

use super::answer::{self, Shown};
use super::memory::Room;
use super::problem::Problem;
use super::request::{self, Given, Scope};
use super::{Api, outlet};
use crate::metrics::OutcomeLabel;
use crate::routing::budget::{self, MAX_ANSWER_BYTES};
use crate::routing::{Call, Reply};

/// Bytes of a value for which room is set aside before anything is known of it.
const USUAL_VALUE: u64 = 8 * 1024;
/// Bytes of memory for each of a value while its answer is made: itself, as base64, and as a part of the text.
const COPIES: u64 = 4;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GetBatch {
    keys: Vec<String>,
}

#[derive(Serialize)]
struct Items<T> {
    items: Vec<T>,
}

#[derive(Serialize)]
struct Got {
    key: String,
    /// Absent where it can't be told: see `problem`.
    #[serde(skip_serializing_if = "Option::is_none")]
    found: Option<bool>,
    #[serde(flatten)]
    shown: Shown,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<serde_json::Value>,
}

/// `POST kv:getBatch`: the values of many keys, in the order asked.
pub(super) async fn get_batch(
    State(api): State<Arc<Api>>,
    Scope(namespace): Scope,
    request: Request,
) -> Result<Response, Problem> {
    let (asked, _room) = request::document::<GetBatch>(&api.intake, request).await?;
    request::batch_size("keys", asked.keys.len())?;
    let mut calls = Vec::with_capacity(asked.keys.len());
    for (index, text) in asked.keys.iter().enumerate() {
        let key = Key::new(text.clone()).map_err(|error| Problem::invalid(format!("keys[{index}]"), reason(&error)))?;
        calls.push(Call::Get { key });
    }
    let (replies, room) = read(&api, namespace.as_ref(), calls).await?;
    let mut worst = OutcomeLabel::Success;
    let mut items = Vec::with_capacity(replies.len());
    for (key, reply) in asked.keys.into_iter().zip(replies) {
        let (found, shown, problem) = match Problem::of(reply) {
            Ok(Reply::Found(Some(entry))) => {
                let problem = answer::in_parts(&entry);
                (Some(true), Shown::from(entry), problem)
            }
            Ok(Reply::Found(None)) => (Some(false), Shown::default(), None),
            Ok(other) => (None, Shown::default(), Some(answer::mismatched(&other))),
            Err(problem) => (None, Shown::default(), Some(problem)),
        };
        if problem.is_some() {
            worst = OutcomeLabel::Failed;
        }
        items.push(Got { key, found, shown, problem: problem.as_ref().map(Problem::document) });
    }
    Ok(outlet::fit(labelled(answer::json(&Items { items }), worst), room))
}

/// Reads with little room, which is enough for most batches; where it is not, once more with all that an answer may take.
async fn read(api: &Api, namespace: Option<&Namespace>, calls: Vec<Call>) -> Result<(Vec<Reply>, Room), Problem> {
    let little = (calls.len() as u64 * USUAL_VALUE).min(MAX_ANSWER_BYTES);
    let room = api.outlet.reserve(little * COPIES).await?;
    let replies = api.router.read(namespace, calls.clone(), little).await;
    if little == MAX_ANSWER_BYTES || !replies.contains(&budget::too_large()) {
        return Ok((replies, room));
    }
    drop((replies, room));
    let room = api.outlet.reserve(MAX_ANSWER_BYTES * COPIES).await?;
    Ok((api.router.run(namespace, calls).await, room))
}

fn reason(error: &brainy_storage::Error) -> String {
    match error {
        brainy_storage::Error::Invalid { problem, .. } => problem.clone(),
        other => other.to_string(),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SetBatch {
    items: Vec<SetItem>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SetItem {
    key: String,
    #[serde(default)]
    value: Given,
    #[serde(default)]
    value_base64: Option<String>,
}

#[derive(Serialize)]
struct Set {
    key: String,
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<serde_json::Value>,
}

/// `POST kv:setBatch`: writes many values, each with its own outcome, in the order given. A malformed item refuses the
/// whole batch before any of it is written.
pub(super) async fn set_batch(
    State(api): State<Arc<Api>>,
    Scope(namespace): Scope,
    request: Request,
) -> Result<Response, Problem> {
    request::without_operation_id(request.headers(), "send its items one by one, or all of them again")?;
    let (asked, rooms) = request::document::<SetBatch>(&api.intake, request).await?;
    request::batch_size("items", asked.items.len())?;
    let mut calls = Vec::with_capacity(asked.items.len());
    for (index, item) in asked.items.into_iter().enumerate() {
        calls.push(put(item).map_err(|problem| problem.in_item("items", index))?);
    }
    let keys: Vec<String> = calls.iter().map(|call| call.key().to_string()).collect();
    let replies = api.router.run(namespace.as_ref(), calls).await;
    let mut worst = OutcomeLabel::Success;
    let mut items = Vec::with_capacity(replies.len());
    for (key, reply) in keys.into_iter().zip(replies) {
        let problem = match Problem::of(reply) {
            Ok(Reply::Written(version)) => {
                items.push(Set { key, outcome: "applied", version: Some(version.to_string()), problem: None });
                continue;
            }
            Ok(other) => answer::mismatched(&other),
            Err(problem) => problem,
        };
        let unknown = problem.kind().outcome_unknown();
        worst = worst.max(if unknown { OutcomeLabel::Unknown } else { OutcomeLabel::Failed });
        let outcome = if unknown { "unknown" } else { "failed" };
        items.push(Set { key, outcome, version: None, problem: Some(problem.document()) });
    }
    // What was written must be told, so that no room can be asked for now; the answer takes less than the request did.
    Ok(outlet::keep(labelled(answer::json(&Items { items }), worst), rooms))
}

fn put(item: SetItem) -> Result<Call, Problem> {
    let value = request::either("value", item.value, item.value_base64)?;
    Ok(Call::Put { key: Key::new(item.key)?, value, condition: Condition::Any })
}

/// The answer as a whole counts as its worst item.
fn labelled(mut response: Response, worst: OutcomeLabel) -> Response {
    response.extensions_mut().insert(worst);
    response
}
