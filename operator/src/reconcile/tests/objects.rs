//! Which objects are made, kept, and left alone.

use serde_json::{Value, json};

use super::super::*;
use super::*;

#[tokio::test]
async fn a_new_cluster_gets_its_objects_in_an_order_that_pods_can_start_with() {
    let mut world = World::new(isolated());
    world.reconcile().await.unwrap();
    let calls = changes(&world);
    let at = |what: &str| {
        calls.iter().position(|call| call.ends_with(what)).unwrap_or_else(|| panic!("{what} in {calls:?}"))
    };
    let budget = at("poddisruptionbudgets/demo");
    assert_eq!(
        (at("statefulsets/demo"), budget),
        (calls.len() - 2, calls.len() - 1),
        "nodes, and what guards them: {calls:?}"
    );
    for needed in [
        "/secrets",
        "/leases",
        "serviceaccounts/demo-node",
        "roles/demo-node",
        "rolebindings/demo-node",
        "services/demo-nodes",
        "configmaps/demo-config",
        "/configmaps",
    ] {
        assert!(at(needed) < at("statefulsets/demo"), "{needed}");
    }
    assert_eq!(
        calls.iter().filter(|call| *call == "POST /apis/coordination.k8s.io/v1/namespaces/team/leases").count(),
        3
    );
    assert_eq!(world.condition("Ready"), ("False".into(), "NodesNotReady".into()));
    assert_eq!(world.condition("StorageReady"), ("True".into(), "VolumePerNode".into()));
}

#[tokio::test]
async fn every_object_that_is_made_belongs_to_the_cluster() {
    let mut world = World::new(isolated());
    world.reconcile().await.unwrap();
    for path in world.api.paths().into_iter().filter(|path| path != CLUSTER && !path.contains("/events/")) {
        let owner = &world.api.object(&path).unwrap()["metadata"]["ownerReferences"][0];
        assert_eq!(owner["uid"], "1111-2222", "{path} would be an orphan");
    }
}

#[tokio::test]
async fn nothing_is_made_for_a_cluster_that_is_gone_or_another_whatever_a_read_says() {
    let changes_of: [fn(&World); 3] = [
        |world| world.api.remove(CLUSTER),
        |world| {
            world.api.edit(CLUSTER, |cluster| cluster["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z"))
        },
        |world| world.api.edit(CLUSTER, |cluster| cluster["spec"]["replicas"] = json!(5)),
    ];
    for change in changes_of {
        let mut world = World::new(isolated());
        world.api.read_no_more(CLUSTER);
        change(&world);
        assert_eq!(world.reconcile().await.unwrap(), SOON);
        assert_eq!(changes(&world), Vec::<String>::new());
    }
}

#[tokio::test]
async fn what_is_written_goes_by_what_was_read() {
    let nodes = |world: &World, count: i32| world.api.edit(SET, |set| set["spec"]["replicas"] = json!(count));
    let mut world = World::new(isolated());
    world.reconcile().await.unwrap();
    nodes(&world, 2);
    world.api.read_no_more(SET);
    nodes(&world, 0);
    world.watch();
    let failed = world.reconcile().await;
    assert!(matches!(&failed, Err(Error::KubernetesApi(why)) if why.to_string().contains("Conflict")), "{failed:?}");
    assert_eq!(world.api.object(SET).unwrap()["spec"]["replicas"], json!(0));
}

#[tokio::test]
async fn what_has_changed_since_it_was_looked_at_is_looked_at_again() {
    let mut world = World::new(isolated());
    world.reconcile().await.unwrap();
    world.api.read_late(SET, 1);
    world.api.edit(SET, |set| set["spec"]["replicas"] = json!(0));
    world.watch();
    let failed = world.reconcile().await;
    assert!(matches!(failed, Err(Error::LostRace { .. })), "{failed:?}");
    assert_eq!(world.api.object(SET).unwrap()["spec"]["replicas"], json!(0));
    world.reconcile().await.unwrap();
    assert_eq!(world.api.object(SET).unwrap()["spec"]["replicas"], json!(3));
}

