//! What `/metrics` shows, in OpenMetrics text.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use brainy_crds::{BrainyCluster, BrainyClusterStatus};
use kube::ResourceExt;
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::reconcile::validate::ValidatedCluster;

/// Upper bounds of the duration histogram, in seconds.
const BUCKETS: [f64; 9] = [0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 60.0];
/// The conditions that are shown.
const CONDITIONS: [&str; 6] = [
    brainy_crds::condition::READY,
    brainy_crds::condition::PROGRESSING,
    brainy_crds::condition::STORAGE_READY,
    brainy_crds::condition::CHANGES_APPROVED,
    brainy_crds::condition::HIBERNATED,
    brainy_crds::condition::SHARDS_ASSIGNED,
];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Cluster {
    namespace: String,
    cluster: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ClusterCondition {
    namespace: String,
    cluster: String,
    condition: String,
}

/// All metrics. Clones share them.
#[derive(Clone, Debug)]
pub struct Metrics(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    registry: Registry,
    reconciles: Family<Outcome, Counter>,
    duration: Histogram,
    leader: Gauge,
    conditions: Family<ClusterCondition, Gauge>,
    map_revision: Family<Cluster, Gauge<u64, AtomicU64>>,
    api_errors: Family<Reason, Counter>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("brainy_operator");
        let reconciles = Family::<Outcome, Counter>::default();
        let duration = Histogram::new(BUCKETS);
        let leader = Gauge::default();
        let conditions = Family::<ClusterCondition, Gauge>::default();
        let map_revision = Family::<Cluster, Gauge<u64, AtomicU64>>::default();
        let api_errors = Family::<Reason, Counter>::default();
        registry.register(
            "reconciles",
            "Reconciles, by outcome: success, or the reason of the failure",
            reconciles.clone(),
        );
        registry.register("reconcile_duration_seconds", "How long a reconcile took", duration.clone());
        registry.register("leader", "1 while this replica leads", leader.clone());
        registry.register(
            "cluster_condition",
            "1 where a condition of a BrainyCluster is True, else 0",
            conditions.clone(),
        );
        registry.register("shard_map_revision", "Revision of the published shard map", map_revision.clone());
        registry.register(
            "api_errors",
            "Failed calls and watches of the Kubernetes API, by reason",
            api_errors.clone(),
        );
        Self(Arc::new(Inner { registry, reconciles, duration, leader, conditions, map_revision, api_errors }))
    }
}

impl Metrics {
    /// As OpenMetrics text.
    pub fn text(&self) -> Result<String, std::fmt::Error> {
        let mut buffer = String::new();
        text::encode(&mut buffer, &self.0.registry)?;
        Ok(buffer)
    }

    /// A reconcile ended. `outcome`: `success`, or the reason of the failure.
    pub fn reconciled(&self, outcome: &str, took: Duration) {
        self.0.reconciles.get_or_create(&Outcome { outcome: outcome.to_owned() }).inc();
        self.0.duration.observe(took.as_secs_f64());
    }

    /// Whether this replica leads. The clusters' numbers are the leader's alone.
    pub fn leading(&self, leads: bool) {
        self.0.leader.set(i64::from(leads));
        if !leads {
            self.0.conditions.clear();
            self.0.map_revision.clear();
        }
    }

    /// The conditions of a cluster.
    pub fn conditions(&self, cluster: &BrainyCluster, status: &BrainyClusterStatus) {
        for condition in &status.conditions {
            let labels = condition_of(cluster, &condition.type_);
            self.0.conditions.get_or_create(&labels).set(i64::from(condition.status == "True"));
        }
    }

    /// The published map of a cluster.
    pub fn map_revision(&self, cluster: &ValidatedCluster, revision: u64) {
        let labels = Cluster { namespace: cluster.namespace.clone(), cluster: cluster.name.clone() };
        self.0.map_revision.get_or_create(&labels).set(revision);
    }

    /// A cluster is gone.
    pub fn forget(&self, namespace: &str, name: &str) {
        let cluster = Cluster { namespace: namespace.to_owned(), cluster: name.to_owned() };
        for condition in CONDITIONS {
            let Cluster { namespace, cluster } = cluster.clone();
            self.0.conditions.remove(&ClusterCondition { namespace, cluster, condition: condition.to_owned() });
        }
        self.0.map_revision.remove(&cluster);
    }

    /// A call or a watch of the Kubernetes API failed.
    pub fn api_error(&self, reason: &str) {
        self.0.api_errors.get_or_create(&Reason { reason: reason.to_owned() }).inc();
    }
}

fn condition_of(cluster: &BrainyCluster, condition: &str) -> ClusterCondition {
    ClusterCondition {
        namespace: cluster.namespace().unwrap_or_default(),
        cluster: cluster.name_any(),
        condition: condition.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::fixtures::isolated;
    use crate::reconcile::status::refused;

    #[test]
    fn a_cluster_s_numbers_are_shown_until_it_is_gone_or_another_replica_leads() {
        let metrics = Metrics::default();
        let show = || {
            metrics.leading(true);
            let cluster = isolated();
            metrics.conditions(&cluster, &refused(&cluster, "InvalidSpec", "", Timestamp::UNIX_EPOCH));
        };
        let shown = || {
            metrics
                .text()
                .unwrap()
                .contains(r#"cluster_condition{namespace="team",cluster="demo",condition="Ready"} 0"#)
        };
        show();
        assert!(shown());
        metrics.forget("team", "demo");
        assert!(!shown());
        show();
        metrics.leading(false);
        assert!(!shown());
    }

    #[test]
    fn outcomes_are_counted_by_reason() {
        let metrics = Metrics::default();
        metrics.reconciled("success", Duration::from_millis(20));
        metrics.reconciled("NameTaken", Duration::from_millis(20));
        let text = metrics.text().unwrap();
        assert!(text.contains(r#"brainy_operator_reconciles_total{outcome="NameTaken"} 1"#), "{text}");
        assert!(text.contains("brainy_operator_reconcile_duration_seconds_count 2"), "{text}");
    }
}
