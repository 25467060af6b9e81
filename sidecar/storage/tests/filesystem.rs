//! What only a file system can get wrong: crashes, hand-off of whole stores, damaged files.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "embedded/small_disk.rs"]
mod small_disk;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use brainy_storage::backends::filesystem::{FilesystemAdapter, Import, StoredFile};
use brainy_storage::{Entry, Error, Key, Namespace, Outcome, StorageAdapter, Value};
use bytes::Bytes;
use serde_json::json;

use small_disk::SmallDisk;

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

fn cause<T: std::fmt::Debug>(result: Result<T, Error>) -> String {
    match result {
        Err(Error::Unavailable { cause, .. }) => cause,
        other => panic!("not unavailable: {other:?}"),
    }
}

fn folder_names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn reading_an_unwritten_store_creates_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = FilesystemAdapter::open(&folder.path().join("shard-001")).unwrap();
    assert_eq!(store.get(&key("a")).await.unwrap(), None);
    assert!(store.list("", None, 10).await.unwrap().keys.is_empty());
    assert!(folder_names(folder.path()).is_empty());
}

#[tokio::test]
async fn a_damaged_value_is_reported_and_can_be_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let store = FilesystemAdapter::open(folder.path()).unwrap();
    let _ = store.set(&key("a"), Value::Json(json!("some text"))).await.unwrap();
    let path = folder.path().join("kv/a");
    let damaged = std::fs::read_to_string(&path).unwrap().replace("some", "same");
    std::fs::write(&path, damaged).unwrap();
    assert!(matches!(store.get(&key("a")).await, Err(Error::Corrupt { .. })));
    assert!(matches!(store.set(&key("a"), Value::Json(json!(1))).await, Err(Error::Corrupt { .. })));
    assert_eq!(store.delete(&key("a")).await.unwrap(), Outcome::Applied(true));
    assert_eq!(store.get(&key("a")).await.unwrap(), None);
}

#[tokio::test]
async fn a_failed_write_is_clean_and_leaves_no_temporary_file() {
    let folder = tempfile::tempdir().unwrap();
    let store = FilesystemAdapter::open(folder.path()).unwrap();
    let _ = store.set(&key("a"), Value::Json(json!(1))).await.unwrap();
    // A folder where the key's file should be: the rename is refused.
    std::fs::create_dir(folder.path().join("kv/b")).unwrap();
    assert_eq!(cause(store.set(&key("b"), Value::Json(json!(1))).await), "Filesystem");
    assert!(folder_names(&folder.path().join("tmp")).is_empty());
}

#[tokio::test]
async fn a_full_disk_is_a_clean_failure_that_names_itself() {
    let folder = tempfile::tempdir().unwrap();
    let Some(_disk) = SmallDisk::mount(folder.path(), "256k") else { return };
    let store = FilesystemAdapter::open(&folder.path().join("root")).unwrap();
    let small = Value::Bytes(Bytes::from_static(b"small"));
    let large = Value::Bytes(Bytes::from(vec![1; 1 << 20]));
    let before = store.set(&key("a"), small.clone()).await.unwrap().applied().unwrap();
    assert_eq!(cause(store.set(&key("a"), large.clone()).await), "DiskFull");
    let mut outcomes = store.set_batch(vec![(key("b"), small.clone()), (key("c"), large)]).await;
    assert_eq!(cause(outcomes.pop().unwrap()), "DiskFull");
    assert!(matches!(outcomes.pop(), Some(Ok(Outcome::Applied(_)))));
    assert_eq!(store.get(&key("a")).await.unwrap(), Some(Entry { value: small, version: before }));
    assert!(folder_names(&folder.path().join("root/tmp")).is_empty());
}

async fn filled(root: &Path) -> FilesystemAdapter {
    let store = FilesystemAdapter::open(root).unwrap();
    let inner = store.with_namespace(&Namespace::new("n/1").unwrap());
    for n in 0..40 {
        let _ = store.set(&key(&format!("k/{n}")), Value::Json(json!(n))).await.unwrap();
        let _ = inner.set(&key(&"x".repeat(190 + n)), Value::Bytes(Bytes::from(vec![n as u8; n]))).await.unwrap();
    }
    let _ = store.set(&key("k/0"), Value::Json(json!("again"))).await.unwrap();
    store
}

async fn content(store: &FilesystemAdapter) -> BTreeMap<String, Entry> {
    let mut all = BTreeMap::new();
    let inner = store.with_namespace(&Namespace::new("n/1").unwrap());
    let spaces: [(&str, &dyn StorageAdapter); 2] = [("", store), ("n/1 ", inner.as_ref())];
    for (name, space) in spaces {
        for key in space.list("", None, 1000).await.unwrap().keys {
            all.insert(format!("{name}{key}"), space.get(&key).await.unwrap().unwrap());
        }
    }
    all
}