#[tokio::test]
async fn no_node_starts_or_stops_by_an_old_read_of_the_cluster() {
    for (read, stands) in [(3, 0), (0, 3), (3, 5)] {
        let mut world = World::new(isolated());
        world.reconcile().await.unwrap();
        world.watch();
        world.api.edit(CLUSTER, |cluster| cluster["spec"]["replicas"] = json!(read));
        world.api.read_no_more(CLUSTER);
        // Another operator has done what was asked for since.
        world.api.edit(CLUSTER, |cluster| cluster["spec"]["replicas"] = json!(stands));
        world.api.edit(SET, |nodes| nodes["spec"]["replicas"] = json!(stands));
        assert_eq!(world.reconcile().await.unwrap(), SOON);
        assert_eq!(world.api.object(SET).unwrap()["spec"]["replicas"], json!(stands));
    }
}

#[tokio::test]
async fn a_second_look_writes_nothing_and_a_change_by_anybody_else_is_put_right() {
    let mut world = World::new(isolated());
    world.reconcile().await.unwrap();
    world.watch();
    let _first = changes(&world);
    world.reconcile().await.unwrap();
    assert_eq!(world.api.writes(), Vec::<String>::new(), "not even a status");

    world.api.edit(SERVICE, |service| service["spec"]["publishNotReadyAddresses"] = json!(false));
    world.watch();
    world.reconcile().await.unwrap();
    assert_eq!(changes(&world), [format!("PATCH {SERVICE}")]);
    assert_eq!(world.api.object(SERVICE).unwrap()["spec"]["publishNotReadyAddresses"], json!(true));
}

#[tokio::test]
async fn a_cluster_that_is_being_deleted_gets_nothing_made_although_the_watch_has_not_told_yet() {
    let mut deleting = isolated();
    deleting.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
    let mut world = World::new(deleting);
    world.seen = isolated();
    world.reconcile().await.unwrap();
    assert_eq!(world.api.writes(), Vec::<String>::new());
}

#[tokio::test]
async fn a_cluster_that_was_deleted_and_made_again_is_not_given_the_old_one_s_objects() {
    let mut again = isolated();
    again.metadata.uid = Some("another".into());
    let mut world = World::new(again);
    world.seen = isolated();
    world.reconcile().await.unwrap();
    assert_eq!(world.api.writes(), Vec::<String>::new());
}

#[tokio::test]
async fn a_replica_that_no_longer_leads_writes_nothing() {
    let mut world = World::new(isolated());
    world.clock.advance(Duration::from_secs(15));
    assert!(matches!(world.reconcile().await, Err(Error::NotLeading)));
    assert_eq!(world.api.writes(), Vec::<String>::new());
}

#[tokio::test]
async fn an_invalid_spec_is_refused_with_a_condition_and_nothing_is_made() {
    let mut wish = shared();
    wish.spec.storage.volume = Some(brainy_crds::VolumeSpec::default());
    let mut world = World::new(wish);
    world.reconcile().await.unwrap();
    assert_eq!(world.condition("Ready"), ("False".into(), "InvalidSpec".into()));
    assert_eq!(changes(&world), Vec::<String>::new());
}

#[tokio::test]
async fn nodes_that_keep_the_map_among_them_are_made_before_they_can_answer() {
    let mut wish = isolated();
    wish.spec.coordination.pattern = brainy_crds::Pattern::Consensus;
    let mut world = World::new(wish);
    world.reconcile().await.unwrap();
    let set = world.api.object(SET).unwrap();
    assert_eq!(set["spec"]["replicas"], json!(3));
    assert_eq!(set["metadata"]["annotations"]["brainy.io/consensus-since"], json!("7"), "the spec's generation");
    let writes = world.api.writes();
    assert!(writes.iter().all(|call| !call.contains("/leases")), "{writes:?}");
    world.api.edit(CLUSTER, |cluster| cluster["metadata"]["generation"] = json!(8));
    world.reconcile().await.unwrap();
    let set = world.api.object(SET).unwrap();
    assert_eq!(set["metadata"]["annotations"]["brainy.io/consensus-since"], json!("7"), "the group is the same");
}

