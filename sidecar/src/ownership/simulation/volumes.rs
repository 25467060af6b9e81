//! The nodes' volumes (strategy Isolated): what a process leaves on one, its next one finds. Each takes effect as a whole or,
//! where the process dies before, not at all; what has taken effect is durable.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use async_trait::async_trait;
use brainy_coordination::{NodeId, ShardId};
use brainy_storage::backends::objects::{Bucket, BucketStore, ETag, Failure, Listed, Object, When, Written};
use brainy_storage::backends::stored::{StoredChange, StoredFile};
use brainy_storage::layers::compression::Compression;
use brainy_storage::{Error, StorageAdapter};
use bytes::Bytes;
use tokio::sync::mpsc;

use super::super::volume::{Changes, Export, Receiving, Shards, Stamp, Volume, Volumes};
use super::store::Objects;
use super::world::World;
use crate::data_folder::Engine;

/// What is on a volume.
#[derive(Debug, Default)]
pub(super) struct Disk {
    stored: BTreeMap<ShardId, Kept>,
    received: BTreeMap<ShardId, Kept>,
}

/// A shard, or a copy of one.
#[derive(Debug, Default)]
struct Kept {
    stamp: Option<Stamp>,
    objects: Objects,
    /// What is written, for who copies it.
    noted: Vec<Weak<Mutex<BTreeSet<String>>>>,
}

impl Kept {
    fn put(&mut self, name: &str, body: &Bytes, when: &When) -> Result<ETag, Failure> {
        self.noted.retain(|noted| noted.strong_count() > 0);
        for noted in self.noted.iter().filter_map(Weak::upgrade) {
            noted.lock().unwrap().insert(name.to_owned());
        }
        self.objects.put(name, body, when)
    }
}

/// A node's volume, as its process has it.
#[derive(Clone)]
pub(super) struct Mounted {
    world: Arc<World>,
    disk: Arc<Mutex<Disk>>,
}

impl fmt::Debug for Mounted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mounted").finish_non_exhaustive()
    }
}

impl Mounted {
    pub(super) fn new(world: &Arc<World>, disk: &Arc<Mutex<Disk>>) -> Self {
        Self { world: Arc::clone(world), disk: Arc::clone(disk) }
    }

    /// Takes its time, before and after.
    async fn act<T>(&self, act: impl FnOnce(&mut Disk) -> T) -> T {
        self.pause().await;
        let done = act(&mut self.disk.lock().unwrap());
        self.pause().await;
        done
    }

    async fn pause(&self) {
        let time = self.world.draw(|dice| {
            // A disk that is busy with something else.
            let most = if dice.one_in_thousand(15) { self.world.plan.ttl } else { Duration::from_millis(5) };
            dice.between(Duration::from_micros(100), most)
        });
        tokio::time::sleep(time).await;
    }
}

#[async_trait]
impl Volumes for Mounted {
    async fn open(&self, _: &NodeId, _: u32) -> Result<Volume, Error> {
        Volume::over(Engine::Files, Box::new(self.clone())).await
    }
}

#[async_trait]
impl Shards for Mounted {
    async fn stamps(&self) -> Result<(Vec<Stamp>, Vec<Stamp>), Error> {
        let stamps =
            |kept: &BTreeMap<ShardId, Kept>| -> Vec<Stamp> { kept.values().filter_map(|kept| kept.stamp).collect() };
        Ok(self.act(|disk| (stamps(&disk.stored), stamps(&disk.received))).await)
    }

    async fn open(&self, shard: ShardId, _: Option<Compression>) -> Result<Arc<dyn StorageAdapter>, Error> {
        let folder = Folder { volume: self.clone(), shard };
        Ok(Arc::new(BucketStore::new(folder).adapter("s")))
    }

    async fn copy(&self, shard: ShardId) -> Result<(Export, Box<dyn Changes>), Error> {
        let noted = Arc::default();
        let files = self.act(|disk| {
            let kept = disk.stored.entry(shard).or_default();
            kept.noted.push(Arc::downgrade(&noted));
            kept.objects.export()
        });
        let files = files.await;
        let (sender, export) = mpsc::channel(files.len().max(1));
        for (path, content) in files {
            let _room = sender.try_send(Ok(StoredFile { path, content }));
        }
        Ok((export, Box::new(Meanwhile { folder: Folder { volume: self.clone(), shard }, noted })))
    }

    async fn stamp(&self, stamp: Stamp) -> Result<(), Error> {
        self.act(|disk| disk.stored.entry(stamp.shard).or_default().stamp = Some(stamp)).await;
        Ok(())
    }

