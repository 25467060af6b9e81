//! Each way in which a cache goes wrong.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use brainy_storage::layers::caching::{Cache, CacheCounts, CacheSize};
use brainy_storage::object::Head;
use brainy_storage::{Condition, Key, Object, Outcome, StorageAdapter, Value, Version};
use bytes::Bytes;

use crate::store::{LONG, Slow, number};

struct World {
    cache: Cache,
    slow: Arc<Slow>,
    cached: Arc<dyn StorageAdapter>,
    key: Key,
}

impl World {
    /// With value 1 in the store, and nothing cached.
    async fn new() -> Self {
        let (cache, slow, key) = (Cache::new(CacheSize::default()), Arc::new(Slow::new()), Key::new("k").unwrap());
        slow.inner.set(&key, number(1)).await.unwrap().applied().unwrap();
        let cached = cache.over(Arc::clone(&slow) as _);
        Self { cache, slow, cached, key }
    }

    /// Begins a read that has seen the store as it is now, and has not come back yet.
    async fn begin_read(&self) -> tokio::task::JoinHandle<Option<Value>> {
        self.slow.hold_reads.store(true, Ordering::SeqCst);
        let (cached, key) = (Arc::clone(&self.cached), self.key.clone());
        let read = tokio::spawn(async move { cached.get(&key).await.unwrap().map(|entry| entry.value) });
        self.slow.looked.acquire().await.unwrap().forget();
        self.slow.hold_reads.store(false, Ordering::SeqCst);
        read
    }

    fn release_read(&self) {
        self.slow.go_on.add_permits(1);
    }

    async fn get(&self) -> Option<Value> {
        self.cached.get(&self.key).await.unwrap().map(|entry| entry.value)
    }

    async fn set(&self, n: i64) -> Outcome<Version> {
        self.cached.set(&self.key, number(n)).await.unwrap()
    }

    /// Writes; the test goes on from whatever came of it.
    async fn write(&self, n: i64) {
        let _outcome = self.set(n).await;
    }

    fn reads(&self) -> u32 {
        self.slow.reads.load(Ordering::SeqCst)
    }
}

#[tokio::test]
async fn what_was_read_or_written_is_read_from_memory() {
    let world = World::new().await;
    assert_eq!((world.get().await, world.get().await, world.reads()), (Some(number(1)), Some(number(1)), 1));
    world.write(2).await;
    assert_eq!((world.get().await, world.reads()), (Some(number(2)), 1));
    assert_eq!(world.cache.counts(), CacheCounts { hits: 2, misses: 1, entries: world.cache.counts().entries });
}

#[tokio::test]
async fn what_is_kept_does_not_keep_the_buffer_that_it_came_in() {
    let buffer = Bytes::from(vec![7; 1 << 20]);
    let is_part = |value: &Value| match value {
        Value::Bytes(bytes) => buffer.as_ptr_range().contains(&bytes.as_ptr()),
        Value::Object(object) => buffer.as_ptr_range().contains(&object.body.as_ptr()),
        Value::Json(_) => false,
    };
    let object = Object::whole(Head::default(), buffer.slice(..10));
    for part in [Value::Bytes(buffer.slice(..10)), Value::Object(object)] {
        let world = World::new().await;
        world.cached.set(&world.key, part.clone()).await.unwrap().applied().unwrap();
        let after_a_write = world.get().await.unwrap();
        assert!(after_a_write == part && !is_part(&after_a_write));
        world.slow.inner.set(&world.key, part.clone()).await.unwrap().applied().unwrap();
        let again = world.cache.over(Arc::clone(&world.slow) as _);
        let read = again.get(&world.key).await.unwrap().unwrap().value;
        let after_a_read = again.get(&world.key).await.unwrap().unwrap().value;
        assert!(is_part(&read) && after_a_read == part && !is_part(&after_a_read));
    }
}

#[tokio::test]
async fn that_a_key_has_no_value_is_known_as_well() {
    let world = World::new().await;
    world.cached.delete(&world.key).await.unwrap().applied().unwrap();
    assert_eq!((world.get().await, world.get().await, world.reads()), (None, None, 0));
}

#[tokio::test]
async fn a_read_that_began_before_a_write_never_puts_the_old_value_back() {
    let world = World::new().await;
    let old = world.begin_read().await;
    world.write(2).await;
    world.release_read();
    assert_eq!(old.await.unwrap(), Some(number(1)), "it began before the write");
    assert_eq!(world.get().await, Some(number(2)));
}

