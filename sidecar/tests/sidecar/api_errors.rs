//! What goes wrong, and that each answer says whether it had an effect (G4).

use axum::body::Body;
use brainy_storage::Error;
use brainy_storage::layers::limiting::Limiting;
use serde_json::{Value, json};

use crate::support::app::{App, failed};
use crate::support::faulty::Fault;

fn unknown() -> (u16, String, String) {
    (504, "outcome-unknown".into(), "unknown".into())
}

#[tokio::test]
async fn a_key_of_a_wrong_length_is_refused() {
    let app = App::new();
    let long = "k".repeat(1025);
    for path in ["/v1/kv/".to_owned(), format!("/v1/kv/{long}"), format!("/v1/namespaces/{}/kv/k", "n".repeat(257))] {
        let answer = app.put_json(&path, "1").await;
        assert_eq!(answer.problem(), failed(400, "invalid-request"), "{path}");
    }
    let answer = app.get(&format!("/v1/kv/{long}")).await;
    assert_eq!(answer.json()["field"], "key");
    let longest = format!("/v1/kv/{}", "k".repeat(1024));
    assert_eq!(app.put_json(&longest, "1").await.status, 200);
}

#[tokio::test]
async fn a_key_that_is_no_text_is_refused() {
    let answer = App::new().get("/v1/kv/%FF").await;
    assert_eq!(answer.problem(), failed(400, "invalid-request"));
}

#[tokio::test]
async fn malformed_json_is_refused_and_changes_nothing() {
    let app = App::new();
    for text in ["", "{", "01", "{\"a\":1}x", "\u{1}"] {
        let answer = app.put_json("/v1/kv/k", text).await;
        assert_eq!(
            (answer.problem(), &answer.json()["field"]),
            (failed(400, "invalid-request"), &json!("body")),
            "{text}"
        );
    }
    assert_eq!(app.get("/v1/kv/k").await.status, 404);
    for body in [
        json!([]),
        json!({}),
        json!({ "key": 1, "delta": 1 }),
        json!({ "key": "k", "delta": "1" }),
        json!({ "key": "k", "delta": 1, "x": 1 }),
    ] {
        assert_eq!(app.post("/v1/kv:increment", &body).await.problem(), failed(400, "invalid-request"), "{body}");
    }
}

#[tokio::test]
async fn a_comparison_must_name_both_values() {
    let app = App::new();
    for (body, field) in [
        (json!({ "key": "k", "newValue": 1 }), "oldValue"),
        (json!({ "key": "k", "oldValue": null }), "newValue"),
        (json!({ "key": "k", "oldValue": null, "oldValueBase64": "", "newValue": 1 }), "oldValue"),
    ] {
        let answer = app.post("/v1/kv:compareAndSwap", &body).await;
        assert_eq!((answer.problem(), &answer.json()["field"]), (failed(400, "invalid-request"), &json!(field)));
    }
}

