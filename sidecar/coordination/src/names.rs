//! Where the coordination documents lie: one place for every path.

use crate::{NodeId, ShardId};

/// The published shard map.
pub const SHARD_MAP: &str = "_cluster/shard-map.json";
/// The nodes, their addresses and states.
pub const TOPOLOGY: &str = "_cluster/topology.json";
/// Whose bucket and prefix this is.
pub const CLUSTER_MARKER: &str = "_cluster/cluster.json";
/// What the BrainyCluster asks of coordination.
pub const SPEC: &str = "_cluster/spec.json";
/// Who is the controller, and its epoch.
pub const CONTROLLER_ELECTION: &str = "_cluster/elections/controller.json";
/// The locks of applications in the Shared strategy.
pub const LOCKS: &str = "metadata/locks/table.json";
/// All session records.
pub const SESSIONS: &str = "_cluster/sessions/";

/// A node's session record.
pub fn session(node: &NodeId) -> String {
    format!("{SESSIONS}{node}.json")
}

/// A shard's lease in the Shared strategy.
pub fn shard_lock(shard: ShardId) -> String {
    format!("shards/{shard}/.lock")
}

/// The folder of a shard's data in the Shared strategy.
pub fn shard_data(shard: ShardId) -> String {
    format!("shards/{shard}/")
}
