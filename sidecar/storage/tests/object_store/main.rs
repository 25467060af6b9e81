//! A suite that no one here wrote: the crate `object_store` brings the tests that its own stores must pass, and they are
//! run on an `ObjectStore` made of an adapter. Needs `BRAINY_VERSITYGW` for S3, the path of a versitygw binary, and Node with
//! `BRAINY_MINIFLARE` for R2, a folder that `scripts/miniflare.sh` makes.
//!
//! Left out is `response_extensions`: it is about HTTP responses that a middleware of that crate has marked.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod broken;
#[path = "../linearizability/bucket.rs"]
#[allow(dead_code, reason = "other tests need more of it")]
mod bucket;
#[path = "../s3/gateway.rs"]
#[allow(dead_code, reason = "other tests of S3 need more of it")]
mod gateway;
#[path = "../linearizability/harness/mod.rs"]
#[allow(dead_code, reason = "other tests need more of it")]
mod harness;
mod multipart;
mod object;
#[path = "../tiering/restless.rs"]
mod restless;
mod store;
#[path = "../r2/worker.rs"]
#[allow(dead_code, reason = "other tests of R2 need more of it")]
mod worker;

use std::any::Any;
use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use brainy_storage::StorageAdapter;
use brainy_storage::backends::filesystem::FilesystemAdapter;
use brainy_storage::backends::memory::MemoryAdapter;
use brainy_storage::conformance::Report;
use brainy_storage::layers::caching::{Cache, CacheSize};
use futures::FutureExt;
use futures::future::LocalBoxFuture;
use object_store::integration as suite;

use broken::{Broken, FLAWS};
use gateway::Gateway;
use store::Objects;
use worker::Worker;

/// A function of the suite; it panics where something is wrong.
type Function = (&'static str, fn(Objects) -> LocalBoxFuture<'static, ()>);

/// No function may take longer: an adapter that hangs has failed.
const LIMIT: Duration = Duration::from_secs(120);

const FUNCTIONS: &[Function] = &[
    ("put_get_delete_list", |s| async move { suite::put_get_delete_list(&s).await }.boxed_local()),
    ("put_get_attributes", |s| async move { suite::put_get_attributes(&s).await }.boxed_local()),
    ("get_opts", |s| async move { suite::get_opts(&s).await }.boxed_local()),
    ("put_opts", |s| async move { suite::put_opts(&s, true).await }.boxed_local()),
    ("stream_get", |s| async move { suite::stream_get(&s).await }.boxed_local()),
    ("list_uses_directories", |s| async move { suite::list_uses_directories_correctly(&s).await }.boxed_local()),
    ("list_with_delimiter", |s| async move { suite::list_with_delimiter(&s).await }.boxed_local()),
    ("list_with_offset", |s| async move { suite::list_with_offset_exclusivity(&s).await }.boxed_local()),
    ("list_paginated", |s| async move { suite::list_paginated(&s, &s).await }.boxed_local()),
    ("get_nonexistent_object", |s| {
        let got = async move { suite::get_nonexistent_object(&s, None).await };
        got.map(|got| assert!(matches!(got, Err(object_store::Error::NotFound { .. })))).boxed_local()
    }),
    ("rename_and_copy", |s| async move { suite::rename_and_copy(&s).await }.boxed_local()),
    ("copy_if_not_exists", |s| async move { suite::copy_if_not_exists(&s).await }.boxed_local()),
    ("copy_rename_nonexistent", |s| async move { suite::copy_rename_nonexistent_object(&s).await }.boxed_local()),
    ("multipart", |s| async move { suite::multipart(&s, &s).await }.boxed_local()),
    ("multipart_with_opts", |s| async move { suite::multipart_with_opts(&s, &s).await }.boxed_local()),
    ("multipart_put_part_out_of_order", |s| {
        async move { suite::multipart_put_part_out_of_order(&s, &s).await }.boxed_local()
    }),
    ("multipart_out_of_order", |s| async move { suite::multipart_out_of_order(&s).await }.boxed_local()),
    ("multipart_race_condition", |s| async move { suite::multipart_race_condition(&s, true).await }.boxed_local()),
];

