//! How this node asks others: one connection pool per node, over mutual TLS.
//!
//! The pool dials the address from the node's session and checks the certificate against the node's name, so that a
//! pod that inherits an address is never taken for the node that had it before.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use axum::http::{Method, Request, Response, StatusCode, Uri, header};
use brainy_coordination::bucket::election::Told;
use brainy_coordination::consensus::wire::{Answer, Ask, CONSENSUS_PATH, Question, Rpc, Unanswered};
use brainy_coordination::{NodeId, ShardId};
use brainy_kubernetes::names::PEER_PORT;
use brainy_storage::error::causes;
use brainy_storage::{Error, Namespace};
use bytes::Bytes;
use futures::future::BoxFuture;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Body, Incoming};
use hyper_rustls::{FixedServerNameResolver, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;
use tower::Service;
use tracing::{Instrument, debug_span};

use super::certificates::Certificates;
use super::wire::{
    self, CALLS_PATH, CallsAnswer, CallsRequest, FREED_PATH, LIST_PATH, ListAnswer, ListRequest, NUDGE_PATH,
    RENEWED_PATH,
};
use crate::http::memory::{Memory, Room};
use crate::ownership::{Freed, HandoffError, HandoffRequest, PeerClient, Renewed};
use crate::routing::{Attempt, Call, Listing, Peers, Portion};
use crate::traces;

/// To connect, TLS handshake included.
const CONNECT: Duration = Duration::from_secs(3);
/// For an answer: longer than the other node's storage may take, so that it is the one to say what happened.
const ANSWER: Duration = Duration::from_secs(35);
/// For an answer about the documents that the nodes keep among them: longer than a leader works on it.
const CONSULTED: Duration = Duration::from_secs(6);
/// For a piece of a shard: its owner may first let operations in flight end.
const HANDOFF_PIECE: Duration = Duration::from_secs(60);
/// Longest piece of a shard: one that is nearly full, and the largest value.
const MAX_PIECE: usize = 300 * 1024 * 1024;
/// An unused connection is kept this long: less than the listener keeps it, so that no request meets its end.
const IDLE: Duration = Duration::from_secs(30);
/// Bytes of all large answers that are coming in.
const ANSWERS: u32 = 128 * 1024 * 1024;
/// Up to here an answer is no large one.
const SMALL: usize = 64 * 1024;
/// Unused connections kept per node.
const IDLE_CONNECTIONS: usize = 8;
/// A connection whose data stays unconfirmed this long is dead: its node is gone without a word.
const SILENCE: Duration = Duration::from_secs(10);
/// Between signs of life on a quiet connection.
const KEEPALIVE: Duration = Duration::from_secs(5);

/// Why another node gave no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// It is certain that the node did nothing: the request was not sent, or refused unread.
    #[error("{0}")]
    NotSent(String),
    /// The request was sent, and no answer came that could be read.
    #[error("{0}")]
    Lost(String),
}

type HttpClient = Client<Bounded<HttpsConnector<HttpConnector>>, Full<Bytes>>;

/// The client of one node.
#[derive(Debug)]
struct Known {
    address: String,
    tls: Arc<ClientConfig>,
    client: HttpClient,
}

/// Asks other nodes. Cheap to clone.
#[derive(Clone, Debug)]
pub struct PeerPool {
    certificates: Certificates,
    cluster: String,
    namespace: String,
    known: Arc<Mutex<HashMap<NodeId, Known>>>,
    /// Shared by the large answers that are coming in.
    memory: Memory,
}

impl PeerPool {
    /// For the nodes of a cluster in a Kubernetes namespace: their names are checked as
    /// [`names::node_dns`](brainy_kubernetes::names::node_dns).
    pub fn new(certificates: Certificates, cluster: impl Into<String>, namespace: impl Into<String>) -> Self {
        Self {
            certificates,
            cluster: cluster.into(),
            namespace: namespace.into(),
            known: Arc::default(),
            memory: Memory::new(ANSWERS),
        }
    }

