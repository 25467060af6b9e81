//! The least that a cached value over HTTP costs: a bare axum handler over a moka cache, as `brainy-bench-bare ADDRESS`.
//! As many threads as the sidecar has by default, and the same runtime.

use anyhow::Context;
use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::get;
use axum::serve::ListenerExt;
use bytes::Bytes;
use moka::sync::Cache;
use tokio::net::TcpListener;

type Values = Cache<String, Bytes>;

async fn read(State(values): State<Values>, Path(key): Path<String>) -> Result<Bytes, StatusCode> {
    values.get(key.as_str()).ok_or(StatusCode::NOT_FOUND)
}

async fn write(State(values): State<Values>, Path(key): Path<String>, value: Bytes) -> StatusCode {
    values.insert(key, value);
    StatusCode::NO_CONTENT
}

#[tokio::main(worker_threads = 2)]
async fn main() -> anyhow::Result<()> {
    let address = std::env::args().nth(1).context("say where to listen: brainy-bench-bare 127.0.0.1:7000")?;
    let app = Router::new()
        .route("/kv/{key}", get(read).put(write))
        .route("/healthz", get(|| async { "ok" }))
        .with_state(Values::new(1_000_000));
    // A failure to set it only costs time.
    let listener = TcpListener::bind(&address).await?.tap_io(|stream| drop(stream.set_nodelay(true)));
    axum::serve(listener, app).await.context("serving")
}
