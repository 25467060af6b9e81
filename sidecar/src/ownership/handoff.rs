//! A shard on its way between two volumes, while its owner serves it: what is sent, piece by piece, and both sides of it.
//!
//! Who receives asks for one piece after the other, and for the same once more where the answer was lost: so a connection that
//! breaks costs a piece, not the copy. First come all keys as they were, then those that have been written since, until few are
//! left; then it says that it has all of it on its disk and asks for the rest, and only then the owner stops, and sends that.
//!
//! A piece is a row of records, each `length of the header (u32, big endian), header (JSON), content`. A header is a key's
//! `{"path", "length"}`, or `{"gone"}` for one that was removed, and at the end `{"caughtUp"}`, or in the last piece
//! `{"records", "checksum"}`. Only what ends with the right count and checksum is a copy.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use brainy_coordination::{FencingToken, NodeId, ShardId, ShardMap};
use brainy_storage::Error;
use brainy_storage::backends::stored::{StoredChange, StoredFile};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use xxhash_rust::xxh3::Xxh3;

use super::HandoffRequest;
use super::volume::{Changes, Export, Incoming, Volume};

/// Longest header: a path is a namespace and a key, each encoded.
const MAX_HEADER: usize = 64 * 1024;
/// Longest content: a value and its envelope stay far below.
const MAX_CONTENT: usize = 256 * 1024 * 1024;
/// A piece has about so many bytes, or so many records. Small in tests, so that a small shard has many pieces.
const PIECE: (usize, usize) = if cfg!(test) { (64 * 1024, 3) } else { (4 * 1024 * 1024, 4096) };
/// Keys that were written since: so few are left for the time when the shard is not served.
const FEW: usize = if cfg!(test) { 2 } else { 64 };
/// So many are too many to go on: the shard is stopped early, so that they don't become more.
const MANY: usize = if cfg!(test) { 2000 } else { 250_000 };
/// Sent of all shards that are served meanwhile, unless the cluster's owner says otherwise.
pub(super) const BYTES_PER_SECOND: u64 = 64 * 1024 * 1024;
/// Written keys that are read at once.
const AT_ONCE: usize = 64;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
enum Header {
    File {
        path: String,
        length: usize,
    },
    Gone {
        gone: String,
    },
    /// The end of a piece. `true`: it is time to stop the shard.
    Piece {
        #[serde(rename = "caughtUp")]
        caught_up: bool,
    },
    End {
        records: u64,
        checksum: u64,
    },
}

fn encode(piece: &mut BytesMut, header: &Header, content: &Bytes) -> Result<(), Error> {
    let header = serde_json::to_vec(header).map_err(|error| broken(&error))?;
    piece.reserve(4 + header.len() + content.len());
    piece.put_u32(u32::try_from(header.len()).map_err(|error| broken(&error))?);
    piece.put_slice(&header);
    piece.put_slice(content);
    Ok(())
}

fn broken(why: &dyn std::fmt::Display) -> Error {
    Error::unavailable("HandOff", format!("the copy did not arrive whole: {why}"))
}

/// What both sides count.
#[derive(Default)]
struct Digest {
    records: u64,
    checksum: Xxh3,
}

impl Digest {
    fn add(&mut self, change: &StoredChange) {
        self.records += 1;
        let path = change.path();
        let content = match change {
            StoredChange::Is(file) => Some(&file.content),
            StoredChange::Gone(_) => None,
        };
        self.checksum.update(&(path.len() as u64).to_le_bytes());
        self.checksum.update(path.as_bytes());
        // No value is as long as that.
        self.checksum.update(&content.map_or(u64::MAX, |content| content.len() as u64).to_le_bytes());
        self.checksum.update(content.map_or(&[], |content| content));
    }

    fn end(&self) -> Header {
        Header::End { records: self.records, checksum: self.checksum.digest() }
    }
}

/// For whom a shard is copied.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Terms {
    copy: String,
    token: FencingToken,
    to: NodeId,
}

impl Terms {
    fn of(request: &HandoffRequest) -> Self {
        Self { copy: request.copy.clone(), token: request.token, to: request.to.clone() }
    }
}

/// A shard that is being sent.
pub(super) struct Departure {
    /// `None`: all of it was read.
    export: Option<Export>,
    changes: Box<dyn Changes>,
    ready: VecDeque<StoredChange>,
    digest: Digest,
    /// Keys as they were, and keys written since: whoever is written to faster than it is copied never catches up.
    read: (u64, u64),
    /// Nothing is written any more.
    stopped: bool,
    /// The piece that was sent last, to be sent again if it was lost, with its number.
    last: Option<(u64, Bytes)>,
}

