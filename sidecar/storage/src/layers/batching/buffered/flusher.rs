//! Sends what is due, one batch at a time.

use std::collections::HashMap;
use std::sync::Arc;

use futures::future::join_all;
use futures::stream::{self, StreamExt};
use tokio::time::{sleep_until, timeout};

use super::super::flush::CONCURRENCY;
use super::super::{LINGER, Place};
use super::line::Sent;
use super::state::{Buffer, Due, Said, Sending};
use crate::group::Change;
use crate::{Condition, Outcome, StorageAdapter, Value, Version, WriteResult};

/// Flushes until nothing has come for a while.
pub(super) async fn attend(buffer: Arc<Buffer>) {
    let mut attendance = Attendance { buffer: &buffer, ended: false };
    loop {
        match buffer.due() {
            Due::Now => {
                let said = flush(buffer.take()).await;
                buffer.end(said);
            }
            Due::At(at) => {
                tokio::select! {
                    () = sleep_until(at) => {}
                    () = buffer.news.notified() => {}
                }
            }
            Due::Never => {
                if timeout(LINGER, buffer.news.notified()).await.is_err() && buffer.leave() {
                    break;
                }
            }
        }
    }
    attendance.ended = true;
}

/// Nothing is flushed any more by a task that broke off.
struct Attendance<'a> {
    buffer: &'a Buffer,
    ended: bool,
}

impl Drop for Attendance<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.buffer.give_up("the process is ending, or flushing broke off");
        }
    }
}

/// A value to be written.
struct Putting {
    place: Place,
    store: Arc<dyn StorageAdapter>,
    value: Value,
    condition: Condition,
}

/// A key to be removed.
struct Removing {
    place: Place,
    store: Arc<dyn StorageAdapter>,
    condition: Condition,
}

async fn flush(batch: Vec<Sending>) -> Vec<(Place, Said)> {
    let (mut said, mut puts, mut removes) = (Vec::with_capacity(batch.len()), Vec::new(), Vec::new());
    for Sending { place, store, sent } in batch {
        match sent {
            Sent::Write(Change::Put(value), condition) => puts.push(Putting { place, store, value, condition }),
            Sent::Write(Change::Remove, condition) => removes.push(Removing { place, store, condition }),
            Sent::Write(Change::Nothing, _) | Sent::Nothing => said.push((place, Said::Written(None))),
        }
    }
    let (put, removed) = tokio::join!(put_all(puts), remove_all(removes));
    said.extend(put);
    said.extend(removed);
    said
}

async fn put_all(puts: Vec<Putting>) -> Vec<(Place, Said)> {
    // Apart by store: a batch goes to one.
    let mut apart: HashMap<Arc<str>, Vec<Putting>> = HashMap::new();
    for put in puts {
        apart.entry(Arc::clone(&put.place.0)).or_default().push(put);
    }
    join_all(apart.into_values().map(put_batch)).await.into_iter().flatten().collect()
}

async fn put_batch(puts: Vec<Putting>) -> Vec<(Place, Said)> {
    let Some(store) = puts.first().map(|put| Arc::clone(&put.store)) else { return Vec::new() };
    let items = puts.iter().map(|put| (put.place.1.clone(), put.value.clone(), put.condition.clone())).collect();
    let outcomes = store.put_batch(items).await;
    let written = puts.into_iter().zip(outcomes).map(|(put, outcome)| Written {
        place: put.place,
        store: put.store,
        outcome: outcome.map(|outcome| outcome.map(Some)),
    });
    stream::iter(written).map(said_of).buffer_unordered(CONCURRENCY).collect().await
}

async fn remove_all(removes: Vec<Removing>) -> Vec<(Place, Said)> {
    stream::iter(removes).map(remove).buffer_unordered(CONCURRENCY).collect().await
}

async fn remove(Removing { place, store, condition }: Removing) -> (Place, Said) {
    let outcome = store.remove(&place.1, &condition).await.map(|outcome| outcome.map(|_| None));
    said_of(Written { place, store, outcome }).await
}

/// A write that the store has answered.
struct Written {
    place: Place,
    store: Arc<dyn StorageAdapter>,
    outcome: WriteResult<Option<Version>>,
}

/// What the store said of a write; where it does not know, what stands there now.
async fn said_of(Written { place, store, outcome }: Written) -> (Place, Said) {
    let said = match outcome {
        Ok(Outcome::Applied(version)) => Said::Written(version),
        Ok(Outcome::Rejected(current)) => Said::Stands(current),
        Ok(Outcome::Unknown(_)) => store.get(&place.1).await.map_or_else(Said::Failed, Said::Stands),
        Err(error) => Said::Failed(error),
    };
    (place, said)
}
