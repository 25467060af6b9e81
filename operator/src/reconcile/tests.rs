//! Whole reconciles against an API server in memory.

use std::sync::Arc;

use brainy_coordination::clock::{Clock, ManualClock};
use brainy_coordination::elector::{Candidate, Term};
use brainy_crds::BrainyCluster;
use brainy_storage::documents::{DocumentVersion, Swap};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, Service, ServiceAccount};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::Resource;
use kube::runtime::watcher::Event;
use serde_json::{Value, json};

use super::build::SidecarImage;
use super::*;
use crate::context::Parts;
use crate::events::Events;
use crate::fake_api::FakeApi;
use crate::fixtures::{isolated, shared};
use crate::metrics::Metrics;

const CLUSTER: &str = "/apis/brainy.io/v1alpha1/namespaces/team/brainyclusters/demo";
const SET: &str = "/apis/apps/v1/namespaces/team/statefulsets/demo";
const SERVICE: &str = "/api/v1/namespaces/team/services/demo-nodes";

struct World {
    api: FakeApi,
    context: Context,
    memory: ClusterMemory,
    clock: ManualClock,
    seen: BrainyCluster,
}

fn term(clock: &ManualClock) -> Term {
    let mut candidate = Candidate::new(
        "me".into(),
        Duration::from_secs(15),
        Arc::new(clock.clone()),
    );
    let attempt = candidate.attempt(Some(None)).unwrap();
    candidate.answered(attempt, Ok(Swap::Applied(DocumentVersion("1".into()))));
    candidate.term().unwrap()
}

impl World {
    fn new(cluster: BrainyCluster) -> Self {
        let api = FakeApi::default();
        api.insert(CLUSTER, &cluster);
        let clock = ManualClock::default();
        let shared_clock: Arc<dyn Clock> = Arc::new(clock.clone());
        let context = Context::new(Parts {
            client: api.client(),
            clock: shared_clock,
            identity: "me".into(),
            sidecar: SidecarImage {
                image: "brainy-sidecar:1".into(),
                pull_policy: "IfNotPresent".into(),
            },
            term: term(&clock),
            events: Events::new(api.client(), "me"),
            metrics: Metrics::default(),
        });
        Self {
            api,
            context,
            memory: ClusterMemory::default(),
            clock,
            seen: cluster,
        }
    }

    async fn reconcile(&mut self) -> Result<Duration, Error> {
        reconcile(&self.context, &self.seen, &mut self.memory).await
    }

    /// Lets the watches see what the API server holds.
    fn watch(&self) {
        self.note::<StatefulSet>(SET);
        self.note::<Service>(SERVICE);
        self.note::<ServiceAccount>("/api/v1/namespaces/team/serviceaccounts/demo-node");
        self.note::<ConfigMap>("/api/v1/namespaces/team/configmaps/demo-config");
        self.note::<Role>("/apis/rbac.authorization.k8s.io/v1/namespaces/team/roles/demo-node");
        self.note::<RoleBinding>(
            "/apis/rbac.authorization.k8s.io/v1/namespaces/team/rolebindings/demo-node",
        );
        self.note::<PodDisruptionBudget>(
            "/apis/policy/v1/namespaces/team/poddisruptionbudgets/demo",
        );
    }

    fn note<K: Resource<DynamicType = ()> + serde::de::DeserializeOwned>(&self, path: &str) {
        if let Some(object) = self.api.object(path) {
            let object: K = serde_json::from_value(object).unwrap();
            self.context.seen.note(&Event::Apply(object), None);
        }
    }

