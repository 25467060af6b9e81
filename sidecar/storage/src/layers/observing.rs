//! Says what a store was asked, what became of it, and how long it took.
//!
//! It lies directly over the store, below all other layers: what it sees is what the store itself was asked and did. It
//! counts nothing itself: a [`Recorder`] does. Beside the future that every call through the interface is, it allocates
//! nothing, and it takes no lock.
//!
//! Each call is also a tracing span at level debug, with backend, operation and key, and an event at its end. A key may
//! say something about people: none is written at a level above debug, and a value at no level.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use serde_json::Number;
use tracing::{Instrument, Span, debug, debug_span};

use crate::adapter::list_below;
use crate::{
    Condition, Done, Entry, Error, Key, Namespace, Operation, OperationId, Outcome, Page, Requests, StorageAdapter,
    Value, Version, WriteResult,
};

/// What a store is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OperationKind {
    /// [`StorageAdapter::get`].
    Get,
    /// [`StorageAdapter::put`], and [`StorageAdapter::set`], which is one.
    Set,
    /// [`StorageAdapter::remove`], and [`StorageAdapter::delete`], which is one.
    Delete,
    /// [`StorageAdapter::list`].
    List,
    /// [`StorageAdapter::get_batch`].
    GetBatch,
    /// [`StorageAdapter::put_batch`], and [`StorageAdapter::set_batch`], which is one.
    SetBatch,
    /// [`StorageAdapter::compare_and_swap`].
    CompareAndSwap,
    /// [`StorageAdapter::increment`].
    Increment,
    /// [`StorageAdapter::perform`]: operations on one key as one.
    Perform,
}

impl OperationKind {
    /// All of them, in the order in which `as usize` counts them.
    pub const ALL: [Self; 9] = [
        Self::Get,
        Self::Set,
        Self::Delete,
        Self::List,
        Self::GetBatch,
        Self::SetBatch,
        Self::CompareAndSwap,
        Self::Increment,
        Self::Perform,
    ];

    /// As metrics and spans name it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Set => "set",
            Self::Delete => "delete",
            Self::List => "list",
            Self::GetBatch => "getBatch",
            Self::SetBatch => "setBatch",
            Self::CompareAndSwap => "compareAndSwap",
            Self::Increment => "increment",
            Self::Perform => "perform",
        }
    }

    /// Of an operation with an id, which is counted as what it does.
    const fn of(operation: &Operation) -> Self {
        match operation {
            Operation::Put { .. } => Self::Set,
            Operation::Remove { .. } => Self::Delete,
            Operation::Swap { .. } => Self::CompareAndSwap,
            Operation::Increment { .. } => Self::Increment,
        }
    }

    const fn writes(self) -> bool {
        !matches!(self, Self::Get | Self::List | Self::GetBatch)
    }
}

/// How many operations of one call ended in each way: one in all, or of a batch one for each item.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Answered, or applied. That a key has no value is an answer.
    pub success: u64,
    /// Not written: the condition did not hold.
    pub rejected: u64,
    /// It can't be known whether it was written.
    pub unknown: u64,
    /// Failed cleanly.
    pub failed: u64,
}

impl Tally {
    /// Of a read.
    fn count_read<T>(&mut self, read: &Result<T, Error>) {
        match read {
            Ok(_) => self.success += 1,
            Err(_) => self.failed += 1,
        }
    }

    /// Of a write.
    fn count_write<T>(&mut self, written: &WriteResult<T>) {
        match written {
            Ok(Outcome::Applied(_)) => self.success += 1,
            Ok(Outcome::Rejected(_)) => self.rejected += 1,
            Ok(Outcome::Unknown(_)) => self.unknown += 1,
            Err(_) => self.failed += 1,
        }
    }

    fn of_read<T>(read: &Result<T, Error>) -> Self {
        let mut tally = Self::default();
        tally.count_read(read);
        tally
    }

    fn of_writes<T>(written: &[WriteResult<T>]) -> Self {
        let mut tally = Self::default();
        written.iter().for_each(|written| tally.count_write(written));
        tally
    }

    fn of_write<T>(written: &WriteResult<T>) -> Self {
        let mut tally = Self::default();
        tally.count_write(written);
        tally
    }
}

/// Keeps the figures of one backend.
pub trait Recorder: Debug + Send + Sync + 'static {
    /// A call has ended after `took`. Asked at the end of every call: it should neither wait nor allocate.
    fn record(&self, operation: OperationKind, tally: Tally, took: Duration);
}

/// Watches the stores of one backend. Clones share the recorder.
#[derive(Clone, Debug)]
pub struct Observing {
    backend: &'static str,
    recorder: Arc<dyn Recorder>,
}

impl Observing {
    /// What spans call the backend, and who keeps its figures.
    pub fn new(backend: &'static str, recorder: Arc<dyn Recorder>) -> Self {
        Self { backend, recorder }
    }

    /// A store that is watched.
    pub fn over(&self, store: Arc<dyn StorageAdapter>) -> Arc<dyn StorageAdapter> {
        Arc::new(ObservingAdapter { observing: self.clone(), inner: store })
    }
}

/// A store that is watched.
#[derive(Debug)]
struct ObservingAdapter {
    observing: Observing,
    inner: Arc<dyn StorageAdapter>,
}

/// A call under way. It is recorded when it is dropped, so that one that is given up is counted too.
struct Call<'a> {
    /// `None`: nothing was done.
    recorder: Option<&'a dyn Recorder>,
    operation: OperationKind,
    began: Instant,
    span: Span,
    /// Until the store has answered: what is known of a call that is given up now.
    tally: Tally,
}

