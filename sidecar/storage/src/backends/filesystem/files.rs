//! Durable steps on files and folders. All of them block.
//!
//! A file is written beside its place, flushed, and renamed into it, or exchanged with what is there: a reader sees the old
//! content or the new, never a part. The new name itself is durable once the folder is flushed.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use crate::Error;

/// Folders remembered as durable; beyond that the memory starts anew.
const REMEMBERED_FOLDERS: usize = 4096;

/// What went wrong with a file, in the words of [`Error::Unavailable`].
pub(in crate::backends) fn failure(doing: &str, path: &Path, error: &io::Error) -> Error {
    let cause = match Errno::from_io_error(error) {
        Some(Errno::NOSPC | Errno::DQUOT) => "DiskFull",
        Some(Errno::ROFS) => "ReadOnly",
        Some(Errno::ACCESS | Errno::PERM) => "AccessDenied",
        Some(Errno::MFILE | Errno::NFILE) => "TooManyOpenFiles",
        _ => "Filesystem",
    };
    Error::unavailable(cause, format!("{doing} {}: {error}", path.display()))
}

/// The content of a file; `None` if there is none.
pub(in crate::backends) fn read(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if is_missing(&error) => Ok(None),
        Err(error) => Err(failure("reading", path, &error)),
    }
}

/// Whether an error says that there is nothing at a path.
pub(super) fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

/// Whether the kernel refused to change a folder before it did anything. After a failure of the disk nobody knows.
pub(super) fn is_refusal(error: &io::Error) -> bool {
    Errno::from_io_error(error).is_some_and(|errno| errno != Errno::IO)
}

/// Flushes a folder: what was created, renamed or removed in it is durable.
pub(in crate::backends) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// The same for a folder that may be missing: then there is nothing to flush.
pub(in crate::backends) fn sync_folder_if_there(folder: &Path) -> Result<(), Error> {
    match sync_folder(folder) {
        Err(error) if !is_missing(&error) => Err(failure("flushing", folder, &error)),
        _ => Ok(()),
    }
}

/// Removes a folder and all in it; it may be missing.
pub(in crate::backends) fn remove_tree(folder: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(folder) {
        Ok(()) => Ok(()),
        Err(error) if is_missing(&error) => Ok(()),
        Err(error) => Err(failure("removing", folder, &error)),
    }
}

/// A file that is written and flushed, but not yet in its place. Dropping it removes it.
#[derive(Debug)]
pub(in crate::backends) struct Temp {
    path: Option<PathBuf>,
}

impl Temp {
    /// Writes and flushes a new file. A failure leaves nothing behind.
    pub(in crate::backends) fn write(path: PathBuf, bytes: &[u8]) -> Result<Self, Error> {
        Self::fill(path, |file| file.write_all(bytes))
    }

    /// The same, where the content is written piece by piece.
    pub(in crate::backends) fn fill(
        path: PathBuf,
        write: impl FnOnce(&mut File) -> io::Result<()>,
    ) -> Result<Self, Error> {
        let result = Self::create(&path).and_then(|mut file| {
            let temp = Self { path: Some(path.clone()) };
            write(&mut file)?;
            file.sync_all()?;
            Ok(temp)
        });
        result.map_err(|error| failure("writing", &path, &error))
    }

    /// Writes and flushes a file that is there already and that nobody reads, in place of all that it holds. Cheaper than a
    /// new one: nothing of the file system's own has to be flushed where the length stays.
    pub(super) fn rewrite(self, bytes: &[u8]) -> Result<Self, Error> {
        let Some(path) = self.path.as_deref() else { return Ok(self) };
        let write = || {
            let file = OpenOptions::new().write(true).open(path)?;
            file.write_all_at(bytes, 0)?;
            let length = bytes.len() as u64;
            if file.metadata()?.len() != length {
                file.set_len(length)?;
            }
            file.sync_data()
        };
        write().map_err(|error| failure("writing", path, &error))?;
        Ok(self)
    }

    /// How long it is.
    pub(super) fn length(&self) -> io::Result<u64> {
        self.path.as_deref().map_or(Ok(0), |path| Ok(fs::metadata(path)?.len()))
    }

    /// Removes it later, or never: somebody else does.
    pub(super) fn forget(mut self) {
        self.path = None;
    }

