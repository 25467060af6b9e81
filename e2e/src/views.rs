//! What people see: the operator's state, the columns of `kubectl get brainyclusters`, the shard map and the documents in
//! the bucket. Each check fails with what it saw.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, ensure};
use brainy_coordination::topology::Topology;
use brainy_coordination::{ShardMap, names as documents};
use brainy_crds::condition;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::ListParams;
use serde_json::Value;

use crate::brainy::Cluster;
use crate::bucket::Store;
use crate::environment::{BUCKET, OPERATOR_NAMESPACE};
use crate::kill::restarts;
use crate::{Environment, Seen, until};

/// Selects the operator's objects.
pub(crate) const OPERATOR: &str = "app.kubernetes.io/name=brainy-operator";
const SOON: Duration = Duration::from_secs(120);

/// Waits for two ready operator replicas and a leader; returns the leader's pod.
pub async fn operator(environment: &Environment) -> anyhow::Result<String> {
    let deployments: Api<Deployment> = Api::namespaced(environment.client.clone(), OPERATOR_NAMESPACE);
    let wanted = ListParams::default().labels(OPERATOR);
    until("two ready operator replicas", SOON, || async {
        let found = deployments.list(&wanted).await?.items;
        let ready = found.iter().filter_map(|d| d.status.as_ref()?.ready_replicas).max().unwrap_or(0);
        Ok(if ready >= 2 { Seen::Done(()) } else { Seen::NotYet(format!("{ready} ready")) })
    })
    .await?;
    until("an operator to lead", SOON, || async {
        let Some(leader) = leader(environment).await? else {
            return Ok(Seen::NotYet("no Lease has a holder".into()));
        };
        let pods: Api<Pod> = Api::namespaced(environment.client.clone(), OPERATOR_NAMESPACE);
        let is_there = pods.get_opt(&leader).await?.is_some();
        Ok(if is_there { Seen::Done(leader) } else { Seen::NotYet(format!("the holder {leader} is gone")) })
    })
    .await
}

/// The operator pod that holds the Lease.
pub async fn leader(environment: &Environment) -> anyhow::Result<Option<String>> {
    let leases: Api<Lease> = Api::namespaced(environment.client.clone(), OPERATOR_NAMESPACE);
    let held = leases.list(&ListParams::default()).await?;
    let holder =
        held.items.into_iter().find_map(|lease| lease.spec?.holder_identity).filter(|holder| !holder.is_empty());
    // The identity is the pod's name, and what tells one life of it from the next.
    Ok(holder.map(|holder| holder.split(['_', '/']).next().unwrap_or_default().to_owned()))
}

/// How often the operator's containers have been restarted so far.
pub async fn operator_restarts(environment: &Environment) -> anyhow::Result<i32> {
    let pods: Api<Pod> = Api::namespaced(environment.client.clone(), OPERATOR_NAMESPACE);
    let pods = pods.list(&ListParams::default().labels(OPERATOR)).await?;
    Ok(pods.items.iter().flat_map(restarts).sum())
}

/// How long the cluster took from its creation until it was Ready, in whole seconds.
pub async fn time_to_ready(cluster: &Cluster) -> anyhow::Result<Duration> {
    let resource = cluster.api().get(&cluster.name).await?;
    let created = resource.metadata.creation_timestamp.context("no creation time")?.0;
    let status = resource.status.unwrap_or_default();
    let ready = status.conditions.iter().find(|c| c.type_ == condition::READY).context("no Ready condition")?;
    let seconds = (ready.last_transition_time.0.as_second() - created.as_second()).max(0);
    Ok(Duration::from_secs(seconds.unsigned_abs()))
}

