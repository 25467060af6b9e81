//! The next shard map, from the present one and what is known of the nodes: every decision of the controller, and none
//! of its I/O. Publish what [`next_map`] returns on the condition that the present map still stands as it was read.
//!
//! Shared: the map is a wish. Nodes that are live and wanted share the shards; a shard's lease keeps two owners apart.
//!
//! Isolated: the map is the truth, and a shard's data lies on one volume. Each step that changes a shard's token raises
//! it by exactly one, so data stamped with the map's token or the one before it is current, and no other is:
//! - *found*: the first map, or one after the map was lost, gives no shard to anyone until every node has seen it and
//!   reported what it stores. Then each shard goes to whoever stores it under the highest token (+1); one that nobody
//!   stores is new (token 1).
//! - *established*: a new shard is laid out under token 1, and served only from token 2 on, when its owner has reported
//!   it stored. So a volume that comes back empty can't be taken for a new shard.
//! - *moved*: the owner stops for good under its token, the target copies, the owner changes (+1).
//! - *given up*: see [`give_up`](give_up::give_up); the only step that raises a token by two, so that no data of before is
//!   current.
//! - *withdrawn*: a move whose target went away, or has no room, ends with the old owner under a new token (+1), which voids
//!   copies.

pub mod give_up;

use std::collections::{BTreeMap, BTreeSet};

use crate::placement::wishes::{self, Wishes};
use crate::placement::{Balance, Policy, limited, load, place_in_zones};
use crate::session::{HeldShard, Requests, SessionRecord};
use crate::{Epoch, FencingToken, NodeId, ShardId, ShardMap};

/// Most shards on the way from one node to another at once, where nothing else is asked for (strategy Isolated): each has
/// no server meanwhile.
pub const MOVES_AT_ONCE: usize = 8;

/// Most shards of which a map says by whose wish they move: a map must fit a ConfigMap, however many do at once.
pub const MOST_WISHED: usize = 4096;

/// Which rules apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rules {
    /// Data on each node's volume.
    Isolated {
        /// Most shards on the way at once.
        moves_at_once: usize,
    },
    /// One bucket, a lease per shard.
    Shared,
}

impl Rules {
    /// These, with as many shards on the way at once as is asked for, if it is: see [`Policy::max_moves`].
    #[must_use]
    pub fn with_most(self, moves: Option<u32>) -> Self {
        match (self, moves) {
            (Self::Isolated { .. }, Some(most)) => Self::Isolated { moves_at_once: most as usize },
            (rules, _) => rules,
        }
    }
}

/// What is known of a node.
#[derive(Clone, Debug)]
pub struct NodeSight {
    /// Its session record, live or not.
    pub record: SessionRecord,
    /// The record says live, and has not expired by the controller's own clock (R1).
    pub live: bool,
}

/// What the decision is made from. Read the map first and the sessions after it: what a session says is then at least as
/// new as the map.
#[derive(Clone, Debug)]
pub struct Facts<'a> {
    /// UID of the BrainyCluster.
    pub cluster: &'a str,
    /// How many shards.
    pub shards: u32,
    /// Which rules.
    pub rules: Rules,
    /// The nodes that should be there.
    pub wanted: &'a [NodeId],
    /// Nodes whose volumes exist, wanted or not (Isolated; looked at only while a shard has no owner). An earlier cluster
    /// of the name may have left data on them, and a node that has never run here has no record that would say so.
    pub volumes: &'a BTreeSet<NodeId>,
    /// Every session record there is, also of nodes that are no longer wanted. Remove a record only with its node's data.
    pub nodes: &'a BTreeMap<NodeId, NodeSight>,
    /// How shards are to be placed.
    pub placement: &'a Policy,
    /// Load has been [uneven](is_uneven) for long enough for shards to move for it. Without balance `Load` of no meaning.
    pub may_even_out: bool,
    /// The controller's epoch; never falls in a map.
    pub epoch: Epoch,
    /// The controller's identity.
    pub writer: &'a str,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Publish this map, and ask again when something changes.
    Publish(ShardMap),
    /// The present map stands. `waiting`: what for, in words, where not all is as it should be.
    Keep {
        /// What is waited for.
        waiting: Option<String>,
    },
}

/// Whether a node can be removed with no shard lost: the map gives it nothing and moves nothing to or from it.
pub fn may_remove(map: &ShardMap, node: &NodeId) -> bool {
    map.shards_of(node).next().is_none() && map.moves.values().all(|to| map.nodes.get(*to as usize) != Some(node))
}

