//! A bucket in memory.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use brainy_storage::backends::objects::{Bucket, BucketStore, ETag, Listed, Object, When, Written};
use brainy_storage::layers::regions::{Plan, RegionStores};
use brainy_storage::layers::tiering::{Cold, ColdStores};
use brainy_storage::{Error, StorageAdapter};
use bytes::Bytes;

#[derive(Clone, Debug, Default)]
pub(super) struct Objects(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    objects: BTreeMap<String, Object>,
    writes: u64,
    is_away: bool,
}

impl Objects {
    pub(super) fn names(&self) -> Vec<String> {
        self.0.lock().unwrap().objects.keys().cloned().collect()
    }

    /// Fails with all that it is asked, from now on or not any more.
    pub(super) fn set_away(&self, is_away: bool) {
        self.0.lock().unwrap().is_away = is_away;
    }

    fn state(&self) -> Result<MutexGuard<'_, State>, Error> {
        let state = self.0.lock().unwrap();
        if state.is_away {
            return Err(Error::unavailable("Unreachable", "the bucket is away"));
        }
        Ok(state)
    }
}

/// As the cold tiers of shards.
impl ColdStores for Objects {
    fn cold(&self, name: &str) -> Cold {
        Cold { store: Arc::new(BucketStore::new(self.clone()).adapter(name)), longest_path: 1000 }
    }

    fn problem(&self) -> Option<String> {
        self.state().err().map(|error| error.to_string())
    }
}

/// As the shards of another region, `us`.
#[derive(Clone, Debug)]
pub(super) struct FarRegion {
    plan: Plan,
    objects: Objects,
}

impl FarRegion {
    pub(super) fn new(objects: &Objects) -> Self {
        let plan = Plan::new(["eu", "us"].map(str::to_owned).to_vec(), "eu", "eu", 1000).unwrap();
        Self { plan, objects: objects.clone() }
    }
}

impl RegionStores for FarRegion {
    fn plan(&self) -> &Plan {
        &self.plan
    }

    fn store(&self, _region: &str, name: &str) -> Arc<dyn StorageAdapter> {
        Arc::new(BucketStore::new(self.objects.clone()).adapter(name))
    }

    fn problems(&self) -> Vec<(String, String)> {
        self.objects.problem().map(|why| ("us".to_owned(), why)).into_iter().collect()
    }
}

#[async_trait]
impl Bucket for Objects {
    fn server(&self) -> &str {
        "memory"
    }

    async fn get(&self, name: &str) -> Result<Option<Object>, Error> {
        Ok(self.state()?.objects.get(name).cloned())
    }

    async fn put(&self, name: &str, body: Bytes, when: &When) -> Result<Written<ETag>, Error> {
        let mut state = self.state()?;
        let stands = state.objects.get(name).map(|object| &object.etag);
        let holds = match when {
            When::Absent => stands.is_none(),
            When::Matches(etag) => stands == Some(etag),
        };
        if !holds {
            return Ok(Written::Refused);
        }
        state.writes += 1;
        let etag = ETag::new(format!("\"{}\"", state.writes)).unwrap();
        state.objects.insert(name.to_owned(), Object { body, etag: etag.clone() });
        Ok(Written::Applied(etag))
    }

    async fn list(&self, prefix: &str, after: &str, most: usize) -> Result<(Vec<Listed>, bool), Error> {
        let state = self.state()?;
        let found = state.objects.iter().filter(|(name, _)| name.starts_with(prefix) && name.as_str() > after);
        let mut listed: Vec<Listed> = found.map(|(name, object)| as_listed(name, object)).collect();
        let more = listed.len() > most;
        listed.truncate(most);
        Ok((listed, more))
    }

    async fn discard(&self, names: Vec<String>) -> Result<(), Error> {
        self.state()?.objects.retain(|name, _| !names.contains(name));
        Ok(())
    }
}

/// As a listing shows it.
fn as_listed(name: &str, object: &Object) -> Listed {
    Listed { name: name.to_owned(), bytes: object.body.len() as u64, etag: Some(object.etag.clone()) }
}
