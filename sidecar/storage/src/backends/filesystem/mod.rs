//! On a file system: one file per key.
//!
//! ```text
//! <root>/kv/<encoded key>        values, each in its envelope
//! <root>/ns/<namespace>/kv/...   the same for each namespace, nested
//! <root>/tmp/                    files being written, and a few that were replaced and will be written again
//! <root>/.lock                   held by the process that has the root open
//! ```
//!
//! A write is durable before it is acknowledged: temporary file, flush, rename, flush of the folder. A read waits for no
//! write: the rename is atomic. In the moment between a rename and the flush of its folder a reader may see a value that
//! a failure of the *machine* could still take back, from all readers alike; a failure of the process can't.

mod batch;
pub(super) mod files;
mod handoff;
mod listing;
pub(super) mod root;
mod spares;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::mpsc;

use self::files::{PublishError, Temp};
pub use self::handoff::{Changes, Import};
use self::root::Root;
pub use super::stored::StoredFile;
use crate::encoding::{encode, keys_folder};
use crate::envelope::{Stored, Trail, new_nonce, open, seal};
use crate::group::{Change, judge};
use crate::layers::compression::Compression;
use crate::operation::{only, shared};
use crate::performed::{Performed, Stands};
use crate::{
    Condition, Done, Entry, Error, Key, Namespace, Operation, OperationId, Outcome, Page, Requests, StorageAdapter,
    Unknown, Value, Version, WriteResult,
};

/// A store in a folder. Clones, and all adapters on one path in one process, share it.
#[derive(Clone, Debug)]
pub struct FilesystemAdapter {
    root: Arc<Root>,
    namespaces: Vec<Namespace>,
    /// Of the namespace, relative to the root, with a slash at its end.
    folder: String,
    compression: Option<Compression>,
}

impl FilesystemAdapter {
    /// Opens the store in a folder, which need not exist: the first write creates it. Blocks for one reading of a small
    /// folder. Fails with cause `InUse` while another process has it open.
    pub fn open(root: &Path) -> Result<Self, Error> {
        let (namespaces, folder) = (Vec::new(), keys_folder(&[]));
        Ok(Self { root: Root::open(root)?, namespaces, folder, compression: None })
    }

    /// Compresses what is written from now on. What is there is read as it is.
    pub fn with_compression(self, compression: Option<Compression>) -> Self {
        Self { compression, ..self }
    }

    /// The store's folder.
    pub fn root(&self) -> &Path {
        self.root.path()
    }

    /// Removes a store with all its namespaces. From then on, every adapter that still has it open fails with cause
    /// `Removed`; opening it anew gives an empty store. A store that does not exist is no error.
    pub async fn destroy(root: &Path) -> Result<(), Error> {
        handoff::destroy(root).await
    }

    /// All keys of all namespaces as stored, for [`Import`] elsewhere. Files come one by one as they are taken from the
    /// channel, so that memory stays bounded. An error is the last item. Nobody may write meanwhile.
    pub fn export(&self) -> mpsc::Receiver<Result<StoredFile, Error>> {
        handoff::export(Arc::clone(&self.root))
    }

    /// The same while others write, with what they write from then on: together they are the store as it is when nothing is
    /// [left](Changes::next).
    pub async fn copy(&self) -> Result<(mpsc::Receiver<Result<StoredFile, Error>>, Changes), Error> {
        handoff::copy(Arc::clone(&self.root)).await
    }

    fn place(&self, key: &Key) -> Place {
        let relative = format!("{}{}", self.folder, encode(key.as_str()));
        Place { key: key.clone(), path: self.root.path().join(&relative), relative, compression: self.compression }
    }

    /// Runs one write of one key: alone on that key, on a thread that may block.
    async fn write<T: Send + 'static>(
        &self,
        place: Place,
        act: impl FnOnce(&Root, &Place) -> WriteResult<T> + Send + 'static,
    ) -> WriteResult<T> {
        let gate = self.root.enter().await?;
        let held = self.root.lock_keys([place.relative.clone()]).await;
        let root = Arc::clone(&self.root);
        let done = tokio::task::spawn_blocking(move || {
            // Held to the end even if the caller gives up.
            let _locked = (gate, held);
            root.own()?;
            root.notes.add(|| place.relative.clone());
            act(&root, &place)
        });
        done.await.unwrap_or_else(|why| Ok(Outcome::Unknown(Unknown(format!("the write was interrupted: {why}")))))
    }
}

/// Where a key's file is.
#[derive(Clone, Debug)]
struct Place {
    key: Key,
    path: PathBuf,
    /// Below the root; names the key among all namespaces.
    relative: String,
    compression: Option<Compression>,
}

