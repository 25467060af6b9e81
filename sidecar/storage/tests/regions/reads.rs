//! Reads, and what they repair.

use std::sync::atomic::Ordering;

use brainy_storage::layers::regions::{Nearness, Replication};
use brainy_storage::{Error, Namespace, Outcome, Value};
use serde_json::json;

use super::tier::Fate;
use super::world::{World, key, number, until};

#[tokio::test(start_paused = true)]
async fn what_looks_like_nothing_is_a_value_in_every_region() {
    let world = World::new(Replication::default()).await;
    let values = [json!(0), json!(""), json!(false), json!(null)].map(Value::Json);
    let values = [values.as_slice(), &[Value::Bytes("".into())]].concat();
    for (name, value) in values.iter().enumerate() {
        world.nodes[0].adapter.set(&key(&name.to_string()), value.clone()).await.unwrap().applied().unwrap();
    }
    world.drained().await;
    for (name, value) in values.iter().enumerate() {
        let name = name.to_string();
        for node in &world.nodes {
            assert_eq!(node.get(&name).await.as_ref(), Some(value));
            let swap = node.adapter.compare_and_swap(&key(&name), Some(value.clone()), Some(value.clone())).await;
            assert!(matches!(swap.unwrap(), Outcome::Applied(Some(_))));
        }
        world.cut(1, 1, true);
        assert_eq!(world.nodes[1].get(&name).await.as_ref(), Some(value), "from another region");
        world.cut(1, 1, false);
    }
    let keys: Vec<_> = (0..values.len()).map(|name| key(&name.to_string())).collect();
    let found = world.nodes[2].adapter.get_batch(&keys).await;
    assert_eq!(found.into_iter().map(|entry| entry.unwrap().unwrap().value).collect::<Vec<_>>(), values);
}

#[tokio::test(start_paused = true)]
async fn the_nearest_region_is_read_and_the_others_where_it_fails() {
    let world = World::new(Replication::default()).await;
    world.nodes[0].set("k", 1).await;
    world.drained().await;
    let node = &world.nodes[0];
    let asked = || [0, 1, 2].map(|region| node.ways[region].fate.reads.load(Ordering::SeqCst));
    let before = asked();
    assert_eq!(node.get("k").await, Some(number(1)));
    assert_eq!(asked(), [before[0] + 1, before[1], before[2]]);
    world.cut(0, 0, true);
    let before = asked();
    assert_eq!(node.get("k").await, Some(number(1)));
    assert!(asked()[1] > before[1] && asked()[2] == before[2]);
    world.cut(0, 1, true);
    assert_eq!(node.get("k").await, Some(number(1)));
    assert!(asked()[2] > before[2]);
    world.cut(0, 2, true);
    assert!(matches!(node.adapter.get(&key("k")).await, Err(Error::Unavailable { .. })));
    world.heal();
    node.store.set_order(&["c", "b", "a"]).unwrap();
    let before = asked();
    assert_eq!(node.get("k").await, Some(number(1)));
    assert!(asked()[2] > before[2]);
    assert!(node.store.set_order(&["c", "b"]).is_err() && node.store.set_order(&["c", "b", "x"]).is_err());
}

#[tokio::test(start_paused = true)]
async fn a_measured_region_is_as_far_as_it_takes_to_answer() {
    let world = World::new(Replication { nearness: Nearness::Measured, ..Replication::default() }).await;
    world.nodes[0].set("k", 1).await;
    world.drained().await;
    let node = &world.nodes[0];
    world.cut(0, 0, true);
    tokio::time::sleep(std::time::Duration::from_secs(300)).await;
    world.cut(0, 0, false);
    let reads = || node.ways[0].fate.reads.load(Ordering::SeqCst);
    let before = reads();
    assert_eq!(node.get("k").await, Some(number(1)));
    assert_eq!(reads(), before, "it was far away for minutes");
}

#[tokio::test(start_paused = true)]
async fn a_repair_never_writes_an_older_value_over_a_newer_one() {
    let world = World::new(Replication::default()).await;
    world.nodes[0].set("k", 1).await;
    world.drained().await;
    // The own region has what is newer, and can't be read.
    for region in [1, 2] {
        world.cut(0, region, true);
    }
    world.nodes[0].set("k", 2).await;
    let newer = world.stood(0, "k").await;
    world.cut(0, 0, true);
    world.cut(0, 1, false);
    assert_eq!(world.nodes[0].get("k").await, Some(number(1)), "what the next region has");
    let repaired = world.nodes[0].regions.counts().repaired;
    assert!(repaired > 0);
    world.cut(0, 0, false);
    world.cut(0, 2, false);
    world.drained().await;
    assert_eq!(world.everywhere("k").await.unwrap(), newer);
}

