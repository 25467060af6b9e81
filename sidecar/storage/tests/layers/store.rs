//! A store that tests can hold up, cut off and count.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use brainy_storage::backends::memory::MemoryAdapter;
use brainy_storage::{
    Condition, Done, Entry, Error, Key, Namespace, Operation, OperationId, Outcome, Page, Requests, StorageAdapter,
    Unknown, Value, Version, WriteResult,
};
use serde_json::json;
use tokio::sync::Semaphore;

/// Nothing here waits for this long, unless it waits for ever.
pub(crate) const LONG: Duration = Duration::from_secs(60);

pub(crate) fn number(n: i64) -> Value {
    Value::Json(json!(n))
}

/// A store whose reads can be held up before and after they have looked, whose writes can be held up before they take effect, or lose
/// their answers.
#[derive(Debug)]
pub(crate) struct Slow {
    pub(crate) inner: MemoryAdapter,
    pub(crate) reads: AtomicU32,
    /// Conditions of the writes.
    pub(crate) writes: Mutex<Vec<Condition>>,
    /// How many operations were asked for as one, each time.
    pub(crate) portions: Mutex<Vec<usize>>,
    pub(crate) hold_looks: AtomicBool,
    pub(crate) hold_reads: AtomicBool,
    pub(crate) hold_writes: AtomicBool,
    /// One for each that is held up.
    pub(crate) looked: Semaphore,
    pub(crate) go_on: Semaphore,
    pub(crate) lose_answers: AtomicBool,
    /// So many of the next reads fail.
    pub(crate) blind: AtomicU32,
    /// Writes of this key fail cleanly.
    pub(crate) broken: Mutex<Option<Key>>,
    /// The next reads and writes fail so, cleanly.
    pub(crate) failures: Mutex<VecDeque<Error>>,
}

impl Slow {
    pub(crate) fn new() -> Self {
        Self {
            inner: MemoryAdapter::new(),
            reads: AtomicU32::new(0),
            writes: Mutex::default(),
            portions: Mutex::default(),
            hold_looks: AtomicBool::new(false),
            hold_reads: AtomicBool::new(false),
            hold_writes: AtomicBool::new(false),
            looked: Semaphore::new(0),
            go_on: Semaphore::new(0),
            lose_answers: AtomicBool::new(false),
            blind: AtomicU32::new(0),
            broken: Mutex::default(),
            failures: Mutex::default(),
        }
    }

    async fn hold(&self, hold: &AtomicBool) {
        if hold.load(Ordering::SeqCst) {
            self.looked.add_permits(1);
            self.go_on.acquire().await.unwrap().forget();
        }
    }

    fn check(&self) -> Result<(), Error> {
        self.failures.lock().unwrap().pop_front().map_or(Ok(()), Err)
    }
}

#[async_trait]
impl StorageAdapter for Slow {
    async fn get(&self, key: &Key) -> Result<Option<Entry>, Error> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        self.check()?;
        if self.blind.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |blind| blind.checked_sub(1)).is_ok() {
            return Err(Error::unavailable("Blind", "it can't be read"));
        }
        self.hold(&self.hold_looks).await;
        let found = self.inner.get(key).await;
        self.hold(&self.hold_reads).await;
        found
    }

    async fn put(&self, key: &Key, value: Value, condition: &Condition) -> WriteResult<Version> {
        self.writes.lock().unwrap().push(condition.clone());
        if self.broken.lock().unwrap().as_ref() == Some(key) {
            return Err(Error::unavailable("Broken", "this key can't be written"));
        }
        self.check()?;
        self.hold(&self.hold_writes).await;
        let outcome = self.inner.put(key, value, condition).await;
        if self.lose_answers.load(Ordering::SeqCst) {
            return Ok(Outcome::Unknown(Unknown("the answer was lost".into())));
        }
        outcome
    }

    async fn remove(&self, key: &Key, condition: &Condition) -> WriteResult<bool> {
        self.inner.remove(key, condition).await
    }

    async fn perform_once(&self, key: &Key, operation: Operation, id: &OperationId) -> WriteResult<Done> {
        self.inner.perform_once(key, operation, id).await
    }

    async fn perform(&self, key: &Key, requests: Requests) -> Vec<WriteResult<Done>> {
        self.portions.lock().unwrap().push(requests.len());
        self.inner.perform(key, requests).await
    }

    async fn list(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Page, Error> {
        self.inner.list(prefix, after, limit).await
    }

    fn with_namespace(&self, namespace: &Namespace) -> Arc<dyn StorageAdapter> {
        self.inner.with_namespace(namespace)
    }
}
