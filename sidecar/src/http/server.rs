//! Serves connections over TCP, a Unix socket or TLS: how many at once, how long a request's head may take, and how
//! they end.

use std::io;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// Read buffer of a connection: the head of a request must fit.
const BUFFER: usize = 64 * 1024;
/// Pause after a connection could not be accepted (mostly: too many open files).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What connections are allowed.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How many at once; more wait in the listener's queue.
    pub connections: u32,
    /// For the head of the next request to come in, idle time included.
    pub head: Duration,
}

/// For the storage API: applications keep connections open and use them now and then.
pub const API_LIMITS: Limits = Limits { connections: 512, head: Duration::from_secs(75) };
/// For other nodes: longer than their pools keep an unused connection.
pub const PEER_LIMITS: Limits = Limits { connections: 512, head: Duration::from_secs(90) };

/// Raised once: everything that waits for it ends.
#[derive(Clone, Debug)]
pub struct Stop(watch::Receiver<bool>);

/// Raises a [`Stop`].
#[derive(Clone, Debug)]
pub struct StopSender(watch::Sender<bool>);

/// A stop that has not been raised.
pub fn stop() -> (StopSender, Stop) {
    let (sender, receiver) = watch::channel(false);
    (StopSender(sender), Stop(receiver))
}

impl StopSender {
    /// Raises it.
    pub fn raise(&self) {
        self.0.send_replace(true);
    }
}

impl Stop {
    /// Waits until it is raised.
    pub async fn wait(&mut self) {
        // An error means that the sender is gone: nothing is left to serve for.
        let _ = self.0.wait_for(|raised| *raised).await;
    }

    /// It has been raised.
    pub fn raised(&self) -> bool {
        *self.0.borrow()
    }
}

/// The open connections of one or more listeners. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Connections {
    limits: Limits,
    slots: Arc<Semaphore>,
    stop: Stop,
}

impl Connections {
    /// Connections that end when `stop` is raised.
    pub fn new(limits: Limits, stop: Stop) -> Self {
        Self { limits, slots: Arc::new(Semaphore::new(limits.connections as usize)), stop }
    }

    /// The next connection, once there is a slot for it; `None` when they are told to stop.
    pub async fn next<S>(&self, accept: impl Future<Output = S>) -> Option<(OwnedSemaphorePermit, S)> {
        let mut stop = self.stop.clone();
        tokio::select! {
            next = async { (self.permit().await, accept.await) } => Some(next),
            () = stop.wait() => None,
        }
    }

    /// Waits for a free slot. None is ever given once all connections [`ended`](Self::ended).
    async fn permit(&self) -> OwnedSemaphorePermit {
        match Arc::clone(&self.slots).acquire_owned().await {
            Ok(permit) => permit,
            Err(_closed) => std::future::pending().await,
        }
    }

    /// Serves one connection in a task of its own. `opening` is what must happen first (TLS); `None`: it failed.
    pub fn serve<S>(
        &self,
        permit: OwnedSemaphorePermit,
        opening: impl Future<Output = Option<S>> + Send + 'static,
        app: axum::Router,
    ) where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let mut stop = self.stop.clone();
        let head = self.limits.head;
        tokio::spawn(async move {
            let _permit = permit;
            let Some(stream) = opening.await else { return };
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(head)
                .max_buf_size(BUFFER)
                .serve_connection(TokioIo::new(stream), TowerToHyperService::new(app));
            let mut connection = pin!(connection);
            let ended = tokio::select! {
                ended = connection.as_mut() => ended,
                () = stop.wait() => {
                    // The request in progress gets its answer, then the connection closes.
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(error) = ended {
                tracing::debug!(%error, "a connection broke off");
            }
        });
    }

    /// Waits until all connections have ended, at most `limit`. True: they have.
    pub async fn ended(&self, limit: Duration) -> bool {
        tokio::time::timeout(limit, self.slots.acquire_many(self.limits.connections)).await.is_ok()
    }
}

/// The next connection; a failure to accept is waited out.
pub async fn accept_tcp(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // Small answers must not wait for the client's acknowledgement. A failure only costs time.
                let _ = stream.set_nodelay(true);
                return stream;
            }
            Err(error) => refused(&error).await,
        }
    }
}

async fn accept_unix(listener: &UnixListener) -> UnixStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(error) => refused(&error).await,
        }
    }
}

async fn refused(error: &io::Error) {
    tracing::warn!(%error, "could not accept a connection");
    tokio::time::sleep(ACCEPT_PAUSE).await;
}

/// Serves an app over TCP until the connections are told to stop.
pub async fn serve_tcp(listener: TcpListener, connections: Connections, app: axum::Router) {
    while let Some((permit, stream)) = connections.next(accept_tcp(&listener)).await {
        connections.serve(permit, std::future::ready(Some(stream)), app.clone());
    }
}

/// Serves an app over a Unix socket until the connections are told to stop.
pub async fn serve_unix(socket: Socket, connections: Connections, app: axum::Router) {
    while let Some((permit, stream)) = connections.next(accept_unix(&socket.listener)).await {
        connections.serve(permit, std::future::ready(Some(stream)), app.clone());
    }
}

/// A Unix socket that is listened on; its file goes when it is dropped.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
}

impl Socket {
    /// Listens on a socket with the given file mode. A file left by a process that is gone is replaced; one that
    /// answers is not.
    pub fn bind(path: &Path, mode: u32) -> io::Result<Self> {
        use std::os::unix::fs::{FileTypeExt, PermissionsExt};
        match std::fs::symlink_metadata(path) {
            Ok(found) if !found.file_type().is_socket() => {
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, "a file that is no socket is in the way"));
            }
            Ok(_) if std::os::unix::net::UnixStream::connect(path).is_ok() => {
                return Err(io::Error::new(io::ErrorKind::AddrInUse, "another process listens on it"));
            }
            Ok(_) => std::fs::remove_file(path)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
        Ok(Self { listener, path: path.to_owned() })
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // A file that stays behind is replaced at the next start.
        let _ = std::fs::remove_file(&self.path);
    }
}
