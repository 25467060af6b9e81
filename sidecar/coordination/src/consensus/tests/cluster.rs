//! A group of nodes in one process: real members on real folders, and a network between them that can be cut.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use brainy_storage::documents::{DocumentVersion, Documents, Swap};
use openraft::ServerState;

use super::super::client::{Client, Seeds};
use super::super::group::{Group, Settings, Wish};
use super::super::wire::{Answer, Question, Transport, Unanswered};
use super::super::{MemberId, Pace};
use crate::NodeId;
use crate::bucket::spec::{ClusterSpec, Pattern};
use crate::placement::Policy;

/// No test may take longer, and none checks how long it took.
const PATIENCE: Duration = Duration::from_secs(120);
/// A question that gets no answer.
const LIMIT: Duration = Duration::from_secs(5);

pub(super) fn id(name: &str) -> NodeId {
    NodeId(name.into())
}

/// The network, and who is on it.
#[derive(Debug, Default)]
struct Net {
    nodes: Mutex<BTreeMap<NodeId, Arc<Group>>>,
    /// From whom to whom nothing gets through.
    cut: Mutex<BTreeSet<(NodeId, NodeId)>>,
    /// Between them the next answers are lost.
    deaf: Mutex<BTreeSet<(NodeId, NodeId)>>,
}

/// One node's access to the network.
#[derive(Debug)]
struct Line {
    net: Arc<Net>,
    from: NodeId,
}

#[async_trait]
impl Transport for Line {
    async fn ask(&self, node: &NodeId, question: &Question) -> Result<Answer, Unanswered> {
        let line = (self.from.clone(), node.clone());
        let not_sent = || Unanswered::NotSent(format!("{node} is not to be reached"));
        if self.net.cut.lock().unwrap().contains(&line) {
            return Err(not_sent());
        }
        let there = self.net.nodes.lock().unwrap().get(node).cloned().ok_or_else(not_sent)?;
        let sent: Question = serde_json::from_str(&serde_json::to_string(question).unwrap()).unwrap();
        let answering = tokio::time::timeout(LIMIT, there.answer(sent));
        let answer = answering.await.map_err(|_| Unanswered::Lost("no answer in time".into()))?;
        let back = (node.clone(), self.from.clone());
        if self.net.deaf.lock().unwrap().contains(&line) || self.net.cut.lock().unwrap().contains(&back) {
            return Err(Unanswered::Lost("the answer was lost".into()));
        }
        Ok(serde_json::from_str(&serde_json::to_string(&answer).unwrap()).unwrap())
    }
}

/// What every node is told of the wanted ones.
#[derive(Debug, Default)]
struct Told(Mutex<Option<ClusterSpec>>);

impl Wish for Told {
    fn spec(&self) -> Option<ClusterSpec> {
        self.0.lock().unwrap().clone()
    }
}

impl Seeds for Told {
    fn nodes(&self) -> Vec<NodeId> {
        self.spec().map_or_else(Vec::new, |spec| spec.nodes)
    }
}

pub(super) struct Nodes {
    net: Arc<Net>,
    told: Arc<Told>,
    folder: tempfile::TempDir,
    running: Mutex<BTreeMap<NodeId, tokio::task::JoinHandle<()>>>,
}

impl Nodes {
    /// Nodes that are wanted; none runs yet.
    pub(super) fn wanted(names: &[&str]) -> Self {
        let nodes = Self {
            net: Arc::default(),
            told: Arc::default(),
            folder: tempfile::tempdir().unwrap(),
            running: Mutex::default(),
        };
        nodes.want(names);
        nodes
    }

    /// The same, running.
    pub(super) fn started(names: &[&str]) -> Self {
        let nodes = Self::wanted(names);
        names.iter().for_each(|name| nodes.start(name));
        nodes
    }

