//! What other nodes may ask of this one. Nothing is served here without mutual TLS, and nothing is forwarded.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use brainy_coordination::ShardId;
use brainy_coordination::consensus::wire::{CONSENSUS_PATH, Question};
use rustls::ServerConnection;
use rustls::client::verify_server_name;
use rustls::pki_types::ServerName;
use rustls::server::ParsedCertificate;
use serde::de::DeserializeOwned;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tracing::{Instrument, Span, debug_span};

use super::certificates::Certificates;
use super::wire::{
    self, CALLS_PATH, CallsAnswer, CallsRequest, FREED_PATH, LIST_PATH, ListAnswer, ListRequest, NUDGE_PATH,
    RENEWED_PATH,
};
use crate::http::lane::App;
use crate::http::outlet::Outlet;
use crate::http::server::{Connections, accept_tcp};
use crate::ownership::{Freed, HandoffError, HandoffRequest, Ownership, Renewed};
use crate::routing::{Reply, Router};
use crate::traces;

/// For the TLS handshake of a new connection.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// For the body of a request to come in.
const BODY: Duration = Duration::from_secs(30);

#[derive(Clone, Debug)]
struct Peers {
    router: Arc<Router>,
    ownership: Option<Ownership>,
    outlet: Outlet,
}

/// The internal routes. Without `ownership` no shard can be handed off.
pub fn app(router: Arc<Router>, ownership: Option<Ownership>, outlet: Outlet) -> axum::Router {
    axum::Router::new()
        .route(CALLS_PATH, post(calls))
        .route(LIST_PATH, post(list))
        .route("/internal/shards/{action}", post(handoff))
        .route(NUDGE_PATH, post(nudge))
        .route(FREED_PATH, post(freed))
        .route(RENEWED_PATH, post(renewed))
        .route(CONSENSUS_PATH, post(consult))
        .layer(DefaultBodyLimit::max(wire::MAX_BYTES))
        .with_state(Peers { router, ownership, outlet })
}

/// Serves the internal routes until the connections are told to stop. `name`: by which others call this node.
pub async fn serve(
    listener: TcpListener,
    certificates: Certificates,
    name: ServerName<'static>,
    connections: Connections,
    app: impl Into<App>,
) {
    let app = app.into();
    while let Some((admission, stream)) = connections.next(|| accept_tcp(&listener)).await {
        let acceptor = TlsAcceptor::from(certificates.current().server);
        let name = name.clone();
        let opening = async move {
            match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
                Ok(Ok(stream)) if is_node(stream.get_ref().1, &name) => Some(stream),
                Ok(Ok(_)) => {
                    tracing::debug!("refused a node-to-node connection: its certificate is for something else");
                    None
                }
                Ok(Err(error)) => {
                    tracing::debug!(%error, "refused a node-to-node connection");
                    None
                }
                Err(_) => None,
            }
        };
        connections.serve(admission, opening, app.clone());
    }
}

/// Whether a caller shows a certificate that this node could show itself. Its authority may give certificates to others as well.
fn is_node(caller: &ServerConnection, name: &ServerName<'_>) -> bool {
    let shown = caller.peer_certificates().and_then(|chain| chain.first());
    let shown = shown.and_then(|leaf| ParsedCertificate::try_from(leaf).ok());
    shown.is_some_and(|leaf| verify_server_name(&leaf, name).is_ok())
}

/// What another node asks in the course of a client's request, as part of that one's trace.
fn asked(what: &'static str, request: &axum::extract::Request) -> Span {
    let span = debug_span!("asked", otel.name = what, otel.kind = "server");
    traces::go_on(request, &span);
    span
}

async fn calls(State(peers): State<Peers>, request: axum::extract::Request) -> Response {
    let span = asked("calls", &request);
    run(peers, request).instrument(span).await
}

async fn run(peers: Peers, request: axum::extract::Request) -> Response {
    let opened = async { read::<CallsRequest>(request).await?.open().map_err(refuse) };
    match opened.await {
        Ok((namespace, calls)) => {
            let reads = calls.iter().all(|call| !call.writes());
            let answer = answer(&CallsAnswer::new(peers.router.run_here(namespace.as_ref(), calls).await));
            // Reads are asked again where they are refused; what was written must be told.
            if reads { peers.outlet.admit(answer).unwrap_or_else(IntoResponse::into_response) } else { answer }
        }
        Err(refusal) => refusal,
    }
}

