//! Several stores as one, one in each region: each region has all, reads and plain writes go to the own one, and what needs
//! one opinion is decided in one of them.
//!
//! - A key's record in a region is its value and its journal in one (`record`): one durable write acknowledges it, and what
//!   another region lacks is found again by looking at the records, whatever crashes. It is brought there in the background
//!   (`flush`, `pending`).
//! - Each write has a stamp of a hybrid logical clock (`stamp`). Of two writes of a key the greater one stands, removals
//!   included, in whatever order they come: so all regions become equal (`region`).
//! - compareAndSwap, increment, conditions and operations with an id are decided in one region, the *home*, by conditional
//!   writes of that region's store alone (`home`, `deciding`), which can be moved (`moving`).
//! - Regions are compared now and then by what they hold in short (`compare`, `digest`); one that is new or was emptied is
//!   filled (`filling`); removals are forgotten once every region has them (`sweep`, `rounds`).
//! - Who has many stores asks something of all of them at once (`asked`), and is told of all together (`state`).
//!
//! A region's store must be durable and linearizable, and leave tombstones where requests may come late, as
//! [buckets](crate::backends::objects) do. One process at a time works in each region; late writes of an earlier one are
//! harmless. In a region nobody has to work.

mod adapter;
mod asked;
mod compare;
mod deciding;
mod digest;
mod distance;
mod filling;
mod flush;
mod home;
mod listing;
mod measuring;
mod memory;
mod moving;
mod pending;
mod place;
mod record;
mod region;
mod rounds;
mod stamp;
mod state;
mod store;
mod sweep;
mod work;
mod writing;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

pub use self::distance::Distances;
pub use self::place::{Place, Plan, Wish};
pub use self::state::{Distance, RegionsState, Runs};
pub use super::behind::Clock;

use self::adapter::RegionsAdapter;
use self::asked::Asks;
use self::measuring::Measured;
use self::memory::Memory;
use self::stamp::{HybridClock, to_millis};
use self::store::{InUse, Store};
use super::batching::Claim;
use super::behind::{Counter, Journal, Stores, system_clock};
use crate::{Error, StorageAdapter, WriteResult};

/// How many regions have a write when it is acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum WriteConcern {
    /// One: the own region, or the home if that decides.
    #[default]
    Local,
    /// More than half of them.
    Majority,
    /// All.
    All,
}

/// How it is known which region is how far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Nearness {
    /// As they were given.
    #[default]
    Given,
    /// By how long they take to answer.
    Measured,
}

/// How regions are kept equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Replication {
    /// How many regions have a write when it is acknowledged.
    pub write_concern: WriteConcern,
    /// How it is known which region is how far.
    pub nearness: Nearness,
    /// Most keys of a process that may wait to be brought to a region, counted for each that lacks them; more writes wait.
    pub max_unreplicated_keys: u64,
    /// Most bytes of them.
    pub max_unreplicated_bytes: u64,
    /// Most keys of a store that are on their way to a region at a time.
    pub max_flights: u32,
    /// Time between two comparisons of the regions, in milliseconds.
    pub compare_every_ms: u64,
    /// Removals are kept for so long at least, in milliseconds.
    pub keep_removed_ms: u64,
}

impl Default for Replication {
    /// Acknowledged by one region, in the order given; at most 500,000 keys and 1 GiB wait, and 32 of a store are under way;
    /// compared every six hours, and removals kept for an hour.
    fn default() -> Self {
        Self {
            write_concern: WriteConcern::Local,
            nearness: Nearness::Given,
            max_unreplicated_keys: 500_000,
            max_unreplicated_bytes: 1 << 30,
            max_flights: 32,
            compare_every_ms: 6 * 60 * 60 * 1000,
            keep_removed_ms: 60 * 60 * 1000,
        }
    }
}

impl Replication {
    fn flights(&self) -> usize {
        usize::try_from(self.max_flights).unwrap_or(usize::MAX).max(1)
    }

    /// Fewer keys and bytes than that must wait before another write is taken.
    fn room(&self) -> (u64, u64) {
        (self.max_unreplicated_keys, self.max_unreplicated_bytes)
    }
}

#[derive(Debug, Default)]
struct Counts {
    sent: Counter,
    repaired: Counter,
    swept: Counter,
    failed: Counter,
}

