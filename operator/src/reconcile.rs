//! One reconcile, in five steps of one file each:
//!
//! 1. [`dereference`]: read what the decisions need, fresh.
//! 2. [`validate`]: pure; what can't run is refused with a condition.
//! 3. [`build`]: pure; the objects of the cluster.
//! 4. [`apply`]: make the API server agree.
//! 5. [`status`]: say what was found.
//!
//! Between validating and building come the storage check and the shard controller: how many nodes there may
//! be depends on who still holds shards.

pub mod apply;
pub mod build;
mod deletion;
pub mod dereference;
pub mod disruption;
mod errors;
mod giving_up;
mod hibernation;
mod pattern;
pub mod planning;
pub mod rolling;
pub mod s3_keys;
mod scaling;
pub mod status;
mod stuck;
mod unchanged;
pub mod validate;
mod zones;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use brainy_coordination::NodeId;
use brainy_coordination::bucket::spec::Pattern;
use brainy_crds::{Approval, BrainyCluster};
use brainy_kubernetes::names;
use brainy_storage::documents::Documents;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

pub use deletion::FINALIZER;
pub use errors::Error;

use crate::context::{ClusterMemory, Context};
use crate::identity;
use crate::plan::{Decision, Hold};
use crate::regions;
use crate::shards::{Controller, PodFacts, Summary, ZONE_LABEL};
use crate::storage::declaration::{Declaration, Sessions};
use crate::storage::{self, Storage, Unclaimed};
use crate::volumes::{self, health};
use apply::Applier;
use build::Carried;
use dereference::Dereferenced;
use rolling::Rollout;
use status::{Observation, PlanView, StorageView};
use validate::{Refusal, ValidatedCluster, ValidatedStorage, validate};

/// Owner of the fields that the operator applies.
pub const FIELD_MANAGER: &str = "brainy-operator";

/// Time between looks while something is on its way.
const SOON: Duration = Duration::from_secs(1);
/// After this time without an end of it, looks become rarer.
const PATIENCE: Duration = Duration::from_secs(120);
/// Time between these.
const SLOWLY: Duration = Duration::from_secs(5);
/// Time between looks where nothing is to be done.
const LATER: Duration = Duration::from_secs(300);

/// Reconciles one cluster. Says when to look again.
pub async fn reconcile(context: &Context, seen: &BrainyCluster, memory: &mut ClusterMemory) -> Result<Duration, Error> {
    let Some(mut cluster) = dereference::fresh(&context.client, seen).await? else {
        // Deleted, or another one of the same name by now: that one has an event of its own.
        return Ok(LATER);
    };
    if cluster.metadata.deletion_timestamp.is_some() {
        return Box::pin(deletion::clean_up(context, &cluster, memory)).await;
    }
    match regions::decide(&cluster, &context.machines.regions()) {
        Ok(None) => {}
        Ok(Some(status)) => {
            // Written down before anything is done by it: from then on it is so, whatever the machines say.
            context.must_lead()?;
            if !status::write(&context.client, &cluster, &status).await? {
                return Ok(SOON);
            }
            cluster.status = Some(status);
        }
        Err(refusal) => {
            refuse(context, &cluster, &refusal).await?;
            // Machines are labelled without a word to anybody here.
            return Ok(SLOWLY);
        }
    }
    match validate(&cluster) {
        Ok(validated) => Box::pin(run(context, cluster, &validated, memory)).await,
        Err(refusal) => refuse(context, &cluster, &refusal).await,
    }
}

/// Says what is wrong with a spec. Nothing is done for it but that volumes are kept if that is asked for.
async fn refuse(context: &Context, cluster: &BrainyCluster, refusal: &Refusal) -> Result<Duration, Error> {
    deletion::retain_if_asked(context, cluster).await?;
    let status = status::refused(cluster, Refusal::REASON, &refusal.to_string(), Timestamp::now());
    report(context, cluster, &status).await?;
    Ok(LATER)
}

