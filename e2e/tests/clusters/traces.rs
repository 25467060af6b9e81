//! One request as a collector in the cluster sees it: from its client through the owner to the store.

use std::time::Duration;

use anyhow::{Context, ensure};
use brainy_coordination::{NodeId, ShardId};
use brainy_e2e::brainy::Cluster;
use brainy_e2e::collector::{Span, printed};
use brainy_e2e::helper::{Listening, Rights};
use brainy_e2e::specs::{self, prepare_bucket};
use brainy_e2e::{Environment, Seen, hosts, until, with_temp_namespace};
use brainy_kubernetes::names;
use hyper::Method;
use serde_json::json;

/// Where a collector listens (OTLP over HTTP).
const PORT: u16 = 4318;
/// Nodes send what they have every few seconds.
const SENT: Duration = Duration::from_secs(60);
/// The client's own span.
const CLIENT: &str = "00f067aa0ba902b7";

#[tokio::test(flavor = "multi_thread")]
async fn a_request_shows_at_a_collector_as_one_trace_of_both_nodes_and_the_store() -> anyhow::Result<()> {
    let environment = &Environment::from_variables().await?;
    let arguments = ["collect", "--listen", &PORT.to_string()].map(str::to_owned);
    let host = hosts::steady(environment).await?;
    let collector = Listening::start(environment, "collector", &host, &arguments, PORT, Rights::None).await?;
    let outcome =
        with_temp_namespace(environment, "traces", |namespace| traced(environment, namespace, &collector)).await;
    collector.remove().await?;
    outcome
}

async fn traced(environment: &Environment, namespace: String, collector: &Listening) -> anyhow::Result<()> {
    prepare_bucket(environment, &namespace).await?;
    let mut spec = specs::shared(2, &namespace);
    spec["coordination"]["pattern"] = json!("Leader");
    let endpoint = format!("http://{}:{PORT}", collector.address().await?);
    // Nothing is traced but what its client wants to be.
    spec["pod"]["tracing"] = json!({"endpoint": endpoint, "samplePercent": 0});
    let cluster = Cluster::apply(environment, &namespace, "c", spec).await?;
    cluster.ready().await?;

    let [here, there] = [0, 1].map(|ordinal| names::node(&cluster.name, ordinal));
    let (map, other) = (cluster.shard_map().await?, NodeId(there.clone()));
    let of_the_other = |key: &String| map.owner(ShardId::of("", key, map.shards())) == Some(&other);
    let key = (0..1000).map(|number| format!("key-{number}")).find(of_the_other).context("one node has all shards")?;
    let put = async |trace: &str, sampled: &str| {
        let (path, parent) = (format!("/v1/kv/{key}"), format!("00-{trace}-{CLIENT}-{sampled}"));
        cluster.node(0).call_traced(Method::PUT, &path, &parent, "\"a secret of ours\"".into()).await
    };
    let (unwanted, wanted) = ("4bf92f3577b34da6a3ce929d0e0e4736", "4bf92f3577b34da6a3ce929d0e0e4737");
    for (trace, sampled) in [(unwanted, "00"), (wanted, "01")] {
        ensure!(put(trace, sampled).await?.status.is_success(), "the key was not written");
    }

    let spans = until("the whole trace at the collector", SENT, || async {
        let found = printed(&collector.said().await?);
        let complete = PARTS.iter().all(|name| found.iter().any(|span| span.name == *name));
        Ok(if complete { Seen::Done(found) } else { Seen::NotYet(format!("{found:?}")) })
    })
    .await?;
    ensure!(spans.iter().all(|span| span.trace == wanted), "more than the one request was traced: {spans:?}");
    is_one_chain(&spans, [&here, &here, &there, &there], &key)
}

/// What a request is made of that is forwarded to the owner, each as a part of the one before.
const PARTS: [&str; 4] = ["PUT /v1/kv/{*key}", "forward", "calls", "storage"];

fn is_one_chain(spans: &[Span], nodes: [&str; 4], key: &str) -> anyhow::Result<()> {
    let mut parent = CLIENT;
    for (part, node) in PARTS.iter().zip(nodes) {
        let named: Vec<&Span> = spans.iter().filter(|span| span.name == *part).collect();
        let next = named.iter().find(|span| span.parent == parent);
        let next = next.with_context(|| format!("no {part} is a part of {parent}: {spans:?}"))?;
        ensure!(next.node == node, "{part} is not of {node}: {next:?}");
        parent = &next.id;
        if *part == "storage" {
            ensure!(next.attributes.iter().any(|attribute| attribute.contains(key)), "{next:?}");
        }
    }
    ensure!(!format!("{spans:?}").contains("secret"), "values are nobody's business: {spans:?}");
    Ok(())
}
