//! Step 5: what people and programs read. The conditions are computed by a pure function; the status is written only when
//! it differs from what stands there.

use brainy_crds::condition::{
    CERTIFICATES_READY, CHANGES_APPROVED, DISRUPTION_ALLOWED, HIBERNATED, PROGRESSING, READY, REGIONS_HEALTHY,
    SHARDS_ASSIGNED, STORAGE_READY, TIERING_HEALTHY, VOLUMES_HEALTHY,
};
use brainy_crds::{BrainyCluster, BrainyClusterStatus, Plan};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, Resource};
use serde_json::json;

use super::build::selector_text;
use super::disruption::Verdict;
use super::{Error, FIELD_MANAGER};
use crate::identity;
use crate::regions;
use crate::volumes::{health, tiering};

/// Reason of Progressing: pods are replaced because their template changed.
pub const ROLLING_OUT: &str = "RollingOut";
/// Reason of Progressing: nodes that leave still hold shards.
pub const DRAINING: &str = "Draining";
/// Reason of Progressing: nodes that are to leave can't, since what they have finds no room on the volumes of the others.
pub const NO_ROOM: &str = "NoRoomToScaleDown";
/// Reason of DisruptionAllowed: evictions have been refused for a while because the cluster is not well.
pub const EVICTIONS_REFUSED: &str = "EvictionsRefused";
/// Reason of Progressing: pods come or go.
pub const SCALING: &str = "Scaling";
/// Reason of Progressing: all nodes stop, so that another pattern can begin.
pub const CHANGING_PATTERN: &str = "ChangingPattern";
/// Reason of Progressing: shards are on their way to their owners.
pub const ASSIGNING: &str = "AssigningShards";
/// Reason of Progressing: `spec.paused`.
pub const PAUSED: &str = "Paused";
/// Reason of Progressing and ChangesApproved: a change waits for its approval.
pub const PLAN_PENDING: &str = "PlanPending";
/// Reason of ChangesApproved: another plan was approved than the one that waits.
pub const PLAN_DRIFTED: &str = "PlanDrifted";
/// Reason of ChangesApproved: a plan is carried out.
pub const PLAN_APPROVED: &str = "PlanApproved";

/// What a reconcile found out about a cluster that can run.
#[derive(Clone, Debug, PartialEq)]
pub struct Observation {
    /// Nodes wanted.
    pub wanted: i32,
    /// Node pods that exist.
    pub present: i32,
    /// Pods of wanted nodes that are ready.
    pub ready: i32,
    /// Of each zone: how many nodes are ready, and how many are wanted.
    pub zones: Vec<(String, i32, i32)>,
    /// Nodes that no machine can take, in words; not all, where they are many.
    pub unplaced: Vec<String>,
    /// The storage.
    pub storage: StorageView,
    /// The shards; `None`: not looked at, because something before it failed. What was said before still stands.
    pub shards: Option<ShardsView>,
    /// Why the cluster is still being changed: a stable word, and a sentence. `None`: as the spec wants it.
    pub changing: Option<(&'static str, String)>,
    /// What keeps nodes from serving, in their own words.
    pub problems: Vec<String>,
    /// The nodes' certificates; `None`: the operator issues them, as it always did.
    pub certificates: Option<identity::View>,
    /// The volumes; `None`: data is on none.
    pub volumes: Option<health::View>,
    /// The regions; `None`: there is one, or they were not looked at. What was said before still stands.
    pub regions: Option<regions::View>,
    /// Nodes that wish to own no shard, with how many they still have.
    pub draining: Vec<String>,
    /// Nodes on machines that are being emptied, with how many they still have.
    pub emptied: Vec<String>,
    /// Whether a node's pod may be evicted, and whether it has been refused for long. `None`: not looked at. What was said before
    /// still stands.
    pub disruption: Option<(Verdict, bool)>,
    /// What went wrong in this reconcile: a stable word, and a sentence.
    pub failure: Option<(String, String)>,
    /// Nothing is to be changed.
    pub paused: bool,
    /// No node is wanted, and none runs: in words, with where the data is.
    pub hibernated: Option<String>,
    /// What of the spec waits for an approval.
    pub plan: PlanView,
}

/// Whether a change waits for an approval.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PlanView {
    /// Not looked at, because something came before it. What was said before still stands.
    Unknown,
    /// None does.
    Nothing,
    /// This one does. `drift`: why what is approved is not this.
    Waiting {
        /// What it would do.
        plan: Box<Plan>,
        /// What has changed since another plan was approved.
        drift: Option<String>,
    },
}

