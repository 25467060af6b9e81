//! What the [plan](crate::plan) is decided from, and what is said of it: the only reads and writes around that decision.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use brainy_coordination::NodeId;
use brainy_coordination::bucket::spec::Pattern;
use brainy_coordination::placement::{Balance, place_in_zones};
use brainy_crds::{Approval, BrainyCluster, BrainyClusterStatus, Plan, PlannedObject, PlannedVolume};
use brainy_kubernetes::names;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use xxhash_rust::xxh3::xxh3_64;

use super::build::{self, Carried, SidecarImage, pod_template};
use super::dereference::Dereferenced;
use super::validate::{ValidatedCluster, ValidatedStorage};
use super::{Error, FIELD_MANAGER, status};
use crate::context::Context;
use crate::in_place::Effect;
use crate::layout::Layout;
use crate::plan::{ANNOTATION, Accepted, Change, Decision, Facts, Hold, Live, decide, fields, paused, template_inputs};
use crate::shards::{Volumes, room};
use crate::{in_place, shards, volumes};

/// What the API server said the pod template would become, so that it is not asked at every look.
#[derive(Debug, Default)]
pub struct Memory(Option<Differing>);

#[derive(Clone, Debug)]
struct Differing {
    /// The template that was built, and the StatefulSet that it was compared with.
    of: (String, Option<String>, Option<i64>),
    fields: Vec<String>,
}

/// What the spec wants, and this operator would make of it.
pub(super) fn wish(cluster: &ValidatedCluster, found: &Dereferenced, sidecar: &SidecarImage) -> Accepted {
    let template = pod_template(cluster, sidecar, consensus_since(cluster, found));
    // A template always has a JSON form.
    let template = serde_json::to_vec(&template).unwrap_or_default();
    Accepted {
        nodes: cluster.replicas,
        pattern: cluster.pattern,
        volume: cluster.volume.as_ref().map(|volume| volume.size.0.clone()),
        inputs: template_inputs(&found.cluster.spec),
        template: format!("{:016x}", xxh3_64(&template)),
        approved: None,
    }
}

/// With which generation of the spec the pattern begins. Where that is still to come, the generation is none that a plan could be
/// made from: its approval is another.
fn consensus_since(cluster: &ValidatedCluster, found: &Dereferenced) -> Option<i64> {
    let is_wanted = cluster.pattern == Pattern::Consensus;
    let begins = if found.sets.any() { 0 } else { cluster.generation };
    is_wanted.then(|| found.consensus_since().unwrap_or(begins))
}

/// What counts as accepted where nothing may change.
pub(super) fn standing(found: &Dereferenced, wish: &Accepted) -> Accepted {
    found.accepted().unwrap_or_else(|| Accepted::adopted(wish, &live(found), true))
}

fn live(found: &Dereferenced) -> Live {
    Live {
        nodes: found.sets.replicas().unwrap_or_default(),
        is_consensus: found.consensus_since().is_some(),
        volume: volumes::least(&found.claims.ours).map(|size| size.0),
    }
}

/// The cluster by which everything goes while something is held back.
pub(super) fn effective(cluster: &ValidatedCluster, decision: &Decision) -> ValidatedCluster {
    match decision.hold {
        Hold::Nothing | Hold::Template => cluster.clone(),
        Hold::Everything => {
            ValidatedCluster { replicas: decision.stands.nodes, pattern: decision.stands.pattern, ..cluster.clone() }
        }
    }
}

