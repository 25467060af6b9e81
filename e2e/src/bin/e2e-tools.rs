//! What the tests run inside the cluster, as one static binary: `kill` (SIGKILL for the processes of containers),
//! `rss` (their memory) and `count` (the smallest application that uses the storage API).

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use bytes::Bytes;
use clap::Parser;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::time::{sleep, timeout};

/// How often memory is looked at.
const LOOKS: u32 = 10;
/// Longer than a probe runs, all together.
const BETWEEN_LOOKS: Duration = Duration::from_millis(200);

/// Helpers that the end-to-end tests run inside the cluster.
#[derive(Parser)]
enum Arguments {
    /// Waits for a connection that says "strike", then sends SIGKILL to every process of the containers, and answers
    /// "killed N". Needs the host's process table (hostPID).
    Kill {
        /// Port to listen on.
        #[arg(long)]
        listen: u16,
        /// Id of a container; can be given several times.
        #[arg(long, required = true)]
        container: Vec<String>,
    },
    /// Prints the resident memory of all processes of the containers, in bytes: the least of some looks, because a probe
    /// may be running beside them. Needs hostPID.
    Rss {
        /// Id of a container; can be given several times.
        #[arg(long, required = true)]
        container: Vec<String>,
    },
    /// Counts a key up once a second through the storage API of its own pod.
    Count {
        /// Where the storage API is.
        #[arg(long, env = "BRAINY_STORAGE_URL")]
        url: String,
        /// The same API as a Unix socket.
        #[arg(long, env = "BRAINY_STORAGE_SOCKET")]
        socket: PathBuf,
        /// The node's name.
        #[arg(long, env = "BRAINY_NODE_ID")]
        node: String,
        /// The key that all nodes count up.
        #[arg(long, env = "COUNTER_KEY", default_value = "visits")]
        key: String,
    },
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    match Arguments::parse() {
        Arguments::Kill { listen, container } => kill(listen, &container).await,
        Arguments::Rss { container } => {
            println!("{}", least_resident(&container).await?);
            Ok(())
        }
        Arguments::Count { url, socket, node, key } => count(&url, &socket, &node, &key).await,
    }
}

async fn kill(port: u16, containers: &[String]) -> anyhow::Result<()> {
    ensure!(containers.iter().all(|id| id.len() >= 12), "a container id has at least 12 characters");
    let listener = TcpListener::bind(("0.0.0.0", port)).await?;
    println!("waiting for the word on port {port}");
    loop {
        let (stream, _) = listener.accept().await?;
        let mut stream = BufReader::new(stream);
        let mut word = String::new();
        // Probes connect and say nothing.
        if timeout(Duration::from_secs(5), stream.read_line(&mut word)).await.is_ok_and(|read| read.is_ok())
            && word == "strike\n"
        {
            let killed = strike(containers)?;
            println!("killed {killed:?}");
            stream.write_all(format!("killed {}\n", killed.len()).as_bytes()).await?;
            stream.shutdown().await?;
            return Ok(());
        }
    }
}

/// Until no process is left that was there at the beginning: a process can fork between the look and the signal.
fn strike(containers: &[String]) -> anyhow::Result<BTreeSet<i32>> {
    let mut killed = BTreeSet::new();
    loop {
        let fresh: Vec<i32> = processes_of(containers)?.into_iter().filter(|pid| !killed.contains(pid)).collect();
        if fresh.is_empty() {
            return Ok(killed);
        }
        for pid in fresh {
            if let Some(target) = Pid::from_raw(pid) {
                // Gone already is as good as killed.
                kill_process(target, Signal::KILL)
                    .or_else(|error| if error == rustix::io::Errno::SRCH { Ok(()) } else { Err(error) })?;
            }
            killed.insert(pid);
        }
    }
}

/// The processes whose control group is named after one of the containers (cgroup v1 and v2; the pod's sandbox is another).
fn processes_of(containers: &[String]) -> anyhow::Result<Vec<i32>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").context("can't read /proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        // A process that has just ended has no file any more.
        let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        if containers.iter().any(|id| groups.contains(id.as_str())) {
            found.push(pid);
        }
    }
    Ok(found)
}

async fn least_resident(containers: &[String]) -> anyhow::Result<u64> {
    let mut least = resident(containers)?;
    for _ in 0..LOOKS {
        sleep(BETWEEN_LOOKS).await;
        least = least.min(resident(containers)?);
    }
    Ok(least)
}

fn resident(containers: &[String]) -> anyhow::Result<u64> {
    let mut bytes = 0;
    for pid in processes_of(containers)? {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kilobytes: u64 = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse().ok()).unwrap_or(0);
        bytes += kilobytes * 1024;
    }
    Ok(bytes)
}

async fn count(url: &str, socket: &PathBuf, node: &str, key: &str) -> anyhow::Result<()> {
    let address = url.strip_prefix("http://").context("BRAINY_STORAGE_URL is no http:// address")?;
    // A native sidecar answers before the application starts, over either way; the shards may still be on their way to
    // their owners.
    let seen = json!({"url": url, "socket": socket, "storage": over_socket(socket).await?});
    let seen = json!({"items": [{"key": format!("seen/{node}"), "value": seen}]});
    loop {
        let answer = over_tcp(address, "/v1/kv:setBatch", &seen).await?;
        if answer["items"][0]["outcome"] == "applied" {
            break;
        }
        println!("{node}: {answer}");
        sleep(Duration::from_secs(1)).await;
    }
    loop {
        match over_tcp(address, "/v1/kv:increment", &json!({"key": key, "delta": 1})).await {
            Ok(answer) => println!("{node}: {key} is {}", answer["value"]),
            Err(error) => println!("{node}: {error:#}"),
        }
        sleep(Duration::from_secs(1)).await;
    }
}

async fn over_tcp(address: &str, path: &str, body: &Value) -> anyhow::Result<Value> {
    let stream = TcpStream::connect(address).await.with_context(|| format!("nothing listens on {address}"))?;
    call(stream, Method::POST, path, serde_json::to_vec(body)?.into()).await
}

async fn over_socket(socket: &PathBuf) -> anyhow::Result<Value> {
    let stream =
        UnixStream::connect(socket).await.with_context(|| format!("nothing listens on {}", socket.display()))?;
    call(stream, Method::GET, "/v1/storage", Bytes::new()).await
}

async fn call(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    method: Method,
    path: &str,
    body: Bytes,
) -> anyhow::Result<Value> {
    let exchange = async {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let request = Request::builder().method(method).uri(path).header("host", "localhost");
        let response =
            sender.send_request(request.header("content-type", "application/json").body(Full::new(body))?).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        ensure!(status.is_success(), "{path}: {status}: {}", String::from_utf8_lossy(&body));
        Ok(serde_json::from_slice(&body)?)
    };
    timeout(Duration::from_secs(30), exchange).await.with_context(|| format!("{path}: no answer in 30 s"))?
}
