//! Patterns StorageNative and Consensus: the nodes elect the controller among them. Each is a candidate while the spec beside
//! the other documents says so. The one that leads looks at the sessions and publishes the map, by the same code as the
//! operator with pattern Leader; it is a node like the others otherwise. With pattern Leader nothing happens here but that the
//! spec is followed, so that a change between Leader and StorageNative needs no restart.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use brainy_coordination::bucket::Error;
use brainy_coordination::bucket::election::{self, Election, Kind, News, NodesLock, Notices, Told};
use brainy_coordination::bucket::known::Known;
use brainy_coordination::bucket::look::{Look, Memory, Office, Seen};
use brainy_coordination::bucket::spec::{self, ClusterSpec, Pattern};
use brainy_coordination::clock::Clock;
use brainy_coordination::controller::Rules;
use brainy_coordination::elector::{Elector, Settings, Term};
use brainy_coordination::session::SharedObservers;
use brainy_coordination::{Epoch, NodeId, names};
use brainy_storage::chance;
use brainy_storage::documents::{Document, DocumentVersion, Documents};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::maps::Maps;
use super::session::read_session;
use super::table::Table;
use super::{PeerClient, Renewed, stopped};
use crate::host;

/// Renewals between two reads of what others would tell of.
const RARELY: u32 = 30;
/// Renewals between two of the controller's looks that nothing has caused, while other nodes tell it what is new.
const LOOKS: u32 = 4;
/// Until the next look while something is on its way.
const SOON: Duration = Duration::from_secs(1);
/// Least time between two looks.
const LEAST_PAUSE: Duration = Duration::from_millis(50);
/// Longest wait for a node that is told something: it finds out by itself a little later.
pub(super) const NUDGE_LIMIT: Duration = Duration::from_secs(2);
/// Tries to tell the controller something; after that it finds out by itself.
const TELL_TRIES: u32 = 5;
/// Between a node's name and what makes its identity unique. No node's name has one.
const SEPARATOR: char = '_';

/// A node's part in the election, and the controller's work while it leads.
pub(super) struct Control {
    pub(super) table: Arc<Table>,
    pub(super) maps: Arc<Maps>,
    pub(super) documents: Arc<dyn Documents>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) peers: Arc<dyn PeerClient>,
    /// What this node has seen of the sessions.
    pub(super) sessions: SharedObservers,
    /// UID of the BrainyCluster.
    pub(super) cluster: String,
    /// By which rules shards are placed.
    pub(super) rules: Rules,
    pub(super) ttl: Duration,
    pub(super) renew: Duration,
    /// The newest spec that was read.
    pub(super) spec: watch::Sender<Option<Arc<ClusterSpec>>>,
    /// The election as it was read last.
    pub(super) heard: watch::Sender<Option<Election>>,
    /// How this node's session stands.
    pub(super) session: watch::Receiver<Option<Renewed>>,
    /// What need not be read again, where all documents lie in one bucket.
    pub(super) known: Arc<Known>,
    /// What was said of the election while nodes told each other of renewals.
    pub(super) talk: Mutex<Talk>,
}

/// What nodes say to each other with each renewal.
#[derive(Debug, Default)]
pub(super) struct Talk {
    /// What the controller has said last of the election, until it is made use of.
    told: Option<Told>,
    /// When it did so last, on this machine's clock.
    told_at: Option<Duration>,
    /// The election as this node wrote it last.
    wrote: Option<Told>,
    /// This node's term as the controller.
    term: Option<Term>,
    /// When another node last told this one of a renewal.
    heard_at: Option<Duration>,
}

/// The election is the one document that every node hears of in each period: from the node that holds it, or by a read. It
/// tells what else there is to read.
impl Notices for Control {
    fn news(&self) -> News {
        News {
            map: self.maps.newest().map_or(0, |map| map.revision),
            spec: self.spec.borrow().as_ref().map_or(0, |spec| spec.revision),
            session: self.session.borrow().as_ref().map(|session| session.version.clone()),
        }
    }

