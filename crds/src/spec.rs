//! What a user writes under `spec`.

use k8s_openapi::api::core::v1::{Affinity, EnvVar, ResourceRequirements, Toleration};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::status::BrainyClusterStatus;
use crate::tls::TlsSpec;

/// N Brainy nodes, each with a sidecar that offers the storage API on localhost; every shard owned by exactly one node.
#[derive(CustomResource, Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[kube(
    group = "brainy.io",
    version = "v1alpha1",
    kind = "BrainyCluster",
    plural = "brainyclusters",
    shortname = "brainy",
    category = "all",
    namespaced,
    status = "BrainyClusterStatus",
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(name = "Nodes", type_ = "string", json_path = ".status.nodes", description = "ready nodes / wanted nodes"),
    printcolumn(name = "Shards", type_ = "string", json_path = ".status.shardsOwned", description = "owned shards / all shards"),
    printcolumn(name = "Strategy", type_ = "string", json_path = ".spec.storage.strategy"),
    printcolumn(name = "Pattern", type_ = "string", json_path = ".spec.coordination.pattern"),
    printcolumn(name = "State", type_ = "string", json_path = ".status.conditions[?(@.type==\"Progressing\")].reason", description = "Settled, Paused, PlanPending, Hibernated, or what is under way"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason", priority = 1),
    printcolumn(name = "Zones", type_ = "string", json_path = ".status.nodesByZone", description = "ready nodes / wanted nodes of each zone", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("self.metadata.name.matches('^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$')").message("metadata.name must be a DNS label of at most 40 characters that starts with a letter: it becomes the prefix of pod and Lease names"),
    validation = Rule::new("!has(self.spec.zones) || self.spec.zones.all(zone, self.metadata.name.size() + zone.size() <= 51)").message("metadata.name and the name of each zone of spec.zones may have 51 characters together: both become part of pod names and of their labels. Choose a shorter metadata.name")
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "self.storage.strategy != 'Isolated' || self.coordination.pattern != 'StorageNative'", "message": "coordination.pattern StorageNative keeps every lease in a store that all nodes share, and with storage.strategy Isolated there is none: choose pattern Leader or Consensus, or strategy Namespaced or Shared"},
    {"rule": "self.storage.strategy == 'Isolated' || self.coordination.pattern == 'Consensus' || !has(self.storage.volume)", "message": "storage.volume has a use with strategy Isolated or pattern Consensus only: otherwise data lives in the bucket, and nothing on the nodes. Remove storage.volume"},
    {"rule": "has(self.zones) == has(oldSelf.zones) && (!has(self.zones) || self.zones == oldSelf.zones)", "message": "zones can't be set, changed or removed once the BrainyCluster is there: nodes, and the volumes that have their data, are named by their zone. Create a new BrainyCluster with the wanted zones and copy the data"},
    {"rule": "!has(self.zones) || !has(self.pod.nodeSelector) || !('topology.kubernetes.io/zone' in self.pod.nodeSelector)", "message": "pod.nodeSelector names a zone, and with zones each node has one already: remove topology.kubernetes.io/zone from it"}
]))]
pub struct BrainyClusterSpec {
    /// How many nodes. Each is one pod with a stable name, `<cluster>-0` to `<cluster>-<replicas - 1>`; with `zones`
    /// `<cluster>-<zone>-0` and so on in each. 0: the cluster hibernates, with all its data.
    #[serde(default = "default_replicas")]
    #[schemars(range(min = 0, max = 1000))]
    pub replicas: i32,

    /// The zones that nodes are dealt out to in turn, one StatefulSet each, as machines name them in their label
    /// `topology.kubernetes.io/zone`. A node runs in its zone and nowhere else. Without them nodes run wherever there is room. Never
    /// changes after creation: a node and its volume are named by their zone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(min = 1, max = 9),
        inner(length(min = 1, max = 50), regex(pattern = r"^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$"))
    )]
    #[schemars(extend("x-kubernetes-validations" = [{"rule": "self.all(zone, self.exists_one(other, other == zone))", "message": "spec.zones has a zone twice: name each once"}]))]
    pub zones: Vec<String>,

    /// How many shards the keys are spread over. Never changes after creation: it is part of where every key lives.
    #[serde(default = "default_shards")]
    #[schemars(range(min = 1, max = 16384))]
    #[schemars(extend("x-kubernetes-validations" = [{"rule": "self == oldSelf", "message": "spec.shards can't be changed: every key's place depends on it. Create a new BrainyCluster with the wanted number and copy the data"}]))]
    pub shards: i32,

    /// Where data lives.
    pub storage: StorageSpec,

    /// Who decides which node owns which shard, and how liveness is judged.
    #[serde(default)]
    pub coordination: CoordinationSpec,

    /// The application beside the sidecar. Without it a node is the sidecar alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub application: Option<ApplicationSpec>,

    /// S3 on the pod's loopback, beside the storage API. Absent: it is not served.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub s3: Option<S3Spec>,

    /// Settings of every node's pod.
    #[serde(default)]
    pub pod: PodSpec,

    /// Where the nodes' certificates come from. Absent: from an authority of the operator's own, one for each cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsSpec>,

    /// What happens to volumes and bucket data when the BrainyCluster is deleted.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,

    /// Change nothing, whatever the spec says: the status, certificates and the shards of the nodes that there are go on.
    #[serde(default)]
    pub paused: bool,

    /// When a change is carried out.
    #[serde(default)]
    pub rollout: RolloutSpec,
}

