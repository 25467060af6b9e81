//! Whole stores: copied file by file to another machine, replaced by such a copy, removed.
//!
//! Files travel as they are stored, so that every value keeps its version and its namespace. A store may be copied while it is
//! written to: writers note the path under the lock of its key, and the copy reads it again under that lock.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{CWD, RenameFlags, renameat_with, syncfs};
use rustix::io::Errno;
use tokio::sync::mpsc;

use super::blocking;
use super::files::{failure, is_missing, remove_tree, sync_folder, sync_folder_if_there};
use super::root::{Root, lock_folder};
use crate::backends::notes::Noted;
use crate::backends::stored::{self, StoredChange, StoredFile};
use crate::{Error, encoding};

/// Files read ahead of whoever takes an export.
const READ_AHEAD: usize = 8;

/// Reads a store into a channel, see [`super::FilesystemAdapter::export`].
pub(super) fn export(root: Arc<Root>) -> mpsc::Receiver<Result<StoredFile, Error>> {
    let (sender, receiver) = mpsc::channel(READ_AHEAD);
    tokio::task::spawn_blocking(move || {
        let walked = ["kv", "ns"].into_iter().try_for_each(|top| send_tree(&root, top.to_owned(), &sender));
        match walked.and_then(|()| root.check_not_removed().map_err(Stop::Failed)) {
            // Fails only if the other side is gone as well.
            Err(Stop::Failed(error)) => drop(sender.blocking_send(Err(error))),
            Ok(()) | Err(Stop::NobodyListens) => {}
        }
    });
    receiver
}

/// Begins to copy a store, see [`super::FilesystemAdapter::copy`].
pub(super) async fn copy(root: Arc<Root>) -> Result<(mpsc::Receiver<Result<StoredFile, Error>>, Changes), Error> {
    let noted = {
        // A write that is under way was not noted, and may not be seen yet.
        let _alone = root.exclusive().await;
        root.check_not_removed()?;
        root.notes.begin()
    };
    Ok((export(Arc::clone(&root)), Changes { root, noted }))
}

/// What is written to a store while it is copied.
#[derive(Debug)]
pub struct Changes {
    root: Arc<Root>,
    noted: Arc<Noted<String>>,
}

impl Changes {
    /// How many keys were written since the copy began and not taken yet.
    pub fn waiting(&self) -> usize {
        self.noted.len()
    }

    /// Takes at most so many of these keys, each as it is now; none: no key was written before this call that was not taken.
    /// Where it is given up before it ends, the keys that it had taken are lost to the copy.
    pub async fn next(&self, most: usize) -> Result<Vec<StoredChange>, Error> {
        let gate = self.root.enter().await?;
        let paths = self.noted.first(most)?;
        // Who writes one of these has done so, or will note it again.
        let held = self.root.lock_keys(paths.clone()).await;
        let (root, noted) = (Arc::clone(&self.root), Arc::clone(&self.noted));
        blocking(move || {
            let _locked = (gate, held);
            let now = |path: String| {
                noted.remove(&path);
                Ok(match root.read(&root.path().join(&path))? {
                    Some(content) => {
                        let file = StoredFile { path, content: content.into() };
                        file.check()?;
                        StoredChange::Is(file)
                    }
                    None => StoredChange::Gone(path),
                })
            };
            paths.into_iter().map(now).collect()
        })
        .await
    }
}