/// Whether shards should move so that nodes have as much to do as others (balance `Load`). Shards move for it once it has
/// lasted, see [`load::Patience`].
pub fn is_uneven(current: Option<&ShardMap>, facts: &Facts<'_>) -> bool {
    let Some(map) = current.filter(|map| facts.placement.balance == Balance::Load && !facts.lost(map)) else {
        return false;
    };
    let (owners, nodes) = (Draft::of(map).owners, facts.staying());
    let wishes = facts.wishes(&nodes);
    match facts.are_free(&wishes) {
        true => load::is_uneven(&owners, &nodes, &facts.weights()),
        false => load::is_uneven_as_wished(&owners, &nodes, &facts.weights(), &wishes),
    }
}

/// Decides the next map.
pub fn next_map(current: Option<&ShardMap>, facts: &Facts<'_>) -> Next {
    match facts.rules {
        Rules::Shared => next_shared(current, facts),
        Rules::Isolated { moves_at_once } => next_isolated(current, facts, moves_at_once),
    }
}

/// A map in the making, with owners by name.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Draft {
    owners: Vec<Option<NodeId>>,
    tokens: Vec<FencingToken>,
    moves: BTreeMap<u32, NodeId>,
    given_up: BTreeSet<u32>,
}

impl Draft {
    fn of(map: &ShardMap) -> Self {
        let shards = || (0..map.shards()).map(ShardId);
        Self {
            owners: shards().map(|shard| map.owner(shard).cloned()).collect(),
            tokens: shards().map(|shard| map.token(shard)).collect(),
            moves: map.moves.keys().filter_map(|at| Some((*at, map.moving_to(ShardId(*at))?.clone()))).collect(),
            given_up: map.given_up.clone(),
        }
    }

    fn raise(&mut self, shard: usize) {
        self.tokens[shard] = self.tokens[shard].next();
    }

    /// The shards that change their place with this map because a node wishes it, with that node.
    fn wished(&self, current: Option<&ShardMap>, facts: &Facts<'_>) -> BTreeMap<u32, NodeId> {
        let Some(map) = current.filter(|map| !facts.lost(map)) else { return BTreeMap::new() };
        let by_wish = |(at, owner): (u32, &Option<NodeId>)| {
            let (shard, to) = (ShardId(at), self.moves.get(&at));
            let from = map.owner(shard)?;
            let is_same = owner.as_ref() == Some(from) && to == map.moving_to(shard);
            let to = to.or(owner.as_ref()).filter(|to| !is_same && *to != from)?;
            Some((at, facts.wished(shard, from, to)?))
        };
        (0..).zip(&self.owners).filter_map(by_wish).take(MOST_WISHED).collect()
    }

    fn publish(self, current: Option<&ShardMap>, facts: &Facts<'_>) -> Next {
        Next::Publish(self.into_map(current, facts))
    }

    fn into_map(self, current: Option<&ShardMap>, facts: &Facts<'_>) -> ShardMap {
        let wished = self.wished(current, facts);
        let names: BTreeSet<&NodeId> =
            self.owners.iter().flatten().chain(self.moves.values()).chain(facts.wanted).collect();
        let nodes: Vec<NodeId> = names.into_iter().cloned().collect();
        let index = |node: &NodeId| nodes.binary_search(node).ok().and_then(|index| u32::try_from(index).ok());
        ShardMap {
            revision: facts.next_revision(current),
            epoch: facts.epoch.max(current.map_or(Epoch::default(), |map| map.epoch)),
            writer: facts.writer.to_owned(),
            cluster: facts.cluster.to_owned(),
            owners: self.owners.iter().map(|owner| owner.as_ref().and_then(index)).collect(),
            tokens: self.tokens,
            moves: self.moves.iter().filter_map(|(shard, to)| Some((*shard, index(to)?))).collect(),
            given_up: self.given_up,
            wished: wished.iter().filter_map(|(shard, by)| Some((*shard, index(by)?))).collect(),
            nodes,
        }
    }
}