/// Where they fail they say so in some hundred megabytes: the body that was written, and the one that was read.
const WORDY: [&str; 2] = ["stream_get", "multipart_out_of_order"];

/// Runs functions, each on a new, empty store.
async fn run(functions: &[Function], new_adapter: impl Fn() -> Arc<dyn StorageAdapter>) -> Report {
    let mut report = Report::default();
    for (name, function) in functions {
        let ran = AssertUnwindSafe(function(Objects(new_adapter()))).catch_unwind();
        match tokio::time::timeout(LIMIT, ran).await {
            Ok(Ok(())) => report.passed.push(name),
            Ok(Err(panic)) => report.failed.push((name, words(&*panic))),
            Err(_) => report.failed.push((name, format!("took longer than {LIMIT:?}"))),
        }
    }
    report
}

fn words(panic: &(dyn Any + Send)) -> String {
    let formatted = panic.downcast_ref::<String>().cloned();
    formatted.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_default()
}

async fn passes(new_adapter: impl Fn() -> Arc<dyn StorageAdapter>) {
    let report = run(FUNCTIONS, new_adapter).await;
    assert!(report.is_clean(), "{report}");
}

/// As [`passes`], with each store behind a cache.
async fn passes_cached(new_adapter: impl Fn() -> Arc<dyn StorageAdapter>) {
    let cache = Cache::new(CacheSize::default());
    passes(|| cache.over(new_adapter())).await;
    assert!(cache.counts().hits > 0, "the cache was never asked in vain");
}

/// Names of stores, each another.
fn names() -> impl Fn() -> String {
    let count = AtomicU32::new(0);
    move || format!("{:03}", count.fetch_add(1, Ordering::Relaxed))
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_is_an_object_store() {
    passes(|| Arc::new(MemoryAdapter::new())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cached_memory_is_an_object_store() {
    passes_cached(|| Arc::new(MemoryAdapter::new())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_tiers_are_an_object_store() {
    let hot = || -> Arc<dyn StorageAdapter> { Arc::new(MemoryAdapter::new()) };
    let tiers = restless::tiers();
    passes(|| restless::over(&tiers, hot(), restless::bucket())).await;
    restless::assert_moved(&tiers);
}

#[tokio::test(flavor = "multi_thread")]
async fn filesystem_is_an_object_store() {
    let (folder, next) = (tempfile::tempdir().unwrap(), names());
    passes(|| Arc::new(FilesystemAdapter::open(&folder.path().join(next())).unwrap())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cached_files_are_an_object_store() {
    let (folder, next) = (tempfile::tempdir().unwrap(), names());
    passes_cached(|| Arc::new(FilesystemAdapter::open(&folder.path().join(next())).unwrap())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_is_an_object_store() {
    let (gateway, next) = (Gateway::start().await, names());
    let store = gateway.store().await;
    passes(|| Arc::new(store.adapter(&next()))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cached_s3_is_an_object_store() {
    let (gateway, next) = (Gateway::start().await, names());
    let store = gateway.store().await;
    passes_cached(|| Arc::new(store.adapter(&next()))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r2_is_an_object_store() {
    let next = names();
    let store = Worker::shared().store("object-store");
    passes(|| Arc::new(store.adapter(&next()))).await;
}

/// Of each function that runs here we know that it can fail.
#[tokio::test(flavor = "multi_thread")]
async fn the_suite_catches_every_broken_adapter() {
    let functions: Vec<Function> = FUNCTIONS.iter().filter(|(name, _)| !WORDY.contains(name)).copied().collect();
    let (mut passed, mut failed) = (BTreeSet::new(), BTreeSet::new());
    for flaw in FLAWS {
        let report = run(&functions, || Broken::with(flaw)).await;
        assert!(!report.is_clean(), "the suite does not notice that {flaw:?}");
        assert!(!report.passed.is_empty(), "{flaw:?} breaks so much that it proves nothing: {report}");
        passed.extend(report.passed);
        failed.extend(report.failed.iter().map(|(name, _)| *name));
    }
    let needless: Vec<_> = passed.difference(&failed).collect();
    assert!(needless.is_empty(), "no flaw shows that these functions can fail: {needless:?}");
}
