//! Several nodes over one set of documents, on a clock that jumps.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use brainy_coordination::clock::ManualClock;
use brainy_storage::backends::memory::MemoryDocuments;
use brainy_storage::documents::Document;

use super::*;

const TTL: Duration = Duration::from_secs(30);
const LONG: Duration = Duration::from_secs(20);

/// One life of a node, which others know to be over when it is.
#[derive(Debug)]
struct World {
    lives: Mutex<Vec<Present>>,
}

#[derive(Debug)]
struct Of(Arc<World>, usize);

#[async_trait]
impl Lives for Of {
    fn present(&self) -> Option<Present> {
        let life = self.0.lives.lock().unwrap()[self.1].clone();
        life.validity.holds().then_some(life)
    }

    async fn is_over(&self, _node: &NodeId, incarnation: &Incarnation) -> Result<bool, Error> {
        let lives = self.0.lives.lock().unwrap();
        Ok(!lives.iter().any(|life| life.incarnation == *incarnation && life.validity.holds()))
    }
}

/// Documents whose answers are lost now and then, after the effect.
#[derive(Debug, Default)]
struct Lossy {
    inner: MemoryDocuments,
    loses: AtomicBool,
    count: AtomicU64,
}

#[async_trait]
impl Documents for Lossy {
    async fn read(&self, name: &str) -> Result<Option<Document>, Error> {
        tokio::time::sleep(Duration::from_millis(1)).await;
        self.inner.read(name).await
    }

    async fn swap(&self, name: &str, expected: Option<&DocumentVersion>, body: bytes::Bytes) -> Result<Swap, Error> {
        tokio::time::sleep(Duration::from_millis(1)).await;
        let answer = self.inner.swap(name, expected, body).await?;
        let third = self.count.fetch_add(1, Ordering::SeqCst).is_multiple_of(3);
        Ok(if third && self.loses.load(Ordering::SeqCst) { Swap::Unknown("lost".into()) } else { answer })
    }

    async fn names(&self, prefix: &str) -> Result<Vec<String>, Error> {
        self.inner.names(prefix).await
    }
}

struct Cluster {
    documents: Arc<Lossy>,
    world: Arc<World>,
    nodes: Vec<Arc<Locks>>,
}

fn cluster(nodes: usize) -> Cluster {
    let life = |index: usize| Present {
        incarnation: Incarnation { pod_uid: index.to_string(), start: 1, nonce: String::new() },
        validity: Validity::new(Arc::new(ManualClock::default()), Duration::from_secs(3600)),
    };
    let world = Arc::new(World { lives: Mutex::new((0..nodes).map(life).collect()) });
    let documents = Arc::new(Lossy::default());
    let locks = |index: usize| {
        let lives = Arc::new(Of(Arc::clone(&world), index));
        Arc::new(Locks::new(NodeId(format!("n-{index}")), Arc::clone(&documents) as _, lives))
    };
    Cluster { nodes: (0..nodes).map(locks).collect(), documents, world }
}

