//! What is counted, as OpenMetrics. Names begin with `brainy_`; the number of label values is bounded by the routes and
//! the operations of a store.

mod regions;
mod storage;
mod tiering;
mod volume;

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use brainy_storage::layers::batching::BufferCounts;
use brainy_storage::layers::caching::CacheCounts;
use brainy_storage::layers::limiting::LimitCounts;
use brainy_storage::layers::observing::Observing;
use brainy_storage::layers::regions::{RegionCounts, RegionsState};
use brainy_storage::layers::tiering::{TieringCounts, TieringState};
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use self::regions::RegionFigures;
use self::storage::StorageFigures;
use self::tiering::TieringFigures;
use self::volume::VolumeFigures;
use crate::ownership::NodeStatus;

/// What became of a request, best first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OutcomeLabel {
    /// It was answered.
    #[default]
    Success,
    /// It certainly had no effect.
    Failed,
    /// It may have had one.
    Unknown,
}

impl EncodeLabelValue for OutcomeLabel {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        let name = match self {
            Self::Success => "success",
            Self::Failed => "failed",
            Self::Unknown => "unknown",
        };
        EncodeLabelValue::encode(&name, encoder)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    operation: &'static str,
    outcome: OutcomeLabel,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OperationLabel {
    operation: &'static str,
}

/// All metrics of the process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    seconds: Family<OperationLabel, Histogram>,
    in_flight: Gauge,
    forwarded: Counter,
    ready: Gauge,
    shards_held: Gauge,
    shards_assigned: Gauge,
    map_revision: Gauge,
    session_valid: Gauge,
    sessions_lost: Gauge,
    origins: Gauge,
    cache_hits: Counter,
    cache_misses: Counter,
    cache_entries: Gauge,
    under_way: Gauge,
    waiting: Gauge,
    refused: Counter,
    buffered: Gauge,
    buffered_lost: Counter,
    tiering: TieringFigures,
    regions: RegionFigures,
    storage: Arc<StorageFigures>,
    volume: Arc<VolumeFigures>,
}

/// From a tenth of a millisecond to ten seconds.
const SECONDS: [f64; 12] = [0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.25, 1.0, 2.5, 10.0];

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("brainy");
        let requests = Family::default();
        registry.register("requests", "Requests to the storage API", requests.clone());
        let seconds = Family::new_with_constructor((|| Histogram::new(SECONDS)) as fn() -> Histogram);
        registry.register_with_unit("request_duration", "Time to answer", Unit::Seconds, seconds.clone());
        let in_flight = Gauge::default();
        registry.register("requests_in_flight", "Requests being answered", in_flight.clone());
        let forwarded = Counter::default();
        registry.register(
            "forwarded_operations",
            "Operations sent to the node that owns their shard",
            forwarded.clone(),
        );
        let ready = Gauge::default();
        registry.register("ready", "1 while every shard of this node is served", ready.clone());
        let shards_held = Gauge::default();
        registry.register("shards_held", "Shards that this node serves", shards_held.clone());
        let shards_assigned = Gauge::default();
        registry.register("shards_assigned", "Shards that the map gives this node", shards_assigned.clone());
        let map_revision = Gauge::default();
        registry.register("shard_map_revision", "Newest shard map acted on", map_revision.clone());
        let session_valid = Gauge::default();
        registry.register("session_valid", "1 while this node may act on its shards", session_valid.clone());
        let sessions_lost = Gauge::default();
        registry.register("sessions_lost", "Sessions of this process that came to their end", sessions_lost.clone());
        let origins = Gauge::default();
        let help = "Tenures before, over all shards held, whose data is not copied yet";
        registry.register("shard_origins", help, origins.clone());
        let cache_hits = Counter::default();
        registry.register("cache_hits", "Reads answered from memory", cache_hits.clone());
        let cache_misses = Counter::default();
        registry.register("cache_misses", "Reads that asked the store", cache_misses.clone());
        let cache_entries = Gauge::default();
        registry.register("cache_entries", "Keys held in memory, about", cache_entries.clone());
        let under_way = Gauge::default();
        registry.register(
            "storage_operations_under_way",
            "Operations under way, where they are limited",
            under_way.clone(),
        );
        let waiting = Gauge::default();
        registry.register("storage_operations_waiting", "Operations that wait for a place", waiting.clone());
        let refused = Counter::default();
        registry.register("storage_operations_refused", "Operations for which there was no place", refused.clone());
        let buffered = Gauge::default();
        registry.register("buffered_writes", "Acknowledged writes that are not durable yet", buffered.clone());
        let buffered_lost = Counter::default();
        let help = "Acknowledged writes that were given up before they were durable";
        registry.register("buffered_writes_lost", help, buffered_lost.clone());
        let tiering = TieringFigures::default();
        tiering.register(&mut registry);
        let regions = RegionFigures::default();
        regions.register(&mut registry);
        let storage = Arc::new(StorageFigures::default());
        registry.register_collector(Box::new(Arc::clone(&storage)));
        let volume = Arc::new(VolumeFigures::default());
        volume.register(&mut registry);
        let build = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "The program", build);
        Self {
            registry,
            requests,
            seconds,
            in_flight,
            forwarded,
            ready,
            shards_held,
            shards_assigned,
            map_revision,
            session_valid,
            sessions_lost,
            origins,
            cache_hits,
            cache_misses,
            cache_entries,
            under_way,
            waiting,
            refused,
            buffered,
            buffered_lost,
            tiering,
            regions,
            storage,
            volume,
        }
    }
}

