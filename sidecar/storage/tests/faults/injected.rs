//! One call fails, or from one on all do. Which: every one that there is, one after the other, where `BRAINY_TEST_FAULTS`
//! is `all`; otherwise some of each kind.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use brainy_faults::plan::{Nth, ReadOnly};
use brainy_faults::{Call, Event, Kind, Recorder, Verdict};
use brainy_storage::{Condition, Error, Operation, OperationId, Outcome, Value};
use tokio::runtime::Runtime;

use super::handoff::hand_over;
use super::script::{Ended, Known, Step, key, perform, script};
use super::store::{Backend, Store, quick_folder, watch};

/// Calls of each kind that fail, where not all do.
const SOME: usize = 5;

/// What a full disk says, and a broken one; the last may have done what it reports as failed.
const VERDICTS: [Verdict; 3] = [Verdict::Fail(libc::ENOSPC), Verdict::Fail(libc::EIO), Verdict::FailAfter(libc::EIO)];

/// Which of so many to try.
fn choice(all: usize) -> Vec<usize> {
    let some = if std::env::var("BRAINY_TEST_FAULTS").is_ok_and(|which| which == "all") { all } else { SOME.min(all) };
    // The first, the last, and others in between.
    (0..some).map(|n| 1 + n * (all - 1) / (some - 1).max(1)).collect()
}

/// Fails each chosen call of each kind that a run makes, once.
fn fail_each(backend: Backend, run: fn(Backend, &Path, &Runtime, &Recorder)) {
    let folder = quick_folder();
    let calls: Vec<Call> =
        watch(folder.path(), |_| Verdict::Pass, |runtime, recorder| run(backend, folder.path(), runtime, recorder))
            .events
            .into_iter()
            .filter_map(|event| if let Event::Did(call) = event { Some(call) } else { None })
            .collect();
    let mut missed = 0;
    for kind in Kind::ALL {
        let all = calls.iter().filter(|call| call.kind() == kind).count();
        for verdict in VERDICTS {
            // There is nothing to do for them: only the caller has what is to be written.
            if matches!(verdict, Verdict::FailAfter(_)) && matches!(kind, Kind::Open | Kind::Write) {
                continue;
            }
            for nth in choice(all) {
                println!("{backend:?}: {verdict:?} for call {nth} of {all} of kind {kind:?}");
                let folder = quick_folder();
                let mut plan = Nth::new(kind, nth as u32, verdict);
                let seen = watch(
                    folder.path(),
                    |call| plan.judge(call),
                    |runtime, recorder| {
                        run(backend, folder.path(), runtime, recorder);
                    },
                );
                println!("it was {:?}", plan.hit());
                // Threads of the store's own may make one call less here and there.
                missed += usize::from(plan.hit().is_none());
                backend.check_durability(folder.path(), &seen.events, |_| false);
            }
        }
    }
    assert!(missed < calls.len() / 20 + 3, "{missed} faults hit nothing");
}

/// Opens a store in a folder. A first try may fail; then `lift` is called, and the second may not.
fn open(backend: Backend, folder: &Path, lift: impl FnOnce()) -> Store {
    backend.open(folder).unwrap_or_else(|_| {
        lift();
        backend.open(folder).unwrap_or_else(|error| panic!("the fault is over, and yet: {error}"))
    })
}

fn is_engine_failure(ended: &Ended) -> bool {
    matches!(ended, Ended::Failed(Error::Unavailable { cause, .. }) if cause == "EngineFailed")
}

/// After the fault is over: all that was acknowledged is there, nothing is left over, and it can be written.
fn check_end(backend: Backend, folder: &Path, runtime: &Runtime, known: &mut Known, recorder: &Recorder) {
    let mut store = open(backend, folder, || {});
    runtime.block_on(known.check(&store));
    if runtime.block_on(perform(&store, &Step::set("last"), known, recorder)).is_trouble() {
        drop(store);
        store = open(backend, folder, || {});
        assert_eq!(runtime.block_on(perform(&store, &Step::set("very last"), known, recorder)), Ended::Applied);
    }
    runtime.block_on(known.check(&store));
    drop(store);
    // What a failure left behind is gone, at the latest, when the store has been opened again.
    drop(open(backend, folder, || {}));
    if backend == Backend::Embedded {
        no_file_is_left(folder, runtime);
    }
    let scratch = Backend::root(folder).join("tmp");
    assert_eq!(std::fs::read_dir(scratch).map_or(0, Iterator::count), 0, "temporary files are left");
}

