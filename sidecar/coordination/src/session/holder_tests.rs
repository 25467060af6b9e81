use super::super::observer::margin;
use super::*;
use crate::clock::ManualClock;

const TTL: Duration = Duration::from_secs(30);

/// One record under compare-and-swap.
#[derive(Debug, Default)]
struct Store {
    record: Option<SessionRecord>,
    version: u64,
}

impl Store {
    fn read(&self) -> Option<(SessionRecord, DocumentVersion)> {
        self.record.clone().map(|record| (record, DocumentVersion(self.version.to_string())))
    }

    fn write(&mut self, attempt: &Attempt) -> Swap {
        if self.read().map(|(_, version)| version) != attempt.expected {
            return Swap::Rejected;
        }
        self.record = Some(attempt.record.clone());
        self.version += 1;
        Swap::Applied(DocumentVersion(self.version.to_string()))
    }

    fn end(&mut self) {
        self.record = self.record.take().map(|record| record.ended());
        self.version += 1;
    }
}

fn holder(pod: &str, clock: &ManualClock) -> SessionHolder {
    let identity =
        Identity { node: NodeId("n-0".into()), pod_uid: pod.into(), address: "10.0.0.1:7701".into(), ttl: TTL };
    SessionHolder::new(identity, Arc::new(clock.clone()))
}

fn attempt(holder: &mut SessionHolder, store: &Store, nonce: &str) -> Option<Attempt> {
    let found = holder.needs_read().then(|| store.read());
    match holder.step(found, &Report::default(), nonce, "") {
        Step::Write(attempt) => Some(*attempt),
        Step::Wait(_) => None,
    }
}

fn step(holder: &mut SessionHolder, store: &mut Store, nonce: &str) -> bool {
    let Some(attempt) = attempt(holder, store, nonce) else {
        return false;
    };
    let answer = Ok(store.write(&attempt));
    holder.answered(attempt, &answer)
}

fn life(holder: &SessionHolder) -> Life {
    holder.life().unwrap().clone()
}

#[test]
fn a_session_begins_and_is_renewed_again_and_again() {
    let (clock, mut store) = (ManualClock::default(), Store::default());
    let mut node = holder("p", &clock);
    assert!(step(&mut node, &mut store, "x"));
    let first = life(&node);
    for _ in 0..100 {
        clock.advance(TTL / 3);
        assert!(!step(&mut node, &mut store, "unused"));
    }
    assert!(first.validity.holds());
    assert_eq!(life(&node).incarnation, first.incarnation);
    assert_eq!(store.record.unwrap().revision, 101);
}

#[test]
fn the_deadline_counts_from_before_the_question_was_sent() {
    let (clock, mut store) = (ManualClock::default(), Store::default());
    let mut node = holder("p", &clock);
    step(&mut node, &mut store, "x");
    let first = life(&node);
    clock.advance(Duration::from_secs(10));
    let renewal = attempt(&mut node, &store, "y").unwrap();
    let answer = Ok(store.write(&renewal));
    clock.advance(Duration::from_secs(15)); // The answer is slow, and arrives in time.
    node.answered(renewal, &answer);
    assert_eq!(first.validity.remaining(), Duration::from_secs(15), "30 s from when it was asked, 15 s ago");
}

#[test]
fn an_answer_after_the_deadline_revives_nothing() {
    let (clock, mut store) = (ManualClock::default(), Store::default());
    let mut node = holder("p", &clock);
    step(&mut node, &mut store, "x");
    let first = life(&node);
    clock.advance(TTL - Duration::from_secs(1));
    let renewal = attempt(&mut node, &store, "y").unwrap();
    let answer = Ok(store.write(&renewal));
    clock.advance(Duration::from_secs(1));
    node.answered(renewal, &answer);
    assert!(node.life().is_none() && !first.validity.holds());

    assert!(step(&mut node, &mut store, "z"), "its own earlier life is over for certain: the next begins at once");
    assert_eq!(life(&node).incarnation.start, 2);
    assert!(!first.validity.holds());
}

#[test]
fn a_lapsed_life_never_goes_on_by_renewing() {
    let (clock, mut store) = (ManualClock::default(), Store::default());
    let mut node = holder("p", &clock);
    step(&mut node, &mut store, "x");
    let first = life(&node);
    clock.advance(TTL);
    assert!(step(&mut node, &mut store, "y"));
    assert_ne!(life(&node).incarnation, first.incarnation);
    assert!(!first.validity.holds());
}

