//! Near and far over HTTP: how the regions stand, and what can be asked of them.

use std::sync::Arc;
use std::time::Duration;

use brainy_storage::{Key, Namespace, StorageAdapter};
use serde_json::{Value, json};

use crate::support::app::{App, FarMemory, SHARDS};

async fn state_when(app: &App, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    for _ in 0..6000 {
        let state = app.get("/v1/regions").await.json();
        if is_so(&state) {
            return state;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("it never comes true: {what}: {}", app.get("/v1/regions").await.text())
}

fn drained(state: &Value) -> bool {
    let lag = state["lag"].as_array().unwrap();
    !lag.is_empty() && lag.iter().all(|lag| lag["complete"] == true && lag["keys"] == 0)
}

/// Keys that the other region has.
async fn far_keys(far: &FarMemory) -> usize {
    let mut keys = 0;
    for shard in 0..SHARDS {
        let store = far.of(&format!("{shard:03}")).with_namespace(&Namespace::new("d").unwrap());
        keys += store.list("", None, 1000).await.unwrap().keys.len();
    }
    keys
}

async fn filled() -> (Arc<FarMemory>, App) {
    let far = Arc::new(FarMemory::default());
    let app = App::in_regions(&far);
    for n in 0..20 {
        assert_eq!(app.put_json(&format!("/v1/kv/k{n}"), &n.to_string()).await.status.as_u16(), 200);
    }
    state_when(&app, "the other region has all", drained).await;
    (far, app)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_gets_to_the_other_region_and_is_counted() {
    let (far, app) = filled().await;
    assert_eq!(far_keys(&far).await, 20);
    let sum = app.post("/v1/kv:increment", &json!({"key": "n", "delta": 2})).await;
    assert_eq!(sum.json()["value"], 2);
    let state = state_when(&app, "where it was decided is known", |state| state["homes"]["eu"].is_u64()).await;
    assert_eq!((&state["own"], &state["home"], &state["writeConcern"]), (&json!("eu"), &json!("eu"), &json!("local")));
    assert_eq!(state["order"][0]["region"], "eu");
    assert!(state["counts"]["sent"].as_u64().unwrap() >= 20, "{state}");
    *far.problem.lock().unwrap() = Some("AnothersRegion: it is another's".to_owned());
    let lag = app.get("/v1/regions").await.json()["lag"].clone();
    let us = lag.as_array().unwrap().iter().find(|lag| lag["region"] == "us").unwrap();
    assert_eq!(us["problem"], "AnothersRegion: it is another's");
    let metrics = app.get("/metrics").await.text();
    for line in [
        "brainy_region_lacking_keys{region=\"us\"} 0",
        "brainy_region_lag_seconds{region=\"us\"} 0.0",
        "brainy_region_away{region=\"us\"} 1",
        "brainy_region_away{region=\"eu\"} 0",
    ] {
        assert!(metrics.lines().any(|there| there == line), "{line} is not in {metrics}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_lost_in_the_other_region_is_brought_there_when_it_is_compared() {
    let (far, app) = filled().await;
    // One key, and nothing that says so.
    let mut lost = 0;
    for shard in 0..SHARDS {
        let store = far.of(&format!("{shard:03}")).with_namespace(&Namespace::new("d").unwrap());
        for key in store.list("", None, 1000).await.unwrap().keys {
            assert!(store.delete(&key).await.unwrap().applied().unwrap());
            lost += 1;
        }
    }
    assert_eq!((lost, far_keys(&far).await), (20, 0));
    let answer = app.post("/v1/regions:compare", &json!({})).await;
    assert_eq!(answer.status.as_u16(), 202);
    for _ in 0..6000 {
        if far_keys(&far).await == lost {
            let state = state_when(&app, "it has ended", |state| {
                let runs = state["runs"].as_array().unwrap();
                runs.iter().any(|run| run["run"] == "comparing" && run["running"] == 0 && run["done"] != 0)
            });
            state.await;
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("it never comes true: all is there again: {}", app.get("/v1/regions").await.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_home_moves_when_asked_and_decides_on_what_it_had() {
    let (far, app) = filled().await;
    let add = async || app.post("/v1/kv:increment", &json!({"key": "n", "delta": 1})).await;
    assert_eq!(add().await.json()["value"], 1);
    let answer = app.post("/v1/regions:moveHome", &json!({"region": "us"})).await;
    assert_eq!(answer.status.as_u16(), 202);
    // Shards are opened when they are first asked for.
    state_when(&app, "all have moved", |state| state["homes"]["us"] == state["stores"]).await;
    assert_eq!(add().await.json()["value"], 2);
    let key = Key::new("n").unwrap();
    let mut there = 0;
    for shard in 0..SHARDS {
        let store = far.of(&format!("{shard:03}")).with_namespace(&Namespace::new("d").unwrap());
        there += usize::from(store.get(&key).await.unwrap().is_some());
    }
    assert_eq!(there, 1, "it was decided there");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_that_is_left_gets_nothing_any_more() {
    let (far, app) = filled().await;
    assert_eq!(app.post("/v1/regions:retire", &json!({"region": "us"})).await.status.as_u16(), 202);
    state_when(&app, "it is left", |state| {
        let left = state["lag"].as_array().unwrap().iter().all(|lag| lag["region"] != "us");
        left && state["order"].as_array().unwrap().len() == 1
    })
    .await;
    assert_eq!(app.put_json("/v1/kv/later", "1").await.status.as_u16(), 200);
    assert_eq!(app.get("/v1/kv/later").await.text(), "1");
    assert_eq!(far_keys(&far).await, 20);
}

#[tokio::test]
async fn what_can_not_be_is_refused_with_the_way_out() {
    let app = App::new();
    assert_eq!(app.get("/v1/regions").await.json(), json!({"enabled": false}));
    for (path, body) in [
        ("/v1/regions:compare", json!({})),
        ("/v1/regions:moveHome", json!({"region": "us"})),
        ("/v1/regions:retire", json!({"region": "us"})),
    ] {
        let refused = app.post(path, &body).await;
        assert_eq!(refused.status.as_u16(), 409, "{path}");
        assert!(refused.text().contains("spec.storage.regions"), "{}", refused.text());
    }
    let app = App::in_regions(&Arc::default());
    for (path, region, why) in [
        ("/v1/regions:moveHome", "ap", "not among eu, us"),
        ("/v1/regions:retire", "ap", "not among eu, us"),
        ("/v1/regions:retire", "eu", "this node's own"),
    ] {
        let refused = app.post(path, &json!({"region": region})).await;
        assert_eq!((refused.status.as_u16(), &refused.json()["field"]), (400, &json!("region")), "{path}");
        assert!(refused.text().contains(why), "{}", refused.text());
    }
}
