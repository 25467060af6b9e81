//! Puts a node of a cluster together: its session, the map, the other nodes, and its strategy, each in a task. They end
//! with the last handle on them, or in order through [`Runtime::drain`].

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use brainy_coordination::clock::{Clock, SystemClock};
use brainy_coordination::session::SessionHolder;
use brainy_coordination::session::holder::Identity;
use brainy_coordination::{FencingToken, NodeId, ShardId, names};
use brainy_kubernetes::config::StorageConfig;
use brainy_kubernetes::documents::KubernetesDocuments;
use brainy_kubernetes::in_pod::{Access, NoAccess};
use brainy_kubernetes::map_watch::MapWatch;
use brainy_storage::backends::s3::{Credentials, S3Settings, S3Store};
use brainy_storage::documents::Documents;
use brainy_storage::layers::LayerStack;
use brainy_storage::layers::compression::Compression;
use brainy_storage::layers::observing::Observing;
use brainy_storage::{Error, StorageAdapter};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::isolated::Isolated;
use super::maps::Maps;
use super::nodes::Nodes;
use super::session::{Reporting, SessionLoop};
use super::shared::Shared;
use super::table::Table;
use super::{PeerClient, ShardStores, in_words, stopped};
use crate::config::NodeSettings;

/// Pauses before a store that can't be used is tried again: doubled from the first to the last.
const STORE_RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// Longest time for a graceful stop.
const DRAIN_LIMIT: Duration = Duration::from_secs(25);

/// What a node is made of.
pub(super) struct Parts {
    pub(super) node: NodeId,
    pub(super) pod_uid: String,
    pub(super) address: String,
    pub(super) cluster: String,
    pub(super) shards: u32,
    pub(super) layers: LayerStack,
    pub(super) ttl: Duration,
    pub(super) renew: Duration,
    pub(super) clock: Arc<dyn Clock>,
    /// Where the map is watched, beside the documents.
    pub(super) watch: Option<MapWatch>,
    pub(super) strategy: Strategy,
}

/// Where data lies, and where sessions and the map are.
pub(super) enum Strategy {
    Isolated { documents: Arc<dyn Documents>, data: PathBuf, peers: Arc<dyn PeerClient> },
    Shared { bucket: Arc<dyn SharedBucket> },
}

/// A bucket that all nodes share.
#[async_trait]
pub(super) trait SharedBucket: Send + Sync + 'static {
    /// Proves that the store keeps its word (R7), and opens it.
    async fn open(&self) -> Result<(Arc<dyn Documents>, Arc<dyn ShardStores>), Error>;
}

/// A node at work.
pub(super) struct Runtime {
    stop: watch::Sender<bool>,
    done: watch::Receiver<bool>,
    main: tokio::task::AbortHandle,
    isolated: Arc<Mutex<Option<Arc<Isolated>>>>,
}

impl std::fmt::Debug for Runtime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Runtime").finish_non_exhaustive()
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        self.main.abort();
    }
}

impl Runtime {
    pub(super) fn start(table: Arc<Table>, parts: Parts) -> Self {
        let (stop, stopped) = watch::channel(false);
        let (finished, done) = watch::channel(false);
        let isolated = Arc::new(Mutex::new(None));
        let slot = Arc::clone(&isolated);
        let main = tokio::spawn(async move {
            run(table, parts, slot, stopped).await;
            finished.send_replace(true);
        });
        Self { stop, done, main: main.abort_handle(), isolated }
    }

    /// Stops in order, within a bound.
    pub(super) async fn drain(&self) {
        self.stop.send_replace(true);
        let mut done = self.done.clone();
        // An error means that the tasks are gone already.
        if tokio::time::timeout(DRAIN_LIMIT, done.wait_for(|done| *done)).await.is_err() {
            tracing::warn!("the graceful stop took too long; leases and session are left to lapse");
        }
    }

    pub(super) fn isolated(&self) -> Option<Arc<Isolated>> {
        self.isolated.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }
}

