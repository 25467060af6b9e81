//! Operations with an id.

use std::sync::Arc;

use futures::future::join_all;
use serde_json::Number;

use super::{Store, Verdict, applied, ensure, holds, key, number, rejected, set};
use crate::operation::Performed;
use crate::{Condition, Done, Error, Key, Namespace, Operation, OperationId, Value};

fn id(text: &str) -> Result<OperationId, String> {
    OperationId::new(text).map_err(|why| why.to_string())
}

fn add(delta: i64) -> Operation {
    Operation::Increment { delta: delta.into() }
}

async fn add_once(store: &Store, key: &Key, delta: i64, id: &OperationId) -> Result<Number, String> {
    match applied(store.perform_once(key, add(delta), id).await)? {
        Done::Sum(sum, _) => Ok(sum),
        other => Err(format!("an increment was answered with {other:?}")),
    }
}

pub(super) async fn an_operation_with_an_id_is_done_once(store: Store) -> Verdict {
    let key = key("n")?;
    let (first, second) = (id("first")?, id("second")?);
    for _ in 0..3 {
        let sum = add_once(&store, &key, 5, &first).await?;
        ensure!(sum == Number::from(5), "asked for again, the sum is {sum}");
    }
    let sum = add_once(&store, &key, 5, &second).await?;
    ensure!(sum == Number::from(10), "another id is another operation, but the sum is {sum}");
    let sum = add_once(&store, &key, 5, &first).await?;
    ensure!(sum == Number::from(5), "the first answer is to be given again, but the sum is {sum}");
    holds(&store, &key, &number(10)).await
}

pub(super) async fn an_operation_asked_for_again_changes_nothing_that_came_later(store: Store) -> Verdict {
    let (key, put, swap) = (key("a")?, id("put")?, id("swap")?);
    let create = || Operation::Put { value: number(1), condition: Condition::Absent };
    let written = applied(store.perform_once(&key, create(), &put).await)?;
    ensure!(matches!(written, Done::Written(_)), "a put was answered with {written:?}");
    let exchange = || Operation::Swap { old: Some(number(1)), new: Some(number(2)) };
    let swapped = applied(store.perform_once(&key, exchange(), &swap).await)?;
    ensure!(matches!(swapped, Done::Swapped(Some(_))), "a swap was answered with {swapped:?}");
    // Each in its own way of writing: none of them may lose what the value remembers.
    set(&store, &key, &number(3)).await?;
    let version = set(&store, &key, &number(4)).await?;
    applied(store.put(&key, number(5), &Condition::Version(version)).await)?;
    applied(store.compare_and_swap(&key, Some(number(5)), Some(number(6))).await)?;
    applied(store.increment(&key, 1.into()).await)?;
    for outcome in store.set_batch(vec![(key.clone(), number(8)), (key.clone(), number(9))]).await {
        applied(outcome)?;
    }
    for (operation, id) in [(create(), &put), (exchange(), &swap)] {
        let again = applied(store.perform_once(&key, operation, id).await)?;
        let same = match (&again, &written, &swapped) {
            (Done::Written(again), Done::Written(first), _) => again.revision == first.revision,
            (Done::Swapped(Some(again)), _, Done::Swapped(Some(first))) => again.revision == first.revision,
            _ => false,
        };
        ensure!(same, "{id}, asked for again, was answered with {again:?}");
        holds(&store, &key, &number(9)).await?;
    }
    Ok(())
}

pub(super) async fn what_was_not_done_is_not_remembered(store: Store) -> Verdict {
    let (key, id) = (key("a")?, id("a")?);
    let operation = || Operation::Put { value: number(2), condition: Condition::Absent };
    set(&store, &key, &number(1)).await?;
    let stands = rejected(store.perform_once(&key, operation(), &id).await)?;
    ensure!(stands.is_some_and(|entry| entry.value == number(1)), "a rejection must tell what stands there");
    applied(store.delete(&key).await)?;
    applied(store.perform_once(&key, operation(), &id).await)?;
    holds(&store, &key, &number(2)).await
}

pub(super) async fn an_id_belongs_to_one_request_of_one_key(store: Store) -> Verdict {
    let (here, there, id) = (key("here")?, key("there")?, id("a")?);
    let inside = store.with_namespace(&Namespace::new("inside").map_err(|why| why.to_string())?);
    for (store, key) in [(&store, &here), (&store, &there), (&inside, &here)] {
        let sum = add_once(store, key, 1, &id).await?;
        ensure!(sum == Number::from(1), "an id of another key counts for {key:?}: the sum is {sum}");
    }
    let other = store.perform_once(&here, add(2), &id).await;
    ensure!(matches!(other, Err(Error::Invalid { .. })), "another request with the same id gave {other:?}");
    let removal = Operation::Swap { old: Some(number(1)), new: None };
    let removal = store.perform_once(&here, removal, &self::id("b")?).await;
    ensure!(matches!(removal, Err(Error::Invalid { .. })), "a removal with an id gave {removal:?}");
    holds(&store, &here, &number(1)).await
}

pub(super) async fn of_an_operation_sent_many_times_at_once_one_takes_effect(store: Store) -> Verdict {
    let key = Arc::new(key("n")?);
    let mut senders = Vec::new();
    for sender in 0..24 {
        let (store, key, id) = (Arc::clone(&store), Arc::clone(&key), id(&format!("operation-{}", sender % 3))?);
        senders.push(tokio::spawn(async move {
            // Other writers are a reason to try again, as for any client.
            loop {
                match store.perform_once(&key, add(1), &id).await {
                    Err(Error::Contended { .. }) => {}
                    other => return other,
                }
            }
        }));
    }
    for outcome in join_all(senders).await {
        applied(outcome.map_err(|why| why.to_string())?)?;
    }
    holds(&store, &key, &number(3)).await
}

pub(super) async fn a_value_remembers_so_many_operations(store: Store) -> Verdict {
    let key = key("n")?;
    for n in 0..Performed::MOST {
        add_once(&store, &key, 1, &id(&format!("operation-{n}"))?).await?;
    }
    let sum = add_once(&store, &key, 1, &id("operation-0")?).await?;
    ensure!(sum == Number::from(1), "the oldest of {} operations is forgotten: the sum is {sum}", Performed::MOST);
    holds(&store, &key, &Value::Json(Performed::MOST.into())).await
}
