//! The controller's one look at a cluster: reads the sessions and the present map, lets [`next_map`] decide the next one,
//! and publishes it by compare-and-swap. A read that fails changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use brainy_storage::documents::{DocumentVersion, Documents};

use super::{Error, read, sessions, write};
use crate::clock::Clock;
use crate::controller::{Facts, Next, NodeSight, Rules, is_uneven, next_map};
use crate::placement::{Policy, load};
use crate::session::SharedObservers;
use crate::{Epoch, NodeId, ShardMap, names};

/// How long the first map waits for all nodes: shards that are placed on the first node that comes up would only have to
/// move again.
pub const GATHER: Duration = Duration::from_secs(10);

/// What is remembered between looks. Lost with the leadership: another controller observes anew (R1).
#[derive(Debug, Default)]
pub struct Memory {
    observers: SharedObservers,
    /// Since when some node has been live while there is no map.
    gathering_since: Option<Duration>,
    patience: load::Patience,
}

impl Memory {
    /// Goes on with what this process has observed before it was the controller.
    pub fn with(observers: SharedObservers) -> Self {
        Self { observers, ..Self::default() }
    }

    /// Until the first of the sessions lapses that were seen, by what has been heard of them since.
    pub fn next_lapse(&self, seen: &Seen, now: Duration) -> Option<Duration> {
        let live = seen.nodes.values().filter(|sight| sight.live).map(|sight| &sight.record);
        self.observers.next_lapse(live, now)
    }
}

/// The right to publish maps.
pub struct Office<'a> {
    /// Who has it.
    pub holder: &'a str,
    /// Under which epoch.
    pub epoch: Epoch,
    /// Whether it still has it: asked before each write.
    pub holds: &'a (dyn Fn() -> bool + Send + Sync),
}

/// Where to look, and from what to decide.
pub struct Look<'a> {
    /// The bucket.
    pub documents: &'a dyn Documents,
    /// UID of the BrainyCluster.
    pub cluster: &'a str,
    /// How many shards.
    pub shards: u32,
    /// By which rules they are placed.
    pub rules: Rules,
    /// The nodes that should be there.
    pub wanted: &'a [NodeId],
    /// See [`Facts::volumes`].
    pub volumes: &'a BTreeSet<NodeId>,
    /// How shards are to be placed on them.
    pub placement: &'a Policy,
    /// The clock that observers count on.
    pub clock: &'a dyn Clock,
    /// The highest revision that is known to have been published, also where the bucket was put back to an older state:
    /// nodes never go back to a lower one.
    pub published: u64,
    /// From earlier looks.
    pub memory: &'a mut Memory,
}

/// What a look has shown.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The published map; none yet.
    pub map: Option<ShardMap>,
    /// The nodes' sessions, judged.
    pub nodes: BTreeMap<NodeId, NodeSight>,
    /// What is waited for.
    pub waiting: Option<String>,
    /// This look published the map.
    pub published: bool,
    /// Until the first of the sessions lapses, if it is not renewed.
    pub next_lapse: Option<Duration>,
}

impl Seen {
    /// Whether every live node has acted on the map, and nothing is waited for: another look soon would show nothing new.
    pub fn is_settled(&self) -> bool {
        let revision = self.map.as_ref().map_or(0, |map| map.revision);
        let acted = |sight: &NodeSight| !sight.live || (sight.record.map_revision >= revision && !sight.record.leaving);
        self.waiting.is_none() && !self.published && self.nodes.values().all(acted)
    }
}

/// A map as read, with the version that the next one replaces.
struct Present {
    map: Option<ShardMap>,
    version: Option<DocumentVersion>,
}

