//! A hand: the application container of a node. It asks the storage API beside it what the driver tells it to ask, as an
//! application would, and says what it was told.

use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper::header::ETAG;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::wire::{Hello, Lines, Request, Told};

/// Longest wait for an answer: longer than a sidecar keeps a request waiting.
const LIMIT: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(300);

/// One client's hand, until told to stop: what it is asking then is asked to the end, so that no answer is lost for want of
/// somebody to hear it.
pub async fn work(
    driver: &str,
    storage: &str,
    cluster: &str,
    node: &str,
    mut stop: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let storage = storage.strip_prefix("http://").context("BRAINY_STORAGE_URL is no http:// address")?;
    let hello = || Hello::Hand { cluster: cluster.to_owned(), node: node.to_owned() };
    while !*stop.borrow() {
        if let Err(error) = obey(driver, &hello(), storage, &mut stop).await {
            println!("{node}: {error:#}");
        }
        sleep(PAUSE).await;
    }
    Ok(())
}

async fn obey(driver: &str, hello: &Hello, storage: &str, stop: &mut watch::Receiver<bool>) -> anyhow::Result<()> {
    let stream = TcpStream::connect(driver).await.with_context(|| format!("nobody listens on {driver}"))?;
    let mut lines = Lines::over(stream);
    lines.say(hello).await?;
    loop {
        let request: Request = tokio::select! {
            request = lines.hear() => request?,
            _ = stop.wait_for(|stop| *stop) => return Ok(()),
        };
        lines.say(&ask(storage, request).await).await?;
    }
}

/// One request on a connection of its own.
async fn ask(storage: &str, request: Request) -> Told {
    match TcpStream::connect(storage).await {
        Err(error) => Told::NotAsked(error.to_string()),
        Ok(stream) => match timeout(LIMIT, exchange(stream, request)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => Told::NoAnswer(format!("{error:#}")),
            Err(_) => Told::NoAnswer(format!("no answer in {LIMIT:?}")),
        },
    }
}

async fn exchange(stream: TcpStream, request: Request) -> anyhow::Result<Told> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let mut asked = hyper::Request::builder()
        .method(request.method.as_str())
        .uri(request.path)
        .header("host", "127.0.0.1")
        .header("content-type", "application/json");
    if let Some((name, value)) = request.condition {
        asked = asked.header(name, value);
    }
    let response = sender.send_request(asked.body(Full::<Bytes>::from(request.body))?).await?;
    let status = response.status().as_u16();
    let etag = response.headers().get(ETAG).and_then(|etag| etag.to_str().ok()).map(str::to_owned);
    let body = response.into_body().collect().await?.to_bytes();
    Ok(Told::Answer { status, etag, body: String::from_utf8(body.to_vec())? })
}
