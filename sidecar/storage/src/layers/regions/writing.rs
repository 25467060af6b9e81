//! Plain writes: a value or a removal, whatever stands there. They are acknowledged by the own region, without asking any
//! other, each with its stamp; and become one conditional write of the own region's store.

use std::sync::Arc;

use super::pending::Unsent;
use super::record::Record;
use super::region::{MAX_ATTEMPTS, Space, read};
use super::store::Store;
use crate::group::{Change, Judged, judge};
use crate::layers::behind::{Answers, Item, get_all, not_in_time, put_all};
use crate::layers::gates::Place;
use crate::operation::Request;
use crate::performed::{Performed, Stands};
use crate::{Condition, Entry, Error, Key, Operation, Outcome, Value, Version, WriteResult};

/// What a write builds on.
struct Ground {
    /// Where the own region must stand.
    at: Condition,
    time: u64,
    entry: Option<Entry>,
    performed: Performed,
}

impl Ground {
    fn nothing() -> Self {
        Self { at: Condition::Absent, time: 0, entry: None, performed: Performed::default() }
    }

    fn found(record: &Record, at: Condition) -> Self {
        Self { at, time: record.time(), entry: record.entry(), performed: record.performed().clone() }
    }

    /// What is damaged can be written over or removed.
    fn damaged(at: Condition) -> Self {
        let version = Version { revision: 0, tag: "damaged".to_owned() };
        let entry = Some(Entry { value: Value::Json(serde_json::Value::Null), version });
        Self { at, entry, ..Self::nothing() }
    }
}

/// A write that has been judged.
struct Judgement {
    index: usize,
    judged: Judged,
    record: Record,
    at: Condition,
}

/// What was written, and waits to be in other regions.
struct Written {
    index: usize,
    waits: Vec<tokio::sync::oneshot::Receiver<bool>>,
}

/// Does plain operations on each key, of which none comes twice.
pub(super) async fn write(store: &Arc<Store>, space: &Arc<Space>, items: Vec<Item>) -> Vec<Answers> {
    let failed = |error: &Error| items.iter().map(|item| vec![Err(error.clone()); item.requests.len()]).collect();
    if let Err(error) = store.ready().await {
        return failed(&error);
    }
    if let Err(error) = store.room().await {
        return failed(&error);
    }
    let places: Vec<Place> = items.iter().map(|item| (Arc::clone(&space.folder), item.key.clone())).collect();
    let mut writes = Writes { store, space, items: &items, places: &places, written: Vec::new() };
    let mut answers = {
        let _alone = store.gates.alone(places.clone()).await;
        let _work = store.begin();
        space.keep(&store.spaces);
        if let Err(error) = store.check_claim() {
            return failed(&error);
        }
        if let Err(error) = store.regions[store.here].register(space).await {
            return failed(&error);
        }
        writes.all().await
    };
    let wanted = store.concern().saturating_sub(1);
    if wanted > 0 {
        let reached = writes
            .written
            .into_iter()
            .map(|Written { index, waits }| async move { (index, store.reached(waits, wanted).await) });
        for (index, reached) in futures::future::join_all(reached).await {
            if reached {
                continue;
            }
            let why = "it is in the own region, and did not reach as many as are asked for in time; it will";
            not_in_time(&mut answers[index], why);
        }
    }
    answers
}

struct Writes<'a> {
    store: &'a Arc<Store>,
    space: &'a Arc<Space>,
    items: &'a [Item],
    places: &'a [Place],
    written: Vec<Written>,
}

