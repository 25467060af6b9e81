use std::time::Duration;

use brainy_coordination::bucket::election::{Election, Kind};
use brainy_coordination::bucket::look::GATHER;
use brainy_coordination::bucket::spec::{ClusterSpec, Pattern};
use brainy_coordination::clock::ManualClock;
use brainy_coordination::names as paths;
use brainy_coordination::session::{SessionRecord, SessionState};
use brainy_coordination::topology::Topology;
use brainy_storage::backends::memory::MemoryDocuments;
use brainy_storage::documents::Swap;
use serde_json::{Value, json};

use super::super::*;
use super::{MAP, owned, record};
use crate::fake_api::FakeApi;
use crate::fixtures::cluster;
use crate::reconcile::validate::validate;

static NO_VOLUMES: BTreeSet<i32> = BTreeSet::new();
static NOBODY: BTreeSet<NodeId> = BTreeSet::new();

/// A cluster of strategy Shared with a bucket in memory.
struct Shared {
    api: FakeApi,
    client: Client,
    bucket: Arc<dyn Documents>,
    clock: ManualClock,
    cluster: ValidatedCluster,
    memory: Memory,
    identity: &'static str,
    drained: BTreeSet<NodeId>,
}

impl Shared {
    fn new(replicas: i32) -> Self {
        let spec =
            json!({"replicas": replicas, "shards": 8, "storage": {"strategy": "Shared", "bucket": {"name": "data"}}});
        let api = FakeApi::default();
        Self {
            client: api.client(),
            api,
            bucket: Arc::new(MemoryDocuments::new()),
            clock: ManualClock::default(),
            cluster: validate(&cluster("demo", spec)).unwrap(),
            memory: Memory::default(),
            identity: "operator-a",
            drained: BTreeSet::new(),
        }
    }

    fn controller(&mut self) -> Controller<'_> {
        Controller {
            client: &self.client,
            cluster: &self.cluster,
            bucket: Some(&self.bucket),
            identity: self.identity,
            clock: &self.clock,
            volumes: &NO_VOLUMES,
            consensus_since: None,
            give_up: None,
            drained: &self.drained,
            kept: &NOBODY,
            pods: &[],
            memory: &mut self.memory,
        }
    }

    async fn look(&mut self) -> Result<Summary, Error> {
        self.controller().run().await
    }

    async fn lay_to_rest(&mut self) -> Result<(), Error> {
        let mut controller = self.controller();
        let placement = controller.policy().await;
        controller.lay_to_rest(placement).await
    }

    /// Writes a document, whatever stands there.
    async fn put(&self, name: &str, document: &impl serde::Serialize) {
        let version = self.bucket.read(name).await.unwrap().map(|found| found.version);
        let swap =
            self.bucket.swap(name, version.as_ref(), serde_json::to_vec(document).unwrap().into()).await.unwrap();
        assert!(matches!(swap, Swap::Applied(_)));
    }

    async fn renew(&self, node: &str, revision: u64, holds: &[u32]) {
        let record = SessionRecord { revision, ..record(node, holds) };
        self.put(&paths::session(&record.node), &record).await;
    }

    async fn document<T: serde::de::DeserializeOwned>(&self, name: &str) -> Option<T> {
        self.bucket.read(name).await.unwrap().map(|found| serde_json::from_slice(&found.body).unwrap())
    }

    async fn map(&self) -> ShardMap {
        self.document(paths::SHARD_MAP).await.unwrap()
    }

    fn copy(&self) -> ShardMap {
        let object = self.api.object(MAP).unwrap();
        serde_json::from_str(object["data"]["shard-map.json"].as_str().unwrap()).unwrap()
    }
}

#[tokio::test]
async fn the_bucket_s_map_and_its_copy_agree_and_the_nodes_share_the_shards() {
    let mut shared = Shared::new(2);
    shared.renew("demo-0", 1, &[]).await;
    shared.renew("demo-1", 1, &[]).await;
    let summary = shared.look().await.unwrap();
    let map = shared.map().await;
    assert_eq!(map, shared.copy());
    assert_eq!((owned(&map, "demo-0"), owned(&map, "demo-1")), (4, 4));
    assert_eq!((map.epoch, map.writer.as_str(), map.cluster.as_str()), (Epoch(1), "operator-a", "1111-2222"));
    assert_eq!((summary.view.assigned, summary.view.held), (8, 0));
    let topology: Topology = shared.document(paths::TOPOLOGY).await.unwrap();
    assert_eq!(
        (topology.map_revision, topology.nodes.len(), topology.nodes[0].address.as_str()),
        (map.revision, 2, "demo-0:7701")
    );
}

