//! The machines of the Kubernetes cluster: which one can be taken away, and which one must stay.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use k8s_openapi::api::core::v1::{Node, Pod, Taint};
use kube::api::{DeleteParams, EvictParams, ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::json;

use crate::brainy::pod_is_ready;
use crate::environment::STORAGE_NAMESPACE;
use crate::{Environment, Seen, until};

/// The label of a machine that names its zone.
const ZONE: &str = "topology.kubernetes.io/zone";
const CONTROL_PLANE: &str = "node-role.kubernetes.io/control-plane";
/// Selects the S3 server.
const STORE: &str = "app.kubernetes.io/name=versitygw";
/// Selects the cluster's DNS, in its namespace.
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";
const DNS: &str = "k8s-app=kube-dns";
const DNS_NAMESPACE: &str = "kube-system";

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
    of(environment, STORAGE_NAMESPACE, STORE).await?.into_iter().next().context("the S3 server runs nowhere")
}

/// The hosts that pods are placed on.
pub async fn workers(environment: &Environment) -> anyhow::Result<Vec<String>> {
    let hosts: Api<Node> = Api::all(environment.client.clone());
    let found = hosts.list(&ListParams::default().labels(&format!("!{CONTROL_PLANE}"))).await?;
    Ok(found.items.iter().map(ResourceExt::name_any).collect())
}

/// A worker that can be taken away: the S3 server is on another one, and the cluster's DNS is moved to others if need be.
pub async fn dispensable(environment: &Environment) -> anyhow::Result<String> {
    let hosts: Api<Node> = Api::all(environment.client.clone());
    let spared = of(environment, STORAGE_NAMESPACE, STORE).await?;
    let mut names = workers(environment).await?.into_iter();
    let host = names.find(|name| !spared.contains(name)).context("there is one worker only: it has the S3 server")?;
    if of(environment, DNS_NAMESPACE, DNS).await?.contains(&host) {
        schedulable(&hosts, &host, false).await?;
        let moved = move_dns_from(environment, &host).await;
        schedulable(&hosts, &host, true).await?;
        moved?;
    }
    Ok(host)
}

/// Says that a worker is gone for good, as an administrator does, or that it is back.
pub async fn out_of_service(environment: &Environment, host: &str, is: bool) -> anyhow::Result<()> {
    let hosts: Api<Node> = Api::all(environment.client.clone());
    until("the taint to be as it should be", Duration::from_secs(30), || async {
        let found = hosts.get(host).await?;
        let mut taints = found.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
        taints.retain(|taint| taint.key != OUT_OF_SERVICE);
        if is {
            let (key, effect) = (OUT_OF_SERVICE.to_owned(), "NoExecute".to_owned());
            taints.push(Taint { key, effect, value: Some("nodeshutdown".into()), time_added: None });
        }
        // As it was read: others write it too.
        let at = found.resource_version();
        let patch = Patch::Merge(json!({"metadata": {"resourceVersion": at}, "spec": {"taints": taints}}));
        match hosts.patch(host, &PatchParams::default(), &patch).await {
            Ok(_) => Ok(Seen::Done(())),
            Err(kube::Error::Api(refused)) if refused.code == 409 => Ok(Seen::NotYet(refused.message)),
            Err(error) => Err(error.into()),
        }
    })
    .await
}

/// Waits until pods can be placed on a machine that was away.
pub async fn usable(environment: &Environment, host: &str) -> anyhow::Result<()> {
    let hosts: Api<Node> = Api::all(environment.client.clone());
    until("the machine to take pods", Duration::from_secs(120), || async {
        let taints = hosts.get(host).await?.spec.and_then(|spec| spec.taints).unwrap_or_default();
        let keys: Vec<String> = taints.into_iter().map(|taint| taint.key).collect();
        Ok(if keys.is_empty() { Seen::Done(()) } else { Seen::NotYet(keys.join(", ")) })
    })
    .await
}

/// Cordons a worker, or ends that, as `kubectl cordon` and `uncordon` do.
pub async fn cordon(environment: &Environment, host: &str, is: bool) -> anyhow::Result<()> {
    schedulable(&Api::all(environment.client.clone()), host, !is).await
}

/// What came of an eviction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evicted {
    /// The pod goes.
    Yes,
    /// A PodDisruptionBudget does not allow it now.
    Refused,
}

/// Asks for the eviction of a pod.
pub async fn evict(environment: &Environment, namespace: &str, pod: &str) -> anyhow::Result<Evicted> {
    let pods: Api<Pod> = Api::namespaced(environment.asks_once.clone(), namespace);
    match pods.evict(pod, &EvictParams::default()).await {
        Ok(_) => Ok(Evicted::Yes),
        Err(kube::Error::Api(refused)) if refused.code == 429 => Ok(Evicted::Refused),
        Err(error) => Err(error).with_context(|| format!("can't evict {pod}")),
    }
}

