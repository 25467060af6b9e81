//! Listings over the shards of several nodes.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use brainy_coordination::ShardId;
use brainy_sidecar::routing::{Call, Listing, Reply};
use brainy_storage::{Condition, Error, Key, Value};

use crate::support::cluster::Cluster;
use crate::support::faulty::Fault;

async fn fill(cluster: &Cluster, count: usize) -> Vec<String> {
    let mut keys: Vec<String> = (0..count).map(|number| format!("k{number}")).collect();
    let call = |text: &String| {
        let (key, value) = (Key::new(text.clone()).unwrap(), Value::Json(1.into()));
        Call::Put { key, value, condition: Condition::Any }
    };
    let replies = cluster.nodes[0].router.run(None, keys.iter().map(call).collect()).await;
    assert!(replies.iter().all(|reply| matches!(reply, Reply::Written(_))));
    keys.sort();
    keys
}

fn listing(after: Option<Key>, limit: usize) -> Listing {
    Listing { namespace: None, prefix: String::new(), after, limit }
}

#[tokio::test]
async fn keys_of_all_nodes_come_in_order_through_any_node() {
    let cluster = Cluster::of(3).await;
    let expected = fill(&cluster, 250).await;
    for node in &cluster.nodes {
        let mut listed = Vec::new();
        let mut after = None;
        loop {
            let page = node.router.list(&listing(after, 40)).await.unwrap();
            assert!(page.keys.len() <= 40);
            listed.extend(page.keys.iter().map(ToString::to_string));
            after = page.keys.last().cloned();
            if !page.more {
                break;
            }
        }
        assert_eq!(listed, expected);
    }
}

#[tokio::test]
async fn a_listing_waits_for_a_shard_that_has_no_server() {
    let cluster = Cluster::of(2).await;
    let expected = fill(&cluster, 50).await;
    cluster.layout.give(ShardId(1), None);
    let router = Arc::clone(&cluster.nodes[0].router);
    let waiting = tokio::spawn(async move { router.list(&listing(None, 100)).await });
    tokio::task::yield_now().await;
    cluster.layout.give(ShardId(1), Some(1));
    let page = waiting.await.unwrap().unwrap();
    assert_eq!(page.keys.iter().map(ToString::to_string).collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn a_listing_is_whole_or_fails() {
    let cluster = Cluster::of(2).await;
    fill(&cluster, 50).await;
    let everything = listing(None, 100);
    let list = || cluster.nodes[0].router.list(&everything);

    cluster.layout.give(ShardId(1), None);
    assert!(matches!(list().await, Err(Reply::NoServer(_))));
    cluster.layout.give(ShardId(1), Some(1));

    cluster.nodes[1].view.loses_leases.store(true, Ordering::SeqCst);
    assert!(matches!(list().await, Err(Reply::NoServer(_))));
    cluster.nodes[1].view.loses_leases.store(false, Ordering::SeqCst);

    let error = Error::unavailable("AccessDenied", "no");
    cluster.nodes[1].stores.set_fault(Fault::Failing(error.clone()));
    assert_eq!(list().await, Err(Reply::Failed(error)));
    cluster.nodes[1].stores.set_fault(Fault::None);

    cluster.layout.set_address(1, "127.0.0.1:1");
    assert!(matches!(list().await, Err(Reply::NoServer(_))));
    cluster.layout.set_address(1, &cluster.nodes[1].address);
    assert_eq!(list().await.unwrap().keys.len(), 50);
}