    fn heard(&self, election: &Election) {
        if let (Some(holder), Some(session)) = (node_of(election), &election.news.session) {
            self.sessions.note(&holder, DocumentVersion(session.clone()), self.clock.now());
        }
        self.heard.send_replace(Some(election.clone()));
    }

    fn wrote(&self, told: Told) {
        {
            let mut talk = self.talk();
            talk.wrote = Some(told);
            // What another said before is of the past.
            talk.told = None;
        }
        self.say();
    }

    fn told(&self) -> Option<Told> {
        self.talk().told.take()
    }
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Control").field("node", self.table.node()).finish_non_exhaustive()
    }
}

/// The node that is the controller.
fn node_of(election: &Election) -> Option<NodeId> {
    let (node, _) = election.holder.as_ref()?.rsplit_once(SEPARATOR)?;
    Some(NodeId(node.to_owned()))
}

/// Whether the spec is known, and makes a node the controller, or not.
fn is_by_nodes(spec: Option<&Arc<ClusterSpec>>, by_nodes: bool) -> bool {
    spec.is_some_and(|spec| spec.pattern.is_by_nodes() == by_nodes)
}

impl Control {
    fn talk(&self) -> MutexGuard<'_, Talk> {
        self.talk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What other nodes are answered from now on, while this one is the controller.
    fn say(&self) {
        let (wrote, term) = {
            let talk = self.talk();
            (talk.wrote.clone(), talk.term.clone())
        };
        if let (Some(Told { election, version }), Some(term)) = (wrote, term)
            && election.epoch == Epoch(term.transitions)
        {
            self.table.lead(Told { election: Election { news: self.news(), ..election }, version }, term);
        }
    }

    /// Whether something of `at` is still of now: no more than two renewals ago.
    fn is_recent(&self, at: Option<Duration>) -> bool {
        at.is_some_and(|at| self.clock.now().saturating_sub(at) <= self.renew * 2)
    }

    /// Whether the controller tells this node of the election.
    fn is_told(&self) -> bool {
        let told_at = self.talk().told_at;
        self.is_recent(told_at)
    }

    /// Runs until `stop`; then leads no more, and has freed the office. `announced` counts what this node says in its
    /// session that the controller should hear of at once.
    pub(super) async fn run(self: Arc<Self>, announced: watch::Receiver<u64>, stop: watch::Receiver<bool>) {
        tokio::select! {
            biased;
            () = self.follow_spec() => {}
            () = self.follow_election() => {}
            () = self.tell_controller(announced) => {}
            () = self.tell_renewals() => {}
            () = self.hear_renewals() => {}
            () = Arc::clone(&self).campaign(stop) => {}
        }
    }

    /// Does `work` again and again while the operator is the controller.
    pub(super) async fn while_the_operator_leads<F: Future<Output = ()>>(&self, work: impl Fn() -> F) {
        let mut spec = self.spec.subscribe();
        // An error means that the node is gone.
        while spec.wait_for(|spec| is_by_nodes(spec.as_ref(), false)).await.is_ok() {
            tokio::select! {
                biased;
                () = work() => {}
                _ = spec.wait_for(|spec| !is_by_nodes(spec.as_ref(), false)) => {}
            }
        }
    }

    async fn follow_spec(&self) {
        let mut spec = self.spec.subscribe();
        loop {
            let pause = match self.read_spec(&*self.documents).await {
                Ok(Some(found)) => {
                    self.pass_on(&found).await;
                    self.spec_pause()
                }
                Ok(None) => SOON.min(self.renew),
                Err(error) => {
                    tracing::warn!(%error, "the cluster's spec can't be read");
                    SOON.min(self.renew)
                }
            };
            spec.mark_unchanged();
            tokio::select! {
                biased;
                () = tokio::time::sleep(pause) => {}
                // With another pattern there may be another pause.
                _ = spec.changed() => {}
            }
        }
    }

    /// Nodes that the controller tells of its election look at the spec instead, each of them, and tell it what is new there:
    /// it sees a new spec sooner than by its own looks, and no node asks the store for more than one thing in each period.
    fn spec_pause(&self) -> Duration {
        if self.is_told() { self.renew } else { self.map_pause() }
    }

