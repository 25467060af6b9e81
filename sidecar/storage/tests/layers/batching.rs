//! What a queue promises to those who wait in it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use brainy_storage::layers::batching::{Ack, Batching};
use brainy_storage::{
    Condition, Done, Error, Key, Operation, OperationId, Outcome, StorageAdapter, Value, Version, WriteResult,
};
use serde_json::Number;
use tokio::task::JoinHandle;

use crate::store::{LONG, Slow, number};

/// Longer than any test.
const NEVER: u64 = 3_600_000;

struct World {
    slow: Arc<Slow>,
    queue: Arc<dyn StorageAdapter>,
}

impl World {
    /// Flushes once this many writes wait.
    fn flushing_at(max_items: u32) -> Self {
        let slow = Arc::new(Slow::new());
        let queue = Batching { max_delay_ms: NEVER, max_items, ack: Ack::Durable }.over(Arc::clone(&slow) as _);
        Self { slow, queue }
    }

    /// Runs an operation; returns once it waits in the queue.
    async fn begin<T, F>(&self, act: impl FnOnce(Arc<dyn StorageAdapter>) -> F + Send + 'static) -> JoinHandle<T>
    where
        F: Future<Output = T> + Send + 'static,
        T: Send + 'static,
    {
        let queue = Arc::clone(&self.queue);
        let task = tokio::spawn(async move { act(queue).await });
        tokio::task::yield_now().await;
        task
    }

    async fn set(&self, key: &str, value: i64) -> JoinHandle<WriteResult<Version>> {
        let key = name(key);
        self.begin(move |queue| async move { queue.set(&key, number(value)).await }).await
    }

    async fn increment(&self) -> JoinHandle<WriteResult<(Number, Version)>> {
        self.begin(|queue| async move { queue.increment(&name("n"), 1.into()).await }).await
    }

    async fn once(&self, id: &str) -> JoinHandle<WriteResult<Done>> {
        let id = OperationId::new(id).unwrap();
        let add = Operation::Increment { delta: 1.into() };
        self.begin(move |queue| async move { queue.perform_once(&name("n"), add, &id).await }).await
    }

    async fn swap(&self, old: i64, new: i64) -> JoinHandle<WriteResult<Option<Version>>> {
        self.begin(move |queue| async move {
            queue.compare_and_swap(&name("n"), Some(number(old)), Some(number(new))).await
        })
        .await
    }

    async fn stored(&self, key: &str) -> Option<Value> {
        self.slow.inner.get(&name(key)).await.unwrap().map(|entry| entry.value)
    }

    async fn store(&self, key: &str, value: i64) {
        self.slow.inner.set(&name(key), number(value)).await.unwrap().applied().unwrap();
    }

    fn writes(&self) -> Vec<Condition> {
        self.slow.writes.lock().unwrap().clone()
    }
}

fn name(key: &str) -> Key {
    Key::new(key).unwrap()
}

async fn answer<T>(task: JoinHandle<T>) -> T {
    tokio::time::timeout(LONG, task).await.expect("it waits for ever").unwrap()
}

#[tokio::test]
async fn nothing_is_acknowledged_before_it_is_written() {
    let world = World::flushing_at(2);
    let first = world.set("a", 1).await;
    assert!(!first.is_finished() && world.stored("a").await.is_none());
    let second = world.set("b", 2).await;
    assert!(matches!(answer(first).await, Ok(Outcome::Applied(_))));
    assert!(matches!(answer(second).await, Ok(Outcome::Applied(_))));
    assert_eq!((world.stored("a").await, world.stored("b").await), (Some(number(1)), Some(number(2))));
}

#[tokio::test]
async fn a_write_alone_is_flushed_after_the_delay_and_so_is_the_next() {
    let slow = Arc::new(Slow::new());
    let queue = Batching { max_delay_ms: 20, max_items: 1000, ack: Ack::Durable }.over(Arc::clone(&slow) as _);
    for value in 1..=2 {
        let outcome =
            tokio::time::timeout(LONG, queue.set(&name("a"), number(value))).await.expect("it is never flushed");
        assert!(matches!(outcome, Ok(Outcome::Applied(_))));
    }
}

#[tokio::test]
async fn increments_of_one_key_are_one_conditional_write() {
    let world = World::flushing_at(64);
    let mut tasks = Vec::new();
    for _ in 0..64 {
        tasks.push(world.increment().await);
    }
    let mut sums = Vec::new();
    for task in tasks {
        let (sum, _) = answer(task).await.unwrap().applied().unwrap();
        sums.push(sum.as_u64().unwrap());
    }
    assert_eq!(sums, (1..=64).collect::<Vec<u64>>(), "each was judged in its turn");
    assert_eq!(world.writes(), [Condition::Absent]);
    assert_eq!(world.stored("n").await, Some(number(64)));
}

/// A sum with the version that it stands at, or stood.
fn sum(outcome: WriteResult<Done>) -> (Number, Version) {
    match outcome {
        Ok(Outcome::Applied(Done::Sum(sum, version))) => (sum, version),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn increments_with_ids_are_few_writes_and_each_id_is_done_once_however_often_it_comes() {
    let world = World::flushing_at(84);
    let mut tasks = Vec::new();
    for n in 0..40 {
        for _ in 0..2 {
            tasks.push(world.once(&format!("operation-{n}")).await);
        }
        if n % 10 == 0 {
            let plain = world.increment().await;
            tasks.push(tokio::spawn(async { plain.await.unwrap().map(|done| done.map(|(n, v)| Done::Sum(n, v))) }));
        }
    }
    let mut answers = Vec::new();
    for task in tasks {
        answers.push(sum(answer(task).await));
    }
    assert_eq!(world.stored("n").await, Some(number(44)), "40 ids and 4 without");
    // Each sum is the answer to one operation: to both that had its id, or to the one that had none.
    answers.dedup();
    let sums: Vec<u64> = answers.iter().map(|(sum, _)| sum.as_u64().unwrap()).collect();
    assert_eq!(sums, (1..=44).collect::<Vec<u64>>());
    let portions = world.slow.portions.lock().unwrap().clone();
    assert_eq!((portions.len(), portions.iter().sum::<usize>(), world.writes().len()), (3, 84, 0));
}

#[tokio::test]
async fn an_id_that_the_value_remembers_is_answered_from_it_and_the_others_are_done() {
    let world = World::flushing_at(3);
    let tasks = [world.once("a").await, world.once("b").await, world.once("c").await];
    for (task, expected) in tasks.into_iter().zip(1..) {
        assert_eq!(sum(answer(task).await).0, expected.into());
    }
    let tasks = [world.once("b").await, world.once("c").await, world.once("d").await];
    let [b, c, d] = futures::future::join_all(tasks.map(answer)).await.try_into().unwrap();
    assert_eq!((sum(b).0, sum(c).0, sum(d).0), (2.into(), 3.into(), 4.into()));
    assert_eq!(world.stored("n").await, Some(number(4)));
}

#[tokio::test]
async fn who_asks_again_never_learns_the_version_of_what_another_has_written() {
    let world = World::flushing_at(2);
    let (first, second) = (world.once("a").await, world.once("b").await);
    let ((_, passed), (_, stands)) = (sum(answer(first).await), sum(answer(second).await));
    let (first, second) = (world.once("a").await, world.once("b").await);
    let ((one, again), (two, same)) = (sum(answer(first).await), sum(answer(second).await));
    assert_eq!((one, two, same), (1.into(), 2.into(), stands.clone()));
    for version in [passed, again] {
        assert!(version != stands && version.revision == stands.revision, "{version} {stands}");
        let outcome = world.slow.inner.put(&name("n"), number(0), &Condition::Version(version)).await;
        assert!(matches!(outcome, Ok(Outcome::Rejected(_))));
    }
}

#[tokio::test]
async fn a_swap_sees_what_the_operation_before_it_has_written() {
    let world = World::flushing_at(4);
    world.store("n", 1).await;
    let tasks = [world.swap(1, 2).await, world.swap(1, 3).await, world.swap(2, 4).await];
    let last = world.increment().await;
    let [first, second, third] = tasks;
    let passed = answer(first).await.unwrap().applied().unwrap().unwrap();
    let Outcome::Rejected(Some(standing)) = answer(second).await.unwrap() else { panic!("1 no longer stood there") };
    assert_eq!((standing.value, standing.version), (number(2), passed.clone()));
    answer(third).await.unwrap().applied().unwrap();
    let (sum, version) = answer(last).await.unwrap().applied().unwrap();
    assert_eq!((sum, world.writes().len()), (5.into(), 1));
    let entry = world.slow.inner.get(&name("n")).await.unwrap().unwrap();
    assert_eq!((entry.value, entry.version), (number(5), version));
    assert!(matches!(
        world.slow.inner.put(&name("n"), number(0), &Condition::Version(passed)).await,
        Ok(Outcome::Rejected(_))
    ));
}

#[tokio::test]
async fn what_fails_fails_those_who_asked_for_it_and_no_other() {
    let world = World::flushing_at(3);
    *world.slow.broken.lock().unwrap() = Some(name("b"));
    let (a, b, c) = (world.set("a", 1).await, world.set("b", 1).await, world.set("c", 1).await);
    assert!(matches!(answer(a).await, Ok(Outcome::Applied(_))));
    assert!(matches!(answer(b).await, Err(Error::Unavailable { .. })));
    assert!(matches!(answer(c).await, Ok(Outcome::Applied(_))));
}

#[tokio::test]
async fn a_lost_answer_is_unknown_to_those_that_wrote_and_a_failure_to_those_that_would_not_have() {
    let world = World::flushing_at(3);
    world.store("n", 1).await;
    world.slow.lose_answers.store(true, Ordering::SeqCst);
    let (swapped, refused, added) = (world.swap(1, 2).await, world.swap(1, 3).await, world.increment().await);
    assert!(matches!(answer(swapped).await, Ok(Outcome::Unknown(_))));
    assert!(matches!(answer(refused).await, Err(Error::Unavailable { .. })), "2 may never have stood there");
    assert!(matches!(answer(added).await, Ok(Outcome::Unknown(_))));
}

#[tokio::test]
async fn operations_are_judged_again_on_what_somebody_else_has_left() {
    let world = World::flushing_at(2);
    world.store("n", 1).await;
    world.slow.hold_reads.store(true, Ordering::SeqCst);
    let (swap, add) = (world.swap(1, 5).await, world.increment().await);
    world.slow.looked.acquire().await.unwrap().forget();
    world.store("n", 9).await;
    world.slow.hold_reads.store(false, Ordering::SeqCst);
    world.slow.go_on.add_permits(1);
    let Outcome::Rejected(Some(standing)) = answer(swap).await.unwrap() else { panic!("9 stands there") };
    assert_eq!(standing.value, number(9));
    assert_eq!(answer(add).await.unwrap().applied().unwrap().0, 10.into());
}

#[tokio::test]
async fn what_the_last_batch_has_left_is_written_on_and_never_answered_from() {
    let world = World::flushing_at(1);
    world.slow.hold_reads.store(true, Ordering::SeqCst);
    // The next two come while this one reads.
    let first = world.increment().await;
    world.slow.looked.acquire().await.unwrap().forget();
    let second = world.increment().await;
    let third = world.swap(7, 8).await;
    world.slow.hold_reads.store(false, Ordering::SeqCst);
    world.slow.go_on.add_permits(1);
    assert_eq!(answer(first).await.unwrap().applied().unwrap().0, 1.into());
    assert_eq!(answer(second).await.unwrap().applied().unwrap().0, 2.into());
    let Outcome::Rejected(Some(standing)) = answer(third).await.unwrap() else { panic!("2 stands there") };
    assert_eq!(standing.value, number(2));
    let reads = world.slow.reads.load(Ordering::SeqCst);
    assert_eq!(reads, 2, "one for the first, none for the second, and one that proves the third");
}

#[tokio::test]
async fn who_writes_again_once_it_is_answered_waits_for_no_read() {
    let world = World::flushing_at(1);
    for sum in 1..=3 {
        assert_eq!(answer(world.increment().await).await.unwrap().applied().unwrap().0, sum.into());
    }
    assert_eq!((world.slow.reads.load(Ordering::SeqCst), world.writes().len()), (1, 3));
}

#[tokio::test]
async fn who_writes_after_a_long_silence_is_flushed_all_the_same() {
    let world = World::flushing_at(1);
    answer(world.set("a", 1).await).await.unwrap().applied().unwrap();
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    answer(world.set("a", 2).await).await.unwrap().applied().unwrap();
}

#[tokio::test]
async fn who_gives_up_takes_nobody_along() {
    let world = World::flushing_at(2);
    let first = world.set("a", 1).await;
    first.abort();
    assert!(first.await.is_err());
    assert!(matches!(answer(world.set("b", 2).await).await, Ok(Outcome::Applied(_))));
}

/// A task that can't run: this runtime has no clock.
#[test]
fn nobody_waits_for_a_flush_that_broke_off() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let queue = Batching::default().over(Arc::new(Slow::new()));
    for _ in 0..2 {
        let outcome = runtime.block_on(queue.set(&name("a"), number(1)));
        assert!(matches!(outcome, Ok(Outcome::Unknown(_))), "{outcome:?}");
    }
}

#[tokio::test]
async fn puts_over_puts_are_one_write_and_need_no_read() {
    let world = World::flushing_at(3);
    let tasks = [world.set("a", 1).await, world.set("a", 2).await, world.set("a", 3).await];
    for task in tasks {
        answer(task).await.unwrap().applied().unwrap();
    }
    assert_eq!((world.writes(), world.slow.reads.load(Ordering::SeqCst)), (vec![Condition::Any], 0));
    assert_eq!(world.stored("a").await, Some(number(3)));
}

#[tokio::test]
async fn a_value_that_could_not_be_read_back_is_refused_at_once() {
    let mut deep = serde_json::json!(0);
    for _ in 0..200 {
        deep = serde_json::json!([deep]);
    }
    let world = World::flushing_at(100);
    let refused = world.queue.set(&name("a"), Value::Json(deep)).await;
    assert!(matches!(refused, Err(Error::Invalid { field: "value", .. })), "{refused:?}");
}
