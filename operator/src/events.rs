//! Events: what `kubectl describe` shows. One per transition, not one per look.

use brainy_crds::condition::{
    CERTIFICATES_READY, CHANGES_APPROVED, DISRUPTION_ALLOWED, HIBERNATED, PROGRESSING, READY, REGIONS_HEALTHY,
    STORAGE_READY, TIERING_HEALTHY, VOLUMES_HEALTHY,
};
use brainy_crds::{BrainyCluster, BrainyClusterStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Resource};

use crate::identity::NOT_ISSUED;
use crate::reconcile::status::{
    ASSIGNING, CHANGING_PATTERN, DRAINING, EVICTIONS_REFUSED, NO_ROOM, PLAN_APPROVED, PLAN_PENDING, ROLLING_OUT,
    SCALING, condition,
};
use crate::storage::adoption::ADOPTING;

/// Longest note that the API server takes, in bytes.
const MAX_NOTE: usize = 1024;

/// Reasons of what was asked for.
const PLANNED: [&str; 5] = [CHANGING_PATTERN, DRAINING, HIBERNATED, ROLLING_OUT, SCALING];

/// Publishes Events. A failure to do so is logged and no more.
#[derive(Clone)]
pub struct Events(Recorder);

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Events")
    }
}

impl Events {
    /// Publishes in the name of an operator process.
    pub fn new(client: Client, identity: &str) -> Self {
        Self(Recorder::new(
            client,
            Reporter { controller: "brainy-operator".into(), instance: Some(identity.to_owned()) },
        ))
    }

    /// Says what changed between the status as read and the one just written.
    pub async fn transitions(&self, cluster: &BrainyCluster, written: &BrainyClusterStatus) {
        let before = cluster.status.clone().unwrap_or_default();
        for event in transitions(&before, written) {
            self.publish(cluster, event).await;
        }
    }

    /// Says that a pod was deleted, to be made anew.
    pub async fn replaced_pod(&self, cluster: &BrainyCluster, pod: &str) {
        let note = format!("deleted pod {pod}, to be made anew from the newest template");
        self.publish(cluster, event(EventType::Normal, "ReplacedPod", "Roll", note)).await;
    }

    /// Says that a pod was given another sidecar while it runs.
    pub async fn restarted_sidecar(&self, cluster: &BrainyCluster, pod: &str) {
        let note = format!("gave pod {pod} the sidecar of the newest template: it alone restarts");
        self.publish(cluster, event(EventType::Normal, "RestartedSidecar", "Roll", note)).await;
    }

    /// Says that a pod was given other resources while it runs.
    pub async fn resized_pod(&self, cluster: &BrainyCluster, pod: &str) {
        let note = format!("gave pod {pod} the resources of the newest template, without a restart");
        self.publish(cluster, event(EventType::Normal, "ResizedPod", "Roll", note)).await;
    }

    /// Says that a pod was deleted by force.
    pub async fn forced_pod(&self, cluster: &BrainyCluster, pod: &str, host: &str) {
        let note = format!(
            "deleted pod {pod} by force: its machine {host} is gone or out of service, and its session is over"
        );
        self.publish(cluster, event(EventType::Warning, "DeletedPodOfDeadMachine", "Free", note)).await;
    }

    /// Says what became of the wish to give up a node; an error: why it is refused.
    pub async fn gave_up(&self, cluster: &BrainyCluster, outcome: Result<&str, &str>) {
        let (reason, note) = match outcome {
            Ok(words) => ("GaveUpNode", words.to_owned()),
            Err(why) => ("GiveUpRefused", format!("the node is not given up: {why}")),
        };
        self.publish(cluster, event(EventType::Warning, reason, "GiveUp", note)).await;
    }

    /// Says that the data of another cluster is this one's now.
    pub async fn adopted(&self, cluster: &BrainyCluster, before: &str) {
        let note = format!(
            "adopted the bucket and prefix of the BrainyCluster with UID {before}: no session of its nodes is valid any more"
        );
        self.publish(cluster, event(EventType::Normal, "Adopted", "Adopt", note)).await;
    }

    /// Says that a resource can't be read.
    pub async fn publish_invalid(&self, reference: &k8s_openapi::api::core::v1::ObjectReference, note: String) {
        self.send(&event(EventType::Warning, "InvalidSpec", "Reconcile", note), reference).await;
    }

    async fn publish(&self, cluster: &BrainyCluster, event: Event) {
        self.send(&event, &cluster.object_ref(&())).await;
    }

    async fn send(&self, event: &Event, reference: &k8s_openapi::api::core::v1::ObjectReference) {
        if let Err(error) = self.0.publish(event, reference).await {
            tracing::warn!(%error, reason = event.reason, "an Event was not published");
        }
    }
}

