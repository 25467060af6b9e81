//! A way around the table of routes for what is asked most: a value, by a key that needs no decoding.
//!
//! Of what it costs to read a cached value, finding the route is a quarter: what it matched, and what stands for each name in it, is
//! allocated and handed on for each request. The answer is the same as by the table, which a test compares.

use std::sync::Arc;

use axum::body::{Body, HttpBody};
use axum::http::{Method, Request};
use axum::response::{IntoResponse, Response};
use brainy_storage::Key;
use bytes::Bytes;
use tower::Service;

use super::counted::Counted;
use super::problem::Problem;
use super::{Api, kv};

/// The route whose requests may take it.
pub(super) const ROUTE: &str = "/v1/kv/{*key}";
/// What their addresses begin with.
const PREFIX: &str = "/v1/kv/";

/// What a listener serves: a table of routes, and the lane before it if there is one.
#[derive(Clone, Debug)]
pub struct App {
    routes: axum::Router,
    lane: Option<Arc<Lane>>,
}

/// Answers reads of values.
#[derive(Debug)]
pub(super) struct Lane {
    api: Arc<Api>,
    counted: Counted,
}

impl From<axum::Router> for App {
    fn from(routes: axum::Router) -> Self {
        Self { routes, lane: None }
    }
}

impl App {
    pub(super) fn new(routes: axum::Router, lane: Option<Lane>) -> Self {
        Self { routes, lane: lane.map(Arc::new) }
    }

    /// Answers a request.
    pub async fn answer<B>(self, request: Request<B>) -> Response
    where
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<axum::BoxError>,
    {
        if let Some(lane) = &self.lane
            && let Some(key) = plain_key(&request)
        {
            return lane.read(key, &request).await;
        }
        let mut routes = self.routes;
        // A router is always ready.
        routes.call(request.map(Body::new)).await.unwrap_or_else(|never| match never {})
    }
}

impl Lane {
    pub(super) fn new(api: Arc<Api>, counted: Counted) -> Self {
        Self { api, counted }
    }

    fn read<'a, B>(&'a self, key: String, request: &Request<B>) -> impl Future<Output = Response> + use<'a, B> {
        let read = async {
            match Key::new(key) {
                Ok(key) => kv::read(&self.api, None, &key).await.into_response(),
                Err(error) => Problem::from(error).into_response(),
            }
        };
        self.counted.begin(request).answered(read)
    }
}

/// The key that a request reads, if nothing in its address has to be decoded.
fn plain_key<B>(request: &Request<B>) -> Option<String> {
    if *request.method() != Method::GET || request.uri().query().is_some() {
        return None;
    }
    let key = request.uri().path().strip_prefix(PREFIX)?;
    (!key.is_empty() && !key.contains('%')).then(|| key.to_owned())
}
