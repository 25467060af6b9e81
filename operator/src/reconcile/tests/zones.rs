//! Clusters in zones.

use serde_json::{Value, json};

use super::super::*;
use super::*;
use crate::fixtures::zoned;
use crate::plan::ANNOTATION;

const ZONES: [&str; 3] = ["west-1a", "west-1b", "west-1c"];
const MAP: &str = "/api/v1/namespaces/team/configmaps/demo-shard-map";

fn set_path(zone: &str) -> String {
    format!("/apis/apps/v1/namespaces/team/statefulsets/demo-{zone}")
}

fn pod_path(node: &str) -> String {
    format!("/api/v1/namespaces/team/pods/{node}")
}

fn replicas(world: &World) -> [i64; 3] {
    ZONES.map(|zone| world.api.object(&set_path(zone)).map_or(-1, |set| set["spec"]["replicas"].as_i64().unwrap()))
}

fn change(world: &World, spec: Value) {
    world.api.edit(CLUSTER, |cluster| {
        for (name, value) in spec.as_object().unwrap() {
            cluster["spec"][name] = value.clone();
        }
    });
}

fn owned_by(world: &World, nodes: &[&str], revision: u64) {
    let owners: Vec<usize> = (0..256).map(|shard| shard % nodes.len()).collect();
    let map = json!({
        "revision": revision, "epoch": 1, "writer": "me", "cluster": "1111-2222", "nodes": nodes,
        "owners": owners, "tokens": vec![2; 256],
    });
    world.api.edit(MAP, |object| object["data"]["shard-map.json"] = json!(map.to_string()));
}

