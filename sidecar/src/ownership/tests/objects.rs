//! A bucket in memory.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use brainy_storage::Error;
use brainy_storage::backends::objects::{Bucket, ETag, Listed, Object, When, Written};
use bytes::Bytes;

#[derive(Clone, Debug, Default)]
pub(super) struct Objects(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    objects: BTreeMap<String, Object>,
    writes: u64,
}

impl Objects {
    pub(super) fn names(&self) -> Vec<String> {
        self.0.lock().unwrap().objects.keys().cloned().collect()
    }
}

#[async_trait]
impl Bucket for Objects {
    fn server(&self) -> &str {
        "memory"
    }

    async fn get(&self, name: &str) -> Result<Option<Object>, Error> {
        Ok(self.0.lock().unwrap().objects.get(name).cloned())
    }

    async fn put(&self, name: &str, body: Bytes, when: &When) -> Result<Written<ETag>, Error> {
        let mut state = self.0.lock().unwrap();
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
        let state = self.0.lock().unwrap();
        let found = state.objects.iter().filter(|(name, _)| name.starts_with(prefix) && name.as_str() > after);
        let mut listed: Vec<Listed> = found.map(|(name, object)| as_listed(name, object)).collect();
        let more = listed.len() > most;
        listed.truncate(most);
        Ok((listed, more))
    }

    async fn discard(&self, names: Vec<String>) -> Result<(), Error> {
        self.0.lock().unwrap().objects.retain(|name, _| !names.contains(name));
        Ok(())
    }
}

/// As a listing shows it.
fn as_listed(name: &str, object: &Object) -> Listed {
    Listed { name: name.to_owned(), bytes: object.body.len() as u64, etag: Some(object.etag.clone()) }
}