async fn receive(import: &Import, from: &FilesystemAdapter) {
    let mut files = from.export();
    while let Some(file) = files.recv().await {
        import.write(vec![file.unwrap()]).await.unwrap();
    }
}

#[tokio::test]
async fn a_handed_off_store_keeps_values_versions_and_namespaces() {
    let folder = tempfile::tempdir().unwrap();
    let (from, to) = (folder.path().join("from"), folder.path().join("to"));
    let source = filled(&from).await;
    let import = Import::begin(&to).await.unwrap();
    receive(&import, &source).await;
    assert!(!to.exists(), "nothing may be served before it has all arrived");
    import.finish().await.unwrap();
    let target = FilesystemAdapter::open(&to).unwrap();
    let expected = content(&source).await;
    assert_eq!(expected.len(), 80);
    assert_eq!(content(&target).await, expected);
    // The next write goes on from the version that was handed off.
    let version = target.set(&key("k/0"), Value::Json(json!(1))).await.unwrap().applied().unwrap();
    assert_eq!(version.revision, 3);
    assert_eq!(folder_names(folder.path()), ["from", "to"]);
}

#[tokio::test]
async fn an_arriving_store_replaces_what_stood_there_even_while_it_is_open() {
    let folder = tempfile::tempdir().unwrap();
    let (from, to) = (folder.path().join("from"), folder.path().join("to"));
    let source = filled(&from).await;
    let stale = FilesystemAdapter::open(&to).unwrap();
    let _ = stale.set(&key("old"), Value::Json(json!(1))).await.unwrap();
    let import = Import::begin(&to).await.unwrap();
    receive(&import, &source).await;
    import.finish().await.unwrap();
    assert_eq!(stale.get(&key("old")).await.unwrap(), None);
    assert_eq!(content(&stale).await, content(&source).await);
    let _ = stale.set(&key("new"), Value::Json(json!(1))).await.unwrap();
    assert!(to.join("kv/new").exists());
    assert_eq!(folder_names(folder.path()), ["from", "to"]);
}

#[tokio::test]
async fn an_unfinished_import_leaves_the_store_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let (from, to) = (folder.path().join("from"), folder.path().join("to"));
    let source = filled(&from).await;
    let import = Import::begin(&to).await.unwrap();
    receive(&import, &source).await;
    drop(import);
    assert!(!to.exists());
    // The next one starts from nothing.
    let import = Import::begin(&to).await.unwrap();
    import.finish().await.unwrap();
    assert!(content(&FilesystemAdapter::open(&to).unwrap()).await.is_empty());
    let import = Import::begin(&to).await.unwrap();
    import.discard().await.unwrap();
    assert_eq!(folder_names(folder.path()), ["from", "to"]);
}

#[tokio::test]
async fn an_import_refuses_foreign_and_damaged_files() {
    let folder = tempfile::tempdir().unwrap();
    let import = Import::begin(&folder.path().join("to")).await.unwrap();
    let file = |path: &str, content: &'static [u8]| StoredFile { path: path.into(), content: content.into() };
    for path in ["../escape", "/etc/passwd", "kv/../../escape", "tmp/a", ".lock", "kv/a+/b"] {
        let refused = import.write(vec![file(path, b"x")]).await;
        assert!(matches!(refused, Err(Error::Invalid { .. })), "{path}: {refused:?}");
    }
    assert!(matches!(import.write(vec![file("kv/a", b"x")]).await, Err(Error::Corrupt { .. })));
    assert_eq!(folder_names(folder.path()), ["to.incoming"]);
}

#[tokio::test]
async fn an_export_of_a_damaged_store_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let source = filled(folder.path()).await;
    std::fs::write(folder.path().join("kv/k-2F7"), "damaged").unwrap();
    let mut files = source.export();
    let mut last = None;
    while let Some(file) = files.recv().await {
        last = Some(file);
    }
    assert!(matches!(last, Some(Err(Error::Corrupt { .. }))), "{last:?}");
}

#[tokio::test]
async fn a_destroyed_store_serves_nobody_and_can_be_made_anew() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("root");
    let old = filled(&root).await;
    FilesystemAdapter::destroy(&root).await.unwrap();
    assert_eq!(cause(old.get(&key("k/1")).await), "Removed", "a missing store must not pass for a missing value");
    assert_eq!(cause(old.list("", None, 1).await), "Removed");
    assert_eq!(cause(old.set(&key("k/1"), Value::Json(json!(1))).await), "Removed");
    assert!(folder_names(folder.path()).is_empty());
    let new = FilesystemAdapter::open(&root).unwrap();
    assert_eq!(new.get(&key("k/1")).await.unwrap(), None);
    let _ = new.set(&key("k/1"), Value::Json(json!(1))).await.unwrap();
    FilesystemAdapter::destroy(&folder.path().join("never")).await.unwrap();
}

