//! How full the disk is that a node keeps its data on: `brainy_volume_total_bytes` and `brainy_volume_used_bytes`, both 0 where
//! a node has no volume.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use rustix::fs::statvfs;
use tokio::sync::Semaphore;

/// For a disk to say how full it is. What it said last is shown after that.
const LOOK_LIMIT: Duration = Duration::from_secs(1);

/// The figures of the volume.
#[derive(Debug)]
pub(super) struct VolumeFigures {
    folder: OnceLock<PathBuf>,
    total: Gauge<u64, AtomicU64>,
    used: Gauge<u64, AtomicU64>,
    /// A disk that does not answer holds up one thread, however often it is asked.
    looking: Arc<Semaphore>,
}

impl Default for VolumeFigures {
    fn default() -> Self {
        let (total, used) = (Gauge::default(), Gauge::default());
        Self { folder: OnceLock::new(), total, used, looking: Arc::new(Semaphore::new(1)) }
    }
}

impl VolumeFigures {
    pub(super) fn register(&self, registry: &mut Registry) {
        let help = "Size of the disk that this node keeps its data on, without what is reserved for root; 0: none";
        registry.register_with_unit("volume_total", help, Unit::Bytes, self.total.clone());
        registry.register_with_unit("volume_used", "Of these, in use", Unit::Bytes, self.used.clone());
    }

    pub(super) fn watch(&self, folder: Option<&Path>) {
        if let Some(folder) = folder {
            self.folder.get_or_init(|| folder.to_owned());
        }
    }

    pub(super) async fn look(self: &Arc<Self>) {
        let Ok(permit) = Arc::clone(&self.looking).try_acquire_owned() else {
            return;
        };
        let figures = Arc::clone(self);
        let look = tokio::task::spawn_blocking(move || {
            figures.look_now();
            drop(permit);
        });
        // Late, or it panicked: then there is no news.
        let _news = tokio::time::timeout(LOOK_LIMIT, look).await;
    }

    fn look_now(&self) {
        let Some(folder) = self.folder.get() else {
            return;
        };
        match statvfs(folder) {
            Ok(disk) => {
                let bytes = |blocks: u64| blocks.saturating_mul(disk.f_frsize);
                let used = bytes(disk.f_blocks.saturating_sub(disk.f_bfree));
                self.used.set(used);
                self.total.set(used.saturating_add(bytes(disk.f_bavail)));
            }
            Err(error) => tracing::warn!(folder = %folder.display(), %error, "how full the disk is can't be seen"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_volume_says_how_full_it_is_and_a_node_without_one_says_nothing() {
        let none = Arc::new(VolumeFigures::default());
        none.look().await;
        assert_eq!((none.total.get(), none.used.get()), (0, 0));
        let folder = tempfile::tempdir().unwrap();
        let figures = Arc::new(VolumeFigures::default());
        figures.watch(Some(folder.path()));
        figures.look().await;
        assert!(figures.total.get() > figures.used.get() && figures.used.get() > 0, "{figures:?}");
    }

    #[tokio::test]
    async fn a_disk_that_does_not_answer_is_not_asked_again_meanwhile() {
        let folder = tempfile::tempdir().unwrap();
        let figures = Arc::new(VolumeFigures::default());
        figures.watch(Some(folder.path()));
        let _stuck = figures.looking.try_acquire().unwrap();
        figures.look().await;
        assert_eq!(figures.total.get(), 0);
    }
}