#[tokio::test]
async fn a_steady_cluster_is_settled_and_nothing_is_written() {
    let mut shared = Shared::new(1);
    shared.renew("demo-0", 1, &[]).await;
    shared.look().await.unwrap();
    shared.renew("demo-0", 2, &[0, 1, 2, 3, 4, 5, 6, 7]).await;
    shared.look().await.unwrap();
    let _earlier = shared.api.writes();
    let version = shared.bucket.read(paths::TOPOLOGY).await.unwrap();
    let summary = shared.look().await.unwrap();
    assert!(summary.is_settled(), "{summary:?}");
    assert_eq!(shared.api.writes(), Vec::<String>::new());
    assert_eq!(shared.bucket.read(paths::TOPOLOGY).await.unwrap(), version);
}

#[tokio::test]
async fn the_first_placement_waits_for_all_nodes_for_a_while_and_not_for_ever() {
    let mut shared = Shared::new(3);
    assert!(shared.look().await.unwrap().map.is_none(), "no node is live");
    shared.renew("demo-0", 1, &[]).await;
    assert!(shared.look().await.unwrap().map.is_none());
    shared.clock.advance(GATHER);
    assert!(shared.look().await.unwrap().map.is_some());
    assert_eq!(owned(&shared.map().await, "demo-0"), 8);
}

#[tokio::test]
async fn a_lapsed_session_is_ended_before_its_shards_go_elsewhere() {
    let mut shared = Shared::new(2);
    shared.renew("demo-0", 1, &[]).await;
    shared.renew("demo-1", 1, &[]).await;
    shared.look().await.unwrap();
    shared.clock.advance(Duration::from_secs(33));
    shared.renew("demo-0", 2, &[]).await;
    shared.look().await.unwrap();
    let lapsed: SessionRecord = shared.document(&paths::session(&NodeId("demo-1".into()))).await.unwrap();
    assert_eq!((lapsed.state, lapsed.revision), (SessionState::Ended, 2));
    assert_eq!(owned(&shared.map().await, "demo-0"), 8);
}

#[tokio::test]
async fn a_session_that_is_renewed_keeps_its_shards_however_old_its_expires() {
    let mut shared = Shared::new(2);
    shared.renew("demo-0", 1, &[]).await;
    shared.renew("demo-1", 1, &[]).await;
    shared.look().await.unwrap();
    let first = shared.map().await;
    for revision in 2..6 {
        shared.clock.advance(Duration::from_secs(20));
        shared.renew("demo-0", revision, &[]).await;
        shared.renew("demo-1", revision, &[]).await;
        shared.look().await.unwrap();
    }
    assert_eq!(shared.map().await, first);
}

#[tokio::test]
async fn a_new_controller_takes_a_new_epoch_and_the_old_one_writes_nothing_more() {
    let mut shared = Shared::new(1);
    shared.renew("demo-0", 1, &[]).await;
    shared.look().await.unwrap();
    let old = (std::mem::take(&mut shared.memory), shared.identity);
    shared.identity = "operator-b";
    shared.cluster.replicas = 2;
    shared.renew("demo-1", 1, &[]).await;
    shared.look().await.unwrap();
    let map = shared.map().await;
    assert_eq!((map.epoch, map.writer.as_str()), (Epoch(2), "operator-b"));
    (shared.memory, shared.identity) = old;
    shared.cluster.replicas = 1;
    assert!(matches!(shared.look().await, Err(Error::Deposed { ours: 1, theirs: 2 })));
    assert_eq!(shared.map().await, map);
}

#[tokio::test]
async fn a_session_that_can_t_be_read_changes_no_map() {
    let mut shared = Shared::new(1);
    shared.renew("demo-0", 1, &[]).await;
    shared.look().await.unwrap();
    let map = shared.map().await;
    shared.put("_cluster/sessions/demo-0.json", &json!("damaged")).await;
    shared.cluster.replicas = 2;
    assert!(matches!(shared.look().await, Err(Error::DamagedDocument { .. })));
    assert_eq!(shared.map().await, map);
}

#[tokio::test]
async fn a_lost_copy_is_made_again_and_a_copy_ahead_of_the_bucket_is_overtaken() {
    let mut shared = Shared::new(1);
    shared.renew("demo-0", 1, &[]).await;
    shared.look().await.unwrap();
    shared.api.remove(MAP);
    shared.look().await.unwrap();
    assert_eq!(shared.copy(), shared.map().await);
    let before = shared.map().await.revision;
    let ahead = ShardMap { revision: shared.copy().revision + 40, ..shared.copy() };
    shared
        .api
        .edit(MAP, |object| object["data"]["shard-map.json"] = Value::String(serde_json::to_string(&ahead).unwrap()));
    shared.look().await.unwrap();
    assert_eq!(shared.map().await.revision, before + 41);
    assert_eq!(shared.copy(), shared.map().await);
}

