//! Values that have files of their own: what a crash, a failure and damage leave of them, and who may still read one that went.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;

use super::*;
use crate::backends::embedded::files::LEAST_IN_A_FILE;
use crate::backends::stored::{StoredChange, StoredFile};
use crate::envelope::{Trail, new_nonce, seal};
use crate::{Operation, OperationId, Version, WriteResult};

/// One that has a file of its own, told by its first byte.
fn large(n: u8) -> Value {
    Value::Bytes(vec![n; LEAST_IN_A_FILE + usize::from(n)].into())
}

fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    std::fs::read_dir(folder.join("values")).unwrap().map(|entry| entry.unwrap().path()).collect()
}

/// Waits until there are so many files, and no more.
async fn left(folder: &Path, count: usize) {
    for _ in 0..3000 {
        if files(folder).len() == count {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("{} files are there, not {count}", files(folder).len());
}

async fn set(store: &EmbeddedAdapter, name: &str, n: u8) {
    let _ = store.set(&key(name), large(n)).await.unwrap().applied().unwrap();
}

async fn found(store: &EmbeddedAdapter, name: &str) -> Option<Value> {
    store.get(&key(name)).await.unwrap().map(|entry| entry.value)
}

/// All of a folder, as the death of its process would leave it now.
fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy_folder(&entry.path(), &to),
            false => drop(std::fs::copy(entry.path(), to).unwrap()),
        }
    }
}

#[tokio::test]
async fn a_large_value_is_in_a_file_and_a_small_one_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let (database, store) = open(folder.path());
    let small = Value::Bytes(vec![1; LEAST_IN_A_FILE - 1].into());
    let _ = store.set(&key("small"), small.clone()).await.unwrap();
    assert_eq!(files(folder.path()).len(), 0);
    set(&store, "a", 1).await;
    let text = Value::Json(json!({"text": "x".repeat(LEAST_IN_A_FILE)}));
    let _ = store.compare_and_swap(&key("b"), None, Some(text.clone())).await.unwrap().applied().unwrap();
    let operation = Operation::Put { value: large(3), condition: Condition::Absent };
    let id = OperationId::new("id").unwrap();
    for _ in 0..2 {
        assert!(store.perform_once(&key("c"), operation.clone(), &id).await.unwrap().applied().is_some());
    }
    let items = (4..7).map(|n| (key(&format!("d{n}")), large(n))).collect();
    assert!(store.set_batch(items).await.into_iter().all(|outcome| outcome.unwrap().applied().is_some()));
    assert_eq!(files(folder.path()).len(), 6);
    let lengths: u64 = files(folder.path()).iter().map(|file| std::fs::metadata(file).unwrap().len()).sum();
    assert!(database.disk().data().unwrap() >= lengths);
    for _ in 0..2 {
        let (database, store) = (database.clone(), store.clone());
        assert_eq!(found(&store, "small").await, Some(small.clone()));
        assert_eq!(found(&store, "a").await, Some(large(1)));
        assert_eq!(found(&store, "b").await, Some(text.clone()));
        assert_eq!(found(&store, "c").await, Some(large(3)));
        let keys = [key("d4"), key("d5"), key("d6")];
        let all = store.get_batch(&keys).await.into_iter().map(|entry| entry.unwrap().unwrap().value);
        assert_eq!(all.collect::<Vec<_>>(), [large(4), large(5), large(6)]);
        assert_eq!(database.audit().await.unwrap().keys, 7);
    }
    drop((store, database));
    let (database, store) = open(folder.path());
    assert_eq!(found(&store, "b").await, Some(text));
    assert!(database.disk().data().unwrap() >= lengths, "also after a start");
    let version = store.set(&key("a"), number(1)).await.unwrap().applied().unwrap();
    assert_eq!(version.revision, 2, "it goes on from the version before");
    for name in ["b", "c", "d4", "d5", "d6"] {
        assert_eq!(store.delete(&key(name)).await.unwrap(), Outcome::Applied(true));
    }
    left(folder.path(), 0).await;
    assert!(database.disk().data().unwrap() < lengths);
}

#[tokio::test]
async fn a_write_that_is_refused_leaves_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let (_database, store) = open(folder.path());
    set(&store, "a", 1).await;
    let stands = |outcome: WriteResult<Version>| match outcome.unwrap() {
        Outcome::Rejected(Some(entry)) => assert_eq!(entry.value, large(1)),
        other => panic!("{other:?}"),
    };
    stands(store.put(&key("a"), large(2), &Condition::Absent).await);
    let swapped = store.compare_and_swap(&key("a"), Some(large(3)), Some(large(2))).await.unwrap();
    assert!(matches!(swapped, Outcome::Rejected(Some(_))));
    let items = vec![(key("a"), large(2), Condition::Absent), (key("b"), large(2), Condition::Any)];
    let mut outcomes = store.put_batch(items).await.into_iter();
    stands(outcomes.next().unwrap());
    assert!(outcomes.next().unwrap().unwrap().applied().is_some());
    let operation = Operation::Put { value: large(2), condition: Condition::Absent };
    let once = store.perform_once(&key("a"), operation, &OperationId::new("id").unwrap()).await.unwrap();
    assert!(matches!(once, Outcome::Rejected(Some(_))));
    // Not behind: nobody has ever seen them.
    assert_eq!(files(folder.path()).len(), 2);
    let swapped = store.compare_and_swap(&key("a"), Some(large(1)), Some(large(2))).await.unwrap();
    assert!(swapped.applied().is_some());
    assert_eq!(found(&store, "a").await, Some(large(2)));
    left(folder.path(), 2).await;
}

