//! The nodes of a cluster, for people and tools: `_cluster/topology.json`. No decision is based on it.

use serde::{Deserialize, Serialize};

use crate::session::SessionState;
use crate::{Epoch, Incarnation, NodeId};

/// The nodes as the controller saw them last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Topology {
    /// Grows with each write (R5).
    pub revision: u64,
    /// The controller's epoch that wrote it.
    pub epoch: Epoch,
    /// Who wrote it.
    pub writer: String,
    /// UID of the BrainyCluster.
    pub cluster: String,
    /// Revision of the shard map at that time.
    pub map_revision: u64,
    /// The nodes, by name.
    pub nodes: Vec<TopologyNode>,
}

/// One node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TopologyNode {
    /// Its name.
    pub id: NodeId,
    /// `host:port` of its node-to-node listener; empty: not known.
    pub address: String,
    /// The machine it runs on; empty: none yet.
    #[serde(default)]
    pub host: String,
    /// That machine's zone (`topology.kubernetes.io/zone`), if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Which life of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incarnation: Option<Incarnation>,
    /// Its session; none: it has none yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<SessionState>,
    /// Its pod is ready.
    pub ready: bool,
}

impl Topology {
    /// Whether `other` says the same of the nodes, whoever wrote it when.
    pub fn same_nodes(&self, other: &Self) -> bool {
        (&self.cluster, self.map_revision, &self.nodes) == (&other.cluster, other.map_revision, &other.nodes)
    }
}
