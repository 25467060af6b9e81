//! A store that is copied while it is written to: whatever is written when, the copy is the store in the end.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::path::Path;

use brainy_storage::backends::embedded::{self, EmbeddedDatabase};
use brainy_storage::backends::filesystem::{self, FilesystemAdapter};
use brainy_storage::backends::stored::{StoredChange, StoredFile};
use brainy_storage::{Entry, Error, Key, Namespace, StorageAdapter, Value};
use proptest::prelude::*;
use serde_json::json;
use tokio::sync::mpsc::Receiver;

/// What happens to the store, and how far the copy gets.
#[derive(Clone, Debug)]
enum Step {
    Set(usize),
    Remove(usize),
    Increment(usize),
    Swap(usize),
    Batch(Vec<usize>),
    Within(usize),
    /// So many keys of those that stood there.
    Read(usize),
    /// So many of those written since.
    Changes(usize),
}

fn any_step() -> impl Strategy<Value = Step> {
    let key = 0..24usize;
    prop_oneof![
        3 => key.clone().prop_map(Step::Set),
        3 => key.clone().prop_map(Step::Remove),
        1 => key.clone().prop_map(Step::Increment),
        1 => key.clone().prop_map(Step::Swap),
        1 => prop::collection::vec(key.clone(), 1..6).prop_map(Step::Batch),
        1 => key.prop_map(Step::Within),
        3 => (1..8usize).prop_map(Step::Read),
        3 => (1..8usize).prop_map(Step::Changes),
    ]
}

fn key(number: usize) -> Key {
    // Some in a folder of their own, where keys are files.
    Key::new(format!("k/{number}{}", "x".repeat(if number.is_multiple_of(5) { 200 } else { 0 }))).unwrap()
}

fn within() -> Namespace {
    Namespace::new("n/1").unwrap()
}

async fn write(store: &dyn StorageAdapter, step: &Step, n: usize) {
    let value = || Value::Json(json!(n));
    match step {
        Step::Set(at) => drop(store.set(&key(*at), value()).await.unwrap()),
        Step::Remove(at) => drop(store.delete(&key(*at)).await.unwrap()),
        Step::Increment(at) => drop(store.increment(&key(100 + at), n.into()).await.unwrap()),
        Step::Swap(at) => {
            let old = store.get(&key(*at)).await.unwrap().map(|entry| entry.value);
            drop(store.compare_and_swap(&key(*at), old, Some(value())).await.unwrap());
        }
        Step::Batch(keys) => {
            let items = keys.iter().map(|at| (key(*at), value())).collect();
            assert!(store.set_batch(items).await.iter().all(Result::is_ok));
        }
        Step::Within(at) => drop(store.with_namespace(&within()).set(&key(*at), value()).await.unwrap()),
        Step::Read(_) | Step::Changes(_) => {}
    }
}

async fn content(store: &dyn StorageAdapter) -> BTreeMap<(bool, Key), Entry> {
    let mut all = BTreeMap::new();
    let inner = store.with_namespace(&within());
    for (is_within, space) in [(false, store), (true, inner.as_ref())] {
        for key in space.list("", None, 1000).await.unwrap().keys {
            let entry = space.get(&key).await.unwrap().unwrap();
            all.insert((is_within, key), entry);
        }
    }
    all
}

/// What differs between the backends.
trait Copies {
    type Store: StorageAdapter;
    async fn open(folder: &Path) -> Self::Store;
    async fn copy(
        store: &Self::Store,
    ) -> (Receiver<Result<StoredFile, Error>>, impl AsyncFn(usize) -> Vec<StoredChange>);
    /// Receives `pieces` and opens what came of it.
    async fn received(folder: &Path, pieces: Vec<StoredChange>) -> Self::Store;
}

struct Embedded;

impl Copies for Embedded {
    type Store = embedded::EmbeddedAdapter;

    async fn open(folder: &Path) -> Self::Store {
        EmbeddedDatabase::open(folder).unwrap().store("a").unwrap()
    }

