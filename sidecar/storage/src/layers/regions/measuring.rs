//! How far the regions are, measured. What one store of a process has measured counts for all others: a process with many
//! stores asks each region as often as one with a single store.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use tokio::time::{Instant, sleep};

use super::Nearness;
use super::store::Store;

/// Time between measurements.
const EVERY: Duration = Duration::from_secs(10);
/// What another store has measured is no older than this.
const FRESH: Duration = Duration::from_secs(9);

/// When a region was asked last, and for how long, in microseconds; none: it did not answer.
type Asked = (Instant, Option<u64>);

/// How long each region has taken to answer.
#[derive(Debug, Default)]
pub(super) struct Measured {
    /// One store measures at a time: the next one finds what it needs.
    turn: tokio::sync::Mutex<()>,
    took: Mutex<HashMap<Arc<str>, Asked>>,
}

impl Measured {
    fn took(&self) -> MutexGuard<'_, HashMap<Arc<str>, Asked>> {
        self.took.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long a region took to answer when it was asked last, in microseconds; none: it did not, or was not asked.
    pub(super) fn micros(&self, region: &str) -> Option<u64> {
        self.took().get(region).and_then(|(_, micros)| *micros)
    }

    fn is_fresh(&self, region: &str) -> bool {
        self.took().get(region).is_some_and(|(at, _)| at.elapsed() < FRESH)
    }
}

/// Keeps the order of the regions as far as they are, as long as it is let.
pub(super) async fn attend(store: &Store) {
    if store.shared.settings.nearness == Nearness::Given {
        return std::future::pending().await;
    }
    loop {
        measure(store).await;
        sleep(EVERY).await;
    }
}

async fn measure(store: &Store) {
    let (active, measured) = (store.active(), &store.shared.measured);
    {
        let _turn = measured.turn.lock().await;
        let old = active.iter().filter(|at| !measured.is_fresh(&store.regions[**at].name));
        join_all(old.map(|at| ask(store, *at))).await;
    }
    let mut distances = store.distances();
    for at in active {
        match measured.micros(&store.regions[at].name) {
            Some(micros) => distances.measure(at, micros),
            None => distances.fail(at),
        }
    }
    distances.round();
}

/// Notes how long a small question takes.
async fn ask(store: &Store, at: usize) {
    let (region, began) = (&store.regions[at], Instant::now());
    let answered = region.is_filled().await.is_ok();
    let micros = answered.then(|| u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX));
    store.shared.measured.took().insert(Arc::clone(&region.name), (Instant::now(), micros));
}
