//! What the tiers keep for a key, pure: a value or a removal, in an envelope that is the same in both; and in the hot tier,
//! before it, what became of it in the cold one. So a value and its journal are one write.
//!
//! ```text
//! hot    1 byte format, 1 byte flags, 8 bytes when it was written, [8 bytes revision, 8 bytes size, 1 byte length, tag], envelope
//! cold   envelope
//! ```
//!
//! Only this layer writes values of this kind, and keeps them apart from everything else: no value of a user can be taken
//! for one.

use std::cmp::Ordering;

use bytes::{BufMut, BytesMut};

use crate::layers::behind::Sealed;
use crate::{Error, Key, Value, Version};

const FORMAT: u8 = 1;
/// It is in the cold tier.
const CLEAN: u8 = 1;
/// What the cold tier remembers of operations belongs to it too.
const INHERITS: u8 = 2;
/// A version of the cold tier follows.
const VERSION: u8 = 4;
/// Format, flags and time.
const FIXED: usize = 10;
/// Revision, size and length of the tag.
const NOTED: usize = 17;

/// What the cold tier holds under a key.
pub(super) fn from_cold(key: &Key, value: Value) -> Result<Sealed, Error> {
    match value {
        Value::Bytes(bytes) => Sealed::open(key, bytes),
        Value::Json(_) | Value::Object(_) => Err(foreign(key)),
    }
}

/// What becomes of a write where the cold tier has another one of the key.
pub(super) fn against(write: &Sealed, stands: &Sealed) -> Against {
    match stands.revision().cmp(&write.revision()) {
        Ordering::Less => Against::Older,
        Ordering::Equal if stands.nonce() == write.nonce() => Against::Same,
        Ordering::Equal | Ordering::Greater => Against::Newer,
    }
}

/// What stands in the cold tier, beside what is to be written there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Against {
    /// It was written before.
    Older,
    /// It is the very same write.
    Same,
    /// Somebody else has written later.
    Newer,
}

/// What is known to stand in the cold tier.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Noted {
    /// The cold store's own.
    pub(super) version: Version,
    /// How many it takes there.
    pub(super) bytes: u64,
}

/// What became of a write in the cold tier.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum State {
    /// It is there.
    Clean(Noted),
    /// It is not known to be there.
    Unwritten {
        /// What stood there before, where that is known.
        over: Option<Noted>,
        /// Nobody has looked what stands there: the operations that it remembers belong to this value too.
        inherits: bool,
    },
}

/// What the hot tier holds under a key.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Record {
    pub(super) sealed: Sealed,
    pub(super) state: State,
    /// Milliseconds since 1970.
    pub(super) written_at: u64,
}

impl Record {
    pub(super) fn is_unwritten(&self) -> bool {
        matches!(self.state, State::Unwritten { .. })
    }

    /// What is known to stand in the cold tier, or to have stood there before.
    pub(super) fn noted(&self) -> Option<&Noted> {
        match &self.state {
            State::Clean(noted) => Some(noted),
            State::Unwritten { over, .. } => over.as_ref(),
        }
    }

    /// As the hot store keeps it.
    pub(super) fn to_value(&self) -> Value {
        let (flags, noted) = match &self.state {
            State::Clean(noted) => (CLEAN, Some(noted)),
            State::Unwritten { over, inherits } => (if *inherits { INHERITS } else { 0 }, over.as_ref()),
        };
        // A tag that is too long for its byte is not noted: then it is looked for.
        let noted = noted.filter(|noted| noted.version.tag.len() <= usize::from(u8::MAX));
        let flags = match noted {
            Some(_) => flags | VERSION,
            None => flags & !CLEAN,
        };
        let tag = noted.map_or("", |noted| &noted.version.tag);
        let mut bytes = BytesMut::with_capacity(FIXED + NOTED + tag.len() + self.sealed.bytes.len());
        bytes.put_u8(FORMAT);
        bytes.put_u8(flags);
        bytes.put_u64(self.written_at);
        if let Some(noted) = noted {
            bytes.put_u64(noted.version.revision);
            bytes.put_u64(noted.bytes);
            bytes.put_u8(u8::try_from(tag.len()).unwrap_or(u8::MAX));
            bytes.put_slice(tag.as_bytes());
        }
        bytes.put_slice(&self.sealed.bytes);
        Value::Bytes(bytes.freeze())
    }

    pub(super) fn from_value(key: &Key, value: Value) -> Result<Self, Error> {
        let Value::Bytes(bytes) = value else { return Err(foreign(key)) };
        let (state, written_at, rest) = parse(&bytes).ok_or_else(|| foreign(key))?;
        Ok(Self { sealed: Sealed::open(key, bytes.slice(rest..))?, state, written_at })
    }
}

