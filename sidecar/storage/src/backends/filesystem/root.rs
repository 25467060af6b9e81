//! One root folder: who may write there, and in which order.
//!
//! Two locks keep conditional writes atomic:
//! - a `flock` on `<root>/.lock`, held as long as the root is open, keeps every other process out. The kernel frees it
//!   when a process dies, however it dies. It is taken once and not per operation: two processes never have a reason to
//!   share a root, and a second one is better refused at its start than slowed down for ever.
//! - within the process, one lock per key that is being written. Roots are registered by path, so that all adapters on
//!   one root share these locks.
//!
//! Nothing is created before the first write: a node has hundreds of roots, and most start empty.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, RwLockReadGuard, Weak};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use tokio::sync::{OwnedMutexGuard, OwnedRwLockReadGuard, RwLock};

use super::files::{Folders, Temp, failure, is_missing, read};
use super::spares::Spares;
use crate::Error;
use crate::backends::notes::Notes;

const LOCK_FILE: &str = ".lock";
const TEMP_FOLDER: &str = "tmp";

/// All roots open in this process, by absolute path.
static OPEN: LazyLock<Mutex<HashMap<PathBuf, Weak<Root>>>> = LazyLock::new(Mutex::default);

fn open_roots() -> MutexGuard<'static, HashMap<PathBuf, Weak<Root>>> {
    OPEN.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug)]
pub(super) struct Root {
    path: PathBuf,
    /// The `flock`; `None` as long as the folder does not exist.
    lock: Mutex<Option<File>>,
    /// Shared by all operations, exclusive for what replaces or removes the whole root.
    gate: Arc<RwLock<()>>,
    keys: Arc<KeyLocks>,
    folders: Folders,
    removed: AtomicBool,
    spares: Spares,
    /// The paths that are written, for who copies the store: said under the lock of the key.
    pub(super) notes: Notes<String>,
}

impl Root {
    /// The root at this path: the one that is open already, or a new one. An existing folder is locked and freed of
    /// temporary files of an earlier life.
    pub(super) fn open(path: &Path) -> Result<Arc<Self>, Error> {
        let path = std::path::absolute(path).map_err(|error| failure("resolving", path, &error))?;
        loop {
            let mut open = open_roots();
            match open.get(&path).map(Weak::upgrade) {
                Some(Some(root)) => return Ok(root),
                // Its last user is just letting go of it, and of its lock; a moment later it is out of the way.
                Some(None) => {
                    drop(open);
                    std::thread::yield_now();
                }
                None => {
                    let root = Arc::new(Self {
                        path: path.clone(),
                        lock: Mutex::default(),
                        gate: Arc::default(),
                        keys: Arc::default(),
                        folders: Folders::default(),
                        removed: AtomicBool::new(false),
                        spares: Spares::default(),
                        notes: Notes::default(),
                    });
                    open.insert(path, Arc::downgrade(&root));
                    drop(open);
                    if root.path.is_dir() {
                        root.own()?;
                    }
                    return Ok(root);
                }
            }
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The content of a file of this root; `None` if there is none.
    pub(super) fn read(&self, path: &Path) -> Result<Option<Vec<u8>>, Error> {
        let _reading = self.reading();
        read(path)
    }

    /// To be held while a file is opened by its name and read.
    pub(super) fn reading(&self) -> RwLockReadGuard<'_, ()> {
        self.spares.reading()
    }

    /// Writes and flushes a temporary file.
    pub(super) fn write_temp(&self, bytes: &[u8]) -> Result<Temp, Error> {
        match self.spares.take() {
            Some(spare) => spare.rewrite(bytes),
            None => Temp::write(self.path.join(TEMP_FOLDER).join(crate::envelope::new_nonce()), bytes),
        }
    }

    /// Takes a file that was replaced, once its folder has been flushed.
    pub(super) fn keep(&self, replaced: Option<Temp>) {
        if let Some(replaced) = replaced {
            self.spares.keep(replaced);
        }
    }

    /// Makes a folder below the root exist, durably.
    pub(super) fn ensure_folder(&self, folder: &Path) -> Result<(), Error> {
        self.folders.ensure(folder)
    }

    /// Takes the `flock`, if this root does not hold it yet. Needed before any write.
    pub(super) fn own(&self) -> Result<(), Error> {
        let mut lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        if lock.is_none() {
            if !self.path.is_dir() {
                self.folders.ensure(&self.path)?;
            }
            let taken = lock_folder(&self.path)?;
            // Before it counts as taken: a failure is made up for by the next try.
            remove_temporary_files(&self.path.join(TEMP_FOLDER))?;
            *lock = Some(taken);
        }
        Ok(())
    }

    /// Counts as one operation until dropped. Fails once the root has been removed.
    pub(super) async fn enter(&self) -> Result<OwnedRwLockReadGuard<()>, Error> {
        let guard = Arc::clone(&self.gate).read_owned().await;
        self.check_not_removed()?;
        Ok(guard)
    }

    /// Fails once the root has been removed: what is then missing must not pass for "no value".
    pub(super) fn check_not_removed(&self) -> Result<(), Error> {
        if self.removed.load(Ordering::Acquire) {
            return Err(Error::unavailable("Removed", format!("{} has been removed", self.path.display())));
        }
        Ok(())
    }

    /// Locks keys for writing, by their paths.
    pub(super) async fn lock_keys(&self, paths: impl IntoIterator<Item = String>) -> HeldKeys {
        KeyLocks::lock(&self.keys, paths).await
    }

    /// Waits until no operation is under way, and keeps new ones waiting.
    pub(super) async fn exclusive(&self) -> tokio::sync::OwnedRwLockWriteGuard<()> {
        Arc::clone(&self.gate).write_owned().await
    }

    /// The tree now is another one, whose lock is held by `lock`.
    pub(super) fn replaced(&self, lock: File) {
        self.folders.forget();
        self.spares.forget();
        *self.lock.lock().unwrap_or_else(PoisonError::into_inner) = Some(lock);
    }

    /// The tree is gone for good: whoever still holds this root can do nothing more with it.
    pub(super) fn mark_removed(&self) {
        self.removed.store(true, Ordering::Release);
        self.spares.forget();
        self.leave_registry();
    }

    fn leave_registry(&self) {
        let mut open = open_roots();
        // Freed while the registry is locked, so that the next one to open the path finds it free.
        drop(self.lock.lock().unwrap_or_else(PoisonError::into_inner).take());
        if open.get(&self.path).is_some_and(|weak| std::ptr::eq(weak.as_ptr(), self)) {
            open.remove(&self.path);
        }
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        self.leave_registry();
    }
}

/// Locks an existing folder against other processes.
pub(in crate::backends) fn lock_folder(folder: &Path) -> Result<File, Error> {
    let path = folder.join(LOCK_FILE);
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|error| failure("opening", &path, &error))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(Errno::WOULDBLOCK) => {
            Err(Error::unavailable("InUse", format!("another process works in {}", folder.display())))
        }
        Err(errno) => Err(failure("locking", &path, &errno.into())),
    }
}

