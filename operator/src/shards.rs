//! The shard controller: reads the sessions and the present map, lets [`brainy_coordination::controller`] decide the next
//! one, and publishes it by compare-and-swap. A read that fails changes nothing.

mod bucket;
mod configmap;
mod sessions;
mod summary;
mod topology;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use brainy_coordination::clock::Clock;
use brainy_coordination::controller::{Facts, Next, NodeSight, Rules, next_map};
use brainy_coordination::{Epoch, NodeId, ShardId, ShardMap};
use brainy_kubernetes::names;
use brainy_storage::documents::{DocumentVersion, Documents};
use kube::Client;

use crate::reconcile::Error;
use crate::reconcile::validate::ValidatedCluster;

pub use sessions::significant_hash;
pub use summary::Summary;
pub use topology::PodFacts;

/// Most shards on the way from one node to another at once (strategy Isolated): each has no server meanwhile.
const MOVES_AT_ONCE: usize = 8;
/// How long the first map of a shared bucket waits for all nodes: shards that are placed on the first node that comes up
/// would only have to move again.
const GATHER: Duration = Duration::from_secs(10);

/// What the controller remembers of one cluster between reconciles. Lost with the leadership: another leader observes
/// anew (R1).
#[derive(Debug, Default)]
pub struct Memory {
    observers: sessions::Observers,
    /// The epoch of this term (strategy Shared).
    epoch: Option<Epoch>,
    /// Since when some node has been live while there is no map.
    gathering_since: Option<Duration>,
    topology: topology::Memory,
}

/// One look at the shards of a cluster.
pub struct Controller<'a> {
    /// Bounded calls.
    pub client: &'a Client,
    /// Whose shards.
    pub cluster: &'a ValidatedCluster,
    /// The bucket (strategy Shared).
    pub bucket: Option<&'a Arc<dyn Documents>>,
    /// This operator process.
    pub identity: &'a str,
    /// The clock that observers count on.
    pub clock: &'a dyn Clock,
    /// Ordinals of the nodes whose volumes exist (strategy Isolated).
    pub volumes: &'a BTreeSet<i32>,
    /// What is known of the pods, for the topology.
    pub pods: &'a [PodFacts],
    /// From earlier looks.
    pub memory: &'a mut Memory,
}

/// A map as read, with the version that the next one replaces.
#[derive(Clone, Debug, Default)]
struct Present {
    map: Option<ShardMap>,
    version: Option<DocumentVersion>,
}