#[tokio::test]
async fn data_that_was_adopted_gets_a_map_of_the_new_cluster() {
    let mut shared = Shared::new(1);
    shared.renew("demo-0", 1, &[]).await;
    shared.look().await.unwrap();
    let before = shared.map().await.revision;
    shared.api.remove(MAP);
    shared.cluster.uid = "3333".into();
    shared.cluster.owner.uid = "3333".into();
    shared.look().await.unwrap();
    let map = shared.map().await;
    assert_eq!((map.cluster.as_str(), map.revision), ("3333", before + 1));
}

#[tokio::test]
async fn a_config_map_of_somebody_else_is_never_overwritten() {
    let mut shared = Shared::new(1);
    shared.renew("demo-0", 1, &[]).await;
    let theirs = json!({"metadata": {"name": "demo-shard-map", "namespace": "team"}, "data": {"mine": "yes"}});
    shared.api.insert(MAP, &theirs);
    assert!(matches!(shared.look().await, Err(Error::NameTaken { .. })));
    assert_eq!(shared.api.object(MAP).unwrap()["data"], json!({"mine": "yes"}));
}

#[tokio::test]
async fn a_leaving_node_is_empty_handed_only_after_it_has_acted_on_a_map_without_it() {
    let mut shared = Shared::new(2);
    shared.renew("demo-0", 1, &[]).await;
    shared.renew("demo-1", 1, &[]).await;
    shared.look().await.unwrap();
    let leaving = NodeId("demo-1".into());
    let first = shared.map().await.revision;
    shared.cluster.replicas = 1;
    shared.renew("demo-1", 2, &[4, 5, 6, 7]).await;
    let summary = shared.look().await.unwrap();
    assert_eq!(owned(&shared.map().await, "demo-0"), 8);
    assert!(!summary.is_empty_handed(&leaving), "it still serves");
    shared
        .put(&paths::session(&leaving), &SessionRecord { revision: 3, map_revision: first, ..record("demo-1", &[]) })
        .await;
    assert!(!shared.look().await.unwrap().is_empty_handed(&leaving), "it has not seen the new map");
    shared
        .put(
            &paths::session(&leaving),
            &SessionRecord { revision: 4, map_revision: first + 1, ..record("demo-1", &[]) },
        )
        .await;
    assert!(shared.look().await.unwrap().is_empty_handed(&leaving));
}

/// A node is elected and leads, as the nodes' elector would have it.
async fn elect(shared: &Shared, node: &str, epoch: u64) {
    let election = json!({"epoch": epoch, "holder": node, "kind": "node", "revision": epoch, "ttlSeconds": 30});
    shared.put(paths::CONTROLLER_ELECTION, &election).await;
}

async fn controller(shared: &Shared) -> Election {
    shared.document(paths::CONTROLLER_ELECTION).await.unwrap()
}

#[tokio::test]
async fn nodes_that_elect_their_controller_are_told_of_the_spec_and_left_alone() {
    let mut shared = Shared::new(2);
    shared.cluster.pattern = Pattern::StorageNative;
    shared.renew("demo-0", 1, &[]).await;
    shared.renew("demo-1", 1, &[]).await;
    let summary = shared.look().await.unwrap();
    assert!(summary.map.is_none() && !summary.is_settled());
    assert!(shared.document::<ShardMap>(paths::SHARD_MAP).await.is_none(), "that is for a node to write");
    let spec: ClusterSpec = shared.document(paths::SPEC).await.unwrap();
    assert_eq!((spec.pattern, spec.generation, spec.nodes.len()), (Pattern::StorageNative, 7, 2));
    shared.clock.advance(Duration::from_secs(60));
    shared.look().await.unwrap();
    let session: SessionRecord = shared.document(&paths::session(&NodeId("demo-0".into()))).await.unwrap();
    assert_eq!(session.state, SessionState::Live, "and to end");
}

#[tokio::test]
async fn nodes_that_place_shards_themselves_and_all_stop_are_told_to_leave_the_map_as_it_is() {
    let mut shared = Shared::new(2);
    shared.cluster.pattern = Pattern::StorageNative;
    shared.look().await.unwrap();
    shared.lay_to_rest().await.unwrap();
    let spec: ClusterSpec = shared.document(paths::SPEC).await.unwrap();
    assert_eq!((spec.pattern, spec.nodes.len()), (Pattern::StorageNative, 0));
    shared.look().await.unwrap();
    let spec: ClusterSpec = shared.document(paths::SPEC).await.unwrap();
    assert_eq!(spec.nodes.len(), 2, "awake");

    let mut by_the_operator = Shared::new(2);
    by_the_operator.lay_to_rest().await.unwrap();
    assert!(by_the_operator.document::<ClusterSpec>(paths::SPEC).await.is_none(), "it places none for those that stop");
}