impl Facts<'_> {
    fn live(&self, node: &NodeId) -> Option<&SessionRecord> {
        self.nodes.get(node).filter(|sight| sight.live).map(|sight| &sight.record)
    }

    /// The nodes that are live, wanted, and not about to stop. One that is about to stop serves until others have its shards.
    fn staying(&self) -> Vec<NodeId> {
        let stays = |node: &&NodeId| self.live(node).is_some_and(|record| !record.leaving);
        self.wanted.iter().filter(stays).cloned().collect()
    }

    /// What counts of each shard where load is balanced.
    fn weights(&self) -> Vec<u64> {
        let live = self.nodes.values().filter(|sight| sight.live);
        let loads = live.flat_map(|sight| &sight.record.load).map(|load| (load.shard.0, load.per_second)).collect();
        load::weights(&loads, self.shards as usize)
    }

    /// Where shards that are at `before` should be, if at most `most` of those that `nodes` serve move.
    fn placed(&self, before: &[Option<NodeId>], nodes: &[NodeId], most: usize) -> Vec<Option<NodeId>> {
        let (wishes, zones) = (self.wishes(nodes), &self.placement.zones);
        match (self.placement.balance, self.are_free(&wishes)) {
            (Balance::Count, true) => limited(before, place_in_zones(before, nodes, zones), nodes, most),
            (Balance::Count, false) => limited(before, wishes::place(before, nodes, zones, &wishes), nodes, most),
            (Balance::Load, true) => {
                load::place(before, nodes, &self.weights(), if self.may_even_out { most } else { 0 })
            }
            (Balance::Load, false) => {
                load::place_as_wished(before, nodes, &self.weights(), &wishes, (most, self.may_even_out))
            }
        }
    }

    /// Nothing is asked of placement but to be even.
    fn are_free(&self, wishes: &Wishes) -> bool {
        wishes.is_empty() && self.placement.kept.is_empty()
    }

    /// What the nodes that shards may be given to ask for, and what is asked of them. One that is not live asks for nothing: what
    /// it said last may be of a process that is gone.
    fn wishes(&self, nodes: &[NodeId]) -> Wishes {
        let mut wishes = Wishes::default();
        for node in nodes {
            let Some(record) = self.live(node).filter(|_| !self.placement.kept.contains(node)) else {
                wishes.still.insert(node.clone());
                continue;
            };
            let Requests { acquire, release, drain } = &record.requests;
            for (shards, of) in [(acquire, &mut wishes.acquire), (release, &mut wishes.release)] {
                for shard in shards.iter().filter(|shard| shard.0 < self.shards) {
                    of.entry(shard.0 as usize).or_default().insert(node.clone());
                }
            }
            if *drain || self.placement.drained.contains(node) {
                wishes.drain.insert(node.clone());
            }
        }
        wishes
    }

    /// Whose wish it is that a shard goes from one node to another.
    fn wished(&self, shard: ShardId, from: &NodeId, to: &NodeId) -> Option<NodeId> {
        let asks = |node: &NodeId| self.live(node).filter(|_| self.wants(node)).map(|record| &record.requests);
        let has_it = asks(to).is_some_and(|requests| !requests.drain && requests.acquire.contains(&shard));
        let gives_it = asks(from).is_some_and(|requests| requests.drain || requests.release.contains(&shard));
        match (has_it, gives_it) {
            (true, _) => Some(to.clone()),
            (false, true) => Some(from.clone()),
            (false, false) => None,
        }
    }

    /// Shards that the map has given to one live node, and that another still holds (Shared).
    fn underway(&self, map: &ShardMap) -> usize {
        let live = |node: &NodeId| self.live(node);
        let elsewhere = |held: &&HeldShard, holder: &NodeId| {
            map.owner(held.shard).is_some_and(|owner| owner != holder && live(owner).is_some())
        };
        let holders = self.nodes.iter().filter(|(_, sight)| sight.live && !sight.record.leaving);
        holders.map(|(node, sight)| sight.record.holds.iter().filter(|held| elsewhere(held, node)).count()).sum()
    }

    fn wants(&self, node: &NodeId) -> bool {
        self.wanted.contains(node)
    }

    fn highest_revision_seen(&self) -> u64 {
        self.nodes.values().map(|sight| sight.record.map_revision).max().unwrap_or_default()
    }

    /// One more than the present map's. Where that was lost, a revision above everything that was ever published: a node
    /// never goes back, and must not take a map for one of the same revision that it has acted on.
    fn next_revision(&self, current: Option<&ShardMap>) -> u64 {
        match current {
            Some(map) if !self.lost(map) => map.revision + 1,
            None if self.nodes.is_empty() => 1,
            _ => {
                let highest = current.map_or(0, |map| map.revision).max(self.highest_revision_seen());
                (highest / REVISION_JUMP + 1) * REVISION_JUMP + 1
            }
        }
    }

    /// The present map can't be gone on from: the nodes have acted on a newer one that was lost, or it was spoiled by hand.
    fn lost(&self, map: &ShardMap) -> bool {
        map.revision < self.highest_revision_seen() || map.shards() != self.shards
    }
}

