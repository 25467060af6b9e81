//! What is written to the tree in one, with the files that its records come to name, and cease to.

use std::collections::HashMap;

use bytes::Bytes;

use super::engine::{Durable, Engine, Failed};
use super::files::{FileId, NewFile};
use super::layout;
use super::record::{self, Record};
use crate::Error;

/// Changes that are made together or not at all. Dropped, it leaves nothing.
#[derive(Debug, Default)]
pub(super) struct Edit {
    changes: HashMap<Vec<u8>, Option<Bytes>>,
    bytes: usize,
    new: Vec<NewFile>,
    gone: Vec<FileId>,
}

/// A value as it is to be written.
pub(super) enum Sealed {
    /// Its envelope.
    Whole(Bytes),
    /// The head of its envelope, and the file that has the rest.
    Filed(Vec<u8>, NewFile),
}

impl Edit {
    /// How many changes there are.
    pub(super) fn len(&self) -> usize {
        self.changes.len()
    }

    /// How many bytes they take in the tree.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// What will stand under a key.
    pub(super) fn get(&self, engine: &Engine, key: &[u8]) -> Result<Option<Bytes>, Error> {
        match self.changes.get(key) {
            Some(change) => Ok(change.clone()),
            None => engine.get(key),
        }
    }

    /// Writes something that is no value.
    pub(super) fn set(&mut self, key: Vec<u8>, what: Option<Bytes>) {
        self.bytes += key.len() + what.as_ref().map_or(0, Bytes::len);
        self.changes.insert(key, what);
    }

    /// Writes a value, or removes it, where this record stands.
    pub(super) fn replace(&mut self, key: Vec<u8>, stands: Option<&Record>, value: Option<Sealed>) {
        if value.is_none() || stands.is_none() {
            self.name(&key, value.is_some());
        }
        if let Some(id) = stands.and_then(Record::file) {
            self.unname(id);
        }
        let record = value.map(|value| match value {
            Sealed::Whole(bytes) => bytes,
            Sealed::Filed(head, file) => {
                let id = file.id();
                self.set(layout::file_key(id), Some(Bytes::new()));
                self.new.push(file);
                record::filed(id, &head)
            }
        });
        self.set(key, record);
    }

    /// A value gets its name, or loses it.
    pub(super) fn name(&mut self, data_key: &[u8], is_there: bool) {
        if let Some(name) = layout::name_of(data_key) {
            self.set(name, is_there.then(Bytes::new));
        }
    }

    /// The record that named a file goes.
    pub(super) fn unname(&mut self, id: FileId) {
        let key = layout::file_key(id);
        // The name of one that this very edit has brought was never written.
        if self.changes.remove(&key).is_none() {
            self.set(key, None);
        }
        self.gone.push(id);
    }

    /// Makes the changes. Blocks.
    ///
    /// Files that go are removed behind: what is made durable only later must be data that nobody reads after a crash.
    pub(super) fn commit(self, engine: &Engine, durable: Durable) -> Result<(), Failed> {
        let Self { changes, new, gone, .. } = self;
        if changes.is_empty() {
            return Ok(());
        }
        let done = engine.commit(changes.into_iter().collect(), durable);
        // Where nobody knows, the next life sees which are named.
        if !matches!(done, Err(Failed::Clean(_))) {
            new.into_iter().for_each(NewFile::keep);
        }
        if done.is_ok() {
            engine.files().went(gone);
        }
        done
    }
}
