//! The Kubernetes cluster is lost, and a BrainyCluster of it is made anew from its bucket alone, which a real S3 server has.

#![allow(clippy::unwrap_used, reason = "a test")]

mod gateway;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use brainy_coordination::bucket::adoption::Watch;
use brainy_coordination::bucket::look::Seen;
use brainy_coordination::bucket::operator::{self, Part};
use brainy_coordination::bucket::{self, election};
use brainy_coordination::clock::{Clock, ManualClock};
use brainy_coordination::controller::Rules;
use brainy_coordination::lease::{HolderSession, ShardLease, Take, Taker, may_take};
use brainy_coordination::marker::ClusterMarker;
use brainy_coordination::placement::Policy;
use brainy_coordination::session::observer::margin;
use brainy_coordination::session::{SessionRecord, SessionState};
use brainy_coordination::{FencingToken, Incarnation, NodeId, ShardId, names};
use brainy_crds::{BrainyCluster, rules};
use brainy_operator::cli::Restore;
use brainy_operator::reconcile::build::cluster_spec;
use brainy_operator::reconcile::validate::{ValidatedCluster, validate};
use brainy_operator::restore::restore;
use brainy_operator::storage::adoption::{ADOPTING, ALIVE};
use brainy_operator::storage::declaration::{self, Declaration, Sessions};
use brainy_operator::storage::{Found, Memory, Problem, Storage, Unclaimed, look, take};
use brainy_storage::documents::{Documents, Swap};
use gateway::{BUCKET, Gateway, PREFIX};
use serde_json::{Value, json};

const TTL: Duration = Duration::from_secs(30);

/// One Kubernetes cluster's operator, and what it remembers of the BrainyCluster.
struct Kubernetes {
    uid: &'static str,
    cluster: BrainyCluster,
    documents: Arc<dyn Documents>,
    clock: ManualClock,
    watch: Watch,
    storage: Memory,
    shards: operator::Memory,
}

impl Kubernetes {
    fn new(uid: &'static str, cluster: BrainyCluster, documents: &Arc<dyn Documents>, clock: &ManualClock) -> Self {
        let (documents, clock) = (Arc::clone(documents), clock.clone());
        let (watch, storage, shards) = Default::default();
        Self { uid, cluster, documents, clock, watch, storage, shards }
    }

    fn validated(&self) -> ValidatedCluster {
        validate(&self.cluster).unwrap()
    }

    async fn look(&mut self) -> Found {
        let validated = self.validated();
        let me = ClusterMarker {
            uid: validated.uid.clone(),
            namespace: validated.namespace.clone(),
            name: validated.name.clone(),
            kubernetes: self.uid.to_owned(),
            shards: validated.shards,
            revision: 0,
            adopting: None,
        };
        look(&self.documents, (&me, validated.adopt.as_deref()), &mut self.watch, &self.clock).await.unwrap()
    }

    async fn free(&mut self) -> Unclaimed {
        match self.look().await {
            Found::Free(unclaimed) => unclaimed,
            other => panic!("{other:?}"),
        }
    }

    async fn refused(&mut self) -> Problem {
        match self.look().await {
            Found::Refused(problem, _) => problem,
            other => panic!("{other:?}"),
        }
    }

    async fn take(&mut self, unclaimed: Unclaimed) -> Storage {
        let wish = Declaration::of(&self.cluster, Sessions::Bucket, self.uid);
        take(unclaimed, wish, &mut self.storage, self.clock.now()).await.unwrap()
    }

    async fn declare(&mut self) {
        let wish = Declaration::of(&self.cluster, Sessions::Bucket, self.uid);
        self.storage.declare(&*self.documents, wish).await.unwrap();
    }

    /// The shard controller's look.
    async fn control(&mut self) -> Result<Seen, bucket::Error> {
        let validated = self.validated();
        let part = Part {
            documents: &*self.documents,
            spec: cluster_spec(&validated, self.uid, Policy::default(), &BTreeSet::new()),
            shards: validated.shards,
            rules: Rules::Shared,
            ttl: TTL,
            published: 0,
            clock: &self.clock,
            memory: &mut self.shards,
        };
        part.run().await
    }
}

async fn put(documents: &dyn Documents, name: &str, document: &impl serde::Serialize) {
    let version = documents.read(name).await.unwrap().map(|found| found.version);
    let swap = documents.swap(name, version.as_ref(), serde_json::to_vec(document).unwrap().into()).await.unwrap();
    assert!(matches!(swap, Swap::Applied(_)));
}

