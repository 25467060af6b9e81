//! The suite on the backends that need no server, and the suite on adapters that are broken on purpose.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "linearizability/bucket.rs"]
#[allow(dead_code, reason = "other tests need more of it")]
mod bucket;
#[path = "linearizability/harness/mod.rs"]
#[allow(dead_code, reason = "other tests need more of it")]
mod harness;
#[path = "tiering/restless.rs"]
mod restless;

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use brainy_storage::backends::embedded::EmbeddedDatabase;
use brainy_storage::backends::filesystem::FilesystemAdapter;
use brainy_storage::backends::memory::MemoryAdapter;
use brainy_storage::{
    Condition, Done, Entry, Error, Key, Namespace, Operation, OperationId, Outcome, Page, StorageAdapter, Value,
    Version, WriteResult, conformance,
};
use serde_json::{Number, json};

#[tokio::test(flavor = "multi_thread")]
async fn memory_conforms() {
    let report = conformance::run(|| Arc::new(MemoryAdapter::new())).await;
    assert!(report.is_clean(), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn filesystem_conforms() {
    let folder = tempfile::tempdir().unwrap();
    let count = std::sync::atomic::AtomicU32::new(0);
    let next = || count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let report = conformance::run(|| {
        let root = folder.path().join(format!("shard-{:03}", next()));
        Arc::new(FilesystemAdapter::open(&root).unwrap())
    });
    let report = report.await;
    assert!(report.is_clean(), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn embedded_conforms() {
    let folder = tempfile::tempdir().unwrap();
    let database = EmbeddedDatabase::open(folder.path()).unwrap();
    let count = std::sync::atomic::AtomicU32::new(0);
    let next = || count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    // All stores of one database: they must not see each other either.
    let report = conformance::run(|| Arc::new(database.store(&format!("shard-{:03}", next())).unwrap())).await;
    assert!(report.is_clean(), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_tiers_conform_while_everything_moves_between_them() {
    fn memory() -> Arc<dyn StorageAdapter> {
        Arc::new(MemoryAdapter::new())
    }
    for cold in [memory, restless::bucket] {
        let tiers = restless::tiers();
        let report = conformance::run(|| restless::over(&tiers, memory(), cold())).await;
        assert!(report.is_clean(), "{report}");
        restless::assert_moved(&tiers);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_embedded_database_conforms_as_the_hot_tier_of_a_bucket() {
    let folder = tempfile::tempdir().unwrap();
    let database = EmbeddedDatabase::open(folder.path()).unwrap();
    let count = std::sync::atomic::AtomicU32::new(0);
    let next = || count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let open = || Arc::new(database.store(&format!("shard-{:03}", next())).unwrap());
    let tiers = restless::tiers();
    let report = conformance::run(|| restless::over(&tiers, open(), restless::bucket())).await;
    assert!(report.is_clean(), "{report}");
    restless::assert_moved(&tiers);
}

/// Ways to be wrong, each of which some real adapter has been.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Flaw {
    SwapIgnoresTheOldValue,
    SwapFromNothingCantCreate,
    SwapToNothingKeepsTheValue,
    SwapComparesText,
    PutIgnoresItsCondition,
    RemoveIgnoresItsCondition,
    PutChecksThenWrites,
    NamespaceIsIgnored,
    NestedNamespacesAreJoined,
    FalsyValuesAreMissing,
    NullIsNoValue,
    VersionIsAHashOfTheValue,
    VersionIsOnlyARevision,
    IncrementReadsThenWrites,
    IncrementOfTextCounts,
    IncrementLosesPrecision,
    BatchDropsItsLastItem,
    BatchAnswersInKeyOrder,
    FirstOfTwoItemsStands,
    ListIgnoresThePrefix,
    ListRepeatsTheStart,
    ListNeverHasMore,
    ListInReverse,
    DeletedKeysAreListed,
    DeleteAlwaysFindsSomething,
    KeysAreTrimmed,
    KeysIgnoreCase,
    RejectionsReportNothing,
    BytesBecomeText,
    MissingNumberIsNoNumber,
    EmptyBatchHasAnAnswer,
    BatchIgnoresItsConditions,
    IdsAreIgnored,
    IdsAreCheckedThenDone,
    IdsAreForgottenByPlainWrites,
    IdsBelongToTheStore,
    RejectionsAreRemembered,
    OnlyTheLastIdIsRemembered,
}

const FLAWS: [Flaw; 38] = {
    use Flaw::*;
    [
        SwapIgnoresTheOldValue,
        SwapFromNothingCantCreate,
        SwapToNothingKeepsTheValue,
        SwapComparesText,
        PutIgnoresItsCondition,
        RemoveIgnoresItsCondition,
        PutChecksThenWrites,
        NamespaceIsIgnored,
        NestedNamespacesAreJoined,
        FalsyValuesAreMissing,
        NullIsNoValue,
        VersionIsAHashOfTheValue,
        VersionIsOnlyARevision,
        IncrementReadsThenWrites,
        IncrementOfTextCounts,
        IncrementLosesPrecision,
        BatchDropsItsLastItem,
        BatchAnswersInKeyOrder,
        FirstOfTwoItemsStands,
        ListIgnoresThePrefix,
        ListRepeatsTheStart,
        ListNeverHasMore,
        ListInReverse,
        DeletedKeysAreListed,
        DeleteAlwaysFindsSomething,
        KeysAreTrimmed,
        KeysIgnoreCase,
        RejectionsReportNothing,
        BytesBecomeText,
        MissingNumberIsNoNumber,
        EmptyBatchHasAnAnswer,
        BatchIgnoresItsConditions,
        IdsAreIgnored,
        IdsAreCheckedThenDone,
        IdsAreForgottenByPlainWrites,
        IdsBelongToTheStore,
        RejectionsAreRemembered,
        OnlyTheLastIdIsRemembered,
    ]
};

impl Flaw {
    /// Remembers operations on its own, beside the values.
    fn keeps_a_ledger(self) -> bool {
        use Flaw::*;
        matches!(
            self,
            IdsAreIgnored
                | IdsAreCheckedThenDone
                | IdsAreForgottenByPlainWrites
                | IdsBelongToTheStore
                | RejectionsAreRemembered
                | OnlyTheLastIdIsRemembered
        )
    }
}

/// Between the two steps of what should be one: long enough that racing writers meet in it on any machine.
const WINDOW: std::time::Duration = std::time::Duration::from_millis(5);

/// A sound adapter with one flaw.
#[derive(Debug)]
struct Broken {
    inner: Arc<dyn StorageAdapter>,
    flaw: Flaw,
    /// Names of the namespaces on the way here.
    path: String,
    /// The store outside all namespaces.
    top: Arc<dyn StorageAdapter>,
    /// Keys that were ever written.
    written: std::sync::Mutex<BTreeSet<Key>>,
    /// Operations that were done.
    ledger: std::sync::Mutex<Vec<(Key, OperationId, Outcome<Done>)>>,
}

impl Broken {
    fn with(flaw: Flaw) -> Arc<dyn StorageAdapter> {
        let inner: Arc<dyn StorageAdapter> = Arc::new(MemoryAdapter::new());
        Arc::new(Self {
            top: inner.clone(),
            inner,
            flaw,
            path: String::new(),
            written: Default::default(),
            ledger: Default::default(),
        })
    }

    fn has(&self, flaw: Flaw) -> bool {
        self.flaw == flaw
    }

    fn key(&self, key: &Key) -> Key {
        match self.flaw {
            Flaw::KeysAreTrimmed => Key::new(key.as_str().trim()).unwrap_or_else(|_| key.clone()),
            Flaw::KeysIgnoreCase => Key::new(key.as_str().to_lowercase()).unwrap(),
            _ => key.clone(),
        }
    }

    /// A version made of the content alone: A, B, A repeats it.
    fn version(&self, value: &Value, version: Version) -> Version {
        match self.flaw {
            Flaw::VersionIsAHashOfTheValue => {
                Version { tag: format!("{:x}", xxhash_rust::xxh3::xxh3_64(format!("{value:?}").as_bytes())), ..version }
            }
            Flaw::VersionIsOnlyARevision => Version { tag: "0".to_owned(), ..version },
            _ => version,
        }
    }
}

#[async_trait]
impl StorageAdapter for Broken {
    async fn get(&self, key: &Key) -> Result<Option<Entry>, Error> {
        let entry = self.inner.get(&self.key(key)).await?;
        Ok(entry.map(|e| Entry { version: self.version(&e.value, e.version), value: e.value }).filter(|entry| {
            let falsy = [json!(0), json!(""), json!(false), json!(null)].map(Value::Json).contains(&entry.value);
            let null = entry.value == Value::Json(json!(null));
            !(self.has(Flaw::FalsyValuesAreMissing) && falsy || self.has(Flaw::NullIsNoValue) && null)
        }))
    }

    async fn put(&self, key: &Key, value: Value, condition: &Condition) -> WriteResult<Version> {
        let key = self.key(key);
        let value = match value {
            Value::Bytes(bytes) if self.has(Flaw::BytesBecomeText) => {
                Value::Bytes(String::from_utf8_lossy(&bytes).into_owned().into())
            }
            value => value,
        };
        self.written.lock().unwrap().insert(key.clone());
        if self.has(Flaw::IdsAreForgottenByPlainWrites) {
            self.ledger.lock().unwrap().retain(|(known, ..)| *known != key);
        }
        let blind = match self.flaw {
            Flaw::PutIgnoresItsCondition => true,
            Flaw::PutChecksThenWrites if *condition != Condition::Any => {
                let current = self.inner.get(&key).await?;
                if !condition.holds(current.as_ref().map(|entry| &entry.version)) {
                    return Ok(Outcome::Rejected(current));
                }
                tokio::time::sleep(WINDOW).await;
                true
            }
            _ => false,
        };
        let made_up = matches!(self.flaw, Flaw::VersionIsAHashOfTheValue | Flaw::VersionIsOnlyARevision);
        let condition = match condition {
            _ if blind => Condition::Any,
            // What is compared is the made-up version.
            Condition::Version(expected) if made_up => match self.get(&key).await? {
                Some(entry) if entry.version == *expected => Condition::Any,
                current => return Ok(Outcome::Rejected(current)),
            },
            condition => condition.clone(),
        };
        Ok(match self.inner.put(&key, value.clone(), &condition).await? {
            Outcome::Rejected(_) if self.has(Flaw::RejectionsReportNothing) => Outcome::Rejected(None),
            outcome => outcome.map(|version| self.version(&value, version)),
        })
    }

    async fn remove(&self, key: &Key, condition: &Condition) -> WriteResult<bool> {
        let condition = match condition {
            Condition::Version(_) if self.has(Flaw::RemoveIgnoresItsCondition) => &Condition::Any,
            condition => condition,
        };
        let outcome = self.inner.remove(&self.key(key), condition).await?;
        Ok(outcome.map(|found| found || self.has(Flaw::DeleteAlwaysFindsSomething)))
    }

    async fn perform_once(&self, key: &Key, operation: Operation, id: &OperationId) -> WriteResult<Done> {
        if !self.flaw.keeps_a_ledger() {
            return self.inner.perform_once(&self.key(key), operation, id).await;
        }
        let any_key = self.has(Flaw::IdsBelongToTheStore);
        let is_same = |(of, known, _): &&(Key, OperationId, _)| (of == key || any_key) && known == id;
        let done = self.ledger.lock().unwrap().iter().find(is_same).map(|(.., outcome)| outcome.clone());
        if let Some(outcome) = done.filter(|_| !self.has(Flaw::IdsAreIgnored)) {
            return Ok(outcome);
        }
        if self.has(Flaw::IdsAreCheckedThenDone) {
            tokio::time::sleep(WINDOW).await;
        }
        let outcome = match operation {
            Operation::Put { value, condition } => self.inner.put(key, value, &condition).await?.map(Done::Written),
            Operation::Remove { condition } => self.inner.remove(key, &condition).await?.map(Done::Removed),
            Operation::Swap { old, new } => self.inner.compare_and_swap(key, old, new).await?.map(Done::Swapped),
            Operation::Increment { delta } => {
                self.inner.increment(key, delta).await?.map(|(sum, version)| Done::Sum(sum, version))
            }
        };
        if matches!(outcome, Outcome::Applied(_)) || self.has(Flaw::RejectionsAreRemembered) {
            let mut ledger = self.ledger.lock().unwrap();
            if self.has(Flaw::OnlyTheLastIdIsRemembered) {
                ledger.clear();
            }
            ledger.push((key.clone(), id.clone(), outcome.clone()));
        }
        Ok(outcome)
    }

    async fn list(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Page, Error> {
        let prefix = if self.has(Flaw::ListIgnoresThePrefix) { "" } else { prefix };
        let mut page = self.inner.list(prefix, after, limit).await?;
        match self.flaw {
            Flaw::ListRepeatsTheStart => {
                if let Some(after) = after.filter(|key| key.as_str().starts_with(prefix)) {
                    page.keys.insert(0, after.clone());
                    page.keys.truncate(limit);
                }
            }
            Flaw::ListNeverHasMore => page.more = false,
            Flaw::ListInReverse => page.keys.reverse(),
            Flaw::DeletedKeysAreListed => {
                let written = self.written.lock().unwrap();
                let matching = written.iter().filter(|k| k.as_str().starts_with(prefix) && Some(*k) > after);
                page.keys = matching.take(limit).cloned().collect();
            }
            _ => {}
        }
        Ok(page)
    }

    fn with_namespace(&self, namespace: &Namespace) -> Arc<dyn StorageAdapter> {
        let path = if self.path.is_empty() { namespace.to_string() } else { format!("{}/{namespace}", self.path) };
        let inner = match self.flaw {
            Flaw::NamespaceIsIgnored => self.inner.clone(),
            Flaw::NestedNamespacesAreJoined => self.top.with_namespace(&Namespace::new(path.as_str()).unwrap()),
            _ => self.inner.with_namespace(namespace),
        };
        Arc::new(Self {
            inner,
            flaw: self.flaw,
            path,
            top: self.top.clone(),
            written: Default::default(),
            ledger: Default::default(),
        })
    }

    async fn get_batch(&self, keys: &[Key]) -> Vec<Result<Option<Entry>, Error>> {
        let mut keys = keys.to_vec();
        if self.has(Flaw::BatchAnswersInKeyOrder) {
            keys.sort();
        }
        let mut found = Vec::new();
        for key in &keys {
            found.push(self.get(key).await);
        }
        found
    }

    async fn put_batch(&self, mut items: Vec<(Key, Value, Condition)>) -> Vec<WriteResult<Version>> {
        let mut outcomes = Vec::new();
        if items.is_empty() && self.has(Flaw::EmptyBatchHasAnAnswer) {
            outcomes.push(Ok(Outcome::Rejected(None)));
        }
        let dropped = if self.has(Flaw::BatchDropsItsLastItem) { items.pop() } else { None };
        if self.has(Flaw::FirstOfTwoItemsStands) {
            items.reverse();
        }
        for (key, value, condition) in items {
            let condition = if self.has(Flaw::BatchIgnoresItsConditions) { Condition::Any } else { condition };
            outcomes.push(self.put(&key, value, &condition).await);
        }
        if self.has(Flaw::FirstOfTwoItemsStands) {
            outcomes.reverse();
        }
        if dropped.is_some() {
            outcomes.push(Ok(Outcome::Applied(Version { revision: 1, tag: "0".to_owned() })));
        }
        outcomes
    }

    async fn compare_and_swap(
        &self,
        key: &Key,
        old: Option<Value>,
        new: Option<Value>,
    ) -> WriteResult<Option<Version>> {
        let current = self.get(key).await?;
        let text = |value: &Value| match value {
            Value::Json(json) => json.to_string().into_bytes(),
            Value::Bytes(bytes) => bytes.to_vec(),
            Value::Object(object) => object.body.to_vec(),
        };
        let same = match (self.flaw, &current, &old) {
            (Flaw::SwapIgnoresTheOldValue, _, _) => true,
            (Flaw::SwapFromNothingCantCreate, None, None) => false,
            (Flaw::SwapComparesText, Some(entry), Some(old)) => text(&entry.value) == text(old),
            (_, current, old) => current.as_ref().map(|entry| &entry.value) == old.as_ref(),
        };
        if !same {
            return Ok(Outcome::Rejected(current));
        }
        let condition = current.map_or(Condition::Absent, |entry| Condition::Version(entry.version));
        match (new, condition) {
            (Some(new), condition) => self.put(key, new, &condition).await.map(|outcome| outcome.map(Some)),
            (None, Condition::Version(_)) if self.has(Flaw::SwapToNothingKeepsTheValue) => Ok(Outcome::Applied(None)),
            (None, Condition::Version(_)) => self.delete(key).await.map(|outcome| outcome.map(|_| None)),
            (None, _) => Ok(Outcome::Applied(None)),
        }
    }

    async fn increment(&self, key: &Key, delta: Number) -> WriteResult<(Number, Version)> {
        let current = self.get(key).await?;
        let stored = current.as_ref().map(|entry| &entry.value);
        let sum = match (self.flaw, stored) {
            (Flaw::MissingNumberIsNoNumber, None) => return Err(Error::NotANumber { key: key.to_string() }),
            (Flaw::IncrementOfTextCounts, Some(Value::Json(serde_json::Value::String(text)))) => {
                brainy_storage::value::add(key, Some(&Value::Json(json!(text.parse::<i64>().unwrap()))), &delta)?
            }
            (Flaw::IncrementLosesPrecision, Some(Value::Json(serde_json::Value::Number(n)))) => {
                let sum = n.as_f64().unwrap() + delta.as_f64().unwrap();
                if sum.fract() == 0.0 { Number::from(sum as i64) } else { Number::from_f64(sum).unwrap() }
            }
            _ => brainy_storage::value::add(key, stored, &delta)?,
        };
        let condition = match current {
            _ if self.has(Flaw::IncrementReadsThenWrites) => {
                tokio::time::sleep(WINDOW).await;
                Condition::Any
            }
            Some(entry) => Condition::Version(entry.version),
            None => Condition::Absent,
        };
        match self.put(key, Value::Json(json!(sum)), &condition).await? {
            Outcome::Applied(version) => Ok(Outcome::Applied((sum, version))),
            // Clean: a suite that needs an adapter to win every race would blame sound ones.
            _ => Err(Error::Contended { key: key.to_string(), attempts: 1 }),
        }
    }
}

/// A suite that stays green against a broken adapter is a broken suite.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_broken_adapter_is_caught() {
    let mut needless = BTreeSet::new();
    let mut needed = BTreeSet::new();
    for flaw in FLAWS {
        let report = conformance::run(|| Broken::with(flaw)).await;
        assert!(!report.is_clean(), "nothing noticed that {flaw:?}");
        assert!(!report.passed.is_empty(), "{flaw:?} breaks so much that it proves nothing: {report}");
        needless.extend(report.passed);
        needed.extend(report.failed.iter().map(|(name, _)| *name));
    }
    let needless: Vec<_> = needless.difference(&needed).collect();
    assert!(needless.is_empty(), "no flaw shows that these checks can fail: {needless:?}");
}
