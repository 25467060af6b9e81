//! A walk over specs, drawn from the schema of the CustomResourceDefinition: after each step the operator's objects are those of a
//! fresh cluster with the same spec. What the API server refuses it refuses by the field, as the checker of the examples does, and
//! nothing changes; what only the pod itself may not have, the condition says.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;

use brainy_crds::condition::READY;
use brainy_crds::{BrainyCluster, manifest, rules};
use brainy_operator::layout::Layout;
use futures::future::join_all;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Map, Value, json};
use tokio::runtime::Runtime;

use crate::cluster::ControlPlane;
use crate::dice::Dice;
use crate::scenarios::{NAME, Run, TIMING, ask, merge, read};
use crate::state::{self, State};

/// Walks at once, each from a seed of its own.
const WALKS: usize = 8;
/// Steps of each (`BRAINY_TEST_STEPS`).
const STEPS: usize = 3;

/// Of every second walk; every other pair of walks has two tiers.
const ZONES: [&str; 2] = ["west-1a", "west-1b"];

/// Left out: what is fixed (strategy, bucket, class), what needs nodes that are not played (other patterns) or cert-manager, or that is
/// over only when somebody says so (pausing, approvals; e2e/tests/rollouts.rs has them), and parts whose values are [listed](LISTED).
const LEFT_OUT: [&str; 16] = [
    "shards",
    "zones",
    "storage.strategy",
    "storage.bucket",
    "storage.tiering.bucket",
    "storage.volume.storageClassName",
    "storage.volume.size",
    "storage.layers",
    "coordination.pattern",
    "coordination.lease",
    "tls",
    "paused",
    "rollout",
    "application",
    "pod",
    "replicas",
];

/// A change of a spec.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    /// What of it.
    field: String,
    /// As a merge patch.
    patch: Value,
    /// The API server takes it, and the pods can't have it.
    is_impossible: bool,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.patch)
    }
}

/// What became of the steps.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// By API server and operator.
    pub(crate) taken: usize,
    refused: usize,
    impossible: usize,
    fields: BTreeMap<String, usize>,
}

/// A place in a spec with a value that the schema bounds.
#[derive(Clone, Debug)]
struct Leaf {
    path: Vec<String>,
    schema: Value,
}

fn leaves(schema: &Value, path: &[String], found: &mut Vec<Leaf>) {
    for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
        let path: Vec<String> = path.iter().chain([name]).cloned().collect();
        if inner["properties"].is_object() {
            leaves(inner, &path, found);
        } else if !LEFT_OUT.iter().any(|out| is_below(&path.join("."), out)) {
            found.push(Leaf { path, schema: inner.clone() });
        }
    }
}

fn is_below(path: &str, above: &str) -> bool {
    path == above || path.starts_with(&format!("{above}."))
}

fn at(path: &[String], value: Value) -> Value {
    path.iter().rev().fold(value, |value, name| json!({name: value}))
}

/// A value of the schema, or in one of four cases one just outside.
fn drawn(schema: &Value, dice: &mut Dice) -> Value {
    let strays = dice.below(4) == 0;
    if let Some(allowed) = schema["enum"].as_array() {
        let allowed: Vec<&Value> = allowed.iter().filter(|value| !value.is_null()).collect();
        return if strays { json!("Other") } else { allowed[dice.below(allowed.len())].clone() };
    }
    match schema["type"].as_str() {
        Some("boolean") => json!(dice.below(2) == 0),
        Some("integer") => {
            let bound = |name: &str, other: f64| schema[name].as_f64().unwrap_or(other) as i64;
            let (least, most) = (bound("minimum", 0.0), bound("maximum", 100.0));
            match strays {
                true if dice.below(2) == 0 => json!(least - 1),
                true => json!(most + 1),
                false => json!(least + i64::try_from(dice.below(usize::try_from(most - least + 1).unwrap())).unwrap()),
            }
        }
        _ if strays => json!(7),
        _ => json!("text"),
    }
}

