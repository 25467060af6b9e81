//! Removals are kept until every region has them, and then forgotten.

use std::time::Duration;

use super::tier::Fate;
use super::world::{World, key, restless, until};

const LONG: Duration = Duration::from_secs(4 * 3600);

async fn is_forgotten(world: &World, name: &str) -> bool {
    matches!(world.everywhere(name).await, Ok(None))
}

#[tokio::test(start_paused = true)]
async fn a_removal_is_forgotten_once_every_region_has_it_and_no_sooner() {
    let world = World::new(restless()).await;
    world.nodes[0].set("k", 1).await;
    world.drained().await;
    world.isolate(2, true);
    assert!(world.nodes[0].delete("k").await);
    world.wait(LONG).await;
    for region in [0, 1] {
        assert!(world.stood(region, "k").await.is_some_and(|stood| stood.value.is_none()), "forgotten too soon");
    }
    world.heal();
    until("it is forgotten", async || is_forgotten(&world, "k").await).await;
    world.wait(LONG).await;
    assert!(is_forgotten(&world, "k").await);
    assert!(world.nodes.iter().map(|node| node.regions.counts().swept).sum::<u64>() > 0);
    // As if nothing had ever been.
    world.nodes[1].set("k", 2).await;
    world.drained().await;
    assert_eq!(world.agreed("k").await.as_deref(), Some("2"));
}

/// The others see it, and can't write over it.
#[tokio::test(start_paused = true)]
async fn a_removal_stays_where_one_region_has_what_was_removed() {
    let world = World::new(restless()).await;
    world.nodes[0].set("k", 1).await;
    world.drained().await;
    for node in &world.nodes[..2] {
        *node.ways[2].fate.refuses.lock().unwrap() = Some(key("k"));
    }
    assert!(world.nodes[0].delete("k").await);
    world.wait(LONG).await;
    assert_eq!(world.stood(2, "k").await.unwrap().value.as_deref(), Some("1"));
    for region in [0, 1] {
        assert!(world.stood(region, "k").await.is_some_and(|stood| stood.value.is_none()), "forgotten too soon");
    }
    for node in &world.nodes[..2] {
        *node.ways[2].fate.refuses.lock().unwrap() = None;
    }
    until("it is forgotten", async || is_forgotten(&world, "k").await).await;
    assert_eq!(world.nodes[2].get("k").await, None);
}

/// A node has read a value, and is about to write it elsewhere: for hours, while that is removed everywhere.
#[tokio::test(start_paused = true)]
async fn a_removal_is_kept_while_anybody_may_bring_back_what_was_removed() {
    let world = World::new(restless()).await;
    let fate = &world.nodes[2].ways[1].fate;
    Fate::set(&fate.hold_writes, true);
    world.nodes[2].set("k", 1).await;
    fate.held().await;
    until("it is in the first region", async || world.stood(0, "k").await.is_some()).await;
    assert!(world.nodes[0].delete("k").await);
    world.nodes[0].drained().await;
    for region in 0..3 {
        assert!(world.stood(region, "k").await.is_some_and(|stood| stood.value.is_none()));
    }
    world.wait(LONG).await;
    assert!(!is_forgotten(&world, "k").await, "forgotten too soon");
    fate.release();
    until("it is forgotten", async || is_forgotten(&world, "k").await).await;
    for node in &world.nodes {
        assert_eq!(node.get("k").await, None);
    }
}

/// What a node has written is in its memory too, long after every region has forgotten it.
#[tokio::test(start_paused = true)]
async fn what_a_node_remembers_does_not_bring_back_what_was_removed() {
    let world = World::new(restless()).await;
    let refuses = &world.nodes[1].ways[2].fate.refuses;
    *refuses.lock().unwrap() = Some(key("k"));
    world.nodes[1].set("k", 1).await;
    until("it is in the first region", async || world.stood(0, "k").await.is_some()).await;
    assert!(world.nodes[0].delete("k").await);
    until("it is forgotten", async || is_forgotten(&world, "k").await).await;
    *refuses.lock().unwrap() = None;
    world.drained().await;
    assert!(is_forgotten(&world, "k").await, "it came back");
}

#[tokio::test(start_paused = true)]
async fn removals_are_kept_while_a_region_is_empty_or_a_node_is_down() {
    let mut world = World::new(restless()).await;
    world.nodes[0].set("k", 1).await;
    world.drained().await;
    world.nodes[2].die();
    assert!(world.nodes[0].delete("k").await);
    world.nodes[0].drained().await;
    world.wait(LONG).await;
    assert!(world.everywhere("k").await.unwrap().is_some(), "the node that is down may be amidst of something");
    world.restart(2);
    until("it is forgotten", async || is_forgotten(&world, "k").await).await;
    let page = world.nodes[1].adapter.list("", None, 10).await.unwrap();
    assert_eq!(page.keys, []);
    assert_eq!(world.nodes[1].adapter.get(&key("k")).await, Ok(None));
}
