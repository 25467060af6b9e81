//! What needs a look inside: what shares a flush, what a failure leaves, damage, and leftovers of an earlier life.

use std::path::Path;
use std::sync::mpsc as std_mpsc;

use bytes::Bytes;
use serde_json::json;

use super::engine::{Durable, Engine};
use super::layout::{self, Meta};
use super::*;
use crate::{Condition, Entry, Key, Namespace, Outcome, StorageAdapter, Value};

mod large;
mod names;

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

fn number(n: i64) -> Value {
    Value::Json(json!(n))
}

fn open(folder: &Path) -> (EmbeddedDatabase, EmbeddedAdapter) {
    let database = EmbeddedDatabase::open(folder).unwrap();
    let store = database.store("shard-007").unwrap();
    (database, store)
}

fn cause<T: fmt::Debug>(result: Result<T, Error>) -> String {
    match result {
        Err(Error::Unavailable { cause, .. }) => cause,
        other => panic!("not unavailable: {other:?}"),
    }
}

/// Keeps the committer busy until what it returns is dropped, so that what comes meanwhile waits together.
async fn hold(database: &EmbeddedDatabase) -> std_mpsc::Sender<()> {
    let (release, held) = std_mpsc::channel::<()>();
    let (busy, is_busy) = oneshot::channel();
    let job = Job::Alone(Box::new(move |round| {
        // The round before this one has ended; what comes next is gathered behind it.
        round.at_end(move |_| {
            let _ = busy.send(());
            let _ = held.recv();
        });
    }));
    database.submit(job).await.unwrap();
    is_busy.await.unwrap();
    release
}

/// Waits until so many jobs wait for the committer.
async fn queued(database: &EmbeddedDatabase, jobs: usize) {
    let queue = database.inner.queue.as_ref().unwrap();
    while queue.max_capacity() - queue.capacity() < jobs {
        tokio::task::yield_now().await;
    }
}

#[test]
fn what_was_written_leaves_memory_once_nothing_more_is() {
    let folder = tempfile::tempdir().unwrap();
    let engine = Engine::open(folder.path()).unwrap();
    // Worth a table, and less than is sent to the disk while there is more to write.
    let large = 3 << 19;
    let write = |name: &str, bytes: usize| {
        let change = (layout::data_key(1, &[], &key(name)), Some(Bytes::from(vec![7; bytes])));
        engine.commit(vec![change], Durable::Now).unwrap();
    };
    write("large", large);
    engine.look_for_rest();
    assert!(engine.unflushed() > large as u64, "it has only just been written");
    write("small", 10);
    engine.look_for_rest();
    assert!(engine.unflushed() > large as u64, "something was written since the last look");
    engine.look_for_rest();
    assert_eq!(engine.unflushed(), 0);
    write("small", 10);
    engine.look_for_rest();
    engine.look_for_rest();
    assert!(engine.unflushed() > 0, "so little is not worth a table");
    for (name, bytes) in [("large", large), ("small", 10)] {
        assert_eq!(engine.get(&layout::data_key(1, &[], &key(name))).unwrap().unwrap().len(), bytes);
    }
}

#[tokio::test]
async fn writers_that_come_at_the_same_time_share_one_flush() {
    let folder = tempfile::tempdir().unwrap();
    let (database, store) = open(folder.path());
    let _ = store.set(&key("first"), number(0)).await.unwrap();
    let before = database.flushes();
    let held = hold(&database).await;
    let writers: Vec<_> = (0..64)
        .map(|n| {
            let store = store.clone();
            tokio::spawn(async move { store.set(&key(&format!("k{n}")), number(n)).await })
        })
        .collect();
    queued(&database, 64).await;
    drop(held);
    for writer in writers {
        assert!(matches!(writer.await.unwrap(), Ok(Outcome::Applied(_))));
    }
    assert_eq!(database.flushes() - before, 1);
}

