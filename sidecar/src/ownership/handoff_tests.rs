use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use brainy_storage::{Condition, Entry, Key, Namespace, StorageAdapter, Value};

use super::*;
use crate::data_folder::Engine;

const SHARD: ShardId = ShardId(3);
const TOKEN: FencingToken = FencingToken(5);
const WAYS: [(Engine, Engine); 4] = [
    (Engine::Embedded, Engine::Embedded),
    (Engine::Files, Engine::Files),
    (Engine::Files, Engine::Embedded),
    (Engine::Embedded, Engine::Files),
];

fn key(index: usize) -> Key {
    Key::new(format!("key/{index}")).unwrap()
}

fn inner() -> Namespace {
    Namespace::new("inner").unwrap()
}

async fn volume(data: &Path, engine: Engine) -> Volume {
    Volume::open(data, &NodeId("n".into()), 16, engine).await.unwrap()
}

/// A shard with all kinds of keys.
async fn filled(data: &Path, engine: Engine) -> Volume {
    let volume = volume(data, engine).await;
    let store = volume.adapter(SHARD, None).await.unwrap();
    let items = (0..300).map(|index| (key(index), Value::Bytes(vec![7; index * 10].into()))).collect();
    assert!(store.set_batch(items).await.into_iter().all(|outcome| outcome.unwrap().applied().is_some()));
    let inner = store.with_namespace(&inner());
    assert!(inner.put(&key(0), Value::Json(1.into()), &Condition::Absent).await.unwrap().applied().is_some());
    volume
}

async fn write(store: &dyn StorageAdapter, index: usize, n: usize) {
    assert!(store.set(&key(index), Value::Json(n.into())).await.unwrap().applied().is_some());
}

async fn remove(store: &dyn StorageAdapter, index: usize) {
    assert!(store.delete(&key(index)).await.unwrap().applied().is_some());
}

/// All that is in a shard.
async fn all(volume: &Volume) -> Vec<(Key, Entry)> {
    let store = volume.adapter(SHARD, None).await.unwrap();
    let mut found = Vec::new();
    for space in [Arc::clone(&store), store.with_namespace(&inner())] {
        for key in space.list("", None, 10_000).await.unwrap().keys {
            let entry = space.get(&key).await.unwrap().unwrap();
            found.push((key, entry));
        }
    }
    found
}

/// Sends a shard from one volume to the other. `before` runs before each piece, and is told whether it is after the stop.
async fn send(source: &Volume, target: &Volume, mut before: impl AsyncFnMut(bool)) -> u64 {
    let mut departure = Departure::begin(source, SHARD).await.unwrap();
    let mut arrival = Arrival::begin(target, SHARD, TOKEN).await.unwrap();
    loop {
        let (number, stop) = arrival.wants();
        before(stop).await;
        if stop {
            departure.stop();
        }
        assert!(departure.is_next(number));
        let piece = departure.next(number).await.unwrap();
        assert_eq!(departure.again(number), Some(piece.clone()), "a piece that was lost is sent once more");
        if arrival.take(piece).await.unwrap() == Arrived::Whole {
            return arrival.finish().await.unwrap();
        }
    }
}

/// All pieces of a shard that nobody writes to.
async fn pieces(source: &Volume) -> Vec<Bytes> {
    let mut departure = Departure::begin(source, SHARD).await.unwrap();
    departure.stop();
    let mut pieces = Vec::new();
    loop {
        let piece = departure.next(pieces.len() as u64).await.unwrap();
        pieces.push(piece.clone());
        if matches!(records(piece).unwrap().1, Header::End { .. }) {
            return pieces;
        }
    }
}

#[tokio::test]
async fn a_shard_arrives_whole_with_its_versions_whatever_the_two_volumes_are() {
    for (from, to) in WAYS {
        let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let source = filled(here.path(), from).await;
        let target = volume(there.path(), to).await;
        assert_eq!(send(&source, &target, async |_| {}).await, 301);
        assert_eq!(target.local(SHARD).incoming, Some(TOKEN));
        drop(target);

        let target = volume(there.path(), to).await;
        assert_eq!(target.local(SHARD).incoming, Some(TOKEN), "also after a restart");
        target.promote(SHARD).await.unwrap();
        assert_eq!(all(&target).await, all(&source).await);
    }
}

