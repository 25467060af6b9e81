//! Two clients of one bucket: the ordinary one repeats a request that failed, the one for conditional writes never
//! does. A repeated conditional write could meet its own first attempt and report a clean rejection of a write that took
//! effect. Both share one pool of connections.

use std::time::Duration;

use aws_config::BehaviorVersion;
use aws_credential_types::Credentials as Keys;
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::{
    IdentityCache, Region, RequestChecksumCalculation, ResponseChecksumValidation, SharedHttpClient,
    StalledStreamProtectionConfig,
};
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore, rustls_provider::CryptoMode};
use aws_smithy_types::retry::RetryConfig;
use aws_smithy_types::timeout::TimeoutConfig;

use super::settings::{Credentials, KeyFiles, S3Settings};
use crate::Error;
use crate::backends::objects::IDLE_CONNECTION;

/// Attempts of an ordinary request.
const ATTEMPTS: u32 = 3;
/// Before the second attempt of an ordinary request; doubles for the third.
const BACKOFF: Duration = Duration::from_millis(100);

#[derive(Clone, Debug)]
pub(super) struct Clients {
    pub(super) ordinary: Client,
    pub(super) conditional: Client,
    /// For an ordinary request with all its attempts.
    pub(super) ordinary_limit: Duration,
    pub(super) conditional_limit: Duration,
}

/// Makes the clients. Sends nothing, except where the environment's credentials are looked up.
pub(super) async fn connect(settings: &S3Settings) -> Result<Clients, Error> {
    settings.check()?;
    let http = http_client(settings)?;
    let credentials = credentials(settings, &http).await?;
    let limits = settings.limits;
    // With the pauses, so that the last attempt can still say what is wrong.
    let ordinary_limit = limits.request * ATTEMPTS + BACKOFF * 10;
    let mut config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .http_client(http)
        .credentials_provider(credentials)
        .identity_cache(match &settings.credentials {
            // They are kept by who reads them.
            Credentials::Folder(_) => IdentityCache::no_cache(),
            Credentials::Keys { .. } | Credentials::Environment => IdentityCache::lazy().build(),
        })
        .region(Region::new(settings.region.clone()))
        // By default every body gets a checksum trailer, which many S3-compatible servers refuse.
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
        // Every request has a time limit of its own, with its body.
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .retry_config(RetryConfig::standard().with_max_attempts(ATTEMPTS).with_initial_backoff(BACKOFF))
        .timeout_config(
            TimeoutConfig::builder()
                .connect_timeout(limits.connect)
                .operation_attempt_timeout(limits.request)
                .operation_timeout(ordinary_limit)
                .build(),
        );
    if let Some(endpoint) = &settings.endpoint {
        config = config.endpoint_url(endpoint).force_path_style(true);
    }
    let ordinary = config.build();
    let conditional = ordinary.to_builder().retry_config(RetryConfig::disabled()).build();
    Ok(Clients {
        ordinary: Client::from_conf(ordinary),
        conditional: Client::from_conf(conditional),
        ordinary_limit,
        conditional_limit: limits.request,
    })
}

fn http_client(settings: &S3Settings) -> Result<SharedHttpClient, Error> {
    let mut tls = TlsContext::builder();
    let speaks_tls = settings.endpoint.as_ref().is_none_or(|endpoint| endpoint.starts_with("https://"));
    if !speaks_tls && settings.credentials != Credentials::Environment {
        // Nothing will speak TLS: don't load the machine's authorities, which take a megabyte.
        tls = tls.with_trust_store(TrustStore::empty());
    }
    let tls = tls.build().map_err(|why| Error::unavailable("Tls", why.to_string()))?;
    Ok(aws_smithy_http_client::Builder::new()
        .pool_idle_timeout(IDLE_CONNECTION)
        .tls_provider(Provider::Rustls(CryptoMode::Ring))
        .tls_context(tls)
        .build_https())
}

async fn credentials(settings: &S3Settings, http: &SharedHttpClient) -> Result<SharedCredentialsProvider, Error> {
    Ok(match &settings.credentials {
        Credentials::Folder(folder) => SharedCredentialsProvider::new(KeyFiles::new(folder.clone())),
        Credentials::Keys { access_key_id, secret_access_key } => {
            SharedCredentialsProvider::new(Keys::new(access_key_id, secret_access_key, None, None, "settings"))
        }
        Credentials::Environment => {
            let loader = aws_config::defaults(BehaviorVersion::latest())
                .http_client(http.clone())
                .region(Region::new(settings.region.clone()));
            let loaded = tokio::time::timeout(settings.limits.request, loader.load()).await;
            let loaded = loaded.map_err(|_| no_credentials("the look-up took too long"))?;
            loaded.credentials_provider().ok_or_else(|| no_credentials("the environment offers none"))?
        }
    })
}

fn no_credentials(why: &str) -> Error {
    Error::unavailable(crate::backends::objects::NO_CREDENTIALS, why)
}
