//! The adapter: values in envelopes, one object per key.
//!
//! A write first tries what it believes to stand there (nothing, or the version named by its condition). When the store
//! refuses, it looks, judges its condition by what it saw, and tries again on exactly that. So a write that arrives late
//! finds another version and changes nothing (R4). For a large value it looks first.
//!
//! A value is removed by writing a tombstone in its place, under the same condition. A tombstone counts as "no value". It
//! stays, on every store: where the object went, a write of what must not exist would find its condition met again, and
//! one that a proxy sends a second time would bring back a value that was removed.
//!
//! Where the answer to a write is lost, or it was refused, a look at what stands there tells what became of it:
//! [`super::lost`].

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream;
use serde_json::Number;

use super::BucketStore;
use super::bucket::{Bucket, Object, When, Written};
use super::etag::{ETag, Tag};
use super::lost::{Became, Sent, became};
use crate::encoding::{decode, encode, keys_folder};
use crate::envelope::{self, Envelope, MAX_TOMBSTONE_BYTES, Trail, new_nonce};
use crate::group::{Change, judge};
use crate::layers::compression::Compression;
use crate::operation::{only, shared};
use crate::performed::{PAST, Performed, Stands};
use crate::value::add;
use crate::{
    Condition, Done, Entry, Error, Key, Namespace, Operation, OperationId, Outcome, Page, Requests, StorageAdapter,
    Unknown, Value, Version, WriteResult,
};

/// Requests of one batch under way at a time.
const CONCURRENCY: usize = 32;
/// Most attempts of one write while others come between.
const MAX_ATTEMPTS: u32 = 64;
/// Most bytes that are sent at a guess of what stands there. A store refuses before it has read what is sent, and may
/// hang up then: if the rest was still on its way, the refusal is lost with the connection and the outcome is unknown.
const LARGEST_GUESS: usize = 64 << 10;

/// The values below one folder of a bucket.
#[derive(Clone, Debug)]
pub struct BucketAdapter<B> {
    store: BucketStore<B>,
    /// With a slash at its end, or empty.
    root: String,
    namespaces: Vec<Namespace>,
    /// Of the namespace, below the bucket's prefix, with a slash at its end.
    folder: String,
    compression: Option<Compression>,
    tags: Tags,
}

/// What the tags of versions are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tags {
    /// The object's ETag: a write under `If-Match` needs no look at what stands there.
    ETag,
    /// The write's own mark, which a copy of the object carries on: there the ETag is another.
    Nonce,
}

impl Tags {
    /// `next` is the trail of the write that comes next.
    fn version(self, revision: u64, nonce: &str, etag: &ETag, next: &Trail) -> Version {
        let tag = match self {
            Self::ETag => Tag::new(etag, next).to_string(),
            Self::Nonce => nonce.to_owned(),
        };
        Version { revision, tag }
    }

    /// What the tag of a version says beside being one.
    fn tag(self, version: &Version) -> Option<Tag> {
        (self == Self::ETag).then(|| Tag::of(&version.tag))
    }
}

/// What stands under a key: a value or a tombstone.
struct Found {
    etag: ETag,
    envelope: Envelope,
    version: Version,
}

impl Found {
    fn open(tags: Tags, key: &Key, object: &Object) -> Result<Self, Error> {
        let (etag, envelope) = (object.etag.clone(), envelope::open(key, &object.body)?);
        let version = tags.version(envelope.revision, &envelope.nonce, &etag, &envelope.next_trail());
        Ok(Self { etag, envelope, version })
    }

    fn entry(self) -> Option<Entry> {
        self.envelope.value.map(|value| Entry { value, version: self.version })
    }
}

/// What an object says of a key: its value and version, or that it has none.
pub(in crate::backends) fn entry_of(key: &Key, object: &Object) -> Result<Option<Entry>, Error> {
    Found::open(Tags::ETag, key, object).map(Found::entry)
}

/// The place a write expects: what it follows, and its condition for the store.
struct Expected {
    revision: u64,
    when: When,
    trail: Trail,
    /// Nobody has looked.
    is_guess: bool,
}

impl Expected {
    fn nothing() -> Self {
        Self { revision: 0, when: When::Absent, trail: Trail::default(), is_guess: false }
    }

    fn found(found: Option<&Found>) -> Self {
        found.map_or_else(Self::nothing, |found| Self {
            revision: found.envelope.revision,
            when: When::Matches(found.etag.clone()),
            trail: found.envelope.next_trail(),
            is_guess: false,
        })
    }

    /// What was found, if the condition holds for it; else what stands there instead.
    fn under(condition: &Condition, found: Option<Found>) -> Result<Self, Option<Entry>> {
        let place = Self::found(found.as_ref());
        let current = found.and_then(Found::entry);
        if condition.holds(current.as_ref().map(|entry| &entry.version)) { Ok(place) } else { Err(current) }
    }

