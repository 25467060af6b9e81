//! Clients of the API server for a process in a pod: the ServiceAccount's token and certificate authority, and limits as in
//! [`crate::client`]. kube's own client can also log in every way that a kubeconfig may name (commands, JSONPath, YAML); that
//! is a tenth of a sidecar's code, in every pod, and nothing of it is of use there.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::header::AUTHORIZATION;
use http::{HeaderValue, Request};
use hyper_rustls::HttpsConnectorBuilder;
use hyper_timeout::TimeoutConnector;
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::client::{Body, ClientBuilder, ConfigExt};
use kube::{Client, Config};
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, RootCertStore};
use tokio::time::Instant;
use tower::{Layer, ServiceBuilder};

use crate::client::{READ_LIMIT, WATCH_LIMIT, without_retry};

/// Kubernetes replaces a token long before it expires.
const REREAD_TOKEN: Duration = Duration::from_secs(60);

/// Why there is no access to the API server.
#[derive(Debug, thiserror::Error)]
pub enum NoAccess {
    /// This is no pod with a ServiceAccount.
    #[error("{0}")]
    NotInPod(#[from] kube::config::InClusterError),
    /// The certificate authority of the API server can't be used.
    #[error("the certificate authority in the ServiceAccount's folder can't be used: {0}")]
    Authority(#[from] rustls::Error),
}

/// Access to the API server from this pod.
#[derive(Clone, Debug)]
pub struct Access {
    config: Config,
    tls: ClientConfig,
}

impl Access {
    /// From the pod's environment and its ServiceAccount's folder.
    pub fn of_this_pod() -> Result<Self, NoAccess> {
        let config = Config::incluster()?;
        let mut roots = RootCertStore::empty();
        for certificate in config.root_cert.iter().flatten() {
            roots.add(CertificateDer::from(certificate.clone()))?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self { config, tls })
    }

    /// For leases and sessions: calls end within [`READ_LIMIT`], and are never repeated.
    pub fn bounded(&self) -> Client {
        self.client(READ_LIMIT)
    }

    /// For watches: the stream may be silent for [`WATCH_LIMIT`].
    pub fn watching(&self) -> Client {
        self.client(WATCH_LIMIT)
    }

    fn client(&self, read_limit: Duration) -> Client {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        let tls = HttpsConnectorBuilder::new().with_tls_config(self.tls.clone()).https_or_http().enable_http1();
        let mut connector = TimeoutConnector::new(tls.wrap_connector(tcp));
        let limits = without_retry(&self.config, read_limit);
        connector.set_connect_timeout(limits.connect_timeout);
        connector.set_read_timeout(limits.read_timeout);
        connector.set_write_timeout(limits.write_timeout);
        connector.set_reset_reader_on_write(limits.reset_reader_on_write);
        let http: legacy::Client<_, Body> = legacy::Client::builder(TokioExecutor::new()).build(connector);
        let token = Arc::new(Token::new(self.config.auth_info.token_file.clone().unwrap_or_default()));
        let service = ServiceBuilder::new()
            .map_request(move |request| token.authorize(request))
            .service(self.config.base_uri_layer().layer(http));
        ClientBuilder::new(service, self.config.default_namespace.clone()).build()
    }
}

/// The ServiceAccount's token, read anew from time to time.
struct Token {
    file: PathBuf,
    read: Mutex<Option<(Instant, HeaderValue)>>,
}

impl Token {
    fn new(file: impl Into<PathBuf>) -> Self {
        Self { file: file.into(), read: Mutex::new(None) }
    }

    /// Without a token that can be read the request goes without one: the API server's refusal says so.
    fn authorize<B>(&self, mut request: Request<B>) -> Request<B> {
        if let Some(header) = self.header() {
            request.headers_mut().insert(AUTHORIZATION, header);
        }
        request
    }

    fn header(&self) -> Option<HeaderValue> {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if read.as_ref().is_none_or(|(at, _)| at.elapsed() >= REREAD_TOKEN) {
            // A file that can't be read leaves the last token: it may well still be good.
            if let Some(header) = std::fs::read_to_string(&self.file).ok().and_then(|token| bearer(token.trim())) {
                *read = Some((Instant::now(), header));
            }
        }
        read.as_ref().map(|(_, header)| header.clone())
    }
}

fn bearer(token: &str) -> Option<HeaderValue> {
    let mut header = HeaderValue::from_str(&format!("Bearer {token}")).ok()?;
    header.set_sensitive(true);
    Some(header)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_goes_with_each_request_and_shows_in_no_log() {
        let folder = std::env::temp_dir().join(format!("brainy-token-{}", std::process::id()));
        std::fs::write(&folder, "abc\n").unwrap();
        let token = Token::new(&folder);
        let request = token.authorize(Request::new(()));
        assert_eq!(request.headers()[AUTHORIZATION], "Bearer abc");
        assert!(!format!("{request:?}").contains("abc"));
        std::fs::remove_file(&folder).unwrap();
        let request = token.authorize(Request::new(()));
        assert_eq!(request.headers()[AUTHORIZATION], "Bearer abc", "the last token may still be good");
    }

    #[test]
    fn without_a_token_the_request_goes_without_one() {
        let request = Token::new("/nowhere/token").authorize(Request::new(()));
        assert!(request.headers().get(AUTHORIZATION).is_none());
    }
}
