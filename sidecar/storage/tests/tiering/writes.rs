//! Writes, and when they are acknowledged.

use std::sync::atomic::Ordering;

use brainy_storage::layers::tiering::{Ack, Tiering};
use brainy_storage::{Condition, Done, Error, Operation, OperationId, Outcome, Value};
use serde_json::json;

use super::tier::Fate;
use super::world::{World, key, number, until};

fn add(delta: i64) -> Operation {
    Operation::Increment { delta: delta.into() }
}

fn id(text: &str) -> OperationId {
    OperationId::new(text).unwrap()
}

#[tokio::test(start_paused = true)]
async fn swaps_and_sums_go_on_from_what_the_cold_tier_has() {
    let world = World::new(Tiering::default());
    world.set("n", number(5)).await;
    world.demote_all().await;
    let Outcome::Applied((sum, _)) = world.store.increment(&key("n"), 2.into()).await.unwrap() else { panic!("lost") };
    assert_eq!(sum, 7.into());
    world.demote_all().await;
    let version = world.entry("n").await.unwrap().version;
    let swap = async |old: Option<i64>, new: i64| {
        world.store.compare_and_swap(&key("n"), old.map(number), Some(number(new))).await
    };
    let Outcome::Rejected(Some(stands)) = swap(None, 1).await.unwrap() else { panic!("it was there") };
    assert_eq!(stands.value, number(7));
    assert!(matches!(swap(Some(7), 8).await.unwrap(), Outcome::Applied(Some(_))));
    world.demote_all().await;
    let stale = world.store.put(&key("n"), number(9), &Condition::Version(version)).await.unwrap();
    assert!(matches!(stale, Outcome::Rejected(Some(entry)) if entry.value == number(8)));
    assert!(matches!(world.store.delete(&key("n")).await.unwrap(), Outcome::Applied(true)));
    world.drained().await;
    assert!(matches!(world.store.delete(&key("n")).await.unwrap(), Outcome::Applied(false)));
}

/// It was written by a process that died before it could say so. Who asks again is told that it was done: so it has to be there.
#[tokio::test(start_paused = true)]
async fn what_was_done_before_a_restart_is_in_the_cold_tier_before_that_is_said() {
    let world = World::new(Tiering { ack: Ack::Cold, ..Tiering::default() });
    world.set("n", number(1)).await;
    Fate::set(&world.cold.fate.away, true);
    let ask = async |world: &World| world.store.perform_once(&key("n"), add(1), &id("a")).await.unwrap();
    assert!(matches!(ask(&world).await, Outcome::Unknown(_)));
    let world = world.restart();
    Fate::set(&world.cold.fate.away, true);
    // Before all of the hot tier was looked at.
    assert!(matches!(ask(&world).await, Outcome::Unknown(_)));
    Fate::set(&world.cold.fate.away, false);
    assert!(matches!(ask(&world).await, Outcome::Applied(Done::Sum(sum, _)) if sum == 2.into()));
    assert_eq!(world.lose_the_disk().get("n").await, Some(number(2)));
}

/// A plain write of a key that only the cold tier has does not look what stands there; and must not forget it.
#[tokio::test(start_paused = true)]
async fn an_operation_that_the_cold_tier_remembers_is_not_done_again() {
    for flushed in [false, true] {
        let world = World::new(Tiering::default());
        let first = world.store.perform_once(&key("n"), add(1), &id("a")).await.unwrap();
        assert!(matches!(first, Outcome::Applied(Done::Sum(_, _))));
        world.demote_all().await;
        Fate::set(&world.cold.fate.away, true);
        world.set("n", number(10)).await;
        Fate::set(&world.cold.fate.away, false);
        if flushed {
            world.demote_all().await;
        }
        let again = world.store.perform_once(&key("n"), add(1), &id("a")).await.unwrap();
        assert!(matches!(again, Outcome::Applied(Done::Sum(sum, _)) if sum == 1.into()), "flushed: {flushed}");
        assert_eq!(world.get("n").await, Some(number(10)));
        let other = world.store.perform_once(&key("n"), add(1), &id("b")).await.unwrap();
        assert!(matches!(other, Outcome::Applied(Done::Sum(sum, _)) if sum == 11.into()));
        world.demote_all().await;
        for known in ["a", "b"] {
            world.store.perform_once(&key("n"), add(1), &id(known)).await.unwrap().applied().unwrap();
        }
        assert_eq!(world.get("n").await, Some(number(11)));
        // A removal forgets them.
        world.delete("n").await;
        world.set("n", number(0)).await;
        world.store.perform_once(&key("n"), add(1), &id("a")).await.unwrap().applied().unwrap();
        assert_eq!(world.get("n").await, Some(number(1)));
    }
}