async fn list(State(peers): State<Peers>, request: axum::extract::Request) -> Response {
    let span = asked("list", &request);
    page(peers, request).instrument(span).await
}

async fn page(peers: Peers, request: axum::extract::Request) -> Response {
    let opened = async { read::<ListRequest>(request).await?.open().map_err(refuse) };
    let (shards, listing) = match opened.await {
        Ok(opened) => opened,
        Err(refusal) => return refusal,
    };
    match peers.router.list_here(&shards, &listing).await {
        Ok(portion) => answer(&ListAnswer::new(portion)),
        Err(Reply::Failed(error)) => answer(&ListAnswer::Failed(error.into())),
        Err(other) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{other:?}")).into_response(),
    }
}

async fn handoff(State(peers): State<Peers>, Path(action): Path<String>, request: axum::extract::Request) -> Response {
    let shard = action.strip_suffix(":copy").and_then(|number| number.parse().ok()).map(ShardId);
    let (Some(shard), Some(ownership)) = (shard, peers.ownership) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let wanted = match read::<HandoffRequest>(request).await {
        Ok(wanted) => wanted,
        Err(refusal) => return refusal,
    };
    match ownership.serve_handoff(shard, wanted).await {
        Ok(piece) => ([(header::CONTENT_TYPE, "application/octet-stream")], piece).into_response(),
        Err(HandoffError::Refused(why)) => (StatusCode::CONFLICT, why).into_response(),
        Err(HandoffError::Later(why)) => (StatusCode::SERVICE_UNAVAILABLE, why).into_response(),
    }
}

/// There is something new in the store.
async fn nudge(State(peers): State<Peers>) -> StatusCode {
    match peers.ownership {
        Some(ownership) => ownership.look_again(),
        None => return StatusCode::NOT_FOUND,
    }
    StatusCode::NO_CONTENT
}

/// A node has released shards.
async fn freed(State(peers): State<Peers>, request: axum::extract::Request) -> Response {
    let Some(ownership) = peers.ownership else {
        return StatusCode::NOT_FOUND.into_response();
    };
    match read::<Freed>(request).await {
        Ok(freed) => {
            ownership.freed(freed);
            StatusCode::NO_CONTENT.into_response()
        }
        Err(refusal) => refusal,
    }
}

/// A node has renewed its session.
async fn renewed(State(peers): State<Peers>, request: axum::extract::Request) -> Response {
    let Some(ownership) = peers.ownership else {
        return StatusCode::NOT_FOUND.into_response();
    };
    match read::<Renewed>(request).await {
        Ok(renewed) => match ownership.hear(renewed) {
            Some(told) => Json(told).into_response(),
            None => StatusCode::NO_CONTENT.into_response(),
        },
        Err(refusal) => refusal,
    }
}

/// About the documents that the nodes keep among them. That this node did nothing is an answer like any other.
async fn consult(State(peers): State<Peers>, request: axum::extract::Request) -> Response {
    let Some(ownership) = peers.ownership else {
        return StatusCode::NOT_FOUND.into_response();
    };
    match read::<Question>(request).await {
        Ok(question) => answer(&ownership.consult(question).await),
        Err(refusal) => refusal,
    }
}

async fn read<T: DeserializeOwned>(request: axum::extract::Request) -> Result<T, Response> {
    let body = tokio::time::timeout(BODY, axum::RequestExt::extract::<Bytes, _>(request))
        .await
        .map_err(|_| StatusCode::REQUEST_TIMEOUT.into_response())?
        .map_err(IntoResponse::into_response)?;
    serde_json::from_slice(&body).map_err(refuse)
}

fn answer<T: serde::Serialize>(body: &T) -> Response {
    match serde_json::to_vec(body) {
        Ok(text) => ([(header::CONTENT_TYPE, "application/json")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// Refused as a whole, before any of it was done: the sender relies on that for every 4xx.
fn refuse(problem: impl std::fmt::Display) -> Response {
    (StatusCode::BAD_REQUEST, problem.to_string()).into_response()
}
