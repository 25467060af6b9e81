//! Layers that are broken on purpose, each in one way that some real store has been.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use brainy_storage::{
    Condition, Done, Entry, Error, Key, Namespace, Operation, OperationId, Outcome, Page, StorageAdapter, Value,
    Version, WriteResult,
};
use serde_json::Number;

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Flaw {
    /// A read that began before a write puts the old value back.
    CacheWithoutGenerations,
    /// Every second read of a key gives what the one before it found.
    ReadsAreStale,
    PutChecksThenWrites,
    RemoveChecksThenRemoves,
    SwapInTwoSteps,
    IncrementReadsThenSets,
    BatchIgnoresItsConditions,
    /// Told as if nothing had been written.
    UnknownIsAFailure,
    /// Told as if it had been written.
    UnknownIsASuccess,
    IncrementIsRepeatedWhenUnknown,
}

impl Flaw {
    /// It shows only where messages are lost.
    pub(crate) fn is_about_losses(self) -> bool {
        matches!(self, Self::UnknownIsAFailure | Self::UnknownIsASuccess | Self::IncrementIsRepeatedWhenUnknown)
    }
}

pub(crate) const FLAWS: [Flaw; 10] = {
    use Flaw::*;
    [
        CacheWithoutGenerations,
        ReadsAreStale,
        PutChecksThenWrites,
        RemoveChecksThenRemoves,
        SwapInTwoSteps,
        IncrementReadsThenSets,
        BatchIgnoresItsConditions,
        UnknownIsAFailure,
        UnknownIsASuccess,
        IncrementIsRepeatedWhenUnknown,
    ]
};

#[derive(Debug)]
pub(crate) struct Broken {
    inner: Arc<dyn StorageAdapter>,
    flaw: Flaw,
    /// What reads have found.
    kept: Mutex<HashMap<Key, Option<Entry>>>,
}

impl Broken {
    pub(crate) fn over(inner: Arc<dyn StorageAdapter>, flaw: Flaw) -> Arc<dyn StorageAdapter> {
        Arc::new(Self { inner, flaw, kept: Mutex::default() })
    }

    fn has(&self, flaw: Flaw) -> bool {
        self.flaw == flaw
    }

    /// What stands there, if the condition does not hold for it. What comes between this and a write is not noticed.
    async fn refuses(&self, key: &Key, condition: &Condition) -> Result<Option<Option<Entry>>, Error> {
        let current = self.inner.get(key).await?;
        Ok(if condition.holds(current.as_ref().map(|entry| &entry.version)) { None } else { Some(current) })
    }
}

#[async_trait]
impl StorageAdapter for Broken {
    async fn get(&self, key: &Key) -> Result<Option<Entry>, Error> {
        let keeps = matches!(self.flaw, Flaw::CacheWithoutGenerations | Flaw::ReadsAreStale);
        let kept = self.kept.lock().unwrap().get(key).cloned();
        if let Some(found) = kept {
            if self.has(Flaw::ReadsAreStale) {
                self.kept.lock().unwrap().remove(key);
            }
            return Ok(found);
        }
        let found = self.inner.get(key).await?;
        if keeps {
            self.kept.lock().unwrap().insert(key.clone(), found.clone());
        }
        Ok(found)
    }

    async fn put(&self, key: &Key, value: Value, condition: &Condition) -> WriteResult<Version> {
        if self.has(Flaw::CacheWithoutGenerations) {
            self.kept.lock().unwrap().remove(key);
        }
        if self.has(Flaw::PutChecksThenWrites) {
            if let Some(current) = self.refuses(key, condition).await? {
                return Ok(Outcome::Rejected(current));
            }
            return self.inner.set(key, value).await;
        }
        match (self.inner.put(key, value, condition).await?, self.flaw) {
            (Outcome::Unknown(why), Flaw::UnknownIsAFailure) => Err(Error::unavailable("Interrupted", why.to_string())),
            (Outcome::Unknown(_), Flaw::UnknownIsASuccess) => {
                Ok(Outcome::Applied(Version { revision: u64::MAX, tag: "0".to_owned() }))
            }
            (outcome, _) => Ok(outcome),
        }
    }

    async fn remove(&self, key: &Key, condition: &Condition) -> WriteResult<bool> {
        if self.has(Flaw::CacheWithoutGenerations) {
            self.kept.lock().unwrap().remove(key);
        }
        if self.has(Flaw::RemoveChecksThenRemoves) {
            if let Some(current) = self.refuses(key, condition).await? {
                return Ok(Outcome::Rejected(current));
            }
            return self.inner.delete(key).await;
        }
        self.inner.remove(key, condition).await
    }

    async fn perform_once(&self, key: &Key, operation: Operation, id: &OperationId) -> WriteResult<Done> {
        self.inner.perform_once(key, operation, id).await
    }

    async fn list(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Page, Error> {
        self.inner.list(prefix, after, limit).await
    }

    fn with_namespace(&self, namespace: &Namespace) -> Arc<dyn StorageAdapter> {
        Self::over(self.inner.with_namespace(namespace), self.flaw)
    }

    async fn put_batch(&self, items: Vec<(Key, Value, Condition)>) -> Vec<WriteResult<Version>> {
        let mut outcomes = Vec::with_capacity(items.len());
        for (key, value, condition) in items {
            let condition = if self.has(Flaw::BatchIgnoresItsConditions) { Condition::Any } else { condition };
            outcomes.push(self.put(&key, value, &condition).await);
        }
        outcomes
    }

    async fn compare_and_swap(
        &self,
        key: &Key,
        old: Option<Value>,
        new: Option<Value>,
    ) -> WriteResult<Option<Version>> {
        if !self.has(Flaw::SwapInTwoSteps) {
            return self.inner.compare_and_swap(key, old, new).await;
        }
        let current = self.get(key).await?;
        if current.as_ref().map(|entry| &entry.value) != old.as_ref() {
            return Ok(Outcome::Rejected(current));
        }
        match new {
            Some(new) => Ok(self.set(key, new).await?.map(Some)),
            None => Ok(self.delete(key).await?.map(|_| None)),
        }
    }

    async fn increment(&self, key: &Key, delta: Number) -> WriteResult<(Number, Version)> {
        match self.flaw {
            Flaw::IncrementReadsThenSets => {
                let current = self.get(key).await?;
                let sum = brainy_storage::value::add(key, current.as_ref().map(|entry| &entry.value), &delta)?;
                let outcome = self.set(key, Value::Json(sum.clone().into())).await?;
                Ok(outcome.map(|version| (sum, version)))
            }
            Flaw::IncrementIsRepeatedWhenUnknown => loop {
                match self.inner.increment(key, delta.clone()).await? {
                    Outcome::Unknown(_) => {}
                    outcome => return Ok(outcome),
                }
            },
            _ => self.inner.increment(key, delta).await,
        }
    }
}
