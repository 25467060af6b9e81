//! What is stored for a key: one line of JSON that says what follows, then the value.
//!
//! ```text
//! {"brainy":1,"revision":7,"nonce":"9f…","key":"user/42","type":"json","xxh3":"0123456789abcdef"}
//! {"name":"Ada"}
//! ```
//!
//! The nonce is random for each write, so that an ETag made of the content never repeats (R5). The checksum covers the
//! header's fields and the value, so that damage is reported and never served.
//!
//! A store that can't delete conditionally gets a *tombstone* in place of a removed value: `{"brainy":1,"deleted":8,
//! "nonce":"…"}`. A tombstone is always shorter than [`MAX_TOMBSTONE_BYTES`] and a value always longer, so that a
//! listing can tell them apart by size alone.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use crate::{Error, Key, Value};

/// The format's version, the first thing in each envelope.
const FORMAT: u32 = 1;
/// No tombstone is longer, no value is shorter.
pub const MAX_TOMBSTONE_BYTES: usize = 100;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header<'a> {
    brainy: u32,
    revision: u64,
    nonce: String,
    #[serde(borrow)]
    key: std::borrow::Cow<'a, str>,
    r#type: Type,
    xxh3: String,
}

#[derive(Serialize, Deserialize, Clone, Copy, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Type {
    Json,
    Bytes,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Tombstone {
    brainy: u32,
    deleted: u64,
    nonce: String,
}

/// An envelope as read.
#[derive(Clone, Debug, PartialEq)]
pub struct Envelope {
    /// Counts the writes of the key.
    pub revision: u64,
    /// The write's random mark: 32 hexadecimal digits.
    pub nonce: String,
    /// The value; `None` in a tombstone.
    pub value: Option<Value>,
}

/// A new random mark for one write.
pub fn new_nonce() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}

/// The envelope of a value.
pub fn seal(key: &Key, revision: u64, nonce: &str, value: &Value) -> Result<Bytes, Error> {
    value.check()?;
    let (r#type, payload) = match value {
        Value::Json(json) => {
            // A JSON value always has a text: its keys are strings and its numbers finite.
            let text = serde_json::to_vec(json).map_err(|why| Error::invalid("value", why.to_string()))?;
            (Type::Json, Bytes::from(text))
        }
        Value::Bytes(bytes) => (Type::Bytes, bytes.clone()),
    };
    let header = Header {
        brainy: FORMAT,
        revision,
        nonce: nonce.to_owned(),
        key: key.as_str().into(),
        r#type,
        xxh3: checksum(revision, nonce, key.as_str(), r#type, &payload),
    };
    Ok(line(&header, &payload))
}

/// The envelope that stands for "no value".
pub fn seal_tombstone(revision: u64, nonce: &str) -> Bytes {
    line(&Tombstone { brainy: FORMAT, deleted: revision, nonce: nonce.to_owned() }, &[])
}

fn line(header: &impl Serialize, payload: &[u8]) -> Bytes {
    // Only strings and numbers: can't fail; an empty header would be refused on reading.
    let mut bytes = serde_json::to_vec(header).unwrap_or_default();
    bytes.reserve_exact(payload.len() + 1);
    bytes.push(b'\n');
    bytes.extend_from_slice(payload);
    bytes.into()
}

/// Reads the envelope found under a key. Whatever doesn't fit is [`Error::Corrupt`].
pub fn open(key: &Key, bytes: &Bytes) -> Result<Envelope, Error> {
    open_unchecked(key.as_str(), bytes).map_err(|problem| Error::Corrupt { key: key.to_string(), problem })
}

fn open_unchecked(key: &str, bytes: &Bytes) -> Result<Envelope, String> {
    let end = bytes.iter().position(|b| *b == b'\n').ok_or("it has no header")?;
    let (head, payload) = (&bytes[..end], bytes.slice(end + 1..));
    if bytes.len() <= MAX_TOMBSTONE_BYTES {
        let tombstone: Tombstone = serde_json::from_slice(head).map_err(|why| format!("bad header: {why}"))?;
        check_format(tombstone.brainy)?;
        return Ok(Envelope { revision: tombstone.deleted, nonce: tombstone.nonce, value: None });
    }
    let header: Header<'_> = serde_json::from_slice(head).map_err(|why| format!("bad header: {why}"))?;
    check_format(header.brainy)?;
    if header.key != key {
        return Err(format!("it belongs to key {:?}", header.key));
    }
    if header.xxh3 != checksum(header.revision, &header.nonce, &header.key, header.r#type, &payload) {
        return Err("its checksum does not match".to_owned());
    }
    let value = match header.r#type {
        Type::Json => Value::Json(serde_json::from_slice(&payload).map_err(|why| format!("bad JSON: {why}"))?),
        Type::Bytes => Value::Bytes(payload),
    };
    Ok(Envelope { revision: header.revision, nonce: header.nonce, value: Some(value) })
}

