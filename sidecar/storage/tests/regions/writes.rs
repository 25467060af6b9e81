//! Plain writes: when they are acknowledged, how they get everywhere, and which of two stands.

use std::sync::atomic::Ordering;
use std::time::Duration;

use brainy_storage::layers::regions::{Replication, WriteConcern};
use brainy_storage::{Condition, Error, Outcome};

use super::tier::Fate;
use super::world::{NOW, World, key, number, until};

const HOUR: u64 = 3_600_000;

#[tokio::test(start_paused = true)]
async fn a_write_needs_the_own_region_alone_and_gets_to_all() {
    let world = World::new(Replication::default()).await;
    // The others take it, and don't answer.
    let others = [0, 2].map(|region| &world.nodes[1].ways[region].fate);
    for fate in others {
        Fate::set(&fate.hold_writes, true);
    }
    world.nodes[1].set("first", 1).await;
    for fate in others {
        fate.held().await;
        fate.release();
    }
    world.nodes[1].drained().await;
    world.isolate(1, true);
    world.nodes[1].set("k", 1).await;
    assert!(world.nodes[1].delete("k").await && !world.nodes[1].delete("k").await);
    let batch = (0..3).map(|n| (key(&n.to_string()), number(n))).collect();
    for outcome in world.nodes[1].adapter.set_batch(batch).await {
        outcome.unwrap().applied().unwrap();
    }
    world.nodes[1].wall.fetch_add(5_000, Ordering::SeqCst);
    let lag = world.nodes[1].store.lag();
    for (at, region) in ["a", "b", "c"].iter().enumerate() {
        let expected = if *region == "b" { (0, 0) } else { (4, 5_000) };
        assert_eq!((lag[at].region.as_str(), lag[at].keys, lag[at].oldest_ms), (*region, expected.0, expected.1));
        assert!(lag[at].complete && (lag[at].bytes > 0) == (expected.0 > 0));
    }
    until("it is noticed", async || world.nodes[1].regions.lag()[0].problem.is_some()).await;
    world.heal();
    world.drained().await;
    assert_eq!(world.agreed("k").await, None);
    for n in 0..3 {
        assert_eq!(world.agreed(&n.to_string()).await, Some(n.to_string()));
    }
    assert!(world.nodes[1].store.lag()[0].problem.is_none());
}

#[tokio::test(start_paused = true)]
async fn without_the_own_region_nothing_is_written() {
    let world = World::new(Replication::default()).await;
    world.cut(0, 0, true);
    assert!(matches!(world.nodes[0].adapter.set(&key("k"), number(1)).await, Err(Error::Unavailable { .. })));
    world.nodes[1].set("first", 1).await;
    Fate::set(&world.nodes[1].ways[1].fate.mute, true);
    assert!(matches!(world.nodes[1].adapter.set(&key("m"), number(1)).await, Ok(Outcome::Unknown(_))));
    Fate::set(&world.nodes[1].ways[1].fate.mute, false);
    world.heal();
    world.drained().await;
    assert_eq!(world.agreed("k").await, None);
    assert_eq!(world.agreed("m").await.as_deref(), Some("1"), "it was written, as may be");
}

#[tokio::test(start_paused = true)]
async fn of_two_writes_the_later_one_stands_everywhere() {
    let world = World::new(Replication::default()).await;
    for (name, removal) in [("k", false), ("gone", true)] {
        world.nodes[0].set(name, 0).await;
        world.drained().await;
        world.isolate(1, true);
        world.nodes[0].set(name, 1).await;
        world.nodes[1].wall.fetch_add(10, Ordering::SeqCst);
        match removal {
            true => assert!(world.nodes[1].delete(name).await),
            false => world.nodes[1].set(name, 2).await,
        }
        // The earlier one arrives last in one region, and the later one in another.
        world.heal();
        world.drained().await;
        assert_eq!(world.agreed(name).await.as_deref(), (!removal).then_some("2"));
        for node in &world.nodes {
            assert_eq!(node.get(name).await, (!removal).then(|| number(2)));
        }
        for node in &world.nodes {
            node.wall.fetch_add(1_000, Ordering::SeqCst);
        }
    }
    // What is written after a removal stands.
    world.nodes[2].set("gone", 3).await;
    world.drained().await;
    assert_eq!(world.agreed("gone").await.as_deref(), Some("3"));
}

