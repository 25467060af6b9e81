//! This node's part in the group: its member, what other nodes ask it, and the documents.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use brainy_storage::documents::Documents;
use openraft::error::{CheckIsLeaderError, RaftError};
use openraft::storage::Snapshot;
use openraft::{Config, ServerState, SnapshotPolicy};
use tokio::sync::{RwLock, watch};
use tokio::time::Instant;

use super::client::{Client, Seeds};
use super::identity::{Identity, take};
use super::log::Log;
use super::machine::Machine;
use super::membership::electorate;
use super::network::Network;
use super::state::Written;
use super::wire::{Answer, Ask, Question, Rpc, Transport, Unanswered};
use super::{Member, MemberId, Pace, Raft};
use crate::NodeId;
use crate::bucket::spec::ClusterSpec;

/// Longest that the leader works on one question. Shorter than its asker waits for an answer.
const ANSWER: Duration = Duration::from_secs(4);
/// A snapshot replaces the log behind it every so many entries.
const SNAPSHOT_EVERY: u64 = 1000;
/// So many entries before it are kept, for members that are a little behind.
const KEPT: u64 = 200;
/// Most entries sent at once: the shard map of a large cluster is some hundred kilobytes.
const ENTRIES_AT_ONCE: u64 = 64;
/// Longest time for a snapshot to be sent.
const SNAPSHOT_LIMIT: Duration = Duration::from_secs(30);

/// Where a node learns what is wanted of its cluster while it is in no group that could say so.
pub trait Wish: std::fmt::Debug + Send + Sync + 'static {
    /// The newest spec that was given to this node.
    fn spec(&self) -> Option<ClusterSpec>;
}

/// What a node's part is made of.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where the member keeps what it knows. It is its own, on the node's volume.
    pub folder: PathBuf,
    /// This node.
    pub node: NodeId,
    /// Whose group: see [`cluster`](super::wire::cluster).
    pub cluster: String,
    /// How fast the group is.
    pub pace: Pace,
    /// To the other nodes.
    pub transport: Arc<dyn Transport>,
    /// What is wanted.
    pub wish: Arc<dyn Wish>,
}

/// A node's part in the group.
#[derive(Debug)]
pub struct Group {
    pub(super) settings: Settings,
    /// The member, once its folder is open. Who holds it for writing changes who it is.
    pub(super) present: Arc<RwLock<Option<Instance>>>,
    pub(super) client: Client,
    pub(super) problem: watch::Sender<Option<String>>,
}

/// A member at work.
pub(super) struct Instance {
    pub(super) identity: Arc<Mutex<Identity>>,
    pub(super) raft: Raft,
    pub(super) log: Log,
    pub(super) machine: Machine,
    /// When the leader was heard of last.
    heard: Mutex<Instant>,
    /// No other process speaks for this member.
    _lock: File,
}

impl std::fmt::Debug for Instance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Instance").field("identity", &self.identity()).finish_non_exhaustive()
    }
}

impl Instance {
    pub(super) fn identity(&self) -> Identity {
        lock(&self.identity).clone()
    }

