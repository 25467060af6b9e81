//! Files that were replaced, kept to be written again.
//!
//! A new file costs the file system several blocks of its own, which have to be flushed with it; one that is there costs none. So
//! a write exchanges its file with the one that it replaces, and leaves that one to the next write. Two things must be over
//! before its content may change: the flush of the folder that it went from (until then a crash may put it back), and every
//! read that began before it went.

use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use super::files::Temp;

/// Kept in each root: about as many as are written there at once.
const MOST: usize = 4;
/// The longest that is kept: a node has hundreds of roots.
const LONGEST: u64 = 16 << 10;

/// The spare files of a root.
#[derive(Debug, Default)]
pub(super) struct Spares {
    files: Mutex<Vec<Temp>>,
    readers: RwLock<()>,
}

impl Spares {
    /// See [`super::root::Root::reading`].
    pub(super) fn reading(&self) -> RwLockReadGuard<'_, ()> {
        self.readers.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// One to be written, if there is one that nobody reads.
    pub(super) fn take(&self) -> Option<Temp> {
        // Whoever reads from now on does not find any of them any more.
        let _nobody_reads = self.readers.try_write().ok()?;
        self.files().pop()
    }

    /// Keeps a file that was replaced, if it is worth it, or removes it. The folder that it went from has been flushed.
    pub(super) fn keep(&self, replaced: Temp) {
        if !replaced.length().is_ok_and(|length| length <= LONGEST) {
            return;
        }
        let mut files = self.files();
        if files.len() < MOST {
            files.push(replaced);
        }
    }

    /// The tree is another one, or gone: so are they.
    pub(super) fn forget(&self) {
        self.files().drain(..).for_each(Temp::forget);
    }

    fn files(&self) -> MutexGuard<'_, Vec<Temp>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::io::Read as _;
    use std::os::unix::fs::MetadataExt as _;
    use std::path::Path;

    use crate::backends::filesystem::FilesystemAdapter;
    use crate::{Key, StorageAdapter as _, Value};

    async fn set(store: &FilesystemAdapter, value: &str) {
        let value = Value::Bytes(value.to_owned().into());
        store.set(&Key::new("a").unwrap(), value).await.unwrap().applied().unwrap();
    }

    fn left(root: &Path) -> usize {
        fs::read_dir(root.join("tmp")).map_or(0, Iterator::count)
    }

    #[tokio::test]
    async fn what_was_replaced_is_written_again_longer_or_shorter() {
        let folder = tempfile::tempdir().unwrap();
        let store = FilesystemAdapter::open(folder.path()).unwrap();
        let file = || fs::metadata(folder.path().join("kv/a")).unwrap().ino();
        let mut files = Vec::new();
        for value in ["one", "two", "a longer one", "", "five"] {
            set(&store, value).await;
            files.push(file());
            let found = store.get(&Key::new("a").unwrap()).await.unwrap().unwrap();
            assert_eq!(found.value, Value::Bytes(value.to_owned().into()));
        }
        assert_eq!(files[2..], [files[0], files[1], files[0]], "{files:?}");
        assert_eq!(left(folder.path()), 1);
        drop(store);
        assert_eq!(left(folder.path()), 0);
    }

    #[test]
    fn a_file_that_is_read_is_not_written() {
        let folder = tempfile::tempdir().unwrap();
        let store = FilesystemAdapter::open(folder.path()).unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(set(&store, "one"));
        let reading = store.root.reading();
        let mut slow = File::open(folder.path().join("kv/a")).unwrap();
        let before = fs::read(folder.path().join("kv/a")).unwrap();
        for value in ["two", "three", "four"] {
            runtime.block_on(set(&store, value));
        }
        let mut seen = Vec::new();
        slow.read_to_end(&mut seen).unwrap();
        assert!(seen == before, "what was read changed: {}", String::from_utf8_lossy(&seen));
        drop(reading);
    }

    #[tokio::test]
    async fn a_long_file_is_not_kept() {
        let folder = tempfile::tempdir().unwrap();
        let store = FilesystemAdapter::open(folder.path()).unwrap();
        for _ in 0..3 {
            set(&store, &"long ".repeat(10_000)).await;
        }
        assert_eq!(left(folder.path()), 0);
    }
}
