//! Faults of networks and stores, one by one: what each leaves behind, and what the caller is told.

use std::sync::Arc;

use brainy_storage::backends::s3::S3Store;
use brainy_storage::documents::{Documents, Swap};
use brainy_storage::{Condition, Error, Key, Operation, OperationId, Outcome, StorageAdapter, Value, WriteResult};
use bytes::Bytes;
use serde_json::json;
use tokio::sync::Notify;

use crate::gateway::{Gateway, impatient, settings};
use crate::proxy::{Meddling, Proxy, Spoil};
use crate::{is_unknown, key, number, open, unavailable};

struct Way {
    gateway: Gateway,
    proxy: Proxy,
    /// Through the proxy.
    store: S3Store,
}

async fn way() -> Way {
    let gateway = Gateway::start().await;
    let proxy = Proxy::start(&gateway, Meddling::Nothing).await;
    let store = open(settings(&proxy.endpoint())).await;
    Way { gateway, proxy, store }
}

/// What each kind of write comes to while something goes wrong, on keys of its own that stand at 1.
async fn writes(adapter: &dyn StorageAdapter, proxy: &Proxy, meddling: Meddling) -> Vec<(Key, WriteResult<()>)> {
    let keys = ["set", "put", "swapped", "increment", "deleted"].map(key);
    proxy.meddle(Meddling::Nothing);
    for key in &keys {
        let _ = adapter.set(key, number(1)).await.unwrap();
    }
    let version = adapter.get(&keys[1]).await.unwrap().unwrap().version;
    proxy.meddle(meddling);
    let results = [
        adapter.set(&keys[0], number(2)).await.map(|outcome| outcome.map(drop)),
        adapter.put(&keys[1], number(2), &Condition::Version(version)).await.map(|outcome| outcome.map(drop)),
        adapter.compare_and_swap(&keys[2], Some(number(1)), Some(number(2))).await.map(|outcome| outcome.map(drop)),
        adapter.increment(&keys[3], 1.into()).await.map(|outcome| outcome.map(drop)),
        adapter.delete(&keys[4]).await.map(|outcome| outcome.map(drop)),
    ];
    keys.into_iter().zip(results).collect()
}

async fn value(adapter: &dyn StorageAdapter, key: &Key) -> Option<Value> {
    adapter.get(key).await.unwrap().map(|entry| entry.value)
}

#[tokio::test]
async fn a_request_lost_on_its_way_is_unknown_and_is_not_sent_again() {
    let Way { gateway: _gateway, proxy, store } = way().await;
    let adapter = store.adapter("s");
    let outcomes = writes(&adapter, &proxy, Meddling::LosesRequests).await;
    proxy.meddle(Meddling::Nothing);
    for (key, outcome) in outcomes {
        assert!(is_unknown(&outcome), "{key}: {outcome:?}");
        assert_eq!(value(&adapter, &key).await, Some(number(1)), "{key}: it had no effect");
    }
    // Nothing is left over that could stand in the way.
    for (key, outcome) in writes(&adapter, &proxy, Meddling::Nothing).await {
        assert!(matches!(outcome, Ok(Outcome::Applied(()))), "{key}: {outcome:?}");
    }
}

/// Each write has taken effect, once, and its caller knows.
async fn have_landed_once(adapter: &dyn StorageAdapter, outcomes: Vec<(Key, WriteResult<()>)>, why: &str) {
    for (key, outcome) in outcomes {
        let expected = (key.as_str() != "deleted").then(|| number(2));
        assert!(matches!(outcome, Ok(Outcome::Applied(()))), "{why}: {key}: {outcome:?}");
        assert_eq!(value(adapter, &key).await, expected, "{why}: {key}");
    }
}

#[tokio::test]
async fn a_failure_after_the_effect_is_found_out_by_a_look_and_is_not_sent_again() {
    let Way { gateway: _gateway, proxy, store } = way().await;
    let adapter = store.adapter("s");
    for (status, code) in [(500, "InternalError"), (503, "ServiceUnavailable"), (502, "BadGateway"), (504, "")] {
        let outcomes = writes(&adapter, &proxy, Meddling::FailsAfterwards(status, code)).await;
        proxy.meddle(Meddling::Nothing);
        have_landed_once(&adapter, outcomes, &status.to_string()).await;
    }
}