/// What came of preparing a write.
enum Prepared {
    /// Its condition does not hold.
    Rejected(Option<Entry>),
    /// It can be renamed into its place.
    Written(Ready, Version),
}

/// A file that is written and flushed.
struct Ready {
    temp: Temp,
    /// Whether a value stands in its place.
    replaces: bool,
}

impl Place {
    fn folder(&self) -> &Path {
        self.path.parent().unwrap_or(&self.path)
    }

    fn read(&self, root: &Root) -> Result<Option<Stored>, Error> {
        let Some(bytes) = root.read(&self.path)? else { return Ok(None) };
        open(&self.key, &bytes.into())?.into_stored(&self.key).map(Some)
    }

    fn read_entry(&self, root: &Root) -> Result<Option<Entry>, Error> {
        Ok(self.read(root)?.map(|stored| stored.entry))
    }

    /// Writes and flushes the next value beside its place, if the condition holds on what stands there.
    fn prepare(&self, root: &Root, value: &Value, condition: &Condition) -> Result<Prepared, Error> {
        let current = self.read(root)?;
        if !condition.holds(current.as_ref().map(|stored| &stored.entry.version)) {
            return Ok(Prepared::Rejected(current.map(|stored| stored.entry)));
        }
        let revision = current.as_ref().map(|stored| stored.entry.version.revision);
        let performed = current.map(|stored| stored.performed).unwrap_or_default();
        let (ready, version) = self.prepare_next(root, revision, value, performed)?;
        Ok(Prepared::Written(ready, version))
    }

    /// Writes and flushes what follows a revision, if there is one, beside its place.
    fn prepare_next(
        &self,
        root: &Root,
        revision: Option<u64>,
        value: &Value,
        performed: Performed,
    ) -> Result<(Ready, Version), Error> {
        let version = Version { revision: revision.unwrap_or(0).saturating_add(1), tag: new_nonce() };
        let trail = Trail { performed, before: Vec::new() };
        let sealed = seal(&self.key, version.revision, &version.tag, value, &trail, self.compression)?;
        root.ensure_folder(self.folder())?;
        Ok((Ready { temp: root.write_temp(&sealed)?, replaces: revision.is_some() }, version))
    }

    /// Renames a prepared file into its place, and gives back the one that it replaced, if it can be had. `Err` is a clean
    /// failure, `Ok(Err)` an unknown outcome.
    fn publish(&self, ready: Ready) -> Result<Result<Option<Temp>, Unknown>, Error> {
        let published = match ready.replaces {
            true => ready.temp.exchange(&self.path),
            false => ready.temp.publish(&self.path).map(|()| None),
        };
        match published {
            Ok(replaced) => Ok(Ok(replaced)),
            Err(PublishError::Refused(error)) => Err(error),
            Err(PublishError::Unknown(error)) => Ok(Err(Unknown(error.to_string()))),
        }
    }
}

/// Makes what happened in a folder durable; it may be missing. If that fails, nobody knows what a crash would leave: unknown.
fn flush(folder: &Path) -> Result<(), Unknown> {
    files::sync_folder_if_there(folder).map_err(|error| Unknown(error.to_string()))
}

/// Publishes a prepared file and makes it durable.
fn finish<T>(root: &Root, place: &Place, ready: Ready, done: T) -> WriteResult<T> {
    Ok(match place.publish(ready)? {
        Ok(replaced) => {
            let outcome = confirm(place, done);
            if matches!(outcome, Outcome::Applied(_)) {
                root.keep(replaced);
            }
            outcome
        }
        Err(unknown) => Outcome::Unknown(unknown),
    })
}

fn put(root: &Root, place: &Place, value: &Value, condition: &Condition) -> WriteResult<Version> {
    match place.prepare(root, value, condition)? {
        Prepared::Rejected(current) => Ok(Outcome::Rejected(current)),
        Prepared::Written(ready, version) => finish(root, place, ready, version),
    }
}

fn perform(root: &Root, place: &Place, requests: &Requests) -> WriteResult<Vec<WriteResult<Done>>> {
    let current = place.read(root)?;
    let stands = Stands::stored(current.as_ref());
    let judged = judge(&place.key, stands, requests);
    match judged.change() {
        Change::Nothing => {
            let answers = judged.applied(None);
            // A rejection promises nothing.
            let promises = answers.iter().any(|answer| matches!(answer, Ok(Outcome::Applied(_))));
            Ok(if promises { confirm(place, answers) } else { Outcome::Applied(answers) })
        }
        Change::Put(value) => {
            let revision = current.as_ref().map(|stored| stored.entry.version.revision);
            let (ready, version) = place.prepare_next(root, revision, &value, judged.performed())?;
            finish(root, place, ready, judged.applied(Some(&version)))
        }
        Change::Remove => Ok(remove(root, place, &Condition::Any)?.map(|_| judged.applied(None))),
    }
}