#[tokio::test]
async fn the_status_of_nodes_that_elect_their_controller_is_what_the_bucket_says() {
    let mut shared = Shared::new(1);
    shared.renew("demo-0", 1, &[]).await;
    shared.look().await.unwrap();
    shared.cluster.pattern = Pattern::StorageNative;
    shared.renew("demo-0", 2, &[0, 1, 2, 3, 4, 5, 6, 7]).await;
    let waiting = shared.look().await.unwrap().waiting.unwrap();
    assert!(waiting.contains("yet to elect"), "{waiting}");
    elect(&shared, "demo-0_x", 2).await;
    let summary = shared.look().await.unwrap();
    assert!(summary.is_settled(), "{summary:?}");
    assert_eq!((summary.view.held, summary.view.total), (8, 8));
    let next = ShardMap { revision: 40, epoch: Epoch(2), ..shared.map().await };
    shared.put(paths::SHARD_MAP, &next).await;
    shared.look().await.unwrap();
    assert_eq!(shared.copy(), next, "whoever wrote it");
    shared.cluster.replicas = 2;
    shared.renew("demo-1", 1, &[]).await;
    assert!(shared.look().await.unwrap().waiting.unwrap().contains("yet to publish"));
}

#[tokio::test]
async fn a_pattern_is_changed_there_and_back_and_never_are_two_the_controller() {
    let mut shared = Shared::new(1);
    shared.renew("demo-0", 1, &[]).await;
    shared.look().await.unwrap();
    assert_eq!((controller(&shared).await.kind, shared.map().await.epoch), (Kind::Operator, Epoch(1)));

    shared.cluster.pattern = Pattern::StorageNative;
    shared.cluster.generation += 1;
    shared.look().await.unwrap();
    assert_eq!(controller(&shared).await.holder, None, "the operator has stepped down");
    elect(&shared, "demo-0_x", 2).await;
    shared.look().await.unwrap();
    assert_eq!(controller(&shared).await.holder.as_deref(), Some("demo-0_x"));

    shared.cluster.pattern = Pattern::Leader;
    shared.cluster.generation += 1;
    shared.cluster.replicas = 2;
    shared.renew("demo-1", 1, &[]).await;
    let before = shared.map().await;
    let waiting = shared.look().await.unwrap().waiting.unwrap();
    assert!(waiting.contains("demo-0_x is still the controller"), "{waiting}");
    assert_eq!(shared.map().await, before, "the operator publishes nothing while a node leads");
    let spec: ClusterSpec = shared.document(paths::SPEC).await.unwrap();
    assert_eq!(spec.pattern, Pattern::Leader, "which is what makes the node step down");
    let released = json!({"epoch": 2, "kind": "node", "revision": 3, "ttlSeconds": 30});
    shared.put(paths::CONTROLLER_ELECTION, &released).await;
    shared.look().await.unwrap();
    assert_eq!((controller(&shared).await.kind, shared.map().await.epoch), (Kind::Operator, Epoch(3)));
    assert_eq!(owned(&shared.map().await, "demo-1"), 4);
}

#[tokio::test]
async fn shards_leave_a_node_whose_machine_is_emptied_and_come_back_when_it_is_not_any_more() {
    let mut shared = Shared::new(2);
    shared.renew("demo-0", 1, &[]).await;
    shared.renew("demo-1", 1, &[]).await;
    shared.look().await.unwrap();
    shared.drained = [NodeId("demo-1".into())].into();
    let summary = shared.look().await.unwrap();
    assert_eq!((owned(&shared.map().await, "demo-0"), owned(&shared.map().await, "demo-1")), (8, 0));
    assert_eq!(summary.emptied, ["demo-1 (0 shards left)"]);
    assert!(!summary.is_settled(), "they have yet to get there");
    shared.drained.clear();
    shared.look().await.unwrap();
    assert_eq!((owned(&shared.map().await, "demo-0"), owned(&shared.map().await, "demo-1")), (4, 4));
}

#[tokio::test]
async fn nodes_that_place_shards_themselves_are_told_which_of_them_are_emptied() {
    let mut shared = Shared::new(2);
    shared.cluster.pattern = Pattern::StorageNative;
    shared.drained = [NodeId("demo-1".into())].into();
    shared.look().await.unwrap();
    let spec: brainy_coordination::bucket::spec::ClusterSpec = shared.document(paths::SPEC).await.unwrap();
    assert_eq!(spec.placement.drained, shared.drained);
    shared.drained.clear();
    shared.look().await.unwrap();
    let spec: brainy_coordination::bucket::spec::ClusterSpec = shared.document(paths::SPEC).await.unwrap();
    assert!(spec.placement.drained.is_empty());
}
