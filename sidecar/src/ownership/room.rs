//! Whether a volume has room for the copy of a shard (strategy Isolated). A copy that runs into a full disk helps nobody: what
//! room there was it takes from the writes of clients.

use brainy_coordination::ShardId;
use brainy_coordination::session::VolumeUse;
use brainy_storage::Error;
use brainy_storage::backends::disk::Disk;

use super::volume;

/// A volume this full takes no copy, in percent: the rest is for the writes of clients, and for the last keys of a copy, for which
/// its owner has stopped already.
const COPIES_UP_TO: u8 = 98;
/// The cause by which a disk without room is known, here and where it is written to.
const DISK_FULL: &str = "DiskFull";

/// Fails if a disk has no room for more of a copy. `None`: one without bounds.
pub(super) async fn check(disk: Option<Disk>, shard: ShardId) -> Result<(), Error> {
    let Some(disk) = disk else { return Ok(()) };
    let found = volume::blocking(move || disk.look()).await?;
    match VolumeUse::new(found.used, found.total).percent() < COPIES_UP_TO {
        true => Ok(()),
        false => Err(none_for(shard)),
    }
}

/// There is none for this shard.
pub(super) fn none_for(shard: ShardId) -> Error {
    Error::unavailable(
        DISK_FULL,
        format!(
            "shard {shard} stays where it is: this node's volume has no room for it. Make the volume larger, or delete something"
        ),
    )
}

/// Whether it was for lack of room.
pub(super) fn is_lacking(error: &Error) -> bool {
    matches!(error, Error::Unavailable { cause, .. } if cause == DISK_FULL)
}

#[cfg(test)]
mod tests {
    use super::super::in_words;
    use super::*;

    #[tokio::test]
    async fn a_volume_without_room_takes_no_copy_and_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let full = Disk::of(folder.path(), |disk| disk);
        let error = check(Some(full), ShardId(7)).await.unwrap_err();
        assert!(is_lacking(&error), "{error}");
        assert!(in_words(&error).contains("shard 007 stays where it is"), "{}", in_words(&error));
        check(None, ShardId(7)).await.unwrap();
        assert!(!is_lacking(&Error::unavailable("HandOff", "its address is not known")));
    }
}
