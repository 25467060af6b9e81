//! The namespaces of a store: each with its place in either tier, and all of them written down in the hot one, because a
//! store can't be asked which it has.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use serde_json::json;
use xxhash_rust::xxh3::xxh3_128;

use crate::encoding::keys_folder;
use crate::{Condition, Error, Key, Namespace, Outcome, StorageAdapter, Value};

/// Before the names of what is written down of namespaces.
const PREFIX: &str = "ns/";
/// Keys of one page.
const PAGE: usize = 1000;
/// Namespaces that nothing was written to, of which it is not looked whether they are still in use.
const LEAST_OTHERS: usize = 64;

/// Why a listing must not take a key of the hot tier, or of the cold one, for what it seems.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gone {
    /// Its record says that it was removed, by the write of this revision.
    Removed(u64),
    /// It is not known what its record says.
    Unsure,
}

/// One namespace of a store.
#[derive(Debug)]
pub(super) struct Space {
    names: Vec<Namespace>,
    pub(super) folder: Arc<str>,
    pub(super) hot: Arc<dyn StorageAdapter>,
    pub(super) cold: Arc<dyn StorageAdapter>,
    registered: AtomicBool,
    gone: Mutex<BTreeMap<Key, Gone>>,
}

impl Space {
    fn gone(&self) -> MutexGuard<'_, BTreeMap<Key, Gone>> {
        self.gone.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the record of a key says now. By who alone may write the key.
    pub(super) fn note(&self, key: &Key, gone: Option<Gone>) {
        match gone {
            Some(gone) => self.gone().insert(key.clone(), gone),
            None => self.gone().remove(key),
        };
    }

    /// The record of a removal is away, as is what it hid.
    pub(super) fn forget_removal(&self, key: &Key, revision: u64) {
        let mut gone = self.gone();
        if gone.get(key) == Some(&Gone::Removed(revision)) {
            gone.remove(key);
        }
    }

    /// Those that were removed, or of which it is not known, among the keys with a prefix.
    pub(super) fn gone_below(&self, prefix: &str, after: Option<&Key>) -> BTreeMap<Key, Gone> {
        let start = after.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        let gone = self.gone();
        let below = gone.range::<Key, _>((start, std::ops::Bound::Unbounded));
        below
            .skip_while(|(key, _)| key.as_str() < prefix)
            .take_while(|(key, _)| key.as_str().starts_with(prefix))
            .map(|(key, gone)| (key.clone(), *gone))
            .collect()
    }
}

/// All namespaces of a store that are known.
#[derive(Debug)]
pub(super) struct Spaces {
    hot: Arc<dyn StorageAdapter>,
    cold: Arc<dyn StorageAdapter>,
    meta: Arc<dyn StorageAdapter>,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// Those that are written down.
    registered: HashMap<Arc<str>, Arc<Space>>,
    /// Those that somebody looks into, and nothing was ever written to.
    others: HashMap<Arc<str>, Weak<Space>>,
    /// How many of the latter there may be before those that are gone are cleared away.
    most: usize,
}

impl Known {
    fn get(&self, folder: &str) -> Option<Arc<Space>> {
        let registered = self.registered.get(folder).cloned();
        registered.or_else(|| self.others.get(folder).and_then(Weak::upgrade))
    }

    fn add(&mut self, space: &Arc<Space>) {
        if self.others.len() >= self.most {
            self.others.retain(|_, space| space.strong_count() > 0);
            self.most = (2 * self.others.len()).max(LEAST_OTHERS);
        }
        self.others.insert(Arc::clone(&space.folder), Arc::downgrade(space));
    }

    fn register(&mut self, space: &Arc<Space>) {
        self.others.remove(&space.folder);
        self.registered.insert(Arc::clone(&space.folder), Arc::clone(space));
    }
}

