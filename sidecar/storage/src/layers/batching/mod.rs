//! Writes that come close together are written together, and those of one key as one.
//!
//! A write waits until its batch is flushed: after [`Batching::max_delay_ms`], or at [`Batching::max_items`]. It is
//! answered with what became of it alone: what fails, fails those that asked for it, and no other. Operations on one key are
//! judged in the order in which they came and written as one conditional write, so that any number of clients can
//! increment one counter for the price of one. Whether an operation with an id was done before, the store finds out as it
//! judges them. Reads go past the queue: what is in it was not acknowledged yet.
//!
//! With [`Ack::Buffered`] writes are acknowledged before they are flushed, and may be lost.

mod buffered;
mod flush;

use std::fmt::Debug;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::Number;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::gates::Place;
use crate::encoding::keys_folder;
use crate::operation::Request;
use crate::{
    Condition, Done, Entry, Error, Key, Namespace, Operation, OperationId, Outcome, Page, StorageAdapter, Unknown,
    Value, Version, WriteResult,
};

/// How long what a batch has left is remembered while nothing comes. Clients that write again once they are answered
/// come a moment after the queue is empty: what they write on need not be read then.
const LINGER: Duration = Duration::from_millis(500);

/// When a batch is flushed, whichever comes first, and when its writes are acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Batching {
    /// Longest time that a write waits for others, in milliseconds.
    pub max_delay_ms: u64,
    /// Most writes in a batch.
    pub max_items: u32,
    /// When a write is acknowledged.
    #[serde(default, skip_serializing_if = "Ack::is_durable")]
    pub ack: Ack,
}

/// When a write is acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Ack {
    /// Once it is flushed.
    #[default]
    Durable,
    /// At once. What was not flushed is lost with the process.
    Buffered,
}

impl Ack {
    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
    fn is_durable(&self) -> bool {
        *self == Self::Durable
    }
}

/// What entitles a process to write to a store. While it holds, nobody else writes there.
pub trait Claim: Debug + Send + Sync + 'static {
    /// Whether it holds now. Once it does not, it never does again.
    fn holds(&self) -> bool;
}

/// The claim of a process that nobody shares its stores with.
#[derive(Clone, Copy, Debug)]
pub struct Sole;

impl Claim for Sole {
    fn holds(&self) -> bool {
        true
    }
}

/// What lies above and keeps what was acknowledged.
pub(super) trait Forget: Debug + Send + Sync + 'static {
    /// What it keeps of a key is no longer so.
    fn forget(&self, folder: &str, key: &Key);
}

impl Default for Batching {
    /// 100 ms, 1,000 writes, acknowledged once they are flushed.
    fn default() -> Self {
        Self { max_delay_ms: 100, max_items: 1000, ack: Ack::Durable }
    }
}

impl Batching {
    /// A store whose writes are flushed in batches.
    pub fn over(self, store: Arc<dyn StorageAdapter>) -> Arc<dyn StorageAdapter> {
        Batcher::new(self).over(store, Arc::new(Sole), None)
    }

    fn queue_over(self, store: Arc<dyn StorageAdapter>) -> Arc<dyn StorageAdapter> {
        let queue =
            Arc::new(Queue { settings: self, full: Notify::new(), some: Notify::new(), state: Mutex::default() });
        Arc::new(BatchingAdapter { queue, namespaces: Vec::new(), folder: keys_folder(&[]).into(), inner: store })
    }
}

/// Acknowledged writes that are, or were, not durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BufferCounts {
    /// To be flushed.
    pub waiting: u64,
    /// Lost.
    pub lost: u64,
}

#[derive(Debug, Default)]
struct Counts {
    waiting: AtomicU64,
    lost: AtomicU64,
}

impl Counts {
    fn acknowledged(&self, writes: u64) {
        self.waiting.fetch_add(writes, Ordering::Relaxed);
    }

    /// They are durable, or lost.
    fn ended(&self, writes: u64) {
        self.waiting.fetch_sub(writes, Ordering::Relaxed);
    }

    fn lost(&self, writes: u64) {
        self.lost.fetch_add(writes, Ordering::Relaxed);
    }
}

/// The queues of any number of stores, counted together. Clones share what is counted and remembered.
#[derive(Clone, Debug)]
pub(super) struct Batcher {
    settings: Batching,
    counts: Arc<Counts>,
    told: Arc<Mutex<buffered::Told>>,
}

impl Batcher {
    pub(super) fn new(settings: Batching) -> Self {
        let told = Arc::new(Mutex::new(buffered::Told::new(buffered::LEAST)));
        Self { settings, counts: Arc::default(), told }
    }

