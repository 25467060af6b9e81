//! Hot and cold: `brainy_tiering_*`, all 0 where shards have one tier.

use std::sync::atomic::AtomicU64;

use brainy_storage::layers::tiering::{TieringCounts, TieringState};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TierLabel {
    tier: &'static str,
}

/// The figures of the tiers.
#[derive(Debug, Default)]
pub(super) struct TieringFigures {
    keys: Family<TierLabel, Gauge>,
    bytes: Family<TierLabel, Gauge>,
    unwritten_keys: Gauge,
    unwritten_bytes: Gauge,
    oldest: Gauge<f64, AtomicU64>,
    foreign: Gauge,
    cold_away: Gauge,
    reads: Family<TierLabel, Counter>,
    promoted: Counter,
    demoted: Counter,
    failures: Counter,
}

const HOT: TierLabel = TierLabel { tier: "hot" };
const COLD: TierLabel = TierLabel { tier: "cold" };

impl TieringFigures {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register("tiering_keys", "Keys in a tier, about", self.keys.clone());
        registry.register_with_unit("tiering_held", "Bytes in a tier, about", Unit::Bytes, self.bytes.clone());
        let help = "Keys with an acknowledged write that the cold tier does not have yet";
        registry.register("tiering_unwritten_keys", help, self.unwritten_keys.clone());
        let help = "Bytes of these writes";
        registry.register_with_unit("tiering_unwritten", help, Unit::Bytes, self.unwritten_bytes.clone());
        let help = "How long the oldest of these writes waits";
        registry.register_with_unit("tiering_unwritten_age", help, Unit::Seconds, self.oldest.clone());
        let help = "Keys of which the cold tier has a later write that nobody here knows of";
        registry.register("tiering_foreign_keys", help, self.foreign.clone());
        registry.register("tiering_cold_away", "1 while the cold tier takes no writes", self.cold_away.clone());
        registry.register("tiering_reads", "Reads by the tier that was asked last", self.reads.clone());
        registry.register("tiering_promoted", "Keys that came back to the hot tier", self.promoted.clone());
        registry.register("tiering_demoted", "Keys that were left to the cold tier", self.demoted.clone());
        let help = "Writes that could not be brought to the cold tier, and keys that could not be demoted";
        registry.register("tiering_failures", help, self.failures.clone());
        for label in [HOT, COLD] {
            let _there = self.keys.get_or_create(&label);
            let _there = self.bytes.get_or_create(&label);
            let _there = self.reads.get_or_create(&label);
        }
    }

    pub(super) fn take(&self, state: &TieringState, counts: &TieringCounts) {
        let count = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        for (label, holds) in [(HOT, state.hot), (COLD, state.cold)] {
            self.keys.get_or_create(&label).set(count(holds.keys));
            self.bytes.get_or_create(&label).set(count(holds.bytes));
        }
        self.unwritten_keys.set(count(state.lag.keys));
        self.unwritten_bytes.set(count(state.lag.bytes));
        self.oldest.set(std::time::Duration::from_millis(state.lag.oldest_ms).as_secs_f64());
        self.foreign.set(count(state.lag.foreign));
        self.cold_away.set(i64::from(state.lag.problem.is_some()));
        // Counted by the tiers themselves: here only what came since the last time.
        let raise = |counter: &Counter, now: u64| counter.inc_by(now.saturating_sub(counter.get()));
        raise(&self.reads.get_or_create(&HOT), counts.hot_reads);
        raise(&self.reads.get_or_create(&COLD), counts.cold_reads);
        raise(&self.promoted, counts.promoted);
        raise(&self.demoted, counts.demoted);
        raise(&self.failures, counts.failed);
    }
}
