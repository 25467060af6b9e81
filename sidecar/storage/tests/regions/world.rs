//! Three regions and their nodes, in the test's hands: between each node and each region is a way of its own.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use brainy_storage::layers::batching::Sole;
use brainy_storage::layers::regions::{Plan, RegionStore, Regions, Replication};
use brainy_storage::{Entry, Namespace, Outcome, StorageAdapter, Value};

pub(crate) use super::days::{key, number};

use super::bucket::FarBucket;
use super::tier::{Fate, Tier};

/// Nothing here waits for this long, unless it waits for ever.
const LONG: Duration = Duration::from_secs(3600);
pub(crate) const NAMES: [&str; 4] = ["a", "b", "c", "d"];
pub(crate) const NOW: u64 = 1_790_000_000_000;

/// Waits for something to come true. Turns are given, and time passes where nothing else is to be done.
pub(crate) async fn until(what: &str, is_true: impl AsyncFn() -> bool) {
    let wait = async {
        let mut pause = 1;
        while !is_true().await {
            tokio::time::sleep(Duration::from_millis(pause)).await;
            pause = (pause * 2).min(1000);
        }
    };
    assert!(tokio::time::timeout(LONG, wait).await.is_ok(), "it never comes true: {what}");
}

/// What stands in a region, as stored.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Stood {
    pub(crate) time: u64,
    pub(crate) region: String,
    pub(crate) mark: String,
    /// As text; none: it was removed.
    pub(crate) value: Option<String>,
}

impl Stood {
    fn of(value: &Value) -> Self {
        let Value::Bytes(bytes) = value else { panic!("no record: {value:?}") };
        let name = 2 + usize::from(bytes[1]);
        let region = String::from_utf8(bytes[2..name].to_vec()).unwrap();
        let line = bytes[name..].iter().position(|byte| *byte == b'\n').unwrap();
        let head: serde_json::Value = serde_json::from_slice(&bytes[name..name + line]).unwrap();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let (time, value) = match head["deleted"].as_u64() {
            Some(time) => (time, None),
            None => (head["revision"].as_u64().unwrap(), Some(text(&bytes[name + line + 1..]))),
        };
        Self { time, region, mark: head["nonce"].as_str().unwrap().to_owned(), value }
    }
}

/// A process in a region.
pub(crate) struct Node {
    /// The ways to the regions.
    pub(crate) ways: Vec<Tier>,
    pub(crate) wall: Arc<AtomicU64>,
    pub(crate) regions: Regions,
    pub(crate) store: RegionStore,
    pub(crate) adapter: Arc<dyn StorageAdapter>,
}

impl Node {
    /// `home`: where keys are decided first.
    pub(crate) fn open(
        stores: &[Arc<dyn StorageAdapter>],
        here: usize,
        home: usize,
        settings: Replication,
        wall: &Arc<AtomicU64>,
    ) -> Self {
        let names: Vec<String> = NAMES[..stores.len()].iter().map(|name| (*name).to_owned()).collect();
        Self::with_plan(stores, Plan::new(names, NAMES[here], NAMES[home], 300).unwrap(), settings, wall)
    }

    pub(crate) fn with_plan(
        stores: &[Arc<dyn StorageAdapter>],
        plan: Plan,
        settings: Replication,
        wall: &Arc<AtomicU64>,
    ) -> Self {
        let ways: Vec<Tier> = stores.iter().map(Tier::over).collect();
        let mut open = ways.iter().map(Tier::open);
        let time = Arc::clone(wall);
        let shared = Regions::with_clock(settings, Arc::new(move || time.load(Ordering::SeqCst)));
        let store = shared.over(plan.place(|_| open.next().unwrap()), Arc::new(Sole));
        let adapter = store.adapter();
        Self { ways, wall: Arc::clone(wall), regions: shared, store, adapter }
    }

    pub(crate) fn die(&self) {
        for way in &self.ways {
            way.fate.dead.send_replace(true);
        }
    }

    pub(crate) async fn set(&self, name: &str, n: i64) {
        let outcome = self.adapter.set(&key(name), number(n)).await.unwrap();
        assert!(matches!(outcome, Outcome::Applied(_)), "{outcome:?}");
    }

    pub(crate) async fn delete(&self, name: &str) -> bool {
        self.adapter.delete(&key(name)).await.unwrap().applied().unwrap()
    }

    pub(crate) async fn entry(&self, name: &str) -> Option<Entry> {
        self.adapter.get(&key(name)).await.unwrap()
    }

    pub(crate) async fn get(&self, name: &str) -> Option<Value> {
        self.entry(name).await.map(|entry| entry.value)
    }

    pub(crate) async fn add(&self, name: &str, delta: i64) -> i64 {
        let sum = self.adapter.increment(&key(name), delta.into()).await.unwrap();
        sum.applied().unwrap().0.as_i64().unwrap()
    }

    pub(crate) async fn list(&self) -> Vec<String> {
        let page = self.adapter.list("", None, 1000).await.unwrap();
        page.keys.iter().map(ToString::to_string).collect()
    }

    /// Nothing is to be sent any more.
    pub(crate) fn is_drained(&self) -> bool {
        self.store.lag().iter().all(|lag| lag.complete && lag.keys == 0)
    }

