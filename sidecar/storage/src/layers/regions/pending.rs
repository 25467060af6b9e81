//! The keys whose newest write is not in some region, as far as is known, and when each is tried (again). What is acknowledged
//! stands in a region itself: this is only what to do about it.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::region::Space;
use crate::Error;
use crate::layers::gates::Place;

/// Pauses before a key is tried again, and before a region that does not answer is asked again: doubled from the first to
/// the last.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(10));

/// How much of all stores of a process is not in all regions: a key counts for each region that lacks it.
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

/// A write that is to be brought to a region.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unsent {
    /// The time of its stamp.
    pub(super) time: u64,
    /// When it was written, in milliseconds since 1970.
    pub(super) at: u64,
    pub(super) bytes: u64,
    /// The region that has it.
    pub(super) source: usize,
    /// Whoever has written it: otherwise only what this region has written itself is sent, because each sends its own.
    pub(super) relay: bool,
}

/// What is to be sent now.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) place: Place,
    pub(super) space: Arc<Space>,
    pub(super) unsent: Unsent,
}

/// What became of it.
#[derive(Debug)]
pub(super) enum Said {
    /// The region has all of the key up to this time.
    Done(u64),
    /// The region failed with all that it is asked.
    Away(Error),
    /// This key failed.
    Failed(Error),
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
    Flying,
    Resting,
}

#[derive(Debug)]
struct Line {
    space: Arc<Space>,
    newest: Unsent,
    /// The time of the oldest write that the region lacks, and when that was.
    oldest: (u64, u64),
    /// The time of the oldest write since it took off.
    again: Option<(u64, u64)>,
    phase: Phase,
    pause: Duration,
    /// Who waits for the write of a time to be there.
    waits: Vec<(u64, oneshot::Sender<bool>)>,
}

#[derive(Clone, Debug)]
struct Away {
    until: Instant,
    pause: Duration,
    why: Error,
}

#[derive(Debug, Default)]
struct State {
    lines: HashMap<Place, Line>,
    /// How often each time is that of the oldest write of a line.
    oldest: BTreeMap<u64, usize>,
    queue: VecDeque<Place>,
    resting: BTreeMap<(Instant, u64), Place>,
    rests: u64,
    flying: usize,
    away: Option<Away>,
}

impl State {
    fn began(&mut self, time: u64) {
        *self.oldest.entry(time).or_default() += 1;
    }

    fn ended(&mut self, time: u64) {
        if let Some(count) = self.oldest.get_mut(&time) {
            *count -= 1;
            if *count == 0 {
                self.oldest.remove(&time);
            }
        }
    }
}

/// How far a region is behind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Lag {
    pub(super) keys: u64,
    pub(super) bytes: u64,
    /// When the oldest was written, in milliseconds since 1970.
    pub(super) oldest: Option<u64>,
    /// Why nothing is written there.
    pub(super) away: Option<Error>,
}

/// What one region lacks.
#[derive(Debug)]
pub(super) struct Pending {
    state: Mutex<State>,
    journal: Arc<Journal>,
    news: Notify,
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.clear();
    }
}

