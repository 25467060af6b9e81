//! Single keys through the storage API.

use http_body_util::BodyExt;
use serde_json::{Value, json};

use crate::support::app::{App, SHARDS, failed};

#[tokio::test]
async fn every_json_value_comes_back_as_it_was_written() {
    let app = App::new();
    for text in [
        "null",
        "0",
        "\"\"",
        "false",
        "[]",
        "{\"b\":1,\"a\":[null]}",
        "0.1",
        "9007199254740993",
        "1.7976931348623157e308",
    ] {
        assert_eq!(app.put_json("/v1/kv/k", text).await.status, 200, "{text}");
        let answer = app.get("/v1/kv/k").await;
        assert_eq!((answer.status.as_u16(), answer.header("content-type")), (200, "application/json"), "{text}");
        assert_eq!(answer.json(), serde_json::from_str::<Value>(text).unwrap(), "{text}");
    }
}

#[tokio::test]
async fn bytes_come_back_as_they_were_written() {
    let app = App::new();
    let bytes: Vec<u8> = (0..=255).collect();
    let written = app.call("PUT", "/v1/kv/k", &[("content-type", "image/png")], bytes.clone()).await;
    assert_eq!(written.status, 200);
    let answer = app.get("/v1/kv/k").await;
    assert_eq!((answer.header("content-type"), &answer.body), ("application/octet-stream", &bytes));
    let empty = app.call("PUT", "/v1/kv/empty", &[], "").await;
    assert_eq!(empty.status, 200);
    let answer = app.get("/v1/kv/empty").await;
    assert_eq!((answer.status.as_u16(), answer.body.len()), (200, 0));
}

#[tokio::test]
async fn a_key_is_decoded_exactly_once() {
    let app = App::new();
    for (path, key) in [
        ("a%2Fb", "a/b"),
        ("a%252Fb", "a%2Fb"),
        ("..", ".."),
        ("../up", "../up"),
        (".", "."),
        ("%C3%A4%20%00", "ä \u{0}"),
        ("/leading", "/leading"),
        ("a//b/", "a//b/"),
        ("a+b", "a+b"),
        ("kv:getBatch", "kv:getBatch"),
    ] {
        assert_eq!(app.put_json(&format!("/v1/kv/{path}"), "\"here\"").await.status, 200, "{path}");
        let answer = app.post("/v1/kv:getBatch", &json!({ "keys": [key] })).await.json();
        assert_eq!(answer["items"][0]["value"], "here", "{path} {answer}");
    }
    let slashes = [app.get("/v1/kv/a/b").await.json(), app.get("/v1/kv/a%2Fb").await.json()];
    assert_eq!(slashes, ["here", "here"]);
}

#[tokio::test]
async fn a_read_is_answered_the_same_with_and_without_the_table_of_routes() {
    let app = App::new();
    for key in ["k", "a/b", "a//b/", "..", "a+b", "~!$&'()*,;=:@", "a%20b", "%2525"] {
        let path = format!("/v1/kv/{key}");
        assert_eq!(app.call("PUT", &path, &[], key).await.status, 200, "{path}");
        assert_eq!(app.get(&path).await.text(), key, "{path}");
    }
    app.put_json("/v1/kv/json", "{\"a\":1}").await;
    app.put_json("/v1/namespaces/n/kv/k", "1").await;
    let long = format!("/v1/kv/{}", "k".repeat(1025));
    for path in [
        "/v1/kv/k",
        "/v1/kv/a/b",
        "/v1/kv/a//b/",
        "/v1/kv/a/b/",
        "/v1/kv/..",
        "/v1/kv/~!$&'()*,;=:@",
        "/v1/kv/a+b",
        "/v1/kv/a%20b",
        "/v1/kv/%2525",
        "/v1/kv/%25",
        "/v1/kv/%zz",
        "/v1/kv/%ff",
        "/v1/kv/json",
        "/v1/kv/json?x=%zz",
        "/v1/kv/json?x=1",
        "/v1/kv/none",
        "/v1/kv/",
        "/v1/kv//",
        "/v1/kv",
        "/v1/namespaces/n/kv/k",
        &long,
    ] {
        let [one, other] = app.both_ways(path).await;
        assert_eq!((one.status, one.text()), (other.status, other.text()), "{path}");
        assert_eq!(one.headers, other.headers, "{path}");
    }
    // Each counts, whichever way: 8 that were read above, and 10 of the 21 twice.
    let metrics = app.get("/metrics").await.text();
    assert!(metrics.contains("brainy_requests_total{operation=\"get\",outcome=\"success\"} 30"), "{metrics}");
}

