//! Whole stores: copied to another machine, replaced by such a copy, renamed, removed.
//!
//! Each of these is one write: a record names another generation, and the old one is marked as garbage. A crash before it
//! leaves the old state, a crash after it the new one.
//!
//! A store may be copied while it is written to: the committer notes which keys it writes, and says between two rounds which
//! they were, so that each write is in the snapshot that goes with the notes, or in later notes.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::cleaner::{Garbage, Gate, marked};
use super::edit::{Edit, Sealed};
use super::engine::{Durable, Engine, Failed, View};
use super::files::NewFile;
use super::layout::{self, Generation, Meta};
use super::record::Record;
use super::stores::{Store, check_name, damaged, parse};
use super::{EmbeddedDatabase, blocking};
use crate::backends::notes::Noted;
use crate::backends::stored::{self, StoredChange, StoredFile};
use crate::encoding::{encode, keys_folder};
use crate::{Error, Key, envelope};

/// Keys read ahead of whoever takes an export.
const READ_AHEAD: usize = 8;

/// Reads a store into a channel, see [`EmbeddedAdapter::export`](super::EmbeddedAdapter::export).
pub(super) fn export(engine: Arc<Engine>, store: Arc<Store>) -> mpsc::Receiver<Result<StoredFile, Error>> {
    // Taken here: it is the store as of this call.
    let snapshot = engine.snapshot();
    export_at(engine, snapshot, store)
}

fn export_at(engine: Arc<Engine>, snapshot: View, store: Arc<Store>) -> mpsc::Receiver<Result<StoredFile, Error>> {
    let (sender, receiver) = mpsc::channel(READ_AHEAD);
    tokio::task::spawn_blocking(move || {
        if let Err(Stop::Failed(error)) = send_all(&engine, &snapshot, &store, &sender) {
            // Fails only if the other side is gone as well.
            let _ = sender.blocking_send(Err(error));
        }
    });
    receiver
}

