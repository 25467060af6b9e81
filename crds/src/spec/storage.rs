//! `spec.storage`: where data lives.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{LayerSpec, RegionSpec, ReplicationSpec, TieringSpec};

/// Where data lives: the strategy, and the volume or bucket it needs.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "self.strategy == 'Isolated' || has(self.bucket) || has(self.regions)", "message": "storage.bucket is required with strategy Namespaced or Shared: nodes share their data through it. With Shared there may be storage.regions in its place"},
    {"rule": "self.strategy != 'Isolated' || !has(self.bucket)", "message": "storage.bucket has no use with strategy Isolated: data lives on each node's volume. Remove storage.bucket, or choose strategy Namespaced or Shared"},
    {"rule": "self.strategy == 'Isolated' || !has(self.tiering)", "message": "storage.tiering has a use with strategy Isolated only: with Namespaced and Shared all data lies in the bucket already. Remove storage.tiering, or choose strategy Isolated"},
    {"rule": "has(self.tiering) == has(oldSelf.tiering) && (!has(self.tiering) || (self.tiering.bucket.name == oldSelf.tiering.bucket.name && (has(self.tiering.bucket.prefix) ? self.tiering.bucket.prefix : '') == (has(oldSelf.tiering.bucket.prefix) ? oldSelf.tiering.bucket.prefix : '')))", "message": "storage.tiering can't be added or removed, and its bucket's name and prefix can't be changed, once the BrainyCluster is there: what is on the volumes is not whole without it. Create a new BrainyCluster and copy the data"},
    {"rule": "self.strategy == 'Shared' || !has(self.regions)", "message": "storage.regions has a use with strategy Shared only: a region's data lies in its bucket, each shard at one place. Remove storage.regions, or choose strategy Shared"},
    {"rule": "!has(self.regions) || !has(self.bucket)", "message": "storage.bucket and storage.regions exclude each other: each region has a bucket of its own. Remove one of them"},
    {"rule": "!has(self.regions) || self.regions.all(region, self.regions.exists_one(other, other.name == region.name))", "message": "storage.regions has a name twice: each region needs a name of its own"},
    {"rule": "!has(self.regions) || self.regions.all(region, self.regions.exists_one(other, other.bucket.name == region.bucket.name && (has(other.bucket.prefix) ? other.bucket.prefix : '') == (has(region.bucket.prefix) ? region.bucket.prefix : '') && (has(other.bucket.endpoint) ? other.bucket.endpoint : '') == (has(region.bucket.endpoint) ? region.bucket.endpoint : '')))", "message": "storage.regions has the same bucket and prefix twice: each region needs a place of its own"},
    {"rule": "!has(self.region) || has(self.regions) && self.regions.exists(region, region.name == self.region)", "message": "storage.region must be the name of one of storage.regions"},
    {"rule": "!has(self.replication) || has(self.regions)", "message": "storage.replication has a use with storage.regions only: remove it"},
    {"rule": "!has(self.replication) || !has(self.replication.home) || !has(self.regions) || self.regions.exists(region, region.name == self.replication.home)", "message": "storage.replication.home must be the name of one of storage.regions"},
    {"rule": "!has(self.regions) || !has(self.layers) || !self.layers.exists(layer, layer.type == 'Caching' || layer.type == 'Batching')", "message": "storage.layers can't have Caching or Batching with storage.regions: what other regions write would not be seen, and plain writes would be decided in the home. Remove them"},
    {"rule": "has(self.regions) == has(oldSelf.regions)", "message": "storage.regions can't be added or removed once the BrainyCluster is there: data in regions is kept otherwise. Create a new BrainyCluster and copy the data"},
    {"rule": "!has(self.regions) || !has(oldSelf.regions) || self.regions.all(region, oldSelf.regions.all(old, old.name != region.name || old.bucket.name == region.bucket.name && (has(old.bucket.prefix) ? old.bucket.prefix : '') == (has(region.bucket.prefix) ? region.bucket.prefix : '')))", "message": "storage.regions: a region's bucket.name and bucket.prefix can't be changed: the data stays where it was written. Add a region of another name, and retire this one"},
    {"rule": "!has(oldSelf.region) || has(self.region) && self.region == oldSelf.region", "message": "storage.region can't be changed: the cluster's data and leases are in its bucket. Create a new BrainyCluster in the other region"},
    {"rule": "!has(self.layers) || self.layers.all(layer, self.layers.exists_one(other, other.type == layer.type))", "message": "storage.layers has a layer twice: each type may come once"},
    {"rule": "!has(self.layers) || !self.layers.exists(layer, layer.type == 'Caching') || self.layers[0].type == 'Caching'", "message": "storage.layers: Caching must come first: below Batching a read would have to wait for a flush, below Compression each read would decompress"},
    {"rule": "!has(self.layers) || !self.layers.exists(layer, layer.type == 'Batching') || !self.layers.exists(layer, layer.type == 'Limiting') || self.layers[self.layers[0].type == 'Caching' ? 1 : 0].type == 'Batching'", "message": "storage.layers: Limiting must come after Batching: above it a write that waits for its flush would take up a place among the operations under way"},
    {"rule": "!has(self.layers) || !self.layers.exists(layer, layer.type == 'Compression') || self.layers[self.layers.size() - 1].type == 'Compression'", "message": "storage.layers: Compression must come last: it belongs to how a value is stored, and what lies above must see the value itself"},
    {"rule": "self.strategy == oldSelf.strategy", "message": "storage.strategy can't be changed: data does not move between strategies. Create a new BrainyCluster and copy the data"},
    {"rule": "has(self.bucket) == has(oldSelf.bucket) && (!has(self.bucket) || (self.bucket.name == oldSelf.bucket.name && (has(self.bucket.prefix) ? self.bucket.prefix : '') == (has(oldSelf.bucket.prefix) ? oldSelf.bucket.prefix : '')))", "message": "storage.bucket.name and storage.bucket.prefix can't be changed: the data stays where it was written"}
]))]
pub struct StorageSpec {
    /// How nodes share storage.
    #[serde(default)]
    pub strategy: Strategy,

