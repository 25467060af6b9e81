//! Traces: what one request of a client went through, over all nodes that it touched, for a collector that speaks OTLP.
//!
//! ```text
//! GET /v1/kv/{*key}            what the client asked of its node; child of the client's own span, if it has sent one
//!   forward                    the owner of the shard was asked
//!     calls                    what the owner was asked
//!       storage                what it asked of its store
//! ```
//!
//! On where `OTEL_EXPORTER_OTLP_ENDPOINT` (or `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`) is set; how much is kept, how often it is sent and
//! what is said of the process are the other variables of the
//! [specification](https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/). Nodes pass the context on as W3C
//! [Trace Context](https://www.w3.org/TR/trace-context/). Spans name keys, and never hold values.
//!
//! Only requests begin a trace: what the process does by itself is not in any.

mod context;
mod exporter;

use std::time::Duration;

use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{SpanExporter, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::{Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{DynFilterFn, LevelFilter};
use tracing_subscriber::registry::LookupSpan;

pub(crate) use self::context::{go_on, pass_on};
use self::exporter::Collector;

/// Variables that turn traces on, each by naming the collector.
const ENDPOINTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];
/// What the process is called, unless `OTEL_SERVICE_NAME` says otherwise.
const SERVICE: &str = "brainy-sidecar";
/// For what was not sent yet when the process ends.
const LAST_SPANS: Duration = Duration::from_secs(2);
/// The spans that begin a trace, or go on with one of another process. Others belong to one of these.
const FIRST: [&str; 2] = ["request", "asked"];

/// Sends what is traced, until it is dropped: then what is left is sent too.
#[derive(Debug, Default)]
pub struct Traces {
    provider: Option<SdkTracerProvider>,
}

impl Traces {
    /// As the environment says. Why it can't be done, if it can't: the process does its work without.
    pub fn from_environment() -> (Self, Option<String>) {
        let is_set = |name: &&str| std::env::var(name).is_ok_and(|value| !value.is_empty());
        if !ENDPOINTS.iter().any(is_set) {
            return (Self::default(), None);
        }
        match provider() {
            Ok(provider) => (Self { provider: Some(provider) }, None),
            Err(why) => (Self::default(), Some(format!("nothing is traced: {why}"))),
        }
    }

    /// Turns spans into what is sent; `None`: nothing is traced.
    pub fn layer<S>(&self) -> Option<impl Layer<S> + use<S>>
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
    {
        let tracer = self.provider.as_ref()?.tracer(SERVICE);
        let of_requests = DynFilterFn::new(|metadata, context| {
            let begins = metadata.is_span() && FIRST.contains(&metadata.name());
            *metadata.level() <= Level::DEBUG
                && metadata.target().starts_with("brainy_")
                && (begins || context.lookup_current().is_some())
        });
        let of_requests = of_requests.with_max_level_hint(LevelFilter::DEBUG);
        // Where in the code a span begins says nothing to who looks at requests.
        let spans = tracing_opentelemetry::layer().with_tracer(tracer).with_location(false).with_threads(false);
        Some(spans.with_filter(of_requests))
    }
}

fn provider() -> Result<SdkTracerProvider, String> {
    let collector = Collector::new().map_err(|error| error.to_string())?;
    let exporter = SpanExporter::builder().with_http().with_http_client(collector).build();
    let exporter = exporter.map_err(|error| error.to_string())?;
    let mut resource = Resource::builder();
    if std::env::var("OTEL_SERVICE_NAME").is_err() {
        resource = resource.with_service_name(SERVICE);
    }
    Ok(SdkTracerProvider::builder().with_resource(resource.build()).with_batch_exporter(exporter).build())
}

impl Drop for Traces {
    fn drop(&mut self) {
        if let Some(provider) = &self.provider
            && let Err(error) = provider.shutdown_with_timeout(LAST_SPANS)
        {
            tracing::warn!(%error, "the last traces were not sent");
        }
    }
}
