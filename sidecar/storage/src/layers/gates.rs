//! Who may work on a key: one who writes to it, or any number of those whose operations go past the buffer.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

use crate::Key;

/// Where a key lies among all namespaces: the folder of its namespace, and the key.
pub(super) type Place = (Arc<str>, Key);

/// One for each key in use.
#[derive(Debug, Default)]
pub(super) struct Gates(Mutex<HashMap<Place, Gate>>);

#[derive(Debug, Default)]
struct Gate {
    lock: Arc<RwLock<()>>,
    /// Those inside and those that wait.
    users: usize,
}

/// Keeps a gate in being.
#[derive(Debug)]
struct Ticket<'a> {
    gates: &'a Gates,
    place: Place,
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        let mut gates = self.gates.lock();
        if let Some(gate) = gates.get_mut(&self.place) {
            gate.users -= 1;
            if gate.users == 0 {
                gates.remove(&self.place);
            }
        }
    }
}

/// Inside, alone. Left before the ticket is given back.
#[derive(Debug)]
pub(super) struct Alone<'a> {
    _inside: OwnedRwLockWriteGuard<()>,
    _ticket: Ticket<'a>,
}

/// Inside, with others of the kind.
#[derive(Debug)]
pub(super) struct Together<'a> {
    _inside: OwnedRwLockReadGuard<()>,
    _ticket: Ticket<'a>,
}

impl Gates {
    fn lock(&self) -> MutexGuard<'_, HashMap<Place, Gate>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ticket(&self, place: Place) -> (Ticket<'_>, Arc<RwLock<()>>) {
        let mut gates = self.lock();
        let gate = gates.entry(place.clone()).or_default();
        gate.users += 1;
        (Ticket { gates: self, place }, Arc::clone(&gate.lock))
    }

    /// Enters all of these alone.
    pub(super) async fn alone(&self, mut places: Vec<Place>) -> Vec<Alone<'_>> {
        // In one order, so that no two wait for each other.
        places.sort_unstable();
        places.dedup();
        let mut inside = Vec::with_capacity(places.len());
        for place in places {
            let (ticket, lock) = self.ticket(place);
            inside.push(Alone { _inside: lock.write_owned().await, _ticket: ticket });
        }
        inside
    }

    /// Enters alone, if nobody is inside.
    pub(super) fn try_alone(&self, place: Place) -> Option<Alone<'_>> {
        let (ticket, lock) = self.ticket(place);
        Some(Alone { _inside: lock.try_write_owned().ok()?, _ticket: ticket })
    }

    /// Enters with others.
    pub(super) async fn together(&self, place: Place) -> Together<'_> {
        let (ticket, lock) = self.ticket(place);
        Together { _inside: lock.read_owned().await, _ticket: ticket }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn place(key: &str) -> Place {
        ("kv/".into(), Key::new(key).unwrap())
    }

    #[tokio::test]
    async fn a_key_is_worked_on_by_one_or_by_many_of_the_other_kind_and_then_forgotten() {
        let gates = Gates::default();
        let is_free =
            async |key| tokio::time::timeout(Duration::from_millis(5), gates.alone(vec![place(key)])).await.is_ok();
        let both = gates.alone(vec![place("b"), place("a"), place("b")]).await;
        assert!(!is_free("a").await && !is_free("b").await && is_free("c").await);
        assert!(gates.try_alone(place("a")).is_none() && gates.try_alone(place("c")).is_some());
        drop(both);
        let (first, second) = (gates.together(place("a")).await, gates.together(place("a")).await);
        assert!(!is_free("a").await);
        drop(first);
        assert!(!is_free("a").await);
        drop(second);
        assert!(is_free("a").await && gates.lock().is_empty());
    }
}
