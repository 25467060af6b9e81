//! Objects that are too large for one value: their bytes are kept in pieces, each a value of its own, and the object itself is
//! written last, with a list of its parts. So it is there whole or not at all, whatever dies when.
//!
//! Before the first piece there is a *note* of the upload, which stays as long as its pieces do: by it the
//! [sweeper](super::sweeper) finds what was left behind. An upload may be given up by the sweeper only by changing its note, and whoever
//! writes an object changes the note right before, and looks at it again before it says so: one of the two always sees the other.
//!
//! ```text
//! s3/uploads  <bucket>/<upload>                              the note
//! s3/parts    <bucket>/<upload>/<number>                     a part that a client has brought: which attempt counts
//! s3/pieces   <upload>/<number>/<attempt>/<piece>            bytes
//! <bucket>    <key>                                          the object, which names the upload
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use brainy_storage::chance::mark;
use brainy_storage::object::{Head, Part, Parts};
use brainy_storage::{Condition, Key, Object, Operation, OperationId, Value, Version};
use bytes::Bytes;
use s3s::S3ErrorCode;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::checksums::Summed;
use super::failure::{Answer, Failure};
use super::incoming::Incoming;
use super::reading::Reading;
use super::summing::Summing;
use super::writing::Write;
use super::{Gateway, heads, names};
use crate::routing::{Call, Reply};

/// Bytes of a piece; an object that has no more is written as one value.
pub(super) const PIECE: usize = 1024 * 1024;
/// Pieces of one upload that are written at a time.
const AT_ONCE: usize = 4;
/// Attempts to write a piece.
const ATTEMPTS: u32 = 3;
/// Between two signs of life of an upload whose bytes come in; well below what the sweeper waits for.
const BEAT: Duration = Duration::from_secs(600);
/// Bytes of memory that one upload takes: pieces that come in and are written, each with a copy in the store's envelope.
pub(super) const MEMORY: u64 = (2 * (AT_ONCE as u64 + 1)) * PIECE as u64;

/// What became of an upload so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum State {
    /// Its bytes come in, or its object is about to be written. Whoever does that gives signs of life.
    Coming,
    /// A client brings parts, and takes as long as it likes.
    InParts,
    /// It was broken off: no object may name it any more.
    GivenUp,
    /// An object names it, or did.
    Kept,
}

/// The note of an upload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Note {
    pub(super) key: String,
    pub(super) state: State,
    /// In milliseconds since 1970; for people.
    pub(super) began: i64,
    /// How many signs of life there were.
    pub(super) beats: u64,
    /// Of an upload in parts: what its object shall be told with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) wish: Option<Wish>,
}

/// What a client that brings parts has said of the object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Wish {
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) headers: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) metadata: BTreeMap<String, String>,
    /// Which checksum the object shall have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) algorithm: Option<String>,
    /// It shall be that of the parts' checksums, not of the bytes.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) composite: bool,
}

/// An upload that is under way here.
pub(super) struct Upload {
    gateway: Gateway,
    pub(super) bucket: String,
    pub(super) id: String,
    pub(super) note: Note,
    pub(super) version: Version,
    beat: Instant,
}

/// Where the bytes of a part come from.
pub(super) enum Source {
    /// A request's body.
    Request(Box<Incoming>),
    /// Another object.
    Object(Reading, Summing),
}

impl Source {
    async fn piece(&mut self, most: usize) -> Answer<Bytes> {
        match self {
            Self::Request(incoming) => incoming.piece(most).await,
            Self::Object(reading, sums) => {
                let piece = reading.piece(most).await?;
                sums.add(&piece).await?;
                Ok(piece)
            }
        }
    }

    /// All bytes have been taken.
    pub(super) async fn end(self) -> Answer<Summed> {
        match self {
            Self::Request(incoming) => incoming.end().await,
            Self::Object(_, sums) => sums.end().await?.verify(None),
        }
    }
}

impl Gateway {
    /// Begins an upload.
    pub(super) async fn begin(&self, bucket: &str, key: &str, state: State, wish: Option<Wish>) -> Answer<Upload> {
        let (id, note) = (mark(), Note { key: key.to_owned(), state, began: heads::now(), beats: 0, wish });
        let written = self.write_note(bucket, &id, &note, Condition::Absent).await?;
        let version = written.ok_or_else(|| Failure::Unknown("An upload of this name is there already.".to_owned()))?;
        Ok(Upload { gateway: self.clone(), bucket: bucket.to_owned(), id, note, version, beat: Instant::now() })
    }

