//! How others judge a record that is renewed: by its exact version and their own clock (R1).

use std::time::Duration;

/// How much longer than a holder's time an observer waits: clocks of two machines run at slightly different rates. A
/// tenth of the time, at least one second: far above the drift of any machine whose clock is of use at all.
pub fn margin(ttl: Duration) -> Duration {
    (ttl / 10).max(Duration::from_secs(1))
}

/// Watches one record. `V` is its exact version, or an `Option` of it where absence is to be timed as well.
#[derive(Clone, Debug)]
pub struct Observer<V> {
    seen: Option<(V, Duration)>,
}

impl<V> Default for Observer<V> {
    fn default() -> Self {
        Self { seen: None }
    }
}

impl<V: PartialEq> Observer<V> {
    /// Whether a record that a read has just returned at `version` has been there unchanged for `ttl` and a [`margin`].
    /// `now`: this machine's clock after the answer came. What a remote clock says plays no part.
    pub fn expired(&mut self, version: V, ttl: Duration, now: Duration) -> bool {
        now.saturating_sub(self.note(version, now)) >= ttl + margin(ttl)
    }

    /// Since when the record has been seen at `version`, at which it stood before `now`.
    pub fn note(&mut self, version: V, now: Duration) -> Duration {
        match &self.seen {
            Some((seen, since)) if *seen == version => *since,
            _ => {
                self.seen = Some((version, now));
                now
            }
        }
    }

    /// How long until a record of `ttl` that is not renewed has expired; `None`: none has been seen.
    pub fn left(&self, ttl: Duration, now: Duration) -> Option<Duration> {
        let (_, since) = self.seen.as_ref()?;
        Some((*since + ttl + margin(ttl)).saturating_sub(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(30);

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_record_seen_once_is_not_expired_however_late_the_clock() {
        assert!(!Observer::default().expired("v1", TTL, at(1_000_000)));
    }

    #[test]
    fn unchanged_for_ttl_and_margin_is_expired_and_not_a_moment_earlier() {
        let mut observer = Observer::default();
        assert!(!observer.expired("v1", TTL, at(5)));
        assert!(!observer.expired("v1", TTL, at(20)));
        assert!(!observer.expired("v1", TTL, at(5) + TTL + margin(TTL) - Duration::from_nanos(1)));
        assert!(observer.expired("v1", TTL, at(5) + TTL + margin(TTL)));
    }

    #[test]
    fn a_new_version_starts_the_wait_anew() {
        let mut observer = Observer::default();
        assert!(!observer.expired("v1", TTL, at(0)));
        assert!(!observer.expired("v2", TTL, at(40)));
        assert!(!observer.expired("v2", TTL, at(72)));
        assert!(observer.expired("v2", TTL, at(73)));
    }

    #[test]
    fn the_margin_is_a_tenth_and_at_least_a_second() {
        assert_eq!(margin(at(2)), at(1));
        assert_eq!(margin(at(60)), at(6));
    }
}
