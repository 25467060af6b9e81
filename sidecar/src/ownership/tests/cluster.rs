//! The cluster under test.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use brainy_coordination::bucket::election::Election;
use brainy_coordination::bucket::spec::{ClusterSpec, Pattern};
use brainy_coordination::clock::SystemClock;
use brainy_coordination::consensus::Pace;
use brainy_coordination::consensus::client::Client;
use brainy_coordination::consensus::group::{self, Group};
use brainy_coordination::controller::Rules;
use brainy_coordination::lease::ShardLease;
use brainy_coordination::session::{HeldShard, SessionRecord};
use brainy_coordination::{FencingToken, NodeId, ShardId, ShardMap, names};
use brainy_storage::backends::memory::MemoryDocuments;
use brainy_storage::documents::{Documents, Swap};
use brainy_storage::layers::batching::{Ack, Batching};
use brainy_storage::layers::caching::CacheSize;
use brainy_storage::layers::regions::{Regions, Replication};
use brainy_storage::layers::tiering::{Tiering, Tiers};
use brainy_storage::layers::{LayerStack, Layers};
use brainy_storage::{Key, Outcome};
use bytes::Bytes;

use super::super::consensus::{self, OverPeers};
use super::super::handoff::{BYTES_PER_SECOND, Throttle};
use super::super::node::{Parts, Strategy};
use super::super::volume::OnDisk;
use super::super::{Ownership, Place};
use super::links::{Bucket, Data, Link};
use super::objects::{FarRegion, Objects};
use super::peers::{Peers, Wanted, Ways};
use crate::data_folder::{Engine, Kind};

pub(super) const SHARDS: u32 = 12;
/// No test may take longer, and none checks how long it took.
pub(super) const PATIENCE: Duration = Duration::from_secs(120);

/// What clients were told of one shard.
#[derive(Clone, Copy, Debug, Default)]
struct Told {
    value: i64,
    token: FencingToken,
    acknowledged: u64,
}

pub(super) struct Cluster {
    pub(super) rules: Rules,
    /// Where the test reads what stands.
    documents: Arc<dyn Documents>,
    /// Where the nodes keep it, if not among them.
    pub(super) store: MemoryDocuments,
    /// They keep it among them.
    consensus: bool,
    generation: Arc<AtomicU64>,
    data: Data,
    /// Where members keep their logs, where nodes have no volumes.
    logs: tempfile::TempDir,
    peers: Peers,
    pub(super) ttl: Duration,
    renew: Duration,
    layers: Layers,
    /// Its volumes are hot tiers, and this is the cold one.
    cold: Option<Objects>,
    /// Its data is in another region too: in this bucket.
    far: Option<Objects>,
    pub(super) pattern: Arc<Mutex<Pattern>>,
    /// There is no operator.
    pub(super) deserted: Arc<AtomicBool>,
    pub(super) nodes: Arc<Mutex<BTreeMap<NodeId, Ownership>>>,
    pub(super) wanted: Arc<Mutex<Vec<NodeId>>>,
    /// To be given up (strategy Isolated).
    pub(super) lost: Arc<Mutex<Option<NodeId>>>,
    told: Arc<Mutex<Vec<Told>>>,
    pub(super) tasks: tokio::task::JoinSet<()>,
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
            cold: None,
            far: None,
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

    /// Nodes that start from now on have a cold tier.
    pub(super) fn tiered(mut self) -> Self {
        self.cold = Some(Objects::default());
        self
    }

    /// The bucket of the cold tier.
    pub(super) fn cold(&self) -> &Objects {
        self.cold.as_ref().unwrap()
    }

    /// Nodes that start from now on are in region `eu`, and there is a region `us`.
    pub(super) fn in_regions(mut self) -> Self {
        self.far = Some(Objects::default());
        self.layers.caching = None;
        self
    }

    /// The bucket of the other region.
    pub(super) fn far(&self) -> &Objects {
        self.far.as_ref().unwrap()
    }

    fn layers(&self) -> LayerStack {
        let layers = LayerStack::new(self.layers);
        let layers = match &self.far {
            Some(far) => layers.in_regions(Regions::new(Replication::default()), Arc::new(FarRegion::new(far))),
            None => layers,
        };
        match &self.cold {
            Some(cold) => {
                let tiering = Tiering { promote_after_reads: 1, ..Tiering::default() };
                layers.tiered(Tiers::new(tiering), Arc::new(cold.clone()))
            }
            None => layers,
        }
    }

    /// Starts a node, wanted from now on, in a pod with this UID.
    pub(super) fn start(&self, name: &str, pod_uid: &str) -> Arc<Link> {
        let link = Arc::new(Link::over(self.store.clone()));
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
        let kind = Kind { engine: Engine::Embedded, tiered: self.cold.is_some() };
        let strategy = match &self.data {
            Data::Volumes(_) => Strategy::Isolated {
                documents: group.as_ref().map_or_else(|| Arc::clone(&link) as _, |group| group.documents()),
                volumes: Arc::new(OnDisk { data: self.volume(name), kind }),
                peers: Arc::new(peers),
                throttle: Throttle::new(BYTES_PER_SECOND),
                gauge: None,
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
            layers: self.layers(),
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
}
