//! What is stored for a key: one line of JSON that says what follows, then the value.
//!
//! ```text
//! {"brainy":1,"revision":7,"nonce":"9f…","key":"user/42","type":"json","xxh3":"0123456789abcdef"}
//! {"name":"Ada"}
//! ```
//!
//! `type` is `json`, `bytes` or `object`; what the value of an [object](crate::object) looks like is told there.
//!
//! A value that is stored [compressed](crate::layers::compression) has two fields more: `"encoding":"zstd","length":4096`, the
//! length being that of the value itself. It is read the same with that layer or without.
//!
//! The nonce is random for each write, so that an ETag made of the content never repeats (R5). The checksum covers the
//! header's fields and the value, so that damage is reported and never served.
//!
//! What earlier writes of the key have left stands in two more fields, where there is any: `"operations"`, those with an
//! id that the value [remembers](crate::operation), and `"before"`, the beginnings of the nonces of the writes before
//! this one, newest first, by which a writer whose answer was lost finds out what became of its write.
//!
//! A bucket gets a *tombstone* in place of a removed value: `{"brainy":1,"deleted":8,"nonce":"…","past":"…"}`. A tombstone is
//! never longer than [`MAX_TOMBSTONE_BYTES`] and a value always is, so that a listing can tell them apart by size alone. `past`
//! is `before` for short: each mark in eight letters, and as many of the newest as there is room for, which are two at least.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use crate::layers::compression::{Algorithm, Compression};
use crate::performed::Performed;
use crate::{Entry, Error, Key, Object, Value, Version};

/// The format's version, the first thing in each envelope.
const FORMAT: u32 = 1;
/// No tombstone is longer, no value is shorter.
pub const MAX_TOMBSTONE_BYTES: usize = 117;
/// How many writes back an envelope names.
const MOST_BEFORE: usize = 8;
/// How much of a nonce it names them by: 48 bits tell nine writes apart.
pub(crate) const SHORT_NONCE: usize = 12;
/// The letters of such a mark in a tombstone.
const PACKED_MARK: usize = SHORT_NONCE / 2 * 4 / 3;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header<'a> {
    brainy: u32,
    revision: u64,
    nonce: String,
    #[serde(borrow)]
    key: std::borrow::Cow<'a, str>,
    r#type: Type,
    /// How the value was compressed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    encoding: Option<Algorithm>,
    /// How many bytes it has itself, if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    length: Option<u64>,
    #[serde(default, skip_serializing_if = "Performed::is_empty")]
    operations: Performed,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    before: Vec<String>,
    xxh3: String,
}

#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Type {
    Json,
    Bytes,
    Object,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Tombstone {
    brainy: u32,
    deleted: u64,
    nonce: String,
    /// The beginnings of the nonces of the writes before, newest first, in Base64.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    past: String,
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
    /// What earlier writes have left.
    pub trail: Trail,
}

/// What the writes of a key leave for those that come later.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Trail {
    /// The operations with an id that are remembered.
    pub performed: Performed,
    /// Beginnings of the nonces of the writes before, newest first.
    pub before: Vec<String>,
}

impl Trail {
    /// The trail of the write that follows on the one that had this trail and this nonce.
    pub(crate) fn after(&self, nonce: &str) -> Self {
        let mut before = Vec::with_capacity(MOST_BEFORE);
        before.push(short(nonce).to_owned());
        before.extend(self.before.iter().take(MOST_BEFORE - 1).cloned());
        Self { performed: self.performed.clone(), before }
    }
}

/// A value as stored by a backend that leaves nothing in place of what it removes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Stored {
    /// Its version's tag is the nonce.
    pub(crate) entry: Entry,
    pub(crate) performed: Performed,
}

impl Envelope {
    /// The trail of the write that comes next.
    pub(crate) fn next_trail(&self) -> Trail {
        self.trail.after(&self.nonce)
    }

    /// The value; refuses a tombstone.
    pub(crate) fn into_stored(self, key: &Key) -> Result<Stored, Error> {
        let no_value = || Error::Corrupt { key: key.to_string(), problem: "it holds no value".to_owned() };
        let value = self.value.ok_or_else(no_value)?;
        let version = Version { revision: self.revision, tag: self.nonce };
        Ok(Stored { entry: Entry { value, version }, performed: self.trail.performed })
    }
}

/// The beginning of a nonce, as trails have it.
pub(crate) fn short(nonce: &str) -> &str {
    nonce.get(..SHORT_NONCE).unwrap_or(nonce)
}

/// A new random mark for one write.
pub fn new_nonce() -> String {
    crate::chance::mark()
}

