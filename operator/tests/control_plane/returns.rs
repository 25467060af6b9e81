//! What is taken out of the middle of a spec, and what comes back to it, is so in the end; and an operator that begins anew finds nothing
//! to write.

use brainy_coordination::names::CONTROLLER_ELECTION;
use brainy_crds::BrainyCluster;
use futures::future::try_join_all;
use kube::Api;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::cluster::ControlPlane;
use crate::scenarios::{Kind, NAME, Run, ask, spec};
use crate::steps::{Step, Walk, step};
use crate::walk::walk;

/// All of these as they are, one after the other.
fn of(field: &str, values: impl IntoIterator<Item = Value>) -> Vec<Step> {
    values.into_iter().map(|value| step(field, value, false)).collect()
}

/// A part of what the API server replaces as one: of a map that has a key more than the user says, and of an element of a list.
fn parts_that_go() -> Vec<Step> {
    let exists = json!({"key": "dedicated", "operator": "Exists"});
    let with_effect = json!({"key": "dedicated", "operator": "Exists", "effect": "NoSchedule"});
    let mut steps = of("pod.nodeSelector", [json!({"disk": "fast"}), Value::Null]);
    steps.extend(of("pod.tolerations", [json!([with_effect]), json!([exists])]));
    steps
}

/// A template that comes back is the same revision, and pods that were made from it have been resized meanwhile.
fn amounts_that_come_back() -> Vec<Step> {
    let amounts = |cpu: &str| json!({"requests": {"cpu": cpu, "memory": "64Mi"}});
    let limited = json!({"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"cpu": "1"}});
    of("pod.resources", [amounts("60m"), amounts("50m"), limited, Value::Null])
}

#[test]
fn what_is_taken_away_in_part_and_what_comes_back_is_so_in_the_end() {
    Runtime::new().unwrap().block_on(async {
        let mut plane = ControlPlane::start().await;
        let walks =
            [("parts that go", true, parts_that_go()), ("amounts that come back", false, amounts_that_come_back())];
        let walks = walks.map(|(name, in_zones, steps)| {
            let count = steps.len();
            let plane = &plane;
            async move {
                Ok::<_, String>((
                    count,
                    walk(plane, Walk::along(name, Kind::new("Isolated", "Leader", in_zones), steps), count).await?,
                ))
            }
        });
        let walked = try_join_all(walks).await.unwrap_or_else(|why| panic!("{why}"));
        for (steps, counts) in walked {
            assert_eq!(counts.taken, steps);
        }
        plane.must_live();
    });
}

#[test]
fn an_operator_that_begins_anew_writes_nothing() {
    Runtime::new().unwrap().block_on(async {
        let mut plane = ControlPlane::start().await;
        let preference =
            json!({"weight": 1, "preference": {"matchExpressions": [{"key": "disk", "operator": "Exists"}]}});
        let much = json!({
            "pod": {
                "annotations": {"example.org/a": "1"},
                "labels": {"team": "a"},
                "nodeSelector": {"disk": "fast"},
                "tolerations": [{"key": "dedicated", "operator": "Exists"}],
                "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [preference]}},
            },
            "application": {"image": "app:2", "command": ["/app"], "env": [{"name": "COLOUR", "value": "blue"}]},
            "storage": {"layers": [{"type": "Caching"}, {"type": "Compression"}]},
        });
        let mut in_zones = much.clone();
        in_zones["zones"] = json!(["west-1a", "west-1b"]);
        let in_buckets =
            [Kind::new("Shared", "StorageNative", false).spec(), Kind::new("Namespaced", "Leader", true).spec()];
        for wish in [spec(json!({})), spec(much), spec(in_zones)].into_iter().chain(in_buckets) {
            let run = Run::start(&plane).await;
            ask(&plane, run.namespace(), Some(&wish)).await;
            run.comes_to_rest().await.unwrap_or_else(|why| panic!("{wish}: {why}"));
            let clusters: Api<BrainyCluster> = Api::namespaced(plane.client.clone(), run.namespace());
            let before = clusters.get(NAME).await.unwrap().metadata.resource_version;
            let mut written = run.begins_anew().await.unwrap_or_else(|why| panic!("{wish}: {why}"));
            // Who is to be the controller of a store says so there when it begins.
            written.retain(|write| write.what != format!("PUT bucket/{CONTROLLER_ELECTION}"));
            assert!(written.is_empty(), "{wish}: {written:?}");
            assert_eq!(clusters.get(NAME).await.unwrap().metadata.resource_version, before);
            run.ends();
        }
        plane.must_live();
    });
}
