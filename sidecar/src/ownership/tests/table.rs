use std::sync::Arc;
use std::time::Duration;

use brainy_coordination::clock::Validity;
use brainy_coordination::{FencingToken, NodeId, ShardId};
use brainy_storage::backends::memory::MemoryAdapter;
use brainy_storage::layers::batching::{Ack, Batching, BufferCounts};
use brainy_storage::layers::caching::CacheSize;
use brainy_storage::layers::{LayerStack, Layers};
use brainy_storage::{Key, StorageAdapter, Value};

use super::super::table::Table;
use super::super::{AskError, MOST_WISHES, Operation, Place, ShardState};

const SHARD: ShardId = ShardId(1);

fn serving(session: &Validity) -> Arc<Table> {
    let layers = Layers { caching: Some(CacheSize::default()), ..Layers::default() };
    let table = Table::new(NodeId("a".into()), 4, LayerStack::new(layers));
    table.learn_session(Some(session.clone()));
    table.serve(SHARD, FencingToken(7), Arc::new(MemoryAdapter::new()), session.clone());
    table
}

fn here(table: &Table) -> Option<Operation> {
    match table.place(SHARD) {
        Place::Here(operation) => Some(operation),
        _ => None,
    }
}

#[tokio::test]
async fn an_operation_in_flight_may_end_after_the_shard_has_stopped_and_the_tenure_waits_for_it() {
    let table = serving(&Validity::unbounded());
    let operation = here(&table).unwrap();
    let tenure = table.stop(SHARD, "moving").unwrap();
    assert!(here(&table).is_none(), "nothing more is let in");
    assert!(operation.still_valid(), "what was let in may be acknowledged");
    let ending = tokio::spawn(async move { tenure.end(Duration::from_secs(3600)).await });
    tokio::task::yield_now().await;
    assert!(!ending.is_finished());
    drop(operation);
    ending.await.unwrap();
}

#[tokio::test]
async fn an_operation_that_outstays_its_tenure_is_not_acknowledged() {
    let table = serving(&Validity::unbounded());
    let operation = here(&table).unwrap();
    table.stop(SHARD, "moving").unwrap().end(Duration::from_millis(1)).await;
    assert!(!operation.still_valid());
}

/// Under way when the map raises the token (a move that was withdrawn), and still when the shard moves after all.
#[tokio::test]
async fn an_operation_that_began_under_the_tenure_before_is_waited_for_and_not_acknowledged_too_late() {
    for patience in [Duration::from_secs(3600), Duration::from_millis(1)] {
        let session = Validity::unbounded();
        let table = serving(&session);
        let operation = here(&table).unwrap();
        table.serve(SHARD, FencingToken(8), Arc::new(MemoryAdapter::new()), session);
        assert!(operation.still_valid());
        let tenure = table.stop(SHARD, "moving").unwrap();
        let ending = tokio::spawn(async move { tenure.end(patience).await });
        if patience > Duration::from_secs(1) {
            tokio::task::yield_now().await;
            assert!(!ending.is_finished());
            drop(operation);
            ending.await.unwrap();
        } else {
            ending.await.unwrap();
            assert!(!operation.still_valid());
        }
    }
}

#[test]
fn nothing_is_let_in_or_acknowledged_once_the_session_is_over() {
    let session = Validity::unbounded();
    let table = serving(&session);
    let operation = here(&table).unwrap();
    session.end();
    assert!(!operation.still_valid());
    assert!(here(&table).is_none());
    assert_eq!(table.describe(SHARD).state, ShardState::Unassigned, "no map gives it to anyone");
    assert_eq!(table.status().held, 0);
}

/// A table whose writes are acknowledged before they are durable, its storage, and a key with an acknowledged value.
async fn buffering(session: &Validity) -> (Arc<Table>, MemoryAdapter, Key) {
    let batching = Batching { max_delay_ms: 3_600_000, ack: Ack::Buffered, ..Batching::default() };
    let layers = Layers { batching: Some(batching), ..Layers::default() };
    let (table, store) = (Table::new(NodeId("a".into()), 4, LayerStack::new(layers)), MemoryAdapter::new());
    table.learn_session(Some(session.clone()));
    table.serve(SHARD, FencingToken(7), Arc::new(store.clone()), session.clone());
    let key = Key::new("k").unwrap();
    write(&table, &key, 1).await;
    (table, store, key)
}

async fn write(table: &Table, key: &Key, value: i64) {
    let operation = here(table).unwrap();
    operation.storage().set(key, Value::Json(value.into())).await.unwrap().applied().unwrap();
}

async fn stored(store: &MemoryAdapter, key: &Key) -> Option<Value> {
    store.get(key).await.unwrap().map(|entry| entry.value)
}

