//! What this node asks of whoever controls placement, and whether it has come about. The wishes are told in the node's session
//! ([`Requests`]) for as long as the process lives; the answer is the map.

use brainy_coordination::ShardId;
use brainy_coordination::session::Requests;
use serde::{Deserialize, Serialize};

use super::table::Table;
use super::{Ownership, Role, ShardState};

/// What a node wishes of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Wish {
    /// To own it.
    Acquire,
    /// Not to own it.
    Release,
}

impl Wish {
    pub(super) fn of(requests: &Requests, shard: ShardId) -> Option<Self> {
        match (requests.acquire.contains(&shard), requests.release.contains(&shard)) {
            (true, _) => Some(Self::Acquire),
            (false, true) => Some(Self::Release),
            (false, false) => None,
        }
    }
}

/// Most shards that a node may wish for or away: they travel with each renewal of its session, which must fit an annotation.
pub const MOST_WISHES: usize = 4096;

/// Why nothing was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// The process runs alone.
    #[error(
        "this sidecar runs alone (`serve`) and owns every shard: only a node of a cluster can ask for other shards"
    )]
    NoCluster,
    /// With these it would be more than [`MOST_WISHES`].
    #[error(
        "a node wishes for or away {MOST_WISHES} shards at most; withdraw some first, or drain the node to give up all"
    )]
    TooMany,
}

impl Ownership {
    /// What this node asks for.
    pub fn requests(&self) -> Requests {
        self.table.requests()
    }

    /// Changes what this node asks for: wholly, or not at all. It is told with the next write of its session, which this
    /// brings about.
    pub fn ask(&self, change: impl FnOnce(&mut Requests)) -> Result<(), AskError> {
        match self.role {
            Role::Alone(_) => Err(AskError::NoCluster),
            Role::Node(_) => self.table.ask(change),
        }
    }

    /// What the wish of a shard waits for; `None`: it is as it is wished, or nothing is wished of it.
    pub fn awaited(&self, shard: ShardId) -> Option<String> {
        let view = self.describe(shard);
        let owner = view.owner.as_ref().map_or("no node", |owner| owner.0.as_str());
        let why = view.why.as_deref().map_or_else(String::new, |why| format!(": {why}"));
        match view.wish? {
            Wish::Acquire if view.state == ShardState::Serving => None,
            Wish::Acquire => {
                Some(format!("shard {shard} is not served here yet; its owner by the map is {owner}{why}"))
            }
            Wish::Release if view.state == ShardState::Elsewhere && !self.table.expects(shard) => None,
            Wish::Release => {
                Some(format!("shard {shard} is still with this node; another that may take it gets it{why}"))
            }
        }
    }

    /// What is left of this node's shards before it is drained.
    pub fn left_to_drain(&self) -> Option<String> {
        self.table.left_to_drain()
    }
}

impl Table {
    /// The map has a shard on its way to this node.
    fn expects(&self, shard: ShardId) -> bool {
        self.map().is_some_and(|map| map.moving_to(shard) == Some(self.node()))
    }

    fn left_to_drain(&self) -> Option<String> {
        let Some(map) = self.map() else { return Some("no shard map has been seen yet".into()) };
        let is_busy =
            |shard: &ShardId| matches!(self.describe(*shard).state, ShardState::Serving | ShardState::Stopping);
        let is_left =
            |shard: &ShardId| [map.owner(*shard), map.moving_to(*shard)].contains(&Some(self.node())) || is_busy(shard);
        let left = (0..self.shards()).map(ShardId).filter(is_left).count();
        (left > 0).then(|| {
            format!("{left} shards are still with this node, or on their way to it; others that may take them get them")
        })
    }
}
