//! Shard leases (strategies Shared and Namespaced): who owns a shard, and when it may be taken. A lease is valid while its owner's session
//! is; it is marked free on release and never deleted, because its token must outlive it.

use serde::{Deserialize, Serialize};

use crate::origins::Origin;
use crate::session::{SessionRecord, SessionState};
use crate::{FencingToken, Incarnation, NodeId, ShardId};

/// What a shard's lease says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ShardLease {
    /// Of which shard.
    pub shard: ShardId,
    /// Who owns it; none: free.
    pub owner: Option<NodeId>,
    /// Which life of the owner. Kept on release, for people.
    pub incarnation: Option<Incarnation>,
    /// Grows each time that the shard is taken.
    pub token: FencingToken,
    /// Grows with each write: equal content must never make an equal version (R5).
    pub revision: u64,
    /// Since when (RFC 3339). For people: no program compares it with a clock (R1).
    pub since: String,
    /// Why it is as it is. For people.
    pub why: String,
    /// The tenures before this one whose data is read through to, newest first (strategy Namespaced).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub origins: Vec<Origin>,
    /// Tenures whose data was copied, all of it, and is to be cleared away (strategy Namespaced).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub surplus: Vec<Origin>,
}

/// What is known of the session of a lease's holder.
#[derive(Clone, Copy, Debug)]
pub enum HolderSession<'a> {
    /// Read after the lease was.
    Found(&'a SessionRecord),
    /// There is none. That proves nothing: a holder whose record was deleted is valid until its deadline.
    Missing,
    /// The life that holds the lease is over: its session has ended, a later life followed, or there has been no record
    /// for ttl and a margin by this machine's clock (R1), so that it has lapsed by its own.
    Gone,
}

/// Whether a lease may be taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Take {
    /// Write this, on the condition that the lease still stands as it was read.
    Write(ShardLease),
    /// Not now: why.
    Wait(String),
    /// It is this incarnation's own already, under this token (an earlier write whose answer was lost).
    Ours(FencingToken),
}

/// Who takes.
#[derive(Clone, Debug)]
pub struct Taker<'a> {
    /// The node.
    pub node: &'a NodeId,
    /// Its life, whose session is live.
    pub incarnation: &'a Incarnation,
    /// Now (RFC 3339), for people.
    pub now: &'a str,
}

/// Whether `taker` may take a shard whose lease was read as `lease`. `session`: of the lease's owner; not asked for when
/// the lease is free, absent or held by an earlier life of the taker itself.
pub fn may_take(shard: ShardId, lease: Option<&ShardLease>, session: HolderSession<'_>, taker: &Taker<'_>) -> Take {
    let Some(lease) = lease else {
        return Take::Write(taken(shard, FencingToken::default(), 0, "first owner", taker));
    };
    let take = |why: &str| Take::Write(taken(shard, lease.token, lease.revision, why, taker));
    let Some(owner) = &lease.owner else {
        return take("it was free");
    };
    if owner == taker.node {
        // The session is this node's own and live, so any other incarnation of it has ended.
        return match lease.incarnation.as_ref() == Some(taker.incarnation) {
            true => Take::Ours(lease.token),
            false => take("an earlier life of this node held it"),
        };
    }
    match session {
        HolderSession::Found(record) if Some(&record.incarnation) != lease.incarnation.as_ref() => {
            take(&format!("the life of {owner} that held it has ended"))
        }
        HolderSession::Found(record) if record.state == SessionState::Ended => {
            take(&format!("the session of {owner} has ended"))
        }
        HolderSession::Found(_) => Take::Wait(format!("{owner} still holds it")),
        HolderSession::Missing => {
            Take::Wait(format!("{owner} holds it, and its session record is missing: waiting until it has lapsed"))
        }
        HolderSession::Gone => take(&format!("the life of {owner} that held it is over")),
    }
}

fn taken(shard: ShardId, token: FencingToken, revision: u64, why: &str, taker: &Taker<'_>) -> ShardLease {
    ShardLease {
        shard,
        owner: Some(taker.node.clone()),
        incarnation: Some(taker.incarnation.clone()),
        token: token.next(),
        revision: revision + 1,
        since: taker.now.to_owned(),
        why: why.to_owned(),
        origins: Vec::new(),
        surplus: Vec::new(),
    }
}

