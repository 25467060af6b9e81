//! A volume whose shards are folders of files.
//!
//! ```text
//! <folder>/shards/shard-NNN/      a shard; `shard.json` in it is its stamp
//! <folder>/received/shard-NNN/    a received copy, stamped in the same way
//! ```
//!
//! A folder without a stamp is no shard.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use brainy_coordination::ShardId;
use brainy_storage::backends::disk::Disk;
use brainy_storage::backends::filesystem::{self, FilesystemAdapter, Import};
use brainy_storage::backends::stored::{StoredChange, StoredFile};
use brainy_storage::layers::compression::Compression;
use brainy_storage::{Error, StorageAdapter};

use super::folder::{failed, sync_folder, write_durably};
use super::{Changes, Export, Receiving, Shards, Stamp, blocking};

/// The stamp of a shard, in its folder.
const STAMP: &str = "shard.json";

#[derive(Clone, Debug)]
pub(super) struct Files {
    stored: PathBuf,
    received: PathBuf,
}

impl Files {
    /// Opens what is there. Blocks.
    pub(super) fn open(folder: &Path) -> Result<Self, Error> {
        let (stored, received) = (folder.join("shards"), folder.join("received"));
        for folder in [&stored, &received] {
            fs::create_dir_all(folder).map_err(|error| failed("making", folder, &error))?;
        }
        for folder in [&stored, &received, &folder.to_owned()] {
            sync_folder(folder)?;
        }
        Ok(Self { stored, received })
    }

    fn stored_folder(&self, shard: ShardId) -> PathBuf {
        self.stored.join(format!("shard-{shard}"))
    }

    fn received_folder(&self, shard: ShardId) -> PathBuf {
        self.received.join(format!("shard-{shard}"))
    }

    async fn adapter(&self, shard: ShardId) -> Result<FilesystemAdapter, Error> {
        let folder = self.stored_folder(shard);
        blocking(move || FilesystemAdapter::open(&folder)).await
    }
}

#[async_trait]
impl Shards for Files {
    async fn stamps(&self) -> Result<(Vec<Stamp>, Vec<Stamp>), Error> {
        let (stored, received) = (self.stored.clone(), self.received.clone());
        blocking(move || Ok((scan(&stored)?, scan(&received)?))).await
    }

    async fn open(&self, shard: ShardId, compression: Option<Compression>) -> Result<Arc<dyn StorageAdapter>, Error> {
        Ok(Arc::new(self.adapter(shard).await?.with_compression(compression)))
    }

    async fn copy(&self, shard: ShardId) -> Result<(Export, Box<dyn Changes>), Error> {
        let (files, changes) = self.adapter(shard).await?.copy().await?;
        Ok((files, Box::new(changes)))
    }

    async fn stamp(&self, stamp: Stamp) -> Result<(), Error> {
        let (stored, folder) = (self.stored.clone(), self.stored_folder(stamp.shard));
        blocking(move || {
            fs::create_dir_all(&folder).map_err(|error| failed("making", &folder, &error))?;
            write_durably(&folder, STAMP, &stamp)?;
            sync_folder(&stored)
        })
        .await
    }

    async fn receive(&self, shard: ShardId) -> Result<Box<dyn Receiving>, Error> {
        Ok(Box::new(Import::begin(&self.received_folder(shard)).await?))
    }

    /// The copy's own stamp comes with it.
    async fn promote(&self, stamp: Stamp) -> Result<(), Error> {
        let (stored, received) = (self.stored_folder(stamp.shard), self.received_folder(stamp.shard));
        FilesystemAdapter::destroy(&stored).await?;
        let (shards, receiving) = (self.stored.clone(), self.received.clone());
        blocking(move || {
            fs::rename(&received, &stored).map_err(|error| failed("renaming", &received, &error))?;
            sync_folder(&shards)?;
            sync_folder(&receiving)
        })
        .await
    }

    async fn discard_received(&self, shard: ShardId) -> Result<(), Error> {
        FilesystemAdapter::destroy(&self.received_folder(shard)).await
    }

    async fn discard_stored(&self, shard: ShardId) -> Result<(), Error> {
        FilesystemAdapter::destroy(&self.stored_folder(shard)).await
    }

    /// A file that can't be written says nothing of the next one.
    fn failure(&self) -> Option<Error> {
        None
    }

    fn disk(&self) -> Option<Disk> {
        Some(Disk::of(&self.stored, |_| 0))
    }
}

#[async_trait]
impl Changes for filesystem::Changes {
    fn waiting(&self) -> usize {
        Self::waiting(self)
    }

    async fn next(&self, most: usize) -> Result<Vec<StoredChange>, Error> {
        Self::next(self, most).await
    }
}

#[async_trait]
impl Receiving for Import {
    async fn write(&self, files: Vec<StoredFile>) -> Result<(), Error> {
        Import::write(self, files).await
    }

    async fn remove(&self, paths: Vec<String>) -> Result<(), Error> {
        Import::remove(self, paths).await
    }

    async fn flush(&self) -> Result<(), Error> {
        Import::flush(self).await
    }

    async fn finish(self: Box<Self>, stamp: Stamp) -> Result<(), Error> {
        let path = self.folder().join(STAMP);
        // Flushed with everything else when the import finishes.
        blocking(move || {
            let text = serde_json::to_vec(&stamp).map_err(|error| failed("writing", &path, &error.into()))?;
            fs::write(&path, text).map_err(|error| failed("writing", &path, &error))
        })
        .await?;
        Import::finish(*self).await
    }

    async fn discard(self: Box<Self>) -> Result<(), Error> {
        Import::discard(*self).await
    }
}

/// The stamped shards below a folder. What a crash left half done beside them is removed.
fn scan(parent: &Path) -> Result<Vec<Stamp>, Error> {
    let mut found = Vec::new();
    for entry in fs::read_dir(parent).map_err(|error| failed("reading", parent, &error))? {
        let path = entry.map_err(|error| failed("reading", parent, &error))?.path();
        let stamp_path = path.join(STAMP);
        match fs::read(&stamp_path) {
            Ok(text) => {
                let stamp: Stamp = serde_json::from_slice(&text).map_err(|error| Error::Corrupt {
                    key: stamp_path.display().to_string(),
                    problem: error.to_string(),
                })?;
                if path.file_name().is_some_and(|name| *name == *format!("shard-{}", stamp.shard)) {
                    found.push(stamp);
                    continue;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed("reading", &stamp_path, &error)),
        }
        // Without a stamp of its own it was never anyone's shard, or is none any more: a copy that did not arrive, or
        // what was being removed.
        fs::remove_dir_all(&path).map_err(|error| failed("removing", &path, &error))?;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_a_crash_left_without_a_stamp_is_no_shard() {
        let data = tempfile::tempdir().unwrap();
        let files = Files::open(data.path()).unwrap();
        let half = data.path().join("received/shard-007.incoming/kv");
        fs::create_dir_all(&half).unwrap();
        assert_eq!(files.stamps().await.unwrap(), (vec![], vec![]));
        assert!(!half.exists());
    }
}
