//! Growing, shrinking, rolling, deleting: with data in it, and nothing lost.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::ensure;
use brainy_e2e::brainy::{Cluster, pod_is_ready};
use brainy_e2e::bucket::Store;
use brainy_e2e::clients::{Clients, print_figures};
use brainy_e2e::environment::BUCKET;
use brainy_e2e::load::{self, Progress, verify};
use brainy_e2e::records::Records;
use brainy_e2e::sidecar::SidecarClient;
use brainy_e2e::specs::{self, prepare_bucket, sample};
use brainy_e2e::{Environment, Seen, leftovers, until, views, with_temp_namespace};
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use tokio::time::sleep;

const BEGINS: &str = "the change begins";
const ENDS: &str = "the change is over";

async fn write(node: &SidecarClient, records: &Records) -> anyhow::Result<()> {
    load::write(node, records, &Progress::default(), None).await.map(drop)
}

/// Applies a spec with clients beside each node, which are judged in the end.
async fn under_load<F>(
    environment: &Environment,
    namespace: &str,
    spec: Value,
    what: &str,
    work: impl FnOnce(Cluster) -> F,
) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<()>>,
{
    let clients = Clients::start(environment).await?;
    let cluster = Cluster::apply(environment, namespace, "c", clients.beside("c", spec)).await?;
    cluster.ready().await?;
    clients.mark(BEGINS).await?;
    clients.are_answered("c", &["c-0".into(), "c-1".into()], BEGINS).await?;
    work(cluster).await?;
    clients.mark(ENDS).await?;
    clients.are_answered("c", &["c-0".into(), "c-1".into()], ENDS).await?;
    let report = clients.judge(what).await?;
    let figures = print_figures(&report, "c", what, report.between(BEGINS, ENDS)?)?;
    ensure!(figures.acknowledged > 100, "there was no load: {figures:?}");
    Ok(())
}

