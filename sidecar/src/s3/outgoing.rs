//! The bytes of an object on their way out. They take memory until the client has taken them: what they take is set aside.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures::Stream;
use s3s::StdError;
use s3s::dto::StreamingBlob;
use s3s::stream::{ByteStream, RemainingLength};

use super::reading::Reading;
use crate::http::memory::Room;

/// Handed to the connection at a time.
const PIECE: usize = 64 * 1024;

/// The whole of what is answered, in pieces, so that it is not dropped while most of it still waits to be sent.
struct Whole {
    rest: VecDeque<Bytes>,
    left: usize,
    _room: Room,
}

/// Bytes as the body of an answer; `room` is given back when the connection has been handed all of it.
pub(super) fn whole(bytes: Bytes, room: Room) -> StreamingBlob {
    if bytes.len() <= PIECE {
        return StreamingBlob::from(s3s::Body::from(bytes));
    }
    StreamingBlob::new(Whole { left: bytes.len(), rest: VecDeque::from([bytes]), _room: room })
}

/// What is answered of an object that is kept in pieces.
struct Pieces {
    reading: Reading,
    left: usize,
    _room: Room,
}

/// So many bytes, as they are read, as the body of an answer.
pub(super) fn pieces(reading: Reading, length: u64, room: Room) -> StreamingBlob {
    StreamingBlob::new(Pieces { reading, left: usize::try_from(length).unwrap_or(usize::MAX), _room: room })
}

impl Stream for Pieces {
    type Item = Result<Bytes, StdError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        // The head of the answer is out: all that is left is to break it off.
        let broken = |why: String| Poll::Ready(Some(Err(StdError::from(why))));
        match ready!(self.reading.poll_next(cx)) {
            None => broken("the object has fewer bytes than it says".to_owned()),
            Some(Err(failure)) => {
                let error = failure.into_error();
                tracing::warn!(why = error.message(), "the answer to a read of an object broke off");
                broken("the object could not be read to its end".to_owned())
            }
            Some(Ok(bytes)) => {
                self.left = self.left.saturating_sub(bytes.len());
                Poll::Ready(Some(Ok(bytes)))
            }
        }
    }
}

impl ByteStream for Pieces {
    fn remaining_length(&self) -> RemainingLength {
        RemainingLength::new_exact(self.left)
    }
}

impl Stream for Whole {
    type Item = Result<Bytes, StdError>;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(bytes) = self.rest.front_mut() else { return Poll::Ready(None) };
        let piece = bytes.split_to(bytes.len().min(PIECE));
        if bytes.is_empty() {
            self.rest.pop_front();
        }
        self.left -= piece.len();
        Poll::Ready(Some(Ok(piece)))
    }
}

impl ByteStream for Whole {
    fn remaining_length(&self) -> RemainingLength {
        RemainingLength::new_exact(self.left)
    }
}