impl Writes<'_> {
    async fn all(&mut self) -> Vec<Answers> {
        let mut answers: Vec<Option<Answers>> = self.items.iter().map(|_| None).collect();
        for attempt in 0..MAX_ATTEMPTS {
            let open: Vec<usize> = (0..answers.len()).filter(|index| answers[*index].is_none()).collect();
            if open.is_empty() {
                break;
            }
            let mut judgements = Vec::with_capacity(open.len());
            for (index, ground) in open.iter().zip(self.grounds(&open, attempt == 0).await) {
                let judged = match ground {
                    Ok(ground) => self.judge(*index, ground),
                    Err(error) => Err(vec![Err(error); self.items[*index].requests.len()]),
                };
                match judged {
                    Ok(judgement) => judgements.push(judgement),
                    Err(answer) => answers[*index] = Some(answer),
                }
            }
            for (judgement, outcome) in self.put(judgements).await {
                let index = judgement.index;
                answers[index] = self.settle(judgement, outcome);
            }
        }
        let contended = |item: &Item| Error::Contended { key: item.key.to_string(), attempts: MAX_ATTEMPTS };
        let answers = answers.into_iter().zip(self.items);
        answers.map(|(done, item)| done.unwrap_or_else(|| vec![Err(contended(item)); item.requests.len()])).collect()
    }

    /// What stands under keys in the own region; where that may be `believed`, what this process has written last.
    async fn grounds(&self, open: &[usize], believed: bool) -> Vec<Result<Ground, Error>> {
        let recent = |index: &usize| {
            let item = &self.items[*index];
            if !believed || !is_put(&item.requests) {
                return None;
            }
            let (record, version) = self.store.recent.get(self.space, &item.key)?;
            Some(Ground::found(&record, Condition::Version(version)))
        };
        let mut grounds: Vec<Option<Result<Ground, Error>>> = open.iter().map(|index| recent(index).map(Ok)).collect();
        let asked: Vec<usize> = (0..open.len()).filter(|nth| grounds[*nth].is_none()).collect();
        let keys: Vec<Key> = asked.iter().map(|nth| self.items[open[*nth]].key.clone()).collect();
        let own = &*self.space.stores[self.store.here];
        for (nth, found) in asked.into_iter().zip(get_all(own, &keys).await) {
            grounds[nth] = Some(match found {
                Ok(entry) => self.ground(&self.items[open[nth]], entry).await,
                Err(Error::Corrupt { .. }) => Ok(Ground::damaged(Condition::Any)),
                Err(error) => Err(error),
            });
        }
        let lost = || Err(Error::unavailable("Interrupted", "a store did not answer for every key"));
        grounds.into_iter().map(|ground| ground.unwrap_or_else(lost)).collect()
    }

    async fn ground(&self, item: &Item, entry: Option<Entry>) -> Result<Ground, Error> {
        let at = entry.as_ref().map_or(Condition::Absent, |entry| Condition::Version(entry.version.clone()));
        match read(&item.key, entry, &self.store.shared.clock) {
            Ok(Some((record, _))) => return Ok(Ground::found(&record, at)),
            Ok(None) if is_blind(&item.requests) => return Ok(Ground::nothing()),
            Ok(None) => {}
            Err(Error::Corrupt { .. }) => return Ok(Ground::damaged(at)),
            Err(error) => return Err(error),
        }
        // A removal of what the own region does not have: if it is not filled yet, another one may.
        if self.store.regions[self.store.here].is_filled().await? {
            return Ok(Ground::nothing());
        }
        let found = self.store.read(self.space, &item.key).await?;
        Ok(found.map_or_else(Ground::nothing, |record| Ground::found(&record, Condition::Absent)))
    }

    /// What is to be written; or the answers, where nothing is.
    fn judge(&self, index: usize, ground: Ground) -> Result<Judgement, Answers> {
        let (store, Item { key, requests }) = (self.store, &self.items[index]);
        let time = store.shared.clock.next(store.now(), ground.time);
        // What is written has that revision.
        let stands = Stands { revision: time - 1, entry: ground.entry.as_ref(), performed: &ground.performed };
        let judged = judge(key, stands, requests);
        let (value, performed) = match judged.change() {
            Change::Nothing => return Err(judged.applied(None)),
            Change::Put(value) => (Some(value), judged.performed()),
            Change::Remove => (None, Performed::default()),
        };
        if let Err(error) = store.check_path(self.space, key, ground.at != Condition::Absent) {
            return Err(judged.failed(&error));
        }
        match Record::new(key, (time, &store.regions[store.here].name), value.as_ref(), performed) {
            Ok(record) => Ok(Judgement { index, judged, record, at: ground.at }),
            Err(error) => Err(judged.failed(&error)),
        }
    }

    async fn put(&self, judgements: Vec<Judgement>) -> Vec<(Judgement, WriteResult<Version>)> {
        let own = &*self.space.stores[self.store.here];
        let item = |judgement: &Judgement| {
            let key = self.items[judgement.index].key.clone();
            (key, judgement.record.to_value(), judgement.at.clone())
        };
        let lost = "the own region did not say what became of it";
        let outcomes = put_all(own, judgements.iter().map(item).collect(), lost).await;
        judgements.into_iter().zip(outcomes).collect()
    }

    /// What is answered; `None`: to be tried again, because somebody came between.
    fn settle(&mut self, judgement: Judgement, outcome: WriteResult<Version>) -> Option<Answers> {
        let Judgement { index, judged, record, .. } = judgement;
        let (store, place) = (self.store, &self.places[index]);
        let unsent =
            Unsent { time: record.time(), at: store.now(), bytes: record.bytes(), source: store.here, relay: false };
        match outcome {
            Ok(Outcome::Applied(version)) => {
                store.recent.note(self.space, &self.items[index].key, Some((&record, &version)));
                let waits = store.spread(place, self.space, unsent, store.concern() > 1);
                self.written.push(Written { index, waits });
                Some(judged.applied(record.entry().map(|entry| entry.version).as_ref()))
            }
            Ok(Outcome::Rejected(_)) => None,
            Ok(Outcome::Unknown(why)) => {
                store.recent.note(self.space, &self.items[index].key, None);
                store.spread(place, self.space, unsent, false);
                Some(judged.unknown(&why))
            }
            Err(error) => Some(judged.failed(&error)),
        }
    }
}

/// They take effect whatever stands there: no other region has a say.
pub(super) fn is_plain(requests: &[Request]) -> bool {
    let plain = |operation: &Operation| {
        matches!(
            operation,
            Operation::Put { condition: Condition::Any, .. } | Operation::Remove { condition: Condition::Any }
        )
    };
    requests.iter().all(|request| request.id.is_none() && plain(&request.operation))
}

/// It is written whatever stands there, and the answer is the same.
fn is_put(requests: &[Request]) -> bool {
    matches!(requests, [Request { operation: Operation::Put { .. }, .. }])
}

fn is_blind(requests: &[Request]) -> bool {
    requests.iter().all(|request| request.operation.is_blind())
}
