//! Whether the store keeps its word (R7). That is proved before it is used, and again from time to time: a store may be
//! configured anew, upgraded, or replaced by another behind the same address.

use std::time::Duration;

use async_trait::async_trait;
use brainy_storage::backends::s3::{Capabilities, S3Store};
use brainy_storage::{Error, chance};

use super::table::{Table, now};
use super::{StoreProof, in_words};

/// Between two proofs. One is a few hundred small requests.
pub(super) const PROVE_EVERY: Duration = Duration::from_secs(3600);
/// Until the next try, as a part of that time, where the store could not be asked.
const SOONER: u32 = 12;
/// The cause of the error with which a store is refused, as [`S3Store::prove`] has it. Any other means that the store
/// could not be asked, which proves nothing.
const UNSAFE: &str = "UnsafeStore";

/// Puts a store to the test.
#[async_trait]
pub(super) trait Proof: Send + Sync + 'static {
    /// What it was proved to do; an error with cause `UnsafeStore` names the check that failed.
    async fn prove(&self) -> Result<Capabilities, Error>;
}

#[async_trait]
impl Proof for S3Store {
    async fn prove(&self) -> Result<Capabilities, Error> {
        S3Store::prove(self).await
    }
}

fn is_unsafe(error: &Error) -> bool {
    matches!(error, Error::Unavailable { cause, .. } if cause == UNSAFE)
}

/// Puts a store to the test, and takes note of the result if there is one.
pub(super) async fn prove(table: &Table, proof: &dyn Proof) -> Result<(), Error> {
    let result = proof.prove().await;
    match &result {
        Ok(capabilities) => {
            tracing::info!(?capabilities, "the store keeps its word");
            let capabilities = Some(capabilities.clone());
            table.learn_proof(StoreProof { at: now(), passed: true, problem: None, capabilities });
        }
        Err(error) if is_unsafe(error) => {
            let problem = Some(in_words(error));
            table.learn_proof(StoreProof { at: now(), passed: false, problem, capabilities: None });
        }
        Err(error) => tracing::warn!(why = in_words(error), "the store could not be put to the test"),
    }
    result.map(drop)
}

/// Puts a store to the test again and again, until one shows that it no longer keeps its word.
pub(super) async fn lost(table: &Table, proof: &dyn Proof, every: Duration) -> Error {
    let mut pause = every;
    loop {
        tokio::time::sleep(spread(pause)).await;
        pause = match prove(table, proof).await {
            Ok(()) => every,
            Err(error) if is_unsafe(&error) => return error,
            Err(_) => every / SOONER,
        };
    }
}

/// Up to a quarter more or less, so that the nodes of a cluster don't all do it at once.
fn spread(pause: Duration) -> Duration {
    pause * 3 / 4 + pause / 2 * chance::below(1024) / 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_differ_by_a_quarter_at_most() {
        let pauses: Vec<Duration> = (0..100).map(|_| spread(PROVE_EVERY)).collect();
        assert!(pauses.iter().all(|pause| (PROVE_EVERY * 3 / 4..PROVE_EVERY * 5 / 4).contains(pause)), "{pauses:?}");
        assert!(pauses.iter().any(|pause| pause != &pauses[0]));
    }
}