/// Decides what of the spec is carried out now. What the plan says is in the status before the decision is acted on, and what
/// was accepted on the first StatefulSet.
pub(super) async fn look(
    context: &Context,
    cluster: &ValidatedCluster,
    found: &mut Dereferenced,
    (memory, volumes): (&mut Memory, &Volumes),
) -> Result<(Decision, Option<Plan>), Error> {
    let wish = wish(cluster, found, &context.sidecar);
    if found.cluster.spec.paused {
        return Ok((paused(standing(found, &wish)), None));
    }
    if !found.sets.any() {
        // Nothing restarts where nothing is.
        return Ok((Decision { hold: Hold::Nothing, stands: wish, change: None }, None));
    }
    let rollout = found.cluster.spec.rollout.clone();
    let manual = rollout.approval == Approval::Manual;
    let accepted = found.accepted().unwrap_or_else(|| Accepted::adopted(&wish, &live(found), manual));
    let differing = match accepted.template == wish.template {
        true => Vec::new(),
        false => differing(context, cluster, found, (&wish, memory)).await?,
    };
    let approved = rollout.approved_plan.as_deref();
    let facts = Facts {
        accepted: &accepted,
        wish: &wish,
        template_differs: !differing.is_empty(),
        is_asleep: accepted.nodes == 0 && found.pods.is_empty(),
        manual,
        approved,
    };
    let decision = decide(&facts);
    let plan = match &decision.change {
        None => None,
        Some(change) => Some(plan(context, cluster, (found, volumes), change, differing).await?),
    };
    context.must_lead()?;
    if let Some(plan) = plan.as_ref().filter(|plan| plan.approved) {
        announce(context, &mut found.cluster, plan).await?;
    }
    // Where the first is missing, it is made with what stands.
    if let Some(Some(first)) = found.sets.live.first_mut()
        && Accepted::of(first).as_ref() != Some(&decision.stands)
    {
        *first = note(context, first, &decision.stands).await?;
    }
    Ok((decision, plan))
}

/// Which fields of the pod template would be others, as the API server would have them: defaults included, so that another way
/// of writing the same is no difference. One StatefulSet is asked about: in others only the zone is another.
async fn differing(
    context: &Context,
    cluster: &ValidatedCluster,
    found: &Dereferenced,
    (wish, memory): (&Accepted, &mut Memory),
) -> Result<Vec<String>, Error> {
    let mut there = found.sets.live.iter().enumerate().filter_map(|(at, set)| Some((at, set.as_ref()?)));
    let Some((at, live)) = there.next() else { return Ok(Vec::new()) };
    if found.consensus_since().is_some() != (cluster.pattern == Pattern::Consensus) {
        return Ok(vec!["(all: the pattern begins anew)".to_owned()]);
    }
    let of = (wish.template.clone(), live.uid(), live.metadata.generation);
    if let Some(known) = memory.0.as_ref().filter(|known| known.of == of) {
        return Ok(known.fields.clone());
    }
    let carried = Carried {
        replicas: found.sets.replicas().unwrap_or_default(),
        claim_templates: found.sets.claim_templates(),
        consensus_since: consensus_since(cluster, found),
        accepted: found.accepted(),
        ..Carried::default()
    };
    let Some(built) = build::build(cluster, &context.sidecar, &carried).statefulsets.into_iter().nth(at) else {
        return Ok(Vec::new());
    };
    let params = PatchParams { dry_run: true, ..PatchParams::apply(FIELD_MANAGER).force() };
    let sets: Api<StatefulSet> = Api::namespaced(context.client.clone(), &cluster.namespace);
    let would_be = sets.patch(&live.name_any(), &params, &Patch::Apply(&built)).await?;
    let fields = fields::differing(&template_of(live), &template_of(&would_be), "spec.template");
    memory.0 = Some(Differing { of, fields: fields.clone() });
    Ok(fields)
}

fn template_of(statefulset: &StatefulSet) -> Value {
    // It has been JSON just before.
    serde_json::to_value(statefulset.spec.as_ref().map(|spec| &spec.template)).unwrap_or_default()
}

