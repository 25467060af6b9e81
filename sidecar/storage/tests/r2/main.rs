//! The R2 backend on Cloudflare's own runtime, and with something in the Worker's place that misbehaves.
//! Needs Node, and `BRAINY_MINIFLARE`: a folder that `scripts/miniflare.sh` makes.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod faults;
#[path = "../linearizability/harness/mod.rs"]
#[allow(dead_code, reason = "other tests need more of it")]
mod harness;
mod histories;
mod http;
mod s3;
mod worker;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use brainy_storage::backends::objects::Capabilities;
use brainy_storage::backends::r2::{Cached, R2Settings, R2Store};
use brainy_storage::documents::{Documents, Swap};
use brainy_storage::{Condition, Entry, Error, Key, Outcome, StorageAdapter, Value, conformance};
use bytes::Bytes;
use serde_json::json;

use worker::Worker;

pub(crate) fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

pub(crate) fn number(n: i64) -> Value {
    Value::Json(json!(n))
}

pub(crate) fn unavailable<T: std::fmt::Debug>(result: Result<T, Error>) -> (String, String) {
    match result {
        Err(Error::Unavailable { cause, detail }) => (cause, detail),
        other => panic!("not unavailable: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn r2_conforms() {
    let store = Worker::shared().store("conforms");
    store.prove().await.unwrap();
    let count = AtomicU32::new(0);
    let next = || format!("shards/{:03}", count.fetch_add(1, Ordering::Relaxed));
    let report = conformance::run(|| Arc::new(store.adapter(&next()))).await;
    assert!(report.is_clean(), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_probe_passes_and_leaves_nothing_behind() {
    let store = Worker::shared().store("proved");
    let expected = Capabilities {
        create_only: true,
        if_match: true,
        atomic_under_race: true,
        read_after_write: true,
        etag_is_md5: true,
    };
    assert_eq!(store.prove().await.unwrap(), expected);
    assert_eq!(store.documents("").names("").await.unwrap(), Vec::<String>::new());
}

/// Whether a write's condition holds, looked up in a step of its own; in place of R2's own condition.
const LOOKS_FIRST: &str = r#"
async function looks(bucket, name, onlyIf) {
  const stands = await bucket.head(name);
  // As far away as a store is. The runtime here answers within its own process, and the race may never show.
  await scheduler.wait(20);
  const wanted = onlyIf.get("if-match");
  return wanted === null ? stands === null : stands?.httpEtag === wanted;
}
"#;

#[tokio::test(flavor = "multi_thread")]
async fn the_probe_refuses_a_worker_that_does_not_keep_its_word() {
    const WRITE: &str = r#"await bucket.put(name, request.body ?? "", { onlyIf })"#;
    const CREATE: &str = r#"new Headers({ "if-none-match": "*" })"#;
    const MATCH: &str = r#"new Headers({ "if-match": etag[1] })"#;
    let looks_first =
        r#"(await looks(bucket, name, onlyIf)) ? await bucket.put(name, await request.arrayBuffer()) : null"#;
    for (piece, by, check) in [
        (WRITE, r#"await bucket.put(name, request.body ?? "")"#, "\"create-only\""),
        (CREATE, "new Headers()", "\"create-only\""),
        (MATCH, "new Headers()", "\"if-match\""),
        (WRITE, looks_first, "\"race-create\""),
    ] {
        let worker = Worker::altered(piece, by, LOOKS_FIRST);
        let mut refusal = unavailable(worker.store("broken").prove().await);
        for _ in 0..5 {
            // A store that could not be asked has proved nothing either way.
            if refusal.0 == "Unreachable" {
                refusal = unavailable(worker.store("broken").prove().await);
            }
        }
        let (cause, detail) = refusal;
        assert_eq!(cause, "UnsafeStore", "{by}: {detail}");
        assert!(detail.contains(check), "{by}: {detail}");
    }
}

/// R2's own limit: one write a second of one object, more are turned away before they have an effect.
const ONE_WRITE_A_SECOND: &str = r#"
const written = new Map();
function limited(bucket) {
  const put = (name, ...rest) => {
    const now = Date.now();
    if (now - (written.get(name) ?? 0) < 1000) throw new Error("put: Reduce your concurrent request rate for the same object. (10058)");
    written.set(name, now);
    return bucket.put(name, ...rest);
  };
  return { put, get: (...a) => bucket.get(...a), list: (...a) => bucket.list(...a), delete: (...a) => bucket.delete(...a) };
}
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_of_one_write_a_second_slows_down_and_breaks_nothing() {
    let worker =
        Worker::altered("serve(request, env.BUCKET)", "serve(request, limited(env.BUCKET))", ONE_WRITE_A_SECOND);
    let store = worker.store("limited");
    assert!(store.prove().await.unwrap().atomic_under_race);
    let adapter = store.adapter("s");
    for n in 1..=2 {
        let outcome = adapter.set(&key("a"), number(n)).await;
        assert!(matches!(outcome, Ok(Outcome::Applied(_))), "{outcome:?}");
    }
    assert_eq!(adapter.get(&key("a")).await.unwrap().unwrap().value, number(2));
}

#[tokio::test]
async fn what_the_user_must_mend_is_named() {
    let worker = Worker::shared();
    let wrong = R2Store::open(&R2Settings { token: "wrong".into(), ..worker.settings("wrong") }).unwrap();
    let without_secret = Worker::with_secret(None);
    let elsewhere = Worker::start("export default { fetch: () => new Response('?', { status: 404 }) };", None);
    for (store, expected) in [
        (wrong, "InvalidToken"),
        (without_secret.store("s"), "TokenNotSet"),
        // What knows nothing of objects must not look like an empty bucket.
        (elsewhere.store("s"), "Http404"),
    ] {
        assert_eq!(unavailable(store.check().await).0, expected);
        assert_eq!(unavailable(store.prove().await).0, expected);
        assert_eq!(unavailable(store.adapter("s").get(&key("a")).await).0, expected);
        let write = store.adapter("s").set(&key("a"), number(1)).await;
        assert_eq!(unavailable(write).0, expected, "a refused write is a clean failure");
    }
}

/// As long as the cache of the tests keeps anything.
pub(crate) const LONG: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn a_stale_value_is_read_only_where_an_age_was_allowed_and_says_its_age() {
    let worker = Worker::shared();
    let (here, elsewhere) = (worker.store("stale").adapter("s"), worker.elsewhere("stale").adapter("s"));
    let a = key("a");
    let first = here.set(&a, number(1)).await.unwrap().applied().unwrap();
    let old = Some(Entry { value: number(1), version: first.clone() });
    let read = here.get_with_cache(&a, LONG).await.unwrap();
    assert_eq!(read, Cached { entry: old.clone(), age: Duration::ZERO }, "nothing was kept yet");

    // Another data centre writes, and can't know what is kept here.
    let second = elsewhere.set(&a, number(2)).await.unwrap().applied().unwrap();
    let new = Some(Entry { value: number(2), version: second.clone() });
    assert_eq!(here.get(&a).await.unwrap(), new, "a plain read is never stale");
    let stale = here.get_with_cache(&a, LONG).await.unwrap();
    assert_eq!(stale.entry, old);
    assert!(stale.age >= Duration::from_secs(1) && stale.age <= LONG, "{stale:?}");
    let outcome = here.put(&a, number(9), &Condition::Version(first)).await.unwrap();
    assert_eq!(outcome, Outcome::Rejected(new.clone()), "what was read stale is overwritten by nobody");

    let now = Cached { entry: new, age: Duration::ZERO };
    assert_eq!(here.get_with_cache(&a, Duration::ZERO).await.unwrap(), now, "no age was allowed");
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(here.get_with_cache(&a, Duration::from_secs(1)).await.unwrap(), now, "what is kept is too old");
}

#[tokio::test]
async fn a_write_and_a_removal_take_out_what_is_kept_here() {
    let adapter = Worker::shared().store("purged").adapter("s");
    let a = key("a");
    let kept = || async {
        let first = adapter.get_with_cache(&a, LONG).await.unwrap();
        assert_eq!(first.age, Duration::ZERO, "{first:?} was kept from before");
        let again = adapter.get_with_cache(&a, LONG).await.unwrap();
        assert_eq!(again.entry, first.entry);
        assert!(again.age > Duration::ZERO, "it was not kept");
        first.entry.map(|entry| entry.value)
    };
    for n in 1..=3 {
        let _ = adapter.set(&a, number(n)).await.unwrap().applied().unwrap();
        assert_eq!(kept().await, Some(number(n)));
    }
    assert_eq!(adapter.delete(&a).await.unwrap(), Outcome::Applied(true));
    assert_eq!(kept().await, None);
    let missing = adapter.get_with_cache(&key("none"), LONG).await.unwrap();
    assert_eq!(missing, Cached { entry: None, age: Duration::ZERO });
}

#[tokio::test]
async fn deleting_a_prefix_takes_all_of_it_and_nothing_else_and_nothing_of_it_is_kept() {
    let (store, neighbour) = (Worker::shared().store("deleted"), Worker::shared().store("deleted2"));
    for root in ["shards/001", "shards/002", "other"] {
        let items = (0..20).map(|n| (key(&format!("k/{n}")), number(n))).collect();
        for outcome in store.adapter(root).set_batch(items).await {
            assert!(outcome.unwrap().applied().is_some());
        }
    }
    let _ = neighbour.adapter("shards/001").set(&key("a"), number(1)).await.unwrap();
    let gone = store.adapter("shards/001");
    assert!(gone.get_with_cache(&key("k/0"), LONG).await.unwrap().entry.is_some());
    assert!(matches!(store.delete_prefix("").await, Err(Error::Invalid { .. })));
    assert_eq!(store.delete_prefix("shards/").await.unwrap(), 40);
    assert_eq!(store.delete_prefix("shards/").await.unwrap(), 0);
    assert_eq!(gone.get_with_cache(&key("k/0"), LONG).await.unwrap().entry, None);
    assert_eq!(store.adapter("other").list("", None, 100).await.unwrap().keys.len(), 20);
    assert!(neighbour.adapter("shards/001").get(&key("a")).await.unwrap().is_some());
}

#[tokio::test]
async fn a_removed_value_leaves_a_tombstone_over_which_the_next_one_is_written() {
    let store = Worker::shared().store("tombstone");
    let adapter = store.adapter("s");
    let first = adapter.set(&key("a"), number(1)).await.unwrap().applied().unwrap();
    assert_eq!(adapter.delete(&key("a")).await.unwrap(), Outcome::Applied(true));
    assert_eq!(adapter.get(&key("a")).await.unwrap(), None);
    assert_eq!(adapter.list("", None, 10).await.unwrap().keys, []);
    let tombstone = store.documents("s/kv").read("a").await.unwrap().unwrap();
    assert!(tombstone.body.len() <= 100, "{:?}", tombstone.body);
    let again = adapter.put(&key("a"), number(1), &Condition::Absent).await.unwrap().applied().unwrap();
    assert!(again.revision > first.revision + 1, "the tombstone was a write of its own: {again}");
}

#[tokio::test]
async fn a_large_value_is_read_as_it_was_written() {
    let adapter = Worker::shared().store("large").adapter("s");
    let large = |byte: u8| Value::Bytes(vec![byte; 12 << 20].into());
    let _ = adapter.set(&key("a"), large(1)).await.unwrap().applied().unwrap();
    let version = adapter.set(&key("a"), large(2)).await.unwrap().applied().unwrap();
    let stands = Entry { value: large(2), version };
    assert!(adapter.get(&key("a")).await.unwrap().as_ref() == Some(&stands));
    for _ in 0..2 {
        assert!(adapter.get_with_cache(&key("a"), LONG).await.unwrap().entry.as_ref() == Some(&stands));
    }
}

#[tokio::test]
async fn a_document_is_stored_as_it_is_and_changes_only_from_the_version_that_was_seen() {
    let documents = Worker::shared().store("documents").documents("");
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
    assert_eq!(documents.names("_cluster/").await.unwrap(), [name]);
}
