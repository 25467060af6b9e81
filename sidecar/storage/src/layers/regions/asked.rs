//! What is asked of all stores of a process, done by each in the background, until it is done: that regions are compared, that
//! one is left, that another one becomes the home. The last is asked for by the settings, too:
//!
//! ```text
//! wish   {"by": "who has asked", "since": 7}
//! ```
//!
//! In the own region stands which wish was carried out last. Only one that is newer is carried out: a process that was told
//! something else long ago, here or in another region, would move the home back each time it opens the store.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::region::Missed;
use super::store::Store;
use super::{Wish, compare, home, moving};
use crate::{Condition, Error, Outcome};

const WISH: &str = "wish";
/// Pause before what could not be done is tried again: doubled from here until it is that between two looks.
const RETRY: Duration = Duration::from_secs(1);
/// Time between two looks where keys are decided.
const LOOKS: Duration = Duration::from_secs(60);

/// All that was asked.
#[derive(Clone, Debug, Default)]
pub(super) struct Asks {
    /// How often a comparison was.
    pub(super) compares: u64,
    /// How often a move of the home was, and where to the last time.
    pub(super) moves: u64,
    pub(super) home: String,
    /// The regions that are to be left, also by stores that are opened later.
    pub(super) leaving: BTreeSet<String>,
}

/// What of it a store has done, or need not.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Done {
    compares: u64,
    moves: u64,
    followed: bool,
}

impl Done {
    /// What was asked before a store was opened is none of its business, but for what it does without.
    pub(super) fn before(asks: &Asks) -> Self {
        Self { compares: asks.compares, moves: asks.moves, followed: false }
    }
}

/// Does what is asked, as long as it is let.
pub(super) async fn attend(store: &Arc<Store>) {
    let (mut asks, mut retry) = (store.shared.asks.subscribe(), RETRY);
    loop {
        let now = asks.borrow_and_update().clone();
        let mut failed = false;
        for (what, done) in [
            ("moving the home, as the settings wish", Box::pin(follow(store)).await),
            ("moving the home, as asked", Box::pin(move_home(store, &now)).await),
            ("leaving a region", Box::pin(leave(store, &now)).await),
            ("comparing regions", Box::pin(compare(store, &now)).await),
        ] {
            if let Err(error) = done {
                tracing::warn!(%error, what, "a store in several regions could not do what is asked; it tries again");
                failed = true;
            }
        }
        if let Err(error) = home::look(store).await {
            tracing::debug!(%error, "where keys are decided could not be looked up");
            failed |= home::known(store).is_none();
        }
        let pause = if failed { retry } else { LOOKS };
        retry = if failed { (retry * 2).min(LOOKS) } else { RETRY };
        // Whether anything was asked, or it is time to look.
        let _asked = timeout(pause, asks.changed()).await;
    }
}

/// Moves the home to where the settings wish it, if they do so anew.
async fn follow(store: &Store) -> Result<(), Error> {
    let Some(wish) = store.wish.as_ref().filter(|_| !store.done().followed) else { return Ok(()) };
    store.ready().await?;
    let here = &store.regions[store.here];
    let condition = match here.doc::<Wish>(WISH).await? {
        // Whoever was first has chosen it; this one has yet to wish for another.
        None => Condition::Absent,
        Some((told, version)) if told.by != wish.by => Condition::Version(version),
        Some((told, _)) if told.since >= wish.since => {
            store.done().followed = true;
            return Ok(());
        }
        Some((_, version)) => {
            move_to(store, store.first_home).await?;
            Condition::Version(version)
        }
    };
    store.check_claim()?;
    // Where somebody came between, it is looked at once more.
    if here.put_doc(WISH, wish, &condition).await.map_err(Missed::into_error)? {
        store.done().followed = true;
        return Ok(());
    }
    Err(Error::Contended { key: WISH.to_owned(), attempts: 1 })
}

async fn move_home(store: &Store, asks: &Asks) -> Result<(), Error> {
    if store.done().moves == asks.moves {
        return Ok(());
    }
    move_to(store, home::index(store, &asks.home)?).await?;
    store.done().moves = asks.moves;
    Ok(())
}

async fn move_to(store: &Store, to: usize) -> Result<(), Error> {
    match moving::move_home(store, to).await? {
        Outcome::Applied(_) => Ok(()),
        Outcome::Unknown(why) => Err(Error::unavailable("Interrupted", why.0)),
        Outcome::Rejected(_) => Err(Error::Contended { key: "home".to_owned(), attempts: 1 }),
    }
}

async fn leave(store: &Arc<Store>, asks: &Asks) -> Result<(), Error> {
    let mut failure = None;
    for at in store.active().into_iter().filter(|at| asks.leaving.contains(&*store.regions[*at].name)) {
        if let Err(error) = Box::pin(store.retire(at)).await {
            failure = failure.or(Some(error));
        }
    }
    failure.map_or(Ok(()), Err)
}

/// What it failed with is seen by its progress: it comes again by itself.
async fn compare(store: &Arc<Store>, asks: &Asks) -> Result<(), Error> {
    if store.done().compares == asks.compares {
        return Ok(());
    }
    store.done().compares = asks.compares;
    let _alone = store.runs.lock().await;
    compare::compare(store).await.map(drop)
}
