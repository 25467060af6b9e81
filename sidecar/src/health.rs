//! Whether the process makes progress.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Between two beats.
const BEAT: Duration = Duration::from_secs(1);
/// Without a beat for this long, the executor is stuck.
const STUCK: Duration = Duration::from_secs(15);

/// Beats while the executor runs timers and tasks. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Heartbeat {
    started: Instant,
    last: Arc<AtomicU64>,
}

impl Default for Heartbeat {
    fn default() -> Self {
        Self { started: Instant::now(), last: Arc::default() }
    }
}

impl Heartbeat {
    /// Beats for as long as it is polled.
    pub async fn beat(self) {
        loop {
            self.last.store(self.now(), Ordering::Relaxed);
            tokio::time::sleep(BEAT).await;
        }
    }

    /// What is wrong, if something is.
    pub fn problem(&self) -> Option<String> {
        let silent = Duration::from_millis(self.now().saturating_sub(self.last.load(Ordering::Relaxed)));
        (silent > STUCK).then(|| format!("the executor has been stuck for {} s", silent.as_secs()))
    }

    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_heart_that_stopped_is_a_problem() {
        let heartbeat = Heartbeat::default();
        assert_eq!(heartbeat.problem(), None);
        let long_ago = Heartbeat { started: Instant::now() - STUCK - BEAT, ..heartbeat };
        assert!(long_ago.problem().is_some_and(|problem| problem.contains("stuck")));
    }
}
