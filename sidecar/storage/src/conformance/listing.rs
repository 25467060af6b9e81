//! Listing.

use super::{Store, Verdict, applied, ensure, key, nasty_keys, number};
use crate::{Key, Page};

async fn page(store: &Store, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Page, String> {
    let page = store.list(prefix, after, limit).await.map_err(|why| format!("listing {prefix:?} failed: {why}"))?;
    ensure!(page.keys.len() <= limit, "a page of at most {limit} keys holds {}", page.keys.len());
    Ok(page)
}

/// Writes the nasty keys and returns them in order.
async fn fill(store: &Store) -> Result<Vec<Key>, String> {
    let mut keys = nasty_keys().iter().map(|text| key(text)).collect::<Result<Vec<_>, _>>()?;
    let items = keys.iter().map(|key| (key.clone(), number(1))).collect();
    for outcome in store.set_batch(items).await {
        applied(outcome)?;
    }
    keys.sort();
    Ok(keys)
}

pub(super) async fn keys_are_listed_in_order(store: Store) -> Verdict {
    let empty = page(&store, "", None, 10).await?;
    ensure!(empty == Page::default(), "an empty store lists {empty:?}");
    let keys = fill(&store).await?;
    let all = page(&store, "", None, keys.len()).await?;
    ensure!(all.keys == keys, "keys are listed as {:?} instead of {keys:?}", all.keys);
    ensure!(!all.more, "a complete page says that there is more");
    Ok(())
}

pub(super) async fn a_prefix_selects_exactly_its_keys(store: Store) -> Verdict {
    let keys = fill(&store).await?;
    let long = "k".repeat(200);
    for prefix in ["a", "a/", "/", ".", "..", "%", "caf", "caf\u{e9}", "k", long.as_str(), "nobody", "\u{0}", " "] {
        let expected: Vec<&Key> = keys.iter().filter(|key| key.as_str().starts_with(prefix)).collect();
        let found = page(&store, prefix, None, 1000).await?.keys;
        ensure!(found.iter().eq(expected.iter().copied()), "prefix {prefix:?} lists {found:?} instead of {expected:?}");
    }
    // A prefix and a start that lies before, within and after its keys.
    for after in ["A", "a/", "a/b", "b"] {
        let expected: Vec<&Key> =
            keys.iter().filter(|key| key.as_str().starts_with("a/") && key.as_str() > after).collect();
        let found = page(&store, "a/", Some(&key(after)?), 1000).await?.keys;
        ensure!(
            found.iter().eq(expected.iter().copied()),
            "prefix \"a/\" after {after:?} lists {found:?} instead of {expected:?}"
        );
    }
    Ok(())
}

pub(super) async fn pages_join_without_gap_or_repetition(store: Store) -> Verdict {
    let keys = fill(&store).await?;
    for limit in [1, 2, 7, keys.len() - 1, keys.len() + 1] {
        let mut found: Vec<Key> = Vec::new();
        loop {
            let next = page(&store, "", found.last(), limit).await?;
            ensure!(!(next.more && next.keys.is_empty()), "an empty page says that there is more");
            found.extend(next.keys);
            if !next.more {
                break;
            }
            ensure!(found.len() <= keys.len(), "pages of {limit} repeat keys: {found:?}");
        }
        ensure!(found == keys, "pages of {limit} join to {found:?} instead of {keys:?}");
    }
    // A start need not be a key that exists.
    let after = key("a/b0")?;
    let first = page(&store, "", Some(&after), 1).await?.keys;
    let expected = keys.iter().find(|key| **key > after);
    ensure!(first.first() == expected, "after {after:?} comes {first:?} instead of {expected:?}");
    Ok(())
}

pub(super) async fn deleted_keys_are_not_listed(store: Store) -> Verdict {
    let keys = fill(&store).await?;
    for key in keys.iter().step_by(2) {
        applied(store.delete(key).await)?;
    }
    let left: Vec<&Key> = keys.iter().skip(1).step_by(2).collect();
    let mut found: Vec<Key> = Vec::new();
    loop {
        let next = page(&store, "", found.last(), 3).await?;
        found.extend(next.keys);
        if !next.more {
            break;
        }
    }
    ensure!(found.iter().eq(left.iter().copied()), "after deletions {found:?} is listed instead of {left:?}");
    Ok(())
}