#[tokio::test(start_paused = true)]
async fn what_a_region_has_lost_is_read_elsewhere_and_repaired() {
    let world = World::new(Replication::default()).await;
    world.nodes[0].set("k", 1).await;
    world.drained().await;
    world.lose(2).await;
    assert_eq!(world.nodes[2].get("k").await, Some(number(1)));
    assert_eq!(
        world.nodes[2].adapter.get_batch(&[key("k")]).await[0].as_ref().unwrap().as_ref().unwrap().value,
        number(1)
    );
    until("it is there again", async || world.stood(2, "k").await.is_some()).await;
    // What is nowhere is not there either.
    assert_eq!(world.nodes[2].get("other").await, None);
    assert!(!world.nodes[2].delete("other").await);
}

#[tokio::test(start_paused = true)]
async fn a_removal_in_a_region_that_is_not_filled_removes_what_the_others_have() {
    let world = World::new(Replication::default()).await;
    world.nodes[0].set("k", 1).await;
    world.drained().await;
    world.lose(2).await;
    assert!(world.nodes[2].delete("k").await);
    world.drained().await;
    until("it is removed", async || world.everywhere("k").await.is_ok_and(|stood| stood.unwrap().value.is_none()))
        .await;
}

#[tokio::test(start_paused = true)]
async fn what_is_damaged_is_read_elsewhere_and_repaired() {
    let world = World::new(Replication::default()).await;
    world.nodes[0].set("k", 1).await;
    world.drained().await;
    let data = world.stores[1].with_namespace(&Namespace::new("d").unwrap());
    data.set(&key("k"), Value::Bytes("no record".into())).await.unwrap().applied().unwrap();
    assert_eq!(world.nodes[1].get("k").await, Some(number(1)));
    until("it is whole again", async || world.nodes[1].is_drained()).await;
    assert_eq!(world.agreed("k").await.as_deref(), Some("1"));
    data.set(&key("k"), Value::Bytes("no record".into())).await.unwrap().applied().unwrap();
    world.nodes[1].set("k", 2).await;
    world.drained().await;
    assert_eq!(world.agreed("k").await.as_deref(), Some("2"));
}

#[tokio::test(start_paused = true)]
async fn a_listing_has_what_was_not_removed_in_each_namespace() {
    let world = World::new(Replication::default()).await;
    for name in ["a", "b", "c", "d", "e"] {
        world.nodes[0].set(name, 1).await;
    }
    let inner = world.nodes[0].adapter.with_namespace(&Namespace::new("n").unwrap());
    inner.set(&key("x"), number(1)).await.unwrap().applied().unwrap();
    for name in ["a", "c", "d"] {
        assert!(world.nodes[0].delete(name).await);
    }
    world.drained().await;
    for node in &world.nodes {
        assert_eq!(node.list().await, ["b", "e"]);
        let page = node.adapter.list("", None, 1).await.unwrap();
        assert!(page.keys == [key("b")] && page.more);
        let page = node.adapter.list("", Some(&key("b")), 1).await.unwrap();
        assert!(page.keys == [key("e")] && !page.more);
        let inner = node.adapter.with_namespace(&Namespace::new("n").unwrap());
        assert_eq!(inner.list("", None, 10).await.unwrap().keys, [key("x")]);
    }
    world.cut(2, 2, true);
    assert_eq!(world.nodes[2].list().await, ["b", "e"], "of another region");
    world.lose(1).await;
    assert_eq!(world.nodes[1].list().await, ["b", "e"], "nothing is no answer");
}

#[tokio::test(start_paused = true)]
async fn who_has_written_sees_it_also_where_another_region_is_nearer() {
    let world = World::new(Replication::default()).await;
    world.nodes[1].set("k", 1).await;
    world.drained().await;
    let node = &world.nodes[1];
    node.store.set_order(&["a", "b", "c"]).unwrap();
    for region in [0, 2] {
        Fate::set(&node.ways[region].fate.hold_writes, true);
    }
    node.set("k", 2).await;
    node.set("new", 3).await;
    assert_eq!(node.get("k").await, Some(number(2)), "the nearest does not have it yet");
    let found = node.adapter.get_batch(&[key("k"), key("new")]).await;
    assert_eq!(
        found.into_iter().map(|entry| entry.unwrap().unwrap().value).collect::<Vec<_>>(),
        [number(2), number(3)]
    );
    assert_eq!(node.list().await, ["k", "new"]);
    // One for each key.
    for region in [0, 2, 0, 2] {
        node.ways[region].fate.release();
    }
    world.drained().await;
    let reads = || node.ways[0].fate.reads.load(Ordering::SeqCst);
    let before = reads();
    assert_eq!(node.get("k").await, Some(number(2)));
    assert!(reads() > before, "now it has");
}
