//! Pattern Consensus: coordination documents that the nodes' sidecars keep among them, with no shared store. They form a Raft
//! group (openraft): a write counts once a majority has it on its disks, a read once the leader has heard from a majority. To
//! everyone else it is a [`Documents`](brainy_storage::documents::Documents): sessions, election and map are kept in it by the
//! same code as in a bucket.
//!
//! - [`group`]: this node's part; [`keeper`]: how a group begins, and how its members follow the wanted nodes.
//! - [`client`]: documents from any node, or from none, through whoever leads.
//! - [`membership`]: the next change of the members, pure; [`state`]: what the group agrees on, pure.
//! - [`wire`]: what travels between nodes; `network`: Raft's part of it.
//! - `identity`, `log`, `machine`, `journal`: what a member keeps on its volume.
//!
//! A member is a volume, not a name: its id is drawn with its folder. A node whose volume was lost comes back as another
//! member, which has promised nobody anything, and takes the place of the one it was.

pub mod client;
pub mod group;
mod identity;
mod journal;
mod keeper;
mod log;
mod machine;
pub mod membership;
mod network;
pub mod state;
#[cfg(test)]
mod tests;
pub mod wire;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::NodeId;

/// A member of a group: one life of a node's volume. Random, never used again.
pub type MemberId = u64;

/// What the group knows of a member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Member {
    /// The node whose volume it is.
    pub node: NodeId,
}

/// Required by the library; names no node.
impl Default for Member {
    fn default() -> Self {
        Self { node: NodeId(String::new()) }
    }
}

openraft::declare_raft_types!(
    /// The types of the group.
    pub Types:
        D = state::Write,
        R = state::Written,
        NodeId = MemberId,
        Node = Member,
        SnapshotData = state::State,
);

type Entry = openraft::Entry<Types>;
type Raft = openraft::Raft<Types>;
type SnapshotMeta = openraft::SnapshotMeta<MemberId, Member>;

/// How fast a group notices and acts, from the length of a session: a new leader is there long before a session that could
/// not be renewed meanwhile has lapsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Between two signs of life of the leader, and how long each may take with what it carries.
    pub heartbeat: Duration,
    /// Without one for so long, a member asks to be the leader; up to twice as long.
    pub patience: Duration,
}

impl Pace {
    /// For sessions of this length.
    pub fn of(session: Duration) -> Self {
        let heartbeat = (session / 20).clamp(Duration::from_millis(100), Duration::from_millis(500));
        Self { heartbeat, patience: heartbeat * 4 }
    }
}
