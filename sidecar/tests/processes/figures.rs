//! How long clients wait while nodes come and go, how soon a new map is known, and what an idle node asks of the store. Measures
//! and asserts nothing.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use brainy_coordination::ShardId;
use rustix::process::Signal;

use super::clients::request;
use super::cluster::{Cluster, Owners, Setup};
use super::support::{Dice, PATIENCE, wait_for};

const SHARDS: u32 = 256;
const CLIENTS: usize = 64;
/// Between two operations of a client.
const THINK: Duration = Duration::from_millis(100);
const ROUNDS: usize = 5;
/// Takeovers of each kind: what differs is when in a period they begin.
const TAKEOVERS: usize = 10;
/// Shards of a cluster whose map changes, and how often.
const MANY: u32 = 4096;
const MAP_CHANGES: usize = 10;
/// Between two looks at what a node says of itself.
const LOOK: Duration = Duration::from_millis(5);
/// How long requests of idle nodes are counted.
const IDLE: Duration = Duration::from_secs(60);
/// For answers that a process had sent when it was ended.
const ON_THEIR_WAY: Duration = Duration::from_millis(50);

/// One operation: what of, when it began and ended, whether it succeeded.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lap {
    pub(crate) of: u32,
    pub(crate) began: Instant,
    pub(crate) ended: Instant,
    pub(crate) succeeded: bool,
}

/// What has been asked so far, by clients that go on until it is dropped.
#[derive(Default)]
pub(crate) struct Load {
    laps: Arc<Mutex<Vec<Lap>>>,
    over: Arc<AtomicBool>,
    /// Of what each of the first clients asks, and nothing else.
    watched: Arc<Mutex<Vec<u32>>>,
}

impl Load {
    /// So many clients, each with a thread of its own. `ask` is given the number of a client and of what it asks, and says
    /// whether it was answered; who watches nothing asks this and that.
    pub(crate) fn start(
        clients: usize,
        of: u32,
        ask: impl Fn(usize, u32, bool) -> bool + Send + Sync + 'static,
    ) -> Self {
        let (load, ask) = (Self::default(), Arc::new(ask));
        for client in 0..clients {
            let (laps, over) = (Arc::clone(&load.laps), Arc::clone(&load.over));
            let (watched, ask) = (Arc::clone(&load.watched), Arc::clone(&ask));
            std::thread::spawn(move || {
                let mut dice = Dice::new(client as u64);
                while !over.load(Ordering::SeqCst) {
                    std::thread::sleep(dice.between(THINK / 2, THINK * 3 / 2));
                    let any = u32::try_from(dice.below(of as usize)).unwrap();
                    let of = watched.lock().unwrap().get(client).copied().unwrap_or(any);
                    let began = Instant::now();
                    let succeeded = ask(client, of, dice.below(2) == 0);
                    laps.lock().unwrap().push(Lap { of, began, ended: Instant::now(), succeeded });
                }
            });
        }
        load
    }

    /// Clients of all nodes but one, one key for each shard: half of the operations add to it, half read it.
    fn of_nodes(cluster: &Cluster, except: usize) -> Self {
        let mut keys = BTreeMap::new();
        for key in (0..).map(|number| format!("key-{number}")) {
            keys.entry(ShardId::of("", &key, SHARDS).0).or_insert(key);
            if keys.len() == SHARDS as usize {
                break;
            }
        }
        let nodes = cluster.nodes.iter().enumerate().filter(|(node, _)| *node != except);
        let apis: Vec<_> = nodes.map(|(_, node)| node.api).collect();
        Self::start(CLIENTS, SHARDS, move |client, shard, reads| {
            let (api, key) = (apis[client % apis.len()], &keys[&shard]);
            let answer = match reads {
                true => request(api, &format!("GET /v1/kv/{key}"), &[], ""),
                false => request(api, "POST /v1/kv:increment", &[], &format!("{{\"key\":\"{key}\",\"delta\":1}}")),
            };
            answer.is_ok_and(|answer| matches!(answer.status.as_u16(), 200 | 404))
        })
    }

    /// Has a client for each of these, who asks of nothing else, and waits until all have been answered.
    pub(crate) fn watch(&self, these: Vec<u32>) {
        let from = Instant::now();
        *self.watched.lock().unwrap() = these.clone();
        wait_for("all are answered", || {
            let answered = |of: &u32| self.since(from).iter().any(|lap| lap.of == *of && lap.succeeded);
            these.iter().all(answered).then_some(()).ok_or_else(|| "not yet".to_owned())
        });
    }

