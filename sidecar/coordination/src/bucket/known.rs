//! What need not be read again: one listing shows at which version every document stands, and one that is known at that version
//! is as it was. So the controller's look at a cluster in which nothing happens is one request, however many nodes there are.
//!
//! A listing that lags shows what stood before: then the controller decides a little later, as if it had looked earlier. What
//! it writes it writes from exactly the version that it knows, so it never ends a session that was renewed (R8).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use brainy_storage::Error;
use brainy_storage::documents::{Document, DocumentVersion, Documents, Swap};
use bytes::Bytes;

/// Documents as they were read, written or told last.
#[derive(Debug, Default)]
pub struct Known(Mutex<BTreeMap<String, Document>>);

impl Known {
    /// Somebody who wrote a document says what, and which version that is. Believed while a listing shows that very version.
    pub fn learn(&self, name: String, document: Document) {
        self.lock().insert(name, document);
    }

    /// Lists what begins with `prefix`. The documents as of now: what is known at the version that stands there is not read.
    pub async fn listed(
        self: &Arc<Self>,
        documents: &Arc<dyn Documents>,
        prefix: &str,
    ) -> Result<Arc<dyn Documents>, Error> {
        let listed: BTreeMap<_, _> = super::bounded(prefix, documents.versions(prefix)).await?.into_iter().collect();
        self.lock().retain(|name, _| listed.contains_key(name));
        let (known, documents) = (Arc::clone(self), Arc::clone(documents));
        Ok(Arc::new(Listed { known, documents, prefix: prefix.to_owned(), listed }))
    }

    fn at(&self, name: &str, version: &DocumentVersion) -> Option<Document> {
        self.lock().get(name).filter(|document| document.version == *version).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Document>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Documents of which one listing is known.
#[derive(Debug)]
struct Listed {
    known: Arc<Known>,
    documents: Arc<dyn Documents>,
    prefix: String,
    listed: BTreeMap<String, Option<DocumentVersion>>,
}

#[async_trait]
impl Documents for Listed {
    async fn read(&self, name: &str) -> Result<Option<Document>, Error> {
        let version = self.listed.get(name).and_then(Option::as_ref);
        if let Some(known) = version.and_then(|version| self.known.at(name, version)) {
            return Ok(Some(known));
        }
        let found = self.documents.read(name).await?;
        if let Some(document) = found.as_ref().filter(|_| self.listed.contains_key(name)) {
            self.known.learn(name.to_owned(), document.clone());
        }
        Ok(found)
    }

    async fn swap(&self, name: &str, expected: Option<&DocumentVersion>, body: Bytes) -> Result<Swap, Error> {
        let swap = self.documents.swap(name, expected, body.clone()).await?;
        if let Swap::Applied(version) = &swap {
            self.known.learn(name.to_owned(), Document { body, version: version.clone() });
        }
        Ok(swap)
    }

    async fn names(&self, prefix: &str) -> Result<Vec<String>, Error> {
        if !prefix.starts_with(&self.prefix) {
            return self.documents.names(prefix).await;
        }
        Ok(self.listed.keys().filter(|name| name.starts_with(prefix)).cloned().collect())
    }
}
