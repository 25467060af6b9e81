//! Runs calls on a shard that is served here.

use std::sync::Arc;
use std::time::Duration;

use brainy_storage::{Condition, Entry, Error, Key, Namespace, Outcome, StorageAdapter, Value, WriteResult};
use tracing::Instrument;

use super::budget::{self, Budget, Reading};
use super::{Attempt, Call, Leave, Reply, Sight};
use crate::host;

/// Most keys read at once from one shard while the size of its values is not known.
const FIRST_READ: usize = 8;
/// Most keys read at once from one shard.
const MOST_READ: u64 = budget::MOST_READING as u64;

/// Why there is no answer when the limit is reached.
const LATE: &str = "storage did not answer in time";

/// Runs calls on one shard, with the second check of R3 at the end.
///
/// They run in a task of their own that keeps the leave until they have ended: neither a client that hangs up nor a
/// time-out may make a shard look idle while something is still being written to it.
pub(super) async fn run(
    leave: Box<dyn Leave>,
    namespace: Option<Namespace>,
    calls: Vec<Call>,
    budget: Arc<Budget>,
    limit: Duration,
) -> Vec<Attempt> {
    let writes: Vec<bool> = calls.iter().map(Call::writes).collect();
    let work = async move {
        let storage = scoped(leave.storage(), namespace.as_ref());
        let replies = perform(storage.as_ref(), calls, &budget).await;
        let still_valid = leave.still_valid();
        replies.into_iter().map(|reply| Attempt::checked(reply, still_valid)).collect::<Vec<_>>()
    };
    let task = host::spawn(work.in_current_span());
    let unanswered = |why: &str| writes.iter().map(|writes| Attempt::Done(Reply::unanswered(*writes, why))).collect();
    match tokio::time::timeout(limit, task).await {
        Ok(Ok(attempts)) => attempts,
        Ok(Err(broken)) => {
            tracing::error!(%broken, "an operation on storage broke off");
            unanswered("the operation broke off inside the sidecar")
        }
        Err(_) => unanswered(LATE),
    }
}

/// Reads one key of a shard that is served here, with the second check of R3 at the end. It needs no task of its own: a
/// read that is given up leaves nothing behind that the shard would have to be kept for.
pub(super) async fn read(
    leave: &dyn Leave,
    namespace: Option<&Namespace>,
    key: &Key,
    reading: &Reading,
    limit: Duration,
) -> Attempt {
    let storage = scoped(leave.storage(), namespace);
    let get = async {
        let _turn = reading.turn(1).await;
        storage.get(key).await
    };
    match tokio::time::timeout(limit, get).await {
        Ok(found) => Attempt::checked(found.map_or_else(Reply::Failed, Reply::Found), leave.still_valid()),
        Err(_) => Attempt::Done(Reply::unanswered(false, LATE)),
    }
}

/// The shard's storage as seen through a namespace.
pub(super) fn scoped(storage: &Arc<dyn StorageAdapter>, namespace: Option<&Namespace>) -> Arc<dyn StorageAdapter> {
    namespace.map_or_else(|| Arc::clone(storage), |namespace| storage.with_namespace(namespace))
}

async fn perform(storage: &dyn StorageAdapter, calls: Vec<Call>, budget: &Budget) -> Vec<Reply> {
    if calls.iter().all(|call| !call.writes()) {
        return read_many(storage, &calls, budget).await;
    }
    match plain_writes(calls) {
        Ok(items) => storage.set_batch(items).await.into_iter().map(|result| write(result, Reply::Written)).collect(),
        Err(calls) => {
            let mut replies = Vec::with_capacity(calls.len());
            for call in calls {
                replies.push(one(storage, call).await);
            }
            replies
        }
    }
}

/// The items of a batch of unconditional writes, or the calls as they were.
fn plain_writes(calls: Vec<Call>) -> Result<Vec<(Key, Value)>, Vec<Call>> {
    let plain = |call: &Call| matches!(call, Call::Put { condition: Condition::Any, .. });
    if calls.len() < 2 || !calls.iter().all(plain) {
        return Err(calls);
    }
    let item = |call| match call {
        Call::Put { key, value, .. } => Some((key, value)),
        _ => None,
    };
    Ok(calls.into_iter().filter_map(item).collect())
}

/// Reads in portions: as many keys at once as the largest value seen so far lets fit into the answer.
async fn read_many(storage: &dyn StorageAdapter, calls: &[Call], budget: &Budget) -> Vec<Reply> {
    let mut replies = Vec::with_capacity(calls.len());
    let mut largest = 1;
    let mut portion = FIRST_READ;
    let mut rest = calls;
    while !rest.is_empty() {
        if budget.left() == 0 {
            replies.extend(rest.iter().map(|_| budget::too_large()));
            break;
        }
        let (now, later) = rest.split_at(portion.min(rest.len()));
        // Until what was found is charged, or dropped.
        let _turn = budget.reading.turn(now.len()).await;
        let keys: Vec<Key> = now.iter().map(|call| call.key().clone()).collect();
        for (call, result) in now.iter().zip(storage.get_batch(&keys).await) {
            if let Ok(Some(entry)) = &result {
                largest = largest.max(budget::size(&entry.value));
            }
            replies.push(budget.charge(read_reply(call, result)));
        }
        portion = usize::try_from((budget.left() / largest).clamp(1, MOST_READ)).unwrap_or(1);
        rest = later;
    }
    replies
}

/// What a read is answered. What was looked at only leaves its bytes here.
fn read_reply(call: &Call, found: Result<Option<Entry>, Error>) -> Reply {
    match (call, found) {
        (_, Err(error)) => Reply::Failed(error),
        (Call::Look { .. }, Ok(found)) => Reply::Seen(found.as_ref().map(Sight::from)),
        (_, Ok(found)) => Reply::Found(found),
    }
}

async fn one(storage: &dyn StorageAdapter, call: Call) -> Reply {
    match call {
        read @ (Call::Get { .. } | Call::Look { .. }) => {
            let found = storage.get(read.key()).await;
            read_reply(&read, found)
        }
        Call::Put { key, value, condition } => write(storage.put(&key, value, &condition).await, Reply::Written),
        Call::Remove { key, condition } => write(storage.remove(&key, &condition).await, Reply::Removed),
        Call::CompareAndSwap { key, old, new } => write(storage.compare_and_swap(&key, old, new).await, Reply::Swapped),
        Call::Increment { key, delta } => {
            write(storage.increment(&key, delta).await, |(sum, version)| Reply::Sum(sum, version))
        }
        Call::Once { key, operation, id } => write(storage.perform_once(&key, operation, &id).await, Reply::from),
    }
}

fn write<T>(result: WriteResult<T>, applied: impl FnOnce(T) -> Reply) -> Reply {
    match result {
        Ok(Outcome::Applied(value)) => applied(value),
        Ok(Outcome::Rejected(current)) => Reply::Rejected(current),
        Ok(Outcome::Unknown(why)) => Reply::Unknown(why.0),
        Err(error) => Reply::Failed(error),
    }
}