#[tokio::test]
async fn a_missing_key_is_not_found() {
    let answer = App::new().get("/v1/kv/nothing").await;
    assert_eq!(answer.problem(), failed(404, "key-not-found"));
}

#[tokio::test]
async fn delete_removes_and_says_whether_there_was_something() {
    let app = App::new();
    app.put_json("/v1/kv/k", "null").await;
    assert_eq!(app.call("DELETE", "/v1/kv/k", &[], "").await.json(), json!({ "removed": true }));
    assert_eq!(app.get("/v1/kv/k").await.status, 404);
    assert_eq!(app.call("DELETE", "/v1/kv/k", &[], "").await.json(), json!({ "removed": false }));
}

#[tokio::test]
async fn a_conditional_write_takes_the_etag_of_an_answer() {
    let app = App::new();
    let first = app.put_json("/v1/kv/k", "1").await;
    let etag = first.header("etag").to_owned();
    assert_eq!(app.get("/v1/kv/k").await.header("etag"), etag);
    assert_eq!(format!("\"{}\"", first.json()["version"].as_str().unwrap()), etag);

    let put = |name: &'static str, value: String| {
        let app = &app;
        async move { app.call("PUT", "/v1/kv/k", &[(name, &value), ("content-type", "application/json")], "2").await }
    };
    let second = put("if-match", etag.clone()).await;
    assert_eq!(second.status, 200);
    let rejected = put("if-match", etag).await;
    assert_eq!(rejected.problem(), failed(412, "precondition-failed"));
    assert_eq!(rejected.header("etag"), second.header("etag"));
    assert_eq!(rejected.json()["currentVersion"], second.json()["version"]);
    let exists = put("if-none-match", "*".into()).await;
    assert_eq!(exists.problem(), failed(412, "precondition-failed"));
    let malformed = put("if-match", "5".into()).await;
    assert_eq!(malformed.problem(), failed(400, "invalid-request"));
    let weak = put("if-match", "W/\"1-a\"".into()).await;
    assert_eq!(weak.problem(), failed(400, "invalid-request"));

    let gone = app.call("DELETE", "/v1/kv/k", &[("if-match", second.header("etag"))], "").await;
    assert_eq!(gone.json(), json!({ "removed": true }));
    let absent = app.call("DELETE", "/v1/kv/k", &[("if-match", second.header("etag"))], "").await;
    assert_eq!((absent.problem(), absent.header("etag")), (failed(412, "precondition-failed"), ""));
}

#[tokio::test]
async fn compare_and_swap_compares_values_and_null_is_no_value() {
    let app = App::new();
    let swap = |body: Value| {
        let app = &app;
        async move { app.post("/v1/kv:compareAndSwap", &body).await.json() }
    };
    let created = swap(json!({ "key": "k", "oldValue": null, "newValue": { "a": 1, "b": 2 } })).await;
    assert_eq!(created["swapped"], true);
    let again = swap(json!({ "key": "k", "oldValue": null, "newValue": 1 })).await;
    assert_eq!((&again["swapped"], &again["current"]["value"]), (&json!(false), &json!({ "a": 1, "b": 2 })));
    assert_eq!(again["current"]["version"], created["version"]);
    let by_value = swap(json!({ "key": "k", "oldValue": { "b": 2, "a": 1 }, "newValueBase64": "AP8=" })).await;
    assert_eq!(by_value["swapped"], true);
    let bytes = swap(json!({ "key": "k", "oldValueBase64": "AP8=", "newValue": null })).await;
    assert_eq!(bytes, json!({ "swapped": true }));
    assert_eq!(app.get("/v1/kv/k").await.status, 404);
    let nothing = swap(json!({ "key": "k", "oldValue": 1, "newValue": 2 })).await;
    assert_eq!(nothing, json!({ "swapped": false }));
}

#[tokio::test]
async fn increment_counts_from_nothing() {
    let app = App::new();
    let add = |delta: Value| {
        let app = &app;
        async move { app.post("/v1/kv:increment", &json!({ "key": "n", "delta": delta })).await }
    };
    assert_eq!(add(json!(5)).await.json()["value"], 5);
    let answer = add(json!(-7)).await;
    assert_eq!(answer.json()["value"], -2);
    assert_eq!(format!("\"{}\"", answer.json()["version"].as_str().unwrap()), answer.header("etag"));
    assert_eq!(app.get("/v1/kv/n").await.json(), -2);
    assert_eq!(add(json!(0.5)).await.json()["value"], -1.5);
    app.put_json("/v1/kv/n", "\"text\"").await;
    assert_eq!(add(json!(1)).await.problem(), failed(409, "not-a-number"));
}

