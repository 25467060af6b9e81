//! Takes in the bodies of requests: each within a limit of size and time, and all of them together within a limit of
//! memory. Whatever clients send at once, the process does not grow beyond it.

use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::header;
use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use tokio::time::{Instant, timeout_at};

use super::memory::{Memory, Room};
use super::problem::{Kind, Problem};
use super::weight;

/// Most bytes of a request's body.
pub const MAX_BODY_BYTES: usize = 16 * 1024 * 1024;
/// Up to here a body needs no room set aside: as many as there can be connections take little together.
const SMALL: usize = 64 * 1024;
/// Bytes set aside for all larger bodies together, and as many again for what is parsed of them.
const MEMORY: u32 = 128 * 1024 * 1024;
/// Bytes of memory for each of a body: itself, and the copy in the store's envelope.
const COPIES: u64 = 2;
/// For a body to come in.
const TIME: Duration = Duration::from_secs(30);

/// Takes in the bodies of requests. Cheap to clone; clones share the memory.
#[derive(Clone, Debug)]
pub struct Intake {
    bodies: Memory,
    parsed: Memory,
    time: Duration,
}

impl Default for Intake {
    /// 128 MiB at once, the same for what is parsed of them, and 30 s for each.
    fn default() -> Self {
        Self::new(MEMORY, TIME)
    }
}

/// What a body becomes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Shape {
    /// It is stored as it is.
    Raw,
    /// It is parsed.
    Json,
}

/// Memory set aside for a body and what is parsed of it.
pub(super) type Rooms = (Room, Room);

impl Intake {
    /// With so many bytes of memory for all bodies at once, the same for what is parsed of them, and so much time for each.
    pub fn new(memory: u32, time: Duration) -> Self {
        Self { bodies: Memory::new(memory), parsed: Memory::new(memory), time }
    }

    /// The body of a request, within its limits.
    pub(super) async fn take(&self, request: Request, shape: Shape) -> Result<(Bytes, Rooms), Problem> {
        let announced = request.headers().get(header::CONTENT_LENGTH);
        let announced: Option<u64> = announced.and_then(|length| length.to_str().ok()?.parse().ok());
        if announced.is_some_and(|length| length > MAX_BODY_BYTES as u64) {
            return Err(too_large());
        }
        let deadline = Instant::now() + self.time;
        let mut body: Limited<Body> = Limited::new(request.into_body(), MAX_BODY_BYTES);
        let mut taken = Taken::default();
        let mut room = None;
        loop {
            let frame = timeout_at(deadline, body.frame()).await.map_err(|_| self.too_slow())?;
            let Some(frame) = frame.transpose().map_err(|error| broken(&*error))? else { break };
            // Trailers say nothing here.
            let Ok(data) = frame.into_data() else { continue };
            taken.add(data);
            if room.is_none() && taken.len() > SMALL {
                let expected = announced.unwrap_or(MAX_BODY_BYTES as u64) * COPIES;
                room = Some(self.bodies.set_aside(expected, deadline).await.ok_or_else(crowded)?);
                taken.expect(announced);
            }
        }
        let body = taken.whole();
        let parsed = match shape {
            Shape::Raw => Room::default(),
            Shape::Json => self.for_parsed(&body, deadline).await?,
        };
        Ok((body, (room.unwrap_or_default(), parsed)))
    }

    /// Up to here a body needs no room.
    pub(crate) const SMALL: usize = SMALL;

    /// For a body to come in.
    pub(crate) fn time(&self) -> Duration {
        self.time
    }

    /// Room for a body of so many bytes, in time for it to come in.
    pub(crate) async fn room(&self, bytes: u64) -> Option<Room> {
        if bytes <= SMALL as u64 {
            return Some(Room::default());
        }
        self.bodies.set_aside(bytes * COPIES, Instant::now() + self.time).await
    }

    /// Who holds this waits for no other, so that a body that holds its own room and waits for this one gets it.
    async fn for_parsed(&self, text: &[u8], deadline: Instant) -> Result<Room, Problem> {
        let bytes = weight::parsed(text);
        if bytes > self.parsed.most() {
            let most = self.parsed.most();
            return Err(Problem::new(
                Kind::TooLarge,
                format!(
                    "the body is of so many small parts that its {} bytes of JSON may take {bytes} bytes of memory, and {most} are \
                     allowed; split it, or send a value as bytes, with the header content-type: application/octet-stream",
                    text.len()
                ),
            ));
        }
        if bytes <= SMALL as u64 {
            return Ok(Room::default());
        }
        self.parsed.set_aside(bytes, deadline).await.ok_or_else(crowded)
    }

    fn too_slow(&self) -> Problem {
        Problem::new(Kind::RequestTimeout, format!("the body did not come in within {} s", self.time.as_secs()))
    }
}

fn too_large() -> Problem {
    Problem::new(
        Kind::TooLarge,
        format!("the body may have {MAX_BODY_BYTES} bytes; split a batch, or the value, into smaller ones"),
    )
}

