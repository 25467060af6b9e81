//! Evictions, and nodes that can't leave.

use serde_json::{Value, json};

use super::*;

const MAP: &str = "/api/v1/namespaces/team/configmaps/demo-shard-map";
const BUDGET: &str = "/apis/policy/v1/namespaces/team/poddisruptionbudgets/demo";
const GIB: u64 = 1 << 30;

fn say(world: &World, ordinal: i32, holds: &[&str], volume: &Value) {
    let node = format!("demo-{ordinal}");
    let revision = map(world)["revision"].clone();
    let record = json!({
        "node": node, "incarnation": {"podUid": "p", "start": 1, "nonce": "n"}, "state": "live", "revision": revision,
        "ttlSeconds": 30, "expires": "", "address": "", "mapRevision": revision, "stored": holds, "holds": holds,
        "volume": volume,
    });
    let path = format!("/apis/coordination.k8s.io/v1/namespaces/team/leases/{node}");
    world.api.edit(&path, |lease| lease["metadata"]["annotations"]["brainy.io/session"] = json!(record.to_string()));
}

/// A disk of ten GiB, so full, with four GiB of data of the node.
fn volume(used: u64) -> Value {
    json!({"usedBytes": used, "totalBytes": 10 * GIB, "dataBytes": 4 * GIB})
}

const HELD: [[&str; 2]; 3] = [["0@6", "3@6"], ["1@6", "4@6"], ["2@6", "5@6"]];

/// Three nodes with two shards each, and all is well.
pub(super) async fn well() -> World {
    let mut wish = isolated();
    wish.spec.shards = 6;
    let mut world = World::new(wish);
    world.reconcile().await.unwrap();
    world.set_revision("new");
    let map = json!({
        "revision": 50, "epoch": 1, "writer": "me", "cluster": "1111-2222", "nodes": ["demo-0", "demo-1", "demo-2"],
        "owners": [0, 1, 2, 0, 1, 2], "tokens": vec![6; 6],
    });
    world.api.edit(MAP, |object| object["data"]["shard-map.json"] = json!(map.to_string()));
    for ordinal in 0..3 {
        world.add_pod(ordinal, "new", true);
        world.add_claim(ordinal);
        world.api.edit(&claim_path(ordinal), |claim| {
            claim["spec"] = json!({"resources": {"requests": {"storage": "1Gi"}}});
        });
        say(&world, ordinal, &HELD[usize::try_from(ordinal).unwrap()], &volume(8 * GIB));
    }
    world.watch();
    world.reconcile().await.unwrap();
    world.watch();
    let _made = world.api.writes();
    world
}

fn map(world: &World) -> Value {
    let text = world.api.object(MAP).unwrap()["data"]["shard-map.json"].as_str().unwrap().to_owned();
    serde_json::from_str(&text).unwrap()
}

fn most(world: &World) -> Value {
    world.api.object(BUDGET).unwrap()["spec"]["maxUnavailable"].clone()
}

/// How many Events have this reason.
fn told(world: &World, reason: &str) -> usize {
    let events = world.api.paths().into_iter().filter(|path| path.contains("/events/"));
    events.filter(|path| world.api.object(path).unwrap()["reason"] == reason).count()
}

fn replicas(world: &World) -> Value {
    world.api.object(SET).unwrap()["spec"]["replicas"].clone()
}

fn scale(world: &World, replicas: i32) {
    world.api.edit(CLUSTER, |cluster| cluster["spec"]["replicas"] = json!(replicas));
}

#[tokio::test]
async fn the_budget_lets_one_go_while_all_is_well_and_costs_no_write_meanwhile() {
    let mut world = well().await;
    assert_eq!(most(&world), 1);
    assert_eq!(world.condition("DisruptionAllowed"), ("True".into(), "Healthy".into()));
    world.reconcile().await.unwrap();
    assert_eq!(world.api.writes(), Vec::<String>::new());
}

