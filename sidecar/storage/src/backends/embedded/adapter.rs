//! One store of a database as a [`StorageAdapter`].

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Number;
use tokio::sync::{mpsc, oneshot};

use super::bringing::{self, Brought};
use super::committer::{Current, Decide, Decision, Job, Place};
use super::stores::Store;
use super::{Changes, EmbeddedDatabase, blocking, handoff, layout, names};
use crate::backends::stored::StoredFile;
use crate::envelope::Stored;
use crate::group::{Change, judge};
use crate::layers::compression::Compression;
use crate::operation::{only, shared};
use crate::outcome::interrupted;
use crate::performed::{Performed, Stands};
use crate::{
    Condition, Done, Entry, Error, Key, Namespace, Operation, OperationId, Page, Requests, StorageAdapter, Value,
    Version, WriteResult,
};

/// A store in an [`EmbeddedDatabase`]. Clones share it.
#[derive(Clone)]
pub struct EmbeddedAdapter {
    database: EmbeddedDatabase,
    store: Arc<Store>,
    /// The namespaces, as [`layout`] has them.
    space: Arc<[u8]>,
    compression: Option<Compression>,
}

impl fmt::Debug for EmbeddedAdapter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { database, store, .. } = self;
        f.debug_struct("EmbeddedAdapter")
            .field("database", database)
            .field("store", &store.name)
            .finish_non_exhaustive()
    }
}

impl EmbeddedAdapter {
    pub(super) fn new(database: EmbeddedDatabase, store: Arc<Store>) -> Self {
        Self { database, store, space: Arc::new([]), compression: None }
    }

    /// Compresses what is written from now on. What is there is read as it is.
    pub fn with_compression(self, compression: Option<Compression>) -> Self {
        Self { compression, ..self }
    }

    /// The store's name.
    pub fn name(&self) -> &str {
        &self.store.name
    }

    /// All keys of all namespaces as stored, for [`Import`](super::Import) elsewhere: as they are now, whatever is
    /// written meanwhile. They come one by one as they are taken from the channel, so that memory stays bounded. An error
    /// is the last item.
    pub fn export(&self) -> mpsc::Receiver<Result<StoredFile, Error>> {
        handoff::export(Arc::clone(&self.database.inner.engine), Arc::clone(&self.store))
    }

    /// The same, with what is written from then on: together they are the store as it is when nothing is
    /// [left](Changes::next).
    pub async fn copy(&self) -> Result<(mpsc::Receiver<Result<StoredFile, Error>>, Changes), Error> {
        handoff::copy(self.database.clone(), Arc::clone(&self.store)).await
    }

    /// Brings a value to where it will be, but for the tree.
    async fn bring(&self, value: Value) -> Result<Brought, Error> {
        bringing::one(&self.database.inner.engine, value, self.compression).await
    }

    fn place(&self, key: &Key) -> Result<Place, Error> {
        layout::check_length(&self.space, key)?;
        let (store, space) = (Arc::clone(&self.store), Arc::clone(&self.space));
        Ok(Place { store, space, key: key.clone(), compression: self.compression })
    }

    fn read(&self, place: &Place) -> Result<Option<Entry>, Error> {
        let found = self.store.read(|generation| self.database.inner.engine.envelope(&place.at(generation)))?;
        found.map(|envelope| Ok(place.open(&envelope)?.entry)).transpose()
    }

    fn page(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Page, Error> {
        let engine = &self.database.inner.engine;
        self.store.read(|generation| {
            let prefix = layout::data_prefix(generation, &self.space, prefix);
            let after = after.map(|after| layout::data_key(generation, &self.space, after));
            let Some(from) = layout::start(&prefix, after) else { return Ok(Page::default()) };
            let snapshot = engine.snapshot();
            let mut found = engine.keys(&snapshot, &prefix, from);
            let mut page = Page::default();
            while let Some(bytes) = found.next().transpose()? {
                if page.keys.len() == limit {
                    page.more = true;
                    break;
                }
                let foreign = || super::stores::damaged("a key that is none");
                let (_, _, key) = layout::parse_data_key(&bytes).ok_or_else(foreign)?;
                page.keys.push(key);
            }
            Ok(page)
        })
    }

    /// Whether that is the same namespace of the same database.
    fn lies_with(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.database.inner, &other.database.inner) && self.space == other.space
    }