#[tokio::test]
async fn json_nested_too_deep_is_refused() {
    let app = App::new();
    let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
    assert_eq!(app.put_json("/v1/kv/k", &nested(96)).await.status, 200);
    for levels in [97, 128, 100_000] {
        assert_eq!(
            app.put_json("/v1/kv/k", &nested(levels)).await.problem(),
            failed(400, "invalid-request"),
            "{levels}"
        );
    }
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused_announced_or_not() {
    let app = App::new();
    let size = 16 * 1024 * 1024;
    let announced = app.call("PUT", "/v1/kv/k", &[("content-length", &(size + 1).to_string())], "").await;
    assert_eq!(announced.problem(), failed(413, "too-large"));
    let chunk = vec![0_u8; 1024 * 1024];
    let chunks = (0..17).map(move |_| Ok::<_, std::io::Error>(chunk.clone()));
    let streamed = app.call("PUT", "/v1/kv/k", &[], Body::from_stream(futures::stream::iter(chunks))).await;
    assert_eq!(streamed.problem(), failed(413, "too-large"));
    assert_eq!(app.call("PUT", "/v1/kv/k", &[], vec![0; size]).await.status, 200);
}

#[tokio::test]
async fn an_operation_must_be_declared_as_json() {
    let app = App::new();
    let body = json!({ "key": "k", "delta": 1 }).to_string();
    let answer = app.call("POST", "/v1/kv:increment", &[("content-type", "text/plain")], body.clone()).await;
    assert_eq!(answer.problem(), failed(415, "unsupported-media-type"));
    assert_eq!(app.get("/v1/kv/k").await.status, 404);
    let answer =
        app.call("POST", "/v1/kv:increment", &[("content-type", "Application/JSON; charset=utf-8")], body).await;
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn an_unknown_path_or_method_is_a_problem_too() {
    let app = App::new();
    assert_eq!(app.get("/v2").await.problem(), failed(404, "not-found"));
    assert_eq!(app.get("/internal/calls").await.problem(), failed(404, "not-found"));
    let answer = app.call("PATCH", "/v1/kv/k", &[], "").await;
    assert_eq!(answer.problem(), failed(405, "method-not-allowed"));
    assert!(answer.header("allow").contains("PUT"), "{:?}", answer.headers);
}

#[tokio::test]
async fn an_unknown_outcome_is_neither_success_nor_failure() {
    let app = App::new();
    app.stores.set_fault(Fault::UnknownWrites);
    assert_eq!(app.put_json("/v1/kv/k", "1").await.problem(), unknown());
    assert_eq!(app.post("/v1/kv:increment", &json!({ "key": "k", "delta": 1 })).await.problem(), unknown());
    let swap = json!({ "key": "k2", "oldValue": null, "newValue": 1 });
    assert_eq!(app.post("/v1/kv:compareAndSwap", &swap).await.problem(), unknown());
    assert_eq!(app.call("DELETE", "/v1/kv/k", &[], "").await.problem(), unknown());
    let batch = app.post("/v1/kv:setBatch", &json!({ "items": [{ "key": "a", "value": 1 }] })).await;
    let item = &batch.json()["items"][0];
    assert_eq!(
        (batch.status.as_u16(), &item["outcome"], &item["problem"]["outcome"]),
        (200, &json!("unknown"), &json!("unknown"))
    );
    let metrics = app.get("/metrics").await.text();
    for line in [
        "brainy_requests_total{operation=\"setBatch\",outcome=\"unknown\"} 1",
        "brainy_storage_operations_total{backend=\"memory\",operation=\"increment\",outcome=\"unknown\"} 1",
        "brainy_storage_operations_total{backend=\"memory\",operation=\"compareAndSwap\",outcome=\"unknown\"} 1",
        "brainy_storage_operations_total{backend=\"memory\",operation=\"delete\",outcome=\"unknown\"} 1",
        "brainy_storage_operations_total{backend=\"memory\",operation=\"increment\",outcome=\"success\"} 0",
    ] {
        assert!(metrics.contains(line), "{line}\n{metrics}");
    }
}

#[tokio::test]
async fn a_clean_failure_of_storage_says_that_nothing_was_done() {
    let app = App::new();
    for (error, problem) in [
        (Error::unavailable("NoSuchBucket", "it is gone"), failed(503, "storage-unavailable")),
        (Error::Contended { key: "k".into(), attempts: 64 }, failed(503, "contended")),
        (Error::Corrupt { key: "k".into(), problem: "cut off".into() }, failed(500, "corrupt")),
        (Error::invalid("value", "is bad"), failed(400, "invalid-request")),
    ] {
        app.stores.set_fault(Fault::Failing(error));
        let answers = [app.get("/v1/kv/k").await, app.put_json("/v1/kv/k", "1").await];
        for answer in answers {
            assert_eq!(answer.problem(), problem);
            assert_eq!(answer.header("retry-after").is_empty(), problem.0 != 503);
        }
    }
    app.stores.set_fault(Fault::Failing(Error::unavailable("DiskFull", "")));
    let batch = app.post("/v1/kv:setBatch", &json!({ "items": [{ "key": "a", "value": 1 }] })).await.json();
    assert_eq!(batch["items"][0]["outcome"], "failed");
    let read: Value = app.post("/v1/kv:getBatch", &json!({ "keys": ["a"] })).await.json();
    assert_eq!((read["items"][0].get("found"), &read["items"][0]["problem"]["outcome"]), (None, &json!("failed")));
    assert_eq!(app.get("/v1/kv").await.problem(), failed(503, "storage-unavailable"));
}

#[tokio::test]
async fn storage_that_never_answers_leaves_a_write_unknown_and_a_read_failed() {
    let app = App::impatient();
    app.stores.set_fault(Fault::Silent);
    assert_eq!(app.put_json("/v1/kv/k", "1").await.problem(), unknown());
    assert_eq!(app.get("/v1/kv/k").await.problem(), failed(503, "storage-unavailable"));
    assert_eq!(app.get("/v1/kv").await.problem(), failed(503, "storage-unavailable"));
}

#[tokio::test]
async fn limits_on_the_store_refuse_cleanly_and_only_a_write_that_was_begun_is_unknown() {
    let limits = Limiting { max_concurrent: 1, max_waiting: 0, timeout_ms: 50, read_attempts: 1 };
    let (id, delta) = (("idempotency-key", "a"), json!({ "key": "k", "delta": 1 }));
    for begun in ["read", "write"] {
        let app = App::within(limits);
        app.stores.set_fault(Fault::Silent);
        if begun == "read" {
            let late = app.get("/v1/kv/k").await;
            assert_eq!(late.problem(), failed(503, "storage-unavailable"));
            assert!(late.text().contains("TimedOut"), "{}", late.text());
        } else {
            assert_eq!(app.put_json("/v1/kv/k", "1").await.problem(), unknown());
        }
        // What was begun keeps the only place, and nobody may wait for it.
        for refused in [
            app.get("/v1/kv/k").await,
            app.get("/v1/kv").await,
            app.put_json("/v1/kv/k", "1").await,
            app.call("PUT", "/v1/kv/k", &[id], "1").await,
            app.call("DELETE", "/v1/kv/k", &[], "").await,
            app.post("/v1/kv:increment", &delta).await,
            app.post("/v1/kv:compareAndSwap", &json!({ "key": "k", "oldValue": null, "newValue": 1 })).await,
        ] {
            assert_eq!(refused.problem(), failed(503, "storage-unavailable"), "{begun}");
            assert!(refused.text().contains("Busy"), "{}", refused.text());
            assert_eq!(refused.header("retry-after"), "1");
        }
        let written = app.post("/v1/kv:setBatch", &json!({ "items": [{ "key": "k", "value": 1 }] })).await.json();
        assert_eq!(written["items"][0]["outcome"], "failed", "{written}");
        let read = app.post("/v1/kv:getBatch", &json!({ "keys": ["k"] })).await.json();
        assert_eq!(read["items"][0]["problem"]["status"], 503, "{read}");
    }
}

#[tokio::test]
async fn a_shard_without_a_server_fails_cleanly_in_the_end() {
    let app = App::impatient();
    app.ownership.drain().await;
    for answer in [app.put_json("/v1/kv/k", "1").await, app.get("/v1/kv/k").await, app.get("/v1/kv").await] {
        assert_eq!(answer.problem(), failed(503, "no-server"));
        assert_eq!(answer.header("retry-after"), "1");
    }
    let batch = app.post("/v1/kv:setBatch", &json!({ "items": [{ "key": "a", "value": 1 }] })).await.json();
    assert_eq!(batch["items"][0]["outcome"], "failed");
}
