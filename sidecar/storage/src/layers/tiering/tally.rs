//! How many keys and bytes are in either tier, about. The hot tier is counted at each run; of the cold one is counted what is
//! written and removed, and the sums are written down now and then.

use serde::{Deserialize, Serialize};

use super::store::{Amount, Store};
use crate::{Condition, Error, Key, Outcome, Value};

const NAME: &str = "tally";

/// Of one store.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) hot: Amount,
    pub(super) cold: Amount,
    /// What was written down last.
    saved: std::sync::Mutex<Option<Saved>>,
    loaded: std::sync::atomic::AtomicBool,
}

/// A count that is under way.
#[derive(Debug, Default)]
pub(super) struct Counted {
    keys: u64,
    bytes: u64,
}

impl Counted {
    pub(super) fn add(&mut self, bytes: u64) {
        self.keys += 1;
        self.bytes += bytes;
    }

    /// What was counted is gone.
    pub(super) fn remove(&mut self, bytes: u64) {
        self.keys = self.keys.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
    }
}

impl Tally {
    pub(super) fn set_hot(&self, counted: &Counted) {
        self.hot.set(counted.keys, counted.bytes);
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Saved {
    cold_keys: u64,
    cold_bytes: u64,
}

fn name() -> Result<Key, Error> {
    Key::new(NAME)
}

pub(super) async fn load(store: &Store) -> Result<(), Error> {
    let Some(entry) = store.meta.get(&name()?).await? else { return Ok(()) };
    if let Value::Json(json) = entry.value
        && let Ok(saved) = serde_json::from_value::<Saved>(json)
        && !store.tally.loaded.swap(true, std::sync::atomic::Ordering::Relaxed)
    {
        let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        store.tally.cold.add(number(saved.cold_keys), number(saved.cold_bytes));
    }
    Ok(())
}

pub(super) async fn save(store: &Store) -> Result<(), Error> {
    let (cold_keys, cold_bytes) = store.tally.cold.get();
    let now = Saved { cold_keys, cold_bytes };
    let saved = || store.tally.saved.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if *saved() == Some(now) || now == (Saved { cold_keys: 0, cold_bytes: 0 }) {
        return Ok(());
    }
    let json = serde_json::to_value(now).map_err(|why| Error::invalid("tally", why.to_string()))?;
    if let Outcome::Applied(_) = store.meta.put(&name()?, Value::Json(json), &Condition::Any).await? {
        *saved() = Some(now);
    }
    Ok(())
}
