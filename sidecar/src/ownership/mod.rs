//! Which shards this node serves.
//!
//! - `table`: the state of each shard on this node; `tenure`: one time of serving one, with the two checks of R3.
//! - `session`: keeps this node's session, and starts a new life when one is lost (R2, R8).
//! - `maps`: learns of new shard maps.
//! - `control`: elects the controller among the nodes, and is it while this node leads (patterns StorageNative, Consensus).
//! - `consensus`: this node's part in the documents that the nodes keep among them (pattern Consensus).
//! - `nodes`: where the other nodes are, and whether the holder of a lease is still alive (R1).
//! - `shared`: takes and releases shard leases (strategies Shared and Namespaced); `layout`: where the data is then.
//! - `namespaced`: copies and clears away what earlier tenures have left (strategy Namespaced).
//! - `locks`: what the locks of applications know of this node's lives and others'.
//! - `isolated`: follows the map, pulls shards and clears away copies (strategy Isolated).
//! - `volume`: the shards on this node's volume; `handoff`: a shard on its way between two volumes.
//! - `requests`: what this node asks of whoever controls placement.
//! - `actions`: one action per shard at a time.
//! - `node`: puts a node of a cluster together from its settings; `proof`: whether its store keeps its word (R7).

mod actions;
mod consensus;
mod control;
mod freed;
mod handoff;
mod isolated;
mod layout;
mod locks;
mod maps;
mod namespaced;
mod node;
mod nodes;
mod proof;
mod requests;
mod room;
mod session;
mod shared;
#[cfg(test)]
mod simulation;
mod table;
mod takes;
mod tenure;
#[cfg(test)]
mod tests;
mod volume;

use std::fmt::Debug;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use brainy_coordination::bucket::election::Told;
use brainy_coordination::clock::Validity;
use brainy_coordination::consensus::group::Group;
use brainy_coordination::consensus::wire::{Answer, Question, Unanswered};
use brainy_coordination::origins::Origin;
use brainy_coordination::{FencingToken, NodeId, ShardId};
use brainy_storage::backends::s3::Capabilities;
use brainy_storage::layers::LayerStack;
use brainy_storage::layers::batching::BufferCounts;
use brainy_storage::layers::caching::CacheCounts;
use brainy_storage::layers::limiting::LimitCounts;
use brainy_storage::layers::observing::Observing;
use brainy_storage::layers::regions::{Plan, RegionCounts, Regions, RegionsState};
use brainy_storage::layers::tiering::{TieringCounts, TieringState, Tiers};
use brainy_storage::{Error, StorageAdapter};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::{broadcast, watch};

pub use freed::Freed;
pub use node::StartError;
pub use requests::{AskError, MOST_WISHES, Wish};
pub use tenure::Operation;

use crate::config::NodeSettings;
use crate::data_folder::Engine;
use crate::gated::in_words;
use crate::locks::Locks;

/// Longest wait for operations in flight when a process that runs alone stops.
const IN_FLIGHT_LIMIT: Duration = Duration::from_secs(10);

/// Decides which shards this node serves. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Ownership {
    table: Arc<table::Table>,
    role: Role,
    locks: locks::Slot,
}

/// How the process came to its shards.
#[derive(Clone, Debug)]
enum Role {
    /// It runs alone, over these.
    Alone(Arc<dyn ShardStores>),
    /// It is a node of a cluster.
    Node(Arc<node::Runtime>),
}

/// Where an operation on a shard goes.
#[derive(Debug)]
pub enum Place {
    /// To this node's storage.
    Here(Operation),
    /// To another node.
    Elsewhere {
        /// Which.
        node: NodeId,
        /// `host:port` of its node-to-node listener.
        address: String,
    },
    /// Nowhere at the moment: the shard has no server, or its server's address is not known.
    Nowhere {
        /// Why, in words for a client.
        why: String,
    },
}

/// What this node knows of a shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ShardView {
    /// Which.
    pub shard: ShardId,
    /// The node that serves it, or should.
    pub owner: Option<NodeId>,
    /// The fencing token that this node knows.
    pub token: FencingToken,
    /// Its state on this node.
    pub state: ShardState,
    /// Since when (RFC 3339).
    pub since: String,
    /// What this node wishes of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wish: Option<Wish>,
    /// More on the state, in words: what it waits for, and by whose wish the shard is where it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// The tenures before, whose data it is read through to until it is copied, newest first (strategy Namespaced).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub origins: Vec<Origin>,
    /// The tenures whose data is copied, and not cleared away for good yet (strategy Namespaced).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub surplus: Vec<Origin>,
    /// How many objects were copied from them so far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copied: Option<u64>,
}

