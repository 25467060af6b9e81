//! What leaves the hot tier, and what does not.

use std::sync::atomic::Ordering;

use brainy_storage::layers::tiering::{Fullness, Tiering};
use brainy_storage::{Error, Value};

use super::tier::Fate;
use super::world::{World, number, until};

const DAY: u64 = 24 * 60 * 60 * 1000;

#[tokio::test(start_paused = true)]
async fn what_was_not_read_for_a_week_goes_and_what_was_read_stays() {
    let world = World::new(Tiering::default());
    for name in ["read", "left", "written"] {
        world.set(name, number(1)).await;
    }
    world.drained().await;
    world.clock.fetch_add(4 * DAY, Ordering::SeqCst);
    world.get("read").await;
    world.set("written", number(2)).await;
    world.clock.fetch_add(4 * DAY, Ordering::SeqCst);
    world.run(7 * DAY).await;
    assert_eq!(
        (world.is_hot("read").await, world.is_hot("left").await, world.is_hot("written").await),
        (true, false, true)
    );
    let state = world.state();
    assert_eq!((state.run.examined, state.run.demoted, state.run.failed), (3, 1, 0), "{state:?}");
    assert_eq!((state.hot.keys, state.cold.keys), (2, 3));
    assert!(state.run.finished_at > 0 && state.run.demoted_bytes > 0);
    assert_eq!(world.get("left").await, Some(number(1)));
}

#[tokio::test(start_paused = true)]
async fn it_runs_by_itself() {
    let world = World::new(Tiering { run_every_ms: 60_000, ..Tiering::default() });
    world.set("k", number(1)).await;
    world.clock.fetch_add(8 * DAY, Ordering::SeqCst);
    until("it is demoted", async || !world.is_hot("k").await).await;
    assert_eq!(world.get("k").await, Some(number(1)));
}

/// A read costs no write: what was read is written down now and then, and when the store is given away.
#[tokio::test(start_paused = true)]
async fn when_keys_were_read_is_known_after_a_restart() {
    let world = World::new(Tiering::default());
    for name in ["read", "left"] {
        world.set(name, number(1)).await;
    }
    world.drained().await;
    world.clock.fetch_add(6 * DAY, Ordering::SeqCst);
    let writes = || world.hot.fate.puts.lock().unwrap().len();
    let before = writes();
    for _ in 0..100 {
        world.get("read").await;
    }
    assert_eq!(writes(), before, "a read has written");
    tokio::time::sleep(std::time::Duration::from_secs(61)).await;
    assert!(writes() > before);
    let world = world.restart();
    world.clock.fetch_add(2 * DAY, Ordering::SeqCst);
    world.run(7 * DAY).await;
    assert_eq!((world.is_hot("read").await, world.is_hot("left").await), (true, false));
}

