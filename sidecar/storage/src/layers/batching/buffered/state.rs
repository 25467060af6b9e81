//! All keys of one store that are being written.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::super::{Batching, Claim, Counts, Forget, Place};
use super::Read;
use super::flusher::attend;
use super::line::{Found, Line, Sent};
use super::told::{Pair, Told, told_for};
use crate::layers::gates::Gates;
use crate::{Done, Entry, Error, Key, Operation, StorageAdapter, Version, WriteResult};

/// Acknowledged writes that may wait: so many batches.
const MOST_BATCHES: usize = 4;
/// Pauses before what failed is sent again: doubled from the first to the last.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// Of a store's buffer.
#[derive(Debug)]
pub(in super::super) struct Settings {
    pub(in super::super) batching: Batching,
    pub(in super::super) claim: Arc<dyn Claim>,
    pub(in super::super) counts: Arc<Counts>,
    pub(in super::super) above: Option<Arc<dyn Forget>>,
    pub(in super::super) told: Arc<Mutex<Told>>,
}

/// The acknowledged writes of one store, of all its namespaces.
#[derive(Debug)]
pub(super) struct Buffer {
    settings: Settings,
    pub(super) gates: Gates,
    /// For acknowledged writes that are not durable.
    pub(super) room: Arc<Semaphore>,
    /// There is something to flush, or a reason to hurry.
    pub(super) news: Notify,
    /// A flush has ended.
    ended: Notify,
    /// Whether anybody can still reach the store.
    in_use: Weak<()>,
    state: Mutex<State>,
}

#[derive(Debug)]
pub(super) struct State {
    lines: HashMap<Place, Held>,
    /// Keys to be flushed for the first time, in order.
    queue: VecDeque<Place>,
    /// When the first write came that was not sent yet.
    since: Option<Instant>,
    /// How many came since.
    fresh: usize,
    /// Those who wait until all is durable.
    hurried_by: usize,
    told: Arc<Mutex<Told>>,
    /// This store's number there.
    store: u64,
    /// The claim is gone: what was not flushed was given up.
    over: bool,
    /// A task is there that flushes.
    attended: bool,
}

/// A line and when it is to be sent.
#[derive(Debug)]
struct Held {
    line: Line,
    store: Arc<dyn StorageAdapter>,
    /// Waits in the queue.
    queued: bool,
    /// What was sent has failed: when it is sent again.
    again: Option<Instant>,
    /// How long it waits when it fails the next time.
    pause: Duration,
}

impl Held {
    fn new(line: Line, store: &Arc<dyn StorageAdapter>) -> Self {
        Self { line, store: Arc::clone(store), queued: false, again: None, pause: PAUSES.0 }
    }

    fn fail(&mut self) {
        self.again = Some(Instant::now() + self.pause);
        self.pause = (self.pause * 2).min(PAUSES.1);
    }

    fn is_due(&self, now: Instant) -> bool {
        self.queued || self.again.is_some_and(|at| at <= now)
    }
}

/// A write on its way into the store.
#[derive(Debug)]
pub(super) struct Sending {
    pub(super) place: Place,
    pub(super) store: Arc<dyn StorageAdapter>,
    pub(super) sent: Sent,
}

/// What the store said of it.
#[derive(Debug)]
pub(super) enum Said {
    /// It is written, at this version if it was a value.
    Written(Option<Version>),
    /// Its condition did not hold, or its outcome was unknown: this stands there.
    Stands(Option<Entry>),
    /// It was not written, or nobody can tell.
    Failed(Error),
}

/// What is known of a key.
pub(super) enum Known {
    /// What clients see.
    Now(Option<Entry>),
    /// Only what clients were told last.
    Told(Option<Pair>),
}

/// What there is to do for who flushes.
pub(super) enum Due {
    Now,
    At(Instant),
    /// Nothing waits.
    Never,
}

pub(super) fn over() -> Error {
    Error::unavailable("Lapsed", "the claim to this store is over; nothing was done")
}

/// Waits for what is buffered as long as it lives.
struct Hurry<'a>(&'a Buffer);

impl Drop for Hurry<'_> {
    fn drop(&mut self) {
        self.0.lock().hurried_by -= 1;
    }
}