#[tokio::test]
async fn keys_of_a_namespace_are_invisible_outside() {
    let app = App::new();
    app.put_json("/v1/namespaces/a%2Fb/kv/k", "1").await;
    assert_eq!(app.get("/v1/kv/k").await.status, 404);
    assert_eq!(app.get("/v1/namespaces/a/kv/k").await.status, 404);
    assert_eq!(app.get("/v1/namespaces/a%2Fb/kv/k").await.json(), 1);
    assert_eq!(app.get("/v1/kv").await.json()["keys"], json!([]));
    assert_eq!(app.get("/v1/namespaces/a%2Fb/kv").await.json()["keys"], json!(["k"]));
    let sum = app.post("/v1/namespaces/a%2Fb/kv:increment", &json!({ "key": "k", "delta": 1 })).await;
    assert_eq!(sum.json()["value"], 2);
}

#[tokio::test]
async fn shards_storage_and_health_are_described() {
    let app = App::new();
    let shards = app.get("/v1/shards").await.json();
    assert_eq!((shards["shards"].as_u64(), shards["items"].as_array().unwrap().len()), (Some(8), SHARDS as usize));
    let one = app.get("/v1/shards/7").await.json();
    assert_eq!((&one["shard"], &one["state"]), (&json!(7), &json!("serving")));
    assert_eq!(app.get("/v1/shards/8").await.problem(), failed(404, "not-found"));
    assert_eq!(app.get("/v1/shards/x").await.problem(), failed(404, "not-found"));
    let storage = app.get("/v1/storage").await.json();
    assert_eq!((&storage["backend"], &storage["limits"]["keyBytes"]), (&json!("filesystem"), &json!(1024)));
    assert_eq!(app.get("/healthz").await.json(), json!({ "alive": true }));
    let ready = app.get("/readyz").await;
    assert_eq!((ready.status.as_u16(), &ready.json()["ready"]), (200, &json!(true)));
    assert_eq!(app.get("/openapi.json").await.json()["openapi"], "3.1.0");
}

#[tokio::test]
async fn a_node_that_stops_is_not_ready_and_says_why() {
    let app = App::new();
    app.ownership.drain().await;
    let answer = app.get("/readyz").await;
    assert_eq!(answer.status, 503);
    assert!(answer.json()["problem"].is_string(), "{}", answer.text());
}

#[tokio::test]
async fn the_watch_tells_every_shard_and_ends_with_the_sidecar() {
    let app = App::new();
    let mut body = app.open("/v1/shards:watch").await;
    let mut text = String::new();
    while text.matches("event: shard").count() < SHARDS as usize {
        let frame = body.frame().await.unwrap().unwrap();
        text.push_str(std::str::from_utf8(frame.data_ref().unwrap()).unwrap());
    }
    assert!(text.contains("\"shard\":7"), "{text}");
    app.stop.raise();
    while body.frame().await.is_some() {}
}

#[tokio::test]
async fn requests_are_counted_by_operation_and_outcome() {
    let app = App::new();
    app.put_json("/v1/kv/k", "1").await;
    app.get("/v1/kv/nothing").await;
    let answer = app.get("/metrics").await;
    assert!(answer.header("content-type").starts_with("application/openmetrics-text"));
    let text = answer.text();
    for line in [
        "brainy_requests_total{operation=\"set\",outcome=\"success\"} 1",
        "brainy_requests_total{operation=\"get\",outcome=\"failed\"} 1",
        "brainy_request_duration_seconds_count{operation=\"set\"} 1",
        "brainy_storage_operations_total{backend=\"memory\",operation=\"set\",outcome=\"success\"} 1",
        "brainy_storage_operations_total{backend=\"memory\",operation=\"get\",outcome=\"success\"} 1",
        "brainy_storage_operations_total{backend=\"memory\",operation=\"get\",outcome=\"failed\"} 0",
        "brainy_storage_operation_duration_seconds_count{backend=\"memory\",operation=\"set\"} 1",
        "brainy_storage_operation_duration_seconds_bucket{le=\"+Inf\",backend=\"memory\",operation=\"set\"} 1",
        "brainy_shards_held 8",
        "brainy_session_valid 1",
        "brainy_build_info{version=",
        "brainy_requests_in_flight 1",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
    assert!(text.ends_with("# EOF\n"));
}
