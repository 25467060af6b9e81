//! The shard map: which node should own each shard.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{Epoch, FencingToken, NodeId, ShardId};

/// Which node should own each shard. Every change raises `revision`; two maps of one cluster with the same
/// (revision, writer) are the same map.
///
/// With strategies Namespaced and Shared the map is a wish, and a shard's lease is the truth. With strategy Isolated and
/// pattern Leader the map itself is the truth: a node serves a shard only while the newest map names it the owner with no
/// move away, and `tokens` holds the fencing tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ShardMap {
    /// Grows with each change.
    pub revision: u64,
    /// The controller's epoch that wrote this revision.
    pub epoch: Epoch,
    /// Who wrote it: the operator replica's identity.
    pub writer: String,
    /// UID of the BrainyCluster.
    pub cluster: String,
    /// The node names that `owners` points into.
    pub nodes: Vec<NodeId>,
    /// For each shard an index into `nodes`, or null.
    pub owners: Vec<Option<u32>>,
    /// For each shard its fencing token (strategy Isolated; empty otherwise).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tokens: Vec<FencingToken>,
    /// Shards on their way to another node (strategy Isolated): shard to target, an index into `nodes`. The owner
    /// stops and lets the target copy; the shard has no server until the owner changes or the move is withdrawn.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub moves: BTreeMap<u32, u32>,
    /// Shards whose data was given up with its node: the owner lays them out anew, empty, under the present token, and they are
    /// served from the next one on (strategy Isolated).
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub given_up: BTreeSet<u32>,
    /// Shards that this very revision gives to another node because a node wishes it: shard to the node that does, an index
    /// into `nodes`. For people: nothing is decided by it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub wished: BTreeMap<u32, u32>,
}

impl ShardMap {
    /// How many shards.
    pub fn shards(&self) -> u32 {
        u32::try_from(self.owners.len()).unwrap_or(u32::MAX)
    }

    /// The owner of a shard.
    pub fn owner(&self, shard: ShardId) -> Option<&NodeId> {
        let index = (*self.owners.get(shard.0 as usize)?)?;
        self.nodes.get(index as usize)
    }

    /// Where a shard is moving to.
    pub fn moving_to(&self, shard: ShardId) -> Option<&NodeId> {
        self.nodes.get(*self.moves.get(&shard.0)? as usize)
    }

    /// Whose wish it was that a shard changed its place with this revision.
    pub fn wished_by(&self, shard: ShardId) -> Option<&NodeId> {
        self.nodes.get(*self.wished.get(&shard.0)? as usize)
    }

    /// The fencing token of a shard (0 where the strategy keeps them elsewhere).
    pub fn token(&self, shard: ShardId) -> FencingToken {
        self.tokens.get(shard.0 as usize).copied().unwrap_or_default()
    }

    /// All shards of a node, in order.
    pub fn shards_of<'a>(&'a self, node: &'a NodeId) -> impl Iterator<Item = ShardId> + 'a {
        (0..self.shards()).map(ShardId).filter(move |shard| self.owner(*shard) == Some(node))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::MOST_WISHED;

    /// What a ConfigMap may hold, with room for what else is in the object.
    const CONFIG_MAP: usize = (1 << 20) - (16 << 10);

    /// No two neighbours are alike, names are as long as they can be, and each shard has changed hands thousands of times.
    fn spread(shards: u64, nodes: u64) -> ShardMap {
        let name = |index| NodeId(format!("{}-{index}", "n".repeat(40)));
        let shuffled = |shard: u64| shard * 7919 % nodes;
        ShardMap {
            revision: 1_000_000,
            epoch: Epoch(1000),
            writer: "w".repeat(100),
            cluster: "c".repeat(36),
            nodes: (0..nodes).map(name).collect(),
            owners: (0..shards).map(|shard| u32::try_from(shuffled(shard)).ok()).collect(),
            tokens: (0..shards).map(|shard| FencingToken(1000 + shard % 9000)).collect(),
            moves: (0..8).map(|shard| (shard, 0)).collect(),
            given_up: BTreeSet::new(),
            wished: (90_000..).take(MOST_WISHED).map(|shard| (shard, 999)).collect(),
        }
    }

    #[test]
    fn a_map_of_a_hundred_thousand_shards_fits_a_config_map_and_comes_back() {
        let map = spread(100_000, 1000);
        let text = serde_json::to_string(&map).unwrap();
        assert!(text.len() < CONFIG_MAP, "{} bytes", text.len());
        assert_eq!(serde_json::from_str::<ShardMap>(&text).unwrap(), map);
    }
}
