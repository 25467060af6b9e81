//! One folder of a bucket that is read through to others: the *origins*, which are what it follows, newest first. Nobody is to
//! write to them any more, but what was sent before may yet arrive there, at any time.
//!
//! What is found in an origin is first written to the own folder, only where nothing stands there yet, and then answered. So
//! of each object there is one moment from which it counts: when it is written to the own folder. Whatever arrives in an
//! origin later changes nothing; what arrives there before may count or not, and nobody was told of either. That takes
//! tombstones too: they are copied as values are, or a copy that arrives late could bring back what was removed.
//!
//! What is found nowhere is answered only after another look into the own folder: since the first one it may have been
//! copied, and the origin cleared away.
//!
//! A copy is byte for byte the object that it was made of. So are revision, marks and memory of a key those of its origin,
//! and a version that somebody knows is still right: its tag is the mark of the write, since the ETag is another.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;

use super::adapter::{BucketAdapter, Tags};
use super::bucket::{Bucket, Listed, Object, When, Written};
use super::conditional::ATTEMPTS;
use super::etag::ETag;
use super::merge::merge;
use super::{BucketStore, pause};
use crate::encoding::key_of_path;
use crate::{Error, Key, envelope};

/// A folder of a bucket, with the origins that it is read through to. Clones share them.
#[derive(Clone, Debug)]
pub struct ReadThrough<B> {
    pub(super) store: BucketStore<B>,
    /// With a slash at its end.
    pub(super) own: String,
    /// Newest first, each with a slash at its end.
    origins: Arc<Mutex<Vec<String>>>,
    longest_folder: usize,
    copied: Arc<AtomicU64>,
}

impl<B: Bucket> ReadThrough<B> {
    /// The folder `own` of a store, and the folders that it is read through to, newest first. Nothing may ever have been
    /// written to `own` under another list of origins than this one and what was [forgotten](Self::forget) of it. No
    /// folder that follows this one may have a name of more than `longest_folder` bytes: no key is taken that would not fit
    /// there.
    pub fn new(store: &BucketStore<B>, own: &str, origins: &[String], longest_folder: usize) -> Self {
        let folder = |name: &str| format!("{}/", name.trim_end_matches('/'));
        let origins = origins.iter().map(|origin| folder(origin)).collect();
        let (store, origins) = (store.clone(), Arc::new(Mutex::new(origins)));
        Self { store, own: folder(own), origins, longest_folder, copied: Arc::default() }
    }

    /// The values in it.
    pub fn adapter(&self) -> BucketAdapter<Self> {
        // Whether a read is whole is judged below.
        BucketAdapter::new(BucketStore::new(self.clone()), "").with_tags(Tags::Nonce)
    }

    /// An origin of which everything has been [copied](Self::copy) is no longer looked at.
    pub fn forget(&self, origin: &str) {
        let origin = origin.trim_end_matches('/');
        self.lock().retain(|other| other.trim_end_matches('/') != origin);
    }