#[tokio::test]
async fn a_batch_is_flushed_once_and_a_write_that_changes_nothing_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let (database, store) = open(folder.path());
    let _ = store.set(&key("first"), number(0)).await.unwrap();
    let before = database.flushes();
    let items = (0..500).map(|n| (key(&format!("k{}", n % 400)), number(n))).collect();
    for outcome in store.set_batch(items).await {
        assert!(matches!(outcome, Ok(Outcome::Applied(_))), "{outcome:?}");
    }
    assert_eq!(database.flushes() - before, 1);
    assert_eq!(store.delete(&key("none")).await.unwrap(), Outcome::Applied(false));
    assert!(matches!(store.put(&key("k1"), number(1), &Condition::Absent).await, Ok(Outcome::Rejected(Some(_)))));
    assert_eq!(database.flushes() - before, 1);
}

#[tokio::test]
async fn of_one_key_the_later_item_of_a_batch_is_written_after_the_earlier_one() {
    let folder = tempfile::tempdir().unwrap();
    let (_database, store) = open(folder.path());
    let items = vec![
        (key("a"), number(1), Condition::Absent),
        (key("b"), number(2), Condition::Any),
        (key("a"), number(3), Condition::Any),
        (key("a"), number(4), Condition::Absent),
    ];
    let outcomes = store.put_batch(items).await;
    let Ok(Outcome::Rejected(Some(Entry { value, version }))) = &outcomes[3] else { panic!("{outcomes:?}") };
    assert_eq!((value, version.revision), (&number(3), 2));
    let revisions: Vec<u64> =
        outcomes.into_iter().take(3).map(|outcome| outcome.unwrap().applied().unwrap().revision).collect();
    assert_eq!(revisions, [1, 1, 2]);
    assert_eq!(store.get(&key("a")).await.unwrap().unwrap().value, number(3));
}

#[tokio::test]
async fn a_write_is_made_even_if_its_caller_gives_up() {
    let folder = tempfile::tempdir().unwrap();
    let (database, store) = open(folder.path());
    let held = hold(&database).await;
    let given_up = tokio::spawn({
        let store = store.clone();
        async move { store.set(&key("a"), number(1)).await }
    });
    queued(&database, 1).await;
    given_up.abort();
    assert!(given_up.await.unwrap_err().is_cancelled());
    drop(held);
    let _ = store.set(&key("b"), number(1)).await.unwrap();
    assert_eq!(store.get(&key("a")).await.unwrap().unwrap().value, number(1));
}

#[tokio::test]
async fn after_a_flush_that_failed_nothing_is_acknowledged_and_all_that_was_is_still_read() {
    let folder = tempfile::tempdir().unwrap();
    let (database, store) = open(folder.path());
    let before = store.set(&key("a"), number(1)).await.unwrap().applied().unwrap();

    let held = hold(&database).await;
    let spawn = |act: &'static str| {
        let store = store.clone();
        tokio::spawn(async move {
            match act {
                "overwrites" => store.set(&key("a"), number(2)).await,
                // Sees what the first is about to write; that must not get out.
                "meets it" => store.put(&key("a"), number(3), &Condition::Absent).await,
                _ => store.put(&key("b"), number(4), &Condition::Absent).await,
            }
        })
    };
    let first = spawn("overwrites");
    queued(&database, 1).await;
    let second = spawn("meets it");
    queued(&database, 2).await;
    database.inner.engine.break_next_commit();
    drop(held);
    assert!(matches!(first.await.unwrap(), Ok(Outcome::Unknown(_))));
    assert_eq!(cause(second.await.unwrap()), "EngineFailed");

    // For good, and cleanly: nothing of it is written.
    assert_eq!(cause(spawn("comes later").await.unwrap()), "EngineFailed");
    assert_eq!(cause(store.delete(&key("a")).await), "EngineFailed");
    assert_eq!(cause(database.destroy("shard-007").await), "EngineFailed");
    let Some(Error::Unavailable { detail, .. }) = database.failure() else { panic!("no failure") };
    assert!(detail.contains("Start the process again"), "{detail}");

    let stands = Some(Entry { value: number(1), version: before });
    assert_eq!(store.get(&key("a")).await.unwrap(), stands);
    assert_eq!(store.list("", None, 10).await.unwrap().keys, [key("a")]);

    drop((store, database));
    let (database, store) = open(folder.path());
    assert_eq!(store.get(&key("a")).await.unwrap(), stands);
    assert!(matches!(store.set(&key("a"), number(5)).await, Ok(Outcome::Applied(_))));
    assert_eq!(database.failure(), None);
}

