//! Learns of new shard maps, from wherever they are published. The newest by (epoch, revision) counts; this node never
//! goes back to an older one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use brainy_coordination::{ShardMap, names};
use brainy_kubernetes::map_watch::MapWatch;
use brainy_storage::documents::Documents;
use tokio::sync::{Mutex, watch};

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
    /// Counts the times from whose beginning on a map must have been read where it is published: that of the process, and of
    /// each of its lives.
    time: AtomicU64,
    /// In which it was, last.
    read_in: AtomicU64,
    /// One read at a time for all who wait for it.
    reading: Mutex<()>,
}

impl Maps {
    pub(super) fn new(table: Arc<Table>, documents: Arc<dyn Documents>, cluster: String) -> Self {
        Self {
            table,
            documents,
            cluster,
            newest: watch::Sender::new(None),
            time: AtomicU64::new(1),
            read_in: AtomicU64::new(0),
            reading: Mutex::default(),
        }
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

    /// A life has begun: what was read before may be older than what others did while there was none.
    pub(super) fn begin_time(&self) {
        self.time.fetch_add(1, Ordering::SeqCst);
    }

    /// Whether the newest map seen is at least as new as this process and its present life: those of a watch may come from
    /// before, one that was read where it is published does not. Reads it, if that was not done since.
    pub(super) async fn are_of_our_time(&self) -> bool {
        let is_read = || self.read_in.load(Ordering::SeqCst) >= self.time.load(Ordering::SeqCst);
        if is_read() {
            return true;
        }
        let _one = self.reading.lock().await;
        is_read() || self.read().await
    }

    /// Reads the published map now. False: it can't be read.
    pub(super) async fn read(&self) -> bool {
        let time = self.time.load(Ordering::SeqCst);
        match read_document(&*self.documents, names::SHARD_MAP, CALL_LIMIT).await {
            Ok(found) => {
                found.into_iter().for_each(|(map, _)| self.offer(map));
                self.read_in.fetch_max(time, Ordering::SeqCst);
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

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use brainy_coordination::{Epoch, NodeId};
    use brainy_storage::backends::memory::MemoryDocuments;
    use brainy_storage::documents::Swap;
    use brainy_storage::layers::LayerStack;

    use super::*;

    fn map(revision: u64) -> ShardMap {
        ShardMap {
            revision,
            epoch: Epoch(1),
            writer: "w".into(),
            cluster: "uid".into(),
            nodes: Vec::new(),
            owners: vec![None],
            tokens: Vec::new(),
            moves: BTreeMap::new(),
            wished: BTreeMap::new(),
            given_up: BTreeSet::new(),
        }
    }

    async fn publish(documents: &MemoryDocuments, revision: u64) {
        let found = documents.read(names::SHARD_MAP).await.unwrap().map(|found| found.version);
        let body = serde_json::to_vec(&map(revision)).unwrap();
        let swap = documents.swap(names::SHARD_MAP, found.as_ref(), body.into()).await.unwrap();
        assert!(matches!(swap, Swap::Applied(_)));
    }

    #[tokio::test]
    async fn what_a_watch_shows_is_of_our_time_only_once_the_map_was_read_in_it() {
        let documents = MemoryDocuments::new();
        let table = Table::new(NodeId("a".into()), 1, LayerStack::default());
        let maps = Maps::new(table, Arc::new(documents.clone()), "uid".into());
        let revision = || maps.newest().map(|map| map.revision);
        publish(&documents, 5).await;
        maps.offer(map(3));
        assert!(maps.are_of_our_time().await);
        assert_eq!(revision(), Some(5), "a watch may show what was before this process");

        publish(&documents, 6).await;
        assert!(maps.are_of_our_time().await);
        assert_eq!(revision(), Some(5), "once is enough in one life");
        maps.begin_time();
        assert!(maps.are_of_our_time().await);
        assert_eq!(revision(), Some(6), "another life reads it anew");
    }
}