/// The envelope of a value, compressed if that is asked for and worth it.
pub fn seal(
    key: &Key,
    revision: u64,
    nonce: &str,
    value: &Value,
    trail: &Trail,
    compression: Option<Compression>,
) -> Result<Bytes, Error> {
    Ok(Encoded::of(value, compression)?.seal(key, revision, nonce, trail))
}

/// A value as it stands in its envelope, before it is known as what it will be written.
#[derive(Clone, Debug)]
pub(crate) struct Encoded {
    r#type: Type,
    encoding: Option<Algorithm>,
    length: Option<u64>,
    payload: Bytes,
}

impl Encoded {
    /// Compressed if that is asked for and worth it.
    pub(crate) fn of(value: &Value, compression: Option<Compression>) -> Result<Self, Error> {
        value.check()?;
        let (r#type, plain) = match value {
            Value::Json(json) => {
                // A JSON value always has a text: its keys are strings and its numbers finite.
                let text = serde_json::to_vec(json).map_err(|why| Error::invalid("value", why.to_string()))?;
                (Type::Json, Bytes::from(text))
            }
            Value::Bytes(bytes) => (Type::Bytes, bytes.clone()),
            Value::Object(object) => (Type::Object, object.to_bytes()?),
        };
        let compressed = compression.and_then(|how| Some((how.algorithm, how.compress(&plain)?)));
        let (encoding, length, payload) = match compressed {
            Some((encoding, payload)) => (Some(encoding), Some(plain.len() as u64), payload),
            None => (None, None, plain),
        };
        Ok(Self { r#type, encoding, length, payload })
    }

    /// What follows the head.
    pub(crate) fn payload(&self) -> &Bytes {
        &self.payload
    }

    /// The head of the envelope, to the end of its line.
    pub(crate) fn head(&self, key: &Key, revision: u64, nonce: &str, trail: &Trail) -> Vec<u8> {
        line(&self.header(key, revision, nonce, trail), &[]).into()
    }

    /// The whole envelope.
    pub(crate) fn seal(&self, key: &Key, revision: u64, nonce: &str, trail: &Trail) -> Bytes {
        line(&self.header(key, revision, nonce, trail), &self.payload)
    }

    fn header<'a>(&self, key: &'a Key, revision: u64, nonce: &str, trail: &Trail) -> Header<'a> {
        let mut header = Header {
            brainy: FORMAT,
            revision,
            nonce: nonce.to_owned(),
            key: key.as_str().into(),
            r#type: self.r#type,
            encoding: self.encoding,
            length: self.length,
            operations: trail.performed.clone(),
            before: trail.before.clone(),
            xxh3: String::new(),
        };
        header.xxh3 = checksum(&header, &self.payload);
        header
    }
}

/// The head of an envelope, to the end of its line, and what follows it; `None`: it has none.
pub(crate) fn split(envelope: &Bytes) -> Option<(Bytes, Bytes)> {
    let end = envelope.iter().position(|byte| *byte == b'\n')? + 1;
    Some((envelope.slice(..end), envelope.slice(end..)))
}

/// What the head of a value's envelope says of it. Whether it is what was written shows only with what follows.
pub(crate) fn open_head(key: &Key, head: &[u8]) -> Result<(Version, Performed), Error> {
    let read = || {
        let header: Header<'_> = serde_json::from_slice(head).map_err(|why| format!("bad header: {why}"))?;
        check_format(header.brainy)?;
        if header.key != key.as_str() {
            return Err(format!("it belongs to key {:?}", header.key));
        }
        Ok((Version { revision: header.revision, tag: header.nonce }, header.operations))
    };
    read().map_err(|problem| Error::Corrupt { key: key.to_string(), problem })
}

/// The envelope that stands for "no value". Of the trail it keeps as many of the writes before as there is room for, and no
/// operations.
pub fn seal_tombstone(revision: u64, nonce: &str, trail: &Trail) -> Bytes {
    let mut tombstone = Tombstone { brainy: FORMAT, deleted: revision, nonce: nonce.to_owned(), past: String::new() };
    let field = r#","past":"""#.len();
    let room = MAX_TOMBSTONE_BYTES.saturating_sub(line(&tombstone, &[]).len() + field) / PACKED_MARK;
    tombstone.past = trail.before.iter().map_while(|mark| pack(mark)).take(room).collect();
    line(&tombstone, &[])
}

