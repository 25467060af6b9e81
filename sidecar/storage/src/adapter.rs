//! The interface: what every backend and every layer offers.

use std::any::Any;
use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;

use crate::{
    Done, Error, Key, Namespace, Operation, OperationId, Outcome, Request, Requests, Value, Version, WriteResult,
};

/// A value with its version.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The value.
    pub value: Value,
    /// Its version.
    pub version: Version,
}

/// What must hold for a write to take effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Anything.
    Any,
    /// The key must not exist (`If-None-Match: *`).
    Absent,
    /// The key must stand at this version (`If-Match`).
    Version(Version),
}

impl Condition {
    /// Whether it holds for a key that stands at `current` (`None`: there is no value).
    pub fn holds(&self, current: Option<&Version>) -> bool {
        match self {
            Self::Any => true,
            Self::Absent => current.is_none(),
            Self::Version(expected) => current == Some(expected),
        }
    }

    /// Refuses [`Condition::Absent`] for a removal: what must not be there can't be removed.
    pub(crate) fn check_for_removal(&self) -> Result<(), Error> {
        match self {
            Self::Absent => Err(Error::invalid("condition", "a removal can't require that the key does not exist")),
            Self::Any | Self::Version(_) => Ok(()),
        }
    }
}

/// One page of a listing, in byte order of the keys.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Page {
    /// The keys.
    pub keys: Vec<Key>,
    /// There may be more keys after the last one.
    pub more: bool,
}

/// Most attempts of a compare-and-swap or increment before it gives up as contended.
const MAX_ATTEMPTS: u32 = 64;

/// Storage for small values with atomic operations.
///
/// Every write reports one of three outcomes, [`Outcome`]; `Err` is a clean failure. A value is durable before
/// `Applied` is returned, except below a buffer. All operations on one key are linearizable.
#[async_trait]
pub trait StorageAdapter: Any + Debug + Send + Sync {
    /// The value of a key; `None` where there is none.
    async fn get(&self, key: &Key) -> Result<Option<Entry>, Error>;

    /// Writes a value if the condition holds. `Rejected` carries what stands there.
    async fn put(&self, key: &Key, value: Value, condition: &Condition) -> WriteResult<Version>;

    /// Removes a key if the condition holds. `Applied(true)`: it was there. [`Condition::Absent`] is invalid here.
    async fn remove(&self, key: &Key, condition: &Condition) -> WriteResult<bool>;

