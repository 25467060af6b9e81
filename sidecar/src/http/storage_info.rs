//! What lies below: `GET /v1/storage`.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use brainy_storage::key::{MAX_KEY_BYTES, MAX_NAMESPACE_BYTES};
use serde::Serialize;

use super::intake::MAX_BODY_BYTES;
use super::list::MAX_LIMIT;
use super::request::MAX_BATCH;
use super::{Api, answer};
use crate::ownership::StoreProof;

/// Where data lives and what it can do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StorageInfo {
    /// `embedded`, `filesystem` or `s3`.
    pub backend: &'static str,
    /// `Standalone`, `Isolated` or `Shared`.
    pub strategy: &'static str,
    /// A folder, or bucket and prefix. Never a credential.
    pub location: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Described<'a> {
    #[serde(flatten)]
    info: &'a StorageInfo,
    node: String,
    shards: u32,
    capabilities: [&'static str; 9],
    /// What the store below was proved to do; a folder needs no proof.
    #[serde(skip_serializing_if = "Option::is_none")]
    probe: Option<StoreProof>,
    limits: Limits,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Limits {
    key_bytes: usize,
    namespace_bytes: usize,
    body_bytes: usize,
    batch_items: usize,
    list_keys: usize,
}

/// Every backend offers all of these: there is none with less.
const CAPABILITIES: [&str; 9] =
    ["get", "set", "delete", "getBatch", "setBatch", "compareAndSwap", "increment", "namespaces", "conditionalWrites"];

/// `GET storage`.
pub(super) async fn describe(State(api): State<Arc<Api>>) -> Response {
    let mut info = (*api.storage).clone();
    if let Some(engine) = api.ownership.volume_engine() {
        // A volume stays what it is, whatever new ones are.
        info.backend = engine.backend();
    }
    answer::json(&Described {
        info: &info,
        node: api.ownership.node().to_string(),
        shards: api.ownership.shards(),
        capabilities: CAPABILITIES,
        probe: api.ownership.store_proof(),
        limits: Limits {
            key_bytes: MAX_KEY_BYTES,
            namespace_bytes: MAX_NAMESPACE_BYTES,
            body_bytes: MAX_BODY_BYTES,
            batch_items: MAX_BATCH,
            list_keys: MAX_LIMIT,
        },
    })
}
