//! What is kept under a key: a line of JSON with what an object has beside its body, then the body. All of it is in the
//! value, so that nothing of an object comes back but what the adapter has kept.

use std::collections::BTreeMap;
use std::time::SystemTime;

use brainy_storage::{Entry, Value};
use bytes::Bytes;
use object_store::path::Path;
use object_store::{Attribute, Attributes, Error, ObjectMeta, Result};
use serde::{Deserialize, Serialize};

use super::store::failure;

#[derive(Serialize, Deserialize)]
struct Header {
    modified: SystemTime,
    attributes: BTreeMap<String, String>,
}

/// What stands before the name of an attribute that a user made up.
const OF_USERS: &str = "user:";

pub(crate) struct Object {
    modified: SystemTime,
    pub(crate) attributes: Attributes,
    pub(crate) body: Bytes,
}

impl Object {
    /// Modified now.
    pub(crate) fn new(attributes: Attributes, body: Bytes) -> Self {
        Self { modified: SystemTime::now(), attributes, body }
    }

    /// Fails on an attribute that is not known here.
    pub(crate) fn to_value(&self) -> Result<Value> {
        let named = self.attributes.iter().map(|(attribute, value)| Ok((name(attribute)?, value.to_string())));
        let header = Header { modified: self.modified, attributes: named.collect::<Result<_>>()? };
        let mut bytes = serde_json::to_vec(&header).map_err(failure)?;
        bytes.push(b'\n');
        bytes.extend_from_slice(&self.body);
        Ok(Value::Bytes(bytes.into()))
    }

    pub(crate) fn from_value(value: &Value) -> Result<Self> {
        let Value::Bytes(bytes) = value else { return Err(failure(format!("bytes were written, and not {value:?}"))) };
        let end = bytes.iter().position(|byte| *byte == b'\n').ok_or_else(|| failure("the header does not end"))?;
        let header: Header = serde_json::from_slice(&bytes[..end]).map_err(failure)?;
        let attributes = header.attributes.into_iter().map(|(name, value)| (attribute(name), value)).collect();
        Ok(Self { modified: header.modified, attributes, body: bytes.slice(end + 1..) })
    }

    /// The object and what a listing shows of it.
    pub(crate) fn read(path: &Path, entry: &Entry) -> Result<(ObjectMeta, Self)> {
        let object = Self::from_value(&entry.value)?;
        let meta = ObjectMeta {
            location: path.clone(),
            last_modified: object.modified.into(),
            size: object.body.len() as u64,
            e_tag: Some(entry.version.to_string()),
            version: None,
        };
        Ok((meta, object))
    }
}

fn name(attribute: &Attribute) -> Result<String> {
    Ok(match attribute {
        Attribute::CacheControl => "cache-control".to_owned(),
        Attribute::ContentDisposition => "content-disposition".to_owned(),
        Attribute::ContentEncoding => "content-encoding".to_owned(),
        Attribute::ContentLanguage => "content-language".to_owned(),
        Attribute::ContentType => "content-type".to_owned(),
        Attribute::Metadata(name) => format!("{OF_USERS}{name}"),
        other => return Err(Error::NotSupported { source: format!("attribute {other:?}").into() }),
    })
}

fn attribute(name: String) -> Attribute {
    match name.as_str() {
        "cache-control" => Attribute::CacheControl,
        "content-disposition" => Attribute::ContentDisposition,
        "content-encoding" => Attribute::ContentEncoding,
        "content-language" => Attribute::ContentLanguage,
        "content-type" => Attribute::ContentType,
        other => Attribute::Metadata(other.strip_prefix(OF_USERS).unwrap_or(other).to_owned().into()),
    }
}
