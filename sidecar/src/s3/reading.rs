//! The bytes of an object that are kept in pieces: which pieces a span of them is in, and how they are fetched, a few at a time and
//! a little ahead of who takes them.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use brainy_storage::object::{Head, Parts};
use brainy_storage::{Error, Value};
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use s3s::S3ErrorCode;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use super::failure::{Answer, Failure};
use super::{Gateway, names};
use crate::routing::{Call, Reply};

/// Pieces that are fetched at the same time: a disk, and other nodes, answer several sooner than one after the other.
const AT_ONCE: usize = 4;
/// Pieces that wait to be taken besides.
const AHEAD: usize = 1;
/// Bytes of memory that one reading takes: the pieces ahead, those that are fetched, and one that is sent.
pub(super) const MEMORY: u64 = (AHEAD + AT_ONCE + 1) as u64 * super::uploads::PIECE as u64;

/// For a piece behind the first that can't be had at once: its node starts again, or another one takes its shards. The head of the
/// answer is out, and clients that would ask again for a refusal give up when its body breaks off. They wait for a minute at least.
const PATIENCE: Duration = Duration::from_secs(30);
/// Before it is asked for again.
const PAUSE: Duration = Duration::from_millis(500);

/// A piece, or what of it is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Fetch {
    number: u32,
    attempt: String,
    index: u64,
    within: Range<usize>,
}

/// The pieces that a span of an object's bytes is in, in order.
fn fetches(parts: &Parts, span: &Range<u64>) -> VecDeque<Fetch> {
    let mut fetches = VecDeque::new();
    let mut begin = 0;
    for part in &parts.list {
        let end = begin + part.size;
        // What of the part is asked for, counted from its own beginning.
        let from = span.start.clamp(begin, end) - begin;
        let to = span.end.clamp(begin, end) - begin;
        let mut at = from;
        while at < to && parts.piece > 0 {
            let index = at / parts.piece;
            let first = index * parts.piece;
            let last = (first + parts.piece).min(to);
            let narrow = |place: u64| usize::try_from(place - first).unwrap_or(usize::MAX);
            fetches.push_back(Fetch {
                number: part.number,
                attempt: part.attempt.clone(),
                index,
                within: narrow(at)..narrow(last),
            });
            at = last;
        }
        begin = end;
    }
    fetches
}

/// Bytes on their way from the pieces.
#[derive(Debug)]
pub(super) struct Reading {
    pieces: mpsc::Receiver<Answer<Bytes>>,
    rest: Bytes,
}

impl Gateway {
    /// A span of the bytes of an object. `whole` is what is with the object, if it is kept in no pieces.
    pub(super) fn read(&self, head: &Arc<Head>, whole: &Bytes, span: Range<u64>) -> Reading {
        let (sender, pieces) = mpsc::channel(AHEAD);
        let Some(parts) = &head.parts else {
            let at = |place: u64| usize::try_from(place).unwrap_or(usize::MAX).min(whole.len());
            return Reading { pieces, rest: whole.slice(at(span.start)..at(span.end)) };
        };
        let (gateway, upload, fetches) = (self.clone(), parts.upload.clone(), fetches(parts, &span));
        tokio::spawn(async move {
            let patience = |place: usize| if place == 0 { Duration::ZERO } else { PATIENCE };
            let fetch = |(place, fetch)| gateway.fetch(&upload, fetch, patience(place));
            let fetched = fetches.into_iter().enumerate().map(fetch);
            let mut fetched = futures::stream::iter(fetched).buffered(AT_ONCE);
            while let Some(piece) = fetched.next().await {
                let failed = piece.is_err();
                // Who takes the pieces may be gone.
                if sender.send(piece).await.is_err() || failed {
                    return;
                }
            }
        });
        Reading { pieces, rest: Bytes::new() }
    }

    async fn fetch(&self, upload: &str, fetch: Fetch, patience: Duration) -> Answer<Bytes> {
        let key = names::piece(upload, fetch.number, &fetch.attempt, fetch.index)?;
        let gone =
            || Failure::new(S3ErrorCode::InternalError, "The object was replaced while it was read: read it again.");
        let space = names::pieces()?;
        let ask = || self.0.router.run_one(Some(&space), Call::Get { key: key.clone() });
        match patiently(patience, ask).await {
            Reply::Found(Some(entry)) => match entry.value {
                Value::Bytes(bytes) if bytes.len() >= fetch.within.end => Ok(bytes.slice(fetch.within.clone())),
                _ => Err(gone()),
            },
            Reply::Found(None) => Err(gone()),
            other => Err(other.into()),
        }
    }
}