impl Metrics {
    /// The figures of one operation of the API. All of its series are there from then on, so that a first failure is an
    /// increase.
    pub fn of_requests(&self, operation: &'static str) -> Arc<RequestFigures> {
        let count = |outcome| self.requests.get_or_create(&RequestLabels { operation, outcome }).clone();
        Arc::new(RequestFigures {
            success: count(OutcomeLabel::Success),
            failed: count(OutcomeLabel::Failed),
            unknown: count(OutcomeLabel::Unknown),
            seconds: self.seconds.get_or_create(&OperationLabel { operation }).clone(),
            in_flight: self.in_flight.clone(),
        })
    }

    /// Watches the stores of a backend, called as in `GET /v1/storage`.
    pub fn observing(&self, backend: &'static str) -> Observing {
        Observing::new(backend, self.storage.of(backend))
    }

    /// Where this process keeps data of its own; none: in a bucket.
    pub fn watch_volume(&self, folder: Option<&Path>) {
        self.volume.watch(folder);
    }

    /// Looks how full that disk is, and waits a moment for it.
    pub async fn look_at_volume(&self) {
        self.volume.look().await;
    }

    /// Operations are sent to another node.
    pub fn forwarded(&self, operations: usize) {
        self.forwarded.inc_by(operations as u64);
    }

    /// As text, with the node's state of this moment.
    pub fn encode(
        &self,
        status: &NodeStatus,
        cache: Option<CacheCounts>,
        limits: Option<LimitCounts>,
        buffer: Option<BufferCounts>,
        tiering: Option<(TieringState, TieringCounts)>,
        regions: Option<(RegionsState, RegionCounts)>,
    ) -> Result<String, fmt::Error> {
        let count = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        self.ready.set(i64::from(status.ready));
        self.shards_held.set(count(status.held as u64));
        self.shards_assigned.set(count(status.assigned as u64));
        self.map_revision.set(count(status.map_revision));
        self.session_valid.set(i64::from(status.session_valid));
        self.sessions_lost.set(count(status.sessions_lost));
        self.origins.set(count(status.origins as u64));
        let cache = cache.unwrap_or_default();
        // Counted by the cache itself: here only what came since the last time.
        self.cache_hits.inc_by(cache.hits.saturating_sub(self.cache_hits.get()));
        self.cache_misses.inc_by(cache.misses.saturating_sub(self.cache_misses.get()));
        self.cache_entries.set(count(cache.entries));
        let limits = limits.unwrap_or_default();
        self.under_way.set(count(limits.under_way));
        self.waiting.set(count(limits.waiting));
        self.refused.inc_by(limits.refused.saturating_sub(self.refused.get()));
        let buffer = buffer.unwrap_or_default();
        self.buffered.set(count(buffer.waiting));
        self.buffered_lost.inc_by(buffer.lost.saturating_sub(self.buffered_lost.get()));
        if let Some((state, counts)) = tiering {
            self.tiering.take(&state, &counts);
        }
        if let Some((state, counts)) = regions {
            self.regions.take(&state, &counts);
        }
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

/// What became of the requests for one operation. Found once for each route, not by name for each request.
#[derive(Debug)]
pub struct RequestFigures {
    success: Counter,
    failed: Counter,
    unknown: Counter,
    seconds: Histogram,
    in_flight: Gauge,
}

impl RequestFigures {
    /// A request begins.
    pub fn start(self: &Arc<Self>) -> Running {
        self.in_flight.inc();
        Running { figures: Arc::clone(self), began: Instant::now() }
    }
}

/// A request being answered. In flight until dropped, so one whose client hung up is not counted for ever.
#[derive(Debug)]
pub struct Running {
    figures: Arc<RequestFigures>,
    began: Instant,
}

impl Running {
    /// It was answered.
    pub fn end(self, outcome: OutcomeLabel) {
        let count = match outcome {
            OutcomeLabel::Success => &self.figures.success,
            OutcomeLabel::Failed => &self.figures.failed,
            OutcomeLabel::Unknown => &self.figures.unknown,
        };
        count.inc();
        self.figures.seconds.observe(self.began.elapsed().as_secs_f64());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.figures.in_flight.dec();
    }
}
