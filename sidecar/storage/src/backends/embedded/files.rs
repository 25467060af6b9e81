//! Values that are too large for the tree, each in a file of its own beside it.
//!
//! A file is whole and durable, its name included, before a record names it, and goes once the commit is durable by which none
//! does any more. Its bytes never change. What a crash leaves in between, a file that no record names, is removed by the next life
//! ([`Files::sweep`]): by its id there is a key in the tree as long as it is named.
//!
//! A snapshot of the tree names files that were replaced since: while one is [held](Hold), what goes after it began stays.

use std::collections::{BTreeSet, VecDeque};
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;

use super::cleaner::Garbage;
use super::shared_flush::SharedFlush;
use crate::Error;
use crate::backends::filesystem::files::failure;
use crate::buffers::Buffers;
use crate::chance::mark;

/// What of a value is kept beside what is told of it has a file of its own from so many bytes on. For less, the flush of a file
/// and of its name cost more than the journal and the tables do.
pub(super) const LEAST_IN_A_FILE: usize = 128 << 10;

/// Names a file. None is ever given out twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct FileId {
    /// Of the process that wrote it: random.
    pub(super) life: u64,
    pub(super) number: u64,
    /// How many bytes it has.
    pub(super) length: u64,
}

impl FileId {
    fn name(self) -> String {
        format!("{:016x}-{:x}-{:x}", self.life, self.number, self.length)
    }

    fn of_name(name: &str) -> Option<Self> {
        let mut numbers = name.split('-').map(|number| u64::from_str_radix(number, 16).ok());
        let mut next = || numbers.next().flatten();
        let id = Self { life: next()?, number: next()?, length: next()? };
        (id.name() == name).then_some(id)
    }
}

/// The files of a database.
#[derive(Debug)]
pub(super) struct Files {
    folder: PathBuf,
    life: u64,
    next: AtomicU64,
    /// Bytes that are being written.
    coming: AtomicU64,
    names: SharedFlush,
    /// For what is read of them.
    buffers: Buffers,
    held: Mutex<Held>,
    /// Who removes them. Without it, as in a process that is about to end, the next life does.
    garbage: OnceLock<Garbage>,
}

/// What may not be removed yet.
#[derive(Debug, Default)]
struct Held {
    next: u64,
    open: BTreeSet<u64>,
    /// Each with the number of the first hold that it need not wait for.
    gone: VecDeque<(u64, FileId)>,
}

impl Held {
    /// What nobody holds any more.
    fn due(&mut self) -> Vec<FileId> {
        let first = self.open.first().copied().unwrap_or(u64::MAX);
        let due = self.gone.iter().take_while(|(since, _)| *since <= first).count();
        self.gone.drain(..due).map(|(_, id)| id).collect()
    }
}

/// Until it is dropped, no file goes that was named when it was taken.
#[derive(Debug)]
pub(super) struct Hold {
    files: Arc<Files>,
    number: u64,
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut held = self.files.held();
        held.open.remove(&self.number);
        let due = held.due();
        drop(held);
        self.files.remove_behind(due);
    }
}

/// A file that is whole and durable, and that no record names yet. Dropping it removes it.
#[derive(Debug)]
pub(super) struct NewFile {
    files: Arc<Files>,
    id: FileId,
    is_kept: bool,
}

impl NewFile {
    pub(super) fn id(&self) -> FileId {
        self.id
    }

    /// A record names it, or may.
    pub(super) fn keep(mut self) {
        self.is_kept = true;
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.is_kept {
            self.files.remove(self.id);
        }
    }
}

impl Files {
    /// Those in a folder, which is there.
    pub(super) fn new(folder: PathBuf) -> Self {
        Self {
            names: SharedFlush::new(folder.clone()),
            folder,
            life: u64::from_str_radix(mark().get(..16).unwrap_or_default(), 16).unwrap_or_default(),
            next: AtomicU64::new(0),
            coming: AtomicU64::new(0),
            buffers: Buffers::default(),
            held: Mutex::default(),
            garbage: OnceLock::new(),
        }
    }

