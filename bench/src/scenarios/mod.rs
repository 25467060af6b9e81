//! What is measured, one file each.

pub mod cached_get;
pub mod durable_set;
pub mod hot_and_cold;
pub mod increments;
pub mod many_keys;
pub mod placement;
pub mod s3_requests;
pub mod s3_server;

use std::sync::Arc;

use crate::contest::Plan;
use crate::http;
use crate::light::Exchange;
use crate::server::Places;

/// Clients at once, where nothing else is said.
const CLIENTS: usize = 64;
/// Size of a value.
const VALUE: usize = 1024;
/// Keys that are read and written.
const KEYS: u64 = 10_000;

/// Where and how long is measured.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Programs and folders.
    pub places: Places,
    /// Rounds.
    pub plan: Plan,
    /// Keys of the large store.
    pub many: u64,
    /// Size of the large object in MiB.
    pub large_megabytes: u64,
}

/// A value of the usual size: letters that do not repeat soon.
fn value(number: u64) -> String {
    let mut state = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut text = String::with_capacity(VALUE + 16);
    while text.len() < VALUE {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        text.push_str(&format!("{state:016x}"));
    }
    text.truncate(VALUE);
    text
}

fn key(number: u64) -> String {
    format!("key-{number:08}")
}

/// One exchange for each key.
fn for_each_key(exchange: impl Fn(&str, u64) -> Exchange) -> Arc<[Exchange]> {
    (0..KEYS).map(|number| exchange(&key(number), number)).collect()
}

/// A value as JSON text.
fn json(number: u64) -> Vec<u8> {
    serde_json::json!(value(number)).to_string().into_bytes()
}

/// A write of raw bytes through the sidecar's API.
fn put(key: &str, number: u64) -> Vec<u8> {
    http::request("PUT", &format!("/v1/kv/{key}"), "application/octet-stream", value(number).as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_their_size_and_differ() {
        assert_eq!(value(0).len(), VALUE);
        assert_ne!(value(0), value(1));
        assert_ne!(value(0)[..16], value(0)[16..32]);
    }
}
