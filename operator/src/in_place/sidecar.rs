//! Another image for the sidecar of a pod that runs. The kubelet restarts that container and no other.
//!
//! A pod's own image may differ from its template's, for admission rewrites images; and two names may be one image, so that a
//! container's status does not tell whether it was restarted for the new name. Hence what a pod was told is noted on it, in the same patch:
//! the image, the one that the pod had, and the container that ran. It was done once another container runs.

use brainy_kubernetes::names::SIDECAR_CONTAINER;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::LISTS;

/// Annotation of a pod whose sidecar was told to restart: what was told.
const ANNOTATION: &str = "brainy.io/sidecar";

/// How far a pod's sidecar is what the newest template says.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Sidecar {
    /// What the pod was told was undone, or is no more what is wanted before it was done.
    Refused,
    /// This strategic merge patch is lacking. It goes by the version of the pod from which the container was read.
    Lacking(Value),
    /// The kubelet has yet to do what the pod was told last: what keeps the container from starting, if anything does.
    Underway(String),
    /// It is.
    Given,
}

/// What a pod was told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Told {
    /// The image that a template says.
    image: String,
    /// The pod's image before, whatever the template said.
    instead_of: String,
    /// The id of the container that ran.
    container: String,
}

/// Whether a pod has been told.
pub(super) fn was_told(pod: &Pod) -> bool {
    pod.annotations().contains_key(ANNOTATION)
}

/// How far a pod that was made from `from` has the sidecar of `to`.
pub(super) fn look(pod: &Value, from: &Value, to: &Value) -> Sidecar {
    let (Some((_, there)), Some((_, made_as)), Some((list, wanted))) = (of(pod), of(from), of(to)) else {
        return Sidecar::Refused;
    };
    let told = pod["metadata"]["annotations"][ANNOTATION].as_str();
    let told = told.and_then(|told| serde_json::from_str::<Told>(told).ok());
    let runs = container(pod).unwrap_or_default();
    let is_done = told.as_ref().is_none_or(|told| !runs.is_empty() && runs != told.container);
    let has = told.as_ref().map_or(made_as, |told| told.image.as_str());
    match (has == wanted, is_done) {
        (true, true) => Sidecar::Given,
        // Nothing restarts where the image is what it was.
        (true, false) if told.is_some_and(|told| told.instead_of == there) => Sidecar::Refused,
        (true, false) => Sidecar::Underway(waits_for(pod).unwrap_or_default().to_owned()),
        // It may never start, or come so late that the kubelet sees both as one.
        (false, false) => Sidecar::Refused,
        (false, true) => {
            let told = Told { image: wanted.into(), instead_of: there.into(), container: runs.into() };
            Sidecar::Lacking(json!({
                "metadata": {
                    "uid": pod["metadata"]["uid"],
                    "resourceVersion": pod["metadata"]["resourceVersion"],
                    "annotations": {ANNOTATION: json!(told).to_string()},
                },
                "spec": {list: [{"name": SIDECAR_CONTAINER, "image": wanted}]},
            }))
        }
    }
}

/// Whether a difference between pod templates is one of the sidecar's image, by its path.
pub(super) fn is_of_it(field: &str) -> bool {
    LISTS.iter().any(|list| field == format!("spec.template.spec.{list}[{SIDECAR_CONTAINER}].image"))
}

/// Takes the image out of a template's container, if it is the sidecar.
pub(super) fn leave_out(container: &mut Value) {
    if container["name"] == SIDECAR_CONTAINER
        && let Some(container) = container.as_object_mut()
    {
        container.remove("image");
    }
}

/// In which list of a pod or template the sidecar is, and its image.
fn of(pod: &Value) -> Option<(&'static str, &str)> {
    LISTS.iter().find_map(|list| {
        let mut all = pod["spec"][list].as_array().into_iter().flatten();
        let sidecar = all.find(|container| container["name"] == SIDECAR_CONTAINER)?;
        Some((*list, sidecar["image"].as_str()?))
    })
}

/// The id of the sidecar that runs, or ran last.
fn container(pod: &Value) -> Option<&str> {
    status(pod)?["containerID"].as_str()
}

/// Why it does not run, in a word: `ErrImagePull`.
fn waits_for(pod: &Value) -> Option<&str> {
    status(pod)?["state"]["waiting"]["reason"].as_str()
}

