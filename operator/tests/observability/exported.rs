//! What operator and sidecar export, read from the text that they answer `/metrics` with.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use brainy_crds::BrainyCluster;
use brainy_operator::metrics::{ApiCall, Metrics};
use brainy_operator::reconcile::status::{ShardsView, refused};
use brainy_operator::reconcile::validate::validate;
use brainy_sidecar::metrics::OutcomeLabel;
use brainy_sidecar::ownership::NodeStatus;
use brainy_storage::layers::regions::{RegionCounts, RegionLag, RegionsState};
use jiff::Timestamp;
use serde_json::json;

/// Who exports a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exporter {
    Operator,
    Sidecar,
}

/// Metrics by the names that queries use, with their labels.
pub(crate) struct Exported(BTreeMap<String, (Exporter, BTreeSet<String>)>);

impl Exported {
    /// Both, after everything that is counted has happened once.
    pub(crate) fn now() -> Self {
        let mut exported = Self(BTreeMap::new());
        exported.take(Exporter::Operator, &operator());
        exported.take(Exporter::Sidecar, &sidecar());
        exported
    }

    pub(crate) fn labels(&self, metric: &str) -> Option<(Exporter, &BTreeSet<String>)> {
        self.0.get(metric).map(|(exporter, labels)| (*exporter, labels))
    }

    fn take(&mut self, exporter: Exporter, text: &str) {
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (series, _value) = line.rsplit_once(' ').unwrap();
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            let labels = labels
                .trim_end_matches('}')
                .split("\",")
                .filter_map(|one| one.split_once('='))
                .map(|(name, _)| name.to_owned());
            let there = self.0.entry(name.to_owned()).or_insert_with(|| (exporter, BTreeSet::new()));
            assert_eq!(there.0, exporter, "both export {name}");
            there.1.extend(labels);
        }
    }
}

fn operator() -> String {
    let cluster: BrainyCluster = serde_json::from_value(json!({
        "apiVersion": "brainy.io/v1alpha1", "kind": "BrainyCluster",
        "metadata": {"name": "demo", "namespace": "team", "uid": "u", "generation": 1},
        "spec": {"replicas": 3, "shards": 8, "storage": {"strategy": "Isolated", "volume": {"size": "1Gi"}}},
    }))
    .unwrap();
    let validated = validate(&cluster).unwrap();
    let status = refused(&cluster, "InvalidSpec", "", Timestamp::UNIX_EPOCH);
    let shards = ShardsView { total: 8, assigned: 8, held: 8, revision: 1 };
    let metrics = Metrics::default();
    metrics.leading(true);
    metrics.reconciled("success", Duration::from_millis(1), Duration::from_millis(1));
    metrics.conditions(&cluster, &status);
    metrics.observed(&validated, [3, 3, 3], Some(&shards));
    metrics.certificate(&validated, 1);
    metrics.map_revision(&validated, 1);
    metrics.api_error("Call");
    metrics.api_call(&ApiCall { verb: "get", resource: "pods".into(), code: "200".into() });
    metrics.text().unwrap()
}

fn sidecar() -> String {
    let metrics = brainy_sidecar::metrics::Metrics::default();
    metrics.of_requests("get").start().end(OutcomeLabel::Success);
    // Its series are there from then on.
    let _observing = metrics.observing("embedded");
    let lag = vec![RegionLag { region: "eu".into(), ..RegionLag::default() }];
    let regions = (RegionsState { lag, ..RegionsState::default() }, RegionCounts::default());
    metrics.encode(&NodeStatus::default(), None, None, None, None, Some(regions)).unwrap()
}
