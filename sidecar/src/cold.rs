//! The bucket of the cold tier. Until it has passed (`gated`), and is known to be this one's own, the hot tier serves alone.
//!
//! ```text
//! <prefix>/cold/shards/NNN/      the cold tier of each shard
//! <prefix>/cold/cluster.json     whose it is
//! ```

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use brainy_kubernetes::config::{COLD_OWNER, COLD_SHARDS, ColdOwner};
use brainy_storage::backends::disk::Disk;
use brainy_storage::backends::s3::{S3Settings, S3Store};
use brainy_storage::documents::{Documents, Swap};
use brainy_storage::layers::compression::Compression;
use brainy_storage::layers::observing::Observing;
use brainy_storage::layers::tiering::{Cold, ColdStores, Fullness, Gauge};
use brainy_storage::{Error, chance};
use serde::{Deserialize, Serialize};

use crate::gated::{GatedBucket, Purpose, longest_path};

/// In the folder of the hot tier: which cold one it belongs to.
const REMEMBERED: &str = "cold.json";
/// Time between looks how full the disk of the hot tier is.
const DISK_LOOKS: Duration = Duration::from_secs(5);

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

/// The bucket.
#[derive(Debug)]
pub struct ColdBucket {
    bucket: GatedBucket,
    prefix: String,
}

impl ColdBucket {
    /// Opens the bucket in the background. Within a runtime.
    pub fn start(
        settings: S3Settings,
        claimant: Claimant,
        compression: Option<Compression>,
        observing: Observing,
    ) -> Arc<Self> {
        let prefix = settings.prefix.clone();
        Arc::new(Self { bucket: GatedBucket::start(settings, Arc::new(claimant), compression, observing), prefix })
    }
}

#[async_trait]
impl Purpose for Claimant {
    fn cause(&self) -> &'static str {
        "ColdTier"
    }

    fn name(&self) -> String {
        "the cold tier".to_owned()
    }

    async fn admit(&self, store: &S3Store) -> Result<(), Error> {
        let remembered = remembered(&self.folder).await?;
        let mark = must_own(&store.documents(""), self, remembered.as_deref()).await?;
        if remembered.is_none() {
            remember(&self.folder, mark).await?;
        }
        Ok(())
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

impl ColdStores for ColdBucket {
    fn cold(&self, name: &str) -> Cold {
        let root = format!("{COLD_SHARDS}/{name}");
        Cold { longest_path: longest_path(&self.prefix, &root), store: self.bucket.store_in(root) }
    }

    fn problem(&self) -> Option<String> {
        self.bucket.problem()
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
    use brainy_storage::{Key, Namespace, Value};

    use super::*;
    use crate::gated::in_words;

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
