//! The cluster under test.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use brainy_coordination::bucket::election::{self, Election};
use brainy_coordination::bucket::operator::{self, Part};
use brainy_coordination::bucket::spec::{ClusterSpec, Pattern};
use brainy_coordination::clock::{Clock, SystemClock};
use brainy_coordination::consensus::Pace;
use brainy_coordination::consensus::client::{Client, Seeds};
use brainy_coordination::consensus::group::{self, Group, Wish};
use brainy_coordination::consensus::wire::{Answer, Question, Transport, Unanswered};
use brainy_coordination::controller::give_up::{GiveUp, give_up};
use brainy_coordination::controller::{Facts, Next, NodeSight, Rules, next_map};
use brainy_coordination::lease::ShardLease;
use brainy_coordination::placement::Policy;
use brainy_coordination::session::{HeldShard, Observer, SessionRecord, SessionState};
use brainy_coordination::{Epoch, FencingToken, NodeId, ShardId, ShardMap, names};
use brainy_storage::backends::memory::{MemoryAdapter, MemoryDocuments};
use brainy_storage::backends::objects::BucketStore;
use brainy_storage::backends::s3::Capabilities;
use brainy_storage::documents::{Document, DocumentVersion, Documents, Swap};
use brainy_storage::layers::batching::{Ack, Batching};
use brainy_storage::layers::caching::CacheSize;
use brainy_storage::layers::{LayerStack, Layers};
use brainy_storage::{Error, Key, Namespace, Outcome, StorageAdapter};
use bytes::Bytes;

use super::super::consensus::{self, OverPeers};
use super::super::handoff::{BYTES_PER_SECOND, Throttle};
use super::super::layout::OnePlace;
use super::super::node::{OpenBucket, Parts, SharedBucket, Strategy, layout};
use super::super::proof::Proof;
use super::super::volume::OnDisk;
use super::super::{Freed, HandoffError, HandoffRequest, Ownership, PeerClient, Place, Renewed, ShardStores};
use super::objects::Objects;
use crate::data_folder::Engine;
use crate::metrics::Metrics;
use crate::peers::PeerError;
use crate::routing::{Attempt, Call, Listing, Patience, Portion, Router};

pub(super) const SHARDS: u32 = 12;
/// No test may take longer, and none checks how long it took.
const PATIENCE: Duration = Duration::from_secs(120);

/// A connection to the documents that can be cut, and that loses answers.
#[derive(Debug)]
pub(super) struct Link {
    documents: MemoryDocuments,
    pub(super) cut: AtomicBool,
    /// One of so many writes is answered with "unknown", half of them after they took effect; 0: none.
    pub(super) lose_one_in: AtomicU64,
    count: AtomicU64,
    /// Documents read since the last listing, and listings between which none was read.
    read: AtomicU64,
    pub(super) idle_looks: AtomicU64,
    /// Reads of the election.
    pub(super) elections: AtomicU64,
    /// What the next proof of the store comes to, if it does not pass.
    pub(super) verdict: Mutex<Option<Error>>,
    /// Proofs so far.
    pub(super) proofs: AtomicU64,
}

impl Link {
    /// Documents that this node has tried to write.
    pub(super) fn writes(&self) -> u64 {
        self.count.load(Ordering::SeqCst)
    }

