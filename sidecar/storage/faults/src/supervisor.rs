//! Runs code under supervision.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use crate::calls::{Call, Meaning, NUMBERS, Reader};
use crate::kernel::{Answer, Heard, Listener};

/// How often is looked whether the supervised code has ended.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// How often after that, before threads that it left are given up.
const LOOKS: u32 = 500;

/// What is to become of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It happens.
    Pass,
    /// It fails with this error number, and does not happen.
    Fail(i32),
    /// It happens, and reports this error number: an answer that is lost. Where only the caller could do it, it fails.
    FailAfter(i32),
}

/// Something that was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A call that happened.
    Did(Call),
    /// A call that was failed and did not happen.
    Failed(Call),
    /// A call that happened, and was reported as failed.
    FailedAfter(Call),
    /// An operation began, beside which others write the same log.
    Began,
    /// Somebody was told that something is durable, which is in these files or below these folders.
    Acknowledged(String, Vec<PathBuf>),
}

/// What happened, in order.
#[derive(Clone, Debug, Default)]
pub struct Recorder(Arc<Mutex<Vec<Event>>>);

impl Recorder {
    /// Notes that an operation begins beside which others write the same log, and flush it in their own time: of the log only
    /// what it has flushed itself counts.
    pub fn begin(&self) {
        self.note(Event::Began);
    }

    /// Notes that somebody was told now that something is durable, which is in these files or below these folders.
    pub fn acknowledge(&self, what: impl Into<String>, places: Vec<PathBuf>) {
        self.note(Event::Acknowledged(what.into(), places));
    }

    fn note(&self, event: Event) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(event);
    }
}

/// What came of supervised code.
#[derive(Debug)]
pub struct Supervised<T> {
    /// What it returned.
    pub result: T,
    /// What it did to files.
    pub events: Vec<Event>,
}

/// Runs code on a thread of its own. Each change of a file below `root` that it or a thread it starts is about to make
/// is judged first. Panics as the code does, and where the kernel does not allow to supervise.
pub fn supervise<T: Send>(
    root: &Path,
    mut judge: impl FnMut(&Call) -> Verdict,
    act: impl FnOnce(&Recorder) -> T + Send,
) -> Supervised<T> {
    let root = fs::canonicalize(root).unwrap_or_else(|error| panic!("{}: {error}", root.display()));
    let recorder = Recorder::default();
    let result = thread::scope(|scope| {
        let (sender, receiver) = mpsc::channel();
        let acting = recorder.clone();
        // Not this thread: a filter can't be taken off again.
        let actor = scope.spawn(move || {
            let installed = Listener::install(NUMBERS);
            let is_installed = installed.is_ok();
            let _ = sender.send(installed);
            is_installed.then(|| act(&acting))
        });
        let listener = match receiver.recv() {
            Ok(Ok(listener)) => listener,
            Ok(Err(error)) => panic!(
                "the kernel does not allow to supervise system calls here ({error}): these tests need Linux 5.9 or newer, \
                 and no sandbox that forbids seccomp or listens itself"
            ),
            Err(_) => panic!("the supervised thread ended before it began"),
        };
        listen(&listener, &root, &recorder, &mut judge, || actor.is_finished());
        match actor.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    });
    let Some(result) = result else { unreachable!("only where no filter was installed") };
    let events = std::mem::take(&mut *recorder.0.lock().unwrap_or_else(PoisonError::into_inner));
    Supervised { result, events }
}

/// Answers calls until there is nobody who could make one.
fn listen(
    listener: &Listener,
    root: &Path,
    recorder: &Recorder,
    judge: &mut impl FnMut(&Call) -> Verdict,
    has_ended: impl Fn() -> bool,
) {
    let reader = Reader::new().unwrap_or_else(|error| panic!("this process can't read its own memory: {error}"));
    let mut looks = 0;
    loop {
        let asked = match listener.hear(LOOK_AGAIN) {
            Ok(Heard::Asked(asked)) => asked,
            Ok(Heard::Over) => return,
            Ok(Heard::Nothing) => {
                looks += u32::from(has_ended());
                assert!(looks < LOOKS, "the code has ended, and threads that it started have not");
                continue;
            }
            Err(error) => panic!("listening to system calls: {error}"),
        };
        let answer = match reader.read(&asked) {
            Ok(Meaning::Call(call)) if call.is_below(root) => decide(call, recorder, judge),
            Ok(Meaning::Evasion) => Answer::Fail(libc::ENOSYS),
            // The kernel will not be able to read it either, and says so.
            Ok(_) | Err(_) => Answer::Continue,
        };
        listener.answer(asked, answer).unwrap_or_else(|error| panic!("answering a system call: {error}"));
    }
}

