use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use brainy_coordination::bucket::spec::ClusterSpec;
use brainy_coordination::clock::ManualClock;
use brainy_coordination::consensus::client::{Client as Asking, Seeds};
use brainy_coordination::consensus::state::{State, Write, Written};
use brainy_coordination::consensus::wire::{Answer, Ask, Question, Transport, Unanswered};
use brainy_coordination::names as paths;
use brainy_coordination::session::SessionRecord;
use serde_json::json;

use super::super::*;
use super::{MAP, record};
use crate::fake_api::FakeApi;
use crate::fixtures::cluster;
use crate::reconcile::validate::validate;

/// A node that answers for all.
#[derive(Debug, Default)]
struct Node {
    state: Mutex<State>,
    written: Mutex<u64>,
    members: Mutex<Vec<NodeId>>,
    learners: Mutex<Vec<NodeId>>,
    /// It does not know who votes.
    is_old: AtomicBool,
    asked_who_votes: Mutex<usize>,
    silent: AtomicBool,
}

impl Node {
    fn write(&self, write: Write) -> Written {
        let mut written = self.written.lock().unwrap();
        *written += 1;
        self.state.lock().unwrap().apply(write, written.to_string())
    }

    /// Whatever stands there.
    fn put(&self, name: &str, document: &impl serde::Serialize) {
        let expected = self.state.lock().unwrap().read(name).map(|there| there.version.clone());
        let body = serde_json::to_string(document).unwrap();
        assert_ne!(self.write(Write { name: name.into(), expected, body }), Written::Rejected);
    }

    fn read<T: serde::de::DeserializeOwned>(&self, name: &str) -> Option<T> {
        Some(serde_json::from_str(&self.state.lock().unwrap().read(name)?.body).unwrap())
    }
}

#[async_trait]
impl Transport for Node {
    async fn ask(&self, _: &NodeId, question: &Question) -> Result<Answer, Unanswered> {
        if self.silent.load(Ordering::SeqCst) {
            return Err(Unanswered::NotSent("nobody there".into()));
        }
        assert_eq!(question.cluster, "1111-2222/4");
        Ok(match question.ask.clone() {
            Ask::Read { name } => Answer::Document(self.state.lock().unwrap().read(&name).cloned()),
            Ask::Names { prefix } => Answer::Names(self.state.lock().unwrap().names(&prefix)),
            Ask::Swap(write) => Answer::Written(self.write(write)),
            Ask::Members => Answer::Members(self.members.lock().unwrap().clone()),
            Ask::Learners => {
                *self.asked_who_votes.lock().unwrap() += 1;
                if self.is_old.load(Ordering::SeqCst) {
                    return Err(Unanswered::NotSent("400".into()));
                }
                Answer::Members(self.learners.lock().unwrap().clone())
            }
            other => panic!("an operator asks {other:?}"),
        })
    }
}

impl Seeds for Node {
    fn nodes(&self) -> Vec<NodeId> {
        vec![NodeId("demo-0".into())]
    }
}

struct Consensus {
    api: FakeApi,
    node: Arc<Node>,
    replicas: i32,
    volumes: BTreeSet<i32>,
    memory: Memory,
}

impl Consensus {
    fn new(replicas: i32) -> Self {
        let node = Arc::new(Node::default());
        let asking = Asking::new("1111-2222/4", Arc::clone(&node) as _, Arc::clone(&node) as _);
        let mut memory = Memory::default();
        memory.consensus.access = Some((Arc::new(asking.with_patience(Duration::ZERO)), Duration::ZERO));
        Self { api: FakeApi::default(), node, replicas, volumes: BTreeSet::new(), memory }
    }

    async fn look(&mut self) -> Summary {
        let spec = json!({
            "replicas": self.replicas, "shards": 4, "storage": {},
            "coordination": {"pattern": "Consensus", "placement": {"maxMoves": 3}},
        });
        let validated = validate(&cluster("demo", spec)).unwrap();
        let pod =
            PodFacts { node: NodeId("demo-0".into()), host: String::new(), zone: Some("west".into()), ready: true };
        let mut controller = Controller {
            client: &self.api.client(),
            cluster: &validated,
            bucket: None,
            identity: "o",
            clock: &ManualClock::default(),
            volumes: &self.volumes,
            consensus_since: Some(4),
            give_up: None,
            drained: &BTreeSet::new(),
            kept: &BTreeSet::new(),
            pods: &[pod],
            memory: &mut self.memory,
        };
        controller.run().await.unwrap()
    }

    /// A map in which `demo-0` owns all four shards, and serves them.
    fn settle(&self) -> ShardMap {
        let token = brainy_coordination::FencingToken(5);
        let map = ShardMap {
            revision: 3,
            epoch: Epoch(2),
            writer: "demo-0_x".into(),
            cluster: "1111-2222".into(),
            nodes: vec![NodeId("demo-0".into()), NodeId("demo-1".into())],
            owners: vec![Some(0); 4],
            tokens: vec![token; 4],
            moves: BTreeMap::new(),
            given_up: Default::default(),
            wished: BTreeMap::new(),
        };
        self.node.put(paths::SHARD_MAP, &map);
        let election = json!({"epoch": 2, "holder": "demo-0_x", "kind": "node", "revision": 1, "ttlSeconds": 30});
        self.node.put(paths::CONTROLLER_ELECTION, &election);
        let stored = record("demo-0", &[0, 1, 2, 3]).holds;
        let session = SessionRecord { map_revision: 3, stored, ..record("demo-0", &[0, 1, 2, 3]) };
        self.node.put(&paths::session(&NodeId("demo-0".into())), &session);
        map
    }