/// The storage, as far as the operator can see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StorageView {
    /// A volume per node: each node checks its own.
    Volumes,
    /// The bucket answers, honours conditional writes, and is this cluster's.
    Bucket,
    /// It can't be used: a stable word, and a sentence.
    Failed(String, String),
}

/// The shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardsView {
    /// All.
    pub total: u32,
    /// Those that have an owner in the published map.
    pub assigned: u32,
    /// Those that a live node says it holds, in agreement with the map.
    pub held: u32,
    /// Revision of the published map.
    pub revision: u64,
}

/// One condition before it has a time.
struct Finding {
    type_: &'static str,
    status: &'static str,
    reason: String,
    message: String,
}

/// The status after an observation.
pub fn after(cluster: &BrainyCluster, seen: &Observation, now: Timestamp) -> BrainyClusterStatus {
    let before = cluster.status.clone().unwrap_or_default();
    let mut status = BrainyClusterStatus {
        observed_generation: cluster.metadata.generation,
        replicas: seen.present,
        ready_nodes: seen.ready,
        nodes: format!("{}/{}", seen.ready, seen.wanted),
        nodes_by_zone: by_zone(&seen.zones),
        selector: selector_text(cluster.metadata.name.as_deref().unwrap_or_default()),
        ..before.clone()
    };
    if let Some(shards) = seen.shards {
        status.shards_owned = format!("{}/{}", shards.held, shards.total);
        status.map_revision = i64::try_from(shards.revision).unwrap_or(i64::MAX);
    }
    if seen.hibernated.is_some() {
        status.shards_owned = format!("0/{}", cluster.spec.shards);
    }
    status.plan = planned(seen, before.plan.as_ref());
    let mut findings = vec![ready(seen), progressing(seen), storage(&seen.storage)];
    let name = cluster.metadata.name.as_deref().unwrap_or_default();
    findings.extend(hibernated(seen, condition(&before, HIBERNATED).is_some()));
    findings.extend(approved(&seen.plan, status.plan.as_ref(), name));
    findings.extend(seen.shards.map(|shards| assigned(shards, &seen.draining, &seen.emptied)));
    findings.extend(seen.disruption.as_ref().map(|(verdict, long)| disruption(name, verdict, *long, &before)));
    findings.extend(seen.volumes.as_ref().and_then(|view| volumes(cluster, view, &before)));
    findings.extend(seen.volumes.as_ref().and_then(cold_tier));
    if let Some(view) = &seen.regions {
        status.regions.clone_from(&view.status);
        findings.extend(view.healthy.as_ref().map(regions));
    }
    findings.extend(seen.certificates.as_ref().map(certificates));
    status.conditions = merged(&before.conditions, findings, cluster.metadata.generation, now);
    status
}

/// The status of a resource that does not run: a stable word, and a sentence that names field, value and way out.
pub fn refused(cluster: &BrainyCluster, reason: &str, message: &str, now: Timestamp) -> BrainyClusterStatus {
    let before = cluster.status.clone().unwrap_or_default();
    let finding = |type_| Finding { type_, status: "False", reason: reason.into(), message: message.into() };
    BrainyClusterStatus {
        observed_generation: cluster.metadata.generation,
        selector: selector_text(cluster.metadata.name.as_deref().unwrap_or_default()),
        conditions: merged(
            &before.conditions,
            vec![finding(READY), finding(PROGRESSING)],
            cluster.metadata.generation,
            now,
        ),
        ..before
    }
}

