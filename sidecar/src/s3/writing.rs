//! Writes under S3's conditions. A condition of S3 is about an ETag, which tells content from other content and may come again;
//! one of storage is about a version, which never does. So the value is read, its ETag looked at, and the write made on the
//! condition that this very version still stands: whoever comes in between makes it look again.

use brainy_storage::object::{Head, hex};
use brainy_storage::{Condition, Key, Namespace, Object, Operation, OperationId, Value, Version};
use md5::{Digest, Md5};
use s3s::S3ErrorCode;
use s3s::dto::ETag;

use super::conditions::Wanted;
use super::failure::{Answer, Failure};
use super::{Gateway, names};
use crate::routing::{Call, Reply, Sight};

/// Attempts before a conditional write gives up as contended.
const ATTEMPTS: u32 = 64;
/// The header by which an SDK names a request that it may send several times.
const INVOCATION: &str = "amz-sdk-invocation-id";

/// An object that is about to be written.
pub(super) struct Write<'a> {
    pub(super) namespace: &'a Namespace,
    pub(super) key: &'a Key,
    pub(super) object: Object,
    pub(super) wanted: &'a Wanted,
    /// See [`invocation`].
    pub(super) id: Option<OperationId>,
}

/// The id of a conditional write: the SDK gives each request one, and sends it again with the same where an answer was lost. All
/// else that the request says goes into it, so that it never stands for two. A write without a condition needs none: it may be
/// done again.
pub(super) fn invocation(headers: &axum::http::HeaderMap, wanted: &Wanted, head: &Head) -> Option<OperationId> {
    let invocation = headers.get(INVOCATION).filter(|_| *wanted != Wanted::Anything)?;
    let said = Head { modified: 0, parts: None, ..head.clone() };
    let mut hash = Md5::new();
    for part in [invocation.as_bytes(), format!("{wanted:?}").as_bytes(), &serde_json::to_vec(&said).ok()?] {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    OperationId::new(format!("s3-{}", hex(&hash.finalize()))).ok()
}

impl Gateway {
    /// Writes an object if what is wanted stands there.
    pub(super) async fn write(&self, write: Write<'_>) -> Answer<()> {
        match write.wanted {
            Wanted::Anything => self.put(&write, Condition::Any).await?,
            Wanted::Nothing => self.put(&write, Condition::Absent).await?,
            Wanted::Something(etag) => return self.write_over(&write, etag.as_ref()).await,
        }
        .map_or_else(|_| Err(Failure::precondition()), Ok)
    }

    /// Writes over the object with this ETag.
    async fn write_over(&self, write: &Write<'_>, etag: Option<&ETag>) -> Answer<()> {
        let mut stands = self.look(write.namespace, write.key).await?;
        for _ in 0..ATTEMPTS {
            let condition = match &stands {
                Some(sight) if Wanted::is(etag, &sight.head) => Condition::Version(sight.version.clone()),
                _ => return self.written_before(write, stands.is_some()).await,
            };
            match self.put(write, condition).await? {
                Ok(()) => return Ok(()),
                Err(now) => stands = now,
            }
        }
        Err(contended())
    }

    /// What is wanted does not stand there. It may have been this very request that wrote over it, and its answer was lost: then
    /// the value remembers its id.
    async fn written_before(&self, write: &Write<'_>, stands: bool) -> Answer<()> {
        let refusal = || if stands { Failure::precondition() } else { Failure::no_such_key() };
        if write.id.is_none() {
            return Err(refusal());
        }
        // No value ever stands at this version: nothing can be written by it.
        let nowhere = Version { revision: 0, tag: "nowhere".to_owned() };
        self.put(write, Condition::Version(nowhere)).await?.map_err(|_| refusal())
    }

    /// One attempt; the inner error is what stands there instead.
    async fn put(&self, write: &Write<'_>, condition: Condition) -> Answer<Result<(), Option<Sight>>> {
        let value = Value::Object(write.object.clone());
        let call = Call::of(write.key.clone(), Operation::Put { value, condition }, write.id.clone());
        match self.0.router.run_one(Some(write.namespace), call).await {
            Reply::Written(_) => Ok(Ok(())),
            Reply::Rejected(now) => Ok(Err(now.as_ref().map(Sight::from))),
            other => Err(other.into()),
        }
    }

    /// Removes a key. What is not there is removed already, unless it is asked for by `etag`.
    pub(super) async fn remove(&self, bucket: &str, key: &str, wanted: &Wanted) -> Answer<()> {
        let (namespace, key) = names::object(bucket, key)?;
        let Wanted::Something(etag) = wanted else {
            return match self.remove_at(&namespace, &key, Condition::Any).await? {
                Ok(()) => Ok(()),
                Err(_) => Err(Failure::precondition()),
            };
        };
        let mut stands = self.look(&namespace, &key).await?;
        for _ in 0..ATTEMPTS {
            let condition = match &stands {
                None => return Err(Failure::no_such_key()),
                Some(sight) if Wanted::is(etag.as_ref(), &sight.head) => Condition::Version(sight.version.clone()),
                Some(_) => return Err(Failure::precondition()),
            };
            match self.remove_at(&namespace, &key, condition).await? {
                Ok(()) => return Ok(()),
                Err(now) => stands = now,
            }
        }
        Err(contended())
    }

    async fn remove_at(
        &self,
        namespace: &Namespace,
        key: &Key,
        condition: Condition,
    ) -> Answer<Result<(), Option<Sight>>> {
        match self.0.router.run_one(Some(namespace), Call::Remove { key: key.clone(), condition }).await {
            Reply::Removed(_) => Ok(Ok(())),
            Reply::Rejected(now) => Ok(Err(now.as_ref().map(Sight::from))),
            other => Err(other.into()),
        }
    }

    /// What stands under a key.
    pub(super) async fn look(&self, namespace: &Namespace, key: &Key) -> Answer<Option<Sight>> {
        match self.0.router.run_one(Some(namespace), Call::Look { key: key.clone() }).await {
            Reply::Seen(sight) => Ok(sight),
            other => Err(other.into()),
        }
    }
}

fn contended() -> Failure {
    let message = format!("Other writers came in between {ATTEMPTS} times. Nothing was done, try again.");
    Failure::new(S3ErrorCode::ConditionalRequestConflict, message)
}
