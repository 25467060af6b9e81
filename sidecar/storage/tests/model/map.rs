//! The model: a map, and steps that a store and it are taken through.

use std::collections::BTreeMap;

use brainy_storage::{Condition, Entry, Error, Key, Outcome, StorageAdapter, Value, Version};
use bytes::Bytes;
use proptest::prelude::*;
use serde_json::{Number, json};

#[derive(Clone, Debug)]
pub(crate) enum Expectation {
    Nothing,
    Absent,
    /// The version that stands there.
    Current,
    /// Some version that stood there before.
    Stale(prop::sample::Index),
}

#[derive(Clone, Debug)]
pub(crate) enum Step {
    Get,
    Put(Value, Expectation),
    Remove(Expectation),
    Swap { old: Option<Value>, use_current: bool, new: Option<Value> },
    Increment(i64),
    List { prefix: String, after: Option<String>, limit: usize },
    SetBatch(Vec<(String, Value)>),
}

pub(crate) fn any_key() -> impl Strategy<Value = String> {
    prop_oneof![
        prop::sample::select(vec!["a", "a/b", "a/", "..", "n", "\u{e9}"]).prop_map(String::from),
        Just("k".repeat(201)),
    ]
}

pub(crate) fn any_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        prop::sample::select(vec![json!(null), json!(0), json!(""), json!(false), json!({"a": [1]}), json!(1.5)])
            .prop_map(Value::Json),
        any::<i8>().prop_map(|n| Value::Json(json!(n))),
        prop::collection::vec(any::<u8>(), 0..3).prop_map(|bytes| Value::Bytes(Bytes::from(bytes))),
    ]
}

pub(crate) fn any_expectation() -> impl Strategy<Value = Expectation> {
    prop_oneof![
        Just(Expectation::Nothing),
        Just(Expectation::Absent),
        Just(Expectation::Current),
        any::<prop::sample::Index>().prop_map(Expectation::Stale),
    ]
}

pub(crate) fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        Just(Step::Get),
        (any_value(), any_expectation()).prop_map(|(value, expectation)| Step::Put(value, expectation)),
        any_expectation().prop_map(Step::Remove),
        (prop::option::of(any_value()), any::<bool>(), prop::option::of(any_value()))
            .prop_map(|(old, use_current, new)| Step::Swap { old, use_current, new }),
        any::<i64>().prop_map(Step::Increment),
        (-9..9_i64).prop_map(Step::Increment),
        ("[a/]{0,2}", prop::option::of(any_key()), 0..4_usize).prop_map(|(prefix, after, limit)| Step::List {
            prefix,
            after,
            limit
        }),
        prop::collection::vec((any_key(), any_value()), 0..4).prop_map(Step::SetBatch),
    ]
}

/// Namespace (`None`: outside all), key, step.
pub(crate) fn any_run() -> impl Strategy<Value = Vec<(Option<bool>, String, Step)>> {
    prop::collection::vec((prop::option::of(any::<bool>()), any_key(), any_step()), 1..40)
}

#[derive(Default)]
pub(crate) struct Model {
    pub(crate) entries: BTreeMap<String, Entry>,
    /// All versions of each key there ever were.
    pub(crate) versions: BTreeMap<String, Vec<Version>>,
    /// Writes of one key may reach the store as one: they then share its revision.
    pub(crate) combines: bool,
}

impl Model {
    pub(crate) fn condition(&self, key: &str, expectation: &Expectation) -> Condition {
        match expectation {
            Expectation::Nothing => Condition::Any,
            Expectation::Absent => Condition::Absent,
            Expectation::Current => {
                self.entries.get(key).map_or(Condition::Absent, |entry| Condition::Version(entry.version.clone()))
            }
            Expectation::Stale(index) => match self.versions.get(key) {
                Some(versions) => Condition::Version(index.get(versions).clone()),
                None => Condition::Any,
            },
        }
    }

