//! Servers in processes of their own, and rounds against them.

use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use futures::FutureExt;
use tokio::time::{sleep, timeout};

use crate::contest::{Contender, Round};
use crate::http::{self, Connection};
use crate::light::{self, Crowd, Exchange};
use crate::process;

/// For a server to answer for the first time.
const START: Duration = Duration::from_secs(60);
/// Between two looks whether it does.
const LOOK: Duration = Duration::from_millis(2);

/// A running server. Killed when dropped.
#[derive(Debug)]
pub struct Server {
    child: Child,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An address of this machine where nobody listens.
pub fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

impl Server {
    /// Starts a program and waits until a GET of `path` is answered with a status that counts as ready. What the program
    /// says goes to the file `log`.
    pub async fn start(
        mut command: Command,
        address: SocketAddr,
        path: &str,
        ready: fn(u16) -> bool,
        log: &Path,
    ) -> anyhow::Result<Self> {
        let file = File::create(log)?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let child = command.spawn().with_context(|| format!("can't start {:?}", command.get_program()))?;
        let mut server = Self { child, address };
        let (began, request) = (Instant::now(), http::get(path));
        loop {
            if let Some(status) = server.child.try_wait()? {
                bail!("{:?} ended ({status}): {}", command.get_program(), said(log));
            }
            if status_of(address, &request).await.is_some_and(ready) {
                return Ok(server);
            }
            if began.elapsed() > START {
                bail!("{:?} does not answer: {}", command.get_program(), said(log));
            }
            sleep(LOOK).await;
        }
    }

    /// User and system time so far.
    pub fn cpu(&self) -> anyhow::Result<Duration> {
        process::cpu(self.child.id())
    }

    /// Resident memory in bytes.
    pub fn resident(&self) -> anyhow::Result<u64> {
        process::resident(self.child.id())
    }

    /// The most resident memory so far, in bytes.
    pub fn peak(&self) -> anyhow::Result<u64> {
        process::peak(self.child.id())
    }

    /// A contender: so many clients that have any of the exchanges.
    pub fn contender(self: &Rc<Self>, clients: usize, exchanges: Arc<[Exchange]>) -> Contender {
        self.contender_of(Crowd::of(clients), exchanges)
    }

    /// The same, of clients that may take their time.
    pub fn contender_of(self: &Rc<Self>, crowd: Crowd, exchanges: Arc<[Exchange]>) -> Contender {
        let (server, measured) = (Rc::clone(self), Rc::clone(self));
        let turn = Box::new(move |duration: Duration| {
            let (server, exchanges) = (Rc::clone(&server), Arc::clone(&exchanges));
            async move {
                let (before, address) = (server.cpu()?, server.address);
                let load = move || light::any_of(address, crowd, &exchanges, duration);
                let laps = tokio::task::spawn_blocking(load).await??;
                Ok(Round { laps, cpu: server.cpu()?.saturating_sub(before) })
            }
            .boxed_local()
        });
        Contender { turn, resident: Box::new(move || measured.resident().map(Some)) }
    }
}

/// Sets what the sidecar's image sets for its memory.
pub(crate) fn as_shipped(sidecar: &mut Command) {
    let memory = [
        ("MALLOC_ARENA_MAX", "1"),
        ("MALLOC_TRIM_THRESHOLD_", "65536"),
        ("MALLOC_TOP_PAD_", "65536"),
        ("GLIBC_TUNABLES", "glibc.malloc.tcache_max=8192:glibc.malloc.tcache_count=16"),
    ];
    sidecar.envs(memory).env("BRAINY_LOG", "warn");
}

async fn status_of(address: SocketAddr, request: &[u8]) -> Option<u16> {
    let asked = async {
        let mut connection = Connection::open(address).await?;
        connection.exchange(request).await.map(|(status, _)| status)
    };
    timeout(Duration::from_secs(2), asked).await.ok()?.ok()
}

/// The end of what a program said.
fn said(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(10)..].join("\n")
}

/// Success.
pub fn success(status: u16) -> bool {
    status / 100 == 2
}

/// Any answer.
pub fn any(_status: u16) -> bool {
    true
}

/// Where programs and data are.
#[derive(Clone, Debug)]
pub struct Places {
    /// Folder with our own programs.
    pub programs: PathBuf,
    /// Folder for data and logs, on the disk that is measured.
    pub data: PathBuf,
    /// daprd, where it is to be measured.
    pub daprd: Option<PathBuf>,
    /// An S3 server, where it is to be measured.
    pub versitygw: Option<PathBuf>,
}

impl Places {
    /// `brainy-sidecar serve` on a data folder of the given name.
    pub async fn sidecar(&self, name: &str, options: &[&str]) -> anyhow::Result<Server> {
        let address = free_address()?;
        let mut command = Command::new(self.programs.join("brainy-sidecar"));
        command.args(["serve", "--listen", &address.to_string(), "--data"]).arg(self.data.join(name)).args(options);
        as_shipped(&mut command);
        Server::start(command, address, "/readyz", success, &self.log(name)).await
    }

    /// A bare handler over a cache.
    pub async fn bare(&self) -> anyhow::Result<Server> {
        let address = free_address()?;
        let mut command = Command::new(self.programs.join("brainy-bench-bare"));
        command.arg(address.to_string());
        Server::start(command, address, "/healthz", success, &self.log("bare")).await
    }

    pub(crate) fn log(&self, name: &str) -> PathBuf {
        self.data.join(format!("{name}.log"))
    }
}
