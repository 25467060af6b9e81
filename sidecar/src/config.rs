//! Puts a node's settings together: the configuration of the cluster, and what differs from pod to pod.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use brainy_coordination::NodeId;
use brainy_kubernetes::config::{BucketConfig, NodeConfig, StorageConfig};

use crate::cli;
use crate::data_folder::Engine;
use crate::http::StorageInfo;
use crate::regions;

/// Why a configuration can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("can't read the configuration {path}: {source}")]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is no configuration.
    #[error("the configuration {path} is malformed: {source}")]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// Where and why.
        source: serde_yaml::Error,
    },
    /// Its parts don't fit together.
    #[error("the configuration can't be used: {field}: {problem}")]
    Wrong {
        /// Which field or variable.
        field: &'static str,
        /// What is wrong.
        problem: String,
    },
}

/// Settings of a node of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeSettings {
    /// Of the whole cluster.
    pub cluster: NodeConfig,
    /// This node: its pod's name.
    pub node: NodeId,
    /// UID of the pod.
    pub pod_uid: String,
    /// `host:port` at which other nodes reach this one.
    pub address: String,
    /// The file that says what is wanted of the cluster, beside the configuration (pattern Consensus).
    pub wish: PathBuf,
}

impl NodeSettings {
    /// Reads and checks them.
    pub fn load(arguments: &cli::Node) -> Result<Self, ConfigError> {
        let path = &arguments.config;
        let text =
            std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable { path: path.clone(), source })?;
        Self::parse(path, &text, arguments)
    }

    fn parse(path: &Path, text: &str, arguments: &cli::Node) -> Result<Self, ConfigError> {
        let cluster: NodeConfig =
            serde_yaml::from_str(text).map_err(|source| ConfigError::Malformed { path: path.to_owned(), source })?;
        let wrong = |field, problem: String| Err(ConfigError::Wrong { field, problem });
        if cluster.namespace != arguments.namespace {
            let problem = format!("is {:?}, but the pod runs in {:?}", cluster.namespace, arguments.namespace);
            return wrong("namespace", problem);
        }
        if cluster.shards == 0 {
            return wrong("shards", "is 0".into());
        }
        if cluster.renew_seconds == 0 || cluster.renew_seconds >= cluster.lease_seconds {
            let problem =
                format!("is {}; it must be less than leaseSeconds, {}", cluster.renew_seconds, cluster.lease_seconds);
            return wrong("renewSeconds", problem);
        }
        if let Err(problem) = regions::plan(&cluster) {
            return wrong("regions", problem);
        }
        if arguments.node_id.is_empty() {
            return wrong("BRAINY_NODE_ID", "is empty; it is the pod's name".into());
        }
        if arguments.pod_uid.is_empty() {
            return wrong("BRAINY_POD_UID", "is empty; it is the pod's UID".into());
        }
        Ok(Self {
            cluster,
            wish: path.with_file_name(brainy_kubernetes::names::CLUSTER_SPEC_KEY),
            node: NodeId(arguments.node_id.clone()),
            pod_uid: arguments.pod_uid.clone(),
            address: SocketAddr::new(arguments.pod_ip, arguments.peers.port()).to_string(),
        })
    }

    /// Where the node's own volume is, if it has one.
    pub fn data(&self) -> Option<&Path> {
        match (&self.cluster.storage, &self.cluster.consensus) {
            (StorageConfig::Isolated { data, .. }, _) => Some(data),
            (_, Some(consensus)) => Some(&consensus.data),
            (StorageConfig::Namespaced(_) | StorageConfig::Shared(_), None) => None,
        }
    }

    /// What `GET /v1/storage` says.
    pub fn storage_info(&self) -> StorageInfo {
        match &self.cluster.storage {
            StorageConfig::Isolated { data, engine, .. } => {
                let backend = Engine::from(*engine).backend();
                StorageInfo { backend, strategy: "Isolated", location: data.display().to_string() }
            }
            StorageConfig::Namespaced(bucket) => Self::bucket_info("Namespaced", bucket),
            StorageConfig::Shared(bucket) => Self::bucket_info("Shared", bucket),
        }
    }

    fn bucket_info(strategy: &'static str, BucketConfig { bucket, prefix, .. }: &BucketConfig) -> StorageInfo {
        StorageInfo { backend: "s3", strategy, location: format!("s3://{bucket}/{prefix}") }
    }
}

/// Where the node-to-node listener binds: an address of the pod's own family.
pub fn peer_listener(asked: SocketAddr, pod: IpAddr) -> SocketAddr {
    if asked.ip() == IpAddr::from([0, 0, 0, 0]) && pod.is_ipv6() {
        return SocketAddr::new(IpAddr::from([0_u16; 8]), asked.port());
    }
    asked
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    const CONFIG: &str = "
cluster: demo
namespace: default
uid: 8d3c
shards: 256
storage:
  strategy: shared
  bucket: b
  prefix: p
  region: us-east-1
  endpoint: http://s3:7070
  credentials: /etc/brainy/credentials
leaseSeconds: 30
renewSeconds: 10
";

    fn arguments(pod_ip: &str) -> cli::Node {
        let line =
            ["brainy-sidecar", "node", "--node-id", "demo-0", "--namespace", "default", "--pod-uid", "u", "--pod-ip"];
        match Cli::parse_from(line.into_iter().chain([pod_ip])).command {
            Command::Node(node) => node,
            other => panic!("{other:?}"),
        }
    }

    fn parse(text: &str) -> Result<NodeSettings, ConfigError> {
        NodeSettings::parse(Path::new("node.yaml"), text, &arguments("10.0.0.7"))
    }

    #[test]
    fn settings_come_from_the_file_and_the_pod() {
        let settings = parse(CONFIG).unwrap();
        assert_eq!(settings.address, "10.0.0.7:7701");
        assert_eq!(settings.storage_info().location, "s3://b/p");
        assert_eq!(settings.wish, Path::new("cluster.json"), "beside the configuration");
        for (from, strategy) in [("shared", "Shared"), ("namespaced", "Namespaced")] {
            let settings = parse(&CONFIG.replace("strategy: shared", &format!("strategy: {from}"))).unwrap();
            assert_eq!(settings.storage_info().strategy, strategy);
        }
        assert_eq!(
            NodeSettings::parse(Path::new("n"), CONFIG, &arguments("fd00::7")).unwrap().address,
            "[fd00::7]:7701"
        );
    }

    #[test]
    fn a_wrong_configuration_names_the_field() {
        for (from, to, field) in [
            ("namespace: default", "namespace: other", "namespace"),
            ("shards: 256", "shards: 0", "shards"),
            ("renewSeconds: 10", "renewSeconds: 30", "renewSeconds"),
            ("bucket: b", "bocket: b", "bocket"),
            ("shards: 256", "shards: 256\nconsensus: {since: 1}", "consensus"),
        ] {
            let message = parse(&CONFIG.replace(from, to)).unwrap_err().to_string();
            assert!(message.contains(field), "{message}");
        }
    }

    #[test]
    fn the_peer_listener_has_the_family_of_the_pod() {
        let any = "0.0.0.0:7701".parse().unwrap();
        assert_eq!(peer_listener(any, "fd00::7".parse().unwrap()).to_string(), "[::]:7701");
        assert_eq!(peer_listener(any, "10.0.0.7".parse().unwrap()), any);
    }
}
