//! Clients, and the record of what they asked and were told.

use std::fmt::Write;
use std::sync::{Arc, Mutex};

use brainy_storage::{Condition, Error, Key, Outcome, StorageAdapter, Value, Version, WriteResult};
use todc_utils::{Action, History, WGLChecker};

use super::generate::{Act, Expectation, KEYS, Run};
use super::rough::pause;
use super::spec::{Answer, Datum, Done, Intent, OneKey, seen};

/// Operations by number, and the moments in which they began and ended: the order of the record is the clock.
#[derive(Default)]
pub(crate) struct Log {
    /// The number of an operation, twice: where it begins, and where it ends.
    moments: Vec<usize>,
    /// `None`: it has failed cleanly, so that nothing has happened.
    operations: Vec<(usize, Option<Done>)>,
}

/// What a history was made of.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) operations: usize,
    /// That began before an earlier one had ended.
    pub(crate) at_once: usize,
    pub(crate) unknown: usize,
    pub(crate) failed: usize,
}

impl Tally {
    pub(crate) fn add(&mut self, other: Self) {
        self.operations += other.operations;
        self.at_once += other.at_once;
        self.unknown += other.unknown;
        self.failed += other.failed;
    }
}

impl Log {
    fn begin(&mut self, keys: &[usize]) -> usize {
        let first = self.operations.len();
        self.operations.extend(keys.iter().map(|at| (*at, None)));
        self.moments.extend(first..self.operations.len());
        first
    }

    fn end(&mut self, first: usize, done: Vec<Option<Done>>) {
        self.moments.extend(first..first + done.len());
        for (operation, done) in self.operations[first..].iter_mut().zip(done) {
            operation.1 = done;
        }
    }

    pub(crate) fn tally(&self) -> Tally {
        let mut open: Vec<usize> = Vec::new();
        let mut tally = Tally { operations: self.operations.len(), ..Tally::default() };
        for number in &self.moments {
            match open.iter().position(|other| other == number) {
                Some(index) => drop(open.swap_remove(index)),
                None => {
                    tally.at_once += usize::from(!open.is_empty());
                    open.push(*number);
                }
            }
        }
        for (_, done) in &self.operations {
            tally.failed += usize::from(done.is_none());
            tally.unknown += usize::from(done.as_ref().is_some_and(Done::is_unknown));
        }
        tally
    }

    /// Fails with the history of a key that no order of its operations explains.
    pub(crate) fn judge(&self) -> Result<(), String> {
        for at in 0..KEYS {
            let actions = self.actions(at);
            // Each operation is a client of its own to the checker: those of a batch run side by side.
            if !actions.is_empty() && !WGLChecker::<OneKey>::is_linearizable(History::from_actions(actions.clone())) {
                let mut history = format!("key {at} is not linearizable:");
                for (number, action) in actions {
                    let _ = match action {
                        Action::Call(_) => write!(history, "\n  {number} begins"),
                        Action::Response(done) => write!(history, "\n  {number} ends: {done:?}"),
                    };
                }
                return Err(history);
            }
        }
        Ok(())
    }

    fn actions(&self, at: usize) -> Vec<(usize, Action<Done>)> {
        let mut begun = vec![false; self.operations.len()];
        let (mut actions, mut unknown) = (Vec::new(), Vec::new());
        for number in &self.moments {
            let (key, Some(done)) = &self.operations[*number] else { continue };
            let (number, done) = (*number, done.clone());
            match (*key == at, std::mem::replace(&mut begun[number], true)) {
                (false, _) => {}
                (true, false) => actions.push((number, Action::Call(done))),
                // It may still happen when all else is over.
                (true, true) if done.is_unknown() => unknown.push((number, Action::Response(done))),
                (true, true) => actions.push((number, Action::Response(done))),
            }
        }
        actions.extend(unknown);
        actions
    }
}

struct Client {
    store: Arc<dyn StorageAdapter>,
    log: Arc<Mutex<Log>>,
    /// The version of each key that it saw last.
    seen: [Option<Version>; KEYS],
}

fn key(at: usize) -> Key {
    Key::new(format!("k{at}")).unwrap()
}

fn done<T>(intent: Intent, result: WriteResult<T>, applied: impl FnOnce(T) -> Answer) -> Option<Done> {
    let answer = match result {
        Ok(Outcome::Applied(value)) => applied(value),
        Ok(Outcome::Rejected(current)) => Answer::Rejected(seen(current)),
        Ok(Outcome::Unknown(_)) => Answer::Unknown,
        Err(Error::NotANumber { .. }) => Answer::NotANumber,
        Err(_) => return None,
    };
    Some(Done::Write(intent, answer))
}

fn put_done(datum: Datum, condition: Condition, result: WriteResult<Version>) -> Option<Done> {
    let stands = datum.clone();
    done(Intent::Put(datum, condition), result, |version| applied(stands, version))
}