#[tokio::test]
async fn from_and_to_consensus_all_nodes_stop_and_the_map_goes_before_any_starts_again() {
    const MAP: &str = "/api/v1/namespaces/team/configmaps/demo-shard-map";
    let mut wish = isolated();
    wish.spec.coordination.lease = brainy_crds::LeaseSpec { duration_seconds: 2, renew_seconds: 1 };
    let mut world = World::new(wish);
    world.reconcile().await.unwrap();
    world.add_pod(0, "old", true);
    assert!(world.api.object(MAP).unwrap()["data"]["shard-map.json"].is_string());
    let pattern = |world: &World, pattern: &str, generation: u32| {
        world.api.edit(CLUSTER, |cluster| {
            cluster["metadata"]["generation"] = json!(generation);
            cluster["spec"]["coordination"]["pattern"] = json!(pattern);
        });
    };
    let replicas = |world: &World| Some(world.api.object(SET)?["spec"]["replicas"].as_i64().unwrap());
    pattern(&world, "Consensus", 8);
    world.reconcile().await.unwrap();
    assert_eq!(replicas(&world), Some(0));
    assert_eq!(world.condition("Progressing"), ("True".into(), "ChangingPattern".into()));
    world.reconcile().await.unwrap();
    assert_eq!(replicas(&world), Some(0), "a pod is there still");
    world.clock.advance(Duration::from_secs(5));
    world.api.remove("/api/v1/namespaces/team/pods/demo-0");
    world.reconcile().await.unwrap();
    assert_eq!(replicas(&world), Some(0), "its session may be valid still");
    assert!(world.api.object(MAP).unwrap()["data"]["shard-map.json"].is_string());
    world.clock.advance(Duration::from_secs(3));
    world.reconcile().await.unwrap();
    assert_eq!(replicas(&world), None);
    assert!(!world.api.object(MAP).unwrap()["data"]["shard-map.json"].is_string());
    world.reconcile().await.unwrap();
    assert_eq!(replicas(&world), Some(3));
    assert_eq!(world.api.object(SET).unwrap()["metadata"]["annotations"]["brainy.io/consensus-since"], json!("8"));
    // Who thinks better of it before anything is gone loses nothing but a moment.
    pattern(&world, "Leader", 9);
    world.reconcile().await.unwrap();
    assert_eq!(replicas(&world), Some(0));
    pattern(&world, "Consensus", 10);
    world.reconcile().await.unwrap();
    assert_eq!(replicas(&world), Some(3));
    assert_eq!(world.api.object(SET).unwrap()["metadata"]["annotations"]["brainy.io/consensus-since"], json!("8"));
}

#[tokio::test]
async fn a_session_that_the_same_change_shortens_is_waited_for_as_long_as_nodes_were_given_it() {
    let mut wish = isolated();
    wish.spec.coordination.lease = brainy_crds::LeaseSpec { duration_seconds: 6, renew_seconds: 2 };
    let mut world = World::new(wish);
    world.reconcile().await.unwrap();
    world.api.edit(CLUSTER, |cluster| {
        cluster["metadata"]["generation"] = json!(8);
        cluster["spec"]["coordination"] =
            json!({"pattern": "Consensus", "lease": {"durationSeconds": 2, "renewSeconds": 1}});
    });
    world.reconcile().await.unwrap();
    assert_eq!(world.api.object(SET).unwrap()["spec"]["replicas"], 0);
    for wait in [4, 1] {
        world.clock.advance(Duration::from_secs(wait));
        world.reconcile().await.unwrap();
        assert!(world.api.object(SET).is_some(), "a node that nobody can reach may go by its session still");
    }
    world.clock.advance(Duration::from_secs(3));
    world.reconcile().await.unwrap();
    assert!(world.api.object(SET).is_none());
}

#[tokio::test]
async fn a_missing_secret_is_told_and_nothing_is_made_or_deleted_until_it_is_there() {
    let mut world = World::new(shared());
    let again = world.reconcile().await.unwrap();
    assert_eq!(again, Duration::from_secs(5));
    assert_eq!(world.condition("StorageReady"), ("False".into(), "SecretNotFound".into()));
    assert_eq!(world.condition("Ready"), ("False".into(), "StorageNotReady".into()));
    let writes = world.api.writes();
    assert!(writes.iter().all(|call| call.contains("/events") || call.ends_with("/status")), "{writes:?}");
    assert_eq!(writes.iter().filter(|call| call.contains("/events")).count(), 1);
    assert_eq!(world.api.object(CLUSTER).unwrap()["metadata"]["finalizers"], Value::Null);

    let secret = json!({"metadata": {"name": "s3-keys", "namespace": "team"}, "data": {"accessKeyId": "aWQ="}});
    world.api.insert("/api/v1/namespaces/team/secrets/s3-keys", &secret);
    world.reconcile().await.unwrap();
    assert_eq!(world.condition("StorageReady"), ("False".into(), "SecretKeyMissing".into()));
}

