//! Nodes that ask for shards, give some up, and drain, at any moment: and whether they get what they ask for in the end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use brainy_coordination::session::Requests;
use brainy_coordination::{NodeId, ShardId};

use super::super::ShardState;
use super::world::World;

impl World {
    /// One wish after the other, for as long as there is trouble. Those that stand then stand to the end.
    pub(super) async fn wish(self: Arc<Self>, pace: Duration) {
        while !self.is_calm() {
            tokio::time::sleep(self.draw(|dice| dice.between(pace / 8, pace * 2))).await;
            let nodes = self.nodes();
            let (node, shard, which) = self.draw(|dice| {
                let shard = ShardId(dice.below(self.plan.shards as usize) as u32);
                (nodes[dice.below(nodes.len())].clone(), shard, dice.below(8))
            });
            let Some(process) = self.process(&node).filter(|_| !self.is_calm()) else { continue };
            let wish = |requests: &mut Requests| match which {
                0..=2 => requests.acquire(shard),
                3 => requests.release(shard),
                4 => requests.withdraw(shard),
                5 => requests.drain = true,
                _ => requests.drain = false,
            };
            self.wishes.fetch_add(1, Ordering::Relaxed);
            let asked = process.ownership.ask(wish);
            self.say(process.host.name(), || format!("{asked:?}: wishes {:?}", process.ownership.requests()));
        }
    }

    /// Wishes that are not met, while every node is wanted and well.
    pub(super) fn unmet(&self) -> Vec<String> {
        let alive = self.alive.lock().unwrap();
        let of: BTreeMap<&NodeId, Requests> =
            alive.values().map(|process| (process.ownership.node(), process.ownership.requests())).collect();
        let mut unmet = Vec::new();
        for shard in (0..self.plan.shards).map(ShardId) {
            let serves = |node: &&NodeId| {
                alive
                    .values()
                    .any(|it| it.ownership.node() == *node && it.ownership.describe(shard).state == ShardState::Serving)
            };
            let Some(owner) = of.keys().copied().find(serves) else {
                unmet.push(format!("nobody serves {shard}"));
                continue;
            };
            let takes = |node: &&NodeId| !of[*node].drain && !of[*node].release.contains(&shard);
            let claimants: Vec<&NodeId> =
                of.keys().copied().filter(takes).filter(|node| of[*node].acquire.contains(&shard)).collect();
            if !claimants.is_empty() && !claimants.contains(&owner) {
                unmet.push(format!("{owner} serves {shard}, and {claimants:?} wish to"));
            } else if claimants.is_empty() && !takes(&owner) && of.keys().any(takes) {
                unmet.push(format!("{owner} serves {shard}, and wishes not to"));
            }
        }
        unmet
    }
}
