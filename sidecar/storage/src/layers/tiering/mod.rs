//! Two stores as one: a hot one, fast and small, and a cold one, large and cheap.
//!
//! - A key's record in the hot tier is its value and its journal in one (`record`): one durable write acknowledges it, and
//!   what is not in the cold tier yet is found again by looking at the records, whatever crashes. It is brought there in the
//!   background (`flush`, `pending`), in order for each key.
//! - What the hot tier has of a key is the truth, also that it was removed; of what it does not have, the cold tier.
//! - What is read often is promoted (`promotion`), what is not read for long demoted (`demotion`, `access`).
//! - Each write is judged on what stands, in whichever tier (`writing`), so that compareAndSwap and increment are atomic
//!   across both. Versions are the same in both, from one growing sequence (`revisions`).
//!
//! The hot store must be durable, and its writes must not take effect after they were answered, or after the store was
//! opened anew: a folder of this machine. The cold one may lose, delay and repeat requests, if it leaves tombstones, as
//! [buckets](crate::backends::objects) do. Both belong to one owner at a time; late writes of an earlier one are harmless.

mod access;
mod adapter;
mod demotion;
mod flush;
mod listing;
mod pending;
mod promotion;
mod record;
mod revisions;
mod sketch;
mod spaces;
mod store;
mod tally;
mod writing;

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tokio::time::Instant;

pub use self::demotion::Progress;
pub use super::behind::Clock;

use self::access::Budget;
use self::adapter::TieringAdapter;
use self::sketch::Sketch;
use self::store::Store;
use super::batching::Claim;
use super::behind::{Counter, Journal, Stores, system_clock};
use crate::{StorageAdapter, Value};

/// Keys of which it is kept when they were read last, in a process.
const MOST_READS: usize = 1_000_000;
/// Stores of a process whose keys are demoted at a time.
const RUNS_AT_ONCE: usize = 2;
/// How far below the watermark the hot tier is brought, in percent of its size.
const BELOW_WATERMARK: u64 = 5;

/// When a write is acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Ack {
    /// Once it is durable in the hot tier. Who loses that loses what the cold one does not have yet.
    #[default]
    Hot,
    /// Once it is in the cold tier too.
    Cold,
}

/// What moves between the tiers, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Tiering {
    /// When a write is acknowledged.
    pub ack: Ack,
    /// How often a key is read in the cold tier, of late, before it comes to the hot one; 0: it never does.
    pub promote_after_reads: u32,
    /// How long a key was not read or written before it is kept in the cold tier alone, in milliseconds.
    pub demote_after_ms: u64,
    /// How full the hot tier may be, in percent, before the oldest keys are kept in the cold tier alone.
    pub watermark_percent: u8,
    /// Time between two looks for keys to demote, in milliseconds.
    pub run_every_ms: u64,
    /// Most keys of a process that may wait to be brought to the cold tier; more writes wait.
    pub max_unwritten_keys: u64,
    /// Most bytes of them.
    pub max_unwritten_bytes: u64,
    /// Most of them that are under way at a time.
    pub max_flushes: u32,
}

impl Default for Tiering {
    /// Acknowledged in the hot tier, promoted after 3 reads, demoted after 7 days or above 80 %, looked at every quarter of
    /// an hour; at most 100,000 keys and 256 MiB wait, and 32 are under way.
    fn default() -> Self {
        Self {
            ack: Ack::Hot,
            promote_after_reads: 3,
            demote_after_ms: 7 * 24 * 60 * 60 * 1000,
            watermark_percent: 80,
            run_every_ms: 15 * 60 * 1000,
            max_unwritten_keys: 100_000,
            max_unwritten_bytes: 256 << 20,
            max_flushes: 32,
        }
    }
}

impl Tiering {
    fn flushes(&self) -> usize {
        usize::try_from(self.max_flushes).unwrap_or(usize::MAX).max(1)
    }
}

/// How full the disk of the hot tier is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fullness {
    /// Bytes in use.
    pub used: u64,
    /// Bytes that it has.
    pub total: u64,
}

/// Says how full the disk of the hot tier is; `None`: that is not known.
pub type Gauge = Arc<dyn Fn() -> Option<Fullness> + Send + Sync>;
#[derive(Debug, Default)]
struct Counts {
    hot_reads: Counter,
    cold_reads: Counter,
    promoted: Counter,
    demoted: Counter,
    failed: Counter,
}

