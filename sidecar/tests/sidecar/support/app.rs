//! The storage API in this process, called without a connection.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode};
use brainy_sidecar::health::Heartbeat;
use brainy_sidecar::http::server::{self, StopSender};
use brainy_sidecar::http::{Api, StorageInfo, routes};
use brainy_sidecar::metrics::Metrics;
use brainy_sidecar::ownership::Ownership;
use brainy_sidecar::routing::{Patience, Router};
use brainy_storage::layers::LayerStack;
use http_body_util::BodyExt;
use serde_json::Value;
use tower::ServiceExt;

use super::faulty::MemoryStores;

pub(crate) const SHARDS: u32 = 8;

/// Short enough for tests that wait it out, far longer than anything that succeeds takes.
pub(crate) const PATIENCE: Patience = Patience { owner: Duration::from_secs(2), storage: Duration::from_secs(2) };

/// A sidecar that runs alone.
pub(crate) struct App {
    app: axum::Router,
    pub(crate) stores: Arc<MemoryStores>,
    pub(crate) ownership: Ownership,
    pub(crate) stop: StopSender,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// Status, and the last part of the problem's type, and its outcome.
    pub(crate) fn problem(&self) -> (u16, String, String) {
        assert_eq!(self.header("content-type"), "application/problem+json", "{}", self.text());
        let document = self.json();
        assert_eq!(document["status"], self.status.as_u16());
        assert!(document["title"].is_string() && document["detail"].is_string());
        let kind = document["type"].as_str().unwrap().strip_prefix("urn:brainy:problem:").unwrap().to_owned();
        (self.status.as_u16(), kind, document["outcome"].as_str().unwrap().to_owned())
    }
}

/// Why a request is expected to fail cleanly.
pub(crate) fn failed(status: u16, kind: &str) -> (u16, String, String) {
    (status, kind.into(), "failed".into())
}

pub(crate) fn storage_info() -> StorageInfo {
    StorageInfo { backend: "filesystem", strategy: "Standalone", location: "memory".into() }
}

impl App {
    pub(crate) fn new() -> Self {
        Self::with(PATIENCE)
    }

    /// For tests that wait for the end of its patience.
    pub(crate) fn impatient() -> Self {
        Self::with(Patience { owner: Duration::from_millis(50), storage: Duration::from_millis(50) })
    }

    fn with(patience: Patience) -> Self {
        let stores = Arc::new(MemoryStores::default());
        let metrics = Arc::new(Metrics::default());
        let layers = LayerStack::default().observed(metrics.observing("memory"));
        let ownership = Ownership::standalone(SHARDS, Arc::clone(&stores) as _, layers);
        let router = Router::new(Arc::new(ownership.clone()), None, patience, Arc::clone(&metrics));
        let (stop, stopped) = server::stop();
        let api = Api {
            router: Arc::new(router),
            ownership: ownership.clone(),
            metrics,
            storage: Arc::new(storage_info()),
            heartbeat: Heartbeat::default(),
            stop: stopped,
        };
        Self { app: routes::app(api), stores, ownership, stop }
    }

    pub(crate) async fn call(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Body>,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = self.app.clone().oneshot(request.body(body.into()).unwrap()).await.unwrap();
        let (head, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes().to_vec();
        Answer { status: head.status, headers: head.headers, body }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.call("GET", path, &[], "").await
    }

    pub(crate) async fn put_json(&self, path: &str, body: &str) -> Answer {
        self.call("PUT", path, &[("content-type", "application/json")], body.to_owned()).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        self.call("POST", path, &[("content-type", "application/json")], body.to_string()).await
    }

    /// A response whose body does not end by itself: its first bytes.
    pub(crate) async fn open(&self, path: &str) -> Body {
        let request = Request::builder().uri(path).body(Body::empty()).unwrap();
        let response = self.app.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        response.into_body()
    }
}
