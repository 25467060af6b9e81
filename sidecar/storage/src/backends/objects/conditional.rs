//! How a conditional request is sent: once, and again only after an answer that says that it had no effect and may be sent
//! again.

use std::future::Future;
use std::time::Duration;

use super::bucket::Written;
use super::failure::{Failure, TIMED_OUT};
use crate::Error;
use crate::chance::below;

/// Most attempts of a conditional write that was each time turned away before it had an effect, and of a read that was
/// each time torn.
pub(in crate::backends) const ATTEMPTS: u32 = 5;
/// Before the second attempt; doubles with each.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// The same where the store limits writes to so many a second (R2: one, of one object).
const FIRST_PAUSE_OF_A_LIMIT: Duration = Duration::from_millis(250);

/// Sends a conditional request to `server`; each attempt within `limit`. For whoever brings another [`Bucket`](super::Bucket).
pub async fn send_conditional<T, F>(server: &str, limit: Duration, request: impl Fn() -> F) -> Result<Written<T>, Error>
where
    F: Future<Output = Result<T, Failure>>,
{
    let mut attempt = 1;
    loop {
        let failure = match tokio::time::timeout(limit, request()).await {
            Ok(Ok(answer)) => return Ok(Written::Applied(answer)),
            Ok(Err(failure)) => failure,
            Err(_) => Failure::Unknown(too_late(server)),
        };
        match failure {
            // A condition on an object that is not there does not hold.
            Failure::Refused | Failure::Missing => return Ok(Written::Refused),
            Failure::Unknown(why) => return Ok(Written::Unknown(describe(&why))),
            Failure::Clean(error) => return Err(error),
            Failure::Again(error) | Failure::Later(error) if attempt == ATTEMPTS => return Err(error),
            Failure::Again(_) => pause(attempt).await,
            Failure::Later(_) => pause_from(FIRST_PAUSE_OF_A_LIMIT, attempt).await,
        }
        attempt += 1;
    }
}

pub(in crate::backends) fn too_late(server: &str) -> Error {
    Error::unavailable(TIMED_OUT, format!("{server} did not answer in time"))
}

fn describe(error: &Error) -> String {
    match error {
        Error::Unavailable { cause, detail } => format!("{cause}: {detail}"),
        other => other.to_string(),
    }
}

/// Waits before the next attempt.
pub(in crate::backends) async fn pause(attempt: u32) {
    pause_from(FIRST_PAUSE, attempt).await;
}

/// Twice as long each time, and up to half as long again, so that writers that met once don't meet again.
async fn pause_from(first: Duration, attempt: u32) {
    let pause = first * 2_u32.pow(attempt - 1);
    tokio::time::sleep(pause + pause / 2 * below(512) / 512).await;
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    fn error() -> Error {
        Error::unavailable("Cause", "detail")
    }

    /// What becomes of a request whose attempts all fail alike, and how many there were.
    async fn all_fail(failure: Failure) -> (Result<Written<()>, Error>, u32) {
        let sent = AtomicU32::new(0);
        let request = || {
            sent.fetch_add(1, Ordering::Relaxed);
            std::future::ready(Err(failure.clone()))
        };
        let outcome = send_conditional("s", LIMIT, request).await;
        (outcome, sent.into_inner())
    }

    #[tokio::test]
    async fn only_what_had_no_effect_and_may_succeed_is_sent_again() {
        assert_eq!(all_fail(Failure::Again(error())).await, (Err(error()), ATTEMPTS));
        assert_eq!(all_fail(Failure::Clean(error())).await, (Err(error()), 1));
        assert_eq!(all_fail(Failure::Refused).await, (Ok(Written::Refused), 1));
        assert_eq!(all_fail(Failure::Missing).await, (Ok(Written::Refused), 1));
        assert_eq!(all_fail(Failure::Unknown(error())).await, (Ok(Written::Unknown("Cause: detail".into())), 1));
    }

    #[tokio::test]
    async fn a_limit_of_so_many_writes_a_second_is_waited_out() {
        let free_at = tokio::time::Instant::now() + Duration::from_millis(600);
        let request =
            || async move { if tokio::time::Instant::now() < free_at { Err(Failure::Later(error())) } else { Ok(7) } };
        assert_eq!(send_conditional("s", LIMIT, request).await, Ok(Written::Applied(7)));
    }

    #[tokio::test]
    async fn an_answer_that_does_not_come_in_time_leaves_the_outcome_unknown() {
        let outcome = send_conditional::<(), _>("s", Duration::from_millis(10), std::future::pending).await;
        assert!(matches!(outcome, Ok(Written::Unknown(why)) if why.contains("did not answer in time")));
    }
}
