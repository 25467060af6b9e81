//! A store that takes its time and loses messages, as stores behind a network do.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use brainy_storage::{
    Condition, Done, Entry, Error, Key, Namespace, Operation, OperationId, Outcome, Page, StorageAdapter, Unknown,
    Value, Version, WriteResult,
};

/// How a write comes to be unknown.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Loss {
    /// It never arrives.
    Request,
    /// It takes effect, and nobody is told.
    Answer,
    /// It takes effect some time after its client has given up.
    Late(u8),
}

/// What happens to requests, one after the other, and again from the start.
#[derive(Clone, Debug)]
pub(crate) struct Weather {
    /// Before and after each request: how often others have their turn.
    pub(crate) pauses: Vec<u8>,
    /// What becomes of each write.
    pub(crate) losses: Vec<Option<Loss>>,
    /// How long after each request to a bucket it arrives once more, if it does.
    pub(crate) echoes: Vec<Option<u8>>,
}

/// The way to a store, in some weather.
#[derive(Debug)]
pub(crate) struct Road {
    weather: Weather,
    pauses: AtomicUsize,
    writes: AtomicUsize,
}

/// Any adapter at the end of such a road.
#[derive(Debug)]
pub(crate) struct Rough {
    inner: Arc<dyn StorageAdapter>,
    road: Road,
}

/// Lets others have their turn. No clock is involved: in one thread, a run is the same each time.
pub(crate) async fn pause(turns: u8) {
    for _ in 0..turns {
        tokio::task::yield_now().await;
    }
}

fn lost<T>() -> WriteResult<T> {
    Ok(Outcome::Unknown(Unknown("the weather".to_owned())))
}

impl Road {
    pub(crate) fn new(weather: Weather) -> Self {
        Self { weather, pauses: AtomicUsize::new(0), writes: AtomicUsize::new(0) }
    }

    async fn pause(&self) {
        let count = self.pauses.fetch_add(1, Ordering::SeqCst);
        pause(self.weather.pauses[count % self.weather.pauses.len()]).await;
    }

    pub(crate) async fn read<T>(&self, read: impl Future<Output = T>) -> T {
        self.pause().await;
        let found = read.await;
        self.pause().await;
        found
    }

    pub(crate) async fn write<T: Send + 'static>(&self, write: impl Future<Output = T> + Send + 'static, lost: T) -> T {
        let count = self.writes.fetch_add(1, Ordering::SeqCst);
        self.pause().await;
        let answer = match self.weather.losses[count % self.weather.losses.len()] {
            None => write.await,
            Some(Loss::Request) => lost,
            Some(Loss::Answer) => {
                write.await;
                lost
            }
            Some(Loss::Late(turns)) => {
                tokio::spawn(async move {
                    pause(turns).await;
                    write.await
                });
                lost
            }
        };
        self.pause().await;
        answer
    }

    /// How long after the write that comes next it arrives once more.
    pub(crate) fn echo(&self) -> Option<u8> {
        let echoes = &self.weather.echoes;
        echoes[self.writes.load(Ordering::SeqCst) % echoes.len()]
    }
}

impl Rough {
    pub(crate) fn over(inner: Arc<dyn StorageAdapter>, weather: Weather) -> Arc<dyn StorageAdapter> {
        Arc::new(Self { inner, road: Road::new(weather) })
    }
}

#[async_trait]
impl StorageAdapter for Rough {
    async fn get(&self, key: &Key) -> Result<Option<Entry>, Error> {
        self.road.read(self.inner.get(key)).await
    }

    async fn put(&self, key: &Key, value: Value, condition: &Condition) -> WriteResult<Version> {
        let (inner, key, condition) = (Arc::clone(&self.inner), key.clone(), condition.clone());
        self.road.write(async move { inner.put(&key, value, &condition).await }, lost()).await
    }

    async fn remove(&self, key: &Key, condition: &Condition) -> WriteResult<bool> {
        let (inner, key, condition) = (Arc::clone(&self.inner), key.clone(), condition.clone());
        self.road.write(async move { inner.remove(&key, &condition).await }, lost()).await
    }

    async fn perform_once(&self, key: &Key, operation: Operation, id: &OperationId) -> WriteResult<Done> {
        let (inner, key, id) = (Arc::clone(&self.inner), key.clone(), id.clone());
        self.road.write(async move { inner.perform_once(&key, operation, &id).await }, lost()).await
    }

    async fn list(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Page, Error> {
        self.road.read(self.inner.list(prefix, after, limit)).await
    }

    fn with_namespace(&self, namespace: &Namespace) -> Arc<dyn StorageAdapter> {
        Self::over(self.inner.with_namespace(namespace), self.road.weather.clone())
    }

    async fn get_batch(&self, keys: &[Key]) -> Vec<Result<Option<Entry>, Error>> {
        self.road.read(self.inner.get_batch(keys)).await
    }

    async fn put_batch(&self, items: Vec<(Key, Value, Condition)>) -> Vec<WriteResult<Version>> {
        let (inner, lost) = (Arc::clone(&self.inner), items.iter().map(|_| lost()).collect());
        self.road.write(async move { inner.put_batch(items).await }, lost).await
    }
}