    /// Tells the controller of a spec that it does not speak of yet.
    async fn pass_on(&self, spec: &ClusterSpec) {
        let is_news = self.heard.borrow().as_ref().is_some_and(|election| election.news.spec < spec.revision);
        if is_news && self.is_told() {
            let _by_itself_otherwise = self.try_tell_controller().await;
        }
    }

    /// Until the next look at a map or spec of which nobody has said that it is new.
    pub(super) fn map_pause(&self) -> Duration {
        let pattern = self.spec.borrow().as_ref().map(|spec| spec.pattern);
        match pattern {
            None => self.renew,
            // Maps are told by a watch too, unless the API server is away.
            Some(Pattern::Leader) => self.renew * 2,
            Some(Pattern::StorageNative | Pattern::Consensus) if self.heard.borrow().is_none() => self.renew,
            Some(Pattern::StorageNative | Pattern::Consensus) => self.renew * RARELY,
        }
    }

    /// Reads what the election says is new.
    async fn follow_election(&self) {
        let mut heard = self.heard.subscribe();
        while heard.changed().await.is_ok() {
            let Some(election) = heard.borrow_and_update().clone() else {
                continue;
            };
            let news = election.news;
            // An operator that has the office says nothing, and no node may want it.
            let operator = election.kind == Kind::Operator && election.holder.is_some();
            if self.maps.newest().is_none_or(|map| map.revision < news.map) {
                self.maps.read().await;
            }
            let old = self.spec.borrow().as_ref().is_none_or(|spec| spec.revision < news.spec);
            if (old || operator)
                && let Err(error) = self.read_spec(&*self.documents).await
            {
                tracing::warn!(%error, "the cluster's spec can't be read");
            }
        }
        std::future::pending().await
    }

    /// The spec as it stands, if it is this cluster's.
    async fn read_spec(&self, documents: &dyn Documents) -> Result<Option<Arc<ClusterSpec>>, Error> {
        let found = spec::find(documents).await?;
        let Some(found) = found.filter(|spec| spec.cluster == self.cluster).map(Arc::new) else {
            return Ok(None);
        };
        self.spec.send_if_modified(|known| {
            let newer = known.as_ref().is_none_or(|known| known.revision != found.revision);
            if newer {
                tracing::info!(pattern = ?found.pattern, nodes = found.nodes.len(), "the cluster's spec");
                *known = Some(Arc::clone(&found));
                // With another pattern there may be another pause between looks.
                self.table.nudge();
            }
            newer
        });
        Ok(Some(found))
    }

    /// Takes part in the election while a node is the controller.
    async fn campaign(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        loop {
            let mut spec = self.spec.subscribe();
            tokio::select! {
                biased;
                // First: the spec asks for candidates all the while, and a node that stops would be one again and again.
                () = stopped(&mut stop) => return,
                _by_nodes = spec.wait_for(|spec| is_by_nodes(spec.as_ref(), true)) => {}
            }
            let settings = Settings {
                identity: format!("{}{SEPARATOR}{}", self.table.node(), chance::mark()),
                ttl: self.ttl,
                renew: self.ttl / 2,
                look: self.renew,
                call_limit: (self.ttl / 4).clamp(Duration::from_secs(1), Duration::from_secs(10)),
            };
            let (this, identity) = (Arc::clone(&self), settings.identity.clone());
            let lock = NodesLock::new(Arc::clone(&self.documents), Arc::clone(&self) as _);
            let elector = Elector::new(lock.clone(), Arc::clone(&self.clock), settings);
            let over = async {
                tokio::select! {
                    biased;
                    _another = spec.wait_for(|spec| !is_by_nodes(spec.as_ref(), true)) => {}
                    () = stopped(&mut stop) => {}
                }
            };
            elector.run(over, move |term| Arc::clone(&this).lead(identity.clone(), lock.clone(), term)).await;
        }
    }

