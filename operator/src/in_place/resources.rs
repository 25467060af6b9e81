//! Other resources for a pod that runs, through the subresource `pods/resize` (Kubernetes 1.33). What a pod was given
//! where it runs its `managedFields` tell, for it still names the template that it was made from.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Map, Value, json};

use super::LISTS;

/// The subresource, as URLs and `managedFields` have it.
pub const SUBRESOURCE: &str = "resize";

/// How far a pod has the resources of the newest template.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Resources {
    /// It can't have them where it runs.
    Refused,
    /// This strategic merge patch is lacking.
    Lacking(Value),
    /// The kubelet has yet to give them: in words.
    Underway(String),
    /// It has.
    Given,
}

/// What can be changed while a container runs.
const RESIZABLE: [&str; 2] = ["cpu", "memory"];

/// Whether this manager has given a pod other amounts where it runs. It may have been given those of its template again.
pub(super) fn were_given(pod: &Pod, manager: &str) -> bool {
    pod.metadata
        .managed_fields
        .iter()
        .flatten()
        .any(|entry| entry.subresource.as_deref() == Some(SUBRESOURCE) && entry.manager.as_deref() == Some(manager))
}

/// How far a pod that was made from `from`, and since then resized by `manager` alone, has the resources of `to`.
pub(super) fn look(pod: &Value, from: &Value, to: &Value, manager: &str) -> Resources {
    if !is_resizable(from, to) || has_been_given_more(pod, to, manager) {
        return Resources::Refused;
    }
    let mut spec = Map::new();
    for list in LISTS {
        let there: BTreeMap<&str, Amounts> = containers(&pod["spec"], list).collect();
        let changed: Vec<Value> = containers(&to["spec"], list)
            .filter(|(name, wanted)| !there.get(name).is_some_and(|there| wanted.is_in(there)))
            .map(|(name, wanted)| json!({"name": name, "resources": wanted.resources()}))
            .collect();
        if !changed.is_empty() {
            spec.insert(list.to_owned(), Value::Array(changed));
        }
    }
    if !spec.is_empty() {
        return Resources::Lacking(json!({"metadata": {"uid": pod["metadata"]["uid"]}, "spec": spec}));
    }
    match (condition(pod, "PodResizePending"), condition(pod, "PodResizeInProgress")) {
        (Some(("Infeasible", _)), _) => Resources::Refused,
        (Some((reason, message)), _) | (None, Some((reason, message))) => {
            Resources::Underway(format!("{reason} {message}").trim().to_owned())
        }
        (None, None) => Resources::Given,
    }
}

/// Whether a difference between pod templates is one of resources, by its path.
pub(super) fn is_of_them(field: &str) -> bool {
    LISTS.iter().any(|list| {
        field.strip_prefix(&format!("spec.template.spec.{list}[")).is_some_and(|rest| rest.contains("].resources"))
    })
}

/// Takes the amounts out of a template's container. Claims of devices are none.
pub(super) fn leave_out(container: &mut Value) {
    if let Some(resources) = container.get_mut("resources").and_then(Value::as_object_mut) {
        resources.retain(|name, _| !["requests", "limits"].contains(&name.as_str()));
    } else if let Some(container) = container.as_object_mut() {
        container.insert("resources".into(), json!({}));
    }
}

/// Of a container: `requests.cpu` and the like.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Amounts(BTreeMap<(&'static str, String), String>);

impl Amounts {
    fn of(container: &Value) -> Self {
        let mut all = BTreeMap::new();
        for (kind, from) in [("requests", "limits"), ("requests", "requests"), ("limits", "limits")] {
            // What is limited is also requested, where nothing else is said: so the API server has it in pods.
            for (name, amount) in container["resources"][from].as_object().into_iter().flatten() {
                all.insert((kind, name.clone()), amount.as_str().map_or_else(|| amount.to_string(), str::to_owned));
            }
        }
        Self(all)
    }

    /// A pod may have more: what admission has added.
    fn is_in(&self, there: &Self) -> bool {
        self.0.iter().all(|(what, amount)| there.0.get(what) == Some(amount))
    }

