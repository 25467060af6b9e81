//! Listing keys in order, without reading more of the tree than the page needs.
//!
//! Names in one folder sort as their keys do ([`crate::encoding`]), so the walk goes folder by folder, and keeps in
//! memory only as many names as the page still lacks.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::files::{failure, is_missing};
use crate::encoding::{FOLDER_MARK, decode};
use crate::{Error, Key, Page};

/// The keys below `folder` whose path starts with `prefix` and sorts after `after`.
pub(super) fn page(folder: &Path, prefix: &str, after: Option<&str>, limit: usize) -> Result<Page, Error> {
    let mut walk = Walk { prefix, after: after.unwrap_or(""), wanted: limit.saturating_add(1), keys: Vec::new() };
    walk.visit(folder, "")?;
    let more = walk.keys.len() > limit;
    walk.keys.truncate(limit);
    Ok(Page { keys: walk.keys, more })
}

struct Walk<'a> {
    prefix: &'a str,
    after: &'a str,
    /// One more than the page holds: shows whether there is more.
    wanted: usize,
    keys: Vec<Key>,
}

impl Walk<'_> {
    fn lacking(&self) -> usize {
        self.wanted - self.keys.len()
    }

    /// `parent` is the folder's path below the namespace's, with a slash at its end unless empty.
    fn visit(&mut self, folder: &Path, parent: &str) -> Result<(), Error> {
        let mut last = String::new();
        loop {
            let capacity = self.lacking();
            let names = self.first_names(folder, parent, &last, capacity)?;
            let complete = names.len() < capacity;
            for name in names {
                if name.ends_with(FOLDER_MARK) {
                    self.visit(&folder.join(&name), &format!("{parent}{name}/"))?;
                } else if let Some(key) = decode(&format!("{parent}{name}")).and_then(|text| Key::new(text).ok()) {
                    self.keys.push(key);
                }
                if self.lacking() == 0 {
                    return Ok(());
                }
                last = name;
            }
            // Otherwise some of the names were empty folders, and the page may still lack keys.
            if complete {
                return Ok(());
            }
        }
    }

    /// The first names of a folder after `last` that may lead to keys asked for, at most `capacity`.
    fn first_names(&self, folder: &Path, parent: &str, last: &str, capacity: usize) -> Result<BTreeSet<String>, Error> {
        let mut names = BTreeSet::new();
        let entries = match fs::read_dir(folder) {
            Err(error) if is_missing(&error) => return Ok(names),
            entries => entries.map_err(|error| failure("reading", folder, &error))?,
        };
        for entry in entries {
            let entry = entry.map_err(|error| failure("reading", folder, &error))?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            if name.as_str() <= last || !self.asked_for(parent, &name) {
                continue;
            }
            names.insert(name);
            if names.len() > capacity {
                names.pop_last();
            }
        }
        Ok(names)
    }

    fn asked_for(&self, parent: &str, name: &str) -> bool {
        if name.ends_with(FOLDER_MARK) {
            let path = format!("{parent}{name}/");
            let may_match = path.starts_with(self.prefix) || self.prefix.starts_with(&path);
            may_match && (path.as_str() > self.after || self.after.starts_with(&path))
        } else {
            let path = format!("{parent}{name}");
            path.starts_with(self.prefix) && path.as_str() > self.after
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::encoding::encode;

    fn tree(keys: &[String]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for key in keys {
            let path = folder.path().join(encode(key));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        folder
    }

    #[test]
    fn empty_folders_do_not_cut_a_listing_short() {
        let long = |c: &str| c.repeat(250);
        let folder = tree(&[long("a"), long("b"), "c".to_owned()]);
        for c in ["a", "b"] {
            fs::remove_file(folder.path().join(encode(&long(c)))).unwrap();
        }
        let page = page(folder.path(), "", None, 1).unwrap();
        assert_eq!(page.keys, [Key::new("c").unwrap()]);
        assert!(!page.more);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn pages_join_to_all_keys_in_order(
            mut keys in prop::collection::vec(prop_oneof!["[ab/]{1,4}", "[a]{195,205}[ab/]{0,3}", "\\PC{1,3}"], 0..20),
            prefix in prop_oneof![Just(String::new()), "[a/]{1,2}".prop_map(String::from), "[a]{199,201}".prop_map(String::from)],
            limit in 1..5_usize,
        ) {
            let folder = tree(&keys);
            keys.sort();
            keys.dedup();
            let expected: Vec<String> = keys.into_iter().filter(|key| key.starts_with(&prefix)).collect();
            let mut found: Vec<String> = Vec::new();
            loop {
                let after = found.last().map(|key| encode(key));
                let page = page(folder.path(), &encode(&prefix), after.as_deref(), limit).unwrap();
                prop_assert!(page.keys.len() <= limit);
                found.extend(page.keys.iter().map(ToString::to_string));
                if !page.more {
                    break;
                }
                prop_assert_eq!(page.keys.len(), limit);
            }
            prop_assert_eq!(found, expected);
        }
    }
}
