use std::sync::Mutex;

use super::*;
use crate::clock::ManualClock;
use crate::session::observer::margin;

const TTL: Duration = Duration::from_secs(15);

/// A lock in memory, and what may go wrong on the way to it.
#[derive(Debug, Default)]
struct Store {
    record: Option<LockRecord>,
    version: u64,
}

impl Store {
    fn read(&self) -> Option<(LockRecord, DocumentVersion)> {
        self.record.clone().map(|record| (record, DocumentVersion(self.version.to_string())))
    }

    fn write(&mut self, expected: Option<&DocumentVersion>, record: &LockRecord) -> Swap {
        if self.read().map(|(_, version)| version).as_ref() != expected {
            return Swap::Rejected;
        }
        self.record = Some(record.clone());
        self.version += 1;
        Swap::Applied(DocumentVersion(self.version.to_string()))
    }
}

#[derive(Clone, Debug, Default)]
struct MemoryLock(Arc<Mutex<Store>>);

#[async_trait]
impl Lock for MemoryLock {
    async fn read(&self) -> Result<Option<(LockRecord, DocumentVersion)>, Error> {
        Ok(self.0.lock().unwrap().read())
    }

    async fn write(&self, expected: Option<&DocumentVersion>, record: &LockRecord) -> Result<Swap, Error> {
        Ok(self.0.lock().unwrap().write(expected, record))
    }
}

fn candidate(name: &str, clock: &ManualClock) -> Candidate {
    Candidate::new(name.into(), TTL, Arc::new(clock.clone()))
}

fn step(candidate: &mut Candidate, store: &mut Store) {
    let found = candidate.needs_read().then(|| store.read());
    if let Some(attempt) = candidate.attempt(found) {
        let answer = store.write(attempt.expected.as_ref(), &attempt.record);
        candidate.answered(attempt, Ok(answer));
    }
}

fn leads(candidate: &Candidate) -> bool {
    candidate.term().is_some()
}

#[test]
fn the_first_leads_and_the_second_waits_ttl_and_margin_after_the_last_renewal_it_saw() {
    let (clock, mut store) = (ManualClock::default(), Store::default());
    let (mut a, mut b) = (candidate("a", &clock), candidate("b", &clock));
    step(&mut a, &mut store);
    step(&mut b, &mut store);
    assert!(leads(&a) && !leads(&b));

    clock.advance(TTL);
    step(&mut b, &mut store);
    assert!(!leads(&a), "its term is over by its own clock");
    assert!(!leads(&b), "ttl alone is not enough: the margin covers clocks that run at different rates");

    clock.advance(margin(TTL));
    step(&mut b, &mut store);
    assert!(leads(&b));
    assert_eq!(b.term().unwrap().transitions, 1);
    step(&mut a, &mut store);
    assert!(!leads(&a));
}

#[test]
fn who_waits_knows_when_the_lock_can_be_taken_and_not_a_moment_sooner() {
    let (clock, mut store) = (ManualClock::default(), Store::default());
    let (mut a, mut b) = (candidate("a", &clock), candidate("b", &clock));
    step(&mut a, &mut store);
    assert_eq!(b.left(), None, "nothing was seen");
    step(&mut b, &mut store);
    assert_eq!(b.left(), Some(TTL + margin(TTL)));
    clock.advance(TTL);
    step(&mut b, &mut store);
    clock.advance(b.left().unwrap() - Duration::from_nanos(1));
    step(&mut b, &mut store);
    assert!(!leads(&b));
    clock.advance(b.left().unwrap());
    step(&mut b, &mut store);
    assert!(leads(&b));
    assert_eq!(b.left(), None, "it waits for nobody");
}

