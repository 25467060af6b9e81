//! What a bucket must offer: objects, with writes that take effect only under a condition. There is no way to write an
//! object without one (R4).

use std::fmt::Debug;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use super::etag::ETag;
use crate::Error;

/// Longest name of an object, in bytes, on AWS S3, R2 and most others.
const MAX_OBJECT_NAME_BYTES: usize = 1024;
/// Most objects that are listed or deleted in one request.
pub const PAGE: usize = 1000;
/// How long a connection is kept that nothing goes over. Much shorter than servers do (workerd by itself: 5 s), so that a request
/// rarely meets one that is just being closed, also where the machine is busy: its outcome would be unknown.
pub(in crate::backends) const IDLE_CONNECTION: Duration = Duration::from_secs(2);

/// A bucket of objects, or the part of it below a prefix: names are relative to that. Cheap to clone; clones share
/// connections. No call may last for ever.
///
/// A conditional request is never repeated below after it may have had an effect: it could meet its own first attempt and
/// report a clean rejection of a write that took effect.
#[async_trait]
pub trait Bucket: Clone + Debug + Send + Sync + 'static {
    /// Where it is, in words, for messages.
    fn server(&self) -> &str;

    /// Longest name of an object that it takes, in bytes.
    fn longest_name(&self) -> usize {
        MAX_OBJECT_NAME_BYTES
    }

    /// An object as it stands; `None` where there is none.
    async fn get(&self, name: &str) -> Result<Option<Object>, Error>;

    /// The same, asked once and shortly: to find out what became of a write.
    async fn look(&self, name: &str) -> Result<Option<Object>, Error> {
        self.get(name).await
    }

    /// Writes an object if the condition holds.
    async fn put(&self, name: &str, body: Bytes, when: &When) -> Result<Written<ETag>, Error>;

    /// At most `most` objects (and [`PAGE`]) whose names begin with `prefix` and sort after `after`, in byte order; and
    /// whether there are more.
    async fn list(&self, prefix: &str, after: &str, most: usize) -> Result<(Vec<Listed>, bool), Error>;

    /// Deletes objects, [`PAGE`] at most, whatever they hold: for what nobody uses any more.
    async fn discard(&self, names: Vec<String>) -> Result<(), Error>;
}

/// An object as read.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    /// Its content.
    pub body: Bytes,
    /// Names this version of it.
    pub etag: ETag,
}

/// An object as listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Relative to the bucket's prefix.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// Names the version that is there, where the listing says so.
    pub etag: Option<ETag>,
}

/// When a write takes effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum When {
    /// Where there is no object.
    Absent,
    /// Where this very version stands.
    Matches(ETag),
}

/// What became of a conditional write. A clean failure is an `Err` beside it.
#[derive(Clone, Debug, PartialEq)]
#[must_use = "a write that was refused or is unknown must not be taken for success"]
pub enum Written<T> {
    /// It took effect, durably.
    Applied(T),
    /// The condition did not hold; nothing was written.
    Refused,
    /// It may or may not have taken effect, or may yet.
    Unknown(String),
}

impl<T> Written<T> {
    /// Changes the value of an applied write.
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Written<U> {
        match self {
            Self::Applied(value) => Written::Applied(f(value)),
            Self::Refused => Written::Refused,
            Self::Unknown(why) => Written::Unknown(why),
        }
    }
}

/// Time limits of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// To reach the server.
    pub connect: Duration,
    /// For one request and its answer. A conditional write is one request; a read may try three times.
    pub request: Duration,
}

impl Default for Limits {
    /// 3 s to connect, 10 s for a request.
    fn default() -> Self {
        Self { connect: Duration::from_secs(3), request: Duration::from_secs(10) }
    }
}

/// The part of a bucket that is ours: before every object's name, empty or with a slash at its end.
#[derive(Clone, Debug)]
pub(in crate::backends) struct Prefix(String);

impl Prefix {
    /// Refuses what can't work, before anything is sent.
    pub(in crate::backends) fn check(prefix: &str) -> Result<(), Error> {
        if prefix.starts_with('/') || prefix.ends_with('/') {
            return Err(Error::invalid("prefix", format!("{prefix:?} begins or ends with a slash")));
        }
        Ok(())
    }

    pub(in crate::backends) fn new(prefix: &str) -> Self {
        Self(if prefix.is_empty() { String::new() } else { format!("{prefix}/") })
    }

    /// The full name of what may be the beginning of one.
    pub(in crate::backends) fn before(&self, name: &str) -> String {
        format!("{}{name}", self.0)
    }

    /// The full name of an object; refuses one that no store could hold.
    pub(in crate::backends) fn object(&self, name: &str) -> Result<String, Error> {
        let object = self.before(name);
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

    /// Longest name of an object that fits below it.
    pub(in crate::backends) fn longest_name(&self) -> usize {
        MAX_OBJECT_NAME_BYTES.saturating_sub(self.0.len())
    }

    /// The name that a full name stands for.
    pub(in crate::backends) fn name(&self, object: &str) -> Option<String> {
        object.strip_prefix(&self.0).map(str::to_owned)
    }
}
