//! The nodes: a StatefulSet whose pods only our own roller replaces.

use std::collections::BTreeMap;

use brainy_crds::VolumeSpec;
use brainy_kubernetes::names;
use k8s_openapi::api::apps::v1::{
    StatefulSet, StatefulSetPersistentVolumeClaimRetentionPolicy, StatefulSetSpec, StatefulSetUpdateStrategy,
};
use k8s_openapi::api::core::v1::{
    ConfigMap, PersistentVolumeClaim, PersistentVolumeClaimSpec, VolumeResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{Carried, SidecarImage, labels, metadata, pod, selector};
use crate::plan;
use crate::reconcile::validate::ValidatedCluster;

/// Name of the volume claim template.
pub const DATA_VOLUME: &str = "data";

pub(super) fn statefulset(
    cluster: &ValidatedCluster,
    sidecar: &SidecarImage,
    carried: &Carried,
    config: &ConfigMap,
) -> StatefulSet {
    StatefulSet {
        metadata: ObjectMeta { annotations: annotations(carried), ..metadata(cluster, cluster.name.clone()) },
        spec: Some(StatefulSetSpec {
            replicas: Some(carried.replicas),
            service_name: Some(names::nodes_service(&cluster.name)),
            selector: selector(cluster),
            // Nodes don't depend on each other's order.
            pod_management_policy: Some("Parallel".into()),
            // The controller's own rolling update never heals a bad rollout; ours replaces broken pods first.
            update_strategy: Some(StatefulSetUpdateStrategy { type_: Some("OnDelete".into()), rolling_update: None }),
            template: pod::template(cluster, sidecar, config),
            volume_claim_templates: claim_template(cluster, carried).map(|claim| vec![claim]),
            persistent_volume_claim_retention_policy: retention(cluster),
            ..StatefulSetSpec::default()
        }),
        status: None,
    }
}

fn annotations(carried: &Carried) -> Option<BTreeMap<String, String>> {
    let since = carried.consensus_since.map(|since| (names::CONSENSUS_SINCE_ANNOTATION.to_owned(), since.to_string()));
    let accepted = carried.accepted.as_ref().map(|accepted| (plan::ANNOTATION.to_owned(), accepted.text()));
    let all: BTreeMap<String, String> = since.into_iter().chain(accepted).collect();
    (!all.is_empty()).then_some(all)
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

fn claim_template(cluster: &ValidatedCluster, carried: &Carried) -> Option<PersistentVolumeClaim> {
    let volume = cluster.volume.as_ref()?;
    // The template of a live StatefulSet can't be changed, and an apply that tries is refused whole.
    let spec = carried.claim_template.as_ref().and_then(|live| live.spec.as_ref());
    let live = spec.map(|spec| VolumeSpec {
        size: spec
            .resources
            .as_ref()
            .and_then(|resources| resources.requests.as_ref()?.get("storage").cloned())
            .unwrap_or_else(|| volume.size.clone()),
        storage_class_name: spec.storage_class_name.clone(),
        engine: volume.engine,
        warn_percent: volume.warn_percent,
    });
    let wanted = live.as_ref().unwrap_or(volume);
    Some(PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(DATA_VOLUME.into()),
            labels: Some(labels(&cluster.name)),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec!["ReadWriteOnce".into()]),
            resources: Some(VolumeResourceRequirements {
                requests: Some(BTreeMap::from([("storage".to_owned(), wanted.size.clone())])),
                limits: None,
            }),
            storage_class_name: wanted.storage_class_name.clone(),
            ..PersistentVolumeClaimSpec::default()
        }),
        status: None,
    })
}
