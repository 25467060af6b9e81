//! The controller's look, the election and the spec, over documents in memory.

mod adoption;
mod election;
mod known;
mod look;
mod spec;

use brainy_storage::backends::memory::MemoryDocuments;
use brainy_storage::documents::{Documents, Swap};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::session::{HeldShard, SessionRecord, SessionState};
use crate::{FencingToken, Incarnation, NodeId, ShardId, names};

/// A live session that holds these shards.
fn record(node: &str, revision: u64, holds: &[u32]) -> SessionRecord {
    let held = |shard: &u32| HeldShard { shard: ShardId(*shard), token: FencingToken(5) };
    SessionRecord {
        node: NodeId(node.into()),
        incarnation: Incarnation { pod_uid: format!("pod-{node}"), start: 1, nonce: "n".into() },
        state: SessionState::Live,
        revision,
        ttl_seconds: 30,
        expires: String::new(),
        address: format!("{node}:7701"),
        map_revision: 0,
        leaving: false,
        holds: holds.iter().map(held).collect(),
        received: Vec::new(),
        stored: Vec::new(),
        load: Vec::new(),
        requests: Default::default(),
        volume: None,
        regions: None,
        problem: None,
    }
}

/// Writes a document, whatever stands there.
async fn put(documents: &MemoryDocuments, name: &str, document: &impl Serialize) {
    let version = documents.read(name).await.unwrap().map(|found| found.version);
    let swap = documents.swap(name, version.as_ref(), serde_json::to_vec(document).unwrap().into()).await.unwrap();
    assert!(matches!(swap, Swap::Applied(_)));
}

async fn put_session(documents: &MemoryDocuments, record: &SessionRecord) {
    put(documents, &names::session(&record.node), record).await;
}

async fn get<T: DeserializeOwned>(documents: &MemoryDocuments, name: &str) -> T {
    serde_json::from_slice(&documents.read(name).await.unwrap().unwrap().body).unwrap()
}
