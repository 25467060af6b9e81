//! Placement: which node should own which shard. Balanced to within one shard, and as few shards change their owner as
//! that balance allows; or, where that is asked for, balanced by measured load ([`load`]). Nodes may have [`wishes`].

pub mod load;
pub mod wishes;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::NodeId;

/// How shards are to be placed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Policy {
    /// What is the same for every node.
    #[serde(default)]
    pub balance: Balance,
    /// Most shards on the way from one live node to another at once; none: as many as there are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_moves: Option<u32>,
    /// The zone of each node, where it has one.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub zones: BTreeMap<NodeId, String>,
    /// Nodes that are to own no shard while another may take it, as if they [wished](wishes::Wishes::drain) so: on machines that
    /// are being emptied.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub drained: BTreeSet<NodeId>,
    /// Nodes that keep the shards they have, and get none: what they have finds no room elsewhere. It counts before `drained`
    /// and before what they wish themselves.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub kept: BTreeSet<NodeId>,
}

/// What is the same for every node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Balance {
    /// How many shards it has.
    #[default]
    Count,
    /// How much is asked of its shards.
    Load,
}

/// Places `previous.len()` shards on `nodes` (order and duplicates of `nodes` don't matter). `previous` holds each
/// shard's present owner; an owner that is not among `nodes` counts as none.
///
/// - Balanced: every node gets `floor` or `floor + 1` shards.
/// - Sticky: no balanced placement keeps more shards where they are. With `c` the present counts, `q` the floor and `r`
///   the remainder, `sum(min(c, q)) + min(r, nodes with c > q)` shards stay.
/// - Deterministic: the same input gives the same placement.
///
/// No nodes: no shard has an owner.
pub fn place(previous: &[Option<NodeId>], nodes: &[NodeId]) -> Vec<Option<NodeId>> {
    place_in_zones(previous, nodes, &BTreeMap::new())
}

/// The same where nodes are in zones; those that are not are in one of their own. Of the balanced placements it takes one
/// whose zones have shares as even as can be, that is with the least sum of squares: they differ by one at most where the
/// zones have as many nodes. Of these, one that keeps the most shards where they are: with `e` the nodes of a zone that
/// get one more than the floor, `sum(min(c, q)) + sum(min(e, nodes of the zone with c > q))` stay.
pub fn place_in_zones(
    previous: &[Option<NodeId>],
    nodes: &[NodeId],
    zones: &BTreeMap<NodeId, String>,
) -> Vec<Option<NodeId>> {
    let nodes: BTreeSet<&NodeId> = nodes.iter().collect();
    if nodes.is_empty() {
        return vec![None; previous.len()];
    }
    let mut room = quotas(previous, &nodes, zones);

    let mut placed: Vec<Option<&NodeId>> = Vec::with_capacity(previous.len());
    for owner in previous {
        let kept = owner.as_ref().filter(|owner| room.get_mut(owner).is_some_and(take_one));
        placed.push(kept);
    }
    let mut free = room.into_iter().flat_map(|(node, left)| std::iter::repeat_n(node, left));
    placed.into_iter().map(|owner| owner.or_else(|| free.next()).cloned()).collect()
}

/// As much of `placed` as moves at most `most` shards from one of `nodes` to another. Shards of others are placed at once:
/// nobody serves them.
pub fn limited(
    previous: &[Option<NodeId>],
    placed: Vec<Option<NodeId>>,
    nodes: &[NodeId],
    most: usize,
) -> Vec<Option<NodeId>> {
    let nodes: BTreeSet<&NodeId> = nodes.iter().collect();
    let mut left = most;
    let step = |(before, after): (&Option<NodeId>, Option<NodeId>)| match before {
        Some(owner) if nodes.contains(owner) && after.as_ref() != Some(owner) => {
            if take_one(&mut left) {
                after
            } else {
                before.clone()
            }
        }
        _ => after,
    };
    previous.iter().zip(placed).map(step).collect()
}

fn take_one(left: &mut usize) -> bool {
    let any = *left > 0;
    *left = left.saturating_sub(1);
    any
}

