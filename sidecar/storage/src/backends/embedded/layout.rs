//! What the keys of the engine look like. All stores of a database share one ordered space:
//!
//! | key | value |
//! |---|---|
//! | `d`, generation, namespaces, key | a value in its envelope |
//! | `n`, namespaces, key, generation | nothing: this generation has a value under this key. So keys of many stores lie in one order |
//! | `i` | nothing: all keys with a value are named so, not only those written since this was begun |
//! | `m`, name of a store | [`Meta`]: which generation of data is its own |
//! | `f`, life, number and length of a file | nothing: the record of a value names this file |
//! | `t` | how many bytes the files have that are named |
//! | `x`, generation | nothing: the data of this generation belongs to nobody (any more, or yet) |
//! | `g` | the highest generation ever given out |
//!
//! A generation is 8 bytes, big endian. A namespace is the byte 1, its length in 2 bytes, and its text; the byte 0 ends
//! the namespaces. So keys of one namespace of one store lie together, in byte order, and no text escapes into another.
//! In a name, where something follows the key, two zero bytes end it, and a zero byte of its own is followed by 255.

use std::ops::Bound;

use serde::{Deserialize, Serialize};

use super::files::FileId;
use super::record::{parse_id, write_id};
use crate::{Error, Key, Namespace};

/// Which data of the database a store consists of. Numbers grow and are never given out twice; 0: none yet.
pub(super) type Generation = u64;

/// The engine writes the length of a key in 16 bits.
const MAX_ENGINE_KEY: usize = u16::MAX as usize;
const DATA: u8 = b'd';
const NAME: u8 = b'n';
/// Where it is noted that all keys are named.
pub(super) const NAMED: &[u8] = b"i";
const META: u8 = b'm';
const FILE: u8 = b'f';
const GARBAGE: u8 = b'x';
/// Where the highest generation is kept.
pub(super) const HIGHEST: &[u8] = b"g";
/// Where the size of all files is kept.
pub(super) const TOTAL: &[u8] = b"t";
const NAMESPACE: u8 = 1;
const END_OF_NAMESPACES: u8 = 0;
const END_OF_KEY: [u8; 2] = [0, 0];
const ZERO_OF_KEY: [u8; 2] = [0, u8::MAX];

/// What a database knows of a store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Meta {
    pub(super) generation: Generation,
    /// The caller's own note about the store.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) stamp: Option<String>,
}

/// The part of a data key that names the namespaces, outermost first.
pub(super) fn space<'a>(namespaces: impl IntoIterator<Item = &'a Namespace>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for namespace in namespaces {
        enter(&mut bytes, namespace);
    }
    bytes
}

/// Adds one more namespace within.
pub(super) fn enter(space: &mut Vec<u8>, namespace: &Namespace) {
    let text = namespace.as_str().as_bytes();
    space.push(NAMESPACE);
    // A namespace has at most 256 bytes.
    space.extend_from_slice(&(text.len() as u16).to_be_bytes());
    space.extend_from_slice(text);
}

/// All data of a generation begins with this.
pub(super) fn generation_prefix(generation: Generation) -> Vec<u8> {
    let mut bytes = vec![DATA];
    bytes.extend_from_slice(&generation.to_be_bytes());
    bytes
}

/// The generation of a data key; `None` if it is none.
pub(super) fn generation_of(data_key: &[u8]) -> Option<Generation> {
    data_key.strip_prefix(&[DATA])?.first_chunk().map(|bytes| Generation::from_be_bytes(*bytes))
}

/// What follows [`generation_prefix`] in a data key.
pub(super) fn without_generation(key: &[u8]) -> &[u8] {
    &key[generation_prefix(0).len()..]
}

/// All keys of a namespace that begin with `text` begin with this.
pub(super) fn data_prefix(generation: Generation, space: &[u8], text: &str) -> Vec<u8> {
    let mut bytes = generation_prefix(generation);
    bytes.reserve_exact(space.len() + 1 + text.len());
    bytes.extend_from_slice(space);
    bytes.push(END_OF_NAMESPACES);
    bytes.extend_from_slice(text.as_bytes());
    bytes
}

/// Where the value of a key is.
pub(super) fn data_key(generation: Generation, space: &[u8], key: &Key) -> Vec<u8> {
    data_prefix(generation, space, key.as_str())
}

/// The names of all keys of a namespace that begin with `text` begin with this.
pub(super) fn name_prefix(space: &[u8], text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(1 + space.len() + 1 + text.len() + END_OF_KEY.len() + size_of::<Generation>());
    bytes.push(NAME);
    bytes.extend_from_slice(space);
    bytes.push(END_OF_NAMESPACES);
    for byte in text.bytes() {
        match byte {
            0 => bytes.extend_from_slice(&ZERO_OF_KEY),
            byte => bytes.push(byte),
        }
    }
    bytes
}

/// The name of a key.
pub(super) fn name(space: &[u8], key: &str, generation: Generation) -> Vec<u8> {
    let mut bytes = name_prefix(space, key);
    bytes.extend_from_slice(&END_OF_KEY);
    bytes.extend_from_slice(&generation.to_be_bytes());
    bytes
}

