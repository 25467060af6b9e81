//! `brainy-sidecar serve` on this machine: idle memory, and rates beside those of plain files written as durably.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

use super::{Figure, megabytes, per_second};
use crate::load::{self, Progress};
use crate::records::Records;
use crate::sidecar::SidecarClient;
use crate::specs::sample;

const ITEMS: usize = 5_000;
const WRITERS: usize = 8;

/// Measures.
pub async fn measure(folder: &Path) -> anyhow::Result<Vec<Figure>> {
    let place = std::env::temp_dir().join(format!("brainy-bench-{}", uuid::Uuid::new_v4().simple()));
    std::fs::create_dir_all(&place)?;
    let figures = measure_in(folder, &place).await;
    std::fs::remove_dir_all(&place).with_context(|| format!("can't remove {}", place.display()))?;
    figures
}

async fn measure_in(folder: &Path, place: &Path) -> anyhow::Result<Vec<Figure>> {
    let port = std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
    let address = format!("127.0.0.1:{port}");
    let mut sidecar = Command::new(folder.join("brainy-sidecar"))
        .args(["serve", "--listen", &address, "--data"])
        .arg(place.join("data"))
        .kill_on_drop(true)
        .spawn()
        .context("can't start brainy-sidecar")?;
    wait_for(&address).await?;
    sleep(Duration::from_secs(2)).await;
    let idle = resident(&sidecar)?;
    let records = sample("bench", ITEMS);
    let client = SidecarClient::local(&address);
    let wrote = load::write(&client, &records, &Progress::default(), None).await?;
    let read = load::read_back(&client, &records).await?;
    ensure!(read.absent.is_empty(), "records are missing");
    sidecar.kill().await?;

    let plain = place.join("plain");
    std::fs::create_dir_all(&plain)?;
    let plain_wrote = plain_write(&plain, &records).await?;
    let plain_read = plain_read(&plain, &records).await?;
    Ok(vec![
        Figure::new("sidecar, idle (serve): resident", megabytes(idle), "under 15 MB"),
        Figure::new(
            "setBatch, small values",
            per_second(ITEMS, wrote),
            format!("{} plain files, fsync each", per_second(ITEMS, plain_wrote)),
        ),
        Figure::new(
            "getBatch, small values",
            per_second(ITEMS, read.took),
            format!("{} plain files", per_second(ITEMS, plain_read)),
        ),
    ])
}

async fn wait_for(address: &str) -> anyhow::Result<()> {
    let connected = async {
        while TcpStream::connect(address).await.is_err() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_secs(20), connected).await.context("brainy-sidecar does not listen")
}

fn resident(process: &Child) -> anyhow::Result<u64> {
    let pid = process.id().context("brainy-sidecar ended")?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").trim().parse::<u64>()? * 1024)
}

/// The least that durable, atomic writes of single files cost: a new file, fsync, rename, fsync of the folder.
async fn plain_write(folder: &Path, records: &Records) -> anyhow::Result<Duration> {
    let began = Instant::now();
    each(folder, records, |folder, name, value| {
        let (temporary, place) = (folder.join(format!("{name}.new")), folder.join(name));
        let mut file = std::fs::File::create(&temporary)?;
        file.write_all(&serde_json::to_vec(value)?)?;
        file.sync_all()?;
        std::fs::rename(temporary, place)?;
        std::fs::File::open(folder)?.sync_all()?;
        Ok(())
    })
    .await?;
    Ok(began.elapsed())
}

async fn plain_read(folder: &Path, records: &Records) -> anyhow::Result<Duration> {
    let began = Instant::now();
    each(folder, records, |folder, name, _| {
        let value: Value = serde_json::from_slice(&std::fs::read(folder.join(name))?)?;
        ensure!(value != json!(null), "an empty record");
        Ok(())
    })
    .await?;
    Ok(began.elapsed())
}

async fn each(
    folder: &Path,
    records: &Records,
    act: fn(&Path, &str, &Value) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let items: Vec<(String, Value)> =
        records.iter().map(|(key, value)| (key.replace('/', "-"), value.clone())).collect();
    let mut tasks = Vec::new();
    for part in items.chunks(items.len().div_ceil(WRITERS)) {
        let (part, folder): (Vec<_>, PathBuf) = (part.to_vec(), folder.to_owned());
        tasks.push(tokio::task::spawn_blocking(move || {
            part.iter().try_for_each(|(name, value)| act(&folder, name, value))
        }));
    }
    for task in tasks {
        task.await??;
    }
    Ok(())
}