fn applied(datum: Datum, version: Version) -> Answer {
    Answer::Applied { found: None, stands: Some((datum, version)) }
}

impl Client {
    fn condition(&self, at: usize, expectation: Expectation) -> Condition {
        match expectation {
            Expectation::Nothing => Condition::Any,
            Expectation::Absent => Condition::Absent,
            Expectation::AsSeen => self.seen[at].clone().map_or(Condition::Absent, Condition::Version),
        }
    }

    async fn record(&mut self, keys: &[usize], act: impl Future<Output = Vec<Option<Done>>>) {
        let first = self.log.lock().unwrap().begin(keys);
        let done = act.await;
        assert_eq!(done.len(), keys.len(), "each item has an answer");
        for (at, shown) in keys.iter().zip(&done).filter_map(|(at, done)| Some((at, done.as_ref()?.shows()?))) {
            self.seen[*at] = shown.as_ref().map(|(_, version)| version.clone());
        }
        self.log.lock().unwrap().end(first, done);
    }

    async fn get(&mut self, at: usize) {
        let store = Arc::clone(&self.store);
        self.record(&[at], async move { vec![store.get(&key(at)).await.ok().map(|found| Done::Read(seen(found)))] })
            .await;
    }

    async fn act(&mut self, act: Act) {
        let store = Arc::clone(&self.store);
        match act {
            Act::Get(at) => self.get(at).await,
            Act::GetBatch(keys) => {
                let names: Vec<Key> = keys.iter().map(|at| key(*at)).collect();
                let get = async move { store.get_batch(&names).await };
                let read = async { get.await.into_iter().map(|found| Some(Done::Read(seen(found.ok()?)))).collect() };
                self.record(&keys, read).await;
            }
            Act::Put(at, datum, expectation) => {
                let condition = self.condition(at, expectation);
                let put = async move {
                    let result = store.put(&key(at), datum.to_value(), &condition).await;
                    vec![put_done(datum, condition, result)]
                };
                self.record(&[at], put).await;
            }
            Act::PutBatch(items) => {
                let keys: Vec<usize> = items.iter().map(|(at, ..)| *at).collect();
                let asked = items.into_iter().map(|(at, datum, expect)| (datum, self.condition(at, expect)));
                let asked: Vec<(Datum, Condition)> = asked.collect();
                let items = keys.iter().zip(&asked).map(|(at, (datum, condition))| {
                    let item: (Key, Value, Condition) = (key(*at), datum.to_value(), condition.clone());
                    item
                });
                let items = items.collect();
                let put = async move {
                    let results = store.put_batch(items).await;
                    asked
                        .into_iter()
                        .zip(results)
                        .map(|((datum, condition), r)| put_done(datum, condition, r))
                        .collect()
                };
                self.record(&keys, put).await;
            }
            Act::Remove(at, expectation) => {
                // What must not be there can't be removed.
                let condition =
                    Some(self.condition(at, expectation)).filter(|condition| *condition != Condition::Absent);
                let condition = condition.unwrap_or(Condition::Any);
                let remove = async move {
                    let result = store.remove(&key(at), &condition).await;
                    let applied = |found| Answer::Applied { found: Some(found), stands: None };
                    vec![done(Intent::Remove(condition), result, applied)]
                };
                self.record(&[at], remove).await;
            }
            Act::Swap { at, old, new } => {
                let value = |datum: &Option<Datum>| datum.as_ref().map(Datum::to_value);
                let swap = async move {
                    let result = store.compare_and_swap(&key(at), value(&old), value(&new)).await;
                    let stands = new.clone();
                    let applied = |version| Answer::Applied { found: None, stands: stands.zip(version) };
                    vec![done(Intent::Swap { old, new }, result, applied)]
                };
                self.record(&[at], swap).await;
            }
            Act::Increment(at, delta) => {
                let increment = async move {
                    let result = store.increment(&key(at), delta.into()).await;
                    let applied = |(sum, version): (serde_json::Number, _)| {
                        applied(Datum::Number(sum.as_i64().expect("the sum of whole numbers is one")), version)
                    };
                    vec![done(Intent::Increment(delta), result, applied)]
                };
                self.record(&[at], increment).await;
            }
        }
    }
}

/// Lets all clients act at once on an empty store. In the end each key is read: what was lost shows there at the latest.
pub(crate) async fn perform(run: &Run, store: Arc<dyn StorageAdapter>) -> Log {
    let log = Arc::new(Mutex::new(Log::default()));
    let client = || Client { store: Arc::clone(&store), log: Arc::clone(&log), seen: Default::default() };
    let clients = run.clients.iter().cloned().map(|steps| {
        let mut client = client();
        tokio::spawn(async move {
            for (turns, act) in steps {
                pause(turns).await;
                client.act(act).await;
            }
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.unwrap();
    }
    let mut reader = client();
    for at in 0..KEYS {
        reader.get(at).await;
    }
    std::mem::take(&mut *log.lock().unwrap())
}
