//! The data folder of a process that runs alone: who uses it, how many shards it has, and where each lies.
//!
//! ```text
//! <data>/.lock                   held by the process that uses the folder; its id is in it, for people
//! <data>/node.json               how many shards the data is spread over
//! <data>/shards/shard-NNN/       a shard
//! ```

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use brainy_coordination::{FencingToken, ShardId};
use brainy_storage::backends::filesystem::FilesystemAdapter;
use brainy_storage::layers::compression::Compression;
use brainy_storage::{Error, StorageAdapter};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::ownership::ShardStores;

/// Why a data folder can't be used.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// Another process has it.
    #[error("the data folder {folder} is in use by another process{}: stop it, or choose another folder with --data", process(*.pid))]
    InUse {
        /// The folder.
        folder: PathBuf,
        /// The other process, where it is known.
        pid: Option<u32>,
    },
    /// Files in it can't be made or read.
    #[error("the data folder {folder} can't be used: {doing}: {source}")]
    Unusable {
        /// The folder.
        folder: PathBuf,
        /// What failed.
        doing: &'static str,
        /// Why.
        source: io::Error,
    },
    /// Its data is spread over another number of shards.
    #[error(
        "the data folder {folder} was made with {found} shards, not {asked}: start with --shards {found}, or choose another folder with --data"
    )]
    OtherShards {
        /// The folder.
        folder: PathBuf,
        /// What it was made with.
        found: u32,
        /// What was asked for.
        asked: u32,
    },
}

fn process(pid: Option<u32>) -> String {
    pid.map_or_else(String::new, |pid| format!(" (process {pid})"))
}

/// A data folder that this process has for itself until it is dropped.
#[derive(Debug)]
pub struct DataFolder {
    path: PathBuf,
    compression: Option<Compression>,
    /// The kernel frees the lock when the process ends, however it ends.
    _lock: File,
}

#[derive(Serialize, Deserialize)]
struct NodeFile {
    shards: u32,
}

impl DataFolder {
    /// Takes a folder, which is made if it does not exist.
    pub fn take(path: &Path, shards: u32) -> Result<Self, FolderError> {
        let failed = |doing| move |source| FolderError::Unusable { folder: path.to_owned(), doing, source };
        fs::create_dir_all(path.join("shards")).map_err(failed("making it"))?;
        let lock = lock(path)?;
        let file = path.join("node.json");
        match fs::read(&file) {
            Ok(text) => {
                let found: NodeFile =
                    serde_json::from_slice(&text).map_err(io::Error::from).map_err(failed("reading node.json"))?;
                if found.shards != shards {
                    return Err(FolderError::OtherShards {
                        folder: path.to_owned(),
                        found: found.shards,
                        asked: shards,
                    });
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                write_durably(path, &file, &NodeFile { shards }).map_err(failed("writing node.json"))?;
            }
            Err(error) => return Err(failed("reading node.json")(error)),
        }
        Ok(Self { path: path.to_owned(), compression: None, _lock: lock })
    }

    /// Compresses what is written from now on.
    pub fn with_compression(self, compression: Option<Compression>) -> Self {
        Self { compression, ..self }
    }
}

fn lock(path: &Path) -> Result<File, FolderError> {
    let failed = |doing| move |source| FolderError::Unusable { folder: path.to_owned(), doing, source };
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path.join(".lock"))
        .map_err(failed("opening .lock"))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut holder = String::new();
            // Only for the message: a file that can't be read names nobody.
            let _ = file.read_to_string(&mut holder);
            return Err(FolderError::InUse { folder: path.to_owned(), pid: holder.trim().parse().ok() });
        }
        Err(error) => return Err(failed("locking it")(error.into())),
    }
    file.set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| writeln!(file, "{}", std::process::id()))
        .map_err(failed("writing .lock"))?;
    Ok(file)
}

/// All of the file or nothing of it, also after a power failure: it decides where every key lies.
fn write_durably(folder: &Path, file: &Path, content: &NodeFile) -> io::Result<()> {
    let beside = file.with_extension("json.new");
    let mut new = File::create(&beside)?;
    new.write_all(&serde_json::to_vec(content)?)?;
    new.sync_all()?;
    fs::rename(&beside, file)?;
    File::open(folder)?.sync_all()
}

impl ShardStores for DataFolder {
    fn open(&self, shard: ShardId, _token: FencingToken) -> Result<Arc<dyn StorageAdapter>, Error> {
        let folder = self.path.join("shards").join(format!("shard-{shard}"));
        Ok(Arc::new(FilesystemAdapter::open(&folder)?.with_compression(self.compression)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_in_use_is_refused_and_its_user_named() {
        let folder = tempfile::tempdir().unwrap();
        let first = DataFolder::take(folder.path(), 16).unwrap();
        let message = DataFolder::take(folder.path(), 16).unwrap_err().to_string();
        assert!(message.contains(&format!("(process {})", std::process::id())), "{message}");
        drop(first);
        assert!(DataFolder::take(folder.path(), 16).is_ok());
    }

    #[test]
    fn the_number_of_shards_of_a_folder_never_changes() {
        let folder = tempfile::tempdir().unwrap();
        drop(DataFolder::take(folder.path(), 16).unwrap());
        let message = DataFolder::take(folder.path(), 8).unwrap_err().to_string();
        assert!(message.contains("--shards 16"), "{message}");
        assert!(DataFolder::take(folder.path(), 16).is_ok());
    }

    #[test]
    fn a_folder_that_can_not_be_made_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(matches!(DataFolder::take(&file, 16), Err(FolderError::Unusable { .. })));
    }
}
