//! One time of serving a shard, with the two checks of R3: an operation is let in while the tenure takes operations, and
//! acknowledged only while the tenure still stands. Between them lies the way out: let nothing in, let what is in flight
//! end, and only then give the shard away.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use brainy_coordination::FencingToken;
use brainy_coordination::clock::Validity;
use brainy_storage::StorageAdapter;
use brainy_storage::layers::batching::Claim;
use tokio::sync::Notify;

/// What a shard's storage is written to under. It outlasts a tenure that ends in order: what was acknowledged before it
/// was durable must become so. With the last tenure under it, it is given up.
#[derive(Debug)]
pub(super) struct Hold(Arc<Held>);

#[derive(Debug)]
struct Held {
    session: Validity,
    given_up: AtomicBool,
}

impl Hold {
    pub(super) fn new(session: Validity) -> Self {
        Self(Arc::new(Held { session, given_up: AtomicBool::new(false) }))
    }

    /// For who writes there.
    pub(super) fn claim(&self) -> Arc<dyn Claim> {
        Arc::clone(&self.0) as _
    }

    fn give_up(&self) {
        self.0.given_up.store(true, Ordering::SeqCst);
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.give_up();
    }
}

impl Claim for Held {
    fn holds(&self) -> bool {
        !self.given_up.load(Ordering::SeqCst) && self.session.holds()
    }
}

/// One time of serving a shard: from its opening to its loss.
#[derive(Debug)]
pub(super) struct Tenure {
    token: FencingToken,
    storage: Arc<dyn StorageAdapter>,
    hold: Arc<Hold>,
    /// The session that carries it.
    session: Validity,
    /// Given away: nothing may be acknowledged any more.
    over: AtomicBool,
    in_flight: AtomicUsize,
    /// How many were ever let in.
    operations: AtomicU64,
    idle: Notify,
    /// The tenure before it on this node, while anything is in flight under that: it ends with this one.
    before: Option<Arc<Tenure>>,
}

impl Tenure {
    pub(super) fn new(
        token: FencingToken,
        (storage, hold): (Arc<dyn StorageAdapter>, Arc<Hold>),
        session: Validity,
        before: Option<Arc<Self>>,
    ) -> Arc<Self> {
        let (over, in_flight) = (AtomicBool::new(false), AtomicUsize::new(0));
        let before = before.filter(|before| before.all().any(|tenure| tenure.in_flight.load(Ordering::SeqCst) > 0));
        Arc::new(Self {
            token,
            storage,
            hold,
            session,
            over,
            in_flight,
            operations: AtomicU64::new(0),
            idle: Notify::new(),
            before,
        })
    }

    /// This one, and those before it with operations in flight.
    fn all(&self) -> impl Iterator<Item = &Self> {
        std::iter::successors(Some(self), |tenure| tenure.before.as_deref())
    }

    async fn idle(&self) {
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
    }

    fn set_over(&self) {
        self.all().for_each(|tenure| tenure.over.store(true, Ordering::SeqCst));
    }

    pub(super) fn token(&self) -> FencingToken {
        self.token
    }

    /// How many operations it has let in.
    pub(super) fn operations(&self) -> u64 {
        self.operations.load(Ordering::Relaxed)
    }

    /// Its storage, while a later tenure of the shard may go on with it.
    pub(super) fn goes_on(&self) -> Option<(Arc<dyn StorageAdapter>, Arc<Hold>)> {
        self.hold.0.holds().then(|| (Arc::clone(&self.storage), Arc::clone(&self.hold)))
    }

    pub(super) fn stands(&self) -> bool {
        !self.over.load(Ordering::SeqCst) && self.session.holds()
    }

    /// Waits until nothing is in flight, at most `limit`, and ends the tenure: what is still in flight then will be
    /// reported as unknown (R3). Let nothing more in before. Then waits as long until all that was acknowledged is
    /// durable. False: it is not yet; ask again before the shard is given away.
    pub(super) async fn end(&self, limit: Duration) -> bool {
        let idle = async {
            for tenure in self.all() {
                tenure.idle().await;
            }
        };
        if tokio::time::timeout(limit, idle).await.is_err() {
            tracing::warn!(token = self.token.0, "operations were still in flight: their outcome is unknown");
        }
        self.set_over();
        // An error means that there is nothing more to wait for.
        let settled = tokio::time::timeout(limit, self.storage.settle()).await.is_ok();
        if !settled {
            tracing::warn!(token = self.token.0, "acknowledged writes are not durable yet");
        }
        settled
    }

    /// Ends the tenure without waiting for what is in flight; what was acknowledged may become durable for so long.
    pub(super) async fn leave(&self, limit: Duration) {
        self.set_over();
        let _settled = tokio::time::timeout(limit, self.storage.settle()).await;
        self.give_up();
    }

    /// Ends the tenure at once. Nothing is written under it any more, not even what was acknowledged.
    pub(super) fn give_up(&self) {
        self.set_over();
        self.all().for_each(|tenure| tenure.hold.give_up());
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
        tenure.operations.fetch_add(1, Ordering::Relaxed);
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
