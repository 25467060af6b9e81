//! Clusters in one of two regions.

use std::time::Duration;

use super::cluster::{Cluster, SHARDS};

const FOR_EVER: Duration = Duration::from_secs(3600);

/// Shards move and nodes die while the other region is away; then it is back, and decides. Each client checks that what is
/// decided comes after all that was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_region_lacks_is_brought_there_by_whoever_owns_the_shard_then() {
    let cluster = Cluster::shared(FOR_EVER).in_regions();
    for name in ["a", "b", "c"] {
        cluster.start(name, name);
    }
    cluster.settled().await;
    cluster.served().await;
    cluster.far().set_away(true);
    cluster.served().await;
    cluster.unwant("a");
    cluster.settled().await;
    cluster.served().await;
    cluster.crash("b").await;
    cluster.start("b", "b");
    cluster.settled().await;
    cluster.served().await;
    let lag = |name: &str| {
        let state = cluster.node(name).regions_state().unwrap();
        state.lag.into_iter().find(|lag| lag.region == "us").unwrap()
    };
    cluster
        .eventually("all that the other region does not have is known", || {
            ["b", "c"].iter().all(|name| lag(name).complete && lag(name).keys == u64::from(SHARDS) / 2)
        })
        .await;
    assert!(lag("b").problem.is_some());
    let session = cluster.session("b").await.regions.unwrap();
    assert_eq!((session.own.as_str(), session.lag.len()), ("eu", 1), "the operator is told");

    cluster.far().set_away(false);
    let records = || cluster.far().names().iter().filter(|name| name.ends_with("/d/kv/counter")).count();
    cluster.eventually("the other region has a record of each shard", || records() == SHARDS as usize).await;
    for name in ["b", "c"] {
        cluster.node(name).regions().unwrap().0.move_home("us");
    }
    let homes = |name: &str| cluster.node(name).regions_state().unwrap().homes.get("us").copied();
    cluster
        .eventually("the other region decides", || {
            ["b", "c"].iter().all(|name| homes(name) == Some(u64::from(SHARDS) / 2))
        })
        .await;
    cluster.served().await;
    cluster.unwant("c");
    cluster.settled().await;
    cluster.finish().await;
}
