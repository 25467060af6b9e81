//! Writes that are acknowledged before they are flushed.
//!
//! A write is judged at once on what stands, acknowledged, and flushed with what comes close to it. All that goes through
//! one buffer sees it from then on: whoever owns the store sees one operation after the other, and only a crash, or the
//! loss of the claim to the store, undoes what was not flushed.
//!
//! - `line`: one key between its acknowledgement and its flush; `state`: all of them.
//! - `flusher`: sends what is due, and finds out what became of it.
//! - `layers::gates`: one writer of a key at a time; `told`: the versions that clients know.
//!
//! The version of a write that was not flushed can't be the store's own, which is made when it is written. It is one that
//! is translated, as long as it is among the newest; after that, or elsewhere, a condition on it does not hold.

mod flusher;
mod line;
mod state;
mod told;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::Number;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use self::state::{Buffer, Known};
use super::{Place, as_kind, removed, sum, swapped, written};
use crate::encoding::keys_folder;
use crate::{
    Condition, Done, Entry, Error, Key, Namespace, Operation, OperationId, Page, StorageAdapter, Value, Version,
    WriteResult,
};

pub(super) use self::state::Settings;
pub(super) use self::told::{LEAST, Told};

/// Longest wait for room in the buffer, or for a key to be flushed: less than a request may take, so that its failure is
/// a clean one.
const PATIENCE: Duration = Duration::from_secs(5);

/// What stands under keys.
type Read = HashMap<Key, Result<Option<Entry>, Error>>;

/// A store behind a buffer.
#[derive(Debug)]
struct BufferedAdapter {
    buffer: Arc<Buffer>,
    namespaces: Vec<Namespace>,
    folder: Arc<str>,
    inner: Arc<dyn StorageAdapter>,
    /// For operations with an id: whether they were done, the store alone knows.
    durable: Arc<dyn StorageAdapter>,
    /// While there is one of these, what fails is tried again.
    in_use: Arc<()>,
}

/// A store whose writes are acknowledged before they are flushed.
pub(super) fn over(
    settings: Settings,
    store: Arc<dyn StorageAdapter>,
    durable: Arc<dyn StorageAdapter>,
) -> Arc<dyn StorageAdapter> {
    let in_use = Arc::new(());
    let buffer = Arc::new(Buffer::new(settings, Arc::downgrade(&in_use)));
    let folder = keys_folder(&[]).into();
    Arc::new(BufferedAdapter { buffer, namespaces: Vec::new(), folder, inner: store, durable, in_use })
}

impl BufferedAdapter {
    fn place(&self, key: &Key) -> Place {
        (Arc::clone(&self.folder), key.clone())
    }

    async fn one<T>(&self, key: &Key, operation: Operation, kind: fn(Done) -> Option<T>) -> WriteResult<T> {
        operation.check()?;
        let answers = self.perform_now(vec![(key.clone(), operation)]).await;
        as_kind(crate::operation::only(answers), kind)
    }

    /// Judges and acknowledges, all at once.
    async fn perform_now(&self, items: Vec<(Key, Operation)>) -> Vec<WriteResult<Done>> {
        let mut room = match self.room(items.len()).await {
            Ok(room) => room,
            Err(error) => return vec![Err(error); items.len()],
        };
        let _alone = self.buffer.gates.alone(items.iter().map(|(key, _)| self.place(key)).collect()).await;
        let mut found = Read::new();
        loop {
            let missing = {
                let mut state = self.buffer.lock();
                let missing = state.missing(&self.folder, &items, &found);
                if missing.is_empty() {
                    return self.buffer.perform(&mut state, (&self.folder, &self.inner), items, &found, &mut room);
                }
                missing
            };
            // Nobody else writes to these keys meanwhile: what is found is what stands.
            let read = match missing.as_slice() {
                [key] => vec![self.inner.get(key).await],
                keys => self.inner.get_batch(keys).await,
            };
            found.extend(missing.into_iter().zip(read));
        }
    }

