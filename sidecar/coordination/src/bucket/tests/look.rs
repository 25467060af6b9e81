use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::super::Error;
use super::super::look::{GATHER, Look, Memory, Office, Seen};
use super::*;
use crate::clock::{Clock, ManualClock};
use crate::controller::Rules;
use crate::placement::Policy;
use crate::session::{FoundSession, SharedObservers};
use crate::{Epoch, ShardMap};

/// A cluster of eight shards, and a controller of it.
struct World {
    documents: MemoryDocuments,
    clock: ManualClock,
    wanted: Vec<NodeId>,
    rules: Rules,
    volumes: BTreeSet<NodeId>,
    placement: Policy,
    cluster: &'static str,
    published: u64,
    memory: Memory,
    leads: AtomicBool,
}

impl World {
    fn of(nodes: &[&str]) -> Self {
        Self {
            documents: MemoryDocuments::new(),
            clock: ManualClock::default(),
            wanted: nodes.iter().map(|node| NodeId((*node).into())).collect(),
            rules: Rules::Shared,
            volumes: BTreeSet::new(),
            placement: Policy::default(),
            cluster: "uid",
            published: 0,
            memory: Memory::default(),
            leads: AtomicBool::new(true),
        }
    }

    /// With a live session of each node, and the first map.
    async fn running(nodes: &[&str]) -> Self {
        let mut world = Self::of(nodes);
        for node in nodes {
            put_session(&world.documents, &record(node, 1, &[])).await;
        }
        world.control(1).await.unwrap();
        world
    }

    fn look(&mut self) -> Look<'_> {
        Look {
            documents: &self.documents,
            cluster: self.cluster,
            shards: 8,
            rules: self.rules,
            wanted: &self.wanted,
            volumes: &self.volumes,
            placement: &self.placement,
            clock: &self.clock,
            published: self.published,
            memory: &mut self.memory,
        }
    }

    async fn control(&mut self, epoch: u64) -> Result<Seen, Error> {
        let leads = self.leads.load(Ordering::SeqCst);
        self.look().control(&Office { holder: "c", epoch: Epoch(epoch), holds: &move || leads }).await
    }

    async fn map(&self) -> ShardMap {
        get(&self.documents, names::SHARD_MAP).await
    }

    /// A node renews its session, and has acted on the map.
    async fn acts_on_the_map(&self, node: &str) {
        let map_revision = self.map().await.revision;
        put_session(&self.documents, &SessionRecord { map_revision, ..record(node, 2, &[]) }).await;
    }

    async fn owned(&self, node: &str) -> usize {
        self.map().await.shards_of(&NodeId(node.into())).count()
    }
}

#[tokio::test]
async fn the_live_nodes_share_the_shards_and_a_steady_cluster_is_settled() {
    let mut world = World::running(&["a", "b"]).await;
    assert_eq!((world.owned("a").await, world.owned("b").await), (4, 4));
    for node in ["a", "b"] {
        world.acts_on_the_map(node).await;
    }
    let before = world.documents.read(names::SHARD_MAP).await.unwrap();
    let seen = world.control(1).await.unwrap();
    assert!(seen.is_settled() && !seen.published, "{seen:?}");
    assert_eq!(world.documents.read(names::SHARD_MAP).await.unwrap(), before);
}

#[tokio::test]
async fn it_is_not_settled_before_every_node_has_acted_on_the_map() {
    let mut world = World::running(&["a", "b"]).await;
    world.acts_on_the_map("a").await;
    assert!(!world.control(1).await.unwrap().is_settled());
}

#[tokio::test]
async fn the_first_map_waits_for_all_nodes_for_a_while_and_not_for_ever() {
    let mut world = World::of(&["a", "b"]);
    put_session(&world.documents, &record("a", 1, &[])).await;
    assert!(world.control(1).await.unwrap().map.is_none());
    world.clock.advance(GATHER);
    assert_eq!(world.control(1).await.unwrap().map.unwrap().shards(), 8);
    assert_eq!(world.owned("a").await, 8);
}

