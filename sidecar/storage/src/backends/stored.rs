//! A key as it is stored, on its way from one store to another: between machines, and between backends.

use bytes::Bytes;

use crate::{Error, Key, Namespace, encoding, envelope};

/// One key as stored. Both the embedded and the filesystem backend export and import it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredFile {
    /// Below the root of the store, with slashes: namespaces and key, [encoded](crate::encoding).
    pub path: String,
    /// The value in its envelope.
    pub content: Bytes,
}

impl StoredFile {
    /// The namespaces, outermost first, and the key. Refuses what is no key's path, or holds a damaged value: a copy
    /// must not spread it.
    pub(super) fn check(&self) -> Result<(Vec<Namespace>, Key), Error> {
        let (namespaces, key) = parse(&self.path)?;
        envelope::open(&key, &self.content)?;
        Ok((namespaces, key))
    }
}

/// The namespaces, outermost first, and the key of a path. Refuses what is no key's.
pub(super) fn parse(path: &str) -> Result<(Vec<Namespace>, Key), Error> {
    let foreign = || Error::invalid("path", format!("{path:?} is not the path of a key"));
    let (namespaces, key) = encoding::parse_path(path).ok_or_else(foreign)?;
    let namespaces = namespaces.into_iter().map(Namespace::new).collect::<Result<_, _>>()?;
    Ok((namespaces, Key::new(key)?))
}

/// A key of a store that is copied while it is written to, as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoredChange {
    /// It has this value.
    Is(StoredFile),
    /// It has none. The path is that of a [`StoredFile`].
    Gone(String),
}

impl StoredChange {
    /// The key's path.
    pub fn path(&self) -> &str {
        match self {
            Self::Is(file) => &file.path,
            Self::Gone(path) => path,
        }
    }
}
