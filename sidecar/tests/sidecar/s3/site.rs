//! A sidecar that serves S3 in this process, and clients of it.

use std::fmt::Debug;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::ByteStream;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore, rustls_provider::CryptoMode};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_types::retry::RetryConfig;
use brainy_sidecar::http::intake::Intake;
use brainy_sidecar::http::outlet::Outlet;
use brainy_sidecar::http::server::{self, Connections, S3_LIMITS, StopSender};
use brainy_sidecar::metrics::Metrics;
use brainy_sidecar::routing::Router;
use brainy_sidecar::s3::access::Keys;
use brainy_sidecar::s3::{Access, DEFAULT_PAGE, Gateway};
use tokio::net::TcpListener;

use crate::support::answer::Answer;
use crate::support::app::App;
use crate::support::wire::send_raw;

pub(crate) const BUCKET: &str = "a-bucket";
pub(crate) const ID: &str = "an-id";
pub(crate) const SECRET: &str = "a-secret";

/// S3, served until this is dropped.
pub(crate) struct Site {
    pub(crate) address: SocketAddr,
    /// The storage API over the same shards, where there is one.
    pub(crate) app: Option<App>,
    pub(crate) gateway: Gateway,
    _stop: StopSender,
}

impl Site {
    /// Over shards in memory, for anyone, with one empty bucket.
    pub(crate) async fn new() -> Self {
        Self::with(Access::Anyone, DEFAULT_PAGE).await
    }

    /// The same, for whoever has the keys.
    pub(crate) async fn locked() -> Self {
        Self::with(Access::Keys(Keys::new(ID, SECRET)), DEFAULT_PAGE).await
    }

    pub(crate) async fn with(access: Access, page: u32) -> Self {
        let app = App::new();
        let mut site = Self::over(app.router(), access, page).await;
        site.app = Some(app);
        site.client().create_bucket().bucket(BUCKET).send().await.unwrap();
        site
    }

    /// Over any router.
    pub(crate) async fn over(router: Arc<Router>, access: Access, page: u32) -> Self {
        let (intake, outlet) = (Intake::default(), Outlet::default());
        let gateway = Gateway::new(router, Arc::new(Metrics::default()), intake, outlet, page);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = server::stop();
        tokio::spawn(server::serve_tcp(listener, Connections::new(S3_LIMITS, stopped), gateway.clone().app(access)));
        Self { address, app: None, gateway, _stop: stop }
    }

    pub(crate) fn client(&self) -> Client {
        self.client_of(ID, SECRET)
    }

    pub(crate) fn client_of(&self, id: &str, secret: &str) -> Client {
        client(self.address, id, secret)
    }

    /// Writes an object, whatever stands there. Its ETag.
    pub(crate) async fn put(&self, key: &str, body: &str) -> String {
        let put = self.client().put_object().bucket(BUCKET).key(key).body(bytes(body)).send().await.unwrap();
        put.e_tag.unwrap()
    }

    /// The text of an object.
    pub(crate) async fn text(&self, key: &str) -> String {
        let got = self.client().get_object().bucket(BUCKET).key(key).send().await.unwrap();
        String::from_utf8(got.body.collect().await.unwrap().to_vec()).unwrap()
    }
}

/// An unmodified client, which repeats what fails by itself.
pub(crate) fn client(address: SocketAddr, id: &str, secret: &str) -> Client {
    let tls = TlsContext::builder().with_trust_store(TrustStore::empty()).build().unwrap();
    let http = aws_smithy_http_client::Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).tls_context(tls);
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .http_client(http.build_https())
        .credentials_provider(Credentials::new(id, secret, None, None, "test"))
        .region(Region::new("eu-central-1"))
        .endpoint_url(format!("http://{address}"))
        .force_path_style(true)
        .retry_config(RetryConfig::standard().with_initial_backoff(Duration::from_millis(10)));
    Client::from_conf(config.build())
}

pub(crate) fn bytes(body: &str) -> ByteStream {
    ByteStream::from(body.as_bytes().to_vec())
}

/// Sends a request as it is.
pub(crate) async fn raw(site: &Site, request: String) -> Answer {
    let address = site.address;
    tokio::task::spawn_blocking(move || send_raw(address, request.as_bytes()).unwrap()).await.unwrap()
}

/// Status and S3's code of an answer to such a request.
pub(crate) fn code(answer: &Answer) -> (u16, String) {
    let text = answer.text();
    let code = text.split_once("<Code>").and_then(|(_, rest)| rest.split_once("</Code>")).map(|(code, _)| code);
    (answer.status.as_u16(), code.unwrap_or_default().to_owned())
}

/// Status and S3's code of a refusal.
pub(crate) fn refusal<T: Debug, E>(result: Result<T, SdkError<E, HttpResponse>>) -> (u16, String)
where
    E: ProvideErrorMetadata + Debug,
{
    let error = result.unwrap_err();
    let status = error.raw_response().map_or(0, |response| response.status().as_u16());
    (status, error.code().unwrap_or_default().to_owned())
}
