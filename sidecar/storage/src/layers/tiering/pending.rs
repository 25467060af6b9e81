//! The keys of one store whose newest write is not in the cold tier, as far as is known, and when each is tried (again).
//! What is acknowledged stands in the hot tier itself: this is only what to do about it.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::record::{Noted, Sealed};
use super::spaces::Space;
use crate::Error;
use crate::layers::gates::Place;

/// Pauses before a key is tried again, and before a store that does not answer is asked again: doubled from the first to the
/// last.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(10));
/// Pause before a key is tried again that somebody else has written.
const FOREIGN_PAUSE: Duration = Duration::from_secs(60);

/// How much of all stores of a process is not in their cold tiers.
#[derive(Debug, Default)]
pub(super) struct Journal {
    keys: AtomicU64,
    bytes: AtomicU64,
    /// It became less.
    pub(super) less: Notify,
}

impl Journal {
    pub(super) fn keys(&self) -> u64 {
        self.keys.load(Ordering::Relaxed)
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

/// A write that is to be brought to the cold tier.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unwritten {
    pub(super) revision: u64,
    /// When it was written, in milliseconds since 1970.
    pub(super) at: u64,
    pub(super) bytes: u64,
    /// It, or one before it, may have been sent to the cold tier by somebody of whom nothing more is known.
    pub(super) may_be_sent: bool,
}

/// What is known of a key in the cold tier since it was sent: that this write is there, and what stands there.
pub(super) type Known = (Sealed, Noted);

/// What is to be sent now.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) place: Place,
    pub(super) space: Arc<Space>,
    pub(super) sent: bool,
    pub(super) known: Option<Known>,
}

/// What became of it.
#[derive(Debug)]
pub(super) enum Said {
    /// The cold tier has the key as the hot one had it, at this revision; there is nothing more to do unless it was written again.
    Written(u64),
    /// It was written again meanwhile.
    Changed,
    /// The cold store failed with all that it is asked.
    Away(Error),
    /// This key failed.
    Failed(Error),
    /// The cold tier has a later write, which this store knows nothing of.
    Foreign,
}

/// What there is to do.
pub(super) enum Next {
    Fly(Box<Flight>),
    At(Instant),
    /// Until something is noted or ends.
    Nothing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Queued,
    /// Under way; and whether it was written again since.
    Flying {
        again: bool,
    },
    Resting,
}

#[derive(Debug)]
struct Line {
    space: Arc<Space>,
    newest: Unwritten,
    /// When the oldest write came that is not in the cold tier.
    since: u64,
    /// A cold write of the key was sent whose end is not known.
    sent: bool,
    known: Option<Known>,
    phase: Phase,
    pause: Duration,
    foreign: bool,
    /// The newest revision that was brought to the cold tier while it was here.
    written: u64,
}

/// The cold store does not answer.
#[derive(Clone, Debug)]
struct Away {
    until: Instant,
    pause: Duration,
    why: Error,
}

#[derive(Debug, Default)]
struct State {
    lines: HashMap<Place, Line>,
    queue: VecDeque<Place>,
    resting: BTreeMap<(Instant, u64), Place>,
    rests: u64,
    flying: usize,
    away: Option<Away>,
}

/// How far a store's cold tier is behind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Lag {
    pub(super) keys: u64,
    pub(super) bytes: u64,
    /// When the oldest was written, in milliseconds since 1970.
    pub(super) oldest: Option<u64>,
    /// Keys of which the cold tier has a later write.
    pub(super) foreign: u64,
    /// Why nothing is written there.
    pub(super) away: Option<Error>,
}

/// The keys of one store.
#[derive(Debug)]
pub(super) struct Pending {
    state: Mutex<State>,
    journal: Arc<Journal>,
    news: Notify,
    ended: Notify,
}

impl Drop for Pending {
    fn drop(&mut self) {
        let bytes = self.lock().lines.values().map(|line| line.newest.bytes).sum();
        self.less(self.lock().lines.len() as u64, bytes);
    }
}

