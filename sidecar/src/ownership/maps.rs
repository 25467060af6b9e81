//! Learns of new shard maps, from wherever they are published. The newest by (epoch, revision) counts; this node never
//! goes back to an older one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use brainy_coordination::{ShardMap, names};
use brainy_kubernetes::map_watch::MapWatch;
use brainy_storage::documents::Documents;
use tokio::sync::watch;

use super::in_words;
use super::session::read_document;
use super::table::Table;

/// Longest wait for one read.
const CALL_LIMIT: Duration = Duration::from_secs(10);
/// Shortest time between two reads that a doubt causes.
const DOUBT_PAUSE: Duration = Duration::from_millis(100);

/// Where maps are seen beside the documents.
#[async_trait]
pub(super) trait MapSource: Send + Sync + 'static {
    /// Runs until dropped. `tell` gets each map as it is seen: maybe one twice, an older one after a newer, not every one.
    async fn run(self: Arc<Self>, tell: Box<dyn FnMut(ShardMap) + Send>);
}

#[async_trait]
impl MapSource for MapWatch {
    async fn run(self: Arc<Self>, tell: Box<dyn FnMut(ShardMap) + Send>) {
        MapWatch::clone(&self).run(tell).await;
    }
}

/// The newest map this node has seen.
pub(super) struct Maps {
    table: Arc<Table>,
    documents: Arc<dyn Documents>,
    cluster: String,
    newest: watch::Sender<Option<Arc<ShardMap>>>,
    /// It was read where it is published.
    was_read: AtomicBool,
}

impl Maps {
    pub(super) fn new(table: Arc<Table>, documents: Arc<dyn Documents>, cluster: String) -> Self {
        Self { table, documents, cluster, newest: watch::Sender::new(None), was_read: AtomicBool::new(false) }
    }

    pub(super) fn newest(&self) -> Option<Arc<ShardMap>> {
        self.newest.borrow().clone()
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Option<Arc<ShardMap>>> {
        self.newest.subscribe()
    }

    /// Takes a map that was seen somewhere, if it is newer and this cluster's.
    pub(super) fn offer(&self, map: ShardMap) {
        if map.cluster != self.cluster || map.shards() != self.table.shards() {
            tracing::debug!(
                cluster = map.cluster,
                shards = map.shards(),
                "a map that is not this cluster's is left alone"
            );
            return;
        }
        let at = |map: &ShardMap| (map.epoch, map.revision);
        self.newest.send_if_modified(|newest| {
            let newer = newest.as_ref().is_none_or(|newest| at(newest) < at(&map));
            if newer {
                tracing::info!(revision = map.revision, epoch = map.epoch.0, "a new shard map");
                let map = Arc::new(map);
                self.table.learn_map(Arc::clone(&map));
                *newest = Some(map);
            }
            newer
        });
    }

    /// Whether the newest map seen is at least as new as this process: those of a watch may come from before it started, one
    /// that was read where it is published does not. Reads it, if that was never done.
    pub(super) async fn are_of_our_time(&self) -> bool {
        self.was_read.load(Ordering::SeqCst) || self.read().await
    }

    /// Reads the published map now. False: it can't be read.
    pub(super) async fn read(&self) -> bool {
        match read_document(&*self.documents, names::SHARD_MAP, CALL_LIMIT).await {
            Ok(found) => {
                found.into_iter().for_each(|(map, _)| self.offer(map));
                self.was_read.store(true, Ordering::SeqCst);
                true
            }
            Err(error) => {
                tracing::warn!(why = in_words(&error), "the shard map can't be read");
                false
            }
        }
    }

    /// Reads it after each `pause`, when another node says that it is new, and when something this node believes has proved
    /// wrong.
    pub(super) async fn run(self: Arc<Self>, pause: impl Fn() -> Duration + Send) {
        let (mut doubts, mut nudges) = (self.table.doubts(), self.table.nudges());
        loop {
            // Before the read: what is said during it is looked into again.
            nudges.mark_unchanged();
            self.read().await;
            tokio::select! {
                biased;
                () = tokio::time::sleep(pause()) => {}
                _ = nudges.changed() => {}
                _ = doubts.changed() => tokio::time::sleep(DOUBT_PAUSE).await,
            }
        }
    }
}
