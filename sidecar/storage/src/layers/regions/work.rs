//! What a process is amidst of: each piece of work that may carry a record from one region to another, or stamp one.
//!
//! Two things rest on it. What is under way is not taken for delivered ([`Works::floor`]); and a removal is forgotten only
//! when all has ended that may have seen what was removed ([`Works::ended`]).

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

#[derive(Debug, Default)]
struct Open {
    next: u64,
    /// By their number: what it stamps is greater than this.
    works: BTreeMap<u64, u64>,
}

/// All that is under way.
#[derive(Debug, Default)]
pub(super) struct Works {
    open: Mutex<Open>,
    less: Notify,
}

/// A piece of work that has not ended.
#[derive(Debug)]
pub(super) struct Work<'a> {
    works: &'a Works,
    number: u64,
}

impl Drop for Work<'_> {
    fn drop(&mut self) {
        self.works.lock().works.remove(&self.number);
        self.works.less.notify_waiters();
    }
}

impl Works {
    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One begins; whatever it stamps is greater than `floor`.
    pub(super) fn begin(&self, floor: u64) -> Work<'_> {
        let mut open = self.lock();
        let number = open.next;
        open.next += 1;
        open.works.insert(number, floor);
        Work { works: self, number }
    }

    /// How many have begun so far.
    pub(super) fn begun(&self) -> u64 {
        self.lock().next
    }

    /// What is under way stamps nothing at or below this.
    pub(super) fn floor(&self) -> Option<u64> {
        self.lock().works.values().min().copied()
    }

    /// Waits until all has ended that is under way now.
    pub(super) async fn ended(&self) {
        let before = self.lock().next;
        loop {
            let less = self.less.notified();
            tokio::pin!(less);
            // Listens before it looks.
            less.as_mut().enable();
            if self.lock().works.first_key_value().is_none_or(|(number, _)| *number >= before) {
                return;
            }
            less.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_waits_for_what_had_begun_and_for_nothing_else() {
        let works = Works::default();
        let (first, second) = (works.begin(7), works.begin(5));
        assert_eq!(works.floor(), Some(5));
        let ended = works.ended();
        tokio::pin!(ended);
        let is_over =
            async |ended: &mut std::pin::Pin<&mut _>| tokio::time::timeout(Duration::from_secs(1), ended).await.is_ok();
        assert!(!is_over(&mut ended).await);
        let later = works.begin(9);
        drop(first);
        assert!(!is_over(&mut ended).await);
        drop(second);
        assert!(is_over(&mut ended).await, "what began later does not matter");
        assert_eq!(works.floor(), Some(9));
        drop(later);
        assert_eq!(works.floor(), None);
    }
}
