//! What is read often comes back to the hot tier.

use std::sync::Arc;

use super::record::{Noted, Record, Sealed, State};
use super::spaces::Space;
use super::store::{Store, hash};
use crate::{Condition, Key, Outcome};

/// Writes what was found in the cold tier to the hot one, if the hot one has nothing of the key and no write of the key has
/// begun or ended since before it was found missing there (`generation` is from then). Without the latter a removal could
/// be undone: one that was written to the hot tier, brought to the cold one and forgotten in the meantime.
pub(super) async fn promote(
    store: &Store,
    space: &Arc<Space>,
    key: &Key,
    generation: u64,
    (sealed, noted): (Sealed, Noted),
) {
    let hash = hash(&space.folder, key);
    // Who writes the key just now makes what was found an old value.
    let Some(_alone) = store.gates.try_alone((Arc::clone(&space.folder), key.clone())) else { return };
    if store.generation(hash) != generation || !store.may_write() {
        return;
    }
    let now = store.now();
    let value = Record { sealed, state: State::Clean(noted), written_at: now }.to_value();
    let bytes = super::flush::signed(super::size(&value));
    let promoted = match store.spaces.register(space).await {
        Ok(()) => space.hot.put(key, value, &Condition::Absent).await,
        Err(error) => Err(error),
    };
    match promoted {
        Ok(Outcome::Applied(_)) => {
            store.shared.counts.promoted.add(1);
            store.tally.hot.add(1, bytes);
            store.access.read(hash, now);
        }
        Ok(Outcome::Rejected(_) | Outcome::Unknown(_)) => {}
        Err(error) => tracing::debug!(%error, key = key.as_str(), "a key that is read often stays in the cold tier"),
    }
}