impl Look<'_> {
    /// Looks, ends the sessions that have lapsed (R8), decides, publishes.
    pub async fn control(&mut self, office: &Office<'_>) -> Result<Seen, Error> {
        let now = self.clock.now();
        // The map before the sessions: what they say is then at least as new, as `Facts` asks for.
        let present = self.present().await?;
        let mut nodes = BTreeMap::new();
        for session in sessions::all(self.documents).await? {
            let verdict = self.memory.observers.judge(&session, self.clock.now());
            let sight = match verdict.is_lapsed() {
                true => {
                    must_hold(office)?;
                    sessions::end(self.documents, session, verdict).await?
                }
                false => verdict.into_sight(),
            };
            nodes.insert(sight.record.node.clone(), sight);
        }
        let in_map = present.map.as_ref().map_or(Epoch(0), |map| map.epoch);
        if in_map > office.epoch {
            return Err(Error::Deposed { ours: office.epoch, theirs: in_map });
        }
        // With volumes the first map names nobody, and so waits for all by itself.
        if self.rules == Rules::Shared && present.map.is_none() && !self.gathered(&nodes, now) {
            let waiting = Some("waiting for the nodes before the first placement".to_owned());
            return Ok(self.seen(None, nodes, waiting, false));
        }
        let next = self.decide(present.map.as_ref(), &nodes, office);
        match self.republished(next, present.map.as_ref(), office) {
            Next::Keep { waiting } => Ok(self.seen(present.map, nodes, waiting, false)),
            Next::Publish(map) => {
                must_hold(office)?;
                write(self.documents, names::SHARD_MAP, present.version.as_ref(), &map).await?;
                tracing::info!(revision = map.revision, epoch = map.epoch.0, "published a shard map");
                Ok(self.seen(Some(map), nodes, Some("a new shard map was published".to_owned()), true))
            }
        }
    }

    /// Only looks: for who is not the controller, and has to say how the cluster is.
    pub async fn observe(&mut self) -> Result<Seen, Error> {
        let present = self.present().await?;
        let mut nodes = BTreeMap::new();
        for session in sessions::all(self.documents).await? {
            let sight = self.memory.observers.judge(&session, self.clock.now()).into_sight();
            nodes.insert(sight.record.node.clone(), sight);
        }
        let nobody = Office { holder: "", epoch: Epoch(0), holds: &|| false };
        let waiting = match self.decide(present.map.as_ref(), &nodes, &nobody) {
            Next::Keep { waiting } => waiting,
            Next::Publish(_) => Some("the controller has yet to publish the next shard map".to_owned()),
        };
        Ok(self.seen(present.map, nodes, waiting, false))
    }

    async fn present(&self) -> Result<Present, Error> {
        let found = read(self.documents, names::SHARD_MAP).await?;
        let (map, version) = found.map_or((None, None), |(map, version)| (Some(map), Some(version)));
        Ok(Present { map, version })
    }

    fn seen(
        &self,
        map: Option<ShardMap>,
        nodes: BTreeMap<NodeId, NodeSight>,
        waiting: Option<String>,
        published: bool,
    ) -> Seen {
        let mut seen = Seen { map, nodes, waiting, published, next_lapse: None };
        seen.next_lapse = self.memory.next_lapse(&seen, self.clock.now());
        seen
    }

    fn decide(&mut self, current: Option<&ShardMap>, nodes: &BTreeMap<NodeId, NodeSight>, office: &Office<'_>) -> Next {
        // With volumes a map is the truth or nothing: one from before another, or of an earlier cluster over the same volumes
        // (whose other nodes may not run here), is found anew from what the volumes hold.
        let current = current.filter(|map| self.rules == Rules::Shared || !self.is_behind(map));
        let mut facts = Facts {
            cluster: self.cluster,
            shards: self.shards,
            rules: self.rules.with_most(self.placement.max_moves),
            wanted: self.wanted,
            volumes: self.volumes,
            nodes,
            placement: self.placement,
            may_even_out: false,
            epoch: office.epoch,
            writer: office.holder,
        };
        facts.may_even_out = self.memory.patience.is_over(is_uneven(current, &facts), self.clock.now());
        next_map(current, &facts)
    }

    /// Whether the first placement need not wait for more nodes.
    fn gathered(&mut self, nodes: &BTreeMap<NodeId, NodeSight>, now: Duration) -> bool {
        let live = |node: &NodeId| nodes.get(node).is_some_and(|sight| sight.live);
        if self.wanted.iter().all(live) {
            return true;
        }
        if !self.wanted.iter().any(live) {
            self.memory.gathering_since = None;
            return false;
        }
        now.saturating_sub(*self.memory.gathering_since.get_or_insert(now)) >= GATHER
    }

    fn is_behind(&self, map: &ShardMap) -> bool {
        map.cluster != self.cluster || map.revision < self.published
    }

    /// A map that should stand is written anew where it carries another cluster's UID (the data was adopted), or where a
    /// newer one was published before (the bucket was put back to an older state).
    fn republished(&self, next: Next, present: Option<&ShardMap>, office: &Office<'_>) -> Next {
        match (next, present) {
            (Next::Publish(map), _) => {
                Next::Publish(ShardMap { revision: map.revision.max(self.published + 1), ..map })
            }
            (Next::Keep { .. }, Some(map)) if self.is_behind(map) => Next::Publish(ShardMap {
                revision: map.revision.max(self.published) + 1,
                epoch: office.epoch,
                writer: office.holder.to_owned(),
                cluster: self.cluster.to_owned(),
                ..map.clone()
            }),
            (keep, _) => keep,
        }
    }
}

fn must_hold(office: &Office<'_>) -> Result<(), Error> {
    if (office.holds)() { Ok(()) } else { Err(Error::NotLeading) }
}
