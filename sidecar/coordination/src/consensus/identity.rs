//! Who a member is, and to which group it belongs. All of it blocks.
//!
//! ```text
//! <folder>/member.json     its id and its group. Without it the rest is worthless: who does not know who it was must not
//!                          speak for it
//! <folder>/<id>/           its log and its snapshot
//! <folder>/lock            locked by the process that speaks for it
//! ```

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use brainy_storage::chance;
use serde::{Deserialize, Serialize};

use super::MemberId;
use super::journal::{sync_folder, write_whole};

/// The file's name.
const FILE: &str = "member.json";
/// The lock's name.
const LOCK: &str = "lock";

/// What the file says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Identity {
    /// Of which cluster: see [`cluster`](super::wire::cluster).
    pub(super) cluster: String,
    /// This member.
    pub(super) member: MemberId,
    /// The group that it has pledged itself to. Another one only while its log is blank.
    pub(super) group: Option<String>,
}

impl Identity {
    /// The folder's identity; a new one where it has none, or one of another cluster. The folder must be [taken](take).
    pub(super) fn of(folder: &Path, cluster: &str) -> io::Result<Self> {
        match fs::read(folder.join(FILE)) {
            Ok(text) => {
                let found: Self = serde_json::from_slice(&text)?;
                if found.cluster == cluster {
                    return Ok(found);
                }
                Self::forget(folder)?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        for rest in fs::read_dir(folder)? {
            let rest = rest?.path();
            if rest.is_dir() {
                fs::remove_dir_all(rest)?;
            }
        }
        let drawn = Self { cluster: cluster.to_owned(), member: draw(), group: None };
        drawn.save(folder)?;
        folder.parent().map_or(Ok(()), sync_folder)?;
        Ok(drawn)
    }

    /// Where this member keeps its log and its snapshot.
    pub(super) fn place(&self, folder: &Path) -> io::Result<PathBuf> {
        let place = folder.join(format!("{:016x}", self.member));
        fs::create_dir_all(&place)?;
        sync_folder(folder)?;
        Ok(place)
    }

    /// Writes it down, durably.
    pub(super) fn save(&self, folder: &Path) -> io::Result<()> {
        write_whole(&folder.join(FILE), &serde_json::to_vec(self)?)
    }

    /// The folder's member is no more: the next one to be opened is another.
    pub(super) fn forget(folder: &Path) -> io::Result<()> {
        match fs::remove_file(folder.join(FILE)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => sync_folder(folder),
        }
    }
}

/// Makes the folder, and takes it for this process, until the file is closed.
pub(super) fn take(folder: &Path) -> io::Result<File> {
    fs::create_dir_all(folder)?;
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(folder.join(LOCK))?;
    file.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => io::Error::other(format!("{} is in use by another process", folder.display())),
        TryLockError::Error(error) => error,
    })?;
    Ok(file)
}

/// An id that is nobody's.
fn draw() -> MemberId {
    u64::from_str_radix(&chance::mark()[16..], 16).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_stays_until_it_is_forgotten_and_what_was_known_under_it_goes_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("consensus");
        let _taken = take(&folder).unwrap();
        let first = Identity::of(&folder, "c").unwrap();
        let pledged = Identity { group: Some("g".into()), ..first.clone() };
        pledged.save(&folder).unwrap();
        let known = pledged.place(&folder).unwrap().join("log");
        fs::write(&known, "something").unwrap();
        assert_eq!(Identity::of(&folder, "c").unwrap(), pledged);
        assert!(known.exists());
        Identity::forget(&folder).unwrap();
        let second = Identity::of(&folder, "c").unwrap();
        assert_ne!(second.member, first.member);
        assert_eq!(second.group, None);
        assert!(!known.exists(), "another member's promises");
    }

    #[test]
    fn a_member_from_before_another_pattern_was_in_charge_is_void() {
        let folder = tempfile::tempdir().unwrap();
        let _taken = take(folder.path()).unwrap();
        let first = Identity::of(folder.path(), "c/1").unwrap();
        Identity { group: Some("g".into()), ..first.clone() }.save(folder.path()).unwrap();
        let known = first.place(folder.path()).unwrap();
        let second = Identity::of(folder.path(), "c/4").unwrap();
        assert_ne!(second.member, first.member);
        assert_eq!(second.group, None);
        assert!(!known.exists());
    }

    #[test]
    fn a_folder_is_one_process_s_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let taken = take(folder.path()).unwrap();
        assert!(take(folder.path()).unwrap_err().to_string().contains("in use by another process"));
        drop(taken);
        take(folder.path()).unwrap();
    }
}