    pub(super) fn want(&self, names: &[&str]) {
        let mut told = self.told.0.lock().unwrap();
        *told = Some(ClusterSpec {
            revision: 0,
            cluster: "uid".into(),
            generation: told.as_ref().map_or(1, |told| told.generation + 1),
            writer: "test".into(),
            pattern: Pattern::Consensus,
            nodes: names.iter().map(|name| id(name)).collect(),
            volumes: BTreeSet::new(),
            placement: Policy::default(),
        });
    }

    fn settings(&self, name: &str) -> Settings {
        Settings {
            folder: self.folder.path().join(name),
            node: id(name),
            cluster: "uid".into(),
            pace: Pace { heartbeat: Duration::from_millis(60), patience: Duration::from_millis(240) },
            transport: Arc::new(Line { net: Arc::clone(&self.net), from: id(name) }),
            wish: Arc::clone(&self.told) as _,
        }
    }

    pub(super) fn start(&self, name: &str) {
        let group = Group::new(self.settings(name));
        self.net.nodes.lock().unwrap().insert(id(name), Arc::clone(&group));
        self.running.lock().unwrap().insert(id(name), tokio::spawn(group.run()));
    }

    /// As kill -9: its disk has what it was told is there.
    pub(super) async fn kill(&self, name: &str) {
        let running = self.running.lock().unwrap().remove(&id(name)).unwrap();
        running.abort();
        let _aborted = running.await;
        let group = self.net.nodes.lock().unwrap().remove(&id(name)).unwrap();
        group.shut_down().await;
    }

    /// Its volume is gone.
    pub(super) fn lose_volume(&self, name: &str) {
        std::fs::remove_dir_all(self.folder.path().join(name)).unwrap();
    }

    /// Puts a volume aside, or the one that was put aside in its place.
    pub(super) fn keep_volume(&self, name: &str, aside: &str) {
        std::fs::rename(self.folder.path().join(name), self.folder.path().join(aside)).unwrap();
    }

    /// Nothing gets through between these and the others.
    pub(super) fn cut(&self, names: &[&str]) {
        let nodes: Vec<NodeId> = self.net.nodes.lock().unwrap().keys().cloned().collect();
        let here = |node: &NodeId| names.contains(&node.0.as_str());
        let mut cut = self.net.cut.lock().unwrap();
        for from in &nodes {
            cut.extend(nodes.iter().filter(|to| here(from) != here(to)).map(|to| (from.clone(), to.clone())));
        }
    }

    pub(super) fn mend(&self) {
        self.net.cut.lock().unwrap().clear();
        self.net.deaf.lock().unwrap().clear();
    }

    /// `from` gets no answers from `to`, which does what it is asked for.
    pub(super) fn deafen(&self, from: &str, to: &str) {
        self.net.deaf.lock().unwrap().insert((id(from), id(to)));
    }

    pub(super) fn group(&self, name: &str) -> Arc<Group> {
        Arc::clone(&self.net.nodes.lock().unwrap()[&id(name)])
    }

    /// The documents as a node has them.
    pub(super) fn documents(&self, name: &str) -> Arc<dyn Documents> {
        self.group(name).documents()
    }

    /// The documents as someone has them who is no node, and asks each of them.
    pub(super) fn outside(&self) -> Client {
        let line = Line { net: Arc::clone(&self.net), from: id("outside") };
        Client::new("uid", Arc::new(line), Arc::clone(&self.told) as _)
    }

    /// Who leads, by what the nodes themselves say; of several the one of the latest term.
    pub(super) async fn leader(&self) -> Option<String> {
        let groups: Vec<(NodeId, Arc<Group>)> =
            self.net.nodes.lock().unwrap().iter().map(|(node, group)| (node.clone(), Arc::clone(group))).collect();
        let mut leaders = Vec::new();
        for (node, group) in groups {
            if let Some(instance) = group.present.read().await.as_ref() {
                let metrics = instance.raft.metrics().borrow().clone();
                if metrics.state == ServerState::Leader {
                    leaders.push((metrics.current_term, node.0));
                }
            }
        }
        leaders.into_iter().max().map(|(_, node)| node)
    }

