//! A client of one node's storage API, as an application in that pod would use it.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, bail};
use brainy_kubernetes::names::API_PORT;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::forward;

const REQUEST: Duration = Duration::from_secs(30);

/// Speaks to the storage API of one pod. Connections are kept and made anew when they break.
pub struct SidecarClient {
    place: Place,
    pod: String,
    /// What batches go to: `/v1/kv`, or the same in a namespace.
    keys: String,
    idle: Mutex<Vec<SendRequest<Full<Bytes>>>>,
}

/// How to reach it.
enum Place {
    /// Through a port-forward to the pod's loopback.
    Pod(Box<Api<Pod>>),
    /// `host:port` on this machine.
    Local,
}

/// What became of one item of a `setBatch`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ItemOutcome {
    /// Durable: acknowledged.
    Applied,
    /// Not written.
    Failed,
    /// Written or not, nobody can say.
    Unknown,
}

#[derive(Deserialize)]
struct SetAnswer {
    items: Vec<SetItem>,
}

#[derive(Deserialize)]
struct SetItem {
    key: String,
    outcome: ItemOutcome,
    #[serde(default)]
    problem: Option<Value>,
}

#[derive(Deserialize)]
struct GetAnswer {
    items: Vec<GetItem>,
}

#[derive(Deserialize)]
struct GetItem {
    key: String,
    #[serde(default)]
    found: Option<bool>,
    #[serde(default)]
    value: Value,
    #[serde(default)]
    problem: Option<Value>,
}

/// What a `setBatch` did: the outcome of each item in the order sent, and the first problem, in words.
#[derive(Debug)]
pub struct SetResult {
    /// In the order of the items sent.
    pub outcomes: Vec<ItemOutcome>,
    /// Why the first item that was not applied was not.
    pub problem: Option<String>,
}

/// What a `getBatch` found.
#[derive(Debug)]
pub struct GetResult {
    /// The values that are there.
    pub found: HashMap<String, Value>,
    /// The keys that are certainly not there.
    pub absent: Vec<String>,
    /// The keys that could not be read, and why the first could not.
    pub failed: Option<String>,
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its body.
    pub body: Bytes,
}

impl Answer {
    /// The body of a successful answer, as JSON.
    pub fn json<T: serde::de::DeserializeOwned>(&self) -> anyhow::Result<T> {
        if !self.status.is_success() {
            bail!("{}: {}", self.status, String::from_utf8_lossy(&self.body));
        }
        serde_json::from_slice(&self.body)
            .with_context(|| format!("unexpected answer {}", String::from_utf8_lossy(&self.body)))
    }
}

impl SidecarClient {
    /// Of a pod.
    pub fn new(client: &Client, namespace: &str, pod: &str) -> Self {
        Self {
            place: Place::Pod(Box::new(Api::namespaced(client.clone(), namespace))),
            pod: pod.to_owned(),
            keys: "/v1/kv".to_owned(),
            idle: Mutex::default(),
        }
    }

    /// Of a sidecar on this machine, at `host:port`.
    pub fn local(address: &str) -> Self {
        Self { place: Place::Local, pod: address.to_owned(), keys: "/v1/kv".to_owned(), idle: Mutex::default() }
    }

    /// Its batches write and read in a namespace of the storage.
    pub fn in_namespace(self, namespace: &str) -> Self {
        Self { keys: format!("/v1/namespaces/{namespace}/kv"), ..self }
    }

    /// The pod's name.
    pub fn pod(&self) -> &str {
        &self.pod
    }

    /// Writes many items. `Err`: nobody can say for any of them.
    pub async fn set_batch(&self, items: &[(&str, &Value)]) -> anyhow::Result<SetResult> {
        let body: Vec<Value> = items.iter().map(|(key, value)| json!({"key": key, "value": value})).collect();
        let answer: SetAnswer = self.post(&format!("{}:setBatch", self.keys), &json!({"items": body})).await?;
        if answer.items.len() != items.len() || answer.items.iter().zip(items).any(|(got, sent)| got.key != sent.0) {
            bail!("setBatch did not answer for the items that were sent, in their order");
        }
        let problem = answer.items.iter().find(|item| item.outcome != ItemOutcome::Applied);
        let problem = problem
            .map(|item| format!("{}: {:?} {}", item.key, item.outcome, item.problem.clone().unwrap_or_default()));
        Ok(SetResult { outcomes: answer.items.iter().map(|item| item.outcome).collect(), problem })
    }