/// The Events of a transition: storage or volumes that fail or recover, a cluster that becomes ready or stops to be, a plan
/// that waits or is carried out.
fn transitions(before: &BrainyClusterStatus, after: &BrainyClusterStatus) -> Vec<Event> {
    let mut events = Vec::new();
    let types = [
        STORAGE_READY,
        VOLUMES_HEALTHY,
        TIERING_HEALTHY,
        REGIONS_HEALTHY,
        CERTIFICATES_READY,
        READY,
        PROGRESSING,
        CHANGES_APPROVED,
        HIBERNATED,
        DISRUPTION_ALLOWED,
    ];
    for type_ in types {
        let (Some(now), earlier) = (condition(after, type_), condition(before, type_)) else {
            continue;
        };
        if earlier.is_some_and(|earlier| (&earlier.status, &earlier.reason) == (&now.status, &now.reason)) {
            continue;
        }
        match now.status.as_str() {
            // Whatever else it says is said by others too.
            _ if type_ == PROGRESSING && now.reason != NO_ROOM => {}
            // It comes and goes with every pod that stops; only one who waits long must hear why.
            _ if type_ == DISRUPTION_ALLOWED && now.reason != EVICTIONS_REFUSED => {}
            // A cluster that has just begun is not yet ready, and that is no warning; nor is good storage news.
            "True"
                if earlier.is_none()
                    && matches!(type_, STORAGE_READY | VOLUMES_HEALTHY | TIERING_HEALTHY | REGIONS_HEALTHY) => {}
            "True" if type_ == CHANGES_APPROVED && now.reason != PLAN_APPROVED => {}
            // That it is awake again is seen by its being ready.
            "False" if type_ == HIBERNATED => {}
            // It is what was asked for: no warning.
            _ if now.reason == PLAN_PENDING => {
                events.push(event(EventType::Normal, &now.reason, type_, now.message.clone()))
            }
            "True" => events.push(event(EventType::Normal, &now.reason, type_, now.message.clone())),
            _ if is_worth_a_warning(now, earlier, condition(after, PROGRESSING)) => {
                events.push(event(EventType::Warning, &now.reason, type_, now.message.clone()))
            }
            _ => {}
        }
    }
    events
}

fn is_worth_a_warning(now: &Condition, earlier: Option<&Condition>, progressing: Option<&Condition>) -> bool {
    // The condition of the storage says it with the cause. That a lost cluster is watched was asked for.
    if now.reason == "StorageNotReady" || now.reason == ADOPTING || PLANNED.contains(&now.reason.as_str()) {
        return false;
    }
    // These pass by themselves while a cluster starts or changes as asked; they are news for one that was ready.
    let passing = matches!(now.reason.as_str(), "NodesNotReady" | "ShardsNotHeld" | ASSIGNING | NOT_ISSUED);
    let was_ready = earlier.is_some_and(|earlier| earlier.status == "True");
    let planned = progressing.is_some_and(|progressing| PLANNED.contains(&progressing.reason.as_str()));
    !passing || (was_ready && !planned)
}

fn event(type_: EventType, reason: &str, action: &str, note: String) -> Event {
    Event { type_, reason: reason.to_owned(), note: Some(shortened(note)), action: action.to_owned(), secondary: None }
}

fn shortened(mut note: String) -> String {
    if note.len() > MAX_NOTE {
        let end = (0..=MAX_NOTE - 3).rev().find(|at| note.is_char_boundary(*at)).unwrap_or_default();
        note.truncate(end);
        note.push_str("...");
    }
    note
}

#[cfg(test)]
mod tests {
    use brainy_crds::Plan;
    use jiff::Timestamp;

    use super::*;
    use crate::fixtures::shared;
    use crate::identity::{CHANGING_AUTHORITY, ISSUED, View};
    use crate::reconcile::disruption::Verdict;
    use crate::reconcile::status::{Observation, PlanView, ShardsView, StorageView, after};

    fn observation(storage: StorageView, ready: i32) -> Observation {
        Observation {
            wanted: 3,
            present: 3,
            ready,
            zones: Vec::new(),
            unplaced: Vec::new(),
            storage,
            shards: Some(ShardsView { total: 8, assigned: 8, held: 8, revision: 1 }),
            changing: None,
            problems: Vec::new(),
            certificates: None,
            volumes: None,
            regions: None,
            draining: Vec::new(),
            emptied: Vec::new(),
            disruption: None,
            failure: None,
            paused: false,
            hibernated: None,
            plan: PlanView::Nothing,
        }
    }

    fn reasons(steps: &[Observation]) -> Vec<String> {
        let mut cluster = shared();
        let mut all = Vec::new();
        for step in steps {
            let status = after(&cluster, step, Timestamp::UNIX_EPOCH);
            let before = cluster.status.take().unwrap_or_default();
            all.extend(
                transitions(&before, &status).into_iter().map(|event| format!("{:?} {}", event.type_, event.reason)),
            );
            cluster.status = Some(status);
        }
        all
    }