async fn run(
    context: &Context,
    cluster: BrainyCluster,
    validated: &ValidatedCluster,
    memory: &mut ClusterMemory,
) -> Result<Duration, Error> {
    let mut found = dereference::dereference(&context.client, cluster).await?;
    if let Err(refusal) = zones::must_be_the_same(&found) {
        refuse(context, &found.cluster, &refusal).await?;
        // What is in the way may go without a word to anybody here.
        return Ok(SLOWLY);
    }
    let mut seen = first_observation(context, validated, &found);
    let outcome = Box::pin(steps(context, validated, &mut found, memory, &mut seen)).await;
    context.metrics.observed(validated, [seen.wanted, seen.present, seen.ready], seen.shards.as_ref());
    if let Err(error) = &outcome {
        seen.failure = Some((error.reason().to_owned(), error.to_string()));
    }
    // Said also when a step failed: the cause must be where people look. A race that was lost is no news.
    if outcome.as_ref().err().is_none_or(|error| !error.is_transient()) {
        report(context, &found.cluster, &status::after(&found.cluster, &seen, Timestamp::now())).await?;
    }
    let certificates = memory.certificates.due_in(context.clock.now());
    outcome.map(|again| again.min(certificates.unwrap_or(LATER).max(SOON)))
}

/// What is known before anything was tried.
fn first_observation(context: &Context, validated: &ValidatedCluster, found: &Dereferenced) -> Observation {
    let spec = &found.cluster.spec;
    let holds = spec.paused || spec.rollout.approval == Approval::Manual;
    let wanted = match holds && found.sets.any() {
        true => planning::standing(found, &planning::wish(validated, found, &context.sidecar)).nodes,
        false => validated.replicas,
    };
    let storage = match validated.storage.bucket() {
        None => StorageView::Volumes,
        Some(_) => StorageView::Bucket,
    };
    let mut seen = Observation {
        wanted,
        present: i32::try_from(found.pods.len()).unwrap_or(i32::MAX),
        ready: 0,
        zones: Vec::new(),
        unplaced: Vec::new(),
        storage,
        shards: None,
        changing: None,
        problems: Vec::new(),
        certificates: None,
        volumes: matches!(validated.storage, ValidatedStorage::Isolated)
            .then(|| health::View::new(validated.warn_percent)),
        regions: None,
        draining: Vec::new(),
        emptied: Vec::new(),
        disruption: None,
        failure: None,
        paused: spec.paused,
        hibernated: None,
        plan: PlanView::Unknown,
    };
    zones::note(&mut seen, validated, found);
    seen
}

