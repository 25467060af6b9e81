//! A bucket that a node needs beside the place where its own data lies: opened and put to the test in the background, as often as
//! it takes, and again every hour. Until it has passed nothing is written to it or read from it, and the node goes on without.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use brainy_storage::backends::s3::{S3Settings, S3Store};
use brainy_storage::layers::compression::Compression;
use brainy_storage::layers::observing::Observing;
use brainy_storage::{
    Condition, Done, Entry, Error, Key, Namespace, Operation, OperationId, Page, Requests, StorageAdapter, Value,
    Version, WriteResult, chance,
};
use tokio::sync::watch;

use crate::host;

/// Longest name of an object, in bytes, of which the bucket's prefix takes a part.
const LONGEST_NAME: usize = 1024;
/// Between two proofs. One is a few hundred small requests.
const PROVE_EVERY: Duration = Duration::from_secs(3600);
/// Pauses before a bucket is tried again that has not passed: doubled from the first to the last.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// What a bucket is for.
#[async_trait]
pub trait Purpose: fmt::Debug + Send + Sync + 'static {
    /// The cause of what fails because the bucket is not used.
    fn cause(&self) -> &'static str;

    /// It in words.
    fn name(&self) -> String;

    /// Whether what is in the bucket is what it should be; it was found to keep its word.
    async fn admit(&self, store: &S3Store) -> Result<(), Error>;
}

/// Whether the bucket may be used.
#[derive(Clone, Debug)]
enum Access {
    /// Not yet, or not any more: why.
    Closed(String),
    Open(S3Store),
}

/// The bucket. Clones share it.
#[derive(Clone)]
pub struct GatedBucket(Arc<Inner>);

struct Inner {
    settings: S3Settings,
    purpose: Arc<dyn Purpose>,
    compression: Option<Compression>,
    observing: Observing,
    access: watch::Sender<Access>,
}

impl fmt::Debug for GatedBucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GatedBucket").field("settings", &self.0.settings).finish_non_exhaustive()
    }
}

impl GatedBucket {
    /// Opens the bucket in the background. Within a runtime.
    pub fn start(
        settings: S3Settings,
        purpose: Arc<dyn Purpose>,
        compression: Option<Compression>,
        observing: Observing,
    ) -> Self {
        let access = watch::Sender::new(Access::Closed(format!("the bucket of {} was not tested yet", purpose.name())));
        let bucket = Self(Arc::new(Inner { settings, purpose, compression, observing, access }));
        host::spawn(keep(bucket.clone()));
        bucket
    }

    /// Why it can't be used at the moment, if that is so.
    pub fn problem(&self) -> Option<String> {
        match &*self.0.access.borrow() {
            Access::Closed(why) => Some(why.clone()),
            Access::Open(_) => None,
        }
    }

    /// A store in this folder, which works while the bucket may be used.
    pub fn store_in(&self, root: String) -> Arc<dyn StorageAdapter> {
        Arc::new(GatedStore { bucket: self.clone(), root, namespaces: Vec::new(), open: OnceLock::new() })
    }

    fn set(&self, access: Access) {
        let (before, what) = (self.problem(), self.0.purpose.name());
        match (&access, before) {
            (Access::Closed(why), before) if before.as_ref() != Some(why) => {
                tracing::warn!(why, "{what} is not used");
            }
            (Access::Open(_), Some(_)) => tracing::info!("{what} is used from now on"),
            _ => {}
        }
        self.0.access.send_replace(access);
    }

    fn store(&self) -> Result<S3Store, Error> {
        match &*self.0.access.borrow() {
            Access::Closed(why) => Err(Error::unavailable(self.0.purpose.cause(), why.clone())),
            Access::Open(store) => Ok(store.clone()),
        }
    }
}

/// The longest path of a key in such a folder, in bytes.
pub fn longest_path(prefix: &str, root: &str) -> usize {
    LONGEST_NAME.saturating_sub(prefix.len() + root.len() + 2)
}

