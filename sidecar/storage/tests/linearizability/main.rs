//! Generated operations of several clients at once: is each key's history that of one operation after the other? Needs
//! `BRAINY_VERSITYGW` for S3, the path of a versitygw binary.
//!
//! The generator's seed is fixed and so is the number of histories. Against memory everything happens in one thread, and
//! turns are given, not timed: the same run each time, which shrinks to the smallest one that still fails.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod broken;
#[path = "../s3/gateway.rs"]
#[allow(dead_code, reason = "other tests of S3 need more of it")]
mod gateway;
mod generate;
mod record;
mod rough;
mod spec;

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use brainy_storage::StorageAdapter;
use brainy_storage::backends::filesystem::FilesystemAdapter;
use brainy_storage::backends::memory::MemoryAdapter;
use brainy_storage::layers::batching::{Ack, Batching};
use brainy_storage::layers::caching::{Cache, CacheSize};
use brainy_storage::layers::limiting::{Limiter, Limiting};
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};
use tokio::runtime::{Builder, Runtime};

use broken::{Broken, FLAWS};
use gateway::Gateway;
use generate::{Run, any_run};
use record::{Tally, perform};
use rough::Rough;

/// Histories against memory.
const MANY: u32 = 400;
/// Histories against what has a disk or a network to wait for.
const FEW: u32 = 40;

type Store = Arc<dyn StorageAdapter>;

fn one_thread() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

fn threads() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// Generates runs and judges their histories; fails with the smallest run that went wrong.
fn judge(
    runtime: &Runtime,
    histories: u32,
    rough: bool,
    store: impl Fn(&Run) -> Store,
) -> Result<Tally, TestError<Run>> {
    let config = Config { cases: histories, failure_persistence: None, max_shrink_iters: 1000, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let total = RefCell::new(Tally::default());
    runner.run(&any_run(rough), |run| {
        let log = runtime.block_on(async { perform(&run, store(&run)).await });
        total.borrow_mut().add(log.tally());
        log.judge().map_err(TestCaseError::fail)
    })?;
    Ok(total.into_inner())
}

/// As [`judge`], with lost messages and without. What was judged must be worth it.
fn is_linearizable(runtime: &Runtime, histories: u32, layer: impl Fn(Store) -> Store, store: impl Fn() -> Store) {
    for rough in [false, true] {
        let judged = judge(runtime, histories, rough, |run| layer(Rough::over(store(), run.weather.clone())));
        let tally = judged.unwrap_or_else(|why| panic!("{why}"));
        println!("{tally:?}");
        assert!(tally.at_once > 0, "nothing happens at once: {tally:?}");
        assert!(tally.failed * 20 < tally.operations, "too much fails: {tally:?}");
        assert_eq!(tally.unknown > 0, rough, "{tally:?}");
    }
}

/// The store itself, and the store behind a cache.
fn is_linearizable_with_and_without_a_cache(runtime: &Runtime, histories: u32, store: impl Fn() -> Store) {
    is_linearizable(runtime, histories, |store| store, &store);
    let cache = Cache::new(CacheSize::default());
    is_linearizable(runtime, histories, |store| cache.over(store), &store);
    assert!(cache.counts().hits > 0, "the cache was never asked in vain");
}

#[test]
fn memory_is_linearizable() {
    is_linearizable_with_and_without_a_cache(&one_thread(), MANY, || Arc::new(MemoryAdapter::new()));
}

#[test]
fn memory_is_linearizable_among_threads() {
    is_linearizable_with_and_without_a_cache(&threads(), MANY, || Arc::new(MemoryAdapter::new()));
}

/// Few places, so that clients wait for each other; and reads that are repeated.
#[test]
fn memory_is_linearizable_within_limits() {
    let limiter = Limiter::new(Limiting { max_concurrent: 2, ..Limiting::default() });
    let memory = || -> Store { Arc::new(MemoryAdapter::new()) };
    is_linearizable(&threads(), MANY, |store| limiter.over(store), memory);
}

/// Acknowledged before they are durable. Lost messages are the buffer's to find out about: clients hear of none.
#[test]
fn memory_is_linearizable_behind_a_buffer() {
    let batching = Batching { max_delay_ms: 0, max_items: 4, ack: Ack::Buffered };
    for rough in [false, true] {
        let store = |run: &Run| batching.over(Rough::over(Arc::new(MemoryAdapter::new()), run.weather.clone()));
        let tally = judge(&threads(), MANY, rough, store).unwrap_or_else(|why| panic!("{why}"));
        println!("{tally:?}");
        assert!(tally.at_once > 0 && tally.failed == 0, "{tally:?}");
    }
}

#[test]
fn filesystem_is_linearizable() {
    let (folder, count) = (tempfile::tempdir().unwrap(), AtomicU32::new(0));
    is_linearizable_with_and_without_a_cache(&threads(), FEW, || {
        let name = count.fetch_add(1, Ordering::Relaxed).to_string();
        Arc::new(FilesystemAdapter::open(&folder.path().join(name)).unwrap())
    });
}

#[test]
fn s3_is_linearizable() {
    let (runtime, count) = (threads(), AtomicU32::new(0));
    let gateway = runtime.block_on(Gateway::start());
    let store = runtime.block_on(gateway.store());
    is_linearizable_with_and_without_a_cache(&runtime, FEW, || {
        Arc::new(store.adapter(&count.fetch_add(1, Ordering::Relaxed).to_string()))
    });
}

/// Within the same histories that sound adapters pass.
#[test]
fn every_broken_layer_is_caught() {
    let runtime = one_thread();
    for flaw in FLAWS {
        let store = |run: &Run| Broken::over(Rough::over(Arc::new(MemoryAdapter::new()), run.weather.clone()), flaw);
        match judge(&runtime, MANY, flaw.is_about_losses(), store) {
            Err(TestError::Fail(why, run)) => println!("{flaw:?}: {run:?}\n{why}"),
            other => panic!("nothing noticed that {flaw:?}: {other:?}"),
        }
    }
}