    /// Those that ended after an instant.
    pub(crate) fn since(&self, instant: Instant) -> Vec<Lap> {
        self.laps.lock().unwrap().iter().filter(|lap| lap.ended > instant).copied().collect()
    }

    /// For each that is watched: from the last answer before the owner's end to the first one after it.
    pub(crate) fn silences(&self, end: Instant) -> Vec<Duration> {
        let (laps, end) = (self.laps.lock().unwrap().clone(), end + ON_THEIR_WAY);
        let answers = |of: u32| laps.iter().filter(move |lap| lap.of == of && lap.succeeded).map(|lap| lap.ended);
        let silence = |of: &u32| {
            let last = answers(*of).filter(|ended| *ended <= end).max()?;
            Some(answers(*of).filter(|ended| *ended > end).min().unwrap_or_else(Instant::now) - last)
        };
        self.watched.lock().unwrap().iter().filter_map(silence).collect()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
    }
}

fn setup(lease: u64) -> Setup {
    let (lease, renew) = (Duration::from_secs(lease), Duration::from_secs((lease / 3).max(1)));
    Setup { shards: SHARDS, lease, renew, ..Setup::default() }
}

/// The middle.
pub(crate) fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// Of times: half are longer; at most 1 % are longer; the longest.
pub(crate) fn tail(mut times: Vec<Duration>) -> String {
    times.sort();
    match times.last() {
        None => "none".to_owned(),
        Some(most) => {
            let at = |percent: usize| times[times.len() * percent / 100].as_secs_f64();
            let (most, count) = (most.as_secs_f64(), times.len());
            format!("p50 {:.3} s, p99 {:.3} s, longest {most:.3} s of {count}", at(50), at(99))
        }
    }
}

fn latencies(laps: &[Lap]) -> String {
    let failed = laps.iter().filter(|lap| !lap.succeeded).count();
    format!("{failed} failed; {}", tail(laps.iter().map(|lap| lap.ended - lap.began).collect()))
}

fn shards_of(owners: &Owners, node: usize) -> Vec<u32> {
    owners.iter().filter(|(_, (owner, _))| *owner == node).map(|(shard, _)| u32::try_from(*shard).unwrap()).collect()
}

/// A node is stopped in order and started again, under load.
fn planned_moves() {
    let mut cluster = Cluster::start(setup(30)).unwrap();
    cluster.settled();
    let load = Load::of_nodes(&cluster, 0);
    std::thread::sleep(Duration::from_secs(5));
    let calm = Instant::now();
    std::thread::sleep(Duration::from_secs(10));
    println!("nobody moves, {CLIENTS} clients: {}", latencies(&load.since(calm)));
    let moving = Instant::now();
    for _ in 0..ROUNDS {
        cluster.nodes[0].signal(Signal::TERM);
        cluster.nodes[0].ended();
        cluster.nodes[0].start();
        cluster.settled();
    }
    println!("a node stops and comes back, {ROUNDS} times: {}", latencies(&load.since(moving)));
}

/// A node falls silent, is killed, or is killed and started again at once; each of its shards has a client meanwhile.
fn takeovers(lease: u64) {
    let mut cluster = Cluster::start(setup(lease)).unwrap();
    cluster.settled();
    let load = Load::of_nodes(&cluster, 0);
    let away = Duration::from_secs(lease * 2 + 2);
    let (mut silent, mut killed, mut restarted) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..TAKEOVERS {
        load.watch(shards_of(&cluster.settled(), 0));
        let stopped = Instant::now();
        cluster.nodes[0].signal(Signal::STOP);
        std::thread::sleep(away);
        silent.extend(load.silences(stopped));
        cluster.nodes[0].signal(Signal::CONT);

        load.watch(shards_of(&cluster.settled(), 0));
        let dead = Instant::now();
        cluster.nodes[0].kill();
        std::thread::sleep(away);
        killed.extend(load.silences(dead));
        cluster.nodes[0].start();

        load.watch(shards_of(&cluster.settled(), 0));
        let dead = Instant::now();
        cluster.nodes[0].kill();
        cluster.nodes[0].start();
        std::thread::sleep(away);
        restarted.extend(load.silences(dead));
    }
    let until = format!("sessions of {lease} s, from the last answer of the old owner to the first of the new one");
    println!("silence (SIGSTOP), {until}: {}", tail(silent));
    println!("kill -9, {until}: {}", tail(killed));
    println!("kill -9 and started at once, {until}: {}", tail(restarted));
}

/// What a node says of itself.
fn said(api: SocketAddr, field: &str) -> Result<u64, String> {
    let answer = request(api, "GET /v1/node", &[], "").map_err(|why| why.to_string())?;
    answer.json()[field].as_u64().ok_or_else(|| answer.text())
}

