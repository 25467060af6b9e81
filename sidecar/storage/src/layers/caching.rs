//! Keeps what was read or written last in memory.
//!
//! One [`Cache`] serves many stores; each store over it is a scope of its own, so that nothing is ever found that an
//! earlier opening of the same store has left. It is right as long as nobody else writes to the store: what a shard's
//! only owner may rely on, and nobody else.
//!
//! A read can never put an old value back (the seed invalidates, then writes; a read in between keeps the old value):
//! each key in use has a generation, which every write raises when it begins and when it ends. A read keeps what it found
//! only if the generation is still the one that it began under, and no write is under way. After a write whose outcome
//! is anything but `Applied` the key is not cached, and the next read asks the store.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Number;
use tokio::sync::OnceCell;

use super::batching::Forget;
use crate::encoding::keys_folder;
use crate::value::add;
use crate::{
    Condition, Done, Entry, Error, Key, Namespace, Object, Operation, OperationId, Outcome, Page, StorageAdapter,
    Value, Version, WriteResult,
};

/// Locks that the keys in use are spread over.
const STRIPES: usize = 64;
/// What an entry costs beside its key and value, in bytes.
const OVERHEAD: u64 = 200;

/// How much a cache may hold: both bounds hold, so that neither many keys nor large values take memory without end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CacheSize {
    /// Most keys.
    pub entries: u64,
    /// Most bytes of keys and values, roughly.
    pub bytes: u64,
}

impl Default for CacheSize {
    /// 10,000 keys, 64 MiB.
    fn default() -> Self {
        Self { entries: 10_000, bytes: 64 << 20 }
    }
}

/// How often the cache had the answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheCounts {
    /// Reads answered from memory.
    pub hits: u64,
    /// Reads that asked the store.
    pub misses: u64,
    /// Keys held now, about.
    pub entries: u64,
}

/// A cache for any number of stores. Clones share it.
#[derive(Clone, Debug)]
pub struct Cache(Arc<Shared>);

/// What is known of a key; `None`: that it has no value.
type Known = Option<Arc<Entry>>;
type Found = Result<Option<Entry>, Error>;
type Stripe = HashMap<Arc<str>, InUse>;

#[derive(Debug)]
struct Shared {
    known: moka::sync::Cache<Arc<str>, Known>,
    in_use: Box<[Mutex<Stripe>]>,
    hasher: RandomState,
    scopes: AtomicU64,
    hits: AtomicU64,
    misses: AtomicU64,
}

/// A key that is being read from the store, or written.
#[derive(Debug, Default)]
struct InUse {
    users: u32,
    writers: u32,
    generation: u64,
    /// The read that later ones join, and the generation it began under.
    flight: Option<(u64, Arc<OnceCell<Found>>)>,
}

impl Cache {
    /// An empty cache.
    pub fn new(size: CacheSize) -> Self {
        // One weight for both bounds: no entry weighs less than its share if there were as many as may be.
        let least = size.bytes / size.entries.max(1);
        let weigh =
            move |place: &Arc<str>, known: &Known| u32::try_from(bytes_of(place, known).max(least)).unwrap_or(u32::MAX);
        let known = moka::sync::Cache::builder().max_capacity(size.bytes).weigher(weigh);
        Self(Arc::new(Shared {
            known: known.build(),
            in_use: (0..STRIPES).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
            scopes: AtomicU64::new(0),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
        }))
    }

    /// A store seen through this cache. What an earlier call has cached, also of the same store, is not found through it.
    pub fn over(&self, store: Arc<dyn StorageAdapter>) -> Arc<dyn StorageAdapter> {
        self.scope().over(store)
    }

    /// For one store.
    pub(super) fn scope(&self) -> Scope {
        Scope { cache: self.clone(), number: self.0.scopes.fetch_add(1, Ordering::Relaxed) }
    }

    /// How often it had the answer.
    pub fn counts(&self) -> CacheCounts {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        CacheCounts { hits: count(&self.0.hits), misses: count(&self.0.misses), entries: self.0.known.entry_count() }
    }

    fn look(&self, place: &str) -> Option<Known> {
        let known = self.0.known.get(place);
        let counter = if known.is_some() { &self.0.hits } else { &self.0.misses };
        counter.fetch_add(1, Ordering::Relaxed);
        known
    }

