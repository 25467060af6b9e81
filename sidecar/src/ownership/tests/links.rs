//! What a node of these clusters writes to: documents and shards in memory, over ways that can be bad.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use brainy_coordination::{FencingToken, NodeId, ShardId, names};
use brainy_storage::backends::memory::{MemoryAdapter, MemoryDocuments};
use brainy_storage::backends::objects::BucketStore;
use brainy_storage::backends::s3::Capabilities;
use brainy_storage::documents::{Document, DocumentVersion, Documents, Swap};
use brainy_storage::{Error, StorageAdapter};
use bytes::Bytes;

use super::super::ShardStores;
use super::super::layout::OnePlace;
use super::super::node::{OpenBucket, SharedBucket, layout};
use super::super::proof::Proof;
use super::objects::Objects;

/// A connection to the documents that can be cut, and that loses answers.
#[derive(Debug)]
pub(super) struct Link {
    documents: MemoryDocuments,
    pub(super) cut: AtomicBool,
    /// One of so many writes is answered with "unknown", half of them after they took effect; 0: none.
    pub(super) lose_one_in: AtomicU64,
    count: AtomicU64,
    /// Documents read since the last listing, and listings between which none was read.
    read: AtomicU64,
    pub(super) idle_looks: AtomicU64,
    /// Reads of the election.
    pub(super) elections: AtomicU64,
    /// What the next proof of the store comes to, if it does not pass.
    pub(super) verdict: Mutex<Option<Error>>,
    /// Proofs so far.
    pub(super) proofs: AtomicU64,
}

impl Link {
    pub(super) fn over(documents: MemoryDocuments) -> Self {
        Self {
            documents,
            cut: AtomicBool::new(false),
            lose_one_in: AtomicU64::new(0),
            count: AtomicU64::new(0),
            read: AtomicU64::new(0),
            idle_looks: AtomicU64::new(0),
            elections: AtomicU64::new(0),
            verdict: Mutex::default(),
            proofs: AtomicU64::new(0),
        }
    }

    /// Documents that this node has tried to write.
    pub(super) fn writes(&self) -> u64 {
        self.count.load(Ordering::SeqCst)
    }

    /// Waits until the store has been put to the test a few more times.
    pub(super) async fn proved(&self) {
        let before = self.proofs.load(Ordering::SeqCst);
        while self.proofs.load(Ordering::SeqCst) < before + 3 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

#[async_trait]
impl Documents for Link {
    async fn read(&self, name: &str) -> Result<Option<Document>, Error> {
        if self.cut.load(Ordering::SeqCst) {
            return Err(Error::unavailable("Cut", "the link is cut"));
        }
        self.read.fetch_add(1, Ordering::SeqCst);
        if name == names::CONTROLLER_ELECTION {
            self.elections.fetch_add(1, Ordering::SeqCst);
        }
        self.documents.read(name).await
    }

    async fn swap(&self, name: &str, expected: Option<&DocumentVersion>, body: Bytes) -> Result<Swap, Error> {
        if self.cut.load(Ordering::SeqCst) {
            return Ok(Swap::Unknown("the link is cut".into()));
        }
        let (count, lose) = (self.count.fetch_add(1, Ordering::SeqCst), self.lose_one_in.load(Ordering::SeqCst));
        if lose == 0 || count % lose != lose - 1 {
            return self.documents.swap(name, expected, body).await;
        }
        if count / lose % 2 == 0 {
            let _lost = self.documents.swap(name, expected, body).await?;
        } else {
            // It lands later, if it still can.
            let (documents, name, expected) = (self.documents.clone(), name.to_owned(), expected.cloned());
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(30)).await;
                let _late = documents.swap(&name, expected.as_ref(), body).await;
            });
        }
        Ok(Swap::Unknown("the answer was lost".into()))
    }

    async fn names(&self, prefix: &str) -> Result<Vec<String>, Error> {
        if self.cut.load(Ordering::SeqCst) {
            return Err(Error::unavailable("Cut", "the link is cut"));
        }
        self.documents.names(prefix).await
    }

    async fn versions(&self, prefix: &str) -> Result<Vec<(String, Option<DocumentVersion>)>, Error> {
        if self.cut.load(Ordering::SeqCst) {
            return Err(Error::unavailable("Cut", "the link is cut"));
        }
        if self.read.swap(0, Ordering::SeqCst) == 0 {
            self.idle_looks.fetch_add(1, Ordering::SeqCst);
        }
        self.documents.versions(prefix).await
    }
}

/// Shards in memory, shared by all nodes.
#[derive(Debug, Default)]
pub(super) struct MemoryShards(Mutex<HashMap<ShardId, MemoryAdapter>>);

impl ShardStores for MemoryShards {
    fn open(&self, shard: ShardId, _token: FencingToken) -> Result<Arc<dyn StorageAdapter>, Error> {
        Ok(Arc::new(self.0.lock().unwrap().entry(shard).or_default().clone()))
    }
}

/// Where the data of shards is.
#[derive(Clone)]
pub(super) enum Data {
    /// On this folder's volumes.
    Volumes(Arc<tempfile::TempDir>),
    /// Below the nodes' namespaces, and how late something may arrive there.
    Namespaces(Objects, Duration),
    /// At one place.
    Shards(Arc<MemoryShards>),
}

pub(super) struct Bucket {
    pub(super) link: Arc<Link>,
    pub(super) node: NodeId,
    pub(super) data: Data,
}

#[async_trait]
impl SharedBucket for Bucket {
    async fn open(&self) -> Result<OpenBucket, Error> {
        let layout = match &self.data {
            Data::Namespaces(objects, latest) => {
                layout(BucketStore::new(objects.clone()), Some(&self.node), None, *latest)
            }
            Data::Shards(shards) => Arc::new(OnePlace(Arc::clone(shards) as _)),
            Data::Volumes(_) => return Err(Error::unavailable("NoSuchBucket", "there are volumes only")),
        };
        Ok(OpenBucket { documents: Arc::clone(&self.link) as _, layout, proof: self.link.clone() })
    }
}

#[async_trait]
impl Proof for Link {
    async fn prove(&self) -> Result<Capabilities, Error> {
        let verdict = self.verdict.lock().unwrap().clone();
        self.proofs.fetch_add(1, Ordering::SeqCst);
        verdict.map_or(Ok(CAPABLE), Err)
    }
}

const CAPABLE: Capabilities = Capabilities {
    create_only: true,
    if_match: true,
    atomic_under_race: true,
    read_after_write: true,
    etag_is_md5: true,
};
