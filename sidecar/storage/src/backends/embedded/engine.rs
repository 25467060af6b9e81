//! The engine: one folder, one process, one ordered space of keys. A commit is durable, or it is not made.
//!
//! Where the engine could not write its journal or flush it, nobody knows whether the batch counts at the next start:
//! unknown. It refuses every write after that, and so do we; the same after its background thread failed, most often for
//! lack of room. The process has to be started again then, and what was acknowledged is read from the journal. Reads go
//! on meanwhile: they only ever see what is durable. Lack of room is found out *before* it can do any of this: see `room`.

use std::fmt::Display;
use std::fs::File;
use std::ops::{Bound, RangeBounds};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use fjall::{Database, Keyspace, PersistMode, Readable, Snapshot};
use rustix::fs::statvfs;

use super::files::{FileId, Files, Hold, LEAST_IN_A_FILE, NewFile};
use super::folder::{self, Opened, engine_failure};
use super::record::{self, Record};
use super::{layout, settings, stores};
use crate::backends::filesystem::files::failure;
use crate::{Error, Unknown};

/// Why the engine refuses to write, as far as it says.
const GAVE_UP: &str = "its own background work failed; perhaps the disk is full";
/// How often is looked whether the engine has caught up.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// With so much room no round is refused.
const ENOUGH: u64 = 32 << 20;

/// A key, and its new value or `None`.
pub(super) type Change = (Vec<u8>, Option<Bytes>);

/// When a commit must be durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Durable {
    /// When it returns.
    Now,
    /// With the next commit that is.
    Later,
}

impl Durable {
    fn mode(self) -> PersistMode {
        match self {
            // The journal has its size from the start, and what grows it later is metadata that fdatasync flushes too.
            Self::Now => PersistMode::SyncData,
            Self::Later => PersistMode::Buffer,
        }
    }
}

/// Why a commit did not end well.
#[derive(Clone, Debug)]
pub(super) enum Failed {
    /// Nothing of it was written, or ever will be.
    Clean(Error),
    /// Nobody knows.
    Unknown(Unknown),
}

impl Failed {
    /// For whoever wrote what nobody sees before a later commit: it is as good as not written.
    pub(super) fn into_error(self) -> Error {
        match self {
            Self::Clean(error) => error,
            Self::Unknown(Unknown(why)) => Error::unavailable("EngineFailed", why),
        }
    }
}

pub(super) struct Engine {
    folder: PathBuf,
    database: Database,
    data: Keyspace,
    files: Arc<Files>,
    /// How large its tables are.
    table: u64,
    /// Whether all keys of values are [named](layout).
    named: AtomicBool,
    writer: Mutex<Writer>,
    failure: OnceLock<Error>,
    syncs: AtomicU64,
    /// Declared last, so that it is given back last.
    _lock: File,
}

/// What only the one who commits needs.
struct Writer {
    /// Bytes in the engine's memory that are only in its journal yet.
    unflushed: u64,
    /// More than so many are sent to the disk.
    seal_at: u64,
    /// Bytes of the files that are named.
    filed: u64,
    /// Nothing was written since the last look.
    rests: bool,
    /// The next commit fails.
    #[cfg(test)]
    broken: bool,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("folder", &self.folder).finish_non_exhaustive()
    }
}

impl Engine {
    /// Opens a folder, or lays out a new one. Blocks.
    pub(super) fn open(folder: &Path) -> Result<Self, Error> {
        let Opened { folder, lock, database, data, values, unflushed, refused } = folder::open(folder)?;
        let table = settings::table_of(&data);
        let writer = Writer {
            unflushed,
            seal_at: settings::memory_table(data.disk_space(), table),
            filed: 0,
            rests: false,
            #[cfg(test)]
            broken: false,
        };
        let engine = Self {
            folder,
            database,
            data,
            files: Arc::new(Files::new(values)),
            table,
            named: AtomicBool::new(false),
            writer: Mutex::new(writer),
            failure: OnceLock::new(),
            syncs: AtomicU64::new(0),
            _lock: lock,
        };
        if let Some(bytes) = engine.get(layout::TOTAL)? {
            let total = <[u8; 8]>::try_from(&*bytes).map_err(|_| stores::damaged("the size of its files"))?;
            engine.writer().filed = u64::from_be_bytes(total);
        }
        engine.named.store(engine.get(layout::NAMED)?.is_some(), Ordering::Release);
        if let Some(error) = refused {
            engine.fail(&format!("after an earlier failure its journal could not be written anew: {error}"));
            return Ok(engine);
        }
        // What was read back from the journal into memory goes to the disk, so that memory is free again.
        engine.make_way(&mut engine.writer()).map_err(Failed::into_error)?;
        Ok(engine)
    }