fn decide(call: Call, recorder: &Recorder, judge: &mut impl FnMut(&Call) -> Verdict) -> Answer {
    // Noted before it happens: what it makes durable, or not any more, is then in order with what others do.
    match judge(&call) {
        Verdict::Pass => {
            recorder.note(Event::Did(call));
            Answer::Continue
        }
        Verdict::Fail(errno) => {
            recorder.note(Event::Failed(call));
            Answer::Fail(errno)
        }
        Verdict::FailAfter(errno) => {
            match call.perform() {
                Some(Ok(())) => recorder.note(Event::FailedAfter(call)),
                Some(Err(_)) | None => recorder.note(Event::Failed(call)),
            }
            Answer::Fail(errno)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{File, OpenOptions};
    use std::io::Write;

    use super::*;
    use crate::Kind;
    use crate::plan::Nth;

    fn pass(_: &Call) -> Verdict {
        Verdict::Pass
    }

    #[test]
    fn every_change_is_seen_in_order_and_nothing_else() {
        let (folder, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let root = folder.path().canonicalize().unwrap();
        let at = |name: &str| root.join(name);
        let seen = supervise(folder.path(), pass, |recorder| {
            fs::write(elsewhere.path().join("x"), "x").unwrap();
            fs::create_dir_all(at("a")).unwrap();
            // Nothing new.
            fs::create_dir_all(at("a")).unwrap();
            let mut file = File::create(at("a/1")).unwrap();
            file.write_all(b"1").unwrap();
            file.sync_data().unwrap();
            fs::rename(at("a/1"), at("2")).unwrap();
            recorder.acknowledge("two", vec![at("2")]);
            // Of another thread.
            thread::spawn({
                let root = root.clone();
                move || File::open(root).unwrap().sync_all().unwrap()
            })
            .join()
            .unwrap();
            assert_eq!(fs::read(at("2")).unwrap(), b"1");
            file.set_len(0).unwrap();
            drop(OpenOptions::new().append(true).open(at("2")).unwrap());
            drop(File::create(at("2")).unwrap());
            assert!(fs::remove_file(at("none")).is_err());
            fs::remove_file(at("2")).unwrap();
            // It has no name any more.
            file.write_all(b"1").unwrap();
            fs::remove_dir_all(at("a")).unwrap();
        });
        let did = |call: Call| Event::Did(call);
        let expected = [
            did(Call::MakeFolder(at("a"))),
            did(Call::Create(at("a/1"))),
            did(Call::Write(at("a/1"))),
            did(Call::Sync(at("a/1"))),
            did(Call::Rename(at("a/1"), at("2"))),
            Event::Acknowledged("two".to_owned(), vec![at("2")]),
            did(Call::SyncFolder(root.clone())),
            did(Call::Write(at("2"))),
            did(Call::Open(at("2"))),
            did(Call::Empty(at("2"))),
            did(Call::Remove(at("2"))),
            did(Call::Remove(at("a"))),
        ];
        assert_eq!(seen.events, expected);
    }

    #[test]
    fn a_call_that_is_failed_does_not_happen_unless_it_is_to() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        fs::write(&path, "a").unwrap();
        let mut before = Nth::new(Kind::Remove, 1, Verdict::Fail(libc::EIO));
        let seen = supervise(folder.path(), |call| before.judge(call), |_| fs::remove_file(&path));
        assert_eq!(seen.result.unwrap_err().raw_os_error(), Some(libc::EIO));
        assert!(path.exists());
        let mut after = Nth::new(Kind::Remove, 1, Verdict::FailAfter(libc::EIO));
        let seen = supervise(folder.path(), |call| after.judge(call), |_| fs::remove_file(&path));
        assert_eq!(seen.result.unwrap_err().raw_os_error(), Some(libc::EIO));
        assert!(!path.exists());
        assert!(matches!(&seen.events[..], [Event::FailedAfter(Call::Remove(_))]));
    }

    #[test]
    #[should_panic(expected = "as the code does")]
    fn a_panic_is_passed_on() {
        let folder = tempfile::tempdir().unwrap();
        supervise(folder.path(), pass, |_| -> () { panic!("as the code does") });
    }
}
