//! `spec.storage.layers`: what lies between the application and the store.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One layer over the store.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "!has(self.caching) || self.type == 'Caching'", "message": "storage.layers[].caching belongs to a layer of type Caching"},
    {"rule": "!has(self.batching) || self.type == 'Batching'", "message": "storage.layers[].batching belongs to a layer of type Batching"},
    {"rule": "!has(self.limiting) || self.type == 'Limiting'", "message": "storage.layers[].limiting belongs to a layer of type Limiting"},
    {"rule": "!has(self.compression) || self.type == 'Compression'", "message": "storage.layers[].compression belongs to a layer of type Compression"}
]))]
pub struct LayerSpec {
    /// Which layer.
    #[serde(rename = "type")]
    pub kind: LayerKind,
    /// Settings of a layer of type Caching.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caching: Option<CachingSpec>,
    /// Settings of a layer of type Batching.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batching: Option<BatchingSpec>,
    /// Settings of a layer of type Limiting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limiting: Option<LimitingSpec>,
    /// Settings of a layer of type Compression.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compression: Option<CompressionSpec>,
}

/// How much each node keeps in memory. Both bounds hold.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CachingSpec {
    /// Most keys.
    #[serde(default = "default_cache_entries")]
    #[schemars(range(min = 1, max = 10_000_000))]
    pub max_entries: i32,
    /// Most megabytes (MiB) of keys and values, roughly.
    #[serde(default = "default_cache_megabytes")]
    #[schemars(range(min = 1, max = 65_536))]
    pub max_megabytes: i32,
}

impl Default for CachingSpec {
    fn default() -> Self {
        Self { max_entries: default_cache_entries(), max_megabytes: default_cache_megabytes() }
    }
}

fn default_cache_entries() -> i32 {
    10_000
}

fn default_cache_megabytes() -> i32 {
    64
}

/// When writes that came close together are flushed: whichever comes first.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BatchingSpec {
    /// Longest time that a write waits for others.
    #[serde(default = "default_batch_delay")]
    #[schemars(range(min = 1, max = 10_000))]
    pub max_delay_milliseconds: i32,
    /// Most writes in a batch.
    #[serde(default = "default_batch_items")]
    #[schemars(range(min = 1, max = 10_000))]
    pub max_items: i32,
    /// When a write is acknowledged: once it is flushed, or at once. What was acknowledged at once and not flushed yet is
    /// lost when its node is killed or loses its session.
    #[serde(default)]
    pub ack: Ack,
}

impl Default for BatchingSpec {
    fn default() -> Self {
        let (max_delay_milliseconds, max_items) = (default_batch_delay(), default_batch_items());
        Self { max_delay_milliseconds, max_items, ack: Ack::default() }
    }
}

/// When a write is acknowledged.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub enum Ack {
    /// Once it is flushed.
    #[default]
    Durable,
    /// At once.
    Buffered,
}

fn default_batch_delay() -> i32 {
    100
}

fn default_batch_items() -> i32 {
    1000
}

/// How much each node asks of its storage at a time, and how long it waits for it.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LimitingSpec {
    /// Most operations under way at once. A batch is one.
    #[serde(default = "default_max_concurrent")]
    #[schemars(range(min = 1, max = 10_000))]
    pub max_concurrent: i32,
    /// Most operations that wait for their turn. One more fails cleanly, at once.
    #[serde(default = "default_max_waiting")]
    #[schemars(range(min = 0, max = 100_000))]
    pub max_waiting: i32,
    /// Longest time for an operation, waiting included. Then a read fails, and the outcome of a write is unknown.
    #[serde(default = "default_timeout")]
    #[schemars(range(min = 10, max = 30_000))]
    pub timeout_milliseconds: i32,
    /// Most attempts of a read. A write is never repeated.
    #[serde(default = "default_read_attempts")]
    #[schemars(range(min = 1, max = 10))]
    pub read_attempts: i32,
}

impl Default for LimitingSpec {
    fn default() -> Self {
        Self {
            max_concurrent: default_max_concurrent(),
            max_waiting: default_max_waiting(),
            timeout_milliseconds: default_timeout(),
            read_attempts: default_read_attempts(),
        }
    }
}

fn default_max_concurrent() -> i32 {
    64
}

fn default_max_waiting() -> i32 {
    1024
}

fn default_timeout() -> i32 {
    10_000
}

fn default_read_attempts() -> i32 {
    3
}

/// Which values are stored compressed. Where a value does not become smaller it is stored as it is.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CompressionSpec {
    /// How.
    #[serde(default)]
    pub algorithm: Algorithm,
    /// Values of up to this many bytes stay as they are.
    #[serde(default = "default_above_bytes")]
    #[schemars(range(min = 0, max = 1_048_576))]
    pub above_bytes: i32,
}

impl Default for CompressionSpec {
    fn default() -> Self {
        Self { algorithm: Algorithm::default(), above_bytes: default_above_bytes() }
    }
}

fn default_above_bytes() -> i32 {
    1024
}

/// A way to compress.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub enum Algorithm {
    /// RFC 8878.
    #[default]
    Zstd,
    /// RFC 1952.
    Gzip,
}

/// The layers that the storage architecture knows.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub enum LayerKind {
    /// Keeps what was read in memory.
    Caching,
    /// Writes together what comes close together.
    Batching,
    /// Bounds what is asked of the store at a time, and for how long.
    Limiting,
    /// Stores large values compressed.
    Compression,
}
