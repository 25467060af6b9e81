//! The shard controller: reads the sessions and the present map, lets [`brainy_coordination::controller`] decide the next
//! one, and publishes it by compare-and-swap. A read that fails changes nothing. With strategies Namespaced and Shared that
//! code is [`brainy_coordination::bucket`], and patterns StorageNative and Consensus leave it to a node: then the operator only
//! looks.

mod bucket;
mod configmap;
mod consensus;
mod nodes;
pub mod room;
mod sessions;
mod summary;
mod topology;
mod zones;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use brainy_coordination::bucket::spec::Pattern;
use brainy_coordination::clock::Clock;
use brainy_coordination::controller::give_up::{GiveUp, give_up};
use brainy_coordination::controller::{Facts, MOVES_AT_ONCE, Next, NodeSight, Rules, is_uneven, next_map};
use brainy_coordination::placement::{Policy, load::Patience};
use brainy_coordination::session::{Observers, SessionRecord};
use brainy_coordination::{Epoch, NodeId, ShardId, ShardMap};
use brainy_storage::documents::{DocumentVersion, Documents};
use kube::Client;

use crate::reconcile::Error;
use crate::reconcile::validate::ValidatedCluster;

use room::NodeVolume;

pub use configmap::{forget as forget_map, published as published_map};
pub use nodes::client_config;
pub use room::Volumes;
pub use sessions::significant_hash;
pub use summary::{GivenUp, Summary};
pub use topology::PodFacts;
pub use zones::LABEL as ZONE_LABEL;

/// The rules of strategy Isolated, where no other number of moves is asked for.
const ISOLATED: Rules = Rules::Isolated { moves_at_once: MOVES_AT_ONCE };

/// What the controller remembers of one cluster between reconciles. Lost with the leadership: another leader observes
/// anew (R1).
#[derive(Debug, Default)]
pub struct Memory {
    /// Of sessions in Leases (strategy Isolated).
    observers: Observers,
    /// Before shards move for load (strategy Isolated).
    patience: Patience,
    /// Volumes as the last look has shown them, with the map (strategy Isolated); none: nobody has looked yet.
    seen: Option<(ShardMap, Volumes)>,
    zones: zones::Memory,
    topology: topology::Memory,
    /// Strategy Namespaced or Shared.
    bucket: bucket::Memory,
    /// Pattern Consensus.
    consensus: consensus::Memory,
}

impl Memory {
    /// The volumes as the last look has shown them.
    pub fn volumes(&self) -> Option<&Volumes> {
        self.seen.as_ref().map(|(_, volumes)| volumes)
    }

    /// The zone of each node.
    pub async fn zones(&mut self, client: &Client, pods: &[PodFacts]) -> BTreeMap<NodeId, String> {
        self.zones.of_nodes(client, pods).await
    }

    /// Whether the shards of those that are to go may move to those that stay.
    pub fn room(&self, staying: &[NodeId], zones: &BTreeMap<NodeId, String>, was_short: bool) -> Room {
        match &self.seen {
            None => Room::Unknown,
            Some((map, volumes)) => {
                room::shortage(map, staying, zones, volumes, was_short).map_or(Room::Enough, Room::Short)
            }
        }
    }
}

/// Whether there is room for the shards of nodes that are to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Room {
    /// No look has shown any volume yet: the next one may.
    Unknown,
    /// There is, as far as anybody knows.
    Enough,
    /// There is not: in words.
    Short(String),
}

