//! Objects of one bucket. Every write of an object is conditional (R4): there is no other way to write one here.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{Delete, ObjectIdentifier};
use bytes::Bytes;

use super::client::{Clients, connect};
use super::etag::ETag;
use super::failure::{Failure, TIMED_OUT, judge};
use super::settings::S3Settings;
use crate::Error;

/// Longest name of an object, in bytes.
const MAX_OBJECT_NAME_BYTES: usize = 1024;
/// Most objects a store lists or deletes in one request.
const PAGE: usize = 1000;
/// Most attempts of a conditional write that was each time turned away before it had an effect, and of a read that was
/// each time torn.
const ATTEMPTS: u32 = 5;
/// Before the second attempt; doubles with each.
const FIRST_PAUSE: Duration = Duration::from_millis(20);

/// A bucket, or the part of it below a prefix. Cheap to clone; clones share connections.
#[derive(Clone, Debug)]
pub(super) struct Bucket(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    clients: Clients,
    name: String,
    /// Empty, or ends with a slash.
    prefix: String,
    server: String,
    etags_are_md5: AtomicBool,
}

/// An object as read.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Object {
    pub(super) body: Bytes,
    pub(super) etag: ETag,
}

/// An object as listed.
#[derive(Clone, Debug)]
pub(super) struct Listed {
    /// Without the bucket's prefix.
    pub(super) name: String,
    pub(super) bytes: u64,
}

/// When a write takes effect.
#[derive(Clone, Debug)]
pub(super) enum When {
    Absent,
    Matches(ETag),
}

/// What became of a conditional write. A clean failure is an `Err` beside it.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Written<T> {
    Applied(T),
    /// The condition did not hold.
    Refused,
    Unknown(String),
}

impl Bucket {
    pub(super) async fn open(settings: &S3Settings) -> Result<Self, Error> {
        let clients = connect(settings).await?;
        let prefix = if settings.prefix.is_empty() { String::new() } else { format!("{}/", settings.prefix) };
        let (name, server) = (settings.bucket.clone(), settings.server());
        Ok(Self(Arc::new(Inner { clients, name, prefix, server, etags_are_md5: AtomicBool::new(false) })))
    }

    /// Whether an object's ETag is the MD5 of its body, as on most stores that don't encrypt with keys of their own. Then
    /// [`Bucket::get`] can tell that it read a whole version.
    pub(super) fn set_etags_are_md5(&self, are: bool) {
        self.0.etags_are_md5.store(are, Ordering::Release);
    }

    /// The full name of an object; refuses one that no store could hold.
    fn object(&self, name: &str) -> Result<String, Error> {
        let object = format!("{}{name}", self.0.prefix);
        if object.len() > MAX_OBJECT_NAME_BYTES {
            let problem = format!(
                "is too long for a bucket: as an object's name it takes {} bytes, and a store allows {MAX_OBJECT_NAME_BYTES}; \
                 use a shorter key, or fewer characters other than letters and digits",
                object.len()
            );
            return Err(Error::invalid("key", problem));
        }
        Ok(object)
    }

    /// One version of an object. Some stores look up the ETag and open the body in two steps, and answer with one version's
    /// body under another's ETag if a write comes between; whoever replaced that ETag would overwrite what nobody has
    /// seen. Such a read is repeated. What twice reads the same is no torn read but an ETag of another kind.
    pub(super) async fn get(&self, name: &str) -> Result<Option<Object>, Error> {
        let mut before: Option<Object> = None;
        for attempt in 1..=ATTEMPTS {
            match self.get_once(name).await? {
                Some(object) if self.may_be_torn(&object) && before.as_ref() != Some(&object) => before = Some(object),
                whole => return Ok(whole),
            }
            pause(attempt).await;
        }
        Err(self.torn(name))
    }

    fn may_be_torn(&self, object: &Object) -> bool {
        self.0.etags_are_md5.load(Ordering::Acquire) && object.etag.is_md5_of(&object.body) == Some(false)
    }

