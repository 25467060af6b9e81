//! What a value remembers of the operations with an id that were done to it. See [`crate::operation`].

use serde::{Deserialize, Serialize};
use serde_json::Number;

use crate::envelope::Stored;
use crate::{Done, Entry, Error, Operation, OperationId, Version};

/// The tag of a version that something else stands at by now: no condition meets it.
pub(crate) const PAST: &str = "past";

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
    /// Another operation of the same write wrote over it: the revision is not its value's.
    #[serde(default, skip_serializing_if = "is_false")]
    past: bool,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_false(flag: &bool) -> bool {
    !flag
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

    /// These, and before them those of an older write of the key that are not among them: the newest of all.
    pub(crate) fn after(&self, older: &Self) -> Self {
        let is_new = |record: &&Record| !self.0.iter().any(|mine| mine.id == record.id);
        let mut all: Vec<Record> = older.0.iter().filter(is_new).chain(&self.0).cloned().collect();
        all.drain(..all.len().saturating_sub(Self::MOST));
        Self(all)
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
        let stands = Self::entry(stored.map(|stored| &stored.entry));
        Self { performed: stored.map_or(stands.performed, |stored| &stored.performed), ..stands }
    }

    /// For operations without an id: what the value remembers does not matter.
    pub(crate) fn entry(entry: Option<&'a Entry>) -> Self {
        static NONE: Performed = Performed(Vec::new());
        Self { revision: entry.map_or(0, |entry| entry.version.revision), entry, performed: &NONE }
    }
}

/// What is known of an operation that is asked for again.
pub(crate) enum Remembered {
    /// It was done by an earlier write.
    Before(Done),
    /// By this one: the number of the operation among those that are judged.
    Now(usize),
}

/// What a value remembers while operations are judged that will be written as one.
#[derive(Clone, Debug)]
pub(crate) struct Memory {
    /// With each the number of the operation, if it is of this write.
    records: Vec<(Record, Option<usize>)>,
    /// The revision that this write will have.
    revision: u64,
}

impl Memory {
    pub(crate) fn of(stands: Stands<'_>) -> Self {
        let records = stands.performed.0.iter().map(|record| (record.clone(), None)).collect();
        Self { records, revision: stands.revision.saturating_add(1) }
    }

    /// Whether an operation was done. `stands` is what an earlier write has left, while nothing is written over it.
    pub(crate) fn find(
        &self,
        operation: &Operation,
        id: &OperationId,
        stands: Option<&Entry>,
    ) -> Result<Option<Remembered>, Error> {
        let Some((record, by)) = self.records.iter().find(|(record, _)| record.id == id.as_str()) else {
            return Ok(None);
        };
        if record.request != operation.digest() {
            let problem = format!("{id} was given to another request of this key; an id belongs to one request");
            return Err(Error::invalid("Idempotency-Key", problem));
        }
        if let Some(number) = by {
            return Ok(Some(Remembered::Now(*number)));
        }
        let version = match stands {
            Some(entry) if entry.version.revision == record.revision && !record.past => entry.version.clone(),
            _ => Version { revision: record.revision, tag: PAST.to_owned() },
        };
        Ok(Some(Remembered::Before(match (operation, &record.sum) {
            (Operation::Swap { .. }, _) => Done::Swapped(Some(version)),
            (_, Some(sum)) => Done::Sum(sum.clone(), version),
            (_, None) => Done::Written(version),
        })))
    }

    /// An operation is done by this write; the oldest is forgotten.
    pub(crate) fn add(&mut self, number: usize, operation: &Operation, id: &OperationId, sum: Option<Number>) {
        let (id, request) = (id.as_str().to_owned(), operation.digest());
        self.records.push((Record { id, request, revision: self.revision, sum, past: false }, Some(number)));
        let surplus = self.records.len().saturating_sub(Performed::MOST);
        self.records.drain(..surplus);
    }

    /// The value is removed.
    pub(crate) fn clear(&mut self) {
        self.records.clear();
    }

    /// What the value will remember, if operation `last` of this write is the one whose value will stand.
    pub(crate) fn performed(&self, last: Option<usize>) -> Performed {
        let record = |(record, by): &(Record, Option<usize>)| {
            let past = record.past || by.is_some() && *by != last;
            Record { past, ..record.clone() }
        };
        Performed(self.records.iter().map(record).collect())
    }
}
