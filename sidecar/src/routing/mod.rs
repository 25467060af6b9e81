//! Takes an operation to the node that owns its shard.
//!
//! - [`call`]: an operation on one key, and what can become of it.
//! - [`owners`]: who serves which shard.
//! - [`local`]: runs calls on a shard that is served here (R3).
//! - [`listing`]: lists the keys of many shards in order.
//! - [`budget`]: bounds the memory of one answer.
//!
//! A forwarded request is only ever run where it arrives ([`Router::run_here`]): it is never forwarded twice.

pub mod budget;
pub mod call;
pub mod listing;
mod local;
pub mod owners;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use brainy_coordination::{NodeId, ShardId};
use brainy_storage::{Key, Namespace};
use futures::future::join;
use futures::stream::{self, StreamExt};
use tokio::time::Instant;

pub use call::{Attempt, Call, Reply, Sight};
pub use listing::{Listing, Portion};
pub use owners::{Leave, Owners, Peers, Spot};

use crate::metrics::Metrics;
use crate::peers::PeerError;
use budget::{Budget, Reading};

/// Shards of one request worked on at a time.
const SHARDS_AT_ONCE: usize = 32;
/// Nodes asked at a time.
const NODES_AT_ONCE: usize = 16;
/// For the answers of a node whose shards have passed to others: after that it is taken to be silent.
const LAST_ANSWERS: Duration = Duration::from_millis(250);
/// So much more for what can't be asked again, while the node's session is not known to be over: the shards may have moved as
/// planned, and the answer be on its way. Giving it up makes an unknown outcome of it.
const LAST_WORD: Duration = Duration::from_millis(1750);
/// First and longest pause before a try is repeated although nothing is known to have changed.
const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(250));

/// How long a request may take.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For its shard to have a server.
    pub owner: Duration,
    /// For the storage of one shard to answer.
    pub storage: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { owner: Duration::from_secs(10), storage: Duration::from_secs(30) }
    }
}

/// Takes operations to the owners of their shards.
#[derive(Debug)]
pub struct Router {
    owners: Arc<dyn Owners>,
    peers: Option<Arc<dyn Peers>>,
    patience: Patience,
    metrics: Arc<Metrics>,
    reading: Reading,
}

/// Where the pending calls of a request go in one round, by their index in it.
#[derive(Default)]
struct Plan {
    here: Vec<(Box<dyn Leave>, Vec<usize>)>,
    elsewhere: BTreeMap<(NodeId, String), Vec<usize>>,
    nowhere: Vec<(usize, String)>,
}

/// What one round decided: the index of each call, with what came of it.
type Decided = Vec<(usize, Attempt)>;

/// The wait between the rounds of a request: until something changes, or a growing pause has passed.
pub(super) struct Rounds {
    deadline: Instant,
    pause: Duration,
}

impl Rounds {
    fn new(patience: &Patience) -> Self {
        Self { deadline: Instant::now() + patience.owner, pause: PAUSES.0 }
    }

    /// Waits for a reason to try again. False: the time is up.
    async fn again(&mut self, changed: impl Future<Output = ()>) -> bool {
        let now = Instant::now();
        if now >= self.deadline {
            return false;
        }
        let until = (now + self.pause).min(self.deadline);
        self.pause = (self.pause * 2).min(PAUSES.1);
        // A time-out is a reason too: not every change is seen here (a peer takes a shard a moment after we asked it).
        let _ = tokio::time::timeout_at(until, changed).await;
        true
    }
}

impl Router {
    /// A router. Without `peers` (standalone) nothing is forwarded.
    pub fn new(
        owners: Arc<dyn Owners>,
        peers: Option<Arc<dyn Peers>>,
        patience: Patience,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self { owners, peers, patience, metrics, reading: Reading::default() }
    }

    /// Runs calls wherever their shards are served, and waits (bounded) for shards that have no server. The replies
    /// come in the order of the calls.
    pub async fn run(&self, namespace: Option<&Namespace>, calls: Vec<Call>) -> Vec<Reply> {
        let budget = Budget::of(calls.len(), self.reading.clone());
        self.run_within(namespace, calls, budget).await
    }

    /// The same, with at most so many bytes of values in the answer.
    pub async fn read(&self, namespace: Option<&Namespace>, calls: Vec<Call>, bytes: u64) -> Vec<Reply> {
        self.run_within(namespace, calls, Budget::new(bytes, self.reading.clone())).await
    }

