//! The task that works for a store in the background: as long as the store is in use, and not while it rests.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

use super::batch::{Answers, Item};
use crate::layers::batching::Claim;
use crate::outcome::interrupted;

/// Time between looks whether a claim still holds.
const CLAIM_LOOKS: Duration = Duration::from_millis(500);

/// What the task does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Working,
    /// Nothing, until the store is used again.
    Resting,
    Ended,
}

/// The task of one store, as who uses the store sees it.
#[derive(Debug)]
pub(in crate::layers) struct Background {
    mode: watch::Sender<Mode>,
    /// For a look without a lock at each use. Changed under the lock of the mode alone, so that the two agree.
    is_resting: AtomicBool,
    idle: watch::Sender<bool>,
}

impl Default for Background {
    fn default() -> Self {
        Self {
            mode: watch::Sender::new(Mode::Working),
            is_resting: AtomicBool::new(false),
            idle: watch::Sender::new(false),
        }
    }
}

impl Background {
    /// The store is used: what rested goes on.
    pub(in crate::layers) fn wake(&self) {
        if self.is_resting.load(Ordering::Acquire) {
            self.turn(Mode::Resting, Mode::Working);
        }
    }

    /// Does nothing any more, until the store is used again.
    pub(in crate::layers) async fn rest(&self) {
        let (mut idle, mut mode) = (self.idle.subscribe(), self.mode.subscribe());
        self.turn(Mode::Working, Mode::Resting);
        tokio::select! {
            biased;
            _ = idle.wait_for(|idle| *idle) => {}
            // It is used.
            _ = mode.wait_for(|mode| *mode == Mode::Working) => {}
        }
    }

    /// The store is not in use any more.
    pub(in crate::layers) fn end(&self) {
        self.mode.send_replace(Mode::Ended);
    }

    fn turn(&self, from: Mode, to: Mode) {
        self.mode.send_if_modified(|mode| {
            let fits = *mode == from;
            if fits {
                *mode = to;
                self.is_resting.store(to == Mode::Resting, Ordering::Release);
            }
            fits
        });
    }

    /// Works until the store is not in use any more, or `work` returns. `interrupted`: what was amidst of something has been
    /// broken off.
    pub(in crate::layers) async fn attend<W: Future<Output = ()>>(&self, work: impl Fn() -> W, interrupted: impl Fn()) {
        let mut mode = self.mode.subscribe();
        loop {
            let now = *mode.borrow_and_update();
            self.idle.send_replace(now != Mode::Working);
            match now {
                Mode::Ended => return,
                Mode::Resting => {
                    if mode.changed().await.is_err() {
                        return;
                    }
                }
                Mode::Working => {
                    tokio::select! {
                        biased;
                        _ = mode.changed() => {}
                        () = work() => self.turn(Mode::Working, Mode::Ended),
                    }
                    interrupted();
                }
            }
        }
    }

    /// A write to the store, of keys of which none comes twice, in a task of its own: a client that gives up must not leave a
    /// write behind that nobody has noted.
    pub(in crate::layers) async fn write<W>(
        self: &Arc<Self>,
        items: Vec<Item>,
        write: impl FnOnce(Vec<Item>) -> W,
    ) -> Vec<Answers>
    where
        W: Future<Output = Vec<Answers>> + Send + 'static,
    {
        self.wake();
        let unknown: Vec<Answers> = items.iter().map(|item| vec![interrupted(); item.requests.len()]).collect();
        let (this, writing) = (Arc::clone(self), write(items));
        let done = tokio::spawn(async move {
            let answers = writing.await;
            // The store may have gone to rest since the write began, and nobody else looks at what it has noted.
            this.wake();
            answers
        });
        done.await.unwrap_or(unknown)
    }
}