/// What the stores of a process share.
struct Shared {
    settings: Tiering,
    gauge: Option<Gauge>,
    clock: Clock,
    counts: Counts,
    journal: Arc<Journal>,
    reads: Arc<Budget>,
    sketch: Sketch,
    flights: Semaphore,
    runs: Semaphore,
    /// The beats are counted from here.
    began: Instant,
    stores: Stores<Store>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Shared {
    fn now(&self) -> u64 {
        (self.clock)()
    }

    /// How exactly it is kept when keys were read, in seconds: within a hundredth of what counts as long, at least to a minute.
    fn grain(&self) -> u32 {
        u32::try_from(self.settings.demote_after_ms / 100_000).unwrap_or(u32::MAX).clamp(1, 60)
    }

    fn is_frequent(&self, hash: u64) -> bool {
        let most = self.settings.promote_after_reads;
        // Above the watermark it would go again at once.
        most > 0 && self.sketch.count(hash) >= most && self.excess() == 0
    }

    /// How many bytes too many the hot tier has; 0 up to the watermark.
    fn excess(&self) -> u64 {
        let Some(Fullness { used, total }) = self.gauge.as_ref().and_then(|gauge| gauge()) else { return 0 };
        let watermark = u64::from(self.settings.watermark_percent.min(100));
        let share = |percent: u64| u64::try_from(u128::from(total) * u128::from(percent) / 100).unwrap_or(u64::MAX);
        if used <= share(watermark) { 0 } else { used - share(watermark.saturating_sub(BELOW_WATERMARK)) }
    }

    /// What of it falls to a store whose hot tier has so many bytes.
    fn excess_of(&self, bytes: u64) -> u64 {
        let all: u64 = self.stores.all().iter().map(|store| store.tally.hot.get().1).sum();
        let part = u128::from(self.excess()) * u128::from(bytes) / u128::from(all.max(1));
        u64::try_from(part).unwrap_or(u64::MAX)
    }
}

/// The stores of a process that have two tiers. Clones share limits and counts.
#[derive(Clone, Debug)]
pub struct Tiers(Arc<Shared>);

/// Where the cold tier of a store is.
#[derive(Clone, Debug)]
pub struct Cold {
    /// The store.
    pub store: Arc<dyn StorageAdapter>,
    /// Longest path of a key there, in bytes, as [`encoding`](crate::encoding) makes it: what is longer is refused before it
    /// is acknowledged.
    pub longest_path: usize,
}

/// Gives each store of a process its cold tier.
pub trait ColdStores: fmt::Debug + Send + Sync + 'static {
    /// That of the store with this name.
    fn cold(&self, name: &str) -> Cold;

    /// Why none of them can be used at the moment, if that is so.
    fn problem(&self) -> Option<String>;
}

/// How much a tier holds, about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Holds {
    /// Keys.
    pub keys: u64,
    /// Bytes, as stored.
    pub bytes: u64,
}

/// What is acknowledged, and not in the cold tier.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Lag {
    /// Keys.
    pub keys: u64,
    /// Bytes.
    pub bytes: u64,
    /// How long the oldest of them waits, in milliseconds: who loses the hot tier now loses as much, with `ack: hot`.
    pub oldest_ms: u64,
    /// All of the hot tier was looked at since this process opened it: nothing else waits.
    pub complete: bool,
    /// Keys of which the cold tier has a later write that this process knows nothing of: it is left as it is.
    pub foreign: u64,
    /// Why nothing is written to the cold tier at the moment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// How the tiers of a process stand.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TieringState {
    /// The stores are those of so many.
    pub stores: u64,
    /// The hot tier, about.
    pub hot: Holds,
    /// The cold tier, about.
    pub cold: Holds,
    /// What is in the hot tier alone.
    pub lag: Lag,
    /// The last run of demotions, of all stores together.
    pub run: Progress,
}

/// What the tiers of a process have done since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TieringCounts {
    /// Reads that the hot tier answered.
    pub hot_reads: u64,
    /// Reads that asked the cold tier.
    pub cold_reads: u64,
    /// Keys that came to the hot tier because they were read often.
    pub promoted: u64,
    /// Keys that are in the cold tier alone since.
    pub demoted: u64,
    /// Keys that could not be brought to the cold tier, or demoted, each time that was tried.
    pub failed: u64,
}

