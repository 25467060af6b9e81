//! Strategy Namespaced: each tenure of a shard writes below its node's namespace, to a folder of its own, and is served at
//! once over the folders of those before it. Behind that they are copied and cleared away: what comes next says
//! [`chore`](origins::chore), and the shard's lease keeps account of it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use brainy_coordination::lease::ShardLease;
use brainy_coordination::origins::{self, Chore, Origin, Upkeep};
use brainy_coordination::{NodeId, ShardId, names};
use brainy_storage::Error;
use brainy_storage::backends::objects::{Bucket, BucketStore, ReadThrough};
use brainy_storage::layers::compression::Compression;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::Instant;

use super::in_words;
use super::layout::{Behind, Layout, Opened};
use crate::host;

/// Objects that a node copies at once.
const COPIES: usize = 8;
/// Shards that a node copies or clears away at once.
pub(super) const SHARDS_AT_ONCE: usize = 4;
/// Pauses before a chore is tried again: doubled from the first to the last.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// No store takes a signed request that arrives more than 15 minutes late.
pub(super) const LATEST: Duration = Duration::from_secs(20 * 60);

/// The namespaces of all nodes in a bucket, as one node sees them.
pub(super) struct Namespaces<B> {
    store: BucketStore<B>,
    node: NodeId,
    compression: Option<Compression>,
    latest: Duration,
    copies: Arc<Semaphore>,
}

impl<B: Bucket> Namespaces<B> {
    pub(super) fn new(
        store: BucketStore<B>,
        node: &NodeId,
        compression: Option<Compression>,
        latest: Duration,
    ) -> Self {
        Self { store, node: node.clone(), compression, latest, copies: Arc::new(Semaphore::new(COPIES)) }
    }
}

fn folder(shard: ShardId, origin: &Origin) -> String {
    names::tenure_data(&origin.node, shard, origin.token)
}

#[async_trait]
impl<B: Bucket> Layout for Namespaces<B> {
    fn lease_name(&self, shard: ShardId) -> String {
        names::shard_lease(shard)
    }

    fn next(&self, before: Option<&ShardLease>, next: ShardLease) -> ShardLease {
        origins::carry_on(before, next)
    }

    /// Looks into each namespace: only the lease knows in which of them a shard has data.
    async fn stray(&self, shard: ShardId) -> Result<Option<String>, Error> {
        let mut after = String::new();
        while let Some(name) = self.store.first(names::NAMESPACES, &after).await? {
            let namespace = name.split('/').next().unwrap_or(&name);
            let node = namespace.strip_prefix(names::NAMESPACES).unwrap_or_default();
            let found = self.store.first(&names::shard_namespace(node, shard), "").await?;
            if found.is_some() {
                return Ok(found);
            }
            // Behind all that begins with `<namespace>/`: a `0` follows a slash.
            after = format!("{namespace}0");
        }
        Ok(None)
    }

    fn open(&self, lease: &ShardLease) -> Result<Opened, Error> {
        let own = Origin { node: self.node.clone(), token: lease.token };
        let origins: Vec<String> = lease.origins.iter().map(|origin| folder(lease.shard, origin)).collect();
        let own = folder(lease.shard, &own);
        let data = ReadThrough::new(&self.store, &own, &origins, names::LONGEST_TENURE_DATA);
        let storage = Arc::new(data.adapter().with_compression(self.compression));
        let is_alone = lease.origins.is_empty() && lease.surplus.is_empty();
        let (store, shard, copies) = (self.store.clone(), lease.shard, Arc::clone(&self.copies));
        let behind = || Arc::new(Folders { store, data, shard, copies, latest: self.latest });
        Ok(Opened { storage, behind: (!is_alone).then(|| behind() as _) })
    }
}

/// The folders that a shard is read through to.
struct Folders<B> {
    store: BucketStore<B>,
    data: ReadThrough<B>,
    shard: ShardId,
    copies: Arc<Semaphore>,
    latest: Duration,
}

#[async_trait]
impl<B: Bucket> Behind for Folders<B> {
    async fn copy(&self, origin: &Origin) -> Result<(), Error> {
        self.data.copy(&folder(self.shard, origin), &self.copies).await
    }

    fn forget(&self, origin: &Origin) {
        self.data.forget(&folder(self.shard, origin));
    }

    async fn clear(&self, origin: &Origin) -> Result<(), Error> {
        self.store.delete_prefix(&folder(self.shard, origin)).await.map(drop)
    }