/// The lease marked free; its token stays. To be written on the condition that it still stands as read, and only when
/// nothing is in flight under it any more.
#[must_use]
pub fn release(lease: &ShardLease, now: &str, why: &str) -> ShardLease {
    ShardLease {
        owner: None,
        revision: lease.revision + 1,
        since: now.to_owned(),
        why: why.to_owned(),
        ..lease.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn life(pod: &str, start: u64) -> Incarnation {
        Incarnation { pod_uid: pod.into(), start, nonce: format!("{pod}-{start}") }
    }

    fn session(node: &str, incarnation: Incarnation, state: SessionState) -> SessionRecord {
        SessionRecord {
            node: NodeId(node.into()),
            incarnation,
            state,
            revision: 1,
            ttl_seconds: 30,
            expires: String::new(),
            address: String::new(),
            map_revision: 0,
            leaving: false,
            holds: Vec::new(),
            received: Vec::new(),
            stored: Vec::new(),
            load: Vec::new(),
            requests: Default::default(),
            volume: None,
            regions: None,
            problem: None,
        }
    }

    fn lease(owner: Option<&str>, incarnation: Incarnation, token: u64) -> ShardLease {
        ShardLease {
            shard: ShardId(7),
            owner: owner.map(|owner| NodeId(owner.into())),
            incarnation: Some(incarnation),
            token: FencingToken(token),
            revision: 40,
            since: String::new(),
            why: String::new(),
            origins: Vec::new(),
            surplus: Vec::new(),
        }
    }

    fn take(lease: Option<&ShardLease>, session: HolderSession<'_>) -> Take {
        let (node, incarnation) = (NodeId("b".into()), life("pod-b", 2));
        may_take(ShardId(7), lease, session, &Taker { node: &node, incarnation: &incarnation, now: "now" })
    }

    fn token(take: &Take) -> Option<u64> {
        match take {
            Take::Write(next) => {
                assert_eq!(next.owner, Some(NodeId("b".into())));
                Some(next.token.0)
            }
            Take::Wait(_) | Take::Ours(_) => None,
        }
    }

    #[test]
    fn a_missing_or_free_lease_is_taken_under_the_next_token() {
        assert_eq!(token(&take(None, HolderSession::Missing)), Some(1));
        let free = release(&lease(Some("a"), life("pod-a", 1), 5), "now", "moved");
        assert_eq!((free.owner.clone(), free.token), (None, FencingToken(5)));
        assert_eq!(token(&take(Some(&free), HolderSession::Missing)), Some(6));
    }

    #[test]
    fn a_live_holder_keeps_its_lease() {
        let held = lease(Some("a"), life("pod-a", 1), 5);
        let live = session("a", life("pod-a", 1), SessionState::Live);
        assert!(matches!(take(Some(&held), HolderSession::Found(&live)), Take::Wait(_)));
    }

    #[test]
    fn an_ended_session_or_a_newer_life_frees_the_lease() {
        let held = lease(Some("a"), life("pod-a", 1), 5);
        let ended = session("a", life("pod-a", 1), SessionState::Ended);
        assert_eq!(token(&take(Some(&held), HolderSession::Found(&ended))), Some(6));
        let newer = session("a", life("pod-a", 2), SessionState::Live);
        assert_eq!(token(&take(Some(&held), HolderSession::Found(&newer))), Some(6));
    }

    #[test]
    fn a_deleted_session_record_proves_nothing_until_it_was_gone_long_enough() {
        let held = lease(Some("a"), life("pod-a", 1), 5);
        assert!(matches!(take(Some(&held), HolderSession::Missing), Take::Wait(_)));
        assert_eq!(token(&take(Some(&held), HolderSession::Gone)), Some(6), "gone for ttl and a margin");
    }

    #[test]
    fn a_new_life_takes_over_from_the_node_s_earlier_life_at_once() {
        assert_eq!(token(&take(Some(&lease(Some("b"), life("pod-b", 1), 5)), HolderSession::Missing)), Some(6));
    }

    #[test]
    fn a_lost_answer_is_found_to_be_ours() {
        let ours = lease(Some("b"), life("pod-b", 2), 5);
        assert_eq!(take(Some(&ours), HolderSession::Missing), Take::Ours(FencingToken(5)));
    }

    #[test]
    fn every_write_has_a_new_revision() {
        let held = lease(Some("a"), life("pod-a", 1), 5);
        assert_eq!(release(&held, "", "").revision, 41);
        let Take::Write(next) = take(Some(&release(&held, "", "")), HolderSession::Missing) else {
            panic!("it is free")
        };
        assert_eq!(next.revision, 42);
    }
}