async fn steps(
    context: &Context,
    validated: &ValidatedCluster,
    found: &mut Dereferenced,
    memory: &mut ClusterMemory,
    seen: &mut Observation,
) -> Result<Duration, Error> {
    let now = context.clock.now();
    let paused = found.cluster.spec.paused;
    // Before anything that can fail: a full volume may be why it does.
    let grows_at_once = !paused && found.cluster.spec.rollout.approval == Approval::Automatic;
    if grows_at_once {
        grow(context, validated, found, memory, seen).await?;
    }
    // Before anything is made: half of a cluster beside another one would help nobody.
    for taken in found.sets.taken.iter().filter(|_| !paused) {
        apply::must_be_ours(validated, "StatefulSet", taken)?;
    }
    let checked = storage::check(context, validated, found.credentials.as_ref(), &mut memory.storage, now).await?;
    context.must_lead()?;
    let begins = matches!(checked, Storage::Unclaimed(_)) || found.sets.live.iter().any(Option::is_none);
    if begins && !paused && !apply::is_as_read(&context.client, &found.cluster).await? {
        return Ok(SOON);
    }
    let checked = match checked {
        // A bucket that nobody has is taken for a cluster that is made, and none is.
        Storage::Unclaimed(_) if paused => return Ok(LATER),
        Storage::Unclaimed(unclaimed) => {
            // First the finalizer, then the claim: no data is ever there without it.
            deletion::keep_finalizer(context, &found.cluster, validated).await?;
            claim(context, validated, found, unclaimed, memory).await?
        }
        other => other,
    };
    let bucket = match checked {
        Storage::Volumes => None,
        Storage::Bucket(bucket) => Some(bucket),
        Storage::Unclaimed(_) => return Ok(SOON),
        // Nothing is created, changed or deleted while the storage does not answer.
        failed @ Storage::Failed { .. } => return Ok(storage_failed(failed, seen)),
    };
    if paused {
        deletion::retain_if_asked(context, &found.cluster).await?;
    } else {
        deletion::keep_finalizer(context, &found.cluster, validated).await?;
        volumes::follow_policy(&context.client, &found.cluster, &found.claims).await?;
    }
    if !certify(context, validated, found, memory, seen).await? {
        return Ok(memory.unsettled_for(false, now).filter(|long| *long >= PATIENCE).map_or(SOON, |_| SLOWLY));
    }
    if paused && !found.sets.any() {
        return Ok(LATER);
    }

    let volumes = memory.shards.volumes().cloned().unwrap_or_default();
    let (decision, plan) = planning::look(context, validated, found, (&mut memory.planning, &volumes)).await?;
    if !grows_at_once && decision.hold != Hold::Everything {
        grow(context, validated, found, memory, seen).await?;
    }
    let effective = planning::effective(validated, &decision);
    if let Some(documents) = &bucket {
        // Before anything is begun by it: how its nodes keep their sessions must be known to whoever finds the bucket alone.
        context.must_lead()?;
        let wish = declaration(context, &effective, found);
        match memory.storage.declare(&**documents, wish).await {
            Err(brainy_coordination::bucket::Error::Storage(error)) => {
                return Ok(storage_failed(memory.storage.failed_between(validated, &error, now), seen));
            }
            other => other?,
        }
    }
    if !paused {
        // Before the pods that mount them.
        s3_keys::keep(context, &effective, &mut memory.s3_keys).await?;
    }
    seen.wanted = effective.replicas;
    zones::note(seen, validated, found);
    seen.plan = match (paused, plan, decision.change.as_ref()) {
        (true, ..) => PlanView::Unknown,
        (false, Some(plan), Some(change)) if !change.approved => {
            PlanView::Waiting { plan: Box::new(plan), drift: change.drift.clone() }
        }
        (false, ..) => PlanView::Nothing,
    };
    Box::pin(act(context, &effective, (found, &decision), bucket, memory, seen)).await
}

/// Looks after the nodes' certificates. False: there are none yet, and so are no nodes; those that run go on with what they have.
async fn certify(
    context: &Context,
    validated: &ValidatedCluster,
    found: &Dereferenced,
    memory: &mut ClusterMemory,
    seen: &mut Observation,
) -> Result<bool, Error> {
    let facts = identity::Facts {
        paused: seen.paused,
        everyone_ready: seen.ready >= seen.wanted,
        had_cert_manager: status::had_cert_manager(&found.cluster),
        overlap: context.trust_overlap,
    };
    let are_there = identity::look(context, validated, facts, memory).await?;
    seen.certificates = memory.certificates.view().cloned();
    if are_there || found.sets.any() {
        return Ok(true);
    }
    if let Some(view) = &seen.certificates {
        let said = view.message.clone();
        match view.reason {
            identity::NOT_ISSUED => seen.changing = Some((view.reason, said)),
            other => seen.failure = Some((other.to_owned(), said)),
        }
    }
    Ok(false)
}

/// Claims the place, and says so where it was another cluster's.
async fn claim(
    context: &Context,
    validated: &ValidatedCluster,
    found: &Dereferenced,
    unclaimed: Unclaimed,
    memory: &mut ClusterMemory,
) -> Result<Storage, Error> {
    let before = unclaimed.adopted();
    let wish = declaration(context, validated, found);
    let claimed = storage::claim(unclaimed, validated, wish, &mut memory.storage, context.clock.now()).await?;
    if let (Storage::Bucket(_), Some(before)) = (&claimed, before) {
        context.events.adopted(&found.cluster, &before).await;
    }
    Ok(claimed)
}

