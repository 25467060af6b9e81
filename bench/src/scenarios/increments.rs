//! Many clients that increment one key, with a network in the way.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};
use brainy_storage::layers::batching::{Ack, Batching};
use brainy_storage::layers::caching::CacheSize;
use brainy_storage::layers::{LayerStack, Layers};
use brainy_storage::{Key, StorageAdapter, Value};
use bytes::Bytes;

use super::{CLIENTS, Setup};
use crate::contest::{self, Contender, Plan};
use crate::delay::Delay;
use crate::rows::{self, Row};
use crate::s3::{self, Raw};

/// Name of this part.
pub const NAME: &str = "increments";

/// What a request and its answer take longer.
const ROUND_TRIP: Duration = Duration::from_millis(60);
/// Long enough for a naive loop to get somewhere.
const LEAST: Duration = Duration::from_secs(3);
/// Waits for others: a third of the way to the store and back.
const BATCHING: Batching = Batching { max_delay_ms: 20, max_items: 1000, ack: Ack::Durable };

/// Measures. The CPU is that of the clients.
pub async fn measure(setup: &Setup) -> anyhow::Result<Vec<Row>> {
    let Some(server) = s3::start(&setup.places, NAME).await? else { return Ok(Vec::new()) };
    let network = Delay::start(server.address, ROUND_TRIP).await?;
    let far = format!("http://{}", network.address);
    let near = s3::store(&format!("http://{}", server.address)).await?.adapter("layers");
    let layers = Layers { caching: Some(CacheSize::default()), batching: Some(BATCHING), ..Layers::default() };
    let store = LayerStack::new(layers).over("layers", Arc::new(s3::store(&far).await?.adapter("layers")));
    let raw = Raw::new(&far);
    raw.create("counter", Bytes::from("0")).await?;
    let [stacked, naive] = [(); 2].map(|()| Arc::new(AtomicU64::new(0)));
    let (count, naive_count, loops) = (Arc::clone(&stacked), Arc::clone(&naive), raw.clone());
    let contenders = [
        Contender::in_process(CLIENTS, move || counted(increment(Arc::clone(&store)), Arc::clone(&count))),
        Contender::in_process(CLIENTS, move || counted(increment_naively(loops.clone()), Arc::clone(&naive_count))),
    ];
    let plan = Plan { duration: setup.plan.duration.max(LEAST), ..setup.plan };
    let series = contest::run(&contenders, plan).await?;
    let (there, acknowledged) =
        (near.get(&counter()?).await?.context("no counter")?.value, stacked.load(Ordering::Relaxed));
    ensure!(there == Value::Json(acknowledged.into()), "{acknowledged} were acknowledged, {there:?} are there");
    let (text, _) = raw.get("counter").await?;
    ensure!(text == naive.load(Ordering::Relaxed).to_string(), "the naive loop lost increments: {text:?}");
    let what = format!(
        "increments of one key on S3 (versitygw), {CLIENTS} clients, {} ms in the way; CPU of the clients",
        ROUND_TRIP.as_millis()
    );
    let delay = BATCHING.max_delay_ms;
    Ok(vec![
        rows::group(NAME, &what),
        rows::ours(&format!("cache and batches ({delay} ms)"), &series[0], "at least 500/s"),
        rows::beside("get, add, put on condition, again", &series[1], &series[0], ""),
    ])
}

fn counter() -> anyhow::Result<Key> {
    Ok(Key::new("counter")?)
}

/// Counts what was acknowledged, in all rounds.
async fn counted(
    increment: impl Future<Output = anyhow::Result<()>>,
    acknowledged: Arc<AtomicU64>,
) -> anyhow::Result<()> {
    increment.await?;
    acknowledged.fetch_add(1, Ordering::Relaxed);
    Ok(())
}

async fn increment(store: Arc<dyn StorageAdapter>) -> anyhow::Result<()> {
    store.increment(&counter()?, 1.into()).await?.applied().context("not acknowledged")?;
    Ok(())
}

async fn increment_naively(raw: Raw) -> anyhow::Result<()> {
    loop {
        let (text, etag) = raw.get("counter").await?;
        let sum = std::str::from_utf8(&text)?.parse::<u64>()? + 1;
        if raw.replace("counter", &etag, Bytes::from(sum.to_string())).await? {
            return Ok(());
        }
    }
}
