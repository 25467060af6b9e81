//! What `/metrics` shows, in OpenMetrics text.

use std::collections::BTreeSet;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use brainy_crds::{BrainyCluster, BrainyClusterStatus};
use kube::ResourceExt;
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use crate::reconcile::status::ShardsView;
use crate::reconcile::validate::ValidatedCluster;

/// Upper bounds of the duration histogram, in seconds.
const BUCKETS: [f64; 9] = [0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 60.0];
/// The same of what a reconcile computes itself.
const OWN_BUCKETS: [f64; 8] = [0.001, 0.003, 0.01, 0.02, 0.05, 0.1, 0.3, 1.0];
/// States of nodes that are counted.
const NODES: [&str; 3] = ["wanted", "present", "ready"];
/// States of shards that are counted.
const SHARDS: [&str; 3] = ["all", "assigned", "held"];

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

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct InState {
    namespace: String,
    cluster: String,
    state: &'static str,
}

/// A call of the Kubernetes API.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ApiCall {
    /// get (also of many), watch, create, update, patch, delete, or dry-run: none of the last is a write.
    pub verb: &'static str,
    /// The kind of object, in plural: `statefulsets`.
    pub resource: String,
    /// The status of the answer, or `none`.
    pub code: String,
}

/// All metrics. Clones share them.
#[derive(Clone, Debug)]
pub struct Metrics(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    registry: Registry,
    reconciles: Family<Outcome, Counter>,
    duration: Histogram,
    own: Histogram,
    running: Gauge,
    leader: Gauge,
    conditions: Family<ClusterCondition, Gauge>,
    /// Types of conditions that were ever shown: a cluster that goes takes all of its own along.
    condition_types: Mutex<BTreeSet<String>>,
    nodes: Family<InState, Gauge>,
    shards: Family<InState, Gauge>,
    certificates: Family<Cluster, Gauge>,
    map_revision: Family<Cluster, Gauge<u64, AtomicU64>>,
    api_errors: Family<Reason, Counter>,
    api_calls: Family<ApiCall, Counter>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("brainy_operator");
        let reconciles = Family::<Outcome, Counter>::default();
        let duration = Histogram::new(BUCKETS);
        let own = Histogram::new(OWN_BUCKETS);
        let running = Gauge::default();
        let leader = Gauge::default();
        let conditions = Family::<ClusterCondition, Gauge>::default();
        let map_revision = Family::<Cluster, Gauge<u64, AtomicU64>>::default();
        let nodes = Family::<InState, Gauge>::default();
        let shards = Family::<InState, Gauge>::default();
        let certificates = Family::<Cluster, Gauge>::default();
        let api_errors = Family::<Reason, Counter>::default();
        let api_calls = Family::<ApiCall, Counter>::default();
        registry.register(
            "reconciles",
            "Reconciles, by outcome: success, or the reason of the failure",
            reconciles.clone(),
        );
        registry.register("reconcile_duration_seconds", "How long a reconcile took", duration.clone());
        let help = "For how long a reconcile was at work itself, without what it waited for";
        registry.register("reconcile_own_seconds", help, own.clone());
        registry.register("reconciles_running", "Reconciles under way", running.clone());
        registry.register("leader", "1 while this replica leads", leader.clone());
        registry.register(
            "cluster_condition",
            "1 where a condition of a BrainyCluster is True, else 0",
            conditions.clone(),
        );
        let help = "Nodes of a BrainyCluster: wanted by the spec, with a pod, ready";
        registry.register("cluster_nodes", help, nodes.clone());
        let help = "Shards of a BrainyCluster: all, with an owner in the map, held by a live node";
        registry.register("cluster_shards", help, shards.clone());
        let help = "When the nodes' certificate ends, in seconds since 1970";
        registry.register("cluster_certificate_expires_timestamp_seconds", help, certificates.clone());
        registry.register("shard_map_revision", "Revision of the published shard map", map_revision.clone());
        registry.register(
            "api_errors",
            "Failed calls and watches of the Kubernetes API, by reason",
            api_errors.clone(),
        );
        let help = "Calls of the Kubernetes API, by verb, kind of object and status of the answer";
        registry.register("api_requests", help, api_calls.clone());
        registry.register("build", "The program", Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]));
        Self(Arc::new(Inner {
            registry,
            reconciles,
            duration,
            own,
            running,
            leader,
            conditions,
            condition_types: Mutex::default(),
            nodes,
            shards,
            certificates,
            map_revision,
            api_errors,
            api_calls,
        }))
    }
}

impl Metrics {
    /// As OpenMetrics text.
    pub fn text(&self) -> Result<String, std::fmt::Error> {
        let mut buffer = String::new();
        text::encode(&mut buffer, &self.0.registry)?;
        Ok(buffer)
    }

    /// A reconcile ended. `outcome`: `success`, or the reason of the failure; `busy`: for how long it was at work itself.
    pub fn reconciled(&self, outcome: &str, took: Duration, busy: Duration) {
        self.0.reconciles.get_or_create(&Outcome { outcome: outcome.to_owned() }).inc();
        self.0.duration.observe(took.as_secs_f64());
        self.0.own.observe(busy.as_secs_f64());
    }

    /// A reconcile is under way until this is dropped.
    pub fn reconciling(&self) -> Reconciling {
        self.0.running.inc();
        Reconciling(self.clone())
    }

    /// Whether this replica leads. The clusters' numbers are the leader's alone.
    pub fn leading(&self, leads: bool) {
        self.0.leader.set(i64::from(leads));
        if !leads {
            self.0.conditions.clear();
            self.0.nodes.clear();
            self.0.shards.clear();
            self.0.certificates.clear();
            self.0.map_revision.clear();
        }
    }

