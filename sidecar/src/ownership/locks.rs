//! What the locks of applications know of this node's lives and of others'.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use brainy_coordination::session::holder::Life;
use brainy_coordination::{Incarnation, NodeId};
use brainy_storage::Error;
use brainy_storage::backends::memory::MemoryDocuments;
use tokio::sync::watch;

use super::nodes::{Holder, Nodes};
use crate::locks::{Alone, Lives, Locks, Present};

/// Where the locks are found once there are any.
#[derive(Clone, Debug, Default)]
pub(super) struct Slot(Arc<Mutex<Option<Arc<Locks>>>>);

impl Slot {
    /// A process that runs alone keeps them in its memory: they end with it, as their holders do.
    pub(super) fn alone(node: NodeId) -> Self {
        let slot = Self::default();
        slot.set(Locks::new(node, Arc::new(MemoryDocuments::new()), Arc::new(Alone)));
        slot
    }

    pub(super) fn set(&self, locks: Locks) -> Arc<Locks> {
        let locks = Arc::new(locks);
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&locks));
        locks
    }

    pub(super) fn get(&self) -> Option<Arc<Locks>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The lives of a cluster's nodes.
pub(super) struct OfNodes {
    pub(super) nodes: Arc<Nodes>,
    pub(super) lives: watch::Receiver<Option<Life>>,
}

impl std::fmt::Debug for OfNodes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OfNodes").finish_non_exhaustive()
    }
}

#[async_trait]
impl Lives for OfNodes {
    fn present(&self) -> Option<Present> {
        let life = self.lives.borrow().clone().filter(|life| life.validity.holds())?;
        Some(Present { incarnation: life.incarnation, validity: life.validity })
    }

    async fn is_over(&self, node: &NodeId, incarnation: &Incarnation) -> Result<bool, Error> {
        Ok(matches!(self.nodes.holder(node, incarnation).await?, Holder::Gone))
    }
}
