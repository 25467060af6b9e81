//! What clients asked of each key and were told, judged in the end: does it come down to one operation after the other?
//! What a key may do says the specification that the storage adapters are held to.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use todc_utils::{Action, History, WGLChecker};

use super::spec::{Answer, Datum, Done, Intent, OneKey};

/// By key.
#[derive(Debug, Default)]
pub(super) struct Histories(BTreeMap<String, OfKey>);

#[derive(Debug, Default)]
struct OfKey {
    /// The number of an operation, twice: where it begins, and where it ends.
    moments: Vec<usize>,
    operations: Vec<Recorded>,
}

#[derive(Clone, Debug)]
enum Recorded {
    /// `None`: a read.
    Open(Option<Intent>),
    Ended(Done),
    /// It certainly had no effect.
    Nothing,
}

/// An operation under way.
#[derive(Clone, Debug)]
pub(super) struct Begun {
    key: String,
    number: usize,
}

impl Histories {
    /// A read, or a write that means to do something.
    pub(super) fn begin(&mut self, key: &str, intent: Option<Intent>) -> Begun {
        let history = self.0.entry(key.to_owned()).or_default();
        let number = history.operations.len();
        history.operations.push(Recorded::Open(intent));
        history.moments.push(number);
        Begun { key: key.to_owned(), number }
    }

    /// What the client was told; `None`: that it certainly had no effect.
    pub(super) fn end(&mut self, begun: &Begun, done: Option<Done>) {
        if let Some(history) = self.0.get_mut(&begun.key) {
            history.operations[begun.number] = done.map_or(Recorded::Nothing, Recorded::Ended);
            history.moments.push(begun.number);
        }
    }

    pub(super) fn keys(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }

    /// The number that somebody was told last that it stands there.
    pub(super) fn last_number(&self, key: &str) -> Option<i64> {
        let shown = |recorded: &Recorded| match recorded {
            Recorded::Ended(done) => match done.shows() {
                Some(Some((Datum::Number(number), _))) => Some(*number),
                _ => None,
            },
            Recorded::Open(_) | Recorded::Nothing => None,
        };
        self.0.get(key)?.operations.iter().rev().find_map(shown)
    }

    /// Fails with the history of a key that no order of its operations explains.
    pub(super) fn judge(&self) -> Result<(), String> {
        for (key, history) in &self.0 {
            let actions = history.actions();
            if !actions.is_empty() && !WGLChecker::<OneKey>::is_linearizable(History::from_actions(actions.clone())) {
                let mut text = format!("the history of key {key} is not linearizable:");
                for (number, action) in actions {
                    let _infallible = match action {
                        Action::Call(_) => write!(text, "\n  {number} begins"),
                        Action::Response(done) => write!(text, "\n  {number} ends: {done:?}"),
                    };
                }
                return Err(text);
            }
        }
        Ok(())
    }

    /// Operations, those that were acknowledged, and those of which nobody knows.
    pub(super) fn counts(&self) -> (usize, usize, usize) {
        let all = || self.0.values().flat_map(|history| &history.operations);
        let unknown = |recorded: &&Recorded| match recorded {
            Recorded::Open(_) => true,
            Recorded::Ended(done) => done.is_unknown(),
            Recorded::Nothing => false,
        };
        let acknowledged = |recorded: &&Recorded| matches!(recorded, Recorded::Ended(done) if !done.is_unknown());
        (all().count(), all().filter(acknowledged).count(), all().filter(unknown).count())
    }

    /// Operations of a key, and those of which nobody knows what became.
    pub(super) fn of(&self, key: &str) -> (usize, usize) {
        let Some(history) = self.0.get(key) else { return (0, 0) };
        let open = |recorded: &&Recorded| match recorded {
            Recorded::Open(_) => true,
            Recorded::Ended(done) => done.is_unknown(),
            Recorded::Nothing => false,
        };
        (history.operations.len(), history.operations.iter().filter(open).count())
    }
}

impl fmt::Display for Begun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} #{}", self.key, self.number)
    }
}

impl OfKey {
    fn actions(&self) -> Vec<(usize, Action<Done>)> {
        let mut begun = vec![false; self.operations.len()];
        let (mut actions, mut open) = (Vec::new(), Vec::new());
        for number in &self.moments {
            let done = match &self.operations[*number] {
                Recorded::Ended(done) => done.clone(),
                Recorded::Open(Some(intent)) => Done::Write(intent.clone(), Answer::Unknown),
                Recorded::Open(None) | Recorded::Nothing => continue,
            };
            if !std::mem::replace(&mut begun[*number], true) {
                if done.is_unknown() {
                    // It may still happen when all else is over.
                    open.push((*number, Action::Response(done.clone())));
                }
                actions.push((*number, Action::Call(done)));
            } else if !done.is_unknown() {
                actions.push((*number, Action::Response(done)));
            }
        }
        actions.extend(open);
        actions
    }
}
