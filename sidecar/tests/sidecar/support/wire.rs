//! The plainest HTTP client, over TCP or a Unix socket: it sends whatever a test wants to send, well-formed or not.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::answer::Answer;

/// For one exchange: only a hanging test ever meets it.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

pub(crate) fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    Ok(stream)
}

/// Status and body of a JSON request.
pub(crate) fn over_tcp(address: SocketAddr, request: &str, body: &str) -> io::Result<(u16, String)> {
    exchange(connect(address)?, request, body)
}

/// Status and body of a JSON request.
pub(crate) fn over_unix(socket: &Path, request: &str, body: &str) -> io::Result<(u16, String)> {
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(LIMIT))?;
    exchange(stream, request, body)
}

fn exchange(mut stream: impl Read + Write, request: &str, body: &str) -> io::Result<(u16, String)> {
    stream.write_all(head(request, "connection: close\r\n", body.len()).as_bytes())?;
    stream.write_all(body.as_bytes())?;
    let answer = read_answer(&mut stream)?;
    Ok((answer.status.as_u16(), answer.text()))
}

fn head(request: &str, more: &str, length: usize) -> String {
    format!(
        "{request} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n{more}content-length: {length}\r\n\r\n"
    )
}

/// Sends bytes as they are, and reads the answer.
pub(crate) fn send_raw(address: SocketAddr, bytes: &[u8]) -> io::Result<Answer> {
    let mut stream = connect(address)?;
    // The server may have answered, and closed, before it had all.
    let _ = stream.write_all(bytes);
    read_answer(&mut stream)
}

/// A connection that is used again and again.
pub(crate) struct KeptAlive(TcpStream);

impl KeptAlive {
    pub(crate) fn open(address: SocketAddr) -> io::Result<Self> {
        connect(address).map(Self)
    }

    pub(crate) fn request(&mut self, request: &str, body: &str) -> io::Result<Answer> {
        self.0.write_all((head(request, "", body.len()) + body).as_bytes())?;
        read_answer(&mut self.0)
    }
}

/// Reads one answer: its head, and the body that it announces.
pub(crate) fn read_answer(stream: &mut impl Read) -> io::Result<Answer> {
    let mut text = Vec::new();
    let mut byte = [0];
    while !text.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte)? == 0 {
            let what = format!("the connection ended after {:?}", String::from_utf8_lossy(&text));
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, what));
        }
        text.push(byte[0]);
    }
    let head = String::from_utf8(text).map_err(io::Error::other)?;
    let malformed = || io::Error::other(format!("malformed answer: {head:?}"));
    let mut lines = head.trim_end().split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok()).ok_or_else(malformed)?;
    let mut headers = HeaderMap::new();
    for line in lines {
        let (name, value) = line.split_once(": ").ok_or_else(malformed)?;
        headers.append(
            HeaderName::try_from(name).map_err(io::Error::other)?,
            HeaderValue::try_from(value).map_err(io::Error::other)?,
        );
    }
    let length = headers.get("content-length").and_then(|length| length.to_str().ok()?.parse().ok());
    let mut body = vec![0; length.ok_or_else(malformed)?];
    stream.read_exact(&mut body)?;
    Ok(Answer { status: StatusCode::from_u16(status).map_err(io::Error::other)?, headers, body })
}
