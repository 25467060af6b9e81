//! How many nodes a drain may take at once.

use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{metadata, selector};
use crate::reconcile::validate::ValidatedCluster;

/// One at a time. Below two nodes there is none: it would block every drain for ever.
pub(super) fn budget(cluster: &ValidatedCluster) -> Option<PodDisruptionBudget> {
    (cluster.replicas >= 2).then(|| PodDisruptionBudget {
        metadata: metadata(cluster, cluster.name.clone()),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(1)),
            selector: Some(selector(cluster)),
            // A node that never became ready must not block the drain of its host.
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".into()),
            ..PodDisruptionBudgetSpec::default()
        }),
        status: None,
    })
}
