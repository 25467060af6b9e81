//! Bodies in chunks (`aws-chunked`): each chunk has a line with its length before it, and trailers may come behind the last. The
//! library keeps each chunk whole, and some clients send everything as one: so larger chunks are cut up on their way to it
//! where they are not signed, and refused where they are. Where signatures are not looked at, the chunks are taken apart
//! here, since the library takes apart none.

use std::io;
use std::pin::Pin;
use std::sync::PoisonError;
use std::task::{Context, Poll, ready};

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use bytes::{Buf, Bytes, BytesMut};
use hyper::body::Frame;

use super::incoming::OwnTrailers;

/// Most bytes of a signed chunk. Clients sign 64 KiB to 128 KiB at a time.
const MOST_SIGNED: u64 = 1024 * 1024;
/// Most bytes of the line before a chunk.
const MOST_LINE: usize = 1024;
/// Most bytes behind the last chunk.
const MOST_TRAILERS: usize = 16 * 1024;

/// What becomes of the chunks of a body.
#[derive(Clone, Debug)]
pub(super) enum Framing {
    /// It has none.
    Plain,
    /// They are passed on if each is signed and no larger than allowed.
    Signed,
    /// They are cut up.
    Cut,
    /// They are taken apart; the trailers go where they are looked for.
    TakenApart(OwnTrailers),
}

/// Where in a body the next byte is.
#[derive(Debug)]
enum Place {
    /// In the line before a chunk.
    Line,
    /// In a chunk of which so many bytes are left.
    Chunk(u64),
    /// In the end of line behind a chunk.
    End,
    /// Behind the last chunk.
    Trailers,
}

/// Takes a body in chunks and gives what it becomes.
#[derive(Debug)]
pub(super) struct Chunks {
    framing: Framing,
    place: Place,
    line: BytesMut,
}

type Malformed = &'static str;

impl Chunks {
    pub(super) fn new(framing: Framing) -> Self {
        Self { framing, place: Place::Line, line: BytesMut::new() }
    }

    /// What comes of the next bytes.
    pub(super) fn take(&mut self, mut bytes: Bytes) -> Result<Bytes, Malformed> {
        let mut out = BytesMut::new();
        while !bytes.is_empty() {
            match self.place {
                Place::Line => {
                    let end = bytes.iter().position(|byte| *byte == b'\n');
                    let part = bytes.split_to(end.map_or(bytes.len(), |end| end + 1));
                    if self.line.len() + part.len() > MOST_LINE {
                        return Err("FormatError: the line before a chunk is too long");
                    }
                    self.line.extend_from_slice(&part);
                    if end.is_some() {
                        let line = self.line.split();
                        self.begin(&line, &mut out)?;
                    }
                }
                Place::Chunk(left) => {
                    let here = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                    let part = bytes.split_to(here);
                    match self.framing {
                        Framing::Cut => {
                            out.extend_from_slice(format!("{here:x}\r\n").as_bytes());
                            out.extend_from_slice(&part);
                            out.extend_from_slice(b"\r\n");
                        }
                        _ => out.extend_from_slice(&part),
                    }
                    self.place = match left - here as u64 {
                        0 => Place::End,
                        left => Place::Chunk(left),
                    };
                }
                Place::End => {
                    let byte = bytes.get_u8();
                    match byte {
                        b'\r' => {}
                        b'\n' => self.place = Place::Line,
                        _ => return Err("FormatError: a chunk is longer than it says"),
                    }
                    if matches!(self.framing, Framing::Signed) {
                        out.extend_from_slice(&[byte]);
                    }
                }
                Place::Trailers => {
                    let part = bytes.split_to(bytes.len());
                    if self.line.len() + part.len() > MOST_TRAILERS {
                        return Err("FormatError: too much comes behind the last chunk");
                    }
                    self.line.extend_from_slice(&part);
                    if !matches!(self.framing, Framing::TakenApart(_)) {
                        out.extend_from_slice(&part);
                    }
                }
            }
        }
        Ok(out.freeze())
    }

    /// A line has come in, which begins a chunk.
    fn begin(&mut self, line: &[u8], out: &mut BytesMut) -> Result<(), Malformed> {
        let text = std::str::from_utf8(line).map_err(|_| "FormatError: the line before a chunk is no text")?;
        let text = text.strip_suffix("\r\n").ok_or("FormatError: the line before a chunk does not end")?;
        let digits = text.split(';').next().unwrap_or_default();
        // No more than what the library reads.
        let plain = (1..=8).contains(&digits.len()) && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        let size = u64::from_str_radix(digits, 16).ok().filter(|_| plain);
        let size = size.ok_or("FormatError: the line before a chunk has no length")?;
        if matches!(self.framing, Framing::Signed) {
            if size > MOST_SIGNED {
                return Err("ChunkTooLarge: a signed chunk may have 1 MiB");
            }
            out.extend_from_slice(line);
        }
        self.place = Place::Chunk(size);
        if size == 0 {
            self.place = Place::Trailers;
            if matches!(self.framing, Framing::Cut) {
                out.extend_from_slice(line);
            }
        }
        Ok(())
    }

    /// The body is at its end.
    pub(super) fn end(&mut self) -> Result<(), Malformed> {
        match self.place {
            // The library sees to it that the last chunk has come.
            _ if matches!(self.framing, Framing::Signed | Framing::Cut) => return Ok(()),
            Place::Trailers => {}
            _ => return Err("Incomplete: the last chunk did not come"),
        }
        if let Framing::TakenApart(trailers) = &self.framing {
            *trailers.lock().unwrap_or_else(PoisonError::into_inner) = Some(parse(&self.line)?);
        }
        Ok(())
    }
}

