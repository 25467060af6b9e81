//! Clients: they ask any node for keys of any shard, and note what they are told.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use brainy_coordination::NodeId;
use brainy_storage::{Condition, Error, Key, Operation, OperationId, Version};

use super::history::Begun;
use super::spec::{Answer, Datum, Done, Intent, seen};
use super::world::World;
use crate::routing::{Call, Reply};

/// Keys in use at a time.
const KEYS: usize = 4;
/// Most operations of a key, and most of which nobody knows: then another key takes its place. What may have happened at
/// any time since makes a history hard to judge.
const MOST: (usize, usize) = (40, 4);
/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(45);
/// Most attempts at an operation that has an id.
const ATTEMPTS: usize = 4;

pub(super) struct Client {
    world: Arc<World>,
    name: String,
    /// The version of each key that it saw last.
    seen: BTreeMap<String, Version>,
    value: i64,
    ids: u32,
}

impl Client {
    pub(super) fn new(world: &Arc<World>, number: usize) -> Self {
        let value = 1_000_000 * (number as i64 + 1);
        Self { world: Arc::clone(world), name: format!("client-{number}"), seen: BTreeMap::new(), value, ids: 0 }
    }

    /// Asks this and that until there is no more trouble.
    pub(super) async fn run(mut self) {
        while !self.world.is_calm() {
            let think = self.world.plan.think;
            tokio::time::sleep(self.world.draw(|dice| dice.between(think / 10, think * 2))).await;
            let key = self.pick_key();
            let write = self.pick_write(&key);
            self.act(&key, write).await;
        }
    }

