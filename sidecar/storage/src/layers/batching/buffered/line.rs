//! One key between its acknowledgement and its flush, pure.
//!
//! What is flushed is what clients see at that moment, whatever came before: so what survives of a key is always a
//! beginning of what was acknowledged for it. What was sent and not decided is sent again as it was, on the same
//! condition: whichever of the two arrives first, the other changes nothing.

use crate::envelope::new_nonce;
use crate::group::{Change, judge};
use crate::operation::{Request, only};
use crate::performed::Stands;
use crate::{Condition, Done, Entry, Key, Operation, Version, WriteResult};

/// What is known of a key.
#[derive(Debug)]
pub(super) struct Line {
    /// What the store has, under its own version.
    stored: Option<Entry>,
    /// What clients see, under the version that they were told.
    now: Option<Entry>,
    /// Acknowledged writes that were not sent yet.
    unsent: u64,
    /// What was sent, and is not decided.
    flying: Option<Flying>,
}

#[derive(Debug)]
struct Flying {
    to: Option<Entry>,
    /// Acknowledged writes that end with it.
    writes: u64,
}

/// What is to be sent.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Sent {
    Write(Change, Condition),
    /// Nothing: the store has it already.
    Nothing,
}

/// What became of what was sent, by what stands there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// So many writes are durable.
    Landed(u64),
    /// What was to be written over still stands: it is to be sent again.
    NotYet,
    /// Somebody else has written. So many acknowledged writes are lost.
    Lost(u64),
}

impl Line {
    /// Of what the store has; `told` is the version that clients know it by, if that is another one.
    pub(super) fn new(stored: Option<Entry>, told: Option<Version>) -> Self {
        let mut now = stored.clone();
        if let (Some(entry), Some(told)) = (&mut now, told) {
            entry.version = told;
        }
        Self { stored, now, unsent: 0, flying: None }
    }

    /// What clients see.
    pub(super) fn now(&self) -> Option<&Entry> {
        self.now.as_ref()
    }

    /// Whether the store has what clients see.
    pub(super) fn is_clean(&self) -> bool {
        self.waiting() == 0
    }

    /// Whether something was sent and is not decided.
    pub(super) fn is_flying(&self) -> bool {
        self.flying.is_some()
    }

    /// Acknowledged writes that may not be durable.
    pub(super) fn waiting(&self) -> u64 {
        self.unsent + self.flying.as_ref().map_or(0, |flying| flying.writes)
    }

    /// The version that clients know, and the store's own, of a clean line where they differ.
    pub(super) fn told(&self) -> Option<(Version, Version)> {
        let (now, stored) = (&self.now.as_ref()?.version, &self.stored.as_ref()?.version);
        (now != stored).then(|| (now.clone(), stored.clone()))
    }

    /// Does an operation, for clients. True: it is to be flushed.
    pub(super) fn perform(&mut self, key: &Key, operation: Operation) -> (WriteResult<Done>, bool) {
        let judged = judge(key, Stands::entry(self.now.as_ref()), &[Request { operation, id: None }]);
        let version = match judged.change() {
            Change::Nothing => return (only(judged.applied(None)), false),
            Change::Put(_) => Some(Version { revision: self.next_revision(), tag: new_nonce() }),
            Change::Remove => None,
        };
        self.now = judged.left(version.as_ref());
        self.unsent += 1;
        (only(judged.applied(version.as_ref())), true)
    }

    /// Greater than that of any value that clients have seen here.
    fn next_revision(&self) -> u64 {
        let flying = self.flying.as_ref().and_then(|flying| flying.to.as_ref());
        let known = [self.now.as_ref(), flying, self.stored.as_ref()];
        known.into_iter().flatten().map(|entry| entry.version.revision).max().unwrap_or(0).saturating_add(1)
    }

    /// What to send now: what was sent before, until that is decided.
    pub(super) fn send(&mut self) -> Sent {
        if self.flying.is_none() {
            self.flying = Some(Flying { to: self.now.clone(), writes: std::mem::take(&mut self.unsent) });
        }
        let condition = self.stored.as_ref().map(|entry| Condition::Version(entry.version.clone()));
        match (self.flying.as_ref().and_then(|flying| flying.to.as_ref()), condition) {
            (Some(entry), condition) => {
                Sent::Write(Change::Put(entry.value.clone()), condition.unwrap_or(Condition::Absent))
            }
            (None, Some(condition)) => Sent::Write(Change::Remove, condition),
            (None, None) => Sent::Nothing,
        }
    }

    /// It has landed, at this version of the store's if it was a value. How many writes are durable now.
    pub(super) fn landed(&mut self, version: Option<Version>) -> u64 {
        let Some(Flying { to, writes }) = self.flying.take() else { return 0 };
        self.stored = to.zip(version).map(|(entry, version)| Entry { version, ..entry });
        writes
    }

