//! `/healthz`: the process is alive. `/readyz`: it can serve. `/metrics`: how it is doing.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::{Api, answer};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Health {
    alive: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

/// `GET /healthz`: 200 while the process makes progress, and nothing is wrong that only a new start can mend.
pub(super) async fn healthz(State(api): State<Arc<Api>>) -> Response {
    let problem = api.heartbeat.problem().or_else(|| api.ownership.failure());
    let alive = problem.is_none();
    with_status(alive, answer::json(&Health { alive, problem }))
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Readiness {
    ready: bool,
    /// What is missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
    held: usize,
    assigned: usize,
    map_revision: u64,
}

/// `GET /readyz`: 200 while this node serves every shard that is its to serve.
pub(super) async fn readyz(State(api): State<Arc<Api>>) -> Response {
    let status = api.ownership.status();
    let missing = (!status.ready).then(|| match status.problem {
        Some(problem) => problem,
        None if !status.session_valid => "this node has no valid session".to_owned(),
        None if status.map_revision == 0 => "no shard map has been seen yet".to_owned(),
        None => format!("serves {} of its {} shards", status.held, status.assigned),
    });
    let body = Readiness {
        ready: status.ready,
        problem: missing,
        held: status.held,
        assigned: status.assigned,
        map_revision: status.map_revision,
    };
    with_status(body.ready, answer::json(&body))
}

fn with_status(good: bool, mut response: Response) -> Response {
    if !good {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    response
}

/// `GET /metrics`: OpenMetrics text.
pub(super) async fn metrics(State(api): State<Arc<Api>>) -> Response {
    api.metrics.look_at_volume().await;
    let (cache, limits) = (api.ownership.cache_counts(), api.ownership.limit_counts());
    let (buffer, tiering) = (api.ownership.buffer_counts(), api.ownership.tiering_figures());
    let regions = api.ownership.regions_figures();
    match api.metrics.encode(&api.ownership.status(), cache, limits, buffer, tiering, regions) {
        Ok(text) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
