//! Placement where nodes have wishes: who wishes for a shard has it, who wishes it away or drains has it not while another may
//! take it, and the rest is as even as that allows.
//!
//! It is a search that ends: each step makes the nodes' shares more even, or the zones' with the nodes' as even as before.
//! So a placement that no step improves is left alone, and shards don't go to and fro.

use std::cmp::Reverse;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::NodeId;

/// What the nodes wish.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wishes {
    /// Who wishes to own a shard. Where it is several, the one that has it keeps it; where none of them has it, the first by
    /// name gets it. No clock can say whose wish is older, and who asked first has the shard by the time another asks.
    pub acquire: BTreeMap<usize, BTreeSet<NodeId>>,
    /// Who wishes not to own a shard.
    pub release: BTreeMap<usize, BTreeSet<NodeId>>,
    /// Who wishes to own none. It counts before anything else that it wishes.
    pub drain: BTreeSet<NodeId>,
    /// Who can neither give nor take at the moment: it keeps what it has.
    pub still: BTreeSet<NodeId>,
}

impl Wishes {
    /// Nobody wishes anything.
    pub fn is_empty(&self) -> bool {
        self.acquire.is_empty() && self.release.is_empty() && self.drain.is_empty()
    }
}

/// Places shards on `nodes` as their wishes ask. `previous` holds each shard's present owner; one that is not among `nodes`
/// counts as none.
///
/// - A shard that is wished for is with one that wishes for it. One that is wished away, or on a node that drains, is with
///   another node, if there is one that neither drains nor wishes it away; otherwise it stays. Where all nodes drain, nothing
///   moves.
/// - No shard is without an owner, unless there are no nodes.
/// - The shares of the nodes that take part are as even as that allows, and so are their zones'. Of the shards that may stay,
///   none moves but for that. The same input gives the same placement, and what comes out, put in again, comes out as it is.
pub fn place(
    previous: &[Option<NodeId>],
    nodes: &[NodeId],
    zones: &BTreeMap<NodeId, String>,
    wishes: &Wishes,
) -> Vec<Option<NodeId>> {
    let weights = vec![1; previous.len()];
    let mut plan = Plan::new(previous, nodes, zones, wishes, &weights);
    while plan.level() {}
    while plan.level_zones() {}
    plan.owners()
}

/// Shards that were placed as wishes ask and no further, with what may still be done with them.
#[derive(Debug)]
pub struct Settled {
    /// Where they are.
    pub owners: Vec<Option<NodeId>>,
    /// The nodes that shards may be given to; a shard that is on another node, or on the one that wishes for it, stays.
    pub open: BTreeSet<NodeId>,
    fixed: Vec<bool>,
    release: BTreeMap<usize, BTreeSet<NodeId>>,
}

impl Settled {
    /// Whether a shard has to stay where it is.
    pub fn is_fixed(&self, shard: usize) -> bool {
        self.fixed[shard]
    }

    /// Whether a shard may be given to a node.
    pub fn may_go(&self, shard: usize, to: &NodeId) -> bool {
        self.release.get(&shard).is_none_or(|refusing| !refusing.contains(to))
    }
}

/// Places only the shards that wishes move, and those that nobody serves: each goes to the one with the least to do.
pub fn settle(previous: &[Option<NodeId>], nodes: &[NodeId], weights: &[u64], wishes: &Wishes) -> Settled {
    let none = BTreeMap::new();
    let plan = Plan::new(previous, nodes, &none, wishes, weights);
    let open = plan.nodes.iter().zip(&plan.open).filter(|(_, open)| **open).map(|(node, _)| (*node).clone()).collect();
    Settled { owners: plan.owners(), open, fixed: plan.fixed, release: wishes.release.clone() }
}

/// A shard that may be moved off its node. Those that are not at home go first, then the last ones.
type Movable = (bool, Reverse<usize>);

/// A node on a way between zones, and the share of the node where this stretch of the way began.
type Place = (usize, u64);

/// How a way came to a place.
enum Came {
    FromNowhere,
    /// A shard is to go here from the place before.
    ByShard(usize, Place),
    /// This node gives one away, since another of its zone was given one.
    InPlaceOf(Place),
}

