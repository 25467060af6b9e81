//! The shards on this node's volume (strategy Isolated): which are there, and under which token each was written last.
//!
//! ```text
//! <data>/<node>/node.json    whose volume this is, how many shards its data is spread over, and in what it is kept
//! <data>/<node>/database/    all shards, in an embedded database: see [`database`]
//! <data>/<node>/shards/      or a folder for each, as files that people can read: see [`files`]
//! <data>/<node>/consensus/   the node's member of the nodes' group (pattern Consensus): see `brainy_coordination::consensus`
//! ```
//!
//! Beside a shard there may be a *received* copy of it: whole, and stamped with the token of the tenure that ended with
//! it elsewhere. Every change of a stamp is durable before it is known to anyone.

mod database;
mod files;
mod folder;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use brainy_coordination::duty::{Local, Stored};
use brainy_coordination::session::{HeldShard, VolumeUse};
use brainy_coordination::{FencingToken, NodeId, ShardId};
use brainy_storage::backends::disk::Disk;
use brainy_storage::backends::stored::{StoredChange, StoredFile};
use brainy_storage::layers::compression::Compression;
use brainy_storage::{Error, StorageAdapter};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::data_folder::{Engine, Kind};

/// How long a volume takes no copy that had no room for one, unless it grows.
const NO_COPIES: Duration = Duration::from_secs(300);

/// What is noted of a shard, or of a received copy.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Stamp {
    pub(super) shard: ShardId,
    pub(super) token: FencingToken,
    /// Stopped for good under this token.
    #[serde(default)]
    pub(super) stopped: bool,
}

/// The keys of a shard as stored, one by one; an error is the last item.
pub(super) type Export = mpsc::Receiver<Result<StoredFile, Error>>;

/// Where a node has its volume.
#[async_trait]
pub(super) trait Volumes: Debug + Send + Sync + 'static {
    /// Opens it, or lays out a new one, for a node of a cluster with so many shards.
    async fn open(&self, node: &NodeId, shards: u32) -> Result<Volume, Error>;
}

/// Below a folder.
#[derive(Debug)]
pub(super) struct OnDisk {
    pub(super) data: PathBuf,
    /// What it is, or a new one is to be.
    pub(super) kind: Kind,
}

#[async_trait]
impl Volumes for OnDisk {
    async fn open(&self, node: &NodeId, shards: u32) -> Result<Volume, Error> {
        Volume::open(&self.data, node, shards, self.kind).await
    }
}

/// What a volume keeps its shards in.
#[async_trait]
pub(super) trait Shards: Debug + Send + Sync + 'static {
    /// Stamps of the shards, and of the received copies.
    async fn stamps(&self) -> Result<(Vec<Stamp>, Vec<Stamp>), Error>;

    /// A shard's storage.
    async fn open(&self, shard: ShardId, compression: Option<Compression>) -> Result<Arc<dyn StorageAdapter>, Error>;

    /// The shard as it is now, and what is written to it from then on.
    async fn copy(&self, shard: ShardId) -> Result<(Export, Box<dyn Changes>), Error>;

    /// Stamps a shard, which is made if it is new. Durable.
    async fn stamp(&self, stamp: Stamp) -> Result<(), Error>;

    /// Begins to receive a copy.
    async fn receive(&self, shard: ShardId) -> Result<Box<dyn Receiving>, Error>;

    /// Puts the received copy, stamped so, in the shard's place. Durable.
    async fn promote(&self, stamp: Stamp) -> Result<(), Error>;

    /// Removes a received copy. Durable.
    async fn discard_received(&self, shard: ShardId) -> Result<(), Error>;

    /// Removes a shard. Durable.
    async fn discard_stored(&self, shard: ShardId) -> Result<(), Error>;

    /// Why nothing more can be written before the process is started again, if that is so.
    fn failure(&self) -> Option<Error>;

    /// The disk that it is on; `None`: one without bounds.
    fn disk(&self) -> Option<Disk> {
        None
    }
}

/// What is written to a shard while it is copied.
#[async_trait]
pub(super) trait Changes: Send + Sync {
    /// How many keys were written and not taken yet.
    fn waiting(&self) -> usize;

