//! One batch on its way into the store.

use std::collections::HashMap;
use std::sync::Arc;

use futures::stream::{self, StreamExt};
use tokio::sync::oneshot;

use super::{Place, Waiting};
use crate::group::{Change, Judged, judge};
use crate::operation::{Request, Requests};
use crate::performed::Stands;
use crate::{Condition, Done, Entry, Error, Key, Operation, Outcome, StorageAdapter, Value, Version, WriteResult};

/// Requests of one batch under way at a time, of those that a store offers no batch for.
pub(super) const CONCURRENCY: usize = 32;
/// Most attempts of one key's write while others come between.
const MAX_ATTEMPTS: u32 = 64;

/// What stands under the keys that a batch has written, as far as it is known.
pub(super) type Left = HashMap<Place, Option<Entry>>;

/// The operations on one key, in the order in which they came.
struct Group {
    place: Place,
    store: Arc<dyn StorageAdapter>,
    requests: Vec<Request>,
    answers: Vec<oneshot::Sender<WriteResult<Done>>>,
    base: Base,
}

/// What a group is judged on.
enum Base {
    /// The store judges them: one operation alone, or some with an id, of which it alone knows whether they were done.
    Store,
    /// One put alone, which the store judges together with the puts of other keys.
    OwnCondition,
    /// It does not matter what stands there.
    Anything,
    /// To be read.
    ToRead,
    /// Left by the batch before: true only once a write on this condition has been applied.
    Remembered(Option<Entry>),
    /// Read, or told by the store.
    Seen(Option<Entry>),
}

/// A group whose write is on its way.
struct Written {
    group: Group,
    judged: Judged,
    condition: Condition,
    change: Change,
}

impl Group {
    fn key(&self) -> &Key {
        &self.place.1
    }

    fn answer(self, answers: Vec<WriteResult<Done>>) {
        for (sender, answer) in self.answers.into_iter().zip(answers) {
            // Who asked may have given up.
            let _gone = sender.send(answer);
        }
    }

    fn fail(self, error: &Error) {
        let answers = vec![Err(error.clone()); self.requests.len()];
        self.answer(answers);
    }
}

/// Flushes a batch, and returns what it has left.
pub(super) async fn flush(batch: Vec<Waiting>, before: Left) -> Left {
    let (alone, mut groups): (Vec<Group>, Vec<Group>) =
        grouped(batch, before).into_iter().partition(|group| matches!(group.base, Base::Store));
    let mut left = Left::new();
    let natives = stream::iter(alone).map(by_the_store).buffer_unordered(CONCURRENCY).collect::<Vec<_>>();
    let rounds = async {
        for _ in 0..MAX_ATTEMPTS {
            if groups.is_empty() {
                break;
            }
            groups = round(std::mem::take(&mut groups), &mut left).await;
        }
        for group in groups {
            let error = Error::Contended { key: group.key().to_string(), attempts: MAX_ATTEMPTS };
            group.fail(&error);
        }
    };
    let (natives, ()) = tokio::join!(natives, rounds);
    left.extend(natives.into_iter().flatten());
    left
}

fn grouped(batch: Vec<Waiting>, mut before: Left) -> Vec<Group> {
    let mut places: HashMap<Place, usize> = HashMap::new();
    let mut groups: Vec<Group> = Vec::new();
    for Waiting { folder, key, request, store, answer } in batch {
        let place = (folder, key);
        let at = *places.entry(place.clone()).or_insert_with(|| {
            let (requests, answers) = (Vec::new(), Vec::new());
            groups.push(Group { place, store, requests, answers, base: Base::ToRead });
            groups.len() - 1
        });
        groups[at].requests.push(request);
        groups[at].answers.push(answer);
    }
    for group in &mut groups {
        let blind = |request: &Request| request.operation.is_blind();
        group.base = match (before.remove(&group.place), group.requests.as_slice()) {
            (_, requests) if requests.iter().any(|request| request.id.is_some()) => Base::Store,
            (Some(entry), _) => Base::Remembered(entry),
            (None, requests) if requests.iter().all(blind) => Base::Anything,
            (None, [Request { operation: Operation::Put { .. }, .. }]) => Base::OwnCondition,
            (None, [_]) => Base::Store,
            (None, _) => Base::ToRead,
        };
    }
    groups
}