    /// Reads a key, however long it takes.
    pub(super) async fn read_at_last(&mut self, key: &str) {
        while !self.act(key, None).await {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    fn pick_key(&self) -> String {
        let at = self.world.draw(|dice| dice.below(KEYS));
        let histories = self.world.histories.lock().unwrap();
        let names = (0..).map(|generation| format!("k{at}-{generation}"));
        let mut fresh = names.filter(|key| {
            let (operations, unknown) = histories.of(key);
            operations < MOST.0 && unknown < MOST.1
        });
        fresh.next().unwrap_or_default()
    }

    /// What to write; `None`: to read.
    fn pick_write(&mut self, key: &str) -> Option<Intent> {
        let (kind, which) = self.world.draw(|dice| (dice.below(20), dice.below(4)));
        self.value += 1;
        let new = Datum::Number(self.value);
        let last = self.seen.get(key).cloned();
        let may_go = !has_ids(key);
        Some(match kind {
            0..=6 => return None,
            7..=9 => Intent::Put(new, Condition::Any),
            10 => Intent::Put(new, Condition::Absent),
            11 => Intent::Put(new, last.map_or(Condition::Absent, Condition::Version)),
            12 if may_go => Intent::Remove(Condition::Any),
            13 if may_go => Intent::Remove(last.map_or(Condition::Any, Condition::Version)),
            14..=16 => {
                // What somebody has just written, or nothing.
                let histories = self.world.histories.lock().unwrap();
                let old = histories.last_number(key).filter(|_| which > 0).map(Datum::Number);
                Intent::Swap { old, new: Some(new).filter(|_| which < 3 || !may_go) }
            }
            _ => Intent::Increment(1 + which as i64),
        })
    }

    fn call(key: &Key, write: Option<&Intent>, id: Option<OperationId>) -> Call {
        let value = |datum: &Option<Datum>| datum.as_ref().map(Datum::to_value);
        let operation = match write {
            None => return Call::Get { key: key.clone() },
            Some(Intent::Put(datum, condition)) => {
                Operation::Put { value: datum.to_value(), condition: condition.clone() }
            }
            Some(Intent::Remove(condition)) => Operation::Remove { condition: condition.clone() },
            Some(Intent::Swap { old, new }) => Operation::Swap { old: value(old), new: value(new) },
            Some(Intent::Increment(delta)) => Operation::Increment { delta: (*delta).into() },
        };
        Call::of(key.clone(), operation, id)
    }

    /// Does one operation and notes it. True: it was answered, and not with a failure.
    async fn act(&mut self, name: &str, write: Option<Intent>) -> bool {
        let key = Key::new(name).unwrap();
        self.ids += 1;
        let id = write.as_ref().filter(|_| has_ids(name) && self.world.draw(|dice| dice.below(2)) == 0);
        let id = id.map(|_| OperationId::new(format!("{}-{}", self.name, self.ids)).unwrap());
        let call = Self::call(&key, write.as_ref(), id.clone());
        let begun = self.world.histories.lock().unwrap().begin(name, write.clone());
        let mut done = None;
        let mut open = false;
        let attempts = if id.is_some() { ATTEMPTS } else { 1 };
        for _ in 0..attempts {
            done = match self.ask(&begun, call.clone()).await {
                Some(reply) => read_as(write.as_ref(), reply),
                None => write.clone().map(|write| Done::Write(write, Answer::Unknown)),
            };
            open |= done.as_ref().is_some_and(Done::is_unknown);
            if !open || matches!(done, Some(Done::Write(_, Answer::Applied { .. }))) {
                break;
            }
            // An earlier attempt may yet take effect, whatever became of this one.
            done = write.clone().map(|write| Done::Write(write, Answer::Unknown));
        }
        match done.as_ref().and_then(Done::shows) {
            Some(Some((_, version))) => drop(self.seen.insert(name.to_owned(), version.clone())),
            Some(None) => drop(self.seen.remove(name)),
            None => {}
        }
        let answered = done.is_some();
        self.world.histories.lock().unwrap().end(&begun, done);
        answered
    }

    /// `None`: no answer came.
    async fn ask(&self, begun: &Begun, call: Call) -> Option<Reply> {
        let nodes = self.world.nodes();
        let node: &NodeId = &nodes[self.world.draw(|dice| dice.below(nodes.len()))];
        let question = format!("{begun}: {call:?}");
        self.world.say(&self.name, || format!("asks {node}: {question}"));
        let Some(process) = self.world.process(node) else {
            self.world.say(&self.name, || "nobody is there".into());
            return Some(Reply::NoServer("connection refused".into()));
        };
        let router = Arc::clone(&process.router);
        let running = process.host.spawn(async move { router.run_one(None, call).await });
        let reply = tokio::select! {
            biased;
            reply = running => reply.ok(),
            () = process.host.dead() => None,
            () = tokio::time::sleep(PATIENCE) => None,
        };
        self.world.say(&self.name, || match &reply {
            Some(reply) => format!("hears of {begun}: {reply:?}"),
            None => format!("hears nothing of {begun}"),
        });
        reply
    }
}

/// Whether operations on this key may have an id. Then it is never removed: a removal forgets the ids.
fn has_ids(key: &str) -> bool {
    key.starts_with("k0")
}

/// What a reply says; `None`: that it had no effect.
fn read_as(write: Option<&Intent>, reply: Reply) -> Option<Done> {
    let Some(intent) = write.cloned() else {
        return match reply {
            Reply::Found(entry) => Some(Done::Read(seen(entry))),
            _ => None,
        };
    };
    let applied = |found, stands| Answer::Applied { found, stands };
    let answer = match (reply, &intent) {
        (Reply::Written(version), Intent::Put(datum, _)) => applied(None, Some((datum.clone(), version))),
        (Reply::Removed(found), _) => applied(Some(found), None),
        (Reply::Swapped(version), Intent::Swap { new, .. }) => applied(None, new.clone().zip(version)),
        (Reply::Sum(sum, version), _) => applied(None, Some((Datum::Number(sum.as_i64().unwrap()), version))),
        (Reply::Rejected(entry), _) => Answer::Rejected(seen(entry)),
        (Reply::Unknown(_), _) => Answer::Unknown,
        (Reply::Failed(Error::NotANumber { .. }), _) => Answer::NotANumber,
        (Reply::Failed(_) | Reply::NoServer(_), _) => return None,
        (reply, intent) => unreachable!("{reply:?} is no answer to {intent:?}"),
    };
    Some(Done::Write(intent, answer))
}
