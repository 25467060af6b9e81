//! What one look at the shards has shown.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use brainy_coordination::controller::give_up::missing;
use brainy_coordination::controller::{NodeSight, Rules, may_remove};
use brainy_coordination::session::{RegionsUse, VolumeUse};
use brainy_coordination::{NodeId, ShardId, ShardMap};

use crate::reconcile::status::ShardsView;
use crate::reconcile::validate::ValidatedCluster;
use crate::volumes;

/// What became of the wish to give up a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GivenUp {
    /// These shards were placed anew, empty.
    Done(Vec<ShardId>),
    /// Not yet: why.
    Waits(String),
    /// No: why.
    Refused(String),
}

/// The shards after one look.
#[derive(Clone, Debug)]
pub struct Summary {
    /// The published map; none yet.
    pub map: Option<ShardMap>,
    /// In numbers.
    pub view: ShardsView,
    /// What is waited for.
    pub waiting: Option<String>,
    /// What keeps nodes from serving, in their own words.
    pub problems: Vec<String>,
    /// Nodes that wish to own no shard, with how many they still have.
    pub draining: Vec<String>,
    /// Nodes on machines that are being emptied, with how many shards they still have.
    pub emptied: Vec<String>,
    /// Nodes whose member of the nodes' group has yet to vote (pattern Consensus).
    pub behind: Vec<NodeId>,
    /// How full the volumes of live nodes are, as they say.
    pub volumes: Vec<(String, VolumeUse)>,
    /// How live nodes see the regions, where there are several.
    pub regions: Vec<(String, RegionsUse)>,
    /// Shards whose data is not on the volume of their owner, as that says itself (strategy Isolated).
    pub lost: Vec<(NodeId, usize)>,
    /// What became of the wish to give up a node, if there is one.
    pub given_up: Option<GivenUp>,
    /// Names of the sessions that exist as Leases.
    pub sessions: BTreeSet<String>,
    /// Until a node that is not heard of lapses: another look is due then.
    pub next_lapse: Option<Duration>,
    owners_are_known: bool,
    /// Nodes whose sessions are live.
    live: BTreeSet<NodeId>,
    /// How many nodes must run for every volume to be looked into.
    needed: i32,
    /// Live nodes that serve something, or have not yet acted on the published map; and members of the nodes' group.
    busy: BTreeSet<NodeId>,
}

impl Summary {
    pub(crate) fn new(
        map: Option<ShardMap>,
        nodes: &BTreeMap<NodeId, NodeSight>,
        cluster: &ValidatedCluster,
        rules: Rules,
        waiting: Option<String>,
        sessions: BTreeSet<String>,
    ) -> Self {
        let live = || nodes.values().filter(|sight| sight.live).map(|sight| &sight.record);
        let problems =
            live().filter_map(|record| record.problem.as_ref().map(|problem| format!("{}: {problem}", record.node)));
        let left = |node: &NodeId| map.as_ref().map_or(0, |map| map.shards_of(node).count());
        let draining = live().filter(|record| record.requests.drain);
        let draining = draining.map(|record| format!("{} ({} shards left)", record.node, left(&record.node))).collect();
        let view = view(map.as_ref(), nodes, cluster.shards, rules);
        Self {
            owners_are_known: rules == Rules::Shared || view.assigned == view.total,
            live: live().map(|record| record.node.clone()).collect(),
            needed: 0,
            view,
            waiting,
            problems: problems.collect(),
            draining,
            emptied: Vec::new(),
            behind: Vec::new(),
            volumes: live().filter_map(|record| Some((record.node.0.clone(), record.volume?))).collect(),
            regions: live().filter_map(|record| Some((record.node.0.clone(), record.regions.clone()?))).collect(),
            lost: match (rules, &map) {
                (Rules::Isolated { .. }, Some(map)) => live()
                    .map(|record| (record.node.clone(), missing(map, &record.node, record).len()))
                    .filter(|(_, lost)| *lost > 0)
                    .collect(),
                _ => Vec::new(),
            },
            given_up: None,
            sessions,
            next_lapse: None,
            busy: live()
                .filter(|record| {
                    !record.holds.is_empty() || map.as_ref().is_none_or(|map| record.map_revision < map.revision)
                })
                .map(|record| record.node.clone())
                .collect(),
            map,
        }
    }

    /// Volumes that were found while a shard has no owner: their nodes must run to say what they store.
    pub(super) fn with_volumes(mut self, cluster: &ValidatedCluster, slots: &BTreeSet<i32>) -> Self {
        let left: Vec<String> =
            slots.range(cluster.replicas..).map(|slot| volumes::claim(&cluster.layout, *slot)).collect();
        if let (Some(waiting), false) = (&mut self.waiting, left.is_empty()) {
            waiting.push_str(&format!(
                "; an earlier cluster of this name has left the volume claims {}: their nodes run until all data is found (delete a claim whose data is not wanted)",
                left.join(", ")
            ));
        }
        self.needed = slots.last().map_or(0, |highest| highest + 1);
        self
    }

    /// Nodes that a majority is counted by (pattern Consensus): none of them may go.
    pub(super) fn with_members(mut self, members: Vec<NodeId>) -> Self {
        self.busy.extend(members);
        self
    }

    /// Nobody knows who serves what: no node may go.
    pub(super) fn in_doubt(mut self) -> Self {
        self.owners_are_known = false;
        self
    }

    /// Whether a node's session is known to be over: nobody goes by it any more (R1, R8).
    pub fn session_is_over(&self, node: &NodeId) -> bool {
        self.owners_are_known && !self.live.contains(node)
    }

    /// How many nodes must run, whatever the spec wants, until the shards' data is found.
    pub fn needed_nodes(&self) -> i32 {
        self.needed
    }

    /// Every shard is held as the map says, and nothing is waited for.
    pub fn is_settled(&self) -> bool {
        self.view.held == self.view.total && self.waiting.is_none()
    }

    /// Whether a node can go with no shard lost: the published map gives it nothing, and it serves nothing any more. While
    /// a map of strategy Isolated has yet to find the owners, nobody knows whose volume holds what.
    pub fn is_empty_handed(&self, node: &NodeId) -> bool {
        self.owners_are_known && self.map.as_ref().is_some_and(|map| may_remove(map, node)) && !self.busy.contains(node)
    }
}

fn view(map: Option<&ShardMap>, nodes: &BTreeMap<NodeId, NodeSight>, total: u32, rules: Rules) -> ShardsView {
    let Some(map) = map else {
        return ShardsView { total, assigned: 0, held: 0, revision: 0 };
    };
    let mut held: BTreeSet<ShardId> = BTreeSet::new();
    for sight in nodes.values().filter(|sight| sight.live) {
        held.extend(
            sight
                .record
                .holds
                .iter()
                .filter(|held| agrees(map, &sight.record.node, **held, rules))
                .map(|held| held.shard),
        );
    }
    let assigned = (0..total).filter(|shard| map.owner(ShardId(*shard)).is_some()).count();
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    ShardsView { total, assigned: count(assigned), held: count(held.len()), revision: map.revision }
}

/// Whether what a node says it holds is what the map says of it. Isolated: the token is the map's.
fn agrees(map: &ShardMap, node: &NodeId, held: brainy_coordination::session::HeldShard, rules: Rules) -> bool {
    let owned = map.owner(held.shard) == Some(node) && map.moving_to(held.shard).is_none();
    owned && (rules == Rules::Shared || map.token(held.shard) == held.token)
}
