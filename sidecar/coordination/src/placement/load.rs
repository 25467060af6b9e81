//! Placement by measured load. Whatever nobody serves goes to the node with the least to do, the heaviest first. Shards
//! that are served move only where it is worth it: from the node with the most to do to the one with the least, while the
//! two are further apart than a fifth of the mean, and only shards that bring them closer together.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::limited;
use super::wishes::{self, Settled, Wishes};
use crate::NodeId;

/// For how long an unevenness must have lasted before shards move for it.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The part of the mean that a node may have more to do than another.
const TOLERANCE: u64 = 5;
/// Shards with nothing to do count as this part of a mean one: how many a node has makes a difference, too.
const IDLE: u64 = 8;

/// A node with what it has to do.
#[derive(Debug)]
struct Place<'a> {
    node: &'a NodeId,
    load: u64,
    /// Its shards, by their weight.
    shards: BTreeSet<(u64, usize)>,
}

/// Shards on nodes, with the nodes in order of what they have to do.
#[derive(Debug)]
struct Places<'a> {
    all: Vec<Place<'a>>,
    by_load: BTreeSet<(u64, usize)>,
}

impl<'a> Places<'a> {
    /// The shards that stay where they are, and those that nobody serves, the heaviest first.
    fn of(previous: &[Option<NodeId>], nodes: &'a BTreeSet<&'a NodeId>, weights: &[u64]) -> (Self, Vec<(u64, usize)>) {
        let mut all: Vec<Place<'_>> =
            nodes.iter().map(|node| Place { node, load: 0, shards: BTreeSet::new() }).collect();
        let index: BTreeMap<&NodeId, usize> = nodes.iter().enumerate().map(|(at, node)| (*node, at)).collect();
        let mut orphans = Vec::new();
        for (shard, (owner, weight)) in previous.iter().zip(weights).enumerate() {
            match owner.as_ref().and_then(|owner| index.get(owner)) {
                Some(at) => {
                    all[*at].load += weight;
                    all[*at].shards.insert((*weight, shard));
                }
                None => orphans.push((*weight, shard)),
            }
        }
        orphans.sort_unstable_by_key(|(weight, shard)| (std::cmp::Reverse(*weight), *shard));
        let by_load = all.iter().enumerate().map(|(at, place)| (place.load, at)).collect();
        (Self { all, by_load }, orphans)
    }

    /// The shards of those nodes that take part. What has to stay where it is weighs there, and is not for moving.
    fn settled(owners: &[Option<NodeId>], nodes: &'a BTreeSet<&'a NodeId>, weights: &[u64], settled: &Settled) -> Self {
        let (mut places, _) = Self::of(owners, nodes, weights);
        for place in &mut places.all {
            place.shards.retain(|(_, shard)| !settled.is_fixed(*shard));
        }
        places
    }

