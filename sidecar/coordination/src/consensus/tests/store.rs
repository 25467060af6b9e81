use std::path::Path;

use openraft::storage::{RaftLogStorage, RaftLogStorageExt, RaftStateMachine};
use openraft::testing::{StoreBuilder, Suite, blank_ent, log_id, membership_ent};
use openraft::{Entry, EntryPayload, RaftLogReader, RaftSnapshotBuilder, StorageError, Vote};

use super::super::log::Log;
use super::super::machine::Machine;
use super::super::state::Write;
use super::super::{MemberId, Types};

struct Builder;

impl StoreBuilder<Types, Log, Machine, tempfile::TempDir> for Builder {
    async fn build(&self) -> Result<(tempfile::TempDir, Log, Machine), StorageError<MemberId>> {
        let folder = tempfile::tempdir().unwrap();
        let (log, machine) = open(folder.path());
        Ok((folder, log, machine))
    }
}

fn open(folder: &Path) -> (Log, Machine) {
    (Log::open(folder).unwrap(), Machine::open(folder).unwrap())
}

fn write(index: u64, name: &str) -> Entry<Types> {
    let write = Write { name: name.into(), expected: None, body: format!("{index}") };
    Entry { log_id: log_id(1, 7, index), payload: EntryPayload::Normal(write) }
}

#[test]
fn the_librarys_suite_passes() {
    Suite::test_all(Builder).unwrap();
}

#[tokio::test]
async fn log_vote_and_snapshot_survive_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let (mut log, mut machine) = open(folder.path());
    assert!(log.is_blank());
    let vote = Vote::new_committed(1, 7);
    log.save_vote(&vote).await.unwrap();
    assert!(!log.is_blank());
    let entries: Vec<_> = (1..=9).map(|index| write(index, &format!("document {index}"))).collect();
    let first = [blank_ent::<Types>(1, 7, 0)];
    log.blocking_append(first.into_iter().chain(entries.clone())).await.unwrap();
    log.truncate(log_id(1, 7, 8)).await.unwrap();
    machine.apply(entries[..5].to_vec()).await.unwrap();
    let built = machine.build_snapshot().await.unwrap();
    machine.apply(entries[5..7].to_vec()).await.unwrap();
    log.save_committed(Some(log_id(1, 7, 7))).await.unwrap();
    log.purge(log_id(1, 7, 3)).await.unwrap();
    drop((log, machine));

    let (mut log, mut machine) = open(folder.path());
    assert_eq!(log.read_vote().await.unwrap(), Some(vote));
    assert_eq!(log.read_committed().await.unwrap(), Some(log_id(1, 7, 7)));
    let state = log.get_log_state().await.unwrap();
    assert_eq!((state.last_purged_log_id, state.last_log_id), (Some(log_id(1, 7, 3)), Some(log_id(1, 7, 7))));
    assert_eq!(log.try_get_log_entries(..).await.unwrap(), entries[3..7]);
    assert_eq!(machine.applied_state().await.unwrap().0, Some(log_id(1, 7, 5)), "the snapshot's");
    assert!(machine.read("document 5").is_some() && machine.read("document 6").is_none());
    assert_eq!(machine.get_current_snapshot().await.unwrap().unwrap().meta, built.meta);
}

#[tokio::test]
async fn versions_are_places_in_the_log() {
    let folder = tempfile::tempdir().unwrap();
    let (_, mut machine) = open(folder.path());
    machine.apply([write(4, "a"), write(5, "b")]).await.unwrap();
    assert_eq!(machine.read("a").unwrap().version, "1-7-4");
    assert_eq!(machine.read("b").unwrap().version, "1-7-5");
    machine.apply([membership_ent::<Types>(1, 7, 6, vec![[7, 8].into()])]).await.unwrap();
    assert!(machine.has_member(8) && !machine.has_member(9));
}

#[tokio::test]
async fn an_older_snapshot_does_not_take_the_place_of_a_newer_one() {
    let folder = tempfile::tempdir().unwrap();
    let (_, mut machine) = open(folder.path());
    machine.apply([write(1, "a")]).await.unwrap();
    let older = machine.build_snapshot().await.unwrap();
    machine.apply([write(2, "b")]).await.unwrap();
    let newer = machine.build_snapshot().await.unwrap();
    // Its building began earlier, and its writing comes later.
    machine.clone().keep(older).await.unwrap();
    assert_eq!(machine.get_current_snapshot().await.unwrap().unwrap().meta, newer.meta);
    assert!(open(folder.path()).1.read("b").is_some());
}

#[tokio::test]
async fn a_damaged_snapshot_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (_, mut machine) = open(folder.path());
    machine.apply([write(1, "a")]).await.unwrap();
    machine.build_snapshot().await.unwrap();
    let path = folder.path().join("snapshot");
    let mut bytes = std::fs::read(&path).unwrap();
    let last = bytes.len() - 3;
    bytes[last] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    assert!(Machine::open(folder.path()).unwrap_err().to_string().contains("damaged"));
}
