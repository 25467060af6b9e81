//! Which keys of a store are written while it is copied. Whoever writes says so before anybody can read what it wrote; whoever
//! copies asks at a moment when nobody is between the two (each backend has its own), so that no write is overlooked.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::Error;

/// Keys noted for one copy: beyond that it has to begin anew.
const MOST: usize = 1_000_000;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Of one store: for whom keys are noted.
#[derive(Debug)]
pub(super) struct Notes<K> {
    /// Spares those who write a lock while nobody copies.
    any: AtomicBool,
    copies: Mutex<Vec<Weak<Noted<K>>>>,
}

impl<K> Default for Notes<K> {
    fn default() -> Self {
        Self { any: AtomicBool::new(false), copies: Mutex::default() }
    }
}

impl<K: Clone + Ord> Notes<K> {
    /// From now on the keys that are written are noted, until it is dropped.
    pub(super) fn begin(&self) -> Arc<Noted<K>> {
        let noted = Arc::new(Noted { keys: Mutex::new(Some(BTreeSet::new())) });
        let mut copies = lock(&self.copies);
        copies.push(Arc::downgrade(&noted));
        self.any.store(true, Ordering::SeqCst);
        noted
    }

    /// A key is being written.
    pub(super) fn add(&self, key: impl FnOnce() -> K) {
        if !self.any.load(Ordering::SeqCst) {
            return;
        }
        let key = key();
        let mut copies = lock(&self.copies);
        copies.retain(|noted| noted.upgrade().is_some_and(|noted| noted.add(&key)));
        self.any.store(!copies.is_empty(), Ordering::SeqCst);
    }
}

/// The keys that were written since a copy began, or since they were taken.
#[derive(Debug)]
pub(super) struct Noted<K> {
    /// `None`: they were too many.
    keys: Mutex<Option<BTreeSet<K>>>,
}

impl<K: Clone + Ord> Noted<K> {
    fn add(&self, key: &K) -> bool {
        let mut keys = lock(&self.keys);
        let Some(noted) = keys.as_mut() else { return false };
        noted.insert(key.clone());
        if noted.len() > MOST {
            *keys = None;
        }
        true
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        lock(&self.keys).as_ref().map_or(MOST, BTreeSet::len)
    }

    /// Some of them, which stay.
    pub(super) fn first(&self, most: usize) -> Result<Vec<K>, Error> {
        Ok(lock(&self.keys).as_ref().ok_or_else(too_many)?.iter().take(most).cloned().collect())
    }

    /// Takes one of them.
    pub(super) fn remove(&self, key: &K) {
        if let Some(keys) = lock(&self.keys).as_mut() {
            keys.remove(key);
        }
    }

    /// Takes some of them.
    pub(super) fn take(&self, most: usize) -> Result<Vec<K>, Error> {
        let taken = self.first(most)?;
        taken.iter().for_each(|key| self.remove(key));
        Ok(taken)
    }
}

fn too_many() -> Error {
    Error::unavailable("TooManyChanges", format!("more than {MOST} keys were written and not copied yet: begin anew"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_copy_has_its_own_notes_and_they_end_with_it() {
        let notes = Notes::default();
        notes.add(|| 1);
        let (first, second) = (notes.begin(), notes.begin());
        notes.add(|| 2);
        notes.add(|| 3);
        assert_eq!(first.take(1).unwrap(), [2]);
        assert_eq!((first.len(), second.len()), (1, 2));
        drop((first, second));
        notes.add(|| 4);
        assert!(lock(&notes.copies).is_empty() && !notes.any.load(Ordering::SeqCst));
    }

    #[test]
    fn a_copy_that_does_not_keep_up_by_far_is_told_so() {
        let notes = Notes::default();
        let noted = notes.begin();
        (0..=MOST).for_each(|key| notes.add(|| key));
        assert!(matches!(noted.take(1), Err(Error::Unavailable { cause, .. }) if cause == "TooManyChanges"));
    }
}