#[tokio::test]
async fn the_budget_lets_none_go_while_a_shard_is_held_by_nobody_and_one_again_once_it_is() {
    let mut world = well().await;
    say(&world, 2, &["2@6"], &volume(8 * GIB));
    world.reconcile().await.unwrap();
    assert_eq!(most(&world), 0, "all pods are ready, which is all that a budget knows by itself");
    assert_eq!(world.condition("DisruptionAllowed"), ("False".into(), "NotHealthy".into()));
    let message = world.condition_field("DisruptionAllowed", "message");
    assert!(message.contains("5 of 6 shards") && message.contains("--disable-eviction"), "{message}");
    world.clock.advance(disruption::PATIENCE);
    for ordinal in 0..3 {
        say(&world, ordinal, &HELD[usize::try_from(ordinal).unwrap()], &volume(GIB));
    }
    world.context.term = term(&world.clock);
    world.reconcile().await.unwrap();
    assert_eq!((most(&world), world.condition("DisruptionAllowed").0), (json!(1), "True".into()));
}

#[tokio::test]
async fn evictions_that_are_refused_for_long_are_told() {
    let mut world = well().await;
    world.add_pod(1, "new", false);
    world.reconcile().await.unwrap();
    assert_eq!((most(&world), told(&world, "EvictionsRefused")), (json!(0), 0));
    world.clock.advance(disruption::PATIENCE);
    world.context.term = term(&world.clock);
    for _ in 0..2 {
        world.reconcile().await.unwrap();
        assert_eq!(told(&world, "EvictionsRefused"), 1);
    }
}

#[tokio::test]
async fn the_budget_lets_none_go_while_pods_are_replaced() {
    let mut world = well().await;
    world.add_pod(0, "old", true);
    world.reconcile().await.unwrap();
    assert_eq!(changes(&world), ["DELETE /api/v1/namespaces/team/pods/demo-0".to_owned(), format!("PATCH {BUDGET}")]);
    assert_eq!(most(&world), 0);
    assert_eq!(world.condition("DisruptionAllowed").1, "RollingOut");
}

#[tokio::test]
async fn the_budget_of_a_paused_cluster_follows_too() {
    let mut world = well().await;
    world.api.edit(CLUSTER, |cluster| cluster["spec"]["paused"] = json!(true));
    say(&world, 2, &["2@6"], &volume(GIB));
    world.reconcile().await.unwrap();
    assert_eq!(changes(&world), [format!("PATCH {BUDGET}")], "and nothing else is changed");
    assert_eq!(most(&world), 0);
    world.watch();
    say(&world, 2, &HELD[2], &volume(GIB));
    world.reconcile().await.unwrap();
    assert_eq!(most(&world), 1, "who is paused must not block a drain for ever");
}

#[tokio::test]
async fn a_machine_that_is_cordoned_moves_no_data_of_an_isolated_cluster() {
    let mut world = well().await;
    world.api.edit("/api/v1/namespaces/team/pods/demo-2", |pod| pod["spec"]["nodeName"] = json!("cordoned"));
    world.context.machines.set("cordoned".into(), true);
    let before = map(&world);
    world.reconcile().await.unwrap();
    assert_eq!(map(&world), before);
    assert_eq!(most(&world), 1, "its pods may go, and their volumes follow or wait");
}

#[tokio::test]
async fn nodes_leave_only_if_their_data_finds_room_and_go_on_by_themselves_once_there_is_some() {
    let mut world = well().await;
    let before = map(&world);
    scale(&world, 2);
    world.reconcile().await.unwrap();
    world.reconcile().await.unwrap();
    assert_eq!(map(&world), before, "nothing has moved");
    assert_eq!(replicas(&world), 3);
    assert_eq!(world.condition("Progressing"), ("False".into(), "NoRoomToScaleDown".into()));
    let message = world.condition_field("Progressing", "message");
    for part in
        ["3 nodes can't become 2", "demo-0 has room for 1.1 GiB of 2.0 GiB", "spec.storage.volume.size", "back to 3"]
    {
        assert!(message.contains(part), "{message}");
    }
    assert_eq!(told(&world, "NoRoomToScaleDown"), 1);
    assert_eq!(most(&world), 1, "all shards are served: evictions need not wait for room");

    for ordinal in 0..3 {
        say(&world, ordinal, &HELD[usize::try_from(ordinal).unwrap()], &volume(5 * GIB));
    }
    world.reconcile().await.unwrap();
    world.reconcile().await.unwrap();
    assert_eq!(map(&world)["moves"].as_object().unwrap().len(), 2, "{}", map(&world));
    assert_eq!(world.condition("Progressing"), ("True".into(), "Draining".into()));
}

