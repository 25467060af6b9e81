//! Strategies Shared and Namespaced: takes the leases of the shards that the map gives to this node, and releases those that it gives to
//! others. The map is a wish; the lease is the truth, valid while the session is that took it.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use brainy_coordination::lease::{HolderSession, ShardLease, Take, Taker, may_take, release};
use brainy_coordination::session::Report;
use brainy_coordination::session::holder::Life;
use brainy_coordination::{ShardId, ShardMap};
use brainy_storage::Error;
use brainy_storage::documents::{DocumentVersion, Documents, Swap};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::Instant;

use super::actions::{Actions, Done};
use super::freed::FreeLease;
use super::layout::Layout;
use super::maps::Maps;
use super::namespaced::{Keeper, SHARDS_AT_ONCE};
use super::nodes::{Holder, Nodes};
use super::session::{Reporting, read_document, write_document};
use super::table::{Table, now};
use super::takes::Takes;
use super::tenure::Tenure;
use super::{in_words, stopped};

/// Leases taken or released at once.
const AT_ONCE: usize = 64;
/// How long the first try to take a lease waits for its owner, which lives, to say that it has released it.
const EXPECTED: Duration = Duration::from_millis(200);
/// Longest wait for one call on a lease.
const CALL_LIMIT: Duration = Duration::from_secs(10);
/// Longest wait for the map to give this node's shards to others when it is told to stop. Until then it serves them.
const LEAVE_LIMIT: Duration = Duration::from_secs(5);
/// Longest wait for operations in flight when a shard is given away.
const IN_FLIGHT_LIMIT: Duration = Duration::from_secs(5);

/// A lease that is this life's own.
struct Held {
    /// As written last.
    lease: ShardLease,
    version: DocumentVersion,
    /// Where there is data of earlier tenures.
    keeper: Option<Keeper>,
}

/// The leases of one node.
pub(super) struct Shared {
    table: Arc<Table>,
    maps: Arc<Maps>,
    nodes: Arc<Nodes>,
    /// In the bucket, beside the data: a token is lost only with what was written under it.
    leases: Arc<dyn Documents>,
    layout: Arc<dyn Layout>,
    lives: watch::Receiver<Option<Life>>,
    /// The leases that are this life's own.
    held: Mutex<HashMap<ShardId, Held>>,
    /// What is known of those that it may take.
    takes: Takes,
    /// Shards that could not be taken because something failed, and what. Over when the shard is another node's.
    failing: Mutex<BTreeMap<ShardId, String>>,
    acted_on: AtomicU64,
    /// Told to stop: the map is to give the shards to others first.
    leaving: AtomicBool,
    news: watch::Sender<u64>,
    calls: Semaphore,
    /// For keepers.
    turns: Arc<Semaphore>,
    /// Shards of which a lease does not say yet what its keeper has done.
    kept: (mpsc::UnboundedSender<ShardId>, tokio::sync::Mutex<mpsc::UnboundedReceiver<ShardId>>),
    /// Where leases go that this node has released.
    released: mpsc::UnboundedSender<FreeLease>,
}

