//! What travels between nodes, as JSON: bytes go as base64, versions as text.

mod values;

use brainy_coordination::ShardId;
use brainy_storage::{Error, Key, Namespace, Page};
use serde::{Deserialize, Serialize};

pub use values::WireError;
use values::{WireAttempt, WireCall};

use crate::routing::{Attempt, Call, Listing, Portion};

/// Where calls are sent.
pub const CALLS_PATH: &str = "/internal/calls";
/// Where listings are sent.
pub const LIST_PATH: &str = "/internal/list";
/// Where a node is told that there is something new in the store.
pub const NUDGE_PATH: &str = "/internal/nudge";
/// Where a node is told that shards were released.
pub const FREED_PATH: &str = "/internal/freed";
/// Where the controller is told that a session was renewed.
pub const RENEWED_PATH: &str = "/internal/renewed";
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

#[cfg(test)]
mod tests {
    use brainy_storage::object::Head;
    use brainy_storage::{Condition, Entry, Object, Operation, OperationId, Value, Version};
    use serde_json::Number;

    use super::*;
    use crate::routing::{Reply, Sight};

    fn key(text: &str) -> Key {
        Key::new(text).unwrap()
    }

    fn entry(value: Value) -> Entry {
        Entry { value, version: Version { revision: 7, tag: "a-b".into() } }
    }

    fn object() -> Value {
        let head = Head { size: 3, etag: "e".into(), modified: -1, composite: true, ..Head::default() };
        Value::Object(Object::whole(head, vec![0, 255, 10].into()))
    }

    fn json(text: &str) -> Value {
        Value::Json(serde_json::from_str(text).unwrap())
    }

    #[test]
    fn every_call_arrives_as_it_was_sent() {
        let bytes = Value::Bytes(vec![0, 159, 146, 150].into());
        let calls = vec![
            Call::Get { key: key("..") },
            Call::Look { key: key("..") },
            Call::Put { key: key("o"), value: object(), condition: Condition::Absent },
            Call::Put { key: key("a/b"), value: json("null"), condition: Condition::Any },
            Call::Put { key: key("ä\u{0}"), value: bytes.clone(), condition: Condition::Absent },
            Call::Remove { key: key("k"), condition: Condition::Version(entry(json("1")).version) },
            Call::CompareAndSwap { key: key("k"), old: None, new: Some(json("null")) },
            Call::CompareAndSwap { key: key("k"), old: Some(bytes), new: None },
            Call::Increment { key: key("k"), delta: Number::from_f64(0.1 + 0.2).unwrap() },
            Call::Once {
                key: key("k"),
                operation: Operation::Swap { old: None, new: Some(json("[1]")) },
                id: OperationId::new("an-id").unwrap(),
            },
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
            Attempt::Done(Reply::Found(Some(entry(object())))),
            Attempt::Done(Reply::Seen(Some(Sight::from(&entry(object()))))),
            Attempt::Done(Reply::Seen(None)),
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
