//! Checksums: what a client says of the bytes that it sends, in headers before or trailers behind them, is held against the
//! bytes that came.

use std::collections::BTreeMap;

use axum::http::HeaderMap;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use brainy_storage::object::hex;
use crc_fast::CrcAlgorithm;
use md5::{Digest, Md5};
use s3s::S3ErrorCode;
use s3s::checksum::ChecksumHasher;
use s3s::crypto::Checksum as _;

use super::failure::{Answer, Failure};

/// Begins the names of headers that have checksums.
const PREFIX: &str = "x-amz-checksum-";
/// Each with the bytes that it has.
const ALGORITHMS: [(&str, usize); 5] = [("crc32", 4), ("crc32c", 4), ("crc64nvme", 8), ("sha1", 20), ("sha256", 32)];

/// The sums of bytes that come in.
pub(super) struct Sums {
    md5: Md5,
    hasher: ChecksumHasher,
    claimed_md5: Option<[u8; 16]>,
    claimed: BTreeMap<&'static str, String>,
    /// Come behind the bytes.
    announced: Vec<&'static str>,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Summed {
    /// In hexadecimal digits.
    pub(super) md5: String,
    /// Those that the client has claimed, or asked for, in Base64.
    pub(super) checksums: BTreeMap<String, String>,
}

impl Sums {
    /// For the bytes of a request with these headers.
    pub(super) fn of(headers: &HeaderMap) -> Answer<Self> {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let claimed_md5 = match text("content-md5") {
            None => None,
            Some(given) => {
                let bytes = BASE64.decode(given).ok().and_then(|bytes| bytes.try_into().ok());
                let bad = || Failure::new(S3ErrorCode::InvalidDigest, "Content-MD5 is no MD5 in Base64.");
                Some(bytes.ok_or_else(bad)?)
            }
        };
        let mut sums = Self {
            md5: Md5::new(),
            hasher: ChecksumHasher::default(),
            claimed_md5,
            claimed: BTreeMap::new(),
            announced: Vec::new(),
        };
        let trailers = text("x-amz-trailer").unwrap_or_default();
        for (name, bytes) in ALGORITHMS {
            let header = format!("{PREFIX}{name}");
            if let Some(given) = headers.get(&header) {
                sums.claim(name, bytes, given.to_str().unwrap_or_default())?;
            }
            if trailers.split(',').any(|trailer| trailer.trim().eq_ignore_ascii_case(&header)) {
                sums.announced.push(name);
                sums.begin(name);
            }
        }
        Ok(sums)
    }

    /// Also this one, whether it is claimed or not.
    pub(super) fn also(&mut self, algorithm: &str) {
        if is_known(algorithm) {
            self.begin(algorithm);
        }
    }

    fn claim(&mut self, name: &'static str, bytes: usize, given: &str) -> Answer<()> {
        if !BASE64.decode(given).is_ok_and(|decoded| decoded.len() == bytes) {
            let message = format!("Value for {PREFIX}{name} header is invalid.");
            return Err(Failure::new(S3ErrorCode::InvalidRequest, message));
        }
        self.claimed.insert(name, given.to_owned());
        self.begin(name);
        Ok(())
    }

    fn begin(&mut self, name: &str) {
        let hasher = &mut self.hasher;
        match name {
            "crc32" => drop(hasher.crc32.get_or_insert_default()),
            "crc32c" => drop(hasher.crc32c.get_or_insert_default()),
            "crc64nvme" => drop(hasher.crc64nvme.get_or_insert_default()),
            "sha1" => drop(hasher.sha1.get_or_insert_with(s3s::crypto::Sha1::new)),
            _ => drop(hasher.sha256.get_or_insert_with(s3s::crypto::Sha256::new)),
        }
    }

    /// Bytes that have come in.
    pub(super) fn add(&mut self, bytes: &[u8]) {
        self.md5.update(bytes);
        self.hasher.update(bytes);
    }

