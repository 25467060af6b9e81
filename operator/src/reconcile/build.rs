//! Step 3, pure: the Kubernetes objects that a cluster consists of. It cannot fail: whatever could be wrong was refused
//! by the step before.

mod access;
mod config;
mod disruption;
mod network;
mod pod;
mod sessions;
mod statefulset;

use std::collections::{BTreeMap, BTreeSet};
use std::marker::PhantomData;

use brainy_coordination::placement::Policy;
use brainy_kubernetes::names;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, PodTemplateSpec, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};

use crate::plan::Accepted;
use crate::reconcile::validate::ValidatedCluster;

pub use config::{cluster_spec, node_config};
pub use disruption::budget as disruption_budget;
pub use network::policy as network_policy;
pub use pod::CONFIG_HASH_ANNOTATION;
pub use statefulset::{DATA_VOLUME, zones_text};

/// Built, not yet applied.
#[derive(Clone, Debug, PartialEq)]
pub struct Prepared;

/// As the API server returned it: status is written from nothing else.
#[derive(Clone, Debug, PartialEq)]
pub struct Applied;

/// The objects of a cluster. `State` is [`Prepared`] or [`Applied`].
#[derive(Clone, Debug, PartialEq)]
pub struct KubernetesResources<State> {
    /// The nodes' identity.
    pub service_account: ServiceAccount,
    /// What the nodes may do.
    pub role: Role,
    /// Gives it to them.
    pub role_binding: RoleBinding,
    /// Names the nodes.
    pub service: Service,
    /// The nodes' configuration.
    pub config_map: ConfigMap,
    /// The nodes' sessions, where Kubernetes keeps them (strategy Isolated). Created where absent, never changed.
    pub sessions: Vec<Lease>,
    /// Who reaches the nodes; none where the operator is not told to see to that. [`network_policy`] makes it.
    pub network_policy: Option<NetworkPolicy>,
    /// The nodes, in the order of the [layout](crate::layout).
    pub statefulsets: Vec<StatefulSet>,
    /// Prepared or applied.
    pub state: PhantomData<State>,
}

/// What the operator runs in every node's pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SidecarImage {
    /// The image.
    pub image: String,
    /// `Always`, `IfNotPresent` or `Never`.
    pub pull_policy: String,
}

/// What the build takes over from the live cluster.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Carried {
    /// How many nodes the StatefulSets have: more than wanted while leaving nodes still hold shards.
    pub replicas: i32,
    /// How many nodes may keep a session: more than `replicas` while a leaving pod has yet to end its own.
    pub sessions: i32,
    /// The live volume claim template of each StatefulSet. It can't be changed; claims are resized directly.
    pub claim_templates: Vec<Option<PersistentVolumeClaim>>,
    /// Slots of the nodes whose volumes exist, wanted or not.
    pub volumes: BTreeSet<i32>,
    /// How shards are to be placed.
    pub placement: Policy,
    /// Generation of the spec with which pattern Consensus began; `None`: another pattern.
    pub consensus_since: Option<i64>,
    /// What was accepted of the spec, as the StatefulSet is to say it.
    pub accepted: Option<Accepted>,
}

/// Builds every object of a cluster.
pub fn build(cluster: &ValidatedCluster, sidecar: &SidecarImage, carried: &Carried) -> KubernetesResources<Prepared> {
    let config_map = config::config_map(cluster, carried);
    KubernetesResources {
        service_account: access::service_account(cluster),
        role: access::role(cluster, carried.sessions),
        role_binding: access::role_binding(cluster),
        service: network::nodes_service(cluster),
        sessions: sessions::leases(cluster, carried.sessions),
        network_policy: None,
        statefulsets: statefulset::statefulsets(cluster, sidecar, carried, &config_map),
        config_map,
        state: PhantomData,
    }
}

/// The pod template alone, as [`build`] makes it for the first StatefulSet. Those of others differ by their zone.
pub fn pod_template(
    cluster: &ValidatedCluster,
    sidecar: &SidecarImage,
    consensus_since: Option<i64>,
) -> PodTemplateSpec {
    let zone = cluster.layout.sets().first().and_then(|set| set.zone.as_deref());
    let config = config::config_map(cluster, &Carried { consensus_since, ..Carried::default() });
    pod::template(cluster, sidecar, &config, zone)
}

/// What selects the pods of a cluster, and never changes.
pub fn selector_labels(cluster: &str) -> BTreeMap<String, String> {
    BTreeMap::from([(names::CLUSTER_LABEL.to_owned(), cluster.to_owned())])
}

/// The same as text: `brainy.io/cluster=<name>`.
pub fn selector_text(cluster: &str) -> String {
    format!("{}={cluster}", names::CLUSTER_LABEL)
}

/// Labels of every object of a cluster.
pub fn labels(cluster: &str) -> BTreeMap<String, String> {
    let mut labels = selector_labels(cluster);
    labels.insert(names::MANAGED_BY_LABEL.to_owned(), names::MANAGED_BY.to_owned());
    labels.insert("app.kubernetes.io/name".to_owned(), "brainy".to_owned());
    labels.insert("app.kubernetes.io/instance".to_owned(), cluster.to_owned());
    labels
}

/// Metadata of an object of a cluster: labelled, and deleted with it.
pub fn metadata(cluster: &ValidatedCluster, name: String) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: Some(cluster.namespace.clone()),
        labels: Some(labels(&cluster.name)),
        owner_references: Some(vec![cluster.owner.clone()]),
        ..ObjectMeta::default()
    }
}

/// What besides tells the StatefulSet of a zone, and its pods, from others.
fn zone_labels(zone: Option<&str>) -> BTreeMap<String, String> {
    zone.into_iter().map(|zone| (names::ZONE_LABEL.to_owned(), zone.to_owned())).collect()
}

fn selector(cluster: &ValidatedCluster) -> LabelSelector {
    LabelSelector { match_labels: Some(selector_labels(&cluster.name)), ..LabelSelector::default() }
}

#[cfg(test)]
mod tests;
