//! Pattern StorageNative: with no operator at all a dead node's shards are served again; and the pattern is changed there and
//! back under load. In a file of its own: without an operator every other test would fail.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, ensure};
use brainy_coordination::bucket::election::{Election, Kind};
use brainy_coordination::{ShardMap, names};
use brainy_e2e::brainy::Cluster;
use brainy_e2e::bucket::Store;
use brainy_e2e::environment::BUCKET;
use brainy_e2e::load::{self, Progress, verify, write_until};
use brainy_e2e::specs::{self, prepare_bucket, sample};
use brainy_e2e::{Environment, Seen, operator, until, views, with_temp_namespace};
use kube::ResourceExt;
use kube::api::DeleteParams;
use serde_json::json;
use tokio::sync::watch;

const LIMIT: Duration = Duration::from_secs(120);

async fn election(store: &Store, prefix: &str) -> anyhow::Result<Election> {
    let key = format!("{prefix}/{}", names::CONTROLLER_ELECTION);
    Ok(serde_json::from_value(store.json(BUCKET, &key).await?)?)
}

/// Waits until a controller of a kind has an epoch above `above`.
async fn until_controlled(store: &Store, prefix: &str, kind: Kind, above: u64) -> anyhow::Result<Election> {
    until(&format!("a controller of kind {kind:?} after epoch {above}"), LIMIT, || async {
        let found = election(store, prefix).await?;
        let is = found.kind == kind && found.holder.is_some() && found.epoch.0 > above;
        Ok(if is { Seen::Done(found) } else { Seen::NotYet(format!("{found:?}")) })
    })
    .await
}

/// Which pods there are: a change of pattern replaces none.
async fn uids(cluster: &Cluster) -> anyhow::Result<BTreeMap<String, Option<String>>> {
    Ok(cluster.pods().await?.iter().map(|pod| (pod.name_any(), pod.uid())).collect())
}

/// Kills the node that leads, with no operator there, and sees that all shards are served, and that it gets its share back.
async fn the_leader_dies(cluster: &Cluster, store: &Store, prefix: &str) -> anyhow::Result<()> {
    let before = election(store, prefix).await?;
    let holder = before.holder.context("no node leads")?;
    let leader = holder.split('_').next().unwrap_or_default().to_owned();
    let ordinal: i32 = leader.rsplit('-').next().unwrap_or_default().parse()?;
    let survivor = cluster.node((ordinal + 1) % 3);
    let uid = cluster.pods_api().get(&leader).await?.uid();
    // With no time to say anything to anybody. The StatefulSet brings another pod in its place.
    cluster.pods_api().delete(&leader, &DeleteParams::default().grace_period(0)).await?;

    let during = sample("during", 500);
    load::write(&survivor, &during, &Progress::default(), None).await?;
    let after = until_controlled(store, prefix, Kind::Node, before.epoch.0).await?;
    ensure!(after.holder.as_ref() != Some(&holder), "{after:?}");
    until("the new pod to have its share", LIMIT, || async {
        let pod = cluster.pods_api().get(&leader).await?;
        let map: ShardMap =
            serde_json::from_value(store.json(BUCKET, &format!("{prefix}/{}", names::SHARD_MAP)).await?)?;
        let shards = map.shards_of(&brainy_coordination::NodeId(leader.clone())).count();
        Ok(if pod.uid() != uid && shards >= 10 {
            Seen::Done(())
        } else {
            Seen::NotYet(format!("{leader} has {shards} shards of revision {}", map.revision))
        })
    })
    .await?;
    verify(&survivor, &during).await
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_elect_their_controller_serve_on_without_an_operator_and_change_their_pattern_under_load()
-> anyhow::Result<()> {
    let environment = &Environment::from_variables().await?;
    with_temp_namespace(environment, "native", |namespace| async move {
        let store = prepare_bucket(environment, &namespace).await?;
        let mut spec = specs::shared(3, &namespace);
        spec["coordination"]["pattern"] = json!("StorageNative");
        // Shards come and go between living nodes: a cache or a queue that outlived its tenure would show.
        spec["storage"]["layers"] = json!([{"type": "Caching"}, {"type": "Batching"}, {"type": "Compression"}]);
        let cluster = Cluster::apply(environment, &namespace, "c", spec).await?;
        cluster.ready().await?;
        views::columns(environment, &cluster).await?;
        views::bucket_agrees(&cluster, &store).await?;
        let before = sample("before", 1000);
        load::write(&cluster.node(0), &before, &Progress::default(), None).await?;

        operator::without(environment, the_leader_dies(&cluster, &store, &namespace)).await?;
        cluster.ready().await?;
        views::map_is_balanced(&cluster).await?;

        let pods = uids(&cluster).await?;
        let (stop, stopped) = watch::channel(false);
        let (node, reader) = (cluster.node(0), cluster.node(1));
        let changing = async {
            for (pattern, kind) in [("Leader", Kind::Operator), ("StorageNative", Kind::Node)] {
                let epoch = election(&store, &namespace).await?.epoch;
                cluster.change(json!({"coordination": {"pattern": pattern}})).await?;
                until_controlled(&store, &namespace, kind, epoch.0).await?;
                cluster.ready().await?;
                views::columns(environment, &cluster).await?;
            }
            stop.send(true)?;
            anyhow::Ok(())
        };
        let (during, ()) = futures::try_join!(write_until(&node, stopped), changing)?;
        ensure!(during.len() > 20, "the load did not run while the pattern was changed");
        ensure!(uids(&cluster).await? == pods, "a change of pattern replaced a pod");
        verify(&reader, &during).await?;
        verify(&reader, &before).await?;
        // Who leads now decides: a node more gets its share.
        cluster.change(json!({"replicas": 4})).await?;
        cluster.ready().await?;
        views::map_is_balanced(&cluster).await?;
        verify(&cluster.node(3), &during).await
    })
    .await
}