    fn resources(&self) -> Value {
        let mut resources = json!({});
        for ((kind, name), amount) in &self.0 {
            resources[*kind][name] = json!(amount);
        }
        resources
    }
}

fn containers<'a>(spec: &'a Value, list: &str) -> impl Iterator<Item = (&'a str, Amounts)> {
    let all = spec[list].as_array().into_iter().flatten();
    all.filter_map(|container| Some((container["name"].as_str()?, Amounts::of(container))))
}

/// Only amounts that can be changed are changed, and none goes: that only a new pod can do.
fn is_resizable(from: &Value, to: &Value) -> bool {
    LISTS.iter().all(|list| {
        let after: BTreeMap<&str, Amounts> = containers(&to["spec"], list).collect();
        containers(&from["spec"], list).all(|(name, before)| {
            let Some(after) = after.get(name) else { return false };
            let whats: BTreeSet<_> = before.0.keys().chain(after.0.keys()).collect();
            whats.into_iter().all(|what| match (before.0.get(what), after.0.get(what)) {
                (Some(_), None) => false,
                (before, after) => before == after || RESIZABLE.contains(&what.1.as_str()),
            })
        })
    })
}

/// Whether a resize gave a container an amount that the template has none of: it does not go by another.
fn has_been_given_more(pod: &Value, template: &Value, manager: &str) -> bool {
    LISTS.iter().any(|list| {
        let wanted: BTreeMap<&str, Amounts> = containers(&template["spec"], list).collect();
        given(pod, list, manager)
            .iter()
            .any(|(container, what)| wanted.get(container.as_str()).is_some_and(|wanted| !wanted.0.contains_key(what)))
    })
}