#[tokio::test]
async fn an_object_of_somebody_else_is_left_alone_and_named() {
    let mut world = World::new(isolated());
    let theirs = json!({"metadata": {"name": "demo-nodes", "namespace": "team"}, "spec": {"type": "ClusterIP"}});
    world.api.insert(SERVICE, &theirs);
    assert!(matches!(world.reconcile().await, Err(Error::NameTaken { .. })));
    assert_eq!(world.api.object(SERVICE).unwrap()["spec"], theirs["spec"]);
    assert_eq!(world.condition("Ready"), ("False".into(), "NameTaken".into()));
    assert!(world.api.object(SET).is_none(), "no pod is made without its Service");
}

#[tokio::test]
async fn the_remains_of_an_earlier_cluster_of_the_name_are_waited_for_and_not_told() {
    let mut world = World::new(isolated());
    let mut owner = world.seen.controller_owner_ref(&()).unwrap();
    owner.uid = "before".into();
    let meta = json!({"name": "demo-nodes", "namespace": "team", "ownerReferences": [owner]});
    world.api.insert(SERVICE, &json!({"metadata": meta}));
    assert!(matches!(world.reconcile().await, Err(Error::EarlierRemains { .. })));
    assert_eq!(world.condition("Ready").0, "");
    world.api.remove(SERVICE);
    world.reconcile().await.unwrap();
    assert!(world.api.object(SET).is_some());
}

#[tokio::test]
async fn a_reconcile_that_was_killed_half_way_is_finished_by_another_operator_with_no_double() {
    let mut world = World::new(isolated());
    world.reconcile().await.unwrap();
    let whole = world.api.paths().len();
    let authority = world.api.object("/api/v1/namespaces/team/secrets/demo-ca").unwrap();
    world.api.remove(SET);
    world.api.remove("/apis/coordination.k8s.io/v1/namespaces/team/leases/demo-2");
    let (memory, context) = (ClusterMemory::default(), World::new(isolated()).context);
    world.memory = memory;
    world.context = Context::new(Parts {
        client: world.api.client(),
        clock: Arc::clone(&context.clock),
        identity: "other".into(),
        sidecar: context.sidecar.clone(),
        term: context.term.clone(),
        events: Events::new(world.api.client(), "other"),
        metrics: Metrics::default(),
    });
    world.reconcile().await.unwrap();
    assert_eq!(world.api.paths().len(), whole);
    assert_eq!(world.api.object("/api/v1/namespaces/team/secrets/demo-ca").unwrap(), authority, "made once");
}

#[tokio::test]
async fn a_deleted_certificate_is_made_again_by_the_same_authority() {
    const TLS: &str = "/api/v1/namespaces/team/secrets/demo-node-tls";
    let mut world = World::new(isolated());
    world.reconcile().await.unwrap();
    let first = world.api.object(TLS).unwrap();
    world.reconcile().await.unwrap();
    assert_eq!(world.api.object(TLS).unwrap(), first, "a good one is left alone");
    world.api.remove(TLS);
    world.memory = ClusterMemory::default();
    world.reconcile().await.unwrap();
    let again = world.api.object(TLS).unwrap();
    assert_eq!(again["data"]["ca.crt"], first["data"]["ca.crt"]);
    assert_ne!(again["data"]["tls.crt"], first["data"]["tls.crt"]);
}

#[tokio::test]
async fn a_network_policy_comes_where_it_is_asked_for_and_goes_when_it_no_longer_is() {
    const POLICY: &str = "/apis/networking.k8s.io/v1/namespaces/team/networkpolicies/demo";
    let mut world = World::new(isolated());
    world.reconcile().await.unwrap();
    assert!(world.api.object(POLICY).is_none(), "an operator that is not told so makes none");
    world.context.network_policies = Some("brainy-system".into());
    world.reconcile().await.unwrap();
    assert_eq!(world.api.object(POLICY).unwrap()["metadata"]["ownerReferences"][0]["uid"], "1111-2222");
    world.note::<k8s_openapi::api::networking::v1::NetworkPolicy>(POLICY);
    world.context.network_policies = None;
    world.reconcile().await.unwrap();
    assert!(world.api.object(POLICY).is_none());
}
