//! Hot and cold over HTTP: how the tiers stand, and a run of demotions.

use std::time::Duration;

use brainy_storage::layers::tiering::Tiering;
use serde_json::{Value, json};

use crate::support::app::App;

async fn state_when(app: &App, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    for _ in 0..6000 {
        let state = app.get("/v1/tiering").await.json();
        if is_so(&state) {
            return state;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("it never comes true: {what}")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_demoted_by_a_run_is_counted_and_still_read() {
    let app = App::tiered(Tiering { promote_after_reads: 0, ..Tiering::default() });
    for n in 0..20 {
        assert_eq!(app.put_json(&format!("/v1/kv/k{n}"), &n.to_string()).await.status.as_u16(), 200);
    }
    let drained = |state: &Value| state["lag"]["complete"] == true && state["lag"]["keys"] == 0;
    let state = state_when(&app, "all is in the cold tier", drained).await;
    assert_eq!((&state["enabled"], &state["ack"], &state["hot"]["keys"]), (&json!(true), &json!("hot"), &json!(20)));
    assert_eq!(state["cold"]["keys"], 20);
    let answer = app.post("/v1/tiering:run", &json!({"unreadForSeconds": 0})).await;
    assert_eq!(answer.status.as_u16(), 202);
    let ended = |state: &Value| state["run"]["running"] == false && state["hot"]["keys"] == 0;
    let state = state_when(&app, "the run ends", ended).await;
    assert_eq!((&state["run"]["demoted"], &state["run"]["failed"]), (&json!(20), &json!(0)));
    for n in 0..20 {
        assert_eq!(app.get(&format!("/v1/kv/k{n}")).await.text(), n.to_string());
    }
    let metrics = app.get("/metrics").await.text();
    for line in [
        "brainy_tiering_keys{tier=\"hot\"} 0",
        "brainy_tiering_keys{tier=\"cold\"} 20",
        "brainy_tiering_demoted_total 20",
        "brainy_tiering_reads_total{tier=\"cold\"} 20",
        "brainy_tiering_unwritten_keys 0",
        "brainy_tiering_unwritten_age_seconds 0.0",
    ] {
        assert!(metrics.lines().any(|there| there == line), "{line} is not in {metrics}");
    }
}

#[tokio::test]
async fn a_run_that_can_not_be_is_refused_with_the_way_out() {
    let app = App::new();
    assert_eq!(app.get("/v1/tiering").await.json(), json!({"enabled": false}));
    let refused = app.post("/v1/tiering:run", &json!({})).await;
    assert_eq!(refused.status.as_u16(), 409);
    assert!(refused.text().contains("--cold-bucket"), "{}", refused.text());
    let app = App::tiered(Tiering::default());
    let refused = app.post("/v1/tiering:run", &json!({"unreadForSeconds": 4_000_000_000_u64})).await;
    assert_eq!((refused.status.as_u16(), &refused.json()["field"]), (400, &json!("unreadForSeconds")));
    let refused = app.post("/v1/tiering:run", &json!({"olderThan": 1})).await;
    assert_eq!(refused.status.as_u16(), 400);
}
