//! The other nodes: where they are, and whether the holder of a lease is still alive.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use brainy_coordination::clock::Clock;
use brainy_coordination::session::{FoundSession, Observer, SessionRecord, SessionState, SharedObservers};
use brainy_coordination::{Incarnation, NodeId, ShardMap, names};
use brainy_storage::Error;
use brainy_storage::documents::{DocumentVersion, Documents, Swap};
use futures::StreamExt;

use super::in_words;
use super::maps::Maps;
use super::session::{read_session, write_document};
use super::table::Table;

/// Longest wait for one call.
const CALL_LIMIT: Duration = Duration::from_secs(10);
/// Sessions read at once.
const AT_ONCE: usize = 8;
/// Shortest time between two looks that a doubt causes.
const DOUBT_PAUSE: Duration = Duration::from_millis(100);
/// Until the next look while nothing has changed.
const RARELY: Duration = Duration::from_secs(300);
/// Until the next look while the address of a node is not known.
const UNKNOWN_PAUSE: Duration = Duration::from_millis(500);

pub(super) struct Nodes {
    pub(super) table: Arc<Table>,
    pub(super) documents: Arc<dyn Documents>,
    pub(super) clock: Arc<dyn Clock>,
    /// This cluster's session length: how long to wait where a record that would say it is missing.
    pub(super) ttl: Duration,
    pub(super) observers: Mutex<HashMap<NodeId, Observer<Option<DocumentVersion>>>>,
    /// What was seen of all sessions on the way: where this node becomes the controller, it need not begin to watch then.
    pub(super) sessions: SharedObservers,
    /// Lives that are over. They never come back, so this may be believed without another look.
    pub(super) ended: Mutex<HashSet<Incarnation>>,
}

/// What is known of the life that holds a lease.
#[derive(Debug)]
pub(super) enum Holder {
    /// Its node's session, read just now.
    Found(Box<SessionRecord>),
    /// There is no record.
    Missing,
    /// The life is over.
    Gone,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Nodes {
    /// Reads a node's session.
    pub(super) async fn read(&self, node: &NodeId) -> Result<Option<(SessionRecord, DocumentVersion)>, Error> {
        let found = read_session(&*self.documents, &names::session(node), CALL_LIMIT).await?;
        if let Some((record, _)) = &found {
            self.table.learn_over(node, record.state == SessionState::Ended);
        }
        Ok(found)
    }

    /// Whether the life `incarnation` of `node` still holds what it took. A session that has lapsed by this machine's
    /// clock is ended first (R1, R8).
    pub(super) async fn holder(&self, node: &NodeId, incarnation: &Incarnation) -> Result<Holder, Error> {
        if lock(&self.ended).contains(incarnation) {
            return Ok(Holder::Gone);
        }
        let found = self.read(node).await?;
        let now = self.clock.now();
        let ttl = found.as_ref().map_or(self.ttl, |(record, _)| record.ttl());
        let version = found.as_ref().map(|(_, version)| version.clone());
        let expired = lock(&self.observers).entry(node.clone()).or_default().expired(version, ttl, now);
        let Some((record, version)) = found else {
            return Ok(if expired { self.over(incarnation) } else { Holder::Missing });
        };
        if record.incarnation != *incarnation || record.state == SessionState::Ended {
            return Ok(self.over(incarnation));
        }
        if expired {
            let name = names::session(node);
            let swap = write_document(&*self.documents, &name, Some(&version), &record.ended(), CALL_LIMIT).await?;
            if let Swap::Applied(_) = swap {
                tracing::info!(%node, "ended the session of a node that has not been heard of");
                self.table.learn_over(node, true);
                return Ok(self.over(incarnation));
            }
        }
        Ok(Holder::Found(Box::new(record)))
    }

    fn over(&self, incarnation: &Incarnation) -> Holder {
        lock(&self.ended).insert(incarnation.clone());
        Holder::Gone
    }

    /// Keeps the addresses of the nodes in the map. They are looked up anew where one is not known or has proved wrong, and
    /// after the map has changed, at most once in `every`: a node at another address is one that came back.
    pub(super) async fn run(self: Arc<Self>, maps: Arc<Maps>, every: Duration) {
        let (mut changes, mut doubts) = (maps.subscribe(), self.table.doubts());
        loop {
            let map = changes.borrow_and_update().clone();
            let known = match &map {
                Some(map) => self.look_up(map).await,
                None => true,
            };
            let looked = tokio::time::Instant::now();
            let pause = if known { RARELY } else { every.min(UNKNOWN_PAUSE) };
            let timer = tokio::time::sleep(pause);
            tokio::pin!(timer);
            loop {
                tokio::select! {
                    biased;
                    () = &mut timer => break,
                    _ = doubts.changed() => {
                        tokio::time::sleep(DOUBT_PAUSE).await;
                        break;
                    }
                    changed = changes.changed() => {
                        let newcomer = changes.borrow_and_update().as_ref().is_some_and(|map| !self.knows_all(map));
                        if newcomer || changed.is_err() {
                            break;
                        }
                        let soon = looked + every;
                        if soon < timer.deadline() {
                            timer.as_mut().reset(soon);
                        }
                    }
                }
            }
        }
    }

    fn others<'a>(&'a self, map: &'a ShardMap) -> impl Iterator<Item = NodeId> + 'a {
        map.nodes.iter().filter(|node| *node != self.table.node()).cloned()
    }

    fn knows_all(&self, map: &ShardMap) -> bool {
        self.others(map).all(|node| self.table.address(&node).is_some())
    }

    /// Looks every node of the map up. True: each has an address.
    async fn look_up(&self, map: &ShardMap) -> bool {
        let lookups = self.others(map).map(|node| async move { (self.read(&node).await, node) });
        let mut answers = futures::stream::iter(lookups).buffer_unordered(AT_ONCE);
        while let Some((answer, node)) = answers.next().await {
            match answer {
                Ok(Some((record, version))) => {
                    self.table.learn_addresses([(node, record.address.clone())]);
                    self.sessions.judge(&FoundSession { record, version }, self.clock.now());
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(%node, why = in_words(&error), "the address of a node can't be read")
                }
            }
        }
        self.knows_all(map)
    }
}
