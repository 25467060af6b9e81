//! Another region becomes the home of the keys, in steps of which each is one conditional write, so that whoever dies amidst
//! of it, the next who moves it goes on:
//!
//! 1. The old home is *about to move*: nothing is decided there any more, nor anywhere else.
//! 2. The new one gets all that the old one has: so all that was decided and acknowledged.
//! 3. The new one becomes the home, in the next epoch, above the ceiling of the old one. From here on it decides.
//! 4. The old one, and the others, get to know it.

use super::Run;
use super::filling::copy;
use super::home::{self, Home};
use super::region::Missed;
use super::store::Store;
use crate::{Condition, Error, Outcome, Unknown, Version, WriteResult};

/// Moves that may have begun before, and are ended first.
const MOST_BEFORE: u32 = 4;

/// Moves the home to a region. Its epoch.
pub(super) async fn move_home(store: &Store, to: usize) -> WriteResult<u64> {
    store.ready().await?;
    store.start(Run::Moving, &store.regions[to].name);
    let done = steps(store, to).await;
    store.finish(match &done {
        Err(Missed::Failed(error)) => Some(error),
        _ => None,
    });
    match done {
        Ok(epoch) => Ok(Outcome::Applied(epoch)),
        Err(Missed::Unknown(why)) => Ok(Outcome::Unknown(Unknown(why))),
        Err(Missed::Failed(error)) => Err(error),
    }
}

async fn steps(store: &Store, to: usize) -> Result<u64, Missed> {
    let wanted = &*store.regions[to].name;
    for _ in 0..MOST_BEFORE {
        let (from, home, version, is_lost) = stands(store).await?;
        let target = match &home.moving {
            Some(moving) => home::index(store, moving)?,
            None if home.home == wanted && !is_lost => return Ok(home.epoch),
            None => to,
        };
        // While keys are still decided, so that less is left for when they are not.
        if home.moving.is_none() && target != from {
            bring(store, from, target, is_lost).await?;
        }
        let Some(fenced) = fence(store, from, &home, version, target).await? else { continue };
        bring(store, from, target, fenced.lost).await?;
        let epoch = switch(store, from, target, &fenced).await?;
        if target == to {
            return Ok(epoch);
        }
    }
    Err(Error::Contended { key: "home".to_owned(), attempts: MOST_BEFORE }.into())
}

/// The document of the home, where it is now; and whether that has lost it.
async fn stands(store: &Store) -> Result<(usize, Home, Option<Version>, bool), Missed> {
    match home::find(store).await {
        Ok((at, home, version)) => Ok((at, home, Some(version), false)),
        Err(Error::Unavailable { cause, detail }) if cause == "HomeLost" => {
            let lost = Error::unavailable(cause, detail);
            let home = home::newest(store, true).await?.ok_or_else(|| lost.clone())?;
            let at = home::index(store, &home.home)?;
            // What the others have is all that there is.
            if !store.regions[at].is_filled().await? {
                return Err(lost.into());
            }
            Ok((at, home, None, true))
        }
        Err(error) => Err(error.into()),
    }
}

/// From here on nothing is decided, until the new home does. `None`: somebody came between.
async fn fence(
    store: &Store,
    from: usize,
    home: &Home,
    version: Option<Version>,
    target: usize,
) -> Result<Option<Home>, Missed> {
    let moving = Some(store.regions[target].name.to_string());
    let (fenced, condition) = match version {
        Some(_) if home.moving == moving => return Ok(Some(home.clone())),
        Some(version) => (Home { moving, ..home.clone() }, Condition::Version(version)),
        None => {
            let ceiling = home.ceiling.max(home::safe_ceiling(store));
            (Home { moving, ceiling, lost: true, ..home.clone() }, Condition::Absent)
        }
    };
    store.check_claim()?;
    Ok(home::put(store, from, &fenced, &condition).await?.then_some(fenced))
}

/// The new home gets what the old one has; where that has lost what it had, what all have.
async fn bring(store: &Store, from: usize, target: usize, is_lost: bool) -> Result<(), Missed> {
    let sources = if is_lost { store.active() } else { vec![from] };
    for source in sources.into_iter().filter(|source| *source != target) {
        copy(store, source, target, true).await?;
    }
    Ok(())
}

async fn switch(store: &Store, from: usize, target: usize, fenced: &Home) -> Result<u64, Missed> {
    let next = Home {
        epoch: fenced.epoch + 1,
        home: store.regions[target].name.to_string(),
        floor: fenced.ceiling,
        ceiling: fenced.ceiling,
        moving: None,
        lost: false,
    };
    store.check_claim()?;
    hand(store, target, &next).await?;
    home::learn(store, &next);
    // Whoever does not hear of it asks the old home, and is told there.
    if from != target {
        hand(store, from, &next).await?;
    }
    for at in store.active().into_iter().filter(|at| *at != target && *at != from) {
        if let Err(missed) = hand(store, at, &next).await {
            let error = missed.into_error();
            tracing::debug!(%error, region = &*store.regions[at].name, "a region can't be told of the new home");
        }
    }
    Ok(next.epoch)
}

/// Writes the document where an older one stands.
async fn hand(store: &Store, at: usize, next: &Home) -> Result<(), Missed> {
    loop {
        let condition = match home::read(store, at).await? {
            Some((stands, _)) if stands.epoch >= next.epoch => return Ok(()),
            Some((_, version)) => Condition::Version(version),
            None => Condition::Absent,
        };
        store.check_claim()?;
        if home::put(store, at, next, &condition).await? {
            return Ok(());
        }
    }
}
