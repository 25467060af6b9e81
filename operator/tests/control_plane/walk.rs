//! A walk over specs, drawn from the schema of the CustomResourceDefinition: after each step the operator's objects are those of a
//! fresh cluster with the same spec. What the API server refuses it refuses by the field, as the checker of the examples does, and
//! nothing changes; what only the pod itself may not have, the condition says.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;

use brainy_crds::condition::READY;
use brainy_crds::{BrainyCluster, manifest, rules};
use brainy_kubernetes::names;
use brainy_operator::layout::Layout;
use futures::future::join_all;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Map, Value, json};
use tokio::runtime::Runtime;

use crate::cluster::{ControlPlane, ENDPOINTS, KEYS};
use crate::dice::Dice;
use crate::groups;
use crate::scenarios::{Kind, NAME, Run, ZONES, ask, bucket, merge, read, short};
use crate::state::{self, State};

/// Steps of each walk (`BRAINY_TEST_STEPS`).
const STEPS: usize = 2;

/// What each walk begins with: every pattern that a strategy may have, zones and none, two tiers, regions.
fn beginnings() -> Vec<(Kind, Value)> {
    let region = |name: &str, differs: Value| {
        let mut bucket = bucket();
        merge(&mut bucket, differs);
        json!({"name": name, "bucket": bucket})
    };
    let regions = json!({"storage": {
        "bucket": null,
        "regions": [region("eu", json!({})), region("us", json!({"prefix": "us"}))],
        "region": "eu",
    }});
    let tiering = || json!({"storage": {"tiering": {"bucket": {"name": "cold"}}}});
    let plain = || json!({});
    vec![
        (Kind::new("Isolated", "Leader", false), plain()),
        (Kind::new("Isolated", "Leader", true), plain()),
        (Kind::new("Isolated", "Leader", false), tiering()),
        (Kind::new("Isolated", "Leader", true), tiering()),
        (Kind::new("Namespaced", "Leader", false), plain()),
        (Kind::new("Namespaced", "StorageNative", true), plain()),
        (Kind::new("Shared", "Leader", true), plain()),
        (Kind::new("Shared", "StorageNative", false), plain()),
        (Kind::new("Shared", "Leader", false), regions.clone()),
        (Kind::new("Shared", "StorageNative", true), regions),
        (Kind::new("Isolated", "Consensus", false), plain()),
        (Kind::new("Isolated", "Consensus", true), tiering()),
        (Kind::new("Namespaced", "Consensus", false), plain()),
        (Kind::new("Shared", "Consensus", false), plain()),
    ]
}

