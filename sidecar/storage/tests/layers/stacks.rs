//! The suite over stacks of layers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use brainy_storage::backends::embedded::EmbeddedDatabase;
use brainy_storage::backends::filesystem::FilesystemAdapter;
use brainy_storage::backends::memory::MemoryAdapter;
use brainy_storage::layers::batching::{Ack, Batching};
use brainy_storage::layers::caching::{Cache, CacheSize};
use brainy_storage::layers::compression::{Algorithm, Compression};
use brainy_storage::layers::limiting::Limiting;
use brainy_storage::layers::observing::Observing;
use brainy_storage::layers::{LayerStack, Layers};
use brainy_storage::{StorageAdapter, conformance};

use crate::observing::Book;

/// Every stack of layers, with settings that make each of them do something.
fn stacks() -> Vec<Layers> {
    let caching = [None, Some(CacheSize::default()), Some(CacheSize { entries: 3, ..CacheSize::default() })];
    let batching = [None, Some(Ack::Durable), Some(Ack::Buffered)]
        .map(|ack| ack.map(|ack| Batching { max_delay_ms: 1, max_items: 10, ack }));
    let compression =
        [Algorithm::Zstd, Algorithm::Gzip].map(|algorithm| Some(Compression { algorithm, above_bytes: 0 }));
    let compression = [None].into_iter().chain(compression);
    // Fewer places than there are clients at once in any check.
    let limiting =
        [None, Some(Limiting { max_concurrent: 2, max_waiting: 10_000, timeout_ms: 60_000, ..Limiting::default() })];
    let mut stacks = Vec::new();
    for compression in compression {
        for batching in batching {
            for limiting in limiting {
                stacks.extend(caching.map(|caching| Layers { caching, batching, limiting, compression }));
            }
        }
    }
    stacks
}

async fn conforms(layers: Layers, open: impl Fn() -> Arc<dyn StorageAdapter>) {
    let stack = LayerStack::new(layers).observed(Observing::new("any", Arc::new(Book::default())));
    let report = conformance::run(|| stack.over("s", open())).await;
    assert!(report.is_clean(), "{layers:?}: {report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_conforms_below_every_stack() {
    for layers in stacks().into_iter().filter(|layers| layers.compression.is_none()) {
        conforms(layers, || Arc::new(MemoryAdapter::new())).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_conform_below_every_stack() {
    let (folder, count) = (tempfile::tempdir().unwrap(), AtomicU32::new(0));
    let stacks = stacks().into_iter().filter(|layers| layers.compression.is_some());
    let (folder, count) = (&folder, &count);
    let all = stacks.map(|layers| {
        let open = move || -> Arc<dyn StorageAdapter> {
            let root = folder.path().join(format!("shard-{:03}", count.fetch_add(1, Ordering::Relaxed)));
            Arc::new(FilesystemAdapter::open(&root).unwrap().with_compression(layers.compression))
        };
        conforms(layers, open)
    });
    futures::future::join_all(all).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_embedded_database_conforms_below_the_whole_stack() {
    let (folder, count) = (tempfile::tempdir().unwrap(), AtomicU32::new(0));
    let database = EmbeddedDatabase::open(folder.path()).unwrap();
    let layers = stacks().pop().unwrap();
    let open = || -> Arc<dyn StorageAdapter> {
        let name = format!("shard-{:03}", count.fetch_add(1, Ordering::Relaxed));
        Arc::new(database.store(&name).unwrap().with_compression(layers.compression))
    };
    conforms(layers, open).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_is_asked() {
    let cache = Cache::new(CacheSize::default());
    let report = conformance::run(|| cache.over(Arc::new(MemoryAdapter::new()))).await;
    assert!(report.is_clean(), "{report}");
    assert!(cache.counts().hits > 0, "the cache was never asked in vain");
}
