//! Rolling, scaling, deleting.

use serde_json::json;

use super::super::*;
use super::*;

#[tokio::test]
async fn a_broken_outdated_pod_is_replaced_by_uid_and_a_healthy_one_waits() {
    let mut world = World::new(isolated());
    world.reconcile().await.unwrap();
    world.set_revision("new");
    world.add_pod(0, "old", true);
    world.add_pod(1, "old", false);
    world.add_pod(2, "new", true);
    world.watch();
    let _made = changes(&world);
    world.reconcile().await.unwrap();
    assert_eq!(changes(&world), ["DELETE /api/v1/namespaces/team/pods/demo-1"]);
    world.add_pod(1, "new", true);
    world.reconcile().await.unwrap();
    assert_eq!(changes(&world), Vec::<String>::new(), "no shard is held yet: the healthy pod stays");
    assert_eq!(world.condition("Progressing").1, "RollingOut");
}

#[tokio::test]
async fn a_pod_of_somebody_else_with_our_label_is_neither_counted_nor_deleted() {
    let mut world = World::new(isolated());
    world.reconcile().await.unwrap();
    world.set_revision("new");
    world.add_pod(7, "old", false);
    world.api.edit("/api/v1/namespaces/team/pods/demo-7", |pod| {
        pod["metadata"]["ownerReferences"][0]["uid"] = json!("another")
    });
    world.reconcile().await.unwrap();
    assert!(world.api.object("/api/v1/namespaces/team/pods/demo-7").is_some());
    assert_eq!(world.api.object(CLUSTER).unwrap()["status"]["replicas"], 0);
}

#[tokio::test]
async fn scaling_down_waits_for_the_leaving_nodes_and_scaling_up_does_not() {
    let replicas = |world: &World| world.api.object(SET).unwrap()["spec"]["replicas"].as_i64().unwrap();
    let mut world = World::new(isolated());
    world.reconcile().await.unwrap();
    world.api.edit(CLUSTER, |cluster| cluster["spec"]["replicas"] = json!(4));
    world.reconcile().await.unwrap();
    assert_eq!(replicas(&world), 4);

    // Node 3 owns a shard in the map.
    const MAP: &str = "/api/v1/namespaces/team/configmaps/demo-shard-map";
    let edit_owner = |owner: &str, revision: u64| {
        let map = json!({
            "revision": revision, "epoch": 1, "writer": "me", "cluster": "1111-2222", "nodes": [owner],
            "owners": vec![0; 256], "tokens": vec![2; 256],
        });
        world.api.edit(MAP, |object| object["data"]["shard-map.json"] = json!(map.to_string()));
    };
    edit_owner("demo-3", 50);
    world.api.edit(CLUSTER, |cluster| cluster["spec"]["replicas"] = json!(3));
    reconcile(&world.context, &world.seen, &mut world.memory).await.unwrap();
    assert_eq!(replicas(&world), 4, "it still owns shards");
    assert_eq!(world.condition("Progressing").1, "Draining");
    edit_owner("demo-0", 51);
    world.reconcile().await.unwrap();
    assert_eq!(replicas(&world), 3);
}

#[tokio::test]
async fn a_volume_that_an_earlier_cluster_has_left_gets_its_node_until_all_data_is_found() {
    let replicas = |world: &World| world.api.object(SET).unwrap()["spec"]["replicas"].as_i64().unwrap();
    let mut world = World::new(isolated());
    for ordinal in [0, 4] {
        world.add_claim(ordinal);
    }
    world.reconcile().await.unwrap();
    assert_eq!(replicas(&world), 5);
    world.reconcile().await.unwrap();
    assert_eq!(replicas(&world), 5, "nobody has said yet what it stores");
    let message = world.condition_field("Progressing", "message");
    assert!(message.contains("data-demo-4"), "{message}");

    world.api.remove(&claim_path(4));
    world.reconcile().await.unwrap();
    world.reconcile().await.unwrap();
    assert_eq!(replicas(&world), 5, "its node still runs, and may hold what was on it");
}