    /// The controller's work, until the term is over.
    async fn lead(self: Arc<Self>, identity: String, lock: NodesLock, term: Term) {
        let mut memory = Memory::with(self.sessions.clone());
        let mut nudges = self.table.nudges();
        let mut telling = JoinSet::new();
        self.talk().term = Some(term.clone());
        self.say();
        while term.is_valid() {
            nudges.mark_unchanged();
            let mut quiet = None;
            let pause = match self.look(&identity, &term, &mut memory).await {
                Ok(Some(seen)) => {
                    if seen.published {
                        self.tell_nodes(&seen, &mut telling);
                    }
                    let pause = if seen.is_settled() { self.renew } else { SOON.min(self.renew) };
                    let pause = pause.min(seen.next_lapse.unwrap_or(pause)).max(LEAST_PAUSE);
                    quiet = Some(seen).filter(Seen::is_settled);
                    pause
                }
                // Another pattern, which ends the campaign; or none that is known, which changes nothing.
                Ok(None) => self.renew,
                Err(error @ Error::Deposed { theirs, .. }) => {
                    // Someone has led after this node, or the election was lost or put back: then nobody could publish
                    // anything before its epoch is above the map's.
                    tracing::warn!(%error, "no longer the controller");
                    if let Err(error) = lock.lift(theirs).await {
                        tracing::warn!(%error, "the controller's epoch can't be lifted");
                    }
                    return term.resign();
                }
                Err(error) => {
                    tracing::warn!(%error, "the controller's look ended early");
                    SOON.min(self.renew)
                }
            };
            let looked = self.clock.now();
            let rest = async {
                tokio::time::sleep(pause).await;
                while let Some(seen) = &quiet
                    && let Some(more) = self.quiet_for(seen, &memory, looked)
                {
                    tokio::time::sleep(more).await;
                }
            };
            tokio::select! {
                biased;
                () = rest => {}
                _news = nudges.changed() => tokio::time::sleep(LEAST_PAUSE).await,
            }
        }
    }

    /// For how long another look would show nothing that this node has not heard: others tell it of their renewals, and of a
    /// new spec, and no session is about to lapse.
    fn quiet_for(&self, seen: &Seen, memory: &Memory, looked: Duration) -> Option<Duration> {
        let now = self.clock.now();
        let heard_at = self.talk().heard_at;
        if !matches!(self.rules, Rules::Shared) || !self.is_recent(heard_at) {
            return None;
        }
        let more = (looked + self.renew * LOOKS).saturating_sub(now).min(self.renew);
        let more = more.min(memory.next_lapse(seen, now).unwrap_or(more));
        (!more.is_zero()).then_some(more.max(LEAST_PAUSE))
    }

    /// `None`: this node is not to be the controller.
    async fn look(&self, identity: &str, term: &Term, memory: &mut Memory) -> Result<Option<Seen>, Error> {
        let documents = match self.rules {
            Rules::Shared => self.known.listed(&self.documents, names::CONTROLLED).await?,
            // What sessions say must be at least as new as the map: it is the truth then.
            Rules::Isolated { .. } => Arc::clone(&self.documents),
        };
        let spec = self.read_spec(&*documents).await?;
        let Some(spec) = spec.filter(|spec| spec.pattern.is_by_nodes()) else {
            return Ok(None);
        };
        let mut look = Look {
            documents: &*documents,
            cluster: &self.cluster,
            shards: self.table.shards(),
            rules: self.rules,
            wanted: &spec.nodes,
            volumes: &spec.volumes,
            placement: &spec.placement,
            clock: &*self.clock,
            published: self.maps.newest().map_or(0, |map| map.revision),
            memory,
        };
        let holds = || term.is_valid();
        let office = Office { holder: identity, epoch: Epoch(term.transitions), holds: &holds };
        let seen = look.control(&office).await?;
        if let Some(map) = &seen.map {
            self.maps.offer(map.clone());
        }
        Ok(Some(seen))
    }

    /// Tells the live nodes that there is a new map: those that don't hear it see it at their next look.
    fn tell_nodes(&self, seen: &Seen, telling: &mut JoinSet<bool>) {
        while telling.try_join_next().is_some() {}
        for sight in seen.nodes.values().filter(|sight| sight.live && sight.record.node != *self.table.node()) {
            let (node, address) = (sight.record.node.clone(), sight.record.address.clone());
            telling.spawn(host::task(nudge(Arc::clone(&self.peers), node, address)));
        }
    }