    /// The conditions of a cluster.
    pub fn conditions(&self, cluster: &BrainyCluster, status: &BrainyClusterStatus) {
        for condition in &status.conditions {
            let labels = condition_of(cluster, &condition.type_);
            self.condition_types().insert(condition.type_.clone());
            self.0.conditions.get_or_create(&labels).set(i64::from(condition.status == "True"));
        }
    }

    /// The nodes (wanted, present, ready) and shards of a cluster. Shards that were not looked at stay as they were.
    pub fn observed(&self, cluster: &ValidatedCluster, nodes: [i32; 3], shards: Option<&ShardsView>) {
        let labels = |state| InState { namespace: cluster.namespace.clone(), cluster: cluster.name.clone(), state };
        for (state, count) in NODES.into_iter().zip(nodes) {
            self.0.nodes.get_or_create(&labels(state)).set(i64::from(count));
        }
        let Some(shards) = shards else {
            return;
        };
        for (state, count) in SHARDS.into_iter().zip([shards.total, shards.assigned, shards.held]) {
            self.0.shards.get_or_create(&labels(state)).set(i64::from(count));
        }
    }

    /// When the certificate of a cluster's nodes ends, in seconds since 1970.
    pub fn certificate(&self, cluster: &ValidatedCluster, expires: i64) {
        let labels = Cluster { namespace: cluster.namespace.clone(), cluster: cluster.name.clone() };
        self.0.certificates.get_or_create(&labels).set(expires);
    }

    /// The published map of a cluster.
    pub fn map_revision(&self, cluster: &ValidatedCluster, revision: u64) {
        let labels = Cluster { namespace: cluster.namespace.clone(), cluster: cluster.name.clone() };
        self.0.map_revision.get_or_create(&labels).set(revision);
    }

    /// A cluster is gone.
    pub fn forget(&self, namespace: &str, name: &str) {
        let cluster = Cluster { namespace: namespace.to_owned(), cluster: name.to_owned() };
        for condition in self.condition_types().iter().cloned() {
            let Cluster { namespace, cluster } = cluster.clone();
            self.0.conditions.remove(&ClusterCondition { namespace, cluster, condition });
        }
        let labels = |state| InState { namespace: namespace.to_owned(), cluster: name.to_owned(), state };
        for state in NODES {
            self.0.nodes.remove(&labels(state));
        }
        for state in SHARDS {
            self.0.shards.remove(&labels(state));
        }
        self.0.certificates.remove(&cluster);
        self.0.map_revision.remove(&cluster);
    }

    /// A call or a watch of the Kubernetes API failed.
    pub fn api_error(&self, reason: &str) {
        self.0.api_errors.get_or_create(&Reason { reason: reason.to_owned() }).inc();
    }

    /// The Kubernetes API was asked, and answered or not.
    pub fn api_call(&self, call: &ApiCall) {
        self.0.api_calls.get_or_create(call).inc();
    }

    fn condition_types(&self) -> std::sync::MutexGuard<'_, BTreeSet<String>> {
        self.0.condition_types.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts a reconcile as under way.
#[derive(Debug)]
pub struct Reconciling(Metrics);

impl Drop for Reconciling {
    fn drop(&mut self) {
        self.0.0.running.dec();
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
    use crate::reconcile::validate::validate;

    #[test]
    fn a_cluster_s_numbers_are_shown_until_it_is_gone_or_another_replica_leads() {
        let metrics = Metrics::default();
        let show = || {
            metrics.leading(true);
            let cluster = isolated();
            metrics.conditions(&cluster, &refused(&cluster, "InvalidSpec", "", Timestamp::UNIX_EPOCH));
            let cluster = validate(&cluster).unwrap();
            let shards = ShardsView { total: 6, assigned: 5, held: 4, revision: 1 };
            metrics.observed(&cluster, [3, 2, 1], Some(&shards));
            metrics.certificate(&cluster, 7);
            metrics.map_revision(&cluster, 8);
        };
        let shown = || metrics.text().unwrap().contains(r#"cluster="demo""#);
        show();
        let text = metrics.text().unwrap();
        for line in [
            r#"cluster_condition{namespace="team",cluster="demo",condition="Ready"} 0"#,
            r#"cluster_nodes{namespace="team",cluster="demo",state="present"} 2"#,
            r#"cluster_shards{namespace="team",cluster="demo",state="held"} 4"#,
            r#"cluster_certificate_expires_timestamp_seconds{namespace="team",cluster="demo"} 7"#,
        ] {
            assert!(text.contains(line), "{line}: {text}");
        }
        metrics.forget("team", "demo");
        assert!(!shown());
        show();
        metrics.leading(false);
        assert!(!shown());
    }

    #[test]
    fn a_reconcile_that_is_dropped_is_under_way_no_more() {
        let metrics = Metrics::default();
        let running = metrics.reconciling();
        assert!(metrics.text().unwrap().contains("brainy_operator_reconciles_running 1\n"));
        drop(running);
        assert!(metrics.text().unwrap().contains("brainy_operator_reconciles_running 0\n"));
    }

    #[test]
    fn outcomes_are_counted_by_reason() {
        let metrics = Metrics::default();
        metrics.reconciled("success", Duration::from_millis(20), Duration::from_millis(2));
        metrics.reconciled("NameTaken", Duration::from_millis(20), Duration::from_millis(2));
        let text = metrics.text().unwrap();
        assert!(text.contains(r#"brainy_operator_reconciles_total{outcome="NameTaken"} 1"#), "{text}");
        assert!(text.contains("brainy_operator_reconcile_duration_seconds_count 2"), "{text}");
        assert!(text.contains("brainy_operator_reconcile_own_seconds_sum 0.004"), "{text}");
    }
}
