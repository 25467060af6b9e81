//! Random operations, one after the other, against the plainest model there is: a map.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bucket;
mod map;
mod moves;

use std::collections::BTreeMap;
use std::sync::Arc;

use brainy_storage::backends::embedded::EmbeddedDatabase;
use brainy_storage::backends::filesystem::FilesystemAdapter;
use brainy_storage::backends::memory::MemoryAdapter;
use brainy_storage::layers::batching::{Ack, Batching};
use brainy_storage::layers::caching::CacheSize;
use brainy_storage::layers::limiting::Limiting;
use brainy_storage::layers::{LayerStack, Layers};
use brainy_storage::{Key, Namespace, StorageAdapter};
use proptest::prelude::*;

use map::{Model, Step, any_run, apply};

async fn check(store: Arc<dyn StorageAdapter>, combines: bool, run: Vec<(Option<bool>, String, Step)>) {
    let mut models: BTreeMap<Option<bool>, Model> = BTreeMap::new();
    for (space, key, step) in run {
        let name = space.map(|deep| Namespace::new(if deep { "a/b" } else { "a" }).unwrap());
        let store = name.map_or_else(|| store.clone(), |name| store.with_namespace(&name));
        let model = models.entry(space).or_insert_with(|| Model { combines, ..Model::default() });
        apply(store.as_ref(), model, &key, step).await;
        let stands = store.get(&Key::new(key.as_str()).unwrap()).await.unwrap();
        assert_eq!(stands.as_ref(), model.entries.get(&key));
    }
}

fn block_on(future: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_time().build().unwrap().block_on(future);
}

/// So many runs, times what `BRAINY_TEST_TIMES` says.
fn runs(count: u32) -> ProptestConfig {
    let times = std::env::var("BRAINY_TEST_TIMES").map_or(1, |times| times.parse().unwrap());
    ProptestConfig::with_cases(count * times)
}

proptest! {
    #![proptest_config(runs(200))]
    #[test]
    fn memory_does_what_a_map_does(run in any_run()) {
        block_on(check(Arc::new(MemoryAdapter::new()), false, run));
    }
}

proptest! {
    #![proptest_config(runs(100))]
    #[test]
    fn a_stack_of_layers_does_what_a_map_does(
        run in any_run(),
        ack in prop::sample::select(vec![Ack::Durable, Ack::Buffered]),
        cached in any::<bool>(),
        // At once, or together with what comes next.
        max_delay_ms in prop::sample::select(vec![0, 1, 1000]),
    ) {
        let max_delay_ms = if ack == Ack::Durable { 0 } else { max_delay_ms };
        let batching = Some(Batching { max_delay_ms, ack, ..Batching::default() });
        // One after the other, also where the queue flushes several keys at once.
        let limiting = Some(Limiting { max_concurrent: 1, ..Limiting::default() });
        let caching = cached.then(CacheSize::default);
        let stack = LayerStack::new(Layers { caching, batching, limiting, compression: None });
        block_on(async { check(stack.over("s", Arc::new(MemoryAdapter::new())), true, run).await });
    }
}

proptest! {
    // Each write is flushed to the disk.
    #![proptest_config(runs(32))]
    #[test]
    fn filesystem_does_what_a_map_does(run in any_run()) {
        let folder = tempfile::tempdir().unwrap();
        block_on(check(Arc::new(FilesystemAdapter::open(&folder.path().join("root")).unwrap()), false, run));
    }
}

proptest! {
    // Each write is flushed to the disk.
    #![proptest_config(runs(64))]
    #[test]
    fn embedded_does_what_a_map_does(run in any_run()) {
        let folder = tempfile::tempdir().unwrap();
        let database = EmbeddedDatabase::open(folder.path()).unwrap();
        block_on(check(Arc::new(database.store("shard-007").unwrap()), false, run));
    }
}
