//! What is said of the operations on a store.

use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use brainy_storage::backends::memory::MemoryAdapter;
use brainy_storage::layers::observing::{Observing, OperationKind, Recorder, Tally};
use brainy_storage::{Condition, Key, Namespace, Operation, OperationId, Request, Requests, StorageAdapter, Value};
use serde_json::json;
use tracing::Level;

use crate::store::{LONG, Slow, number};

/// Writes everything down.
#[derive(Debug, Default)]
pub(crate) struct Book(Mutex<Vec<(OperationKind, Tally)>>);

impl Recorder for Book {
    fn record(&self, operation: OperationKind, tally: Tally, _took: Duration) {
        self.0.lock().unwrap().push((operation, tally));
    }
}

impl Book {
    fn over(self: &Arc<Self>, store: Arc<dyn StorageAdapter>) -> Arc<dyn StorageAdapter> {
        Observing::new("test", Arc::clone(self) as _).over(store)
    }

    /// What was written since the last time.
    fn read(&self) -> Vec<(OperationKind, Tally)> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

fn name(key: &str) -> Key {
    Key::new(key).unwrap()
}

fn add(id: Option<&str>) -> Request {
    let id = id.map(|id| OperationId::new(id).unwrap());
    Request { operation: Operation::Increment { delta: 1.into() }, id }
}

const NOTHING: Tally = Tally { success: 0, rejected: 0, unknown: 0, failed: 0 };
const SUCCESS: Tally = Tally { success: 1, ..NOTHING };

#[tokio::test]
async fn each_operation_is_recorded_once_and_by_its_name() {
    let book = Arc::new(Book::default());
    let outer = book.over(Arc::new(MemoryAdapter::new()));
    for store in [outer.with_namespace(&Namespace::new("n").unwrap()), outer] {
        let key = name("k");
        store.set(&key, number(1)).await.unwrap().applied().unwrap();
        store.get(&key).await.unwrap().unwrap();
        store.get(&name("nothing")).await.unwrap();
        store.increment(&key, 1.into()).await.unwrap().applied().unwrap();
        store.compare_and_swap(&key, Some(number(2)), Some(number(3))).await.unwrap().applied().unwrap();
        let (once, id) = (Operation::Increment { delta: 1.into() }, OperationId::new("once").unwrap());
        store.perform_once(&key, once, &id).await.unwrap().applied().unwrap();
        let requests = [add(None), add(Some("a")), add(Some("a"))];
        for portion in Requests::portions(requests) {
            store.perform(&key, portion).await;
        }
        store.list("", None, 10).await.unwrap();
        store.get_batch(&[name("k"), name("nothing")]).await;
        let _written = store.set_batch(vec![(name("a"), number(1)), (name("b"), number(1))]).await;
        store.delete(&key).await.unwrap().applied().unwrap();
        let two = Tally { success: 2, ..NOTHING };
        let expected = [
            (OperationKind::Set, SUCCESS),
            (OperationKind::Get, SUCCESS),
            (OperationKind::Get, SUCCESS),
            (OperationKind::Increment, SUCCESS),
            (OperationKind::CompareAndSwap, SUCCESS),
            (OperationKind::Increment, SUCCESS),
            (OperationKind::Perform, Tally { success: 3, ..NOTHING }),
            (OperationKind::List, SUCCESS),
            (OperationKind::GetBatch, two),
            (OperationKind::SetBatch, two),
            (OperationKind::Delete, SUCCESS),
        ];
        assert_eq!(book.read(), expected);
    }
}

#[test]
fn operations_are_counted_in_the_order_of_the_list() {
    for (at, operation) in OperationKind::ALL.into_iter().enumerate() {
        assert_eq!(operation as usize, at, "{operation:?}");
    }
}

#[tokio::test]
async fn what_is_rejected_unknown_or_failed_is_recorded_as_that() {
    let (book, slow) = (Arc::new(Book::default()), Arc::new(Slow::new()));
    let store = book.over(Arc::clone(&slow) as _);
    let key = name("k");
    let _applied = store.put(&key, number(1), &Condition::Absent).await;
    let _rejected = store.put(&key, number(1), &Condition::Absent).await;
    *slow.broken.lock().unwrap() = Some(name("broken"));
    let items = ["a", "broken", "b"].map(|key| (name(key), number(1)));
    let _some = store.set_batch(items.to_vec()).await;
    slow.lose_answers.store(true, Ordering::SeqCst);
    let _unknown = store.set(&key, number(2)).await;
    let _not_a_number = store.increment(&name("text"), 1.into()).await;
    let expected = [
        (OperationKind::Set, SUCCESS),
        (OperationKind::Set, Tally { rejected: 1, ..NOTHING }),
        (OperationKind::SetBatch, Tally { success: 2, failed: 1, ..NOTHING }),
        (OperationKind::Set, Tally { unknown: 1, ..NOTHING }),
        (OperationKind::Increment, Tally { unknown: 1, ..NOTHING }),
    ];
    assert_eq!(book.read(), expected);
}

#[tokio::test]
async fn what_is_given_up_has_failed_if_it_reads_and_is_unknown_if_it_writes() {
    let (book, slow) = (Arc::new(Book::default()), Arc::new(Slow::new()));
    let store = book.over(Arc::clone(&slow) as _);
    slow.hold_reads.store(true, Ordering::SeqCst);
    slow.hold_writes.store(true, Ordering::SeqCst);
    let keys = [name("a"), name("b")];
    let reads = tokio::spawn({
        let (store, keys) = (Arc::clone(&store), keys.clone());
        async move { drop(store.get_batch(&keys).await) }
    });
    let writes = tokio::spawn(async move {
        drop(store.set_batch(keys.map(|key| (key, number(1))).to_vec()).await);
    });
    for task in [reads, writes] {
        tokio::time::timeout(LONG, slow.looked.acquire()).await.expect("nobody comes").unwrap().forget();
        task.abort();
        assert!(task.await.is_err());
    }
    let expected = [
        (OperationKind::GetBatch, Tally { failed: 2, ..NOTHING }),
        (OperationKind::SetBatch, Tally { unknown: 2, ..NOTHING }),
    ];
    assert_eq!(book.read(), expected);
}

/// What is logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(text);
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What is logged up to a level while a store is used.
async fn logged(level: Level) -> String {
    let log = Log::default();
    let writer = log.clone();
    let lines = tracing_subscriber::fmt().with_max_level(level).with_ansi(false);
    let subscriber = lines.with_writer(move || writer.clone()).finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let store = Arc::new(Book::default()).over(Arc::new(MemoryAdapter::new()));
    let (key, value) = (name("the-key"), Value::Json(json!("the-value")));
    store.set(&key, value.clone()).await.unwrap().applied().unwrap();
    store.compare_and_swap(&key, Some(value.clone()), Some(value)).await.unwrap().applied().unwrap();
    store.get(&key).await.unwrap().unwrap();
    store.list("the-k", None, 1).await.unwrap();
    let _rejected = store.put(&key, Value::Json(json!("the-value")), &Condition::Absent).await;
    let text = log.0.lock().unwrap().clone();
    String::from_utf8(text).unwrap()
}

#[tokio::test]
async fn a_key_is_logged_at_debug_only_and_a_value_never() {
    assert_eq!(logged(Level::INFO).await, "");
    for level in [Level::DEBUG, Level::TRACE] {
        let text = logged(level).await;
        for part in ["backend=\"test\"", "operation=\"compareAndSwap\"", "key=\"the-key\"", "rejected=1"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!text.contains("the-value"), "{text}");
    }
}
