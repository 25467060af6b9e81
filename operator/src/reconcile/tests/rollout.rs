//! Paused clusters, and plans.

use serde_json::{Value, json};

use super::super::*;
use super::*;
use crate::plan::ANNOTATION;

const MAP: &str = "/api/v1/namespaces/team/configmaps/demo-shard-map";
const CONFIG: &str = "/api/v1/namespaces/team/configmaps/demo-config";

/// A cluster of three nodes that runs.
async fn running() -> World {
    let mut world = World::new(isolated());
    world.reconcile().await.unwrap();
    world.set_revision("first");
    for ordinal in 0..3 {
        world.add_pod(ordinal, "first", true);
        world.add_claim(ordinal);
        world.api.edit(&claim_path(ordinal), |claim| {
            claim["spec"] = json!({"resources": {"requests": {"storage": "1Gi"}}});
        });
    }
    world.watch();
    world.reconcile().await.unwrap();
    let _made = changes(&world);
    world
}

fn change(world: &World, spec: Value) {
    world.api.edit(CLUSTER, |cluster| {
        for (name, value) in spec.as_object().unwrap() {
            cluster["spec"][name] = value.clone();
        }
    });
}

fn replicas(world: &World) -> i64 {
    world.api.object(SET).unwrap()["spec"]["replicas"].as_i64().unwrap()
}

fn label(world: &World) -> Value {
    world.api.object(SET).unwrap()["spec"]["template"]["metadata"]["labels"]["team"].clone()
}

fn image(world: &World) -> Value {
    world.api.object(SET).unwrap()["spec"]["template"]["spec"]["containers"][0]["image"].clone()
}

fn size(world: &World) -> Value {
    world.api.object(&claim_path(0)).unwrap()["spec"]["resources"]["requests"]["storage"].clone()
}

pub(super) fn plan(world: &World) -> Value {
    world.api.object(CLUSTER).unwrap()["status"]["plan"].clone()
}

pub(super) fn approve(world: &World, hash: &Value) {
    let approval = world.api.object(CLUSTER).unwrap()["spec"]["rollout"]["approval"].clone();
    change(world, json!({"rollout": {"approval": approval, "approvedPlan": hash}}));
}

/// The same cluster under an operator with another sidecar.
fn upgrade(world: &mut World, image: &str) {
    let fresh = World::new(isolated()).context;
    world.context = Context::new(Parts {
        client: world.api.client(),
        clock: Arc::new(world.clock.clone()),
        identity: "other".into(),
        sidecar: SidecarImage { image: image.into(), pull_policy: "IfNotPresent".into() },
        term: term(&world.clock),
        events: Events::new(world.api.client(), "other"),
        metrics: fresh.metrics.clone(),
    });
    world.memory = ClusterMemory::default();
    world.watch();
}

fn everything() -> Value {
    json!({
        "replicas": 4,
        "storage": {"volume": {"size": "2Gi"}},
        "pod": {"labels": {"team": "blue"}},
        "coordination": {"pattern": "Consensus"},
    })
}

#[tokio::test]
async fn a_paused_cluster_keeps_its_certificates_and_its_map_and_nothing_else_is_changed() {
    let mut world = running().await;
    world.add_pod(1, "outdated", false);
    let mut wish = everything();
    wish["paused"] = json!(true);
    change(&world, wish);
    world.api.remove("/api/v1/namespaces/team/secrets/demo-node-tls");
    world.api.remove("/apis/coordination.k8s.io/v1/namespaces/team/leases/demo-2");
    world.memory = ClusterMemory::default();
    let map = world.api.object(MAP).unwrap();
    world.reconcile().await.unwrap();
    let budget = "PATCH /apis/policy/v1/namespaces/team/poddisruptionbudgets/demo";
    assert_eq!(changes(&world), ["POST /api/v1/namespaces/team/secrets", budget], "which follows the nodes' health");
    assert_eq!(world.api.object(MAP).unwrap(), map, "the nodes of before are the wanted ones");
    assert_eq!(world.condition("Progressing"), ("False".into(), "Paused".into()));
    assert_eq!(world.condition("Ready").1, "NodesNotReady", "the status goes on");
    assert_eq!(world.api.object(CLUSTER).unwrap()["status"]["nodes"], json!("2/3"));
    // A new map is published: the controller goes on.
    world.api.remove(MAP);
    world.reconcile().await.unwrap();
    let made = changes(&world).into_iter().filter(|call| call != budget).collect::<Vec<_>>();
    assert_eq!(made, ["POST /api/v1/namespaces/team/configmaps"]);

    change(&world, json!({"paused": false, "coordination": {}}));
    world.reconcile().await.unwrap();
    assert_eq!((replicas(&world), label(&world), size(&world)), (4, json!("blue"), json!("2Gi")));
}