/// Evicts every pod of a namespace from a host, as `kubectl drain` does: again and again, while that is refused.
pub async fn evict_all(environment: &Environment, namespace: &str, host: &str, limit: Duration) -> anyhow::Result<()> {
    let pods: Api<Pod> = Api::namespaced(environment.client.clone(), namespace);
    let here = ListParams::default().fields(&format!("spec.nodeName={host}"));
    until(&format!("{host} to be empty"), limit, || async {
        let left = pods.list(&here).await?.items;
        let staying = left.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none());
        let mut refused = Vec::new();
        for pod in staying.map(ResourceExt::name_any) {
            if evict(environment, namespace, &pod).await? == Evicted::Refused {
                refused.push(pod);
            }
        }
        Ok(match left.is_empty() {
            true => Seen::Done(()),
            false => Seen::NotYet(format!("{} pods are there, refused: {refused:?}", left.len())),
        })
    })
    .await
}

/// A zone that has workers.
#[derive(Clone, Debug)]
pub struct Zone {
    /// Its name.
    pub name: String,
    /// The workers in it.
    pub hosts: BTreeSet<String>,
}

/// Works with two zones: those that the workers are in, or else two that they are said to be in meanwhile.
pub async fn while_in_zones<F>(environment: &Environment, work: impl FnOnce(Zone, Zone) -> F) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<()>>,
{
    const PLAYED: [&str; 2] = ["e2e-a", "e2e-b"];
    let hosts: Api<Node> = Api::all(environment.client.clone());
    let workers = hosts.list(&ListParams::default().labels(&format!("!{CONTROL_PLANE}"))).await?.items;
    // Those that a run before has left are put as they should be.
    let zone_of = |host: &Node| host.labels().get(ZONE).filter(|zone| !PLAYED.contains(&zone.as_str())).cloned();
    let mut zones: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (host, zone) in workers.iter().filter_map(|host| Some((host.name_any(), zone_of(host)?))) {
        zones.entry(zone).or_default().insert(host);
    }
    let are_real = zones.len() > 1;
    if !are_real {
        ensure!(zones.is_empty(), "all workers are in one zone: {zones:?}");
        ensure!(workers.len() > 1, "two zones want two workers");
        for (host, zone) in workers.iter().map(ResourceExt::name_any).zip(PLAYED.into_iter().cycle()) {
            label(&hosts, &host, Some(zone)).await?;
            zones.entry(zone.to_owned()).or_default().insert(host);
        }
    }
    let mut found = zones.into_iter().map(|(name, hosts)| Zone { name, hosts });
    let (Some(first), Some(second)) = (found.next(), found.next()) else { bail!("there are no two zones") };
    let outcome = work(first, second).await;
    if !are_real {
        for host in workers.iter().map(ResourceExt::name_any) {
            label(&hosts, &host, None).await?;
        }
    }
    outcome
}

async fn label(hosts: &Api<Node>, host: &str, zone: Option<&str>) -> anyhow::Result<()> {
    let patch = Patch::Merge(json!({"metadata": {"labels": {ZONE: zone}}}));
    hosts.patch(host, &PatchParams::default(), &patch).await.with_context(|| format!("can't label {host}"))?;
    Ok(())
}

async fn schedulable(hosts: &Api<Node>, host: &str, is: bool) -> anyhow::Result<()> {
    let patch = Patch::Merge(json!({"spec": {"unschedulable": !is}}));
    hosts.patch(host, &PatchParams::default(), &patch).await.with_context(|| format!("can't cordon {host}"))?;
    Ok(())
}

async fn move_dns_from(environment: &Environment, host: &str) -> anyhow::Result<()> {
    let pods: Api<Pod> = Api::namespaced(environment.client.clone(), DNS_NAMESPACE);
    let wanted = ListParams::default().labels(DNS);
    let there = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) == Some(host);
    for pod in pods.list(&wanted).await?.items.iter().filter(|pod| there(pod)) {
        pods.delete(&pod.name_any(), &DeleteParams::default()).await?;
    }
    until(&format!("the DNS to have moved from {host}"), Duration::from_secs(120), || async {
        let found = pods.list(&wanted).await?.items;
        let settled = !found.is_empty() && found.iter().all(|pod| pod_is_ready(pod) && !there(pod));
        Ok(if settled { Seen::Done(()) } else { Seen::NotYet("not all its pods are ready elsewhere".into()) })
    })
    .await
}

async fn of(environment: &Environment, namespace: &str, labels: &str) -> anyhow::Result<BTreeSet<String>> {
    let pods: Api<Pod> = Api::namespaced(environment.client.clone(), namespace);
    let pods = pods.list(&ListParams::default().labels(labels)).await?.items;
    Ok(pods.into_iter().filter_map(|pod| pod.spec?.node_name).collect())
}
