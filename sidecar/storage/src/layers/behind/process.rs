//! What the stores of a process share.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{SystemTime, UNIX_EPOCH};

/// Says what time it is, in milliseconds since 1970.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

pub(in crate::layers) fn system_clock() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// A number that only grows.
#[derive(Debug, Default)]
pub(in crate::layers) struct Counter(AtomicU64);

impl Counter {
    pub(in crate::layers) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub(in crate::layers) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Those that are in use.
#[derive(Debug)]
pub(in crate::layers) struct Stores<S>(Mutex<Vec<Weak<S>>>);

impl<S> Default for Stores<S> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<S> Stores<S> {
    fn lock(&self) -> MutexGuard<'_, Vec<Weak<S>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(in crate::layers) fn add(&self, store: &Arc<S>) {
        let mut stores = self.lock();
        stores.retain(|store| store.strong_count() > 0);
        stores.push(Arc::downgrade(store));
    }

    pub(in crate::layers) fn all(&self) -> Vec<Arc<S>> {
        self.lock().iter().filter_map(Weak::upgrade).collect()
    }
}