impl<'a> Call<'a> {
    fn begin(observing: &'a Observing, operation: OperationKind, items: usize, span: Span) -> Self {
        let items = items as u64;
        let tally = match operation.writes() {
            true => Tally { unknown: items, ..Tally::default() },
            false => Tally { failed: items, ..Tally::default() },
        };
        Self { recorder: Some(&*observing.recorder), operation, began: Instant::now(), span, tally }
    }

    fn end(mut self, tally: Tally) {
        self.tally = tally;
    }

    fn forget(mut self) {
        self.recorder = None;
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        let (took, Tally { success, rejected, unknown, failed }) = (self.began.elapsed(), self.tally);
        let Some(recorder) = self.recorder else { return };
        recorder.record(self.operation, self.tally, took);
        self.span.in_scope(|| debug!(success, rejected, unknown, failed, ?took, "ended"));
    }
}

impl ObservingAdapter {
    fn call_on(&self, operation: OperationKind, key: &Key) -> Call<'_> {
        let backend = self.observing.backend;
        let span = debug_span!("storage", backend, operation = operation.name(), key = key.as_str());
        Call::begin(&self.observing, operation, 1, span)
    }

    fn call_on_many(&self, operation: OperationKind, items: usize) -> Call<'_> {
        let backend = self.observing.backend;
        let span = debug_span!("storage", backend, operation = operation.name(), items);
        Call::begin(&self.observing, operation, items, span)
    }
}

#[async_trait]
impl StorageAdapter for ObservingAdapter {
    async fn get(&self, key: &Key) -> Result<Option<Entry>, Error> {
        let call = self.call_on(OperationKind::Get, key);
        let found = self.inner.get(key).instrument(call.span.clone()).await;
        call.end(Tally::of_read(&found));
        found
    }

    async fn put(&self, key: &Key, value: Value, condition: &Condition) -> WriteResult<Version> {
        let call = self.call_on(OperationKind::Set, key);
        let written = self.inner.put(key, value, condition).instrument(call.span.clone()).await;
        call.end(Tally::of_write(&written));
        written
    }

    async fn remove(&self, key: &Key, condition: &Condition) -> WriteResult<bool> {
        let call = self.call_on(OperationKind::Delete, key);
        let removed = self.inner.remove(key, condition).instrument(call.span.clone()).await;
        call.end(Tally::of_write(&removed));
        removed
    }

    async fn perform_once(&self, key: &Key, operation: Operation, id: &OperationId) -> WriteResult<Done> {
        let call = self.call_on(OperationKind::of(&operation), key);
        let done = self.inner.perform_once(key, operation, id).instrument(call.span.clone()).await;
        call.end(Tally::of_write(&done));
        done
    }

    async fn perform(&self, key: &Key, requests: Requests) -> Vec<WriteResult<Done>> {
        let (backend, operation, items) = (self.observing.backend, OperationKind::Perform, requests.len());
        let span = debug_span!("storage", backend, operation = operation.name(), key = key.as_str(), items);
        let call = Call::begin(&self.observing, operation, items, span);
        let done = self.inner.perform(key, requests).instrument(call.span.clone()).await;
        call.end(Tally::of_writes(&done));
        done
    }

    async fn list(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Page, Error> {
        let (backend, operation) = (self.observing.backend, OperationKind::List);
        let span = debug_span!("storage", backend, operation = operation.name(), prefix);
        let call = Call::begin(&self.observing, operation, 1, span);
        let page = self.inner.list(prefix, after, limit).instrument(call.span.clone()).await;
        call.end(Tally::of_read(&page));
        page
    }

    async fn list_with(
        &self,
        others: &[Arc<dyn StorageAdapter>],
        prefix: &str,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Option<Page>, Error> {
        let (backend, operation, stores) = (self.observing.backend, OperationKind::List, others.len() + 1);
        let span = debug_span!("storage", backend, operation = operation.name(), prefix, stores);
        let call = Call::begin(&self.observing, operation, 1, span);
        let page = list_below(&*self.inner, others, prefix, after, limit).instrument(call.span.clone()).await;
        // Where each has to be asked, those are the listings that count.
        match &page {
            Ok(None) => call.forget(),
            page => call.end(Tally::of_read(page)),
        }
        page
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
        self.observing.over(self.inner.with_namespace(namespace))
    }

    async fn get_batch(&self, keys: &[Key]) -> Vec<Result<Option<Entry>, Error>> {
        let call = self.call_on_many(OperationKind::GetBatch, keys.len());
        let found = self.inner.get_batch(keys).instrument(call.span.clone()).await;
        let mut tally = Tally::default();
        found.iter().for_each(|found| tally.count_read(found));
        call.end(tally);
        found
    }

    async fn put_batch(&self, items: Vec<(Key, Value, Condition)>) -> Vec<WriteResult<Version>> {
        let call = self.call_on_many(OperationKind::SetBatch, items.len());
        let written = self.inner.put_batch(items).instrument(call.span.clone()).await;
        call.end(Tally::of_writes(&written));
        written
    }

    async fn compare_and_swap(
        &self,
        key: &Key,
        old: Option<Value>,
        new: Option<Value>,
    ) -> WriteResult<Option<Version>> {
        let call = self.call_on(OperationKind::CompareAndSwap, key);
        let swapped = self.inner.compare_and_swap(key, old, new).instrument(call.span.clone()).await;
        call.end(Tally::of_write(&swapped));
        swapped
    }

    async fn increment(&self, key: &Key, delta: Number) -> WriteResult<(Number, Version)> {
        let call = self.call_on(OperationKind::Increment, key);
        let sum = self.inner.increment(key, delta).instrument(call.span.clone()).await;
        call.end(Tally::of_write(&sum));
        sum
    }
}