fn remove(root: &Root, place: &Place, condition: &Condition) -> WriteResult<bool> {
    // Without a condition a damaged value can be removed as well: that is how to get rid of it.
    if *condition != Condition::Any {
        let current = place.read_entry(root)?;
        if !condition.holds(current.as_ref().map(|entry| &entry.version)) {
            return Ok(Outcome::Rejected(current));
        }
    }
    let failure = |error| files::failure("removing", &place.path, error);
    match std::fs::remove_file(&place.path) {
        Ok(()) => Ok(confirm(place, true)),
        Err(error) if files::is_missing(&error) => Ok(confirm(place, false)),
        Err(error) if files::is_refusal(&error) => Err(failure(&error)),
        Err(error) => Ok(Outcome::Unknown(Unknown(failure(&error).to_string()))),
    }
}

/// Acknowledges what stands in a folder once that is durable. Also where nothing was written: what is acknowledged may be
/// the work of an earlier write whose flush failed, or of a process that ended before it.
fn confirm<T>(place: &Place, done: T) -> Outcome<T> {
    match flush(place.folder()) {
        Ok(()) => Outcome::Applied(done),
        Err(unknown) => Outcome::Unknown(unknown),
    }
}

#[async_trait]
impl StorageAdapter for FilesystemAdapter {
    async fn get(&self, key: &Key) -> Result<Option<Entry>, Error> {
        let (root, place) = (Arc::clone(&self.root), self.place(key));
        blocking(move || {
            let entry = place.read_entry(&root)?;
            root.check_not_removed()?;
            Ok(entry)
        })
        .await
    }

    async fn put(&self, key: &Key, value: Value, condition: &Condition) -> WriteResult<Version> {
        let condition = condition.clone();
        self.write(self.place(key), move |root, place| put(root, place, &value, &condition)).await
    }

    async fn remove(&self, key: &Key, condition: &Condition) -> WriteResult<bool> {
        condition.check_for_removal()?;
        let condition = condition.clone();
        self.write(self.place(key), move |root, place| remove(root, place, &condition)).await
    }

    async fn perform_once(&self, key: &Key, operation: Operation, id: &OperationId) -> WriteResult<Done> {
        only(self.perform(key, Requests::once(operation, id)).await)
    }

    async fn perform(&self, key: &Key, requests: Requests) -> Vec<WriteResult<Done>> {
        let count = requests.len();
        shared(count, self.write(self.place(key), move |root, place| perform(root, place, &requests)).await)
    }

    async fn list(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Page, Error> {
        let folder = self.root.path().join(&self.folder);
        let (prefix, after) = (encode(prefix), after.map(|key| encode(key.as_str())));
        let root = Arc::clone(&self.root);
        blocking(move || {
            let page = listing::page(&folder, &prefix, after.as_deref(), limit)?;
            root.check_not_removed()?;
            Ok(page)
        })
        .await
    }

    fn with_namespace(&self, namespace: &Namespace) -> Arc<dyn StorageAdapter> {
        let mut namespaces = self.namespaces.clone();
        namespaces.push(namespace.clone());
        let folder = keys_folder(&namespaces);
        Arc::new(Self { namespaces, folder, ..self.clone() })
    }

    async fn get_batch(&self, keys: &[Key]) -> Vec<Result<Option<Entry>, Error>> {
        let (root, places) = (Arc::clone(&self.root), keys.iter().map(|key| self.place(key)).collect::<Vec<_>>());
        let count = places.len();
        let all = blocking(move || {
            let found = places.iter().map(|place| place.read_entry(&root)).collect::<Vec<_>>();
            root.check_not_removed()?;
            Ok(found)
        });
        all.await.unwrap_or_else(|error| vec![Err(error); count])
    }

    async fn put_batch(&self, items: Vec<(Key, Value, Condition)>) -> Vec<WriteResult<Version>> {
        let items = items.into_iter().map(|(key, value, condition)| (self.place(&key), value, condition)).collect();
        batch::put(Arc::clone(&self.root), items).await
    }
}

/// Runs a read on a thread that may block.
async fn blocking<T: Send + 'static>(act: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
    let done = tokio::task::spawn_blocking(act).await;
    done.unwrap_or_else(|why| Err(Error::unavailable("Interrupted", why.to_string())))
}