    /// Waits until the store has been put to the test a few more times.
    pub(super) async fn proved(&self) {
        let before = self.proofs.load(Ordering::SeqCst);
        while self.proofs.load(Ordering::SeqCst) < before + 3 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

#[async_trait]
impl Documents for Link {
    async fn read(&self, name: &str) -> Result<Option<Document>, Error> {
        if self.cut.load(Ordering::SeqCst) {
            return Err(Error::unavailable("Cut", "the link is cut"));
        }
        self.read.fetch_add(1, Ordering::SeqCst);
        if name == names::CONTROLLER_ELECTION {
            self.elections.fetch_add(1, Ordering::SeqCst);
        }
        self.documents.read(name).await
    }

    async fn swap(&self, name: &str, expected: Option<&DocumentVersion>, body: Bytes) -> Result<Swap, Error> {
        if self.cut.load(Ordering::SeqCst) {
            return Ok(Swap::Unknown("the link is cut".into()));
        }
        let (count, lose) = (self.count.fetch_add(1, Ordering::SeqCst), self.lose_one_in.load(Ordering::SeqCst));
        if lose == 0 || count % lose != lose - 1 {
            return self.documents.swap(name, expected, body).await;
        }
        if count / lose % 2 == 0 {
            let _lost = self.documents.swap(name, expected, body).await?;
        } else {
            // It lands later, if it still can.
            let (documents, name, expected) = (self.documents.clone(), name.to_owned(), expected.cloned());
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(30)).await;
                let _late = documents.swap(&name, expected.as_ref(), body).await;
            });
        }
        Ok(Swap::Unknown("the answer was lost".into()))
    }

    async fn names(&self, prefix: &str) -> Result<Vec<String>, Error> {
        if self.cut.load(Ordering::SeqCst) {
            return Err(Error::unavailable("Cut", "the link is cut"));
        }
        self.documents.names(prefix).await
    }

    async fn versions(&self, prefix: &str) -> Result<Vec<(String, Option<DocumentVersion>)>, Error> {
        if self.cut.load(Ordering::SeqCst) {
            return Err(Error::unavailable("Cut", "the link is cut"));
        }
        if self.read.swap(0, Ordering::SeqCst) == 0 {
            self.idle_looks.fetch_add(1, Ordering::SeqCst);
        }
        self.documents.versions(prefix).await
    }
}

/// Shards in memory, shared by all nodes.
#[derive(Debug, Default)]
struct MemoryShards(Mutex<HashMap<ShardId, MemoryAdapter>>);

impl ShardStores for MemoryShards {
    fn open(&self, shard: ShardId, _token: FencingToken) -> Result<Arc<dyn StorageAdapter>, Error> {
        Ok(Arc::new(self.0.lock().unwrap().entry(shard).or_default().clone()))
    }
}

/// Where the data of shards is.
#[derive(Clone)]
enum Data {
    /// On this folder's volumes.
    Volumes(Arc<tempfile::TempDir>),
    /// Below the nodes' namespaces, and how late something may arrive there.
    Namespaces(Objects, Duration),
    /// At one place.
    Shards(Arc<MemoryShards>),
}

struct Bucket {
    link: Arc<Link>,
    node: NodeId,
    data: Data,
}

#[async_trait]
impl SharedBucket for Bucket {
    async fn open(&self) -> Result<OpenBucket, Error> {
        let layout = match &self.data {
            Data::Namespaces(objects, latest) => {
                layout(BucketStore::new(objects.clone()), Some(&self.node), None, *latest)
            }
            Data::Shards(shards) => Arc::new(OnePlace(Arc::clone(shards) as _)),
            Data::Volumes(_) => return Err(Error::unavailable("NoSuchBucket", "there are volumes only")),
        };
        Ok(OpenBucket { documents: Arc::clone(&self.link) as _, layout, proof: self.link.clone() })
    }
}

#[async_trait]
impl Proof for Link {
    async fn prove(&self) -> Result<Capabilities, Error> {
        let verdict = self.verdict.lock().unwrap().clone();
        self.proofs.fetch_add(1, Ordering::SeqCst);
        verdict.map_or(Ok(CAPABLE), Err)
    }
}

const CAPABLE: Capabilities = Capabilities {
    create_only: true,
    if_match: true,
    atomic_under_race: true,
    read_after_write: true,
    etag_is_md5: true,
};

/// Hands shards from process to process without a network, and the questions of members to each other.
#[derive(Clone, Debug, Default)]
struct Peers {
    nodes: Arc<Mutex<HashMap<NodeId, Ownership>>>,
    /// Members of these nodes hear of no others, and others not of them.
    cut: Arc<Mutex<BTreeSet<NodeId>>>,
    /// Who asks.
    from: Option<NodeId>,
}

impl Peers {
    fn get(&self, node: &NodeId) -> Option<Ownership> {
        self.nodes.lock().unwrap().get(node).cloned()
    }
}

#[async_trait]
impl Transport for Peers {
    async fn ask(&self, node: &NodeId, question: &Question) -> Result<Answer, Unanswered> {
        let cut = |node: &NodeId| self.cut.lock().unwrap().contains(node);
        let there = self.get(node).filter(|_| !cut(node) && !self.from.as_ref().is_some_and(cut));
        let there = there.ok_or_else(|| Unanswered::NotSent(format!("{node} is not to be reached")))?;
        let answer = tokio::time::timeout(Duration::from_secs(6), there.consult(question.clone())).await;
        answer.map_err(|_| Unanswered::Lost("no answer in time".into()))
    }
}