/// Opens the bucket, and closes it where it proves not to keep its word.
async fn keep(bucket: GatedBucket) {
    let mut pause = PAUSES.0;
    loop {
        pause = match open(&bucket.0).await {
            Ok(store) => {
                bucket.set(Access::Open(store.clone()));
                let why = lost(&store, &bucket.0.purpose.name()).await;
                bucket.set(Access::Closed(in_words(&why)));
                PAUSES.0
            }
            Err(error) => {
                bucket.set(Access::Closed(in_words(&error)));
                (pause * 2).min(PAUSES.1)
            }
        };
        tokio::time::sleep(pause).await;
    }
}

async fn open(bucket: &Inner) -> Result<S3Store, Error> {
    let store = S3Store::open(&bucket.settings).await?;
    store.check().await?;
    store.prove().await?;
    bucket.purpose.admit(&store).await?;
    Ok(store)
}

/// Puts the bucket to the test again and again, until it shows that it no longer keeps its word. That it can't be reached
/// proves nothing.
async fn lost(store: &S3Store, what: &str) -> Error {
    loop {
        // Up to a quarter more or less, so that the nodes of a cluster don't all do it at once.
        tokio::time::sleep(PROVE_EVERY * 3 / 4 + PROVE_EVERY / 2 * chance::below(1024) / 1024).await;
        match store.prove().await {
            Err(error) if matches!(&error, Error::Unavailable { cause, .. } if cause == "UnsafeStore") => return error,
            Err(error) => tracing::warn!(%error, "the bucket of {what} could not be put to the test"),
            Ok(_) => {}
        }
    }
}

/// An error with all that is known of it.
pub(crate) fn in_words(error: &Error) -> String {
    match error {
        Error::Unavailable { cause, detail } => format!("{cause}: {detail}"),
        other => other.to_string(),
    }
}

/// A store in the bucket, while that may be used.
#[derive(Debug)]
struct GatedStore {
    bucket: GatedBucket,
    root: String,
    namespaces: Vec<Namespace>,
    open: OnceLock<Arc<dyn StorageAdapter>>,
}

impl GatedStore {
    fn inner(&self) -> Result<&Arc<dyn StorageAdapter>, Error> {
        let store = self.bucket.store()?;
        Ok(self.open.get_or_init(|| {
            let store = Arc::new(store.adapter(&self.root).with_compression(self.bucket.0.compression));
            let store = self.bucket.0.observing.over(store);
            self.namespaces.iter().fold(store, |store, name| store.with_namespace(name))
        }))
    }
}

#[async_trait]
impl StorageAdapter for GatedStore {
    async fn get(&self, key: &Key) -> Result<Option<Entry>, Error> {
        self.inner()?.get(key).await
    }

    async fn put(&self, key: &Key, value: Value, condition: &Condition) -> WriteResult<Version> {
        self.inner()?.put(key, value, condition).await
    }

    async fn remove(&self, key: &Key, condition: &Condition) -> WriteResult<bool> {
        self.inner()?.remove(key, condition).await
    }

    async fn list(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Page, Error> {
        self.inner()?.list(prefix, after, limit).await
    }

    async fn perform_once(&self, key: &Key, operation: Operation, id: &OperationId) -> WriteResult<Done> {
        self.inner()?.perform_once(key, operation, id).await
    }

    async fn perform(&self, key: &Key, requests: Requests) -> Vec<WriteResult<Done>> {
        match self.inner() {
            Ok(store) => store.perform(key, requests).await,
            Err(error) => vec![Err(error); requests.len()],
        }
    }

    fn with_namespace(&self, namespace: &Namespace) -> Arc<dyn StorageAdapter> {
        let namespaces = [self.namespaces.as_slice(), std::slice::from_ref(namespace)].concat();
        Arc::new(Self { bucket: self.bucket.clone(), root: self.root.clone(), namespaces, open: OnceLock::new() })
    }

    async fn get_batch(&self, keys: &[Key]) -> Vec<Result<Option<Entry>, Error>> {
        match self.inner() {
            Ok(store) => store.get_batch(keys).await,
            Err(error) => vec![Err(error); keys.len()],
        }
    }

    async fn put_batch(&self, items: Vec<(Key, Value, Condition)>) -> Vec<WriteResult<Version>> {
        match self.inner() {
            Ok(store) => store.put_batch(items).await,
            Err(error) => vec![Err(error); items.len()],
        }
    }
}
