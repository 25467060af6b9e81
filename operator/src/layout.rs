//! The nodes of a cluster by number, and the StatefulSets that they are in. Pure.
//!
//! A node's number is its *slot*, from 0. Without zones there is one StatefulSet, and a slot is the node's ordinal in it. With zones there
//! is one StatefulSet for each, and slots are dealt out to them in turn. So the first N slots are the first ordinals of each StatefulSet,
//! whatever N is; zones differ by one node at most; and what a cluster of N nodes gains or loses by one more or one less is one slot,
//! in a zone that has fewest or most. Whatever else reckons with nodes needs no more than their number.

use brainy_kubernetes::names;

/// A StatefulSet of nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeSet {
    /// Its name.
    pub name: String,
    /// The zone that its nodes run in; `None`: wherever there is room.
    pub zone: Option<String>,
}

/// The StatefulSets of a cluster, and which node is in which.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout(Vec<NodeSet>);

impl Layout {
    /// Of a cluster with these zones; none: all nodes are in one StatefulSet.
    pub fn of(cluster: &str, zones: &[String]) -> Self {
        if zones.is_empty() {
            return Self(vec![NodeSet { name: cluster.to_owned(), zone: None }]);
        }
        let set = |zone: &String| NodeSet { name: format!("{cluster}-{}", segment(zone)), zone: Some(zone.clone()) };
        Self(zones.iter().map(set).collect())
    }

    /// The StatefulSets, in the order of the zones.
    pub fn sets(&self) -> &[NodeSet] {
        &self.0
    }

    /// Which of the StatefulSets a slot is in, and its ordinal there.
    pub fn place(&self, slot: i32) -> (usize, i32) {
        let (set, ordinal) = (slot.rem_euclid(self.count()), slot.div_euclid(self.count()));
        (usize::try_from(set).unwrap_or_default(), ordinal)
    }

    /// The name of a node: of its pod, and of the Lease that is its session.
    pub fn node(&self, slot: i32) -> String {
        let (set, ordinal) = self.place(slot);
        self.0.get(set).map_or_else(String::new, |set| names::node(&set.name, ordinal))
    }

    /// The names of the first so many nodes.
    pub fn nodes(&self, nodes: i32) -> impl Iterator<Item = String> {
        (0..nodes).map(|slot| self.node(slot))
    }

    /// The slot of a node. `None`: it is none of this cluster's.
    pub fn slot_of(&self, node: &str) -> Option<i32> {
        let (set, ordinal) = node.rsplit_once('-')?;
        let (at, ordinal) = (self.0.iter().position(|it| it.name == set)?, ordinal.parse::<i32>().ok()?);
        let slot = ordinal.checked_mul(self.count())?.checked_add(i32::try_from(at).ok()?)?;
        // `demo-00` and `demo-+1` are no names of nodes.
        (ordinal >= 0 && self.node(slot) == node).then_some(slot)
    }

    /// How many of the first so many nodes are in one of the StatefulSets.
    pub fn share(&self, set: usize, nodes: i32) -> i32 {
        let before = i32::try_from(set).unwrap_or(i32::MAX);
        (nodes - before + self.count() - 1).div_euclid(self.count()).max(0)
    }

    /// The least number of nodes that has as many as these in each of the StatefulSets.
    pub fn covering(&self, shares: impl IntoIterator<Item = i32>) -> i32 {
        let one_more = |(set, share): (i32, i32)| (share > 0).then(|| (share - 1) * self.count() + set + 1);
        (0..).zip(shares).filter_map(one_more).max().unwrap_or(0)
    }

    fn count(&self) -> i32 {
        i32::try_from(self.0.len()).unwrap_or(i32::MAX).max(1)
    }
}

/// A zone as a part of the names of pods, which are DNS labels: zones are labels' values, and may have capitals, dots and underscores.
pub fn segment(zone: &str) -> String {
    zone.to_ascii_lowercase().replace(['.', '_'], "-")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn zones(count: usize) -> Vec<String> {
        ["west-1", "b", "c-0", "c", "east", "f", "g", "h", "0"].iter().take(count).map(|zone| (*zone).into()).collect()
    }

    #[test]
    fn without_zones_a_slot_is_the_ordinal_in_the_one_statefulset() {
        let layout = Layout::of("demo", &[]);
        assert_eq!(layout.sets(), [NodeSet { name: "demo".into(), zone: None }]);
        assert_eq!((layout.node(7), layout.slot_of("demo-7"), layout.share(0, 7)), ("demo-7".into(), Some(7), 7));
        assert_eq!((layout.covering([5]), layout.covering([0])), (5, 0));
        for other in ["demo", "demo-", "demo-02", "demo-+2", "demo-x-1", "other-1", "demo--1", "demo-99999999999"] {
            assert_eq!(layout.slot_of(other), None, "{other}");
        }
    }

    #[test]
    fn nodes_are_dealt_out_to_zones_in_turn() {
        let layout = Layout::of("demo", &["west-1a".into(), "west-1b".into(), "west-1c".into()]);
        let nodes: Vec<String> = layout.nodes(5).collect();
        assert_eq!(nodes, ["demo-west-1a-0", "demo-west-1b-0", "demo-west-1c-0", "demo-west-1a-1", "demo-west-1b-1"]);
        let shares: Vec<i32> = (0..3).map(|set| layout.share(set, 5)).collect();
        assert_eq!(shares, [2, 2, 1], "the first zones have one more");
        assert_eq!(layout.covering([2, 0, 0]), 4, "with what is between");
        for other in ["demo-0", "demo-west-1a", "demo-west-1d-0", "demo-west-1a-00", "other-west-1a-0"] {
            assert_eq!(layout.slot_of(other), None, "{other}");
        }
    }

    #[test]
    fn whatever_the_numbers_zones_differ_by_one_and_a_node_more_or_less_is_one_slot() {
        for count in 0..=9 {
            let layout = Layout::of("demo", &zones(count));
            let sets = layout.sets().len();
            let mut before = BTreeSet::new();
            for nodes in 0..=100 {
                let shares: Vec<i32> = (0..sets).map(|set| layout.share(set, nodes)).collect();
                let (least, most) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
                assert!(most - least <= 1, "{nodes} nodes in {count} zones: {shares:?}");
                assert!(shares.is_sorted_by(|one, next| one >= next), "the first zones have one more: {shares:?}");
                assert_eq!(layout.covering(shares.iter().copied()), nodes);
                // What the StatefulSets make of it.
                let made: BTreeSet<String> = layout
                    .sets()
                    .iter()
                    .zip(&shares)
                    .flat_map(|(set, share)| (0..*share).map(|ordinal| names::node(&set.name, ordinal)))
                    .collect();
                assert_eq!(made, layout.nodes(nodes).collect::<BTreeSet<_>>(), "{nodes} nodes in {count} zones");
                assert!((0..nodes).all(|slot| layout.slot_of(&layout.node(slot)) == Some(slot)));
                let gained: Vec<&String> = made.difference(&before).collect();
                assert!(before.is_subset(&made) && gained.len() <= 1, "{nodes} nodes in {count} zones: {gained:?}");
                before = made;
            }
        }
    }

    #[test]
    fn a_zone_is_a_part_of_names_in_the_letters_that_they_may_have() {
        let layout = Layout::of("demo", &["PHX-AD_1".into(), "eu.west".into()]);
        assert_eq!(layout.nodes(2).collect::<Vec<_>>(), ["demo-phx-ad-1-0", "demo-eu-west-0"]);
        assert_eq!(layout.sets()[0].zone.as_deref(), Some("PHX-AD_1"), "as machines are labelled");
    }
}