/// The shards that are given away on the way to `end`, and to whom.
fn shards_on_the_way(came: &BTreeMap<Place, Came>, end: Place) -> Vec<(usize, usize)> {
    let mut way = Vec::new();
    let mut at = end;
    loop {
        at = match came[&at] {
            Came::FromNowhere => return way,
            Came::InPlaceOf(before) => before,
            Came::ByShard(shard, before) => {
                way.push((shard, at.0));
                before
            }
        };
    }
}

/// A placement in the making. Nodes are numbered by name.
#[derive(Debug)]
struct Plan<'a> {
    nodes: Vec<&'a NodeId>,
    /// The zone of each.
    zone: Vec<usize>,
    /// Whether shards may be given to it.
    open: Vec<bool>,
    /// Whether it keeps what it has.
    still: Vec<bool>,
    weights: &'a [u64],
    /// Where each shard was.
    home: Vec<Option<usize>>,
    /// Where it is.
    at: Vec<Option<usize>>,
    /// It has to stay there.
    fixed: Vec<bool>,
    /// Who does not want it, where anyone does not.
    refused: BTreeMap<usize, BTreeSet<usize>>,
    /// What may be moved off each node: to any other, or to some.
    free: Vec<BTreeSet<Movable>>,
    picky: Vec<BTreeSet<Movable>>,
    load: Vec<u64>,
    of_zone: Vec<u64>,
    /// The open nodes by what they have to do: all, and those of each zone.
    by_load: BTreeSet<(u64, usize)>,
    in_zone: Vec<BTreeSet<(u64, usize)>>,
}

impl<'a> Plan<'a> {
    /// Shards stay where they are, if they may. The others are given away, those that the fewest may take first.
    fn new(
        previous: &[Option<NodeId>],
        nodes: &'a [NodeId],
        zones: &BTreeMap<NodeId, String>,
        wishes: &Wishes,
        weights: &'a [u64],
    ) -> Self {
        let nodes: Vec<&NodeId> = nodes.iter().collect::<BTreeSet<_>>().into_iter().collect();
        let index: BTreeMap<&NodeId, usize> = nodes.iter().enumerate().map(|(at, node)| (*node, at)).collect();
        let names: BTreeSet<Option<&String>> = nodes.iter().map(|node| zones.get(*node)).collect();
        let zone = |node: &&NodeId| names.iter().position(|name| *name == zones.get(*node)).unwrap_or_default();
        let numbered = |(shard, by): (&usize, &BTreeSet<NodeId>)| {
            let by: BTreeSet<usize> = by.iter().filter_map(|node| index.get(node).copied()).collect();
            (!by.is_empty()).then_some((*shard, by))
        };
        let mut plan = Self {
            zone: nodes.iter().map(zone).collect(),
            open: nodes.iter().map(|node| !wishes.drain.contains(*node) && !wishes.still.contains(*node)).collect(),
            still: nodes.iter().map(|node| wishes.still.contains(*node)).collect(),
            weights,
            home: previous.iter().map(|owner| index.get(owner.as_ref()?).copied()).collect(),
            at: vec![None; previous.len()],
            fixed: vec![false; previous.len()],
            refused: wishes.release.iter().filter_map(numbered).collect(),
            free: vec![BTreeSet::new(); nodes.len()],
            picky: vec![BTreeSet::new(); nodes.len()],
            load: vec![0; nodes.len()],
            of_zone: vec![0; names.len()],
            by_load: BTreeSet::new(),
            in_zone: vec![BTreeSet::new(); names.len()],
            nodes,
        };
        for node in (0..plan.nodes.len()).filter(|node| plan.open[*node]) {
            plan.by_load.insert((0, node));
            plan.in_zone[plan.zone[node]].insert((0, node));
        }
        let claims: BTreeMap<usize, BTreeSet<usize>> = wishes.acquire.iter().filter_map(numbered).collect();
        let mut homeless = Vec::new();
        for shard in 0..previous.len() {
            let claimed = claims.get(&shard).and_then(|by| plan.claimed(shard, by));
            match (claimed, plan.home[shard]) {
                (Some(node), _) => plan.put(shard, node, true),
                (None, Some(home)) if plan.stays(shard, home) => {
                    let is_fixed = !plan.open[home] || plan.refuses(shard, home);
                    plan.put(shard, home, is_fixed);
                }
                (None, _) => homeless.push(shard),
            }
        }
        let is_unwanted = |shard: &usize| !plan.by_load.iter().any(|(_, node)| !plan.refuses(*shard, *node));
        let unwanted: Vec<usize> = homeless.iter().copied().filter(is_unwanted).collect();
        // Somebody has to take it, and then it is like any other.
        unwanted.iter().for_each(|shard| drop(plan.refused.remove(shard)));
        let refusing = |shard: usize| plan.refused.get(&shard).map_or(0, BTreeSet::len);
        homeless.sort_by_key(|shard| (Reverse(refusing(*shard)), Reverse(weights[*shard])));
        for shard in homeless {
            if let Some(node) = plan.lightest_for(shard) {
                plan.put(shard, node, false);
            }
        }
        plan
    }