#[test]
fn who_waits_looks_when_the_lock_can_be_taken_and_does_not_hurry_where_it_can_t_be_read() {
    let (clock, lock) = (ManualClock::default(), MemoryLock::default());
    let look = Duration::from_secs(2);
    let settings = Settings { identity: "b".into(), ttl: TTL, renew: look, look, call_limit: look };
    let mut elector = Elector::new(lock.clone(), Arc::new(clock.clone()), settings);
    step(&mut candidate("a", &clock), &mut lock.0.lock().unwrap());
    step(&mut elector.candidate, &mut lock.0.lock().unwrap());
    assert_eq!(elector.pause(), look);
    let last = Duration::from_millis(300);
    clock.advance(TTL + margin(TTL) - last);
    assert_eq!(elector.pause(), last);
    clock.advance(last);
    assert_eq!(elector.pause(), look, "it could have been taken, but the store did not answer");
}

#[test]
fn a_leader_that_is_cut_off_acts_no_more_before_another_begins() {
    let (clock, mut store) = (ManualClock::default(), Store::default());
    let (mut a, mut b) = (candidate("a", &clock), candidate("b", &clock));
    step(&mut a, &mut store);
    step(&mut b, &mut store);
    let (mut stopped, mut began) = (None, None);
    while began.is_none() {
        clock.advance(Duration::from_millis(100));
        // Its renewals reach nobody; the other's do.
        if let Some(attempt) = a.attempt(a.needs_read().then(|| store.read())) {
            a.answered(attempt, Err(Error::unavailable("Unreachable", "no route")));
        }
        step(&mut b, &mut store);
        assert!(!(leads(&a) && leads(&b)));
        stopped = stopped.or((!leads(&a)).then(|| clock.now()));
        began = leads(&b).then(|| clock.now());
        assert!(clock.now() <= 2 * (TTL + margin(TTL)), "nobody takes over");
    }
    assert!(stopped.unwrap() + margin(TTL) <= began.unwrap(), "{stopped:?} {began:?}");
}

#[test]
fn a_process_that_starts_again_in_its_place_does_not_wait_for_itself_and_nobody_else_does_so() {
    let clock = ManualClock::default();
    let at = |place: &str, life: &str| candidate(&format!("{place}_{life}"), &clock).in_place(place.into());
    for (second, third, at_once) in [("pod_1", "2", true), ("pod_2", "2", false), ("pod", "1", false)] {
        let mut store = Store::default();
        step(&mut at("pod_1", "1"), &mut store);
        let mut later = at(second, third);
        step(&mut later, &mut store);
        let expected = at_once.then_some(1);
        assert_eq!(later.term().map(|term| term.transitions), expected, "{second}_{third}");
    }
    let mut store = Store::default();
    step(&mut at("pod_1", "1"), &mut store);
    let mut nowhere = candidate("pod_1_2", &clock);
    step(&mut nowhere, &mut store);
    assert!(!leads(&nowhere), "whose place is not known waits");
}

#[test]
fn a_renewed_lock_is_never_taken() {
    let (clock, mut store) = (ManualClock::default(), Store::default());
    let (mut a, mut b) = (candidate("a", &clock), candidate("b", &clock));
    for _ in 0..100 {
        step(&mut a, &mut store);
        step(&mut b, &mut store);
        assert!(leads(&a) && !leads(&b));
        clock.advance(TTL / 3);
    }
}

#[test]
fn a_released_lock_is_taken_at_once() {
    let (clock, mut store) = (ManualClock::default(), Store::default());
    let (mut a, mut b) = (candidate("a", &clock), candidate("b", &clock));
    step(&mut a, &mut store);
    step(&mut b, &mut store);
    let old = a.term().unwrap();
    a.resign();
    assert!(!old.is_valid(), "the old term ends before the lock is free");
    let release = a.release(store.read().unwrap()).unwrap();
    assert!(matches!(store.write(release.expected.as_ref(), &release.record), Swap::Applied(_)));
    step(&mut b, &mut store);
    assert!(leads(&b));
}

#[test]
fn a_release_never_frees_the_lock_of_another() {
    let (clock, mut store) = (ManualClock::default(), Store::default());
    let (mut a, mut b) = (candidate("a", &clock), candidate("b", &clock));
    step(&mut a, &mut store);
    let seen_by_a = store.read().unwrap();
    step(&mut b, &mut store);
    clock.advance(TTL + margin(TTL));
    step(&mut b, &mut store);
    assert!(leads(&b));

    assert_eq!(a.release(store.read().unwrap()), None);
    let late = a.release(seen_by_a).unwrap();
    assert_eq!(store.write(late.expected.as_ref(), &late.record), Swap::Rejected, "conditional on its own version");
    assert_eq!(store.record.as_ref().unwrap().holder.as_deref(), Some("b"));
    assert!(leads(&b));
}

