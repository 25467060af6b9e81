//! `node`: takes part in a cluster.

use std::sync::Arc;
use std::time::Duration;

use brainy_kubernetes::config::S3Config;
use brainy_kubernetes::names;
use rustls::pki_types::ServerName;

use super::s3::S3Listeners;
use super::shutdown::Signals;
use super::{CommandError, LAST_REQUESTS, Serving, listen, listen_unix};
use crate::cli;
use crate::config::{ConfigError, NodeSettings, peer_listener};
use crate::http::outlet::Outlet;
use crate::http::server::{self, Connections, PEER_LIMITS};
use crate::metrics::Metrics;
use crate::ownership::Ownership;
use crate::peers::{Certificates, PeerPool, listener};
use crate::routing::{Patience, Router};
use crate::s3::Access;
use crate::s3::access::Keys;

/// Every container of the pod may use the socket, whoever it runs as: they all reach the loopback address too.
const SOCKET_MODE: u32 = 0o666;
/// For the others to hear, after the last shard was given away, where the shards are now.
const HEARSAY: Duration = Duration::from_millis(300);

/// Serves as a node until a signal comes.
pub async fn run(arguments: cli::Node) -> Result<(), CommandError> {
    let start = |error: &dyn std::fmt::Display| CommandError::Start(error.to_string());
    let signals = Signals::listen().map_err(|error| start(&error))?;
    let settings = NodeSettings::load(&arguments)?;
    let (certificates, follower) = Certificates::load(&arguments.tls)?;
    tokio::spawn(follower.follow());
    let others = listen(peer_listener(arguments.peers, arguments.pod_ip))?;
    let tcp = listen(arguments.listen)?;
    let unix = listen_unix(&arguments.socket, SOCKET_MODE)?;
    // An application of the pod may have the port: that is no reason to keep shards from being served to it.
    let outside = listen(peer_listener(arguments.metrics, arguments.pod_ip))
        .inspect_err(|error| tracing::warn!(%error, "nobody outside the pod can ask how this node is, and Kubernetes takes it for not ready"))
        .ok();

    let s3 = settings.cluster.s3.as_ref().map(|s3| s3_of(&arguments, s3)).transpose()?;

    let (cluster, namespace) = (&settings.cluster.cluster, &settings.cluster.namespace);
    let name = names::node_dns(&settings.node.0, cluster, namespace);
    let name = ServerName::try_from(name).map_err(|error| start(&error))?;
    let peers = PeerPool::new(certificates.clone(), cluster, namespace);
    let metrics = Arc::new(Metrics::default());
    metrics.watch_volume(settings.data());
    let watching = Arc::clone(&metrics);
    let observing = move |backend| watching.observing(backend);
    let ownership = Ownership::start(&settings, Arc::new(peers.clone()), observing).map_err(|error| start(&error))?;
    let owners = Arc::new(ownership.clone());
    let router = Arc::new(Router::new(owners, Some(Arc::new(peers)), Patience::default(), Arc::clone(&metrics)));

    let (stop, stopped) = server::stop();
    let connections = Connections::new(PEER_LIMITS, stopped);
    let internal = listener::app(Arc::clone(&router), Some(ownership.clone()), Outlet::default());
    tokio::spawn(listener::serve(others, certificates, name, connections.clone(), internal));
    let serving =
        Serving::start(router, ownership.clone(), metrics, settings.storage_info(), tcp, (Some(unix), outside), s3);
    tracing::info!(node = %settings.node, address = %settings.address, api = %arguments.listen, "serving");

    signals.first().await;
    tracing::info!("draining: shards are given away, requests go on to their new owners");
    // Both listeners stay until the shards are elsewhere: a planned stop fails no request (G5).
    ownership.drain().await;
    // Who has not heard of it yet asks here, and is told: a connection that closes under a write leaves its outcome unknown.
    tokio::time::sleep(HEARSAY).await;
    stop.raise();
    tokio::join!(serving.end(), connections.ended(LAST_REQUESTS));
    tracing::info!("drained");
    Ok(())
}

/// Where this node serves S3, and for whom.
fn s3_of(arguments: &cli::Node, config: &S3Config) -> Result<S3Listeners, CommandError> {
    let access = match &config.keys {
        None => Access::Anyone,
        Some(folder) => Access::Keys(
            Keys::load(folder).map_err(|error| ConfigError::Wrong { field: "s3.keys", problem: error.to_string() })?,
        ),
    };
    Ok(S3Listeners {
        tcp: listen(arguments.s3_listen)?,
        unix: Some(listen_unix(&arguments.s3_socket, SOCKET_MODE)?),
        access,
        page: config.list_page_size,
    })
}
