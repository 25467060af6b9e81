//! The wait-for graph: an edge from each that waits to each that it waits for.

use std::collections::{BTreeMap, BTreeSet};

/// A cycle through `from`, if there is one: each waits for the next, and the last for the first. The shortest.
pub(super) fn cycle_through<N: Clone + Ord>(edges: &BTreeMap<N, BTreeSet<N>>, from: &N) -> Option<Vec<N>> {
    let mut reached_by: BTreeMap<&N, &N> = BTreeMap::new();
    let mut now = vec![from];
    while !now.is_empty() {
        let mut next = Vec::new();
        for at in now {
            for to in edges.get(at).into_iter().flatten() {
                if to == from {
                    return Some(path(&reached_by, from, at));
                }
                if let std::collections::btree_map::Entry::Vacant(new) = reached_by.entry(to) {
                    new.insert(at);
                    next.push(to);
                }
            }
        }
        now = next;
    }
    None
}

fn path<N: Clone + Ord>(reached_by: &BTreeMap<&N, &N>, from: &N, last: &N) -> Vec<N> {
    let back = std::iter::successors(Some(last), |at| if *at == from { None } else { reached_by.get(at).copied() });
    let mut path: Vec<N> = back.cloned().collect();
    path.reverse();
    path
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn graph(edges: &[(u8, u8)]) -> BTreeMap<u8, BTreeSet<u8>> {
        let mut graph: BTreeMap<u8, BTreeSet<u8>> = BTreeMap::new();
        for (from, to) in edges {
            graph.entry(*from).or_default().insert(*to);
        }
        graph
    }

    #[test]
    fn the_shortest_cycle_is_found_and_a_tree_has_none() {
        let edges = graph(&[(1, 2), (2, 3), (3, 4), (4, 1), (2, 1), (5, 1)]);
        assert_eq!(cycle_through(&edges, &1), Some(vec![1, 2]));
        assert_eq!(cycle_through(&edges, &3), Some(vec![3, 4, 1, 2]));
        assert_eq!(cycle_through(&edges, &5), None);
        assert_eq!(cycle_through(&graph(&[(1, 1)]), &1), Some(vec![1]));
    }

    proptest! {
        #[test]
        fn a_cycle_is_found_where_one_can_be_walked(edges in prop::collection::vec((0u8..7, 0u8..7), 0..20), from in 0u8..7) {
            let graph = graph(&edges);
            // By closure: what can be reached in any number of steps.
            let mut reached: BTreeSet<u8> = graph.get(&from).cloned().unwrap_or_default();
            for _ in 0..7 {
                let more: Vec<u8> = reached.iter().filter_map(|at| graph.get(at)).flatten().copied().collect();
                reached.extend(more);
            }
            let found = cycle_through(&graph, &from);
            prop_assert_eq!(found.is_some(), reached.contains(&from));
            if let Some(cycle) = found {
                prop_assert_eq!(cycle[0], from);
                for (at, to) in cycle.iter().zip(cycle.iter().cycle().skip(1)) {
                    prop_assert!(graph[at].contains(to));
                }
            }
        }
    }
}
