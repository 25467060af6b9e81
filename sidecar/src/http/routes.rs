//! The table of all routes: the app is built from it, and the OpenAPI document is compared with it.

use std::sync::Arc;

use axum::handler::Handler;
use axum::http::{Method, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, MethodRouter, get, on};
use brainy_storage::{Key, Namespace};

use super::counted::Counted;
use super::lane::{self, App, Lane};
use super::problem::{Kind, Problem};
use super::{Api, batch, health, kv, list, locks, openapi, regions, requests, shards, storage_info, tiering};

/// One route.
pub(super) struct Route {
    pub(super) method: Method,
    pub(super) path: String,
    operation: &'static str,
    handler: Box<dyn FnOnce(MethodFilter) -> MethodRouter<Arc<Api>>>,
}

fn route<H, T>(method: Method, path: impl Into<String>, operation: &'static str, handler: H) -> Route
where
    H: Handler<T, Arc<Api>>,
    T: 'static,
{
    Route { method, path: path.into(), operation, handler: Box::new(move |filter| on(filter, handler)) }
}

fn filter(method: &Method) -> MethodFilter {
    match *method {
        Method::PUT => MethodFilter::PUT,
        Method::POST => MethodFilter::POST,
        Method::DELETE => MethodFilter::DELETE,
        _ => MethodFilter::GET,
    }
}

/// All routes. Those of keys and values come twice: without a namespace and in one.
pub(super) fn table() -> Vec<Route> {
    let mut routes = Vec::new();
    for prefix in ["/v1", "/v1/namespaces/{namespace}"] {
        routes.extend([
            route(Method::GET, format!("{prefix}/kv/{{*key}}"), "get", kv::get),
            route(Method::PUT, format!("{prefix}/kv/{{*key}}"), "set", kv::put),
            route(Method::DELETE, format!("{prefix}/kv/{{*key}}"), "delete", kv::delete),
            route(Method::GET, format!("{prefix}/kv"), "list", list::list),
            route(Method::POST, format!("{prefix}/kv:getBatch"), "getBatch", batch::get_batch),
            route(Method::POST, format!("{prefix}/kv:setBatch"), "setBatch", batch::set_batch),
            route(Method::POST, format!("{prefix}/kv:compareAndSwap"), "compareAndSwap", kv::compare_and_swap),
            route(Method::POST, format!("{prefix}/kv:increment"), "increment", kv::increment),
        ]);
    }
    routes.extend([
        route(Method::GET, "/v1/shards", "shards", shards::all),
        route(Method::GET, "/v1/shards:watch", "watchShards", shards::watch),
        route(Method::GET, "/v1/shards/{shard}", "shard", shards::one),
        route(Method::POST, "/v1/shards:acquire", "acquireShards", requests::acquire),
        route(Method::POST, "/v1/shards:release", "releaseShards", requests::release),
        route(Method::POST, "/v1/shards:withdraw", "withdrawShards", requests::withdraw),
        route(Method::GET, "/v1/node", "node", requests::node),
        route(Method::POST, "/v1/node:drain", "drainNode", requests::drain),
        route(Method::POST, "/v1/node:undrain", "undrainNode", requests::undrain),
        route(Method::POST, "/v1/locks:acquire", "acquireLocks", locks::acquire),
        route(Method::POST, "/v1/locks:renew", "renewLocks", locks::renew),
        route(Method::POST, "/v1/locks:release", "releaseLocks", locks::release),
        route(Method::GET, "/v1/locks/{name}", "lock", locks::one),
        route(Method::GET, "/v1/storage", "storage", storage_info::describe),
        route(Method::GET, "/v1/tiering", "tiering", tiering::describe),
        route(Method::POST, "/v1/tiering:run", "runTiering", tiering::run),
        route(Method::GET, "/v1/regions", "regions", regions::describe),
        route(Method::POST, "/v1/regions:compare", "compareRegions", regions::compare),
        route(Method::POST, "/v1/regions:moveHome", "moveHome", regions::move_home),
        route(Method::POST, "/v1/regions:retire", "retireRegion", regions::retire),
        route(Method::GET, "/healthz", "healthz", health::healthz),
        route(Method::GET, "/readyz", "readyz", health::readyz),
        route(Method::GET, "/metrics", "metrics", health::metrics),
        route(Method::GET, "/openapi.json", "openapi", openapi::serve),
    ]);
    routes
}

/// The app: every route, each counted under its operation, and before them a [`Lane`] for what is asked most.
pub fn app(api: &Arc<Api>) -> App {
    let mut app = axum::Router::new();
    let mut lane = None;
    for Route { method, path, operation, handler } in table() {
        // Probes would be most of what is traced.
        let traced = path.starts_with("/v1/").then(|| format!("{method} {path}").into());
        let counted = Counted { figures: api.metrics.of_requests(operation), traced };
        if method == Method::GET && path == lane::ROUTE {
            lane = Some(Lane::new(Arc::clone(api), counted.clone()));
        }
        app = app.route(&path, handler(filter(&method)).layer(counted));
    }
    let routes = app.fallback(no_such_resource).method_not_allowed_fallback(no_such_method);
    App::new(routes.with_state(Arc::clone(api)), lane)
}

/// The app for who looks from outside the pod: how the node is, and none of its data.
pub fn observed(api: Arc<Api>) -> axum::Router {
    axum::Router::new()
        .route("/healthz", get(health::healthz))
        .route("/readyz", get(health::readyz))
        .route("/metrics", get(health::metrics))
        .fallback(no_such_resource)
        .with_state(api)
}

async fn no_such_resource(uri: Uri) -> Response {
    // No route has an empty key or namespace, and "nothing is there" would not help.
    if uri.path().starts_with("/v1/namespaces//") {
        return refused(Namespace::new(""));
    }
    if uri.path().ends_with("/kv/") {
        return refused(Key::new(""));
    }
    Problem::new(Kind::NotFound, format!("nothing is at {}; GET /openapi.json says what there is", uri.path()))
        .into_response()
}

fn refused<T>(empty: Result<T, brainy_storage::Error>) -> Response {
    match empty {
        Err(error) => Problem::from(error).into_response(),
        Ok(_) => Problem::new(Kind::NotFound, "no such resource").into_response(),
    }
}

async fn no_such_method(method: Method, uri: Uri) -> Response {
    Problem::new(Kind::MethodNotAllowed, format!("{} does not take {method}", uri.path())).into_response()
}
