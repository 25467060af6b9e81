//! The keys of a bucket, in order, over all shards of all nodes: `ListObjects` in both of its versions. Keys that share what
//! stands before a delimiter are told as one common prefix; a page goes on where the one before has ended.

use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use brainy_storage::key::MAX_KEY_BYTES;
use brainy_storage::{Key, Namespace};
use s3s::S3ErrorCode;
use s3s::dto::{
    CommonPrefix, EncodingType, ListObjectsInput, ListObjectsOutput, ListObjectsV2Input, ListObjectsV2Output, Object,
    ObjectStorageClass, Owner,
};
use tokio::time::Instant;

use super::failure::{Answer, Failure};
use super::{DEFAULT_PAGE, Gateway, buckets, heads, names};
use crate::http::memory::Room;
use crate::routing::{Call, Listing, Reply, Sight};

/// Most keys in one answer, whatever is asked for: a page is put together in memory.
const MOST: usize = 100_000;
/// Keys asked of the shards at a time.
const STEP: usize = 1_000;
/// Bytes of memory that a key in an answer takes: itself twice, what is told of it, and the text made of both.
const KEY_BYTES: u64 = 1_200;

/// Where a page begins: behind a key, or behind all keys that begin with a common prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
enum After {
    Key(String),
    Prefix(String),
}

impl After {
    /// What a client gives as a place to start after. A common prefix stands for all its keys.
    fn given(text: String, prefix: &str, delimiter: &str) -> Self {
        match group(&text, prefix, delimiter) {
            Some(common) if common == text => Self::Prefix(text),
            _ => Self::Key(text),
        }
    }

    fn token(&self) -> String {
        let text = match self {
            Self::Key(key) => format!("k{key}"),
            Self::Prefix(prefix) => format!("p{prefix}"),
        };
        URL_SAFE_NO_PAD.encode(text)
    }

    fn of_token(token: &str) -> Answer<Self> {
        let text = URL_SAFE_NO_PAD.decode(token).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let bad = || Failure::new(S3ErrorCode::InvalidArgument, "The continuation token provided is incorrect.");
        match text.as_deref().and_then(|text| text.split_at_checked(1)) {
            Some(("k", key)) => Ok(Self::Key(key.to_owned())),
            Some(("p", prefix)) => Ok(Self::Prefix(prefix.to_owned())),
            _ => Err(bad()),
        }
    }

    fn into_text(self) -> String {
        match self {
            Self::Key(text) | Self::Prefix(text) => text,
        }
    }
}

/// The common prefix that a key is told as; `None`: it is told itself.
fn group<'a>(key: &'a str, prefix: &str, delimiter: &str) -> Option<&'a str> {
    if delimiter.is_empty() {
        return None;
    }
    let at = key.strip_prefix(prefix)?.find(delimiter)?;
    key.get(..prefix.len() + at + delimiter.len())
}

/// A place behind all keys that begin with a prefix, or nearly all: what is left of them is skipped by its name.
fn behind(prefix: &str) -> String {
    let mut place = prefix.to_owned();
    while place.len() + char::MAX.len_utf8() <= MAX_KEY_BYTES {
        place.push(char::MAX);
    }
    place
}

/// What is listed.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Item {
    Key(Key),
    Prefix(String),
}

/// A page as it is put together, from keys in order.
#[derive(Debug)]
struct Gathering {
    prefix: String,
    delimiter: String,
    most: usize,
    items: Vec<Item>,
    /// The last place that was told.
    after: Option<After>,
    /// There is more than fits.
    truncated: bool,
}

impl Gathering {
    /// Takes the next keys; false: the page is full.
    fn take(&mut self, keys: Vec<Key>) -> bool {
        for key in keys {
            if matches!(&self.after, Some(After::Prefix(told)) if key.as_str().starts_with(told)) {
                continue;
            }
            if self.items.len() == self.most {
                self.truncated = true;
                return false;
            }
            match group(key.as_str(), &self.prefix, &self.delimiter) {
                Some(common) => {
                    self.after = Some(After::Prefix(common.to_owned()));
                    self.items.push(Item::Prefix(common.to_owned()));
                }
                None => {
                    self.after = Some(After::Key(key.to_string()));
                    self.items.push(Item::Key(key));
                }
            }
        }
        true
    }

