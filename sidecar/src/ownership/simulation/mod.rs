//! Whole clusters in one thread and one seed: the real runtime and router of three to seven nodes, of each strategy, over
//! the real bucket adapter, controllers that decide as the operator's do, clients, and between them a network and a store that lose,
//! delay, repeat and refuse. Processes are killed, stand still and start again at any moment, and no two clocks agree.
//!
//! - [`plan`]: what a seed says; [`troubles`]: how that happens.
//! - [`world`]: what there is; [`store`], [`volumes`], [`nodes`], [`controllers`], [`clients`]: who acts in it.
//! - [`wishes`]: nodes that ask for shards, or for none.
//! - [`checks`]: what must hold at every moment; [`history`]: what must hold of all that clients were told.
//! - [`trace`]: what happened, for whoever wants to read it.
//!
//! One seed gives one course of events: see [`simulated`](crate::host::simulated). `BRAINY_SIM_SEED` replays one and prints
//! what happens; `BRAINY_SIM_SEEDS` says how many are tried.

mod checks;
mod clients;
mod controllers;
mod history;
mod nodes;
mod plan;
#[allow(dead_code, reason = "the tests of storage need all of it")]
#[path = "../../../storage/tests/linearizability/harness/spec.rs"]
mod spec;
mod store;
mod trace;
mod troubles;
mod volumes;
mod wishes;
mod world;

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use brainy_coordination::ShardId;
use brainy_storage::chance;
use tokio::runtime::Builder;
use tracing_subscriber::layer::SubscriberExt;

use clients::Client;
use world::World;

/// Seeds tried where nobody says how many.
const SEEDS: u64 = 200;
/// Threads that try them.
const THREADS: u64 = 2;

/// What is written down of what happens.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Written {
    Nothing,
    /// What processes ask of each other and are told.
    Events,
    /// What they log besides. Where other threads log elsewhere at the same time, some of it may be missing.
    Everything,
}

/// What came of a seed.
#[derive(Debug)]
struct Outcome {
    failure: Option<String>,
    trace: Vec<String>,
    tally: Tally,
}

/// What a seed was made of.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    operations: usize,
    acknowledged: usize,
    unknown: usize,
    processes: usize,
    maps: usize,
    chains: usize,
    late: usize,
    wishes: usize,
    simulated: Duration,
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.operations += other.operations;
        self.acknowledged += other.acknowledged;
        self.unknown += other.unknown;
        self.processes += other.processes;
        self.maps += other.maps;
        self.chains += other.chains;
        self.late += other.late;
        self.wishes += other.wishes;
        self.simulated += other.simulated;
    }
}

/// Lets what a seed says happen.
fn simulate(seed: u64, written: Written) -> Outcome {
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    chance::repeat(Some(seed));
    let (outcome, world) = runtime.block_on(async {
        let world = World::new(seed, written != Written::Nothing);
        let logged = (written == Written::Everything).then(|| {
            tracing::subscriber::set_default(tracing_subscriber::registry().with(trace::Logged(Arc::clone(&world))))
        });
        world.say("seed", || format!("{seed}: {:?}", world.plan));
        let watching = Arc::clone(&world);
        let running = tokio::spawn(world.scheduler.clone().run(move || watching.look()));
        drop(world.wire.spawn(story(Arc::clone(&world))));
        let ended = running.await;
        drop(logged);
        if let Err(panic) = ended {
            world.fail(format!("the simulation itself has panicked: {panic}"));
        }
        let (operations, acknowledged, unknown) = world.histories.lock().unwrap().counts();
        let (chains, late) = {
            let checks = world.checks.lock().unwrap();
            (checks.chains, checks.late)
        };
        let tally = Tally {
            operations,
            acknowledged,
            unknown,
            processes: world.started.load(Ordering::Relaxed),
            maps: world.maps.lock().unwrap().len(),
            chains,
            late,
            wishes: world.wishes.load(Ordering::Relaxed),
            simulated: world.scheduler.elapsed(),
        };
        (Outcome { failure: world.failure(), trace: world.trace.lines(), tally }, world)
    });
    drop(runtime);
    world.dissolve();
    chance::repeat(None);
    outcome
}

