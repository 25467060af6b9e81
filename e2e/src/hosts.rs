//! The machines of the Kubernetes cluster: which one can be taken away, and which one must stay.

use std::collections::BTreeSet;

use anyhow::Context;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::ListParams;
use kube::{Api, ResourceExt};

use crate::Environment;
use crate::environment::STORAGE_NAMESPACE;

const CONTROL_PLANE: &str = "node-role.kubernetes.io/control-plane";

/// The hosts on which an API server runs that a test can stop: none where somebody else runs it.
pub async fn control_planes(environment: &Environment) -> anyhow::Result<Vec<String>> {
    let hosts: Api<Node> = Api::all(environment.client.clone());
    let found = hosts.list(&ListParams::default().labels(CONTROL_PLANE)).await?;
    Ok(found.items.iter().map(ResourceExt::name_any).collect())
}

/// A host that no test takes away.
pub async fn steady(environment: &Environment) -> anyhow::Result<String> {
    if let Some(host) = control_planes(environment).await?.into_iter().next() {
        return Ok(host);
    }
    let spared = spared(environment).await?;
    spared.into_iter().next().context("the S3 server runs nowhere")
}

/// A worker without which everything that the tests' clusters stand on is still there: the S3 server, and the cluster's DNS.
pub async fn dispensable(environment: &Environment) -> anyhow::Result<String> {
    let hosts: Api<Node> = Api::all(environment.client.clone());
    let workers = hosts.list(&ListParams::default().labels(&format!("!{CONTROL_PLANE}"))).await?;
    let spared = spared(environment).await?;
    let mut names = workers.items.iter().map(ResourceExt::name_any);
    names.find(|name| !spared.contains(name)).context("the S3 server or the DNS run on every worker")
}

/// Where the S3 server runs, and the DNS if it runs on one host alone.
async fn spared(environment: &Environment) -> anyhow::Result<BTreeSet<String>> {
    let mut spared = of(environment, STORAGE_NAMESPACE, "app.kubernetes.io/name=versitygw").await?;
    let dns = of(environment, "kube-system", "k8s-app=kube-dns").await?;
    if dns.len() == 1 {
        spared.extend(dns);
    }
    Ok(spared)
}

async fn of(environment: &Environment, namespace: &str, labels: &str) -> anyhow::Result<BTreeSet<String>> {
    let pods: Api<Pod> = Api::namespaced(environment.client.clone(), namespace);
    let pods = pods.list(&ListParams::default().labels(labels)).await?.items;
    Ok(pods.into_iter().filter_map(|pod| pod.spec?.node_name).collect())
}
