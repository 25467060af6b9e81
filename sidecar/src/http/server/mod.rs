//! Serves connections over TCP, a Unix socket or TLS.
//!
//! - [`connections`]: how many at once, and which gives way when there are more.
//! - `connection`: one of them, from its opening to its last word; `activity`: what it is doing; `stream`: its bytes;
//!   `bodies`: what is sent through it.
//! - Here: the listeners, and how everything ends.

mod activity;
mod bodies;
mod connection;
pub mod connections;
mod stream;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::watch;

use super::lane::App;

pub use connections::{API_LIMITS, Connections, Limits, OBSERVED_LIMITS, PEER_LIMITS, S3_LIMITS};

/// Read buffer of a connection: the head of a request must fit.
const BUFFER: usize = 64 * 1024;
/// Most headers of a request: hyper's own limit, which costs nothing as long as it is not set.
const HEADERS: usize = 100;
/// Pause after a connection could not be accepted (mostly: too many open files).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

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
pub async fn serve_tcp(listener: TcpListener, connections: Connections, app: impl Into<App>) {
    let app = app.into();
    while let Some((admission, stream)) = connections.next(|| accept_tcp(&listener)).await {
        connections.serve(admission, std::future::ready(Some(stream)), app.clone());
    }
}

/// Serves an app over a Unix socket until the connections are told to stop.
pub async fn serve_unix(socket: Socket, connections: Connections, app: impl Into<App>) {
    let app = app.into();
    while let Some((admission, stream)) = connections.next(|| accept_unix(&socket.listener)).await {
        connections.serve(admission, std::future::ready(Some(stream)), app.clone());
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
