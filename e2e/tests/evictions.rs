//! A worker is cordoned and its pods are evicted, as `kubectl drain` does it. In a file of its own: no other test's pods may want to
//! be on that worker meanwhile.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, ensure};
use brainy_coordination::{NodeId, ShardId, ShardMap};
use brainy_crds::condition::DISRUPTION_ALLOWED;
use brainy_e2e::brainy::{Cluster, pod_is_ready};
use brainy_e2e::clients::{Clients, print_figures};
use brainy_e2e::hosts::{self, Evicted};
use brainy_e2e::load::{self, Progress, verify};
use brainy_e2e::specs::{self, prepare_bucket, sample};
use brainy_e2e::{Environment, Seen, until, with_temp_namespace};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use tokio::sync::Mutex;

const LIMIT: Duration = Duration::from_secs(180);
const BEGINS: &str = "the worker is cordoned";
const ENDS: &str = "the worker is empty";

/// One worker at a time.
static WORKER: Mutex<()> = Mutex::const_new(());

/// The nodes whose pods are on a host.
async fn nodes_on(cluster: &Cluster, host: &str) -> anyhow::Result<BTreeSet<String>> {
    let on_host = |pod: &k8s_openapi::api::core::v1::Pod| {
        pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) == Some(host)
    };
    Ok(cluster.pods().await?.iter().filter(|pod| on_host(pod)).map(ResourceExt::name_any).collect())
}

fn owners(map: &ShardMap) -> Vec<Option<NodeId>> {
    (0..map.shards()).map(|shard| map.owner(ShardId(shard)).cloned()).collect()
}

async fn may_be_disrupted(cluster: &Cluster) -> anyhow::Result<()> {
    cluster.until_condition(DISRUPTION_ALLOWED, "True", Some("Healthy"), LIMIT).await.map(drop)
}

/// Works with a worker cordoned, which it is not any more afterwards, whatever comes of it.
async fn while_cordoned<F>(environment: &Environment, host: &str, work: F) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<()>>,
{
    hosts::cordon(environment, host, true).await?;
    let outcome = work.await;
    hosts::cordon(environment, host, false).await?;
    outcome
}

