//! Rolls a change out, pod by pod. The StatefulSet's update strategy is `OnDelete`, because its own rolling update waits
//! for ever behind a pod that never becomes ready; here broken pods go first, and pods that differ in their resources or their sidecar's image alone
//! are changed [where they are](crate::in_place). One zone is done before the next is begun. The decision is pure; its effects are the deletion of a pod, with its UID as
//! precondition and after a fresh read (R10), the restart of its sidecar, after the same, and its resize.
//!
//! The revision of a pod is the hash of its template, which the StatefulSet controller puts on it as a label: whoever comes to
//! a rollout half way sees by it which pods are done. A pod that was changed where it runs has that label still; it says itself what it is.

use std::cmp::Reverse;

use serde_json::Value;

use crate::in_place::InPlace;

/// What the roller knows of a node's pod.
#[derive(Clone, Debug, PartialEq)]
pub struct NodePod {
    /// Its name.
    pub name: String,
    /// Its UID: what is deleted is this very pod.
    pub uid: String,
    /// Which StatefulSet it is in, in the order of the zones.
    pub set: usize,
    /// Its place in the StatefulSet.
    pub ordinal: i32,
    /// It was made from its StatefulSet's newest template, and not changed since.
    pub newest: bool,
    /// It passes its readiness probe.
    pub ready: bool,
    /// It is on its way out.
    pub deleting: bool,
    /// What can be done without replacing it, where it is not.
    pub in_place: InPlace,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq)]
pub enum Roll {
    /// Every pod has the newest template.
    Done,
    /// Something must become true first.
    Wait(String),
    /// A pod is being given other resources, which takes nobody away.
    Resizing(String),
    /// Give this pod other resources, with this patch.
    Resize(NodePod, Value),
    /// Give this pod another sidecar, with this patch. Its node is away meanwhile.
    Restart(NodePod, Value),
    /// Delete this pod; the StatefulSet makes it anew from the newest template.
    Replace(NodePod),
}