#[tokio::test]
async fn a_lapsed_session_is_ended_before_its_shards_go_elsewhere() {
    let mut world = World::running(&["a", "b"]).await;
    world.clock.advance(Duration::from_secs(33));
    put_session(&world.documents, &record("a", 2, &[])).await;
    let seen = world.control(1).await.unwrap();
    let ended: SessionRecord = get(&world.documents, &names::session(&NodeId("b".into()))).await;
    assert_eq!((ended.state, ended.revision), (SessionState::Ended, 2));
    assert_eq!(world.owned("a").await, 8);
    assert_eq!(seen.next_lapse, Some(Duration::from_secs(33)), "only a's session counts any more");
}

#[tokio::test]
async fn who_becomes_the_controller_goes_on_with_what_its_process_has_observed() {
    let mut world = World::running(&["a", "b"]).await;
    let observers = SharedObservers::default();
    let version = world.documents.read(&names::session(&NodeId("b".into()))).await.unwrap().unwrap().version;
    let found = FoundSession { record: record("b", 1, &[]), version };
    assert!(!observers.judge(&found, world.clock.now()).is_lapsed());
    world.clock.advance(Duration::from_secs(33));
    world.memory = Memory::with(observers);
    world.control(2).await.unwrap();
    assert_eq!((world.owned("a").await, world.owned("b").await), (8, 0), "a was seen for the first time, b long ago");
}

#[tokio::test]
async fn a_node_that_leaves_gives_its_shards_away_while_it_still_serves_them() {
    let mut world = World::running(&["a", "b"]).await;
    put_session(&world.documents, &SessionRecord { leaving: true, ..record("b", 2, &[4, 5, 6, 7]) }).await;
    world.control(1).await.unwrap();
    assert_eq!((world.owned("a").await, world.owned("b").await), (8, 0));
}

#[tokio::test]
async fn when_every_node_leaves_the_shards_stay_where_they_are() {
    let mut world = World::running(&["a", "b"]).await;
    let map = world.map().await;
    for node in ["a", "b"] {
        put_session(&world.documents, &SessionRecord { leaving: true, ..record(node, 2, &[]) }).await;
    }
    assert!(world.control(1).await.unwrap().waiting.is_some());
    assert_eq!(world.map().await, map);
}

#[tokio::test]
async fn a_controller_whose_term_is_over_writes_nothing() {
    let mut world = World::running(&["a", "b"]).await;
    let map = world.map().await;
    world.leads.store(false, Ordering::SeqCst);
    world.wanted.pop();
    assert!(matches!(world.control(1).await, Err(Error::NotLeading)));
    world.clock.advance(Duration::from_secs(33));
    assert!(matches!(world.control(1).await, Err(Error::NotLeading)));
    let session: SessionRecord = get(&world.documents, &names::session(&NodeId("a".into()))).await;
    assert_eq!((session.state, world.map().await), (SessionState::Live, map));
}

#[tokio::test]
async fn a_controller_of_an_earlier_epoch_is_deposed() {
    let mut world = World::running(&["a", "b"]).await;
    world.wanted.pop();
    world.control(2).await.unwrap();
    let map = world.map().await;
    assert_eq!((map.epoch, map.writer.as_str()), (Epoch(2), "c"));
    world.wanted = vec![NodeId("b".into())];
    let theirs = Epoch(2);
    assert!(matches!(world.control(1).await, Err(Error::Deposed { ours: Epoch(1), theirs: at }) if at == theirs));
    assert_eq!(world.map().await, map);
}

#[tokio::test]
async fn a_session_that_can_t_be_read_changes_no_map() {
    let mut world = World::running(&["a", "b"]).await;
    let map = world.map().await;
    put(&world.documents, "_cluster/sessions/b.json", &"damaged").await;
    world.wanted.pop();
    assert!(matches!(world.control(1).await, Err(Error::DamagedDocument { .. })));
    assert_eq!(world.map().await, map);
}

#[tokio::test]
async fn a_map_that_was_put_back_is_overtaken_and_an_adopted_one_is_made_this_cluster_s() {
    let mut world = World::running(&["a"]).await;
    let published = world.map().await.revision + 40;
    world.published = published;
    world.control(1).await.unwrap();
    assert_eq!(world.map().await.revision, published + 1);
    world.cluster = "another";
    world.published = 0;
    world.control(1).await.unwrap();
    assert_eq!((world.map().await.revision, world.map().await.cluster.as_str()), (published + 2, "another"));
}