    /// Where to go on, given the last key that was seen.
    fn next(&self, seen: Option<Key>) -> Answer<Option<Key>> {
        let place = match &self.after {
            None => return Ok(seen),
            Some(After::Key(key)) => key.clone(),
            Some(After::Prefix(prefix)) => behind(prefix),
        };
        if place.is_empty() {
            return Ok(seen);
        }
        Ok(seen.max(Some(Key::new(place)?)))
    }
}

/// What is asked for, in either version.
struct Wanted {
    bucket: String,
    prefix: String,
    delimiter: String,
    after: Option<After>,
    most: usize,
    url: bool,
    owner: bool,
}

/// What came of it.
struct Found {
    objects: Vec<Object>,
    prefixes: Vec<CommonPrefix>,
    /// Where the next page begins; `None`: this was the last.
    next: Option<After>,
    _rooms: Vec<Room>,
}

impl Gateway {
    pub(super) async fn list_objects_v2(&self, input: ListObjectsV2Input) -> Answer<ListObjectsV2Output> {
        let prefix = input.prefix.clone().unwrap_or_default();
        let delimiter = input.delimiter.clone().unwrap_or_default();
        let after = match (&input.continuation_token, &input.start_after) {
            (Some(token), _) => Some(After::of_token(token)?),
            (None, Some(text)) if !text.is_empty() => Some(After::given(text.clone(), &prefix, &delimiter)),
            (None, _) => None,
        };
        let (most, told) = self.page(input.max_keys)?;
        let url = is_url(input.encoding_type.as_ref())?;
        let owner = input.fetch_owner.unwrap_or_default();
        let wanted = Wanted { bucket: input.bucket.clone(), prefix, delimiter, after, most, url, owner };
        let found = self.find(wanted).await?;
        let show = |text: Option<String>| text.map(|text| shown(&text, url));
        Ok(ListObjectsV2Output {
            name: Some(input.bucket),
            prefix: Some(input.prefix.map_or_else(String::new, |prefix| shown(&prefix, url))),
            delimiter: show(input.delimiter),
            start_after: show(input.start_after),
            max_keys: Some(told),
            key_count: i32::try_from(found.objects.len() + found.prefixes.len()).ok(),
            is_truncated: Some(found.next.is_some()),
            continuation_token: input.continuation_token,
            next_continuation_token: found.next.as_ref().map(After::token),
            contents: Some(found.objects),
            common_prefixes: Some(found.prefixes),
            encoding_type: input.encoding_type,
            request_charged: None,
        })
    }

    pub(super) async fn list_objects(&self, input: ListObjectsInput) -> Answer<ListObjectsOutput> {
        let prefix = input.prefix.clone().unwrap_or_default();
        let delimiter = input.delimiter.clone().unwrap_or_default();
        let marker = input.marker.clone().filter(|marker| !marker.is_empty());
        let after = marker.map(|marker| After::given(marker, &prefix, &delimiter));
        let (most, told) = self.page(input.max_keys)?;
        let url = is_url(input.encoding_type.as_ref())?;
        let delimited = !delimiter.is_empty();
        let wanted = Wanted { bucket: input.bucket.clone(), prefix, delimiter, after, most, url, owner: true };
        let found = self.find(wanted).await?;
        let show = |text: Option<String>| text.map(|text| shown(&text, url));
        Ok(ListObjectsOutput {
            name: Some(input.bucket),
            prefix: Some(input.prefix.map_or_else(String::new, |prefix| shown(&prefix, url))),
            marker: Some(input.marker.map_or_else(String::new, |marker| shown(&marker, url))),
            delimiter: show(input.delimiter),
            max_keys: Some(told),
            is_truncated: Some(found.next.is_some()),
            // Without a delimiter the last key of the page serves as the marker.
            next_marker: show(found.next.filter(|_| delimited).map(After::into_text)),
            contents: Some(found.objects),
            common_prefixes: Some(found.prefixes),
            encoding_type: input.encoding_type,
            request_charged: None,
        })
    }

