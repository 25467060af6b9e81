//! Documents in a bucket: plain JSON objects.

use async_trait::async_trait;
use bytes::Bytes;

use super::BucketStore;
use super::bucket::{Bucket, PAGE, When, Written};
use super::etag::ETag;
use crate::Error;
use crate::documents::{Document, DocumentVersion, Documents, Swap};

/// The documents below one folder of a bucket. The version of a document is its ETag.
#[derive(Clone, Debug)]
pub struct BucketDocuments<B> {
    store: BucketStore<B>,
    /// Empty, or ends with a slash.
    folder: String,
}

impl<B: Bucket> BucketDocuments<B> {
    pub(super) fn new(store: BucketStore<B>, folder: &str) -> Self {
        let folder = if folder.is_empty() { String::new() } else { format!("{folder}/") };
        Self { store, folder }
    }
}

#[async_trait]
impl<B: Bucket> Documents for BucketDocuments<B> {
    async fn read(&self, name: &str) -> Result<Option<Document>, Error> {
        let object = self.store.get(&format!("{}{name}", self.folder)).await?;
        Ok(object
            .map(|object| Document { body: object.body, version: DocumentVersion(object.etag.header().to_owned()) }))
    }

    async fn swap(&self, name: &str, expected: Option<&DocumentVersion>, body: Bytes) -> Result<Swap, Error> {
        let when = match expected.map(|version| ETag::new(version.0.as_str())) {
            None => When::Absent,
            Some(Some(etag)) => When::Matches(etag),
            // No version this store ever gave.
            Some(None) => return Ok(Swap::Rejected),
        };
        Ok(match self.store.bucket.put(&format!("{}{name}", self.folder), body, &when).await? {
            Written::Applied(etag) => Swap::Applied(DocumentVersion(etag.header().to_owned())),
            Written::Refused => Swap::Rejected,
            Written::Unknown(why) => Swap::Unknown(why),
        })
    }

    async fn names(&self, prefix: &str) -> Result<Vec<String>, Error> {
        Ok(self.versions(prefix).await?.into_iter().map(|(name, _)| name).collect())
    }

    async fn versions(&self, prefix: &str) -> Result<Vec<(String, Option<DocumentVersion>)>, Error> {
        let prefix = format!("{}{prefix}", self.folder);
        let mut found = Vec::new();
        let mut after = String::new();
        loop {
            let (listed, more) = self.store.bucket.list(&prefix, &after, PAGE).await?;
            if let Some(last) = listed.last() {
                after.clone_from(&last.name);
            }
            let stop = !more || listed.is_empty();
            found.extend(listed.into_iter().filter_map(|object| {
                let version = object.etag.map(|etag| DocumentVersion(etag.header().to_owned()));
                Some((object.name.strip_prefix(&self.folder)?.to_owned(), version))
            }));
            if stop {
                return Ok(found);
            }
        }
    }
}