    async fn ask<Q: Serialize, A: DeserializeOwned>(
        &self,
        node: &NodeId,
        address: &str,
        path: &str,
        question: &Q,
    ) -> Result<A, PeerError> {
        let body = serde_json::to_vec(question).map_err(|error| PeerError::NotSent(error.to_string()))?;
        let lost = |why: String| PeerError::Lost(format!("node {node} did not answer: {why}"));
        let exchange = async {
            let response = self.send(node, address, path, body.into()).await?;
            let status = response.status();
            let length = response.body().size_hint().upper().map_or(wire::MAX_BYTES, |length| length as usize);
            let _room = match length {
                0..=SMALL => Room::default(),
                length => {
                    let room = self.memory.set_aside(length as u64, Instant::now() + ANSWER).await;
                    room.ok_or_else(|| lost("too many large answers are coming in at once".into()))?
                }
            };
            let body = Limited::new(response.into_body(), wire::MAX_BYTES).collect().await;
            let body = body.map_err(|error| lost(error.to_string()))?.to_bytes();
            match status {
                StatusCode::OK => serde_json::from_slice(&body).map_err(|error| senseless(node, error)),
                // The listener refuses a request as a whole before it does any of it.
                status if status.is_client_error() => {
                    Err(PeerError::NotSent(format!("node {node} refused the request: {status} {}", excerpt(&body))))
                }
                status => Err(lost(format!("{status} {}", excerpt(&body)))),
            }
        };
        tokio::time::timeout(ANSWER, exchange).await.unwrap_or_else(|_| Err(lost("time is up".into())))
    }

    /// Asks a node at an address about the documents that the nodes keep among them.
    pub async fn consult_at(&self, node: &NodeId, address: &str, question: &Question) -> Result<Answer, Unanswered> {
        let limit = match &question.ask {
            Ask::Raft { rpc, .. } if matches!(**rpc, Rpc::Snapshot { .. }) => ANSWER,
            _ => CONSULTED,
        };
        match tokio::time::timeout(limit, self.ask(node, address, CONSENSUS_PATH, question)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(PeerError::NotSent(why))) => Err(Unanswered::NotSent(why)),
            Ok(Err(PeerError::Lost(why))) => Err(Unanswered::Lost(why)),
            Err(_) => Err(Unanswered::Lost(format!("node {node} did not answer within {limit:?}"))),
        }
    }

    /// Sends a request and waits for the head of the answer; callers bound it.
    async fn send(
        &self,
        node: &NodeId,
        address: &str,
        path: &str,
        body: Bytes,
    ) -> Result<Response<Incoming>, PeerError> {
        let unsent = |why: String| PeerError::NotSent(format!("node {node} can't be asked at {address}: {why}"));
        let uri: Uri = format!("https://{address}{path}").parse().map_err(|error| unsent(format!("{error}")))?;
        let client = self.client(node, address).map_err(&unsent)?;
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(uri)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|error| unsent(error.to_string()))?;
        traces::pass_on(request.headers_mut());
        client.request(request).await.map_err(|error| {
            if error.is_connect() {
                unsent(causes(&error))
            } else {
                PeerError::Lost(format!("the connection to node {node} broke: {}", causes(&error)))
            }
        })
    }

    /// The client of a node at an address, made anew when the address or the certificates have changed.
    fn client(&self, node: &NodeId, address: &str) -> Result<HttpClient, String> {
        let tls = self.certificates.current().client;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let current = known.get(node).filter(|current| current.address == address && Arc::ptr_eq(&current.tls, &tls));
        if let Some(current) = current {
            return Ok(current.client.clone());
        }
        let name = brainy_kubernetes::names::node_dns(&node.0, &self.cluster, &self.namespace);
        let name = ServerName::try_from(name.clone()).map_err(|_| format!("{name:?} is no DNS name"))?;
        let client = connect(Arc::clone(&tls), name);
        known.insert(node.clone(), Known { address: address.to_owned(), tls, client: client.clone() });
        Ok(client)
    }
}

fn connect(tls: Arc<ClientConfig>, name: ServerName<'static>) -> HttpClient {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(CONNECT));
    tcp.set_keepalive(Some(KEEPALIVE));
    tcp.set_keepalive_interval(Some(KEEPALIVE));
    tcp.set_tcp_user_timeout(Some(SILENCE));
    let https = HttpsConnectorBuilder::new()
        .with_tls_config(ClientConfig::clone(&tls))
        .https_only()
        .with_server_name_resolver(FixedServerNameResolver::new(name))
        .enable_http1()
        .wrap_connector(tcp);
    Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE)
        .pool_max_idle_per_host(IDLE_CONNECTIONS)
        .build(Bounded(https))
}

/// A connector whose connection stands in time or not at all: past it, it is certain that nothing was sent.
#[derive(Clone, Debug)]
struct Bounded<C>(C);

impl<C> Service<Uri> for Bounded<C>
where
    C: Service<Uri, Error = Box<dyn std::error::Error + Send + Sync>>,
    C::Future: Send + 'static,
{
    type Response = C::Response;
    type Error = C::Error;
    type Future = BoxFuture<'static, Result<C::Response, C::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), C::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connecting = self.0.call(uri);
        Box::pin(async move {
            tokio::time::timeout(CONNECT, connecting)
                .await
                .unwrap_or_else(|_| Err(format!("no connection within {} s", CONNECT.as_secs()).into()))
        })
    }
}