/// The name of the key that a data key is of; `None` if it is none.
pub(super) fn name_of(data_key: &[u8]) -> Option<Vec<u8>> {
    let (generation, space, key) = split_data_key(data_key)?;
    Some(name(space, key, generation))
}

/// The generation that a name is of; `None` if it is no name.
pub(super) fn generation_of_name(name: &[u8]) -> Option<Generation> {
    name.strip_prefix(&[NAME])?.last_chunk().map(|bytes| Generation::from_be_bytes(*bytes))
}

/// The key of a name in this namespace; `None` if it is none.
pub(super) fn key_of_name(space: &[u8], name: &[u8]) -> Option<Key> {
    let rest = name.get(1 + space.len() + 1..)?;
    let (escaped, _) = rest.split_last_chunk::<{ END_OF_KEY.len() + size_of::<Generation>() }>()?;
    let mut bytes = Vec::with_capacity(escaped.len());
    let mut rest = escaped;
    while let Some((byte, after)) = rest.split_first() {
        bytes.push(*byte);
        rest = if *byte == 0 { after.strip_prefix(&ZERO_OF_KEY[1..])? } else { after };
    }
    Key::new(String::from_utf8(bytes).ok()?).ok()
}

/// Refuses a key that the engine could not hold, because it lies too many namespaces deep.
pub(super) fn check_length(space: &[u8], key: &Key) -> Result<(), Error> {
    // Which is never shorter than its data key.
    let length = name(space, key.as_str(), 0).len();
    if length > MAX_ENGINE_KEY {
        return Err(Error::invalid(
            "key",
            format!("with its namespaces it takes {length} bytes; this store holds {MAX_ENGINE_KEY}: nest fewer"),
        ));
    }
    Ok(())
}

/// The generation, namespaces and key of a data key; `None` if it is none.
pub(super) fn parse_data_key(bytes: &[u8]) -> Option<(Generation, Vec<Namespace>, Key)> {
    let (generation, mut space, key) = split_data_key(bytes)?;
    let mut namespaces = Vec::new();
    while let Some((text, rest)) = first_namespace(space)? {
        namespaces.push(Namespace::new(std::str::from_utf8(text).ok()?).ok()?);
        space = rest;
    }
    Some((generation, namespaces, Key::new(key).ok()?))
}

/// A data key in its parts: generation, namespaces, and the text of the key.
fn split_data_key(bytes: &[u8]) -> Option<(Generation, &[u8], &str)> {
    let (generation, inner) = bytes.strip_prefix(&[DATA])?.split_first_chunk()?;
    let mut rest = inner;
    while let Some((_, after)) = first_namespace(rest)? {
        rest = after;
    }
    let (space, rest) = inner.split_at(inner.len() - rest.len());
    let key = std::str::from_utf8(rest.strip_prefix(&[END_OF_NAMESPACES])?).ok()?;
    Some((Generation::from_be_bytes(*generation), space, key))
}

/// The first of some namespaces, and what follows it; `Some(None)` after the last.
fn first_namespace(bytes: &[u8]) -> Option<Option<(&[u8], &[u8])>> {
    match bytes.split_first() {
        None | Some((&END_OF_NAMESPACES, _)) => Some(None),
        Some((&NAMESPACE, after)) => {
            let (length, after) = after.split_first_chunk::<2>()?;
            after.split_at_checked(usize::from(u16::from_be_bytes(*length))).map(Some)
        }
        Some(_) => None,
    }
}

/// Where a listing begins of what begins with `prefix` and follows `after`; `None`: there is no such key.
pub(super) fn start(prefix: &[u8], after: Option<Vec<u8>>) -> Option<Bound<Vec<u8>>> {
    match after {
        Some(after) if after.starts_with(prefix) => Some(Bound::Excluded(after)),
        Some(after) if *after > *prefix => None,
        _ => Some(Bound::Included(prefix.to_vec())),
    }
}

/// All keys with data begin with this.
pub(super) fn all_data() -> Vec<u8> {
    vec![DATA]
}

/// All stores' records begin with this.
pub(super) fn all_meta() -> Vec<u8> {
    vec![META]
}

/// Where the record of a store is.
pub(super) fn meta_key(name: &str) -> Vec<u8> {
    let mut bytes = all_meta();
    bytes.extend_from_slice(name.as_bytes());
    bytes
}

/// The store of a record's key.
pub(super) fn parse_meta_key(bytes: &[u8]) -> Option<String> {
    bytes.strip_prefix(&[META]).and_then(|name| String::from_utf8(name.to_vec()).ok())
}

/// Where it is noted that a file is named.
pub(super) fn file_key(id: FileId) -> Vec<u8> {
    let mut bytes = vec![FILE];
    write_id(&mut bytes, id);
    bytes
}

/// The file of such a note's key.
pub(super) fn parse_file_key(bytes: &[u8]) -> Option<FileId> {
    bytes.strip_prefix(&[FILE]).and_then(parse_id)
}