#[tokio::test]
async fn a_write_whose_second_arrival_is_refused_is_known_to_have_taken_effect() {
    let Way { gateway: _gateway, proxy, store } = way().await;
    let adapter = store.adapter("s");
    let outcomes = writes(&adapter, &proxy, Meddling::SendsTwice).await;
    have_landed_once(&adapter, outcomes, "sent twice").await;
    let created = adapter.put(&key("new"), number(1), &Condition::Absent).await.unwrap();
    assert_eq!(created.applied(), adapter.get(&key("new")).await.unwrap().map(|entry| entry.version));
}

/// What others do to a value between the two arrivals of its write.
#[derive(Clone, Copy, Debug)]
enum Meanwhile {
    Removed,
    RemovedByVersion,
    WrittenByVersion,
    WrittenAndRemovedByVersion,
}

#[tokio::test]
async fn a_write_that_others_wrote_over_before_its_second_arrival_is_not_done_again() {
    let Way { gateway, proxy, store } = way().await;
    let adapter = store.adapter("s");
    let others = open(settings(&gateway.endpoint())).await.adapter("s");
    for meanwhile in [
        Meanwhile::Removed,
        Meanwhile::RemovedByVersion,
        Meanwhile::WrittenByVersion,
        Meanwhile::WrittenAndRemovedByVersion,
    ] {
        let (key, again) = (key(&format!("{meanwhile:?}")), Arc::new(Notify::new()));
        proxy.meddle(Meddling::SendsFirstTwice(Arc::clone(&again)));
        let writes = async { adapter.set(&key, number(1)).await };
        let come_between = async {
            let written = loop {
                match others.get(&key).await.unwrap() {
                    Some(entry) => break entry,
                    // Perhaps it was an earlier one that arrived.
                    None => proxy.write_has_arrived().await,
                }
            };
            let mut condition = Condition::Version(written.version);
            if matches!(meanwhile, Meanwhile::WrittenByVersion | Meanwhile::WrittenAndRemovedByVersion) {
                let written = others.put(&key, number(2), &condition).await.unwrap();
                condition = Condition::Version(written.applied().unwrap());
            }
            match meanwhile {
                Meanwhile::Removed => drop(others.delete(&key).await.unwrap()),
                Meanwhile::WrittenByVersion => {}
                _ => assert_eq!(others.remove(&key, &condition).await.unwrap(), Outcome::Applied(true)),
            }
            again.notify_one();
        };
        let (outcome, ()) = tokio::join!(writes, come_between);
        assert!(matches!(outcome, Ok(Outcome::Applied(_))), "{meanwhile:?}: {outcome:?}");
        let expected = matches!(meanwhile, Meanwhile::WrittenByVersion).then(|| number(2));
        assert_eq!(value(&adapter, &key).await, expected, "{meanwhile:?}");
    }
}

#[tokio::test]
async fn a_refusal_that_can_not_be_looked_into_is_unknown() {
    let Way { gateway: _gateway, proxy, store } = way().await;
    let adapter = store.adapter("s");
    let version = adapter.set(&key("a"), number(1)).await.unwrap().applied().unwrap();
    let _ = adapter.set(&key("a"), number(2)).await.unwrap();
    proxy.meddle(Meddling::SpoilsReads(usize::MAX, Spoil::Fail(503, "SlowDown")));
    let stale = Condition::Version(version);
    assert!(is_unknown(&adapter.put(&key("a"), number(3), &stale).await));
    assert!(is_unknown(&adapter.remove(&key("a"), &stale).await));
    assert!(is_unknown(&adapter.set(&key("a"), number(3)).await));
    proxy.meddle(Meddling::Nothing);
    assert_eq!(value(&adapter, &key("a")).await, Some(number(2)));
}

#[tokio::test]
async fn a_store_that_asks_for_patience_is_asked_again_and_then_the_write_fails_cleanly() {
    let Way { gateway: _gateway, proxy, store } = way().await;
    let adapter = store.adapter("s");
    let outcomes = writes(&adapter, &proxy, Meddling::Answers(503, "SlowDown")).await;
    proxy.meddle(Meddling::Nothing);
    for (key, outcome) in outcomes {
        assert_eq!(unavailable(outcome).0, "SlowDown", "{key}");
        assert_eq!(value(&adapter, &key).await, Some(number(1)), "{key}");
    }
}

