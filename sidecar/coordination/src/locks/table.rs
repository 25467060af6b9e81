//! What the table says, and each change of it.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::graph::cycle_through;
use crate::{FencingToken, Incarnation, NodeId};

/// Most locks that one request may name.
pub const MOST_NAMES: usize = 64;
/// Most holders in the table, with those that wait.
pub const MOST_HOLDERS: usize = 10_000;

/// Who holds locks: an application's name for it, unique in the cluster (best a UUID).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct HolderId(pub String);

/// The document.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LockTable {
    /// Grows with each write (R5).
    pub revision: u64,
    /// The last token that was given. One count for all locks: so it outlives each of them, and nothing need be kept of a
    /// lock that nobody holds.
    pub token: FencingToken,
    /// Grows with each holder, each wait and each refusal: who came first.
    pub ticket: u64,
    /// The locks that are held.
    #[serde(default)]
    locks: BTreeMap<String, Lock>,
    /// Those who hold or wait.
    #[serde(default)]
    holders: BTreeMap<HolderId, Holder>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Lock {
    holder: HolderId,
    token: FencingToken,
    /// For people (RFC 3339).
    since: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Holder {
    /// On which node, and in which life of it: it ends with that life.
    node: NodeId,
    incarnation: Incarnation,
    /// The lower, the older.
    ticket: u64,
    /// What it waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    wait: Option<Wait>,
    /// Its last wait was ended so that others may go on; it has yet to be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    victim_of: Option<Cycle>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wait {
    names: BTreeSet<String>,
    ticket: u64,
}

/// Each of them waits for the next, and the last for the first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Cycle(pub Vec<HolderId>);

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Ask<'a> {
    /// By whom.
    pub holder: &'a HolderId,
    /// On which node.
    pub node: &'a NodeId,
    /// In which of its lives, whose session is live.
    pub incarnation: &'a Incarnation,
    /// What: all of it, or nothing.
    pub names: &'a BTreeSet<String>,
    /// Otherwise it is told at once that it would have to wait.
    pub wait: bool,
    /// Now (RFC 3339), for people.
    pub now: &'a str,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// It holds all of it, under these tokens.
    Holds(BTreeMap<String, FencingToken>),
    /// It is in line behind others: who has what.
    Waits(Vec<Waiting>),
    /// It would close a cycle, or had to give up its wait so that others may go on. It keeps what it holds: let go of it.
    Deadlock(Cycle),
    /// It can't be done.
    Refused(Refusal),
}

/// A lock that someone waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Waiting {
    /// Which.
    pub name: String,
    /// Who has it, or comes first.
    pub behind: HolderId,
}

/// Why a request can't be met, however long it waits.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// None, or too many.
    #[error("names: 1 to {MOST_NAMES} locks at once, not {0}")]
    Names(usize),
    /// A name is empty, or too long.
    #[error("names: {0:?} is not of 1 to 200 characters")]
    Name(String),
    /// The same holder lives somewhere else.
    #[error("holder: {0} is held by a process of node {1}: choose another name, best a UUID")]
    Elsewhere(String, NodeId),
    /// The table is full.
    #[error("there are {MOST_HOLDERS} holders: release some first")]
    Full,
}

/// A lock, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LockView {
    /// Its name.
    pub name: String,
    /// Who holds it; none: it is free.
    pub holder: Option<HolderId>,
    /// On which node.
    pub node: Option<NodeId>,
    /// Under which token.
    pub token: Option<FencingToken>,
    /// Since when (RFC 3339).
    pub since: Option<String>,
    /// Who waits for it, in the order in which they will get it.
    pub waiters: Vec<HolderId>,
}

impl LockTable {
    /// Asks for a set of locks, and again while it waits: a second time changes nothing that the first has done. Write the
    /// table back if it has changed, on the condition that it stands as it was read.
    pub fn ask(&mut self, ask: &Ask<'_>) -> Asked {
        if let Some(refusal) = self.refusal(ask) {
            return Asked::Refused(refusal);
        }
        if let Some(cycle) = self.holders.get_mut(ask.holder).and_then(|holder| holder.victim_of.take()) {
            self.tidy(ask.holder);
            return Asked::Deadlock(cycle);
        }
        self.enter(ask);
        self.grant(ask.now);
        if self.holds_all(ask.holder, ask.names) {
            return Asked::Holds(self.tokens(ask.names));
        }
        let behind = self.behind(ask.holder);
        if !ask.wait {
            self.give_up(ask.holder, ask.now);
            return Asked::Waits(behind);
        }
        self.break_cycles(ask.holder, ask.now);
        if let Some(cycle) = self.holders.get_mut(ask.holder).and_then(|holder| holder.victim_of.take()) {
            self.tidy(ask.holder);
            return Asked::Deadlock(cycle);
        }
        match self.holds_all(ask.holder, ask.names) {
            true => Asked::Holds(self.tokens(ask.names)),
            false => Asked::Waits(self.behind(ask.holder)),
        }
    }

