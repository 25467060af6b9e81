//! BrainyClusters: applying, waiting, looking.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Context;
use brainy_coordination::ShardMap;
use brainy_crds::{BrainyCluster, condition};
use brainy_kubernetes::names;
use hyper::Request;
use k8s_openapi::api::core::v1::{ConfigMap, Event, Pod};
use kube::api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::bucket::Keys;
use crate::sidecar::SidecarClient;
use crate::{Environment, Seen, until};

/// Who applies, for server-side apply.
pub const FIELD_MANAGER: &str = "brainy-e2e";

/// How long a cluster may take until it is ready: image loading and volumes included, on a small machine under load.
pub const READY_LIMIT: Duration = Duration::from_secs(240);

/// One BrainyCluster of a test.
#[derive(Clone)]
pub struct Cluster {
    environment: Environment,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// The documents of a YAML file.
pub fn documents(yaml: &str) -> anyhow::Result<Vec<Value>> {
    serde_yaml::Deserializer::from_str(yaml).map(|document| Ok(Value::deserialize(document)?)).collect()
}

/// Applies any object, server-side and strictly: an unknown field is an error.
pub async fn apply(environment: &Environment, object: &Value) -> anyhow::Result<DynamicObject> {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let (group, version) = text("/apiVersion").split_once('/').unwrap_or(("", text("/apiVersion")));
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, text("/kind")));
    let api: Api<DynamicObject> = match text("/metadata/namespace") {
        "" => Api::all_with(environment.client.clone(), &resource),
        namespace => Api::namespaced_with(environment.client.clone(), namespace, &resource),
    };
    let parameters = PatchParams::apply(FIELD_MANAGER).force().validation_strict();
    Ok(api.patch(text("/metadata/name"), &parameters, &Patch::Apply(object)).await?)
}

/// Asks the API server whether it would take a BrainyCluster, as `kubectl apply --dry-run=server` does: a strict creation, or
/// a strict change of what was [applied](apply), of which a field that is not named any more is removed.
pub async fn dry_run(environment: &Environment, object: &Value, change: bool) -> anyhow::Result<()> {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let collection = format!("/apis/brainy.io/v1alpha1/namespaces/{}/brainyclusters", text("/metadata/namespace"));
    let query = "dryRun=All&fieldValidation=Strict";
    let body = serde_json::to_vec(object)?;
    let request = match change {
        false => Request::post(format!("{collection}?{query}")).header("content-type", "application/json"),
        true => Request::patch(format!(
            "{collection}/{}?{query}&fieldManager={FIELD_MANAGER}&force=true",
            text("/metadata/name")
        ))
        .header("content-type", "application/apply-patch+yaml"),
    };
    environment.client.request::<Value>(request.body(body)?).await?;
    Ok(())
}

/// A Secret with bucket keys.
pub fn keys_secret(namespace: &str, name: &str, keys: &Keys) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": name, "namespace": namespace},
        "stringData": {"accessKeyId": keys.id, "secretAccessKey": keys.secret},
    })
}

impl Cluster {
    /// Applies a spec.
    pub async fn apply(environment: &Environment, namespace: &str, name: &str, spec: Value) -> anyhow::Result<Self> {
        let object = json!({
            "apiVersion": "brainy.io/v1alpha1", "kind": "BrainyCluster",
            "metadata": {"name": name, "namespace": namespace},
            "spec": spec,
        });
        apply(environment, &object).await?;
        Ok(Self::existing(environment, namespace, name))
    }

    /// One that is there.
    pub fn existing(environment: &Environment, namespace: &str, name: &str) -> Self {
        Self { environment: environment.clone(), namespace: namespace.to_owned(), name: name.to_owned() }
    }

    /// The API for BrainyClusters of its namespace.
    pub fn api(&self) -> Api<BrainyCluster> {
        Api::namespaced(self.environment.client.clone(), &self.namespace)
    }

    /// The API for pods of its namespace.
    pub fn pods_api(&self) -> Api<Pod> {
        Api::namespaced(self.environment.client.clone(), &self.namespace)
    }

    /// Changes the spec: a JSON merge patch.
    pub async fn change(&self, spec: Value) -> anyhow::Result<BrainyCluster> {
        let patch = Patch::Merge(json!({"spec": spec}));
        let parameters = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
        self.api().patch(&self.name, &parameters, &patch).await.with_context(|| format!("can't change {}", self.name))
    }

    /// Waits until the operator has seen the newest spec and says Ready.
    pub async fn ready(&self) -> anyhow::Result<BrainyCluster> {
        self.until_condition(condition::READY, "True", None, READY_LIMIT).await
    }