    /// How many keys a page has at most, and how many the client is told.
    fn page(&self, asked: Option<i32>) -> Answer<(usize, i32)> {
        let default = match self.0.page {
            0 => MOST,
            page => (page as usize).min(MOST),
        };
        let most = match asked {
            None => default,
            Some(asked) => {
                let bad = |_| Failure::new(S3ErrorCode::InvalidArgument, "max-keys is negative.");
                usize::try_from(asked).map_err(bad)?.min(default)
            }
        };
        let told = asked.unwrap_or(if self.0.page == 0 { DEFAULT_PAGE as i32 } else { most as i32 });
        Ok((most, told.min(i32::try_from(most).unwrap_or(i32::MAX).max(DEFAULT_PAGE as i32))))
    }

    async fn find(&self, wanted: Wanted) -> Answer<Found> {
        self.is_there_now(&wanted.bucket).await?;
        let namespace = names::bucket(&wanted.bucket)?;
        let unpaged = self.0.page == 0 && wanted.most == MOST;
        let mut gathering = Gathering {
            prefix: wanted.prefix,
            delimiter: wanted.delimiter,
            most: wanted.most,
            items: Vec::new(),
            after: wanted.after,
            truncated: false,
        };
        // A page of no keys has no place where the next begins.
        let rooms = if wanted.most > 0 { self.gather(&namespace, &mut gathering).await? } else { Vec::new() };
        if unpaged && gathering.truncated {
            let message = format!(
                "There are more than {MOST} keys, and a listing has all of them at once here: ask by longer prefixes, or set \
                 listPageSize."
            );
            return Err(Failure::new(S3ErrorCode::InvalidRequest, message));
        }
        let next = gathering.after.filter(|_| gathering.truncated);
        let (mut objects, mut prefixes) = (Vec::new(), Vec::new());
        for item in &gathering.items {
            if let Item::Prefix(prefix) = item {
                prefixes.push(CommonPrefix { prefix: Some(shown(prefix, wanted.url)) });
            }
        }
        let keys = gathering.items.into_iter().filter_map(|item| match item {
            Item::Key(key) => Some(key),
            Item::Prefix(_) => None,
        });
        let keys: Vec<Key> = keys.collect();
        for keys in keys.chunks(STEP) {
            let calls = keys.iter().map(|key| Call::Look { key: key.clone() }).collect();
            for (key, reply) in keys.iter().zip(self.0.router.run(Some(&namespace), calls).await) {
                match reply {
                    Reply::Seen(Some(sight)) => {
                        objects.push(object(shown(key.as_str(), wanted.url), sight, wanted.owner));
                    }
                    // It was removed meanwhile.
                    Reply::Seen(None) => {}
                    other => return Err(other.into()),
                }
            }
        }
        Ok(Found { objects, prefixes, next, _rooms: rooms })
    }

    /// Puts a page together; gives the room in memory that it takes, which grows as keys come: most listings are short.
    async fn gather(&self, namespace: &Namespace, gathering: &mut Gathering) -> Answer<Vec<Room>> {
        let outlet = &self.0.outlet;
        let step = STEP.min(gathering.most) as u64 * KEY_BYTES;
        let deadline = Instant::now() + outlet.patience();
        let mut rooms = vec![outlet.room(step, deadline).await.ok_or_else(Failure::crowded)?];
        let mut seen: Option<Key> = None;
        loop {
            if gathering.items.len() >= rooms.len() * STEP {
                // Who holds some and waits for more could wait for another who does.
                rooms.push(outlet.try_room(step).ok_or_else(Failure::crowded)?);
            }
            let limit = (gathering.most - gathering.items.len() + 1).min(STEP);
            let listing = Listing {
                namespace: Some(namespace.clone()),
                prefix: gathering.prefix.clone(),
                after: gathering.next(seen.take())?,
                limit,
            };
            let page = self.0.router.list(&listing).await?;
            seen = page.keys.last().cloned().or(listing.after);
            if !gathering.take(page.keys) || !page.more {
                return Ok(rooms);
            }
        }
    }
}

fn object(key: String, Sight { head, .. }: Sight, owner: bool) -> Object {
    Object {
        e_tag: Some(heads::etag(&head)),
        key: Some(key),
        last_modified: Some(heads::modified(&head)),
        owner: owner.then(|| Owner { ..buckets::owner() }),
        size: i64::try_from(head.size).ok(),
        storage_class: Some(ObjectStorageClass::from_static(ObjectStorageClass::STANDARD)),
        ..Object::default()
    }
}