/// Lets the store judge. What is left there, where it is known then.
async fn by_the_store(group: Group) -> Option<(Place, Option<Entry>)> {
    match group.requests.as_slice() {
        [Request { operation, id: None }] => {
            let operation = operation.clone();
            native(group, operation).await
        }
        _ => {
            perform(group).await;
            None
        }
    }
}

/// Operations with an id, together with what else came for their key: as few writes as can remember all the ids.
async fn perform(group: Group) {
    let Group { place: (_, key), store, requests, answers, .. } = group;
    let mut answers = answers.into_iter();
    for portion in Requests::portions(requests) {
        for (outcome, sender) in store.perform(&key, portion).await.into_iter().zip(answers.by_ref()) {
            // Who asked may have given up.
            let _gone = sender.send(outcome);
        }
    }
}

/// A single operation.
async fn native(group: Group, operation: Operation) -> Option<(Place, Option<Entry>)> {
    let (store, place, key) = (Arc::clone(&group.store), group.place.clone(), group.key().clone());
    let (answer, left) = match operation {
        // Puts go with those of other keys.
        Operation::Put { .. } => return None,
        Operation::Remove { condition } => told(store.remove(&key, &condition).await, Done::Removed, |_| None),
        Operation::Swap { old, new } => {
            let outcome = store.compare_and_swap(&key, old, new.clone()).await;
            told(outcome, Done::Swapped, |version| Some(Entry { value: new?, version: version.clone()? }))
        }
        Operation::Increment { delta } => told(
            store.increment(&key, delta).await,
            |(sum, version)| Done::Sum(sum, version),
            |(sum, version)| Some(Entry { value: Value::Json(sum.clone().into()), version: version.clone() }),
        ),
    };
    group.answer(vec![answer]);
    Some((place, left?))
}

/// What the store said, for who asked and for the next batch.
fn told<T>(
    outcome: WriteResult<T>,
    done: impl FnOnce(T) -> Done,
    stands: impl FnOnce(&T) -> Option<Entry>,
) -> (WriteResult<Done>, Option<Option<Entry>>) {
    match outcome {
        Ok(Outcome::Applied(value)) => {
            let left = stands(&value);
            (Ok(Outcome::Applied(done(value))), Some(left))
        }
        Ok(Outcome::Rejected(current)) => (Ok(Outcome::Rejected(current.clone())), Some(current)),
        Ok(Outcome::Unknown(why)) => (Ok(Outcome::Unknown(why)), None),
        Err(error) => (Err(error), None),
    }
}

/// One attempt for all groups. Returns those that somebody came before.
async fn round(groups: Vec<Group>, left: &mut Left) -> Vec<Group> {
    let (mut puts, mut removes, mut again) = (Vec::new(), Vec::new(), Vec::new());
    for mut group in read(groups).await {
        if let (Base::OwnCondition, [Request { operation: Operation::Put { value, condition }, .. }]) =
            (&group.base, group.requests.as_slice())
        {
            let as_if = Request { operation: Operation::blind(value), id: None };
            let judged = judge(group.key(), Stands::entry(None), &[as_if]);
            puts.push(Written { condition: condition.clone(), change: Change::Put(value.clone()), group, judged });
            continue;
        }
        let (base, is_proved) = match std::mem::replace(&mut group.base, Base::ToRead) {
            Base::Remembered(entry) => (Some(entry), false),
            Base::Seen(entry) => (Some(entry), true),
            Base::Anything | Base::Store | Base::OwnCondition | Base::ToRead => (None, true),
        };
        let is_known = base.is_some();
        let judged = judge(group.key(), Stands::entry(base.flatten().as_ref()), &group.requests);
        let condition = if is_known { judged.condition() } else { Condition::Any };
        match judged.change() {
            // Nothing would prove what was remembered.
            Change::Nothing if !is_proved => again.push(group),
            Change::Nothing => {
                left.insert(group.place.clone(), judged.left(None));
                group.answer(judged.applied(None));
            }
            change @ Change::Put(_) => puts.push(Written { group, judged, condition, change }),
            change @ Change::Remove => removes.push(Written { group, judged, condition, change }),
        }
    }
    let (put, removed) = tokio::join!(put_all(puts), remove_all(removes));
    for (written, outcome) in put.into_iter().chain(removed) {
        again.extend(settle(written, outcome, left));
    }
    again
}