    /// Takes at most so many of them, each as it is now; none: no key was written before this call that was not taken. Given
    /// up before it ends, it may have taken some.
    async fn next(&self, most: usize) -> Result<Vec<StoredChange>, Error>;
}

/// A copy being received. Dropped before it is finished, it is no copy.
#[async_trait]
pub(super) trait Receiving: Send + Sync {
    /// Receives some keys, each once. Not durable before it is flushed or finished.
    async fn write(&self, files: Vec<StoredFile>) -> Result<(), Error>;

    /// Removes some keys again, by their paths.
    async fn remove(&self, paths: Vec<String>) -> Result<(), Error>;

    /// Makes durable what was received so far. It is no copy yet.
    async fn flush(&self) -> Result<(), Error>;

    /// It is whole: makes it durable, stamped so.
    async fn finish(self: Box<Self>, stamp: Stamp) -> Result<(), Error>;

    /// Gives up.
    async fn discard(self: Box<Self>) -> Result<(), Error>;
}

/// A node's volume.
#[derive(Debug)]
pub(super) struct Volume {
    engine: Engine,
    shards: Box<dyn Shards>,
    locals: Mutex<BTreeMap<ShardId, Local>>,
    used: Mutex<Option<VolumeUse>>,
    /// When a copy found no room, and how large the volume was then.
    no_room: Mutex<Option<(Instant, u64)>>,
}

impl Volume {
    /// Opens a volume, or lays out a new one, as `kind` has it.
    pub(super) async fn open(data: &Path, node: &NodeId, shards: u32, kind: impl Into<Kind>) -> Result<Self, Error> {
        let kind = kind.into();
        let (data, node) = (data.to_owned(), node.clone());
        let opening = blocking(move || {
            let folder = data.join(&node.0);
            let engine = folder::take(&data, &folder, &node, shards, kind)?;
            let shards: Box<dyn Shards> = match engine {
                Engine::Files => Box::new(files::Files::open(&folder)?),
                Engine::Embedded => Box::new(database::Database::open(&folder)?),
            };
            Ok((engine, shards))
        });
        let (engine, shards) = opening.await?;
        Self::over(engine, shards).await
    }

    /// The volume over what it keeps its shards in.
    pub(super) async fn over(engine: Engine, shards: Box<dyn Shards>) -> Result<Self, Error> {
        let mut locals: BTreeMap<ShardId, Local> = BTreeMap::new();
        let (stored, received) = shards.stamps().await?;
        for stamp in stored {
            locals.entry(stamp.shard).or_default().stored = Some(Stored { token: stamp.token, stopped: stamp.stopped });
        }
        for stamp in received {
            locals.entry(stamp.shard).or_default().incoming = Some(stamp.token);
        }
        Ok(Self { engine, shards, locals: Mutex::new(locals), used: Mutex::default(), no_room: Mutex::default() })
    }

    fn locals(&self) -> MutexGuard<'_, BTreeMap<ShardId, Local>> {
        self.locals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// In what it keeps its data.
    pub(super) fn engine(&self) -> Engine {
        self.engine
    }

    /// What is here of a shard.
    pub(super) fn local(&self, shard: ShardId) -> Local {
        self.locals().get(&shard).copied().unwrap_or_default()
    }

    /// What is here, for the session record.
    pub(super) fn report(&self) -> (Vec<HeldShard>, Vec<HeldShard>) {
        let locals = self.locals();
        let list = |token: fn(&Local) -> Option<FencingToken>| {
            locals.iter().filter_map(|(shard, local)| Some(HeldShard { shard: *shard, token: token(local)? })).collect()
        };
        (list(|local| local.stored.map(|stored| stored.token)), list(|local| local.incoming))
    }

    /// A shard's storage.
    pub(super) async fn adapter(
        &self,
        shard: ShardId,
        compression: Option<Compression>,
    ) -> Result<Arc<dyn StorageAdapter>, Error> {
        self.shards.open(shard, compression).await
    }

    /// A shard as it is now, and what is written to it from then on.
    pub(super) async fn copy(&self, shard: ShardId) -> Result<(Export, Box<dyn Changes>), Error> {
        self.shards.copy(shard).await
    }

