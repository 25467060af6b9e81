//! One folder follows the other, as at each change of an owner: the values move on from folder to folder, are copied behind,
//! and what was read through to is cleared away. All along the store does what a map does, also where the copying breaks off
//! anywhere, and where writes arrive in a folder long after it was left.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use brainy_storage::backends::objects::{BucketStore, ReadThrough};
use brainy_storage::{
    Condition, Done, Entry, Error, Key, Operation, OperationId, Outcome, StorageAdapter, Value, Version,
};
use futures::FutureExt;
use proptest::prelude::*;
use serde_json::json;
use tokio::sync::Semaphore;

use super::bucket::Bucket;
use super::map::{Expectation, Model, Step, any_expectation, any_key, any_step, any_value, apply};
use super::{block_on, runs};

const FOLDER: usize = 20;

#[derive(Clone, Debug)]
enum Event {
    /// An operation, exactly as on a map.
    Do(String, Step),
    /// A write with an id, which may have been done before.
    Once(String, u8),
    /// A write of which one request arrives later.
    Late { key: String, value: Option<Value>, expectation: Expectation, hold_after: usize },
    /// It does.
    Arrives(prop::sample::Index),
    /// Another folder follows.
    Move,
    /// The newest origin is copied, until a request fails, or with one that arrives later.
    Copy { fail_after: Option<usize>, hold_after: Option<usize> },
    /// It is no longer read through to, if it is copied.
    Forget,
    /// What is forgotten is cleared away.
    Sweep { fail_after: Option<usize> },
    /// Everything is copied, forgotten and cleared away in the middle of an operation.
    Between { key: String, step: Step, after: usize },
}

fn any_event() -> impl Strategy<Value = Event> {
    let few = || prop::option::of(0..8_usize);
    prop_oneof![
        8 => (any_key(), any_step()).prop_map(|(key, step)| Event::Do(key, step)),
        2 => (any_key(), 0..4_u8).prop_map(|(key, id)| Event::Once(key, id)),
        4 => (any_key(), prop::option::of(any_value()), any_expectation(), 0..3_usize).prop_map(
            |(key, value, expectation, hold_after)| Event::Late { key, value, expectation, hold_after }
        ),
        4 => any::<prop::sample::Index>().prop_map(Event::Arrives),
        4 => Just(Event::Move),
        3 => (few(), few()).prop_map(|(fail_after, hold_after)| Event::Copy { fail_after, hold_after }),
        3 => Just(Event::Forget),
        2 => few().prop_map(|fail_after| Event::Sweep { fail_after }),
        1 => (any_key(), any_step(), 0..6_usize).prop_map(|(key, step, after)| Event::Between { key, step, after }),
    ]
}

/// A write whose outcome is unknown.
struct Intent {
    key: String,
    /// Number of the request that was held back.
    held: usize,
    /// What it leaves.
    value: Option<Value>,
}

/// The folders and what is known of the values in them.
struct World {
    bucket: Bucket,
    store: BucketStore<Bucket>,
    token: u32,
    own: ReadThrough<Bucket>,
    /// Newest first.
    origins: Vec<String>,
    copied: BTreeSet<String>,
    /// Forgotten, to be cleared away.
    discard: Vec<String>,
    model: Model,
    /// Ids that each value remembers, oldest first, with the revision of the write.
    ids: BTreeMap<String, Vec<(u8, Version)>>,
    intents: Vec<Intent>,
    /// Intents whose request has arrived where it may be seen, or may be no more.
    late: BTreeMap<String, Vec<usize>>,
}

fn folder(token: u32) -> String {
    format!("t/{token:03}")
}

fn key(name: &str) -> Key {
    Key::new(name).unwrap()
}

impl World {
    fn new() -> Self {
        let bucket = Bucket::default();
        let store = BucketStore::new(bucket.clone());
        let own = ReadThrough::new(&store, &folder(1), &[], FOLDER);
        let (origins, discard, copied) = (Vec::new(), Vec::new(), BTreeSet::new());
        let (model, ids, intents, late) = (Model::default(), BTreeMap::new(), Vec::new(), BTreeMap::new());
        Self { bucket, store, token: 1, own, origins, copied, discard, model, ids, intents, late }
    }

    fn values(&self) -> Arc<dyn StorageAdapter> {
        Arc::new(self.own.adapter())
    }

