//! The next change of a group's members, towards the wanted nodes: one at a time, and pure.
//!
//! A member that is new is a learner first, and votes once it has caught up. Where it takes the place of its own node's
//! earlier member (whose volume is lost), the one comes and the other goes in a single change. A member of a node that is not
//! wanted is a learner again first, so that it hears of it, and then none.

use std::collections::{BTreeMap, BTreeSet};

use super::MemberId;
use crate::NodeId;

/// Most members that vote: each more makes a write wait for more disks. Nodes beyond them use the group as clients.
pub const VOTERS: usize = 7;

/// The nodes that should be members, of those that are wanted.
pub fn electorate(wanted: &[NodeId]) -> &[NodeId] {
    &wanted[..wanted.len().min(VOTERS)]
}

/// What the leader knows of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It has not acknowledged the members as they are now.
    Silent,
    /// And that for so long that it may never do so.
    Lost,
    /// It has, and lacks much of the log.
    Behind,
    /// It has, and lacks at most the last moments.
    CaughtUp,
}

/// A member as the leader sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sight {
    /// Its node.
    pub node: NodeId,
    /// It votes.
    pub voter: bool,
    /// How far it is.
    pub progress: Progress,
}

/// A change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// From now on these members vote, and no others.
    Voters {
        /// Which.
        voters: BTreeSet<MemberId>,
        /// Who voted and does not any more stays as a learner.
        retain: bool,
    },
    /// This learner is no member any more.
    Remove(MemberId),
}

/// The next change, if there is any to make.
pub fn next(wanted: &[NodeId], members: &BTreeMap<MemberId, Sight>) -> Option<Change> {
    let electorate = electorate(wanted);
    let voters: BTreeSet<MemberId> = members.iter().filter(|(_, sight)| sight.voter).map(|(id, _)| *id).collect();
    let without = |gone: &dyn Fn(&Sight) -> bool| {
        voters.iter().copied().filter(|id| members.get(id).is_none_or(|sight| !gone(sight))).collect::<BTreeSet<_>>()
    };
    let votes = |node: &NodeId| members.values().any(|sight| sight.voter && sight.node == *node);
    let learners = || members.iter().filter(|(_, sight)| !sight.voter);
    // Who comes first: a group never gets smaller than it must.
    let newcomer =
        learners().find(|(_, sight)| sight.progress == Progress::CaughtUp && electorate.contains(&sight.node));
    if let Some((id, newcomer)) = newcomer {
        let mut voters = without(&|sight| sight.node == newcomer.node);
        voters.insert(*id);
        // A lost volume hears of nothing.
        return Some(Change::Voters { voters, retain: false });
    }
    let leaving = members.values().find(|sight| sight.voter && !electorate.contains(&sight.node));
    if let Some(leaving) = leaving {
        let voters = without(&|sight| sight.node == leaving.node);
        if !voters.is_empty() {
            return Some(Change::Voters { voters, retain: true });
        }
    }
    let gone = learners().find(|(_, sight)| match electorate.contains(&sight.node) {
        true => votes(&sight.node) && sight.progress == Progress::Lost,
        false => sight.progress != Progress::Silent,
    });
    gone.map(|(id, _)| Change::Remove(*id))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<NodeId> {
        names.iter().map(|name| NodeId((*name).into())).collect()
    }

    /// `a+` votes; as a learner `a=` has caught up, `a~` is behind, `a-` is silent, `a!` is lost.
    fn members(all: &[&str]) -> BTreeMap<MemberId, Sight> {
        let sight = |text: &&str| {
            let (node, kind) = text.split_at(1);
            let progress = match kind {
                "-" => Progress::Silent,
                "!" => Progress::Lost,
                "~" => Progress::Behind,
                _ => Progress::CaughtUp,
            };
            Sight { node: NodeId(node.into()), voter: kind == "+", progress }
        };
        (0..).zip(all.iter().map(sight)).collect()
    }

    fn voters(ids: &[MemberId], retain: bool) -> Option<Change> {
        Some(Change::Voters { voters: ids.iter().copied().collect(), retain })
    }

    #[test]
    fn a_newcomer_votes_once_it_has_caught_up() {
        for kind in ["b-", "b~", "b!"] {
            assert_eq!(next(&names(&["a", "b"]), &members(&["a+", kind])), None);
        }
        assert_eq!(next(&names(&["a", "b"]), &members(&["a+", "b="])), voters(&[0, 1], false));
        let two = members(&["a+", "b=", "c="]);
        assert_eq!(next(&names(&["a", "b", "c"]), &two), voters(&[0, 1], false), "one at a time");
    }

    #[test]
    fn a_lost_volume_is_replaced_in_one_change() {
        let wanted = names(&["a", "b", "c"]);
        for kind in ["b-", "b~"] {
            assert_eq!(next(&wanted, &members(&["a+", "b+", "c+", kind])), None, "the old one still counts");
        }
        assert_eq!(next(&wanted, &members(&["a+", "b+", "c+", "b="])), voters(&[0, 2, 3], false));
        assert_eq!(next(&wanted, &members(&["a+", "b!", "c+", "b+"])), Some(Change::Remove(1)), "it was left over");
    }

    #[test]
    fn who_is_not_wanted_goes_in_two_steps_and_never_the_last_voter() {
        let wanted = names(&["a"]);
        assert_eq!(next(&wanted, &members(&["a+", "b+", "c+"])), voters(&[0, 2], true), "one at a time");
        assert_eq!(next(&wanted, &members(&["a+", "b-"])), None, "it has not heard of it yet");
        for kind in ["b!", "b~", "b="] {
            assert_eq!(next(&wanted, &members(&["a+", kind])), Some(Change::Remove(1)));
        }
        assert_eq!(next(&names(&["x"]), &members(&["a+"])), None);
    }

    #[test]
    fn newcomers_come_before_others_go() {
        assert_eq!(next(&names(&["a", "c"]), &members(&["a+", "b+", "c="])), voters(&[0, 1, 2], false));
    }

    #[test]
    fn a_large_cluster_has_few_voters() {
        let all = ["a", "b", "c", "d", "e", "f", "g", "h", "i"];
        let wanted = names(&all);
        assert_eq!(electorate(&wanted).len(), VOTERS);
        let mut settled = vec!["a+", "b+", "c+", "d+", "e+", "f+", "g+"];
        assert_eq!(next(&wanted, &members(&settled)), None);
        settled.push("i=");
        assert_eq!(next(&wanted, &members(&settled)), Some(Change::Remove(7)), "the ninth is none");
    }
}
