//! When a removal may be forgotten: once all regions have it, and then all has ended that any process was amidst of, because
//! it may have read what was removed and be about to write it. No clock says when that is: whoever wants to forget asks each
//! region for a *round*, and the region's own process says when all has ended that had begun before.
//!
//! ```text
//! round   {"owner": mark of the process, "asked": 3, "passed": 2}
//! ```

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::sleep;

use super::region::{Missed, Region};
use super::store::Store;
use crate::{Condition, Error};

const ROUND: &str = "round";
/// Time between two looks whether somebody asks.
pub(super) const LOOKS: Duration = Duration::from_secs(30);
/// Most attempts to ask while others come between.
const MAX_ATTEMPTS: u32 = 16;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Round {
    /// The process that works there; none ever did, where there is nothing.
    owner: String,
    asked: u64,
    passed: u64,
}

/// Says that this process works in its region. Before that it carries nothing from one region to another.
pub(super) async fn register(store: &Store) -> Result<(), Error> {
    let here = &store.regions[store.here];
    for _ in 0..MAX_ATTEMPTS {
        let (mut round, condition) = read(here).await?;
        if round.owner == store.mark {
            return Ok(());
        }
        round.owner.clone_from(&store.mark);
        if here.put_doc(ROUND, &round, &condition).await.map_err(Missed::into_error)? {
            return Ok(());
        }
    }
    Err(Error::Contended { key: ROUND.to_owned(), attempts: MAX_ATTEMPTS })
}

async fn read(region: &Region) -> Result<(Round, Condition), Error> {
    Ok(match region.doc::<Round>(ROUND).await? {
        Some((round, version)) => (round, Condition::Version(version)),
        None => (Round::default(), Condition::Absent),
    })
}

/// Whether a process has ever worked in a region since that was emptied.
pub(super) async fn is_owned(region: &Region) -> Result<bool, Error> {
    Ok(region.doc::<Round>(ROUND).await?.is_some())
}

/// Passes the rounds that are asked for in the own region, as long as it is let.
pub(super) async fn attend(store: &Store) {
    loop {
        if let Err(error) = pass(store).await {
            tracing::debug!(%error, "a round can't be passed");
        }
        sleep(LOOKS).await;
    }
}

async fn pass(store: &Store) -> Result<(), Error> {
    store.ready().await?;
    let here = &store.regions[store.here];
    let (mut round, condition) = read(here).await?;
    if condition == Condition::Absent {
        // It was emptied.
        return register(store).await;
    }
    if round.owner != store.mark || round.passed == round.asked {
        return Ok(());
    }
    // Who wrote what is in memory has ended; then nobody takes it any more; then whoever has taken it has ended.
    store.works.ended().await;
    store.recent.forget();
    store.works.ended().await;
    store.check_claim()?;
    round.passed = round.asked;
    // Where somebody else has asked meanwhile, it is looked at once more.
    here.put_doc(ROUND, &round, &condition).await.map(drop).map_err(Missed::into_error)
}

/// Asks a region for a round: its number; `None` where nobody works.
pub(super) async fn ask(region: &Region) -> Result<Option<u64>, Error> {
    for _ in 0..MAX_ATTEMPTS {
        let Some((mut round, version)) = region.doc::<Round>(ROUND).await? else { return Ok(None) };
        round.asked += 1;
        if region.put_doc(ROUND, &round, &Condition::Version(version)).await.map_err(Missed::into_error)? {
            return Ok(Some(round.asked));
        }
    }
    Err(Error::Contended { key: ROUND.to_owned(), attempts: MAX_ATTEMPTS })
}

/// Whether a region has passed a round that was asked for.
pub(super) async fn has_passed(region: &Region, number: u64) -> Result<bool, Error> {
    Ok(region.doc::<Round>(ROUND).await?.is_some_and(|(round, _)| round.passed >= number))
}