enum Stop {
    NobodyListens,
    Failed(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

fn send_all(
    engine: &Engine,
    snapshot: &View,
    store: &Store,
    sender: &mpsc::Sender<Result<StoredFile, Error>>,
) -> Result<(), Stop> {
    store.generation()?;
    // As of then: the store may be replaced meanwhile.
    let key = layout::meta_key(&store.name);
    let Some(record) = engine.get_at(snapshot, &key)? else { return Ok(()) };
    let (_, meta) = parse(&key, &record)?;
    for item in engine.envelopes(snapshot, &layout::generation_prefix(meta.generation)) {
        let (key, value) = item?;
        sender.blocking_send(Ok(stored_file(&key, value)?)).map_err(|_| Stop::NobodyListens)?;
    }
    Ok(())
}

fn stored_file(key: &[u8], content: Bytes) -> Result<StoredFile, Error> {
    let (path, key) = path_of(key)?;
    envelope::open(&key, &content)?;
    Ok(StoredFile { path, content })
}

fn path_of(key: &[u8]) -> Result<(String, Key), Error> {
    let (_, namespaces, key) = layout::parse_data_key(key).ok_or_else(|| damaged("a key that is none"))?;
    Ok((format!("{}{}", keys_folder(&namespaces), encode(key.as_str())), key))
}

/// Begins to copy a store, see [`EmbeddedAdapter::copy`](super::EmbeddedAdapter::copy).
pub(super) async fn copy(
    database: EmbeddedDatabase,
    store: Arc<Store>,
) -> Result<(mpsc::Receiver<Result<StoredFile, Error>>, Changes), Error> {
    let engine = Arc::clone(&database.inner.engine);
    // Between two rounds: what is noted from here on is not in the snapshot, and all before is.
    let (noted, snapshot) = {
        let (store, engine) = (Arc::clone(&store), Arc::clone(&engine));
        database.alone(move |_| Ok(Box::new(move || (store.notes.begin(), engine.snapshot())))).await?
    };
    let files = export_at(engine, snapshot, Arc::clone(&store));
    Ok((files, Changes { database, store, noted }))
}

/// What is written to a store while it is copied.
#[derive(Debug)]
pub struct Changes {
    database: EmbeddedDatabase,
    store: Arc<Store>,
    noted: Arc<Noted<Vec<u8>>>,
}

impl Changes {
    /// How many keys were written since the copy began and not taken yet.
    pub fn waiting(&self) -> usize {
        self.noted.len()
    }

    /// Takes at most so many of these keys, each as it is now; none: no key was written before this call that was not taken.
    /// Where it is given up before it ends, the keys that it had taken are lost to the copy.
    pub async fn next(&self, most: usize) -> Result<Vec<StoredChange>, Error> {
        let engine = Arc::clone(&self.database.inner.engine);
        let noted = Arc::clone(&self.noted);
        let taken = self.database.alone(move |_| Ok(Box::new(move || (noted.take(most), engine.snapshot()))));
        let (keys, snapshot) = taken.await?;
        let (keys, store) = (keys?, Arc::clone(&self.store));
        let engine = Arc::clone(&self.database.inner.engine);
        blocking(move || {
            let prefix = layout::generation_prefix(store.generation()?);
            let now = |key: Vec<u8>| {
                let key = [prefix.as_slice(), &key].concat();
                match engine.envelope_at(&snapshot, &key)? {
                    Some(content) => stored_file(&key, content).map(StoredChange::Is),
                    None => path_of(&key).map(|(path, _)| StoredChange::Gone(path)),
                }
            };
            keys.into_iter().map(now).collect()
        })
        .await
    }
}

/// What [`EmbeddedDatabase::audit`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Audit {
    /// Stores that have been written or stamped.
    pub stores: u64,
    /// Keys of all of them.
    pub keys: u64,
    /// Generations of data that belong to nobody and are about to be deleted.
    pub garbage: u64,
}

impl EmbeddedDatabase {
    /// Begins an import into the store of this name. What is there stays until [`Import::finish`].
    pub async fn import(&self, name: &str) -> Result<Import, Error> {
        check_name(name)?;
        let generation = self.alone(move |round| {
            let generation = round.new_generation();
            round.mark_garbage(generation, true);
            Ok(Box::new(move || generation))
        });
        let garbage = self.inner.cleaner.garbage();
        let received = Received { generation: generation.await?, gate: Arc::default(), garbage, is_kept: false };
        Ok(Import { database: self.clone(), name: name.to_owned(), received })
    }

    /// Gives the store `from` the name `to`, and this stamp; a store that has the name is replaced by it, for whoever has
    /// it open as well. Whoever has `from` open finds it removed. At once and durably. Fails with cause `Missing` if there
    /// is no store `from`.
    pub async fn rename(&self, from: &str, to: &str, stamp: Option<String>) -> Result<(), Error> {
        check_name(from)?;
        check_name(to)?;
        if from == to {
            return Err(Error::invalid("store", "has this name already"));
        }
        let (from, to) = (from.to_owned(), to.to_owned());
        let (stores, garbage) = (Arc::clone(&self.inner.stores), self.inner.cleaner.garbage());
        self.alone(move |round| {
            let missing = || Error::unavailable("Missing", format!("there is no store {from:?}"));
            let generation = round.meta(&from)?.ok_or_else(missing)?.generation;
            let replaced = round.replace(&to, &Meta { generation, stamp })?;
            round.remove_meta(&from);
            Ok(Box::new(move || {
                stores.remove(&from);
                stores.set(&to, generation);
                garbage.delete(replaced);
            }))
        })
        .await
    }