    fn stripe(&self, place: &str) -> MutexGuard<'_, Stripe> {
        let at = usize::try_from(self.0.hasher.hash_one(place)).unwrap_or_default() % STRIPES;
        self.0.in_use[at].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin_read(&self, place: &str) -> Reading {
        let mut stripe = self.stripe(place);
        let key = stripe.entry(place.into()).or_default();
        key.users += 1;
        let generation = key.generation;
        let cell = match &key.flight {
            // A read that began before a write would miss it.
            Some((began, cell)) if *began == generation && key.writers == 0 => Arc::clone(cell),
            _ => {
                let cell = Arc::new(OnceCell::new());
                if key.writers == 0 {
                    key.flight = Some((generation, Arc::clone(&cell)));
                }
                cell
            }
        };
        Reading { cell, generation, used: Used { cache: self.clone(), place: place.into() } }
    }

    /// Forgets the key, and keeps reads from caching it until the write has ended.
    fn begin_write(&self, place: &str) -> Writing {
        let mut stripe = self.stripe(place);
        let key = stripe.entry(place.into()).or_default();
        key.users += 1;
        key.writers += 1;
        key.generation += 1;
        let generation = key.generation;
        let before = self.0.known.get(place);
        self.0.known.invalidate(place);
        Writing { before, generation, used: Used { cache: self.clone(), place: place.into() } }
    }
}

/// What a cache keeps of one store.
#[derive(Clone, Debug)]
pub(super) struct Scope {
    cache: Cache,
    number: u64,
}

impl Scope {
    pub(super) fn over(&self, store: Arc<dyn StorageAdapter>) -> Arc<dyn StorageAdapter> {
        Arc::new(CachingAdapter {
            cache: self.cache.clone(),
            scope: self.number,
            namespaces: Vec::new(),
            folder: place(self.number, &[]),
            inner: store,
        })
    }
}

impl Forget for Scope {
    fn forget(&self, folder: &str, key: &Key) {
        // As a write that fails: reads under way don't keep what they find.
        drop(self.cache.begin_write(&format!("{}/{folder}{key}", self.number)));
    }
}

/// What is kept has bytes of its own. Those that came in may be a small part of a buffer of the network or the disk,
/// which would stay in memory as a whole, uncounted.
fn kept(entry: Entry) -> Arc<Entry> {
    let value = match entry.value {
        Value::Bytes(bytes) => Value::Bytes(Bytes::copy_from_slice(&bytes)),
        Value::Object(Object { head, body }) => Value::Object(Object { head, body: Bytes::copy_from_slice(&body) }),
        json @ Value::Json(_) => json,
    };
    Arc::new(Entry { value, version: entry.version })
}

fn bytes_of(place: &str, known: &Known) -> u64 {
    place.len() as u64 + known.as_ref().map_or(0, |entry| size(&entry.value)) + OVERHEAD
}

/// About how much memory a value takes.
fn size(value: &Value) -> u64 {
    fn of_json(json: &serde_json::Value) -> u64 {
        let node = std::mem::size_of::<serde_json::Value>() as u64;
        node + match json {
            serde_json::Value::String(text) => text.len() as u64,
            serde_json::Value::Array(items) => items.iter().map(of_json).sum(),
            serde_json::Value::Object(fields) => {
                fields.iter().map(|(name, value)| name.len() as u64 + 2 * node + of_json(value)).sum()
            }
            serde_json::Value::Null | serde_json::Value::Bool(_) | serde_json::Value::Number(_) => 0,
        }
    }
    match value {
        Value::Json(json) => of_json(json),
        Value::Bytes(bytes) => bytes.len() as u64,
        Value::Object(object) => object.weight(),
    }
}

/// Keeps a key in use until dropped.
#[derive(Debug)]
struct Used {
    cache: Cache,
    place: Arc<str>,
}

impl Used {
    /// Ends one use, after `act` on what is known of the key's use.
    fn end(&self, act: impl FnOnce(&mut InUse)) {
        let mut stripe = self.cache.stripe(&self.place);
        if let Slot::Occupied(mut slot) = stripe.entry(self.place.clone()) {
            let key = slot.get_mut();
            act(key);
            key.users -= 1;
            if key.users == 0 {
                slot.remove();
            }
        }
    }
}

/// A read of the store under way.
#[derive(Debug)]
struct Reading {
    cell: Arc<OnceCell<Found>>,
    generation: u64,
    used: Used,
}

impl Reading {
    /// Caches what was found, if no write has begun since.
    fn keep(&self, found: &Found) {
        let Ok(found) = found else { return };
        let stripe = self.used.cache.stripe(&self.used.place);
        let unchanged =
            stripe.get(&self.used.place).is_some_and(|key| key.writers == 0 && key.generation == self.generation);
        if unchanged {
            self.used.cache.0.known.insert(self.used.place.clone(), found.clone().map(kept));
        }
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.used.end(|key| {
            // The next read after this one asks anew.
            if key.flight.as_ref().is_some_and(|(_, cell)| Arc::ptr_eq(cell, &self.cell) && cell.initialized()) {
                key.flight = None;
            }
        });
    }
}