/// Nodes start, there is trouble, it ends; then every shard is served again, and what was acknowledged is there.
async fn story(world: Arc<World>) {
    for node in world.nodes() {
        world.start(&node, true);
    }
    let controllers = (0..world.plan.controllers).map(|number| world.control(number, 0)).collect();
    let clients: Vec<_> =
        (0..world.plan.clients).map(|number| world.wire.spawn(Client::new(&world, number).run())).collect();
    if let Some(pace) = world.plan.wishes {
        drop(world.wire.spawn(Arc::clone(&world).wish(pace)));
    }
    let troubled = Arc::clone(&world);
    let _ended = world.wire.spawn(troubled.trouble(controllers)).await;
    let before = world.scheduler.elapsed();
    while !settled(&world) || !world.unmet().is_empty() {
        if world.scheduler.elapsed() - before > world.plan.bound() {
            let views = format!("{:?}; {}", world.unmet(), in_words(&world));
            return world.fail(format!(
                "not every shard is served, or a wish not met, {:?} after the end of all trouble: {views}",
                world.plan.bound()
            ));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    world.say("all", || "every shard is served".into());
    for client in clients {
        let _ended = client.await;
    }
    let mut reader = Client::new(&world, world.plan.clients);
    let keys = world.histories.lock().unwrap().keys();
    for key in keys {
        if tokio::time::timeout(world.plan.bound(), reader.read_at_last(&key)).await.is_err() {
            return world.fail(format!("key {key} can't be read"));
        }
    }
    if let Err(why) = world.histories.lock().unwrap().judge() {
        return world.fail(why);
    }
    world.end();
}

/// Whether every shard is served, by a node that is content, and nothing is left to be copied.
fn settled(world: &World) -> bool {
    let alive = world.alive.lock().unwrap();
    let served = |shard| alive.values().any(|process| process.table().tenure(ShardId(shard)).is_some());
    let all = (0..world.plan.shards).all(served) && alive.values().all(|process| process.ownership.status().ready);
    all && world.is_tidy()
}

fn in_words(world: &World) -> String {
    let alive = world.alive.lock().unwrap();
    let status = alive.values().map(|process| {
        let shards: Vec<_> = (0..world.plan.shards).map(|shard| process.ownership.describe(ShardId(shard))).collect();
        format!("{:?}: {:?} {shards:?}", process.host, process.ownership.status())
    });
    status.collect::<Vec<_>>().join("; ")
}

/// How to see a seed again.
fn replay(seed: u64) -> String {
    format!("BRAINY_SIM_SEED={seed} cargo test -p brainy-sidecar simulation::replay -- --nocapture")
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{variable}={text} is no number")))
}

/// Tries seeds from the first on, and returns the lowest one that fails.
fn try_seeds(first: u64, count: u64) -> Result<Tally, (u64, String)> {
    let next = AtomicU64::new(first);
    let work = || {
        let mut tally = Tally::default();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= first + count {
                return Ok(tally);
            }
            let outcome = simulate(seed, Written::Nothing);
            tally.add(outcome.tally);
            if let Some(failure) = outcome.failure {
                next.store(first + count, Ordering::Relaxed);
                return Err((seed, failure));
            }
        }
    };
    let results: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(work)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let mut total = Tally::default();
    let mut failures = Vec::new();
    for result in results {
        match result {
            Ok(tally) => total.add(tally),
            Err(failure) => failures.push(failure),
        }
    }
    failures.into_iter().min().map_or(Ok(total), Err)
}

#[test]
fn every_shard_has_one_owner_and_no_write_is_lost_whatever_happens() {
    let (first, count) = (number("BRAINY_SIM_FIRST").unwrap_or(1), number("BRAINY_SIM_SEEDS").unwrap_or(SEEDS));
    match try_seeds(first, count) {
        Ok(tally) => {
            println!("{count} seeds: {tally:?}");
            assert!(tally.acknowledged * 2 > tally.operations, "too little is served to be worth it: {tally:?}");
            assert!(tally.unknown > 0 && tally.processes as u64 > count * 4, "too little goes wrong: {tally:?}");
            assert!(
                count < 100 || (tally.chains > 0 && tally.late > 0 && tally.wishes > 0),
                "nothing comes late, or nothing is left to be copied: {tally:?}"
            );
        }
        Err((seed, failure)) => panic!("seed {seed}: {failure}\nTo see what happened:\n  {}", replay(seed)),
    }
}

/// Prints what happens in the one seed that is named.
#[test]
fn replay_of_one_seed() {
    let Some(seed) = number("BRAINY_SIM_SEED") else { return };
    let outcome = simulate(seed, Written::Everything);
    for line in &outcome.trace {
        println!("{line}");
    }
    println!("{:?}", outcome.tally);
    assert_eq!(outcome.failure, None);
}

#[test]
fn a_seed_gives_the_same_course_of_events_each_time() {
    for seed in 1..=8 {
        let digest = || {
            let mut hasher = DefaultHasher::new();
            let outcome = simulate(seed, Written::Events);
            outcome.trace.hash(&mut hasher);
            (outcome.trace.len(), hasher.finish())
        };
        let first = digest();
        assert!(first.0 > 100);
        assert_eq!(digest(), first, "seed {seed}");
    }
}
