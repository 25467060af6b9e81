//! Several nodes in one process: real routers, real mutual TLS between them, and ownership as the test wishes.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use brainy_coordination::{NodeId, ShardId};
use brainy_sidecar::http::outlet::Outlet;
use brainy_sidecar::http::server::{self, Connections, PEER_LIMITS, StopSender};
use brainy_sidecar::metrics::Metrics;
use brainy_sidecar::peers::{Certificates, PeerPool, listener};
use brainy_sidecar::routing::{Leave, Owners, Router, Spot};
use brainy_storage::StorageAdapter;
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::app::PATIENCE;
use super::faulty::{Faulty, MemoryStores};
use super::tls::{self, Authority, CLUSTER, NAMESPACE};

pub(crate) const SHARDS: u32 = 12;

/// Who owns what, as all nodes see it, and which nodes have lost their leases without knowing.
#[derive(Debug)]
pub(crate) struct Layout {
    owners: Mutex<HashMap<ShardId, usize>>,
    addresses: Mutex<Vec<String>>,
    changes: watch::Sender<u64>,
}

impl Layout {
    pub(crate) fn give(&self, shard: ShardId, node: Option<usize>) {
        match node {
            Some(node) => self.owners.lock().unwrap().insert(shard, node),
            None => self.owners.lock().unwrap().remove(&shard),
        };
        self.changes.send_modify(|changes| *changes += 1);
    }

    pub(crate) fn set_address(&self, node: usize, address: &str) {
        self.addresses.lock().unwrap()[node] = address.to_owned();
        self.changes.send_modify(|changes| *changes += 1);
    }
}

/// One node's view.
#[derive(Debug)]
pub(crate) struct View {
    me: usize,
    layout: Arc<Layout>,
    stores: Arc<MemoryStores>,
    /// It believes that it owns nothing, whatever the layout says.
    pub(crate) blind: AtomicBool,
    /// Its leases end while operations run.
    pub(crate) loses_leases: AtomicBool,
    /// Shared by all leaves that have not been dropped.
    in_flight: Arc<()>,
}

impl View {
    /// Grows with each operation in flight.
    pub(crate) fn in_use(&self) -> usize {
        Arc::strong_count(&self.in_flight)
    }
}

#[derive(Debug)]
struct TestLeave {
    storage: Arc<dyn StorageAdapter>,
    valid: bool,
    _in_flight: Arc<()>,
}

impl Leave for TestLeave {
    fn storage(&self) -> &Arc<dyn StorageAdapter> {
        &self.storage
    }

    fn still_valid(&self) -> bool {
        self.valid
    }
}

impl Owners for View {
    fn shards(&self) -> u32 {
        SHARDS
    }

    fn spot(&self, shard: ShardId) -> Spot {
        match self.layout.owners.lock().unwrap().get(&shard) {
            None => Spot::Nowhere(format!("shard {shard} has no owner yet")),
            Some(owner) if *owner == self.me && self.blind.load(Ordering::SeqCst) => Spot::Nowhere("not yet".into()),
            Some(owner) if *owner == self.me => Spot::Here(Box::new(TestLeave {
                storage: Arc::new(self.stores.shard(shard)),
                valid: !self.loses_leases.load(Ordering::SeqCst),
                _in_flight: Arc::clone(&self.in_flight),
            })),
            Some(owner) => Spot::Elsewhere(node_id(*owner), self.layout.addresses.lock().unwrap()[*owner].clone()),
        }
    }

    fn next_change(&self) -> BoxFuture<'static, ()> {
        let mut changes = self.layout.changes.subscribe();
        changes.mark_unchanged();
        async move { drop(changes.changed().await) }.boxed()
    }

    fn in_doubt(&self, _: &NodeId) {}

    fn is_over(&self, _: &NodeId) -> bool {
        false
    }
}

pub(crate) fn node_id(node: usize) -> NodeId {
    NodeId(format!("{CLUSTER}-{node}"))
}

/// A node.
pub(crate) struct Node {
    pub(crate) router: Arc<Router>,
    pub(crate) view: Arc<View>,
    pub(crate) stores: Arc<MemoryStores>,
    pub(crate) address: String,
    pub(crate) stop: StopSender,
}

impl Node {
    /// The store of a shard on this node.
    pub(crate) fn shard(&self, shard: ShardId) -> Faulty {
        self.stores.shard(shard)
    }
}

/// A cluster whose shards are dealt round-robin.
pub(crate) struct Cluster {
    pub(crate) layout: Arc<Layout>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) authority: Authority,
}

impl Cluster {
    pub(crate) async fn of(count: usize) -> Self {
        let authority = Authority::new();
        let layout = Arc::new(Layout {
            owners: Mutex::new((0..SHARDS).map(|shard| (ShardId(shard), shard as usize % count)).collect()),
            addresses: Mutex::new(vec![String::new(); count]),
            changes: watch::Sender::new(0),
        });
        let mut nodes = Vec::new();
        for me in 0..count {
            let node = start(me, Arc::clone(&layout), authority.certificates()).await;
            layout.set_address(me, &node.address);
            nodes.push(node);
        }
        Self { layout, nodes, authority }
    }

    /// A key whose shard is owned by a node.
    pub(crate) fn key_of(&self, node: usize) -> (brainy_storage::Key, ShardId) {
        let owners = self.layout.owners.lock().unwrap();
        let found = (0..10_000).map(|number| format!("key-{number}")).find_map(|text| {
            let shard = ShardId::of("", &text, SHARDS);
            (owners.get(&shard) == Some(&node)).then(|| (brainy_storage::Key::new(text).unwrap(), shard))
        });
        found.unwrap()
    }
}

pub(crate) fn pool(certificates: Certificates) -> PeerPool {
    PeerPool::new(certificates, CLUSTER, NAMESPACE)
}

async fn start(me: usize, layout: Arc<Layout>, certificates: Certificates) -> Node {
    let stores = Arc::new(MemoryStores::default());
    let view = Arc::new(View {
        me,
        layout,
        stores: Arc::clone(&stores),
        blind: AtomicBool::new(false),
        loses_leases: AtomicBool::new(false),
        in_flight: Arc::default(),
    });
    let peers = pool(certificates.clone());
    let owners = Arc::clone(&view) as Arc<dyn Owners>;
    let router = Arc::new(Router::new(owners, Some(Arc::new(peers)), PATIENCE, Arc::new(Metrics::default())));
    let listening = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listening.local_addr().unwrap().to_string();
    let (stop, stopped) = server::stop();
    let connections = Connections::new(PEER_LIMITS, stopped);
    let app = listener::app(Arc::clone(&router), None, Outlet::default());
    tokio::spawn(listener::serve(listening, certificates, tls::name(), connections, app));
    Node { router, view, stores, address, stop }
}