/// Waits until something is so at every node, and looks often.
fn at_every_node(cluster: &Cluster, is_so: impl Fn(SocketAddr) -> Result<bool, String> + Sync) {
    std::thread::scope(|scope| {
        for node in &cluster.nodes {
            let (api, is_so) = (node.api, &is_so);
            scope.spawn(move || {
                let began = Instant::now();
                while !is_so(api).is_ok_and(|so| so) {
                    assert!(began.elapsed() < PATIENCE, "{api}: {:?}", is_so(api));
                    std::thread::sleep(LOOK);
                }
            });
        }
    });
}

/// A node wishes to have no shards, and then to have some again: how long until every node goes by the new map, and until all
/// that moves is served by its new owner.
fn map_changes() {
    let lease = Duration::from_secs(30);
    let cluster = Cluster::start(Setup { shards: MANY, lease, renew: lease / 3, ..Setup::default() }).unwrap();
    let is_settled = |api| Ok(said(api, "held")? == said(api, "assigned")?);
    cluster.settled();
    let (mut published, mut served) = (Vec::new(), Vec::new());
    for change in 0..MAP_CHANGES {
        at_every_node(&cluster, is_settled);
        // What else would be on the way, the controller has seen by then.
        std::thread::sleep(Duration::from_secs(2));
        let before = cluster.nodes.iter().map(|node| said(node.api, "mapRevision").unwrap()).max().unwrap();
        let (node, wish) = (change / 2 % cluster.nodes.len(), ["drain", "undrain"][change % 2]);
        let began = Instant::now();
        let answer = request(cluster.nodes[node].api, &format!("POST /v1/node:{wish}"), &[], "{}");
        assert!(answer.is_ok_and(|answer| answer.status.is_success()), "{wish} is refused");
        at_every_node(&cluster, |api| Ok(said(api, "mapRevision")? > before));
        published.push(began.elapsed());
        at_every_node(&cluster, is_settled);
        served.push(began.elapsed());
    }
    let moved = MANY as usize / cluster.nodes.len();
    println!(
        "a map of {MANY} shards changes, since a node wishes it; until all five nodes go by it (target: under 1 s): {}",
        tail(published)
    );
    println!("until each of the {moved} shards that move with it is served by its new owner: {}", tail(served));
}

/// How long after the death of a holder another one takes over, with leases as Kubernetes' client-go has them by default: 15 s
/// long, renewed and looked at every 2 s. Simulated: all that matters are the two phases.
fn of_client_go() -> Vec<Duration> {
    let (lease, period) = (Duration::from_secs(15), Duration::from_secs(2));
    let mut dice = Dice::new(1);
    let mut silence = || {
        let (renewed, looked) = (dice.between(Duration::ZERO, period), dice.between(Duration::ZERO, period));
        // The look that sees the last renewal first, and the first one after which the lease is over.
        let seen = looked;
        let looks = lease.as_nanos() / period.as_nanos() + 1;
        (seen + period * u32::try_from(looks).unwrap()).saturating_sub(renewed)
    };
    (0..100_000).map(|_| silence()).collect()
}

fn idle(shards: u32) {
    let lease = Duration::from_secs(30);
    let cluster = Cluster::start(Setup { shards, lease, renew: lease / 3, ..Setup::default() }).unwrap();
    cluster.settled();
    std::thread::sleep(lease);
    let counts = || cluster.nodes.iter().map(|node| node.outward.requests()).collect::<Vec<_>>();
    let before = counts();
    std::thread::sleep(IDLE);
    let mut asked: Vec<usize> = counts().iter().zip(before).map(|(now, before)| now - before).collect();
    asked.sort_unstable();
    println!(
        "requests of each idle node to the store in {IDLE:?}, {shards} shards, the most are the leader's: {asked:?}"
    );
}

#[test]
#[ignore = "measures: `make bench`"]
fn of_planned_moves() {
    planned_moves();
}

#[test]
#[ignore = "measures: `make bench`"]
fn of_map_changes() {
    map_changes();
}

#[test]
#[ignore = "measures: `make bench`"]
fn of_takeovers() {
    takeovers(2);
    println!("the same with a lease as client-go's (15 s, 10 s, 2 s), simulated: {}", tail(of_client_go()));
    println!(
        "the same with a lease that is taken by compareAndSwap from null: never, one that has run out is not null"
    );
}

#[test]
#[ignore = "measures: `make bench`"]
fn of_idle_nodes() {
    idle(16);
    idle(4096);
}