fn status(pod: &Value) -> Option<&Value> {
    ["containerStatuses", "initContainerStatuses"].iter().find_map(|list| {
        let mut all = pod["status"][list].as_array().into_iter().flatten();
        all.find(|status| status["name"] == SIDECAR_CONTAINER)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(list: &str, image: &str) -> Value {
        json!({"spec": {list: [{"name": "sidecar", "image": image}]}})
    }

    /// A pod made from the template, whose sidecar runs as this container.
    fn pod(list: &str, image: &str, container: &str) -> Value {
        let statuses = if list == "containers" { "containerStatuses" } else { "initContainerStatuses" };
        let mut pod = template(list, image);
        pod["metadata"] = json!({"uid": "u", "resourceVersion": "7"});
        pod["status"][statuses] = json!([{"name": "sidecar", "containerID": container}]);
        pod
    }

    /// As the API server merges it.
    fn patched(pod: &Value, list: &str, patch: &Value) -> Value {
        let mut pod = pod.clone();
        pod["metadata"]["annotations"] = patch["metadata"]["annotations"].clone();
        pod["spec"][list][0]["image"] = patch["spec"][list][0]["image"].clone();
        pod
    }

    fn lacking(pod: &Value, from: &Value, to: &Value) -> Value {
        match look(pod, from, to) {
            Sidecar::Lacking(patch) => patch,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_sidecar_is_told_once_and_done_once_another_container_runs() {
        for list in LISTS {
            let (old, new) = (template(list, "s:1"), template(list, "s:2"));
            let before = pod(list, "s:1", "c://1");
            assert_eq!(look(&before, &old, &old), Sidecar::Given);
            let patch = lacking(&before, &old, &new);
            assert_eq!(patch["spec"], json!({list: [{"name": "sidecar", "image": "s:2"}]}));
            assert_eq!((&patch["metadata"]["uid"], &patch["metadata"]["resourceVersion"]), (&json!("u"), &json!("7")));
            let mut told = patched(&before, list, &patch);
            assert_eq!(look(&told, &old, &new), Sidecar::Underway(String::new()));
            let statuses = if list == "containers" { "containerStatuses" } else { "initContainerStatuses" };
            // While the image is fetched there may be none.
            told["status"][statuses][0] = json!({"name": "sidecar", "state": {"waiting": {"reason": "ErrImagePull", "message": "no such image"}}});
            assert_eq!(look(&told, &old, &new), Sidecar::Underway("ErrImagePull".into()));
            told["status"][statuses][0]["containerID"] = json!("c://2");
            assert_eq!(look(&told, &old, &new), Sidecar::Given);
        }
    }

    #[test]
    fn an_image_that_comes_back_is_told_again_if_the_last_was_done() {
        let list = "initContainers";
        let (old, new) = (template(list, "s:1"), template(list, "s:2"));
        let before = pod(list, "s:1", "c://1");
        let mut told = patched(&before, list, &lacking(&before, &old, &new));
        assert_eq!(look(&told, &old, &old), Sidecar::Refused);
        told["status"]["initContainerStatuses"][0]["containerID"] = json!("c://2");
        let back = patched(&told, list, &lacking(&told, &old, &old));
        assert_eq!(look(&back, &old, &old), Sidecar::Underway(String::new()));
        let mut done = back.clone();
        done["status"]["initContainerStatuses"][0]["containerID"] = json!("c://3");
        assert_eq!(look(&done, &old, &old), Sidecar::Given);
    }

    #[test]
    fn images_that_admission_rewrites_are_no_difference_and_one_that_it_keeps_is_a_replacement() {
        let list = "containers";
        let (old, new) = (template(list, "s:1"), template(list, "s:2"));
        let before = pod(list, "mirror/s:1", "c://1");
        assert_eq!(look(&before, &old, &old), Sidecar::Given);
        let patch = lacking(&before, &old, &new);
        let mut told = patched(&before, list, &patch);
        told["spec"][list][0]["image"] = json!("mirror/s:2");
        assert_eq!(look(&told, &old, &new), Sidecar::Underway(String::new()));
        told["status"]["containerStatuses"][0]["containerID"] = json!("c://2");
        assert_eq!(look(&told, &old, &new), Sidecar::Given);
        let mut kept = patched(&before, list, &patch);
        kept["spec"][list][0]["image"] = json!("mirror/s:1");
        assert_eq!(look(&kept, &old, &new), Sidecar::Refused);
    }
}
