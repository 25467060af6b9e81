//! What is asked of all stores of a process, and what one has found out for the others.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use brainy_storage::layers::batching::Sole;
use brainy_storage::layers::regions::{Nearness, Plan, RegionStore, Replication, Run, Wish};
use brainy_storage::{Entry, Namespace, Outcome, Value};
use serde_json::json;

use super::tier::Tier;
use super::world::{NAMES, Node, World, empty, key, number, until};

async fn meta(world: &World, region: usize, name: &str) -> Option<serde_json::Value> {
    let meta = world.stores[region].with_namespace(&Namespace::new("m").unwrap());
    match meta.get(&key(name)).await.unwrap() {
        Some(Entry { value: Value::Json(json), .. }) => Some(json),
        other => {
            assert!(other.is_none());
            None
        }
    }
}

async fn home(world: &World, region: usize) -> Option<String> {
    meta(world, region, "home").await.map(|home| home["home"].as_str().unwrap().to_owned())
}

/// The process of a region ends, and the next one is told where keys are to be decided: by a cluster, as its so-manieth wish.
fn told(world: &mut World, at: usize, home: usize, by: &str, since: u64) {
    world.nodes[at].die();
    let (wall, names) = (Arc::clone(&world.nodes[at].wall), NAMES[..3].iter().map(|name| (*name).to_owned()).collect());
    let plan = Plan::new(names, NAMES[at], NAMES[home], 300).unwrap();
    let plan = plan.wished(Wish { by: by.to_owned(), since });
    world.nodes[at] = Node::with_plan(&world.stores, plan, world.settings, &wall);
}

/// The same, and it is carried out.
async fn followed(world: &mut World, at: usize, home: usize, by: &str, since: u64) {
    told(world, at, home, by, since);
    let wish = json!({"by": by, "since": since});
    until("the wish is carried out", async || meta(world, at, "wish").await.as_ref() == Some(&wish)).await;
}

/// A second store of a node's process, over regions of its own.
fn second(node: &Node) -> (Vec<Tier>, RegionStore) {
    let stores = empty(3);
    let ways: Vec<Tier> = stores.iter().map(Tier::over).collect();
    let plan = Plan::new(NAMES[..3].iter().map(|name| (*name).to_owned()).collect(), "a", "a", 300).unwrap();
    let mut open = ways.iter().map(Tier::open);
    let store = node.regions.over(plan.place(|_| open.next().unwrap()), Arc::new(Sole));
    (ways, store)
}

#[tokio::test(start_paused = true)]
async fn a_new_wish_moves_the_home_and_an_old_one_does_not_move_it_back() {
    let mut world = World::new(Replication::default()).await;
    assert_eq!(world.nodes[0].add("n", 1).await, 1);
    for (region, name) in NAMES.iter().enumerate().take(3) {
        followed(&mut world, region, 0, name, 7).await;
    }
    followed(&mut world, 1, 2, "b", 8).await;
    assert_eq!(home(&world, 2).await.as_deref(), Some("c"));
    // Those that have not heard of it, started again and again: in another region, and in the same one.
    for _ in 0..3 {
        told(&mut world, 0, 0, "a", 7);
        told(&mut world, 1, 0, "b", 7);
        world.wait(Duration::from_secs(120)).await;
        assert_eq!(home(&world, 2).await.as_deref(), Some("c"));
    }
    assert_eq!(world.nodes[0].add("n", 1).await, 2);
    assert_eq!(world.stood(2, "n").await.unwrap().value.as_deref(), Some("2"), "it was decided there");
    followed(&mut world, 0, 2, "a", 8).await;
    followed(&mut world, 0, 1, "a", 11).await;
    assert_eq!(home(&world, 1).await.as_deref(), Some("b"));
    // A cluster that takes the place of another one has wished for nothing yet.
    followed(&mut world, 0, 0, "another", 1).await;
    assert_eq!(home(&world, 1).await.as_deref(), Some("b"));
    followed(&mut world, 0, 0, "another", 2).await;
    assert_eq!(home(&world, 0).await.as_deref(), Some("a"));
    assert_eq!(world.nodes[2].add("n", 1).await, 3);
    world.drained().await;
    assert_eq!(world.agreed("n").await.as_deref(), Some("3"));
}

