//! What the sidecars ask each other, and an operator asks them, as JSON over the node-to-node listener.

use async_trait::async_trait;
use openraft::Vote;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse};
use serde::{Deserialize, Serialize};

use super::state::{State, Versioned, Write, Written};
use super::{Member, MemberId, SnapshotMeta, Types};
use crate::NodeId;

/// Where a node is asked, on its node-to-node listener.
pub const CONSENSUS_PATH: &str = "/internal/consensus";

/// A question to a node.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Question {
    /// Of which cluster's group: see [`cluster`].
    pub cluster: String,
    /// What is asked.
    pub ask: Ask,
}

/// What [`Question::cluster`] says: the UID of the BrainyCluster, and the generation of it with which the pattern began. What
/// a volume knows from a time before that is void, since another pattern was in charge meanwhile.
pub fn cluster(uid: &str, since: i64) -> String {
    format!("{uid}/{since}")
}

/// What is asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Ask {
    /// Raft's own traffic, from member to member of one group.
    Raft {
        /// Which group.
        group: String,
        /// Which member is asked.
        to: MemberId,
        /// What.
        rpc: Box<Rpc>,
    },
    /// Whether the node's member would be one of a new group. One that is in none pledges itself.
    Pledge {
        /// Which group.
        group: String,
    },
    /// Of the leader: a member that has just been born asks to be taken in.
    Join {
        /// Its group, if it knows it already.
        group: Option<String>,
        /// Its id.
        member: MemberId,
        /// Its node.
        node: Member,
    },
    /// Of the leader: whether that member still is one.
    Standing {
        /// Its group.
        group: String,
        /// Its id.
        member: MemberId,
    },
    /// Of the leader: the nodes that have a member.
    Members,
    /// Of the leader: the nodes whose member does not vote. A node of an earlier version does not understand it.
    Learners,
    /// Of the leader: a document.
    Read {
        /// Its name.
        name: String,
    },
    /// Of the leader: names that begin so.
    Names {
        /// How.
        prefix: String,
    },
    /// Of the leader: a conditional write.
    Swap(Write),
}

/// What Raft asks.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Rpc {
    /// Entries of the log, or a sign of life.
    Append(AppendEntriesRequest<Types>),
    /// A vote.
    Vote(VoteRequest<MemberId>),
    /// The whole state, where the log before it is gone.
    Snapshot {
        /// Who leads.
        vote: Vote<MemberId>,
        /// Of what it is.
        meta: SnapshotMeta,
        /// The state.
        state: State,
    },
}

/// The answer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Answer {
    /// To [`Rpc::Append`].
    Append(AppendEntriesResponse<MemberId>),
    /// To [`Rpc::Vote`].
    Vote(VoteResponse<MemberId>),
    /// To [`Rpc::Snapshot`].
    Snapshot(SnapshotResponse<MemberId>),
    /// To [`Ask::Pledge`]: this member has pledged itself.
    Pledged {
        /// Its id.
        member: MemberId,
    },
    /// To [`Ask::Pledge`] and [`Ask::Join`]: the group that there is.
    InGroup {
        /// Which.
        group: String,
    },
    /// To [`Ask::Join`]: it is one of the group.
    Joined,
    /// To [`Ask::Standing`].
    Standing {
        /// It is a member.
        member: bool,
    },
    /// To [`Ask::Members`] and [`Ask::Learners`].
    Members(Vec<NodeId>),
    /// To [`Ask::Read`].
    Document(Option<Versioned>),
    /// To [`Ask::Names`].
    Names(Vec<String>),
    /// To [`Ask::Swap`].
    Written(Written),
    /// To [`Ask::Swap`]: nobody knows what became of it.
    Unknown(String),
    /// Asked of the leader, which this node is not. Nothing was done.
    NotLeader {
        /// Who leads, as far as it knows.
        leader: Option<NodeId>,
    },
    /// Nothing was done, and why.
    Refused(String),
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unanswered {
    /// It is certain that the node did nothing.
    #[error("{0}")]
    NotSent(String),
    /// It may have done what it was asked for.
    #[error("{0}")]
    Lost(String),
}

/// How to ask another node. Each call is bounded.
#[async_trait]
pub trait Transport: std::fmt::Debug + Send + Sync + 'static {
    /// Asks a node, once.
    async fn ask(&self, node: &NodeId, question: &Question) -> Result<Answer, Unanswered>;
}
