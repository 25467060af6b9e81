//! Listings of several folders as one. Pure.

use std::collections::BTreeMap;

use super::bucket::Listed;

/// One page of them all, of at most `most`: `pages` begin after the same name, oldest folder first, each in byte order and
/// with whether there is more. Of a name that several have, the newest counts.
pub(super) fn merge(pages: Vec<(Vec<Listed>, bool)>, most: usize) -> (Vec<Listed>, bool) {
    // What a page does not show yet, further back, may belong between what the others show there.
    let ends = pages.iter().filter(|(_, more)| *more).map(|(listed, _)| listed.last().map(|last| last.name.clone()));
    let end: Option<Option<String>> = ends.min();
    let mut more = end.is_some();
    let mut all = BTreeMap::new();
    for object in pages.into_iter().flat_map(|(listed, _)| listed) {
        all.insert(object.name.clone(), object);
    }
    let shown = |object: &Listed| end.as_ref().is_none_or(|end| Some(&object.name) <= end.as_ref());
    let mut listed: Vec<Listed> = all.into_values().filter(shown).collect();
    if listed.len() > most {
        listed.truncate(most);
        more = true;
    }
    (listed, more)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn listed(names: impl IntoIterator<Item = (String, u64)>) -> Vec<Listed> {
        names.into_iter().map(|(name, bytes)| Listed { name, bytes, etag: None }).collect()
    }

    /// A page of a folder.
    fn page(folder: &BTreeMap<String, u64>, after: &str, most: usize) -> (Vec<Listed>, bool) {
        let rest: Vec<_> = folder.iter().filter(|(name, _)| name.as_str() > after).collect();
        let more = rest.len() > most;
        (listed(rest.into_iter().take(most).map(|(name, bytes)| (name.clone(), *bytes))), more)
    }

    proptest! {
        #[test]
        fn page_after_page_gives_each_name_once_as_the_newest_folder_has_it(
            folders in prop::collection::vec(prop::collection::btree_map("[ab]{1,3}", 0..9_u64, 0..9), 1..4),
            most in 1..4_usize,
        ) {
            let mut whole = BTreeMap::new();
            for folder in &folders {
                whole.extend(folder.clone());
            }
            let (mut seen, mut after) = (Vec::new(), String::new());
            loop {
                let pages = folders.iter().map(|folder| page(folder, &after, most)).collect();
                let (listed, more) = merge(pages, most);
                prop_assert!(listed.len() <= most);
                if let Some(last) = listed.last() {
                    after.clone_from(&last.name);
                }
                prop_assert!(!more || !listed.is_empty(), "no end of it");
                seen.extend(listed);
                if !more {
                    break;
                }
            }
            prop_assert_eq!(seen, listed(whole));
        }
    }
}
