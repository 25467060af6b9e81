//! What the BrainyCluster asks of coordination, for those who can't ask Kubernetes: `_cluster/spec.json`. The operator
//! alone writes it, and while there is no operator the last one holds.

use std::collections::BTreeSet;

use brainy_storage::documents::{DocumentVersion, Documents};
use serde::{Deserialize, Serialize};

use super::{Error, must_own, read, write};
use crate::placement::Policy;
use crate::{NodeId, names};

/// Who is the controller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Pattern {
    /// The operator.
    #[default]
    Leader,
    /// One of the nodes, elected by them, in the bucket that they share.
    StorageNative,
    /// One of the nodes, elected by them, in the documents that they keep among them.
    Consensus,
}

impl Pattern {
    /// The controller is a node.
    pub fn is_by_nodes(self) -> bool {
        match self {
            Self::Leader => false,
            Self::StorageNative | Self::Consensus => true,
        }
    }
}

/// The document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterSpec {
    /// Grows with each write (R5).
    pub revision: u64,
    /// UID of the BrainyCluster.
    pub cluster: String,
    /// The generation of its spec: a late writer does not put an older one back.
    pub generation: i64,
    /// Who wrote it.
    pub writer: String,
    /// Who is the controller.
    pub pattern: Pattern,
    /// The nodes that should be there.
    pub nodes: Vec<NodeId>,
    /// Nodes whose volumes exist, wanted or not (strategy Isolated): see [`Facts`](crate::controller::Facts::volumes).
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub volumes: BTreeSet<NodeId>,
    /// How shards are to be placed on them.
    #[serde(default)]
    pub placement: Policy,
}

impl ClusterSpec {
    fn asks_for_the_same(&self, other: &Self) -> bool {
        let asked = |spec: &Self| Self { revision: 0, writer: String::new(), ..spec.clone() };
        asked(self) == asked(other)
    }
}

/// The spec that stands; `None`: there is none yet.
pub async fn find(documents: &dyn Documents) -> Result<Option<ClusterSpec>, Error> {
    Ok(read(documents, names::SPEC).await?.map(|(spec, _)| spec))
}

/// The spec as written or found last, so that one that stands is not read again and again.
#[derive(Debug, Default)]
pub struct Memory(Option<(ClusterSpec, DocumentVersion)>);

/// Writes a spec where another one stands. Its revision does not matter.
pub async fn publish(documents: &dyn Documents, wish: ClusterSpec, memory: &mut Memory) -> Result<(), Error> {
    if memory.0.as_ref().is_some_and(|(there, _)| there.asks_for_the_same(&wish)) {
        return Ok(());
    }
    memory.0 = None;
    let found: Option<(ClusterSpec, DocumentVersion)> = read(documents, names::SPEC).await?;
    if let Some((there, version)) = &found {
        if there.asks_for_the_same(&wish) {
            memory.0 = Some((there.clone(), version.clone()));
            return Ok(());
        }
        if there.cluster == wish.cluster && there.generation > wish.generation {
            return Err(Error::LostRace { document: names::SPEC.to_owned() });
        }
        if there.cluster != wish.cluster {
            must_own(documents, &wish.cluster).await?;
        }
    }
    let revision = found.as_ref().map_or(0, |(there, _)| there.revision) + 1;
    let next = ClusterSpec { revision, ..wish };
    let version = write(documents, names::SPEC, found.as_ref().map(|(_, version)| version), &next).await?;
    memory.0 = Some((next, version));
    Ok(())
}