    fn create(path: &Path) -> io::Result<File> {
        let create = || OpenOptions::new().write(true).create_new(true).open(path);
        match create() {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                if let Some(folder) = path.parent() {
                    // Holds nothing that must outlive a crash, so it need not be durable.
                    fs::create_dir_all(folder)?;
                }
                create()
            }
            created => created,
        }
    }

    /// Puts the file in its place, where a file stands already, and takes that one: until the folder is flushed, which is left
    /// to the caller, a crash may put it back. `None`: it can't be had; the file system only replaces.
    pub(super) fn exchange(self, place: &Path) -> Result<Option<Self>, PublishError> {
        let Some(temp) = self.path.as_deref() else { return Ok(None) };
        match renameat_with(CWD, temp, CWD, place, RenameFlags::EXCHANGE) {
            Ok(()) => Ok(Some(self)),
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => self.publish(place).map(|()| None),
            Err(errno) => Err(not_published(place, &errno.into())),
        }
    }

    /// Puts the file in its place. The folder must exist, and is left to the caller to flush.
    pub(in crate::backends) fn publish(mut self, place: &Path) -> Result<(), PublishError> {
        let Some(temp) = self.path.as_deref() else { return Ok(()) };
        match fs::rename(temp, place) {
            Ok(()) => {
                self.path = None;
                Ok(())
            }
            Err(error) => Err(not_published(place, &error)),
        }
    }
}

fn not_published(place: &Path, error: &io::Error) -> PublishError {
    let failed = failure("renaming to", place, error);
    if is_refusal(error) { PublishError::Refused(failed) } else { PublishError::Unknown(failed) }
}

impl Drop for Temp {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            // If it fails, the next opening of the root removes it.
            let _ = fs::remove_file(path);
        }
    }
}

/// Why a file did not get to its place.
#[derive(Debug)]
pub(in crate::backends) enum PublishError {
    /// It certainly is not there.
    Refused(Error),
    /// It may be there.
    Unknown(Error),
}

/// Makes folders durable, each once.
#[derive(Debug, Default)]
pub(in crate::backends) struct Folders(Mutex<HashSet<PathBuf>>);

impl Folders {
    /// Creates a folder with all its parents, durably: each parent is flushed, up to where the file system is mounted. Also
    /// those of folders that were there already, because an earlier life may have ended before it did so.
    pub(in crate::backends) fn ensure(&self, folder: &Path) -> Result<(), Error> {
        // Held throughout: a second writer must not go on before the folder it shares is durable.
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.contains(folder) {
            return Ok(());
        }
        if known.len() >= REMEMBERED_FOLDERS {
            known.clear();
        }
        let doubtful = folder.ancestors().take_while(|ancestor| !known.contains(*ancestor) && !is_mounted(ancestor));
        for ancestor in doubtful.collect::<Vec<_>>().into_iter().rev() {
            let Some(parent) = ancestor.parent().filter(|parent| !parent.as_os_str().is_empty()) else { continue };
            let is_new = match fs::create_dir(ancestor) {
                Ok(()) => true,
                Err(error) if error.kind() == ErrorKind::AlreadyExists => false,
                Err(error) => return Err(failure("creating", ancestor, &error)),
            };
            match sync_folder(parent) {
                Err(error) if is_new || !is_foreign(&error) => return Err(failure("flushing", parent, &error)),
                _ => drop(known.insert(ancestor.to_owned())),
            }
        }
        Ok(())
    }

    /// Forgets all: the tree below has been replaced.
    pub(super) fn forget(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// Whether a file system is mounted on a folder: then its name is not in its parent.
fn is_mounted(folder: &Path) -> bool {
    let device = |folder: &Path| fs::metadata(folder).map(|metadata| metadata.dev()).ok();
    match (device(folder), folder.parent().and_then(device)) {
        (Some(own), Some(parents)) => own != parents,
        _ => false,
    }
}

/// Whether a folder can't be flushed because it is one that this process could not have changed.
fn is_foreign(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unpublished_file_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tmp/a");
        let temp = Temp::write(path.clone(), b"x").unwrap();
        assert!(path.exists());
        drop(temp);
        assert!(!path.exists());
    }

    #[test]
    fn a_file_that_cant_be_published_is_refused_and_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tmp/a");
        let temp = Temp::write(path.clone(), b"x").unwrap();
        let refused = temp.publish(&folder.path().join("no-such-folder/a")).unwrap_err();
        assert!(matches!(refused, PublishError::Refused(_)), "{refused:?}");
        assert!(!path.exists());
    }

    #[test]
    fn a_full_disk_is_named_as_such() {
        let full = io::Error::from(Errno::NOSPC);
        let error = failure("writing", Path::new("/a"), &full);
        assert!(matches!(error, Error::Unavailable { ref cause, .. } if cause == "DiskFull"), "{error:?}");
    }

    #[test]
    fn a_full_device_fails_cleanly() {
        // /dev/full accepts an open and refuses each write with ENOSPC.
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/dev/full", folder.path().join("full")).unwrap();
        let mut file = OpenOptions::new().write(true).open(folder.path().join("full")).unwrap();
        let error = file.write_all(b"x").unwrap_err();
        let error = failure("writing", folder.path(), &error);
        assert!(matches!(error, Error::Unavailable { ref cause, .. } if cause == "DiskFull"), "{error:?}");
    }

    #[test]
    fn folders_are_created_with_all_their_parents() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("a/b/kv/c+");
        let folders = Folders::default();
        folders.ensure(&deep).unwrap();
        folders.ensure(&deep).unwrap();
        assert!(deep.is_dir());
    }
}
