//! Operations as things of their own: to be queued, judged together, sent elsewhere, or done once however often they are
//! asked for.
//!
//! A client that gets no answer can't know whether its write took effect, and a second attempt might do it twice. If it
//! gives the operation an id of its own ([`OperationId`], in HTTP the [`Idempotency-Key`]), the value remembers it: the
//! record of the operation is written with the value, in one. Whoever asks again gets the first answer. A value remembers
//! the last [`Performed::MOST`] operations that had an id; writes without one leave them as they are, and a removal
//! forgets them.
//!
//! [`Idempotency-Key`]: https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/

use std::collections::HashSet;
use std::fmt;

use serde_json::Number;
use xxhash_rust::xxh3::Xxh3;

pub use crate::performed::Performed;
use crate::{Condition, Error, Outcome, Unknown, Value, Version, WriteResult};

/// Longest id of an operation, in characters.
pub const MAX_OPERATION_ID: usize = 64;

/// A write of one key.
#[derive(Clone, Debug, PartialEq)]
pub enum Operation {
    /// Writes a value if the condition holds.
    Put {
        /// What to write.
        value: Value,
        /// What must hold.
        condition: Condition,
    },
    /// Removes the key if the condition holds.
    Remove {
        /// What must hold.
        condition: Condition,
    },
    /// Writes `new` if the current value equals `old`; `None` is "no value" on either side.
    Swap {
        /// What must stand there.
        old: Option<Value>,
        /// What shall stand there.
        new: Option<Value>,
    },
    /// Adds to a number.
    Increment {
        /// How much.
        delta: Number,
    },
}

/// What an operation that was applied did.
#[derive(Clone, Debug, PartialEq)]
pub enum Done {
    /// `Put`: the new version.
    Written(Version),
    /// `Remove`: whether there was something.
    Removed(bool),
    /// `Swap`: the new version; `None` where the key is gone now.
    Swapped(Option<Version>),
    /// `Increment`: the sum and its version.
    Sum(Number, Version),
}

impl Operation {
    /// A put that takes effect whatever stands there.
    pub fn blind(value: &Value) -> Self {
        Self::Put { value: value.clone(), condition: Condition::Any }
    }

    /// Whether it takes effect whatever stands there, and is answered the same.
    pub fn is_blind(&self) -> bool {
        matches!(self, Self::Put { condition: Condition::Any, .. })
    }

    /// Refuses a value that could be written but not read back.
    pub fn check(&self) -> Result<(), Error> {
        match self {
            Self::Put { value, .. } | Self::Swap { new: Some(value), .. } => value.check(),
            Self::Remove { .. } | Self::Swap { new: None, .. } | Self::Increment { .. } => Ok(()),
        }
    }

