//! A network in the way: a TCP proxy that keeps everything for a while, in both directions.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};

/// Read at once.
const CHUNK: usize = 64 << 10;

/// Ends when dropped; connections that are open then end with their clients.
#[derive(Debug)]
pub struct Delay {
    /// Where it listens.
    pub address: SocketAddr,
    accepting: AbortHandle,
}

impl Drop for Delay {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Delay {
    /// Between clients and `server`. A request and its answer together take `round_trip` longer.
    pub async fn start(server: SocketAddr, round_trip: Duration) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(connect(client, server, round_trip / 2));
            }
        });
        Ok(Self { address, accepting: accepting.abort_handle() })
    }
}

async fn connect(client: TcpStream, server: SocketAddr, delay: Duration) -> std::io::Result<()> {
    let server = TcpStream::connect(server).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    tokio::spawn(pass(from_client, to_server, delay));
    tokio::spawn(pass(from_server, to_client, delay));
    Ok(())
}

/// One direction. What is on its way does not hold up what comes behind it.
async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, delay: Duration) {
    let (sender, mut receiver) = mpsc::unbounded_channel::<(Instant, Bytes)>();
    tokio::spawn(async move {
        while let Some((due, bytes)) = receiver.recv().await {
            sleep_until(due).await;
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
    });
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(CHUNK);
        match from.read_buf(&mut buffer).await {
            Ok(1..) if sender.send((Instant::now() + delay, buffer.split().freeze())).is_ok() => {}
            _ => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn everything_comes_through_in_order_and_the_end_too() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let delay = Delay::start(server.local_addr().unwrap(), Duration::from_millis(4)).await.unwrap();
        let mut client = TcpStream::connect(delay.address).await.unwrap();
        let (mut other, _) = server.accept().await.unwrap();
        let sent: Vec<u8> = (0..200_000_u32).map(|n| (n % 251) as u8).collect();
        let text = sent.clone();
        tokio::spawn(async move {
            client.write_all(&text).await.unwrap();
            client.shutdown().await.unwrap();
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).await.unwrap();
        });
        let mut received = Vec::new();
        other.read_to_end(&mut received).await.unwrap();
        assert!(received == sent, "{} bytes of {}", received.len(), sent.len());
    }
}