    async fn copy(
        store: &Self::Store,
    ) -> (Receiver<Result<StoredFile, Error>>, impl AsyncFn(usize) -> Vec<StoredChange>) {
        let (files, changes) = store.copy().await.unwrap();
        (files, async move |most| changes.next(most).await.unwrap())
    }

    async fn received(folder: &Path, pieces: Vec<StoredChange>) -> Self::Store {
        let database = EmbeddedDatabase::open(folder).unwrap();
        let import = database.import("a").await.unwrap();
        for (at, piece) in pieces.into_iter().enumerate() {
            match piece {
                StoredChange::Is(file) => import.write(vec![file]).await.unwrap(),
                StoredChange::Gone(path) => import.remove(vec![path]).await.unwrap(),
            }
            if at % 7 == 0 {
                import.flush().await.unwrap();
            }
        }
        import.finish(None).await.unwrap();
        database.store("a").unwrap()
    }
}

struct Files;

impl Copies for Files {
    type Store = FilesystemAdapter;

    async fn open(folder: &Path) -> Self::Store {
        FilesystemAdapter::open(folder).unwrap()
    }

    async fn copy(
        store: &Self::Store,
    ) -> (Receiver<Result<StoredFile, Error>>, impl AsyncFn(usize) -> Vec<StoredChange>) {
        let (files, changes) = store.copy().await.unwrap();
        (files, async move |most| changes.next(most).await.unwrap())
    }

    async fn received(folder: &Path, pieces: Vec<StoredChange>) -> Self::Store {
        let import = filesystem::Import::begin(folder).await.unwrap();
        for piece in pieces {
            match piece {
                StoredChange::Is(file) => import.write(vec![file]).await.unwrap(),
                StoredChange::Gone(path) => import.remove(vec![path]).await.unwrap(),
            }
        }
        import.flush().await.unwrap();
        import.finish().await.unwrap();
        FilesystemAdapter::open(folder).unwrap()
    }
}

async fn run<C: Copies>(before: Vec<Step>, steps: Vec<Step>) {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = C::open(&here.path().join("store")).await;
    for (n, step) in before.iter().enumerate() {
        write(&store, step, n).await;
    }
    let (mut files, changes) = C::copy(&store).await;
    let mut pieces = Vec::new();
    for (n, step) in steps.iter().enumerate() {
        match step {
            Step::Read(most) => {
                for _ in 0..*most {
                    pieces.extend(files.recv().await.map(|file| StoredChange::Is(file.unwrap())));
                }
            }
            // Only once all that stood there was read: what was read last must be the newest.
            Step::Changes(_) if !files.is_closed() || !files.is_empty() => {}
            Step::Changes(most) => pieces.extend(changes(*most).await),
            write_step => write(&store, write_step, 1000 + n).await,
        }
    }
    while let Some(file) = files.recv().await {
        pieces.push(StoredChange::Is(file.unwrap()));
    }
    loop {
        let more = changes(4).await;
        if more.is_empty() {
            break;
        }
        pieces.extend(more);
    }
    let copy = C::received(&there.path().join("store"), pieces).await;
    assert_eq!(content(&copy).await, content(&store).await);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn a_copy_of_a_store_that_is_written_to_is_the_store_in_the_end(
        before in prop::collection::vec(any_step(), 0..40),
        steps in prop::collection::vec(any_step(), 0..60),
    ) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(run::<Embedded>(before.clone(), steps.clone()));
        runtime.block_on(run::<Files>(before, steps));
    }
}

#[tokio::test]
async fn a_path_that_is_no_key_s_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let files = filesystem::Import::begin(&folder.path().join("files")).await.unwrap();
    let database = EmbeddedDatabase::open(&folder.path().join("database")).unwrap();
    let embedded = database.import("a").await.unwrap();
    for path in ["../escape", "/etc/passwd", "kv/../../escape", ".lock", "kv/a+/b"] {
        let gone = || vec![path.to_owned()];
        assert!(matches!(files.remove(gone()).await, Err(Error::Invalid { .. })), "{path}");
        assert!(matches!(embedded.remove(gone()).await, Err(Error::Invalid { .. })), "{path}");
    }
}
