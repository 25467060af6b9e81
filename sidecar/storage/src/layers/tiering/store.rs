//! One store over its two tiers: all that its namespaces share, and the task that works for it in the background.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;
use xxhash_rust::xxh3::xxh3_64;

use super::access::Access;
use super::demotion::{self, Progress};
use super::pending::{Pending, Unwritten};
use super::record::Record;
use super::revisions::Revisions;
use super::spaces::{Gone, Space, Spaces};
use super::{Shared, flush, tally};
use crate::layers::batching::Claim;
use crate::layers::behind::{Background, disowned};
use crate::layers::gates::{Gates, Place};
use crate::{Error, Key, Namespace, StorageAdapter};

/// Namespaces of the hot store: the records of users, and what this layer keeps for itself.
const DATA: &str = "d";
const META: &str = "m";
/// Counters that the writes of keys are spread over.
const STRIPES: usize = 256;
/// Keys of one page.
pub(super) const PAGE: usize = 500;
/// Pause before the hot tier is read again that could not be.
const RETRY: Duration = Duration::from_secs(1);
/// Time after which reads that were noted are written down.
const SAVE_EVERY: Duration = Duration::from_secs(60);

/// One store.
#[derive(Debug)]
pub(super) struct Store {
    pub(super) shared: Arc<Shared>,
    claim: Arc<dyn Claim>,
    /// Longest path of a key in the cold tier.
    pub(super) longest_path: usize,
    pub(super) meta: Arc<dyn StorageAdapter>,
    pub(super) hot: Arc<dyn StorageAdapter>,
    pub(super) spaces: Spaces,
    pub(super) gates: Gates,
    pub(super) revisions: Revisions,
    pub(super) pending: Pending,
    pub(super) access: Access,
    generations: Box<[AtomicU64]>,
    /// All records of the hot tier were looked at once since it was opened.
    scanned: watch::Sender<bool>,
    pub(super) tally: tally::Tally,
    pub(super) background: Arc<Background>,
    pub(super) runs: watch::Sender<demotion::Orders>,
    /// How many of the runs that were asked for have ended.
    pub(super) ordered: AtomicU64,
    pub(super) progress: Mutex<Progress>,
}

/// While there is one of these, there is work to do in the background.
#[derive(Debug)]
pub(super) struct InUse(pub(super) Arc<Store>);

impl Drop for InUse {
    fn drop(&mut self) {
        self.0.background.end();
    }
}

/// A write of some keys that has begun and not ended.
#[derive(Debug)]
pub(super) struct Writing<'a> {
    store: &'a Store,
    hashes: Vec<u64>,
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        self.store.raise(&self.hashes);
    }
}

impl Store {
    pub(super) fn open(
        shared: Arc<Shared>,
        (hot, cold, longest_path): (Arc<dyn StorageAdapter>, Arc<dyn StorageAdapter>, usize),
        claim: Arc<dyn Claim>,
    ) -> InUse {
        let data = hot.with_namespace(&Namespace::of_ours(DATA));
        let meta = hot.with_namespace(&Namespace::of_ours(META));
        let store = Arc::new(Self {
            claim,
            longest_path,
            spaces: Spaces::new(data, cold, Arc::clone(&meta)),
            gates: Gates::default(),
            revisions: Revisions::new(Arc::clone(&meta)),
            pending: Pending::new(Arc::clone(&shared.journal)),
            access: Access::new(Arc::clone(&shared.reads), shared.grain()),
            generations: (0..STRIPES).map(|_| AtomicU64::new(0)).collect(),
            scanned: watch::Sender::new(false),
            tally: tally::Tally::default(),
            background: Arc::default(),
            runs: watch::Sender::default(),
            ordered: AtomicU64::new(0),
            progress: Mutex::default(),
            shared,
            meta,
            hot,
        });
        store.shared.stores.add(&store);
        tokio::spawn(attend(Arc::clone(&store)));
        InUse(store)
    }

    pub(super) fn now(&self) -> u64 {
        self.shared.now()
    }

    /// Whether anything may be written to either tier.
    pub(super) fn may_write(&self) -> bool {
        self.claim.holds()
    }

    /// Whether all that is in the hot tier is known: until then it has to be looked at.
    pub(super) fn is_scanned(&self) -> bool {
        *self.scanned.borrow()
    }

    /// Waits until it is.
    pub(super) async fn scanned(&self) {
        // It lasts as long as its store.
        let mut scanned = self.scanned.subscribe();
        let _known = scanned.wait_for(|scanned| *scanned).await;
    }

    /// A number that changes with each beginning and each end of a write of the key.
    pub(super) fn generation(&self, hash: u64) -> u64 {
        self.generations[hash as usize % STRIPES].load(Ordering::SeqCst)
    }

    fn raise(&self, hashes: &[u64]) {
        for hash in hashes {
            self.generations[*hash as usize % STRIPES].fetch_add(1, Ordering::SeqCst);
        }
    }

