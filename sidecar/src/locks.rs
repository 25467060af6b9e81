//! Named locks for applications: the table of [`brainy_coordination::locks`] in the documents that all nodes share. A
//! holder lives as long as its application renews it here, and as this node's session lasts: nobody else counts its time.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use brainy_coordination::clock::Validity;
use brainy_coordination::locks::{Ask, Asked, Cycle, HolderId, LockTable, LockView, Refusal, Waiting};
use brainy_coordination::{FencingToken, Incarnation, NodeId, names};
use brainy_storage::documents::{DocumentVersion, Documents, Swap};
use brainy_storage::{Error, chance};
use tokio::time::Instant;

use crate::host;

/// Longest wait for one call.
const CALL_LIMIT: Duration = Duration::from_secs(10);
/// Between two looks of who waits.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// Longest pause after a lost race, drawn anew each time.
const RACE_PAUSE_MILLISECONDS: u32 = 50;
/// Tries to write before it is given up: so many others were faster.
const TRIES: u32 = 100;
/// Between two looks for holders that were not renewed.
const TIDY_EVERY: Duration = Duration::from_secs(1);

/// A life of this node.
#[derive(Clone, Debug)]
pub struct Present {
    /// Which.
    pub incarnation: Incarnation,
    /// Until when it may act.
    pub validity: Validity,
}

/// What is known of the lives of nodes.
#[async_trait]
pub trait Lives: Debug + Send + Sync + 'static {
    /// This node's own, while its session is valid.
    fn present(&self) -> Option<Present>;

    /// Whether a life of a node is over for certain.
    async fn is_over(&self, node: &NodeId, incarnation: &Incarnation) -> Result<bool, Error>;
}

/// A process that runs alone: its one life ends with it.
#[derive(Clone, Copy, Debug)]
pub struct Alone;

#[async_trait]
impl Lives for Alone {
    fn present(&self) -> Option<Present> {
        let incarnation = Incarnation { pod_uid: String::new(), start: 1, nonce: String::new() };
        Some(Present { incarnation, validity: Validity::unbounded() })
    }

    async fn is_over(&self, _node: &NodeId, _incarnation: &Incarnation) -> Result<bool, Error> {
        Ok(false)
    }
}

/// What was taken, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Granted {
    /// The locks with their fencing tokens.
    pub tokens: BTreeMap<String, FencingToken>,
    /// How long they are held, counted from before they were asked for.
    pub lasts: Duration,
}

/// Why not.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// As the table has it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Others have them.
    #[error("others have what was asked for")]
    Taken(Vec<Waiting>),
    /// It waited in a circle.
    #[error("each waits for the next, and the last for the first: {}", in_words(.0))]
    Deadlock(Cycle),
    /// The holder is not known here (any more).
    #[error("holder: {0} holds nothing on this node: it was not renewed in time, or the node's session has lapsed")]
    Lost(String),
    /// This node may not act.
    #[error("this node has no valid session")]
    NoSession,
    /// Too many others write the table.
    #[error("too many others take and release locks at once")]
    Contended,
    /// It can't be known whether it was done.
    #[error("whether it was done is not known: {0}")]
    Unknown(String),
    /// The store failed; nothing was done.
    #[error(transparent)]
    Storage(#[from] Error),
}

fn in_words(cycle: &Cycle) -> String {
    let names: Vec<&str> = cycle.0.iter().map(|holder| holder.0.as_str()).collect();
    names.join(" -> ")
}

/// A holder of this process, and until when it is one unless it is renewed.
#[derive(Debug)]
struct Kept {
    incarnation: Incarnation,
    until: Instant,
}

/// The locks that applications of this node take.
#[derive(Debug)]
pub struct Locks {
    node: NodeId,
    documents: Arc<dyn Documents>,
    lives: Arc<dyn Lives>,
    kept: Mutex<HashMap<HolderId, Kept>>,
}

