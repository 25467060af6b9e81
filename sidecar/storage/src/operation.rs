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

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Number;
use xxhash_rust::xxh3::Xxh3;

use crate::envelope::Stored;
use crate::value::add;
use crate::{Condition, Entry, Error, Key, Value, Version};

/// Longest id of an operation, in characters.
pub const MAX_OPERATION_ID: usize = 64;

/// The tag of a version that something else stands at by now: no condition meets it.
pub(crate) const PAST: &str = "past";

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

    /// A few digits that tell one request from another: an id must not be used for two.
    fn digest(&self) -> String {
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
            Some(Value::Json(json)) => {
                part(b"json");
                part(json.to_string().as_bytes());
            }
        };
        let kind = match self {
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

/// An operation that took effect, as the value remembers it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    id: String,
    /// See [`Operation::digest`].
    request: String,
    /// The revision that it wrote.
    revision: u64,
    /// What an increment came to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sum: Option<Number>,
}

/// The operations with an id that a value remembers, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Performed(Vec<Record>);

impl Performed {
    /// How many a value remembers.
    pub const MOST: usize = 16;

    /// It remembers none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn with(mut self, record: Record) -> Self {
        self.0.push(record);
        let surplus = self.0.len().saturating_sub(Self::MOST);
        self.0.drain(..surplus);
        self
    }
}

/// What stands under a key, with all that a backend has to know of it to write there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stands<'a> {
    /// Of the last write, also if it was a removal that left a trace; 0 where there was none.
    pub(crate) revision: u64,
    pub(crate) entry: Option<&'a Entry>,
    pub(crate) performed: &'a Performed,
}

impl<'a> Stands<'a> {
    /// In a backend that leaves nothing in place of what it removes.
    pub(crate) fn stored(stored: Option<&'a Stored>) -> Self {
        static NONE: Performed = Performed(Vec::new());
        match stored {
            Some(Stored { entry, performed }) => {
                Self { revision: entry.version.revision, entry: Some(entry), performed }
            }
            None => Self { revision: 0, entry: None, performed: &NONE },
        }
    }
}

/// What is to be done about an operation with an id.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Step {
    /// Nothing: it was done before, with this result.
    DoneBefore(Done),
    /// Nothing: its condition does not hold.
    Reject,
    /// Write this, remembering this.
    Write(Planned),
}

/// A write of an operation with an id.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Planned {
    pub(crate) value: Value,
    pub(crate) performed: Performed,
    kind: Kind,
}

#[derive(Clone, Debug, PartialEq)]
enum Kind {
    Put,
    Swap,
    Sum(Number),
}

impl Planned {
    /// The answer, once it is written at `version`.
    pub(crate) fn done(self, version: Version) -> Done {
        self.kind.done(version)
    }
}

impl Kind {
    fn done(self, version: Version) -> Done {
        match self {
            Self::Put => Done::Written(version),
            Self::Swap => Done::Swapped(Some(version)),
            Self::Sum(sum) => Done::Sum(sum, version),
        }
    }
}

