//! How long a piece of work computes, without what it waits for.

use std::future::poll_fn;
use std::pin::pin;
use std::time::Duration;

use brainy_coordination::clock::Clock;

/// Carries out a future, and says for how long it was at work itself.
pub async fn busy<F: Future>(clock: &dyn Clock, work: F) -> (F::Output, Duration) {
    let mut work = pin!(work);
    let mut busy = Duration::ZERO;
    let output = poll_fn(|task| {
        let began = clock.now();
        let polled = work.as_mut().poll(task);
        busy += clock.now().saturating_sub(began);
        polled
    })
    .await;
    (output, busy)
}

#[cfg(test)]
mod tests {
    use std::task::Poll;

    use brainy_coordination::clock::ManualClock;

    use super::*;

    #[tokio::test]
    async fn what_is_waited_for_does_not_count() {
        let clock = ManualClock::default();
        let mut turns = 0;
        let work = poll_fn(|task| {
            clock.advance(Duration::from_secs(1));
            turns += 1;
            if turns == 2 {
                return Poll::Ready(7);
            }
            task.waker().wake_by_ref();
            Poll::Pending
        });
        let another = async { clock.advance(Duration::from_secs(100)) };
        let (done, ()) = tokio::join!(busy(&clock, work), another);
        assert_eq!(done, (7, Duration::from_secs(2)), "two turns of a second, and a hundred of another's between");
    }
}
