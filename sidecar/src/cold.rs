//! The bucket of the cold tier: opened and put to the test in the background, as often as it takes, and again every hour.
//! Until it has passed nothing is written to it or read from it, and the hot tier serves alone.
//!
//! ```text
//! <prefix>/cold/shards/NNN/      the cold tier of each shard
//! <prefix>/cold/cluster.json     whose it is
//! ```

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use brainy_storage::backends::disk::Disk;
use brainy_storage::backends::s3::{S3Settings, S3Store};
use brainy_storage::documents::{Documents, Swap};
use brainy_storage::layers::compression::Compression;
use brainy_storage::layers::observing::Observing;
use brainy_storage::layers::tiering::{Cold, ColdStores, Fullness, Gauge};
use brainy_storage::{
    Condition, Done, Entry, Error, Key, Namespace, Operation, OperationId, Page, Requests, StorageAdapter, Value,
    Version, WriteResult, chance,
};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::host;

/// Folder of the shards' cold tiers.
const SHARDS: &str = "cold/shards";
/// Says whose they are.
const OWNER: &str = "cold/cluster.json";
/// Longest name of an object, in bytes, of which the bucket's prefix takes a part.
const LONGEST_NAME: usize = 1024;
/// Between two proofs. One is a few hundred small requests.
const PROVE_EVERY: Duration = Duration::from_secs(3600);
/// Pauses before a bucket is tried again that has not passed: doubled from the first to the last.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// Time between looks how full the disk of the hot tier is.
const DISK_LOOKS: Duration = Duration::from_secs(5);

/// Whose cold tier is below a prefix.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Owner {
    /// UID of the BrainyCluster, or the mark of a data folder.
    pub uid: String,
    /// How many shards its data is spread over.
    pub shards: u32,
}

/// Whether the bucket may be used.
#[derive(Clone, Debug)]
enum Access {
    /// Not yet, or not any more: why.
    Closed(String),
    Open(S3Store),
}

/// The bucket. Clones share it.
#[derive(Clone)]
pub struct ColdBucket(Arc<Inner>);

struct Inner {
    settings: S3Settings,
    owner: Owner,
    compression: Option<Compression>,
    observing: Observing,
    access: watch::Sender<Access>,
}

impl fmt::Debug for ColdBucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ColdBucket").field("settings", &self.0.settings).finish_non_exhaustive()
    }
}

impl ColdBucket {
    /// Opens the bucket in the background. Within a runtime.
    pub fn start(
        settings: S3Settings,
        owner: Owner,
        compression: Option<Compression>,
        observing: Observing,
    ) -> Arc<Self> {
        let access = watch::Sender::new(Access::Closed("the bucket of the cold tier was not tested yet".to_owned()));
        let bucket = Self(Arc::new(Inner { settings, owner, compression, observing, access }));
        host::spawn(keep(bucket.clone()));
        Arc::new(bucket)
    }

    /// Why it is not used at the moment.
    pub fn problem(&self) -> Option<String> {
        match &*self.0.access.borrow() {
            Access::Closed(why) => Some(why.clone()),
            Access::Open(_) => None,
        }
    }

    fn set(&self, access: Access) {
        let before = self.problem();
        match (&access, before) {
            (Access::Closed(why), before) if before.as_ref() != Some(why) => {
                tracing::warn!(why, "the cold tier is not used");
            }
            (Access::Open(_), Some(_)) => tracing::info!("the cold tier is used from now on"),
            _ => {}
        }
        self.0.access.send_replace(access);
    }

    fn store(&self) -> Result<S3Store, Error> {
        match &*self.0.access.borrow() {
            Access::Closed(why) => Err(Error::unavailable("ColdTier", why.clone())),
            Access::Open(store) => Ok(store.clone()),
        }
    }
}

/// Opens the bucket, and closes it where it proves not to keep its word.
async fn keep(bucket: ColdBucket) {
    let mut pause = PAUSES.0;
    loop {
        pause = match open(&bucket.0).await {
            Ok(store) => {
                bucket.set(Access::Open(store.clone()));
                let why = lost(&store).await;
                bucket.set(Access::Closed(in_words(&why)));
                PAUSES.0
            }
            Err(error) => {
                bucket.set(Access::Closed(in_words(&error)));
                (pause * 2).min(PAUSES.1)
            }
        };
        tokio::time::sleep(pause).await;
    }
}

