//! Volumes that grow, do not shrink, and become full.

use serde_json::json;

use super::*;

fn claim_of(world: &World, ordinal: i32, size: &str) {
    world.add_claim(ordinal);
    let request = json!({"resources": {"requests": {"storage": size}}});
    world.api.edit(&claim_path(ordinal), |claim| claim["spec"] = request);
}

fn size(world: &World, ordinal: i32) -> String {
    let claim = world.api.object(&claim_path(ordinal)).unwrap();
    claim["spec"]["resources"]["requests"]["storage"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn volumes_grow_first_of_all_whatever_becomes_of_the_rest() {
    let mut wish = shared();
    wish.spec.coordination.pattern = brainy_crds::Pattern::Consensus;
    wish.spec.storage.volume = serde_json::from_value(json!({"size": "2Gi"})).unwrap();
    let mut world = World::new(wish);
    claim_of(&world, 0, "1Gi");
    // There is no Secret, and not even a StatefulSet.
    world.reconcile().await.unwrap();
    assert_eq!(world.condition("StorageReady").1, "SecretNotFound");
    assert_eq!(size(&world, 0), "2Gi");
    assert_eq!(changes(&world), [format!("PATCH {}", claim_path(0))], "and nothing else is done");
}

#[tokio::test]
async fn a_volume_of_an_earlier_cluster_grows_to_what_the_spec_says_today() {
    let mut world = World::new(isolated());
    claim_of(&world, 0, "500Mi");
    world.reconcile().await.unwrap();
    assert_eq!(size(&world, 0), "1Gi");
}

#[tokio::test]
async fn a_size_below_that_of_the_volumes_is_refused_and_stops_nothing() {
    let mut world = World::new(isolated());
    claim_of(&world, 0, "3Gi");
    world.reconcile().await.unwrap();
    assert_eq!(world.condition("VolumesHealthy"), ("False".into(), "VolumesNotShrunk".into()));
    assert!(world.condition_field("VolumesHealthy", "message").contains("set it to 3Gi"));
    assert_eq!(size(&world, 0), "3Gi");
    assert!(world.api.object(SET).is_some(), "the rest goes on");
}

#[tokio::test]
async fn a_full_volume_is_seen_coming_and_told_once() {
    let mut world = World::new(isolated());
    world.reconcile().await.unwrap();
    assert_eq!(world.condition("VolumesHealthy"), ("True".into(), "RoomLeft".into()));
    world.api.writes();
    let path = "/apis/coordination.k8s.io/v1/namespaces/team/leases/demo-1";
    let mut told = Vec::new();
    for (revision, used) in [(1, 900), (2, 910), (3, 100)] {
        let record = json!({
            "node": "demo-1", "incarnation": {"podUid": "p", "start": 1, "nonce": "n"}, "state": "live",
            "revision": revision, "ttlSeconds": 30, "expires": "", "address": "",
            "volume": {"usedBytes": used, "totalBytes": 1000},
        });
        world.api.edit(path, |lease| lease["metadata"]["annotations"]["brainy.io/session"] = json!(record.to_string()));
        world.reconcile().await.unwrap();
        told.push((world.condition("VolumesHealthy").1, world.condition_field("VolumesHealthy", "message")));
        let events = world.api.writes().iter().filter(|call| call.contains("/events")).count();
        assert_eq!(events, usize::from(revision != 2), "look {revision}");
    }
    assert_eq!([&told[0].0, &told[1].0, &told[2].0], ["VolumeNearlyFull", "VolumeNearlyFull", "RoomLeft"]);
    assert!(told[0].1.contains("demo-1 90 %") && told[1].1.contains("demo-1 91 %"), "{told:?}");
}
