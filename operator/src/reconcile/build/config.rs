//! The nodes' configuration.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use brainy_coordination::NodeId;
use brainy_coordination::bucket::spec::{ClusterSpec, Pattern};
use brainy_coordination::placement::Policy;
use brainy_crds::{BucketSpec, S3Access};
use brainy_kubernetes::config::{
    BucketConfig, ConsensusConfig, NodeConfig, RegionConfig, RegionsConfig, S3Config, StorageConfig, TieringConfig,
    VolumeEngine,
};
use brainy_kubernetes::names;
use k8s_openapi::api::core::v1::ConfigMap;

use super::{Carried, metadata};
use crate::reconcile::validate::{ValidatedCluster, ValidatedRegion, ValidatedStorage};

/// Where the credentials of the bucket are mounted.
const CREDENTIALS: &str = "/etc/brainy/credentials";
/// Where those of other regions' buckets are, each in a folder of its name.
const OTHERS_CREDENTIALS: &str = "/etc/brainy/regions";
/// Where the keys of S3 are mounted.
const S3_KEYS: &str = "/etc/brainy/s3";
/// Where the volume is mounted.
pub(super) const DATA: &str = "/data";

/// The configuration of every node of a cluster. `consensus_since`: see [`Carried`].
pub fn node_config(cluster: &ValidatedCluster, consensus_since: Option<i64>) -> NodeConfig {
    NodeConfig {
        cluster: cluster.name.clone(),
        namespace: cluster.namespace.clone(),
        uid: cluster.uid.clone(),
        shards: cluster.shards,
        storage: match &cluster.storage {
            ValidatedStorage::Isolated => StorageConfig::Isolated {
                data: PathBuf::from(DATA),
                engine: match cluster.volume.as_ref().map(|volume| volume.engine).unwrap_or_default() {
                    brainy_crds::VolumeEngine::Embedded => VolumeEngine::Embedded,
                    brainy_crds::VolumeEngine::Files => VolumeEngine::Files,
                },
                move_mebibytes_per_second: cluster.move_mebibytes_per_second,
                tiering: cluster.tiering.as_ref().map(|tiering| TieringConfig {
                    bucket: bucket_config(&tiering.bucket),
                    settings: tiering.settings,
                }),
            },
            ValidatedStorage::Namespaced(bucket) => StorageConfig::Namespaced(bucket_config(bucket)),
            ValidatedStorage::Shared(bucket) => StorageConfig::Shared(bucket_config(bucket)),
        },
        regions: cluster.regions.as_ref().map(|regions| RegionsConfig {
            own: regions.own.clone(),
            home: regions.home.clone(),
            home_since: regions.home_since,
            write_concern: regions.write_concern,
            all: regions
                .all
                .iter()
                .map(|region| RegionConfig {
                    name: region.name.clone(),
                    bucket: (region.name != regions.own).then(|| others_bucket(region)),
                })
                .collect(),
        }),
        layers: cluster.layers,
        s3: cluster.s3.map(|s3| S3Config {
            keys: (s3.access == S3Access::Keys).then(|| PathBuf::from(S3_KEYS)),
            list_page_size: s3.list_page_size,
        }),
        consensus: consensus_since.map(|since| ConsensusConfig { data: PathBuf::from(DATA), since }),
        lease_seconds: cluster.lease_seconds,
        renew_seconds: cluster.renew_seconds,
    }
}

fn bucket_config(bucket: &BucketSpec) -> BucketConfig {
    bucket_with(bucket, PathBuf::from(CREDENTIALS))
}

fn others_bucket(region: &ValidatedRegion) -> BucketConfig {
    bucket_with(&region.bucket, PathBuf::from(OTHERS_CREDENTIALS).join(&region.name))
}

fn bucket_with(bucket: &BucketSpec, credentials: PathBuf) -> BucketConfig {
    BucketConfig {
        bucket: bucket.name.clone(),
        prefix: bucket.prefix.clone().unwrap_or_default(),
        region: bucket.region.clone(),
        endpoint: bucket.endpoint.clone(),
        credentials: bucket.credentials_secret.as_ref().map(|_| credentials),
    }
}

/// What the cluster's nodes are told of it, beside their configuration: it changes without a restart of any of them.
pub fn cluster_spec(
    cluster: &ValidatedCluster,
    writer: &str,
    placement: Policy,
    volumes: &BTreeSet<i32>,
) -> ClusterSpec {
    let node = |slot| NodeId(cluster.layout.node(slot));
    ClusterSpec {
        revision: 0,
        cluster: cluster.uid.clone(),
        generation: cluster.generation,
        writer: writer.to_owned(),
        pattern: cluster.pattern,
        nodes: (0..cluster.replicas).map(node).collect(),
        volumes: volumes.iter().copied().map(node).collect(),
        placement,
    }
}

pub(super) fn config_map(cluster: &ValidatedCluster, carried: &Carried) -> ConfigMap {
    // JSON is YAML; a struct of strings and numbers always has both forms.
    let yaml = serde_yaml::to_string(&node_config(cluster, carried.consensus_since)).unwrap_or_default();
    let mut data = BTreeMap::from([(names::NODE_CONFIG_KEY.to_owned(), yaml)]);
    if cluster.pattern == Pattern::Consensus {
        let spec = cluster_spec(cluster, names::MANAGED_BY, carried.placement.clone(), &carried.volumes);
        data.insert(names::CLUSTER_SPEC_KEY.to_owned(), serde_json::to_string_pretty(&spec).unwrap_or_default());
    }
    ConfigMap { metadata: metadata(cluster, names::config(&cluster.name)), data: Some(data), ..ConfigMap::default() }
}
