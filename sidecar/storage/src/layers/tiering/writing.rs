//! Writes: each is judged on what stands, in whichever tier, and becomes one write of the hot one. Who writes a key is alone
//! with it; only the background may come between, which changes nothing of what stands, and is noticed because every write
//! of the hot tier is conditional.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::time::{Instant, timeout_at};

use super::Ack;
use super::pending::Unwritten;
use super::record::{self, Noted, Record, State};
use super::spaces::{Gone, Space};
use super::store::{Store, hash, read};
use crate::encoding::encode;
use crate::group::{Change, Judged, judge};
use crate::layers::behind::{Answers, Item, Sealed, get_all, not_in_time, put_all};
use crate::layers::gates::Place;
use crate::operation::Request;
use crate::performed::{Performed, Stands};
use crate::{Condition, Entry, Error, Key, Operation, Outcome, Value, Version, WriteResult};

/// Longest wait for room in the journal, or for a write to be in the cold tier: less than a request may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Most attempts while the background comes between.
const MAX_ATTEMPTS: u32 = 64;

/// What is to be in the cold tier before an answer is given: of which item, and which revision.
type Wait = (usize, u64);

/// Does the operations on each key, of which none comes twice.
pub(super) async fn write(store: &Arc<Store>, space: &Arc<Space>, items: Vec<Item>) -> Vec<Answers> {
    let failed = |error: &Error| items.iter().map(|item| vec![Err(error.clone()); item.requests.len()]).collect();
    if let Err(error) = room(store).await {
        return failed(&error);
    }
    let places: Vec<Place> = items.iter().map(|item| (Arc::clone(&space.folder), item.key.clone())).collect();
    let mut writes = Writes { store, space, items: &items, places: &places, waits: Vec::new() };
    let mut answers = {
        let _alone = store.gates.alone(places.clone()).await;
        let _writing = store.begin(items.iter().map(|item| hash(&space.folder, &item.key)).collect());
        if !store.may_write() {
            return failed(&Error::unavailable("Released", "this store is another's now; nothing was written"));
        }
        if let Err(error) = store.spaces.register(space).await {
            return failed(&error);
        }
        writes.all().await
    };
    if store.shared.settings.ack == Ack::Cold {
        writes.await_cold(&mut answers).await;
    }
    answers
}

/// Waits until the journal is no longer than it may be.
async fn room(store: &Store) -> Result<(), Error> {
    let settings = &store.shared.settings;
    let (keys, bytes) = (settings.max_unwritten_keys, settings.max_unwritten_bytes);
    if store.shared.journal.below(keys, bytes, PATIENCE).await {
        return Ok(());
    }
    let detail = "as much waits to be written to the cold tier as may, and that takes none; nothing was done";
    Err(Error::unavailable("Busy", detail))
}

/// What a write builds on.
struct Ground {
    /// Where the hot tier must stand.
    at: Condition,
    revision: u64,
    entry: Option<Entry>,
    performed: Performed,
    /// What is known to stand in the cold tier.
    over: Option<Noted>,
    /// What that remembers is not among `performed`.
    inherits: bool,
    is_unwritten: bool,
    /// When it was written, in milliseconds since 1970.
    written_at: u64,
    /// What the hot tier has of the key takes so many bytes.
    bytes: Option<u64>,
}

impl Ground {
    /// The hot tier has nothing, and nobody has looked what the cold one has.
    fn unseen() -> Self {
        Self {
            at: Condition::Absent,
            revision: 0,
            entry: None,
            performed: Performed::default(),
            over: None,
            inherits: true,
            is_unwritten: false,
            written_at: 0,
            bytes: None,
        }
    }

    fn hot(record: Record, at: Version, bytes: u64) -> Self {
        let inherits = matches!(record.state, State::Unwritten { inherits: true, .. });
        Self {
            at: Condition::Version(at),
            revision: record.sealed.revision(),
            entry: record.sealed.entry(),
            performed: record.sealed.performed().clone(),
            over: record.noted().cloned(),
            inherits,
            is_unwritten: record.is_unwritten(),
            written_at: record.written_at,
            bytes: Some(bytes),
        }
    }

    /// With what was found in the cold tier.
    fn with_cold(self, found: Option<(Sealed, Noted)>) -> Self {
        let Some((sealed, noted)) = found else { return Self { inherits: false, ..self } };
        let performed = self.performed.after(sealed.performed());
        let ground = Self { performed, inherits: false, over: Some(noted), ..self };
        match ground.bytes {
            Some(_) => ground,
            None => Self { revision: sealed.revision(), entry: sealed.entry(), ..ground },
        }
    }

    /// The hot tier has nothing, and the cold one the mark of a removal, which nobody is left to remove.
    fn is_mark(&self) -> bool {
        self.bytes.is_none() && self.entry.is_none() && self.over.is_some()
    }

