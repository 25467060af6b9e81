//! HTTP with the Worker.

use std::error::Error as StdError;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::header::{AGE, AUTHORIZATION, ETAG, HeaderValue};
use hyper::{HeaderMap, Request, http};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client as Connections;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::{ClientConfig, RootCertStore};
use serde::Deserialize;

use super::settings::R2Settings;
use crate::Error;
use crate::backends::objects::{Failure, IDLE_CONNECTION, UNREACHABLE, judge_answer, never_sent};
use crate::error::causes;

/// A connection to the Worker, with the token. Sends each request once.
#[derive(Debug)]
pub(super) struct Client {
    /// What was not even begun to be sent, because a kept connection was closed, goes over a new one. That is no
    /// repetition: the server has seen nothing of it.
    connections: Connections<HttpsConnector<HttpConnector>, Full<Bytes>>,
    authorization: HeaderValue,
    pub(super) server: String,
}

/// An answer that says yes.
#[derive(Debug)]
pub(super) struct Answer {
    headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Answer {
    pub(super) fn etag(&self) -> Option<&str> {
        self.headers.get(ETAG)?.to_str().ok()
    }

    pub(super) fn age(&self) -> Option<Duration> {
        self.headers.get(AGE)?.to_str().ok()?.parse().ok().map(Duration::from_secs)
    }
}

/// An answer that says no.
#[derive(Debug, Deserialize)]
struct Problem {
    code: String,
    message: String,
}

impl Client {
    pub(super) fn new(settings: &R2Settings) -> Result<Self, Error> {
        let server = settings.address()?.to_owned();
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(settings.limits.connect));
        let provider = rustls::crypto::ring::default_provider();
        let tls = |why: String| Error::unavailable("Tls", why);
        let builder = if server.starts_with("https://") {
            HttpsConnectorBuilder::new().with_provider_and_native_roots(provider).map_err(|why| tls(why.to_string()))?
        } else {
            // Nothing will speak TLS: don't load the machine's authorities, which take a megabyte.
            let config = ClientConfig::builder_with_provider(provider.into()).with_safe_default_protocol_versions();
            let config = config.map_err(|why| tls(why.to_string()))?.with_root_certificates(RootCertStore::empty());
            HttpsConnectorBuilder::new().with_tls_config(config.with_no_client_auth())
        };
        let connector = builder.https_or_http().enable_http1().wrap_connector(tcp);
        let connections = Connections::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_CONNECTION)
            .build(connector);
        Ok(Self { connections, authorization: settings.authorization()?, server })
    }

    /// A request for what is below the Worker's address.
    pub(super) fn request(&self, method: http::Method, path: &str) -> http::request::Builder {
        let uri = format!("{}{path}", self.server);
        Request::builder().method(method).uri(uri).header(AUTHORIZATION, self.authorization.clone())
    }

    /// Sends a request once, and reads its answer whole. Without a time limit of its own.
    pub(super) async fn send(&self, request: http::request::Builder, body: Bytes) -> Result<Answer, Failure> {
        let clean = |why: http::Error| Failure::Clean(Error::unavailable("BadRequest", why.to_string()));
        let request = request.body(Full::new(body)).map_err(clean)?;
        let answer = self.connections.request(request).await.map_err(|error| self.unanswered(&error))?;
        let (head, body) = answer.into_parts();
        let body = match body.collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) => return Err(self.unanswered(&error)),
        };
        if head.status.is_success() {
            return Ok(Answer { headers: head.headers, body });
        }
        // Without such a body it is no answer of the Worker, but of what stands where it should be.
        let problem: Option<Problem> = serde_json::from_slice(&body).ok();
        let (code, message) = match &problem {
            Some(Problem { code, message }) => (Some(code.as_str()), message.as_str()),
            None => (None, "an answer that the Worker never gives"),
        };
        Err(judge_answer(head.status.as_u16(), code, message, &self.server))
    }

    fn unanswered(&self, error: &(dyn StdError + 'static)) -> Failure {
        let cause = Error::unavailable(UNREACHABLE, format!("{}: {}", self.server, causes(error)));
        if never_sent(error) { Failure::Clean(cause) } else { Failure::Unknown(cause) }
    }

    pub(super) fn bad_answer(&self, what: &str) -> Error {
        Error::unavailable("BadAnswer", format!("{} answered {what}", self.server))
    }
}
