//! One operation on one key, and what can become of it. A batch is a list of calls.

use brainy_storage::object::Head;
use brainy_storage::{Condition, Done, Entry, Error, Key, Operation, OperationId, Value, Version};
use serde_json::Number;

/// An operation on one key.
#[derive(Clone, Debug, PartialEq)]
pub enum Call {
    /// Reads.
    Get {
        /// Of which key.
        key: Key,
    },
    /// Asks what a value is, without its bytes.
    Look {
        /// Of which key.
        key: Key,
    },
    /// Writes a value if the condition holds.
    Put {
        /// Of which key.
        key: Key,
        /// What to write.
        value: Value,
        /// What must hold.
        condition: Condition,
    },
    /// Removes a key if the condition holds.
    Remove {
        /// Which.
        key: Key,
        /// What must hold.
        condition: Condition,
    },
    /// Writes `new` if the current value equals `old`; `None` is "no value" on either side.
    CompareAndSwap {
        /// Of which key.
        key: Key,
        /// What must stand there.
        old: Option<Value>,
        /// What shall stand there.
        new: Option<Value>,
    },
    /// Adds to a number.
    Increment {
        /// Of which key.
        key: Key,
        /// How much.
        delta: Number,
    },
    /// Does an operation once, however often it is asked for with this id.
    Once {
        /// On which key.
        key: Key,
        /// What to do.
        operation: Operation,
        /// The client's id for it.
        id: OperationId,
    },
}

impl Call {
    /// The call that does an operation; once, if it has an id.
    pub fn of(key: Key, operation: Operation, id: Option<OperationId>) -> Self {
        match (id, operation) {
            (Some(id), operation) => Self::Once { key, operation, id },
            (None, Operation::Put { value, condition }) => Self::Put { key, value, condition },
            (None, Operation::Remove { condition }) => Self::Remove { key, condition },
            (None, Operation::Swap { old, new }) => Self::CompareAndSwap { key, old, new },
            (None, Operation::Increment { delta }) => Self::Increment { key, delta },
        }
    }

    /// The operation without its id; `None` for a read.
    pub fn into_operation(self) -> Option<(Key, Operation)> {
        Some(match self {
            Self::Get { .. } | Self::Look { .. } => return None,
            Self::Put { key, value, condition } => (key, Operation::Put { value, condition }),
            Self::Remove { key, condition } => (key, Operation::Remove { condition }),
            Self::CompareAndSwap { key, old, new } => (key, Operation::Swap { old, new }),
            Self::Increment { key, delta } => (key, Operation::Increment { delta }),
            Self::Once { key, operation, .. } => (key, operation),
        })
    }

    /// Where its outcome is unknown it may be asked for again: it is done once all the same.
    pub fn may_repeat(&self) -> bool {
        matches!(self, Self::Once { .. })
    }

    /// The key it is about.
    pub fn key(&self) -> &Key {
        match self {
            Self::Get { key }
            | Self::Look { key }
            | Self::Put { key, .. }
            | Self::Remove { key, .. }
            | Self::CompareAndSwap { key, .. }
            | Self::Increment { key, .. }
            | Self::Once { key, .. } => key,
        }
    }

    /// It may change something: where its answer is lost, its outcome is unknown.
    pub fn writes(&self) -> bool {
        !matches!(self, Self::Get { .. } | Self::Look { .. })
    }
}

/// What a value is, without its bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct Sight {
    /// What is told of it; of its parts not which they are.
    pub head: Head,
    /// Its version.
    pub version: Version,
}

impl From<&Entry> for Sight {
    fn from(entry: &Entry) -> Self {
        let mut head = Head::of(&entry.value);
        if let Some(parts) = &mut head.parts {
            parts.list = Vec::new();
        }
        Self { head, version: entry.version.clone() }
    }
}

/// What became of a call.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// `Get`: what stands there.
    Found(Option<Entry>),
    /// `Look`: what stands there.
    Seen(Option<Sight>),
    /// `Put`: the new version.
    Written(Version),
    /// `Remove`: whether there was something.
    Removed(bool),
    /// `CompareAndSwap`: the new version; `None` where the key is gone now.
    Swapped(Option<Version>),
    /// `Increment`: the sum and its version.
    Sum(Number, Version),
    /// The condition did not hold, nothing was written; what stands there.
    Rejected(Option<Entry>),
    /// It may or may not have taken effect, or may yet; why that can't be known.
    Unknown(String),
    /// A clean failure: it has had no effect.
    Failed(Error),
    /// No node served the shard in time; it has had no effect.
    NoServer(String),
}

impl From<Done> for Reply {
    fn from(done: Done) -> Self {
        match done {
            Done::Written(version) => Self::Written(version),
            Done::Removed(there) => Self::Removed(there),
            Done::Swapped(version) => Self::Swapped(version),
            Done::Sum(sum, version) => Self::Sum(sum, version),
        }
    }
}

impl Reply {
    /// It took effect.
    pub fn is_success(&self) -> bool {
        matches!(self, Self::Written(_) | Self::Removed(_) | Self::Swapped(_) | Self::Sum(..))
    }

    /// The answer when it can't be told whether a call took effect: unknown for a write; a read has no effect, so it
    /// simply failed.
    pub fn unanswered(writes: bool, why: &str) -> Self {
        if writes { Self::Unknown(why.to_owned()) } else { Self::Failed(Error::unavailable("NoAnswer", why)) }
    }
}

/// What came of one try at a call.
#[derive(Clone, Debug, PartialEq)]
pub enum Attempt {
    /// It is decided.
    Done(Reply),
    /// It was not served and has had no effect: it may be tried again, here or elsewhere.
    NotServed(String),
}

impl Attempt {
    /// The second check of R3: an answer counts only if the shard's lease still stood when it was ready. A write that
    /// took effect under a lease that is lost may have been overtaken by the next owner's copy: unknown. What has
    /// had no effect may be asked again of whoever owns the shard now.
    pub fn checked(reply: Reply, still_valid: bool) -> Self {
        if still_valid {
            return Self::Done(reply);
        }
        match reply {
            Reply::Written(_) | Reply::Removed(_) | Reply::Swapped(_) | Reply::Sum(..) => {
                Self::Done(Reply::Unknown("this node lost the shard while it was writing".into()))
            }
            Reply::Unknown(why) => Self::Done(Reply::Unknown(why)),
            Reply::Found(_) | Reply::Seen(_) | Reply::Rejected(_) | Reply::Failed(_) | Reply::NoServer(_) => {
                Self::NotServed("this node lost the shard while it was reading".into())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version() -> Version {
        Version { revision: 1, tag: "t".into() }
    }

    #[test]
    fn a_write_acknowledged_under_a_lost_lease_is_unknown() {
        for reply in
            [Reply::Written(version()), Reply::Removed(true), Reply::Swapped(None), Reply::Sum(1.into(), version())]
        {
            assert!(matches!(Attempt::checked(reply, false), Attempt::Done(Reply::Unknown(_))));
        }
    }

    #[test]
    fn a_read_under_a_lost_lease_is_asked_again() {
        for reply in [Reply::Found(None), Reply::Rejected(None), Reply::Failed(Error::invalid("key", "is bad"))] {
            assert!(matches!(Attempt::checked(reply, false), Attempt::NotServed(_)));
        }
    }

    #[test]
    fn an_unknown_outcome_stays_unknown_whatever_the_lease() {
        for valid in [true, false] {
            assert_eq!(Attempt::checked(Reply::Unknown("w".into()), valid), Attempt::Done(Reply::Unknown("w".into())));
        }
    }
}
