//! Several operations on one key as one write, pure: what each of them is answered, had they run one after the other, and
//! what has to be written so that it is so.

use serde_json::Number;

use crate::envelope::new_nonce;
use crate::operation::Request;
use crate::performed::{Memory, Performed, Remembered, Stands};
use crate::value::add;
use crate::{
    Condition, Done, Entry, Error, Key, Operation, OperationId, Outcome, Unknown, Value, Version, WriteResult,
};

/// What has to be written.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Change {
    Nothing,
    Put(Value),
    Remove,
}

/// What became of an operation, if the change is made.
#[derive(Clone, Debug)]
enum Verdict {
    Written,
    Removed(bool),
    Swapped {
        written: bool,
    },
    Sum(Number),
    Rejected(Standing),
    Failed(Error),
    /// It has an id, and was done by an earlier write.
    DoneBefore(Done),
    /// It has the id of an earlier one of them.
    Same(usize),
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
pub(crate) struct Judged {
    base: Option<Entry>,
    verdicts: Vec<Verdict>,
    end: Standing,
    memory: Memory,
}

/// Runs the operations over what stands there, in thought.
pub(crate) fn judge<'a>(key: &Key, stands: Stands<'_>, requests: impl IntoIterator<Item = &'a Request>) -> Judged {
    let standing = Standing { value: stands.entry.map(|entry| entry.value.clone()), by: None };
    let mut judging = Judging { key, base: stands.entry, standing, memory: Memory::of(stands) };
    let mut verdicts = Vec::new();
    for (index, request) in requests.into_iter().enumerate() {
        let verdict = match &request.id {
            Some(id) => judging.once(index, &request.operation, id),
            None => judging.one(index, &request.operation),
        };
        verdicts.push(verdict);
    }
    Judged { base: stands.entry.cloned(), verdicts, end: judging.standing, memory: judging.memory }
}

/// How far it has come.
struct Judging<'a> {
    key: &'a Key,
    base: Option<&'a Entry>,
    standing: Standing,
    memory: Memory,
}

impl Judging<'_> {
    /// An operation that is to be done once.
    fn once(&mut self, index: usize, operation: &Operation, id: &OperationId) -> Verdict {
        let stands = self.base.filter(|_| self.standing.by.is_none());
        match self.memory.find(operation, id, stands) {
            Err(error) => return Verdict::Failed(error),
            Ok(Some(Remembered::Before(done))) => return Verdict::DoneBefore(done),
            Ok(Some(Remembered::Now(number))) => return Verdict::Same(number),
            Ok(None) => {}
        }
        if matches!(operation, Operation::Remove { .. } | Operation::Swap { new: None, .. }) {
            let problem =
                "can't go with a removal, which forgets it with the value: to remove again what is gone does no harm";
            return Verdict::Failed(Error::invalid("Idempotency-Key", problem));
        }
        let verdict = self.one(index, operation);
        match &verdict {
            Verdict::Written | Verdict::Swapped { .. } => self.memory.add(index, operation, id, None),
            Verdict::Sum(sum) => self.memory.add(index, operation, id, Some(sum.clone())),
            // What was not done is not remembered.
            _ => {}
        }
        verdict
    }

    fn one(&mut self, index: usize, operation: &Operation) -> Verdict {
        if let Err(error) = operation.check() {
            return Verdict::Failed(error);
        }
        match operation {
            Operation::Put { condition, .. } | Operation::Remove { condition } if !self.holds(condition) => {
                Verdict::Rejected(self.standing.clone())
            }
            Operation::Put { value, .. } => {
                self.write(index, value.clone());
                Verdict::Written
            }
            Operation::Remove { .. } if self.standing.value.is_none() => Verdict::Removed(false),
            Operation::Remove { .. } => {
                self.remove(index);
                Verdict::Removed(true)
            }
            Operation::Swap { old, .. } if self.standing.value != *old => Verdict::Rejected(self.standing.clone()),
            Operation::Swap { old: None, new: None } => Verdict::Swapped { written: false },
            Operation::Swap { new: None, .. } => {
                self.remove(index);
                Verdict::Swapped { written: false }
            }
            Operation::Swap { new: Some(new), .. } => {
                self.write(index, new.clone());
                Verdict::Swapped { written: true }
            }
            Operation::Increment { delta } => match add(self.key, self.standing.value.as_ref(), delta) {
                Ok(sum) => {
                    self.write(index, Value::Json(sum.clone().into()));
                    Verdict::Sum(sum)
                }
                Err(error) => Verdict::Failed(error),
            },
        }
    }

    fn holds(&self, condition: &Condition) -> bool {
        match condition {
            Condition::Any => true,
            Condition::Absent => self.standing.value.is_none(),
            // Nobody has the version of what an operation before this one has written.
            Condition::Version(expected) => {
                self.standing.by.is_none() && self.base.is_some_and(|entry| entry.version == *expected)
            }
        }
    }

    fn write(&mut self, index: usize, value: Value) {
        self.standing = Standing { value: Some(value), by: Some(index) };
    }

    fn remove(&mut self, index: usize) {
        self.standing = Standing { value: None, by: Some(index) };
        self.memory.clear();
    }
}

