//! Bounds what a store is asked at a time, and how long a caller waits for it.
//!
//! So many operations are under way at most. Others wait for a place in the order in which they came, and when too many
//! wait, the next one fails cleanly, with cause `Busy`: what a store can't take should be known at once, and not pile up in
//! memory. A batch counts as one operation.
//!
//! An operation that has not ended in time, waiting included, is given up: a read fails cleanly, with cause `TimedOut`, and
//! the outcome of a write is unknown. It goes on in its place all the same, with nobody to wait for it: a request on its way
//! can't be called back, and to count it as gone would let more be under way than there may be.
//!
//! Only reads are repeated, and only after failures that may pass. A repeated write could meet its own first attempt.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::Number;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, timeout_at};

use crate::adapter::list_below;
use crate::{
    Condition, Done, Entry, Error, Key, Namespace, Operation, OperationId, Outcome, Page, Requests, StorageAdapter,
    Unknown, Value, Version, WriteResult,
};

/// Pause before the second attempt of a read; doubled before each further one, up to the last.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// How much is asked of a store at a time, and how long is waited for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Limiting {
    /// Most operations under way at once, of all stores of a process together. 0 counts as 1.
    pub max_concurrent: u32,
    /// Most operations that wait for a place.
    pub max_waiting: u32,
    /// Longest time for an operation, waiting included, in milliseconds.
    pub timeout_ms: u64,
    /// Most attempts of a read.
    pub read_attempts: u32,
}

impl Default for Limiting {
    /// 64 operations, 1,024 that wait, 10 s, 3 attempts.
    fn default() -> Self {
        Self { max_concurrent: 64, max_waiting: 1024, timeout_ms: 10_000, read_attempts: 3 }
    }
}

/// How busy a store is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LimitCounts {
    /// Operations under way.
    pub under_way: u64,
    /// Operations that wait for a place.
    pub waiting: u64,
    /// Operations that failed since there was no place for them, or none in time.
    pub refused: u64,
}

/// The limits of any number of stores together. Clones share them.
#[derive(Clone, Debug)]
pub struct Limiter(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    settings: Limiting,
    places: Arc<Semaphore>,
    waiting: AtomicUsize,
    refused: AtomicU64,
}

impl Limiting {
    fn places(&self) -> usize {
        usize::try_from(self.max_concurrent).unwrap_or(usize::MAX).clamp(1, Semaphore::MAX_PERMITS)
    }
}

/// Somebody who waits for a place.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// An operation that nobody waits for any more; it has begun.
struct GivenUp;

impl Limiter {
    /// With nothing under way.
    pub fn new(settings: Limiting) -> Self {
        let places = Arc::new(Semaphore::new(settings.places()));
        Self(Arc::new(Shared { settings, places, waiting: AtomicUsize::new(0), refused: AtomicU64::new(0) }))
    }

    /// A store within these limits.
    pub fn over(&self, store: Arc<dyn StorageAdapter>) -> Arc<dyn StorageAdapter> {
        Arc::new(LimitingAdapter { limiter: self.clone(), inner: store })
    }

    /// How busy its stores are, together.
    pub fn counts(&self) -> LimitCounts {
        let free = self.0.places.available_permits();
        LimitCounts {
            under_way: self.0.settings.places().saturating_sub(free) as u64,
            waiting: self.0.waiting.load(Ordering::Relaxed) as u64,
            refused: self.0.refused.load(Ordering::Relaxed),
        }
    }

    fn deadline(&self) -> Instant {
        Instant::now() + Duration::from_millis(self.0.settings.timeout_ms)
    }

    /// Takes a place among those under way, when it is one's turn. `Err`: nothing was asked of the store.
    async fn enter(&self, deadline: Instant) -> Result<OwnedSemaphorePermit, Error> {
        // Never past those who wait: a place that becomes free is theirs before it is anybody's.
        if let Ok(place) = Arc::clone(&self.0.places).try_acquire_owned() {
            return Ok(place);
        }
        let _waiting = self.wait().ok_or_else(|| self.refuse())?;
        match timeout_at(deadline, Arc::clone(&self.0.places).acquire_owned()).await {
            Ok(Ok(place)) => Ok(place),
            Ok(Err(_)) | Err(_) => Err(self.refuse()),
        }
    }