/// What is to stand in the bucket of a cluster. Its nodes keep their sessions among them until the last one that did is gone.
fn declaration(context: &Context, cluster: &ValidatedCluster, found: &Dereferenced) -> Declaration {
    let among_them = cluster.pattern == Pattern::Consensus || found.consensus_since().is_some();
    let sessions = if among_them { Sessions::Nodes } else { Sessions::Bucket };
    Declaration::of(&found.cluster, sessions, &context.identity)
}

/// Resizes volumes, and notes what keeps it from that.
async fn grow(
    context: &Context,
    validated: &ValidatedCluster,
    found: &Dereferenced,
    memory: &mut ClusterMemory,
    seen: &mut Observation,
) -> Result<(), Error> {
    let now = context.clock.now();
    let grown = volumes::grow(&context.client, validated, &found.claims.ours, &mut memory.volumes, now).await?;
    seen.failure = grown.problem.clone().map(|problem| (health::NOT_RESIZED.to_owned(), problem));
    if let Some(volumes) = &mut seen.volumes {
        volumes.growth = grown;
    }
    Ok(())
}

/// Places shards, and makes the nodes what they should be.
async fn act(
    context: &Context,
    validated: &ValidatedCluster,
    (found, decision): (&Dereferenced, &Decision),
    bucket: Option<Arc<dyn Documents>>,
    memory: &mut ClusterMemory,
    seen: &mut Observation,
) -> Result<Duration, Error> {
    let now = context.clock.now();
    if !seen.paused
        && let Some(waiting) = pattern::change(context, validated, found, memory).await?
    {
        seen.changing = Some((status::CHANGING_PATTERN, waiting));
        return Ok(SOON);
    }

    let pods = pod_facts(&found.pods);
    let volumes = match bucket {
        None => volumes::slots(&found.claims.ours, &validated.layout),
        // There is no data on them.
        Some(_) => BTreeSet::new(),
    };
    let is_consensus = validated.pattern == Pattern::Consensus;
    let consensus_since = is_consensus.then(|| found.consensus_since().unwrap_or(validated.generation));
    let drained = emptied_nodes(context, validated, &pods);
    let leaving = scaling::leaving(context, validated, found, memory, &pods).await?;
    let as_many = ValidatedCluster { replicas: leaving.nodes(validated), ..validated.clone() };
    // It changes who owns what, for good: not while nothing is to change.
    let wish = if seen.paused { None } else { giving_up::wish(&found.cluster, validated) };
    let mut controller = Controller {
        client: &context.client,
        cluster: &as_many,
        bucket: bucket.as_ref(),
        identity: &context.identity,
        clock: &*context.clock,
        volumes: &volumes,
        consensus_since,
        give_up: wish.as_ref().and_then(|wish| wish.as_ref().ok()),
        drained: &drained,
        kept: &leaving.kept,
        pods: &pods,
        memory: &mut memory.shards,
    };
    if validated.replicas == 0 {
        let placement = controller.policy().await;
        // A bucket that is away keeps no cluster from going to sleep: nodes then take over from each other on the way.
        if !seen.paused
            && let Err(error) = controller.lay_to_rest(placement.clone()).await
        {
            tracing::warn!(%error, cluster = validated.name, namespace = validated.namespace, "nodes can't be told that all stop");
        }
        let like_them = (placement, consensus_since);
        return Box::pin(hibernation::stop(context, validated, (found, decision), like_them, memory, seen)).await;
    }
    let shards = match controller.run().await {
        Err(Error::Storage(error)) => {
            return Ok(storage_failed(memory.storage.failed_between(validated, &error, now), seen));
        }
        other => other?,
    };
    let placement = controller.policy().await;
    context.metrics.map_revision(validated, shards.view.revision);
    seen.shards = Some(shards.view);
    seen.problems.clone_from(&shards.problems);
    seen.regions = validated.regions.as_ref().map(|regions| regions::View {
        healthy: regions::condition(regions, &shards.regions),
        status: regions::status(regions, &shards.regions),
    });
    seen.draining.clone_from(&shards.draining);
    seen.emptied.clone_from(&shards.emptied);
    if let Some(volumes) = &mut seen.volumes {
        giving_up::note(volumes, validated, &found.claims.ours, &shards);
    }
    stuck::free(context, &found.cluster, validated, &found.pods, &shards).await?;
    giving_up::answer(context, &found.cluster, wish, shards.given_up.as_ref()).await?;

    let looked_again = Duration::from_secs(validated.renew_seconds).min(shards.next_lapse.unwrap_or(LATER).max(SOON));
    if seen.paused {
        let nodes = found.sets.replicas().unwrap_or_default();
        let facts = disruption::Facts { nodes, pods: &found.pods, rollout: None, shards: &shards };
        let verdict = disruption::judge(&facts);
        context.must_lead()?;
        let mut applier = applier(context, validated, &shards.sessions, &mut memory.ledger, now);
        disruption::follow(&mut applier, validated, &verdict).await?;
        seen.disruption = Some((verdict, false));
        return Ok(looked_again);
    }
    // Where none ran, all that have a volume come back first, and leave when others have their shards.
    let asleep = validated.volume.is_some() && found.sets.replicas().unwrap_or_default() == 0;
    let woken = shards.map.as_ref().filter(|_| asleep).map(|map| hibernation::nodes_of(map, &validated.layout));
    let current = found.sets.replicas().max(Some(shards.needed_nodes())).max(woken);
    let replicas = scaling::replicas(validated.replicas, current, |slot| {
        shards.is_empty_handed(&NodeId(validated.layout.node(slot)))
    });
    context.must_lead()?;
    let mut prepared = build::build(
        validated,
        &context.sidecar,
        &Carried {
            replicas,
            sessions: replicas.max(found.slots()),
            claim_templates: found.sets.claim_templates(),
            volumes,
            placement,
            consensus_since,
            accepted: Some(decision.stands.clone()),
        },
    );
    if !apply::may_have(&context.client, found, replicas).await? {
        return Ok(SOON);
    }
    let is_held = found.sets.any() && decision.hold != Hold::Nothing;
    if is_held {
        planning::hold_configuration(context, validated, &mut prepared.config_map).await?;
    }
    let policy_for = context.network_policies.as_deref();
    prepared.network_policy = policy_for.map(|namespace| build::network_policy(validated, namespace));
    let mut applier = applier(context, validated, &shards.sessions, &mut memory.ledger, now);
    let applied = Box::pin(applier.apply(prepared, (&found.sets, is_held))).await?;

    context.must_lead()?;
    let rollout = rolling::roll(context, validated, &applied, found, (&shards, &mut memory.rolling)).await?;
    let facts = disruption::Facts {
        nodes: replicas.max(validated.replicas),
        pods: &found.pods,
        rollout: Some(&rollout),
        shards: &shards,
    };
    let verdict = disruption::judge(&facts);
    context.must_lead()?;
    disruption::follow(&mut applier, validated, &verdict).await?;
    let refused_for = memory.refusing_for(verdict.is_unwell(), now);
    seen.disruption = Some((verdict, refused_for >= disruption::PATIENCE));
    seen.changing = changing(validated, replicas, found, (&shards, leaving.no_room.as_deref()), &rollout);
    let settled = seen.changing.is_none() && seen.problems.is_empty() && seen.ready >= seen.wanted;
    Ok(match memory.unsettled_for(settled, now) {
        None => looked_again,
        Some(long) if long >= PATIENCE => SLOWLY,
        Some(_) => SOON,
    })
}