/// Decides what is to be done about an operation with an id.
pub(crate) fn decide(key: &Key, operation: Operation, id: &OperationId, stands: Stands<'_>) -> Result<Step, Error> {
    let request = operation.digest();
    if let Some(record) = stands.performed.0.iter().find(|record| record.id == id.0) {
        if record.request != request {
            let problem = format!("{id} was given to another request of this key; an id belongs to one request");
            return Err(Error::invalid("Idempotency-Key", problem));
        }
        let version = match stands.entry {
            Some(entry) if entry.version.revision == record.revision => entry.version.clone(),
            _ => Version { revision: record.revision, tag: PAST.to_owned() },
        };
        let kind = match (&operation, &record.sum) {
            (Operation::Swap { .. }, _) => Kind::Swap,
            (_, Some(sum)) => Kind::Sum(sum.clone()),
            (_, None) => Kind::Put,
        };
        return Ok(Step::DoneBefore(kind.done(version)));
    }
    let (value, kind) = match operation {
        Operation::Remove { .. } | Operation::Swap { new: None, .. } => {
            let problem =
                "can't go with a removal, which forgets it with the value: to remove again what is gone does no harm";
            return Err(Error::invalid("Idempotency-Key", problem));
        }
        Operation::Put { condition, .. } if !condition.holds(stands.entry.map(|entry| &entry.version)) => {
            return Ok(Step::Reject);
        }
        Operation::Put { value, .. } => (value, Kind::Put),
        Operation::Swap { old, .. } if old.as_ref() != stands.entry.map(|entry| &entry.value) => {
            return Ok(Step::Reject);
        }
        Operation::Swap { new: Some(value), .. } => (value, Kind::Swap),
        Operation::Increment { delta } => {
            let sum = add(key, stands.entry.map(|entry| &entry.value), &delta)?;
            (Value::Json(sum.clone().into()), Kind::Sum(sum))
        }
    };
    let sum = match &kind {
        Kind::Sum(sum) => Some(sum.clone()),
        Kind::Put | Kind::Swap => None,
    };
    let record = Record { id: id.0.clone(), request, revision: stands.revision.saturating_add(1), sum };
    Ok(Step::Write(Planned { value, performed: stands.performed.clone().with(record), kind }))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn number(n: i64) -> Value {
        Value::Json(json!(n))
    }

    fn id(text: &str) -> OperationId {
        OperationId::new(text).unwrap()
    }

    fn run(
        operation: Operation,
        id: &OperationId,
        entry: Option<&Entry>,
        performed: &Performed,
    ) -> Result<Step, Error> {
        let revision = entry.map_or(0, |entry| entry.version.revision);
        decide(&Key::new("k").unwrap(), operation, id, Stands { revision, entry, performed })
    }

    fn written(step: Result<Step, Error>) -> Planned {
        match step {
            Ok(Step::Write(planned)) => planned,
            other => panic!("{other:?}"),
        }
    }

    fn standing(value: Value, revision: u64) -> Entry {
        Entry { value, version: Version { revision, tag: "t".into() } }
    }

    fn add_two() -> Operation {
        Operation::Increment { delta: 2.into() }
    }

    #[test]
    fn what_was_done_is_answered_from_memory_with_its_version_while_that_stands() {
        let first = written(run(add_two(), &id("a"), Some(&standing(number(5), 1)), &Performed::default()));
        assert_eq!(first.value, number(7));
        let now = standing(number(7), 2);
        let again = run(add_two(), &id("a"), Some(&now), &first.performed).unwrap();
        assert_eq!(again, Step::DoneBefore(Done::Sum(7.into(), now.version)));
        let later = run(add_two(), &id("a"), Some(&standing(number(9), 3)), &first.performed).unwrap();
        assert_eq!(later, Step::DoneBefore(Done::Sum(7.into(), Version { revision: 2, tag: PAST.into() })));
    }

    #[test]
    fn a_swap_that_was_done_is_not_refused_for_what_it_did_itself() {
        let swap = || Operation::Swap { old: None, new: Some(number(1)) };
        let first = written(run(swap(), &id("a"), None, &Performed::default()));
        let now = standing(number(1), 1);
        let again = run(swap(), &id("a"), Some(&now), &first.performed).unwrap();
        assert_eq!(again, Step::DoneBefore(Done::Swapped(Some(now.version.clone()))));
        assert_eq!(run(swap(), &id("b"), Some(&now), &first.performed).unwrap(), Step::Reject);
    }

    #[test]
    fn an_id_belongs_to_one_request() {
        let first = written(run(add_two(), &id("a"), None, &Performed::default()));
        let other = Operation::Increment { delta: 3.into() };
        let refused = run(other, &id("a"), Some(&standing(number(2), 1)), &first.performed);
        assert!(matches!(refused, Err(Error::Invalid { field: "Idempotency-Key", .. })), "{refused:?}");
    }

    #[test]
    fn the_newest_operations_are_remembered() {
        let mut performed = Performed::default();
        for n in 0..=Performed::MOST {
            performed = written(run(add_two(), &id(&n.to_string()), None, &performed)).performed;
        }
        assert_eq!(performed.0.len(), Performed::MOST);
        assert!(matches!(run(add_two(), &id("0"), None, &performed), Ok(Step::Write(_))), "the oldest is forgotten");
        assert!(matches!(run(add_two(), &id("1"), None, &performed), Ok(Step::DoneBefore(_))));
    }

    #[test]
    fn a_removal_takes_no_id() {
        for operation in
            [Operation::Remove { condition: Condition::Any }, Operation::Swap { old: Some(number(1)), new: None }]
        {
            let refused = run(operation, &id("a"), Some(&standing(number(1), 1)), &Performed::default());
            assert!(matches!(refused, Err(Error::Invalid { field: "Idempotency-Key", .. })), "{refused:?}");
        }
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
}