    /// The keys that begin with `prefix` and are greater than `after`, in byte order, at most `limit`.
    async fn list(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Page, Error>;

    /// One page of the keys of this store and of `others`, which are seen through the same namespaces, as [`list`](Self::list) gives
    /// it of one. `None`: they have no common order, or too many others share it; each must be asked.
    async fn list_with(
        &self,
        others: &[Arc<dyn StorageAdapter>],
        prefix: &str,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Option<Page>, Error> {
        match self.lists() {
            Some(inner) => list_below(&**inner, others, prefix, after, limit).await,
            None => Ok(None),
        }
    }

    /// The store whose listing is this one's: what a layer lies over that adds no key and hides none.
    fn lists(&self) -> Option<&Arc<dyn StorageAdapter>> {
        None
    }

    /// Does an operation once, however often it is asked for with this id: if the value remembers it, the first answer is
    /// given again. What was rejected or failed has not been done. A removal, or a swap for "no value", takes no id.
    /// See [`crate::operation`].
    async fn perform_once(&self, key: &Key, operation: Operation, id: &OperationId) -> WriteResult<Done>;

    /// Does operations on one key, in order, each with its own outcome; those with an id once, as
    /// [`perform_once`](Self::perform_once) does. Backends write them as one.
    async fn perform(&self, key: &Key, requests: Requests) -> Vec<WriteResult<Done>> {
        let mut outcomes = Vec::with_capacity(requests.len());
        for Request { operation, id } in requests {
            let outcome = match (id, operation) {
                (Some(id), operation) => self.perform_once(key, operation, &id).await,
                (None, Operation::Put { value, condition }) => {
                    self.put(key, value, &condition).await.map(|outcome| outcome.map(Done::Written))
                }
                (None, Operation::Remove { condition }) => {
                    self.remove(key, &condition).await.map(|outcome| outcome.map(Done::Removed))
                }
                (None, Operation::Swap { old, new }) => {
                    self.compare_and_swap(key, old, new).await.map(|outcome| outcome.map(Done::Swapped))
                }
                (None, Operation::Increment { delta }) => {
                    let sum = self.increment(key, delta).await;
                    sum.map(|outcome| outcome.map(|(sum, version)| Done::Sum(sum, version)))
                }
            };
            outcomes.push(outcome);
        }
        outcomes
    }

    /// The same store, seen through a namespace: keys of one namespace are invisible in every other.
    fn with_namespace(&self, namespace: &Namespace) -> Arc<dyn StorageAdapter>;

    /// Returns when all that was acknowledged is durable, which it is at once wherever nothing is acknowledged before
    /// (a [buffer](crate::layers::batching::Ack::Buffered) does that). It does no work of its own after that until it is used
    /// again, or [resumed](Self::resume). Fails when it never will be; may wait as long as
    /// the store takes no writes: bound it.
    async fn settle(&self) -> Result<(), Error> {
        Ok(())
    }

    /// Goes on with work of its own that [`settle`](Self::settle) has ended: the store is not given away after all.
    fn resume(&self) {}

    /// Writes a value, whatever stands there.
    async fn set(&self, key: &Key, value: Value) -> WriteResult<Version> {
        self.put(key, value, &Condition::Any).await
    }

    /// Removes a key. `Applied(false)`: there was none.
    async fn delete(&self, key: &Key) -> WriteResult<bool> {
        self.remove(key, &Condition::Any).await
    }

    /// The values of many keys, each with its own result, in the order asked.
    async fn get_batch(&self, keys: &[Key]) -> Vec<Result<Option<Entry>, Error>> {
        let mut found = Vec::with_capacity(keys.len());
        for key in keys {
            found.push(self.get(key).await);
        }
        found
    }

    /// Writes many values, whatever stands there, each with its own outcome, in the order given. Not atomic as a whole.
    /// Where a key comes twice, the later item wins.
    async fn set_batch(&self, items: Vec<(Key, Value)>) -> Vec<WriteResult<Version>> {
        self.put_batch(items.into_iter().map(|(key, value)| (key, value, Condition::Any)).collect()).await
    }

    /// Writes many values, each under its own condition and with its own outcome, in the order given. Not atomic as a
    /// whole. Where a key comes twice, the later item is written after the earlier one.
    async fn put_batch(&self, items: Vec<(Key, Value, Condition)>) -> Vec<WriteResult<Version>> {
        let mut outcomes = Vec::with_capacity(items.len());
        for (key, value, condition) in items {
            outcomes.push(self.put(&key, value, &condition).await);
        }
        outcomes
    }

    /// Writes `new` if the current value equals `old`; `None` stands for "no value" on either side.
    /// JSON is compared by value, bytes byte by byte; JSON never equals bytes.
    async fn compare_and_swap(
        &self,
        key: &Key,
        old: Option<Value>,
        new: Option<Value>,
    ) -> WriteResult<Option<Version>> {
        for _ in 0..MAX_ATTEMPTS {
            let current = self.get(key).await?;
            if current.as_ref().map(|entry| &entry.value) != old.as_ref() {
                return Ok(Outcome::Rejected(current));
            }
            let condition = current.map_or(Condition::Absent, |entry| Condition::Version(entry.version));
            let outcome = match (&new, &condition) {
                (Some(value), _) => self.put(key, value.clone(), &condition).await?.map(Some),
                (None, Condition::Absent) => return Ok(Outcome::Applied(None)),
                (None, _) => self.remove(key, &condition).await?.map(|_| None),
            };
            match outcome {
                Outcome::Rejected(_) => {} // Another writer came between; compare again with what it left.
                decided => return Ok(decided),
            }
        }
        Err(Error::Contended { key: key.to_string(), attempts: MAX_ATTEMPTS })
    }

    /// Adds to a number and returns the sum. A missing key counts as 0. Whole numbers stay whole (64 bits); an
    /// overflow or a value that is no number is a clean failure.
    async fn increment(&self, key: &Key, delta: serde_json::Number) -> WriteResult<(serde_json::Number, Version)> {
        for _ in 0..MAX_ATTEMPTS {
            let current = self.get(key).await?;
            let sum = crate::value::add(key, current.as_ref().map(|entry| &entry.value), &delta)?;
            let condition = current.map_or(Condition::Absent, |entry| Condition::Version(entry.version));
            match self.put(key, Value::Json(sum.clone().into()), &condition).await? {
                Outcome::Applied(version) => return Ok(Outcome::Applied((sum, version))),
                Outcome::Rejected(_) => {}
                Outcome::Unknown(why) => return Ok(Outcome::Unknown(why)),
            }
        }
        Err(Error::Contended { key: key.to_string(), attempts: MAX_ATTEMPTS })
    }
}

/// [`StorageAdapter::list_with`] for a layer over `inner` whose listing is that of `inner`.
pub(crate) async fn list_below(
    inner: &dyn StorageAdapter,
    others: &[Arc<dyn StorageAdapter>],
    prefix: &str,
    after: Option<&Key>,
    limit: usize,
) -> Result<Option<Page>, Error> {
    let below: Option<Vec<_>> = others.iter().map(|other| other.lists().cloned()).collect();
    match below {
        Some(below) => inner.list_with(&below, prefix, after, limit).await,
        None => Ok(None),
    }
}
