//! Generates operations of several clients at once, lets them happen, and judges each key's history: is it that of one
//! operation after the other?
//!
//! The generator's seed is fixed, unless `BRAINY_TEST_SEED` says another, and so is the number of histories. Turns are given, not timed: in one thread a run is the
//! same each time, and shrinks to the smallest one that still fails.

pub(crate) mod generate;
mod record;
pub(crate) mod rough;
mod spec;

use std::cell::RefCell;
use std::sync::Arc;

use brainy_storage::StorageAdapter;
use brainy_storage::layers::caching::{Cache, CacheSize};
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};
use tokio::runtime::{Builder, Runtime};

use generate::{Run, any_run};
use record::{Tally, perform};
use rough::Rough;

pub(crate) type Store = Arc<dyn StorageAdapter>;

pub(crate) fn threads() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// Which histories are generated.
#[derive(Clone, Copy)]
pub(crate) enum Seed {
    /// Always the same: they are known to show what a test looks for.
    Same,
    /// Those of the number in `BRAINY_TEST_SEED`; without it always the same.
    Any,
}

impl Seed {
    pub(crate) fn random(self) -> TestRng {
        match (self, std::env::var("BRAINY_TEST_SEED")) {
            (Self::Any, Ok(number)) => {
                let mut bytes = [0; 32];
                bytes[..8].copy_from_slice(&number.parse::<u64>().unwrap().to_le_bytes());
                TestRng::from_seed(RngAlgorithm::ChaCha, &bytes)
            }
            _ => TestRng::deterministic_rng(RngAlgorithm::ChaCha),
        }
    }
}

/// Generates runs and judges their histories; fails with the smallest run that went wrong.
pub(crate) fn judge(
    runtime: &Runtime,
    histories: u32,
    seed: Seed,
    rough: bool,
    store: impl Fn(&Run) -> Store,
) -> Result<Tally, TestError<Run>> {
    let config = Config { cases: histories, failure_persistence: None, max_shrink_iters: 1000, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, seed.random());
    let total = RefCell::new(Tally::default());
    runner.run(&any_run(rough), |run| {
        let log = runtime.block_on(async { perform(&run, store(&run)).await });
        total.borrow_mut().add(log.tally());
        log.judge().map_err(TestCaseError::fail)
    })?;
    Ok(total.into_inner())
}

/// As [`judge`], with lost messages and without. What was judged must be worth it.
pub(crate) fn judge_both(runtime: &Runtime, histories: u32, store: impl Fn(&Run) -> Store) {
    for rough in [false, true] {
        let judged = judge(runtime, histories, Seed::Any, rough, &store);
        let tally = judged.unwrap_or_else(|why| panic!("{why}"));
        println!("{tally:?}");
        assert!(tally.at_once > 0, "nothing happens at once: {tally:?}");
        assert!(tally.failed * 20 < tally.operations, "too much fails: {tally:?}");
        assert_eq!(tally.unknown > 0, rough, "{tally:?}");
    }
}

/// As [`judge_both`], with a rough road to the store.
pub(crate) fn is_linearizable(
    runtime: &Runtime,
    histories: u32,
    layer: impl Fn(Store) -> Store,
    store: impl Fn() -> Store,
) {
    judge_both(runtime, histories, |run| layer(Rough::over(store(), run.weather.clone())));
}

/// The store itself, and the store behind a cache.
pub(crate) fn is_linearizable_with_and_without_a_cache(runtime: &Runtime, histories: u32, store: impl Fn() -> Store) {
    is_linearizable(runtime, histories, |store| store, &store);
    let cache = Cache::new(CacheSize::default());
    is_linearizable(runtime, histories, |store| cache.over(store), &store);
    assert!(cache.counts().hits > 0, "the cache was never asked in vain");
}