    /// How long the leader has not been heard of.
    pub(super) fn silence(&self) -> Duration {
        lock(&self.heard).elapsed()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Group {
    /// This node's part, which does nothing before it is [run](Self::run).
    pub fn new(settings: Settings) -> Arc<Self> {
        Arc::new_cyclic(|this: &Weak<Self>| {
            let near = Arc::new(Near {
                group: this.clone(),
                node: settings.node.clone(),
                wish: Arc::clone(&settings.wish),
                far: Arc::clone(&settings.transport),
            });
            let client = Client::new(&settings.cluster, near.clone(), near);
            Self { settings, present: Arc::default(), client, problem: watch::Sender::new(None) }
        })
    }

    /// The group's documents.
    pub fn documents(&self) -> Arc<dyn Documents> {
        Arc::new(self.client.clone())
    }

    /// What keeps this node's member from its work, in words.
    pub fn problem(&self) -> watch::Receiver<Option<String>> {
        self.problem.subscribe()
    }

    /// Takes part until dropped.
    pub async fn run(self: Arc<Self>) {
        super::keeper::run(&self).await;
    }

    /// Ends the member, as far as others are concerned as if the process had died.
    pub async fn shut_down(&self) {
        if let Some(instance) = self.present.write().await.take() {
            // Only who waits for the task can fail, which is over then.
            let _over = instance.raft.shutdown().await;
        }
    }

    /// Opens the member's folder.
    pub(super) async fn open(&self) -> io::Result<Instance> {
        let (folder, cluster) = (self.settings.folder.clone(), self.settings.cluster.clone());
        let opening = move || {
            let lock = take(&folder)?;
            let identity = Identity::of(&folder, &cluster)?;
            let place = identity.place(&folder)?;
            Ok::<_, io::Error>((lock, identity, Log::open(&place)?, Machine::open(&place)?))
        };
        let (lock, identity, log, machine) = tokio::task::spawn_blocking(opening).await.map_err(io::Error::other)??;
        let member = identity.member;
        let identity = Arc::new(Mutex::new(identity));
        let network = Network {
            cluster: self.settings.cluster.clone(),
            identity: Arc::clone(&identity),
            transport: Arc::clone(&self.settings.transport),
        };
        let config = Arc::new(config(&self.settings.cluster, self.settings.pace));
        let raft = Raft::new(member, config, network, log.clone(), machine.clone());
        let raft = raft.await.map_err(io::Error::other)?;
        Ok(Instance { identity, raft, log, machine, heard: Mutex::new(Instant::now()), _lock: lock })
    }

    /// This node's member is no more. The next one is another.
    pub(super) async fn forget(&self, member: MemberId) -> io::Result<()> {
        let mut present = self.present.write().await;
        if present.as_ref().is_none_or(|instance| instance.identity().member != member) {
            return Ok(());
        }
        if let Some(instance) = present.take() {
            let _over = instance.raft.shutdown().await;
        }
        let folder = self.settings.folder.clone();
        tokio::task::spawn_blocking(move || Identity::forget(&folder)).await.map_err(io::Error::other)?
    }

    /// Answers another node, or an operator.
    pub async fn answer(&self, question: Question) -> Answer {
        if question.cluster != self.settings.cluster {
            return Answer::Refused("this is a node of another BrainyCluster".into());
        }
        match question.ask {
            Ask::Raft { group, to, rpc } => self.raft_answer(&group, to, *rpc).await,
            Ask::Pledge { group } => self.pledge(group).await,
            of_the_leader => self.lead(of_the_leader).await,
        }
    }

    async fn raft_answer(&self, group: &str, to: MemberId, rpc: Rpc) -> Answer {
        // Held until it is done, whoever still waits for the answer: the member changes groups only while nothing of the one
        // before is on its way in.
        let present = Arc::clone(&self.present).read_owned().await;
        let Some(instance) = present.as_ref() else {
            return not_open();
        };
        let identity = instance.identity();
        if identity.member != to || identity.group.as_deref() != Some(group) {
            return Answer::Refused("this node's member is another one, or of another group".into());
        }
        if !matches!(rpc, Rpc::Vote(_)) {
            *lock(&instance.heard) = Instant::now();
        }
        let raft = instance.raft.clone();
        let answering = tokio::spawn(async move {
            let _held = present;
            raft_answer(&raft, rpc).await.unwrap_or_else(Answer::Refused)
        });
        answering.await.unwrap_or_else(|error| Answer::Refused(error.to_string()))
    }

    /// Pledges this node's member to a group, if it is in none: from then on it takes part in that one alone.
    pub(super) async fn pledge(&self, group: String) -> Answer {
        // Alone: what is on its way in belongs to the group before, and would not leave the log blank.
        let present = self.present.write().await;
        let Some(instance) = present.as_ref() else {
            return not_open();
        };
        let identity = instance.identity();
        match identity.group.clone() {
            Some(there) if there == group => {}
            Some(there) if !instance.log.is_blank() => return Answer::InGroup { group: there },
            _ => {
                let pledged = Identity { group: Some(group), ..identity.clone() };
                let (folder, saved) = (self.settings.folder.clone(), pledged.clone());
                match tokio::task::spawn_blocking(move || saved.save(&folder)).await.map_err(io::Error::other) {
                    Ok(Ok(())) => *lock(&instance.identity) = pledged,
                    Ok(Err(error)) | Err(error) => return Answer::Refused(error.to_string()),
                }
            }
        }
        Answer::Pledged { member: identity.member }
    }

    /// Answers what only the leader may.
    async fn lead(&self, ask: Ask) -> Answer {
        let parts = |instance: &Instance| (instance.raft.clone(), instance.machine.clone(), instance.identity().group);
        let Some((raft, machine, group)) = self.present.read().await.as_ref().map(parts) else {
            return not_open();
        };
        if let Some(answer) = not_leading(&raft, self.settings.pace) {
            return answer;
        }
        let Some(group) = group else {
            return Answer::NotLeader { leader: None };
        };
        match ask {
            Ask::Members => confirmed(&raft, || Answer::Members(machine.members())).await,
            Ask::Learners => confirmed(&raft, || Answer::Members(machine.learners())).await,
            Ask::Read { name } => confirmed(&raft, || Answer::Document(machine.read(&name))).await,
            Ask::Names { prefix } => confirmed(&raft, || Answer::Names(machine.names(&prefix))).await,
            Ask::Swap(write) => {
                // From here on it may be in the log, whatever the answer.
                match tokio::time::timeout(ANSWER, raft.client_write(write)).await {
                    Ok(Ok(response)) => match response.data {
                        Written::Nothing => Answer::Unknown("the log has something else in its place".into()),
                        written => Answer::Written(written),
                    },
                    Ok(Err(error)) => Answer::Unknown(in_words(error)),
                    Err(_) => Answer::Unknown(format!("no majority within {ANSWER:?}")),
                }
            }
            Ask::Standing { group: asked, .. } if asked != group => another(&asked, &group),
            Ask::Standing { member, .. } => {
                // By what is committed: a removal that is not may yet come to nothing, and this answer is the member's end.
                confirmed(&raft, || Answer::Standing { member: machine.has_member(member) }).await
            }
            Ask::Join { group: None, .. } => confirmed(&raft, || Answer::InGroup { group: group.clone() }).await,
            Ask::Join { group: Some(asked), .. } if asked != group => {
                confirmed(&raft, || Answer::InGroup { group: group.clone() }).await
            }
            Ask::Join { member, node, .. } => self.take_in(&raft, member, node).await,
            Ask::Raft { .. } | Ask::Pledge { .. } => Answer::Refused("that is not for a leader".into()),
        }
    }

    /// Makes a member that has just been born a learner, if its node should have one.
    async fn take_in(&self, raft: &Raft, member: MemberId, node: Member) -> Answer {
        if is_member(raft, member) {
            return Answer::Joined;
        }
        let spec = match crate::bucket::spec::find(&self.client).await {
            Ok(spec) => spec.or_else(|| self.settings.wish.spec()),
            Err(error) => return Answer::Refused(error.to_string()),
        };
        if !spec.is_some_and(|spec| electorate(&spec.nodes).contains(&node.node)) {
            return Answer::Refused(format!("node {} is not to be a member", node.node));
        }
        match tokio::time::timeout(ANSWER, raft.add_learner(member, node, false)).await {
            Ok(Ok(_)) => Answer::Joined,
            // It asks again.
            Ok(Err(error)) => Answer::Refused(in_words(error)),
            Err(_) => Answer::Refused(format!("no majority within {ANSWER:?}")),
        }
    }
}

async fn raft_answer(raft: &Raft, rpc: Rpc) -> Result<Answer, String> {
    match rpc {
        Rpc::Append(request) => raft.append_entries(request).await.map(Answer::Append).map_err(in_words),
        Rpc::Vote(request) => raft.vote(request).await.map(Answer::Vote).map_err(in_words),
        Rpc::Snapshot { vote, meta, state } => {
            let snapshot = Snapshot { meta, snapshot: Box::new(state) };
            raft.install_full_snapshot(vote, snapshot).await.map(Answer::Snapshot).map_err(in_words)
        }
    }
}

fn not_open() -> Answer {
    Answer::Refused("this node's member is not open yet".into())
}

fn another(asked: &str, ours: &str) -> Answer {
    Answer::Refused(format!("this is group {ours}, not {asked}"))
}

fn in_words(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// What to answer if this member does not lead, or has not heard of a majority for so long that others may lead already.
fn not_leading(raft: &Raft, pace: Pace) -> Option<Answer> {
    let metrics = raft.metrics();
    let metrics = metrics.borrow();
    let patience = u64::try_from(pace.patience.as_millis()).unwrap_or(u64::MAX);
    if metrics.state == ServerState::Leader {
        let alone = metrics.millis_since_quorum_ack.is_some_and(|silent| silent > patience);
        return alone.then_some(Answer::NotLeader { leader: None });
    }
    let membership = metrics.membership_config.membership();
    let leader =
        metrics.current_leader.and_then(|leader| membership.get_node(&leader)).map(|leader| leader.node.clone());
    Some(Answer::NotLeader { leader })
}

/// The answer as of a moment after the question came: a majority says that this member still leads.
async fn confirmed(raft: &Raft, answer: impl FnOnce() -> Answer) -> Answer {
    match tokio::time::timeout(ANSWER, raft.ensure_linearizable()).await {
        Ok(Ok(_)) => answer(),
        Ok(Err(RaftError::APIError(CheckIsLeaderError::ForwardToLeader(forward)))) => {
            Answer::NotLeader { leader: forward.leader_node.map(|leader| leader.node) }
        }
        Ok(Err(error)) => Answer::Refused(in_words(error)),
        Err(_) => Answer::Refused(format!("no majority within {ANSWER:?}")),
    }
}

fn is_member(raft: &Raft, member: MemberId) -> bool {
    raft.metrics().borrow().membership_config.membership().get_node(&member).is_some()
}

fn config(cluster: &str, pace: Pace) -> Config {
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    Config {
        cluster_name: cluster.to_owned(),
        heartbeat_interval: millis(pace.heartbeat),
        election_timeout_min: millis(pace.patience),
        election_timeout_max: millis(pace.patience * 2),
        install_snapshot_timeout: millis(SNAPSHOT_LIMIT),
        max_payload_entries: ENTRIES_AT_ONCE,
        replication_lag_threshold: SNAPSHOT_EVERY,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(SNAPSHOT_EVERY),
        max_in_snapshot_log_to_keep: KEPT,
        purge_batch_size: KEPT,
        ..Config::default()
    }
}

/// To this node itself without a network; to others over it.
#[derive(Debug)]
struct Near {
    group: Weak<Group>,
    node: NodeId,
    wish: Arc<dyn Wish>,
    far: Arc<dyn Transport>,
}

#[async_trait]
impl Transport for Near {
    async fn ask(&self, node: &NodeId, question: &Question) -> Result<Answer, Unanswered> {
        if *node != self.node {
            return self.far.ask(node, question).await;
        }
        match self.group.upgrade() {
            Some(group) => Ok(Box::pin(group.answer(question.clone())).await),
            None => Err(Unanswered::NotSent("this node is stopping".into())),
        }
    }
}

impl Seeds for Near {
    fn nodes(&self) -> Vec<NodeId> {
        let wanted = self.wish.spec().map_or_else(Vec::new, |spec| spec.nodes);
        let mut nodes = electorate(&wanted).to_vec();
        nodes.retain(|node| *node != self.node);
        // This node first: its own member knows who leads.
        nodes.insert(0, self.node.clone());
        nodes
    }
}
