//! Which versions clients were told for what stores keep under versions of their own. All stores of a process share the
//! memory for it: no number of shards takes more.

use std::collections::HashMap;

use super::super::Place;
use crate::{Entry, Version};

/// Remembered at least.
pub(in super::super) const LEAST: usize = 10_000;

/// The newest of them: at least so many, at most twice as many.
#[derive(Debug)]
pub(in super::super) struct Told {
    /// By store and key.
    young: Versions,
    old: Versions,
    least: usize,
    stores: u64,
}

/// The version that clients were told, and the store's.
pub(super) type Pair = (Version, Version);

type Versions = HashMap<(u64, Place), Pair>;

impl Told {
    pub(in super::super) fn new(least: usize) -> Self {
        Self { young: HashMap::new(), old: HashMap::new(), least, stores: 0 }
    }

    /// The number of a store that is opened.
    pub(super) fn next_store(&mut self) -> u64 {
        self.stores += 1;
        self.stores
    }

    pub(super) fn add(&mut self, place: (u64, Place), told: Version, stored: Version) {
        if self.young.len() >= self.least {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(place, (told, stored));
    }

    /// What was told last.
    pub(super) fn last(&self, place: &(u64, Place)) -> Option<&Pair> {
        self.young.get(place).or_else(|| self.old.get(place))
    }
}

/// The version that clients were told for what was found in the store, if it is this one.
pub(super) fn told_for(pair: Option<&Pair>, found: &Entry) -> Option<Version> {
    pair.filter(|(_, stored)| *stored == found.version).map(|(told, _)| told.clone())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{Key, Value};

    #[test]
    fn the_newest_are_known_while_the_store_has_what_they_were_told_for() {
        let mut told = Told::new(3);
        let (store, other) = (told.next_store(), told.next_store());
        let place = |n: u64| -> (u64, Place) { (store, ("kv/".into(), Key::new(n.to_string()).unwrap())) };
        let version = |tag: &str, n: u64| Version { revision: n, tag: tag.into() };
        let entry = |n| Entry { value: Value::Json(json!(n)), version: version("stored", n) };
        for n in 0..7 {
            told.add(place(n), version("told", n), version("stored", n));
        }
        for n in 3..7 {
            assert_eq!(told_for(told.last(&place(n)), &entry(n)), Some(version("told", n)), "{n}");
        }
        assert_eq!(told.last(&place(0)), None, "memory has an end");
        assert_eq!(told.last(&(other, place(6).1)), None, "every store has its own");
        assert_eq!(told_for(told.last(&place(6)), &entry(8)), None);
    }
}
