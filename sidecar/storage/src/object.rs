//! Objects: bytes that say more of themselves than a value does, as S3's do. What is said stands beside the bytes, in the
//! envelope: no bytes can be mistaken for it.
//!
//! Stored it is the head as one line of JSON, then the body:
//!
//! ```text
//! {"size":5,"etag":"5d41402abc4b2a76b9719d911017c592","modified":1790000000000,"headers":{"content-type":"text/plain"}}
//! hello
//! ```

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use bytes::Bytes;
use md5::{Digest, Md5};
use serde::{Deserialize, Serialize};

use crate::Value;

/// Bytes, and what is told of them.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    /// What is told of them.
    pub head: Arc<Head>,
    /// The bytes; none where they are kept in [parts](Head::parts).
    pub body: Bytes,
}

/// What is told of an object.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Head {
    /// How many bytes it has, parts included.
    pub size: u64,
    /// What tells its content from another, as S3 has it, without quotation marks: the MD5 of the bytes in 32 hexadecimal
    /// digits; of an object that was uploaded in parts the MD5 of their MD5s, `-` and how many there are.
    pub etag: String,
    /// When it was written, in milliseconds since 1970, by the clock of the node that took it in. It is for people: nothing
    /// is decided by it.
    pub modified: i64,
    /// Headers that come with it: `content-type`, `cache-control` and their like, in lower case.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// What its writer wants kept with it, by names in lower case.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// Checksums by algorithm (`crc32`, `sha256`, ...), in Base64.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub checksums: BTreeMap<String, String>,
    /// The checksums are those of the parts' checksums, not of the bytes.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub composite: bool,
    /// Where its bytes are, if they are not in the body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parts: Option<Parts>,
}

/// The parts that an object's bytes are kept in.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Parts {
    /// The upload that brought them. It is named by one object, once.
    pub upload: String,
    /// Most bytes of a piece: a part is kept in pieces of this size and a last one of the rest.
    pub piece: u64,
    /// The parts in order.
    pub list: Vec<Part>,
}

/// A part of an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Part {
    /// Its number as its writer gave it, from 1.
    pub number: u32,
    /// Which of the attempts to upload it: they lie beside each other.
    pub attempt: String,
    /// How many bytes it has.
    pub size: u64,
}

impl Object {
    /// An object whose bytes are with it.
    pub fn whole(head: Head, body: Bytes) -> Self {
        Self { head: Arc::new(head), body }
    }

    /// As stored.
    pub(crate) fn to_bytes(&self) -> Result<Bytes, crate::Error> {
        let mut bytes =
            serde_json::to_vec(&*self.head).map_err(|why| crate::Error::invalid("value", why.to_string()))?;
        bytes.reserve_exact(self.body.len() + 1);
        bytes.push(b'\n');
        bytes.extend_from_slice(&self.body);
        Ok(bytes.into())
    }

    /// What [`to_bytes`](Self::to_bytes) has made.
    pub(crate) fn from_bytes(bytes: &Bytes) -> Result<Self, String> {
        let end = bytes.iter().position(|byte| *byte == b'\n').ok_or("the object has no head")?;
        let head = serde_json::from_slice(&bytes[..end]).map_err(|why| format!("bad head of the object: {why}"))?;
        Ok(Self { head: Arc::new(head), body: bytes.slice(end + 1..) })
    }

    /// About how many bytes of memory it takes.
    pub fn weight(&self) -> u64 {
        self.head.weight() + self.body.len() as u64
    }

    /// What tells one request to write it from another: all that its writer said, and not when or where it is kept.
    pub(crate) fn said(&self) -> Vec<u8> {
        let Head { size, etag, modified: _, headers, metadata, checksums, composite, parts: _ } = &*self.head;
        // Text and numbers always have a JSON form.
        serde_json::to_vec(&(size, etag, headers, metadata, checksums, composite)).unwrap_or_default()
    }
}

impl Head {
    /// About how many bytes of memory it takes.
    pub fn weight(&self) -> u64 {
        let texts = |map: &BTreeMap<String, String>| -> u64 {
            map.iter().map(|(name, value)| (name.len() + value.len() + 2 * size_of::<String>()) as u64).sum()
        };
        let parts = self.parts.as_ref().map_or(0, |parts| parts.list.len() * 2 * size_of::<Part>());
        let fixed = size_of::<Self>() + parts;
        fixed as u64 + texts(&self.headers) + texts(&self.metadata) + texts(&self.checksums)
    }

    /// What is told of any value: one that was not written as an object has an ETag by its bytes (JSON: its text), the content
    /// type that goes with its kind, and no time.
    pub fn of(value: &Value) -> Self {
        let (bytes, content_type) = match value {
            Value::Object(object) => return Self::clone(&object.head),
            Value::Bytes(bytes) => (bytes.clone(), "application/octet-stream"),
            // A JSON value always has a text.
            Value::Json(json) => (serde_json::to_vec(json).unwrap_or_default().into(), "application/json"),
        };
        let headers = BTreeMap::from([("content-type".to_owned(), content_type.to_owned())]);
        Self { size: bytes.len() as u64, etag: hex(&Md5::digest(&bytes)), headers, ..Self::default() }
    }
}

/// In hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a string can't fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(body: &'static str) -> Object {
        let head = Head {
            size: body.len() as u64,
            etag: hex(&Md5::digest(body)),
            metadata: BTreeMap::from([("a".to_owned(), "line\nline".to_owned())]),
            ..Head::default()
        };
        Object::whole(head, Bytes::from_static(body.as_bytes()))
    }

    #[test]
    fn an_object_is_read_as_it_was_stored_whatever_its_bytes() {
        for body in ["", "\n", "{\"size\":9}\nx"] {
            let object = object(body);
            assert_eq!(Object::from_bytes(&object.to_bytes().unwrap()).unwrap(), object);
        }
        assert!(Object::from_bytes(&Bytes::from_static(b"{}")).is_err());
    }

    #[test]
    fn objects_with_the_same_bytes_are_the_same_only_if_the_same_is_told_of_them() {
        let mut head = Head::clone(&object("a").head);
        assert_eq!(object("a"), object("a"));
        head.modified = 1;
        assert_ne!(Object::whole(head, "a".into()), object("a"));
        assert_ne!(Value::Object(object("a")), Value::Bytes("a".into()));
    }

    #[test]
    fn what_is_not_written_as_an_object_has_a_head_all_the_same() {
        let head = Head::of(&Value::Json(json!({"b": 1, "a": [2.0]})));
        assert_eq!((head.size, head.headers["content-type"].as_str()), (17, "application/json"));
        assert_eq!(head.etag, hex(&Md5::digest(br#"{"a":[2.0],"b":1}"#)));
        assert_eq!(Head::of(&Value::Bytes(Bytes::new())).etag, "d41d8cd98f00b204e9800998ecf8427e");
        assert_eq!(Head::of(&Value::Object(object("a"))), *object("a").head);
    }
}
