//! What the limits promise: to the store, and to those who wait for it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use brainy_storage::layers::limiting::{LimitCounts, Limiter, Limiting};
use brainy_storage::{Condition, Error, Key, Namespace, Outcome, StorageAdapter, Value, Version, WriteResult};
use tokio::task::JoinHandle;

use crate::store::{LONG, Slow, number};

/// Waited out by tests in which the store does not answer.
const SHORT: u64 = 20;

struct World {
    limiter: Limiter,
    slow: Arc<Slow>,
    limited: Arc<dyn StorageAdapter>,
}

/// Limits that are out of the way.
fn wide() -> Limiting {
    Limiting { timeout_ms: LONG.as_millis() as u64, ..Limiting::default() }
}

fn name(key: &str) -> Key {
    Key::new(key).unwrap()
}

fn version(revision: u64) -> Condition {
    Condition::Version(Version { revision, tag: "none".to_owned() })
}

fn cause<T: std::fmt::Debug>(result: Result<T, Error>) -> String {
    match result {
        Err(Error::Unavailable { cause, .. }) => cause,
        other => panic!("{other:?}"),
    }
}

fn is_unknown(result: &WriteResult<Version>) -> bool {
    matches!(result, Ok(Outcome::Unknown(_)))
}

async fn answer<T>(task: JoinHandle<T>) -> T {
    tokio::time::timeout(LONG, task).await.expect("it waits for ever").unwrap()
}

/// Lets everybody go on as far as they can.
async fn settle() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

impl World {
    fn new(settings: Limiting) -> Self {
        let (limiter, slow) = (Limiter::new(settings), Arc::new(Slow::new()));
        Self { limited: limiter.over(Arc::clone(&slow) as _), limiter, slow }
    }

    fn hold(&self) {
        self.slow.hold_reads.store(true, Ordering::SeqCst);
        self.slow.hold_writes.store(true, Ordering::SeqCst);
    }

    /// Nobody is held up any more.
    fn release(&self) {
        self.slow.hold_reads.store(false, Ordering::SeqCst);
        self.slow.hold_writes.store(false, Ordering::SeqCst);
        self.slow.go_on.add_permits(1000);
    }

    async fn get(&self) -> JoinHandle<Result<Option<Value>, Error>> {
        let limited = Arc::clone(&self.limited);
        let task = tokio::spawn(async move { Ok(limited.get(&name("k")).await?.map(|entry| entry.value)) });
        settle().await;
        task
    }

    async fn put(&self, condition: Condition) -> JoinHandle<WriteResult<Version>> {
        let limited = Arc::clone(&self.limited);
        let task = tokio::spawn(async move { limited.put(&name("k"), number(1), &condition).await });
        settle().await;
        task
    }

    fn fail(&self, causes: &[&str]) {
        let failures = causes.iter().map(|cause| Error::unavailable(*cause, "by the test"));
        self.slow.failures.lock().unwrap().extend(failures);
    }

    fn reads(&self) -> u32 {
        self.slow.reads.load(Ordering::SeqCst)
    }

    fn writes(&self) -> Vec<Condition> {
        self.slow.writes.lock().unwrap().clone()
    }
}

#[tokio::test]
async fn no_more_are_under_way_at_once_than_may_be() {
    let world = World::new(Limiting { max_concurrent: 2, ..wide() });
    world.hold();
    let (get, put) = (world.get().await, world.put(Condition::Any).await);
    let waiting = [world.get().await, world.get().await];
    assert_eq!((world.reads(), world.writes().len()), (1, 1));
    world.release();
    answer(put).await.unwrap().applied().unwrap();
    for get in waiting.into_iter().chain([get]) {
        answer(get).await.unwrap();
    }
    assert_eq!(world.reads(), 3);
}

#[tokio::test]
async fn those_who_wait_have_their_turn_in_the_order_in_which_they_came() {
    let world = World::new(Limiting { max_concurrent: 1, ..wide() });
    world.hold();
    let first = world.get().await;
    let mut tasks = Vec::new();
    for revision in 1..5 {
        tasks.push(world.put(version(revision)).await);
    }
    assert_eq!(world.writes(), []);
    world.release();
    answer(first).await.unwrap();
    for task in tasks {
        assert!(matches!(answer(task).await, Ok(Outcome::Rejected(None))));
    }
    assert_eq!(world.writes(), [version(1), version(2), version(3), version(4)]);
}

#[tokio::test]
async fn when_as_many_wait_as_may_the_next_one_fails_cleanly_and_at_once() {
    let world = World::new(Limiting { max_concurrent: 1, max_waiting: 1, ..wide() });
    world.hold();
    let (first, second) = (world.get().await, world.put(Condition::Any).await);
    assert_eq!(cause(answer(world.put(version(7)).await).await), "Busy");
    assert_eq!(cause(answer(world.get().await).await), "Busy");
    let batch = world.limited.set_batch(vec![(name("a"), number(1)), (name("b"), number(2))]).await;
    assert_eq!(batch.into_iter().map(cause).collect::<Vec<_>>(), ["Busy", "Busy"]);
    let batch = world.limited.get_batch(&[name("a"), name("b")]).await;
    assert_eq!(batch.into_iter().map(cause).collect::<Vec<_>>(), ["Busy", "Busy"]);
    assert_eq!(world.limiter.counts(), LimitCounts { under_way: 1, waiting: 1, refused: 4 });
    world.release();
    answer(first).await.unwrap();
    answer(second).await.unwrap().applied().unwrap();
    assert_eq!((world.reads(), world.writes()), (1, vec![Condition::Any]), "something was done after all");
    assert_eq!(answer(world.get().await).await, Ok(Some(number(1))), "there is room again");
    assert_eq!(world.limiter.counts(), LimitCounts { under_way: 0, waiting: 0, refused: 4 });
}

