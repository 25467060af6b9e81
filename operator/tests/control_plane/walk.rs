//! A walk over specs, drawn from the schema of the CustomResourceDefinition: after each step the operator's objects are those of a
//! fresh cluster with the same spec. What the API server refuses it refuses by the field, as the checker of the examples does, and
//! nothing changes; what only the pod itself may not have, the condition says.

use std::collections::BTreeMap;

use brainy_crds::condition::READY;
use brainy_crds::{BrainyCluster, rules};
use futures::future::join_all;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Map, Value, json};
use tokio::runtime::Runtime;

use crate::cluster::ControlPlane;
use crate::fresh::as_fresh;
use crate::scenarios::{NAME, Run, ask, merge, read};
use crate::state::{self, State};
use crate::steps::{Step, Walk, beginnings};

/// Steps of each walk (`BRAINY_TEST_STEPS`).
const STEPS: usize = 2;

/// What became of the steps.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// By API server and operator.
    pub(crate) taken: usize,
    refused: usize,
    impossible: usize,
    /// By field, and by what the cluster was.
    fields: BTreeMap<String, usize>,
    kinds: BTreeMap<String, usize>,
}

async fn fresh(plane: &ControlPlane, spec: &Value) -> Result<State, String> {
    let run = Run::start(plane).await;
    ask(plane, run.namespace(), Some(spec)).await;
    let rests = comes_to_rest(&run, plane).await;
    run.ends();
    rests.map_err(|why| format!("a fresh cluster: {why}"))?;
    Ok(as_fresh(state::of(plane, run.namespace()).await, spec))
}

/// By strategy and pattern, and by what else makes clusters differ.
fn kind_of(spec: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut kind = format!("{}/{}", text(&spec["storage"]["strategy"]), text(&spec["coordination"]["pattern"]));
    let has = [
        (spec["zones"].is_array(), " in zones"),
        (spec["storage"]["tiering"].is_object(), " with two tiers"),
        (spec["storage"]["regions"].is_array(), " with regions"),
        (spec["rollout"]["approval"] == "Manual", " by approval"),
        (spec["replicas"] == 0, " asleep"),
    ];
    has.iter().filter(|(is_so, _)| *is_so).for_each(|(_, word)| kind.push_str(word));
    kind
}

/// Until it is as the spec wants it. Where changes wait for somebody, that somebody says yes.
async fn comes_to_rest(run: &Run<'_>, plane: &ControlPlane) -> Result<(), String> {
    run.comes_to_rest().await?;
    let cluster = read(plane, run.namespace()).await;
    let plan = cluster.and_then(|cluster| cluster.status?.plan).filter(|plan| !plan.approved);
    let Some(plan) = plan else { return Ok(()) };
    patch(plane, run.namespace(), &json!({"rollout": {"approvedPlan": plan.hash}})).await?;
    run.comes_to_rest().await
}

/// Goes it.
pub(crate) async fn walk(plane: &ControlPlane, mut walk: Walk, steps: usize) -> Result<Counts, String> {
    let mut counts = Counts::default();
    let run = Run::start(plane).await;
    ask(plane, run.namespace(), Some(&walk.spec)).await;
    comes_to_rest(&run, plane).await?;
    for at in 1..=steps {
        let step = walk.draw();
        let said = |why: String| format!("walk {}, step {at}: {step}\nfrom {}\n{why}", walk.name, walk.spec);
        *counts.fields.entry(step.field.clone()).or_default() += 1;
        *counts.kinds.entry(kind_of(&walk.spec)).or_default() += 1;
        let mut next = walk.spec.clone();
        merge(&mut next, step.patch.clone());
        let object = |spec: &Value| json!({"apiVersion": "brainy.io/v1alpha1", "kind": "BrainyCluster", "metadata": {"name": NAME}, "spec": spec});
        let problems = rules::check(&object(&next), Some(&object(&walk.spec))).unwrap();
        let before = state::of(plane, run.namespace()).await;
        let answer = patch(plane, run.namespace(), &step.patch).await;
        match (answer, problems.is_empty()) {
            (Ok(()), true) if step.is_impossible => {
                counts.impossible += 1;
                is_told(plane, run.namespace(), &step).await.map_err(said)?;
                nothing_happened(plane, run.namespace(), &before).await.map_err(said)?;
                // Taken back.
                let back = difference(&next, &walk.spec);
                patch(plane, run.namespace(), &back).await.map_err(said)?;
                comes_to_rest(&run, plane).await.map_err(said)?;
            }
            (Ok(()), true) => {
                counts.taken += 1;
                let (rests, fresh) = tokio::join!(comes_to_rest(&run, plane), fresh(plane, &next));
                rests.map_err(said)?;
                let fresh = fresh.map_err(said)?;
                let now = as_fresh(state::of(plane, run.namespace()).await, &next);
                if now != fresh {
                    return Err(said(state::difference(&fresh, &now)));
                }
                walk.spec = next;
            }
            (Err(why), false) => {
                counts.refused += 1;
                let field = step.field.rsplit('.').next().unwrap_or_default();
                let problem = &problems[0];
                // The one that was changed, or one that is missing beside it.
                if !why.contains(field) && !why.contains(&problem.field) {
                    return Err(said(format!("the API server names no field: {why}; the checker: {problem}")));
                }
                let after = state::of(plane, run.namespace()).await;
                if after != before {
                    return Err(said(format!("it was refused, and yet: {}", state::difference(&before, &after))));
                }
            }
            (Ok(()), false) => return Err(said(format!("the API server took what the checker refuses: {problems:?}"))),
            (Err(why), true) => return Err(said(format!("the API server refuses what the checker takes: {why}"))),
        }
    }
    run.ends();
    Ok(counts)
}

