//! `spec.coordination`: who decides ownership, and how liveness is judged.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Who decides ownership, and how liveness is judged.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CoordinationSpec {
    /// The coordination pattern.
    #[serde(default)]
    pub pattern: Pattern,
    /// Timing of sessions and leases.
    #[serde(default)]
    pub lease: LeaseSpec,
    /// How shards are placed on nodes. Nodes of all zones (`topology.kubernetes.io/zone`) get as even a share as their number
    /// allows.
    #[serde(default)]
    pub placement: PlacementSpec,
}

/// How shards are placed on nodes.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PlacementSpec {
    /// What is the same for every node.
    #[serde(default)]
    pub balance: Balance,
    /// Most shards on the way from one node to another at once, where both are well. Shards of a node that leaves or is gone
    /// move at once. None: with strategy Isolated 8, otherwise no bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 16384))]
    pub max_moves: Option<i32>,
    /// With strategy Isolated: MiB that a node sends in a second, at most, of all shards that are copied from it to others while
    /// it serves them. None: 64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000))]
    pub move_mebibytes_per_second: Option<i32>,
}

/// What is the same for every node.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub enum Balance {
    /// The number of its shards, to within one.
    #[default]
    Count,
    /// What is asked of its shards, as measured. Shards move for it when nodes have been more than a fifth apart for a minute.
    Load,
}

/// Who decides which node owns which shard.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub enum Pattern {
    /// The operator decides.
    #[default]
    Leader,
    /// The sidecars keep sessions and map among them, agreed on by a majority (Raft), and elect one that decides: with no
    /// operator and no bucket. To change from or to it, all nodes stop, and start again.
    Consensus,
    /// The sidecars elect one among them that decides, in the bucket: with no operator alive as well.
    StorageNative,
}

/// Timing of sessions and leases, in seconds.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "self.renewSeconds * 2 <= self.durationSeconds", "message": "coordination.lease.renewSeconds must be at most half of durationSeconds: one lost renewal must not end a node's session"}
]))]
pub struct LeaseSpec {
    /// How long a node's session lasts without a renewal.
    #[serde(default = "default_duration")]
    #[schemars(range(min = 2, max = 3600))]
    pub duration_seconds: i32,
    /// How often it is renewed.
    #[serde(default = "default_renew")]
    #[schemars(range(min = 1, max = 1800))]
    pub renew_seconds: i32,
}

fn default_duration() -> i32 {
    30
}

fn default_renew() -> i32 {
    10
}

impl Default for LeaseSpec {
    fn default() -> Self {
        Self { duration_seconds: default_duration(), renew_seconds: default_renew() }
    }
}
