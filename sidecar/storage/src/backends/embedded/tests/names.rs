//! Keys of many stores listed together: always what they give one by one.

use std::collections::BTreeSet;

use super::*;
use crate::Page;
use crate::backends::stored::StoredFile;
use crate::envelope::{Trail, new_nonce, seal};

/// Names that are hard to keep apart, and prefixes of them.
const TEXTS: [&str; 8] = ["a", "a\0", "a\0\0b", "a\u{1}", "ab", "b", "b/c", "\u{10ffff}"];
const STORES: usize = 4;

fn stores(database: &EmbeddedDatabase, space: Option<&str>) -> Vec<Arc<dyn StorageAdapter>> {
    let store = |n| -> Arc<dyn StorageAdapter> {
        let store = database.store(&format!("shard-{n}")).unwrap();
        match space {
            Some(space) => store.with_namespace(&Namespace::new(space).unwrap()),
            None => Arc::new(store),
        }
    };
    (0..STORES).map(store).collect()
}

async fn together(stores: &[Arc<dyn StorageAdapter>], prefix: &str, after: Option<&Key>, limit: usize) -> Option<Page> {
    stores[0].list_with(&stores[1..], prefix, after, limit).await.unwrap()
}

/// The same by asking each.
async fn apart(stores: &[Arc<dyn StorageAdapter>], prefix: &str, after: Option<&Key>, limit: usize) -> Page {
    let mut keys = BTreeSet::new();
    for store in stores {
        keys.extend(store.list(prefix, after, usize::MAX).await.unwrap().keys);
    }
    Page { more: keys.len() > limit, keys: keys.into_iter().take(limit).collect() }
}

/// All pages of all listings, of all stores and of some.
async fn assert_same(database: &EmbeddedDatabase) {
    for space in [None, Some("a"), Some("a\0")] {
        let stores = stores(database, space);
        for asked in [&stores[..], &stores[1..3], &stores[..1]] {
            for prefix in std::iter::once("").chain(TEXTS) {
                for after in std::iter::once(None).chain(TEXTS.map(Some)) {
                    let after = after.map(key);
                    for limit in [1, 3, 100] {
                        let found = together(asked, prefix, after.as_ref(), limit).await;
                        let expected = apart(asked, prefix, after.as_ref(), limit).await;
                        assert_eq!(found, Some(expected), "{space:?} {prefix:?} {after:?} {limit}");
                    }
                }
            }
        }
    }
}

/// Waits until all is named.
async fn named(database: &EmbeddedDatabase) {
    for _ in 0..3000 {
        if database.inner.engine.has_named_all() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("not all is named");
}

/// How many names there are.
fn names(database: &EmbeddedDatabase) -> usize {
    let engine = &database.inner.engine;
    let snapshot = engine.snapshot();
    engine.keys(&snapshot, b"n", std::ops::Bound::Included(b"n".to_vec())).count()
}

/// Keys that come, go, come again and are replaced, each in its own store.
async fn fill(database: &EmbeddedDatabase) {
    for space in [None, Some("a"), Some("a\0")] {
        let stores = stores(database, space);
        for (n, text) in TEXTS.iter().enumerate() {
            let (store, key) = (&stores[n % STORES], key(text));
            let _ = store.set(&key, number(1)).await.unwrap();
            if n % 3 > 0 {
                let _ = store.delete(&key).await.unwrap();
            }
            if n % 3 > 1 {
                // Both in one round, as it may be.
                let batch = vec![(key.clone(), number(2)), (key.clone(), number(3))];
                drop(store.set_batch(batch).await);
            }
        }
    }
}

#[tokio::test]
async fn stores_listed_together_are_what_they_are_one_by_one() {
    let folder = tempfile::tempdir().unwrap();
    let database = EmbeddedDatabase::open(folder.path()).unwrap();
    assert_same(&database).await;
    fill(&database).await;
    assert_same(&database).await;

    // One is replaced by what is received, and one is removed.
    let import = database.import("shard-1").await.unwrap();
    let file = |text: &str| {
        let content = seal(&key(text), 1, &new_nonce(), &number(1), &Trail::default(), None).unwrap();
        StoredFile { path: format!("kv/{text}"), content }
    };
    import.write(["new", "gone", "b"].map(file).to_vec()).await.unwrap();
    import.remove(vec!["kv/gone".to_owned()]).await.unwrap();
    import.finish(None).await.unwrap();
    database.destroy("shard-2").await.unwrap();
    assert_same(&database).await;
    let audit = cleaned(&database).await;
    assert_eq!(names(&database) as u64, audit.keys as u64, "each key has one name, and no other is left");

    drop(database);
    let database = EmbeddedDatabase::open(folder.path()).unwrap();
    assert_same(&database).await;
}

#[tokio::test]
async fn a_listing_together_fails_where_one_of_its_stores_was_removed() {
    let folder = tempfile::tempdir().unwrap();
    let database = EmbeddedDatabase::open(folder.path()).unwrap();
    fill(&database).await;
    let stores = stores(&database, None);
    database.destroy("shard-3").await.unwrap();
    assert_eq!(cause(stores[0].list_with(&stores[1..], "", None, 10).await), "Removed");
}

#[tokio::test]
async fn stores_of_two_databases_or_of_two_namespaces_are_not_listed_together() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let databases = folders.each_ref().map(|folder| EmbeddedDatabase::open(folder.path()).unwrap());
    let [one, other] = databases.each_ref().map(|database| stores(database, None)[0].clone());
    assert_eq!(one.list_with(&[other], "", None, 10).await.unwrap(), None);
    let within = stores(&databases[0], Some("a"));
    assert_eq!(one.list_with(&within[1..], "", None, 10).await.unwrap(), None);
}