    /// Has the committer judge a write, and waits until it is durable.
    async fn write<T: Send + 'static>(&self, place: Place, decide: Decide<T>) -> WriteResult<T> {
        let (reply, answer) = oneshot::channel();
        self.database
            .submit(Job::Write(Box::new(move |round| {
                let judged = round.write(&place, decide);
                // If nobody waits any more, it is written all the same.
                round.at_end(move |ended| drop(reply.send(judged.settle(ended))));
            })))
            .await?;
        // The committer took it and did not answer.
        answer.await.unwrap_or_else(|_| interrupted())
    }
}

/// Decides a write of a value under a condition.
fn put(value: Brought, condition: Condition) -> Decide<Version> {
    Box::new(move |current: Current<'_>| {
        if !condition.holds(current.version()?) {
            return Ok(Decision::Reject(current.entry()?));
        }
        Ok(Decision::Write(value, current.performed()?, Box::new(|version| version)))
    })
}

/// What stands there, and the operations that it remembers.
fn parts(stored: Option<Stored>) -> (Option<Entry>, Performed) {
    stored.map_or_else(Default::default, |stored| (Some(stored.entry), stored.performed))
}

#[async_trait]
impl StorageAdapter for EmbeddedAdapter {
    async fn get(&self, key: &Key) -> Result<Option<Entry>, Error> {
        let (adapter, place) = (self.clone(), self.place(key)?);
        blocking(move || adapter.read(&place)).await
    }

    async fn put(&self, key: &Key, value: Value, condition: &Condition) -> WriteResult<Version> {
        let place = self.place(key)?;
        let value = self.bring(value).await?;
        self.write(place, put(value, condition.clone())).await
    }

