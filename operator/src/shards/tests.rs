//! The shard controller against documents and an API server in memory.

mod consensus;
mod isolated;
mod shared;

use brainy_coordination::session::{HeldShard, SessionRecord, SessionState};
use brainy_coordination::{FencingToken, Incarnation, NodeId, ShardId, ShardMap};

const MAP: &str = "/api/v1/namespaces/team/configmaps/demo-shard-map";

/// A live session that holds these shards under token 5.
pub(super) fn record(node: &str, holds: &[u32]) -> SessionRecord {
    let held = |shard: &u32| HeldShard { shard: ShardId(*shard), token: FencingToken(5) };
    SessionRecord {
        node: NodeId(node.into()),
        incarnation: Incarnation { pod_uid: format!("pod-{node}"), start: 1, nonce: "n".into() },
        state: SessionState::Live,
        revision: 1,
        ttl_seconds: 30,
        expires: String::new(),
        address: format!("{node}:7701"),
        map_revision: 0,
        leaving: false,
        holds: holds.iter().map(held).collect(),
        received: Vec::new(),
        stored: Vec::new(),
        load: Vec::new(),
        requests: Default::default(),
        volume: None,
        regions: None,
        problem: None,
    }
}

fn owned(map: &ShardMap, node: &str) -> usize {
    map.shards_of(&NodeId(node.into())).count()
}
