//! The regions of one store, their namespaces, and the one way in which a record gets into a region: [`Region::merge`].

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use xxhash_rust::xxh3::xxh3_128;

use super::memory::{Memory, Versions};
use super::record::Record;
use super::stamp::HybridClock;
use crate::encoding::keys_folder;
use crate::envelope::new_nonce;
use crate::{Condition, Entry, Error, Key, Namespace, Outcome, StorageAdapter, Value, Version};

/// Namespaces of a region's store: the records of users, and what this layer keeps for itself.
const DATA: &str = "d";
const META: &str = "m";
/// Before the names of what is written down of namespaces.
const SPACES: &str = "ns/";
/// Says that a region has all that the others had when it was filled: another mark each time.
const FILLED: &str = "filled";
/// Keys of one page.
pub(super) const PAGE: usize = 500;
/// Most attempts of one write while others come between.
pub(super) const MAX_ATTEMPTS: u32 = 64;
/// How often in a row a write is sent again of which nobody knows whether it arrived, where that does no harm.
const MAX_LOST: u32 = 4;

/// Why something that was to be in a region is perhaps not.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Missed {
    /// It certainly is not.
    Failed(Error),
    /// Nobody knows.
    Unknown(String),
}

impl Missed {
    pub(super) fn into_error(self) -> Error {
        match self {
            Self::Failed(error) => error,
            Self::Unknown(why) => Error::unavailable("Interrupted", why),
        }
    }
}

impl From<Error> for Missed {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// What became of a record that was brought to a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Merged {
    /// It stands there now.
    Written,
    /// The same stood there, or what is later.
    Stood,
}

/// What a region has of a key, with its version there.
pub(super) type Found = Option<(Record, Version)>;

/// One region of a store.
#[derive(Debug)]
pub(super) struct Region {
    pub(super) name: Arc<str>,
    pub(super) data: Arc<dyn StorageAdapter>,
    pub(super) meta: Arc<dyn StorageAdapter>,
    /// What stands there, as far as is known.
    pub(super) versions: Versions,
    /// The mark that it was filled with, as seen last.
    filled: Mutex<Option<String>>,
    /// Folders of the namespaces that are written down there.
    spaces: Mutex<std::collections::HashSet<Arc<str>>>,
}

impl Region {
    pub(super) fn new(name: &str, store: &Arc<dyn StorageAdapter>, memory: &Arc<Memory>) -> Self {
        let data = store.with_namespace(&Namespace::of_ours(DATA));
        let meta = store.with_namespace(&Namespace::of_ours(META));
        let versions = Versions::new(memory);
        Self { name: name.into(), data, meta, versions, filled: Mutex::default(), spaces: Mutex::default() }
    }

    /// A document of this layer.
    pub(super) async fn doc<T: DeserializeOwned>(&self, name: &str) -> Result<Option<(T, Version)>, Error> {
        let Some(Entry { value, version }) = self.meta.get(&Key::new(name)?).await? else { return Ok(None) };
        let damaged = |problem: String| Error::Corrupt { key: name.to_owned(), problem };
        let Value::Json(json) = value else { return Err(damaged("it is no document".to_owned())) };
        let doc = serde_json::from_value(json).map_err(|why| damaged(why.to_string()))?;
        Ok(Some((doc, version)))
    }

    /// Writes a document; `Ok(false)`: its condition does not hold.
    pub(super) async fn put_doc<T: Serialize + Sync>(
        &self,
        name: &str,
        doc: &T,
        condition: &Condition,
    ) -> Result<bool, Missed> {
        let json = serde_json::to_value(doc).map_err(|why| Error::invalid("document", why.to_string()))?;
        self.put_meta(name, Value::Json(json), condition).await
    }

    /// The same, of any value.
    pub(super) async fn put_meta(&self, name: &str, value: Value, condition: &Condition) -> Result<bool, Missed> {
        let key = Key::new(name)?;
        let mut lost = 0;
        loop {
            match self.meta.put(&key, value.clone(), condition).await? {
                Outcome::Applied(_) => return Ok(true),
                Outcome::Rejected(_) => return Ok(false),
                // Whatever stands there, it does no harm to write it again.
                Outcome::Unknown(_) if *condition == Condition::Any && lost < MAX_LOST => lost += 1,
                Outcome::Unknown(why) => return Err(Missed::Unknown(why.0)),
            }
        }
    }

