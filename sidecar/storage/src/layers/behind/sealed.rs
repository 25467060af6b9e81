//! A value, or that it was removed, in the envelope in which it is kept.

use bytes::Bytes;

use crate::envelope::{self, Envelope, Trail};
use crate::performed::Performed;
use crate::{Entry, Error, Key, Value, Version};

/// One write of a key: the same in whichever store it is found.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::layers) struct Sealed {
    /// As stored.
    pub(in crate::layers) bytes: Bytes,
    envelope: Envelope,
}

impl Sealed {
    /// A write of a value; `None` removes it.
    pub(in crate::layers) fn new(
        key: &Key,
        revision: u64,
        value: Option<&Value>,
        performed: Performed,
    ) -> Result<Self, Error> {
        Self::with_nonce(key, revision, envelope::new_nonce(), value, performed)
    }

    /// The same, with a mark of its own that is known.
    pub(in crate::layers) fn with_nonce(
        key: &Key,
        revision: u64,
        nonce: String,
        value: Option<&Value>,
        performed: Performed,
    ) -> Result<Self, Error> {
        let trail = Trail { performed, before: Vec::new() };
        let (bytes, trail) = match value {
            Some(value) => (envelope::seal(key, revision, &nonce, value, &trail, None)?, trail),
            None => (envelope::seal_tombstone(revision, &nonce, &trail), Trail::default()),
        };
        Ok(Self { bytes, envelope: Envelope { revision, nonce, value: value.cloned(), trail } })
    }

    pub(in crate::layers) fn open(key: &Key, bytes: Bytes) -> Result<Self, Error> {
        let envelope = envelope::open(key, &bytes)?;
        Ok(Self { bytes, envelope })
    }

    /// The same write, which remembers these operations.
    pub(in crate::layers) fn remembering(&self, key: &Key, performed: Performed) -> Result<Self, Error> {
        let Envelope { value, revision, nonce, .. } = &self.envelope;
        Self::with_nonce(key, *revision, nonce.clone(), value.as_ref(), performed)
    }

    pub(in crate::layers) fn revision(&self) -> u64 {
        self.envelope.revision
    }

    pub(in crate::layers) fn nonce(&self) -> &str {
        &self.envelope.nonce
    }

    pub(in crate::layers) fn performed(&self) -> &Performed {
        &self.envelope.trail.performed
    }

    /// It stands for a value that was removed.
    pub(in crate::layers) fn is_removal(&self) -> bool {
        self.envelope.value.is_none()
    }

    /// The value with the version that clients know.
    pub(in crate::layers) fn entry(&self) -> Option<Entry> {
        let Envelope { value, revision, nonce, .. } = &self.envelope;
        let version = || Version { revision: *revision, tag: nonce.clone() };
        value.as_ref().map(|value| Entry { value: value.clone(), version: version() })
    }

    pub(in crate::layers) fn into_entry(self) -> Option<Entry> {
        let Envelope { value, revision, nonce, .. } = self.envelope;
        value.map(|value| Entry { value, version: Version { revision, tag: nonce } })
    }
}