    async fn run_within(&self, namespace: Option<&Namespace>, calls: Vec<Call>, budget: Budget) -> Vec<Reply> {
        let budget = Arc::new(budget);
        let mut rounds = Rounds::new(&self.patience);
        let mut replies: Vec<Option<Reply>> = vec![None; calls.len()];
        let mut pending: Vec<usize> = (0..calls.len()).collect();
        // Calls that may have taken effect already, and are asked for again: nothing but success is certain any more.
        let mut doubts: BTreeMap<usize, String> = BTreeMap::new();
        loop {
            let changed = self.owners.next_change();
            let plan = self.plan(namespace, &calls, &pending);
            let mut waiting = plan.nowhere;
            let here = self.round_here(namespace, &calls, plan.here, &budget);
            let elsewhere = self.round_elsewhere(namespace, &calls, plan.elsewhere, &budget);
            let (here, elsewhere) = join(here, elsewhere).await;
            for (index, attempt) in here.into_iter().chain(elsewhere) {
                match attempt {
                    Attempt::Done(Reply::Unknown(why)) if calls[index].may_repeat() => {
                        doubts.insert(index, why.clone());
                        waiting.push((index, why));
                    }
                    Attempt::Done(reply) => replies[index] = Some(reply),
                    Attempt::NotServed(why) => waiting.push((index, why)),
                }
            }
            if waiting.is_empty() {
                break;
            }
            if !rounds.again(changed).await {
                for (index, why) in waiting {
                    replies[index] = Some(Reply::NoServer(why));
                }
                break;
            }
            pending = waiting.into_iter().map(|(index, _)| index).collect();
            // Items of one key keep their order.
            pending.sort_unstable();
        }
        for (index, why) in doubts {
            if let Some(reply) = replies[index].take() {
                replies[index] = Some(if reply.is_success() { reply } else { Reply::Unknown(why) });
            }
        }
        // Every index is either decided or still waiting, so none is left empty; the word for it is the cautious one.
        replies.into_iter().map(|reply| reply.unwrap_or_else(|| Reply::Unknown("the call was lost".into()))).collect()
    }

    /// Runs one call: [`run`](Self::run) for a batch of one. A read of a shard that is served here goes past all that only
    /// batches, writes and forwarding need.
    pub async fn run_one(&self, namespace: Option<&Namespace>, call: Call) -> Reply {
        if let Call::Get { key } = &call
            && let Spot::Here(leave) = self.owners.spot(self.shard(namespace, key))
            && let Attempt::Done(reply) =
                local::read(&*leave, namespace, key, &self.reading, self.patience.storage).await
        {
            return reply;
        }
        let replies = self.run(namespace, vec![call]).await;
        replies.into_iter().next().unwrap_or_else(|| Reply::Unknown("the call was lost".into()))
    }

    /// Runs calls whose shards are served by this node, and no others: what another node forwarded.
    pub async fn run_here(&self, namespace: Option<&Namespace>, calls: Vec<Call>) -> Vec<Attempt> {
        let budget = Arc::new(Budget::of(calls.len(), self.reading.clone()));
        let pending: Vec<usize> = (0..calls.len()).collect();
        let plan = self.plan(namespace, &calls, &pending);
        let mut attempts = vec![Attempt::NotServed("not this node's shard".into()); calls.len()];
        for (index, why) in plan.nowhere {
            attempts[index] = Attempt::NotServed(why);
        }
        for (index, attempt) in self.round_here(namespace, &calls, plan.here, &budget).await {
            attempts[index] = attempt;
        }
        attempts
    }

    fn plan(&self, namespace: Option<&Namespace>, calls: &[Call], pending: &[usize]) -> Plan {
        let mut by_shard: BTreeMap<ShardId, Vec<usize>> = BTreeMap::new();
        for index in pending {
            by_shard.entry(self.shard(namespace, calls[*index].key())).or_default().push(*index);
        }
        let mut plan = Plan::default();
        for (shard, indices) in by_shard {
            match self.owners.spot(shard) {
                Spot::Here(leave) => plan.here.push((leave, indices)),
                Spot::Elsewhere(node, address) => plan.elsewhere.entry((node, address)).or_default().extend(indices),
                Spot::Nowhere(why) => plan.nowhere.extend(indices.into_iter().map(|index| (index, why.clone()))),
            }
        }
        plan
    }

    fn shard(&self, namespace: Option<&Namespace>, key: &Key) -> ShardId {
        ShardId::of(namespace.map_or("", Namespace::as_str), key.as_str(), self.owners.shards())
    }

    async fn round_here(
        &self,
        namespace: Option<&Namespace>,
        calls: &[Call],
        groups: Vec<(Box<dyn Leave>, Vec<usize>)>,
        budget: &Arc<Budget>,
    ) -> Decided {
        let work = groups.into_iter().map(|(leave, indices)| {
            let chosen = pick(calls, &indices);
            let run = local::run(leave, namespace.cloned(), chosen, Arc::clone(budget), self.patience.storage);
            async move { indices.into_iter().zip(run.await).collect::<Decided>() }
        });
        let work: Vec<_> = work.collect();
        let decided: Vec<Decided> = stream::iter(work).buffer_unordered(SHARDS_AT_ONCE).collect().await;
        decided.into_iter().flatten().collect()
    }

