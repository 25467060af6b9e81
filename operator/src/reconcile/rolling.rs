//! The one effect of the [roller](crate::roller): the deletion of an outdated pod.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, ResourceExt};

use super::apply::delete_exactly;
use super::build::{Applied, KubernetesResources};
use super::dereference::{Dereferenced, ordinal_of, pods};
use super::validate::ValidatedCluster;
use super::{Error, is_ready};
use crate::context::Context;
use crate::roller::{NodePod, Roll, decide};
use crate::shards::Summary;

/// Label that the StatefulSet controller puts on a pod: the revision of the template that it was made from.
const REVISION_LABEL: &str = "controller-revision-hash";

/// How far the newest template has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Rollout {
    /// Every pod has it.
    Done,
    /// Not yet: what is waited for, or was done.
    Underway(String),
}

/// Replaces at most one pod.
pub(super) async fn roll(
    context: &Context,
    cluster: &ValidatedCluster,
    applied: &KubernetesResources<Applied>,
    found: &Dereferenced,
    shards: &Summary,
) -> Result<Rollout, Error> {
    // The wish has no status; where nothing was applied, what was read before is as it stands.
    let statefulset = match (&applied.statefulset.status, &found.statefulset) {
        (None, Some(read)) => read,
        _ => &applied.statefulset,
    };
    let Some(newest) = settled_revision(statefulset) else {
        return Ok(Rollout::Underway("the StatefulSet controller has not yet seen the newest template".into()));
    };
    let wanted = statefulset.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(cluster.replicas);
    let first = decide(&node_pods(cluster, &found.pods), newest, wanted, shards.is_settled());
    let Roll::Replace(_) = first else {
        return Ok(rollout(first));
    };
    // Decided once more on a fresh read, right before the act (R10).
    let now = pods(&context.client, &cluster.namespace, &cluster.name, statefulset).await?;
    match decide(&node_pods(cluster, &now), newest, wanted, shards.is_settled()) {
        Roll::Replace(pod) => {
            let api: Api<Pod> = Api::namespaced(context.client.clone(), &cluster.namespace);
            delete_exactly(&api, &pod.name, Some(pod.uid.clone())).await?;
            tracing::info!(
                cluster = cluster.name,
                namespace = cluster.namespace,
                pod = pod.name,
                "replaced an outdated pod"
            );
            context.events.replaced_pod(&found.cluster, &pod.name).await;
            Ok(Rollout::Underway(format!("pod {} is being replaced", pod.name)))
        }
        other => Ok(rollout(other)),
    }
}

fn rollout(roll: Roll) -> Rollout {
    match roll {
        Roll::Done => Rollout::Done,
        Roll::Wait(why) => Rollout::Underway(why),
        Roll::Replace(pod) => Rollout::Underway(format!("pod {} is outdated", pod.name)),
    }
}

/// The newest template's revision, once the StatefulSet controller has seen the newest spec.
fn settled_revision(statefulset: &StatefulSet) -> Option<&str> {
    let status = statefulset.status.as_ref()?;
    let current = status.observed_generation >= statefulset.metadata.generation;
    status.update_revision.as_deref().filter(|_| current)
}

/// The pods of nodes, leaving nodes among them.
fn node_pods(cluster: &ValidatedCluster, pods: &[Pod]) -> Vec<NodePod> {
    let node_pod = |pod: &Pod| {
        let name = pod.name_any();
        Some(NodePod {
            ordinal: ordinal_of(&cluster.name, &name)?,
            uid: pod.uid()?,
            revision: pod.labels().get(REVISION_LABEL).cloned().unwrap_or_default(),
            ready: is_ready(pod),
            deleting: pod.metadata.deletion_timestamp.is_some(),
            name,
        })
    };
    pods.iter().filter_map(node_pod).collect()
}
