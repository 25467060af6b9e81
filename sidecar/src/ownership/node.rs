//! Puts a node of a cluster together: its session, the map, the other nodes, and its strategy, each in a task. They end
//! with the last handle on them, or in order through [`Runtime::drain`].

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use brainy_coordination::bucket::must_own;
use brainy_coordination::clock::{Clock, SystemClock};
use brainy_coordination::consensus::Pace;
use brainy_coordination::consensus::group::{self, Group};
use brainy_coordination::consensus::wire;
use brainy_coordination::controller::{MOVES_AT_ONCE, Rules};
use brainy_coordination::session::holder::Identity;
use brainy_coordination::session::{SessionHolder, SharedObservers};
use brainy_coordination::{FencingToken, NodeId, ShardId, names};
use brainy_kubernetes::config::{BucketConfig, ConsensusConfig, StorageConfig};
use brainy_kubernetes::documents::KubernetesDocuments;
use brainy_kubernetes::in_pod::{Access, NoAccess};
use brainy_kubernetes::map_watch::MapWatch;
use brainy_storage::backends::objects::{Bucket, BucketStore};
use brainy_storage::backends::s3::{Credentials, S3Settings, S3Store};
use brainy_storage::documents::Documents;
use brainy_storage::layers::LayerStack;
use brainy_storage::layers::compression::Compression;
use brainy_storage::layers::observing::Observing;
use brainy_storage::layers::regions::Regions;
use brainy_storage::layers::tiering::Tiers;
use brainy_storage::{Error, StorageAdapter};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::consensus::{self, OverPeers, WishFile};
use super::control::Control;
use super::freed;
use super::handoff::{BYTES_PER_SECOND, Throttle};
use super::isolated::Isolated;
use super::layout::{Layout, OnePlace};
use super::locks::{OfNodes, Slot};
use super::maps::{MapSource, Maps};
use super::namespaced::{LATEST, Namespaces};
use super::nodes::Nodes;
use super::proof::{self, PROVE_EVERY, Proof};
use super::session::{Reporting, SessionLoop};
use super::shared::Shared;
use super::table::Table;
use super::volume::{OnDisk, Volumes};
use super::{PeerClient, ShardStores, in_words, stopped};
use crate::cold::{Claimant, ColdBucket, DiskGauge};
use crate::config::NodeSettings;
use crate::data_folder::Kind;
use crate::host;
use crate::locks::Locks;
use crate::regions::{self, OtherRegions};

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
    pub(super) watch: Option<Arc<dyn MapSource>>,
    pub(super) strategy: Strategy,
    /// This node's part in the documents, where the nodes keep them among them (pattern Consensus).
    pub(super) group: Option<Arc<Group>>,
    /// Between two proofs of the store, about.
    pub(super) prove_every: Duration,
}

/// Where data lies, and where sessions and the map are, if not with the nodes.
pub(super) enum Strategy {
    Isolated {
        documents: Arc<dyn Documents>,
        volumes: Arc<dyn Volumes>,
        peers: Arc<dyn PeerClient>,
        /// How fast shards are sent that are served meanwhile.
        throttle: Throttle,
        /// For who must know how full the volume is.
        gauge: Option<DiskGauge>,
    },
    /// Shared or Namespaced.
    Bucket { bucket: Arc<dyn SharedBucket>, peers: Arc<dyn PeerClient> },
}

/// A bucket that all nodes share.
#[async_trait]
pub(super) trait SharedBucket: Send + Sync + 'static {
    /// Prepares it for use; of several regions it is found out what it is.
    async fn open(&self) -> Result<OpenBucket, Error>;
}

/// A bucket ready for use, if it passes the proof.
#[derive(Clone)]
pub(super) struct OpenBucket {
    pub(super) documents: Arc<dyn Documents>,
    pub(super) layout: Arc<dyn Layout>,
    pub(super) proof: Arc<dyn Proof>,
}

/// How a time of serving ended.
enum Ended {
    /// In order.
    Stopped,
    /// The store was found not to keep its word (R7), or to be another cluster's: nothing more may be written to it.
    Distrusted(Error),
}

