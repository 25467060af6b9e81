//! The bytes of an object on their way in: within bounds of size, time and memory, and summed up as they pass.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::http::HeaderMap;
use brainy_storage::buffers::Buffers;
use bytes::Bytes;
use futures::StreamExt;
use s3s::dto::StreamingBlob;
use s3s::{S3ErrorCode, TrailingHeaders};
use tokio::time::{Instant, timeout_at};

use super::checksums::{Summed, Sums};
use super::failure::{Answer, Failure};
use super::summing::Summing;

/// For a piece to come in.
const TIME: Duration = Duration::from_secs(30);
/// The header that says how many bytes there are beneath the chunks that they come in.
const DECODED_LENGTH: &str = "x-amz-decoded-content-length";

/// Trailers of a body whose chunks were taken apart here.
pub(super) type OwnTrailers = Arc<Mutex<Option<HeaderMap>>>;

/// Bytes on their way in.
pub(super) struct Incoming {
    body: StreamingBlob,
    rest: Bytes,
    buffers: Buffers,
    length: u64,
    taken: u64,
    sums: Summing,
    trailers: Option<TrailingHeaders>,
    own_trailers: Option<OwnTrailers>,
}

impl Incoming {
    /// The body of a request with these headers, which must say how long it is.
    pub(super) fn new<T>(request: &s3s::S3Request<T>, body: Option<StreamingBlob>) -> Answer<Self> {
        let number = |name: &str| request.headers.get(name).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        let length = number(DECODED_LENGTH).or_else(|| number("content-length"));
        let missing = || {
            let message = "You must provide the Content-Length HTTP header.";
            Failure::new(S3ErrorCode::MissingContentLength, message)
        };
        Ok(Self {
            body: body.unwrap_or_else(|| StreamingBlob::from(s3s::Body::empty())),
            rest: Bytes::new(),
            buffers: Buffers::default(),
            length: length.ok_or_else(missing)?,
            taken: 0,
            sums: Summing::new(Sums::of(&request.headers)?),
            trailers: request.trailing_headers.clone(),
            own_trailers: request.extensions.get::<OwnTrailers>().cloned(),
        })
    }

    /// How many bytes were announced.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Of the bytes there shall be this sum too.
    pub(super) fn sum_also(&mut self, algorithm: &str) {
        self.sums.also(algorithm);
    }

    /// The next so many bytes, or all that are left.
    pub(super) async fn piece(&mut self, most: usize) -> Answer<Bytes> {
        let expected = usize::try_from(self.length - self.taken).unwrap_or(usize::MAX).min(most);
        let no_memory = |_| Failure::crowded();
        let mut piece = self.buffers.take(expected).map_err(no_memory)?;
        let deadline = Instant::now() + TIME;
        while piece.bytes.len() < most {
            if self.rest.is_empty() {
                let next = timeout_at(deadline, self.body.next()).await.map_err(|_| too_slow())?;
                match next {
                    None => break,
                    Some(Err(error)) => return Err(broken(&*error)),
                    Some(Ok(bytes)) => self.rest = bytes,
                }
            }
            let bytes = self.rest.split_to(self.rest.len().min(most - piece.bytes.len()));
            self.taken += bytes.len() as u64;
            if self.taken > self.length {
                return Err(Failure::new(S3ErrorCode::InvalidRequest, "More bytes came than were announced."));
            }
            piece.bytes.extend_from_slice(&bytes);
        }
        let piece = piece.freeze();
        self.sums.add(&piece).await?;
        Ok(piece)
    }

    /// All bytes have been taken: holds them against what the client has said of them.
    pub(super) async fn end(mut self) -> Answer<Summed> {
        // What is behind the last byte: trailers, and the proof that what was signed has come.
        if !self.piece(1).await?.is_empty() || self.taken != self.length {
            let message = "You did not provide the number of bytes specified by the Content-Length HTTP header.";
            return Err(Failure::new(S3ErrorCode::IncompleteBody, message));
        }
        let own = self.own_trailers.and_then(|own| own.lock().unwrap_or_else(PoisonError::into_inner).take());
        let trailers = self.trailers.and_then(|trailers| trailers.take()).or(own);
        self.sums.end().await?.verify(trailers.as_ref())
    }
}

fn too_slow() -> Failure {
    let message = format!("The body did not come in: less than a piece of it within {} s.", TIME.as_secs());
    Failure::new(S3ErrorCode::RequestTimeout, message)
}

/// Why a body broke off. The library tells it by words alone.
pub(super) fn broken(error: &(dyn std::error::Error + 'static)) -> Failure {
    let text = brainy_storage::error::causes(error);
    if text.contains("Sha256Mismatch") {
        let message = "The provided 'x-amz-content-sha256' header does not match what was computed.";
        return Failure::named("XAmzContentSHA256Mismatch", message);
    }
    if text.contains("SignatureMismatch") {
        let message = "The signature of a chunk does not match the one that was computed.";
        return Failure::new(S3ErrorCode::SignatureDoesNotMatch, message);
    }
    if text.contains("FormatError") || text.contains("TooLarge") || text.contains("TooMany") {
        return Failure::new(S3ErrorCode::InvalidRequest, format!("The chunks of the body can't be read: {text}"));
    }
    Failure::new(S3ErrorCode::IncompleteBody, format!("The body broke off: {text}"))
}
