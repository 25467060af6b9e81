//! How the operator asks a cluster's nodes: over their node-to-node listener, by mutual TLS, with the certificate that they
//! have themselves.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use brainy_coordination::NodeId;
use brainy_coordination::consensus::client::{Client as Documents, Seeds};
use brainy_coordination::consensus::membership::VOTERS;
use brainy_coordination::consensus::wire::{
    Answer, CONSENSUS_PATH, Question, Transport, Unanswered, cluster as group_of,
};
use brainy_kubernetes::names;
use brainy_storage::error::causes;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::CONTENT_TYPE;
use hyper::{Request, StatusCode};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use super::wanted_nodes;
use crate::reconcile::Error;
use crate::reconcile::apply::must_be_ours;
use crate::reconcile::validate::ValidatedCluster;

/// To connect.
const CONNECT: Duration = Duration::from_secs(2);
/// For an answer: longer than a leader works on it.
const ANSWER: Duration = Duration::from_secs(6);
/// Most bytes of an answer: a document.
const MOST: usize = 64 << 20;
/// How long a leader is looked for. The reconcile that asks has more to do.
const SEARCH: Duration = Duration::from_secs(3);

/// The documents that the cluster's nodes keep; `None`: they have no certificates yet, and so are no nodes.
pub(super) async fn documents(
    client: &Client,
    cluster: &ValidatedCluster,
    since: i64,
) -> Result<Option<Documents>, Error> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &cluster.namespace);
    let name = names::tls_secret(&cluster.name);
    let Some(secret) = secrets.get_opt(&name).await? else {
        return Ok(None);
    };
    must_be_ours(cluster, "Secret", &secret.metadata)?;
    let part = |key: &str| {
        let found = secret.data.as_ref().and_then(|data| data.get(key));
        found
            .map(|bytes| bytes.0.as_slice())
            .ok_or_else(|| Error::DamagedSecret { name: name.clone(), key: key.into() })
    };
    let tls = client_config(part("ca.crt")?, part("tls.crt")?, part("tls.key")?).ok_or_else(|| {
        Error::DamagedSecret { name: name.clone(), key: "a usable ca.crt, tls.crt or tls.key".into() }
    })?;
    let nodes = Arc::new(Nodes {
        cluster: cluster.name.clone(),
        namespace: cluster.namespace.clone(),
        // Only these are members, whoever else is wanted.
        seeds: wanted_nodes(cluster).into_iter().take(VOTERS).collect(),
        http: connect(tls),
    });
    let group = group_of(&cluster.uid, since);
    Ok(Some(Documents::new(group, Arc::clone(&nodes) as _, nodes).with_patience(SEARCH)))
}

/// How the operator calls nodes, from what their Secret says (`ca.crt`, `tls.crt`, `tls.key`); none: it can't be used.
pub fn client_config(authorities: &[u8], chain: &[u8], key: &[u8]) -> Option<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for authority in CertificateDer::pem_slice_iter(authorities) {
        roots.add(authority.ok()?).ok()?;
    }
    let chain = CertificateDer::pem_slice_iter(chain).collect::<Result<Vec<_>, _>>().ok()?;
    ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .ok()?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(key).ok()?)
        .ok()
}

type Https = HttpClient<HttpsConnector<HttpConnector>, Full<Bytes>>;

fn connect(tls: ClientConfig) -> Https {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(CONNECT));
    let https = HttpsConnectorBuilder::new().with_tls_config(tls).https_only().enable_http1().wrap_connector(tcp);
    HttpClient::builder(TokioExecutor::new()).build(https)
}

#[derive(Debug)]
struct Nodes {
    cluster: String,
    namespace: String,
    seeds: Vec<NodeId>,
    http: Https,
}

impl Seeds for Nodes {
    fn nodes(&self) -> Vec<NodeId> {
        self.seeds.clone()
    }
}

#[async_trait]
impl Transport for Nodes {
    async fn ask(&self, node: &NodeId, question: &Question) -> Result<Answer, Unanswered> {
        let unsent = |why: String| Unanswered::NotSent(format!("node {node}: {why}"));
        let lost = |why: String| Unanswered::Lost(format!("node {node}: {why}"));
        let host = names::node_dns(&node.0, &self.cluster, &self.namespace);
        let body = serde_json::to_vec(question).map_err(|error| unsent(error.to_string()))?;
        let request = Request::post(format!("https://{host}:{}{CONSENSUS_PATH}", names::PEER_PORT))
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| unsent(error.to_string()))?;
        let exchange = async {
            let response = self.http.request(request).await.map_err(|error| match error.is_connect() {
                true => unsent(causes(&error)),
                false => lost(causes(&error)),
            })?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MOST).collect().await;
            let body = body.map_err(|error| lost(error.to_string()))?.to_bytes();
            match status {
                StatusCode::OK => serde_json::from_slice(&body).map_err(|error| lost(error.to_string())),
                // Refused unread.
                status if status.is_client_error() => Err(unsent(status.to_string())),
                status => Err(lost(status.to_string())),
            }
        };
        tokio::time::timeout(ANSWER, exchange).await.unwrap_or_else(|_| Err(lost("no answer in time".into())))
    }
}