/// Left out: what is over only when somebody says so (e2e/tests/rollouts.rs has it), and parts whose values are [listed](listed).
const LEFT_OUT: [&str; 14] = [
    "shards",
    "zones",
    "storage.strategy",
    "storage.bucket",
    "storage.tiering.bucket",
    "storage.regions",
    "storage.volume.storageClassName",
    "storage.volume.size",
    "storage.layers",
    "coordination",
    "tls",
    "paused",
    "rollout",
    "application",
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
    /// By field, and by what the cluster was.
    fields: BTreeMap<String, usize>,
    kinds: BTreeMap<String, usize>,
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
        } else if !LEFT_OUT.iter().any(|out| is_below(&path.join("."), out))
            && !listed().iter().any(|(field, ..)| is_below(&path.join("."), field))
        {
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
    let regions = |names: &[&str]| {
        let region = |name: &&str| {
            let mut bucket = bucket();
            if *name != "eu" {
                bucket["prefix"] = json!(name);
            }
            json!({"name": name, "bucket": bucket})
        };
        Value::Array(names.iter().map(region).collect())
    };
    vec![
        ("replicas", vec![json!(0), json!(1), json!(2), json!(3), json!(-1), json!(1001)], vec![]),
        ("shards", vec![json!(5)], vec![]),
        ("zones", vec![json!(["east"]), json!([]), json!(["east", "east"]), json!(ZONES)], vec![]),
        ("storage.strategy", vec![json!("Shared"), json!("Namespaced"), json!("Isolated")], vec![]),
        ("storage.bucket", vec![json!({"name": "another"}), json!({"prefix": "another"}), Value::Null], vec![]),
        ("storage.bucket.endpoint", vec![json!(ENDPOINTS[0]), json!(ENDPOINTS[1]), json!("text")], vec![]),
        ("storage.bucket.credentialsSecret", vec![json!(KEYS[0]), json!(KEYS[1]), json!("")], vec![]),
        ("storage.bucket.region", vec![json!("eu-west-1"), json!("auto"), Value::Null, json!("")], vec![]),
        ("storage.bucket.provider", vec![json!("R2"), json!("S3"), json!("Another")], vec![]),
        (
            "storage.regions",
            vec![
                regions(&["eu"]),
                regions(&["eu", "us", "ap"]),
                regions(&["us", "eu"]),
                regions(&["eu", "eu"]),
                json!([{"name": "eu", "bucket": {"name": "one"}}, {"name": "us", "bucket": {"name": "two"}}]),
                Value::Null,
            ],
            // The own one.
            vec![regions(&["us", "ap"])],
        ),
        ("storage.region", vec![json!("us"), json!("eu"), Value::Null], vec![]),
        ("storage.replication.home", vec![json!("us"), json!("eu"), json!("ap"), Value::Null], vec![]),
        (
            "storage.replication.writeConcern",
            vec![json!("All"), json!("Majority"), json!("Local"), json!("None")],
            vec![],
        ),
        (
            "storage.tiering",
            vec![
                json!({"bucket": {"name": "cold"}, "demoteAfterHours": 1}),
                json!({"bucket": {"name": "another"}}),
                Value::Null,
            ],
            vec![],
        ),
        (
            "s3",
            vec![
                json!({"enabled": true}),
                json!({"enabled": true, "access": "Anyone"}),
                json!({"enabled": false}),
                Value::Null,
            ],
            vec![],
        ),
        ("s3.listPageSize", vec![json!(0), json!(100_000), json!(100_001), Value::Null], vec![]),
        ("rollout.approval", vec![json!("Manual"), json!("Automatic"), json!("Another")], vec![]),
        ("tls", vec![json!({"issuer": "Operator"}), json!({"issuer": "Another"}), Value::Null], vec![]),
        (
            "pod.tracing",
            vec![
                json!({"endpoint": "http://collector:4318"}),
                json!({"endpoint": "http://collector:4318", "samplePercent": 100}),
                json!({"endpoint": "http://collector:4318", "samplePercent": 101}),
                json!({"endpoint": "collector"}),
                Value::Null,
            ],
            vec![],
        ),
        ("coordination.placement.balance", vec![json!("Load"), json!("Count"), json!("Another")], vec![]),
        ("coordination.placement.maxMoves", vec![json!(1), json!(0), json!(16384), Value::Null], vec![]),
        ("storage.tiering.bucket.name", vec![json!("other")], vec![]),
        (
            "storage.tiering.bucket.endpoint",
            vec![json!("http://one:9000"), json!("http://other:9000"), Value::Null, json!("text")],
            vec![],
        ),
        ("coordination.pattern", patterns(), vec![]),
        (
            "coordination.lease",
            vec![
                json!({"durationSeconds": 3600, "renewSeconds": 1800}),
                json!({"durationSeconds": 3600, "renewSeconds": 1200}),
                json!({"durationSeconds": 3000, "renewSeconds": 1500}),
                json!({"durationSeconds": 10, "renewSeconds": 6}),
                short(),
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

fn patterns() -> Vec<Value> {
    let consensus = groups::CAN_BE_PLAYED.then(|| json!("Consensus"));
    [json!("StorageNative"), json!("Leader"), json!("Another")].into_iter().chain(consensus).collect()
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
    fn new(seed: u64, (kind, differs): (Kind, Value)) -> Self {
        let schema = manifest::schema().unwrap();
        let mut found = Vec::new();
        leaves(&schema["properties"]["spec"], &[], &mut found);
        let mut spec = kind.spec();
        spec["replicas"] = json!(2);
        merge(&mut spec, differs);
        Self {
            name: format!("{seed} on {kind}"),
            spec,
            script: VecDeque::new(),
            dice: Dice::new(seed),
            leaves: found,
            size: 1,
        }
    }

    /// A walk of these steps.
    pub(crate) fn along(name: &str, kind: Kind, script: impl IntoIterator<Item = Step>) -> Self {
        Self { name: name.to_owned(), script: script.into_iter().collect(), ..Self::new(0, (kind, json!({}))) }
    }

    /// The next step. Before a change from or to pattern Consensus sessions are short: it waits for them to lapse.
    fn draw(&mut self) -> Step {
        let next = self.drawn();
        let other = &next.patch["coordination"]["pattern"];
        let (pattern, lease) = (&self.spec["coordination"]["pattern"], &self.spec["coordination"]["lease"]);
        let is_change = other.is_string() && other != pattern && [other, pattern].contains(&&json!("Consensus"));
        if is_change && *lease != short() { step("coordination.lease", short(), false) } else { next }
    }

    fn drawn(&mut self) -> Step {
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
    let has_ended = |key: &str, object: &Value| key.contains("/_cluster/sessions/") && object["state"] == "ended";
    // Who sleeps has no controller, and what it left behind is of no use to anybody.
    let is_asleep =
        |key: &str| replicas == 0 && (key.starts_with("bucket") || key.starts_with("group")) && !LASTING.contains(&key);
    // The group's documents are what counts: what another pattern had stays where it is.
    let is_before = |key: &str| {
        let is_elsewhere = key.starts_with("bucket/") && !LASTING.contains(&key);
        spec["coordination"]["pattern"] == "Consensus" && (is_elsewhere || key.starts_with("leases/"))
    };
    state.retain(|key, object| {
        !is_beyond(key)
            && !is_before(key)
            && !key.starts_with("lives of ")
            && !is_kept(key)
            && !has_ended(key, object)
            && !is_asleep(key)
    });
    for (_, config) in state.iter_mut().filter(|(key, _)| key.starts_with("configmaps/")) {
        let text = config.to_string();
        *config = serde_json::from_str(&without_generations(&text)).unwrap();
    }
    // As whoever wrote it has it, and approved it.
    if let Some(declared) = state.get_mut("bucket/_cluster/brainycluster.json") {
        declared["spec"] = Value::Null;
    }
    if spec["coordination"]["placement"]["balance"] == "Load" {
        // Of shards that nobody asks for anything, any number is the same for every node.
        let is_spread = |key: &str| {
            key.contains("shard-map")
                || key.contains("/_cluster/sessions/")
                || key.starts_with("leases/")
                || key.ends_with(" leases")
        };
        state.retain(|key, _| !is_spread(key));
    }
    for (_, set) in state.iter_mut().filter(|(key, _)| key.starts_with("statefulsets/")) {
        set["spec"]["volumeClaimTemplates"] = Value::Null;
        if let Some(since) = set["metadata"]["annotations"].get_mut(names::CONSENSUS_SINCE_ANNOTATION) {
            *since = Value::Null;
        }
        if let Some(accepted) = set["metadata"]["annotations"].get_mut("brainy.io/accepted") {
            accepted["approved"] = Value::Null;
        }
    }
    if let Some(cluster) = state.get_mut(&format!("brainyclusters/{NAME}")) {
        let hibernates = replicas == 0;
        if let Some(home) = cluster["status"].get_mut("home") {
            home["since"] = Value::Null;
        }
        // As whoever wrote it has it: an empty list, or none.
        cluster["spec"] = Value::Null;
        let conditions = cluster["status"]["conditions"].as_array_mut().unwrap();
        conditions.retain(|condition| condition["type"] != "Hibernated" || hibernates);
        // Whether anything ever waited.
        conditions.retain(|condition| condition["type"] != "ChangesApproved");
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

/// What a cluster that sleeps keeps in its bucket, whatever it was before.
const LASTING: [&str; 2] = ["bucket/_cluster/cluster.json", "bucket/_cluster/brainycluster.json"];

/// The generation that first had a wish is another one in a fresh cluster.
fn without_generations(text: &str) -> String {
    ["homeSince: ", "since: ", "\\\"generation\\\": "].iter().fold(text.to_owned(), |text, field| {
        let mut parts = text.split(field);
        let first = parts.next().unwrap_or_default().to_owned();
        let is_digit = |char: char| char.is_ascii_digit();
        parts.fold(first, |text, part| format!("{text}{field}{}", part.trim_start_matches(is_digit)))
    })
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