fn applier<'a>(
    context: &'a Context,
    cluster: &'a ValidatedCluster,
    existing_sessions: &'a BTreeSet<String>,
    ledger: &'a mut apply::Ledger,
    now: Duration,
) -> Applier<'a> {
    Applier { client: &context.client, cluster, seen: &context.seen, existing_sessions, ledger, now }
}

/// The nodes whose shards go to others because their machines are being emptied. With strategy Isolated none: a machine that is
/// cordoned mostly comes back, and a volume that can follow its pod does; to copy all data for that is worth it for nobody.
fn emptied_nodes(context: &Context, cluster: &ValidatedCluster, pods: &[PodFacts]) -> BTreeSet<NodeId> {
    if matches!(cluster.storage, ValidatedStorage::Isolated) {
        return BTreeSet::new();
    }
    let hosts = pods.iter().filter(|pod| !pod.host.is_empty()).map(|pod| pod.host.clone()).collect();
    let emptied = context.machines.emptied((cluster.namespace.clone(), cluster.name.clone()), hosts);
    pods.iter().filter(|pod| emptied.contains(&pod.host)).map(|pod| pod.node.clone()).collect()
}

/// Notes that the storage failed, and says when to look again.
fn storage_failed(failed: Storage, seen: &mut Observation) -> Duration {
    match failed {
        Storage::Failed { problem, retry_in } => {
            seen.storage = StorageView::Failed(problem.reason, problem.message);
            retry_in
        }
        Storage::Volumes | Storage::Bucket(_) | Storage::Unclaimed(_) => SOON,
    }
}

