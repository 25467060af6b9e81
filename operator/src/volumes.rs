//! The nodes' volumes: finds them, also those that an earlier cluster of the name has left, grows them, and lets them go
//! with the cluster if the deletion policy says so.

mod growth;
pub mod health;
mod lifetime;
pub mod tiering;

use std::collections::BTreeSet;

use brainy_crds::BrainyCluster;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};

use crate::layout::Layout;
use crate::reconcile::Error;
use crate::reconcile::build::{DATA_VOLUME, selector_text};

pub use growth::{Growth, Memory, grow, least, smaller};
pub use lifetime::follow_policy;

/// Annotation of a BrainyCluster: a node whose volume is lost for good. Its shards are placed anew, empty, once.
pub const GIVE_UP_ANNOTATION: &str = "brainy.io/give-up-node";

/// The claims of a cluster's volumes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Claims {
    /// Of its nodes, also of nodes that do not exist: scaling keeps them, and so does deleting a cluster.
    pub ours: Vec<PersistentVolumeClaim>,
    /// Of nodes that a cluster of the name had when its zones were others: no node of this one can have them.
    pub misplaced: Vec<PersistentVolumeClaim>,
}

/// The claim of a node's volume, as a StatefulSet names it.
pub fn claim(layout: &Layout, slot: i32) -> String {
    format!("{DATA_VOLUME}-{}", layout.node(slot))
}

/// The claims of a cluster. One that is being deleted counts no more.
pub async fn list(client: &Client, cluster: &BrainyCluster) -> Result<Claims, Error> {
    let (name, layout) = (cluster.name_any(), Layout::of(&cluster.name_any(), &cluster.spec.zones));
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), &cluster.namespace().unwrap_or_default());
    let listed = claims.list(&ListParams::default().labels(&selector_text(&name))).await?.items.into_iter();
    let listed = listed.filter(|claim| claim.metadata.deletion_timestamp.is_none());
    let (ours, others): (Vec<_>, Vec<_>) = listed.partition(|claim| slot_of(&claim.name_any(), &layout).is_some());
    let misplaced = others.into_iter().filter(|claim| is_of_a_node(&claim.name_any(), &name)).collect();
    Ok(Claims { ours, misplaced })
}

/// Slots of the nodes whose volumes exist.
pub fn slots(claims: &[PersistentVolumeClaim], layout: &Layout) -> BTreeSet<i32> {
    claims.iter().filter_map(|claim| slot_of(&claim.name_any(), layout)).collect()
}

fn slot_of(claim: &str, layout: &Layout) -> Option<i32> {
    layout.slot_of(claim.strip_prefix(DATA_VOLUME)?.strip_prefix('-')?)
}

/// Whether a claim has a name that the volume of a node has, in whatever zone.
fn is_of_a_node(claim: &str, cluster: &str) -> bool {
    let rest = claim.strip_prefix(DATA_VOLUME).and_then(|rest| rest.strip_prefix('-'));
    let rest = rest.and_then(|rest| rest.strip_prefix(cluster)).and_then(|rest| rest.strip_prefix('-'));
    rest.and_then(|rest| rest.rsplit('-').next()?.parse::<u32>().ok()).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_of_another_cluster_whose_name_begins_alike_are_not_touched() {
        let layout = Layout::of("demo", &[]);
        assert_eq!(slot_of("data-demo-7", &layout), Some(7));
        for other in ["data-demo-x-0", "data-demo-00", "data-demo", "other"] {
            assert_eq!(slot_of(other, &layout), None, "{other}");
        }
        let zoned = Layout::of("demo", &["x".into(), "y".into()]);
        assert_eq!((slot_of("data-demo-x-1", &zoned), slot_of("data-demo-7", &zoned)), (Some(2), None));
    }

    #[test]
    fn what_a_node_in_another_zone_has_left_is_told_from_what_no_node_has() {
        for left in ["data-demo-7", "data-demo-x-0", "data-demo-east-1-0"] {
            assert!(is_of_a_node(left, "demo"), "{left}");
        }
        for other in ["data-demo", "data-demo-x", "data-other-0", "cache-demo-0"] {
            assert!(!is_of_a_node(other, "demo"), "{other}");
        }
    }
}