fn by_zone(zones: &[(String, i32, i32)]) -> String {
    let zones: Vec<String> = zones.iter().map(|(zone, ready, wanted)| format!("{zone} {ready}/{wanted}")).collect();
    zones.join(", ")
}

/// The plan stays until it is carried out.
fn planned(seen: &Observation, before: Option<&Plan>) -> Option<Plan> {
    let is_over = seen.changing.is_none()
        && seen.failure.is_none()
        && !seen.paused
        && !matches!(seen.storage, StorageView::Failed(..));
    match &seen.plan {
        PlanView::Waiting { plan, .. } => Some((**plan).clone()),
        PlanView::Unknown => before.cloned(),
        PlanView::Nothing => before.filter(|plan| plan.approved && !is_over).cloned(),
    }
}

/// Said of a cluster that hibernates, and ever after.
fn hibernated(seen: &Observation, ever: bool) -> Option<Finding> {
    let (status, message) = match &seen.hibernated {
        Some(message) => ("True", message.clone()),
        None if ever => ("False", format!("{} nodes are wanted, {} exist", seen.wanted, seen.present)),
        None => return None,
    };
    let reason = if status == "True" { HIBERNATED } else { "Awake" };
    Some(Finding { type_: HIBERNATED, status, reason: reason.into(), message })
}

fn approved(view: &PlanView, plan: Option<&Plan>, cluster: &str) -> Option<Finding> {
    let (status, reason, message) = match (view, plan) {
        (PlanView::Unknown, _) => return None,
        (PlanView::Waiting { plan, drift }, _) => {
            let how = format!(
                "to carry it out: kubectl patch brainycluster {cluster} --type merge -p '{{\"spec\":{{\"rollout\":{{\"approvedPlan\":\"{}\"}}}}}}'",
                plan.hash
            );
            match drift {
                None => ("False", PLAN_PENDING, format!("plan {}: {}; {how}", plan.hash, plan.summary)),
                Some(drift) => (
                    "False",
                    PLAN_DRIFTED,
                    format!(
                        "spec.rollout.approvedPlan is refused: the plan is {} now ({drift}): {}; {how}",
                        plan.hash, plan.summary
                    ),
                ),
            }
        }
        (PlanView::Nothing, Some(plan)) => {
            ("True", PLAN_APPROVED, format!("plan {} is carried out: {}", plan.hash, plan.summary))
        }
        (PlanView::Nothing, None) => ("True", "NothingPending", "no change waits for an approval".to_owned()),
    };
    Some(Finding { type_: CHANGES_APPROVED, status, reason: reason.into(), message })
}

fn ready(seen: &Observation) -> Finding {
    let not = |reason: &str, message: String| Finding { type_: READY, status: "False", reason: reason.into(), message };
    if let Some((reason, message)) = &seen.failure {
        return not(reason, message.clone());
    }
    if let StorageView::Failed(reason, message) = &seen.storage {
        return not("StorageNotReady", format!("{reason}: {message}"));
    }
    if let Some(message) = &seen.hibernated {
        return not(HIBERNATED, message.clone());
    }
    if let Some(problem) = seen.problems.first() {
        return not("NodeProblem", problem.clone());
    }
    if seen.ready < seen.wanted {
        let mut message = format!("{} of {} nodes are ready", seen.ready, seen.wanted);
        if !seen.unplaced.is_empty() {
            message.push_str(&format!("; {}", seen.unplaced.join("; ")));
        }
        return not("NodesNotReady", message);
    }
    // Nodes that come or go, and shards that move: a spec that was changed is not yet true. A rollout is no such thing, and where
    // nodes can't leave all is served as before.
    let is_passing = |reason: &str| reason != ROLLING_OUT && reason != NO_ROOM;
    if let Some((reason, message)) = seen.changing.as_ref().filter(|(reason, _)| is_passing(reason)) {
        return not(reason, message.clone());
    }
    match seen.shards {
        Some(shards) if shards.held < shards.total => {
            not("ShardsNotHeld", format!("{} of {} shards are held by a live node", shards.held, shards.total))
        }
        None => not("ShardsNotHeld", "the shards have not been looked at".into()),
        Some(_) => Finding {
            type_: READY,
            status: "True",
            reason: "Serving".into(),
            message: "every node is ready and every shard is held by a live node".into(),
        },
    }
}

