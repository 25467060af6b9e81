//! Another image for the sidecars of pods that run.

use serde_json::{Value, json};

use super::evictions::well;
use super::rollout::{approve, keep_revision, plan, pod_path};
use super::*;

/// The sidecar of a pod runs as this container.
fn runs(world: &World, ordinal: i32, container: &str) {
    world.api.edit(&pod_path(ordinal), |pod| {
        pod["status"]["containerStatuses"] = json!([{"name": "sidecar", "containerID": container}]);
    });
}

fn sidecar(world: &World, ordinal: i32) -> Value {
    world.api.object(&pod_path(ordinal)).unwrap()["spec"]["containers"][0]["image"].clone()
}

/// A cluster that is well, and whose next template has this sidecar, but for its pods.
async fn changed() -> World {
    let mut world = well().await;
    keep_revision(&world, "new");
    for ordinal in 0..3 {
        let containers = world.api.object(SET).unwrap()["spec"]["template"]["spec"]["containers"].clone();
        world.api.edit(&pod_path(ordinal), |pod| pod["spec"]["containers"] = containers);
        runs(&world, ordinal, "c://1");
    }
    world.context.sidecar.image = "brainy-sidecar:2".into();
    world.reconcile().await.unwrap();
    assert_eq!(changes(&world).iter().filter(|call| call.contains("/pods/")).count(), 0, "nobody approved it");
    let planned = plan(&world);
    assert_eq!(planned["sidecarRestarts"], json!(["demo-2", "demo-1", "demo-0"]));
    assert_eq!((&planned["restarts"], &planned["resizes"]), (&Value::Null, &Value::Null));
    assert!(planned["summary"].as_str().unwrap().contains("the sidecars of 3 pods restart"), "{planned}");
    approve(&world, &planned["hash"]);
    world.reconcile().await.unwrap();
    settled_as(&mut world, "newer");
    world
}

/// The StatefulSet controller has seen the newest template.
fn settled_as(world: &mut World, revision: &str) {
    keep_revision(world, revision);
    world.set_revision(revision);
    world.watch();
    let _applied = changes(world);
}

#[tokio::test]
async fn another_sidecar_replaces_no_pod_and_takes_one_node_away_at_a_time() {
    let mut world = changed().await;
    for ordinal in [2, 1, 0] {
        world.reconcile().await.unwrap();
        let budget = "PATCH /apis/policy/v1/namespaces/team/poddisruptionbudgets/demo";
        let made: Vec<String> = changes(&world).into_iter().filter(|call| call != budget).collect();
        assert_eq!(made, [format!("PATCH {}", pod_path(ordinal))]);
        assert_eq!(sidecar(&world, ordinal), "brainy-sidecar:2");
        // Until the kubelet has restarted it, nobody else is.
        world.reconcile().await.unwrap();
        assert_eq!(changes(&world), Vec::<String>::new());
        assert_eq!(world.condition("Progressing"), ("True".into(), "RollingOut".into()));
        assert_eq!(world.condition("DisruptionAllowed").0, "False");
        runs(&world, ordinal, "c://2");
    }
    world.reconcile().await.unwrap();
    assert_eq!(world.condition("Progressing"), ("False".into(), "Settled".into()));
    let _budget = changes(&world);
    // The sidecar that comes back is the template that was: its pods run another by now.
    world.context.sidecar.image = "brainy-sidecar:1".into();
    world.reconcile().await.unwrap();
    approve(&world, &plan(&world)["hash"]);
    world.reconcile().await.unwrap();
    settled_as(&mut world, "new");
    world.reconcile().await.unwrap();
    assert_eq!((sidecar(&world, 2), sidecar(&world, 1)), (json!("brainy-sidecar:1"), json!("brainy-sidecar:2")));
}

#[tokio::test]
async fn a_sidecar_that_may_not_be_changed_where_it_runs_comes_with_another_pod() {
    let mut world = changed().await;
    world.api.refuse(&pod_path(2), 403);
    world.reconcile().await.unwrap();
    assert!(world.condition_field("Progressing", "message").contains("demo-2 can't be changed where it runs"));
    world.api.refuse("nothing", 403);
    let _refused = changes(&world);
    world.reconcile().await.unwrap();
    assert_eq!(changes(&world), [format!("DELETE {}", pod_path(2))]);
}
