//! What the adapter costs over aws-sdk-s3 itself, against the same server.

use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context;
use brainy_storage::backends::s3::S3Adapter;
use brainy_storage::{Condition, Key, StorageAdapter, Value};
use bytes::Bytes;

use super::{Setup, VALUE, key, value};
use crate::contest::{self, Contender};
use crate::rows::{self, Row};
use crate::s3::{self, Raw};

/// Name of this part.
pub const NAME: &str = "s3-requests";

/// Clients at once: enough to keep the server busy.
const CLIENTS: usize = 16;
/// Objects that are read.
const OBJECTS: u64 = 1000;

/// Measures. The CPU is that of the client.
pub async fn measure(setup: &Setup) -> anyhow::Result<Vec<Row>> {
    let Some(server) = s3::start(&setup.places, NAME).await? else { return Ok(Vec::new()) };
    let endpoint = format!("http://{}", server.address);
    let (adapter, raw) = (s3::store(&endpoint).await?.adapter("adapter"), Raw::new(&endpoint));
    for number in 0..OBJECTS {
        create(adapter.clone(), number).await?;
        create_raw(raw.clone(), number).await?;
    }
    let (creator, raw_creator, raw_reader) = (adapter.clone(), raw.clone(), raw);
    let [created, raw_created] = [OBJECTS; 2].map(AtomicU64::new);
    let [read_so_far, raw_read] = [0; 2].map(AtomicU64::new);
    let contenders = [
        Contender::in_process(CLIENTS, move || create(creator.clone(), next(&created))),
        Contender::in_process(CLIENTS, move || create_raw(raw_creator.clone(), next(&raw_created))),
        Contender::in_process(CLIENTS, move || read(adapter.clone(), next(&read_so_far) % OBJECTS)),
        Contender::in_process(CLIENTS, move || read_raw(raw_reader.clone(), next(&raw_read) % OBJECTS)),
    ];
    let series = contest::run(&contenders, setup.plan).await?;
    Ok(vec![
        rows::group(NAME, &format!("S3 (versitygw), values of {VALUE} bytes, {CLIENTS} clients; CPU of the client")),
        rows::ours("adapter, create", &series[0], ""),
        rows::beside("aws-sdk-s3, If-None-Match", &series[1], &series[0], "at least 0.95"),
        rows::ours("adapter, get", &series[2], ""),
        rows::beside("aws-sdk-s3, get", &series[3], &series[2], "at least 0.95"),
    ])
}

fn object(number: u64) -> String {
    format!("raw/{}", key(number))
}

fn body(number: u64) -> Bytes {
    Bytes::from(value(number))
}

fn next(count: &AtomicU64) -> u64 {
    count.fetch_add(1, Ordering::Relaxed)
}

async fn create(adapter: S3Adapter, number: u64) -> anyhow::Result<()> {
    let written = adapter.put(&Key::new(key(number))?, Value::Bytes(body(number)), &Condition::Absent).await?;
    written.applied().context("not written")?;
    Ok(())
}

async fn read(adapter: S3Adapter, number: u64) -> anyhow::Result<()> {
    adapter.get(&Key::new(key(number))?).await?.context("missing").map(drop)
}

async fn create_raw(raw: Raw, number: u64) -> anyhow::Result<()> {
    raw.create(&object(number), body(number)).await
}

async fn read_raw(raw: Raw, number: u64) -> anyhow::Result<()> {
    raw.get(&object(number)).await.map(drop)
}
