//! The keys that are to be brought to a store, as far as is known, and when each is tried (again). One key is under way once
//! at a time: so what is written to it arrives in order. What is acknowledged stands in another store: this is only what to
//! do about it.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::Error;
use crate::layers::gates::Place;

/// Pauses before a key is tried again, and before a store that does not answer is asked again: doubled from the first to the
/// last.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(10));

/// How much is in the queues of a process: a key counts in each of them.
#[derive(Debug, Default)]
pub(in crate::layers) struct Journal {
    keys: AtomicU64,
    bytes: AtomicU64,
    /// It became less.
    less: Notify,
}

impl Journal {
    pub(in crate::layers) fn keys(&self) -> u64 {
        self.keys.load(Ordering::Relaxed)
    }

    pub(in crate::layers) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// A key came.
    pub(in crate::layers) fn add(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.keys.fetch_add(1, Ordering::Relaxed);
    }

    /// A key that is there was written again.
    pub(in crate::layers) fn change(&self, before: u64, now: u64) {
        self.bytes.fetch_add(now, Ordering::Relaxed);
        self.bytes.fetch_sub(before, Ordering::Relaxed);
    }

    /// Keys went.
    pub(in crate::layers) fn remove(&self, keys: u64, bytes: u64) {
        self.keys.fetch_sub(keys, Ordering::Relaxed);
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.less.notify_waiters();
    }

    /// Whether there are fewer keys and bytes than that.
    pub(in crate::layers) fn is_below(&self, keys: u64, bytes: u64) -> bool {
        self.keys() < keys && self.bytes() < bytes
    }

    /// Waits until there are. `false`: it was not so in time.
    pub(in crate::layers) async fn below(&self, keys: u64, bytes: u64, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        loop {
            let less = self.less.notified();
            tokio::pin!(less);
            // Listens before it looks.
            less.as_mut().enable();
            if self.is_below(keys, bytes) {
                return true;
            }
            if timeout_at(deadline, less).await.is_err() {
                return false;
            }
        }
    }
}

/// What there is to do.
pub(in crate::layers) enum Next<F> {
    Fly(F),
    At(Instant),
    /// Until something is added or lands.
    Nothing,
}

/// What became of a key that was under way.
#[derive(Debug)]
pub(in crate::layers) enum Landed {
    /// It is there; there is nothing more to do.
    Done,
    /// It is there, and was written again.
    Again,
    /// It was written again before it was there.
    Changed,
    /// The key failed.
    Failed,
    /// It is of no use to try the key again before that time has passed.
    Hopeless(Duration),
    /// The store failed with all that it is asked.
    Away(Error),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Queued,
    Flying,
    Resting,
}

#[derive(Debug)]
struct Line<T> {
    what: T,
    phase: Phase,
    pause: Duration,
}

/// The store does not answer.
#[derive(Clone, Debug)]
struct Away {
    until: Instant,
    pause: Duration,
    why: Error,
}

/// The keys that are to be brought to one store, with what is known of each.
#[derive(Debug)]
pub(in crate::layers) struct Queue<T> {
    lines: HashMap<Place, Line<T>>,
    queued: VecDeque<Place>,
    resting: BTreeMap<(Instant, u64), Place>,
    rests: u64,
    flying: usize,
    away: Option<Away>,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self {
            lines: HashMap::new(),
            queued: VecDeque::new(),
            resting: BTreeMap::new(),
            rests: 0,
            flying: 0,
            away: None,
        }
    }
}

impl<T> Queue<T> {
    pub(in crate::layers) fn len(&self) -> usize {
        self.lines.len()
    }

    pub(in crate::layers) fn get(&self, place: &Place) -> Option<&T> {
        self.lines.get(place).map(|line| &line.what)
    }

    pub(in crate::layers) fn get_mut(&mut self, place: &Place) -> Option<&mut T> {
        self.lines.get_mut(place).map(|line| &mut line.what)
    }

    /// What is known of each key.
    pub(in crate::layers) fn all(&self) -> impl Iterator<Item = &T> {
        self.lines.values().map(|line| &line.what)
    }

    /// Why nothing is sent.
    pub(in crate::layers) fn away(&self) -> Option<Error> {
        self.away.as_ref().map(|away| away.why.clone())
    }