    /// The volume of each node: for its data (strategy Isolated), or for its log (pattern Consensus; 1Gi if it is left out).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<VolumeSpec>,

    /// The bucket that the nodes share (strategies Namespaced and Shared).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bucket: Option<BucketSpec>,

    /// A cold tier under the volumes: what is not read for long is kept in a bucket alone (strategy Isolated). Chosen when the
    /// cluster is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tiering: Option<TieringSpec>,

    /// In place of `bucket` (strategy Shared): regions, each with a bucket and a BrainyCluster of its own, of which each has all
    /// data. The same resource may be applied in each. There may be one at first, and others later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 8))]
    pub regions: Option<Vec<RegionSpec>>,

    /// Which of the regions is this cluster's own. Absent: the one that its machines have in common in the label
    /// `topology.kubernetes.io/region`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub region: Option<String>,

    /// How the regions are kept equal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replication: Option<ReplicationSpec>,

    /// Layers over the store, from the application down: Caching, Batching, Limiting, Compression. Any of them may be left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub layers: Vec<LayerSpec>,
}

/// How nodes share storage.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub enum Strategy {
    /// Each node keeps its shards on its own volume.
    #[default]
    Isolated,
    /// One bucket, one namespace per node: a shard that moves is served at once, and its data copied behind.
    Namespaced,
    /// One bucket, every shard at one place; a shard's lease says who may write it.
    Shared,
}

/// The volume of each node.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct VolumeSpec {
    /// Size of the PersistentVolumeClaim.
    #[serde(default = "default_volume_size")]
    pub size: Quantity,
    /// StorageClass; the cluster's default when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage_class_name: Option<String>,
    /// In what the node keeps its data. A volume that has data stays what it is: a change holds for new ones.
    #[serde(default)]
    pub engine: VolumeEngine,
    /// From how many percent on condition VolumesHealthy warns of a volume (strategy Isolated; 85 if it is left out).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 99))]
    pub warn_percent: Option<i32>,
}

/// In what a node keeps its data on its volume.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub enum VolumeEngine {
    /// An embedded database: many writers share one flush of the disk.
    #[default]
    Embedded,
    /// A file per key, for data that people want to see as files.
    Files,
}

fn default_volume_size() -> Quantity {
    Quantity("10Gi".into())
}

impl Default for VolumeSpec {
    fn default() -> Self {
        Self {
            size: default_volume_size(),
            storage_class_name: None,
            engine: VolumeEngine::default(),
            warn_percent: None,
        }
    }
}

/// An S3 or R2 bucket, and the part of it that belongs to this cluster.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "self.provider != 'R2' || has(self.endpoint)", "message": "storage.bucket.endpoint is required with provider R2: https://<account>.r2.cloudflarestorage.com"},
    {"rule": "self.provider != 'R2' || has(self.credentialsSecret)", "message": "storage.bucket.credentialsSecret is required with provider R2: R2 knows no identity of a pod"},
    {"rule": "self.provider != 'R2' || self.region in ['auto', 'us-east-1']", "message": "storage.bucket.region has no use with provider R2, which knows only auto: leave it out"}
]))]
pub struct BucketSpec {
    /// Whose protocol differences apply.
    #[serde(default)]
    pub provider: Provider,
    /// The bucket's name. It must exist.
    #[schemars(length(min = 3, max = 63), regex(pattern = r"^[a-z0-9][a-z0-9.-]*[a-z0-9]$"))]
    pub name: String,
    /// Everything of this cluster lies under `<prefix>/`. Two clusters never share a bucket and prefix.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 200), regex(pattern = r"^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*$"))]
    pub prefix: Option<String>,
    /// The region to sign for. R2 has only one, `auto`, and takes the default for it.
    #[serde(default = "default_region")]
    #[schemars(length(min = 1, max = 64))]
    pub region: String,
    /// The server, for everything but AWS: `http://host:port` or `https://host:port`. R2: `https://<account>.r2.cloudflarestorage.com`,
    /// of a jurisdiction `https://<account>.<jurisdiction>.r2.cloudflarestorage.com`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512), regex(pattern = r"^https?://[^/ ]+/?$"))]
    pub endpoint: Option<String>,
    /// Secret of the same namespace with the keys `accessKeyId` and `secretAccessKey`. None: the pod's own identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub credentials_secret: Option<String>,
}

/// The region of a bucket whose spec names none.
pub const DEFAULT_REGION: &str = "us-east-1";

fn default_region() -> String {
    DEFAULT_REGION.into()
}

/// Whose object store.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub enum Provider {
    /// AWS S3, or a server that speaks its protocol with conditional writes.
    #[default]
    S3,
    /// Cloudflare R2, by its S3 API.
    R2,
}
