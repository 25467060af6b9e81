//! `spec.replicas: 0`: all nodes stop, and every shard stays whose it is. The shard map is left as it stands, so that no data moves
//! on the way down, and nodes that come back find their own.

use std::collections::BTreeSet;
use std::time::Duration;

use brainy_coordination::ShardMap;
use brainy_coordination::placement::Policy;
use brainy_crds::Strategy;

use super::apply::Applier;
use super::build::{self, Carried};
use super::dereference::{Dereferenced, ordinal_of};
use super::disruption::Verdict;
use super::status::{self, Observation};
use super::validate::ValidatedCluster;
use super::{Error, LATER, SOON, planning};
use crate::context::{ClusterMemory, Context};
use crate::plan::{Decision, Hold};
use crate::{shards, volumes};

/// How many nodes a map was made for: those that stopped with it. All of them must run again for their volumes to be read.
pub(super) fn nodes_of(map: &ShardMap, cluster: &str) -> i32 {
    map.nodes.iter().filter_map(|node| ordinal_of(cluster, &node.0)).max().map_or(0, |highest| highest + 1)
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
        let nodes = map.map_or(0, |map| nodes_of(&map, &cluster.name));
        let nodes = nodes.max(found.replicas().unwrap_or_default()).max(found.slots());
        // What nodes are told of each other while they stop is what they know: nobody takes over what a neighbour will come
        // back for, and a majority is counted by the same members before and after.
        let as_before = ValidatedCluster { replicas: nodes.max(1), ..cluster.clone() };
        let carried = Carried {
            replicas: 0,
            sessions: as_before.replicas.max(found.slots()),
            claim_template: found.claim_template(),
            volumes: match cluster.storage.bucket() {
                None => volumes::ordinals(&found.claims, &cluster.name),
                Some(_) => BTreeSet::new(),
            },
            placement,
            consensus_since,
            accepted: Some(decision.stands.clone()),
        };
        let mut prepared = build::build(&as_before, &context.sidecar, &carried);
        // Those that there are may end theirs; no node needs a new one.
        prepared.sessions.clear();
        let held = found.statefulset.as_ref().filter(|_| decision.hold != Hold::Nothing);
        if held.is_some() {
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
        Box::pin(applier.apply(prepared, held)).await?;
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
        Strategy::Isolated => format!("on {} volumes", found.claims.len()),
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
        let map = |nodes: &[&str]| {
            let nodes: Vec<NodeId> = nodes.iter().map(|node| NodeId((*node).into())).collect();
            let map = serde_json::json!({
                "revision": 1, "epoch": 1, "writer": "me", "cluster": "u", "nodes": nodes, "owners": [], "tokens": [],
            });
            nodes_of(&serde_json::from_value(map).unwrap(), "demo")
        };
        assert_eq!(map(&[]), 0);
        assert_eq!(map(&["demo-0", "demo-10", "demo-2"]), 11);
        assert_eq!(map(&["other-7"]), 0);
    }
}
