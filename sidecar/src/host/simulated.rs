//! Many processes in one thread, on machines whose clocks differ, in the order that a seed says.
//!
//! Each task of a simulated process is a task of tokio's that runs only when the [`Scheduler`] says so. A wake only puts it
//! among those that may run; which of them is next, the scheduler draws. So the order depends on the seed alone, also where
//! tokio wakes several at once in an order of its own, and every order in which tasks can run comes up with some seed. A
//! process that stands still is not drawn, while its machine's clock goes on; one that is dead is never drawn again.
//!
//! Time is tokio's, paused: when no task may run, it jumps to the next timer.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use brainy_coordination::clock::Clock;
use futures::future::BoxFuture;
use tokio::sync::watch;
use tokio::time::Instant;

/// When every simulation begins, by a clock on the wall that is right.
const BEGINNING: i64 = 1_900_000_000;

thread_local! {
    static CURRENT: RefCell<Option<Host>> = const { RefCell::new(None) };
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Numbers that follow from a seed (SplitMix64).
#[derive(Clone, Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        // Neighbouring seeds must have nothing in common.
        let mut dice = Self(seed.wrapping_mul(0xD6E8_FEB8_6659_FD93));
        dice.number();
        dice
    }

    pub(crate) fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, which is not 0.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.number() % bound as u64) as usize
    }

    /// True so many times of a thousand.
    pub(crate) fn one_in_thousand(&mut self, times: u32) -> bool {
        self.number() % 1000 < u64::from(times)
    }

    /// A time between two.
    pub(crate) fn between(&mut self, least: Duration, most: Duration) -> Duration {
        let range = most.saturating_sub(least).as_micros() as u64;
        least + Duration::from_micros(self.number() % (range + 1))
    }
}

/// Says which task runs next.
#[derive(Clone)]
pub(crate) struct Scheduler(Arc<Mutex<Queue>>);

struct Queue {
    /// Tasks that may run. In the order of their beginning: in what order they were woken plays no part.
    ready: BTreeMap<u64, Arc<Slot>>,
    dice: Dice,
    /// Of the scheduler's own task, while it has nothing to do.
    waker: Option<Waker>,
    begun: u64,
    started: Instant,
    /// The first process that has panicked.
    panicked: Option<String>,
}

impl Scheduler {
    /// Must be called in a runtime of one thread, whose time is paused.
    pub(crate) fn new(seed: u64) -> Self {
        let dice = Dice::new(seed);
        let started = Instant::now();
        let ready = BTreeMap::new();
        Self(Arc::new(Mutex::new(Queue { ready, dice, waker: None, begun: 0, started, panicked: None })))
    }

    /// Forgets every task: those that are left hold it.
    pub(crate) fn clear(&self) {
        let ready = std::mem::take(&mut lock(&self.0).ready);
        drop(ready);
    }

    /// The first process that has panicked.
    pub(crate) fn panicked(&self) -> Option<String> {
        lock(&self.0).panicked.clone()
    }

    /// Since the beginning.
    pub(crate) fn elapsed(&self) -> Duration {
        let started = lock(&self.0).started;
        Instant::now() - started
    }

    /// Lets tasks run, one after the other, until `is_over`, which is called after each, says that it is over. To be run as
    /// a task of the same runtime: tokio takes turns, so each task that was chosen has run when this is polled again.
    pub(crate) async fn run(self, mut is_over: impl FnMut() -> bool + Send) {
        std::future::poll_fn(|context| {
            if is_over() {
                return Poll::Ready(());
            }
            let mut queue = lock(&self.0);
            if queue.ready.is_empty() {
                queue.waker = Some(context.waker().clone());
                return Poll::Pending;
            }
            let count = queue.ready.len();
            let at = queue.dice.below(count);
            let number = queue.ready.keys().nth(at).copied().unwrap_or_default();
            let slot = queue.ready.remove(&number);
            drop(queue);
            if let Some(slot) = slot {
                slot.may_run.store(true, Ordering::Relaxed);
                if let Some(task) = &*lock(&slot.task) {
                    task.wake_by_ref();
                }
            }
            context.waker().wake_by_ref();
            Poll::Pending
        })
        .await
    }

