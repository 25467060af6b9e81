//! The engine's folder: who may use it, and how it comes to be.
//!
//! ```text
//! <folder>/.lock         held by the process that has the database open
//! <folder>/format.json   written once the first opening has succeeded: before, there is nothing worth keeping
//! <folder>/suspect       there after a failure: see `renew_journals`
//! <folder>/engine/       the engine's own files
//! <folder>/values/       values that have files of their own
//! ```

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use fjall::{Database, Keyspace};
use rustix::fs::statvfs;

use super::settings;
use crate::Error;
use crate::backends::filesystem::files::{
    Folders, PublishError, Temp, failure, read, remove_tree, sync_folder, sync_folder_if_there,
};
use crate::backends::filesystem::root::lock_folder;

const FORMAT_FILE: &str = "format.json";
const VALUES: &str = "values";
const SUSPECT_FILE: &str = "suspect";
const JOURNAL_EXTENSION: &str = "jnl";
/// Of a journal that is copied, at a time.
const COPIED_BYTES: usize = 256 << 10;
const FORMAT: &[u8] = br#"{"engine":"fjall","format":2}"#;
/// Without names of keys: they are made once it is open.
const FORMER: &[u8] = br#"{"engine":"fjall","format":1}"#;
/// What the engine writes last when it lays out a folder.
const ENGINE_MARK: &str = "version";

/// An engine that has just been opened.
pub(super) struct Opened {
    pub(super) folder: PathBuf,
    pub(super) lock: File,
    pub(super) database: Database,
    pub(super) data: Keyspace,
    /// The folder of the values' files.
    pub(super) values: PathBuf,
    /// Bytes that were read back from the journal into memory, about.
    pub(super) unflushed: u64,
    /// Why nothing may be written to it.
    pub(super) refused: Option<Error>,
}

/// Opens a folder, or lays out a new one. Blocks.
pub(super) fn open(folder: &Path) -> Result<Opened, Error> {
    let folder = std::path::absolute(folder).map_err(|error| failure("resolving", folder, &error))?;
    Folders::default().ensure(&folder)?;
    let lock = lock_folder(&folder)?;
    let engine = folder.join("engine");
    let found = check_format(&folder, &engine)?;
    if found == Found::Nothing {
        // A first opening that did not end: nothing was ever acknowledged.
        remove_tree(&engine)?;
    }
    // It can be read all the same.
    let refused = renew_journals(&folder, &engine).err();
    let unflushed = journal_bytes(&engine);
    let failed = |error| {
        // It may have been a flush.
        suspect(&folder);
        open_failure(&folder, error)
    };
    let disk = disk_bytes(&folder)?;
    let database = settings::database(&engine).open().map_err(failed)?;
    let data = database.keyspace("data", || settings::keyspace(disk)).map_err(failed)?;
    flush_folders(&engine).map_err(|error| failure("flushing", &engine, &error))?;
    let values = folder.join(VALUES);
    make_folder(&values)?;
    let flush = || sync_folder(&folder).map_err(|error| failure("flushing", &folder, &error));
    flush()?;
    if found != Found::Ours {
        // It says that there is an engine: which must be there then, also after a power failure. And a program that names no
        // keys must not write to it any more.
        write_format(&folder)?;
        flush()?;
    }
    Ok(Opened { folder, lock, database, data, values, unflushed, refused })
}

/// There was none before values had files.
fn make_folder(folder: &Path) -> Result<(), Error> {
    match fs::create_dir(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(failure("making", folder, &error)),
        _ => Ok(()),
    }
}

/// The size of the disk.
fn disk_bytes(folder: &Path) -> Result<u64, Error> {
    let disk = statvfs(folder).map_err(|errno| failure("examining", folder, &errno.into()))?;
    Ok(disk.f_blocks.saturating_mul(disk.f_frsize))
}

/// A failure of the engine in our words.
pub(super) fn engine_failure(doing: &str, folder: &Path, error: &fjall::Error) -> Error {
    match error {
        fjall::Error::Io(error) | fjall::Error::Storage(fjall::LsmError::Io(error)) => failure(doing, folder, error),
        error => Error::Corrupt { key: folder.display().to_string(), problem: format!("{doing} it: {error}") },
    }
}

fn open_failure(folder: &Path, error: fjall::Error) -> Error {
    match error {
        fjall::Error::Locked => Error::unavailable("InUse", format!("another process works in {}", folder.display())),
        error => engine_failure("opening", folder, &error),
    }
}

/// What was there before this opening.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Found {
    Nothing,
    /// A database as earlier versions laid it out.
    Former,
    Ours,
}

/// Whether there is a database. Refuses one that this program can't read, or that has lost its files.
fn check_format(folder: &Path, engine: &Path) -> Result<Found, Error> {
    let path = folder.join(FORMAT_FILE);
    let corrupt = |problem: String| Err(Error::Corrupt { key: folder.display().to_string(), problem });
    match read(&path)? {
        None => Ok(Found::Nothing),
        Some(text) if text != FORMAT && text != FORMER => corrupt(format!(
            "{FORMAT_FILE} says {:?}; this program reads {:?}",
            String::from_utf8_lossy(&text),
            String::from_utf8_lossy(FORMAT)
        )),
        Some(_) if !engine.join(ENGINE_MARK).exists() => corrupt("the files of its engine are gone".to_owned()),
        Some(text) => Ok(if text == FORMAT { Found::Ours } else { Found::Former }),
    }
}