    fn change(&mut self, at: usize, change: impl FnOnce(&mut Place<'a>)) {
        self.by_load.remove(&(self.all[at].load, at));
        change(&mut self.all[at]);
        self.by_load.insert((self.all[at].load, at));
    }

    fn give(&mut self, at: usize, (weight, shard): (u64, usize)) {
        self.change(at, |place| {
            place.load += weight;
            place.shards.insert((weight, shard));
        });
    }

    fn take(&mut self, at: usize, (weight, shard): (u64, usize)) {
        self.change(at, |place| {
            place.load -= weight;
            place.shards.remove(&(weight, shard));
        });
    }

    /// The nodes with the least and the most to do.
    fn ends(&self) -> Option<(usize, usize)> {
        Some((self.by_load.first()?.1, self.by_load.last()?.1))
    }

    /// The move that is worth most, of those that may be, if one is: shard, from, to.
    fn best_move(&self, tolerance: u64, may: impl Fn(usize, &NodeId) -> bool) -> Option<((u64, usize), usize, usize)> {
        let (low, _) = self.ends()?;
        let has_any = |at: &usize| !self.all[*at].shards.is_empty();
        let high = self.by_load.iter().rev().map(|(_, at)| *at).find(has_any)?;
        let apart = self.all[high].load - self.all[low].load;
        if apart <= tolerance {
            return None;
        }
        let half = apart / 2;
        let shards = &self.all[high].shards;
        let may = |(_, shard): &&(u64, usize)| may(*shard, self.all[low].node);
        let lighter = shards.range(..=(half, usize::MAX)).rev().find(may);
        let heavier = shards.range((half + 1, 0)..).find(may);
        // The heavier one leaves the two `2w - apart` apart, the lighter one `apart - 2w`.
        let best = match (lighter, heavier) {
            (Some(lighter), Some(heavier)) if 2 * heavier.0 - apart < apart - 2 * lighter.0 => heavier,
            (Some(lighter), _) => lighter,
            (None, heavier) => heavier?,
        };
        (best.0 < apart).then_some((*best, high, low))
    }
}

/// What counts of a shard, from the operations per second that were measured.
pub fn weights(loads: &BTreeMap<u32, u64>, shards: usize) -> Vec<u64> {
    let total: u64 = loads.values().sum();
    let idle = (total / (shards.max(1) as u64 * IDLE)).max(1);
    (0u32..).take(shards).map(|shard| loads.get(&shard).copied().unwrap_or_default() + idle).collect()
}

fn tolerance(weights: &[u64], nodes: usize) -> u64 {
    (weights.iter().sum::<u64>() / nodes.max(1) as u64 / TOLERANCE).max(1)
}

/// Whether there is a move that is worth it.
pub fn is_uneven(previous: &[Option<NodeId>], nodes: &[NodeId], weights: &[u64]) -> bool {
    let nodes: BTreeSet<&NodeId> = nodes.iter().collect();
    Places::of(previous, &nodes, weights).0.best_move(tolerance(weights, nodes.len()), |_, _| true).is_some()
}

/// Places shards on `nodes` by their weights. An owner that is not among `nodes` counts as none. At most `most` shards move
/// from one of `nodes` to another. No nodes: no shard has an owner.
pub fn place(previous: &[Option<NodeId>], nodes: &[NodeId], weights: &[u64], most: usize) -> Vec<Option<NodeId>> {
    counted(previous, nodes, weights, most).0
}

/// The same where nodes have wishes. Shards that wishes move don't wait for anything; then as many others move as `even_out`
/// allows, and of all together at most `most`.
pub fn place_as_wished(
    previous: &[Option<NodeId>],
    nodes: &[NodeId],
    weights: &[u64],
    wishes: &Wishes,
    (most, even_out): (usize, bool),
) -> Vec<Option<NodeId>> {
    let settled = wishes::settle(previous, nodes, weights, wishes);
    let mut owners = limited(previous, settled.owners.clone(), nodes, most);
    if !even_out {
        return owners;
    }
    let served = |owner: &Option<NodeId>| owner.as_ref().is_some_and(|owner| nodes.contains(owner));
    let moved = previous.iter().zip(&owners).filter(|(before, after)| served(before) && before != after).count();
    let open: BTreeSet<&NodeId> = settled.open.iter().collect();
    let mut places = Places::settled(&owners, &open, weights, &settled);
    let tolerance = tolerance(weights, open.len());
    for _ in moved..most {
        let Some((shard, from, to)) = places.best_move(tolerance, |shard, to| settled.may_go(shard, to)) else { break };
        places.take(from, shard);
        places.give(to, shard);
    }
    for place in &places.all {
        for (_, shard) in &place.shards {
            owners[*shard] = Some(place.node.clone());
        }
    }
    owners
}

/// Whether there is a move that is worth it, of those that wishes allow.
pub fn is_uneven_as_wished(previous: &[Option<NodeId>], nodes: &[NodeId], weights: &[u64], wishes: &Wishes) -> bool {
    let settled = wishes::settle(previous, nodes, weights, wishes);
    let open: BTreeSet<&NodeId> = settled.open.iter().collect();
    let places = Places::settled(&settled.owners, &open, weights, &settled);
    places.best_move(tolerance(weights, open.len()), |shard, to| settled.may_go(shard, to)).is_some()
}

/// With the number of times that a shard was given to a node.
fn counted(
    previous: &[Option<NodeId>],
    nodes: &[NodeId],
    weights: &[u64],
    most: usize,
) -> (Vec<Option<NodeId>>, usize) {
    let nodes: BTreeSet<&NodeId> = nodes.iter().collect();
    let (mut places, orphans) = Places::of(previous, &nodes, weights);
    let mut steps = orphans.len();
    for orphan in orphans {
        let Some((low, _)) = places.ends() else {
            return (vec![None; previous.len()], 0);
        };
        places.give(low, orphan);
    }
    let tolerance = tolerance(weights, nodes.len());
    for _ in 0..most {
        let Some((shard, from, to)) = places.best_move(tolerance, |_, _| true) else { break };
        places.take(from, shard);
        places.give(to, shard);
        steps += 1;
    }
    let mut placed = vec![None; previous.len()];
    for place in &places.all {
        for (_, shard) in &place.shards {
            placed[*shard] = Some(place.node.clone());
        }
    }
    (placed, steps)
}

/// Waits until an unevenness has lasted: load that comes and goes moves nothing.
#[derive(Clone, Debug, Default)]
pub struct Patience {
    since: Option<Duration>,
}

impl Patience {
    /// Whether it has been uneven at every look for [`PATIENCE`]. `now`: this machine's clock.
    pub fn is_over(&mut self, uneven: bool, now: Duration) -> bool {
        if !uneven {
            self.since = None;
            return false;
        }
        now.saturating_sub(*self.since.get_or_insert(now)) >= PATIENCE
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn node(index: usize) -> NodeId {
        NodeId(format!("n-{index}"))
    }

    fn nodes(number: usize) -> Vec<NodeId> {
        (0..number).map(node).collect()
    }

    fn loads(placed: &[Option<NodeId>], nodes: &[NodeId], weights: &[u64]) -> Vec<u64> {
        let of = |node: &NodeId| {
            placed.iter().zip(weights).filter(|(owner, _)| owner.as_ref() == Some(node)).map(|(_, weight)| weight).sum()
        };
        nodes.iter().map(of).collect()
    }

    fn moved(before: &[Option<NodeId>], after: &[Option<NodeId>]) -> usize {
        before.iter().zip(after).filter(|(old, new)| old != new).count()
    }

    prop_compose! {
        fn any_cluster()(shards in 1usize..300, owners in 1usize..20)
            (weights in prop::collection::vec(1u64..1000, shards),
             previous in prop::collection::vec(prop::option::weighted(0.9, 0..owners), shards))
            -> (Vec<u64>, Vec<Option<NodeId>>) {
            (weights, previous.into_iter().map(|owner| owner.map(node)).collect())
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn in_the_end_no_single_move_brings_the_ends_closer((weights, previous) in any_cluster(), want in 1usize..20) {
            let nodes = nodes(want);
            let placed = place(&previous, &nodes, &weights, usize::MAX);
            prop_assert!(placed.iter().all(Option::is_some));
            let loads = loads(&placed, &nodes, &weights);
            let (low, high) = (loads.iter().min().unwrap(), loads.iter().max().unwrap());
            let heaviest: Vec<&NodeId> = nodes.iter().zip(&loads).filter(|(_, load)| *load == high).map(|(node, _)| node).collect();
            let stuck = heaviest.iter().any(|node| {
                placed.iter().zip(&weights).filter(|(owner, _)| owner.as_ref() == Some(*node)).all(|(_, weight)| *weight >= high - low)
            });
            prop_assert!(high - low <= tolerance(&weights, want) || stuck, "{:?}", loads);
            prop_assert!(!is_uneven(&placed, &nodes, &weights));
            prop_assert_eq!(place(&placed, &nodes, &weights, usize::MAX), placed);
        }

        #[test]
        fn no_more_than_so_many_move_and_each_look_brings_them_closer((weights, previous) in any_cluster(), want in 2usize..20, most in 1usize..10) {
            let nodes = nodes(want);
            let settled = place(&previous, &nodes, &weights, 0);
            let squares = |placed: &[Option<NodeId>]| loads(placed, &nodes, &weights).iter().map(|load| load * load).sum::<u64>();
            let next = place(&settled, &nodes, &weights, most);
            prop_assert!(moved(&settled, &next) <= most);
            prop_assert_eq!(is_uneven(&settled, &nodes, &weights), next != settled);
            prop_assert!(next == settled || squares(&next) < squares(&settled));
        }
    }

    prop_compose! {
        fn any_wishes(nodes: usize, shards: usize)
            (acquire in prop::collection::vec((0..shards, 0..nodes), 0..10),
             release in prop::collection::vec((0..shards, 0..nodes), 0..10),
             drain in prop::collection::btree_set(0..nodes, 0..3)) -> Wishes {
            let mut wishes = Wishes { drain: drain.into_iter().map(node).collect(), ..Wishes::default() };
            for (of, wished) in [(&mut wishes.acquire, acquire), (&mut wishes.release, release)] {
                for (shard, by) in wished {
                    of.entry(shard).or_default().insert(node(by));
                }
            }
            wishes
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn wishes_are_met_at_once_and_the_rest_comes_to_rest(
            (weights, previous) in any_cluster(), wishes in any_wishes(6, 40), most in 1usize..10
        ) {
            let nodes = nodes(6);
            let asked = wishes::settle(&previous, &nodes, &weights, &wishes);
            let whole = place_as_wished(&previous, &nodes, &weights, &wishes, (usize::MAX, false));
            prop_assert_eq!(&whole, &asked.owners);
            let (mut now, mut turns) = (previous, 0);
            loop {
                let next = place_as_wished(&now, &nodes, &weights, &wishes, (most, true));
                prop_assert!(next.iter().all(Option::is_some));
                let serves = |owner: &Option<NodeId>| owner.as_ref().is_some_and(|owner| nodes.contains(owner));
                let step = now.iter().zip(&next).filter(|(old, new)| serves(old) && old != new).count();
                prop_assert!(step <= most);
                if next == now {
                    break;
                }
                (now, turns) = (next, turns + 1);
                prop_assert!(turns < 2000, "it never comes to rest");
            }
            prop_assert!(!is_uneven_as_wished(&now, &nodes, &weights, &wishes));
            prop_assert_eq!(&wishes::settle(&now, &nodes, &weights, &wishes).owners, &now, "all wishes are met");
        }
    }

    #[test]
    fn a_hot_shard_gets_a_node_to_itself() {
        let previous: Vec<_> = (0..8).map(|shard| Some(node(shard % 2))).collect();
        let weights = weights(&BTreeMap::from([(0, 1000)]), 8);
        let placed = place(&previous, &nodes(2), &weights, usize::MAX);
        assert_eq!(placed[0], Some(node(0)));
        assert!(placed[1..].iter().all(|owner| *owner == Some(node(1))), "{placed:?}");
    }

    #[test]
    fn shards_with_nothing_to_do_are_spread_by_their_number() {
        let previous = vec![Some(node(0)); 100];
        let placed = place(&previous, &nodes(4), &weights(&BTreeMap::new(), 100), usize::MAX);
        let counts = loads(&placed, &nodes(4), &[1; 100]);
        assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 5, "{counts:?}");
    }

    #[test]
    fn load_that_comes_and_goes_moves_nothing() {
        let (mut patience, at) = (Patience::default(), Duration::from_secs);
        assert!(!patience.is_over(true, at(5)));
        assert!(!patience.is_over(true, at(64)));
        assert!(patience.is_over(true, at(65)));
        assert!(!patience.is_over(false, at(66)));
        assert!(!patience.is_over(true, at(67)));
        assert!(!patience.is_over(true, at(126)));
    }

    #[test]
    fn a_hundred_thousand_shards_take_no_more_steps_than_there_are_shards() {
        let shards = 100_000;
        let uneven: Vec<u64> = (0..shards as u64).map(|shard| shard * 7919 % 1000 + 1).collect();
        let (first, steps) = counted(&vec![None; shards], &nodes(1000), &uneven, usize::MAX);
        assert!(steps <= shards + shards / 10, "{steps}");
        // A node joins.
        let (_, steps) = counted(&first, &nodes(1001), &uneven, usize::MAX);
        assert!(steps <= shards / 100, "{steps}");
    }
}