    /// `None`: as many wait as may.
    fn wait(&self) -> Option<Waiting<'_>> {
        let most = usize::try_from(self.0.settings.max_waiting).unwrap_or(usize::MAX);
        let more = |waiting| (waiting < most).then_some(waiting + 1);
        let waits = self.0.waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        waits.ok().map(|_| Waiting(&self.0.waiting))
    }

    fn refuse(&self) -> Error {
        self.0.refused.fetch_add(1, Ordering::Relaxed);
        let Limiting { max_concurrent, max_waiting, timeout_ms, .. } = self.0.settings;
        let detail = format!(
            "{max_concurrent} operations are under way, and no more than {max_waiting} may wait, for up to {timeout_ms} ms; nothing was done"
        );
        Error::unavailable("Busy", detail)
    }

    fn too_slow(&self) -> String {
        format!("the store did not answer within {} ms", self.0.settings.timeout_ms)
    }

    /// Runs a call in a place of its own. `Err`: it was never begun.
    async fn run<T: Send + 'static>(
        &self,
        deadline: Instant,
        call: impl Future<Output = T> + Send + 'static,
    ) -> Result<Result<T, GivenUp>, Error> {
        let place = self.enter(deadline).await?;
        let mut running = Box::pin(async move {
            let _place = place;
            call.await
        });
        match timeout_at(deadline, &mut running).await {
            Ok(done) => Ok(Ok(done)),
            Err(_) => {
                tokio::spawn(running);
                Ok(Err(GivenUp))
            }
        }
    }

    async fn write<T: Send + 'static>(
        &self,
        write: impl Future<Output = WriteResult<T>> + Send + 'static,
    ) -> WriteResult<T> {
        match self.run(self.deadline(), write).await? {
            Ok(written) => written,
            Err(GivenUp) => Ok(Outcome::Unknown(Unknown(self.too_slow()))),
        }
    }

    /// Several writes that are asked for as one.
    async fn write_many<T: Clone + Send + 'static>(
        &self,
        count: usize,
        writes: impl Future<Output = Vec<WriteResult<T>>> + Send + 'static,
    ) -> Vec<WriteResult<T>> {
        match self.run(self.deadline(), writes).await {
            Ok(Ok(outcomes)) => outcomes,
            Ok(Err(GivenUp)) => vec![Ok(Outcome::Unknown(Unknown(self.too_slow()))); count],
            Err(error) => vec![Err(error); count],
        }
    }

    async fn read<T: Send + 'static>(
        &self,
        read: impl Future<Output = Result<T, Error>> + Send + 'static,
        deadline: Instant,
    ) -> Result<T, Error> {
        match self.run(deadline, read).await? {
            Ok(found) => found,
            Err(GivenUp) => Err(Error::unavailable("TimedOut", self.too_slow())),
        }
    }

    fn attempts(&self, deadline: Instant) -> Attempts {
        Attempts { left: self.0.settings.read_attempts, pause: PAUSES.0, deadline }
    }
}

/// The attempts of one read.
#[derive(Clone, Copy, Debug)]
struct Attempts {
    left: u32,
    pause: Duration,
    deadline: Instant,
}

impl Attempts {
    /// Waits before the next attempt. False: there is none, or it would come too late.
    async fn again(&mut self) -> bool {
        self.left = self.left.saturating_sub(1);
        let pause = jittered(self.pause, RandomState::new().hash_one(0));
        self.pause = (self.pause * 2).min(PAUSES.1);
        let due = Instant::now() + pause;
        if self.left == 0 || due >= self.deadline {
            return false;
        }
        sleep(pause).await;
        true
    }
}

/// Between half the pause and all of it, so that many who failed together don't come back together.
fn jittered(pause: Duration, random: u64) -> Duration {
    let half = pause / 2;
    let part = u64::try_from(half.as_nanos()).unwrap_or(u64::MAX);
    half + Duration::from_nanos(random % part.max(1))
}

/// A read, repeated while it fails in a way that may pass.
async fn repeat<T, R>(mut attempts: Attempts, mut read: impl FnMut() -> R) -> Result<T, Error>
where
    R: Future<Output = Result<T, Error>>,
{
    loop {
        let result = read().await;
        let may_pass = matches!(&result, Err(error) if error.may_pass());
        if !may_pass || !attempts.again().await {
            return result;
        }
    }
}

/// A batch of reads; those that fail in a way that may pass are repeated.
async fn repeat_batch(
    mut attempts: Attempts,
    store: &dyn StorageAdapter,
    keys: &[Key],
) -> Vec<Result<Option<Entry>, Error>> {
    let mut found = store.get_batch(keys).await;
    loop {
        let may_pass = |at: &usize| matches!(&found[*at], Err(error) if error.may_pass());
        let failed: Vec<usize> = (0..found.len().min(keys.len())).filter(may_pass).collect();
        if failed.is_empty() || !attempts.again().await {
            return found;
        }
        let asked: Vec<Key> = failed.iter().map(|at| keys[*at].clone()).collect();
        for (at, result) in failed.into_iter().zip(store.get_batch(&asked).await) {
            found[at] = result;
        }
    }
}

/// A store within limits.
#[derive(Debug)]
struct LimitingAdapter {
    limiter: Limiter,
    inner: Arc<dyn StorageAdapter>,
}