#[tokio::test]
async fn a_tenure_that_ends_in_order_makes_durable_what_was_acknowledged() {
    let (table, store, key) = buffering(&Validity::unbounded()).await;
    assert_eq!(stored(&store, &key).await, None);
    assert!(table.stop(SHARD, "moving").unwrap().end(Duration::from_secs(60)).await);
    assert_eq!(stored(&store, &key).await, Some(Value::Json(1.into())));
}

#[tokio::test]
async fn a_shard_that_was_stopped_and_is_served_again_knows_what_was_acknowledged() {
    let session = Validity::unbounded();
    let (table, store, key) = buffering(&session).await;
    table.stop(SHARD, "moving");
    table.serve(SHARD, FencingToken(7), Arc::new(store.clone()), session);
    let operation = here(&table).unwrap();
    assert_eq!(operation.storage().get(&key).await.unwrap().unwrap().value, Value::Json(1.into()));
}

#[tokio::test]
async fn nothing_is_written_under_a_session_that_is_over_or_by_a_tenure_that_was_given_up() {
    for lapses in [true, false] {
        let session = Validity::unbounded();
        let (table, store, key) = buffering(&session).await;
        let tenure = table.stop(SHARD, "lapsed").unwrap();
        if lapses {
            session.end();
        } else {
            tenure.give_up();
        }
        assert!(tenure.end(Duration::from_secs(60)).await, "there is nothing more to wait for");
        assert_eq!(stored(&store, &key).await, None);
        assert_eq!(table.buffer_counts(), Some(BufferCounts { waiting: 0, lost: 1 }));
        // A later tenure begins with what the store has.
        table.rest(SHARD, None);
        table.serve(SHARD, FencingToken(8), Arc::new(store.clone()), Validity::unbounded());
        let operation = here(&table).unwrap();
        assert_eq!(operation.storage().get(&key).await.unwrap(), None);
    }
}

#[test]
fn a_change_between_asking_for_it_and_waiting_for_it_is_not_missed() {
    let table = serving(&Validity::unbounded());
    let changes = table.changes();
    table.stop(SHARD, "moving");
    assert!(changes.has_changed().unwrap());
}

#[test]
fn watchers_see_each_change_with_its_reason() {
    let table = serving(&Validity::unbounded());
    let mut views = table.watch();
    table.stop(SHARD, "moving");
    let view = views.try_recv().unwrap();
    assert_eq!((view.shard, view.state, view.why.as_deref()), (SHARD, ShardState::Stopping, Some("moving")));
    assert_eq!(view.token, FencingToken(7));
}

#[tokio::test]
async fn what_an_operation_of_the_tenure_before_writes_is_seen_through_the_cache() {
    let (store, session) = (MemoryAdapter::new(), Validity::unbounded());
    let layers = Layers { caching: Some(CacheSize::default()), ..Layers::default() };
    let table = Table::new(NodeId("a".into()), 4, LayerStack::new(layers));
    table.learn_session(Some(session.clone()));
    let (key, number) = (Key::new("k").unwrap(), |n: i64| Value::Json(n.into()));
    table.serve(SHARD, FencingToken(7), Arc::new(store.clone()), session.clone());
    let before = here(&table).unwrap();
    // The map has raised the token; the operation in flight is still good.
    table.serve(SHARD, FencingToken(8), Arc::new(store), session);
    let after = here(&table).unwrap();
    assert_eq!(after.storage().get(&key).await.unwrap(), None);
    before.storage().set(&key, number(1)).await.unwrap().applied().unwrap();
    assert!(before.still_valid());
    assert_eq!(after.storage().get(&key).await.unwrap().unwrap().value, number(1));
}

#[tokio::test]
async fn wishes_that_a_session_could_not_carry_are_refused_as_a_whole() {
    let table = Table::new(NodeId("a".into()), 10_000, LayerStack::new(Layers::default()));
    let most = u32::try_from(MOST_WISHES).unwrap();
    let changed = table.changes();
    table.ask(|requests| (0..most).for_each(|at| requests.release(ShardId(2 * at)))).unwrap();
    assert!(changed.has_changed().unwrap(), "the session hears of it");
    let before = table.requests();
    assert_eq!(table.ask(|requests| requests.acquire(ShardId(1))), Err(AskError::TooMany));
    assert_eq!(table.requests(), before);
    table.ask(|requests| requests.acquire(ShardId(2))).unwrap();
    // Beside what else is in the annotations of an object, which may have 256 KiB together.
    assert!(serde_json::to_string(&table.requests()).unwrap().len() < 64 << 10);
}
