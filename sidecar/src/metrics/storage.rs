//! What the stores did: `brainy_storage_operations_total` and `brainy_storage_operation_duration_seconds`, by backend.
//!
//! Every operation on a store passes here, so a record is a few additions to atomic numbers; a lock is taken only where
//! a backend appears and where the figures are read.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use brainy_storage::layers::observing::{OperationKind, Recorder, Tally};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::registry::Unit;

/// From ten microseconds, which memory and an embedded database take, to ten seconds.
const SECONDS: [f64; 14] =
    [0.00001, 0.00005, 0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.25, 1.0, 2.5, 10.0];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    backend: &'static str,
    operation: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    backend: &'static str,
    operation: &'static str,
    outcome: &'static str,
}

/// The figures of all backends of this process.
#[derive(Debug, Default)]
pub(super) struct StorageFigures {
    backends: Mutex<Vec<Arc<Backend>>>,
}

/// The figures of one backend. All of its series are there from the beginning, so that a first failure is an increase.
#[derive(Debug)]
struct Backend {
    name: &'static str,
    operations: [Figures; OperationKind::ALL.len()],
}

/// The figures of one operation.
#[derive(Debug, Default)]
struct Figures {
    success: AtomicU64,
    rejected: AtomicU64,
    unknown: AtomicU64,
    failed: AtomicU64,
    nanoseconds: AtomicU64,
    /// Calls by duration: up to each bound, and beyond the last.
    calls: [AtomicU64; SECONDS.len() + 1],
}

impl StorageFigures {
    /// Those of a backend.
    pub(super) fn of(&self, name: &'static str) -> Arc<dyn Recorder> {
        let mut backends = self.backends.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(there) = backends.iter().find(|backend| backend.name == name) {
            return Arc::clone(there) as _;
        }
        let new = Arc::new(Backend { name, operations: std::array::from_fn(|_| Figures::default()) });
        backends.push(Arc::clone(&new));
        new
    }

    fn backends(&self) -> Vec<Arc<Backend>> {
        self.backends.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Backend {
    fn operations(&self) -> impl Iterator<Item = (CallLabels, &Figures)> {
        let labels = |operation: OperationKind| CallLabels { backend: self.name, operation: operation.name() };
        OperationKind::ALL.into_iter().map(labels).zip(&self.operations)
    }
}

impl Recorder for Backend {
    fn record(&self, operation: OperationKind, tally: Tally, took: Duration) {
        let figures = &self.operations[operation as usize];
        let counts = [tally.success, tally.rejected, tally.unknown, tally.failed];
        for ((_, counter), more) in figures.outcomes().into_iter().zip(counts) {
            if more > 0 {
                counter.fetch_add(more, Ordering::Relaxed);
            }
        }
        let seconds = took.as_secs_f64();
        let at = SECONDS.partition_point(|bound| *bound < seconds);
        figures.calls[at].fetch_add(1, Ordering::Relaxed);
        figures.nanoseconds.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

impl Figures {
    fn outcomes(&self) -> [(&'static str, &AtomicU64); 4] {
        [("success", &self.success), ("rejected", &self.rejected), ("unknown", &self.unknown), ("failed", &self.failed)]
    }

    fn encode_outcomes(&self, call: &CallLabels, family: &mut MetricEncoder<'_>) -> fmt::Result {
        for (outcome, counter) in self.outcomes() {
            let labels = OutcomeLabels { backend: call.backend, operation: call.operation, outcome };
            ConstCounter::new(counter.load(Ordering::Relaxed)).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn encode_durations(&self, call: &CallLabels, family: &mut MetricEncoder<'_>) -> fmt::Result {
        let bounds = SECONDS.into_iter().chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> =
            bounds.zip(self.calls.iter().map(|calls| calls.load(Ordering::Relaxed))).collect();
        let count = buckets.iter().map(|(_, calls)| calls).sum();
        let sum = Duration::from_nanos(self.nanoseconds.load(Ordering::Relaxed)).as_secs_f64();
        family.encode_family(call)?.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }
}

impl Collector for StorageFigures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let backends = self.backends();
        let all = || backends.iter().flat_map(|backend| backend.operations());
        let help = "Operations that stores were asked for, each item of a batch for itself";
        let mut family = encoder.encode_descriptor("storage_operations", help, None, MetricType::Counter)?;
        for (labels, figures) in all() {
            figures.encode_outcomes(&labels, &mut family)?;
        }
        let (help, unit) = ("Time in which stores answered, a batch as one", Unit::Seconds);
        let mut family =
            encoder.encode_descriptor("storage_operation_duration", help, Some(&unit), MetricType::Histogram)?;
        for (labels, figures) in all() {
            figures.encode_durations(&labels, &mut family)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;
    use prometheus_client::registry::Registry;

    use super::*;

    fn text(figures: &Arc<StorageFigures>) -> String {
        let mut registry = Registry::with_prefix("brainy");
        registry.register_collector(Box::new(Arc::clone(figures)));
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        text
    }

    fn line(operation: &str, outcome: &str, count: u64) -> String {
        let labels = format!("backend=\"s3\",operation=\"{operation}\",outcome=\"{outcome}\"");
        format!("brainy_storage_operations_total{{{labels}}} {count}\n")
    }

    #[test]
    fn each_item_of_a_batch_counts_under_its_own_outcome_and_the_batch_once() {
        let figures = Arc::new(StorageFigures::default());
        let tally = Tally { success: 5, rejected: 1, unknown: 3, failed: 2 };
        figures.of("s3").record(OperationKind::SetBatch, tally, Duration::from_millis(2));
        let text = text(&figures);
        for (outcome, count) in [("success", 5), ("rejected", 1), ("unknown", 3), ("failed", 2)] {
            assert!(text.contains(&line("setBatch", outcome, count)), "{text}");
            assert!(text.contains(&line("increment", outcome, 0)), "{text}");
        }
        let duration = "brainy_storage_operation_duration_seconds";
        assert!(text.contains(&format!("{duration}_count{{backend=\"s3\",operation=\"setBatch\"}} 1\n")), "{text}");
        assert!(text.contains(&format!("{duration}_sum{{backend=\"s3\",operation=\"setBatch\"}} 0.002\n")), "{text}");
    }

    #[test]
    fn a_call_falls_into_the_first_bucket_that_is_long_enough() {
        let figures = Arc::new(StorageFigures::default());
        let one = Tally { success: 1, ..Tally::default() };
        for took in [Duration::ZERO, Duration::from_millis(1), Duration::from_secs(11), Duration::MAX] {
            figures.of("s3").record(OperationKind::Get, one, took);
        }
        let text = text(&figures);
        for (bound, calls) in [("0.00001", 1), ("0.0005", 1), ("0.001", 2), ("10.0", 2), ("+Inf", 4)] {
            let labels = format!("le=\"{bound}\",backend=\"s3\",operation=\"get\"");
            let line = format!("brainy_storage_operation_duration_seconds_bucket{{{labels}}} {calls}\n");
            assert!(text.contains(&line), "{line}{text}");
        }
    }

    #[test]
    fn a_backend_that_is_asked_for_again_goes_on_counting() {
        let figures = Arc::new(StorageFigures::default());
        for _ in 0..2 {
            figures.of("s3").record(OperationKind::Get, Tally { failed: 1, ..Tally::default() }, Duration::ZERO);
        }
        assert!(text(&figures).contains(&line("get", "failed", 2)));
    }
}