    /// Waits for one.
    pub(super) async fn led(&self) -> String {
        self.eventually("a leader", || self.leader()).await
    }

    /// A node's member.
    pub(super) async fn member(&self, name: &str) -> Option<MemberId> {
        let group = self.group(name);
        group.present.read().await.as_ref().map(|instance| instance.identity().member)
    }

    /// The members as the leader has them: `a+` votes, `a-` does not.
    pub(super) async fn members(&self) -> Option<(Vec<String>, BTreeSet<MemberId>)> {
        let group = self.group(&self.leader().await?);
        let present = group.present.read().await;
        let metrics = present.as_ref()?.raft.metrics().borrow().clone();
        let membership = metrics.membership_config.membership();
        if membership.get_joint_config().len() > 1 {
            return None;
        }
        let voters: BTreeSet<MemberId> = membership.voter_ids().collect();
        let kind = |id: &MemberId| if voters.contains(id) { '+' } else { '-' };
        let mut names: Vec<String> =
            membership.nodes().map(|(id, member)| format!("{}{}", member.node, kind(id))).collect();
        names.sort();
        Some((names, membership.nodes().map(|(id, _)| *id).collect()))
    }

    /// Waits until these and no others are members.
    pub(super) async fn settled(&self, expected: &[&str]) {
        let found = || async {
            let members = self.members().await.map(|(members, _)| members);
            members.filter(|members| members.iter().map(String::as_str).eq(expected.iter().copied()))
        };
        self.eventually(&format!("members {expected:?}"), found).await;
    }

    pub(super) async fn eventually<T, F: Future<Output = Option<T>>>(&self, what: &str, found: impl Fn() -> F) -> T {
        let looking = async {
            loop {
                if let Some(found) = found().await {
                    return found;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        match tokio::time::timeout(PATIENCE, looking).await {
            Ok(found) => found,
            Err(_) => panic!("never: {what}; members: {:?}; {:#?}", self.members().await, self.problems()),
        }
    }

    fn problems(&self) -> Vec<(NodeId, Option<String>)> {
        let nodes = self.net.nodes.lock().unwrap();
        nodes.iter().map(|(node, group)| (node.clone(), group.problem().borrow().clone())).collect()
    }

    pub(super) fn problem(&self, name: &str) -> String {
        self.group(name).problem().borrow().clone().unwrap_or_default()
    }
}

/// Adds one to a number in a document, until it is known that it was added; counts what is not known.
#[derive(Debug, Default)]
pub(super) struct Count {
    pub(super) added: u64,
    pub(super) unknown: u64,
}

impl Count {
    pub(super) async fn add(&mut self, documents: &dyn Documents, name: &str) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while tokio::time::Instant::now() < deadline {
            let Ok((number, version)) = number(documents, name).await else {
                continue;
            };
            match documents.swap(name, version.as_ref(), (number + 1).to_string().into()).await {
                Ok(Swap::Applied(_)) => {
                    self.added += 1;
                    return;
                }
                Ok(Swap::Unknown(_)) => self.unknown += 1,
                Ok(Swap::Rejected) | Err(_) => {}
            }
        }
        panic!("{name} can't be written to");
    }

    /// What was acknowledged is there, and nothing that nobody has sent.
    pub(super) async fn check(&self, documents: &dyn Documents, name: &str) {
        let (number, _) = number(documents, name).await.unwrap();
        let possible = self.added..=self.added + self.unknown;
        assert!(possible.contains(&number), "{number} is not in {possible:?}");
    }
}

pub(super) async fn number(
    documents: &dyn Documents,
    name: &str,
) -> Result<(u64, Option<DocumentVersion>), brainy_storage::Error> {
    let found = documents.read(name).await?;
    Ok(found.map_or((0, None), |found| {
        (String::from_utf8(found.body.to_vec()).unwrap().parse().unwrap(), Some(found.version))
    }))
}
