//! Regions that differ are made equal, empty ones filled, and others left.

use std::sync::atomic::Ordering;
use std::time::Duration;

use brainy_storage::layers::regions::{Replication, Run};
use brainy_storage::{Error, Namespace};

use super::world::{NAMES, Node, World, empty, key, until};

/// How many puts and reads a node has sent to other regions.
fn asked(world: &World) -> usize {
    let others = |at: usize| (0..3).filter(move |region| *region != at);
    (0..3)
        .flat_map(|at| others(at).map(move |region| (at, region)))
        .map(|(at, region)| world.nodes[at].asked(region))
        .sum()
}

/// What an hour of partition leaves costs one request for each key and region that lacks it, where the node knows what stands there,
/// and two where it does not.
#[tokio::test(start_paused = true)]
async fn after_a_partition_all_regions_are_equal_for_two_requests_a_key() {
    const KEYS: usize = 150;
    let world = World::new(Replication::default()).await;
    for key in 0..2 * KEYS {
        world.nodes[0].set(&key.to_string(), 0).await;
    }
    world.drained().await;
    world.isolate(2, true);
    for second in 0..3600_u64 {
        if second % 4 == 0 {
            // On both sides, and many of them again and again.
            let n = i64::try_from(second).unwrap();
            let at = usize::try_from(second / 4).unwrap();
            world.nodes[0].set(&(at % KEYS).to_string(), n).await;
            world.nodes[2].set(&(KEYS + at % KEYS).to_string(), n).await;
        }
        world.wait(Duration::from_secs(1)).await;
    }
    world.nodes[1].drained().await;
    until("only the third is behind", async || world.nodes[0].store.lag()[1].keys == 0).await;
    assert_eq!(world.nodes[0].store.lag()[2].keys, KEYS as u64);
    assert!(world.nodes[0].store.lag()[2].oldest_ms > 3_000_000);
    let before = asked(&world);
    world.heal();
    world.drained().await;
    let requests = asked(&world) - before;
    // The first side's keys go to one region, which has them from the same node; the other's to two.
    let lacked = KEYS + 2 * KEYS;
    println!("{requests} requests for {} keys, {lacked} times lacked", 2 * KEYS);
    assert!(requests <= KEYS + 2 * (2 * KEYS) + 60, "{requests} requests for {lacked}");
    for key in 0..2 * KEYS {
        assert!(world.agreed(&key.to_string()).await.is_some_and(|value| value != "0"));
    }
    for round in 0..2 {
        for node in &world.nodes {
            node.store.compare().await.unwrap();
            // The first time not all have said what they have.
            assert!(round == 0 || node.is_drained());
            node.drained().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_comparison_finds_what_was_lost_and_looks_at_little_else() {
    const KEYS: usize = 400;
    let world = World::new(Replication::default()).await;
    for key in 0..KEYS {
        world.nodes[key % 3].set(&key.to_string(), 1).await;
    }
    world.drained().await;
    for node in &world.nodes {
        node.store.compare().await.unwrap();
        node.drained().await;
    }
    // A region forgets one key, and has an old write of another.
    let data = world.stores[1].with_namespace(&Namespace::new("d").unwrap());
    data.delete(&key("7")).await.unwrap().applied().unwrap();
    let old = data.get(&key("8")).await.unwrap().unwrap();
    world.nodes[0].set("8", 2).await;
    world.drained().await;
    data.set(&key("8"), old.value).await.unwrap().applied().unwrap();
    for node in &world.nodes {
        node.store.compare().await.unwrap();
        node.drained().await;
    }
    let before = asked(&world);
    for node in &world.nodes {
        node.store.compare().await.unwrap();
        node.drained().await;
    }
    let requests = asked(&world) - before;
    assert!(requests < 100, "{requests} requests where nothing is lacked");
    assert_eq!(world.agreed("7").await.as_deref(), Some("1"));
    assert_eq!(world.agreed("8").await.as_deref(), Some("2"));
}

#[tokio::test(start_paused = true)]
async fn regions_compare_themselves_now_and_then() {
    let world = World::new(Replication { compare_every_ms: 600_000, ..Replication::default() }).await;
    world.nodes[0].set("k", 1).await;
    world.drained().await;
    let data = world.stores[1].with_namespace(&Namespace::new("d").unwrap());
    data.delete(&key("k")).await.unwrap().applied().unwrap();
    until("it is there again", async || world.stood(1, "k").await.is_some()).await;
}

#[tokio::test(start_paused = true)]
async fn a_region_that_was_emptied_is_filled_again_with_all_namespaces() {
    let world = World::new(Replication::default()).await;
    let inner = world.nodes[0].adapter.with_namespace(&Namespace::new("n").unwrap());
    for n in 0..30 {
        world.nodes[0].set(&n.to_string(), n).await;
        inner.set(&key(&n.to_string()), super::world::number(n)).await.unwrap().applied().unwrap();
    }
    world.drained().await;
    world.lose(2).await;
    let inner = world.stores[2].with_namespace(&Namespace::new("d").unwrap());
    super::world::clear(&inner.with_namespace(&Namespace::new("n").unwrap())).await;
    // Written while it is empty.
    world.nodes[0].set("meanwhile", 1).await;
    world.nodes[2].set("own", 1).await;
    world.filled().await;
    let progress = world.nodes[2].store.progress();
    assert_eq!((progress.run, progress.running, progress.region.as_str()), (Run::Filling, false, "c"));
    assert!(progress.copied >= 60 && progress.examined >= progress.copied, "{progress:?}");
    world.drained().await;
    for name in (0..30).map(|n| n.to_string()).chain(["meanwhile".to_owned(), "own".to_owned()]) {
        assert!(world.agreed(&name).await.is_some(), "{name}");
    }
    let inner = world.nodes[2].adapter.with_namespace(&Namespace::new("n").unwrap());
    assert_eq!(inner.list("", None, 100).await.unwrap().keys.len(), 30);
}

#[tokio::test(start_paused = true)]
async fn a_region_is_added_and_another_one_left() {
    let mut world = World::over(empty(2), 2, Replication::default());
    world.filled().await;
    for n in 0..20 {
        world.nodes[0].set(&n.to_string(), n).await;
    }
    world.nodes[0].add("n", 1).await;
    world.drained().await;
    world.stores.push(empty(1).remove(0));
    let wall = world.nodes[0].wall.clone();
    // Nothing is missed there while it is filled.
    let open = |here| Node::open(&world.stores, here, 0, Replication::default(), &wall);
    world.nodes[0].die();
    let third = open(2);
    assert_eq!(third.get("7").await, Some(super::world::number(7)));
    let first = open(0);
    world.filled().await;
    for n in 0..20 {
        assert_eq!(world.agreed(&n.to_string()).await, Some(n.to_string()));
    }
    assert_eq!(third.add("n", 1).await, 2);
    first.set("new", 1).await;
    // The second one goes, with what it alone has.
    let second = &world.nodes[1];
    second.ways[0].fate.away.store(true, Ordering::SeqCst);
    second.set("alone", 1).await;
    second.die();
    assert!(matches!(first.store.retire("a").await, Err(Error::Invalid { field: "region", .. })), "the own one");
    assert!(matches!(third.store.retire("a").await, Err(Error::Invalid { field: "region", .. })), "the home");
    assert!(matches!(third.store.retire("x").await, Err(Error::Invalid { field: "region", .. })));
    for node in [&first, &third] {
        node.store.retire("b").await.unwrap();
        node.drained().await;
        assert!(node.store.lag().iter().all(|lag| lag.region != "b"));
    }
    assert_eq!(NAMES[1], "b");
    let before = first.asked(1);
    for node in [&first, &third] {
        assert_eq!(node.get("alone").await, Some(super::world::number(1)));
        node.set("after", 1).await;
        node.drained().await;
    }
    assert_eq!(first.add("n", 1).await, 3);
    assert_eq!(first.asked(1), before, "it is asked no more");
    assert!(world.stood(1, "after").await.is_none() && world.stood(2, "after").await.is_some());
}

/// Two of three regions are only there in case the first one is lost.
#[tokio::test(start_paused = true)]
async fn regions_in_which_nobody_works_are_filled_and_compared_too() {
    let world = World::over(empty(3), 1, Replication::default());
    world.filled().await;
    world.nodes[0].set("k", 1).await;
    assert_eq!(world.nodes[0].add("n", 1).await, 1);
    world.drained().await;
    let data = |region: usize| world.stores[region].with_namespace(&Namespace::new("d").unwrap());
    data(1).delete(&key("k")).await.unwrap().applied().unwrap();
    data(0).delete(&key("n")).await.unwrap().applied().unwrap();
    world.nodes[0].store.compare().await.unwrap();
    world.nodes[0].drained().await;
    assert_eq!(world.agreed("k").await.as_deref(), Some("1"));
    assert_eq!(world.agreed("n").await.as_deref(), Some("1"), "fetched from where it was");
    world.lose(2).await;
    world.filled().await;
    assert_eq!(world.agreed("k").await.as_deref(), Some("1"));
}