    /// Who gets a shard that these wish for.
    fn claimed(&self, shard: usize, by: &BTreeSet<usize>) -> Option<usize> {
        let counts = |node: &usize| self.open[*node] && !self.refuses(shard, *node);
        let home = self.home[shard].filter(|home| by.contains(home) && counts(home));
        home.or_else(|| by.iter().copied().find(counts))
    }

    /// Whether a shard that nobody wishes for stays where it is.
    fn stays(&self, shard: usize, home: usize) -> bool {
        let is_wished_away = if self.open[home] { self.refuses(shard, home) } else { !self.still[home] };
        let may_take = |(_, node): &(u64, usize)| *node != home && !self.refuses(shard, *node);
        !is_wished_away || !self.by_load.iter().any(may_take)
    }

    fn refuses(&self, shard: usize, node: usize) -> bool {
        self.refused.get(&shard).is_some_and(|refusing| refusing.contains(&node))
    }

    /// The node for a shard that nobody serves: one that may take it, or one that is at least there.
    fn lightest_for(&self, shard: usize) -> Option<usize> {
        let mut lightest = None;
        for nodes in &self.in_zone {
            let first = nodes.iter().find(|(_, node)| !self.refuses(shard, *node));
            let found = first.map(|(load, node)| (*load, self.of_zone[self.zone[*node]], *node));
            lightest = [lightest, found].into_iter().flatten().min();
        }
        let any = || {
            let rank = |node: &usize| (!self.open[*node], self.still[*node], self.load[*node], *node);
            (0..self.nodes.len()).min_by_key(rank)
        };
        lightest.map(|(.., node)| node).or_else(any)
    }

    fn put(&mut self, shard: usize, node: usize, fixed: bool) {
        self.at[shard] = Some(node);
        self.fixed[shard] = fixed;
        if !fixed && self.open[node] {
            let movable = (self.home[shard] == Some(node), Reverse(shard));
            self.movables(shard, node).insert(movable);
        }
        self.weigh(node, self.load[node] + self.weights[shard]);
    }

    fn give(&mut self, shard: usize, to: usize) {
        if let Some(from) = self.at[shard] {
            let movable = (self.home[shard] == Some(from), Reverse(shard));
            self.movables(shard, from).remove(&movable);
            self.weigh(from, self.load[from] - self.weights[shard]);
        }
        self.put(shard, to, false);
    }

    fn movables(&mut self, shard: usize, node: usize) -> &mut BTreeSet<Movable> {
        if self.refused.contains_key(&shard) { &mut self.picky[node] } else { &mut self.free[node] }
    }

    fn weigh(&mut self, node: usize, load: u64) {
        let before = std::mem::replace(&mut self.load[node], load);
        if self.open[node] {
            let zone = self.zone[node];
            self.of_zone[zone] = self.of_zone[zone] + load - before;
            for nodes in [&mut self.by_load, &mut self.in_zone[zone]] {
                nodes.remove(&(before, node));
                nodes.insert((load, node));
            }
        }
    }

    /// A shard that may be moved from one node to another.
    fn movable(&self, from: usize, to: usize) -> Option<usize> {
        let picky = self.picky[from].iter().find(|(_, Reverse(shard))| !self.refuses(*shard, to));
        let (_, Reverse(shard)) = self.free[from].first().into_iter().chain(picky).min()?;
        Some(*shard)
    }