// kill -9

const CHILD_ROOT: &str = "BRAINY_TEST_CHILD_ROOT";
const CHILD_ROUND: &str = "BRAINY_TEST_CHILD_ROUND";

/// Not a test of its own: the process that the next test kills. Writes without end, and prints what is acknowledged.
#[test]
#[ignore = "is started by every_acknowledged_write_survives_kill_9"]
fn child_that_writes_until_it_is_killed() {
    let (Ok(root), Ok(round)) = (std::env::var(CHILD_ROOT), std::env::var(CHILD_ROUND)) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    runtime.block_on(async {
        let store = FilesystemAdapter::open(Path::new(&root)).unwrap();
        let writers = (0..4).map(|writer| tokio::spawn(write_for_ever(store.clone(), round.clone(), writer)));
        futures::future::join_all(writers).await;
    });
}

async fn write_for_ever(store: FilesystemAdapter, round: String, writer: u32) {
    for n in 0_u64.. {
        // Single writes that overwrite, batches, long keys in folders of their own: all that a crash can meet.
        let text = format!("{round}-{writer}-{n} ").repeat(200);
        let batch: Vec<(Key, Value)> = (0..5)
            .map(|i| (key(&format!("{writer}/{}/{i}", "long".repeat(60 * (n as usize % 2)))), Value::Json(json!(text))))
            .collect();
        let keys: Vec<Key> = batch.iter().map(|(key, _)| key.clone()).collect();
        let outcomes = store.set_batch(batch).await;
        for (key, outcome) in keys.iter().zip(outcomes) {
            let version = outcome.unwrap().applied().unwrap();
            println!("ACK {} {key}", version.revision);
        }
        let single = key(&format!("single/{writer}"));
        let version = store.set(&single, Value::Json(json!(text))).await.unwrap().applied().unwrap();
        println!("ACK {} {single}", version.revision);
    }
}

/// Starts the child, kills it after a while, and returns the last acknowledged revision of each key.
fn write_until_killed(root: &Path, round: u32, pause: Duration) -> BTreeMap<String, u64> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_that_writes_until_it_is_killed", "--ignored", "--nocapture", "--test-threads=1"])
        .env(CHILD_ROOT, root)
        .env(CHILD_ROUND, round.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let mut acknowledged = BTreeMap::new();
    let mut killed = false;
    let mut line = String::new();
    // The last line may be cut short by the kill; it then lacks its end, and acknowledged nothing.
    while lines.read_line(&mut line).unwrap() > 0 && line.ends_with('\n') {
        if let Some((revision, key)) = line.trim_end().strip_prefix("ACK ").and_then(|ack| ack.split_once(' ')) {
            acknowledged.insert(key.to_owned(), revision.parse().unwrap());
        }
        if !killed && !acknowledged.is_empty() {
            std::thread::sleep(pause);
            child.kill().unwrap();
            killed = true;
        }
        line.clear();
    }
    child.wait().unwrap();
    assert!(killed, "the child ended by itself");
    acknowledged
}

/// 20 times, or as often as `BRAINY_TEST_KILLS` says.
#[tokio::test]
async fn every_acknowledged_write_survives_kill_9() {
    let kills = std::env::var("BRAINY_TEST_KILLS").map_or(20, |kills| kills.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("root");
    let mut acknowledged: BTreeMap<String, u64> = BTreeMap::new();
    for round in 0..kills {
        let pause = Duration::from_millis(u64::from(uuid::Uuid::new_v4().as_fields().0) % 250);
        acknowledged.extend(write_until_killed(&root, round, pause));

        // The lock of a killed process is free at once, and its temporary files are gone.
        let store = FilesystemAdapter::open(&root).unwrap();
        let left = root.join("tmp");
        assert!(!left.exists() || folder_names(&left).is_empty(), "round {round} leaves {:?}", folder_names(&left));
        for (name, revision) in &acknowledged {
            let entry = store.get(&key(name)).await.unwrap().unwrap_or_else(|| panic!("{name} is lost"));
            let found = entry.version.revision;
            assert!(found >= *revision, "round {round}: revision {revision} of {name} is lost, {found} stands there");
        }
        // Nothing is half written: every key that is listed can be read, and is whole.
        let keys = store.list("", None, usize::MAX - 1).await.unwrap().keys;
        assert!(keys.len() >= acknowledged.len());
        for key in keys {
            let entry = store.get(&key).await.unwrap().unwrap();
            let Value::Json(serde_json::Value::String(text)) = entry.value else { panic!("{key}: {entry:?}") };
            let first = text.split_inclusive(' ').next().unwrap();
            assert_eq!(text, first.repeat(200), "{key} mixes two writes");
        }
    }
    assert!(!acknowledged.is_empty());
}
