//! Named locks, through the API.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::support::app::{Answer, App, failed};

async fn acquire(app: &App, holder: &str, names: &[&str], wait: u64) -> Answer {
    app.post("/v1/locks:acquire", &json!({"holder": holder, "names": names, "waitSeconds": wait})).await
}

async fn release(app: &App, holder: &str) {
    let answer = app.post("/v1/locks:release", &json!({"holder": holder})).await;
    assert_eq!((answer.status.as_u16(), answer.json()), (200, json!({})));
}

#[tokio::test]
async fn a_lock_is_held_by_one_and_its_token_grows() {
    let app = App::new();
    let first = app.post("/v1/locks:acquire", &json!({"names": ["jobs/1", "x"]})).await.json();
    assert_eq!(first["tokens"].as_object().unwrap().len(), 2);
    assert!(first["lastsSeconds"].as_f64() >= Some(30.0));
    let holder = first["holder"].as_str().unwrap();
    let refused = acquire(&app, "b", &["x"], 0).await;
    assert_eq!(refused.problem(), failed(409, "locked"));
    assert!(refused.text().contains(holder), "{}", refused.text());
    let seen = app.get("/v1/locks/jobs%2F1").await.json();
    assert_eq!((seen["holder"].as_str(), &seen["token"]), (Some(holder), &first["tokens"]["jobs/1"]));
    release(&app, holder).await;
    assert_eq!(app.get("/v1/locks/jobs%2F1").await.json()["holder"], Value::Null);
    let next = acquire(&app, "b", &["x"], 0).await.json();
    assert!(next["tokens"]["x"].as_u64() > first["tokens"]["x"].as_u64());
}

#[tokio::test]
async fn who_waits_is_in_line_and_gets_its_turn() {
    let app = Arc::new(App::new());
    acquire(&app, "a", &["x"], 0).await;
    let waiting = tokio::spawn({
        let app = Arc::clone(&app);
        async move { acquire(&app, "b", &["x"], 20).await.status.as_u16() }
    });
    while app.get("/v1/locks/x").await.json()["waiters"] != json!(["b"]) {
        tokio::task::yield_now().await;
    }
    release(&app, "a").await;
    assert_eq!(waiting.await.unwrap(), 200);
}

#[tokio::test]
async fn a_cycle_is_named_to_the_youngest_in_it() {
    let app = Arc::new(App::new());
    acquire(&app, "a", &["x"], 0).await;
    acquire(&app, "b", &["y"], 0).await;
    let older = tokio::spawn({
        let app = Arc::clone(&app);
        async move { acquire(&app, "a", &["y"], 20).await.status.as_u16() }
    });
    while app.get("/v1/locks/y").await.json()["waiters"] != json!(["a"]) {
        tokio::task::yield_now().await;
    }
    let refused = acquire(&app, "b", &["x"], 20).await;
    assert_eq!(refused.problem(), failed(409, "deadlock"));
    assert_eq!(refused.json()["cycle"], json!(["b", "a"]));
    assert_eq!(app.get("/v1/locks/y").await.json()["holder"], "b", "it keeps what it holds");
    release(&app, "b").await;
    assert_eq!(older.await.unwrap(), 200);
}

#[tokio::test]
async fn what_is_wrong_is_said_by_its_field() {
    let app = App::new();
    for (what, body, field) in [
        ("acquire", json!({"names": []}), "names"),
        ("acquire", json!({"names": [""]}), "names"),
        ("acquire", json!({"names": ["x"], "holder": ""}), "holder"),
        ("acquire", json!({"names": ["x"], "waitSeconds": 61}), "waitSeconds"),
        ("acquire", json!({"names": ["x"], "ttlSeconds": 0.5}), "ttlSeconds"),
        ("renew", json!({"holder": "a", "ttlSeconds": -1}), "ttlSeconds"),
        ("release", json!({"names": ["x"]}), "body"),
    ] {
        let answer = app.post(&format!("/v1/locks:{what}"), &body).await;
        assert_eq!(answer.problem(), failed(400, "invalid-request"), "{body}");
        assert_eq!(answer.json()["field"], field, "{body}");
    }
    let lost = app.post("/v1/locks:renew", &json!({"holder": "nobody"})).await;
    assert_eq!(lost.problem(), failed(409, "lock-lost"));
}
