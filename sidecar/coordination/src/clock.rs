//! Time as the protocol uses it: one clock per process that only grows and counts suspend, and promises that end on it.

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A clock that only grows. Its zero means nothing; only differences on one machine count (R1).
pub trait Clock: Debug + Send + Sync + 'static {
    /// Time since the clock's zero.
    fn now(&self) -> Duration;
}

/// `CLOCK_BOOTTIME`: goes on while the machine is suspended, so that a holder that slept past its deadline knows.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Duration {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
        Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or_default())
    }
}

/// A clock that moves only when told to: for tests and simulations.
#[derive(Clone, Debug, Default)]
pub struct ManualClock(Arc<AtomicU64>);

impl ManualClock {
    /// Moves the clock forward.
    pub fn advance(&self, by: Duration) {
        self.0.fetch_add(nanos(by), Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::SeqCst))
    }
}

/// A promise that lasts until a moment on a clock, shared between the one who extends it and those who check it.
/// Once over it is over for good: what lapsed never comes back by an extension (R8).
#[derive(Clone, Debug)]
pub struct Validity {
    clock: Arc<dyn Clock>,
    until: Arc<AtomicU64>,
}

impl Validity {
    /// Holds until `until` on `clock`.
    pub fn new(clock: Arc<dyn Clock>, until: Duration) -> Self {
        Self { clock, until: Arc::new(AtomicU64::new(nanos(until))) }
    }

    /// Holds until it is ended.
    pub fn unbounded() -> Self {
        Self::new(Arc::new(SystemClock), Duration::from_nanos(u64::MAX))
    }

    /// Whether it holds now.
    pub fn holds(&self) -> bool {
        nanos(self.clock.now()) < self.until.load(Ordering::SeqCst)
    }

    /// How long it still holds.
    pub fn remaining(&self) -> Duration {
        Duration::from_nanos(self.until.load(Ordering::SeqCst).saturating_sub(nanos(self.clock.now())))
    }

    /// Moves the end to `until` if that is later. False: it was over already, and stays so.
    pub fn extend(&self, until: Duration) -> bool {
        let extended = self.until.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |current| {
            (nanos(self.clock.now()) < current).then(|| current.max(nanos(until)))
        });
        extended.is_ok()
    }

    /// Ends it now, for every copy.
    pub fn end(&self) {
        self.until.store(0, Ordering::SeqCst);
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lapsed_never_comes_back_by_an_extension() {
        let clock = ManualClock::default();
        let validity = Validity::new(Arc::new(clock.clone()), Duration::from_secs(10));
        clock.advance(Duration::from_secs(5));
        assert!(validity.extend(Duration::from_secs(15)));
        assert_eq!(validity.remaining(), Duration::from_secs(10));
        clock.advance(Duration::from_secs(10));
        assert!(!validity.holds(), "the end itself is past the end");
        assert!(!validity.extend(Duration::from_secs(100)));
        assert!(!validity.holds());
    }

    #[test]
    fn an_extension_never_shortens() {
        let validity = Validity::new(Arc::new(ManualClock::default()), Duration::from_secs(10));
        assert!(validity.extend(Duration::from_secs(3)));
        assert_eq!(validity.remaining(), Duration::from_secs(10));
    }

    #[test]
    fn an_end_reaches_every_copy() {
        let validity = Validity::unbounded();
        let copy = validity.clone();
        validity.end();
        assert!(!copy.holds() && !copy.extend(Duration::from_secs(1)));
    }

    #[test]
    fn the_system_clock_grows() {
        let first = SystemClock.now();
        assert!(SystemClock.now() >= first);
    }
}
