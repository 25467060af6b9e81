//! How fast the backends are on this machine: `throughput filesystem <folder>`, `throughput embedded <folder>`, or
//! `throughput s3 <endpoint> <bucket> <access key id> <secret access key>`. Prints one line per measurement.
//!
//! `throughput embedded <folder> <keys>` instead fills a database with so many keys of 1 KiB in 256 stores, if it is empty,
//! opens it again, and prints how long that takes, how much memory it needs, and how long a read and a listing take.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use brainy_storage::backends::embedded::{EmbeddedAdapter, EmbeddedDatabase};
use brainy_storage::backends::filesystem::FilesystemAdapter;
use brainy_storage::backends::s3::{Credentials, S3Settings, S3Store};
use brainy_storage::{Condition, Key, Outcome, StorageAdapter, Value};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};

const ITEMS: usize = 1000;
const VALUE_BYTES: usize = 1024;

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["filesystem", folder] => measure(Arc::new(FilesystemAdapter::open(folder.as_ref())?)).await,
        ["embedded", folder] => measure(Arc::new(EmbeddedDatabase::open(folder.as_ref())?.store("measured")?)).await,
        ["embedded", folder, keys] => measure_many(folder.as_ref(), keys.parse()?).await,
        ["s3", endpoint, bucket, id, secret] => {
            let mut settings = S3Settings::new(*bucket);
            settings.endpoint = Some((*endpoint).to_owned());
            settings.credentials =
                Credentials::Keys { access_key_id: (*id).to_owned(), secret_access_key: (*secret).to_owned() };
            let store = S3Store::open(&settings).await?;
            println!("{:?}", store.prove().await?);
            let root = format!("throughput-{}", uuid::Uuid::new_v4().simple());
            measure(Arc::new(store.adapter(&root))).await?;
            store.delete_prefix(&root).await.map(drop).context("cleaning up")
        }
        _ => bail!(
            "say `filesystem <folder>`, `embedded <folder> [<keys>]` or `s3 <endpoint> <bucket> <access key id> <secret access key>`"
        ),
    }
}

fn items(round: usize) -> Result<Vec<(Key, Value)>> {
    let value = |n: usize| Value::Bytes(Bytes::from(vec![n as u8; VALUE_BYTES]));
    (0..ITEMS).map(|n| Ok((Key::new(format!("{round}/{n}"))?, value(n)))).collect()
}

async fn measure(store: Arc<dyn StorageAdapter>) -> Result<()> {
    for concurrency in [1, 8, 32, 64] {
        let begun = Instant::now();
        let creates = stream::iter(items(concurrency)?).map(|(key, value)| {
            let store = store.clone();
            async move {
                match store.put(&key, value, &Condition::Absent).await? {
                    Outcome::Applied(_) => Ok(()),
                    other => bail!("{key}: {other:?}; is the store empty?"),
                }
            }
        });
        creates.buffer_unordered(concurrency).try_collect::<()>().await?;
        report(&format!("create, {concurrency} at a time"), begun);
    }
    for what in ["setBatch, new keys", "setBatch, same keys"] {
        let batch = items(1000)?;
        let begun = Instant::now();
        for outcome in store.set_batch(batch).await {
            outcome?.applied().context("not applied")?;
        }
        report(what, begun);
    }
    let keys: Vec<Key> = items(1000)?.into_iter().map(|(key, _)| key).collect();
    let begun = Instant::now();
    for found in store.get_batch(&keys).await {
        found?.context("missing")?;
    }
    report("getBatch", begun);
    let begun = Instant::now();
    let page = store.list("", None, 4 * ITEMS).await?;
    println!("list: {} keys in {:.0?}", page.keys.len(), begun.elapsed());
    Ok(())
}

fn report(what: &str, begun: Instant) {
    let took = begun.elapsed();
    println!(
        "{what}: {ITEMS} of {VALUE_BYTES} bytes in {took:.0?}, {:.0} per second",
        ITEMS as f64 / took.as_secs_f64()
    );
}

const STORES: u64 = 256;
/// How often is read and listed.
const ROUNDS: u64 = 5000;

async fn measure_many(folder: &std::path::Path, keys: u64) -> Result<()> {
    println!("an empty process: {} KiB resident", resident()?);
    let database = EmbeddedDatabase::open(folder)?;
    let stores = |database: &EmbeddedDatabase| -> Result<Vec<EmbeddedAdapter>, brainy_storage::Error> {
        (0..STORES).map(|n| database.store(&format!("shard-{n:03}"))).collect()
    };
    let key = |n: u64| Key::new(format!("user/{n:08}"));
    if database.stamps().await?.is_empty() {
        let begun = Instant::now();
        let opened = stores(&database)?;
        for store in 0..STORES {
            let batch: Result<Vec<_>> = (0..keys / STORES)
                .map(|n| Ok((key(n * STORES + store)?, Value::Bytes(Bytes::from(vec![n as u8; VALUE_BYTES])))))
                .collect();
            for batch in batch?.chunks(ITEMS) {
                for outcome in opened[store as usize].set_batch(batch.to_vec()).await {
                    outcome?.applied().context("not applied")?;
                }
            }
        }
        println!("filled with {keys} keys in {:.1?}: {} KiB resident", begun.elapsed(), resident()?);
    }
    drop(database);
    println!("closed: {} KiB resident", resident()?);
    let begun = Instant::now();
    let database = EmbeddedDatabase::open(folder)?;
    println!("opened in {:.1?}: {} KiB resident", begun.elapsed(), resident()?);
    let opened = stores(&database)?;
    for round in 0..3 {
        let begun = Instant::now();
        for n in 0..ROUNDS {
            let n = (n * 7_919 + round) * 104_729 % (keys / STORES * STORES);
            opened[(n % STORES) as usize].get(&key(n)?).await?.context("missing")?;
        }
        println!("get: {:.1?} each, {} KiB resident", begun.elapsed() / ROUNDS as u32, resident()?);
        let begun = Instant::now();
        for store in &opened {
            store.list("user/", Some(&key(keys / 2)?), 20).await?;
        }
        println!("20 keys of each of {STORES} stores: {:.1?}", begun.elapsed());
    }
    Ok(())
}

fn resident() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}
