//! Pattern Consensus: the nodes keep sessions and map among them. With no operator at all a killed node comes back and every
//! shard is served; nodes join and leave; and nothing of it is in Kubernetes. In a file of its own: without an operator every
//! other test would fail.

use std::time::Duration;

use anyhow::ensure;
use brainy_crds::condition;
use brainy_e2e::brainy::Cluster;
use brainy_e2e::load::{self, Progress, verify, write_until};
use brainy_e2e::records::Records;
use brainy_e2e::specs::{self, prepare_bucket, sample};
use brainy_e2e::{Environment, Seen, operator, until, views, with_temp_namespace};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::rbac::v1::Role;
use kube::api::{DeleteParams, ListParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use tokio::sync::watch;

const LIMIT: Duration = Duration::from_secs(180);

/// The nodes have no right in Kubernetes, and no object there is one's session.
async fn nothing_is_in_kubernetes(environment: &Environment, cluster: &Cluster) -> anyhow::Result<()> {
    let roles: Api<Role> = Api::namespaced(environment.client.clone(), &cluster.namespace);
    let role = roles.get(&format!("{}-node", cluster.name)).await?;
    ensure!(role.rules.as_ref().is_none_or(Vec::is_empty), "{:?}", role.rules);
    let leases: Api<Lease> = Api::namespaced(environment.client.clone(), &cluster.namespace);
    let leases = leases.list(&ListParams::default()).await?.items;
    ensure!(leases.is_empty(), "{leases:?}");
    Ok(())
}

/// Changes the pattern: all nodes stop, and start again.
async fn until_pattern(cluster: &Cluster, pattern: &str) -> anyhow::Result<()> {
    let uids = async || anyhow::Ok(cluster.pods().await?.iter().map(ResourceExt::uid).collect::<Vec<_>>());
    let before = uids().await?;
    cluster.change(json!({"coordination": {"pattern": pattern}})).await?;
    cluster.until_condition(condition::PROGRESSING, "True", Some("ChangingPattern"), LIMIT).await?;
    cluster.ready().await?;
    let after = uids().await?;
    ensure!(after.iter().all(|uid| !before.contains(uid)), "a pod went on through the change to {pattern}");
    Ok(())
}

/// Over a bucket: a killed node's shards are taken by others, with no operator there.
async fn a_node_dies(cluster: &Cluster) -> anyhow::Result<()> {
    cluster.pods_api().delete(&format!("{}-1", cluster.name), &DeleteParams::default().grace_period(0)).await?;
    let during = sample("without one", 300);
    load::write(&cluster.node(0), &during, &Progress::default(), None).await?;
    verify(&cluster.node(2), &during).await
}

/// Over a bucket: the pattern is changed there and back.
async fn over_a_bucket(cluster: &Cluster, before: &Records) -> anyhow::Result<()> {
    for pattern in ["StorageNative", "Consensus", "Leader"] {
        until_pattern(cluster, pattern).await?;
        verify(&cluster.node(0), before).await?;
        let more = sample(&format!("by {pattern}"), 300);
        load::write(&cluster.node(1), &more, &Progress::default(), None).await?;
        verify(&cluster.node(2), &more).await?;
    }
    Ok(())
}

/// Kills each node in turn, with no operator there. Its shards are on its volume: they are served again once it is back, and
/// the others' all the time.
async fn every_node_dies(cluster: &Cluster) -> anyhow::Result<()> {
    for ordinal in 0..3 {
        let pod = format!("{}-{ordinal}", cluster.name);
        let uid = cluster.pods_api().get(&pod).await?.uid();
        // With no time to say anything to anybody. The StatefulSet brings another pod in its place.
        cluster.pods_api().delete(&pod, &DeleteParams::default().grace_period(0)).await?;
        until(&format!("another pod {pod}"), LIMIT, || async {
            let found = cluster.pods_api().get_opt(&pod).await?;
            Ok(match found.filter(|found| found.uid() != uid && brainy_e2e::brainy::pod_is_ready(found)) {
                Some(_) => Seen::Done(()),
                None => Seen::NotYet("it is not ready".into()),
            })
        })
        .await?;
        let during = sample(&format!("without {ordinal}"), 300);
        let survivor = cluster.node((ordinal + 1) % 3);
        load::write(&survivor, &during, &Progress::default(), None).await?;
        verify(&cluster.node(ordinal), &during).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_keep_the_map_among_them_serve_on_without_an_operator_and_join_and_leave_under_load() -> anyhow::Result<()>
{
    let environment = &Environment::from_variables().await?;
    with_temp_namespace(environment, "consensus", |namespace| async move {
        let mut spec = specs::isolated(3);
        spec["coordination"]["pattern"] = json!("Consensus");
        let cluster = Cluster::apply(environment, &namespace, "c", spec).await?;
        prepare_bucket(environment, &namespace).await?;
        let over = async |name: &str, spec: fn(i32, &str) -> Value| {
            let mut spec = spec(3, &format!("{namespace}/{name}"));
            spec["coordination"]["pattern"] = json!("Consensus");
            Cluster::apply(environment, &namespace, name, spec).await
        };
        let shared = over("shared", specs::shared).await?;
        let namespaced = over("namespaced", specs::namespaced).await?;
        for cluster in [&cluster, &shared, &namespaced] {
            cluster.ready().await?;
        }
        views::columns(environment, &cluster).await?;
        views::map_is_balanced(&cluster).await?;
        nothing_is_in_kubernetes(environment, &cluster).await?;
        let before = sample("before", 1000);
        load::write(&cluster.node(0), &before, &Progress::default(), None).await?;
        for bucket in [&shared, &namespaced] {
            load::write(&bucket.node(0), &before, &Progress::default(), None).await?;
        }

        let dying = async {
            futures::try_join!(every_node_dies(&cluster), a_node_dies(&shared), a_node_dies(&namespaced)).map(|_| ())
        };
        operator::without(environment, dying).await?;
        for cluster in [&cluster, &shared, &namespaced] {
            cluster.ready().await?;
        }
        verify(&cluster.node(2), &before).await?;

        let (stop, stopped) = watch::channel(false);
        let (node, reader) = (cluster.node(0), cluster.node(1));
        let changing = async {
            for replicas in [5, 2] {
                cluster.change(json!({"replicas": replicas})).await?;
                cluster.ready().await?;
                until(&format!("{replicas} pods"), LIMIT, || async {
                    let pods = cluster.pods().await?.len();
                    Ok(if pods == replicas { Seen::Done(()) } else { Seen::NotYet(format!("{pods} pods")) })
                })
                .await?;
                views::map_is_balanced(&cluster).await?;
                views::columns(environment, &cluster).await?;
            }
            stop.send(true)?;
            anyhow::Ok(())
        };
        let (mut during, (), (), ()) = futures::try_join!(
            write_until(&node, stopped),
            changing,
            over_a_bucket(&shared, &before),
            over_a_bucket(&namespaced, &before)
        )?;
        ensure!(during.len() > 100, "the load did not run while nodes came and went");
        verify(&reader, &during).await?;
        verify(&reader, &before).await?;

        // The data is found on the volumes, each time by others than those who knew where it was.
        for pattern in ["Leader", "Consensus"] {
            until_pattern(&cluster, pattern).await?;
            verify(&cluster.node(1), &during).await?;
            verify(&cluster.node(0), &before).await?;
            let more = sample(&format!("by {pattern}"), 300);
            load::write(&cluster.node(0), &more, &Progress::default(), None).await?;
            during.extend(more);
        }
        views::map_is_balanced(&cluster).await
    })
    .await
}