/// Resolves when the time to leave is over; never while there is none.
async fn left(by: Option<Instant>) {
    match by {
        Some(by) => tokio::time::sleep_until(by).await,
        None => std::future::pending().await,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Reporting for Shared {
    fn report(&self) -> Report {
        Report {
            map_revision: self.acted_on.load(Ordering::SeqCst),
            leaving: self.leaving.load(Ordering::SeqCst),
            holds: self.table.held(),
            load: self.table.loads(),
            requests: self.table.requests(),
            regions: self.table.regions_use(),
            problem: self.table.problems(),
            ..Report::default()
        }
    }
}

impl Shared {
    pub(super) fn new(
        table: Arc<Table>,
        maps: Arc<Maps>,
        nodes: Arc<Nodes>,
        (leases, layout): (Arc<dyn Documents>, Arc<dyn Layout>),
        lives: watch::Receiver<Option<Life>>,
        (news, released): (watch::Sender<u64>, mpsc::UnboundedSender<FreeLease>),
    ) -> Arc<Self> {
        let (tell, told) = mpsc::unbounded_channel();
        Arc::new(Self {
            table,
            maps,
            nodes,
            leases,
            layout,
            lives,
            held: Mutex::default(),
            takes: Takes::default(),
            failing: Mutex::default(),
            acted_on: AtomicU64::new(0),
            leaving: AtomicBool::new(false),
            news,
            calls: Semaphore::new(AT_ONCE),
            turns: Arc::new(Semaphore::new(SHARDS_AT_ONCE)),
            kept: (tell, tokio::sync::Mutex::new(told)),
            released,
        })
    }

    /// Runs until `stop`; then has the map give its shards to others, for a bounded time, and releases everything.
    pub(super) async fn run(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        // What was in the way before the store was opened anew is not known to be any more.
        self.table.problem("leases", None);
        let mut actions = Actions::default();
        let (mut maps, mut lives) = (self.maps.subscribe(), self.lives.clone());
        let mut leave_by: Option<Instant> = None;
        let mut stopping = false;
        let mut kept = self.kept.1.lock().await;
        let mut freed = self.table.freed();
        let mut before: Option<Arc<ShardMap>> = None;
        loop {
            let life = lives.borrow_and_update().clone();
            let map = maps.borrow_and_update().clone();
            for shard in self.given(before.as_deref(), map.as_deref()) {
                actions.expect(shard, EXPECTED);
            }
            before.clone_from(&map);
            if life.is_none() {
                self.drop_all();
            }
            if let Some(by) = leave_by {
                let gives_away = life.is_some() && map.as_deref().is_some_and(|map| self.gives_away(map));
                stopping = stopping || !gives_away || Instant::now() >= by;
            }
            if stopping && actions.is_idle() && lock(&self.held).is_empty() {
                return;
            }
            for shard in (0..self.table.shards()).map(ShardId) {
                self.plan(&mut actions, shard, map.as_deref(), life.as_ref(), stopping);
            }
            if let Some(map) = &map
                && self.acted_on.fetch_max(map.revision, Ordering::SeqCst) < map.revision
            {
                self.news.send_modify(|count| *count += 1);
            }
            // Until the map or the life changes, only shards whose action has ended need another look.
            loop {
                tokio::select! {
                    biased; // However much there is to do, a life that ends comes first.
                    _ = lives.changed() => break,
                    _ = maps.changed() => break,
                    () = stopped(&mut stop), if leave_by.is_none() => {
                        leave_by = Some(Instant::now() + LEAVE_LIMIT);
                        self.leaving.store(true, Ordering::SeqCst);
                        self.news.send_modify(|count| *count += 1);
                        break;
                    }
                    () = left(leave_by), if !stopping => break,
                    // It never ends: this node holds a sender itself.
                    Some(shard) = kept.recv() => self.plan(&mut actions, shard, map.as_deref(), life.as_ref(), stopping),
                    Ok(free) = freed.recv() => {
                        let shard = free.lease.shard;
                        self.takes.hear(free);
                        actions.hurry_for(shard);
                        self.plan(&mut actions, shard, map.as_deref(), life.as_ref(), stopping);
                    }
                    shard = actions.next() => {
                        self.plan(&mut actions, shard, map.as_deref(), life.as_ref(), stopping);
                        if stopping && actions.is_idle() {
                            break;
                        }
                    }
                }
            }
            actions.hurry();
        }
    }

    /// Shards that a map newly gives to this node, and the one before it to another that lives, which will release them.
    fn given(&self, before: Option<&ShardMap>, map: Option<&ShardMap>) -> Vec<ShardId> {
        let (Some(before), Some(map)) = (before, map) else { return Vec::new() };
        let is_given = |shard: &ShardId| {
            let owner = before.owner(*shard).filter(|owner| *owner != self.table.node());
            owner.is_some_and(|owner| map.nodes.contains(owner) && !self.table.is_over(owner))
                && !self.takes.is_told(*shard)
        };
        map.shards_of(self.table.node()).filter(is_given).collect()
    }

    /// Whether the map has something of this node that others could be given.
    fn gives_away(&self, map: &ShardMap) -> bool {
        let node = self.table.node();
        map.nodes.iter().any(|other| other != node) && map.shards_of(node).next().is_some()
    }

    /// Starts what there is to do for a shard.
    fn plan(
        self: &Arc<Self>,
        actions: &mut Actions,
        shard: ShardId,
        map: Option<&ShardMap>,
        life: Option<&Life>,
        stopping: bool,
    ) {
        let Some(life) = life else { return };
        let mine = !stopping && map.is_some_and(|map| map.owner(shard) == Some(self.table.node()));
        let (holds, is_behind) = match lock(&self.held).get(&shard) {
            Some(held) => (true, held.keeper.as_ref().is_some_and(|keeper| keeper.settle().is_some())),
            None => (false, false),
        };
        let (this, life) = (Arc::clone(self), life.clone());
        // What was stopped is released to the end, also if the map has changed its mind.
        let stopped = holds && self.table.tenure(shard).is_none();
        if holds && (!mine || stopped) {
            // At once, also while another action on the shard is under way.
            let why = if stopping { "the node is stopping" } else { "the map gives it to another node" };
            let tenure = self.table.stop(shard, why);
            actions.start(shard, async move { this.release(&life, shard, tenure, why).await });
        } else if (mine && !holds) || self.takes.is_open(shard) {
            actions.start(shard, async move { this.take(&life, shard, mine).await });
        } else if is_behind {
            actions.start(shard, async move { this.settle(&life, shard).await });
        } else if !mine && !actions.is_busy(shard) {
            self.table.rest(shard, None);
            self.fails(shard, None);
        }
    }

    /// Why a shard can't be taken, or that nothing is in the way of it any more.
    fn fails(&self, shard: ShardId, why: Option<String>) {
        let mut failing = lock(&self.failing);
        let before = match why {
            Some(why) => failing.insert(shard, why),
            None => failing.remove(&shard),
        };
        if before.is_some() || failing.contains_key(&shard) {
            let first = failing.values().next().map(|why| format!("shard leases can't be taken: {why}"));
            self.table.problem("leases", first);
        }
    }

    /// The life that took them is over: nothing is ours any more (R8).
    fn drop_all(&self) {
        lock(&self.held).clear();
        self.takes.forget();
        for shard in (0..self.table.shards()).map(ShardId) {
            if let Some(tenure) = self.table.stop(shard, "the session has lapsed") {
                tenure.give_up();
                self.table.rest(shard, None);
            }
        }
    }

    fn is_current(&self, life: &Life) -> bool {
        let current = self.lives.borrow().as_ref().is_some_and(|current| current.incarnation == life.incarnation);
        current && life.validity.holds()
    }

    async fn take(&self, life: &Life, shard: ShardId, mine: bool) -> Done {
        let Ok(_permit) = self.calls.acquire().await else {
            return Done::Later;
        };
        match self.try_take(life, shard, mine).await {
            Ok(None) => {
                self.fails(shard, None);
                Done::Changed
            }
            Ok(Some(why)) => {
                self.fails(shard, None);
                self.table.rest(shard, Some(why));
                Done::Later
            }
            Err(error) => {
                let why = in_words(&error);
                self.fails(shard, Some(why.clone()));
                self.table.rest(shard, Some(why));
                Done::Later
            }
        }
    }

    /// Takes a shard that is `mine` by the map, or finds out what became of a try to take it. `None`: taken, or no longer to
    /// be resolved. Otherwise what it waits for.
    async fn try_take(&self, life: &Life, shard: ShardId, mine: bool) -> Result<Option<String>, Error> {
        let name = self.layout.lease_name(shard);
        let found = match self.takes.told(shard) {
            Some(found) => Some(found),
            None => read_document::<ShardLease>(&*self.leases, &name, CALL_LIMIT).await?,
        };
        let (lease, version) = found.map_or((None, None), |(lease, version)| (Some(lease), Some(version)));
        self.takes.stands(shard, version.as_ref());
        if !self.is_current(life) {
            return Ok(Some("the session has lapsed".into()));
        }
        let holder = self.holder_of(lease.as_ref()).await?;
        let session = match &holder {
            Some(Holder::Found(record)) => HolderSession::Found(record),
            Some(Holder::Missing) => HolderSession::Missing,
            Some(Holder::Gone) | None => HolderSession::Gone,
        };
        let time = now();
        let taker = Taker { node: self.table.node(), incarnation: &life.incarnation, now: &time };
        match may_take(shard, lease.as_ref(), session, &taker) {
            Take::Ours(_) => match lease.zip(version) {
                Some((lease, version)) => self.serve(life, lease, version).map(|()| None),
                None => Ok(Some("the lease is gone".into())),
            },
            // Whatever became of the try, it is over.
            Take::Wait(_) | Take::Write(_) if !mine && !self.takes.is_open(shard) => Ok(None),
            Take::Wait(why) => Ok(Some(why)),
            Take::Write(next) => {
                if lease.is_none()
                    && let Some(stray) = self.layout.stray(shard).await?
                {
                    let why = format!("there is data of shard {shard}, {stray}, but {name} is gone: restore it");
                    return Err(Error::unavailable("LeaseLost", why));
                }
                let next = self.layout.next(lease.as_ref(), next);
                match write_document(&*self.leases, &name, version.as_ref(), &next, CALL_LIMIT).await? {
                    Swap::Applied(written) => {
                        self.takes.landed(shard);
                        self.serve(life, next, written).map(|()| None)
                    }
                    Swap::Rejected => {
                        // Or it is this very write that stands there: sent on twice by a proxy, and refused the second time.
                        // Left to itself, the lease would be nobody's for as long as this life lasts.
                        self.takes.may_land(shard, version);
                        Ok(Some("another node was faster".into()))
                    }
                    Swap::Unknown(why) => {
                        self.takes.may_land(shard, version);
                        Ok(Some(format!("the outcome of taking it is unknown: {why}")))
                    }
                }
            }
        }
    }

    /// What is known of the node that a lease names, if that is another one.
    async fn holder_of(&self, lease: Option<&ShardLease>) -> Result<Option<Holder>, Error> {
        match lease.map(|lease| (&lease.owner, &lease.incarnation)) {
            Some((Some(owner), Some(incarnation))) if owner != self.table.node() => {
                self.nodes.holder(owner, incarnation).await.map(Some)
            }
            _ => Ok(None),
        }
    }

    fn serve(&self, life: &Life, lease: ShardLease, version: DocumentVersion) -> Result<(), Error> {
        let (shard, token) = (lease.shard, lease.token);
        let opened = self.layout.open(&lease)?;
        let keep = |behind| Keeper::start(behind, lease.clone(), Arc::clone(&self.turns), self.kept.0.clone());
        let keeper = opened.behind.map(keep);
        tracing::debug!(%shard, %token, "took the lease");
        let progress = keeper.as_ref().map(|keeper| Arc::clone(keeper.progress()));
        lock(&self.held).insert(shard, Held { lease, version, keeper });
        self.table.serve(shard, token, opened.storage, life.validity.clone());
        self.table.reads_through(shard, progress);
        Ok(())
    }

    /// Gives a shard away: nothing more is let in, what is in flight ends, what was acknowledged is made durable, and then
    /// the lease is marked free.
    async fn release(&self, life: &Life, shard: ShardId, tenure: Option<Arc<Tenure>>, why: &str) -> Done {
        if let Some(tenure) = tenure {
            if !tenure.end(IN_FLIGHT_LIMIT).await {
                return Done::Later;
            }
            // What is still in flight must not be written once the shard is another's.
            tenure.give_up();
        }
        let Ok(_permit) = self.calls.acquire().await else {
            return Done::Later;
        };
        if !self.is_current(life) {
            // The next life takes or leaves it. Until it is known that this one is over there is nothing more to do.
            return Done::Later;
        }
        match self.try_release(shard, why).await {
            Ok(true) => {
                self.table.rest(shard, None);
                Done::Changed
            }
            Ok(false) => Done::Later,
            Err(error) => {
                tracing::warn!(%shard, why = in_words(&error), "a lease can't be released");
                Done::Later
            }
        }
    }

    /// True: it is not ours any more. Tries go on until that is certain: a release whose outcome is unknown may yet
    /// land, and must not meet a new tenure.
    async fn try_release(&self, shard: ShardId, why: &str) -> Result<bool, Error> {
        let held = lock(&self.held).get_mut(&shard).map(|held| {
            // What is not done by now is left to the next owner.
            held.keeper = None;
            (held.lease.clone(), held.version.clone())
        });
        let Some((lease, version)) = held else {
            return Ok(true);
        };
        let name = self.layout.lease_name(shard);
        let free = self.layout.next(Some(&lease), release(&lease, &now(), why));
        let swap = write_document(&*self.leases, &name, Some(&version), &free, CALL_LIMIT).await?;
        if let Swap::Applied(version) = swap {
            // Nobody to tell is no error: this node is stopping.
            let _listener = self.released.send(FreeLease::new(free, version));
            tracing::debug!(%shard, token = %lease.token, why, "released the lease");
            lock(&self.held).remove(&shard);
            return Ok(true);
        }
        let found = read_document::<ShardLease>(&*self.leases, &name, CALL_LIMIT).await?;
        match found {
            Some((found, now_at)) if found.owner == lease.owner && found.incarnation == lease.incarnation => {
                lock(&self.held).insert(shard, Held { lease: found, version: now_at, keeper: None });
                Ok(false)
            }
            _ => {
                lock(&self.held).remove(&shard);
                Ok(true)
            }
        }
    }

    /// Has the lease say what its keeper has done.
    async fn settle(&self, life: &Life, shard: ShardId) -> Done {
        let Ok(_permit) = self.calls.acquire().await else {
            return Done::Later;
        };
        if !self.is_current(life) {
            return Done::Later;
        }
        match self.try_settle(shard).await {
            Ok(done) => done,
            Err(error) => {
                tracing::warn!(%shard, why = in_words(&error), "a lease can't be brought up to date");
                Done::Later
            }
        }
    }

    async fn try_settle(&self, shard: ShardId) -> Result<Done, Error> {
        let held = lock(&self.held).get(&shard).and_then(|held| {
            let next = held.keeper.as_ref()?.settle()?;
            Some((next, held.version.clone()))
        });
        let Some((next, version)) = held else { return Ok(Done::Changed) };
        let name = self.layout.lease_name(shard);
        match write_document(&*self.leases, &name, Some(&version), &next, CALL_LIMIT).await? {
            Swap::Applied(written) => {
                self.learn(shard, next, written);
                Ok(Done::Changed)
            }
            Swap::Rejected | Swap::Unknown(_) => {
                // What was written before, and nobody knew, may stand there by now.
                let found = read_document::<ShardLease>(&*self.leases, &name, CALL_LIMIT).await?;
                if let Some((found, version)) = found {
                    self.learn(shard, found, version);
                }
                Ok(Done::Later)
            }
        }
    }

    /// A lease of which one is held stands like this now. One of another tenure is none of ours: then the session is over, and
    /// will be found to be.
    fn learn(&self, shard: ShardId, lease: ShardLease, version: DocumentVersion) {
        if let Some(held) = lock(&self.held).get_mut(&shard)
            && (&held.lease.owner, held.lease.token) == (&lease.owner, lease.token)
        {
            if let Some(keeper) = &held.keeper {
                keeper.learn(&lease);
            }
            (held.lease, held.version) = (lease, version);
        }
    }
}