/// How far a map's revision jumps when the one before it is not known: further than any number of maps that were
/// published without a node's report of the first of them.
const REVISION_JUMP: u64 = 1_000_000;

fn next_shared(current: Option<&ShardMap>, facts: &Facts<'_>) -> Next {
    let serving = facts.staying();
    let mut before = current.map_or_else(Vec::new, |map| Draft::of(map).owners);
    before.resize(facts.shards as usize, None);
    if serving.is_empty() && current.is_some_and(|map| !facts.lost(map)) {
        return Next::Keep { waiting: Some("no node is live that stays".into()) };
    }
    let most = facts
        .placement
        .max_moves
        .map_or(usize::MAX, |most| (most as usize).saturating_sub(current.map_or(0, |map| facts.underway(map))));
    let owners = facts.placed(&before, &serving, most);
    match current {
        Some(map) if owners == before && !facts.lost(map) => {
            let held_up = most == 0 && facts.placed(&before, &serving, 1) != before;
            let why = || format!("{} shards are moving: others wait for them", facts.underway(map));
            Next::Keep { waiting: held_up.then(why) }
        }
        // The tokens are in the shards' leases.
        _ => Draft { owners, tokens: Vec::new(), moves: BTreeMap::new(), given_up: BTreeSet::new() }
            .publish(current, facts),
    }
}

fn next_isolated(current: Option<&ShardMap>, facts: &Facts<'_>, moves_at_once: usize) -> Next {
    let Some(map) = current.filter(|map| !facts.lost(map)) else {
        let shards = facts.shards as usize;
        let blank = Draft {
            owners: vec![None; shards],
            tokens: vec![FencingToken(0); shards],
            moves: BTreeMap::new(),
            given_up: BTreeSet::new(),
        };
        return blank.publish(current, facts);
    };
    let mut draft = Draft::of(map);
    if draft.owners.iter().any(Option::is_none) {
        return match find_owners(map, facts) {
            Ok(found) => found.publish(current, facts),
            Err(why) => Next::Keep { waiting: Some(why) },
        };
    }
    establish(&mut draft, map, facts);
    finish_moves(&mut draft, facts);
    let waiting = start_moves(&mut draft, facts, moves_at_once);
    match draft == Draft::of(map) {
        true => Next::Keep { waiting },
        false => draft.publish(current, facts),
    }
}

/// Owners for a map that has none: by what the nodes store. Every node must have seen this map and so have stopped
/// serving under any earlier one; only then is what it reports final. The exception is a node that is not wanted, has no
/// volume and has never reported any data: without a report no map gave it a shard to serve.
fn find_owners(map: &ShardMap, facts: &Facts<'_>) -> Result<Draft, String> {
    let with_data = |sight: &NodeSight| !sight.record.stored.is_empty() || !sight.record.received.is_empty();
    let asked: BTreeSet<&NodeId> = facts
        .wanted
        .iter()
        .chain(facts.volumes)
        .chain(facts.nodes.iter().filter(|(_, sight)| with_data(sight)).map(|(node, _)| node))
        .collect();
    let silent: Vec<&str> = asked
        .into_iter()
        .filter(|node| facts.live(node).is_none_or(|record| record.map_revision < map.revision))
        .map(|node| node.0.as_str())
        .collect();
    if !silent.is_empty() {
        return Err(format!("waiting for every node to report what it stores: {}", silent.join(", ")));
    }
    let mut best: BTreeMap<u32, (FencingToken, &NodeId)> = BTreeMap::new();
    for (node, sight) in facts.nodes {
        for held in &sight.record.stored {
            let better = best.get(&held.shard.0).is_none_or(|(token, _)| held.token > *token);
            if better && held.shard.0 < facts.shards {
                best.insert(held.shard.0, (held.token, node));
            }
        }
    }
    let stored = |shard: u32| best.get(&shard).map(|(token, node)| (*token, (*node).clone()));
    let present: Vec<Option<NodeId>> = (0..facts.shards).map(|shard| stored(shard).map(|(_, node)| node)).collect();
    let placed = facts.placed(&present, facts.wanted, usize::MAX);
    let owners = present.into_iter().zip(placed).map(|(present, placed)| present.or(placed)).collect();
    let tokens = (0..facts.shards).map(|shard| stored(shard).map_or(FencingToken(1), |(token, _)| token.next()));
    Ok(Draft { owners, tokens: tokens.collect(), moves: BTreeMap::new(), given_up: BTreeSet::new() })
}