#[tokio::test]
async fn a_cluster_that_is_made_paused_has_nothing_yet_and_one_that_is_to_keep_its_volumes_keeps_them() {
    let mut wish = isolated();
    wish.spec.paused = true;
    let mut world = World::new(wish);
    world.reconcile().await.unwrap();
    assert!(world.api.object(SET).is_none() && world.api.object(MAP).is_none());
    assert_eq!(world.condition("Progressing"), ("False".into(), "Paused".into()));

    let mut world = running().await;
    change(&world, json!({"deletionPolicy": "Delete"}));
    world.reconcile().await.unwrap();
    let owners = |world: &World| world.api.object(&claim_path(0)).unwrap()["metadata"]["ownerReferences"].clone();
    assert_eq!(owners(&world)[0]["uid"], "1111-2222");
    change(&world, json!({"deletionPolicy": "Retain", "paused": true}));
    world.reconcile().await.unwrap();
    assert_eq!(owners(&world), json!([]), "what is deleted now must leave its data");
}

#[tokio::test]
async fn a_scale_down_that_was_begun_goes_on_without_a_pod_being_taken_while_paused() {
    let mut world = running().await;
    change(&world, json!({"replicas": 2}));
    world.reconcile().await.unwrap();
    assert_eq!(replicas(&world), 3, "no owner of a shard is known yet");
    change(&world, json!({"paused": true, "replicas": 5}));
    let accepted = || world.api.object(SET).unwrap()["metadata"]["annotations"][ANNOTATION].clone();
    let before = accepted();
    assert!(before.as_str().unwrap().contains("\"nodes\":2"), "{before}");
    world.reconcile().await.unwrap();
    assert_eq!(replicas(&world), 3);
    assert_eq!(world.api.object(CLUSTER).unwrap()["status"]["nodes"], json!("2/2"));
}

#[tokio::test]
async fn with_manual_everything_waits_for_the_hash_of_the_plan_and_is_then_done() {
    let mut world = running().await;
    change(&world, json!({"rollout": {"approval": "Manual"}}));
    world.reconcile().await.unwrap();
    assert_eq!(changes(&world), Vec::<String>::new());
    assert_eq!(world.condition("ChangesApproved"), ("True".into(), "NothingPending".into()));

    let config = world.api.object(CONFIG).unwrap();
    let mut wish = everything();
    wish["coordination"] = json!({"lease": {"durationSeconds": 40}});
    change(&world, wish);
    world.reconcile().await.unwrap();
    world.reconcile().await.unwrap();
    assert_eq!(changes(&world), Vec::<String>::new());
    assert_eq!((replicas(&world), label(&world), size(&world)), (3, Value::Null, json!("1Gi")));
    assert_eq!(world.api.object(CONFIG).unwrap(), config, "a container that restarts reads what it had");
    assert_eq!(world.condition("ChangesApproved"), ("False".into(), "PlanPending".into()));
    let shown = plan(&world);
    assert_eq!(shown["restarts"], json!(["demo-2", "demo-1", "demo-0"]));
    assert_eq!(shown["volumes"][0], json!({"claim": "data-demo-0", "from": "1Gi", "to": "2Gi"}));
    let kinds: Vec<&str> = shown["objects"].as_array().unwrap().iter().map(|o| o["kind"].as_str().unwrap()).collect();
    let claim = "PersistentVolumeClaim";
    assert_eq!(kinds, ["StatefulSet", "ConfigMap", claim, claim, claim]);
    let fields = shown["objects"][0]["fields"].to_string();
    assert!(fields.contains("spec.replicas") && fields.contains("metadata.labels.team"), "{fields}");
    let message = world.condition_field("ChangesApproved", "message");
    assert!(message.contains("kubectl patch brainycluster demo") && message.contains("nodes: 3 to 4"), "{message}");

    approve(&world, &shown["hash"]);
    world.reconcile().await.unwrap();
    assert_eq!((replicas(&world), label(&world), size(&world)), (4, json!("blue"), json!("2Gi")));
    assert_ne!(world.api.object(CONFIG).unwrap(), config);
    assert_eq!(world.condition("ChangesApproved"), ("True".into(), "PlanApproved".into()));
    assert_eq!(plan(&world)["approved"], json!(true));
    // It goes on to its end by itself, and the approval serves nothing else.
    change(&world, json!({"replicas": 5}));
    world.reconcile().await.unwrap();
    assert_eq!(replicas(&world), 4);
    assert_eq!(world.condition("ChangesApproved"), ("False".into(), "PlanPending".into()));
}

