//! What only an embedded database can get wrong: crashes, hand-off of whole stores, a full disk, its lock.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use brainy_storage::backends::embedded::{Audit, EmbeddedAdapter, EmbeddedDatabase, Import};
use brainy_storage::backends::filesystem::{self, FilesystemAdapter};
use brainy_storage::backends::stored::StoredFile;
use brainy_storage::{Entry, Error, Key, Namespace, Outcome, StorageAdapter, Value, envelope};
use bytes::Bytes;
use serde_json::json;
use tokio::sync::mpsc::Receiver;

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

/// Needs a file system of its own, which only root can mount; CI runs as root.
#[tokio::test]
async fn a_full_disk_refuses_values_cleanly_and_takes_them_again_when_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=40m", "tmpfs"])
        .arg(folder.path())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !mounted {
        eprintln!("skipped: mounting a small file system is not allowed here");
        return;
    }
    let _unmount = Unmount(folder.path());
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
    let content = envelope::seal(&key("k"), 1, &envelope::new_nonce(), &value(1)).unwrap();
    assert_eq!(cause(import.write(vec![StoredFile { path: "kv/k".into(), content }]).await), "DiskFull");
    // What was acknowledged is there, removals still have room, and nothing has to be started again.
    assert_eq!(database.failure(), None);
    assert_eq!(database.audit().await.unwrap().keys, written);
    assert_eq!(store.delete(&key("k00")).await.unwrap(), Outcome::Applied(true));
    let enlarged = Command::new("mount").args(["-o", "remount,size=80m"]).arg(folder.path()).status();
    assert!(enlarged.is_ok_and(|status| status.success()));
    assert!(matches!(store.set(&key("k00"), value(0)).await, Ok(Outcome::Applied(_))));
}

struct Unmount<'a>(&'a Path);

impl Drop for Unmount<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["-l"]).arg(self.0).status();
    }
}

// Other processes: the test binary itself, started again for one of the "tests" below.

const CHILD_FOLDER: &str = "BRAINY_TEST_CHILD_FOLDER";
const CHILD_ROUND: &str = "BRAINY_TEST_CHILD_ROUND";

/// Written at once, so that a line is whole or absent.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("{line}\n").as_bytes()).unwrap();
    out.flush().unwrap();
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// Not a test of its own: the process that the next test kills. Writes without end, and prints what is acknowledged.
#[test]
#[ignore = "is started by every_acknowledged_write_survives_kill_9"]
fn child_that_writes_until_it_is_killed() {
    let (Ok(folder), Ok(round)) = (std::env::var(CHILD_FOLDER), std::env::var(CHILD_ROUND)) else { return };
    runtime().block_on(async {
        let database = open(Path::new(&folder));
        let mut tasks: Vec<_> = (0..8)
            .map(|writer| tokio::spawn(write_for_ever(database.store("kept").unwrap(), round.clone(), writer)))
            .collect();
        tasks.push(tokio::spawn(move_for_ever(database, round)));
        futures::future::join_all(tasks).await;
    });
}

async fn write_for_ever(store: EmbeddedAdapter, round: String, writer: u32) {
    for n in 0_u64.. {
        // Single writes that overwrite, batches, and values of all sizes: all that a crash can meet.
        let text = format!("{round}-{writer}-{n} ").repeat(200);
        let batch: Vec<(Key, Value)> =
            (0..5).map(|i| (key(&format!("{writer}/{}/{i}", n % 50)), Value::Json(json!(text)))).collect();
        let keys: Vec<Key> = batch.iter().map(|(key, _)| key.clone()).collect();
        let outcomes = store.set_batch(batch).await;
        for (key, outcome) in keys.iter().zip(outcomes) {
            say(&format!("ACK {} {key}", outcome.unwrap().applied().unwrap().revision));
        }
        let single = key(&format!("single/{writer}"));
        let version = store.set(&single, Value::Json(json!(text))).await.unwrap().applied().unwrap();
        say(&format!("ACK {} {single}", version.revision));
    }
}

const MOVED: u64 = 40;

