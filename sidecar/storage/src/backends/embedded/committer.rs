//! One thread judges all writes and makes them durable together.
//!
//! Writers put what they want in a queue. The thread takes all that wait, judges each against what stands there (and
//! against what the same round is about to write), and commits the round: one batch, one flush for all of them. While
//! the disk works, the next round gathers. So a condition is judged and its write is made with nobody in between, and
//! the more writers there are, the less each flush costs.
//!
//! Nobody is told anything before the round is durable, and nobody reads what is not.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::engine::{Durable, Engine, Failed};
use super::layout::{self, Generation, Meta};
use super::stores::{Store, Stores, parse};
use crate::envelope::{Stored, Trail, new_nonce, open, seal};
use crate::layers::compression::Compression;
use crate::performed::Performed;
use crate::{Entry, Error, Key, Outcome, Value, Version, WriteResult};

/// Writes that wait before a writer has to wait to be let in.
pub(super) const QUEUE: usize = 1024;
/// A round takes no more once it has so many changes, or so many bytes.
const ROUND: (usize, usize) = (4096, 8 << 20);

/// Something to do for the committer. Does its part in the round, and says what to do when the round has ended.
pub(super) enum Job {
    /// Writes of keys.
    Write(Act),
    /// A change of the stores themselves: what comes before it is durable, and what comes after it sees it done.
    Alone(Act),
}

type Act = Box<dyn FnOnce(&mut Round<'_>) + Send>;
type AtEnd = Box<dyn FnOnce(&Result<(), Failed>) + Send>;

/// Runs until nobody can send any more.
pub(super) fn run(engine: &Engine, stores: &Stores, mut queue: mpsc::Receiver<Job>) {
    while let Some(first) = queue.blocking_recv() {
        let mut round = Round::new(engine, stores);
        let mut next = Some(first);
        while let Some(job) = next.take() {
            match job {
                Job::Write(act) => {
                    act(&mut round);
                    if !round.is_full() {
                        next = queue.try_recv().ok();
                    }
                }
                Job::Alone(act) => {
                    std::mem::replace(&mut round, Round::new(engine, stores)).end();
                    act(&mut round);
                }
            }
        }
        round.end();
    }
}

/// Where a value is, whichever generation its store may be at.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) store: Arc<Store>,
    pub(super) space: Arc<[u8]>,
    pub(super) key: Key,
    /// For what is written there.
    pub(super) compression: Option<Compression>,
}

impl Place {
    pub(super) fn at(&self, generation: Generation) -> Vec<u8> {
        layout::data_key(generation, &self.space, &self.key)
    }

    /// It is being written: for who copies the store. Whoever asks for the notes is answered after this round.
    fn note(&self) {
        self.store.notes.add(|| layout::without_generation(&self.at(0)).to_vec());
    }

    /// What stands there, of the bytes found.
    pub(super) fn open(&self, bytes: Option<Bytes>) -> Result<Option<Stored>, Error> {
        bytes.map(|bytes| open(&self.key, &bytes)?.into_stored(&self.key)).transpose()
    }
}

/// What a writer wants, now that it knows what stands there.
pub(super) enum Decision<T> {
    /// Its condition does not hold.
    Reject(Option<Entry>),
    /// There is nothing to write.
    Keep(T),
    /// No value.
    Remove(T),
    /// This value, remembering these operations; the answer is made of its version.
    Write(Value, Performed, Box<dyn FnOnce(Version) -> T + Send>),
}

/// Decides a write. `Err` in: what stands there is damaged.
pub(super) type Decide<T> = Box<dyn FnOnce(Result<Option<Stored>, Error>) -> Result<Decision<T>, Error> + Send>;

/// An answer that holds once its round is durable.
pub(super) struct Judged<T> {
    outcome: WriteResult<T>,
    wrote: bool,
}

impl<T> Judged<T> {
    /// The answer, of how the round ended.
    pub(super) fn settle(self, ended: &Result<(), Failed>) -> WriteResult<T> {
        match (ended, self.outcome) {
            (Ok(()), outcome) | (Err(_), outcome @ Err(_)) => outcome,
            (Err(Failed::Unknown(unknown)), Ok(_)) if self.wrote => Ok(Outcome::Unknown(unknown.clone())),
            // Nothing was written. What it saw may have been the round's own, which nobody will ever see.
            (Err(failed), Ok(_)) => Err(failed.clone().into_error()),
        }
    }
}

/// What will be written together.
pub(super) struct Round<'a> {
    engine: &'a Engine,
    stores: &'a Stores,
    changes: HashMap<Vec<u8>, Option<Bytes>>,
    bytes: usize,
    /// What the disk had room for when it was first asked.
    room: Option<(u64, bool)>,
    /// The first generations of stores that had none.
    begun: HashMap<String, Generation>,
    at_end: Vec<AtEnd>,
}

impl<'a> Round<'a> {
    fn new(engine: &'a Engine, stores: &'a Stores) -> Self {
        Self {
            engine,
            stores,
            changes: HashMap::new(),
            bytes: 0,
            room: None,
            begun: HashMap::new(),
            at_end: Vec::new(),
        }
    }

    fn is_full(&self) -> bool {
        self.changes.len() >= ROUND.0 || self.bytes >= ROUND.1
    }

    /// Runs once the round has ended, well or not.
    pub(super) fn at_end(&mut self, act: impl FnOnce(&Result<(), Failed>) + Send + 'static) {
        self.at_end.push(Box::new(act));
    }

