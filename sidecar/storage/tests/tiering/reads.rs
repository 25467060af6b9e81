//! Reads, promotions and listings.

use brainy_storage::layers::tiering::Tiering;
use brainy_storage::{Namespace, Value};
use serde_json::json;

use super::tier::Fate;
use super::world::{World, key, number, until};

fn eager() -> Tiering {
    Tiering { promote_after_reads: 1, ..Tiering::default() }
}

#[tokio::test(start_paused = true)]
async fn what_looks_like_nothing_is_a_value_in_both_tiers() {
    let world = World::new(Tiering { promote_after_reads: 0, ..Tiering::default() });
    let values = [json!(0), json!(""), json!(false), json!(null)].map(Value::Json);
    let values = [values.as_slice(), &[Value::Bytes("".into())]].concat();
    for (name, value) in values.iter().enumerate() {
        world.set(&name.to_string(), value.clone()).await;
    }
    for demoted in [false, true] {
        if demoted {
            world.demote_all().await;
        }
        let reads = world.tiers.counts().cold_reads;
        for (name, value) in values.iter().enumerate() {
            assert_eq!(world.get(&name.to_string()).await.as_ref(), Some(value));
        }
        let expected = if demoted { values.len() as u64 } else { 0 };
        assert_eq!(world.tiers.counts().cold_reads - reads, expected, "which tier has answered");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_read_often_comes_back_and_what_is_read_once_does_not() {
    let world = World::new(Tiering { promote_after_reads: 3, ..Tiering::default() });
    world.set("often", number(1)).await;
    world.set("once", number(2)).await;
    let before = world.entry("often").await;
    world.demote_all().await;
    world.get("once").await;
    for _ in 0..3 {
        assert_eq!(world.entry("often").await, before, "a version is the same in both tiers");
    }
    until("it is promoted", async || world.is_hot("often").await).await;
    assert!(!world.is_hot("once").await);
    assert_eq!(world.entry("often").await, before);
    assert_eq!(world.tiers.counts().promoted, 1);
    // It is not to be written again, and goes as it came.
    assert_eq!(world.state().lag.keys, 0);
    world.demote_all().await;
    assert_eq!(world.entry("often").await, before);
}

/// The read finds the old value in the cold tier; then the key is removed, in both tiers, and all trace of the removal is
/// gone before the read goes on.
#[tokio::test(start_paused = true)]
async fn a_promotion_never_brings_back_what_was_removed() {
    let world = World::new(eager());
    world.set("k", number(1)).await;
    world.demote_all().await;
    Fate::set(&world.cold.fate.hold_reads, true);
    let reading = {
        let store = world.store.clone();
        tokio::spawn(async move { store.get(&key("k")).await.unwrap() })
    };
    world.cold.fate.held().await;
    Fate::set(&world.cold.fate.hold_reads, false);
    world.delete("k").await;
    world.drained().await;
    assert!(!world.is_hot("k").await, "the removal is still noted: this shows nothing");
    world.cold.fate.release();
    assert_eq!(reading.await.unwrap().map(|entry| entry.value), Some(number(1)), "it was so when the read began");
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
    assert_eq!(world.get("k").await, None);
    assert_eq!(world.list().await, Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_listing_has_the_keys_of_both_tiers_and_none_that_was_removed() {
    let world = World::new(Tiering::default());
    for name in ["a", "b", "c", "d"] {
        world.set(name, number(1)).await;
    }
    world.demote_all().await;
    // From here on nothing gets to the cold tier: what it has is hidden by what the hot one says.
    Fate::set(&world.cold.fate.full, true);
    for name in ["e", "b"] {
        world.set(name, number(2)).await;
    }
    Fate::set(&world.cold.fate.full, false);
    Fate::set(&world.cold.fate.hold_writes, true);
    world.set("f", number(1)).await;
    world.delete("c").await;
    world.delete("e").await;
    assert_eq!(world.list().await, ["a", "b", "d", "f"]);
    let page = world.store.list("", Some(&key("a")), 2).await.unwrap();
    assert_eq!((page.keys, page.more), (vec![key("b"), key("d")], true));
    let page = world.store.list("", Some(&key("b")), 2).await.unwrap();
    assert_eq!((page.keys, page.more), (vec![key("d"), key("f")], false));
    // Before all records were looked at, too.
    let world = world.restart();
    assert_eq!(world.list().await, ["a", "b", "d", "f"]);
    world.drained().await;
    assert_eq!(world.list().await, ["a", "b", "d", "f"]);
    let world = world.lose_the_disk();
    assert_eq!(world.list().await, ["a", "b", "d", "f"]);
}

#[tokio::test(start_paused = true)]
async fn while_the_cold_tier_is_away_what_is_hot_is_served_and_the_rest_fails_cleanly() {
    let world = World::new(Tiering::default());
    world.set("cold", number(1)).await;
    world.demote_all().await;
    Fate::set(&world.cold.fate.away, true);
    world.set("hot", number(2)).await;
    assert_eq!(world.get("hot").await, Some(number(2)));
    let error = world.store.get(&key("cold")).await.unwrap_err().to_string();
    assert!(error.contains("Unreachable"), "{error}");
    assert!(world.store.increment(&key("cold"), 1.into()).await.is_err());
    let found = world.store.get_batch(&[key("hot"), key("cold")]).await;
    assert!(found[0].is_ok() && found[1].is_err(), "{found:?}");
    // A plain write needs not know what it writes over.
    world.set("cold", number(3)).await;
    assert_eq!(world.get("cold").await, Some(number(3)));
    Fate::set(&world.cold.fate.away, false);
    world.drained().await;
    assert_eq!(world.in_the_cold_tier("cold").await, Some(number(3)));
}

#[tokio::test(start_paused = true)]
async fn namespaces_are_apart_in_both_tiers_and_drained_after_a_restart() {
    let mut world = World::new(Tiering::default());
    Fate::set(&world.cold.fate.away, true);
    let path = ["a", "b/c"].map(|name| Namespace::new(name).unwrap());
    let inner = |world: &World| path.iter().fold(world.store.clone(), |store, name| store.with_namespace(name));
    assert!(inner(&world).set(&key("k"), number(1)).await.unwrap().applied().is_some());
    world = world.restart();
    world.drained().await;
    world.run(0).await;
    assert_eq!(world.state().hot.keys, 0);
    assert_eq!(inner(&world).get(&key("k")).await.unwrap().unwrap().value, number(1));
    assert_eq!(world.get("k").await, None);
    assert_eq!(world.list().await, Vec::<String>::new());
    let world = world.lose_the_disk();
    let found = inner(&world).get(&key("k")).await.unwrap();
    assert_eq!(found.map(|entry| entry.value), Some(number(1)), "it never got to the cold tier");
}