    /// All bytes have come in, and these trailers behind them.
    pub(super) fn verify(mut self, trailers: Option<&HeaderMap>) -> Answer<Summed> {
        for name in std::mem::take(&mut self.announced) {
            let given = trailers.and_then(|trailers| trailers.get(format!("{PREFIX}{name}"))?.to_str().ok());
            let Some(given) = given else {
                let message = format!("The trailer {PREFIX}{name} was announced and did not come.");
                return Err(Failure::named("MalformedTrailerError", message));
            };
            self.claimed.insert(name, given.to_owned());
        }
        let md5: [u8; 16] = self.md5.finalize().into();
        if self.claimed_md5.is_some_and(|claimed| claimed != md5) {
            return Err(bad("Content-MD5"));
        }
        let checksums = named(self.hasher.finalize());
        for (name, claimed) in self.claimed {
            if checksums.get(name) != Some(&claimed) {
                return Err(bad(&name.to_uppercase()));
            }
        }
        Ok(Summed { md5: hex(&md5), checksums })
    }
}

/// Whether there is such an algorithm.
pub(super) fn is_known(algorithm: &str) -> bool {
    ALGORITHMS.iter().any(|(name, _)| *name == algorithm)
}

/// The checksum of checksums, in order.
pub(super) fn of_sums(algorithm: &str, sums: &[(Vec<u8>, u64)]) -> Option<Vec<u8>> {
    let mut all = Sums::of(&HeaderMap::new()).ok()?;
    all.also(algorithm);
    sums.iter().for_each(|(sum, _)| all.hasher.update(sum));
    BASE64.decode(named(all.hasher.finalize()).get(algorithm)?).ok()
}

/// The checksum of bytes, of the checksums and lengths of what they are put together of.
pub(super) fn joined(algorithm: &str, sums: &[(Vec<u8>, u64)]) -> Option<Vec<u8>> {
    let (crc, bytes) = match algorithm {
        "crc32" => (CrcAlgorithm::Crc32IsoHdlc, 4),
        "crc32c" => (CrcAlgorithm::Crc32Iscsi, 4),
        "crc64nvme" => (CrcAlgorithm::Crc64Nvme, 8),
        _ => return None,
    };
    let number = |sum: &[u8]| sum.iter().fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
    let mut all = sums.iter().map(|(sum, length)| (number(sum), *length));
    let (first, _) = all.next()?;
    let sum = all.fold(first, |sum, (next, length)| crc_fast::checksum_combine(crc, sum, next, length));
    Some(sum.to_be_bytes()[8 - bytes..].to_vec())
}

pub(super) fn bad(what: &str) -> Failure {
    let message = format!("The {what} you specified did not match what was received.");
    Failure::new(S3ErrorCode::BadDigest, message)
}

fn named(checksum: s3s::dto::Checksum) -> BTreeMap<String, String> {
    let all = [
        ("crc32", checksum.checksum_crc32),
        ("crc32c", checksum.checksum_crc32c),
        ("crc64nvme", checksum.checksum_crc64nvme),
        ("sha1", checksum.checksum_sha1),
        ("sha256", checksum.checksum_sha256),
    ];
    all.into_iter().filter_map(|(name, sum)| Some((name.to_owned(), sum?))).collect()
}

/// The fields of an answer that tell checksums. With `..` at the end it has others, which say nothing.
macro_rules! checksums {
    ($checksums:expr, $output:ident { $($field:ident: $value:expr,)* .. }) => {
        checksums!($checksums, $output { $($field: $value,)* } ..s3s::dto::$output::default())
    };
    ($checksums:expr, $output:ident { $($field:ident: $value:expr),* $(,)? } $(..$rest:expr)?) => {{
        let of = |name: &str| $checksums.get(name).cloned();
        s3s::dto::$output {
            checksum_crc32: of("crc32"),
            checksum_crc32c: of("crc32c"),
            checksum_crc64nvme: of("crc64nvme"),
            checksum_sha1: of("sha1"),
            checksum_sha256: of("sha256"),
            $($field: $value,)*
            $(..$rest)?
        }
    }};
}