async fn open(bucket: &Inner) -> Result<S3Store, Error> {
    let store = S3Store::open(&bucket.settings).await?;
    store.check().await?;
    store.prove().await?;
    must_own(&store.documents(""), &bucket.owner).await?;
    Ok(store)
}

/// Puts the bucket to the test again and again, until it shows that it no longer keeps its word. That it can't be reached
/// proves nothing.
async fn lost(store: &S3Store) -> Error {
    loop {
        // Up to a quarter more or less, so that the nodes of a cluster don't all do it at once.
        tokio::time::sleep(PROVE_EVERY * 3 / 4 + PROVE_EVERY / 2 * chance::below(1024) / 1024).await;
        match store.prove().await {
            Err(error) if matches!(&error, Error::Unavailable { cause, .. } if cause == "UnsafeStore") => return error,
            Err(error) => tracing::warn!(%error, "the bucket of the cold tier could not be put to the test"),
            Ok(_) => {}
        }
    }
}

/// Two owners of one place would mix their data: the first one writes down that it is its own.
async fn must_own(documents: &impl Documents, me: &Owner) -> Result<(), Error> {
    for _ in 0..2 {
        if let Some(found) = documents.read(OWNER).await? {
            let found: Owner = serde_json::from_slice(&found.body)
                .map_err(|error| Error::Corrupt { key: OWNER.to_owned(), problem: error.to_string() })?;
            return if found == *me { Ok(()) } else { Err(anothers(&found)) };
        }
        let body = serde_json::to_vec(me).map_err(|error| Error::invalid("owner", error.to_string()))?;
        match documents.swap(OWNER, None, body.into()).await? {
            Swap::Applied(_) => return Ok(()),
            // Another node was first, or nobody knows: the next look tells.
            Swap::Rejected | Swap::Unknown(_) => {}
        }
    }
    Err(Error::unavailable("Contended", "who owns the cold tier could not be found out"))
}

fn anothers(found: &Owner) -> Error {
    let detail = format!(
        "the bucket and prefix hold the cold tier of {} with {} shards: choose another prefix, or delete what is below \
         {SHARDS}/ and {OWNER} there",
        found.uid, found.shards
    );
    Error::unavailable("AnothersColdTier", detail)
}

fn in_words(error: &Error) -> String {
    match error {
        Error::Unavailable { cause, detail } => format!("{cause}: {detail}"),
        other => other.to_string(),
    }
}

impl ColdStores for ColdBucket {
    fn cold(&self, name: &str) -> Cold {
        let root = format!("{SHARDS}/{name}");
        let taken = self.0.settings.prefix.len() + root.len() + 2;
        let shard = ColdShard { bucket: self.clone(), root, namespaces: Vec::new(), open: OnceLock::new() };
        Cold { store: Arc::new(shard), longest_path: LONGEST_NAME.saturating_sub(taken) }
    }
}

/// The cold tier of a shard, while the bucket may be used.
#[derive(Debug)]
struct ColdShard {
    bucket: ColdBucket,
    root: String,
    namespaces: Vec<Namespace>,
    open: OnceLock<Arc<dyn StorageAdapter>>,
}

impl ColdShard {
    fn tier(&self) -> Result<&Arc<dyn StorageAdapter>, Error> {
        let store = self.bucket.store()?;
        Ok(self.open.get_or_init(|| {
            let shard = Arc::new(store.adapter(&self.root).with_compression(self.bucket.0.compression));
            let shard = self.bucket.0.observing.over(shard);
            self.namespaces.iter().fold(shard, |shard, name| shard.with_namespace(name))
        }))
    }
}

#[async_trait]
impl StorageAdapter for ColdShard {
    async fn get(&self, key: &Key) -> Result<Option<Entry>, Error> {
        self.tier()?.get(key).await
    }

    async fn put(&self, key: &Key, value: Value, condition: &Condition) -> WriteResult<Version> {
        self.tier()?.put(key, value, condition).await
    }

    async fn remove(&self, key: &Key, condition: &Condition) -> WriteResult<bool> {
        self.tier()?.remove(key, condition).await
    }

