//! What a client does: a fixed list of operations of all kinds, and what it may find afterwards.

use std::collections::BTreeMap;
use std::fmt;

use brainy_faults::Recorder;
use brainy_storage::{
    Condition, Entry, Error, Key, Operation, OperationId, Outcome, StorageAdapter, Value, WriteResult,
};
use serde_json::{Number, json};

use super::store::{Store, namespace};

/// In the namespace or outside of it, and a key.
pub(crate) type At = (bool, String);

#[derive(Clone, Debug)]
pub(crate) enum Act {
    Set(Value),
    Batch(Vec<(String, Value)>),
    Create(Value),
    Swap(Value),
    Increment,
    Once(OperationId, Value),
    Delete,
}

#[derive(Clone, Debug)]
pub(crate) struct Step {
    space: bool,
    key: String,
    act: Act,
}

/// What is written may be long.
impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{self:?}");
        f.write_str(text.get(..200).unwrap_or(&text))
    }
}

impl Step {
    /// One more write.
    pub(crate) fn set(key: &str) -> Self {
        Self { space: false, key: key.to_owned(), act: Act::Set(Value::Json(json!(key))) }
    }
}

/// The operations of a client, so many rounds of all kinds. No value comes twice.
pub(crate) fn script(rounds: u32) -> Vec<Step> {
    let mut steps = Vec::new();
    for n in 0..rounds {
        let value = |what: &str| Value::Json(json!(format!("{what} {n}")));
        let mut add = |space: bool, key: &str, act: Act| steps.push(Step { space, key: key.to_owned(), act });
        add(false, "set", Act::Set(value("set")));
        // Its file is in a folder of its own.
        let long = format!("{}{}", "long".repeat(60), n % 2);
        add(false, &long, Act::Set(value("long")));
        let batch = ["b1", "b2", &long].map(|key| (key.to_owned(), value(&format!("batch {}", key.len()))));
        add(false, "", Act::Batch(batch.to_vec()));
        add(false, "swap", Act::Swap(value("swap")));
        // The embedded database keeps it in a file of its own.
        add(false, "large", Act::Set(large(n)));
        add(false, "count", Act::Increment);
        add(true, "once", Act::Once(OperationId::new(format!("id-{n}")).unwrap(), value("once")));
        add(true, "create", Act::Create(value("create")));
        add(false, "set", Act::Delete);
        if n % 2 == 1 {
            add(true, "create", Act::Delete);
            add(false, "large", Act::Delete);
            let large = ["large 1", "large 2"].map(|key| (key.to_owned(), large(n)));
            add(false, "", Act::Batch(large.to_vec()));
        }
    }
    steps
}

/// A value that is too large for a tree.
fn large(n: u32) -> Value {
    Value::Bytes(vec![n as u8; 130 << 10].into())
}

/// How an operation on a key ended.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Ended {
    Applied,
    Rejected,
    Unknown,
    Failed(Error),
}

impl Ended {
    fn of<T>(result: WriteResult<T>) -> Self {
        match result {
            Ok(Outcome::Applied(_)) => Self::Applied,
            Ok(Outcome::Rejected(_)) => Self::Rejected,
            Ok(Outcome::Unknown(_)) => Self::Unknown,
            Err(error) => Self::Failed(error),
        }
    }

    pub(crate) fn is_trouble(&self) -> bool {
        matches!(self, Self::Unknown | Self::Failed(_))
    }
}

/// What may stand where, after all that was answered.
#[derive(Debug, Default)]
pub(crate) struct Known(BTreeMap<At, Vec<Option<Value>>>);

impl Known {
    fn allowed(&mut self, at: &At) -> &mut Vec<Option<Value>> {
        self.0.entry(at.clone()).or_insert_with(|| vec![None])
    }

    /// Everything that is known is found, and nothing else.
    pub(crate) async fn check(&mut self, store: &Store) {
        let mut found = BTreeMap::new();
        let all: Vec<At> = self.0.keys().cloned().collect();
        for at in all {
            let value = look(store, &at).await.map(|entry| entry.value);
            let allowed = self.allowed(&at);
            assert!(allowed.contains(&value), "{at:?}: {value:?} stands there, and none of {allowed:?}");
            *found.entry(at.0).or_insert(0) += usize::from(value.is_some());
        }
        for (space, found) in found {
            let keys = view(store, space).list("", None, 1000).await.unwrap().keys;
            assert_eq!(keys.len(), found, "more is listed than was written: {keys:?}");
        }
    }
}

pub(crate) fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

fn view(store: &Store, space: bool) -> std::sync::Arc<dyn StorageAdapter> {
    if space { store.adapter.with_namespace(&namespace()) } else { store.adapter.clone() }
}

