//! The nodes: a StatefulSet, or one for each zone, whose pods only our own roller replaces.

use std::collections::BTreeMap;

use brainy_kubernetes::names;
use k8s_openapi::api::apps::v1::{
    StatefulSet, StatefulSetPersistentVolumeClaimRetentionPolicy, StatefulSetSpec, StatefulSetUpdateStrategy,
};
use k8s_openapi::api::core::v1::{
    ConfigMap, PersistentVolumeClaim, PersistentVolumeClaimSpec, VolumeResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{Carried, SidecarImage, labels, metadata, pod, selector, zone_labels};
use crate::layout::{Layout, NodeSet};
use crate::plan;
use crate::reconcile::validate::ValidatedCluster;

/// Name of the volume claim template.
pub const DATA_VOLUME: &str = "data";

pub(super) fn statefulsets(
    cluster: &ValidatedCluster,
    sidecar: &SidecarImage,
    carried: &Carried,
    config: &ConfigMap,
) -> Vec<StatefulSet> {
    let sets = cluster.layout.sets().iter().enumerate();
    sets.map(|(at, set)| statefulset(cluster, sidecar, carried, config, (at, set))).collect()
}

fn statefulset(
    cluster: &ValidatedCluster,
    sidecar: &SidecarImage,
    carried: &Carried,
    config: &ConfigMap,
    (at, set): (usize, &NodeSet),
) -> StatefulSet {
    let zone = set.zone.as_deref();
    let mut metadata = metadata(cluster, set.name.clone());
    metadata.labels.get_or_insert_default().extend(zone_labels(zone));
    metadata.annotations = annotations(cluster, carried, at);
    // Those of other zones are none of this one's pods, nor are their revisions.
    let mut selector = selector(cluster);
    selector.match_labels.get_or_insert_default().extend(zone_labels(zone));
    StatefulSet {
        metadata,
        spec: Some(StatefulSetSpec {
            replicas: Some(cluster.layout.share(at, carried.replicas)),
            service_name: Some(names::nodes_service(&cluster.name)),
            selector,
            // Nodes don't depend on each other's order.
            pod_management_policy: Some("Parallel".into()),
            // The controller's own rolling update never heals a bad rollout; ours replaces broken pods first.
            update_strategy: Some(StatefulSetUpdateStrategy { type_: Some("OnDelete".into()), rolling_update: None }),
            template: pod::template(cluster, sidecar, config, zone),
            volume_claim_templates: claim_template(cluster, carried, at).map(|claim| vec![claim]),
            persistent_volume_claim_retention_policy: retention(cluster),
            ..StatefulSetSpec::default()
        }),
        status: None,
    }
}

fn annotations(cluster: &ValidatedCluster, carried: &Carried, at: usize) -> Option<BTreeMap<String, String>> {
    let since = carried.consensus_since.map(|since| (names::CONSENSUS_SINCE_ANNOTATION.to_owned(), since.to_string()));
    // In one place: it is written by itself, before what it says is begun.
    let accepted = carried.accepted.as_ref().filter(|_| at == 0);
    let accepted = accepted.map(|accepted| (plan::ANNOTATION.to_owned(), accepted.text()));
    let zones = zones_text(&cluster.layout).map(|zones| (names::ZONES_ANNOTATION.to_owned(), zones));
    let all: BTreeMap<String, String> = since.into_iter().chain(accepted).chain(zones).collect();
    (!all.is_empty()).then_some(all)
}

/// The zones of a cluster as its StatefulSets say them. `None`: it has none.
pub fn zones_text(layout: &Layout) -> Option<String> {
    let zones: Vec<&str> = layout.sets().iter().filter_map(|set| set.zone.as_deref()).collect();
    (!zones.is_empty()).then(|| zones.join(","))
}

/// The StatefulSet deletes no volume, whatever the policy: [`crate::volumes::follow_policy`] makes them go with the cluster,
/// and with nothing less.
fn retention(cluster: &ValidatedCluster) -> Option<StatefulSetPersistentVolumeClaimRetentionPolicy> {
    let retain = || Some("Retain".to_owned());
    cluster
        .volume
        .is_some()
        .then(|| StatefulSetPersistentVolumeClaimRetentionPolicy { when_deleted: retain(), when_scaled: retain() })
}

fn claim_template(cluster: &ValidatedCluster, carried: &Carried, at: usize) -> Option<PersistentVolumeClaim> {
    let volume = cluster.volume.as_ref()?;
    // The template of a live StatefulSet can't be changed, and an apply that tries is refused whole: whatever it has, it keeps.
    if let Some(live) = carried.claim_templates.get(at).and_then(Option::as_ref) {
        return Some(live.clone());
    }
    Some(PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(DATA_VOLUME.into()),
            labels: Some(labels(&cluster.name)),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec!["ReadWriteOnce".into()]),
            resources: Some(VolumeResourceRequirements {
                requests: Some(BTreeMap::from([("storage".to_owned(), volume.size.clone())])),
                limits: None,
            }),
            storage_class_name: volume.storage_class_name.clone(),
            ..PersistentVolumeClaimSpec::default()
        }),
        status: None,
    })
}
