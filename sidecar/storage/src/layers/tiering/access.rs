//! When keys were read last: in memory, coarsely, and for so many keys at most. Written down now and then in a few values
//! of the hot tier, never for a read.
//!
//! A key of which nothing is kept was not read after the newest time that was given up for want of room: it never looks
//! as if it were unread for longer than it is. What was read after the last time that all was written down is forgotten
//! in a crash.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::{Condition, Error, Key, StorageAdapter, Value};

/// Parts that a store's keys are spread over, each a value when written down.
const PARTS: usize = 16;
/// What a key takes, written down: its hash and seconds.
const ITEM: usize = 12;

/// The reads of all stores of a process, of which so many are kept.
#[derive(Debug)]
pub(super) struct Budget {
    most: usize,
    kept: AtomicUsize,
}

impl Budget {
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, kept: AtomicUsize::new(0) })
    }
}

/// The reads of one store.
#[derive(Debug)]
pub(super) struct Access {
    parts: [Mutex<Part>; PARTS],
    budget: Arc<Budget>,
    /// A time is noted once it is so much later than the one that is known, in seconds.
    grain: u32,
}

#[derive(Debug, Default)]
struct Part {
    /// Seconds since 1970, by the hash of a key.
    read_at: HashMap<u64, u32>,
    /// Nothing that is not kept was read after this.
    given_up: u32,
    changed: bool,
}

impl Drop for Access {
    fn drop(&mut self) {
        let kept: usize = (0..PARTS).map(|at| self.part(at).read_at.len()).sum();
        self.budget.kept.fetch_sub(kept, Ordering::Relaxed);
    }
}

impl Access {
    pub(super) fn new(budget: Arc<Budget>, grain: u32) -> Self {
        Self { parts: Default::default(), budget, grain }
    }

    fn part(&self, at: usize) -> MutexGuard<'_, Part> {
        self.parts[at].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The key with this hash is read. Times are in milliseconds since 1970.
    pub(super) fn read(&self, hash: u64, now: u64) {
        let now = seconds(now);
        let mut part = self.part(hash as usize % PARTS);
        match part.read_at.get_mut(&hash) {
            Some(known) if now < known.saturating_add(self.grain) => return,
            Some(known) => *known = now,
            None => self.add(&mut part, hash, now),
        }
        part.changed = true;
    }