/// Which nodes are wanted, as a node hears of it, and who asks from outside.
#[derive(Debug)]
struct Wanted {
    nodes: Arc<Mutex<Vec<NodeId>>>,
    generation: Arc<AtomicU64>,
}

impl Wish for Wanted {
    fn spec(&self) -> Option<ClusterSpec> {
        let nodes = self.nodes.lock().unwrap();
        (!nodes.is_empty()).then(|| ClusterSpec {
            revision: 0,
            cluster: "uid".into(),
            generation: i64::try_from(self.generation.load(Ordering::SeqCst)).unwrap(),
            writer: "file".into(),
            pattern: Pattern::Consensus,
            nodes: nodes.clone(),
            volumes: BTreeSet::new(),
            placement: Policy::default(),
        })
    }
}

impl Seeds for Wanted {
    fn nodes(&self) -> Vec<NodeId> {
        self.nodes.lock().unwrap().clone()
    }
}

#[async_trait]
impl PeerClient for Peers {
    async fn handoff(
        &self,
        node: &NodeId,
        address: &str,
        shard: ShardId,
        request: &HandoffRequest,
    ) -> Result<Bytes, HandoffError> {
        assert_eq!(address, format!("{node}:7701"));
        let peer = self.get(node).ok_or_else(|| HandoffError::Later("nobody there".into()))?;
        peer.serve_handoff(shard, request.clone()).await
    }

    async fn nudge(&self, node: &NodeId, address: &str) -> Result<(), std::io::Error> {
        assert_eq!(address, format!("{node}:7701"));
        let peer = self.get(node);
        peer.ok_or_else(|| std::io::Error::other("nobody there"))?.look_again();
        Ok(())
    }

    async fn freed(&self, node: &NodeId, address: &str, freed: &Freed) -> Result<(), std::io::Error> {
        assert_eq!(address, format!("{node}:7701"));
        let peer = self.get(node);
        peer.ok_or_else(|| std::io::Error::other("nobody there"))?.freed(freed.clone());
        Ok(())
    }

    async fn renewed(
        &self,
        node: &NodeId,
        address: &str,
        renewed: &Renewed,
    ) -> Result<Option<election::Told>, std::io::Error> {
        assert_eq!(address, format!("{node}:7701"));
        let peer = self.get(node);
        Ok(peer.ok_or_else(|| std::io::Error::other("nobody there"))?.hear(renewed.clone()))
    }

    async fn consult(&self, node: &NodeId, question: &Question) -> Result<Answer, Unanswered> {
        self.ask(node, question).await
    }
}

/// Takes requests from node to node.
#[derive(Debug)]
pub(super) struct Ways(Peers);

#[async_trait]
impl crate::routing::Peers for Ways {
    async fn calls(
        &self,
        node: &NodeId,
        _: &str,
        namespace: Option<&Namespace>,
        calls: Vec<Call>,
    ) -> Result<Vec<Attempt>, PeerError> {
        let there = self.0.get(node).ok_or_else(|| PeerError::NotSent(format!("nobody at {node}")))?;
        let patience = Patience { owner: PATIENCE, storage: PATIENCE };
        let router = Router::new(Arc::new(there), None, patience, Arc::new(Metrics::default()));
        Ok(router.run_here(namespace, calls).await)
    }

    async fn list(&self, _: &NodeId, _: &str, _: &[ShardId], _: &Listing) -> Result<Result<Portion, Error>, PeerError> {
        Err(PeerError::NotSent("nothing is listed here".into()))
    }
}

/// What clients were told of one shard.
#[derive(Clone, Copy, Debug, Default)]
struct Told {
    value: i64,
    token: FencingToken,
    acknowledged: u64,
}