/// A mark in fewer letters; `None` for what is no mark.
fn pack(mark: &str) -> Option<String> {
    let bits = u64::from_str_radix(mark, 16).ok().filter(|_| mark.len() == SHORT_NONCE)?;
    Some(URL_SAFE_NO_PAD.encode(&bits.to_be_bytes()[8 - SHORT_NONCE / 2..]))
}

/// The marks that were [packed](pack).
fn unpack(past: &str) -> Result<Vec<String>, String> {
    let bytes = URL_SAFE_NO_PAD.decode(past).map_err(|why| format!("bad past: {why}"))?;
    let mark = |mark: &[u8]| mark.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(bytes.chunks(SHORT_NONCE / 2).map(mark).collect())
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
        let trail = Trail { performed: Performed::default(), before: unpack(&tombstone.past)? };
        return Ok(Envelope { revision: tombstone.deleted, nonce: tombstone.nonce, value: None, trail });
    }
    let header: Header<'_> = serde_json::from_slice(head).map_err(|why| format!("bad header: {why}"))?;
    check_format(header.brainy)?;
    if header.key != key {
        return Err(format!("it belongs to key {:?}", header.key));
    }
    if header.xxh3 != checksum(&header, &payload) {
        return Err("its checksum does not match".to_owned());
    }
    let payload = match (header.encoding, header.length) {
        (None, None) => payload,
        (Some(encoding), Some(length)) => encoding.decompress(&payload, length)?,
        _ => return Err("bad header: encoding and length belong together".to_owned()),
    };
    let value = match header.r#type {
        Type::Json => Value::Json(serde_json::from_slice(&payload).map_err(|why| format!("bad JSON: {why}"))?),
        Type::Bytes => Value::Bytes(payload),
        Type::Object => Value::Object(Object::from_bytes(&payload)?),
    };
    let trail = Trail { performed: header.operations, before: header.before };
    Ok(Envelope { revision: header.revision, nonce: header.nonce, value: Some(value), trail })
}

fn check_format(found: u32) -> Result<(), String> {
    if found == FORMAT { Ok(()) } else { Err(format!("its format is {found}, this program reads {FORMAT}")) }
}

