//! In a bucket of an S3-compatible store: AWS, R2 and others. How values lie in it, and what is proved before it is used, is
//! in [`objects`](super::objects).

mod bucket;
mod client;
mod failure;
mod settings;

pub use self::bucket::S3Bucket;
pub use self::settings::{ACCESS_KEY_ID_FILE, Credentials, S3Settings, SECRET_ACCESS_KEY_FILE};
use super::objects::{BucketAdapter, BucketDocuments, BucketStore};
pub use super::objects::{Capabilities, Limits};
use crate::Error;

/// One bucket of an S3-compatible store.
pub type S3Store = BucketStore<S3Bucket>;
/// The values below one folder of such a bucket.
pub type S3Adapter = BucketAdapter<S3Bucket>;
/// The documents below one folder of such a bucket.
pub type S3Documents = BucketDocuments<S3Bucket>;

impl S3Store {
    /// Prepares the clients; asks the store nothing yet.
    pub async fn open(settings: &S3Settings) -> Result<Self, Error> {
        Ok(Self::new(Box::pin(S3Bucket::open(settings)).await?))
    }
}
