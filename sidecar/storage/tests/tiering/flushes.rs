//! How writes get to the cold tier.

use std::sync::Arc;

use brainy_storage::Condition;
use brainy_storage::backends::memory::MemoryAdapter;
use brainy_storage::backends::objects::{Bucket, When, Written};
use brainy_storage::layers::tiering::Tiering;

use super::bucket::FarBucket;
use super::tier::Fate;
use super::world::{World, number, until};

#[tokio::test(start_paused = true)]
async fn what_was_written_while_it_was_brought_to_the_cold_tier_is_brought_there_too() {
    let world = World::new(Tiering::default());
    Fate::set(&world.cold.fate.hold_writes, true);
    world.set("k", number(1)).await;
    world.cold.fate.held().await;
    world.set("k", number(2)).await;
    world.cold.fate.release();
    world.drained().await;
    assert_eq!(world.in_the_cold_tier("k").await, Some(number(2)));
    // And the next process knows of nothing to do.
    let world = world.restart();
    world.run(0).await;
    assert_eq!((world.state().lag.keys, world.state().hot.keys), (0, 0));
    assert_eq!(world.get("k").await, Some(number(2)));
}

#[tokio::test(start_paused = true)]
async fn what_fails_is_tried_again_until_it_is_there() {
    let world = World::new(Tiering::default());
    Fate::set(&world.cold.fate.away, true);
    for name in ["a", "b", "c"] {
        world.set(name, number(1)).await;
    }
    world.set("b", number(2)).await;
    tokio::time::sleep(std::time::Duration::from_secs(3600)).await;
    let lag = world.state().lag;
    assert_eq!(lag.keys, 3);
    assert!(lag.problem.is_some_and(|why| why.contains("Unreachable")));
    let puts = world.cold.fate.puts.lock().unwrap().len();
    assert!(puts < 1000, "{puts} requests to a store that does not answer");
    Fate::set(&world.cold.fate.away, false);
    world.drained().await;
    assert_eq!(world.state().lag.problem, None);
    for (name, value) in [("a", 1), ("b", 2), ("c", 1)] {
        assert_eq!(world.in_the_cold_tier(name).await, Some(number(value)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_process_goes_on_with_what_the_one_before_it_has_left() {
    let world = World::new(Tiering::default());
    world.set("gone", number(1)).await;
    world.drained().await;
    Fate::set(&world.cold.fate.away, true);
    world.set("k", number(1)).await;
    world.delete("gone").await;
    let world = world.restart();
    world.drained().await;
    assert_eq!(world.in_the_cold_tier("k").await, Some(number(1)));
    assert_eq!(world.in_the_cold_tier("gone").await, None);
    assert!(!world.is_hot("gone").await, "a removal leaves nothing in the hot tier");
}

#[tokio::test(start_paused = true)]
async fn lost_answers_are_found_out_about() {
    let world = World::new(Tiering::default());
    Fate::set(&world.cold.fate.mute, true);
    world.set("k", number(1)).await;
    until("it was sent", async || !world.cold.fate.puts.lock().unwrap().is_empty()).await;
    world.set("k", number(2)).await;
    tokio::time::sleep(std::time::Duration::from_secs(60)).await;
    assert_eq!(world.state().lag.keys, 0, "what stands there says what became of it");
    assert_eq!(world.in_the_cold_tier("k").await, Some(number(2)));
}

/// Another owner has gone on with the same cold tier: what an earlier one still has is not written over that.
#[tokio::test(start_paused = true)]
async fn an_earlier_owner_never_writes_over_what_a_later_one_has_written() {
    let first = World::new(Tiering::default());
    first.set("k", number(1)).await;
    first.drained().await;
    Fate::set(&first.cold.fate.away, true);
    first.set("k", number(2)).await;
    let later = World::on(Arc::new(MemoryAdapter::new()), first.bucket.clone(), Tiering::default());
    later.clock.fetch_add(1_000_000, std::sync::atomic::Ordering::SeqCst);
    later.set("k", number(3)).await;
    later.drained().await;
    Fate::set(&first.cold.fate.away, false);
    until("it is noticed", async || first.state().lag.foreign == 1).await;
    assert_eq!(first.in_the_cold_tier("k").await, Some(number(3)));
    first.delete("k").await;
    tokio::time::sleep(std::time::Duration::from_secs(200)).await;
    assert_eq!(first.state().lag.foreign, 1);
    assert_eq!(later.in_the_cold_tier("k").await, Some(number(3)));
}

#[tokio::test(start_paused = true)]
async fn every_write_of_the_cold_tier_is_conditional() {
    let world = World::new(Tiering::default());
    for round in 0..3 {
        world.set("k", number(round)).await;
        world.drained().await;
    }
    world.demote_all().await;
    world.set("k", number(9)).await;
    world.drained().await;
    let puts = world.cold.fate.puts.lock().unwrap().clone();
    assert!(puts.len() >= 4 && !puts.contains(&Condition::Any), "{puts:?}");
}

/// A creation was sent and never answered: it may arrive when the key has been removed. There is an object then, if only a
/// tombstone, and its condition does not hold.
#[tokio::test(start_paused = true)]
async fn a_creation_that_arrives_late_does_not_bring_back_what_was_removed() {
    for restarted in [false, true] {
        let bucket = FarBucket::calm();
        let mut world = World::on(Arc::new(MemoryAdapter::new()), bucket.open(), Tiering::default());
        Fate::set(&world.cold.fate.drops, true);
        world.set("k", number(1)).await;
        until("it was sent", async || !world.cold.fate.puts.lock().unwrap().is_empty()).await;
        if restarted {
            world = world.restart();
        } else {
            world.delete("k").await;
            Fate::set(&world.cold.fate.drops, false);
        }
        world.delete("k").await;
        world.drained().await;
        let late = bucket.put("s/kv/k", "any body".into(), &When::Absent).await.unwrap();
        assert_eq!(late, Written::Refused);
        assert_eq!(world.get("k").await, None);
        assert_eq!(world.list().await, Vec::<String>::new());
    }
}

/// What was never sent needs no trace: short lives cost the cold tier nothing but a look.
#[tokio::test(start_paused = true)]
async fn what_comes_and_goes_before_it_was_sent_leaves_nothing_in_the_cold_tier() {
    let bucket = FarBucket::calm();
    let world =
        World::on(Arc::new(MemoryAdapter::new()), bucket.open(), Tiering { max_flushes: 1, ..Tiering::default() });
    Fate::set(&world.cold.fate.hold_writes, true);
    world.set("first", number(1)).await;
    world.cold.fate.held().await;
    world.set("k", number(1)).await;
    world.delete("k").await;
    world.cold.fate.release();
    world.drained().await;
    let (objects, _) = bucket.list("", "", 10).await.unwrap();
    assert_eq!(objects.len(), 1, "{objects:?}");
}

/// A removal has put its mark where a creation may still arrive, and its process dies with its disk before it has removed that
/// again.
#[tokio::test(start_paused = true)]
async fn a_mark_that_nobody_is_left_to_remove_is_cleared_away() {
    let bucket = FarBucket::calm();
    let world = World::on(Arc::new(MemoryAdapter::new()), bucket.open(), Tiering::default());
    Fate::set(&world.cold.fate.drops, true);
    world.set("k", number(1)).await;
    until("it was sent", async || !world.cold.fate.puts.lock().unwrap().is_empty()).await;
    Fate::set(&world.cold.fate.hold_writes, true);
    world.delete("k").await;
    world.cold.fate.held().await;
    // The creation is lost for good; the mark takes effect, and its process does not hear of it.
    Fate::set(&world.cold.fate.drops, false);
    Fate::set(&world.cold.fate.mute, true);
    world.cold.fate.release();
    until("the mark is there", async || bucket.list("s/", "", 10).await.unwrap().0.len() == 1).await;
    world.die();
    for cleared_by in ["a read", "a removal"] {
        let lost = World::on(Arc::new(MemoryAdapter::new()), Arc::clone(&world.bucket), Tiering::default());
        assert_eq!(lost.list().await, ["k"], "there is no mark: this shows nothing");
        // What is sent to clear it away is lost, too.
        Fate::set(&lost.cold.fate.drops, true);
        match cleared_by {
            "a read" => assert_eq!(lost.get("k").await, None),
            _ => lost.delete("k").await,
        }
        assert_eq!(lost.list().await, Vec::<String>::new(), "after {cleared_by}");
        lost.die();
    }
    let world = world.lose_the_disk();
    assert_eq!(world.get("k").await, None);
    world.drained().await;
    let other = World::on(Arc::new(MemoryAdapter::new()), Arc::clone(&world.bucket), Tiering::default());
    assert_eq!(other.list().await, Vec::<String>::new(), "the mark is still there");
    world.set("k", number(2)).await;
    world.drained().await;
    assert_eq!(world.in_the_cold_tier("k").await, Some(number(2)));
}