impl Pending {
    pub(super) fn new(journal: Arc<Journal>) -> Self {
        Self { state: Mutex::default(), journal, news: Notify::new(), ended: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn less(&self, keys: u64, bytes: u64) {
        self.journal.keys.fetch_sub(keys, Ordering::Relaxed);
        self.journal.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.journal.less.notify_waiters();
    }

    /// A key has a write that is not in the cold tier.
    pub(super) fn note(&self, place: &Place, space: &Arc<Space>, unwritten: Unwritten) {
        let mut state = self.lock();
        if let Some(line) = state.lines.get_mut(place) {
            // Who looks through the hot tier may come late with what was written over meanwhile.
            if unwritten.revision >= line.newest.revision {
                self.journal.bytes.fetch_add(unwritten.bytes, Ordering::Relaxed);
                self.journal.bytes.fetch_sub(line.newest.bytes, Ordering::Relaxed);
                line.newest = unwritten;
            }
            if let Phase::Flying { again } = &mut line.phase {
                *again = true;
            }
            return;
        }
        self.journal.bytes.fetch_add(unwritten.bytes, Ordering::Relaxed);
        self.journal.keys.fetch_add(1, Ordering::Relaxed);
        let line = Line {
            space: Arc::clone(space),
            newest: unwritten,
            since: unwritten.at,
            sent: unwritten.may_be_sent,
            known: None,
            phase: Phase::Queued,
            pause: PAUSES.0,
            foreign: false,
            written: 0,
        };
        state.lines.insert(place.clone(), line);
        state.queue.push_back(place.clone());
        drop(state);
        self.news.notify_one();
    }

    /// What to send next.
    pub(super) fn next(&self) -> Next {
        let now = Instant::now();
        let mut state = self.lock();
        let state = &mut *state;
        while let Some(first) = state.resting.first_entry().filter(|first| first.key().0 <= now) {
            let place = first.remove();
            if let Some(line) = state.lines.get_mut(&place).filter(|line| line.phase == Phase::Resting) {
                line.phase = Phase::Queued;
                state.queue.push_back(place);
            }
        }
        match &state.away {
            // One at a time, until the store answers.
            Some(_) if state.flying > 0 => return Next::Nothing,
            Some(away) if away.until > now => return Next::At(away.until),
            _ => {}
        }
        while let Some(place) = state.queue.pop_front() {
            if let Some(line) = state.lines.get_mut(&place).filter(|line| line.phase == Phase::Queued) {
                line.phase = Phase::Flying { again: false };
                state.flying += 1;
                let (space, sent, known) = (Arc::clone(&line.space), line.sent, line.known.clone());
                return Next::Fly(Box::new(Flight { place, space, sent, known }));
            }
        }
        state.resting.keys().next().map_or(Next::Nothing, |(at, _)| Next::At(*at))
    }

    /// Waits until there may be something to do that there was not.
    pub(super) async fn news(&self) {
        self.news.notified().await;
    }

    /// A cold write of the key is on its way: from now on it is not known what stands there until that is found out.
    pub(super) fn sent(&self, place: &Place) {
        if let Some(line) = self.lock().lines.get_mut(place) {
            line.sent = true;
        }
    }

    /// What stands in the cold tier has been found out.
    pub(super) fn known(&self, place: &Place, known: Option<Known>) {
        if let Some(line) = self.lock().lines.get_mut(place) {
            line.known = known;
        }
    }

    /// What became of what was sent.
    pub(super) fn end(&self, place: &Place, said: Said) {
        let mut state = self.lock();
        let now = Instant::now();
        let State { lines, queue, resting, rests, flying, away } = &mut *state;
        let Some(line) = lines.get_mut(place) else { return };
        *flying = flying.saturating_sub(1);
        let again = line.phase == Phase::Flying { again: true };
        if !matches!(said, Said::Away(_)) {
            *away = None;
        }
        let mut rest = |line: &mut Line, at: Instant| {
            *rests += 1;
            line.phase = Phase::Resting;
            resting.insert((at, *rests), place.clone());
        };
        match said {
            Said::Written(revision) => {
                line.written = line.written.max(revision);
                line.foreign = false;
                if again && line.newest.revision > revision {
                    (line.phase, line.pause, line.since) = (Phase::Queued, PAUSES.0, line.newest.at);
                    queue.push_back(place.clone());
                } else {
                    let bytes = line.newest.bytes;
                    lines.remove(place);
                    self.less(1, bytes);
                }
            }
            Said::Changed => {
                line.phase = Phase::Queued;
                queue.push_back(place.clone());
            }
            Said::Failed(_) => {
                rest(line, now + line.pause);
                line.pause = (line.pause * 2).min(PAUSES.1);
            }
            Said::Foreign => {
                line.foreign = true;
                rest(line, now + FOREIGN_PAUSE);
            }
            Said::Away(why) => {
                line.phase = Phase::Queued;
                queue.push_front(place.clone());
                let pause = away.as_ref().map_or(PAUSES.0, |away| (away.pause * 2).min(PAUSES.1));
                *away = Some(Away { until: now + pause, pause, why });
            }
        }
        drop(state);
        self.ended.notify_waiters();
        self.news.notify_one();
    }

    /// What was under way is not any more: nobody knows how it ended.
    pub(super) fn land_all(&self) {
        let mut state = self.lock();
        let State { lines, queue, flying, .. } = &mut *state;
        *flying = 0;
        let flew = lines.iter_mut().filter(|(_, line)| matches!(line.phase, Phase::Flying { .. }));
        let mut places: Vec<Place> = flew
            .map(|(place, line)| {
                line.phase = Phase::Queued;
                place.clone()
            })
            .collect();
        // In one order, so that a simulation is the same each time.
        places.sort_unstable();
        queue.extend(places);
    }

    /// A key is to be sent before the others; `false`: there is nothing to send of it.
    pub(super) fn hurry(&self, place: &Place) -> bool {
        let mut state = self.lock();
        let State { lines, queue, .. } = &mut *state;
        let Some(line) = lines.get_mut(place) else { return false };
        if !matches!(line.phase, Phase::Flying { .. }) {
            line.phase = Phase::Queued;
            queue.push_front(place.clone());
        }
        drop(state);
        self.news.notify_one();
        true
    }

    /// Somebody waits for the cold store: if it did not answer, it is asked again soon.
    pub(super) fn ask_soon(&self) {
        if let Some(away) = &mut self.lock().away {
            away.until = away.until.min(Instant::now() + PAUSES.0);
        }
        self.news.notify_one();
    }

    /// Waits until the write of this revision, or a later one, is in the cold tier.
    pub(super) async fn written(&self, place: &Place, revision: u64) {
        loop {
            let ended = self.ended.notified();
            tokio::pin!(ended);
            // Listens before it looks.
            ended.as_mut().enable();
            if self.lock().lines.get(place).is_none_or(|line| line.written >= revision) {
                return;
            }
            ended.await;
        }
    }

    /// Waits until what became of the key is said once more, or there is nothing to send of it. `false`: there still is.
    pub(super) async fn tried(&self, place: &Place) -> bool {
        let ended = self.ended.notified();
        tokio::pin!(ended);
        ended.as_mut().enable();
        if !self.has(place) {
            return true;
        }
        ended.await;
        !self.has(place)
    }

    /// Whether there is something to send of a key.
    pub(super) fn has(&self, place: &Place) -> bool {
        self.lock().lines.contains_key(place)
    }

    pub(super) fn lag(&self) -> Lag {
        let state = self.lock();
        Lag {
            keys: state.lines.len() as u64,
            bytes: state.lines.values().map(|line| line.newest.bytes).sum(),
            oldest: state.lines.values().map(|line| line.since).min(),
            foreign: state.lines.values().filter(|line| line.foreign).count() as u64,
            away: state.away.as_ref().map(|away| away.why.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backends::memory::MemoryAdapter;
    use crate::layers::tiering::spaces::Spaces;
    use crate::{Key, StorageAdapter};

    fn space() -> Arc<Space> {
        let store = || -> Arc<dyn StorageAdapter> { Arc::new(MemoryAdapter::new()) };
        Spaces::new(store(), store(), store()).space(&[])
    }

    /// As it happens while the hot tier is looked through and written to.
    #[test]
    fn what_is_noted_late_of_a_key_counts_for_nothing() {
        let (journal, space) = (Arc::<Journal>::default(), space());
        let pending = Pending::new(Arc::clone(&journal));
        let place = (Arc::clone(&space.folder), Key::new("k").unwrap());
        let write = |revision, bytes| Unwritten { revision, at: 1, bytes, may_be_sent: false };
        for (revision, bytes, expected) in [(5, 100, 100), (3, 50, 100), (3, 500, 100), (6, 70, 70)] {
            pending.note(&place, &space, write(revision, bytes));
            assert_eq!((journal.keys(), journal.bytes()), (1, expected), "after revision {revision}");
        }
        assert!(matches!(pending.next(), Next::Fly(_)));
        pending.note(&place, &space, write(4, 1));
        pending.end(&place, Said::Written(6));
        assert_eq!((journal.keys(), journal.bytes(), pending.lag()), (0, 0, Lag::default()));
    }
}