/// What the stores of a process share.
struct Shared {
    settings: Replication,
    wall: Clock,
    clock: HybridClock,
    counts: Counts,
    journal: Arc<Journal>,
    measured: Measured,
    memory: Arc<Memory>,
    asks: watch::Sender<Asks>,
    stores: Stores<Store>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Shared {
    fn now(&self) -> u64 {
        (self.wall)()
    }

    fn ahead_ms(&self) -> u64 {
        to_millis(self.clock.last()).saturating_sub(self.now())
    }
}

/// Gives each store of a process its regions.
pub trait RegionStores: fmt::Debug + Send + Sync + 'static {
    /// The regions.
    fn plan(&self) -> &Plan;

    /// The store with this name in another region than the own one.
    fn store(&self, region: &str, name: &str) -> Arc<dyn StorageAdapter>;

    /// The regions that can't be used at the moment, each with the reason.
    fn problems(&self) -> Vec<(String, String)>;
}

/// What is done that takes longer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Run {
    /// Regions are compared.
    #[default]
    Comparing,
    /// A region is filled.
    Filling,
    /// The home is moved.
    Moving,
    /// A region is left.
    Retiring,
}

/// How far it has come.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    /// What is done, or was done last.
    pub run: Run,
    /// For which region.
    pub region: String,
    /// It has not ended.
    pub running: bool,
    /// Records that were looked at.
    pub examined: u64,
    /// Records that there are, about, where a region is filled and another one has said it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
    /// Records that a region lacked.
    pub copied: u64,
    /// Why it has ended before its time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

/// How far a region is behind this process's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RegionLag {
    /// The region.
    pub region: String,
    /// Keys that it lacks.
    pub keys: u64,
    /// Bytes of them, about.
    pub bytes: u64,
    /// How long the oldest of them waits, in milliseconds: who loses all other regions now loses as much.
    pub oldest_ms: u64,
    /// All of the own region was looked at since this process opened it: nothing else waits.
    pub complete: bool,
    /// Why nothing is written there at the moment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// What has been done for all stores of a process since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RegionCounts {
    /// Writes that were brought to another region.
    pub sent: u64,
    /// Regions that were given what another one had answered in their stead.
    pub repaired: u64,
    /// Removals that were forgotten.
    pub swept: u64,
    /// Writes that could not be brought to a region, each time that was tried.
    pub failed: u64,
}

/// The stores of a process that are in several regions. Clones share limits, clock and counts.
#[derive(Clone, Debug)]
pub struct Regions(Arc<Shared>);

impl Regions {
    /// For the stores of a process.
    pub fn new(settings: Replication) -> Self {
        Self::with_clock(settings, Arc::new(system_clock))
    }

    /// The same, with another clock: for tests.
    pub fn with_clock(settings: Replication, wall: Clock) -> Self {
        Self(Arc::new(Shared {
            settings,
            wall,
            clock: HybridClock::default(),
            counts: Counts::default(),
            journal: Arc::default(),
            measured: Measured::default(),
            memory: Arc::default(),
            asks: watch::Sender::default(),
            stores: Stores::default(),
        }))
    }

    /// A store in several regions, of which the own one is this process's as long as the claim holds: nothing is written to
    /// any of them after that. Works in the background from now on, while it or an adapter of it is in use; so it must be
    /// called within a runtime. [Settled](StorageAdapter::settle), it does nothing until it is used again.
    pub fn over(&self, place: Place, claim: Arc<dyn Claim>) -> RegionStore {
        RegionStore(Arc::new(Store::open(Arc::clone(&self.0), place, claim)))
    }

    /// How the regions are kept equal.
    pub fn settings(&self) -> &Replication {
        &self.0.settings
    }

    /// How far each region is behind, of all stores together.
    pub fn lag(&self) -> Vec<RegionLag> {
        state::lag(&self.0.stores.all())
    }

    /// How all stores together stand.
    pub fn state(&self) -> RegionsState {
        state::of(&self.0)
    }

    /// Has each store compare the regions, and returns at once.
    pub fn compare(&self) {
        self.0.asks.send_modify(|asks| asks.compares += 1);
    }

    /// Has each store move its home to a region, and returns at once. It is tried until it is done, or another move is asked for.
    pub fn move_home(&self, region: &str) {
        self.0.asks.send_modify(|asks| {
            asks.moves += 1;
            region.clone_into(&mut asks.home);
        });
    }

    /// Has each store leave a region, also those that are opened later, and returns at once. It is tried until it is done.
    pub fn retire(&self, region: &str) {
        self.0.asks.send_modify(|asks| asks.leaving.extend([region.to_owned()]));
    }

    /// How far this process's stamps are ahead of its clock, in milliseconds: as far as that of some other region, or of an
    /// earlier process.
    pub fn ahead_ms(&self) -> u64 {
        self.0.ahead_ms()
    }

