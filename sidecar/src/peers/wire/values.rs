//! Calls, values and answers in the form in which they travel, and back.

use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use brainy_storage::object::Head;
use brainy_storage::{Condition, Entry, Error, Key, Object, OperationId, Value, Version};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Number;

use crate::routing::{Attempt, Call, Reply, Sight};

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum WireCall {
    Get { key: String },
    Look { key: String },
    Put { key: String, value: WireValue, condition: WireCondition },
    Remove { key: String, condition: WireCondition },
    CompareAndSwap { key: String, old: Option<WireValue>, new: Option<WireValue> },
    Increment { key: String, delta: Number },
    Once { id: String, call: Box<WireCall> },
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum WireValue {
    Json(serde_json::Value),
    Bytes(String),
    Object { head: Head, body: String },
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum WireCondition {
    Any,
    Absent,
    Version(String),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum WireAttempt {
    Found(Option<WireEntry>),
    Seen(Option<WireSight>),
    Written(String),
    Removed(bool),
    Swapped(Option<String>),
    Sum(Number, String),
    Rejected(Option<WireEntry>),
    Unknown(String),
    Failed(WireError),
    NotServed(String),
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct WireEntry {
    value: WireValue,
    version: String,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct WireSight {
    head: Head,
    version: String,
}

/// A clean failure of storage.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum WireError {
    /// See [`Error::Invalid`].
    Invalid {
        /// The field.
        field: String,
        /// What is wrong.
        problem: String,
    },
    /// See [`Error::NotANumber`].
    NotANumber {
        /// The key.
        key: String,
    },
    /// See [`Error::Corrupt`].
    Corrupt {
        /// The key.
        key: String,
        /// What did not fit.
        problem: String,
    },
    /// See [`Error::Unavailable`].
    Unavailable {
        /// The cause.
        cause: String,
        /// The store's words.
        detail: String,
    },
    /// See [`Error::Contended`].
    Contended {
        /// The key.
        key: String,
        /// How many attempts.
        attempts: u32,
    },
}

impl From<Call> for WireCall {
    fn from(call: Call) -> Self {
        match call {
            Call::Get { key } => Self::Get { key: key.to_string() },
            Call::Look { key } => Self::Look { key: key.to_string() },
            Call::Put { key, value, condition } => {
                Self::Put { key: key.to_string(), value: value.into(), condition: condition.into() }
            }
            Call::Remove { key, condition } => Self::Remove { key: key.to_string(), condition: condition.into() },
            Call::CompareAndSwap { key, old, new } => {
                Self::CompareAndSwap { key: key.to_string(), old: old.map(Into::into), new: new.map(Into::into) }
            }
            Call::Increment { key, delta } => Self::Increment { key: key.to_string(), delta },
            Call::Once { key, operation, id } => {
                Self::Once { id: id.to_string(), call: Box::new(Call::of(key, operation, None).into()) }
            }
        }
    }
}

impl TryFrom<WireCall> for Call {
    type Error = Error;

    fn try_from(call: WireCall) -> Result<Self, Error> {
        Ok(match call {
            WireCall::Get { key } => Self::Get { key: Key::new(key)? },
            WireCall::Look { key } => Self::Look { key: Key::new(key)? },
            WireCall::Put { key, value, condition } => {
                Self::Put { key: Key::new(key)?, value: value.try_into()?, condition: condition.try_into()? }
            }
            WireCall::Remove { key, condition } => {
                Self::Remove { key: Key::new(key)?, condition: condition.try_into()? }
            }
            WireCall::CompareAndSwap { key, old, new } => Self::CompareAndSwap {
                key: Key::new(key)?,
                old: old.map(Value::try_from).transpose()?,
                new: new.map(Value::try_from).transpose()?,
            },
            WireCall::Increment { key, delta } => Self::Increment { key: Key::new(key)?, delta },
            WireCall::Once { id, call } => {
                let read = || Error::invalid("request", "a read takes no id");
                let (key, operation) = Self::try_from(*call)?.into_operation().ok_or_else(read)?;
                Self::Once { key, operation, id: OperationId::new(id)? }
            }
        })
    }
}

impl From<Value> for WireValue {
    fn from(value: Value) -> Self {
        match value {
            Value::Json(json) => Self::Json(json),
            Value::Bytes(bytes) => Self::Bytes(BASE64.encode(bytes)),
            Value::Object(Object { head, body }) => {
                Self::Object { head: Head::clone(&head), body: BASE64.encode(body) }
            }
        }
    }
}

impl TryFrom<WireValue> for Value {
    type Error = Error;

    fn try_from(value: WireValue) -> Result<Self, Error> {
        match value {
            WireValue::Json(json) => Ok(Self::Json(json)),
            WireValue::Bytes(text) => Ok(Self::Bytes(bytes(text)?)),
            WireValue::Object { head, body } => Ok(Self::Object(Object::whole(head, bytes(body)?))),
        }
    }
}

fn bytes(text: String) -> Result<Bytes, Error> {
    BASE64.decode(text).map(Bytes::from).map_err(|problem| Error::invalid("value", problem.to_string()))
}

impl From<Condition> for WireCondition {
    fn from(condition: Condition) -> Self {
        match condition {
            Condition::Any => Self::Any,
            Condition::Absent => Self::Absent,
            Condition::Version(version) => Self::Version(version.to_string()),
        }
    }
}

impl TryFrom<WireCondition> for Condition {
    type Error = Error;

    fn try_from(condition: WireCondition) -> Result<Self, Error> {
        Ok(match condition {
            WireCondition::Any => Self::Any,
            WireCondition::Absent => Self::Absent,
            WireCondition::Version(version) => Self::Version(Version::from_str(&version)?),
        })
    }
}

impl From<Entry> for WireEntry {
    fn from(entry: Entry) -> Self {
        Self { value: entry.value.into(), version: entry.version.to_string() }
    }
}

impl TryFrom<WireEntry> for Entry {
    type Error = Error;

    fn try_from(entry: WireEntry) -> Result<Self, Error> {
        Ok(Self { value: entry.value.try_into()?, version: Version::from_str(&entry.version)? })
    }
}

impl From<Sight> for WireSight {
    fn from(sight: Sight) -> Self {
        Self { head: sight.head, version: sight.version.to_string() }
    }
}

impl TryFrom<WireSight> for Sight {
    type Error = Error;

    fn try_from(sight: WireSight) -> Result<Self, Error> {
        Ok(Self { head: sight.head, version: Version::from_str(&sight.version)? })
    }
}

impl From<Attempt> for WireAttempt {
    fn from(attempt: Attempt) -> Self {
        match attempt {
            Attempt::NotServed(why) | Attempt::Done(Reply::NoServer(why)) => Self::NotServed(why),
            Attempt::Done(Reply::Found(entry)) => Self::Found(entry.map(Into::into)),
            Attempt::Done(Reply::Seen(sight)) => Self::Seen(sight.map(Into::into)),
            Attempt::Done(Reply::Written(version)) => Self::Written(version.to_string()),
            Attempt::Done(Reply::Removed(there)) => Self::Removed(there),
            Attempt::Done(Reply::Swapped(version)) => Self::Swapped(version.map(|version| version.to_string())),
            Attempt::Done(Reply::Sum(sum, version)) => Self::Sum(sum, version.to_string()),
            Attempt::Done(Reply::Rejected(entry)) => Self::Rejected(entry.map(Into::into)),
            Attempt::Done(Reply::Unknown(why)) => Self::Unknown(why),
            Attempt::Done(Reply::Failed(error)) => Self::Failed(error.into()),
        }
    }
}

impl TryFrom<WireAttempt> for Attempt {
    type Error = Error;

    fn try_from(attempt: WireAttempt) -> Result<Self, Error> {
        let version = |text: String| Version::from_str(&text);
        Ok(Self::Done(match attempt {
            WireAttempt::NotServed(why) => return Ok(Self::NotServed(why)),
            WireAttempt::Found(entry) => Reply::Found(entry.map(Entry::try_from).transpose()?),
            WireAttempt::Seen(sight) => Reply::Seen(sight.map(Sight::try_from).transpose()?),
            WireAttempt::Written(text) => Reply::Written(version(text)?),
            WireAttempt::Removed(there) => Reply::Removed(there),
            WireAttempt::Swapped(text) => Reply::Swapped(text.map(version).transpose()?),
            WireAttempt::Sum(sum, text) => Reply::Sum(sum, version(text)?),
            WireAttempt::Rejected(entry) => Reply::Rejected(entry.map(Entry::try_from).transpose()?),
            WireAttempt::Unknown(why) => Reply::Unknown(why),
            WireAttempt::Failed(error) => Reply::Failed(error.into()),
        }))
    }
}

impl From<Error> for WireError {
    fn from(error: Error) -> Self {
        match error {
            Error::Invalid { field, problem } => Self::Invalid { field: field.to_owned(), problem },
            Error::NotANumber { key } => Self::NotANumber { key },
            Error::Corrupt { key, problem } => Self::Corrupt { key, problem },
            Error::Unavailable { cause, detail } => Self::Unavailable { cause, detail },
            Error::Contended { key, attempts } => Self::Contended { key, attempts },
        }
    }
}

/// Names of fields that storage finds fault with: an error carries one of them, never a name made up by a peer.
const FIELDS: [&str; 9] =
    ["key", "keys", "namespace", "value", "version", "condition", "delta", "prefix", "Idempotency-Key"];

impl From<WireError> for Error {
    fn from(error: WireError) -> Self {
        match error {
            WireError::Invalid { field, problem } => {
                let known = FIELDS.into_iter().find(|known| *known == field);
                Self::Invalid { field: known.unwrap_or("request"), problem }
            }
            WireError::NotANumber { key } => Self::NotANumber { key },
            WireError::Corrupt { key, problem } => Self::Corrupt { key, problem },
            WireError::Unavailable { cause, detail } => Self::Unavailable { cause, detail },
            WireError::Contended { key, attempts } => Self::Contended { key, attempts },
        }
    }
}