    /// Ends a wait. What the holder has, it keeps.
    pub fn give_up(&mut self, holder: &HolderId, now: &str) {
        if let Some(found) = self.holders.get_mut(holder) {
            found.wait = None;
            found.victim_of = None;
        }
        self.tidy(holder);
        self.grant(now);
    }

    /// Lets go of these locks, or of everything and of its wait. Those that are not its own are left alone. What it lets go and
    /// waits for, it gets after those who came before. `now`: for people.
    pub fn release(&mut self, holder: &HolderId, names: Option<&BTreeSet<String>>, now: &str) {
        let lets_go = |name: &String| names.is_none_or(|names| names.contains(name));
        self.locks.retain(|name, lock| lock.holder != *holder || !lets_go(name));
        if names.is_none() {
            self.holders.remove(holder);
        }
        self.tidy(holder);
        self.grant(now);
        self.break_cycles(holder, now);
    }

    /// Removes what belongs to a life of a node that is over.
    pub fn bury(&mut self, incarnation: &Incarnation, now: &str) {
        let dead = self.holders.iter().filter(|(_, holder)| holder.incarnation == *incarnation);
        let dead: Vec<HolderId> = dead.map(|(id, _)| id.clone()).collect();
        dead.iter().for_each(|holder| self.release(holder, None, now));
    }

    /// What a holder has.
    pub fn held(&self, holder: &HolderId) -> BTreeMap<String, FencingToken> {
        let own = self.locks.iter().filter(|(_, lock)| lock.holder == *holder);
        own.map(|(name, lock)| (name.clone(), lock.token)).collect()
    }

    /// The lives of all nodes that have something here.
    pub fn lives(&self) -> Vec<(NodeId, Incarnation)> {
        let mut lives: Vec<(NodeId, Incarnation)> = Vec::new();
        for holder in self.holders.values() {
            if !lives.iter().any(|(_, incarnation)| *incarnation == holder.incarnation) {
                lives.push((holder.node.clone(), holder.incarnation.clone()));
            }
        }
        lives
    }

    /// The holders of one life of a node.
    pub fn holders_of(&self, incarnation: &Incarnation) -> Vec<HolderId> {
        let own = self.holders.iter().filter(|(_, holder)| holder.incarnation == *incarnation);
        own.map(|(id, _)| id.clone()).collect()
    }

    /// A lock as it is.
    pub fn view(&self, name: &str) -> LockView {
        let lock = self.locks.get(name);
        let mut waiters: Vec<(u64, &HolderId)> = self
            .holders
            .iter()
            .filter_map(|(id, holder)| {
                let wait = holder.wait.as_ref().filter(|wait| wait.names.contains(name))?;
                Some((wait.ticket, id))
            })
            .collect();
        waiters.sort_unstable();
        LockView {
            name: name.to_owned(),
            holder: lock.map(|lock| lock.holder.clone()),
            node: lock.and_then(|lock| Some(self.holders.get(&lock.holder)?.node.clone())),
            token: lock.map(|lock| lock.token),
            since: lock.map(|lock| lock.since.clone()),
            waiters: waiters.into_iter().map(|(_, id)| id.clone()).collect(),
        }
    }

    fn tokens(&self, names: &BTreeSet<String>) -> BTreeMap<String, FencingToken> {
        names.iter().filter_map(|name| Some((name.clone(), self.locks.get(name)?.token))).collect()
    }

    fn refusal(&self, ask: &Ask<'_>) -> Option<Refusal> {
        if !(1..=MOST_NAMES).contains(&ask.names.len()) {
            return Some(Refusal::Names(ask.names.len()));
        }
        if let Some(name) = ask.names.iter().find(|name| name.is_empty() || name.chars().count() > 200) {
            return Some(Refusal::Name(name.clone()));
        }
        match self.holders.get(ask.holder) {
            Some(found) if found.incarnation != *ask.incarnation => {
                Some(Refusal::Elsewhere(ask.holder.0.clone(), found.node.clone()))
            }
            None if self.holders.len() >= MOST_HOLDERS => Some(Refusal::Full),
            _ => None,
        }
    }

    /// Takes note of a request. One for the same again keeps its place in line; one for something else gives it up.
    fn enter(&mut self, ask: &Ask<'_>) {
        if self.holds_all(ask.holder, ask.names) {
            if let Some(holder) = self.holders.get_mut(ask.holder) {
                holder.wait = None;
            }
            return;
        }
        let ticket = self.next_ticket();
        let holder = self.holders.entry(ask.holder.clone()).or_insert_with(|| Holder {
            node: ask.node.clone(),
            incarnation: ask.incarnation.clone(),
            ticket,
            wait: None,
            victim_of: None,
        });
        if holder.wait.as_ref().is_none_or(|wait| wait.names != *ask.names) {
            holder.wait = Some(Wait { names: ask.names.clone(), ticket });
        }
    }