#[tokio::test]
async fn a_read_that_begins_after_a_write_does_not_join_one_that_began_before() {
    let world = World::new().await;
    let old = world.begin_read().await;
    // Not cached after it, so that the next read has to ask.
    world.slow.lose_answers.store(true, Ordering::SeqCst);
    world.write(2).await;
    let joined = "it waits for a read that began before the write";
    assert_eq!(tokio::time::timeout(LONG, world.get()).await.expect(joined), Some(number(2)));
    world.release_read();
    old.await.unwrap();
    assert_eq!(world.get().await, Some(number(2)));
}

#[tokio::test]
async fn reads_at_once_ask_once() {
    let world = World::new().await;
    let first = world.begin_read().await;
    let others: Vec<_> = (0..10)
        .map(|_| {
            let (cached, key) = (Arc::clone(&world.cached), world.key.clone());
            tokio::spawn(async move { cached.get(&key).await.unwrap().map(|entry| entry.value) })
        })
        .collect();
    tokio::task::yield_now().await;
    world.release_read();
    assert_eq!(first.await.unwrap(), Some(number(1)));
    for other in others {
        assert_eq!(other.await.unwrap(), Some(number(1)));
    }
    assert_eq!(world.reads(), 1);
}

#[tokio::test]
async fn a_read_that_is_given_up_does_not_take_others_with_it() {
    let world = World::new().await;
    let first = world.begin_read().await;
    let (cached, key) = (Arc::clone(&world.cached), world.key.clone());
    let second = tokio::spawn(async move { cached.get(&key).await.unwrap().map(|entry| entry.value) });
    tokio::task::yield_now().await;
    first.abort();
    assert!(first.await.is_err());
    assert_eq!(second.await.unwrap(), Some(number(1)));
    assert_eq!(world.get().await, Some(number(1)));
}

#[tokio::test]
async fn after_an_unknown_outcome_the_store_is_asked() {
    let world = World::new().await;
    assert_eq!(world.get().await, Some(number(1)));
    world.slow.lose_answers.store(true, Ordering::SeqCst);
    assert!(matches!(world.set(2).await, Outcome::Unknown(_)));
    assert_eq!(world.get().await, Some(number(2)), "it did take effect");
}

#[tokio::test]
async fn of_a_rejected_write_nothing_is_cached() {
    let world = World::new().await;
    let outcome = world.cached.put(&world.key, number(2), &Condition::Absent).await.unwrap();
    assert!(matches!(outcome, Outcome::Rejected(Some(_))));
    assert_eq!((world.get().await, world.reads()), (Some(number(1)), 1));
}

#[tokio::test]
async fn a_cached_value_is_replaced_with_one_conditional_write() {
    let world = World::new().await;
    let version = world.cached.get(&world.key).await.unwrap().unwrap().version;
    let Outcome::Applied(second) = world.set(2).await else { panic!("not written") };
    let batch = world.cached.set_batch(vec![(world.key.clone(), number(3))]).await;
    assert!(matches!(batch[0], Ok(Outcome::Applied(_))));
    let writes = world.slow.writes.lock().unwrap().clone();
    assert_eq!(writes, [Condition::Version(version), Condition::Version(second)]);
}

#[tokio::test]
async fn a_write_that_somebody_else_came_before_is_written_all_the_same() {
    let world = World::new().await;
    world.get().await;
    world.slow.inner.set(&world.key, number(7)).await.unwrap().applied().unwrap();
    assert!(matches!(world.set(2).await, Outcome::Applied(_)));
    world.slow.inner.set(&world.key, number(8)).await.unwrap().applied().unwrap();
    let batch = world.cached.set_batch(vec![(world.key.clone(), number(3))]).await;
    assert!(matches!(batch[0], Ok(Outcome::Applied(_))), "{batch:?}");
    assert_eq!(world.slow.inner.get(&world.key).await.unwrap().unwrap().value, number(3));
}

#[tokio::test]
async fn what_another_opening_of_the_store_has_cached_is_not_found() {
    let world = World::new().await;
    world.get().await;
    world.slow.inner.set(&world.key, number(9)).await.unwrap().applied().unwrap();
    let again = world.cache.over(Arc::clone(&world.slow) as _);
    assert_eq!(again.get(&world.key).await.unwrap().unwrap().value, number(9));
}
