//! What a cluster without machines lacks, played: the scheduler (any machine will do), the provisioner (a claim is bound at once, in
//! the size that it asks for), the end of pods that are deleted, the restart of containers that get another image, and the sidecars. With strategy Isolated, what a sidecar does with a
//! shard decides production's own [`duty`]; a copy of a shard is made in one step, and nobody asks for data. What it does in a bucket is
//! in [`sharing`](crate::sharing).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use brainy_coordination::bucket::spec::ClusterSpec;
use brainy_coordination::consensus::wire::cluster as group_of;
use brainy_coordination::duty::{Duty, Local, Stored, duty, may_hand_off};
use brainy_coordination::session::HeldShard;
use brainy_coordination::{FencingToken, NodeId, ShardId, ShardMap, names as documents};
use brainy_kubernetes::client::watching;
use brainy_kubernetes::config::NodeConfig;
use brainy_kubernetes::documents::KubernetesDocuments;
use brainy_kubernetes::names;
use futures::TryStreamExt;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod};
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Config, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::sync::{Notify, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use crate::groups::Groups;
use crate::lives::{Life, Place, Session, Word};
use crate::sharing::{self, Leases};
use crate::store::{Shelf, Store};

/// Longest time that a pod is given to end.
const LONGEST_END: Duration = Duration::from_secs(5);
/// Before a write that failed is tried again.
const AGAIN: Duration = Duration::from_millis(100);

/// How long sessions last, and how often they are renewed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timing {
    /// In seconds.
    pub(crate) duration: u64,
    /// In seconds.
    pub(crate) renew: u64,
}

/// All that is played. It stops when this is dropped.
pub(crate) struct Nodes {
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

struct Shared {
    client: Client,
    machines: Vec<String>,
    store: Arc<Store>,
    groups: Arc<Groups>,
    world: Mutex<World>,
}

/// Namespace and name of a cluster.
pub(crate) type ClusterKey = (String, String);

#[derive(Default)]
struct World {
    clusters: HashMap<ClusterKey, Cluster>,
    /// What lies on volumes, by the UID of their claims.
    volumes: HashMap<String, Volume>,
    /// UIDs of claims, by namespace and name.
    claims: HashMap<(String, String), String>,
    /// Every UID that an object of this kind, namespace and name ever had.
    lives: BTreeMap<(&'static str, String, String), BTreeSet<String>>,
    tasks: JoinSet<()>,
    /// By the UID of their pods.
    sidecars: HashMap<String, AbortHandle>,
    /// The newest version of each pod that was played, by its UID.
    played: HashMap<String, u64>,
}

type Volume = BTreeMap<u32, Local>;

#[derive(Default)]
struct Cluster {
    map: Option<ShardMap>,
    /// Running pods: their UIDs.
    running: BTreeMap<NodeId, String>,
    changed: Arc<Notify>,
}
impl Nodes {
    /// Begins to play.
    pub(crate) fn start(
        client: Client,
        config: &Config,
        machines: Vec<String>,
        store: Arc<Store>,
        groups: Arc<Groups>,
    ) -> Self {
        let shared = Arc::new(Shared { client, machines, store, groups, world: Mutex::default() });
        let watches = watching(config).unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(each(watches.clone(), Arc::clone(&shared), Shared::pod));
        tasks.spawn(each(watches.clone(), Arc::clone(&shared), Shared::claim));
        tasks.spawn(each(watches, Arc::clone(&shared), Shared::map));
        Self { shared, _tasks: tasks }
    }

