//! Raft's traffic over the [`Transport`].

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use openraft::error::{Fatal, NetworkError, RPCError, RaftError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse};
use openraft::storage::Snapshot;
use openraft::{OptionalSend, Vote};

use super::identity::Identity;
use super::wire::{Answer, Ask, Question, Rpc, Transport, Unanswered};
use super::{Member, MemberId, Types};
use crate::NodeId;

/// Connects members of one group.
#[derive(Clone, Debug)]
pub(super) struct Network {
    pub(super) cluster: String,
    pub(super) identity: Arc<Mutex<Identity>>,
    pub(super) transport: Arc<dyn Transport>,
}

/// To one member.
#[derive(Debug)]
pub(super) struct Connection {
    network: Network,
    node: NodeId,
    to: MemberId,
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Connection;

    async fn new_client(&mut self, target: MemberId, node: &Member) -> Connection {
        Connection { network: self.clone(), node: node.node.clone(), to: target }
    }
}

/// Why a member gave no answer that Raft can use: it waits a little, and sends again.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct NoAnswer(String);

impl Connection {
    async fn ask(&self, rpc: Rpc) -> Result<Answer, NoAnswer> {
        let group = self.network.identity.lock().unwrap_or_else(PoisonError::into_inner).group.clone();
        let Some(group) = group else {
            return Err(NoAnswer("this member has no group".into()));
        };
        let ask = Ask::Raft { group, to: self.to, rpc: Box::new(rpc) };
        let question = Question { cluster: self.network.cluster.clone(), ask };
        match self.network.transport.ask(&self.node, &question).await {
            Ok(Answer::Refused(why)) => Err(NoAnswer(why)),
            Ok(answer) => Ok(answer),
            Err(Unanswered::NotSent(why) | Unanswered::Lost(why)) => Err(NoAnswer(why)),
        }
    }
}

type RpcError = RPCError<MemberId, Member, RaftError<MemberId>>;

fn senseless(answer: &Answer) -> NetworkError {
    NetworkError::new(&NoAnswer(format!("an answer that makes no sense: {answer:?}")))
}

impl RaftNetwork<Types> for Connection {
    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<MemberId>, RpcError> {
        match self.ask(Rpc::Append(request)).await {
            Ok(Answer::Append(response)) => Ok(response),
            Ok(other) => Err(senseless(&other).into()),
            Err(error) => Err(Unreachable::new(&error).into()),
        }
    }

    async fn vote(
        &mut self,
        request: VoteRequest<MemberId>,
        _option: RPCOption,
    ) -> Result<VoteResponse<MemberId>, RpcError> {
        match self.ask(Rpc::Vote(request)).await {
            Ok(Answer::Vote(response)) => Ok(response),
            Ok(other) => Err(senseless(&other).into()),
            Err(error) => Err(Unreachable::new(&error).into()),
        }
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote<MemberId>,
        snapshot: Snapshot<Types>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<MemberId>, StreamingError<Types, Fatal<MemberId>>> {
        let rpc = Rpc::Snapshot { vote, meta: snapshot.meta, state: *snapshot.snapshot };
        let answer = tokio::select! {
            biased;
            closed = cancel => return Err(closed.into()),
            answer = self.ask(rpc) => answer,
        };
        match answer {
            Ok(Answer::Snapshot(response)) => Ok(response),
            Ok(other) => Err(senseless(&other).into()),
            Err(error) => Err(Unreachable::new(&error).into()),
        }
    }
}
