//! One store in several regions: all that its namespaces share, and the task that works for it in the background.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use futures::stream::{FuturesUnordered, StreamExt};
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::{Instant, sleep, timeout_at};

use super::asked::{self, Done};
use super::home::Home;
use super::memory::Recent;
use super::pending::{Pending, Unsent};
use super::record::Record;
use super::region::{Found, Missed, Region, Space, Spaces};
use super::stamp::to_millis;
use super::work::{Work, Works};
use super::{Distances, Place, Progress, Shared, Wish, WriteConcern, compare, flush, measuring, rounds};
use crate::envelope::new_nonce;
use crate::layers::batching::Claim;
use crate::layers::behind::{Background, disowned};
use crate::layers::gates::{self, Gates};
use crate::{Condition, Error, Key};

/// Up to which time each other region has all that this one has written.
const JOURNAL: &str = "journal";
/// Pause before a region is read again that could not be.
const RETRY: Duration = Duration::from_secs(1);
/// Time after which it is written down what the others have.
const SAVE_EVERY: Duration = Duration::from_secs(5);
/// Longest wait for room, for other regions, or for a region to be filled: less than a request may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// Up to which time each region has all, by its name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
struct Delivered(BTreeMap<String, u64>);

/// One store.
#[derive(Debug)]
pub(super) struct Store {
    pub(super) shared: Arc<Shared>,
    claim: Arc<dyn Claim>,
    pub(super) longest_path: usize,
    pub(super) regions: Vec<Region>,
    pub(super) recent: Recent,
    /// The own one, to which this process alone writes what it acknowledges.
    pub(super) here: usize,
    /// Where keys are decided until that is moved.
    pub(super) first_home: usize,
    /// It is to be moved there, if this is new.
    pub(super) wish: Option<Wish>,
    pub(super) spaces: Spaces,
    pub(super) gates: Gates,
    pub(super) works: Works,
    /// Of each region what it lacks.
    pub(super) pending: Vec<Pending>,
    pub(super) retired: Vec<AtomicBool>,
    distances: Mutex<Distances>,
    pub(super) home: Mutex<Option<Home>>,
    /// Of this process, among all that open the region.
    pub(super) mark: String,
    is_ready: tokio::sync::Mutex<bool>,
    saved: Mutex<Delivered>,
    /// All that an earlier process has left to send was looked for.
    scanned: watch::Sender<bool>,
    /// A region was filled.
    pub(super) filled: Notify,
    pub(super) background: Arc<Background>,
    /// Held by whoever fills, compares or leaves regions.
    pub(super) runs: tokio::sync::Mutex<()>,
    pub(super) progress: Mutex<Progress>,
    done: Mutex<Done>,
    /// With how many pieces of work everything was everywhere, and that was written down.
    quiet: Mutex<Option<u64>>,
}

/// While there is one of these, there is work to do in the background.
#[derive(Debug)]
pub(super) struct InUse(pub(super) Arc<Store>);

impl Drop for InUse {
    fn drop(&mut self) {
        self.0.background.end();
    }
}

impl Store {
    pub(super) fn open(shared: Arc<Shared>, place: Place, claim: Arc<dyn Claim>) -> InUse {
        let Place { regions, here, home, longest_path, wish } = place;
        let regions: Vec<Region> =
            regions.iter().map(|(name, store)| Region::new(name, store, &shared.memory)).collect();
        let count = regions.len();
        let done = Done::before(&shared.asks.borrow());
        // The own one first, the others as they were given.
        let order = std::iter::once(here).chain((0..count).filter(|at| *at != here)).collect();
        let store = Arc::new(Self {
            claim,
            longest_path,
            spaces: Spaces::new(&regions),
            regions,
            recent: Recent::new(&shared.memory),
            here,
            first_home: home,
            wish,
            gates: Gates::default(),
            works: Works::default(),
            pending: (0..count).map(|_| Pending::new(Arc::clone(&shared.journal))).collect(),
            retired: (0..count).map(|_| AtomicBool::new(false)).collect(),
            distances: Mutex::new(Distances::new(order)),
            home: Mutex::default(),
            mark: new_nonce(),
            is_ready: tokio::sync::Mutex::default(),
            saved: Mutex::default(),
            scanned: watch::Sender::new(false),
            filled: Notify::new(),
            background: Arc::default(),
            runs: tokio::sync::Mutex::default(),
            progress: Mutex::default(),
            done: Mutex::new(done),
            quiet: Mutex::default(),
            shared,
        });
        store.shared.stores.add(&store);
        tokio::spawn(attend(Arc::clone(&store)));
        InUse(store)
    }