    /// A key that is not there yet.
    pub(in crate::layers) fn add(&mut self, place: &Place, what: T) {
        self.lines.insert(place.clone(), Line { what, phase: Phase::Queued, pause: PAUSES.0 });
        self.queued.push_back(place.clone());
    }

    /// The key that is under way from now on.
    pub(in crate::layers) fn next<F>(&mut self, take_off: impl FnOnce(Place, &mut T) -> F) -> Next<F> {
        let now = Instant::now();
        while let Some(first) = self.resting.first_entry().filter(|first| first.key().0 <= now) {
            let place = first.remove();
            if let Some(line) = self.lines.get_mut(&place).filter(|line| line.phase == Phase::Resting) {
                line.phase = Phase::Queued;
                self.queued.push_back(place);
            }
        }
        match &self.away {
            // One at a time, until the store answers.
            Some(_) if self.flying > 0 => return Next::Nothing,
            Some(away) if away.until > now => return Next::At(away.until),
            _ => {}
        }
        while let Some(place) = self.queued.pop_front() {
            if let Some(line) = self.lines.get_mut(&place).filter(|line| line.phase == Phase::Queued) {
                line.phase = Phase::Flying;
                self.flying += 1;
                return Next::Fly(take_off(place, &mut line.what));
            }
        }
        self.resting.keys().next().map_or(Next::Nothing, |(at, _)| Next::At(*at))
    }

    /// A key is not under way any more. What was known of it, if it is gone.
    pub(in crate::layers) fn land(&mut self, place: &Place, landed: Landed) -> Option<T> {
        let now = Instant::now();
        let line = self.lines.get_mut(place)?;
        self.flying = self.flying.saturating_sub(1);
        if !matches!(landed, Landed::Away(_)) {
            self.away = None;
        }
        line.phase = Phase::Queued;
        match landed {
            Landed::Done => return self.lines.remove(place).map(|line| line.what),
            Landed::Again => {
                line.pause = PAUSES.0;
                self.queued.push_back(place.clone());
            }
            Landed::Changed => self.queued.push_back(place.clone()),
            Landed::Failed => {
                let pause = line.pause;
                line.pause = (pause * 2).min(PAUSES.1);
                self.rest(place, now + pause);
            }
            Landed::Hopeless(pause) => self.rest(place, now + pause),
            Landed::Away(why) => {
                self.queued.push_front(place.clone());
                let pause = self.away.as_ref().map_or(PAUSES.0, |away| (away.pause * 2).min(PAUSES.1));
                self.away = Some(Away { until: now + pause, pause, why });
            }
        }
        None
    }

    fn rest(&mut self, place: &Place, until: Instant) {
        if let Some(line) = self.lines.get_mut(place) {
            line.phase = Phase::Resting;
            self.rests += 1;
            self.resting.insert((until, self.rests), place.clone());
        }
    }

    /// What was under way is not any more: nobody knows how it ended.
    pub(in crate::layers) fn land_all(&mut self) {
        self.flying = 0;
        let flew = self.lines.iter_mut().filter(|(_, line)| line.phase == Phase::Flying);
        let mut places: Vec<Place> = flew
            .map(|(place, line)| {
                line.phase = Phase::Queued;
                place.clone()
            })
            .collect();
        // In one order, so that a simulation is the same each time.
        places.sort_unstable();
        self.queued.extend(places);
    }

    /// A key is to be sent before the others; `false`: there is nothing to send of it.
    pub(in crate::layers) fn hurry(&mut self, place: &Place) -> bool {
        let Some(line) = self.lines.get_mut(place) else { return false };
        if line.phase != Phase::Flying {
            line.phase = Phase::Queued;
            self.queued.push_front(place.clone());
        }
        true
    }

    /// Somebody waits for the store: if it did not answer, it is asked again soon.
    pub(in crate::layers) fn ask_soon(&mut self) {
        if let Some(away) = &mut self.away {
            away.until = away.until.min(Instant::now() + PAUSES.0);
        }
    }
}

