//! Reading and writing.

use std::collections::HashSet;

use bytes::Bytes;
use serde_json::json;

use super::{Store, Verdict, applied, ensure, holds, is_absent, key, nasty_keys, number, set, too_long};
use crate::object::Head;
use crate::{Object, Outcome, Value};

pub(super) async fn every_kind_of_value_comes_back(store: Store) -> Verdict {
    let key = key("k")?;
    is_absent(&store, &key).await?;
    let values = [
        Value::Json(json!({"name": "Ada", "tags": ["a", {"b": null}], "n": 1.5})),
        Value::Json(json!([1, 2, 3])),
        Value::Json(json!("text with \"quotes\",\nlines and \u{1F600}")),
        Value::Json(json!(i64::MIN)),
        Value::Json(json!(u64::MAX)),
        Value::Json(json!(0.1)),
        Value::Json(json!(true)),
        Value::Bytes(Bytes::from_static(b"\x00\xff\n\r{}")),
        Value::Bytes(Bytes::from(vec![7; 300_000])),
        Value::Object(Object::whole(Head { etag: "0".to_owned(), ..Head::default() }, Bytes::new())),
        Value::Object(Object::whole(Head { size: 300_000, ..Head::default() }, vec![7; 300_000].into())),
    ];
    for value in values {
        set(&store, &key, &value).await?;
    }
    Ok(())
}

pub(super) async fn what_looks_like_nothing_is_a_value(store: Store) -> Verdict {
    let nothings = [
        Value::Json(json!(0)),
        Value::Json(json!("")),
        Value::Json(json!(false)),
        Value::Json(json!(null)),
        Value::Json(json!([])),
        Value::Json(json!({})),
        Value::Bytes(Bytes::new()),
    ];
    for (n, value) in nothings.iter().enumerate() {
        let key = key(&format!("nothing-{n}"))?;
        set(&store, &key, value).await?;
        // Each is also unequal to "no value" where it is compared, and takes part in batches and listings.
        let swapped = store.compare_and_swap(&key, None, Some(number(1))).await;
        ensure!(matches!(swapped, Ok(Outcome::Rejected(Some(_)))), "{value:?} was taken for no value: {swapped:?}");
        let batch = store.get_batch(std::slice::from_ref(&key)).await;
        ensure!(matches!(batch.as_slice(), [Ok(Some(_))]), "{value:?} was taken for no value: {batch:?}");
    }
    let page = store.list("nothing-", None, 100).await.map_err(|why| why.to_string())?;
    ensure!(page.keys.len() == nothings.len(), "{} values are listed as {:?}", nothings.len(), page.keys);
    for (n, value) in nothings.iter().enumerate() {
        let removed = applied(store.delete(&key(&format!("nothing-{n}"))?).await)?;
        ensure!(removed, "{value:?} was not there to be deleted");
    }
    Ok(())
}

pub(super) async fn a_deleted_key_is_gone_and_can_come_back(store: Store) -> Verdict {
    let key = key("k")?;
    ensure!(!applied(store.delete(&key).await)?, "deleting a key that never was reported that it was there");
    let first = set(&store, &key, &number(1)).await?;
    ensure!(applied(store.delete(&key).await)?, "deleting a key reported that it was not there");
    is_absent(&store, &key).await?;
    ensure!(!applied(store.delete(&key).await)?, "deleting a key twice reported twice that it was there");
    let second = set(&store, &key, &number(1)).await?;
    ensure!(first != second, "the version {first} came back after a deletion (R5)");
    Ok(())
}

pub(super) async fn every_key_is_a_key_of_its_own(store: Store) -> Verdict {
    let mut keys = nasty_keys();
    keys.push("\u{1F600}".repeat(256));
    keys.push("k".repeat(1024));
    let mut written = Vec::new();
    for (n, text) in keys.iter().enumerate() {
        let key = key(text)?;
        let value = Value::Json(json!(n));
        match store.set(&key, value.clone()).await {
            Err(error) if text.len() > 256 && too_long(&error) => {}
            result => {
                applied(result).map_err(|why| format!("key {text:?}: {why}"))?;
                written.push((key, value));
            }
        }
    }
    for (key, value) in &written {
        holds(&store, key, value).await?;
    }
    for (n, (key, _)) in written.iter().enumerate() {
        ensure!(applied(store.delete(key).await)?, "{key:?} was not there to be deleted");
        if let Some((next, value)) = written.get(n + 1) {
            holds(&store, next, value).await?;
        }
    }
    Ok(())
}

pub(super) async fn a_version_never_repeats(store: Store) -> Verdict {
    let key = key("k")?;
    let mut seen = HashSet::new();
    let mut last_revision = 0;
    for n in [1, 2, 1, 1, 2, 1] {
        let version = set(&store, &key, &number(n)).await?;
        ensure!(version.revision > last_revision, "revision {} follows {last_revision}", version.revision);
        last_revision = version.revision;
        let text = version.to_string();
        let read_back = text.parse().map_err(|why| format!("{text} is no version: {why}"))?;
        ensure!(version == read_back, "{version:?} reads back as {read_back:?}");
        ensure!(seen.insert(version.tag), "the tag of {text} has been there before (R5)");
    }
    Ok(())
}
