//! Tells of each change of a cluster's shard map in its ConfigMap. Every call ends by itself, and a read between two
//! watches finds what a watch has missed.

use std::time::Duration;

use brainy_coordination::ShardMap;
use futures::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{WatchEvent, WatchParams};
use kube::{Api, Client};

use crate::names;

/// How long the API server keeps one watch open, in seconds.
const WATCH_SECONDS: u32 = 240;
/// Longest wait for an answer, or for the first word of a watch.
const CALL_LIMIT: Duration = Duration::from_secs(10);
/// Longest silence on a watch: the server ends it earlier.
const SILENCE_LIMIT: Duration = Duration::from_secs(270);
/// Pauses after failures: doubled from the first to the last.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));

/// Watches one ConfigMap.
#[derive(Clone)]
pub struct MapWatch {
    config_maps: Api<ConfigMap>,
    name: String,
}

impl std::fmt::Debug for MapWatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MapWatch").field("name", &self.name).finish_non_exhaustive()
    }
}

impl MapWatch {
    /// The map of `cluster` in `namespace`, through a [`watching`](crate::client::watching) client.
    pub fn new(client: Client, namespace: &str, cluster: &str) -> Self {
        Self { config_maps: Api::namespaced(client, namespace), name: names::shard_map(cluster) }
    }

    /// Runs until dropped. `tell` gets each map as it is seen: maybe one twice, maybe not every one.
    pub async fn run(self, mut tell: impl FnMut(ShardMap) + Send) {
        let mut pause = PAUSES.0;
        loop {
            match self.follow(&mut tell).await {
                Ok(()) => pause = PAUSES.0,
                Err(why) => {
                    tracing::warn!(config_map = self.name, %why, "can't watch the shard map");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSES.1);
                }
            }
        }
    }

    /// Reads the ConfigMap and follows its changes until the server ends the watch.
    async fn follow(&self, tell: &mut (impl FnMut(ShardMap) + Send)) -> Result<(), String> {
        let found =
            within(CALL_LIMIT, self.config_maps.get_opt(&self.name)).await?.map_err(|error| error.to_string())?;
        let version = found.as_ref().and_then(|found| found.metadata.resource_version.clone());
        if let Some(found) = &found {
            offer(found, tell);
        }
        let only_it = WatchParams::default().fields(&format!("metadata.name={}", self.name)).timeout(WATCH_SECONDS);
        // Without the object a watch from "0" begins with what comes to be.
        let watch = self.config_maps.watch(&only_it, version.as_deref().unwrap_or("0"));
        let mut events = within(CALL_LIMIT, watch).await?.map_err(|error| error.to_string())?.boxed();
        while let Some(event) = within(SILENCE_LIMIT, events.next()).await? {
            match event.map_err(|error| error.to_string())? {
                WatchEvent::Added(found) | WatchEvent::Modified(found) => offer(&found, tell),
                WatchEvent::Deleted(_) | WatchEvent::Bookmark(_) => {}
                WatchEvent::Error(status) => return Err(status.to_string()),
            }
        }
        Ok(())
    }
}

async fn within<T>(limit: Duration, call: impl Future<Output = T>) -> Result<T, String> {
    tokio::time::timeout(limit, call).await.map_err(|_| format!("no answer within {limit:?}"))
}

fn offer(found: &ConfigMap, tell: &mut impl FnMut(ShardMap)) {
    let Some(text) = found.data.as_ref().and_then(|data| data.get(names::SHARD_MAP_KEY)) else {
        return;
    };
    match serde_json::from_str(text) {
        Ok(map) => tell(map),
        Err(error) => tracing::warn!(%error, "the shard map in the ConfigMap is damaged"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use http::{Request, Response, StatusCode};
    use kube::client::Body;
    use serde_json::{Value, json};

    use super::*;

    fn config_map(revision: u64) -> Value {
        let map = json!({
            "revision": revision, "epoch": 1, "writer": "w", "cluster": "uid", "nodes": [], "owners": [null],
        });
        json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "demo-shard-map", "resourceVersion": revision.to_string()},
            "data": {"shard-map.json": map.to_string()},
        })
    }

    /// An API server whose map is one revision further at each read, and another one at the watch that follows; the
    /// watch ends after that. The first read fails.
    fn api(reads: Arc<AtomicU64>) -> Client {
        let service = tower::service_fn(move |request: Request<Body>| {
            let watch = request.uri().query().is_some_and(|query| query.contains("watch=true"));
            let read = if watch { reads.load(Ordering::SeqCst) } else { reads.fetch_add(1, Ordering::SeqCst) + 1 };
            let (status, body) = match (watch, read) {
                (false, 1) => (StatusCode::INTERNAL_SERVER_ERROR, json!({"status": "Failure", "code": 500})),
                (false, _) => (StatusCode::OK, config_map(read * 10)),
                (true, _) => (StatusCode::OK, json!({"type": "MODIFIED", "object": config_map(read * 10 + 1)})),
            };
            let response = Response::builder().status(status).body(Body::from(format!("{body}\n").into_bytes()));
            async move { Ok::<_, std::convert::Infallible>(response.expect("a response")) }
        });
        Client::new(service, "ns")
    }

    #[tokio::test]
    async fn maps_are_seen_by_read_and_by_watch_and_after_failures_and_ends_of_watches() {
        let (sender, mut seen) = tokio::sync::mpsc::unbounded_channel();
        let watch = MapWatch::new(api(Arc::default()), "ns", "demo");
        let running = tokio::spawn(watch.run(move |map| sender.send(map.revision).expect("the test listens")));
        for revision in [20, 21, 30, 31] {
            assert_eq!(seen.recv().await, Some(revision));
        }
        running.abort();
    }
}
