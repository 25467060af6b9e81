//! Gives out large answers: all of them together within a limit of memory. An answer takes memory until its client has taken
//! it, and many clients may take their time.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use hyper::body::{Body as _, Frame, SizeHint};
use tokio::time::Instant;

use super::memory::{Memory, Room};
use super::problem::{Kind, Problem};

/// Up to here an answer needs no room set aside: as many as there can be connections take little together.
const SMALL: u64 = 64 * 1024;
/// Bytes set aside for all larger answers together.
const MEMORY: u32 = 128 * 1024 * 1024;
/// For room to come free.
const PATIENCE: Duration = Duration::from_secs(10);
/// Handed to the connection at a time. What it has been handed no longer counts.
const PIECE: usize = 64 * 1024;

/// Gives out large answers. Cheap to clone; clones share the memory.
#[derive(Clone, Debug)]
pub struct Outlet {
    memory: Memory,
    patience: Duration,
}

impl Default for Outlet {
    /// 128 MiB at once; 10 s for room to come free.
    fn default() -> Self {
        Self::new(MEMORY, PATIENCE)
    }
}

impl Outlet {
    /// With so many bytes of memory for all large answers at once, and so much time to wait for them.
    pub fn new(memory: u32, patience: Duration) -> Self {
        Self { memory: Memory::new(memory), patience }
    }

    /// The answer to something that can be asked again. Where there is no room for it, it is forgotten until there is:
    /// answers that wait would take the memory that they wait for.
    pub(super) async fn answer<F>(&self, ask: impl Fn() -> F) -> Result<Response, Problem>
    where
        F: Future<Output = Result<Response, Problem>>,
    {
        let (mut deadline, mut room) = (None, Room::default());
        loop {
            let answer = ask().await?;
            let bytes = length(&answer);
            if self.suffices(&room, bytes) {
                return Ok(keep(answer, room));
            }
            // Before more is set aside, or two who each hold some could wait for each other.
            drop(room);
            if let Some(room) = self.memory.try_set_aside(bytes) {
                return Ok(keep(answer, room));
            }
            drop(answer);
            let deadline = *deadline.get_or_insert_with(|| Instant::now() + self.patience);
            room = self.memory.set_aside(bytes, deadline).await.ok_or_else(crowded)?;
        }
    }

    /// Whether so many bytes need no more than this room.
    pub(crate) fn suffices(&self, room: &Room, bytes: u64) -> bool {
        bytes <= SMALL || room.bytes() >= bytes.min(self.memory.most())
    }

    /// Room for so many bytes, if there is some now.
    pub(crate) fn try_room(&self, bytes: u64) -> Option<Room> {
        self.memory.try_set_aside(bytes)
    }

    /// Room for so many bytes, if there is some until `deadline`.
    pub(crate) async fn room(&self, bytes: u64, deadline: Instant) -> Option<Room> {
        self.memory.set_aside(bytes, deadline).await
    }

    /// How long to wait for room.
    pub(crate) fn patience(&self) -> Duration {
        self.patience
    }

    /// An answer to what had no effect, if there is room for it.
    pub(crate) fn admit(&self, answer: Response) -> Result<Response, Problem> {
        match length(&answer) {
            0..=SMALL => Ok(answer),
            bytes => Ok(keep(answer, self.memory.try_set_aside(bytes).ok_or_else(crowded)?)),
        }
    }

    /// Room for an answer of which only the most is known that it may take.
    pub(super) async fn reserve(&self, bytes: u64) -> Result<Room, Problem> {
        if bytes <= SMALL {
            return Ok(Room::default());
        }
        self.memory.set_aside(bytes, Instant::now() + self.patience).await.ok_or_else(crowded)
    }
}

fn crowded() -> Problem {
    Problem::new(Kind::Overloaded, "too many large answers are on their way at once; nothing was done, try again")
}

/// The answer within its room: what it does not take of it is free again at once, the rest when it has been taken.
pub(super) fn fit(answer: Response, mut room: Room) -> Response {
    room.shrink(length(&answer));
    keep(answer, room)
}

/// Bytes of an answer's body.
fn length(answer: &Response) -> u64 {
    answer.body().size_hint().lower()
}