/// Asks until there is an answer, or for so long; who answers that it can't now is asked again.
async fn patiently<F: Future<Output = Reply>>(patience: Duration, ask: impl Fn() -> F) -> Reply {
    let deadline = Instant::now() + patience;
    loop {
        let reply = ask().await;
        let is_away = matches!(reply, Reply::NoServer(_) | Reply::Failed(Error::Unavailable { .. }));
        if !is_away || Instant::now() + PAUSE > deadline {
            return reply;
        }
        sleep(PAUSE).await;
    }
}

impl Reading {
    /// The next bytes; none: that was all.
    pub(super) async fn next(&mut self) -> Answer<Bytes> {
        if !self.rest.is_empty() {
            return Ok(std::mem::take(&mut self.rest));
        }
        self.pieces.recv().await.unwrap_or(Ok(Bytes::new()))
    }

    /// The next so many bytes, or all that are left.
    pub(super) async fn piece(&mut self, most: usize) -> Answer<Bytes> {
        let mut piece = BytesMut::new();
        while piece.len() < most {
            let mut bytes = self.next().await?;
            if bytes.is_empty() {
                break;
            }
            let taken = bytes.split_to(bytes.len().min(most - piece.len()));
            self.rest = bytes;
            if piece.is_empty() && taken.len() == most {
                return Ok(taken);
            }
            piece.extend_from_slice(&taken);
        }
        Ok(piece.freeze())
    }

    /// The same, as they are polled for.
    pub(super) fn poll_next(&mut self, context: &mut std::task::Context<'_>) -> std::task::Poll<Option<Answer<Bytes>>> {
        if !self.rest.is_empty() {
            return std::task::Poll::Ready(Some(Ok(std::mem::take(&mut self.rest))));
        }
        self.pieces.poll_recv(context)
    }

    /// Waits until there are bytes, or it is clear that there are none to come: fails where the first can't be fetched.
    pub(super) async fn ready(&mut self) -> Answer<()> {
        self.rest = self.next().await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use brainy_storage::object::Part;
    use proptest::prelude::*;

    use super::*;

    /// Asks someone who is away for so long. The answer, and how long it took.
    async fn asked(away: Duration, patience: Duration, says: fn() -> Reply) -> (Reply, Duration) {
        let began = Instant::now();
        let ask = || async move { if began.elapsed() < away { says() } else { Reply::Found(None) } };
        (patiently(patience, ask).await, began.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn a_piece_that_is_away_is_asked_for_again_as_long_as_clients_wait() {
        let no_server = || Reply::NoServer("a test".to_owned());
        let (reply, took) = asked(Duration::from_secs(12), PATIENCE, no_server).await;
        assert!(matches!(reply, Reply::Found(None)) && took >= Duration::from_secs(12), "{reply:?} after {took:?}");
        let (reply, took) = asked(PATIENCE * 2, PATIENCE, || Reply::Failed(Error::unavailable("Test", "a test"))).await;
        assert!(matches!(reply, Reply::Failed(_)) && took <= PATIENCE, "{reply:?} after {took:?}");
        let (reply, took) = asked(PATIENCE, Duration::ZERO, no_server).await;
        assert!(matches!(reply, Reply::NoServer(_)) && took.is_zero(), "who is told nothing yet hears of it at once");
        let corrupt = || Reply::Failed(Error::Corrupt { key: "k".to_owned(), problem: "a test".to_owned() });
        assert!(asked(PATIENCE, PATIENCE, corrupt).await.1.is_zero(), "it would be answered the same again");
    }

    proptest! {
        #[test]
        fn a_span_is_put_together_of_what_each_piece_has_of_it(
            sizes in prop::collection::vec(0_u64..25, 1..6),
            piece in 1_u64..9,
            cut in (0_u64..140, 0_u64..140),
        ) {
            let list: Vec<Part> = sizes
                .iter()
                .zip(1..)
                .map(|(size, number)| Part { number, attempt: format!("a{number}"), size: *size })
                .collect();
            let total: u64 = sizes.iter().sum();
            let span = cut.0.min(cut.1).min(total)..cut.0.max(cut.1).min(total);
            // Each byte is its own place; a piece has those of its place in its part.
            let place = |fetch: &Fetch, at: usize| {
                let before: u64 = sizes[..fetch.number as usize - 1].iter().sum();
                before + fetch.index * piece + at as u64
            };
            let parts = Parts { upload: "u".into(), piece, list };
            let found: Vec<u64> = fetches(&parts, &span)
                .iter()
                .flat_map(|fetch| fetch.within.clone().map(|at| place(fetch, at)).collect::<Vec<_>>())
                .collect();
            prop_assert!(fetches(&parts, &span).iter().all(|fetch| fetch.within.end as u64 <= piece));
            prop_assert_eq!(found, span.collect::<Vec<_>>());
        }
    }
}
