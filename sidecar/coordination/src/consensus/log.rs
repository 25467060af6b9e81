//! The log of a member, and its vote: in memory, and before Raft is told so in the file `log` of its folder.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io;
use std::ops::RangeBounds;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use openraft::storage::{LogFlushed, RaftLogStorage};
use openraft::{
    AnyError, ErrorSubject, ErrorVerb, LogId, LogState, OptionalSend, RaftLogReader, StorageError, StorageIOError, Vote,
};
use serde::{Deserialize, Serialize};

use super::journal::Journal;
use super::{Entry, MemberId, Types};

/// The file is written anew once so many bytes were appended since it was last, and some of the log is no longer needed.
const REWRITE_BYTES: u64 = 4 << 20;

/// A change of the log, as it is written down.
#[derive(Debug, Serialize, Deserialize)]
enum Record {
    /// Whom this member follows or has voted for.
    Vote(Vote<MemberId>),
    /// More entries.
    Entries(Vec<Entry>),
    /// From this index on the log is another one.
    Truncated(u64),
    /// Up to here a snapshot has it.
    Purged(LogId<MemberId>),
    /// Up to here it is known to be committed.
    Committed(Option<LogId<MemberId>>),
}

/// What the records come to.
#[derive(Debug, Default)]
struct Content {
    vote: Option<Vote<MemberId>>,
    committed: Option<LogId<MemberId>>,
    purged: Option<LogId<MemberId>>,
    entries: BTreeMap<u64, Entry>,
}

impl Content {
    fn note(&mut self, record: Record) {
        match record {
            Record::Vote(vote) => self.vote = Some(vote),
            Record::Entries(entries) => {
                self.entries.extend(entries.into_iter().map(|entry| (entry.log_id.index, entry)))
            }
            Record::Truncated(since) => drop(self.entries.split_off(&since)),
            Record::Purged(upto) => {
                self.entries = self.entries.split_off(&(upto.index + 1));
                self.purged = Some(upto);
            }
            Record::Committed(committed) => self.committed = committed,
        }
    }

    /// The fewest records that come to this, as they are written.
    fn frames(&self) -> io::Result<Vec<Vec<u8>>> {
        let vote = self.vote.map(Record::Vote);
        let purged = self.purged.map(Record::Purged);
        let entries = (!self.entries.is_empty()).then(|| Record::Entries(self.entries.values().cloned().collect()));
        let committed = self.committed.map(|committed| Record::Committed(Some(committed)));
        let records = [vote, purged, entries, committed].into_iter().flatten();
        records.map(|record| Ok(serde_json::to_vec(&record)?)).collect()
    }
}

/// The log of one member. Clones read and write the same one.
#[derive(Clone, Debug)]
pub(super) struct Log {
    content: Arc<Mutex<Content>>,
    journal: Arc<Mutex<Journal>>,
    /// Length of the file when it was last written anew.
    rewritten: u64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Log {
    /// Opens the log in a folder, or begins one. Blocks.
    pub(super) fn open(folder: &Path) -> io::Result<Self> {
        let (mut journal, frames) = Journal::open(&folder.join("log"))?;
        let mut content = Content::default();
        for frame in frames {
            content.note(serde_json::from_slice(&frame)?);
        }
        // After a flush that failed, the system may give back what never reached the disk, and flush it no more. What is
        // gone on from is in a file that this process has written.
        journal.replace(&content.frames()?)?;
        let rewritten = journal.length();
        Ok(Self { content: Arc::new(Mutex::new(content)), journal: Arc::new(Mutex::new(journal)), rewritten })
    }

    /// Nothing was ever written: this member has promised nobody anything.
    pub(super) fn is_blank(&self) -> bool {
        let content = lock(&self.content);
        content.vote.is_none_or(|vote| vote == Vote::default())
            && content.purged.is_none()
            && content.entries.is_empty()
    }

    /// Writes a record down, and then counts it in.
    async fn write(&mut self, record: Record, durable: bool) -> io::Result<()> {
        let bytes = serde_json::to_vec(&record)?;
        self.blocking(move |journal| journal.append(&bytes, durable)).await?;
        lock(&self.content).note(record);
        Ok(())
    }

    async fn rewrite_if_worthwhile(&mut self) -> io::Result<()> {
        let length = lock(&self.journal).length();
        if length < self.rewritten + REWRITE_BYTES {
            return Ok(());
        }
        let frames = lock(&self.content).frames()?;
        self.blocking(move |journal| journal.replace(&frames)).await?;
        self.rewritten = lock(&self.journal).length();
        Ok(())
    }

    async fn blocking(&self, work: impl FnOnce(&mut Journal) -> io::Result<()> + Send + 'static) -> io::Result<()> {
        let journal = Arc::clone(&self.journal);
        tokio::task::spawn_blocking(move || work(&mut lock(&journal))).await.map_err(io::Error::other)?
    }
}

fn failed(subject: ErrorSubject<MemberId>, error: &io::Error) -> StorageError<MemberId> {
    StorageIOError::new(subject, ErrorVerb::Write, AnyError::new(error)).into()
}

impl RaftLogReader<Types> for Log {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, StorageError<MemberId>> {
        Ok(lock(&self.content).entries.range(range).map(|(_, entry)| entry.clone()).collect())
    }
}

impl RaftLogStorage<Types> for Log {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, StorageError<MemberId>> {
        let content = lock(&self.content);
        let last = content.entries.last_key_value().map(|(_, entry)| entry.log_id);
        Ok(LogState { last_purged_log_id: content.purged, last_log_id: last.or(content.purged) })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote<MemberId>) -> Result<(), StorageError<MemberId>> {
        self.write(Record::Vote(*vote), true).await.map_err(|error| failed(ErrorSubject::Vote, &error))
    }

    async fn read_vote(&mut self) -> Result<Option<Vote<MemberId>>, StorageError<MemberId>> {
        Ok(lock(&self.content).vote)
    }

    async fn save_committed(&mut self, committed: Option<LogId<MemberId>>) -> Result<(), StorageError<MemberId>> {
        // A hint for the next start: nothing rests on it.
        self.write(Record::Committed(committed), false).await.map_err(|error| failed(ErrorSubject::Logs, &error))
    }

    async fn read_committed(&mut self) -> Result<Option<LogId<MemberId>>, StorageError<MemberId>> {
        Ok(lock(&self.content).committed)
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<Types>) -> Result<(), StorageError<MemberId>>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let record = Record::Entries(entries.into_iter().collect());
        let written = self.write(record, true).await;
        let told = written.as_ref().map_err(|error| io::Error::new(error.kind(), error.to_string())).copied();
        callback.log_io_completed(told);
        written.map_err(|error| failed(ErrorSubject::Logs, &error))
    }

    async fn truncate(&mut self, since: LogId<MemberId>) -> Result<(), StorageError<MemberId>> {
        self.write(Record::Truncated(since.index), true).await.map_err(|error| failed(ErrorSubject::Logs, &error))
    }

    async fn purge(&mut self, upto: LogId<MemberId>) -> Result<(), StorageError<MemberId>> {
        let purged = async {
            self.write(Record::Purged(upto), true).await?;
            self.rewrite_if_worthwhile().await
        };
        purged.await.map_err(|error| failed(ErrorSubject::Logs, &error))
    }
}
