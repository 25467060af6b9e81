//! The state of each shard on this node, and what the node knows of the others.
//!
//! A shard that is served here has a [`Tenure`]. Everything else about a shard follows from the newest map and from
//! what the strategy says it waits for.

mod views;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use brainy_coordination::bucket::election::Told;
use brainy_coordination::clock::Validity;
use brainy_coordination::elector::Term;
use brainy_coordination::session::{HeldShard, Meter, RegionLag, RegionsUse, Requests, ShardLoad, TieringLag};
use brainy_coordination::{FencingToken, NodeId, ShardId, ShardMap};
use brainy_storage::StorageAdapter;
use brainy_storage::layers::LayerStack;
use brainy_storage::layers::batching::BufferCounts;
use brainy_storage::layers::caching::CacheCounts;
use brainy_storage::layers::compression::Compression;
use brainy_storage::layers::limiting::LimitCounts;
use brainy_storage::layers::regions::{Plan, RegionLag as LayerLag, Regions, RegionsState};
use brainy_storage::layers::tiering::{TieringState, Tiers};
use tokio::sync::{broadcast, watch};
use tokio::time::Instant;

use super::freed::FreeLease;
use super::namespaced::Progress;
use super::requests::{AskError, MOST_WISHES};
use super::tenure::{Hold, Operation, Tenure};
use super::{Place, Renewed, ShardStores, ShardView, StoreProof, Wish, in_words};

/// Views kept for a slow watcher.
const WATCH_BUFFER: usize = 4096;
/// Renewals kept until the controller notes them; of those that are lost it learns at its next look.
const RENEWALS: usize = 1024;
/// The token of a process that runs alone.
const ALONE: FencingToken = FencingToken(1);

/// One shard's line in the table.
#[derive(Debug)]
struct Slot {
    phase: Phase,
    since: String,
    why: Option<String>,
    /// By whose wish the map has it where it is.
    wished_by: Option<NodeId>,
    /// Of what is done behind it while it is served.
    progress: Option<Arc<Progress>>,
}

#[derive(Debug)]
enum Phase {
    /// Not served here.
    Idle,
    /// Served.
    Serving(Arc<Tenure>),
    /// Takes no operation any more; those in flight are ending.
    Stopping(Arc<Tenure>),
}

/// What the whole node knows.
#[derive(Debug, Default)]
struct Known {
    map: Option<Arc<ShardMap>>,
    addresses: HashMap<NodeId, String>,
    /// Nodes whose sessions were over when they were looked at last.
    over: HashSet<NodeId>,
    session: Option<Validity>,
    sessions_lost: u64,
    /// By who found it.
    problems: BTreeMap<&'static str, String>,
    proof: Option<StoreProof>,
    /// A process that runs alone opens shards when they are first asked for.
    alone: Option<Arc<dyn ShardStores>>,
}

#[derive(Debug)]
pub(super) struct Table {
    node: NodeId,
    layers: LayerStack,
    slots: Vec<Mutex<Slot>>,
    /// Locked after a slot, never before.
    known: Mutex<Known>,
    changes: watch::Sender<u64>,
    views: broadcast::Sender<ShardView>,
    doubts: watch::Sender<u64>,
    nudges: watch::Sender<u64>,
    renewals: broadcast::Sender<Renewed>,
    freed: broadcast::Sender<FreeLease>,
    /// What this node says of the election, for as long as it leads.
    leads: Mutex<Option<(Told, Term)>>,
    started: Instant,
    meter: Mutex<Meter>,
    /// What this node asks for. Locked last.
    requests: Mutex<Requests>,
}

/// A panic while a lock was held leaves whole values behind: each update is one assignment.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Now, for people.
pub(super) fn now() -> String {
    crate::host::wall().to_string()
}

impl Table {
    pub(super) fn new(node: NodeId, shards: u32, layers: LayerStack) -> Arc<Self> {
        let slot = || Mutex::new(Slot { phase: Phase::Idle, since: now(), why: None, wished_by: None, progress: None });
        Arc::new(Self {
            node,
            layers,
            slots: (0..shards).map(|_| slot()).collect(),
            known: Mutex::default(),
            changes: watch::Sender::new(0),
            views: broadcast::Sender::new(WATCH_BUFFER),
            doubts: watch::Sender::new(0),
            nudges: watch::Sender::new(0),
            renewals: broadcast::Sender::new(RENEWALS),
            freed: broadcast::Sender::new(WATCH_BUFFER),
            leads: Mutex::default(),
            started: Instant::now(),
            meter: Mutex::default(),
            requests: Mutex::default(),
        })
    }

