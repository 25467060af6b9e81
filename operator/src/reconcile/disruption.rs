//! Whether a node's pod may be evicted: the PodDisruptionBudget follows the health of the cluster. The decision is pure. The
//! budget itself only knows whether pods are ready; it does not know of shards, nor of what the operator is about to do.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;

use super::apply::Applier;
use super::build::disruption_budget;
use super::rolling::Rollout;
use super::validate::ValidatedCluster;
use super::{Error, is_ready};
use crate::shards::Summary;

/// After this time it is told by an Event that evictions are refused.
pub(super) const PATIENCE: Duration = Duration::from_secs(120);

/// Whether a node's pod may be evicted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// There are fewer than two nodes: a budget would block every drain for ever.
    NoBudget,
    /// One at a time.
    Allowed,
    /// Not while a rollout goes on: why.
    Changing(String),
    /// Not while the cluster is not well: what is missing.
    Unwell(String),
}

impl Verdict {
    /// Whether it is refused because something is missing.
    pub fn is_unwell(&self) -> bool {
        matches!(self, Self::Unwell(_))
    }
}

/// What is decided from.
#[derive(Clone, Debug)]
pub(super) struct Facts<'a> {
    /// How many pods there are to be: more than the spec wants, while nodes leave.
    pub nodes: i32,
    /// The pods that there are.
    pub pods: &'a [Pod],
    /// What the roller does; `None`: the cluster is paused.
    pub rollout: Option<&'a Rollout>,
    /// The shards.
    pub shards: &'a Summary,
}

/// Decides.
pub(super) fn judge(facts: &Facts<'_>) -> Verdict {
    if facts.nodes < 2 {
        return Verdict::NoBudget;
    }
    // Where pods are resized nobody is taken away.
    if let Some(Rollout::Underway(what)) = facts.rollout {
        return Verdict::Changing(what.clone());
    }
    let ready = i32::try_from(facts.pods.iter().filter(|pod| is_ready(pod)).count()).unwrap_or(i32::MAX);
    if ready < facts.nodes {
        return Verdict::Unwell(format!("{ready} of {} nodes are ready", facts.nodes));
    }
    let shards = facts.shards;
    if !shards.is_settled() {
        let held = format!("{} of {} shards are held by a live node", shards.view.held, shards.view.total);
        return Verdict::Unwell(shards.waiting.as_ref().map_or(held.clone(), |waiting| format!("{held}: {waiting}")));
    }
    if !shards.behind.is_empty() {
        let names: Vec<&str> = shards.behind.iter().map(|node| node.0.as_str()).collect();
        return Verdict::Unwell(format!(
            "the members of the nodes' group on {} have yet to catch up",
            names.join(", ")
        ));
    }
    Verdict::Allowed
}

/// Makes the budget say so.
pub(super) async fn follow(
    applier: &mut Applier<'_>,
    cluster: &ValidatedCluster,
    verdict: &Verdict,
) -> Result<(), Error> {
    let budget = match verdict {
        Verdict::NoBudget => None,
        Verdict::Allowed => Some(disruption_budget(cluster, 1)),
        Verdict::Changing(_) | Verdict::Unwell(_) => Some(disruption_budget(cluster, 0)),
    };
    applier.guard(budget).await
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use brainy_coordination::NodeId;
    use brainy_coordination::controller::Rules;
    use serde_json::json;

    use super::*;
    use crate::fixtures::isolated;
    use crate::reconcile::validate::validate;

    fn pods(ready: &[bool]) -> Vec<Pod> {
        let pod = |ready: &bool| {
            let status = if *ready { "True" } else { "False" };
            serde_json::from_value(json!({"status": {"conditions": [{"type": "Ready", "status": status}]}})).unwrap()
        };
        ready.iter().map(pod).collect()
    }

    /// Every shard is held.
    fn well() -> Summary {
        let cluster = validate(&isolated()).unwrap();
        let mut shards = Summary::new(None, &BTreeMap::new(), &cluster, Rules::Shared, None, BTreeSet::new());
        (shards.view.assigned, shards.view.held) = (shards.view.total, shards.view.total);
        shards
    }

    fn judged(nodes: i32, ready: &[bool], rollout: &Rollout, shards: &Summary) -> Verdict {
        judge(&Facts { nodes, pods: &pods(ready), rollout: Some(rollout), shards })
    }

    #[test]
    fn one_node_at_a_time_while_all_are_ready_and_every_shard_is_held() {
        assert_eq!(judged(3, &[true; 3], &Rollout::Done, &well()), Verdict::Allowed);
        assert_eq!(judged(3, &[true; 3], &Rollout::Resizing("Deferred".into()), &well()), Verdict::Allowed);
        let paused = Facts { nodes: 3, pods: &pods(&[true; 3]), rollout: None, shards: &well() };
        assert_eq!(judge(&paused), Verdict::Allowed);
    }

    #[test]
    fn a_budget_for_one_node_would_block_every_drain_for_ever() {
        for ready in [[true], [false]] {
            assert_eq!(judged(1, &ready, &Rollout::Done, &well()), Verdict::NoBudget);
        }
    }

    #[test]
    fn none_while_a_node_is_missing_or_not_ready() {
        for ready in [&[true, true][..], &[true, true, false]] {
            let verdict = judged(3, ready, &Rollout::Done, &well());
            assert_eq!(verdict, Verdict::Unwell("2 of 3 nodes are ready".into()));
        }
    }

    #[test]
    fn none_while_a_shard_has_no_live_holder_or_is_on_its_way() {
        let mut shards = well();
        shards.view.held -= 1;
        assert!(
            matches!(judged(3, &[true; 3], &Rollout::Done, &shards), Verdict::Unwell(why) if why.contains("255 of 256"))
        );
        let mut shards = well();
        shards.waiting = Some("shard 007 is moving".into());
        assert!(
            matches!(judged(3, &[true; 3], &Rollout::Done, &shards), Verdict::Unwell(why) if why.contains("moving"))
        );
    }

    #[test]
    fn none_while_a_rollout_goes_on() {
        let verdict = judged(3, &[true; 3], &Rollout::Underway("pod demo-2 is outdated".into()), &well());
        assert_eq!(verdict, Verdict::Changing("pod demo-2 is outdated".into()));
    }

    #[test]
    fn none_while_a_majority_is_counted_by_fewer_than_all() {
        let mut shards = well();
        shards.behind = vec![NodeId("demo-2".into())];
        assert!(
            matches!(judged(3, &[true; 3], &Rollout::Done, &shards), Verdict::Unwell(why) if why.contains("demo-2"))
        );
    }
}