/// A write under way. Dropped without [`Writing::applied`]: nothing is cached.
#[derive(Debug)]
struct Writing {
    /// What was cached when it began.
    before: Option<Known>,
    generation: u64,
    used: Used,
}

impl Writing {
    /// What to write on, where it is known: one conditional request in place of finding out first.
    fn known_entry(&self) -> Option<&Entry> {
        self.before.as_ref()?.as_deref()
    }

    fn known_version(&self) -> Option<Version> {
        self.known_entry().map(|entry| entry.version.clone())
    }

    /// Caches what now stands, unless another write of the key has begun since.
    fn applied(&self, now: Option<Entry>) {
        let stripe = self.used.cache.stripe(&self.used.place);
        let alone =
            stripe.get(&self.used.place).is_some_and(|key| key.writers == 1 && key.generation == self.generation);
        if alone {
            self.used.cache.0.known.insert(self.used.place.clone(), now.map(kept));
        }
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        self.used.end(|key| {
            key.writers -= 1;
            key.generation += 1;
        });
    }
}

/// A store behind a cache.
#[derive(Debug)]
struct CachingAdapter {
    cache: Cache,
    scope: u64,
    namespaces: Vec<Namespace>,
    /// Scope and namespaces, in front of each key.
    folder: String,
    inner: Arc<dyn StorageAdapter>,
}

fn place(scope: u64, namespaces: &[Namespace]) -> String {
    format!("{scope}/{}", keys_folder(namespaces))
}

impl CachingAdapter {
    fn place(&self, key: &Key) -> String {
        [&self.folder, key.as_str()].concat()
    }

    async fn read(&self, key: &Key, place: &str) -> Found {
        let reading = self.cache.begin_read(place);
        let found = reading.cell.get_or_init(|| async {
            let found = self.inner.get(key).await;
            reading.keep(&found);
            found
        });
        found.await.clone()
    }
}

#[async_trait]
impl StorageAdapter for CachingAdapter {
    async fn get(&self, key: &Key) -> Result<Option<Entry>, Error> {
        let place = self.place(key);
        match self.cache.look(&place) {
            Some(known) => Ok(known.map(|entry| (*entry).clone())),
            None => self.read(key, &place).await,
        }
    }

    async fn put(&self, key: &Key, value: Value, condition: &Condition) -> WriteResult<Version> {
        let writing = self.cache.begin_write(&self.place(key));
        let mut outcome = None;
        if let (Condition::Any, Some(version)) = (condition, writing.known_version()) {
            let result = self.inner.put(key, value.clone(), &Condition::Version(version)).await?;
            outcome = Some(result).filter(|result| !matches!(result, Outcome::Rejected(_)));
        }
        let outcome = match outcome {
            Some(outcome) => outcome,
            None => self.inner.put(key, value.clone(), condition).await?,
        };
        if let Outcome::Applied(version) = &outcome {
            writing.applied(Some(Entry { value, version: version.clone() }));
        }
        Ok(outcome)
    }

    async fn remove(&self, key: &Key, condition: &Condition) -> WriteResult<bool> {
        let writing = self.cache.begin_write(&self.place(key));
        let outcome = self.inner.remove(key, condition).await?;
        if let Outcome::Applied(_) = &outcome {
            writing.applied(None);
        }
        Ok(outcome)
    }

    async fn compare_and_swap(
        &self,
        key: &Key,
        old: Option<Value>,
        new: Option<Value>,
    ) -> WriteResult<Option<Version>> {
        let place = self.place(key);
        if let Some(known) = self.cache.look(&place)
            && known.as_ref().map(|entry| &entry.value) != old.as_ref()
        {
            return Ok(Outcome::Rejected(known.map(|entry| (*entry).clone())));
        }
        let writing = self.cache.begin_write(&place);
        let mut outcome = None;
        if let (Some(entry), Some(value)) = (writing.known_entry(), &new)
            && Some(&entry.value) == old.as_ref()
        {
            let swapped = self.inner.put(key, value.clone(), &Condition::Version(entry.version.clone())).await?;
            outcome = Some(swapped.map(Some)).filter(|outcome| !matches!(outcome, Outcome::Rejected(_)));
        }
        let outcome = match outcome {
            Some(outcome) => outcome,
            None => self.inner.compare_and_swap(key, old, new.clone()).await?,
        };
        if let Outcome::Applied(version) = &outcome {
            writing.applied(new.zip(version.clone()).map(|(value, version)| Entry { value, version }));
        }
        Ok(outcome)
    }

