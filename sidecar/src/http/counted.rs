//! Around every route: what became of each request, and how long it took; the span that it begins. Addresses that can't be read
//! go no further.
//!
//! A layer of its own, since axum's `from_fn` makes several allocations of each request.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::http::Request;
use axum::response::{IntoResponse, Response};
use futures::FutureExt;
use futures::future::{self, BoxFuture, Either};
use tower::{Layer, Service};
use tracing::field::Empty;
use tracing::{Instrument, Span, debug_span};

use super::request::check_encoding;
use crate::metrics::{RequestFigures, Running};
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
    /// A request has come in.
    pub(super) fn begin<B>(&self, request: &Request<B>) -> Begun {
        Begun { running: self.figures.start(), span: self.span(request) }
    }

    /// The child of the span that the request names, if it does.
    fn span<B>(&self, request: &Request<B>) -> Span {
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

/// A request that is counted, in its span.
#[derive(Debug)]
pub(super) struct Begun {
    running: Running,
    span: Span,
}

impl Begun {
    /// With its answer.
    pub(super) async fn answered(self, answer: impl Future<Output = Response>) -> Response {
        let Self { running, span } = self;
        let response = answer.instrument(span.clone()).await;
        running.end(response.extensions().get().copied().unwrap_or_default());
        let status = response.status();
        span.record("http.response.status_code", status.as_u16());
        if status.is_server_error() {
            span.record("otel.status_code", "ERROR");
        }
        response
    }
}

#[derive(Clone, Debug)]
pub(super) struct CountedService<S> {
    counted: Counted,
    inner: S,
}

impl<S> Service<Request<Body>> for CountedService<S>
where
    S: Service<Request<Body>, Response = Response, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let begun = self.counted.begin(&request);
        let answer = match check_encoding(request.uri()) {
            Ok(()) => {
                Either::Left(self.inner.call(request).map(|answer| answer.unwrap_or_else(|never| match never {})))
            }
            Err(problem) => Either::Right(future::ready(problem.into_response())),
        };
        begun.answered(answer).map(Ok).boxed()
    }
}
