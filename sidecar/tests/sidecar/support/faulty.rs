//! Storage that does what a test asks of it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use brainy_coordination::{FencingToken, ShardId};
use brainy_sidecar::ownership::ShardStores;
use brainy_storage::backends::memory::{MemoryAdapter, MemoryDocuments};
use brainy_storage::documents::{Document, DocumentVersion, Documents, Swap};
use brainy_storage::{
    Condition, Done, Entry, Error, Key, Namespace, Operation, OperationId, Outcome, Page, StorageAdapter, Unknown,
    Value, Version, WriteResult,
};
use bytes::Bytes;
use tokio::sync::Semaphore;

/// What goes wrong.
#[derive(Clone, Debug, Default)]
pub(crate) enum Fault {
    #[default]
    None,
    /// Writes take effect, but nobody learns of it.
    UnknownWrites,
    /// So it is with the next operation, and then this goes wrong.
    UnknownOnce(Box<Fault>),
    /// Everything fails cleanly.
    Failing(Error),
    /// Nothing ever answers.
    Silent,
    /// Each operation waits for a permit.
    Held(Arc<Semaphore>),
}

/// Memory with a fault.
#[derive(Clone, Debug)]
pub(crate) struct Faulty {
    memory: Arc<dyn StorageAdapter>,
    fault: Arc<Mutex<Fault>>,
}

impl Faulty {
    async fn check(&self) -> Result<bool, Error> {
        let fault = self.fault.lock().unwrap().clone();
        match fault {
            Fault::None => Ok(false),
            Fault::UnknownWrites => Ok(true),
            Fault::UnknownOnce(next) => {
                *self.fault.lock().unwrap() = *next;
                Ok(true)
            }
            Fault::Failing(error) => Err(error),
            Fault::Silent => std::future::pending().await,
            Fault::Held(gate) => {
                gate.acquire().await.unwrap().forget();
                Ok(false)
            }
        }
    }

    async fn write<T>(&self, writing: impl Future<Output = WriteResult<T>>) -> WriteResult<T> {
        let unknown = self.check().await?;
        let outcome = writing.await?;
        if unknown { Ok(Outcome::Unknown(Unknown("the answer was lost".into()))) } else { Ok(outcome) }
    }
}

#[async_trait]
impl StorageAdapter for Faulty {
    async fn get(&self, key: &Key) -> Result<Option<Entry>, Error> {
        self.check().await?;
        self.memory.get(key).await
    }

    async fn put(&self, key: &Key, value: Value, condition: &Condition) -> WriteResult<Version> {
        self.write(self.memory.put(key, value, condition)).await
    }

    async fn remove(&self, key: &Key, condition: &Condition) -> WriteResult<bool> {
        self.write(self.memory.remove(key, condition)).await
    }

    async fn perform_once(&self, key: &Key, operation: Operation, id: &OperationId) -> WriteResult<Done> {
        self.write(self.memory.perform_once(key, operation, id)).await
    }

    async fn list(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Page, Error> {
        self.check().await?;
        self.memory.list(prefix, after, limit).await
    }

    fn with_namespace(&self, namespace: &Namespace) -> Arc<dyn StorageAdapter> {
        Arc::new(Self { memory: self.memory.with_namespace(namespace), fault: Arc::clone(&self.fault) })
    }
}

/// Shards in memory, all with the same fault.
#[derive(Debug, Default)]
pub(crate) struct MemoryStores {
    fault: Arc<Mutex<Fault>>,
    shards: Mutex<HashMap<ShardId, Faulty>>,
}

impl MemoryStores {
    pub(crate) fn set_fault(&self, fault: Fault) {
        *self.fault.lock().unwrap() = fault;
    }

    pub(crate) fn shard(&self, shard: ShardId) -> Faulty {
        let fresh = || Faulty { memory: Arc::new(MemoryAdapter::default()), fault: Arc::clone(&self.fault) };
        self.shards.lock().unwrap().entry(shard).or_insert_with(fresh).clone()
    }
}

impl ShardStores for MemoryStores {
    fn open(&self, shard: ShardId, _: FencingToken) -> Result<Arc<dyn StorageAdapter>, Error> {
        Ok(Arc::new(self.shard(shard)))
    }
}

/// What goes wrong with documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DocumentFault {
    /// Nobody learns what became of a write, and nothing can be read after it.
    Lost,
    /// Nothing can be read any more.
    Gone,
    /// What is read is no document.
    Corrupt,
}

/// Documents in memory with a fault.
#[derive(Debug, Default)]
pub(crate) struct FaultyDocuments {
    memory: MemoryDocuments,
    fault: Mutex<Option<DocumentFault>>,
}

impl FaultyDocuments {
    pub(crate) fn set_fault(&self, fault: Option<DocumentFault>) {
        *self.fault.lock().unwrap() = fault;
    }
}

#[async_trait]
impl Documents for FaultyDocuments {
    async fn read(&self, name: &str) -> Result<Option<Document>, Error> {
        let fault = *self.fault.lock().unwrap();
        match fault {
            Some(DocumentFault::Gone) => Err(Error::unavailable("NoSuchBucket", "it is gone")),
            Some(DocumentFault::Corrupt) => Err(Error::Corrupt { key: name.into(), problem: "cut off".into() }),
            Some(DocumentFault::Lost) | None => self.memory.read(name).await,
        }
    }

    async fn swap(&self, name: &str, expected: Option<&DocumentVersion>, body: Bytes) -> Result<Swap, Error> {
        let answer = self.memory.swap(name, expected, body).await;
        let mut fault = self.fault.lock().unwrap();
        if *fault == Some(DocumentFault::Lost) {
            *fault = Some(DocumentFault::Gone);
            return Ok(Swap::Unknown("lost".into()));
        }
        answer
    }

    async fn names(&self, prefix: &str) -> Result<Vec<String>, Error> {
        self.memory.names(prefix).await
    }
}