    /// Removes a store with all its namespaces, at once and durably. From then on, every adapter that still has it open
    /// fails with cause `Removed`; opening it anew gives an empty store. A store that does not exist is no error.
    pub async fn destroy(&self, name: &str) -> Result<(), Error> {
        check_name(name)?;
        let name = name.to_owned();
        let (stores, garbage) = (Arc::clone(&self.inner.stores), self.inner.cleaner.garbage());
        self.alone(move |round| {
            let removed = round.meta(&name)?.map(|meta| meta.generation);
            if let Some(removed) = removed {
                round.remove_meta(&name);
                round.mark_garbage(removed, true);
            }
            Ok(Box::new(move || {
                stores.remove(&name);
                garbage.delete(removed);
            }))
        })
        .await
    }

    /// Stamps a store, durably; a store that has nothing in it yet exists from then on.
    pub async fn stamp(&self, name: &str, stamp: String) -> Result<(), Error> {
        check_name(name)?;
        let (name, stores) = (name.to_owned(), Arc::clone(&self.inner.stores));
        self.alone(move |round| {
            let generation = match round.meta(&name)? {
                Some(meta) => meta.generation,
                None => round.new_generation(),
            };
            round.set_meta(&name, &Meta { generation, stamp: Some(stamp) })?;
            Ok(Box::new(move || stores.set(&name, generation)))
        })
        .await
    }

    /// All stores that have been written or stamped, in order of their names, each with its stamp.
    pub async fn stamps(&self) -> Result<Vec<(String, Option<String>)>, Error> {
        let engine = Arc::clone(&self.inner.engine);
        blocking(move || {
            let snapshot = engine.snapshot();
            let record = |item: Result<(Vec<u8>, Bytes), Error>| {
                let (key, value) = item?;
                parse(&key, &value).map(|(name, meta)| (name, meta.stamp))
            };
            engine.items(&snapshot, &layout::all_meta()).map(record).collect()
        })
        .await
    }

    /// Reads everything, and fails on what is damaged, or belongs to no store and is not about to be deleted. Takes as
    /// long as reading the whole database does.
    pub async fn audit(&self) -> Result<Audit, Error> {
        let engine = Arc::clone(&self.inner.engine);
        blocking(move || audit(&engine)).await
    }
}

fn audit(engine: &Engine) -> Result<Audit, Error> {
    let garbage = marked(engine)?;
    let snapshot = engine.snapshot();
    let mut generations = HashSet::new();
    for item in engine.items(&snapshot, &layout::all_meta()) {
        let (key, value) = item?;
        generations.insert(parse(&key, &value)?.1.generation);
    }
    let mut found = Audit { stores: generations.len() as u64, keys: 0, garbage: garbage.len() as u64 };
    for item in engine.envelopes(&snapshot, &layout::all_data()) {
        let (key, value) = item?;
        let (generation, _, key) = layout::parse_data_key(&key).ok_or_else(|| damaged("a key that is none"))?;
        if generations.contains(&generation) {
            envelope::open(&key, &value)?;
            found.keys += 1;
        } else if !garbage.contains(&generation) {
            return Err(damaged(&format!("key {key:?} of generation {generation}, which belongs to nobody")));
        }
    }
    Ok(found)
}

/// A store being received. Dropped before it is finished, it leaves nothing.
#[derive(Debug)]
pub struct Import {
    database: EmbeddedDatabase,
    name: String,
    received: Received,
}

/// The data of an import. Dropped, it is deleted, unless it is kept.
#[derive(Debug)]
struct Received {
    generation: Generation,
    is_kept: bool,
    /// Shut before it is deleted: what is written after that would never be.
    gate: Arc<Gate>,
    garbage: Garbage,
}

impl Import {
    /// Receives some keys. Not durable, and not seen by anyone, until [`Import::finish`].
    pub async fn write(&self, files: Vec<StoredFile>) -> Result<(), Error> {
        let engine = Arc::clone(&self.database.inner.engine);
        let (generation, gate) = (self.received.generation, Arc::clone(&self.received.gate));
        blocking(move || {
            let mut values = BTreeMap::new();
            let mut bytes = 0;
            for file in files {
                let (namespaces, key) = file.check()?;
                let space = layout::space(&namespaces);
                layout::check_length(&space, &key)?;
                bytes += file.content.len() as u64;
                values.insert(layout::data_key(generation, &space, &key), file.content);
            }
            if bytes > engine.room()?.0 {
                return Err(engine.full());
            }
            let sealed = in_files(&engine, values)?;
            gate.pass(|| replace(&engine, sealed.into_iter().map(|(key, value)| (key, Some(value)))))
        })
        .await
    }