#[tokio::test]
async fn a_hash_that_no_longer_fits_is_refused_with_the_present_one_and_with_what_drifted() {
    let mut world = running().await;
    change(&world, json!({"rollout": {"approval": "Manual"}, "replicas": 4}));
    world.reconcile().await.unwrap();
    let first = plan(&world)["hash"].clone();
    change(&world, json!({"replicas": 5}));
    approve(&world, &first);
    world.reconcile().await.unwrap();
    assert_eq!(replicas(&world), 3);
    assert_eq!(world.condition("ChangesApproved"), ("False".into(), "PlanDrifted".into()));
    let (message, now) = (world.condition_field("ChangesApproved", "message"), plan(&world)["hash"].clone());
    assert!(message.contains("the number of nodes") && message.contains(now.as_str().unwrap()), "{message}");
    assert_ne!(first, now);
    // Back to what was approved: the hash fits again.
    change(&world, json!({"replicas": 4}));
    world.reconcile().await.unwrap();
    assert_eq!(replicas(&world), 4);
}

#[tokio::test]
async fn a_pattern_that_waits_is_approved_by_the_hash_that_was_shown() {
    let mut world = running().await;
    change(&world, json!({"rollout": {"approval": "Manual"}, "coordination": {"pattern": "Consensus"}}));
    world.reconcile().await.unwrap();
    assert_eq!(replicas(&world), 3);
    let shown = plan(&world)["hash"].clone();
    // As the API server would: every change of the spec has a generation of its own.
    world.api.edit(CLUSTER, |cluster| cluster["metadata"]["generation"] = json!(99));
    approve(&world, &shown);
    world.reconcile().await.unwrap();
    assert_eq!(replicas(&world), 0);
    assert_eq!(world.condition("Progressing").1, "ChangingPattern");
}

#[tokio::test]
async fn a_new_operator_restarts_nothing_until_its_plan_is_approved_and_scaling_goes_on() {
    let mut world = running().await;
    upgrade(&mut world, "brainy-sidecar:2");
    world.reconcile().await.unwrap();
    let calls = changes(&world);
    assert!(!calls.iter().any(|call| call.contains("/statefulsets/") || call.contains("/pods/")), "{calls:?}");
    assert_eq!(world.condition("ChangesApproved"), ("False".into(), "PlanPending".into()));
    assert_eq!(plan(&world)["objects"][0]["fields"], json!(["spec.template.spec.containers[sidecar].image"]));
    let message = world.condition_field("ChangesApproved", "message");
    assert!(message.contains("a new version of the operator alone"), "{message}");

    change(&world, json!({"replicas": 4}));
    world.reconcile().await.unwrap();
    assert_eq!((replicas(&world), image(&world)), (4, json!("brainy-sidecar:1")));
    approve(&world, &plan(&world)["hash"]);
    world.reconcile().await.unwrap();
    assert_eq!(image(&world), json!("brainy-sidecar:2"));
    assert_eq!(world.condition("ChangesApproved").1, "PlanApproved");
}

