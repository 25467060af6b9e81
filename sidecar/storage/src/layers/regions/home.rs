//! Where keys are decided: compareAndSwap, increment, conditions, operations with an id. One region is their *home*, and each
//! is one conditional write of its store, whoever asks. Which region that is stands in a document in each region; what
//! counts is the one in the home itself:
//!
//! ```text
//! home   {"epoch": 1, "home": "eu", "floor": 0, "ceiling": 117309440000000000, "moving": null}
//! ```
//!
//! - Decisions are stamped up to the *ceiling*, which is raised in time, and above the *floor*. When the home moves, the
//!   ceiling of the old one becomes the floor of the new one: what is decided late in the old home counts less than anything
//!   that is decided in the new one.
//! - A decision is answered only when the document was looked at after it: it says the same home and epoch, and that the
//!   home is not about to move. Otherwise nobody knows what becomes of it.

use std::sync::PoisonError;

use futures::future::join_all;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout, timeout_at};

use super::region::Missed;
use super::stamp::of_millis;
use super::store::{PATIENCE, Store};
use crate::{Condition, Error, Version};

const HOME: &str = "home";
/// How far the ceiling is raised above what is stamped, in milliseconds.
const RAISE: u64 = 60_000;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Home {
    /// Grows with each move.
    pub(super) epoch: u64,
    /// The region.
    pub(super) home: String,
    /// What is decided is stamped later than this.
    pub(super) floor: u64,
    /// What is decided is stamped no later than this.
    pub(super) ceiling: u64,
    /// It is about to be this region: nothing is decided meanwhile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) moving: Option<String>,
    /// It has lost what it had: the next home is to get what all regions have.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) lost: bool,
}

/// The document of a region.
pub(super) async fn read(store: &Store, at: usize) -> Result<Option<(Home, Version)>, Error> {
    store.regions[at].doc(HOME).await
}

/// Writes it; `Ok(false)`: the condition does not hold.
pub(super) async fn put(store: &Store, at: usize, home: &Home, condition: &Condition) -> Result<bool, Missed> {
    store.regions[at].put_doc(HOME, home, condition).await
}

