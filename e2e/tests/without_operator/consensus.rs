//! Pattern Consensus: the nodes keep sessions and map among them. With no operator at all a killed node comes back and every
//! shard is served; nodes join and leave; and nothing of it is in Kubernetes.

use std::time::Duration;

use anyhow::ensure;
use brainy_crds::condition;
use brainy_e2e::brainy::Cluster;
use brainy_e2e::load::{self, Progress, verify, write_until};
use brainy_e2e::records::Records;
use brainy_e2e::specs::{self, sample};
use brainy_e2e::{Environment, Seen, until, views};
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

/// One cluster on volumes, and two over a bucket.
pub(crate) struct Clusters<'a> {
    environment: &'a Environment,
    isolated: Cluster,
    shared: Cluster,
    namespaced: Cluster,
    /// What each of them has.
    before: Records,
}

impl<'a> Clusters<'a> {
    /// Ready, and with data in them.
    pub(crate) async fn start(environment: &'a Environment, namespace: &str) -> anyhow::Result<Self> {
        let apply = async |name: &str, mut spec: Value| {
            spec["coordination"]["pattern"] = json!("Consensus");
            Cluster::apply(environment, namespace, name, spec).await
        };
        let isolated = apply("isolated", specs::isolated(3)).await?;
        let shared = apply("shared", specs::shared(3, &format!("{namespace}/shared"))).await?;
        let namespaced = apply("namespaced", specs::namespaced(3, &format!("{namespace}/namespaced"))).await?;
        let before = sample("before", 1000);
        let this = Self { environment, isolated, shared, namespaced, before };
        for cluster in this.all() {
            cluster.ready().await?;
            load::write(&cluster.node(0), &this.before, &Progress::default(), None).await?;
        }
        views::columns(environment, &this.isolated).await?;
        views::map_is_balanced(&this.isolated).await?;
        nothing_is_in_kubernetes(environment, &this.isolated).await?;
        Ok(this)
    }

    fn all(&self) -> [&Cluster; 3] {
        [&self.isolated, &self.shared, &self.namespaced]
    }

    /// While there is no operator.
    pub(crate) async fn nodes_die(&self) -> anyhow::Result<()> {
        let over_a_bucket = async { futures::try_join!(a_node_dies(&self.shared), a_node_dies(&self.namespaced)) };
        futures::try_join!(every_node_dies(&self.isolated), over_a_bucket).map(|_| ())
    }

    /// With an operator again.
    pub(crate) async fn nodes_and_patterns_change(&self) -> anyhow::Result<()> {
        for cluster in self.all() {
            cluster.ready().await?;
        }
        verify(&self.isolated.node(2), &self.before).await?;
        futures::try_join!(
            self.on_volumes(),
            over_a_bucket(&self.shared, &self.before),
            over_a_bucket(&self.namespaced, &self.before)
        )
        .map(|_| ())
    }

    async fn on_volumes(&self) -> anyhow::Result<()> {
        let cluster = &self.isolated;
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
                views::map_is_balanced(cluster).await?;
                views::columns(self.environment, cluster).await?;
            }
            stop.send(true)?;
            anyhow::Ok(())
        };
        let (mut during, ()) = futures::try_join!(write_until(&node, stopped), changing)?;
        ensure!(during.len() > 100, "the load did not run while nodes came and went");
        verify(&reader, &during).await?;
        verify(&reader, &self.before).await?;

        // The data is found on the volumes, each time by others than those who knew where it was.
        for pattern in ["Leader", "Consensus"] {
            until_pattern(cluster, pattern).await?;
            verify(&cluster.node(1), &during).await?;
            verify(&cluster.node(0), &self.before).await?;
            let more = sample(&format!("by {pattern}"), 300);
            load::write(&cluster.node(0), &more, &Progress::default(), None).await?;
            during.extend(more);
        }
        views::map_is_balanced(cluster).await
    }
}
