//! The nodes: production's runtime and router, each in a process of its own, and the network between them.

use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use brainy_coordination::bucket::election::Told;
use brainy_coordination::{NodeId, ShardId, ShardMap};
use brainy_storage::backends::objects::BucketStore;
use brainy_storage::layers::caching::CacheSize;
use brainy_storage::layers::{LayerStack, Layers};
use brainy_storage::{Error, Namespace};
use bytes::Bytes;

use super::super::handoff::Throttle;
use super::super::maps::MapSource;
use super::super::node::{Parts, Strategy};
use super::super::table::Table;
use super::super::{Freed, HandoffError, HandoffRequest, Ownership, Renewed};
use super::plan::Data;
use super::store::{Link, SimulatedBucket};
use super::volumes::{Disk, Mounted};
use super::world::World;
use crate::host::simulated::{Dice, Host};
use crate::metrics::Metrics;
use crate::peers::PeerError;
use crate::routing::{Attempt, Call, Listing, Patience, Peers, Portion, Router};

/// So few bytes of shards are sent in a second that much is written to them meanwhile.
const PACE: u64 = 16 * 1024;
/// To find out that there is no way to a node.
const CONNECT: Duration = Duration::from_secs(3);
/// To find out that a connection is dead.
const SILENCE: Duration = Duration::from_secs(10);
/// Longest wait for a node's answer.
const ANSWER: Duration = Duration::from_secs(35);
/// No clock is faster or slower than this, in millionths: so two differ by a little less than the margin, which is a tenth.
const MOST_FAST: i64 = 45_000;

/// By how much a machine's clock is fast: most of the time it is an extreme that shows mistakes.
pub(super) fn fast(dice: &mut Dice) -> i64 {
    match dice.below(5) {
        0 | 1 => MOST_FAST,
        2 | 3 => -MOST_FAST,
        _ => dice.below(2 * MOST_FAST as usize) as i64 - MOST_FAST,
    }
}

/// Where a node's processes run, one after the other.
#[derive(Debug, Default)]
pub(super) struct Machine {
    pods: u32,
    processes: u32,
    fast: i64,
    disk: Arc<Mutex<Disk>>,
    process: Option<(usize, Arc<Process>)>,
}

/// A sidecar.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) host: Host,
    pub(super) ownership: Ownership,
    pub(super) router: Arc<Router>,
    address: String,
}

impl Process {
    pub(super) fn table(&self) -> &Table {
        &self.ownership.table
    }
}

/// Nothing is read from them.
fn metrics() -> Arc<Metrics> {
    static SHARED: OnceLock<Arc<Metrics>> = OnceLock::new();
    Arc::clone(SHARED.get_or_init(Arc::default))
}

impl World {
    /// Starts a node's container; in a pod that is new, if that is asked for, and on another machine then.
    pub(super) fn start(self: &Arc<Self>, node: &NodeId, new_pod: bool) {
        let mut machines = self.machines.lock().unwrap();
        let machine = machines.entry(node.clone()).or_default();
        if machine.process.is_some() {
            return;
        }
        if new_pod || machine.pods == 0 {
            machine.pods += 1;
            machine.fast = self.draw(fast);
        }
        machine.processes += 1;
        let (pod, number) = (machine.pods, machine.processes);
        let wall = self.draw(|dice| dice.below(4000)) as i64 - 2000;
        let host = self.scheduler.host(format!("{node}/{number}"), machine.fast, wall);
        let address = format!("{node}-{pod}:7701");
        let link = Link::new(self, &host);
        let ways = Arc::new(Ways { world: Arc::clone(self), host: host.clone() });
        let namespace = (self.plan.data == Data::Namespaced).then(|| node.clone());
        let peers = Arc::clone(&ways) as _;
        let strategy = match self.plan.data {
            Data::Isolated => Strategy::Isolated {
                documents: Arc::new(BucketStore::new(link).documents("")),
                volumes: Arc::new(Mounted::new(self, &machine.disk)),
                peers,
                throttle: Throttle::new(PACE),
                gauge: None,
            },
            Data::Namespaced | Data::Shared => {
                Strategy::Bucket { bucket: Arc::new(SimulatedBucket { link, namespace }), peers }
            }
        };
        let parts = Parts {
            node: node.clone(),
            pod_uid: format!("{node}-pod-{pod}"),
            address: address.clone(),
            cluster: "uid".into(),
            shards: self.plan.shards,
            layers: LayerStack::new(Layers { caching: Some(CacheSize::default()), ..Layers::default() }),
            ttl: self.plan.ttl,
            renew: self.plan.renew,
            clock: host.clock(),
            watch: Some(Arc::new(LaggingWatch { world: Arc::clone(self) })),
            strategy,
            group: None,
            prove_every: Duration::from_secs(3600),
        };
        let fast = machine.fast;
        self.say(host.name(), || format!("starts in pod {pod}; its clock is {fast} millionths fast"));
        let ownership = host.enter(|| Ownership::assemble(parts));
        let patience = Patience { owner: self.plan.ttl.max(Duration::from_secs(3)), storage: Duration::from_secs(30) };
        let owners = Arc::new(ownership.clone());
        let router = Arc::new(Router::new(owners, Some(ways), patience, metrics()));
        let process = Arc::new(Process { host, ownership, router, address });
        let mut alive = self.alive.lock().unwrap();
        let key = self.started.fetch_add(1, Ordering::Relaxed);
        alive.insert(key, Arc::clone(&process));
        machine.process = Some((key, process));
    }

    /// As kill -9 does.
    pub(super) fn kill(&self, node: &NodeId) {
        let Some((key, process)) = self.machines.lock().unwrap().get_mut(node).and_then(|it| it.process.take()) else {
            return;
        };
        self.say(process.host.name(), || "is killed".into());
        process.host.kill();
        self.alive.lock().unwrap().remove(&key);
    }