/// Of all that an envelope says, with lengths, so that no byte can move from one field to the next.
fn checksum(header: &Header<'_>, payload: &[u8]) -> String {
    let mut hash = Xxh3::new();
    hash.update(&header.revision.to_le_bytes());
    let kind = [header.r#type as u8, header.encoding.map_or(0, |encoding| encoding as u8 + 1)];
    let length = header.length.unwrap_or_default().to_le_bytes();
    // Only strings and numbers: can't fail.
    let trail = serde_json::to_vec(&(&header.operations, &header.before)).unwrap_or_default();
    for part in [header.nonce.as_bytes(), header.key.as_bytes(), &kind, &length, &trail, payload] {
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
    use crate::object::Head;

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
            Value::Object(Object::whole(Head::default(), Bytes::from_static(b"\n{}\n"))),
        ];
        for value in values {
            let sealed = seal(&key("a\nb\""), 7, &new_nonce(), &value, &Trail::default(), None).unwrap();
            let opened = open(&key("a\nb\""), &sealed).unwrap();
            assert_eq!((opened.revision, opened.value), (7, Some(value)));
        }
    }

    #[test]
    fn two_writes_of_one_value_never_look_the_same() {
        let write = || seal(&key("a"), 1, &new_nonce(), &Value::Json(json!(1)), &Trail::default(), None).unwrap();
        assert_ne!(write(), write());
    }

    #[test]
    fn a_tombstone_is_shorter_than_any_value() {
        let trail = (0..9).fold(Trail::default(), |trail, _| trail.after(&new_nonce()));
        for (revision, marks) in [(1, 4), (999_999_999, 3), (u64::MAX, 2)] {
            let tombstone = seal_tombstone(revision, &new_nonce(), &trail);
            assert!(tombstone.len() <= MAX_TOMBSTONE_BYTES, "{}", tombstone.len());
            let opened = open(&key("a"), &tombstone).unwrap();
            assert_eq!((opened.revision, opened.value), (revision, None));
            assert_eq!(opened.trail.before, trail.before[..marks]);
        }
        let smallest = seal(&key("a"), 1, &new_nonce(), &Value::Json(json!(1)), &Trail::default(), None).unwrap();
        assert!(smallest.len() > MAX_TOMBSTONE_BYTES, "{}", smallest.len());
        let smallest = seal(&key("a"), 1, &new_nonce(), &Value::Bytes(Bytes::new()), &Trail::default(), None).unwrap();
        assert!(smallest.len() > MAX_TOMBSTONE_BYTES, "{}", smallest.len());
    }

    #[test]
    fn an_envelope_names_the_writes_before_it() {
        let mut trail = Trail::default();
        let nonces: Vec<String> = (0..12).map(|_| new_nonce()).collect();
        for (revision, nonce) in (1..).zip(&nonces) {
            let sealed = seal(&key("a"), revision, nonce, &Value::Json(json!(1)), &trail, None).unwrap();
            let opened = open(&key("a"), &sealed).unwrap();
            assert_eq!(opened.trail, trail);
            trail = opened.next_trail();
        }
        let newest: Vec<&str> = nonces.iter().rev().map(|nonce| short(nonce)).take(MOST_BEFORE).collect();
        assert_eq!(trail.before, newest);
    }

    #[test]
    fn another_keys_envelope_is_refused() {
        let sealed = seal(&key("a"), 1, &new_nonce(), &Value::Json(json!(1)), &Trail::default(), None).unwrap();
        assert!(matches!(open(&key("b"), &sealed), Err(Error::Corrupt { .. })));
    }

    #[test]
    fn a_later_format_is_refused_by_name() {
        let sealed = seal(&key("a"), 1, &new_nonce(), &Value::Json(json!(1)), &Trail::default(), None).unwrap();
        let later = String::from_utf8(sealed.to_vec()).unwrap().replacen("\"brainy\":1", "\"brainy\":2", 1);
        let Err(Error::Corrupt { problem, .. }) = open(&key("a"), &later.into()) else { panic!("it was read") };
        assert!(problem.contains("format is 2"), "{problem}");
    }

    #[test]
    fn every_cut_is_noticed() {
        let sealed =
            seal(&key("a"), 1, &new_nonce(), &Value::Bytes(Bytes::from_static(b"abc")), &Trail::default(), None)
                .unwrap();
        for length in 0..sealed.len() {
            assert!(open(&key("a"), &sealed.slice(..length)).is_err(), "cut to {length} bytes");
        }
    }

    fn compressed(value: &Value) -> Bytes {
        seal(&key("a"), 1, &new_nonce(), value, &Trail::default(), Some(Compression::default())).unwrap()
    }

    #[test]
    fn a_compressed_value_is_read_like_any_other() {
        let long = "again and ".repeat(1000);
        for value in [Value::Json(json!({"_compressed": long})), Value::Bytes(Bytes::from(long.clone()))] {
            let sealed = compressed(&value);
            assert!(sealed.len() < 1000, "{}", sealed.len());
            assert_eq!(open(&key("a"), &sealed).unwrap().value, Some(value));
        }
    }

    #[test]
    fn what_looks_compressed_is_not_taken_for_it() {
        let inner = compressed(&Value::Bytes(Bytes::from(vec![0; 5000])));
        // A frame of zstd, as a user may have made it, of which nothing is stored compressed.
        let frame = inner.slice(inner.windows(4).position(|four| four == [0x28, 0xb5, 0x2f, 0xfd]).unwrap()..);
        for value in [
            Value::Bytes(inner),
            Value::Bytes(frame),
            Value::Json(json!({"encoding": "zstd", "length": 5, "_compressed": true})),
        ] {
            assert_eq!(open(&key("a"), &compressed(&value)).unwrap().value, Some(value));
        }
    }

    #[test]
    fn damage_to_a_compressed_value_is_noticed() {
        let sealed = compressed(&Value::Bytes(Bytes::from(vec![0; 5000])));
        for at in 0..sealed.len() {
            let mut damaged = sealed.to_vec();
            damaged[at] ^= 1;
            if let Ok(read) = open(&key("a"), &damaged.into()) {
                assert_eq!(read, open(&key("a"), &sealed).unwrap(), "byte {at}");
            }
            assert!(open(&key("a"), &sealed.slice(..at)).is_err(), "cut to {at} bytes");
        }
    }

    proptest! {
        #[test]
        fn a_flipped_bit_is_noticed_or_harmless(payload in prop::collection::vec(any::<u8>(), 0..64), flip in any::<prop::sample::Index>()) {
            let value = Value::Bytes(payload.into());
            let sealed = seal(&key("a"), 3, &new_nonce(), &value, &Trail::default(), None).unwrap();
            let mut damaged = sealed.to_vec();
            let bit = flip.index(damaged.len() * 8);
            damaged[bit / 8] ^= 1 << (bit % 8);
            if let Ok(read) = open(&key("a"), &damaged.into()) {
                prop_assert_eq!(read, open(&key("a"), &sealed).unwrap());
            }
        }
    }
}
