//! Placement: which node should own which shard. Balanced to within one shard, and as few shards change their owner as
//! that balance allows.

use std::collections::{BTreeMap, BTreeSet};

use crate::NodeId;

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
    let nodes: BTreeSet<&NodeId> = nodes.iter().collect();
    if nodes.is_empty() {
        return vec![None; previous.len()];
    }
    let mut room = quotas(previous, &nodes);

    let mut placed: Vec<Option<&NodeId>> = Vec::with_capacity(previous.len());
    for owner in previous {
        let kept = owner.as_ref().filter(|owner| room.get_mut(owner).is_some_and(take_one));
        placed.push(kept);
    }
    let mut free = room.into_iter().flat_map(|(node, left)| std::iter::repeat_n(node, left));
    placed.into_iter().map(|owner| owner.or_else(|| free.next()).cloned()).collect()
}

fn take_one(left: &mut usize) -> bool {
    let any = *left > 0;
    *left = left.saturating_sub(1);
    any
}

/// How many shards each node gets. The nodes that have the most get the one more: what is above the floor can stay
/// only there.
fn quotas<'a>(previous: &'a [Option<NodeId>], nodes: &BTreeSet<&'a NodeId>) -> BTreeMap<&'a NodeId, usize> {
    let mut counts: BTreeMap<&NodeId, usize> = nodes.iter().map(|node| (*node, 0)).collect();
    for owner in previous.iter().flatten() {
        if let Some(count) = counts.get_mut(owner) {
            *count += 1;
        }
    }
    let floor = previous.len() / nodes.len();
    let remainder = previous.len() % nodes.len();
    let mut by_count: Vec<(&NodeId, usize)> = counts.into_iter().collect();
    by_count.sort_by_key(|(_, count)| std::cmp::Reverse(*count)); // Stable: names break ties.
    by_count.into_iter().enumerate().map(|(rank, (node, _))| (node, floor + usize::from(rank < remainder))).collect()
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