#[tokio::test(start_paused = true)]
async fn a_wish_waits_for_a_home_that_can_not_be_reached() {
    let mut world = World::new(Replication::default()).await;
    assert_eq!(world.nodes[0].add("n", 1).await, 1);
    world.drained().await;
    followed(&mut world, 1, 0, "b", 1).await;
    told(&mut world, 1, 1, "b", 2);
    world.cut(1, 0, true);
    world.wait(Duration::from_secs(600)).await;
    assert_eq!((home(&world, 0).await, home(&world, 1).await), (Some("a".to_owned()), Some("a".to_owned())));
    assert_eq!(world.nodes[0].add("n", 1).await, 2);
    world.cut(1, 0, false);
    until("it is moved", async || home(&world, 1).await.as_deref() == Some("b")).await;
    assert_eq!(world.nodes[0].add("n", 1).await, 3);
}

#[tokio::test(start_paused = true)]
async fn what_is_asked_of_all_stores_is_done_by_each() {
    let world = World::new(Replication::default()).await;
    let node = &world.nodes[0];
    let (_ways, other) = second(node);
    node.set("k", 1).await;
    assert_eq!(node.add("n", 1).await, 1);
    world.drained().await;
    node.regions.move_home("b");
    until("both have moved", async || node.regions.state().homes.get("b") == Some(&2)).await;
    assert_eq!(home(&world, 1).await.as_deref(), Some("b"));
    assert_eq!(node.add("n", 1).await, 2);

    let data = world.stores[1].with_namespace(&Namespace::new("d").unwrap());
    assert!(matches!(data.delete(&key("k")).await.unwrap(), Outcome::Applied(true)));
    node.regions.compare();
    until("it is there again", async || world.stood(1, "k").await.is_some()).await;
    let runs = || node.regions.state().runs;
    until("both have compared", async || {
        runs().iter().any(|runs| runs.run == Run::Comparing && runs.done == 2 && runs.running == 0)
    })
    .await;

    node.regions.retire("c");
    until("both have left it", async || node.regions.lag().iter().all(|lag| lag.region != "c")).await;
    let (_ways, later) = second(node);
    until("also what is opened later", async || later.lag().iter().all(|lag| lag.region != "c")).await;
    assert_eq!((other.lag().len(), later.lag().len(), node.regions.state().stores), (2, 2, 3));
    assert_eq!(node.get("k").await, Some(number(1)));
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_left_alone_writes_nothing_while_others_of_its_process_are_written_to() {
    let world = World::new(Replication::default()).await;
    let node = &world.nodes[0];
    let (ways, other) = second(node);
    other.adapter().set(&key("k"), number(1)).await.unwrap().applied().unwrap();
    until("all is everywhere", async || other.lag().iter().all(|lag| lag.complete && lag.keys == 0)).await;
    world.wait(Duration::from_secs(30)).await;
    let puts = || ways.iter().map(|way| way.fate.puts.lock().unwrap().len()).sum::<usize>();
    let before = puts();
    for n in 0..20 {
        node.set("k", n).await;
        world.wait(Duration::from_secs(6)).await;
    }
    assert_eq!(puts(), before, "the clock went on, and that is no news");
    other.adapter().set(&key("k"), number(2)).await.unwrap().applied().unwrap();
    world.wait(Duration::from_secs(30)).await;
    assert!(puts() > before + 3, "what it has delivered is written down, once");
}

#[tokio::test(start_paused = true)]
async fn one_store_measures_the_regions_for_all() {
    let settings = Replication { nearness: Nearness::Measured, ..Replication::default() };
    let world = World::new(settings).await;
    let node = &world.nodes[0];
    let stores: Vec<_> = (0..10).map(|_| second(node)).collect();
    for (_, store) in &stores {
        until("it is filled", async || store.lag().iter().all(|lag| lag.complete)).await;
    }
    world.wait(Duration::from_secs(120)).await;
    let reads = |ways: &[Tier]| ways[2].fate.reads.load(Ordering::SeqCst);
    let all = || reads(&node.ways) + stores.iter().map(|(ways, _)| reads(ways)).sum::<u32>();
    let before = all();
    world.wait(Duration::from_secs(100)).await;
    let asked = all() - before;
    // Each store looks now and then whether a region was emptied.
    assert!((10..100).contains(&asked), "each store has asked: {asked}");
    let order = node.regions.state().order;
    assert!(order.len() == 3 && order.iter().all(|distance| distance.micros.is_some()), "{order:?}");
}
