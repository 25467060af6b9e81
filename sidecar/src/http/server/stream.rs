//! A connection's bytes, with what hyper leaves out: a bound on how long a client may not take its answer, and a problem
//! document where hyper itself refuses what comes in.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::Sleep;

use super::activity::Activity;
use super::{BUFFER, HEADERS, Limits};
use crate::http::problem::{Kind, Problem};
use crate::http::voice::Voice;

/// For a client to take its last answer, while what it still sends is thrown away: if the connection were closed on
/// unread bytes, the answer would be lost with it.
const LINGER: Duration = Duration::from_secs(1);
/// Most bytes that are thrown away.
const LINGER_BYTES: u64 = 64 << 20;

/// The bytes of one connection.
pub(super) struct Stream<S> {
    inner: S,
    /// Without progress for this long, a write fails.
    limit: Duration,
    voice: Voice,
    /// Runs while a write makes no progress.
    stalled: Option<Pin<Box<Sleep>>>,
    activity: Arc<Activity>,
    /// Nothing has been written since the last flush: what comes next begins a message, or a part of one.
    flushed: bool,
    /// Of the answer that goes out instead of a refusal of hyper's: what has not been written yet.
    instead: Vec<u8>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Stream<S> {
    pub(super) fn new(inner: S, limits: Limits, activity: Arc<Activity>) -> Self {
        let Limits { write: limit, voice, .. } = limits;
        Self { inner, limit, voice, stalled: None, activity, flushed: true, instead: Vec::new() }
    }

    /// Ends the connection. `last_word` is said first; with `linger` the client gets time to take what it was told.
    pub(super) async fn end(mut self, last_word: Option<Problem>, linger: bool) {
        let parting = async {
            if let Some(problem) = &last_word {
                self.inner.write_all(&self.voice.message(problem)).await?;
                self.inner.shutdown().await?;
            }
            if linger || last_word.is_some() {
                tokio::io::copy(&mut (&mut self.inner).take(LINGER_BYTES), &mut tokio::io::sink()).await?;
            }
            io::Result::Ok(())
        };
        // A client that is gone needs no farewell.
        let _ = tokio::time::timeout(LINGER, parting).await;
    }

    /// What a write came to; one that makes no progress for too long fails.
    fn bounded<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let limit = self.limit;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        ready!(stalled.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not take its answer")))
    }

    /// Takes a refusal of hyper's that is about to go out, so that an answer of ours goes out instead.
    fn replaces(&mut self, about_to_write: &[u8]) -> bool {
        let problem = match self.flushed && !self.activity.is_busy() {
            true => bare_refusal(about_to_write),
            false => None,
        };
        self.flushed = false;
        if let Some(problem) = &problem {
            self.instead = self.voice.message(problem);
        }
        problem.is_some()
    }

    fn poll_instead(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.instead.is_empty() {
            let written = Pin::new(&mut self.inner).poll_write(cx, &self.instead);
            let count = ready!(self.bounded(cx, written))?;
            self.instead.drain(..count);
        }
        Poll::Ready(Ok(()))
    }
}

/// The problem behind a refusal that hyper writes by itself when it can't read a request: a head without a body, which
/// no answer of ours is.
fn bare_refusal(message: &[u8]) -> Option<Problem> {
    let status = message.strip_prefix(b"HTTP/1.")?.get(2..5)?;
    let lacks_body = message.ends_with(b"\r\n\r\n") && contains(message, b"\r\ncontent-length: 0\r\n");
    match status {
        _ if !lacks_body => None,
        b"400" => Some(Problem::invalid(
            "head",
            "the request line or a header is malformed; send HTTP/1.1, and percent-encode what is no printable ASCII",
        )),
        b"414" | b"431" => Some(Problem::new(
            Kind::HeadTooLarge,
            format!(
                "path and headers together may have {BUFFER} bytes, in {HEADERS} headers; put values into the body"
            ),
        )),
        _ => None,
    }
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

impl<S: AsyncRead + Unpin> AsyncRead for Stream<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = ready!(Pin::new(&mut self.inner).poll_read(cx, buffer));
        if buffer.filled().len() > before {
            self.activity.hear();
        }
        Poll::Ready(read)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Stream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_instead(cx))?;
        if self.replaces(bytes) {
            return Poll::Ready(Ok(bytes.len()));
        }
        let written = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.bounded(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_instead(cx))?;
        // The head is one part; a refusal of hyper's has no other.
        if let [head] = parts
            && self.replaces(head)
        {
            return Poll::Ready(Ok(head.len()));
        }
        self.flushed = false;
        let written = Pin::new(&mut self.inner).poll_write_vectored(cx, parts);
        self.bounded(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_instead(cx))?;
        // Hyper flushes when it has written all that it had.
        self.flushed = true;
        let flushed = Pin::new(&mut self.inner).poll_flush(cx);
        self.bounded(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_instead(cx))?;
        let shut = Pin::new(&mut self.inner).poll_shutdown(cx);
        self.bounded(cx, shut)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::server::API_LIMITS;

    const REFUSAL: &[u8] =
        b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

    fn stream(activity: &Arc<Activity>) -> Stream<tokio::io::DuplexStream> {
        Stream::new(tokio::io::duplex(64).0, API_LIMITS, Arc::clone(activity))
    }

    #[tokio::test]
    async fn only_a_message_of_hypers_own_is_replaced() {
        let activity = Activity::new();
        assert!(stream(&activity).replaces(REFUSAL));
        for ours in [
            &b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"[..],
            b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/problem+json\r\ncontent-length: 9\r\n\r\n",
            b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\nmore",
            b"",
        ] {
            assert!(!stream(&activity).replaces(ours), "{}", String::from_utf8_lossy(ours));
        }
    }

    #[tokio::test]
    async fn a_value_that_looks_like_a_refusal_is_left_alone() {
        let activity = Activity::new();
        let mut stream = stream(&activity);
        assert!(!stream.replaces(b"HTTP/1.1 200 OK\r\n\r\n"));
        assert!(!stream.replaces(REFUSAL), "it is a later part of the same message");
        let _answering = activity.begin();
        stream.flushed = true;
        assert!(!stream.replaces(REFUSAL), "it is a part of an answer of ours");
    }

    #[tokio::test]
    async fn a_client_that_does_not_take_its_answer_is_given_up() {
        let (ours, _theirs) = tokio::io::duplex(16);
        let mut stream = Stream::new(ours, Limits { write: Duration::from_millis(20), ..API_LIMITS }, Activity::new());
        let error = stream.write_all(&[0; 64]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
