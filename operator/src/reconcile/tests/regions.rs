//! Clusters in regions.

use super::*;
use crate::fixtures::in_regions;

fn region(world: &World) -> serde_json::Value {
    world.api.object(CLUSTER).unwrap()["status"]["region"].clone()
}

#[tokio::test]
async fn the_own_region_is_written_down_before_anything_is_done_and_stays() {
    let mut wish = in_regions();
    wish.status = None;
    let mut world = World::new(wish);
    world.reconcile().await.unwrap();
    assert_eq!(world.condition("Ready"), ("False".into(), "InvalidSpec".into()));
    let message = world.condition_field("Ready", "message");
    assert!(message.contains("no machine is known") && message.ends_with("Set it to one of eu, us"), "{message}");
    assert_eq!((region(&world), changes(&world)), (json!(null), Vec::<String>::new()));

    world.context.machines.locate("m1".into(), Some("us".into()));
    world.reconcile().await.unwrap();
    assert_eq!(region(&world), "us");
    // It goes on with that region's bucket, and its keys.
    let message = world.condition_field("StorageReady", "message");
    assert!(message.contains("keys-us") && !message.contains("keys-eu"), "{message}");

    world.context.machines.locate("m1".into(), Some("eu".into()));
    world.reconcile().await.unwrap();
    assert_eq!(region(&world), "us", "whatever the machines say later");
}

#[tokio::test]
async fn a_region_that_is_set_must_be_the_one_that_the_data_is_in() {
    let mut wish = in_regions();
    wish.spec.storage.region = Some("eu".into());
    let mut world = World::new(wish);
    world.reconcile().await.unwrap();
    let message = world.condition_field("Ready", "message");
    assert!(message.contains("leases are in region us: set it to us"), "{message}");
    world.api.edit(CLUSTER, |cluster| {
        cluster["spec"]["storage"].as_object_mut().unwrap().remove("region");
        cluster["spec"]["storage"]["regions"].as_array_mut().unwrap().pop();
    });
    world.reconcile().await.unwrap();
    let message = world.condition_field("Ready", "message");
    assert!(message.contains("us is this cluster's own region") && message.contains("put it back"), "{message}");
    assert_eq!(changes(&world), Vec::<String>::new());
}