fn progressing(seen: &Observation) -> Finding {
    let (status, reason, message) = match (&seen.failure, &seen.storage, &seen.changing) {
        (Some((reason, message)), ..) => ("False", reason.as_str(), message.clone()),
        (_, StorageView::Failed(..), _) => {
            ("False", "StorageNotReady", "nothing is changed until the storage answers".into())
        }
        _ if seen.paused => (
            "False",
            PAUSED,
            "spec.paused is true: nothing is changed until it is false, whatever else the spec says".into(),
        ),
        // It goes on by itself, but not before somebody does something.
        (.., Some((reason, message))) if *reason == NO_ROOM => ("False", *reason, message.clone()),
        (.., Some((reason, message))) => ("True", *reason, message.clone()),
        (.., None) => match &seen.plan {
            PlanView::Waiting { plan, .. } => {
                ("False", PLAN_PENDING, format!("plan {} waits for its approval: {}", plan.hash, plan.summary))
            }
            _ => match &seen.hibernated {
                Some(message) => ("False", HIBERNATED, message.clone()),
                None => ("False", "Settled", "the cluster is as the spec wants it".into()),
            },
        },
    };
    Finding { type_: PROGRESSING, status, reason: reason.into(), message }
}

fn storage(view: &StorageView) -> Finding {
    let (status, reason, message) = match view {
        StorageView::Volumes => ("True", "VolumePerNode", "each node keeps its shards on its own volume".to_owned()),
        StorageView::Bucket => (
            "True",
            "Verified",
            "the bucket answers, honours conditional writes and belongs to this cluster".to_owned(),
        ),
        StorageView::Failed(reason, message) => ("False", reason.as_str(), message.clone()),
    };
    Finding { type_: STORAGE_READY, status, reason: reason.into(), message }
}

fn volumes(cluster: &BrainyCluster, view: &health::View, before: &BrainyClusterStatus) -> Option<Finding> {
    let was_nearly_full = condition(before, VOLUMES_HEALTHY).is_some_and(|there| there.reason == health::NEARLY_FULL);
    let name = cluster.metadata.name.as_deref().unwrap_or_default();
    let (healthy, reason, message) = health::condition(name, view, was_nearly_full)?;
    let status = if healthy { "True" } else { "False" };
    Some(Finding { type_: VOLUMES_HEALTHY, status, reason: reason.into(), message })
}

fn cold_tier(view: &health::View) -> Option<Finding> {
    let (healthy, reason, message) = tiering::condition(view.used.as_deref()?)?;
    let status = if healthy { "True" } else { "False" };
    Some(Finding { type_: TIERING_HEALTHY, status, reason: reason.into(), message })
}

fn regions((healthy, reason, message): &regions::Healthy) -> Finding {
    let status = if *healthy { "True" } else { "False" };
    Finding { type_: REGIONS_HEALTHY, status, reason: (*reason).into(), message: message.clone() }
}

fn certificates(view: &identity::View) -> Finding {
    let status = if view.ready { "True" } else { "False" };
    Finding { type_: CERTIFICATES_READY, status, reason: view.reason.into(), message: view.message.clone() }
}

/// Whether cert-manager has issued for the cluster, or was to, and something may be left of that.
pub fn had_cert_manager(cluster: &BrainyCluster) -> bool {
    let said = cluster.status.as_ref().and_then(|status| condition(status, CERTIFICATES_READY));
    said.is_some_and(|said| said.reason != identity::OPERATOR_ISSUES)
}

