//! The process: a leader among replicas, and the work that only the leader does. The work is cancelled and has ended
//! before the lease is released, and before it lapses.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use brainy_coordination::clock::{Clock, SystemClock};
use brainy_coordination::elector::{Elector, Settings, Term};
use brainy_kubernetes::client::{bounded, watching};
use brainy_kubernetes::lock::LeaseLock;
use kube::Client;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::cli::{Options, Timing};
use crate::context::{Context, Parts};
use crate::counting::counted;
use crate::events::Events;
use crate::metrics::Metrics;
use crate::reconcile::build::SidecarImage;
use crate::{http, watch as watches};

/// Runs until SIGTERM or SIGINT.
pub async fn run(options: Options) -> anyhow::Result<()> {
    options.check().map_err(|why| anyhow!(why))?;
    let config = kube::Config::infer().await.context("no Kubernetes API: run inside a cluster, or set KUBECONFIG")?;
    let metrics = Metrics::default();
    let calls = counted(bounded(&config)?, metrics.clone());
    let watch_client = counted(watching(&config)?, metrics.clone());
    metrics.leading(false);

    let stop = stop_signal()?;
    let listener =
        TcpListener::bind(options.listen).await.with_context(|| format!("can't listen on {}", options.listen))?;
    let server = tokio::spawn(http::serve(listener, metrics.clone(), stopped(stop.clone())));

    // A restart must not take its predecessor's term for its own.
    let place = options.pod_uid.as_ref().map(|uid| format!("{}_{uid}", options.identity));
    let identity = format!("{}_{}", place.as_ref().unwrap_or(&options.identity), uuid::Uuid::new_v4().simple());
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    // The lease has a connection of its own: nothing else delays a renewal.
    let lock =
        LeaseLock::new(counted(bounded(&config)?, metrics.clone()), &options.lease_namespace, &options.lease_name);
    let Timing { ttl, renew, look, call_limit } = options.timing();
    let settings = Settings { identity: identity.clone(), ttl, renew, look, call_limit };
    let elector = Elector::new(lock, Arc::clone(&clock), settings);
    let elector = match place {
        Some(place) => elector.in_place(place),
        None => elector,
    };
    let events = Events::new(calls.clone(), &options.identity);
    let worker = Worker { calls, watch_client, clock, identity, options, events, metrics };
    tracing::info!(identity = worker.identity, "started");
    elector.run(stopped(stop), |term| worker.clone().lead(term)).await;
    tracing::info!("stopped");
    server.await.context("the HTTP server panicked")?.context("the HTTP server failed")
}

/// What each term of leadership starts with.
#[derive(Clone)]
struct Worker {
    calls: Client,
    watch_client: Client,
    clock: Arc<dyn Clock>,
    identity: String,
    options: Options,
    events: Events,
    metrics: Metrics,
}

impl Worker {
    /// Works until it is dropped.
    async fn lead(self, term: Term) {
        let _shown = Leading::begin(self.metrics.clone());
        let context = Context::new(Parts {
            client: self.calls,
            clock: self.clock,
            identity: self.identity,
            sidecar: SidecarImage {
                image: self.options.sidecar_image.clone(),
                pull_policy: self.options.sidecar_pull_policy.clone(),
            },
            term,
            events: self.events,
            metrics: self.metrics,
        });
        let of_clusters = self.options.network_policies.then(|| self.options.lease_namespace.clone());
        let overlap = Duration::from_secs(self.options.trust_overlap_seconds);
        let context = context.with_network_policies(of_clusters).with_trust_overlap(overlap);
        watches::run(Arc::new(context), self.watch_client, self.options.watched()).await;
    }
}

/// Shows in the metrics that this replica leads, until it is dropped.
struct Leading(Metrics);

impl Leading {
    fn begin(metrics: Metrics) -> Self {
        metrics.leading(true);
        Self(metrics)
    }
}

impl Drop for Leading {
    fn drop(&mut self) {
        self.0.leading(false);
    }
}

/// Turns true on SIGTERM or SIGINT.
fn stop_signal() -> anyhow::Result<watch::Receiver<bool>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (sender, receiver) = watch::channel(false);
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        sender.send_replace(true);
    });
    Ok(receiver)
}

async fn stopped(mut stop: watch::Receiver<bool>) {
    // An error means that the sender is gone, which is a stop as well.
    let _ended = stop.wait_for(|stop| *stop).await;
}