    /// Without looking; `None` where what stands there has to be carried on.
    fn guess(condition: &Condition, tags: Tags) -> Option<Self> {
        match condition {
            Condition::Any | Condition::Absent => Some(Self { is_guess: true, ..Self::nothing() }),
            Condition::Version(version) => {
                let tag = tags.tag(version).filter(|tag| !tag.keeps)?;
                Some(Self::at(version.revision, tag))
            }
        }
    }

    /// Where the version with this tag stands. Of the trail it has what the tag says.
    fn at(revision: u64, tag: Tag) -> Self {
        let trail = Trail { performed: Performed::default(), before: tag.writes };
        Self { revision, when: When::Matches(tag.etag), trail, is_guess: false }
    }

    fn next_revision(&self) -> u64 {
        self.revision.saturating_add(1)
    }
}

/// What became of a write.
enum Settled {
    Applied(Version),
    /// It has had no effect and will have none; what was found instead.
    Refused(Option<Found>),
    Unknown(String),
}

impl<B: Bucket> BucketAdapter<B> {
    pub(super) fn new(store: BucketStore<B>, root: &str) -> Self {
        let root = if root.is_empty() { String::new() } else { format!("{root}/") };
        Self {
            store,
            folder: root.clone() + &keys_folder(&[]),
            root,
            namespaces: Vec::new(),
            compression: None,
            tags: Tags::ETag,
        }
    }

    /// Makes the tags of versions of this.
    pub(super) fn with_tags(self, tags: Tags) -> Self {
        Self { tags, ..self }
    }

    /// Compresses what is written from now on. What is there is read as it is.
    pub fn with_compression(self, compression: Option<Compression>) -> Self {
        Self { compression, ..self }
    }

    pub(in crate::backends) fn bucket(&self) -> &B {
        self.store.bucket()
    }

    /// The object that holds a key's value.
    pub(in crate::backends) fn object(&self, key: &Key) -> String {
        format!("{}{}", self.folder, encode(key.as_str()))
    }

    async fn find(&self, key: &Key) -> Result<Option<Found>, Error> {
        let object = self.store.get(&self.object(key)).await?;
        object.map(|object| Found::open(self.tags, key, &object)).transpose()
    }

    /// Writes a value where it is expected to follow.
    async fn write_at(&self, key: &Key, place: &Expected, value: &Value) -> Result<Settled, Error> {
        let (revision, nonce) = (place.next_revision(), new_nonce());
        let body: Bytes = envelope::seal(key, revision, &nonce, value, &place.trail, self.compression)?;
        if place.is_guess && body.len() > LARGEST_GUESS {
            return Ok(Settled::Refused(self.find(key).await?));
        }
        let written = self.store.bucket.put(&self.object(key), body, &place.when).await?;
        self.settled(key, Sent { revision, nonce: &nonce }, &place.trail, written).await
    }

    /// Puts a tombstone where it is expected to follow.
    async fn remove_at(&self, key: &Key, place: &Expected) -> Result<Settled, Error> {
        let (revision, nonce) = (place.next_revision(), new_nonce());
        let tombstone = envelope::seal_tombstone(revision, &nonce, &place.trail);
        let written = self.store.bucket.put(&self.object(key), tombstone, &place.when).await?;
        self.settled(key, Sent { revision, nonce: &nonce }, &place.trail, written).await
    }

    /// What became of a write. Where the answer was lost, a look tells. So it does where the store refused: it may have
    /// refused the second arrival of a write that a proxy had sent on twice, and whose first one took effect.
    async fn settled(
        &self,
        key: &Key,
        sent: Sent<'_>,
        trail: &Trail,
        written: Written<ETag>,
    ) -> Result<Settled, Error> {
        let (found, lost) = match written {
            Written::Applied(etag) => {
                let next = trail.after(sent.nonce);
                return Ok(Settled::Applied(self.tags.version(sent.revision, sent.nonce, &etag, &next)));
            }
            Written::Refused => match self.find(key).await {
                Ok(found) => (found, None),
                Err(Error::Unavailable { cause, .. }) => {
                    return Ok(Settled::Unknown(format!("{cause}: what stands instead could not be read")));
                }
                Err(error) => return Err(error),
            },
            Written::Unknown(why) => {
                let looked = self.store.look(&self.object(key)).await;
                let found =
                    looked.and_then(|object| object.map(|object| Found::open(self.tags, key, &object)).transpose());
                (found.ok().flatten(), Some(why))
            }
        };
        // Where there is nothing, it may be on its way still.
        let became = found.as_ref().map_or(Became::Open, |found| became(&found.envelope, sent));
        Ok(match (became, found, lost) {
            (Became::Stands, Some(found), _) => Settled::Applied(found.version),
            (Became::Past, ..) => Settled::Applied(Version { revision: sent.revision, tag: PAST.to_owned() }),
            (Became::Open, _, Some(why)) => Settled::Unknown(why),
            (_, found, _) => Settled::Refused(found),
        })
    }