/// Fields whose values no schema bounds tightly enough to be drawn: null takes the field away. The last of each, in brackets, is what a
/// pod may not have.
fn listed() -> Vec<(&'static str, Vec<Value>, Vec<Value>)> {
    let amounts = |cpu: &str| json!({"requests": {"cpu": cpu, "memory": "64Mi"}});
    let layers = |kinds: &[&str]| Value::Array(kinds.iter().map(|kind| json!({"type": kind})).collect());
    vec![
        ("replicas", vec![json!(0), json!(1), json!(2), json!(3), json!(-1), json!(1001)], vec![]),
        ("shards", vec![json!(5)], vec![]),
        ("zones", vec![json!(["east"]), json!([]), json!(["east", "east"]), json!(ZONES)], vec![]),
        ("storage.strategy", vec![json!("Shared")], vec![]),
        ("storage.bucket", vec![json!({"name": "data"})], vec![]),
        ("storage.tiering.bucket.name", vec![json!("other")], vec![]),
        (
            "storage.tiering.bucket.endpoint",
            vec![json!("http://one:9000"), json!("http://other:9000"), Value::Null, json!("text")],
            vec![],
        ),
        ("coordination.pattern", vec![json!("StorageNative"), json!("Another")], vec![]),
        (
            "coordination.lease",
            vec![
                json!({"durationSeconds": 3600, "renewSeconds": 1200}),
                json!({"durationSeconds": 3000, "renewSeconds": 1500}),
                json!({"durationSeconds": 10, "renewSeconds": 6}),
            ],
            vec![],
        ),
        (
            "storage.layers",
            vec![
                layers(&["Caching"]),
                layers(&["Caching", "Compression"]),
                layers(&["Caching", "Batching", "Limiting", "Compression"]),
                json!([{"type": "Caching", "caching": {"maxEntries": 5}}]),
                Value::Null,
                layers(&["Compression", "Caching"]),
                layers(&["Limiting", "Batching"]),
                layers(&["Caching", "Caching"]),
                json!([{"type": "Caching", "batching": {}}]),
            ],
            vec![],
        ),
        (
            "application",
            vec![
                json!({"image": "app:1"}),
                json!({"image": "app:2", "command": ["/app"], "args": ["serve"], "env": [{"name": "COLOUR", "value": "blue"}]}),
                json!({"image": "app:2", "resources": amounts("10m")}),
                Value::Null,
                json!({"image": ""}),
                json!({"image": "app:1", "other": 1}),
            ],
            vec![],
        ),
        (
            "pod.annotations",
            vec![json!({"example.org/a": "1"}), json!({"example.org/a": "2"}), Value::Null, json!({"a": 1})],
            vec![],
        ),
        (
            "pod.labels",
            vec![json!({"team": "a"}), json!({"team": "b"}), Value::Null],
            vec![json!({"not a label": "a"})],
        ),
        (
            "pod.resources",
            vec![amounts("50m"), amounts("60m"), Value::Null],
            vec![json!({"requests": {"cpu": "2"}, "limits": {"cpu": "1"}})],
        ),
        (
            "pod.tolerations",
            vec![json!([{"key": "dedicated", "operator": "Exists"}]), json!([]), json!([{"key": 1}])],
            vec![json!([{"key": "dedicated", "operator": "Perhaps"}])],
        ),
        ("pod.nodeSelector", vec![json!({"disk": "fast"}), Value::Null, json!({"disk": true})], vec![]),
        ("pod.priorityClassName", vec![json!("system-cluster-critical"), Value::Null, json!(3)], vec![]),
        (
            "pod.affinity",
            vec![
                json!({"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "preference": {"matchExpressions": [{"key": "disk", "operator": "Exists"}]}}]}}),
                Value::Null,
            ],
            vec![],
        ),
    ]
}

/// One walk: its spec, the steps that are fixed, and what all others are drawn from.
pub(crate) struct Walk {
    name: String,
    spec: Value,
    script: VecDeque<Step>,
    dice: Dice,
    leaves: Vec<Leaf>,
    size: usize,
}

impl Walk {
    fn new(seed: u64) -> Self {
        let schema = manifest::schema().unwrap();
        let mut found = Vec::new();
        leaves(&schema["properties"]["spec"], &[], &mut found);
        Self {
            name: seed.to_string(),
            spec: Self::first(seed % 2 == 1, seed % 4 >= 2),
            script: VecDeque::new(),
            dice: Dice::new(seed),
            leaves: found,
            size: 1,
        }
    }

    /// A walk of these steps.
    pub(crate) fn along(name: &str, in_zones: bool, script: impl IntoIterator<Item = Step>) -> Self {
        Self {
            name: name.to_owned(),
            spec: Self::first(in_zones, false),
            script: script.into_iter().collect(),
            ..Self::new(0)
        }
    }

    /// What all begin with.
    fn first(in_zones: bool, is_tiered: bool) -> Value {
        let mut spec = json!({
            "replicas": 2,
            "shards": 4,
            "storage": {"strategy": "Isolated", "volume": {"size": "1Gi"}},
            "coordination": {"lease": {"durationSeconds": TIMING.duration, "renewSeconds": TIMING.renew}},
        });
        if in_zones {
            spec["zones"] = json!(ZONES);
        }
        if is_tiered {
            spec["storage"]["tiering"] = json!({"bucket": {"name": "cold"}});
        }
        spec
    }

    fn draw(&mut self) -> Step {
        if let Some(step) = self.script.pop_front() {
            return step;
        }
        let dice = &mut self.dice;
        let listed = listed();
        let choice = dice.below(self.leaves.len() + 2 * listed.len() + 1);
        if choice == 0 {
            // Volumes never shrink.
            self.size += 1;
            return step("storage.volume.size", json!(format!("{}Gi", self.size)), false);
        }
        match self.leaves.get(choice - 1) {
            Some(leaf) => {
                let value = drawn(&leaf.schema, dice);
                Step { field: leaf.path.join("."), patch: at(&leaf.path, value), is_impossible: false }
            }
            None => {
                let (field, values, impossible) = &listed[(choice - 1 - self.leaves.len()) / 2];
                let which = dice.below(values.len() + impossible.len());
                match values.get(which) {
                    Some(value) => step(field, value.clone(), false),
                    None => step(field, impossible[which - values.len()].clone(), true),
                }
            }
        }
    }
}

/// Gives a field this value; null takes it away.
pub(crate) fn step(field: &str, value: Value, is_impossible: bool) -> Step {
    let path: Vec<String> = field.split('.').map(str::to_owned).collect();
    Step { field: field.to_owned(), patch: at(&path, value), is_impossible }
}

/// What no fresh cluster has: volumes and sessions of nodes that were there before, what the first spec of a StatefulSet has fixed, and
/// that a cluster once hibernated.
fn as_fresh(mut state: State, spec: &Value) -> State {
    let replicas = spec["replicas"].as_i64().unwrap();
    let zones: Vec<String> = serde_json::from_value(spec["zones"].clone()).unwrap_or_default();
    let layout = Layout::of(NAME, &zones);
    let is_beyond = |key: &str| {
        let node = key.strip_prefix("persistentvolumeclaims/data-").or_else(|| key.strip_prefix("leases/"));
        node.and_then(|node| layout.slot_of(node)).is_some_and(|slot| i64::from(slot) >= replicas)
    };
    // One that hibernates keeps the map of its nodes, and what they need to come back.
    let is_kept = |key: &str| {
        replicas == 0 && ["configmaps/demo-shard-map", "roles/demo-node", "poddisruptionbudgets/demo"].contains(&key)
    };
    state.retain(|key, _| !is_beyond(key) && !key.starts_with("lives of ") && !is_kept(key));
    for (_, set) in state.iter_mut().filter(|(key, _)| key.starts_with("statefulsets/")) {
        set["spec"]["volumeClaimTemplates"] = Value::Null;
    }
    if let Some(cluster) = state.get_mut(&format!("brainyclusters/{NAME}")) {
        let hibernates = replicas == 0;
        // As whoever wrote it has it: an empty list, or none.
        cluster["spec"] = Value::Null;
        let conditions = cluster["status"]["conditions"].as_array_mut().unwrap();
        conditions.retain(|condition| condition["type"] != "Hibernated" || hibernates);
        conditions.sort_by_key(|condition| condition["type"].to_string());
        if hibernates {
            // They say of how many nodes it was, and where their data is.
            conditions.iter_mut().for_each(|condition| condition["message"] = Value::Null);
            conditions.retain(|condition| {
                ["Ready", "Hibernated", "Progressing"].contains(&condition["type"].as_str().unwrap())
            });
        }
    }
    state
}

async fn fresh(plane: &ControlPlane, spec: &Value) -> Result<State, String> {
    let run = Run::start(plane).await;
    ask(&plane.client, run.namespace(), Some(spec)).await;
    let rests = run.comes_to_rest().await;
    run.ends();
    rests.map_err(|why| format!("a fresh cluster: {why}"))?;
    Ok(as_fresh(state::of(plane, run.namespace()).await, spec))
}

/// Goes it.
pub(crate) async fn walk(plane: &ControlPlane, mut walk: Walk, steps: usize) -> Result<Counts, String> {
    let mut counts = Counts::default();
    let run = Run::start(plane).await;
    ask(&plane.client, run.namespace(), Some(&walk.spec)).await;
    run.comes_to_rest().await?;
    for at in 1..=steps {
        let step = walk.draw();
        let said = |why: String| format!("walk {}, step {at}: {step}\nfrom {}\n{why}", walk.name, walk.spec);
        *counts.fields.entry(step.field.clone()).or_default() += 1;
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
                run.comes_to_rest().await.map_err(said)?;
            }
            (Ok(()), true) => {
                counts.taken += 1;
                let (rests, fresh) = tokio::join!(run.comes_to_rest(), fresh(plane, &next));
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
        let status = read(&plane.client, namespace).await.and_then(|cluster| cluster.status).unwrap_or_default();
        let ready = status.conditions.iter().find(|condition| condition.type_ == READY);
        if ready.is_some_and(|ready| ready.status == "False" && ready.message.contains(field)) {
            return Ok(());
        }
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
    let status = read(&plane.client, namespace).await.and_then(|cluster| cluster.status);
    Err(format!("no condition names {field}: {}", json!(status)))
}

/// No pod and no object but the cluster itself is another.
async fn nothing_happened(plane: &ControlPlane, namespace: &str, before: &State) -> Result<(), String> {
    let alike = |state: &State| -> State {
        state
            .iter()
            .filter(|(key, _)| !key.starts_with("brainyclusters/"))
            .map(|(key, object)| (key.clone(), object.clone()))
            .collect()
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
        let mut plane = ControlPlane::start(TIMING).await;
        let walks = join_all((0..WALKS as u64).map(|one| walk(&plane, Walk::new(seed * 1000 + one), steps))).await;
        plane.must_live();
        let failures: Vec<&String> = walks.iter().filter_map(|walk| walk.as_ref().err()).collect();
        let counts = walks.iter().flatten();
        let sum = |of: fn(&Counts) -> usize| counts.clone().map(of).sum::<usize>();
        let mut fields: BTreeMap<&str, usize> = BTreeMap::new();
        counts.clone().flat_map(|counts| &counts.fields).for_each(|(field, count)| *fields.entry(field).or_default() += count);
        println!(
            "{} steps in {WALKS} walks: {} taken, {} refused by the API server, {} impossible for pods; by field: {fields:?}",
            sum(|counts| counts.taken + counts.refused + counts.impossible),
            sum(|counts| counts.taken),
            sum(|counts| counts.refused),
            sum(|counts| counts.impossible)
        );
        assert!(failures.is_empty(), "{} walks ended otherwise:\n{}", failures.len(), failures.iter().map(|why| why.as_str()).collect::<Vec<_>>().join("\n\n"));
    });
}