fn check_format(found: u32) -> Result<(), String> {
    if found == FORMAT { Ok(()) } else { Err(format!("its format is {found}, this program reads {FORMAT}")) }
}

/// Of all that an envelope says, with lengths, so that no byte can move from one field to the next.
fn checksum(revision: u64, nonce: &str, key: &str, r#type: Type, payload: &[u8]) -> String {
    let mut hash = Xxh3::new();
    hash.update(&revision.to_le_bytes());
    for part in [nonce.as_bytes(), key.as_bytes(), &[r#type as u8], payload] {
        hash.update(&(part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    format!("{:016x}", hash.digest())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn key(text: &str) -> Key {
        Key::new(text).unwrap()
    }

    #[test]
    fn every_value_comes_back_with_its_revision() {
        let values = [
            Value::Json(json!(null)),
            Value::Json(json!(0)),
            Value::Json(json!("")),
            Value::Json(json!(false)),
            Value::Json(json!({"a": [1, 2.5, "\n"]})),
            Value::Bytes(Bytes::new()),
            Value::Bytes(Bytes::from_static(b"\n\n\x00\xff")),
        ];
        for value in values {
            let sealed = seal(&key("a\nb\""), 7, &new_nonce(), &value).unwrap();
            let opened = open(&key("a\nb\""), &sealed).unwrap();
            assert_eq!((opened.revision, opened.value), (7, Some(value)));
        }
    }

    #[test]
    fn two_writes_of_one_value_never_look_the_same() {
        let write = || seal(&key("a"), 1, &new_nonce(), &Value::Json(json!(1))).unwrap();
        assert_ne!(write(), write());
    }

    #[test]
    fn a_tombstone_is_shorter_than_any_value() {
        let tombstone = seal_tombstone(u64::MAX, &new_nonce());
        assert!(tombstone.len() <= MAX_TOMBSTONE_BYTES, "{}", tombstone.len());
        let opened = open(&key("a"), &tombstone).unwrap();
        assert_eq!((opened.revision, opened.value), (u64::MAX, None));
        let smallest = seal(&key("a"), 1, &new_nonce(), &Value::Bytes(Bytes::new())).unwrap();
        assert!(smallest.len() > MAX_TOMBSTONE_BYTES, "{}", smallest.len());
    }

    #[test]
    fn another_keys_envelope_is_refused() {
        let sealed = seal(&key("a"), 1, &new_nonce(), &Value::Json(json!(1))).unwrap();
        assert!(matches!(open(&key("b"), &sealed), Err(Error::Corrupt { .. })));
    }

    #[test]
    fn a_later_format_is_refused_by_name() {
        let sealed = seal(&key("a"), 1, &new_nonce(), &Value::Json(json!(1))).unwrap();
        let later = String::from_utf8(sealed.to_vec()).unwrap().replacen("\"brainy\":1", "\"brainy\":2", 1);
        let Err(Error::Corrupt { problem, .. }) = open(&key("a"), &later.into()) else { panic!("it was read") };
        assert!(problem.contains("format is 2"), "{problem}");
    }

    #[test]
    fn every_cut_is_noticed() {
        let sealed = seal(&key("a"), 1, &new_nonce(), &Value::Bytes(Bytes::from_static(b"abc"))).unwrap();
        for length in 0..sealed.len() {
            assert!(open(&key("a"), &sealed.slice(..length)).is_err(), "cut to {length} bytes");
        }
    }

    proptest! {
        #[test]
        fn a_flipped_bit_is_noticed_or_harmless(payload in prop::collection::vec(any::<u8>(), 0..64), flip in any::<prop::sample::Index>()) {
            let value = Value::Bytes(payload.into());
            let sealed = seal(&key("a"), 3, &new_nonce(), &value).unwrap();
            let mut damaged = sealed.to_vec();
            let bit = flip.index(damaged.len() * 8);
            damaged[bit / 8] ^= 1 << (bit % 8);
            if let Ok(read) = open(&key("a"), &damaged.into()) {
                prop_assert_eq!(read, open(&key("a"), &sealed).unwrap());
            }
        }
    }
}
