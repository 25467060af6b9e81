//! One connection, from its first request to its last word.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};

use super::activity::Activity;
use super::bodies::{Download, Upload};
use super::stream::Stream;
use super::{BUFFER, Limits, Stop};
use crate::http::lane::App;
use crate::http::problem::{Kind, Problem};

/// For an answer that is on its way when its connection is to end.
const GRACE: Duration = Duration::from_secs(1);

/// Serves a connection until the client ends it, breaks a limit, or is asked to make room, or the server stops.
pub(super) async fn run<S>(stream: S, app: App, limits: Limits, activity: &Arc<Activity>, mut stop: Stop)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let doing = Arc::clone(activity);
    let service = service_fn(move |request: Request<Incoming>| {
        let answering = doing.begin();
        let answer = app.clone().answer(request.map(|body| Upload::new(body, Arc::clone(&doing))));
        async move { Ok::<_, Infallible>(answer.await.map(|body| Download::new(body, answering))) }
    });
    let stream = Stream::new(stream, limits, Arc::clone(activity));
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .max_buf_size(BUFFER)
        // Or else one that came in quickly enough could be larger.
        .max_header_size(BUFFER)
        .serve_connection(TokioIo::new(stream), service);
    let ended = tokio::select! {
        // First: a request that has come in already is still served.
        biased;
        ended = &mut connection => Some(ended),
        () = async { tokio::select! { () = stop.wait() => {}, () = activity.asked_to_leave() => {} } } => {
            // The request in progress gets its answer, then the connection closes.
            Pin::new(&mut connection).graceful_shutdown();
            finish(&mut connection, activity).await
        }
    };
    if let Some(Err(error)) = &ended {
        tracing::debug!(%error, "a connection broke off");
    }
    let stream = connection.into_parts().io.into_inner();
    // What hyper could not read it leaves in the socket.
    let unread = activity.was_cut_short() || matches!(&ended, Some(Err(error)) if error.is_parse());
    stream.end(last_word(ended.as_ref(), activity, limits), unread).await;
}

/// Lets a connection that was told to end do so; `None`: it does not, because its client neither sends the rest of a
/// request nor takes its answer.
async fn finish(
    connection: &mut (impl Future<Output = hyper::Result<()>> + Unpin),
    activity: &Activity,
) -> Option<hyper::Result<()>> {
    loop {
        match tokio::time::timeout(GRACE, &mut *connection).await {
            Ok(ended) => return Some(ended),
            Err(_) if activity.is_busy() => {}
            Err(_) => return None,
        }
    }
}

/// What a client is told whose request was never answered. One that has sent nothing expects nothing.
fn last_word(ended: Option<&hyper::Result<()>>, activity: &Activity, limits: Limits) -> Option<Problem> {
    match ended {
        Some(Err(error)) if error.is_parse_version_h2() => {
            Some(Problem::invalid("head", "is HTTP/2; this server speaks HTTP/1.1"))
        }
        _ if !activity.is_mid_head() => None,
        Some(Err(error)) if error.is_timeout() => Some(Problem::new(
            Kind::RequestTimeout,
            format!("the head of the request did not come in within {} s; send it again", limits.head.as_secs()),
        )),
        None => Some(Problem::new(
            Kind::Overloaded,
            "the connection was needed for others before the request had come in; send it again",
        )),
        Some(_) => None,
    }
}