    /// What to remove: `None` if there is nothing. A damaged value can be removed, as long as no version is asked for.
    async fn target(&self, key: &Key) -> Result<Option<Expected>, Error> {
        match self.find(key).await {
            Ok(found) => {
                Ok(found.filter(|found| found.envelope.value.is_some()).map(|found| Expected::found(Some(&found))))
            }
            Err(Error::Corrupt { .. }) => {
                let object = self.store.get(&self.object(key)).await?;
                Ok(object.map(|object| Expected { when: When::Matches(object.etag), ..Expected::nothing() }))
            }
            Err(error) => Err(error),
        }
    }

    fn contended(key: &Key) -> Error {
        Error::Contended { key: key.to_string(), attempts: MAX_ATTEMPTS }
    }
}

#[async_trait]
impl<B: Bucket> StorageAdapter for BucketAdapter<B> {
    async fn get(&self, key: &Key) -> Result<Option<Entry>, Error> {
        Ok(self.find(key).await?.and_then(Found::entry))
    }

    async fn put(&self, key: &Key, value: Value, condition: &Condition) -> WriteResult<Version> {
        let mut next = match Expected::guess(condition, self.tags) {
            Some(guess) => Ok(guess),
            None => Expected::under(condition, self.find(key).await?),
        };
        for _ in 0..MAX_ATTEMPTS {
            let place = match next {
                Ok(place) => place,
                Err(current) => return Ok(Outcome::Rejected(current)),
            };
            next = match self.write_at(key, &place, &value).await? {
                Settled::Applied(version) => return Ok(Outcome::Applied(version)),
                Settled::Unknown(why) => return Ok(Outcome::Unknown(Unknown(why))),
                Settled::Refused(found) => Expected::under(condition, found),
            };
        }
        Err(Self::contended(key))
    }

    async fn perform_once(&self, key: &Key, operation: Operation, id: &OperationId) -> WriteResult<Done> {
        only(self.perform(key, Requests::once(operation, id)).await)
    }

    async fn perform(&self, key: &Key, requests: Requests) -> Vec<WriteResult<Done>> {
        let mut found = match self.find(key).await {
            Ok(found) => found,
            Err(error) => return shared(requests.len(), Err(error)),
        };
        for _ in 0..MAX_ATTEMPTS {
            let mut place = Expected::found(found.as_ref());
            let current = found.and_then(Found::entry);
            let performed = &place.trail.performed;
            let judged = judge(key, Stands { revision: place.revision, entry: current.as_ref(), performed }, &requests);
            let change = judged.change();
            let settled = match &change {
                Change::Nothing => return judged.applied(None),
                Change::Put(value) => {
                    place.trail.performed = judged.performed();
                    self.write_at(key, &place, value).await
                }
                Change::Remove => self.remove_at(key, &place).await,
            };
            found = match settled {
                Ok(Settled::Applied(version)) => {
                    return judged.applied(Some(&version).filter(|_| change != Change::Remove));
                }
                Ok(Settled::Unknown(why)) => return judged.unknown(&Unknown(why)),
                Ok(Settled::Refused(found)) => found,
                Err(error) => return judged.failed(&error),
            };
        }
        shared(requests.len(), Err(Self::contended(key)))
    }

    async fn remove(&self, key: &Key, condition: &Condition) -> WriteResult<bool> {
        condition.check_for_removal()?;
        let mut next = match condition {
            Condition::Version(version) => match self.tags.tag(version) {
                // What remembers operations is removed with its memory: nothing has to be carried on.
                Some(tag) => Some(Expected::at(version.revision, tag)),
                None => match Expected::under(condition, self.find(key).await?) {
                    Ok(place) => Some(place),
                    Err(current) => return Ok(Outcome::Rejected(current)),
                },
            },
            Condition::Any | Condition::Absent => self.target(key).await?,
        };
        for _ in 0..MAX_ATTEMPTS {
            let Some(place) = next else { return Ok(Outcome::Applied(false)) };
            let found = match self.remove_at(key, &place).await? {
                Settled::Applied(_) => return Ok(Outcome::Applied(true)),
                Settled::Unknown(why) => return Ok(Outcome::Unknown(Unknown(why))),
                Settled::Refused(found) => found,
            };
            let is_there = found.as_ref().is_some_and(|found| found.envelope.value.is_some());
            next = match Expected::under(condition, found) {
                Ok(place) => is_there.then_some(place),
                Err(current) => return Ok(Outcome::Rejected(current)),
            };
        }
        Err(Self::contended(key))
    }