    fn copy(&self) -> Option<ShardMap> {
        serde_json::from_str(self.api.object(MAP)?["data"]["shard-map.json"].as_str().unwrap()).unwrap()
    }
}

#[tokio::test]
async fn the_nodes_are_told_what_is_wanted_and_asked_for_the_rest() {
    let mut consensus = Consensus::new(1);
    consensus.volumes = BTreeSet::from([0, 4]);
    let map = consensus.settle();
    let summary = consensus.look().await;
    let spec: ClusterSpec = consensus.node.read(paths::SPEC).unwrap();
    assert_eq!((spec.pattern, spec.generation), (Pattern::Consensus, 7));
    assert_eq!(
        (spec.placement.max_moves, spec.placement.zones),
        (Some(3), [(spec.nodes[0].clone(), "west".into())].into())
    );
    assert_eq!(spec.nodes, [NodeId("demo-0".into())]);
    assert_eq!(spec.volumes, ["demo-0", "demo-4"].map(|node| NodeId(node.into())).into());
    assert!(summary.is_settled(), "{summary:?}");
    assert_eq!((summary.view.held, summary.needed_nodes()), (4, 0));
    assert_eq!(consensus.copy().unwrap(), map, "for people");
    assert_eq!(consensus.node.read::<ShardMap>(paths::SHARD_MAP).unwrap(), map, "which is for a node to write");
}

#[tokio::test]
async fn while_shards_have_no_owner_the_nodes_of_all_volumes_run() {
    let mut consensus = Consensus::new(1);
    consensus.volumes = BTreeSet::from([0, 4]);
    let map = consensus.settle();
    consensus.node.put(paths::SHARD_MAP, &ShardMap { owners: vec![None; 4], ..map });
    let summary = consensus.look().await;
    assert_eq!(summary.needed_nodes(), 5);
    assert!(!summary.is_settled() && !summary.is_empty_handed(&NodeId("demo-4".into())));
}

#[tokio::test]
async fn a_node_goes_only_once_no_majority_is_counted_by_it() {
    let mut consensus = Consensus::new(1);
    consensus.settle();
    let leaving = NodeId("demo-1".into());
    *consensus.node.members.lock().unwrap() = vec![NodeId("demo-0".into()), leaving.clone()];
    assert!(!consensus.look().await.is_empty_handed(&leaving));
    *consensus.node.members.lock().unwrap() = vec![NodeId("demo-0".into())];
    assert!(consensus.look().await.is_empty_handed(&leaving));
}

#[tokio::test]
async fn a_member_that_does_not_vote_yet_is_behind() {
    let mut consensus = Consensus::new(2);
    consensus.settle();
    let both = ["demo-0", "demo-1"].map(|node| NodeId(node.into()));
    *consensus.node.members.lock().unwrap() = both[..1].to_vec();
    assert_eq!(consensus.look().await.behind, both[1..], "it has yet to join");
    *consensus.node.members.lock().unwrap() = both.to_vec();
    *consensus.node.learners.lock().unwrap() = both[1..].to_vec();
    assert_eq!(consensus.look().await.behind, both[1..]);
    consensus.node.learners.lock().unwrap().clear();
    assert_eq!(consensus.look().await.behind, []);
}

#[tokio::test]
async fn nodes_of_an_earlier_version_are_not_asked_again_and_again_who_votes() {
    let mut consensus = Consensus::new(1);
    consensus.settle();
    *consensus.node.members.lock().unwrap() = vec![NodeId("demo-0".into())];
    consensus.node.is_old.store(true, Ordering::SeqCst);
    for _ in 0..3 {
        let summary = consensus.look().await;
        assert!(summary.is_settled() && summary.behind.is_empty(), "{summary:?}");
    }
    assert_eq!(*consensus.node.asked_who_votes.lock().unwrap(), 1);
}

#[tokio::test]
async fn while_the_nodes_are_silent_nothing_is_done_that_could_cost_a_shard() {
    let mut consensus = Consensus::new(1);
    consensus.volumes = BTreeSet::from([0, 4]);
    consensus.settle();
    consensus.node.silent.store(true, Ordering::SeqCst);
    let asking = consensus.memory.consensus.access.clone();
    let first = consensus.look().await;
    assert_eq!(first.needed_nodes(), 5, "of a cluster that never answered, they may all be needed to agree");
    assert!(first.waiting.unwrap().contains("nobody there"));
    assert_eq!(consensus.copy(), None);

    consensus.node.silent.store(false, Ordering::SeqCst);
    consensus.memory.consensus.access = asking.clone();
    assert!(consensus.look().await.is_empty_handed(&NodeId("demo-1".into())));
    consensus.node.silent.store(true, Ordering::SeqCst);
    consensus.memory.consensus.access = asking;
    let silent = consensus.look().await;
    assert!(!silent.is_settled() && !silent.is_empty_handed(&NodeId("demo-1".into())));
    assert_eq!((silent.view.total, silent.view.assigned, silent.needed_nodes()), (4, 4, 0));
}
