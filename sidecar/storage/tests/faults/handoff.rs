//! Whole stores that arrive and are removed. Each step is tried again where it fails: with one fault, once.

use std::path::Path;

use brainy_faults::Recorder;
use brainy_storage::backends::embedded::{self, EmbeddedDatabase};
use brainy_storage::backends::filesystem::{FilesystemAdapter, Import};
use brainy_storage::backends::stored::StoredFile;
use brainy_storage::{Error, StorageAdapter, Value, envelope};
use serde_json::json;
use tokio::runtime::Runtime;

use super::script::key;
use super::store::Backend;

const FILES: u64 = 6;

/// The files of a copy: each key has the number of the copy, some in folders of their own.
pub(crate) fn copy(number: u64, files: u64, padding: usize) -> Vec<StoredFile> {
    let file = |n: u64| {
        let name = format!("{n}{}", "k".repeat(if n.is_multiple_of(2) { 1 } else { 150 }));
        let value = Value::Json(json!([number, "x".repeat(padding)]));
        let trail = envelope::Trail::default();
        let content = envelope::seal(&key(&name), 1, &envelope::new_nonce(), &value, &trail, None).unwrap();
        StoredFile { path: format!("kv/{name}"), content }
    };
    (0..files).map(file).collect()
}

/// The number of the copy that stands there, which must be whole. `None`: nothing does.
async fn stands(store: &dyn StorageAdapter) -> Option<u64> {
    let keys = store.list("", None, 1000).await.unwrap().keys;
    let mut numbers = Vec::new();
    for key in keys {
        match store.get(&key).await.unwrap().unwrap().value {
            Value::Json(json) => numbers.push(json[0].as_u64().unwrap()),
            other => panic!("{other:?}"),
        }
    }
    assert!(numbers.iter().all(|number| *number == numbers[0]), "{numbers:?} are of several copies");
    assert!([0, FILES as usize].contains(&numbers.len()), "half a copy");
    numbers.first().copied()
}

/// Receives two copies after each other, and removes the store.
pub(crate) fn hand_over(backend: Backend, folder: &Path, runtime: &Runtime, recorder: &Recorder) {
    match backend {
        Backend::Files => files(&Backend::root(folder), runtime, recorder),
        Backend::Embedded => database(&Backend::root(folder), runtime, recorder),
    }
}

fn files(root: &Path, runtime: &Runtime, recorder: &Recorder) {
    let opened = || FilesystemAdapter::open(root).or_else(|_| FilesystemAdapter::open(root)).unwrap();
    let look = || runtime.block_on(stands(&opened()));
    let receive = async |number| {
        let import = Import::begin(root).await?;
        import.write(copy(number, FILES, 10)).await?;
        import.finish().await
    };
    let mut before = None;
    for number in [1, 2] {
        if runtime.block_on(receive(number)).is_err() {
            let found = look();
            assert!(found == before || found == Some(number), "{found:?} stands there");
            runtime.block_on(receive(number)).unwrap();
        }
        recorder.acknowledge(format!("copy {number}"), vec![root.to_owned()]);
        before = Some(number);
        assert_eq!(look(), before);
    }
    if runtime.block_on(FilesystemAdapter::destroy(root)).is_err() {
        let found = look();
        assert!(found.is_none() || found == before, "{found:?} stands there");
        runtime.block_on(FilesystemAdapter::destroy(root)).unwrap();
    }
    recorder.acknowledge("the removal", vec![root.to_owned()]);
    assert!(!root.exists());
    let left: Vec<_> = std::fs::read_dir(root.parent().unwrap()).unwrap().collect();
    assert!(left.is_empty(), "{left:?} are left");
}

fn database(root: &Path, runtime: &Runtime, recorder: &Recorder) {
    // `None`: what it was told failed, and it has to be opened again.
    let mut open: Option<EmbeddedDatabase> = None;
    let mut opened = || EmbeddedDatabase::open(root).or_else(|_| EmbeddedDatabase::open(root)).unwrap();
    let mut attempt = |what: &str, act: &dyn Fn(&EmbeddedDatabase) -> Result<(), Error>| {
        recorder.begin();
        let database = open.take().unwrap_or_else(&mut opened);
        let database = if act(&database).is_ok() {
            database
        } else {
            drop(database);
            recorder.begin();
            let database = opened();
            act(&database).unwrap_or_else(|error| panic!("{what} once more: {error}"));
            database
        };
        recorder.acknowledge(what, vec![root.to_owned()]);
        open = Some(database.clone());
        database
    };
    let receive = async |database: &EmbeddedDatabase, number: u64| {
        let import: embedded::Import = database.import("received").await?;
        import.write(copy(number, FILES, 10)).await?;
        import.finish(Some(number.to_string())).await
    };
    for number in [1, 2] {
        attempt("a copy", &|database| runtime.block_on(receive(database, number)));
        let database = attempt("a rename", &|database| {
            runtime.block_on(async {
                // What failed may have been done.
                if stands(&database.store("kept")?).await == Some(number) {
                    return Ok(());
                }
                database.rename("received", "kept", Some(number.to_string())).await
            })
        });
        assert_eq!(runtime.block_on(stands(&database.store("kept").unwrap())), Some(number));
        assert_eq!(runtime.block_on(stands(&database.store("received").unwrap())), None);
    }
    let database = attempt("the removal", &|database| runtime.block_on(database.destroy("kept")));
    assert!(runtime.block_on(database.stamps()).unwrap().is_empty());
}
