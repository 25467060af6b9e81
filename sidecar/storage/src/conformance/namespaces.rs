//! Namespaces.

use super::{Store, Verdict, applied, ensure, holds, is_absent, key, number, set};
use crate::Namespace;

fn namespace(text: &str) -> Result<Namespace, String> {
    Namespace::new(text).map_err(|why| why.to_string())
}

pub(super) async fn a_namespace_sees_only_its_own_keys(store: Store) -> Verdict {
    let k = key("k")?;
    let (a, b) = (store.with_namespace(&namespace("a")?), store.with_namespace(&namespace("b")?));
    let spaces = [&store, &a, &b];
    for (n, space) in spaces.iter().enumerate() {
        is_absent(space, &k).await?;
        set(space, &k, &number(n as i64)).await?;
    }
    for (n, space) in spaces.iter().enumerate() {
        holds(space, &k, &number(n as i64)).await?;
        let page = space.list("", None, 10).await.map_err(|why| why.to_string())?;
        ensure!(page.keys == [k.clone()], "namespace {n} lists {:?}", page.keys);
    }
    applied(a.delete(&k).await)?;
    is_absent(&a, &k).await?;
    holds(&store, &k, &number(0)).await?;
    holds(&b, &k, &number(2)).await?;
    // Two views of one namespace are one.
    set(&store.with_namespace(&namespace("a")?), &k, &number(5)).await?;
    holds(&a, &k, &number(5)).await
}

pub(super) async fn nested_namespaces_are_apart(store: Store) -> Verdict {
    let k = key("k")?;
    let path = |names: &[&str]| {
        names.iter().try_fold(store.clone(), |space, name| Ok::<_, String>(space.with_namespace(&namespace(name)?)))
    };
    let spaces = [
        path(&[])?,
        path(&["a"])?,
        path(&["a", "b"])?,
        path(&["b", "a"])?,
        path(&["a", "a"])?,
        path(&["a/b"])?,
        path(&["ab"])?,
        path(&["a", "b", "c"])?,
    ];
    for (n, space) in spaces.iter().enumerate() {
        is_absent(space, &k).await?;
        set(space, &k, &number(n as i64)).await?;
    }
    for (n, space) in spaces.iter().enumerate() {
        holds(space, &k, &number(n as i64)).await?;
    }
    Ok(())
}

pub(super) async fn no_name_escapes_its_namespace(store: Store) -> Verdict {
    let outside = key("k")?;
    set(&store, &outside, &number(0)).await?;
    let names = ["..", ".", "../..", "/", "kv", "ns", "a/../..", "\u{0}", " ", "%2E%2E", "k", "\u{1F600}"];
    let inside_keys = ["k", "../k", "../../kv/k", "kv/k", "/k", "..", "ns/a/kv/k"];
    for (n, name) in names.iter().enumerate() {
        let space = store.with_namespace(&namespace(name)?);
        for text in inside_keys {
            let inside = key(text)?;
            is_absent(&space, &inside).await.map_err(|why| format!("in namespace {name:?}: {why}"))?;
            set(&space, &inside, &number(n as i64 + 1)).await.map_err(|why| format!("in namespace {name:?}: {why}"))?;
        }
    }
    holds(&store, &outside, &number(0)).await?;
    let page = store.list("", None, 100).await.map_err(|why| why.to_string())?;
    ensure!(page.keys == [outside.clone()], "keys of namespaces show up outside: {:?}", page.keys);
    for (n, name) in names.iter().enumerate() {
        let space = store.with_namespace(&namespace(name)?);
        for text in inside_keys {
            holds(&space, &key(text)?, &number(n as i64 + 1)).await?;
        }
    }
    let longest = store.with_namespace(&namespace(&"n".repeat(256))?);
    set(&longest, &outside, &number(1)).await.map(drop)
}