fn remove_temporary_files(folder: &Path) -> Result<(), Error> {
    let entries = match fs::read_dir(folder) {
        Err(error) if is_missing(&error) => return Ok(()),
        entries => entries.map_err(|error| failure("reading", folder, &error))?,
    };
    for entry in entries {
        let path = entry.map_err(|error| failure("reading", folder, &error))?.path();
        fs::remove_file(&path).map_err(|error| failure("removing", &path, &error))?;
    }
    Ok(())
}

/// One lock per key that is being written; memory only for those.
#[derive(Debug, Default)]
struct KeyLocks(Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>);

/// Keys locked for writing until dropped.
#[derive(Debug)]
pub(super) struct HeldKeys {
    locks: Arc<KeyLocks>,
    held: Vec<(String, OwnedMutexGuard<()>)>,
}

impl KeyLocks {
    async fn lock(locks: &Arc<Self>, paths: impl IntoIterator<Item = String>) -> HeldKeys {
        // All in one order, so that two batches can't wait for each other.
        let mut paths: Vec<String> = paths.into_iter().collect();
        paths.sort_unstable();
        paths.dedup();
        let mut keys = HeldKeys { locks: Arc::clone(locks), held: Vec::with_capacity(paths.len()) };
        for path in paths {
            let waiting = Waiting { locks, path: &path };
            let lock = locks.of(&path);
            let guard = lock.lock_owned().await;
            std::mem::forget(waiting);
            keys.held.push((path, guard));
        }
        keys
    }

    fn map(&self) -> MutexGuard<'_, HashMap<String, Arc<tokio::sync::Mutex<()>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn of(&self, path: &str) -> Arc<tokio::sync::Mutex<()>> {
        Arc::clone(self.map().entry(path.to_owned()).or_default())
    }

    /// Forgets a key that nobody holds or waits for. Clones are only made under the map's lock, so the count is exact.
    fn forget(&self, path: &str) {
        let mut map = self.map();
        if map.get(path).is_some_and(|lock| Arc::strong_count(lock) == 1) {
            map.remove(path);
        }
    }
}

/// Cleans up when a caller gives up while it waits.
struct Waiting<'a> {
    locks: &'a KeyLocks,
    path: &'a str,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.locks.forget(self.path);
    }
}

impl Drop for HeldKeys {
    fn drop(&mut self) {
        for (path, guard) in self.held.drain(..) {
            drop(guard);
            self.locks.forget(&path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn key_locks_leave_no_memory_behind() {
        let locks = Arc::new(KeyLocks::default());
        let held = KeyLocks::lock(&locks, ["b".into(), "a".into(), "b".into()]).await;
        assert_eq!(locks.map().len(), 2);
        let waiting = tokio::time::timeout(
            std::time::Duration::from_millis(10),
            KeyLocks::lock(&locks, ["a".into(), "c".into()]),
        );
        assert!(waiting.await.is_err(), "a is held");
        drop(held);
        assert_eq!(locks.map().len(), 0);
    }

    #[test]
    fn opening_creates_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::open(&folder.path().join("shard-001")).unwrap();
        assert!(!root.path().exists());
    }

    #[test]
    fn temporary_files_of_an_earlier_life_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join(TEMP_FOLDER)).unwrap();
        fs::write(folder.path().join(TEMP_FOLDER).join("left"), "x").unwrap();
        let _root = Root::open(folder.path()).unwrap();
        assert_eq!(fs::read_dir(folder.path().join(TEMP_FOLDER)).unwrap().count(), 0);
    }

    #[test]
    fn a_root_in_use_by_another_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let held = lock_folder(folder.path()).unwrap();
        let refused = Root::open(folder.path()).unwrap_err();
        assert!(matches!(refused, Error::Unavailable { ref cause, .. } if cause == "InUse"), "{refused:?}");
        drop(held);
        Root::open(folder.path()).unwrap();
    }

    #[test]
    fn two_adapters_on_one_root_share_their_locks() {
        let folder = tempfile::tempdir().unwrap();
        let first = Root::open(folder.path()).unwrap();
        let second = Root::open(&folder.path().join(".")).unwrap();
        assert!(Arc::ptr_eq(&first, &second));
        drop((first, second));
        Root::open(folder.path()).unwrap();
    }
}