    fn next_ticket(&mut self) -> u64 {
        self.ticket += 1;
        self.ticket
    }

    /// Gives locks to those who wait, in the order in which they came: one whose set is free gets all of it, unless someone
    /// before it waits for a part of it.
    fn grant(&mut self, now: &str) {
        let mut in_line: Vec<(u64, HolderId)> =
            self.holders.iter().filter_map(|(id, holder)| Some((holder.wait.as_ref()?.ticket, id.clone()))).collect();
        in_line.sort_unstable();
        let mut taken: BTreeSet<String> = BTreeSet::new();
        for (_, id) in in_line {
            let Some(names) =
                self.holders.get(&id).and_then(|holder| holder.wait.as_ref()).map(|wait| wait.names.clone())
            else {
                continue;
            };
            let is_free = |name: &String| self.locks.get(name).map_or(!taken.contains(name), |lock| lock.holder == id);
            if !names.iter().all(is_free) {
                taken.extend(names);
                continue;
            }
            for name in names {
                if !self.locks.contains_key(&name) {
                    self.token = self.token.next();
                    let lock = Lock { holder: id.clone(), token: self.token, since: now.to_owned() };
                    self.locks.insert(name, lock);
                }
            }
            if let Some(holder) = self.holders.get_mut(&id) {
                holder.wait = None;
            }
        }
    }

    fn holds_all(&self, holder: &HolderId, names: &BTreeSet<String>) -> bool {
        names.iter().all(|name| self.locks.get(name).is_some_and(|lock| lock.holder == *holder))
    }

    /// What a holder waits for: those who have it, and those who wait for it and came first.
    fn behind(&self, holder: &HolderId) -> Vec<Waiting> {
        let Some(wait) = self.holders.get(holder).and_then(|holder| holder.wait.as_ref()) else {
            return Vec::new();
        };
        let mut behind = Vec::new();
        for name in &wait.names {
            let waiting = |id: &HolderId| Waiting { name: name.clone(), behind: id.clone() };
            match self.locks.get(name) {
                Some(lock) if lock.holder != *holder => behind.push(waiting(&lock.holder)),
                // What one holds already, nobody else gets before.
                Some(_) => continue,
                None => {}
            }
            let before = |other: &Wait| other.ticket < wait.ticket && other.names.contains(name);
            let earlier = self.holders.iter().filter(|(_, other)| other.wait.as_ref().is_some_and(before));
            behind.extend(earlier.map(|(id, _)| waiting(id)));
        }
        behind
    }

    fn edges(&self) -> BTreeMap<HolderId, BTreeSet<HolderId>> {
        let waiting = self.holders.iter().filter(|(_, holder)| holder.wait.is_some());
        waiting
            .map(|(id, _)| (id.clone(), self.behind(id).into_iter().map(|waiting| waiting.behind).collect()))
            .collect()
    }

    /// Ends the waits of the youngest until nobody waits for itself. A cycle is through `from`, if there is one: whoever else
    /// waits was looked at when its wait began, and has nobody before it who was not there then. Only one that lets go of what
    /// it waits for has: so it is looked at again.
    fn break_cycles(&mut self, from: &HolderId, now: &str) {
        while let Some(cycle) = cycle_through(&self.edges(), from) {
            let victim = self.youngest(&cycle);
            if let Some(holder) = self.holders.get_mut(&victim) {
                holder.wait = None;
                holder.victim_of = Some(Cycle(cycle));
            }
            self.grant(now);
        }
    }

    /// The one that came last: it has the least to lose, and the older always get on.
    fn youngest(&self, cycle: &[HolderId]) -> HolderId {
        let ticket = |id: &&HolderId| self.holders.get(*id).map(|holder| holder.ticket);
        cycle.iter().max_by_key(ticket).cloned().unwrap_or_else(|| cycle[0].clone())
    }

    /// A holder that neither holds nor waits nor is to be told anything is forgotten.
    fn tidy(&mut self, holder: &HolderId) {
        let idle = self.holders.get(holder).is_some_and(|found| found.wait.is_none() && found.victim_of.is_none());
        if idle && !self.locks.values().any(|lock| lock.holder == *holder) {
            self.holders.remove(holder);
        }
    }

    #[cfg(test)]
    pub(super) fn has_a_cycle(&self) -> bool {
        let edges = self.edges();
        edges.keys().any(|id| cycle_through(&edges, id).is_some())
    }

    #[cfg(test)]
    pub(super) fn is_waiting(&self, holder: &HolderId) -> bool {
        self.holders.get(holder).is_some_and(|found| found.wait.is_some())
    }
}
