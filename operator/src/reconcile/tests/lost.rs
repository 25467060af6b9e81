//! Nodes whose data is gone.

use serde_json::Value;

use super::*;

const MAP: &str = "/api/v1/namespaces/team/configmaps/demo-shard-map";

/// Three nodes of four shards, with demo-1 gone: its claim, its pod and its session.
async fn without_demo_1() -> World {
    let mut wish = isolated();
    wish.spec.shards = 4;
    let mut world = World::new(wish);
    world.reconcile().await.unwrap();
    let map = json!({
        "revision": 50, "epoch": 1, "writer": "me", "cluster": "1111-2222", "nodes": ["demo-0", "demo-1", "demo-2"],
        "owners": [0, 1, 2, 1], "tokens": [6, 6, 6, 6],
    });
    world.api.edit(MAP, |object| object["data"]["shard-map.json"] = json!(map.to_string()));
    for (ordinal, stored) in [(0, "0@6"), (2, "2@6")] {
        world.add_claim(ordinal);
        say(&world, ordinal, 50, &[stored]);
    }
    world.reconcile().await.unwrap();
    world
}

fn say(world: &World, ordinal: i32, map_revision: u64, stored: &[&str]) {
    let node = format!("demo-{ordinal}");
    let record = json!({
        "node": node, "incarnation": {"podUid": "p", "start": 1, "nonce": "n"}, "state": "live", "revision": map_revision,
        "ttlSeconds": 30, "expires": "", "address": "", "mapRevision": map_revision, "stored": stored, "holds": stored,
    });
    let path = format!("/apis/coordination.k8s.io/v1/namespaces/team/leases/{node}");
    world.api.edit(&path, |lease| lease["metadata"]["annotations"]["brainy.io/session"] = json!(record.to_string()));
}

fn annotate(world: &World, node: &str) {
    world.api.edit(CLUSTER, |cluster| cluster["metadata"]["annotations"]["brainy.io/give-up-node"] = json!(node));
}

fn annotation(world: &World) -> Value {
    world.api.object(CLUSTER).unwrap()["metadata"]["annotations"]["brainy.io/give-up-node"].clone()
}

fn map(world: &World) -> Value {
    let text = world.api.object(MAP).unwrap()["data"]["shard-map.json"].as_str().unwrap().to_owned();
    serde_json::from_str(&text).unwrap()
}

#[tokio::test]
async fn a_claim_that_is_gone_is_told_and_nothing_is_placed_anew_by_itself() {
    let world = without_demo_1().await;
    assert_eq!(world.condition("VolumesHealthy"), ("False".into(), "VolumeMissing".into()));
    let message = world.condition_field("VolumesHealthy", "message");
    assert!(message.contains("demo-1 (2 shards)") && message.contains("brainy.io/give-up-node=demo-1"), "{message}");
    assert_eq!(map(&world)["revision"], 50);
}

#[tokio::test]
async fn a_volume_that_came_back_empty_is_told() {
    let mut world = without_demo_1().await;
    world.add_claim(1);
    say(&world, 1, 50, &[]);
    world.reconcile().await.unwrap();
    assert_eq!(world.condition("VolumesHealthy").1, "DataLost");
    assert_eq!(map(&world)["revision"], 50);
}

#[tokio::test]
async fn a_lost_node_is_given_up_once_and_recorded() {
    let mut world = without_demo_1().await;
    world.api.writes();
    annotate(&world, "demo-1");
    world.reconcile().await.unwrap();
    let next = map(&world);
    assert_eq!((&next["givenUp"], &next["tokens"]), (&json!([1, 3]), &json!([6, 8, 6, 8])));
    assert!(annotation(&world).is_null());
    assert_eq!(world.condition("VolumesHealthy").1, "NodeGivenUp");
    let paths = world.api.paths();
    let events = paths.iter().filter(|path| path.contains("/events/")).filter_map(|path| world.api.object(path));
    let told: Vec<Value> = events.filter(|event| event["reason"] == "GaveUpNode").collect();
    assert_eq!(told.len(), 1);
    assert!(told[0]["note"].as_str().unwrap().contains("001, 003"), "{}", told[0]["note"]);
}

#[tokio::test]
async fn a_node_that_is_alive_is_not_given_up() {
    let mut world = without_demo_1().await;
    world.set_revision("new");
    world.add_pod(0, "new", true);
    annotate(&world, "demo-0");
    world.reconcile().await.unwrap();
    assert_eq!(map(&world)["revision"], 50);
    assert!(annotation(&world).is_null());
}
