//! A store over two tiers in which everything moves all the time: what is written is demoted as soon as it can be, and what is
//! read promoted.

use std::sync::Arc;

use brainy_storage::StorageAdapter;
use brainy_storage::layers::batching::Sole;
use brainy_storage::layers::tiering::{Cold, Tiering, Tiers};

use super::bucket::FarBucket;

/// The adapter over an empty bucket.
pub(crate) fn bucket() -> Arc<dyn StorageAdapter> {
    FarBucket::calm().open()
}

/// Tiers between which everything is to move.
pub(crate) fn tiers() -> Tiers {
    Tiers::new(Tiering { promote_after_reads: 1, demote_after_ms: 0, ..Tiering::default() })
}

/// Something did.
pub(crate) fn assert_moved(tiers: &Tiers) {
    assert!(have_moved(tiers), "nothing moves: {:?}", tiers.counts());
}

/// Whether anything did, in both directions.
pub(crate) fn have_moved(tiers: &Tiers) -> bool {
    let counts = tiers.counts();
    counts.demoted > 0 && counts.promoted > 0 && counts.cold_reads > 0
}

/// Everything moves while the store is in use.
pub(crate) fn over(
    tiers: &Tiers,
    hot: Arc<dyn StorageAdapter>,
    cold: Arc<dyn StorageAdapter>,
) -> Arc<dyn StorageAdapter> {
    let tiers = tiers.clone();
    let store = tiers.over(hot, Cold { store: cold, longest_path: 1024 }, Arc::new(Sole));
    let in_use = Arc::downgrade(&store);
    tokio::spawn(async move {
        let mut turn: u64 = 0;
        while in_use.strong_count() > 0 {
            tiers.run(Some(0));
            turn += 1;
            match turn % 64 {
                // Others must have their turn, also those that wait for a disk.
                0 => tokio::time::sleep(std::time::Duration::from_millis(1)).await,
                _ => tokio::task::yield_now().await,
            }
        }
    });
    store
}