/// Replaces, renames and removes whole stores. The values of a copy are its number, and so is its stamp.
async fn move_for_ever(database: EmbeddedDatabase, round: String) {
    let round: u64 = round.parse().unwrap();
    for n in round * 1_000_000.. {
        let import = database.import("received").await.unwrap();
        let file = |i| {
            let name = format!("k{i}");
            let nonce = envelope::new_nonce();
            let content = envelope::seal(&key(&name), 1, &nonce, &Value::Json(json!(n))).unwrap();
            StoredFile { path: format!("kv/{name}"), content }
        };
        import.write((0..MOVED).map(file).collect()).await.unwrap();
        import.finish(Some(n.to_string())).await.unwrap();
        database.rename("received", "moved", Some(n.to_string())).await.unwrap();
        say(&format!("MOVED {n}"));
        let gone = database.store("gone").unwrap();
        let items = (0..20).map(|i| (key(&format!("g{i}")), Value::Json(json!(n)))).collect();
        assert!(gone.set_batch(items).await.iter().all(Result::is_ok));
        database.destroy("gone").await.unwrap();
    }
}

/// What a child had acknowledged when it was killed.
#[derive(Default)]
struct Acknowledged {
    revisions: BTreeMap<String, u64>,
    moved: Option<u64>,
}

impl Acknowledged {
    fn line(&mut self, line: &str) {
        if let Some((revision, key)) = line.strip_prefix("ACK ").and_then(|ack| ack.split_once(' ')) {
            self.revisions.insert(key.to_owned(), revision.parse().unwrap());
        } else if let Some(n) = line.strip_prefix("MOVED ") {
            self.moved = Some(n.parse().unwrap());
        }
    }
}

/// The arguments with which the test binary is a child.
fn child(name: &str) -> [&str; 5] {
    ["--exact", name, "--ignored", "--nocapture", "--test-threads=1"]
}

/// Starts the child, kills it after a while, and adds what it acknowledged.
fn write_until_killed(folder: &Path, round: u32, pause: Duration, acknowledged: &mut Acknowledged) {
    let mut process = Command::new(std::env::current_exe().unwrap())
        .args(child("child_that_writes_until_it_is_killed"))
        .env(CHILD_FOLDER, folder)
        .env(CHILD_ROUND, round.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap());
    let mut killed = false;
    let mut line = String::new();
    // The last line may be cut short by the kill; it then lacks its end, and acknowledged nothing.
    while lines.read_line(&mut line).unwrap() > 0 && line.ends_with('\n') {
        acknowledged.line(line.trim_end());
        if !killed && line.starts_with("ACK ") {
            std::thread::sleep(pause);
            process.kill().unwrap();
            killed = true;
        }
        line.clear();
    }
    process.wait().unwrap();
    assert!(killed, "the child ended by itself");
}

