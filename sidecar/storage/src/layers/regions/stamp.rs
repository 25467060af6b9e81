//! When something was written, by a hybrid logical clock (Kulkarni, Demirbas, Madappa, Avva, Leone: *Logical Physical
//! Clocks*, 2014): the time of day where that grows, and otherwise one more than the latest that was issued or seen. So
//! what is written after something was seen is stamped later, whatever the clocks on the walls say.
//!
//! Milliseconds since 1970 in the upper 48 bits, a counter in the lower 16, which carries over: one number, in 64 bits.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bits of the counter.
const COUNTER: u32 = 16;

/// The stamp of a time of day in milliseconds.
pub(super) fn of_millis(millis: u64) -> u64 {
    millis.min(u64::MAX >> COUNTER) << COUNTER
}

/// The milliseconds in a stamp.
pub(super) fn to_millis(time: u64) -> u64 {
    time >> COUNTER
}

/// The order in which writes of a key count, whoever compares them: the greatest stands. No two writes have the same.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Stamp {
    /// Of the hybrid clock.
    pub(super) time: u64,
    /// Of whom has written.
    pub(super) region: Arc<str>,
    /// Random: two processes of a region may have issued one time.
    pub(super) mark: String,
}

/// The clock of a process.
#[derive(Debug, Default)]
pub(super) struct HybridClock(AtomicU64);

impl HybridClock {
    /// A time greater than all that was issued or seen, and than `above`. `now` is the time of day in milliseconds.
    pub(super) fn next(&self, now: u64, above: u64) -> u64 {
        let after = |last: u64| last.max(above).saturating_add(1).max(of_millis(now));
        let mut last = self.0.load(Ordering::SeqCst);
        while let Err(other) = self.0.compare_exchange(last, after(last), Ordering::SeqCst, Ordering::SeqCst) {
            last = other;
        }
        after(last)
    }

    /// A time that somebody else has issued.
    pub(super) fn observe(&self, time: u64) {
        self.0.fetch_max(time, Ordering::SeqCst);
    }

    /// The greatest that was issued or seen: whatever is issued from now on is greater.
    pub(super) fn last(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: u64 = 1_790_000_000_000;

    #[test]
    fn it_follows_the_time_of_day_and_never_goes_back_with_it() {
        let clock = HybridClock::default();
        let first = clock.next(NOW, 0);
        assert_eq!(first, of_millis(NOW));
        assert_eq!(clock.next(NOW, 0), first + 1);
        let back = clock.next(NOW - 3_600_000, 0);
        assert_eq!(back, first + 2, "an hour back");
        assert_eq!(clock.next(NOW + 5, 0), of_millis(NOW + 5));
    }

    #[test]
    fn what_was_seen_is_earlier_than_what_is_issued() {
        let clock = HybridClock::default();
        let ahead = of_millis(NOW + 60_000) + 7;
        clock.observe(ahead);
        assert!(clock.next(NOW, 0) > ahead);
        clock.observe(5);
        assert!(clock.last() > ahead, "an old stamp takes nothing back");
        assert!(clock.next(NOW, ahead + 100) > ahead + 100);
    }

    #[test]
    fn a_full_counter_goes_on_in_the_next_millisecond() {
        let clock = HybridClock::default();
        clock.observe(of_millis(NOW) | 0xffff);
        assert_eq!(clock.next(NOW, 0), of_millis(NOW + 1));
        assert_eq!(to_millis(of_millis(NOW) | 0xffff), NOW);
    }

    #[test]
    fn stamps_are_ordered_by_time_then_region_then_mark() {
        let stamp = |time, region: &str, mark: &str| Stamp { time, region: region.into(), mark: mark.to_owned() };
        let ordered = [stamp(1, "z", "z"), stamp(2, "a", "z"), stamp(2, "b", "a"), stamp(2, "b", "b")];
        assert!(ordered.is_sorted());
    }

    proptest! {
        /// Clocks on walls that jump, and messages between any two of several processes: what happens later at one of them,
        /// or because of what was received, is stamped later.
        #[test]
        fn causes_are_stamped_before_their_effects(
            steps in prop::collection::vec((0..3_usize, 0..3_usize, 0..2_000_u64), 1..60),
        ) {
            let clocks: Vec<HybridClock> = (0..3).map(|_| HybridClock::default()).collect();
            let mut latest = [0; 3];
            for (from, to, wall) in steps {
                let sent = clocks[from].next(NOW + wall, 0);
                prop_assert!(sent > latest[from]);
                clocks[to].observe(sent);
                latest[from] = sent;
                latest[to] = latest[to].max(sent);
                let next = clocks[to].next(NOW, 0);
                prop_assert!(next > latest[to]);
                latest[to] = next;
            }
        }
    }
}
