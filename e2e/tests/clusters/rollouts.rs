//! Changes that wait, clusters that are not to be changed, pods that are resized, clusters of no nodes.

use std::time::Duration;

use anyhow::{Context, ensure};
use brainy_coordination::{ShardId, ShardMap};
use brainy_crds::condition::{CHANGES_APPROVED, HIBERNATED, PROGRESSING};
use brainy_e2e::brainy::Cluster;
use brainy_e2e::load::{self, Progress, verify};
use brainy_e2e::records::Records;
use brainy_e2e::sidecar::SidecarClient;
use brainy_e2e::specs::{self, prepare_bucket, sample};
use brainy_e2e::{Environment, Seen, until, with_temp_namespace};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(60);
/// For every pod to be replaced.
const REPLACED: Duration = Duration::from_secs(240);

async fn write(node: &SidecarClient, records: &Records) -> anyhow::Result<()> {
    load::write(node, records, &Progress::default(), None).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_cluster_serves_and_is_not_changed() -> anyhow::Result<()> {
    let environment = &Environment::from_variables().await?;
    with_temp_namespace(environment, "paused", |namespace| async move {
        let cluster = Cluster::apply(environment, &namespace, "c", specs::isolated(2)).await?;
        cluster.ready().await?;
        let records = sample("paused", 300);
        write(&cluster.node(0), &records).await?;
        let before = cluster.pod_uids().await?;
        let wish = json!({"paused": true, "replicas": 3, "pod": {"annotations": {"example.org/change": "1"}}});
        cluster.change(wish).await?;
        cluster.until_condition(PROGRESSING, "False", Some("Paused"), SOON).await?;
        // A pod that dies is replaced by its StatefulSet, takes back its shards, and still nothing else happens.
        let pod = cluster.pods().await?.pop().context("no pod")?;
        cluster.pods_api().delete(&pod.name_any(), &kube::api::DeleteParams::default()).await?;
        until("the deleted pod to be back", SOON * 2, || async {
            let now = cluster.pods().await?;
            let ready = now.iter().filter(|pod| brainy_e2e::brainy::pod_is_ready(pod)).count();
            let new = now.iter().filter_map(ResourceExt::uid).any(|uid| !before.contains(&uid));
            Ok(if new && ready == 2 { Seen::Done(()) } else { Seen::NotYet(format!("{ready} ready")) })
        })
        .await?;
        verify(&cluster.node(1), &records).await?;
        ensure!(cluster.pods().await?.len() == 2, "a paused cluster grew");
        let now = cluster.pod_uids().await?;
        ensure!(now.intersection(&before).count() == 1, "a pod was replaced while the cluster was paused");

        cluster.change(json!({"paused": false})).await?;
        cluster.until_replaced(&now, 3, REPLACED).await?;
        cluster.ready().await?;
        verify(&cluster.node(2), &records).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn with_manual_a_change_waits_for_its_plan_and_a_plan_that_drifted_is_refused() -> anyhow::Result<()> {
    let environment = &Environment::from_variables().await?;
    with_temp_namespace(environment, "plans", |namespace| async move {
        let mut spec = specs::isolated(2);
        spec["rollout"] = json!({"approval": "Manual"});
        let cluster = Cluster::apply(environment, &namespace, "c", spec).await?;
        cluster.ready().await?;
        let records = sample("planned", 300);
        write(&cluster.node(0), &records).await?;
        let before = cluster.pod_uids().await?;
        cluster.change(json!({"pod": {"annotations": {"example.org/change": "1"}}})).await?;
        let waiting = cluster.until_condition(CHANGES_APPROVED, "False", Some("PlanPending"), SOON).await?;
        cluster.until_event("PlanPending").await?;
        let first = waiting.status.and_then(|status| status.plan).context("no plan")?;
        ensure!(first.restarts == ["c-1", "c-0"], "the plan restarts {:?}", first.restarts);
        ensure!(cluster.pod_uids().await? == before, "a pod was replaced before the plan was approved");

        // Another change comes in between.
        cluster.change(json!({"replicas": 3, "rollout": {"approvedPlan": first.hash}})).await?;
        let refused = cluster.until_condition(CHANGES_APPROVED, "False", Some("PlanDrifted"), SOON).await?;
        let second = refused.status.and_then(|status| status.plan).context("no plan")?;
        ensure!(second.hash != first.hash && second.shards_moved == Some(10), "{second:?}");
        ensure!(cluster.pod_uids().await? == before, "a plan that drifted was carried out");

        cluster.change(json!({"rollout": {"approvedPlan": second.hash}})).await?;
        cluster.until_replaced(&before, 3, REPLACED).await?;
        cluster.ready().await?;
        cluster.until_condition(CHANGES_APPROVED, "True", Some("NothingPending"), SOON).await?;
        verify(&cluster.node(2), &records).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn more_cpu_and_memory_restart_no_container() -> anyhow::Result<()> {
    let environment = &Environment::from_variables().await?;
    with_temp_namespace(environment, "resize", |namespace| async move {
        let cluster = Cluster::apply(environment, &namespace, "c", specs::isolated(2)).await?;
        cluster.ready().await?;
        let before = cluster.pod_uids().await?;
        cluster.change(json!({"pod": {"resources": {"requests": {"cpu": "20m", "memory": "32Mi"}}}})).await?;
        until("both pods to have been resized", SOON * 2, || async {
            let now = cluster.pods().await?;
            let cpu = |pod: &Pod| {
                let container = pod.spec.as_ref()?.containers.first()?;
                container.resources.as_ref()?.requests.as_ref()?.get("cpu").map(|cpu| cpu.0.clone())
            };
            let amounts: Vec<_> = now.iter().map(cpu).collect();
            let all = amounts.iter().all(|amount| amount.as_deref() == Some("20m"));
            Ok(if all { Seen::Done(()) } else { Seen::NotYet(format!("{amounts:?}")) })
        })
        .await?;
        cluster.until_condition(PROGRESSING, "False", Some("Settled"), SOON * 2).await?;
        let now = cluster.pods().await?;
        ensure!(cluster.pod_uids().await? == before, "a pod was replaced");
        let restarts: i32 = now.iter().flat_map(brainy_e2e::kill::restarts).sum();
        ensure!(restarts == 0, "a container was restarted");
        Ok(())
    })
    .await
}

/// Down to no node by the scale subresource, and back with fewer nodes than before.
async fn hibernates(environment: &Environment, namespace: &str, spec: Value, claims: usize) -> anyhow::Result<()> {
    let cluster = Cluster::apply(environment, namespace, "c", spec).await?;
    cluster.ready().await?;
    let records = sample("asleep", 600);
    write(&cluster.node(0), &records).await?;
    let before = cluster.shard_map().await?;
    scale(&cluster, 0).await?;
    cluster.until_condition(HIBERNATED, "True", None, Duration::from_secs(120)).await?;
    ensure!(cluster.pods().await?.is_empty(), "a pod is left");
    let volumes: Api<PersistentVolumeClaim> = Api::namespaced(environment.client.clone(), namespace);
    let kept = volumes.list(&ListParams::default()).await?.items.len();
    ensure!(kept == claims, "{kept} of {claims} volumes were kept");
    let after = cluster.shard_map().await?;
    ensure!(owners(&before) == owners(&after), "shards moved while all nodes stopped");
    scale(&cluster, 2).await?;
    cluster.ready().await?;
    until("the third node to be gone", Duration::from_secs(120), || async {
        let pods = cluster.pods().await?.len();
        Ok(if pods == 2 { Seen::Done(()) } else { Seen::NotYet(format!("{pods} pods")) })
    })
    .await?;
    verify(&cluster.node(1), &records).await
}

async fn scale(cluster: &Cluster, replicas: i32) -> anyhow::Result<()> {
    let wish = Patch::Merge(json!({"spec": {"replicas": replicas}}));
    cluster.api().patch_scale(&cluster.name, &PatchParams::default(), &wish).await?;
    Ok(())
}

fn owners(map: &ShardMap) -> Vec<Option<String>> {
    (0..map.shards()).map(|shard| map.owner(ShardId(shard)).map(|node| node.0.clone())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_isolated_cluster_hibernates_with_its_volumes_and_comes_back_with_fewer_nodes() -> anyhow::Result<()> {
    let environment = &Environment::from_variables().await?;
    with_temp_namespace(environment, "asleep-i", |namespace| async move {
        hibernates(environment, &namespace, specs::isolated(3), 3).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_of_pattern_consensus_hibernates_and_its_members_find_each_other_again() -> anyhow::Result<()> {
    let environment = &Environment::from_variables().await?;
    with_temp_namespace(environment, "asleep-c", |namespace| async move {
        let mut spec = specs::isolated(3);
        spec["coordination"]["pattern"] = json!("Consensus");
        hibernates(environment, &namespace, spec, 3).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shared_cluster_hibernates_with_its_data_in_the_bucket() -> anyhow::Result<()> {
    let environment = &Environment::from_variables().await?;
    with_temp_namespace(environment, "asleep-s", |namespace| async move {
        prepare_bucket(environment, &namespace).await?;
        hibernates(environment, &namespace, specs::shared(3, &namespace), 0).await
    })
    .await
}
