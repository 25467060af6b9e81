//! How full a disk is.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::statvfs;

use super::filesystem::files::failure;
use crate::Error;

/// A disk with what a backend keeps free on it.
#[derive(Clone, Debug)]
pub struct Disk {
    folder: PathBuf,
    kept_free: KeptFree,
    data: Option<Data>,
}

/// Says how many bytes stay free on a disk of so many.
#[derive(Clone)]
struct KeptFree(Arc<dyn Fn(u64) -> u64 + Send + Sync>);

impl fmt::Debug for KeptFree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeptFree")
    }
}

/// Says how many bytes of the disk are a backend's own.
#[derive(Clone)]
struct Data(Arc<dyn Fn() -> Option<u64> + Send + Sync>);

impl fmt::Debug for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Data")
    }
}

/// How much of a disk is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskUse {
    /// Bytes in use.
    pub used: u64,
    /// Bytes that may be: where as many are, values are refused.
    pub total: u64,
}

impl Disk {
    /// The disk that a folder is on; `kept_free`: what stays free on one of so many bytes.
    pub fn of(folder: &Path, kept_free: impl Fn(u64) -> u64 + Send + Sync + 'static) -> Self {
        Self { folder: folder.to_owned(), kept_free: KeptFree(Arc::new(kept_free)), data: None }
    }

    /// With what says how many of its bytes are the backend's own data; `None`: not any more.
    #[must_use]
    pub fn with_data(self, data: impl Fn() -> Option<u64> + Send + Sync + 'static) -> Self {
        Self { data: Some(Data(Arc::new(data))), ..self }
    }

    /// How many of its bytes are the backend's own data, about, where that can be told. Others may have files there too. May
    /// block for as long as a write takes.
    pub fn data(&self) -> Option<u64> {
        self.data.as_ref().and_then(|data| data.0())
    }

    /// Looks. Blocks for as long as the disk does.
    pub fn look(&self) -> Result<DiskUse, Error> {
        let disk = statvfs(&self.folder).map_err(|errno| failure("examining", &self.folder, &errno.into()))?;
        let bytes = |blocks: u64| blocks.saturating_mul(disk.f_frsize);
        // What only root may use is no room for us.
        let (used, free) = (bytes(disk.f_blocks.saturating_sub(disk.f_bfree)), bytes(disk.f_bavail));
        Ok(DiskUse { used, total: (used + free).saturating_sub((self.kept_free.0)(bytes(disk.f_blocks))) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stays_free_is_no_room() {
        let folder = tempfile::tempdir().unwrap();
        let all = Disk::of(folder.path(), |_| 0).look().unwrap();
        assert!(all.used > 0 && all.total > all.used, "{all:?}");
        let none = Disk::of(folder.path(), |disk| disk).look().unwrap();
        assert_eq!(none.total, 0);
        let disk = Disk::of(folder.path(), |_| 0);
        assert_eq!((disk.data(), disk.with_data(|| Some(7)).data()), (None, Some(7)));
        assert!(Disk::of(&folder.path().join("gone"), |_| 0).look().is_err());
    }
}
