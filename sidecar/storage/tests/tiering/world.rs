//! A store over two tiers that are in the test's hands.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use brainy_storage::backends::memory::MemoryAdapter;
use brainy_storage::layers::batching::Sole;
use brainy_storage::layers::tiering::{Cold, Fullness, Tiering, TieringState, Tiers};
use brainy_storage::{Entry, Outcome, StorageAdapter, Value};

pub(crate) use super::days::{key, number};

use super::bucket::FarBucket;
use super::tier::Tier;

/// Nothing here waits for this long, unless it waits for ever.
const LONG: Duration = Duration::from_secs(300);

/// Waits for something to come true. Turns are given, and time passes where nothing else is to be done.
pub(crate) async fn until(what: &str, is_true: impl AsyncFn() -> bool) {
    let wait = async {
        while !is_true().await {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    assert!(tokio::time::timeout(LONG, wait).await.is_ok(), "it never comes true: {what}");
}

/// A process with one store.
pub(crate) struct World {
    pub(crate) hot: Tier,
    pub(crate) cold: Tier,
    /// What the tiers keep, whatever becomes of the process.
    pub(crate) disk: Arc<dyn StorageAdapter>,
    pub(crate) bucket: Arc<dyn StorageAdapter>,
    pub(crate) clock: Arc<AtomicU64>,
    pub(crate) fullness: Arc<Mutex<Option<Fullness>>>,
    pub(crate) settings: Tiering,
    pub(crate) tiers: Tiers,
    pub(crate) store: Arc<dyn StorageAdapter>,
}

impl World {
    pub(crate) fn new(settings: Tiering) -> Self {
        Self::on(Arc::new(MemoryAdapter::new()), FarBucket::calm().open(), settings)
    }

    pub(crate) fn on(disk: Arc<dyn StorageAdapter>, bucket: Arc<dyn StorageAdapter>, settings: Tiering) -> Self {
        Self::at(disk, bucket, settings, Arc::new(AtomicU64::new(1_790_000_000_000)))
    }

    fn at(
        disk: Arc<dyn StorageAdapter>,
        bucket: Arc<dyn StorageAdapter>,
        settings: Tiering,
        clock: Arc<AtomicU64>,
    ) -> Self {
        let (hot, cold) = (Tier::over(&disk), Tier::over(&bucket));
        let fullness: Arc<Mutex<Option<Fullness>>> = Arc::default();
        let (time, gauge) = (Arc::clone(&clock), Arc::clone(&fullness));
        let tiers = Tiers::new(settings)
            .with_clock(Arc::new(move || time.load(Ordering::SeqCst)))
            .with_gauge(Arc::new(move || *gauge.lock().unwrap()));
        let tier = Cold { store: cold.open(), longest_path: 300 };
        let store = tiers.over(hot.open(), tier, Arc::new(Sole));
        Self { hot, cold, disk, bucket, clock, fullness, settings, tiers, store }
    }

    /// The process dies, and another one begins with what is on the disk.
    pub(crate) fn restart(self) -> Self {
        self.die();
        Self::at(self.disk, self.bucket, self.settings, self.clock)
    }

    /// Another process gets the store; this one lives on.
    pub(crate) fn successor(&self) -> Self {
        Self::at(self.disk.clone(), self.bucket.clone(), self.settings, self.clock.clone())
    }

    /// The process dies with its disk.
    pub(crate) fn lose_the_disk(self) -> Self {
        self.die();
        self.clock.fetch_add(1_000_000, Ordering::SeqCst);
        Self::at(Arc::new(MemoryAdapter::new()), self.bucket, self.settings, self.clock)
    }

    pub(crate) fn die(&self) {
        self.hot.fate.dead.send_replace(true);
        self.cold.fate.dead.send_replace(true);
    }

    pub(crate) fn state(&self) -> TieringState {
        self.tiers.state()
    }

    pub(crate) async fn drained(&self) {
        until("all is in the cold tier", async || {
            let lag = self.state().lag;
            lag.complete && lag.keys == 0
        })
        .await;
    }

    /// A run of demotions of what was not read for so long, and its end.
    pub(crate) async fn run(&self, unread_for_ms: u64) {
        self.tiers.run(Some(unread_for_ms));
        until("the run ends", async || !self.state().run.running).await;
    }

    /// Brings everything to the cold tier, and leaves it there alone.
    pub(crate) async fn demote_all(&self) {
        self.drained().await;
        self.run(0).await;
        assert_eq!(self.state().hot.keys, 0, "{:?}", self.state());
    }

    pub(crate) async fn set(&self, name: &str, value: Value) {
        let outcome = self.store.set(&key(name), value).await.unwrap();
        assert!(matches!(outcome, Outcome::Applied(_)), "{outcome:?}");
    }

    pub(crate) async fn delete(&self, name: &str) {
        let outcome = self.store.delete(&key(name)).await.unwrap();
        assert!(matches!(outcome, Outcome::Applied(_)), "{outcome:?}");
    }

    pub(crate) async fn get(&self, name: &str) -> Option<Value> {
        self.entry(name).await.map(|entry| entry.value)
    }

    pub(crate) async fn entry(&self, name: &str) -> Option<Entry> {
        self.store.get(&key(name)).await.unwrap()
    }

    /// What the cold tier has of a key, as this process's successor would find it without the disk.
    pub(crate) async fn in_the_cold_tier(&self, name: &str) -> Option<Value> {
        let other = Self::on(Arc::new(MemoryAdapter::new()), Arc::clone(&self.bucket), Tiering::default());
        other.get(name).await
    }

    pub(crate) async fn is_hot(&self, name: &str) -> bool {
        let records = self.disk.with_namespace(&brainy_storage::Namespace::new("d").unwrap());
        records.get(&key(name)).await.unwrap().is_some()
    }

    pub(crate) async fn list(&self) -> Vec<String> {
        let page = self.store.list("", None, 1000).await.unwrap();
        page.keys.iter().map(ToString::to_string).collect()
    }
}