    async fn list(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Page, Error> {
        let prefix = format!("{}{}", self.folder, encode(prefix));
        let mut after = after.map(|key| self.object(key)).unwrap_or_default();
        let mut keys = Vec::new();
        loop {
            let lacking = limit.saturating_add(1) - keys.len();
            let (listed, more) = self.store.bucket.list(&prefix, &after, lacking).await?;
            let stop = !more || listed.is_empty();
            if let Some(last) = listed.last() {
                after.clone_from(&last.name);
            }
            // Tombstones and foreign objects are no keys.
            let values = listed.into_iter().filter(|object| object.bytes > MAX_TOMBSTONE_BYTES as u64);
            keys.extend(values.filter_map(|object| Key::new(decode(object.name.strip_prefix(&self.folder)?)?).ok()));
            if keys.len() > limit || stop {
                let more = keys.len() > limit;
                keys.truncate(limit);
                return Ok(Page { keys, more });
            }
        }
    }

    fn with_namespace(&self, namespace: &Namespace) -> Arc<dyn StorageAdapter> {
        let mut namespaces = self.namespaces.clone();
        namespaces.push(namespace.clone());
        Arc::new(Self { folder: self.root.clone() + &keys_folder(&namespaces), namespaces, ..self.clone() })
    }

    // These two look before they write in any case: so what they write carries on the marks of earlier writes.

    async fn compare_and_swap(
        &self,
        key: &Key,
        old: Option<Value>,
        new: Option<Value>,
    ) -> WriteResult<Option<Version>> {
        let mut found = self.find(key).await?;
        for _ in 0..MAX_ATTEMPTS {
            let place = Expected::found(found.as_ref());
            let current = found.and_then(Found::entry);
            if current.as_ref().map(|entry| &entry.value) != old.as_ref() {
                return Ok(Outcome::Rejected(current));
            }
            let settled = match &new {
                Some(value) => self.write_at(key, &place, value).await?,
                None if current.is_none() => return Ok(Outcome::Applied(None)),
                None => self.remove_at(key, &place).await?,
            };
            found = match settled {
                Settled::Applied(version) => return Ok(Outcome::Applied(new.map(|_| version))),
                Settled::Unknown(why) => return Ok(Outcome::Unknown(Unknown(why))),
                Settled::Refused(found) => found,
            };
        }
        Err(Self::contended(key))
    }

    async fn increment(&self, key: &Key, delta: Number) -> WriteResult<(Number, Version)> {
        let mut found = self.find(key).await?;
        for _ in 0..MAX_ATTEMPTS {
            let place = Expected::found(found.as_ref());
            let sum = add(key, found.and_then(Found::entry).as_ref().map(|entry| &entry.value), &delta)?;
            found = match self.write_at(key, &place, &Value::Json(sum.clone().into())).await? {
                Settled::Applied(version) => return Ok(Outcome::Applied((sum, version))),
                Settled::Unknown(why) => return Ok(Outcome::Unknown(Unknown(why))),
                Settled::Refused(found) => found,
            };
        }
        Err(Self::contended(key))
    }

    async fn get_batch(&self, keys: &[Key]) -> Vec<Result<Option<Entry>, Error>> {
        // Owned by each request, so that the stream does not borrow across threads.
        let keys = keys.to_vec();
        let reads = keys.into_iter().map(|key| async move { self.get(&key).await });
        stream::iter(reads).buffered(CONCURRENCY).collect().await
    }

    async fn put_batch(&self, items: Vec<(Key, Value, Condition)>) -> Vec<WriteResult<Version>> {
        let count = items.len();
        // The items of one key one after the other, so that the last one stands; different keys at the same time.
        let mut by_key: HashMap<Key, Vec<(usize, Value, Condition)>> = HashMap::new();
        for (index, (key, value, condition)) in items.into_iter().enumerate() {
            by_key.entry(key).or_default().push((index, value, condition));
        }
        let writes = by_key.into_iter().map(|(key, values)| async move {
            let mut outcomes = Vec::with_capacity(values.len());
            for (index, value, condition) in values {
                outcomes.push((index, self.put(&key, value, &condition).await));
            }
            outcomes
        });
        let done: Vec<Vec<(usize, WriteResult<Version>)>> =
            stream::iter(writes).buffer_unordered(CONCURRENCY).collect().await;
        let mut outcomes: Vec<(usize, WriteResult<Version>)> = done.into_iter().flatten().collect();
        outcomes.sort_unstable_by_key(|(index, _)| *index);
        debug_assert_eq!(outcomes.len(), count, "each item has its outcome");
        outcomes.into_iter().map(|(_, outcome)| outcome).collect()
    }
}