    async fn happens(&mut self, event: Event) {
        match event {
            Event::Do(name, step) => self.does(&name, step).await,
            Event::Once(name, id) => self.once(&name, id).await,
            Event::Late { key, value, expectation, hold_after } => {
                self.late(&key, value, &expectation, hold_after).await;
            }
            Event::Arrives(at) => self.arrives(at),
            Event::Move => {
                self.origins.insert(0, folder(self.token));
                self.token += 1;
                self.copied.clear();
                self.own = ReadThrough::new(&self.store, &folder(self.token), &self.origins, FOLDER);
            }
            Event::Copy { fail_after, hold_after } => {
                let Some(origin) = self.origins.iter().find(|origin| !self.copied.contains(*origin)).cloned() else {
                    return;
                };
                self.bucket.fail_after(fail_after);
                hold_after.into_iter().for_each(|after| self.bucket.hold_after(after));
                let copied = self.own.copy(&origin, &Semaphore::new(1)).await;
                self.bucket.fail_after(None);
                let _held = self.bucket.held();
                match copied {
                    Ok(()) => drop(self.copied.insert(origin)),
                    Err(error) => assert!(fail_after.is_some() || hold_after.is_some(), "{error:?}"),
                }
            }
            Event::Forget => {
                if let Some(origin) = self.origins.first().filter(|origin| self.copied.contains(*origin)).cloned() {
                    self.origins.remove(0);
                    self.own.forget(&origin);
                    self.discard.push(origin);
                }
            }
            Event::Sweep { fail_after } => {
                let Some(origin) = self.discard.first() else { return };
                self.bucket.fail_after(fail_after);
                let swept = self.store.delete_prefix(&format!("{origin}/")).await;
                self.bucket.fail_after(None);
                if swept.is_ok() {
                    self.discard.remove(0);
                }
            }
            Event::Between { key, step, after } => {
                let (own, store, origins) = (self.own.clone(), self.store.clone(), self.origins.clone());
                self.resolve(&key).await;
                self.bucket.interrupt_after(after, move || {
                    async move {
                        for origin in &origins {
                            own.copy(origin, &Semaphore::new(1)).await.unwrap();
                            own.forget(origin);
                            store.delete_prefix(&format!("{origin}/")).await.unwrap();
                        }
                    }
                    .boxed()
                });
                self.does(&key, step).await;
                if !self.bucket.undisturbed() {
                    self.origins.clear();
                }
            }
        }
    }

    /// One step as on a map, where it is known what must be there.
    async fn does(&mut self, name: &str, step: Step) {
        if matches!(step, Step::List { .. } | Step::SetBatch(_)) {
            for key in self.late.keys().cloned().collect::<Vec<_>>() {
                self.resolve(&key).await;
            }
        }
        self.resolve(name).await;
        let keys: Vec<String> = match &step {
            Step::List { .. } => Vec::new(),
            Step::SetBatch(items) => items.iter().map(|(key, _)| key.clone()).collect(),
            _ => vec![name.to_owned()],
        };
        let before = self.model.entries.get(name).cloned();
        match step {
            Step::Get => assert_eq!(self.values().get(&key(name)).await.unwrap(), before),
            step => apply(&*self.values(), &mut self.model, name, step).await,
        }
        keys.iter().for_each(|key| self.seen(key));
        if before.is_some() && !self.model.entries.contains_key(name) {
            self.ids.remove(name);
        }
    }

    /// A key was seen, and what was seen is in the own folder now, unless there has never been anything: what was sent to
    /// another folder has no effect any more.
    fn seen(&mut self, name: &str) {
        if self.model.versions.contains_key(name) {
            let (held, own) = (self.bucket.held(), format!("{}/", folder(self.token)));
            self.intents.retain(|intent| intent.key != name || held[intent.held].name.starts_with(&own));
        }
        self.late.remove(name);
    }

    /// Finds out what became of writes that have arrived since the key was seen last.
    async fn resolve(&mut self, name: &str) {
        let Some(late) = self.late.get(name).cloned() else { return };
        let stands = self.values().get(&key(name)).await.unwrap();
        let held = self.bucket.held();
        if stands.as_ref() != self.model.entries.get(name) {
            let intent = self.intents.iter().find(|intent| {
                let text = String::from_utf8_lossy(&held[intent.held].body).into_owned();
                let its = stands.as_ref().is_none_or(|entry| text.contains(&entry.version.tag));
                late.contains(&intent.held) && its && intent.value == stands.as_ref().map(|entry| entry.value.clone())
            });
            assert!(intent.is_some(), "{name} was {:?} and is {stands:?}", self.model.entries.get(name));
            match stands {
                Some(Entry { value, version }) => self.model.wrote(name, value, version),
                None => {
                    self.model.entries.remove(name);
                    self.ids.remove(name);
                }
            }
        }
        self.seen(name);
    }

