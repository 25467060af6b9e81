//! A collector of traces: takes what nodes send it (OTLP over HTTP, protobuf), and prints each span as a line of JSON.

use std::convert::Infallible;

use brainy_storage::object::hex;
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use prost::Message;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

/// A span as it was sent. Ids are in hexadecimal digits, as in `traceparent`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// The node that sent it (`service.instance.id`).
    pub node: String,
    /// Its name.
    pub name: String,
    /// Of its trace.
    pub trace: String,
    /// Its own.
    pub id: String,
    /// Of the span that it is a part of; empty for the first of a trace.
    pub parent: String,
    /// `NAME=VALUE`, of those whose value is a text.
    pub attributes: Vec<String>,
}

/// Takes spans at a port until this process ends.
///
/// # Errors
///
/// The port is taken.
pub async fn collect(port: u16) -> anyhow::Result<()> {
    let listener = TcpListener::bind(("0.0.0.0", port)).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(async move {
            let service = service_fn(async |request| Ok::<_, Infallible>(answer(request).await));
            // Probes connect and say nothing.
            http1::Builder::new().serve_connection(TokioIo::new(stream), service).await.ok();
        });
    }
}

async fn answer(request: Request<Incoming>) -> Response<Empty<Bytes>> {
    let mut response = Response::new(Empty::new());
    if let Err(error) = take(request).await {
        println!("{error:#}");
        *response.status_mut() = StatusCode::BAD_REQUEST;
    }
    response
}

async fn take(request: Request<Incoming>) -> anyhow::Result<()> {
    let (head, body) = request.into_parts();
    anyhow::ensure!(head.method == Method::POST && head.uri.path() == "/v1/traces", "{} {}", head.method, head.uri);
    let sent = ExportTraceServiceRequest::decode(body.collect().await?.to_bytes())?;
    for span in spans(sent) {
        println!("{}", serde_json::to_string(&span)?);
    }
    Ok(())
}

/// The spans among the lines that a collector has printed.
pub fn printed(said: &str) -> Vec<Span> {
    said.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

fn spans(sent: ExportTraceServiceRequest) -> Vec<Span> {
    let mut spans = Vec::new();
    for of_process in sent.resource_spans {
        let about = of_process.resource.map(|resource| resource.attributes).unwrap_or_default();
        let node = texts(&about).find_map(|(name, value)| (name == "service.instance.id").then(|| value.to_owned()));
        let node = node.unwrap_or_default();
        spans.extend(of_process.scope_spans.into_iter().flat_map(|scope| scope.spans).map(|span| Span {
            node: node.clone(),
            trace: hex(&span.trace_id),
            id: hex(&span.span_id),
            parent: hex(&span.parent_span_id),
            attributes: texts(&span.attributes).map(|(name, value)| format!("{name}={value}")).collect(),
            name: span.name,
        }));
    }
    spans
}

fn texts(attributes: &[KeyValue]) -> impl Iterator<Item = (&str, &str)> {
    attributes.iter().filter_map(|attribute| match attribute.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some((attribute.key.as_str(), text.as_str())),
        _ => None,
    })
}