/// It is looked for in the cold tier, found there, and written again before it is removed from the hot one.
#[tokio::test(start_paused = true)]
async fn what_is_written_while_it_is_demoted_stays() {
    let world = World::new(Tiering::default());
    world.set("k", number(1)).await;
    world.drained().await;
    Fate::set(&world.cold.fate.hold_reads, true);
    world.tiers.run(Some(1));
    world.clock.fetch_add(1000, Ordering::SeqCst);
    world.cold.fate.held().await;
    // Nothing gets to the cold tier from here on.
    Fate::set(&world.cold.fate.full, true);
    world.set("k", number(2)).await;
    world.cold.fate.release();
    until("the run ends", async || !world.state().run.running).await;
    assert_eq!(world.get("k").await, Some(number(2)));
    assert!(world.is_hot("k").await);
    let world = world.restart();
    world.drained().await;
    assert_eq!(world.in_the_cold_tier("k").await, Some(number(2)));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_demoted_that_the_cold_tier_does_not_hold() {
    let world = World::new(Tiering::default());
    Fate::set(&world.cold.fate.lies, true);
    world.set("k", number(1)).await;
    world.drained().await;
    world.run(0).await;
    let run = world.state().run;
    assert_eq!((run.demoted, run.failed), (0, 1), "{run:?}");
    assert!(run.problem.is_some_and(|why| why.contains("does not hold")));
    assert_eq!(world.get("k").await, Some(number(1)));
    // It is written there anew.
    Fate::set(&world.cold.fate.lies, false);
    world.drained().await;
    if world.in_the_cold_tier("k").await.is_none() {
        // It was lied about once more before.
        world.run(0).await;
        world.drained().await;
    }
    assert_eq!(world.in_the_cold_tier("k").await, Some(number(1)));
    world.demote_all().await;
    assert_eq!(world.get("k").await, Some(number(1)));
}

#[tokio::test(start_paused = true)]
async fn damage_in_the_cold_tier_is_found_before_it_is_the_only_copy() {
    let world = World::new(Tiering::default());
    world.set("k", number(1)).await;
    world.drained().await;
    let damage = Value::Bytes("no record".into());
    world.bucket.set(&super::world::key("k"), damage).await.unwrap().applied().unwrap();
    world.run(0).await;
    assert_eq!(world.get("k").await, Some(number(1)));
    world.drained().await;
    world.demote_all().await;
    assert_eq!(world.get("k").await, Some(number(1)));
}

#[tokio::test(start_paused = true)]
async fn above_the_watermark_the_oldest_go() {
    let world = World::new(Tiering { watermark_percent: 80, ..Tiering::default() });
    let long = Value::Bytes(vec![7; 10_000].into());
    for name in 0..10 {
        world.set(&name.to_string(), long.clone()).await;
        world.clock.fetch_add(DAY / 4, Ordering::SeqCst);
    }
    world.drained().await;
    *world.fullness.lock().unwrap() = Some(Fullness { used: 79_000, total: 100_000 });
    world.run(30 * DAY).await;
    assert_eq!(world.state().run.demoted, 0);
    *world.fullness.lock().unwrap() = Some(Fullness { used: 95_000, total: 100_000 });
    world.run(30 * DAY).await;
    let demoted = world.state().run.demoted;
    assert!((2..10).contains(&demoted), "{demoted} of ten are a fifth of it, about");
    for name in 0..10 {
        assert_eq!(world.is_hot(&name.to_string()).await, name >= demoted, "{name}");
    }
    // What is read in the cold tier stays there, and by itself the rest goes when that is needed.
    for _ in 0..10 {
        world.get("0").await;
    }
    assert!(!world.is_hot("0").await);
    until("all go", async || world.state().hot.keys == 0).await;
}

/// Values are refused, removals are not: what is in the cold tier can go, also where that can't be noted.
#[tokio::test(start_paused = true)]
async fn a_full_hot_tier_refuses_writes_cleanly_and_is_emptied() {
    let world = World::new(Tiering::default());
    Fate::set(&world.cold.fate.away, true);
    for name in ["a", "b"] {
        world.set(name, number(1)).await;
    }
    Fate::set(&world.hot.fate.full, true);
    let refused = world.store.set(&super::world::key("c"), number(1)).await.unwrap_err();
    assert!(matches!(&refused, Error::Unavailable { cause, .. } if cause == "DiskFull"), "{refused}");
    assert_eq!(world.get("a").await, Some(number(1)));
    Fate::set(&world.cold.fate.away, false);
    tokio::time::sleep(std::time::Duration::from_secs(20)).await;
    world.run(0).await;
    assert_eq!(world.state().hot.keys, 0, "{:?}", world.state());
    assert_eq!((world.get("a").await, world.get("c").await), (Some(number(1)), None));
    world.drained().await;
    Fate::set(&world.hot.fate.full, false);
    world.set("a", number(2)).await;
    world.demote_all().await;
    assert_eq!(world.get("a").await, Some(number(2)));
}

#[tokio::test(start_paused = true)]
async fn a_run_ends_where_the_cold_tier_is_away_and_nothing_is_lost() {
    let world = World::new(Tiering::default());
    for name in ["a", "b", "c"] {
        world.set(name, number(1)).await;
    }
    world.drained().await;
    Fate::set(&world.cold.fate.away, true);
    world.run(0).await;
    let run = world.state().run;
    assert!(run.demoted == 0 && run.failed > 0 && run.problem.is_some(), "{run:?}");
    Fate::set(&world.cold.fate.away, false);
    world.demote_all().await;
    for name in ["a", "b", "c"] {
        assert_eq!(world.get(name).await, Some(number(1)));
    }
}