fn crowded() -> Problem {
    Problem::new(Kind::Overloaded, "too many large bodies are coming in at once; nothing was done, try again")
}

fn broken(error: &(dyn std::error::Error + 'static)) -> Problem {
    match error.is::<LengthLimitError>() {
        true => too_large(),
        false => Problem::invalid("body", format!("broke off: {error}")),
    }
}

/// What has come in of a body. One that comes in one piece is not copied.
#[derive(Debug, Default)]
struct Taken {
    first: Bytes,
    joined: BytesMut,
}

impl Taken {
    fn len(&self) -> usize {
        self.first.len() + self.joined.len()
    }

    fn add(&mut self, data: Bytes) {
        if self.len() == 0 {
            self.first = data;
            return;
        }
        if self.joined.is_empty() {
            self.joined.extend_from_slice(&std::mem::take(&mut self.first));
        }
        self.joined.extend_from_slice(&data);
    }

    /// Makes place for a body of this length at once, so that it need not grow step by step.
    fn expect(&mut self, length: Option<u64>) {
        let rest = length.and_then(|length| usize::try_from(length).ok()?.checked_sub(self.len()));
        if let Some(rest @ 1..) = rest {
            self.joined.reserve(rest + self.first.len());
        }
    }

    fn whole(self) -> Bytes {
        if self.joined.is_empty() { self.first } else { self.joined.freeze() }
    }
}

#[cfg(test)]
mod tests {
    use futures::stream;

    use super::*;

    fn chunks(sizes: &[usize]) -> Request {
        let chunks: Vec<_> = sizes.iter().map(|size| Ok::<_, std::io::Error>(vec![7_u8; *size])).collect();
        Request::new(Body::from_stream(stream::iter(chunks)))
    }

    fn status(problem: &Problem) -> serde_json::Value {
        problem.document()["status"].clone()
    }

    #[tokio::test]
    async fn a_body_comes_in_whole_in_however_many_pieces() {
        let intake = Intake::default();
        for sizes in [&[][..], &[5], &[0, 3, 0], &[SMALL], &[SMALL, 1], &[1, SMALL, 0, SMALL]] {
            let (body, (room, _)) = intake.take(chunks(sizes), Shape::Raw).await.unwrap();
            assert_eq!(body, vec![7; sizes.iter().sum()], "{sizes:?}");
            assert_eq!(room.bytes() > 0, body.len() > SMALL, "{sizes:?}");
        }
        assert_eq!(intake.bodies.free(), u64::from(MEMORY), "what was set aside is free again");
    }

    #[tokio::test]
    async fn bodies_beyond_the_memory_for_all_of_them_are_refused_in_the_end_and_small_ones_are_not() {
        let intake = Intake::new(4 * SMALL as u32, Duration::from_millis(20));
        let (_, held) = intake.take(chunks(&[SMALL, 1]), Shape::Raw).await.unwrap();
        let refused = intake.take(chunks(&[SMALL, SMALL]), Shape::Json).await.unwrap_err();
        assert_eq!(status(&refused), 503);
        assert!(intake.take(chunks(&[SMALL]), Shape::Json).await.is_ok());
        drop(held);
        assert!(intake.take(chunks(&[SMALL, SMALL]), Shape::Json).await.is_ok(), "a single one always fits");
    }

    fn text(text: &str) -> Request {
        Request::new(Body::from(text.to_owned()))
    }

    #[tokio::test]
    async fn a_text_that_outgrows_all_memory_is_refused_before_it_is_parsed() {
        let intake = Intake::new(1 << 20, Duration::from_millis(20));
        let small_parts = format!("[{}0]", "{\"\":0},".repeat(2000));
        assert!(small_parts.len() < SMALL, "by its own length it would need no room");
        let refused = intake.take(text(&small_parts), Shape::Json).await.unwrap_err();
        assert_eq!(status(&refused), 413);
        assert!(intake.take(text(&small_parts), Shape::Raw).await.is_ok(), "as bytes it is taken");
    }

    #[tokio::test]
    async fn what_is_parsed_shares_its_memory_and_is_refused_in_the_end() {
        let intake = Intake::new(1 << 20, Duration::from_millis(20));
        let list = format!("[{}0]", "0,".repeat(10_000));
        let (_, held) = intake.take(text(&list), Shape::Json).await.unwrap();
        assert_eq!(status(&intake.take(text(&list), Shape::Json).await.unwrap_err()), 503);
        assert!(intake.take(text("[0,0,0]"), Shape::Json).await.is_ok());
        drop(held);
        assert!(intake.take(text(&list), Shape::Json).await.is_ok());
    }

    #[tokio::test]
    async fn a_body_that_does_not_come_in_is_given_up() {
        let intake = Intake::new(1 << 20, Duration::from_millis(20));
        let endless = stream::pending::<Result<Bytes, std::io::Error>>();
        let refused = intake.take(Request::new(Body::from_stream(endless)), Shape::Raw).await.unwrap_err();
        assert_eq!(status(&refused), 408);
    }
}
