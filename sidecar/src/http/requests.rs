//! What this node asks of whoever controls placement: `/v1/shards:acquire`, `:release`, `:withdraw`, `/v1/node:drain`,
//! `:undrain`; and `/v1/node`, which shows it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use brainy_coordination::ShardId;
use brainy_coordination::session::Requests;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::locks::{MOST_WAIT, seconds};
use super::problem::{Kind, Problem};
use super::{Api, answer, request};
use crate::ownership::AskError;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct OfShards {
    shards: BTreeSet<u32>,
    #[serde(default)]
    wait_seconds: f64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Withdrawn {
    shards: BTreeSet<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct OfNode {
    #[serde(default)]
    wait_seconds: f64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

#[derive(Serialize)]
struct Asked {
    /// It is as it was asked for. Otherwise the wish stands.
    fulfilled: bool,
    /// What it waits for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    waiting: Vec<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Node {
    node: String,
    ready: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
    held: usize,
    assigned: usize,
    map_revision: u64,
    draining: bool,
    acquire: BTreeSet<ShardId>,
    release: BTreeSet<ShardId>,
}

/// `GET node`: this node, with what it asks for.
pub(super) async fn node(State(api): State<Arc<Api>>) -> Response {
    let (status, asked) = (api.ownership.status(), api.ownership.requests());
    answer::json(&Node {
        node: api.ownership.node().to_string(),
        ready: status.ready,
        problem: status.problem,
        held: status.held,
        assigned: status.assigned,
        map_revision: status.map_revision,
        draining: asked.drain,
        acquire: asked.acquire,
        release: asked.release,
    })
}

/// `POST shards:acquire`: this node wishes to own these shards.
pub(super) async fn acquire(State(api): State<Arc<Api>>, request: Request) -> Result<Response, Problem> {
    let (asked, _room) = request::document::<OfShards>(&api.intake, request).await?;
    of_shards(&api, asked, Requests::acquire).await
}

/// `POST shards:release`: this node wishes not to own these shards.
pub(super) async fn release(State(api): State<Arc<Api>>, request: Request) -> Result<Response, Problem> {
    let (asked, _room) = request::document::<OfShards>(&api.intake, request).await?;
    of_shards(&api, asked, Requests::release).await
}

async fn of_shards(api: &Api, asked: OfShards, wish: fn(&mut Requests, ShardId)) -> Result<Response, Problem> {
    let shards = known(api, asked.shards)?;
    let wait = seconds("waitSeconds", asked.wait_seconds, (0.0, MOST_WAIT))?;
    api.ownership.ask(|requests| shards.iter().for_each(|shard| wish(requests, *shard)))?;
    Ok(come_about(api, wait, || shards.iter().filter_map(|shard| api.ownership.awaited(*shard)).collect()).await)
}

/// `POST shards:withdraw`: it takes back what it wished of these shards.
pub(super) async fn withdraw(State(api): State<Arc<Api>>, request: Request) -> Result<Response, Problem> {
    let (asked, _room) = request::document::<Withdrawn>(&api.intake, request).await?;
    let shards = known(&api, asked.shards)?;
    api.ownership.ask(|requests| shards.iter().for_each(|shard| requests.withdraw(*shard)))?;
    Ok(fulfilled())
}

/// `POST node:drain`: it wishes to own none.
pub(super) async fn drain(State(api): State<Arc<Api>>, request: Request) -> Result<Response, Problem> {
    let (asked, _room) = request::document::<OfNode>(&api.intake, request).await?;
    let wait = seconds("waitSeconds", asked.wait_seconds, (0.0, MOST_WAIT))?;
    api.ownership.ask(|requests| requests.drain = true)?;
    Ok(come_about(&api, wait, || api.ownership.left_to_drain().into_iter().collect()).await)
}

/// `POST node:undrain`: it takes shards again.
pub(super) async fn undrain(State(api): State<Arc<Api>>, request: Request) -> Result<Response, Problem> {
    let (Nothing {}, _room) = request::document(&api.intake, request).await?;
    api.ownership.ask(|requests| requests.drain = false)?;
    Ok(fulfilled())
}

fn known(api: &Api, shards: BTreeSet<u32>) -> Result<BTreeSet<ShardId>, Problem> {
    let number = api.ownership.shards();
    match shards.last() {
        None => Err(Problem::invalid("shards", "is empty: name the shards by their numbers")),
        Some(last) if *last >= number => {
            Err(Problem::invalid("shards", format!("there is no shard {last}: they are numbered 0 to {}", number - 1)))
        }
        Some(_) => Ok(shards.into_iter().map(ShardId).collect()),
    }
}

/// Waits until a wish has nothing more to wait for: 200; or as long as was asked for: 202, and the wish stands.
async fn come_about(api: &Api, wait: Duration, awaited: impl Fn() -> Vec<String>) -> Response {
    let (by, mut stop) = (Instant::now() + wait, api.stop.clone());
    loop {
        // Before the look: no change is missed.
        let changed = api.ownership.changed();
        let waiting = awaited();
        if waiting.is_empty() {
            return fulfilled();
        }
        let is_over = tokio::select! {
            biased;
            () = tokio::time::sleep_until(by) => true,
            () = stop.wait() => true,
            () = changed => false,
        };
        if is_over {
            let mut response = answer::json(&Asked { fulfilled: false, waiting });
            *response.status_mut() = StatusCode::ACCEPTED;
            return response;
        }
    }
}

fn fulfilled() -> Response {
    answer::json(&Asked { fulfilled: true, waiting: Vec::new() })
}

impl From<AskError> for Problem {
    fn from(error: AskError) -> Self {
        match error {
            AskError::NoCluster => Self::new(Kind::NoCluster, error.to_string()),
            AskError::TooMany => Self::invalid("shards", error),
        }
    }
}
