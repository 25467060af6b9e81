//! What was accepted of a spec, as the StatefulSet says it.

use std::sync::LazyLock;

use brainy_coordination::bucket::spec::Pattern;
use brainy_crds::{BrainyClusterSpec, manifest, rules};
use k8s_openapi::api::apps::v1::StatefulSet;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use xxhash_rust::xxh3::xxh3_64;

/// The annotation of the StatefulSet: no pod is restarted by it.
pub const ANNOTATION: &str = "brainy.io/accepted";

/// What was accepted of a spec.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Accepted {
    /// How many nodes.
    pub nodes: i32,
    /// Who is the controller.
    pub pattern: Pattern,
    /// The size of each node's volume, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<String>,
    /// Stands for what of the spec the pod template was made from.
    #[serde(default)]
    pub inputs: String,
    /// Stands for the pod template; empty: made by an operator that noted nothing.
    #[serde(default)]
    pub template: String,
    /// Hash of the plan that was approved last, and carried out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approved: Option<String>,
}

/// What there is of a cluster whose StatefulSet says nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Live {
    /// The StatefulSet's replicas.
    pub nodes: i32,
    /// The nodes keep sessions and map among them.
    pub is_consensus: bool,
    /// The least size that a volume has, where there are volumes.
    pub volume: Option<String>,
}

impl Accepted {
    /// What counts as accepted where an operator before has noted nothing. It did at once what the spec said; whether the pod
    /// template is what this one would make is another matter. `holds`: nothing may change without an approval, or at all.
    pub fn adopted(wish: &Self, live: &Live, holds: bool) -> Self {
        Self {
            nodes: if holds { live.nodes } else { wish.nodes },
            pattern: match (live.is_consensus, wish.pattern) {
                (true, _) => Pattern::Consensus,
                (false, Pattern::Consensus) => Pattern::Leader,
                (false, pattern) => pattern,
            },
            volume: live.volume.clone().filter(|_| holds).or_else(|| wish.volume.clone()),
            inputs: wish.inputs.clone(),
            template: String::new(),
            approved: None,
        }
    }

    /// What a StatefulSet says. `None`: it was made by an operator that noted nothing, or somebody spoiled the annotation.
    pub fn of(statefulset: &StatefulSet) -> Option<Self> {
        let annotations = statefulset.metadata.annotations.as_ref()?;
        serde_json::from_str(annotations.get(ANNOTATION)?).ok()
    }

    /// As the annotation says it.
    pub fn text(&self) -> String {
        // Strings and numbers always have a JSON form.
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// The schema of a spec. That there is one is seen by the tests of the types.
static SCHEMA: LazyLock<Value> =
    LazyLock::new(|| manifest::schema().map_or(Value::Null, |mut schema| schema["properties"]["spec"].take()));

/// Parts of a spec that no pod template is made from.
const BESIDES: [&[&str]; 10] = [
    &["replicas"],
    &["deletionPolicy"],
    &["paused"],
    &["rollout"],
    &["tls"],
    &["storage", "volume", "size"],
    &["storage", "volume", "storageClassName"],
    &["storage", "volume", "warnPercent"],
    &["coordination", "placement", "balance"],
    &["coordination", "placement", "maxMoves"],
];

/// Stands for what of a spec the pod template is made from. The same for every version of the operator: a field that a later one
/// adds makes no difference while it says the default.
pub fn template_inputs(spec: &BrainyClusterSpec) -> String {
    // A spec always has a JSON form: it was read from one.
    let mut inputs = rules::without_defaults(&SCHEMA, &serde_json::to_value(spec).unwrap_or_default());
    for path in BESIDES {
        remove(&mut inputs, path);
    }
    if spec.coordination.pattern != brainy_crds::Pattern::Consensus {
        remove(&mut inputs, &["coordination", "pattern"]);
    }
    format!("{:016x}", xxh3_64(inputs.to_string().as_bytes()))
}

/// Removes a field, and what is empty without it.
fn remove(value: &mut Value, path: &[&str]) {
    let (Some((first, rest)), Some(fields)) = (path.split_first(), value.as_object_mut()) else { return };
    let is_gone = match (rest.is_empty(), fields.get_mut(*first)) {
        (true, _) => true,
        (false, None) => false,
        (false, Some(inner)) => {
            remove(inner, rest);
            inner.as_object().is_some_and(Map::is_empty)
        }
    };
    if is_gone {
        fields.remove(*first);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::fixtures::cluster;

    fn inputs(spec: Value) -> String {
        template_inputs(&cluster("demo", spec).spec)
    }

    #[test]
    fn what_no_pod_template_is_made_from_makes_no_difference() {
        let plain = inputs(json!({"storage": {}}));
        for same in [
            json!({"storage": {"volume": {"size": "77Gi", "storageClassName": "fast"}}, "replicas": 9}),
            json!({"storage": {}, "paused": true, "rollout": {"approval": "Manual"}, "deletionPolicy": "Delete"}),
            json!({"storage": {}, "coordination": {"placement": {"balance": "Load", "maxMoves": 3}}}),
            json!({"storage": {}, "coordination": {"lease": {"durationSeconds": 30}}, "pod": {"labels": {}}}),
        ] {
            assert_eq!(inputs(same.clone()), plain, "{same}");
        }
    }

    #[test]
    fn what_a_pod_template_is_made_from_makes_one() {
        let plain = inputs(json!({"storage": {}}));
        for other in [
            json!({"storage": {"volume": {"engine": "Files"}}}),
            json!({"storage": {}, "coordination": {"pattern": "Consensus"}}),
            json!({"storage": {}, "coordination": {"lease": {"durationSeconds": 31}}}),
            json!({"storage": {}, "coordination": {"placement": {"moveMebibytesPerSecond": 5}}}),
            json!({"storage": {}, "pod": {"affinity": {}}}),
            json!({"storage": {}, "application": {"image": "shop:1"}}),
        ] {
            assert_ne!(inputs(other.clone()), plain, "{other}");
        }
    }

    #[test]
    fn what_an_operator_before_has_done_counts_as_accepted() {
        let wish = Accepted {
            nodes: 5,
            volume: Some("2Gi".into()),
            inputs: "a".into(),
            template: "t".into(),
            ..Accepted::default()
        };
        let live = Live { nodes: 3, is_consensus: false, volume: Some("1Gi".into()) };
        let adopted = Accepted { template: String::new(), ..wish.clone() };
        assert_eq!(Accepted::adopted(&wish, &live, false), adopted);
        let held = Accepted { nodes: 3, volume: Some("1Gi".into()), ..adopted };
        assert_eq!(Accepted::adopted(&wish, &live, true), held);
        let consensus = Accepted { pattern: Pattern::Consensus, ..wish };
        assert_eq!(Accepted::adopted(&consensus, &live, true).pattern, Pattern::Leader, "it has not begun");
    }

    #[test]
    fn it_reads_back_and_what_was_spoiled_counts_as_nothing() {
        let accepted = Accepted { nodes: 3, volume: Some("1Gi".into()), inputs: "a".into(), ..Accepted::default() };
        let mut set = StatefulSet::default();
        set.metadata.annotations = Some([(ANNOTATION.to_owned(), accepted.text())].into());
        assert_eq!(Accepted::of(&set), Some(accepted));
        set.metadata.annotations = Some([(ANNOTATION.to_owned(), "{}".to_owned())].into());
        assert_eq!(Accepted::of(&set), None);
    }
}