#[tokio::test]
async fn a_change_of_the_pods_by_the_user_takes_a_new_operator_s_along() {
    let mut world = running().await;
    upgrade(&mut world, "brainy-sidecar:2");
    change(&world, json!({"pod": {"labels": {"team": "blue"}}}));
    world.reconcile().await.unwrap();
    assert_eq!((label(&world), image(&world)), (json!("blue"), json!("brainy-sidecar:2")));
}

#[tokio::test]
async fn a_statefulset_of_an_operator_that_noted_nothing_is_adopted_and_restarted_by_none() {
    let forget = |world: &World| world.api.edit(SET, |set| set["metadata"]["annotations"] = json!({}));
    let noted = |world: &World| world.api.object(SET).unwrap()["metadata"]["annotations"][ANNOTATION].is_string();
    // The same template: nothing is to be approved.
    let mut world = running().await;
    forget(&world);
    upgrade(&mut world, "brainy-sidecar:1");
    world.reconcile().await.unwrap();
    assert!(noted(&world));
    assert_eq!(world.condition("ChangesApproved"), ("True".into(), "NothingPending".into()));
    // Another one: it waits, until the user approves it or changes the pods.
    forget(&world);
    upgrade(&mut world, "brainy-sidecar:2");
    world.reconcile().await.unwrap();
    assert!(noted(&world));
    assert_eq!(image(&world), json!("brainy-sidecar:1"));
    assert_eq!(world.condition("ChangesApproved"), ("False".into(), "PlanPending".into()));
    change(&world, json!({"pod": {"labels": {"team": "blue"}}}));
    world.reconcile().await.unwrap();
    assert_eq!((label(&world), image(&world)), (json!("blue"), json!("brainy-sidecar:2")));
}

#[tokio::test]
async fn what_waits_costs_no_write() {
    let mut world = running().await;
    upgrade(&mut world, "brainy-sidecar:2");
    world.reconcile().await.unwrap();
    let _made = world.api.writes();
    world.reconcile().await.unwrap();
    assert_eq!(world.api.writes(), Vec::<String>::new());
}

#[tokio::test]
async fn a_plan_says_how_many_shards_move_and_that_none_do_for_a_cluster_that_is_to_hibernate() {
    let mut world = running().await;
    let map = json!({
        "revision": 50, "epoch": 1, "writer": "me", "cluster": "1111-2222", "nodes": ["demo-0", "demo-1", "demo-2"],
        "owners": (0..256).map(|shard| shard % 3).collect::<Vec<u32>>(), "tokens": vec![2; 256],
    });
    world.api.edit(MAP, |object| object["data"]["shard-map.json"] = json!(map.to_string()));
    for (nodes, moved) in [(4, 64), (2, 85), (0, 0)] {
        change(&world, json!({"rollout": {"approval": "Manual"}, "replicas": nodes}));
        world.reconcile().await.unwrap();
        assert_eq!(plan(&world)["shardsMoved"], json!(moved), "to {nodes} nodes");
        assert_eq!(replicas(&world), 3);
    }
}

/// What the StatefulSet controller keeps of the newest template.
pub(super) fn keep_revision(world: &World, revision: &str) {
    let template = world.api.object(SET).unwrap()["spec"]["template"].clone();
    let kept = json!({"metadata": {"name": revision}, "revision": 1, "data": {"spec": {"template": template}}});
    world.api.insert(&format!("/apis/apps/v1/namespaces/team/controllerrevisions/{revision}"), &kept);
}

pub(super) fn pod_path(ordinal: i32) -> String {
    format!("/api/v1/namespaces/team/pods/demo-{ordinal}")
}

/// A cluster whose pods have what the template of revision `first` says.
async fn running_as_first() -> World {
    let world = running().await;
    keep_revision(&world, "first");
    for ordinal in 0..3 {
        let container = world.api.object(SET).unwrap()["spec"]["template"]["spec"]["containers"][0].clone();
        world.api.edit(&pod_path(ordinal), |pod| pod["spec"]["containers"] = json!([container]));
    }
    world
}