/// Whether a drain of a machine gets on, and if not, why and what then.
fn disruption(cluster: &str, verdict: &Verdict, long: bool, before: &BrainyClusterStatus) -> Finding {
    let refused = |why: &str| {
        format!(
            "PodDisruptionBudget {cluster} refuses evictions, and kubectl drain waits, until this is over: {why}. If it can't be: kubectl drain --disable-eviction deletes the pods all the same"
        )
    };
    let has_said = condition(before, DISRUPTION_ALLOWED).is_some_and(|there| there.reason == EVICTIONS_REFUSED);
    let (status, reason, message) = match verdict {
        Verdict::Allowed => ("True", "Healthy", format!("PodDisruptionBudget {cluster} lets one node go at a time")),
        Verdict::NoBudget => (
            "True",
            "NoBudget",
            "fewer than two nodes need no PodDisruptionBudget: nothing refuses an eviction".to_owned(),
        ),
        Verdict::Changing(why) => ("False", ROLLING_OUT, refused(why)),
        Verdict::Unwell(why) if long || has_said => ("False", EVICTIONS_REFUSED, refused(why)),
        Verdict::Unwell(why) => ("False", "NotHealthy", refused(why)),
    };
    Finding { type_: DISRUPTION_ALLOWED, status, reason: reason.into(), message }
}

fn assigned(shards: ShardsView, draining: &[String], emptied: &[String]) -> Finding {
    let all = shards.assigned == shards.total;
    let mut message = format!("{} of {} shards have an owner", shards.assigned, shards.total);
    if !draining.is_empty() {
        message.push_str(&format!("; nodes that drain by their own wish: {}", draining.join(", ")));
    }
    if !emptied.is_empty() {
        message.push_str(&format!("; nodes on machines that are being emptied: {}", emptied.join(", ")));
    }
    Finding {
        type_: SHARDS_ASSIGNED,
        status: if all { "True" } else { "False" },
        reason: if all { "AllAssigned" } else { "Unassigned" }.into(),
        message,
    }
}

/// The new conditions. One whose status did not change keeps its time; one that was not found anew stays.
fn merged(before: &[Condition], findings: Vec<Finding>, generation: Option<i64>, now: Timestamp) -> Vec<Condition> {
    let mut conditions = before.to_vec();
    for finding in findings {
        let earlier = before.iter().find(|condition| condition.type_ == finding.type_);
        let since = earlier
            .filter(|condition| condition.status == finding.status)
            .map(|condition| condition.last_transition_time.clone());
        let condition = Condition {
            type_: finding.type_.to_owned(),
            status: finding.status.to_owned(),
            reason: finding.reason,
            message: finding.message,
            observed_generation: generation,
            last_transition_time: since.unwrap_or_else(|| Time(whole_seconds(now))),
        };
        match conditions.iter_mut().find(|there| there.type_ == condition.type_) {
            Some(there) => *there = condition,
            None => conditions.push(condition),
        }
    }
    conditions
}

/// The API server keeps times by the second: more would read back as a change.
fn whole_seconds(now: Timestamp) -> Timestamp {
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}

/// A condition of a status.
pub fn condition<'a>(status: &'a BrainyClusterStatus, type_: &str) -> Option<&'a Condition> {
    status.conditions.iter().find(|condition| condition.type_ == type_)
}

/// Writes a status, if it differs from the one that was read. Says whether it wrote. The UID keeps it off a successor of
/// the same name (R10).
pub async fn write(client: &Client, cluster: &BrainyCluster, status: &BrainyClusterStatus) -> Result<bool, Error> {
    if cluster.status.as_ref() == Some(status) {
        return Ok(false);
    }
    let meta = &cluster.metadata;
    let (namespace, name) = (meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default());
    let patch = json!({
        "apiVersion": BrainyCluster::api_version(&()),
        "kind": BrainyCluster::kind(&()),
        "metadata": {"name": name, "namespace": namespace, "uid": meta.uid},
        "status": status,
    });
    let api: Api<BrainyCluster> = Api::namespaced(client.clone(), namespace);
    match api.patch_status(name, &PatchParams::apply(FIELD_MANAGER).force(), &Patch::Apply(patch)).await {
        Ok(_) => Ok(true),
        // Deleted, or deleted and created again, since it was read.
        Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
