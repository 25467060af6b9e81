//! The data folder of a process that runs alone: who uses it, how many shards it has, and where each lies.
//!
//! ```text
//! <data>/.lock                   held by the process that uses the folder; its id is in it, for people
//! <data>/node.json               how many shards the data is spread over, and in what it is kept
//! <data>/database/               all shards, in an embedded database
//! <data>/shards/shard-NNN/       or a shard, as files that people can read
//! ```

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use brainy_coordination::{FencingToken, ShardId};
use brainy_kubernetes::config::VolumeEngine;
use brainy_storage::backends::disk::Disk;
use brainy_storage::backends::embedded::EmbeddedDatabase;
use brainy_storage::backends::filesystem::FilesystemAdapter;
use brainy_storage::layers::compression::Compression;
use brainy_storage::{Error, StorageAdapter};
use clap::ValueEnum;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::ownership::ShardStores;

/// What a data folder or a volume keeps its data in. It never changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// An embedded database: many writers share one flush of the disk.
    Embedded,
    /// A file per key, for data that people want to see as files.
    Files,
}

impl From<VolumeEngine> for Engine {
    fn from(engine: VolumeEngine) -> Self {
        match engine {
            VolumeEngine::Embedded => Self::Embedded,
            VolumeEngine::Files => Self::Files,
        }
    }
}

impl Engine {
    /// As on the command line.
    fn name(self) -> &'static str {
        match self {
            Self::Embedded => "embedded",
            Self::Files => "files",
        }
    }

    /// As `GET /v1/storage` calls it.
    pub fn backend(self) -> &'static str {
        match self {
            Self::Embedded => "embedded",
            Self::Files => "filesystem",
        }
    }
}

/// What a data folder or a volume is. It never changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// What it keeps its data in.
    pub engine: Engine,
    /// It is the hot of two tiers: its data can't be read without the cold one.
    pub tiered: bool,
}

impl From<Engine> for Kind {
    fn from(engine: Engine) -> Self {
        Self { engine, tiered: false }
    }
}

/// Whether a folder is the hot of two tiers, in words.
pub(crate) fn tiers(tiered: bool) -> &'static str {
    if tiered { "as the hot of two tiers" } else { "alone, with no cold tier" }
}

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
    /// Its data is kept in something else.
    #[error(
        "the data folder {folder} keeps its data as `{}`, not `{}`: start without --engine, or choose another folder with --data",
        found.name(), asked.name()
    )]
    OtherEngine {
        /// The folder.
        folder: PathBuf,
        /// What it was made with.
        found: Engine,
        /// What was asked for.
        asked: Engine,
    },
    /// Its data is whole without a cold tier, or it is not.
    #[error(
        "the data folder {folder} keeps its data {}, and was asked for {}: start it as it was made, or choose another folder with --data",
        tiers(*.found), tiers(!*.found)
    )]
    OtherTiers {
        /// The folder.
        folder: PathBuf,
        /// It is the hot of two tiers.
        found: bool,
    },
    /// Its database can't be opened.
    #[error("the database in the data folder {folder} can't be opened: {source}")]
    Database {
        /// The folder.
        folder: PathBuf,
        /// Why.
        source: Error,
    },
}

fn process(pid: Option<u32>) -> String {
    pid.map_or_else(String::new, |pid| format!(" (process {pid})"))
}

/// A data folder that this process has for itself until it is dropped.
#[derive(Debug)]
pub struct DataFolder {
    data: Data,
    mark: Option<String>,
    compression: Option<Compression>,
    /// The kernel frees the lock when the process ends, however it ends. Declared last, so that it is given back last.
    _lock: File,
}

#[derive(Debug)]
enum Data {
    Embedded(EmbeddedDatabase),
    Files(PathBuf),
}

#[derive(Serialize, Deserialize)]
struct NodeFile {
    shards: u32,
    /// Folders of before there was a choice keep files.
    #[serde(default = "files")]
    engine: Engine,
    /// It is the hot of two tiers.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    tiered: bool,
    /// What tells this folder from every other one, where it has a cold tier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mark: Option<String>,
}