    /// Reads many keys.
    pub async fn get_batch(&self, keys: &[&str]) -> anyhow::Result<GetResult> {
        let answer: GetAnswer = self.post(&format!("{}:getBatch", self.keys), &json!({"keys": keys})).await?;
        if answer.items.len() != keys.len() {
            bail!("getBatch answered for {} keys of {}", answer.items.len(), keys.len());
        }
        let mut result = GetResult { found: HashMap::new(), absent: Vec::new(), failed: None };
        for item in answer.items {
            match (item.found, item.problem) {
                (Some(true), None) => {
                    result.found.insert(item.key, item.value);
                }
                (Some(false), None) => result.absent.push(item.key),
                (_, problem) => {
                    result.failed.get_or_insert_with(|| format!("{}: {}", item.key, problem.unwrap_or_default()));
                }
            }
        }
        Ok(result)
    }

    /// A GET of any path, as JSON.
    pub async fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.call(Method::GET, path, Bytes::new()).await?.json()
    }

    async fn post<T: serde::de::DeserializeOwned>(&self, path: &str, body: &Value) -> anyhow::Result<T> {
        self.call(Method::POST, path, serde_json::to_vec(body)?.into()).await?.json()
    }

    /// One request, one answer. A connection on which anything went wrong is not used again.
    pub async fn call(&self, method: Method, path: &str, body: Bytes) -> anyhow::Result<Answer> {
        self.call_bounded(method, path, None, body).await
    }

    /// The same, of what is done once, however often it is sent with this id.
    pub async fn call_once(&self, method: Method, path: &str, id: &str, body: Bytes) -> anyhow::Result<Answer> {
        self.call_bounded(method, path, Some(("idempotency-key", id)), body).await
    }

    /// The same as [`Self::call`], as a part of a trace of the client's: its `traceparent` (W3C Trace Context).
    pub async fn call_traced(&self, method: Method, path: &str, parent: &str, body: Bytes) -> anyhow::Result<Answer> {
        self.call_bounded(method, path, Some(("traceparent", parent)), body).await
    }

    async fn call_bounded(
        &self,
        method: Method,
        path: &str,
        header: Option<(&str, &str)>,
        body: Bytes,
    ) -> anyhow::Result<Answer> {
        timeout(REQUEST, self.call_unbounded(method, path, header, body))
            .await
            .with_context(|| format!("{} did not answer in {REQUEST:?}", self.pod))?
    }

    async fn call_unbounded(
        &self,
        method: Method,
        path: &str,
        header: Option<(&str, &str)>,
        body: Bytes,
    ) -> anyhow::Result<Answer> {
        let mut connection = self.connection().await?;
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "127.0.0.1")
            .header("content-type", "application/json");
        if let Some((name, value)) = header {
            request = request.header(name, value);
        }
        let request = request.body(Full::new(body))?;
        let response =
            connection.send_request(request).await.with_context(|| format!("the connection to {} broke", self.pod))?;
        let status = response.status();
        let body = response
            .into_body()
            .collect()
            .await
            .with_context(|| format!("the connection to {} broke", self.pod))?
            .to_bytes();
        self.keep(connection);
        Ok(Answer { status, body })
    }

    async fn connection(&self) -> anyhow::Result<SendRequest<Full<Bytes>>> {
        while let Some(mut kept) = self.take() {
            if kept.ready().await.is_ok() {
                return Ok(kept);
            }
        }
        match &self.place {
            Place::Pod(pods) => handshake(forward::connect(pods, &self.pod, API_PORT).await?).await,
            Place::Local => handshake(TcpStream::connect(&self.pod).await?).await,
        }
    }

    fn take(&self) -> Option<SendRequest<Full<Bytes>>> {
        self.idle.lock().ok()?.pop()
    }

    fn keep(&self, connection: SendRequest<Full<Bytes>>) {
        if let Ok(mut idle) = self.idle.lock() {
            idle.push(connection);
        }
    }
}

async fn handshake(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> anyhow::Result<SendRequest<Full<Bytes>>> {
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}
