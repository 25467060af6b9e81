//! Whether an apply would change nothing. Pure. In doubt it would: then one is made, and the API server decides.
//!
//! An object is as it is wished where the operator owns there exactly the fields that the wish has, and each has the value that the wish
//! gives it. A field that it owns and no longer wishes would go with the next apply; one that it wishes and does not own, somebody else
//! has written since. What is owned as one (a `nodeSelector`, the rules of a Role) is replaced as one: it has nothing but what the wish says.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{FieldsV1, ManagedFieldsEntry};
use serde::Serialize;
use serde_json::{Map, Value};

/// What says which object it is: nobody owns it.
const OF_THE_OBJECT: [&str; 2] = ["apiVersion", "kind"];
const OF_ITS_METADATA: [&str; 2] = ["name", "namespace"];

/// Whether applying `wish` as `manager` would leave a live object as it is.
pub(super) fn is_as_wished(wish: &impl Serialize, live: &impl Serialize, manager: &str) -> bool {
    let (Ok(mut wish), Ok(live)) = (serde_json::to_value(wish), serde_json::to_value(live)) else { return false };
    let managed = serde_json::from_value::<Vec<ManagedFieldsEntry>>(live["metadata"]["managedFields"].clone());
    let applied = managed.unwrap_or_default().into_iter().find(|entry| {
        let is_ours = entry.manager.as_deref() == Some(manager) && entry.operation.as_deref() == Some("Apply");
        is_ours && entry.subresource.as_deref().unwrap_or_default().is_empty()
    });
    let Some(FieldsV1(owned)) = applied.and_then(|entry| entry.fields_v1) else { return false };
    if let Some(wish) = wish.as_object_mut() {
        OF_THE_OBJECT.iter().for_each(|field| drop(wish.remove(*field)));
        if let Some(metadata) = wish.get_mut("metadata").and_then(Value::as_object_mut) {
            OF_ITS_METADATA.iter().for_each(|field| drop(metadata.remove(*field)));
        }
    }
    is_owned_and_said(&wish, &live, &owned)
}

/// Whether the fields of a set in the form of `fieldsV1` are those of the wish, and the live value has what the wish says of them.
fn is_owned_and_said(wish: &Value, live: &Value, owned: &Value) -> bool {
    let Some(owned) = owned.as_object() else { return false };
    // `.`: the value itself.
    let below: Vec<(&String, &Value)> = owned.iter().filter(|(name, _)| *name != ".").collect();
    if below.is_empty() {
        return is_same(wish, live);
    }
    match (wish, live) {
        (Value::Object(wish), Value::Object(live)) => {
            let is_wished = |name: &str| {
                name.strip_prefix("f:").and_then(|name| wish.get(name)).is_some_and(|value| !value.is_null())
            };
            below.iter().all(|(name, _)| is_wished(name))
                && said(wish).all(|(name, value)| {
                    let owned = owned.get(&format!("f:{name}"));
                    owned.zip(live.get(name)).is_some_and(|(owned, live)| is_owned_and_said(value, live, owned))
                })
        }
        // Lists must be as long: whether another's element is in them is for the API server to tell.
        (Value::Array(wish), Value::Array(live)) => {
            (wish.len(), wish.len()) == (live.len(), below.len())
                && wish.iter().zip(live).all(|(wish, live)| {
                    let its_own = below.iter().find(|(name, _)| is_of(wish, name));
                    its_own.is_some_and(|(_, owned)| is_owned_and_said(wish, live, owned))
                })
        }
        _ => false,
    }
}

/// Whether two values are the same. A field that is null is none.
fn is_same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Object(one), Value::Object(other)) => {
            said(one).count() == said(other).count()
                && said(one).all(|(name, value)| other.get(name).is_some_and(|other| is_same(value, other)))
        }
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| is_same(one, other))
        }
        (one, other) => one == other,
    }
}

fn said(fields: &Map<String, Value>) -> impl Iterator<Item = (&String, &Value)> {
    fields.iter().filter(|(_, value)| !value.is_null())
}

/// Whether an element of a list is the one that a name of `fieldsV1` means: by its keys (`k:`), or by its value (`v:`).
fn is_of(element: &Value, name: &str) -> bool {
    match name.split_once(':') {
        Some(("k", keys)) => {
            let keys = serde_json::from_str::<Map<String, Value>>(keys).unwrap_or_default();
            !keys.is_empty() && keys.iter().all(|(key, value)| element.get(key) == Some(value))
        }
        Some(("v", value)) => serde_json::from_str::<Value>(value).is_ok_and(|value| value == *element),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn wish() -> Value {
        json!({
            "apiVersion": "v1",
            "kind": "Thing",
            "metadata": {"name": "demo", "namespace": "team", "labels": {"a": "b"}},
            "spec": {
                "replicas": 3,
                "nothing": null,
                "ports": [{"port": 7701, "protocol": "TCP"}],
                "words": ["x"],
                "selector": {"zone": "west"},
                "rules": [{"verbs": ["get"], "names": null}],
                "folder": {},
            },
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
                    "f:selector": {},
                    "f:rules": {},
                    "f:folder": {},
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
    fn what_is_replaced_as_one_has_nothing_else() {
        assert!(!changed(|live| live["spec"]["selector"]["disk"] = json!("fast")), "a map");
        assert!(!changed(|live| live["spec"]["rules"][0]["names"] = json!(["demo"])), "an element of a list");
        assert!(!changed(|live| live["spec"]["rules"][0]["verbs"] = json!(["get", "list"])), "a list in a list");
        assert!(changed(|live| live["spec"]["rules"][0]["names"] = Value::Null), "a field that is null is none");
    }

    #[test]
    fn what_somebody_else_has_written_since_is_applied() {
        let owned = |live: &mut Value, at: &str| {
            live["metadata"]["managedFields"][2]["fieldsV1"]["f:spec"].as_object_mut().unwrap().remove(at);
        };
        for field in ["f:replicas", "f:ports", "f:selector"] {
            assert!(!changed(|live| owned(live, field)), "{field}");
        }
        assert!(!changed(|live| {
            owned(live, "f:selector");
            live["spec"]["selector"]["disk"] = json!("fast");
        }));
    }

    #[test]
    fn what_was_never_applied_by_this_manager_is_applied() {
        assert!(!is_as_wished(&wish(), &live(), "somebody"));
        assert!(!is_as_wished(&wish(), &wish(), "us"));
        // Our status alone is no apply of the object.
        assert!(!changed(|live| live["metadata"]["managedFields"].as_array_mut().unwrap().truncate(2)));
    }
}
