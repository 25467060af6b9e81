//! Bounds the memory of reads: thousands of keys may be asked for at once, each with megabytes. An answer has at most so
//! many bytes of values, and of all requests together only so many values are on their way from storage at a time: how
//! large one is shows only when it is there.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use brainy_storage::{Error, Value};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::Reply;

/// Most bytes of values in the answer to one batch.
pub const MAX_ANSWER_BYTES: u64 = 32 * 1024 * 1024;

/// Most values on their way from storage at a time.
pub(super) const MOST_READING: usize = 32;

/// Bounds how many values are on their way from storage. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Reading(Arc<Semaphore>);

impl Default for Reading {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MOST_READING)))
    }
}

impl Reading {
    /// Waits for the turn to read so many values, [`MOST_READING`] at most; it ends when this is dropped.
    pub(crate) async fn turn(&self, values: usize) -> Option<SemaphorePermit<'_>> {
        // It is never closed.
        self.0.acquire_many(values.min(MOST_READING) as u32).await.ok()
    }
}

/// The bytes that an answer may still take.
#[derive(Debug)]
pub(crate) struct Budget {
    left: AtomicU64,
    pub(super) reading: Reading,
}

impl Budget {
    pub(crate) fn new(bytes: u64, reading: Reading) -> Self {
        Self { left: AtomicU64::new(bytes), reading }
    }

    pub(crate) fn left(&self) -> u64 {
        self.left.load(Ordering::Relaxed)
    }

    /// The budget of an answer to this many calls. A single value always fits: else it could not be read at all.
    pub(crate) fn of(calls: usize, reading: Reading) -> Self {
        Self::new(if calls > 1 { MAX_ANSWER_BYTES } else { u64::MAX }, reading)
    }

    /// Takes a value's share, or replaces the reply by a failure that says what to do.
    pub(crate) fn charge(&self, reply: Reply) -> Reply {
        let size = match &reply {
            Reply::Found(Some(entry)) => size(&entry.value),
            Reply::Seen(Some(sight)) => sight.head.weight(),
            _ => return reply,
        };
        let taken = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(size));
        match taken {
            Ok(_) => reply,
            Err(_) => {
                // From here on everything is refused: which keys come back must not depend on their sizes.
                self.left.store(0, Ordering::Relaxed);
                too_large()
            }
        }
    }
}

/// What stands in for a value that no longer fits.
pub(crate) fn too_large() -> Reply {
    let problem = format!("the values found exceed {MAX_ANSWER_BYTES} bytes: ask for fewer keys at once");
    Reply::Failed(Error::invalid("keys", problem))
}

/// Bytes of a value as JSON text, or raw.
pub(crate) fn size(value: &Value) -> u64 {
    struct Count(u64);
    impl io::Write for Count {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += bytes.len() as u64;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    match value {
        Value::Bytes(bytes) => bytes.len() as u64,
        Value::Object(object) => object.head.weight() + object.body.len() as u64,
        Value::Json(json) => {
            let mut count = Count(0);
            // Counting can't fail, and a JSON value always has a text.
            let _ = serde_json::to_writer(&mut count, json);
            count.0
        }
    }
}

#[cfg(test)]
mod tests {
    use brainy_storage::{Entry, Version};
    use bytes::Bytes;

    use super::*;

    fn found(bytes: usize) -> Reply {
        let value = Value::Bytes(Bytes::from(vec![0; bytes]));
        Reply::Found(Some(Entry { value, version: Version { revision: 1, tag: "t".into() } }))
    }

    #[test]
    fn an_answer_beyond_its_budget_says_so_key_by_key() {
        let budget = Budget::new(10, Reading::default());
        assert_eq!(budget.charge(found(8)), found(8));
        assert_eq!(budget.charge(found(3)), too_large());
        assert_eq!(budget.charge(found(1)), too_large());
        assert_eq!(budget.charge(Reply::Found(None)), Reply::Found(None));
    }

    #[test]
    fn a_single_value_always_fits() {
        let large = found(usize::try_from(MAX_ANSWER_BYTES).unwrap() + 1);
        assert_eq!(Budget::of(1, Reading::default()).charge(large.clone()), large);
        assert_eq!(Budget::of(2, Reading::default()).charge(large), too_large());
    }

    #[tokio::test]
    async fn only_so_many_values_are_read_at_a_time() {
        let reading = Reading::default();
        let held = reading.turn(usize::MAX).await;
        let next = reading.turn(1);
        tokio::pin!(next);
        assert!(futures::poll!(&mut next).is_pending());
        drop(held);
        assert!(next.await.is_some());
    }

    #[test]
    fn the_size_of_json_counts_its_escapes() {
        assert_eq!(size(&Value::Json(serde_json::json!("\u{1}"))), 8);
    }
}