    /// How many pods, or claims, there ever were of each name in a namespace.
    pub(crate) fn lives(&self, kind: &str, namespace: &str) -> BTreeMap<String, usize> {
        let world = self.shared.world();
        let of_it = world.lives.iter().filter(|((of, at, _), _)| *of == kind && at == namespace);
        of_it.map(|((.., name), uids)| (name.clone(), uids.len())).collect()
    }
}

/// Plays on with each change of an object of the operator's.
async fn each<K, F>(client: Client, shared: Arc<Shared>, act: fn(Arc<Shared>, K, bool) -> F)
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + std::fmt::Debug
        + Send
        + Sync
        + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let ours = watcher::Config::default().labels(&format!("{}={}", names::MANAGED_BY_LABEL, names::MANAGED_BY));
    let events = watcher(Api::<K>::all(client), ours).default_backoff();
    let played = events.try_for_each(|event| {
        match event {
            Event::Apply(object) | Event::InitApply(object) => {
                drop(tokio::spawn(act(Arc::clone(&shared), object, true)))
            }
            Event::Delete(object) => drop(tokio::spawn(act(Arc::clone(&shared), object, false))),
            Event::Init | Event::InitDone => {}
        }
        futures::future::ready(Ok(()))
    });
    played.await.ok();
}

/// What comes of a request that is made until the API server answers; none: it refuses it.
async fn insist<T, F: Future<Output = Result<T, kube::Error>>>(ask: impl Fn() -> F) -> Option<T> {
    loop {
        match ask().await {
            Ok(answer) => return Some(answer),
            Err(kube::Error::Api(_)) => return None,
            Err(_) => sleep(AGAIN).await,
        }
    }
}

impl Shared {
    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn pod(self: Arc<Self>, pod: Pod, is_there: bool) {
        let (namespace, name, uid) = (pod.namespace().unwrap(), pod.name_any(), pod.uid().unwrap());
        let Some(cluster) = pod.labels().get(names::CLUSTER_LABEL).cloned() else { return };
        let is_running = pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running");
        let has_machine = pod.spec.as_ref().and_then(|spec| spec.node_name.as_ref()).is_some();
        {
            let mut world = self.world();
            // Each change is played in a task of its own, and these overtake each other.
            let version = pod.resource_version().and_then(|version| version.parse().ok()).unwrap_or(u64::MAX);
            let played = world.played.entry(uid.clone()).or_default();
            if version < *played {
                return;
            }
            *played = version;
            world.lives.entry(("pods", namespace.clone(), name.clone())).or_default().insert(uid.clone());
            let key = (namespace.clone(), cluster);
            let node = NodeId(name.clone());
            let known = world.clusters.entry(key.clone()).or_default();
            let runs = is_there && is_running && pod.metadata.deletion_timestamp.is_none();
            let ran = known.running.get(&node) == Some(&uid);
            if runs && !ran {
                known.running.insert(node.clone(), uid.clone());
                known.changed.notify_waiters();
                let sidecar = world.tasks.spawn(Arc::clone(&self).node(key, node, uid.clone()));
                world.sidecars.insert(uid.clone(), sidecar);
            } else if !runs && ran {
                known.running.remove(&node);
                known.changed.notify_waiters();
            }
        }
        if is_there && pod.metadata.deletion_timestamp.is_some() {
            // A kubelet waits for the processes of a pod, as long as it is asked to.
            let until = Instant::now() + LONGEST_END;
            while self.plays(&uid) && Instant::now() < until {
                sleep(AGAIN / 5).await;
            }
            let this_one = Preconditions { uid: Some(uid), resource_version: None };
            let ended = DeleteParams::default().grace_period(0).preconditions(this_one);
            // Gone by now is as good.
            let pods = Api::<Pod>::namespaced(self.client.clone(), &namespace);
            insist(|| pods.delete(&name, &ended)).await;
            return;
        }
        if is_there && is_running {
            self.restart_containers(&pod).await;
        }
        if is_there && !has_machine {
            let machine = &self.machines[uid.bytes().map(usize::from).sum::<usize>() % self.machines.len()];
            let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name, "uid": uid}, "target": {"kind": "Node", "name": machine}});
            let to = format!("/api/v1/namespaces/{namespace}/pods/{name}/binding");
            let request = || {
                let request = hyper::Request::post(&to).header("content-type", "application/json");
                request.body(serde_json::to_vec(&binding).unwrap()).unwrap()
            };
            // Bound or gone by now is as good.
            insist(|| self.client.request_text(request())).await;
        }
    }

    /// A container that is of another image than its pod says is another from then on.
    async fn restart_containers(&self, pod: &Pod) {
        let (spec, mut status) = (pod.spec.clone().unwrap_or_default(), pod.status.clone().unwrap_or_default());
        let all = spec.containers.into_iter().chain(spec.init_containers.into_iter().flatten());
        let images: BTreeMap<String, String> = all.filter_map(|it| Some((it.name, it.image?))).collect();
        let before = status.clone();
        let all = [&mut status.container_statuses, &mut status.init_container_statuses];
        for container in all.into_iter().flatten().flatten() {
            if let Some(image) = images.get(&container.name).filter(|image| **image != container.image) {
                container.image.clone_from(image);
                container.container_id = Some(format!("played://{image}"));
                container.restart_count += 1;
            }
        }
        if status == before {
            return;
        }
        let meta = json!({"uid": pod.metadata.uid, "resourceVersion": pod.metadata.resource_version});
        let said = Patch::Merge(json!({"metadata": meta, "status": status}));
        let (name, params) = (pod.name_any(), PatchParams::default());
        let pods = Api::<Pod>::namespaced(self.client.clone(), &pod.namespace().unwrap());
        // Whoever was faster has made another change of the pod, which is looked at too.
        insist(|| pods.patch_status(&name, &params, &said)).await;
    }

    async fn claim(self: Arc<Self>, claim: PersistentVolumeClaim, is_there: bool) {
        let (namespace, name, uid) = (claim.namespace().unwrap(), claim.name_any(), claim.uid().unwrap());
        {
            let mut world = self.world();
            world.lives.entry(("claims", namespace.clone(), name.clone())).or_default().insert(uid.clone());
            let at = (namespace.clone(), name.clone());
            match is_there {
                true => drop(world.claims.insert(at, uid.clone())),
                false if world.claims.get(&at) == Some(&uid) => drop(world.claims.remove(&at)),
                false => {}
            }
        }
        let spec = claim.spec.unwrap_or_default();
        let asked = spec.resources.and_then(|resources| resources.requests).unwrap_or_default();
        let has = claim.status.and_then(|status| status.capacity);
        if !is_there || has.as_ref() == Some(&asked) {
            return;
        }
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), &namespace);
        let params = PatchParams::default();
        if spec.volume_name.is_none() {
            let bound = json!({"metadata": {"uid": uid}, "spec": {"volumeName": format!("volume-{uid}")}});
            let bound = Patch::Merge(bound);
            insist(|| api.patch(&name, &params, &bound)).await;
        }
        let status = json!({"metadata": {"uid": uid}, "status": {"phase": "Bound", "accessModes": ["ReadWriteOnce"], "capacity": asked}});
        let status = Patch::Merge(status);
        insist(|| api.patch_status(&name, &params, &status)).await;
    }

    async fn map(self: Arc<Self>, config_map: ConfigMap, is_there: bool) {
        let Some(cluster) = config_map.labels().get(names::CLUSTER_LABEL).cloned() else { return };
        if config_map.name_any() != names::shard_map(&cluster) {
            return;
        }
        let text = config_map.data.as_ref().and_then(|data| data.get(names::SHARD_MAP_KEY));
        let map = text.filter(|_| is_there).map(|text| serde_json::from_str::<ShardMap>(text).unwrap());
        let cluster = (config_map.namespace().unwrap(), cluster);
        if map.is_none() {
            let mut world = self.world();
            let known = world.clusters.entry(cluster.clone()).or_default();
            known.map = None;
            known.changed.notify_waiters();
        }
        self.learn(&cluster, map);
    }

    /// One life of a node, until its pod ends.
    async fn node(self: Arc<Self>, cluster: ClusterKey, node: NodeId, pod: String) {
        let config_maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), &cluster.0);
        // A pod whose configuration is gone can't start.
        let name = names::config(&cluster.1);
        let Some(Some(found)) = insist(|| config_maps.get_opt(&name)).await else {
            return;
        };
        let data = found.data.unwrap();
        let config: NodeConfig = serde_yaml::from_str(&data[names::NODE_CONFIG_KEY]).unwrap();
        let shelf = sharing::bucket(&config).map(|bucket| self.store.documents(&bucket.bucket));
        let group = config.consensus.as_ref().map(|consensus| self.groups.of(&group_of(&config.uid, consensus.since)));
        if let Some(group) = &group {
            let first: ClusterSpec = serde_json::from_str(&data[names::CLUSTER_SPEC_KEY]).unwrap();
            group.starts(&node, &first.nodes);
        }
        let place = match (&group, &shelf) {
            (Some(group), _) => Place { documents: Arc::clone(group) as _, changed: group.changed() },
            (None, Some(shelf)) => Place { documents: Arc::clone(shelf) as _, changed: shelf.changed() },
            (None, None) => {
                let documents = KubernetesDocuments::new(self.client.clone(), &cluster.0, &cluster.1);
                // Where the operator is the controller, there is a watch on its map.
                Place { documents: Arc::new(documents), changed: Arc::default() }
            }
        };
        let life = Life { cluster, node, pod, config, place };
        let (stop, stopped) = watch::channel(false);
        let mut campaign = JoinSet::new();
        if group.is_some() || shelf.is_some() {
            campaign.spawn(life.candidate(shelf.is_some()).run(stopped));
        }
        match &shelf {
            None => Arc::clone(&self).sidecar(&life).await,
            Some(shelf) => self.sharer(&life, shelf).await,
        }
        stop.send_replace(true);
        campaign.join_all().await;
        if let Some(group) = &group {
            group.stops(&life.node);
        }
    }

    /// A life of a sidecar whose data is in a bucket.
    async fn sharer(&self, life: &Life, shelf: &Arc<Shelf>) {
        let Life { cluster, node, config, place, .. } = life;
        let documents = &*place.documents;
        let leases = Leases::new(Arc::clone(shelf) as _, config.clone(), node.clone(), life.incarnation());
        let mut own = Session { revision: 0, version: None, incarnation: life.incarnation() };
        let session = documents::session(node);
        let (leased, pods) = (shelf.changed(), Arc::clone(&self.world().clusters[cluster].changed));
        let mut said = None;
        let mut renewal = Instant::now();
        while self.runs(life) {
            let mut leased = std::pin::pin!(leased.notified());
            let mut written = std::pin::pin!(place.changed.notified());
            let mut changed = std::pin::pin!(pods.notified());
            leased.as_mut().enable();
            written.as_mut().enable();
            changed.as_mut().enable();
            // Leases are valid by the session.
            let word = if said.is_some() { leases.follow(documents).await } else { Word::default() };
            if said.as_ref() != Some(&word) || renewal <= Instant::now() {
                renewal = Instant::now() + Duration::from_secs(config.renew_seconds);
                match own.write(documents, &session, node, Some(&word), life.timing()).await {
                    true => said = Some(word),
                    false => sleep(AGAIN).await,
                }
                continue;
            }
            tokio::select! {
                () = leased => {}
                () = written => {}
                () = changed => {}
                () = sleep_until(renewal) => {}
            }
        }
        leases.release(documents).await;
        own.write(documents, &session, node, None, life.timing()).await;
    }

    fn runs(&self, life: &Life) -> bool {
        let world = self.world();
        let running = world.clusters.get(&life.cluster).and_then(|known| known.running.get(&life.node));
        running == Some(&life.pod)
    }

    /// Whether a sidecar still has something to do.
    fn plays(&self, pod: &str) -> bool {
        self.world().sidecars.get(pod).is_some_and(|sidecar| !sidecar.is_finished())
    }

    /// One life of a sidecar, as far as its session goes: until its pod ends.
    async fn sidecar(self: Arc<Self>, life: &Life) {
        let Life { cluster, node, pod, config, place } = life;
        let store = &*place.documents;
        let session = documents::session(node);
        let mut own = Session { revision: 0, version: None, incarnation: life.incarnation() };
        let mut said = None;
        let renew = Duration::from_secs(config.renew_seconds);
        let mut renewal = Instant::now() + renew;
        let changed = Arc::clone(&self.world().clusters[cluster].changed);
        loop {
            let (mut notified, mut written) =
                (std::pin::pin!(changed.notified()), std::pin::pin!(place.changed.notified()));
            notified.as_mut().enable();
            written.as_mut().enable();
            if config.consensus.is_some() {
                let map = sharing::read::<ShardMap>(store, documents::SHARD_MAP).await;
                self.learn(cluster, map.filter(|map| map.cluster == config.uid));
            }
            let (runs, word) = self.look(cluster, node, pod);
            let now = runs.then_some(word);
            let news = async {
                tokio::select! {
                    () = notified => {}
                    () = written => {}
                }
            };
            // A renewal says the same again.
            if now != said || timeout_at(renewal, news).await.is_err() {
                renewal = Instant::now() + renew;
                if own.write(store, &session, node, now.as_ref(), life.timing()).await {
                    said = now;
                } else {
                    sleep(AGAIN).await;
                }
            }
            if !runs && (said.is_none() || own.is_replaced()) {
                return;
            }
            if !runs && store.read(&session).await.is_ok_and(|there| there.is_none()) {
                return;
            }
        }
    }

    /// The nodes of a cluster have heard of a map.
    fn learn(&self, cluster: &ClusterKey, map: Option<ShardMap>) {
        let mut world = self.world();
        let known = world.clusters.entry(cluster.clone()).or_default();
        let is_newer = |map: &ShardMap| {
            known.map.as_ref().is_none_or(|known| known.revision < map.revision || known.cluster != map.cluster)
        };
        if map.as_ref().is_some_and(is_newer) {
            known.map = map;
            known.changed.notify_waiters();
        }
    }

    /// Does all that the map asks of a cluster's nodes. What this one has to say then, and whether it runs.
    fn look(&self, cluster: &ClusterKey, node: &NodeId, pod: &str) -> (bool, Word) {
        let mut world = self.world();
        let World { clusters, volumes, claims, .. } = &mut *world;
        let Some(known) = clusters.get(cluster) else { return (false, Word::default()) };
        if known.running.get(node).is_none_or(|running| running != pod) {
            return (false, Word::default());
        }
        let volume_of = |node: &NodeId| claims.get(&(cluster.0.clone(), format!("data-{node}"))).cloned();
        let running: BTreeMap<&NodeId, String> =
            known.running.keys().filter_map(|node| Some((node, volume_of(node)?))).collect();
        let mut problem = None;
        if let Some(map) = &known.map
            && do_duties(map, &running, volumes, node, &mut problem)
        {
            known.changed.notify_waiters();
        }
        let volume = volume_of(node).and_then(|uid| volumes.get(&uid)).cloned().unwrap_or_default();
        let with = |token: fn(&Local) -> Option<FencingToken>| {
            volume
                .iter()
                .filter_map(|(shard, local)| Some(HeldShard { shard: ShardId(*shard), token: token(local)? }))
                .collect()
        };
        let serves = |held: &HeldShard| {
            known.map.as_ref().is_some_and(|map| duty(map, held.shard, node, volume[&held.shard.0]) == Duty::Serve)
        };
        let stored: Vec<HeldShard> = with(|local| local.stored.map(|stored| stored.token));
        (
            true,
            Word {
                map_revision: known.map.as_ref().map_or(0, |map| map.revision),
                holds: stored.iter().copied().filter(serves).collect(),
                received: with(|local| local.incoming),
                stored,
                problem,
            },
        )
    }
}

