//! Keys and namespaces: checked once, where they enter.

use std::fmt;

use crate::Error;

/// Longest key, in bytes of UTF-8.
pub const MAX_KEY_BYTES: usize = 1024;
/// What the names of reserved namespaces begin with.
const RESERVED: char = '\0';
/// Longest namespace, in bytes of UTF-8.
pub const MAX_NAMESPACE_BYTES: usize = 256;

/// A key: 1 to 1,024 bytes of UTF-8, any characters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(String);

/// A namespace: 1 to 256 bytes of UTF-8, any characters. It can't see or escape into another. Whoever takes names from clients
/// keeps them from those that are [reserved](Namespace::is_reserved).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Namespace(String);

fn checked(field: &'static str, text: String, max: usize) -> Result<String, Error> {
    match text.len() {
        0 => Err(Error::invalid(field, format!("is empty; it must have 1 to {max} bytes"))),
        n if n > max => Err(Error::invalid(field, format!("has {n} bytes; the longest allowed is {max}"))),
        _ => Ok(text),
    }
}

impl Key {
    /// Checks the length.
    pub fn new(text: impl Into<String>) -> Result<Self, Error> {
        checked("key", text.into(), MAX_KEY_BYTES).map(Self)
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Namespace {
    /// Checks the length.
    pub fn new(text: impl Into<String>) -> Result<Self, Error> {
        checked("namespace", text.into(), MAX_NAMESPACE_BYTES).map(Self)
    }

    /// A namespace for what a program keeps beside the values of its clients: `parts` tell it from others of its kind.
    pub fn reserved(parts: &[&str]) -> Result<Self, Error> {
        Self::new(format!("{RESERVED}{}", parts.join("/")))
    }

    /// Whether it is one that [`reserved`](Self::reserved) makes: it begins with U+0000.
    pub fn is_reserved(&self) -> bool {
        self.0.starts_with(RESERVED)
    }

    /// One of the program's own, short and not empty.
    pub(crate) fn of_ours(name: &'static str) -> Self {
        Self(name.to_owned())
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