    /// A process of this name, on a machine whose clock runs so many millionths fast, and whose clock on the wall is so
    /// many milliseconds ahead.
    pub(crate) fn host(&self, name: String, fast: i64, wall: i64) -> Host {
        Host(Arc::new(Process {
            scheduler: self.clone(),
            name,
            state: Mutex::new(State { mode: Mode::Running, held: BTreeMap::new() }),
            dead: watch::Sender::new(false),
            fast,
            wall: AtomicI64::new(wall),
        }))
    }
}

/// What was current before a process was entered.
struct Left(Option<Host>);

impl Drop for Left {
    fn drop(&mut self) {
        let left = CURRENT.replace(self.0.take());
        if let Some(host) = left.filter(|_| std::thread::panicking()) {
            lock(&host.0.scheduler.0).panicked.get_or_insert_with(|| host.0.name.clone());
        }
    }
}

/// A process with its machine.
#[derive(Clone)]
pub(crate) struct Host(Arc<Process>);

struct Process {
    scheduler: Scheduler,
    name: String,
    state: Mutex<State>,
    dead: watch::Sender<bool>,
    fast: i64,
    wall: AtomicI64,
}

struct State {
    mode: Mode,
    /// What may run once the process goes on.
    held: BTreeMap<u64, Arc<Slot>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Running,
    Standing,
    Dead,
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.name)
    }
}

impl Host {
    /// The process whose task is running.
    pub(crate) fn current() -> Option<Self> {
        CURRENT.with_borrow(Clone::clone)
    }

    pub(crate) fn name(&self) -> &str {
        &self.0.name
    }

    /// Does something as this process.
    pub(crate) fn enter<T>(&self, act: impl FnOnce() -> T) -> T {
        let _left = Left(CURRENT.replace(Some(self.clone())));
        act()
    }

    /// A task of this process.
    pub(crate) fn task<F: Future + Send + 'static>(&self, task: F) -> Task<F::Output> {
        let mut queue = lock(&self.0.scheduler.0);
        queue.begun += 1;
        let slot =
            Slot { number: queue.begun, host: self.clone(), may_run: AtomicBool::new(false), task: Mutex::default() };
        drop(queue);
        let slot = Arc::new(slot);
        Task { waker: Waker::from(Arc::clone(&slot)), slot, inner: Box::pin(task) }
    }

    /// Begins a task of this process.
    pub(crate) fn spawn<F>(&self, task: F) -> tokio::task::JoinHandle<F::Output>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        tokio::spawn(self.task(task))
    }

    /// As SIGSTOP does: no task runs, and time goes on.
    pub(crate) fn stand(&self) {
        self.leave_off(Mode::Standing);
    }

    /// As SIGCONT does.
    pub(crate) fn go_on(&self) {
        let mut state = lock(&self.0.state);
        if state.mode == Mode::Standing {
            state.mode = Mode::Running;
            for (_, slot) in std::mem::take(&mut state.held) {
                slot.ready();
            }
        }
    }

    /// As SIGKILL does: nothing more is done by this process, and nobody is told by it.
    pub(crate) fn kill(&self) {
        self.leave_off(Mode::Dead);
        lock(&self.0.state).held.clear();
        self.0.dead.send_replace(true);
    }

    fn leave_off(&self, mode: Mode) {
        let mut state = lock(&self.0.state);
        if state.mode == Mode::Dead {
            return;
        }
        state.mode = mode;
        lock(&self.0.scheduler.0).ready.retain(|number, slot| {
            let mine = Arc::ptr_eq(&slot.host.0, &self.0);
            if mine {
                state.held.insert(*number, Arc::clone(slot));
            }
            !mine
        });
    }

    /// Resolves when it is dead.
    pub(crate) async fn dead(&self) {
        let mut dead = self.0.dead.subscribe();
        let _gone = dead.wait_for(|dead| *dead).await;
    }

    /// What a clock on the wall of this machine shows.
    pub(crate) fn wall(&self) -> jiff::Timestamp {
        let elapsed = i64::try_from(self.0.scheduler.elapsed().as_millis()).unwrap_or(i64::MAX);
        let shown = BEGINNING * 1000 + elapsed + self.0.wall.load(Ordering::Relaxed);
        jiff::Timestamp::from_millisecond(shown).unwrap_or_default()
    }

    /// Sets that clock by so many milliseconds.
    pub(crate) fn set_wall(&self, by: i64) {
        self.0.wall.fetch_add(by, Ordering::Relaxed);
    }

    /// The clock that only grows.
    pub(crate) fn clock(&self) -> Arc<dyn Clock> {
        Arc::new(MachineClock { scheduler: self.0.scheduler.clone(), fast: self.0.fast })
    }
}