    async fn remove(&self, key: &Key, condition: &Condition) -> WriteResult<bool> {
        condition.check_for_removal()?;
        let (place, condition) = (self.place(key)?, condition.clone());
        let decide: Decide<bool> = Box::new(move |current: Current<'_>| match (current.version(), condition) {
            // Without a condition a damaged value can be removed as well: that is how to get rid of it.
            (Ok(Some(_)) | Err(Error::Corrupt { .. }), Condition::Any) => Ok(Decision::Remove(true)),
            (Ok(None), Condition::Any) => Ok(Decision::Keep(false)),
            (version, condition) => {
                let holds = condition.holds(version?);
                Ok(if holds { Decision::Remove(true) } else { Decision::Reject(current.entry()?) })
            }
        });
        self.write(place, decide).await
    }

    async fn list(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Page, Error> {
        let (adapter, prefix, after) = (self.clone(), prefix.to_owned(), after.cloned());
        blocking(move || adapter.page(&prefix, after.as_ref(), limit)).await
    }

    async fn list_with(
        &self,
        others: &[Arc<dyn StorageAdapter>],
        prefix: &str,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Option<Page>, Error> {
        let mut stores = vec![Arc::clone(&self.store)];
        for other in others {
            let other: &dyn Any = &**other;
            match other.downcast_ref::<Self>() {
                Some(other) if self.lies_with(other) => stores.push(Arc::clone(&other.store)),
                _ => return Ok(None),
            }
        }
        let (database, space) = (Arc::clone(&self.database.inner), Arc::clone(&self.space));
        let (prefix, after) = (prefix.to_owned(), after.cloned());
        blocking(move || names::page(&database.engine, &stores, &space, &prefix, after.as_ref(), limit)).await
    }

    fn with_namespace(&self, namespace: &Namespace) -> Arc<dyn StorageAdapter> {
        let mut space = self.space.to_vec();
        layout::enter(&mut space, namespace);
        Arc::new(Self { space: space.into(), ..self.clone() })
    }

    async fn get_batch(&self, keys: &[Key]) -> Vec<Result<Option<Entry>, Error>> {
        let (adapter, keys) = (self.clone(), keys.to_vec());
        let count = keys.len();
        let all = blocking(move || {
            let read = |key| adapter.place(key).and_then(|place| adapter.read(&place));
            Ok(keys.iter().map(read).collect())
        });
        all.await.unwrap_or_else(|error| vec![Err(error); count])
    }

    async fn put_batch(&self, items: Vec<(Key, Value, Condition)>) -> Vec<WriteResult<Version>> {
        let count = items.len();
        let (places, values): (Vec<_>, Vec<_>) =
            items.into_iter().map(|(key, value, condition)| ((self.place(&key), condition), value)).unzip();
        let values = bringing::several(&self.database.inner.engine, values, self.compression).await;
        let place = |((place, condition), value): ((Result<Place, Error>, Condition), Result<Brought, Error>)| {
            Ok((place?, put(value?, condition)))
        };
        let items: Vec<Result<(Place, Decide<Version>), Error>> = places.into_iter().zip(values).map(place).collect();
        let (reply, answer) = oneshot::channel();
        let job = Job::Write(Box::new(move |round| {
            // In order, within one round: a later item of a key finds what the earlier one is about to write.
            let judge = |item: Result<(Place, _), Error>| item.map(|(place, decide)| round.write(&place, decide));
            let judged: Vec<Result<_, Error>> = items.into_iter().map(judge).collect();
            round.at_end(move |ended| {
                let settle = |item: Result<super::committer::Judged<Version>, Error>| item?.settle(ended);
                drop(reply.send(judged.into_iter().map(settle).collect()));
            });
        }));
        match self.database.submit(job).await {
            Ok(()) => answer.await.unwrap_or_else(|_| (0..count).map(|_| interrupted()).collect()),
            Err(error) => vec![Err(error); count],
        }
    }

    async fn compare_and_swap(
        &self,
        key: &Key,
        old: Option<Value>,
        new: Option<Value>,
    ) -> WriteResult<Option<Version>> {
        let place = self.place(key)?;
        let new = match new {
            Some(value) => Some(self.bring(value).await?),
            None => None,
        };
        let decide: Decide<Option<Version>> = Box::new(move |current: Current<'_>| {
            let (current, performed) = parts(current.stored()?);
            if current.as_ref().map(|entry| &entry.value) != old.as_ref() {
                return Ok(Decision::Reject(current));
            }
            Ok(match (new, current) {
                (Some(value), _) => Decision::Write(value, performed, Box::new(Some)),
                (None, Some(_)) => Decision::Remove(None),
                (None, None) => Decision::Keep(None),
            })
        });
        self.write(place, decide).await
    }

    async fn increment(&self, key: &Key, delta: Number) -> WriteResult<(Number, Version)> {
        let (place, name) = (self.place(key)?, key.clone());
        let decide: Decide<(Number, Version)> = Box::new(move |current: Current<'_>| {
            let (current, performed) = parts(current.stored()?);
            let sum = crate::value::add(&name, current.as_ref().map(|entry| &entry.value), &delta)?;
            let value = Brought::Value(Value::Json(sum.clone().into()));
            Ok(Decision::Write(value, performed, Box::new(|version| (sum, version))))
        });
        self.write(place, decide).await
    }

    async fn perform_once(&self, key: &Key, operation: Operation, id: &OperationId) -> WriteResult<Done> {
        only(self.perform(key, Requests::once(operation, id)).await)
    }

    async fn perform(&self, key: &Key, requests: Requests) -> Vec<WriteResult<Done>> {
        let (name, count) = (key.clone(), requests.len());
        let operations: Vec<_> = (&requests).into_iter().map(|request| &request.operation).collect();
        let prepared = async {
            let place = self.place(key)?;
            let engine = &self.database.inner.engine;
            Ok((place, bringing::last(engine, operations.into_iter(), self.compression).await?))
        };
        let (place, brought) = match prepared.await {
            Ok(prepared) => prepared,
            Err(error) => return shared(count, Err(error)),
        };
        let decide: Decide<Vec<WriteResult<Done>>> = Box::new(move |current: Current<'_>| {
            let judged = judge(&name, Stands::stored(current.stored()?.as_ref()), &requests);
            Ok(match judged.change() {
                Change::Nothing => Decision::Keep(judged.applied(None)),
                Change::Put(value) => {
                    let performed = judged.performed();
                    let brought = brought.filter(|(number, _)| judged.last() == Some(*number));
                    let value = brought.map_or(Brought::Value(value), |(_, brought)| brought);
                    Decision::Write(value, performed, Box::new(move |version| judged.applied(Some(&version))))
                }
                Change::Remove => Decision::Remove(judged.applied(None)),
            })
        });
        shared(count, self.write(place, decide).await)
    }
}
