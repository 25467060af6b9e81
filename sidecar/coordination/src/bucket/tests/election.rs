use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::super::election::{Election, Kind, News, NodesLock, Notices, Operator, Taken, Told, step_down};
use super::*;
use crate::clock::ManualClock;
use crate::elector::{Candidate, Lock};
use crate::session::Observer;
use crate::session::observer::margin;
use crate::{Epoch, ShardMap};

const TTL: Duration = Duration::from_secs(30);

/// What is told, and what was heard.
#[derive(Debug, Default)]
struct Board {
    news: Mutex<News>,
    heard: Mutex<Vec<News>>,
    wrote: Mutex<Option<Told>>,
    told: Mutex<Option<Told>>,
}

impl Notices for Board {
    fn news(&self) -> News {
        self.news.lock().unwrap().clone()
    }

    fn heard(&self, election: &Election) {
        self.heard.lock().unwrap().push(election.news.clone());
    }

    fn wrote(&self, told: Told) {
        *self.wrote.lock().unwrap() = Some(told);
    }

    fn told(&self) -> Option<Told> {
        self.told.lock().unwrap().take()
    }
}

/// The office, and the clock of all who want it.
struct World {
    documents: MemoryDocuments,
    board: Arc<Board>,
    lock: NodesLock,
    clock: ManualClock,
}

impl World {
    fn new() -> Self {
        let documents = MemoryDocuments::new();
        let board = Arc::new(Board::default());
        let lock = NodesLock::new(Arc::new(documents.clone()), Arc::clone(&board) as _);
        Self { documents, board, lock, clock: ManualClock::default() }
    }

    fn node(&self, name: &str) -> Candidate {
        Candidate::new(name.into(), TTL, Arc::new(self.clock.clone()))
    }

    async fn step(&self, candidate: &mut Candidate) {
        let found = match candidate.needs_read() {
            true => Some(self.lock.read().await.unwrap()),
            false => None,
        };
        if let Some(attempt) = candidate.attempt(found) {
            let answer = self.lock.write(attempt.expected.as_ref(), &attempt.record).await;
            candidate.answered(attempt, answer);
        }
    }

    async fn operator(
        &self,
        identity: &str,
        observer: &mut Observer<brainy_storage::documents::DocumentVersion>,
    ) -> Taken {
        use crate::clock::Clock;
        let operator = Operator { identity, cluster: "uid", ttl: TTL, now: self.clock.now(), observer };
        operator.take(&self.documents).await.unwrap()
    }

    async fn election(&self) -> Election {
        get(&self.documents, names::CONTROLLER_ELECTION).await
    }

    async fn put_map(&self, epoch: u64) {
        let map = ShardMap {
            revision: 1,
            epoch: Epoch(epoch),
            writer: "w".into(),
            cluster: "uid".into(),
            nodes: Vec::new(),
            owners: vec![None],
            tokens: Vec::new(),
            moves: std::collections::BTreeMap::new(),
            given_up: Default::default(),
            wished: std::collections::BTreeMap::new(),
        };
        put(&self.documents, names::SHARD_MAP, &map).await;
    }
}

fn epoch(candidate: &Candidate) -> Option<u64> {
    candidate.term().map(|term| term.transitions)
}

#[tokio::test]
async fn an_operator_takes_over_from_an_operator_at_once_under_the_next_epoch() {
    let (world, mut observer) = (World::new(), Observer::default());
    assert_eq!(world.operator("a", &mut observer).await, Taken::Ours(Epoch(1)));
    assert_eq!(world.operator("a", &mut observer).await, Taken::Ours(Epoch(1)), "an answer that was lost");
    assert_eq!(world.operator("b", &mut observer).await, Taken::Ours(Epoch(2)));
    world.put_map(9).await;
    assert_eq!(world.operator("b", &mut observer).await, Taken::Ours(Epoch(10)), "never below the map's");
}

#[tokio::test]
async fn an_operator_waits_for_a_node_until_it_releases_or_has_lapsed() {
    let (world, mut observer) = (World::new(), Observer::default());
    let mut node = world.node("n");
    world.step(&mut node).await;
    assert_eq!(epoch(&node), Some(1));
    let waiting = Taken::Waiting("n".into());
    assert_eq!(world.operator("o", &mut observer).await, waiting);
    world.clock.advance(TTL / 2);
    world.step(&mut node).await; // It renews.
    assert_eq!(world.operator("o", &mut observer).await, waiting);
    world.clock.advance(TTL);
    assert_eq!(epoch(&node), None, "its term is over by its own clock");
    assert_eq!(world.operator("o", &mut observer).await, waiting, "and a margin");
    world.clock.advance(margin(TTL));
    assert_eq!(world.operator("o", &mut observer).await, Taken::Ours(Epoch(2)));
    world.step(&mut node).await;
    world.step(&mut node).await;
    assert_eq!(epoch(&node), None, "it sees that another has it");
}