    fn filled(&self) -> MutexGuard<'_, Option<String>> {
        self.filled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spaces(&self) -> MutexGuard<'_, std::collections::HashSet<Arc<str>>> {
        self.spaces.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether what is not there is nowhere, and whether that is news.
    async fn look_filled(&self) -> Result<(bool, bool), Error> {
        let mark: Option<String> = self.doc(FILLED).await?.map(|(mark, _)| mark);
        let mut filled = self.filled();
        let changed = *filled != mark;
        if changed {
            // It was emptied, or another's work: what was written down there is perhaps not any more.
            self.spaces().clear();
            filled.clone_from(&mark);
        }
        Ok((mark.is_some(), changed))
    }

    /// Whether what is not there is nowhere: it was filled, and not emptied since.
    pub(super) async fn is_filled(&self) -> Result<bool, Error> {
        Ok(self.look_filled().await?.0)
    }

    pub(super) async fn set_filled(&self) -> Result<(), Missed> {
        self.put_doc(FILLED, &new_nonce(), &Condition::Any).await.map(drop)
    }

    /// What stands there under a key.
    pub(super) async fn find(&self, at: usize, space: &Space, key: &Key, clock: &HybridClock) -> Result<Found, Error> {
        read(key, space.stores[at].get(key).await?, clock)
    }

    /// The same, and whether nothing there means nothing anywhere.
    pub(super) async fn find_surely(
        &self,
        at: usize,
        space: &Space,
        key: &Key,
        clock: &HybridClock,
    ) -> Result<(Found, bool), Error> {
        if let Some(found) = self.find(at, space, key, clock).await? {
            return Ok((Some(found), true));
        }
        let (is_filled, changed) = self.look_filled().await?;
        // Filled between the two looks, it may have the key now.
        let found = if is_filled && changed { self.find(at, space, key, clock).await? } else { None };
        Ok((found, is_filled))
    }