    /// A store whose writes are flushed in batches while the claim holds. `above` hears of what is lost.
    pub(super) fn over(
        &self,
        store: Arc<dyn StorageAdapter>,
        claim: Arc<dyn Claim>,
        above: Option<Arc<dyn Forget>>,
    ) -> Arc<dyn StorageAdapter> {
        let durable = self.settings.queue_over(Arc::clone(&store));
        if self.settings.ack.is_durable() {
            return durable;
        }
        let (counts, told) = (Arc::clone(&self.counts), Arc::clone(&self.told));
        let settings = buffered::Settings { batching: self.settings, claim, counts, above, told };
        buffered::over(settings, store, durable)
    }

    /// `None`: nothing is acknowledged before it is durable.
    pub(super) fn counts(&self) -> Option<BufferCounts> {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counts = BufferCounts { waiting: count(&self.counts.waiting), lost: count(&self.counts.lost) };
        (!self.settings.ack.is_durable()).then_some(counts)
    }
}

/// A write that waits, and who waits for it.
#[derive(Debug)]
struct Waiting {
    /// The folder of its namespace; with the key it names the place among all namespaces.
    folder: Arc<str>,
    key: Key,
    request: Request,
    store: Arc<dyn StorageAdapter>,
    answer: oneshot::Sender<WriteResult<Done>>,
}

#[derive(Debug, Default)]
struct State {
    waiting: Vec<Waiting>,
    /// When the first of them came.
    since: Option<Instant>,
    /// A task is there that flushes.
    attended: bool,
}

/// The writes of one store that wait, of all its namespaces.
#[derive(Debug)]
struct Queue {
    settings: Batching,
    /// A batch is full.
    full: Notify,
    /// Something waits where nothing did.
    some: Notify,
    state: Mutex<State>,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn max_items(&self) -> usize {
        usize::try_from(self.settings.max_items).unwrap_or(usize::MAX).max(1)
    }

    fn push(self: &Arc<Self>, writes: impl IntoIterator<Item = Waiting>) {
        let mut state = self.lock();
        state.waiting.extend(writes);
        if state.waiting.is_empty() {
            return;
        }
        if state.since.is_none() {
            state.since = Some(Instant::now());
            self.some.notify_one();
        }
        if state.waiting.len() >= self.max_items() {
            self.full.notify_one();
        }
        if !state.attended {
            state.attended = true;
            // A task of its own: a client that gives up must not hold up, or take along, the writes of others.
            tokio::spawn(attend(Arc::clone(self)));
        }
    }

    /// When the next batch is due; `None`: nothing waits.
    fn due(&self) -> Option<Instant> {
        let state = self.lock();
        let since = state.since?;
        let full = state.waiting.len() >= self.max_items();
        Some(if full { since } else { since + Duration::from_millis(self.settings.max_delay_ms) })
    }

    /// Waits for something to wait, for a while. `None`: nothing came, and the task that asks is to end.
    async fn next_due(&self) -> Option<Instant> {
        loop {
            if let Some(due) = self.due() {
                return Some(due);
            }
            if tokio::time::timeout(LINGER, self.some.notified()).await.is_err() {
                let mut state = self.lock();
                if state.since.is_none() {
                    state.attended = false;
                    return None;
                }
            }
        }
    }

    fn take(&self) -> Vec<Waiting> {
        let mut state = self.lock();
        let count = state.waiting.len().min(self.max_items());
        let batch = state.waiting.drain(..count).collect();
        // Those that are left came later, but have waited for a flush all the same.
        state.since = (!state.waiting.is_empty()).then(Instant::now);
        batch
    }
}

/// Flushes until nothing has come for a while. One batch at a time: what comes meanwhile is the next one.
async fn attend(queue: Arc<Queue>) {
    let mut attendance = Attendance { queue: &queue, ended: false };
    // What the last batch has left: a key that is written again and again need not be read in between.
    let mut left = flush::Left::new();
    while let Some(due) = queue.next_due().await {
        tokio::select! {
            () = tokio::time::sleep_until(due) => {}
            () = queue.full.notified() => {}
        }
        left = flush::flush(queue.take(), left).await;
    }
    attendance.ended = true;
}

/// Nobody waits for a task that broke off: what it leaves in the queue is answered as unknown.
struct Attendance<'a> {
    queue: &'a Queue,
    ended: bool,
}

impl Drop for Attendance<'_> {
    fn drop(&mut self) {
        if !self.ended {
            *self.queue.lock() = State::default();
        }
    }
}

/// A store behind a queue.
#[derive(Debug)]
struct BatchingAdapter {
    queue: Arc<Queue>,
    namespaces: Vec<Namespace>,
    folder: Arc<str>,
    inner: Arc<dyn StorageAdapter>,
}

/// The answer to one write.
#[derive(Debug)]
struct Answer(oneshot::Receiver<WriteResult<Done>>);

impl Answer {
    async fn wait(self) -> WriteResult<Done> {
        let lost = || Ok(Outcome::Unknown(Unknown("the batch was interrupted".to_owned())));
        self.0.await.unwrap_or_else(|_| lost())
    }

    async fn expect<T>(self, kind: impl FnOnce(Done) -> Option<T>) -> WriteResult<T> {
        as_kind(self.wait().await, kind)
    }
}

