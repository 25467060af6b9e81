//! A namespace of a store in several regions, as a [`StorageAdapter`].

use std::sync::Arc;

use async_trait::async_trait;
use futures::future::join_all;
use futures::stream::{self, StreamExt};
use serde_json::Number;

use super::deciding::decide;
use super::listing;
use super::region::{Space, read};
use super::store::{InUse, Store};
use super::writing::{is_plain, write};
use crate::layers::batching::{as_kind, removed, sum, swapped, written};
use crate::layers::behind::{Answers, Item, in_rounds};
use crate::operation::{Request, only};
use crate::{
    Condition, Done, Entry, Error, Key, Namespace, Operation, OperationId, Page, Requests, StorageAdapter, Value,
    Version, WriteResult,
};

/// Keys of a batch that are decided at a time.
const AT_ONCE: usize = 16;

/// A store in several regions.
#[derive(Clone, Debug)]
pub(super) struct RegionsAdapter {
    in_use: Arc<InUse>,
    space: Arc<Space>,
}

impl RegionsAdapter {
    pub(super) fn new(in_use: Arc<InUse>) -> Self {
        let space = in_use.0.spaces.space(&[]);
        Self { in_use, space }
    }

    fn store(&self) -> &Arc<Store> {
        &self.in_use.0
    }

    /// Does operations on keys of which none comes twice: what is plain in the own region, the rest in the home.
    async fn write(&self, items: Vec<Item>) -> Vec<Answers> {
        let (store, space) = (Arc::clone(self.store()), Arc::clone(&self.space));
        let write = |items| async move { Box::pin(split(&store, &space, items)).await };
        self.store().background.write(items, write).await
    }

    async fn perform_all(&self, key: &Key, requests: Vec<Request>) -> Answers {
        let item = Item { key: key.clone(), requests };
        self.write(vec![item]).await.pop().unwrap_or_default()
    }

    async fn one<T>(&self, key: &Key, operation: Operation, kind: fn(Done) -> Option<T>) -> WriteResult<T> {
        as_kind(only(self.perform_all(key, vec![Request { operation, id: None }]).await), kind)
    }
}

async fn split(store: &Arc<Store>, space: &Arc<Space>, items: Vec<Item>) -> Vec<Answers> {
    let (mut plain, mut others) = (Vec::new(), Vec::new());
    let mut answers: Vec<Answers> = items.iter().map(|_| Vec::new()).collect();
    for (index, item) in items.into_iter().enumerate() {
        if is_plain(&item.requests) { plain.push((index, item)) } else { others.push((index, item)) }
    }
    let (indexes, plain): (Vec<usize>, Vec<Item>) = plain.into_iter().unzip();
    if !plain.is_empty() {
        for (index, answer) in indexes.into_iter().zip(write(store, space, plain).await) {
            answers[index] = answer;
        }
    }
    let mut decisions = Vec::with_capacity(others.len());
    for (index, item) in &others {
        decisions.push(async move { (*index, Box::pin(decide(store, space, item)).await) });
    }
    let mut decisions = stream::iter(decisions).buffer_unordered(AT_ONCE);
    while let Some((index, answer)) = decisions.next().await {
        answers[index] = answer;
    }
    answers
}

#[async_trait]
impl StorageAdapter for RegionsAdapter {
    async fn get(&self, key: &Key) -> Result<Option<Entry>, Error> {
        self.store().background.wake();
        Ok(self.store().read(&self.space, key).await?.and_then(|record| record.entry()))
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
        self.store().settle().await
    }

    fn resume(&self) {
        self.store().background.wake();
    }

    async fn get_batch(&self, keys: &[Key]) -> Vec<Result<Option<Entry>, Error>> {
        self.store().background.wake();
        // The nearest region is asked for all at once; what it can't say, as for a single key.
        let nearest = self.store().order_for(None).first().copied().unwrap_or(self.store().here);
        let found = self.space.stores[nearest].get_batch(keys).await;
        let clock = &self.store().shared.clock;
        let found = keys.iter().zip(found).map(|(key, entry)| entry.and_then(|entry| read(key, entry, clock)));
        let sure = found.map(|found| found.ok().flatten()).chain(std::iter::repeat_with(|| None));
        let answers = keys.iter().zip(sure).map(|(key, found)| async move {
            match found {
                Some((record, _)) => Ok(record.entry()),
                None => Ok(self.store().read(&self.space, key).await?.and_then(|record| record.entry())),
            }
        });
        join_all(answers).await
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
