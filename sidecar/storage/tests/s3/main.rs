//! The S3 backend against a real server, and against the same server with something in between that misbehaves.
//! Needs `BRAINY_VERSITYGW`, the path of a versitygw binary.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod check_then_write;
mod faults;
mod gateway;
mod proxy;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use brainy_storage::backends::objects::ReadThrough;
use brainy_storage::backends::s3::{Capabilities, Credentials, S3Bucket, S3Settings, S3Store};
use brainy_storage::documents::{Documents, Swap};
use brainy_storage::layers::caching::{Cache, CacheSize};
use brainy_storage::{
    Condition, Done, Entry, Error, Key, Operation, OperationId, Outcome, StorageAdapter, Value, WriteResult,
    conformance,
};
use bytes::Bytes;
use serde_json::json;
use tokio::sync::Notify;

use gateway::{ACCESS_KEY_ID, Gateway, SECRET_ACCESS_KEY, free_address, impatient, keys, settings};
use proxy::{Meddling, Proxy, Spoil};

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

fn number(n: i64) -> Value {
    Value::Json(json!(n))
}

fn unavailable<T: std::fmt::Debug>(result: Result<T, Error>) -> (String, String) {
    match result {
        Err(Error::Unavailable { cause, detail }) => (cause, detail),
        other => panic!("not unavailable: {other:?}"),
    }
}

fn is_unknown<T>(result: &WriteResult<T>) -> bool {
    matches!(result, Ok(Outcome::Unknown(_)))
}

async fn open(settings: S3Settings) -> S3Store {
    S3Store::open(&settings).await.unwrap()
}

async fn conforms(store: &S3Store) {
    let count = AtomicU32::new(0);
    let report =
        conformance::run(|| Arc::new(store.adapter(&format!("shards/{:03}", count.fetch_add(1, Ordering::Relaxed)))));
    let report = report.await;
    assert!(report.is_clean(), "{report}");
}