async fn grows_and_shrinks(environment: &Environment, cluster: &Cluster) -> anyhow::Result<()> {
    let before = sample("before", 1500);
    write(&cluster.node(0), &before).await?;
    for (replicas, reader) in [(5, 4), (2, 1)] {
        cluster.change(json!({"replicas": replicas})).await?;
        cluster.ready().await?;
        views::columns(environment, cluster).await?;
        views::map_is_balanced(cluster).await?;
        verify(&cluster.node(reader), &before).await?;
    }
    until("the pods beyond two to be gone", Duration::from_secs(60), || async {
        let pods = cluster.pods().await?.len();
        Ok(if pods == 2 { Seen::Done(()) } else { Seen::NotYet(format!("{pods} pods")) })
    })
    .await?;
    verify(&cluster.node(0), &before).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_isolated_cluster_grows_and_shrinks_under_load_and_keeps_its_data() -> anyhow::Result<()> {
    let environment = &Environment::from_variables().await?;
    with_temp_namespace(environment, "scale-i", |namespace| async move {
        let what = "Isolated, 3 to 5 to 2 nodes";
        under_load(environment, &namespace, specs::isolated(3), what, |cluster| async move {
            grows_and_shrinks(environment, &cluster).await
        })
        .await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shared_cluster_grows_and_shrinks_under_load_and_keeps_its_data() -> anyhow::Result<()> {
    let environment = &Environment::from_variables().await?;
    with_temp_namespace(environment, "scale-s", |namespace| async move {
        prepare_bucket(environment, &namespace).await?;
        let mut spec = specs::shared(3, &namespace);
        // Shards come and go between living nodes: a cache that outlived its tenure would show. No batches: writes of one share
        // a revision, and the checker wants each to have its own.
        spec["storage"]["layers"] = json!([{"type": "Caching"}, {"type": "Compression"}]);
        under_load(environment, &namespace, spec, "Shared, 3 to 5 to 2 nodes", |cluster| async move {
            grows_and_shrinks(environment, &cluster).await
        })
        .await
    })
    .await
}

/// Data moves here, too: behind what is served, and none is left in the namespaces of nodes that are gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_namespaced_cluster_grows_and_shrinks_under_load_and_its_data_follows() -> anyhow::Result<()> {
    let environment = &Environment::from_variables().await?;
    with_temp_namespace(environment, "scale-n", |namespace| async move {
        let store = prepare_bucket(environment, &namespace).await?;
        let spec = specs::namespaced(3, &namespace);
        under_load(environment, &namespace, spec, "Namespaced, 3 to 5 to 2 nodes", |cluster| async move {
            grows_and_shrinks(environment, &cluster).await
        })
        .await?;
        let cluster = Cluster::existing(environment, &namespace, "c");
        its_data_followed(&store, &namespace, &cluster).await?;
        verify(&cluster.node(1), &sample("before", 1500)).await
    })
    .await
}

async fn its_data_followed(store: &Store, namespace: &str, cluster: &Cluster) -> anyhow::Result<()> {
    for gone in ["c-2", "c-3", "c-4"] {
        until(&format!("the data of {gone} to be copied and cleared away"), Duration::from_secs(120), || async {
            let left = store.count(BUCKET, &format!("{namespace}/node-{gone}/")).await?;
            Ok(if left == 0 { Seen::Done(()) } else { Seen::NotYet(format!("{left} objects")) })
        })
        .await?;
    }
    for ordinal in 0..2 {
        until(&format!("node {ordinal} to have copied everything"), Duration::from_secs(120), || async {
            let shards = cluster.node(ordinal).get("/v1/shards").await?;
            let mut items = shards["items"].as_array().into_iter().flatten();
            let left = items.find(|shard| shard.get("origins").is_some()).cloned();
            Ok(left.map_or(Seen::Done(()), |shard| Seen::NotYet(shard.to_string())))
        })
        .await?;
    }
    Ok(())
}

/// Changes the pod template and watches: every pod is replaced, and never is more than one of them not ready.
async fn rolls_one_by_one(cluster: &Cluster) -> anyhow::Result<()> {
    let uids =
        |pods: &[k8s_openapi::api::core::v1::Pod]| pods.iter().filter_map(ResourceExt::uid).collect::<BTreeSet<_>>();
    cluster.ready().await?;
    let before = cluster.pods().await?;
    let old = uids(&before);
    cluster.change(json!({"pod": {"annotations": {"example.org/change": "1"}}})).await?;
    let fewest = AtomicUsize::new(before.len());
    until("every pod to be replaced", Duration::from_secs(240), || async {
        let pods = cluster.pods().await?;
        let ready = pods.iter().filter(|pod| pod_is_ready(pod)).count();
        fewest.fetch_min(ready, Ordering::SeqCst);
        let left = uids(&pods).intersection(&old).count();
        Ok(if left == 0 && ready == before.len() {
            Seen::Done(())
        } else {
            Seen::NotYet(format!("{left} old pods, {ready} ready"))
        })
    })
    .await?;
    let fewest = fewest.into_inner();
    ensure!(
        fewest + 1 >= before.len(),
        "{fewest} of {} nodes were ready: more than one was taken away at a time",
        before.len()
    );
    cluster.ready().await.map(drop)
}

async fn rolls_under_load(environment: &Environment, namespace: &str, spec: Value, what: &str) -> anyhow::Result<()> {
    let what = format!("{what}, every pod replaced");
    under_load(environment, namespace, spec, &what, |cluster| async move {
        let before = sample("before", 1000);
        write(&cluster.node(0), &before).await?;
        rolls_one_by_one(&cluster).await?;
        verify(&cluster.node(2), &before).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_rolls_an_isolated_cluster_one_pod_at_a_time_and_loses_nothing() -> anyhow::Result<()> {
    let environment = &Environment::from_variables().await?;
    with_temp_namespace(environment, "roll-i", |namespace| async move {
        rolls_under_load(environment, &namespace, specs::isolated(3), "Isolated").await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_rolls_a_namespaced_cluster_one_pod_at_a_time_and_loses_nothing() -> anyhow::Result<()> {
    let environment = &Environment::from_variables().await?;
    with_temp_namespace(environment, "roll-n", |namespace| async move {
        prepare_bucket(environment, &namespace).await?;
        let mut spec = specs::namespaced(3, &namespace);
        // With every pattern that it has: here the nodes elect their controller.
        spec["coordination"]["pattern"] = json!("StorageNative");
        rolls_under_load(environment, &namespace, spec, "Namespaced").await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_rolls_a_shared_cluster_one_pod_at_a_time_and_loses_nothing() -> anyhow::Result<()> {
    let environment = &Environment::from_variables().await?;
    with_temp_namespace(environment, "roll-s", |namespace| async move {
        prepare_bucket(environment, &namespace).await?;
        rolls_under_load(environment, &namespace, specs::shared(3, &namespace), "Shared").await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_deleted_while_it_is_created_leaves_nothing_behind() -> anyhow::Result<()> {
    let environment = &Environment::from_variables().await?;
    with_temp_namespace(environment, "short", |namespace| async move {
        for (index, millis) in [0, 200, 700, 2000].into_iter().enumerate() {
            let cluster =
                Cluster::apply(environment, &namespace, &format!("short-{index}"), specs::isolated(2)).await?;
            sleep(Duration::from_millis(millis)).await;
            cluster.delete().await?;
        }
        until("nothing to be left", Duration::from_secs(120), || async {
            let left = leftovers::of(&environment.client, &namespace).await?;
            Ok(if left.is_empty() { Seen::Done(()) } else { Seen::NotYet(left.join(", ")) })
        })
        .await?;
        // And nobody makes it anew.
        sleep(Duration::from_secs(3)).await;
        let left = leftovers::of(&environment.client, &namespace).await?;
        ensure!(left.is_empty(), "made anew: {left:?}");
        Ok(())
    })
    .await
}

/// Names of the volume claims.
async fn claims(environment: &Environment, namespace: &str) -> anyhow::Result<Vec<String>> {
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(environment.client.clone(), namespace);
    Ok(claims.list(&ListParams::default()).await?.iter().map(ResourceExt::name_any).collect())
}

/// Deletes a cluster of three nodes with data and makes one of two in its place: the data is there.
async fn comes_back(environment: &Environment, namespace: &str, mut spec: Value) -> anyhow::Result<Cluster> {
    spec["replicas"] = json!(3);
    let cluster = Cluster::apply(environment, namespace, "c", spec.clone()).await?;
    cluster.ready().await?;
    let records = sample("kept", 500);
    write(&cluster.node(0), &records).await?;
    cluster.delete_and_wait().await?;
    spec["replicas"] = json!(2);
    let again = Cluster::apply(environment, namespace, "c", spec).await?;
    again.ready().await?;
    ensure!(again.pods().await?.len() == 2, "the third node is still there");
    verify(&again.node(1), &records).await?;
    Ok(again)
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_an_isolated_cluster_keeps_its_volumes_unless_the_policy_says_delete() -> anyhow::Result<()> {
    let environment = &Environment::from_variables().await?;
    with_temp_namespace(environment, "delete-i", |namespace| async move {
        let cluster = comes_back(environment, &namespace, specs::isolated(3)).await?;
        ensure!(claims(environment, &namespace).await?.len() == 3, "the volumes were not kept");
        cluster.change(json!({"deletionPolicy": "Delete"})).await?;
        cluster.ready().await?;
        cluster.delete_and_wait().await?;
        // Also the volume of the third node, which had left before.
        until("the nodes' volumes to be deleted", Duration::from_secs(90), || async {
            let left = claims(environment, &namespace).await?;
            Ok(if left.is_empty() { Seen::Done(()) } else { Seen::NotYet(format!("{left:?}")) })
        })
        .await
    })
    .await
}

/// Deletes a cluster over a bucket, makes it again, and deletes it with its data.
async fn its_bucket_data_goes_by_the_policy(name: &str, spec: fn(i32, &str) -> Value) -> anyhow::Result<()> {
    let environment = &Environment::from_variables().await?;
    with_temp_namespace(environment, name, |namespace| async move {
        let store = prepare_bucket(environment, &namespace).await?;
        let neighbour = format!("{namespace}-neighbour/object");
        store.put(BUCKET, &neighbour, "not ours").await?;
        let cluster = comes_back(environment, &namespace, spec(3, &namespace)).await?;
        cluster.change(json!({"deletionPolicy": "Delete"})).await?;
        cluster.ready().await?;
        cluster.delete_and_wait().await?;
        let left = store.count(BUCKET, &format!("{namespace}/")).await?;
        ensure!(left == 0, "{left} objects are left under the prefix");
        ensure!(store.count(BUCKET, &neighbour).await? == 1, "what lies beside the prefix was deleted");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_a_shared_cluster_keeps_its_bucket_data_unless_the_policy_says_delete() -> anyhow::Result<()> {
    its_bucket_data_goes_by_the_policy("delete-s", specs::shared).await
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_a_namespaced_cluster_keeps_its_bucket_data_unless_the_policy_says_delete() -> anyhow::Result<()> {
    its_bucket_data_goes_by_the_policy("delete-n", specs::namespaced).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_uses_the_storage_through_its_native_sidecar() -> anyhow::Result<()> {
    let environment = &Environment::from_variables().await?;
    with_temp_namespace(environment, "app", |namespace| async move {
        let mut spec = specs::isolated(2);
        spec["application"] = specs::counting(environment);
        let cluster = Cluster::apply(environment, &namespace, "c", spec).await?;
        cluster.ready().await?;
        for pod in cluster.pods().await? {
            let sidecar = pod.spec.and_then(|spec| spec.init_containers).unwrap_or_default();
            ensure!(
                sidecar.iter().any(|c| c.restart_policy.as_deref() == Some("Always")),
                "the sidecar is no native one"
            );
        }
        let node = cluster.node(0);
        let visits = || async { anyhow::Ok(node.get("/v1/kv/visits").await?.as_i64().unwrap_or(0)) };
        let wanted = until("the applications to count", Duration::from_secs(60), || async {
            let count = visits().await?;
            Ok(if count >= 4 { Seen::Done(count + 4) } else { Seen::NotYet(format!("{count}")) })
        })
        .await?;
        until("the applications to go on counting", Duration::from_secs(60), || async {
            let count = visits().await?;
            Ok(if count >= wanted { Seen::Done(()) } else { Seen::NotYet(format!("{count}")) })
        })
        .await?;
        for ordinal in 0..2 {
            let seen = node.get(&format!("/v1/kv/seen%2Fc-{ordinal}")).await?;
            ensure!(
                seen["url"] == "http://127.0.0.1:7700" && seen["storage"].is_object(),
                "the application saw {seen}"
            );
        }
        Ok(())
    })
    .await
}
