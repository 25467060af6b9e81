//! How much is asked of each shard: operations per second, smoothed over some minutes and rounded, so that what a node says
//! of it changes seldom.

use std::collections::BTreeMap;
use std::time::Duration;

use super::ShardLoad;
use crate::ShardId;

/// Time between two measurements.
pub const EVERY: Duration = Duration::from_secs(15);
/// What is older than this counts for little.
const MEMORY: Duration = Duration::from_secs(120);

/// Measures.
#[derive(Clone, Debug, Default)]
pub struct Meter {
    at: Option<Duration>,
    shards: BTreeMap<ShardId, Shard>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Shard {
    /// Operations since it has been served.
    count: u64,
    per_second: f64,
}

impl Meter {
    /// Whether it is time to measure again.
    pub fn is_due(&self, now: Duration) -> bool {
        self.at.is_none_or(|at| now.saturating_sub(at) >= EVERY)
    }

    /// Takes note of how many operations each shard that is served here has seen so far. A count that has fallen began anew.
    pub fn measure(&mut self, counts: impl IntoIterator<Item = (ShardId, u64)>, now: Duration) {
        let passed = self.at.map(|at| now.saturating_sub(at)).filter(|passed| !passed.is_zero());
        let before = std::mem::take(&mut self.shards);
        for (shard, count) in counts {
            let mut next = before.get(&shard).copied().unwrap_or_default();
            if let Some(passed) = passed {
                let new = if count >= next.count { count - next.count } else { count };
                let weight = 1.0 - (-passed.as_secs_f64() / MEMORY.as_secs_f64()).exp();
                next.per_second += (new as f64 / passed.as_secs_f64() - next.per_second) * weight;
            }
            self.shards.insert(shard, Shard { count, ..next });
        }
        self.at = Some(now);
    }

    /// What is asked of each shard, of those of which something is.
    pub fn loads(&self) -> Vec<ShardLoad> {
        let load =
            |(shard, seen): (&ShardId, &Shard)| ShardLoad { shard: *shard, per_second: rounded(seen.per_second) };
        self.shards.iter().map(load).filter(|load| load.per_second > 0).collect()
    }
}

/// To the next of 0, 1, 2, 3, 4, 6, 8, 12, 16, ...: equal ones side by side are written as one range.
fn rounded(per_second: f64) -> u64 {
    let whole = per_second.round().clamp(0.0, 1e15) as u64;
    if whole < 4 {
        return whole;
    }
    let step = 1 << (whole.ilog2() - 1);
    (whole + step / 2) / step * step
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn load_after(seconds: u64, per_second: u64) -> Vec<ShardLoad> {
        let mut meter = Meter::default();
        for now in (0..=seconds).step_by(15) {
            assert!(meter.is_due(at(now)));
            meter.measure([(ShardId(1), now * per_second), (ShardId(2), 0)], at(now));
        }
        assert!(!meter.is_due(at(seconds / 15 * 15 + 14)));
        meter.loads()
    }

    #[test]
    fn load_shows_after_some_time_and_an_idle_shard_is_not_named() {
        assert_eq!(load_after(0, 1000), []);
        assert!(load_after(15, 1000)[0].per_second < 200, "one measurement is not believed at once");
        assert_eq!(load_after(900, 1000), [ShardLoad { shard: ShardId(1), per_second: 1024 }]);
    }

    #[test]
    fn a_shard_that_is_served_anew_is_counted_anew() {
        let mut meter = Meter::default();
        meter.measure([(ShardId(1), 1_000_000)], at(0));
        meter.measure([(ShardId(1), 150)], at(15));
        assert_eq!(meter.loads(), [ShardLoad { shard: ShardId(1), per_second: 1 }]);
        meter.measure([], at(30));
        assert_eq!(meter.loads(), []);
    }

    #[test]
    fn figures_are_rounded_to_two_bits() {
        let numbers = [0.4, 0.6, 3.0, 5.1, 6.9, 100.0, 1000.0];
        assert_eq!(numbers.map(rounded), [0, 1, 3, 6, 8, 96, 1024]);
    }
}