impl Cluster {
    async fn acquire(&self, node: usize, holder: &str, names: &[&str], wait: Duration) -> Result<Granted, LockError> {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        self.nodes[node].acquire(&HolderId(holder.into()), &names, wait, TTL).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_cycle_over_two_nodes_ends_with_one_that_is_told_and_one_that_gets_on() {
    let cluster = cluster(2);
    cluster.acquire(0, "a", &["x"], Duration::ZERO).await.unwrap();
    cluster.acquire(1, "b", &["y"], Duration::ZERO).await.unwrap();
    let older = cluster.acquire(0, "a", &["y"], LONG);
    let younger = async {
        tokio::time::sleep(Duration::from_secs(10)).await;
        let refused = cluster.acquire(1, "b", &["x"], LONG).await;
        let Err(LockError::Deadlock(cycle)) = refused else { panic!("{refused:?}") };
        assert_eq!(cycle.0, ["b", "a"].map(|name| HolderId(name.into())));
        cluster.nodes[1].release(&HolderId("b".into()), None).await.unwrap();
    };
    let (older, ()) = tokio::join!(older, younger);
    let older = older.unwrap();
    assert!(older.tokens.contains_key("y"));
    assert!(older.lasts >= TTL + Duration::from_secs(10), "what it has waited is not taken off: {:?}", older.lasts);
}

#[tokio::test(start_paused = true)]
async fn the_younger_that_waits_already_is_told_while_it_waits() {
    let cluster = cluster(2);
    cluster.acquire(0, "a", &["x"], Duration::ZERO).await.unwrap();
    cluster.acquire(1, "b", &["y"], Duration::ZERO).await.unwrap();
    let younger = async {
        let refused = cluster.acquire(1, "b", &["x"], LONG).await;
        assert!(matches!(refused, Err(LockError::Deadlock(_))), "{refused:?}");
        cluster.nodes[1].release(&HolderId("b".into()), None).await.unwrap();
    };
    let older = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        cluster.acquire(0, "a", &["y"], LONG).await.unwrap();
    };
    tokio::join!(older, younger);
}

#[tokio::test(start_paused = true)]
async fn who_is_not_renewed_loses_everything_and_who_is_keeps_it() {
    let cluster = cluster(2);
    let holder = HolderId("a".into());
    cluster.acquire(0, "a", &["x"], Duration::ZERO).await.unwrap();
    tokio::time::sleep(TTL / 2).await;
    assert_eq!(cluster.nodes[0].renew(&holder, TTL).unwrap(), TTL);
    tokio::time::sleep(TTL / 2).await;
    let taken = cluster.acquire(1, "b", &["x"], Duration::ZERO).await;
    assert!(matches!(&taken, Err(LockError::Taken(behind)) if behind[0].behind == holder), "{taken:?}");
    tokio::time::sleep(TTL).await;
    assert!(matches!(cluster.nodes[0].renew(&holder, TTL), Err(LockError::Lost(_))));
    tokio::select! {
        () = cluster.nodes[0].run() => {}
        taken = cluster.acquire(1, "b", &["x"], LONG) => drop(taken.unwrap()),
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_node_held_is_others_once_its_life_is_over_and_not_before() {
    let cluster = cluster(2);
    cluster.acquire(0, "a", &["x"], Duration::ZERO).await.unwrap();
    assert!(matches!(cluster.acquire(1, "b", &["x"], LONG).await, Err(LockError::Taken(_))));
    cluster.world.lives.lock().unwrap()[0].validity.end();
    assert!(matches!(cluster.acquire(0, "c", &["z"], LONG).await, Err(LockError::NoSession)));
    cluster.acquire(1, "b", &["x"], Duration::ZERO).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_is_asked_for_again_and_takes_nothing_twice() {
    let cluster = cluster(1);
    cluster.documents.loses.store(true, Ordering::SeqCst);
    for expected in 1..=6 {
        let granted = cluster.acquire(0, "a", &["x"], Duration::ZERO).await.unwrap();
        assert_eq!(granted.tokens["x"], FencingToken(expected));
        cluster.nodes[0].release(&HolderId("a".into()), None).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn many_that_want_one_lock_have_it_one_at_a_time_under_growing_tokens() {
    let cluster = Arc::new(cluster(3));
    cluster.documents.loses.store(true, Ordering::SeqCst);
    let (inside, last) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let work = |index: usize| {
        let (cluster, inside, last) = (Arc::clone(&cluster), Arc::clone(&inside), Arc::clone(&last));
        async move {
            let holder = format!("h-{index}");
            let granted = cluster.acquire(index % 3, &holder, &["x", "y"], Duration::from_secs(60)).await.unwrap();
            assert!(!inside.swap(true, Ordering::SeqCst), "two at once");
            let token = granted.tokens["x"].0;
            assert!(last.swap(token, Ordering::SeqCst) < token);
            tokio::time::sleep(Duration::from_millis(300)).await;
            inside.store(false, Ordering::SeqCst);
            cluster.nodes[index % 3].release(&HolderId(holder), None).await.unwrap();
        }
    };
    futures::future::join_all((0..9).map(work)).await;
}