#[tokio::test]
async fn of_a_round_that_writes_a_key_twice_one_file_stays() {
    let folder = tempfile::tempdir().unwrap();
    let (database, store) = open(folder.path());
    let items = [(key("a"), large(1)), (key("b"), large(2)), (key("a"), large(3))].to_vec();
    assert!(store.set_batch(items).await.into_iter().all(|outcome| outcome.unwrap().applied().is_some()));
    left(folder.path(), 2).await;
    assert_eq!(found(&store, "a").await, Some(large(3)));
    assert_eq!(database.audit().await.unwrap().keys, 2);
    let _ = store.delete(&key("b")).await.unwrap();
    let _ = store.delete(&key("a")).await.unwrap();
    left(folder.path(), 0).await;
    let engine = &database.inner.engine;
    assert_eq!(engine.get(layout::TOTAL).unwrap().unwrap(), 0_u64.to_be_bytes().to_vec());
}

#[tokio::test]
async fn what_a_crash_left_between_a_file_and_its_commit_is_swept() {
    let folder = tempfile::tempdir().unwrap();
    let (database, store) = open(folder.path());
    set(&store, "a", 1).await;
    let held = hold(&database).await;
    let writers: Vec<_> = ["a", "b"]
        .map(|name| {
            let store = store.clone();
            tokio::spawn(async move { set(&store, name, 2).await })
        })
        .into();
    queued(&database, 2).await;
    // The files are whole, and no record names them.
    assert_eq!(files(folder.path()).len(), 3);
    let crashed = tempfile::tempdir().unwrap();
    copy_folder(folder.path(), crashed.path());
    drop(held);
    for writer in writers {
        writer.await.unwrap();
    }
    let (database, store) = open(crashed.path());
    assert_eq!(found(&store, "a").await, Some(large(1)));
    assert_eq!(found(&store, "b").await, None);
    left(crashed.path(), 1).await;
    assert_eq!(database.audit().await.unwrap().keys, 1);
    set(&store, "b", 3).await;
    assert_eq!(found(&store, "b").await, Some(large(3)));
}