    /// A few digits that tell one request from another: an id must not be used for two.
    pub(crate) fn digest(&self) -> String {
        let mut hash = Xxh3::new();
        let mut part = |bytes: &[u8]| {
            hash.update(&(bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        };
        let mut value = |value: Option<&Value>| match value {
            None => part(b"none"),
            Some(Value::Bytes(bytes)) => {
                part(b"bytes");
                part(bytes);
            }
            Some(Value::Object(object)) => {
                part(b"object");
                part(&object.said());
                part(&object.body);
            }
            Some(Value::Json(json)) => {
                part(b"json");
                part(json.to_string().as_bytes());
            }
        };
        let kind = match self {
            // Whoever writes objects asks for another condition than S3's: the version that an ETag stands for just now.
            Self::Put { value: new @ Value::Object(_), .. } => {
                value(Some(new));
                "put object".to_owned()
            }
            Self::Put { value: new, condition } => {
                value(Some(new));
                format!("put {condition:?}")
            }
            Self::Remove { condition } => format!("remove {condition:?}"),
            Self::Swap { old, new } => {
                value(old.as_ref());
                value(new.as_ref());
                "swap".to_owned()
            }
            Self::Increment { delta } => format!("increment {delta}"),
        };
        part(kind.as_bytes());
        format!("{:08x}", hash.digest() >> 32)
    }
}

/// The id that a client gave an operation: 1 to 64 visible ASCII characters, best a UUID.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct OperationId(String);

impl OperationId {
    /// Checks it.
    pub fn new(text: impl Into<String>) -> Result<Self, Error> {
        let text = text.into();
        let fits = (1..=MAX_OPERATION_ID).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
        if fits {
            Ok(Self(text))
        } else {
            let problem = format!("is no id: give 1 to {MAX_OPERATION_ID} visible ASCII characters, such as a UUID");
            Err(Error::invalid("Idempotency-Key", problem))
        }
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for OperationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An operation that is asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// What to do.
    pub operation: Operation,
    /// With one it is done once, however often it is asked for.
    pub id: Option<OperationId>,
}

/// Operations on one key that may be written as one. There are no more ids among them than a value remembers: none is
/// forgotten by the very write that performs it.
#[derive(Clone, Debug, PartialEq)]
pub struct Requests(Vec<Request>);

impl Requests {
    /// One operation with an id.
    pub fn once(operation: Operation, id: &OperationId) -> Self {
        Self(vec![Request { operation, id: Some(id.clone()) }])
    }

    /// Any number of them, in order, in as few portions as it takes.
    pub fn portions(requests: impl IntoIterator<Item = Request>) -> Vec<Self> {
        let mut portions: Vec<Self> = Vec::new();
        let mut ids: HashSet<OperationId> = HashSet::new();
        for request in requests {
            if let Some(id) = &request.id
                && !ids.contains(id)
            {
                if ids.len() == Performed::MOST {
                    ids.clear();
                    portions.push(Self(Vec::new()));
                }
                ids.insert(id.clone());
            }
            match portions.last_mut() {
                Some(last) => last.0.push(request),
                None => portions.push(Self(vec![request])),
            }
        }
        portions
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<'a> IntoIterator for &'a Requests {
    type Item = &'a Request;
    type IntoIter = std::slice::Iter<'a, Request>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl IntoIterator for Requests {
    type Item = Request;
    type IntoIter = std::vec::IntoIter<Request>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

/// What each of so many operations is answered, of what became of the write that they all share.
pub(crate) fn shared(count: usize, written: WriteResult<Vec<WriteResult<Done>>>) -> Vec<WriteResult<Done>> {
    match written {
        Ok(Outcome::Applied(answers)) => answers,
        Ok(Outcome::Rejected(current)) => vec![Ok(Outcome::Rejected(current)); count],
        Ok(Outcome::Unknown(why)) => vec![Ok(Outcome::Unknown(why)); count],
        Err(error) => vec![Err(error); count],
    }
}

/// The answer to the only operation that was asked for.
pub(crate) fn only(answers: Vec<WriteResult<Done>>) -> WriteResult<Done> {
    let lost = || Ok(Outcome::Unknown(Unknown("the store did not say what became of it".to_owned())));
    answers.into_iter().next().unwrap_or_else(lost)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn number(n: i64) -> Value {
        Value::Json(json!(n))
    }

    #[test]
    fn requests_differ_in_their_digest_wherever_they_differ() {
        let put = |value, condition| Operation::Put { value, condition };
        let version = Version { revision: 1, tag: "t".into() };
        let all = [
            put(number(1), Condition::Any),
            put(number(2), Condition::Any),
            put(number(1), Condition::Absent),
            put(number(1), Condition::Version(version)),
            put(Value::Bytes("1".into()), Condition::Any),
            Operation::Swap { old: None, new: Some(number(1)) },
            Operation::Swap { old: Some(number(1)), new: None },
            Operation::Increment { delta: 1.into() },
            Operation::Increment { delta: 2.into() },
        ];
        let digests: std::collections::HashSet<String> = all.iter().map(Operation::digest).collect();
        assert_eq!(digests.len(), all.len());
    }

    #[test]
    fn an_id_is_short_and_visible() {
        assert!(OperationId::new("8e03978e-40d5-43e8-bc93-6894a57f9324").is_ok());
        for bad in ["", " ", "a b", "ä", "a\n", &"x".repeat(MAX_OPERATION_ID + 1)] {
            assert!(OperationId::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn no_portion_has_more_ids_than_a_value_remembers() {
        let ask = |n: Option<usize>| Request {
            operation: Operation::Increment { delta: 1.into() },
            id: n.map(|n| OperationId::new(n.to_string()).unwrap()),
        };
        // Each id twice, and operations without one in between.
        let asked: Vec<Request> = (0..40).flat_map(|n| [ask(Some(n)), ask(None), ask(Some(n))]).collect();
        let portions = Requests::portions(asked.clone());
        assert_eq!(portions.iter().map(Requests::len).collect::<Vec<_>>(), [48, 48, 24]);
        assert_eq!(portions.into_iter().flatten().collect::<Vec<_>>(), asked);
        assert!(Requests::portions([]).is_empty());
    }
}
