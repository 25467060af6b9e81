//! One time of serving a shard, with the two checks of R3: an operation is let in while the tenure takes operations, and
//! acknowledged only while the tenure still stands. Between them lies the way out: let nothing in, let what is in flight
//! end, and only then give the shard away.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use brainy_coordination::FencingToken;
use brainy_coordination::clock::Validity;
use brainy_storage::StorageAdapter;
use tokio::sync::Notify;

/// One time of serving a shard: from its opening to its loss.
#[derive(Debug)]
pub(super) struct Tenure {
    token: FencingToken,
    storage: Arc<dyn StorageAdapter>,
    /// The session that carries it.
    session: Validity,
    /// Given away: nothing may be acknowledged any more.
    over: AtomicBool,
    in_flight: AtomicUsize,
    idle: Notify,
}

impl Tenure {
    pub(super) fn new(token: FencingToken, storage: Arc<dyn StorageAdapter>, session: Validity) -> Arc<Self> {
        let (over, in_flight) = (AtomicBool::new(false), AtomicUsize::new(0));
        Arc::new(Self { token, storage, session, over, in_flight, idle: Notify::new() })
    }

    pub(super) fn token(&self) -> FencingToken {
        self.token
    }

    pub(super) fn storage(&self) -> &Arc<dyn StorageAdapter> {
        &self.storage
    }

    pub(super) fn stands(&self) -> bool {
        !self.over.load(Ordering::SeqCst) && self.session.holds()
    }

    /// Waits until nothing is in flight, at most `limit`, and ends the tenure: what is still in flight then will be
    /// reported as unknown (R3). Let nothing more in before.
    pub(super) async fn end(&self, limit: Duration) {
        let idle = async {
            loop {
                let notified = self.idle.notified();
                tokio::pin!(notified);
                // Listens before it looks, so that the last operation can't slip by in between.
                notified.as_mut().enable();
                if self.in_flight.load(Ordering::SeqCst) == 0 {
                    return;
                }
                notified.await;
            }
        };
        if tokio::time::timeout(limit, idle).await.is_err() {
            tracing::warn!(token = self.token.0, "operations were still in flight: their outcome is unknown");
        }
        self.end_now();
    }

    /// Ends the tenure without waiting.
    pub(super) fn end_now(&self) {
        self.over.store(true, Ordering::SeqCst);
    }
}

/// An operation on a shard that is served here. Counts as in flight until dropped.
#[derive(Debug)]
pub struct Operation {
    tenure: Arc<Tenure>,
}

impl Operation {
    pub(super) fn begin(tenure: &Arc<Tenure>) -> Self {
        tenure.in_flight.fetch_add(1, Ordering::SeqCst);
        Self { tenure: Arc::clone(tenure) }
    }

    /// The shard's storage.
    pub fn storage(&self) -> &Arc<dyn StorageAdapter> {
        &self.tenure.storage
    }

    /// The token it is served under.
    pub fn token(&self) -> FencingToken {
        self.tenure.token
    }

    /// The second check of R3: whether the result may be acknowledged. When false, a write's outcome is unknown and a
    /// read's result must not be used.
    pub fn still_valid(&self) -> bool {
        self.tenure.stands()
    }
}

impl Drop for Operation {
    fn drop(&mut self) {
        if self.tenure.in_flight.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.tenure.idle.notify_waiters();
        }
    }
}