/// Not by the clock on the wall: by what was seen.
#[tokio::test(start_paused = true)]
async fn what_was_seen_is_earlier_whatever_the_clocks_say() {
    let world = World::new(Replication::default()).await;
    world.nodes[0].wall.fetch_add(HOUR, Ordering::SeqCst);
    // The other region never hears of this one, but of what came after it.
    Fate::set(&world.nodes[0].ways[1].fate.drops, true);
    world.nodes[0].set("y", 1).await;
    until("it is tried", async || world.nodes[0].regions.counts().failed > 0).await;
    world.cut(0, 1, true);
    Fate::set(&world.nodes[0].ways[1].fate.drops, false);
    world.nodes[0].set("x", 1).await;
    until("it is in the third region", async || world.stood(2, "x").await.is_some()).await;
    world.cut(1, 1, true);
    assert_eq!(world.nodes[1].get("x").await, Some(number(1)), "seen in another region");
    world.cut(1, 1, false);
    assert_eq!(world.stood(1, "y").await, None);
    world.nodes[1].set("y", 2).await;
    world.heal();
    world.drained().await;
    assert_eq!(world.agreed("y").await.as_deref(), Some("2"));
    assert!(world.nodes[1].regions.ahead_ms() > HOUR / 2);
}

#[tokio::test(start_paused = true)]
async fn versions_grow_also_where_the_clock_goes_back() {
    let mut world = World::new(Replication::default()).await;
    let mut last = 0;
    for round in 0..8 {
        let version = world.nodes[0].adapter.set(&key("k"), number(round)).await.unwrap().applied().unwrap();
        assert!(version.revision > last, "{} after {last}", version.revision);
        last = version.revision;
        match round % 4 {
            0 => world.nodes[0].wall.store(NOW - HOUR, Ordering::SeqCst),
            1 => world.restart(0),
            2 => {
                assert!(world.nodes[0].delete("k").await);
                world.nodes[0].wall.store(NOW - 2 * HOUR, Ordering::SeqCst);
            }
            _ => world.nodes[0].wall.store(NOW + HOUR, Ordering::SeqCst),
        }
    }
    // A key that it has never seen, after a restart with a clock that is wrong: later than what was written down.
    tokio::time::sleep(Duration::from_secs(60)).await;
    world.nodes[0].wall.store(NOW - HOUR, Ordering::SeqCst);
    world.restart(0);
    let version = world.nodes[0].adapter.set(&key("other"), number(1)).await.unwrap().applied().unwrap();
    assert!(version.revision > last);
}

#[tokio::test(start_paused = true)]
async fn a_write_that_reaches_fewer_regions_than_are_asked_for_is_unknown() {
    for (write_concern, cut, reached) in [
        (WriteConcern::Majority, vec![], true),
        (WriteConcern::Majority, vec![2], true),
        (WriteConcern::Majority, vec![1, 2], false),
        (WriteConcern::All, vec![], true),
        (WriteConcern::All, vec![2], false),
    ] {
        let world = World::new(Replication { write_concern, ..Replication::default() }).await;
        assert_eq!(world.nodes[0].add("n", 1).await, 1);
        world.drained().await;
        for region in &cut {
            world.cut(0, *region, true);
        }
        let node = &world.nodes[0];
        let set = node.adapter.set(&key("k"), number(1)).await.unwrap();
        let sum = node.adapter.increment(&key("n"), 1.into()).await.unwrap();
        if reached {
            assert!(matches!((&set, &sum), (Outcome::Applied(_), Outcome::Applied(_))), "{set:?} {sum:?}");
            let wanted = if write_concern == WriteConcern::All { 3 } else { 2 };
            for name in ["k", "n"] {
                let mut has = 0;
                for region in 0..3 {
                    let stood = world.stood(region, name).await;
                    has += u32::from(stood.is_some_and(|stood| name == "k" || stood.value.as_deref() == Some("2")));
                }
                assert!(has >= wanted, "{name} is in {has} regions");
            }
        } else {
            assert!(matches!((&set, &sum), (Outcome::Unknown(_), Outcome::Unknown(_))), "{set:?} {sum:?}");
        }
        world.heal();
        world.drained().await;
        assert_eq!(world.agreed("k").await.as_deref(), Some("1"));
        assert_eq!(world.agreed("n").await.as_deref(), Some("2"));
    }
}

#[tokio::test(start_paused = true)]
async fn no_more_waits_for_other_regions_than_may() {
    let world = World::new(Replication { max_unreplicated_keys: 6, ..Replication::default() }).await;
    world.isolate(0, true);
    for name in ["a", "b", "c"] {
        world.nodes[0].set(name, 1).await;
    }
    let refused = world.nodes[0].adapter.set(&key("d"), number(1)).await.unwrap_err();
    assert!(matches!(&refused, Error::Unavailable { cause, .. } if cause == "Busy"), "{refused}");
    assert_eq!(world.nodes[0].get("a").await, Some(number(1)));
    let adapter = world.nodes[0].adapter.clone();
    let waiting = tokio::spawn(async move { adapter.set(&key("e"), number(1)).await });
    tokio::task::yield_now().await;
    world.heal();
    waiting.await.unwrap().unwrap().applied().unwrap();
    world.drained().await;
    assert_eq!(world.agreed("e").await.as_deref(), Some("1"));
}

