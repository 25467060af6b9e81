//! What this node knows of leases that it may take: which takes are not over, and what it was told of leases that are free.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use brainy_coordination::ShardId;
use brainy_coordination::lease::ShardLease;
use brainy_storage::documents::DocumentVersion;

use super::freed::FreeLease;

/// Of one life of this node.
#[derive(Debug, Default)]
pub(super) struct Takes(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    /// Leases that this node tried to take and does not know whether it did, with the version before: until another
    /// version is read there, the write may yet land.
    unresolved: HashMap<ShardId, Option<DocumentVersion>>,
    /// Leases as others have said that they left them.
    free: HashMap<ShardId, FreeLease>,
}

impl Takes {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Another node has said how it left a lease.
    pub(super) fn hear(&self, free: FreeLease) {
        self.known().free.insert(free.lease.shard, free);
    }

    /// Whether one has.
    pub(super) fn is_told(&self, shard: ShardId) -> bool {
        self.known().free.contains_key(&shard)
    }

    /// Hands out, once, what was said. It may be of long ago: it serves for a conditional write, and not to say that an earlier
    /// take is over.
    pub(super) fn told(&self, shard: ShardId) -> Option<(ShardLease, DocumentVersion)> {
        let mut known = self.known();
        let told = known.free.remove(&shard);
        told.filter(|_| !known.unresolved.contains_key(&shard)).map(FreeLease::into_found)
    }

    /// The lease stands at this version. Where that is another one than before a take, the take is over, whatever became of it.
    pub(super) fn stands(&self, shard: ShardId, version: Option<&DocumentVersion>) {
        let mut known = self.known();
        if known.unresolved.get(&shard).is_some_and(|before| before.as_ref() != version) {
            known.unresolved.remove(&shard);
        }
    }

    /// Nobody knows whether a take landed, or will.
    pub(super) fn may_land(&self, shard: ShardId, before: Option<DocumentVersion>) {
        self.known().unresolved.insert(shard, before);
    }

    /// The take is known to have landed.
    pub(super) fn landed(&self, shard: ShardId) {
        self.known().unresolved.remove(&shard);
    }

    /// Whether a take may yet land.
    pub(super) fn is_open(&self, shard: ShardId) -> bool {
        self.known().unresolved.contains_key(&shard)
    }

    /// The life is over: a write of it that lands takes nothing for the next one.
    pub(super) fn forget(&self) {
        *self.known() = Known::default();
    }
}

#[cfg(test)]
mod tests {
    use brainy_coordination::FencingToken;

    use super::*;

    const SHARD: ShardId = ShardId(3);

    fn at(version: &str) -> Option<DocumentVersion> {
        Some(DocumentVersion(version.into()))
    }

    fn free(version: &str) -> FreeLease {
        let lease = ShardLease {
            shard: SHARD,
            owner: None,
            incarnation: None,
            token: FencingToken(7),
            revision: 1,
            since: String::new(),
            why: String::new(),
            origins: Vec::new(),
            surplus: Vec::new(),
        };
        FreeLease::new(lease, DocumentVersion(version.into()))
    }

    #[test]
    fn a_take_that_may_land_is_over_once_another_version_is_read() {
        let takes = Takes::default();
        takes.may_land(SHARD, at("v1"));
        takes.stands(SHARD, at("v1").as_ref());
        assert!(takes.is_open(SHARD), "it may land yet");
        takes.stands(SHARD, at("v2").as_ref());
        assert!(!takes.is_open(SHARD));
        takes.may_land(SHARD, None);
        takes.stands(SHARD, None);
        assert!(takes.is_open(SHARD), "there was no lease, and there is none yet");
    }

    #[test]
    fn what_was_told_of_a_lease_does_not_say_that_a_take_is_over() {
        let takes = Takes::default();
        takes.hear(free("v0"));
        takes.may_land(SHARD, at("v1"));
        assert_eq!(takes.told(SHARD), None, "it is of before the take");
        assert!(takes.is_open(SHARD));
        takes.landed(SHARD);
        assert_eq!(takes.told(SHARD), None, "it serves for one try");
    }

    #[test]
    fn what_was_told_serves_for_one_try() {
        let takes = Takes::default();
        takes.hear(free("v1"));
        assert!(takes.is_told(SHARD));
        assert_eq!(takes.told(SHARD).map(|(_, version)| Some(version)), Some(at("v1")));
        assert!(!takes.is_told(SHARD));
        assert_eq!(takes.told(SHARD), None);
    }

    #[test]
    fn another_life_knows_nothing_of_it() {
        let takes = Takes::default();
        takes.hear(free("v1"));
        takes.may_land(ShardId(4), None);
        takes.forget();
        assert!(!takes.is_told(SHARD) && !takes.is_open(ShardId(4)));
    }
}
