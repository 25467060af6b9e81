//! Whether an apply would change nothing. Pure. In doubt it would: then one is made, and the API server decides.
//!
//! An object is as it is wished where it has all that the wish says, and the operator owns no field there that the wish does not have:
//! one that it no longer wishes would go with the next apply.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{FieldsV1, ManagedFieldsEntry};
use serde::Serialize;
use serde_json::Value;

/// Whether applying `wish` as `manager` would leave a live object as it is.
pub(super) fn is_as_wished(wish: &impl Serialize, live: &impl Serialize, manager: &str) -> bool {
    let (Ok(wish), Ok(live)) = (serde_json::to_value(wish), serde_json::to_value(live)) else { return false };
    let managed = serde_json::from_value::<Vec<ManagedFieldsEntry>>(live["metadata"]["managedFields"].clone());
    let applied = managed.unwrap_or_default().into_iter().find(|entry| {
        let is_ours = entry.manager.as_deref() == Some(manager) && entry.operation.as_deref() == Some("Apply");
        is_ours && entry.subresource.as_deref().unwrap_or_default().is_empty()
    });
    let Some(FieldsV1(owned)) = applied.and_then(|entry| entry.fields_v1) else { return false };
    says_all(&wish, &live) && has_all(&owned, &wish)
}

/// Whether the live value has all that the wish says. Lists must be as long: whether another's element is in them is for the API server
/// to tell.
fn says_all(wish: &Value, live: &Value) -> bool {
    match (wish, live) {
        (Value::Object(wish), Value::Object(live)) => wish
            .iter()
            .filter(|(_, value)| !value.is_null())
            .all(|(name, value)| live.get(name).is_some_and(|live| says_all(value, live))),
        (Value::Array(wish), Value::Array(live)) => {
            wish.len() == live.len() && wish.iter().zip(live).all(|(wish, live)| says_all(wish, live))
        }
        (wish, live) => wish == live,
    }
}

/// Whether the wish has every field of a set in the form of `fieldsV1`.
fn has_all(owned: &Value, wish: &Value) -> bool {
    let Some(owned) = owned.as_object() else { return false };
    owned.iter().all(|(name, below)| {
        let inside = match name.split_once(':') {
            Some(("f", field)) => wish.get(field).filter(|value| !value.is_null()),
            Some(("k", keys)) => element(wish, |element| has_keys(element, keys)),
            Some(("v", value)) => {
                element(wish, |element| serde_json::from_str::<Value>(value).is_ok_and(|v| v == *element))
            }
            // `.`: the value itself.
            _ => return name == ".",
        };
        inside.is_some_and(|inside| has_all(below, inside))
    })
}

fn element(list: &Value, is_it: impl Fn(&Value) -> bool) -> Option<&Value> {
    list.as_array()?.iter().find(|element| is_it(element))
}

fn has_keys(element: &Value, keys: &str) -> bool {
    let keys = serde_json::from_str::<serde_json::Map<String, Value>>(keys).unwrap_or_default();
    !keys.is_empty() && keys.iter().all(|(key, value)| element.get(key) == Some(value))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn wish() -> Value {
        json!({
            "metadata": {"name": "demo", "labels": {"a": "b"}},
            "spec": {"replicas": 3, "nothing": null, "ports": [{"port": 7701, "protocol": "TCP"}], "words": ["x"]},
        })
    }

    /// What the API server makes of the wish.
    fn live() -> Value {
        let mut live = wish();
        live["metadata"]["managedFields"] = json!([
            {"manager": "another", "operation": "Update", "fieldsV1": {"f:spec": {"f:other": {}}}},
            {"manager": "us", "operation": "Apply", "subresource": "status", "fieldsV1": {"f:status": {}}},
            {"manager": "us", "operation": "Apply", "fieldsV1": {
                "f:metadata": {"f:labels": {"f:a": {}}},
                "f:spec": {
                    "f:replicas": {},
                    "f:ports": {"k:{\"port\":7701,\"protocol\":\"TCP\"}": {".": {}, "f:port": {}, "f:protocol": {}}},
                    "f:words": {".": {}, "v:\"x\"": {}},
                },
            }},
        ]);
        live["spec"]["ports"][0]["targetPort"] = json!(7701);
        live["status"] = json!({"replicas": 3});
        live
    }

    /// The live object after a change.
    fn changed(change: impl FnOnce(&mut Value)) -> bool {
        let mut live = live();
        change(&mut live);
        is_as_wished(&wish(), &live, "us")
    }

    #[test]
    fn an_object_that_says_all_of_the_wish_is_left_alone_whatever_others_added() {
        assert!(changed(|_| {}));
        assert!(changed(|live| live["metadata"]["annotations"] = json!({"by": "another"})));
    }

    #[test]
    fn what_somebody_changed_or_took_away_is_applied() {
        assert!(!changed(|live| live["spec"]["replicas"] = json!(5)));
        assert!(!changed(|live| live["metadata"]["labels"] = json!({})));
        assert!(!changed(|live| live["spec"]["ports"][0]["port"] = json!(1)));
        assert!(!changed(|live| live["spec"]["words"] = json!(["x", "y"])), "a list that is longer");
    }

    #[test]
    fn what_is_no_longer_wished_goes() {
        let fields = |live: &mut Value| live["metadata"]["managedFields"][2]["fieldsV1"]["f:spec"].take();
        for (more, what) in [("f:paused", "a field"), ("f:nothing", "a field that is null")] {
            assert!(
                !changed(|live| {
                    let mut owned = fields(live);
                    owned[more] = json!({});
                    live["metadata"]["managedFields"][2]["fieldsV1"]["f:spec"] = owned;
                }),
                "{what}"
            );
        }
        assert!(!changed(|live| {
            live["metadata"]["managedFields"][2]["fieldsV1"]["f:spec"]["f:ports"]["k:{\"port\":1,\"protocol\":\"TCP\"}"] =
                json!({});
        }));
        assert!(!changed(
            |live| live["metadata"]["managedFields"][2]["fieldsV1"]["f:spec"]["f:words"]["v:\"y\""] = json!({})
        ));
    }

    #[test]
    fn what_was_never_applied_by_this_manager_is_applied() {
        assert!(!is_as_wished(&wish(), &live(), "somebody"));
        assert!(!is_as_wished(&wish(), &wish(), "us"));
        // Our status alone is no apply of the object.
        assert!(!changed(|live| live["metadata"]["managedFields"].as_array_mut().unwrap().truncate(2)));
    }
}