    /// How many objects were copied.
    pub fn copied(&self) -> u64 {
        self.copied.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<String>> {
        // A panic while it was held left a whole list behind.
        self.origins.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn origins(&self) -> Vec<String> {
        self.lock().clone()
    }

    fn own(&self, name: &str) -> String {
        format!("{}{name}", self.own)
    }

    /// What stands in the newest origin that has something.
    async fn in_origins(&self, origins: &[String], name: &str) -> Result<Option<Bytes>, Error> {
        for origin in origins {
            let found = self.store.get(&format!("{origin}{name}")).await?;
            if let Some(object) = found {
                return Ok(Some(object.body));
            }
        }
        Ok(None)
    }

    /// The same, read once more where it is damaged: what comes out the same twice lies there so, and is copied as it lies.
    async fn whole_in_origins(&self, origins: &[String], name: &str) -> Result<Option<Bytes>, Error> {
        let found = self.in_origins(origins, name).await?;
        let Some(body) = found else { return Ok(None) };
        if is_whole(name, &body) {
            return Ok(Some(body));
        }
        let again = self.in_origins(origins, name).await?;
        match again {
            None => Ok(None),
            Some(again) if again == body || is_whole(name, &again) => Ok(Some(again)),
            Some(_) => {
                Err(Error::Corrupt { key: name.to_owned(), problem: "it is read differently each time".to_owned() })
            }
        }
    }

    /// Writes what was found in an origin to the own folder. `None`: something stands there by now.
    async fn bring(&self, name: &str, body: Bytes) -> Result<Option<Object>, Error> {
        let own = self.own(name);
        let why = match self.store.bucket.put(&own, body.clone(), &When::Absent).await? {
            Written::Applied(etag) => {
                self.copied.fetch_add(1, Ordering::Relaxed);
                return Ok(Some(Object { body, etag }));
            }
            Written::Refused => return Ok(None),
            Written::Unknown(why) => why,
        };
        // As long as it may be on its way still, something else may come before it: it must not be answered.
        let found = self.store.get(&own).await?;
        found.map(Some).ok_or_else(|| Error::unavailable("TimedOut", format!("copying {name}: {why}")))
    }
}

/// Whether an object of a key can be read.
fn is_whole(name: &str, body: &Bytes) -> bool {
    let key = key_of_path(name).and_then(|key| Key::new(key).ok());
    key.is_none_or(|key| envelope::open(&key, body).is_ok())
}

#[async_trait]
impl<B: Bucket> Bucket for ReadThrough<B> {
    fn server(&self) -> &str {
        self.store.bucket.server()
    }

    fn longest_name(&self) -> usize {
        self.store.bucket.longest_name().saturating_sub(self.longest_folder)
    }

    async fn get(&self, name: &str) -> Result<Option<Object>, Error> {
        let own = self.own(name);
        for attempt in 1..=ATTEMPTS {
            // Before the own folder: what is forgotten after has been copied by then, or is seen below.
            let origins = self.origins();
            let found = self.store.get(&own).await?;
            if found.is_some() || origins.is_empty() {
                return Ok(found);
            }
            let Some(body) = self.whole_in_origins(&origins, name).await? else {
                return self.store.get(&own).await;
            };
            if let Some(brought) = self.bring(name, body).await? {
                return Ok(Some(brought));
            }
            if attempt > 1 {
                pause(attempt).await;
            }
        }
        Err(Error::unavailable("TornRead", format!("{}: {own} is there, and can't be read", self.server())))
    }

    /// What became of a write shows in the own folder alone.
    async fn look(&self, name: &str) -> Result<Option<Object>, Error> {
        self.store.look(&self.own(name)).await
    }

    async fn put(&self, name: &str, body: Bytes, when: &When) -> Result<Written<ETag>, Error> {
        if *when == When::Absent {
            let longest = self.longest_name();
            if name.len() > longest {
                let problem = format!(
                    "is too long: as an object's name it takes {} bytes, and {longest} fit in the folder of any node; use a \
                     shorter key, or fewer characters other than letters and digits",
                    name.len()
                );
                return Err(Error::invalid("key", problem));
            }
            if !self.lock().is_empty() && self.get(name).await?.is_some() {
                return Ok(Written::Refused);
            }
        }
        self.store.bucket.put(&self.own(name), body, when).await
    }

    async fn list(&self, prefix: &str, after: &str, most: usize) -> Result<(Vec<Listed>, bool), Error> {
        let origins = self.origins();
        let mut pages = Vec::with_capacity(origins.len() + 1);
        // The own folder last: what is copied meanwhile, and cleared away, is seen here or there.
        for folder in origins.iter().rev().chain([&self.own]) {
            let after = if after.is_empty() { String::new() } else { format!("{folder}{after}") };
            let (listed, more) = self.store.bucket.list(&format!("{folder}{prefix}"), &after, most).await?;
            let relative =
                |object: Listed| Some(Listed { name: object.name.strip_prefix(folder)?.to_owned(), ..object });
            pages.push((listed.into_iter().filter_map(relative).collect(), more));
        }
        Ok(merge(pages, most))
    }

    /// In the own folder: what the origins have shows again.
    async fn discard(&self, names: Vec<String>) -> Result<(), Error> {
        self.store.bucket.discard(names.iter().map(|name| self.own(name)).collect()).await
    }
}