/// All marks of data that belongs to nobody begin with this.
pub(super) fn all_garbage() -> Vec<u8> {
    vec![GARBAGE]
}

/// Where it is noted that a generation belongs to nobody.
pub(super) fn garbage_key(generation: Generation) -> Vec<u8> {
    let mut bytes = all_garbage();
    bytes.extend_from_slice(&generation.to_be_bytes());
    bytes
}

/// The generation of a garbage mark's key.
pub(super) fn parse_garbage_key(bytes: &[u8]) -> Option<Generation> {
    let generation: [u8; 8] = bytes.strip_prefix(&[GARBAGE])?.try_into().ok()?;
    Some(Generation::from_be_bytes(generation))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_text() -> impl Strategy<Value = String> {
        prop_oneof!["[a-c/]{1,3}", "[\u{0}\u{1}\u{2}a]{1,4}", "\\PC{1,20}", "[a]{256}"]
    }

    fn names(texts: Vec<String>) -> Vec<Namespace> {
        texts.into_iter().filter_map(|text| Namespace::new(text).ok()).collect()
    }

    proptest! {
        #[test]
        fn a_key_leads_back_to_its_namespaces(
            generation in any::<u64>(), spaces in prop::collection::vec(any_text(), 0..4), text in any_text()
        ) {
            let (spaces, key) = (names(spaces), Key::new(text).unwrap());
            let bytes = data_key(generation, &space(&spaces), &key);
            prop_assert_eq!(parse_data_key(&bytes), Some((generation, spaces, key)));
        }

        #[test]
        fn keys_of_a_namespace_sort_as_they_do_and_lie_together(
            a in any_text(), b in any_text(), here in prop::collection::vec(any_text(), 0..3),
            there in prop::collection::vec(any_text(), 0..3)
        ) {
            let (here, there) = (names(here), names(there));
            let at = |spaces: &[Namespace], text: &str| data_key(7, &space(spaces), &Key::new(text).unwrap());
            prop_assert_eq!(at(&here, &a).cmp(&at(&here, &b)), a.cmp(&b));
            // Whatever another namespace holds, it is not among the keys of this one.
            prop_assert_eq!(at(&there, &b).starts_with(&data_prefix(7, &space(&here), "")), here == there);
        }

        #[test]
        fn names_sort_as_keys_do_and_lead_back_to_them(
            a in any_text(), b in any_text(), (mine, other) in any::<(u64, u64)>(),
            here in prop::collection::vec(any_text(), 0..3), there in prop::collection::vec(any_text(), 0..3)
        ) {
            let (here, there) = (space(&names(here)), space(&names(there)));
            let sorted = if a == b { mine.cmp(&other) } else { a.cmp(&b) };
            prop_assert_eq!(name(&here, &a, mine).cmp(&name(&here, &b, other)), sorted);
            let (of_a, key) = (name(&here, &a, mine), Key::new(a).unwrap());
            prop_assert_eq!(of_a.starts_with(&name_prefix(&here, &b)), key.as_str().starts_with(&b));
            prop_assert_eq!(of_a.starts_with(&name_prefix(&there, "")), here == there);
            prop_assert_eq!(generation_of_name(&of_a), Some(mine));
            prop_assert_eq!(key_of_name(&here, &of_a), Some(key.clone()));
            prop_assert_eq!(name_of(&data_key(mine, &here, &key)), Some(of_a));
        }

        #[test]
        fn generations_lie_apart(a in any::<u64>(), b in any::<u64>(), text in any_text()) {
            let bytes = data_key(a, &[], &Key::new(text).unwrap());
            prop_assert_eq!(bytes.starts_with(&generation_prefix(b)), a == b);
            prop_assert_eq!(parse_garbage_key(&garbage_key(a)), Some(a));
        }
    }

    #[test]
    fn what_is_no_data_key_is_recognised() {
        let whole = data_key(7, &space(&[Namespace::new("a").unwrap()]), &Key::new("k").unwrap());
        let mut other_tag = whole.clone();
        other_tag[9] = 2;
        for foreign in [&whole[..9], &whole[..10], &whole[..11], &whole[..12], &whole[..13], b"m", b"", &other_tag] {
            assert_eq!(parse_data_key(foreign), None, "{foreign:?}");
        }
        assert_eq!(parse_meta_key(&meta_key("shard-007")).as_deref(), Some("shard-007"));
        assert_eq!(parse_garbage_key(b"x123"), None);
        let file = FileId { life: 1, number: 2, length: 3 };
        assert_eq!(parse_file_key(&file_key(file)), Some(file));
        assert_eq!(parse_file_key(&whole), None);
    }

    #[test]
    fn a_key_too_many_namespaces_deep_is_refused() {
        let key = Key::new("k".repeat(1024)).unwrap();
        let spaces = vec![Namespace::new("n".repeat(256)).unwrap(); 249];
        assert_eq!(check_length(&space(&spaces), &key), Ok(()));
        let deeper = vec![Namespace::new("n".repeat(256)).unwrap(); 250];
        assert!(matches!(check_length(&space(&deeper), &key), Err(Error::Invalid { field: "key", .. })));
    }
}
