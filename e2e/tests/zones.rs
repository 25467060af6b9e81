//! Clusters in zones. In a file of its own: while it runs, the machines are said to be in zones, where they are in none, and other
//! clusters would spread their shards by that.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, ensure};
use brainy_crds::condition::{PROGRESSING, READY};
use brainy_e2e::brainy::{Cluster, pod_is_ready};
use brainy_e2e::clients::{Clients, print_figures};
use brainy_e2e::hosts::{Zone, while_in_zones};
use brainy_e2e::load::{self, Progress, verify};
use brainy_e2e::sidecar::SidecarClient;
use brainy_e2e::specs::{self, prepare_bucket, sample};
use brainy_e2e::{Environment, Seen, leftovers, until, views, with_temp_namespace};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use tokio::sync::Mutex;

const LIMIT: Duration = Duration::from_secs(240);
const BEGINS: &str = "the change begins";
const ENDS: &str = "the change is over";

/// The machines are in zones for one test at a time.
static ZONES: Mutex<()> = Mutex::const_new(());

fn in_zones(mut spec: Value, zones: &[&Zone]) -> Value {
    spec["zones"] = zones.iter().map(|zone| zone.name.clone()).collect();
    spec
}

fn node(environment: &Environment, cluster: &Cluster, zone: &Zone, ordinal: i32) -> SidecarClient {
    SidecarClient::new(&environment.client, &cluster.namespace, &name(cluster, zone, ordinal))
}

fn name(cluster: &Cluster, zone: &Zone, ordinal: i32) -> String {
    format!("{}-{ordinal}", set_name(&cluster.name, zone))
}

fn set_name(cluster: &str, zone: &Zone) -> String {
    format!("{cluster}-{}", zone.name.to_ascii_lowercase().replace(['.', '_'], "-"))
}

fn host(pod: &Pod) -> String {
    pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default()
}

/// Waits until each zone has so many nodes, ready and on its own machines, in a StatefulSet of its own, and the status says so.
async fn are_dealt_out(environment: &Environment, cluster: &Cluster, shares: &[(&Zone, i32)]) -> anyhow::Result<()> {
    let wanted: BTreeMap<String, &Zone> = shares
        .iter()
        .flat_map(|(zone, share)| (0..*share).map(|ordinal| (name(cluster, zone, ordinal), *zone)))
        .collect();
    until(&format!("the nodes to be {:?}", wanted.keys()), LIMIT, || async {
        let pods = cluster.pods().await?;
        let there: BTreeSet<String> = pods.iter().map(ResourceExt::name_any).collect();
        let ready = pods.iter().filter(|pod| pod_is_ready(pod)).count();
        let is_all = there.iter().eq(wanted.keys()) && ready == wanted.len();
        Ok(if is_all { Seen::Done(()) } else { Seen::NotYet(format!("{ready} of {there:?} are ready")) })
    })
    .await?;
    for pod in cluster.pods().await? {
        let zone = wanted.get(&pod.name_any()).context("a pod came and went")?;
        ensure!(zone.hosts.contains(&host(&pod)), "{} is on {}: {zone:?}", pod.name_any(), host(&pod));
    }
    let sets: Api<StatefulSet> = Api::namespaced(environment.client.clone(), &cluster.namespace);
    let sets = sets.list(&ListParams::default()).await?.items;
    let replicas: BTreeMap<String, i32> = sets
        .iter()
        .map(|set| (set.name_any(), set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(-1)))
        .collect();
    let of_zone = |(zone, share): &(&Zone, i32)| (set_name(&cluster.name, zone), *share);
    ensure!(replicas == shares.iter().map(of_zone).collect(), "the StatefulSets are {replicas:?}");
    let said: Vec<String> = shares.iter().map(|(zone, share)| format!("{} {share}/{share}", zone.name)).collect();
    until("the status to say so", LIMIT, || async {
        let status = cluster.api().get(&cluster.name).await?.status.unwrap_or_default();
        let is_said = status.nodes_by_zone == said.join(", ");
        Ok(if is_said { Seen::Done(()) } else { Seen::NotYet(status.nodes_by_zone) })
    })
    .await
}

/// All pods are replaced, those of one zone before the first of the next.
async fn rolls_zone_by_zone(environment: &Environment, cluster: &Cluster, zones: &[&Zone]) -> anyhow::Result<()> {
    let before = cluster.pod_uids().await?;
    cluster.change(json!({"pod": {"annotations": {"example.org/change": "1"}}})).await?;
    cluster.until_replaced(&before, before.len(), LIMIT).await?;
    cluster.ready().await?;
    cluster.until_condition(PROGRESSING, "False", Some("Settled"), LIMIT).await?;
    // Each waits for the one before to be ready, so that no two were made in the same second.
    let mut made: Vec<_> = cluster.pods().await?.iter().map(|pod| (pod.creation_timestamp(), pod.name_any())).collect();
    made.sort();
    let made: Vec<String> = made.into_iter().map(|(_, pod)| pod).collect();
    let in_order = zones.iter().flat_map(|zone| [1, 0].map(|ordinal| name(cluster, zone, ordinal)));
    ensure!(made == in_order.collect::<Vec<_>>(), "pods were replaced in the order {made:?}");
    views::columns(environment, cluster).await
}

