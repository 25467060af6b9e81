//! Requests with an id of the client's own: done once, however often they are sent.

use brainy_sidecar::routing::{Call, Reply};
use brainy_storage::{Error, Operation, OperationId, StorageAdapter, Value};
use serde_json::json;

use crate::support::app::{Answer, App, failed};
use crate::support::cluster::Cluster;
use crate::support::faulty::Fault;

const JSON: (&str, &str) = ("content-type", "application/json");

async fn increment(app: &App, key: &str, id: &str) -> Answer {
    let body = json!({ "key": key, "delta": 1 }).to_string();
    app.call("POST", "/v1/kv:increment", &[JSON, ("idempotency-key", id)], body).await
}

#[tokio::test]
async fn a_request_sent_again_with_its_id_gets_its_first_answer() {
    let app = App::new();
    let first = increment(&app, "n", "a").await;
    // As the draft has it, and as most clients send it.
    for id in ["a", "\"a\""] {
        let again = increment(&app, "n", id).await;
        assert_eq!((again.status.as_u16(), again.json()), (200, first.json()));
    }
    assert_eq!(increment(&app, "n", "b").await.json()["value"], 2);

    let put = async |text: &str, headers: &[(&str, &str)]| app.call("PUT", "/v1/kv/k", headers, text.to_owned()).await;
    let first = put("1", &[JSON, ("idempotency-key", "a")]).await;
    assert_eq!(put("2", &[JSON]).await.status, 200);
    let again = put("1", &[JSON, ("idempotency-key", "a")]).await;
    assert_eq!(again.status, 200);
    let revision = |answer: &Answer| answer.json()["version"].as_str().unwrap().split('-').next().unwrap().to_owned();
    assert_eq!(revision(&again), revision(&first));
    assert_eq!(app.get("/v1/kv/k").await.json(), 2, "what came later stands");

    let swap = json!({ "key": "s", "oldValue": null, "newValue": 1 }).to_string();
    for _ in 0..2 {
        let swapped = app.call("POST", "/v1/kv:compareAndSwap", &[JSON, ("idempotency-key", "a")], swap.clone()).await;
        assert_eq!(swapped.json()["swapped"], true);
    }
}

#[tokio::test]
async fn an_id_that_is_not_kept_is_refused_and_not_ignored() {
    let app = App::new();
    assert_eq!(increment(&app, "n", "a").await.status, 200);
    let id = ("idempotency-key", "a");
    let other = json!({ "key": "n", "delta": 2 }).to_string();
    let batch = json!({ "items": [] }).to_string();
    let removal = json!({ "key": "n", "oldValue": 1, "newValue": null }).to_string();
    for (method, path, headers, body) in [
        ("POST", "/v1/kv:increment", vec![JSON, id], other),
        ("POST", "/v1/kv:setBatch", vec![JSON, id], batch),
        ("POST", "/v1/kv:compareAndSwap", vec![JSON, ("idempotency-key", "b")], removal),
        ("DELETE", "/v1/kv/n", vec![id], String::new()),
        ("PUT", "/v1/kv/n", vec![("idempotency-key", "a b")], String::new()),
        ("PUT", "/v1/kv/n", vec![id, ("idempotency-key", "b")], String::new()),
    ] {
        let answer = app.call(method, path, &headers, body).await;
        assert_eq!(answer.problem(), failed(400, "invalid-request"), "{method} {path}: {}", answer.text());
        assert_eq!(answer.json()["field"], "Idempotency-Key", "{}", answer.text());
    }
    assert_eq!(app.get("/v1/kv/n").await.json(), 1);
}

#[tokio::test]
async fn where_the_outcome_is_unknown_a_request_with_an_id_is_asked_again() {
    let app = App::new();
    app.stores.set_fault(Fault::UnknownOnce(Box::new(Fault::None)));
    let answer = increment(&app, "n", "a").await;
    assert_eq!((answer.status.as_u16(), answer.json()["value"].clone()), (200, json!(1)), "{}", answer.text());
    assert_eq!(app.get("/v1/kv/n").await.json(), 1);
}

#[tokio::test]
async fn a_request_that_may_have_taken_effect_never_ends_as_a_clean_failure() {
    let unreachable = || Error::unavailable("Unreachable", "a test");
    for then in [Fault::UnknownWrites, Fault::Failing(unreachable()), Fault::UnknownOnce(Box::new(Fault::Silent))] {
        let app = App::impatient();
        app.stores.set_fault(Fault::UnknownOnce(Box::new(then.clone())));
        let answer = increment(&app, "n", "a").await;
        let (status, _, outcome) = answer.problem();
        assert_eq!((status, outcome.as_str()), (504, "unknown"), "{then:?}: {}", answer.text());
        app.stores.set_fault(Fault::None);
        assert_eq!(increment(&app, "n", "a").await.json()["value"], 1, "{then:?}");
    }
}

#[tokio::test]
async fn the_id_goes_along_to_the_owner() {
    let cluster = Cluster::of(2).await;
    let (key, shard) = cluster.key_of(1);
    let call = || Call::Once {
        key: key.clone(),
        operation: Operation::Increment { delta: 1.into() },
        id: OperationId::new("a").unwrap(),
    };
    for node in [0, 1, 0] {
        let reply = cluster.nodes[node].router.run_one(None, call()).await;
        assert!(matches!(&reply, Reply::Sum(sum, _) if *sum == 1.into()), "{reply:?}");
    }
    let stands = cluster.nodes[1].shard(shard).get(&key).await.unwrap().unwrap();
    assert_eq!(stands.value, Value::Json(1.into()));
}
