//! Controllers, as the operator runs them: two may be at work at once, as after a leader that does not know yet that it
//! is none any more.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use brainy_coordination::clock::Clock;
use brainy_coordination::controller::{Facts, Next, NodeSight, Rules, next_map};
use brainy_coordination::placement::Policy;
use brainy_coordination::session::{Observer, SessionRecord, SessionState};
use brainy_coordination::{Epoch, NodeId, ShardMap, names};
use brainy_storage::Error;
use brainy_storage::backends::objects::BucketStore;
use brainy_storage::documents::{DocumentVersion, Documents, Swap};

use super::super::session::{read_document, write_document};
use super::nodes::fast;
use super::plan::Data;
use super::store::Link;
use super::world::World;
use crate::host::simulated::Host;

struct Controller {
    world: Arc<World>,
    name: String,
    documents: Box<dyn Documents>,
    clock: Arc<dyn Clock>,
    observers: BTreeMap<NodeId, Observer<DocumentVersion>>,
}

impl World {
    /// Starts a controller, which remembers nothing of one before it.
    pub(super) fn control(self: &Arc<Self>, number: usize, start: u32) -> Host {
        let fast = self.draw(fast);
        let host = self.scheduler.host(format!("controller-{number}/{start}"), fast, 0);
        let documents = BucketStore::new(Link::new(self, &host)).documents("");
        let mut controller = Controller {
            world: Arc::clone(self),
            name: host.name().to_owned(),
            documents: Box::new(documents),
            clock: host.clock(),
            observers: BTreeMap::new(),
        };
        host.spawn(async move {
            loop {
                tokio::time::sleep(controller.world.pause()).await;
                if let Err(error) = controller.look().await {
                    controller.world.say(&controller.name, || format!("did not see it through: {error}"));
                }
            }
        });
        host
    }
}

impl Controller {
    /// Reads, decides, publishes.
    async fn look(&mut self) -> Result<(), Error> {
        let limit = Duration::from_secs(10);
        let found = read_document::<ShardMap>(&*self.documents, names::SHARD_MAP, limit).await?;
        let (map, version) = found.map_or((None, None), |(map, version)| (Some(map), Some(version)));
        let mut nodes = BTreeMap::new();
        for name in self.documents.names(names::SESSIONS).await? {
            if let Some((record, version)) = read_document::<SessionRecord>(&*self.documents, &name, limit).await? {
                let sight = self.judge(&name, record, version).await?;
                nodes.insert(sight.record.node.clone(), sight);
            }
        }
        let wanted = self.world.wanted.lock().unwrap().clone();
        let epoch = match &map {
            Some(map) if map.writer == self.name => map.epoch,
            other => Epoch(other.as_ref().map_or(0, |map| map.epoch.0) + 1),
        };
        let isolated = self.world.plan.data == Data::Isolated;
        let volumes: BTreeSet<NodeId> = self.world.nodes().into_iter().collect();
        let rules = if isolated { Rules::Isolated { moves_at_once: 2 } } else { Rules::Shared };
        let facts = Facts {
            cluster: "uid",
            shards: self.world.plan.shards,
            rules,
            wanted: &wanted,
            volumes: &volumes,
            nodes: &nodes,
            placement: &Policy::default(),
            may_even_out: false,
            epoch,
            writer: &self.name,
        };
        if let Next::Publish(map) = next_map(map.as_ref(), &facts) {
            // Where it is refused or nobody knows, the next look tells.
            let _seen = write_document(&*self.documents, names::SHARD_MAP, version.as_ref(), &map, limit).await?;
        }
        Ok(())
    }

    /// A session that has lapsed is ended first (R8), where others are waiting for what it holds.
    async fn judge(&mut self, name: &str, record: SessionRecord, version: DocumentVersion) -> Result<NodeSight, Error> {
        let observer = self.observers.entry(record.node.clone()).or_default();
        let expired = observer.expired(version.clone(), record.ttl(), self.clock.now());
        if record.state == SessionState::Ended || !expired || self.world.plan.data == Data::Isolated {
            return Ok(NodeSight { live: record.state == SessionState::Live && !expired, record });
        }
        let limit = Duration::from_secs(10);
        let ended = record.ended();
        Ok(match write_document(&*self.documents, name, Some(&version), &ended, limit).await? {
            Swap::Applied(_) => NodeSight { record: ended, live: false },
            Swap::Rejected | Swap::Unknown(_) => NodeSight { record, live: true },
        })
    }
}
