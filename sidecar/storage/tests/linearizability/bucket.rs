//! A bucket in memory at the end of a rough road: requests are lost, come late, and come a second time, as by a proxy that
//! had no answer and has tried again.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use brainy_storage::backends::objects::{Bucket, BucketStore, ETag, Listed, Object, When, Written};
use brainy_storage::envelope::MAX_TOMBSTONE_BYTES;
use brainy_storage::{Error, StorageAdapter};
use bytes::Bytes;

use super::harness::rough::{Road, Weather, pause};

#[derive(Clone, Debug)]
pub(crate) struct FarBucket(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    objects: Mutex<BTreeMap<String, Object>>,
    writes: AtomicUsize,
    road: Road,
    sweeps: bool,
}

impl FarBucket {
    /// An empty bucket. One that sweeps keeps no tombstone: a removed value leaves nothing.
    pub(crate) fn new(weather: Weather, sweeps: bool) -> Self {
        let (objects, writes) = (Mutex::default(), AtomicUsize::new(0));
        Self(Arc::new(Inner { objects, writes, road: Road::new(weather), sweeps }))
    }

    /// One that neither loses nor delays anything.
    pub(crate) fn calm() -> Self {
        Self::new(Weather { pauses: vec![1], losses: vec![None], echoes: vec![None] }, false)
    }

    /// The adapter over an empty bucket.
    pub(crate) fn adapter(weather: Weather, sweeps: bool) -> Arc<dyn StorageAdapter> {
        Self::new(weather, sweeps).open()
    }

    /// An adapter over it.
    pub(crate) fn open(&self) -> Arc<dyn StorageAdapter> {
        Arc::new(BucketStore::new(self.clone()).adapter("s"))
    }
}

impl Inner {
    /// A write arrives.
    fn arrive(&self, name: &str, body: Bytes, when: &When) -> Written<ETag> {
        let mut objects = self.objects.lock().unwrap();
        let stands = objects.get(name).map(|object| &object.etag);
        let holds = match when {
            When::Absent => stands.is_none(),
            When::Matches(etag) => stands == Some(etag),
        };
        if !holds {
            return Written::Refused;
        }
        let etag = ETag::new(format!("\"{}\"", self.writes.fetch_add(1, Ordering::SeqCst))).unwrap();
        if self.sweeps && body.len() <= MAX_TOMBSTONE_BYTES {
            objects.remove(name);
        } else {
            objects.insert(name.to_owned(), Object { body, etag: etag.clone() });
        }
        Written::Applied(etag)
    }
}

#[async_trait]
impl Bucket for FarBucket {
    fn server(&self) -> &str {
        "memory"
    }

    async fn get(&self, name: &str) -> Result<Option<Object>, Error> {
        self.0.road.read(async { Ok(self.0.objects.lock().unwrap().get(name).cloned()) }).await
    }

    async fn put(&self, name: &str, body: Bytes, when: &When) -> Result<Written<ETag>, Error> {
        let inner = Arc::clone(&self.0);
        let arrives = {
            let (inner, name, when) = (Arc::clone(&inner), name.to_owned(), when.clone());
            move || inner.arrive(&name, body.clone(), &when)
        };
        if let Some(turns) = inner.road.echo() {
            let arrives = arrives.clone();
            // It may even be the first to arrive.
            tokio::spawn(async move {
                pause(turns).await;
                arrives()
            });
        }
        inner.road.write(async move { Ok(arrives()) }, Ok(Written::Unknown("the weather".to_owned()))).await
    }

    async fn list(&self, prefix: &str, after: &str, most: usize) -> Result<(Vec<Listed>, bool), Error> {
        let objects = self.0.objects.lock().unwrap();
        let listed = objects.iter().filter(|(name, _)| name.starts_with(prefix) && name.as_str() > after);
        let mut listed: Vec<Listed> = listed.map(|(name, object)| as_listed(name, object)).collect();
        let more = listed.len() > most;
        listed.truncate(most);
        Ok((listed, more))
    }

    async fn discard(&self, names: Vec<String>) -> Result<(), Error> {
        self.0.objects.lock().unwrap().retain(|name, _| !names.contains(name));
        Ok(())
    }
}

/// As a listing shows it.
fn as_listed(name: &str, object: &Object) -> Listed {
    Listed { name: name.to_owned(), bytes: object.body.len() as u64, etag: Some(object.etag.clone()) }
}
