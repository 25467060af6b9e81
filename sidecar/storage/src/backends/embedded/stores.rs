//! Which stores a database has, and which generation of data each consists of.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::engine::Engine;
use super::layout::{self, Generation, Meta};
use crate::Error;
use crate::backends::notes::Notes;

/// Longest name of a store, in bytes.
const MAX_NAME_BYTES: usize = 255;

/// One store, shared by all who have it open. Only the committer changes it, and only after the change is durable.
#[derive(Debug)]
pub(super) struct Store {
    pub(super) name: String,
    /// 0: nothing was ever written.
    generation: AtomicU64,
    removed: AtomicBool,
    /// What the committer writes, for who copies the store: data keys without their generation.
    pub(super) notes: Notes<Vec<u8>>,
}

impl Store {
    /// Its generation of data. Fails once it has been removed: what is then missing must not pass for "no value".
    pub(super) fn generation(&self) -> Result<Generation, Error> {
        if self.removed.load(Ordering::SeqCst) {
            return Err(Error::unavailable("Removed", format!("the store {:?} has been removed", self.name)));
        }
        Ok(self.generation.load(Ordering::SeqCst))
    }

    /// Reads from the store's generation, again if another one took its place meanwhile: the data of an old one is
    /// being deleted, and must not look like a store with less in it.
    pub(super) fn read<T: Default>(&self, act: impl Fn(Generation) -> Result<T, Error>) -> Result<T, Error> {
        loop {
            let generation = self.generation()?;
            let found = if generation == 0 { T::default() } else { act(generation)? };
            if self.generation()? == generation {
                return Ok(found);
            }
        }
    }
}

/// All stores of a database.
#[derive(Debug)]
pub(super) struct Stores {
    by_name: Mutex<HashMap<String, Arc<Store>>>,
    /// Given out, or to be kept out of reach: only ever grows.
    highest: AtomicU64,
}

impl Stores {
    /// Reads which stores there are. Blocks.
    pub(super) fn load(engine: &Engine) -> Result<Self, Error> {
        let snapshot = engine.snapshot();
        let mut by_name = HashMap::new();
        for item in engine.items(&snapshot, &layout::all_meta()) {
            let (key, value) = item?;
            let (name, meta) = parse(&key, &value)?;
            by_name.insert(name.clone(), Arc::new(Store::at(name, meta.generation)));
        }
        let highest = match engine.get_at(&snapshot, layout::HIGHEST)? {
            None => 0,
            Some(bytes) => {
                let bytes = <[u8; 8]>::try_from(&*bytes).map_err(|_| damaged("its highest generation"))?;
                Generation::from_be_bytes(bytes)
            }
        };
        Ok(Self { by_name: Mutex::new(by_name), highest: AtomicU64::new(highest) })
    }

    fn by_name(&self) -> MutexGuard<'_, HashMap<String, Arc<Store>>> {
        self.by_name.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The store of this name; it need not have anything in it yet.
    pub(super) fn of(&self, name: &str) -> Result<Arc<Store>, Error> {
        check_name(name)?;
        let mut stores = self.by_name();
        let new = || Arc::new(Store::at(name.to_owned(), 0));
        Ok(Arc::clone(stores.entry(name.to_owned()).or_insert_with(new)))
    }

    /// The data that is a store's own.
    pub(super) fn generations(&self) -> HashSet<Generation> {
        self.by_name().values().map(|store| store.generation.load(Ordering::SeqCst)).collect()
    }

    /// A number that was never given out.
    pub(super) fn next_generation(&self) -> Generation {
        self.highest.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// The store of this name consists of this generation from now on.
    pub(super) fn set(&self, name: &str, generation: Generation) {
        let mut stores = self.by_name();
        match stores.get(name) {
            Some(store) => store.generation.store(generation, Ordering::SeqCst),
            None => drop(stores.insert(name.to_owned(), Arc::new(Store::at(name.to_owned(), generation)))),
        }
    }

    /// The store of this name is gone for good: whoever still holds it can do nothing more with it. The name is free.
    pub(super) fn remove(&self, name: &str) {
        if let Some(store) = self.by_name().remove(name) {
            store.removed.store(true, Ordering::SeqCst);
        }
    }
}

impl Store {
    fn at(name: String, generation: Generation) -> Self {
        Self { name, generation: AtomicU64::new(generation), removed: AtomicBool::new(false), notes: Notes::default() }
    }
}

/// Refuses what can't be a store's name.
pub(super) fn check_name(name: &str) -> Result<(), Error> {
    let bytes = name.len();
    if bytes == 0 || bytes > MAX_NAME_BYTES {
        return Err(Error::invalid(
            "store",
            format!("has a name of {bytes} bytes; it must have 1 to {MAX_NAME_BYTES}"),
        ));
    }
    Ok(())
}

/// A store's record as read.
pub(super) fn parse(key: &[u8], value: &[u8]) -> Result<(String, Meta), Error> {
    let name = layout::parse_meta_key(key).ok_or_else(|| damaged("the name of a store"))?;
    let meta = serde_json::from_slice(value).map_err(|why| damaged(&format!("the record of store {name:?}: {why}")))?;
    Ok((name, meta))
}

/// What the database notes about itself can't be read back.
pub(super) fn damaged(what: &str) -> Error {
    Error::Corrupt { key: "the database".to_owned(), problem: what.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_is_made_again_if_its_store_was_replaced_meanwhile_and_fails_if_it_was_removed() {
        let stores = Stores { by_name: Mutex::default(), highest: AtomicU64::new(0) };
        let store = stores.of("a").unwrap();
        stores.set("a", 1);
        let replaced = store.read(|generation| {
            // The data of generation 1 is deleted as soon as generation 2 has taken its place.
            stores.set("a", 2);
            Ok(if generation == 1 { Vec::new() } else { vec![generation] })
        });
        assert_eq!(replaced.unwrap(), [2]);
        let removed = store.read(|_| {
            stores.remove("a");
            Ok(())
        });
        assert!(matches!(removed, Err(Error::Unavailable { cause, .. }) if cause == "Removed"));
        assert_eq!(stores.of("a").unwrap().generation().unwrap(), 0, "the name is free");
    }
}
