//! What the tree holds under the key of a value: its envelope, or, where the value is large, the head of its envelope and the file
//! that the rest is in.
//!
//! ```text
//! 1, life, number, length of the file (8 bytes each, big endian), {"brainy":1,...,"xxh3":"..."}\n
//! ```
//!
//! An envelope begins with `{`. The head's checksum covers the content of the file.

use bytes::Bytes;

use super::files::FileId;

/// Begins the record of a value that has a file.
const FILED: u8 = 1;

/// What stands under a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Record {
    /// The envelope.
    Whole(Bytes),
    /// Its head, and the file that has the rest.
    Filed(FileId, Bytes),
}

impl Record {
    pub(super) fn of(bytes: Bytes) -> Self {
        match file_of(&bytes) {
            Some(id) => Self::Filed(id, bytes.slice(PREFIX..)),
            None => Self::Whole(bytes),
        }
    }

    /// The file, if it has one.
    pub(super) fn file(&self) -> Option<FileId> {
        match self {
            Self::Whole(_) => None,
            Self::Filed(id, _) => Some(*id),
        }
    }
}

const PREFIX: usize = 1 + 3 * size_of::<u64>();

/// The file that a record names, if it does.
pub(super) fn file_of(record: &[u8]) -> Option<FileId> {
    let (numbers, _) = record.strip_prefix(&[FILED])?.split_first_chunk::<{ PREFIX - 1 }>()?;
    parse_id(numbers)
}

/// The record of a value whose envelope has this head.
pub(super) fn filed(id: FileId, head: &[u8]) -> Bytes {
    let mut bytes = Vec::with_capacity(PREFIX + head.len());
    bytes.push(FILED);
    write_id(&mut bytes, id);
    bytes.extend_from_slice(head);
    bytes.into()
}

/// An id as it stands in records and keys.
pub(super) fn write_id(bytes: &mut Vec<u8>, FileId { life, number, length }: FileId) {
    for part in [life, number, length] {
        bytes.extend_from_slice(&part.to_be_bytes());
    }
}

pub(super) fn parse_id(bytes: &[u8]) -> Option<FileId> {
    let (life, rest) = bytes.split_first_chunk()?;
    let (number, rest) = rest.split_first_chunk()?;
    let id = |length| FileId {
        life: u64::from_be_bytes(*life),
        number: u64::from_be_bytes(*number),
        length: u64::from_be_bytes(length),
    };
    rest.try_into().ok().map(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_leads_to_its_file_and_an_envelope_to_none() {
        let id = FileId { life: u64::MAX, number: 3, length: 1 << 20 };
        let record = filed(id, b"{}\n");
        assert_eq!(file_of(&record), Some(id));
        assert_eq!(Record::of(record), Record::Filed(id, Bytes::from_static(b"{}\n")));
        let envelope = Bytes::from_static(b"{\"brainy\":1}\n that is longer than any prefix is");
        assert_eq!(Record::of(envelope.clone()), Record::Whole(envelope));
        assert_eq!(file_of(b""), None);
        assert_eq!(file_of(&[FILED; 24]), None);
    }
}
