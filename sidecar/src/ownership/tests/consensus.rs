//! Pattern Consensus: sessions, election and map are kept by the nodes themselves. There is no operator and no Kubernetes in any
//! of this; and with strategy Isolated no bucket.

use std::time::Duration;

use brainy_coordination::ShardId;
use brainy_coordination::bucket::election::Kind;

use super::cluster::{Cluster, SHARDS, id};

/// Far longer than a test: what waits for a session to lapse never comes.
const FOR_EVER: Duration = Duration::from_secs(3600);
const SHORT: Duration = Duration::from_secs(2);
const THREE: [&str; 3] = ["a", "b", "c"];

fn started(ttl: Duration, names: &[&str]) -> Cluster {
    with_nodes(Cluster::consensus(ttl), names)
}

fn with_nodes(cluster: Cluster, names: &[&str]) -> Cluster {
    // Told before: a group begins with the nodes that are wanted then.
    names.iter().for_each(|name| cluster.want(name));
    for name in names {
        cluster.start(name, name);
    }
    cluster
}

/// Three nodes that can't reach each other for a while, over sessions that are short.
async fn stops_without_a_majority(cluster: Cluster) {
    cluster.settled().await;
    cluster.served().await;
    cluster.cut(&THREE);
    let nodes = THREE.map(|name| cluster.node(name));
    cluster.eventually("nobody serves", || nodes.iter().all(|node| node.status().held == 0)).await;
    let acknowledged = cluster.acknowledged();
    tokio::time::sleep(SHORT).await;
    assert_eq!(cluster.acknowledged(), acknowledged, "a write was acknowledged by nobody's right");
    cluster.cut(&[]);
    cluster.settled().await;
    cluster.finish().await;
}

/// The node that is the controller.
async fn leader(cluster: &Cluster) -> String {
    let holder = cluster.elected(|election| election.kind == Kind::Node && election.holder.is_some()).await.holder;
    holder.unwrap().split('_').next().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_node_and_three_serve_all_shards() {
    for names in [&["a"][..], &THREE] {
        let cluster = started(FOR_EVER, names);
        cluster.settled().await;
        cluster.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shards_move_with_their_data_when_nodes_join_and_leave() {
    let cluster = started(FOR_EVER, &THREE);
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
    // It is no member any more, and is not missed.
    cluster.crash("a").await;
    cluster.served().await;
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_in_turn_is_killed_and_comes_back_with_its_shards() {
    let cluster = started(SHORT, &THREE);
    cluster.settled().await;
    let first = cluster.election().await.epoch;
    for name in THREE {
        cluster.served().await;
        cluster.crash(name).await;
        // Until its session is over, so that whoever led is replaced.
        tokio::time::sleep(SHORT + SHORT).await;
        cluster.start(name, &format!("{name} again"));
        cluster.settled().await;
    }
    assert!(cluster.election().await.epoch > first, "the one that led has died as well");
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_nodes_are_killed_at_once_and_go_on_from_what_is_on_their_volumes() {
    let cluster = started(SHORT, &THREE);
    cluster.settled().await;
    cluster.served().await;
    let before = cluster.map().await;
    for name in THREE {
        cluster.crash(name).await;
    }
    for name in THREE {
        cluster.start(name, name);
    }
    cluster.settled().await;
    let map = cluster.map().await;
    assert_eq!(map.owners, before.owners, "nothing has moved");
    assert_eq!(map.tokens, before.tokens);
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_cut_off_from_the_majority_stops_by_its_deadline_and_nobody_takes_what_only_it_has() {
    let cluster = started(SHORT, &THREE);
    cluster.settled().await;
    cluster.served().await;
    let cut_off = leader(&cluster).await;
    cluster.cut(&[&cut_off]);
    let node = cluster.node(&cut_off);
    cluster.eventually("it has let go", || node.status().held == 0 && !node.status().ready).await;
    let others: Vec<_> = THREE.into_iter().filter(|name| *name != cut_off).map(|name| cluster.node(name)).collect();
    let own = SHARDS as usize / THREE.len();
    cluster
        .eventually("the others serve what they have", || {
            let held: Vec<usize> = others.iter().map(|node| node.status().held).collect();
            assert!(held.iter().all(|held| *held <= own), "{held:?}: one serves what only {cut_off} has");
            held == [own, own]
        })
        .await;
    let map = cluster.map().await;
    assert_eq!(map.shards_of(&id(&cut_off)).count(), own);
    cluster.cut(&[]);
    cluster.settled().await;
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_majority_every_node_stops_by_its_deadline_and_nothing_is_lost() {
    stops_without_a_majority(started(SHORT, &THREE)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_stops_ends_its_session_and_its_next_pod_serves_at_once() {
    let cluster = started(FOR_EVER, &THREE);
    cluster.settled().await;
    cluster.served().await;
    for name in THREE {
        cluster.drain(name).await;
        cluster.start(name, &format!("{name} again"));
        cluster.settled().await;
    }
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_volume_is_reported_and_the_others_go_on() {
    let cluster = started(SHORT, &THREE);
    cluster.settled().await;
    cluster.served().await;
    cluster.crash("a").await;
    std::fs::remove_dir_all(cluster.volume("a")).unwrap();
    cluster.start("a", "a");
    let a = cluster.node("a");
    cluster
        .eventually("it says what is missing", || a.status().problem.is_some_and(|why| why.contains("volume")))
        .await;
    assert_eq!((a.status().held, a.status().ready), (0, false));
    // It counts again: one of the others may die.
    cluster.crash("b").await;
    cluster.start("b", "b");
    let (b, c) = (cluster.node("b"), cluster.node("c"));
    let own = SHARDS as usize / THREE.len();
    cluster.eventually("the others serve", || (b.status().held, c.status().held) == (own, own)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_a_bucket_a_dead_node_s_shards_are_taken_and_tokens_stay_beside_the_data() {
    for namespaces in [false, true] {
        let cluster = with_nodes(Cluster::consensus_over_a_bucket(SHORT, namespaces), &THREE);
        cluster.settled().await;
        cluster.served().await;
        for name in THREE {
            let held: Vec<ShardId> = cluster.map().await.shards_of(&id(name)).collect();
            let before = cluster.shard_lease(held[0]).await.token;
            cluster.crash(name).await;
            cluster.settled().await;
            cluster.served().await;
            assert!(cluster.shard_lease(held[0]).await.token > before);
            cluster.start(name, &format!("{name} again"));
            cluster.settled().await;
        }
        cluster.unwant("c");
        cluster.settled().await;
        cluster.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_a_bucket_without_a_majority_every_node_stops_by_its_deadline() {
    stops_without_a_majority(with_nodes(Cluster::consensus_over_a_bucket(SHORT, false), &THREE)).await;
}