    async fn late(&mut self, name: &str, value: Option<Value>, expectation: &Expectation, hold_after: usize) {
        self.resolve(name).await;
        let condition = self.model.condition(name, expectation);
        if value.is_none() && condition == Condition::Absent {
            return;
        }
        let before = self.bucket.held().len();
        self.bucket.hold_after(hold_after);
        let outcome = match value.clone() {
            Some(value) => self.values().put(&key(name), value, &condition).await.map(|outcome| outcome.map(Some)),
            None => self.values().remove(&key(name), &condition).await.map(|outcome| outcome.map(|_| None)),
        };
        let held = self.bucket.held().len();
        let current = self.model.entries.get(name).cloned();
        match outcome {
            Ok(Outcome::Applied(version)) => {
                assert_eq!(held, before, "what is held back has not taken effect");
                assert!(condition.holds(current.as_ref().map(|entry| &entry.version)));
                match value.zip(version) {
                    Some((value, version)) => self.model.wrote(name, value, version),
                    None => {
                        self.model.entries.remove(name);
                        self.ids.remove(name);
                    }
                }
                self.seen(name);
            }
            Ok(Outcome::Rejected(stands)) => {
                assert_eq!(stands, current);
                self.seen(name);
            }
            Ok(Outcome::Unknown(_)) => {
                assert_eq!(held, before + 1);
                self.intents.push(Intent { key: name.to_owned(), held: before, value });
            }
            // It was a copy that was held back.
            Err(error) => assert!(matches!(error, Error::Unavailable { .. }) && held == before + 1, "{error:?}"),
        }
    }

    fn arrives(&mut self, at: prop::sample::Index) {
        let held = self.bucket.held();
        if held.is_empty() {
            return;
        }
        let at = at.index(held.len());
        if self.bucket.deliver(at) {
            // The write itself, or a copy of it that somebody made.
            let intent = self.intents.iter().find(|intent| held[intent.held].body == held[at].body);
            if let Some(intent) = intent {
                self.late.entry(intent.key.clone()).or_default().push(intent.held);
            }
        }
    }

    async fn once(&mut self, name: &str, number: u8) {
        self.resolve(name).await;
        let id = OperationId::new(format!("id-{number}")).unwrap();
        let value = Value::Json(json!({"id": number, "long enough": "to be no tombstone by any means"}));
        let outcome = self.values().perform_once(&key(name), Operation::blind(&value), &id).await.unwrap();
        let Some(Done::Written(version)) = outcome.applied() else { panic!("it is written or was before") };
        let ids = self.ids.entry(name.to_owned()).or_default();
        match ids.iter().find(|(id, _)| *id == number) {
            Some((_, first)) => assert_eq!(version.revision, first.revision, "it is done a second time"),
            None => {
                ids.push((number, version.clone()));
                self.model.wrote(name, value, version);
            }
        }
        self.seen(name);
    }

    /// All that is left to do is done; then only the own folder is left, with what the model says.
    async fn ends(mut self) {
        for key in self.late.keys().cloned().collect::<Vec<_>>() {
            self.resolve(&key).await;
        }
        for origin in self.origins.clone() {
            self.own.copy(&origin, &Semaphore::new(1)).await.unwrap();
            self.own.forget(&origin);
            self.discard.push(origin);
        }
        for origin in &self.discard {
            self.store.delete_prefix(&format!("{origin}/")).await.unwrap();
        }
        let values = self.values();
        for (name, entry) in &self.model.entries {
            assert_eq!(values.get(&key(name)).await.unwrap().as_ref(), Some(entry));
        }
        let listed = values.list("", None, 1000).await.unwrap();
        assert!(listed.keys.iter().map(Key::as_str).eq(self.model.entries.keys().map(String::as_str)));
    }
}

proptest! {
    #![proptest_config(runs(400))]
    #[test]
    fn what_moves_from_folder_to_folder_does_what_a_map_does(events in prop::collection::vec(any_event(), 1..60)) {
        block_on(async {
            let mut world = World::new();
            for event in events {
                world.happens(event).await;
            }
            world.ends().await;
        });
    }
}

/// A folder that follows one with a value.
async fn moved(value: &str) -> World {
    let mut world = World::new();
    world.happens(Event::Do("k".into(), Step::SetBatch(vec![("k".into(), Value::Json(json!(value)))]))).await;
    world.happens(Event::Move).await;
    world
}

#[test]
fn a_value_is_there_at_every_moment_of_its_copying() {
    for after in 0..6 {
        block_on(async {
            let mut world = moved("v").await;
            world.happens(Event::Between { key: "k".into(), step: Step::Get, after }).await;
            world.ends().await;
        });
    }
}