enum Stop {
    NobodyListens,
    Failed(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

fn send_tree(root: &Root, folder: String, sender: &mpsc::Sender<Result<StoredFile, Error>>) -> Result<(), Stop> {
    let absolute = root.path().join(&folder);
    let entries = match fs::read_dir(&absolute) {
        Err(error) if is_missing(&error) => return Ok(()),
        entries => entries.map_err(|error| failure("reading", &absolute, &error))?,
    };
    for entry in entries {
        let entry = entry.map_err(|error| failure("reading", &absolute, &error))?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let path = format!("{folder}/{name}");
        if entry.file_type().map_err(|error| failure("reading", &entry.path(), &error))?.is_dir() {
            send_tree(root, path, sender)?;
        } else if encoding::key_of_path(&path).is_some()
            && let Some(content) = root.read(&entry.path())?
        {
            let file = StoredFile { path, content: content.into() };
            file.check()?;
            sender.blocking_send(Ok(file)).map_err(|_| Stop::NobodyListens)?;
        }
    }
    Ok(())
}

/// A store being received, in `<root>.incoming` beside its future place.
#[derive(Debug)]
pub struct Import {
    root: PathBuf,
    incoming: PathBuf,
    /// Keeps a second import out, and becomes the store's own lock.
    lock: File,
}

impl Import {
    /// Begins an import of the store at `root`, with an empty folder: what an earlier, unfinished one left is removed.
    pub async fn begin(root: &Path) -> Result<Self, Error> {
        let root = std::path::absolute(root).map_err(|error| failure("resolving", root, &error))?;
        blocking(move || {
            let incoming = sibling(&root, "incoming");
            remove_tree(&incoming)?;
            fs::create_dir_all(&incoming).map_err(|error| failure("creating", &incoming, &error))?;
            let lock = lock_folder(&incoming)?;
            Ok(Self { root, incoming, lock })
        })
        .await
    }

    /// Where files are received. Files of the caller's own put here arrive in the store's folder with the others.
    pub fn folder(&self) -> &Path {
        &self.incoming
    }

    /// Receives some files. Not durable until [`Import::finish`].
    pub async fn write(&self, files: Vec<StoredFile>) -> Result<(), Error> {
        let incoming = self.incoming.clone();
        blocking(move || files.iter().try_for_each(|file| write_file(&incoming, file))).await
    }

    /// Removes what was received of some keys, if anything was, by their paths. Not durable either.
    pub async fn remove(&self, paths: Vec<String>) -> Result<(), Error> {
        let incoming = self.incoming.clone();
        blocking(move || {
            paths.iter().try_for_each(|path| {
                stored::parse(path)?;
                let path = incoming.join(path);
                match fs::remove_file(&path) {
                    Err(error) if !is_missing(&error) => Err(failure("removing", &path, &error)),
                    _ => Ok(()),
                }
            })
        })
        .await
    }

    /// Makes durable what was received so far, so that little is left to do at the end.
    pub async fn flush(&self) -> Result<(), Error> {
        let lock = self.lock.try_clone().map_err(|error| failure("flushing", &self.incoming, &error))?;
        let incoming = self.incoming.clone();
        blocking(move || syncfs(&lock).map_err(|errno| failure("flushing", &incoming, &errno.into()))).await
    }

    /// Makes all files durable and puts the store in its place, at once: a store that stands there is replaced and
    /// removed. After an error the old store may stand there or the new one; begin again.
    pub async fn finish(self) -> Result<(), Error> {
        let (path, opened) = (self.root.clone(), self.root.clone());
        let root = blocking(move || Root::open(&opened)).await?;
        let alone = root.exclusive().await;
        blocking(move || {
            let _alone = alone;
            root.check_not_removed()?;
            syncfs(&self.lock).map_err(|errno| failure("flushing", &self.incoming, &errno.into()))?;
            swap_in(&self.incoming, &path)?;
            root.replaced(self.lock);
            let parent = path.parent().unwrap_or(&path);
            sync_folder(parent).map_err(|error| failure("flushing", parent, &error))?;
            remove_tree(&self.incoming)
        })
        .await
    }

    /// Gives up: removes what was received.
    pub async fn discard(self) -> Result<(), Error> {
        blocking(move || remove_tree(&self.incoming)).await
    }
}

fn write_file(incoming: &Path, file: &StoredFile) -> Result<(), Error> {
    file.check()?;
    let path = incoming.join(&file.path);
    let written = match fs::write(&path, &file.content) {
        Err(error) if is_missing(&error) => {
            path.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| fs::write(&path, &file.content))
        }
        written => written,
    };
    written.map_err(|error| failure("writing", &path, &error))
}

/// Puts `incoming` at `place`; what was there is then at `incoming`, or nowhere.
fn swap_in(incoming: &Path, place: &Path) -> Result<(), Error> {
    let failed = |error: std::io::Error| failure("renaming to", place, &error);
    match renameat_with(CWD, incoming, CWD, place, RenameFlags::EXCHANGE) {
        Ok(()) => Ok(()),
        Err(Errno::NOENT) => fs::rename(incoming, place).map_err(failed),
        // A file system that can't exchange. A crash between the two steps loses only a copy: nobody was told yet that
        // it arrived, so whoever sent it still has it.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
            let removed = sibling(place, "removed");
            remove_tree(&removed)?;
            fs::rename(place, &removed).and_then(|()| fs::rename(incoming, place)).map_err(failed)?;
            remove_tree(&removed)
        }
        Err(errno) => Err(failed(errno.into())),
    }
}

/// Removes a store, see [`super::FilesystemAdapter::destroy`].
pub(super) async fn destroy(root: &Path) -> Result<(), Error> {
    let path = root.to_owned();
    let root = blocking(move || Root::open(&path)).await?;
    let alone = root.exclusive().await;
    blocking(move || {
        let _alone = alone;
        let (path, removed) = (root.path().to_owned(), sibling(root.path(), "removed"));
        remove_tree(&removed)?;
        // Out of its place in one step: a crash in the middle leaves no half store that looks like a whole one.
        match fs::rename(&path, &removed) {
            Err(error) if !is_missing(&error) => return Err(failure("renaming", &path, &error)),
            _ => root.mark_removed(),
        }
        // Also where it was gone already: perhaps by an earlier try that failed here.
        let parent = path.parent().unwrap_or(&path);
        sync_folder_if_there(parent)?;
        remove_tree(&removed)
    })
    .await
}

/// `<root>.<what>`, in the same folder.
fn sibling(root: &Path, what: &str) -> PathBuf {
    let mut name = root.as_os_str().to_owned();
    name.push(".");
    name.push(what);
    name.into()
}