/// The same answer; `kept` is dropped when the connection has been handed all of it.
pub(super) fn keep(answer: Response, kept: impl Send + Unpin + 'static) -> Response {
    if length(&answer) <= SMALL {
        return answer;
    }
    answer.map(|body| Body::new(Kept { body, rest: Bytes::new(), _kept: kept }))
}

/// A body in pieces, so that it is not dropped while most of it still waits to be sent.
struct Kept<T> {
    body: Body,
    rest: Bytes,
    _kept: T,
}

impl<T: Unpin> hyper::body::Body for Kept<T> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.rest.is_empty() {
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.rest = data,
                    Err(other) => return Poll::Ready(Some(Ok(other))),
                },
                end => return Poll::Ready(end),
            }
        }
        let length = self.rest.len().min(PIECE);
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(length)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (hint, rest) = (self.body.size_hint(), self.rest.len() as u64);
        hint.exact().map_or(hint, |exact| SizeHint::with_exact(exact + rest))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use axum::response::IntoResponse;
    use http_body_util::BodyExt;

    use super::*;

    const LARGE: usize = 600 * 1024;

    fn outlet() -> Outlet {
        Outlet::new(1 << 20, Duration::from_millis(20))
    }

    fn answer(bytes: usize) -> Response {
        vec![7_u8; bytes].into_response()
    }

    async fn ask(outlet: &Outlet, bytes: usize) -> Result<Response, Problem> {
        outlet.answer(|| async { Ok(answer(bytes)) }).await
    }

    #[tokio::test]
    async fn an_answer_comes_out_whole_and_its_room_is_free_again_when_it_has() {
        let outlet = outlet();
        for bytes in [0, 5, PIECE, PIECE + 1, LARGE, 3 << 20] {
            let answer = ask(&outlet, bytes).await.unwrap();
            assert_eq!(length(&answer), bytes as u64);
            assert_eq!(outlet.memory.free() < 1 << 20, bytes > PIECE, "{bytes}");
            assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), vec![7; bytes]);
            assert_eq!(outlet.memory.free(), 1 << 20, "{bytes}");
        }
    }

    #[tokio::test]
    async fn room_is_kept_until_the_last_piece_has_been_handed_over() {
        let outlet = outlet();
        let mut body = ask(&outlet, LARGE).await.unwrap().into_body();
        let mut left = LARGE;
        while left > PIECE {
            left -= body.frame().await.unwrap().unwrap().into_data().unwrap().len();
            assert!(outlet.memory.free() < 1 << 20, "{left} bytes are left");
        }
    }

    #[tokio::test]
    async fn answers_beyond_the_memory_for_all_of_them_are_refused_in_the_end_and_small_ones_are_not() {
        let outlet = outlet();
        let slow = ask(&outlet, LARGE).await.unwrap();
        for refused in [ask(&outlet, LARGE).await, outlet.admit(answer(LARGE))] {
            assert_eq!(refused.unwrap_err().document()["status"], 503);
        }
        assert!(outlet.reserve(LARGE as u64).await.is_err());
        assert!(ask(&outlet, PIECE).await.is_ok());
        drop(slow);
        assert!(ask(&outlet, LARGE).await.is_ok() && outlet.admit(answer(LARGE)).is_ok());
    }

    #[tokio::test]
    async fn what_found_no_room_is_not_kept_but_asked_for_again() {
        let outlet = Outlet::new(1 << 20, Duration::from_secs(3600));
        let (slow, asked) = (ask(&outlet, LARGE).await.unwrap(), AtomicU32::new(0));
        let waiting = outlet.answer(|| async {
            asked.fetch_add(1, Ordering::SeqCst);
            Ok(answer(LARGE))
        });
        let free = async {
            while asked.load(Ordering::SeqCst) == 0 {
                tokio::task::yield_now().await;
            }
            drop(slow);
        };
        let (answered, ()) = tokio::join!(waiting, free);
        assert_eq!((length(&answered.unwrap()), asked.into_inner()), (LARGE as u64, 2));
    }

    #[tokio::test]
    async fn what_an_answer_does_not_take_of_its_room_is_free_at_once() {
        let outlet = outlet();
        let room = outlet.reserve(1 << 20).await.unwrap();
        let answer = fit(answer(LARGE), room);
        assert_eq!(outlet.memory.free(), (1 << 20) - LARGE as u64);
        drop(answer);
        assert_eq!(outlet.memory.free(), 1 << 20);
    }
}
