//! Which span of which trace a request belongs to, from process to process.

use axum::http::{HeaderMap, Request};
use opentelemetry::Context;
use opentelemetry::propagation::TextMapPropagator;
use opentelemetry_http::{HeaderExtractor, HeaderInjector};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// The span of who has sent a request, if it has said so.
#[derive(Debug)]
pub(crate) struct Parent(Context);

impl Parent {
    /// As the headers of a request say it. What can't be read counts as not said.
    pub(crate) fn of<B>(request: &Request<B>) -> Self {
        Self(TraceContextPropagator::new().extract_with_context(&Context::new(), &HeaderExtractor(request.headers())))
    }

    /// Makes a span, which nobody has entered yet, the child of this one.
    pub(crate) fn adopt(self, span: &Span) {
        // It fails where the span is not traced: then there is nothing to be done.
        let _ = span.set_parent(self.0);
    }
}

/// Tells whom this process asks, in the headers of the request, which span it does that in.
pub(crate) fn pass_on(headers: &mut HeaderMap) {
    let span = Span::current();
    if !span.is_disabled() {
        TraceContextPropagator::new().inject_context(&span.context(), &mut HeaderInjector(headers));
    }
}