/// Asks for these resources, and has the StatefulSet controller give the template this revision. The pods that are touched by then.
async fn ask_for(world: &mut World, resources: Value, revision: &str) -> Vec<String> {
    change(world, json!({"pod": {"resources": resources}}));
    world.reconcile().await.unwrap();
    keep_revision(world, revision);
    world.set_revision(revision);
    world.watch();
    let _applied = changes(world);
    for _ in 0..4 {
        world.reconcile().await.unwrap();
    }
    changes(world)
}

fn resources(world: &World, ordinal: i32) -> Value {
    world.api.object(&pod_path(ordinal)).unwrap()["spec"]["containers"][0]["resources"].clone()
}

#[tokio::test]
async fn resources_that_come_back_are_given_to_pods_that_were_made_with_them_and_resized_since() {
    let mut world = running_as_first().await;
    let all = [2, 1, 0].map(|ordinal| format!("PATCH {}/resize", pod_path(ordinal)));
    let amounts = |cpu: &str| json!({"requests": {"cpu": cpu, "memory": "64Mi"}});
    let first = resources(&world, 0);
    assert_eq!(ask_for(&mut world, amounts("300m"), "second").await, all);
    // The same template is the same revision.
    assert_eq!(ask_for(&mut world, first.clone(), "first").await, all);
    assert_eq!((resources(&world, 0), resources(&world, 2)), (first.clone(), first.clone()));
    world.reconcile().await.unwrap();
    assert_eq!(changes(&world), Vec::<String>::new());

    // A limit comes where pods run, and goes only with them. The one that serves nobody need not wait for shards.
    let mut limited = first.clone();
    limited["limits"] = json!({"cpu": "2"});
    assert_eq!(ask_for(&mut world, limited, "third").await, all);
    world.api.edit(&pod_path(1), |pod| pod["status"]["conditions"] = json!([]));
    assert_eq!(ask_for(&mut world, first, "first").await, [format!("DELETE {}", pod_path(1))]);
}

#[tokio::test]
async fn a_pod_to_which_somebody_else_gave_other_resources_is_left_alone() {
    let mut world = running_as_first().await;
    for manager in [None, Some("autoscaler")] {
        world.api.edit(&pod_path(1), |pod| {
            let subresource = json!({"operation": "Update", "subresource": "resize", "fieldsV1": {}});
            pod["spec"]["containers"][0]["resources"]["requests"]["cpu"] = json!("900m");
            pod["metadata"]["managedFields"] = json!(manager.map(|manager| {
                let mut entry = subresource.clone();
                entry["manager"] = json!(manager);
                vec![entry]
            }));
        });
        world.reconcile().await.unwrap();
        assert_eq!(changes(&world), Vec::<String>::new(), "{manager:?}");
    }
}

#[tokio::test]
async fn a_change_of_resources_resizes_pods_and_one_that_is_refused_is_replaced() {
    let mut world = running_as_first().await;
    change(&world, json!({"pod": {"resources": {"requests": {"cpu": "300m", "memory": "64Mi"}}}}));
    world.reconcile().await.unwrap();
    assert_eq!(plan(&world)["resizes"], json!(["demo-2", "demo-1", "demo-0"]));
    keep_revision(&world, "second");
    world.set_revision("second");
    world.watch();
    let _applied = changes(&world);
    for ordinal in [2, 1, 0] {
        world.reconcile().await.unwrap();
        assert_eq!(changes(&world), [format!("PATCH {}/resize", pod_path(ordinal))]);
        let pod = world.api.object(&pod_path(ordinal)).unwrap();
        assert_eq!(pod["spec"]["containers"][0]["resources"]["requests"]["cpu"], json!("300m"));
    }
    world.reconcile().await.unwrap();
    assert_eq!(changes(&world), Vec::<String>::new(), "they are what the newest template says");

    // The kubelet has no room for it, ever. The pod serves nobody meanwhile, so that it need not wait for shards.
    world.api.edit(&pod_path(1), |pod| {
        let infeasible = json!({"type": "PodResizePending", "status": "True", "reason": "Infeasible"});
        pod["status"]["conditions"] = json!([{"type": "Ready", "status": "False"}, infeasible]);
    });
    world.reconcile().await.unwrap();
    assert_eq!(changes(&world), [format!("DELETE {}", pod_path(1))]);
}