#[tokio::test]
async fn a_read_that_is_turned_away_is_repeated_and_fails_with_the_stores_own_word() {
    let Way { gateway: _gateway, proxy, store } = way().await;
    let adapter = store.adapter("s");
    let _ = adapter.set(&key("a"), number(1)).await.unwrap();
    for (status, code) in [(503, "SlowDown"), (503, "ServiceUnavailable"), (500, "InternalError")] {
        proxy.meddle(Meddling::SpoilsReads(2, Spoil::Fail(status, code)));
        assert_eq!(value(&adapter, &key("a")).await, Some(number(1)), "{code}");
        proxy.meddle(Meddling::SpoilsReads(usize::MAX, Spoil::Fail(status, code)));
        assert_eq!(unavailable(adapter.get(&key("a")).await).0, code);
    }
}

#[tokio::test]
async fn a_store_that_is_too_slow_fails_a_read_and_leaves_a_write_as_it_was() {
    let gateway = Gateway::start().await;
    let proxy = Proxy::start(&gateway, Meddling::Nothing).await;
    let adapter = open(impatient(&proxy.endpoint())).await.adapter("s");
    let _ = adapter.set(&key("a"), number(1)).await.unwrap();
    proxy.meddle(Meddling::SpoilsReads(usize::MAX, Spoil::Hang));
    assert_eq!(unavailable(adapter.get(&key("a")).await).0, "TimedOut");
    // It must look before it writes, and so it has written nothing when it gives up.
    assert_eq!(unavailable(adapter.increment(&key("a"), 1.into()).await).0, "TimedOut");
    proxy.meddle(Meddling::Nothing);
    assert_eq!(value(&adapter, &key("a")).await, Some(number(1)));
}

#[tokio::test]
async fn a_body_that_is_cut_off_is_never_taken_for_a_value() {
    let Way { gateway: _gateway, proxy, store } = way().await;
    let (adapter, documents) = (store.adapter("s"), store.documents("_cluster"));
    let values =
        [("json", Value::Json(json!({ "a": "b".repeat(1000) }))), ("bytes", Value::Bytes(vec![7; 200_000].into()))];
    for (name, value) in values {
        let _ = adapter.set(&key(name), value.clone()).await.unwrap();
        proxy.meddle(Meddling::SpoilsReads(usize::MAX, Spoil::Cut));
        assert_eq!(unavailable(adapter.get(&key(name)).await).0, "BadAnswer", "{name}");
        assert_eq!(unavailable(adapter.compare_and_swap(&key(name), None, Some(value.clone())).await).0, "BadAnswer");
        proxy.meddle(Meddling::Nothing);
        assert_eq!(adapter.get(&key(name)).await.unwrap().unwrap().value, value);
    }
    assert!(matches!(documents.swap("d", None, Bytes::from_static(b"{\"revision\":12}")).await, Ok(Swap::Applied(_))));
    proxy.meddle(Meddling::SpoilsReads(usize::MAX, Spoil::Cut));
    assert_eq!(unavailable(documents.read("d").await).0, "BadAnswer");
}

#[tokio::test]
async fn damage_anywhere_in_a_body_is_found_by_its_checksum() {
    let Way { gateway: _gateway, proxy, store } = way().await;
    let adapter = store.adapter("s");
    for (name, value) in
        [("json", Value::Json(json!({ "a": [1, "b"] }))), ("bytes", Value::Bytes(vec![0, 255, 7].into()))]
    {
        let _ = adapter.set(&key(name), value.clone()).await.unwrap();
        let length = store.documents("s/kv").read(name).await.unwrap().unwrap().body.len();
        for place in 0..length {
            proxy.meddle(Meddling::SpoilsReads(usize::MAX, Spoil::Damage(place)));
            let read = adapter.get(&key(name)).await;
            assert!(matches!(read, Err(Error::Corrupt { .. })), "{name}, byte {place} of {length}: {read:?}");
        }
        proxy.meddle(Meddling::Nothing);
        assert_eq!(adapter.get(&key(name)).await.unwrap().unwrap().value, value);
    }
}

#[tokio::test]
async fn damage_on_the_way_is_mended_by_a_second_read_where_etags_tell() {
    let Way { gateway: _gateway, proxy, store } = way().await;
    assert!(store.prove().await.unwrap().etag_is_md5);
    let adapter = store.adapter("s");
    let _ = adapter.set(&key("a"), number(1)).await.unwrap();
    proxy.meddle(Meddling::SpoilsReads(1, Spoil::Damage(9)));
    assert_eq!(value(&adapter, &key("a")).await, Some(number(1)));
}

