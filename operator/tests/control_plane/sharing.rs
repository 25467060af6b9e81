//! The played sidecars of strategies Namespaced and Shared, and the election among nodes. Who may take a lease decides production's own
//! [`may_take`], who is the controller its [`Elector`], and what the map says next its [`Look`]. There is no data behind the leases.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use brainy_coordination::bucket::Error;
use brainy_coordination::bucket::election::{Election, News, NodesLock, Notices, Told};
use brainy_coordination::bucket::look::{Look, Memory, Office};
use brainy_coordination::bucket::spec::{self, ClusterSpec};
use brainy_coordination::clock::SystemClock;
use brainy_coordination::controller::Rules;
use brainy_coordination::elector::{Elector, Settings, Term};
use brainy_coordination::lease::{HolderSession, ShardLease, Take, Taker, may_take, release};
use brainy_coordination::session::{HeldShard, SessionRecord};
use brainy_coordination::{Epoch, Incarnation, NodeId, ShardId, ShardMap, names};
use brainy_kubernetes::config::{BucketConfig, NodeConfig, StorageConfig};
use brainy_storage::documents::{Documents, Swap};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::time::sleep;

use crate::lives::Word;

/// Between two looks at what no event tells of.
const LOOK: Duration = Duration::from_millis(100);

/// The leases of one node's life, in its bucket.
pub(crate) struct Leases {
    /// The bucket.
    documents: Arc<dyn Documents>,
    config: NodeConfig,
    node: NodeId,
    incarnation: Incarnation,
}

impl Leases {
    /// None are held yet.
    pub(crate) fn new(
        documents: Arc<dyn Documents>,
        config: NodeConfig,
        node: NodeId,
        incarnation: Incarnation,
    ) -> Self {
        Self { documents, config, node, incarnation }
    }

    fn name(&self, shard: ShardId) -> String {
        match self.config.storage {
            StorageConfig::Namespaced(_) => names::shard_lease(shard),
            _ => names::shard_lock(shard),
        }
    }

    /// Takes what the map gives to this node, and releases what it gives to others: what the node has to say then. `coordination`: where
    /// map and sessions are.
    pub(crate) async fn follow(&self, coordination: &dyn Documents) -> Word {
        let map = read::<ShardMap>(coordination, names::SHARD_MAP).await;
        // Of a cluster whose place was adopted nobody goes by the map.
        let map = map.filter(|map| map.cluster == self.config.uid);
        let mut holds = Vec::new();
        for shard in (0..self.config.shards).map(ShardId) {
            let is_ours = map.as_ref().is_some_and(|map| map.owner(shard) == Some(&self.node));
            if let Some(held) = self.one(coordination, shard, is_ours).await {
                holds.push(held);
            }
        }
        Word::of(map.map_or(0, |map| map.revision), holds)
    }

    /// Releases all of them.
    pub(crate) async fn release(&self, coordination: &dyn Documents) {
        for shard in (0..self.config.shards).map(ShardId) {
            self.one(coordination, shard, false).await;
        }
    }

    /// What is held of it then.
    async fn one(&self, coordination: &dyn Documents, shard: ShardId, is_ours: bool) -> Option<HeldShard> {
        let name = self.name(shard);
        loop {
            let found = self.documents.read(&name).await.unwrap();
            let lease = found.as_ref().map(|found| serde_json::from_slice::<ShardLease>(&found.body).unwrap());
            let holds = lease.as_ref().is_some_and(|lease| {
                lease.owner.as_ref() == Some(&self.node) && lease.incarnation.as_ref() == Some(&self.incarnation)
            });
            let next = match (is_ours, &lease) {
                (true, lease) => {
                    let holder = match lease.as_ref().and_then(|lease| lease.owner.as_ref()) {
                        Some(owner) => read::<SessionRecord>(coordination, &names::session(owner)).await,
                        None => None,
                    };
                    let session = holder.as_ref().map_or(HolderSession::Missing, HolderSession::Found);
                    let taker = Taker { node: &self.node, incarnation: &self.incarnation, now: "" };
                    match may_take(shard, lease.as_ref(), session, &taker) {
                        Take::Ours(token) => return Some(HeldShard { shard, token }),
                        Take::Wait(_) => return None,
                        Take::Write(next) => next,
                    }
                }
                (false, Some(lease)) if holds => release(lease, "", "the map gives it to another"),
                (false, _) => return None,
            };
            assert!(lease.as_ref().is_none_or(|lease| lease.token <= next.token), "a token falls: {lease:?} {next:?}");
            let version = found.as_ref().map(|found| &found.version);
            // Whoever was quicker is looked at again.
            if let Swap::Applied(_) = self.documents.swap(&name, version, body(&next)).await.unwrap() {
                return is_ours.then_some(HeldShard { shard, token: next.token });
            }
        }
    }
}

