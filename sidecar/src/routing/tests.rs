//! How long a request waits for a node that is silent. On a clock of the test's own: it jumps to whatever is waited for.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use brainy_storage::{Condition, Error, Value, Version};
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::watch;

use super::*;

/// When an answer comes that a test does not wait for.
const MUCH_LATER: Duration = Duration::from_secs(60);

/// One shard, as one node sees it that serves nothing.
#[derive(Debug, Default)]
struct View {
    owner: Mutex<String>,
    /// Whose session is over.
    over: Mutex<Option<String>>,
    /// How often a node was in doubt.
    doubts: AtomicUsize,
    changes: watch::Sender<u64>,
}

impl View {
    fn give(&self, node: &str) {
        *self.owner.lock().unwrap() = node.to_owned();
        self.changes.send_modify(|count| *count += 1);
    }

    fn end(&self, node: &str) {
        *self.over.lock().unwrap() = Some(node.to_owned());
        self.changes.send_modify(|count| *count += 1);
    }
}

impl Owners for View {
    fn shards(&self) -> u32 {
        1
    }

    fn spot(&self, _: ShardId) -> Spot {
        let owner = self.owner.lock().unwrap().clone();
        Spot::Elsewhere(NodeId(owner.clone()), format!("{owner}:7701"))
    }

    fn next_change(&self) -> BoxFuture<'static, ()> {
        let mut changes = self.changes.subscribe();
        async move { drop(changes.changed().await) }.boxed()
    }

    fn in_doubt(&self, _: &NodeId) {
        self.doubts.fetch_add(1, Ordering::SeqCst);
    }

    fn is_over(&self, node: &NodeId) -> bool {
        self.over.lock().unwrap().as_ref() == Some(&node.0)
    }
}

/// All nodes answer at once but one.
#[derive(Debug)]
struct OneIsSlow {
    node: &'static str,
    answers_after: Duration,
}

#[async_trait]
impl Peers for OneIsSlow {
    async fn calls(
        &self,
        node: &NodeId,
        _: &str,
        _: Option<&Namespace>,
        calls: Vec<Call>,
    ) -> Result<Vec<Attempt>, PeerError> {
        if node.0 == self.node {
            tokio::time::sleep(self.answers_after).await;
        }
        let done = |call: &Call| match call.writes() {
            true => Reply::Written(Version { revision: 1, tag: node.0.clone() }),
            false => Reply::Found(None),
        };
        Ok(calls.iter().map(|call| Attempt::Done(done(call))).collect())
    }

    async fn list(&self, _: &NodeId, _: &str, _: &[ShardId], _: &Listing) -> Result<Result<Portion, Error>, PeerError> {
        Err(PeerError::NotSent("nothing is listed here".into()))
    }
}

fn put() -> Call {
    let (key, value) = (Key::new("k").unwrap(), Value::Json(1.into()));
    Call::Put { key, value, condition: Condition::Any }
}

/// A call to node `a`, whose shard passes to `b` at once; whether `a`'s session is over is known so much later. The reply,
/// how long after the shard has passed on, and how often somebody was in doubt meanwhile.
async fn passed_on(call: Call, answers_after: Duration, ends_after: Option<Duration>) -> (Reply, Duration, usize) {
    let view = Arc::new(View::default());
    view.give("a");
    let peers = Arc::new(OneIsSlow { node: "a", answers_after });
    let owners = Arc::clone(&view) as Arc<dyn Owners>;
    let router = Arc::new(Router::new(owners, Some(peers), Patience::default(), Arc::default()));
    let asking = tokio::spawn(async move { router.run_one(None, call).await });
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(!asking.is_finished(), "while nobody else has the shard it waits");
    let began = Instant::now();
    view.give("b");
    if let Some(pause) = ends_after {
        let view = Arc::clone(&view);
        tokio::spawn(async move {
            tokio::time::sleep(pause).await;
            view.end("a");
        });
    }
    let reply = asking.await.unwrap();
    (reply, began.elapsed(), view.doubts.load(Ordering::SeqCst))
}

#[tokio::test(start_paused = true)]
async fn a_write_to_a_node_whose_session_is_over_is_unknown_as_soon_as_a_read_is_asked_again() {
    let get = Call::Get { key: Key::new("k").unwrap() };
    let (read, as_long, _) = passed_on(get, MUCH_LATER, None).await;
    assert_eq!(read, Reply::Found(None));
    let (written, waited, _) = passed_on(put(), MUCH_LATER, Some(Duration::ZERO)).await;
    assert!(matches!(written, Reply::Unknown(_)), "{written:?}");
    assert_eq!(waited, as_long);
}

#[tokio::test(start_paused = true)]
async fn who_waits_with_a_write_has_the_silent_node_s_session_looked_at_and_waits_no_longer_than_that_takes() {
    let late = LAST_ANSWERS + Duration::from_millis(300);
    let (written, waited, doubts) = passed_on(put(), MUCH_LATER, Some(late)).await;
    assert!(matches!(written, Reply::Unknown(_)), "{written:?}");
    // Once for the session, and once because there was no answer.
    assert_eq!((waited.as_millis(), doubts), (late.as_millis(), 2));
}

#[tokio::test(start_paused = true)]
async fn a_late_answer_of_a_node_that_gave_a_shard_away_as_planned_is_told() {
    let since_asked = Duration::from_secs(5) + LAST_ANSWERS + LAST_WORD - Duration::from_millis(10);
    let (written, ..) = passed_on(put(), since_asked, None).await;
    assert_eq!(written, Reply::Written(Version { revision: 1, tag: "a".into() }));
}

#[tokio::test(start_paused = true)]
async fn a_write_to_a_node_of_which_nothing_is_known_is_unknown_in_the_end() {
    let (written, waited, _) = passed_on(put(), MUCH_LATER, None).await;
    assert!(matches!(written, Reply::Unknown(_)), "{written:?}");
    assert_eq!(waited.as_millis(), (LAST_ANSWERS + LAST_WORD).as_millis());
}
