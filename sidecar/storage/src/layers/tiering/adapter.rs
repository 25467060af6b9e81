//! A namespace of a store over two tiers, as a [`StorageAdapter`].

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Number;

use super::listing;
use super::promotion::{clear_mark, promote};
use super::spaces::Space;
use super::store::{InUse, Store, hash, read};
use super::writing::{from_cold, write};
use crate::layers::batching::{as_kind, removed, sum, swapped, written};
use crate::layers::behind::{Answers, Item, in_rounds};
use crate::operation::{Request, only};
use crate::{
    Condition, Done, Entry, Error, Key, Namespace, Operation, OperationId, Page, Requests, StorageAdapter, Value,
    Version, WriteResult,
};

/// A store over two tiers.
#[derive(Clone, Debug)]
pub(super) struct TieringAdapter {
    in_use: Arc<InUse>,
    space: Arc<Space>,
}

impl TieringAdapter {
    pub(super) fn new(in_use: InUse) -> Self {
        let space = in_use.0.spaces.space(&[]);
        Self { in_use: Arc::new(in_use), space }
    }

    fn store(&self) -> &Arc<Store> {
        &self.in_use.0
    }

    /// Does operations on keys of which none comes twice.
    async fn write(&self, items: Vec<Item>) -> Vec<Answers> {
        let (store, space) = (Arc::clone(self.store()), Arc::clone(&self.space));
        let write = |items| async move { Box::pin(write(&store, &space, items)).await };
        self.store().background.write(items, write).await
    }

    async fn perform_all(&self, key: &Key, requests: Vec<Request>) -> Answers {
        let item = Item { key: key.clone(), requests };
        self.write(vec![item]).await.pop().unwrap_or_default()
    }

    async fn one<T>(&self, key: &Key, operation: Operation, kind: fn(Done) -> Option<T>) -> WriteResult<T> {
        as_kind(only(self.perform_all(key, vec![Request { operation, id: None }]).await), kind)
    }

    /// What the cold tier has of a key that the hot one did not have; `generation` is from before that was asked.
    async fn miss(&self, key: &Key, hash: u64, generation: u64, found: Option<Entry>) -> Result<Option<Entry>, Error> {
        let store = self.store();
        store.shared.counts.cold_reads.add(1);
        let Some((sealed, noted)) = from_cold(key, found)? else { return Ok(None) };
        if sealed.is_removal() {
            let (store, space, key) = (Arc::clone(store), Arc::clone(&self.space), key.clone());
            let clearing =
                tokio::spawn(async move { clear_mark(&store, &space, &key, generation, (sealed, noted)).await });
            // There is nothing, whatever becomes of the mark.
            let _cleared = clearing.await;
            return Ok(None);
        }
        let entry = sealed.entry();
        if entry.is_some() && store.shared.is_frequent(hash) {
            let (store, space, key) = (Arc::clone(store), Arc::clone(&self.space), key.clone());
            tokio::spawn(async move { promote(&store, &space, &key, generation, (sealed, noted)).await });
        }
        Ok(entry)
    }

    fn hit(&self, hash: u64) {
        let store = self.store();
        store.shared.counts.hot_reads.add(1);
        store.access.read(hash, store.now());
    }

    fn hash(&self, key: &Key) -> u64 {
        hash(&self.space.folder, key)
    }
}

#[async_trait]
impl StorageAdapter for TieringAdapter {
    async fn get(&self, key: &Key) -> Result<Option<Entry>, Error> {
        self.store().background.wake();
        let hash = self.hash(key);
        let generation = self.store().generation(hash);
        match read(key, self.space.hot.get(key).await?)? {
            // A record that says that there is no value hides what the cold tier has.
            Some((record, _)) => {
                self.hit(hash);
                Ok(record.sealed.into_entry())
            }
            None => {
                let found = self.space.cold.get(key).await?;
                self.miss(key, hash, generation, found).await
            }
        }
    }

    async fn put(&self, key: &Key, value: Value, condition: &Condition) -> WriteResult<Version> {
        value.check()?;
        self.one(key, Operation::Put { value, condition: condition.clone() }, written).await
    }

    async fn remove(&self, key: &Key, condition: &Condition) -> WriteResult<bool> {
        condition.check_for_removal()?;
        self.one(key, Operation::Remove { condition: condition.clone() }, removed).await
    }

    async fn list(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Page, Error> {
        self.store().background.wake();
        listing::list(self.store(), &self.space, prefix, after, limit).await
    }

    async fn perform_once(&self, key: &Key, operation: Operation, id: &OperationId) -> WriteResult<Done> {
        only(self.perform_all(key, vec![Request { operation, id: Some(id.clone()) }]).await)
    }

    async fn perform(&self, key: &Key, requests: Requests) -> Vec<WriteResult<Done>> {
        self.perform_all(key, requests.into_iter().collect()).await
    }

    fn with_namespace(&self, namespace: &Namespace) -> Arc<dyn StorageAdapter> {
        let space = self.store().spaces.below(&self.space, namespace);
        Arc::new(Self { in_use: Arc::clone(&self.in_use), space })
    }

    async fn settle(&self) -> Result<(), Error> {
        // What is acknowledged is in the hot tier; when keys were read last is no great loss.
        if let Err(error) = self.store().save().await {
            tracing::debug!(%error, "when keys were read last can't be written down");
        }
        self.store().background.rest().await;
        self.store().hot.settle().await
    }

    fn resume(&self) {
        self.store().background.wake();
    }

    async fn get_batch(&self, keys: &[Key]) -> Vec<Result<Option<Entry>, Error>> {
        self.store().background.wake();
        let hashes: Vec<u64> = keys.iter().map(|key| self.hash(key)).collect();
        let generations: Vec<u64> = hashes.iter().map(|hash| self.store().generation(*hash)).collect();
        let mut found: Vec<Option<Result<Option<Entry>, Error>>> = Vec::with_capacity(keys.len());
        for ((key, hash), entry) in keys.iter().zip(&hashes).zip(self.space.hot.get_batch(keys).await) {
            found.push(match entry.and_then(|entry| read(key, entry)) {
                Ok(Some((record, _))) => {
                    self.hit(*hash);
                    Some(Ok(record.sealed.into_entry()))
                }
                Ok(None) => None,
                Err(error) => Some(Err(error)),
            });
        }
        let missing: Vec<usize> = (0..found.len()).filter(|at| found[*at].is_none()).collect();
        let asked: Vec<Key> = missing.iter().map(|at| keys[*at].clone()).collect();
        let cold = if asked.is_empty() { Vec::new() } else { self.space.cold.get_batch(&asked).await };
        for (at, entry) in missing.into_iter().zip(cold) {
            found[at] = Some(match entry {
                Ok(entry) => self.miss(&keys[at], hashes[at], generations[at], entry).await,
                Err(error) => Err(error),
            });
        }
        let lost = || Err(Error::unavailable("Interrupted", "a tier did not answer for every key of a batch"));
        found.into_iter().map(|found| found.unwrap_or_else(lost)).collect()
    }

    async fn put_batch(&self, items: Vec<(Key, Value, Condition)>) -> Vec<WriteResult<Version>> {
        in_rounds(items, |round| self.write(round)).await
    }

    async fn compare_and_swap(
        &self,
        key: &Key,
        old: Option<Value>,
        new: Option<Value>,
    ) -> WriteResult<Option<Version>> {
        self.one(key, Operation::Swap { old, new }, swapped).await
    }

    async fn increment(&self, key: &Key, delta: Number) -> WriteResult<(Number, Version)> {
        self.one(key, Operation::Increment { delta }, sum).await
    }
}
