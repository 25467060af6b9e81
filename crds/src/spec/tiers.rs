//! `spec.storage.tiering` and `.regions`: hot and cold, near and far.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::BucketSpec;

/// Two tiers: each node's volume, and a bucket for what is not read for long.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TieringSpec {
    /// The bucket. What the nodes keep in it is not whole without their volumes, nor the other way round.
    pub bucket: BucketSpec,
    /// When a write is acknowledged.
    #[serde(default)]
    pub ack: TieringAck,
    /// Hours after which a key that was not read or written is kept in the bucket alone.
    #[serde(default = "default_demote_after_hours")]
    #[schemars(range(min = 1, max = 87_600))]
    pub demote_after_hours: i32,
    /// How full a volume may be, in percent, before its oldest keys are kept in the bucket alone.
    #[serde(default = "default_watermark_percent")]
    #[schemars(range(min = 10, max = 95))]
    pub watermark_percent: i32,
    /// How often a key is read in the bucket, of late, before it comes back to the volume; 0: it never does.
    #[serde(default = "default_promote_after_reads")]
    #[schemars(range(min = 0, max = 255))]
    pub promote_after_reads: i32,
}

/// When a write is acknowledged that has two tiers.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub enum TieringAck {
    /// Once it is durable on the volume. Who loses a volume loses what the bucket does not have yet.
    #[default]
    Hot,
    /// Once it is in the bucket too.
    Cold,
}

fn default_demote_after_hours() -> i32 {
    168
}

fn default_watermark_percent() -> i32 {
    80
}

fn default_promote_after_reads() -> i32 {
    3
}

/// A region: a bucket there, which this cluster reads and writes too.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RegionSpec {
    /// Its name: the same in each cluster.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$"))]
    pub name: String,
    /// Its bucket.
    pub bucket: BucketSpec,
}

/// How regions are kept equal.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ReplicationSpec {
    /// How many regions have a write when it is acknowledged.
    #[serde(default)]
    pub write_concern: WriteConcern,
    /// The region in which compareAndSwap, increment, conditions and operations with an id are decided; the first of the list
    /// unless it is set. A change moves it: nothing is decided meanwhile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub home: Option<String>,
}

/// How many regions have a write when it is acknowledged.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub enum WriteConcern {
    /// One: the own region, or the home if that decides. Who loses that region loses what the others do not have yet.
    #[default]
    Local,
    /// More than half of them.
    Majority,
    /// All.
    All,
}
