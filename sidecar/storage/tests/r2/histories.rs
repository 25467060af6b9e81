//! Generated operations of several clients at once, on R2: through the Worker, and by its S3 API.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::harness::{is_linearizable_with_and_without_a_cache, threads};
use crate::s3::s3;
use crate::worker::Worker;

/// As many as against any store that has to be waited for.
const HISTORIES: u32 = 40;

#[test]
fn r2_is_linearizable() {
    let (runtime, store, count) = (threads(), Worker::shared().store("histories"), AtomicU32::new(0));
    runtime.block_on(store.prove()).unwrap();
    is_linearizable_with_and_without_a_cache(&runtime, HISTORIES, || {
        Arc::new(store.adapter(&count.fetch_add(1, Ordering::Relaxed).to_string()))
    });
}

#[test]
fn r2_is_linearizable_by_its_s3_api() {
    let (runtime, count) = (threads(), AtomicU32::new(0));
    let store = runtime.block_on(s3(Worker::shared(), "s3-histories"));
    runtime.block_on(store.prove()).unwrap();
    is_linearizable_with_and_without_a_cache(&runtime, HISTORIES, || {
        Arc::new(store.adapter(&count.fetch_add(1, Ordering::Relaxed).to_string()))
    });
}