    async fn list(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Page, Error> {
        self.tier()?.list(prefix, after, limit).await
    }

    async fn perform_once(&self, key: &Key, operation: Operation, id: &OperationId) -> WriteResult<Done> {
        self.tier()?.perform_once(key, operation, id).await
    }

    async fn perform(&self, key: &Key, requests: Requests) -> Vec<WriteResult<Done>> {
        match self.tier() {
            Ok(store) => store.perform(key, requests).await,
            Err(error) => vec![Err(error); requests.len()],
        }
    }

    fn with_namespace(&self, namespace: &Namespace) -> Arc<dyn StorageAdapter> {
        let namespaces = [self.namespaces.as_slice(), std::slice::from_ref(namespace)].concat();
        Arc::new(Self { bucket: self.bucket.clone(), root: self.root.clone(), namespaces, open: OnceLock::new() })
    }

    async fn get_batch(&self, keys: &[Key]) -> Vec<Result<Option<Entry>, Error>> {
        match self.tier() {
            Ok(store) => store.get_batch(keys).await,
            Err(error) => vec![Err(error); keys.len()],
        }
    }

    async fn put_batch(&self, items: Vec<(Key, Value, Condition)>) -> Vec<WriteResult<Version>> {
        match self.tier() {
            Ok(store) => store.put_batch(items).await,
            Err(error) => vec![Err(error); items.len()],
        }
    }
}

/// How full the disk of the hot tier was when it was looked at last: nothing waits for a disk that does not answer.
#[derive(Clone, Debug, Default)]
pub struct DiskGauge(Arc<[AtomicU64; 2]>);

impl DiskGauge {
    /// As the tiers ask for it.
    pub fn gauge(&self) -> Gauge {
        let gauge = self.clone();
        Arc::new(move || {
            let [used, total] = &*gauge.0;
            let fullness =
                Fullness { used: used.load(Ordering::Relaxed), total: total.load(Ordering::Relaxed) };
            (fullness.total > 0).then_some(fullness)
        })
    }

    /// Looks again and again.
    pub async fn watch(self, disk: Disk) {
        loop {
            let looking = disk.clone();
            match tokio::task::spawn_blocking(move || looking.look()).await {
                Ok(Ok(found)) => {
                    let [used, total] = &*self.0;
                    used.store(found.used, Ordering::Relaxed);
                    total.store(found.total, Ordering::Relaxed);
                }
                Ok(Err(error)) => tracing::warn!(%error, "how full the hot tier is can't be told"),
                Err(_) => {}
            }
            tokio::time::sleep(DISK_LOOKS).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use brainy_storage::backends::memory::MemoryDocuments;

    use super::*;

    fn owner(uid: &str, shards: u32) -> Owner {
        Owner { uid: uid.to_owned(), shards }
    }

    #[tokio::test]
    async fn the_first_owner_of_a_place_keeps_it() {
        let documents = MemoryDocuments::new();
        must_own(&documents, &owner("a", 16)).await.unwrap();
        must_own(&documents, &owner("a", 16)).await.unwrap();
        for other in [owner("b", 16), owner("a", 8)] {
            let refused = in_words(&must_own(&documents, &other).await.unwrap_err());
            assert!(refused.contains("of a with 16 shards") && refused.contains("another prefix"), "{refused}");
        }
    }

    #[tokio::test]
    async fn before_the_bucket_has_passed_it_is_neither_read_nor_written() {
        let settings = S3Settings { endpoint: Some("http://127.0.0.1:9".into()), ..S3Settings::new("b") };
        let metrics = crate::metrics::Metrics::default();
        let bucket = ColdBucket::start(settings, owner("a", 16), None, metrics.observing("s3"));
        let Cold { store, longest_path } = bucket.cold("007");
        assert_eq!(longest_path, 1024 - "/cold/shards/007/".len());
        let key = Key::new("k").unwrap();
        let refused = store.with_namespace(&Namespace::new("n").unwrap()).get(&key).await.unwrap_err();
        assert!(matches!(&refused, Error::Unavailable { cause, .. } if cause == "ColdTier"), "{refused}");
        assert!(store.set(&key, Value::Json(1.into())).await.is_err());
        assert!(bucket.problem().is_some());
    }

    #[tokio::test]
    async fn how_full_the_disk_is_is_known_once_it_was_looked_at() {
        let folder = tempfile::tempdir().unwrap();
        let gauge = DiskGauge::default();
        assert_eq!(gauge.gauge()(), None);
        let watching = tokio::spawn(gauge.clone().watch(Disk::of(folder.path(), |_| 0)));
        while gauge.gauge()().is_none() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        watching.abort();
        assert!(gauge.gauge()().is_some_and(|full| full.used > 0 && full.total > full.used));
    }
}