    /// Judges one write.
    pub(super) fn write<T>(&mut self, place: &Place, decide: Decide<T>) -> Judged<T> {
        match self.try_write(place, decide) {
            Ok((outcome, wrote)) => Judged { outcome: Ok(outcome), wrote },
            Err(error) => Judged { outcome: Err(error), wrote: false },
        }
    }

    fn try_write<T>(&mut self, place: &Place, decide: Decide<T>) -> Result<(Outcome<T>, bool), Error> {
        let current = match self.generation(&place.store)? {
            0 => Ok(None),
            generation => self.read(&place.at(generation)).and_then(|bytes| place.open(bytes)),
        };
        let revision = current.as_ref().ok().and_then(Option::as_ref).map_or(0, |stored| stored.entry.version.revision);
        match decide(current)? {
            Decision::Reject(current) => Ok((Outcome::Rejected(current), false)),
            Decision::Keep(answer) => Ok((Outcome::Applied(answer), false)),
            Decision::Remove(answer) => {
                let key = place.at(self.generation(&place.store)?);
                self.check_room(0)?;
                place.note();
                self.change(key, None);
                Ok((Outcome::Applied(answer), true))
            }
            Decision::Write(value, performed, answer) => {
                let version = Version { revision: revision.saturating_add(1), tag: new_nonce() };
                let trail = Trail { performed, before: Vec::new() };
                let sealed = seal(&place.key, version.revision, &version.tag, &value, &trail, place.compression)?;
                self.check_room(sealed.len())?;
                let key = place.at(self.own_generation(&place.store)?);
                place.note();
                self.change(key, Some(sealed));
                Ok((Outcome::Applied(answer(version)), true))
            }
        }
    }

    /// What stands there, as this round will leave it.
    fn read(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        match self.changes.get(key) {
            Some(change) => Ok(change.clone()),
            None => self.engine.get(key),
        }
    }

    fn change(&mut self, key: Vec<u8>, value: Option<Bytes>) {
        self.bytes += key.len() + value.as_ref().map_or(0, Bytes::len);
        self.changes.insert(key, value);
    }

    /// Refuses a write of so many bytes (0: a removal) that the disk has no room for.
    fn check_room(&mut self, bytes: usize) -> Result<(), Error> {
        let (room, removals) = match self.room {
            Some(room) => room,
            None => *self.room.insert(self.engine.room()?),
        };
        let fits = if bytes == 0 { removals } else { (self.bytes + bytes) as u64 <= room };
        if fits { Ok(()) } else { Err(self.engine.full()) }
    }

    fn generation(&self, store: &Store) -> Result<Generation, Error> {
        let generation = store.generation()?;
        Ok(if generation == 0 { self.begun.get(&store.name).copied().unwrap_or(0) } else { generation })
    }

    /// The store's generation; a new one if it has none.
    fn own_generation(&mut self, store: &Store) -> Result<Generation, Error> {
        match self.generation(store)? {
            0 => {
                let generation = self.new_generation();
                self.set_meta(&store.name, &Meta { generation, stamp: None })?;
                self.begun.insert(store.name.clone(), generation);
                Ok(generation)
            }
            generation => Ok(generation),
        }
    }

    /// Gives out a generation.
    pub(super) fn new_generation(&mut self) -> Generation {
        let generation = self.stores.next_generation();
        self.change(layout::HIGHEST.to_vec(), Some(Bytes::copy_from_slice(&generation.to_be_bytes())));
        generation
    }

    /// What is noted about a store.
    pub(super) fn meta(&self, name: &str) -> Result<Option<Meta>, Error> {
        let key = layout::meta_key(name);
        self.read(&key)?.map(|value| parse(&key, &value).map(|(_, meta)| meta)).transpose()
    }

    /// Notes something about a store.
    pub(super) fn set_meta(&mut self, name: &str, meta: &Meta) -> Result<(), Error> {
        let text = serde_json::to_vec(meta).map_err(|why| Error::invalid("stamp", why.to_string()))?;
        self.change(layout::meta_key(name), Some(text.into()));
        Ok(())
    }

    /// Notes something about a store. What was its data before is garbage: returned.
    pub(super) fn replace(&mut self, name: &str, meta: &Meta) -> Result<Option<Generation>, Error> {
        let replaced = self.meta(name)?.map(|meta| meta.generation);
        self.set_meta(name, meta)?;
        if let Some(replaced) = replaced {
            self.mark_garbage(replaced, true);
        }
        Ok(replaced)
    }

    /// Forgets a store.
    pub(super) fn remove_meta(&mut self, name: &str) {
        self.change(layout::meta_key(name), None);
    }

    /// Notes that the data of a generation belongs to nobody, or that it does.
    pub(super) fn mark_garbage(&mut self, generation: Generation, is_garbage: bool) {
        self.change(layout::garbage_key(generation), is_garbage.then(Bytes::new));
    }

    /// Makes it durable, and tells everyone.
    fn end(self) {
        let ended = if self.changes.is_empty() {
            Ok(())
        } else {
            self.engine.commit(self.changes.into_iter().collect(), Durable::Now)
        };
        if ended.is_ok() {
            for (name, generation) in &self.begun {
                self.stores.set(name, *generation);
            }
        }
        for act in self.at_end {
            act(&ended);
        }
    }
}
