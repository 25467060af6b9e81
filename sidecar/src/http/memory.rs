//! Memory that requests share. Each sets aside what it takes beforehand, and gives it back when it no longer needs it.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

/// So many bytes, for all. Cheap to clone; clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Memory {
    free: Arc<Semaphore>,
    most: u32,
}

/// Bytes set aside, until this is dropped.
#[derive(Debug, Default)]
pub(crate) struct Room(Option<OwnedSemaphorePermit>);

impl Memory {
    pub(crate) fn new(bytes: u32) -> Self {
        Self { free: Arc::new(Semaphore::new(bytes as usize)), most: bytes }
    }

    /// All there is.
    pub(crate) fn most(&self) -> u64 {
        u64::from(self.most)
    }

    /// Sets aside so many bytes, or all there are: a single request always fits. All at once, or those who each wait for
    /// the rest of theirs would wait for each other. `None`: there was no room until `deadline`.
    pub(crate) async fn set_aside(&self, bytes: u64, deadline: Instant) -> Option<Room> {
        let permit = Arc::clone(&self.free).acquire_many_owned(self.at_most(bytes));
        Some(Room(timeout_at(deadline, permit).await.ok()?.ok()))
    }

    /// The same, if there is room now.
    pub(crate) fn try_set_aside(&self, bytes: u64) -> Option<Room> {
        Some(Room(Some(Arc::clone(&self.free).try_acquire_many_owned(self.at_most(bytes)).ok()?)))
    }

    fn at_most(&self, bytes: u64) -> u32 {
        u32::try_from(bytes).unwrap_or(u32::MAX).min(self.most)
    }

    #[cfg(test)]
    pub(crate) fn free(&self) -> u64 {
        self.free.available_permits() as u64
    }
}

impl Room {
    pub(crate) fn bytes(&self) -> u64 {
        self.0.as_ref().map_or(0, |permit| permit.num_permits() as u64)
    }

    /// Gives back what is beyond so many bytes.
    pub(crate) fn shrink(&mut self, bytes: u64) {
        let beyond = self.bytes().saturating_sub(bytes);
        if let (Some(permit), Ok(beyond)) = (&mut self.0, usize::try_from(beyond)) {
            drop(permit.split(beyond));
        }
    }
}
