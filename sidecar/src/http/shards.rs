//! Who serves which shard: `/v1/shards`, `/v1/shards/{shard}`, and `/v1/shards:watch` as it changes.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use brainy_coordination::ShardId;
use futures::stream;
use serde::Serialize;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use super::problem::{Kind, Problem};
use super::server::Stop;
use super::{Api, answer};
use crate::ownership::{Ownership, ShardView};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Shards {
    node: String,
    shards: u32,
    map_revision: u64,
    items: Vec<ShardView>,
}

/// `GET shards`: all shards as this node knows them.
pub(super) async fn all(State(api): State<Arc<Api>>) -> Response {
    let ownership = &api.ownership;
    answer::json(&Shards {
        node: ownership.node().to_string(),
        shards: ownership.shards(),
        map_revision: ownership.status().map_revision,
        items: (0..ownership.shards()).map(|shard| ownership.describe(ShardId(shard))).collect(),
    })
}

/// `GET shards/{shard}`: one shard.
pub(super) async fn one(State(api): State<Arc<Api>>, Path(shard): Path<String>) -> Result<Response, Problem> {
    let shards = api.ownership.shards();
    match shard.parse() {
        Ok(number) if number < shards => Ok(answer::json(&api.ownership.describe(ShardId(number)))),
        _ => Err(Problem::new(
            Kind::NotFound,
            format!("there is no shard {shard:?}: they are numbered 0 to {}", shards - 1),
        )),
    }
}

/// What a watcher is still to be told.
struct Watcher {
    ownership: Ownership,
    changes: broadcast::Receiver<ShardView>,
    backlog: VecDeque<ShardId>,
    stop: Stop,
}

impl Watcher {
    fn new(ownership: Ownership, stop: Stop) -> Self {
        // Subscribed before the first look, so that no change falls between.
        let changes = ownership.watch();
        let mut watcher = Self { ownership, changes, backlog: VecDeque::new(), stop };
        watcher.tell_all();
        watcher
    }

    fn tell_all(&mut self) {
        self.backlog = (0..self.ownership.shards()).map(ShardId).collect();
    }

    /// The next view; `None` when the sidecar stops.
    async fn next(&mut self) -> Option<ShardView> {
        loop {
            if self.stop.raised() {
                return None;
            }
            if let Some(shard) = self.backlog.pop_front() {
                return Some(self.ownership.describe(shard));
            }
            tokio::select! {
                change = self.changes.recv() => match change {
                    Ok(view) => return Some(view),
                    // It missed some: it is told everything anew.
                    Err(RecvError::Lagged(_)) => self.tell_all(),
                    Err(RecvError::Closed) => return None,
                },
                () = self.stop.wait() => return None,
            }
        }
    }
}

/// `GET shards:watch`: server-sent events named `shard`: first one for each shard, then one for each change.
pub(super) async fn watch(State(api): State<Arc<Api>>) -> Response {
    let watcher = Watcher::new(api.ownership.clone(), api.stop.clone());
    let events = stream::unfold(watcher, |mut watcher| async move {
        let view = watcher.next().await?;
        let data = serde_json::to_string(&view).unwrap_or_default();
        Some((Ok::<_, Infallible>(Event::default().event("shard").data(data)), watcher))
    });
    Sse::new(events).keep_alive(KeepAlive::default()).into_response()
}