/// State of a shard on this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ShardState {
    /// Served here.
    Serving,
    /// Ours by the map, not yet served: `why` says what it waits for.
    Waiting,
    /// Served here until a moment ago: operations in flight are ending.
    Stopping,
    /// Another node's.
    Elsewhere,
    /// No node's.
    Unassigned,
}

/// How this node is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    /// It has a session and serves every shard that is its own to serve, or none is.
    pub ready: bool,
    /// Why it can't, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// Shards that it serves.
    pub held: usize,
    /// Shards that the map gives it.
    pub assigned: usize,
    /// Revision of the newest shard map it has acted on; 0: none yet.
    pub map_revision: u64,
    /// It wishes to own no shard.
    #[serde(default)]
    pub draining: bool,
    /// Its session stands: it may act on its shards.
    pub session_valid: bool,
    /// How often a session of this process came to its end.
    pub sessions_lost: u64,
    /// Tenures before, over all shards that it serves, whose data is not copied yet (strategy Namespaced).
    pub origins: usize,
}

/// What the store below was proved to do when it was put to the test last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StoreProof {
    /// When (RFC 3339).
    pub at: String,
    /// It was proved to do all that safety rests on. Otherwise it is not used.
    pub passed: bool,
    /// Which check failed, and how.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// What it can do, where it passed.
    #[serde(flatten)]
    pub capabilities: Option<Capabilities>,
}

/// Gives the storage of a shard.
pub trait ShardStores: Debug + Send + Sync + 'static {
    /// Opens a shard's storage under a fencing token. May block on files.
    fn open(&self, shard: ShardId, token: FencingToken) -> Result<Arc<dyn StorageAdapter>, Error>;

    /// Why nothing more can be written before the process is started again, if that is so.
    fn failure(&self) -> Option<Error> {
        None
    }
}

/// Asks for a piece of a shard on its way to this node. Body of `POST /internal/shards/{shard}:copy` on the node-to-node
/// listener; the answer is the piece.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HandoffRequest {
    /// Revision of the map that orders the move: the owner reads the map again if its own is older.
    pub map_revision: u64,
    /// The token that the shard moves under: it names the tenure that is to end.
    pub token: FencingToken,
    /// The node that asks.
    pub to: NodeId,
    /// Which copy the piece is of: a name that the node which asks has made up.
    pub copy: String,
    /// Its number, from 0: the one after the last that was received, or that one once more.
    pub piece: u64,
    /// All pieces before are on the disk there: the shard may be stopped for the rest.
    pub stop: bool,
}

/// Tells the controller that a node has renewed its session. Body of `POST /internal/renewed` on the node-to-node listener;
/// the answer's body is a [`Told`], or nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Renewed {
    /// Which node.
    pub node: NodeId,
    /// The record, as it was written.
    pub record: String,
    /// The version at which it stands.
    pub version: String,
}

/// Why a piece of a shard is not sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HandoffError {
    /// Not to this node, not now, or not this copy (409 on the wire): begin anew, or not at all.
    #[error("{0}")]
    Refused(String),
    /// Ask for the same piece again (503 on the wire, or no answer).
    #[error("{0}")]
    Later(String),
}

/// How to ask another node.
#[async_trait]
pub trait PeerClient: Debug + Send + Sync + 'static {
    /// Asks `node` at `address` (`host:port`) for a piece of a shard. Bounded.
    async fn handoff(
        &self,
        node: &NodeId,
        address: &str,
        shard: ShardId,
        request: &HandoffRequest,
    ) -> Result<Bytes, HandoffError>;

    /// Tells `node` that there is something new in the store, so that it looks at once. A node that is not told finds out
    /// by itself, a renewal later.
    async fn nudge(&self, _node: &NodeId, _address: &str) -> Result<(), std::io::Error> {
        Ok(())
    }

    /// Tells `node` that leases that are to be its own were released. A node that is not told finds out at its next try.
    async fn freed(&self, _node: &NodeId, _address: &str, _freed: &Freed) -> Result<(), std::io::Error> {
        Ok(())
    }

    /// Tells `node` that a session was renewed. Whoever is not told sees it at its next look. It answers how the election
    /// stands, if it holds it.
    async fn renewed(
        &self,
        _node: &NodeId,
        _address: &str,
        _renewed: &Renewed,
    ) -> Result<Option<Told>, std::io::Error> {
        Ok(None)
    }

    /// Asks `node` about the documents that the nodes keep among them, at the address that goes with its name: the one in its
    /// session is kept among them too. Bounded.
    async fn consult(&self, node: &NodeId, _question: &Question) -> Result<Answer, Unanswered> {
        Err(Unanswered::NotSent(format!("node {node} can't be asked here")))
    }
}