/// Answers what was decided; a group that somebody came before is judged again on what they left.
fn settle(written: Written, outcome: WriteResult<Option<Version>>, left: &mut Left) -> Option<Group> {
    let Written { mut group, judged, .. } = written;
    match outcome {
        Ok(Outcome::Applied(version)) => {
            left.insert(group.place.clone(), judged.left(version.as_ref()));
            group.answer(judged.applied(version.as_ref()));
        }
        Ok(Outcome::Rejected(current)) if matches!(group.base, Base::OwnCondition) => {
            left.insert(group.place.clone(), current.clone());
            group.answer(vec![Ok(Outcome::Rejected(current))]);
        }
        Ok(Outcome::Rejected(current)) => {
            group.base = Base::Seen(current);
            return Some(group);
        }
        Ok(Outcome::Unknown(why)) => group.answer(judged.unknown(&why)),
        Err(error) => group.answer(judged.failed(&error)),
    }
    None
}

/// Reads what has to be known. A group whose key can't be read is answered so.
async fn read(groups: Vec<Group>) -> Vec<Group> {
    let (to_read, mut ready): (Vec<Group>, Vec<Group>) =
        groups.into_iter().partition(|group| matches!(group.base, Base::ToRead));
    for groups in by_store(to_read, |group| group) {
        let keys: Vec<Key> = groups.iter().map(|group| group.key().clone()).collect();
        let found = groups[0].store.get_batch(&keys).await;
        for (mut group, found) in groups.into_iter().zip(found) {
            match found {
                Ok(entry) => {
                    group.base = Base::Seen(entry);
                    ready.push(group);
                }
                Err(error) => group.fail(&error),
            }
        }
    }
    ready
}

/// Apart by store: a batch goes to one.
fn by_store<T>(items: Vec<T>, group: impl Fn(&T) -> &Group) -> Vec<Vec<T>> {
    let mut apart: HashMap<Arc<str>, Vec<T>> = HashMap::new();
    for item in items {
        apart.entry(Arc::clone(&group(&item).place.0)).or_default().push(item);
    }
    apart.into_values().collect()
}

type Settled = Vec<(Written, WriteResult<Option<Version>>)>;

async fn put_all(puts: Vec<Written>) -> Settled {
    let requests = by_store(puts, |written| &written.group).into_iter().map(|writes| async {
        let item = |written: &Written| match &written.change {
            Change::Put(value) => Some((written.group.key().clone(), value.clone(), written.condition.clone())),
            Change::Nothing | Change::Remove => None,
        };
        let items = writes.iter().filter_map(item).collect();
        let outcomes = writes[0].group.store.put_batch(items).await;
        writes.into_iter().zip(outcomes.into_iter().map(|outcome| Ok(outcome?.map(Some)))).collect::<Vec<_>>()
    });
    futures::future::join_all(requests).await.into_iter().flatten().collect()
}

async fn remove_all(removes: Vec<Written>) -> Settled {
    let requests = removes.into_iter().map(|written| async {
        let outcome = written.group.store.remove(written.group.key(), &written.condition).await;
        (written, outcome.map(|outcome| outcome.map(|_| None)))
    });
    stream::iter(requests).buffer_unordered(CONCURRENCY).collect().await
}
