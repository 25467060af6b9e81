//! What travels between nodes, as JSON: bytes go as base64, versions as text.

use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use brainy_coordination::ShardId;
use brainy_storage::{Condition, Entry, Error, Key, Namespace, Page, Value, Version};
use serde::{Deserialize, Serialize};
use serde_json::Number;

use crate::routing::{Attempt, Call, Listing, Portion, Reply};

/// Where calls are sent.
pub const CALLS_PATH: &str = "/internal/calls";
/// Where listings are sent.
pub const LIST_PATH: &str = "/internal/list";
/// Most bytes of a request or an answer: a client's largest body or the largest answer to a batch, as base64, with room.
pub const MAX_BYTES: usize = 64 * 1024 * 1024;

/// `POST /internal/calls`: calls on shards that the sender believes to be the receiver's.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CallsRequest {
    namespace: Option<String>,
    calls: Vec<WireCall>,
}

/// The answer: one attempt per call, in order.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CallsAnswer {
    attempts: Vec<WireAttempt>,
}

/// `POST /internal/list`: the keys of the given shards.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ListRequest {
    namespace: Option<String>,
    shards: Vec<ShardId>,
    prefix: String,
    after: Option<String>,
    limit: usize,
}

/// The answer: which shards it covers and their keys, or why not.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ListAnswer {
    /// A portion.
    Portion {
        /// The shards it covers.
        served: Vec<ShardId>,
        /// Their keys.
        keys: Vec<String>,
        /// There may be more.
        more: bool,
    },
    /// A clean failure.
    Failed(WireError),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum WireCall {
    Get { key: String },
    Put { key: String, value: WireValue, condition: WireCondition },
    Remove { key: String, condition: WireCondition },
    CompareAndSwap { key: String, old: Option<WireValue>, new: Option<WireValue> },
    Increment { key: String, delta: Number },
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum WireValue {
    Json(serde_json::Value),
    Bytes(String),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum WireCondition {
    Any,
    Absent,
    Version(String),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum WireAttempt {
    Found(Option<WireEntry>),
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
struct WireEntry {
    value: WireValue,
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

impl CallsRequest {
    /// For sending.
    pub fn new(namespace: Option<&Namespace>, calls: Vec<Call>) -> Self {
        Self { namespace: namespace.map(ToString::to_string), calls: calls.into_iter().map(WireCall::from).collect() }
    }

    /// As received.
    pub fn open(self) -> Result<(Option<Namespace>, Vec<Call>), Error> {
        let namespace = self.namespace.map(Namespace::new).transpose()?;
        let calls = self.calls.into_iter().map(Call::try_from).collect::<Result<_, _>>()?;
        Ok((namespace, calls))
    }
}

impl CallsAnswer {
    /// For sending.
    pub fn new(attempts: Vec<Attempt>) -> Self {
        Self { attempts: attempts.into_iter().map(WireAttempt::from).collect() }
    }

    /// As received.
    pub fn open(self) -> Result<Vec<Attempt>, Error> {
        self.attempts.into_iter().map(Attempt::try_from).collect()
    }
}

impl ListRequest {
    /// For sending.
    pub fn new(shards: &[ShardId], listing: &Listing) -> Self {
        Self {
            namespace: listing.namespace.as_ref().map(ToString::to_string),
            shards: shards.to_vec(),
            prefix: listing.prefix.clone(),
            after: listing.after.as_ref().map(ToString::to_string),
            limit: listing.limit,
        }
    }

    /// As received.
    pub fn open(self) -> Result<(Vec<ShardId>, Listing), Error> {
        let listing = Listing {
            namespace: self.namespace.map(Namespace::new).transpose()?,
            prefix: self.prefix,
            after: self.after.map(Key::new).transpose()?,
            limit: self.limit,
        };
        Ok((self.shards, listing))
    }
}

impl ListAnswer {
    /// For sending.
    pub fn new(portion: Portion) -> Self {
        let keys = portion.page.keys.iter().map(ToString::to_string).collect();
        Self::Portion { served: portion.served, keys, more: portion.page.more }
    }

    /// As received: what the other node gave, or its clean failure. The outer error: the answer makes no sense.
    pub fn open(self) -> Result<Result<Portion, Error>, Error> {
        match self {
            Self::Failed(error) => Ok(Err(error.into())),
            Self::Portion { served, keys, more } => {
                let keys = keys.into_iter().map(Key::new).collect::<Result<_, _>>()?;
                Ok(Ok(Portion { served, page: Page { keys, more } }))
            }
        }
    }
}

impl From<Call> for WireCall {
    fn from(call: Call) -> Self {
        match call {
            Call::Get { key } => Self::Get { key: key.to_string() },
            Call::Put { key, value, condition } => {
                Self::Put { key: key.to_string(), value: value.into(), condition: condition.into() }
            }
            Call::Remove { key, condition } => Self::Remove { key: key.to_string(), condition: condition.into() },
            Call::CompareAndSwap { key, old, new } => {
                Self::CompareAndSwap { key: key.to_string(), old: old.map(Into::into), new: new.map(Into::into) }
            }
            Call::Increment { key, delta } => Self::Increment { key: key.to_string(), delta },
        }
    }
}

impl TryFrom<WireCall> for Call {
    type Error = Error;

    fn try_from(call: WireCall) -> Result<Self, Error> {
        Ok(match call {
            WireCall::Get { key } => Self::Get { key: Key::new(key)? },
            WireCall::Put { key, value, condition } => {
                Self::Put { key: Key::new(key)?, value: value.try_into()?, condition: condition.try_into()? }
            }
            WireCall::Remove { key, condition } => Self::Remove { key: Key::new(key)?, condition: condition.try_into()? },
            WireCall::CompareAndSwap { key, old, new } => Self::CompareAndSwap {
                key: Key::new(key)?,
                old: old.map(Value::try_from).transpose()?,
                new: new.map(Value::try_from).transpose()?,
            },
            WireCall::Increment { key, delta } => Self::Increment { key: Key::new(key)?, delta },
        })
    }
}

impl From<Value> for WireValue {
    fn from(value: Value) -> Self {
        match value {
            Value::Json(json) => Self::Json(json),
            Value::Bytes(bytes) => Self::Bytes(BASE64.encode(bytes)),
        }
    }
}

impl TryFrom<WireValue> for Value {
    type Error = Error;

    fn try_from(value: WireValue) -> Result<Self, Error> {
        match value {
            WireValue::Json(json) => Ok(Self::Json(json)),
            WireValue::Bytes(text) => match BASE64.decode(text) {
                Ok(bytes) => Ok(Self::Bytes(bytes.into())),
                Err(problem) => Err(Error::invalid("value", problem.to_string())),
            },
        }
    }
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

impl From<Attempt> for WireAttempt {
    fn from(attempt: Attempt) -> Self {
        match attempt {
            Attempt::NotServed(why) | Attempt::Done(Reply::NoServer(why)) => Self::NotServed(why),
            Attempt::Done(Reply::Found(entry)) => Self::Found(entry.map(Into::into)),
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
const FIELDS: [&str; 8] = ["key", "keys", "namespace", "value", "version", "condition", "delta", "prefix"];

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

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Key {
        Key::new(text).unwrap()
    }

    fn entry(value: Value) -> Entry {
        Entry { value, version: Version { revision: 7, tag: "a-b".into() } }
    }

    fn json(text: &str) -> Value {
        Value::Json(serde_json::from_str(text).unwrap())
    }

    #[test]
    fn every_call_arrives_as_it_was_sent() {
        let bytes = Value::Bytes(vec![0, 159, 146, 150].into());
        let calls = vec![
            Call::Get { key: key("..") },
            Call::Put { key: key("a/b"), value: json("null"), condition: Condition::Any },
            Call::Put { key: key("ä\u{0}"), value: bytes.clone(), condition: Condition::Absent },
            Call::Remove { key: key("k"), condition: Condition::Version(entry(json("1")).version) },
            Call::CompareAndSwap { key: key("k"), old: None, new: Some(json("null")) },
            Call::CompareAndSwap { key: key("k"), old: Some(bytes), new: None },
            Call::Increment { key: key("k"), delta: Number::from_f64(0.1 + 0.2).unwrap() },
        ];
        let namespace = Namespace::new("n/s").unwrap();
        let sent = serde_json::to_vec(&CallsRequest::new(Some(&namespace), calls.clone())).unwrap();
        let received = serde_json::from_slice::<CallsRequest>(&sent).unwrap().open().unwrap();
        assert_eq!(received, (Some(namespace), calls));
    }

    #[test]
    fn every_answer_arrives_as_it_was_sent() {
        let version = entry(json("1")).version;
        let attempts = vec![
            Attempt::Done(Reply::Found(None)),
            Attempt::Done(Reply::Found(Some(entry(json("{\"a\":[0,\"\",false,null,1.7976931348623157e308]}"))))),
            Attempt::Done(Reply::Written(version.clone())),
            Attempt::Done(Reply::Removed(true)),
            Attempt::Done(Reply::Swapped(None)),
            Attempt::Done(Reply::Swapped(Some(version.clone()))),
            Attempt::Done(Reply::Sum(3.into(), version)),
            Attempt::Done(Reply::Rejected(Some(entry(Value::Bytes(vec![255].into()))))),
            Attempt::Done(Reply::Unknown("why".into())),
            Attempt::Done(Reply::Failed(Error::NotANumber { key: "k".into() })),
            Attempt::Done(Reply::Failed(Error::invalid("delta", "overflows"))),
            Attempt::NotServed("moving".into()),
        ];
        let sent = serde_json::to_vec(&CallsAnswer::new(attempts.clone())).unwrap();
        assert_eq!(serde_json::from_slice::<CallsAnswer>(&sent).unwrap().open().unwrap(), attempts);
    }
}