impl Ownership {
    /// Serves all shards from one process, with no coordination: the embedded default. Shards are opened when first
    /// asked for.
    pub fn standalone(shards: u32, stores: Arc<dyn ShardStores>, layers: LayerStack) -> Self {
        let table = table::Table::new(NodeId("standalone".into()), shards, layers);
        table.serve_all(Arc::clone(&stores), Validity::unbounded());
        let locks = locks::Slot::alone(table.node().clone());
        Self { table, role: Role::Alone(stores), locks }
    }

    /// Takes part in a cluster; `observing` watches the shards' stores, by the backend. Returns at once: what is in the way of serving
    /// shows in [`status`](Self::status) and is tried again. When the last clone is dropped, everything stops as if the
    /// process had died; [`drain`](Self::drain) is the graceful way.
    pub fn start(
        settings: &NodeSettings,
        peers: Arc<dyn PeerClient>,
        observing: impl Fn(&'static str) -> Observing,
    ) -> Result<Self, StartError> {
        Ok(Self::assemble(node::parts(settings, peers, observing)?))
    }

    fn assemble(parts: node::Parts) -> Self {
        let table = table::Table::new(parts.node.clone(), parts.shards, parts.layers.clone());
        let locks = locks::Slot::default();
        let runtime = node::Runtime::start(Arc::clone(&table), parts, locks.clone());
        Self { table, role: Role::Node(Arc::new(runtime)), locks }
    }

    /// Why nothing more can be written before the process is started again, if that is so.
    pub fn failure(&self) -> Option<String> {
        let failure = match &self.role {
            Role::Alone(stores) => stores.failure(),
            Role::Node(runtime) => runtime.isolated().and_then(|isolated| isolated.failure()),
        };
        failure.map(|error| in_words(&error))
    }

    /// In what the volume keeps its data, where there is one and it is open.
    pub fn volume_engine(&self) -> Option<Engine> {
        match &self.role {
            Role::Alone(_) => None,
            Role::Node(runtime) => runtime.isolated()?.engine(),
        }
    }

    /// How often the cache had the answer; `None`: there is no cache.
    pub fn cache_counts(&self) -> Option<CacheCounts> {
        self.table.cache_counts()
    }

    /// What was acknowledged before it was durable; `None`: nothing ever is.
    pub fn buffer_counts(&self) -> Option<BufferCounts> {
        self.table.buffer_counts()
    }

    /// How busy storage is; `None`: it is not limited.
    pub fn limit_counts(&self) -> Option<LimitCounts> {
        self.table.limit_counts()
    }

    /// The tiers of this node's shards; `None`: they have one.
    pub fn tiers(&self) -> Option<&Tiers> {
        self.table.tiers()
    }

    /// How these stand, and what they have done; `None`: shards have one tier.
    pub fn tiering_figures(&self) -> Option<(TieringState, TieringCounts)> {
        Some((self.tiering_state()?, self.tiers()?.counts()))
    }

    /// How these stand.
    pub fn tiering_state(&self) -> Option<TieringState> {
        self.table.tiering_state()
    }

    /// The regions of this node's shards, and what they are; `None`: they are in one.
    pub fn regions(&self) -> Option<(&Regions, &Plan)> {
        self.table.regions()
    }

    /// How these stand.
    pub fn regions_state(&self) -> Option<RegionsState> {
        self.table.regions_state()
    }

    /// How these stand, and what was done for them; `None`: shards are in one region.
    pub fn regions_figures(&self) -> Option<(RegionsState, RegionCounts)> {
        Some((self.regions_state()?, self.regions()?.0.counts()))
    }

    /// This node.
    pub fn node(&self) -> &NodeId {
        self.table.node()
    }

    /// How many shards the cluster has.
    pub fn shards(&self) -> u32 {
        self.table.shards()
    }

    /// Where an operation on a shard goes now: the first check of R3. [`Place::Here`] counts as in flight until dropped.
    pub fn place(&self, shard: ShardId) -> Place {
        self.table.place(shard)
    }

    /// The locks of applications. `None`: there is no store that all nodes share, or it is not open yet.
    pub fn locks(&self) -> Option<Arc<Locks>> {
        self.locks.get()
    }

    /// Offers these locks in place of its own.
    #[must_use]
    pub fn with_locks(self, locks: Locks) -> Self {
        self.locks.set(locks);
        self
    }

    /// Resolves at the next change of any shard's place after this call (not after the first poll): take it before
    /// [`place`](Self::place), and no change is missed. Bound it by a timeout.
    pub fn changed(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut changes = self.table.changes();
        async move {
            // An error means that the table is gone: nothing will change any more.
            if changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// What this node knows of a shard.
    pub fn describe(&self, shard: ShardId) -> ShardView {
        self.table.describe(shard)
    }

    /// Changes of shards as they happen. A receiver that lags loses the oldest.
    pub fn watch(&self) -> broadcast::Receiver<ShardView> {
        self.table.watch()
    }

    /// How this node is doing.
    pub fn status(&self) -> NodeStatus {
        self.table.status()
    }

    /// What the store was proved to do; `None`: it needs no proof, or the first has not ended yet.
    pub fn store_proof(&self) -> Option<StoreProof> {
        self.table.store_proof()
    }

    /// `node` did not answer at its address, or says that it is not the owner of what it was asked for: reads the map and
    /// the addresses again, soon.
    pub fn doubt(&self, node: &NodeId) {
        tracing::debug!(%node, "in doubt");
        self.table.doubt();
    }

    /// Whether a node's session was over when it was looked at last: what it was asked before it will not acknowledge (R3).
    pub fn is_over(&self, node: &NodeId) -> bool {
        self.table.is_over(node)
    }

    /// Another node says that there is something new in the store: looks at once.
    pub fn look_again(&self) {
        self.table.nudge();
    }

    /// Another node has released leases that this one may be waiting for.
    pub fn freed(&self, freed: Freed) {
        self.table.free(freed.leases);
    }

    /// Another node has renewed its session: for the controller, which answers how the election stands.
    pub fn hear(&self, renewed: Renewed) -> Option<Told> {
        self.table.hear(renewed)
    }

    /// Answers another node, or an operator, about the documents that the nodes keep among them (pattern Consensus).
    pub async fn consult(&self, question: Question) -> Answer {
        match self.group() {
            Some(group) => group.answer(question).await,
            None => Answer::Refused("this node keeps no documents: the cluster's pattern is not Consensus".into()),
        }
    }

    fn group(&self) -> Option<Arc<Group>> {
        match &self.role {
            Role::Node(runtime) => runtime.group(),
            Role::Alone(_) => None,
        }
    }

    /// The owner's side of a hand-off: a piece of the shard, which is served on; or, where it was asked to stop it for the rest,
    /// stopped for good under this token once what is in flight has ended (bounded).
    pub async fn serve_handoff(&self, shard: ShardId, request: HandoffRequest) -> Result<Bytes, HandoffError> {
        let isolated = match &self.role {
            Role::Node(runtime) => runtime.isolated(),
            Role::Alone(_) => None,
        };
        match isolated {
            Some(isolated) => isolated.hand_off(shard, request).await,
            None => Err(HandoffError::Refused(format!("shard {shard} does not move between volumes here"))),
        }
    }

    /// Graceful stop: takes no new shard, lets in-flight operations end (bounded), makes durable what was acknowledged,
    /// releases what it holds and ends its
    /// session. Returns when that is done or its time is up.
    pub async fn drain(&self) {
        match &self.role {
            Role::Node(runtime) => runtime.drain().await,
            Role::Alone(_) => {
                let stopped = self.table.stop_all("the process is stopping");
                futures::future::join_all(stopped.iter().map(|tenure| tenure.end(IN_FLIGHT_LIMIT))).await;
            }
        }
    }
}

/// Resolves when the node is to stop.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error means that whoever could say so is gone, which comes to the same.
    let _gone = stop.wait_for(|stop| *stop).await;
}