#[test]
fn the_term_counts_from_before_the_question_was_sent() {
    let (clock, mut store) = (ManualClock::default(), Store::default());
    let mut a = candidate("a", &clock);
    let attempt = a.attempt(Some(store.read())).unwrap();
    let answer = store.write(attempt.expected.as_ref(), &attempt.record);
    clock.advance(TTL); // The answer took all of it.
    a.answered(attempt, Ok(answer));
    assert!(!leads(&a));
}

#[test]
fn a_lapsed_term_stays_over_when_the_lock_is_won_again() {
    let (clock, mut store) = (ManualClock::default(), Store::default());
    let mut a = candidate("a", &clock);
    step(&mut a, &mut store);
    let old = a.term().unwrap();
    clock.advance(TTL);
    step(&mut a, &mut store);
    assert!(leads(&a) && !old.is_valid());
}

#[test]
fn a_lost_answer_is_cleared_up_by_reading() {
    let (clock, mut store) = (ManualClock::default(), Store::default());
    let mut a = candidate("a", &clock);
    step(&mut a, &mut store);
    clock.advance(TTL / 3);
    let attempt = a.attempt(None).unwrap();
    let _lost = store.write(attempt.expected.as_ref(), &attempt.record);
    a.answered(attempt, Ok(Swap::Unknown("timeout".into())));
    assert!(leads(&a), "the old deadline still stands");
    step(&mut a, &mut store);
    clock.advance(TTL - Duration::from_nanos(1));
    assert!(leads(&a), "renewed from what the read showed");
}

/// A seeded run of pauses, lost answers, delayed writes and clean ends; `blind` makes the store ignore the expected
/// version (as a release or takeover without a precondition would), which must be caught.
fn two_leaders_in(seed: u64, blind: bool) -> bool {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut pick = move |n: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % n
    };
    let (clock, mut store) = (ManualClock::default(), Store::default());
    let mut candidates = [candidate("a", &clock), candidate("b", &clock), candidate("c", &clock)];
    let mut delayed: Vec<(usize, Attempt)> = Vec::new();
    for _ in 0..400 {
        let who = usize::try_from(pick(3)).unwrap();
        let found = candidates[who].needs_read().then(|| store.read());
        let attempt = match pick(12) {
            0 => {
                candidates[who].resign();
                store.read().and_then(|found| candidates[who].release(found))
            }
            _ => candidates[who].attempt(found),
        };
        if let Some(mut attempt) = attempt {
            if blind {
                attempt.expected = store.read().map(|(_, version)| version);
            }
            let is_release = attempt.record.holder.is_none();
            match pick(4) {
                0 => {
                    delayed.push((who, attempt.clone()));
                    candidates[who].answered(attempt, Ok(Swap::Unknown("late".into())));
                }
                fate => {
                    let answer = store.write(attempt.expected.as_ref(), &attempt.record);
                    let answer = if fate == 1 { Swap::Unknown("lost".into()) } else { answer };
                    if !is_release {
                        candidates[who].answered(attempt, Ok(answer));
                    }
                }
            }
        }
        if !delayed.is_empty() && pick(3) == 0 {
            let index = usize::try_from(pick(delayed.len() as u64)).unwrap();
            let (_, mut attempt) = delayed.swap_remove(index);
            if blind {
                attempt.expected = store.read().map(|(_, version)| version);
            }
            let _late = store.write(attempt.expected.as_ref(), &attempt.record);
        }
        if candidates.iter().filter(|candidate| leads(candidate)).count() > 1 {
            return true;
        }
        let longest = if pick(20) == 0 { 30_000 } else { 3_000 };
        clock.advance(Duration::from_millis(pick(longest)));
    }
    false
}