    async fn increment(&self, key: &Key, delta: Number) -> WriteResult<(Number, Version)> {
        let writing = self.cache.begin_write(&self.place(key));
        let mut outcome = None;
        if let Some(entry) = writing.known_entry()
            && let Ok(sum) = add(key, Some(&entry.value), &delta)
        {
            let value = Value::Json(sum.clone().into());
            let added = self.inner.put(key, value, &Condition::Version(entry.version.clone())).await?;
            outcome =
                Some(added.map(|version| (sum, version))).filter(|outcome| !matches!(outcome, Outcome::Rejected(_)));
        }
        let outcome = match outcome {
            Some(outcome) => outcome,
            None => self.inner.increment(key, delta).await?,
        };
        if let Outcome::Applied((sum, version)) = &outcome {
            writing.applied(Some(Entry { value: Value::Json(sum.clone().into()), version: version.clone() }));
        }
        Ok(outcome)
    }

    async fn perform_once(&self, key: &Key, operation: Operation, id: &OperationId) -> WriteResult<Done> {
        // Whether it wrote just now or long ago is not told: the next read asks the store.
        let _writing = self.cache.begin_write(&self.place(key));
        self.inner.perform_once(key, operation, id).await
    }

    async fn list(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Page, Error> {
        self.inner.list(prefix, after, limit).await
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
        let mut namespaces = self.namespaces.clone();
        namespaces.push(namespace.clone());
        Arc::new(Self {
            cache: self.cache.clone(),
            scope: self.scope,
            folder: place(self.scope, &namespaces),
            namespaces,
            inner: self.inner.with_namespace(namespace),
        })
    }

    async fn get_batch(&self, keys: &[Key]) -> Vec<Result<Option<Entry>, Error>> {
        let places: Vec<String> = keys.iter().map(|key| self.place(key)).collect();
        let known: Vec<Option<Known>> = places.iter().map(|place| self.cache.look(place)).collect();
        let missing: Vec<usize> = (0..keys.len()).filter(|at| known[*at].is_none()).collect();
        let readings: Vec<Reading> = missing.iter().map(|at| self.cache.begin_read(&places[*at])).collect();
        let asked: Vec<Key> = missing.iter().map(|at| keys[*at].clone()).collect();
        let found = if asked.is_empty() { Vec::new() } else { self.inner.get_batch(&asked).await };
        let mut found = readings.iter().zip(found).map(|(reading, found)| {
            reading.keep(&found);
            found
        });
        let lost = || Err(Error::unavailable("Interrupted", "the store did not answer for every key of a batch"));
        known
            .into_iter()
            .map(|known| match known {
                Some(known) => Ok(known.map(|entry| (*entry).clone())),
                None => found.next().unwrap_or_else(lost),
            })
            .collect()
    }

    async fn put_batch(&self, items: Vec<(Key, Value, Condition)>) -> Vec<WriteResult<Version>> {
        let writings: Vec<Writing> = items.iter().map(|(key, ..)| self.cache.begin_write(&self.place(key))).collect();
        let mut times: HashMap<&Key, u32> = HashMap::new();
        for (key, ..) in &items {
            *times.entry(key).or_default() += 1;
        }
        // Only for a key that comes once: what is sent again after a wrong guess lands behind its later items.
        let guess = |at: usize| {
            let (key, _, condition) = &items[at];
            let alone = *condition == Condition::Any && times.get(key) == Some(&1);
            writings[at].known_version().filter(|_| alone).map(Condition::Version)
        };
        let guesses: Vec<Option<Condition>> = (0..items.len()).map(guess).collect();
        let sent = items.iter().zip(&guesses).map(|((key, value, condition), guess)| {
            (key.clone(), value.clone(), guess.clone().unwrap_or_else(|| condition.clone()))
        });
        let mut outcomes = self.inner.put_batch(sent.collect()).await;
        let was_wrong =
            |at: &usize| guesses[*at].is_some() && matches!(outcomes.get(*at), Some(Ok(Outcome::Rejected(_))));
        let wrong: Vec<usize> = (0..items.len()).filter(was_wrong).collect();
        if !wrong.is_empty() {
            let again = wrong.iter().map(|at| items[*at].clone()).collect();
            for (at, outcome) in wrong.into_iter().zip(self.inner.put_batch(again).await) {
                outcomes[at] = outcome;
            }
        }
        for (((_, value, _), writing), outcome) in items.into_iter().zip(&writings).zip(&outcomes) {
            if let Ok(Outcome::Applied(version)) = outcome {
                writing.applied(Some(Entry { value, version: version.clone() }));
            }
        }
        outcomes
    }
}
