//! Nothing fails; what was done shows whether each acknowledgement was earned.

use std::collections::BTreeSet;
use std::path::Path;

use brainy_faults::{Call, Event, Recorder, Verdict};
use brainy_storage::backends::embedded::EmbeddedDatabase;
use tokio::runtime::Runtime;

use super::handoff::{copy, hand_over};
use super::script::{Known, Step, perform, script};
use super::store::{Backend, quick_folder, watch};

/// Rounds of the script: a few hundred operations.
const ROUNDS: u32 = 24;

/// Has a store do some steps, none of which fails.
fn play(backend: Backend, folder: &Path, steps: Vec<Step>, known: &mut Known, runtime: &Runtime, recorder: &Recorder) {
    let store = backend.open(folder).unwrap();
    for step in steps {
        assert!(!runtime.block_on(perform(&store, &step, known, recorder)).is_trouble(), "{step}");
    }
}

fn flushes_before_it_acknowledges(backend: Backend) {
    let folder = quick_folder();
    let seen = watch(
        folder.path(),
        |_| Verdict::Pass,
        |runtime, recorder| {
            let mut known = Known::default();
            let mut steps = script(ROUNDS);
            // One half after a restart.
            let rest = steps.split_off(steps.len() / 2);
            for steps in [steps, rest] {
                play(backend, folder.path(), steps, &mut known, runtime, recorder);
            }
        },
    );
    let acknowledged = seen.events.iter().filter(|event| matches!(event, Event::Acknowledged(..))).count();
    assert!(acknowledged > 150, "only {acknowledged} operations");
    backend.check_durability(folder.path(), &seen.events, |_| false);
}

#[test]
fn files_flush_before_they_acknowledge() {
    flushes_before_it_acknowledges(Backend::Files);
}

#[test]
fn embedded_flushes_before_it_acknowledges() {
    flushes_before_it_acknowledges(Backend::Embedded);
}

/// A record is on the disk once its journal is flushed: the file that it names must be, before, with its name.
#[test]
fn embedded_names_no_file_that_is_not_durable() {
    let folder = quick_folder();
    let seen = watch(
        folder.path(),
        |_| Verdict::Pass,
        |runtime, recorder| {
            play(Backend::Embedded, folder.path(), script(ROUNDS), &mut Known::default(), runtime, recorder);
        },
    );
    let is_value = |path: &Path| path.parent().is_some_and(|folder| folder.ends_with("values"));
    let (mut unflushed, mut unnamed) = (BTreeSet::new(), BTreeSet::new());
    let (mut written, mut folders, mut removed) = (0, 0, 0);
    for event in &seen.events {
        let Event::Did(call) = event else { continue };
        match call {
            Call::Create(path) if is_value(path) => {
                written += 1;
                unflushed.insert(path.clone());
                unnamed.insert(path.clone());
            }
            Call::Write(path) if is_value(path) => drop(unflushed.insert(path.clone())),
            Call::Sync(path) if is_value(path) => drop(unflushed.remove(path)),
            Call::SyncFolder(path) if path.ends_with("values") => {
                folders += 1;
                unnamed.clear();
            }
            Call::Write(path) if path.extension().is_some_and(|extension| extension == "jnl") => {
                assert!(unflushed.is_empty(), "{unflushed:?} are named before they are flushed");
                assert!(unnamed.is_empty(), "{unnamed:?} are named before their folder is flushed");
            }
            Call::Remove(path) if is_value(path) => removed += 1,
            _ => {}
        }
    }
    // Each round one, and every other round a batch of two, which share the flush of their names.
    assert_eq!((written, folders), (ROUNDS + ROUNDS / 2 * 2, ROUNDS + ROUNDS / 2));
    assert!(removed >= ROUNDS - 1, "{removed} were removed");
}

#[test]
fn stores_that_are_handed_over_are_flushed_before_that_is_acknowledged() {
    for backend in [Backend::Files, Backend::Embedded] {
        let folder = quick_folder();
        let seen = watch(
            folder.path(),
            |_| Verdict::Pass,
            |runtime, recorder| {
                hand_over(backend, folder.path(), runtime, recorder);
            },
        );
        backend.check_durability(folder.path(), &seen.events, |_| false);
    }
}

#[test]
fn an_embedded_database_that_outgrows_its_journal_keeps_it_until_its_tables_are_durable() {
    let folder = tempfile::tempdir().unwrap();
    let seen = watch(
        folder.path(),
        |_| Verdict::Pass,
        |runtime, recorder| {
            runtime.block_on(async {
                let database = EmbeddedDatabase::open(&Backend::root(folder.path())).unwrap();
                for number in 0..6 {
                    // 20 MiB that nobody flushes before the end.
                    let import = database.import("received").await.unwrap();
                    for file in copy(number, 200, 100 << 10) {
                        import.write(vec![file]).await.unwrap();
                    }
                    // What was replaced is deleted meanwhile.
                    recorder.begin();
                    import.finish(Some(number.to_string())).await.unwrap();
                    recorder.acknowledge(format!("copy {number}"), vec![Backend::root(folder.path())]);
                }
            });
        },
    );
    let is_journal = |path: &Path| path.extension().is_some_and(|extension| extension == "jnl");
    let is_over = |event: &Event| matches!(event, Event::Did(Call::Remove(path)) if is_journal(path));
    assert!(seen.events.iter().any(is_over), "it did not outgrow its journal");
    // Tables are written meanwhile: no acknowledgement rests on them as long as there is the journal.
    let is_table = |path: &Path| path.starts_with("node/shards/shard-000/engine/keyspaces");
    Backend::Embedded.check_durability(folder.path(), &seen.events, is_table);
    let kept: Vec<Event> =
        seen.events.iter().filter(|event| !matches!(event, Event::Acknowledged(..))).cloned().collect();
    Backend::Embedded.check_durability(folder.path(), &kept, |_| false);
}
