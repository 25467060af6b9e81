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
                    match done {
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