    /// What has been done.
    pub fn counts(&self) -> RegionCounts {
        let Counts { sent, repaired, swept, failed } = &self.0.counts;
        RegionCounts { sent: sent.get(), repaired: repaired.get(), swept: swept.get(), failed: failed.get() }
    }
}

/// One store in several regions.
#[derive(Clone, Debug)]
pub struct RegionStore(Arc<InUse>);

impl RegionStore {
    fn store(&self) -> &Arc<Store> {
        &self.0.0
    }

    fn index(&self, region: &str) -> Result<usize, Error> {
        let store = self.store();
        let found = store.active().into_iter().find(|at| &*store.regions[*at].name == region);
        found.ok_or_else(|| Error::invalid("region", format!("{region:?} is not among the regions of this store")))
    }

    /// The store itself.
    pub fn adapter(&self) -> Arc<dyn StorageAdapter> {
        Arc::new(RegionsAdapter::new(Arc::clone(&self.0)))
    }

    /// How far each other region is behind.
    pub fn lag(&self) -> Vec<RegionLag> {
        self.store().lag()
    }

    /// How far a fill, a comparison or a move has come; the last one.
    pub fn progress(&self) -> Progress {
        self.store().progress().clone()
    }

    /// The regions in another order, nearest first: all of them.
    pub fn set_order(&self, regions: &[&str]) -> Result<(), Error> {
        let order: Result<Vec<usize>, Error> = regions.iter().map(|region| self.index(region)).collect();
        let order = order?;
        let mut all = order.clone();
        all.sort_unstable();
        if all != self.store().active() {
            return Err(Error::invalid("regions", "must be all regions of the store, each once"));
        }
        self.store().set_order(order);
        Ok(())
    }

    /// Compares the own region with the others, now. What they lack is on its way then: [`lag`](Self::lag) tells when it is
    /// there.
    pub async fn compare(&self) -> Result<(), Error> {
        let store = self.store();
        store.background.wake();
        let _alone = store.runs.lock().await;
        Box::pin(compare::compare(store)).await.map(drop)
    }

    /// Has keys decided in another region from now on: its epoch. Nothing is decided meanwhile. What was begun by a process
    /// that died is ended first; where the outcome is unknown or it fails, it may be asked for again.
    pub async fn move_home(&self, region: &str) -> WriteResult<u64> {
        let to = self.index(region)?;
        Box::pin(moving::move_home(self.store(), to)).await
    }

    /// Leaves a region: what it alone has is fetched, and it is used no more by this process. Before it is taken off the list
    /// of regions, each process has to leave it.
    pub async fn retire(&self, region: &str) -> Result<(), Error> {
        let at = self.index(region)?;
        Box::pin(self.store().retire(at)).await
    }
}

impl Store {
    fn lag(&self) -> Vec<RegionLag> {
        let now = self.now();
        let lag = |at: usize| {
            let lag = self.pending[at].lag();
            RegionLag {
                region: self.regions[at].name.to_string(),
                keys: lag.keys,
                bytes: lag.bytes,
                oldest_ms: lag.oldest.map_or(0, |at| now.saturating_sub(at)),
                complete: self.is_scanned(),
                problem: lag.away.map(|error| error.to_string()),
            }
        };
        self.active().into_iter().map(lag).collect()
    }

    async fn retire(self: &Arc<Self>, at: usize) -> Result<(), Error> {
        let name = &self.regions[at].name;
        if at == self.here {
            return Err(Error::invalid(
                "region",
                format!("{name:?} is this process's own: another one has to leave it"),
            ));
        }
        let home = home::newest(self, true).await?;
        if home.is_some_and(|home| home.home == **name || home.moving.as_deref() == Some(name)) {
            let problem = format!("keys are decided in {name:?}: move the home to another region first");
            return Err(Error::invalid("region", problem));
        }
        let _alone = self.runs.lock().await;
        self.start(Run::Retiring, name);
        let done = filling::copy(self, at, self.here, true).await;
        self.finish(done.as_ref().err());
        done?;
        self.retired[at].store(true, Ordering::Release);
        self.pending[at].clear();
        // What was fetched is for all others too.
        Box::pin(compare::compare(self)).await.map(drop)
    }

    async fn settle(&self) -> Result<(), Error> {
        // What is acknowledged is in a region; what the others have is found out again.
        if let Err(error) = self.save().await {
            tracing::debug!(%error, "it can't be written down what other regions have");
        }
        self.background.rest().await;
        self.regions[self.here].data.settle().await
    }
}