fn default_replicas() -> i32 {
    3
}

fn default_shards() -> i32 {
    256
}

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

/// One layer over the store.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "!has(self.caching) || self.type == 'Caching'", "message": "storage.layers[].caching belongs to a layer of type Caching"},
    {"rule": "!has(self.batching) || self.type == 'Batching'", "message": "storage.layers[].batching belongs to a layer of type Batching"},
    {"rule": "!has(self.limiting) || self.type == 'Limiting'", "message": "storage.layers[].limiting belongs to a layer of type Limiting"},
    {"rule": "!has(self.compression) || self.type == 'Compression'", "message": "storage.layers[].compression belongs to a layer of type Compression"}
]))]
pub struct LayerSpec {
    /// Which layer.
    #[serde(rename = "type")]
    pub kind: LayerKind,
    /// Settings of a layer of type Caching.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caching: Option<CachingSpec>,
    /// Settings of a layer of type Batching.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batching: Option<BatchingSpec>,
    /// Settings of a layer of type Limiting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limiting: Option<LimitingSpec>,
    /// Settings of a layer of type Compression.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compression: Option<CompressionSpec>,
}

/// How much each node keeps in memory. Both bounds hold.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CachingSpec {
    /// Most keys.
    #[serde(default = "default_cache_entries")]
    #[schemars(range(min = 1, max = 10_000_000))]
    pub max_entries: i32,
    /// Most megabytes (MiB) of keys and values, roughly.
    #[serde(default = "default_cache_megabytes")]
    #[schemars(range(min = 1, max = 65_536))]
    pub max_megabytes: i32,
}

impl Default for CachingSpec {
    fn default() -> Self {
        Self { max_entries: default_cache_entries(), max_megabytes: default_cache_megabytes() }
    }
}

fn default_cache_entries() -> i32 {
    10_000
}

fn default_cache_megabytes() -> i32 {
    64
}

/// When writes that came close together are flushed: whichever comes first.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BatchingSpec {
    /// Longest time that a write waits for others.
    #[serde(default = "default_batch_delay")]
    #[schemars(range(min = 1, max = 10_000))]
    pub max_delay_milliseconds: i32,
    /// Most writes in a batch.
    #[serde(default = "default_batch_items")]
    #[schemars(range(min = 1, max = 10_000))]
    pub max_items: i32,
    /// When a write is acknowledged: once it is flushed, or at once. What was acknowledged at once and not flushed yet is
    /// lost when its node is killed or loses its session.
    #[serde(default)]
    pub ack: Ack,
}

impl Default for BatchingSpec {
    fn default() -> Self {
        let (max_delay_milliseconds, max_items) = (default_batch_delay(), default_batch_items());
        Self { max_delay_milliseconds, max_items, ack: Ack::default() }
    }
}

/// When a write is acknowledged.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub enum Ack {
    /// Once it is flushed.
    #[default]
    Durable,
    /// At once.
    Buffered,
}

fn default_batch_delay() -> i32 {
    100
}

fn default_batch_items() -> i32 {
    1000
}

/// How much each node asks of its storage at a time, and how long it waits for it.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LimitingSpec {
    /// Most operations under way at once. A batch is one.
    #[serde(default = "default_max_concurrent")]
    #[schemars(range(min = 1, max = 10_000))]
    pub max_concurrent: i32,
    /// Most operations that wait for their turn. One more fails cleanly, at once.
    #[serde(default = "default_max_waiting")]
    #[schemars(range(min = 0, max = 100_000))]
    pub max_waiting: i32,
    /// Longest time for an operation, waiting included. Then a read fails, and the outcome of a write is unknown.
    #[serde(default = "default_timeout")]
    #[schemars(range(min = 10, max = 30_000))]
    pub timeout_milliseconds: i32,
    /// Most attempts of a read. A write is never repeated.
    #[serde(default = "default_read_attempts")]
    #[schemars(range(min = 1, max = 10))]
    pub read_attempts: i32,
}

impl Default for LimitingSpec {
    fn default() -> Self {
        Self {
            max_concurrent: default_max_concurrent(),
            max_waiting: default_max_waiting(),
            timeout_milliseconds: default_timeout(),
            read_attempts: default_read_attempts(),
        }
    }
}

fn default_max_concurrent() -> i32 {
    64
}

