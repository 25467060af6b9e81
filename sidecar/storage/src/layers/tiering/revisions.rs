//! The revisions of a store's writes: one growing sequence for all keys, so that a value is written over without looking
//! what revision the cold tier has of it.
//!
//! They are reserved in blocks, durably: none comes twice, whatever crashes. A store that is new begins at the time of day
//! in microseconds: one whose hot tier was lost goes on above all that the cold tier has.

use std::sync::Arc;

use serde_json::json;
use tokio::sync::Mutex;

use crate::{Condition, Error, Key, Outcome, StorageAdapter, Value, Version};

/// Revisions that are reserved at a time.
const BLOCK: u64 = 1 << 16;
const NAME: &str = "revisions";
/// Most attempts to reserve while others come between.
const MAX_ATTEMPTS: u32 = 8;

/// The sequence of one store.
#[derive(Debug)]
pub(super) struct Revisions {
    meta: Arc<dyn StorageAdapter>,
    block: Mutex<Block>,
}

/// What is left of a block.
#[derive(Debug, Default)]
struct Block {
    next: u64,
    end: u64,
    /// Where the reservation stands.
    version: Option<Version>,
}

impl Revisions {
    pub(super) fn new(meta: Arc<dyn StorageAdapter>) -> Self {
        Self { meta, block: Mutex::default() }
    }

    /// The first of so many revisions in a row, which nothing has had, and which are greater than `above`. `now` in
    /// milliseconds.
    pub(super) async fn take(&self, count: u64, above: u64, now: u64) -> Result<u64, Error> {
        let mut block = self.block.lock().await;
        let first = block.next.max(above.saturating_add(1));
        if first.saturating_add(count) > block.end {
            let first = self.reserve(&mut block, count, above, now).await?;
            block.next = first + count;
            return Ok(first);
        }
        block.next = first + count;
        Ok(first)
    }

    async fn reserve(&self, block: &mut Block, count: u64, above: u64, now: u64) -> Result<u64, Error> {
        let key = Key::new(NAME)?;
        for _ in 0..MAX_ATTEMPTS {
            let stands = self.meta.get(&key).await?;
            let reserved = stands.as_ref().map(|entry| number(&entry.value)).transpose()?;
            // What is left of a block that stands as it was reserved is still this store's own.
            let mine = block.version.is_some() && stands.as_ref().map(|entry| &entry.version) == block.version.as_ref();
            let floor = if mine { block.next } else { reserved.unwrap_or(now.saturating_mul(1000)) };
            let first = floor.max(above.saturating_add(1));
            let end = first.saturating_add(count).max(reserved.unwrap_or(0)).saturating_add(BLOCK);
            let condition = stands.map_or(Condition::Absent, |entry| Condition::Version(entry.version));
            match self.meta.put(&key, Value::Json(json!(end)), &condition).await? {
                Outcome::Applied(version) => {
                    *block = Block { next: first, end, version: Some(version) };
                    return Ok(first);
                }
                Outcome::Rejected(_) => {}
                Outcome::Unknown(why) => return Err(Error::unavailable("Interrupted", why.0)),
            }
        }
        Err(Error::Contended { key: NAME.to_owned(), attempts: MAX_ATTEMPTS })
    }
}

fn number(value: &Value) -> Result<u64, Error> {
    let number = match value {
        Value::Json(json) => json.as_u64(),
        Value::Bytes(_) | Value::Object(_) => None,
    };
    let damaged = || Error::Corrupt { key: NAME.to_owned(), problem: "it is no revision".to_owned() };
    number.ok_or_else(damaged)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backends::memory::MemoryAdapter;

    const NOW: u64 = 1_790_000_000_000;

    #[tokio::test]
    async fn no_revision_comes_twice_whoever_asks() {
        let store: Arc<dyn StorageAdapter> = Arc::new(MemoryAdapter::new());
        let (first, second) = (Revisions::new(Arc::clone(&store)), Revisions::new(Arc::clone(&store)));
        let mut taken = std::collections::BTreeSet::new();
        for revisions in [&first, &second, &first, &second] {
            for count in [1, 40_000, 40_000, 1] {
                let from = revisions.take(count, 0, NOW).await.unwrap();
                assert!((from..from + count).all(|revision| taken.insert(revision)));
            }
        }
        // After a restart, also where the clock goes back.
        let from = Revisions::new(store).take(1, 0, 5).await.unwrap();
        assert!(taken.last().is_some_and(|last| from > *last));
    }

    #[tokio::test]
    async fn a_new_store_goes_on_above_the_time_and_above_what_was_seen() {
        let revisions = Revisions::new(Arc::new(MemoryAdapter::new()));
        let first = revisions.take(1, 0, NOW).await.unwrap();
        assert!(first >= NOW * 1000);
        let seen = first + 10 * BLOCK;
        assert!(revisions.take(1, seen, NOW).await.unwrap() > seen);
        assert!(revisions.take(1, 0, NOW).await.unwrap() > seen);
    }
}
