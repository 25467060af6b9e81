//! Generated operations of several clients at once, on every adapter: is each key's history that of one operation after
//! the other? R2's are judged where its runtime is tested, in `tests/r2`. Needs `BRAINY_VERSITYGW` for S3, the path of a
//! versitygw binary.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod broken;
mod bucket;
#[path = "../s3/gateway.rs"]
#[allow(dead_code, reason = "other tests of S3 need more of it")]
mod gateway;
mod harness;
#[path = "../tiering/restless.rs"]
#[allow(dead_code, reason = "other tests need more of it")]
mod restless;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use brainy_storage::backends::embedded::EmbeddedDatabase;
use brainy_storage::backends::filesystem::FilesystemAdapter;
use brainy_storage::backends::memory::MemoryAdapter;
use brainy_storage::layers::batching::{Ack, Batching};
use brainy_storage::layers::caching::{Cache, CacheSize};
use brainy_storage::layers::limiting::{Limiter, Limiting};
use proptest::test_runner::TestError;
use tokio::runtime::{Builder, Runtime};

use broken::{Broken, FLAWS};
use bucket::FarBucket;
use gateway::Gateway;
use harness::generate::Run;
use harness::rough::Rough;
use harness::{Seed, Store, is_linearizable, is_linearizable_with_and_without_a_cache, judge, judge_both, threads};

/// Histories against memory.
const MANY: u32 = 400;
/// Histories against what has a disk or a network to wait for.
const FEW: u32 = 40;

fn one_thread() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
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

/// Whatever becomes of single requests: some are lost, some come late, every other one comes twice.
#[test]
fn a_bucket_is_linearizable_at_the_end_of_a_rough_road() {
    let bucket = |run: &Run| FarBucket::adapter(run.weather.clone(), false);
    judge_both(&one_thread(), MANY, bucket);
    let cache = Cache::new(CacheSize::default());
    judge_both(&one_thread(), MANY, |run| cache.over(bucket(run)));
}

/// Why tombstones stay: a creation that arrives again brings back what was removed.
#[test]
fn a_bucket_that_loses_its_tombstones_is_caught() {
    let judged = judge(&one_thread(), MANY, Seed::Same, true, |run| FarBucket::adapter(run.weather.clone(), true));
    assert!(matches!(&judged, Err(TestError::Fail(..))), "nothing noticed: {judged:?}");
}

/// Acknowledged before they are durable. Lost messages are the buffer's to find out about: clients hear of none.
#[test]
fn memory_is_linearizable_behind_a_buffer() {
    let batching = Batching { max_delay_ms: 0, max_items: 4, ack: Ack::Buffered };
    for rough in [false, true] {
        let store = |run: &Run| batching.over(Rough::over(Arc::new(MemoryAdapter::new()), run.weather.clone()));
        let tally = judge(&threads(), MANY, Seed::Any, rough, store).unwrap_or_else(|why| panic!("{why}"));
        println!("{tally:?}");
        assert!(tally.at_once > 0 && tally.failed == 0, "{tally:?}");
    }
}

/// While everything is demoted and promoted all the time; with a bucket at the end of a rough road as the cold tier.
#[test]
fn two_tiers_are_linearizable() {
    let memory = || -> Store { Arc::new(MemoryAdapter::new()) };
    for runtime in [one_thread(), threads()] {
        for rough in [false, true] {
            let tiers = restless::tiers();
            let store = |run: &Run| restless::over(&tiers, memory(), FarBucket::adapter(run.weather.clone(), false));
            let judged = judge(&runtime, MANY, Seed::Any, rough, store);
            let tally = judged.unwrap_or_else(|why| panic!("{why}"));
            println!("{tally:?}");
            assert!(tally.at_once > 0 && tally.unknown == 0, "{tally:?}");
            assert!(tally.failed * 20 < tally.operations, "too much fails: {tally:?}");
            restless::assert_moved(&tiers);
        }
    }
}

#[test]
fn an_embedded_database_and_a_bucket_are_linearizable_as_tiers() {
    let (folder, count) = (tempfile::tempdir().unwrap(), AtomicU32::new(0));
    let database = EmbeddedDatabase::open(folder.path()).unwrap();
    let tiers = restless::tiers();
    let store = |run: &Run| {
        let hot = database.store(&count.fetch_add(1, Ordering::Relaxed).to_string()).unwrap();
        restless::over(&tiers, Arc::new(hot), FarBucket::adapter(run.weather.clone(), false))
    };
    // A short history may be over before a slow disk has let anything move there and back.
    for _ in 0..20 {
        let judged = judge(&threads(), FEW, Seed::Any, true, store);
        let tally = judged.unwrap_or_else(|why| panic!("{why}"));
        assert!(tally.at_once > 0 && tally.unknown == 0, "{tally:?}");
        if restless::have_moved(&tiers) {
            break;
        }
    }
    restless::assert_moved(&tiers);
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
fn embedded_is_linearizable() {
    let (folder, count) = (tempfile::tempdir().unwrap(), AtomicU32::new(0));
    let database = EmbeddedDatabase::open(folder.path()).unwrap();
    is_linearizable_with_and_without_a_cache(&threads(), FEW, || {
        Arc::new(database.store(&count.fetch_add(1, Ordering::Relaxed).to_string()).unwrap())
    });
}

#[test]
fn s3_is_linearizable() {
    let (runtime, count) = (threads(), AtomicU32::new(0));
    let gateway = runtime.block_on(Gateway::start());
    let store = runtime.block_on(gateway.store());
    // As before any use: unproved, a read may be the body of one version under the ETag of another.
    runtime.block_on(store.prove()).unwrap();
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
        match judge(&runtime, MANY, Seed::Same, flaw.is_about_losses(), store) {
            Err(TestError::Fail(why, run)) => println!("{flaw:?}: {run:?}\n{why}"),
            other => panic!("nothing noticed that {flaw:?}: {other:?}"),
        }
    }
}