#[tokio::test]
async fn a_file_stays_until_the_commit_is_durable_that_takes_its_name() {
    for removes in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let (database, store) = open(folder.path());
        set(&store, "a", 1).await;
        set(&store, "other", 9).await;
        let before = files(folder.path());
        database.inner.engine.break_next_commit();
        let unknown = match removes {
            true => matches!(store.delete(&key("a")).await, Ok(Outcome::Unknown(_))),
            false => matches!(store.set(&key("a"), large(2)).await, Ok(Outcome::Unknown(_))),
        };
        assert!(unknown);
        assert_eq!(found(&store, "a").await, Some(large(1)));
        // What nothing was written of leaves none.
        assert_eq!(cause(store.set(&key("a"), large(3)).await), "EngineFailed");
        let new = usize::from(!removes);
        drop((store, database));
        assert_eq!(files(folder.path()).len(), before.len() + new, "nobody knows whether it is named");
        assert!(before.iter().all(|file| file.exists()));
        let (_database, store) = open(folder.path());
        assert_eq!(found(&store, "a").await, Some(large(1)));
        left(folder.path(), 2).await;
        assert_eq!(found(&store, "a").await, Some(large(1)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn who_reads_what_is_written_over_finds_one_value_or_the_other() {
    let folder = tempfile::tempdir().unwrap();
    let (database, store) = open(folder.path());
    set(&store, "a", 1).await;
    let done = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..3)
        .map(|_| {
            let (store, done) = (store.clone(), Arc::clone(&done));
            tokio::spawn(async move {
                let mut last = 0;
                while !done.load(Ordering::Relaxed) {
                    let entry = store.get(&key("a")).await.unwrap().unwrap();
                    assert!(entry.version.revision >= last, "an older one than was read before");
                    last = entry.version.revision;
                    let Value::Bytes(bytes) = &entry.value else { panic!("{entry:?}") };
                    assert_eq!(entry.value, large(bytes[0]));
                }
            })
        })
        .collect();
    for n in 0..200 {
        set(&store, "a", n).await;
    }
    done.store(true, Ordering::Relaxed);
    for reader in readers {
        reader.await.unwrap();
    }
    left(folder.path(), 1).await;
    drop(database);
}

#[tokio::test]
async fn a_copy_has_each_value_as_it_was_while_all_of_them_are_written_over() {
    let folder = tempfile::tempdir().unwrap();
    let (database, store) = open(folder.path());
    for n in 0..30 {
        set(&store, &format!("k{n:02}"), n).await;
    }
    let (mut copied, changes) = store.copy().await.unwrap();
    for n in 0..30 {
        match n % 3 {
            0 => set(&store, &format!("k{n:02}"), 100 + n).await,
            1 => assert_eq!(store.delete(&key(&format!("k{n:02}"))).await.unwrap(), Outcome::Applied(true)),
            _ => drop(store.set(&key(&format!("k{n:02}")), number(1)).await.unwrap()),
        }
    }
    let before = files(folder.path()).len();
    assert_eq!(before, 40, "the copy holds those that went");
    let import = database.import("copy").await.unwrap();
    let mut seen = BTreeMap::new();
    while let Some(file) = copied.recv().await {
        let file = file.unwrap();
        let (_, name) = file.check().unwrap();
        seen.insert(name.to_string(), crate::envelope::open(&name, &file.content).unwrap().value);
        import.write(vec![file]).await.unwrap();
    }
    let expected: BTreeMap<String, Option<Value>> = (0..30).map(|n| (format!("k{n:02}"), Some(large(n)))).collect();
    assert!(seen == expected, "the copy is not the store as it was");
    // While changes are read they are replaced once more.
    loop {
        let some = changes.next(7).await.unwrap();
        if some.is_empty() {
            break;
        }
        for change in some {
            match change {
                StoredChange::Is(file) => import.write(vec![file]).await.unwrap(),
                StoredChange::Gone(path) => import.remove(vec![path]).await.unwrap(),
            }
        }
    }
    import.finish(None).await.unwrap();
    let copy = database.store("copy").unwrap();
    for n in 0..30 {
        let name = format!("k{n:02}");
        assert_eq!(found(&copy, &name).await, found(&store, &name).await);
    }
    left(folder.path(), 20).await;
    // A store goes with its files, and so does a copy that is given up.
    let import = database.import("again").await.unwrap();
    let mut exported = store.export();
    while let Some(file) = exported.recv().await {
        import.write(vec![file.unwrap()]).await.unwrap();
    }
    assert_eq!(files(folder.path()).len(), 30);
    import.discard();
    database.destroy("copy").await.unwrap();
    left(folder.path(), 10).await;
    assert_eq!(cleaned(&database).await.keys, 20);
}

#[tokio::test]
async fn a_file_that_is_damaged_or_missing_is_reported_and_can_be_replaced() {
    for missing in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let (database, store) = open(folder.path());
        set(&store, "a", 1).await;
        let file = files(folder.path()).pop().unwrap();
        if missing {
            std::fs::remove_file(&file).unwrap();
        } else {
            let mut bytes = std::fs::read(&file).unwrap();
            bytes[LEAST_IN_A_FILE / 2] ^= 1;
            std::fs::write(&file, bytes).unwrap();
        }
        let is_corrupt = |error: &Error| matches!(error, Error::Corrupt { key, .. } if key == "a");
        assert!(store.get(&key("a")).await.is_err_and(|error| is_corrupt(&error)));
        assert!(database.audit().await.is_err_and(|error| is_corrupt(&error)));
        assert!(store.export().recv().await.unwrap().is_err_and(|error| is_corrupt(&error)));
        let swapped = store.compare_and_swap(&key("a"), Some(large(1)), None).await;
        assert!(swapped.is_err_and(|error| is_corrupt(&error)));
        set(&store, "a", 2).await;
        assert_eq!(found(&store, "a").await, Some(large(2)));
        left(folder.path(), 1).await;
    }
}

#[tokio::test]
async fn a_database_of_before_there_were_files_is_read_and_written() {
    let folder = tempfile::tempdir().unwrap();
    let sealed = |name: &str| seal(&key(name), 4, &new_nonce(), &large(1), &Trail::default(), None).unwrap();
    {
        let engine = Engine::open(folder.path()).unwrap();
        let meta = serde_json::to_vec(&Meta { generation: 1, stamp: None }).unwrap();
        let value = |name: &str| (layout::data_key(1, &[], &key(name)), Some(sealed(name)));
        let changes = vec![
            (layout::HIGHEST.to_vec(), Some(Bytes::copy_from_slice(&1_u64.to_be_bytes()))),
            (layout::meta_key("shard-007"), Some(meta.into())),
            value("a"),
            value("b"),
        ];
        engine.commit(changes, Durable::Now).unwrap();
    }
    std::fs::remove_dir(folder.path().join("values")).unwrap();
    let (database, store) = open(folder.path());
    assert_eq!(found(&store, "a").await, Some(large(1)));
    assert_eq!(files(folder.path()).len(), 0);
    let version = store.set(&key("a"), large(2)).await.unwrap().applied().unwrap();
    assert_eq!(version.revision, 5);
    assert_eq!(found(&store, "a").await, Some(large(2)));
    assert_eq!(files(folder.path()).len(), 1);
    let exported = store.export().recv().await.unwrap().unwrap();
    assert_eq!(exported, StoredFile { path: "kv/a".into(), content: exported.content.clone() });
    assert_eq!(database.audit().await.unwrap().keys, 2);
}
