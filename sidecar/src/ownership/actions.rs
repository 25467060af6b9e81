//! One action per shard at a time: what keeps the work on a shard in order without a lock across the whole node.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::Duration;

use brainy_coordination::ShardId;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::time::Instant;

/// Pauses before an action is tried again: doubled from the first to the last.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// How an action went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Done {
    /// Look at the shard again at once: the action changed something.
    Changed,
    /// Look at it again after a pause.
    Later,
}

/// Actions under way, and shards to look at again later.
#[derive(Default)]
pub(super) struct Actions {
    running: FuturesUnordered<BoxFuture<'static, (ShardId, Done)>>,
    busy: HashSet<ShardId>,
    pauses: HashMap<ShardId, Duration>,
    later: BTreeSet<(Instant, ShardId)>,
    waiting: HashSet<ShardId>,
    /// Something changed during their action, which may have been too late for it.
    again: HashSet<ShardId>,
}

impl Actions {
    /// Starts an action on a shard, unless one is under way or its pause is not over.
    pub(super) fn start(&mut self, shard: ShardId, action: impl Future<Output = Done> + Send + 'static) {
        if !self.waiting.contains(&shard) && self.busy.insert(shard) {
            self.running.push(Box::pin(async move { (shard, action.await) }));
        }
    }

    /// Ends all pauses: something has changed.
    pub(super) fn hurry(&mut self) {
        self.later.clear();
        self.waiting.clear();
        self.pauses.clear();
    }

    /// Has the first action on a shard wait for something that is expected soon.
    pub(super) fn expect(&mut self, shard: ShardId, within: Duration) {
        if !self.busy.contains(&shard) && self.waiting.insert(shard) {
            self.later.insert((Instant::now() + within, shard));
        }
    }

    /// Ends a shard's pause, and the one after the action that is under way: something has changed.
    pub(super) fn hurry_for(&mut self, shard: ShardId) {
        self.pauses.remove(&shard);
        match self.waiting.remove(&shard) {
            true => self.later.retain(|(_, waiting)| *waiting != shard),
            false if self.busy.contains(&shard) => drop(self.again.insert(shard)),
            false => {}
        }
    }

    /// Whether nothing is under way or waiting.
    pub(super) fn is_idle(&self) -> bool {
        self.busy.is_empty() && self.later.is_empty()
    }

    /// Whether an action on the shard is under way.
    pub(super) fn is_busy(&self, shard: ShardId) -> bool {
        self.busy.contains(&shard)
    }

    /// The next shard to look at again. Waits for ever while there is nothing to wait for. May be dropped and called
    /// again at any time.
    pub(super) async fn next(&mut self) -> ShardId {
        loop {
            let earliest = self.later.first().copied();
            let pause_over = async {
                match earliest {
                    Some((at, _)) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                Some((shard, done)) = self.running.next() => {
                    self.busy.remove(&shard);
                    let again = self.again.remove(&shard);
                    match done {
                        Done::Later if again => return shard,
                        Done::Changed => {
                            self.pauses.remove(&shard);
                            return shard;
                        }
                        Done::Later => {
                            let pause = self.pauses.entry(shard).or_insert(PAUSES.0);
                            self.later.insert((Instant::now() + *pause, shard));
                            self.waiting.insert(shard);
                            *pause = (*pause * 2).min(PAUSES.1);
                        }
                    }
                }
                () = pause_over => {
                    if let Some((_, shard)) = self.later.pop_first() {
                        self.waiting.remove(&shard);
                        return shard;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARD: ShardId = ShardId(3);

    async fn tried(actions: &mut Actions) {
        actions.start(SHARD, async { Done::Later });
        let next = tokio::time::timeout(Duration::ZERO, actions.next()).await;
        assert!(next.is_err(), "it waits for its pause to be over");
    }

    #[tokio::test(start_paused = true)]
    async fn a_shard_of_which_something_has_changed_waits_no_longer() {
        let mut actions = Actions::default();
        tried(&mut actions).await;
        actions.start(SHARD, async { Done::Changed });
        assert!(!actions.is_busy(SHARD), "not before its pause is over");
        actions.hurry_for(SHARD);
        actions.start(SHARD, async { Done::Changed });
        assert!(actions.is_busy(SHARD));
        assert_eq!(actions.next().await, SHARD);
        assert!(actions.is_idle());
    }

    #[tokio::test(start_paused = true)]
    async fn what_changes_during_an_action_ends_the_pause_after_it_once() {
        let mut actions = Actions::default();
        actions.start(SHARD, async { Done::Later });
        actions.hurry_for(SHARD);
        let next = tokio::time::timeout(Duration::ZERO, actions.next()).await;
        assert_eq!(next, Ok(SHARD), "its action may have looked too early");
        tried(&mut actions).await;
    }
}
