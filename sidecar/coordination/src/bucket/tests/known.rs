use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use brainy_storage::Error;
use brainy_storage::documents::{Document, DocumentVersion, Documents, Swap};
use bytes::Bytes;

use super::super::known::Known;
use super::*;

/// Documents that say what was read; `versioned`: of which a listing says the versions.
#[derive(Debug, Default)]
struct Watched {
    documents: MemoryDocuments,
    reads: Mutex<Vec<String>>,
    versioned: bool,
}

impl Watched {
    fn reads(&self) -> Vec<String> {
        std::mem::take(&mut self.reads.lock().unwrap())
    }
}

#[async_trait]
impl Documents for Watched {
    async fn read(&self, name: &str) -> Result<Option<Document>, Error> {
        self.reads.lock().unwrap().push(name.to_owned());
        self.documents.read(name).await
    }

    async fn swap(&self, name: &str, expected: Option<&DocumentVersion>, body: Bytes) -> Result<Swap, Error> {
        self.documents.swap(name, expected, body).await
    }

    async fn names(&self, prefix: &str) -> Result<Vec<String>, Error> {
        self.documents.names(prefix).await
    }

    async fn versions(&self, prefix: &str) -> Result<Vec<(String, Option<DocumentVersion>)>, Error> {
        let versions = self.documents.versions(prefix).await?;
        Ok(versions.into_iter().map(|(name, version)| (name, version.filter(|_| self.versioned))).collect())
    }
}

/// Two documents.
async fn watched(versioned: bool) -> (Arc<Watched>, Arc<dyn Documents>) {
    let watched = Arc::new(Watched { versioned, ..Watched::default() });
    for name in ["s/a", "s/b"] {
        put(&watched.documents, name, &1).await;
    }
    let documents = Arc::clone(&watched) as Arc<dyn Documents>;
    (watched, documents)
}

/// Lists, and reads all. What they say.
async fn look(known: &Arc<Known>, documents: &Arc<dyn Documents>) -> Vec<String> {
    let listed = known.listed(documents, "s/").await.unwrap();
    let mut found = Vec::new();
    for name in listed.names("s/").await.unwrap() {
        let body = listed.read(&name).await.unwrap().unwrap().body;
        found.push(String::from_utf8(body.to_vec()).unwrap());
    }
    found
}

#[tokio::test]
async fn what_has_not_changed_is_not_read_again_and_what_has_is() {
    let (watched, documents) = watched(true).await;
    let known = Arc::default();
    assert_eq!(look(&known, &documents).await, ["1", "1"]);
    assert_eq!(watched.reads(), ["s/a", "s/b"]);
    assert_eq!(look(&known, &documents).await, ["1", "1"]);
    assert_eq!(watched.reads(), [""; 0]);
    put(&watched.documents, "s/b", &2).await;
    put(&watched.documents, "s/c", &3).await;
    assert_eq!(look(&known, &documents).await, ["1", "2", "3"]);
    assert_eq!(watched.reads(), ["s/b", "s/c"]);
}

#[tokio::test]
async fn where_a_listing_says_no_versions_all_is_read() {
    let (watched, documents) = watched(false).await;
    let known = Arc::default();
    for _ in 0..2 {
        assert_eq!(look(&known, &documents).await, ["1", "1"]);
        assert_eq!(watched.reads(), ["s/a", "s/b"]);
    }
}

#[tokio::test]
async fn what_was_told_is_believed_only_while_it_stands() {
    let (watched, documents) = watched(true).await;
    let known = Arc::<Known>::default();
    let told = watched.documents.read("s/a").await.unwrap().unwrap();
    known.learn("s/a".into(), told);
    assert_eq!(look(&known, &documents).await, ["1", "1"]);
    assert_eq!(watched.reads(), ["s/b"]);
    put(&watched.documents, "s/a", &2).await;
    assert_eq!(look(&known, &documents).await, ["2", "1"]);
    let never = Document { body: "7".into(), version: DocumentVersion("never".into()) };
    known.learn("s/a".into(), never);
    assert_eq!(look(&known, &documents).await, ["2", "1"]);
}

#[tokio::test]
async fn what_was_written_need_not_be_read_and_a_write_from_what_stood_before_is_refused() {
    let (watched, documents) = watched(true).await;
    let known = Arc::<Known>::default();
    let listed = known.listed(&documents, "s/").await.unwrap();
    let (a, b) = (listed.read("s/a").await.unwrap().unwrap(), listed.read("s/b").await.unwrap().unwrap());
    assert!(matches!(listed.swap("s/a", Some(&a.version), "2".into()).await.unwrap(), Swap::Applied(_)));
    put(&watched.documents, "s/b", &3).await;
    assert_eq!(listed.swap("s/b", Some(&b.version), "4".into()).await.unwrap(), Swap::Rejected);
    watched.reads();
    assert_eq!(look(&known, &documents).await, ["2", "3"]);
    assert_eq!(watched.reads(), ["s/b"]);
}
