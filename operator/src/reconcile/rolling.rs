//! The effects of the [roller](crate::roller): the deletion of an outdated pod, the restart of its sidecar, or its resize.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::Value;

use super::apply::delete_exactly;
use super::build::{Applied, KubernetesResources};
use super::dereference::{Dereferenced, Sets, pods};
use super::validate::ValidatedCluster;
use super::{Error, FIELD_MANAGER, is_ready};
use crate::context::Context;
use crate::in_place::resources::SUBRESOURCE;
use crate::in_place::{InPlace, in_place, was_changed};
use crate::roller::{NodePod, Roll, decide};
use crate::shards::Summary;

/// Label that the StatefulSet controller puts on a pod: the revision of the template that it was made from.
const REVISION_LABEL: &str = "controller-revision-hash";

/// What is remembered between looks.
#[derive(Debug, Default)]
pub struct Memory {
    /// Templates by their revision. A revision never changes.
    templates: BTreeMap<String, Value>,
    /// Pods, by UID, that could not be made what a revision says while they run.
    refused: BTreeSet<(String, String)>,
}

/// How far the newest template has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Rollout {
    /// Every pod has it.
    Done,
    /// Not yet: what is waited for, or was done.
    Underway(String),
    /// Not yet, and no pod is taken away for it: pods get other resources where they run.
    Resizing(String),
}

/// Replaces at most one pod, or changes it where it runs.
pub(super) async fn roll(
    context: &Context,
    cluster: &ValidatedCluster,
    applied: &KubernetesResources<Applied>,
    found: &Dereferenced,
    (shards, memory): (&Summary, &mut Memory),
) -> Result<Rollout, Error> {
    // The wish has no status; where nothing was applied, what was read before is as it stands.
    let as_it_stands = applied.statefulsets.iter().zip(&found.sets.live).map(|(applied, read)| match read {
        Some(read) if applied.status.is_none() => read,
        _ => applied,
    });
    let live: Vec<&StatefulSet> = as_it_stands.collect();
    let Some(newest) = live.iter().map(|set| settled_revision(set)).collect::<Option<Vec<String>>>() else {
        return Ok(Rollout::Underway("the StatefulSet controller has not yet seen the newest template".into()));
    };
    let wanted = live.iter().filter_map(|set| set.spec.as_ref()?.replicas).sum();
    memory.learn(context, cluster, &found.pods, &newest).await?;
    let look =
        |pods: &[Pod], memory: &Memory| decide(&node_pods(cluster, pods, &newest, memory), wanted, shards.is_settled());
    let mut next = look(&found.pods, memory);
    if let Roll::Replace(_) | Roll::Restart(..) = next {
        // Decided once more on a fresh read, right before a node is taken away (R10).
        let sets = Sets { live: live.into_iter().cloned().map(Some).collect(), ..found.sets.clone() };
        next = look(&pods(&context.client, &cluster.namespace, &cluster.name, &sets).await?, memory);
    }
    let act = Act { context, cluster, found, newest: &newest };
    match next {
        Roll::Replace(pod) => act.replace(&pod).await,
        Roll::Restart(pod, patch) => act.patch(&pod, (Way::Restart, &patch), memory).await,
        Roll::Resize(pod, patch) => act.patch(&pod, (Way::Resize, &patch), memory).await,
        Roll::Done => Ok(Rollout::Done),
        Roll::Wait(why) => Ok(Rollout::Underway(why)),
        Roll::Resizing(why) => Ok(Rollout::Resizing(why)),
    }
}

/// What is done to one pod.
struct Act<'a> {
    context: &'a Context,
    cluster: &'a ValidatedCluster,
    found: &'a Dereferenced,
    /// The newest revision of each StatefulSet.
    newest: &'a [String],
}

/// How a pod is changed where it runs.
#[derive(Clone, Copy, Debug)]
enum Way {
    Restart,
    Resize,
}