    pub(crate) fn wrote(&mut self, key: &str, value: Value, version: Version) {
        let seen = self.versions.entry(key.to_owned()).or_default();
        assert!(!seen.contains(&version), "version {version} repeats");
        let revision = self.entries.get(key).map_or(0, |entry| entry.version.revision);
        let grows = version.revision > revision || self.combines && version.revision == revision;
        assert!(grows, "{version} follows revision {revision}");
        seen.push(version.clone());
        self.entries.insert(key.to_owned(), Entry { value, version });
    }
}

pub(crate) async fn apply(store: &dyn StorageAdapter, model: &mut Model, name: &str, step: Step) {
    let key = Key::new(name).unwrap();
    let current = model.entries.get(name).cloned();
    let stands = current.as_ref().map(|entry| &entry.version);
    match step {
        Step::Get => {}
        Step::Put(value, expectation) => {
            let condition = model.condition(name, &expectation);
            match store.put(&key, value.clone(), &condition).await.unwrap() {
                Outcome::Applied(version) => {
                    assert!(condition.holds(stands), "{condition:?} at {stands:?}");
                    model.wrote(name, value, version);
                }
                outcome => {
                    assert!(!condition.holds(stands), "{condition:?} at {stands:?}");
                    assert_eq!(outcome, Outcome::Rejected(current));
                }
            }
        }
        Step::Remove(expectation) => match model.condition(name, &expectation) {
            Condition::Absent => {
                assert!(matches!(store.remove(&key, &Condition::Absent).await, Err(Error::Invalid { .. })));
            }
            condition => match store.remove(&key, &condition).await.unwrap() {
                Outcome::Applied(found) => {
                    assert!(condition.holds(stands));
                    assert_eq!(found, model.entries.remove(name).is_some());
                }
                outcome => {
                    assert!(!condition.holds(stands));
                    assert_eq!(outcome, Outcome::Rejected(current));
                }
            },
        },
        Step::Swap { old, use_current, new } => {
            let old = if use_current { current.as_ref().map(|entry| entry.value.clone()) } else { old };
            let same = old.as_ref() == current.as_ref().map(|entry| &entry.value);
            match store.compare_and_swap(&key, old, new.clone()).await.unwrap() {
                Outcome::Applied(version) => {
                    assert!(same);
                    assert_eq!(version.is_some(), new.is_some());
                    match new.zip(version) {
                        Some((new, version)) => model.wrote(name, new, version),
                        None => drop(model.entries.remove(name)),
                    }
                }
                outcome => {
                    assert!(!same);
                    assert_eq!(outcome, Outcome::Rejected(current));
                }
            }
        }
        Step::Increment(delta) => {
            let delta = Number::from(delta);
            let expected = brainy_storage::value::add(&key, current.as_ref().map(|entry| &entry.value), &delta);
            match store.increment(&key, delta).await {
                Ok(outcome) => {
                    let (sum, version) = outcome.applied().unwrap();
                    assert_eq!(Ok(&sum), expected.as_ref());
                    model.wrote(name, Value::Json(json!(sum)), version);
                }
                Err(error) => assert_eq!(Err(error), expected),
            }
        }
        Step::List { prefix, after, limit } => {
            let after = after.map(|after| Key::new(after).unwrap());
            let page = store.list(&prefix, after.as_ref(), limit).await.unwrap();
            let after = after.map_or(String::new(), |after| after.to_string());
            let matching: Vec<&String> =
                model.entries.keys().filter(|key| key.starts_with(&prefix) && **key > after).collect();
            let keys: Vec<String> = page.keys.iter().map(ToString::to_string).collect();
            assert!(keys.iter().eq(matching.iter().copied().take(limit)), "{keys:?} of {matching:?}");
            assert_eq!(page.more, matching.len() > limit);
        }
        Step::SetBatch(items) => {
            let batch = items.iter().map(|(key, value)| (Key::new(key.as_str()).unwrap(), value.clone())).collect();
            let outcomes = store.set_batch(batch).await;
            assert_eq!(outcomes.len(), items.len());
            for ((key, value), outcome) in items.into_iter().zip(outcomes) {
                model.wrote(&key, value, outcome.unwrap().applied().unwrap());
            }
        }
    }
}