    /// Brings a record there, unless what stands there is as late: nothing is ever written over what is later.
    pub(super) async fn merge(
        &self,
        at: usize,
        space: &Arc<Space>,
        key: &Key,
        record: &Record,
        clock: &HybridClock,
    ) -> Result<Merged, Missed> {
        self.register(space).await?;
        let store = &space.stores[at];
        let mut next = record.clone();
        let mut condition = self.versions.under(space, key, record).map_or(Condition::Absent, Condition::Version);
        let mut lost = 0;
        for _ in 0..MAX_ATTEMPTS {
            let current = match store.put(key, next.to_value(), &condition).await {
                Ok(Outcome::Applied(version)) => {
                    self.versions.note(space, key, Some((&next, &version)));
                    return Ok(Merged::Written);
                }
                Ok(Outcome::Rejected(current)) => current,
                // If it has arrived, it is seen to stand there.
                Ok(Outcome::Unknown(_)) if lost < MAX_LOST => {
                    lost += 1;
                    continue;
                }
                Ok(Outcome::Unknown(why)) => return Err(Missed::Unknown(why.0)),
                // Nobody can read what stands there.
                Err(Error::Corrupt { .. }) if condition != Condition::Any => {
                    condition = Condition::Any;
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            let Some(Entry { value, version }) = current else {
                (next, condition) = (record.clone(), Condition::Absent);
                continue;
            };
            let stands = Record::from_value(key, value);
            self.versions.note(space, key, stands.as_ref().ok().map(|stands| (stands, &version)));
            condition = Condition::Version(version);
            next = match stands {
                Ok(stands) => {
                    clock.observe(stands.time());
                    match record.join(key, &stands)? {
                        Some(joined) => joined,
                        None => return Ok(Merged::Stood),
                    }
                }
                // Nobody who goes by the rules has written that.
                Err(Error::Corrupt { .. }) => record.clone(),
                Err(error) => return Err(error.into()),
            };
        }
        Err(Error::Contended { key: key.to_string(), attempts: MAX_ATTEMPTS }.into())
    }

    /// Writes a namespace down before its first record is written there: what is not written down is not found.
    pub(super) async fn register(&self, space: &Space) -> Result<(), Error> {
        if self.spaces().contains(&space.folder) {
            return Ok(());
        }
        let names: Vec<&str> = space.names.iter().map(Namespace::as_str).collect();
        let key = format!("{SPACES}{:032x}", xxh3_128(space.folder.as_bytes()));
        self.put_doc(&key, &json!(names), &Condition::Any).await.map_err(Missed::into_error)?;
        self.spaces().insert(Arc::clone(&space.folder));
        Ok(())
    }

    /// The namespaces that are written down there.
    pub(super) async fn load(&self, spaces: &Spaces) -> Result<Vec<Arc<Space>>, Error> {
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let page = self.meta.list(SPACES, after.as_ref(), PAGE).await?;
            for key in &page.keys {
                let Some((names, _)) = self.doc::<Vec<String>>(key.as_str()).await? else { continue };
                let names: Result<Vec<Namespace>, Error> = names.into_iter().map(Namespace::new).collect();
                found.push(spaces.space(&names?));
            }
            match page.keys.last() {
                Some(last) if page.more => after = Some(last.clone()),
                _ => return Ok(found),
            }
        }
    }

    /// The records of one page.
    pub(super) async fn page(
        &self,
        at: usize,
        space: &Space,
        after: Option<&Key>,
        clock: &HybridClock,
    ) -> Result<Records, Error> {
        let page = space.stores[at].list("", after, PAGE).await?;
        let (mut records, mut damaged) = (Vec::with_capacity(page.keys.len()), None);
        for (key, entry) in page.keys.iter().zip(space.stores[at].get_batch(&page.keys).await) {
            match entry.and_then(|entry| read(key, entry, clock)) {
                Ok(Some((record, version))) => records.push((key.clone(), record, version)),
                Ok(None) => {}
                Err(error @ Error::Corrupt { .. }) => damaged = damaged.or(Some(error)),
                Err(error) => return Err(error),
            }
        }
        Ok(Records { records, damaged, next: page.keys.last().filter(|_| page.more).cloned() })
    }
}

/// A page of what a region has.
pub(super) struct Records {
    pub(super) records: Vec<(Key, Record, Version)>,
    /// What is wrong with one that is not among them.
    pub(super) damaged: Option<Error>,
    /// Where the next page begins.
    pub(super) next: Option<Key>,
}

/// The record in what a region's store has: the clock goes on from it.
pub(super) fn read(key: &Key, entry: Option<Entry>, clock: &HybridClock) -> Result<Found, Error> {
    let Some(Entry { value, version }) = entry else { return Ok(None) };
    let record = Record::from_value(key, value)?;
    clock.observe(record.time());
    Ok(Some((record, version)))
}

/// One namespace of a store, in each region.
#[derive(Debug)]
pub(super) struct Space {
    names: Vec<Namespace>,
    pub(super) folder: Arc<str>,
    pub(super) stores: Vec<Arc<dyn StorageAdapter>>,
    /// Something was written to it: it stays known.
    is_kept: AtomicBool,
}

impl Space {
    /// Bytes of the folder in which all namespaces of users are, in a region's store.
    pub(super) const FOLDER: usize = "ns/".len() + DATA.len() + "/".len();

