//! How long clients wait while nodes come and go, and what an idle node asks of the store. Measures and asserts nothing.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use brainy_coordination::ShardId;
use rustix::process::Signal;

use super::clients::request;
use super::cluster::{Cluster, Owners, Setup};
use super::support::Dice;

const SHARDS: u32 = 256;
const CLIENTS: usize = 64;
/// Between two operations of a client.
const THINK: Duration = Duration::from_millis(100);
const ROUNDS: usize = 5;
/// How long requests of idle nodes are counted.
const IDLE: Duration = Duration::from_secs(60);

/// One operation: its shard, when it began and ended, whether it succeeded.
#[derive(Clone, Copy, Debug)]
struct Lap {
    shard: u32,
    began: Instant,
    ended: Instant,
    succeeded: bool,
}

/// Clients of some nodes, one key for each shard: half of the operations add to it, half read it.
struct Load {
    laps: Arc<Mutex<Vec<Lap>>>,
    over: Arc<AtomicBool>,
}

impl Load {
    fn start(cluster: &Cluster, except: usize) -> Self {
        let mut keys = BTreeMap::new();
        for key in (0..).map(|number| format!("key-{number}")) {
            keys.entry(ShardId::of("", &key, SHARDS).0).or_insert(key);
            if keys.len() == SHARDS as usize {
                break;
            }
        }
        let load = Self { laps: Arc::default(), over: Arc::default() };
        let apis: Vec<_> = cluster.nodes.iter().enumerate().filter(|(node, _)| *node != except).collect();
        for client in 0..CLIENTS {
            let (api, keys) = (apis[client % apis.len()].1.api, keys.clone());
            let (laps, over) = (Arc::clone(&load.laps), Arc::clone(&load.over));
            std::thread::spawn(move || {
                let mut dice = Dice::new(client as u64);
                while !over.load(Ordering::SeqCst) {
                    std::thread::sleep(dice.between(THINK / 2, THINK * 3 / 2));
                    let shard = u32::try_from(dice.below(SHARDS as usize)).unwrap();
                    let (key, began) = (&keys[&shard], Instant::now());
                    let answer = match dice.below(2) {
                        0 => request(api, &format!("GET /v1/kv/{key}"), &[], ""),
                        _ => request(api, "POST /v1/kv:increment", &[], &format!("{{\"key\":\"{key}\",\"delta\":1}}")),
                    };
                    let succeeded = answer.is_ok_and(|answer| matches!(answer.status.as_u16(), 200 | 404));
                    laps.lock().unwrap().push(Lap { shard, began, ended: Instant::now(), succeeded });
                }
            });
        }
        load
    }

    /// Those that ended after an instant.
    fn since(&self, instant: Instant) -> Vec<Lap> {
        self.laps.lock().unwrap().iter().filter(|lap| lap.ended > instant).copied().collect()
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

/// Of times: half are longer; at most 1 % are longer; the longest.
fn tail(mut times: Vec<Duration>) -> String {
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

/// For each shard of a node, from an instant to the first answer to an operation that began after it.
fn silences(load: &Load, had: &Owners, node: usize, from: Instant) -> Vec<Duration> {
    let mut first: BTreeMap<u32, Duration> = BTreeMap::new();
    for lap in load.since(from).iter().filter(|lap| lap.succeeded && lap.began > from) {
        let silence = first.entry(lap.shard).or_insert(Duration::MAX);
        *silence = (*silence).min(lap.ended - from);
    }
    let shards = had.iter().filter(|(_, (owner, _))| *owner == node).map(|(shard, _)| u32::try_from(*shard).unwrap());
    shards.filter_map(|shard| first.get(&shard).copied()).collect()
}

/// A node is stopped in order and started again, under load.
fn planned_moves() {
    let mut cluster = Cluster::start(setup(30)).unwrap();
    cluster.settled();
    let load = Load::start(&cluster, 0);
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

/// A node falls silent, or is killed and started again at once.
fn takeovers(lease: u64) {
    let mut cluster = Cluster::start(setup(lease)).unwrap();
    let mut had = cluster.settled();
    let load = Load::start(&cluster, 0);
    let (mut silent, mut killed) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let stopped = Instant::now();
        cluster.nodes[0].signal(Signal::STOP);
        std::thread::sleep(Duration::from_secs(lease * 2 + 2));
        silent.extend(silences(&load, &had, 0, stopped));
        cluster.nodes[0].signal(Signal::CONT);
        had = cluster.settled();
        let dead = Instant::now();
        cluster.nodes[0].kill();
        cluster.nodes[0].start();
        cluster.settled();
        // Until every shard was asked for.
        std::thread::sleep(Duration::from_secs(5));
        killed.extend(silences(&load, &had, 0, dead));
        had = cluster.settled();
    }
    println!("silence (SIGSTOP), sessions of {lease} s, until its shards are served again: {}", tail(silent));
    println!("kill -9 and started at once, sessions of {lease} s, until its shards are served again: {}", tail(killed));
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
fn figures() {
    planned_moves();
    takeovers(2);
    println!("the same with a lease as client-go's (15 s, 10 s, 2 s), simulated: {}", tail(of_client_go()));
    println!(
        "the same with a lease that is taken by compareAndSwap from null: never, one that has run out is not null"
    );
    idle(16);
    idle(4096);
}