#[tokio::test]
async fn too_many_keys_of_others_are_not_passed_over() {
    let folder = tempfile::tempdir().unwrap();
    let database = EmbeddedDatabase::open(folder.path()).unwrap();
    let stores = stores(&database, None);
    let many = (0..5000).map(|n| (key(&format!("k{n}")), number(n))).collect();
    assert!(stores[0].set_batch(many).await.iter().all(Result::is_ok));
    let _ = stores[1].set(&key("l"), number(1)).await.unwrap();
    assert_eq!(together(&stores[1..], "", None, 10).await, None);
    assert_eq!(together(&stores[1..], "l", None, 10).await, Some(apart(&stores[1..], "l", None, 10).await));
    assert_eq!(together(&stores, "", None, 10).await, Some(apart(&stores, "", None, 10).await));
}

/// The database as a program left it that named no keys.
fn forget_names(folder: &Path) {
    {
        let engine = Engine::open(folder).unwrap();
        let snapshot = engine.snapshot();
        let names = engine.keys(&snapshot, b"n", std::ops::Bound::Included(b"n".to_vec()));
        let gone: Vec<_> = names.map(|name| (name.unwrap(), None)).collect();
        drop(snapshot);
        engine.commit(gone, Durable::Now).unwrap();
        engine.commit(vec![(layout::NAMED.to_vec(), None)], Durable::Now).unwrap();
    }
    std::fs::write(folder.join("format.json"), br#"{"engine":"fjall","format":1}"#).unwrap();
}

/// Such a database, with some thousand keys.
async fn without_names(folder: &Path) {
    {
        let database = EmbeddedDatabase::open(folder).unwrap();
        fill(&database).await;
        let many = (0..3000).map(|n| (key(&format!("k{n}")), number(n))).collect();
        assert!(database.store("shard-0").unwrap().set_batch(many).await.iter().all(Result::is_ok));
    }
    forget_names(folder);
}

#[tokio::test]
async fn what_has_no_names_gets_them_while_it_is_in_use() {
    let folder = tempfile::tempdir().unwrap();
    without_names(folder.path()).await;
    let database = EmbeddedDatabase::open(folder.path()).unwrap();
    let format = std::fs::read(folder.path().join("format.json")).unwrap();
    assert!(String::from_utf8(format).unwrap().contains(r#""format":2"#), "earlier programs keep away");
    let all = stores(&database, None);
    for n in 0..3000 {
        let (store, name) = (&all[0], key(&format!("k{n}")));
        match n % 3 {
            0 => drop(store.delete(&name).await.unwrap()),
            1 => drop(store.set(&name, number(0)).await.unwrap()),
            _ => drop(store.set(&key(&format!("later{n}")), number(0)).await.unwrap()),
        }
    }
    named(&database).await;
    assert_same(&database).await;
    let audit = cleaned(&database).await;
    assert_eq!(names(&database) as u64, audit.keys as u64, "each key has one name, and no other is left");
    assert_eq!(together(&all, "", None, 10_000).await, Some(apart(&all, "", None, 10_000).await));
}

#[tokio::test]
async fn naming_that_was_cut_short_begins_again() {
    let folder = tempfile::tempdir().unwrap();
    without_names(folder.path()).await;
    // Closed at once, wherever it is.
    for _ in 0..3 {
        drop(EmbeddedDatabase::open(folder.path()).unwrap());
    }
    let database = EmbeddedDatabase::open(folder.path()).unwrap();
    named(&database).await;
    let all = stores(&database, None);
    assert_eq!(together(&all, "", None, 10_000).await, Some(apart(&all, "", None, 10_000).await));
}