fn files() -> Engine {
    Engine::Files
}

impl DataFolder {
    /// Takes a folder, which is made if it does not exist: for this engine, or the embedded one if none is asked for.
    /// Blocks.
    pub fn take(path: &Path, shards: u32, engine: Option<Engine>) -> Result<Self, FolderError> {
        Self::take_as(path, shards, engine, false)
    }

    /// The same for the hot of two tiers.
    pub fn take_hot(path: &Path, shards: u32, engine: Option<Engine>) -> Result<Self, FolderError> {
        Self::take_as(path, shards, engine, true)
    }

    fn take_as(path: &Path, shards: u32, engine: Option<Engine>, tiered: bool) -> Result<Self, FolderError> {
        let folder = || path.to_owned();
        let failed = |doing| move |source| FolderError::Unusable { folder: folder(), doing, source };
        fs::create_dir_all(path).map_err(failed("making it"))?;
        let lock = lock(path)?;
        let file = path.join("node.json");
        let found = match fs::read(&file) {
            Ok(text) => serde_json::from_slice(&text).map_err(io::Error::from).map_err(failed("reading node.json"))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let engine = if holds_files(path) { Engine::Files } else { engine.unwrap_or(Engine::Embedded) };
                let mark = tiered.then(brainy_storage::chance::mark);
                let new = NodeFile { shards, engine, tiered, mark };
                write_durably(path, &file, &new).map_err(failed("writing node.json"))?;
                new
            }
            Err(error) => return Err(failed("reading node.json")(error)),
        };
        if found.shards != shards {
            return Err(FolderError::OtherShards { folder: folder(), found: found.shards, asked: shards });
        }
        if let Some(asked) = engine.filter(|asked| *asked != found.engine) {
            return Err(FolderError::OtherEngine { folder: folder(), found: found.engine, asked });
        }
        if found.tiered != tiered {
            return Err(FolderError::OtherTiers { folder: folder(), found: found.tiered });
        }
        let data = match found.engine {
            Engine::Files => Data::Files(path.join("shards")),
            Engine::Embedded => {
                let database = EmbeddedDatabase::open(&path.join("database"));
                Data::Embedded(database.map_err(|source| FolderError::Database { folder: folder(), source })?)
            }
        };
        Ok(Self { data, mark: found.mark, compression: None, _lock: lock })
    }

    /// Compresses what is written from now on.
    pub fn with_compression(self, compression: Option<Compression>) -> Self {
        Self { compression, ..self }
    }

    /// What tells it from every other folder, if it is the hot of two tiers.
    pub fn mark(&self) -> Option<&str> {
        self.mark.as_deref()
    }

    /// The disk that it is on.
    pub fn disk(&self) -> Disk {
        match &self.data {
            Data::Embedded(database) => database.disk(),
            // The folder itself may not be there yet.
            Data::Files(shards) => Disk::of(shards.parent().unwrap_or(shards), |_| 0),
        }
    }

    /// What it keeps its data in.
    pub fn engine(&self) -> Engine {
        match self.data {
            Data::Embedded(_) => Engine::Embedded,
            Data::Files(_) => Engine::Files,
        }
    }
}