/// Sends what there is to send, so many keys at a time, as long as it is let. `news`: there may be something to do that
/// there was not.
pub(in crate::layers) async fn send_all<F, S: Future<Output = ()>>(
    most: usize,
    next: impl Fn() -> Next<F>,
    news: &Notify,
    send: impl Fn(F) -> S,
) {
    let mut under_way = FuturesUnordered::new();
    loop {
        let mut at = None;
        while under_way.len() < most {
            match next() {
                Next::Fly(flight) => under_way.push(send(flight)),
                Next::At(when) => {
                    at = Some(when);
                    break;
                }
                Next::Nothing => break,
            }
        }
        let due = async {
            match at {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            Some(()) = under_way.next() => {}
            () = news.notified() => {}
            () = due => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Key;

    fn place(key: &str) -> Place {
        ("kv/".into(), Key::new(key).unwrap())
    }

    /// The key that takes off, or after how many milliseconds one may.
    fn next(queue: &mut Queue<()>) -> Result<String, Option<u128>> {
        match queue.next(|place, ()| place.1.to_string()) {
            Next::Fly(key) => Ok(key),
            Next::At(at) => Err(Some((at - Instant::now()).as_millis())),
            Next::Nothing => Err(None),
        }
    }

    fn queue(keys: &[&str]) -> Queue<()> {
        let mut queue = Queue::default();
        keys.iter().for_each(|key| queue.add(&place(key), ()));
        queue
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_is_under_way_once_and_tried_again_after_pauses_that_grow() {
        let mut queue = queue(&["a", "b"]);
        assert_eq!([next(&mut queue), next(&mut queue)], [Ok("a".into()), Ok("b".into())]);
        assert_eq!(next(&mut queue), Err(None), "both are under way");
        assert!(queue.hurry(&place("a")) && !queue.hurry(&place("c")));
        assert_eq!(next(&mut queue), Err(None), "who hurries does not send it twice");
        assert!(queue.land(&place("b"), Landed::Done).is_some() && queue.len() == 1);
        for pause in [50, 100, 200, 400] {
            queue.land(&place("a"), Landed::Failed);
            assert_eq!(next(&mut queue), Err(Some(pause)));
            tokio::time::advance(Duration::from_millis(50 * 8)).await;
            assert_eq!(next(&mut queue), Ok("a".into()));
        }
        queue.land(&place("a"), Landed::Again);
        assert_eq!(next(&mut queue), Ok("a".into()));
        queue.land(&place("a"), Landed::Failed);
        assert_eq!(next(&mut queue), Err(Some(50)), "after a success the pauses begin anew");
        tokio::time::advance(Duration::from_millis(50)).await;
        assert_eq!(next(&mut queue), Ok("a".into()));
        queue.land(&place("a"), Landed::Hopeless(Duration::from_secs(60)));
        assert_eq!(next(&mut queue), Err(Some(60_000)));
        assert!(queue.hurry(&place("a")));
        assert_eq!(next(&mut queue), Ok("a".into()), "who hurries does not wait");
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_does_not_answer_is_asked_for_one_key_at_a_time() {
        let mut queue = queue(&["a", "b", "c"]);
        assert_eq!([next(&mut queue), next(&mut queue)], [Ok("a".into()), Ok("b".into())]);
        let away = || Landed::Away(Error::unavailable("Unreachable", "it is away"));
        queue.land(&place("a"), away());
        assert_eq!(next(&mut queue), Err(None), "one is still under way");
        queue.land(&place("b"), away());
        assert!(queue.away().is_some());
        assert_eq!(next(&mut queue), Err(Some(100)));
        queue.ask_soon();
        assert_eq!(next(&mut queue), Err(Some(50)));
        tokio::time::advance(Duration::from_millis(50)).await;
        assert_eq!([next(&mut queue), next(&mut queue)], [Ok("b".into()), Err(None)]);
        queue.land(&place("b"), Landed::Done);
        assert!(queue.away().is_none());
        assert_eq!([next(&mut queue), next(&mut queue)], [Ok("a".into()), Ok("c".into())]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_broken_off_is_sent_again() {
        let mut queue = queue(&["b", "a"]);
        assert_eq!([next(&mut queue), next(&mut queue)], [Ok("b".into()), Ok("a".into())]);
        queue.land_all();
        assert_eq!([next(&mut queue), next(&mut queue)], [Ok("a".into()), Ok("b".into())], "in one order");
    }
}