    #[test]
    fn a_storage_failure_is_told_once_with_its_cause_and_so_is_the_recovery() {
        let failed = |reason: &str| observation(StorageView::Failed(reason.into(), "words".into()), 3);
        let told = reasons(&[
            failed("SecretNotFound"),
            failed("SecretNotFound"),
            failed("NoSuchBucket"),
            observation(StorageView::Bucket, 3),
            observation(StorageView::Bucket, 3),
        ]);
        assert_eq!(told, ["Warning SecretNotFound", "Warning NoSuchBucket", "Normal Verified", "Normal Serving"]);
    }

    #[test]
    fn that_a_lost_cluster_is_watched_warns_of_nothing_and_that_it_is_alive_does() {
        let waits = |reason: &str| observation(StorageView::Failed(reason.into(), "words".into()), 0);
        let told =
            reasons(&[waits(ADOPTING), waits("StillAlive"), waits(ADOPTING), observation(StorageView::Bucket, 3)]);
        assert_eq!(told, ["Warning StillAlive", "Normal Verified", "Normal Serving"]);
    }

    #[test]
    fn a_first_certificate_that_is_waited_for_warns_of_nothing_and_one_that_is_not_renewed_does() {
        let says = |ready, reason| Observation {
            certificates: Some(View { ready, reason, message: "words".into() }),
            ..observation(StorageView::Volumes, 3)
        };
        let told = reasons(&[
            says(false, NOT_ISSUED),
            says(true, ISSUED),
            says(true, CHANGING_AUTHORITY),
            says(true, ISSUED),
            says(false, NOT_ISSUED),
        ]);
        assert_eq!(
            told,
            ["Normal Serving", "Normal Issued", "Normal ChangingAuthority", "Normal Issued", "Warning NotIssued"]
        );
    }

    #[test]
    fn a_cluster_that_starts_warns_of_nothing_and_one_that_fails_later_does() {
        let told = reasons(&[
            observation(StorageView::Bucket, 0),
            observation(StorageView::Bucket, 3),
            observation(StorageView::Bucket, 2),
        ]);
        assert_eq!(told, ["Normal Serving", "Warning NodesNotReady"]);
    }

    #[test]
    fn a_plan_is_told_when_it_waits_is_refused_and_is_carried_out_and_that_there_is_none_is_no_news() {
        let plan = |approved| Plan { hash: "1-2-3-4".into(), approved, ..Plan::default() };
        let waiting = |drift: Option<&str>| {
            let view = PlanView::Waiting { plan: Box::new(plan(false)), drift: drift.map(Into::into) };
            Observation { plan: view, ..observation(StorageView::Bucket, 3) }
        };
        let steps = [observation(StorageView::Bucket, 3), waiting(None), waiting(None), waiting(Some("the size"))];
        let told = reasons(&steps);
        assert_eq!(told, ["Normal Serving", "Normal PlanPending", "Warning PlanDrifted"]);
        let mut cluster = shared();
        let status = |cluster: &BrainyCluster, step: &Observation| after(cluster, step, Timestamp::UNIX_EPOCH);
        let before = BrainyClusterStatus { plan: Some(plan(true)), ..status(&cluster, &waiting(None)) };
        cluster.status = Some(before.clone());
        let underway = Observation { changing: Some((SCALING, "words".into())), ..observation(StorageView::Bucket, 3) };
        let told = transitions(&before, &status(&cluster, &underway));
        assert!(told.iter().any(|event| event.reason == "PlanApproved" && matches!(event.type_, EventType::Normal)));
    }

    #[test]
    fn evictions_that_are_refused_for_long_are_told_once_with_the_way_out() {
        let step = |verdict: Verdict, long: bool| Observation {
            disruption: Some((verdict, long)),
            ..observation(StorageView::Bucket, 3)
        };
        let unwell = || Verdict::Unwell("2 of 3 nodes are ready".into());
        let told = reasons(&[
            step(Verdict::Allowed, false),
            step(unwell(), false),
            step(unwell(), true),
            step(unwell(), true),
            step(Verdict::Unwell("255 of 256 shards are held".into()), false),
            step(Verdict::Allowed, false),
            step(Verdict::Changing("pod demo-2 is outdated".into()), false),
            step(Verdict::Allowed, false),
        ]);
        assert_eq!(told, ["Normal Serving", "Warning EvictionsRefused"]);
    }

    #[test]
    fn nodes_that_can_t_leave_are_told_once() {
        let stuck = || Observation { changing: Some((NO_ROOM, "words".into())), ..observation(StorageView::Bucket, 3) };
        let told =
            reasons(&[observation(StorageView::Bucket, 3), stuck(), stuck(), observation(StorageView::Bucket, 3)]);
        assert_eq!(told, ["Normal Serving", "Warning NoRoomToScaleDown"]);
    }

    #[test]
    fn a_long_note_is_cut_between_characters() {
        let cut = shortened("é".repeat(2000));
        assert!(cut.len() <= MAX_NOTE && cut.ends_with("..."));
    }
}