impl Judged {
    /// What to write, on the condition that the base still stands: [`Judged::condition`].
    pub(crate) fn change(&self) -> Change {
        match (&self.end, &self.base) {
            (Standing { by: None, .. }, _) | (Standing { value: None, .. }, None) => Change::Nothing,
            (Standing { value: Some(value), .. }, _) => Change::Put(value.clone()),
            (Standing { value: None, .. }, Some(_)) => Change::Remove,
        }
    }

    /// The operations with an id that the value written is to remember.
    pub(crate) fn performed(&self) -> Performed {
        self.memory.performed(self.end.by)
    }

    /// The operation whose value will stand, by its number; `None`: none of them.
    pub(crate) fn last(&self) -> Option<usize> {
        self.end.by
    }

    pub(crate) fn condition(&self) -> Condition {
        self.base.as_ref().map_or(Condition::Absent, |entry| Condition::Version(entry.version.clone()))
    }

    /// What stands now that the change is made; `version` is that of the value written, if one was.
    pub(crate) fn left(&self, version: Option<&Version>) -> Option<Entry> {
        match (&self.end, version) {
            (Standing { by: None, .. }, _) => self.base.clone(),
            (Standing { value: Some(value), .. }, Some(version)) => {
                Some(Entry { value: value.clone(), version: version.clone() })
            }
            _ => None,
        }
    }

    /// The answers now that the change is made.
    pub(crate) fn applied(self, version: Option<&Version>) -> Vec<WriteResult<Done>> {
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
        let answer = |index: usize, verdict, earlier: &[WriteResult<Done>]| match verdict {
            Verdict::Written => Ok(Outcome::Applied(Done::Written(versions[index].clone()))),
            Verdict::Removed(there) => Ok(Outcome::Applied(Done::Removed(there))),
            Verdict::Swapped { written } => {
                Ok(Outcome::Applied(Done::Swapped(written.then(|| versions[index].clone()))))
            }
            Verdict::Sum(sum) => Ok(Outcome::Applied(Done::Sum(sum, versions[index].clone()))),
            Verdict::Rejected(standing) => Ok(Outcome::Rejected(entry(standing))),
            Verdict::Failed(error) => Err(error),
            Verdict::DoneBefore(done) => Ok(Outcome::Applied(done)),
            Verdict::Same(first) => earlier[first].clone(),
        };
        in_order(self.verdicts, answer)
    }

    /// The answers where it is not known whether the change was made.
    pub(crate) fn unknown(self, why: &Unknown) -> Vec<WriteResult<Done>> {
        let lost = Error::unavailable("Interrupted", format!("what it depends on is unknown: {}", why.0));
        self.undone(&Ok(Outcome::Unknown(why.clone())), &lost)
    }

    /// The answers where the change was certainly not made.
    pub(crate) fn failed(self, error: &Error) -> Vec<WriteResult<Done>> {
        self.undone(&Err(error.clone()), error)
    }

    /// Only what would have written shares the outcome of the write. The others have done nothing, and what they would
    /// have been answered rests on it; but not what was done before.
    fn undone(self, written: &WriteResult<Done>, other: &Error) -> Vec<WriteResult<Done>> {
        let answer = |_, verdict, earlier: &[WriteResult<Done>]| match verdict {
            Verdict::Written | Verdict::Removed(true) | Verdict::Swapped { .. } | Verdict::Sum(_) => written.clone(),
            Verdict::Removed(false) | Verdict::Rejected(_) | Verdict::Failed(_) => Err(other.clone()),
            Verdict::DoneBefore(done) => Ok(Outcome::Applied(done)),
            Verdict::Same(first) => earlier[first].clone(),
        };
        in_order(self.verdicts, answer)
    }
}

