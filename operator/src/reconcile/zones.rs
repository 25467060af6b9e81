//! What is told of the zones of a cluster's nodes, and what is refused of a change of them.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use brainy_crds::Strategy;
use brainy_kubernetes::names;

use super::build::zones_text;
use super::dereference::Dereferenced;
use super::is_ready;
use super::status::Observation;
use super::validate::{Refusal, ValidatedCluster};
use crate::volumes::Claims;

const FIELD: &str = "spec.zones";
/// Names in a message.
const MOST: usize = 5;

/// Refuses what admission refuses too: zones that are not those that the nodes were dealt out to. A name says which zone a node is
/// of, so under other zones nodes would be others, and what the present ones have would be nobody's.
pub(super) fn must_be_the_same(found: &Dereferenced) -> Result<(), Refusal> {
    let wanted = zones_text(&found.sets.layout);
    let in_words = |zones: &str| format!("[{zones}]");
    // One that says nothing is of a zone that the spec has: somebody removed the annotation, and it is put back.
    let changed = found.sets.there().filter_map(said).find(|said| Some(*said) != wanted.as_deref()).map(in_words);
    let before = changed.or_else(|| {
        let other = found.sets.others.first()?;
        let is_of_no_zone = other.name_any() == found.cluster.name_any();
        Some(said(other).map_or_else(|| if is_of_no_zone { "none" } else { "others" }.to_owned(), in_words))
    });
    if let Some(before) = before {
        return Err(Refusal {
            field: FIELD,
            problem: format!(
                "is {} and was {before} when the nodes were made, which are named by their zone, as are the volumes that have their data. \
                 Set it back; for other zones create a new BrainyCluster and copy the data",
                wanted.as_deref().map_or_else(|| "none".to_owned(), in_words)
            ),
        });
    }
    match found.cluster.spec.storage.strategy {
        Strategy::Isolated if !found.sets.any() => must_find_its_volumes(&found.claims),
        _ => Ok(()),
    }
}

/// All zones, as a StatefulSet says them. `None`: it says none.
fn said(set: &StatefulSet) -> Option<&str> {
    set.annotations().get(names::ZONES_ANNOTATION).map(String::as_str)
}

/// What an earlier cluster of the name has left is found by the names of its volumes. One that is made with other zones would be empty.
fn must_find_its_volumes(claims: &Claims) -> Result<(), Refusal> {
    if claims.misplaced.is_empty() {
        return Ok(());
    }
    let named: Vec<String> = claims.misplaced.iter().take(MOST).map(ResourceExt::name_any).collect();
    let rest = claims.misplaced.len() - named.len();
    let rest = if rest > 0 { format!(" and {rest} more") } else { String::new() };
    Err(Refusal {
        field: FIELD,
        problem: format!(
            "an earlier BrainyCluster of this name had other zones, and has left the volume claims {}{rest}: no node of this one would \
             find the data on them. Set the zones as they were, choose another name, or delete the claims if the data is not wanted",
            named.join(", ")
        ),
    })
}

/// Notes how many nodes there are, in all and by zone.
pub(super) fn note(seen: &mut Observation, cluster: &ValidatedCluster, found: &Dereferenced) {
    let layout = &cluster.layout;
    let wanted = |pod: &&Pod| layout.slot_of(&pod.name_any()).filter(|slot| *slot < seen.wanted);
    let ready: Vec<i32> = found.pods.iter().filter(|pod| is_ready(pod)).filter_map(|pod| wanted(&pod)).collect();
    let count = |number: usize| i32::try_from(number).unwrap_or(i32::MAX);
    let zones = layout.sets().iter().enumerate().filter_map(|(at, set)| {
        let ready = ready.iter().filter(|slot| layout.place(**slot).0 == at).count();
        Some((set.zone.clone()?, count(ready), layout.share(at, seen.wanted)))
    });
    seen.zones = zones.collect();
    let unplaced = found.pods.iter().filter(|pod| wanted(pod).is_some()).filter_map(unplaced);
    seen.unplaced = unplaced.take(MOST).collect();
    seen.ready = count(ready.len());
}

/// Why no machine takes a pod, in words. `None`: one does, or nobody has looked for one yet.
fn unplaced(pod: &Pod) -> Option<String> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let scheduled =
        conditions.iter().find(|condition| condition.type_ == "PodScheduled" && condition.status == "False")?;
    let why = scheduled.message.as_deref().filter(|_| scheduled.reason.as_deref() == Some("Unschedulable"))?;
    let place = pod
        .labels()
        .get(names::ZONE_LABEL)
        .map_or_else(|| "no machine".into(), |zone| format!("no machine in zone {zone}"));
    Some(format!("{place} can take {}: {why}", pod.name_any()))
}