/// What is acknowledged stands in a record; what a region lacks is found again by looking at them.
#[tokio::test(start_paused = true)]
async fn what_others_lack_survives_the_process() {
    let mut world = World::new(Replication::default()).await;
    world.nodes[0].set("before", 1).await;
    world.drained().await;
    world.isolate(0, true);
    world.nodes[0].set("k", 1).await;
    assert!(world.nodes[0].delete("before").await);
    // Long enough that what the others have is written down, and tried in vain.
    tokio::time::sleep(Duration::from_secs(120)).await;
    world.nodes[0].set("late", 1).await;
    world.restart(0);
    until("it knows", async || world.nodes[0].store.lag().iter().all(|lag| lag.complete)).await;
    assert_eq!(world.nodes[0].store.lag()[1].keys, 3);
    world.heal();
    world.drained().await;
    assert_eq!(world.agreed("k").await.as_deref(), Some("1"));
    assert_eq!(world.agreed("late").await.as_deref(), Some("1"));
    assert!(world.everywhere("before").await.unwrap().unwrap().value.is_none());
    // What all have is not sent again.
    tokio::time::sleep(Duration::from_secs(60)).await;
    let sent = world.nodes[1].asked(1);
    world.restart(0);
    until("it knows", async || world.nodes[0].store.lag().iter().all(|lag| lag.complete)).await;
    assert!(world.nodes[0].is_drained());
    assert!(world.nodes[0].ways[1].fate.puts.lock().unwrap().is_empty(), "{sent}");
}

#[tokio::test(start_paused = true)]
async fn settled_it_does_nothing_until_it_is_used_again() {
    let world = World::new(Replication::default()).await;
    Fate::set(&world.nodes[0].ways[1].fate.hold_writes, true);
    world.nodes[0].set("k", 1).await;
    world.nodes[0].ways[1].fate.held().await;
    world.nodes[0].adapter.settle().await.unwrap();
    let asked = || (0..3).map(|region| world.nodes[0].asked(region)).collect::<Vec<_>>();
    let before = asked();
    world.nodes[0].ways[1].fate.release();
    tokio::time::sleep(Duration::from_secs(24 * 3600)).await;
    assert_eq!(asked(), before, "a region was asked for something");
    world.nodes[0].adapter.resume();
    world.drained().await;
    assert_eq!(world.agreed("k").await.as_deref(), Some("1"));
}

/// A write begins before the store is settled and ends after that.
#[tokio::test(start_paused = true)]
async fn what_ends_after_the_store_was_settled_is_sent_without_another_use() {
    let world = World::new(Replication::default()).await;
    // All that is to be written down is.
    tokio::time::sleep(Duration::from_secs(60)).await;
    let own = &world.nodes[0].ways[0].fate;
    Fate::set(&own.hold_writes, true);
    let adapter = world.nodes[0].adapter.clone();
    let writing = tokio::spawn(async move { adapter.set(&key("k"), number(1)).await });
    own.held().await;
    world.nodes[0].adapter.settle().await.unwrap();
    own.release();
    assert!(matches!(writing.await.unwrap(), Ok(Outcome::Applied(_))));
    world.drained().await;
    assert_eq!(world.agreed("k").await.as_deref(), Some("1"));
}

#[tokio::test(start_paused = true)]
async fn what_a_region_could_not_hold_is_refused_before_it_is_acknowledged() {
    let world = World::new(Replication::default()).await;
    let long = key(&"~".repeat(150));
    for refused in [
        world.nodes[0].adapter.set(&long, number(1)).await,
        world.nodes[0].adapter.put(&long, number(1), &Condition::Absent).await,
    ] {
        assert!(matches!(&refused, Err(Error::Invalid { field: "key", .. })), "{refused:?}");
    }
    world.nodes[0].set(&"k".repeat(150), 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_gives_up_leaves_no_write_behind_that_nobody_knows_of() {
    let world = World::new(Replication::default()).await;
    Fate::set(&world.nodes[0].ways[0].fate.hold_writes, true);
    let adapter = world.nodes[0].adapter.clone();
    let given_up = tokio::spawn(async move { adapter.set(&key("k"), number(2)).await });
    world.nodes[0].ways[0].fate.held().await;
    given_up.abort();
    world.nodes[0].ways[0].fate.release();
    until("it is everywhere", async || world.everywhere("k").await.is_ok_and(|stood| stood.is_some())).await;
}