#[tokio::test]
async fn who_sets_the_nodes_back_has_lost_nothing() {
    let mut world = well().await;
    let before = map(&world);
    scale(&world, 2);
    world.reconcile().await.unwrap();
    scale(&world, 3);
    world.reconcile().await.unwrap();
    assert_eq!((map(&world), replicas(&world)), (before, json!(3)));
    assert_eq!(world.condition("Progressing"), ("False".into(), "Settled".into()));
}

#[tokio::test]
async fn an_operator_that_has_just_begun_to_lead_looks_for_room_before_anything_moves() {
    let mut world = well().await;
    let before = map(&world);
    scale(&world, 2);
    world.memory = ClusterMemory::default();
    for look in 0..3 {
        world.reconcile().await.unwrap();
        assert_eq!((map(&world), replicas(&world)), (before.clone(), json!(3)), "look {look}");
    }
    assert_eq!(world.condition("Progressing").1, "NoRoomToScaleDown");
}

#[tokio::test]
async fn volumes_of_which_nothing_is_known_hold_up_no_scale_down() {
    let mut world = well().await;
    for ordinal in 0..3 {
        let volume = json!({"usedBytes": 9 * GIB, "totalBytes": 10 * GIB});
        say(&world, ordinal, &HELD[usize::try_from(ordinal).unwrap()], &volume);
    }
    world.reconcile().await.unwrap();
    scale(&world, 2);
    world.reconcile().await.unwrap();
    assert_eq!(map(&world)["moves"].as_object().unwrap().len(), 2, "{}", map(&world));
}

#[tokio::test]
async fn a_plan_says_how_much_data_a_change_of_nodes_copies() {
    let mut world = well().await;
    world.api.edit(CLUSTER, |cluster| cluster["spec"]["rollout"] = json!({"approval": "Manual"}));
    scale(&world, 2);
    world.reconcile().await.unwrap();
    let plan = world.api.object(CLUSTER).unwrap()["status"]["plan"].clone();
    assert_eq!((&plan["shardsMoved"], &plan["bytesMoved"]), (&json!(2), &json!(4 * GIB)));
    assert_eq!(plan["summary"], "nodes: 3 to 2, 2 shards move (about 4.0 GiB are copied)");
    // Another operator does not know that much before its first look, and what was said stands.
    world.memory = ClusterMemory::default();
    world.reconcile().await.unwrap();
    assert_eq!(world.api.object(CLUSTER).unwrap()["status"]["plan"], plan);
}

#[tokio::test]
async fn a_budget_goes_when_one_node_is_left() {
    let mut world = well().await;
    for ordinal in 0..3 {
        say(&world, ordinal, &HELD[usize::try_from(ordinal).unwrap()], &volume(GIB / 2));
    }
    world.reconcile().await.unwrap();
    scale(&world, 1);
    world.reconcile().await.unwrap();
    assert!(world.api.object(BUDGET).is_some(), "three are there");
    let alone = json!({
        "revision": 90, "epoch": 1, "writer": "me", "cluster": "1111-2222", "nodes": ["demo-0"],
        "owners": vec![0; 6], "tokens": vec![7; 6],
    });
    world.api.edit(MAP, |object| object["data"]["shard-map.json"] = json!(alone.to_string()));
    say(&world, 0, &["0@7", "1@7", "2@7", "3@7", "4@7", "5@7"], &volume(GIB));
    for ordinal in [1, 2] {
        say(&world, ordinal, &[], &volume(0));
    }
    world.watch();
    world.reconcile().await.unwrap();
    assert_eq!(replicas(&world), 1);
    assert!(world.api.object(BUDGET).is_none());
}