    /// A node's process, if there is one.
    pub(super) fn process(&self, node: &NodeId) -> Option<Arc<Process>> {
        let machines = self.machines.lock().unwrap();
        machines.get(node)?.process.as_ref().map(|(_, process)| Arc::clone(process))
    }

    pub(super) fn nodes(&self) -> Vec<NodeId> {
        (0..self.plan.nodes).map(|number| NodeId(format!("n-{number}"))).collect()
    }
}

/// The way from one node to all others.
struct Ways {
    world: Arc<World>,
    host: Host,
}

impl std::fmt::Debug for Ways {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Ways").field(&self.host).finish()
    }
}

impl Ways {
    /// Sends a question, which travels on its own, and waits for the answer.
    async fn ask<T, F>(
        &self,
        node: &NodeId,
        address: &str,
        question: impl FnOnce(Arc<Process>) -> F + Send + 'static,
    ) -> Result<T, PeerError>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let (tell, told) = tokio::sync::oneshot::channel();
        let (world, me) = (Arc::clone(&self.world), self.host.name().to_owned());
        let (node, address) = (node.clone(), address.to_owned());
        let (there, lost_there) = world.message();
        let (back, lost_back) = world.message();
        self.world.wire.spawn(async move {
            let me = World::place_of(&me);
            tokio::time::sleep(there).await;
            let process = world.process(&node).filter(|process| process.address == address);
            let Some(process) = process else {
                let _gone = tell.send(Err(PeerError::NotSent(format!("nobody at {address}"))));
                return;
            };
            // Without a way back no connection comes about, unless there was one.
            let connected = world.is_open(&node.0, me) || world.draw(|dice| dice.below(2)) == 0;
            if !world.is_open(me, &node.0) || !connected {
                tokio::time::sleep(CONNECT).await;
                let _gone = tell.send(Err(PeerError::NotSent(format!("no way to {node}"))));
                return;
            }
            let broken = PeerError::Lost(format!("the connection to {node} broke"));
            if lost_there {
                tokio::time::sleep(SILENCE).await;
                let _gone = tell.send(Err(broken));
                return;
            }
            let running = process.host.spawn(question(Arc::clone(&process)));
            let answer = tokio::select! {
                biased;
                answer = running => answer.ok(),
                () = process.host.dead() => None,
            };
            tokio::time::sleep(back).await;
            if lost_back || !world.is_open(&node.0, me) {
                tokio::time::sleep(SILENCE).await;
                let _gone = tell.send(Err(broken));
            } else {
                let _gone = tell.send(answer.ok_or(broken));
            }
        });
        match tokio::time::timeout(ANSWER, told).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) | Err(_) => Err(PeerError::Lost("no answer".into())),
        }
    }
}

#[async_trait]
impl Peers for Ways {
    async fn calls(
        &self,
        node: &NodeId,
        address: &str,
        namespace: Option<&Namespace>,
        calls: Vec<Call>,
    ) -> Result<Vec<Attempt>, PeerError> {
        let namespace = namespace.cloned();
        self.ask(node, address, |it| async move { it.router.run_here(namespace.as_ref(), calls).await }).await
    }

    async fn list(&self, _: &NodeId, _: &str, _: &[ShardId], _: &Listing) -> Result<Result<Portion, Error>, PeerError> {
        Err(PeerError::NotSent("nothing is listed here".into()))
    }
}

#[async_trait]
impl super::super::PeerClient for Ways {
    async fn handoff(
        &self,
        node: &NodeId,
        address: &str,
        shard: ShardId,
        request: &HandoffRequest,
    ) -> Result<Bytes, HandoffError> {
        let request = request.clone();
        let hand_off = move |it: Arc<Process>| async move { it.ownership.serve_handoff(shard, request).await };
        let answer = self.ask(node, address, hand_off).await;
        answer.unwrap_or_else(|error| Err(HandoffError::Later(error.to_string())))
    }

    async fn nudge(&self, node: &NodeId, address: &str) -> io::Result<()> {
        let answer = self.ask(node, address, |it| async move { it.ownership.look_again() }).await;
        answer.map_err(io::Error::other)
    }

    async fn freed(&self, node: &NodeId, address: &str, freed: &Freed) -> io::Result<()> {
        let freed = freed.clone();
        let answer = self.ask(node, address, |it| async move { it.ownership.freed(freed) }).await;
        answer.map_err(io::Error::other)
    }

    async fn renewed(&self, node: &NodeId, address: &str, renewed: &Renewed) -> io::Result<Option<Told>> {
        let renewed = renewed.clone();
        let answer = self.ask(node, address, |it| async move { it.ownership.hear(renewed) }).await;
        answer.map_err(io::Error::other)
    }
}

/// The API server's watch of the map: it lags, repeats itself and goes back.
struct LaggingWatch {
    world: Arc<World>,
}

#[async_trait]
impl MapSource for LaggingWatch {
    async fn run(self: Arc<Self>, mut tell: Box<dyn FnMut(ShardMap) + Send>) {
        loop {
            let pause = self.world.draw(|dice| dice.between(Duration::from_millis(50), self.world.plan.renew * 2));
            tokio::time::sleep(pause).await;
            let map = {
                let maps = self.world.maps.lock().unwrap();
                let back = if self.world.is_calm() { 0 } else { self.world.draw(|dice| [0, 0, 1, 3][dice.below(4)]) };
                maps.iter().rev().nth(back).cloned()
            };
            if let Some(map) = map {
                tell(map);
            }
        }
    }
}