/// What is known of the home.
pub(super) fn known(store: &Store) -> Option<Home> {
    store.home.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// What a document says, if it is newer.
pub(super) fn learn(store: &Store, home: &Home) {
    let mut known = store.home.lock().unwrap_or_else(PoisonError::into_inner);
    if known.as_ref().is_none_or(|known| known.epoch <= home.epoch) {
        *known = Some(home.clone());
    }
}

/// Looks what the own region has heard of the home. Where nobody has decided anything yet, it is said who is first, as soon as
/// all regions are there: one that goes away later would keep all from their first decision.
pub(super) async fn look(store: &Store) -> Result<(), Error> {
    match read(store, store.here).await? {
        Some((home, _)) => learn(store, &home),
        None if known(store).is_none() => {
            store.ready().await?;
            find(store).await.map(drop)?;
        }
        None => {}
    }
    Ok(())
}

/// The region with a name.
pub(super) fn index(store: &Store, name: &str) -> Result<usize, Error> {
    let found = store.active().into_iter().find(|at| &*store.regions[*at].name == name);
    found.ok_or_else(|| {
        let detail = format!("keys are decided in region {name:?}, which is not among the regions of this store: add it, and move the home first");
        Error::unavailable("HomeUnknown", detail)
    })
}

/// [Finds](find) the home for a decision, and keeps nobody waiting for one that does not answer.
pub(super) async fn find_in_time(store: &Store) -> Result<(usize, Home, Version), Error> {
    let Some(known) = known(store) else { return find(store).await };
    let late = |_| {
        let detail = format!("no answer within {} s", PATIENCE.as_secs());
        Err(away(&known.home, &Error::unavailable("TimedOut", detail)))
    };
    timeout(PATIENCE, find(store)).await.unwrap_or_else(late)
}

/// The document in the home itself, wherever that is by now, with its region.
pub(super) async fn find(store: &Store) -> Result<(usize, Home, Version), Error> {
    /// Moves that may come between.
    const MOST: u32 = 16;
    for _ in 0..MOST {
        let Some(known) = known(store) else {
            let home = search(store).await?;
            learn(store, &home);
            continue;
        };
        let at = index(store, &known.home)?;
        match read(store, at).await {
            Ok(Some((home, version))) if home.home == known.home => {
                learn(store, &home);
                return Ok((at, home, version));
            }
            // It has moved on.
            Ok(Some((home, _))) if home.epoch > known.epoch => learn(store, &home),
            Ok(found) => {
                let newer = newest(store, true).await?.filter(|home| home.epoch > known.epoch);
                match (newer, found) {
                    (Some(home), _) => learn(store, &home),
                    (None, None) => return Err(lost(&known.home)),
                    (None, Some(_)) => return Err(Error::Contended { key: HOME.to_owned(), attempts: 1 }),
                }
            }
            // Others may know that it is another by now.
            Err(error) => match newest(store, false).await?.filter(|home| home.epoch > known.epoch) {
                Some(home) => learn(store, &home),
                None => return Err(away(&known.home, &error)),
            },
        }
    }
    Err(Error::Contended { key: HOME.to_owned(), attempts: MOST })
}

fn away(home: &str, error: &Error) -> Error {
    let detail = match error {
        Error::Unavailable { cause, detail } => format!("{cause}: {detail}"),
        other => other.to_string(),
    };
    Error::unavailable(
        "HomeUnreachable",
        format!("region {home:?}, in which keys are decided, can't be asked: {detail}"),
    )
}

fn lost(home: &str) -> Error {
    let detail = format!(
        "region {home:?}, in which keys are decided, has lost what it had: once it is filled again, move the home, to it or \
         to another region; what was decided and had reached no other region is gone"
    );
    Error::unavailable("HomeLost", detail)
}

/// The newest document of all regions. `surely`: fails where one can't be asked.
pub(super) async fn newest(store: &Store, surely: bool) -> Result<Option<Home>, Error> {
    let mut newest: Option<Home> = None;
    for found in join_all(store.active().into_iter().map(|at| read(store, at))).await {
        match found {
            Ok(Some((home, _))) if newest.as_ref().is_none_or(|newest| newest.epoch < home.epoch) => {
                newest = Some(home);
            }
            Ok(_) => {}
            Err(error) if surely => return Err(away("another", &error)),
            Err(_) => {}
        }
    }
    Ok(newest)
}

/// Finds a document in any region; makes the first, where it is certain that there never was one.
async fn search(store: &Store) -> Result<Home, Error> {
    for at in store.order() {
        if let Ok(Some((home, _))) = read(store, at).await {
            return Ok(home);
        }
    }
    if let Some(home) = newest(store, true).await? {
        return Ok(home);
    }
    // A region that was emptied would have none either: each must say that it has all that there is.
    all_filled(store).await?;
    let first = Home {
        epoch: 1,
        home: store.regions[store.first_home].name.to_string(),
        floor: 0,
        ceiling: 0,
        moving: None,
        lost: false,
    };
    store.check_claim()?;
    // One region says who was first; the home itself comes last: by then the others can tell if it is emptied.
    let mut regions = store.active();
    regions.sort_unstable_by(|one, other| store.regions[*one].name.cmp(&store.regions[*other].name));
    let mut agreed = first;
    for (nth, at) in regions.iter().enumerate() {
        if nth > 0 && *store.regions[*at].name == *agreed.home {
            continue;
        }
        agreed = create(store, *at, agreed, nth == 0).await?;
    }
    let home = index(store, &agreed.home)?;
    create(store, home, agreed, false).await
}

/// Puts a first document in a region, and says what stands there. Only who is first is believed.
async fn create(store: &Store, at: usize, home: Home, believe: bool) -> Result<Home, Error> {
    put(store, at, &home, &Condition::Absent).await.map_err(Missed::into_error)?;
    match read(store, at).await? {
        Some((stands, _)) if believe || stands.epoch > home.epoch => Ok(stands),
        _ => Ok(home),
    }
}

/// Waits for a moment until all regions are filled.
async fn all_filled(store: &Store) -> Result<(), Error> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let filled = store.filled.notified();
        tokio::pin!(filled);
        // Listens before it looks.
        filled.as_mut().enable();
        let mut empty = None;
        for at in store.active() {
            if !store.regions[at].is_filled().await.map_err(|error| away(&store.regions[at].name, &error))? {
                empty = Some(at);
            }
        }
        let Some(at) = empty else { return Ok(()) };
        // Another process may be who fills it.
        let soon = (Instant::now() + PATIENCE / 20).min(deadline);
        if timeout_at(soon, filled).await.is_err() && Instant::now() >= deadline {
            let detail =
                format!("region {:?} is not filled yet: nothing can be decided before", store.regions[at].name);
            return Err(Error::unavailable("Filling", detail));
        }
    }
}

/// Whether a home that was looked at before is still the one that decides.
pub(super) async fn still(store: &Store, at: usize, before: &Home) -> Result<bool, Error> {
    let now = read(store, at).await?;
    if let Some((now, _)) = &now {
        learn(store, now);
    }
    let is_same = |now: &Home| now.epoch == before.epoch && now.home == before.home && now.moving.is_none();
    Ok(now.is_some_and(|(now, _)| is_same(&now)))
}

/// Raises the ceiling above a time; `false`: the document is another by now.
pub(super) async fn raise(
    store: &Store,
    at: usize,
    (home, version): (&Home, Version),
    time: u64,
) -> Result<bool, Error> {
    let raised = Home { ceiling: time.saturating_add(of_millis(RAISE)), ..home.clone() };
    let done = put(store, at, &raised, &Condition::Version(version)).await;
    done.map_err(Missed::into_error)
}

/// A ceiling above all that was stamped in a home whose document is lost.
pub(super) fn safe_ceiling(store: &Store) -> u64 {
    let last = store.shared.clock.last().max(of_millis(store.now()));
    last.saturating_add(of_millis(2 * RAISE))
}