async fn get<T: serde::de::DeserializeOwned>(documents: &dyn Documents, name: &str) -> T {
    serde_json::from_slice(&documents.read(name).await.unwrap().unwrap().body).unwrap()
}

fn life(pod: &str) -> Incarnation {
    Incarnation { pod_uid: pod.into(), start: 1, nonce: pod.into() }
}

/// A node says that it lives.
async fn renew(documents: &dyn Documents, node: &str, pod: &str, revision: u64) {
    let record = json!({
        "node": node, "incarnation": life(pod), "state": "live", "revision": revision, "ttlSeconds": TTL.as_secs(),
        "expires": "", "address": format!("{node}:7701"), "mapRevision": 0,
    });
    let record: SessionRecord = serde_json::from_value(record).unwrap();
    put(documents, &names::session(&record.node), &record).await;
}

fn declared(endpoint: &str) -> BrainyCluster {
    let bucket = json!({"name": BUCKET, "prefix": PREFIX, "endpoint": endpoint, "credentialsSecret": "s3-keys"});
    serde_json::from_value(json!({
        "apiVersion": "brainy.io/v1alpha1", "kind": "BrainyCluster",
        "metadata": {"name": "demo", "namespace": "team", "uid": "old", "generation": 7},
        "spec": {"replicas": 2, "shards": 8, "storage": {"strategy": "Shared", "bucket": bucket}},
    }))
    .unwrap()
}

/// A cluster at work: its place, its declaration, two live nodes, a map, and a lease.
async fn at_work(gateway: &Gateway, documents: &Arc<dyn Documents>, clock: &ManualClock) -> Kubernetes {
    let mut old = Kubernetes::new("lost", declared(&gateway.endpoint), documents, clock);
    let unclaimed = old.free().await;
    assert!(matches!(old.take(unclaimed).await, Storage::Bucket(_)));
    old.declare().await;
    renew(&**documents, "demo-0", "old-0", 1).await;
    renew(&**documents, "demo-1", "old-1", 1).await;
    assert_eq!(old.control().await.unwrap().map.unwrap().nodes.len(), 2);
    let lease = ShardLease {
        shard: ShardId(3),
        owner: Some(NodeId("demo-1".into())),
        incarnation: Some(life("old-1")),
        token: FencingToken(41),
        revision: 90,
        since: String::new(),
        why: String::new(),
        origins: Vec::new(),
        surplus: Vec::new(),
    };
    put(&**documents, &names::shard_lock(ShardId(3)), &lease).await;
    old
}

/// What `restore` prints, as an API server makes it.
async fn made_anew(gateway: &Gateway) -> BrainyCluster {
    let options = Restore {
        bucket: BUCKET.into(),
        prefix: PREFIX.into(),
        endpoint: Some(gateway.endpoint.clone()),
        region: "us-east-1".into(),
        secret: None,
        credentials: Some(gateway.keys()),
        namespace: None,
    };
    let printed: Value = serde_yaml::from_str(&restore(&options).await.unwrap()).unwrap();
    assert_eq!(rules::check(&printed, None).unwrap(), []);
    let mut made: BrainyCluster = serde_json::from_value(printed).unwrap();
    made.metadata.uid = Some("new".into());
    made.metadata.generation = Some(1);
    made
}