    /// From now on what goes is removed there.
    pub(super) fn removed_by(&self, garbage: Garbage) {
        // There is one cleaner.
        let _ = self.garbage.set(garbage);
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes that are being written: the disk may not count all of them yet.
    pub(super) fn coming(&self) -> u64 {
        self.coming.load(Ordering::SeqCst)
    }

    /// Writes each content to a file, durably; their names are flushed once for all, and for who writes at the same time. Blocks. A
    /// failure leaves nothing behind.
    pub(super) fn write(self: &Arc<Self>, contents: &[Bytes]) -> Result<Vec<NewFile>, Error> {
        let bytes = contents.iter().map(|content| content.len() as u64).sum();
        let _coming = Coming::new(&self.coming, bytes);
        let written = contents.iter().map(|content| self.write_one(content)).collect::<Result<Vec<_>, Error>>()?;
        self.names.flush().map_err(|error| failure("flushing", &self.folder, &error))?;
        Ok(written)
    }

    fn write_one(self: &Arc<Self>, content: &Bytes) -> Result<NewFile, Error> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let id = FileId { life: self.life, number, length: content.len() as u64 };
        let path = self.path(id);
        let failed = |error: io::Error| failure("writing", &path, &error);
        let mut file = OpenOptions::new().write(true).create_new(true).open(&path).map_err(failed)?;
        let new = NewFile { files: Arc::clone(self), id, is_kept: false };
        file.write_all(content).and_then(|()| file.sync_data()).map_err(failed)?;
        Ok(new)
    }

    /// What is told of a value, and behind it the file's content. `None`: the file is not there.
    pub(super) fn read(&self, id: FileId, head: &[u8]) -> Result<Option<Bytes>, Error> {
        let path = self.path(id);
        let file = match File::open(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(|error| failure("reading", &path, &error))?,
        };
        let size = head.len().saturating_add(usize::try_from(id.length).unwrap_or(usize::MAX));
        let read = self.buffers.take(size).map_err(io::Error::from).and_then(|mut buffer| {
            buffer.bytes.extend_from_slice(head);
            // Whatever is wrong with its length shows by the checksum.
            (&file).take(id.length).read_to_end(&mut buffer.bytes)?;
            Ok(buffer.freeze())
        });
        read.map(Some).map_err(|error| failure("reading", &path, &error))
    }

    /// Files that are named now stay while this is held.
    pub(super) fn hold(self: &Arc<Self>) -> Hold {
        let mut held = self.held();
        let number = held.next;
        held.next += 1;
        held.open.insert(number);
        Hold { files: Arc::clone(self), number }
    }

    /// No record names these any more, also after a crash. They are removed behind, once nobody holds them.
    pub(super) fn went(&self, ids: impl IntoIterator<Item = FileId>) {
        let mut held = self.held();
        let since = held.next;
        held.gone.extend(ids.into_iter().map(|id| (since, id)));
        let due = held.due();
        drop(held);
        self.remove_behind(due);
    }

    fn remove_behind(&self, ids: Vec<FileId>) {
        if let Some(garbage) = self.garbage.get().filter(|_| !ids.is_empty()) {
            garbage.remove_files(ids);
        }
    }

    /// Removes a file. Not durably: what comes back is swept again.
    pub(super) fn remove(&self, id: FileId) {
        match fs::remove_file(self.path(id)) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                tracing::warn!(file = %self.path(id).display(), %error, "removing a value that is gone; the next start tries again");
            }
            _ => {}
        }
    }

    /// Removes what earlier lives left and `is_named` does not know. Whoever looks is asked again and again whether to go on. Blocks.
    pub(super) fn sweep(
        &self,
        is_named: impl Fn(FileId) -> Result<bool, Error>,
        goes_on: impl Fn() -> bool,
    ) -> Result<(), Error> {
        let failed = |error: io::Error| failure("reading", &self.folder, &error);
        for entry in fs::read_dir(&self.folder).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            let Some(id) = name.to_str().and_then(FileId::of_name).filter(|id| id.life != self.life) else { continue };
            if !goes_on() {
                return Ok(());
            }
            if !is_named(id)? {
                // Not at once: a snapshot may name it that was taken before it went.
                self.went([id]);
            }
        }
        Ok(())
    }

    pub(super) fn path(&self, id: FileId) -> PathBuf {
        self.folder.join(id.name())
    }
}