impl Spaces {
    pub(super) fn new(
        hot: Arc<dyn StorageAdapter>,
        cold: Arc<dyn StorageAdapter>,
        meta: Arc<dyn StorageAdapter>,
    ) -> Self {
        Self { hot, cold, meta, known: Mutex::default() }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A namespace of the store; none: what lies outside of all.
    pub(super) fn space(&self, names: &[Namespace]) -> Arc<Space> {
        let folder: Arc<str> = keys_folder(names).into();
        let enter = |store: &Arc<dyn StorageAdapter>| {
            names.iter().fold(Arc::clone(store), |store, name| store.with_namespace(name))
        };
        let mut known = self.known();
        if let Some(space) = known.get(&folder) {
            return space;
        }
        let (hot, cold, names) = (enter(&self.hot), enter(&self.cold), names.to_vec());
        let space =
            Arc::new(Space { names, folder, hot, cold, registered: AtomicBool::new(false), gone: Mutex::default() });
        known.add(&space);
        space
    }

    /// A namespace below another one.
    pub(super) fn below(&self, space: &Space, name: &Namespace) -> Arc<Space> {
        self.space(&[space.names.as_slice(), std::slice::from_ref(name)].concat())
    }

    /// All that anything was ever written to.
    pub(super) fn all(&self) -> Vec<Arc<Space>> {
        self.known().registered.values().cloned().collect()
    }

    /// Writes a namespace down before its first record is written: after a crash, what is not written down is not found.
    pub(super) async fn register(&self, space: &Arc<Space>) -> Result<(), Error> {
        if space.registered.load(Ordering::Acquire) {
            return Ok(());
        }
        let names: Vec<&str> = space.names.iter().map(Namespace::as_str).collect();
        let key = Key::new(format!("{PREFIX}{:032x}", xxh3_128(space.folder.as_bytes())))?;
        match self.meta.put(&key, Value::Json(json!(names)), &Condition::Any).await? {
            Outcome::Applied(_) => {
                self.known().register(space);
                space.registered.store(true, Ordering::Release);
                Ok(())
            }
            Outcome::Rejected(_) => Err(Error::unavailable("Interrupted", "a namespace could not be written down")),
            Outcome::Unknown(why) => Err(Error::unavailable("Interrupted", why.0)),
        }
    }

    /// Reads what was written down.
    pub(super) async fn load(&self) -> Result<(), Error> {
        let mut after = None;
        loop {
            let page = self.meta.list(PREFIX, after.as_ref(), PAGE).await?;
            for entry in self.meta.get_batch(&page.keys).await {
                let Some(entry) = entry? else { continue };
                let space = self.space(&names(&entry.value)?);
                self.known().register(&space);
                space.registered.store(true, Ordering::Release);
            }
            match page.keys.last() {
                Some(last) if page.more => after = Some(last.clone()),
                _ => return Ok(()),
            }
        }
    }
}

fn names(value: &Value) -> Result<Vec<Namespace>, Error> {
    let damaged = || Error::Corrupt { key: PREFIX.to_owned(), problem: "it is no list of namespaces".to_owned() };
    let Value::Json(serde_json::Value::Array(names)) = value else { return Err(damaged()) };
    names.iter().map(|name| Namespace::new(name.as_str().ok_or_else(damaged)?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backends::memory::MemoryAdapter;

    fn memory() -> Arc<dyn StorageAdapter> {
        Arc::new(MemoryAdapter::new())
    }

    fn key(text: &str) -> Key {
        Key::new(text).unwrap()
    }

    #[tokio::test]
    async fn namespaces_that_were_written_to_are_known_after_a_restart() {
        let (hot, cold, meta) = (memory(), memory(), memory());
        let spaces = || Spaces::new(Arc::clone(&hot), Arc::clone(&cold), Arc::clone(&meta));
        let before = spaces();
        let names: Vec<Namespace> = ["a", "b/c", "\u{e9}"].map(|name| Namespace::new(name).unwrap()).to_vec();
        for depth in 0..=3 {
            before.register(&before.space(&names[..depth])).await.unwrap();
        }
        before.space(&names[1..]);
        let after = spaces();
        after.load().await.unwrap();
        let mut folders: Vec<Arc<str>> = after.all().iter().map(|space| Arc::clone(&space.folder)).collect();
        folders.sort_unstable();
        let mut expected: Vec<Arc<str>> = (0..=3).map(|depth| keys_folder(&names[..depth]).into()).collect();
        expected.sort_unstable();
        assert_eq!(folders, expected);
        assert!(Arc::ptr_eq(&after.space(&names[..1]), &after.below(&after.space(&[]), &names[0])));
        // Whoever only looks leaves nothing behind.
        for name in 0..10 * LEAST_OTHERS {
            after.space(&[Namespace::new(name.to_string()).unwrap()]);
        }
        assert!(after.known().others.len() <= LEAST_OTHERS && after.all().len() == 4);
    }

    #[test]
    fn a_removal_is_forgotten_by_its_own_revision_alone() {
        let space = Spaces::new(memory(), memory(), memory()).space(&[]);
        space.note(&key("a"), Some(Gone::Removed(3)));
        space.note(&key("ab"), Some(Gone::Removed(4)));
        space.note(&key("b"), Some(Gone::Unsure));
        space.forget_removal(&key("a"), 2);
        assert_eq!(space.gone_below("a", None).len(), 2);
        assert_eq!(space.gone_below("", Some(&key("a"))).len(), 2);
        space.forget_removal(&key("a"), 3);
        space.note(&key("b"), None);
        assert_eq!(space.gone_below("", None), [(key("ab"), Gone::Removed(4))].into());
    }
}