#[tokio::test]
async fn an_observer_says_the_same_and_writes_nothing() {
    let mut world = World::running(&["a", "b"]).await;
    let map = world.map().await;
    world.look().observe().await.unwrap();
    world.clock.advance(Duration::from_secs(33));
    world.acts_on_the_map("a").await;
    let seen = world.look().observe().await.unwrap();
    assert!(!seen.nodes[&NodeId("b".into())].live);
    assert!(seen.waiting.unwrap().contains("yet to publish"), "b's shards are due to move");
    let session: SessionRecord = get(&world.documents, &names::session(&NodeId("b".into()))).await;
    assert_eq!((session.state, world.map().await), (SessionState::Live, map));
}

/// A node that has acted on the map, and has this on its volume.
async fn stores(world: &World, node: &str, token: u64, shards: &[u32]) {
    let held = |shard: &u32| HeldShard { shard: ShardId(*shard), token: FencingToken(token) };
    let map_revision = world.map().await.revision;
    let stored = shards.iter().map(held).collect();
    put_session(&world.documents, &SessionRecord { map_revision, stored, ..record(node, 2, &[]) }).await;
}

async fn isolated(nodes: &[&str]) -> World {
    let mut world = World::of(nodes);
    world.rules = Rules::Isolated { moves_at_once: 2 };
    for node in nodes {
        put_session(&world.documents, &record(node, 1, &[])).await;
    }
    world.control(1).await.unwrap();
    world
}

#[tokio::test]
async fn with_volumes_the_first_map_names_nobody_until_every_volume_has_been_looked_into() {
    let mut world = isolated(&["a", "b"]).await;
    world.volumes.insert(NodeId("c".into()));
    assert_eq!(world.map().await.owners, [None; 8]);
    stores(&world, "a", 3, &[0, 1]).await;
    stores(&world, "b", 5, &[1, 2]).await;
    let waiting = world.control(1).await.unwrap().waiting.unwrap();
    assert!(waiting.contains("report what it stores: c"), "{waiting}");
    stores(&world, "c", 9, &[7]).await;
    world.control(1).await.unwrap();
    let map = world.map().await;
    let owner = |shard: u32| (map.owner(ShardId(shard)).map(|node| node.0.as_str()), map.token(ShardId(shard)).0);
    assert_eq!([owner(0), owner(1), owner(7)], [(Some("a"), 4), (Some("b"), 6), (Some("c"), 10)]);
}

#[tokio::test]
async fn with_volumes_an_older_map_or_another_clusters_is_not_gone_on_from() {
    for (cluster, ahead) in [("another", 0), ("uid", 500)] {
        let mut world = isolated(&["a", "b"]).await;
        stores(&world, "a", 3, &[0, 1, 2, 3, 4, 5, 6, 7]).await;
        stores(&world, "b", 0, &[]).await;
        world.control(1).await.unwrap();
        let before = world.map().await;
        assert_eq!(before.owner(ShardId(0)), Some(&NodeId("a".into())));
        (world.cluster, world.published) = (cluster, before.revision + ahead);
        world.control(1).await.unwrap();
        let map = world.map().await;
        assert_eq!(map.owners, [None; 8], "the volumes are asked again");
        assert_eq!(map.cluster, cluster);
        assert!(map.revision > before.revision + ahead);
    }
}

#[tokio::test]
async fn as_many_shards_move_at_once_as_the_placement_asks_for() {
    for (asked, moving) in [(None, 2), (Some(1), 1), (Some(3), 3)] {
        let mut world = isolated(&["a", "b"]).await;
        world.placement.max_moves = asked;
        for token in [3, 4] {
            stores(&world, "a", token, &[0, 1, 2, 3, 4, 5, 6, 7]).await;
            stores(&world, "b", 0, &[]).await;
            world.control(1).await.unwrap();
        }
        assert_eq!(world.map().await.moves.len(), moving, "{asked:?}");
    }
}
