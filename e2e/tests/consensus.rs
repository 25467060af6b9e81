//! Pattern Consensus: the nodes keep sessions and map among them. With no operator at all a killed node comes back and every
//! shard is served; nodes join and leave; and nothing of it is in Kubernetes. In a file of its own: without an operator every
//! other test would fail.

use std::time::Duration;

use anyhow::{Context, ensure};
use brainy_e2e::brainy::Cluster;
use brainy_e2e::load::{self, Progress, verify, write_until};
use brainy_e2e::specs::{self, sample};
use brainy_e2e::{Environment, Seen, operator, until, views, with_temp_namespace};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::rbac::v1::Role;
use kube::api::{DeleteParams, ListParams};
use kube::{Api, ResourceExt};
use serde_json::json;
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
        cluster.ready().await?;
        views::columns(environment, &cluster).await?;
        views::map_is_balanced(&cluster).await?;
        nothing_is_in_kubernetes(environment, &cluster).await?;
        let before = sample("before", 1000);
        load::write(&cluster.node(0), &before, &Progress::default(), None).await?;

        operator::without(environment, every_node_dies(&cluster)).await?;
        cluster.ready().await?;
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
        let (during, ()) = futures::try_join!(write_until(&node, stopped), changing)?;
        ensure!(during.len() > 100, "the load did not run while nodes came and went");
        verify(&reader, &during).await?;
        verify(&reader, &before).await?;

        // Who keeps sessions and map can't be changed under a living cluster.
        let refused = cluster.change(json!({"coordination": {"pattern": "Leader"}})).await.err();
        let refused = format!("{:#}", refused.context("the pattern was changed")?);
        ensure!(refused.contains("from or to Consensus"), "{refused}");
        Ok(())
    })
    .await
}
