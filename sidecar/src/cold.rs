//! The bucket of the cold tier: opened and put to the test in the background, as often as it takes, and again every hour.
//! Until it has passed nothing is written to it or read from it, and the hot tier serves alone.
//!
//! ```text
//! <prefix>/cold/shards/NNN/      the cold tier of each shard
//! <prefix>/cold/cluster.json     whose it is
//! ```

use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use brainy_kubernetes::config::{COLD_OWNER, COLD_SHARDS, ColdOwner};
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

/// In the folder of the hot tier: which cold one it belongs to.
const REMEMBERED: &str = "cold.json";
/// Longest name of an object, in bytes, of which the bucket's prefix takes a part.
const LONGEST_NAME: usize = 1024;
/// Between two proofs. One is a few hundred small requests.
const PROVE_EVERY: Duration = Duration::from_secs(3600);
/// Pauses before a bucket is tried again that has not passed: doubled from the first to the last.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// Time between looks how full the disk of the hot tier is.
const DISK_LOOKS: Duration = Duration::from_secs(5);

/// Whether the bucket may be used.
#[derive(Clone, Debug)]
enum Access {
    /// Not yet, or not any more: why.
    Closed(String),
    Open(S3Store),
}

/// Who asks for the cold tier.
#[derive(Clone, Debug)]
pub struct Claimant {
    /// UID of the BrainyCluster, or the mark of a data folder.
    pub uid: String,
    /// How many shards its data is spread over.
    pub shards: u32,
    /// Folder of the hot tier: what cold tier it belongs to is remembered there.
    pub folder: PathBuf,
}

/// The bucket. Clones share it.
#[derive(Clone)]
pub struct ColdBucket(Arc<Inner>);

