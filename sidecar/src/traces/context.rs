//! Which span of which trace a request belongs to, from process to process.

use axum::http::{HeaderMap, Request};
use opentelemetry::Context;
use opentelemetry::propagation::TextMapPropagator;
use opentelemetry_http::{HeaderExtractor, HeaderInjector};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// Makes a span, which nobody has entered yet, the child of the one that the headers of a request name. What can't be read counts
/// as not said.
pub(crate) fn go_on<B>(request: &Request<B>, span: &Span) {
    if !span.is_disabled() {
        let headers = HeaderExtractor(request.headers());
        let parent = TraceContextPropagator::new().extract_with_context(&Context::new(), &headers);
        // It fails where the span is logged and not traced: then there is nothing to be done.
        let _ = span.set_parent(parent);
    }
}

/// Tells whom this process asks, in the headers of the request, which span it does that in.
pub(crate) fn pass_on(headers: &mut HeaderMap) {
    let span = Span::current();
    if !span.is_disabled() {
        TraceContextPropagator::new().inject_context(&span.context(), &mut HeaderInjector(headers));
    }
}
