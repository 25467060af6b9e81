//! In an embedded engine: one database per folder, with any number of stores in it.
//!
//! A database is one log-structured tree in one folder, and one thread that writes to it; a store costs a record. All
//! writes that wait at the same time become durable with one flush of the disk. Keys of a store lie in byte order, so a
//! listing is a scan.
//!
//! A store is a *generation* of data and a record that names it. A copy is received into a generation that nobody names
//! yet, and one small write puts it in the store's place; what nobody names any more is deleted behind, also after a
//! crash. Large values have files of their own. With the record goes a *stamp*: a note of the caller's own, changed together with what it is about.

mod adapter;
mod bringing;
mod cleaner;
mod committer;
mod edit;
mod engine;
mod files;
mod folder;
mod handoff;
mod layout;
mod names;
mod record;
mod settings;
mod shared_flush;
mod stores;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::sync::{mpsc, oneshot};

pub use self::adapter::EmbeddedAdapter;
use self::cleaner::Cleaner;
use self::committer::{Job, Round};
use self::engine::Engine;
pub use self::handoff::{Audit, Changes, Import};
use self::names::Naming;
use self::stores::Stores;
use super::disk::Disk;
use crate::Error;

/// A database in a folder. Clones share it; it is closed when the last of them and of its stores is dropped, which waits
/// for writes in progress.
#[derive(Clone)]
pub struct EmbeddedDatabase {
    inner: Arc<Inner>,
}

struct Inner {
    engine: Arc<Engine>,
    stores: Arc<Stores>,
    cleaner: Cleaner,
    /// `None` once nothing is left to name.
    naming: Option<Naming>,
    /// `None` only while it is being dropped: the committer ends when nobody can send it anything.
    queue: Option<mpsc::Sender<Job>>,
    committer: Option<JoinHandle<()>>,
}

impl fmt::Debug for EmbeddedDatabase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedDatabase").field("folder", &self.folder()).finish_non_exhaustive()
    }
}

impl EmbeddedDatabase {
    /// Opens the database in a folder, or lays out a new one. Blocks: for as long as it takes to read what was written
    /// last back into memory, at most some 100 MiB. Fails with cause `InUse` while another process, or this one, has it
    /// open.
    pub fn open(folder: &Path) -> Result<Self, Error> {
        let engine = Arc::new(Engine::open(folder)?);
        let stores = Arc::new(Stores::load(&engine)?);
        let cleaner = Cleaner::start(Arc::clone(&engine))?;
        let (queue, jobs) = mpsc::channel(committer::QUEUE);
        let committer = spawn("storage-commit", {
            let (engine, stores) = (Arc::clone(&engine), Arc::clone(&stores));
            move || committer::run(&engine, &stores, jobs)
        })?;
        let naming = Naming::start(&engine, &queue)?;
        let inner = Inner { engine, stores, cleaner, naming, queue: Some(queue), committer: Some(committer) };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The store of this name (1 to 255 bytes), with whatever is in it; nothing is made before the first write.
    pub fn store(&self, name: &str) -> Result<EmbeddedAdapter, Error> {
        Ok(EmbeddedAdapter::new(self.clone(), self.inner.stores.of(name)?))
    }

    /// The database's folder.
    pub fn folder(&self) -> &Path {
        self.inner.engine.folder()
    }

    /// The disk that it is on. What is in memory needs room there too.
    pub fn disk(&self) -> Disk {
        // It keeps no database open that nobody else has.
        let engine = Arc::downgrade(&self.inner.engine);
        let table = self.inner.engine.table();
        Disk::of(self.folder(), move |disk| settings::reserve_of_full(disk, table) + settings::most_in_memory(table))
            .with_data(move || engine.upgrade().map(|engine| engine.data_bytes()))
    }

    /// Why nothing more can be written, if that is so: the process has to be started again then. Reads go on.
    pub fn failure(&self) -> Option<Error> {
        self.inner.engine.failure()
    }

    /// How often the disk was flushed for writes: fewer times than there were writes, where many came at once.
    pub fn flushes(&self) -> u64 {
        self.inner.engine.syncs()
    }

    /// Has the committer do something. `Err`: it has ended, and nothing was done.
    async fn submit(&self, job: Job) -> Result<(), Error> {
        let closed = || Error::unavailable("Closed", "the database is closed");
        self.inner.queue.as_ref().ok_or_else(closed)?.send(job).await.map_err(|_| closed())
    }

    /// Changes the stores themselves: alone, and durably. `act` says what is to be written, and what to do once it is.
    /// After an error whose cause is `EngineFailed` nobody knows whether it was.
    async fn alone<T: Send + 'static>(
        &self,
        act: impl FnOnce(&mut Round<'_>) -> Result<Box<dyn FnOnce() -> T + Send>, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        self.submit(Job::Alone(Box::new(move |round| {
            let then = act(round);
            round.at_end(move |ended| {
                let done = match ended {
                    Ok(()) => then.map(|then| then()),
                    Err(failed) => Err(failed.clone().into_error()),
                };
                // If nobody waits any more, it is done all the same.
                let _ = reply.send(done);
            });
        })))
        .await?;
        answer.await.unwrap_or_else(|_| Err(interrupted()))
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // It has work for the committer.
        self.naming = None;
        self.queue = None;
        if let Some(committer) = self.committer.take() {
            // It panics only on a mistake of ours, which has been reported where it happened.
            let _ = committer.join();
        }
    }
}

fn interrupted() -> Error {
    Error::unavailable("Interrupted", "the database gave no answer")
}

/// Starts a thread of the database's own.
fn spawn(name: &str, act: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, Error> {
    let thread = std::thread::Builder::new().name(name.to_owned()).spawn(act);
    thread.map_err(|error| Error::unavailable("Threads", format!("starting a thread: {error}")))
}

/// Runs a read on a thread that may block.
async fn blocking<T: Send + 'static>(act: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
    let done = tokio::task::spawn_blocking(act).await;
    done.unwrap_or_else(|why| Err(Error::unavailable("Interrupted", why.to_string())))
}