/// Why the cluster is not yet as the spec wants it.
fn changing(
    validated: &ValidatedCluster,
    replicas: i32,
    found: &Dereferenced,
    (shards, no_room): (&Summary, Option<&str>),
    rollout: &Rollout,
) -> Option<(&'static str, String)> {
    let present = i32::try_from(found.pods.len()).unwrap_or(i32::MAX);
    if let (true, Some(waiting)) = (shards.needed_nodes() > validated.replicas, &shards.waiting) {
        return Some((status::ASSIGNING, waiting.clone()));
    }
    if let (true, Some(no_room)) = (replicas > validated.replicas, no_room) {
        return Some((status::NO_ROOM, no_room.to_owned()));
    }
    if replicas > validated.replicas {
        return Some((
            status::DRAINING,
            format!("{} nodes leave once they hold no shard", replicas - validated.replicas),
        ));
    }
    if present != validated.replicas {
        return Some((status::SCALING, format!("{present} of {} nodes exist", validated.replicas)));
    }
    if let Rollout::Underway(what) | Rollout::Resizing(what) = rollout {
        return Some((status::ROLLING_OUT, what.clone()));
    }
    if shards.is_settled() {
        return None;
    }
    let message = shards
        .waiting
        .clone()
        .unwrap_or_else(|| format!("{} of {} shards are held", shards.view.held, shards.view.total));
    Some((status::ASSIGNING, message))
}

async fn report(
    context: &Context,
    cluster: &BrainyCluster,
    status: &brainy_crds::BrainyClusterStatus,
) -> Result<(), Error> {
    context.metrics.conditions(cluster, status);
    if status::write(&context.client, cluster, status).await? {
        context.events.transitions(cluster, status).await;
    }
    Ok(())
}

/// Whether a pod is ready and not on its way out.
fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    let ready = conditions
        .is_some_and(|all| all.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True"));
    ready && pod.metadata.deletion_timestamp.is_none()
}

fn pod_facts(pods: &[Pod]) -> Vec<PodFacts> {
    let facts = |pod: &Pod| PodFacts {
        node: NodeId(pod.name_any()),
        host: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default(),
        zone: pod.labels().get(ZONE_LABEL).or_else(|| pod.labels().get(names::ZONE_LABEL)).cloned(),
        ready: is_ready(pod),
    };
    pods.iter().map(facts).collect()
}

#[cfg(test)]
mod tests;