impl Controller<'_> {
    /// Looks, decides, publishes.
    pub async fn run(&mut self) -> Result<Summary, Error> {
        match self.bucket.cloned() {
            None => self.run_isolated().await,
            Some(bucket) => self.run_shared(&*bucket).await,
        }
    }

    async fn run_isolated(&mut self) -> Result<Summary, Error> {
        // The map before the sessions: what they say is then at least as new, as `Facts` asks for.
        let published = configmap::read(self.client, self.cluster).await?;
        let leases = sessions::from_leases(self.client, self.cluster).await?;
        // While a shard has no owner its data may be on a volume whose node does not run.
        let volumes = match &published.map {
            Some(map) if (0..map.shards()).all(|shard| map.owner(ShardId(shard)).is_some()) => BTreeSet::new(),
            _ => self.volumes.clone(),
        };
        let existing: BTreeSet<String> = leases.iter().map(|lease| lease.name.clone()).collect();
        let records = leases.into_iter().filter_map(sessions::FoundLease::into_found).collect();
        let sights = self.memory.observers.judge(records, self.clock.now());
        // The ConfigMap itself is the compare-and-swap: a new writer begins a new epoch with its first write.
        let epoch = match &published.map {
            Some(map) if map.writer == self.identity => map.epoch,
            other => Epoch(other.as_ref().map_or(0, |map| map.epoch.0) + 1),
        };
        let rules = Rules::Isolated { moves_at_once: MOVES_AT_ONCE };
        let nodes = sights.into_iter().map(|sight| (sight.record.node.clone(), sight)).collect();
        let (map, waiting) = match self.decide(published.map.as_ref(), rules, &nodes, &volumes, epoch) {
            Next::Keep { waiting } => (published.map, waiting),
            Next::Publish(map) => {
                configmap::write(self.client, self.cluster, &published, &map).await?;
                tracing::info!(cluster = self.cluster.name, revision = map.revision, "published a shard map");
                (Some(map), Some("a new shard map was published".to_owned()))
            }
        };
        let summary = Summary::new(map, &nodes, self.cluster, rules, waiting, existing);
        Ok(summary.with_volumes(self.cluster, &volumes))
    }

    async fn run_shared(&mut self, bucket: &dyn Documents) -> Result<Summary, Error> {
        let found = sessions::from_bucket(bucket).await?;
        let now = self.clock.now();
        let mut nodes: BTreeMap<NodeId, NodeSight> = BTreeMap::new();
        for session in found {
            let sight = self.memory.observers.judge_one(&session, now);
            // R8: what has lapsed is ended, from exactly the version that stood unchanged, before its shards go elsewhere.
            let sight =
                if sight.is_lapsed() { sessions::end(bucket, session, sight).await? } else { sight.into_sight() };
            nodes.insert(sight.record.node.clone(), sight);
        }
        let present = bucket::read_map(bucket).await?;
        let copy = configmap::read(self.client, self.cluster).await?;
        let epoch = self.epoch(bucket, present.map.as_ref()).await?;
        if present.map.is_none() && !self.gathered(&nodes, now) {
            let waiting = Some("waiting for the nodes before the first placement".to_owned());
            return Ok(Summary::new(None, &nodes, self.cluster, Rules::Shared, waiting, BTreeSet::new()));
        }
        let next = self.decide(present.map.as_ref(), Rules::Shared, &nodes, &BTreeSet::new(), epoch);
        let (map, waiting) = match self.republished(next, &present, &copy, epoch) {
            Next::Publish(map) => {
                bucket::write_map(bucket, &present, &map).await?;
                tracing::info!(cluster = self.cluster.name, revision = map.revision, "published a shard map");
                (Some(map), Some("a new shard map was published".to_owned()))
            }
            Next::Keep { waiting } => (present.map, waiting),
        };
        if let Some(map) = &map {
            // The bucket first, the copy after: what nodes read from the copy is always in the bucket.
            if copy.map.as_ref().is_none_or(|copy| (copy.epoch, copy.revision) < (map.epoch, map.revision)) {
                configmap::write(self.client, self.cluster, &copy, map).await?;
            }
            self.memory.topology.write(bucket, self.cluster, self.identity, map, &nodes, self.pods).await;
        }
        Ok(Summary::new(map, &nodes, self.cluster, Rules::Shared, waiting, BTreeSet::new()))
    }

    fn decide(
        &self,
        current: Option<&ShardMap>,
        rules: Rules,
        nodes: &BTreeMap<NodeId, NodeSight>,
        volumes: &BTreeSet<i32>,
        epoch: Epoch,
    ) -> Next {
        let wanted: Vec<NodeId> = wanted_nodes(self.cluster);
        let volumes: BTreeSet<NodeId> = volumes.iter().map(|ordinal| node(self.cluster, *ordinal)).collect();
        next_map(
            current,
            &Facts {
                cluster: &self.cluster.uid,
                shards: self.cluster.shards,
                rules,
                wanted: &wanted,
                volumes: &volumes,
                nodes,
                epoch,
                writer: self.identity,
            },
        )
    }

    /// The epoch of this term, taken once. A map of a later epoch means that another controller has taken over.
    async fn epoch(&mut self, bucket: &dyn Documents, map: Option<&ShardMap>) -> Result<Epoch, Error> {
        let in_map = map.map_or(Epoch(0), |map| map.epoch);
        let epoch = match self.memory.epoch {
            Some(epoch) => epoch,
            None => bucket::take_epoch(bucket, self.identity, in_map).await?,
        };
        if in_map > epoch {
            self.memory.epoch = None;
            return Err(Error::Deposed { ours: epoch.0, theirs: in_map.0 });
        }
        self.memory.epoch = Some(epoch);
        Ok(epoch)
    }

    /// Whether the first placement need not wait for more nodes.
    fn gathered(&mut self, nodes: &BTreeMap<NodeId, NodeSight>, now: Duration) -> bool {
        let live = |node: &NodeId| nodes.get(node).is_some_and(|sight| sight.live);
        let wanted = wanted_nodes(self.cluster);
        if wanted.iter().all(live) {
            return true;
        }
        if !wanted.iter().any(live) {
            self.memory.gathering_since = None;
            return false;
        }
        now.saturating_sub(*self.memory.gathering_since.get_or_insert(now)) >= GATHER
    }

    /// A map that should stand is written anew where it carries another cluster's UID (the data was adopted), or where the
    /// copy is ahead of it (the bucket was restored from an older state): nodes never go back to a lower revision.
    fn republished(&self, next: Next, present: &Present, copy: &Present, epoch: Epoch) -> Next {
        let ahead = copy.map.as_ref().map_or(0, |copy| copy.revision);
        match (next, &present.map) {
            (Next::Publish(map), _) => Next::Publish(ShardMap { revision: map.revision.max(ahead + 1), ..map }),
            (Next::Keep { .. }, Some(map)) if map.cluster != self.cluster.uid || map.revision < ahead => {
                Next::Publish(ShardMap {
                    revision: map.revision.max(ahead) + 1,
                    epoch,
                    writer: self.identity.to_owned(),
                    cluster: self.cluster.uid.clone(),
                    ..map.clone()
                })
            }
            (keep, _) => keep,
        }
    }
}

/// The nodes that the spec wants, by name.
fn wanted_nodes(cluster: &ValidatedCluster) -> Vec<NodeId> {
    (0..cluster.replicas).map(|ordinal| node(cluster, ordinal)).collect()
}

fn node(cluster: &ValidatedCluster, ordinal: i32) -> NodeId {
    NodeId(names::node(&cluster.name, ordinal))
}

#[cfg(test)]
mod tests;
