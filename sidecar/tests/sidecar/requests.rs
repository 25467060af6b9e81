//! What a sidecar that runs alone says to wishes, and what is wrong with some.

use serde_json::json;

use crate::support::app::{App, failed};

#[tokio::test]
async fn who_runs_alone_has_nobody_to_ask() {
    let app = App::new();
    for path in ["shards:acquire", "shards:release", "shards:withdraw"] {
        assert_eq!(
            app.post(&format!("/v1/{path}"), &json!({"shards": [1]})).await.problem(),
            failed(409, "no-cluster")
        );
    }
    for path in ["node:drain", "node:undrain"] {
        assert_eq!(app.post(&format!("/v1/{path}"), &json!({})).await.problem(), failed(409, "no-cluster"));
    }
    let node = app.get("/v1/node").await.json();
    assert_eq!((&node["draining"], &node["acquire"], &node["held"]), (&json!(false), &json!([]), &json!(8)));
}

#[tokio::test]
async fn what_is_wrong_is_said_by_its_field() {
    let app = App::new();
    for (path, body, field) in [
        ("shards:acquire", json!({"shards": []}), "shards"),
        ("shards:acquire", json!({"shards": [7, 8]}), "shards"),
        ("shards:release", json!({"shards": [u32::MAX]}), "shards"),
        ("shards:withdraw", json!({"shards": [99]}), "shards"),
        ("shards:acquire", json!({"shards": [-1]}), "body"),
        ("shards:acquire", json!({}), "body"),
        ("shards:withdraw", json!({"shards": [1], "waitSeconds": 1}), "body"),
        ("shards:acquire", json!({"shards": [1], "waitSeconds": 61}), "waitSeconds"),
        ("node:drain", json!({"waitSeconds": -1}), "waitSeconds"),
        ("node:drain", json!({"shards": [1]}), "body"),
        ("node:undrain", json!({"waitSeconds": 1}), "body"),
    ] {
        let answer = app.post(&format!("/v1/{path}"), &body).await;
        assert_eq!(answer.problem(), failed(400, "invalid-request"), "{path} {body}");
        assert_eq!(answer.json()["field"], field, "{path} {body}");
    }
    let answer = app.post("/v1/shards:acquire", &json!({"shards": [8]})).await;
    assert!(answer.text().contains("no shard 8: they are numbered 0 to 7"), "{}", answer.text());
}
