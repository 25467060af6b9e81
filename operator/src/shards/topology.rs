//! `_cluster/topology.json`: the nodes as the controller sees them, for people and tools. Nothing is decided from it, so a
//! failure to write it is logged and no more.

use std::collections::{BTreeMap, BTreeSet};

use brainy_coordination::controller::NodeSight;
use brainy_coordination::session::SessionState;
use brainy_coordination::topology::{Topology, TopologyNode};
use brainy_coordination::{NodeId, ShardMap, names as paths};
use brainy_storage::documents::{DocumentVersion, Documents, Swap};

use super::wanted_nodes;
use crate::reconcile::Error;
use crate::reconcile::validate::ValidatedCluster;

/// What the topology says of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodFacts {
    /// The node.
    pub node: NodeId,
    /// The machine it runs on; empty: none yet.
    pub host: String,
    /// The zone that its labels name.
    pub zone: Option<String>,
    /// It is ready.
    pub ready: bool,
}

/// What was written last.
#[derive(Debug, Default)]
pub(super) struct Memory(Option<(Topology, DocumentVersion)>);

impl Memory {
    /// Writes the topology where the nodes differ from what stands there.
    pub(super) async fn write(
        &mut self,
        bucket: &dyn Documents,
        cluster: &ValidatedCluster,
        identity: &str,
        map: &ShardMap,
        nodes: &BTreeMap<NodeId, NodeSight>,
        pods: (&[PodFacts], &BTreeMap<NodeId, String>),
    ) {
        let wish = topology(cluster, identity, map, nodes, pods);
        if let Err(error) = self.bring_about(bucket, wish).await {
            tracing::debug!(cluster = cluster.name, %error, "the topology was not written");
            self.0 = None;
        }
    }

    async fn bring_about(&mut self, bucket: &dyn Documents, wish: Topology) -> Result<(), Error> {
        if self.0.is_none()
            && let Some(found) = bucket.read(paths::TOPOLOGY).await?
        {
            // One that can't be read is overwritten, conditionally on what was read.
            let there = serde_json::from_slice(&found.body).unwrap_or_else(|_| Topology {
                revision: 0,
                nodes: Vec::new(),
                ..wish.clone()
            });
            self.0 = Some((there, found.version));
        }
        if self.0.as_ref().is_some_and(|(there, _)| there.same_nodes(&wish)) {
            return Ok(());
        }
        let revision = self.0.as_ref().map_or(0, |(there, _)| there.revision) + 1;
        let next = Topology { revision, ..wish };
        let version = self.0.as_ref().map(|(_, version)| version);
        match bucket.swap(paths::TOPOLOGY, version, body(&next)?).await? {
            Swap::Applied(version) => self.0 = Some((next, version)),
            Swap::Rejected | Swap::Unknown(_) => self.0 = None,
        }
        Ok(())
    }
}

fn body(topology: &Topology) -> Result<bytes::Bytes, Error> {
    serde_json::to_vec_pretty(topology)
        .map(Into::into)
        .map_err(|source| Error::DamagedDocument { name: paths::TOPOLOGY.to_owned(), source })
}

fn topology(
    cluster: &ValidatedCluster,
    identity: &str,
    map: &ShardMap,
    nodes: &BTreeMap<NodeId, NodeSight>,
    (pods, zones): (&[PodFacts], &BTreeMap<NodeId, String>),
) -> Topology {
    let all: BTreeSet<NodeId> = wanted_nodes(cluster).into_iter().chain(nodes.keys().cloned()).collect();
    let node = |id: NodeId| {
        let pod = pods.iter().find(|pod| pod.node == id);
        let sight = nodes.get(&id);
        TopologyNode {
            address: sight.map(|sight| sight.record.address.clone()).unwrap_or_default(),
            host: pod.map(|pod| pod.host.clone()).unwrap_or_default(),
            zone: zones.get(&id).cloned(),
            incarnation: sight.map(|sight| sight.record.incarnation.clone()),
            state: sight.map(|sight| if sight.live { SessionState::Live } else { SessionState::Ended }),
            ready: pod.is_some_and(|pod| pod.ready),
            id,
        }
    };
    Topology {
        revision: 0,
        epoch: map.epoch,
        writer: identity.to_owned(),
        cluster: cluster.uid.clone(),
        map_revision: map.revision,
        nodes: all.into_iter().map(node).collect(),
    }
}
