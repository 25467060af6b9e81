//! Hot and cold: nodes with volumes, and a bucket that is not there yet. What is written meanwhile survives a killed node and
//! moves with its shards; once there is a bucket all gets into it, and is read from there.

use std::time::Duration;

use anyhow::ensure;
use brainy_crds::condition;
use brainy_e2e::brainy::Cluster;
use brainy_e2e::load::{self, Progress, verify};
use brainy_e2e::specs::{self, KEYS, prepare_bucket, sample};
use brainy_e2e::{Environment, Seen, until, with_temp_namespace};
use hyper::Method;
use kube::api::DeleteParams;
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(240);

/// How the tiers of each node stand.
async fn tiers(cluster: &Cluster, nodes: i32) -> anyhow::Result<Vec<Value>> {
    let mut all = Vec::new();
    for node in 0..nodes {
        all.push(cluster.node(node).get("/v1/tiering").await?);
    }
    Ok(all)
}

async fn until_drained(cluster: &Cluster, nodes: i32) -> anyhow::Result<()> {
    until("all to be in the bucket", LIMIT, || async {
        let all = tiers(cluster, nodes).await?;
        let drained = all.iter().all(|node| node["lag"]["complete"] == true && node["lag"]["keys"] == 0);
        Ok(if drained { Seen::Done(()) } else { Seen::NotYet(format!("{all:?}")) })
    })
    .await
}

async fn until_demoted(cluster: &Cluster, nodes: i32) -> anyhow::Result<()> {
    until("all to be in the bucket alone", LIMIT, || async {
        for node in 0..nodes {
            let run = serde_json::to_vec(&json!({"unreadForSeconds": 0}))?;
            let answer = cluster.node(node).call(Method::POST, "/v1/tiering:run", run.into()).await?;
            ensure!(answer.status.as_u16() == 202, "{answer:?}");
        }
        let all = tiers(cluster, nodes).await?;
        let demoted = all.iter().all(|node| node["hot"]["keys"] == 0);
        Ok(if demoted { Seen::Done(()) } else { Seen::NotYet(format!("{all:?}")) })
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_the_bucket_survives_kills_and_moves_and_is_read_from_there_in_the_end() -> anyhow::Result<()> {
    let environment = &Environment::from_variables().await?;
    with_temp_namespace(environment, "tiering", |namespace| async move {
        let store = prepare_bucket(environment, &namespace).await?;
        let mut spec = specs::isolated(2);
        // A bucket of its own, that is not there yet.
        let bucket = json!({"name": namespace, "endpoint": specs::endpoint(), "credentialsSecret": KEYS});
        spec["storage"]["tiering"] = json!({"bucket": bucket});
        let cluster = Cluster::apply(environment, &namespace, "c", spec).await?;
        cluster.ready().await?;

        let (before, after) = (sample("before", 500), sample("after", 500));
        load::write(&cluster.node(0), &before, &Progress::default(), None).await?;
        cluster.until_condition(condition::TIERING_HEALTHY, "False", Some("ColdTierAway"), LIMIT).await?;
        let pod = cluster.pods().await?.into_iter().find_map(|pod| pod.metadata.name).unwrap_or_default();
        cluster.pods_api().delete(&pod, &DeleteParams::default().grace_period(0)).await?;
        cluster.ready().await?;
        verify(&cluster.node(1), &before).await?;

        // Shards move with what the bucket does not have.
        cluster.change(json!({"replicas": 3})).await?;
        cluster.ready().await?;
        verify(&cluster.node(2), &before).await?;
        load::write(&cluster.node(2), &after, &Progress::default(), None).await?;

        store.ensure_bucket(&namespace).await?;
        cluster.until_condition(condition::TIERING_HEALTHY, "True", None, LIMIT).await?;
        until_drained(&cluster, 3).await?;
        ensure!(store.count(&namespace, "cold/shards/").await? >= 1000, "not all is in the bucket");
        until_demoted(&cluster, 3).await?;
        for records in [&before, &after] {
            verify(&cluster.node(0), records).await?;
        }
        Ok(())
    })
    .await
}
