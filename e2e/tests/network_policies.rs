//! NetworkPolicies, on a network that enforces them: who reaches which port of nodes and of the operator. In a file of its own: the
//! operator is another meanwhile.

use std::path::Path;

use anyhow::Context;
use brainy_e2e::brainy::{Cluster, READY_LIMIT, pod_is_ready};
use brainy_e2e::environment::OPERATOR_NAMESPACE;
use brainy_e2e::helm::{chart, install, values};
use brainy_e2e::load::{self, Progress, verify};
use brainy_e2e::reach::{self, Stranger};
use brainy_e2e::specs::{self, sample};
use brainy_e2e::{Environment, Seen, helper, hosts, until, with_temp_namespace};
use brainy_kubernetes::names::{MANAGED_BY, METRICS_PORT, PEER_PORT};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

/// Of the operator's metrics and health.
const OPERATOR_OBSERVED: u16 = 8080;
const NODES: i32 = 3;

#[tokio::test(flavor = "multi_thread")]
async fn strangers_reach_neither_the_port_between_nodes_nor_the_operator_and_nodes_reach_each_other()
-> anyhow::Result<()> {
    let environment = &Environment::from_variables().await?;
    let mut strangers = Vec::new();
    // One on the same host as a node and one on another: policies are enforced on the way to either.
    let workers = hosts::workers(environment).await?;
    for host in workers.iter().take(2) {
        strangers.push(Stranger::on(environment, host).await?);
    }
    let outcome = judged(environment, &strangers, workers.last().context("there is no worker")?).await;
    for stranger in &strangers {
        stranger.remove().await?;
    }
    outcome
}

async fn judged(environment: &Environment, strangers: &[Stranger], host: &str) -> anyhow::Result<()> {
    let stranger = strangers.first().context("there is no worker")?;
    if !reach::policies_are_enforced(environment, stranger, host, "the test of NetworkPolicies").await? {
        return Ok(());
    }
    let folder = std::env::temp_dir().join(format!("brainy-policies-{}", uuid::Uuid::new_v4().simple()));
    std::fs::create_dir_all(&folder)?;
    let outcome = with_temp_namespace(environment, "policies", |namespace| {
        let folder = folder.clone();
        async move {
            let before = values(&folder).await?;
            let closed = closed(environment, &namespace, strangers, &folder).await;
            // Whatever came out, the tests after this one need the operator that was there.
            install(&chart(), &before, &[]).await?;
            closed
        }
    })
    .await;
    std::fs::remove_dir_all(&folder)?;
    outcome
}

/// The values that the release has, with these policies.
async fn with_policies(folder: &Path, policies: Value) -> anyhow::Result<()> {
    let mut values: Value = serde_json::from_slice(&std::fs::read(folder.join("values.json"))?)?;
    values["networkPolicy"] = policies;
    let file = folder.join("with-policies.json");
    std::fs::write(&file, values.to_string())?;
    install(&chart(), &file, &[]).await
}