    /// Removes what was received of some keys, if anything was, by their paths. Not durable either.
    pub async fn remove(&self, paths: Vec<String>) -> Result<(), Error> {
        let engine = Arc::clone(&self.database.inner.engine);
        let (generation, gate) = (self.received.generation, Arc::clone(&self.received.gate));
        blocking(move || {
            let removal = |path: &String| {
                let (namespaces, key) = stored::parse(path)?;
                Ok((layout::data_key(generation, &layout::space(&namespaces), &key), None))
            };
            let changes = paths.iter().map(removal).collect::<Result<BTreeMap<_, _>, Error>>()?;
            gate.pass(|| replace(&engine, changes))
        })
        .await
    }

    /// Makes durable what was received so far, so that little is left to do at the end.
    pub async fn flush(&self) -> Result<(), Error> {
        let generation = self.received.generation;
        self.database
            .alone(move |round| {
                // What is noted already, once more: one flush of the journal covers what was written to it before.
                round.mark_garbage(generation, true);
                Ok(Box::new(|| ()))
            })
            .await
    }

    /// Puts the store in its place with this stamp, at once and durably: a store that stands there is replaced, for
    /// whoever has it open as well. After an error whose cause is `EngineFailed` the old store may stand there or the new
    /// one, which shows at the next start.
    pub async fn finish(self, stamp: Option<String>) -> Result<(), Error> {
        let Self { database, name, mut received } = self;
        let stores = Arc::clone(&database.inner.stores);
        let finished = database.alone(move |round| {
            let generation = received.generation;
            let replaced = round.replace(&name, &Meta { generation, stamp })?;
            round.mark_garbage(generation, false);
            Ok(Box::new(move || {
                received.is_kept = true;
                stores.set(&name, generation);
                received.garbage.delete(replaced);
            }))
        });
        finished.await
    }

    /// Gives up: what was received is deleted behind.
    pub fn discard(self) {
        drop(self);
    }
}

/// Writes the large ones of these envelopes to files.
fn in_files(engine: &Engine, envelopes: BTreeMap<Vec<u8>, Bytes>) -> Result<Vec<(Vec<u8>, Sealed)>, Error> {
    let parts = |envelope: &Bytes| envelope::split(envelope).unwrap_or_default();
    let (heads, payloads): (Vec<Bytes>, Vec<Bytes>) = envelopes.values().map(parts).unzip();
    let files = engine.write_files(&payloads).into_iter().collect::<Result<Vec<_>, Error>>()?;
    let sealed = |((key, envelope), (head, file)): ((Vec<u8>, Bytes), (Bytes, Option<NewFile>))| match file {
        Some(file) => (key, Sealed::Filed(head.to_vec(), file)),
        None => (key, Sealed::Whole(envelope)),
    };
    Ok(envelopes.into_iter().zip(heads.into_iter().zip(files)).map(sealed).collect())
}

/// Writes keys of a copy that is being received, of which each comes once. Not durable. Nobody else writes them meanwhile.
fn replace(engine: &Engine, values: impl IntoIterator<Item = (Vec<u8>, Option<Sealed>)>) -> Result<(), Error> {
    let mut edit = Edit::default();
    for (key, value) in values {
        let stands = engine.get(&key)?.map(Record::of);
        edit.replace(key, stands.as_ref(), value);
    }
    edit.commit(engine, Durable::Later).map_err(Failed::into_error)
}

impl Drop for Received {
    fn drop(&mut self) {
        if !self.is_kept {
            self.garbage.delete_behind(self.generation, Arc::clone(&self.gate));
        }
    }
}