#[test]
fn a_session_that_was_ended_by_another_is_over_at_the_next_renewal() {
    let (clock, mut store) = (ManualClock::default(), Store::default());
    let mut node = holder("p", &clock);
    step(&mut node, &mut store, "x");
    let first = life(&node);
    store.end();
    step(&mut node, &mut store, "y"); // Rejected.
    step(&mut node, &mut store, "z"); // Reads, sees, begins anew.
    assert!(!first.validity.holds());
    assert_eq!(life(&node).incarnation.start, 2);
}

#[test]
fn a_deleted_record_ends_the_life() {
    let (clock, mut store) = (ManualClock::default(), Store::default());
    let mut node = holder("p", &clock);
    step(&mut node, &mut store, "x");
    let first = life(&node);
    store.record = None;
    step(&mut node, &mut store, "y");
    step(&mut node, &mut store, "z");
    assert!(!first.validity.holds());
    assert_ne!(life(&node).incarnation, first.incarnation);
}

#[test]
fn a_lost_answer_is_cleared_up_by_reading_and_the_life_goes_on() {
    let (clock, mut store) = (ManualClock::default(), Store::default());
    let mut node = holder("p", &clock);
    step(&mut node, &mut store, "x");
    let first = life(&node);
    clock.advance(TTL / 3);
    let renewal = attempt(&mut node, &store, "y").unwrap();
    let _lost = store.write(&renewal);
    node.answered(renewal, &Ok(Swap::Unknown("timeout".into())));
    assert_eq!(first.validity.remaining(), TTL - TTL / 3, "what is not known extends nothing");
    assert!(!step(&mut node, &mut store, "z"));
    assert_eq!(first.validity.remaining(), TTL);
}

#[test]
fn a_restarted_container_takes_its_session_back_at_once() {
    let (clock, mut store) = (ManualClock::default(), Store::default());
    step(&mut holder("p", &clock), &mut store, "x");
    let mut again = holder("p", &clock);
    assert!(step(&mut again, &mut store, "y"));
    assert_eq!((life(&again).incarnation.start, store.record.unwrap().revision), (2, 2));
}

#[test]
fn a_new_pod_waits_until_its_predecessor_has_lapsed_for_certain() {
    let (clock, mut store) = (ManualClock::default(), Store::default());
    let mut old = holder("old", &clock);
    step(&mut old, &mut store, "x");
    let mut new = holder("new", &clock);
    assert!(!step(&mut new, &mut store, "y"));
    clock.advance(TTL);
    assert!(old.life().is_none());
    assert!(!step(&mut new, &mut store, "y"));
    clock.advance(margin(TTL));
    assert!(step(&mut new, &mut store, "y"));
}

#[test]
fn a_new_pod_begins_at_once_when_its_predecessor_ended_its_session() {
    let (clock, mut store) = (ManualClock::default(), Store::default());
    let mut old = holder("old", &clock);
    step(&mut old, &mut store, "x");
    let validity = life(&old).validity;
    let _lost_on_the_way = old.end(store.read()).unwrap();
    assert!(!validity.holds(), "over on this side before others may know");
    let end = old.end(store.read()).unwrap();
    assert!(matches!(store.write(&end), Swap::Applied(_)));
    assert!(step(&mut holder("new", &clock), &mut store, "y"));
}

#[test]
fn a_node_never_ends_the_session_of_its_successor() {
    let (clock, mut store) = (ManualClock::default(), Store::default());
    let mut old = holder("p", &clock);
    step(&mut old, &mut store, "x");
    step(&mut holder("p", &clock), &mut store, "y");
    assert_eq!(old.end(store.read()), None);
}

#[test]
fn the_map_revision_once_reported_never_falls() {
    let (clock, mut store) = (ManualClock::default(), Store::default());
    let mut node = holder("p", &clock);
    let report = Report { map_revision: 9, ..Report::default() };
    let Step::Write(attempt) = node.step(Some(None), &report, "x", "") else { panic!("nothing in the way") };
    let _applied = store.write(&attempt);
    step(&mut holder("p", &clock), &mut store, "y");
    assert_eq!(store.record.unwrap().map_revision, 9);
}
