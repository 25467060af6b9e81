//! Gives up a node that is lost with its volume (strategy Isolated): the shards whose data only it had are placed anew, and
//! empty. Only because a person says so.
//!
//! The new token is two above the old one: no data of before is current under it, whether the volume comes back or not. The
//! shard is served only from the next token on, as a new one is, and that waits until every live node has acted on the map:
//! the node that was given up may have come back at this very moment, and then lets go first.

use super::{Draft, Facts, finish_moves, has};
use crate::session::SessionRecord;
use crate::{FencingToken, NodeId, ShardId, ShardMap};

/// What becomes of the wish to give up a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GiveUp {
    /// Publish this map: these shards are new in it.
    Publish(Box<ShardMap>, Vec<ShardId>),
    /// Not yet: why.
    Wait(String),
    /// No: why.
    Refuse(String),
}

/// The shards of a node that its volume does not have, as it says itself: it came back empty, or with old data. None of a node
/// that has not acted on this map yet.
pub fn missing(map: &ShardMap, node: &NodeId, record: &SessionRecord) -> Vec<ShardId> {
    if record.map_revision < map.revision {
        return Vec::new();
    }
    let is_missing = |shard: &ShardId| {
        let (token, at) = (map.token(*shard), shard.0 as usize);
        let before = FencingToken(token.0.saturating_sub(1));
        let is_new = token <= FencingToken(1) || map.given_up.contains(&shard.0);
        let current = [(&record.stored, token), (&record.stored, before), (&record.received, before)];
        !is_new && !current.iter().any(|(held, token)| has(held, at, *token))
    };
    map.shards_of(node).filter(is_missing).collect()
}

/// Decides. `is_ready`: the node's pod is; one that is not may have a session that has yet to lapse.
pub fn give_up(map: &ShardMap, facts: &Facts<'_>, node: &NodeId, is_ready: bool) -> GiveUp {
    if facts.lost(map) || map.owners.iter().any(Option::is_none) {
        return GiveUp::Wait("it is not known yet which node has which data".into());
    }
    let mut draft = Draft::of(map);
    // What another node has received whole need not be given up.
    finish_moves(&mut draft, facts);
    let is_its = |shard: &ShardId| draft.owners[shard.0 as usize].as_ref() == Some(node);
    let live = facts.live(node);
    let lost: Vec<ShardId> = match live {
        Some(record) => missing(map, node, record).into_iter().filter(is_its).collect(),
        None => (0..facts.shards).map(ShardId).filter(is_its).collect(),
    };
    match (live, lost.is_empty()) {
        (Some(record), true) if record.map_revision < map.revision => {
            return GiveUp::Wait(format!("{node} has yet to say what its volume has"));
        }
        (Some(_), true) if !is_ready => {
            return GiveUp::Wait(format!("{node} is not ready, and its session has yet to lapse"));
        }
        (Some(_), true) => return GiveUp::Refuse(format!("{node} is alive, and has the data of its shards")),
        (None, true) => return GiveUp::Refuse(format!("{node} has no shard")),
        (_, false) => {}
    }
    let targets = facts.staying();
    if targets.is_empty() {
        return GiveUp::Wait("no node is live that could take its shards".into());
    }
    let mut before = draft.owners.clone();
    lost.iter().for_each(|shard| before[shard.0 as usize] = None);
    let placed = facts.placed(&before, &targets, usize::MAX);
    for shard in &lost {
        let at = shard.0 as usize;
        draft.owners[at].clone_from(&placed[at]);
        draft.moves.remove(&shard.0);
        draft.given_up.insert(shard.0);
        draft.raise(at);
        draft.raise(at);
    }
    GiveUp::Publish(Box::new(draft.into_map(Some(map), facts)), lost)
}

#[cfg(test)]
#[path = "give_up_tests.rs"]
mod tests;
