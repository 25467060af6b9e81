//! The nodes' volumes: finds them, also those that an earlier cluster of the name has left, grows them, and lets them go
//! with the cluster if the deletion policy says so.

mod growth;
pub mod health;
mod lifetime;

use std::collections::BTreeSet;

use brainy_kubernetes::names;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};

use crate::reconcile::Error;
use crate::reconcile::build::{DATA_VOLUME, selector_text};
use crate::reconcile::dereference::ordinal_of;

pub use growth::{Growth, Memory, grow, least, smaller};
pub use lifetime::follow_policy;

/// Annotation of a BrainyCluster: a node whose volume is lost for good. Its shards are placed anew, empty, once.
pub const GIVE_UP_ANNOTATION: &str = "brainy.io/give-up-node";

/// The claim of a node's volume, as a StatefulSet names it.
pub fn claim(cluster: &str, ordinal: i32) -> String {
    format!("{DATA_VOLUME}-{}", names::node(cluster, ordinal))
}

/// The claims of a cluster's nodes, also of nodes that do not exist: scaling keeps them, and so does deleting a cluster. A
/// claim that is being deleted counts no more.
pub async fn list(client: &Client, namespace: &str, cluster: &str) -> Result<Vec<PersistentVolumeClaim>, Error> {
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), namespace);
    let listed = claims.list(&ListParams::default().labels(&selector_text(cluster))).await?;
    let is_one = |claim: &PersistentVolumeClaim| {
        claim.metadata.deletion_timestamp.is_none() && node_ordinal(&claim.name_any(), cluster).is_some()
    };
    Ok(listed.items.into_iter().filter(is_one).collect())
}

/// Ordinals of the nodes whose volumes exist.
pub fn ordinals(claims: &[PersistentVolumeClaim], cluster: &str) -> BTreeSet<i32> {
    claims.iter().filter_map(|claim| node_ordinal(&claim.name_any(), cluster)).collect()
}

fn node_ordinal(claim: &str, cluster: &str) -> Option<i32> {
    ordinal_of(cluster, claim.strip_prefix(DATA_VOLUME)?.strip_prefix('-')?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_of_another_cluster_whose_name_begins_alike_are_not_touched() {
        assert_eq!(node_ordinal("data-demo-7", "demo"), Some(7));
        for other in ["data-demo-x-0", "data-demo-00", "data-demo", "other"] {
            assert_eq!(node_ordinal(other, "demo"), None, "{other}");
        }
    }
}