/// A document, if there is one.
pub(crate) async fn read<T: DeserializeOwned>(documents: &dyn Documents, name: &str) -> Option<T> {
    let found = documents.read(name).await.unwrap()?;
    Some(serde_json::from_slice(&found.body).unwrap())
}

fn body(document: &impl Serialize) -> bytes::Bytes {
    serde_json::to_vec(document).unwrap().into()
}

/// The bucket that a node keeps its data in.
pub(crate) fn bucket(config: &NodeConfig) -> Option<&BucketConfig> {
    match &config.storage {
        StorageConfig::Isolated { .. } => None,
        StorageConfig::Namespaced(bucket) | StorageConfig::Shared(bucket) => Some(bucket),
    }
}

/// Nobody is told anything: whoever wants to know reads.
#[derive(Debug)]
struct Mute;

#[async_trait]
impl Notices for Mute {
    fn news(&self) -> News {
        News::default()
    }

    fn heard(&self, _: &Election) {}

    fn wrote(&self, _: Told) {}

    fn told(&self) -> Option<Told> {
        None
    }
}

/// A candidate of the nodes' election.
#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    /// Where election, spec, map and sessions are.
    pub(crate) documents: Arc<dyn Documents>,
    /// UID of the cluster.
    pub(crate) cluster: String,
    /// How many shards it has.
    pub(crate) shards: u32,
    /// By which they are placed.
    pub(crate) rules: Rules,
    /// Unique to the life of the node.
    pub(crate) identity: String,
    /// Of a term.
    pub(crate) ttl: Duration,
}

impl Candidate {
    /// Is one whenever the spec beside the documents says so, until `stop`: then it leads no more, and the office is free.
    pub(crate) async fn run(self, stop: watch::Receiver<bool>) {
        while !*stop.borrow() {
            if self.spec().await.is_none() {
                sleep(LOOK).await;
                continue;
            }
            let settings = Settings {
                identity: self.identity.clone(),
                ttl: self.ttl,
                renew: self.ttl / 2,
                look: LOOK,
                call_limit: Duration::from_secs(5),
            };
            let lock = NodesLock::new(Arc::clone(&self.documents), Arc::new(Mute));
            let elector = Elector::new(lock.clone(), Arc::new(SystemClock), settings);
            let over = async {
                while !*stop.borrow() && self.spec().await.is_some() {
                    sleep(LOOK).await;
                }
            };
            let this = self.clone();
            elector.run(over, move |term| this.clone().lead(lock.clone(), term)).await;
        }
    }

    /// The spec, while it wants a node to be the controller.
    async fn spec(&self) -> Option<ClusterSpec> {
        let spec = spec::find(&*self.documents).await.unwrap();
        spec.filter(|spec| spec.cluster == self.cluster && spec.pattern.is_by_nodes())
    }

    async fn lead(self, lock: NodesLock, term: Term) {
        let mut memory = Memory::default();
        while term.is_valid() {
            let Some(spec) = self.spec().await else { return };
            let mut look = Look {
                documents: &*self.documents,
                cluster: &self.cluster,
                shards: self.shards,
                rules: self.rules,
                wanted: &spec.nodes,
                volumes: &spec.volumes,
                placement: &spec.placement,
                clock: &SystemClock,
                published: 0,
                memory: &mut memory,
            };
            let holds = || term.is_valid();
            let office = Office { holder: &self.identity, epoch: Epoch(term.transitions), holds: &holds };
            if let Err(Error::Deposed { theirs, .. }) = look.control(&office).await {
                // A race of both is looked at again.
                lock.lift(theirs).await.ok();
                return term.resign();
            }
            sleep(LOOK).await;
        }
    }
}
