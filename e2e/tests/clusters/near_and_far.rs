//! Near and far: clusters in two namespaces as two regions, each over a place of its own in the S3 server. What is written in one is
//! read in the other while nodes are killed, keys are decided in one of them wherever they are asked for, also while the home moves,
//! and one region is left and taken off the list.

use std::time::Duration;

use anyhow::{Context, ensure};
use brainy_crds::condition;
use brainy_e2e::brainy::Cluster;
use brainy_e2e::environment::BUCKET;
use brainy_e2e::load::{self, Progress, verify};
use brainy_e2e::specs::{self, KEYS, prepare_bucket, sample};
use brainy_e2e::{Environment, Seen, until, with_temp_namespace};
use hyper::Method;
use kube::api::DeleteParams;
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(240);
const NODES: i32 = 2;

fn region(prefix: &str, name: &str) -> Value {
    let place = format!("{prefix}/{name}");
    json!({"name": name, "bucket": {"name": BUCKET, "prefix": place, "endpoint": specs::endpoint(), "credentialsSecret": KEYS}})
}

/// The spec of all regions: `own` alone differs, since the machines of the tests are in none.
fn spec(prefix: &str, own: &str, home: &str) -> Value {
    let mut spec = specs::shared(NODES, prefix);
    spec["storage"] = json!({
        "strategy": "Shared",
        "regions": [region(prefix, "eu"), region(prefix, "us")],
        "region": own,
        "replication": {"home": home},
    });
    spec
}

/// How the regions stand, as each node sees them.
async fn states(cluster: &Cluster) -> anyhow::Result<Vec<Value>> {
    let mut all = Vec::new();
    for node in 0..NODES {
        all.push(cluster.node(node).get("/v1/regions").await?);
    }
    Ok(all)
}

async fn until_all(cluster: &Cluster, what: &str, is_so: impl Fn(&Value) -> bool) -> anyhow::Result<()> {
    until(what, LIMIT, || async {
        let all = states(cluster).await?;
        Ok(if all.iter().all(&is_so) { Seen::Done(()) } else { Seen::NotYet(format!("{all:?}")) })
    })
    .await
}

fn is_drained(state: &Value) -> bool {
    let lag = state["lag"].as_array().map(Vec::as_slice).unwrap_or_default();
    lag.iter().all(|lag| lag["complete"] == true && lag["keys"] == 0 && lag["problem"].is_null())
}

/// Adds one, however often that has to be asked for: the same id each time.
async fn add(cluster: &Cluster, id: usize) -> anyhow::Result<i64> {
    let body = serde_json::to_vec(&json!({"key": "sum", "delta": 1}))?;
    until("the sum to be decided", LIMIT, || async {
        let node = cluster.node(i32::try_from(id).unwrap_or_default() % NODES);
        let asked = node.call_once(Method::POST, "/v1/kv:increment", &format!("add-{id}"), body.clone().into()).await;
        match asked {
            Ok(answer) if answer.status.is_success() => {
                let said: Value = serde_json::from_slice(&answer.body)?;
                Ok(Seen::Done(said["value"].as_i64().context("no sum")?))
            }
            Ok(answer) => Ok(Seen::NotYet(format!("{answer:?}"))),
            Err(error) => Ok(Seen::NotYet(error.to_string())),
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_region_has_written_all_have_and_one_of_them_decides() -> anyhow::Result<()> {
    let environment = &Environment::from_variables().await?;
    with_temp_namespace(environment, "region-eu", |eu| async move {
        with_temp_namespace(environment, "region-us", |us| async move {
            let prefix = eu.clone();
            let store = prepare_bucket(environment, &eu).await?;
            prepare_bucket(environment, &us).await?;
            let (near, far) = tokio::try_join!(
                Cluster::apply(environment, &eu, "c", spec(&prefix, "eu", "eu")),
                Cluster::apply(environment, &us, "c", spec(&prefix, "us", "eu")),
            )?;
            for (cluster, own) in [(&near, "eu"), (&far, "us")] {
                let ready = cluster.ready().await?;
                ensure!(ready.status.and_then(|status| status.region).as_deref() == Some(own), "{own} is not said");
                cluster.until_condition(condition::REGIONS_HEALTHY, "True", None, LIMIT).await?;
            }

            // Written in one, with a node killed amidst of it, and read in the other.
            let (first, second) = (sample("first", 300), sample("second", 300));
            load::write(&near.node(0), &first, &Progress::default(), None).await?;
            let pod = near.pods().await?.into_iter().find_map(|pod| pod.metadata.name).unwrap_or_default();
            near.pods_api().delete(&pod, &DeleteParams::default().grace_period(0)).await?;
            load::write(&far.node(1), &second, &Progress::default(), None).await?;
            near.ready().await?;
            for cluster in [&near, &far] {
                until_all(cluster, "all to be everywhere", is_drained).await?;
            }
            for (cluster, node) in [(&near, 0), (&far, 0), (&near, 1), (&far, 1)] {
                verify(&cluster.node(node), &first).await?;
                verify(&cluster.node(node), &second).await?;
            }
            ensure!(
                store.count(BUCKET, &format!("{prefix}/us/shards/")).await? >= 600,
                "not all is in the other bucket"
            );

            // Counted in both while the home moves.
            let mut sum = 0;
            for id in 0..10 {
                sum = add(if id % 2 == 0 { &near } else { &far }, id).await?;
            }
            ensure!(sum == 10, "10 additions came to {sum}");
            for cluster in [&near, &far] {
                cluster.change(json!({"storage": {"replication": {"home": "us"}}})).await?;
            }
            for id in 10..30 {
                sum = add(if id % 2 == 0 { &near } else { &far }, id).await?;
            }
            ensure!(sum == 30, "30 additions came to {sum}");
            for cluster in [&near, &far] {
                cluster.ready().await?;
                let moved = |state: &Value| state["homes"]["eu"].is_null() && !state["homes"]["us"].is_null();
                until_all(cluster, "the home to have moved", moved).await?;
                cluster.until_condition(condition::REGIONS_HEALTHY, "True", None, LIMIT).await?;
            }

            // The first region is left.
            until_all(&near, "all to be everywhere", is_drained).await?;
            near.delete_and_wait().await?;
            for node in 0..NODES {
                let body = serde_json::to_vec(&json!({"region": "eu"}))?;
                let answer = far.node(node).call(Method::POST, "/v1/regions:retire", body.into()).await?;
                ensure!(answer.status.as_u16() == 202, "{answer:?}");
            }
            let left =
                |state: &Value| state["lag"].as_array().is_some_and(|lag| lag.iter().all(|lag| lag["region"] != "eu"));
            until_all(&far, "the region to be left", left).await?;
            far.change(json!({"storage": {"regions": [region(&prefix, "us")]}})).await?;
            until_all(&far, "the nodes to know one region", |state| {
                state["order"].as_array().is_some_and(|order| order.len() == 1) && state["home"] == "us" && left(state)
            })
            .await?;
            far.ready().await?;
            for records in [&first, &second] {
                verify(&far.node(0), records).await?;
            }
            ensure!(add(&far, 30).await? == 31, "the sum is another");
            Ok(())
        })
        .await
    })
    .await
}
