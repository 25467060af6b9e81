//! Deletes, behind everything else, the data that belongs to nobody; and frees memory when nothing is written.
//!
//! Each generation that is not (or no longer) a store's own is marked as such in the same write that makes it so. The
//! mark goes away after its data: so a crash at any point leaves the mark, and the next opening starts over.

use std::ops::Bound;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use super::edit::Edit;
use super::engine::{Durable, Engine, Failed};
use super::files::FileId;
use super::layout::{self, Generation};
use super::stores::damaged;
use crate::Error;

/// Keys deleted with one write: few, because other writers wait for it.
const AT_ONCE: usize = 256;
/// How long nothing is written, at least, before what was is not kept in memory any more.
const QUIET: Duration = Duration::from_secs(3);

/// What the thread is told.
enum Order {
    /// Delete a generation; who may still be writing it is kept out first.
    Delete(Generation, Option<Arc<Gate>>),
    /// Remove files that no record names, and nobody holds.
    RemoveFiles(Vec<FileId>),
    /// Remove those that an earlier life left.
    Sweep,
    /// End.
    Stop,
}

/// Where data to delete is reported. Never waits.
#[derive(Clone, Debug)]
pub(super) struct Garbage(mpsc::Sender<Order>);

impl Garbage {
    /// Has the data of a generation deleted that is marked as garbage, if there is one.
    pub(super) fn delete(&self, generation: Option<Generation>) {
        if let Some(generation) = generation {
            self.send(Order::Delete(generation, None));
        }
    }

    /// The same, after the gate that its writer goes through has been shut.
    pub(super) fn delete_behind(&self, generation: Generation, writer: Arc<Gate>) {
        self.send(Order::Delete(generation, Some(writer)));
    }

    /// Has files removed that no record names, and nobody holds.
    pub(super) fn remove_files(&self, ids: Vec<FileId>) {
        self.send(Order::RemoveFiles(ids));
    }

    fn send(&self, order: Order) {
        // Fails only once the database is closed: the next opening finds the mark.
        let _ = self.0.send(order);
    }
}

/// Lets writes of a generation through until it is shut.
#[derive(Debug, Default)]
pub(super) struct Gate(Mutex<bool>);

impl Gate {
    /// Runs a write, unless the gate is shut. Blocks.
    pub(super) fn pass<T>(&self, act: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
        let shut = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if *shut {
            return Err(Error::unavailable("Interrupted", "the copy has been given up"));
        }
        act()
    }

    fn shut(&self) {
        *self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = true;
    }
}

#[derive(Debug)]
pub(super) struct Cleaner {
    closing: Arc<AtomicBool>,
    garbage: Garbage,
    /// `None` only while it is being dropped.
    thread: Option<JoinHandle<()>>,
}

impl Cleaner {
    /// Starts with what an earlier life left. Blocks shortly.
    pub(super) fn start(engine: Arc<Engine>) -> Result<Self, Error> {
        let (sender, orders) = mpsc::channel();
        let garbage = Garbage(sender);
        for generation in marked(&engine)? {
            garbage.delete(Some(generation));
        }
        engine.files().removed_by(garbage.clone());
        garbage.send(Order::Sweep);
        let closing = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&closing);
        let thread = super::spawn("storage-clean", move || run(&engine, &orders, &stop))?;
        Ok(Self { closing, garbage, thread: Some(thread) })
    }

    /// Where to report garbage.
    pub(super) fn garbage(&self) -> Garbage {
        self.garbage.clone()
    }
}

impl Drop for Cleaner {
    fn drop(&mut self) {
        self.closing.store(true, Ordering::Release);
        self.garbage.send(Order::Stop);
        if let Some(thread) = self.thread.take() {
            // It panics only on a mistake of ours, which has been reported where it happened.
            let _ = thread.join();
        }
    }
}

/// The generations marked as garbage.
pub(super) fn marked(engine: &Engine) -> Result<Vec<Generation>, Error> {
    let prefix = layout::all_garbage();
    let snapshot = engine.snapshot();
    let marks = engine.keys(&snapshot, &prefix, Bound::Included(prefix.clone()));
    marks.map(|key| layout::parse_garbage_key(&key?).ok_or_else(|| damaged("a garbage mark"))).collect()
}

fn run(engine: &Engine, orders: &mpsc::Receiver<Order>, closing: &AtomicBool) {
    loop {
        let (generation, writer) = match orders.recv_timeout(QUIET) {
            Ok(Order::Delete(generation, writer)) => (generation, writer),
            Ok(Order::RemoveFiles(ids)) => {
                ids.into_iter().for_each(|id| engine.files().remove(id));
                continue;
            }
            Ok(Order::Sweep) => {
                if let Err(error) = sweep(engine, closing) {
                    tracing::warn!(%error, "looking for values that nobody owns; the next start looks again");
                }
                continue;
            }
            Ok(Order::Stop) | Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => {
                engine.look_for_rest();
                continue;
            }
        };
        if let Some(writer) = writer {
            writer.shut();
        }
        match clean(engine, generation, closing) {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => tracing::warn!(%error, "deleting old data; the next start goes on with it"),
        }
    }
}

/// Deletes the data of a generation and then its mark. `false`: it was told to stop before the end.
fn clean(engine: &Engine, generation: Generation, closing: &AtomicBool) -> Result<bool, Error> {
    let prefix = layout::generation_prefix(generation);
    let mut from = Bound::Included(prefix.clone());
    loop {
        if closing.load(Ordering::Acquire) {
            return Ok(false);
        }
        let snapshot = engine.snapshot();
        let found: Vec<(Vec<u8>, Option<FileId>)> =
            engine.files_of(&snapshot, &prefix, from).take(AT_ONCE).collect::<Result<_, _>>()?;
        // It would hold the files.
        drop(snapshot);
        let Some((last, _)) = found.last().cloned() else { break };
        delete(engine, found)?;
        from = Bound::Excluded(last);
    }
    delete(engine, vec![(layout::garbage_key(generation), None)])?;
    Ok(true)
}

/// Not flushed: the mark follows its data in the journal, and what a crash takes back is deleted again.
fn delete(engine: &Engine, found: Vec<(Vec<u8>, Option<FileId>)>) -> Result<(), Error> {
    let mut edit = Edit::default();
    for (key, file) in found {
        edit.name(&key, false);
        edit.set(key, None);
        if let Some(id) = file {
            edit.unname(id);
        }
    }
    edit.commit(engine, Durable::Later).map_err(Failed::into_error)
}

fn sweep(engine: &Engine, closing: &AtomicBool) -> Result<(), Error> {
    let is_named = |id| Ok(engine.get(&layout::file_key(id))?.is_some());
    engine.files().sweep(is_named, || !closing.load(Ordering::Acquire))
}