/// Decides. `wanted`: how many pods there are to be. `shards_settled` says whether every shard is held by a live node: no healthy
/// node is taken away before.
pub fn decide(pods: &[NodePod], wanted: i32, shards_settled: bool) -> Roll {
    let is_outdated = |pod: &&NodePod| !pod.newest && pod.in_place != InPlace::Done && !pod.deleting;
    let mut outdated: Vec<&NodePod> = pods.iter().filter(is_outdated).collect();
    // Zone by zone, and in each the highest first.
    outdated.sort_by_key(|pod| (pod.set, Reverse(pod.ordinal)));
    if let Some(leaving) = pods.iter().find(|pod| pod.deleting) {
        return if outdated.is_empty() && leaving.newest {
            Roll::Done
        } else {
            Roll::Wait(format!("pod {} is stopping", leaving.name))
        };
    }
    let Some(first) = outdated.first() else {
        return Roll::Done;
    };
    // A pod that isn't ready serves nobody: replacing it costs nothing, and it may be what the change mends. One whose sidecar
    // has yet to start with it is neither.
    if let Some(broken) = outdated.iter().find(|pod| !pod.ready && !matches!(pod.in_place, InPlace::Restarting(_))) {
        return Roll::Replace((*broken).clone());
    }
    // Nobody is taken away by this: it waits for no other pod, and for no shard.
    for pod in &outdated {
        if let InPlace::Resizing(why) = &pod.in_place {
            return Roll::Resizing(format!("pod {} is being resized: {why}", pod.name));
        }
    }
    for pod in &outdated {
        if let InPlace::Resize(patch) = &pod.in_place {
            return Roll::Resize((*pod).clone(), patch.clone());
        }
    }
    for pod in &outdated {
        if let InPlace::Restarting(waits_for) = &pod.in_place {
            let why = if waits_for.is_empty() { String::new() } else { format!(": {waits_for}") };
            return Roll::Wait(format!("the sidecar of pod {} is being restarted{why}", pod.name));
        }
    }
    if let Some(other) = pods.iter().find(|pod| !pod.ready) {
        return Roll::Wait(format!("pod {} is not ready", other.name));
    }
    let present = i32::try_from(pods.len()).unwrap_or(i32::MAX);
    if present < wanted {
        return Roll::Wait(format!("{present} of {wanted} pods exist"));
    }
    if !shards_settled {
        return Roll::Wait("not every shard is held by a live node".into());
    }
    match &first.in_place {
        InPlace::Restart(patch) => Roll::Restart((*first).clone(), patch.clone()),
        _ => Roll::Replace((*first).clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(ordinal: i32, revision: &str, ready: bool) -> NodePod {
        NodePod {
            name: format!("demo-{ordinal}"),
            uid: format!("uid-{ordinal}"),
            set: 0,
            ordinal,
            newest: revision == "new",
            ready,
            deleting: false,
            in_place: InPlace::No,
        }
    }

    fn replaced(roll: &Roll) -> Option<i32> {
        match roll {
            Roll::Replace(pod) => Some(pod.ordinal),
            _ => None,
        }
    }

    #[test]
    fn nothing_is_deleted_when_every_pod_is_of_the_newest_template() {
        let pods = [pod(0, "new", true), pod(1, "new", false), pod(2, "new", true)];
        assert_eq!(decide(&pods, 3, true), Roll::Done);
    }

    #[test]
    fn one_pod_at_a_time_the_highest_first() {
        let pods = [pod(0, "old", true), pod(1, "old", true), pod(2, "old", true)];
        assert_eq!(replaced(&decide(&pods, 3, true)), Some(2));
    }

    #[test]
    fn the_next_waits_until_all_others_are_ready() {
        let pods = [pod(0, "old", true), pod(1, "old", true), pod(2, "new", false)];
        assert!(matches!(decide(&pods, 3, true), Roll::Wait(why) if why.contains("demo-2")));
    }

    #[test]
    fn the_next_waits_while_one_is_stopping_or_missing() {
        let mut pods = [pod(0, "old", true), pod(1, "old", true), pod(2, "old", true)];
        pods[2].deleting = true;
        assert!(matches!(decide(&pods, 3, true), Roll::Wait(why) if why.contains("stopping")));
        assert!(matches!(decide(&pods[..2], 3, true), Roll::Wait(why) if why.contains("2 of 3")));
    }

    #[test]
    fn broken_outdated_pods_go_first_so_that_a_bad_rollout_heals() {
        let pods = [pod(0, "bad", false), pod(1, "old", true), pod(2, "new", true)];
        assert_eq!(replaced(&decide(&pods, 3, true)), Some(0));
        let with_another_broken = [pod(0, "bad", false), pod(1, "old", true), pod(2, "new", false)];
        assert_eq!(replaced(&decide(&with_another_broken, 3, false)), Some(0));
    }

    #[test]
    fn a_healthy_pod_is_not_taken_while_shards_have_no_holder() {
        let pods = [pod(0, "old", true), pod(1, "old", true), pod(2, "new", true)];
        assert!(matches!(decide(&pods, 3, false), Roll::Wait(_)));
        assert_eq!(replaced(&decide(&pods, 3, true)), Some(1));
    }

    #[test]
    fn a_whole_rollout_replaces_every_pod_exactly_once() {
        let mut pods = vec![pod(0, "old", true), pod(1, "old", true), pod(2, "old", true)];
        let mut order = Vec::new();
        while let Some(ordinal) = replaced(&decide(&pods, 3, true)) {
            order.push(ordinal);
            pods[usize::try_from(ordinal).unwrap()].newest = true;
        }
        assert_eq!(order, [2, 1, 0]);
    }

    /// Two zones of two nodes each.
    fn zoned(revision: &str) -> Vec<NodePod> {
        let pod =
            |(set, ordinal)| NodePod { name: format!("demo-{set}-{ordinal}"), set, ..pod(ordinal, revision, true) };
        [(0, 0), (1, 0), (0, 1), (1, 1)].map(pod).into()
    }

    #[test]
    fn one_zone_is_done_before_the_next_is_begun() {
        let mut pods = zoned("old");
        let mut order = Vec::new();
        while let Roll::Replace(next) = decide(&pods, 4, true) {
            let pod = pods.iter_mut().find(|pod| pod.name == next.name).unwrap();
            (pod.newest, pod.ready) = (true, false);
            assert!(matches!(decide(&pods, 4, true), Roll::Wait(_) | Roll::Done), "one node at a time");
            pods.iter_mut().for_each(|pod| pod.ready = true);
            order.push(next.name);
        }
        assert_eq!(order, ["demo-0-1", "demo-0-0", "demo-1-1", "demo-1-0"]);
    }

    #[test]
    fn broken_outdated_pods_go_first_in_whatever_zone() {
        let mut pods = zoned("old");
        pods[3].ready = false;
        assert!(matches!(decide(&pods, 4, false), Roll::Replace(pod) if pod.name == "demo-1-1"));
    }

    #[test]
    fn a_change_of_resources_alone_replaces_only_what_is_broken_or_refused() {
        let resizable = |ordinal, ready| {
            let patch = serde_json::json!({"to": ordinal});
            NodePod { in_place: InPlace::Resize(patch), ..pod(ordinal, "old", ready) }
        };
        let mut pods = vec![resizable(0, true), resizable(1, false), resizable(2, true)];
        assert_eq!(replaced(&decide(&pods, 3, true)), Some(1));
        pods[1] = pod(1, "new", false);
        // It takes nobody away: neither the pod that starts nor shards without a holder are waited for.
        assert!(matches!(decide(&pods, 3, false), Roll::Resize(pod, _) if pod.ordinal == 2));
        pods[2].in_place = InPlace::Resizing("Deferred".into());
        assert!(matches!(decide(&pods, 3, true), Roll::Resizing(why) if why.contains("demo-2 is being resized")));
        pods[2].in_place = InPlace::Done;
        assert!(matches!(decide(&pods, 3, true), Roll::Resize(pod, _) if pod.ordinal == 0));
        pods[0].in_place = InPlace::No;
        pods[1].ready = true;
        assert_eq!(replaced(&decide(&pods, 3, true)), Some(0));
        pods[0].in_place = InPlace::Done;
        assert_eq!(decide(&pods, 3, true), Roll::Done);
    }
    #[test]
    fn sidecars_restart_one_at_a_time_as_pods_are_replaced() {
        let restartable = |ordinal, ready| {
            let patch = serde_json::json!({"to": ordinal});
            NodePod { in_place: InPlace::Restart(patch), ..pod(ordinal, "old", ready) }
        };
        let mut pods = vec![restartable(0, true), restartable(1, true), restartable(2, true)];
        assert!(matches!(decide(&pods, 3, false), Roll::Wait(why) if why.contains("shard")));
        assert!(matches!(decide(&pods, 3, true), Roll::Restart(pod, _) if pod.ordinal == 2));
        // It has been told: it is neither broken nor done, whether it is ready still or not.
        for (ready, waits_for, said) in [(true, "", "restarted"), (false, "ErrImagePull", "restarted: ErrImagePull")] {
            pods[2].in_place = InPlace::Restarting(waits_for.into());
            pods[2].ready = ready;
            let said = format!("the sidecar of pod demo-2 is being {said}");
            assert_eq!(decide(&pods, 3, true), Roll::Wait(said));
        }
        pods[2].in_place = InPlace::Done;
        assert!(matches!(decide(&pods, 3, true), Roll::Wait(why) if why.contains("demo-2 is not ready")));
        pods[2].ready = true;
        assert!(matches!(decide(&pods, 3, true), Roll::Restart(pod, _) if pod.ordinal == 1));
        // A newer template mends what a sidecar that does not start has broken.
        pods[2] = restartable(2, false);
        assert_eq!(replaced(&decide(&pods, 3, true)), Some(2));
    }
}
