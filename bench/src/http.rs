//! Just enough of HTTP/1.1 to send a request and to know where its answer ends. A client that did more would take so much
//! of the machine that it would measure itself.

use std::net::SocketAddr;
use std::ops::Range;

use anyhow::{Context, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Read at once.
const CHUNK: usize = 16 << 10;

/// A request, as it is sent.
pub fn request(method: &str, path: &str, content_type: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: {content_type}\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

/// A request without a body.
pub fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n").into_bytes()
}

/// An answer that is all there: where its body lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Range<usize>,
}

/// The answer at the start of `bytes`; `None`: more of it is to come. What ends a body in chunks must not be in the body
/// itself; the chunks stay as they are.
pub(crate) fn answer(bytes: &[u8]) -> anyhow::Result<Option<Answer>> {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(None) };
    let (head, start) = (&bytes[..end], end + 4);
    let digits = head.get(9..12).context("no status")?;
    let status: u16 = std::str::from_utf8(digits)?.parse().context("no status")?;
    let (mut length, mut chunked) = (None, false);
    for line in head.split(|byte| *byte == b'\n').skip(1) {
        let mut parts = line.splitn(2, |byte| *byte == b':');
        let (Some(name), Some(value)) = (parts.next(), parts.next()) else { continue };
        if name.eq_ignore_ascii_case(b"content-length") {
            length = Some(std::str::from_utf8(value.trim_ascii())?.parse::<usize>()?);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            chunked = true;
        }
    }
    let stop = match (length, chunked, status) {
        (_, _, 204 | 304) => start,
        (Some(length), _, _) => start + length,
        (None, true, _) if bytes[start..].ends_with(b"0\r\n\r\n") => bytes.len(),
        (None, true, _) => return Ok(None),
        (None, false, _) => bail!("an answer without a length"),
    };
    Ok((bytes.len() >= stop).then_some(Answer { status, body: start..stop }))
}

/// A connection that is kept. One request at a time.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    received: Vec<u8>,
}

impl Connection {
    /// Connects.
    pub async fn open(address: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await.with_context(|| format!("can't connect to {address}"))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, received: Vec::with_capacity(CHUNK) })
    }

    /// Sends a request. Status and body of its answer.
    pub async fn exchange(&mut self, request: &[u8]) -> anyhow::Result<(u16, &[u8])> {
        self.received.clear();
        self.stream.write_all(request).await?;
        loop {
            self.received.reserve(CHUNK);
            ensure!(self.stream.read_buf(&mut self.received).await? > 0, "the server hung up");
            if let Some(Answer { status, body }) = answer(&self.received)? {
                return Ok((status, &self.received[body]));
            }
        }
    }

    /// Sends a request that must succeed. The body of its answer.
    pub async fn ask(&mut self, request: &[u8]) -> anyhow::Result<&[u8]> {
        let (status, body) = self.exchange(request).await?;
        ensure!(status / 100 == 2, "status {status}: {}", String::from_utf8_lossy(body));
        Ok(body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_ends_with_its_length() {
        let text = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\netag: \"1-a\"\r\n\r\nhello";
        let whole = answer(text).unwrap().unwrap();
        assert_eq!((whole.status, &text[whole.body]), (200, &b"hello"[..]));
        for cut in 0..text.len() {
            assert_eq!(answer(&text[..cut]).unwrap(), None, "cut at {cut}");
        }
    }

    #[test]
    fn an_answer_in_chunks_ends_with_the_empty_one() {
        let text = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
        assert_eq!(answer(text).unwrap().unwrap().body.end, text.len());
        for cut in 0..text.len() {
            assert_eq!(answer(&text[..cut]).unwrap(), None, "cut at {cut}");
        }
    }

    #[test]
    fn no_content_needs_no_length_and_everything_else_does() {
        let none = answer(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap().unwrap();
        assert_eq!((none.status, none.body.len()), (204, 0));
        assert!(answer(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
    }
}