#[test]
fn never_two_leaders_under_pauses_lost_answers_and_late_writes() {
    assert!((1..2000).all(|seed| !two_leaders_in(seed, false)));
}

#[test]
fn the_check_catches_writes_without_a_precondition() {
    assert!((1..2000).any(|seed| two_leaders_in(seed, true)));
}

fn settings(identity: &str) -> Settings {
    Settings {
        identity: identity.into(),
        ttl: Duration::from_secs(2),
        renew: Duration::from_millis(10),
        look: Duration::from_millis(10),
        call_limit: Duration::from_secs(1),
    }
}

#[tokio::test]
async fn who_leads_renews_at_its_own_pace_and_tries_again_sooner_when_it_does_not_know_whether_it_did() {
    let (renew, look) = (Duration::from_millis(1000), Duration::from_millis(600));
    let settings = Settings { renew, look, ..settings("a") };
    let mut a = Elector::new(MemoryLock::default(), Arc::new(crate::clock::SystemClock), settings);
    assert_eq!(a.pause(), look, "it does not lead");
    a.step().await;
    assert_eq!(a.pause(), renew);
    let attempt = a.candidate.attempt(None).unwrap();
    a.candidate.answered(attempt, Ok(Swap::Unknown("lost".into())));
    assert!(leads(&a.candidate) && a.pause() < look);
}

#[tokio::test]
async fn work_is_gone_before_the_lock_is_free_and_the_next_takes_over() {
    let lock = MemoryLock::default();
    let alive = Arc::new(());
    let (stop_a, stopped_a) = tokio::sync::oneshot::channel::<()>();
    let a = Elector::new(lock.clone(), Arc::new(crate::clock::SystemClock), settings("a"));
    let mut leading = a.leadership();
    let held = Arc::clone(&alive);
    let run_a = tokio::spawn(a.run(async { drop(stopped_a.await) }, move |_| {
        let held = Arc::clone(&held);
        async move {
            let _held = held;
            std::future::pending().await
        }
    }));
    leading.wait_for(Option::is_some).await.unwrap();
    stop_a.send(()).unwrap();
    run_a.await.unwrap();
    assert_eq!(Arc::strong_count(&alive), 1, "the work was dropped");
    assert_eq!(lock.read().await.unwrap().unwrap().0.holder, None);

    let (stop_b, stopped_b) = tokio::sync::oneshot::channel::<()>();
    let b = Elector::new(lock.clone(), Arc::new(crate::clock::SystemClock), settings("b"));
    let mut leading = b.leadership();
    let run_b = tokio::spawn(b.run(async { drop(stopped_b.await) }, |_| std::future::pending()));
    let term = leading.wait_for(Option::is_some).await.unwrap().clone().unwrap();
    assert!(term.is_valid());
    // Its lock is stolen under it (an administrator's edit): it must stop by itself.
    let (record, version) = lock.read().await.unwrap().unwrap();
    let stolen = LockRecord { holder: Some("thief".into()), revision: record.revision + 100, ..record };
    let mut at = version;
    while lock.write(Some(&at), &stolen).await.unwrap() == Swap::Rejected {
        at = lock.read().await.unwrap().unwrap().1;
    }
    leading.wait_for(Option::is_none).await.unwrap();
    assert!(!term.is_valid());
    stop_b.send(()).unwrap();
    run_b.await.unwrap();
    assert_eq!(lock.read().await.unwrap().unwrap().0.holder.as_deref(), Some("thief"));
}

#[tokio::test]
async fn work_does_not_outlive_an_elector_that_is_dropped() {
    let alive = Arc::new(());
    let a = Elector::new(MemoryLock::default(), Arc::new(crate::clock::SystemClock), settings("a"));
    let mut leading = a.leadership();
    let held = Arc::clone(&alive);
    let run = tokio::spawn(a.run(std::future::pending(), move |_| {
        let held = Arc::clone(&held);
        async move {
            let _held = held;
            std::future::pending().await
        }
    }));
    leading.wait_for(Option::is_some).await.unwrap();
    run.abort();
    let _aborted = run.await;
    let gone = async {
        while Arc::strong_count(&alive) > 1 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), gone).await.unwrap();
}
