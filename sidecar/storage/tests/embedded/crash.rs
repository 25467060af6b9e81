//! Processes that are killed, or whose disk fails: the test binary itself, started again for one of the "tests" below.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use brainy_storage::backends::embedded::{EmbeddedAdapter, EmbeddedDatabase};
use brainy_storage::backends::stored::StoredFile;
use brainy_storage::{Key, Outcome, StorageAdapter, Value, envelope};
use bytes::Bytes;
use serde_json::json;

use super::{cause, cleaned, key, left_over, open};

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
        // Some have files of their own: new ones, and others that replace them.
        let large = key(&format!("large/{writer}/{}", n % 3));
        let version = store.set(&large, large_value(&format!("{round}-{writer}-{n} "))).await.unwrap();
        say(&format!("ACK {} {large}", version.applied().unwrap().revision));
        let single = key(&format!("single/{writer}"));
        let version = store.set(&single, Value::Json(json!(text))).await.unwrap().applied().unwrap();
        say(&format!("ACK {} {single}", version.revision));
    }
}

/// One that has a file of its own.
fn large_value(text: &str) -> Value {
    Value::Bytes(Bytes::from(text.repeat((200 << 10) / text.len())))
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
            let content =
                envelope::seal(&key(&name), 1, &nonce, &Value::Json(json!(n)), &envelope::Trail::default(), None)
                    .unwrap();
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
        .args(child("crash::child_that_writes_until_it_is_killed"))
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

/// 20 times, or as often as `BRAINY_TEST_KILLS` says.
#[tokio::test]
async fn every_acknowledged_write_survives_kill_9() {
    let kills = std::env::var("BRAINY_TEST_KILLS").map_or(20, |kills| kills.parse().unwrap());
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
            let text = match entry.value {
                Value::Json(serde_json::Value::String(text)) => text,
                Value::Bytes(bytes) => String::from_utf8(bytes.to_vec()).unwrap(),
                other => panic!("{key}: {other:?}"),
            };
            let first = text.split_inclusive(' ').next().unwrap();
            assert_eq!(text.replace(first, ""), "", "{key} mixes two writes");
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
        let files = database.store("kept").unwrap().list("large/", None, 1000).await.unwrap().keys.len();
        left_over(&database, files).await;
    }
    assert!(!acknowledged.revisions.is_empty() && acknowledged.moved.is_some());
}

/// As much as goes through the journal at a time, and into no file of its own.
fn journaled(n: u64) -> Value {
    Value::Bytes(Bytes::from(vec![n as u8; 100 << 10]))
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
        for n in 0..2000_u64 {
            let outcome = store.set(&key(&format!("k{n}")), journaled(n)).await;
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
        say(&format!("READ {}", store.list("k", None, 2000).await.unwrap().keys.len()));
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
        .args(child("crash::child_whose_journal_cant_grow"))
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
        assert_eq!(entry.value, journaled(n.parse().unwrap()));
    }
    let keys = database.audit().await.unwrap().keys as usize;
    assert!((of("ACK ").len()..=of("ACK ").len() + 1).contains(&keys), "{keys} keys after {said}");
    assert!(matches!(store.set(&key("later"), Value::Json(json!(1))).await, Ok(Outcome::Applied(_))));
}