async fn run(
    table: Arc<Table>,
    parts: Parts,
    slot: Arc<Mutex<Option<Arc<Isolated>>>>,
    mut stop: watch::Receiver<bool>,
) {
    let (stopping, renew) = (stop.clone(), parts.renew);
    let (news, reported) = watch::channel(0);
    let (lives, life) = watch::channel(None);
    let mut tasks = JoinSet::new();

    let preparing = prepare(&table, &parts);
    let (documents, stores) = tokio::select! {
        prepared = preparing => prepared,
        () = stopped(&mut stop) => return,
    };
    let maps = Arc::new(Maps::new(Arc::clone(&table), Arc::clone(&documents), parts.cluster.clone()));
    let nodes = Arc::new(Nodes {
        table: Arc::clone(&table),
        documents: Arc::clone(&documents),
        clock: Arc::clone(&parts.clock),
        ttl: parts.ttl,
        observers: Mutex::default(),
        ended: Mutex::default(),
    });
    tasks.spawn(Arc::clone(&maps).run(renew));
    tasks.spawn(Arc::clone(&nodes).run(Arc::clone(&maps), renew));
    if let Some(watch) = parts.watch {
        let maps = Arc::clone(&maps);
        tasks.spawn(watch.run(move |map| maps.offer(map)));
    }

    let (reporting, work): (Arc<dyn Reporting>, _) = match (parts.strategy, stores) {
        (Strategy::Isolated { data, peers, .. }, _) => {
            let isolated = Isolated::new(Arc::clone(&table), maps, nodes, peers, data, life, news);
            // Before the session says anything: what it does not list as stored counts as not there.
            tokio::select! {
                () = isolated.open_volume() => {}
                () = stopped(&mut stop) => return,
            }
            *slot.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(Arc::clone(&isolated));
            (Arc::clone(&isolated) as _, tokio::spawn(isolated.run(stopping)))
        }
        (Strategy::Shared { .. }, Some(stores)) => {
            let shared = Shared::new(Arc::clone(&table), maps, nodes, stores, life, news);
            (Arc::clone(&shared) as _, tokio::spawn(shared.run(stopping)))
        }
        (Strategy::Shared { .. }, None) => return,
    };
    let mut work = AbortOnDrop(work);

    let identity = Identity { node: parts.node, pod_uid: parts.pod_uid, address: parts.address, ttl: parts.ttl };
    let (end_session, session_ends) = watch::channel(false);
    let session = SessionLoop {
        table,
        holder: SessionHolder::new(identity, parts.clock),
        documents,
        reporting,
        news: reported,
        lives,
        renew,
        ttl: parts.ttl,
    };
    let mut session = AbortOnDrop(tokio::spawn(session.run(session_ends)));
    // The leases first, then the session: a session that has ended releases nothing.
    let _ended = (&mut work.0).await;
    end_session.send_replace(true);
    let _ended = (&mut session.0).await;
    tasks.shutdown().await;
}

/// A task that does not outlive its owner.
struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Opens the store, as often as it takes: what is wrong with it may be mended.
async fn prepare(table: &Table, parts: &Parts) -> (Arc<dyn Documents>, Option<Arc<dyn ShardStores>>) {
    let bucket = match &parts.strategy {
        Strategy::Isolated { documents, .. } => return (Arc::clone(documents), None),
        Strategy::Shared { bucket } => bucket,
    };
    let mut pause = STORE_RETRY.0;
    loop {
        match bucket.open().await {
            Ok((documents, stores)) => {
                table.problem("storage", None);
                return (documents, Some(stores));
            }
            Err(error) => table.problem("storage", Some(in_words(&error))),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(STORE_RETRY.1);
    }
}

/// Why a node can't start at all. What may be mended while it runs is no such error.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// This is no pod with a ServiceAccount.
    #[error("no access to the Kubernetes API: {0}; `node` runs in a pod of a BrainyCluster, `serve` runs anywhere")]
    NoKubernetes(#[from] NoAccess),
}

/// The parts of a node in a cluster, from its settings.
pub(super) fn parts(
    settings: &NodeSettings,
    peers: Arc<dyn PeerClient>,
    observing: Observing,
) -> Result<Parts, StartError> {
    let cluster = &settings.cluster;
    let access = Access::of_this_pod()?;
    let watch = MapWatch::new(access.watching(), &cluster.namespace, &cluster.cluster);
    let strategy = match &cluster.storage {
        StorageConfig::Isolated { data } => Strategy::Isolated {
            documents: Arc::new(KubernetesDocuments::new(access.bounded(), &cluster.namespace, &cluster.cluster)),
            data: data.clone(),
            peers,
        },
        StorageConfig::Shared { bucket, prefix, region, endpoint, credentials } => {
            let credentials = credentials.clone().map_or(Credentials::Environment, Credentials::Folder);
            let settings = S3Settings {
                prefix: prefix.clone(),
                region: region.clone(),
                endpoint: endpoint.clone(),
                credentials,
                ..S3Settings::new(bucket)
            };
            Strategy::Shared { bucket: Arc::new(S3Bucket { settings, compression: cluster.layers.compression }) }
        }
    };
    Ok(Parts {
        node: settings.node.clone(),
        pod_uid: settings.pod_uid.clone(),
        address: settings.address.clone(),
        cluster: cluster.uid.clone(),
        shards: cluster.shards,
        layers: LayerStack::new(cluster.layers).observed(observing),
        ttl: Duration::from_secs(cluster.lease_seconds),
        renew: Duration::from_secs(cluster.renew_seconds),
        clock: Arc::new(SystemClock),
        watch: Some(watch),
        strategy,
    })
}

/// The bucket of strategy Shared.
struct S3Bucket {
    settings: S3Settings,
    compression: Option<Compression>,
}

#[async_trait]
impl SharedBucket for S3Bucket {
    async fn open(&self) -> Result<(Arc<dyn Documents>, Arc<dyn ShardStores>), Error> {
        let store = S3Store::open(&self.settings).await?;
        let capabilities = store.prove().await?;
        tracing::info!(?capabilities, "the store keeps its word");
        Ok((Arc::new(store.documents("")), Arc::new(S3Shards { store, compression: self.compression })))
    }
}

/// A shard's storage in the bucket.
#[derive(Debug)]
struct S3Shards {
    store: S3Store,
    compression: Option<Compression>,
}

impl ShardStores for S3Shards {
    fn open(&self, shard: ShardId, _token: FencingToken) -> Result<Arc<dyn StorageAdapter>, Error> {
        let adapter = self.store.adapter(names::shard_data(shard).trim_end_matches('/'));
        Ok(Arc::new(adapter.with_compression(self.compression)))
    }
}