fn default_max_waiting() -> i32 {
    1024
}

fn default_timeout() -> i32 {
    10_000
}

fn default_read_attempts() -> i32 {
    3
}

/// Which values are stored compressed. Where a value does not become smaller it is stored as it is.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CompressionSpec {
    /// How.
    #[serde(default)]
    pub algorithm: Algorithm,
    /// Values of up to this many bytes stay as they are.
    #[serde(default = "default_above_bytes")]
    #[schemars(range(min = 0, max = 1_048_576))]
    pub above_bytes: i32,
}

impl Default for CompressionSpec {
    fn default() -> Self {
        Self { algorithm: Algorithm::default(), above_bytes: default_above_bytes() }
    }
}

fn default_above_bytes() -> i32 {
    1024
}

/// A way to compress.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub enum Algorithm {
    /// RFC 8878.
    #[default]
    Zstd,
    /// RFC 1952.
    Gzip,
}

/// The layers that the storage architecture knows.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub enum LayerKind {
    /// Keeps what was read in memory.
    Caching,
    /// Writes together what comes close together.
    Batching,
    /// Bounds what is asked of the store at a time, and for how long.
    Limiting,
    /// Stores large values compressed.
    Compression,
}

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

/// S3 on the pod's loopback: buckets are namespaces of the storage API. The application finds it, and the keys, in
/// `AWS_ENDPOINT_URL_S3`, `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and `AWS_REGION`.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct S3Spec {
    /// Whether it is served, at `127.0.0.1:7780` and a Unix socket.
    #[serde(default)]
    pub enabled: bool,
    /// Who may ask.
    #[serde(default)]
    pub access: S3Access,
    /// Most keys on a page of a listing; 0: all there are at once, for programs that take the first page for the whole (1000 if it is left
    /// out).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100_000))]
    pub list_page_size: Option<i32>,
}

/// Who may ask S3.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub enum S3Access {
    /// Whoever signs with the keys of the Secret `<cluster>-s3`, which the operator makes.
    #[default]
    Keys,
    /// Every container of the pod; signatures are not looked at, and requests of web pages refused.
    Anyone,
}

/// The application container. It gets `BRAINY_STORAGE_URL`, `BRAINY_STORAGE_SOCKET` and `BRAINY_NODE_ID`.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ApplicationSpec {
    /// Its image.
    #[schemars(length(min = 1, max = 512))]
    pub image: String,
    /// Replaces the image's entry point.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// Replaces the image's arguments.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// Its environment. Names that start with `BRAINY_` belong to the operator.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<EnvVar>,
    /// Its resources.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
}

/// Settings of every node's pod.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PodSpec {
    /// Resources of the sidecar.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    /// Affinity. Absent: nodes of one cluster prefer different hosts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
    /// Tolerations.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tolerations: Vec<Toleration>,
    /// Node selector.
    #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub node_selector: std::collections::BTreeMap<String, String>,
    /// Priority class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority_class_name: Option<String>,
    /// Added to the pod's annotations.
    #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub annotations: std::collections::BTreeMap<String, String>,
    /// Added to the pod's labels.
    #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub labels: std::collections::BTreeMap<String, String>,
    /// Where the sidecars send traces of requests. Absent: nothing is traced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tracing: Option<TracingSpec>,
}

/// Traces of requests: through the node that was asked and the shard's owner to the store.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TracingSpec {
    /// A collector that takes OTLP over HTTP (binary), without the path `/v1/traces`: `http://collector.observability:4318`. It is
    /// sent the names of keys, and no values.
    #[schemars(length(min = 1, max = 1024), regex(pattern = r"^https?://[^\s/?#]+(/[^\s?#]*)?$"))]
    pub endpoint: String,
    /// How many of a hundred requests are traced, of those whose client has not decided that itself (W3C Trace Context).
    #[serde(default = "default_sample_percent")]
    #[schemars(range(min = 0, max = 100))]
    pub sample_percent: i32,
}

fn default_sample_percent() -> i32 {
    1
}

/// When a change is carried out.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RolloutSpec {
    /// Who approves a change that restarts pods, grows volumes, or changes the number of nodes or the pattern.
    #[serde(default)]
    pub approval: Approval,
    /// The hash of the plan that may be carried out, from `status.plan.hash`. One that no longer fits is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub approved_plan: Option<String>,
}

/// Who approves a change.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub enum Approval {
    /// Whoever writes the spec: a change of it is carried out at once. Only what a new operator alone would change waits for
    /// `approvedPlan`.
    #[default]
    Automatic,
    /// Every change waits for `approvedPlan`.
    Manual,
}

/// What happens to volumes and bucket data on deletion.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub enum DeletionPolicy {
    /// Volumes and bucket data stay.
    #[default]
    Retain,
    /// Volumes and everything under the bucket's prefix are deleted with the BrainyCluster.
    Delete,
}
