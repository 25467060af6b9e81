use brainy_coordination::clock::ManualClock;
use brainy_coordination::session::{HeldShard, Requests, SessionRecord};
use brainy_coordination::{FencingToken, ShardId};
use brainy_crds::BrainyCluster;
use serde_json::json;

use super::super::*;
use super::{MAP, owned, record};
use crate::fake_api::FakeApi;
use crate::fixtures::isolated;
use crate::reconcile::validate::validate;

/// Strategy Isolated: sessions in Leases.
struct Isolated {
    api: FakeApi,
    cluster: BrainyCluster,
    memory: Memory,
}

impl Isolated {
    async fn look(&mut self, identity: &str) -> Result<Summary, Error> {
        let validated = validate(&self.cluster).unwrap();
        Controller {
            client: &self.api.client(),
            cluster: &validated,
            bucket: None,
            identity,
            clock: &ManualClock::default(),
            volumes: &BTreeSet::new(),
            consensus_since: None,
            give_up: None,
            drained: &BTreeSet::new(),
            kept: &BTreeSet::new(),
            pods: &[],
            memory: &mut self.memory,
        }
        .run()
        .await
    }

    fn lease(&self, node: &str, record: &SessionRecord) {
        let owner = validate(&self.cluster).unwrap().owner;
        let lease = json!({
            "metadata": {
                "name": node,
                "namespace": "team",
                "labels": {"brainy.io/cluster": "demo"},
                "annotations": {"brainy.io/session": serde_json::to_string(record).unwrap()},
                "ownerReferences": [owner],
            },
        });
        self.api.insert(&format!("/apis/coordination.k8s.io/v1/namespaces/team/leases/{node}"), &lease);
    }

    fn map(&self) -> ShardMap {
        serde_json::from_str(self.api.object(MAP).unwrap()["data"]["shard-map.json"].as_str().unwrap()).unwrap()
    }
}

#[tokio::test]
async fn isolated_nodes_get_their_shards_through_the_config_map_alone() {
    let mut wish = isolated();
    wish.spec.replicas = 1;
    wish.spec.shards = 4;
    let mut isolated = Isolated { api: FakeApi::default(), cluster: wish, memory: Memory::default() };
    isolated.look("a").await.unwrap();
    assert_eq!(isolated.map().owners, [None; 4], "nobody gets a shard before all have said what they store");
    let say = |map: &ShardMap, token: u64, revision: u64| {
        let all: Vec<HeldShard> =
            (0..4).map(|shard| HeldShard { shard: ShardId(shard), token: FencingToken(token) }).collect();
        SessionRecord { revision, map_revision: map.revision, stored: all, ..record("demo-0", &[]) }
    };
    isolated.lease("demo-0", &SessionRecord { map_revision: 1, ..record("demo-0", &[]) });
    isolated.look("a").await.unwrap();
    assert_eq!(owned(&isolated.map(), "demo-0"), 4);
    isolated.lease("demo-0", &say(&isolated.map(), 1, 2));
    isolated.look("a").await.unwrap();
    assert!(isolated.map().tokens.iter().all(|token| *token == FencingToken(2)));
    let map = isolated.map();
    let holding = SessionRecord { holds: say(&map, 2, 3).stored, ..say(&map, 2, 3) };
    isolated.lease("demo-0", &holding);
    let summary = isolated.look("a").await.unwrap();
    assert!(summary.is_settled(), "{summary:?}");
    assert_eq!(summary.sessions.iter().collect::<Vec<_>>(), ["demo-0"]);
    let requests = Requests { drain: true, ..Requests::default() };
    isolated.lease("demo-0", &SessionRecord { revision: 4, requests, ..holding });
    let summary = isolated.look("a").await.unwrap();
    assert!(summary.is_settled() && summary.draining == ["demo-0 (4 shards left)"], "there is no other: {summary:?}");
}

#[tokio::test]
async fn nobody_is_empty_handed_while_the_owners_of_isolated_shards_are_not_known() {
    let mut wish = isolated();
    wish.spec.replicas = 1;
    let mut isolated = Isolated { api: FakeApi::default(), cluster: wish, memory: Memory::default() };
    let summary = isolated.look("a").await.unwrap();
    assert!(!summary.is_empty_handed(&NodeId("demo-1".into())));
}

#[tokio::test]
async fn a_new_writer_of_an_isolated_map_raises_the_epoch() {
    let mut wish = isolated();
    wish.spec.replicas = 1;
    wish.spec.shards = 4;
    let mut isolated = Isolated { api: FakeApi::default(), cluster: wish, memory: Memory::default() };
    isolated.look("a").await.unwrap();
    isolated.lease("demo-0", &SessionRecord { map_revision: 1, ..record("demo-0", &[]) });
    isolated.look("b").await.unwrap();
    assert_eq!((isolated.map().epoch, isolated.map().writer.as_str()), (Epoch(2), "b"));
}

#[tokio::test]
async fn a_lease_of_another_cluster_is_no_session_of_this_one() {
    let mut isolated = Isolated { api: FakeApi::default(), cluster: isolated(), memory: Memory::default() };
    isolated.lease("demo-0", &record("demo-0", &[]));
    isolated.api.edit("/apis/coordination.k8s.io/v1/namespaces/team/leases/demo-0", |lease| {
        lease["metadata"]["ownerReferences"][0]["uid"] = "another".into();
    });
    assert!(isolated.look("a").await.unwrap().sessions.is_empty());
}
