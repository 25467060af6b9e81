//! Where a shard's data lies under strategy Namespaced: each tenure writes to a folder of its own, and is read through to
//! those before it, its *origins*, until all they have is copied (R9). The lease says which those are, and which are copied
//! and only to be cleared away: whoever takes it takes over that work as well.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::lease::ShardLease;
use crate::{FencingToken, NodeId};

/// A tenure of a shard: who wrote, and under which token.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Origin {
    /// The node.
    pub node: NodeId,
    /// The token. A shard that comes back to a node does so under another.
    pub token: FencingToken,
}

/// What an owner has done behind what it serves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Upkeep {
    /// All that these have is copied.
    pub copied: BTreeSet<Origin>,
    /// These were cleared away once. What was on its way then may have arrived since.
    pub swept: BTreeSet<Origin>,
    /// These were cleared away again, when nothing could be on its way any more.
    pub cleared: BTreeSet<Origin>,
}

/// What to do next behind what is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Chore {
    /// Clear away what is left of this one, which is copied.
    Sweep(Origin),
    /// Copy what this one has.
    Copy(Origin),
    /// Clear away what has arrived since in this one, when nothing can be on its way any more.
    SweepAgain(Origin),
    /// Nothing, until the lease says something else.
    Rest,
}

/// What is to be written in the place of `before`: a tenure that ends with it is the newest origin from now on.
#[must_use]
pub fn carry_on(before: Option<&ShardLease>, next: ShardLease) -> ShardLease {
    let Some(before) = before else { return next };
    let ends = next.owner != before.owner || next.token != before.token;
    let ended = before.owner.clone().filter(|_| ends).map(|node| Origin { node, token: before.token });
    let origins = ended.into_iter().chain(before.origins.iter().cloned()).collect();
    ShardLease { origins, surplus: before.surplus.clone(), ..next }
}

/// What its owner does next, given what it has done.
pub fn chore(lease: &ShardLease, done: &Upkeep) -> Chore {
    let first = |of: &[Origin], but: &BTreeSet<Origin>| of.iter().find(|origin| !but.contains(*origin)).cloned();
    let sweep = first(&lease.surplus, &done.swept).map(Chore::Sweep);
    // The newest first: only so do those that are left stay in the order in which they have to be looked at.
    let copy = || first(&lease.origins, &done.copied).map(Chore::Copy);
    let again = || first(&lease.surplus, &done.cleared).map(Chore::SweepAgain);
    sweep.or_else(copy).or_else(again).unwrap_or(Chore::Rest)
}