/// The plan in full. One that is in the status already is taken from there.
async fn plan(
    context: &Context,
    cluster: &ValidatedCluster,
    (found, sizes): (&Dereferenced, &Volumes),
    change: &Change,
    differing: Vec<String>,
) -> Result<Plan, Error> {
    let said = found.cluster.status.as_ref().and_then(|status| status.plan.as_ref());
    // How much data would move may only be known since.
    let is_whole =
        |said: &&Plan| said.bytes_moved.is_some() || said.approved || sizes.is_empty() || change.nodes.is_none();
    let said = said.filter(|said| (&said.hash, said.approved) == (&change.hash, change.approved));
    if let Some(said) = said.filter(is_whole) {
        return Ok(said.clone());
    }
    let object = |kind: &str, name: String, fields: Vec<String>| PlannedObject { kind: kind.into(), name, fields };
    let config_changes = differing.iter().any(|field| field.contains(build::CONFIG_HASH_ANNOTATION));
    let effect = change.template.then(|| in_place::effect(&differing));
    let pods = |of: Effect| if effect == Some(of) { all_pods(cluster, found) } else { Vec::new() };
    let mut objects = Vec::new();
    for (at, set) in cluster.layout.sets().iter().enumerate() {
        let is_other = |(from, to)| cluster.layout.share(at, from) != cluster.layout.share(at, to);
        let replicas = change.nodes.filter(|nodes| is_other(*nodes)).map(|_| "spec.replicas".to_owned());
        let fields: Vec<String> = replicas.into_iter().chain(differing.iter().cloned()).collect();
        if !fields.is_empty() {
            objects.push(object("StatefulSet", set.name.clone(), fields));
        }
    }
    if config_changes {
        objects.push(object(
            "ConfigMap",
            names::config(&cluster.name),
            vec![format!("data[{}]", names::NODE_CONFIG_KEY)],
        ));
    }
    let growing = match (&change.volume, &cluster.volume) {
        (Some(_), Some(volume)) => volumes::smaller(&found.claims.ours, &volume.size)
            .into_iter()
            .map(|(claim, from)| PlannedVolume { claim, from: from.0, to: volume.size.0.clone() })
            .collect(),
        _ => Vec::new(),
    };
    for volume in &growing {
        objects.push(object(
            "PersistentVolumeClaim",
            volume.claim.clone(),
            vec!["spec.resources.requests.storage".into()],
        ));
    }
    let moved = match change.nodes {
        Some((_, nodes)) if cluster.balance == Balance::Count => {
            shards::published_map(&context.client, cluster).await?.map(|map| moved(&map, cluster, nodes, sizes))
        }
        _ => None,
    };
    let mut plan = Plan {
        hash: change.hash.clone(),
        approved: change.approved,
        summary: String::new(),
        objects,
        restarts: pods(Effect::Replaced),
        sidecar_restarts: pods(Effect::SidecarsRestart),
        resizes: pods(Effect::Resized),
        shards_moved: moved.map(|moved| moved.shards),
        bytes_moved: moved.and_then(|moved| moved.bytes),
        volumes: growing,
    };
    plan.summary = summary(&cluster.layout, change, &plan);
    Ok(plan)
}

/// All pods, in the order in which they are replaced.
fn all_pods(cluster: &ValidatedCluster, found: &Dereferenced) -> Vec<String> {
    let place = |name: &String| cluster.layout.slot_of(name).map(|slot| cluster.layout.place(slot));
    let mut pods: Vec<String> =
        found.pods.iter().map(ResourceExt::name_any).filter(|pod| place(pod).is_some()).collect();
    pods.sort_by_key(|pod| place(pod).map(|(set, ordinal)| (set, Reverse(ordinal))));
    pods
}

/// What moves for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Moved {
    shards: i32,
    /// `None`: not known.
    bytes: Option<i64>,
}

/// What has another owner once there are so many nodes. A cluster that hibernates keeps its map.
fn moved(map: &brainy_coordination::ShardMap, cluster: &ValidatedCluster, nodes: i32, sizes: &Volumes) -> Moved {
    if nodes == 0 {
        return Moved { shards: 0, bytes: Some(0) };
    }
    let zones = (0..nodes).filter_map(|slot| {
        let set = cluster.layout.sets().get(cluster.layout.place(slot).0)?;
        Some((NodeId(cluster.layout.node(slot)), set.zone.clone()?))
    });
    let zones: BTreeMap<NodeId, String> = zones.collect();
    let nodes: Vec<NodeId> = cluster.layout.nodes(nodes).map(NodeId).collect();
    let before: Vec<Option<NodeId>> =
        (0..map.shards()).map(|shard| map.owner(brainy_coordination::ShardId(shard)).cloned()).collect();
    let after = place_in_zones(&before, &nodes, &zones);
    // One that has no owner yet moves nowhere.
    let count = before.iter().zip(&after).filter(|(before, after)| before.is_some() && before != after).count();
    let bytes = match &cluster.storage {
        ValidatedStorage::Isolated => room::bytes(&before, &after, sizes),
        // They are copied in the bucket, and how much that is nobody counts.
        ValidatedStorage::Namespaced(_) => None,
        ValidatedStorage::Shared(_) => Some(0),
    };
    Moved {
        shards: i32::try_from(count).unwrap_or(i32::MAX),
        bytes: bytes.map(|bytes| i64::try_from(bytes).unwrap_or(i64::MAX)),
    }
}

