//! A tier that tests can hold up, cut off, fill, count, and take away from a process that dies.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use brainy_storage::{
    Condition, Done, Entry, Error, Key, Namespace, Operation, OperationId, Outcome, Page, StorageAdapter, Unknown,
    Value, Version, WriteResult,
};
use tokio::sync::{Semaphore, watch};

/// What happens to a tier, of all its namespaces.
#[derive(Debug)]
pub(crate) struct Fate {
    /// The process that uses it has died: nothing more is done for it, or answered.
    pub(crate) dead: watch::Sender<bool>,
    /// Everything fails cleanly.
    pub(crate) away: AtomicBool,
    /// Values are refused, removals are not.
    pub(crate) full: AtomicBool,
    /// Puts are answered as if they had taken effect, and have not.
    pub(crate) lies: AtomicBool,
    /// Puts lose their answers.
    pub(crate) mute: AtomicBool,
    /// Puts of this key are refused.
    pub(crate) refuses: Mutex<Option<Key>>,
    /// Writes are lost on their way, and nobody is told.
    pub(crate) drops: AtomicBool,
    pub(crate) hold_reads: AtomicBool,
    pub(crate) hold_writes: AtomicBool,
    /// One for each that is held up.
    pub(crate) held: Semaphore,
    pub(crate) go_on: Semaphore,
    pub(crate) reads: AtomicU32,
    /// Conditions of the puts, in the order in which they were asked for.
    pub(crate) puts: Mutex<Vec<Condition>>,
}

impl Default for Fate {
    fn default() -> Self {
        Self {
            dead: watch::Sender::new(false),
            away: AtomicBool::default(),
            full: AtomicBool::default(),
            lies: AtomicBool::default(),
            mute: AtomicBool::default(),
            refuses: Mutex::default(),
            drops: AtomicBool::default(),
            hold_reads: AtomicBool::default(),
            hold_writes: AtomicBool::default(),
            held: Semaphore::new(0),
            go_on: Semaphore::new(0),
            reads: AtomicU32::default(),
            puts: Mutex::default(),
        }
    }
}

impl Fate {
    pub(crate) fn set(flag: &AtomicBool, on: bool) {
        flag.store(on, Ordering::SeqCst);
    }

    /// Waits until one is held up.
    pub(crate) async fn held(&self) {
        self.held.acquire().await.unwrap().forget();
    }

    /// Lets one go on, and holds up none any more.
    pub(crate) fn release(&self) {
        Self::set(&self.hold_reads, false);
        Self::set(&self.hold_writes, false);
        self.go_on.add_permits(1);
    }

    async fn hold(&self, hold: &AtomicBool) {
        if hold.load(Ordering::SeqCst) {
            self.held.add_permits(1);
            self.go_on.acquire().await.unwrap().forget();
        }
    }

    fn check(&self) -> Result<(), Error> {
        match self.away.load(Ordering::SeqCst) {
            true => Err(Error::unavailable("Unreachable", "it is away")),
            false => Ok(()),
        }
    }

    fn check_room(&self) -> Result<(), Error> {
        self.check()?;
        match self.full.load(Ordering::SeqCst) {
            true => Err(Error::unavailable("DiskFull", "it is full")),
            false => Ok(()),
        }
    }

    /// Does something, unless the process dies before it has ended: then it may have happened, and nobody hears of it.
    async fn alive<T>(&self, act: impl Future<Output = T>) -> T {
        let mut dead = self.dead.subscribe();
        let died = async {
            let _dead = dead.wait_for(|dead| *dead).await;
        };
        tokio::select! {
            biased;
            () = died => std::future::pending().await,
            done = act => done,
        }
    }
}

/// A store in the hands of fate.
#[derive(Clone, Debug)]
pub(crate) struct Tier {
    pub(crate) inner: Arc<dyn StorageAdapter>,
    pub(crate) fate: Arc<Fate>,
}

impl Tier {
    pub(crate) fn over(inner: &Arc<dyn StorageAdapter>) -> Self {
        Self { inner: Arc::clone(inner), fate: Arc::default() }
    }

    pub(crate) fn open(&self) -> Arc<dyn StorageAdapter> {
        Arc::new(self.clone())
    }
}

#[async_trait]
impl StorageAdapter for Tier {
    async fn get(&self, key: &Key) -> Result<Option<Entry>, Error> {
        self.fate.reads.fetch_add(1, Ordering::SeqCst);
        self.fate
            .alive(async {
                tokio::task::yield_now().await;
                self.fate.check()?;
                let found = self.inner.get(key).await;
                self.fate.hold(&self.fate.hold_reads).await;
                tokio::task::yield_now().await;
                found
            })
            .await
    }

    async fn put(&self, key: &Key, value: Value, condition: &Condition) -> WriteResult<Version> {
        self.fate.puts.lock().unwrap().push(condition.clone());
        self.fate
            .alive(async {
                tokio::task::yield_now().await;
                self.fate.check_room()?;
                if self.fate.refuses.lock().unwrap().as_ref() == Some(key) {
                    return Err(Error::unavailable("Refused", "it takes anything but this"));
                }
                self.fate.hold(&self.fate.hold_writes).await;
                if self.fate.lies.load(Ordering::SeqCst) {
                    return Ok(Outcome::Applied(Version { revision: 1, tag: "lie".into() }));
                }
                let unknown = || Ok(Outcome::Unknown(Unknown("it was lost".into())));
                if self.fate.drops.load(Ordering::SeqCst) {
                    return unknown();
                }
                let outcome = self.inner.put(key, value, condition).await;
                tokio::task::yield_now().await;
                if self.fate.mute.load(Ordering::SeqCst) && matches!(outcome, Ok(Outcome::Applied(_))) {
                    unknown()
                } else {
                    outcome
                }
            })
            .await
    }

    async fn remove(&self, key: &Key, condition: &Condition) -> WriteResult<bool> {
        self.fate
            .alive(async {
                tokio::task::yield_now().await;
                self.fate.check()?;
                if self.fate.drops.load(Ordering::SeqCst) {
                    return Ok(Outcome::Unknown(Unknown("it was lost".into())));
                }
                let outcome = self.inner.remove(key, condition).await;
                tokio::task::yield_now().await;
                outcome
            })
            .await
    }

    async fn perform_once(&self, key: &Key, operation: Operation, id: &OperationId) -> WriteResult<Done> {
        self.inner.perform_once(key, operation, id).await
    }

    async fn list(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Page, Error> {
        self.fate
            .alive(async {
                tokio::task::yield_now().await;
                self.fate.check()?;
                self.inner.list(prefix, after, limit).await
            })
            .await
    }

    fn with_namespace(&self, namespace: &Namespace) -> Arc<dyn StorageAdapter> {
        Arc::new(Self { inner: self.inner.with_namespace(namespace), fate: Arc::clone(&self.fate) })
    }
}
