//! Who a member is, and to which group it belongs. All of it blocks.
//!
//! ```text
//! <folder>/member.json     its id and its group. Without it the rest is worthless: who does not know who it was must not
//!                          speak for it
//! <folder>/<id>/           its log and its snapshot
//! ```

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use brainy_storage::chance;
use serde::{Deserialize, Serialize};

use super::MemberId;
use super::journal::{sync_folder, write_whole};

/// The file's name.
const FILE: &str = "member.json";

/// What the file says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Identity {
    /// This member.
    pub(super) member: MemberId,
    /// The group that it has pledged itself to. Another one only while its log is blank.
    pub(super) group: Option<String>,
}

impl Identity {
    /// The folder's identity; a new one where it has none.
    pub(super) fn of(folder: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        match fs::read(folder.join(FILE)) {
            Ok(text) => Ok(serde_json::from_slice(&text)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                for rest in fs::read_dir(folder)? {
                    let rest = rest?.path();
                    if rest.is_dir() { fs::remove_dir_all(rest)? } else { fs::remove_file(rest)? }
                }
                let drawn = Self { member: draw(), group: None };
                drawn.save(folder)?;
                folder.parent().map_or(Ok(()), sync_folder)?;
                Ok(drawn)
            }
            Err(error) => Err(error),
        }
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
        let first = Identity::of(&folder).unwrap();
        let pledged = Identity { group: Some("g".into()), ..first.clone() };
        pledged.save(&folder).unwrap();
        let known = pledged.place(&folder).unwrap().join("log");
        fs::write(&known, "something").unwrap();
        assert_eq!(Identity::of(&folder).unwrap(), pledged);
        assert!(known.exists());
        Identity::forget(&folder).unwrap();
        let second = Identity::of(&folder).unwrap();
        assert_ne!(second.member, first.member);
        assert_eq!(second.group, None);
        assert!(!known.exists(), "another member's promises");
    }
}