/// Counts bytes while they are written.
struct Coming<'a>(&'a AtomicU64, u64);

impl<'a> Coming<'a> {
    fn new(all: &'a AtomicU64, bytes: u64) -> Self {
        all.fetch_add(bytes, Ordering::SeqCst);
        Self(all, bytes)
    }
}

impl Drop for Coming<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(self.1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn files(folder: &Path) -> Arc<Files> {
        Arc::new(Files::new(folder.to_owned()))
    }

    fn names(folder: &Path) -> Vec<FileId> {
        let mut all: Vec<FileId> = fs::read_dir(folder)
            .unwrap()
            .filter_map(|entry| FileId::of_name(entry.unwrap().file_name().to_str().unwrap()))
            .collect();
        all.sort();
        all
    }

    #[test]
    fn a_name_leads_back_to_its_file() {
        let id = FileId { life: 7, number: 255, length: 1 << 20 };
        assert_eq!(id.name(), "0000000000000007-ff-100000");
        assert_eq!(FileId::of_name(&id.name()), Some(id));
        for foreign in ["", "7-ff-100000", "0000000000000007-ff", "0000000000000007-ff-100000-1", "lost+found"] {
            assert_eq!(FileId::of_name(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn a_file_that_no_record_came_to_name_is_removed_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let files = files(folder.path());
        let mut written = files.write(&["one".into(), "two".into()]).unwrap();
        assert_eq!(files.coming(), 0);
        written.pop().unwrap().keep();
        let kept = names(folder.path()).into_iter().find(|id| id.number == 1);
        drop(written);
        assert_eq!(names(folder.path()), [kept.unwrap()]);
        assert_eq!(files.read(kept.unwrap(), b"head ").unwrap().unwrap(), "head two");
        let gone = FileId { number: 0, ..kept.unwrap() };
        assert_eq!(files.read(gone, b"").unwrap(), None);
    }

    #[test]
    fn what_goes_waits_for_those_who_held_it_and_for_nobody_who_came_later() {
        let mut held = Held::default();
        let id = |number| FileId { life: 1, number, length: 1 };
        held.gone.push_back((held.next, id(0)));
        assert_eq!(held.due(), [id(0)]);
        held.open.extend([0, 1]);
        held.next = 2;
        held.gone.push_back((held.next, id(1)));
        held.open.insert(2);
        held.next = 3;
        held.gone.push_back((held.next, id(2)));
        assert_eq!(held.due(), []);
        held.open.remove(&0);
        assert_eq!(held.due(), []);
        held.open.remove(&1);
        assert_eq!(held.due(), [id(1)]);
        held.open.remove(&2);
        assert_eq!(held.due(), [id(2)]);
    }

    #[test]
    fn a_sweep_leaves_what_is_named_what_is_new_and_what_is_not_ours() {
        let folder = tempfile::tempdir().unwrap();
        let before = files(folder.path());
        for file in before.write(&["a".into(), "b".into()]).unwrap() {
            file.keep();
        }
        fs::write(folder.path().join("other"), "").unwrap();
        let now = files(folder.path());
        now.write(&["c".into()]).unwrap().into_iter().for_each(NewFile::keep);
        now.sweep(|id| Ok(id.number == 0), || false).unwrap();
        assert_eq!(now.held().due(), []);
        let hold = now.hold();
        now.sweep(|id| Ok(id.number == 0), || true).unwrap();
        // Without a cleaner nobody removes it; who holds it would see it go.
        assert_eq!(now.held().gone.len(), 1);
        assert_eq!(now.held().gone[0].1, FileId { life: before.life, number: 1, length: 1 });
        drop(hold);
        assert_eq!(now.held().gone.len(), 0);
    }
}