impl LimitingAdapter {
    fn inner(&self) -> Arc<dyn StorageAdapter> {
        Arc::clone(&self.inner)
    }
}

#[async_trait]
impl StorageAdapter for LimitingAdapter {
    async fn get(&self, key: &Key) -> Result<Option<Entry>, Error> {
        let deadline = self.limiter.deadline();
        let (attempts, inner, key) = (self.limiter.attempts(deadline), self.inner(), key.clone());
        self.limiter.read(async move { repeat(attempts, || inner.get(&key)).await }, deadline).await
    }

    async fn put(&self, key: &Key, value: Value, condition: &Condition) -> WriteResult<Version> {
        let (inner, key, condition) = (self.inner(), key.clone(), condition.clone());
        self.limiter.write(async move { inner.put(&key, value, &condition).await }).await
    }

    async fn remove(&self, key: &Key, condition: &Condition) -> WriteResult<bool> {
        let (inner, key, condition) = (self.inner(), key.clone(), condition.clone());
        self.limiter.write(async move { inner.remove(&key, &condition).await }).await
    }

    async fn perform_once(&self, key: &Key, operation: Operation, id: &OperationId) -> WriteResult<Done> {
        let (inner, key, id) = (self.inner(), key.clone(), id.clone());
        self.limiter.write(async move { inner.perform_once(&key, operation, &id).await }).await
    }

    async fn perform(&self, key: &Key, requests: Requests) -> Vec<WriteResult<Done>> {
        let (inner, key, count) = (self.inner(), key.clone(), requests.len());
        self.limiter.write_many(count, async move { inner.perform(&key, requests).await }).await
    }

    async fn list(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Page, Error> {
        let deadline = self.limiter.deadline();
        let (attempts, inner) = (self.limiter.attempts(deadline), self.inner());
        let (prefix, after) = (prefix.to_owned(), after.cloned());
        let read = async move { repeat(attempts, || inner.list(&prefix, after.as_ref(), limit)).await };
        self.limiter.read(read, deadline).await
    }

    async fn list_with(
        &self,
        others: &[Arc<dyn StorageAdapter>],
        prefix: &str,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Option<Page>, Error> {
        let deadline = self.limiter.deadline();
        let (attempts, inner, others) = (self.limiter.attempts(deadline), self.inner(), others.to_vec());
        let (prefix, after) = (prefix.to_owned(), after.cloned());
        let list =
            async move { repeat(attempts, || list_below(&*inner, &others, &prefix, after.as_ref(), limit)).await };
        self.limiter.read(list, deadline).await
    }

    fn lists(&self) -> Option<&Arc<dyn StorageAdapter>> {
        Some(&self.inner)
    }

    async fn settle(&self) -> Result<(), Error> {
        self.inner.settle().await
    }

    fn resume(&self) {
        self.inner.resume();
    }

    fn with_namespace(&self, namespace: &Namespace) -> Arc<dyn StorageAdapter> {
        self.limiter.over(self.inner.with_namespace(namespace))
    }

    async fn get_batch(&self, keys: &[Key]) -> Vec<Result<Option<Entry>, Error>> {
        let deadline = self.limiter.deadline();
        let (attempts, inner, asked) = (self.limiter.attempts(deadline), self.inner(), keys.to_vec());
        let read = async move { Ok(repeat_batch(attempts, &*inner, &asked).await) };
        match self.limiter.read(read, deadline).await {
            Ok(found) => found,
            Err(error) => vec![Err(error); keys.len()],
        }
    }

    async fn put_batch(&self, items: Vec<(Key, Value, Condition)>) -> Vec<WriteResult<Version>> {
        let (inner, count) = (self.inner(), items.len());
        self.limiter.write_many(count, async move { inner.put_batch(items).await }).await
    }

    async fn compare_and_swap(
        &self,
        key: &Key,
        old: Option<Value>,
        new: Option<Value>,
    ) -> WriteResult<Option<Version>> {
        let (inner, key) = (self.inner(), key.clone());
        self.limiter.write(async move { inner.compare_and_swap(&key, old, new).await }).await
    }

    async fn increment(&self, key: &Key, delta: Number) -> WriteResult<(Number, Version)> {
        let (inner, key) = (self.inner(), key.clone());
        self.limiter.write(async move { inner.increment(&key, delta).await }).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_are_spread_over_their_later_half() {
        let pause = Duration::from_millis(100);
        for random in [0, 1, 49_999_999, 50_000_000, u64::MAX] {
            let spread = jittered(pause, random);
            assert!((pause / 2..pause).contains(&spread), "{spread:?}");
        }
        assert_ne!(jittered(pause, 0), jittered(pause, 1));
        assert_eq!(jittered(Duration::ZERO, 7), Duration::ZERO);
    }
}