    /// Brings two nodes closer that have two shards' difference or more. False: there are none, or no way between them.
    fn level(&mut self) -> bool {
        let Some((least, _)) = self.by_load.first() else { return false };
        let heavy = self.by_load.iter().rev().take_while(|(load, _)| *load >= least + 2);
        let Some(way) = heavy.into_iter().find_map(|(load, node)| self.way_down(*node, load - 2)) else {
            return false;
        };
        self.give_along(way);
        true
    }

    fn give_along(&mut self, way: Vec<(usize, usize)>) {
        for (shard, to) in way {
            self.give(shard, to);
        }
    }

    /// The shortest way from a node to one with no more than `most`: which shards go where. Where no shard may go all the way,
    /// one makes room for the other.
    fn way_down(&self, from: usize, most: u64) -> Option<Vec<(usize, usize)>> {
        let mut came: BTreeMap<usize, (usize, usize)> = BTreeMap::new();
        let mut ahead = VecDeque::from([from]);
        while let Some(here) = ahead.pop_front() {
            for (load, next) in &self.by_load {
                if *next == from || came.contains_key(next) {
                    continue;
                }
                let Some(shard) = self.movable(here, *next) else { continue };
                came.insert(*next, (shard, here));
                if *load <= most {
                    let mut way = Vec::new();
                    let mut at = *next;
                    while let Some((shard, before)) = came.get(&at) {
                        way.push((*shard, at));
                        at = *before;
                    }
                    return Some(way);
                }
                ahead.push_back(*next);
            }
        }
        None
    }

    /// Brings two zones closer that have two shards' difference or more, with the nodes' shares as even as before. False: there
    /// are none, or no way between them.
    fn level_zones(&mut self) -> bool {
        let mut zones: Vec<usize> = (0..self.of_zone.len()).filter(|zone| !self.in_zone[*zone].is_empty()).collect();
        zones.sort_by_key(|zone| self.of_zone[*zone]);
        let Some(way) = zones.iter().rev().find_map(|heavy| self.way_out(*heavy)) else { return false };
        self.give_along(way);
        true
    }

    /// The shortest way from a zone to one that has two shards less: which shards go where. It consists of stretches that each
    /// end at a node with one shard less than where they began, so that two nodes change places. Where a stretch ends in a zone
    /// that is no lighter, another node of that zone makes room. A shortest way meets no node twice: what lies between would be
    /// a way of its own that makes the shares more even, and there is none left.
    fn way_out(&self, heavy: usize) -> Option<Vec<(usize, usize)>> {
        let most = self.of_zone[heavy].checked_sub(2)?;
        let mut came: BTreeMap<Place, Came> = BTreeMap::new();
        let mut unseen: BTreeMap<u64, BTreeSet<usize>> = BTreeMap::new();
        let mut begun = BTreeSet::from([heavy]);
        let begin = |zone: usize| self.in_zone[zone].iter().rev().map(|(share, node)| (*node, *share));
        let mut ahead: VecDeque<Place> = begin(heavy).collect();
        came.extend(begin(heavy).map(|place| (place, Came::FromNowhere)));
        while let Some(here) = ahead.pop_front() {
            let (node, share) = here;
            let unseen = unseen.entry(share).or_insert_with(|| self.by_load.iter().map(|(_, node)| *node).collect());
            let reached = |next: &usize| Some((*next, self.movable(node, *next)?));
            let next: Vec<(usize, usize)> = unseen.iter().filter(|next| **next != node).filter_map(reached).collect();
            for (next, shard) in next {
                unseen.remove(&next);
                let there = (next, share);
                if came.contains_key(&there) {
                    continue;
                }
                came.insert(there, Came::ByShard(shard, here));
                ahead.push_back(there);
                let zone = self.zone[next];
                if self.load[next] + 1 != share {
                    continue;
                }
                if self.of_zone[zone] <= most {
                    return Some(shards_on_the_way(&came, there));
                }
                if begun.insert(zone) {
                    for place in begin(zone) {
                        if let Entry::Vacant(vacant) = came.entry(place) {
                            vacant.insert(Came::InPlaceOf(there));
                            ahead.push_back(place);
                        }
                    }
                }
            }
        }
        None
    }

    fn owners(&self) -> Vec<Option<NodeId>> {
        self.at.iter().map(|node| node.map(|node| self.nodes[node].clone())).collect()
    }
}

#[cfg(test)]
#[path = "wishes_tests.rs"]
mod tests;
