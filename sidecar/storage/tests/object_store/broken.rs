//! Adapters that are broken on purpose, each in one way.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use brainy_storage::backends::memory::MemoryAdapter;
use brainy_storage::{
    Condition, Done, Entry, Error, Key, Namespace, Operation, OperationId, Outcome, Page, StorageAdapter, Value,
    Version, WriteResult,
};

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Flaw {
    IfMatchIsIgnored,
    AbsentIsIgnored,
    PutChecksThenWrites,
    /// The first read after a write still gives what stood there before.
    ReadsAreStaleOnce,
    VersionNeverChanges,
    ValuesLoseTheirLastByte,
    BytesBecomeText,
    MissingValuesAreEmpty,
    DeleteDoesNothing,
    KeysIgnoreCase,
    BatchAnswersInReverse,
    NamespaceIsIgnored,
    ListForgetsAKey,
    ListInReverse,
    ListNeverHasMore,
    ListRepeatsTheStart,
    ListIgnoresThePrefix,
    ListIgnoresTheLimit,
}

pub(crate) const FLAWS: [Flaw; 18] = {
    use Flaw::*;
    [
        IfMatchIsIgnored,
        AbsentIsIgnored,
        PutChecksThenWrites,
        ReadsAreStaleOnce,
        VersionNeverChanges,
        ValuesLoseTheirLastByte,
        BytesBecomeText,
        MissingValuesAreEmpty,
        DeleteDoesNothing,
        KeysIgnoreCase,
        BatchAnswersInReverse,
        NamespaceIsIgnored,
        ListForgetsAKey,
        ListInReverse,
        ListNeverHasMore,
        ListRepeatsTheStart,
        ListIgnoresThePrefix,
        ListIgnoresTheLimit,
    ]
};

/// Between the two steps of what should be one: long enough that racing writers meet in it on any machine.
const WINDOW: Duration = Duration::from_millis(5);

/// A sound adapter with one flaw.
#[derive(Clone, Debug)]
pub(crate) struct Broken {
    inner: Arc<dyn StorageAdapter>,
    flaw: Flaw,
    /// What stood there before the last write of a key, until it is read.
    before: Arc<Mutex<HashMap<Key, Option<Entry>>>>,
}

impl Broken {
    pub(crate) fn with(flaw: Flaw) -> Arc<dyn StorageAdapter> {
        Arc::new(Self { inner: Arc::new(MemoryAdapter::new()), flaw, before: Arc::default() })
    }

    fn has(&self, flaw: Flaw) -> bool {
        self.flaw == flaw
    }

    fn key(&self, key: &Key) -> Key {
        match self.flaw {
            Flaw::KeysIgnoreCase => Key::new(key.as_str().to_lowercase()).unwrap(),
            _ => key.clone(),
        }
    }

    fn version(&self, version: Version) -> Version {
        match self.flaw {
            Flaw::VersionNeverChanges => Version { revision: 1, tag: "0".to_owned() },
            _ => version,
        }
    }

    /// The condition that is passed on; `None`: it does not hold.
    async fn condition(&self, condition: &Condition, key: &Key) -> Result<Option<Condition>, Error> {
        let blind = match condition {
            Condition::Version(_) => matches!(self.flaw, Flaw::IfMatchIsIgnored | Flaw::VersionNeverChanges),
            Condition::Absent => self.has(Flaw::AbsentIsIgnored),
            Condition::Any => false,
        };
        if self.has(Flaw::PutChecksThenWrites) {
            let current = self.inner.get(key).await?.map(|entry| entry.version);
            tokio::time::sleep(WINDOW).await;
            return Ok(condition.holds(current.as_ref()).then_some(Condition::Any));
        }
        Ok(Some(if blind { Condition::Any } else { condition.clone() }))
    }
}

#[async_trait]
impl StorageAdapter for Broken {
    async fn get(&self, key: &Key) -> Result<Option<Entry>, Error> {
        let key = self.key(key);
        if let Some(before) = self.before.lock().unwrap().remove(&key) {
            return Ok(before);
        }
        let entry = self.inner.get(&key).await?;
        if entry.is_none() && self.has(Flaw::MissingValuesAreEmpty) {
            let version = Version { revision: 1, tag: "0".to_owned() };
            return Ok(Some(Entry { value: Value::Bytes(Default::default()), version }));
        }
        Ok(entry.map(|Entry { value, version }| match value {
            Value::Bytes(bytes) if self.has(Flaw::ValuesLoseTheirLastByte) => {
                Entry { value: Value::Bytes(bytes.slice(..bytes.len() - 1)), version }
            }
            value => Entry { value, version: self.version(version) },
        }))
    }

    async fn put(&self, key: &Key, value: Value, condition: &Condition) -> WriteResult<Version> {
        let key = self.key(key);
        let value = match value {
            Value::Bytes(bytes) if self.has(Flaw::BytesBecomeText) => {
                Value::Bytes(String::from_utf8_lossy(&bytes).into_owned().into())
            }
            value => value,
        };
        let before = self.inner.get(&key).await?;
        let Some(condition) = self.condition(condition, &key).await? else { return Ok(Outcome::Rejected(before)) };
        let outcome = self.inner.put(&key, value, &condition).await?;
        if self.has(Flaw::ReadsAreStaleOnce) && matches!(outcome, Outcome::Applied(_)) {
            self.before.lock().unwrap().insert(key, before);
        }
        Ok(outcome.map(|version| self.version(version)))
    }

    async fn remove(&self, key: &Key, condition: &Condition) -> WriteResult<bool> {
        match self.flaw {
            Flaw::DeleteDoesNothing => Ok(Outcome::Applied(true)),
            _ => self.inner.remove(&self.key(key), condition).await,
        }
    }

    async fn perform_once(&self, key: &Key, operation: Operation, id: &OperationId) -> WriteResult<Done> {
        self.inner.perform_once(&self.key(key), operation, id).await
    }

    async fn list(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Page, Error> {
        let prefix = if self.has(Flaw::ListIgnoresThePrefix) { "" } else { prefix };
        let limit = if self.has(Flaw::ListIgnoresTheLimit) { usize::MAX } else { limit };
        let mut page = self.inner.list(prefix, after, limit).await?;
        match self.flaw {
            Flaw::ListForgetsAKey if page.keys.len() > 1 => drop(page.keys.remove(0)),
            Flaw::ListInReverse => page.keys.reverse(),
            Flaw::ListNeverHasMore => page.more = false,
            Flaw::ListRepeatsTheStart => {
                if let Some(after) = after.filter(|key| key.as_str().starts_with(prefix))
                    && self.inner.get(after).await?.is_some()
                {
                    page.more |= page.keys.len() == limit;
                    page.keys.insert(0, after.clone());
                    page.keys.truncate(limit);
                }
            }
            _ => {}
        }
        Ok(page)
    }

    fn with_namespace(&self, namespace: &Namespace) -> Arc<dyn StorageAdapter> {
        match self.flaw {
            Flaw::NamespaceIsIgnored => Arc::new(self.clone()),
            flaw => Arc::new(Self { inner: self.inner.with_namespace(namespace), flaw, before: Arc::default() }),
        }
    }

    async fn get_batch(&self, keys: &[Key]) -> Vec<Result<Option<Entry>, Error>> {
        let mut found = Vec::new();
        for key in keys {
            found.push(self.get(key).await);
        }
        if self.has(Flaw::BatchAnswersInReverse) {
            found.reverse();
        }
        found
    }
}