/// The amounts that a manager has set where the pod runs, by the names of their containers, as `managedFields` have them:
/// `{"f:spec": {"f:containers": {"k:{\"name\":\"app\"}": {"f:resources": {"f:requests": {"f:cpu": {}}}}}}}`.
fn given(pod: &Value, list: &str, manager: &str) -> BTreeSet<(String, (&'static str, String))> {
    let mut found = BTreeSet::new();
    let entries = pod["metadata"]["managedFields"].as_array().into_iter().flatten();
    for entry in entries.filter(|entry| entry["subresource"] == SUBRESOURCE && entry["manager"] == manager) {
        let containers = entry["fieldsV1"]["f:spec"][format!("f:{list}")].as_object().into_iter().flatten();
        for (key, owned) in containers {
            let key = key.strip_prefix("k:").and_then(|key| serde_json::from_str::<Value>(key).ok());
            let Some(name) = key.as_ref().and_then(|key| key["name"].as_str()) else { continue };
            for kind in ["requests", "limits"] {
                let amounts = owned["f:resources"][format!("f:{kind}")].as_object().into_iter().flatten();
                let amounts = amounts.filter_map(|(field, _)| field.strip_prefix("f:"));
                found.extend(amounts.map(|amount| (name.to_owned(), (kind, amount.to_owned()))));
            }
        }
    }
    found
}

fn condition<'a>(pod: &'a Value, kind: &str) -> Option<(&'a str, &'a str)> {
    let mut all = pod["status"]["conditions"].as_array().into_iter().flatten();
    let found = all.find(|condition| condition["type"] == kind && condition["status"] == "True")?;
    Some((found["reason"].as_str().unwrap_or_default(), found["message"].as_str().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How far a pod has them that only the operator may have resized.
    fn look(pod: &Value, from: &Value, to: &Value) -> Resources {
        super::look(pod, from, to, "operator")
    }

    /// A template whose one container has these resources.
    fn template(resources: Value) -> Value {
        json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "app", "image": "a:1", "resources": resources}]}})
    }

    fn cpu(amount: &str) -> Value {
        json!({"requests": {"cpu": amount}})
    }

    fn pod(resources: Value, conditions: Value) -> Value {
        let mut pod = template(resources);
        pod["metadata"]["uid"] = json!("u");
        pod["status"]["conditions"] = conditions;
        pod
    }

    #[test]
    fn a_pod_that_lacks_nothing_but_resources_is_told_them_once() {
        let (old, new) = (template(cpu("100m")), template(cpu("200m")));
        let patch =
            json!({"metadata": {"uid": "u"}, "spec": {"containers": [{"name": "app", "resources": cpu("200m")}]}});
        assert_eq!(look(&pod(cpu("100m"), json!([])), &old, &new), Resources::Lacking(patch));
        assert_eq!(look(&pod(cpu("200m"), json!([])), &old, &new), Resources::Given);
        // Admission may have added what no template says.
        let more = json!({"requests": {"cpu": "200m", "memory": "1Gi"}});
        assert_eq!(look(&pod(more, json!([])), &old, &new), Resources::Given);
        // What is limited only is also requested.
        let limited = template(json!({"limits": {"cpu": "2"}}));
        let there = json!({"limits": {"cpu": "2"}, "requests": {"cpu": "2"}});
        assert_eq!(
            look(&pod(there, json!([])), &template(json!({"limits": {"cpu": "1"}})), &limited),
            Resources::Given
        );
    }

    #[test]
    fn what_a_resize_has_given_does_not_stay_where_the_newest_template_has_none_of_it() {
        let (old, new) = (template(cpu("100m")), template(cpu("200m")));
        let more = json!({"requests": {"cpu": "200m"}, "limits": {"cpu": "1"}});
        let by = |manager: &str, limits: Value| {
            let container = json!({"f:resources": {"f:requests": {"f:cpu": {}}, "f:limits": limits}});
            let fields = json!({"f:spec": {"f:containers": {"k:{\"name\":\"app\"}": container}}});
            let mut pod = pod(more.clone(), json!([]));
            pod["metadata"]["managedFields"] =
                json!([{"manager": manager, "operation": "Update", "subresource": "resize", "fieldsV1": fields}]);
            let typed: Pod = serde_json::from_value(pod.clone()).unwrap();
            assert_eq!(were_given(&typed, "operator"), manager == "operator");
            (look(&pod, &old, &new), look(&pod, &new, &new), look(&pod, &old, &template(more.clone())))
        };
        let limited = json!({"f:cpu": {}});
        assert_eq!(by("operator", limited.clone()), (Resources::Refused, Resources::Refused, Resources::Given));
        // Admission's, and what anybody else has given.
        assert_eq!(by("operator", json!({})), (Resources::Given, Resources::Given, Resources::Given));
        assert_eq!(by("another", limited), (Resources::Given, Resources::Given, Resources::Given));
    }

    #[test]
    fn the_kubelet_s_word_counts() {
        let (old, new) = (template(cpu("100m")), template(cpu("200m")));
        let says = |kind: &str, reason: &str| {
            let condition = json!([{"type": kind, "status": "True", "reason": reason, "message": "words"}]);
            look(&pod(cpu("200m"), condition), &old, &new)
        };
        assert_eq!(says("PodResizePending", "Infeasible"), Resources::Refused);
        assert_eq!(says("PodResizePending", "Deferred"), Resources::Underway("Deferred words".into()));
        assert_eq!(says("PodResizeInProgress", ""), Resources::Underway("words".into()));
    }

    #[test]
    fn what_only_a_new_pod_can_have_makes_it_a_replacement() {
        let old = template(json!({"requests": {"cpu": "1"}, "limits": {"cpu": "2"}}));
        let there = pod(old["spec"]["containers"][0]["resources"].clone(), json!([]));
        let no = |new: &Value| look(&there, &old, new) == Resources::Refused;
        assert!(no(&template(json!({"requests": {"cpu": "1"}}))), "a limit that goes");
        assert!(no(&template(json!({"requests": {"cpu": "1", "example.org/gpu": "1"}, "limits": {"cpu": "2"}}))));
        assert!(!no(&template(json!({"requests": {"cpu": "3"}, "limits": {"cpu": "3"}}))));
    }
}