impl Buffer {
    pub(super) fn new(settings: Settings, in_use: Weak<()>) -> Self {
        let portion = portion(settings.batching);
        let told = Arc::clone(&settings.told);
        let store = told.lock().unwrap_or_else(PoisonError::into_inner).next_store();
        let state = State {
            lines: HashMap::new(),
            queue: VecDeque::new(),
            since: None,
            fresh: 0,
            hurried_by: 0,
            told,
            store,
            over: false,
            attended: false,
        };
        let room = portion.saturating_mul(MOST_BATCHES).min(Semaphore::MAX_PERMITS);
        Self {
            settings,
            gates: Gates::default(),
            room: Arc::new(Semaphore::new(room)),
            news: Notify::new(),
            ended: Notify::new(),
            in_use,
            state: Mutex::new(state),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Most writes of a batch.
    pub(super) fn portion(&self) -> usize {
        portion(self.settings.batching)
    }

    /// Judges writes in order and acknowledges them; `found` is what stands where nothing is known. Takes of the room
    /// what they need.
    pub(super) fn perform(
        self: &Arc<Self>,
        state: &mut State,
        (folder, store): (&Arc<str>, &Arc<dyn StorageAdapter>),
        items: Vec<(Key, Operation)>,
        found: &Read,
        room: &mut OwnedSemaphorePermit,
    ) -> Vec<WriteResult<Done>> {
        if state.over || !self.settings.claim.holds() {
            return vec![Err(over()); items.len()];
        }
        let (mut answers, mut unchanged) = (Vec::with_capacity(items.len()), Vec::new());
        let (mut acknowledged, idle) = (0, state.since.is_none());
        for (key, operation) in items {
            let place = (Arc::clone(folder), key);
            let (answer, wrote) = match state.line(&place, store, found) {
                Ok(line) => line.perform(&place.1, operation),
                Err(error) => (Err(error), false),
            };
            match wrote {
                true => state.enqueue(&place),
                false => unchanged.push(place),
            }
            acknowledged += usize::from(wrote);
            answers.push(answer);
        }
        // Only now: a later item may be of the same key.
        for place in &unchanged {
            state.let_go(place);
        }
        if let Some(taken) = room.split(acknowledged) {
            taken.forget();
        }
        self.settings.counts.acknowledged(acknowledged as u64);
        state.fresh += acknowledged;
        if acknowledged > 0 {
            if idle || state.fresh >= self.portion() {
                self.news.notify_one();
            }
            if !state.attended {
                state.attended = true;
                // A task of its own: what was acknowledged is flushed whatever becomes of the client.
                tokio::spawn(attend(Arc::clone(self)));
            }
        }
        answers
    }

    /// When there is something to send.
    pub(super) fn due(&self) -> Due {
        let state = self.lock();
        let hurried = state.hurried_by > 0 || state.fresh >= self.portion();
        let delay = Duration::from_millis(self.settings.batching.max_delay_ms);
        let first = state.since.map(|since| if hurried { since } else { since + delay });
        let again = state.lines.values().filter_map(|held| held.again).min();
        match first.into_iter().chain(again).min() {
            None => Due::Never,
            Some(at) if at <= Instant::now() => Due::Now,
            Some(at) => Due::At(at),
        }
    }

    /// Nothing has come for a while: who flushes may go. False: something has come after all.
    pub(super) fn leave(&self) -> bool {
        let mut state = self.lock();
        let idle = state.over || state.lines.values().all(|held| held.line.is_clean());
        if idle {
            state.attended = false;
            state.let_go_all(|_| false);
        }
        idle
    }

    /// What is to be sent now. Nothing, once the claim to the store is over.
    pub(super) fn take(&self) -> Vec<Sending> {
        if !self.settings.claim.holds() {
            self.give_up("the claim to the store is over");
            return Vec::new();
        }
        let now = Instant::now();
        let mut state = self.lock();
        let state = &mut *state;
        let count = state.queue.len().min(self.portion());
        let first = state.queue.drain(..count);
        let failed = state.lines.iter().filter(|(_, held)| held.again.is_some()).map(|(place, _)| place.clone());
        let places: Vec<Place> = failed.chain(first).collect();
        // Those that are left came later, but have waited for a flush all the same.
        (state.fresh, state.since) = (state.queue.len(), (!state.queue.is_empty()).then_some(now));
        let mut sending = Vec::with_capacity(places.len());
        for place in places {
            if let Some(held) = state.lines.get_mut(&place).filter(|held| held.is_due(now)) {
                (held.queued, held.again) = (false, None);
                sending.push(Sending { store: Arc::clone(&held.store), sent: held.line.send(), place });
            }
        }
        sending
    }

    /// A flush has ended: each key with what the store said.
    pub(super) fn end(&self, said: Vec<(Place, Said)>) {
        let (mut durable, mut lost, mut problem) = (0, 0, None);
        let flushed: HashSet<Place> = said.iter().map(|(place, _)| place.clone()).collect();
        {
            let mut state = self.lock();
            for (place, said) in said {
                let Some(held) = state.lines.get_mut(&place) else { continue };
                let found = match said {
                    Said::Written(version) => Found::Landed(held.line.landed(version)),
                    Said::Stands(current) => held.line.find(current),
                    // What can't be written at all is not tried for ever.
                    Said::Failed(Error::Invalid { .. }) => Found::Lost(held.line.waiting()),
                    Said::Failed(error) => {
                        problem = Some(error);
                        Found::NotYet
                    }
                };
                match found {
                    Found::Landed(writes) => {
                        durable += writes;
                        held.pause = PAUSES.0;
                        if !held.line.is_clean() {
                            state.enqueue(&place);
                        }
                    }
                    Found::NotYet => held.fail(),
                    Found::Lost(writes) => {
                        lost += writes;
                        state.lines.remove(&place);
                        if let Some(above) = &self.settings.above {
                            above.forget(&place.0, &place.1);
                        }
                    }
                }
            }
            // What this flush has left is remembered for those who write again once they are answered.
            state.let_go_all(|place| flushed.contains(place));
        }
        if let Some(problem) = problem {
            tracing::warn!(%problem, "acknowledged writes could not be flushed; they are tried again");
        }
        if lost > 0 {
            tracing::error!(
                writes = lost,
                "acknowledged writes are lost: the store refuses them, or somebody else writes there"
            );
            self.settings.counts.lost(lost);
        }
        self.settings.counts.ended(durable + lost);
        self.room.add_permits(usize::try_from(durable + lost).unwrap_or(usize::MAX));
        self.ended.notify_waiters();
        if self.in_use.strong_count() == 0 && self.lock().has_failed() {
            self.give_up("nobody uses the store any more, and it takes no writes");
        }
    }

    /// Flushes nothing any more. What was not flushed is lost.
    pub(super) fn give_up(&self, why: &str) {
        let lost: u64 = {
            let mut state = self.lock();
            state.over = true;
            state.attended = false;
            state.queue.clear();
            state.since = None;
            state.lines.drain().map(|(_, held)| held.line.waiting()).sum()
        };
        self.room.close();
        self.settings.counts.ended(lost);
        if lost > 0 {
            tracing::error!(writes = lost, why, "acknowledged writes were given up before they were flushed");
            self.settings.counts.lost(lost);
        }
        self.ended.notify_waiters();
    }

    /// Returns when all that was acknowledged is durable.
    pub(super) async fn settle(&self) -> Result<(), Error> {
        self.until(|state| state.lines.values().all(|held| held.line.is_clean())).await
    }

    /// Returns when a key is durable, and nothing is remembered of it.
    pub(super) async fn flushed(&self, place: &Place) -> Result<(), Error> {
        self.until(|state| {
            let clean = state.lines.get(place).is_none_or(|held| held.line.is_clean());
            if clean {
                state.let_go(place);
            }
            clean
        })
        .await
    }

    /// Flushes without delay until something is so.
    async fn until(&self, mut is_so: impl FnMut(&mut State) -> bool) -> Result<(), Error> {
        let _hurry = {
            let mut state = self.lock();
            state.hurried_by += 1;
            let now = Instant::now();
            for held in state.lines.values_mut() {
                held.again = held.again.map(|_| now);
            }
            Hurry(self)
        };
        self.news.notify_one();
        loop {
            let ended = self.ended.notified();
            tokio::pin!(ended);
            // Listens before it looks, so that the end of a flush can't slip by in between.
            ended.as_mut().enable();
            {
                let mut state = self.lock();
                if state.over {
                    return Err(over());
                }
                if is_so(&mut state) {
                    return Ok(());
                }
            }
            ended.await;
        }
    }
}

impl State {
    /// What clients see, where that is known.
    pub(super) fn now(&self, place: &Place) -> Option<Option<Entry>> {
        self.lines.get(place).map(|held| held.line.now().cloned())
    }

    /// What is known of a key before the store is asked for it.
    pub(super) fn known(&self, place: &Place) -> Known {
        self.now(place).map_or_else(|| Known::Told(self.last_told(place)), Known::Now)
    }

    /// What clients see, where this was found in the store since that was told last. `None`: writes came and went meanwhile,
    /// and nobody knows any more under which version clients know what was found. It is to be read again.
    pub(super) fn seen(&self, place: &Place, told: Option<&Pair>, found: Option<Entry>) -> Option<Option<Entry>> {
        if let Some(now) = self.now(place) {
            return Some(now);
        }
        let Some(entry) = found else { return Some(None) };
        let last = self.last_told(place);
        match told_for(told, &entry).or_else(|| told_for(last.as_ref(), &entry)) {
            Some(version) => Some(Some(Entry { version, value: entry.value })),
            None => (last.as_ref() == told).then_some(Some(entry)),
        }
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What clients were told last of a key, and what the store has it under.
    fn last_told(&self, place: &Place) -> Option<Pair> {
        self.told().last(&(self.store, place.clone())).cloned()
    }

    /// The keys of a folder that the store may not have as clients see them, and whether they have a value.
    pub(super) fn pending(&self, folder: &str, prefix: &str, after: Option<&Key>) -> BTreeMap<Key, bool> {
        let listed = |key: &Key| key.as_str().starts_with(prefix) && after.is_none_or(|after| key > after);
        let here =
            self.lines.iter().filter(|((of, key), held)| **of == *folder && listed(key) && !held.line.is_clean());
        here.map(|((_, key), held)| (key.clone(), held.line.now().is_some())).collect()
    }

    /// The keys of which nothing is known.
    pub(super) fn missing(&self, folder: &Arc<str>, items: &[(Key, Operation)], found: &Read) -> Vec<Key> {
        let unknown =
            |key: &&Key| !found.contains_key(*key) && !self.lines.contains_key(&(Arc::clone(folder), (*key).clone()));
        let missing: HashSet<&Key> = items.iter().map(|(key, _)| key).filter(unknown).collect();
        missing.into_iter().cloned().collect()
    }

    /// The line of a key: a new one, of what was found, where there is none.
    fn line(&mut self, place: &Place, store: &Arc<dyn StorageAdapter>, found: &Read) -> Result<&mut Line, Error> {
        if !self.lines.contains_key(place) {
            let unread = || Err(Error::unavailable("Interrupted", "the store did not answer for a key"));
            let stored = found.get(&place.1).cloned().unwrap_or_else(unread)?;
            let last = self.last_told(place);
            let told = stored.as_ref().and_then(|entry| told_for(last.as_ref(), entry));
            self.lines.insert(place.clone(), Held::new(Line::new(stored, told), store));
        }
        Ok(&mut self.lines.get_mut(place).ok_or_else(over)?.line)
    }

    /// A line has something to flush.
    fn enqueue(&mut self, place: &Place) {
        self.since.get_or_insert_with(Instant::now);
        // What is on its way is decided first.
        if let Some(held) = self.lines.get_mut(place).filter(|held| !held.queued && !held.line.is_flying()) {
            held.queued = true;
            self.queue.push_back(place.clone());
        }
    }

    /// Forgets a line that is clean, but for the version that clients were told.
    fn let_go(&mut self, place: &Place) {
        if let Some(held) = self.lines.get(place).filter(|held| held.line.is_clean()) {
            if let Some((told, stored)) = held.line.told() {
                self.told().add((self.store, place.clone()), told, stored);
            }
            self.lines.remove(place);
        }
    }

    /// Forgets all lines that are clean, but for some.
    fn let_go_all(&mut self, stays: impl Fn(&Place) -> bool) {
        let clean = |(place, held): &(&Place, &Held)| held.line.is_clean() && !stays(place);
        let clean: Vec<Place> = self.lines.iter().filter(clean).map(|(place, _)| place.clone()).collect();
        for place in &clean {
            self.let_go(place);
        }
    }

    fn has_failed(&self) -> bool {
        self.lines.values().any(|held| held.again.is_some())
    }
}

/// Most writes of a batch.
fn portion(batching: Batching) -> usize {
    usize::try_from(batching.max_items).unwrap_or(usize::MAX).max(1)
}
