//! What the tests run inside the cluster, as one static binary: `kill` (SIGKILL for the processes of containers), `hold`
//! (processes that stand still for a while), `rss` (their memory), `disk` (a small disk of a host), `count` (the smallest
//! application that uses the storage API), `hand` (the application whose clients are judged), `drive` (who tells them what
//! to ask), `reach` (who tries to connect) and `collect` (a collector of traces).

use std::collections::BTreeSet;
use std::ffi::CString;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use brainy_e2e::clients::{self, hand};
use brainy_e2e::processes::{self, Wanted, send};
use brainy_e2e::{collector, reach};
use bytes::Bytes;
use clap::Parser;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_remount, unmount};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

/// For an answer, before its way may stand still.
const WAY_BACK: Duration = Duration::from_secs(2);
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
    /// Waits for a connection that says "strike", answers "holding N", and makes N processes stand still for a while. Needs
    /// hostPID.
    Hold {
        /// Port to listen on.
        #[arg(long)]
        listen: u16,
        /// For how long.
        #[arg(long)]
        seconds: u64,
        /// Where the driver of the clients is, who is told when they stand still and when they are about to go on.
        #[arg(long)]
        driver: String,
        /// What the driver notes, together with that.
        #[arg(long)]
        mark: String,
        /// Name of a process; can be given several times.
        #[arg(long)]
        process: Vec<String>,
        /// All containers of the host but those of this pod.
        #[arg(long)]
        containers: bool,
    },
    /// Prints the resident memory of all processes of the containers, in bytes: the least of some looks, because a probe
    /// may be running beside them. Needs hostPID.
    Rss {
        /// Id of a container; can be given several times.
        #[arg(long, required = true)]
        container: Vec<String>,
    },
    /// Mounts a disk in the host's memory, gives one that is mounted another size, or (size 0) takes it away again.
    Disk {
        /// Where.
        #[arg(long)]
        path: PathBuf,
        /// Its size.
        #[arg(long)]
        mebibytes: u64,
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
    /// Asks the storage API of its own pod what a driver says, and tells the driver the answers.
    Hand {
        /// Where the driver is.
        #[arg(long)]
        driver: String,
        /// Whose clients these are.
        #[arg(long)]
        cluster: String,
        /// How many.
        #[arg(long)]
        clients: usize,
        /// Where the storage API is.
        #[arg(long, env = "BRAINY_STORAGE_URL")]
        url: String,
        /// The node's name.
        #[arg(long, env = "BRAINY_NODE_ID")]
        node: String,
    },
    /// Decides what clients ask, notes what they are told, and judges it.
    Drive {
        /// Port to listen on.
        #[arg(long)]
        listen: u16,
        /// Which choices are made.
        #[arg(long)]
        seed: u64,
    },
    /// Tries to connect to each address that a line of a connection names, and answers what came of it.
    Reach {
        /// Port to listen on.
        #[arg(long)]
        listen: u16,
    },
    /// Takes traces (OTLP over HTTP), and prints each span as a line of JSON.
    Collect {
        /// Port to listen on.
        #[arg(long)]
        listen: u16,
    },
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    match Arguments::parse() {
        Arguments::Kill { listen, container } => kill(listen, &container).await,
        Arguments::Hold { listen, seconds, driver, mark, process, containers } => {
            let wanted = Wanted { named: process, containers };
            hold(listen, &wanted, Duration::from_secs(seconds), &driver, &mark).await
        }
        Arguments::Rss { container } => {
            println!("{}", least_resident(&container).await?);
            Ok(())
        }
        Arguments::Disk { path, mebibytes } => disk(&path, mebibytes),
        Arguments::Count { url, socket, node, key } => count(&url, &socket, &node, &key).await,
        Arguments::Hand { driver, cluster, clients, url, node } => lend(&driver, &url, &cluster, &node, clients).await,
        Arguments::Drive { listen, seed } => clients::drive(TcpListener::bind(("0.0.0.0", listen)).await?, seed).await,
        Arguments::Reach { listen } => until_told_to_stop(reach::serve(listen)).await,
        Arguments::Collect { listen } => until_told_to_stop(collector::collect(listen)).await,
    }
}

/// Waits until somebody connects and gives the word.
async fn word(port: u16) -> anyhow::Result<BufReader<TcpStream>> {
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
            return Ok(stream);
        }
    }
}

async fn answer(mut stream: BufReader<TcpStream>, what: &str) -> anyhow::Result<()> {
    println!("{what}");
    stream.write_all(format!("{what}\n").as_bytes()).await?;
    Ok(stream.shutdown().await?)
}

async fn kill(port: u16, containers: &[String]) -> anyhow::Result<()> {
    ensure!(containers.iter().all(|id| id.len() >= 12), "a container id has at least 12 characters");
    let stream = word(port).await?;
    answer(stream, &format!("killed {}", strike(containers)?.len())).await
}

/// The way to who gives the word may lead through what is to stand still: so the answer comes first.
async fn hold(port: u16, wanted: &Wanted, lasts: Duration, driver: &str, mark: &str) -> anyhow::Result<()> {
    let stream = word(port).await?;
    answer(stream, &format!("holding {}", processes::count(wanted)?)).await?;
    sleep(WAY_BACK).await;
    let told = |what| async move {
        if let Err(error) = clients::mark(driver, &format!("{mark} {what}")).await {
            println!("{error:#}");
        }
    };
    println!("held {} processes", processes::stand_still(wanted, lasts, told).await?);
    Ok(())
}

/// Works until this process is told to stop: as the first of its container it has to see to that itself.
async fn until_told_to_stop(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let mut end = signal(SignalKind::terminate())?;
    tokio::select! {
        done = work => done,
        _ = end.recv() => Ok(()),
    }
}

/// Some clients' hands, until this process is told to stop, which they finish before.
async fn lend(driver: &str, storage: &str, cluster: &str, node: &str, clients: usize) -> anyhow::Result<()> {
    let mut end = signal(SignalKind::terminate())?;
    let (stop, stopped) = watch::channel(false);
    let hands = (0..clients).map(|_| hand::work(driver, storage, cluster, node, stopped.clone()));
    let ended = async {
        end.recv().await;
        stop.send_replace(true);
        Ok(())
    };
    futures::try_join!(futures::future::try_join_all(hands), ended).map(drop)
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
            send(pid, Signal::KILL)?;
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

fn disk(path: &Path, mebibytes: u64) -> anyhow::Result<()> {
    std::fs::create_dir_all(path)?;
    let parent = path.parent().context("the root is no disk")?;
    let is_mounted = std::fs::metadata(path)?.dev() != std::fs::metadata(parent)?.dev();
    if mebibytes == 0 {
        if is_mounted {
            unmount(path, UnmountFlags::DETACH)?;
        }
        return Ok(std::fs::remove_dir(path)?);
    }
    let options = CString::new(format!("size={mebibytes}m,mode=0777"))?;
    match is_mounted {
        true => mount_remount(path, MountFlags::empty(), &options)?,
        false => mount("brainy-e2e", path, "tmpfs", MountFlags::empty(), Some(options.as_c_str()))?,
    }
    Ok(())
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
