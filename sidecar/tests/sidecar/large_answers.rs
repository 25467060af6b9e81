//! Large answers, and clients that take their time: all answers on their way share a limit of memory.

use std::io::{Read, Write};

use brainy_sidecar::http::server::API_LIMITS;
use serde_json::json;

use crate::support::app::{App, failed};
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
