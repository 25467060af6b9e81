//! The shards on this node's volume (strategy Isolated): which are there, and under which token each was written last.
//!
//! ```text
//! <data>/<node>/node.json               whose volume this is, and how many shards its data is spread over
//! <data>/<node>/shards/shard-NNN/       a shard; `shard.json` in it is its stamp
//! <data>/<node>/received/shard-NNN/     a whole copy, stamped with the token of the tenure that ended with it
//! ```
//!
//! Every change of a stamp is durable before it is known to anyone. A folder without a stamp is no shard.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use brainy_coordination::duty::{Local, Stored};
use brainy_coordination::session::HeldShard;
use brainy_coordination::{FencingToken, NodeId, ShardId};
use brainy_storage::Error;
use brainy_storage::backends::filesystem::FilesystemAdapter;
use serde::{Deserialize, Serialize};

/// The stamp of a shard, in its folder.
pub(super) const STAMP: &str = "shard.json";

/// What `shard.json` says.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Stamp {
    pub(super) shard: ShardId,
    pub(super) token: FencingToken,
    /// Stopped for good under this token.
    #[serde(default)]
    pub(super) stopped: bool,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct NodeFile {
    node: NodeId,
    shards: u32,
}

#[derive(Debug)]
pub(super) struct Volume {
    folder: PathBuf,
    locals: Mutex<BTreeMap<ShardId, Local>>,
}

impl Volume {
    /// Opens a volume, or lays out a new one. Blocks.
    pub(super) fn open(data: &Path, node: &NodeId, shards: u32) -> Result<Self, Error> {
        let folder = data.join(&node.0);
        let (stored, received) = (folder.join("shards"), folder.join("received"));
        for folder in [&stored, &received] {
            fs::create_dir_all(folder).map_err(|error| failed("making", folder, &error))?;
        }
        check_owner(&folder, &NodeFile { node: node.clone(), shards })?;
        let mut locals: BTreeMap<ShardId, Local> = BTreeMap::new();
        for (stamp, _) in scan(&stored)? {
            locals.entry(stamp.shard).or_default().stored = Some(Stored { token: stamp.token, stopped: stamp.stopped });
        }
        for (stamp, _) in scan(&received)? {
            locals.entry(stamp.shard).or_default().incoming = Some(stamp.token);
        }
        for folder in [&stored, &received, &folder, &data.to_owned()] {
            sync_folder(folder)?;
        }
        Ok(Self { folder, locals: Mutex::new(locals) })
    }

    fn locals(&self) -> MutexGuard<'_, BTreeMap<ShardId, Local>> {
        self.locals.lock().unwrap_or_else(PoisonError::into_inner)
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

    fn stored_folder(&self, shard: ShardId) -> PathBuf {
        self.folder.join("shards").join(format!("shard-{shard}"))
    }

    /// Where a copy is received.
    pub(super) fn received_folder(&self, shard: ShardId) -> PathBuf {
        self.folder.join("received").join(format!("shard-{shard}"))
    }

    /// A shard's storage. Blocks shortly.
    pub(super) fn adapter(&self, shard: ShardId) -> Result<FilesystemAdapter, Error> {
        FilesystemAdapter::open(&self.stored_folder(shard))
    }

    /// Stamps a shard, whose folder is made if it is new. Blocks.
    pub(super) fn stamp(&self, shard: ShardId, token: FencingToken, stopped: bool) -> Result<(), Error> {
        let folder = self.stored_folder(shard);
        fs::create_dir_all(&folder).map_err(|error| failed("making", &folder, &error))?;
        write_durably(&folder, STAMP, &Stamp { shard, token, stopped })?;
        sync_folder(&self.folder.join("shards"))?;
        self.locals().entry(shard).or_default().stored = Some(Stored { token, stopped });
        Ok(())
    }

    /// Puts the received copy in the shard's place. Its stamp stays until [`stamp`](Self::stamp).
    pub(super) async fn promote(&self, shard: ShardId) -> Result<(), Error> {
        let (stored, received) = (self.stored_folder(shard), self.received_folder(shard));
        FilesystemAdapter::destroy(&stored).await?;
        self.locals().entry(shard).or_default().stored = None;
        let (shards, receiving) = (self.folder.join("shards"), self.folder.join("received"));
        blocking(move || {
            fs::rename(&received, &stored).map_err(|error| failed("renaming", &received, &error))?;
            sync_folder(&shards)?;
            sync_folder(&receiving)
        })
        .await?;
        let mut locals = self.locals();
        let local = locals.entry(shard).or_default();
        local.stored = local.incoming.take().map(|token| Stored { token, stopped: false });
        Ok(())
    }

    /// A copy has arrived, whole and durably, stamped with `token`.
    pub(super) fn received(&self, shard: ShardId, token: FencingToken) {
        self.locals().entry(shard).or_default().incoming = Some(token);
    }

    /// Removes a received copy.
    pub(super) async fn discard_received(&self, shard: ShardId) -> Result<(), Error> {
        self.locals().entry(shard).or_default().incoming = None;
        FilesystemAdapter::destroy(&self.received_folder(shard)).await
    }

    /// Removes a shard.
    pub(super) async fn discard_stored(&self, shard: ShardId) -> Result<(), Error> {
        self.locals().entry(shard).or_default().stored = None;
        FilesystemAdapter::destroy(&self.stored_folder(shard)).await
    }
}