    fn copied(&self) -> u64 {
        self.data.copied()
    }

    fn latest(&self) -> Duration {
        self.latest
    }
}

/// Does what there is to do behind one shard that is served, until it is dropped.
pub(super) struct Keeper {
    progress: Arc<Progress>,
    task: tokio::task::AbortHandle,
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// How far that has come.
pub(super) struct Progress {
    behind: Arc<dyn Behind>,
    /// As written last.
    lease: watch::Sender<ShardLease>,
    done: Mutex<Upkeep>,
}

impl std::fmt::Debug for Progress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Progress").field("done", &self.done).finish_non_exhaustive()
    }
}

impl Keeper {
    /// Begins. `turns` are for how many shards of the node there is something done at once; `tell` hears of each chore that
    /// is done, so that the lease can say so.
    pub(super) fn start(
        behind: Arc<dyn Behind>,
        lease: ShardLease,
        turns: Arc<Semaphore>,
        tell: mpsc::UnboundedSender<ShardId>,
    ) -> Self {
        let progress = Arc::new(Progress { behind, lease: watch::Sender::new(lease), done: Mutex::default() });
        let task = host::spawn(keep(Arc::clone(&progress), turns, tell));
        Self { progress, task: task.abort_handle() }
    }

    pub(super) fn progress(&self) -> &Arc<Progress> {
        &self.progress
    }

    /// What is to be written as the lease, if it does not say yet what was done.
    pub(super) fn settle(&self) -> Option<ShardLease> {
        origins::settle(&self.progress.lease.borrow(), &self.progress.done())
    }

    /// The lease was written, or read.
    pub(super) fn learn(&self, lease: &ShardLease) {
        for origin in self.progress.origins().iter().filter(|origin| !lease.origins.contains(origin)) {
            self.progress.behind.forget(origin);
        }
        self.progress.lease.send_replace(lease.clone());
    }
}

impl Progress {
    fn done(&self) -> std::sync::MutexGuard<'_, Upkeep> {
        // A panic while it was held left whole sets behind.
        self.done.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The tenures whose data is read through to, newest first.
    pub(super) fn origins(&self) -> Vec<Origin> {
        self.lease.borrow().origins.clone()
    }

    /// The tenures whose data is copied and not cleared away yet.
    pub(super) fn surplus(&self) -> Vec<Origin> {
        self.lease.borrow().surplus.clone()
    }

    /// How many objects this tenure has copied.
    pub(super) fn copied(&self) -> u64 {
        self.behind.copied()
    }

    async fn does(&self, chore: &Chore) -> Result<(), Error> {
        match chore {
            Chore::Copy(origin) => {
                self.behind.copy(origin).await?;
                self.done().copied.insert(origin.clone());
            }
            Chore::Sweep(origin) => {
                self.behind.clear(origin).await?;
                self.done().swept.insert(origin.clone());
            }
            Chore::SweepAgain(origin) => {
                self.behind.clear(origin).await?;
                self.done().cleared.insert(origin.clone());
            }
            Chore::Rest => {}
        }
        Ok(())
    }
}

async fn keep(progress: Arc<Progress>, turns: Arc<Semaphore>, tell: mpsc::UnboundedSender<ShardId>) {
    let mut leases = progress.lease.subscribe();
    let mut pause = PAUSES.0;
    let mut swept_last = Instant::now();
    loop {
        let lease = leases.borrow_and_update().clone();
        let chore = origins::chore(&lease, &progress.done());
        let is_due = async {
            match &chore {
                Chore::Rest => std::future::pending().await,
                Chore::SweepAgain(_) => tokio::time::sleep_until(swept_last + progress.behind.latest()).await,
                Chore::Copy(_) | Chore::Sweep(_) => {}
            }
        };
        tokio::select! {
            biased;
            () = is_due => {}
            changed = leases.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return,
            }
        }
        // Nobody closes it.
        let turn = turns.acquire().await;
        let done = progress.does(&chore).await;
        drop(turn);
        match done {
            Ok(()) => {
                if matches!(chore, Chore::Sweep(_)) {
                    swept_last = Instant::now();
                }
                pause = PAUSES.0;
                tracing::debug!(shard = %lease.shard, ?chore, "done");
                if tell.send(lease.shard).is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::warn!(shard = %lease.shard, ?chore, why = in_words(&error), "tried again later");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSES.1);
            }
        }
    }
}