impl Tiers {
    /// For the stores of a process.
    pub fn new(settings: Tiering) -> Self {
        Self(Arc::new(Shared {
            settings,
            gauge: None,
            clock: Arc::new(system_clock),
            counts: Counts::default(),
            journal: Arc::default(),
            reads: Budget::new(MOST_READS),
            sketch: Sketch::default(),
            flights: Semaphore::new(settings.flushes()),
            runs: Semaphore::new(RUNS_AT_ONCE),
            began: Instant::now(),
            stores: Stores::default(),
        }))
    }

    /// The same, with a gauge of the disk that the hot tier is on. Before any store is opened.
    #[must_use]
    pub fn with_gauge(self, gauge: Gauge) -> Self {
        self.changed(|shared| shared.gauge = Some(gauge))
    }

    /// The same, with another clock: for tests. Before any store is opened.
    #[must_use]
    pub fn with_clock(self, clock: Clock) -> Self {
        self.changed(|shared| shared.clock = clock)
    }

    fn changed(self, change: impl FnOnce(&mut Shared)) -> Self {
        let Self(mut shared) = self;
        if let Some(shared) = Arc::get_mut(&mut shared) {
            change(shared);
        }
        Self(shared)
    }

    /// A store over two tiers, this process's own as long as the claim holds: nothing is written to either tier after that.
    /// Works in the background from now on, while the adapter or a namespace of it is in use; so it must be called within a
    /// runtime. [Settled](StorageAdapter::settle), it does nothing until it is used again.
    pub fn over(&self, hot: Arc<dyn StorageAdapter>, cold: Cold, claim: Arc<dyn Claim>) -> Arc<dyn StorageAdapter> {
        let store = Store::open(Arc::clone(&self.0), (hot, cold.store, cold.longest_path), claim);
        Arc::new(TieringAdapter::new(store))
    }

    /// Starts a run of demotions over all stores, and returns at once. `unread_for_ms`: how long a key must not have been
    /// read or written, if another time than that of the settings.
    pub fn run(&self, unread_for_ms: Option<u64>) {
        for store in self.0.stores.all() {
            store.progress().running = true;
            store.runs.send_modify(|orders| {
                orders.count += 1;
                orders.unread_for_ms = unread_for_ms;
            });
        }
    }

    /// What moves between them, and when.
    pub fn settings(&self) -> &Tiering {
        &self.0.settings
    }

    /// How the tiers stand.
    pub fn state(&self) -> TieringState {
        let mut state = TieringState::default();
        state.lag.complete = true;
        let now = self.0.now();
        for store in self.0.stores.all() {
            state.stores += 1;
            let add = |holds: &mut Holds, (keys, bytes)| {
                holds.keys += keys;
                holds.bytes += bytes;
            };
            add(&mut state.hot, store.tally.hot.get());
            add(&mut state.cold, store.tally.cold.get());
            let lag = store.pending.lag();
            state.lag.complete &= store.is_scanned();
            state.lag.keys += lag.keys;
            state.lag.bytes += lag.bytes;
            state.lag.foreign += lag.foreign;
            state.lag.oldest_ms = state.lag.oldest_ms.max(lag.oldest.map_or(0, |at| now.saturating_sub(at)));
            state.lag.problem = state.lag.problem.or(lag.away.map(|error| error.to_string()));
            state.run.join(&store.progress());
        }
        state
    }

    /// What they have done.
    pub fn counts(&self) -> TieringCounts {
        let Counts { hot_reads, cold_reads, promoted, demoted, failed } = &self.0.counts;
        TieringCounts {
            hot_reads: hot_reads.get(),
            cold_reads: cold_reads.get(),
            promoted: promoted.get(),
            demoted: demoted.get(),
            failed: failed.get(),
        }
    }
}

/// How many bytes a record takes in its tier, as this layer gives it there.
fn size(value: &Value) -> u64 {
    match value {
        Value::Bytes(bytes) => bytes.len() as u64,
        // No record: nothing is counted for it.
        Value::Json(_) | Value::Object(_) => 0,
    }
}
