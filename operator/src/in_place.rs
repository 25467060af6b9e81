//! Which pods become what the newest template says without being replaced. Pure.
//!
//! A pod can where its template and the newest one differ in nothing but how much CPU and memory its containers have, and in the
//! sidecar's image: everything else of a running pod is fixed, or would be by the time that anybody reads it. What is compared are the
//! two templates, as the StatefulSet controller keeps them: a pod itself has much that no template says. What has become of
//! a pod since it was made [its resources](resources) and [its sidecar](sidecar) tell.

pub mod resources;
pub mod sidecar;

use k8s_openapi::api::core::v1::Pod;
use serde_json::Value;

use resources::Resources;
use sidecar::Sidecar;

/// The lists of containers that a pod has.
const LISTS: [&str; 2] = ["containers", "initContainers"];

/// What becomes of a pod that is not what the newest template says.
#[derive(Clone, Debug, PartialEq)]
pub enum InPlace {
    /// Nothing: it has to be replaced.
    No,
    /// This strategic merge patch gives it the resources of the newest template. It restarts nothing.
    Resize(Value),
    /// It was told, and the kubelet has yet to do it: in words.
    Resizing(String),
    /// This strategic merge patch gives it the sidecar of the newest template. It restarts the sidecar and nothing else.
    Restart(Value),
    /// It was told, and the kubelet has yet to do it: what keeps the container from starting, if anything does.
    Restarting(String),
    /// It is what the newest template says.
    Done,
}

/// What a change of the pod template does to pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// They are replaced.
    Replaced,
    /// Their sidecars restart, and may get other resources besides.
    SidecarsRestart,
    /// They get other resources, and nothing restarts.
    Resized,
}

/// Whether this manager has made a pod something else where it runs than it was made as. It may be the same again.
pub fn was_changed(pod: &Pod, manager: &str) -> bool {
    resources::were_given(pod, manager) || sidecar::was_told(pod)
}

/// What becomes of a pod, made from the template `from` and since then changed by `manager` alone, where the newest is `to`.
pub fn in_place(pod: &Value, from: &Value, to: &Value, manager: &str) -> InPlace {
    if fixed(from) != fixed(to) {
        return InPlace::No;
    }
    let sidecar = sidecar::look(pod, from, to);
    match (resources::look(pod, from, to, manager), sidecar) {
        (Resources::Refused, _) | (_, Sidecar::Refused) => InPlace::No,
        (Resources::Lacking(patch), _) => InPlace::Resize(patch),
        (Resources::Underway(words), _) => InPlace::Resizing(words),
        (Resources::Given, Sidecar::Lacking(patch)) => InPlace::Restart(patch),
        (Resources::Given, Sidecar::Underway(waits_for)) => InPlace::Restarting(waits_for),
        (Resources::Given, Sidecar::Given) => InPlace::Done,
    }
}

/// What a difference between two pod templates does, by the paths of what differs.
pub fn effect(fields: &[String]) -> Effect {
    let is_fixed = |field: &String| !resources::is_of_them(field) && !sidecar::is_of_it(field);
    if fields.is_empty() || fields.iter().any(is_fixed) {
        Effect::Replaced
    } else if fields.iter().any(|field| sidecar::is_of_it(field)) {
        Effect::SidecarsRestart
    } else {
        Effect::Resized
    }
}

/// A template without what can be changed where a pod runs.
fn fixed(template: &Value) -> Value {
    let mut template = template.clone();
    for list in LISTS {
        for container in template["spec"].get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            resources::leave_out(container);
            sidecar::leave_out(container);
        }
    }
    template
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn template(image: &str, cpu: &str) -> Value {
        let container =
            |name: &str, image: &str| json!({"name": name, "image": image, "resources": {"requests": {"cpu": cpu}}});
        json!({"spec": {"initContainers": [container("sidecar", image)], "containers": [container("app", "app:1")]}})
    }

    fn pod(template: &Value) -> Value {
        let mut pod = template.clone();
        pod["metadata"] = json!({"uid": "u", "resourceVersion": "7"});
        pod["status"]["initContainerStatuses"] = json!([{"name": "sidecar", "containerID": "c://1"}]);
        pod
    }

    #[test]
    fn a_sidecar_restarts_once_the_pod_has_its_resources() {
        let (old, both) = (template("sidecar:1", "1"), template("sidecar:2", "2"));
        let mut there = pod(&old);
        let InPlace::Resize(_) = in_place(&there, &old, &both, "operator") else { panic!() };
        for list in LISTS {
            there["spec"][list][0]["resources"] = json!({"requests": {"cpu": "2"}});
        }
        there["status"]["conditions"] = json!([{"type": "PodResizePending", "status": "True", "reason": "Deferred"}]);
        assert_eq!(in_place(&there, &old, &both, "operator"), InPlace::Resizing("Deferred".into()));
        there["status"]["conditions"] = json!([]);
        let InPlace::Restart(_) = in_place(&there, &old, &both, "operator") else { panic!() };
    }

    #[test]
    fn what_neither_can_make_is_a_replacement() {
        let old = template("sidecar:1", "1");
        let mut other = template("sidecar:2", "1");
        other["spec"]["containers"][0]["image"] = json!("app:2");
        assert_eq!(in_place(&pod(&old), &old, &other, "operator"), InPlace::No);
        let mut labelled = template("sidecar:2", "1");
        labelled["metadata"]["labels"]["a"] = json!("b");
        assert_eq!(in_place(&pod(&old), &old, &labelled, "operator"), InPlace::No);
    }

    #[test]
    fn what_a_change_does_is_told_by_the_fields() {
        let fields = |all: &[&str]| effect(&all.iter().map(|field| (*field).to_owned()).collect::<Vec<_>>());
        let cpu = "spec.template.spec.containers[app].resources.requests.cpu";
        let image = |container: &str| format!("spec.template.spec.{container}.image");
        let sidecars = [image("initContainers[sidecar]"), image("containers[sidecar]")];
        assert_eq!(fields(&[cpu, "spec.template.spec.initContainers[sidecar].resources"]), Effect::Resized);
        for sidecar in &sidecars {
            assert_eq!(fields(&[sidecar]), Effect::SidecarsRestart);
            assert_eq!(fields(&[cpu, sidecar]), Effect::SidecarsRestart);
            assert_eq!(fields(&[sidecar, "spec.template.metadata.labels.team"]), Effect::Replaced);
        }
        assert_eq!(fields(&[&image("containers[app]")]), Effect::Replaced);
        assert_eq!(fields(&[cpu, "and 3 more"]), Effect::Replaced);
        assert_eq!(fields(&[]), Effect::Replaced);
    }
}
