//! The engine's folder: who may use it, and how it comes to be.
//!
//! ```text
//! <folder>/.lock         held by the process that has the database open
//! <folder>/format.json   written once the first opening has succeeded: before, there is nothing worth keeping
//! <folder>/engine/       the engine's own files
//! ```

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use fjall::{Database, Keyspace};

use super::settings;
use crate::Error;
use crate::backends::filesystem::files::{Folders, PublishError, Temp, failure, read, remove_tree, sync_folder};
use crate::backends::filesystem::root::lock_folder;

const FORMAT_FILE: &str = "format.json";
const FORMAT: &[u8] = br#"{"engine":"fjall","format":1}"#;
/// What the engine writes last when it lays out a folder.
const ENGINE_MARK: &str = "version";

/// An engine that has just been opened.
pub(super) struct Opened {
    pub(super) folder: PathBuf,
    pub(super) lock: File,
    pub(super) database: Database,
    pub(super) data: Keyspace,
    /// Bytes that were read back from the journal into memory, about.
    pub(super) unflushed: u64,
}

/// Opens a folder, or lays out a new one. Blocks.
pub(super) fn open(folder: &Path) -> Result<Opened, Error> {
    let folder = std::path::absolute(folder).map_err(|error| failure("resolving", folder, &error))?;
    Folders::default().ensure(&folder, &folder)?;
    let lock = lock_folder(&folder)?;
    let engine = folder.join("engine");
    let is_new = !check_format(&folder, &engine)?;
    if is_new {
        // A first opening that did not end: nothing was ever acknowledged.
        remove_tree(&engine)?;
    }
    let unflushed = journal_bytes(&engine);
    let failed = |error| open_failure(&folder, error);
    let database = settings::database(&engine).open().map_err(failed)?;
    let data = database.keyspace("data", settings::keyspace).map_err(failed)?;
    if is_new {
        write_format(&folder)?;
    }
    Ok(Opened { folder, lock, database, data, unflushed })
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

/// Whether there is a database. Refuses one that this program can't read, or that has lost its files.
fn check_format(folder: &Path, engine: &Path) -> Result<bool, Error> {
    let path = folder.join(FORMAT_FILE);
    let corrupt = |problem: String| Err(Error::Corrupt { key: folder.display().to_string(), problem });
    match read(&path)? {
        None => Ok(false),
        Some(text) if text != FORMAT => corrupt(format!(
            "{FORMAT_FILE} says {:?}; this program reads {:?}",
            String::from_utf8_lossy(&text),
            String::from_utf8_lossy(FORMAT)
        )),
        Some(_) if !engine.join(ENGINE_MARK).exists() => corrupt("the files of its engine are gone".to_owned()),
        Some(_) => Ok(true),
    }
}

fn write_format(folder: &Path) -> Result<(), Error> {
    let path = folder.join(FORMAT_FILE);
    let beside = folder.join("format.json.new");
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failure("removing", &beside, &error)),
        _ => {}
    }
    Temp::write(beside, FORMAT)?.publish(&path).map_err(|error| match error {
        PublishError::Refused(error) | PublishError::Unknown(error) => error,
    })?;
    sync_folder(folder).map_err(|error| failure("flushing", folder, &error))
}

/// How much the engine will read back into memory.
fn journal_bytes(engine: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(engine) else { return 0 };
    // A journal begins as a hole of 64 MiB: only what is on the disk counts.
    let size = |entry: fs::DirEntry| {
        let is_journal = entry.path().extension().is_some_and(|extension| extension == "jnl");
        let metadata = entry.metadata().ok().filter(|_| is_journal)?;
        Some(std::os::unix::fs::MetadataExt::blocks(&metadata) * 512)
    };
    entries.flatten().filter_map(size).sum()
}
