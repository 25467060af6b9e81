//! In a bucket: one object per key, every write conditional (R4). What the buckets of [S3](super::s3) and of
//! [R2](super::r2) have in common; what one must offer says [`Bucket`].
//!
//! ```text
//! <prefix>/<root>/kv/<encoded key>       values, each in its envelope
//! <prefix>/<root>/ns/<namespace>/kv/...  the same for each namespace, nested
//! <prefix>/<name>                        documents: plain JSON
//! ```
//!
//! What the store must do is proved before it is used, and not believed: [`BucketStore::prove`] (R7).

mod adapter;
mod bucket;
mod conditional;
mod copy;
mod documents;
mod etag;
mod failure;
mod lost;
mod merge;
mod origins;
mod probe;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

pub use self::adapter::BucketAdapter;
pub(super) use self::adapter::entry_of;
pub use self::bucket::{Bucket, Limits, Listed, Object, PAGE, When, Written};
pub(super) use self::bucket::{IDLE_CONNECTION, Prefix};
pub use self::conditional::send_conditional;
pub(super) use self::conditional::{ATTEMPTS, pause, too_late};
pub use self::documents::BucketDocuments;
pub use self::etag::ETag;
pub use self::failure::{Failure, judge_answer};
pub(super) use self::failure::{NO_CREDENTIALS, TIMED_OUT, UNREACHABLE, find, never_sent};
pub use self::origins::ReadThrough;
pub use self::probe::Capabilities;
use crate::Error;

/// One bucket: opened once, from which adapters and documents are had for nothing. Clones share its connections.
#[derive(Clone, Debug)]
pub struct BucketStore<B> {
    bucket: B,
    proved: Arc<Proved>,
}

/// What the probe has shown beyond what is required. Until then nothing is taken for granted.
#[derive(Debug, Default)]
struct Proved {
    /// An object's ETag is the MD5 of its body, as on most stores that don't encrypt with keys of their own. Then
    /// [`BucketStore::get`] can tell that it read a whole version.
    etags_are_md5: AtomicBool,
}

impl<B: Bucket> BucketStore<B> {
    /// The store in a bucket. Asks it nothing yet.
    pub fn new(bucket: B) -> Self {
        Self { bucket, proved: Arc::default() }
    }

    /// Whether the store answers, has the bucket, and lets us in: one small request.
    pub async fn check(&self) -> Result<(), Error> {
        self.bucket.list("", "", 1).await.map(drop)
    }

    /// Proves with objects of its own, below `_probe/`, that the store does what safety rests on (R7). An error with
    /// cause `UnsafeStore` names the check that failed; any other means that the store could not be asked.
    pub async fn prove(&self) -> Result<Capabilities, Error> {
        let capabilities = Box::pin(probe::prove(self)).await?;
        self.proved.etags_are_md5.store(capabilities.etag_is_md5, Ordering::Release);
        Ok(capabilities)
    }

    /// The store below a folder, such as `shards/007`.
    pub fn adapter(&self, root: &str) -> BucketAdapter<B> {
        BucketAdapter::new(self.clone(), root)
    }

    /// The documents below a folder; an empty one means the bucket's prefix itself.
    pub fn documents(&self, folder: &str) -> BucketDocuments<B> {
        BucketDocuments::new(self.clone(), folder)
    }

    /// Deletes every object whose name begins with `prefix`, below the bucket's own prefix, and returns how many there
    /// were. An empty `prefix` is refused: it could stand for a whole bucket that others use too.
    pub async fn delete_prefix(&self, prefix: &str) -> Result<u64, Error> {
        if prefix.is_empty() {
            return Err(Error::invalid("prefix", "is empty; name what to delete"));
        }
        let mut deleted = 0;
        loop {
            let (listed, more) = self.bucket.list(prefix, "", PAGE).await?;
            deleted += listed.len() as u64;
            if !listed.is_empty() {
                self.bucket.discard(listed.into_iter().map(|object| object.name).collect()).await?;
            }
            if !more {
                return Ok(deleted);
            }
        }
    }

    /// The first object, in byte order, whose name begins with `prefix` and comes after `after`.
    pub async fn first(&self, prefix: &str, after: &str) -> Result<Option<String>, Error> {
        let (listed, _) = self.bucket.list(prefix, after, 1).await?;
        Ok(listed.into_iter().next().map(|object| object.name))
    }

    pub(super) fn bucket(&self) -> &B {
        &self.bucket
    }

    /// One version of an object. Some stores look up the ETag and open the body in two steps, and answer with one version's
    /// body under another's ETag if a write comes between; whoever replaced that ETag would overwrite what nobody has
    /// seen. Such a read is repeated. What twice reads the same is no torn read but an ETag of another kind.
    async fn get(&self, name: &str) -> Result<Option<Object>, Error> {
        let mut before: Option<Object> = None;
        for attempt in 1..=ATTEMPTS {
            match self.bucket.get(name).await? {
                Some(object) if self.may_be_torn(&object) && before.as_ref() != Some(&object) => before = Some(object),
                whole => return Ok(whole),
            }
            pause(attempt).await;
        }
        Err(self.torn(name))
    }

    /// One short look, to find out what became of a write.
    async fn look(&self, name: &str) -> Result<Option<Object>, Error> {
        match self.bucket.look(name).await? {
            Some(object) if self.may_be_torn(&object) => Err(self.torn(name)),
            whole => Ok(whole),
        }
    }

    fn torn(&self, name: &str) -> Error {
        Error::unavailable("TornRead", format!("{}: {name} changed while it was read", self.bucket.server()))
    }

    fn may_be_torn(&self, object: &Object) -> bool {
        self.proved.etags_are_md5.load(Ordering::Acquire) && object.etag.is_md5_of(&object.body) == Some(false)
    }
}