    pub(super) fn now(&self) -> u64 {
        self.shared.now()
    }

    /// Whether anything may be written to any region.
    pub(super) fn check_claim(&self) -> Result<(), Error> {
        match self.claim.holds() {
            true => Ok(()),
            false => Err(Error::unavailable("Released", "this store is another's now; nothing was written")),
        }
    }

    /// A piece of work begins that may stamp a record, or carry one.
    pub(super) fn begin(&self) -> Work<'_> {
        self.works.begin(self.shared.clock.last())
    }

    /// Those that are not retired, in the order of their distance.
    pub(super) fn order(&self) -> Vec<usize> {
        self.distances().order().iter().copied().filter(|at| self.is_active(*at)).collect()
    }

    pub(super) fn distances(&self) -> MutexGuard<'_, Distances> {
        self.distances.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The order in which a key is read, or all keys are: who has written sees it, so that a region that is known to lack a
    /// write of the own one, or may, comes after that.
    pub(super) fn order_for(&self, place: Option<&gates::Place>) -> Vec<usize> {
        let order = self.order();
        let lacks = |at: usize| {
            let lacks = match place {
                Some(place) => self.pending[at].lacks(place),
                None => self.pending[at].lacks_any(),
            };
            at != self.here && (lacks || !self.is_scanned())
        };
        let (behind, whole): (Vec<usize>, Vec<usize>) = order.into_iter().partition(|at| lacks(*at));
        [whole, behind].concat()
    }

    /// What of it is done that was asked.
    pub(super) fn done(&self) -> MutexGuard<'_, Done> {
        self.done.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_active(&self, at: usize) -> bool {
        !self.retired[at].load(Ordering::Acquire)
    }

    /// Those that are not retired.
    pub(super) fn active(&self) -> Vec<usize> {
        (0..self.regions.len()).filter(|at| self.is_active(*at)).collect()
    }

    /// Another order, from outside.
    pub(super) fn set_order(&self, order: Vec<usize>) {
        *self.distances() = Distances::new(order);
    }

    pub(super) fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) async fn find(&self, at: usize, space: &Space, key: &Key) -> Result<Found, Error> {
        self.regions[at].find(at, space, key, &self.shared.clock).await
    }

    /// What stands under a key, in the nearest region that can say it. Those that could not are given what was found.
    pub(super) async fn read(&self, space: &Arc<Space>, key: &Key) -> Result<Option<Record>, Error> {
        let (mut behind, mut failure) = (Vec::new(), None);
        for at in self.order_for(Some(&(Arc::clone(&space.folder), key.clone()))) {
            match self.regions[at].find_surely(at, space, key, &self.shared.clock).await {
                Ok((Some((record, _)), _)) => {
                    self.repair(space, key, &record, at, &behind);
                    return Ok(Some(record));
                }
                Ok((None, true)) => return Ok(None),
                // It may be somewhere else.
                Ok((None, false)) => behind.push(at),
                Err(error) => {
                    behind.push(at);
                    failure = failure.or(Some(error));
                }
            }
        }
        failure.map_or(Ok(None), Err)
    }

    /// Regions that could not answer get what another one has; there it is judged whether it is any later.
    fn repair(&self, space: &Arc<Space>, key: &Key, record: &Record, source: usize, behind: &[usize]) {
        let is_ready = self.is_ready.try_lock().is_ok_and(|is_ready| *is_ready);
        if behind.is_empty() || !is_ready || !self.has_room() {
            return;
        }
        let unsent = Unsent { time: record.time(), at: self.now(), bytes: record.bytes(), source, relay: true };
        for at in behind {
            self.pending[*at].note(&(Arc::clone(&space.folder), key.clone()), space, unsent);
        }
        self.shared.counts.repaired.add(behind.len() as u64);
    }

    fn has_room(&self) -> bool {
        let (keys, bytes) = self.shared.settings.room();
        self.shared.journal.is_below(keys, bytes)
    }

    /// Waits until no more is to be sent than may.
    pub(super) async fn room(&self) -> Result<(), Error> {
        let (keys, bytes) = self.shared.settings.room();
        if self.shared.journal.below(keys, bytes, PATIENCE).await {
            return Ok(());
        }
        let detail = "as much waits to be written to other regions as may, and they take none; nothing was done. A region that \
                      will not come back is to be retired";
        Err(Error::unavailable("Busy", detail))
    }

    /// A record stands in one region, and is to be in all. `wait`: says of each of the others in the end whether it is there.
    pub(super) fn spread(
        &self,
        place: &gates::Place,
        space: &Arc<Space>,
        unsent: Unsent,
        wait: bool,
    ) -> Vec<oneshot::Receiver<bool>> {
        let mut waits = Vec::new();
        for at in self.active().into_iter().filter(|at| *at != unsent.source) {
            match wait {
                true => waits.push(self.pending[at].note_and_wait(place, space, unsent)),
                false => self.pending[at].note(place, space, unsent),
            }
        }
        waits
    }

    /// In how many regions a write is to be before it is acknowledged.
    pub(super) fn concern(&self) -> usize {
        let count = self.active().len();
        match self.shared.settings.write_concern {
            WriteConcern::Local => 1,
            WriteConcern::Majority => count / 2 + 1,
            WriteConcern::All => count,
        }
    }

    /// Waits until the write is in so many of the others. `false`: it was not in time.
    pub(super) async fn reached(&self, waits: Vec<oneshot::Receiver<bool>>, wanted: usize) -> bool {
        let deadline = Instant::now() + PATIENCE;
        let mut waits: FuturesUnordered<_> = waits.into_iter().collect();
        let mut reached = 0;
        while reached < wanted {
            match timeout_at(deadline, waits.next()).await {
                Ok(Some(Ok(true))) => reached += 1,
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => return false,
            }
        }
        true
    }

    /// Up to which time each of the others has all that this region has written.
    fn delivered(&self) -> Delivered {
        // In this order: what is stamped when the clock is read is under way by then, and noted before it has ended.
        let last = self.shared.clock.last();
        let floor = self.works.floor().unwrap_or(u64::MAX);
        let time = |at: &usize| {
            let oldest = self.pending[*at].oldest().map_or(u64::MAX, |oldest| oldest.saturating_sub(1));
            (self.regions[*at].name.to_string(), last.min(floor).min(oldest))
        };
        let others: Vec<usize> = self.active().into_iter().filter(|at| *at != self.here).collect();
        Delivered(others.iter().map(time).collect())
    }

    fn saved(&self) -> MutexGuard<'_, Delivered> {
        self.saved.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes that down.
    pub(super) async fn save(&self) -> Result<(), Error> {
        if !self.is_scanned() {
            return Ok(());
        }
        // Looked at first: what begins from here on is not covered by what is written down.
        let (begun, is_idle) = (self.works.begun(), self.works.floor().is_none());
        let has_all = is_idle && self.pending.iter().all(|pending| !pending.lacks_any());
        if *self.quiet() == Some(begun) {
            return Ok(());
        }
        let mut now = self.delivered();
        {
            // What is known does not become less: only what is sent anew is older.
            let saved = self.saved();
            for (region, time) in &mut now.0 {
                *time = (*time).max(saved.0.get(region).copied().unwrap_or(0));
            }
            if *saved == now {
                return Ok(());
            }
        }
        self.check_claim()?;
        self.regions[self.here].put_doc(JOURNAL, &now, &Condition::Any).await.map_err(Missed::into_error)?;
        *self.saved() = now;
        *self.quiet() = has_all.then_some(begun);
        Ok(())
    }

    /// Where nothing was begun since, there is nothing to write down: a clock that went on alone is no news.
    fn quiet(&self) -> MutexGuard<'_, Option<u64>> {
        self.quiet.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What has to be known before anything is stamped or carried.
    pub(super) async fn ready(&self) -> Result<(), Error> {
        let mut is_ready = self.is_ready.lock().await;
        if *is_ready {
            return Ok(());
        }
        self.check_claim()?;
        let here = &self.regions[self.here];
        let delivered = here.doc::<Delivered>(JOURNAL).await?.map(|(delivered, _)| delivered).unwrap_or_default();
        rounds::register(self).await?;
        for time in delivered.0.values() {
            self.shared.clock.observe(*time);
        }
        *self.saved() = delivered;
        *is_ready = true;
        Ok(())
    }

    /// Whether all is known that an earlier process has left to send.
    pub(super) fn is_scanned(&self) -> bool {
        *self.scanned.borrow()
    }

    /// Looks at every record of the own region, for what an earlier process has left to send.
    async fn scan(&self) -> Result<(), Error> {
        self.ready().await?;
        let others: Vec<usize> = self.active().into_iter().filter(|at| *at != self.here).collect();
        let delivered = self.saved().clone();
        let here = &self.regions[self.here];
        for space in here.load(&self.spaces).await? {
            space.keep(&self.spaces);
            let mut after: Option<Key> = None;
            loop {
                let page = here.page(self.here, &space, after.as_ref(), &self.shared.clock).await?;
                for (key, record, _) in page.records.iter().filter(|(_, record, _)| record.region == here.name) {
                    let place = (Arc::clone(&space.folder), key.clone());
                    let unsent = Unsent {
                        time: record.time(),
                        at: to_millis(record.time()),
                        bytes: record.bytes(),
                        source: self.here,
                        relay: false,
                    };
                    for at in &others {
                        if delivered.0.get(&*self.regions[*at].name).is_none_or(|time| record.time() > *time) {
                            self.pending[*at].note(&place, &space, unsent);
                        }
                    }
                }
                match page.next {
                    Some(next) => after = Some(next),
                    None => break,
                }
            }
        }
        self.scanned.send_replace(true);
        Ok(())
    }
}

/// Works in the background as long as the store is in use and its own.
async fn attend(store: Arc<Store>) {
    let interrupted = || store.pending.iter().for_each(Pending::land_all);
    store.background.attend(|| Box::pin(work(&store)), interrupted).await;
}

/// Returns when the store is its own no more.
async fn work(store: &Arc<Store>) {
    let know = async {
        while !store.is_scanned() {
            if let Err(error) = store.scan().await {
                tracing::warn!(%error, "the own region can't be read; what others lack is looked for again");
                sleep(RETRY).await;
            }
        }
        loop {
            sleep(SAVE_EVERY).await;
            if let Err(error) = store.save().await {
                tracing::debug!(%error, "it can't be written down what other regions have");
            }
        }
    };
    let send = join_all((0..store.regions.len()).map(|at| flush::attend(store, at)));
    tokio::select! {
        biased;
        () = disowned(&*store.claim) => {}
        () = know => {}
        () = measuring::attend(store) => {}
        _ = send => {}
        () = rounds::attend(store) => {}
        () = compare::attend(store) => {}
        () = asked::attend(store) => {}
    }
}