impl Departure {
    async fn begin(volume: &Volume, shard: ShardId) -> Result<Self, Error> {
        let (export, changes) = volume.copy(shard).await?;
        Ok(Self {
            export: Some(export),
            changes,
            ready: VecDeque::new(),
            digest: Digest::default(),
            read: (0, 0),
            stopped: false,
            last: None,
        })
    }

    /// The piece of this number, if it was the last one.
    pub(super) fn again(&self, number: u64) -> Option<Bytes> {
        self.last.as_ref().filter(|(last, _)| *last == number).map(|(_, piece)| piece.clone())
    }

    /// Whether this is the number of the next piece.
    pub(super) fn is_next(&self, number: u64) -> bool {
        self.last.as_ref().map_or(0, |(last, _)| last + 1) == number
    }

    /// Whether nothing is written any more.
    pub(super) fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// Nothing is written any more: the rest is the end.
    pub(super) fn stop(&mut self) {
        self.stopped = true;
    }

    /// Makes the next piece. After an error, or if it is given up before it ends, the copy is void.
    pub(super) async fn next(&mut self, number: u64) -> Result<Bytes, Error> {
        // What was read must not be lost, and what is sent once more must be the same.
        self.last = None;
        let mut piece = BytesMut::new();
        let mut records = 0;
        let end = loop {
            if piece.len() >= PIECE.0 || records >= PIECE.1 {
                break Header::Piece { caught_up: self.changes.waiting() >= MANY };
            }
            let Some(change) = self.read().await? else {
                break if self.stopped { self.digest.end() } else { Header::Piece { caught_up: true } };
            };
            records += 1;
            self.digest.add(&change);
            match change {
                StoredChange::Is(StoredFile { path, content }) => {
                    encode(&mut piece, &Header::File { path, length: content.len() }, &content)?;
                }
                StoredChange::Gone(gone) => encode(&mut piece, &Header::Gone { gone }, &Bytes::new())?,
            }
        };
        encode(&mut piece, &end, &Bytes::new())?;
        let piece = piece.freeze();
        self.last = Some((number, piece.clone()));
        Ok(piece)
    }

    /// The next record; `None`: there is none, or, while the shard is served, there are few.
    async fn read(&mut self) -> Result<Option<StoredChange>, Error> {
        if let Some(export) = &mut self.export {
            match export.recv().await {
                Some(file) => {
                    self.read.0 += 1;
                    return Ok(Some(StoredChange::Is(file?)));
                }
                None => self.export = None,
            }
        }
        if self.ready.is_empty() {
            let (as_they_were, since) = self.read;
            if !self.stopped && (self.changes.waiting() < FEW || since > as_they_were + MANY as u64) {
                return Ok(None);
            }
            self.ready.extend(self.changes.next(AT_ONCE).await?);
        }
        self.read.1 += u64::from(!self.ready.is_empty());
        Ok(self.ready.pop_front())
    }
}

/// How far the sending of a shard is.
#[derive(Default)]
pub(super) enum Sending {
    /// Nothing was read yet.
    #[default]
    New,
    /// It goes on.
    Going(Box<Departure>),
    /// It can't go on.
    Void,
}

impl Sending {
    /// It has begun, if it can.
    pub(super) async fn begun(&mut self, volume: &Volume, shard: ShardId) -> Result<Option<&mut Departure>, Error> {
        if matches!(self, Self::New) {
            *self = Self::Going(Box::new(Departure::begin(volume, shard).await?));
        }
        Ok(match self {
            Self::Going(departure) => Some(departure),
            Self::New | Self::Void => None,
        })
    }
}

/// A shard that is being sent, for whoever sends the next piece.
pub(super) type Departing = Arc<tokio::sync::Mutex<Sending>>;

/// The shards that are being sent.
#[derive(Default)]
pub(super) struct Departures(Mutex<BTreeMap<ShardId, (Terms, Departing)>>);

impl Departures {
    fn all(&self) -> MutexGuard<'_, BTreeMap<ShardId, (Terms, Departing)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The one that is asked for; a new one takes the place of an earlier one. `None`: it is not, or no longer, known here.
    pub(super) fn find(&self, shard: ShardId, request: &HandoffRequest) -> Option<Departing> {
        let (terms, mut all) = (Terms::of(request), self.all());
        let known = all.get(&shard).filter(|(known, _)| *known == terms).map(|(_, departing)| Arc::clone(departing));
        known.or_else(|| {
            let new = (request.piece == 0).then(Departing::default)?;
            all.insert(shard, (terms, Arc::clone(&new)));
            Some(new)
        })
    }

