//! Writes many records through one node, and reads them back through another.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use futures::{StreamExt, TryStreamExt, stream};
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::{Instant, interval_at, sleep};

use crate::records::{Checksum, Records};
use crate::report::thousands;
use crate::sidecar::{ItemOutcome, SidecarClient};
use crate::specs::sample;

/// Records in one request.
const CHUNK: usize = 256;
/// Requests under way at once.
const PARALLEL: usize = 6;
/// How long an item may go unacknowledged: longer than a session of a node that is gone for good.
const PATIENCE: Duration = Duration::from_secs(180);
const PAUSE: Duration = Duration::from_millis(200);
const SAY_EVERY: Duration = Duration::from_secs(5);

/// How far a load is.
#[derive(Debug, Default)]
pub struct Progress {
    acknowledged: AtomicU64,
    resent: AtomicU64,
}

impl Progress {
    /// How many records have been acknowledged.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::SeqCst)
    }

    /// How many items were sent again, since their outcome was not "applied".
    pub fn resent(&self) -> u64 {
        self.resent.load(Ordering::SeqCst)
    }
}

/// Holds back the tail of a load until something has happened: so it happens in the middle of it for certain.
pub struct Gate {
    /// How many records may go before.
    pub free: usize,
    /// Becomes true.
    pub open: watch::Receiver<bool>,
}

/// Writes all records; returns when every one has been acknowledged. What failed or has an unknown outcome is sent again:
/// a set changes nothing the second time.
pub async fn write(
    client: &SidecarClient,
    records: &Records,
    progress: &Progress,
    gate: Option<Gate>,
) -> anyhow::Result<Duration> {
    let began = Instant::now();
    let items: Vec<(&str, &Value)> = records.iter().map(|(key, value)| (key.as_str(), value)).collect();
    let free = gate.as_ref().map_or(items.len(), |gate| gate.free.min(items.len()));
    let (first, held) = items.split_at(free);
    let work = async {
        write_all(client, first, progress).await?;
        if let Some(mut gate) = gate {
            gate.open.wait_for(|open| *open).await.context("what the load waited for never happened")?;
        }
        write_all(client, held, progress).await
    };
    saying(&format!("written through {}", client.pod()), items.len(), || progress.acknowledged(), work).await?;
    Ok(began.elapsed())
}

async fn write_all(client: &SidecarClient, items: &[(&str, &Value)], progress: &Progress) -> anyhow::Result<()> {
    stream::iter(items.chunks(CHUNK))
        .map(|chunk| write_chunk(client, chunk.to_vec(), progress))
        .buffer_unordered(PARALLEL)
        .try_collect()
        .await
}

async fn write_chunk(client: &SidecarClient, mut left: Vec<(&str, &Value)>, progress: &Progress) -> anyhow::Result<()> {
    let mut last_progress = Instant::now();
    loop {
        let why = match client.set_batch(&left).await {
            Ok(result) => {
                let before = left.len();
                let mut outcomes = result.outcomes.into_iter();
                left.retain(|_| outcomes.next() != Some(ItemOutcome::Applied));
                progress.acknowledged.fetch_add((before - left.len()) as u64, Ordering::SeqCst);
                if left.len() < before {
                    last_progress = Instant::now();
                }
                result.problem.unwrap_or_default()
            }
            Err(error) => format!("{error:#}"),
        };
        if left.is_empty() {
            return Ok(());
        }
        anyhow::ensure!(
            last_progress.elapsed() < PATIENCE,
            "{} records were not taken in {PATIENCE:?}: {why}",
            left.len()
        );
        progress.resent.fetch_add(left.len() as u64, Ordering::SeqCst);
        sleep(PAUSE).await;
    }
}

/// What was read.
#[derive(Debug)]
pub struct ReadBack {
    /// Over what is there.
    pub checksum: Checksum,
    /// Keys that are not there.
    pub absent: Vec<String>,
    /// How long it took.
    pub took: Duration,
}

/// Reads the keys of all records through a node.
pub async fn read_back(client: &SidecarClient, records: &Records) -> anyhow::Result<ReadBack> {
    let began = Instant::now();
    let keys: Vec<&str> = records.keys().map(String::as_str).collect();
    let read = AtomicU64::new(0);
    let work = stream::iter(keys.chunks(CHUNK))
        .map(|chunk| read_chunk(client, chunk, &read))
        .buffer_unordered(PARALLEL)
        .try_fold((Checksum::default(), Vec::new()), |(mut checksum, mut absent), part| async move {
            checksum.count += part.0.count;
            checksum.sum = checksum.sum.wrapping_add(part.0.sum);
            absent.extend(part.1);
            Ok((checksum, absent))
        });
    let what = format!("read through {}", client.pod());
    let (checksum, absent) = saying(&what, keys.len(), || read.load(Ordering::SeqCst), work).await?;
    Ok(ReadBack { checksum, absent, took: began.elapsed() })
}

async fn read_chunk(
    client: &SidecarClient,
    keys: &[&str],
    read: &AtomicU64,
) -> anyhow::Result<(Checksum, Vec<String>)> {
    let began = Instant::now();
    loop {
        let why = match client.get_batch(keys).await {
            Ok(result) if result.failed.is_none() => {
                let mut checksum = Checksum::default();
                result.found.iter().for_each(|(key, value)| checksum.add(key, value));
                read.fetch_add(keys.len() as u64, Ordering::SeqCst);
                return Ok((checksum, result.absent));
            }
            Ok(result) => result.failed.unwrap_or_default(),
            Err(error) => format!("{error:#}"),
        };
        anyhow::ensure!(began.elapsed() < PATIENCE, "keys could not be read in {PATIENCE:?}: {why}");
        sleep(PAUSE).await;
    }
}

/// Everything is there through a node, as it was written.
pub async fn verify(node: &SidecarClient, records: &Records) -> anyhow::Result<()> {
    let back = read_back(node, records).await?;
    if let Some(absent) = back.absent.first() {
        anyhow::bail!("{} of {} records are lost, among them {absent}", back.absent.len(), records.len());
    }
    anyhow::ensure!(back.checksum == Checksum::of(records), "the records differ from what was written");
    Ok(())
}

/// Writes batch after batch through a node until told to stop; returns everything that was acknowledged.
pub async fn write_until(node: &SidecarClient, mut stop: watch::Receiver<bool>) -> anyhow::Result<Records> {
    let mut all = Records::new();
    for round in 0.. {
        let batch = sample(&format!("round-{round}"), 10);
        write(node, &batch, &Progress::default(), None).await?;
        all.extend(batch);
        if *stop.borrow_and_update() {
            break;
        }
    }
    Ok(all)
}

/// Prints now and then how far the work is.
async fn saying<T>(
    what: &str,
    of: usize,
    so_far: impl Fn() -> u64,
    work: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    let began = Instant::now();
    let mut tick = interval_at(began + SAY_EVERY, SAY_EVERY);
    let mut work = std::pin::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return done,
            _ = tick.tick() => {
                let count = so_far();
                let rate = count as f64 / began.elapsed().as_secs_f64();
                println!("  … {} of {} {what} ({}/s)", thousands(count), thousands(of as u64), thousands(rate as u64));
            }
        }
    }
}