    /// Goes on with an upload that was begun before; `None`: there is no such upload of this key.
    pub(super) async fn resume(&self, bucket: &str, key: &str, id: &str) -> Answer<Option<Upload>> {
        let found = self.read_note(bucket, id).await?.filter(|(note, _)| note.key == key);
        Ok(found.map(|(note, version)| Upload {
            gateway: self.clone(),
            bucket: bucket.to_owned(),
            id: id.to_owned(),
            note,
            version,
            beat: Instant::now(),
        }))
    }

    pub(super) async fn read_note(&self, bucket: &str, id: &str) -> Answer<Option<(Note, Version)>> {
        let Ok(key) = names::note(bucket, id) else { return Ok(None) };
        match self.0.router.run_one(Some(&names::uploads()?), Call::Get { key }).await {
            Reply::Found(None) => Ok(None),
            Reply::Found(Some(entry)) => Ok(Some((json(entry.value)?, entry.version))),
            other => Err(other.into()),
        }
    }

    /// Writes a note if the condition holds; `None`: it does not. What it is written for has not begun: where nobody knows whether it was
    /// written, nothing was done.
    pub(super) async fn write_note(
        &self,
        bucket: &str,
        id: &str,
        note: &Note,
        condition: Condition,
    ) -> Answer<Option<Version>> {
        let value = Value::Json(serde_json::to_value(note).unwrap_or_default());
        let once = OperationId::new(mark())?;
        let call = Call::of(names::note(bucket, id)?, Operation::Put { value, condition }, Some(once));
        match self.0.router.run_one(Some(&names::uploads()?), call).await {
            Reply::Written(version) => Ok(Some(version)),
            Reply::Rejected(_) => Ok(None),
            Reply::Unknown(why) => Err(nothing_done(&why)),
            other => Err(other.into()),
        }
    }

    async fn put_piece(&self, key: Key, piece: Bytes) -> Answer<()> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            let call = Call::Put { key: key.clone(), value: Value::Bytes(piece.clone()), condition: Condition::Any };
            match self.0.router.run_one(Some(&names::pieces()?), call).await {
                Reply::Written(_) => return Ok(()),
                // Nobody else writes this piece: it may be written again.
                Reply::Unknown(_) | Reply::NoServer(_) if attempt < ATTEMPTS => {}
                // No object names it yet.
                Reply::Unknown(why) => return Err(nothing_done(&why)),
                other => return Err(other.into()),
            }
        }
    }
}

impl Upload {
    /// Stores the bytes of a part; says under which attempt, and how many they were.
    pub(super) async fn store(&mut self, number: u32, source: &mut Source) -> Answer<Part> {
        let attempt = mark();
        let mut writes: JoinSet<Answer<()>> = JoinSet::new();
        let (mut size, mut index) = (0, 0);
        loop {
            let piece = source.piece(PIECE).await?;
            if piece.is_empty() {
                break;
            }
            if self.beat.elapsed() > BEAT {
                self.renew().await?;
            }
            size += piece.len() as u64;
            let (gateway, key) = (self.gateway.clone(), names::piece(&self.id, number, &attempt, index)?);
            index += 1;
            writes.spawn(async move { gateway.put_piece(key, piece).await });
            while writes.len() >= AT_ONCE {
                joined(writes.join_next().await)?;
            }
        }
        while !writes.is_empty() {
            joined(writes.join_next().await)?;
        }
        Ok(Part { number, attempt, size })
    }

    /// A sign of life: fails if the upload was given up meanwhile.
    async fn renew(&mut self) -> Answer<()> {
        let note = Note { beats: self.note.beats + 1, ..self.note.clone() };
        self.change(note).await
    }

