//! What must hold at every moment.

use std::collections::BTreeMap;

use brainy_coordination::lease::ShardLease;
use brainy_coordination::origins::Origin;
use brainy_coordination::session::{SessionRecord, SessionState};
use brainy_coordination::{Epoch, FencingToken, Incarnation, ShardId, ShardMap, names};
use bytes::Bytes;

/// What was seen so far, as far as it binds what may be seen next.
#[derive(Debug, Default)]
pub(super) struct Checks {
    /// The newest lease of each shard.
    leases: BTreeMap<String, ShardLease>,
    /// Lives that have ended.
    ended: Vec<Incarnation>,
    /// The newest life of each node.
    lives: BTreeMap<String, Incarnation>,
    newest_map: (Epoch, u64),
    /// The tokens in it (Isolated).
    mapped: BTreeMap<ShardId, FencingToken>,
    /// Who has served each shard under which token.
    tenures: BTreeMap<(ShardId, FencingToken), String>,
    highest: BTreeMap<ShardId, FencingToken>,
    /// Leases that name more than one origin (Namespaced).
    pub(super) chains: usize,
    /// Writes that took effect in the folder of a tenure that was over (Namespaced).
    pub(super) late: usize,
}

impl Checks {
    /// A document was written.
    pub(super) fn written(&mut self, name: &str, body: &Bytes) -> Result<(), String> {
        let damaged = |error: serde_json::Error| format!("{name} is damaged: {error}");
        if name.ends_with("/.lock") || name.starts_with(names::SHARD_LEASES) {
            self.lease(name, serde_json::from_slice(body).map_err(damaged)?)
        } else if name.starts_with(names::SESSIONS) {
            self.session(name, &serde_json::from_slice(body).map_err(damaged)?)
        } else if name == names::SHARD_MAP {
            let map: ShardMap = serde_json::from_slice(body).map_err(damaged)?;
            self.map(&map)
        } else {
            let is_of = |lease: &&ShardLease| name.contains(&format!("/shards/{}/", lease.shard));
            let own = |lease: &ShardLease| Some(names::tenure_data(lease.owner.as_ref()?, lease.shard, lease.token));
            let lease = self.leases.values().find(is_of).filter(|_| name.starts_with(names::NAMESPACES));
            let is_late = lease.is_some_and(|lease| own(lease).is_none_or(|own| !name.starts_with(&own)));
            self.late += usize::from(is_late);
            Ok(())
        }
    }

    fn map(&mut self, map: &ShardMap) -> Result<(), String> {
        let at = (map.epoch, map.revision);
        let before = std::mem::replace(&mut self.newest_map, at);
        if before >= at {
            return Err(format!("a map {at:?} after {before:?}"));
        }
        for (shard, token) in (0..).map(ShardId).zip(&map.tokens) {
            let before = self.mapped.insert(shard, *token).unwrap_or_default();
            if *token < before {
                return Err(format!("the map lets the token of shard {shard} fall from {before} to {token}"));
            }
        }
        Ok(())
    }

    fn lease(&mut self, name: &str, lease: ShardLease) -> Result<(), String> {
        self.chains += usize::from(lease.origins.len() > 1);
        let Some(before) = self.leases.insert(name.to_owned(), lease.clone()) else {
            return Ok(());
        };
        let taken = lease.owner.is_some()
            && (lease.owner.as_ref(), lease.incarnation.as_ref())
                != (before.owner.as_ref(), before.incarnation.as_ref());
        let (old, new) = (before.token, lease.token);
        if new < old || taken && new == old {
            return Err(format!("the token of {name} goes from {old} to {new}: {before:?}, then {lease:?}"));
        }
        // R9: what a tenure wrote is read through to, by all that follow it, until it is copied.
        if name.starts_with(names::SHARD_LEASES) {
            let ended = before.owner.clone().filter(|_| taken || lease.owner.is_none());
            let ended = ended.map(|node| Origin { node, token: old });
            let lost = |origin: &&Origin| !lease.origins.contains(origin) && !lease.surplus.contains(origin);
            let forgotten = before.origins.iter().chain(&ended).find(lost);
            if let Some(origin) = forgotten {
                return Err(format!("{name} forgets {origin:?}: {before:?}, then {lease:?}"));
            }
        }
        // R8: a life's leases are taken only when its session is over.
        if let (true, Some(life)) = (taken && before.owner.is_some(), before.incarnation)
            && !self.ended.contains(&life)
        {
            return Err(format!("{name} is taken from a life whose session has not ended: {life:?}, by {lease:?}"));
        }
        Ok(())
    }

    /// An object was deleted: it must be one that nobody looks at, nor will.
    pub(super) fn discarded(&self, name: &str) -> Result<(), String> {
        for lease in self.leases.values() {
            let owner = lease.owner.clone().map(|node| Origin { node, token: lease.token });
            let folder = |origin: &Origin| names::tenure_data(&origin.node, lease.shard, origin.token);
            if let Some(used) = lease.origins.iter().chain(&owner).find(|origin| name.starts_with(&folder(origin))) {
                return Err(format!("{name} is deleted, and {used:?} is in use: {lease:?}"));
            }
        }
        Ok(())
    }

    /// Whether nothing is left to be copied or cleared away.
    pub(super) fn is_tidy(&self) -> bool {
        self.leases.values().all(|lease| lease.origins.is_empty() && lease.surplus.is_empty())
    }

    fn session(&mut self, name: &str, session: &SessionRecord) -> Result<(), String> {
        let life = &session.incarnation;
        let before = self.lives.insert(name.to_owned(), life.clone());
        if let Some(before) = before.filter(|before| before != life) {
            self.ended.push(before);
        }
        if session.state == SessionState::Ended {
            self.ended.push(life.clone());
        } else if self.ended.contains(life) {
            return Err(format!("a life that had ended is back: {session:?}"));
        }
        Ok(())
    }

    /// A process would acknowledge operations of a shard under a token.
    pub(super) fn serves(&mut self, shard: ShardId, token: FencingToken, who: &str) -> Result<(), String> {
        let first = self.tenures.entry((shard, token)).or_insert_with(|| who.to_owned());
        let highest = self.highest.entry(shard).or_insert(token);
        if first != who {
            return Err(format!("shard {shard} is served under token {token} by {first} and by {who}"));
        }
        if token < *highest {
            return Err(format!("shard {shard} is served under token {token} after token {highest}"));
        }
        *highest = token;
        Ok(())
    }
}
