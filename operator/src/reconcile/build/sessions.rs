//! One Lease per node, where Kubernetes keeps the sessions (strategy Isolated, pattern Leader).

use brainy_coordination::bucket::spec::Pattern;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};

use super::metadata;
use crate::reconcile::validate::ValidatedCluster;

/// Made before the nodes start, so that a node needs no permission to create one.
pub(super) fn leases(cluster: &ValidatedCluster, sessions: i32) -> Vec<Lease> {
    match (cluster.storage.bucket(), cluster.pattern) {
        (Some(_), _) | (None, Pattern::Consensus) => Vec::new(),
        (None, _) => cluster
            .layout
            .nodes(sessions)
            .map(|node| Lease { metadata: metadata(cluster, node), spec: Some(LeaseSpec::default()) })
            .collect(),
    }
}
