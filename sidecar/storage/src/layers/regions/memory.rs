//! What regions are believed to hold of keys that were written or sent of late, so that a write is one request where it would be
//! two. Every write is conditional: a belief that is wrong costs one more attempt, and does no harm.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use moka::sync::Cache;

use super::record::Record;
use super::region::Space;
use super::stamp::Stamp;
use crate::{Key, Version};

/// Most bytes of versions, and of records, in a process.
const MOST: (u64, u64) = (16 << 20, 32 << 20);
/// What an entry costs beside its key and what it says, in bytes.
const OVERHEAD: usize = 200;
/// How often a record is in memory: as it is written, and as it is read.
const COPIES: u64 = 3;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Spot {
    /// Of a region of a store, or of what its own has written.
    of: u64,
    folder: Arc<str>,
    key: Key,
}

impl Spot {
    fn of(of: u64, space: &Space, key: &Key) -> Self {
        Self { of, folder: Arc::clone(&space.folder), key: key.clone() }
    }

    fn bytes(&self) -> u64 {
        (self.key.as_str().len() + OVERHEAD) as u64
    }
}

/// That of a process.
#[derive(Debug)]
pub(super) struct Memory {
    versions: Cache<Spot, (Stamp, Version)>,
    records: Cache<Spot, (Record, Version)>,
    numbers: AtomicU64,
}

impl Default for Memory {
    fn default() -> Self {
        let weight = |bytes: u64| u32::try_from(bytes).unwrap_or(u32::MAX);
        let version = move |spot: &Spot, (stamp, version): &(Stamp, Version)| {
            weight(spot.bytes() + (stamp.mark.len() + version.tag.len()) as u64)
        };
        let record = move |spot: &Spot, (record, _): &(Record, Version)| weight(spot.bytes() + COPIES * record.bytes());
        Self {
            versions: Cache::builder().max_capacity(MOST.0).weigher(version).build(),
            records: Cache::builder().max_capacity(MOST.1).weigher(record).build(),
            numbers: AtomicU64::default(),
        }
    }
}

impl Memory {
    fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::SeqCst)
    }
}

/// The versions in one region of a store.
#[derive(Debug)]
pub(super) struct Versions {
    memory: Arc<Memory>,
    of: u64,
}

impl Versions {
    pub(super) fn new(memory: &Arc<Memory>) -> Self {
        Self { memory: Arc::clone(memory), of: memory.number() }
    }

    /// The version of what stands there, if this record may be written over it unseen.
    pub(super) fn under(&self, space: &Space, key: &Key, record: &Record) -> Option<Version> {
        let (stamp, version) = self.memory.versions.get(&Spot::of(self.of, space, key))?;
        (stamp < record.stamp()).then_some(version)
    }

    /// This stands there now; `None`: nothing does, or nobody knows what.
    pub(super) fn note(&self, space: &Space, key: &Key, stands: Option<(&Record, &Version)>) {
        let spot = Spot::of(self.of, space, key);
        match stands {
            // What remembers operations has to be seen by whoever writes over it.
            Some((record, version)) if record.performed().is_empty() => {
                self.memory.versions.insert(spot, (record.stamp(), version.clone()));
            }
            _ => self.memory.versions.invalidate(&spot),
        }
    }
}

/// What this process has written in its own region of a store, with its version there. Whoever takes a record from here is
/// amidst of a piece of work.
#[derive(Debug)]
pub(super) struct Recent {
    memory: Arc<Memory>,
    of: AtomicU64,
}

impl Recent {
    pub(super) fn new(memory: &Arc<Memory>) -> Self {
        Self { memory: Arc::clone(memory), of: AtomicU64::new(memory.number()) }
    }

    fn spot(&self, space: &Space, key: &Key) -> Spot {
        Spot::of(self.of.load(Ordering::SeqCst), space, key)
    }

    pub(super) fn get(&self, space: &Space, key: &Key) -> Option<(Record, Version)> {
        self.memory.records.get(&self.spot(space, key))
    }

    /// This was written; `None`: nobody knows whether anything was.
    pub(super) fn note(&self, space: &Space, key: &Key, written: Option<(&Record, &Version)>) {
        match written {
            Some((record, version)) => {
                self.memory.records.insert(self.spot(space, key), (record.clone(), version.clone()));
            }
            None => self.memory.records.invalidate(&self.spot(space, key)),
        }
    }

    /// Nothing of it is taken any more.
    pub(super) fn forget(&self) {
        self.of.store(self.memory.number(), Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::region::{Region, Spaces};
    use super::*;
    use crate::backends::memory::MemoryAdapter;
    use crate::{StorageAdapter, Value};

    #[test]
    fn each_region_of_each_store_has_its_own_and_what_is_forgotten_is_gone() {
        let memory = Arc::default();
        let store: Arc<dyn StorageAdapter> = Arc::new(MemoryAdapter::new());
        let regions = ["a", "b"].map(|name| Region::new(name, &store, &memory));
        let (space, key) = (Spaces::new(&regions).space(&[]), Key::new("k").unwrap());
        let record = |time| Record::new(&key, (time, &"a".into()), Some(&Value::Json(json!(1))), Default::default());
        let (before, record, after) = (record(6).unwrap(), record(7).unwrap(), record(8).unwrap());
        let version = Version { revision: 7, tag: "seven".to_owned() };
        regions[0].versions.note(&space, &key, Some((&record, &version)));
        assert_eq!(regions[0].versions.under(&space, &key, &after), Some(version.clone()));
        assert_eq!(regions[0].versions.under(&space, &key, &before), None, "nothing is written over what is later");
        assert_eq!(regions[0].versions.under(&space, &key, &record), None);
        assert_eq!(regions[1].versions.under(&space, &key, &after), None);
        regions[0].versions.note(&space, &key, None);
        assert_eq!(regions[0].versions.under(&space, &key, &after), None);

        let (recent, other) = (Recent::new(&memory), Recent::new(&memory));
        recent.note(&space, &key, Some((&record, &version)));
        assert_eq!(recent.get(&space, &key), Some((record.clone(), version.clone())));
        assert_eq!(other.get(&space, &key), None);
        recent.forget();
        assert_eq!(recent.get(&space, &key), None);
        recent.note(&space, &key, Some((&record, &version)));
        assert!(recent.get(&space, &key).is_some(), "what is written later is kept");
        recent.note(&space, &key, None);
        assert_eq!(recent.get(&space, &key), None);
    }
}
