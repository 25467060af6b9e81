//! `probe`: asks a running sidecar over its Unix socket, for Kubernetes probes of a container that has no shell.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use crate::cli::{self, Question};

/// For each step of the exchange. Kubernetes has a limit of its own around the whole.
const LIMIT: Duration = Duration::from_secs(3);
/// Most bytes of an answer.
const MAX_ANSWER: u64 = 64 * 1024;

/// Asks, and says in one line what came back. `Err`: the answer is no.
pub fn run(arguments: &cli::Probe) -> Result<String, String> {
    let path = match arguments.question {
        Question::Ready => "/readyz",
        Question::Live | Question::Started => "/healthz",
    };
    let answer = ask(&arguments.socket, path)
        .map_err(|error| format!("no answer from {}: {error}", arguments.socket.display()))?;
    let (status, body) = parse(&answer).ok_or_else(|| "the answer makes no sense".to_owned())?;
    if status == 200 { Ok(body) } else { Err(format!("{status}: {body}")) }
}

fn ask(socket: &Path, path: &str) -> io::Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(MAX_ANSWER).read_to_string(&mut answer)?;
    Ok(answer)
}

/// Status and body of an answer, on one line.
fn parse(answer: &str) -> Option<(u16, String)> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, body.split_whitespace().collect::<Vec<_>>().join(" ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_told_in_one_line() {
        let answer = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 3\r\n\r\n{\n \"ready\": false\n}\n";
        assert_eq!(parse(answer), Some((503, "{ \"ready\": false }".into())));
        assert_eq!(parse("garbage"), None);
    }
}