    /// Whether all keys of values are named, so that a listing may go by names.
    pub(super) fn has_named_all(&self) -> bool {
        self.named.load(Ordering::Acquire)
    }

    /// It is noted durably, or nothing was written, that all are.
    pub(super) fn set_named_all(&self) {
        self.named.store(true, Ordering::Release);
    }

    /// How large its tables are.
    pub(super) fn table(&self) -> u64 {
        self.table
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The files of large values.
    pub(super) fn files(&self) -> &Arc<Files> {
        &self.files
    }

    /// Writes those contents to files that are large enough for one, durably, if there is room for them: all or none. Blocks.
    pub(super) fn write_files(&self, contents: &[Bytes]) -> Vec<Result<Option<NewFile>, Error>> {
        let is_large = |content: &&Bytes| content.len() >= LEAST_IN_A_FILE;
        let large: Vec<Bytes> = contents.iter().filter(is_large).cloned().collect();
        let mut files = self.write_all(&large).map(Vec::into_iter);
        let file = |content: &Bytes| match &mut files {
            _ if !is_large(&content) => Ok(None),
            Ok(files) => Ok(files.next()),
            Err(error) => Err(error.clone()),
        };
        contents.iter().map(file).collect()
    }

    fn write_all(&self, contents: &[Bytes]) -> Result<Vec<NewFile>, Error> {
        if contents.is_empty() {
            return Ok(Vec::new());
        }
        let bytes: u64 = contents.iter().map(|content| content.len() as u64).sum();
        if bytes > self.room()?.0 {
            return Err(self.full());
        }
        self.files.write(contents)
    }

    /// How often the journal was flushed.
    pub(super) fn syncs(&self) -> u64 {
        self.syncs.load(Ordering::Relaxed)
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why nothing more can be written, if that is so.
    pub(super) fn failure(&self) -> Option<Error> {
        if let Some(error) = self.failure.get() {
            return Some(error.clone());
        }
        // Writes nothing: it is how the engine says that it has given up.
        let given_up = self.database.persist(PersistMode::Buffer).is_err();
        given_up.then(|| self.fail(&GAVE_UP))
    }

    /// From now on nothing is written.
    fn fail(&self, why: &dyn Display) -> Error {
        let error = Error::unavailable(
            "EngineFailed",
            format!(
                "the database in {} stopped writing: {why}. Start the process again: what was acknowledged is recovered \
                 then. Reads go on",
                self.folder.display()
            ),
        );
        tracing::error!(folder = %self.folder.display(), "the database stopped writing: {why}");
        folder::suspect(&self.folder);
        self.failure.get_or_init(|| error).clone()
    }

    /// Writes all changes or none. Each key must come once. Blocks: for the disk, and while the engine is behind.
    pub(super) fn commit(&self, changes: Vec<Change>, durable: Durable) -> Result<(), Failed> {
        // One at a time: nobody may write behind a batch that failed.
        let mut writer = self.writer();
        self.failure().map_or(Ok(()), |error| Err(Failed::Clean(error)))?;
        self.make_way(&mut writer)?;
        writer.rests = false;
        let mut batch = self.database.batch().durability(Some(durable.mode()));
        let mut filed = writer.filed;
        for (key, value) in changes {
            if let Some(FileId { length, .. }) = layout::parse_file_key(&key) {
                filed = if value.is_some() { filed.saturating_add(length) } else { filed.saturating_sub(length) };
            }
            writer.unflushed += settings::cost(key.len(), value.as_ref().map_or(0, Bytes::len));
            match value {
                Some(value) => batch.insert(&self.data, key, &*value),
                None => batch.remove(&self.data, key),
            }
        }
        if filed != writer.filed {
            batch.insert(&self.data, layout::TOTAL, filed.to_be_bytes());
        }
        #[cfg(test)]
        let result = if std::mem::take(&mut writer.broken) {
            Err(std::io::Error::other("a test").into())
        } else {
            batch.commit()
        };
        #[cfg(not(test))]
        let result = batch.commit();
        match result {
            Ok(()) => {
                writer.filed = filed;
                if durable == Durable::Now {
                    self.syncs.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            }
            // It had given up before it wrote anything.
            Err(fjall::Error::Poisoned) => Err(Failed::Clean(self.fail(&GAVE_UP))),
            Err(error) => {
                let why = format!("its journal could not be written: {error}");
                Err(Failed::Unknown(Unknown(self.fail(&why).to_string())))
            }
        }
    }

    /// Seals what is in memory once it is enough, and waits while too much is sealed and not on the disk yet.
    fn make_way(&self, writer: &mut Writer) -> Result<(), Failed> {
        if writer.unflushed > writer.seal_at {
            // The engine could do this by itself. But it asks its one thread for it with every write, and that queue,
            // once full, is never emptied again: the thread waits for room in it.
            self.seal(writer).map_err(Failed::Clean)?;
        }
        loop {
            let (sealed, unsorted) = (self.data.sealed_memtable_count(), self.data.l0_table_count());
            if sealed <= settings::MAX_SEALED && unsorted <= settings::MAX_L0 {
                return Ok(());
            }
            self.failure().map_or(Ok(()), |error| Err(Failed::Clean(error)))?;
            if sealed == 0 && self.database.active_compactions() == 0 {
                self.sort().map_err(Failed::Clean)?;
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// Has the engine sort in what it has written to the disk. By itself it does one step of that each time that it has written something,
    /// which may be too few: then the next write would wait for what nobody does.
    fn sort(&self) -> Result<(), Error> {
        // To bring in nothing is the one way to say so. It leaves an empty file, which goes when the database is opened.
        let asked = self.data.start_ingestion().and_then(|nothing| nothing.finish());
        asked.map_err(|error| engine_failure("sorting", &self.folder, &error))
    }

    /// What is in memory is to go to a table on the disk. Does not wait for it.
    fn seal(&self, writer: &mut Writer) -> Result<(), Error> {
        let sealed = self.data.rotate_memtable();
        sealed.map_err(|error| self.fail(&format!("its memory could not be flushed: {error}")))?;
        writer.unflushed = 0;
        writer.seal_at = settings::memory_table(self.data.disk_space(), self.table);
        Ok(())
    }

    /// Frees the memory of what was written, once nothing has been since the last look and it is worth a table.
    pub(super) fn look_for_rest(&self) {
        let mut writer = self.writer();
        let rested = std::mem::replace(&mut writer.rests, true);
        if rested && writer.unflushed > settings::RESTING_BYTES && self.failure().is_none() {
            // It is logged, and the next write says so.
            let _ = self.seal(&mut writer);
        }
    }

    /// How many bytes of values the disk still has room for, besides what the engine needs to keep going; and whether
    /// there is still room for removals, which make more.
    pub(super) fn room(&self) -> Result<(u64, bool), Error> {
        loop {
            // Looked at first: what is on its way from memory to the disk counts twice until it has arrived.
            let is_moving = self.data.sealed_memtable_count() > 0;
            let (values, has_removals) = self.room_now()?;
            if values >= ENOUGH || !is_moving || self.failure().is_some() {
                return Ok((values, has_removals));
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    fn room_now(&self) -> Result<(u64, bool), Error> {
        let disk = statvfs(&self.folder).map_err(|errno| failure("examining", &self.folder, &errno.into()))?;
        let in_memory = self.in_memory();
        let reserve = settings::reserve(self.data.disk_space() + in_memory, self.table);
        let taken = in_memory + self.files.coming();
        let free = disk.f_bavail.saturating_mul(disk.f_frsize).saturating_sub(taken);
        // What is being rewritten takes of the reserve meanwhile, as it may.
        let rewrites = self.database.active_compactions() > 0;
        let has_removals = free > if rewrites { settings::LEAST } else { settings::reserve_of_removals(reserve) };
        Ok((free.saturating_sub(reserve), has_removals))
    }

    /// How many bytes the data has on the disk, files included, and will have once what is in memory is there too. More than its
    /// keys and values: what was replaced is part of it until tables are rewritten.
    pub(super) fn data_bytes(&self) -> u64 {
        let filed = self.writer().filed;
        self.data.disk_space() + self.in_memory() + filed
    }

    /// Bytes in memory that are on their way to the disk, or will be, at most.
    fn in_memory(&self) -> u64 {
        self.writer().unflushed + self.data.sealed_memtable_count() as u64 * settings::most_in_memory(self.table)
    }

    /// What a write that found no room is told.
    pub(super) fn full(&self) -> Error {
        Error::unavailable(
            "DiskFull",
            format!(
                "{} has no room left but what the database needs to keep going: delete something, or give it a larger disk",
                self.folder.display()
            ),
        )
    }

    /// What stands under a key, as of now. Of a value it may be the record of a file: see [`Self::envelope`].
    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        let value = self.data.get(key).map_err(|error| self.read_failure(&error))?;
        // A copy: what the engine hands out keeps a whole block of its cache in memory.
        Ok(value.map(|value| Bytes::copy_from_slice(&value)))
    }

    /// All keys and values as they are now, for as long as it is held.
    pub(super) fn snapshot(&self) -> View {
        // What goes between the two is kept as well.
        let hold = self.files.hold();
        View { snapshot: self.database.snapshot(), _hold: hold }
    }

    /// The envelope of a value, as of now.
    pub(super) fn envelope(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        let mut missing = None;
        loop {
            let Some(record) = self.get(key)?.map(Record::of) else { return Ok(None) };
            if let Some(envelope) = self.read(&record)? {
                return Ok(Some(envelope));
            }
            // It was replaced since, and its file is gone: then something else stands there by now.
            if missing == record.file() {
                return Err(no_file(key));
            }
            missing = record.file();
        }
    }

    /// The envelope of a value, as of then.
    pub(super) fn envelope_at(&self, snapshot: &View, key: &[u8]) -> Result<Option<Bytes>, Error> {
        self.get_at(snapshot, key)?.map(|record| self.whole(key, &Record::of(record))).transpose()
    }

    /// The envelope of a value whose record can't be replaced meanwhile.
    pub(super) fn whole(&self, key: &[u8], record: &Record) -> Result<Bytes, Error> {
        self.read(record)?.ok_or_else(|| no_file(key))
    }

    /// `None`: its file is not there.
    fn read(&self, record: &Record) -> Result<Option<Bytes>, Error> {
        match record {
            Record::Whole(envelope) => Ok(Some(envelope.clone())),
            Record::Filed(id, head) => self.files.read(*id, head),
        }
    }

    /// What stood under a key then. Of a value it may be the record of a file.
    pub(super) fn get_at(&self, View { snapshot, .. }: &View, key: &[u8]) -> Result<Option<Bytes>, Error> {
        let value = snapshot.get(&self.data, key).map_err(|error| self.read_failure(&error))?;
        Ok(value.map(|value| Bytes::copy_from_slice(&value)))
    }

    /// The keys from `from` on that begin with `prefix`, in order. `from` begins with it too.
    pub(super) fn keys<'a>(
        &'a self,
        snapshot: &'a View,
        prefix: &[u8],
        from: Bound<Vec<u8>>,
    ) -> impl Iterator<Item = Result<Vec<u8>, Error>> + use<'a> {
        snapshot.snapshot.range(&self.data, bounds(from, prefix)).map(|item| match item.key() {
            Ok(key) => Ok(key.to_vec()),
            Err(error) => Err(self.read_failure(&error)),
        })
    }

    /// The same, each with the file of its value, if it has one.
    pub(super) fn files_of<'a>(
        &'a self,
        snapshot: &'a View,
        prefix: &[u8],
        from: Bound<Vec<u8>>,
    ) -> impl Iterator<Item = Result<(Vec<u8>, Option<FileId>), Error>> + use<'a> {
        self.entries(snapshot, prefix, from, record::file_of)
    }

    /// All keys that begin with `prefix` with what stands under them, in order. Of values it may be records of files.
    pub(super) fn items<'a>(
        &'a self,
        snapshot: &'a View,
        prefix: &[u8],
    ) -> impl Iterator<Item = Result<(Vec<u8>, Bytes), Error>> + use<'a> {
        self.entries(snapshot, prefix, Bound::Included(prefix.to_vec()), Bytes::copy_from_slice)
    }

    /// Keys with what `of` makes of what stands under them, in order.
    fn entries<'a, T: 'a>(
        &'a self,
        snapshot: &'a View,
        prefix: &[u8],
        from: Bound<Vec<u8>>,
        of: fn(&[u8]) -> T,
    ) -> impl Iterator<Item = Result<(Vec<u8>, T), Error>> + use<'a, T> {
        snapshot.snapshot.range(&self.data, bounds(from, prefix)).map(move |item| match item.into_inner() {
            Ok((key, value)) => Ok((key.to_vec(), of(&value))),
            Err(error) => Err(self.read_failure(&error)),
        })
    }

    /// All keys of values that begin with `prefix`, with their envelopes, in order.
    pub(super) fn envelopes<'a>(
        &'a self,
        snapshot: &'a View,
        prefix: &[u8],
    ) -> impl Iterator<Item = Result<(Vec<u8>, Bytes), Error>> + use<'a> {
        self.items(snapshot, prefix).map(|item| {
            let (key, record) = item?;
            let envelope = self.whole(&key, &Record::of(record))?;
            Ok((key, envelope))
        })
    }

    fn read_failure(&self, error: &fjall::Error) -> Error {
        engine_failure("reading", &self.folder, error)
    }

    /// Bytes in memory that are only in the journal yet.
    #[cfg(test)]
    pub(super) fn unflushed(&self) -> u64 {
        self.writer().unflushed
    }

    /// Makes the next commit fail as it does when the journal can't be written.
    #[cfg(test)]
    pub(super) fn break_next_commit(&self) {
        self.writer().broken = true;
    }
}