pub(super) struct Cluster {
    rules: Rules,
    /// Where the test reads what stands.
    documents: Arc<dyn Documents>,
    /// Where the nodes keep it, if not among them.
    store: MemoryDocuments,
    /// They keep it among them.
    consensus: bool,
    generation: Arc<AtomicU64>,
    data: Data,
    /// Where members keep their logs, where nodes have no volumes.
    logs: tempfile::TempDir,
    peers: Peers,
    ttl: Duration,
    renew: Duration,
    layers: Layers,
    pub(super) pattern: Arc<Mutex<Pattern>>,
    /// There is no operator.
    pub(super) deserted: Arc<AtomicBool>,
    pub(super) nodes: Arc<Mutex<BTreeMap<NodeId, Ownership>>>,
    pub(super) wanted: Arc<Mutex<Vec<NodeId>>>,
    /// To be given up (strategy Isolated).
    lost: Arc<Mutex<Option<NodeId>>>,
    told: Arc<Mutex<Vec<Told>>>,
    tasks: tokio::task::JoinSet<()>,
}

pub(super) fn id(name: &str) -> NodeId {
    NodeId(name.into())
}

impl Cluster {
    pub(super) fn shared(ttl: Duration) -> Self {
        Self::new(Rules::Shared, Data::Shards(Arc::default()), ttl)
    }

    /// What is copied is cleared away at once, and again after so long.
    pub(super) fn namespaced(ttl: Duration, latest: Duration) -> Self {
        Self::new(Rules::Shared, Data::Namespaces(Objects::default(), latest), ttl)
    }

    /// The nodes elect the controller among them.
    pub(super) fn native(ttl: Duration) -> Self {
        let cluster = Self::shared(ttl);
        *cluster.pattern.lock().unwrap() = Pattern::StorageNative;
        cluster
    }

    /// Nodes that start from now on look at nothing by themselves for an hour.
    pub(super) fn patient(mut self) -> Self {
        self.renew = Duration::from_secs(3600);
        self
    }

    pub(super) fn isolated(ttl: Duration) -> Self {
        Self::new(Rules::Isolated { moves_at_once: 4 }, Data::Volumes(Arc::new(tempfile::tempdir().unwrap())), ttl)
    }

    /// The nodes keep their documents among them. There never is an operator.
    pub(super) fn consensus(ttl: Duration) -> Self {
        let volumes = Data::Volumes(Arc::new(tempfile::tempdir().unwrap()));
        Self::by_consensus(Rules::Isolated { moves_at_once: 4 }, volumes, ttl)
    }

    /// The same, with the data at one place, or below the nodes' namespaces.
    pub(super) fn consensus_over_a_bucket(ttl: Duration, namespaces: bool) -> Self {
        let data = match namespaces {
            true => Data::Namespaces(Objects::default(), Duration::from_millis(50)),
            false => Data::Shards(Arc::default()),
        };
        Self::by_consensus(Rules::Shared, data, ttl)
    }

    fn by_consensus(rules: Rules, data: Data, ttl: Duration) -> Self {
        let (peers, wanted, generation) = (Peers::default(), Arc::default(), Arc::default());
        let seeds = Wanted { nodes: Arc::clone(&wanted), generation: Arc::clone(&generation) };
        let outside = Client::new("uid", Arc::new(peers.clone()), Arc::new(seeds));
        let cluster = Self::idle(rules, data, ttl);
        Self { documents: Arc::new(outside), consensus: true, generation, peers, wanted, ..cluster }.with_clients()
    }

    fn new(rules: Rules, data: Data, ttl: Duration) -> Self {
        let mut cluster = Self::idle(rules, data, ttl);
        match rules {
            Rules::Shared => cluster.start_operator(),
            Rules::Isolated { .. } => cluster.start_controller(),
        }
        cluster.with_clients()
    }

    fn with_clients(mut self) -> Self {
        for shard in 0..SHARDS {
            self.start_client(ShardId(shard));
        }
        self
    }

    fn idle(rules: Rules, data: Data, ttl: Duration) -> Self {
        let store = MemoryDocuments::new();
        Self {
            rules,
            documents: Arc::new(store.clone()),
            store,
            consensus: false,
            generation: Arc::default(),
            data,
            logs: tempfile::tempdir().unwrap(),
            peers: Peers::default(),
            ttl,
            renew: Duration::from_millis(200),
            pattern: Arc::default(),
            deserted: Arc::default(),
            layers: Layers { caching: Some(CacheSize::default()), ..Layers::default() },
            nodes: Arc::default(),
            wanted: Arc::default(),
            lost: Arc::default(),
            told: Arc::new(Mutex::new(vec![Told::default(); SHARDS as usize])),
            tasks: tokio::task::JoinSet::new(),
        }
    }