impl BatchingAdapter {
    fn waiting(&self, key: &Key, request: Request) -> (Waiting, Answer) {
        let (sender, receiver) = oneshot::channel();
        let waiting = Waiting {
            folder: Arc::clone(&self.folder),
            key: key.clone(),
            request,
            store: Arc::clone(&self.inner),
            answer: sender,
        };
        (waiting, Answer(receiver))
    }

    fn push(&self, key: &Key, operation: Operation) -> Answer {
        self.ask(key, Request { operation, id: None })
    }

    fn ask(&self, key: &Key, request: Request) -> Answer {
        let (waiting, answer) = self.waiting(key, request);
        self.queue.push([waiting]);
        answer
    }
}

pub(super) fn written(done: Done) -> Option<Version> {
    match done {
        Done::Written(version) => Some(version),
        _ => None,
    }
}

pub(super) fn removed(done: Done) -> Option<bool> {
    match done {
        Done::Removed(there) => Some(there),
        _ => None,
    }
}

pub(super) fn swapped(done: Done) -> Option<Option<Version>> {
    match done {
        Done::Swapped(version) => Some(version),
        _ => None,
    }
}

pub(super) fn sum(done: Done) -> Option<(Number, Version)> {
    match done {
        Done::Sum(sum, version) => Some((sum, version)),
        _ => None,
    }
}

/// The answer to an operation that is always answered with `Some` of its own kind.
pub(super) fn as_kind<T>(answer: WriteResult<Done>, kind: impl FnOnce(Done) -> Option<T>) -> WriteResult<T> {
    Ok(match answer? {
        Outcome::Applied(done) => match kind(done) {
            Some(done) => Outcome::Applied(done),
            None => Outcome::Unknown(Unknown("the answer belongs to another operation".to_owned())),
        },
        Outcome::Rejected(current) => Outcome::Rejected(current),
        Outcome::Unknown(why) => Outcome::Unknown(why),
    })
}

#[async_trait]
impl StorageAdapter for BatchingAdapter {
    async fn get(&self, key: &Key) -> Result<Option<Entry>, Error> {
        self.inner.get(key).await
    }

    async fn put(&self, key: &Key, value: Value, condition: &Condition) -> WriteResult<Version> {
        value.check()?;
        self.push(key, Operation::Put { value, condition: condition.clone() }).expect(written).await
    }

    async fn remove(&self, key: &Key, condition: &Condition) -> WriteResult<bool> {
        condition.check_for_removal()?;
        self.push(key, Operation::Remove { condition: condition.clone() }).expect(removed).await
    }

    async fn perform_once(&self, key: &Key, operation: Operation, id: &OperationId) -> WriteResult<Done> {
        operation.check()?;
        self.ask(key, Request { operation, id: Some(id.clone()) }).wait().await
    }

    async fn list(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Page, Error> {
        self.inner.list(prefix, after, limit).await
    }

    fn lists(&self) -> Option<&Arc<dyn StorageAdapter>> {
        Some(&self.inner)
    }

    fn with_namespace(&self, namespace: &Namespace) -> Arc<dyn StorageAdapter> {
        let mut namespaces = self.namespaces.clone();
        namespaces.push(namespace.clone());
        Arc::new(Self {
            queue: Arc::clone(&self.queue),
            folder: keys_folder(&namespaces).into(),
            namespaces,
            inner: self.inner.with_namespace(namespace),
        })
    }

    async fn get_batch(&self, keys: &[Key]) -> Vec<Result<Option<Entry>, Error>> {
        self.inner.get_batch(keys).await
    }

    async fn put_batch(&self, items: Vec<(Key, Value, Condition)>) -> Vec<WriteResult<Version>> {
        let mut answers = Vec::with_capacity(items.len());
        let mut writes = Vec::with_capacity(items.len());
        for (key, value, condition) in items {
            answers.push(value.check().map(|()| {
                let request = Request { operation: Operation::Put { value, condition }, id: None };
                let (waiting, answer) = self.waiting(&key, request);
                writes.push(waiting);
                answer
            }));
        }
        self.queue.push(writes);
        let mut outcomes = Vec::with_capacity(answers.len());
        for answer in answers {
            outcomes.push(match answer {
                Ok(answer) => answer.expect(written).await,
                Err(error) => Err(error),
            });
        }
        outcomes
    }

    async fn compare_and_swap(
        &self,
        key: &Key,
        old: Option<Value>,
        new: Option<Value>,
    ) -> WriteResult<Option<Version>> {
        if let Some(value) = &new {
            value.check()?;
        }
        self.push(key, Operation::Swap { old, new }).expect(swapped).await
    }

    async fn increment(&self, key: &Key, delta: Number) -> WriteResult<(Number, Version)> {
        self.push(key, Operation::Increment { delta }).expect(sum).await
    }

    async fn settle(&self) -> Result<(), Error> {
        self.inner.settle().await
    }

    fn resume(&self) {
        self.inner.resume();
    }
}