/// The tree as it was at a time, with all files that its records name.
pub(super) struct View {
    snapshot: Snapshot,
    _hold: Hold,
}

/// A record names a file, and it is gone.
fn no_file(key: &[u8]) -> Error {
    let key =
        layout::parse_data_key(key).map_or_else(|| "a key that is none".to_owned(), |(_, _, key)| key.to_string());
    Error::Corrupt { key, problem: "the file with its value is missing".to_owned() }
}

impl Drop for Engine {
    /// The engine flushes its journal when it is closed, and does not say whether that failed.
    fn drop(&mut self) {
        if self.failure.get().is_none()
            && let Err(error) = self.database.persist(PersistMode::SyncAll)
        {
            self.fail(&format!("its journal could not be flushed when it was closed: {error}"));
        }
    }
}

/// From there on to the last key that begins with `prefix`. Without an end each look would open the tables behind it as well.
fn bounds(from: Bound<Vec<u8>>, prefix: &[u8]) -> impl RangeBounds<Vec<u8>> + use<> {
    let mut end = prefix.to_vec();
    // The least key that is greater than all of them: none, if every byte is the greatest.
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return (from, Bound::Excluded(end));
        }
    }
    (from, Bound::Unbounded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_ends_with_the_last_key_of_its_prefix() {
        let last_of = |prefix: &[u8]| bounds(Bound::Included(prefix.to_vec()), prefix).end_bound().cloned();
        assert_eq!(last_of(b"ab"), Bound::Excluded(b"ac".to_vec()));
        assert_eq!(last_of(&[7, 255, 255]), Bound::Excluded(vec![8]));
        assert_eq!(last_of(&[255, 255]), Bound::Unbounded);
        assert_eq!(last_of(b""), Bound::Unbounded);
    }

    #[test]
    fn what_must_be_durable_now_is_flushed() {
        assert_eq!(Durable::Now.mode(), PersistMode::SyncData);
    }
}