fn summary(layout: &Layout, change: &Change, plan: &Plan) -> String {
    let mut parts = Vec::new();
    let order = if layout.sets().len() > 1 { "one at a time and zone by zone" } else { "one at a time" };
    if !plan.restarts.is_empty() {
        parts.push(format!("{} pods are replaced, {order} ({})", plan.restarts.len(), plan.restarts.join(", ")));
    } else if !plan.sidecar_restarts.is_empty() {
        let pods = plan.sidecar_restarts.join(", ");
        parts.push(format!(
            "the sidecars of {} pods restart, {order}, and their applications go on ({pods})",
            plan.sidecar_restarts.len()
        ));
    } else if !plan.resizes.is_empty() {
        let pods = plan.resizes.join(", ");
        parts.push(format!(
            "{} pods get other resources, without a restart where possible ({pods})",
            plan.resizes.len()
        ));
    } else if change.template {
        parts.push("new pods get another template".to_owned());
    }
    if let Some((from, to)) = change.nodes {
        let copied = plan.bytes_moved.and_then(|bytes| u64::try_from(bytes).ok()).filter(|bytes| *bytes > 0);
        let copied = copied.map_or_else(String::new, |bytes| format!(" (about {} are copied)", room::in_words(bytes)));
        let moved = plan.shards_moved.map_or_else(String::new, |moved| format!(", {moved} shards move{copied}"));
        parts.push(format!("nodes: {from} to {to}{}{moved}", by_zone(layout, from, to)));
    }
    if let Some(pattern) = &change.pattern {
        parts.push(format!("the pattern becomes {pattern}"));
    }
    if let Some((from, to)) = &change.volume {
        parts.push(format!("{} volumes grow from {from} to {to}", plan.volumes.len()));
    }
    let why = if change.by_operator { "made by a new version of the operator alone: " } else { "" };
    format!("{why}{}", parts.join("; "))
}

/// The zones that get more nodes or fewer, in words: ` (west-1a 2 to 3)`.
fn by_zone(layout: &Layout, from: i32, to: i32) -> String {
    let zones = layout.sets().iter().enumerate().filter_map(|(at, set)| {
        let (from, to) = (layout.share(at, from), layout.share(at, to));
        (from != to).then_some(format!("{} {from} to {to}", set.zone.as_ref()?))
    });
    let zones: Vec<String> = zones.collect();
    if zones.is_empty() { String::new() } else { format!(" ({})", zones.join(", ")) }
}

/// Says in the status what is about to be done.
async fn announce(context: &Context, cluster: &mut BrainyCluster, plan: &Plan) -> Result<(), Error> {
    let before = cluster.status.clone().unwrap_or_default();
    if before.plan.as_ref() == Some(plan) {
        return Ok(());
    }
    let said = BrainyClusterStatus { plan: Some(plan.clone()), ..before };
    status::write(&context.client, cluster, &said).await?;
    cluster.status = Some(said);
    Ok(())
}

/// Notes on the StatefulSet what is accepted, if it still is the one that was read.
async fn note(context: &Context, statefulset: &StatefulSet, accepted: &Accepted) -> Result<StatefulSet, Error> {
    let namespace = statefulset.namespace().unwrap_or_default();
    let sets: Api<StatefulSet> = Api::namespaced(context.client.clone(), &namespace);
    let patch = json!({"metadata": {
        "uid": statefulset.uid(),
        "resourceVersion": statefulset.resource_version(),
        "annotations": {ANNOTATION: accepted.text()},
    }});
    Ok(sets.patch(&statefulset.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await?)
}

/// The nodes' configuration stays what it is: a container that restarts by itself must not read what waits for an approval.
pub(super) async fn hold_configuration(
    context: &Context,
    cluster: &ValidatedCluster,
    built: &mut ConfigMap,
) -> Result<(), Error> {
    if let (Some(there), Some(data)) = (given(context, cluster).await?, built.data.as_mut()) {
        data.insert(names::NODE_CONFIG_KEY.to_owned(), there);
    }
    Ok(())
}

/// The configuration that the nodes were given last.
pub(super) async fn given(context: &Context, cluster: &ValidatedCluster) -> Result<Option<String>, Error> {
    let maps: Api<ConfigMap> = Api::namespaced(context.client.clone(), &cluster.namespace);
    let live = maps.get_opt(&names::config(&cluster.name)).await?;
    Ok(live.and_then(|live| live.data).and_then(|mut data| data.remove(names::NODE_CONFIG_KEY)))
}