#[tokio::test(start_paused = true)]
async fn revisions_grow_whatever_becomes_of_the_process_its_disk_and_the_key() {
    let mut world = World::new(Tiering::default());
    let mut last = 0;
    for round in 0..6 {
        let Outcome::Applied(version) = world.store.set(&key("k"), number(round)).await.unwrap() else {
            panic!("lost")
        };
        assert!(version.revision > last, "{} after {last}", version.revision);
        last = version.revision;
        world.drained().await;
        world = match round {
            0 => world.restart(),
            1 | 2 => {
                world.demote_all().await;
                world
            }
            3 => {
                world.delete("k").await;
                world.drained().await;
                world
            }
            _ => world.lose_the_disk(),
        };
    }
}

#[tokio::test(start_paused = true)]
async fn a_write_is_acknowledged_once_it_is_in_the_cold_tier_where_that_is_asked_for() {
    let world = World::new(Tiering { ack: Ack::Cold, ..Tiering::default() });
    world.set("k", number(1)).await;
    assert_eq!(world.in_the_cold_tier("k").await, Some(number(1)));
    world.store.perform_once(&key("n"), add(1), &id("a")).await.unwrap().applied().unwrap();
    assert_eq!(world.in_the_cold_tier("n").await, Some(number(1)));
    world.delete("k").await;
    assert_eq!(world.in_the_cold_tier("k").await, None);
    Fate::set(&world.cold.fate.away, true);
    let outcome = world.store.set(&key("m"), number(2)).await.unwrap();
    assert!(matches!(outcome, Outcome::Unknown(_)), "{outcome:?}");
    // What was done by a write that is not there yet is no more certain the second time.
    let ask = async || world.store.perform_once(&key("n"), add(1), &id("b")).await;
    assert!(matches!(ask().await.unwrap(), Outcome::Unknown(_)));
    assert!(matches!(ask().await.unwrap(), Outcome::Unknown(_)));
    Fate::set(&world.cold.fate.away, false);
    assert!(matches!(ask().await.unwrap(), Outcome::Applied(Done::Sum(sum, _)) if sum == 2.into()));
    assert_eq!(world.lose_the_disk().get("n").await, Some(number(2)));
}

#[tokio::test(start_paused = true)]
async fn no_more_waits_for_the_cold_tier_than_may() {
    let world = World::new(Tiering { max_unwritten_keys: 3, ..Tiering::default() });
    Fate::set(&world.cold.fate.away, true);
    for name in ["a", "b", "c"] {
        world.set(name, number(1)).await;
    }
    let refused = world.store.set(&key("d"), number(1)).await.unwrap_err();
    assert!(matches!(&refused, Error::Unavailable { cause, .. } if cause == "Busy"), "{refused}");
    assert_eq!(world.get("a").await, Some(number(1)));
    let waiting = {
        let store = world.store.clone();
        tokio::spawn(async move { store.set(&key("e"), number(1)).await })
    };
    tokio::task::yield_now().await;
    Fate::set(&world.cold.fate.away, false);
    waiting.await.unwrap().unwrap().applied().unwrap();
    world.drained().await;
    assert_eq!(world.in_the_cold_tier("e").await, Some(number(1)));
}

