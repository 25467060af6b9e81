//! What one key may do, one operation after the other. Whether a history of operations at once comes down to that is for
//! the checker to say; it is not ours.

use brainy_storage::{Condition, Entry, Value, Version};
use serde_json::{Value as Json, json};
use todc_utils::specifications::Specification;

/// What the clients write.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Datum {
    Number(i64),
    /// Not to be incremented.
    Word,
}

impl Datum {
    pub(crate) fn to_value(&self) -> Value {
        Value::Json(match self {
            Self::Number(n) => json!(n),
            Self::Word => json!("word"),
        })
    }

    fn of(value: &Value) -> Self {
        match value {
            Value::Json(Json::Number(n)) => Self::Number(n.as_i64().expect("only whole numbers were written")),
            Value::Json(Json::String(word)) if word == "word" => Self::Word,
            value => panic!("nobody wrote {value:?}"),
        }
    }
}

/// The tag of a version of which is known only that something else stands by now. Others may have seen its real one.
const PAST: &str = "past";

/// What an answer showed of a key.
pub(crate) type Seen = Option<(Datum, Version)>;

pub(crate) fn seen(entry: Option<Entry>) -> Seen {
    entry.map(|entry| (Datum::of(&entry.value), entry.version))
}

/// What a write is meant to do.
#[derive(Clone, Debug)]
pub(crate) enum Intent {
    Put(Datum, Condition),
    Remove(Condition),
    Swap { old: Option<Datum>, new: Option<Datum> },
    Increment(i64),
}

/// What the client was told.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    /// Applied, so that this stands there. A removal also tells whether there was something.
    Applied {
        found: Option<bool>,
        stands: Seen,
    },
    /// Not applied, because of what stands there.
    Rejected(Seen),
    NotANumber,
    Unknown,
}

/// An operation and its answer.
#[derive(Clone, Debug)]
pub(crate) enum Done {
    Read(Seen),
    Write(Intent, Answer),
}

impl Done {
    /// It may have happened, may not have, or may yet.
    pub(crate) fn is_unknown(&self) -> bool {
        matches!(self, Self::Write(_, Answer::Unknown))
    }

    /// What it showed of the key.
    pub(crate) fn shows(&self) -> Option<&Seen> {
        match self {
            Self::Read(seen) | Self::Write(_, Answer::Applied { stands: seen, .. } | Answer::Rejected(seen)) => {
                Some(seen)
            }
            Self::Write(_, Answer::NotANumber | Answer::Unknown) => None,
        }
    }
}

/// What stands there. The version of a write whose answer was lost is not known until somebody sees it: no client can
/// have it in a condition before.
type State = Option<(Datum, Option<Version>)>;

/// The state, if this can be seen of it; with the version, if that was not known.
fn agreed(state: &State, seen: &Seen) -> Option<State> {
    let agree = match (state, seen) {
        (None, None) => true,
        (Some((datum, version)), Some((seen, shown))) => {
            datum == seen && version.as_ref().is_none_or(|version| version == shown)
        }
        _ => false,
    };
    agree.then(|| seen.clone().map(|(datum, version)| (datum, Some(version))))
}

impl Intent {
    /// What it leaves, if it applies.
    fn leaves(&self, state: &State) -> Option<Option<Datum>> {
        let holds = |condition: &Condition| match condition {
            Condition::Any => true,
            Condition::Absent => state.is_none(),
            Condition::Version(_) => {
                state.as_ref().is_some_and(|(_, version)| version.is_some() && condition.holds(version.as_ref()))
            }
        };
        let datum = state.as_ref().map(|(datum, _)| datum);
        match self {
            Self::Put(new, condition) => holds(condition).then(|| Some(new.clone())),
            Self::Remove(condition) => holds(condition).then_some(None),
            Self::Swap { old, new } => (datum == old.as_ref()).then(|| new.clone()),
            Self::Increment(delta) => match datum {
                None => Some(Some(Datum::Number(*delta))),
                Some(Datum::Number(n)) => Some(Some(Datum::Number(n + delta))),
                Some(Datum::Word) => None,
            },
        }
    }
}

/// One key.
pub(crate) struct OneKey;

impl OneKey {
    /// The state after an operation; `None`: it can't have been answered so.
    fn after(done: &Done, state: &State) -> Option<State> {
        match done {
            Done::Read(seen) => agreed(state, seen),
            Done::Write(intent, Answer::Applied { found, stands }) => {
                let left = intent.leaves(state)?;
                let right = left.as_ref() == stands.as_ref().map(|(datum, _)| datum)
                    && found.is_none_or(|found| found == state.is_some())
                    && grows(state, stands);
                right.then(|| stands.clone().map(|(datum, version)| (datum, Some(version).filter(|v| v.tag != PAST))))
            }
            Done::Write(intent, Answer::Rejected(seen)) => {
                agreed(state, seen).filter(|state| intent.leaves(state).is_none())
            }
            Done::Write(intent, Answer::NotANumber) => intent.leaves(state).is_none().then(|| state.clone()),
            // Valid in any state: an operation that never happened is one that comes after all others.
            Done::Write(intent, Answer::Unknown) => {
                Some(intent.leaves(state).map_or_else(|| state.clone(), |left| left.map(|datum| (datum, None))))
            }
        }
    }
}

/// Whether the version that was written follows the one that stood there.
fn grows(state: &State, stands: &Seen) -> bool {
    let before = state.as_ref().and_then(|(_, version)| version.as_ref());
    before.zip(stands.as_ref()).is_none_or(|(before, (_, version))| version.revision > before.revision)
}

impl Specification for OneKey {
    type State = State;
    type Operation = Done;

    fn init() -> State {
        None
    }

    fn apply(done: &Done, state: &State) -> (bool, State) {
        Self::after(done, state).map_or_else(|| (false, state.clone()), |after| (true, after))
    }
}
