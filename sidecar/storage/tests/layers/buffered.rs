//! What a buffer promises: what was acknowledged is seen at once, is written in the end, and what may be lost of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use brainy_storage::layers::batching::{Ack, Batching, BufferCounts, Claim};
use brainy_storage::layers::caching::CacheSize;
use brainy_storage::layers::{LayerStack, Layers};
use brainy_storage::{
    Condition, Done, Entry, Error, Key, Namespace, Operation, OperationId, Outcome, StorageAdapter, Value, Version,
};

use crate::store::{LONG, Slow, number};

/// Longer than any test.
const NEVER: u64 = 3_600_000;

/// A claim that ends when the test says so.
#[derive(Debug)]
struct Ours(AtomicBool);

impl Claim for Ours {
    fn holds(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

struct World {
    slow: Arc<Slow>,
    claim: Arc<Ours>,
    stack: LayerStack,
    store: Arc<dyn StorageAdapter>,
}

impl World {
    fn new(max_delay_ms: u64, max_items: u32, caching: Option<CacheSize>) -> Self {
        let batching = Some(Batching { max_delay_ms, max_items, ack: Ack::Buffered });
        let stack = LayerStack::new(Layers { caching, batching, ..Layers::default() });
        let (slow, claim) = (Arc::new(Slow::new()), Arc::new(Ours(AtomicBool::new(true))));
        let store = stack.over_while("s", Arc::clone(&slow) as _, Arc::clone(&claim) as _);
        Self { slow, claim, stack, store }
    }

    /// Flushed when it is asked to settle, or at once so many writes.
    fn flushing_at(max_items: u32) -> Self {
        Self::new(NEVER, max_items, None)
    }

    async fn set(&self, key: &str, value: i64) -> Version {
        set(&self.store, key, value).await
    }

    async fn settle(&self) -> Result<(), Error> {
        tokio::time::timeout(LONG, self.store.settle()).await.expect("it never settles")
    }

    /// Writes a key and has it flushed; its place in memory is taken by another key.
    async fn write_and_forget(&self, value: i64) -> Entry {
        let version = self.set("a", value).await;
        self.settle().await.unwrap();
        self.set("b", value).await;
        self.settle().await.unwrap();
        Entry { value: number(value), version }
    }

    /// Waits until a read is held up there, and holds up no other.
    async fn held(&self, hold: &AtomicBool) {
        let looked = tokio::time::timeout(LONG, self.slow.looked.acquire()).await;
        looked.expect("nothing is held up").unwrap().forget();
        hold.store(false, Ordering::SeqCst);
    }

    async fn get(&self, key: &str) -> Option<Entry> {
        self.store.get(&name(key)).await.unwrap()
    }

    async fn stored(&self, key: &str) -> Option<Value> {
        self.slow.inner.get(&name(key)).await.unwrap().map(|entry| entry.value)
    }

    /// Waits until the store has this.
    async fn until_stored(&self, key: &str, value: i64) {
        let wait = async {
            while self.stored(key).await != Some(number(value)) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(LONG, wait).await.expect("it is never stored");
    }

    fn counts(&self) -> BufferCounts {
        self.stack.buffer_counts().unwrap()
    }

    fn writes(&self) -> usize {
        self.slow.writes.lock().unwrap().len()
    }
}

async fn set(store: &Arc<dyn StorageAdapter>, key: &str, value: i64) -> Version {
    let outcome = tokio::time::timeout(LONG, store.set(&name(key), number(value))).await.expect("it waits for a flush");
    outcome.unwrap().applied().unwrap()
}

fn name(key: &str) -> Key {
    Key::new(key).unwrap()
}

fn down() -> Error {
    Error::unavailable("Http503", "try again")
}

#[tokio::test]
async fn what_is_acknowledged_is_seen_by_every_read_before_the_store_has_it() {
    let world = World::flushing_at(1000);
    for key in ["gone", "kept"] {
        world.slow.inner.set(&name(key), number(0)).await.unwrap().applied().unwrap();
    }
    let version = world.set("new", 1).await;
    world.store.delete(&name("gone")).await.unwrap().applied().unwrap();
    assert_eq!(world.stored("new").await, None, "it is not flushed yet");
    let new = Some(Entry { value: number(1), version });
    assert_eq!((world.get("new").await, world.get("gone").await), (new.clone(), None));
    let batch = world.store.get_batch(&["new", "gone", "none"].map(name)).await;
    assert_eq!(batch, [Ok(new), Ok(None), Ok(None)]);
    assert_eq!(world.store.list("", None, 10).await.unwrap().keys, ["kept", "new"].map(name));
    let inside = world.store.with_namespace(&Namespace::new("inside").unwrap());
    assert_eq!(inside.get(&name("new")).await.unwrap(), None, "a key of its own");
    assert!(inside.list("", None, 10).await.unwrap().keys.is_empty());
    assert_eq!(world.counts(), BufferCounts { waiting: 2, lost: 0 });
    world.settle().await.unwrap();
    assert_eq!((world.stored("new").await, world.stored("gone").await), (Some(number(1)), None));
    assert_eq!(world.counts(), BufferCounts::default());
}

#[tokio::test]
async fn writes_of_one_key_are_one_write_and_what_comes_next_needs_no_read() {
    let world = World::flushing_at(1000);
    for round in 1..=3 {
        for _ in 0..20 {
            world.store.increment(&name("n"), 1.into()).await.unwrap().applied().unwrap();
        }
        world.settle().await.unwrap();
        assert_eq!((world.stored("n").await, world.writes()), (Some(number(20 * round)), round as usize));
    }
    assert_eq!(world.slow.reads.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_write_alone_is_flushed_after_the_delay_and_many_without() {
    let delayed = World::new(5, 1000, None);
    for value in 1..=2 {
        delayed.set("a", value).await;
        delayed.until_stored("a", value).await;
    }
    let full = World::flushing_at(3);
    for value in 1..=3 {
        full.set("a", value).await;
    }
    full.until_stored("a", 3).await;
}

#[tokio::test]
async fn a_version_that_was_acknowledged_holds_after_the_flush_and_an_older_one_does_not() {
    let world = World::flushing_at(1000);
    let old = world.set("a", 1).await;
    let version = world.write_and_forget(2).await.version;
    assert_eq!(world.get("a").await.unwrap().version, version);
    let put = async |version| world.store.put(&name("a"), number(3), &Condition::Version(version)).await;
    assert!(matches!(put(old).await, Ok(Outcome::Rejected(Some(_)))));
    // Whoever does not know it (a later tenure) refuses it, rather than to take it for another.
    let later = LayerStack::default().over("s", Arc::clone(&world.slow) as _);
    let refused = later.put(&name("a"), number(9), &Condition::Version(version.clone())).await;
    assert!(matches!(refused, Ok(Outcome::Rejected(Some(_)))), "{refused:?}");
    assert!(matches!(put(version).await, Ok(Outcome::Applied(_))));
    world.settle().await.unwrap();
    assert_eq!(world.stored("a").await, Some(number(3)));
}

/// Values come and go while a read is on its way: it may answer with any of them, but under the version that its writer was
/// told, which the store does not know.
#[tokio::test]
async fn a_slow_read_knows_what_it_found_by_a_version_that_was_acknowledged() {
    for batch in [false, true] {
        let world = World::flushing_at(1000);
        let mut written = vec![world.write_and_forget(1).await];
        world.slow.hold_looks.store(true, Ordering::SeqCst);
        let store = Arc::clone(&world.store);
        let read = tokio::spawn(async move {
            match batch {
                true => store.get_batch(&[name("a")]).await.remove(0),
                false => store.get(&name("a")).await,
            }
        });
        world.held(&world.slow.hold_looks).await;
        written.push(world.write_and_forget(2).await);
        world.slow.hold_reads.store(true, Ordering::SeqCst);
        world.slow.go_on.add_permits(1);
        world.held(&world.slow.hold_reads).await;
        written.push(world.write_and_forget(3).await);
        world.slow.go_on.add_permits(1);
        let found = tokio::time::timeout(LONG, read).await.expect("it never ends").unwrap().unwrap().unwrap();
        assert!(written.contains(&found), "{found:?} is none of {written:?}");
    }
}

#[test]
fn what_is_killed_loses_what_was_not_flushed_and_nothing_else() {
    let runtime = || tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let world = World::flushing_at(10);
    let first = runtime();
    first.block_on(async {
        for value in 1..=10 {
            world.set("a", value).await;
        }
        world.until_stored("a", 10).await;
        for value in 11..=15 {
            world.set("a", value).await;
        }
        // Its flush is on its way when the process ends.
        world.slow.hold_writes.store(true, Ordering::SeqCst);
        for value in 0..5 {
            world.set("b", value).await;
        }
        world.slow.looked.acquire().await.unwrap().forget();
    });
    drop(first);
    let stored = runtime().block_on(async { (world.stored("a").await, world.stored("b").await) });
    assert_eq!(stored, (Some(number(10)), None));
    assert_eq!(world.counts(), BufferCounts { waiting: 0, lost: 10 });
}

#[test]
fn what_survives_of_a_key_is_a_beginning_of_what_was_acknowledged_for_it() {
    for round in 0..50_u64 {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let world = Arc::new(World::new(0, 3, None));
        let acknowledged = runtime.block_on(async {
            let write = async |key: &'static str, world: Arc<World>| {
                for value in 1..=20 * (round as i64 + 1) {
                    world.set(key, value).await;
                }
            };
            tokio::join!(write("a", Arc::clone(&world)), write("b", Arc::clone(&world)));
            20 * (round as i64 + 1)
        });
        drop(runtime);
        let check = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let lost = world.counts().lost;
        let mut missing = 0;
        for key in ["a", "b"] {
            let found = check.block_on(world.slow.inner.get(&name(key))).unwrap();
            let Some(Entry { value: Value::Json(value), .. }) = found else { panic!("{key} was flushed at some time") };
            let value = value.as_i64().unwrap();
            assert!((1..=acknowledged).contains(&value), "{value}");
            missing += (acknowledged - value) as u64;
        }
        // What was on its way may have arrived: it counts as lost all the same.
        assert!(missing <= lost, "{missing} of {lost}");
    }
}

#[tokio::test]
async fn what_can_t_be_flushed_is_tried_again_until_it_is_and_holds_up_no_other() {
    let world = World::flushing_at(1000);
    world.set("a", 1).await;
    world.set("b", 1).await;
    *world.slow.broken.lock().unwrap() = Some(name("a"));
    let (store, settled) = (Arc::clone(&world.store), Arc::new(AtomicBool::new(false)));
    let done = Arc::clone(&settled);
    let settling = tokio::spawn(async move {
        store.settle().await.unwrap();
        done.store(true, Ordering::SeqCst);
    });
    world.until_stored("b", 1).await;
    world.set("a", 2).await;
    world.set("b", 2).await;
    world.until_stored("b", 2).await;
    assert!(!settled.load(Ordering::SeqCst), "one key is not durable");
    assert_eq!(world.get("a").await.unwrap().value, number(2));
    *world.slow.broken.lock().unwrap() = None;
    tokio::time::timeout(LONG, settling).await.expect("it is never tried again").unwrap();
    assert_eq!((world.stored("a").await, world.counts()), (Some(number(2)), BufferCounts::default()));
}

#[tokio::test]
async fn a_lost_answer_is_found_out() {
    let world = World::flushing_at(1000);
    world.slow.lose_answers.store(true, Ordering::SeqCst);
    for value in 1..=3 {
        world.set("a", value).await;
        world.settle().await.unwrap();
        assert_eq!(world.stored("a").await, Some(number(value)));
    }
    // Nor does it matter that the look fails: what is sent again meets what has landed.
    world.set("a", 4).await;
    world.slow.blind.store(1, Ordering::SeqCst);
    world.settle().await.unwrap();
    assert_eq!((world.stored("a").await, world.counts()), (Some(number(4)), BufferCounts::default()));
}

#[tokio::test]
async fn where_there_is_no_room_a_write_waits_for_it_and_fails_cleanly_in_the_end() {
    let world = World::flushing_at(1);
    world.slow.hold_writes.store(true, Ordering::SeqCst);
    for key in ["a", "b", "c", "d"] {
        world.set(key, 1).await;
    }
    let wait = |key: &'static str| {
        let store = Arc::clone(&world.store);
        tokio::spawn(async move { store.set(&name(key), number(1)).await })
    };
    let refused = wait("e").await.unwrap();
    assert!(matches!(&refused, Err(Error::Unavailable { cause, .. }) if cause == "Busy"), "{refused:?}");
    assert_eq!(world.get("e").await, None);
    let waiting = wait("f");
    world.slow.hold_writes.store(false, Ordering::SeqCst);
    world.slow.go_on.add_permits(100);
    assert!(matches!(waiting.await.unwrap(), Ok(Outcome::Applied(_))));
    world.settle().await.unwrap();
    assert_eq!((world.stored("d").await, world.stored("f").await), (Some(number(1)), Some(number(1))));
}

#[tokio::test]
async fn what_somebody_else_writes_over_is_counted_as_lost_and_kept_nowhere() {
    let world = World::new(NEVER, 1000, Some(CacheSize::default()));
    world.set("a", 1).await;
    world.settle().await.unwrap();
    world.set("a", 2).await;
    world.set("a", 3).await;
    world.slow.inner.set(&name("a"), number(9)).await.unwrap().applied().unwrap();
    world.settle().await.unwrap();
    assert_eq!(world.counts(), BufferCounts { waiting: 0, lost: 2 });
    assert_eq!(world.get("a").await.unwrap().value, number(9), "it is found in a cache");
    assert_eq!(world.store.increment(&name("a"), 1.into()).await.unwrap().applied().unwrap().0, 10.into());
    world.settle().await.unwrap();
    assert_eq!(world.stored("a").await, Some(number(10)));
}

#[tokio::test]
async fn nothing_is_written_once_the_claim_is_over() {
    let world = World::flushing_at(1000);
    world.set("a", 1).await;
    world.settle().await.unwrap();
    world.set("a", 2).await;
    world.set("b", 2).await;
    world.claim.0.store(false, Ordering::SeqCst);
    assert!(world.settle().await.is_err());
    assert_eq!((world.stored("a").await, world.stored("b").await), (Some(number(1)), None));
    assert_eq!(world.counts(), BufferCounts { waiting: 0, lost: 2 });
    let late = world.store.set(&name("c"), number(3)).await;
    assert!(matches!(&late, Err(Error::Unavailable { cause, .. }) if cause == "Lapsed"), "{late:?}");
    assert_eq!(world.writes(), 1);
}

#[tokio::test]
async fn what_stands_there_must_be_known() {
    let world = World::flushing_at(1000);
    world.slow.failures.lock().unwrap().push_back(down());
    assert_eq!(world.store.set(&name("a"), number(1)).await, Err(down()));
    world.set("a", 1).await;
}

#[tokio::test]
async fn a_store_that_nobody_uses_any_more_is_flushed_but_not_waited_for() {
    let World { slow, stack, store, .. } = World::new(20, 1000, None);
    let _version = set(&store, "a", 1).await;
    let _version = set(&store, "b", 1).await;
    *slow.broken.lock().unwrap() = Some(name("b"));
    drop(store);
    let counts = async || {
        while stack.buffer_counts().unwrap().waiting > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        stack.buffer_counts().unwrap()
    };
    let counts = tokio::time::timeout(LONG, counts()).await.expect("it is tried for ever");
    assert_eq!(counts, BufferCounts { waiting: 0, lost: 1 });
    assert_eq!(slow.inner.get(&name("a")).await.unwrap().unwrap().value, number(1));
}

#[tokio::test]
async fn an_operation_with_an_id_is_durable_and_follows_what_was_acknowledged_before() {
    let world = World::new(1, 1000, Some(CacheSize::default()));
    let once = async |id: &str| {
        let (add, id) = (Operation::Increment { delta: 1.into() }, OperationId::new(id).unwrap());
        match world.store.perform_once(&name("n"), add, &id).await {
            Ok(Outcome::Applied(Done::Sum(sum, _))) => sum.as_i64().unwrap(),
            other => panic!("{other:?}"),
        }
    };
    for round in 0..3 {
        for _ in 0..5 {
            world.store.increment(&name("n"), 1.into()).await.unwrap().applied().unwrap();
        }
        let id = format!("operation-{round}");
        let sum = once(&id).await;
        assert_eq!((sum, world.stored("n").await), (6 * (round + 1), Some(number(sum))));
        assert_eq!(world.get("n").await.unwrap().value, number(sum));
        assert_eq!(once(&id).await, sum);
    }
    assert_eq!(once("operation-0").await, 6, "plain writes in between forget nothing");
}

#[tokio::test]
async fn what_is_damaged_can_be_removed() {
    let world = World::flushing_at(1000);
    let damaged = || Error::Corrupt { key: "a".into(), problem: "for a test".into() };
    world.slow.inner.set(&name("a"), number(1)).await.unwrap().applied().unwrap();
    world.slow.failures.lock().unwrap().extend([damaged(), damaged()]);
    assert_eq!(world.store.set(&name("a"), number(2)).await, Err(damaged()));
    assert_eq!(world.store.delete(&name("a")).await, Ok(Outcome::Applied(true)));
    assert_eq!(world.get("a").await, None);
}
