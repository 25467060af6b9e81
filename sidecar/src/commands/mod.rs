//! The program's commands, and how each may end.

pub mod node;
mod s3;
pub mod serve;
mod shutdown;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket};
use tokio::task::JoinHandle;

use crate::config::ConfigError;
use crate::data_folder::FolderError;
use crate::http::intake::Intake;
use crate::http::outlet::Outlet;
use crate::http::server::{self, API_LIMITS, Connections, OBSERVED_LIMITS, Socket};
use crate::http::{Api, StorageInfo, routes};
use crate::ownership::Ownership;
use crate::peers::certificates::CertificateError;
use crate::routing::Router;

/// Connections that may wait to be accepted: a client that finds the queue full tries again after a whole second. The
/// system may allow fewer.
const BACKLOG: u32 = 4096;
/// For requests in progress to end before the process does.
const LAST_REQUESTS: Duration = Duration::from_secs(4);

/// Why a command failed, in words a person can act on.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// An address can't be listened on.
    #[error("can't listen on {address}: {source}{}", hint(source))]
    Listen {
        /// Address or socket.
        address: String,
        /// Why.
        source: std::io::Error,
    },
    /// The data folder.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The certificates.
    #[error(transparent)]
    Certificates(#[from] CertificateError),
    /// The node could not be started.
    #[error("{0}")]
    Start(String),
}

fn hint(source: &std::io::Error) -> &'static str {
    match source.kind() {
        std::io::ErrorKind::AddrInUse => "; stop the other process, or choose another address with --listen",
        std::io::ErrorKind::PermissionDenied => "; choose a port above 1023 or a folder that you may write to",
        _ => "",
    }
}

impl CommandError {
    /// The program's exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) => 2,
            Self::Listen { source, .. } if source.kind() == std::io::ErrorKind::AddrInUse => 3,
            Self::Folder(FolderError::InUse { .. }) => 4,
            Self::Folder(_) => 5,
            Self::Listen { .. } | Self::Certificates(_) | Self::Start(_) => 1,
        }
    }
}

fn listen(address: SocketAddr) -> Result<TcpListener, CommandError> {
    listen_tcp(address).map_err(|source| CommandError::Listen { address: address.to_string(), source })
}

fn listen_tcp(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // A process that was here a moment ago leaves its connections behind for a while.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

fn listen_unix(path: &Path, mode: u32) -> Result<Socket, CommandError> {
    Socket::bind(path, mode).map_err(|source| CommandError::Listen { address: path.display().to_string(), source })
}

/// The storage API and S3, listening.
struct Serving {
    stop: server::StopSender,
    connections: Vec<Connections>,
    listeners: Vec<JoinHandle<()>>,
}

impl Serving {
    fn start(
        router: Arc<Router>,
        ownership: Ownership,
        metrics: Arc<crate::metrics::Metrics>,
        storage: StorageInfo,
        tcp: TcpListener,
        (unix, outside): (Option<Socket>, Option<TcpListener>),
        s3: Option<s3::S3Listeners>,
    ) -> Self {
        let (stop, stopped) = server::stop();
        let heartbeat = crate::health::Heartbeat::default();
        tokio::spawn(heartbeat.clone().beat());
        let connections = Connections::new(API_LIMITS, stopped.clone());
        let (storage, intake, outlet) = (Arc::new(storage), Intake::default(), Outlet::default());
        let s3 = s3.map(|s3| s3.open(&router, &metrics, &intake, &outlet, stopped.clone()));
        let api = Arc::new(Api { router, ownership, metrics, storage, heartbeat, intake, outlet, stop: stopped });
        let observed = outside.map(|outside| (outside, routes::observed(Arc::clone(&api))));
        let app = routes::app(&api);
        let mut listeners = vec![tokio::spawn(server::serve_tcp(tcp, connections.clone(), app.clone()))];
        if let Some(unix) = unix {
            listeners.push(tokio::spawn(server::serve_unix(unix, connections.clone(), app)));
        }
        if let Some((outside, observed)) = observed {
            // Places of their own: who looks from outside takes none from the application.
            let few = Connections::new(OBSERVED_LIMITS, connections.stop());
            listeners.push(tokio::spawn(server::serve_tcp(outside, few, observed)));
        }
        let mut all = vec![connections];
        if let Some((connections, tasks)) = s3 {
            all.push(connections);
            listeners.extend(tasks);
        }
        Self { stop, connections: all, listeners }
    }

    /// Accepts nothing more and lets requests in progress end, within a bound.
    async fn end(self) {
        self.stop.raise();
        // They end at once; with one of them goes the socket's file.
        futures::future::join_all(self.listeners).await;
        let ended = self.connections.iter().map(|connections| connections.ended(LAST_REQUESTS));
        if !futures::future::join_all(ended).await.into_iter().all(|ended| ended) {
            tracing::warn!("requests were still in progress at the end; their clients must take them for unknown");
        }
    }
}