/// Runs what blocks on a thread that may.
pub(super) async fn blocking<T: Send + 'static>(
    act: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let done = tokio::task::spawn_blocking(act).await;
    done.unwrap_or_else(|why| Err(Error::unavailable("Interrupted", why.to_string())))
}

fn failed(doing: &str, path: &Path, error: &io::Error) -> Error {
    Error::unavailable("Volume", format!("{doing} {}: {error}", path.display()))
}

fn sync_folder(folder: &Path) -> Result<(), Error> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(|error| failed("flushing", folder, &error))
}

/// All of the file or nothing of it, also after a power failure.
fn write_durably(folder: &Path, name: &str, content: &impl Serialize) -> Result<(), Error> {
    let (path, beside) = (folder.join(name), folder.join(format!("{name}.new")));
    let write = || {
        let mut file = File::create(&beside)?;
        file.write_all(&serde_json::to_vec(content)?)?;
        file.sync_all()?;
        fs::rename(&beside, &path)
    };
    write().map_err(|error| failed("writing", &path, &error))?;
    sync_folder(folder)
}

/// Refuses a volume that is another node's, or whose data is spread over another number of shards.
fn check_owner(folder: &Path, me: &NodeFile) -> Result<(), Error> {
    let path = folder.join("node.json");
    let found: NodeFile = match fs::read(&path) {
        Ok(text) => serde_json::from_slice(&text)
            .map_err(|error| Error::Corrupt { key: path.display().to_string(), problem: error.to_string() })?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return write_durably(folder, "node.json", me);
        }
        Err(error) => return Err(failed("reading", &path, &error)),
    };
    if found == *me {
        return Ok(());
    }
    Err(Error::unavailable(
        "WrongVolume",
        format!(
            "the volume holds data of node {} spread over {} shards, but this is node {} of a cluster with {} shards: \
             give this node its own volume, or an empty one",
            found.node, found.shards, me.node, me.shards
        ),
    ))
}

/// The stamped shards below a folder. What a crash left half done beside them is removed.
fn scan(parent: &Path) -> Result<Vec<(Stamp, PathBuf)>, Error> {
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
                    found.push((stamp, path));
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
    use super::super::in_words;
    use super::*;

    const SHARD: ShardId = ShardId(7);

    fn open(data: &Path) -> Volume {
        Volume::open(data, &NodeId("n-0".into()), 16).unwrap()
    }

    #[test]
    fn stamps_survive_a_restart() {
        let data = tempfile::tempdir().unwrap();
        let volume = open(data.path());
        volume.stamp(SHARD, FencingToken(3), false).unwrap();
        volume.stamp(ShardId(8), FencingToken(4), true).unwrap();
        let again = open(data.path());
        assert_eq!(again.local(SHARD).stored, Some(Stored { token: FencingToken(3), stopped: false }));
        assert_eq!(again.local(ShardId(8)).stored, Some(Stored { token: FencingToken(4), stopped: true }));
        assert_eq!(again.local(ShardId(9)), Local::default());
        assert_eq!(again.report().0.len(), 2);
    }

    #[test]
    fn the_volume_of_another_node_or_shard_count_is_refused_with_both_named() {
        let data = tempfile::tempdir().unwrap();
        drop(open(data.path()));
        let error = in_words(&Volume::open(data.path(), &NodeId("n-0".into()), 8).unwrap_err());
        assert!(error.contains("16 shards") && error.contains("8 shards"), "{error}");
    }

    #[test]
    fn what_a_crash_left_without_a_stamp_is_no_shard() {
        let data = tempfile::tempdir().unwrap();
        drop(open(data.path()));
        let half = data.path().join("n-0/received/shard-007.incoming/kv");
        fs::create_dir_all(&half).unwrap();
        assert_eq!(open(data.path()).local(SHARD), Local::default());
        assert!(!half.exists());
    }

    #[tokio::test]
    async fn a_received_copy_takes_the_place_of_what_was_there() {
        let data = tempfile::tempdir().unwrap();
        let volume = open(data.path());
        volume.stamp(SHARD, FencingToken(3), true).unwrap();
        fs::create_dir_all(volume.received_folder(SHARD)).unwrap();
        write_durably(
            &volume.received_folder(SHARD),
            STAMP,
            &Stamp { shard: SHARD, token: FencingToken(5), stopped: false },
        )
        .unwrap();
        let volume = open(data.path());
        assert_eq!(volume.local(SHARD).incoming, Some(FencingToken(5)));
        volume.promote(SHARD).await.unwrap();
        let now = Local { stored: Some(Stored { token: FencingToken(5), stopped: false }), incoming: None };
        assert_eq!(volume.local(SHARD), now);
        assert_eq!(open(data.path()).local(SHARD), now, "also after a restart");
    }

    #[tokio::test]
    async fn what_is_discarded_is_gone() {
        let data = tempfile::tempdir().unwrap();
        let volume = open(data.path());
        volume.stamp(SHARD, FencingToken(3), true).unwrap();
        volume.discard_stored(SHARD).await.unwrap();
        assert_eq!(volume.local(SHARD), Local::default());
        assert_eq!(open(data.path()).local(SHARD), Local::default());
    }
}