    /// Stamps a shard, which is made if it is new.
    pub(super) async fn stamp(&self, shard: ShardId, token: FencingToken, stopped: bool) -> Result<(), Error> {
        self.shards.stamp(Stamp { shard, token, stopped }).await?;
        self.locals().entry(shard).or_default().stored = Some(Stored { token, stopped });
        Ok(())
    }

    /// Begins to receive a copy of a shard that ended its tenure `token` elsewhere.
    pub(super) async fn receive(&self, shard: ShardId, token: FencingToken) -> Result<Incoming<'_>, Error> {
        let stamp = Stamp { shard, token, stopped: false };
        Ok(Incoming { volume: self, stamp, receiving: self.shards.receive(shard).await? })
    }

    /// Puts the received copy in the shard's place. It keeps its stamp until [`stamp`](Self::stamp).
    pub(super) async fn promote(&self, shard: ShardId) -> Result<(), Error> {
        let missing = || Error::unavailable("Volume", format!("no copy of shard {shard} has been received"));
        let token = self.local(shard).incoming.ok_or_else(missing)?;
        // Until it is done, what stands there is not to be relied on.
        self.locals().entry(shard).or_default().stored = None;
        self.shards.promote(Stamp { shard, token, stopped: false }).await?;
        let mut locals = self.locals();
        let local = locals.entry(shard).or_default();
        local.stored = local.incoming.take().map(|token| Stored { token, stopped: false });
        Ok(())
    }

    /// Removes a received copy.
    pub(super) async fn discard_received(&self, shard: ShardId) -> Result<(), Error> {
        self.locals().entry(shard).or_default().incoming = None;
        self.shards.discard_received(shard).await
    }

    /// Removes a shard.
    pub(super) async fn discard_stored(&self, shard: ShardId) -> Result<(), Error> {
        self.locals().entry(shard).or_default().stored = None;
        self.shards.discard_stored(shard).await
    }

    /// Why nothing more can be written before the process is started again, if that is so.
    pub(super) fn failure(&self) -> Option<Error> {
        self.shards.failure()
    }

    /// The disk that it is on; `None`: one without bounds.
    pub(super) fn disk(&self) -> Option<Disk> {
        self.shards.disk()
    }

    /// Notes how full it is, for the session record.
    pub(super) fn note_use(&self, found: VolumeUse) {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner) = Some(found);
    }

    /// How full it was found last.
    pub(super) fn used(&self) -> Option<VolumeUse> {
        let used = *self.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.map(|used| used.refusing_copies(self.refuses_copies()))
    }

    /// Takes no copy for a while: one had no room. What it has is served on, and so many cycles of copying and giving up would
    /// serve nobody.
    pub(super) fn refuse_copies(&self) {
        let total = self.used().map_or(0, |used| used.total_bytes);
        *self.no_room.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), total));
    }

    /// Whether it takes no copy at the moment.
    pub(super) fn refuses_copies(&self) -> bool {
        let total = (*self.used.lock().unwrap_or_else(PoisonError::into_inner)).map_or(0, |used| used.total_bytes);
        let no_room = *self.no_room.lock().unwrap_or_else(PoisonError::into_inner);
        no_room.is_some_and(|(since, was)| since.elapsed() < NO_COPIES && total <= was)
    }
}

/// A copy on its way into a volume.
pub(super) struct Incoming<'a> {
    volume: &'a Volume,
    stamp: Stamp,
    receiving: Box<dyn Receiving>,
}

impl Incoming<'_> {
    /// Receives some keys, each once.
    pub(super) async fn write(&self, changes: Vec<StoredChange>) -> Result<(), Error> {
        let (mut files, mut gone) = (Vec::new(), Vec::new());
        for change in changes {
            match change {
                StoredChange::Is(file) => files.push(file),
                StoredChange::Gone(path) => gone.push(path),
            }
        }
        if !files.is_empty() {
            self.receiving.write(files).await?;
        }
        if !gone.is_empty() {
            self.receiving.remove(gone).await?;
        }
        Ok(())
    }

    /// Makes durable what was received so far.
    pub(super) async fn flush(&self) -> Result<(), Error> {
        self.receiving.flush().await
    }

    /// It is whole.
    pub(super) async fn finish(self) -> Result<(), Error> {
        let Self { volume, stamp, receiving } = self;
        receiving.finish(stamp).await?;
        volume.locals().entry(stamp.shard).or_default().incoming = Some(stamp.token);
        Ok(())
    }

    /// Gives up.
    pub(super) async fn discard(self) -> Result<(), Error> {
        self.receiving.discard().await
    }
}