/// What stands before the envelope, and where that begins.
fn parse(bytes: &[u8]) -> Option<(State, u64, usize)> {
    let (fixed, mut rest) = bytes.split_at_checked(FIXED)?;
    let (format, flags) = (fixed[0], fixed[1]);
    if format != FORMAT || flags & !(CLEAN | INHERITS | VERSION) != 0 {
        return None;
    }
    let written_at = u64::from_be_bytes(fixed[2..].try_into().ok()?);
    let mut noted = None;
    if flags & VERSION != 0 {
        let (revision, after) = rest.split_at_checked(8)?;
        let (size, after) = after.split_at_checked(8)?;
        let (length, after) = after.split_first()?;
        let (tag, after) = after.split_at_checked(usize::from(*length))?;
        let number = |bytes: &[u8]| bytes.try_into().ok().map(u64::from_be_bytes);
        let version = Version { revision: number(revision)?, tag: std::str::from_utf8(tag).ok()?.to_owned() };
        noted = Some(Noted { version, bytes: number(size)? });
        rest = after;
    }
    let state = match (flags & CLEAN != 0, noted) {
        (true, Some(noted)) => State::Clean(noted),
        (true, None) => return None,
        (false, over) => State::Unwritten { over, inherits: flags & INHERITS != 0 },
    };
    Some((state, written_at, bytes.len() - rest.len()))
}

fn foreign(key: &Key) -> Error {
    Error::Corrupt { key: key.to_string(), problem: "it was not written by the tiering layer".to_owned() }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use serde_json::json;

    use super::*;
    use crate::Object;
    use crate::object::Head;
    use crate::performed::Performed;

    fn key() -> Key {
        Key::new("k").unwrap()
    }

    fn noted(tag: &str) -> Noted {
        Noted { version: Version { revision: 7, tag: tag.into() }, bytes: 123 }
    }

    fn states() -> [State; 4] {
        let over = |over, inherits| State::Unwritten { over, inherits };
        [State::Clean(noted("a1-b2")), over(None, true), over(None, false), over(Some(noted("c")), false)]
    }

    #[test]
    fn every_record_reads_back_as_it_was() {
        let values = [
            Some(Value::Json(json!(0))),
            Some(Value::Json(json!(""))),
            Some(Value::Json(json!(false))),
            Some(Value::Json(json!(null))),
            Some(Value::Bytes(Bytes::new())),
            Some(Value::Bytes(Bytes::from_static(b"\x01\x07 looks like one"))),
            Some(Value::Object(Object::whole(Head::default(), Bytes::from_static(b"\x01\x07")))),
            None,
        ];
        for value in values {
            let sealed = Sealed::new(&key(), 1 << 50, value.as_ref(), Performed::default()).unwrap();
            assert_eq!((sealed.is_removal(), sealed.entry().map(|entry| entry.value)), (value.is_none(), value));
            assert_eq!(from_cold(&key(), Value::Bytes(sealed.bytes.clone())).unwrap(), sealed);
            for state in states() {
                let record = Record { sealed: sealed.clone(), state, written_at: 1_790_000_000_000 };
                assert_eq!(Record::from_value(&key(), record.to_value()).unwrap(), record);
            }
        }
    }

    #[test]
    fn what_is_cut_or_of_another_kind_is_refused() {
        let sealed = Sealed::new(&key(), 3, Some(&Value::Json(json!({"a": 1}))), Performed::default()).unwrap();
        for state in states() {
            let record = Record { sealed: sealed.clone(), state, written_at: 5 };
            let Value::Bytes(bytes) = record.to_value() else { panic!("no bytes") };
            for length in 0..bytes.len() {
                let cut = Record::from_value(&key(), Value::Bytes(bytes.slice(..length)));
                assert!(matches!(cut, Err(Error::Corrupt { .. })), "{length}: {cut:?}");
            }
        }
        for foreign in [Value::Json(json!(1)), Value::Bytes(sealed.bytes.clone())] {
            assert!(matches!(Record::from_value(&key(), foreign), Err(Error::Corrupt { .. })));
        }
        assert!(from_cold(&Key::new("other").unwrap(), Value::Bytes(sealed.bytes)).is_err());
    }

    #[test]
    fn a_tag_that_has_no_room_is_looked_for_later() {
        let sealed = Sealed::new(&key(), 3, None, Performed::default()).unwrap();
        let record = Record { sealed, state: State::Clean(noted(&"x".repeat(256))), written_at: 5 };
        let read = Record::from_value(&key(), record.to_value()).unwrap();
        assert_eq!(read.state, State::Unwritten { over: None, inherits: false });
    }

    #[test]
    fn the_same_write_is_known_by_its_nonce_and_others_by_their_revisions() {
        let write = |revision| Sealed::new(&key(), revision, None, Performed::default()).unwrap();
        let mine = write(5);
        assert_eq!(against(&mine, &mine), Against::Same);
        assert_eq!(against(&mine, &write(4)), Against::Older);
        assert_eq!(against(&mine, &write(5)), Against::Newer, "an equal revision of somebody else's");
        assert_eq!(against(&mine, &write(6)), Against::Newer);
    }
}