impl Pending {
    pub(super) fn new(journal: Arc<Journal>) -> Self {
        Self { state: Mutex::default(), journal, news: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn less(&self, keys: u64, bytes: u64) {
        self.journal.keys.fetch_sub(keys, Ordering::Relaxed);
        self.journal.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.journal.less.notify_waiters();
    }

    /// Nothing is to be sent there any more.
    pub(super) fn clear(&self) {
        let State { lines, .. } = std::mem::take(&mut *self.lock());
        self.less(lines.len() as u64, lines.values().map(|line| line.newest.bytes).sum());
    }

    /// The region lacks a write of a key.
    pub(super) fn note(&self, place: &Place, space: &Arc<Space>, unsent: Unsent) {
        self.add(place, space, unsent, None);
    }

    /// The same; says in the end whether the write, or a later one, is there. It is sent whoever has written later.
    pub(super) fn note_and_wait(&self, place: &Place, space: &Arc<Space>, unsent: Unsent) -> oneshot::Receiver<bool> {
        let (said, hears) = oneshot::channel();
        self.add(place, space, Unsent { relay: true, ..unsent }, Some((unsent.time, said)));
        self.ask_soon();
        hears
    }

    fn add(&self, place: &Place, space: &Arc<Space>, unsent: Unsent, waits: Option<(u64, oneshot::Sender<bool>)>) {
        let mut state = self.lock();
        self.journal.bytes.fetch_add(unsent.bytes, Ordering::Relaxed);
        if let Some(line) = state.lines.get_mut(place) {
            let relay = line.newest.relay || unsent.relay;
            if unsent.time >= line.newest.time {
                self.journal.bytes.fetch_sub(line.newest.bytes, Ordering::Relaxed);
                line.newest = unsent;
            } else {
                self.journal.bytes.fetch_sub(unsent.bytes, Ordering::Relaxed);
            }
            line.newest.relay = relay;
            line.waits.extend(waits);
            let since = (unsent.time, unsent.at);
            if line.phase == Phase::Flying {
                line.again = Some(line.again.map_or(since, |again| again.min(since)));
            }
            if since < line.oldest {
                let before = std::mem::replace(&mut line.oldest, since);
                state.ended(before.0);
                state.began(since.0);
            }
            return;
        }
        self.journal.keys.fetch_add(1, Ordering::Relaxed);
        let oldest = (unsent.time, unsent.at);
        let line = Line {
            space: Arc::clone(space),
            newest: unsent,
            oldest,
            again: None,
            phase: Phase::Queued,
            pause: PAUSES.0,
            waits: waits.into_iter().collect(),
        };
        state.lines.insert(place.clone(), line);
        state.began(oldest.0);
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
            // One at a time, until the region answers.
            Some(_) if state.flying > 0 => return Next::Nothing,
            Some(away) if away.until > now => return Next::At(away.until),
            _ => {}
        }
        while let Some(place) = state.queue.pop_front() {
            if let Some(line) = state.lines.get_mut(&place).filter(|line| line.phase == Phase::Queued) {
                (line.phase, line.again) = (Phase::Flying, None);
                state.flying += 1;
                let (space, unsent) = (Arc::clone(&line.space), line.newest);
                return Next::Fly(Box::new(Flight { place, space, unsent }));
            }
        }
        state.resting.keys().next().map_or(Next::Nothing, |(at, _)| Next::At(*at))
    }

    /// Waits until there may be something to do that there was not.
    pub(super) async fn news(&self) {
        self.news.notified().await;
    }

    /// What became of what was sent.
    pub(super) fn end(&self, place: &Place, said: Said) {
        let mut state = self.lock();
        let now = Instant::now();
        state.flying = state.flying.saturating_sub(1);
        if !matches!(said, Said::Away(_)) {
            state.away = None;
        }
        if let Said::Away(why) = &said {
            let pause = state.away.as_ref().map_or(PAUSES.0, |away| (away.pause * 2).min(PAUSES.1));
            state.away = Some(Away { until: now + pause, pause, why: why.clone() });
        }
        let at = state.rests;
        let Some(line) = state.lines.get_mut(place) else { return };
        match said {
            Said::Done(time) => {
                let before = line.oldest;
                for (_, said) in line.waits.extract_if(.., |(wanted, _)| *wanted <= time) {
                    // Who waited may have given up.
                    let _heard = said.send(true);
                }
                // Only what was noted while it was under way may be later than what was read for it.
                let later = line.again.filter(|_| line.newest.time > time);
                match later {
                    Some(since) => {
                        (line.phase, line.pause, line.oldest) = (Phase::Queued, PAUSES.0, since);
                        state.began(since.0);
                        state.queue.push_back(place.clone());
                    }
                    None => {
                        let bytes = line.newest.bytes;
                        state.lines.remove(place);
                        self.less(1, bytes);
                    }
                }
                state.ended(before.0);
            }
            Said::Failed(_) => {
                line.phase = Phase::Resting;
                let until = now + line.pause;
                line.pause = (line.pause * 2).min(PAUSES.1);
                state.rests += 1;
                state.resting.insert((until, at), place.clone());
            }
            Said::Away(_) => {
                line.phase = Phase::Queued;
                state.queue.push_front(place.clone());
            }
        }
        drop(state);
        self.news.notify_one();
    }

    /// What was under way is not any more: nobody knows how it ended.
    pub(super) fn land_all(&self) {
        let mut state = self.lock();
        let State { lines, queue, flying, .. } = &mut *state;
        *flying = 0;
        let flew = lines.iter_mut().filter(|(_, line)| line.phase == Phase::Flying);
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

    /// Somebody waits for the region: if it did not answer, it is asked again soon.
    fn ask_soon(&self) {
        if let Some(away) = &mut self.lock().away {
            away.until = away.until.min(Instant::now() + PAUSES.0);
        }
        self.news.notify_one();
    }

    /// The time of the oldest write that the region lacks.
    pub(super) fn oldest(&self) -> Option<u64> {
        self.lock().oldest.keys().next().copied()
    }

    /// Whether it lacks a write of a key, as far as is known.
    pub(super) fn lacks(&self, place: &Place) -> bool {
        self.lock().lines.contains_key(place)
    }

    /// The same, of any key.
    pub(super) fn lacks_any(&self) -> bool {
        !self.lock().lines.is_empty()
    }

    pub(super) fn lag(&self) -> Lag {
        let state = self.lock();
        Lag {
            keys: state.lines.len() as u64,
            bytes: state.lines.values().map(|line| line.newest.bytes).sum(),
            oldest: state.lines.values().map(|line| line.oldest.1).min(),
            away: state.away.as_ref().map(|away| away.why.clone()),
        }
    }
}
