//! Listings: the keys of both tiers, without those whose record in the hot tier says that they were removed.
//!
//! Of each stretch of keys the hot tier is asked first: a key that is there may be demoted meanwhile, and is found in the
//! cold tier then as well; asked the other way round, it could be missed in both.

use std::collections::{BTreeMap, BTreeSet};

use super::spaces::{Gone, Space};
use super::store::{Store, read};
use crate::{Error, Key, Page};

pub(super) async fn list(
    store: &Store,
    space: &Space,
    prefix: &str,
    after: Option<&Key>,
    limit: usize,
) -> Result<Page, Error> {
    // One more tells whether there is more.
    let wanted = limit.saturating_add(1);
    let (mut keys, mut after) = (Vec::new(), after.cloned());
    while keys.len() < wanted {
        let stretch = stretch(store, space, prefix, after.as_ref(), wanted - keys.len()).await?;
        keys.extend(stretch.keys);
        match stretch.to {
            Some(to) => after = Some(to),
            None => break,
        }
    }
    let more = keys.len() > limit;
    keys.truncate(limit);
    Ok(Page { keys, more })
}

/// All keys after some key.
struct Stretch {
    keys: Vec<Key>,
    /// Up to this one; `None`: to the end.
    to: Option<Key>,
}

async fn stretch(
    store: &Store,
    space: &Space,
    prefix: &str,
    after: Option<&Key>,
    most: usize,
) -> Result<Stretch, Error> {
    // Before the tiers: what is removed later was there when this began.
    let is_known = store.is_scanned();
    let mut gone = space.gone_below(prefix, after);
    let most = most.saturating_add(gone.len());
    let hot = space.hot.list(prefix, after, most).await?;
    let cold = space.cold.list(prefix, after, most).await?;
    let doubtful: Vec<Key> = match is_known {
        true => hot.keys.iter().filter(|key| gone.get(*key) == Some(&Gone::Unsure)).cloned().collect(),
        false => hot.keys.clone(),
    };
    look(space, &doubtful, &mut gone).await?;
    Ok(join(hot, cold, &gone))
}

/// Finds out of keys what their records say.
async fn look(space: &Space, doubtful: &[Key], gone: &mut BTreeMap<Key, Gone>) -> Result<(), Error> {
    for (key, entry) in doubtful.iter().zip(space.hot.get_batch(doubtful).await) {
        match entry.and_then(|entry| read(key, entry)) {
            Ok(Some((record, _))) if record.sealed.is_removal() => {
                gone.insert(key.clone(), Gone::Removed(record.sealed.revision()));
            }
            // What is damaged is there: a removal gets rid of it.
            Ok(Some(_)) | Err(Error::Corrupt { .. }) => {
                gone.remove(key);
            }
            // It is on its way from one tier to the other, or out of both.
            Ok(None) => {
                if space.cold.get(key).await?.is_some() {
                    gone.remove(key);
                } else {
                    gone.insert(key.clone(), Gone::Removed(0));
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Two pages that begin after the same key, as far as both of them reach.
fn join(hot: Page, cold: Page, gone: &BTreeMap<Key, Gone>) -> Stretch {
    let end = |page: &Page| page.keys.last().filter(|_| page.more).cloned();
    let to = match (end(&hot), end(&cold)) {
        (Some(hot), Some(cold)) => Some(hot.min(cold)),
        (one, other) => one.or(other),
    };
    let reached = |key: &Key| to.as_ref().is_none_or(|to| key <= to);
    let is_there = |key: &Key| !matches!(gone.get(key), Some(Gone::Removed(_)));
    let keys: BTreeSet<Key> =
        hot.keys.into_iter().chain(cold.keys).filter(|key| reached(key) && is_there(key)).collect();
    Stretch { keys: keys.into_iter().collect(), to }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(names: &str) -> Vec<Key> {
        names.split_whitespace().map(|name| Key::new(name).unwrap()).collect()
    }

    fn joined(hot: (&str, bool), cold: (&str, bool), gone: &str) -> (Vec<Key>, Option<Key>) {
        let page = |(names, more): (&str, bool)| Page { keys: keys(names), more };
        let gone = keys(gone).into_iter().map(|key| (key, Gone::Removed(1))).collect();
        let Stretch { keys, to } = join(page(hot), page(cold), &gone);
        (keys, to)
    }

    #[test]
    fn a_stretch_has_the_keys_of_both_tiers_as_far_as_both_reach() {
        let key = |name: &str| Some(Key::new(name).unwrap());
        assert_eq!(joined(("a c", false), ("b c d", false), ""), (keys("a b c d"), None));
        assert_eq!(joined(("a c", true), ("b d", false), ""), (keys("a b c"), key("c")));
        assert_eq!(joined(("a d", true), ("b c", true), ""), (keys("a b c"), key("c")));
        assert_eq!(joined(("a c", false), ("b c d", false), "b c"), (keys("a d"), None));
        assert_eq!(joined(("a", true), ("a", true), "a"), (keys(""), key("a")), "it goes on behind it");
    }
}