/// Runs what blocks on a thread that may.
pub(super) async fn blocking<T: Send + 'static>(
    act: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let done = tokio::task::spawn_blocking(act).await;
    done.unwrap_or_else(|why| Err(Error::unavailable("Interrupted", why.to_string())))
}

#[cfg(test)]
mod tests {
    use brainy_storage::{Key, Value};

    use super::super::in_words;
    use super::*;

    const SHARD: ShardId = ShardId(7);
    const BOTH: [Engine; 2] = [Engine::Embedded, Engine::Files];

    async fn open(data: &Path, engine: Engine) -> Volume {
        Volume::open(data, &NodeId("n-0".into()), 16, engine).await.unwrap()
    }

    fn key() -> Key {
        Key::new("k").unwrap()
    }

    async fn holds(volume: &Volume) -> Option<Value> {
        volume.adapter(SHARD, None).await.unwrap().get(&key()).await.unwrap().map(|entry| entry.value)
    }

    async fn write(volume: &Volume, n: i64) {
        let adapter = volume.adapter(SHARD, None).await.unwrap();
        assert!(adapter.set(&key(), Value::Json(n.into())).await.unwrap().applied().is_some());
    }

    /// All keys of the shard.
    async fn files_of(volume: &Volume) -> Vec<StoredChange> {
        let (mut export, _) = volume.copy(SHARD).await.unwrap();
        let mut files = Vec::new();
        while let Some(file) = export.recv().await {
            files.push(StoredChange::Is(file.unwrap()));
        }
        files
    }

    #[tokio::test]
    async fn stamps_survive_a_restart() {
        for engine in BOTH {
            let data = tempfile::tempdir().unwrap();
            let volume = open(data.path(), engine).await;
            volume.stamp(SHARD, FencingToken(3), false).await.unwrap();
            volume.stamp(ShardId(8), FencingToken(4), true).await.unwrap();
            drop(volume);
            let again = open(data.path(), engine).await;
            assert_eq!(again.local(SHARD).stored, Some(Stored { token: FencingToken(3), stopped: false }));
            assert_eq!(again.local(ShardId(8)).stored, Some(Stored { token: FencingToken(4), stopped: true }));
            assert_eq!(again.local(ShardId(9)), Local::default());
            assert_eq!(again.report().0.len(), 2);
        }
    }

    #[tokio::test]
    async fn the_volume_of_another_node_or_shard_count_is_refused_with_both_named() {
        let data = tempfile::tempdir().unwrap();
        drop(open(data.path(), Engine::Embedded).await);
        let other = Volume::open(data.path(), &NodeId("n-0".into()), 8, Engine::Embedded).await;
        let error = in_words(&other.unwrap_err());
        assert!(error.contains("16 shards") && error.contains("8 shards"), "{error}");
    }

    #[tokio::test]
    async fn a_volume_stays_what_it_is() {
        for (made, asked) in [(Engine::Files, Engine::Embedded), (Engine::Embedded, Engine::Files)] {
            let data = tempfile::tempdir().unwrap();
            let volume = open(data.path(), made).await;
            volume.stamp(SHARD, FencingToken(3), false).await.unwrap();
            write(&volume, 1).await;
            drop(volume);
            assert_eq!(holds(&open(data.path(), asked).await).await, Some(Value::Json(1.into())));
            let database = data.path().join("n-0/database");
            assert_eq!(database.exists(), made == Engine::Embedded);
        }
    }

