//! The keys whose newest write is not in some region, as far as is known, and when each is tried (again). What is acknowledged
//! stands in a region itself: this is only what to do about it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, oneshot};

use super::region::Space;
use crate::Error;
use crate::layers::behind::{Journal, Landed, Next, Queue};
use crate::layers::gates::Place;

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

#[derive(Debug)]
struct Line {
    space: Arc<Space>,
    newest: Unsent,
    /// The time of the oldest write that the region lacks, and when that was.
    oldest: (u64, u64),
    /// The time of the oldest write since it took off.
    again: Option<(u64, u64)>,
    /// Who waits for the write of a time to be there.
    waits: Vec<(u64, oneshot::Sender<bool>)>,
}

#[derive(Debug, Default)]
struct State {
    queue: Queue<Line>,
    /// How often each time is that of the oldest write of a line.
    oldest: BTreeMap<u64, usize>,
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
    /// There may be something to do that there was not.
    pub(super) news: Notify,
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

    /// Nothing is to be sent there any more.
    pub(super) fn clear(&self) {
        let State { queue, .. } = std::mem::take(&mut *self.lock());
        self.journal.remove(queue.len() as u64, queue.all().map(|line| line.newest.bytes).sum());
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
        let since = (unsent.time, unsent.at);
        if let Some(line) = state.queue.get_mut(place) {
            let relay = line.newest.relay || unsent.relay;
            if unsent.time >= line.newest.time {
                self.journal.change(line.newest.bytes, unsent.bytes);
                line.newest = unsent;
            }
            line.newest.relay = relay;
            line.waits.extend(waits);
            line.again = Some(line.again.map_or(since, |again| again.min(since)));
            if since < line.oldest {
                let before = std::mem::replace(&mut line.oldest, since);
                state.ended(before.0);
                state.began(since.0);
            }
            return;
        }
        self.journal.add(unsent.bytes);
        let waits = waits.into_iter().collect();
        let line = Line { space: Arc::clone(space), newest: unsent, oldest: since, again: None, waits };
        state.queue.add(place, line);
        state.began(since.0);
        drop(state);
        self.news.notify_one();
    }

    /// What to send next.
    pub(super) fn next(&self) -> Next<Box<Flight>> {
        self.lock().queue.next(|place, line| {
            line.again = None;
            Box::new(Flight { place, space: Arc::clone(&line.space), unsent: line.newest })
        })
    }

    /// What became of what was sent.
    pub(super) fn end(&self, place: &Place, said: Said) {
        let mut state = self.lock();
        let Some(line) = state.queue.get_mut(place) else { return };
        let landed = match said {
            Said::Done(time) => {
                let before = line.oldest;
                for (_, said) in line.waits.extract_if(.., |(wanted, _)| *wanted <= time) {
                    // Who waited may have given up.
                    let _heard = said.send(true);
                }
                // Only what was noted while it was under way may be later than what was read for it.
                let later = line.again.filter(|_| line.newest.time > time);
                if let Some(since) = later {
                    line.oldest = since;
                    state.began(since.0);
                }
                state.ended(before.0);
                if later.is_some() { Landed::Again } else { Landed::Done }
            }
            Said::Failed(_) => Landed::Failed,
            Said::Away(why) => Landed::Away(why),
        };
        if let Some(line) = state.queue.land(place, landed) {
            self.journal.remove(1, line.newest.bytes);
        }
        drop(state);
        self.news.notify_one();
    }

    /// What was under way is not any more: nobody knows how it ended.
    pub(super) fn land_all(&self) {
        self.lock().queue.land_all();
    }

    /// Somebody waits for the region: if it did not answer, it is asked again soon.
    fn ask_soon(&self) {
        self.lock().queue.ask_soon();
        self.news.notify_one();
    }

    /// The time of the oldest write that the region lacks.
    pub(super) fn oldest(&self) -> Option<u64> {
        self.lock().oldest.keys().next().copied()
    }

    /// Whether it lacks a write of a key, as far as is known.
    pub(super) fn lacks(&self, place: &Place) -> bool {
        self.lock().queue.get(place).is_some()
    }

    /// The same, of any key.
    pub(super) fn lacks_any(&self) -> bool {
        self.lock().queue.len() > 0
    }

    pub(super) fn lag(&self) -> Lag {
        let State { queue, .. } = &*self.lock();
        Lag {
            keys: queue.len() as u64,
            bytes: queue.all().map(|line| line.newest.bytes).sum(),
            oldest: queue.all().map(|line| line.oldest.1).min(),
            away: queue.away(),
        }
    }
}