/// Shards that were laid out under token 1, and are on their owner's volume now, may be served from token 2 on; the same goes
/// for shards that were given up, under a token of their own, once every live node has acted on this map: the one that had
/// them may have come back, and a life that begins from now on reads the map before it serves.
fn establish(draft: &mut Draft, map: &ShardMap, facts: &Facts<'_>) {
    let mut live = facts.nodes.values().filter(|sight| sight.live);
    let all_have_acted = live.all(|sight| sight.record.map_revision >= map.revision);
    for (at, shard) in (0..).zip(0..draft.owners.len()) {
        let token = draft.tokens[shard];
        let is_laid_out = match draft.given_up.contains(&at) {
            true => all_have_acted,
            false => token == FencingToken(1),
        };
        let owner = draft.owners[shard].as_ref().and_then(|owner| facts.live(owner));
        if is_laid_out && owner.is_some_and(|record| has(&record.stored, shard, token)) {
            draft.raise(shard);
            draft.given_up.remove(&at);
        }
    }
}

/// Moves whose copy is whole end with the target as owner; moves whose target went away, or has no room, are withdrawn.
fn finish_moves(draft: &mut Draft, facts: &Facts<'_>) {
    for (at, to) in draft.moves.clone() {
        let shard = at as usize;
        let token = draft.tokens[shard];
        let target = facts.live(&to);
        if target.is_some_and(|record| has(&record.received, shard, token)) {
            draft.owners[shard] = Some(to);
        } else if target.is_some_and(|record| !refuses_copies(record)) && facts.wants(&to) {
            continue; // Still copying.
        }
        draft.moves.remove(&at);
        draft.raise(shard);
    }
}

/// Starts moves towards the balanced placement, at most `at_once` on the way, from live nodes to live nodes. Says what it
/// waits for.
fn start_moves(draft: &mut Draft, facts: &Facts<'_>, at_once: usize) -> Option<String> {
    let underway = |draft: &Draft, shard: usize| u32::try_from(shard).ok().and_then(|at| draft.moves.get(&at).cloned());
    let effective: Vec<Option<NodeId>> = draft
        .owners
        .iter()
        .enumerate()
        .map(|(shard, owner)| underway(draft, shard).or_else(|| owner.clone()))
        .collect();
    // A node that is down keeps its place while it is wanted: only it has the data. One that was never there gets none.
    let targets: Vec<NodeId> = facts
        .wanted
        .iter()
        .filter(|node| facts.live(node).is_some() || effective.iter().flatten().any(|owner| owner == *node))
        .cloned()
        .collect();
    let mut waiting = None;
    for (shard, to) in facts.placed(&effective, &targets, usize::MAX).into_iter().enumerate() {
        let (Some(from), Some(to), Ok(at)) = (&draft.owners[shard], to, u32::try_from(shard)) else {
            continue;
        };
        if draft.moves.contains_key(&at) {
            waiting.get_or_insert_with(|| format!("shard {} is moving from {from}", ShardId(at)));
            continue;
        }
        if *from == to {
            continue;
        }
        let down = [from, &to].into_iter().find(|node| facts.live(node).is_none());
        if let Some(down) = down {
            waiting = Some(format!("shard {} should move from {from} to {to}, but {down} is not live", ShardId(at)));
            continue;
        }
        // It is served where it is, and what is said of that volume tells why.
        if facts.live(&to).is_some_and(refuses_copies) {
            continue;
        }
        // Only once the data is stamped with the map's token: another raise would leave it two behind.
        let settled = facts.live(from).is_some_and(|owner| has(&owner.stored, shard, draft.tokens[shard]));
        if settled && !draft.given_up.contains(&at) && draft.moves.len() < at_once {
            draft.moves.insert(at, to);
        }
    }
    waiting
}

fn refuses_copies(record: &SessionRecord) -> bool {
    record.volume.is_some_and(|volume| volume.refuses_copies)
}

fn has(held: &[HeldShard], shard: usize, token: FencingToken) -> bool {
    held.iter().any(|held| held.shard.0 as usize == shard && held.token == token)
}

#[cfg(test)]
#[path = "controller_tests.rs"]
mod tests;
