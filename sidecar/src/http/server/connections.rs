//! How many connections there may be at once, and what happens to those beyond.
//!
//! Clients keep connections that they use now and then, or never again. So when all places are taken, the connection
//! that has been idle for longest is closed, as HTTP allows, and the new one gets its place. Where none is idle, a new
//! one waits for a moment and is then answered: 503, with the time after which to try again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::activity::{Activity, Open};
use super::{Stop, connection};
use crate::http::lane::App;
use crate::http::problem::{Kind, Problem};
use crate::http::voice::Voice;

/// Connections at a time that are told that there is no place for them.
const REFUSALS: usize = 64;
/// For a request that will be refused to come in, and for its answer to be taken.
const REFUSAL_LIMIT: Duration = Duration::from_secs(2);
/// Until the next look for a place when all are taken.
const LOOK: Duration = Duration::from_millis(10);

/// What connections are allowed.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How many at once.
    pub connections: u32,
    /// For the head of the next request to come in, idle time included.
    pub head: Duration,
    /// For a client to take some more of its answer.
    pub write: Duration,
    /// How long one must have been idle to be closed for the sake of a new one: its client may be about to use it.
    pub idle: Duration,
    /// Wait of a new one for a place when all are in use.
    pub wait: Duration,
    /// How those are told that can't be served.
    pub voice: Voice,
}

/// For the storage API: applications keep connections open and use them now and then.
pub const API_LIMITS: Limits = Limits {
    connections: 512,
    head: Duration::from_secs(75),
    write: Duration::from_secs(30),
    idle: Duration::from_millis(20),
    wait: Duration::from_secs(1),
    voice: Voice::Problems,
};
/// For other nodes: longer than their pools keep an unused connection.
pub const PEER_LIMITS: Limits = Limits { head: Duration::from_secs(90), write: Duration::from_secs(60), ..API_LIMITS };

/// For S3: its clients keep connections open just so.
pub const S3_LIMITS: Limits = Limits { voice: Voice::S3, ..API_LIMITS };

/// For who collects metrics: few, and each for itself.
pub const OBSERVED_LIMITS: Limits = Limits { connections: 16, ..API_LIMITS };

/// The open connections of one or more listeners. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Connections {
    limits: Limits,
    places: Arc<Semaphore>,
    refusals: Arc<Semaphore>,
    /// The last one that came found no place. The next is not made to wait for one: they would wait in a queue.
    full: Arc<AtomicBool>,
    open: Arc<Open>,
    stop: Stop,
}

/// What a connection is let in for: to be served, or to be told that there is no place.
#[derive(Debug)]
pub struct Admission {
    permit: OwnedSemaphorePermit,
    refused: bool,
}

impl Connections {
    /// Connections that end when `stop` is raised.
    pub fn new(limits: Limits, stop: Stop) -> Self {
        Self {
            limits,
            places: Arc::new(Semaphore::new(limits.connections as usize)),
            refusals: Arc::new(Semaphore::new(REFUSALS)),
            full: Arc::default(),
            open: Arc::default(),
            stop,
        }
    }

    /// What ends them.
    pub fn stop(&self) -> Stop {
        self.stop.clone()
    }

    /// The next connection, with what it is let in for; `None` when they are told to stop.
    pub async fn next<S, F: Future<Output = S>>(&self, accept: impl Fn() -> F) -> Option<(Admission, S)> {
        let next = async {
            loop {
                let stream = accept().await;
                if let Some(admission) = self.admit().await {
                    return (admission, stream);
                }
            }
        };
        let mut stop = self.stop.clone();
        tokio::select! {
            next = next => Some(next),
            () = stop.wait() => None,
        }
    }

    /// `None`: so many are being refused that this one can only be closed.
    async fn admit(&self) -> Option<Admission> {
        let place = self.place().await;
        self.full.store(place.is_none(), Ordering::Relaxed);
        match place {
            Some(permit) => Some(Admission { permit, refused: false }),
            None => {
                let permit = Arc::clone(&self.refusals).try_acquire_owned().ok()?;
                Some(Admission { permit, refused: true })
            }
        }
    }

    /// A free place, or one that a connection leaves which is not used; `None`: all are in use, and go on being.
    async fn place(&self) -> Option<OwnedSemaphorePermit> {
        let patience = if self.full.load(Ordering::Relaxed) { Duration::ZERO } else { self.limits.wait };
        let deadline = Instant::now() + patience;
        loop {
            if let Ok(permit) = Arc::clone(&self.places).try_acquire_owned() {
                return Some(permit);
            }
            let one_leaves = self.open.ask_oldest_to_leave(self.limits.idle);
            if !one_leaves && Instant::now() >= deadline {
                return None;
            }
            let freed = tokio::time::timeout(LOOK, Arc::clone(&self.places).acquire_owned()).await;
            if let Ok(Ok(permit)) = freed {
                return Some(permit);
            }
        }
    }

    /// Serves one connection in a task of its own. `opening` is what must happen first (TLS); `None`: it failed.
    pub fn serve<S>(&self, admission: Admission, opening: impl Future<Output = Option<S>> + Send + 'static, app: App)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (stop, limits) = (self.stop.clone(), self.limits);
        if admission.refused {
            let limits = Limits { head: REFUSAL_LIMIT, write: REFUSAL_LIMIT, ..limits };
            tokio::spawn(async move {
                let _permit = admission.permit;
                if let Some(stream) = opening.await {
                    connection::run(stream, refusing(limits.voice), limits, &Activity::new(), stop).await;
                }
            });
            return;
        }
        let member = self.open.enter();
        tokio::spawn(async move {
            let _permit = admission.permit;
            let activity = &member.activity;
            let opened = tokio::select! {
                biased;
                opened = opening => opened,
                () = activity.asked_to_leave() => None,
            };
            if let Some(stream) = opened {
                connection::run(stream, app, limits, activity, stop).await;
            }
        });
    }

    /// Waits until all connections have ended, at most `limit`. True: they have.
    pub async fn ended(&self, limit: Duration) -> bool {
        tokio::time::timeout(limit, self.places.acquire_many(self.limits.connections)).await.is_ok()
    }
}

/// The app of a connection for which there is no place.
fn refusing(voice: Voice) -> App {
    let refusal = async move || {
        voice.answer(Problem::new(Kind::Overloaded, "all connections are in use; nothing was done, try again"))
    };
    axum::Router::new().fallback(refusal).into()
}