#[tokio::test]
async fn who_gives_up_waiting_makes_room_for_another() {
    let world = World::new(Limiting { max_concurrent: 1, max_waiting: 1, ..wide() });
    world.hold();
    let (first, second) = (world.get().await, world.put(version(2)).await);
    second.abort();
    assert!(second.await.is_err());
    let third = world.put(Condition::Any).await;
    world.release();
    answer(first).await.unwrap();
    answer(third).await.unwrap().applied().unwrap();
    assert_eq!(world.writes(), [Condition::Any]);
}

#[tokio::test]
async fn all_stores_and_namespaces_share_the_places() {
    let world = World::new(Limiting { max_concurrent: 1, ..wide() });
    world.hold();
    let first = world.get().await;
    let other = world.limiter.over(Arc::new(Slow::new()));
    let namespace = world.limited.with_namespace(&Namespace::new("n").unwrap());
    let tasks = [other, namespace].map(|store| tokio::spawn(async move { store.get(&name("k")).await }));
    settle().await;
    assert!(tasks.iter().all(|task| !task.is_finished()), "another way to the store, past the limit");
    world.release();
    answer(first).await.unwrap();
    for task in tasks {
        assert_eq!(answer(task).await, Ok(None));
    }
}

#[tokio::test]
async fn a_read_that_takes_too_long_fails_cleanly() {
    let world = World::new(Limiting { timeout_ms: SHORT, ..wide() });
    world.hold();
    assert_eq!(cause(answer(world.get().await).await), "TimedOut");
    let batch = world.limited.get_batch(&[name("a"), name("b")]).await;
    assert_eq!(batch.into_iter().map(cause).collect::<Vec<_>>(), ["TimedOut", "TimedOut"]);
}

#[tokio::test]
async fn a_write_that_takes_too_long_is_unknown_and_may_yet_take_effect() {
    let world = World::new(Limiting { timeout_ms: SHORT, ..wide() });
    world.hold();
    assert!(is_unknown(&answer(world.put(Condition::Any).await).await));
    let batch = world.limited.set_batch(vec![(name("a"), number(1)), (name("b"), number(2))]).await;
    assert!(batch.len() == 2 && batch.iter().all(is_unknown), "{batch:?}");
    assert_eq!(world.slow.inner.get(&name("k")).await, Ok(None));
    world.release();
    settle().await;
    for (key, value) in [("k", 1), ("a", 1), ("b", 2)] {
        let found = world.slow.inner.get(&name(key)).await.unwrap().unwrap();
        assert_eq!(found.value, number(value));
    }
}

#[tokio::test]
async fn what_was_given_up_keeps_its_place_until_it_has_ended() {
    let world = World::new(Limiting { max_concurrent: 1, timeout_ms: SHORT, ..wide() });
    world.hold();
    assert!(is_unknown(&answer(world.put(Condition::Any).await).await));
    assert_eq!(cause(answer(world.get().await).await), "Busy");
    assert_eq!(world.reads(), 0, "two were under way");
    world.release();
    settle().await;
    assert_eq!(answer(world.get().await).await, Ok(Some(number(1))));
}

#[tokio::test]
async fn reads_are_repeated_while_their_failure_may_pass() {
    let attempts = |read_attempts| World::new(Limiting { read_attempts, ..wide() });
    let world = attempts(3);
    world.fail(&["Unreachable", "SlowDown"]);
    assert_eq!((world.limited.get(&name("k")).await, world.reads()), (Ok(None), 3));
    for (most, causes, last, reads) in [
        (3, ["SlowDown", "TimedOut", "Http503", "NoMore"], "Http503", 3),
        (3, ["Http503", "AccessDenied", "NoMore", "NoMore"], "AccessDenied", 2),
        (1, ["SlowDown", "NoMore", "NoMore", "NoMore"], "SlowDown", 1),
    ] {
        let world = attempts(most);
        world.fail(&causes);
        assert_eq!((cause(world.limited.get(&name("k")).await), world.reads()), (last.to_owned(), reads));
    }
}

#[tokio::test]
async fn of_a_batch_only_what_failed_is_read_again() {
    let world = World::new(wide());
    let keys = ["a", "b", "c"].map(name);
    for (key, value) in keys.iter().zip(1..) {
        world.slow.inner.set(key, number(value)).await.unwrap().applied().unwrap();
    }
    world.fail(&["Unreachable", "AccessDenied"]);
    let found = world.limited.get_batch(&keys).await;
    let value = |at: usize| found[at].clone().unwrap().unwrap().value;
    assert_eq!((value(0), value(2)), (number(1), number(3)));
    assert_eq!(cause(found[1].clone()), "AccessDenied");
    assert_eq!(world.reads(), 4);
}

/// It would come after the end of the time that the caller gave.
#[tokio::test]
async fn a_read_is_not_repeated_when_its_time_is_almost_up() {
    let world = World::new(Limiting { timeout_ms: 10, read_attempts: 10, ..wide() });
    world.fail(&["SlowDown"; 10]);
    assert_eq!((cause(world.limited.get(&name("k")).await), world.reads()), ("SlowDown".to_owned(), 1));
}

#[tokio::test]
async fn a_write_is_never_repeated() {
    let world = World::new(Limiting { read_attempts: 10, ..wide() });
    world.fail(&["SlowDown"]);
    assert_eq!(cause(world.limited.put(&name("k"), number(1), &Condition::Absent).await), "SlowDown");
    world.slow.lose_answers.store(true, Ordering::SeqCst);
    assert!(is_unknown(&world.limited.put(&name("k"), number(1), &Condition::Absent).await));
    assert_eq!(world.writes(), [Condition::Absent, Condition::Absent], "one request for each");
}
