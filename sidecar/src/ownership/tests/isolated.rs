use std::sync::atomic::Ordering;
use std::time::Duration;

use brainy_coordination::ShardId;

use super::super::Place;
use super::cluster::{Cluster, SHARDS};

const FOR_EVER: Duration = Duration::from_secs(3600);
const SHORT: Duration = Duration::from_secs(2);

fn started(ttl: Duration, names: &[&str]) -> Cluster {
    let cluster = Cluster::isolated(ttl);
    for name in names {
        cluster.start(name, name);
    }
    cluster
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shards_move_with_their_data_when_nodes_join_and_leave() {
    let cluster = started(FOR_EVER, &["a", "b", "c"]);
    cluster.settled().await;
    cluster.served().await;
    cluster.start("d", "d");
    cluster.settled().await;
    cluster.served().await;
    cluster.unwant("a");
    cluster.settled().await;
    while !cluster.stored("a").await.is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_buffered_moves_with_its_shard_and_survives_a_drain() {
    let cluster = Cluster::isolated(FOR_EVER).buffered();
    for name in ["a", "b", "c"] {
        cluster.start(name, name);
    }
    cluster.settled().await;
    cluster.served().await;
    cluster.unwant("a");
    cluster.settled().await;
    cluster.served().await;
    let lost = |name: &str| cluster.node(name).buffer_counts().unwrap().lost;
    assert_eq!((lost("a"), lost("b"), lost("c")), (0, 0, 0));
    cluster.drain("b").await;
    cluster.start("b", "another pod");
    cluster.settled().await;
    cluster.finish().await;
}

/// Shards move and nodes die while the bucket is away; then it is back, and what is read is demoted and promoted again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_cold_tier_does_not_have_moves_with_its_shard() {
    let cluster = Cluster::isolated(FOR_EVER).tiered();
    for name in ["a", "b", "c"] {
        cluster.start(name, name);
    }
    cluster.settled().await;
    cluster.served().await;
    cluster.cold().set_away(true);
    cluster.served().await;
    cluster.unwant("a");
    cluster.settled().await;
    cluster.served().await;
    cluster.crash("b").await;
    cluster.start("b", "b");
    cluster.settled().await;
    cluster.served().await;
    let lag = |name: &str| cluster.node(name).tiering_state().unwrap().lag;
    cluster
        .eventually("all that the cold tier does not have is known", || {
            ["b", "c"].iter().all(|name| lag(name).complete && lag(name).keys == u64::from(SHARDS) / 2)
        })
        .await;
    assert!(lag("b").problem.is_some());
    cluster.cold().set_away(false);
    let demoted = |name: &str| {
        cluster.node(name).tiers().unwrap().run(Some(0));
        cluster.node(name).tiering_figures().unwrap().1.demoted
    };
    cluster.eventually("keys are demoted", || ["b", "c"].iter().all(|name| demoted(name) > 20)).await;
    assert_eq!(lag("b").foreign + lag("c").foreign, 0);
    cluster.unwant("c");
    cluster.settled().await;
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_container_is_back_at_once_with_its_shards() {
    let cluster = started(FOR_EVER, &["a", "b"]);
    cluster.settled().await;
    cluster.served().await;
    cluster.crash("a").await;
    cluster.start("a", "a");
    cluster.settled().await;
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drained_node_comes_back_in_a_new_pod_at_once() {
    let cluster = started(FOR_EVER, &["a", "b"]);
    cluster.settled().await;
    cluster.served().await;
    cluster.drain("a").await;
    cluster.start("a", "another pod");
    cluster.settled().await;
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_die_in_the_middle_of_moves_lose_nothing() {
    let cluster = started(SHORT, &["a", "b"]);
    cluster.settled().await;
    cluster.served().await;
    for (round, victim) in ["c", "a", "c", "b"].into_iter().enumerate() {
        cluster.start("c", "c");
        tokio::time::sleep(Duration::from_millis(40 + 30 * round as u64)).await;
        cluster.crash(victim).await;
        cluster.start(victim, victim);
        cluster.settled().await;
        cluster.unwant("c");
        cluster.settled().await;
        cluster.drain("c").await;
    }
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_cut_off_stops_and_nobody_takes_what_only_it_has() {
    let cluster = Cluster::isolated(SHORT);
    let link = cluster.start("a", "a");
    cluster.start("b", "b");
    cluster.settled().await;
    cluster.served().await;
    link.cut.store(true, Ordering::SeqCst);
    let (a, b) = (cluster.node("a"), cluster.node("b"));
    cluster.eventually("a has let go", || a.status().held == 0).await;
    let own = SHARDS as usize / 2;
    cluster
        .eventually("b serves what it has", || {
            assert!(b.status().held <= own, "b serves what only a has");
            b.status().held == own
        })
        .await;
    link.cut.store(false, Ordering::SeqCst);
    cluster.settled().await;
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_map_is_found_anew_from_what_the_nodes_store() {
    let cluster = started(FOR_EVER, &["a", "b", "c"]);
    cluster.settled().await;
    cluster.served().await;
    let before = cluster.node("a").status().map_revision;
    cluster.delete_map().await;
    let a = cluster.node("a");
    cluster.eventually("a new map", || a.status().map_revision > before).await;
    cluster.settled().await;
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_that_came_back_empty_is_reported_and_not_served() {
    let cluster = started(FOR_EVER, &["a", "b"]);
    cluster.settled().await;
    cluster.crash("a").await;
    std::fs::remove_dir_all(cluster.volume("a")).unwrap();
    cluster.start("a", "a");
    let a = cluster.node("a");
    cluster
        .eventually("it says what is missing", || a.status().problem.is_some_and(|why| why.contains("volume")))
        .await;
    assert_eq!((a.status().held, a.status().ready), (0, false));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shards_of_a_node_that_was_given_up_are_served_anew_and_what_it_brings_back_is_not() {
    let cluster = started(SHORT, &["a", "b"]);
    cluster.settled().await;
    cluster.crash("a").await;
    let (b, of_b) = (cluster.node("b"), SHARDS as usize / 2);
    cluster.give_up("a");
    cluster.eventually("b serves all", || b.status().held == SHARDS as usize).await;
    let map = cluster.map().await;
    let anew = (0..SHARDS).filter(|shard| map.token(ShardId(*shard)).0 >= 5).count();
    assert_eq!(
        (anew, map.given_up.len()),
        (SHARDS as usize - of_b, 0),
        "laid out two tokens on, and served one on: {map:?}"
    );
    // It comes back with its volume: of what it had nothing is current.
    cluster.start("a", "a");
    cluster.settled().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_that_can_not_be_used_is_reported_and_used_once_mended() {
    let cluster = Cluster::isolated(FOR_EVER);
    std::fs::write(cluster.volume("a"), "in the way").unwrap();
    cluster.start("a", "a");
    let a = cluster.node("a");
    cluster.eventually("it says so", || a.status().problem.is_some()).await;
    std::fs::remove_file(cluster.volume("a")).unwrap();
    cluster.settled().await;
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_answers_and_late_writes_confuse_nobody() {
    let cluster = Cluster::isolated(SHORT);
    for name in ["a", "b", "c"] {
        cluster.start(name, name).lose_one_in.store(4, Ordering::SeqCst);
    }
    cluster.settled().await;
    cluster.unwant("a");
    cluster.settled().await;
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shard_changes_hands_only_when_what_is_in_flight_has_ended() {
    let cluster = started(FOR_EVER, &["a"]);
    cluster.settled().await;
    let Place::Here(operation) = cluster.node("a").place(ShardId(0)) else { panic!("a serves all") };
    cluster.start("b", "b");
    cluster.unwant("a");
    let b = cluster.node("b");
    cluster
        .eventually("b serves", || {
            let taken = matches!(b.place(ShardId(0)), Place::Here(_));
            assert!(!(taken && operation.still_valid()), "two owners");
            b.status().held > 0
        })
        .await;
    drop(operation);
    cluster.settled().await;
    cluster.finish().await;
}
