//! Conditional writes and compare-and-swap.

use bytes::Bytes;
use serde_json::json;

use super::{Store, Verdict, applied, ensure, holds, is_absent, key, number, read, rejected, set};
use crate::{Condition, Error, Value, Version};

pub(super) async fn must_not_exist_creates_once(store: Store) -> Verdict {
    let key = key("k")?;
    applied(store.put(&key, number(1), &Condition::Absent).await)?;
    let current = rejected(store.put(&key, number(2), &Condition::Absent).await)?;
    ensure!(current == read(&store, &key).await?, "a rejection reported {current:?}");
    holds(&store, &key, &number(1)).await?;
    applied(store.delete(&key).await)?;
    applied(store.put(&key, number(3), &Condition::Absent).await)?;
    holds(&store, &key, &number(3)).await
}

pub(super) async fn a_version_condition_holds_only_for_that_version(store: Store) -> Verdict {
    let key = key("k")?;
    let first = set(&store, &key, &number(1)).await?;
    let second = applied(store.put(&key, number(2), &Condition::Version(first.clone())).await)?;
    let current = rejected(store.put(&key, number(3), &Condition::Version(first.clone())).await)?;
    ensure!(
        current.as_ref().is_some_and(|entry| entry.version == second && entry.value == number(2)),
        "a rejection reported {current:?} instead of version {second}"
    );
    let never = Version { revision: second.revision, tag: "0123456789abcdef".to_owned() };
    rejected(store.put(&key, number(3), &Condition::Version(never)).await)?;
    holds(&store, &key, &number(2)).await?;

    applied(store.delete(&key).await)?;
    let current = rejected(store.put(&key, number(4), &Condition::Version(second)).await)?;
    ensure!(current.is_none(), "a rejection on a missing key reported {current:?}");
    is_absent(&store, &key).await
}

pub(super) async fn a_removal_under_a_stale_version_removes_nothing(store: Store) -> Verdict {
    let key = key("k")?;
    let stale = set(&store, &key, &number(1)).await?;
    let current = set(&store, &key, &number(1)).await?;
    rejected(store.remove(&key, &Condition::Version(stale.clone())).await)?;
    holds(&store, &key, &number(1)).await?;
    ensure!(applied(store.remove(&key, &Condition::Version(current.clone())).await)?, "the value was not there");
    is_absent(&store, &key).await?;
    for gone in [stale, current] {
        let found = rejected(store.remove(&key, &Condition::Version(gone)).await)?;
        ensure!(found.is_none(), "a rejection on a missing key reported {found:?}");
    }
    let absurd = store.remove(&key, &Condition::Absent).await;
    ensure!(matches!(absurd, Err(Error::Invalid { .. })), "removing what must not exist gave {absurd:?}");
    Ok(())
}

pub(super) async fn swap_compares_the_old_value(store: Store) -> Verdict {
    let key = key("k")?;
    set(&store, &key, &number(1)).await?;
    let current = rejected(store.compare_and_swap(&key, Some(number(9)), Some(number(2))).await)?;
    ensure!(current.is_some_and(|entry| entry.value == number(1)), "a rejection did not report what stands there");
    holds(&store, &key, &number(1)).await?;
    let version = applied(store.compare_and_swap(&key, Some(number(1)), Some(number(2))).await)?;
    holds(&store, &key, &number(2)).await?;
    let stands = read(&store, &key).await?.map(|entry| entry.version);
    ensure!(version == stands, "a swap reported version {version:?}, but {stands:?} stands there");
    rejected(store.compare_and_swap(&key, Some(number(1)), None).await)?;
    holds(&store, &key, &number(2)).await
}

pub(super) async fn swap_from_nothing_creates_and_to_nothing_deletes(store: Store) -> Verdict {
    let key = key("k")?;
    rejected(store.compare_and_swap(&key, Some(number(1)), Some(number(2))).await)?;
    is_absent(&store, &key).await?;
    applied(store.compare_and_swap(&key, None, None).await)?;
    is_absent(&store, &key).await?;
    applied(store.compare_and_swap(&key, None, Some(number(1))).await)?;
    holds(&store, &key, &number(1)).await?;
    rejected(store.compare_and_swap(&key, None, Some(number(2))).await)?;
    holds(&store, &key, &number(1)).await?;
    let version = applied(store.compare_and_swap(&key, Some(number(1)), None).await)?;
    ensure!(version.is_none(), "a swap to nothing reported version {version:?}");
    is_absent(&store, &key).await
}

pub(super) async fn swap_compares_by_value(store: Store) -> Verdict {
    let key = key("k")?;
    set(&store, &key, &Value::Json(json!({"a": 1, "b": [2.0, 0.1]}))).await?;
    rejected(store.compare_and_swap(&key, Some(Value::Json(json!({"a": 1}))), Some(number(0))).await)?;
    let same: serde_json::Value = serde_json::from_str(r#"{"b":[2,0.1],"a":1.0}"#).map_err(|why| why.to_string())?;
    applied(
        store
            .compare_and_swap(&key, Some(Value::Json(same)), Some(Value::Json(json!(9_007_199_254_740_993_i64))))
            .await,
    )?;
    rejected(store.compare_and_swap(&key, Some(Value::Json(json!(9_007_199_254_740_992_i64))), None).await)?;

    set(&store, &key, &Value::Bytes(Bytes::from_static(b"1"))).await?;
    rejected(store.compare_and_swap(&key, Some(number(1)), None).await)?;
    applied(store.compare_and_swap(&key, Some(Value::Bytes(Bytes::from_static(b"1"))), Some(number(1))).await)?;
    rejected(store.compare_and_swap(&key, Some(Value::Bytes(Bytes::from_static(b"1"))), None).await)?;
    holds(&store, &key, &number(1)).await
}