    async fn receive(&self, shard: ShardId) -> Result<Box<dyn Receiving>, Error> {
        self.act(|disk| disk.received.remove(&shard)).await;
        Ok(Box::new(Copy { volume: self.clone(), objects: Mutex::default() }))
    }

    async fn promote(&self, stamp: Stamp) -> Result<(), Error> {
        self.act(|disk| {
            if let Some(kept) = disk.received.remove(&stamp.shard) {
                disk.stored.insert(stamp.shard, Kept { stamp: Some(stamp), ..kept });
            }
        })
        .await;
        Ok(())
    }

    async fn discard_received(&self, shard: ShardId) -> Result<(), Error> {
        self.act(|disk| disk.received.remove(&shard)).await;
        Ok(())
    }

    async fn discard_stored(&self, shard: ShardId) -> Result<(), Error> {
        self.act(|disk| disk.stored.remove(&shard)).await;
        Ok(())
    }

    fn failure(&self) -> Option<Error> {
        None
    }
}

/// What is written to a shard while it is copied.
struct Meanwhile {
    folder: Folder,
    noted: Arc<Mutex<BTreeSet<String>>>,
}

#[async_trait]
impl Changes for Meanwhile {
    fn waiting(&self) -> usize {
        self.noted.lock().unwrap().len()
    }

    async fn next(&self, most: usize) -> Result<Vec<StoredChange>, Error> {
        let take = |kept: &mut Kept| {
            let mut noted = self.noted.lock().unwrap();
            let taken: Vec<String> = noted.iter().take(most).cloned().collect();
            let now = |name: String| {
                noted.remove(&name);
                match kept.objects.export_one(&name) {
                    Some(content) => StoredChange::Is(StoredFile { path: name, content }),
                    None => StoredChange::Gone(name),
                }
            };
            taken.into_iter().map(now).collect()
        };
        Ok(self.folder.act(take).await)
    }
}

/// A copy being received.
struct Copy {
    volume: Mounted,
    objects: Mutex<Objects>,
}

#[async_trait]
impl Receiving for Copy {
    async fn write(&self, files: Vec<StoredFile>) -> Result<(), Error> {
        self.volume.pause().await;
        let mut objects = self.objects.lock().unwrap();
        files.into_iter().for_each(|file| objects.import(file.path, &file.content));
        Ok(())
    }

    async fn remove(&self, names: Vec<String>) -> Result<(), Error> {
        self.volume.pause().await;
        let mut objects = self.objects.lock().unwrap();
        names.iter().for_each(|name| objects.discard(name));
        Ok(())
    }

    async fn flush(&self) -> Result<(), Error> {
        self.volume.pause().await;
        Ok(())
    }

    async fn finish(self: Box<Self>, stamp: Stamp) -> Result<(), Error> {
        let Self { volume, objects } = *self;
        let kept = Kept { stamp: Some(stamp), objects: objects.into_inner().unwrap(), noted: Vec::new() };
        volume.act(|disk| disk.received.insert(stamp.shard, kept)).await;
        Ok(())
    }

    async fn discard(self: Box<Self>) -> Result<(), Error> {
        Ok(())
    }
}

/// The values of one shard on a volume.
#[derive(Clone, Debug)]
struct Folder {
    volume: Mounted,
    shard: ShardId,
}

impl Folder {
    async fn act<T>(&self, act: impl FnOnce(&mut Kept) -> T) -> T {
        self.volume.act(|disk| act(disk.stored.entry(self.shard).or_default())).await
    }
}

#[async_trait]
impl Bucket for Folder {
    fn server(&self) -> &str {
        "volume"
    }

    async fn get(&self, name: &str) -> Result<Option<Object>, Error> {
        Ok(self.act(|kept| kept.objects.get(name)).await)
    }

    async fn put(&self, name: &str, body: Bytes, when: &When) -> Result<Written<ETag>, Error> {
        match self.act(|kept| kept.put(name, &body, when)).await {
            Ok(etag) => Ok(Written::Applied(etag)),
            Err(Failure::Refused) => Ok(Written::Refused),
            Err(other) => Err(other.of_read()),
        }
    }

    async fn list(&self, prefix: &str, after: &str, most: usize) -> Result<(Vec<Listed>, bool), Error> {
        Ok(self.act(|kept| kept.objects.list(prefix, after, most)).await)
    }

    async fn discard(&self, _: Vec<String>) -> Result<(), Error> {
        Err(Error::unavailable("NotImplemented", "nothing is ever deleted here"))
    }
}