struct Inner {
    settings: S3Settings,
    claimant: Claimant,
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
        claimant: Claimant,
        compression: Option<Compression>,
        observing: Observing,
    ) -> Arc<Self> {
        let access = watch::Sender::new(Access::Closed("the bucket of the cold tier was not tested yet".to_owned()));
        let bucket = Self(Arc::new(Inner { settings, claimant, compression, observing, access }));
        host::spawn(keep(bucket.clone()));
        Arc::new(bucket)
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
    let Claimant { folder, .. } = &bucket.claimant;
    let remembered = remembered(folder).await?;
    let mark = must_own(&store.documents(""), &bucket.claimant, remembered.as_deref()).await?;
    if remembered.is_none() {
        remember(folder, mark).await?;
    }
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

/// Two owners of one place would mix their data: the first one writes down that it is its own. A cluster that was deleted and
/// made anew finds its volumes again, and they know its cold tier by the mark. Returns the mark.
async fn must_own(documents: &impl Documents, me: &Claimant, remembered: Option<&str>) -> Result<String, Error> {
    for _ in 0..3 {
        let (mark, stands) = match documents.read(COLD_OWNER).await? {
            Some(document) => {
                let found: ColdOwner = serde_json::from_slice(&document.body)
                    .map_err(|error| Error::Corrupt { key: COLD_OWNER.to_owned(), problem: error.to_string() })?;
                match (found.uid == me.uid, remembered == Some(found.mark.as_str())) {
                    _ if found.shards != me.shards => return Err(anothers(&found)),
                    (true, _) => return Ok(found.mark),
                    (false, true) => (found.mark, Some(document.version)),
                    (false, false) => return Err(anothers(&found)),
                }
            }
            None if remembered.is_some() => return Err(missing()),
            None => (chance::mark(), None),
        };
        let next = ColdOwner { uid: me.uid.clone(), shards: me.shards, mark: mark.clone() };
        let body = serde_json::to_vec(&next).map_err(|error| Error::invalid("owner", error.to_string()))?;
        match documents.swap(COLD_OWNER, stands.as_ref(), body.into()).await? {
            Swap::Applied(_) => return Ok(mark),
            // Another node was first, or nobody knows: the next look tells.
            Swap::Rejected | Swap::Unknown(_) => {}
        }
    }
    Err(Error::unavailable("Contended", "who owns the cold tier could not be found out"))
}

fn anothers(found: &ColdOwner) -> Error {
    let detail = format!(
        "the bucket and prefix hold the cold tier of {} with {} shards: choose another prefix, or delete what is below \
         {COLD_SHARDS}/ and {COLD_OWNER} there. If that one has lost all its volumes, and this is to go on with its data and \
         has as many shards, delete {COLD_OWNER} alone",
        found.uid, found.shards
    );
    Error::unavailable("AnothersColdTier", detail)
}

fn missing() -> Error {
    let detail = format!(
        "what is on this volume has a cold tier, and in the bucket and prefix there is none ({COLD_OWNER}): correct them, or \
         bring the bucket back. If its data is lost for good, so is what was demoted: delete {REMEMBERED} in the data folder \
         to go on without it"
    );
    Error::unavailable("ColdTierMissing", detail)
}

/// The mark of the cold tier that a hot one belongs to, as it is remembered.
#[derive(Serialize, Deserialize)]
struct Remembered {
    mark: String,
}

async fn remembered(folder: &Path) -> Result<Option<String>, Error> {
    let path = folder.join(REMEMBERED);
    let read = blocking(move || match std::fs::read(&path) {
        Ok(text) => Ok(Some(serde_json::from_slice::<Remembered>(&text).map_err(io::Error::from)?.mark)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    });
    read.await.map_err(|error| Error::unavailable("Volume", format!("reading {REMEMBERED}: {error}")))
}

/// All of the file or nothing of it, also after a power failure.
async fn remember(folder: &Path, mark: String) -> Result<(), Error> {
    let folder = folder.to_owned();
    let written = blocking(move || {
        std::fs::create_dir_all(&folder)?;
        let (path, beside) = (folder.join(REMEMBERED), folder.join(format!("{REMEMBERED}.new")));
        let mut file = File::create(&beside)?;
        file.write_all(&serde_json::to_vec(&Remembered { mark })?)?;
        file.sync_all()?;
        std::fs::rename(&beside, &path)?;
        File::open(&folder)?.sync_all()
    });
    written.await.map_err(|error| Error::unavailable("Volume", format!("writing {REMEMBERED}: {error}")))
}

async fn blocking<T: Send + 'static>(act: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(act).await.unwrap_or_else(|broken| Err(io::Error::other(broken)))
}

fn in_words(error: &Error) -> String {
    match error {
        Error::Unavailable { cause, detail } => format!("{cause}: {detail}"),
        other => other.to_string(),
    }
}

impl ColdStores for ColdBucket {
    fn cold(&self, name: &str) -> Cold {
        let root = format!("{COLD_SHARDS}/{name}");
        let taken = self.0.settings.prefix.len() + root.len() + 2;
        let shard = ColdShard { bucket: self.clone(), root, namespaces: Vec::new(), open: OnceLock::new() };
        Cold { store: Arc::new(shard), longest_path: LONGEST_NAME.saturating_sub(taken) }
    }

    fn problem(&self) -> Option<String> {
        match &*self.0.access.borrow() {
            Access::Closed(why) => Some(why.clone()),
            Access::Open(_) => None,
        }
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
            let fullness = Fullness { used: used.load(Ordering::Relaxed), total: total.load(Ordering::Relaxed) };
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

    fn claimant(uid: &str, shards: u32, folder: &Path) -> Claimant {
        Claimant { uid: uid.to_owned(), shards, folder: folder.to_owned() }
    }

    #[tokio::test]
    async fn the_first_owner_of_a_place_keeps_it() {
        let (documents, folder) = (MemoryDocuments::new(), Path::new(""));
        let own = async |uid, shards, mark| must_own(&documents, &claimant(uid, shards, folder), mark).await;
        let mark = own("a", 16, None).await.unwrap();
        assert_eq!(own("a", 16, None).await.unwrap(), mark);
        assert_eq!(own("a", 16, Some(mark.as_str())).await.unwrap(), mark);
        for (uid, shards, remembered) in
            [("b", 16, None), ("a", 8, None), ("b", 16, Some("another")), ("b", 8, Some(mark.as_str()))]
        {
            let refused = in_words(&own(uid, shards, remembered).await.unwrap_err());
            assert!(refused.contains("of a with 16 shards") && refused.contains("another prefix"), "{refused}");
        }
    }

    #[tokio::test]
    async fn a_cluster_made_anew_over_its_volumes_finds_its_cold_tier_again() {
        let (documents, folder) = (MemoryDocuments::new(), tempfile::tempdir().unwrap());
        let own = async |uid, mark: Option<&str>| must_own(&documents, &claimant(uid, 16, folder.path()), mark).await;
        assert_eq!(remembered(folder.path()).await.unwrap(), None);
        remember(folder.path(), own("before", None).await.unwrap()).await.unwrap();
        let mark = remembered(folder.path()).await.unwrap();
        // A node with a new volume has to wait for one that has an old one.
        assert!(own("after", None).await.is_err());
        assert_eq!(own("after", mark.as_deref()).await.ok(), mark);
        assert_eq!(own("after", None).await.ok(), mark);
        assert!(own("before", None).await.is_err());
    }

    #[tokio::test]
    async fn a_volume_whose_cold_tier_is_gone_does_not_begin_a_new_one() {
        let documents = MemoryDocuments::new();
        let refused = must_own(&documents, &claimant("a", 16, Path::new("")), Some("mark")).await.unwrap_err();
        assert!(matches!(&refused, Error::Unavailable { cause, .. } if cause == "ColdTierMissing"), "{refused}");
        assert!(documents.names("").await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn before_the_bucket_has_passed_it_is_neither_read_nor_written() {
        let settings = S3Settings { endpoint: Some("http://127.0.0.1:9".into()), ..S3Settings::new("b") };
        let metrics = crate::metrics::Metrics::default();
        let claimant = claimant("a", 16, Path::new("nowhere"));
        let bucket = ColdBucket::start(settings, claimant, None, metrics.observing("s3"));
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