/// Reads never fail: no call that is failed belongs to them.
async fn look(store: &Store, at: &At) -> Option<Entry> {
    view(store, at.0).get(&key(&at.1)).await.unwrap()
}

/// Does a step and checks that its answers are true. Of several, the first that is trouble is returned.
pub(crate) async fn perform(store: &Store, step: &Step, known: &mut Known, recorder: &Recorder) -> Ended {
    let items = match &step.act {
        Act::Batch(items) => items.iter().map(|(key, _)| (step.space, key.clone())).collect(),
        _ => vec![(step.space, step.key.clone())],
    };
    let mut before = Vec::new();
    for at in &items {
        before.push(look(store, at).await);
    }
    let wanted = |index: usize| wanted(step, index, before[index].as_ref());
    let ended = submit(store, step, before[0].as_ref()).await;
    // That nothing stood there rests on nothing.
    let rests = |index: usize| ended[index] == Ended::Applied && (before[index].is_some() || wanted(index).is_some());
    let keys: Vec<&str> = (0..items.len()).filter(|index| rests(*index)).map(|index| items[index].1.as_str()).collect();
    recorder.acknowledge(step.to_string(), store.backend.places(&store.folder, step.space, &keys));
    for (index, (at, ended)) in items.iter().zip(&ended).enumerate() {
        let after = look(store, at).await;
        let value = after.as_ref().map(|entry| entry.value.clone());
        let allowed = known.allowed(at);
        match ended {
            Ended::Applied => {
                assert_eq!(value, wanted(index), "{step:?} was acknowledged");
                // Where nothing had to be written, what is unknown may yet come to be, once the database is opened again.
                if after != before[index] || !store.has_failed() {
                    *allowed = vec![value];
                }
            }
            Ended::Unknown => {
                let old = before[index].as_ref().map(|entry| entry.value.clone());
                assert!(value == old || value == wanted(index), "{step:?} left {value:?}");
                allowed.push(wanted(index));
            }
            Ended::Rejected => {
                let expected = matches!(step.act, Act::Create(_)) && before[index].is_some();
                assert!(expected, "{step:?} was rejected over {:?}", before[index]);
                assert_eq!(after, before[index], "{step:?} was rejected");
            }
            Ended::Failed(error) => assert_eq!(after, before[index], "{step:?} failed cleanly: {error}"),
        }
    }
    ended.iter().find(|ended| ended.is_trouble()).unwrap_or(&ended[0]).clone()
}

/// What a step leaves where it is applied.
fn wanted(step: &Step, index: usize, before: Option<&Entry>) -> Option<Value> {
    match &step.act {
        Act::Batch(items) => Some(items[index].1.clone()),
        Act::Set(value) | Act::Create(value) | Act::Swap(value) | Act::Once(_, value) => Some(value.clone()),
        Act::Increment => {
            let stands = before.map_or(0, |entry| match &entry.value {
                Value::Json(number) => number.as_i64().unwrap(),
                other => panic!("no number: {other:?}"),
            });
            Some(Value::Json(json!(stands + 1)))
        }
        Act::Delete => None,
    }
}

async fn submit(store: &Store, step: &Step, before: Option<&Entry>) -> Vec<Ended> {
    let store = view(store, step.space);
    let at = || key(&step.key);
    vec![match step.act.clone() {
        Act::Batch(items) => {
            let items = items.into_iter().map(|(text, value)| (key(&text), value)).collect();
            return store.set_batch(items).await.into_iter().map(Ended::of).collect();
        }
        Act::Set(value) => Ended::of(store.set(&at(), value).await),
        Act::Create(value) => Ended::of(store.put(&at(), value, &Condition::Absent).await),
        Act::Swap(value) => {
            let old = before.map(|entry| entry.value.clone());
            Ended::of(store.compare_and_swap(&at(), old, Some(value)).await)
        }
        Act::Increment => Ended::of(store.increment(&at(), Number::from(1)).await),
        // As a client does that got no answer: with the same id it is done once.
        Act::Once(id, value) => {
            let operation = Operation::Put { value, condition: Condition::Any };
            match Ended::of(store.perform_once(&at(), operation.clone(), &id).await) {
                Ended::Unknown => again(store.perform_once(&at(), operation, &id).await),
                ended => ended,
            }
        }
        // What may be gone is deleted again, so that it is.
        Act::Delete => match Ended::of(store.delete(&at()).await) {
            Ended::Unknown => again(store.delete(&at()).await),
            ended => ended,
        },
    }]
}

/// How the second try of something ended whose first may have been applied.
fn again<T>(result: WriteResult<T>) -> Ended {
    match Ended::of(result) {
        Ended::Applied => Ended::Applied,
        _ => Ended::Unknown,
    }
}