/// Lets all running nodes act until none has anything to do. Whether anything was done; why `of` can't serve.
fn do_duties(
    map: &ShardMap,
    running: &BTreeMap<&NodeId, String>,
    volumes: &mut HashMap<String, Volume>,
    of: &NodeId,
    problem: &mut Option<String>,
) -> bool {
    let mut any = false;
    for shard in (0..map.shards()).map(ShardId) {
        let token = map.token(shard);
        let mut again = true;
        while std::mem::take(&mut again) {
            for (node, uid) in running {
                let local = volumes.get(uid).and_then(|volume| volume.get(&shard.0)).copied().unwrap_or_default();
                let owns_it = Local { stored: Some(Stored { token, stopped: false }), incoming: None };
                let next = match duty(map, shard, node, local) {
                    Duty::Restamp | Duty::Promote | Duty::LayOut => owns_it,
                    Duty::Pull { from } => {
                        let Some(source) = running.get(&from) else { continue };
                        let there = volumes.entry(source.clone()).or_default().entry(shard.0).or_default();
                        if may_hand_off(map, shard, &from, node, token, *there).is_err() {
                            continue;
                        }
                        *there = Local { stored: Some(Stored { token, stopped: true }), ..*there };
                        Local { incoming: Some(token), ..local }
                    }
                    Duty::Leave { surplus: true } => Local::default(),
                    Duty::Missing(why) => {
                        if *node == of {
                            *problem = Some(why);
                        }
                        continue;
                    }
                    Duty::Serve | Duty::Wait(_) | Duty::Leave { surplus: false } => continue,
                };
                if next != local {
                    volumes.entry(uid.clone()).or_default().insert(shard.0, next);
                    (any, again) = (true, true);
                }
            }
        }
    }
    any
}
