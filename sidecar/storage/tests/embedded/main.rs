//! What only an embedded database can get wrong: hand-off of whole stores, a full disk, its lock, crashes.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod crash;
mod small_disk;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use brainy_storage::backends::embedded::{Audit, EmbeddedDatabase, Import};
use brainy_storage::backends::filesystem::{self, FilesystemAdapter};
use brainy_storage::backends::stored::StoredFile;
use brainy_storage::{Entry, Error, Key, Namespace, Outcome, StorageAdapter, Value, envelope};
use bytes::Bytes;
use serde_json::json;
use tokio::sync::mpsc::Receiver;

use small_disk::SmallDisk;

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

fn open(folder: &Path) -> EmbeddedDatabase {
    EmbeddedDatabase::open(folder).unwrap()
}

fn cause<T: std::fmt::Debug>(result: Result<T, Error>) -> String {
    match result {
        Err(Error::Unavailable { cause, .. }) => cause,
        other => panic!("not unavailable: {other:?}"),
    }
}

async fn fill(store: &dyn StorageAdapter) {
    let inner = store.with_namespace(&Namespace::new("n/1").unwrap());
    let deeper = inner.with_namespace(&Namespace::new("kv").unwrap());
    for n in 0..40 {
        let _ = store.set(&key(&format!("k/{n}")), Value::Json(json!(n))).await.unwrap();
        let _ = inner.set(&key(&"x".repeat(190 + n)), Value::Bytes(Bytes::from(vec![n as u8; n]))).await.unwrap();
    }
    let _ = deeper.set(&key("k/0"), Value::Json(json!("deep"))).await.unwrap();
    let _ = store.set(&key("k/0"), Value::Json(json!("again"))).await.unwrap();
}

async fn content(store: &dyn StorageAdapter) -> BTreeMap<String, Entry> {
    let mut all = BTreeMap::new();
    let inner = store.with_namespace(&Namespace::new("n/1").unwrap());
    let deeper = inner.with_namespace(&Namespace::new("kv").unwrap());
    let spaces: [(&str, &dyn StorageAdapter); 3] =
        [("", store), ("n/1 ", inner.as_ref()), ("n/1 kv ", deeper.as_ref())];
    for (name, space) in spaces {
        for key in space.list("", None, 1000).await.unwrap().keys {
            all.insert(format!("{name}{key}"), space.get(&key).await.unwrap().unwrap());
        }
    }
    all
}

async fn receive(import: &Import, mut files: Receiver<Result<StoredFile, Error>>) {
    while let Some(file) = files.recv().await {
        import.write(vec![file.unwrap()]).await.unwrap();
    }
}

