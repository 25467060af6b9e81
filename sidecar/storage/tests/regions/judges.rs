//! The judges of every adapter: the conformance suite, and histories of generated operations by several clients at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use async_trait::async_trait;
use brainy_storage::layers::regions::{RegionStore, Replication};
use brainy_storage::{
    Condition, Done, Entry, Error, Key, Namespace, Operation, OperationId, Outcome, Page, Request, Requests,
    StorageAdapter, Value, Version, WriteResult, conformance,
};
use serde_json::Number;
use tokio::runtime::Builder;

use super::bucket::FarBucket;
use super::harness::generate::Run;
use super::harness::rough::pause;
use super::harness::{Seed, judge, threads};
use super::world::{NOW, Node, empty};

const HISTORIES: u32 = 300;

fn node(stores: &[Arc<dyn StorageAdapter>], here: usize) -> Node {
    Node::open(stores, here, 0, Replication::default(), &Arc::new(AtomicU64::new(NOW)))
}

/// Also where another region is the home: one client sees all that it has done.
#[tokio::test(flavor = "multi_thread")]
async fn three_regions_conform() {
    for here in [0, 1] {
        let report = conformance::run(|| node(&empty(3), here).adapter).await;
        assert!(report.is_clean(), "in region {here}: {report}");
    }
}

/// All operations, also plain ones, through the node of the home.
#[test]
fn the_home_is_linearizable() {
    for runtime in [Builder::new_current_thread().enable_all().build().unwrap(), threads()] {
        for rough in [false, true] {
            let store = |run: &Run| {
                let home = FarBucket::new(run.weather.clone(), false).open();
                node(&[vec![home], empty(2)].concat(), 0).adapter
            };
            let judged = judge(&runtime, HISTORIES, Seed::Any, rough, store);
            let tally = judged.unwrap_or_else(|why| panic!("{why}"));
            println!("{tally:?}");
            assert!(tally.at_once > 0 && tally.failed * 3 < tally.operations, "{tally:?}");
        }
    }
}

/// What is decided, through all nodes in turn, while the home moves around.
#[test]
fn decisions_are_linearizable_whoever_asks_while_the_home_moves() {
    for runtime in [Builder::new_current_thread().enable_all().build().unwrap(), threads()] {
        for rough in [false, true] {
            let moved = Arc::new(AtomicUsize::new(0));
            let store = |run: &Run| -> Arc<dyn StorageAdapter> {
                let open = |_| FarBucket::new(run.weather.clone(), false).open();
                let stores: Vec<_> = (0..3).map(open).collect();
                let nodes: Vec<Node> = (0..3).map(|here| node(&stores, here)).collect();
                let controls = nodes.iter().map(|node| node.store.clone()).collect();
                let adapters = nodes.into_iter().map(|node| node.adapter).collect();
                let roaming = Arc::new(Roaming { nodes: adapters, next: AtomicUsize::new(0) });
                tokio::spawn(roam(Arc::downgrade(&roaming), controls, Arc::clone(&moved)));
                roaming
            };
            let judged = judge(&runtime, HISTORIES, Seed::Any, rough, store);
            let tally = judged.unwrap_or_else(|why| panic!("{why}"));
            let moved = moved.load(Ordering::SeqCst);
            println!("{tally:?}, moved {moved} times");
            assert!(tally.at_once > 0 && tally.failed * 3 < tally.operations, "{tally:?}");
            assert!(moved > 100, "the home hardly moves: {moved}");
        }
    }
}

/// Moves the home around while it is in use.
async fn roam(in_use: std::sync::Weak<Roaming>, nodes: Vec<RegionStore>, moved: Arc<AtomicUsize>) {
    for turn in 0_usize.. {
        if in_use.strong_count() == 0 {
            return;
        }
        let to = ["b", "c", "a"][turn % 3];
        // Whoever does it; a failure leaves the next one to go on.
        if let Ok(Outcome::Applied(_)) = nodes[turn % 2].move_home(to).await {
            moved.fetch_add(1, Ordering::SeqCst);
        }
        pause(30).await;
    }
}