#[tokio::test]
async fn a_write_that_is_damaged_on_its_way_is_refused_and_fails_cleanly() {
    let Way { gateway, proxy, store } = way().await;
    let adapter = store.adapter("s");
    proxy.meddle(Meddling::DamagesWrites);
    let (cause, _) = unavailable(adapter.set(&key("a"), number(1)).await);
    assert!(cause.contains("SHA256") || cause.contains("Digest"), "{cause}");
    assert!(gateway.files().is_empty(), "{:?}", gateway.files());
}

#[tokio::test]
async fn a_write_that_arrives_a_second_time_changes_nothing() {
    let Way { gateway: _gateway, proxy, store } = way().await;
    let (adapter, documents) = (store.adapter("s"), store.documents("_cluster"));
    for n in 1..4 {
        let _ = adapter.set(&key("set"), number(n)).await.unwrap();
        let _ = adapter.increment(&key("sum"), 1.into()).await.unwrap();
    }
    let _ = adapter.set(&key("deleted"), number(1)).await.unwrap();
    let _ = adapter.delete(&key("deleted")).await.unwrap();
    let _ = adapter.set(&key("again"), number(1)).await.unwrap();
    let _ = adapter.delete(&key("again")).await.unwrap();
    let _ = adapter.set(&key("again"), number(2)).await.unwrap();
    let Ok(Swap::Applied(first)) = documents.swap("d", None, Bytes::from_static(b"1")).await else { panic!() };
    let Ok(Swap::Applied(_)) = documents.swap("d", Some(&first), Bytes::from_static(b"2")).await else { panic!() };

    let keys = ["set", "sum", "deleted", "again"].map(key);
    let before = adapter.get_batch(&keys).await;
    let statuses = proxy.replay().await;
    assert!(statuses.len() > 10 && statuses.iter().all(|status| *status == 412), "{statuses:?}");
    assert_eq!(adapter.get_batch(&keys).await, before);
    assert_eq!(documents.read("d").await.unwrap().unwrap().body, "2");
}

/// As a proxy may do that had no answer in time, and has tried another server of the store.
#[tokio::test]
async fn a_value_that_was_removed_does_not_come_back_when_its_creation_arrives_again() {
    let Way { gateway: _gateway, proxy, store } = way().await;
    let adapter = store.adapter("s");
    for created in ["set", "put", "swap", "increment", "once", "batch"] {
        for removed in ["delete", "remove", "swap"] {
            let key = key(&format!("{created}-{removed}"));
            match created {
                "set" => drop(adapter.set(&key, number(1)).await.unwrap().applied().unwrap()),
                "put" => drop(adapter.put(&key, number(1), &Condition::Absent).await.unwrap().applied().unwrap()),
                "swap" => drop(adapter.compare_and_swap(&key, None, Some(number(1))).await.unwrap().applied().unwrap()),
                "increment" => drop(adapter.increment(&key, 1.into()).await.unwrap().applied().unwrap()),
                "once" => {
                    let (add, id) = (Operation::Increment { delta: 1.into() }, OperationId::new("a").unwrap());
                    drop(adapter.perform_once(&key, add, &id).await.unwrap().applied().unwrap());
                }
                _ => drop(adapter.set_batch(vec![(key.clone(), number(1))]).await.pop().unwrap().unwrap()),
            }
            let entry = adapter.get(&key).await.unwrap().unwrap();
            assert_eq!(entry.value, number(1));
            match removed {
                "delete" => assert_eq!(adapter.delete(&key).await.unwrap(), Outcome::Applied(true)),
                "remove" => {
                    let stands = Condition::Version(entry.version);
                    assert_eq!(adapter.remove(&key, &stands).await.unwrap(), Outcome::Applied(true));
                }
                _ => {
                    let gone = adapter.compare_and_swap(&key, Some(number(1)), None).await.unwrap();
                    assert_eq!(gone, Outcome::Applied(None));
                }
            }
        }
    }
    let statuses = proxy.replay().await;
    assert!(statuses.len() >= 36 && statuses.iter().all(|status| *status == 412), "{statuses:?}");
    assert_eq!(adapter.list("", None, 100).await.unwrap().keys, []);
    for created in ["set", "put", "swap", "increment", "once", "batch"] {
        assert_eq!(value(&adapter, &key(&format!("{created}-delete"))).await, None);
    }
}
