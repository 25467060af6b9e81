use std::time::Duration;

use super::super::adoption::{Before, Watch, end};
use super::super::election::{Operator, find as find_election};
use super::super::spec::{ClusterSpec, Memory, Pattern, find, publish};
use super::super::{Error, must_own};
use super::*;
use crate::clock::{Clock, ManualClock};
use crate::marker::ClusterMarker;
use crate::placement::Policy;
use crate::session::Observer;
use crate::session::observer::margin;

const TTL: Duration = Duration::from_secs(30);

struct World {
    documents: MemoryDocuments,
    clock: ManualClock,
    watch: Watch,
}

impl World {
    async fn with_nodes(nodes: &[&str]) -> Self {
        let world = Self { documents: MemoryDocuments::new(), clock: ManualClock::default(), watch: Watch::default() };
        for node in nodes {
            put_session(&world.documents, &record(node, 1, &[])).await;
        }
        world
    }

    async fn look(&mut self) -> Before {
        self.watch.look(&self.documents, &self.clock).await.unwrap()
    }

    async fn state(&self, node: &str) -> SessionState {
        let record: SessionRecord = get(&self.documents, &names::session(&NodeId(node.into()))).await;
        record.state
    }

    async fn belongs_to(&self, uid: &str) {
        let text = |text: &str| text.to_owned();
        let marker = ClusterMarker {
            uid: text(uid),
            namespace: text("team"),
            name: text("demo"),
            kubernetes: text("k"),
            shards: 8,
            revision: 1,
            adopting: None,
        };
        put(&self.documents, names::CLUSTER_MARKER, &marker).await;
    }
}

#[tokio::test]
async fn a_cluster_is_over_once_no_session_was_renewed_for_its_time_and_a_margin() {
    let mut world = World::with_nodes(&["a", "b"]).await;
    let Before::Silent { nodes, left } = world.look().await else { panic!("just seen") };
    assert_eq!((nodes.len(), left), (2, TTL + margin(TTL)));
    world.clock.advance(TTL + margin(TTL) - Duration::from_nanos(1));
    assert!(matches!(world.look().await, Before::Silent { .. }));
    world.clock.advance(Duration::from_nanos(1));
    let Before::Lapsed(lapsed) = world.look().await else { panic!("unchanged for long enough") };
    end(&world.documents, &lapsed).await.unwrap();
    assert!(matches!(world.look().await, Before::Over));
    assert_eq!((world.state("a").await, world.state("b").await), (SessionState::Ended, SessionState::Ended));
}

#[tokio::test]
async fn one_session_that_is_renewed_keeps_a_cluster_alive_and_so_does_one_that_begins() {
    let mut world = World::with_nodes(&["a", "b"]).await;
    world.look().await;
    for revision in 2..5 {
        world.clock.advance(TTL);
        put_session(&world.documents, &record("b", revision, &[])).await;
        let Before::Alive(nodes) = world.look().await else { panic!("b is alive") };
        assert_eq!(nodes, [NodeId("b".into())]);
    }
    world.clock.advance(TTL + margin(TTL));
    assert!(matches!(world.look().await, Before::Lapsed(_)), "it was renewed, and is no more");
    put_session(&world.documents, &record("c", 1, &[])).await;
    let Before::Alive(nodes) = world.look().await else { panic!("c has begun") };
    assert_eq!(nodes, [NodeId("c".into())]);
}

#[tokio::test]
async fn a_cluster_whose_nodes_ended_their_sessions_is_over_at_once() {
    let mut world = World::with_nodes(&[]).await;
    put_session(&world.documents, &record("a", 1, &[]).ended()).await;
    assert!(matches!(world.look().await, Before::Over));
}

#[tokio::test]
async fn a_session_that_was_renewed_after_all_is_not_ended() {
    let mut world = World::with_nodes(&["a"]).await;
    world.look().await;
    world.clock.advance(TTL + margin(TTL));
    let Before::Lapsed(lapsed) = world.look().await else { panic!("unchanged for long enough") };
    put_session(&world.documents, &record("a", 2, &[])).await;
    end(&world.documents, &lapsed).await.unwrap();
    assert_eq!(world.state("a").await, SessionState::Live);
    assert!(matches!(world.look().await, Before::Alive(_)));
}

fn spec(cluster: &str) -> ClusterSpec {
    ClusterSpec {
        revision: 0,
        cluster: cluster.into(),
        generation: 1,
        writer: "o".into(),
        pattern: Pattern::Leader,
        nodes: Vec::new(),
        volumes: Default::default(),
        placement: Policy::default(),
    }
}

#[tokio::test]
async fn an_operator_of_the_cluster_before_that_wakes_up_late_takes_nothing_back() {
    let world = World::with_nodes(&[]).await;
    let take = async |identity: &str, cluster: &str| {
        let (now, observer) = (world.clock.now(), &mut Observer::default());
        Operator { identity, cluster, ttl: TTL, now, observer }.take(&world.documents).await
    };
    world.belongs_to("old").await;
    publish(&world.documents, spec("old"), &mut Memory::default()).await.unwrap();
    take("old-operator", "old").await.unwrap();
    world.belongs_to("new").await;
    publish(&world.documents, spec("new"), &mut Memory::default()).await.unwrap();
    take("new-operator", "new").await.unwrap();
    let election = find_election(&world.documents).await.unwrap();

    let late = publish(&world.documents, spec("old"), &mut Memory::default()).await;
    assert!(matches!(late, Err(Error::NotOurs { .. })), "{late:?}");
    let late = take("old-operator", "old").await;
    assert!(matches!(late, Err(Error::NotOurs { .. })), "{late:?}");
    assert_eq!(find(&world.documents).await.unwrap().unwrap().cluster, "new");
    assert_eq!(find_election(&world.documents).await.unwrap(), election);
    let words = must_own(&world.documents, "old").await.unwrap_err().to_string();
    assert!(words.contains("team/demo (UID new)"), "{words}");
}
