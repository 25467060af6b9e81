//! The regions of a cluster: which is its own, and how they stand.
//!
//! Which region is a cluster's own is decided once, here, and written down in its status before anything is done by it: all
//! that is done with a bucket from then on is done with that region's.

mod condition;

use std::collections::BTreeSet;

use brainy_crds::{BrainyCluster, BrainyClusterStatus, BucketSpec, HomeStatus, RegionSpec, RegionStatus};

use crate::reconcile::validate::Refusal;

pub use condition::{Healthy, condition, status};

/// How the regions stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// The condition; none: no node has said anything yet.
    pub healthy: Option<Healthy>,
    /// What is said of each.
    pub status: Vec<RegionStatus>,
}

/// The label in which a machine says its region.
pub const LABEL: &str = "topology.kubernetes.io/region";

/// Which region is the cluster's own, as far as that was decided.
pub fn own(cluster: &BrainyCluster) -> Option<&str> {
    cluster.status.as_ref()?.region.as_deref()
}

/// The own region, as the spec describes it now.
pub fn own_spec(cluster: &BrainyCluster) -> Option<&RegionSpec> {
    let own = own(cluster)?;
    cluster.spec.storage.regions.iter().flatten().find(|region| region.name == own)
}

/// The bucket that is this cluster's: for all data, for that of its region, or for what is cold.
pub fn own_bucket(cluster: &BrainyCluster) -> Option<&BucketSpec> {
    let storage = &cluster.spec.storage;
    let tiering = || storage.tiering.as_ref().map(|tiering| &tiering.bucket);
    let region = || own_spec(cluster).map(|region| &region.bucket);
    storage.bucket.as_ref().or_else(region).or_else(tiering)
}

/// What the status is to say of the own region and of the home before anything is done; `None`: nothing else than it does. `machines`: the
/// regions of the machines, as far as they are known.
pub fn decide(
    cluster: &BrainyCluster,
    machines: &BTreeSet<Option<String>>,
) -> Result<Option<BrainyClusterStatus>, Refusal> {
    let storage = &cluster.spec.storage;
    let Some(regions) = &storage.regions else { return Ok(None) };
    let before = cluster.status.clone().unwrap_or_default();
    let home = match (home(cluster), &before.home) {
        (Some(home), Some(stands)) if stands.region == home => Some(stands.clone()),
        (Some(home), _) => {
            let since = cluster.metadata.generation.unwrap_or_default();
            Some(HomeStatus { region: home.to_owned(), since })
        }
        (None, stands) => stands.clone(),
    };
    let decided = |region: String| {
        let status = BrainyClusterStatus { region: Some(region), home, ..before.clone() };
        Ok(Some(status).filter(|status| *status != before))
    };
    if let Some(own) = own(cluster) {
        return decided(own.to_owned());
    }
    let own = match &storage.region {
        Some(region) => region.clone(),
        None => common(machines).map_err(|why| not_told(regions, &why))?.to_owned(),
    };
    if !regions.iter().any(|region| region.name == own) {
        return Err(not_told(regions, &format!("the machines are in {own}")));
    }
    decided(own)
}

/// The region in which the spec wishes keys to be decided.
pub fn home(cluster: &BrainyCluster) -> Option<&str> {
    let storage = &cluster.spec.storage;
    let first = || storage.regions.as_ref()?.first().map(|region| &region.name);
    storage.replication.as_ref().and_then(|replication| replication.home.as_ref()).or_else(first).map(String::as_str)
}

fn not_told(regions: &[RegionSpec], why: &str) -> Refusal {
    let names: Vec<&str> = regions.iter().map(|region| region.name.as_str()).collect();
    let problem = format!(
        "is needed, for which of storage.regions is this cluster's own can't be told: {why}. Set it to one of {}",
        names.join(", ")
    );
    Refusal { field: "spec.storage.region", problem }
}

/// The region that all machines are in, or why there is none.
fn common(machines: &BTreeSet<Option<String>>) -> Result<&str, String> {
    let named: Vec<&str> = machines.iter().flatten().map(String::as_str).collect();
    match (named.as_slice(), machines.contains(&None)) {
        ([], false) => {
            Err("no machine is known; the operator has no right to see them, or has seen none yet".to_owned())
        }
        ([], true) => Err(format!("the machines have no label {LABEL}")),
        ([only], false) => Ok(only),
        ([only], true) => Err(format!("some machines have the label {LABEL}={only}, and others have none")),
        (several, _) => Err(format!("the machines are in several: {}", several.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::in_regions;

    fn machines(labels: &[Option<&str>]) -> BTreeSet<Option<String>> {
        labels.iter().map(|label| label.map(str::to_owned)).collect()
    }

    fn decided(cluster: &BrainyCluster, labels: &[Option<&str>]) -> Result<Option<String>, String> {
        match decide(cluster, &machines(labels)) {
            Ok(status) => Ok(status.and_then(|status| status.region)),
            Err(refusal) => Err(refusal.to_string()),
        }
    }

    #[test]
    fn the_own_region_is_the_one_that_is_said_or_that_all_machines_are_in() {
        let mut cluster = in_regions();
        cluster.status = None;
        assert_eq!(decided(&cluster, &[Some("us")]), Ok(Some("us".to_owned())));
        cluster.spec.storage.region = Some("eu".to_owned());
        assert_eq!(decided(&cluster, &[Some("us"), None]), Ok(Some("eu".to_owned())));
        cluster.spec.storage.region = None;
        for (labels, why) in [
            (&[][..], "no machine is known"),
            (&[None], "have no label topology.kubernetes.io/region"),
            (&[Some("eu"), None], "and others have none"),
            (&[Some("eu"), Some("us")], "in several: eu, us"),
            (&[Some("ap")], "are in ap"),
        ] {
            let refused = decided(&cluster, labels).unwrap_err();
            assert!(refused.starts_with("spec.storage.region: ") && refused.ends_with("one of eu, us"), "{refused}");
            assert!(refused.contains(why), "{refused}");
        }
    }

    #[test]
    fn what_was_decided_stays_whatever_the_machines_are_labelled_with_later() {
        let cluster = in_regions();
        assert_eq!(own(&cluster), Some("us"));
        assert_eq!(decided(&cluster, &[Some("eu")]), Ok(None));
        assert_eq!(own_bucket(&cluster).map(|bucket| bucket.name.as_str()), Some("data-us"));
    }

    #[test]
    fn a_wish_for_another_home_is_as_old_as_the_spec_that_has_it_first() {
        let mut cluster = in_regions();
        let since = |cluster: &BrainyCluster| {
            let status = decide(cluster, &machines(&[])).unwrap().or_else(|| cluster.status.clone()).unwrap();
            status.home.map(|home| (home.region, home.since))
        };
        cluster.metadata.generation = Some(9);
        assert_eq!(since(&cluster), Some(("eu".to_owned(), 7)), "it stands");
        cluster.spec.storage.replication = Some(serde_json::from_value(serde_json::json!({"home": "us"})).unwrap());
        assert_eq!(since(&cluster), Some(("us".to_owned(), 9)));
        cluster.status = decide(&cluster, &machines(&[])).unwrap();
        cluster.metadata.generation = Some(10);
        assert_eq!((decide(&cluster, &machines(&[])), since(&cluster)), (Ok(None), Some(("us".to_owned(), 9))));
    }

    #[test]
    fn a_cluster_with_one_bucket_has_no_region() {
        assert_eq!(decided(&crate::fixtures::shared(), &[]), Ok(None));
        assert_eq!(own_bucket(&crate::fixtures::shared()).map(|bucket| bucket.name.as_str()), Some("data"));
    }
}