#[tokio::test]
async fn a_damaged_value_is_reported_and_can_be_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let (database, store) = open(folder.path());
    let _ = store.set(&key("a"), Value::Json(json!("some text"))).await.unwrap();
    let engine = &database.inner.engine;
    let place = layout::data_key(1, &[], &key("a"));
    let damaged = String::from_utf8(engine.get(&place).unwrap().unwrap().to_vec()).unwrap().replace("some", "same");
    engine.commit(vec![(place, Some(damaged.into()))], Durable::Now).unwrap();
    assert!(matches!(store.get(&key("a")).await, Err(Error::Corrupt { .. })));
    assert!(matches!(store.set(&key("a"), number(1)).await, Err(Error::Corrupt { .. })));
    assert!(matches!(database.audit().await, Err(Error::Corrupt { .. })));
    let mut exported = store.export();
    assert!(matches!(exported.recv().await, Some(Err(Error::Corrupt { .. }))));
    assert!(exported.recv().await.is_none());
    assert_eq!(store.delete(&key("a")).await.unwrap(), Outcome::Applied(true));
    assert_eq!(store.get(&key("a")).await.unwrap(), None);
}

/// Waits until nothing is left to delete.
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

/// What is left in the engine, but for the data of this generation.
fn leftovers(database: &EmbeddedDatabase, own: u64) -> usize {
    let engine = &database.inner.engine;
    let snapshot = engine.snapshot();
    let all = engine.keys(&snapshot, &layout::all_data(), std::ops::Bound::Included(layout::all_data()));
    all.filter(|key| !key.as_ref().unwrap().starts_with(&layout::generation_prefix(own))).count()
}

#[tokio::test]
async fn what_a_crash_left_of_an_import_or_a_removal_is_deleted_at_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    let sealed = |text: &str| {
        crate::envelope::seal(
            &key(text),
            1,
            &crate::envelope::new_nonce(),
            &number(1),
            &crate::envelope::Trail::default(),
            None,
        )
        .unwrap()
    };
    {
        let engine = Engine::open(folder.path()).unwrap();
        let data = |generation, text: String| (layout::data_key(generation, &[], &key(&text)), Some(sealed(&text)));
        let meta = serde_json::to_vec(&Meta { generation: 2, stamp: None }).unwrap();
        let mut changes = vec![
            (layout::HIGHEST.to_vec(), Some(Bytes::copy_from_slice(&4_u64.to_be_bytes()))),
            (layout::meta_key("shard-007"), Some(meta.into())),
            // A removed one that was being deleted, one that was being received, and one deleted but for its mark.
            (layout::garbage_key(1), Some(Bytes::new())),
            (layout::garbage_key(3), Some(Bytes::new())),
            (layout::garbage_key(4), Some(Bytes::new())),
        ];
        for generation in [1, 2, 3] {
            changes.extend((0..600).map(|n| data(generation, format!("{generation}/{n}"))));
        }
        engine.commit(changes, Durable::Now).unwrap();
    }
    let (database, store) = open(folder.path());
    assert_eq!(cleaned(&database).await, Audit { stores: 1, keys: 600, garbage: 0 });
    assert_eq!(leftovers(&database, 2), 0);
    assert_eq!(store.list("", None, 1000).await.unwrap().keys.len(), 600);
    // No number is given out twice, not even that of a generation of which nothing is left.
    database.stamp("new", "x".to_owned()).await.unwrap();
    let record = database.inner.engine.get(&layout::meta_key("new")).unwrap().unwrap();
    assert_eq!(serde_json::from_slice::<Meta>(&record).unwrap().generation, 5);
}

