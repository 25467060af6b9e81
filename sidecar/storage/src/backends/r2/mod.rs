//! In a bucket of Cloudflare R2, through a Worker of this project (`worker/`): for programs that want reads from
//! Cloudflare's cache, [`R2Adapter::get_with_cache`]. How values lie in the bucket, and what is proved before it is used, is
//! in [`objects`](super::objects).
//!
//! Without that wish R2's S3 API is the shorter way: [`s3`](super::s3) with the endpoint
//! `https://<account>.r2.cloudflarestorage.com` and the region `auto`. Both ways hold the same objects.

mod bucket;
mod client;
mod settings;

use std::time::Duration;

pub use self::bucket::WorkerBucket;
pub use self::settings::R2Settings;
use super::objects::{BucketAdapter, BucketDocuments, BucketStore, entry_of};
use crate::{Entry, Error, Key};

/// One R2 bucket, behind the Worker.
pub type R2Store = BucketStore<WorkerBucket>;
/// The values below one folder of such a bucket.
pub type R2Adapter = BucketAdapter<WorkerBucket>;
/// The documents below one folder of such a bucket.
pub type R2Documents = BucketDocuments<WorkerBucket>;

/// What a key's value was a while ago.
#[derive(Clone, Debug, PartialEq)]
pub struct Cached {
    /// The value with its version; `None` if there was none.
    pub entry: Option<Entry>,
    /// How long ago at most, in whole seconds, by the clocks of the data centre that answered. Zero: read for this answer.
    pub age: Duration,
}

impl R2Store {
    /// Prepares the client; asks the Worker nothing yet.
    pub fn open(settings: &R2Settings) -> Result<Self, Error> {
        Ok(Self::new(WorkerBucket::open(settings)?))
    }
}

impl R2Adapter {
    /// The value of a key as it was at most `max_age` ago (in whole seconds, up to 999,999), from the cache of the data
    /// centre that answers, or else from the bucket. The only read that may be stale: another data centre may have written
    /// since. Its version is safe in a condition, which a stale one does not meet.
    pub async fn get_with_cache(&self, key: &Key, max_age: Duration) -> Result<Cached, Error> {
        let (object, age) = self.bucket().get_cached(&self.object(key), max_age).await?;
        let entry = object.map(|object| entry_of(key, &object)).transpose()?.flatten();
        Ok(Cached { entry, age })
    }
}
