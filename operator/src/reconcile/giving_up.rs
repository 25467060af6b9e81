//! Nodes whose data is gone (strategy Isolated): what is said of them, and the annotation that gives one up. The decision is
//! [`brainy_coordination::controller::give_up`]'s; here it is asked for, and answered once.

use brainy_coordination::bucket::spec::Pattern;
use brainy_coordination::{NodeId, ShardId};
use brainy_crds::BrainyCluster;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::json;

use super::Error;
use super::validate::{ValidatedCluster, ValidatedStorage};
use crate::context::Context;
use crate::shards::{GivenUp, Summary};
use crate::volumes::{self, GIVE_UP_ANNOTATION, health};

/// The node that is to be given up; an error: why that can't be asked for.
pub(super) fn wish(cluster: &BrainyCluster, validated: &ValidatedCluster) -> Option<Result<NodeId, String>> {
    let node = cluster.annotations().get(GIVE_UP_ANNOTATION)?;
    let refusal = match (&validated.storage, validated.pattern) {
        (ValidatedStorage::Namespaced(_) | ValidatedStorage::Shared(_), _) => {
            Some("data is in the bucket, and other nodes take over the shards of a lost one by themselves".to_owned())
        }
        (ValidatedStorage::Isolated, Pattern::Consensus) => Some(
            "with pattern Consensus the nodes decide among them: change coordination.pattern to Leader, and then annotate again"
                .to_owned(),
        ),
        _ if validated.layout.slot_of(node).is_none() => {
            let named: Vec<String> = validated.layout.nodes(2).collect();
            Some(format!("{node:?} is no node of this cluster: they are {}, ...", named.join(", ")))
        }
        _ => None,
    };
    Some(refusal.map_or_else(|| Ok(NodeId(node.clone())), Err))
}

/// Notes what is known of the volumes after a look at the shards.
pub(super) fn note(
    view: &mut health::View,
    cluster: &ValidatedCluster,
    claims: &[PersistentVolumeClaim],
    shards: &Summary,
) {
    view.used = Some(shards.volumes.clone());
    let without = |node: &NodeId, shards| health::Without { node: node.0.clone(), shards };
    view.lost = shards.lost.iter().map(|(node, lost)| without(node, *lost)).collect();
    if let Some(map) = &shards.map {
        let there = volumes::slots(claims, &cluster.layout);
        let has_claim = |node: &NodeId| cluster.layout.slot_of(&node.0).is_some_and(|slot| there.contains(&slot));
        let gone = map.nodes.iter().filter(|node| !has_claim(node));
        let gone = gone.map(|node| without(node, map.shards_of(node).count()));
        view.missing = gone.filter(|gone| gone.shards > 0).collect();
        view.given_up = map.given_up.len();
    }
    if let Some(GivenUp::Waits(why)) = &shards.given_up {
        view.giving_up = Some(why.clone());
    }
}

/// Says what became of the wish, and takes the annotation away: it holds once.
pub(super) async fn answer(
    context: &Context,
    cluster: &BrainyCluster,
    wish: Option<Result<NodeId, String>>,
    outcome: Option<&GivenUp>,
) -> Result<(), Error> {
    match (wish, outcome) {
        (Some(Err(why)), _) => context.events.gave_up(cluster, Err(&why)).await,
        (Some(Ok(_)), Some(GivenUp::Refused(why))) => context.events.gave_up(cluster, Err(why)).await,
        (Some(Ok(node)), Some(GivenUp::Done(shards))) => {
            let words = format!(
                "gave up node {node}: what it had of shards {} is lost, and they are placed anew, empty",
                in_words(shards)
            );
            tracing::warn!(cluster = cluster.name_any(), namespace = cluster.namespace(), words, "gave up a node");
            context.events.gave_up(cluster, Ok(&words)).await;
        }
        // Nobody has looked, or it waits.
        _ => return Ok(()),
    }
    context.must_lead()?;
    // Only as it was read: another wish may stand there by now.
    let patch = json!({"metadata": {
        "resourceVersion": cluster.resource_version(),
        "annotations": {GIVE_UP_ANNOTATION: null},
    }});
    let clusters: Api<BrainyCluster> =
        Api::namespaced(context.client.clone(), &cluster.namespace().unwrap_or_default());
    clusters.patch(&cluster.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await?;
    Ok(())
}

fn in_words(shards: &[ShardId]) -> String {
    const MOST: usize = 20;
    let named: Vec<String> = shards.iter().take(MOST).map(ToString::to_string).collect();
    match shards.len().checked_sub(MOST).filter(|rest| *rest > 0) {
        Some(rest) => format!("{} and {rest} more", named.join(", ")),
        None => named.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{isolated, shared};
    use crate::reconcile::validate::validate;

    fn asked(mut cluster: BrainyCluster, node: &str) -> Result<NodeId, String> {
        cluster.annotations_mut().insert(GIVE_UP_ANNOTATION.into(), node.into());
        wish(&cluster, &validate(&cluster).unwrap()).unwrap()
    }

    #[test]
    fn only_a_node_of_a_cluster_with_volumes_can_be_given_up() {
        assert_eq!(asked(isolated(), "demo-1"), Ok(NodeId("demo-1".into())));
        assert!(asked(isolated(), "other-1").unwrap_err().contains("no node of this cluster"));
        assert!(asked(shared(), "demo-1").unwrap_err().contains("by themselves"));
        let mut consensus = isolated();
        consensus.spec.coordination.pattern = brainy_crds::Pattern::Consensus;
        assert!(asked(consensus, "demo-1").unwrap_err().contains("Leader"));
        assert_eq!(wish(&isolated(), &validate(&isolated()).unwrap()), None);
    }

    #[test]
    fn many_shards_are_counted_and_not_all_named() {
        let shards: Vec<ShardId> = (0..25).map(ShardId).collect();
        assert!(in_words(&shards).ends_with("and 5 more"));
        assert!(!in_words(&shards[..20]).contains("more"));
    }
}