/// Waits until the claim holds no more.
pub(in crate::layers) async fn disowned(claim: &dyn Claim) {
    while claim.holds() {
        sleep(CLAIM_LOOKS).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::AtomicU64;

    use tokio::sync::Semaphore;
    use tokio::time::timeout;

    use super::*;

    /// One that counts how often it began to work, and how often that was broken off.
    struct Worker {
        background: Arc<Background>,
        began: Arc<AtomicU64>,
        interrupted: Arc<AtomicU64>,
    }

    impl Worker {
        fn new() -> Self {
            let this = Self { background: Arc::default(), began: Arc::default(), interrupted: Arc::default() };
            let (background, began, interrupted) =
                (Arc::clone(&this.background), Arc::clone(&this.began), Arc::clone(&this.interrupted));
            tokio::spawn(async move {
                let work = || {
                    began.fetch_add(1, Ordering::SeqCst);
                    std::future::pending()
                };
                background
                    .attend(work, || {
                        interrupted.fetch_add(1, Ordering::SeqCst);
                    })
                    .await;
            });
            this
        }

        /// How often it has begun and was broken off, once all that can has had its turn.
        async fn worked(&self) -> (u64, u64) {
            sleep(Duration::from_secs(1)).await;
            (self.began.load(Ordering::SeqCst), self.interrupted.load(Ordering::SeqCst))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_works_unless_it_rests_and_ends_with_its_use() {
        let worker = Worker::new();
        assert_eq!(worker.worked().await, (1, 0));
        worker.background.wake();
        assert_eq!(worker.worked().await, (1, 0), "it worked already");
        worker.background.rest().await;
        worker.background.rest().await;
        assert_eq!(worker.worked().await, (1, 1));
        worker.background.wake();
        assert_eq!(worker.worked().await, (2, 1));
        worker.background.end();
        worker.background.wake();
        assert_eq!(worker.worked().await, (2, 2));
    }

    /// Not even then it rests while it is amidst of something.
    #[tokio::test(start_paused = true)]
    async fn who_puts_it_to_rest_waits_for_it_or_until_it_is_used() {
        let worker = Worker::new();
        assert_eq!(worker.worked().await, (1, 0));
        let mut rest = Box::pin(worker.background.rest());
        // It has not had its turn since.
        assert!(futures::poll!(&mut rest).is_pending());
        worker.background.wake();
        assert!(timeout(Duration::from_secs(60), rest).await.is_ok(), "it is waited for though it works on");
    }

    /// A use begins before the rest and ends after it: what it has left to do is done then, not at the next use.
    #[tokio::test(start_paused = true)]
    async fn a_write_that_ends_while_the_store_rests_wakes_it() {
        let (worker, go_on) = (Worker::new(), Arc::new(Semaphore::new(0)));
        let (background, held) = (Arc::clone(&worker.background), Arc::clone(&go_on));
        let write = tokio::spawn(async move {
            let write = |_| async move {
                held.acquire().await.unwrap().forget();
                Vec::new()
            };
            background.write(Vec::new(), write).await
        });
        assert_eq!(worker.worked().await, (1, 0));
        worker.background.rest().await;
        assert_eq!(worker.worked().await, (1, 1), "the write is not done");
        go_on.add_permits(1);
        write.await.unwrap();
        assert_eq!(worker.worked().await, (2, 1));
    }

    /// The look without a lock and the mode never differ for who has seen the mode.
    #[test]
    fn who_sees_that_it_rests_can_wake_it() {
        const ROUNDS: usize = 2000;
        let (background, round) = (Background::default(), Barrier::new(2));
        let mut lost = 0;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..ROUNDS {
                    background.turn(Mode::Working, Mode::Resting);
                    round.wait();
                }
            });
            for _ in 0..ROUNDS {
                while *background.mode.borrow() == Mode::Working {
                    std::hint::spin_loop();
                }
                background.wake();
                lost += u32::from(*background.mode.borrow() == Mode::Resting);
                background.turn(Mode::Resting, Mode::Working);
                round.wait();
            }
        });
        assert_eq!(lost, 0, "it was used and rests on");
    }
}