#[test]
fn what_is_copied_never_takes_the_place_of_what_was_written_meanwhile() {
    for after in 0..8 {
        block_on(async {
            let mut world = moved("v").await;
            let own = world.own.clone();
            world.bucket.interrupt_after(after, move || {
                async move { drop(own.adapter().set(&key("k"), Value::Json(json!("w"))).await.unwrap()) }.boxed()
            });
            world.happens(Event::Copy { fail_after: None, hold_after: None }).await;
            let expected = if world.bucket.undisturbed() { "v" } else { "w" };
            let found = world.values().get(&key("k")).await.unwrap().unwrap();
            assert_eq!(found.value, Value::Json(json!(expected)), "after {after} requests");
        });
    }
}

/// What a bucket holds back of a write that is sent now; nobody hears what becomes of it.
async fn held_back(world: &World, write: impl Future<Output = bool>) -> usize {
    world.bucket.hold_after(0);
    assert!(!write.await, "it is held back");
    world.bucket.held().len() - 1
}

#[test]
fn what_was_removed_stays_removed_while_an_older_folder_has_it() {
    block_on(async {
        let mut world = moved("v").await;
        world.happens(Event::Do("k".into(), Step::Remove(Expectation::Nothing))).await;
        world.happens(Event::Move).await;
        world.happens(Event::Copy { fail_after: None, hold_after: None }).await;
        world.happens(Event::Forget).await;
        assert_eq!(world.origins, [folder(1)]);
        assert_eq!(world.values().get(&key("k")).await.unwrap(), None);
    });
}

#[test]
fn a_copy_that_arrives_late_does_not_bring_back_what_was_removed() {
    block_on(async {
        let mut world = World::new();
        world.happens(Event::Do("k".into(), Step::SetBatch(vec![("k".into(), Value::Json(json!("v")))]))).await;
        let values = world.values();
        let removal = held_back(&world, async { values.delete(&key("k")).await.unwrap().applied().is_some() }).await;
        world.happens(Event::Move).await;
        let values = world.values();
        let copy = held_back(&world, async { values.get(&key("k")).await.is_ok() }).await;
        assert!(world.bucket.deliver(removal), "its version stands there still");
        assert_eq!(values.get(&key("k")).await.unwrap(), None);
        world.bucket.deliver(copy);
        assert_eq!(values.get(&key("k")).await.unwrap(), None);
    });
}

#[test]
fn a_late_write_that_was_seen_is_seen_again_and_one_that_was_not_never_is() {
    for seen in [false, true] {
        block_on(async {
            let mut world = World::new();
            let values = world.values();
            let new = || Value::Json(json!("new"));
            let late =
                held_back(&world, async { values.set(&key("k"), new()).await.unwrap().applied().is_some() }).await;
            world.happens(Event::Move).await;
            world.happens(Event::Copy { fail_after: None, hold_after: None }).await;
            assert_eq!(world.values().get(&key("k")).await.unwrap(), None);
            assert!(world.bucket.deliver(late), "nothing stands there");
            if seen {
                assert_eq!(world.values().get(&key("k")).await.unwrap().map(|entry| entry.value), Some(new()));
            }
            world.happens(Event::Forget).await;
            world.happens(Event::Sweep { fail_after: None }).await;
            let found = world.values().get(&key("k")).await.unwrap().map(|entry| entry.value);
            assert_eq!(found, seen.then(new));
        });
    }
}

#[test]
fn what_is_damaged_is_copied_as_it_lies_and_never_served() {
    block_on(async {
        let mut world = moved("a value that will be damaged").await;
        let name = world.bucket.names().pop().unwrap();
        world.bucket.damage(&name);
        assert!(matches!(world.values().get(&key("k")).await, Err(Error::Corrupt { .. })));
        world.happens(Event::Copy { fail_after: None, hold_after: None }).await;
        world.happens(Event::Forget).await;
        world.happens(Event::Sweep { fail_after: None }).await;
        assert!(matches!(world.values().get(&key("k")).await, Err(Error::Corrupt { .. })));
        assert_eq!(world.values().delete(&key("k")).await.unwrap(), Outcome::Applied(true));
        assert_eq!(world.values().get(&key("k")).await.unwrap(), None);
    });
}

#[test]
fn a_key_fits_in_every_folder_or_in_none() {
    block_on(async {
        let bucket = BucketStore::new(Bucket::default());
        let longest = 1024 - FOLDER - "kv/".len();
        // Each piece of 200 characters is followed by two more.
        let fits = "k".repeat(longest - 2 * (longest / 202));
        for own in ["a", "a-folder-with-20-of-it"] {
            let values = ReadThrough::new(&bucket, own, &[], FOLDER).adapter();
            assert!(values.set(&key(&fits), Value::Json(json!(1))).await.is_ok());
            let refused = values.set(&key(&format!("{fits}k")), Value::Json(json!(1))).await;
            assert!(matches!(refused, Err(Error::Invalid { field: "key", .. })), "{refused:?}");
        }
    });
}