/// A node at work.
pub(super) struct Runtime {
    stop: watch::Sender<bool>,
    done: watch::Receiver<bool>,
    main: tokio::task::AbortHandle,
    isolated: Arc<Mutex<Option<Arc<Isolated>>>>,
    group: Option<Arc<Group>>,
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
    pub(super) fn start(table: Arc<Table>, parts: Parts, locks: Slot) -> Self {
        let (stop, stopped) = watch::channel(false);
        let (finished, done) = watch::channel(false);
        let isolated = Arc::new(Mutex::new(None));
        let slot = Arc::clone(&isolated);
        let group = parts.group.clone();
        let main = host::spawn(async move {
            run(table, parts, slot, locks, stopped).await;
            finished.send_replace(true);
        });
        Self { stop, done, main: main.abort_handle(), isolated, group }
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

    pub(super) fn group(&self) -> Option<Arc<Group>> {
        self.group.clone()
    }

    pub(super) fn isolated(&self) -> Option<Arc<Isolated>> {
        self.isolated.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }
}

async fn run(
    table: Arc<Table>,
    parts: Parts,
    slot: Arc<Mutex<Option<Arc<Isolated>>>>,
    locks: Slot,
    stop: watch::Receiver<bool>,
) {
    // Whatever becomes of the store: the others may need this member.
    let member = parts.group.clone().map(|group| {
        let part = consensus::take_part(Arc::clone(&group), Arc::clone(&table));
        (AbortOnDrop(host::spawn(part)), group)
    });
    serve_whenever_possible(&table, &parts, (&slot, &locks), stop).await;
    if let Some((mut part, group)) = member {
        part.end().await;
        group.shut_down().await;
    }
}

/// Takes part in the cluster until `stop`, whenever there is a store that keeps its word.
async fn serve_whenever_possible(
    table: &Arc<Table>,
    parts: &Parts,
    handles: (&Mutex<Option<Arc<Isolated>>>, &Slot),
    mut stop: watch::Receiver<bool>,
) {
    loop {
        let (documents, bucket) = tokio::select! {
            biased;
            prepared = prepare(table, parts) => prepared,
            () = stopped(&mut stop) => return,
        };
        match Box::pin(serve(table, parts, documents, bucket, handles, stop.clone())).await {
            Ended::Stopped => return,
            // From here on it is as it was before the first proof.
            Ended::Distrusted(error) => table.problem("storage", Some(in_words(&error))),
        }
    }
}

/// Takes part in the cluster until `stop`, or until the store proves not to keep its word.
async fn serve(
    table: &Arc<Table>,
    parts: &Parts,
    documents: Arc<dyn Documents>,
    bucket: Option<OpenBucket>,
    (slot, locks): (&Mutex<Option<Arc<Isolated>>>, &Slot),
    mut stop: watch::Receiver<bool>,
) -> Ended {
    let (stopping, renew) = (stop.clone(), parts.renew);
    let (news, reported) = watch::channel(0);
    let (lives, life) = watch::channel(None);
    let (announced, announcements) = watch::channel(0);
    let (stands, session_stands) = watch::channel(None);
    let (release, released) = mpsc::unbounded_channel();
    let mut tasks = JoinSet::new();

    let maps = Arc::new(Maps::new(Arc::clone(table), Arc::clone(&documents), parts.cluster.clone()));
    let nodes = Arc::new(Nodes {
        table: Arc::clone(table),
        documents: Arc::clone(&documents),
        clock: Arc::clone(&parts.clock),
        ttl: parts.ttl,
        observers: Mutex::default(),
        sessions: SharedObservers::default(),
        ended: Mutex::default(),
    });
    let control = parts.controllers().map(|(peers, rules)| {
        Arc::new(Control {
            table: Arc::clone(table),
            maps: Arc::clone(&maps),
            documents: Arc::clone(&documents),
            clock: Arc::clone(&parts.clock),
            peers,
            sessions: nodes.sessions.clone(),
            cluster: parts.cluster.clone(),
            rules,
            ttl: parts.ttl,
            renew,
            spec: watch::Sender::new(None),
            heard: watch::Sender::new(None),
            session: session_stands,
            known: Arc::default(),
            talk: Mutex::default(),
        })
    });
    let pace = {
        let control = control.clone();
        move || control.as_ref().map_or(renew, |control| control.map_pause())
    };
    tasks.spawn(host::task(Arc::clone(&maps).run(pace)));
    tasks.spawn(host::task(Arc::clone(&nodes).run(Arc::clone(&maps), renew)));
    if let Some(watch) = parts.watch.clone() {
        let (maps, control) = (Arc::clone(&maps), control.clone());
        tasks.spawn(host::task(async move {
            let follow = || {
                let maps = Arc::clone(&maps);
                Arc::clone(&watch).run(Box::new(move |map| maps.offer(map)))
            };
            match &control {
                // What a node publishes is in the bucket alone.
                Some(control) => control.while_the_operator_leads(follow).await,
                None => follow().await,
            }
        }));
    }

    let proof = bucket.as_ref().map(|bucket| Arc::clone(&bucket.proof));
    let (reporting, work): (Arc<dyn Reporting>, _) = match (&parts.strategy, bucket) {
        (Strategy::Isolated { volumes, peers, throttle, gauge, .. }, _) => {
            let disks = (Arc::clone(volumes), throttle.clone());
            let isolated = Isolated::new(Arc::clone(table), maps, nodes, Arc::clone(peers), disks, life.clone(), news);
            // Before the session says anything: what it does not list as stored counts as not there.
            tokio::select! {
                biased;
                () = isolated.open_volume() => {}
                () = stopped(&mut stop) => return Ended::Stopped,
            }
            *slot.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(Arc::clone(&isolated));
            if let Some(disk) = isolated.disk() {
                if let Some(gauge) = gauge.clone() {
                    tasks.spawn(host::task(gauge.watch(disk.clone())));
                }
                let isolated = Arc::clone(&isolated);
                tasks.spawn(host::task(async move { isolated.watch_disk(disk).await }));
            }
            (Arc::clone(&isolated) as _, host::spawn(isolated.run(stopping)))
        }
        (Strategy::Bucket { peers, .. }, Some(bucket)) => {
            let lives = Arc::new(OfNodes { nodes: Arc::clone(&nodes), lives: life.clone() });
            let locks = locks.set(Locks::new(parts.node.clone(), Arc::clone(&bucket.documents), lives));
            tasks.spawn(host::task(async move { locks.run().await }));
            tasks.spawn(host::task(freed::tell(Arc::clone(table), Arc::clone(&maps), Arc::clone(peers), released)));
            let store = (bucket.documents, bucket.layout);
            let shared = Shared::new(Arc::clone(table), maps, nodes, store, life.clone(), (news, release));
            (Arc::clone(&shared) as _, host::spawn(shared.run(stopping)))
        }
        (Strategy::Bucket { .. }, None) => return Ended::Stopped,
    };
    let mut work = AbortOnDrop(work);

    let identity = Identity {
        node: parts.node.clone(),
        pod_uid: parts.pod_uid.clone(),
        address: parts.address.clone(),
        ttl: parts.ttl,
    };
    let (end_session, session_ends) = watch::channel(false);
    let (superseded, mut anothers) = watch::channel(None);
    let session = SessionLoop {
        table: Arc::clone(table),
        holder: SessionHolder::new(identity, Arc::clone(&parts.clock)),
        documents,
        reporting,
        news: reported,
        lives,
        announced,
        stands,
        belongs_to: parts.belongs_to().map(str::to_owned),
        superseded,
        renew,
        ttl: parts.ttl,
    };
    let mut session = AbortOnDrop(host::spawn(session.run(session_ends)));
    let (end_control, control_ends) = watch::channel(false);
    let mut control = AbortOnDrop(host::spawn(async move {
        if let Some(control) = control {
            control.run(announcements, control_ends).await;
        }
    }));
    let superseded = async {
        // An error means that the session's task is gone: it ends with this one.
        match anothers.wait_for(Option::is_some).await.ok().and_then(|error| error.clone()) {
            Some(error) => error,
            None => std::future::pending().await,
        }
    };
    let distrusted = async {
        match &proof {
            Some(proof) => proof::lost(table, &**proof, parts.prove_every).await,
            None => std::future::pending().await,
        }
    };
    let ended = tokio::select! {
        biased;
        _ended = &mut work.0 => Ended::Stopped,
        error = distrusted => Ended::Distrusted(error),
        error = superseded => Ended::Distrusted(error),
    };
    if let Ended::Distrusted(_) = ended {
        // At once, and for what is in flight too: its outcome is unknown. Then those who could write end unheard.
        if let Some(life) = &*life.borrow() {
            life.validity.end();
        }
        work.end().await;
        control.end().await;
        session.end().await;
        tasks.shutdown().await;
        table.drop_all("the store may not be written to any more");
        return ended;
    }
    // The leases first, and the map that gives them to others: until then this node may be the controller. Then the session:
    // one that has ended releases nothing.
    end_control.send_replace(true);
    let _ended = (&mut control.0).await;
    end_session.send_replace(true);
    let _ended = (&mut session.0).await;
    tasks.shutdown().await;
    ended
}

impl Parts {
    /// UID of the cluster, where coordination goes by documents in a bucket: another cluster may have got it since.
    fn belongs_to(&self) -> Option<&str> {
        match (&self.strategy, &self.group) {
            (Strategy::Bucket { .. }, None) => Some(&self.cluster),
            _ => None,
        }
    }