    /// Nodes that start from now on acknowledge writes before they are durable, and flush them when they have to.
    pub(super) fn buffered(mut self) -> Self {
        let batching = Batching { max_delay_ms: 3_600_000, ack: Ack::Buffered, ..Batching::default() };
        self.layers.batching = Some(batching);
        self
    }

    /// Starts a node, wanted from now on, in a pod with this UID.
    pub(super) fn start(&self, name: &str, pod_uid: &str) -> Arc<Link> {
        let link = Arc::new(Link {
            documents: self.store.clone(),
            cut: AtomicBool::new(false),
            lose_one_in: AtomicU64::new(0),
            count: AtomicU64::new(0),
            read: AtomicU64::new(0),
            idle_looks: AtomicU64::new(0),
            elections: AtomicU64::new(0),
            verdict: Mutex::default(),
            proofs: AtomicU64::new(0),
        });
        let peers = Peers { from: Some(id(name)), ..self.peers.clone() };
        let group = self.consensus.then(|| {
            Group::new(group::Settings {
                folder: consensus::folder(&self.volume(name), &id(name)),
                node: id(name),
                cluster: "uid".into(),
                pace: Pace { heartbeat: Duration::from_millis(60), patience: Duration::from_millis(240) },
                transport: Arc::new(OverPeers(Arc::new(peers.clone()))),
                wish: Arc::new(Wanted { nodes: Arc::clone(&self.wanted), generation: Arc::clone(&self.generation) }),
            })
        });
        let strategy = match &self.data {
            Data::Volumes(_) => Strategy::Isolated {
                documents: group.as_ref().map_or_else(|| Arc::clone(&link) as _, |group| group.documents()),
                volumes: Arc::new(OnDisk { data: self.volume(name), engine: Engine::Embedded }),
                peers: Arc::new(peers),
                throttle: Throttle::new(BYTES_PER_SECOND),
            },
            data @ (Data::Namespaces(..) | Data::Shards(_)) => Strategy::Bucket {
                bucket: Arc::new(Bucket { link: Arc::clone(&link), node: id(name), data: data.clone() }),
                peers: Arc::new(peers),
            },
        };
        let ownership = Ownership::assemble(Parts {
            node: id(name),
            pod_uid: pod_uid.into(),
            address: format!("{name}:7701"),
            cluster: "uid".into(),
            shards: SHARDS,
            layers: LayerStack::new(self.layers),
            ttl: self.ttl,
            renew: self.renew,
            clock: Arc::new(SystemClock),
            watch: None,
            strategy,
            group,
            prove_every: Duration::from_millis(100),
        });
        self.peers.nodes.lock().unwrap().insert(id(name), ownership.clone());
        self.nodes.lock().unwrap().insert(id(name), ownership);
        self.want(name);
        link
    }

    pub(super) fn want(&self, name: &str) {
        let mut wanted = self.wanted.lock().unwrap();
        if !wanted.contains(&id(name)) {
            wanted.push(id(name));
            self.generation.fetch_add(1, Ordering::SeqCst);
        }
    }

    pub(super) fn unwant(&self, name: &str) {
        self.wanted.lock().unwrap().retain(|node| *node != id(name));
        self.generation.fetch_add(1, Ordering::SeqCst);
    }

    pub(super) fn volume(&self, name: &str) -> PathBuf {
        match &self.data {
            Data::Volumes(folder) => folder.path().join(name),
            Data::Namespaces(..) | Data::Shards(_) => self.logs.path().join(name),
        }
    }

