//! The node's configuration: rendered by the operator into the ConfigMap `<cluster>-config` (`node.yaml`), read by the
//! sidecar. What differs from pod to pod (name, UID, address) comes through environment variables.

use std::path::PathBuf;

use brainy_storage::layers::Layers;
use brainy_storage::layers::regions::WriteConcern;
use brainy_storage::layers::tiering::Tiering;
use serde::{Deserialize, Serialize};

/// Configuration of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NodeConfig {
    /// Name of the BrainyCluster.
    pub cluster: String,
    /// Its namespace.
    pub namespace: String,
    /// Its UID.
    pub uid: String,
    /// How many shards.
    pub shards: u32,
    /// Where data lives.
    pub storage: StorageConfig,
    /// The bucket is that of one region of several, of which each has all (strategy Shared); none: there is this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub regions: Option<RegionsConfig>,
    /// What lies over it.
    #[serde(default, skip_serializing_if = "Layers::is_empty")]
    pub layers: Layers,
    /// S3 beside the storage API; none: it is not served.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub s3: Option<S3Config>,
    /// The nodes keep the coordination documents among them (pattern Consensus).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consensus: Option<ConsensusConfig>,
    /// Session length in seconds.
    pub lease_seconds: u64,
    /// Time between renewals in seconds.
    pub renew_seconds: u64,
}

/// S3 on the pod's loopback.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct S3Config {
    /// Folder with the files `accessKeyId` and `secretAccessKey`, by which requests must be signed; none: anyone in the pod may ask.
    pub keys: Option<PathBuf>,
    /// Most keys on a page of a listing; 0: all there are.
    pub list_page_size: u32,
}

/// The nodes' group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ConsensusConfig {
    /// Mount point of the node's volume, where its member keeps its log: `/data`.
    pub data: PathBuf,
    /// Generation of the BrainyCluster with which the pattern began. Members of a group from before it are void: another
    /// pattern was in charge since.
    pub since: i64,
}

/// In what a volume keeps its data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum VolumeEngine {
    /// An embedded database.
    #[default]
    Embedded,
    /// A file per key.
    Files,
}

impl VolumeEngine {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Where data lives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", tag = "strategy", deny_unknown_fields)]
pub enum StorageConfig {
    /// On this node's volume.
    Isolated {
        /// Mount point of the volume: `/data`.
        data: PathBuf,
        /// In what a new volume keeps its data; one that has data stays what it is.
        #[serde(default, skip_serializing_if = "VolumeEngine::is_default")]
        engine: VolumeEngine,
        /// MiB that the node sends in a second, at most, of shards that it serves meanwhile; none: as the node has it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        move_mebibytes_per_second: Option<u32>,
        /// The volume is the hot tier, and a bucket the cold one; none: the volume has everything.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tiering: Option<TieringConfig>,
    },
    /// In one bucket, below a namespace of each node.
    Namespaced(BucketConfig),
    /// In one bucket, each shard at one place.
    Shared(BucketConfig),
}

/// Several regions, each with a bucket and a cluster of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RegionsConfig {
    /// The own one.
    pub own: String,
    /// Where keys are to be decided.
    pub home: String,
    /// Generation of the BrainyCluster that has wished for that: only a new wish moves the home.
    pub home_since: i64,
    /// How many have a write when it is acknowledged.
    pub write_concern: WriteConcern,
    /// All of them, in the order of the spec.
    pub all: Vec<RegionConfig>,
}

/// A region.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RegionConfig {
    /// Its name.
    pub name: String,
    /// Its bucket; none: it is the own one, whose bucket is the nodes' own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bucket: Option<BucketConfig>,
}

/// Two tiers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TieringConfig {
    /// The cold tier.
    pub bucket: BucketConfig,
    /// What moves between the tiers, and when.
    pub settings: Tiering,
}

/// Folder of the shards' cold tiers, below the bucket's prefix.
pub const COLD_SHARDS: &str = "cold/shards";
/// The document that says whose they are.
pub const COLD_OWNER: &str = "cold/cluster.json";

/// Whose cold tier is below a prefix: [`COLD_OWNER`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ColdOwner {
    /// UID of the BrainyCluster, or the mark of a data folder.
    pub uid: String,
    /// How many shards its data is spread over.
    pub shards: u32,
    /// Made with it. A volume that knows it has hot data of this very cold tier, whatever the UID of its cluster is now.
    pub mark: String,
}

/// A bucket that all nodes share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BucketConfig {
    /// The bucket's name.
    pub bucket: String,
    /// Prefix without slashes at its ends; may be empty.
    pub prefix: String,
    /// Region to sign for.
    pub region: String,
    /// Server, for everything but AWS.
    pub endpoint: Option<String>,
    /// Folder with the files `accessKeyId` and `secretAccessKey`; none: the pod's own identity.
    pub credentials: Option<PathBuf>,
}