    /// It stays known, whoever uses it.
    pub(super) fn keep(self: &Arc<Self>, spaces: &Spaces) {
        if !self.is_kept.swap(true, Ordering::AcqRel) {
            spaces.known().kept.push(Arc::clone(self));
        }
    }
}

#[derive(Debug, Default)]
struct Known {
    spaces: HashMap<Arc<str>, Weak<Space>>,
    kept: Vec<Arc<Space>>,
    most: usize,
}

/// All namespaces of a store that are in use.
#[derive(Debug)]
pub(super) struct Spaces {
    stores: Vec<Arc<dyn StorageAdapter>>,
    known: Mutex<Known>,
}

impl Spaces {
    pub(super) fn new(regions: &[Region]) -> Self {
        let stores = regions.iter().map(|region| Arc::clone(&region.data)).collect();
        Self { stores, known: Mutex::default() }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A namespace of the store; none: what lies outside of all.
    pub(super) fn space(&self, names: &[Namespace]) -> Arc<Space> {
        /// Namespaces of which it is not looked whether they are still in use.
        const LEAST: usize = 64;
        let folder: Arc<str> = keys_folder(names).into();
        let mut known = self.known();
        if let Some(space) = known.spaces.get(&folder).and_then(Weak::upgrade) {
            return space;
        }
        if known.spaces.len() >= known.most {
            known.spaces.retain(|_, space| space.strong_count() > 0);
            known.most = (2 * known.spaces.len()).max(LEAST);
        }
        let enter = |store: &Arc<dyn StorageAdapter>| {
            names.iter().fold(Arc::clone(store), |store, name| store.with_namespace(name))
        };
        let stores = self.stores.iter().map(enter).collect();
        let space =
            Space { names: names.to_vec(), folder: Arc::clone(&folder), stores, is_kept: AtomicBool::new(false) };
        let space = Arc::new(space);
        known.spaces.insert(folder, Arc::downgrade(&space));
        space
    }

    /// A namespace below another one.
    pub(super) fn below(&self, space: &Space, name: &Namespace) -> Arc<Space> {
        self.space(&[space.names.as_slice(), std::slice::from_ref(name)].concat())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backends::memory::MemoryAdapter;

    fn record(key: &Key, time: u64, n: i64) -> Record {
        Record::new(key, (time, &"a".into()), Some(&Value::Json(json!(n))), Default::default()).unwrap()
    }

    fn memory() -> (Region, Spaces) {
        let store: Arc<dyn StorageAdapter> = Arc::new(MemoryAdapter::new());
        let region = Region::new("a", &store, &Arc::default());
        let spaces = Spaces::new(std::slice::from_ref(&region));
        (region, spaces)
    }

    #[tokio::test]
    async fn nothing_is_written_over_what_is_later() {
        let (region, spaces) = memory();
        let (clock, space, key) = (HybridClock::default(), spaces.space(&[]), Key::new("k").unwrap());
        for (time, expected) in [(5, Merged::Written), (4, Merged::Stood), (7, Merged::Written), (6, Merged::Stood)] {
            let record = record(&key, time, 1);
            for merged in [expected, Merged::Stood] {
                let done = region.merge(0, &space, &key, &record, &clock).await.unwrap();
                assert_eq!(done, merged, "{time}");
            }
        }
        let (stands, version) = region.find(0, &space, &key, &clock).await.unwrap().unwrap();
        assert_eq!((stands.time(), clock.last()), (7, 7));
        // A wrong belief of what stands there does no harm.
        let stale = Version { tag: "stale".to_owned(), ..version };
        region.versions.note(&space, &key, Some((&record(&key, 3, 1), &stale)));
        let later = record(&key, 8, 1);
        assert_eq!(region.merge(0, &space, &key, &later, &clock).await.unwrap(), Merged::Written);
        region.versions.note(&space, &key, Some((&record(&key, 3, 1), &stale)));
        assert_eq!(region.merge(0, &space, &key, &record(&key, 4, 1), &clock).await.unwrap(), Merged::Stood);
    }

    #[tokio::test]
    async fn what_is_damaged_is_written_over() {
        let (region, spaces) = memory();
        let (clock, space, key) = (HybridClock::default(), spaces.space(&[]), Key::new("k").unwrap());
        space.stores[0].set(&key, Value::Json(json!(0))).await.unwrap().applied().unwrap();
        assert!(matches!(region.find(0, &space, &key, &clock).await, Err(Error::Corrupt { .. })));
        let done = region.merge(0, &space, &key, &record(&key, 5, 1), &clock).await.unwrap();
        assert_eq!(done, Merged::Written);
    }

    #[tokio::test]
    async fn namespaces_that_were_written_to_are_found_there_also_after_it_was_emptied() {
        let (region, spaces) = memory();
        let names: Vec<Namespace> = ["a", "b/c"].map(|name| Namespace::new(name).unwrap()).to_vec();
        let space = spaces.below(&spaces.space(&names[..1]), &names[1]);
        assert!(Arc::ptr_eq(&space, &spaces.space(&names)));
        region.register(&space).await.unwrap();
        region.set_filled().await.unwrap();
        assert!(region.is_filled().await.unwrap());
        let found = region.load(&spaces).await.unwrap();
        assert_eq!(found.iter().map(|space| &*space.folder).collect::<Vec<_>>(), [keys_folder(&names)]);
        for name in ["filled".to_owned(), format!("{SPACES}{:032x}", xxh3_128(space.folder.as_bytes()))] {
            region.meta.delete(&Key::new(name).unwrap()).await.unwrap().applied().unwrap();
        }
        assert!(!region.is_filled().await.unwrap());
        region.register(&space).await.unwrap();
        assert_eq!(region.load(&spaces).await.unwrap().len(), 1);
    }
}