    /// Waits for a condition of the newest generation, with a reason if one is given.
    pub async fn until_condition(
        &self,
        kind: &str,
        status: &str,
        reason: Option<&str>,
        limit: Duration,
    ) -> anyhow::Result<BrainyCluster> {
        let what =
            format!("BrainyCluster {}/{}: {kind}={status} {}", self.namespace, self.name, reason.unwrap_or_default());
        until(&what, limit, || async {
            let cluster = self.api().get(&self.name).await?;
            let generation = cluster.metadata.generation;
            let there = cluster.status.clone().unwrap_or_default();
            let found = there.conditions.iter().find(|condition| condition.type_ == kind);
            let met = found.is_some_and(|found| {
                found.status == status
                    && found.observed_generation == generation
                    && reason.is_none_or(|reason| found.reason == reason)
            });
            Ok(if met { Seen::Done(cluster) } else { Seen::NotYet(in_words(&there)) })
        })
        .await
    }

    /// Waits for an Event about it with a reason.
    pub async fn until_event(&self, reason: &str) -> anyhow::Result<()> {
        let events: Api<Event> = Api::namespaced(self.environment.client.clone(), &self.namespace);
        let uid = self.api().get(&self.name).await?.uid();
        until(&format!("an Event {reason} about {}", self.name), Duration::from_secs(60), || async {
            let of_it: Vec<Event> = events.list(&ListParams::default()).await?.items;
            let of_it: Vec<String> =
                of_it.into_iter().filter(|e| e.involved_object.uid == uid).filter_map(|e| e.reason).collect();
            Ok(if of_it.iter().any(|there| there == reason) {
                Seen::Done(())
            } else {
                Seen::NotYet(format!("{of_it:?}"))
            })
        })
        .await
    }

    /// Deletes it.
    pub async fn delete(&self) -> anyhow::Result<()> {
        self.api()
            .delete(&self.name, &DeleteParams::background())
            .await
            .with_context(|| format!("can't delete {}", self.name))?;
        Ok(())
    }

    /// Deletes it, and waits until it and its pods are gone.
    pub async fn delete_and_wait(&self) -> anyhow::Result<()> {
        self.delete().await?;
        until(&format!("{} and its pods to be gone", self.name), Duration::from_secs(180), || async {
            let (there, pods) = (self.api().get_opt(&self.name).await?.is_some(), self.pods().await?.len());
            Ok(if !there && pods == 0 {
                Seen::Done(())
            } else {
                Seen::NotYet(format!("{pods} pods, resource there: {there}"))
            })
        })
        .await
    }

    /// Its pods, by name.
    pub async fn pods(&self) -> anyhow::Result<Vec<Pod>> {
        let wanted = ListParams::default().labels(&format!("{}={}", names::CLUSTER_LABEL, self.name));
        let mut pods = self.pods_api().list(&wanted).await?.items;
        pods.sort_by_key(ResourceExt::name_any);
        Ok(pods)
    }

    /// Their UIDs, which tell whether one was replaced.
    pub async fn pod_uids(&self) -> anyhow::Result<BTreeSet<String>> {
        Ok(self.pods().await?.iter().filter_map(ResourceExt::uid).collect())
    }

    /// Waits until none of these pods is left, and there are so many others.
    pub async fn until_replaced(
        &self,
        before: &BTreeSet<String>,
        wanted: usize,
        limit: Duration,
    ) -> anyhow::Result<()> {
        until("every pod to be replaced", limit, || async {
            let now = self.pod_uids().await?;
            let left = now.intersection(before).count();
            Ok(if left == 0 && now.len() == wanted {
                Seen::Done(())
            } else {
                Seen::NotYet(format!("{left} old pods of {}", now.len()))
            })
        })
        .await
    }

    /// A client of a node's storage API.
    pub fn node(&self, ordinal: i32) -> SidecarClient {
        SidecarClient::new(&self.environment.client, &self.namespace, &names::node(&self.name, ordinal))
    }

    /// The published shard map.
    pub async fn shard_map(&self) -> anyhow::Result<ShardMap> {
        let maps: Api<ConfigMap> = Api::namespaced(self.environment.client.clone(), &self.namespace);
        let map = maps.get(&names::shard_map(&self.name)).await.context("can't read the shard map")?;
        let text =
            map.data.as_ref().and_then(|data| data.get(names::SHARD_MAP_KEY)).context("the shard map is empty")?;
        Ok(serde_json::from_str(text)?)
    }
}

/// Whether a pod is ready.
pub fn pod_is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    let terminating = pod.metadata.deletion_timestamp.is_some();
    !terminating
        && conditions.into_iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn in_words(status: &brainy_crds::BrainyClusterStatus) -> String {
    let conditions: Vec<String> = status
        .conditions
        .iter()
        .map(|condition| match condition.status.as_str() {
            "True" => format!("{}=True", condition.type_),
            other => format!("{}={other} {}: {}", condition.type_, condition.reason, condition.message),
        })
        .collect();
    match conditions.is_empty() {
        true => "no status yet".into(),
        false => format!("nodes {}, shards {}; {}", status.nodes, status.shards_owned, conditions.join("; ")),
    }
}
