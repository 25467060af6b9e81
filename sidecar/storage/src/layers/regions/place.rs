//! Where a store is, pure: the regions by their names, and its store in each.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::record::MAX_REGION_BYTES;
use crate::{Error, StorageAdapter};

/// The regions of a store, whichever it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    names: Vec<String>,
    here: usize,
    home: usize,
    longest_path: usize,
    wish: Option<Wish>,
}

/// Says that the home of a plan is wished for, and is moved there where it is another: once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Wish {
    /// Who wishes. What somebody else has wished before does not count.
    pub by: String,
    /// Grows with each new wish of his.
    pub since: u64,
}

impl Plan {
    /// The regions' names, nearest first. `here`: the own one, which acknowledges. `home`: where keys are decided first; once
    /// anything was, moving it is a step of its own. `longest_path`: of a key in all regions, in bytes, as
    /// [`encoding`](crate::encoding) makes it, with all that this layer adds: what is longer is refused before it is
    /// acknowledged.
    pub fn new(names: Vec<String>, here: &str, home: &str, longest_path: usize) -> Result<Self, Error> {
        let invalid = |problem: String| Err(Error::invalid("regions", problem));
        for (at, name) in names.iter().enumerate() {
            let fits = (1..=MAX_REGION_BYTES).contains(&name.len())
                && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
            if !fits {
                return invalid(format!(
                    "{name:?} is no name: give 1 to {MAX_REGION_BYTES} lower-case letters, digits and '-'"
                ));
            }
            if names[..at].contains(name) {
                return invalid(format!("{name:?} comes twice; each region needs a name of its own"));
            }
        }
        let find = |which: &str, wanted: &str| match names.iter().position(|name| name == wanted) {
            Some(at) => Ok(at),
            None => Err(Error::invalid("regions", format!("{wanted:?}, {which}, is not among {}", names.join(", ")))),
        };
        let (here, home) = (find("the own one", here)?, find("the home", home)?);
        Ok(Self { names, here, home, longest_path, wish: None })
    }

    /// The same, with a home that is to be moved to if this wish is a new one.
    #[must_use]
    pub fn wished(self, wish: Wish) -> Self {
        Self { wish: Some(wish), ..self }
    }

    /// The regions' names, as they were given.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The own one.
    pub fn here(&self) -> &str {
        &self.names[self.here]
    }

    /// Where keys are decided first.
    pub fn home(&self) -> &str {
        &self.names[self.home]
    }

    /// One store, by what it is in each region.
    pub fn place(&self, store: impl FnMut(&str) -> Arc<dyn StorageAdapter>) -> Place {
        let stores: Vec<_> = self.names.iter().map(String::as_str).map(store).collect();
        let Self { names, here, home, longest_path, wish } = self.clone();
        Place { regions: names.into_iter().zip(stores).collect(), here, home, longest_path, wish }
    }
}

/// Where a store is: made by a [`Plan`].
#[derive(Clone, Debug)]
pub struct Place {
    pub(super) regions: Vec<(String, Arc<dyn StorageAdapter>)>,
    pub(super) here: usize,
    pub(super) home: usize,
    pub(super) longest_path: usize,
    pub(super) wish: Option<Wish>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_have_names_of_their_own_and_the_own_one_is_among_them() {
        let plan = |names: &[&str], here, home| {
            Plan::new(names.iter().map(|name| (*name).to_owned()).collect(), here, home, 300)
        };
        let good = plan(&["eu-1", "us"], "us", "eu-1").unwrap();
        assert_eq!((good.here(), good.home(), good.names().len()), ("us", "eu-1", 2));
        for (names, here, home, why) in [
            (&["eu", "eu"][..], "eu", "eu", "twice"),
            (&["eu", "U S"], "eu", "eu", "no name"),
            (&["eu", ""], "eu", "eu", "no name"),
            (&["eu", "us"], "ap", "eu", "\"ap\", the own one, is not among eu, us"),
            (&["eu", "us"], "eu", "ap", "\"ap\", the home, is not among eu, us"),
        ] {
            let refused = plan(names, here, home).unwrap_err().to_string();
            assert!(refused.contains(why), "{refused}");
        }
    }
}