    /// What stands in the hot tier, as what is to be brought to the cold one.
    fn unwritten(&self) -> Unwritten {
        let bytes = self.bytes.unwrap_or_default();
        Unwritten { revision: self.revision, at: self.written_at, bytes, may_be_sent: true }
    }

    /// What is damaged can be removed, and nothing else be done with it.
    fn damaged(at: Condition) -> Self {
        let version = Version { revision: 0, tag: "damaged".to_owned() };
        let entry = Some(Entry { value: Value::Json(serde_json::Value::Null), version });
        // It may be a record of anything: of what was sent, too.
        let is_unwritten = at == Condition::Any;
        Self { at, entry, inherits: false, is_unwritten, ..Self::unseen() }
    }
}

/// A write that has been judged.
struct Judgement {
    index: usize,
    judged: Judged,
    record: Record,
    ground: Ground,
}

struct Writes<'a> {
    store: &'a Arc<Store>,
    space: &'a Arc<Space>,
    items: &'a [Item],
    places: &'a [Place],
    waits: Vec<Wait>,
}

impl Writes<'_> {
    async fn all(&mut self) -> Vec<Answers> {
        let mut answers: Vec<Option<Answers>> = self.items.iter().map(|_| None).collect();
        for _ in 0..MAX_ATTEMPTS {
            let open: Vec<usize> = (0..answers.len()).filter(|index| answers[*index].is_none()).collect();
            if open.is_empty() {
                break;
            }
            let mut judgements = Vec::with_capacity(open.len());
            for (index, ground) in open.iter().zip(self.grounds(&open).await) {
                let judged = match ground {
                    Ok(ground) => self.judge(*index, ground).await,
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

    /// What stands under keys, in whichever tier.
    async fn grounds(&self, open: &[usize]) -> Vec<Result<Ground, Error>> {
        let keys: Vec<Key> = open.iter().map(|index| self.items[*index].key.clone()).collect();
        let found = get_all(&*self.space.hot, &keys).await;
        let mut grounds = Vec::with_capacity(open.len());
        let mut asked: Vec<usize> = Vec::new();
        for (nth, (index, found)) in open.iter().zip(found).enumerate() {
            let item = &self.items[*index];
            let ground = found.and_then(|entry| {
                let at = entry.as_ref().map(|entry| entry.version.clone());
                Ok(read(&item.key, entry)?.zip(at))
            });
            grounds.push(match ground {
                Ok(Some(((record, bytes), at))) => {
                    let ground = Ground::hot(record, at, bytes);
                    if ground.inherits && needs_memory(&item.requests) {
                        asked.push(nth);
                    }
                    Ok(ground)
                }
                Ok(None) => {
                    if !is_blind(&item.requests) {
                        asked.push(nth);
                    }
                    Ok(Ground::unseen())
                }
                Err(Error::Corrupt { .. }) if is_removal(&item.requests) => Ok(Ground::damaged(Condition::Any)),
                Err(error) => Err(error),
            });
        }
        let keys: Vec<Key> = asked.iter().map(|nth| keys[*nth].clone()).collect();
        for ((nth, key), found) in asked.iter().zip(&keys).zip(get_all(&*self.space.cold, &keys).await) {
            let found = found.and_then(|entry| from_cold(key, entry));
            let ground = std::mem::replace(&mut grounds[*nth], Ok(Ground::unseen()));
            grounds[*nth] = match (ground, found) {
                (Ok(ground), Ok(found)) => Ok(ground.with_cold(found)),
                (Ok(ground), Err(Error::Corrupt { .. }))
                    if ground.bytes.is_none() && is_removal(&self.items[open[*nth]].requests) =>
                {
                    Ok(Ground::damaged(Condition::Absent))
                }
                (Ok(_), Err(error)) | (Err(error), _) => Err(error),
            };
        }
        grounds
    }

    /// What is to be written; or the answers, where nothing is.
    async fn judge(&mut self, index: usize, ground: Ground) -> Result<Judgement, Answers> {
        let Item { key, requests } = &self.items[index];
        let now = self.store.now();
        let revision = match self.store.revisions.take(1, ground.revision, now).await {
            Ok(revision) => revision,
            Err(error) => return Err(vec![Err(error); requests.len()]),
        };
        // What is written has that revision.
        let stands = Stands { revision: revision - 1, entry: ground.entry.as_ref(), performed: &ground.performed };
        let judged = judge(key, stands, requests);
        let (value, performed) = match judged.change() {
            // Nothing is removed but what a lost process has left there.
            Change::Nothing if ground.is_mark() && is_removal(requests) => (None, Performed::default()),
            Change::Nothing => {
                if ground.is_unwritten {
                    // It may be what an earlier process has left, which nobody has found yet.
                    self.store.pending.note(&self.places[index], self.space, ground.unwritten());
                    self.waits.push((index, ground.revision));
                }
                return Err(judged.applied(None));
            }
            Change::Put(value) => (Some(value), judged.performed()),
            Change::Remove => (None, Performed::default()),
        };
        if let Err(error) = self.check_path(key, &ground) {
            return Err(judged.failed(&error));
        }
        let sealed = match Sealed::new(key, revision, value.as_ref(), performed) {
            Ok(sealed) => sealed,
            Err(error) => return Err(judged.failed(&error)),
        };
        let inherits = ground.inherits && value.is_some();
        let state = State::Unwritten { over: ground.over.clone(), inherits };
        Ok(Judgement { index, judged, record: Record { sealed, state, written_at: now }, ground })
    }

    /// Refuses a key that the hot tier could hold and the cold one could not.
    fn check_path(&self, key: &Key, ground: &Ground) -> Result<(), Error> {
        let length = self.space.folder.len() + encode(key.as_str()).len();
        if ground.bytes.is_some() || length <= self.store.longest_path {
            return Ok(());
        }
        let problem = format!(
            "is too long for the cold tier: there it takes {length} bytes, and {} are allowed; use a shorter key, or fewer \
             characters other than letters and digits",
            self.store.longest_path
        );
        Err(Error::invalid("key", problem))
    }

    async fn put(&self, judgements: Vec<Judgement>) -> Vec<(Judgement, WriteResult<Version>)> {
        let item = |judgement: &Judgement| {
            let key = self.items[judgement.index].key.clone();
            (key, judgement.record.to_value(), judgement.ground.at.clone())
        };
        let lost = "the hot tier did not say what became of it";
        let outcomes = put_all(&*self.space.hot, judgements.iter().map(item).collect(), lost).await;
        judgements.into_iter().zip(outcomes).collect()
    }

    /// What is answered; `None`: to be tried again, because the background came between.
    fn settle(&mut self, judgement: Judgement, outcome: WriteResult<Version>) -> Option<Answers> {
        let Judgement { index, judged, record, ground } = judgement;
        let (place, key) = (&self.places[index], &self.items[index].key);
        match outcome {
            Ok(Outcome::Applied(_)) => {
                let revision = record.sealed.revision();
                self.space.note(key, record.sealed.is_removal().then_some(Gone::Removed(revision)));
                self.store.note_unwritten(place, self.space, &record, ground.is_unwritten);
                let bytes = super::flush::signed(super::size(&record.to_value()));
                let before = ground.bytes.map_or(0, super::flush::signed);
                self.store.tally.hot.add(i64::from(ground.bytes.is_none()), bytes - before);
                self.waits.push((index, revision));
                let version = record.sealed.entry().map(|entry| entry.version);
                Some(judged.applied(version.as_ref()))
            }
            Ok(Outcome::Rejected(_)) => None,
            Ok(Outcome::Unknown(why)) => {
                self.space.note(key, Some(Gone::Unsure));
                self.store.note_unwritten(place, self.space, &record, true);
                Some(judged.unknown(&why))
            }
            Err(error) => Some(judged.failed(&error)),
        }
    }

    /// Waits until all that is to be acknowledged is in the cold tier. What is not in time, nobody knows of.
    async fn await_cold(&self, answers: &mut [Answers]) {
        if self.waits.is_empty() {
            return;
        }
        let deadline = Instant::now() + PATIENCE;
        self.store.pending.ask_soon();
        let in_time = join_all(self.waits.iter().map(|(index, revision)| async {
            timeout_at(deadline, self.store.pending.written(&self.places[*index], *revision)).await.is_ok()
        }));
        for ((index, _), in_time) in self.waits.iter().zip(in_time.await) {
            if in_time {
                continue;
            }
            let why = "it is in the hot tier, and could not be brought to the cold one in time; it will be";
            not_in_time(&mut answers[*index], why);
        }
    }
}

/// What the cold tier answered.
pub(super) fn from_cold(key: &Key, entry: Option<Entry>) -> Result<Option<(Sealed, Noted)>, Error> {
    let Some(Entry { value, version }) = entry else { return Ok(None) };
    let noted = Noted { version, bytes: super::size(&value) };
    Ok(Some((record::from_cold(key, value)?, noted)))
}

/// They take effect whatever stands there, and are answered the same.
fn is_blind(requests: &[Request]) -> bool {
    requests.iter().all(|request| request.id.is_none() && request.operation.is_blind())
}

/// One removal, of whatever stands there.
fn is_removal(requests: &[Request]) -> bool {
    let any = Operation::Remove { condition: Condition::Any };
    matches!(requests, [request] if request.id.is_none() && request.operation == any)
}

/// What operations the value remembers matters to them: all but plain writes, and one removal alone.
fn needs_memory(requests: &[Request]) -> bool {
    let forgets =
        |operation: &Operation| matches!(operation, Operation::Remove { .. } | Operation::Swap { new: None, .. });
    requests.iter().any(|request| request.id.is_some() || requests.len() > 1 && forgets(&request.operation))
}
