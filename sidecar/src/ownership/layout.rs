//! Where the data of shards lies in a bucket that all nodes share, and what a shard's lease has to say of it: what tells
//! strategy Shared from Namespaced.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use brainy_coordination::lease::ShardLease;
use brainy_coordination::origins::Origin;
use brainy_coordination::{ShardId, names};
use brainy_storage::{Error, StorageAdapter};

use super::ShardStores;

/// One of the two.
#[async_trait]
pub(super) trait Layout: Send + Sync + 'static {
    /// The document with a shard's lease.
    fn lease_name(&self, shard: ShardId) -> String;

    /// What is to be written in the place of a lease.
    fn next(&self, before: Option<&ShardLease>, next: ShardLease) -> ShardLease;

    /// Data of a shard that has no lease, if there is any: then it is not a new shard, and its lease was lost.
    async fn stray(&self, shard: ShardId) -> Result<Option<String>, Error>;

    /// Opens a shard's storage under a lease, which is this node's.
    fn open(&self, lease: &ShardLease) -> Result<Opened, Error>;
}

/// A shard's storage.
pub(super) struct Opened {
    pub(super) storage: Arc<dyn StorageAdapter>,
    /// There is data of earlier tenures.
    pub(super) behind: Option<Arc<dyn Behind>>,
}

/// Data of earlier tenures, behind what is served.
#[async_trait]
pub(super) trait Behind: Send + Sync + 'static {
    /// Copies all that an origin has.
    async fn copy(&self, origin: &Origin) -> Result<(), Error>;

    /// Reads no longer through to an origin.
    fn forget(&self, origin: &Origin);

    /// Clears away what an origin has.
    async fn clear(&self, origin: &Origin) -> Result<(), Error>;

    /// How many objects were copied.
    fn copied(&self) -> u64;

    /// How long after it was sent a write may still arrive, in an origin too.
    fn latest(&self) -> Duration;
}

/// Strategy Shared: a shard's data stays at one place, whoever owns it.
pub(super) struct OnePlace(pub(super) Arc<dyn ShardStores>);

#[async_trait]
impl Layout for OnePlace {
    fn lease_name(&self, shard: ShardId) -> String {
        names::shard_lock(shard)
    }

    fn next(&self, _: Option<&ShardLease>, next: ShardLease) -> ShardLease {
        next
    }

    async fn stray(&self, _: ShardId) -> Result<Option<String>, Error> {
        // It is found again, lease or no lease.
        Ok(None)
    }

    fn open(&self, lease: &ShardLease) -> Result<Opened, Error> {
        Ok(Opened { storage: self.0.open(lease.shard, lease.token)?, behind: None })
    }
}