    fn add(&self, part: &mut Part, hash: u64, at: u32) {
        if self.budget.kept.load(Ordering::Relaxed) >= self.budget.most {
            self.make_room(part);
        }
        if part.read_at.insert(hash, at).is_none() {
            self.budget.kept.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Gives up the older half.
    fn make_room(&self, part: &mut Part) {
        let mut times: Vec<u32> = part.read_at.values().copied().collect();
        if times.is_empty() {
            return;
        }
        let middle = times.len() / 2;
        let (_, middle, _) = times.select_nth_unstable(middle);
        let middle = *middle;
        let before = part.read_at.len();
        part.read_at.retain(|_, at| *at > middle);
        part.given_up = part.given_up.max(middle);
        self.budget.kept.fetch_sub(before - part.read_at.len(), Ordering::Relaxed);
    }

    /// When a key that was written at a time was read or written last, as far as it is known; never too early.
    pub(super) fn last(&self, hash: u64, written_at: u64) -> u64 {
        let part = self.part(hash as usize % PARTS);
        let noted = part.read_at.get(&hash).copied().unwrap_or(part.given_up);
        // It may have been read since, and that was not noted any more.
        written_at.max((u64::from(noted) + u64::from(self.grain)) * 1000)
    }

    /// A key is not in the hot tier any more.
    pub(super) fn forget(&self, hash: u64) {
        let mut part = self.part(hash as usize % PARTS);
        if part.read_at.remove(&hash).is_some() {
            part.changed = true;
            self.budget.kept.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Writes down what has changed.
    pub(super) async fn save(&self, meta: &dyn StorageAdapter) -> Result<(), Error> {
        let mut changed = Vec::new();
        for at in 0..PARTS {
            let mut part = self.part(at);
            if std::mem::take(&mut part.changed) {
                changed.push((at, part.to_bytes()));
            }
        }
        let items = changed.iter().map(|(at, bytes)| Ok((name(*at)?, Value::Bytes(bytes.clone()), Condition::Any)));
        let outcomes = meta.put_batch(items.collect::<Result<_, Error>>()?).await;
        let mut failed = None;
        for ((at, _), outcome) in changed.iter().zip(outcomes) {
            if let Err(error) = outcome {
                self.part(*at).changed = true;
                failed = Some(error);
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// Reads what was written down. What has been noted since stays.
    pub(super) async fn load(&self, meta: &dyn StorageAdapter) -> Result<(), Error> {
        let names = (0..PARTS).map(name).collect::<Result<Vec<_>, _>>()?;
        for (at, entry) in meta.get_batch(&names).await.into_iter().enumerate() {
            // What is damaged is made anew in time: it says nothing of what is stored.
            let Ok(Some(Value::Bytes(mut bytes))) = entry.map(|entry| entry.map(|entry| entry.value)) else { continue };
            let mut part = self.part(at);
            if let Ok(given_up) = bytes.try_get_u32() {
                part.given_up = part.given_up.max(given_up);
            }
            while bytes.remaining() >= ITEM {
                let (hash, at) = (bytes.get_u64(), bytes.get_u32());
                if !part.read_at.contains_key(&hash) {
                    self.add(&mut part, hash, at);
                }
            }
        }
        Ok(())
    }
}

impl Part {
    fn to_bytes(&self) -> Bytes {
        let mut bytes = BytesMut::with_capacity(4 + self.read_at.len() * ITEM);
        bytes.put_u32(self.given_up);
        for (hash, at) in &self.read_at {
            bytes.put_u64(*hash);
            bytes.put_u32(*at);
        }
        bytes.freeze()
    }
}

fn name(part: usize) -> Result<Key, Error> {
    Key::new(format!("access/{part:02}"))
}

fn seconds(millis: u64) -> u32 {
    u32::try_from(millis / 1000).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backends::memory::MemoryAdapter;

    const NOW: u64 = 1_790_000_000_000;

    #[tokio::test]
    async fn what_was_read_is_known_after_a_restart() {
        let meta = MemoryAdapter::new();
        let before = Access::new(Budget::new(1000), 60);
        for hash in 0..100 {
            before.read(hash, NOW + hash * 1000);
        }
        before.save(&meta).await.unwrap();
        let after = Access::new(Budget::new(1000), 60);
        after.read(7, NOW + 500_000);
        after.load(&meta).await.unwrap();
        assert_eq!(after.last(8, 0), NOW + 68_000);
        assert_eq!(after.last(7, 0), NOW + 560_000, "what was read since counts");
        assert_eq!(after.last(200, NOW - 5), NOW - 5, "what was never read is as old as it is");
        assert_eq!(after.last(8, NOW + 69_000), NOW + 69_000, "a write counts as well");
    }

    #[tokio::test]
    async fn a_read_writes_nothing_and_what_did_not_change_is_not_written_again() {
        let meta = MemoryAdapter::new();
        let access = Access::new(Budget::new(1000), 60);
        access.read(3, NOW);
        let listed = async || meta.list("access/", None, 100).await.unwrap().keys;
        assert!(listed().await.is_empty());
        access.save(&meta).await.unwrap();
        let names = listed().await;
        assert_eq!(names.len(), 1);
        let version = meta.get(&names[0]).await.unwrap().unwrap().version;
        access.read(3, NOW + 59_000);
        access.save(&meta).await.unwrap();
        assert_eq!(meta.get(&names[0]).await.unwrap().unwrap().version, version);
        access.read(3, NOW + 60_000);
        access.save(&meta).await.unwrap();
        assert_ne!(meta.get(&names[0]).await.unwrap().unwrap().version, version);
    }

    #[test]
    fn what_is_read_all_the_time_never_looks_unread() {
        let access = Access::new(Budget::new(1000), 60);
        for at in 0..200 {
            access.read(3, NOW + at * 1000);
            let last = access.last(3, 0);
            assert!((NOW + at * 1000..=NOW + (at + 60) * 1000).contains(&last), "read after {at} s: {}", last - NOW);
        }
    }

    #[test]
    fn memory_is_bounded_and_no_key_ever_looks_older_than_it_is() {
        let budget = Budget::new(100);
        let access = Access::new(Arc::clone(&budget), 1);
        for hash in 0..5000 {
            access.read(hash, NOW + hash * 1000);
        }
        assert!(budget.kept.load(Ordering::Relaxed) <= 100 + PARTS);
        for hash in 0..5000 {
            let (last, at) = (access.last(hash, 0), NOW + hash * 1000);
            assert!(last >= at, "{hash}");
        }
        assert!(access.last(0, 0) < NOW + 5_000_000, "and not all look as if they were just read");
        access.forget(4999);
        assert!(access.last(4999, 0) < NOW + 4_999_000);
        drop(access);
        assert_eq!(budget.kept.load(Ordering::Relaxed), 0);
    }
}
