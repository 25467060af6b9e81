//! What a cluster that has come a long way has in common with a fresh one of the same spec.

use brainy_kubernetes::names;
use brainy_operator::layout::Layout;
use serde_json::Value;

use crate::scenarios::NAME;
use crate::state::State;

/// What no fresh cluster has: volumes and sessions of nodes that were there before, what the first spec of a StatefulSet has fixed, and
/// that a cluster once hibernated.
pub(crate) fn as_fresh(mut state: State, spec: &Value) -> State {
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