impl Act<'_> {
    fn api(&self) -> Api<Pod> {
        Api::namespaced(self.context.client.clone(), &self.cluster.namespace)
    }

    async fn replace(&self, pod: &NodePod) -> Result<Rollout, Error> {
        let Self { context, cluster, .. } = self;
        delete_exactly(&self.api(), &pod.name, Some(pod.uid.clone())).await?;
        tracing::info!(
            cluster = cluster.name,
            namespace = cluster.namespace,
            pod = pod.name,
            "replaced an outdated pod"
        );
        context.events.replaced_pod(&self.found.cluster, &pod.name).await;
        Ok(Rollout::Underway(format!("pod {} is being replaced", pod.name)))
    }

    /// Changes a pod where it runs. Where that is refused, it is replaced with the next look.
    async fn patch(&self, pod: &NodePod, (way, patch): (Way, &Value), memory: &mut Memory) -> Result<Rollout, Error> {
        let Self { context, cluster, found, newest } = self;
        // By this name a later look knows what the pod was given.
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
        let patch = Patch::Strategic(patch);
        let answer = match way {
            Way::Resize => self.api().patch_subresource(SUBRESOURCE, &pod.name, &params, &patch).await,
            Way::Restart => self.api().patch(&pod.name, &params, &patch).await,
        };
        match (answer, way) {
            (Ok(_), Way::Resize) => {
                tracing::info!(cluster = cluster.name, namespace = cluster.namespace, pod = pod.name, "resized a pod");
                context.events.resized_pod(&found.cluster, &pod.name).await;
                Ok(Rollout::Resizing(format!("pod {} is being resized", pod.name)))
            }
            (Ok(_), Way::Restart) => {
                tracing::info!(
                    cluster = cluster.name,
                    namespace = cluster.namespace,
                    pod = pod.name,
                    "gave a pod another sidecar"
                );
                context.events.restarted_sidecar(&found.cluster, &pod.name).await;
                Ok(Rollout::Underway(format!("the sidecar of pod {} is being restarted", pod.name)))
            }
            // Another pod of the name by now, or too much at once: a later look decides anew.
            (Err(kube::Error::Api(status)), _)
                if (400..500).contains(&status.code) && !status.is_conflict() && status.code != 429 =>
            {
                let why = status.message.clone();
                tracing::info!(cluster = cluster.name, pod = pod.name, why, "a pod can't be changed where it runs");
                let newest = newest.get(pod.set).cloned().unwrap_or_default();
                memory.refused.insert((pod.uid.clone(), newest));
                Ok(Rollout::Underway(format!(
                    "pod {} can't be changed where it runs, and is replaced: {why}",
                    pod.name
                )))
            }
            (Err(error), _) => Err(error.into()),
        }
    }
}

impl Memory {
    /// Reads the templates of the revisions that pods have, and of the newest, where any pod has another or was changed since.
    async fn learn(
        &mut self,
        context: &Context,
        cluster: &ValidatedCluster,
        pods: &[Pod],
        newest: &[String],
    ) -> Result<(), Error> {
        let newest: BTreeSet<&str> = newest.iter().map(String::as_str).collect();
        let revisions: BTreeSet<&str> = pods.iter().filter_map(revision).chain(newest.iter().copied()).collect();
        self.templates.retain(|revision, _| revisions.contains(revision.as_str()));
        self.refused.retain(|(_, revision)| newest.contains(revision.as_str()));
        if revisions == newest && !pods.iter().any(|pod| was_changed(pod, FIELD_MANAGER)) {
            return Ok(());
        }
        let api: Api<ControllerRevision> = Api::namespaced(context.client.clone(), &cluster.namespace);
        for revision in revisions {
            if self.templates.contains_key(revision) {
                continue;
            }
            // One that is gone is a template that nobody can compare: its pods are replaced.
            if let Some(found) = api.get_opt(revision).await?
                && let Some(data) = found.data
            {
                self.templates.insert(revision.to_owned(), data.0["spec"]["template"].clone());
            }
        }
        Ok(())
    }

    fn in_place(&self, pod: &Pod, newest: &str) -> InPlace {
        let uid = pod.uid().unwrap_or_default();
        let from = revision(pod).and_then(|revision| self.templates.get(revision));
        match (from, self.templates.get(newest)) {
            (Some(from), Some(to)) if !self.refused.contains(&(uid, newest.to_owned())) => {
                // It has been JSON just before.
                in_place(&serde_json::to_value(pod).unwrap_or_default(), from, to, FIELD_MANAGER)
            }
            _ => InPlace::No,
        }
    }
}

fn revision(pod: &Pod) -> Option<&str> {
    pod.labels().get(REVISION_LABEL).map(String::as_str)
}

/// The newest template's revision, once the StatefulSet controller has seen the newest spec.
fn settled_revision(statefulset: &StatefulSet) -> Option<String> {
    let status = statefulset.status.as_ref()?;
    let current = status.observed_generation >= statefulset.metadata.generation;
    status.update_revision.clone().filter(|_| current)
}

/// The pods of nodes, leaving nodes among them.
fn node_pods(cluster: &ValidatedCluster, pods: &[Pod], newest: &[String], memory: &Memory) -> Vec<NodePod> {
    let node_pod = |pod: &Pod| {
        let name = pod.name_any();
        let (set, ordinal) = cluster.layout.place(cluster.layout.slot_of(&name)?);
        let newest = newest.get(set)?;
        Some(NodePod {
            set,
            ordinal,
            uid: pod.uid()?,
            // One that was changed may have what another template says, whichever it was made from.
            newest: revision(pod) == Some(newest) && !was_changed(pod, FIELD_MANAGER),
            ready: is_ready(pod),
            deleting: pod.metadata.deletion_timestamp.is_some(),
            in_place: memory.in_place(pod, newest),
            name,
        })
    };
    pods.iter().filter_map(node_pod).collect()
}
