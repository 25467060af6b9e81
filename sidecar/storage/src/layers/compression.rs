//! Stores large values compressed: where they become smaller by it, and only there.
//!
//! That a value is compressed stands in its envelope, beside it: no value can be mistaken for a compressed one, whatever
//! it holds, and each is read the same whether or not the layer is there today. Everything above sees the value itself, so
//! that it is compared as it was written.

use std::io::{Read, Write};

use bytes::Bytes;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use serde::{Deserialize, Serialize};

/// Which values are compressed, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Compression {
    /// How.
    pub algorithm: Algorithm,
    /// Values of up to this many bytes stay as they are.
    pub above_bytes: u64,
}

impl Default for Compression {
    /// zstd, above 1,024 bytes.
    fn default() -> Self {
        Self { algorithm: Algorithm::Zstd, above_bytes: 1024 }
    }
}

/// A way to compress.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Algorithm {
    /// RFC 8878.
    Zstd,
    /// RFC 1952.
    Gzip,
}

/// What a header must gain by, beyond its own field, before a value is stored compressed.
const FIELDS: usize = 64;

impl Compression {
    /// The value compressed; `None`: it is stored as it is.
    pub(crate) fn compress(&self, plain: &[u8]) -> Option<Bytes> {
        if plain.len() as u64 <= self.above_bytes {
            return None;
        }
        let compressed = match self.algorithm {
            Algorithm::Zstd => zstd::bulk::compress(plain, zstd::DEFAULT_COMPRESSION_LEVEL),
            Algorithm::Gzip => {
                let mut encoder = GzEncoder::new(Vec::with_capacity(plain.len() / 2), flate2::Compression::default());
                encoder.write_all(plain).and_then(|()| encoder.finish())
            }
        };
        // It can fail for lack of memory only; then the value is stored as it is.
        let compressed = compressed.ok()?;
        (compressed.len() + FIELDS < plain.len()).then(|| compressed.into())
    }
}

impl Algorithm {
    /// The value of `length` bytes that was compressed, or what is wrong with it. Takes no more memory than that, whatever
    /// the bytes say.
    pub(crate) fn decompress(self, compressed: &[u8], length: u64) -> Result<Bytes, String> {
        let read = |source: &mut dyn Read| {
            let mut plain = Vec::new();
            source.take(length.saturating_add(1)).read_to_end(&mut plain).map(|_| plain)
        };
        let plain = match self {
            Self::Zstd => {
                zstd::stream::read::Decoder::with_buffer(compressed).and_then(|mut decoder| read(&mut decoder))
            }
            Self::Gzip => read(&mut GzDecoder::new(compressed)),
        };
        let plain = plain.map_err(|why| format!("it can't be decompressed: {why}"))?;
        if plain.len() as u64 != length {
            return Err(format!("it should have {length} bytes when decompressed"));
        }
        Ok(plain.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: [Algorithm; 2] = [Algorithm::Zstd, Algorithm::Gzip];

    fn with(algorithm: Algorithm) -> Compression {
        Compression { algorithm, ..Compression::default() }
    }

    #[test]
    fn what_shrinks_comes_back_as_it_was() {
        for algorithm in BOTH {
            let plain = b"again and ".repeat(200);
            let compressed = with(algorithm).compress(&plain).unwrap();
            assert!(compressed.len() < 200, "{algorithm:?}: {}", compressed.len());
            assert_eq!(algorithm.decompress(&compressed, 2000).unwrap(), plain);
        }
    }

    #[test]
    fn what_is_small_or_does_not_shrink_stays_as_it_is() {
        let noise: Vec<u8> = (0..128).flat_map(|_| uuid::Uuid::new_v4().into_bytes()).collect();
        for algorithm in BOTH {
            assert_eq!(with(algorithm).compress(&[0; 1024]), None);
            assert!(with(algorithm).compress(&[0; 1025]).is_some());
            assert_eq!(with(algorithm).compress(&noise), None);
        }
    }

    #[test]
    fn damage_and_a_wrong_length_are_errors() {
        for algorithm in BOTH {
            let compressed = with(algorithm).compress(&[7; 5000]).unwrap();
            for wrong in [0, 4999, 5001, u64::MAX] {
                assert!(algorithm.decompress(&compressed, wrong).is_err(), "{algorithm:?} {wrong}");
            }
            assert!(algorithm.decompress(&compressed[..compressed.len() / 2], 5000).is_err());
            assert!(algorithm.decompress(b"no such thing", 5000).is_err());
        }
    }
}
