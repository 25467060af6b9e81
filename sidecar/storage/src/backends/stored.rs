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
        let foreign = || Error::invalid("path", format!("{:?} is not the path of a key", self.path));
        let (namespaces, key) = encoding::parse_path(&self.path).ok_or_else(foreign)?;
        let namespaces = namespaces.into_iter().map(Namespace::new).collect::<Result<_, _>>()?;
        let key = Key::new(key)?;
        envelope::open(&key, &self.content)?;
        Ok((namespaces, key))
    }
}
