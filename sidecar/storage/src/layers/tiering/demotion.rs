//! What has not been read for long, or what is older when the hot tier is too full, is kept in the cold tier alone: it is
//! written there if it is not yet, read there to see that it is, and then removed from the hot tier, if it still is what
//! it was.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::stream::{self, StreamExt};
use serde::Serialize;
use tokio::time::{sleep, timeout};

use super::record::{Record, State};
use super::spaces::Space;
use super::store::{Store, hash, read};
use super::tally::Counted;
use super::writing::from_cold;
use crate::layers::gates::Place;
use crate::{Condition, Error, Key, Outcome, Version};

/// Keys that are read at a time.
const PAGE: usize = 64;
/// Keys of one store that are demoted at a time.
const AT_ONCE: usize = 16;
/// Time between looks how full the hot tier is.
const LOOKS: Duration = Duration::from_secs(10);
/// Pause before a hot tier that is too full is looked through again: what was removed takes a while to be given back.
const FULL_PAUSE: Duration = Duration::from_secs(60);
/// Longest wait for a write to be brought to the cold tier.
const FLUSH_LIMIT: Duration = Duration::from_secs(30);
/// Most attempts of one key, while it is written.
const MAX_ATTEMPTS: u32 = 4;
/// Ages are told apart by powers of two of a second.
const AGES: usize = 40;

/// Runs that were asked for: how many, and the age in milliseconds from which on keys are demoted, if another than that of
/// the settings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Orders {
    pub(super) count: u64,
    pub(super) unread_for_ms: Option<u64>,
}

/// How far a run has come.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    /// It is under way, or waits for those of other stores.
    pub running: bool,
    /// When it began, in milliseconds since 1970; 0: never.
    pub started_at: u64,
    /// When it ended; 0: it has not.
    pub finished_at: u64,
    /// Keys of the hot tier that it has looked at.
    pub examined: u64,
    /// Keys that it has demoted.
    pub demoted: u64,
    /// The bytes that these took in the hot tier.
    pub demoted_bytes: u64,
    /// Keys that it could not demote.
    pub failed: u64,
    /// What the last of them failed with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

impl Progress {
    /// Of two stores together.
    pub(super) fn join(&mut self, other: &Self) {
        // One that never ran says nothing of when the others did.
        if !other.running && other.started_at == 0 {
            return;
        }
        self.started_at = match self.started_at {
            0 => other.started_at,
            mine => mine.min(other.started_at),
        };
        self.running |= other.running;
        self.finished_at = if self.running { 0 } else { self.finished_at.max(other.finished_at) };
        self.examined += other.examined;
        self.demoted += other.demoted;
        self.demoted_bytes += other.demoted_bytes;
        self.failed += other.failed;
        self.problem = self.problem.take().or_else(|| other.problem.clone());
    }
}

/// Runs when it is time, when it is asked for, and when the hot tier is too full.
pub(super) async fn attend(store: &Arc<Store>) {
    let mut orders = store.runs.subscribe();
    let every = Duration::from_millis(store.shared.settings.run_every_ms.max(1));
    // Nothing is demoted before all is known.
    store.scanned().await;
    let mut waited = Duration::ZERO;
    loop {
        let order = *orders.borrow_and_update();
        let asked = order.count > store.ordered.load(Ordering::SeqCst);
        let too_full = waited >= FULL_PAUSE && store.shared.excess() > 0;
        if asked || waited >= every || too_full {
            let unread_for = order.unread_for_ms.filter(|_| asked);
            Box::pin(run(store, unread_for.unwrap_or(store.shared.settings.demote_after_ms))).await;
            store.ordered.fetch_max(order.count, Ordering::SeqCst);
            waited = Duration::ZERO;
            continue;
        }
        let step = LOOKS.min(every);
        tokio::select! {
            biased;
            _ = orders.changed() => {}
            () = sleep(step) => waited += step,
        }
    }
}