#[tokio::test]
async fn every_volume_goes_with_the_cluster_if_the_policy_is_delete_and_none_otherwise() {
    let mut world = World::new(isolated());
    let owners = |world: &World, ordinal| {
        let claim = world.api.object(&claim_path(ordinal)).unwrap();
        let references = claim["metadata"]["ownerReferences"].as_array().cloned().unwrap_or_default();
        references.iter().map(|owner| owner["uid"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let set_policy = |world: &World, policy: &str| {
        world.api.edit(CLUSTER, |cluster| cluster["spec"]["deletionPolicy"] = json!(policy));
    };
    // Of a node, of one that has left, and of a cluster whose name begins alike.
    let stranger = "/api/v1/namespaces/team/persistentvolumeclaims/data-demo-x-0";
    for ordinal in [0, 4] {
        world.add_claim(ordinal);
    }
    let theirs = json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "backup", "uid": "theirs"}]);
    world.api.edit(&claim_path(4), |claim| claim["metadata"]["ownerReferences"] = theirs);

    world.reconcile().await.unwrap();
    world
        .api
        .insert(stranger, &json!({"metadata": {"name": "data-demo-x-0", "labels": {"brainy.io/cluster": "demo"}}}));
    assert_eq!((owners(&world, 0), owners(&world, 4)), (vec![], vec!["theirs".to_owned()]));
    set_policy(&world, "Delete");
    world.reconcile().await.unwrap();
    let both = ["theirs".to_owned(), "1111-2222".to_owned()];
    assert_eq!((owners(&world, 0), owners(&world, 4)), (vec!["1111-2222".to_owned()], both.to_vec()));
    assert!(world.api.object(stranger).unwrap()["metadata"]["ownerReferences"].is_null());

    let _made = world.api.writes();
    world.reconcile().await.unwrap();
    assert!(!world.api.writes().iter().any(|call| call.contains("persistentvolumeclaims")), "written once");
    // Also while the rest of the spec is refused, and while all nodes stop.
    let set_pattern = |world: &World, pattern: &str| {
        world.api.edit(CLUSTER, |cluster| cluster["spec"]["coordination"] = json!({"pattern": pattern}));
    };
    for (pattern, condition) in
        [("StorageNative", ("Ready", "InvalidSpec")), ("Consensus", ("Progressing", "ChangingPattern"))]
    {
        set_pattern(&world, "Leader");
        set_policy(&world, "Delete");
        world.reconcile().await.unwrap();
        assert_eq!(owners(&world, 0), ["1111-2222"]);
        set_policy(&world, "Retain");
        set_pattern(&world, pattern);
        world.reconcile().await.unwrap();
        assert_eq!(world.condition(condition.0).1, condition.1);
        assert_eq!((owners(&world, 0), owners(&world, 4)), (vec![], vec!["theirs".to_owned()]));
    }
}

#[tokio::test]
async fn a_finalizer_holds_a_bucket_s_cluster_until_its_nodes_are_gone_and_retain_lets_it_go() {
    let mut wish = shared();
    wish.spec.deletion_policy = brainy_crds::DeletionPolicy::Delete;
    wish.metadata.finalizers = Some(vec!["example.com/theirs".into(), FINALIZER.into()]);
    wish.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
    let mut world = World::new(wish);
    let owner = world.seen.controller_owner_ref(&()).unwrap();
    world.api.insert(SET, &json!({"metadata": {"name": "demo", "namespace": "team", "ownerReferences": [owner]}}));
    world.reconcile().await.unwrap();
    assert_eq!(world.api.writes(), [format!("DELETE {SET}")]);
    // The Secret is missing: the data can't be deleted, and the cluster stays.
    world.reconcile().await.unwrap();
    assert_eq!(world.condition("Ready"), ("False".into(), "SecretNotFound".into()));
    let finalizers = |world: &World| world.api.object(CLUSTER).unwrap()["metadata"]["finalizers"].clone();
    assert_eq!(finalizers(&world), json!(["example.com/theirs", FINALIZER]));

    world.api.edit(CLUSTER, |cluster| cluster["spec"]["deletionPolicy"] = json!("Retain"));
    world.reconcile().await.unwrap();
    assert_eq!(finalizers(&world), json!(["example.com/theirs"]));
}