async fn patch(plane: &ControlPlane, namespace: &str, patch: &Value) -> Result<(), String> {
    let clusters: Api<BrainyCluster> = Api::namespaced(plane.client.clone(), namespace);
    // Strictly: an unknown field is refused, as kubectl has it.
    let patch = plane.in_namespace(patch, namespace);
    let params =
        PatchParams { field_validation: Some(kube::api::ValidationDirective::Strict), ..PatchParams::default() };
    let asked = clusters.patch(NAME, &params, &Patch::Merge(json!({"spec": patch}))).await;
    asked.map(drop).map_err(|error| error.to_string())
}

/// The merge patch that makes the one of the other.
fn difference(from: &Value, to: &Value) -> Value {
    match (from, to) {
        (Value::Object(from), Value::Object(to)) => {
            let gone = from.keys().filter(|key| !to.contains_key(*key)).map(|key| (key.clone(), Value::Null));
            let other = to.iter().filter(|(key, value)| from.get(*key) != Some(value));
            let other =
                other.map(|(key, value)| (key.clone(), difference(from.get(key).unwrap_or(&Value::Null), value)));
            Value::Object(gone.chain(other).collect::<Map<String, Value>>())
        }
        (_, to) => to.clone(),
    }
}

/// The condition names the field that can't be.
async fn is_told(plane: &ControlPlane, namespace: &str, step: &Step) -> Result<(), String> {
    let field = step.field.rsplit('.').next().unwrap_or_default();
    for _ in 0..150 {
        let status = read(plane, namespace).await.and_then(|cluster| cluster.status).unwrap_or_default();
        let ready = status.conditions.iter().find(|condition| condition.type_ == READY);
        if ready.is_some_and(|ready| ready.status == "False" && ready.message.contains(field)) {
            return Ok(());
        }
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
    let status = read(plane, namespace).await.and_then(|cluster| cluster.status);
    Err(format!("no condition names {field}: {}", json!(status)))
}

/// No pod and no object but the cluster itself is another.
async fn nothing_happened(plane: &ControlPlane, namespace: &str, before: &State) -> Result<(), String> {
    let alike = |state: &State| -> State {
        let mut alike = state.clone();
        alike.retain(|key, _| !key.starts_with("brainyclusters/"));
        for (_, set) in alike.iter_mut().filter(|(key, _)| key.starts_with("statefulsets/")) {
            // Whether that is the spec as it is now.
            set["metadata"]["annotations"]["brainy.io/accepted"]["inputs"] = Value::Null;
        }
        alike
    };
    let after = state::of(plane, namespace).await;
    match alike(before) == alike(&after) {
        true => Ok(()),
        false => Err(format!("pods can't have it, and yet: {}", state::difference(&alike(before), &alike(&after)))),
    }
}

#[test]
fn after_every_step_of_a_walk_the_objects_are_those_of_a_fresh_cluster() {
    let steps = std::env::var("BRAINY_TEST_STEPS").map_or(STEPS, |steps| steps.parse().unwrap());
    let seed: u64 = std::env::var("BRAINY_TEST_SEED").map_or(1, |seed| seed.parse().unwrap());
    Runtime::new().unwrap().block_on(async {
        let mut plane = ControlPlane::start().await;
        let begun = (seed * 1000..).zip(beginnings().into_iter().filter(|(kind, _)| kind.can_be_played())).map(|(seed, begins)| walk(&plane, Walk::new(seed, begins), steps));
        let walks = join_all(begun).await;
        plane.must_live();
        let failures: Vec<&String> = walks.iter().filter_map(|walk| walk.as_ref().err()).collect();
        let counts = walks.iter().flatten();
        let sum = |of: fn(&Counts) -> usize| counts.clone().map(of).sum::<usize>();
        let by = |of: fn(&Counts) -> &BTreeMap<String, usize>| {
            let mut by: BTreeMap<&str, usize> = BTreeMap::new();
            counts.clone().flat_map(of).for_each(|(what, count)| *by.entry(what).or_default() += count);
            by
        };
        println!(
            "{} steps in {} walks: {} taken, {} refused by the API server, {} impossible for pods; by field: {:?}; by what the cluster was: {:?}",
            sum(|counts| counts.taken + counts.refused + counts.impossible),
            walks.len(),
            sum(|counts| counts.taken),
            sum(|counts| counts.refused),
            sum(|counts| counts.impossible),
            by(|counts| &counts.fields),
            by(|counts| &counts.kinds)
        );
        assert!(failures.is_empty(), "{} walks ended otherwise:\n{}", failures.len(), failures.iter().map(|why| why.as_str()).collect::<Vec<_>>().join("\n\n"));
    });
}
