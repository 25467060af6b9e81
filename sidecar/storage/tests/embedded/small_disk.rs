//! A disk that is soon full.

use std::path::Path;
use std::process::{Command, Stdio};

/// A file system of its own in memory, which only root can mount; CI runs as root. Goes when it is dropped.
pub(crate) struct SmallDisk<'a>(&'a Path);

impl<'a> SmallDisk<'a> {
    /// One of this size (`40m`, `256k`) over a folder. `None`: it can't be had here, and that is said.
    pub(crate) fn mount(folder: &'a Path, size: &str) -> Option<Self> {
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(folder)
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success());
        if !mounted {
            eprintln!("skipped: mounting a small file system is not allowed here");
        }
        mounted.then_some(Self(folder))
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["-l"]).arg(self.0).status();
    }
}
