//! Who decides in these clusters: the operator, as long as there is one.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use brainy_coordination::bucket::operator::{self, Part};
use brainy_coordination::bucket::spec::ClusterSpec;
use brainy_coordination::clock::{Clock, SystemClock};
use brainy_coordination::controller::give_up::{GiveUp, give_up};
use brainy_coordination::controller::{Facts, Next, NodeSight, next_map};
use brainy_coordination::placement::Policy;
use brainy_coordination::session::{Observer, SessionRecord, SessionState};
use brainy_coordination::{Epoch, NodeId, ShardMap, names};
use brainy_storage::documents::{DocumentVersion, Documents};

use super::cluster::{Cluster, SHARDS};

impl Cluster {
    /// The operator, as long as there is one.
    pub(super) fn start_operator(&mut self) {
        let (documents, wanted, ttl) = (self.store.clone(), Arc::clone(&self.wanted), self.ttl);
        let rules = self.rules;
        let (pattern, deserted) = (Arc::clone(&self.pattern), Arc::clone(&self.deserted));
        self.tasks.spawn(async move {
            let mut memory = operator::Memory::default();
            loop {
                tokio::time::sleep(Duration::from_millis(15)).await;
                if deserted.load(Ordering::SeqCst) {
                    memory = operator::Memory::default();
                    continue;
                }
                let (nodes, pattern) = (wanted.lock().unwrap().clone(), *pattern.lock().unwrap());
                if nodes.is_empty() {
                    continue;
                }
                let (cluster, writer) = ("uid".into(), "operator".into());
                let (volumes, placement) = (BTreeSet::new(), Policy::default());
                let spec =
                    ClusterSpec { revision: 0, cluster, generation: 1, writer, pattern, nodes, volumes, placement };
                let (documents, clock, memory) = (&documents, &SystemClock, &mut memory);
                let part = Part { documents, spec, shards: SHARDS, rules, ttl, published: 0, clock, memory };
                let _lost_race = part.run().await;
            }
        });
    }

    /// The operator's part with strategy Isolated: reads, decides, publishes.
    pub(super) fn start_controller(&mut self) {
        let (documents, wanted, rules) = (self.store.clone(), Arc::clone(&self.wanted), self.rules);
        let lost = Arc::clone(&self.lost);
        self.tasks.spawn(async move {
            let mut observers: HashMap<NodeId, Observer<DocumentVersion>> = HashMap::new();
            loop {
                tokio::time::sleep(Duration::from_millis(15)).await;
                let found = documents.read(names::SHARD_MAP).await.unwrap();
                let map: Option<ShardMap> = found.as_ref().and_then(|found| serde_json::from_slice(&found.body).ok());
                let mut nodes = BTreeMap::new();
                for name in documents.names(names::SESSIONS).await.unwrap() {
                    let session = documents.read(&name).await.unwrap().unwrap();
                    let record: SessionRecord = serde_json::from_slice(&session.body).unwrap();
                    let observer = observers.entry(record.node.clone()).or_default();
                    let expired = observer.expired(session.version, record.ttl(), SystemClock.now());
                    let live = record.state == SessionState::Live && !expired;
                    nodes.insert(record.node.clone(), NodeSight { record, live });
                }
                let wanted = wanted.lock().unwrap().clone();
                let facts = Facts {
                    cluster: "uid",
                    shards: SHARDS,
                    rules,
                    wanted: &wanted,
                    volumes: &BTreeSet::new(),
                    nodes: &nodes,
                    placement: &Policy::default(),
                    may_even_out: false,
                    epoch: Epoch(1),
                    writer: "test",
                };
                let lost = lost.lock().unwrap().clone();
                let given_up = match (&lost, &map) {
                    (Some(lost), Some(map)) => Some(give_up(map, &facts, lost, false)),
                    _ => None,
                };
                let next = match given_up {
                    Some(GiveUp::Publish(map, _)) => Next::Publish(*map),
                    _ => next_map(map.as_ref(), &facts),
                };
                if let Next::Publish(map) = next {
                    let expected = found.map(|found| found.version);
                    let body = serde_json::to_vec(&map).unwrap().into();
                    let _raced = documents.swap(names::SHARD_MAP, expected.as_ref(), body).await.unwrap();
                }
            }
        });
    }
}