    #[tokio::test]
    async fn a_volume_is_the_hot_of_two_tiers_or_whole_by_itself_and_never_changes() {
        for tiered in [false, true] {
            let data = tempfile::tempdir().unwrap();
            let open = async |tiered| {
                let kind = Kind { engine: Engine::Embedded, tiered };
                Volume::open(data.path(), &NodeId("n-0".into()), 16, kind).await
            };
            drop(open(tiered).await.unwrap());
            let error = in_words(&open(!tiered).await.unwrap_err());
            assert!(error.contains("spec.storage.tiering"), "{error}");
            open(tiered).await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_received_copy_takes_the_place_of_what_was_there() {
        for engine in BOTH {
            let (data, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            let source = open(elsewhere.path(), engine).await;
            write(&source, 5).await;
            let volume = open(data.path(), engine).await;
            volume.stamp(SHARD, FencingToken(3), true).await.unwrap();
            write(&volume, 3).await;
            let copy = volume.receive(SHARD, FencingToken(5)).await.unwrap();
            copy.write(files_of(&source).await).await.unwrap();
            copy.finish().await.unwrap();
            drop(volume);

            let volume = open(data.path(), engine).await;
            assert_eq!(volume.local(SHARD).incoming, Some(FencingToken(5)));
            assert_eq!(holds(&volume).await, Some(Value::Json(3.into())));
            volume.promote(SHARD).await.unwrap();
            let now = Local { stored: Some(Stored { token: FencingToken(5), stopped: false }), incoming: None };
            assert_eq!((volume.local(SHARD), holds(&volume).await), (now, Some(Value::Json(5.into()))));
            drop(volume);
            let again = open(data.path(), engine).await;
            assert_eq!((again.local(SHARD), holds(&again).await), (now, Some(Value::Json(5.into()))));
        }
    }

    #[tokio::test]
    async fn a_copy_that_did_not_arrive_is_none() {
        for engine in BOTH {
            let data = tempfile::tempdir().unwrap();
            let volume = open(data.path(), engine).await;
            write(&volume, 1).await;
            let files = files_of(&volume).await;
            for discard in [true, false] {
                let copy = volume.receive(SHARD, FencingToken(5)).await.unwrap();
                copy.write(files.clone()).await.unwrap();
                if discard {
                    copy.discard().await.unwrap();
                }
                assert_eq!(volume.local(SHARD).incoming, None, "{engine:?}");
            }
            drop(volume);
            assert_eq!(open(data.path(), engine).await.local(SHARD).incoming, None, "{engine:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_volume_without_room_takes_no_copy_until_it_grows_or_some_minutes_have_passed() {
        let data = tempfile::tempdir().unwrap();
        let volume = open(data.path(), Engine::Embedded).await;
        volume.note_use(VolumeUse::new(990, 1000));
        let refuses = |volume: &Volume| volume.used().unwrap().refuses_copies;
        assert!(!refuses(&volume));
        volume.refuse_copies();
        volume.note_use(VolumeUse::new(900, 1000));
        assert!(refuses(&volume), "what was copied is gone, and would be too much again");
        volume.note_use(VolumeUse::new(900, 2000));
        assert!(!refuses(&volume), "it has grown");
        volume.refuse_copies();
        tokio::time::advance(NO_COPIES).await;
        assert!(!refuses(&volume));
    }

    #[tokio::test]
    async fn how_much_of_the_disk_is_data_is_known_of_a_database() {
        let data = tempfile::tempdir().unwrap();
        let volume = open(data.path(), Engine::Embedded).await;
        let before = volume.disk().unwrap().data().unwrap();
        write(&volume, 1).await;
        let disk = volume.disk().unwrap();
        assert!(disk.data().unwrap() > before);
        drop(volume);
        assert_eq!(disk.data(), None, "it keeps no database open");
    }

    #[tokio::test]
    async fn what_is_discarded_is_gone() {
        for engine in BOTH {
            let data = tempfile::tempdir().unwrap();
            let volume = open(data.path(), engine).await;
            volume.stamp(SHARD, FencingToken(3), true).await.unwrap();
            write(&volume, 1).await;
            volume.discard_stored(SHARD).await.unwrap();
            assert_eq!(volume.local(SHARD), Local::default());
            drop(volume);
            let again = open(data.path(), engine).await;
            assert_eq!((again.local(SHARD), holds(&again).await), (Local::default(), None));
        }
    }
}