/// 10 times, or as often as `BRAINY_TEST_KILLS` says.
#[tokio::test]
async fn every_acknowledged_write_survives_kill_9() {
    let kills = std::env::var("BRAINY_TEST_KILLS").map_or(10, |kills| kills.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let mut acknowledged = Acknowledged::default();
    for round in 0..kills {
        let pause = Duration::from_millis(u64::from(uuid::Uuid::new_v4().as_fields().0) % 400);
        write_until_killed(folder.path(), round, pause, &mut acknowledged);

        // The lock of a killed process is free at once.
        let database = open(folder.path());
        let store = database.store("kept").unwrap();
        for (name, revision) in &acknowledged.revisions {
            let entry = store.get(&key(name)).await.unwrap().unwrap_or_else(|| panic!("{name} is lost"));
            let found = entry.version.revision;
            assert!(found >= *revision, "round {round}: revision {revision} of {name} is lost, {found} stands there");
        }
        // Nothing is half written: every key that is listed can be read, and is whole.
        let keys = store.list("", None, usize::MAX - 1).await.unwrap().keys;
        assert!(keys.len() >= acknowledged.revisions.len());
        for key in keys {
            let entry = store.get(&key).await.unwrap().unwrap();
            let Value::Json(serde_json::Value::String(text)) = entry.value else { panic!("{key}: {entry:?}") };
            let first = text.split_inclusive(' ').next().unwrap();
            assert_eq!(text, first.repeat(200), "{key} mixes two writes");
        }
        // Nothing is half moved either.
        let stamps: BTreeMap<String, Option<String>> = database.stamps().await.unwrap().into_iter().collect();
        for name in ["received", "moved"] {
            let Some(stamp) = stamps.get(name) else { continue };
            let n: u64 = stamp.as_ref().unwrap().parse().unwrap();
            let store = database.store(name).unwrap();
            for i in 0..MOVED {
                let value = store.get(&key(&format!("k{i}"))).await.unwrap().map(|entry| entry.value);
                assert_eq!(value, Some(Value::Json(json!(n))), "round {round}: {name} is half a copy");
            }
        }
        if let Some(moved) = acknowledged.moved {
            let stands: u64 = stamps["moved"].as_ref().unwrap().parse().unwrap();
            assert!(stands >= moved, "round {round}: copy {moved} is lost, {stands} stands there");
        }
        // No leftovers: every key belongs to a store, once what belongs to nobody is deleted.
        cleaned(&database).await;
    }
    assert!(!acknowledged.revisions.is_empty() && acknowledged.moved.is_some());
}

/// Not a test of its own: the process whose files may not grow beyond 64 MiB, which its journal needs to.
#[test]
#[ignore = "is started by a_journal_that_cant_be_written_acknowledges_nothing_more"]
fn child_whose_journal_cant_grow() {
    let Ok(folder) = std::env::var(CHILD_FOLDER) else { return };
    // Ends the line that the test runner began.
    say("");
    runtime().block_on(async {
        let database = open(Path::new(&folder));
        let store = database.store("a").unwrap();
        for n in 0..40_u8 {
            let outcome = store.set(&key(&format!("k{n}")), Value::Bytes(Bytes::from(vec![n; 4 << 20]))).await;
            match outcome {
                Ok(Outcome::Applied(_)) => say(&format!("ACK {n}")),
                Ok(Outcome::Unknown(_)) => {
                    say(&format!("UNKNOWN {n}"));
                    break;
                }
                other => panic!("{other:?}"),
            }
        }
        let later = store.set(&key("later"), Value::Json(json!(1))).await;
        say(&format!("LATER {}", cause(later)));
        // Reads go on, and it can still be closed.
        say(&format!("READ {}", store.list("k", None, 1000).await.unwrap().keys.len()));
        drop((store, database));
        say("CLOSED");
    });
}

#[tokio::test]
async fn a_journal_that_cant_be_written_acknowledges_nothing_more() {
    let folder = tempfile::tempdir().unwrap();
    // In blocks of 512 bytes; a write beyond it is refused, as on a full disk, instead of ending the process.
    let script = "trap '' XFSZ; ulimit -f 131072; exec \"$0\" \"$@\"";
    let output = Command::new("sh")
        .args(["-c", script])
        .arg(std::env::current_exe().unwrap())
        .args(child("child_whose_journal_cant_grow"))
        .env(CHILD_FOLDER, folder.path())
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let of =
        |what: &str| said.lines().filter_map(|line| line.strip_prefix(what)).map(str::to_owned).collect::<Vec<_>>();
    assert!(!of("ACK ").is_empty() && of("UNKNOWN ").len() == 1, "{said}");
    assert_eq!(of("LATER "), ["EngineFailed"], "{said}");
    assert_eq!(of("READ "), [of("ACK ").len().to_string()], "{said}");
    assert_eq!(of("CLOSED").len(), 1, "{said}");
    // All that was acknowledged, and at most the one of which nobody knew.
    let database = open(folder.path());
    let store = database.store("a").unwrap();
    for n in of("ACK ") {
        let entry = store.get(&key(&format!("k{n}"))).await.unwrap().unwrap_or_else(|| panic!("k{n} is lost"));
        assert_eq!(entry.value, Value::Bytes(Bytes::from(vec![n.parse().unwrap(); 4 << 20])));
    }
    let keys = database.audit().await.unwrap().keys as usize;
    assert!((of("ACK ").len()..=of("ACK ").len() + 1).contains(&keys), "{keys} keys after {said}");
    assert!(matches!(store.set(&key("later"), Value::Json(json!(1))).await, Ok(Outcome::Applied(_))));
}
