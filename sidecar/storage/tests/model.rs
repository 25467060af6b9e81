//! Random operations, one after the other, against the plainest model there is: a map.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::sync::Arc;

use brainy_storage::backends::embedded::EmbeddedDatabase;
use brainy_storage::backends::filesystem::FilesystemAdapter;
use brainy_storage::backends::memory::MemoryAdapter;
use brainy_storage::layers::batching::{Ack, Batching};
use brainy_storage::layers::caching::CacheSize;
use brainy_storage::layers::limiting::Limiting;
use brainy_storage::layers::{LayerStack, Layers};
use brainy_storage::{Condition, Entry, Error, Key, Namespace, Outcome, StorageAdapter, Value, Version};
use bytes::Bytes;
use proptest::prelude::*;
use serde_json::{Number, json};

#[derive(Clone, Debug)]
enum Expectation {
    Nothing,
    Absent,
    /// The version that stands there.
    Current,
    /// Some version that stood there before.
    Stale(prop::sample::Index),
}

#[derive(Clone, Debug)]
enum Step {
    Get,
    Put(Value, Expectation),
    Remove(Expectation),
    Swap { old: Option<Value>, use_current: bool, new: Option<Value> },
    Increment(i64),
    List { prefix: String, after: Option<String>, limit: usize },
    SetBatch(Vec<(String, Value)>),
}

fn any_key() -> impl Strategy<Value = String> {
    prop_oneof![
        prop::sample::select(vec!["a", "a/b", "a/", "..", "n", "\u{e9}"]).prop_map(String::from),
        Just("k".repeat(201)),
    ]
}

fn any_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        prop::sample::select(vec![json!(null), json!(0), json!(""), json!(false), json!({"a": [1]}), json!(1.5)])
            .prop_map(Value::Json),
        any::<i8>().prop_map(|n| Value::Json(json!(n))),
        prop::collection::vec(any::<u8>(), 0..3).prop_map(|bytes| Value::Bytes(Bytes::from(bytes))),
    ]
}

fn any_expectation() -> impl Strategy<Value = Expectation> {
    prop_oneof![
        Just(Expectation::Nothing),
        Just(Expectation::Absent),
        Just(Expectation::Current),
        any::<prop::sample::Index>().prop_map(Expectation::Stale),
    ]
}

fn any_step() -> impl Strategy<Value = Step> {
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
fn any_run() -> impl Strategy<Value = Vec<(Option<bool>, String, Step)>> {
    prop::collection::vec((prop::option::of(any::<bool>()), any_key(), any_step()), 1..40)
}

#[derive(Default)]
struct Model {
    entries: BTreeMap<String, Entry>,
    /// All versions of each key there ever were.
    versions: BTreeMap<String, Vec<Version>>,
    /// Writes of one key may reach the store as one: they then share its revision.
    combines: bool,
}

impl Model {
    fn condition(&self, key: &str, expectation: &Expectation) -> Condition {
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

    fn wrote(&mut self, key: &str, value: Value, version: Version) {
        let seen = self.versions.entry(key.to_owned()).or_default();
        assert!(!seen.contains(&version), "version {version} repeats");
        let revision = self.entries.get(key).map_or(0, |entry| entry.version.revision);
        let grows = version.revision > revision || self.combines && version.revision == revision;
        assert!(grows, "{version} follows revision {revision}");
        seen.push(version.clone());
        self.entries.insert(key.to_owned(), Entry { value, version });
    }
}

async fn check(store: Arc<dyn StorageAdapter>, combines: bool, run: Vec<(Option<bool>, String, Step)>) {
    let mut models: BTreeMap<Option<bool>, Model> = BTreeMap::new();
    for (space, key, step) in run {
        let name = space.map(|deep| Namespace::new(if deep { "a/b" } else { "a" }).unwrap());
        let store = name.map_or_else(|| store.clone(), |name| store.with_namespace(&name));
        let model = models.entry(space).or_insert_with(|| Model { combines, ..Model::default() });
        apply(store.as_ref(), model, &key, step).await;
        let stands = store.get(&Key::new(key.as_str()).unwrap()).await.unwrap();
        assert_eq!(stands.as_ref(), model.entries.get(&key));
    }
}

async fn apply(store: &dyn StorageAdapter, model: &mut Model, name: &str, step: Step) {
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

fn block_on(future: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_time().build().unwrap().block_on(future);
}

/// So many runs, times what `BRAINY_TEST_TIMES` says.
fn runs(count: u32) -> ProptestConfig {
    let times = std::env::var("BRAINY_TEST_TIMES").map_or(1, |times| times.parse().unwrap());
    ProptestConfig::with_cases(count * times)
}

proptest! {
    #![proptest_config(runs(200))]
    #[test]
    fn memory_does_what_a_map_does(run in any_run()) {
        block_on(check(Arc::new(MemoryAdapter::new()), false, run));
    }
}

proptest! {
    #![proptest_config(runs(100))]
    #[test]
    fn a_stack_of_layers_does_what_a_map_does(
        run in any_run(),
        ack in prop::sample::select(vec![Ack::Durable, Ack::Buffered]),
        cached in any::<bool>(),
        // At once, or together with what comes next.
        max_delay_ms in prop::sample::select(vec![0, 1, 1000]),
    ) {
        let max_delay_ms = if ack == Ack::Durable { 0 } else { max_delay_ms };
        let batching = Some(Batching { max_delay_ms, ack, ..Batching::default() });
        // One after the other, also where the queue flushes several keys at once.
        let limiting = Some(Limiting { max_concurrent: 1, ..Limiting::default() });
        let caching = cached.then(CacheSize::default);
        let stack = LayerStack::new(Layers { caching, batching, limiting, compression: None });
        block_on(async { check(stack.over(Arc::new(MemoryAdapter::new())), true, run).await });
    }
}

proptest! {
    // Each write is flushed to the disk.
    #![proptest_config(runs(32))]
    #[test]
    fn filesystem_does_what_a_map_does(run in any_run()) {
        let folder = tempfile::tempdir().unwrap();
        block_on(check(Arc::new(FilesystemAdapter::open(&folder.path().join("root")).unwrap()), false, run));
    }
}

proptest! {
    // Each write is flushed to the disk.
    #![proptest_config(runs(64))]
    #[test]
    fn embedded_does_what_a_map_does(run in any_run()) {
        let folder = tempfile::tempdir().unwrap();
        let database = EmbeddedDatabase::open(folder.path()).unwrap();
        block_on(check(Arc::new(database.store("shard-007").unwrap()), false, run));
    }
}