    /// Ends a node as kill -9 would: nothing is released, nobody is told.
    pub(super) async fn crash(&self, name: &str) {
        self.peers.nodes.lock().unwrap().remove(&id(name));
        let node = self.nodes.lock().unwrap().remove(&id(name));
        let group = node.as_ref().and_then(Ownership::group);
        drop(node);
        if let Some(group) = group {
            // Its files are this process's: the next life must not meet the last one at them.
            group.shut_down().await;
        }
        // Operations of clients and hand-offs under way end with the process; here they are waited for.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    /// The members of these nodes hear of no others any more.
    pub(super) fn cut(&self, names: &[&str]) {
        *self.peers.cut.lock().unwrap() = names.iter().map(|name| id(name)).collect();
    }

    pub(super) async fn drain(&self, name: &str) {
        let node = self.node(name);
        node.drain().await;
        self.crash(name).await;
    }

    /// The way to all nodes.
    pub(super) fn ways(&self) -> Ways {
        Ways(self.peers.clone())
    }

    pub(super) fn node(&self, name: &str) -> Ownership {
        self.nodes.lock().unwrap()[&id(name)].clone()
    }

    async fn document<T: serde::de::DeserializeOwned>(&self, name: &str) -> Option<T> {
        self.documents.read(name).await.unwrap().map(|found| serde_json::from_slice(&found.body).unwrap())
    }

    /// Who is the controller.
    pub(super) async fn election(&self) -> Election {
        self.document(names::CONTROLLER_ELECTION).await.unwrap()
    }

    /// The objects below the nodes' namespaces.
    pub(super) fn objects(&self) -> &Objects {
        let Data::Namespaces(objects, _) = &self.data else { panic!("there are no namespaces") };
        objects
    }

    pub(super) async fn shard_lease(&self, shard: ShardId) -> ShardLease {
        let name = match &self.data {
            Data::Shards(_) => names::shard_lock(shard),
            Data::Namespaces(..) | Data::Volumes(_) => names::shard_lease(shard),
        };
        let found = self.store.read(&name).await.unwrap().unwrap();
        serde_json::from_slice(&found.body).unwrap()
    }

    pub(super) async fn map(&self) -> ShardMap {
        self.document(names::SHARD_MAP).await.unwrap()
    }

    /// Waits until the election is as it should be.
    pub(super) async fn elected(&self, is: impl Fn(&Election) -> bool) -> Election {
        self.documented(names::CONTROLLER_ELECTION, is).await
    }

    /// Says whose the bucket is.
    pub(super) async fn belongs_to(&self, uid: &str) {
        let marker = serde_json::json!({
            "uid": uid, "namespace": "team", "name": "demo", "kubernetes": "k", "shards": SHARDS, "revision": 1,
        });
        let there = self.documents.read(names::CLUSTER_MARKER).await.unwrap().map(|found| found.version);
        let body = serde_json::to_vec(&marker).unwrap().into();
        let swap = self.documents.swap(names::CLUSTER_MARKER, there.as_ref(), body).await.unwrap();
        assert!(matches!(swap, Swap::Applied(_)));
    }

    /// Writes an election, whoever holds it.
    pub(super) async fn put_election(&self, election: &Election) {
        let body: Bytes = serde_json::to_vec(election).unwrap().into();
        loop {
            let found = self.documents.read(names::CONTROLLER_ELECTION).await.unwrap().unwrap();
            let swap = self.documents.swap(names::CONTROLLER_ELECTION, Some(&found.version), body.clone()).await;
            if matches!(swap.unwrap(), Swap::Applied(_)) {
                return;
            }
        }
    }

    /// Waits until a document is as it should be.
    pub(super) async fn documented<T: serde::de::DeserializeOwned>(&self, name: &str, is: impl Fn(&T) -> bool) -> T {
        let found = async {
            loop {
                let document: Option<T> = self.document(name).await;
                match document.filter(&is) {
                    Some(document) => return document,
                    None => tokio::time::sleep(Duration::from_millis(10)).await,
                }
            }
        };
        tokio::time::timeout(PATIENCE, found).await.unwrap_or_else(|_| panic!("{name} never became what it should be"))
    }

    /// Waits until the operator has written down which nodes are wanted, and by which pattern.
    pub(super) async fn told(&self) {
        let (wanted, pattern) = (self.wanted.lock().unwrap().clone(), *self.pattern.lock().unwrap());
        let is = |spec: &ClusterSpec| spec.nodes == wanted && spec.pattern == pattern;
        let _told = self.documented(names::SPEC, is).await;
    }

    /// What a node says of itself.
    pub(super) async fn session(&self, name: &str) -> SessionRecord {
        self.document(&names::session(&id(name))).await.unwrap()
    }

    /// What a node says it has on its volume.
    pub(super) async fn stored(&self, name: &str) -> Vec<HeldShard> {
        self.session(name).await.stored
    }

    /// Has a node given up, as soon as that may be: strategy Isolated.
    pub(super) fn give_up(&self, name: &str) {
        *self.lost.lock().unwrap() = Some(NodeId(name.into()));
    }

    pub(super) async fn delete_map(&self) {
        let lost = Bytes::from_static(b"null");
        let found = self.documents.read(names::SHARD_MAP).await.unwrap().unwrap();
        let _raced = self.documents.swap(names::SHARD_MAP, Some(&found.version), lost).await.unwrap();
    }

    /// Waits until every shard is served by exactly one node, and the wanted nodes that are there share them evenly.
    pub(super) async fn settled(&self) {
        self.eventually("every shard is served, evenly", || {
            let nodes = self.nodes.lock().unwrap().clone();
            let mut counts: BTreeMap<&NodeId, u32> = BTreeMap::new();
            for shard in (0..SHARDS).map(ShardId) {
                let servers: Vec<&NodeId> = nodes
                    .iter()
                    .filter(|(_, node)| matches!(node.place(shard), Place::Here(_)))
                    .map(|(id, _)| id)
                    .collect();
                let [server] = servers[..] else { return false };
                *counts.entry(server).or_default() += 1;
            }
            let wanted = self.wanted.lock().unwrap();
            let there = u32::try_from(wanted.iter().filter(|node| nodes.contains_key(node)).count()).unwrap();
            let even = SHARDS / there..=SHARDS.div_ceil(there);
            counts.len() == there as usize
                && counts.iter().all(|(node, count)| wanted.contains(node) && even.contains(count))
                && wanted.iter().filter_map(|node| nodes.get(node)).all(|node| node.status().ready)
        })
        .await;
    }

    /// Three nodes that lose every fourth answer; one of them is not wanted, wanted again, and so on.
    pub(super) async fn moves_over_bad_ways(&self) {
        for name in ["a", "b", "c"] {
            self.start(name, name).lose_one_in.store(4, Ordering::SeqCst);
        }
        self.settled().await;
        for _ in 0..3 {
            self.unwant("a");
            self.settled().await;
            self.want("a");
            self.settled().await;
        }
    }

    pub(super) async fn eventually(&self, what: &str, holds: impl Fn() -> bool) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while !holds() {
            if tokio::time::Instant::now() > deadline {
                let nodes = self.nodes.lock().unwrap();
                let status: Vec<_> = nodes.iter().map(|(id, node)| (id, node.status())).collect();
                let views: Vec<_> = nodes
                    .values()
                    .map(|node| (0..SHARDS).map(|at| node.describe(ShardId(at))).collect::<Vec<_>>())
                    .collect();
                panic!("never came true: {what}: {status:#?} {views:#?}");
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until clients have had a few more writes acknowledged on every shard.
    pub(super) async fn served(&self) {
        let before: Vec<u64> = self.told.lock().unwrap().iter().map(|told| told.acknowledged).collect();
        self.eventually("every shard acknowledges writes", || {
            self.told.lock().unwrap().iter().zip(&before).all(|(told, before)| told.acknowledged > before + 3)
        })
        .await;
    }

    /// How many writes clients have had acknowledged.
    pub(super) fn acknowledged(&self) -> u64 {
        self.told.lock().unwrap().iter().map(|told| told.acknowledged).sum()
    }

    /// Ends clients and controller; a check of theirs that failed fails the test.
    pub(super) async fn finish(mut self) {
        self.served().await;
        self.tasks.abort_all();
        while let Some(ended) = self.tasks.join_next().await {
            if let Err(error) = ended
                && error.is_panic()
            {
                std::panic::resume_unwind(error.into_panic());
            }
        }
    }

    /// A client of one shard: increments a counter through whichever node serves it, and checks that each answer comes
    /// after every answer before: a second owner, a stale copy or a lost write would repeat a number.
    fn start_client(&mut self, shard: ShardId) {
        let (nodes, told) = (Arc::clone(&self.nodes), Arc::clone(&self.told));
        self.tasks.spawn(async move {
            let key = Key::new("counter").unwrap();
            loop {
                tokio::time::sleep(Duration::from_millis(3)).await;
                let all: Vec<Ownership> = nodes.lock().unwrap().values().cloned().collect();
                for node in all {
                    let Place::Here(operation) = node.place(shard) else {
                        continue;
                    };
                    let before = told.lock().unwrap()[shard.0 as usize];
                    let Ok(Outcome::Applied((sum, _))) = operation.storage().increment(&key, 1.into()).await else {
                        continue;
                    };
                    if !operation.still_valid() {
                        continue;
                    }
                    let sum = sum.as_i64().unwrap();
                    assert!(sum > before.value, "shard {shard}: {sum} after {before:?} was acknowledged");
                    assert!(
                        operation.token() >= before.token,
                        "shard {shard}: {:?} after {before:?}",
                        operation.token()
                    );
                    let mut told = told.lock().unwrap();
                    let line = &mut told[shard.0 as usize];
                    *line = Told {
                        value: line.value.max(sum),
                        token: line.token.max(operation.token()),
                        acknowledged: line.acknowledged + 1,
                    };
                }
            }
        });
    }

    /// The operator, as long as there is one.
    fn start_operator(&mut self) {
        let (documents, wanted, ttl) = (self.store.clone(), Arc::clone(&self.wanted), self.ttl);
        let rules = self.rules;
        let (pattern, deserted) = (Arc::clone(&self.pattern), Arc::clone(&self.deserted));
        self.tasks.spawn(async move {
            let mut memory = operator::Memory::default();
            loop {
                tokio::time::sleep(Duration::from_millis(15)).await;
                if deserted.load(Ordering::SeqCst) {
                    memory = operator::Memory::default();
                    continue;
                }
                let (nodes, pattern) = (wanted.lock().unwrap().clone(), *pattern.lock().unwrap());
                if nodes.is_empty() {
                    continue;
                }
                let (cluster, writer) = ("uid".into(), "operator".into());
                let (volumes, placement) = (BTreeSet::new(), Policy::default());
                let spec =
                    ClusterSpec { revision: 0, cluster, generation: 1, writer, pattern, nodes, volumes, placement };
                let (documents, clock, memory) = (&documents, &SystemClock, &mut memory);
                let part = Part { documents, spec, shards: SHARDS, rules, ttl, published: 0, clock, memory };
                let _lost_race = part.run().await;
            }
        });
    }

    /// The operator's part with strategy Isolated: reads, decides, publishes.
    fn start_controller(&mut self) {
        let (documents, wanted, rules) = (self.store.clone(), Arc::clone(&self.wanted), self.rules);
        let lost = Arc::clone(&self.lost);
        self.tasks.spawn(async move {
            let mut observers: HashMap<NodeId, Observer<DocumentVersion>> = HashMap::new();
            loop {
                tokio::time::sleep(Duration::from_millis(15)).await;
                let found = documents.read(names::SHARD_MAP).await.unwrap();
                let map: Option<ShardMap> = found.as_ref().and_then(|found| serde_json::from_slice(&found.body).ok());
                let mut nodes = BTreeMap::new();
                for name in documents.names(names::SESSIONS).await.unwrap() {
                    let session = documents.read(&name).await.unwrap().unwrap();
                    let record: SessionRecord = serde_json::from_slice(&session.body).unwrap();
                    let observer = observers.entry(record.node.clone()).or_default();
                    let expired = observer.expired(session.version, record.ttl(), SystemClock.now());
                    let live = record.state == SessionState::Live && !expired;
                    nodes.insert(record.node.clone(), NodeSight { record, live });
                }
                let wanted = wanted.lock().unwrap().clone();
                let facts = Facts {
                    cluster: "uid",
                    shards: SHARDS,
                    rules,
                    wanted: &wanted,
                    volumes: &BTreeSet::new(),
                    nodes: &nodes,
                    placement: &Policy::default(),
                    may_even_out: false,
                    epoch: Epoch(1),
                    writer: "test",
                };
                let lost = lost.lock().unwrap().clone();
                let given_up = match (&lost, &map) {
                    (Some(lost), Some(map)) => Some(give_up(map, &facts, lost, false)),
                    _ => None,
                };
                let next = match given_up {
                    Some(GiveUp::Publish(map, _)) => Next::Publish(*map),
                    _ => next_map(map.as_ref(), &facts),
                };
                if let Next::Publish(map) = next {
                    let expected = found.map(|found| found.version);
                    let body = serde_json::to_vec(&map).unwrap().into();
                    let _raced = documents.swap(names::SHARD_MAP, expected.as_ref(), body).await.unwrap();
                }
            }
        });
    }
}
