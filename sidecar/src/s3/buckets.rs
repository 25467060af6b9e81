//! Buckets: each is a namespace, and is written down with when it was made.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use brainy_storage::{Condition, Entry, Key, Value};
use s3s::S3ErrorCode;
use s3s::dto::{Bucket, ListBucketsInput, ListBucketsOutput, Owner};
use serde_json::json;
use tokio::time::Instant;

use super::failure::{Answer, Failure};
use super::{Gateway, REGION, heads, names};
use crate::routing::{Call, Listing, Reply};

/// A bucket that was there is believed to be for so long. One that is removed meanwhile, by another node, may still be written
/// to: what is written then is there when the bucket is made again.
const BELIEVED: Duration = Duration::from_secs(5);
/// Most buckets that are believed to be there.
const MOST_KNOWN: usize = 1000;
/// Buckets on a page of their list.
const PAGE: usize = 1000;

/// The buckets that were there a moment ago.
#[derive(Debug, Default)]
pub(super) struct Known(Mutex<HashMap<String, Instant>>);

impl Known {
    fn is(&self, bucket: &str) -> bool {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(bucket).is_some_and(|seen| seen.elapsed() < BELIEVED)
    }

    fn saw(&self, bucket: &str) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MOST_KNOWN {
            known.retain(|_, seen| seen.elapsed() < BELIEVED);
        }
        if known.len() < MOST_KNOWN {
            known.insert(bucket.to_owned(), Instant::now());
        }
    }

    fn forget(&self, bucket: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(bucket);
    }
}

/// Who owns what is listed: S3's clients expect somebody.
pub(super) fn owner() -> Owner {
    Owner { display_name: Some("brainy".to_owned()), id: Some("brainy".to_owned()) }
}

impl Gateway {
    /// Fails if there is no such bucket, or was none a moment ago.
    pub(super) async fn is_there(&self, bucket: &str) -> Answer<()> {
        if self.0.known.is(bucket) {
            return Ok(());
        }
        self.is_there_now(bucket).await
    }

    /// Fails if there is no such bucket.
    pub(super) async fn is_there_now(&self, bucket: &str) -> Answer<()> {
        match self.0.router.run_one(Some(&names::buckets()?), Call::Look { key: Key::new(bucket)? }).await {
            Reply::Seen(Some(_)) => {
                self.0.known.saw(bucket);
                Ok(())
            }
            Reply::Seen(None) => Err(Failure::no_such_bucket()),
            other => Err(other.into()),
        }
    }

    /// Why a key was not found.
    pub(super) async fn missing(&self, bucket: &str) -> Failure {
        match self.is_there(bucket).await {
            Ok(()) => Failure::no_such_key(),
            Err(why) => why,
        }
    }

    pub(super) async fn make_bucket(&self, bucket: &str) -> Answer<()> {
        let value = Value::Json(json!({ "created": heads::now() }));
        let call = Call::Put { key: Key::new(bucket)?, value, condition: Condition::Absent };
        match self.0.router.run_one(Some(&names::buckets()?), call).await {
            Reply::Written(_) => Ok(()),
            Reply::Rejected(_) => Err(Failure::new(
                S3ErrorCode::BucketAlreadyOwnedByYou,
                "Your previous request to create the named bucket succeeded and you already own it.",
            )),
            other => Err(other.into()),
        }
    }

    /// A bucket goes only when it is empty. What is written to it at the same moment may be left behind, as in S3.
    pub(super) async fn remove_bucket(&self, bucket: &str) -> Answer<()> {
        self.is_there_now(bucket).await?;
        let listing = Listing { namespace: Some(names::bucket(bucket)?), prefix: String::new(), after: None, limit: 1 };
        if !self.0.router.list(&listing).await?.keys.is_empty() {
            let message = "The bucket you tried to delete is not empty.";
            return Err(Failure::new(S3ErrorCode::BucketNotEmpty, message));
        }
        self.0.known.forget(bucket);
        let call = Call::Remove { key: Key::new(bucket)?, condition: Condition::Any };
        match self.0.router.run_one(Some(&names::buckets()?), call).await {
            Reply::Removed(_) => Ok(()),
            other => Err(other.into()),
        }
    }

    pub(super) async fn buckets(&self, input: ListBucketsInput) -> Answer<ListBucketsOutput> {
        let namespace = names::buckets()?;
        let limit = input.max_buckets.map_or(PAGE, |most| usize::try_from(most).unwrap_or(PAGE).clamp(1, PAGE));
        let listing = Listing {
            namespace: Some(namespace.clone()),
            prefix: input.prefix.clone().unwrap_or_default(),
            after: input.continuation_token.map(Key::new).transpose()?,
            limit,
        };
        let page = self.0.router.list(&listing).await?;
        let calls = page.keys.iter().map(|key| Call::Get { key: key.clone() }).collect();
        let mut buckets = Vec::new();
        for (key, reply) in page.keys.iter().zip(self.0.router.run(Some(&namespace), calls).await) {
            match reply {
                Reply::Found(Some(entry)) => buckets.push(Bucket {
                    bucket_region: Some(REGION.to_owned()),
                    creation_date: Some(heads::time(created(&entry))),
                    name: Some(key.to_string()),
                }),
                Reply::Found(None) => {}
                other => return Err(other.into()),
            }
        }
        let last = page.keys.last().filter(|_| page.more).map(ToString::to_string);
        Ok(ListBucketsOutput {
            buckets: Some(buckets),
            continuation_token: last,
            owner: Some(owner()),
            prefix: input.prefix,
        })
    }
}

fn created(entry: &Entry) -> i64 {
    match &entry.value {
        Value::Json(value) => value["created"].as_i64().unwrap_or_default(),
        Value::Bytes(_) | Value::Object(_) => 0,
    }
}