#[tokio::test]
async fn what_is_written_and_removed_between_the_pieces_arrives_as_it_is_in_the_end() {
    for (from, to) in WAYS {
        let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let source = filled(here.path(), from).await;
        let store = source.adapter(SHARD, None).await.unwrap();
        let target = volume(there.path(), to).await;
        let (mut n, mut last) = (0, false);
        send(&source, &target, async |stopping| {
            // Also just before the stop, and not after it.
            if last || (!stopping && n >= 60) {
                return;
            }
            last = stopping;
            n += 1;
            // Of those sent already, of those to come, and new ones; some come and go, and come back.
            for index in [n, 299 - n, 300 + n] {
                write(&*store, index, n).await;
            }
            remove(&*store, 150 + n % 20).await;
            remove(&*store, 300 + n / 2).await;
            write(&*store, 150 + n % 7, n).await;
            let items = vec![(key(500 + n % 5), Value::Json(n.into())), (key(n), Value::Json("again".into()))];
            assert!(store.set_batch(items).await.into_iter().all(|outcome| outcome.is_ok()));
        })
        .await;
        assert_eq!((n, last), (61, true));
        target.promote(SHARD).await.unwrap();
        assert_eq!(all(&target).await, all(&source).await, "{from:?} to {to:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_written_at_any_moment_before_the_stop_arrives() {
    for (from, to) in WAYS {
        let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let source = filled(here.path(), from).await;
        let target = volume(there.path(), to).await;
        let stop = Arc::new(AtomicBool::new(false));
        let writers: Vec<_> = (0..4)
            .map(|writer| {
                let (store, stop) = (source.adapter(SHARD, None), Arc::clone(&stop));
                let store = futures::executor::block_on(store).unwrap();
                tokio::spawn(async move {
                    let mut n = writer;
                    while !stop.load(Ordering::SeqCst) {
                        n += 4;
                        match n % 5 {
                            0 => remove(&*store, n * 7 % 400).await,
                            _ => write(&*store, n * 11 % 400, n).await,
                        }
                    }
                })
            })
            .collect();
        let mut writers = Some(writers);
        send(&source, &target, async |stopped| {
            if stopped && let Some(writers) = writers.take() {
                stop.store(true, Ordering::SeqCst);
                for writer in writers {
                    writer.await.unwrap();
                }
            }
        })
        .await;
        target.promote(SHARD).await.unwrap();
        assert_eq!(all(&target).await, all(&source).await, "{from:?} to {to:?}");
    }
}

#[tokio::test]
async fn an_empty_shard_arrives_empty() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let source = volume(here.path(), Engine::Embedded).await;
    let target = volume(there.path(), Engine::Embedded).await;
    assert_eq!(send(&source, &target, async |_| {}).await, 0);
    assert_eq!(target.local(SHARD).incoming, Some(TOKEN));
}

#[tokio::test]
async fn pieces_that_are_missing_cut_short_or_changed_make_no_copy() {
    for engine in [Engine::Embedded, Engine::Files] {
        let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let source = filled(here.path(), engine).await;
        let target = volume(there.path(), engine).await;
        let whole = pieces(&source).await;

        let without_one = [&whole[..5], &whole[6..]].concat();
        let twice = [&whole[..1], &whole[..]].concat();
        let cut = vec![whole[0].slice(..whole[0].len() - 3)];
        let longer = vec![[&whole[0][..], b"xxxx"].concat().into()];
        for (what, pieces) in [("one less", without_one), ("one twice", twice), ("cut", cut), ("longer", longer)] {
            let mut arrival = Arrival::begin(&target, SHARD, TOKEN).await.unwrap();
            let mut last = Ok(Arrived::Part);
            for piece in pieces {
                last = arrival.take(piece).await;
            }
            assert!(last.is_err(), "{what}");
            arrival.discard().await.unwrap();
            assert_eq!(target.local(SHARD).incoming, None, "{what}");
        }
        drop(target);
        assert_eq!(volume(there.path(), engine).await.local(SHARD).incoming, None);
    }
}

#[tokio::test(start_paused = true)]
async fn no_more_is_sent_than_so_many_bytes_a_second() {
    let throttle = Throttle::new(1000);
    let began = Instant::now();
    for _ in 0..5 {
        throttle.wait(500).await;
    }
    assert_eq!(began.elapsed(), Duration::from_secs(2), "the last one may go when four have had their time");
}
