//! Increment.

use bytes::Bytes;
use serde_json::{Number, json};

use super::{Store, Verdict, applied, ensure, holds, is_absent, key, number, read, set};
use crate::{Error, Value};

pub(super) async fn a_missing_number_counts_as_zero(store: Store) -> Verdict {
    let key = key("n")?;
    for (delta, expected) in [(5, "5"), (-7, "-2"), (0, "-2")] {
        let (sum, version) = applied(store.increment(&key, Number::from(delta)).await)?;
        ensure!(sum.to_string() == expected, "after {delta:+} the sum should be {expected}, but is {sum}");
        let stands = read(&store, &key).await?;
        ensure!(
            stands.as_ref().is_some_and(|entry| entry.version == version && entry.value == Value::Json(json!(sum))),
            "an increment reported {sum} at {version}, but {stands:?} stands there"
        );
    }
    let half = Number::from_f64(0.5).ok_or("0.5 is a number")?;
    let (sum, _) = applied(store.increment(&key, half).await)?;
    ensure!(sum.as_f64() == Some(-1.5), "-2 + 0.5 gave {sum}");
    Ok(())
}

pub(super) async fn only_numbers_are_incremented(store: Store) -> Verdict {
    let key = key("n")?;
    let others = [json!(null), json!("1"), json!(true), json!([1]), json!({"n": 1})];
    let others = others.map(Value::Json).into_iter().chain([Value::Bytes(Bytes::from_static(b"1"))]);
    for value in others {
        let version = set(&store, &key, &value).await?;
        let result = store.increment(&key, Number::from(1)).await;
        ensure!(matches!(result, Err(Error::NotANumber { .. })), "incrementing {value:?} gave {result:?}");
        let stands = read(&store, &key).await?.map(|entry| entry.version);
        ensure!(stands == Some(version), "a refused increment of {value:?} changed it");
    }
    Ok(())
}

pub(super) async fn an_overflow_changes_nothing(store: Store) -> Verdict {
    let key = key("n")?;
    let largest = Value::Json(json!(u64::MAX));
    set(&store, &key, &largest).await?;
    let result = store.increment(&key, Number::from(1)).await;
    ensure!(matches!(result, Err(Error::Invalid { .. })), "an overflow gave {result:?}");
    holds(&store, &key, &largest).await?;
    applied(store.delete(&key).await)?;
    is_absent(&store, &key).await?;
    set(&store, &key, &number(9_007_199_254_740_992)).await?;
    applied(store.increment(&key, Number::from(1)).await)?;
    holds(&store, &key, &number(9_007_199_254_740_993)).await
}
