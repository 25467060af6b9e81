//! Whole reconciles against an API server in memory.

mod certificates;
mod evictions;
mod lost;
mod nodes;
mod objects;
mod regions;
mod rollout;
mod sidecars;
mod volumes;
mod zones;

use std::sync::Arc;

use brainy_coordination::clock::{Clock, ManualClock};
use brainy_coordination::elector::{Candidate, Term};
use brainy_crds::BrainyCluster;
use brainy_storage::documents::{DocumentVersion, Swap};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, Service, ServiceAccount};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::Resource;
use kube::runtime::watcher::Event;
use serde_json::json;

use super::build::SidecarImage;
use super::*;
use crate::context::Parts;
use crate::events::Events;
use crate::fake_api::FakeApi;
use crate::fixtures::{isolated, shared};
use crate::metrics::Metrics;

const CLUSTER: &str = "/apis/brainy.io/v1alpha1/namespaces/team/brainyclusters/demo";
const SET: &str = "/apis/apps/v1/namespaces/team/statefulsets/demo";
const SERVICE: &str = "/api/v1/namespaces/team/services/demo-nodes";

fn claim_path(ordinal: i32) -> String {
    format!("/api/v1/namespaces/team/persistentvolumeclaims/data-demo-{ordinal}")
}

struct World {
    api: FakeApi,
    context: Context,
    memory: ClusterMemory,
    clock: ManualClock,
    seen: BrainyCluster,
}

fn term(clock: &ManualClock) -> Term {
    let mut candidate = Candidate::new("me".into(), Duration::from_secs(15), Arc::new(clock.clone()));
    let attempt = candidate.attempt(Some(None)).unwrap();
    candidate.answered(attempt, Ok(Swap::Applied(DocumentVersion("1".into()))));
    candidate.term().unwrap()
}

impl World {
    fn new(cluster: BrainyCluster) -> Self {
        let api = FakeApi::default();
        api.insert(CLUSTER, &cluster);
        let clock = ManualClock::default();
        let shared_clock: Arc<dyn Clock> = Arc::new(clock.clone());
        let context = Context::new(Parts {
            client: api.client(),
            clock: shared_clock,
            identity: "me".into(),
            sidecar: SidecarImage { image: "brainy-sidecar:1".into(), pull_policy: "IfNotPresent".into() },
            term: term(&clock),
            events: Events::new(api.client(), "me"),
            metrics: Metrics::default(),
        });
        Self { api, context, memory: ClusterMemory::default(), clock, seen: cluster }
    }

    async fn reconcile(&mut self) -> Result<Duration, Error> {
        reconcile(&self.context, &self.seen, &mut self.memory).await
    }

    /// Lets the watches see what the API server holds.
    fn watch(&self) {
        self.note::<StatefulSet>(SET);
        self.note::<Service>(SERVICE);
        self.note::<ServiceAccount>("/api/v1/namespaces/team/serviceaccounts/demo-node");
        self.note::<ConfigMap>("/api/v1/namespaces/team/configmaps/demo-config");
        self.note::<Role>("/apis/rbac.authorization.k8s.io/v1/namespaces/team/roles/demo-node");
        self.note::<RoleBinding>("/apis/rbac.authorization.k8s.io/v1/namespaces/team/rolebindings/demo-node");
        self.note::<PodDisruptionBudget>("/apis/policy/v1/namespaces/team/poddisruptionbudgets/demo");
    }

    fn note<K: Resource<DynamicType = ()> + serde::de::DeserializeOwned>(&self, path: &str) {
        if let Some(object) = self.api.object(path) {
            let object: K = serde_json::from_value(object).unwrap();
            self.context.seen.note(&Event::Apply(object), None);
        }
    }

    fn condition(&self, type_: &str) -> (String, String) {
        (self.condition_field(type_, "status"), self.condition_field(type_, "reason"))
    }

    fn condition_field(&self, type_: &str, field: &str) -> String {
        let object = self.api.object(CLUSTER).unwrap();
        let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let found = conditions.iter().find(|condition| condition["type"] == type_).cloned().unwrap_or_default();
        found[field].as_str().unwrap_or_default().to_owned()
    }

    /// What the StatefulSet controller would do: pods of a revision.
    fn add_pod(&self, ordinal: i32, revision: &str, ready: bool) {
        let set = self.api.object(SET).unwrap();
        let name = format!("demo-{ordinal}");
        let pod = json!({
            "metadata": {
                "name": name, "namespace": "team",
                "labels": {"brainy.io/cluster": "demo", "controller-revision-hash": revision},
                "ownerReferences": [{
                    "apiVersion": "apps/v1", "kind": "StatefulSet", "name": "demo",
                    "uid": set["metadata"]["uid"], "controller": true,
                }],
            },
            "spec": {"containers": [], "nodeName": "worker"},
            "status": {"conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]},
        });
        self.api.insert(&format!("/api/v1/namespaces/team/pods/{name}"), &pod);
    }

    /// A volume claim as the StatefulSet controller makes it.
    fn add_claim(&self, ordinal: i32) {
        let claim =
            json!({"metadata": {"name": format!("data-demo-{ordinal}"), "labels": {"brainy.io/cluster": "demo"}}});
        self.api.insert(&claim_path(ordinal), &claim);
    }

    fn set_revision(&self, revision: &str) {
        self.api.edit(SET, |set| {
            let generation = set["metadata"]["generation"].clone();
            set["status"] = json!({"replicas": 3, "observedGeneration": generation, "updateRevision": revision});
        });
    }
}

/// Calls that change objects of the cluster, without Events and the status.
fn changes(world: &World) -> Vec<String> {
    let told = |call: &String| call.contains("/events") || call.ends_with("/status");
    world.api.writes().into_iter().filter(|call| !told(call)).collect()
}
