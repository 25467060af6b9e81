//! What the operator has made of a namespace, without what no two runs have in common: UIDs, versions, times, certificates, and how
//! often a map changed before it came to rest.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use brainy_coordination::lease::ShardLease;
use brainy_coordination::session::SessionRecord;
use brainy_coordination::{NodeId, ShardMap, names as paths};
use brainy_kubernetes::names;
use brainy_operator::plan::template_inputs;
use serde_json::{Value, json};

use crate::cluster::ControlPlane;

/// Where objects of each kind are.
const KINDS: [(&str, &str); 13] = [
    ("apis/brainy.io/v1alpha1", "brainyclusters"),
    ("apis/apps/v1", "statefulsets"),
    ("api/v1", "pods"),
    ("api/v1", "persistentvolumeclaims"),
    ("api/v1", "services"),
    ("api/v1", "serviceaccounts"),
    ("api/v1", "configmaps"),
    ("api/v1", "secrets"),
    ("apis/rbac.authorization.k8s.io/v1", "roles"),
    ("apis/rbac.authorization.k8s.io/v1", "rolebindings"),
    ("apis/policy/v1", "poddisruptionbudgets"),
    ("apis/networking.k8s.io/v1", "networkpolicies"),
    ("apis/coordination.k8s.io/v1", "leases"),
];
/// What the API server and time make of an object.
const OF_ITS_TIME: [&str; 6] =
    ["uid", "resourceVersion", "generation", "creationTimestamp", "managedFields", "selfLink"];
/// It is of the configuration, which names the cluster's UID.
const CONFIG_HASH: &str = "brainy.io/config-hash";
/// Of every namespace.
const OF_KUBERNETES: [&str; 2] = ["serviceaccounts/default", "configmaps/kube-root-ca.crt"];

/// Objects by kind and name.
pub(crate) type State = BTreeMap<String, Value>;

/// All objects of a namespace.
pub(crate) async fn of(plane: &ControlPlane, namespace: &str) -> State {
    let mut state = State::new();
    for (group, kind) in KINDS {
        let path = format!("/{group}/namespaces/{namespace}/{kind}");
        let listed: Value = plane
            .patiently(async || plane.client.request(hyper::Request::get(path.clone()).body(Vec::new()).unwrap()).await)
            .await;
        for object in listed["items"].as_array().unwrap() {
            state.insert(format!("{kind}/{}", object["metadata"]["name"].as_str().unwrap()), object.clone());
        }
    }
    state.retain(|key, _| !OF_KUBERNETES.contains(&key.as_str()));
    // Keys that were made once stay, whether anybody has them still or not.
    let sets: String =
        state.iter().filter(|(key, _)| key.starts_with("statefulsets/")).map(|(_, set)| set.to_string()).collect();
    state.retain(|key, _| match key.strip_prefix("secrets/").filter(|name| name.ends_with("-s3")) {
        Some(name) => sets.contains(&format!("\"{name}\"")),
        None => true,
    });
    let set = state.iter().find(|(key, _)| key.starts_with("statefulsets/")).map(|(_, set)| set);
    let cluster = state.iter().find(|(key, _)| key.starts_with("brainyclusters/")).map(|(_, cluster)| cluster);
    let cluster_is_gone = cluster.is_none();
    let consensus = cluster.filter(|cluster| cluster["spec"]["coordination"]["pattern"] == "Consensus");
    let group = consensus.and_then(|cluster| cluster["metadata"]["uid"].as_str()).map(str::to_owned);
    let hash = set.map(|set| set["spec"]["template"]["metadata"]["annotations"][CONFIG_HASH].clone());
    let spec = cluster.map(|cluster| serde_json::from_value(cluster["spec"].clone()).unwrap());
    let newest = Newest { hash, inputs: spec.map(|spec| template_inputs(&spec)) };
    let mut state: State =
        state.into_iter().map(|(key, object)| (key.clone(), normal(&key, object, &newest))).collect();
    state.extend(of_documents("bucket", &plane.store.documents(namespace).all()));
    if cluster_is_gone && let Some(map) = state.get_mut(&format!("bucket/{}", paths::SHARD_MAP)) {
        // Nobody keeps the nodes of a cluster that is deleted from taking over from each other while they go.
        ["nodes", "shards"].iter().for_each(|field| drop(map.as_object_mut().unwrap().remove(*field)));
    }
    let group = group.and_then(|uid| plane.groups.newest(&uid));
    state.extend(group.map(|group| of_documents("group", &group.all())).unwrap_or_default());
    for kind in ["pods", "claims"] {
        // None was replaced more often than need be, and no volume made anew.
        state.insert(format!("lives of {kind}"), json!(plane.nodes.lives(kind, namespace)));
    }
    let text = serde_json::to_string(&state).unwrap().replace(namespace, "NAMESPACE");
    serde_json::from_str(&text).unwrap()
}

