//! The state machine of a member: the state in memory, and a snapshot of it in the file `snapshot` of its folder. After a
//! restart the state is the snapshot's, until the log behind it has been applied again.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use openraft::storage::{RaftStateMachine, Snapshot};
use openraft::{
    AnyError, EntryPayload, ErrorSubject, ErrorVerb, LogId, OptionalSend, RaftSnapshotBuilder, StorageError,
    StorageIOError, StoredMembership,
};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::journal::write_whole;
use super::state::{State, Versioned, Written};
use super::{Entry, Member, MemberId, SnapshotMeta, Types};
use crate::NodeId;

/// A snapshot as it lies on the disk.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Saved {
    meta: SnapshotMeta,
    state: State,
}

#[derive(Debug, Default)]
struct Content {
    applied: Option<LogId<MemberId>>,
    membership: StoredMembership<MemberId, Member>,
    state: State,
    snapshot: Option<Saved>,
    built: u64,
}

/// The state machine of one member. Clones are the same one.
#[derive(Clone, Debug)]
pub(super) struct Machine {
    path: PathBuf,
    content: Arc<Mutex<Content>>,
    /// One snapshot is written at a time.
    saving: Arc<tokio::sync::Mutex<()>>,
}

impl Machine {
    /// Opens the state machine in a folder, or begins one. Blocks.
    pub(super) fn open(folder: &Path) -> io::Result<Self> {
        let path = folder.join("snapshot");
        let snapshot: Option<Saved> = match fs::read(&path) {
            Ok(bytes) => Some(decode(&path, &bytes)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let content = match snapshot.clone() {
            None => Content::default(),
            Some(Saved { meta, state }) => {
                Content { applied: meta.last_log_id, membership: meta.last_membership, state, snapshot, built: 0 }
            }
        };
        Ok(Self { path, content: Arc::new(Mutex::new(content)), saving: Arc::default() })
    }

    fn lock(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A document, as this member knows it.
    pub(super) fn read(&self, name: &str) -> Option<Versioned> {
        self.lock().state.read(name).cloned()
    }

    /// Names that begin with `prefix`, as this member knows them.
    pub(super) fn names(&self, prefix: &str) -> Vec<String> {
        self.lock().state.names(prefix)
    }

    /// Whether the members that were agreed on last, as this member knows it, have this one among them.
    pub(super) fn has_member(&self, member: MemberId) -> bool {
        self.lock().membership.membership().get_node(&member).is_some()
    }

    /// Their nodes.
    pub(super) fn members(&self) -> Vec<NodeId> {
        self.lock().membership.membership().nodes().map(|(_, member)| member.node.clone()).collect()
    }

    /// The nodes of those that do not vote yet, or any more.
    pub(super) fn learners(&self) -> Vec<NodeId> {
        let inner = self.lock();
        let membership = inner.membership.membership();
        let voters: BTreeSet<MemberId> = membership.voter_ids().collect();
        membership.nodes().filter(|(id, _)| !voters.contains(*id)).map(|(_, member)| member.node.clone()).collect()
    }

    /// Makes a snapshot durable, unless a later one is; then it is the present one.
    async fn save(&self, saved: Saved) -> io::Result<()> {
        let _alone = self.saving.lock().await;
        if self.lock().snapshot.as_ref().is_some_and(|there| there.meta.last_log_id > saved.meta.last_log_id) {
            return Ok(());
        }
        let (path, saved) = tokio::task::spawn_blocking({
            let path = self.path.clone();
            move || write_whole(&path, &encode(&saved)?).map(|()| (path, saved))
        })
        .await
        .map_err(io::Error::other)??;
        tracing::debug!(path = %path.display(), "saved a snapshot");
        self.lock().snapshot = Some(saved);
        Ok(())
    }
}

#[cfg(test)]
impl Machine {
    /// What comes last when a snapshot is built.
    pub(super) async fn keep(&self, snapshot: Snapshot<Types>) -> io::Result<()> {
        self.save(Saved { meta: snapshot.meta, state: *snapshot.snapshot }).await
    }
}

/// A checksum, and the rest.
fn encode(saved: &Saved) -> io::Result<Vec<u8>> {
    let content = serde_json::to_vec(saved)?;
    let mut bytes = xxh3_64(&content).to_le_bytes().to_vec();
    bytes.extend(content);
    Ok(bytes)
}

fn decode(path: &Path, bytes: &[u8]) -> io::Result<Saved> {
    let damaged = || io::Error::new(io::ErrorKind::InvalidData, format!("{} is damaged", path.display()));
    let (checksum, content) = bytes.split_first_chunk::<8>().ok_or_else(damaged)?;
    if xxh3_64(content) != u64::from_le_bytes(*checksum) {
        return Err(damaged());
    }
    Ok(serde_json::from_slice(content)?)
}

/// A place in the log as a version: the leader's member id in it is random, so that it does not come again in another group.
fn version(at: &LogId<MemberId>) -> String {
    format!("{}-{:x}-{}", at.leader_id.term, at.leader_id.node_id, at.index)
}

fn failed(error: &io::Error) -> StorageError<MemberId> {
    StorageIOError::new(ErrorSubject::Snapshot(None), ErrorVerb::Write, AnyError::new(error)).into()
}

impl RaftSnapshotBuilder<Types> for Machine {
    async fn build_snapshot(&mut self) -> Result<Snapshot<Types>, StorageError<MemberId>> {
        let saved = {
            let mut content = self.lock();
            content.built += 1;
            let last = content.applied.map_or_else(|| "none".to_owned(), |applied| version(&applied));
            let meta = SnapshotMeta {
                last_log_id: content.applied,
                last_membership: content.membership.clone(),
                snapshot_id: format!("{last}-{}", content.built),
            };
            Saved { meta, state: content.state.clone() }
        };
        self.save(saved.clone()).await.map_err(|error| failed(&error))?;
        Ok(Snapshot { meta: saved.meta, snapshot: Box::new(saved.state) })
    }
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotBuilder = Self;

    async fn applied_state(
        &mut self,
    ) -> Result<(Option<LogId<MemberId>>, StoredMembership<MemberId, Member>), StorageError<MemberId>> {
        let content = self.lock();
        Ok((content.applied, content.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Written>, StorageError<MemberId>>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut content = self.lock();
        let apply = |entry: Entry| {
            content.applied = Some(entry.log_id);
            match entry.payload {
                EntryPayload::Blank => Written::Nothing,
                EntryPayload::Normal(write) => content.state.apply(write, version(&entry.log_id)),
                EntryPayload::Membership(membership) => {
                    content.membership = StoredMembership::new(Some(entry.log_id), membership);
                    Written::Nothing
                }
            }
        };
        Ok(entries.into_iter().map(apply).collect())
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<State>, StorageError<MemberId>> {
        Ok(Box::default())
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: Box<State>,
    ) -> Result<(), StorageError<MemberId>> {
        // On the disk first: the log up to it may be gone.
        let saved = Saved { meta: meta.clone(), state: *snapshot };
        self.save(saved.clone()).await.map_err(|error| failed(&error))?;
        let mut content = self.lock();
        content.applied = saved.meta.last_log_id;
        content.membership = saved.meta.last_membership;
        content.state = saved.state;
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<Types>>, StorageError<MemberId>> {
        let saved = self.lock().snapshot.clone();
        Ok(saved.map(|Saved { meta, state }| Snapshot { meta, snapshot: Box::new(state) }))
    }
}
