//! Where the coordination documents lie: one place for every path.

use crate::{FencingToken, NodeId, ShardId};

/// The published shard map.
pub const SHARD_MAP: &str = "_cluster/shard-map.json";
/// The nodes, their addresses and states.
pub const TOPOLOGY: &str = "_cluster/topology.json";
/// Whose bucket and prefix this is.
pub const CLUSTER_MARKER: &str = "_cluster/cluster.json";
/// The BrainyCluster as it was declared, for whoever has to make it anew.
pub const DECLARATION: &str = "_cluster/brainycluster.json";
/// What the BrainyCluster asks of coordination.
pub const SPEC: &str = "_cluster/spec.json";
/// Who is the controller, and its epoch.
pub const CONTROLLER_ELECTION: &str = "_cluster/elections/controller.json";
/// The locks of applications in the Shared strategy.
pub const LOCKS: &str = "metadata/locks/table.json";
/// All session records.
pub const SESSIONS: &str = "_cluster/sessions/";

/// What spec, sessions and map begin with, and nothing else does: all that the controller decides from.
pub const CONTROLLED: &str = "_cluster/s";

/// A node's session record.
pub fn session(node: &NodeId) -> String {
    format!("{SESSIONS}{node}.json")
}

/// Leases and data of all shards in the Shared strategy.
pub const SHARDS: &str = "shards/";

/// A shard's lease in the Shared strategy.
pub fn shard_lock(shard: ShardId) -> String {
    format!("{SHARDS}{shard}/.lock")
}

/// The folder of a shard's data in the Shared strategy.
pub fn shard_data(shard: ShardId) -> String {
    format!("{SHARDS}{shard}/")
}

/// All leases of shards in the Namespaced strategy.
pub const SHARD_LEASES: &str = "_cluster/leases/";
/// What the namespaces of all nodes begin with.
pub const NAMESPACES: &str = "node-";
/// No folder of a tenure's data has a longer name: a node is named by at most 63 characters.
pub const LONGEST_TENURE_DATA: usize = 128;

/// A shard's lease in the Namespaced strategy.
pub fn shard_lease(shard: ShardId) -> String {
    format!("{SHARD_LEASES}{shard}.json")
}

/// The folder of a node's data of a shard in the Namespaced strategy, of all of its tenures.
pub fn shard_namespace(node: &str, shard: ShardId) -> String {
    format!("{NAMESPACES}{node}/shards/{shard}/")
}

/// The folder of what a node wrote of a shard under one token.
pub fn tenure_data(node: &NodeId, shard: ShardId, token: FencingToken) -> String {
    format!("{}{token}/", shard_namespace(&node.0, shard))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_listing_shows_all_that_the_controller_decides_from_and_nothing_that_there_may_be_thousands_of() {
        for name in [SPEC, SHARD_MAP, SESSIONS] {
            assert!(name.starts_with(CONTROLLED), "{name}");
        }
        for name in [SHARD_LEASES, LOCKS, SHARDS, DECLARATION] {
            assert!(!name.starts_with(CONTROLLED), "{name}");
        }
    }

    #[test]
    fn the_longest_folder_of_a_tenure_is_as_long_as_we_say() {
        let node = NodeId("n".repeat(63));
        let folder = tenure_data(&node, ShardId(u32::MAX), FencingToken(u64::MAX));
        assert!(folder.len() <= LONGEST_TENURE_DATA, "{folder}");
    }
}
