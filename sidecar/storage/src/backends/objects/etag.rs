//! ETags, and the tags of versions that are made of them.

use std::fmt;

use md5::{Digest, Md5};

use crate::envelope::{SHORT_NONCE, Trail};

/// An ETag as the store gave it, fit to be sent back: it names one version and nothing else. Never empty, never `*`,
/// never a list, any of which would make a write less conditional than it looks (R4).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ETag(String);

/// Marks a tag that holds the ETag's bytes in hexadecimal.
const HEX_MARK: &str = "x-";
/// Marks, at the end of a tag, a version that keeps a memory of operations: what is written over it must carry it on.
const KEEPS_MARK: &str = "-k";
/// Stands before the marks of writes.
const WRITES_MARK: &str = "-m";
/// How many writes a tag names.
const MOST_WRITES: usize = 3;

/// What a bucket's version says in its tag: all that a write needs that follows this version without a look at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tag {
    pub(super) etag: ETag,
    /// Whether the version keeps a memory of operations: what is written over it must carry that on.
    pub(super) keeps: bool,
    /// Marks of the write that made the version and of those before it, newest first: what is written over it names them
    /// too, so that their writers find out what became of them.
    pub(super) writes: Vec<String>,
}

impl Tag {
    /// Of the version with this ETag. `trail` is that of the write that comes next.
    pub(super) fn new(etag: &ETag, trail: &Trail) -> Self {
        let writes = trail.before.iter().take(MOST_WRITES).cloned().collect();
        Self { etag: etag.clone(), keeps: !trail.performed.is_empty(), writes }
    }

    /// Reads a version's tag. One that no version had leads to an ETag that no object has.
    pub(super) fn of(tag: &str) -> Self {
        let (rest, keeps) = tag.strip_suffix(KEEPS_MARK).map_or((tag, false), |rest| (rest, true));
        let named = rest.split_once(WRITES_MARK).and_then(|(plain, marks)| Some((plain, writes(marks)?)));
        let (plain, writes) = named.unwrap_or((rest, Vec::new()));
        Self { etag: ETag::of_plain_tag(plain), keeps, writes }
    }
}

/// The marks of the writes that a tag names; `None` if these are none.
fn writes(marks: &str) -> Option<Vec<String>> {
    let mut lengths = (1..=MOST_WRITES).map(|writes| writes * SHORT_NONCE);
    let hex = marks.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let chunks = || marks.as_bytes().chunks(SHORT_NONCE).map(|mark| String::from_utf8_lossy(mark).into_owned());
    (hex && lengths.any(|length| length == marks.len())).then(|| chunks().collect())
}

/// Letters, digits and `-` only.
impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.etag.plain_tag())?;
        if !self.writes.is_empty() {
            write!(f, "{WRITES_MARK}{}", self.writes.concat())?;
        }
        f.write_str(if self.keeps { KEEPS_MARK } else { "" })
    }
}

impl ETag {
    /// Of the header as received; `None` if it could match more than one version.
    pub fn new(header: impl Into<String>) -> Option<Self> {
        let header = header.into();
        let strong = header.strip_prefix("W/").unwrap_or(&header);
        let inner = strong.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
        let fits = match inner {
            Some(inner) => inner.bytes().all(|b| (b' '..=b'~').contains(&b) && b != b'"'),
            None => {
                let harmless = |b: u8| b.is_ascii_graphic() && !matches!(b, b'"' | b',' | b'*');
                !header.is_empty() && header.bytes().all(harmless)
            }
        };
        fits.then_some(Self(header))
    }

    /// As sent in `If-Match`.
    pub fn header(&self) -> &str {
        &self.0
    }

    /// Whether it is the MD5 of `body`; `None` if it does not look like an MD5.
    pub fn is_md5_of(&self, body: &[u8]) -> Option<bool> {
        let hex = self.0.trim_matches('"');
        let looks = hex.len() == 32 && hex.bytes().all(|b| b.is_ascii_hexdigit());
        looks.then(|| hex.eq_ignore_ascii_case(&format!("{:032x}", u128::from_be_bytes(Md5::digest(body).into()))))
    }

