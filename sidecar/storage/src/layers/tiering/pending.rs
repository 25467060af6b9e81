//! The keys of one store whose newest write is not in the cold tier, as far as is known, and when each is tried (again).
//! What is acknowledged stands in the hot tier itself: this is only what to do about it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::record::Noted;
use super::spaces::Space;
use crate::Error;
use crate::layers::behind::{Journal, Landed, Next, Queue, Sealed};
use crate::layers::gates::Place;

/// Pause before a key is tried again that somebody else has written.
const FOREIGN_PAUSE: Duration = Duration::from_secs(60);

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

#[derive(Debug)]
struct Line {
    space: Arc<Space>,
    newest: Unwritten,
    /// When the oldest write came that is not in the cold tier.
    since: u64,
    /// A cold write of the key was sent whose end is not known.
    sent: bool,
    known: Option<Known>,
    /// It was written again since it took off.
    again: bool,
    foreign: bool,
    /// The newest revision that was brought to the cold tier while it was here.
    written: u64,
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
    queue: Mutex<Queue<Line>>,
    journal: Arc<Journal>,
    /// There may be something to do that there was not.
    pub(super) news: Notify,
    ended: Notify,
}

impl Drop for Pending {
    fn drop(&mut self) {
        let lag = self.lag();
        self.journal.remove(lag.keys, lag.bytes);
    }
}

impl Pending {
    pub(super) fn new(journal: Arc<Journal>) -> Self {
        Self { queue: Mutex::default(), journal, news: Notify::new(), ended: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Queue<Line>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A key has a write that is not in the cold tier.
    pub(super) fn note(&self, place: &Place, space: &Arc<Space>, unwritten: Unwritten) {
        let mut queue = self.lock();
        if let Some(line) = queue.get_mut(place) {
            // Who looks through the hot tier may come late with what was written over meanwhile.
            if unwritten.revision >= line.newest.revision {
                self.journal.change(line.newest.bytes, unwritten.bytes);
                line.newest = unwritten;
            }
            line.again = true;
            return;
        }
        self.journal.add(unwritten.bytes);
        let line = Line {
            space: Arc::clone(space),
            newest: unwritten,
            since: unwritten.at,
            sent: unwritten.may_be_sent,
            known: None,
            again: false,
            foreign: false,
            written: 0,
        };
        queue.add(place, line);
        drop(queue);
        self.news.notify_one();
    }

    /// What to send next.
    pub(super) fn next(&self) -> Next<Box<Flight>> {
        self.lock().next(|place, line| {
            line.again = false;
            let (space, sent, known) = (Arc::clone(&line.space), line.sent, line.known.clone());
            Box::new(Flight { place, space, sent, known })
        })
    }

    /// A cold write of the key is on its way: from now on it is not known what stands there until that is found out.
    pub(super) fn sent(&self, place: &Place) {
        if let Some(line) = self.lock().get_mut(place) {
            line.sent = true;
        }
    }

    /// What stands in the cold tier has been found out.
    pub(super) fn known(&self, place: &Place, known: Option<Known>) {
        if let Some(line) = self.lock().get_mut(place) {
            line.known = known;
        }
    }

    /// What became of what was sent.
    pub(super) fn end(&self, place: &Place, said: Said) {
        let mut queue = self.lock();
        let Some(line) = queue.get_mut(place) else { return };
        let landed = match said {
            Said::Written(revision) => {
                line.written = line.written.max(revision);
                line.foreign = false;
                if line.again && line.newest.revision > revision {
                    line.since = line.newest.at;
                    Landed::Again
                } else {
                    Landed::Done
                }
            }
            Said::Changed => Landed::Changed,
            Said::Failed(_) => Landed::Failed,
            Said::Foreign => {
                line.foreign = true;
                Landed::Hopeless(FOREIGN_PAUSE)
            }
            Said::Away(why) => Landed::Away(why),
        };
        if let Some(line) = queue.land(place, landed) {
            self.journal.remove(1, line.newest.bytes);
        }
        drop(queue);
        self.ended.notify_waiters();
        self.news.notify_one();
    }

    /// What was under way is not any more: nobody knows how it ended.
    pub(super) fn land_all(&self) {
        self.lock().land_all();
    }

    /// A key is to be sent before the others; `false`: there is nothing to send of it.
    pub(super) fn hurry(&self, place: &Place) -> bool {
        let is_there = self.lock().hurry(place);
        if is_there {
            self.news.notify_one();
        }
        is_there
    }

    /// Somebody waits for the cold store: if it did not answer, it is asked again soon.
    pub(super) fn ask_soon(&self) {
        self.lock().ask_soon();
        self.news.notify_one();
    }

    /// Waits until the write of this revision, or a later one, is in the cold tier.
    pub(super) async fn written(&self, place: &Place, revision: u64) {
        loop {
            let ended = self.ended.notified();
            tokio::pin!(ended);
            // Listens before it looks.
            ended.as_mut().enable();
            if self.lock().get(place).is_none_or(|line| line.written >= revision) {
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
        self.lock().get(place).is_some()
    }

    pub(super) fn lag(&self) -> Lag {
        let queue = self.lock();
        Lag {
            keys: queue.len() as u64,
            bytes: queue.all().map(|line| line.newest.bytes).sum(),
            oldest: queue.all().map(|line| line.since).min(),
            foreign: queue.all().filter(|line| line.foreign).count() as u64,
            away: queue.away(),
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