    /// A write of these keys begins.
    pub(super) fn begin(&self, hashes: Vec<u64>) -> Writing<'_> {
        self.raise(&hashes);
        Writing { store: self, hashes }
    }

    /// What the record says is to be done, and how a listing is to take it.
    pub(super) fn note_unwritten(&self, place: &Place, space: &Arc<Space>, record: &Record, may_be_sent: bool) {
        let unwritten = Unwritten {
            revision: record.sealed.revision(),
            at: record.written_at,
            bytes: record.sealed.bytes.len() as u64,
            may_be_sent,
        };
        self.pending.note(place, space, unwritten);
    }

    /// Looks at every record of the hot tier, for what an earlier opening has left to do.
    async fn scan(&self) -> Result<(), Error> {
        self.spaces.load().await?;
        tally::load(self).await?;
        self.access.load(&*self.meta).await?;
        let mut counted = tally::Counted::default();
        for space in self.spaces.all() {
            let mut after: Option<Key> = None;
            loop {
                let page = space.hot.list("", after.as_ref(), PAGE).await?;
                for (key, entry) in page.keys.iter().zip(space.hot.get_batch(&page.keys).await) {
                    match entry.and_then(|entry| read(key, entry)) {
                        Ok(Some((record, bytes))) => {
                            counted.add(bytes);
                            self.found(&space, key, &record).await;
                        }
                        Ok(None) => {}
                        // It is answered as such to who asks for it; the others are none the worse for it.
                        Err(Error::Corrupt { .. }) => space.note(key, Some(Gone::Unsure)),
                        Err(error) => return Err(error),
                    }
                }
                match page.keys.last() {
                    Some(last) if page.more => after = Some(last.clone()),
                    _ => break,
                }
            }
        }
        self.tally.set_hot(&counted);
        self.scanned.send_replace(true);
        Ok(())
    }

    async fn found(&self, space: &Arc<Space>, key: &Key, record: &Record) {
        if !record.is_unwritten() {
            return;
        }
        let place = (Arc::clone(&space.folder), key.clone());
        if record.sealed.is_removal() {
            // Only who is alone with the key can say that it is still so.
            let _alone = self.gates.alone(vec![place.clone()]).await;
            let now = space.hot.get(key).await.and_then(|entry| read(key, entry));
            let gone = match &now {
                Ok(Some((now, _))) if now.sealed.is_removal() => Some(Gone::Removed(now.sealed.revision())),
                Ok(_) => None,
                Err(_) => Some(Gone::Unsure),
            };
            space.note(key, gone);
        }
        self.note_unwritten(&place, space, record, true);
    }

    pub(super) fn progress(&self) -> std::sync::MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes down the reads, and how much there is.
    pub(super) async fn save(&self) -> Result<(), Error> {
        self.access.save(&*self.meta).await?;
        tally::save(self).await
    }
}

/// The record in what the hot store has, and how many bytes that takes.
pub(super) fn read(key: &Key, entry: Option<crate::Entry>) -> Result<Option<(Record, u64)>, Error> {
    let Some(entry) = entry else { return Ok(None) };
    let bytes = super::size(&entry.value);
    Ok(Some((Record::from_value(key, entry.value)?, bytes)))
}

/// Of a key among all of a store.
pub(super) fn hash(folder: &str, key: &Key) -> u64 {
    xxh3_64([folder, key.as_str()].concat().as_bytes())
}

/// Works in the background as long as the store is in use and its own.
async fn attend(store: Arc<Store>) {
    store.background.attend(|| Box::pin(work(&store)), || store.pending.land_all()).await;
}

/// Returns when the store is its own no more.
async fn work(store: &Arc<Store>) {
    let know = async {
        while !store.is_scanned() {
            if let Err(error) = store.scan().await {
                tracing::warn!(%error, "the hot tier can't be read; what is not in the cold one is looked for again");
                sleep(RETRY).await;
            }
        }
        loop {
            sleep(SAVE_EVERY).await;
            if let Err(error) = store.save().await {
                tracing::debug!(%error, "when keys were read last can't be written down");
            }
        }
    };
    tokio::select! {
        biased;
        () = disowned(&*store.claim) => {}
        () = know => {}
        () = flush::attend(store) => {}
        () = demotion::attend(store) => {}
    }
}

/// How much is in the tiers, about: what happens while it is counted may be counted twice.
#[derive(Debug, Default)]
pub(super) struct Amount {
    keys: AtomicI64,
    bytes: AtomicI64,
}

impl Amount {
    pub(super) fn add(&self, keys: i64, bytes: i64) {
        self.keys.fetch_add(keys, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn set(&self, keys: u64, bytes: u64) {
        let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        self.keys.store(number(keys), Ordering::Relaxed);
        self.bytes.store(number(bytes), Ordering::Relaxed);
    }

    /// Keys and bytes.
    pub(super) fn get(&self) -> (u64, u64) {
        let number = |n: &AtomicI64| u64::try_from(n.load(Ordering::Relaxed)).unwrap_or(0);
        (number(&self.keys), number(&self.bytes))
    }
}