async fn closed(
    environment: &Environment,
    namespace: &str,
    strangers: &[Stranger],
    folder: &Path,
) -> anyhow::Result<()> {
    // Sessions and ownership are among the nodes: the operator asks them at the port between nodes, as they do each other.
    let mut spec = specs::isolated(NODES);
    spec["coordination"]["pattern"] = json!("Consensus");
    let listen = reach::PORT.to_string();
    spec["application"] = json!({"image": environment.tools_image, "args": ["reach", "--listen", listen]});
    let cluster = Cluster::apply(environment, namespace, "c", spec).await?;
    cluster.ready().await?;
    for port in [PEER_PORT, METRICS_PORT, reach::PORT] {
        nodes_are(&cluster, strangers, port, true).await.context("without a policy")?;
    }

    with_policies(folder, json!({"clusters": true, "operator": false})).await?;
    nodes_are(&cluster, strangers, PEER_PORT, false).await?;
    for port in [METRICS_PORT, reach::PORT] {
        nodes_are(&cluster, strangers, port, true).await?;
    }
    goes_on(&cluster).await?;
    // Again, of a pod that came under the policy.
    nodes_are(&cluster, strangers, PEER_PORT, false).await?;

    let address = one_more_port(environment).await?;
    for (port, reached) in [(reach::PORT, true), (OPERATOR_OBSERVED, true)] {
        the_operator_is(strangers, &address, port, reached).await.context("without a policy")?;
    }
    with_policies(folder, json!({"clusters": true, "operator": true})).await?;
    for (port, reached) in [(reach::PORT, false), (OPERATOR_OBSERVED, true)] {
        the_operator_is(strangers, &address, port, reached).await?;
    }
    cluster.ready().await?;

    with_policies(folder, json!({"clusters": false, "operator": false})).await?;
    nodes_are(&cluster, strangers, PEER_PORT, true).await.context("once no policy is wanted any more")
}

/// Waits until every stranger reaches a port of every node, or until none does.
async fn nodes_are(cluster: &Cluster, strangers: &[Stranger], port: u16, reached: bool) -> anyhow::Result<()> {
    for pod in cluster.pods().await? {
        let address = pod.status.as_ref().and_then(|status| status.pod_ip.clone()).context("a node has no address")?;
        for stranger in strangers {
            stranger.until(&format!("port {port} of {}", pod.name_any()), &address, port, reached).await?;
        }
    }
    Ok(())
}

async fn the_operator_is(strangers: &[Stranger], address: &str, port: u16, reached: bool) -> anyhow::Result<()> {
    for stranger in strangers {
        stranger.until(&format!("port {port} of the operator"), address, port, reached).await?;
    }
    Ok(())
}

/// A node is replaced: others connect to it anew, it to them, and the operator to it. (Connections that were there before a policy are not
/// held to it.) Then each node forwards to others.
async fn goes_on(cluster: &Cluster) -> anyhow::Result<()> {
    let name = cluster.node(0).pod().to_owned();
    let before = cluster.pods_api().get(&name).await?.uid();
    cluster.pods_api().delete(&name, &DeleteParams::default()).await?;
    until(&format!("another pod {name} to be ready"), READY_LIMIT, || async {
        let now = cluster.pods_api().get(&name).await?;
        let is = now.uid() != before && pod_is_ready(&now);
        Ok(if is { Seen::Done(()) } else { Seen::NotYet(format!("{:?}, before {before:?}", now.uid())) })
    })
    .await?;
    cluster.ready().await?;
    for ordinal in 0..NODES {
        let records = sample(&format!("by-{ordinal}"), 200);
        load::write(&cluster.node(ordinal), &records, &Progress::default(), None).await?;
        verify(&cluster.node((ordinal + 1) % NODES), &records).await?;
    }
    Ok(())
}

/// Has something listen at one more port of a pod of the operator, which else has none that a policy could close; returns its address.
async fn one_more_port(environment: &Environment) -> anyhow::Result<String> {
    let pods: Api<Pod> = Api::namespaced(environment.client.clone(), OPERATOR_NAMESPACE);
    let wanted = ListParams::default().labels(&format!("app.kubernetes.io/name={MANAGED_BY}"));
    let pod =
        pods.list(&wanted).await?.items.into_iter().find(pod_is_ready).context("no pod of the operator is ready")?;
    let container = json!({
        "name": "one-more-port",
        "image": environment.tools_image,
        "args": ["reach", "--listen", reach::PORT.to_string()],
        "securityContext": helper::restricted(),
    });
    let patch = Patch::Strategic(json!({"spec": {"ephemeralContainers": [container]}}));
    let patched = pods.patch_ephemeral_containers(&pod.name_any(), &PatchParams::default(), &patch).await?;
    patched.status.and_then(|status| status.pod_ip).context("the operator has no address")
}
