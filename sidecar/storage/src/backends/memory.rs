//! In memory: for tests, and the plainest statement of what every other backend must do.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;

use crate::documents::{Document, DocumentVersion, Documents, Swap};
use crate::envelope::{Stored, new_nonce};
use crate::group::{Change, judge};
use crate::operation::only;
use crate::performed::{Performed, Stands};
use crate::{
    Condition, Done, Entry, Error, Key, Namespace, Operation, OperationId, Outcome, Page, Requests, StorageAdapter,
    Value, Version, WriteResult,
};

/// The keys of one namespace.
type Space = BTreeMap<Key, Stored>;

/// A store that lasts as long as the last clone of it.
#[derive(Clone, Debug, Default)]
pub struct MemoryAdapter {
    namespaces: Vec<Namespace>,
    spaces: Arc<Mutex<HashMap<Vec<Namespace>, Space>>>,
}

impl MemoryAdapter {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    fn with_space<T>(&self, act: impl FnOnce(&mut Space) -> T) -> T {
        act(lock(&self.spaces).entry(self.namespaces.clone()).or_default())
    }
}

/// Writes a value over what stands there.
fn write(space: &mut Space, key: &Key, value: Value, performed: Performed) -> Version {
    let revision = space.get(key).map_or(0, |stored| stored.entry.version.revision) + 1;
    let version = Version { revision, tag: new_nonce() };
    space.insert(key.clone(), Stored { entry: Entry { value, version: version.clone() }, performed });
    version
}

/// No operation leaves the data half changed, so a panic elsewhere does not spoil it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[async_trait]
impl StorageAdapter for MemoryAdapter {
    async fn get(&self, key: &Key) -> Result<Option<Entry>, Error> {
        Ok(self.with_space(|space| space.get(key).map(|stored| stored.entry.clone())))
    }

    async fn put(&self, key: &Key, value: Value, condition: &Condition) -> WriteResult<Version> {
        value.check()?;
        self.with_space(|space| {
            let current = space.get(key);
            if !condition.holds(current.map(|stored| &stored.entry.version)) {
                return Ok(Outcome::Rejected(current.map(|stored| stored.entry.clone())));
            }
            let performed = current.map(|stored| stored.performed.clone()).unwrap_or_default();
            Ok(Outcome::Applied(write(space, key, value, performed)))
        })
    }

    async fn remove(&self, key: &Key, condition: &Condition) -> WriteResult<bool> {
        condition.check_for_removal()?;
        self.with_space(|space| {
            let current = space.get(key);
            if !condition.holds(current.map(|stored| &stored.entry.version)) {
                return Ok(Outcome::Rejected(current.map(|stored| stored.entry.clone())));
            }
            Ok(Outcome::Applied(space.remove(key).is_some()))
        })
    }

    async fn perform_once(&self, key: &Key, operation: Operation, id: &OperationId) -> WriteResult<Done> {
        only(self.perform(key, Requests::once(operation, id)).await)
    }

    async fn perform(&self, key: &Key, requests: Requests) -> Vec<WriteResult<Done>> {
        self.with_space(|space| {
            let judged = judge(key, Stands::stored(space.get(key)), &requests);
            match judged.change() {
                Change::Nothing => judged.applied(None),
                Change::Put(value) => {
                    let version = write(space, key, value, judged.performed());
                    judged.applied(Some(&version))
                }
                Change::Remove => {
                    space.remove(key);
                    judged.applied(None)
                }
            }
        })
    }

    async fn list(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Page, Error> {
        Ok(self.with_space(|space| {
            let start = after.map_or(Bound::Unbounded, Bound::Excluded);
            let mut matching =
                space.range::<Key, _>((start, Bound::Unbounded)).filter(|(key, _)| key.as_str().starts_with(prefix));
            let keys: Vec<Key> = matching.by_ref().take(limit).map(|(key, _)| key.clone()).collect();
            Page { more: matching.next().is_some(), keys }
        }))
    }

    fn with_namespace(&self, namespace: &Namespace) -> Arc<dyn StorageAdapter> {
        let mut inner = self.clone();
        inner.namespaces.push(namespace.clone());
        Arc::new(inner)
    }
}

/// Documents that last as long as the last clone of it.
#[derive(Clone, Debug, Default)]
pub struct MemoryDocuments {
    documents: Arc<Mutex<BTreeMap<String, Document>>>,
}

impl MemoryDocuments {
    /// No documents.
    pub fn new() -> Self {
        Self::default()
    }
}

#[async_trait]
impl Documents for MemoryDocuments {
    async fn read(&self, name: &str) -> Result<Option<Document>, Error> {
        Ok(lock(&self.documents).get(name).cloned())
    }

    async fn swap(&self, name: &str, expected: Option<&DocumentVersion>, body: Bytes) -> Result<Swap, Error> {
        let mut documents = lock(&self.documents);
        if documents.get(name).map(|document| &document.version) != expected {
            return Ok(Swap::Rejected);
        }
        let version = DocumentVersion(new_nonce());
        documents.insert(name.to_owned(), Document { body, version: version.clone() });
        Ok(Swap::Applied(version))
    }

    async fn names(&self, prefix: &str) -> Result<Vec<String>, Error> {
        Ok(lock(&self.documents).keys().filter(|name| name.starts_with(prefix)).cloned().collect())
    }

    async fn versions(&self, prefix: &str) -> Result<Vec<(String, Option<DocumentVersion>)>, Error> {
        let version = |(name, document): (&String, &Document)| (name.clone(), Some(document.version.clone()));
        Ok(lock(&self.documents).iter().filter(|(name, _)| name.starts_with(prefix)).map(version).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_document_changes_only_from_the_version_that_was_seen() {
        let documents = MemoryDocuments::new();
        let body = || Bytes::from_static(b"{}");
        let Swap::Applied(first) = documents.swap("a", None, body()).await.unwrap() else { panic!("not created") };
        assert_eq!(documents.swap("a", None, body()).await.unwrap(), Swap::Rejected);
        let Swap::Applied(second) = documents.swap("a", Some(&first), body()).await.unwrap() else {
            panic!("not changed")
        };
        assert_ne!(first, second, "equal content must not bring back a version (R5)");
        assert_eq!(documents.swap("a", Some(&first), body()).await.unwrap(), Swap::Rejected);
        assert_eq!(documents.swap("b", Some(&first), body()).await.unwrap(), Swap::Rejected);
        assert_eq!(documents.read("a").await.unwrap().unwrap().version, second);
        assert_eq!(documents.names("").await.unwrap(), ["a"]);
    }
}