impl Locks {
    /// Over documents that all nodes share.
    pub fn new(node: NodeId, documents: Arc<dyn Documents>, lives: Arc<dyn Lives>) -> Self {
        Self { node, documents, lives, kept: Mutex::default() }
    }

    fn kept(&self) -> MutexGuard<'_, HashMap<HolderId, Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, holder: &HolderId, incarnation: &Incarnation, lasts: Duration) {
        let until = Instant::now() + lasts;
        let mut all = self.kept();
        match all.get_mut(holder) {
            // What it was told before holds, too.
            Some(kept) if kept.incarnation == *incarnation => kept.until = kept.until.max(until),
            _ => drop(all.insert(holder.clone(), Kept { incarnation: incarnation.clone(), until })),
        }
    }

    /// Takes all of these locks, or none: at once, or when it is the holder's turn within `wait`.
    pub async fn acquire(
        &self,
        holder: &HolderId,
        names: &BTreeSet<String>,
        wait: Duration,
        ttl: Duration,
    ) -> Result<Granted, LockError> {
        let began = Instant::now();
        let give_up_at = began + wait;
        let life = self.lives.present().ok_or(LockError::NoSession)?;
        // Who asks and is gone before the answer stands in nobody's way for longer than this.
        self.keep(holder, &life.incarnation, wait + ttl);
        loop {
            self.tidy().await?;
            let may_wait = Instant::now() < give_up_at;
            let now = host::wall().to_string();
            let (node, incarnation) = (&self.node, &life.incarnation);
            let ask = Ask { holder, node, incarnation, names, wait: may_wait, now: &now };
            let mut asked = self.change(|table| table.ask(&ask)).await?;
            if let Asked::Waits(_) | Asked::Refused(Refusal::Elsewhere(..)) = asked
                && self.bury_the_dead(&life.incarnation).await?
            {
                asked = self.change(|table| table.ask(&ask)).await?;
            }
            if !life.validity.holds() {
                // Whatever it holds, it holds no more: others take it when they have seen the session end.
                return Err(LockError::NoSession);
            }
            match asked {
                Asked::Holds(tokens) => {
                    self.keep(holder, &life.incarnation, ttl);
                    // The holder counts from before it asked, which was before it began to wait.
                    let lasts = began.elapsed() + ttl.min(life.validity.remaining());
                    return Ok(Granted { tokens, lasts });
                }
                Asked::Waits(behind) if !may_wait => return Err(LockError::Taken(behind)),
                Asked::Waits(_) => {
                    let left = give_up_at.saturating_duration_since(Instant::now());
                    tokio::time::sleep(LOOK_AGAIN.min(left)).await;
                }
                Asked::Deadlock(cycle) => return Err(LockError::Deadlock(cycle)),
                Asked::Refused(refusal) => return Err(refusal.into()),
            }
        }
    }

    /// Holds on to everything that a holder has for so much longer. Asks the store nothing.
    pub fn renew(&self, holder: &HolderId, ttl: Duration) -> Result<Duration, LockError> {
        let life = self.lives.present().ok_or(LockError::NoSession)?;
        let lost = || LockError::Lost(holder.0.clone());
        let mut all = self.kept();
        let kept = all.get_mut(holder).filter(|kept| kept.incarnation == life.incarnation).ok_or_else(lost)?;
        if kept.until <= Instant::now() {
            return Err(lost());
        }
        kept.until = Instant::now() + ttl;
        Ok(ttl.min(life.validity.remaining()))
    }

    /// Lets go of these locks, or of all that a holder has.
    pub async fn release(&self, holder: &HolderId, names: Option<&BTreeSet<String>>) -> Result<(), LockError> {
        let now = host::wall().to_string();
        self.change(|table| table.release(holder, names, &now)).await?;
        if names.is_none() {
            self.kept().remove(holder);
        }
        Ok(())
    }

    /// A lock as it stands.
    pub async fn view(&self, name: &str) -> Result<LockView, LockError> {
        self.tidy().await?;
        Ok(self.read().await?.0.view(name))
    }

    /// Lets go for holders that were not renewed, until it is dropped.
    pub async fn run(&self) {
        loop {
            tokio::time::sleep(TIDY_EVERY).await;
            if let Err(error) = self.tidy().await {
                tracing::warn!(%error, "locks that were not renewed can't be released");
            }
        }
    }

    async fn tidy(&self) -> Result<(), LockError> {
        let now = Instant::now();
        let over: Vec<HolderId> =
            self.kept().iter().filter(|(_, kept)| kept.until <= now).map(|(holder, _)| holder.clone()).collect();
        for holder in over {
            tracing::info!(holder = holder.0, "a holder of locks was not renewed: they are released");
            self.release(&holder, None).await?;
        }
        Ok(())
    }

    /// Removes what belongs to lives that are over. True: there was something.
    async fn bury_the_dead(&self, own: &Incarnation) -> Result<bool, LockError> {
        let mut any = false;
        for (node, incarnation) in self.read().await?.0.lives() {
            if incarnation != *own && self.lives.is_over(&node, &incarnation).await? {
                let now = host::wall().to_string();
                self.change(|table| table.bury(&incarnation, &now)).await?;
                any = true;
            }
        }
        Ok(any)
    }

    /// Reads the table, and writes what `decide` has made of it, if that is something else. An answer that is lost is no
    /// answer: what was done once is found done when it is tried again.
    async fn change<T>(&self, decide: impl Fn(&mut LockTable) -> T) -> Result<T, LockError> {
        let mut unknown = None;
        for _ in 0..TRIES {
            let (before, version) = match self.read().await {
                Ok(found) => found,
                Err(error) => return Err(unknown.map_or(error.into(), LockError::Unknown)),
            };
            let mut table = before.clone();
            let decided = decide(&mut table);
            if table == before {
                return Ok(decided);
            }
            table.revision += 1;
            match self.write(&table, version.as_ref()).await {
                Ok(Swap::Applied(_)) => return Ok(decided),
                Ok(Swap::Rejected) => {}
                Ok(Swap::Unknown(why)) => unknown = Some(why),
                Err(error) => return Err(unknown.map_or(error.into(), LockError::Unknown)),
            }
            tokio::time::sleep(Duration::from_millis(chance::below(RACE_PAUSE_MILLISECONDS).into())).await;
        }
        Err(unknown.map_or(LockError::Contended, LockError::Unknown))
    }

    async fn read(&self) -> Result<(LockTable, Option<DocumentVersion>), Error> {
        let late = |_| Error::unavailable("Timeout", format!("{}: no answer within {CALL_LIMIT:?}", names::LOCKS));
        let found = tokio::time::timeout(CALL_LIMIT, self.documents.read(names::LOCKS)).await.map_err(late)??;
        let Some(found) = found else { return Ok((LockTable::default(), None)) };
        let damaged =
            |error: serde_json::Error| Error::Corrupt { key: names::LOCKS.to_owned(), problem: error.to_string() };
        Ok((serde_json::from_slice(&found.body).map_err(damaged)?, Some(found.version)))
    }

    async fn write(&self, table: &LockTable, expected: Option<&DocumentVersion>) -> Result<Swap, Error> {
        let damaged =
            |error: serde_json::Error| Error::Corrupt { key: names::LOCKS.to_owned(), problem: error.to_string() };
        let body = serde_json::to_vec(table).map_err(damaged)?;
        match tokio::time::timeout(CALL_LIMIT, self.documents.swap(names::LOCKS, expected, body.into())).await {
            Ok(answer) => answer,
            Err(_) => Ok(Swap::Unknown(format!("no answer within {CALL_LIMIT:?}"))),
        }
    }
}

#[cfg(test)]
mod tests;