/// What no record names is removed behind, also what an earlier life left: the files that stay are those of the large values.
fn no_file_is_left(folder: &Path, runtime: &Runtime) {
    let store = open(Backend::Embedded, folder, || {});
    let named = ["large", "large 1", "large 2"].iter().filter(|name| {
        let found = runtime.block_on(store.adapter.get(&key(name))).unwrap();
        found.is_some_and(|entry| matches!(entry.value, Value::Bytes(_)))
    });
    let named = named.count();
    let count = || std::fs::read_dir(Backend::root(folder).join("values")).unwrap().count();
    let mut patience = 1000;
    while count() != named {
        patience -= 1;
        assert!(patience > 0, "{} files are there, and {named} are named", count());
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

/// A client that meets one fault: it is noticed by at most one operation, and by none after that.
fn meet_one_fault(backend: Backend, folder: &Path, runtime: &Runtime, recorder: &Recorder) {
    let mut known = Known::default();
    let mut store = open(backend, folder, || {});
    let mut troubles = 0;
    for step in script(2) {
        if !runtime.block_on(perform(&store, &step, &mut known, recorder)).is_trouble() {
            continue;
        }
        troubles += 1;
        if store.has_failed() {
            let later = runtime.block_on(perform(&store, &Step::set("later"), &mut known, recorder));
            assert!(is_engine_failure(&later), "{later:?}");
            // Reads go on.
            runtime.block_on(known.check(&store));
            drop(store);
            store = open(backend, folder, || {});
        }
    }
    assert!(troubles <= 1, "one fault made {troubles} operations fail");
    drop(store);
    check_end(backend, folder, runtime, &mut known, recorder);
}

#[test]
fn files_meet_one_fault() {
    fail_each(Backend::Files, meet_one_fault);
}

#[test]
fn embedded_meets_one_fault() {
    fail_each(Backend::Embedded, meet_one_fault);
}

#[test]
fn files_that_are_handed_over_meet_one_fault() {
    fail_each(Backend::Files, hand_over);
}

#[test]
fn embedded_stores_that_are_handed_over_meet_one_fault() {
    fail_each(Backend::Embedded, hand_over);
}

/// No folder can be flushed while this is true.
fn folders_fail_while(broken: &AtomicBool) -> impl FnMut(&Call) -> Verdict {
    |call| {
        let fails = call.kind() == Kind::SyncFolder && broken.load(Ordering::SeqCst);
        if fails { Verdict::Fail(libc::EIO) } else { Verdict::Pass }
    }
}

/// The write took effect and its flush failed: the id says that it was done, and no more than that.
#[test]
fn files_acknowledge_an_id_that_was_seen_only_when_it_is_flushed() {
    let (folder, broken) = (quick_folder(), AtomicBool::new(false));
    watch(folder.path(), folders_fail_while(&broken), |runtime, _| {
        let store = Backend::Files.open(folder.path()).unwrap();
        let id = OperationId::new("id").unwrap();
        let write = || {
            let operation = Operation::Put { value: Value::Json(1.into()), condition: Condition::Any };
            runtime.block_on(store.adapter.perform_once(&key("a"), operation, &id)).unwrap()
        };
        // The folders are there, so that only what is written is in doubt.
        assert!(runtime.block_on(store.adapter.set(&key("b"), Value::Json(0.into()))).unwrap().applied().is_some());
        broken.store(true, Ordering::SeqCst);
        assert!(matches!(write(), Outcome::Unknown(_)));
        assert!(matches!(write(), Outcome::Unknown(_)), "nothing was flushed since");
        broken.store(false, Ordering::SeqCst);
        assert!(matches!(write(), Outcome::Applied(_)));
    });
}

/// Its folder may still have it: a crash would find under the old key what the next write puts in.
#[test]
fn files_that_were_replaced_are_not_written_before_their_folder_is_flushed() {
    let (folder, broken) = (quick_folder(), AtomicBool::new(false));
    let seen = watch(folder.path(), folders_fail_while(&broken), |runtime, _| {
        let store = Backend::Files.open(folder.path()).unwrap();
        let set = |name: &str, value: i64| {
            runtime.block_on(store.adapter.set(&key(name), Value::Json(value.into()))).unwrap().applied().is_some()
        };
        let batch = |value: i64| {
            let items = vec![(key("b"), Value::Json(value.into()))];
            runtime.block_on(store.adapter.set_batch(items)).pop().unwrap().unwrap().applied().is_some()
        };
        assert!(set("a", 1) && set("b", 1));
        broken.store(true, Ordering::SeqCst);
        assert!(!set("a", 2) && !batch(2));
        broken.store(false, Ordering::SeqCst);
        assert!(set("c", 1) && set("a", 3) && batch(3));
    });
    assert!(seen.events.iter().any(|event| matches!(event, Event::Did(Call::Exchange(..)))), "nothing was exchanged");
    Backend::Files.check_durability(folder.path(), &seen.events, |_| false);
}

/// From one call on the file system is read-only, until it is mounted anew.
fn become_read_only(backend: Backend) {
    let run = |folder: &Path, runtime: &Runtime, recorder: &Recorder, lifted: &AtomicBool| {
        let lift = || lifted.store(true, Ordering::SeqCst);
        let mut known = Known::default();
        let store = open(backend, folder, lift);
        for step in script(2) {
            runtime.block_on(perform(&store, &step, &mut known, recorder));
            runtime.block_on(known.check(&store));
        }
        lift();
        drop(store);
        check_end(backend, folder, runtime, &mut known, recorder);
    };
    let folder = quick_folder();
    let never = AtomicBool::new(true);
    let all =
        watch(folder.path(), |_| Verdict::Pass, |runtime, recorder| run(folder.path(), runtime, recorder, &never));
    let mut hits = 0;
    let is_change =
        |event: &&Event| matches!(event, Event::Did(call) if !matches!(call.kind(), Kind::Sync | Kind::SyncFolder));
    for nth in choice(all.events.iter().filter(is_change).count()) {
        println!("{backend:?}: read-only from call {nth} on");
        let folder = quick_folder();
        let lifted = Arc::new(AtomicBool::new(false));
        let mut plan = ReadOnly::new(nth as u32, Arc::clone(&lifted));
        let seen = watch(
            folder.path(),
            |call| plan.judge(call),
            |runtime, recorder| {
                run(folder.path(), runtime, recorder, &lifted);
            },
        );
        hits += u32::from(plan.has_hit());
        backend.check_durability(folder.path(), &seen.events, |_| false);
    }
    assert!(hits > 1, "nothing was refused");
}

#[test]
fn files_are_read_where_they_can_not_be_written() {
    become_read_only(Backend::Files);
}

#[test]
fn embedded_is_read_where_it_can_not_be_written() {
    become_read_only(Backend::Embedded);
}
