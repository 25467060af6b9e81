//! A volume whose shards are stores of one embedded database: `shards/shard-NNN`, and `received/shard-NNN` for a received
//! copy. The stamp is the store's own, changed in one with what it is about; a store without one is no shard.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use brainy_coordination::ShardId;
use brainy_storage::backends::disk::Disk;
use brainy_storage::backends::embedded::{self, EmbeddedDatabase, Import};
use brainy_storage::backends::stored::{StoredChange, StoredFile};
use brainy_storage::layers::compression::Compression;
use brainy_storage::{Error, StorageAdapter};

use super::{Changes, Export, Receiving, Shards, Stamp};

#[derive(Debug)]
pub(super) struct Database(EmbeddedDatabase);

fn stored(shard: ShardId) -> String {
    format!("shards/shard-{shard}")
}

fn received(shard: ShardId) -> String {
    format!("received/shard-{shard}")
}

impl Database {
    /// Opens it, or makes a new one. Blocks.
    pub(super) fn open(folder: &Path) -> Result<Self, Error> {
        EmbeddedDatabase::open(&folder.join("database")).map(Self)
    }
}

fn text(stamp: &Stamp) -> Result<String, Error> {
    serde_json::to_string(stamp).map_err(|error| Error::invalid("stamp", error.to_string()))
}

#[async_trait]
impl Shards for Database {
    async fn stamps(&self) -> Result<(Vec<Stamp>, Vec<Stamp>), Error> {
        let (mut here, mut copies) = (Vec::new(), Vec::new());
        for (name, noted) in self.0.stamps().await? {
            let stamp: Option<Stamp> = match noted.as_deref().map(serde_json::from_str).transpose() {
                Ok(stamp) => stamp,
                Err(error) => return Err(Error::Corrupt { key: name, problem: error.to_string() }),
            };
            match stamp {
                Some(stamp) if name == stored(stamp.shard) => here.push(stamp),
                Some(stamp) if name == received(stamp.shard) => copies.push(stamp),
                // It was never anyone's shard.
                _ => self.0.destroy(&name).await?,
            }
        }
        Ok((here, copies))
    }

    async fn open(&self, shard: ShardId, compression: Option<Compression>) -> Result<Arc<dyn StorageAdapter>, Error> {
        Ok(Arc::new(self.0.store(&stored(shard))?.with_compression(compression)))
    }

    async fn copy(&self, shard: ShardId) -> Result<(Export, Box<dyn Changes>), Error> {
        let (files, changes) = self.0.store(&stored(shard))?.copy().await?;
        Ok((files, Box::new(changes)))
    }

    async fn stamp(&self, stamp: Stamp) -> Result<(), Error> {
        self.0.stamp(&stored(stamp.shard), text(&stamp)?).await
    }

    async fn receive(&self, shard: ShardId) -> Result<Box<dyn Receiving>, Error> {
        Ok(Box::new(self.0.import(&received(shard)).await?))
    }

    async fn promote(&self, stamp: Stamp) -> Result<(), Error> {
        self.0.rename(&received(stamp.shard), &stored(stamp.shard), Some(text(&stamp)?)).await
    }

    async fn discard_received(&self, shard: ShardId) -> Result<(), Error> {
        self.0.destroy(&received(shard)).await
    }

    async fn discard_stored(&self, shard: ShardId) -> Result<(), Error> {
        self.0.destroy(&stored(shard)).await
    }

    fn failure(&self) -> Option<Error> {
        self.0.failure()
    }

    fn disk(&self) -> Option<Disk> {
        Some(self.0.disk())
    }
}

#[async_trait]
impl Changes for embedded::Changes {
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
        Import::finish(*self, Some(text(&stamp)?)).await
    }

    async fn discard(self: Box<Self>) -> Result<(), Error> {
        Import::discard(*self);
        Ok(())
    }
}