/// One look at the shards of a cluster.
pub struct Controller<'a> {
    /// Bounded calls.
    pub client: &'a Client,
    /// Whose shards.
    pub cluster: &'a ValidatedCluster,
    /// The bucket (strategies Namespaced and Shared).
    pub bucket: Option<&'a Arc<dyn Documents>>,
    /// This operator process.
    pub identity: &'a str,
    /// The clock that observers count on.
    pub clock: &'a dyn Clock,
    /// Slots of the nodes whose volumes with data exist (strategy Isolated).
    pub volumes: &'a BTreeSet<i32>,
    /// With which generation of the spec pattern Consensus began, for the nodes that there are.
    pub consensus_since: Option<i64>,
    /// A node whose volume is lost, and whose shards are to be placed anew, empty (strategy Isolated, pattern Leader).
    pub give_up: Option<&'a NodeId>,
    /// Nodes on machines that are being emptied: their shards go to others (strategies Namespaced and Shared).
    pub drained: &'a BTreeSet<NodeId>,
    /// Nodes that keep what they have: it finds no room elsewhere (strategy Isolated).
    pub kept: &'a BTreeSet<NodeId>,
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
        let mut summary = match (self.bucket.cloned(), self.cluster.pattern) {
            (bucket, Pattern::Consensus) => self.run_consensus(bucket.as_deref()).await?,
            (Some(bucket), _) => self.run_shared(&*bucket).await?,
            (None, _) => self.run_isolated().await?,
        };
        let left = |node: &NodeId| summary.map.as_ref().map_or(0, |map| map.shards_of(node).count());
        summary.emptied = self.drained.iter().map(|node| format!("{node} ({} shards left)", left(node))).collect();
        Ok(summary)
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
        let existing: BTreeSet<String> = leases.keys().cloned().collect();
        let now = self.clock.now();
        let sights = leases.values().flatten().map(|found| self.memory.observers.judge(found, now).into_sight());
        let nodes = sights.map(|sight| (sight.record.node.clone(), sight)).collect();
        // The ConfigMap itself is the compare-and-swap: a new writer begins a new epoch with its first write.
        let epoch = match &published.map {
            Some(map) if map.writer == self.identity => map.epoch,
            other => Epoch(other.as_ref().map_or(0, |map| map.epoch.0) + 1),
        };
        let policy = self.placement().await;
        let rules = ISOLATED.with_most(policy.max_moves);
        let mut given_up = None;
        let next = match (self.give_up.cloned(), &published.map) {
            (Some(lost), Some(map)) => {
                let is_ready = self.pods.iter().any(|pod| pod.node == lost && pod.ready);
                match self.judge_give_up(map, (rules, &policy), &nodes, (&lost, is_ready), epoch) {
                    GiveUp::Publish(map, shards) => {
                        given_up = Some(GivenUp::Done(shards));
                        Next::Publish(*map)
                    }
                    GiveUp::Wait(why) => {
                        given_up = Some(GivenUp::Waits(why));
                        self.decide(published.map.as_ref(), (rules, &policy), &nodes, &volumes, epoch)
                    }
                    GiveUp::Refuse(why) => {
                        given_up = Some(GivenUp::Refused(why));
                        self.decide(published.map.as_ref(), (rules, &policy), &nodes, &volumes, epoch)
                    }
                }
            }
            _ => self.decide(published.map.as_ref(), (rules, &policy), &nodes, &volumes, epoch),
        };
        let (map, waiting) = match next {
            Next::Keep { waiting } => (published.map, waiting),
            Next::Publish(map) => {
                configmap::write(self.client, self.cluster, &published, &map).await?;
                tracing::info!(cluster = self.cluster.name, revision = map.revision, "published a shard map");
                (Some(map), Some("a new shard map was published".to_owned()))
            }
        };
        self.note_volumes(map.as_ref(), &nodes);
        let mut summary = Summary::new(map, &nodes, self.cluster, rules, waiting, existing);
        summary.given_up = given_up;
        Ok(summary.with_volumes(self.cluster, &volumes))
    }

    /// Shows people what a map says that nodes go by: in the ConfigMap, and in the bucket, where there is one.
    async fn show(
        &mut self,
        copy: &Present,
        map: &ShardMap,
        nodes: &BTreeMap<NodeId, NodeSight>,
        (bucket, zones): (Option<&dyn Documents>, &BTreeMap<NodeId, String>),
    ) -> Result<(), Error> {
        if copy.map.as_ref().is_none_or(|copy| (copy.epoch, copy.revision) < (map.epoch, map.revision)) {
            configmap::write(self.client, self.cluster, copy, map).await?;
        }
        if let Some(bucket) = bucket {
            let topology = &mut self.memory.topology;
            topology.write(bucket, self.cluster, self.identity, map, nodes, (self.pods, zones)).await;
        }
        Ok(())
    }

    fn note_volumes(&mut self, map: Option<&ShardMap>, nodes: &BTreeMap<NodeId, NodeSight>) {
        let live = nodes.values().filter(|sight| sight.live).map(|sight| &sight.record);
        let volume = |record: &SessionRecord| {
            Some((record.node.clone(), NodeVolume { used: record.volume?, stored: record.stored.len() }))
        };
        self.memory.seen = map.map(|map| (map.clone(), live.filter_map(volume).collect()));
    }

    /// How shards are to be placed at the moment.
    async fn placement(&mut self) -> Policy {
        Policy { drained: self.drained.clone(), kept: self.kept.clone(), ..self.policy().await }
    }

    /// How shards are to be placed, whatever becomes of machines and volumes.
    pub async fn policy(&mut self) -> Policy {
        let zones = self.memory.zones.of_nodes(self.client, self.pods).await;
        Policy { balance: self.cluster.balance, max_moves: self.cluster.max_moves, zones, ..Policy::default() }
    }

    fn decide(
        &mut self,
        current: Option<&ShardMap>,
        (rules, placement): (Rules, &Policy),
        nodes: &BTreeMap<NodeId, NodeSight>,
        volumes: &BTreeSet<i32>,
        epoch: Epoch,
    ) -> Next {
        let wanted: Vec<NodeId> = wanted_nodes(self.cluster);
        let volumes: BTreeSet<NodeId> = volumes.iter().map(|slot| NodeId(self.cluster.layout.node(*slot))).collect();
        let mut facts = facts((self.cluster, self.identity), (rules, placement), (&wanted, &volumes, nodes), epoch);
        facts.may_even_out = self.memory.patience.is_over(is_uneven(current, &facts), self.clock.now());
        next_map(current, &facts)
    }

    fn judge_give_up(
        &self,
        map: &ShardMap,
        (rules, placement): (Rules, &Policy),
        nodes: &BTreeMap<NodeId, NodeSight>,
        (lost, is_ready): (&NodeId, bool),
        epoch: Epoch,
    ) -> GiveUp {
        let wanted: Vec<NodeId> = wanted_nodes(self.cluster);
        // Looked at only while a shard has no owner.
        let volumes = BTreeSet::new();
        let facts = facts((self.cluster, self.identity), (rules, placement), (&wanted, &volumes, nodes), epoch);
        give_up(map, &facts, lost, is_ready)
    }
}

fn facts<'a>(
    (cluster, writer): (&'a ValidatedCluster, &'a str),
    (rules, placement): (Rules, &'a Policy),
    (wanted, volumes, nodes): (&'a [NodeId], &'a BTreeSet<NodeId>, &'a BTreeMap<NodeId, NodeSight>),
    epoch: Epoch,
) -> Facts<'a> {
    Facts {
        cluster: &cluster.uid,
        shards: cluster.shards,
        rules,
        wanted,
        volumes,
        nodes,
        placement,
        may_even_out: false,
        epoch,
        writer,
    }
}

/// A failure with all that is known of it.
fn words(error: &brainy_storage::Error) -> String {
    match error {
        brainy_storage::Error::Unavailable { detail, .. } => detail.clone(),
        other => other.to_string(),
    }
}

/// The nodes that the spec wants, by name.
fn wanted_nodes(cluster: &ValidatedCluster) -> Vec<NodeId> {
    cluster.layout.nodes(cluster.replicas).map(NodeId).collect()
}

#[cfg(test)]
mod tests;