/// Trailers, a line each.
fn parse(text: &[u8]) -> Result<HeaderMap, Malformed> {
    let bad = "FormatError: a trailer is malformed";
    let text = std::str::from_utf8(text).map_err(|_| bad)?;
    let mut trailers = HeaderMap::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        let (name, value) = line.split_once(':').ok_or(bad)?;
        let name: HeaderName = name.trim().parse().map_err(|_| bad)?;
        trailers.append(name, HeaderValue::from_str(value.trim()).map_err(|_| bad)?);
    }
    Ok(trailers)
}

/// A body with its chunks treated.
struct Chunked {
    body: Body,
    chunks: Chunks,
    ended: bool,
}

/// The body as the library is to see it.
pub(super) fn treat(body: Body, framing: Framing) -> Body {
    match framing {
        Framing::Plain => body,
        framing => Body::new(Chunked { body, chunks: Chunks::new(framing), ended: false }),
    }
}

impl hyper::body::Body for Chunked {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let malformed = |what| axum::Error::new(io::Error::new(io::ErrorKind::InvalidData, what));
        loop {
            if self.ended {
                return Poll::Ready(None);
            }
            let frame = ready!(Pin::new(&mut self.body).poll_frame(cx)).transpose()?;
            let treated = match frame.map(Frame::into_data) {
                None => {
                    self.ended = true;
                    self.chunks.end().map(|()| Bytes::new())
                }
                // Trailers of HTTP's own chunks say nothing here.
                Some(Err(_)) => continue,
                Some(Ok(bytes)) => self.chunks.take(bytes),
            };
            match treated {
                Err(what) => {
                    self.ended = true;
                    return Poll::Ready(Some(Err(malformed(what))));
                }
                Ok(bytes) if bytes.is_empty() => {}
                Ok(bytes) => return Poll::Ready(Some(Ok(Frame::data(bytes)))),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use proptest::prelude::*;

    use super::*;

    fn run(framing: Framing, text: &[u8], cuts: &[usize]) -> Result<Vec<u8>, Malformed> {
        let mut chunks = Chunks::new(framing);
        let mut out = Vec::new();
        let mut rest = Bytes::copy_from_slice(text);
        for cut in cuts {
            let part = rest.split_to((*cut).min(rest.len()));
            out.extend_from_slice(&chunks.take(part)?);
        }
        out.extend_from_slice(&chunks.take(rest)?);
        chunks.end()?;
        Ok(out)
    }

    const SENT: &[u8] =
        b"5;chunk-signature=ab\r\nhello\r\nc\r\n, wide world\r\n0\r\nx-amz-checksum-crc32:AAAAAA==\r\n\r\n";

    #[test]
    fn chunks_are_taken_apart_wherever_they_are_cut_on_their_way() {
        for cut in 0..SENT.len() {
            let trailers: OwnTrailers = Arc::new(Mutex::new(None));
            let out = run(Framing::TakenApart(Arc::clone(&trailers)), SENT, &[cut]);
            assert_eq!(out.as_deref(), Ok(&b"hello, wide world"[..]), "{cut}");
            let trailers = trailers.lock().unwrap().take().unwrap();
            assert_eq!(trailers["x-amz-checksum-crc32"], "AAAAAA==");
        }
    }

    #[test]
    fn a_large_chunk_is_cut_up_and_means_the_same() {
        let sent = b"11\r\nhello, wide world\r\n0\r\na:b\r\n\r\n";
        let cut = run(Framing::Cut, sent, &[6, 3, 4]).unwrap();
        assert_eq!(cut, b"2\r\nhe\r\n3\r\nllo\r\n4\r\n, wi\r\n8\r\nde world\r\n0\r\na:b\r\n\r\n");
        let trailers: OwnTrailers = Arc::new(Mutex::new(None));
        assert_eq!(run(Framing::TakenApart(trailers), &cut, &[]).unwrap(), b"hello, wide world");
    }

    #[test]
    fn signed_chunks_are_passed_on_as_they_are_and_large_ones_refused() {
        assert_eq!(run(Framing::Signed, SENT, &[7, 9]).unwrap(), SENT);
        assert!(run(Framing::Signed, b"100001;chunk-signature=ab\r\n", &[]).is_err());
        assert!(run(Framing::Cut, b"ffffffff\r\n", &[]).is_ok());
    }

    #[test]
    fn what_is_no_chunk_is_refused() {
        let apart = || Framing::TakenApart(OwnTrailers::default());
        for bad in [
            "x\r\n",
            "\r\n",
            "+5\r\nhello\r\n0\r\n\r\n",
            "5\nhello",
            "5\r\nhello!0\r\n",
            "5\r\nhel",
            "100000000\r\n",
            "",
        ] {
            assert!(run(apart(), bad.as_bytes(), &[]).is_err(), "{bad:?}");
        }
        assert!(run(apart(), "1".repeat(MOST_LINE + 1).as_bytes(), &[]).is_err());
        assert!(run(apart(), format!("0\r\n{}", "a".repeat(MOST_TRAILERS + 1)).as_bytes(), &[]).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken_or_refused(bytes in prop::collection::vec(prop_oneof![any::<u8>(), Just(b'\r'), Just(b'\n'), Just(b'1'), Just(b'0')], 0..60), cut in 0_usize..60) {
            for framing in [Framing::Signed, Framing::Cut, Framing::TakenApart(OwnTrailers::default())] {
                let kept = run(framing, &bytes, &[cut]).map_or(0, |out| out.len());
                // Cutting up adds a line for each part that came in.
                prop_assert!(kept <= bytes.len() + 64);
            }
        }
    }
}