/// Flushes a folder and those in it. The engine flushes what it lays out, but not all of the folders that this is in; and an
/// earlier life may have ended, or failed, before it did.
fn flush_folders(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            flush_folders(&entry.path())?;
        }
    }
    sync_folder(folder)
}

fn write_format(folder: &Path) -> Result<(), Error> {
    let path = folder.join(FORMAT_FILE);
    let beside = folder.join("format.json.new");
    remove_file(&beside)?;
    publish(Temp::write(beside, FORMAT)?, &path)
}

/// Notes that a journal may not be on the disk as it reads.
pub(super) fn suspect(folder: &Path) {
    // Need not be flushed: what it is about ends with the machine as well.
    if let Err(error) = File::create(folder.join(SUSPECT_FILE)) {
        tracing::error!(folder = %folder.display(), %error, "noting that the journal has to be written anew");
    }
}

/// Writes the journals anew, if an earlier life noted that they are suspect. After a flush that failed the kernel keeps what
/// it could not write, takes it for written, and never tries again: it is read back until the machine stops, and then there
/// is a hole in the journal, with what was acknowledged since behind it.
fn renew_journals(folder: &Path, engine: &Path) -> Result<(), Error> {
    let mark = folder.join(SUSPECT_FILE);
    if !mark.exists() {
        return Ok(());
    }
    for journal in journals(engine).map_err(|error| failure("reading", engine, &error))? {
        let beside = journal.with_extension("new");
        remove_file(&beside)?;
        let copy = |to: &mut File| copy_anew(&mut File::open(&journal)?, to);
        publish(Temp::fill(beside, copy)?, &journal)?;
    }
    sync_folder_if_there(engine)?;
    remove_file(&mark)
}

/// Copies byte by byte: what the kernel offers for it may share the very blocks that are in doubt. Holes stay holes.
fn copy_anew(from: &mut File, to: &mut File) -> io::Result<()> {
    let mut piece = vec![0; COPIED_BYTES];
    loop {
        let length = from.read(&mut piece)?;
        if length == 0 {
            let end = to.stream_position()?;
            return to.set_len(end);
        }
        if piece[..length].iter().all(|byte| *byte == 0) {
            to.seek(SeekFrom::Current(length as i64))?;
        } else {
            to.write_all(&piece[..length])?;
        }
    }
}

fn remove_file(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failure("removing", path, &error)),
        _ => Ok(()),
    }
}

fn publish(temp: Temp, place: &Path) -> Result<(), Error> {
    temp.publish(place).map_err(|error| match error {
        PublishError::Refused(error) | PublishError::Unknown(error) => error,
    })
}

/// The engine's journals. None, if there is no engine yet.
fn journals(engine: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(engine) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let is_journal = |path: &PathBuf| path.extension().is_some_and(|extension| extension == JOURNAL_EXTENSION);
    let mut found = Vec::new();
    for entry in entries {
        found.extend(Some(entry?.path()).filter(is_journal));
    }
    Ok(found)
}

/// How much the engine will read back into memory.
fn journal_bytes(engine: &Path) -> u64 {
    let Ok(journals) = journals(engine) else { return 0 };
    // A journal begins as a hole of 64 MiB: only what is on the disk counts.
    let size = |path: &PathBuf| {
        fs::metadata(path).map(|metadata| std::os::unix::fs::MetadataExt::blocks(&metadata) * 512).unwrap_or(0)
    };
    journals.iter().map(size).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_that_is_suspect_is_another_file_with_the_same_content() {
        let folder = tempfile::tempdir().unwrap();
        let engine = folder.path().join("engine");
        fs::create_dir(&engine).unwrap();
        let (journal, other) = (engine.join("3.jnl"), engine.join("lock"));
        // Pieces with and without content, and a hole at its end.
        let content =
            [vec![1; COPIED_BYTES + 5], vec![0; 2 * COPIED_BYTES], vec![2; 7], vec![0; COPIED_BYTES]].concat();
        fs::write(&journal, &content).unwrap();
        fs::write(&other, "x").unwrap();
        let number = |path: &Path| std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).unwrap());
        let before = [number(&journal), number(&other)];
        renew_journals(folder.path(), &engine).unwrap();
        assert_eq!([number(&journal), number(&other)], before, "without suspicion nothing is done");

        suspect(folder.path());
        // What an earlier try left is in nobody's way.
        fs::write(engine.join("3.new"), "half").unwrap();
        renew_journals(folder.path(), &engine).unwrap();
        assert_eq!(fs::read(&journal).unwrap(), content);
        assert_ne!(number(&journal), before[0]);
        assert_eq!(number(&other), before[1]);
        assert_eq!(fs::read_dir(&engine).unwrap().count(), 2);
        assert!(!folder.path().join(SUSPECT_FILE).exists());
    }
}