    /// Finds out what became of it, by what stands there. A line that has lost is of no use any more.
    pub(super) fn find(&mut self, current: Option<Entry>) -> Found {
        let version = |entry: &Option<Entry>| entry.as_ref().map(|entry| entry.version.clone());
        if version(&current) == version(&self.stored) {
            return Found::NotYet;
        }
        let sent = self.flying.as_ref().and_then(|flying| flying.to.as_ref());
        if current.as_ref().map(|entry| &entry.value) == sent.map(|entry| &entry.value) {
            return Found::Landed(self.landed(version(&current)));
        }
        Found::Lost(self.waiting())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{Outcome, Value};

    fn number(n: i64) -> Value {
        Value::Json(json!(n))
    }

    fn version(revision: u64) -> Version {
        Version { revision, tag: format!("stored-{revision}") }
    }

    fn entry(n: i64, revision: u64) -> Entry {
        Entry { value: number(n), version: version(revision) }
    }

    fn perform(line: &mut Line, operation: Operation) -> Done {
        match line.perform(&Key::new("k").unwrap(), operation) {
            (Ok(Outcome::Applied(done)), true) => done,
            other => panic!("{other:?}"),
        }
    }

    fn add(line: &mut Line) -> Version {
        match perform(line, Operation::Increment { delta: 1.into() }) {
            Done::Sum(_, version) => version,
            other => panic!("{other:?}"),
        }
    }

    fn remove(line: &mut Line) {
        perform(line, Operation::Remove { condition: Condition::Any });
    }

    fn put(n: i64, revision: u64) -> Sent {
        Sent::Write(Change::Put(number(n)), Condition::Version(version(revision)))
    }

    #[test]
    fn writes_that_come_before_the_flush_are_one_and_each_has_a_version() {
        let mut line = Line::new(Some(entry(5, 3)), None);
        let versions = [add(&mut line), add(&mut line)];
        assert_eq!(versions.each_ref().map(|version| version.revision), [4, 5]);
        assert_eq!((line.waiting(), line.send()), (2, put(7, 3)));
        assert_eq!(line.landed(Some(version(4))), 2);
        assert!(line.is_clean());
        assert_eq!(line.told(), Some((versions[1].clone(), version(4))));
    }

    #[test]
    fn what_comes_while_another_write_is_on_its_way_follows_it() {
        let mut line = Line::new(Some(entry(5, 3)), None);
        add(&mut line);
        line.send();
        assert_eq!(add(&mut line).revision, 5);
        assert_eq!(line.send(), put(6, 3), "what is not decided is sent again as it was");
        assert_eq!(line.landed(Some(version(4))), 1);
        assert_eq!((line.waiting(), line.send()), (1, put(7, 4)));
    }

    #[test]
    fn what_came_and_went_before_the_flush_is_never_sent() {
        let mut line = Line::new(None, None);
        add(&mut line);
        remove(&mut line);
        assert_eq!((line.send(), line.landed(None)), (Sent::Nothing, 2));
        assert!(line.is_clean() && line.now().is_none());
    }

    #[test]
    fn a_removal_is_sent_on_what_the_store_has() {
        let mut line = Line::new(Some(entry(5, 3)), None);
        add(&mut line);
        remove(&mut line);
        assert_eq!(line.send(), Sent::Write(Change::Remove, Condition::Version(version(3))));
        assert_eq!(line.find(None), Found::Landed(2));
        add(&mut line);
        assert_eq!(line.send(), Sent::Write(Change::Put(number(1)), Condition::Absent));
    }

    #[test]
    fn what_stands_there_tells_what_became_of_a_write() {
        let sent = || {
            let mut line = Line::new(Some(entry(5, 3)), None);
            add(&mut line);
            line.send();
            add(&mut line);
            line
        };
        assert_eq!(sent().find(Some(entry(5, 3))), Found::NotYet);
        assert_eq!(sent().find(Some(entry(6, 4))), Found::Landed(1));
        assert_eq!(sent().find(Some(entry(9, 4))), Found::Lost(2));
        assert_eq!(sent().find(None), Found::Lost(2));
        // The same value, which the write before it had written: it may be on its way still.
        let mut same = Line::new(Some(entry(5, 3)), None);
        perform(&mut same, Operation::blind(&number(5)));
        same.send();
        assert_eq!(same.find(Some(entry(5, 3))), Found::NotYet);
    }

    #[test]
    fn clients_go_on_with_the_version_that_they_were_told() {
        let told = Version { revision: 3, tag: "told".into() };
        let mut line = Line::new(Some(entry(5, 3)), Some(told.clone()));
        let stale = Operation::Put { value: number(0), condition: Condition::Version(version(2)) };
        let (refused, wrote) = line.perform(&Key::new("k").unwrap(), stale);
        assert!(!wrote);
        assert_eq!(refused, Ok(Outcome::Rejected(Some(Entry { value: number(5), version: told.clone() }))));
        perform(&mut line, Operation::Put { value: number(6), condition: Condition::Version(told) });
        assert_eq!(line.send(), put(6, 3), "the store knows its own");
    }
}