/// Waits until all that belongs to nobody is deleted.
async fn cleaned(database: &EmbeddedDatabase) -> Audit {
    for _ in 0..3000 {
        let audit = database.audit().await.unwrap();
        if audit.garbage == 0 {
            return audit;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("what belongs to nobody is not deleted");
}

/// Waits until there are so many files of large values, and no more.
async fn left_over(database: &EmbeddedDatabase, files: usize) {
    let count = || std::fs::read_dir(database.folder().join("values")).unwrap().count();
    for _ in 0..3000 {
        if count() == files {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("{} files are there, and {files} are named", count());
}

#[tokio::test]
async fn values_versions_namespaces_and_stamps_survive_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let database = open(folder.path());
    let store = database.store("a").unwrap();
    fill(&store).await;
    database.stamp("a", "token 3".to_owned()).await.unwrap();
    database.stamp("empty", "token 1".to_owned()).await.unwrap();
    let before = content(&store).await;
    drop((store, database));
    let database = open(folder.path());
    let store = database.store("a").unwrap();
    assert_eq!(before.len(), 81);
    assert_eq!(content(&store).await, before);
    let stamps = [("a".to_owned(), Some("token 3".to_owned())), ("empty".to_owned(), Some("token 1".to_owned()))];
    assert_eq!(database.stamps().await.unwrap(), stamps);
    // The next write goes on from the version before.
    let version = store.set(&key("k/0"), Value::Json(json!(1))).await.unwrap().applied().unwrap();
    assert_eq!(version.revision, 3);
    assert_eq!(database.stamps().await.unwrap(), stamps, "a write of a key left the stamp alone");
}

#[tokio::test]
async fn a_handed_off_store_keeps_values_versions_and_namespaces() {
    let folder = tempfile::tempdir().unwrap();
    let (from, to) = (open(&folder.path().join("from")), open(&folder.path().join("to")));
    let source = from.store("a").unwrap();
    fill(&source).await;
    let import = to.import("b").await.unwrap();
    receive(&import, source.export()).await;
    let target = to.store("b").unwrap();
    assert!(content(&target).await.is_empty(), "nothing may be served before it has all arrived");
    import.finish(Some("token 5".to_owned())).await.unwrap();
    assert_eq!(content(&target).await, content(&source).await);
    assert_eq!(to.stamps().await.unwrap(), [("b".to_owned(), Some("token 5".to_owned()))]);
    drop((target, to));
    let to = open(&folder.path().join("to"));
    assert_eq!(content(&to.store("b").unwrap()).await, content(&source).await);
}

#[tokio::test]
async fn a_store_moves_between_files_and_a_database_and_back() {
    let folder = tempfile::tempdir().unwrap();
    let files = FilesystemAdapter::open(&folder.path().join("files")).unwrap();
    fill(&files).await;
    let database = open(&folder.path().join("database"));
    let import = database.import("a").await.unwrap();
    receive(&import, files.export()).await;
    import.finish(None).await.unwrap();
    let store = database.store("a").unwrap();
    assert_eq!(content(&store).await, content(&files).await);

    let back = filesystem::Import::begin(&folder.path().join("back")).await.unwrap();
    let mut exported = store.export();
    while let Some(file) = exported.recv().await {
        back.write(vec![file.unwrap()]).await.unwrap();
    }
    back.finish().await.unwrap();
    let back = FilesystemAdapter::open(&folder.path().join("back")).unwrap();
    assert_eq!(content(&back).await, content(&files).await);
}

#[tokio::test]
async fn an_arriving_store_replaces_what_stood_there_even_while_it_is_open() {
    let folder = tempfile::tempdir().unwrap();
    let database = open(folder.path());
    let source = database.store("from").unwrap();
    fill(&source).await;
    let stale = database.store("to").unwrap();
    let _ = stale.set(&key("old"), Value::Json(json!(1))).await.unwrap();
    let import = database.import("to").await.unwrap();
    receive(&import, source.export()).await;
    let before = database.flushes();
    import.finish(None).await.unwrap();
    assert_eq!(database.flushes() - before, 1, "one write makes it durable");
    assert_eq!(stale.get(&key("old")).await.unwrap(), None);
    assert_eq!(content(&stale).await, content(&source).await);
    let _ = stale.set(&key("new"), Value::Json(json!(1))).await.unwrap();
    assert!(database.store("to").unwrap().get(&key("new")).await.unwrap().is_some());
    assert_eq!(cleaned(&database).await, Audit { stores: 2, keys: 81 + 82, garbage: 0 });
}

#[tokio::test]
async fn an_unfinished_import_leaves_the_store_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let database = open(folder.path());
    let source = database.store("from").unwrap();
    fill(&source).await;
    let target = database.store("to").unwrap();
    let _ = target.set(&key("old"), Value::Json(json!(1))).await.unwrap();
    let import = database.import("to").await.unwrap();
    receive(&import, source.export()).await;
    // Marked from the start: a crash now would leave it to be deleted.
    assert_eq!(database.audit().await.unwrap(), Audit { stores: 2, keys: 82, garbage: 1 });
    import.discard();
    let import = database.import("to").await.unwrap();
    receive(&import, source.export()).await;
    // As a crash leaves it.
    drop((import, target, source, database));
    let database = open(folder.path());
    assert_eq!(content(&database.store("to").unwrap()).await.len(), 1);
    assert_eq!(cleaned(&database).await, Audit { stores: 2, keys: 82, garbage: 0 });
    // The next one starts from nothing.
    database.import("to").await.unwrap().finish(None).await.unwrap();
    assert!(content(&database.store("to").unwrap()).await.is_empty());
}

#[tokio::test]
async fn an_import_refuses_foreign_and_damaged_keys() {
    let folder = tempfile::tempdir().unwrap();
    let database = open(folder.path());
    let import = database.import("to").await.unwrap();
    let file = |path: &str, content: &'static [u8]| StoredFile { path: path.into(), content: content.into() };
    for path in ["../escape", "/etc/passwd", "kv/../../escape", "tmp/a", ".lock", "kv/a+/b"] {
        let refused = import.write(vec![file(path, b"x")]).await;
        assert!(matches!(refused, Err(Error::Invalid { .. })), "{path}: {refused:?}");
    }
    assert!(matches!(import.write(vec![file("kv/a", b"x")]).await, Err(Error::Corrupt { .. })));
}

#[tokio::test]
async fn an_export_is_the_store_as_it_was_when_it_began() {
    let folder = tempfile::tempdir().unwrap();
    let database = open(folder.path());
    let store = database.store("a").unwrap();
    fill(&store).await;
    let before = content(&store).await;
    let mut exported = store.export();
    // What is written, removed and replaced meanwhile is not in it.
    for n in 0..40 {
        let _ = store.delete(&key(&format!("k/{n}"))).await.unwrap();
        let _ = store.set(&key(&format!("new/{n}")), Value::Json(json!(n))).await.unwrap();
    }
    database.import("a").await.unwrap().finish(None).await.unwrap();
    assert_eq!(cleaned(&database).await.keys, 0);
    let copy = database.import("copy").await.unwrap();
    while let Some(file) = exported.recv().await {
        copy.write(vec![file.unwrap()]).await.unwrap();
    }
    copy.finish(None).await.unwrap();
    assert_eq!(content(&database.store("copy").unwrap()).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_being_replaced_never_looks_emptier_than_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let database = open(folder.path());
    let template = database.store("template").unwrap();
    let items = (0..300).map(|n| (key(&format!("k{n:03}")), Value::Json(json!(n)))).collect();
    assert!(template.set_batch(items).await.iter().all(Result::is_ok));
    let copy = async || {
        let import = database.import("a").await.unwrap();
        receive(&import, template.export()).await;
        import.finish(None).await.unwrap();
    };
    copy().await;
    let done = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..2)
        .map(|_| {
            let (store, done) = (database.store("a").unwrap(), Arc::clone(&done));
            tokio::spawn(async move {
                while !done.load(Ordering::Relaxed) {
                    assert_eq!(store.list("", None, 1000).await.unwrap().keys.len(), 300);
                    assert!(store.get(&key("k299")).await.unwrap().is_some());
                }
            })
        })
        .collect();
    for _ in 0..20 {
        copy().await;
    }
    cleaned(&database).await;
    done.store(true, Ordering::Relaxed);
    for reader in readers {
        reader.await.unwrap();
    }
}

#[tokio::test]
async fn a_renamed_store_takes_the_place_and_the_stamp() {
    let folder = tempfile::tempdir().unwrap();
    let database = open(folder.path());
    let (received, stored) = (database.store("received/7").unwrap(), database.store("7").unwrap());
    let _ = stored.set(&key("old"), Value::Json(json!(1))).await.unwrap();
    fill(&received).await;
    let expected = content(&received).await;
    database.rename("received/7", "7", Some("token 9".to_owned())).await.unwrap();
    assert_eq!(cause(received.get(&key("k/1")).await), "Removed");
    assert_eq!(content(&stored).await, expected);
    assert!(content(&database.store("received/7").unwrap()).await.is_empty());
    assert_eq!(database.stamps().await.unwrap(), [("7".to_owned(), Some("token 9".to_owned()))]);
    assert_eq!(cleaned(&database).await, Audit { stores: 1, keys: 81, garbage: 0 });
    assert_eq!(cause(database.rename("nobody", "7", None).await), "Missing");
    assert!(matches!(database.rename("7", "7", None).await, Err(Error::Invalid { .. })));
    drop((received, stored, database));
    let database = open(folder.path());
    assert_eq!(content(&database.store("7").unwrap()).await, expected);
    assert!(content(&database.store("received/7").unwrap()).await.is_empty());
}

#[tokio::test]
async fn a_destroyed_store_serves_nobody_and_can_be_made_anew() {
    let folder = tempfile::tempdir().unwrap();
    let database = open(folder.path());
    let old = database.store("a").unwrap();
    fill(&old).await;
    database.destroy("a").await.unwrap();
    assert_eq!(cause(old.get(&key("k/1")).await), "Removed", "a missing store must not pass for a missing value");
    assert_eq!(cause(old.list("", None, 1).await), "Removed");
    assert_eq!(cause(old.set(&key("k/1"), Value::Json(json!(1))).await), "Removed");
    assert!(matches!(old.export().recv().await, Some(Err(Error::Unavailable { .. }))));
    assert_eq!(cleaned(&database).await, Audit::default());
    let new = database.store("a").unwrap();
    assert_eq!(new.get(&key("k/1")).await.unwrap(), None);
    let _ = new.set(&key("k/1"), Value::Json(json!(1))).await.unwrap();
    database.destroy("never").await.unwrap();
    for name in ["", &"x".repeat(256)] {
        assert!(matches!(database.store(name), Err(Error::Invalid { field: "store", .. })));
    }
}

#[tokio::test]
async fn a_database_in_use_is_refused_at_once_and_free_when_it_is_closed() {
    let folder = tempfile::tempdir().unwrap();
    let database = open(folder.path());
    let store = database.store("a").unwrap();
    drop(database);
    // A store keeps its database open.
    assert_eq!(cause(EmbeddedDatabase::open(folder.path())), "InUse");
    let _ = store.set(&key("a"), Value::Json(json!(1))).await.unwrap();
    drop(store);
    assert!(open(folder.path()).store("a").unwrap().get(&key("a")).await.unwrap().is_some());
}

#[tokio::test]
async fn a_full_disk_refuses_values_cleanly_and_takes_them_again_when_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    let Some(_disk) = SmallDisk::mount(folder.path(), "40m") else { return };
    let database = open(&folder.path().join("database"));
    let store = database.store("a").unwrap();
    let value = |n: u64| Value::Bytes(Bytes::from(vec![n as u8; 1 << 20]));
    let mut written = 0;
    let refused = loop {
        assert!(written < 100, "40 MB took 100 MB");
        match store.set(&key(&format!("k{written:02}")), value(written)).await {
            Ok(Outcome::Applied(_)) => written += 1,
            other => break other,
        }
    };
    assert_eq!(cause(refused), "DiskFull");
    assert!(written > 2, "refused after {written} MB");
    let import = database.import("b").await.unwrap();
    let content =
        envelope::seal(&key("k"), 1, &envelope::new_nonce(), &value(1), &envelope::Trail::default(), None).unwrap();
    assert_eq!(cause(import.write(vec![StoredFile { path: "kv/k".into(), content }]).await), "DiskFull");
    // What was acknowledged is there, removals still have room, and nothing has to be started again.
    assert_eq!(database.failure(), None);
    assert_eq!(database.audit().await.unwrap().keys, written);
    // Of what was refused no file is left.
    left_over(&database, written as usize).await;
    assert_eq!(store.delete(&key("k00")).await.unwrap(), Outcome::Applied(true));
    let enlarged = Command::new("mount").args(["-o", "remount,size=80m"]).arg(folder.path()).status();
    assert!(enlarged.is_ok_and(|status| status.success()));
    assert!(matches!(store.set(&key("k00"), value(0)).await, Ok(Outcome::Applied(_))));
}

/// Not how full it is when values are refused ends an engine, but what it rewrites after that, and at each start.
#[tokio::test]
async fn a_disk_filled_to_its_end_has_room_for_what_is_rewritten_and_for_every_start() {
    let folder = tempfile::tempdir().unwrap();
    let Some(_disk) = SmallDisk::mount(folder.path(), "128m") else { return };
    // What no compression makes small.
    let mut seed: u64 = 1;
    let mut value = || {
        let next = || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) as u8
        };
        Value::Bytes(std::iter::repeat_with(next).take(32 << 10).collect::<Vec<u8>>().into())
    };
    let mut written: BTreeMap<String, Value> = BTreeMap::new();
    for start in 0..4 {
        let database = open(&folder.path().join("database"));
        let store = database.store("a").unwrap();
        for (name, value) in written.iter().step_by(97) {
            assert_eq!(store.get(&key(name)).await.unwrap().unwrap().value, *value, "{name}");
        }
        let mut refusals = 0;
        // New keys and others written over, until it is refused again and again.
        for number in 0.. {
            let name = format!("k{:05}", if number % 3 == 0 { number } else { number + 10_000 * start });
            let value = value();
            match store.set(&key(&name), value.clone()).await {
                Ok(Outcome::Applied(_)) => drop(written.insert(name, value)),
                refused => {
                    assert_eq!(cause(refused), "DiskFull");
                    refusals += 1;
                    // What goes on in the background needs its time.
                    tokio::time::sleep(std::time::Duration::from_millis(10)).await;
                }
            }
            if refusals == 50 {
                break;
            }
        }
        assert_eq!(database.failure(), None);
        for name in written.keys().step_by(50).cloned().collect::<Vec<_>>() {
            assert_eq!(store.delete(&key(&name)).await.unwrap(), Outcome::Applied(true));
            written.remove(&name);
        }
        assert_eq!(database.audit().await.unwrap().keys, written.len() as u64);
    }
    assert!(written.len() > 400, "{} values", written.len());
}