    pub(crate) async fn drained(&self) {
        until("all is everywhere", async || self.is_drained()).await;
    }

    /// How often it has asked a region for anything.
    pub(crate) fn asked(&self, region: usize) -> usize {
        let fate = &self.ways[region].fate;
        fate.puts.lock().unwrap().len() + fate.reads.load(Ordering::SeqCst) as usize
    }
}

/// Some regions, with a node in some of them.
pub(crate) struct World {
    pub(crate) stores: Vec<Arc<dyn StorageAdapter>>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) settings: Replication,
    /// Which node can't reach which region.
    pub(crate) cuts: Mutex<Vec<(usize, usize)>>,
}

pub(crate) fn empty(count: usize) -> Vec<Arc<dyn StorageAdapter>> {
    (0..count).map(|_| FarBucket::calm().open()).collect()
}

impl World {
    /// Three regions, filled, the first of them the home, and a node in each.
    pub(crate) async fn new(settings: Replication) -> Self {
        let world = Self::over(empty(3), 3, settings);
        world.filled().await;
        world
    }

    /// The first regions have nodes.
    pub(crate) fn over(stores: Vec<Arc<dyn StorageAdapter>>, nodes: usize, settings: Replication) -> Self {
        let open = |here| Node::open(&stores, here, 0, settings, &Arc::new(AtomicU64::new(NOW)));
        let nodes = (0..nodes).map(open).collect();
        Self { stores, nodes, settings, cuts: Mutex::default() }
    }

    /// All regions have all that there is.
    pub(crate) async fn filled(&self) {
        for store in &self.stores {
            let meta = store.with_namespace(&Namespace::new("m").unwrap());
            until("a region is filled", async || meta.get(&key("filled")).await.unwrap().is_some()).await;
        }
    }

    /// The process of a region dies, and another one begins with what the region has.
    pub(crate) fn restart(&mut self, at: usize) {
        self.nodes[at].die();
        let next = Node::open(&self.stores, at, 0, self.settings, &self.nodes[at].wall);
        for (node, region) in self.cuts.lock().unwrap().iter().filter(|(node, _)| *node == at) {
            assert_eq!(*node, at);
            Fate::set(&next.ways[*region].fate.away, true);
        }
        self.nodes[at] = next;
    }

    /// A node can't reach a region any more, or can again.
    pub(crate) fn cut(&self, node: usize, region: usize, is_cut: bool) {
        let mut cuts = self.cuts.lock().unwrap();
        cuts.retain(|cut| *cut != (node, region));
        if is_cut {
            cuts.push((node, region));
        }
        Fate::set(&self.nodes[node].ways[region].fate.away, is_cut);
    }

    /// A region and its node see only themselves.
    pub(crate) fn isolate(&self, region: usize, is_cut: bool) {
        for other in (0..self.stores.len()).filter(|other| *other != region) {
            if other < self.nodes.len() {
                self.cut(other, region, is_cut);
            }
            self.cut(region, other, is_cut);
        }
    }

    pub(crate) fn heal(&self) {
        for node in 0..self.nodes.len() {
            for region in 0..self.stores.len() {
                self.cut(node, region, false);
            }
        }
    }

    pub(crate) async fn drained(&self) {
        for node in &self.nodes {
            node.drained().await;
        }
    }

    /// What a region has of a key.
    pub(crate) async fn stood(&self, region: usize, name: &str) -> Option<Stood> {
        let data = self.stores[region].with_namespace(&Namespace::new("d").unwrap());
        data.get(&key(name)).await.unwrap().map(|entry| Stood::of(&entry.value))
    }

    /// What all regions have of a key; fails if they differ.
    pub(crate) async fn everywhere(&self, name: &str) -> Result<Option<Stood>, String> {
        let mut all = Vec::new();
        for region in 0..self.stores.len() {
            all.push(self.stood(region, name).await);
        }
        match all.iter().all(|stood| *stood == all[0]) {
            true => Ok(all.remove(0)),
            false => Err(format!("regions differ in {name}: {all:#?}")),
        }
    }

    /// The value that all regions have of a key.
    pub(crate) async fn agreed(&self, name: &str) -> Option<String> {
        self.everywhere(name).await.unwrap_or_else(|why| panic!("{why}")).and_then(|stood| stood.value)
    }

    /// A region loses all that it has.
    pub(crate) async fn lose(&self, region: usize) {
        for name in ["d", "m"] {
            clear(&self.stores[region].with_namespace(&Namespace::new(name).unwrap())).await;
        }
    }

    /// So much time passes for all.
    pub(crate) async fn wait(&self, time: Duration) {
        tokio::time::sleep(time).await;
        for node in &self.nodes {
            node.wall.fetch_add(u64::try_from(time.as_millis()).unwrap(), Ordering::SeqCst);
        }
    }
}

pub(crate) async fn clear(store: &Arc<dyn StorageAdapter>) {
    let page = store.list("", None, 100_000).await.unwrap();
    for key in page.keys {
        store.delete(&key).await.unwrap().applied().unwrap();
    }
}

/// Looks for removals all the time.
pub(crate) fn restless() -> Replication {
    Replication { compare_every_ms: 60_000, keep_removed_ms: 0, ..Replication::default() }
}
