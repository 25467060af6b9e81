use std::time::Duration;

use brainy_coordination::origins::Origin;
use brainy_coordination::{FencingToken, ShardId, names};
use brainy_storage::backends::objects::{Bucket, When};
use bytes::Bytes;

use super::cluster::{Cluster, SHARDS, id};

/// Far longer than a test: what waits for a session to lapse never comes.
const FOR_EVER: Duration = Duration::from_secs(3600);
const SHORT: Duration = Duration::from_secs(2);
const AT_ONCE: Duration = Duration::from_millis(20);

/// Waits until each shard's data is in the folder of its owner's tenure, and nowhere else.
async fn tidy(cluster: &Cluster) {
    for shard in (0..SHARDS).map(ShardId) {
        loop {
            let lease = cluster.shard_lease(shard).await;
            let own = names::tenure_data(&lease.owner.clone().unwrap(), shard, lease.token);
            let names = cluster.objects().names();
            let of_shard = |name: &&String| name.contains(&format!("/shards/{shard}/"));
            let elsewhere = names.iter().filter(of_shard).any(|name| !name.starts_with(&own));
            if lease.origins.is_empty() && lease.surplus.is_empty() {
                assert!(!elsewhere, "{lease:?} {names:?}");
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_join_and_leave_and_all_data_follows_the_owners() {
    let cluster = Cluster::namespaced(FOR_EVER, AT_ONCE);
    for name in ["a", "b", "c"] {
        cluster.start(name, name);
    }
    cluster.settled().await;
    cluster.served().await;
    cluster.start("d", "d");
    cluster.settled().await;
    cluster.served().await;
    // Gone for good: others clear its namespace away.
    cluster.unwant("a");
    cluster.settled().await;
    cluster.crash("a").await;
    cluster.served().await;
    tidy(&cluster).await;
    assert!(!cluster.objects().names().iter().any(|name| name.starts_with("node-a/")));
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shard_that_comes_back_does_not_meet_its_own_old_data() {
    let cluster = Cluster::namespaced(SHORT, AT_ONCE);
    for name in ["a", "b"] {
        cluster.start(name, name).lose_one_in.store(4, std::sync::atomic::Ordering::SeqCst);
    }
    cluster.settled().await;
    for _ in 0..3 {
        cluster.served().await;
        cluster.unwant("a");
        cluster.settled().await;
        cluster.want("a");
        cluster.settled().await;
    }
    tidy(&cluster).await;
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_node_s_shards_are_read_through_to_what_it_wrote() {
    let cluster = Cluster::namespaced(SHORT, AT_ONCE);
    for name in ["a", "b", "c"] {
        cluster.start(name, name);
    }
    cluster.settled().await;
    cluster.served().await;
    cluster.crash("a").await;
    cluster.settled().await;
    cluster.start("a", "a");
    cluster.settled().await;
    tidy(&cluster).await;
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_view_of_a_shard_shows_what_is_copied_and_not_cleared_away_for_good() {
    let cluster = Cluster::namespaced(FOR_EVER, FOR_EVER);
    cluster.start("a", "a");
    cluster.settled().await;
    cluster.served().await;
    assert_eq!(cluster.node("a").describe(ShardId(0)).copied, None, "there is nothing before");
    cluster.start("b", "b");
    cluster.settled().await;
    let (a, b) = (cluster.node("a"), cluster.node("b"));
    let moved = (0..SHARDS).map(ShardId).find(|shard| b.describe(*shard).owner == Some(id("b"))).unwrap();
    let before = [Origin { node: id("a"), token: FencingToken(1) }];
    cluster.eventually("it is copied", || b.describe(moved).surplus == before).await;
    let view = b.describe(moved);
    assert!(view.origins.is_empty() && view.copied >= Some(1), "{view:?}");
    assert_eq!((a.describe(moved).copied, a.describe(moved).surplus), (None, Vec::new()), "it is not served there");
    cluster.eventually("all others are copied", || b.status().origins == 0).await;
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shard_whose_lease_is_lost_is_not_taken_for_a_new_one() {
    let cluster = Cluster::namespaced(FOR_EVER, AT_ONCE);
    let lost = ShardId(3);
    for name in ["node-b/shards/001/7/kv/k", "node-c/shards/003/7/kv/k", "node-c-d/shards/001/7/kv/k"] {
        let written = cluster.objects().put(name, Bytes::from_static(b"data"), &When::Absent).await.unwrap();
        assert!(matches!(written, brainy_storage::backends::objects::Written::Applied(_)));
    }
    cluster.start("a", "a");
    let a = cluster.node("a");
    cluster.eventually("all others are served", || a.status().held == SHARDS as usize - 2).await;
    cluster.eventually("it says why", || a.describe(lost).why.is_some_and(|why| why.contains("003/7"))).await;
    let problem = a.status().problem.unwrap();
    assert!(!a.status().ready && problem.contains("restore it"), "{problem}");
}