/// An answer for each verdict, which may be that to an earlier one.
fn in_order(
    verdicts: Vec<Verdict>,
    answer: impl Fn(usize, Verdict, &[WriteResult<Done>]) -> WriteResult<Done>,
) -> Vec<WriteResult<Done>> {
    let mut answers = Vec::with_capacity(verdicts.len());
    for (index, verdict) in verdicts.into_iter().enumerate() {
        let next = answer(index, verdict, &answers);
        answers.push(next);
    }
    answers
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn number(n: i64) -> Value {
        Value::Json(json!(n))
    }

    fn standing(value: Value, revision: u64) -> Entry {
        Entry { value, version: Version { revision, tag: "t".into() } }
    }

    fn plain(operation: Operation) -> Request {
        Request { operation, id: None }
    }

    fn once(operation: Operation, id: &str) -> Request {
        Request { operation, id: Some(OperationId::new(id).unwrap()) }
    }

    fn add_two() -> Operation {
        Operation::Increment { delta: 2.into() }
    }

    fn swap(old: Option<i64>, new: Option<i64>) -> Operation {
        Operation::Swap { old: old.map(number), new: new.map(number) }
    }

    fn remove() -> Operation {
        Operation::Remove { condition: Condition::Any }
    }

    fn run(entry: Option<&Entry>, performed: &Performed, requests: &[Request]) -> Judged {
        let revision = entry.map_or(0, |entry| entry.version.revision);
        judge(&Key::new("k").unwrap(), Stands { revision, entry, performed }, requests)
    }

    /// What stands after these, written as one over what stood there; what it remembers; and the answers.
    fn written(
        entry: Option<&Entry>,
        performed: &Performed,
        requests: &[Request],
    ) -> (Option<Entry>, Performed, Vec<WriteResult<Done>>) {
        let judged = run(entry, performed, requests);
        let revision = entry.map_or(0, |entry| entry.version.revision) + 1;
        let version = Version { revision, tag: format!("t{revision}") };
        let version = matches!(judged.change(), Change::Put(_)).then_some(version);
        (judged.left(version.as_ref()), judged.performed(), judged.applied(version.as_ref()))
    }

    fn done(answer: &WriteResult<Done>) -> Done {
        match answer {
            Ok(Outcome::Applied(done)) => done.clone(),
            other => panic!("{other:?}"),
        }
    }

    fn past(revision: u64) -> Version {
        Version { revision, tag: crate::performed::PAST.into() }
    }

    #[test]
    fn what_was_done_is_answered_from_memory_with_its_version_while_that_stands() {
        let ask = [once(add_two(), "a")];
        let (now, performed, _) = written(Some(&standing(number(5), 1)), &Performed::default(), &ask);
        let now = now.unwrap();
        assert_eq!(now.value, number(7));
        let again = run(Some(&now), &performed, &ask);
        assert_eq!(again.change(), Change::Nothing);
        assert_eq!(done(&again.applied(None)[0]), Done::Sum(7.into(), now.version));
        let (.., later) = written(Some(&standing(number(9), 3)), &performed, &ask);
        assert_eq!(done(&later[0]), Done::Sum(7.into(), past(2)));
    }

    #[test]
    fn what_was_written_over_by_the_same_write_is_past_when_it_is_asked_for_again() {
        let (first, second) = (once(add_two(), "a"), once(add_two(), "b"));
        for last in [second.clone(), plain(add_two())] {
            let (now, performed, answers) = written(None, &Performed::default(), &[first.clone(), last]);
            let now = now.unwrap();
            let Done::Sum(sum, version) = done(&answers[0]) else { panic!("{answers:?}") };
            assert!(sum == 2.into() && version.revision == 1 && version != now.version, "{version}");
            let (.., again) = written(Some(&now), &performed, std::slice::from_ref(&first));
            assert_eq!(done(&again[0]), Done::Sum(2.into(), past(1)), "4 stands at the version of the write");
        }
        let (now, performed, _) = written(None, &Performed::default(), &[first, second.clone()]);
        let (.., again) = written(now.as_ref(), &performed, &[second]);
        assert_eq!(done(&again[0]), Done::Sum(4.into(), now.unwrap().version));
    }

    #[test]
    fn an_id_that_comes_twice_is_done_once_and_answered_twice() {
        let asked = [once(add_two(), "a"), plain(add_two()), once(add_two(), "a")];
        let (now, _, answers) = written(None, &Performed::default(), &asked);
        assert_eq!(now.unwrap().value, number(4));
        assert_eq!(answers[0], answers[2]);
        for undone in [
            run(None, &Performed::default(), &asked).unknown(&Unknown("lost".into())),
            run(None, &Performed::default(), &asked).failed(&Error::unavailable("Cause", "detail")),
        ] {
            assert!(undone[0] == undone[2] && !matches!(undone[0], Ok(Outcome::Applied(_))), "{undone:?}");
        }
    }

    #[test]
    fn what_was_done_before_does_not_depend_on_what_becomes_of_the_write() {
        let (now, performed, _) = written(None, &Performed::default(), &[once(add_two(), "a")]);
        let asked = [once(add_two(), "a"), once(add_two(), "b")];
        let answers = run(now.as_ref(), &performed, &asked).failed(&Error::unavailable("Cause", "detail"));
        assert_eq!(done(&answers[0]), Done::Sum(2.into(), now.unwrap().version));
        assert!(answers[1].is_err());
    }

    #[test]
    fn a_swap_that_was_done_is_not_refused_for_what_it_did_itself() {
        let ask = |id| [once(swap(None, Some(1)), id)];
        let (now, performed, _) = written(None, &Performed::default(), &ask("a"));
        let now = now.unwrap();
        let again = run(Some(&now), &performed, &ask("a")).applied(None);
        assert_eq!(done(&again[0]), Done::Swapped(Some(now.version.clone())));
        let other = run(Some(&now), &performed, &ask("b"));
        assert!(other.performed() == performed, "what was refused is not remembered");
        assert_eq!(other.applied(None), [Ok(Outcome::Rejected(Some(now)))]);
    }

    #[test]
    fn an_id_belongs_to_one_request() {
        let other = || once(Operation::Increment { delta: 3.into() }, "a");
        let (now, performed, both) = written(None, &Performed::default(), &[once(add_two(), "a"), other()]);
        let (.., later) = written(now.as_ref(), &performed, &[other()]);
        for refused in [&both[1], &later[0]] {
            assert!(matches!(refused, Err(Error::Invalid { field: "Idempotency-Key", .. })), "{refused:?}");
        }
        assert_eq!(now.unwrap().value, number(2));
    }

    #[test]
    fn the_newest_operations_are_remembered() {
        let all: Vec<Request> = (0..=Performed::MOST).map(|n| once(add_two(), &n.to_string())).collect();
        let (now, performed, _) = written(None, &Performed::default(), &all[1..]);
        let known = run(now.as_ref(), &performed, &all[1..]);
        assert_eq!(known.change(), Change::Nothing, "all of one write are remembered");
        let (now, performed, _) = written(now.as_ref(), &performed, &all[..1]);
        assert_eq!(run(now.as_ref(), &performed, &all[2..]).change(), Change::Nothing);
        assert_ne!(run(now.as_ref(), &performed, &all[1..2]).change(), Change::Nothing, "the oldest is forgotten");
    }

    #[test]
    fn a_removal_takes_no_id_and_forgets_them() {
        for operation in [remove(), swap(Some(1), None)] {
            let (.., answers) = written(Some(&standing(number(1), 1)), &Performed::default(), &[once(operation, "a")]);
            assert!(matches!(answers[0], Err(Error::Invalid { field: "Idempotency-Key", .. })), "{answers:?}");
        }
        for removal in [remove(), swap(Some(2), None)] {
            let asked = [once(add_two(), "a"), plain(removal), once(add_two(), "b")];
            let (now, performed, _) = written(None, &Performed::default(), &asked);
            let now = now.unwrap();
            assert_eq!(now.value, number(2));
            assert_eq!(run(Some(&now), &performed, &asked[2..]).change(), Change::Nothing);
            assert_eq!(run(Some(&now), &performed, &asked[..1]).change(), Change::Put(number(4)));
        }
    }

    #[test]
    fn a_value_that_could_not_be_read_back_fails_alone() {
        let mut deep = json!(0);
        for _ in 0..200 {
            deep = json!([deep]);
        }
        let deep = Operation::Put { value: Value::Json(deep), condition: Condition::Any };
        let (now, _, answers) = written(None, &Performed::default(), &[once(deep, "a"), once(add_two(), "b")]);
        assert!(matches!(answers[0], Err(Error::Invalid { field: "value", .. })), "{answers:?}");
        assert_eq!(now.unwrap().value, number(2));
    }
}