/// The lease that says what was done, if there is something to say: to be written on the condition that it still stands as
/// it was read. Only then are the origins that it no longer names forgotten, and only after that cleared away.
pub fn settle(lease: &ShardLease, done: &Upkeep) -> Option<ShardLease> {
    let copied = lease.origins.iter().take_while(|origin| done.copied.contains(*origin)).count();
    let (forgotten, origins) = lease.origins.split_at(copied);
    let left = lease.surplus.iter().filter(|origin| !done.cleared.contains(*origin));
    let surplus: Vec<Origin> = left.chain(forgotten).cloned().collect();
    let changed = origins != lease.origins || surplus != lease.surplus;
    changed.then(|| ShardLease { origins: origins.to_vec(), surplus, revision: lease.revision + 1, ..lease.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::{HolderSession, Take, Taker, may_take, release};
    use crate::{Incarnation, ShardId};

    fn origin(node: &str, token: u64) -> Origin {
        Origin { node: NodeId(node.into()), token: FencingToken(token) }
    }

    fn set(origins: &[Origin]) -> BTreeSet<Origin> {
        origins.iter().cloned().collect()
    }

    fn taken(before: Option<&ShardLease>, node: &str) -> ShardLease {
        let node = NodeId(node.into());
        let incarnation = Incarnation { pod_uid: node.0.clone(), start: 1, nonce: "n".into() };
        let taker = Taker { node: &node, incarnation: &incarnation, now: "" };
        match may_take(ShardId(7), before, HolderSession::Gone, &taker) {
            Take::Write(next) => carry_on(before, next),
            other => panic!("{other:?}"),
        }
    }

    fn released(lease: &ShardLease) -> ShardLease {
        carry_on(Some(lease), release(lease, "", ""))
    }

    #[test]
    fn each_tenure_that_ends_is_an_origin_of_the_next_whether_it_was_released_or_taken_over() {
        let first = taken(None, "a");
        assert_eq!(first.origins, []);
        let second = taken(Some(&first), "b");
        assert_eq!(second.origins, [origin("a", 1)], "taken over");
        let free = released(&second);
        assert_eq!((free.owner.as_ref(), &free.origins), (None, &vec![origin("b", 2), origin("a", 1)]), "released");
        let third = taken(Some(&free), "a");
        assert_eq!(third.origins, [origin("b", 2), origin("a", 1)], "once, and under the token it was written");
        assert_eq!(taken(Some(&third), "c").origins, [origin("a", 3), origin("b", 2), origin("a", 1)]);
    }

    #[test]
    fn an_origin_is_copied_then_forgotten_and_only_then_cleared_away_twice() {
        let mut lease = taken(Some(&taken(Some(&taken(None, "a")), "b")), "c");
        let mut done = Upkeep::default();
        assert_eq!(settle(&lease, &done), None);
        assert_eq!(chore(&lease, &done), Chore::Copy(origin("b", 2)));
        done.copied.insert(origin("b", 2));
        assert_eq!(chore(&lease, &done), Chore::Copy(origin("a", 1)), "not cleared away before the lease says so");
        lease = settle(&lease, &done).unwrap();
        assert_eq!((&lease.origins[..], &lease.surplus[..]), (&[origin("a", 1)][..], &[origin("b", 2)][..]));
        assert_eq!(chore(&lease, &done), Chore::Sweep(origin("b", 2)));
        done.swept.insert(origin("b", 2));
        assert_eq!((chore(&lease, &done), settle(&lease, &done)), (Chore::Copy(origin("a", 1)), None));
        done.copied.insert(origin("a", 1));
        lease = settle(&lease, &done).unwrap();
        done.swept.insert(origin("a", 1));
        assert_eq!(chore(&lease, &done), Chore::SweepAgain(origin("b", 2)));
        done.cleared = set(&[origin("a", 1), origin("b", 2)]);
        lease = settle(&lease, &done).unwrap();
        assert_eq!((chore(&lease, &done), lease.origins.len(), lease.surplus.len()), (Chore::Rest, 0, 0));
    }

    #[test]
    fn an_older_origin_is_not_forgotten_before_a_newer_one() {
        let lease = taken(Some(&taken(Some(&taken(None, "a")), "b")), "c");
        let done = Upkeep { copied: set(&[origin("a", 1)]), ..Upkeep::default() };
        assert_eq!(settle(&lease, &done), None);
    }

    #[test]
    fn what_is_left_to_do_goes_on_with_the_next_owner() {
        let lease = taken(Some(&taken(Some(&taken(None, "a")), "b")), "c");
        let done = Upkeep { copied: set(&[origin("b", 2)]), ..Upkeep::default() };
        let next = taken(settle(&lease, &done).as_ref(), "d");
        assert_eq!(
            (&next.origins[..], &next.surplus[..]),
            (&[origin("c", 3), origin("a", 1)][..], &[origin("b", 2)][..])
        );
    }

    #[test]
    fn what_was_done_is_written_under_a_new_revision() {
        let lease = taken(Some(&taken(None, "a")), "b");
        let done = Upkeep { copied: set(&[origin("a", 1)]), ..Upkeep::default() };
        let next = settle(&lease, &done).unwrap();
        assert_eq!((next.revision, next.token, &next.owner), (lease.revision + 1, lease.token, &lease.owner));
    }
}