/// The documents of coordination, in a bucket or among the nodes, as far as anybody goes by them.
fn of_documents(place: &str, objects: &BTreeMap<String, bytes::Bytes>) -> State {
    let mut state = State::new();
    for (name, body) in objects {
        // Nothing is decided from the one, and the other is left by a crash.
        if name == paths::TOPOLOGY || name.starts_with("_probe/") || is_lease(name) {
            continue;
        }
        let mut document: Value = serde_json::from_slice(body).unwrap();
        let said = match name.as_str() {
            paths::SHARD_MAP => spread(&document.to_string()),
            paths::CONTROLLER_ELECTION => json!({"kind": document["kind"], "held": document["holder"].is_string()}),
            _ if name.starts_with(paths::SESSIONS) => {
                let record: SessionRecord = serde_json::from_value(document).unwrap();
                json!({"state": record.state, "holds": record.holds.len()})
            }
            _ => {
                let fields = document.as_object_mut().unwrap();
                let of_its_time = ["revision", "writer", "uid", "cluster", "generation", "kubernetes"];
                of_its_time.iter().for_each(|field| drop(fields.remove(*field)));
                document
            }
        };
        state.insert(format!("{place}/{name}"), said);
    }
    if objects.keys().any(|name| is_lease(name)) {
        state.insert(format!("{place} leases"), json!(owners(objects)));
    }
    state
}

/// How many shards each node holds by its leases, in order: which ones depends on what came first.
fn owners(objects: &BTreeMap<String, bytes::Bytes>) -> BTreeMap<String, usize> {
    let mut owners = BTreeMap::new();
    for (_, body) in objects.iter().filter(|(name, _)| is_lease(name)) {
        let lease: ShardLease = serde_json::from_slice(body).unwrap();
        *owners.entry(lease.owner.map_or_else(|| "nobody".to_owned(), |node| node.0)).or_default() += 1;
    }
    owners
}

fn is_lease(name: &str) -> bool {
    name.ends_with("/.lock") || name.starts_with(paths::SHARD_LEASES)
}

/// What differs, for people.
pub(crate) fn difference(expected: &State, found: &State) -> String {
    let mut text = String::new();
    for key in expected.keys().chain(found.keys().filter(|key| !expected.contains_key(*key))) {
        let of = |state: &State| state.get(key).cloned().unwrap_or_default();
        parts(key, &of(expected), &of(found), &mut text);
    }
    text
}

/// The smallest parts of two values that differ.
fn parts(path: &str, expected: &Value, found: &Value, text: &mut String) {
    match (expected, found) {
        (Value::Object(before), Value::Object(now)) => {
            for name in before.keys().chain(now.keys().filter(|name| !before.contains_key(*name))) {
                parts(&format!("{path} {name}"), &expected[name], &found[name], text);
            }
        }
        (Value::Array(before), Value::Array(now)) if before.len() == now.len() => {
            before.iter().zip(now).enumerate().for_each(|(at, (b, n))| parts(&format!("{path} {at}"), b, n, text));
        }
        _ if expected == found => {}
        _ => writeln!(text, "{path}:\n  expected {expected}\n  found    {found}").unwrap(),
    }
}

/// What is newest of a cluster, by hashes that its bucket's name and its UID are part of.
struct Newest {
    /// Of the configuration, as the newest template has it.
    hash: Option<Value>,
    /// Of the spec, as far as templates are made from it.
    inputs: Option<String>,
}

