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
    /// How many shards a live node says it holds, of how many: `256/256`.
    #[serde(default)]
    pub shards_owned: String,
    /// Revision of the shard map that was published last.
    #[serde(default)]
    pub map_revision: i64,
    /// Selects the node pods (read by the scale subresource).
    #[serde(default)]
    pub selector: String,
    /// Ready, Progressing, StorageReady, ShardsAssigned, VolumesHealthy.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
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
    /// Every volume has the size that the spec wants, and room (strategy Isolated).
    pub const VOLUMES_HEALTHY: &str = "VolumesHealthy";
}