/// The nodes of a zone.
#[derive(Debug, Default)]
struct Zone<'a> {
    /// Each with the shards that it has.
    nodes: Vec<(&'a NodeId, usize)>,
    /// How many of them have more than the floor.
    crowded: usize,
    /// How many of them get one more than the floor.
    extra: usize,
}

/// How many shards each node gets. In a zone, the nodes that have the most get the one more: what is above the floor can
/// stay only there.
fn quotas<'a>(
    previous: &'a [Option<NodeId>],
    nodes: &BTreeSet<&'a NodeId>,
    zones: &BTreeMap<NodeId, String>,
) -> BTreeMap<&'a NodeId, usize> {
    let mut counts: BTreeMap<&NodeId, usize> = nodes.iter().map(|node| (*node, 0)).collect();
    for owner in previous.iter().flatten() {
        if let Some(count) = counts.get_mut(owner) {
            *count += 1;
        }
    }
    let floor = previous.len() / nodes.len();
    let mut by_zone: BTreeMap<Option<&str>, Zone<'_>> = BTreeMap::new();
    for (node, count) in counts {
        let zone = by_zone.entry(zones.get(node).map(String::as_str)).or_default();
        zone.nodes.push((node, count));
        zone.crowded += usize::from(count > floor);
    }
    let mut by_zone: Vec<Zone<'_>> = by_zone.into_values().collect();
    share_out(&mut by_zone, floor, previous.len() % nodes.len());
    let of_zone = |mut zone: Zone<'a>| {
        zone.nodes.sort_by_key(|(_, count)| std::cmp::Reverse(*count)); // Stable: names break ties.
        let extra = zone.extra;
        zone.nodes.into_iter().enumerate().map(move |(rank, (node, _))| (node, floor + usize::from(rank < extra)))
    };
    by_zone.into_iter().flat_map(of_zone).collect()
}

