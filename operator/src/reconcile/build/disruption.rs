//! How many nodes a drain may take at once: see [`disruption`](crate::reconcile::disruption).

use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{metadata, selector};
use crate::reconcile::validate::ValidatedCluster;

/// A budget by which so many nodes may be away.
pub fn budget(cluster: &ValidatedCluster, most: i32) -> PodDisruptionBudget {
    PodDisruptionBudget {
        metadata: metadata(cluster, cluster.name.clone()),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(most)),
            selector: Some(selector(cluster)),
            // A node that is not ready, or never became so, serves nobody: it must not block the drain of its host.
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".into()),
            ..PodDisruptionBudgetSpec::default()
        }),
        status: None,
    }
}