/// Shards leave the nodes of the worker as soon as it is cordoned; then its pods are evicted, with no request that fails.
async fn drained_under_load(environment: &Environment, namespace: &str, spec: Value, what: &str) -> anyhow::Result<()> {
    let _alone = WORKER.lock().await;
    let host = hosts::dispensable(environment).await?;
    let clients = Clients::start(environment).await?;
    let cluster = Cluster::apply(environment, namespace, "c", clients.beside("c", spec)).await?;
    cluster.ready().await?;
    may_be_disrupted(&cluster).await?;
    let records = sample("before", 300);
    load::write(&cluster.node(0), &records, &Progress::default(), None).await?;
    let there = nodes_on(&cluster, &host).await?;
    ensure!(!there.is_empty() && there.len() < 3, "all nodes or none of the cluster are on {host}: {there:?}");

    clients.mark(BEGINS).await?;
    while_cordoned(environment, &host, async {
        until(&format!("the shards of {there:?} to be elsewhere"), LIMIT, || async {
            let map = cluster.shard_map().await?;
            let left: usize = there.iter().map(|node| map.shards_of(&NodeId(node.clone())).count()).sum();
            Ok(if left == 0 { Seen::Done(()) } else { Seen::NotYet(format!("{left} shards")) })
        })
        .await?;
        let on_host = nodes_on(&cluster, &host).await?;
        ensure!(on_host == there, "a pod went before it was evicted");
        hosts::evict_all(environment, namespace, &host, LIMIT).await?;
        until("all nodes to be ready on other hosts", LIMIT, || async {
            let (pods, left) = (cluster.pods().await?, nodes_on(&cluster, &host).await?);
            let ready = pods.iter().filter(|pod| pod_is_ready(pod)).count();
            Ok(match ready == 3 && left.is_empty() {
                true => Seen::Done(()),
                false => Seen::NotYet(format!("{ready} ready, {left:?} on {host}")),
            })
        })
        .await
    })
    .await?;
    cluster.ready().await?;
    clients.mark(ENDS).await?;
    clients.are_answered("c", &["c-0".into(), "c-1".into(), "c-2".into()], ENDS).await?;
    verify(&cluster.node(1), &records).await?;
    let report = clients.judge(what).await?;
    let figures = print_figures(&report, "c", what, report.between(BEGINS, ENDS)?)?;
    ensure!(figures.acknowledged > 100, "there was no load: {figures:?}");
    ensure!(figures.failed == 0, "requests failed: {figures:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_worker_fails_no_request_of_a_shared_cluster() -> anyhow::Result<()> {
    let environment = &Environment::from_variables().await?;
    with_temp_namespace(environment, "drain-s", |namespace| async move {
        prepare_bucket(environment, &namespace).await?;
        let spec = specs::shared(3, &namespace);
        drained_under_load(environment, &namespace, spec, "Shared, a worker drained").await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_worker_fails_no_request_of_a_namespaced_cluster_whose_nodes_place_shards() -> anyhow::Result<()> {
    let environment = &Environment::from_variables().await?;
    with_temp_namespace(environment, "drain-n", |namespace| async move {
        prepare_bucket(environment, &namespace).await?;
        let mut spec = specs::namespaced(3, &namespace);
        spec["coordination"]["pattern"] = json!("StorageNative");
        drained_under_load(environment, &namespace, spec, "Namespaced, a worker drained").await
    })
    .await
}

/// How many nodes may be away, by the budget.
async fn most(environment: &Environment, cluster: &Cluster) -> anyhow::Result<i32> {
    let budgets: Api<PodDisruptionBudget> = Api::namespaced(environment.client.clone(), &cluster.namespace);
    match budgets.get(&cluster.name).await?.spec.and_then(|spec| spec.max_unavailable) {
        Some(IntOrString::Int(most)) => Ok(most),
        other => anyhow::bail!("the budget says {other:?}"),
    }
}

/// The volume of an evicted node waits on its machine: no data is copied for that, and until the node is back nobody else goes.
#[tokio::test(flavor = "multi_thread")]
async fn evictions_are_refused_while_shards_are_held_by_nobody_and_an_isolated_cluster_copies_nothing()
-> anyhow::Result<()> {
    let environment = &Environment::from_variables().await?;
    with_temp_namespace(environment, "drain-i", |namespace| async move {
        let _alone = WORKER.lock().await;
        let host = hosts::dispensable(environment).await?;
        let cluster = Cluster::apply(environment, &namespace, "c", specs::isolated(3)).await?;
        cluster.ready().await?;
        may_be_disrupted(&cluster).await?;
        let records = sample("kept", 300);
        load::write(&cluster.node(0), &records, &Progress::default(), None).await?;
        let before = owners(&cluster.shard_map().await?);
        let on_host = nodes_on(&cluster, &host).await?;
        let first = on_host.first().with_context(|| format!("no node of the cluster is on {host}"))?;
        let pods = cluster.pods().await?;
        let other = pods.iter().map(ResourceExt::name_any).find(|pod| !on_host.contains(pod));
        let other = other.with_context(|| format!("all nodes of the cluster are on {host}"))?;

        while_cordoned(environment, &host, async {
            ensure!(hosts::evict(environment, &namespace, first).await? == Evicted::Yes, "{first} may not go");
            cluster.until_condition(DISRUPTION_ALLOWED, "False", None, LIMIT).await?;
            until("the budget to let nobody go", LIMIT, || async {
                let most = most(environment, &cluster).await?;
                Ok(if most == 0 { Seen::Done(()) } else { Seen::NotYet(format!("{most} may go")) })
            })
            .await?;
            let refused = hosts::evict(environment, &namespace, &other).await?;
            ensure!(refused == Evicted::Refused, "{other} was evicted while {first} is away");
            let cluster_now = cluster.api().get("c").await?;
            let conditions = cluster_now.status.unwrap_or_default().conditions;
            let said = conditions.into_iter().find(|condition| condition.type_ == DISRUPTION_ALLOWED);
            let message = said.map(|said| said.message).unwrap_or_default();
            ensure!(message.contains("PodDisruptionBudget c") && message.contains("--disable-eviction"), "{message}");
            Ok(())
        })
        .await?;
        cluster.ready().await?;
        may_be_disrupted(&cluster).await?;
        ensure!(owners(&cluster.shard_map().await?) == before, "shards moved for a machine that came back");
        verify(&cluster.node(1), &records).await?;
        ensure!(hosts::evict(environment, &namespace, &other).await? == Evicted::Yes, "{other} may not go");
        cluster.ready().await.map(drop)
    })
    .await
}