    /// One short look, to find out what became of a write.
    pub(super) async fn look(&self, name: &str) -> Result<Option<Object>, Error> {
        let clients = &self.0.clients;
        let found = self.get_with(&clients.conditional, clients.conditional_limit, name).await?;
        match found {
            Some(object) if self.may_be_torn(&object) => Err(self.torn(name)),
            whole => Ok(whole),
        }
    }

    fn torn(&self, name: &str) -> Error {
        Error::unavailable("TornRead", format!("{}: {name} changed while it was read", self.0.server))
    }

    async fn get_once(&self, name: &str) -> Result<Option<Object>, Error> {
        let clients = &self.0.clients;
        self.get_with(&clients.ordinary, clients.ordinary_limit, name).await
    }

    async fn get_with(&self, client: &Client, limit: Duration, name: &str) -> Result<Option<Object>, Error> {
        let inner = &*self.0;
        let request = client.get_object().bucket(&inner.name).key(self.object(name)?);
        let read = async {
            let answer = match request.send().await {
                Ok(answer) => answer,
                Err(error) => match judge(&error, &inner.server) {
                    Failure::Missing => return Ok(None),
                    other => return Err(other.of_read()),
                },
            };
            let etag = answer.e_tag.and_then(ETag::new).ok_or_else(|| self.no_etag())?;
            let body = answer.body.collect().await;
            let body = body.map_err(|why| Error::unavailable("BadAnswer", format!("{}: {why}", inner.server)))?;
            Ok(Some(Object { body: body.into_bytes(), etag }))
        };
        self.in_time(limit, read).await
    }

    /// Writes an object if the condition holds. Sent once, and again only after an answer that says that nothing was
    /// written and that it may be sent again.
    pub(super) async fn put(&self, name: &str, body: Bytes, when: &When) -> Result<Written<ETag>, Error> {
        let inner = &*self.0;
        let object = self.object(name)?;
        let request = || {
            let request = inner.clients.conditional.put_object().bucket(&inner.name).key(&object);
            let request = match when {
                When::Absent => request.if_none_match("*"),
                When::Matches(etag) => request.if_match(etag.header()),
            };
            request.body(ByteStream::from(body.clone())).send()
        };
        Ok(match self.send_conditional(request).await? {
            Written::Applied(answer) => match answer.e_tag.and_then(ETag::new) {
                Some(etag) => Written::Applied(etag),
                None => Written::Unknown(self.no_etag().to_string()),
            },
            Written::Refused => Written::Refused,
            Written::Unknown(why) => Written::Unknown(why),
        })
    }

    /// Deletes an object if it stands at `etag`. Only safe on a store that honours the condition: [`super::probe`].
    pub(super) async fn delete(&self, name: &str, etag: &ETag) -> Result<Written<()>, Error> {
        let inner = &*self.0;
        let object = self.object(name)?;
        let request = || {
            let request = inner.clients.conditional.delete_object().bucket(&inner.name).key(&object);
            request.if_match(etag.header()).send()
        };
        Ok(match self.send_conditional(request).await? {
            Written::Applied(_) => Written::Applied(()),
            Written::Refused => Written::Refused,
            Written::Unknown(why) => Written::Unknown(why),
        })
    }

