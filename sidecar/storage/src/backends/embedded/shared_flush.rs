//! One flush of a folder for all who wait for one.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, PoisonError};

use crate::backends::filesystem::files::sync_folder;

/// Flushes a folder for all who ask while the flush before goes on.
#[derive(Debug)]
pub(super) struct SharedFlush {
    folder: PathBuf,
    state: Mutex<Flushes>,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct Flushes {
    /// How many began, and which was the last that went well.
    begun: u64,
    done: u64,
    runs: bool,
}

impl SharedFlush {
    pub(super) fn new(folder: PathBuf) -> Self {
        Self { folder, state: Mutex::default(), ended: Condvar::new() }
    }

    /// Returns once a flush went well that began after this call did.
    pub(super) fn flush(&self) -> io::Result<()> {
        self.flush_by(sync_folder)
    }

    fn flush_by(&self, sync: impl Fn(&Path) -> io::Result<()>) -> io::Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mine = state.begun + 1;
        while state.done < mine {
            if state.runs {
                state = self.ended.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            state.begun += 1;
            state.runs = true;
            let number = state.begun;
            drop(state);
            let synced = sync(&self.folder);
            state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.runs = false;
            if synced.is_ok() {
                state.done = number;
            }
            self.ended.notify_all();
            // Whoever waited for it tries by itself.
            synced?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::{Arc, mpsc};

    use super::*;

    #[test]
    fn who_asks_while_a_flush_goes_on_is_served_by_a_later_one() {
        let flush = Arc::new(SharedFlush::new(PathBuf::new()));
        let count = Arc::new(AtomicU64::new(0));
        let (enter, entered) = mpsc::channel();
        let (release, released) = mpsc::channel::<()>();
        let released = Arc::new(Mutex::new(released));
        let ask = || {
            let (flush, count, enter, released) =
                (Arc::clone(&flush), Arc::clone(&count), enter.clone(), Arc::clone(&released));
            std::thread::spawn(move || {
                flush.flush_by(|_| {
                    count.fetch_add(1, Ordering::SeqCst);
                    enter.send(()).unwrap();
                    released.lock().unwrap().recv().unwrap();
                    Ok(())
                })
            })
        };
        let first = ask();
        entered.recv().unwrap();
        let others: Vec<_> = (0..3).map(|_| ask()).collect();
        release.send(()).unwrap();
        first.join().unwrap().unwrap();
        for _ in 0..3 {
            release.send(()).unwrap();
        }
        for other in others {
            other.join().unwrap().unwrap();
        }
        assert!(count.load(Ordering::SeqCst) >= 2, "the first began before they asked");
    }

    #[test]
    fn a_flush_that_failed_is_nobodys() {
        let flush = SharedFlush::new(PathBuf::new());
        assert!(flush.flush_by(|_| Err(io::Error::other("a test"))).is_err());
        let count = AtomicU64::new(0);
        let sync = |_: &Path| {
            count.fetch_add(1, Ordering::SeqCst);
            Ok(())
        };
        flush.flush_by(sync).unwrap();
        flush.flush_by(sync).unwrap();
        assert_eq!(count.load(Ordering::SeqCst), 2, "each began after it was asked for");
    }
}
