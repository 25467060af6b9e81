//! Near and far: `brainy_region_*`, each by region, and `brainy_regions_*`; there where shards are in several regions.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use brainy_storage::layers::regions::{RegionCounts, RegionsState};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RegionLabel {
    region: String,
}

type ByRegion = Family<RegionLabel, Gauge>;
type SecondsByRegion = Family<RegionLabel, Gauge<f64, AtomicU64>>;

/// The figures of the regions.
#[derive(Debug, Default)]
pub(super) struct RegionFigures {
    lacking_keys: ByRegion,
    lacking_bytes: ByRegion,
    oldest: SecondsByRegion,
    away: ByRegion,
    distance: SecondsByRegion,
    homes: ByRegion,
    moving: ByRegion,
    filling: ByRegion,
    ahead: Gauge<f64, AtomicU64>,
    sent: Counter,
    repaired: Counter,
    swept: Counter,
    failures: Counter,
    /// Regions that have series: what is not said of one any more is 0.
    known: Mutex<BTreeSet<String>>,
}

impl RegionFigures {
    pub(super) fn register(&self, registry: &mut Registry) {
        let help = "Keys with an acknowledged write that a region does not have yet";
        registry.register("region_lacking_keys", help, self.lacking_keys.clone());
        let help = "Bytes of these writes";
        registry.register_with_unit("region_lacking", help, Unit::Bytes, self.lacking_bytes.clone());
        let help = "How long the oldest of these writes waits";
        registry.register_with_unit("region_lag", help, Unit::Seconds, self.oldest.clone());
        registry.register("region_away", "1 while a region takes no writes", self.away.clone());
        let help = "How long a region took to answer when it was asked last";
        registry.register_with_unit("region_distance", help, Unit::Seconds, self.distance.clone());
        registry.register("region_homes", "Shards whose keys are decided in a region", self.homes.clone());
        registry.register("region_homes_moving", "Shards that are about to be decided there", self.moving.clone());
        registry.register("region_filling", "Shards of which a region is being filled", self.filling.clone());
        let help = "How far stamps are ahead of the clock";
        registry.register_with_unit("regions_ahead", help, Unit::Seconds, self.ahead.clone());
        registry.register("regions_sent", "Writes that were brought to another region", self.sent.clone());
        let help = "Regions that were given what another one had answered in their stead";
        registry.register("regions_repaired", help, self.repaired.clone());
        registry.register("regions_swept", "Removals that were forgotten", self.swept.clone());
        let help = "Writes that could not be brought to a region";
        registry.register("regions_failures", help, self.failures.clone());
    }

    pub(super) fn take(&self, state: &RegionsState, counts: &RegionCounts) {
        let count = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.extend(state.lag.iter().map(|lag| lag.region.clone()));
        known.extend(state.order.iter().map(|distance| distance.region.clone()));
        for region in &*known {
            let label = RegionLabel { region: region.clone() };
            let lag = state.lag.iter().find(|lag| lag.region == *region).cloned().unwrap_or_default();
            self.lacking_keys.get_or_create(&label).set(count(lag.keys));
            self.lacking_bytes.get_or_create(&label).set(count(lag.bytes));
            self.oldest.get_or_create(&label).set(Duration::from_millis(lag.oldest_ms).as_secs_f64());
            self.away.get_or_create(&label).set(i64::from(lag.problem.is_some()));
            let micros = state.order.iter().find(|distance| distance.region == *region).and_then(|there| there.micros);
            self.distance.get_or_create(&label).set(Duration::from_micros(micros.unwrap_or(0)).as_secs_f64());
            self.homes.get_or_create(&label).set(count(state.homes.get(region).copied().unwrap_or(0)));
            self.moving.get_or_create(&label).set(count(state.moving.get(region).copied().unwrap_or(0)));
            self.filling.get_or_create(&label).set(count(state.filling(region)));
        }
        self.ahead.set(Duration::from_millis(state.ahead_ms).as_secs_f64());
        // Counted by the regions themselves: here only what came since the last time.
        let raise = |counter: &Counter, now: u64| counter.inc_by(now.saturating_sub(counter.get()));
        raise(&self.sent, counts.sent);
        raise(&self.repaired, counts.repaired);
        raise(&self.swept, counts.swept);
        raise(&self.failures, counts.failed);
    }
}