    async fn send_conditional<T, E, F>(&self, request: impl Fn() -> F) -> Result<Written<T>, Error>
    where
        F: Future<Output = Result<T, SdkError<E, HttpResponse>>>,
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        let inner = &*self.0;
        let mut attempt = 1;
        loop {
            let sent = async { request().await.map_err(|error| judge(&error, &inner.server)) };
            let failure = match tokio::time::timeout(inner.clients.conditional_limit, sent).await {
                Ok(Ok(answer)) => return Ok(Written::Applied(answer)),
                Ok(Err(failure)) => failure,
                Err(_) => Failure::Unknown(self.too_late()),
            };
            match failure {
                // A condition on an object that is not there does not hold.
                Failure::Refused | Failure::Missing => return Ok(Written::Refused),
                Failure::Unknown(why) => return Ok(Written::Unknown(describe(&why))),
                Failure::Clean(error) => return Err(error),
                Failure::Again(error) if attempt == ATTEMPTS => return Err(error),
                Failure::Again(_) => pause(attempt).await,
            }
            attempt += 1;
        }
    }

    /// Objects whose names begin with `prefix` and sort after `after`, in byte order; and whether there are more.
    pub(super) async fn list(&self, prefix: &str, after: &str, most: usize) -> Result<(Vec<Listed>, bool), Error> {
        let inner = &*self.0;
        let mut request = inner.clients.ordinary.list_objects_v2().bucket(&inner.name);
        request = request.prefix(format!("{}{prefix}", inner.prefix));
        request = request.max_keys(i32::try_from(most.min(PAGE)).unwrap_or(i32::MAX));
        if !after.is_empty() {
            request = request.start_after(format!("{}{after}", inner.prefix));
        }
        let list = async { request.send().await.map_err(|error| judge(&error, &inner.server).of_read()) };
        let answer = self.in_time(inner.clients.ordinary_limit, list).await?;
        let more = answer.is_truncated.unwrap_or(false);
        let listed = answer.contents.unwrap_or_default().into_iter().filter_map(|object| {
            let name = object.key?.strip_prefix(&inner.prefix)?.to_owned();
            Some(Listed { name, bytes: object.size.and_then(|size| u64::try_from(size).ok()).unwrap_or(0) })
        });
        Ok((listed.collect(), more))
    }

    /// Deletes all objects whose names begin with `prefix`, whatever they hold. Returns how many there were.
    pub(super) async fn delete_prefix(&self, prefix: &str) -> Result<u64, Error> {
        let mut deleted = 0;
        loop {
            let (listed, more) = self.list(prefix, "", PAGE).await?;
            deleted += listed.len() as u64;
            self.discard(listed.into_iter().map(|object| object.name)).await?;
            if !more {
                return Ok(deleted);
            }
        }
    }

    /// Deletes objects, whatever they hold: for what nobody uses any more.
    pub(super) async fn discard(&self, names: impl IntoIterator<Item = String>) -> Result<(), Error> {
        let inner = &*self.0;
        let mut objects = Vec::new();
        for name in names {
            let object = ObjectIdentifier::builder().key(format!("{}{name}", inner.prefix)).build();
            objects.push(object.map_err(|why| Error::invalid("object", why.to_string()))?);
        }
        if objects.is_empty() {
            return Ok(());
        }
        let delete = Delete::builder().set_objects(Some(objects)).quiet(true).build();
        let delete = delete.map_err(|why| Error::invalid("object", why.to_string()))?;
        let request = inner.clients.ordinary.delete_objects().bucket(&inner.name).delete(delete);
        let send = async { request.send().await.map_err(|error| judge(&error, &inner.server).of_read()) };
        let answer = self.in_time(inner.clients.ordinary_limit, send).await?;
        match answer.errors.unwrap_or_default().into_iter().next() {
            None => Ok(()),
            Some(error) => Err(Error::unavailable(
                error.code.unwrap_or_else(|| "DeleteFailed".to_owned()),
                format!("deleting {}: {}", error.key.unwrap_or_default(), error.message.unwrap_or_default()),
            )),
        }
    }

    async fn in_time<T>(&self, limit: Duration, act: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        tokio::time::timeout(limit, act).await.unwrap_or_else(|_| Err(self.too_late()))
    }

    fn too_late(&self) -> Error {
        Error::unavailable(TIMED_OUT, format!("{} did not answer in time", self.0.server))
    }

    fn no_etag(&self) -> Error {
        Error::unavailable("NoETag", format!("{} answered without a usable ETag", self.0.server))
    }
}

fn describe(error: &Error) -> String {
    match error {
        Error::Unavailable { cause, detail } => format!("{cause}: {detail}"),
        other => other.to_string(),
    }
}

/// Waits before the next attempt: twice as long each time, and up to half as long again, so that writers that met once
/// don't meet again.
async fn pause(attempt: u32) {
    let pause = FIRST_PAUSE * 2_u32.pow(attempt - 1);
    let spread = (uuid::Uuid::new_v4().as_u128() % 512) as u32;
    tokio::time::sleep(pause + pause / 2 * spread / 512).await;
}