pub(super) use checksums;

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(given: &[(&'static str, &str)]) -> HeaderMap {
        given.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    fn sum(given: &[(&'static str, &str)], trailers: Option<&[(&'static str, &str)]>) -> Result<Summed, String> {
        let code = |failure: Failure| failure.into_error().code().as_str().to_owned();
        let mut sums = Sums::of(&headers(given)).map_err(code)?;
        sums.add(b"hel");
        sums.add(b"lo");
        sums.verify(trailers.map(headers).as_ref()).map_err(code)
    }

    #[test]
    fn what_is_claimed_must_be_so() {
        let summed = sum(&[], None).unwrap();
        assert_eq!((summed.md5.as_str(), summed.checksums.len()), ("5d41402abc4b2a76b9719d911017c592", 0));
        let good = [
            ("content-md5", "XUFAKrxLKna5cZ2REBfFkg=="),
            ("x-amz-checksum-crc32", "NhCmhg=="),
            ("x-amz-checksum-crc32c", "mnG7TA=="),
            ("x-amz-checksum-sha1", "qvTGHdzF6KLavt4PO0gs2a6pQ00="),
            ("x-amz-checksum-sha256", "LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ="),
        ];
        let summed = sum(&good, None).unwrap();
        assert_eq!(summed.checksums["crc32"], "NhCmhg==");
        assert_eq!(summed.checksums.len(), 4);
        for (name, value) in good {
            let other = BASE64.encode(BASE64.decode(value).unwrap().iter().map(|byte| byte ^ 1).collect::<Vec<_>>());
            assert_eq!(sum(&[(name, &other)], None), Err("BadDigest".into()), "{name}");
            let malformed = if name == "content-md5" { "InvalidDigest" } else { "InvalidRequest" };
            assert_eq!(sum(&[(name, "AAA=")], None), Err(malformed.into()), "{name}");
        }
    }

    #[test]
    fn what_is_announced_must_come() {
        let announced = [("x-amz-trailer", "x-amz-checksum-crc32")];
        let good: &[(&str, &str)] = &[("x-amz-checksum-crc32", "NhCmhg==")];
        assert_eq!(sum(&announced, Some(good)).unwrap().checksums["crc32"], "NhCmhg==");
        assert_eq!(sum(&announced, Some(&[("x-amz-checksum-crc32", "AAAAAA==")])), Err("BadDigest".into()));
        for trailers in [None, Some(&[][..])] {
            assert_eq!(sum(&announced, trailers), Err("MalformedTrailerError".into()));
        }
    }

    #[test]
    fn a_sum_that_is_only_asked_for_is_told() {
        let mut sums = Sums::of(&HeaderMap::new()).unwrap();
        sums.also("crc32");
        sums.add(b"hello");
        assert_eq!(sums.verify(None).unwrap().checksums["crc32"], "NhCmhg==");
    }

    #[test]
    fn the_sums_of_parts_are_put_together_as_if_the_bytes_had_come_as_one() {
        for (algorithm, _) in ALGORITHMS {
            let of = |bytes: &[u8]| {
                let mut sums = Sums::of(&HeaderMap::new()).unwrap();
                sums.also(algorithm);
                sums.add(bytes);
                BASE64.decode(&sums.verify(None).unwrap().checksums[algorithm]).unwrap()
            };
            let parts = [(of(b"hel"), 3), (of(b""), 0), (of(b"lo, world"), 9)];
            match joined(algorithm, &parts) {
                Some(sum) => assert_eq!(sum, of(b"hello, world"), "{algorithm}"),
                None => assert!(algorithm.starts_with("sha"), "{algorithm}"),
            }
            let sums: Vec<u8> = parts.iter().flat_map(|(sum, _)| sum.clone()).collect();
            assert_eq!(of_sums(algorithm, &parts), Some(of(&sums)), "{algorithm}");
        }
    }
}
