//! Waiting that says what it waits for.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

/// What one look found.
#[derive(Debug)]
pub enum Seen<T> {
    /// It is so.
    Done(T),
    /// Not yet; what there is instead.
    NotYet(String),
}

const PAUSE: Duration = Duration::from_millis(250);
const QUIET: Duration = Duration::from_secs(10);
const ONE_LOOK: Duration = Duration::from_secs(30);

/// Looks again and again until it is so. A look that fails counts as "not yet". After a while it prints what it waits for;
/// at the limit it fails with what it saw last.
pub async fn until<T, L>(what: &str, limit: Duration, mut look: impl FnMut() -> L) -> anyhow::Result<T>
where
    L: Future<Output = anyhow::Result<Seen<T>>>,
{
    let began = Instant::now();
    let mut said = began;
    loop {
        let seen = match timeout(ONE_LOOK, look()).await {
            Ok(Ok(Seen::Done(found))) => return Ok(found),
            Ok(Ok(Seen::NotYet(instead))) => instead,
            Ok(Err(error)) => format!("{error:#}"),
            Err(_) => format!("no answer in {ONE_LOOK:?}"),
        };
        if began.elapsed() > limit {
            anyhow::bail!("gave up waiting for {what} after {} s; last seen: {seen}", limit.as_secs());
        }
        if said.elapsed() > QUIET {
            said = Instant::now();
            println!("  … {} s: waiting for {what} ({seen})", began.elapsed().as_secs());
        }
        sleep(PAUSE).await;
    }
}