#[derive(Clone)]
struct MachineClock {
    scheduler: Scheduler,
    fast: i64,
}

impl fmt::Debug for MachineClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MachineClock").field("fast", &self.fast).finish_non_exhaustive()
    }
}

impl Clock for MachineClock {
    fn now(&self) -> Duration {
        let elapsed = i128::try_from(self.scheduler.elapsed().as_nanos()).unwrap_or_default();
        let shown = elapsed + elapsed * i128::from(self.fast) / 1_000_000;
        Duration::from_nanos(u64::try_from(shown).unwrap_or_default())
    }
}

/// What is known of a task beside what it does.
struct Slot {
    number: u64,
    host: Host,
    may_run: AtomicBool,
    /// Tokio's.
    task: Mutex<Option<Waker>>,
}

impl Slot {
    fn ready(self: Arc<Self>) {
        let scheduler = self.host.0.scheduler.clone();
        let mut queue = lock(&scheduler.0);
        queue.ready.insert(self.number, self);
        if let Some(waker) = queue.waker.take() {
            waker.wake();
        }
    }
}

impl Wake for Slot {
    fn wake(self: Arc<Self>) {
        let mut state = lock(&self.host.0.state);
        match state.mode {
            Mode::Running => {
                drop(state);
                self.ready();
            }
            Mode::Standing => {
                state.held.insert(self.number, Arc::clone(&self));
            }
            Mode::Dead => {}
        }
    }
}

/// A task of a simulated process.
pub(crate) struct Task<T> {
    slot: Arc<Slot>,
    waker: Waker,
    inner: BoxFuture<'static, T>,
}

impl<T> Future for Task<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        if !self.slot.may_run.swap(false, Ordering::Relaxed) {
            let first = lock(&self.slot.task).replace(context.waker().clone()).is_none();
            if first {
                self.waker.wake_by_ref();
            }
            return Poll::Pending;
        }
        let host = self.slot.host.clone();
        let Self { waker, inner, .. } = &mut *self;
        host.enter(|| inner.as_mut().poll(&mut Context::from_waker(waker)))
    }
}

mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;

    #[test]
    fn a_process_that_stands_still_does_nothing_while_its_clock_goes_on_and_a_dead_one_never_does() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let scheduler = Scheduler::new(1);
            let running = tokio::spawn(scheduler.clone().run(|| false));
            let host = scheduler.host("a".into(), 100_000, 0);
            let (clock, ticks) = (host.clock(), Arc::new(AtomicU64::new(0)));
            let counting = Arc::clone(&ticks);
            let _task = host.spawn(async move {
                loop {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    counting.fetch_add(1, Ordering::Relaxed);
                }
            });
            let after = async |millis| {
                tokio::time::sleep(Duration::from_millis(millis)).await;
                ticks.load(Ordering::Relaxed)
            };
            assert_eq!(after(10_500).await, 10);
            host.stand();
            assert_eq!(after(9_500).await, 10);
            assert_eq!(clock.now(), Duration::from_secs(22), "a tenth fast");
            host.go_on();
            assert_eq!(after(500).await, 11);
            assert_eq!(after(1000).await, 12);
            host.kill();
            assert_eq!(after(10_000).await, 12);
            running.abort();
        });
    }

    #[test]
    fn the_order_of_what_happens_at_once_follows_from_the_seed() {
        let order = |seed| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
            runtime.unwrap().block_on(async {
                let scheduler = Scheduler::new(seed);
                let running = tokio::spawn(scheduler.clone().run(|| false));
                let host = scheduler.host("a".into(), 0, 0);
                let (order, start) = (Arc::new(Mutex::new(Vec::new())), watch::Sender::new(false));
                let tasks: Vec<_> = (0..8)
                    .map(|number| {
                        let (order, mut start) = (Arc::clone(&order), start.subscribe());
                        host.spawn(async move {
                            let _started = start.changed().await;
                            lock(&order).push(number);
                        })
                    })
                    .collect();
                tokio::time::sleep(Duration::from_secs(1)).await;
                start.send_replace(true);
                for task in tasks {
                    task.await.unwrap();
                }
                running.abort();
                lock(&order).clone()
            })
        };
        let first = order(1);
        assert!((0..10).all(|_| order(1) == first));
        assert!((2..10).any(|seed| order(seed) != first));
    }
}
