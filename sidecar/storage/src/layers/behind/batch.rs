//! What comes as one batch: to a layer, and from it to the stores below.

use std::collections::HashSet;

use crate::layers::batching::{as_kind, written};
use crate::operation::{Request, only};
use crate::outcome::interrupted;
use crate::{
    Condition, Done, Entry, Error, Key, Operation, Outcome, StorageAdapter, Unknown, Value, Version, WriteResult,
};

/// Operations on one key, to be done as one.
#[derive(Debug)]
pub(in crate::layers) struct Item {
    pub(in crate::layers) key: Key,
    pub(in crate::layers) requests: Vec<Request>,
}

pub(in crate::layers) type Answers = Vec<WriteResult<Done>>;

/// Writes in rounds, in none of which a key comes twice: one that comes again waits for the next round.
pub(in crate::layers) async fn in_rounds<W: Future<Output = Vec<Answers>>>(
    items: Vec<(Key, Value, Condition)>,
    write: impl Fn(Vec<Item>) -> W,
) -> Vec<WriteResult<Version>> {
    let mut outcomes: Vec<Option<WriteResult<Version>>> = items.iter().map(|_| None).collect();
    let mut left: Vec<(usize, (Key, Value, Condition))> = items.into_iter().enumerate().collect();
    while !left.is_empty() {
        let (mut keys, mut later, mut round, mut indexes) = (HashSet::new(), Vec::new(), Vec::new(), Vec::new());
        for (index, (key, value, condition)) in left {
            if keys.insert(key.clone()) {
                let request = Request { operation: Operation::Put { value, condition }, id: None };
                round.push(Item { key, requests: vec![request] });
                indexes.push(index);
            } else {
                later.push((index, (key, value, condition)));
            }
        }
        for (index, answers) in indexes.into_iter().zip(write(round).await) {
            outcomes[index] = Some(as_kind(only(answers), written));
        }
        left = later;
    }
    outcomes.into_iter().map(|outcome| outcome.unwrap_or_else(interrupted)).collect()
}

/// What was to be acknowledged was not where it has to be in time: nobody knows of it.
pub(in crate::layers) fn not_in_time(answers: &mut Answers, why: &str) {
    for answer in answers.iter_mut().filter(|answer| matches!(answer, Ok(Outcome::Applied(_)))) {
        *answer = Ok(Outcome::Unknown(Unknown(why.to_owned())));
    }
}

/// What a store has of each key.
pub(in crate::layers) async fn get_all(store: &dyn StorageAdapter, keys: &[Key]) -> Vec<Result<Option<Entry>, Error>> {
    let mut found = match keys {
        [] => Vec::new(),
        [key] => vec![store.get(key).await],
        keys => store.get_batch(keys).await,
    };
    found.resize_with(keys.len(), || Err(Error::unavailable("Interrupted", "a store did not answer for every key")));
    found
}

/// Writes each key, of which none comes twice; `lost`: why it is not known what became of one that is not answered.
pub(in crate::layers) async fn put_all(
    store: &dyn StorageAdapter,
    items: Vec<(Key, Value, Condition)>,
    lost: &str,
) -> Vec<WriteResult<Version>> {
    let count = items.len();
    let mut outcomes = match <[_; 1]>::try_from(items) {
        Ok([(key, value, condition)]) => vec![store.put(&key, value, &condition).await],
        Err(none) if none.is_empty() => Vec::new(),
        Err(items) => store.put_batch(items).await,
    };
    outcomes.resize_with(count, || Ok(Outcome::Unknown(Unknown(lost.to_owned()))));
    outcomes
}
