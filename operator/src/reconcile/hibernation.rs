//! `spec.replicas: 0`: all nodes stop, and every shard stays whose it is. The shard map is left as it stands, so that no data moves
//! on the way down, and nodes that come back find their own.

use std::collections::BTreeSet;
use std::time::Duration;

use brainy_coordination::ShardMap;
use brainy_coordination::placement::Policy;
use brainy_crds::Strategy;

use super::apply::{Applier, may_have};
use super::build::{self, Carried};
use super::dereference::Dereferenced;
use super::disruption::Verdict;
use super::status::{self, Observation};
use super::validate::ValidatedCluster;
use super::{Error, LATER, SOON, planning};
use crate::context::{ClusterMemory, Context};
use crate::layout::Layout;
use crate::plan::{Decision, Hold};
use crate::{shards, volumes};

/// How many nodes a map was made for: those that stopped with it. All of them must run again for their volumes to be read.
pub(super) fn nodes_of(map: &ShardMap, layout: &Layout) -> i32 {
    map.nodes.iter().filter_map(|node| layout.slot_of(&node.0)).max().map_or(0, |highest| highest + 1)
}

/// Stops the nodes, and says how far that is. `placement` and `consensus_since`: as the nodes have them.
pub(super) async fn stop(
    context: &Context,
    cluster: &ValidatedCluster,
    (found, decision): (&Dereferenced, &Decision),
    (placement, consensus_since): (Policy, Option<i64>),
    memory: &mut ClusterMemory,
    seen: &mut Observation,
) -> Result<Duration, Error> {
    if !seen.paused {
        context.must_lead()?;
        let map = shards::published_map(&context.client, cluster).await?;
        let nodes = map.map_or(0, |map| nodes_of(&map, &cluster.layout));
        let nodes = nodes.max(found.sets.replicas().unwrap_or_default()).max(found.slots());
        // What nodes are told of each other while they stop is what they know: nobody takes over what a neighbour will come
        // back for, and a majority is counted by the same members before and after.
        let as_before = ValidatedCluster { replicas: nodes.max(1), ..cluster.clone() };
        let carried = Carried {
            replicas: 0,
            sessions: as_before.replicas.max(found.slots()),
            claim_templates: found.sets.claim_templates(),
            volumes: match cluster.storage.bucket() {
                None => volumes::slots(&found.claims.ours, &cluster.layout),
                Some(_) => BTreeSet::new(),
            },
            placement,
            consensus_since,
            accepted: Some(decision.stands.clone()),
        };
        let mut prepared = build::build(&as_before, &context.sidecar, &carried);
        // Those that there are may end theirs; no node needs a new one.
        prepared.sessions.clear();
        if !may_have(&context.client, found, 0).await? {
            return Ok(SOON);
        }
        let is_held = found.sets.any() && decision.hold != Hold::Nothing;
        if is_held {
            planning::hold_configuration(context, cluster, &mut prepared.config_map).await?;
        }
        let mut applier = Applier {
            client: &context.client,
            cluster,
            seen: &context.seen,
            existing_sessions: &BTreeSet::new(),
            ledger: &mut memory.ledger,
            now: context.clock.now(),
        };
        Box::pin(applier.apply(prepared, (&found.sets, is_held))).await?;
    }
    if !found.pods.is_empty() {
        seen.changing = Some((status::SCALING, format!("{} nodes have yet to stop", found.pods.len())));
        return Ok(SOON);
    }
    seen.hibernated = Some(message(cluster, found));
    seen.disruption = Some((Verdict::NoBudget, false));
    Ok(LATER)
}

fn message(cluster: &ValidatedCluster, found: &Dereferenced) -> String {
    let data = match found.cluster.spec.storage.strategy {
        Strategy::Isolated => format!("on {} volumes", found.claims.ours.len()),
        Strategy::Namespaced | Strategy::Shared => "in the bucket".to_owned(),
    };
    format!(
        "spec.replicas is 0 and no node runs; the data is kept {data}. To start again: kubectl scale brainycluster {} --replicas=N",
        cluster.name
    )
}

#[cfg(test)]
mod tests {
    use brainy_coordination::NodeId;

    use super::*;

    #[test]
    fn a_map_is_one_of_as_many_nodes_as_its_highest_says() {
        let map = |zones: &[&str], nodes: &[&str]| {
            let zones: Vec<String> = zones.iter().map(|zone| (*zone).into()).collect();
            let nodes: Vec<NodeId> = nodes.iter().map(|node| NodeId((*node).into())).collect();
            let map = serde_json::json!({
                "revision": 1, "epoch": 1, "writer": "me", "cluster": "u", "nodes": nodes, "owners": [], "tokens": [],
            });
            nodes_of(&serde_json::from_value(map).unwrap(), &Layout::of("demo", &zones))
        };
        assert_eq!(map(&[], &[]), 0);
        assert_eq!(map(&[], &["demo-0", "demo-10", "demo-2"]), 11);
        assert_eq!(map(&[], &["other-7"]), 0);
        assert_eq!(map(&["a", "b"], &["demo-a-0", "demo-b-0", "demo-a-1"]), 3);
    }
}