/// Each operation through another node, and only such that are decided.
#[derive(Debug)]
struct Roaming {
    nodes: Vec<Arc<dyn StorageAdapter>>,
    next: AtomicUsize,
}

impl Roaming {
    fn node(&self) -> &Arc<dyn StorageAdapter> {
        &self.nodes[self.next.fetch_add(1, Ordering::SeqCst) % self.nodes.len()]
    }

    /// Asks again where nothing was done.
    async fn ask(&self, key: &Key, operation: Operation, id: Option<&OperationId>) -> WriteResult<Done> {
        for _ in 0..2000 {
            let request = Request { operation: operation.clone(), id: id.cloned() };
            let portion = Requests::portions([request]).remove(0);
            match self.node().perform(key, portion).await.remove(0) {
                Err(Error::Unavailable { .. } | Error::Contended { .. }) => pause(5).await,
                answer => return answer,
            }
        }
        Err(Error::unavailable("Roaming", "nobody decides"))
    }
}

#[async_trait]
impl StorageAdapter for Roaming {
    async fn get(&self, key: &Key) -> Result<Option<Entry>, Error> {
        // Decided like a write: what stands there is never this.
        let never = Some(Value::Bytes("never".into()));
        match self.ask(key, Operation::Swap { old: never, new: None }, None).await? {
            Outcome::Rejected(current) => Ok(current),
            other => panic!("{other:?}"),
        }
    }

    async fn put(&self, key: &Key, value: Value, condition: &Condition) -> WriteResult<Version> {
        loop {
            let is_any = *condition == Condition::Any;
            let condition = match is_any {
                true => self.get(key).await?.map_or(Condition::Absent, |entry| Condition::Version(entry.version)),
                false => condition.clone(),
            };
            let done = self.ask(key, Operation::Put { value: value.clone(), condition }, None).await?;
            if is_any && matches!(done, Outcome::Rejected(_)) {
                continue;
            }
            return Ok(done.map(|done| match done {
                Done::Written(version) => version,
                other => panic!("{other:?}"),
            }));
        }
    }

    async fn remove(&self, key: &Key, condition: &Condition) -> WriteResult<bool> {
        loop {
            let is_any = *condition == Condition::Any;
            let condition = match (is_any, self.get(key).await?) {
                (false, _) => condition.clone(),
                (true, Some(entry)) => Condition::Version(entry.version),
                (true, None) => return Ok(Outcome::Applied(false)),
            };
            let done = self.ask(key, Operation::Remove { condition }, None).await?;
            if is_any && matches!(done, Outcome::Rejected(_)) {
                continue;
            }
            return Ok(done.map(|done| done == Done::Removed(true)));
        }
    }

    async fn perform_once(&self, key: &Key, operation: Operation, id: &OperationId) -> WriteResult<Done> {
        self.ask(key, operation, Some(id)).await
    }

    async fn list(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Page, Error> {
        self.node().list(prefix, after, limit).await
    }

    fn with_namespace(&self, namespace: &Namespace) -> Arc<dyn StorageAdapter> {
        let nodes = self.nodes.iter().map(|node| node.with_namespace(namespace)).collect();
        Arc::new(Self { nodes, next: AtomicUsize::new(0) })
    }

    async fn compare_and_swap(
        &self,
        key: &Key,
        old: Option<Value>,
        new: Option<Value>,
    ) -> WriteResult<Option<Version>> {
        let done = self.ask(key, Operation::Swap { old, new }, None).await?;
        Ok(done.map(|done| match done {
            Done::Swapped(version) => version,
            other => panic!("{other:?}"),
        }))
    }

    async fn increment(&self, key: &Key, delta: Number) -> WriteResult<(Number, Version)> {
        let done = self.ask(key, Operation::Increment { delta }, None).await?;
        Ok(done.map(|done| match done {
            Done::Sum(sum, version) => (sum, version),
            other => panic!("{other:?}"),
        }))
    }
}
