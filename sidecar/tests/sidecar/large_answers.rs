//! Large answers, and clients that take their time: all answers on their way share a limit of memory.

use std::io::{Read, Write};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use brainy_sidecar::http::outlet::Outlet;
use brainy_sidecar::http::server::API_LIMITS;
use brainy_sidecar::ownership::Ownership;
use brainy_sidecar::peers::listener;
use brainy_sidecar::peers::wire::{CALLS_PATH, CallsRequest};
use brainy_sidecar::routing::{Call, Reply, Router};
use brainy_storage::layers::LayerStack;
use brainy_storage::{Condition, Key, Value};
use serde_json::json;
use tower::ServiceExt;

use crate::support::app::{App, PATIENCE, SHARDS, failed};
use crate::support::faulty::MemoryStores;
use crate::support::wire::{connect, read_answer, send_raw};

/// More than the memory for all large answers of an impatient app, 1 MiB, leaves beside another one.
const LARGE: usize = 700 * 1024;

#[tokio::test]
async fn what_there_is_no_room_for_is_refused_and_nothing_was_done() {
    let app = App::impatient();
    assert_eq!(app.call("PUT", "/v1/kv/large", &[], vec![7; LARGE]).await.status, 200);
    assert_eq!(app.put_json("/v1/kv/small", "1").await.status, 200);
    let keys = json!({ "keys": ["large", "small"] });
    let swap = json!({ "key": "large", "oldValue": 1, "newValue": 2 });

    let slow = app.open("/v1/kv/large").await;
    for refused in [
        app.get("/v1/kv/large").await,
        app.post("/v1/kv:getBatch", &keys).await,
        app.post("/v1/kv:compareAndSwap", &swap).await,
        app.get("/v1/kv").await,
    ] {
        assert_eq!(refused.problem(), failed(503, "overloaded"));
        assert_eq!(refused.header("retry-after"), "1");
    }
    assert_eq!(app.get("/v1/kv/small").await.json(), 1, "a small answer needs no room");

    drop(slow);
    assert_eq!(app.get("/v1/kv/large").await.body, vec![7; LARGE]);
    let found = app.post("/v1/kv:getBatch", &keys).await.json();
    assert_eq!((&found["items"][0]["found"], &found["items"][1]["value"]), (&json!(true), &json!(1)));
    assert_eq!(app.post("/v1/kv:compareAndSwap", &swap).await.json()["swapped"], false);
    assert_eq!(app.get("/v1/kv").await.json(), json!({ "keys": ["large", "small"] }));
}

#[tokio::test]
async fn the_outcomes_of_a_large_batch_are_told_whatever_else_is_on_its_way() {
    let app = App::impatient();
    assert_eq!(app.call("PUT", "/v1/kv/large", &[], vec![7; LARGE]).await.status, 200);
    let items: Vec<_> = (0..700).map(|n| json!({ "key": format!("{n:0>500}"), "value": n })).collect();
    let _slow = app.open("/v1/kv/large").await;
    let answer = app.post("/v1/kv:setBatch", &json!({ "items": items })).await;
    assert!(answer.body.len() > 256 * 1024, "{}", answer.body.len());
    assert!(answer.json()["items"].as_array().unwrap().iter().all(|item| item["outcome"] == "applied"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_takes_its_time_keeps_its_room_until_it_has_its_answer() {
    let app = App::impatient();
    // Far more than lies in the buffers of a connection.
    const LONG: usize = 14 << 20;
    assert_eq!(app.call("PUT", "/v1/kv/k", &[], vec![7; LONG]).await.status, 200);
    let (address, _connections) = app.serve(API_LIMITS).await;
    let exchange = move || {
        let request = b"GET /v1/kv/k HTTP/1.1\r\nhost: a\r\n\r\n";
        let mut slow = connect(address).unwrap();
        slow.write_all(request).unwrap();
        slow.read_exact(&mut [0; 1]).unwrap();
        let refused = send_raw(address, request).unwrap();
        // The rest of the first line, and all that follows.
        let whole = read_answer(&mut (&b"H"[..]).chain(&mut slow)).unwrap();
        (refused, whole, send_raw(address, request).unwrap())
    };
    let (refused, whole, next) = tokio::task::spawn_blocking(exchange).await.unwrap();
    assert_eq!(refused.problem(), failed(503, "overloaded"));
    assert_eq!((whole.status.as_u16(), whole.body.len()), (200, LONG));
    assert_eq!((next.status.as_u16(), next.body.len()), (200, LONG));
}

#[tokio::test]
async fn what_other_nodes_read_shares_its_memory_too_and_what_became_of_their_writes_is_told() {
    let ownership = Ownership::standalone(SHARDS, Arc::new(MemoryStores::default()), LayerStack::default());
    let router = Arc::new(Router::new(Arc::new(ownership), None, PATIENCE, Arc::default()));
    let app = listener::app(Arc::clone(&router), None, Outlet::new(1 << 20, Duration::from_millis(20)));
    let key = Key::new("large").unwrap();
    let put =
        || Call::Put { key: key.clone(), value: Value::Bytes(vec![7; LARGE].into()), condition: Condition::Absent };
    assert!(matches!(router.run_one(None, put()).await, Reply::Written(_)));
    let ask = async |call| {
        let body = serde_json::to_vec(&CallsRequest::new(None, vec![call])).unwrap();
        let request = Request::post(CALLS_PATH).body(Body::from(body)).unwrap();
        app.clone().oneshot(request).await.unwrap()
    };
    let get = || Call::Get { key: key.clone() };
    let slow = ask(get()).await;
    assert_eq!(slow.status(), 200);
    assert_eq!(ask(get()).await.status(), 503);
    assert_eq!(ask(put()).await.status(), 200, "it was rejected: where that is not told, its outcome is unknown");
    drop(slow);
    assert_eq!(ask(get()).await.status(), 200);
}