impl PeerPool {
    /// Tells a node something that it has no answer to.
    async fn tell(&self, node: &NodeId, address: &str, path: &str, body: Bytes) -> io::Result<()> {
        let response = self.send(node, address, path, body).await.map_err(io::Error::other)?;
        match response.status() {
            StatusCode::NO_CONTENT => Ok(()),
            status => Err(io::Error::other(format!("node {node} answered {status}"))),
        }
    }
}

#[async_trait]
impl Peers for PeerPool {
    async fn calls(
        &self,
        node: &NodeId,
        address: &str,
        namespace: Option<&Namespace>,
        calls: Vec<Call>,
    ) -> Result<Vec<Attempt>, PeerError> {
        let asked = calls.len();
        let span = debug_span!("forward", otel.kind = "client", %node, calls = asked);
        let request = CallsRequest::new(namespace, calls);
        let answer: CallsAnswer = self.ask(node, address, CALLS_PATH, &request).instrument(span).await?;
        let attempts = answer.open().map_err(|error| senseless(node, error))?;
        if attempts.len() == asked {
            Ok(attempts)
        } else {
            Err(senseless(node, format!("{} answers to {asked} calls", attempts.len())))
        }
    }

    async fn list(
        &self,
        node: &NodeId,
        address: &str,
        shards: &[ShardId],
        listing: &Listing,
    ) -> Result<Result<Portion, Error>, PeerError> {
        let span = debug_span!("forward", otel.kind = "client", %node, shards = shards.len());
        let request = ListRequest::new(shards, listing);
        let answer: ListAnswer = self.ask(node, address, LIST_PATH, &request).instrument(span).await?;
        answer.open().map_err(|error| senseless(node, error))
    }
}

#[async_trait]
impl PeerClient for PeerPool {
    async fn handoff(
        &self,
        node: &NodeId,
        address: &str,
        shard: ShardId,
        request: &HandoffRequest,
    ) -> Result<Bytes, HandoffError> {
        let body = serde_json::to_vec(request).map_err(|error| HandoffError::Refused(error.to_string()))?;
        let path = format!("/internal/shards/{}:copy", shard.0);
        let later = |why: String| HandoffError::Later(format!("node {node} did not answer: {why}"));
        let exchange = async {
            let response =
                self.send(node, address, &path, body.into()).await.map_err(|error| later(error.to_string()))?;
            let status = response.status();
            let limit = if status == StatusCode::OK { MAX_PIECE } else { SMALL };
            let body = Limited::new(response.into_body(), limit).collect().await;
            let body = body.map_err(|error| later(causes(&*error)))?.to_bytes();
            match status {
                StatusCode::OK => Ok(body),
                StatusCode::SERVICE_UNAVAILABLE => Err(later(excerpt(&body))),
                status => Err(HandoffError::Refused(format!("node {node} refused it: {status} {}", excerpt(&body)))),
            }
        };
        tokio::time::timeout(HANDOFF_PIECE, exchange).await.unwrap_or_else(|_| Err(later("time is up".into())))
    }

    async fn consult(&self, node: &NodeId, question: &Question) -> Result<Answer, Unanswered> {
        // By name: what a node says of its address is among the documents.
        let host = brainy_kubernetes::names::node_dns(&node.0, &self.cluster, &self.namespace);
        self.consult_at(node, &format!("{host}:{PEER_PORT}"), question).await
    }

    async fn nudge(&self, node: &NodeId, address: &str) -> io::Result<()> {
        self.tell(node, address, NUDGE_PATH, Bytes::new()).await
    }

    async fn freed(&self, node: &NodeId, address: &str, freed: &Freed) -> io::Result<()> {
        let body = serde_json::to_vec(freed).map_err(io::Error::other)?;
        self.tell(node, address, FREED_PATH, body.into()).await
    }

    async fn renewed(&self, node: &NodeId, address: &str, renewed: &Renewed) -> io::Result<Option<Told>> {
        let body = serde_json::to_vec(renewed).map_err(io::Error::other)?;
        let response = self.send(node, address, RENEWED_PATH, body.into()).await.map_err(io::Error::other)?;
        match response.status() {
            StatusCode::NO_CONTENT => Ok(None),
            StatusCode::OK => {
                let body = Limited::new(response.into_body(), SMALL).collect().await.map_err(io::Error::other)?;
                serde_json::from_slice(&body.to_bytes()).map(Some).map_err(io::Error::other)
            }
            status => Err(io::Error::other(format!("node {node} answered {status}"))),
        }
    }
}

fn senseless(node: &NodeId, problem: impl std::fmt::Display) -> PeerError {
    PeerError::Lost(format!("the answer of node {node} makes no sense: {problem}"))
}

/// The beginning of an answer, for a message.
fn excerpt(body: &[u8]) -> String {
    String::from_utf8_lossy(&body[..body.len().min(300)]).into_owned()
}