    /// Letters, digits and `-` only. The common form, a quoted hash, stands for itself; any other is written in
    /// hexadecimal, because the exact ETag is needed for the next `If-Match`.
    fn plain_tag(&self) -> String {
        let inner = self.0.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
        let plain = |text: &&str| {
            !text.is_empty()
                && !text.starts_with(HEX_MARK)
                && !text.ends_with(KEEPS_MARK)
                && !text.contains(WRITES_MARK)
                && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        };
        match inner.filter(plain) {
            Some(hash) => hash.to_owned(),
            None => {
                let digits = self.0.bytes().map(|b| format!("{b:02x}"));
                HEX_MARK.chars().chain(digits.flat_map(|d| d.chars().collect::<Vec<_>>())).collect()
            }
        }
    }

    fn of_plain_tag(tag: &str) -> Self {
        let from_hex = |digits: &str| {
            let bytes: Option<Vec<u8>> = (0..digits.len())
                .step_by(2)
                .map(|i| digits.get(i..i + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok()))
                .collect();
            bytes.and_then(|bytes| String::from_utf8(bytes).ok())
        };
        let decoded = tag.strip_prefix(HEX_MARK).and_then(from_hex).and_then(Self::new);
        decoded.unwrap_or_else(|| Self(format!("\"{tag}\"")))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_common_etag_is_its_own_tag() {
        let tag = |keeps, writes: &[&str]| {
            let writes = writes.iter().map(|mark| (*mark).to_owned()).collect();
            Tag { etag: ETag::new("\"9f86d0-2\"").unwrap(), keeps, writes }.to_string()
        };
        assert_eq!(tag(false, &[]), "9f86d0-2");
        assert_eq!(tag(true, &[]), "9f86d0-2-k");
        assert_eq!(tag(true, &["0123456789ab", "cdef01234567"]), "9f86d0-2-m0123456789abcdef01234567-k");
    }

    #[test]
    fn an_md5_is_told_from_another_and_from_what_is_none() {
        let etag = |header: &str| ETag::new(header).unwrap();
        assert_eq!(etag("\"900150983CD24fb0d6963f7d28e17f72\"").is_md5_of(b"abc"), Some(true));
        assert_eq!(etag("\"900150983cd24fb0d6963f7d28e17f72\"").is_md5_of(b"abd"), Some(false));
        assert_eq!(etag("\"900150983cd24fb0d6963f7d28e17f72-2\"").is_md5_of(b"abc"), None);
    }

    #[test]
    fn what_matches_more_than_one_version_is_no_etag() {
        for header in ["", "*", "\"a\", \"b\"", "a,b", "a\nb", "\"a\nb\"", "W/*"] {
            assert_eq!(ETag::new(header), None, "{header:?}");
        }
        // "x-2a" is "*" in hexadecimal: a version that a client made up must not turn into a condition that always holds.
        assert_eq!(Tag::of("x-2a").etag.header(), "\"x-2a\"");
        assert_eq!(Tag::of("x-").etag.header(), "\"x-\"");
    }

    proptest! {
        #[test]
        fn every_etag_survives_the_way_through_a_version(header in prop_oneof!["\"[a-f0-9]{32}\"", "(W/)?\"[ -!#-~]{0,12}\"", "[!-~]{1,12}", "\"x-[0-9a-f]{0,6}\"", "\"[a-z]{0,3}-[km][0-9a-f]{0,3}\""], writes in prop::collection::vec("[0-9a-f]{12}", 0..4)) {
            let Some(etag) = ETag::new(header) else { return Ok(()) };
            for keeps in [false, true] {
                let tag = Tag { etag: etag.clone(), keeps, writes: writes.clone() };
                let text = tag.to_string();
                prop_assert!(!text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'));
                prop_assert_eq!(Tag::of(&text), tag);
            }
        }

        #[test]
        fn no_tag_breaks_a_header(tag in "[A-Za-z0-9-]{1,16}") {
            prop_assert!(Tag::of(&tag).etag.header().bytes().all(|b| (b' '..=b'~').contains(&b)));
        }
    }
}
