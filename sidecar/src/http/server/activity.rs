//! What each connection is doing: which ones could be closed to make room, and what their clients still have to be told.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// What one connection is doing.
#[derive(Debug)]
pub(super) struct Activity {
    opened: Instant,
    /// Milliseconds from `opened` to the end of the last request, plus one; 0: one is being answered.
    idle_since: AtomicU64,
    /// Something has come in that no request has been made of yet.
    heard: AtomicBool,
    /// A request was answered before all of it had come in.
    cut: AtomicBool,
    asked: AtomicBool,
    leave: Notify,
}

impl Activity {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            opened: Instant::now(),
            idle_since: AtomicU64::new(1),
            heard: AtomicBool::new(false),
            cut: AtomicBool::new(false),
            asked: AtomicBool::new(false),
            leave: Notify::new(),
        })
    }

    /// A request has come in. It is being answered until the result is dropped.
    pub(super) fn begin(self: &Arc<Self>) -> Answering {
        self.idle_since.store(0, Ordering::Relaxed);
        self.heard.store(false, Ordering::Relaxed);
        Answering(Arc::clone(self))
    }

    /// A request is being answered.
    pub(super) fn is_busy(&self) -> bool {
        self.idle_since.load(Ordering::Relaxed) == 0
    }

    /// How long nothing has been asked; `None`: a request is being answered.
    fn idle(&self) -> Option<Duration> {
        let since = self.idle_since.load(Ordering::Relaxed).checked_sub(1)?;
        Some(self.opened.elapsed().saturating_sub(Duration::from_millis(since)))
    }

    /// Something has come in.
    pub(super) fn hear(&self) {
        self.heard.store(true, Ordering::Relaxed);
    }

    /// Part of a request has come in, and no more.
    pub(super) fn is_mid_head(&self) -> bool {
        !self.is_busy() && self.heard.load(Ordering::Relaxed)
    }

    /// The rest of a request's body will not be read.
    pub(super) fn cut_short(&self) {
        self.cut.store(true, Ordering::Relaxed);
    }

    /// The client may still be sending what nobody will read.
    pub(super) fn was_cut_short(&self) -> bool {
        self.cut.load(Ordering::Relaxed)
    }

    /// Resolves when the connection is asked to make room.
    pub(super) async fn asked_to_leave(&self) {
        self.leave.notified().await;
    }

    fn ask_to_leave(&self) {
        self.asked.store(true, Ordering::Relaxed);
        self.leave.notify_one();
    }
}

/// A request that is being answered.
#[derive(Debug)]
pub(super) struct Answering(Arc<Activity>);

impl Drop for Answering {
    fn drop(&mut self) {
        let now = u64::try_from(self.0.opened.elapsed().as_millis()).unwrap_or(u64::MAX - 1);
        self.0.heard.store(false, Ordering::Relaxed);
        self.0.idle_since.store(now + 1, Ordering::Relaxed);
    }
}

/// All open connections.
#[derive(Debug, Default)]
pub(super) struct Open {
    members: Mutex<HashMap<u64, Arc<Activity>>>,
    count: AtomicU64,
}

/// An open connection; it is forgotten when this is dropped.
#[derive(Debug)]
pub(super) struct Member {
    open: Arc<Open>,
    id: u64,
    pub(super) activity: Arc<Activity>,
}

impl Open {
    pub(super) fn enter(self: &Arc<Self>) -> Member {
        let (id, activity) = (self.count.fetch_add(1, Ordering::Relaxed), Activity::new());
        self.members().insert(id, Arc::clone(&activity));
        Member { open: Arc::clone(self), id, activity }
    }

    /// Asks the connection that has been idle for longest to leave, if it has been for `least`. False: there is none.
    pub(super) fn ask_oldest_to_leave(&self, least: Duration) -> bool {
        let members = self.members();
        let idle = members.values().filter(|activity| !activity.asked.load(Ordering::Relaxed));
        let idle = idle.filter_map(|activity| Some((activity.idle()?, activity)));
        match idle.max_by_key(|(idle, _)| *idle) {
            Some((idle, oldest)) if idle >= least => {
                oldest.ask_to_leave();
                true
            }
            _ => false,
        }
    }

    fn members(&self) -> MutexGuard<'_, HashMap<u64, Arc<Activity>>> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.open.members().remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_connection_that_is_idle_is_asked_to_leave_and_only_once() {
        let open = Arc::new(Open::default());
        let busy = open.enter();
        let answering = busy.activity.begin();
        assert!(!open.ask_oldest_to_leave(Duration::ZERO));
        let idle = open.enter();
        assert!(!open.ask_oldest_to_leave(Duration::from_secs(3600)), "it has only just come");
        assert!(open.ask_oldest_to_leave(Duration::ZERO));
        assert!(idle.activity.asked.load(Ordering::Relaxed) && !busy.activity.asked.load(Ordering::Relaxed));
        assert!(!open.ask_oldest_to_leave(Duration::ZERO), "it has been asked");
        drop(answering);
        assert!(open.ask_oldest_to_leave(Duration::ZERO));
        drop((idle, busy));
        assert!(open.members().is_empty());
    }

    #[test]
    fn part_of_a_head_is_told_from_silence_and_from_a_body() {
        let activity = Activity::new();
        assert!(!activity.is_mid_head());
        activity.hear();
        assert!(activity.is_mid_head());
        let answering = activity.begin();
        activity.hear();
        assert!(!activity.is_mid_head(), "that was its body");
        drop(answering);
        assert!(!activity.is_mid_head());
    }
}