    /// Where a node may be the controller: how it tells others, and by which rules it places shards.
    fn controllers(&self) -> Option<(Arc<dyn PeerClient>, Rules)> {
        match (&self.strategy, &self.group) {
            (Strategy::Bucket { peers, .. }, _) => Some((Arc::clone(peers), Rules::Shared)),
            (Strategy::Isolated { peers, .. }, Some(_)) => {
                Some((Arc::clone(peers), Rules::Isolated { moves_at_once: MOVES_AT_ONCE }))
            }
            (Strategy::Isolated { .. }, None) => None,
        }
    }
}

/// A task that does not outlive its owner.
struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl AbortOnDrop {
    /// Ends it where it stands, and waits until it has.
    async fn end(&mut self) {
        self.0.abort();
        let _aborted = (&mut self.0).await;
    }
}

/// Opens the store, as often as it takes: what is wrong with it may be mended.
async fn prepare(table: &Table, parts: &Parts) -> (Arc<dyn Documents>, Option<OpenBucket>) {
    let bucket = match &parts.strategy {
        Strategy::Isolated { documents, .. } => return (Arc::clone(documents), None),
        Strategy::Bucket { bucket, .. } => bucket,
    };
    let mut pause = STORE_RETRY.0;
    loop {
        match open_proved(table, &**bucket, parts.belongs_to()).await {
            Ok(open) => {
                table.problem("storage", None);
                let group = parts.group.as_ref().map(|group| group.documents());
                return (group.unwrap_or_else(|| Arc::clone(&open.documents)), Some(open));
            }
            Err(error) => table.problem("storage", Some(in_words(&error))),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(STORE_RETRY.1);
    }
}

async fn open_proved(table: &Table, bucket: &dyn SharedBucket, belongs_to: Option<&str>) -> Result<OpenBucket, Error> {
    let open = bucket.open().await?;
    if let Some(cluster) = belongs_to {
        must_own(&*open.documents, cluster).await.map_err(|error| error.into_storage())?;
    }
    proof::prove(table, &*open.proof).await?;
    Ok(open)
}

/// Why a node can't start at all. What may be mended while it runs is no such error.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// This is no pod with a ServiceAccount.
    #[error("no access to the Kubernetes API: {0}; `node` runs in a pod of a BrainyCluster, `serve` runs anywhere")]
    NoKubernetes(#[from] NoAccess),
    /// The regions don't fit together.
    #[error("the regions of the configuration can't be used: they {0}")]
    Regions(String),
}

/// The parts of a node in a cluster, from its settings.
pub(super) fn parts(
    settings: &NodeSettings,
    peers: Arc<dyn PeerClient>,
    observing: impl Fn(&'static str) -> Observing,
) -> Result<Parts, StartError> {
    let cluster = &settings.cluster;
    // Where the nodes keep the map among them, they need no right in Kubernetes, nor Kubernetes.
    let access = cluster.consensus.is_none().then(Access::of_this_pod);
    let watch = |access: &Access| -> Arc<dyn MapSource> {
        Arc::new(MapWatch::new(access.watching(), &cluster.namespace, &cluster.cluster))
    };
    let maps = access.as_ref().and_then(|access| access.as_ref().ok()).map(watch);
    let group = cluster.consensus.as_ref().map(|consensus| Group::new(group_settings(settings, consensus, &peers)));
    let mut layers = LayerStack::new(cluster.layers).observed(observing(settings.storage_info().backend));
    let strategy = match &cluster.storage {
        StorageConfig::Isolated { data, engine, move_mebibytes_per_second, tiering } => {
            let documents: Arc<dyn Documents> = match (access, &group) {
                (_, Some(group)) => group.documents(),
                (access, None) => {
                    let access = access.unwrap_or_else(Access::of_this_pod)?;
                    Arc::new(KubernetesDocuments::new(access.bounded(), &cluster.namespace, &cluster.cluster))
                }
            };
            let kind = Kind { engine: (*engine).into(), tiered: tiering.is_some() };
            let volumes = Arc::new(OnDisk { data: data.clone(), kind });
            let gauge = tiering.as_ref().map(|tiering| {
                let gauge = DiskGauge::default();
                let bucket = s3_settings(&tiering.bucket);
                let (uid, folder) = (cluster.uid.clone(), data.join(&settings.node.0));
                let claimant = Claimant { uid, shards: cluster.shards, folder };
                let cold = ColdBucket::start(bucket, claimant, cluster.layers.compression, observing("s3"));
                let tiers = Tiers::new(tiering.settings).with_gauge(gauge.gauge());
                layers = std::mem::take(&mut layers).tiered(tiers, cold);
                gauge
            });
            let throttle =
                Throttle::new(move_mebibytes_per_second.map_or(BYTES_PER_SECOND, |rate| u64::from(rate) << 20));
            Strategy::Isolated { documents, volumes, peers, throttle, gauge }
        }
        StorageConfig::Namespaced(bucket) | StorageConfig::Shared(bucket) => {
            if let Some(Err(why)) = access {
                tracing::warn!(%why, "no Kubernetes API: this node learns of new maps from the bucket and other nodes alone");
            }
            let namespaced = matches!(cluster.storage, StorageConfig::Namespaced(_));
            let plan = regions::plan(cluster).map_err(StartError::Regions)?;
            let others = plan.zip(cluster.regions.as_ref()).map(|(plan, regions)| {
                let (shards, compression) = (cluster.shards, cluster.layers.compression);
                let others = OtherRegions::start(plan, (regions, shards), s3_settings, compression, || observing("s3"));
                let layer = Regions::new(regions::replication(regions));
                layers = std::mem::take(&mut layers).in_regions(layer, Arc::clone(&others) as _);
                others
            });
            let bucket = S3Bucket {
                settings: s3_settings(bucket),
                compression: cluster.layers.compression,
                namespace: namespaced.then(|| settings.node.clone()),
                regions: others,
            };
            Strategy::Bucket { bucket: Arc::new(bucket), peers }
        }
    };
    Ok(Parts {
        node: settings.node.clone(),
        pod_uid: settings.pod_uid.clone(),
        address: settings.address.clone(),
        cluster: cluster.uid.clone(),
        shards: cluster.shards,
        layers,
        ttl: Duration::from_secs(cluster.lease_seconds),
        renew: Duration::from_secs(cluster.renew_seconds),
        clock: Arc::new(SystemClock),
        watch: maps,
        strategy,
        group,
        prove_every: PROVE_EVERY,
    })
}

fn group_settings(
    settings: &NodeSettings,
    consensus: &ConsensusConfig,
    peers: &Arc<dyn PeerClient>,
) -> group::Settings {
    group::Settings {
        folder: consensus::folder(&consensus.data, &settings.node),
        node: settings.node.clone(),
        cluster: wire::cluster(&settings.cluster.uid, consensus.since),
        pace: Pace::of(Duration::from_secs(settings.cluster.lease_seconds)),
        transport: Arc::new(OverPeers(Arc::clone(peers))),
        wish: Arc::new(WishFile(settings.wish.clone())),
    }
}

fn s3_settings(bucket: &BucketConfig) -> S3Settings {
    let credentials = bucket.credentials.clone().map_or(Credentials::Environment, Credentials::Folder);
    S3Settings {
        prefix: bucket.prefix.clone(),
        region: bucket.region.clone(),
        endpoint: bucket.endpoint.clone(),
        credentials,
        ..S3Settings::new(&bucket.bucket)
    }
}

/// The bucket of strategy Shared, or Namespaced.
struct S3Bucket {
    settings: S3Settings,
    compression: Option<Compression>,
    /// This node has a namespace of its own.
    namespace: Option<NodeId>,
    /// It is that of one region: of the others.
    regions: Option<Arc<OtherRegions>>,
}

#[async_trait]
impl SharedBucket for S3Bucket {
    async fn open(&self) -> Result<OpenBucket, Error> {
        let store = S3Store::open(&self.settings).await?;
        let (documents, proof) = (Arc::new(store.documents("")), Arc::new(store.clone()));
        if let Some(regions) = &self.regions {
            regions.join(&*documents).await?;
        }
        Ok(OpenBucket { documents, layout: layout(store, self.namespace.as_ref(), self.compression, LATEST), proof })
    }
}

/// Where the data of shards lies in a bucket: at one place, or in the namespace of each node, this one's being `namespace`.
pub(super) fn layout<B: Bucket>(
    store: BucketStore<B>,
    namespace: Option<&NodeId>,
    compression: Option<Compression>,
    latest: Duration,
) -> Arc<dyn Layout> {
    match namespace {
        Some(node) => Arc::new(Namespaces::new(store, node, compression, latest)),
        None => Arc::new(OnePlace(Arc::new(BucketShards { store, compression }))),
    }
}

/// A shard's storage in the bucket.
#[derive(Debug)]
struct BucketShards<B> {
    store: BucketStore<B>,
    compression: Option<Compression>,
}

impl<B: Bucket> ShardStores for BucketShards<B> {
    fn open(&self, shard: ShardId, _token: FencingToken) -> Result<Arc<dyn StorageAdapter>, Error> {
        let adapter = self.store.adapter(names::shard_data(shard).trim_end_matches('/'));
        Ok(Arc::new(adapter.with_compression(self.compression)))
    }
}
