//! From pattern Consensus to another one, or back: who keeps sessions and map changes, so for a while nobody may go by either.
//! The cluster stands still: all nodes stop in order, and start anew once no session of theirs can be valid. Data stays where
//! it is; where it is on volumes, the first map finds it there by its tokens.
//!
//! Between Leader and StorageNative nothing of this is needed: both keep the same documents.

use std::time::Duration;

use brainy_coordination::bucket::spec::Pattern;
use brainy_coordination::session::observer::margin;
use brainy_kubernetes::config::NodeConfig;
use k8s_openapi::api::apps::v1::StatefulSet;
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::json;

use super::Error;
use super::apply::delete_exactly;
use super::dereference::{Dereferenced, consensus_since};
use super::planning;
use super::validate::ValidatedCluster;
use crate::context::{ClusterMemory, Context};
use crate::shards;

/// What is to be done next.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    /// All nodes are told to stop.
    Stop,
    /// This many have yet to end.
    End(usize),
    /// The last one has ended, but for so long its session may seem valid to somebody.
    Lapse(Duration),
    /// Nothing is left that could go by the pattern before.
    Begin,
}

/// `still_for`: how long no pod was there; `session`: how long one may be valid after that.
fn next(replicas: i32, pods: usize, still_for: Duration, session: Duration) -> Step {
    match (replicas, pods, session.saturating_sub(still_for)) {
        (0, 0, Duration::ZERO) => Step::Begin,
        (0, 0, rest) => Step::Lapse(rest),
        (0, pods, _) => Step::End(pods),
        _ => Step::Stop,
    }
}

/// How long a session of a node may be valid. Nodes go by what they were `given`: the spec may ask for a shorter one by now, in the
/// very change that stops them.
fn session(cluster: &ValidatedCluster, given: Option<&str>) -> Duration {
    let config = given.and_then(|text| serde_yaml::from_str::<NodeConfig>(text).ok());
    Duration::from_secs(config.map_or(0, |config| config.lease_seconds).max(cluster.lease_seconds))
}

/// Takes the next step, and says in words what is waited for. `None`: the nodes that there are keep sessions and map where the
/// spec wants them.
pub(super) async fn change(
    context: &Context,
    cluster: &ValidatedCluster,
    found: &Dereferenced,
    memory: &mut ClusterMemory,
) -> Result<Option<String>, Error> {
    let is_wanted = cluster.pattern == Pattern::Consensus;
    // One is enough: an operator that was stopped while it deleted them has left some.
    if found.sets.there().all(|set| consensus_since(set).is_some() == is_wanted) {
        memory.still_since = None;
        return Ok(None);
    }
    let now = context.clock.now();
    memory.still_since = found.pods.is_empty().then(|| memory.still_since.unwrap_or(now));
    let still_for = memory.still_since.map_or(Duration::ZERO, |since| now.saturating_sub(since));
    let ttl = session(cluster, planning::given(context, cluster).await?.as_deref());
    let step = next(found.sets.replicas().unwrap_or_default(), found.pods.len(), still_for, ttl + margin(ttl));
    let sets: Api<StatefulSet> = Api::namespaced(context.client.clone(), &cluster.namespace);
    context.must_lead()?;
    let waiting = match step {
        Step::Stop => {
            for set in found.sets.there() {
                // Only as it was read: somebody else may have changed it since.
                let wish = json!({"metadata": {"resourceVersion": set.resource_version()}, "spec": {"replicas": 0}});
                sets.patch(&set.name_any(), &PatchParams::default(), &Patch::Merge(wish)).await?;
            }
            tracing::info!(
                cluster = cluster.name,
                namespace = cluster.namespace,
                "stopping all nodes to change the pattern"
            );
            "all nodes stop".to_owned()
        }
        Step::End(pods) => format!("{pods} nodes have yet to stop"),
        Step::Lapse(rest) => format!("the last node has stopped; sessions lapse in {} s", rest.as_secs() + 1),
        Step::Begin => {
            // The map of the pattern before is no map of the next one's.
            shards::forget_map(&context.client, cluster).await?;
            for set in found.sets.there() {
                delete_exactly(&sets, &set.name_any(), set.uid()).await?;
            }
            // What was observed belongs to the documents of the pattern before.
            memory.shards = shards::Memory::default();
            tracing::info!(cluster = cluster.name, namespace = cluster.namespace, pattern = ?cluster.pattern, "the pattern begins");
            "all nodes start again".to_owned()
        }
    };
    Ok(Some(format!("coordination.pattern changes to {:?}, with no node running: {waiting}", cluster.pattern)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_begins_when_no_node_is_left_and_no_session_can_be_valid() {
        let second = Duration::from_secs(1);
        let session = 33 * second;
        assert_eq!(next(3, 3, Duration::ZERO, session), Step::Stop);
        assert_eq!(next(3, 0, 60 * second, session), Step::Stop, "another could start at any moment");
        assert_eq!(next(0, 2, Duration::ZERO, session), Step::End(2));
        assert_eq!(next(0, 0, Duration::ZERO, session), Step::Lapse(session));
        assert_eq!(next(0, 0, 32 * second, session), Step::Lapse(second));
        assert_eq!(next(0, 0, 33 * second, session), Step::Begin);
    }
}