#[tokio::test(start_paused = true)]
async fn what_the_cold_tier_could_not_hold_is_refused_before_it_is_acknowledged() {
    let world = World::new(Tiering::default());
    let refused = world.store.set(&key(&"~".repeat(150)), number(1)).await.unwrap_err();
    assert!(matches!(&refused, Error::Invalid { field: "key", .. }), "{refused}");
    world.set(&"k".repeat(150), number(1)).await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_gives_up_leaves_no_write_behind_that_nobody_knows_of() {
    let world = World::new(Tiering::default());
    world.set("k", number(1)).await;
    world.demote_all().await;
    Fate::set(&world.hot.fate.hold_writes, true);
    let store = world.store.clone();
    let given_up = tokio::spawn(async move { store.set(&key("k"), number(2)).await });
    world.hot.fate.held().await;
    given_up.abort();
    world.hot.fate.release();
    until("it is written", async || world.get("k").await == Some(number(2))).await;
    until("it is in the cold tier", async || world.in_the_cold_tier("k").await == Some(number(2))).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_damaged_can_be_removed_and_written_again() {
    let world = World::new(Tiering { promote_after_reads: 0, ..Tiering::default() });
    let records = world.disk.with_namespace(&brainy_storage::Namespace::new("d").unwrap());
    for tier in [&records, &world.bucket] {
        for value in [number(1), Value::Json(json!(null))] {
            world.set("k", value).await;
            world.demote_all().await;
            tier.set(&key("k"), Value::Bytes("no record".into())).await.unwrap().applied().unwrap();
            let read = world.store.get(&key("k")).await;
            assert!(matches!(read, Err(Error::Corrupt { .. })), "{read:?}");
            assert!(matches!(world.store.delete(&key("k")).await.unwrap(), Outcome::Applied(true)));
            assert_eq!(world.get("k").await, None);
            world.drained().await;
            assert_eq!(world.get("k").await, None);
            assert_eq!(world.in_the_cold_tier("k").await, None);
        }
    }
    // A plain write heals the cold tier.
    world.bucket.set(&key("k"), Value::Bytes("no record".into())).await.unwrap().applied().unwrap();
    world.set("k", number(3)).await;
    world.drained().await;
    assert_eq!(world.in_the_cold_tier("k").await, Some(number(3)));
}

#[tokio::test(start_paused = true)]
async fn settled_it_does_nothing_until_it_is_used_again() {
    let world = World::new(Tiering::default());
    Fate::set(&world.cold.fate.hold_writes, true);
    world.set("k", number(1)).await;
    world.cold.fate.held().await;
    world.store.settle().await.unwrap();
    let asked = |world: &World| {
        world.cold.fate.puts.lock().unwrap().len() + world.cold.fate.reads.load(Ordering::SeqCst) as usize
    };
    let before = asked(&world);
    world.cold.fate.release();
    world.tiers.run(Some(0));
    tokio::time::sleep(std::time::Duration::from_secs(3600)).await;
    assert_eq!(asked(&world), before, "the cold tier was asked for something");
    world.store.resume();
    world.drained().await;
    world.store.settle().await.unwrap();
    world.set("k", number(1)).await;
    assert_eq!(world.get("k").await, Some(number(1)));
    world.drained().await;
    assert_eq!(world.in_the_cold_tier("k").await, Some(number(1)));
}

/// A write begins before the store is settled and ends after that.
#[tokio::test(start_paused = true)]
async fn what_ends_after_the_store_was_settled_is_flushed_without_another_use() {
    let world = World::new(Tiering::default());
    Fate::set(&world.hot.fate.hold_writes, true);
    let store = world.store.clone();
    let writing = tokio::spawn(async move { store.set(&key("k"), number(1)).await });
    world.hot.fate.held().await;
    world.store.settle().await.unwrap();
    world.hot.fate.release();
    assert!(matches!(writing.await.unwrap(), Ok(Outcome::Applied(_))));
    world.drained().await;
    assert_eq!(world.in_the_cold_tier("k").await, Some(number(1)));
}