/// A run that is broken off has ended, too.
struct Running<'a>(&'a Store);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let mut progress = self.0.progress();
        progress.running = false;
        progress.finished_at = self.0.now();
    }
}

/// One run over all keys of the hot tier.
async fn run(store: &Arc<Store>, unread_for_ms: u64) {
    *store.progress() = Progress { running: true, started_at: store.now(), ..Progress::default() };
    let _running = Running(store);
    // Closed never: it is the process's.
    let _turn = store.shared.runs.acquire().await;
    let mut ended = pass(store, unread_for_ms).await;
    let excess = store.shared.excess_of(store.tally.hot.get().1);
    if let (Ok(ages), true) = (&ended, excess > 0) {
        let older_than = ages.freeing(excess);
        ended = pass(store, older_than).await;
    }
    if let Err(error) = ended {
        store.progress().problem = Some(error.to_string());
    }
}

/// Bytes of the hot tier by how long they were not read: of each power of two seconds.
#[derive(Debug)]
struct Ages([u64; AGES]);

impl Default for Ages {
    fn default() -> Self {
        Self([0; AGES])
    }
}

impl Ages {
    fn add(&mut self, age_ms: u64, bytes: u64) {
        let bits = (u64::BITS - (age_ms / 1000).leading_zeros()) as usize;
        self.0[bits.min(AGES - 1)] += bytes;
    }

    /// The age in milliseconds from which on there are at least so many bytes; 0: of any age.
    fn freeing(&self, bytes: u64) -> u64 {
        let mut found = 0;
        for bits in (0..AGES).rev() {
            found += self.0[bits];
            if found >= bytes {
                // The least age that has so many bits.
                return if bits == 0 { 0 } else { (1 << (bits - 1)) * 1000 };
            }
        }
        0
    }
}

/// Looks at all keys once. Returns how old those are that stay.
async fn pass(store: &Arc<Store>, unread_for_ms: u64) -> Result<Ages, Error> {
    let (mut counted, mut ages) = (Counted::default(), Ages::default());
    for space in store.spaces.all() {
        let mut after: Option<Key> = None;
        loop {
            let page = space.hot.list("", after.as_ref(), PAGE).await?;
            let found = page.keys.iter().zip(space.hot.get_batch(&page.keys).await);
            let mut old = Vec::new();
            for (key, entry) in found {
                let Ok(Some((record, bytes))) = entry.and_then(|entry| read(key, entry)) else { continue };
                counted.add(bytes);
                let age = age(store, &space, key, &record);
                if age >= unread_for_ms && !record.sealed.is_removal() {
                    old.push(key.clone());
                } else {
                    ages.add(age, bytes);
                }
            }
            store.progress().examined += page.keys.len() as u64;
            // Owned by each, so that the stream does not borrow across threads.
            let demotions = old.into_iter().map(|key| demote(store, &space, key, unread_for_ms));
            let mut demotions = stream::iter(demotions).buffer_unordered(AT_ONCE);
            while let Some(demoted) = demotions.next().await {
                if let Ok(Some(bytes)) = demoted {
                    counted.remove(bytes);
                }
                note(store, demoted)?;
            }
            match page.keys.last() {
                Some(last) if page.more => after = Some(last.clone()),
                _ => break,
            }
        }
    }
    store.tally.set_hot(&counted);
    Ok(ages)
}

/// Ends the run where the cold store does not answer: all others would wait for it in vain.
fn note(store: &Store, demoted: Result<Option<u64>, Error>) -> Result<(), Error> {
    let mut progress = store.progress();
    match demoted {
        Ok(Some(bytes)) => {
            progress.demoted += 1;
            progress.demoted_bytes += bytes;
            store.shared.counts.demoted.add(1);
        }
        Ok(None) => {}
        Err(error) => {
            progress.failed += 1;
            progress.problem = Some(error.to_string());
            store.shared.counts.failed.add(1);
            if matches!(error, Error::Unavailable { .. }) {
                return Err(error);
            }
        }
    }
    Ok(())
}