/// A pod of a revision that is named like its zone's template.
fn add_pod(world: &World, zone: &str, ordinal: i32, revision: &str, ready: bool) {
    let set = world.api.object(&set_path(zone)).unwrap();
    let pod = json!({
        "metadata": {
            "name": format!("demo-{zone}-{ordinal}"), "namespace": "team",
            "labels": {
                "brainy.io/cluster": "demo", "brainy.io/zone": zone,
                "controller-revision-hash": format!("{zone}-{revision}"),
            },
            "ownerReferences": [{
                "apiVersion": "apps/v1", "kind": "StatefulSet", "name": format!("demo-{zone}"),
                "uid": set["metadata"]["uid"], "controller": true,
            }],
        },
        "spec": {"containers": [], "nodeName": "worker"},
        "status": {"conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]},
    });
    world.api.insert(&pod_path(&format!("demo-{zone}-{ordinal}")), &pod);
}

fn set_revision(world: &World, revision: &str) {
    for zone in ZONES {
        world.api.edit(&set_path(zone), |set| {
            let generation = set["metadata"]["generation"].clone();
            let revision = format!("{zone}-{revision}");
            set["status"] = json!({"replicas": 2, "observedGeneration": generation, "updateRevision": revision});
        });
    }
}

async fn made(cluster: BrainyCluster) -> World {
    let mut world = World::new(cluster);
    world.reconcile().await.unwrap();
    set_revision(&world, "first");
    world
}

/// A cluster of five nodes that runs.
async fn running(cluster: BrainyCluster) -> World {
    let mut world = made(cluster).await;
    for (zone, ordinal) in [("west-1a", 0), ("west-1b", 0), ("west-1c", 0), ("west-1a", 1), ("west-1b", 1)] {
        add_pod(&world, zone, ordinal, "first", true);
    }
    watch(&world);
    world.reconcile().await.unwrap();
    let _made = changes(&world);
    world
}

fn watch(world: &World) {
    world.watch();
    for zone in ZONES {
        world.note::<StatefulSet>(&set_path(zone));
    }
}

#[tokio::test]
async fn there_is_a_statefulset_for_each_zone_and_nodes_are_dealt_out_to_them() {
    let world = running(zoned()).await;
    assert_eq!(replicas(&world), [2, 2, 1]);
    assert!(world.api.object(SET).is_none(), "and none beside");
    for zone in ZONES {
        let set = world.api.object(&set_path(zone)).unwrap();
        assert_eq!(set["metadata"]["annotations"]["brainy.io/zones"], json!("west-1a,west-1b,west-1c"));
        assert_eq!(set["metadata"]["annotations"][ANNOTATION].is_string(), zone == ZONES[0]);
        assert_eq!(set["spec"]["template"]["spec"]["nodeSelector"], json!({"topology.kubernetes.io/zone": zone}));
    }
    let status = world.api.object(CLUSTER).unwrap()["status"].clone();
    assert_eq!((&status["nodes"], &status["replicas"]), (&json!("5/5"), &json!(5)));
    assert_eq!(status["nodesByZone"], json!("west-1a 2/2, west-1b 2/2, west-1c 1/1"));
}

#[tokio::test]
async fn a_second_look_writes_nothing() {
    let mut world = running(zoned()).await;
    let _status = world.api.writes();
    world.reconcile().await.unwrap();
    assert_eq!(world.api.writes(), Vec::<String>::new());
}

#[tokio::test]
async fn it_grows_in_the_zone_with_fewest_nodes_and_shrinks_in_the_one_with_most() {
    let mut world = running(zoned()).await;
    change(&world, json!({"replicas": 6}));
    world.reconcile().await.unwrap();
    let calls = changes(&world);
    let is_changed = |zone| calls.contains(&format!("PATCH {}", set_path(zone)));
    assert!(is_changed("west-1c") && !is_changed("west-1b"), "{calls:?}");
    assert_eq!(replicas(&world), [2, 2, 2]);

    // The sixth node owns shards: nobody leaves, not even a node of another zone that owns none.
    owned_by(&world, &["demo-west-1a-0", "demo-west-1c-1"], 50);
    change(&world, json!({"replicas": 4}));
    world.reconcile().await.unwrap();
    assert_eq!(replicas(&world), [2, 2, 2]);
    assert_eq!(world.condition("Progressing").1, "Draining");
    owned_by(&world, &["demo-west-1a-0"], 51);
    world.reconcile().await.unwrap();
    assert_eq!(replicas(&world), [2, 1, 1]);
}

#[tokio::test]
async fn an_operator_that_died_between_two_zones_is_followed_by_one_that_goes_on() {
    let mut world = running(zoned()).await;
    owned_by(&world, &["demo-west-1a-0"], 50);
    change(&world, json!({"replicas": 9}));
    world.api.edit(&set_path("west-1a"), |set| set["spec"]["replicas"] = json!(3));
    world.reconcile().await.unwrap();
    assert_eq!(replicas(&world), [3, 3, 3]);
    // And as if it had been scaled by hand.
    change(&world, json!({"replicas": 3}));
    world.api.edit(&set_path("west-1b"), |set| set["spec"]["replicas"] = json!(8));
    owned_by(&world, &["demo-west-1a-0", "demo-west-1b-0", "demo-west-1c-0"], 60);
    world.reconcile().await.unwrap();
    assert_eq!(replicas(&world), [1, 1, 1]);
}

#[tokio::test]
async fn a_broken_outdated_pod_is_replaced_first_in_whatever_zone() {
    let mut world = running(zoned()).await;
    set_revision(&world, "second");
    add_pod(&world, "west-1b", 1, "first", false);
    watch(&world);
    world.reconcile().await.unwrap();
    assert!(changes(&world).contains(&format!("DELETE {}", pod_path("demo-west-1b-1"))));
    // The revision of another zone's template is no newest one.
    add_pod(&world, "west-1b", 1, "second", true);
    add_pod(&world, "west-1c", 0, "first", false);
    world.reconcile().await.unwrap();
    assert!(changes(&world).contains(&format!("DELETE {}", pod_path("demo-west-1c-0"))));
    assert_eq!(world.condition("Progressing").1, "RollingOut");
}

#[tokio::test]
async fn zones_that_changed_behind_the_back_of_admission_are_refused_and_nothing_is_changed() {
    for zones in [
        json!([]),
        json!(["west-1a", "west-1b", "west-1c", "west-1d"]),
        json!(["west-1a", "west-1b"]),
        json!(["west-1b", "west-1a", "west-1c"]),
        json!(["east-1a"]),
    ] {
        let mut world = running(zoned()).await;
        change(&world, json!({"zones": zones, "replicas": 9}));
        world.reconcile().await.unwrap();
        assert_eq!(changes(&world), Vec::<String>::new(), "{zones}");
        assert_eq!(world.condition("Ready"), ("False".into(), "InvalidSpec".into()));
        let message = world.condition_field("Ready", "message");
        assert!(message.contains("was [west-1a,west-1b,west-1c]") && message.contains("Set it back"), "{message}");
        // Back again, and it goes on.
        change(&world, json!({"zones": ZONES}));
        world.reconcile().await.unwrap();
        assert_eq!(replicas(&world), [3, 3, 3]);
    }
    let mut world = World::new(isolated());
    world.reconcile().await.unwrap();
    let _made = changes(&world);
    change(&world, json!({"zones": ZONES}));
    world.reconcile().await.unwrap();
    assert_eq!(changes(&world), Vec::<String>::new());
    assert!(world.condition_field("Ready", "message").contains("was none"));
}

#[tokio::test]
async fn an_annotation_that_somebody_removed_is_put_back() {
    let mut world = running(zoned()).await;
    world.api.edit(&set_path("west-1b"), |set| set["metadata"]["annotations"] = json!({}));
    // As every ten minutes.
    world.memory = ClusterMemory::default();
    world.reconcile().await.unwrap();
    let set = world.api.object(&set_path("west-1b")).unwrap();
    assert_eq!(set["metadata"]["annotations"]["brainy.io/zones"], json!("west-1a,west-1b,west-1c"));
}

#[tokio::test]
async fn a_statefulset_of_another_cluster_that_is_named_like_a_zone_is_told_whose_it_is_and_nothing_is_made() {
    let mut world = World::new(zoned());
    let theirs = json!({"metadata": {"name": "demo-west-1b", "namespace": "team", "ownerReferences": [{
        "apiVersion": "brainy.io/v1alpha1", "kind": "BrainyCluster", "name": "demo-west-1b", "uid": "3333",
        "controller": true,
    }]}});
    world.api.insert(&set_path("west-1b"), &theirs);
    assert!(matches!(world.reconcile().await, Err(Error::NameTaken { .. })));
    assert_eq!(world.condition("Ready").1, "NameTaken");
    let message = world.condition_field("Ready", "message");
    assert!(message.contains("StatefulSet demo-west-1b exists and belongs to BrainyCluster demo-west-1b"), "{message}");
    assert_eq!(changes(&world), Vec::<String>::new());
}

#[tokio::test]
async fn volumes_of_an_earlier_cluster_are_looked_into_and_one_with_other_zones_is_refused() {
    let claim = |world: &World, node: &str| {
        let claim = json!({"metadata": {"name": format!("data-{node}"), "labels": {"brainy.io/cluster": "demo"}}});
        world.api.insert(&format!("/api/v1/namespaces/team/persistentvolumeclaims/data-{node}"), &claim);
    };
    let mut world = World::new(zoned());
    claim(&world, "demo-west-1b-2");
    world.reconcile().await.unwrap();
    assert_eq!(replicas(&world), [3, 3, 2], "as many as it takes for its node to run");
    assert!(world.condition_field("Progressing", "message").contains("data-demo-west-1b-2"));

    for (cluster, left) in [(zoned(), "demo-2"), (zoned(), "demo-east-0"), (isolated(), "demo-west-1a-0")] {
        let mut world = World::new(cluster);
        claim(&world, left);
        world.reconcile().await.unwrap();
        assert_eq!(world.condition("Ready"), ("False".into(), "InvalidSpec".into()));
        let message = world.condition_field("Ready", "message");
        assert!(message.contains(&format!("data-{left}:")) && message.contains("other zones"), "{message}");
        assert_eq!(changes(&world), Vec::<String>::new());
    }
}

#[tokio::test]
async fn a_zone_whose_statefulset_somebody_deleted_gets_it_back_and_the_nodes_group_is_the_same() {
    let mut wish = zoned();
    wish.spec.coordination.pattern = brainy_crds::Pattern::Consensus;
    let mut world = running(wish).await;
    world.api.edit(CLUSTER, |cluster| cluster["metadata"]["generation"] = json!(9));
    world.api.remove(&set_path("west-1a"));
    world.memory = ClusterMemory::default();
    world.reconcile().await.unwrap();
    assert_eq!(replicas(&world), [2, 2, 1]);
    for zone in ZONES {
        let set = world.api.object(&set_path(zone)).unwrap();
        assert_eq!(set["metadata"]["annotations"]["brainy.io/consensus-since"], json!("7"), "{zone}");
    }
    let first = world.api.object(&set_path("west-1a")).unwrap();
    assert!(first["metadata"]["annotations"][ANNOTATION].is_string());
}

#[tokio::test]
async fn another_pattern_begins_when_no_statefulset_of_the_one_before_is_left() {
    let mut wish = zoned();
    wish.spec.coordination.lease = brainy_crds::LeaseSpec { duration_seconds: 2, renew_seconds: 1 };
    let mut world = made(wish).await;
    change(
        &world,
        json!({"coordination": {"pattern": "Consensus", "lease": {"durationSeconds": 2, "renewSeconds": 1}}}),
    );
    world.reconcile().await.unwrap();
    assert_eq!(replicas(&world), [0, 0, 0]);
    // One operator has deleted one, and died.
    world.api.remove(&set_path("west-1a"));
    world.memory = ClusterMemory::default();
    world.reconcile().await.unwrap();
    assert_eq!(replicas(&world), [-1, 0, 0], "sessions may be valid still");
    world.clock.advance(Duration::from_secs(5));
    world.reconcile().await.unwrap();
    assert_eq!(replicas(&world), [-1, -1, -1]);
    world.reconcile().await.unwrap();
    assert_eq!(replicas(&world), [2, 2, 1]);
}

#[tokio::test]
async fn a_node_that_no_machine_of_its_zone_can_take_is_named_with_the_zone() {
    let mut world = running(zoned()).await;
    add_pod(&world, "west-1c", 0, "first", false);
    world.api.edit(&pod_path("demo-west-1c-0"), |pod| {
        let words = "0/3 nodes are available: 3 node(s) didn't match Pod's node affinity/selector";
        let scheduled = json!({"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": words});
        pod["status"]["conditions"] = json!([scheduled]);
    });
    world.reconcile().await.unwrap();
    assert_eq!(world.condition("Ready"), ("False".into(), "NodesNotReady".into()));
    let message = world.condition_field("Ready", "message");
    assert!(
        message.starts_with("4 of 5 nodes are ready; no machine in zone west-1c can take demo-west-1c-0: 0/3 nodes"),
        "{message}"
    );
    let status = world.api.object(CLUSTER).unwrap()["status"].clone();
    assert_eq!(status["nodesByZone"], json!("west-1a 2/2, west-1b 2/2, west-1c 0/1"));
}

#[tokio::test]
async fn it_hibernates_and_comes_back_with_every_node_that_has_data() {
    let mut world = running(zoned()).await;
    owned_by(&world, &["demo-west-1a-0", "demo-west-1b-0", "demo-west-1c-0", "demo-west-1a-1", "demo-west-1b-1"], 50);
    change(&world, json!({"replicas": 0}));
    world.reconcile().await.unwrap();
    assert_eq!(replicas(&world), [0, 0, 0]);
    for path in world.api.paths().into_iter().filter(|path| path.contains("/pods/")) {
        world.api.remove(&path);
    }
    watch(&world);
    assert_eq!(world.reconcile().await.unwrap(), LATER);
    assert_eq!(world.condition("Hibernated").0, "True");
    change(&world, json!({"replicas": 1}));
    world.reconcile().await.unwrap();
    assert_eq!(replicas(&world), [2, 2, 1]);
}

#[tokio::test]
async fn a_finalizer_holds_until_the_nodes_of_every_zone_are_gone() {
    let mut wish = shared();
    wish.spec.zones = ZONES.map(String::from).to_vec();
    wish.spec.deletion_policy = brainy_crds::DeletionPolicy::Delete;
    wish.metadata.finalizers = Some(vec![FINALIZER.into()]);
    wish.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
    let mut world = World::new(wish);
    let owner = world.seen.controller_owner_ref(&()).unwrap();
    // One of a zone that the spec has no more is the cluster's all the same.
    let sets = ["west-1b", "west-1c", "east-1a"].map(set_path);
    for path in &sets {
        let name = path.rsplit('/').next().unwrap();
        let labels = json!({"brainy.io/cluster": "demo"});
        let meta = json!({"name": name, "namespace": "team", "labels": labels, "ownerReferences": [owner]});
        world.api.insert(path, &json!({"metadata": meta}));
    }
    world.reconcile().await.unwrap();
    assert_eq!(world.api.writes(), sets.map(|path| format!("DELETE {path}")));
    assert_eq!(world.condition("Ready").1, "", "nothing else is tried before they are gone");
}

#[tokio::test]
async fn a_plan_says_which_zones_change_and_in_which_order_pods_are_replaced() {
    let mut world = running(zoned()).await;
    change(&world, json!({"rollout": {"approval": "Manual"}, "replicas": 7}));
    world.reconcile().await.unwrap();
    let plan = |world: &World| world.api.object(CLUSTER).unwrap()["status"]["plan"].clone();
    let sets = |plan: &Value| {
        let objects = plan["objects"].as_array().unwrap().iter().filter(|object| object["kind"] == "StatefulSet");
        objects.map(|object| object["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(sets(&plan(&world)), ["demo-west-1a", "demo-west-1c"]);
    let summary = plan(&world)["summary"].clone();
    assert!(summary.as_str().unwrap().starts_with("nodes: 5 to 7 (west-1a 2 to 3, west-1c 1 to 2)"), "{summary}");
    assert_eq!(replicas(&world), [2, 2, 1]);

    change(&world, json!({"replicas": 5, "pod": {"labels": {"team": "blue"}}}));
    world.reconcile().await.unwrap();
    let shown = plan(&world);
    assert_eq!(sets(&shown), ["demo-west-1a", "demo-west-1b", "demo-west-1c"]);
    let order = ["demo-west-1a-1", "demo-west-1a-0", "demo-west-1b-1", "demo-west-1b-0", "demo-west-1c-0"];
    assert_eq!(shown["restarts"], json!(order));
    assert!(shown["summary"].as_str().unwrap().contains("one at a time and zone by zone"), "{shown}");
    let teams = |world: &World| {
        let label =
            |zone| world.api.object(&set_path(zone)).unwrap()["spec"]["template"]["metadata"]["labels"]["team"].clone();
        ZONES.map(label)
    };
    assert_eq!(teams(&world), [Value::Null, Value::Null, Value::Null], "it waits");
    change(&world, json!({"rollout": {"approval": "Manual", "approvedPlan": shown["hash"]}}));
    world.reconcile().await.unwrap();
    assert_eq!(teams(&world), ["blue", "blue", "blue"]);
}
