//! What is told of an object, between S3's words and what is stored.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use brainy_storage::object::Head;
use s3s::S3ErrorCode;
use s3s::dto::{ETag, Metadata, Timestamp, TimestampFormat};

use super::failure::{Answer, Failure};
use crate::host;

/// What S3 says of bytes of which nothing was said.
pub(super) const OCTETS: &str = "binary/octet-stream";
/// Most bytes of names and values of what a writer wants kept with an object: S3's own limit.
const MOST_METADATA: usize = 2048;
/// The last millisecond that a time of S3 can tell: the year 9999's.
const LAST: i64 = 253_402_300_799_999;

/// The headers of an object, from those fields of a request that all requests to write one have.
macro_rules! said {
    ($input:expr) => {{
        let input = $input;
        let expires = input.expires.as_ref().and_then($crate::s3::heads::http_date);
        let encoding = input.content_encoding.as_deref().and_then($crate::s3::heads::encoding);
        let fields: [(&str, Option<String>); 6] = [
            ("cache-control", input.cache_control.clone()),
            ("content-disposition", input.content_disposition.clone()),
            ("content-encoding", encoding),
            ("content-language", input.content_language.clone()),
            ("content-type", input.content_type.clone()),
            ("expires", expires),
        ];
        let given = |(name, value): (&str, Option<String>)| Some((name.to_owned(), value?));
        fields.into_iter().filter_map(given).collect::<std::collections::BTreeMap<String, String>>()
    }};
}

/// The answer to a read of an object, with all that is told of it but for its length and bytes.
macro_rules! told {
    ($output:ident, $head:expr, checksums: $checksums:expr) => {{
        let head: &brainy_storage::object::Head = $head;
        let header = |name: &str| head.headers.get(name).cloned();
        let checksum = |name: &str| head.checksums.get(name).filter(|_| $checksums).cloned();
        s3s::dto::$output {
            accept_ranges: Some("bytes".to_owned()),
            cache_control: header("cache-control"),
            checksum_crc32: checksum("crc32"),
            checksum_crc32c: checksum("crc32c"),
            checksum_crc64nvme: checksum("crc64nvme"),
            checksum_sha1: checksum("sha1"),
            checksum_sha256: checksum("sha256"),
            checksum_type: $crate::s3::heads::checksum_type(head).filter(|_| $checksums),
            content_disposition: header("content-disposition"),
            content_encoding: header("content-encoding"),
            content_language: header("content-language"),
            content_type: Some(header("content-type").unwrap_or_else(|| $crate::s3::heads::OCTETS.to_owned())),
            e_tag: Some($crate::s3::heads::etag(head)),
            expires: header("expires").as_deref().and_then($crate::s3::heads::parse_http_date),
            last_modified: Some($crate::s3::heads::modified(head)),
            metadata: Some($crate::s3::heads::metadata(head)).filter(|metadata| !metadata.is_empty()),
            ..Default::default()
        }
    }};
}

pub(super) use {said, told};

/// What a writer wants kept with an object.
pub(super) fn kept(metadata: Option<Metadata>) -> Answer<BTreeMap<String, String>> {
    let metadata: BTreeMap<String, String> = metadata.into_iter().flatten().collect();
    let bytes: usize = metadata.iter().map(|(name, value)| name.len() + value.len()).sum();
    if bytes > MOST_METADATA {
        let message = format!("The metadata has {bytes} bytes; {MOST_METADATA} are allowed.");
        return Err(Failure::new(S3ErrorCode::MetadataTooLarge, message));
    }
    Ok(metadata)
}

/// The moment at which an object is written.
pub(super) fn now() -> i64 {
    host::wall().as_millisecond()
}

pub(super) fn etag(head: &Head) -> ETag {
    ETag::Strong(head.etag.clone())
}

pub(super) fn metadata(head: &Head) -> Metadata {
    head.metadata.iter().map(|(name, value)| (name.clone(), value.clone())).collect()
}

pub(super) fn checksum_type(head: &Head) -> Option<s3s::dto::ChecksumType> {
    use s3s::dto::ChecksumType;
    let kind = if head.composite { ChecksumType::COMPOSITE } else { ChecksumType::FULL_OBJECT };
    (!head.checksums.is_empty()).then(|| ChecksumType::from_static(kind))
}

/// When an object was written.
pub(super) fn modified(head: &Head) -> Timestamp {
    time(head.modified)
}

/// The same, as a header tells it.
pub(super) fn to_the_second(head: &Head) -> Timestamp {
    time(head.modified.div_euclid(1000) * 1000)
}

/// A time in milliseconds since 1970.
pub(super) fn time(milliseconds: i64) -> Timestamp {
    let milliseconds = milliseconds.clamp(0, LAST).unsigned_abs();
    (SystemTime::UNIX_EPOCH + Duration::from_millis(milliseconds)).into()
}

pub(super) fn http_date(time: &Timestamp) -> Option<String> {
    let mut text = Vec::new();
    time.format(TimestampFormat::HttpDate, &mut text).ok()?;
    String::from_utf8(text).ok()
}

pub(super) fn parse_http_date(text: &str) -> Option<Timestamp> {
    Timestamp::parse(TimestampFormat::HttpDate, text).ok()
}

/// The encoding of an object's bytes, without that of the request that brought them.
pub(super) fn encoding(given: &str) -> Option<String> {
    let kept: Vec<&str> =
        given.split(',').map(str::trim).filter(|one| !one.eq_ignore_ascii_case("aws-chunked")).collect();
    Some(kept.join(",")).filter(|kept| !kept.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_encoding_of_a_request_is_not_that_of_the_object() {
        assert_eq!(encoding("aws-chunked"), None);
        assert_eq!(encoding("gzip, aws-chunked").as_deref(), Some("gzip"));
        assert_eq!(encoding("aws-chunked,gzip,br").as_deref(), Some("gzip,br"));
    }

    #[test]
    fn a_time_that_can_not_be_told_is_told_as_the_nearest_that_can() {
        assert_eq!(time(-5), time(0));
        assert_eq!(time(i64::MAX), time(LAST));
        assert_eq!(http_date(&time(784_111_777_000)).as_deref(), Some("Sun, 06 Nov 1994 08:49:37 GMT"));
        assert_eq!(parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT"), Some(time(784_111_777_000)));
    }

    #[test]
    fn metadata_has_a_limit() {
        let of = |bytes: usize| Some(Metadata::from([("a".to_owned(), "b".repeat(bytes - 1))]));
        assert!(kept(of(MOST_METADATA)).is_ok() && kept(of(MOST_METADATA + 1)).is_err() && kept(None).is_ok());
    }
}