/// `kubectl get brainyclusters` shows nodes, shards, strategy, pattern and age.
pub async fn columns(environment: &Environment, cluster: &Cluster) -> anyhow::Result<()> {
    let path = format!("/apis/brainy.io/v1alpha1/namespaces/{}/brainyclusters/{}", cluster.namespace, cluster.name);
    let request =
        hyper::Request::get(path).header("accept", "application/json;as=Table;v=v1;g=meta.k8s.io").body(Vec::new())?;
    let table: Value = environment.client.request(request).await?;
    let names =
        table["columnDefinitions"].as_array().into_iter().flatten().filter_map(|column| column["name"].as_str());
    let cells = table["rows"][0]["cells"].as_array().into_iter().flatten();
    let shown: BTreeMap<&str, String> =
        names.zip(cells).map(|(name, cell)| (name, cell.as_str().unwrap_or_default().to_owned())).collect();
    let resource = cluster.api().get(&cluster.name).await?;
    let (replicas, shards) = (resource.spec.replicas, resource.spec.shards);
    let expected = [
        ("Name", cluster.name.clone()),
        ("Nodes", format!("{replicas}/{replicas}")),
        ("Shards", format!("{shards}/{shards}")),
        ("Strategy", format!("{:?}", resource.spec.storage.strategy)),
        ("Pattern", format!("{:?}", resource.spec.coordination.pattern)),
    ];
    for (name, value) in expected {
        ensure!(shown.get(name) == Some(&value), "column {name} should show {value}: {shown:?}");
    }
    ensure!(shown.get("Age").is_some_and(|age| !age.is_empty()), "column Age is empty: {shown:?}");
    let cell = |name: &str| shown.get(name).cloned().unwrap_or_default();
    println!(
        "  {}: nodes {}, shards {}, {} + {}",
        cluster.name,
        cell("Nodes"),
        cell("Shards"),
        cell("Strategy"),
        cell("Pattern")
    );
    Ok(())
}

/// Every shard has an owner, and no node has more than one shard more than another.
pub async fn map_is_balanced(cluster: &Cluster) -> anyhow::Result<()> {
    let map = cluster.shard_map().await?;
    let resource = cluster.api().get(&cluster.name).await?;
    let mut counts: BTreeMap<u32, usize> = BTreeMap::new();
    for owner in &map.owners {
        *counts
            .entry(owner.with_context(|| format!("a shard has no owner in revision {}", map.revision))?)
            .or_default() += 1;
    }
    let (least, most) = (counts.values().min().copied().unwrap_or(0), counts.values().max().copied().unwrap_or(0));
    ensure!(i32::try_from(map.owners.len())? == resource.spec.shards, "the map has {} shards", map.owners.len());
    ensure!(i32::try_from(counts.len())? == resource.spec.replicas && most - least <= 1, "not balanced: {counts:?}");
    println!(
        "  {}: ConfigMap {}-shard-map revision {}, {least} to {most} shards a node",
        cluster.name, cluster.name, map.revision
    );
    Ok(())
}

/// The shard map and the topology in the bucket say what the ConfigMap says.
pub async fn bucket_agrees(cluster: &Cluster, store: &Store) -> anyhow::Result<()> {
    let resource = cluster.api().get(&cluster.name).await?;
    let bucket = resource.spec.storage.bucket.context("the cluster has no bucket")?;
    let prefix = bucket.prefix.map(|prefix| format!("{prefix}/")).unwrap_or_default();
    ensure!(bucket.name == BUCKET, "the example uses the bucket {}", bucket.name);
    let (map_key, topology_key) =
        (format!("{prefix}{}", documents::SHARD_MAP), format!("{prefix}{}", documents::TOPOLOGY));
    until("the ConfigMap, shard-map.json and topology.json to agree", SOON, || async {
        let published = cluster.shard_map().await?;
        let in_bucket: ShardMap = serde_json::from_value(store.json(BUCKET, &map_key).await?)?;
        let topology: Topology = serde_json::from_value(store.json(BUCKET, &topology_key).await?)?;
        let owners: BTreeSet<_> =
            published.owners.iter().flatten().filter_map(|i| published.nodes.get(*i as usize)).collect();
        let ready: BTreeSet<_> = topology.nodes.iter().filter(|node| node.ready).map(|node| &node.id).collect();
        Ok(if published != in_bucket {
            Seen::NotYet(format!(
                "revision {} is published, {} lies in the bucket",
                published.revision, in_bucket.revision
            ))
        } else if (&topology.cluster, topology.map_revision) != (&published.cluster, published.revision)
            || ready != owners
        {
            Seen::NotYet(format!(
                "topology.json speaks of map revision {} and the nodes {ready:?}",
                topology.map_revision
            ))
        } else {
            Seen::Done(())
        })
    })
    .await?;
    println!("  {}: ConfigMap, {map_key} and {topology_key} agree", cluster.name);
    Ok(())
}
