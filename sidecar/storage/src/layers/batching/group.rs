//! Several operations on one key as one write, pure: what each of them is answered, had they run one after the other, and
//! what has to be written so that it is so.

use serde_json::Number;

use crate::envelope::new_nonce;
use crate::value::add;
use crate::{Condition, Done, Entry, Error, Key, Operation, Outcome, Unknown, Value, Version, WriteResult};

/// What has to be written.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Change {
    Nothing,
    Put(Value),
    Remove,
}

/// What became of an operation, if the change is made.
#[derive(Clone, Debug)]
enum Verdict {
    Written,
    Removed(bool),
    Swapped { written: bool },
    Sum(Number),
    Rejected(Standing),
    Failed(Error),
}

/// What stands under the key between two operations.
#[derive(Clone, Debug)]
struct Standing {
    value: Option<Value>,
    /// The operation that wrote it; `None`: it stood there before.
    by: Option<usize>,
}

/// The operations on one key, judged in order.
#[derive(Clone, Debug)]
pub(super) struct Judged {
    base: Option<Entry>,
    verdicts: Vec<Verdict>,
    end: Standing,
}

/// Runs the operations over what stands there, in thought.
pub(super) fn judge<'a>(key: &Key, base: Option<Entry>, operations: impl IntoIterator<Item = &'a Operation>) -> Judged {
    let mut standing = Standing { value: base.as_ref().map(|entry| entry.value.clone()), by: None };
    let mut verdicts = Vec::new();
    for (index, operation) in operations.into_iter().enumerate() {
        let verdict = one(key, base.as_ref(), &mut standing, index, operation);
        verdicts.push(verdict);
    }
    Judged { base, verdicts, end: standing }
}

fn one(key: &Key, base: Option<&Entry>, standing: &mut Standing, index: usize, operation: &Operation) -> Verdict {
    let holds = |standing: &Standing, condition: &Condition| match condition {
        Condition::Any => true,
        Condition::Absent => standing.value.is_none(),
        // Nobody has the version of what an operation before this one has written.
        Condition::Version(expected) => standing.by.is_none() && base.is_some_and(|entry| entry.version == *expected),
    };
    let now = |value: Option<Value>| Standing { value, by: Some(index) };
    match operation {
        Operation::Put { condition, .. } | Operation::Remove { condition } if !holds(standing, condition) => {
            Verdict::Rejected(standing.clone())
        }
        Operation::Put { value, .. } => {
            *standing = now(Some(value.clone()));
            Verdict::Written
        }
        Operation::Remove { .. } if standing.value.is_none() => Verdict::Removed(false),
        Operation::Remove { .. } => {
            *standing = now(None);
            Verdict::Removed(true)
        }
        Operation::Swap { old, .. } if standing.value != *old => Verdict::Rejected(standing.clone()),
        Operation::Swap { old: None, new: None } => Verdict::Swapped { written: false },
        Operation::Swap { new, .. } => {
            *standing = now(new.clone());
            Verdict::Swapped { written: new.is_some() }
        }
        Operation::Increment { delta } => match add(key, standing.value.as_ref(), delta) {
            Ok(sum) => {
                *standing = now(Some(Value::Json(sum.clone().into())));
                Verdict::Sum(sum)
            }
            Err(error) => Verdict::Failed(error),
        },
    }
}

impl Judged {
    /// What to write, on the condition that the base still stands: [`Judged::condition`].
    pub(super) fn change(&self) -> Change {
        match (&self.end, &self.base) {
            (Standing { by: None, .. }, _) | (Standing { value: None, .. }, None) => Change::Nothing,
            (Standing { value: Some(value), .. }, _) => Change::Put(value.clone()),
            (Standing { value: None, .. }, Some(_)) => Change::Remove,
        }
    }

    pub(super) fn condition(&self) -> Condition {
        self.base.as_ref().map_or(Condition::Absent, |entry| Condition::Version(entry.version.clone()))
    }

    /// What stands now that the change is made; `version` is that of the value written, if one was.
    pub(super) fn left(&self, version: Option<&Version>) -> Option<Entry> {
        match (&self.end, version) {
            (Standing { by: None, .. }, _) => self.base.clone(),
            (Standing { value: Some(value), .. }, Some(version)) => {
                Some(Entry { value: value.clone(), version: version.clone() })
            }
            _ => None,
        }
    }

    /// The answers now that the change is made.
    pub(super) fn applied(self, version: Option<&Version>) -> Vec<WriteResult<Done>> {
        // What was written over at once stood at a version that nobody meets any more.
        let passing =
            version.map(|version| version.revision).or(self.base.as_ref().map(|entry| entry.version.revision));
        let mut versions: Vec<Version> = Vec::with_capacity(self.verdicts.len());
        for index in 0..self.verdicts.len() {
            versions.push(match version {
                Some(version) if self.end.by == Some(index) => version.clone(),
                _ => Version { revision: passing.unwrap_or(1), tag: new_nonce() },
            });
        }
        let entry = |standing: Standing| match standing.by {
            None => self.base.clone(),
            Some(by) => standing.value.map(|value| Entry { value, version: versions[by].clone() }),
        };
        let answer = |(index, verdict): (usize, Verdict)| match verdict {
            Verdict::Written => Ok(Outcome::Applied(Done::Written(versions[index].clone()))),
            Verdict::Removed(there) => Ok(Outcome::Applied(Done::Removed(there))),
            Verdict::Swapped { written } => {
                Ok(Outcome::Applied(Done::Swapped(written.then(|| versions[index].clone()))))
            }
            Verdict::Sum(sum) => Ok(Outcome::Applied(Done::Sum(sum, versions[index].clone()))),
            Verdict::Rejected(standing) => Ok(Outcome::Rejected(entry(standing))),
            Verdict::Failed(error) => Err(error),
        };
        self.verdicts.into_iter().enumerate().map(answer).collect()
    }

    /// The answers where it is not known whether the change was made.
    pub(super) fn unknown(self, why: &Unknown) -> Vec<WriteResult<Done>> {
        let lost = Error::unavailable("Interrupted", format!("what it depends on is unknown: {}", why.0));
        self.undone(&Ok(Outcome::Unknown(why.clone())), &lost)
    }

    /// The answers where the change was certainly not made.
    pub(super) fn failed(self, error: &Error) -> Vec<WriteResult<Done>> {
        self.undone(&Err(error.clone()), error)
    }

    /// Only what would have written shares the outcome of the write. The others have done nothing, and what they would
    /// have been answered rests on it.
    fn undone(self, written: &WriteResult<Done>, other: &Error) -> Vec<WriteResult<Done>> {
        let answer = |verdict: Verdict| match verdict {
            Verdict::Written | Verdict::Removed(true) | Verdict::Swapped { .. } | Verdict::Sum(_) => written.clone(),
            Verdict::Removed(false) | Verdict::Rejected(_) | Verdict::Failed(_) => Err(other.clone()),
        };
        self.verdicts.into_iter().map(answer).collect()
    }
}
