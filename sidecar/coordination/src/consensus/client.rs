//! The group's documents, from any node or from none: each question goes to whoever leads.
//!
//! A conditional write is sent to one leader, once. Asked again is only a node that says that it did nothing, so the three
//! outcomes stay what they are: applied, rejected, unknown.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use brainy_storage::Error;
use brainy_storage::documents::{Document, DocumentVersion, Documents, Swap};
use bytes::Bytes;
use tokio::time::Instant;

use super::state::{Write, Written};
use super::wire::{Answer, Ask, Question, Transport, Unanswered};
use crate::NodeId;

/// Longest search for a node that leads; callers bound it more tightly.
const SEARCH: Duration = Duration::from_secs(10);
/// After all nodes were asked in vain.
const PAUSE: Duration = Duration::from_millis(100);

/// Which nodes may know who leads.
pub trait Seeds: std::fmt::Debug + Send + Sync + 'static {
    /// The nodes, those to ask first first.
    fn nodes(&self) -> Vec<NodeId>;
}

/// Asks whoever leads.
#[derive(Clone, Debug)]
pub struct Client {
    cluster: String,
    transport: Arc<dyn Transport>,
    seeds: Arc<dyn Seeds>,
    hint: Arc<Mutex<Hint>>,
    patience: Duration,
}

/// Whom to ask first.
#[derive(Debug, Default)]
struct Hint {
    /// Who led a moment ago. Nobody, while that one is being asked: who gives up waiting for its answer asks others next.
    leader: Option<NodeId>,
    /// Counts the questions, so that each search begins with another node.
    asked: usize,
}

impl Client {
    /// For the group of this [cluster](super::wire::cluster).
    pub fn new(cluster: impl Into<String>, transport: Arc<dyn Transport>, seeds: Arc<dyn Seeds>) -> Self {
        Self { cluster: cluster.into(), transport, seeds, hint: Arc::default(), patience: SEARCH }
    }

    /// Looks for a leader no longer than this.
    #[must_use]
    pub fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    fn hint(&self) -> MutexGuard<'_, Hint> {
        self.hint.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The nodes to ask, in order.
    fn nodes(&self) -> Vec<NodeId> {
        let (mut nodes, hint) = (self.seeds.nodes(), self.hint());
        if !nodes.is_empty() {
            let first = hint.asked % nodes.len();
            nodes.rotate_left(first);
        }
        if let Some(leader) = hint.leader.clone() {
            nodes.retain(|node| *node != leader);
            nodes.insert(0, leader);
        }
        nodes
    }

    /// Asks until a leader answers, or may have done what it was asked for, or the time is up.
    pub(super) async fn ask(&self, ask: Ask) -> Result<Answer, Unanswered> {
        let question = Question { cluster: self.cluster.clone(), ask };
        let until = Instant::now() + self.patience;
        loop {
            let mut why = "no node of the cluster is known".to_owned();
            let mut nodes = VecDeque::from(self.nodes());
            while let Some(node) = nodes.pop_front() {
                {
                    let mut hint = self.hint();
                    hint.leader = None;
                    hint.asked = hint.asked.wrapping_add(1);
                }
                match self.transport.ask(&node, &question).await {
                    Ok(Answer::NotLeader { leader }) => {
                        why = format!("node {node} does not lead");
                        // Nobody is asked twice in a round.
                        if let Some(at) = leader.and_then(|leader| nodes.iter().position(|node| *node == leader)) {
                            nodes.swap(0, at);
                        }
                    }
                    Ok(Answer::Refused(refusal)) => why = format!("node {node}: {refusal}"),
                    Ok(answer) => {
                        self.hint().leader = Some(node);
                        return Ok(answer);
                    }
                    Err(Unanswered::NotSent(error)) => why = error,
                    Err(lost @ Unanswered::Lost(_)) if matches!(question.ask, Ask::Swap(_)) => return Err(lost),
                    Err(Unanswered::Lost(error)) => why = error,
                }
            }
            if Instant::now() >= until {
                return Err(Unanswered::NotSent(format!(
                    "no leader answered within {:?}; the last to be asked: {why}",
                    self.patience
                )));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

impl Client {
    /// The nodes that have a member, as the group agreed on it last.
    pub async fn members(&self) -> Result<Vec<NodeId>, Error> {
        match self.ask(Ask::Members).await {
            Ok(Answer::Members(nodes)) => Ok(nodes),
            Ok(other) => Err(senseless(&other)),
            Err(error) => Err(failed(error.to_string())),
        }
    }

    /// The nodes whose member does not vote yet, or any more.
    pub async fn learners(&self) -> Result<Vec<NodeId>, Error> {
        match self.ask(Ask::Learners).await {
            Ok(Answer::Members(nodes)) => Ok(nodes),
            Ok(other) => Err(senseless(&other)),
            Err(error) => Err(failed(error.to_string())),
        }
    }
}

fn failed(why: impl Into<String>) -> Error {
    Error::unavailable("NoConsensus", why)
}

fn senseless(answer: &Answer) -> Error {
    failed(format!("the leader's answer makes no sense: {answer:?}"))
}

#[async_trait]
impl Documents for Client {
    async fn read(&self, name: &str) -> Result<Option<Document>, Error> {
        match self.ask(Ask::Read { name: name.to_owned() }).await {
            Ok(Answer::Document(found)) => {
                Ok(found.map(|found| Document { body: found.body.into(), version: DocumentVersion(found.version) }))
            }
            Ok(other) => Err(senseless(&other)),
            Err(error) => Err(failed(error.to_string())),
        }
    }

    async fn swap(&self, name: &str, expected: Option<&DocumentVersion>, body: Bytes) -> Result<Swap, Error> {
        let body = String::from_utf8(body.to_vec())
            .map_err(|_| Error::invalid("body", "is no text, and a document of the group is JSON"))?;
        let write = Write { name: name.to_owned(), expected: expected.map(|version| version.0.clone()), body };
        match self.ask(Ask::Swap(write)).await {
            Ok(Answer::Written(Written::Applied(version))) => Ok(Swap::Applied(DocumentVersion(version))),
            Ok(Answer::Written(Written::Rejected)) => Ok(Swap::Rejected),
            Ok(Answer::Unknown(why)) | Err(Unanswered::Lost(why)) => Ok(Swap::Unknown(why)),
            Ok(other) => Ok(Swap::Unknown(format!("the leader's answer makes no sense: {other:?}"))),
            Err(Unanswered::NotSent(why)) => Err(failed(why)),
        }
    }

    async fn names(&self, prefix: &str) -> Result<Vec<String>, Error> {
        match self.ask(Ask::Names { prefix: prefix.to_owned() }).await {
            Ok(Answer::Names(names)) => Ok(names),
            Ok(other) => Err(senseless(&other)),
            Err(error) => Err(failed(error.to_string())),
        }
    }
}