/// What is left above the floor goes where there is least, one by one. Where several have least, to one that has a shard
/// above the floor to keep: each of them gets one before any gets two.
fn share_out(zones: &mut [Zone<'_>], floor: usize, remainder: usize) {
    let rank = |zone: &Zone<'_>| (floor * zone.nodes.len() + zone.extra, zone.extra >= zone.crowded);
    let has_room = |zone: &Zone<'_>| zone.extra < zone.nodes.len();
    let open = zones.iter().enumerate().filter(|(_, zone)| has_room(zone));
    let mut by_rank: BTreeSet<_> = open.map(|(index, zone)| (rank(zone), index)).collect();
    for _ in 0..remainder {
        let Some((_, index)) = by_rank.pop_first() else { return };
        zones[index].extra += 1;
        if has_room(&zones[index]) {
            by_rank.insert((rank(&zones[index]), index));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn node(index: usize) -> NodeId {
        NodeId(format!("n-{index}"))
    }

    fn nodes(range: std::ops::Range<usize>) -> Vec<NodeId> {
        range.map(node).collect()
    }

    fn count(placed: &[Option<NodeId>], node: &NodeId) -> usize {
        placed.iter().flatten().filter(|owner| *owner == node).count()
    }

    fn moved(before: &[Option<NodeId>], after: &[Option<NodeId>]) -> usize {
        before.iter().zip(after).filter(|(old, new)| old != new).count()
    }

    fn balanced(placed: &[Option<NodeId>], nodes: &[NodeId]) -> bool {
        let floor = placed.len() / nodes.len();
        let ceiling = placed.len().div_ceil(nodes.len());
        placed.iter().all(Option::is_some) && nodes.iter().all(|node| (floor..=ceiling).contains(&count(placed, node)))
    }

    /// The fewest moves that any balanced placement can do with, found without regard to how `place` works: try every
    /// number of nodes at the ceiling, and keep the best choice of them (the most crowded nodes gain most).
    fn fewest_moves(previous: &[Option<NodeId>], nodes: &[NodeId]) -> usize {
        let floor = previous.len() / nodes.len();
        let remainder = previous.len() % nodes.len();
        let counts: Vec<usize> = nodes.iter().map(|node| count(previous, node)).collect();
        let kept_at_floor: usize = counts.iter().map(|count| (*count).min(floor)).sum();
        let gain = counts.iter().filter(|count| **count > floor).count().min(remainder);
        previous.len() - kept_at_floor - gain
    }

    /// The same by brute force over every balanced choice of quotas; for few nodes.
    fn fewest_moves_by_force(previous: &[Option<NodeId>], nodes: &[NodeId]) -> usize {
        let floor = previous.len() / nodes.len();
        let remainder = previous.len() % nodes.len();
        let kept = (0u32..1 << nodes.len()).filter(|choice| choice.count_ones() as usize == remainder).map(|choice| {
            let quota = |index: usize| floor + usize::from(choice >> index & 1 == 1);
            nodes.iter().enumerate().map(|(index, node)| count(previous, node).min(quota(index))).sum::<usize>()
        });
        previous.len() - kept.max().unwrap_or_default()
    }

    prop_compose! {
        /// Any owners at all, some from nodes that are gone, some missing.
        fn any_owners(most_nodes: usize, most_shards: usize)
            (shards in 1..=most_shards, owners in 1..=most_nodes)
            (previous in prop::collection::vec(prop::option::weighted(0.9, 0..owners), shards)) -> Vec<Option<NodeId>> {
            previous.into_iter().map(|owner| owner.map(node)).collect()
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn any_placement_is_balanced_and_moves_no_more_than_the_bound(previous in any_owners(60, 2000), want in 1usize..50) {
            let nodes = nodes(0..want);
            let placed = place(&previous, &nodes);
            prop_assert!(balanced(&placed, &nodes));
            prop_assert_eq!(moved(&previous, &placed), fewest_moves(&previous, &nodes));
        }

        #[test]
        fn the_bound_is_the_true_minimum(previous in any_owners(8, 60), want in 1usize..8) {
            let nodes = nodes(0..want);
            prop_assert_eq!(fewest_moves(&previous, &nodes), fewest_moves_by_force(&previous, &nodes));
            prop_assert_eq!(moved(&previous, &place(&previous, &nodes)), fewest_moves_by_force(&previous, &nodes));
        }

        #[test]
        fn a_join_moves_only_what_the_new_node_gets(shards in 1usize..2000, before in 1usize..50) {
            let old = place(&vec![None; shards], &nodes(0..before));
            let new = place(&old, &nodes(0..before + 1));
            prop_assert_eq!(moved(&old, &new), shards / (before + 1));
            prop_assert_eq!(count(&new, &node(before)), shards / (before + 1));
        }

        #[test]
        fn a_leave_moves_only_what_the_node_had(shards in 1usize..2000, before in 2usize..50, which in 0usize..50) {
            let old = place(&vec![None; shards], &nodes(0..before));
            let gone = node(which % before);
            let left: Vec<NodeId> = nodes(0..before).into_iter().filter(|node| *node != gone).collect();
            let new = place(&old, &left);
            prop_assert_eq!(moved(&old, &new), count(&old, &gone));
        }

        #[test]
        fn a_second_placement_changes_nothing(previous in any_owners(20, 500), want in 1usize..20) {
            let mut nodes = nodes(0..want);
            let placed = place(&previous, &nodes);
            nodes.reverse();
            nodes.push(node(0));
            prop_assert_eq!(place(&placed, &nodes), placed);
        }
    }

    /// The zone of a node, by its number; the last has none.
    fn zones(nodes: &[NodeId], number: usize) -> BTreeMap<NodeId, String> {
        let named = |(index, node): (usize, &NodeId)| {
            (index % number + 1 < number || number == 1).then(|| (node.clone(), format!("z-{}", index % number)))
        };
        nodes.iter().enumerate().filter_map(named).collect()
    }

    fn squares(placed: &[Option<NodeId>], nodes: &[NodeId], zones: &BTreeMap<NodeId, String>) -> usize {
        let mut totals: BTreeMap<Option<&String>, usize> = BTreeMap::new();
        for node in nodes {
            *totals.entry(zones.get(node)).or_default() += count(placed, node);
        }
        totals.values().map(|total| total * total).sum()
    }

    /// Over every balanced choice of quotas: the least sum of squares over the zones, and the fewest moves with that.
    fn best_by_force(
        previous: &[Option<NodeId>],
        nodes: &[NodeId],
        zones: &BTreeMap<NodeId, String>,
    ) -> (usize, usize) {
        let floor = previous.len() / nodes.len();
        let remainder = previous.len() % nodes.len();
        let counts: Vec<usize> = nodes.iter().map(|node| count(previous, node)).collect();
        let tried = (0u32..1 << nodes.len()).filter(|choice| choice.count_ones() as usize == remainder).map(|choice| {
            let quota = |index: usize| floor + usize::from(choice >> index & 1 == 1);
            let mut totals: BTreeMap<Option<&String>, usize> = BTreeMap::new();
            for (index, node) in nodes.iter().enumerate() {
                *totals.entry(zones.get(node)).or_default() += quota(index);
            }
            let kept: usize = counts.iter().enumerate().map(|(index, count)| (*count).min(quota(index))).sum();
            (totals.values().map(|total| total * total).sum(), previous.len() - kept)
        });
        tried.min().unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn zones_are_as_even_as_can_be_and_no_shard_moves_for_nothing(
            previous in any_owners(9, 60), want in 1usize..9, number in 1usize..5
        ) {
            let nodes = nodes(0..want);
            let zones = zones(&nodes, number);
            let placed = place_in_zones(&previous, &nodes, &zones);
            prop_assert!(balanced(&placed, &nodes));
            let found = (squares(&placed, &nodes, &zones), moved(&previous, &placed));
            prop_assert_eq!(found, best_by_force(&previous, &nodes, &zones));
            prop_assert_eq!(place_in_zones(&placed, &nodes, &zones), placed);
        }

        #[test]
        fn zones_of_as_many_nodes_differ_by_one_at_most(previous in any_owners(40, 2000), each in 1usize..10, number in 1usize..4) {
            let nodes = nodes(0..each * number);
            let zones: BTreeMap<_, _> = (0..).zip(&nodes).map(|(at, node)| (node.clone(), format!("z-{}", at % number))).collect();
            let placed = place_in_zones(&previous, &nodes, &zones);
            let total = |zone: usize| nodes.iter().skip(zone).step_by(number).map(|node| count(&placed, node)).sum::<usize>();
            let totals: Vec<usize> = (0..number).map(total).collect();
            prop_assert!(totals.iter().max().unwrap() - totals.iter().min().unwrap() <= 1, "{:?}", totals);
        }

        #[test]
        fn a_few_at_a_time_come_to_the_same_and_no_shard_moves_twice(
            previous in any_owners(20, 500), want in 1usize..20, most in 1usize..50
        ) {
            let nodes = nodes(0..want);
            let whole = place(&previous, &nodes);
            let serves = |owner: &Option<NodeId>| owner.as_ref().is_some_and(|owner| nodes.contains(owner));
            let voluntary = previous.iter().zip(&whole).filter(|(old, new)| serves(old) && old != new).count();
            let (mut now, mut moves, mut turns) = (previous.clone(), 0, 0);
            loop {
                let next = limited(&now, place(&now, &nodes), &nodes, most);
                prop_assert!(next.iter().all(Option::is_some), "a shard that nobody serves does not wait");
                let step = now.iter().zip(&next).filter(|(old, new)| serves(old) && old != new).count();
                prop_assert!(step <= most);
                if next == now {
                    break;
                }
                (moves, turns) = (moves + step, turns + 1);
                now = next;
            }
            prop_assert!(balanced(&now, &nodes));
            prop_assert_eq!(moves, voluntary);
            prop_assert!(turns <= voluntary.div_ceil(most).max(1));
        }
    }

    #[test]
    fn no_nodes_means_no_owners() {
        assert_eq!(place(&[Some(node(1)), None], &[]), vec![None, None]);
    }

    #[test]
    fn a_thousand_nodes_and_a_hundred_thousand_shards() {
        let old = place(&vec![None; 100_000], &nodes(0..999));
        let new = place(&old, &nodes(0..1000));
        assert!(balanced(&new, &nodes(0..1000)));
        assert_eq!(moved(&old, &new), 100);
    }
}