fn is_url(encoding: Option<&EncodingType>) -> Answer<bool> {
    match encoding.map(EncodingType::as_str) {
        None => Ok(false),
        Some(EncodingType::URL) => Ok(true),
        Some(_) => Err(Failure::new(S3ErrorCode::InvalidArgument, "Invalid Encoding Method specified in Request.")),
    }
}

/// A name as it is told: percent-encoded, where the client asks for that.
fn shown(text: &str, url: bool) -> String {
    if !url {
        return text.to_owned();
    }
    let mut shown = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'*' | b'/' => {
                shown.push(char::from(byte));
            }
            // Writing to a string can't fail.
            other => drop(write!(shown, "%{other:02X}")),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// All pages of some keys, as a client would ask for them.
    fn pages(keys: &BTreeSet<String>, prefix: &str, delimiter: &str, most: usize) -> Vec<Vec<Item>> {
        let mut pages = Vec::new();
        let mut after = None;
        loop {
            let (prefix, delimiter) = (prefix.to_owned(), delimiter.to_owned());
            let mut page = Gathering { prefix, delimiter, most, items: Vec::new(), after, truncated: false };
            let mut seen: Option<Key> = None;
            loop {
                let from = page.next(seen.take()).unwrap();
                let matching = keys.iter().filter(|key| key.starts_with(&page.prefix));
                let matching = matching.map(|key| Key::new(key.clone()).unwrap());
                let some: Vec<Key> =
                    matching.filter(|key| from.as_ref().is_none_or(|from| key > from)).take(2).collect();
                seen = some.last().cloned();
                if some.is_empty() || !page.take(some) {
                    break;
                }
            }
            after = page.after.map(|after| After::of_token(&after.token()).unwrap());
            pages.push(page.items);
            if !page.truncated {
                return pages;
            }
        }
    }

    proptest! {
        #[test]
        fn pages_tell_each_key_or_its_prefix_once_in_order(
            keys in prop::collection::btree_set("[ab/\u{10ffff}]{1,5}", 0..30),
            prefix in "[ab/]{0,2}",
            delimiter in prop_oneof![Just(""), Just("/"), Just("ab")],
            most in 1_usize..6,
        ) {
            let mut expected: Vec<Item> = Vec::new();
            for key in keys.iter().filter(|key| key.starts_with(&prefix)) {
                let item = match group(key, &prefix, delimiter) {
                    Some(common) => Item::Prefix(common.to_owned()),
                    None => Item::Key(Key::new(key.clone()).unwrap()),
                };
                if expected.last() != Some(&item) {
                    expected.push(item);
                }
            }
            let pages = pages(&keys, &prefix, delimiter, most);
            let full = pages.iter().rev().skip(1).all(|page| page.len() == most);
            prop_assert!(full && pages.iter().all(|page| page.len() <= most));
            prop_assert_eq!(pages.concat(), expected);
        }
    }

    #[test]
    fn a_common_prefix_stands_for_all_its_keys_and_a_key_for_itself() {
        assert_eq!(After::given("a/".into(), "", "/"), After::Prefix("a/".into()));
        assert_eq!(After::given("a/b".into(), "", "/"), After::Key("a/b".into()));
        assert_eq!(After::given("a/".into(), "a/", "/"), After::Key("a/".into()));
        assert_eq!(After::given("a/".into(), "", ""), After::Key("a/".into()));
        assert!(After::of_token("").is_err() && After::of_token("!").is_err());
        assert!(After::of_token(&URL_SAFE_NO_PAD.encode("x")).is_err());
    }

    #[test]
    fn a_place_behind_a_prefix_is_a_key() {
        for prefix in ["a/", &"a".repeat(1024), &"a".repeat(1022)] {
            let place = behind(prefix);
            assert!(place.as_str() >= prefix && Key::new(place).is_ok());
        }
    }

    #[test]
    fn names_are_encoded_where_that_is_asked_for() {
        assert_eq!(shown("a b+c/ä*", true), "a%20b%2Bc/%C3%A4*");
        assert_eq!(shown("a b", false), "a b");
    }
}