    async fn room(&self, writes: usize) -> Result<OwnedSemaphorePermit, Error> {
        let writes = u32::try_from(writes).unwrap_or(u32::MAX);
        match timeout(PATIENCE, Arc::clone(&self.buffer.room).acquire_many_owned(writes)).await {
            Ok(Ok(room)) => Ok(room),
            Ok(Err(_)) => Err(state::over()),
            Err(_) => Err(busy()),
        }
    }
}

fn busy() -> Error {
    let detail = "as many acknowledged writes wait for the store as may, and it takes none; nothing was done";
    Error::unavailable("Busy", detail)
}

#[async_trait]
impl StorageAdapter for BufferedAdapter {
    async fn get(&self, key: &Key) -> Result<Option<Entry>, Error> {
        let place = self.place(key);
        loop {
            let told = match self.buffer.lock().known(&place) {
                Known::Now(now) => return Ok(now),
                Known::Told(told) => told,
            };
            let found = self.inner.get(key).await?;
            if let Some(seen) = self.buffer.lock().seen(&place, told.as_ref(), found) {
                return Ok(seen);
            }
        }
    }

    async fn put(&self, key: &Key, value: Value, condition: &Condition) -> WriteResult<Version> {
        self.one(key, Operation::Put { value, condition: condition.clone() }, written).await
    }

    async fn remove(&self, key: &Key, condition: &Condition) -> WriteResult<bool> {
        condition.check_for_removal()?;
        let outcome = self.one(key, Operation::Remove { condition: condition.clone() }, removed).await;
        match (outcome, condition) {
            // What is damaged can't be judged, but be removed by the store.
            (Err(Error::Corrupt { .. }), Condition::Any) => self.inner.remove(key, condition).await,
            (outcome, _) => outcome,
        }
    }

    async fn compare_and_swap(
        &self,
        key: &Key,
        old: Option<Value>,
        new: Option<Value>,
    ) -> WriteResult<Option<Version>> {
        self.one(key, Operation::Swap { old, new }, swapped).await
    }

    async fn increment(&self, key: &Key, delta: Number) -> WriteResult<(Number, Version)> {
        self.one(key, Operation::Increment { delta }, sum).await
    }

    /// Acknowledged once it is durable: who gives an id wants to be sure.
    async fn perform_once(&self, key: &Key, operation: Operation, id: &OperationId) -> WriteResult<Done> {
        operation.check()?;
        let place = self.place(key);
        let _together = self.buffer.gates.together(place.clone()).await;
        timeout(PATIENCE, self.buffer.flushed(&place)).await.map_err(|_| busy())??;
        self.durable.perform_once(key, operation, id).await
    }

