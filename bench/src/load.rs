//! Clients that keep a server busy, and what they saw. Those that are measured with over HTTP are in [`crate::light`].

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use crate::http::Connection;

/// What clients saw.
#[derive(Debug, Default)]
pub struct Laps {
    /// Of each request, in nanoseconds.
    pub latencies: Vec<u64>,
    /// From the first request to the last answer.
    pub took: Duration,
}

/// Numbers without a pattern that matters, the same in each run.
#[derive(Debug)]
pub struct Dice(u64);

impl Dice {
    /// Of one client.
    pub fn new(client: usize) -> Self {
        Self((client as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    /// From 0 up to, not including, `most`.
    pub fn below(&mut self, most: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % most.max(1) as u64) as usize
    }
}

/// Lets clients send `count` requests, each once. `check` looks at the body of each answer.
pub async fn all_of(
    address: SocketAddr,
    clients: usize,
    count: u64,
    request: impl Fn(u64) -> Vec<u8> + Send + Sync + 'static,
    check: fn(&[u8]) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let (request, next) = (Arc::new(request), Arc::new(AtomicU64::new(0)));
    let mut tasks = Vec::with_capacity(clients);
    for _ in 0..clients {
        let (request, next) = (Arc::clone(&request), Arc::clone(&next));
        tasks.push(tokio::spawn(async move {
            let mut connection = Connection::open(address).await?;
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    return anyhow::Ok(());
                }
                check(connection.ask(&request(number)).await?)?;
            }
        }));
    }
    for task in tasks {
        task.await??;
    }
    Ok(())
}

/// Lets clients call something in this process, over and over, for a time.
pub async fn calls<C>(
    clients: usize,
    duration: Duration,
    call: Arc<impl Fn() -> C + Send + Sync + 'static>,
) -> anyhow::Result<Laps>
where
    C: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    let began = Instant::now();
    let until = began + duration;
    let mut tasks = Vec::with_capacity(clients);
    for _ in 0..clients {
        let call = Arc::clone(&call);
        tasks.push(tokio::spawn(async move {
            let mut latencies = Vec::new();
            let mut now = Instant::now();
            while now < until {
                call().await?;
                let then = std::mem::replace(&mut now, Instant::now());
                latencies.push(nanoseconds(now - then));
            }
            anyhow::Ok(latencies)
        }));
    }
    gathered(tasks, began).await
}

async fn gathered(tasks: Vec<JoinHandle<anyhow::Result<Vec<u64>>>>, began: Instant) -> anyhow::Result<Laps> {
    let mut laps = Laps::default();
    for task in tasks {
        laps.latencies.extend(task.await??);
    }
    laps.took = began.elapsed();
    Ok(laps)
}

/// A time as it is kept.
pub fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
