//! Whether a volume goes with its BrainyCluster. The claims themselves belong to it if the policy is Delete: a StatefulSet's
//! retention policy knows only the nodes that exist, and would take all data along with a StatefulSet that is deleted by
//! hand.

use brainy_crds::{BrainyCluster, DeletionPolicy};
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, Resource, ResourceExt};
use serde_json::json;

use super::Claims;
use crate::reconcile::Error;

/// Makes every claim belong to the cluster, or to nobody, as its policy says. A claim that does is left alone.
pub async fn follow_policy(client: &Client, cluster: &BrainyCluster, claims: &Claims) -> Result<(), Error> {
    let Some(owner) = cluster.owner_ref(&()) else {
        return Ok(());
    };
    let api: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), &cluster.namespace().unwrap_or_default());
    // What is to stay stays, whatever has become of the zones. With the cluster go the volumes of its own nodes alone.
    let others = claims.misplaced.iter().filter(|_| cluster.spec.deletion_policy == DeletionPolicy::Retain);
    for claim in claims.ours.iter().chain(others) {
        let Some(owners) = owners(claim, &owner, cluster.spec.deletion_policy) else {
            continue;
        };
        // Conditional on the version that was read: another's reference is never lost, nor another claim of the name met.
        let version = claim.resource_version();
        let patch = json!({"metadata": {"uid": claim.uid(), "resourceVersion": version, "ownerReferences": owners}});
        api.patch(&claim.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await?;
        tracing::info!(claim = claim.name_any(), policy = ?cluster.spec.deletion_policy, "set what becomes of a volume");
    }
    Ok(())
}

/// The owners that a claim should have; `None`: those that it has.
fn owners(
    claim: &PersistentVolumeClaim,
    owner: &OwnerReference,
    policy: DeletionPolicy,
) -> Option<Vec<OwnerReference>> {
    let (ours, others): (Vec<_>, Vec<_>) =
        claim.owner_references().iter().cloned().partition(|reference| reference.uid == owner.uid);
    let wanted = policy == DeletionPolicy::Delete;
    (ours.is_empty() == wanted).then(|| others.into_iter().chain(wanted.then(|| owner.clone())).collect())
}
