//! What the operator reports under `status`.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the operator saw last.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct BrainyClusterStatus {
    /// The generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// How many node pods exist (read by the scale subresource).
    #[serde(default)]
    pub replicas: i32,
    /// How many nodes are ready.
    #[serde(default)]
    pub ready_nodes: i32,
    /// `ready/wanted` nodes, for people.
    #[serde(default)]
    pub nodes: String,
    /// The same of each zone (`spec.zones`): `west-1a 2/2, west-1b 1/1`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub nodes_by_zone: String,
    /// How many shards a live node says it holds, of how many: `256/256`.
    #[serde(default)]
    pub shards_owned: String,
    /// Revision of the shard map that was published last.
    #[serde(default)]
    pub map_revision: i64,
    /// Selects the node pods (read by the scale subresource).
    #[serde(default)]
    pub selector: String,
    /// The cluster's own region, once it is known; it never changes by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Where this cluster wishes keys to be decided, and since which generation of the spec.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub home: Option<HomeStatus>,
    /// How the regions stand, as this cluster's nodes see them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub regions: Vec<RegionStatus>,
    /// What a change does, from before it begins until it is carried out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<Plan>,
    /// Ready, Progressing, StorageReady, ShardsAssigned, VolumesHealthy, ChangesApproved, DisruptionAllowed; Hibernated of a
    /// cluster that did; TieringHealthy with a cold tier; RegionsHealthy with several regions; CertificatesReady where cert-manager issues the certificates.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// Where keys are to be decided.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct HomeStatus {
    /// In which region.
    pub region: String,
    /// The generation of the spec with which that began: a wish that is newer than what was carried out moves the home.
    #[serde(default)]
    pub since: i64,
}

/// How a region stands.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct RegionStatus {
    /// Its name.
    pub name: String,
    /// Minutes for which the oldest write of this cluster waits that it does not have yet.
    #[serde(default)]
    pub minutes_behind: i64,
    /// How many keys that is, in powers of two; 0 below a minute.
    #[serde(default)]
    pub keys_behind: i64,
    /// It takes no writes from some node.
    #[serde(default)]
    pub away: bool,
    /// It is being filled.
    #[serde(default)]
    pub filling: bool,
    /// Shards whose keys are decided there.
    #[serde(default)]
    pub homes: i64,
}

/// What a change does.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    /// What `spec.rollout.approvedPlan` has to say for it: stands for all that the plan was made from.
    #[serde(default)]
    pub hash: String,
    /// Whether it is carried out.
    #[serde(default)]
    pub approved: bool,
    /// In a sentence.
    #[serde(default)]
    pub summary: String,
    /// The objects that change.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub objects: Vec<PlannedObject>,
    /// The pods that are replaced, one at a time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub restarts: Vec<String>,
    /// The pods whose sidecar restarts, one at a time, while their application goes on. One of which that is refused is replaced.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sidecar_restarts: Vec<String>,
    /// The pods that get other resources without a restart. One of which that is refused is replaced.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub resizes: Vec<String>,
    /// How many shards another node gets for good; none: not known, or no node comes or goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shards_moved: Option<i32>,
    /// How many bytes are copied from node to node for it, about: none where the data is in a bucket that all share. None said:
    /// not known, or no node comes or goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_moved: Option<i64>,
    /// The volumes that grow.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<PlannedVolume>,
}

/// An object that a plan changes.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct PlannedObject {
    /// Its kind.
    #[serde(default)]
    pub kind: String,
    /// Its name.
    #[serde(default)]
    pub name: String,
    /// Which of its fields change, in short.
    #[serde(default)]
    pub fields: Vec<String>,
}

/// A volume that grows.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct PlannedVolume {
    /// Its claim.
    #[serde(default)]
    pub claim: String,
    /// What it has.
    #[serde(default)]
    pub from: String,
    /// What it gets.
    #[serde(default)]
    pub to: String,
}

/// The condition types of a BrainyCluster.
pub mod condition {
    /// Every node is ready and every shard is held by a live node.
    pub const READY: &str = "Ready";
    /// The operator is still changing something.
    pub const PROGRESSING: &str = "Progressing";
    /// The storage that the spec names answers as it must.
    pub const STORAGE_READY: &str = "StorageReady";
    /// Every shard has an owner in the published map.
    pub const SHARDS_ASSIGNED: &str = "ShardsAssigned";
    /// No node is wanted, and none runs.
    pub const HIBERNATED: &str = "Hibernated";
    /// No change waits for an approval.
    pub const CHANGES_APPROVED: &str = "ChangesApproved";
    /// A node's pod may be evicted: its PodDisruptionBudget refuses none.
    pub const DISRUPTION_ALLOWED: &str = "DisruptionAllowed";
    /// The nodes have a certificate of the issuer that the spec names, and its renewal is not overdue.
    pub const CERTIFICATES_READY: &str = "CertificatesReady";
    /// Every volume has the size that the spec wants, and room (strategy Isolated).
    pub const VOLUMES_HEALTHY: &str = "VolumesHealthy";
    /// The cold tier has all that was acknowledged, but for what is new (where the spec asks for one).
    pub const TIERING_HEALTHY: &str = "TieringHealthy";
    /// Every region has all that was acknowledged, but for what is new, and keys are decided where the spec wants it (where the
    /// spec asks for regions).
    pub const REGIONS_HEALTHY: &str = "RegionsHealthy";
}