    /// Tells the controller when this node has something to say that can't wait for its next look.
    async fn tell_controller(&self, mut announced: watch::Receiver<u64>) {
        while announced.changed().await.is_ok() {
            for _ in 0..TELL_TRIES {
                if self.try_tell_controller().await {
                    break;
                }
                tokio::time::sleep(SOON.min(self.renew)).await;
            }
        }
        std::future::pending().await
    }

    /// Tells the controller of each renewal of this node's session: it counts from there, and not from its next look, until a
    /// session that is not renewed any more is over, and need not read it.
    async fn tell_renewals(&self) {
        let mut session = self.session.clone();
        while session.changed().await.is_ok() {
            let Some(renewed) = session.borrow_and_update().clone() else { continue };
            self.note(renewed.clone());
            self.say();
            let leader = self.heard.borrow().as_ref().and_then(node_of).filter(|node| node != self.table.node());
            if let Some(leader) = leader
                && let Some(address) = self.table.address(&leader)
            {
                let telling = self.peers.renewed(&leader, &address, &renewed);
                let answer = match tokio::time::timeout(NUDGE_LIMIT.min(self.renew), telling).await {
                    Ok(Ok(told)) => told,
                    Ok(Err(_)) | Err(_) => {
                        tracing::debug!(%leader, "the controller was not told of a renewal");
                        None
                    }
                };
                self.answered(answer);
            }
        }
        std::future::pending().await
    }

    /// What the node that should be the controller has said to this one; nothing: only the election tells.
    fn answered(&self, told: Option<Told>) {
        if let Some(told) = &told {
            self.heard(&told.election);
        }
        let mut talk = self.talk();
        talk.told_at = told.is_some().then(|| self.clock.now());
        talk.told = told;
    }

    /// A session stood so by now, on this machine's clock (R1).
    fn note(&self, Renewed { node, record, version }: Renewed) {
        if !self.spec.borrow().as_ref().is_some_and(|spec| spec.nodes.contains(&node)) {
            return;
        }
        let version = DocumentVersion(version);
        self.sessions.note(&node, version.clone(), self.clock.now());
        self.known.learn(names::session(&node), Document { body: record.into(), version });
    }

    /// Takes note of what other nodes say of their sessions.
    async fn hear_renewals(&self) {
        let mut renewals = self.table.renewals();
        loop {
            match renewals.recv().await {
                Ok(renewed) => {
                    self.talk().heard_at = Some(self.clock.now());
                    self.note(renewed);
                }
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return std::future::pending().await,
            }
        }
    }

    /// True: it was told, or need not be.
    async fn try_tell_controller(&self) -> bool {
        let pattern = self.spec.borrow().as_ref().map(|spec| spec.pattern);
        match pattern {
            None => return false,
            // The operator looks often enough while a pod comes or goes.
            Some(Pattern::Leader) => return true,
            Some(Pattern::StorageNative | Pattern::Consensus) => {}
        }
        let Ok(Some(election)) = election::find(&*self.documents).await else {
            return false;
        };
        let Some(node) = node_of(&election) else {
            return false; // Nobody leads yet, or the operator has yet to step down.
        };
        if node == *self.table.node() {
            self.table.nudge();
            return true;
        }
        match read_session(&*self.documents, &names::session(&node), NUDGE_LIMIT).await {
            Ok(Some((session, _))) => nudge(Arc::clone(&self.peers), node, session.address).await,
            Ok(None) | Err(_) => false,
        }
    }
}

/// Tells a node to look again. True: it heard.
async fn nudge(peers: Arc<dyn PeerClient>, node: NodeId, address: String) -> bool {
    match tokio::time::timeout(NUDGE_LIMIT, peers.nudge(&node, &address)).await {
        Ok(Ok(())) => return true,
        Ok(Err(error)) => tracing::debug!(%node, %error, "a node was not told to look again"),
        Err(_) => tracing::debug!(%node, "a node was not told to look again in time"),
    }
    false
}