    /// Forgets those that the map does not order (any more).
    pub(super) fn keep_ordered(&self, map: &ShardMap, node: &NodeId) {
        self.all().retain(|shard, (terms, _)| {
            map.owner(*shard) == Some(node)
                && map.moving_to(*shard) == Some(&terms.to)
                && map.token(*shard) == terms.token
        });
    }
}

/// Spreads what is sent over time. Clones share it.
#[derive(Clone)]
pub(super) struct Throttle {
    bytes_per_second: u64,
    free_at: Arc<Mutex<Option<Instant>>>,
}

impl Throttle {
    pub(super) fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second: bytes_per_second.max(1), free_at: Arc::default() }
    }

    /// Waits until what was sent before has had its time.
    pub(super) async fn wait(&self, bytes: usize) {
        let begins = {
            let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
            let begins = free_at.unwrap_or_else(Instant::now).max(Instant::now());
            let micros = (bytes as u64).saturating_mul(1_000_000) / self.bytes_per_second;
            *free_at = Some(begins + Duration::from_micros(micros));
            begins
        };
        tokio::time::sleep_until(begins).await;
    }
}

/// A shard that is being received: whole and durably, or not at all.
pub(super) struct Arrival<'a> {
    copy: Incoming<'a>,
    pieces: u64,
    digest: Digest,
    /// All that was received is on the disk, and the owner said that little is missing.
    is_close: bool,
}

/// How far it is after a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrived {
    /// There is more.
    Part,
    /// All of it: to be finished.
    Whole,
}

impl<'a> Arrival<'a> {
    /// Begins to receive a shard that ends its tenure `token` elsewhere.
    pub(super) async fn begin(volume: &'a Volume, shard: ShardId, token: FencingToken) -> Result<Self, Error> {
        let copy = volume.receive(shard, token).await?;
        Ok(Self { copy, pieces: 0, digest: Digest::default(), is_close: false })
    }

    /// The number of the piece to ask for, and whether the owner may stop the shard for it.
    pub(super) fn wants(&self) -> (u64, bool) {
        (self.pieces, self.is_close)
    }

    /// Takes that piece. After an error nothing of what was received may be used.
    pub(super) async fn take(&mut self, piece: Bytes) -> Result<Arrived, Error> {
        let (changes, end) = records(piece)?;
        changes.iter().for_each(|change| self.digest.add(change));
        self.pieces += 1;
        // Of one key the last counts.
        let of_key = |change: StoredChange| (change.path().to_owned(), change);
        let last: BTreeMap<String, StoredChange> = changes.into_iter().map(of_key).collect();
        self.copy.write(last.into_values().collect()).await?;
        match end {
            Header::Piece { caught_up } => {
                if caught_up && !self.is_close {
                    self.copy.flush().await?;
                    self.is_close = true;
                }
                Ok(Arrived::Part)
            }
            end if end == self.digest.end() => Ok(Arrived::Whole),
            _ => Err(broken(&format!("{} records are not those that were sent", self.digest.records))),
        }
    }

    /// It is whole. Returns how many records it came in.
    pub(super) async fn finish(self) -> Result<u64, Error> {
        self.copy.finish().await?;
        Ok(self.digest.records)
    }

    /// Gives up.
    pub(super) async fn discard(self) -> Result<(), Error> {
        self.copy.discard().await
    }
}

/// The records of a piece, and how it ends.
fn records(mut piece: Bytes) -> Result<(Vec<StoredChange>, Header), Error> {
    let mut changes = Vec::new();
    loop {
        let length = take(&mut piece, 4)?.get_u32() as usize;
        if length > MAX_HEADER {
            return Err(broken(&format!("a header of {length} bytes")));
        }
        match serde_json::from_slice(&take(&mut piece, length)?).map_err(|error| broken(&error))? {
            Header::File { length, .. } if length > MAX_CONTENT => {
                return Err(broken(&format!("a value of {length} bytes")));
            }
            Header::File { path, length } => {
                changes.push(StoredChange::Is(StoredFile { path, content: take(&mut piece, length)? }));
            }
            Header::Gone { gone } => changes.push(StoredChange::Gone(gone)),
            _ if !piece.is_empty() => return Err(broken(&"something follows its end")),
            end => return Ok((changes, end)),
        }
    }
}

fn take(piece: &mut Bytes, length: usize) -> Result<Bytes, Error> {
    if piece.len() < length {
        return Err(broken(&"it ended early"));
    }
    Ok(piece.split_to(length))
}

#[cfg(test)]
#[path = "handoff_tests.rs"]
mod tests;