    async fn round_elsewhere(
        &self,
        namespace: Option<&Namespace>,
        calls: &[Call],
        groups: BTreeMap<(NodeId, String), Vec<usize>>,
        budget: &Arc<Budget>,
    ) -> Decided {
        let work = groups.into_iter().map(|((node, address), indices)| {
            let chosen = pick(calls, &indices);
            let writes: Vec<bool> = chosen.iter().map(Call::writes).collect();
            async move {
                self.metrics.forwarded(indices.len());
                let asked = tokio::select! {
                    biased;
                    asked = self.forward(&node, &address, namespace, chosen) => asked,
                    () = self.passed_on(namespace, calls, &indices, &node, &address) => {
                        Err(PeerError::Lost(format!("{node} gave no answer, and is no longer asked for this")))
                    }
                };
                let (attempts, in_doubt) = match asked {
                    Ok(attempts) => {
                        let refused = attempts.iter().any(|attempt| matches!(attempt, Attempt::NotServed(_)));
                        (attempts, refused)
                    }
                    Err(PeerError::NotSent(why)) => (vec![Attempt::NotServed(why); writes.len()], true),
                    Err(PeerError::Lost(why)) => (writes.iter().map(|writes| lost(*writes, &why)).collect(), true),
                };
                if in_doubt {
                    self.owners.in_doubt(&node);
                }
                let charged = attempts.into_iter().map(|attempt| match attempt {
                    Attempt::Done(reply) => Attempt::Done(budget.charge(reply)),
                    waiting @ Attempt::NotServed(_) => waiting,
                });
                indices.into_iter().zip(charged).collect::<Decided>()
            }
        });
        let work: Vec<_> = work.collect();
        let decided: Vec<Decided> = stream::iter(work).buffer_unordered(NODES_AT_ONCE).collect().await;
        decided.into_iter().flatten().collect()
    }

    /// Resolves when none of these calls would go to that node any more, since others serve the shards. Then its tenure is
    /// over: what it acknowledged in it, it has answered, or it is as silent as it will be. Where its session is over too there is
    /// nothing to wait for: should it go on, its second check (R3) acknowledges nothing.
    async fn passed_on(
        &self,
        namespace: Option<&Namespace>,
        calls: &[Call],
        indices: &[usize],
        node: &NodeId,
        address: &str,
    ) {
        let passed_on = |index: &usize| match self.owners.spot(self.shard(namespace, calls[*index].key())) {
            Spot::Here(_) => true,
            Spot::Elsewhere(now, at) => (&now, at.as_str()) != (node, address),
            Spot::Nowhere(_) => false,
        };
        loop {
            let changed = self.owners.next_change();
            if indices.iter().all(passed_on) {
                break;
            }
            changed.await;
        }
        // Its last answers may be on their way.
        tokio::time::sleep(LAST_ANSWERS).await;
        if indices.iter().any(|index| calls[*index].writes() && !calls[*index].may_repeat()) {
            // A time-out means that it is as silent as if its session were over.
            let _ = tokio::time::timeout(LAST_WORD, self.over(node)).await;
        }
    }

    /// Resolves when a node's session is known to be over. Has it looked at.
    async fn over(&self, node: &NodeId) {
        let mut asked = false;
        loop {
            let changed = self.owners.next_change();
            if self.owners.is_over(node) {
                return;
            }
            if !std::mem::replace(&mut asked, true) {
                self.owners.in_doubt(node);
            }
            changed.await;
        }
    }

    async fn forward(
        &self,
        node: &NodeId,
        address: &str,
        namespace: Option<&Namespace>,
        calls: Vec<Call>,
    ) -> Result<Vec<Attempt>, PeerError> {
        match &self.peers {
            Some(peers) => peers.calls(node, address, namespace, calls).await,
            None => Err(PeerError::NotSent(format!("this process runs alone and can't reach {node}"))),
        }
    }
}

fn pick(calls: &[Call], indices: &[usize]) -> Vec<Call> {
    indices.iter().map(|index| calls[*index].clone()).collect()
}

/// A forwarded call whose answer is lost: a write may have taken effect (G4); a read is asked again.
fn lost(writes: bool, why: &str) -> Attempt {
    if writes { Attempt::Done(Reply::unanswered(true, why)) } else { Attempt::NotServed(why.to_owned()) }
}
