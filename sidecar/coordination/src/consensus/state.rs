//! What the group agrees on: documents, each with a version, changed only from the version that was seen. Pure: every member
//! applies the same writes in the same order, and comes to the same state.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A conditional write, as it stands in the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Write {
    /// Of which document.
    pub name: String,
    /// The version it must have; none: it must not exist.
    pub expected: Option<String>,
    /// What it is to say.
    pub body: String,
}

/// What became of an entry of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Written {
    /// It was no write.
    Nothing,
    /// It took effect, and made this version.
    Applied(String),
    /// The document was not at the expected version: nothing was written.
    Rejected,
}

/// A document with its version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versioned {
    /// Which write of the log it comes from: no two are ever equal, also over groups (R5).
    pub version: String,
    /// What it says.
    pub body: String,
}

/// All documents.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    documents: BTreeMap<String, Versioned>,
}

impl State {
    /// Applies a write that stands in the log at `version`, a place that no other write ever has.
    pub fn apply(&mut self, write: Write, version: String) -> Written {
        if self.documents.get(&write.name).map(|there| &there.version) != write.expected.as_ref() {
            return Written::Rejected;
        }
        self.documents.insert(write.name, Versioned { version: version.clone(), body: write.body });
        Written::Applied(version)
    }

    /// A document.
    pub fn read(&self, name: &str) -> Option<&Versioned> {
        self.documents.get(name)
    }

    /// Names that begin with `prefix`.
    pub fn names(&self, prefix: &str) -> Vec<String> {
        self.documents
            .range(prefix.to_owned()..)
            .map(|(name, _)| name)
            .take_while(|name| name.starts_with(prefix))
            .cloned()
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(state: &mut State, name: &str, expected: Option<&str>, version: &str) -> Written {
        let write = Write { name: name.into(), expected: expected.map(Into::into), body: "{}".into() };
        state.apply(write, version.into())
    }

    #[test]
    fn a_document_changes_only_from_the_version_that_was_seen() {
        let mut state = State::default();
        assert_eq!(write(&mut state, "a", Some("0"), "1"), Written::Rejected, "there is none");
        assert_eq!(write(&mut state, "a", None, "2"), Written::Applied("2".into()));
        assert_eq!(write(&mut state, "a", None, "3"), Written::Rejected, "there is one");
        assert_eq!(write(&mut state, "a", Some("2"), "4"), Written::Applied("4".into()));
        assert_eq!(write(&mut state, "a", Some("2"), "5"), Written::Rejected, "it is another one by now");
        assert_eq!(state.read("a").unwrap().version, "4");
    }

    #[test]
    fn names_are_those_that_begin_with_a_prefix() {
        let mut state = State::default();
        for name in ["a", "b/1", "b/2", "b0", "c"] {
            write(&mut state, name, None, name);
        }
        assert_eq!(state.names("b/"), ["b/1", "b/2"]);
        assert_eq!(state.names("").len(), 5);
    }
}