/// Milliseconds since the key was read or written.
fn age(store: &Store, space: &Space, key: &Key, record: &Record) -> u64 {
    store.now().saturating_sub(store.access.last(hash(&space.folder, key), record.written_at))
}

/// Demotes a key that has not been read for so long. How many bytes are free by it; `None`: it stays.
async fn demote(store: &Arc<Store>, space: &Arc<Space>, key: Key, unread_for_ms: u64) -> Result<Option<u64>, Error> {
    let place = (Arc::clone(&space.folder), key.clone());
    for _ in 0..MAX_ATTEMPTS {
        let Some((record, bytes, at)) = stands(space, &key).await? else { return Ok(None) };
        if record.sealed.is_removal() || age(store, space, &key, &record) < unread_for_ms {
            return Ok(None);
        }
        let is_there = is_there(space, &key, &record).await?;
        if !is_there && record.is_unwritten() {
            bring(store, space, &place, &record).await?;
            continue;
        }
        if !is_there {
            // The cold tier has lost it, or says so: it is written there anew.
            let again = Record { state: State::Unwritten { over: None, inherits: false }, ..record };
            if let Outcome::Applied(_) = space.hot.put(&key, again.to_value(), &Condition::Version(at)).await? {
                store.note_unwritten(&place, space, &again, true);
            }
            let problem = "the cold tier does not hold what was written there; it is written anew".to_owned();
            return Err(Error::Corrupt { key: key.to_string(), problem });
        }
        if age(store, space, &key, &record) < unread_for_ms || !store.may_write() {
            return Ok(None);
        }
        match space.hot.remove(&key, &Condition::Version(at)).await? {
            Outcome::Applied(_) => {
                store.tally.hot.add(-1, -super::flush::signed(bytes));
                store.access.forget(hash(&space.folder, &key));
                return Ok(Some(bytes));
            }
            // It was written meanwhile.
            Outcome::Rejected(_) => {}
            Outcome::Unknown(why) => return Err(Error::unavailable("Interrupted", why.0)),
        }
    }
    Ok(None)
}

async fn stands(space: &Space, key: &Key) -> Result<Option<(Record, u64, Version)>, Error> {
    let entry = space.hot.get(key).await?;
    let at = entry.as_ref().map(|entry| entry.version.clone());
    Ok(read(key, entry)?.zip(at).map(|((record, bytes), at)| (record, bytes, at)))
}

/// Has the write brought to the cold tier, and waits for it.
async fn bring(store: &Store, space: &Arc<Space>, place: &Place, record: &Record) -> Result<(), Error> {
    if !store.pending.hurry(place) {
        store.note_unwritten(place, space, record, true);
    }
    let tried = timeout(FLUSH_LIMIT, store.pending.tried(place)).await;
    let late = || Error::unavailable("TimedOut", "a write could not be brought to the cold tier in time");
    // That it was tried without success shows when it is looked for.
    tried.map(drop).map_err(|_| late())?;
    match store.pending.lag().away {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

/// Whether the cold tier holds this very write, whole.
async fn is_there(space: &Space, key: &Key, record: &Record) -> Result<bool, Error> {
    let found = match space.cold.get(key).await {
        Err(Error::Corrupt { .. }) => return Ok(false),
        found => found?,
    };
    match from_cold(key, found) {
        Ok(found) => Ok(found.is_some_and(|(sealed, _)| sealed.entry() == record.sealed.entry())),
        Err(Error::Corrupt { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_bytes_that_free_enough_are_found_by_their_age() {
        let mut ages = Ages::default();
        for (seconds, bytes) in [(0, 10), (1, 10), (100, 10), (1000, 10), (1_000_000, 10)] {
            ages.add(seconds * 1000, bytes);
        }
        assert_eq!(ages.freeing(5), 524_288_000);
        assert_eq!(ages.freeing(20), 512_000);
        assert_eq!(ages.freeing(30), 64_000);
        assert_eq!(ages.freeing(50), 0);
        assert_eq!(ages.freeing(5000), 0, "all there is");
    }
}
