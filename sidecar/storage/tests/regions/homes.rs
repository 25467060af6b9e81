//! What is decided in the home, and how that moves.

use std::sync::atomic::Ordering;
use std::time::Duration;

use brainy_storage::layers::regions::Replication;
use brainy_storage::{Condition, Done, Error, Namespace, Operation, OperationId, Outcome, StorageAdapter};

use super::tier::Fate;
use super::world::{Node, World, empty, key, number, until};

fn add(delta: i64) -> Operation {
    Operation::Increment { delta: delta.into() }
}

fn cause<T: std::fmt::Debug>(refused: Result<T, Error>) -> String {
    match refused {
        Err(Error::Unavailable { cause, .. }) => cause,
        other => panic!("{other:?}"),
    }
}

async fn move_home(node: &Node, region: &str) -> u64 {
    node.store.move_home(region).await.unwrap().applied().unwrap()
}

async fn home_doc(store: &std::sync::Arc<dyn StorageAdapter>) -> Option<brainy_storage::Entry> {
    store.with_namespace(&Namespace::new("m").unwrap()).get(&key("home")).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn whoever_asks_one_region_decides() {
    let world = World::new(Replication::default()).await;
    for (round, node) in (1..).zip(world.nodes.iter().cycle().take(9)) {
        assert_eq!(node.add("n", 1).await, round);
        assert_eq!(node.get("n").await, Some(number(round)), "who has done it sees it");
    }
    let version = world.nodes[1].entry("n").await;
    world.drained().await;
    for node in &world.nodes {
        let put = node.adapter.put(&key("once"), number(1), &Condition::Absent).await.unwrap();
        let is_first = std::ptr::eq(node, &world.nodes[0]);
        assert_eq!(matches!(put, Outcome::Applied(_)), is_first);
    }
    let swap = async |node: &Node, old, new| {
        node.adapter.compare_and_swap(&key("n"), Some(number(old)), Some(number(new))).await.unwrap()
    };
    assert!(matches!(swap(&world.nodes[2], 9, 10).await, Outcome::Applied(Some(_))));
    let Outcome::Rejected(Some(stands)) = swap(&world.nodes[1], 9, 11).await else { panic!("it was 10") };
    assert_eq!(stands.value, number(10), "what stands in the home, whatever the own region has");
    assert!(version.is_none_or(|version| version.version != stands.version));
    let remove = world.nodes[1].adapter.remove(&key("n"), &Condition::Version(stands.version)).await.unwrap();
    assert!(matches!(remove, Outcome::Applied(true)));
    world.drained().await;
    assert_eq!(world.agreed("n").await, None);
}

#[tokio::test(start_paused = true)]
async fn without_the_home_nothing_is_decided_anywhere() {
    let world = World::new(Replication::default()).await;
    world.nodes[0].add("n", 5).await;
    world.drained().await;
    world.cut(1, 0, true);
    let node = &world.nodes[1].adapter;
    let id = OperationId::new("a").unwrap();
    assert_eq!(cause(node.increment(&key("n"), 1.into()).await), "HomeUnreachable");
    assert_eq!(cause(node.compare_and_swap(&key("n"), Some(number(5)), None).await), "HomeUnreachable");
    assert_eq!(cause(node.put(&key("m"), number(1), &Condition::Absent).await), "HomeUnreachable");
    assert_eq!(cause(node.perform_once(&key("n"), add(1), &id).await), "HomeUnreachable");
    // Plain ones are none of its business.
    world.nodes[1].set("plain", 1).await;
    world.heal();
    world.drained().await;
    assert_eq!(world.agreed("n").await.as_deref(), Some("5"));
    assert_eq!(world.agreed("m").await, None);
    // An answer that is lost.
    Fate::set(&world.nodes[1].ways[0].fate.mute, true);
    assert!(matches!(node.increment(&key("n"), 1.into()).await.unwrap(), Outcome::Unknown(_)));
    Fate::set(&world.nodes[1].ways[0].fate.mute, false);
    world.drained().await;
    assert_eq!(world.agreed("n").await.as_deref(), Some("6"), "it is everywhere all the same");
}

#[tokio::test(start_paused = true)]
async fn an_operation_with_an_id_is_done_once_in_whatever_region_it_is_asked_for() {
    let world = World::new(Replication::default()).await;
    let id = OperationId::new("a").unwrap();
    let ask = async |node: &Node| match node.adapter.perform_once(&key("n"), add(1), &id).await.unwrap() {
        Outcome::Applied(Done::Sum(sum, _)) => sum.as_i64().unwrap(),
        other => panic!("{other:?}"),
    };
    world.nodes[0].add("first", 1).await;
    world.drained().await;
    world.isolate(2, true);
    for node in &world.nodes[..2] {
        assert_eq!(ask(node).await, 1);
    }
    // A plain write of another region, which knows nothing of it, does not make it forgotten.
    world.nodes[2].wall.fetch_add(10, Ordering::SeqCst);
    world.nodes[2].set("n", 10).await;
    world.heal();
    world.drained().await;
    assert_eq!(ask(&world.nodes[1]).await, 1);
    assert_eq!(move_home(&world.nodes[0], "c").await, 2);
    for node in &world.nodes {
        assert_eq!(ask(node).await, 1, "nor does a move");
    }
    world.drained().await;
    assert_eq!(world.nodes[0].get("n").await, Some(number(10)));
}

#[tokio::test(start_paused = true)]
async fn who_has_written_plainly_decides_on_that() {
    let world = World::new(Replication::default()).await;
    world.nodes[1].add("first", 1).await;
    world.drained().await;
    for region in [0, 2] {
        Fate::set(&world.nodes[1].ways[region].fate.hold_writes, true);
    }
    world.nodes[1].set("n", 5).await;
    world.nodes[1].ways[0].fate.held().await;
    world.nodes[1].ways[0].fate.release();
    assert_eq!(world.nodes[1].add("n", 1).await, 6);
    world.nodes[1].ways[2].fate.release();
    world.drained().await;
    assert_eq!(world.agreed("n").await.as_deref(), Some("6"));
}

#[tokio::test(start_paused = true)]
async fn the_home_moves_and_the_old_one_decides_nothing_any_more() {
    let world = World::new(Replication::default()).await;
    for node in &world.nodes {
        node.add("n", 1).await;
    }
    assert_eq!(move_home(&world.nodes[2], "b").await, 2);
    assert_eq!(move_home(&world.nodes[2], "b").await, 2, "there already");
    for (round, node) in (4..).zip(&world.nodes) {
        assert_eq!(node.add("n", 1).await, round);
        assert_eq!(world.stood(1, "n").await.unwrap().value, Some(round.to_string()), "decided there");
    }
    // The old one is away: nobody needs it. Also who has not heard of the move yet.
    world.drained().await;
    assert_eq!(move_home(&world.nodes[0], "c").await, 3);
    world.cut(1, 1, true);
    assert_eq!(world.nodes[1].add("n", 1).await, 7);
    world.heal();
    assert_eq!(move_home(&world.nodes[1], "a").await, 4);
    world.drained().await;
    assert_eq!(world.nodes[2].add("n", 1).await, 8);
    world.drained().await;
    assert_eq!(world.agreed("n").await.as_deref(), Some("8"));
}

/// It was asked for while the old home decided, and arrives when the new one does.
#[tokio::test(start_paused = true)]
async fn what_is_decided_late_in_the_old_home_is_unknown_and_counts_less() {
    for behind in [0, 3_600_000] {
        let world = World::new(Replication::default()).await;
        world.nodes[0].add("n", 1).await;
        world.nodes[2].add("other", 1).await;
        world.drained().await;
        // The new home's clock is behind: it must not count on it.
        for node in &world.nodes[..2] {
            node.wall.fetch_sub(behind, Ordering::SeqCst);
        }
        let fate = &world.nodes[2].ways[0].fate;
        Fate::set(&fate.hold_writes, true);
        let adapter = world.nodes[2].adapter.clone();
        let late = tokio::spawn(async move { adapter.increment(&key("n"), 10.into()).await });
        fate.held().await;
        assert_eq!(move_home(&world.nodes[1], "b").await, 2);
        assert_eq!(world.nodes[1].add("n", 100).await, 101);
        // Before what is newer gets to the old home.
        world.cut(1, 0, true);
        fate.release();
        let outcome = late.await.unwrap().unwrap();
        assert!(matches!(outcome, Outcome::Unknown(_) | Outcome::Rejected(_)), "{outcome:?}");
        world.heal();
        world.drained().await;
        for node in &world.nodes {
            node.store.compare().await.unwrap();
        }
        world.drained().await;
        assert_eq!(world.agreed("n").await.as_deref(), Some("101"), "an acknowledged decision is lost");
    }
}

#[tokio::test(start_paused = true)]
async fn a_move_that_was_broken_off_is_ended_by_the_next() {
    let mut world = World::new(Replication::default()).await;
    world.nodes[0].add("n", 1).await;
    world.drained().await;
    // The new home takes no more, once the old one was told.
    let fate = &world.nodes[1].ways[1].fate;
    Fate::set(&fate.hold_writes, true);
    let store = world.nodes[1].store.clone();
    let moving = tokio::spawn(async move { store.move_home("b").await });
    fate.held().await;
    world.nodes[1].ways[1].fate.go_on.add_permits(1);
    let is_moving = async || {
        let doc = home_doc(&world.stores[0]).await.unwrap();
        format!("{:?}", doc.value).contains("moving")
    };
    for _ in 0..50 {
        if is_moving().await {
            break;
        }
        if tokio::time::timeout(Duration::from_secs(1), world.nodes[1].ways[1].fate.held()).await.is_ok() {
            world.nodes[1].ways[1].fate.go_on.add_permits(1);
        }
    }
    assert!(is_moving().await, "it never began");
    assert_eq!(cause(world.nodes[2].adapter.increment(&key("n"), 1.into()).await), "HomeMoving");
    assert_eq!(cause(world.nodes[0].adapter.increment(&key("n"), 1.into()).await), "HomeMoving");
    moving.abort();
    world.restart(1);
    assert_eq!(
        cause(world.nodes[2].adapter.increment(&key("n"), 1.into()).await),
        "HomeMoving",
        "until it is moved again"
    );
    // It goes where it was to go first, and from there on.
    assert_eq!(move_home(&world.nodes[2], "a").await, 3);
    for (round, node) in (2..).zip(&world.nodes) {
        assert_eq!(node.add("n", 1).await, round);
    }
}

#[tokio::test(start_paused = true)]
async fn a_move_that_died_after_the_last_word_is_done() {
    let world = World::new(Replication::default()).await;
    world.nodes[0].add("n", 1).await;
    world.drained().await;
    // The old home gets to know nothing after it was told that it moves.
    let doc = async |region: usize| format!("{:?}", home_doc(&world.stores[region]).await.unwrap().value);
    let store = world.nodes[1].store.clone();
    let moving = tokio::spawn(async move { store.move_home("b").await });
    until("the new home is told", async || {
        let told = doc(1).await.contains("\"b\"");
        if told {
            world.cut(1, 0, true);
        }
        told
    })
    .await;
    let done = moving.await.unwrap();
    world.heal();
    // However far it came: it is decided in the new home, and nowhere else.
    assert_eq!(world.nodes[2].add("n", 1).await, 2, "{done:?}");
    assert_eq!(world.stood(1, "n").await.unwrap().value.as_deref(), Some("2"));
    assert_eq!(move_home(&world.nodes[1], "b").await, 2);
}

#[tokio::test(start_paused = true)]
async fn a_home_that_lost_all_decides_nothing_until_it_is_moved() {
    let world = World::new(Replication::default()).await;
    world.nodes[2].add("n", 1).await;
    world.drained().await;
    let node = &world.nodes[1].adapter;
    world.lose(0).await;
    assert_eq!(cause(node.increment(&key("n"), 1.into()).await), "HomeLost");
    assert_eq!(cause(world.nodes[1].store.move_home("b").await), "HomeLost", "it is not filled yet");
    world.filled().await;
    assert_eq!(world.agreed("n").await.as_deref(), Some("1"));
    assert_eq!(cause(node.increment(&key("n"), 1.into()).await), "HomeLost");
    assert_eq!(move_home(&world.nodes[1], "a").await, 2);
    for (round, node) in (2..).zip(&world.nodes) {
        assert_eq!(node.add("n", 1).await, round);
    }
}

/// That there is a home is said while all regions are there.
#[tokio::test(start_paused = true)]
async fn a_region_that_goes_away_keeps_the_others_from_no_first_decision() {
    let world = World::new(Replication::default()).await;
    for node in &world.nodes {
        until("it knows the home", async || node.regions.state().homes.get("a") == Some(&1)).await;
    }
    world.isolate(2, true);
    assert_eq!(world.nodes[1].add("n", 1).await, 1);
    assert_eq!(world.nodes[0].add("n", 1).await, 2);
    let node = &world.nodes[2].adapter;
    assert_eq!(cause(node.increment(&key("n"), 1.into()).await), "HomeUnreachable");
}

#[tokio::test(start_paused = true)]
async fn a_home_that_does_not_answer_keeps_nobody_waiting() {
    let world = World::new(Replication::default()).await;
    world.nodes[1].add("n", 1).await;
    world.drained().await;
    Fate::set(&world.nodes[1].ways[0].fate.hold_reads, true);
    let n = key("n");
    let refused = tokio::time::timeout(Duration::from_secs(6), world.nodes[1].adapter.increment(&n, 1.into()));
    assert_eq!(cause(refused.await.unwrap()), "HomeUnreachable");
}

/// Who is first is not who was configured.
#[tokio::test(start_paused = true)]
async fn nodes_with_different_opinions_agree_on_the_first_home() {
    let stores = empty(3);
    let wall = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(super::world::NOW));
    let nodes: Vec<Node> =
        (0..3).map(|at| Node::open(&stores, at, (at + 1) % 3, Replication::default(), &wall)).collect();
    let adds = nodes.iter().map(|node| node.add("n", 1));
    let mut sums = futures::future::join_all(adds).await;
    sums.sort_unstable();
    assert_eq!(sums, [1, 2, 3]);
    let mut homes = Vec::new();
    for store in &stores {
        let brainy_storage::Value::Json(doc) = home_doc(store).await.unwrap().value else { panic!("no document") };
        homes.push(doc["home"].clone());
    }
    assert!(homes.iter().all(|home| *home == homes[0]), "{homes:?}");
}