    fn condition(&self, type_: &str) -> (String, String) {
        let object = self.api.object(CLUSTER).unwrap();
        let conditions = object["status"]["conditions"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let found = conditions
            .iter()
            .find(|condition| condition["type"] == type_)
            .cloned()
            .unwrap_or_default();
        let text = |field: &str| found[field].as_str().unwrap_or_default().to_owned();
        (text("status"), text("reason"))
    }

    /// What the StatefulSet controller would do: pods of a revision.
    fn add_pod(&self, ordinal: i32, revision: &str, ready: bool) {
        let set = self.api.object(SET).unwrap();
        let name = format!("demo-{ordinal}");
        let pod = json!({
            "metadata": {
                "name": name, "namespace": "team",
                "labels": {"brainy.io/cluster": "demo", "controller-revision-hash": revision},
                "ownerReferences": [{
                    "apiVersion": "apps/v1", "kind": "StatefulSet", "name": "demo",
                    "uid": set["metadata"]["uid"], "controller": true,
                }],
            },
            "spec": {"containers": [], "nodeName": "worker"},
            "status": {"conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]},
        });
        self.api
            .insert(&format!("/api/v1/namespaces/team/pods/{name}"), &pod);
    }

    fn set_revision(&self, revision: &str) {
        self.api.edit(SET, |set| {
            let generation = set["metadata"]["generation"].clone();
            set["status"] = json!({"replicas": 3, "observedGeneration": generation, "updateRevision": revision});
        });
    }
}

/// Calls that change objects of the cluster, without Events and the status.
fn changes(world: &World) -> Vec<String> {
    let told = |call: &String| call.contains("/events") || call.ends_with("/status");
    world
        .api
        .writes()
        .into_iter()
        .filter(|call| !told(call))
        .collect()
}

#[tokio::test]
async fn a_new_cluster_gets_its_objects_in_an_order_that_pods_can_start_with() {
    let mut world = World::new(isolated());
    world.reconcile().await.unwrap();
    let calls = changes(&world);
    let at = |what: &str| {
        calls
            .iter()
            .position(|call| call.ends_with(what))
            .unwrap_or_else(|| panic!("{what} in {calls:?}"))
    };
    assert_eq!(
        at("statefulsets/demo"),
        calls.len() - 1,
        "the nodes come last: {calls:?}"
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
        "poddisruptionbudgets/demo",
    ] {
        assert!(at(needed) < at("statefulsets/demo"), "{needed}");
    }
    assert_eq!(
        calls
            .iter()
            .filter(|call| *call == "POST /apis/coordination.k8s.io/v1/namespaces/team/leases")
            .count(),
        3
    );
    assert_eq!(
        world.condition("Ready"),
        ("False".into(), "NodesNotReady".into())
    );
    assert_eq!(
        world.condition("StorageReady"),
        ("True".into(), "VolumePerNode".into())
    );
}

#[tokio::test]
async fn every_object_that_is_made_belongs_to_the_cluster() {
    let mut world = World::new(isolated());
    world.reconcile().await.unwrap();
    for path in world
        .api
        .paths()
        .into_iter()
        .filter(|path| path != CLUSTER && !path.contains("/events/"))
    {
        let owner = &world.api.object(&path).unwrap()["metadata"]["ownerReferences"][0];
        assert_eq!(owner["uid"], "1111-2222", "{path} would be an orphan");
    }
}

#[tokio::test]
async fn a_second_look_writes_nothing_and_a_change_by_anybody_else_is_put_right() {
    let mut world = World::new(isolated());
    world.reconcile().await.unwrap();
    world.watch();
    let _first = changes(&world);
    world.reconcile().await.unwrap();
    assert_eq!(
        world.api.writes(),
        Vec::<String>::new(),
        "not even a status"
    );

    world.api.edit(SERVICE, |service| {
        service["spec"]["publishNotReadyAddresses"] = json!(false)
    });
    world.watch();
    world.reconcile().await.unwrap();
    assert_eq!(changes(&world), [format!("PATCH {SERVICE}")]);
    assert_eq!(
        world.api.object(SERVICE).unwrap()["spec"]["publishNotReadyAddresses"],
        json!(true)
    );
}

#[tokio::test]
async fn a_cluster_that_is_being_deleted_gets_nothing_made_although_the_watch_has_not_told_yet() {
    let mut deleting = isolated();
    deleting.metadata.deletion_timestamp =
        serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
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
async fn what_is_not_supported_is_refused_with_a_condition_and_nothing_is_made() {
    let mut wish = isolated();
    wish.spec.coordination.pattern = brainy_crds::Pattern::Consensus;
    let mut world = World::new(wish);
    world.reconcile().await.unwrap();
    assert_eq!(
        world.condition("Ready"),
        ("False".into(), "NotSupported".into())
    );
    assert_eq!(changes(&world), Vec::<String>::new());
}

#[tokio::test]
async fn a_missing_secret_is_told_and_nothing_is_made_or_deleted_until_it_is_there() {
    let mut world = World::new(shared());
    let again = world.reconcile().await.unwrap();
    assert_eq!(again, Duration::from_secs(5));
    assert_eq!(
        world.condition("StorageReady"),
        ("False".into(), "SecretNotFound".into())
    );
    assert_eq!(
        world.condition("Ready"),
        ("False".into(), "StorageNotReady".into())
    );
    let writes = world.api.writes();
    assert!(
        writes
            .iter()
            .all(|call| call.contains("/events") || call.ends_with("/status")),
        "{writes:?}"
    );
    assert_eq!(
        writes
            .iter()
            .filter(|call| call.contains("/events"))
            .count(),
        1
    );
    assert_eq!(
        world.api.object(CLUSTER).unwrap()["metadata"]["finalizers"],
        Value::Null
    );

    let secret = json!({"metadata": {"name": "s3-keys", "namespace": "team"}, "data": {"accessKeyId": "aWQ="}});
    world
        .api
        .insert("/api/v1/namespaces/team/secrets/s3-keys", &secret);
    world.reconcile().await.unwrap();
    assert_eq!(
        world.condition("StorageReady"),
        ("False".into(), "SecretKeyMissing".into())
    );
}

#[tokio::test]
async fn an_object_of_somebody_else_is_left_alone_and_named() {
    let mut world = World::new(isolated());
    let theirs = json!({"metadata": {"name": "demo-nodes", "namespace": "team"}, "spec": {"type": "ClusterIP"}});
    world.api.insert(SERVICE, &theirs);
    assert!(matches!(
        world.reconcile().await,
        Err(Error::NameTaken { .. })
    ));
    assert_eq!(world.api.object(SERVICE).unwrap()["spec"], theirs["spec"]);
    assert_eq!(
        world.condition("Ready"),
        ("False".into(), "NameTaken".into())
    );
    assert!(
        world.api.object(SET).is_none(),
        "no pod is made without its Service"
    );
}

#[tokio::test]
async fn the_remains_of_an_earlier_cluster_of_the_name_are_waited_for_and_not_told() {
    let mut world = World::new(isolated());
    let mut owner = world.seen.controller_owner_ref(&()).unwrap();
    owner.uid = "before".into();
    let meta = json!({"name": "demo-nodes", "namespace": "team", "ownerReferences": [owner]});
    world.api.insert(SERVICE, &json!({"metadata": meta}));
    assert!(matches!(
        world.reconcile().await,
        Err(Error::EarlierRemains { .. })
    ));
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
    let authority = world
        .api
        .object("/api/v1/namespaces/team/secrets/demo-ca")
        .unwrap();
    world.api.remove(SET);
    world
        .api
        .remove("/apis/coordination.k8s.io/v1/namespaces/team/leases/demo-2");
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
    assert_eq!(
        world
            .api
            .object("/api/v1/namespaces/team/secrets/demo-ca")
            .unwrap(),
        authority,
        "made once"
    );
}

#[tokio::test]
async fn a_deleted_certificate_is_made_again_by_the_same_authority() {
    const TLS: &str = "/api/v1/namespaces/team/secrets/demo-node-tls";
    let mut world = World::new(isolated());
    world.reconcile().await.unwrap();
    let first = world.api.object(TLS).unwrap();
    world.reconcile().await.unwrap();
    assert_eq!(
        world.api.object(TLS).unwrap(),
        first,
        "a good one is left alone"
    );
    world.api.remove(TLS);
    world.memory = ClusterMemory::default();
    world.reconcile().await.unwrap();
    let again = world.api.object(TLS).unwrap();
    assert_eq!(again["data"]["ca.crt"], first["data"]["ca.crt"]);
    assert_ne!(again["data"]["tls.crt"], first["data"]["tls.crt"]);
}

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
    assert_eq!(
        changes(&world),
        ["DELETE /api/v1/namespaces/team/pods/demo-1"]
    );
    world.add_pod(1, "new", true);
    world.reconcile().await.unwrap();
    assert_eq!(
        changes(&world),
        Vec::<String>::new(),
        "no shard is held yet: the healthy pod stays"
    );
    assert_eq!(world.condition("Progressing").1, "RollingOut");
}

#[tokio::test]
async fn a_pod_of_somebody_else_with_our_label_is_neither_counted_nor_deleted() {
    let mut world = World::new(isolated());
    world.reconcile().await.unwrap();
    world.set_revision("new");
    world.add_pod(7, "old", false);
    world
        .api
        .edit("/api/v1/namespaces/team/pods/demo-7", |pod| {
            pod["metadata"]["ownerReferences"][0]["uid"] = json!("another")
        });
    world.reconcile().await.unwrap();
    assert!(
        world
            .api
            .object("/api/v1/namespaces/team/pods/demo-7")
            .is_some()
    );
    assert_eq!(world.api.object(CLUSTER).unwrap()["status"]["replicas"], 0);
}

#[tokio::test]
async fn scaling_down_waits_for_the_leaving_nodes_and_scaling_up_does_not() {
    let replicas = |world: &World| {
        world.api.object(SET).unwrap()["spec"]["replicas"]
            .as_i64()
            .unwrap()
    };
    let mut world = World::new(isolated());
    world.reconcile().await.unwrap();
    world
        .api
        .edit(CLUSTER, |cluster| cluster["spec"]["replicas"] = json!(4));
    world.reconcile().await.unwrap();
    assert_eq!(replicas(&world), 4);

    // Node 3 owns a shard in the map.
    const MAP: &str = "/api/v1/namespaces/team/configmaps/demo-shard-map";
    let edit_owner = |owner: &str, revision: u64| {
        let map = json!({
            "revision": revision, "epoch": 1, "writer": "me", "cluster": "1111-2222", "nodes": [owner],
            "owners": vec![0; 256], "tokens": vec![2; 256],
        });
        world.api.edit(MAP, |object| {
            object["data"]["shard-map.json"] = json!(map.to_string())
        });
    };
    edit_owner("demo-3", 50);
    world
        .api
        .edit(CLUSTER, |cluster| cluster["spec"]["replicas"] = json!(3));
    reconcile(&world.context, &world.seen, &mut world.memory)
        .await
        .unwrap();
    assert_eq!(replicas(&world), 4, "it still owns shards");
    assert_eq!(world.condition("Progressing").1, "Draining");
    edit_owner("demo-0", 51);
    world.reconcile().await.unwrap();
    assert_eq!(replicas(&world), 3);
}

#[tokio::test]
async fn a_budget_goes_when_one_node_is_left() {
    const BUDGET: &str = "/apis/policy/v1/namespaces/team/poddisruptionbudgets/demo";
    let mut world = World::new(isolated());
    world.reconcile().await.unwrap();
    world.watch();
    assert!(world.api.object(BUDGET).is_some());
    world
        .api
        .edit(CLUSTER, |cluster| cluster["spec"]["replicas"] = json!(1));
    world.reconcile().await.unwrap();
    assert!(world.api.object(BUDGET).is_none());
}

#[tokio::test]
async fn a_finalizer_holds_a_bucket_s_cluster_until_its_nodes_are_gone_and_retain_lets_it_go() {
    let mut wish = shared();
    wish.spec.deletion_policy = brainy_crds::DeletionPolicy::Delete;
    wish.metadata.finalizers = Some(vec!["example.com/theirs".into(), FINALIZER.into()]);
    wish.metadata.deletion_timestamp =
        serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
    let mut world = World::new(wish);
    let owner = world.seen.controller_owner_ref(&()).unwrap();
    world.api.insert(
        SET,
        &json!({"metadata": {"name": "demo", "namespace": "team", "ownerReferences": [owner]}}),
    );
    world.reconcile().await.unwrap();
    assert_eq!(world.api.writes(), [format!("DELETE {SET}")]);
    // The Secret is missing: the data can't be deleted, and the cluster stays.
    world.reconcile().await.unwrap();
    assert_eq!(
        world.condition("Ready"),
        ("False".into(), "SecretNotFound".into())
    );
    let finalizers =
        |world: &World| world.api.object(CLUSTER).unwrap()["metadata"]["finalizers"].clone();
    assert_eq!(finalizers(&world), json!(["example.com/theirs", FINALIZER]));

    world.api.edit(CLUSTER, |cluster| {
        cluster["spec"]["deletionPolicy"] = json!("Retain")
    });
    world.reconcile().await.unwrap();
    assert_eq!(finalizers(&world), json!(["example.com/theirs"]));
}
