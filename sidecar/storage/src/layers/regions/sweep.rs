//! Removals are forgotten, once every region has them and nobody is amidst of what might bring back what was removed
//! (`rounds`). A region that lacks a removal, or is not filled, or can't be asked, keeps all of them.

use std::sync::Arc;

use tokio::time::sleep;

use super::record::Record;
use super::region::Space;
use super::rounds;
use super::stamp::{Stamp, to_millis};
use super::store::Store;
use crate::{Condition, Error, Key, Outcome};

/// Most removals that are looked at in one go.
pub(super) const MOST: usize = 10_000;
/// How often it is looked whether a round was passed, before it is given up until the next time.
const LOOKS: u32 = 60;

/// A removal that the own region has.
#[derive(Debug)]
pub(super) struct Removal {
    space: Arc<Space>,
    key: Key,
    stamp: Stamp,
}

impl Removal {
    /// If it is old enough to be forgotten.
    pub(super) fn of(store: &Store, space: &Arc<Space>, key: &Key, record: &Record) -> Option<Self> {
        let age = store.now().saturating_sub(to_millis(record.time()));
        let is_due = record.is_removal() && age >= store.shared.settings.keep_removed_ms;
        is_due.then(|| Self { space: Arc::clone(space), key: key.clone(), stamp: record.stamp() })
    }
}

/// Forgets those of them that may be.
pub(super) async fn sweep(store: &Store, removals: Vec<Removal>) -> Result<(), Error> {
    if removals.is_empty() || !is_ours(store).await? {
        return Ok(());
    }
    for at in store.active() {
        if !store.regions[at].is_filled().await? {
            return Ok(());
        }
    }
    let mut everywhere = Vec::new();
    for removal in removals {
        if is_everywhere(store, &removal).await? {
            everywhere.push(removal);
        }
    }
    if everywhere.is_empty() || !round(store).await? {
        return Ok(());
    }
    for removal in &everywhere {
        forget(store, removal).await?;
    }
    store.shared.counts.swept.add(everywhere.len() as u64);
    Ok(())
}

/// One process is enough: that of the first region, by name, in which anybody works.
async fn is_ours(store: &Store) -> Result<bool, Error> {
    let own = &store.regions[store.here].name;
    for at in store.active() {
        if store.regions[at].name < *own && rounds::is_owned(&store.regions[at]).await? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether no region has anything older of the key.
async fn is_everywhere(store: &Store, removal: &Removal) -> Result<bool, Error> {
    for at in store.active() {
        let stands = store.find(at, &removal.space, &removal.key).await?;
        if stands.is_some_and(|(record, _)| record.stamp() < removal.stamp) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// All has ended that any process was amidst of.
async fn round(store: &Store) -> Result<bool, Error> {
    let mut asked = Vec::new();
    for at in store.active() {
        if let Some(number) = rounds::ask(&store.regions[at]).await? {
            asked.push((at, number));
        }
    }
    for _ in 0..LOOKS {
        let mut waits = Vec::new();
        for (at, number) in asked {
            if !rounds::has_passed(&store.regions[at], number).await? {
                waits.push((at, number));
            }
        }
        if waits.is_empty() {
            return Ok(true);
        }
        asked = waits;
        sleep(rounds::LOOKS).await;
    }
    Ok(false)
}

async fn forget(store: &Store, removal: &Removal) -> Result<(), Error> {
    for at in store.active() {
        store.check_claim()?;
        let Some((record, version)) = store.find(at, &removal.space, &removal.key).await? else { continue };
        if record.stamp() != removal.stamp {
            continue;
        }
        match removal.space.stores[at].remove(&removal.key, &Condition::Version(version)).await? {
            Outcome::Applied(_) | Outcome::Rejected(_) => {}
            // What may still be there is found the next time.
            Outcome::Unknown(why) => tracing::debug!(%why, "a removal may not be forgotten yet"),
        }
    }
    Ok(())
}