    async fn list(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Page, Error> {
        // Looked at first: what is flushed meanwhile is in both, and what was before is in the store.
        let pending = self.buffer.lock().pending(&self.folder, prefix, after);
        let gone = pending.values().filter(|there| !**there).count();
        let page = self.inner.list(prefix, after, limit.saturating_add(gone)).await?;
        Ok(merge(page, pending, limit))
    }

    fn with_namespace(&self, namespace: &Namespace) -> Arc<dyn StorageAdapter> {
        let mut namespaces = self.namespaces.clone();
        namespaces.push(namespace.clone());
        Arc::new(Self {
            buffer: Arc::clone(&self.buffer),
            folder: keys_folder(&namespaces).into(),
            namespaces,
            inner: self.inner.with_namespace(namespace),
            durable: self.durable.with_namespace(namespace),
            in_use: Arc::clone(&self.in_use),
        })
    }

    async fn get_batch(&self, keys: &[Key]) -> Vec<Result<Option<Entry>, Error>> {
        let places: Vec<Place> = keys.iter().map(|key| self.place(key)).collect();
        let mut answers: Vec<Option<Result<Option<Entry>, Error>>> = vec![None; keys.len()];
        loop {
            let (mut open, mut asked) = (Vec::new(), Vec::new());
            {
                let state = self.buffer.lock();
                for ((place, key), answer) in places.iter().zip(keys).zip(&mut answers) {
                    match answer.is_none().then(|| state.known(place)) {
                        Some(Known::Now(now)) => *answer = Some(Ok(now)),
                        Some(Known::Told(told)) => {
                            open.push((place, told, answer));
                            asked.push(key.clone());
                        }
                        None => {}
                    }
                }
            }
            if asked.is_empty() {
                return answers.into_iter().flatten().collect();
            }
            let mut found = self.inner.get_batch(&asked).await.into_iter();
            let state = self.buffer.lock();
            let lost = || Err(Error::unavailable("Interrupted", "the store did not answer for every key of a batch"));
            for (place, told, answer) in open {
                *answer = match found.next().unwrap_or_else(lost) {
                    Ok(found) => state.seen(place, told.as_ref(), found).map(Ok),
                    Err(error) => Some(Err(error)),
                };
            }
        }
    }

    async fn put_batch(&self, items: Vec<(Key, Value, Condition)>) -> Vec<WriteResult<Version>> {
        let mut outcomes = Vec::with_capacity(items.len());
        let mut items = items.into_iter().peekable();
        while items.peek().is_some() {
            // A value that can't be read back is refused as it is judged.
            let put = |(key, value, condition)| (key, Operation::Put { value, condition });
            let portion = items.by_ref().take(self.buffer.portion()).map(put).collect();
            outcomes.extend(self.perform_now(portion).await.into_iter().map(|answer| as_kind(answer, written)));
        }
        outcomes
    }

    async fn settle(&self) -> Result<(), Error> {
        self.buffer.settle().await?;
        self.inner.settle().await
    }

    fn resume(&self) {
        self.inner.resume();
    }
}

/// A page of the store as it will be: with the keys that were written, and without those that were removed. There must be
/// as many keys more in it as were removed.
fn merge(page: Page, mut pending: BTreeMap<Key, bool>, limit: usize) -> Page {
    if page.more
        && let Some(last) = page.keys.last()
    {
        // What comes behind it belongs to the next page.
        pending.retain(|key, _| key <= last);
    }
    let mut keys: Vec<Key> = page.keys.into_iter().filter(|key| !pending.contains_key(key)).collect();
    keys.extend(pending.into_iter().filter(|(_, there)| *there).map(|(key, _)| key));
    keys.sort_unstable();
    let more = page.more || keys.len() > limit;
    keys.truncate(limit);
    Page { keys, more }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(names: &[&str]) -> Vec<Key> {
        names.iter().map(|name| Key::new(*name).unwrap()).collect()
    }

    fn page(names: &[&str], more: bool) -> Page {
        Page { keys: keys(names), more }
    }

    fn pending(there: &[&str], gone: &[&str]) -> BTreeMap<Key, bool> {
        let mark = |names, there| keys(names).into_iter().map(move |key| (key, there));
        mark(there, true).chain(mark(gone, false)).collect()
    }

    #[test]
    fn a_page_is_of_what_will_be() {
        let merged = merge(page(&["a", "c", "d"], false), pending(&["b", "c"], &["d", "z"]), 10);
        assert_eq!(merged, page(&["a", "b", "c"], false));
    }

    #[test]
    fn what_does_not_fit_is_on_the_next_page() {
        assert_eq!(merge(page(&["b", "c"], false), pending(&["a"], &[]), 2), page(&["a", "b"], true));
        assert_eq!(merge(page(&["a", "b"], true), pending(&["z"], &[]), 2), page(&["a", "b"], true));
        assert_eq!(merge(page(&["a", "b", "c"], true), pending(&["d"], &["a"]), 2), page(&["b", "c"], true));
        assert_eq!(merge(page(&["a"], true), pending(&[], &["a"]), 0), page(&[], true));
        assert_eq!(merge(page(&[], false), pending(&["a"], &[]), 0), page(&[], true));
    }
}
