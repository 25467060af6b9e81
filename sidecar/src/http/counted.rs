//! Around every route: what became of each request, and how long it took. Addresses that can't be read go no further.
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

use super::request::check_encoding;
use crate::metrics::RequestFigures;

/// Counts what passes under one operation.
#[derive(Clone, Debug)]
pub(super) struct Counted(pub(super) Arc<RequestFigures>);

impl<S> Layer<S> for Counted {
    type Service = CountedService<S>;

    fn layer(&self, inner: S) -> CountedService<S> {
        CountedService { figures: Arc::clone(&self.0), inner }
    }
}

#[derive(Clone, Debug)]
pub(super) struct CountedService<S> {
    figures: Arc<RequestFigures>,
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
        let running = self.figures.start();
        let answer = match check_encoding(request.uri()) {
            Ok(()) => Ok(self.inner.call(request)),
            Err(problem) => Err(problem),
        };
        let counted = async move {
            let response = match answer {
                Ok(answer) => answer.await?,
                Err(problem) => problem.into_response(),
            };
            running.end(response.extensions().get().copied().unwrap_or_default());
            Ok(response)
        };
        counted.boxed()
    }
}