/// Whether there are shards as files, whatever else is missing.
fn holds_files(path: &Path) -> bool {
    fs::read_dir(path.join("shards")).is_ok_and(|mut shards| shards.next().is_some())
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
        let name = format!("shard-{shard}");
        Ok(match &self.data {
            Data::Embedded(database) => Arc::new(database.store(&name)?.with_compression(self.compression)),
            Data::Files(folder) => {
                Arc::new(FilesystemAdapter::open(&folder.join(name))?.with_compression(self.compression))
            }
        })
    }

    fn failure(&self) -> Option<Error> {
        match &self.data {
            Data::Embedded(database) => database.failure(),
            Data::Files(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_in_use_is_refused_and_its_user_named() {
        let folder = tempfile::tempdir().unwrap();
        let first = DataFolder::take(folder.path(), 16, None).unwrap();
        let message = DataFolder::take(folder.path(), 16, None).unwrap_err().to_string();
        assert!(message.contains(&format!("(process {})", std::process::id())), "{message}");
        drop(first);
        assert!(DataFolder::take(folder.path(), 16, None).is_ok());
    }

    #[test]
    fn the_number_of_shards_of_a_folder_never_changes() {
        let folder = tempfile::tempdir().unwrap();
        drop(DataFolder::take(folder.path(), 16, None).unwrap());
        let message = DataFolder::take(folder.path(), 8, None).unwrap_err().to_string();
        assert!(message.contains("--shards 16"), "{message}");
        assert!(DataFolder::take(folder.path(), 16, None).is_ok());
    }

    #[test]
    fn a_folder_that_can_not_be_made_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(matches!(DataFolder::take(&file, 16, None), Err(FolderError::Unusable { .. })));
    }

    #[test]
    fn a_new_folder_is_a_database_unless_files_are_asked_for() {
        for (asked, engine, made) in [
            (None, Engine::Embedded, "database"),
            (Some(Engine::Embedded), Engine::Embedded, "database"),
            (Some(Engine::Files), Engine::Files, "shards"),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let taken = DataFolder::take(folder.path(), 16, asked).unwrap();
            let shard = ShardStores::open(&taken, ShardId(7), FencingToken(1)).unwrap();
            let key = brainy_storage::Key::new("k").unwrap();
            let runtime = tokio::runtime::Runtime::new().unwrap();
            let set = shard.set(&key, brainy_storage::Value::Json(1.into()));
            assert!(runtime.block_on(set).unwrap().applied().is_some());
            drop((shard, taken));
            assert!(folder.path().join(made).is_dir(), "{asked:?}");
            assert_eq!(DataFolder::take(folder.path(), 16, None).unwrap().engine(), engine);
        }
    }

    #[test]
    fn a_folder_of_before_there_was_a_choice_goes_on_as_files() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("node.json"), r#"{"shards":16}"#).unwrap();
        assert_eq!(DataFolder::take(folder.path(), 16, None).unwrap().engine(), Engine::Files);
        assert!(!folder.path().join("database").exists());
        fs::remove_file(folder.path().join("node.json")).unwrap();
        fs::create_dir_all(folder.path().join("shards/shard-007")).unwrap();
        assert_eq!(DataFolder::take(folder.path(), 16, None).unwrap().engine(), Engine::Files);
    }

    #[test]
    fn the_engine_of_a_folder_never_changes() {
        let folder = tempfile::tempdir().unwrap();
        drop(DataFolder::take(folder.path(), 16, Some(Engine::Files)).unwrap());
        let message = DataFolder::take(folder.path(), 16, Some(Engine::Embedded)).unwrap_err().to_string();
        assert!(message.contains("`files`") && message.contains("`embedded`"), "{message}");
        assert!(message.contains("without --engine"), "{message}");
        assert_eq!(DataFolder::take(folder.path(), 16, None).unwrap().engine(), Engine::Files);
    }

    #[test]
    fn a_folder_is_the_hot_of_two_tiers_or_whole_by_itself_and_never_changes() {
        for tiered in [false, true] {
            let folder = tempfile::tempdir().unwrap();
            let taken = DataFolder::take_as(folder.path(), 16, None, tiered).unwrap();
            let mark = taken.mark().map(str::to_owned);
            assert_eq!(mark.is_some(), tiered);
            drop(taken);
            let message = DataFolder::take_as(folder.path(), 16, None, !tiered).unwrap_err().to_string();
            assert!(message.contains(tiers(tiered)) && message.contains("another folder"), "{message}");
            let again = DataFolder::take_as(folder.path(), 16, None, tiered).unwrap();
            assert_eq!(again.mark().map(str::to_owned), mark);
        }
    }

    #[test]
    fn a_database_that_is_damaged_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        drop(DataFolder::take(folder.path(), 16, None).unwrap());
        fs::remove_dir_all(folder.path().join("database/engine")).unwrap();
        assert!(matches!(DataFolder::take(folder.path(), 16, None), Err(FolderError::Database { .. })));
    }
}