/// A folder that follows another one.
fn following(store: &S3Store, own: &str, origin: &str) -> ReadThrough<S3Bucket> {
    ReadThrough::new(store, own, &[origin.to_owned()], 128)
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_read_through_to_another_folder_conforms() {
    let gateway = Gateway::start().await;
    let store = gateway.store().await;
    let count = AtomicU32::new(0);
    let next = || format!("t/{:03}", count.fetch_add(1, Ordering::Relaxed));
    let report = conformance::run(|| Arc::new(following(&store, &next(), &next()).adapter())).await;
    assert!(report.is_clean(), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_moves_to_another_folder_is_served_at_once_copied_and_cleared_away() {
    let gateway = Gateway::start().await;
    let store = gateway.store().await;
    store.prove().await.unwrap();
    let before = ReadThrough::new(&store, "node-a/shards/007/1", &[], 128).adapter();
    let id = OperationId::new("once").unwrap();
    let increment = || Operation::Increment { delta: 1.into() };
    let Outcome::Applied(Done::Sum(_, version)) = before.perform_once(&key("n"), increment(), &id).await.unwrap()
    else {
        panic!("nothing stands in its way")
    };
    for n in 0..40 {
        assert!(before.set(&key(&format!("k/{n:02}")), number(n)).await.unwrap().applied().is_some());
    }
    assert_eq!(before.delete(&key("k/03")).await.unwrap(), Outcome::Applied(true));

    let data = following(&store, "node-b/shards/007/2", "node-a/shards/007/1");
    let after = data.adapter();
    assert_eq!(after.get(&key("k/02")).await.unwrap().unwrap().value, number(2));
    assert_eq!(after.get(&key("k/03")).await.unwrap(), None);
    let again = after.perform_once(&key("n"), increment(), &id).await.unwrap();
    assert_eq!(again, Outcome::Applied(Done::Sum(1.into(), version.clone())), "it was done before the move");
    let matched = after.put(&key("n"), number(7), &Condition::Version(version)).await.unwrap();
    assert!(matched.applied().is_some(), "a version from before the move");
    let listed = |page: brainy_storage::Page| page.keys.len();
    assert_eq!(listed(after.list("k/", None, 100).await.unwrap()), 39);

    data.copy("node-a/shards/007/1", &tokio::sync::Semaphore::new(4)).await.unwrap();
    data.forget("node-a/shards/007/1");
    assert_eq!(store.delete_prefix("node-a/shards/007/1/").await.unwrap(), 41);
    assert_eq!(listed(after.list("k/", None, 100).await.unwrap()), 39);
    assert_eq!(after.get(&key("k/39")).await.unwrap().unwrap().value, number(39));
    assert_eq!(after.get(&key("k/03")).await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_conforms() {
    let gateway = Gateway::start().await;
    let store = gateway.store().await;
    store.prove().await.unwrap();
    conforms(&store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_conforms_behind_a_cache() {
    let gateway = Gateway::start().await;
    let store = gateway.store().await;
    let (cache, count) = (Cache::new(CacheSize::default()), AtomicU32::new(0));
    let next = || count.fetch_add(1, Ordering::Relaxed);
    let report = conformance::run(|| cache.over(Arc::new(store.adapter(&format!("cached/{:03}", next()))))).await;
    assert!(report.is_clean(), "{report}");
}

#[tokio::test]
async fn the_probe_passes_and_leaves_nothing_behind() {
    let gateway = Gateway::start().await;
    let store = gateway.store().await;
    let capabilities = store.prove().await.unwrap();
    let expected = Capabilities {
        create_only: true,
        if_match: true,
        atomic_under_race: true,
        read_after_write: true,
        etag_is_md5: true,
    };
    assert_eq!(capabilities, expected);
    assert_eq!(serde_json::to_value(capabilities).unwrap()["etagIsMd5"], json!(true));
    assert!(gateway.files().is_empty(), "{:?}", gateway.files());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_probe_refuses_a_store_that_does_not_keep_its_word() {
    let gateway = Gateway::start().await;
    let proxy = Proxy::start(&gateway, Meddling::Nothing).await;
    let store = open(settings(&proxy.endpoint())).await;
    store.prove().await.unwrap();
    for (meddling, check) in [
        (Meddling::IgnoresIfNoneMatch, "\"create-only\""),
        (Meddling::IgnoresIfMatch, "\"if-match\""),
        (Meddling::ChecksThenWrites, "\"race-create\""),
    ] {
        proxy.meddle(meddling.clone());
        let (cause, detail) = unavailable(store.prove().await);
        assert_eq!(cause, "UnsafeStore", "{meddling:?}");
        assert!(detail.contains(check), "{meddling:?}: {detail}");
    }
    assert!(gateway.files().is_empty(), "{:?}", gateway.files());
}

#[tokio::test]
async fn a_wrong_key_is_named_as_the_cause_and_shows_no_secret() {
    let gateway = Gateway::start().await;
    let wrong = |id: &str, secret: &str| S3Settings { credentials: keys(id, secret), ..settings(&gateway.endpoint()) };
    let (cause, _) = unavailable(open(wrong("nobody", "a-secret")).await.check().await);
    assert_eq!(cause, "InvalidAccessKeyId");
    let (cause, detail) = unavailable(open(wrong(ACCESS_KEY_ID, "a-secret")).await.check().await);
    assert_eq!(cause, "SignatureDoesNotMatch");
    assert!(!detail.contains("a-secret"), "{detail}");
    let write = open(wrong("nobody", "a-secret")).await.adapter("s").set(&key("a"), number(1)).await;
    assert_eq!(unavailable(write).0, "InvalidAccessKeyId", "a refused write is a clean failure");
}

#[tokio::test]
async fn a_missing_bucket_is_named_as_the_cause() {
    let gateway = Gateway::start().await;
    let store = open(S3Settings { bucket: "no-such-bucket".into(), ..settings(&gateway.endpoint()) }).await;
    assert_eq!(unavailable(store.check().await).0, "NoSuchBucket");
    assert_eq!(unavailable(store.prove().await).0, "NoSuchBucket");
    let adapter = store.adapter("s");
    assert_eq!(unavailable(adapter.get(&key("a")).await).0, "NoSuchBucket", "it must not look like an empty bucket");
    assert_eq!(unavailable(adapter.set(&key("a"), number(1)).await).0, "NoSuchBucket");
}

#[tokio::test]
async fn an_unreachable_store_is_a_clean_failure_that_names_the_address() {
    let endpoint = format!("http://{}", free_address());
    let store = open(impatient(&endpoint)).await;
    let (cause, detail) = unavailable(store.check().await);
    assert_eq!(cause, "Unreachable");
    assert!(detail.contains(&endpoint), "{detail}");
    assert_eq!(unavailable(store.adapter("s").set(&key("a"), number(1)).await).0, "Unreachable");
    let nameless = open(impatient("http://no-such-host.invalid")).await;
    assert_eq!(unavailable(nameless.check().await).0, "Unreachable");
    assert_eq!(unavailable(nameless.adapter("s").set(&key("a"), number(1)).await).0, "Unreachable");
}

#[tokio::test]
async fn a_server_that_never_answers_leaves_a_write_unknown() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let store = open(impatient(&format!("http://{}", listener.local_addr().unwrap()))).await;
    let silent = tokio::spawn(async move {
        let mut connections = Vec::new();
        while let Ok(connection) = listener.accept().await {
            connections.push(connection);
        }
    });
    assert_eq!(unavailable(store.check().await).0, "TimedOut");
    let outcome = store.adapter("s").set(&key("a"), number(1)).await;
    assert!(is_unknown(&outcome), "{outcome:?}");
    silent.abort();
}

#[tokio::test]
async fn an_answer_lost_after_the_effect_is_found_out_by_a_look() {
    let gateway = Gateway::start().await;
    let proxy = Proxy::start(&gateway, Meddling::LosesAnswers).await;
    let adapter = open(settings(&proxy.endpoint())).await.adapter("s");
    let version = adapter.set(&key("a"), number(1)).await.unwrap().applied().unwrap();
    assert_eq!(proxy.writes(), 1, "a write whose outcome is unknown must not be sent again");
    assert_eq!(adapter.get(&key("a")).await.unwrap(), Some(Entry { value: number(1), version }));
    for outcome in adapter.set_batch(vec![(key("a"), number(2)), (key("b"), number(2))]).await {
        // "a" is refused first, for it exists; that answer is lost as well, and what stands there tells it.
        assert!(outcome.unwrap().applied().is_some());
    }
    let swapped = adapter.compare_and_swap(&key("a"), Some(number(2)), Some(number(3))).await.unwrap();
    assert!(matches!(swapped, Outcome::Applied(Some(_))), "{swapped:?}");
    assert_eq!(adapter.delete(&key("a")).await.unwrap(), Outcome::Applied(true));
    assert_eq!(adapter.get(&key("a")).await.unwrap(), None);
}

#[tokio::test]
async fn an_answer_lost_after_the_effect_is_unknown_where_nobody_can_look_and_never_success_or_failure() {
    let gateway = Gateway::start().await;
    let proxy = Proxy::start(&gateway, Meddling::Nothing).await;
    let adapter = open(impatient(&proxy.endpoint())).await.adapter("s");
    let lose = || proxy.meddle(Meddling::LosesAnswersAndFallsSilent);
    lose();
    let outcome = adapter.set(&key("a"), number(1)).await;
    assert!(is_unknown(&outcome), "{outcome:?}");
    assert_eq!(proxy.writes(), 1, "a write whose outcome is unknown must not be sent again");
    proxy.meddle(Meddling::Nothing);
    let first = adapter.get(&key("a")).await.unwrap().unwrap();
    assert_eq!(first.value, number(1), "it did take effect");
    lose();
    assert!(is_unknown(&adapter.put(&key("a"), number(2), &Condition::Version(first.version)).await));
    proxy.meddle(Meddling::Nothing);
    let second = adapter.get(&key("a")).await.unwrap().unwrap();
    lose();
    assert!(is_unknown(&adapter.remove(&key("a"), &Condition::Version(second.version)).await));
}

#[tokio::test]
async fn a_lost_answer_is_found_out_even_after_later_writers() {
    let gateway = Gateway::start().await;
    let later = gateway.store().await.adapter("s");
    let _ = later.set(&key("a"), number(1)).await.unwrap();
    let lost = Arc::new(Notify::new());
    let proxy = Proxy::start(&gateway, Meddling::LosesFirstAnswerLater(lost.clone())).await;
    let adapter = open(settings(&proxy.endpoint())).await.adapter("s");
    let first = later.get(&key("a")).await.unwrap().unwrap().version;
    let write = async { adapter.put(&key("a"), number(2), &Condition::Version(first.clone())).await.unwrap() };
    let others = async {
        proxy.write_has_arrived().await;
        for n in 3..6 {
            let _ = later.set(&key("a"), number(n)).await.unwrap();
        }
        lost.notify_one();
    };
    let (outcome, ()) = tokio::join!(write, others);
    assert_eq!(outcome.applied().unwrap().revision, first.revision + 1);
    assert_eq!(later.get(&key("a")).await.unwrap().unwrap().value, number(5));
}

#[tokio::test]
async fn a_write_lost_on_its_way_is_rejected_once_another_has_come_before() {
    let gateway = Gateway::start().await;
    let direct = gateway.store().await.adapter("s");
    let first = direct.set(&key("a"), number(1)).await.unwrap().applied().unwrap();
    let proxy = Proxy::start(&gateway, Meddling::LosesRequests).await;
    let adapter = open(settings(&proxy.endpoint())).await.adapter("s");
    // It may be on its way still.
    let open = adapter.put(&key("a"), number(2), &Condition::Version(first.clone())).await;
    assert!(is_unknown(&open), "{open:?}");
    let newer = direct.set(&key("a"), number(3)).await.unwrap().applied().unwrap();
    let late = adapter.put(&key("a"), number(2), &Condition::Version(first.clone())).await.unwrap();
    assert_eq!(late, Outcome::Rejected(Some(Entry { value: number(3), version: newer })));
}

#[tokio::test]
async fn an_operation_whose_answer_was_lost_can_be_asked_for_again_with_its_id() {
    let gateway = Gateway::start().await;
    let proxy = Proxy::start(&gateway, Meddling::LosesAnswersAndFallsSilent).await;
    let adapter = open(impatient(&proxy.endpoint())).await.adapter("s");
    let (id, add) = (OperationId::new("a").unwrap(), || Operation::Increment { delta: 5.into() });
    proxy.meddle(Meddling::Nothing);
    let _ = adapter.set(&key("n"), number(1)).await.unwrap();
    proxy.meddle(Meddling::LosesAnswersAndFallsSilent);
    let lost = adapter.perform_once(&key("n"), add(), &id).await;
    assert!(is_unknown(&lost), "{lost:?}");
    proxy.meddle(Meddling::Nothing);
    let again = adapter.perform_once(&key("n"), add(), &id).await.unwrap().applied().unwrap();
    assert!(matches!(&again, Done::Sum(sum, _) if *sum == 6.into()), "{again:?}");
    assert_eq!(adapter.get(&key("n")).await.unwrap().unwrap().value, number(6));
}

#[tokio::test]
async fn a_server_that_fails_inside_leaves_a_write_unknown_and_is_not_asked_twice() {
    let gateway = Gateway::start().await;
    let proxy = Proxy::start(&gateway, Meddling::Answers(500, "InternalError")).await;
    let adapter = open(settings(&proxy.endpoint())).await.adapter("s");
    let outcome = adapter.set(&key("a"), number(1)).await;
    assert!(is_unknown(&outcome), "{outcome:?}");
    assert_eq!(proxy.writes(), 1);
}

#[tokio::test]
async fn a_write_turned_away_before_it_began_is_sent_again_and_then_fails_cleanly() {
    let gateway = Gateway::start().await;
    let proxy = Proxy::start(&gateway, Meddling::Answers(409, "ConditionalRequestConflict")).await;
    let adapter = open(settings(&proxy.endpoint())).await.adapter("s");
    let (cause, _) = unavailable(adapter.set(&key("a"), number(1)).await);
    assert_eq!(cause, "ConditionalRequestConflict");
    assert!(proxy.writes() > 1);
    proxy.meddle(Meddling::Nothing);
    assert!(matches!(adapter.set(&key("a"), number(1)).await, Ok(Outcome::Applied(_))));
}

#[tokio::test]
async fn a_late_put_of_a_stale_version_changes_nothing() {
    let gateway = Gateway::start().await;
    let direct = gateway.store().await.adapter("s");
    let first = direct.set(&key("a"), number(1)).await.unwrap().applied().unwrap();

    let arrive = Arc::new(Notify::new());
    let proxy = Proxy::start(&gateway, Meddling::DelaysFirstWrite(arrive.clone())).await;
    let slow = open(impatient(&proxy.endpoint())).await.adapter("s");
    let outcome = slow.put(&key("a"), number(2), &Condition::Version(first.clone())).await;
    assert!(is_unknown(&outcome), "{outcome:?}");

    let newer = direct.put(&key("a"), number(3), &Condition::Version(first)).await.unwrap().applied().unwrap();
    arrive.notify_one();
    proxy.write_has_arrived().await;
    let stands = direct.get(&key("a")).await.unwrap().unwrap();
    assert_eq!((stands.value, stands.version), (number(3), newer));
}

#[tokio::test]
async fn a_late_set_or_delete_finds_another_version_and_changes_nothing() {
    let gateway = Gateway::start().await;
    let direct = gateway.store().await.adapter("s");
    for delete in [false, true] {
        let key = key(if delete { "deleted" } else { "set" });
        if delete {
            let _ = direct.set(&key, number(1)).await.unwrap();
        }
        let arrive = Arc::new(Notify::new());
        let proxy = Proxy::start(&gateway, Meddling::DelaysFirstWrite(arrive.clone())).await;
        let slow = open(impatient(&proxy.endpoint())).await.adapter("s");
        // No condition was asked for; the request carries one all the same (R4).
        let unknown =
            if delete { is_unknown(&slow.delete(&key).await) } else { is_unknown(&slow.set(&key, number(2)).await) };
        assert!(unknown);
        let newer = direct.set(&key, number(3)).await.unwrap().applied().unwrap();
        arrive.notify_one();
        proxy.write_has_arrived().await;
        let stands = direct.get(&key).await.unwrap().unwrap();
        assert_eq!((stands.value, stands.version), (number(3), newer));
    }
}

#[tokio::test]
async fn every_write_that_is_sent_is_conditional() {
    let gateway = Gateway::start().await;
    let proxy = Proxy::start(&gateway, Meddling::Nothing).await;
    let store = open(settings(&proxy.endpoint())).await;
    let adapter = store.adapter("s");
    for n in 0..3 {
        let _ = adapter.set(&key("a"), number(n)).await.unwrap();
        let _ = adapter.increment(&key("a"), 1.into()).await.unwrap();
        assert_eq!(adapter.delete(&key("a")).await.unwrap(), Outcome::Applied(true));
    }
    let documents = store.documents("_cluster");
    assert!(matches!(documents.swap("d", None, Bytes::from_static(b"{}")).await, Ok(Swap::Applied(_))));
    assert!(proxy.writes() > 10);
    assert_eq!(proxy.unconditional_writes(), 0);
}

#[tokio::test]
async fn a_large_value_is_not_sent_at_a_guess() {
    let gateway = Gateway::start().await;
    let proxy = Proxy::start(&gateway, Meddling::Nothing).await;
    let adapter = open(settings(&proxy.endpoint())).await.adapter("s");
    let large = |byte: u8| Value::Bytes(vec![byte; 1 << 20].into());
    let _ = adapter.set(&key("a"), large(1)).await.unwrap().applied().unwrap();
    let version = adapter.set(&key("a"), large(2)).await.unwrap().applied().unwrap();
    assert_eq!(proxy.writes(), 2, "one that the store refuses may end in an unknown outcome");
    let outcome = adapter.put(&key("a"), large(3), &Condition::Absent).await.unwrap();
    assert_eq!((outcome, proxy.writes()), (Outcome::Rejected(Some(Entry { value: large(2), version })), 2));
}

#[tokio::test]
async fn an_old_body_under_a_new_etag_is_not_taken_for_what_stands() {
    let gateway = Gateway::start().await;
    let proxy = Proxy::start(&gateway, Meddling::Nothing).await;
    let store = open(settings(&proxy.endpoint())).await;
    store.prove().await.unwrap();
    let (adapter, files) = (store.adapter("s"), store.documents("s/kv"));
    let _ = adapter.set(&key("a"), number(1)).await.unwrap().applied().unwrap();
    let old = files.read("a").await.unwrap().unwrap().body;
    let second = adapter.set(&key("a"), number(2)).await.unwrap().applied().unwrap();
    for condition in [Some(number(1)), None] {
        proxy.meddle(Meddling::SpoilsReads(1, Spoil::Tear(old.clone())));
        match condition {
            // Taken at its word, 1 would be swapped where 2 stands, which nobody has seen.
            Some(expected) => {
                let outcome = adapter.compare_and_swap(&key("a"), Some(expected), Some(number(3))).await.unwrap();
                assert!(matches!(outcome, Outcome::Rejected(_)), "{outcome:?}");
            }
            None => {
                let read = adapter.get(&key("a")).await.unwrap().unwrap();
                assert_eq!((read.value, read.version), (number(2), second.clone()));
            }
        }
    }
}

#[tokio::test]
async fn an_object_whose_etag_is_of_another_kind_is_read_all_the_same() {
    let gateway = Gateway::start().await;
    let proxy = Proxy::start(&gateway, Meddling::Nothing).await;
    let store = open(settings(&proxy.endpoint())).await;
    store.prove().await.unwrap();
    let adapter = store.adapter("s");
    let _ = adapter.set(&key("a"), number(1)).await.unwrap().applied().unwrap();
    let body = store.documents("s/kv").read("a").await.unwrap().unwrap().body;
    let _ = adapter.set(&key("a"), number(2)).await.unwrap().applied().unwrap();
    // As from a store that began to encrypt with a key of its own after it was probed: no body has its ETag.
    proxy.meddle(Meddling::SpoilsReads(usize::MAX, Spoil::Tear(body)));
    assert_eq!(adapter.get(&key("a")).await.unwrap().unwrap().value, number(1));
}

#[tokio::test]
async fn a_removed_value_leaves_a_tombstone_over_which_the_next_one_is_written() {
    let gateway = Gateway::start().await;
    let adapter = gateway.store().await.adapter("s");
    let first = adapter.set(&key("a"), number(1)).await.unwrap().applied().unwrap();
    assert_eq!(adapter.delete(&key("a")).await.unwrap(), Outcome::Applied(true));
    assert_eq!(gateway.files(), ["some/prefix/s/kv/a"]);
    assert_eq!(adapter.get(&key("a")).await.unwrap(), None);
    let again = adapter.put(&key("a"), number(1), &Condition::Absent).await.unwrap().applied().unwrap();
    assert!(again.revision > first.revision + 1, "the tombstone was a write of its own: {again}");
}

#[tokio::test]
async fn a_damaged_object_is_reported_and_can_be_deleted() {
    let gateway = Gateway::start().await;
    let store = gateway.store().await;
    let adapter = store.adapter("s");
    let garbage = Bytes::from(vec![b'x'; 500]);
    assert!(matches!(store.documents("s/kv").swap("a", None, garbage).await, Ok(Swap::Applied(_))));
    assert!(matches!(adapter.get(&key("a")).await, Err(Error::Corrupt { .. })));
    assert!(matches!(adapter.set(&key("a"), number(1)).await, Err(Error::Corrupt { .. })));
    assert_eq!(adapter.delete(&key("a")).await.unwrap(), Outcome::Applied(true));
    assert_eq!(adapter.get(&key("a")).await.unwrap(), None);
}

#[tokio::test]
async fn a_key_too_long_for_an_object_is_refused_with_the_limit() {
    let gateway = Gateway::start().await;
    let adapter = gateway.store().await.adapter("s");
    let long = key(&"/".repeat(1024));
    for result in [adapter.get(&long).await.map(drop), adapter.set(&long, number(1)).await.map(drop)] {
        let Err(Error::Invalid { field: "key", problem }) = result else { panic!("{result:?}") };
        assert!(problem.contains("1024"), "{problem}");
    }
}

#[tokio::test]
async fn a_document_is_stored_as_it_is_and_changes_only_from_the_version_that_was_seen() {
    let gateway = Gateway::start().await;
    let documents = gateway.store().await.documents("");
    let (name, body) = ("_cluster/shard-map.json", |n: i32| Bytes::from(format!("{{\"revision\":{n}}}")));
    assert_eq!(documents.read(name).await.unwrap(), None);
    let Swap::Applied(first) = documents.swap(name, None, body(1)).await.unwrap() else { panic!("not created") };
    assert_eq!(documents.swap(name, None, body(2)).await.unwrap(), Swap::Rejected);
    let Swap::Applied(second) = documents.swap(name, Some(&first), body(2)).await.unwrap() else {
        panic!("not changed")
    };
    assert_eq!(documents.swap(name, Some(&first), body(3)).await.unwrap(), Swap::Rejected);
    assert_eq!(documents.swap("_cluster/other.json", Some(&first), body(1)).await.unwrap(), Swap::Rejected);
    let document = documents.read(name).await.unwrap().unwrap();
    assert_eq!((document.body, document.version), (body(2), second));
    assert!(matches!(documents.swap("other", None, body(1)).await, Ok(Swap::Applied(_))));
    assert_eq!(documents.names("_cluster/").await.unwrap(), [name]);
    assert_eq!(documents.names("").await.unwrap(), [name, "other"]);
    assert_eq!(gateway.files(), ["some/prefix/_cluster/shard-map.json", "some/prefix/other"]);
}

#[tokio::test]
async fn deleting_a_prefix_takes_all_of_it_and_nothing_else() {
    let gateway = Gateway::start().await;
    let store = gateway.store().await;
    for root in ["shards/001", "shards/002", "other"] {
        let items = (0..20).map(|n| (key(&format!("k/{n}")), number(n))).collect();
        for outcome in store.adapter(root).set_batch(items).await {
            assert!(outcome.unwrap().applied().is_some());
        }
    }
    let neighbour = open(S3Settings { prefix: "some/prefix2".into(), ..settings(&gateway.endpoint()) }).await;
    let _ = neighbour.adapter("shards/001").set(&key("a"), number(1)).await.unwrap();
    assert!(matches!(store.delete_prefix("").await, Err(Error::Invalid { .. })));
    assert_eq!(store.delete_prefix("shards/").await.unwrap(), 40);
    assert_eq!(store.delete_prefix("shards/").await.unwrap(), 0);
    assert_eq!(store.adapter("other").list("", None, 100).await.unwrap().keys.len(), 20);
    assert!(neighbour.adapter("shards/001").get(&key("a")).await.unwrap().is_some());
}

#[tokio::test]
async fn keys_in_files_may_come_late() {
    let gateway = Gateway::start().await;
    let folder = tempfile::tempdir().unwrap();
    let credentials = Credentials::Folder(folder.path().to_owned());
    let store = open(S3Settings { credentials, ..settings(&gateway.endpoint()) }).await;
    let (cause, detail) = unavailable(store.check().await);
    assert_eq!(cause, "CredentialsUnavailable");
    assert!(detail.contains("accessKeyId"), "{detail}");
    assert_eq!(unavailable(store.adapter("s").set(&key("a"), number(1)).await).0, "CredentialsUnavailable");
    std::fs::write(folder.path().join("accessKeyId"), ACCESS_KEY_ID).unwrap();
    std::fs::write(folder.path().join("secretAccessKey"), SECRET_ACCESS_KEY).unwrap();
    store.check().await.unwrap();
}