#[tokio::test]
async fn a_lost_cluster_is_made_anew_from_its_bucket_alone_and_neither_tokens_nor_epochs_fall() {
    let gateway = Gateway::start().await;
    let (documents, clock) = (gateway.documents().await, ManualClock::default());
    let mut old = at_work(&gateway, &documents, &clock).await;
    let map_before = old.control().await.unwrap().map.unwrap();
    let epoch_before = election::find(&*documents).await.unwrap().unwrap().epoch;

    let made = made_anew(&gateway).await;
    assert_eq!(made.spec, old.cluster.spec);
    let mut new = Kubernetes::new("new", made, &documents, &clock);
    assert_eq!(new.refused().await.reason, ADOPTING);
    clock.advance(TTL);
    renew(&*documents, "demo-1", "old-1", 2).await;
    let alive = new.refused().await;
    assert_eq!(alive.reason, ALIVE, "{}", alive.message);
    assert!(alive.message.contains("team/demo (UID old)") && alive.message.contains("demo-1"), "{}", alive.message);
    assert!(matches!(old.look().await, Found::Ours), "nothing was taken from it");

    clock.advance(TTL + margin(TTL));
    let unclaimed = new.free().await;
    assert!(matches!(new.take(unclaimed).await, Storage::Failed { .. }), "nothing is begun yet");
    assert_eq!(old.refused().await.reason, "BucketInUse", "from here on it is the new one's");
    let unclaimed = new.free().await;
    assert_eq!(unclaimed.adopted().as_deref(), Some("old"));
    assert!(matches!(new.take(unclaimed).await, Storage::Failed { .. }), "the sessions before are ended first");
    for node in ["demo-0", "demo-1"] {
        let record: SessionRecord = get(&*documents, &names::session(&NodeId(node.into()))).await;
        assert_eq!(record.state, SessionState::Ended);
    }
    let unclaimed = new.free().await;
    assert!(matches!(new.take(unclaimed).await, Storage::Bucket(_)));
    assert!(matches!(new.look().await, Found::Ours));
    let declaration = declaration::find(&*documents).await.unwrap().unwrap();
    assert_eq!((declaration.uid.as_str(), declaration.revision), ("new", 2));

    renew(&*documents, "demo-0", "new-0", 3).await;
    renew(&*documents, "demo-1", "new-1", 4).await;
    let map = new.control().await.unwrap().map.unwrap();
    assert_eq!(map.cluster, "new");
    assert!(map.epoch > map_before.epoch && map.epoch > epoch_before, "{map:?}");
    assert!(map.revision > map_before.revision);
    assert_eq!(map.owners, map_before.owners, "no shard moves for it");
    let lease: ShardLease = get(&*documents, &names::shard_lock(ShardId(3))).await;
    let record: SessionRecord = get(&*documents, &names::session(&NodeId("demo-1".into()))).await;
    let (node, incarnation) = (NodeId("demo-0".into()), life("new-0"));
    let taker = Taker { node: &node, incarnation: &incarnation, now: "" };
    let Take::Write(taken) = may_take(ShardId(3), Some(&lease), HolderSession::Found(&record), &taker) else {
        panic!("its holder's life is over")
    };
    assert_eq!(taken.token, FencingToken(42));

    // An operator of the lost cluster that has slept through all this, between its check of the bucket and its work.
    old.shards = operator::Memory::default();
    let late = old.control().await;
    assert!(matches!(late, Err(bucket::Error::NotOurs { .. })), "{late:?}");
    assert_eq!(new.control().await.unwrap().map.unwrap(), map);
}

#[tokio::test]
async fn a_node_that_begins_while_its_place_is_taken_over_keeps_everything_waiting() {
    let gateway = Gateway::start().await;
    let (documents, clock) = (gateway.documents().await, ManualClock::default());
    let _old = at_work(&gateway, &documents, &clock).await;
    let mut new = Kubernetes::new("new", made_anew(&gateway).await, &documents, &clock);
    assert_eq!(new.refused().await.reason, ADOPTING);
    clock.advance(TTL + margin(TTL));
    let unclaimed = new.free().await;
    // Between the last look and the marker.
    renew(&*documents, "demo-0", "old-0", 2).await;
    assert!(matches!(new.take(unclaimed).await, Storage::Failed { .. }));
    assert_eq!(new.refused().await.reason, ALIVE);
    // Another operator finds the adoption as it is, and watches anew.
    let mut another = Kubernetes::new("new", new.cluster.clone(), &documents, &clock);
    assert_eq!(another.refused().await.reason, ADOPTING);
    clock.advance(TTL + margin(TTL));
    let unclaimed = another.free().await;
    assert!(matches!(another.take(unclaimed).await, Storage::Failed { .. }));
    let unclaimed = another.free().await;
    assert!(matches!(another.take(unclaimed).await, Storage::Bucket(_)));
}

#[tokio::test]
async fn a_place_that_nobody_had_is_no_cluster_to_restore() {
    let gateway = Gateway::start().await;
    let options = Restore {
        bucket: BUCKET.into(),
        prefix: "nobody".into(),
        endpoint: Some(gateway.endpoint.clone()),
        region: "us-east-1".into(),
        secret: None,
        credentials: Some(gateway.keys()),
        namespace: None,
    };
    let why = format!("{:#}", restore(&options).await.unwrap_err());
    assert!(why.contains("prefix \"nobody\": no BrainyCluster has ever been there"), "{why}");
    let unreadable = Restore { secret: Some("no-slash".into()), ..options };
    assert!(restore(&unreadable).await.unwrap_err().to_string().contains("NAMESPACE/NAME"));
}