/// Grows, shrinks, rolls and goes, with clients beside each node.
async fn lives_in_zones(
    environment: &Environment,
    namespace: &str,
    (spec, what): (Value, &str),
    (first, second): (Zone, Zone),
) -> anyhow::Result<()> {
    let (first, second) = (&first, &second);
    let spec = in_zones(spec, &[first, second]);
    let clients = Clients::start(environment).await?;
    let cluster = Cluster::apply(environment, namespace, "c", clients.beside("c", spec)).await?;
    cluster.ready().await?;
    are_dealt_out(environment, &cluster, &[(first, 2), (second, 1)]).await?;
    let stay = [name(&cluster, first, 0), name(&cluster, second, 0)];
    clients.mark(BEGINS).await?;
    clients.are_answered("c", &stay, BEGINS).await?;
    let records = sample("zones", 600);
    load::write(&node(environment, &cluster, second, 0), &records, &Progress::default(), None).await?;

    for (replicas, shares) in [(5, [3, 2]), (2, [1, 1]), (4, [2, 2])] {
        cluster.change(json!({"replicas": replicas})).await?;
        cluster.ready().await?;
        are_dealt_out(environment, &cluster, &[(first, shares[0]), (second, shares[1])]).await?;
        views::map_is_balanced(&cluster).await?;
        verify(&node(environment, &cluster, second, shares[1] - 1), &records).await?;
    }
    rolls_zone_by_zone(environment, &cluster, &[first, second]).await?;
    are_dealt_out(environment, &cluster, &[(first, 2), (second, 2)]).await?;
    verify(&node(environment, &cluster, first, 1), &records).await?;
    clients.mark(ENDS).await?;
    clients.are_answered("c", &stay, ENDS).await?;
    let report = clients.judge(what).await?;
    let figures = print_figures(&report, "c", what, report.between(BEGINS, ENDS)?)?;
    ensure!(figures.acknowledged > 100, "there was no load: {figures:?}");

    cluster.delete_and_wait().await?;
    until("nothing of it to be left", LIMIT, || async {
        let left = leftovers::of(&environment.client, namespace).await?;
        let left: Vec<String> = left.into_iter().filter(|name| name != &format!("Secret/{}", specs::KEYS)).collect();
        Ok(if left.is_empty() { Seen::Done(()) } else { Seen::NotYet(format!("{left:?}")) })
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_isolated_cluster_in_zones_grows_shrinks_and_rolls_under_load_and_keeps_its_data() -> anyhow::Result<()> {
    let environment = &Environment::from_variables().await?;
    let _alone = ZONES.lock().await;
    while_in_zones(environment, |first, second| async move {
        with_temp_namespace(environment, "zones-i", |namespace| async move {
            let what = (specs::isolated(3), "Isolated in two zones");
            lives_in_zones(environment, &namespace, what, (first, second)).await
        })
        .await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shared_cluster_in_zones_whose_nodes_place_shards_grows_shrinks_and_rolls_under_load() -> anyhow::Result<()> {
    let environment = &Environment::from_variables().await?;
    let _alone = ZONES.lock().await;
    while_in_zones(environment, |first, second| async move {
        with_temp_namespace(environment, "zones-s", |namespace| async move {
            prepare_bucket(environment, &namespace).await?;
            let mut spec = specs::shared(3, &namespace);
            spec["coordination"]["pattern"] = json!("StorageNative");
            let what = (spec, "Shared in two zones, StorageNative");
            lives_in_zones(environment, &namespace, what, (first, second)).await
        })
        .await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zone_without_machines_and_a_name_that_is_taken_are_told() -> anyhow::Result<()> {
    let environment = &Environment::from_variables().await?;
    let _alone = ZONES.lock().await;
    while_in_zones(environment, |first, _| async move {
        with_temp_namespace(environment, "zones-x", |namespace| async move {
            let nowhere = Zone { name: "e2e-nowhere".into(), hosts: BTreeSet::new() };
            let spec = in_zones(specs::isolated(2), &[&first, &nowhere]);
            let lame = Cluster::apply(environment, &namespace, "lame", spec).await?;
            is_told(&lame, "no machine in zone e2e-nowhere can take lame-e2e-nowhere-0").await?;
            lame.delete_and_wait().await?;

            let taken = &set_name("c", &first);
            Cluster::apply(environment, &namespace, taken, specs::isolated(1)).await?.ready().await?;
            let late =
                Cluster::apply(environment, &namespace, "c", in_zones(specs::isolated(2), &[&first, &nowhere])).await?;
            late.until_condition(READY, "False", Some("NameTaken"), LIMIT).await?;
            is_told(&late, &format!("StatefulSet {taken} exists and belongs to BrainyCluster {taken}")).await?;
            ensure!(late.pods().await?.is_empty(), "nodes of a cluster that can't have all of them");
            Cluster::existing(environment, &namespace, taken).ready().await.map(drop)
        })
        .await
    })
    .await
}

/// Condition Ready says it.
async fn is_told(cluster: &Cluster, words: &str) -> anyhow::Result<()> {
    until(&format!("{} to be told that {words}", cluster.name), LIMIT, || async {
        let conditions = cluster.api().get(&cluster.name).await?.status.unwrap_or_default().conditions;
        let said = conditions.into_iter().find(|condition| condition.type_ == READY);
        let said = said.map(|said| said.message).unwrap_or_default();
        Ok(if said.contains(words) { Seen::Done(()) } else { Seen::NotYet(said) })
    })
    .await
}
