//! What the table says to people and programs.

use brainy_coordination::clock::Validity;
use brainy_coordination::{FencingToken, ShardId};

use super::super::{NodeStatus, ShardState, ShardView, Wish};
use super::{ALONE, Known, Phase, Slot, Table, lock, now};

impl Table {
    pub(in super::super) fn describe(&self, shard: ShardId) -> ShardView {
        match self.slot(shard) {
            Some(slot) => self.view(shard, &lock(slot), &lock(&self.known)),
            None => ShardView {
                shard,
                owner: None,
                token: FencingToken::default(),
                state: ShardState::Unassigned,
                since: now(),
                wish: None,
                why: Some(self.no_such(shard)),
                origins: Vec::new(),
                surplus: Vec::new(),
                copied: None,
            },
        }
    }

    pub(super) fn view(&self, shard: ShardId, slot: &Slot, known: &Known) -> ShardView {
        let (owner, in_map) = match (&known.alone, &known.map) {
            (Some(_), _) => (Some(self.node.clone()), ALONE),
            (None, Some(map)) => (map.owner(shard).cloned(), map.token(shard)),
            (None, None) => (None, FencingToken::default()),
        };
        let (state, token) = match &slot.phase {
            Phase::Serving(tenure) if tenure.stands() => (ShardState::Serving, tenure.token()),
            Phase::Stopping(tenure) => (ShardState::Stopping, tenure.token()),
            Phase::Idle if known.alone.is_some() => (ShardState::Serving, ALONE),
            Phase::Serving(_) | Phase::Idle => (
                match &owner {
                    Some(owner) if *owner == self.node => ShardState::Waiting,
                    Some(_) => ShardState::Elsewhere,
                    None => ShardState::Unassigned,
                },
                in_map,
            ),
        };
        let progress = slot.progress.as_ref().filter(|_| state == ShardState::Serving);
        ShardView {
            shard,
            owner,
            token,
            state,
            since: slot.since.clone(),
            wish: Wish::of(&lock(&self.requests), shard),
            why: why(slot),
            origins: progress.map(|progress| progress.origins()).unwrap_or_default(),
            surplus: progress.map(|progress| progress.surplus()).unwrap_or_default(),
            copied: progress.map(|progress| progress.copied()),
        }
    }

    pub(in super::super) fn status(&self) -> NodeStatus {
        let held = (0..self.shards()).filter(|shard| self.tenure(ShardId(*shard)).is_some()).count();
        let progress = |slot: &std::sync::Mutex<Slot>| lock(slot).progress.clone();
        let origins = self.slots.iter().filter_map(progress).map(|progress| progress.origins().len()).sum();
        let problem = self.problems();
        let known = lock(&self.known);
        let live = known.session.as_ref().is_some_and(Validity::holds);
        if known.alone.is_some() {
            let all = self.slots.len();
            let ready = live && problem.is_none();
            return NodeStatus {
                ready,
                problem,
                held: all,
                assigned: all,
                session_valid: live,
                ..NodeStatus::default()
            };
        }
        let assigned = known.map.as_ref().map_or(0, |map| map.shards_of(&self.node).count());
        NodeStatus {
            ready: live && known.map.is_some() && problem.is_none() && held >= assigned,
            problem,
            held,
            assigned,
            map_revision: known.map.as_ref().map_or(0, |map| map.revision),
            draining: self.requests().drain,
            session_valid: live,
            sessions_lost: known.sessions_lost,
            origins,
        }
    }
}

/// What a shard waits for, and by whose wish it is where it is.
fn why(slot: &Slot) -> Option<String> {
    match (&slot.why, &slot.wished_by) {
        (Some(why), Some(node)) => Some(format!("{why} (by wish of node {node})")),
        (None, Some(node)) => Some(format!("by wish of node {node}")),
        (why, None) => why.clone(),
    }
}
