//! In a bucket of an S3-compatible store: one object per key, every write conditional (R4).
//!
//! ```text
//! <prefix>/<root>/kv/<encoded key>       values, each in its envelope
//! <prefix>/<root>/ns/<namespace>/kv/...  the same for each namespace, nested
//! <prefix>/<name>                        documents: plain JSON
//! ```
//!
//! What the store must do is proved before it is used, and not believed: [`S3Store::prove`] (R7).

mod adapter;
mod bucket;
mod client;
mod documents;
mod etag;
mod failure;
mod lost;
mod probe;
mod settings;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

pub use self::adapter::S3Adapter;
use self::bucket::Bucket;
pub use self::documents::S3Documents;
pub use self::probe::Capabilities;
pub use self::settings::{ACCESS_KEY_ID_FILE, Credentials, Limits, S3Settings, SECRET_ACCESS_KEY_FILE};
use crate::Error;

/// One bucket: opened once, from which adapters and documents are had for nothing. Clones share its connections.
#[derive(Clone, Debug)]
pub struct S3Store {
    bucket: Bucket,
    /// Set once the probe has shown that the store deletes conditionally. Until then, removed values become tombstones,
    /// which is safe everywhere.
    deletes_conditionally: Arc<AtomicBool>,
}

impl S3Store {
    /// Prepares the clients; asks the store nothing yet.
    pub async fn open(settings: &S3Settings) -> Result<Self, Error> {
        Ok(Self { bucket: Box::pin(Bucket::open(settings)).await?, deletes_conditionally: Arc::default() })
    }

    /// Whether the store answers, has the bucket, and lets us in: one small request.
    pub async fn check(&self) -> Result<(), Error> {
        self.bucket.list("", "", 1).await.map(drop)
    }

    /// Proves with objects of its own, below `_probe/`, that the store does what safety rests on (R7). An error with
    /// cause `UnsafeStore` names the check that failed; any other means that the store could not be asked.
    pub async fn prove(&self) -> Result<Capabilities, Error> {
        let capabilities = Box::pin(probe::prove(&self.bucket)).await?;
        self.deletes_conditionally.store(capabilities.conditional_delete, Ordering::Release);
        self.bucket.set_etags_are_md5(capabilities.etag_is_md5);
        Ok(capabilities)
    }

    /// The store below a folder, such as `shards/007`.
    pub fn adapter(&self, root: &str) -> S3Adapter {
        S3Adapter::new(self.clone(), root)
    }

    /// The documents below a folder; an empty one means the bucket's prefix itself.
    pub fn documents(&self, folder: &str) -> S3Documents {
        S3Documents::new(self.bucket.clone(), folder)
    }

    /// Deletes every object whose name begins with `prefix`, below the bucket's own prefix, and returns how many there
    /// were. An empty `prefix` is refused: it could stand for a whole bucket that others use too.
    pub async fn delete_prefix(&self, prefix: &str) -> Result<u64, Error> {
        if prefix.is_empty() {
            return Err(Error::invalid("prefix", "is empty; name what to delete"));
        }
        self.bucket.delete_prefix(prefix).await
    }

    fn deletes_conditionally(&self) -> bool {
        self.deletes_conditionally.load(Ordering::Acquire)
    }
}
