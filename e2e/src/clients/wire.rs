//! What driver, hands and tests say to each other: one JSON document a line, over TCP.

use anyhow::{Context, ensure};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader, ReadHalf, WriteHalf};

/// The first line of whoever connects to the driver.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Hello {
    /// A pair of hands: it is told what to ask from now on.
    Hand { cluster: String, node: String },
    /// Something happens now. Answered with `null`.
    Mark(String),
    /// Answered with a `Report`.
    Look,
    /// The same, when every client has ended, every key has been read and all of it has been judged.
    Judge,
}

/// What a hand is to ask of the storage API beside it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    /// Name and value of a header.
    pub(crate) condition: Option<(String, String)>,
    pub(crate) body: String,
}

/// What came of it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Told {
    /// An answer.
    Answer { status: u16, etag: Option<String>, body: String },
    /// Nobody was there: nothing was asked.
    NotAsked(String),
    /// It was asked, perhaps.
    NoAnswer(String),
}

/// A connection that carries lines.
pub(crate) struct Lines<S> {
    read: BufReader<ReadHalf<S>>,
    write: WriteHalf<S>,
}

impl<S: AsyncRead + AsyncWrite> Lines<S> {
    pub(crate) fn over(stream: S) -> Self {
        let (read, write) = tokio::io::split(stream);
        Self { read: BufReader::new(read), write }
    }

    pub(crate) async fn say(&mut self, what: &impl Serialize) -> anyhow::Result<()> {
        let mut line = serde_json::to_vec(what)?;
        line.push(b'\n');
        self.write.write_all(&line).await?;
        Ok(self.write.flush().await?)
    }

    pub(crate) async fn hear<T: DeserializeOwned>(&mut self) -> anyhow::Result<T> {
        let mut line = String::new();
        self.read.read_line(&mut line).await?;
        ensure!(line.ends_with('\n'), "the other side has gone");
        serde_json::from_str(&line).with_context(|| format!("unexpected line {line:?}"))
    }
}
