//! Around every route: what became of each request, and how long it took; the span that it begins. Addresses that can't be read
//! go no further.
//!
//! A layer of its own, since axum's `from_fn` makes several allocations of each request.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use futures::FutureExt;
use futures::future::BoxFuture;
use tower::{Layer, Service};
use tracing::field::Empty;
use tracing::{Instrument, Span, debug_span};

use super::request::check_encoding;
use crate::metrics::RequestFigures;
use crate::traces;

/// Counts what passes under one operation.
#[derive(Clone, Debug)]
pub(super) struct Counted {
    pub(super) figures: Arc<RequestFigures>,
    /// What a request of it is called in a trace: method and route. `None`: it is in none.
    pub(super) traced: Option<Arc<str>>,
}

impl<S> Layer<S> for Counted {
    type Service = CountedService<S>;

    fn layer(&self, inner: S) -> CountedService<S> {
        CountedService { counted: self.clone(), inner }
    }
}

impl Counted {
    /// The child of the span that the request names, if it does.
    fn span(&self, request: &Request) -> Span {
        let Some(name) = &self.traced else { return Span::none() };
        let span = debug_span!(
            "request",
            otel.name = &**name,
            otel.kind = "server",
            otel.status_code = Empty,
            http.response.status_code = Empty
        );
        traces::go_on(request, &span);
        span
    }
}

#[derive(Clone, Debug)]
pub(super) struct CountedService<S> {
    counted: Counted,
    inner: S,
}

impl<S> Service<Request> for CountedService<S>
where
    S: Service<Request, Response = Response, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let running = self.counted.figures.start();
        let span = self.counted.span(&request);
        let answer = match check_encoding(request.uri()) {
            Ok(()) => Ok(self.inner.call(request)),
            Err(problem) => Err(problem),
        };
        let seen = span.clone();
        let counted = async move {
            let response = match answer {
                Ok(answer) => answer.await?,
                Err(problem) => problem.into_response(),
            };
            running.end(response.extensions().get().copied().unwrap_or_default());
            let status = response.status();
            seen.record("http.response.status_code", status.as_u16());
            if status.is_server_error() {
                seen.record("otel.status_code", "ERROR");
            }
            Ok(response)
        };
        if span.is_disabled() { counted.boxed() } else { counted.instrument(span).boxed() }
    }
}
