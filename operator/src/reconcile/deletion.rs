//! What outlives a BrainyCluster, and what does not. Objects go by their owner reference; volumes have one only if the
//! deletion policy is Delete. Data in a bucket stays, unless the policy is Delete: only then is there a finalizer, because a
//! finalizer blocks the deletion of a namespace.

use brainy_crds::{BrainyCluster, DeletionPolicy};
use k8s_openapi::api::apps::v1::StatefulSet;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, ResourceExt};
use serde_json::json;
use std::time::Duration;

use super::validate::{Refusal, ValidatedCluster, validate};
use super::{Error, LATER, SOON, dereference, status};
use crate::context::{ClusterMemory, Context};
use crate::storage;
use crate::volumes;

/// Holds a BrainyCluster until its data in the bucket is gone.
pub const FINALIZER: &str = "brainy.io/bucket-data";

/// Adds or removes the finalizer, as the policy says. Called before the bucket is claimed, so that no data is ever there
/// without it.
pub(super) async fn keep_finalizer(
    context: &Context,
    cluster: &BrainyCluster,
    validated: &ValidatedCluster,
) -> Result<(), Error> {
    let needed = validated.deletion_policy == DeletionPolicy::Delete && validated.any_bucket().is_some();
    match (needed, has_finalizer(cluster)) {
        (true, false) => set_finalizer(context, cluster, true).await,
        (false, true) => set_finalizer(context, cluster, false).await,
        _ => Ok(()),
    }
}

/// Follows the policy Retain also where the rest of the spec is refused: what is deleted then must leave its data.
pub(super) async fn retain_if_asked(context: &Context, cluster: &BrainyCluster) -> Result<(), Error> {
    if cluster.spec.deletion_policy == DeletionPolicy::Delete {
        return Ok(());
    }
    context.must_lead()?;
    let claims = dereference::claims(&context.client, cluster).await?;
    volumes::follow_policy(&context.client, cluster, &claims).await?;
    if has_finalizer(cluster) {
        set_finalizer(context, cluster, false).await?;
    }
    Ok(())
}

/// A BrainyCluster that is being deleted. Nothing is created for it any more.
pub(super) async fn clean_up(
    context: &Context,
    cluster: &BrainyCluster,
    memory: &mut ClusterMemory,
) -> Result<Duration, Error> {
    if !has_finalizer(cluster) {
        return Ok(LATER);
    }
    if cluster.spec.deletion_policy != DeletionPolicy::Delete {
        set_finalizer(context, cluster, false).await?;
        return Ok(LATER);
    }
    let validated = match validate(cluster) {
        Ok(validated) => validated,
        Err(refusal) => {
            return stuck(context, cluster, Refusal::REASON, &refusal.to_string()).await.map(|()| LATER);
        }
    };
    if !stop_nodes(context, cluster).await? {
        return Ok(SOON);
    }
    let found = dereference::dereference(&context.client, cluster.clone()).await?;
    context.must_lead()?;
    match storage::delete_data(context, &validated, found.credentials.as_ref(), &mut memory.storage).await {
        Ok(deleted) => {
            tracing::info!(
                cluster = validated.name,
                namespace = validated.namespace,
                deleted,
                "deleted the data in the bucket"
            );
            set_finalizer(context, cluster, false).await?;
            Ok(LATER)
        }
        Err((problem, retry_in)) => stuck(context, cluster, &problem.reason, &problem.message).await.map(|()| retry_in),
    }
}

/// Says why the data can't be deleted, and the way out.
async fn stuck(context: &Context, cluster: &BrainyCluster, reason: &str, why: &str) -> Result<(), Error> {
    let message = format!(
        "the data in the bucket can't be deleted ({why}); to let the BrainyCluster go without it, set spec.deletionPolicy to Retain"
    );
    super::report(context, cluster, &status::refused(cluster, reason, &message, jiff::Timestamp::now())).await
}

/// Deletes the nodes, and says whether the last one is gone. The finalizer holds the owner, so nobody else deletes them.
async fn stop_nodes(context: &Context, cluster: &BrainyCluster) -> Result<bool, Error> {
    let sets: Api<StatefulSet> = Api::namespaced(context.client.clone(), &cluster.namespace().unwrap_or_default());
    let found = dereference::sets(&context.client, cluster).await?;
    let left: Vec<&StatefulSet> = found.there().chain(&found.others).collect();
    for set in left.iter().filter(|set| set.metadata.deletion_timestamp.is_none()) {
        context.must_lead()?;
        // In the foreground: the StatefulSet is gone when its last pod is. By UID (R10).
        let params = DeleteParams::foreground().preconditions(Preconditions { uid: set.uid(), resource_version: None });
        match sets.delete(&set.name_any(), &params).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(left.is_empty())
}

fn has_finalizer(cluster: &BrainyCluster) -> bool {
    cluster.finalizers().iter().any(|finalizer| finalizer == FINALIZER)
}

/// Conditional on the version that was read: another controller's finalizer is never lost.
async fn set_finalizer(context: &Context, cluster: &BrainyCluster, present: bool) -> Result<(), Error> {
    context.must_lead()?;
    let others = cluster.finalizers().iter().filter(|finalizer| *finalizer != FINALIZER).cloned();
    let ours = present.then(|| FINALIZER.to_owned());
    let finalizers: Vec<String> = others.chain(ours).collect();
    let patch = json!({"metadata": {"resourceVersion": cluster.resource_version(), "finalizers": finalizers}});
    let clusters: Api<BrainyCluster> =
        Api::namespaced(context.client.clone(), &cluster.namespace().unwrap_or_default());
    match clusters.patch(&cluster.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.is_not_found() && !present => Ok(()),
        Err(error) => Err(error.into()),
    }
}