    /// Changes the note from what it was here last.
    pub(super) async fn change(&mut self, note: Note) -> Answer<()> {
        let condition = Condition::Version(self.version.clone());
        match self.gateway.write_note(&self.bucket, &self.id, &note, condition).await? {
            Some(version) => {
                (self.note, self.version, self.beat) = (note, version, Instant::now());
                Ok(())
            }
            // Of parts that are brought it was aborted or completed by another request.
            None if self.note.wish.is_some() => Err(no_such_upload()),
            None => Err(nothing_done("the upload took too long, and was given up")),
        }
    }

    /// Breaks the upload off. Where that can't be noted now, the sweeper does it later.
    pub(super) async fn give_up(mut self) {
        let note = Note { state: State::GivenUp, ..self.note.clone() };
        if let Err(failure) = self.change(note).await {
            tracing::debug!(upload = self.id, ?failure, "an upload is left to be swept");
        }
    }

    /// Whether it was not given up meanwhile.
    pub(super) async fn stands(&self) -> Answer<bool> {
        let note = self.gateway.read_note(&self.bucket, &self.id).await?;
        Ok(note.is_some_and(|(note, _)| note.state != State::GivenUp))
    }

    /// Writes the object that names these parts, right after a sign of life, and says so only if the upload still stands after that.
    pub(super) async fn finish(&mut self, write: Write<'_>, parts: Vec<Part>) -> Answer<Arc<Head>> {
        let size = parts.iter().map(|part| part.size).sum();
        let parts = Parts { upload: self.id.clone(), piece: PIECE as u64, list: parts };
        let head = Head { size, parts: Some(parts), ..Head::clone(&write.object.head) };
        let object = Object::whole(head, Bytes::new());
        let head = Arc::clone(&object.head);
        let id = write.id.clone().or_else(|| OperationId::new(format!("s3-{}", self.id)).ok());
        let (namespace, key) = (write.namespace, write.key);
        self.renew().await?;
        self.gateway.write(Write { object, id, ..write }).await?;
        match self.stands().await {
            Ok(true) => Ok(head),
            Ok(false) => {
                self.take_back(namespace, key).await;
                Err(Failure::Unknown("The upload was given up while its object was written.".to_owned()))
            }
            Err(failure) => {
                let why = failure.into_error();
                let why = why.message().unwrap_or_default().to_owned();
                Err(Failure::Unknown(format!("Whether the upload still stood can't be told: {why}")))
            }
        }
    }

    /// Removes the object that names this upload, whose pieces are swept.
    async fn take_back(&self, namespace: &brainy_storage::Namespace, key: &Key) {
        if let Ok(Some(sight)) = self.gateway.look(namespace, key).await
            && names_upload(&sight.head, &self.id)
        {
            let condition = Condition::Version(sight.version);
            let call = Call::Remove { key: key.clone(), condition };
            let reply = self.gateway.0.router.run_one(Some(namespace), call).await;
            tracing::warn!(upload = self.id, ?reply, "an object was taken back whose upload was given up");
        }
    }
}

/// Whether an object is the one that an upload has brought.
pub(super) fn names_upload(head: &Head, id: &str) -> bool {
    head.parts.as_ref().is_some_and(|parts| parts.upload == id)
}

/// A JSON value as what it was written as.
pub(super) fn json<T: serde::de::DeserializeOwned>(value: Value) -> Answer<T> {
    let corrupt = |why: String| Failure::new(S3ErrorCode::InternalError, format!("A note can't be read: {why}"));
    match value {
        Value::Json(value) => serde_json::from_value(value).map_err(|why| corrupt(why.to_string())),
        Value::Bytes(_) | Value::Object(_) => Err(corrupt("it is no JSON".to_owned())),
    }
}

fn joined(done: Option<Result<Answer<()>, tokio::task::JoinError>>) -> Answer<()> {
    match done {
        None | Some(Ok(Ok(()))) => Ok(()),
        Some(Ok(Err(failure))) => Err(failure),
        Some(Err(broken)) => Err(nothing_done(&broken.to_string())),
    }
}

fn nothing_done(why: &str) -> Failure {
    Failure::new(S3ErrorCode::ServiceUnavailable, format!("Nothing was done, try again: {why}"))
}

pub(super) fn no_such_upload() -> Failure {
    let message = "The specified multipart upload does not exist. The upload ID might be invalid, or the multipart upload might \
        have been aborted or completed.";
    Failure::new(S3ErrorCode::NoSuchUpload, message)
}
