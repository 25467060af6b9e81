//! Small JSON documents under compare-and-swap: the raw objects in which coordination keeps its records. Unlike a
//! [`StorageAdapter`](crate::StorageAdapter) value, a document is stored as it is, so that people can read it.

use async_trait::async_trait;
use bytes::Bytes;

use crate::Error;

/// The store's own mark of one write of a document (S3: ETag; Kubernetes: resourceVersion). Equality only.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DocumentVersion(pub String);

/// A document as read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// JSON text.
    pub body: Bytes,
    /// Its version.
    pub version: DocumentVersion,
}

/// What became of a conditional write of a document.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a write that was rejected or is unknown must not be taken for success"]
pub enum Swap {
    /// It took effect.
    Applied(DocumentVersion),
    /// The document was not at the expected version; nothing was written.
    Rejected,
    /// It may or may not have taken effect. Read again before you act.
    Unknown(String),
}

/// A place for documents. `name` is a path such as `_cluster/shard-map.json`.
#[async_trait]
pub trait Documents: std::fmt::Debug + Send + Sync + 'static {
    /// The document, or `None`.
    async fn read(&self, name: &str) -> Result<Option<Document>, Error>;

    /// Writes if the document stands at `expected` (`None`: must not exist). Sent once: a conditional write is never
    /// retried below, because the retry could meet its own first attempt and report a clean rejection.
    /// `Err` is a clean failure.
    async fn swap(&self, name: &str, expected: Option<&DocumentVersion>, body: Bytes) -> Result<Swap, Error>;

    /// Names that begin with `prefix`.
    async fn names(&self, prefix: &str) -> Result<Vec<String>, Error>;

    /// The same, each with the version that stands there, where a listing says so: what is known at that version need not
    /// be read.
    async fn versions(&self, prefix: &str) -> Result<Vec<(String, Option<DocumentVersion>)>, Error> {
        Ok(self.names(prefix).await?.into_iter().map(|name| (name, None)).collect())
    }
}