#[tokio::test]
async fn a_cluster_hibernates_with_its_map_and_volumes_and_comes_back_with_every_node_that_has_data() {
    let mut world = running().await;
    let map = json!({
        "revision": 50, "epoch": 1, "writer": "me", "cluster": "1111-2222", "nodes": ["demo-0", "demo-1", "demo-2"],
        "owners": (0..256).map(|shard| shard % 3).collect::<Vec<u32>>(), "tokens": vec![2; 256],
    });
    world.api.edit(MAP, |object| object["data"]["shard-map.json"] = json!(map.to_string()));
    let before = world.api.object(MAP).unwrap();
    change(&world, json!({"replicas": 0}));
    world.reconcile().await.unwrap();
    assert_eq!(replicas(&world), 0, "all at once: nothing moves");
    assert_eq!(world.condition("Progressing"), ("True".into(), "Scaling".into()));
    for ordinal in 0..3 {
        world.api.remove(&pod_path(ordinal));
    }
    world.watch();
    assert_eq!(world.reconcile().await.unwrap(), LATER);
    for type_ in ["Hibernated", "Ready", "Progressing"] {
        assert_eq!(world.condition(type_).1, "Hibernated");
    }
    let message = world.condition_field("Hibernated", "message");
    assert!(message.contains("on 3 volumes") && message.contains("kubectl scale"), "{message}");
    assert_eq!(world.api.object(MAP).unwrap(), before);
    assert!((0..3).all(|ordinal| world.api.object(&claim_path(ordinal)).is_some()));
    let _made = world.api.writes();
    world.reconcile().await.unwrap();
    assert_eq!(world.api.writes(), Vec::<String>::new(), "it costs nothing");

    // A new operator may give a cluster that has no pods whatever template it likes.
    upgrade(&mut world, "brainy-sidecar:2");
    world.reconcile().await.unwrap();
    assert_eq!((replicas(&world), image(&world)), (0, json!("brainy-sidecar:2")));

    // Back, with fewer: the third has data that the first has to get.
    change(&world, json!({"replicas": 1}));
    world.reconcile().await.unwrap();
    assert_eq!(replicas(&world), 3);
    assert_eq!(world.condition("Hibernated").1, "Awake");
    world.reconcile().await.unwrap();
    assert_eq!(replicas(&world), 3, "nobody has taken over from it yet");
    assert_eq!(world.condition("Progressing").1, "Draining");
}

#[tokio::test]
async fn nodes_that_keep_the_map_among_them_stop_without_hearing_that_nobody_is_wanted() {
    let mut wish = isolated();
    wish.spec.coordination.pattern = brainy_crds::Pattern::Consensus;
    let mut world = World::new(wish);
    world.reconcile().await.unwrap();
    let members = |world: &World| world.api.object(CONFIG).unwrap()["data"].to_string().matches("demo-2").count();
    let before = members(&world);
    assert!(before > 0);
    change(&world, json!({"replicas": 0}));
    world.reconcile().await.unwrap();
    assert_eq!((replicas(&world), members(&world)), (0, before));
}

#[tokio::test]
async fn a_cluster_that_is_made_with_no_node_has_none_and_no_map() {
    let mut wish = isolated();
    wish.spec.replicas = 0;
    let mut world = World::new(wish);
    world.reconcile().await.unwrap();
    assert_eq!(replicas(&world), 0);
    assert!(world.api.object(MAP).is_none());
    assert_eq!(world.condition("Hibernated").0, "True");
    change(&world, json!({"replicas": 2}));
    world.reconcile().await.unwrap();
    assert_eq!(replicas(&world), 2);
}
