//! What simulated days of a store have in common: what a client asks for and is answered, what may stand after that, and how days
//! are lived. Turns are given, not timed, in one thread: a day is the same each time.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::AddAssign;
use std::sync::Arc;

use brainy_storage::{Done, Entry, Key, Operation, OperationId, Outcome, StorageAdapter, Value, WriteResult};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestError, TestRunner};
use serde_json::json;
use tokio::runtime::Builder;

use super::harness::Seed;

/// Turns after which every request has arrived that ever will.
pub(crate) const ALL_ARRIVED: u8 = 200;

pub(crate) fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

pub(crate) fn number(n: i64) -> Value {
    Value::Json(json!(n))
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Act {
    Get,
    Set(i64),
    Delete,
    Add(i64),
    /// An addition with an id.
    Once(u8),
    Swap(Option<i64>, Option<i64>),
}

/// What may stand under a key, and what it remembers.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Standing {
    pub(crate) value: Option<i64>,
    done: BTreeMap<u8, i64>,
}

/// What is answered.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Answer {
    Value(Option<i64>),
    Done,
    Removed(bool),
    Sum(i64),
    Rejected(Option<i64>),
}

impl Standing {
    /// What an operation does to it, and what is answered.
    fn after(&self, act: Act) -> (Self, Answer) {
        let with = |value: Option<i64>| match value {
            Some(_) => Self { value, ..self.clone() },
            None => Self::default(),
        };
        match act {
            Act::Get => (self.clone(), Answer::Value(self.value)),
            Act::Set(n) => (with(Some(n)), Answer::Done),
            Act::Delete => (with(None), Answer::Removed(self.value.is_some())),
            Act::Add(n) => {
                let sum = self.value.unwrap_or(0) + n;
                (with(Some(sum)), Answer::Sum(sum))
            }
            Act::Once(id) => match self.done.get(&id) {
                Some(sum) => (self.clone(), Answer::Sum(*sum)),
                None => {
                    let sum = self.value.unwrap_or(0) + 1;
                    let mut next = with(Some(sum));
                    next.done.insert(id, sum);
                    (next, Answer::Sum(sum))
                }
            },
            Act::Swap(old, _) if old != self.value => (self.clone(), Answer::Rejected(self.value)),
            Act::Swap(None, None) => (self.clone(), Answer::Done),
            Act::Swap(_, new) => (with(new), Answer::Done),
        }
    }
}

/// All that may stand under a key, by what was answered.
#[derive(Clone, Debug)]
pub(crate) struct May(pub(crate) Vec<Standing>);

impl May {
    pub(crate) fn nothing() -> Self {
        Self(vec![Standing::default()])
    }

    /// It was answered.
    pub(crate) fn answered(&mut self, act: Act, answer: &Answer) -> Result<(), String> {
        let before = self.0.clone();
        let fits = before.iter().map(|standing| standing.after(act)).filter(|(_, expected)| expected == answer);
        self.0 = fits.map(|(standing, _)| standing).collect();
        self.tidy();
        if self.0.is_empty() {
            return Err(format!("{act:?} was answered {answer:?}, and what stood there was one of {before:?}"));
        }
        Ok(())
    }

    /// Nobody knows whether it was done.
    pub(crate) fn perhaps(&mut self, act: Act) {
        let after: Vec<Standing> = self.0.iter().map(|standing| standing.after(act).0).collect();
        self.0.extend(after);
        self.tidy();
    }

    fn tidy(&mut self) {
        self.0.sort_unstable();
        self.0.dedup();
    }
}

pub(crate) fn plain(value: &Value) -> i64 {
    match value {
        Value::Json(json) => json.as_i64().unwrap(),
        Value::Bytes(_) | Value::Object(_) => panic!("no number"),
    }
}

/// What an operation was answered; `None`: it failed cleanly. `Err`: nobody knows.
pub(crate) type Heard = Result<Option<Answer>, ()>;

pub(crate) async fn ask(store: Arc<dyn StorageAdapter>, at: usize, act: Act) -> Heard {
    fn heard<T>(outcome: WriteResult<T>, answer: impl FnOnce(T) -> Answer) -> Heard {
        match outcome {
            Ok(Outcome::Applied(done)) => Ok(Some(answer(done))),
            Ok(Outcome::Rejected(current)) => {
                Ok(Some(Answer::Rejected(current.map(|entry: Entry| plain(&entry.value)))))
            }
            Ok(Outcome::Unknown(_)) => Err(()),
            Err(_) => Ok(None),
        }
    }
    let key = key(&at.to_string());
    match act {
        Act::Get => Ok(store.get(&key).await.ok().map(|entry| Answer::Value(entry.map(|entry| plain(&entry.value))))),
        Act::Set(n) => heard(store.set(&key, number(n)).await, |_| Answer::Done),
        Act::Delete => heard(store.delete(&key).await, Answer::Removed),
        Act::Add(n) => heard(store.increment(&key, n.into()).await, |(sum, _)| Answer::Sum(sum.as_i64().unwrap())),
        Act::Once(id) => {
            let id = OperationId::new(format!("id-{id}")).unwrap();
            let done = store.perform_once(&key, Operation::Increment { delta: 1.into() }, &id).await;
            heard(done, |done| match done {
                Done::Sum(sum, _) => Answer::Sum(sum.as_i64().unwrap()),
                other => panic!("{other:?}"),
            })
        }
        Act::Swap(old, new) => {
            let value = |n: Option<i64>| n.map(|n| Value::Json(json!(n)));
            heard(store.compare_and_swap(&key, value(old), value(new)).await, |_| Answer::Done)
        }
    }
}

/// Lives so many days of a kind, each with its own chances, and adds up what happened; fails with the smallest one that goes
/// wrong, after so many attempts to find a smaller one.
pub(crate) fn live_all<D: std::fmt::Debug, H: AddAssign + Default>(
    (days, attempts): (u32, u32),
    seed: Seed,
    any_day: impl Strategy<Value = D>,
    live: impl AsyncFn(&D) -> Result<H, String>,
) -> Result<H, Box<TestError<(D, u64)>>> {
    let config = Config { cases: days, failure_persistence: None, max_shrink_iters: attempts, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, seed.random());
    let all = RefCell::new(H::default());
    runner.run(&(any_day, any::<u64>()), |(day, chances)| {
        brainy_storage::chance::repeat(Some(chances));
        let runtime = Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        let happened = runtime.block_on(live(&day));
        brainy_storage::chance::repeat(None);
        *all.borrow_mut() += happened.map_err(TestCaseError::fail)?;
        Ok(())
    })?;
    Ok(all.into_inner())
}