/// A region writes over what was done in the home without having seen it, again and again.
#[tokio::test(start_paused = true)]
async fn what_is_written_over_in_the_home_does_not_make_it_forget_what_was_done() {
    let world = World::new(Replication::default()).await;
    let id = OperationId::new("once").unwrap();
    let once = async || match world.nodes[0].adapter.perform_once(&key("n"), add(1), &id).await.unwrap() {
        Outcome::Applied(Done::Sum(sum, _)) => sum.as_i64().unwrap(),
        other => panic!("{other:?}"),
    };
    world.nodes[0].add("first", 1).await;
    world.drained().await;
    // The second region does not get it from the others.
    for node in [0, 2] {
        world.cut(node, 1, true);
    }
    assert_eq!(once().await, 1);
    world.wait(Duration::from_secs(1)).await;
    for n in [10, 20] {
        world.nodes[1].set("n", n).await;
        world.nodes[1].drained().await;
    }
    assert_eq!(once().await, 1, "done twice");
    world.nodes[1].set("n", 30).await;
    assert_eq!(world.nodes[1].add("n", 1).await, 31);
    assert_eq!(once().await, 1, "done twice");
    world.heal();
    world.drained().await;
    assert_eq!(world.agreed("n").await.as_deref(), Some("31"));
}
