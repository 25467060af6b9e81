//! What walks over specs step on: fields with values of the schema of the CustomResourceDefinition and just outside, and what they begin with.

use std::collections::VecDeque;
use std::fmt;

use brainy_crds::manifest;
use serde_json::{Value, json};

use crate::cluster::{ENDPOINTS, KEYS};
use crate::dice::Dice;
use crate::groups;
use crate::scenarios::{Kind, ZONES, bucket, merge, short};

/// What each walk begins with: every pattern that a strategy may have, zones and none, two tiers, regions.
pub(crate) fn beginnings() -> Vec<(Kind, Value)> {
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

/// Left out: what is over only when somebody says so (e2e/tests/clusters/rollouts.rs has it), and parts whose values are [listed](listed).
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
    pub(crate) field: String,
    /// As a merge patch.
    pub(crate) patch: Value,
    /// The API server takes it, and the pods can't have it.
    pub(crate) is_impossible: bool,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.patch)
    }
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
    /// For people.
    pub(crate) name: String,
    /// As it is.
    pub(crate) spec: Value,
    script: VecDeque<Step>,
    dice: Dice,
    leaves: Vec<Leaf>,
    size: usize,
}

impl Walk {
    /// What is drawn from this seed.
    pub(crate) fn new(seed: u64, (kind, differs): (Kind, Value)) -> Self {
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
    pub(crate) fn draw(&mut self) -> Step {
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
