//! What is read often comes back to the hot tier; and what a read finds there that nobody is left to remove goes.

use std::sync::Arc;

use super::record::{Noted, Record, State};
use super::spaces::{Gone, Space};
use super::store::{Store, hash};
use crate::layers::behind::Sealed;
use crate::layers::gates::{Alone, Place};
use crate::performed::Performed;
use crate::{Condition, Error, Key, Outcome, Version};

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
    let Some(_alone) = alone_since(generation, store, (Arc::clone(&space.folder), key.clone())) else { return };
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

/// Alone with a key that nobody writes just now, or has written since this generation: what was found then is no old value.
fn alone_since(generation: u64, store: &Store, place: Place) -> Option<Alone<'_>> {
    let hash = hash(&place.0, &place.1);
    let alone = store.gates.try_alone(place)?;
    (store.generation(hash) == generation && store.may_write()).then_some(alone)
}

/// Removes a mark that was put into the cold tier for a removal, whose process died with its hot tier before it removed the mark
/// again: nobody else will, and until then the key is listed. Like any removal it is written to the hot tier, and brought to
/// the cold one as long as it takes. As with a promotion, only if nobody writes the key.
pub(super) async fn clear_mark(
    store: &Store,
    space: &Arc<Space>,
    key: &Key,
    generation: u64,
    (mark, noted): (Sealed, Noted),
) {
    let place = (Arc::clone(&space.folder), key.clone());
    let Some(_alone) = alone_since(generation, store, place.clone()) else { return };
    let _writing = store.begin(vec![hash(&space.folder, key)]);
    let (record, outcome) = match removal(store, space, key, mark.revision(), noted).await {
        Ok(written) => written,
        Err(error) => {
            tracing::debug!(%error, key = key.as_str(), "a mark of a removal stays in the cold tier");
            return;
        }
    };
    match outcome {
        Outcome::Applied(_) => {
            store.tally.hot.add(1, super::flush::signed(super::size(&record.to_value())));
            space.note(key, Some(Gone::Removed(record.sealed.revision())));
            store.note_unwritten(&place, space, &record, false);
        }
        Outcome::Unknown(_) => {
            space.note(key, Some(Gone::Unsure));
            store.note_unwritten(&place, space, &record, true);
        }
        Outcome::Rejected(_) => {}
    }
}

/// Writes that nothing stands there to the hot tier, which had nothing of the key.
async fn removal(
    store: &Store,
    space: &Arc<Space>,
    key: &Key,
    above: u64,
    over: Noted,
) -> Result<(Record, Outcome<Version>), Error> {
    store.spaces.register(space).await?;
    let now = store.now();
    let revision = store.revisions.take(1, above, now).await?;
    let sealed = Sealed::new(key, revision, None, Performed::default())?;
    let record = Record { sealed, state: State::Unwritten { over: Some(over), inherits: false }, written_at: now };
    let outcome = space.hot.put(key, record.to_value(), &Condition::Absent).await?;
    Ok((record, outcome))
}
