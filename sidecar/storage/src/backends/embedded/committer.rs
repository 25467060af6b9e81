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

use super::bringing::Brought;
use super::edit::{Edit, Sealed};
use super::engine::{Durable, Engine, Failed};
use super::layout::{self, Generation, Meta};
use super::record::Record;
use super::stores::{Store, Stores, parse};
use crate::envelope::{Stored, Trail, new_nonce, open, open_head};
use crate::layers::compression::Compression;
use crate::performed::Performed;
use crate::{Entry, Error, Key, Outcome, Version, WriteResult};

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

    /// The value in the envelope that was found there.
    pub(super) fn open(&self, envelope: &Bytes) -> Result<Stored, Error> {
        open(&self.key, envelope)?.into_stored(&self.key)
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
    Write(Brought, Performed, Box<dyn FnOnce(Version) -> T + Send>),
}

/// Decides a write.
pub(super) type Decide<T> = Box<dyn FnOnce(Current<'_>) -> Result<Decision<T>, Error> + Send>;

/// What stands where somebody wants to write.
pub(super) struct Current<'a> {
    engine: &'a Engine,
    place: &'a Place,
    /// `Err`: it is damaged.
    found: Result<Option<Found>, Error>,
}

/// As much of a value as its record tells.
enum Found {
    Whole(Stored),
    /// The value is in a file, which is read only if it is asked for.
    Filed(Record, Version, Performed),
}

impl<'a> Current<'a> {
    fn of(engine: &'a Engine, place: &'a Place, stands: &Result<Option<Record>, Error>) -> Self {
        let found = |record: &Record| {
            Ok(match record {
                Record::Whole(envelope) => Found::Whole(place.open(envelope)?),
                Record::Filed(_, head) => {
                    let (version, performed) = open_head(&place.key, head)?;
                    Found::Filed(record.clone(), version, performed)
                }
            })
        };
        let found = match stands {
            Ok(record) => record.as_ref().map(found).transpose(),
            Err(error) => Err(error.clone()),
        };
        Self { engine, place, found }
    }

    fn revision(&self) -> u64 {
        self.version().ok().flatten().map_or(0, |version| version.revision)
    }

    /// The version of what stands there.
    pub(super) fn version(&self) -> Result<Option<&Version>, Error> {
        match &self.found {
            Err(error) => Err(error.clone()),
            Ok(None) => Ok(None),
            Ok(Some(Found::Whole(stored))) => Ok(Some(&stored.entry.version)),
            Ok(Some(Found::Filed(_, version, _))) => Ok(Some(version)),
        }
    }

    /// The operations that it remembers.
    pub(super) fn performed(self) -> Result<Performed, Error> {
        Ok(match self.found? {
            None => Performed::default(),
            Some(Found::Whole(Stored { performed, .. }) | Found::Filed(_, _, performed)) => performed,
        })
    }

    /// All of it. Blocks for as long as its file is read, if it has one.
    pub(super) fn stored(self) -> Result<Option<Stored>, Error> {
        match self.found? {
            None => Ok(None),
            Some(Found::Whole(stored)) => Ok(Some(stored)),
            Some(Found::Filed(record, ..)) => {
                // Only this thread takes names from files of data that is in use.
                let envelope = self.engine.whole(&self.place.at(0), &record)?;
                self.place.open(&envelope).map(Some)
            }
        }
    }

    /// The same without the operations.
    pub(super) fn entry(self) -> Result<Option<Entry>, Error> {
        Ok(self.stored()?.map(|stored| stored.entry))
    }
}

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
    edit: Edit,
    /// What the disk had room for when it was first asked.
    room: Option<(u64, bool)>,
    /// The first generations of stores that had none.
    begun: HashMap<String, Generation>,
    at_end: Vec<AtEnd>,
}

impl<'a> Round<'a> {
    fn new(engine: &'a Engine, stores: &'a Stores) -> Self {
        Self { engine, stores, edit: Edit::default(), room: None, begun: HashMap::new(), at_end: Vec::new() }
    }

    fn is_full(&self) -> bool {
        self.edit.len() >= ROUND.0 || self.edit.bytes() >= ROUND.1
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
        let stands = match self.generation(&place.store)? {
            0 => Ok(None),
            generation => self.read(&place.at(generation)).map(|bytes| bytes.map(Record::of)),
        };
        let current = Current::of(self.engine, place, &stands);
        let stands = stands.ok().flatten();
        let revision = current.revision();
        match decide(current)? {
            Decision::Reject(current) => Ok((Outcome::Rejected(current), false)),
            Decision::Keep(answer) => Ok((Outcome::Applied(answer), false)),
            Decision::Remove(answer) => {
                let key = place.at(self.generation(&place.store)?);
                self.check_room(0)?;
                place.note();
                self.edit.replace(key, stands.as_ref(), None);
                Ok((Outcome::Applied(answer), true))
            }
            Decision::Write(value, performed, answer) => {
                let version = Version { revision: revision.saturating_add(1), tag: new_nonce() };
                let trail = Trail { performed, before: Vec::new() };
                let sealed = value.seal(&place.key, &version, &trail, place.compression)?;
                // What is in a file has its room already.
                self.check_room(match &sealed {
                    Sealed::Whole(envelope) => envelope.len(),
                    Sealed::Filed(head, _) => head.len(),
                })?;
                let key = place.at(self.own_generation(&place.store)?);
                place.note();
                self.edit.replace(key, stands.as_ref(), Some(sealed));
                Ok((Outcome::Applied(answer(version)), true))
            }
        }
    }

    /// What stands there, as this round will leave it.
    fn read(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        self.edit.get(self.engine, key)
    }

    /// Notes something that is no value.
    fn change(&mut self, key: Vec<u8>, what: Option<Bytes>) {
        self.edit.set(key, what);
    }

    /// Refuses a write of so many bytes (0: a removal) that the disk has no room for.
    fn check_room(&mut self, bytes: usize) -> Result<(), Error> {
        let (room, removals) = match self.room {
            Some(room) => room,
            None => *self.room.insert(self.engine.room()?),
        };
        let fits = if bytes == 0 { removals } else { (self.edit.bytes() + bytes) as u64 <= room };
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

    /// Names those keys of values that are there still, and belong to a store. What belongs to none is deleted behind.
    pub(super) fn name(&mut self, data_keys: &[Vec<u8>]) -> Result<(), Error> {
        let owned = self.stores.generations();
        for key in data_keys {
            let is_owned = layout::generation_of(key).is_some_and(|generation| owned.contains(&generation));
            if is_owned && self.read(key)?.is_some() {
                self.check_room(key.len())?;
                self.edit.name(key, true);
            }
        }
        Ok(())
    }

    /// All keys of values are named by now.
    pub(super) fn all_named(&mut self) -> Result<(), Error> {
        self.check_room(layout::NAMED.len())?;
        self.change(layout::NAMED.to_vec(), Some(Bytes::new()));
        Ok(())
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
        let ended = self.edit.commit(self.engine, Durable::Now);
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
