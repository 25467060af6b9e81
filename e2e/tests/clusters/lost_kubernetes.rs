//! The Kubernetes cluster is lost. Its stand-in: every object of a BrainyCluster goes at once, with no time to say anything to
//! anybody, and it is made anew in another namespace, from its bucket alone, by what `brainy-operator restore` prints.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, ensure};
use brainy_coordination::bucket::election::Election;
use brainy_coordination::lease::ShardLease;
use brainy_coordination::{ShardId, names};
use brainy_crds::condition;
use brainy_e2e::brainy::{self, Cluster, keys_secret};
use brainy_e2e::bucket::Store;
use brainy_e2e::environment::{BUCKET, OPERATOR_NAMESPACE};
use brainy_e2e::load::{self, Progress, verify, write_until};
use brainy_e2e::specs::{self, KEYS, endpoint, prepare_bucket, sample};
use brainy_e2e::{Environment, views, with_temp_namespace};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{AttachParams, DeleteParams, PropagationPolicy};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::sync::watch;

const LIMIT: Duration = Duration::from_secs(120);

/// Runs `brainy-operator restore` in the operator's pod, as docs/operations.md says; returns what it prints.
async fn printed(environment: &Environment, prefix: &str, namespace: &str) -> anyhow::Result<Value> {
    let pod = views::operator(environment).await?;
    let pods: Api<Pod> = Api::namespaced(environment.client.clone(), OPERATOR_NAMESPACE);
    let (endpoint, secret) = (endpoint(), format!("{namespace}/{KEYS}"));
    let command = [
        "/brainy-operator",
        "restore",
        "--bucket",
        BUCKET,
        "--prefix",
        prefix,
        "--endpoint",
        &endpoint,
        "--secret",
        &secret,
        "--namespace",
        namespace,
    ];
    let mut process = pods.exec(&pod, command, &AttachParams::default().container("operator")).await?;
    let (mut stdout, mut stderr) = (String::new(), String::new());
    let (mut out, mut err) = (process.stdout().context("no output")?, process.stderr().context("no output")?);
    tokio::try_join!(out.read_to_string(&mut stdout), err.read_to_string(&mut stderr))?;
    let documents = brainy::documents(&stdout)?;
    documents.into_iter().next().filter(Value::is_object).with_context(|| format!("it printed no manifest: {stderr}"))
}

/// The token of each shard, by its lease in the bucket.
async fn tokens(store: &Store, prefix: &str, lease: fn(ShardId) -> String) -> anyhow::Result<BTreeMap<u32, u64>> {
    let mut tokens = BTreeMap::new();
    for shard in 0..32 {
        let found: ShardLease =
            serde_json::from_value(store.json(BUCKET, &format!("{prefix}/{}", lease(ShardId(shard)))).await?)?;
        tokens.insert(shard, found.token.0);
    }
    Ok(tokens)
}

async fn epoch(store: &Store, prefix: &str) -> anyhow::Result<u64> {
    let found = store.json(BUCKET, &format!("{prefix}/{}", names::CONTROLLER_ELECTION)).await?;
    Ok(serde_json::from_value::<Election>(found)?.epoch.0)
}

/// Everything of it is gone, and no node had a word to say.
async fn lose(environment: &Environment, cluster: &Cluster) -> anyhow::Result<()> {
    let pods = cluster.pods().await?;
    let orphan = DeleteParams { propagation_policy: Some(PropagationPolicy::Orphan), ..DeleteParams::default() };
    cluster.api().delete(&cluster.name, &orphan).await?;
    let sets: Api<StatefulSet> = Api::namespaced(environment.client.clone(), &cluster.namespace);
    sets.delete(&cluster.name, &orphan).await?;
    for pod in pods {
        cluster.pods_api().delete(&pod.name_any(), &DeleteParams::default().grace_period(0)).await?;
    }
    Ok(())
}

async fn is_lost_and_restored(test: &str, spec: Value, lease: fn(ShardId) -> String) -> anyhow::Result<()> {
    let environment = &Environment::from_variables().await?;
    with_temp_namespace(environment, test, |before| async move {
        let store = &prepare_bucket(environment, &before).await?;
        let mut spec = spec;
        spec["storage"]["bucket"]["prefix"] = json!(before);
        let old = &Cluster::apply(environment, &before, "c", spec).await?;
        old.ready().await?;
        let records = &sample("before", 1000);
        load::write(&old.node(0), records, &Progress::default(), None).await?;

        with_temp_namespace(environment, test, |after| async move {
            brainy::apply(environment, &keys_secret(&after, KEYS, store.keys())).await?;
            let manifest = printed(environment, &before, &after).await?;
            let declared = old.api().get("c").await?;
            ensure!(manifest["spec"] == serde_json::to_value(&declared.spec)?, "another spec: {manifest}");

            // While it lives nothing is taken from it.
            brainy::apply(environment, &manifest).await?;
            let new = &Cluster::existing(environment, &after, "c");
            new.until_condition(condition::STORAGE_READY, "False", Some("StillAlive"), LIMIT).await?;
            new.until_event("StillAlive").await?;
            ensure!(new.pods().await?.is_empty(), "two clusters would own one place");

            let (stop, stopped) = watch::channel(false);
            let node = old.node(1);
            let dies = async {
                tokio::time::sleep(Duration::from_secs(3)).await;
                stop.send(true)?;
                anyhow::Ok(())
            };
            let (during, ()) = tokio::try_join!(write_until(&node, stopped), dies)?;
            ensure!(during.len() > 10, "there was no load");
            let (tokens_before, epoch_before) = (tokens(store, &before, lease).await?, epoch(store, &before).await?);
            let revision_before = old.shard_map().await?.revision;
            lose(environment, old).await?;

            new.ready().await?;
            new.until_event("Adopted").await?;
            views::columns(environment, new).await?;
            verify(&new.node(0), records).await?;
            verify(&new.node(2), &during).await?;
            let map = new.shard_map().await?;
            ensure!(map.revision > revision_before, "the map fell from revision {revision_before} to {}", map.revision);
            // Here it is the same operator, which may hold the office already.
            ensure!(epoch(store, &before).await? >= epoch_before, "the epoch has fallen");
            for (shard, token) in tokens(store, &before, lease).await? {
                ensure!(token > tokens_before[&shard], "shard {shard} is served under token {token} again");
            }
            load::write(&new.node(1), &sample("after", 200), &Progress::default(), None).await?;

            // It comes back after all.
            let back = Cluster::apply(environment, &before, "c", manifest["spec"].clone()).await?;
            back.until_condition(condition::STORAGE_READY, "False", Some("BucketInUse"), LIMIT).await?;
            new.ready().await.map(drop)
        })
        .await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shared_cluster_that_is_lost_is_made_anew_from_its_bucket_alone() -> anyhow::Result<()> {
    let mut spec = specs::shared(3, "");
    spec["coordination"]["pattern"] = json!("StorageNative");
    is_lost_and_restored("restore-s", spec, names::shard_lock).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespaced_cluster_that_is_lost_is_made_anew_from_its_bucket_alone() -> anyhow::Result<()> {
    is_lost_and_restored("restore-n", specs::namespaced(3, ""), names::shard_lease).await
}