    pub(super) fn node(&self) -> &NodeId {
        &self.node
    }

    pub(super) fn shards(&self) -> u32 {
        u32::try_from(self.slots.len()).unwrap_or(u32::MAX)
    }

    /// Counts changes of any shard's place, from now on.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    pub(super) fn watch(&self) -> broadcast::Receiver<ShardView> {
        self.views.subscribe()
    }

    /// Something that this node believes of another has proved wrong.
    pub(super) fn doubt(&self) {
        self.doubts.send_modify(|count| *count += 1);
    }

    pub(super) fn doubts(&self) -> watch::Receiver<u64> {
        self.doubts.subscribe()
    }

    /// Another node says that there is something new in the store.
    pub(super) fn nudge(&self) {
        self.nudges.send_modify(|count| *count += 1);
    }

    pub(super) fn nudges(&self) -> watch::Receiver<u64> {
        self.nudges.subscribe()
    }

    /// Another node says that it has renewed its session. Answers how the election stands, if this node holds it.
    pub(super) fn hear(&self, renewed: Renewed) -> Option<Told> {
        // Nobody listening is no error: this node is no controller.
        let _listeners = self.renewals.send(renewed);
        let leads = lock(&self.leads).clone();
        leads.filter(|(_, term)| term.is_valid()).map(|(told, _)| told)
    }

    /// What to say of the election until the term is over.
    pub(super) fn lead(&self, told: Told, term: Term) {
        *lock(&self.leads) = Some((told, term));
    }

    /// Another node says that it has released these leases.
    pub(super) fn free(&self, leases: impl IntoIterator<Item = FreeLease>) {
        for free in leases {
            // Nobody listening is no error: this node takes no leases.
            let _listeners = self.freed.send(free);
        }
    }

    pub(super) fn freed(&self) -> broadcast::Receiver<FreeLease> {
        self.freed.subscribe()
    }

    pub(super) fn renewals(&self) -> broadcast::Receiver<Renewed> {
        self.renewals.subscribe()
    }

    fn slot(&self, shard: ShardId) -> Option<&Mutex<Slot>> {
        self.slots.get(shard.0 as usize)
    }

    fn no_such(&self, shard: ShardId) -> String {
        format!("there is no shard {shard}: this cluster has {}", self.shards())
    }

    /// The first check of R3.
    pub(super) fn place(&self, shard: ShardId) -> Place {
        let Some(slot) = self.slot(shard) else {
            return Place::Nowhere { why: self.no_such(shard) };
        };
        let mut slot = lock(slot);
        if let Phase::Serving(tenure) = &slot.phase
            && tenure.stands()
        {
            return Place::Here(Operation::begin(tenure));
        }
        let known = lock(&self.known);
        if let (Some(stores), Some(session)) = (&known.alone, &known.session) {
            return match stores.open(shard, ALONE) {
                Ok(storage) => {
                    let tenure = Tenure::new(ALONE, self.storage(shard, storage, session), session.clone(), None);
                    let operation = Operation::begin(&tenure);
                    slot.phase = Phase::Serving(tenure);
                    Place::Here(operation)
                }
                Err(error) => Place::Nowhere { why: in_words(&error) },
            };
        }
        self.elsewhere(shard, &slot, &known)
    }

    fn elsewhere(&self, shard: ShardId, slot: &Slot, known: &Known) -> Place {
        let Some(map) = &known.map else {
            let why = self.session_trouble(known).or_else(|| slot.why.clone());
            return Place::Nowhere { why: why.unwrap_or_else(|| "no shard map has been seen yet".into()) };
        };
        match map.owner(shard) {
            None => Place::Nowhere { why: format!("shard {shard} has no owner yet") },
            Some(owner) if *owner == self.node => {
                let why = self.session_trouble(known).or_else(|| slot.why.clone());
                Place::Nowhere { why: why.unwrap_or_else(|| format!("shard {shard} is being taken")) }
            }
            Some(owner) => match known.addresses.get(owner) {
                Some(address) => Place::Elsewhere { node: owner.clone(), address: address.clone() },
                None => Place::Nowhere { why: format!("{owner} owns shard {shard}, but its address is not known yet") },
            },
        }
    }

    fn session_trouble(&self, known: &Known) -> Option<String> {
        let lapsed = !known.session.as_ref().is_some_and(Validity::holds);
        lapsed.then(|| format!("{} has no valid session", self.node))
    }

    /// Serves every shard, opened when first asked for.
    pub(super) fn serve_all(&self, stores: Arc<dyn ShardStores>, session: Validity) {
        let mut known = lock(&self.known);
        known.alone = Some(stores);
        known.session = Some(session);
    }

    pub(super) fn compression(&self) -> Option<Compression> {
        self.layers.compression()
    }

    /// How often the cache had the answer, where there is one.
    pub(super) fn cache_counts(&self) -> Option<CacheCounts> {
        self.layers.cache_counts()
    }

    /// What was acknowledged before it was durable, where that may be.
    pub(super) fn buffer_counts(&self) -> Option<BufferCounts> {
        self.layers.buffer_counts()
    }

    /// The tiers of the shards, where they have two.
    pub(super) fn tiers(&self) -> Option<&Tiers> {
        self.layers.tiers()
    }

    /// How these stand.
    pub(super) fn tiering_state(&self) -> Option<TieringState> {
        self.layers.tiering_state()
    }

    /// How far the cold tier is behind, where there is one.
    pub(super) fn tiering_lag(&self) -> Option<TieringLag> {
        let lag = self.tiering_state()?.lag;
        let (keys, seconds) = (lag.keys, lag.oldest_ms / 1000);
        Some(TieringLag { keys, seconds, away: lag.problem.is_some(), foreign: lag.foreign })
    }

    /// The regions of the shards, where they are in several.
    pub(super) fn regions(&self) -> Option<(&Regions, &Plan)> {
        self.layers.regions().map(|(regions, others)| (regions, others.plan()))
    }

    /// How these stand.
    pub(super) fn regions_state(&self) -> Option<RegionsState> {
        self.layers.regions_state()
    }

    /// The same in short, where there are several.
    pub(super) fn regions_use(&self) -> Option<RegionsUse> {
        let (plan, state) = (self.regions()?.1, self.regions_state()?);
        // The own one is behind where it was emptied, and is repaired.
        let is_told = |lag: &&LayerLag| lag.region != plan.here() || lag.keys > 0;
        let lag = |lag: &LayerLag| RegionLag {
            region: lag.region.clone(),
            keys: lag.keys,
            seconds: lag.oldest_ms / 1000,
            away: lag.problem.is_some(),
        };
        Some(RegionsUse {
            own: plan.here().to_owned(),
            lag: state.lag.iter().filter(is_told).map(lag).collect(),
            filling: plan.names().iter().filter(|region| state.filling(region) > 0).cloned().collect(),
            homes: state.homes,
            moving: state.moving,
        })
    }

    /// How busy storage is, where it is limited.
    pub(super) fn limit_counts(&self) -> Option<LimitCounts> {
        self.layers.limit_counts()
    }

    /// Begins a tenure. One before it goes on for the operations in flight under it.
    pub(super) fn serve(
        &self,
        shard: ShardId,
        token: FencingToken,
        storage: Arc<dyn StorageAdapter>,
        session: Validity,
    ) {
        self.change(shard, |slot| {
            let before = match &slot.phase {
                // What is in flight under it may yet be acknowledged, and what was acknowledged be flushed: the new
                // tenure must see the same cache and queue.
                Phase::Serving(before) | Phase::Stopping(before) => Some(Arc::clone(before)),
                Phase::Idle => None,
            };
            let goes_on = before.as_ref().and_then(|before| before.goes_on());
            if let Some((storage, _)) = &goes_on {
                storage.resume();
            }
            let storage = goes_on.unwrap_or_else(|| self.storage(shard, storage, &session));
            slot.phase = Phase::Serving(Tenure::new(token, storage, session, before));
            slot.why = None;
        });
    }

    /// What is served is read through to the data of earlier tenures; `None`: it is not.
    pub(super) fn reads_through(&self, shard: ShardId, progress: Option<Arc<Progress>>) {
        if let Some(slot) = self.slot(shard) {
            lock(slot).progress = progress;
        }
    }

    /// A shard's storage below its layers, written to while the session holds.
    fn storage(
        &self,
        shard: ShardId,
        store: Arc<dyn StorageAdapter>,
        session: &Validity,
    ) -> (Arc<dyn StorageAdapter>, Arc<Hold>) {
        let hold = Hold::new(session.clone());
        (self.layers.over_while(&shard.to_string(), store, hold.claim()), Arc::new(hold))
    }

    /// Lets no more operations in. The tenure that was, to be [ended](Tenure::end).
    pub(super) fn stop(&self, shard: ShardId, why: &str) -> Option<Arc<Tenure>> {
        let tenure = match &lock(self.slot(shard)?).phase {
            Phase::Idle => return None,
            Phase::Stopping(tenure) => return Some(Arc::clone(tenure)),
            Phase::Serving(tenure) => Arc::clone(tenure),
        };
        self.change(shard, |slot| {
            slot.phase = Phase::Stopping(Arc::clone(&tenure));
            slot.why = Some(why.to_owned());
        });
        Some(tenure)
    }

    /// Not served here (any more); `why` says what for the time being keeps a shard of this node's from being served.
    pub(super) fn rest(&self, shard: ShardId, why: Option<String>) {
        let Some(slot) = self.slot(shard) else { return };
        let same = {
            let slot = lock(slot);
            matches!(slot.phase, Phase::Idle) && slot.why == why
        };
        if !same {
            self.change(shard, |slot| {
                slot.phase = Phase::Idle;
                slot.why = why;
                slot.progress = None;
            });
        }
    }

    fn change(&self, shard: ShardId, change: impl FnOnce(&mut Slot)) {
        let Some(slot) = self.slot(shard) else { return };
        let view = {
            let mut slot = lock(slot);
            change(&mut slot);
            slot.since = now();
            self.view(shard, &slot, &lock(&self.known))
        };
        // Nobody listening is no error.
        let _listeners = self.views.send(view);
        self.changes.send_modify(|count| *count += 1);
    }

    /// The tenure of a shard that is served, if it still stands.
    pub(super) fn tenure(&self, shard: ShardId) -> Option<Arc<Tenure>> {
        match &lock(self.slot(shard)?).phase {
            Phase::Serving(tenure) if tenure.stands() => Some(Arc::clone(tenure)),
            _ => None,
        }
    }

    /// The token under which an operation of this shard that is under way would be acknowledged.
    #[cfg(test)]
    pub(super) fn stands(&self, shard: ShardId) -> Option<FencingToken> {
        match &lock(self.slot(shard)?).phase {
            Phase::Serving(tenure) | Phase::Stopping(tenure) if tenure.stands() => Some(tenure.token()),
            _ => None,
        }
    }

    /// How often anything has changed.
    #[cfg(test)]
    pub(super) fn changed(&self) -> u64 {
        *self.changes.borrow()
    }

    /// What is served here.
    pub(super) fn held(&self) -> Vec<HeldShard> {
        let shards = (0..self.shards()).map(ShardId);
        shards.filter_map(|shard| Some(HeldShard { shard, token: self.tenure(shard)?.token() })).collect()
    }

    /// What is asked of the shards that are served here, as measured last; measured again when it is time to.
    pub(super) fn loads(&self) -> Vec<ShardLoad> {
        let (now, mut meter) = (self.started.elapsed(), lock(&self.meter));
        if meter.is_due(now) {
            let shards = (0..self.shards()).map(ShardId);
            meter.measure(shards.filter_map(|shard| Some((shard, self.tenure(shard)?.operations()))), now);
        }
        meter.loads()
    }

    /// What this node asks for.
    pub(super) fn requests(&self) -> Requests {
        lock(&self.requests).clone()
    }

    /// Changes what this node asks for, unless that would be too much.
    pub(super) fn ask(&self, change: impl FnOnce(&mut Requests)) -> Result<(), AskError> {
        let (before, after) = {
            let mut requests = lock(&self.requests);
            let mut after = requests.clone();
            change(&mut after);
            if after.acquire.len() + after.release.len() > MOST_WISHES {
                return Err(AskError::TooMany);
            }
            (std::mem::replace(&mut *requests, after.clone()), after)
        };
        for (at, slot) in (0..).zip(&self.slots) {
            let shard = ShardId(at);
            if Wish::of(&before, shard) != Wish::of(&after, shard) {
                let view = self.view(shard, &lock(slot), &lock(&self.known));
                let _listeners = self.views.send(view);
            }
        }
        self.changes.send_modify(|count| *count += 1);
        Ok(())
    }

    pub(super) fn map(&self) -> Option<Arc<ShardMap>> {
        lock(&self.known).map.clone()
    }

    /// Takes note of a newer map. Does not stop anything: that is for the strategy to do in its order.
    pub(super) fn learn_map(&self, map: Arc<ShardMap>) {
        let before = lock(&self.known).map.replace(Arc::clone(&map));
        for (index, slot) in (0..).zip(&self.slots) {
            let shard = ShardId(index);
            let is_same = |before: &Arc<ShardMap>| {
                (before.owner(shard), before.moving_to(shard)) == (map.owner(shard), map.moving_to(shard))
            };
            if before.as_ref().map_or(map.owner(shard).is_none(), is_same) {
                continue;
            }
            let mut slot = lock(slot);
            slot.wished_by = map.wished_by(shard).cloned();
            if before.as_ref().and_then(|before| before.owner(shard)) == map.owner(shard) {
                continue;
            }
            slot.since = now();
            if matches!(slot.phase, Phase::Idle) {
                slot.why = None;
            }
            let _listeners = self.views.send(self.view(shard, &slot, &lock(&self.known)));
        }
        self.changes.send_modify(|count| *count += 1);
    }

    /// Takes note of where other nodes are. Addresses not among them stay as they were.
    pub(super) fn learn_addresses(&self, addresses: impl IntoIterator<Item = (NodeId, String)>) {
        let mut known = lock(&self.known);
        let mut changed = false;
        for (node, address) in addresses {
            changed |= known.addresses.insert(node, address.clone()).as_ref() != Some(&address);
        }
        drop(known);
        if changed {
            self.changes.send_modify(|count| *count += 1);
        }
    }

    /// Whether the address of a node is known.
    pub(super) fn address(&self, node: &NodeId) -> Option<String> {
        lock(&self.known).addresses.get(node).cloned()
    }

    /// Takes note of whether a node's session is over.
    pub(super) fn learn_over(&self, node: &NodeId, over: bool) {
        let mut known = lock(&self.known);
        let changed = if over { known.over.insert(node.clone()) } else { known.over.remove(node) };
        drop(known);
        if changed {
            self.changes.send_modify(|count| *count += 1);
        }
    }

    /// Whether it was over when it was looked at last.
    pub(super) fn is_over(&self, node: &NodeId) -> bool {
        lock(&self.known).over.contains(node)
    }

    /// The session that carries this node now.
    pub(super) fn learn_session(&self, session: Option<Validity>) {
        let mut known = lock(&self.known);
        known.sessions_lost += u64::from(known.session.is_some() && session.is_none());
        known.session = session;
        self.changes.send_modify(|count| *count += 1);
    }

    /// Notes or clears what keeps this node from its work, as `source` sees it.
    pub(super) fn problem(&self, source: &'static str, problem: Option<String>) {
        let mut known = lock(&self.known);
        let before = match problem {
            Some(problem) => {
                if known.problems.get(source) != Some(&problem) {
                    tracing::warn!(source, problem, "this node has a problem");
                }
                known.problems.insert(source, problem)
            }
            None => known.problems.remove(source),
        };
        if before.is_some() && !known.problems.contains_key(source) {
            tracing::info!(source, "the problem is gone");
        }
    }

    /// What keeps this node from its work.
    pub(super) fn problems(&self) -> Option<String> {
        let known = lock(&self.known);
        let all: Vec<&str> = known.problems.values().map(String::as_str).collect();
        (!all.is_empty()).then(|| all.join("; "))
    }

    /// Takes note of what the store was proved to do.
    pub(super) fn learn_proof(&self, proof: StoreProof) {
        lock(&self.known).proof = Some(proof);
    }

    pub(super) fn store_proof(&self) -> Option<StoreProof> {
        lock(&self.known).proof.clone()
    }

    /// Serves nothing any more, and has no session: what is in flight ends with an unknown outcome.
    pub(super) fn drop_all(&self, why: &str) {
        for shard in (0..self.shards()).map(ShardId) {
            if let Some(tenure) = self.stop(shard, why) {
                tenure.give_up();
            }
            self.rest(shard, Some(why.to_owned()));
        }
        self.learn_session(None);
    }

    /// Lets no more operations in, anywhere. The tenures that were, to be ended.
    pub(super) fn stop_all(&self, why: &str) -> Vec<Arc<Tenure>> {
        lock(&self.known).alone = None;
        (0..self.shards()).filter_map(|shard| self.stop(ShardId(shard), why)).collect()
    }
}