fn normal(key: &str, mut object: Value, newest: &Newest) -> Value {
    let generation = object["metadata"]["generation"].clone();
    let meta = object["metadata"].as_object_mut().unwrap();
    OF_ITS_TIME.iter().for_each(|field| drop(meta.remove(*field)));
    for owner in object["metadata"].get_mut("ownerReferences").and_then(Value::as_array_mut).into_iter().flatten() {
        owner.as_object_mut().unwrap().remove("uid");
    }
    match key.split('/').next().unwrap() {
        "brainyclusters" => {
            let conditions = object["status"]["conditions"].as_array_mut().into_iter().flatten();
            for condition in conditions {
                condition.as_object_mut().unwrap().remove("lastTransitionTime");
                // One that is not looked at any more keeps what it was said of.
                condition.as_object_mut().unwrap().remove("observedGeneration");
            }
            if let Some(status) = object["status"].as_object_mut() {
                status.remove("mapRevision");
                let is_newest = status.get("observedGeneration") == Some(&generation);
                status.insert(
                    "observedGeneration".into(),
                    json!(if is_newest { "the newest" } else { "an earlier one" }),
                );
            }
            object
        }
        "statefulsets" => {
            let status =
                json!({"replicas": object["status"]["replicas"], "readyReplicas": object["status"]["readyReplicas"]});
            let accepted = object["metadata"]["annotations"].get_mut("brainy.io/accepted");
            if let Some(accepted) = accepted {
                *accepted = without_hashes(accepted.as_str().unwrap(), newest);
            }
            if let Some(hash) = object["spec"]["template"]["metadata"]["annotations"].get_mut(CONFIG_HASH) {
                *hash = json!("HASH");
            }
            object["status"] = status;
            object
        }
        "pods" => {
            let (mut meta, spec) = (object["metadata"].take(), object["spec"].take());
            meta["labels"].as_object_mut().unwrap().remove("controller-revision-hash");
            let is_newest = newest.hash.as_ref().is_some_and(|hash| meta["annotations"][CONFIG_HASH] == *hash);
            meta["annotations"][CONFIG_HASH] = json!(if is_newest { "of the newest" } else { "of an earlier one" });
            // Names of volumes are random.
            let containers = |list: &str| -> Vec<Value> {
                let all = spec[list].as_array().into_iter().flatten();
                let parts = ["name", "image", "command", "args", "env", "resources"];
                all.map(|container| parts.iter().map(|part| container[*part].clone()).collect()).collect()
            };
            let placed = ["tolerations", "nodeSelector", "priorityClassName", "affinity"];
            json!({
                "metadata": meta,
                "containers": containers("containers"),
                "initContainers": containers("initContainers"),
                "placed": placed.map(|part| spec[part].clone()),
                "phase": object["status"]["phase"],
            })
        }
        "persistentvolumeclaims" => {
            json!({"metadata": object["metadata"], "size": object["spec"]["resources"], "capacity": object["status"]["capacity"]})
        }
        "services" => {
            object.as_object_mut().unwrap().remove("status");
            object
        }
        // What is in them is random.
        "secrets" => {
            let keys: Vec<&String> = object["data"].as_object().into_iter().flatten().map(|(key, _)| key).collect();
            json!({"metadata": object["metadata"], "type": object["type"], "keys": keys})
        }
        "configmaps" => {
            if let Some(map) = object["data"].get_mut(names::SHARD_MAP_KEY) {
                *map = spread(map.as_str().unwrap());
            }
            object["data"] = without_uids(object["data"].take());
            object
        }
        "leases" => {
            let session = object["metadata"]["annotations"][names::SESSION_ANNOTATION].as_str();
            let session = session.map(|text| serde_json::from_str::<SessionRecord>(text).unwrap());
            let state = session.map(|record| json!({"state": record.state, "holds": record.holds.len()}));
            json!({"labels": object["metadata"]["labels"], "owners": object["metadata"]["ownerReferences"], "session": state})
        }
        "poddisruptionbudgets" => {
            object.as_object_mut().unwrap().remove("status");
            object
        }
        _ => object,
    }
}

/// How many shards each node has, sorted: which ones depends on what came first. A node that has left is named until the next map, and
/// whether there is one depends on how many moves ended at once.
fn spread(map: &str) -> Value {
    let map: ShardMap = serde_json::from_str(map).unwrap();
    let each = map.nodes.iter().map(|node| (node, map.shards_of(node).count()));
    let (nodes, mut counts): (Vec<&NodeId>, Vec<usize>) = each.filter(|(_, count)| *count > 0).unzip();
    counts.sort_unstable();
    let owned: usize = counts.iter().sum();
    json!({"nodes": nodes, "shards": counts, "without owner": map.owners.len() - owned, "moves": map.moves, "given up": map.given_up})
}

/// The template's hash is of the configuration too.
fn without_hashes(accepted: &str, newest: &Newest) -> Value {
    let mut accepted: Value = serde_json::from_str(accepted).unwrap();
    if accepted["template"].as_str().is_some_and(|hash| !hash.is_empty()) {
        accepted["template"] = json!("HASH");
    }
    let is_newest = newest.inputs.as_deref() == accepted["inputs"].as_str();
    accepted["inputs"] = json!(if is_newest { "of the newest" } else { "of an earlier one" });
    accepted
}

/// UIDs, wherever they stand in a text.
fn without_uids(value: Value) -> Value {
    let is_one = |word: &str| word.len() == 36 && word.bytes().filter(|byte| *byte == b'-').count() == 4;
    match value {
        Value::String(text) => {
            let words = text.split_inclusive(|char: char| !char.is_ascii_alphanumeric() && char != '-');
            json!(
                words
                    .map(|word| {
                        let bare = word.trim_end_matches(|char: char| !char.is_ascii_alphanumeric());
                        if is_one(bare) { word.replace(bare, "UID") } else { word.to_owned() }
                    })
                    .collect::<String>()
            )
        }
        Value::Object(fields) => fields.into_iter().map(|(key, value)| (key, without_uids(value))).collect(),
        other => other,
    }
}