#[tokio::test]
async fn a_node_takes_over_at_once_when_the_operator_has_stepped_down_and_not_before() {
    let (world, mut observer) = (World::new(), Observer::default());
    world.operator("o", &mut observer).await;
    let mut node = world.node("n");
    world.step(&mut node).await;
    assert_eq!(epoch(&node), None);
    step_down(&world.documents).await.unwrap();
    world.step(&mut node).await;
    assert_eq!(epoch(&node), Some(2));
    step_down(&world.documents).await.unwrap();
    let election = world.election().await;
    assert_eq!((election.holder.as_deref(), election.kind), (Some("n"), Kind::Node), "another's is never freed");
}

#[tokio::test]
async fn each_node_that_leads_has_a_higher_epoch_also_after_the_document_was_lost() {
    let world = World::new();
    let (mut a, mut b) = (world.node("a"), world.node("b"));
    world.step(&mut a).await;
    world.step(&mut b).await;
    assert_eq!((epoch(&a), epoch(&b)), (Some(1), None));
    world.clock.advance(TTL + margin(TTL));
    world.step(&mut b).await;
    assert_eq!(epoch(&b), Some(2));

    let lost = World::new();
    lost.put_map(7).await;
    let mut a = lost.node("a");
    lost.step(&mut a).await;
    assert_eq!(epoch(&a), Some(8));
    assert_eq!(lost.election().await.epoch, Epoch(8));
}

#[tokio::test]
async fn an_epoch_below_the_map_s_is_lifted_and_whoever_led_under_it_leads_no_more() {
    let world = World::new();
    let mut a = world.node("a");
    world.step(&mut a).await;
    world.lock.lift(Epoch(1)).await.unwrap();
    assert_eq!(world.election().await.holder.as_deref(), Some("a"), "it is not below");
    world.lock.lift(Epoch(7)).await.unwrap();
    world.step(&mut a).await; // Its renewal is rejected.
    world.step(&mut a).await;
    assert_eq!((world.election().await.epoch, epoch(&a)), (Epoch(8), Some(8)), "a new term, under the new epoch");
}

#[tokio::test]
async fn a_record_of_the_form_before_is_an_operator_s() {
    let world = World::new();
    let old = serde_json::json!({"epoch": 4, "writer": "old", "revision": 6});
    put(&world.documents, names::CONTROLLER_ELECTION, &old).await;
    let election = world.election().await;
    assert_eq!((election.holder.as_deref(), election.kind), (Some("old"), Kind::Operator));
    assert_eq!(world.operator("new", &mut Observer::default()).await, Taken::Ours(Epoch(5)));
}

#[tokio::test]
async fn who_leads_tells_its_news_with_each_renewal_and_who_looks_hears_them() {
    let world = World::new();
    let (mut a, mut b) = (world.node("a"), world.node("b"));
    for map in [7, 8] {
        let news = News { map, spec: 2, session: Some(format!("session-{map}")) };
        *world.board.news.lock().unwrap() = news.clone();
        world.step(&mut a).await;
        assert_eq!(world.election().await.news, news);
        world.step(&mut b).await;
        assert_eq!(world.board.heard.lock().unwrap().last(), Some(&news));
    }
}

#[tokio::test]
async fn what_the_holder_says_is_as_good_as_a_read_and_serves_for_one_look() {
    let world = World::new();
    let (mut a, mut b) = (world.node("a"), world.node("b"));
    world.step(&mut a).await;
    world.step(&mut b).await;
    world.clock.advance(TTL);
    world.step(&mut a).await; // Renewed.
    let wrote = world.board.wrote.lock().unwrap().clone().unwrap();
    assert_eq!(world.election().await, wrote.election);
    *world.board.told.lock().unwrap() = Some(wrote);
    let read = world.board.heard.lock().unwrap().len();
    world.step(&mut b).await;
    assert_eq!(world.board.heard.lock().unwrap().len(), read, "nothing was read");
    world.clock.advance(margin(TTL));
    world.step(&mut b).await;
    assert_eq!(world.board.heard.lock().unwrap().len(), read + 1, "it was told once");
    assert_eq!(epoch(&b), None, "it was told of the renewal");
    world.clock.advance(TTL);
    world.step(&mut b).await;
    assert_eq!(epoch(&b), Some(2), "and counts from there");
}