#[tokio::test]
async fn data_that_nobody_owns_is_noticed_by_an_audit() {
    let folder = tempfile::tempdir().unwrap();
    let (database, store) = open(folder.path());
    let _ = store.set(&key("a"), number(1)).await.unwrap();
    let sealed =
        crate::envelope::seal(&key("b"), 1, "0", &number(1), &crate::envelope::Trail::default(), None).unwrap();
    let stray = (layout::data_key(77, &[], &key("b")), Some(sealed));
    database.inner.engine.commit(vec![stray], Durable::Now).unwrap();
    assert!(matches!(database.audit().await, Err(Error::Corrupt { .. })));
}

#[tokio::test]
async fn an_import_that_is_given_up_while_it_writes_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (database, store) = open(folder.path());
    let _ = store.set(&key("a"), number(1)).await.unwrap();
    for _ in 0..20 {
        let import = database.import("shard-007").await.unwrap();
        let files = (0..50).map(|n| {
            let text = format!("k{n}");
            let content = crate::envelope::seal(
                &key(&text),
                1,
                &crate::envelope::new_nonce(),
                &number(n),
                &crate::envelope::Trail::default(),
                None,
            )
            .unwrap();
            crate::backends::stored::StoredFile { path: format!("kv/{text}"), content }
        });
        let files: Vec<_> = files.collect();
        // The future is dropped while a thread may be writing for it.
        let write = tokio::time::timeout(std::time::Duration::ZERO, import.write(files)).await;
        drop((write, import));
    }
    assert_eq!(cleaned(&database).await, Audit { stores: 1, keys: 1, garbage: 0 });
    assert_eq!(leftovers(&database, 1), 0);
}

#[test]
fn a_first_opening_that_was_cut_short_does_not_spoil_the_folder() {
    let folder = tempfile::tempdir().unwrap();
    // As the engine leaves it when it ends before its last step: alone, it would refuse this for ever.
    std::fs::create_dir(folder.path().join("engine")).unwrap();
    std::fs::write(folder.path().join("engine/0.jnl"), "").unwrap();
    std::fs::write(folder.path().join("format.json.new"), "{").unwrap();
    drop(EmbeddedDatabase::open(folder.path()).unwrap());
    drop(EmbeddedDatabase::open(folder.path()).unwrap());
}

#[test]
fn a_folder_that_is_no_database_of_ours_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    drop(EmbeddedDatabase::open(folder.path()).unwrap());
    let format = folder.path().join("format.json");
    let ours = std::fs::read(&format).unwrap();
    std::fs::write(&format, br#"{"engine":"fjall","format":3}"#).unwrap();
    assert!(matches!(EmbeddedDatabase::open(folder.path()), Err(Error::Corrupt { .. })));
    std::fs::write(&format, ours).unwrap();
    // Not an empty database, but one whose data is gone.
    std::fs::remove_dir_all(folder.path().join("engine")).unwrap();
    assert!(matches!(EmbeddedDatabase::open(folder.path()), Err(Error::Corrupt { .. })));
}

#[tokio::test]
async fn namespaces_too_deep_for_the_engine_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (_database, store) = open(folder.path());
    let name = Namespace::new("n".repeat(256)).unwrap();
    let deep = (0..255).fold(Arc::new(store) as Arc<dyn StorageAdapter>, |store, _| store.with_namespace(&name));
    assert!(matches!(deep.set(&key("a"), number(1)).await, Err(Error::Invalid { field: "key", .. })));
    assert!(matches!(deep.get(&key("a")).await, Err(Error::Invalid { field: "key", .. })));
}
