//! The stores under test, opened and used by code whose system calls are supervised.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use brainy_faults::durability::{self, Rules};
use brainy_faults::{Call, Event, Recorder, Supervised, Verdict, supervise};
use brainy_storage::backends::embedded::EmbeddedDatabase;
use brainy_storage::backends::filesystem::FilesystemAdapter;
use brainy_storage::{Error, Namespace, StorageAdapter, encoding};
use tempfile::TempDir;
use tokio::runtime::Runtime;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backend {
    Files,
    Embedded,
}

/// The namespace that some keys are in.
pub(crate) fn namespace() -> Namespace {
    Namespace::new("n/1").unwrap()
}

/// An open store.
pub(crate) struct Store {
    pub(crate) backend: Backend,
    pub(crate) folder: PathBuf,
    pub(crate) adapter: Arc<dyn StorageAdapter>,
    database: Option<EmbeddedDatabase>,
}

impl Store {
    /// Whether it writes nothing more until it is opened again.
    pub(crate) fn has_failed(&self) -> bool {
        self.database.as_ref().is_some_and(|database| database.failure().is_some())
    }
}

impl Backend {
    /// The store's folder: deep enough that folders outside of it have to be made as well.
    pub(crate) fn root(folder: &Path) -> PathBuf {
        folder.canonicalize().unwrap().join("node/shards/shard-000")
    }

    /// Where that is which is acknowledged of some keys.
    pub(crate) fn places(self, folder: &Path, space: bool, keys: &[&str]) -> Vec<PathBuf> {
        let root = Self::root(folder);
        let namespaces: Vec<Namespace> = space.then(namespace).into_iter().collect();
        let place = |key: &&str| match self {
            Self::Files => root.join(encoding::keys_folder(&namespaces)).join(encoding::encode(key)),
            Self::Embedded => root.clone(),
        };
        keys.iter().map(place).collect()
    }

    pub(crate) fn open(self, folder: &Path) -> Result<Store, Error> {
        let root = Self::root(folder);
        let (adapter, database): (Arc<dyn StorageAdapter>, _) = match self {
            Self::Files => (Arc::new(FilesystemAdapter::open(&root)?), None),
            Self::Embedded => {
                let database = EmbeddedDatabase::open(&root)?;
                (Arc::new(database.store("a")?), Some(database))
            }
        };
        Ok(Store { backend: self, folder: folder.to_owned(), adapter, database })
    }

    /// Whether nothing that is acknowledged rests on a file, named within the supervised folder.
    fn is_scratch(self, path: &Path) -> bool {
        let is_lock = path.file_name().is_some_and(|name| name == ".lock");
        is_lock
            || match self {
                Self::Files => path.components().any(|part| part.as_os_str() == "tmp"),
                Self::Embedded => path.ends_with("engine/lock") || path.ends_with("suspect"),
            }
    }

    /// Panics if a power failure could take back what a store acknowledged of what it did below a folder. `ignored`: besides,
    /// nothing rests on these.
    pub(crate) fn check_durability(self, folder: &Path, events: &[Event], ignored: impl Fn(&Path) -> bool) {
        let folder = folder.canonicalize().unwrap();
        let is_scratch = |path: &Path| {
            let path = path.strip_prefix(&folder).unwrap_or(path);
            self.is_scratch(path) || ignored(path)
        };
        let is_log = |path: &Path| path.extension().is_some_and(|extension| extension == "jnl");
        // The engine removes what it finds and does not know, and reads a journal again to no effect.
        let may_return = |_: &Path| self == Self::Embedded;
        let is_listed = |path: &Path| path.components().any(|part| part.as_os_str() == "keyspaces");
        let rules = Rules { is_scratch: &is_scratch, is_log: &is_log, is_listed: &is_listed, may_return: &may_return };
        if let Err(violation) = durability::check(events, rules) {
            panic!("{self:?}: {violation}");
        }
    }
}

/// A folder in memory where there is one, because a disk that is judged need not be waited for.
pub(crate) fn quick_folder() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// Runs code under supervision that has a runtime of its own: what it leaves running ends with it.
pub(crate) fn watch<T: Send>(
    folder: &Path,
    judge: impl FnMut(&Call) -> Verdict,
    act: impl FnOnce(&Runtime, &Recorder) -> T + Send,
) -> Supervised<T> {
    supervise(folder, judge, |recorder| {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        act(&runtime, recorder)
    })
}
