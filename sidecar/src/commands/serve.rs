//! `serve`: one process, one folder, no cluster.

use std::net::SocketAddr;
use std::sync::Arc;

use brainy_kubernetes::names::S3_PORT;
use brainy_storage::backends::s3::{Credentials, S3Settings};
use brainy_storage::layers::batching::{Ack, Batching};
use brainy_storage::layers::caching::CacheSize;
use brainy_storage::layers::compression::{Algorithm, Compression};
use brainy_storage::layers::limiting::Limiting;
use brainy_storage::layers::tiering::{self, Tiering, Tiers};
use brainy_storage::layers::{LayerStack, Layers};

use super::s3::S3Listeners;
use super::shutdown::Signals;
use super::{CommandError, Serving, listen, listen_unix};
use crate::cli;
use crate::cold::{Claimant, ColdBucket, DiskGauge};
use crate::config::ConfigError;
use crate::data_folder::DataFolder;
use crate::http::StorageInfo;
use crate::metrics::Metrics;
use crate::ownership::Ownership;
use crate::routing::{Patience, Router};
use crate::s3::Access;
use crate::s3::access::Keys;

/// Only the user who started the process reaches the socket.
const SOCKET_MODE: u32 = 0o600;

/// Serves a folder until a signal comes.
pub async fn run(arguments: cli::Serve) -> Result<(), CommandError> {
    let signals = Signals::listen().map_err(|error| CommandError::Start(error.to_string()))?;
    let layers = layers(&arguments)?;
    let (data, shards, engine) = (arguments.data.clone(), arguments.shards, arguments.engine);
    let take = if arguments.cold_bucket.is_some() { DataFolder::take_hot } else { DataFolder::take };
    let taken = tokio::task::spawn_blocking(move || take(&data, shards, engine)).await;
    let folder = taken.map_err(|error| CommandError::Start(error.to_string()))??.with_compression(layers.compression);
    let engine = folder.engine();
    let tcp = listen(arguments.listen)?;
    let unix = arguments.socket.as_deref().map(|path| listen_unix(path, SOCKET_MODE)).transpose()?;
    let address = tcp.local_addr().unwrap_or(arguments.listen);
    let s3 = s3(&arguments)?;
    let s3_address = s3.as_ref().map(S3Listeners::address);

    let metrics = Arc::new(Metrics::default());
    metrics.watch_volume(Some(&arguments.data));
    let compression = layers.compression;
    let mut layers = LayerStack::new(layers).observed(metrics.observing(engine.backend()));
    if let (Some(bucket), Some(mark)) = (&arguments.cold_bucket, folder.mark()) {
        let gauge = DiskGauge::default();
        tokio::spawn(gauge.clone().watch(folder.disk()));
        let claimant = Claimant { uid: mark.to_owned(), shards: arguments.shards, folder: arguments.data.clone() };
        let bucket = cold_settings(bucket, &arguments.cold);
        let cold = ColdBucket::start(bucket, claimant, compression, metrics.observing("s3"));
        layers = layers.tiered(Tiers::new(tiering(&arguments.cold)).with_gauge(gauge.gauge()), cold);
    }
    let ownership = Ownership::standalone(arguments.shards, Arc::new(folder), layers);
    let router = Router::new(Arc::new(ownership.clone()), None, Patience::default(), Arc::clone(&metrics));
    let location = arguments.data.display().to_string();
    let storage = StorageInfo { backend: engine.backend(), strategy: "Standalone", location };
    let serving = Serving::start(Arc::new(router), ownership.clone(), metrics, storage, tcp, (unix, None), s3);
    if !address.ip().is_loopback() {
        tracing::warn!(%address, "the storage API has no access control, and this address can be reached by others");
    }
    let (data, engine) = (arguments.data.display(), engine.backend());
    match s3_address {
        Some(s3) => tracing::info!(%data, engine, "serving http://{address} and S3 at http://{s3}"),
        None => tracing::info!(%data, engine, "serving http://{address}"),
    }

    signals.first().await;
    tracing::info!("stopping: requests in progress may end");
    serving.end().await;
    ownership.drain().await;
    Ok(())
}

/// Where S3 is served, if it is.
fn s3(arguments: &cli::Serve) -> Result<Option<S3Listeners>, CommandError> {
    if arguments.no_s3 {
        return Ok(None);
    }
    let access = match &arguments.s3_keys {
        None => Access::Anyone,
        Some(folder) => Access::Keys(
            Keys::load(folder)
                .map_err(|error| ConfigError::Wrong { field: "--s3-keys", problem: error.to_string() })?,
        ),
    };
    // Who lets the system choose one port has no use for a fixed other.
    let port = if arguments.listen.port() == 0 { 0 } else { S3_PORT };
    let tcp = match arguments.s3_listen {
        Some(address) => listen(address)?,
        None => match listen(SocketAddr::new(arguments.listen.ip(), port)) {
            Ok(tcp) => tcp,
            Err(error) => {
                tracing::warn!(%error, "S3 is not served; choose another address with --s3-listen, or none with --no-s3");
                return Ok(None);
            }
        },
    };
    let unix = arguments.s3_socket.as_deref().map(|path| listen_unix(path, SOCKET_MODE)).transpose()?;
    Ok(Some(S3Listeners { tcp, unix, access, page: arguments.s3_page_size }))
}

fn cold_settings(bucket: &str, cold: &cli::ColdTier) -> S3Settings {
    S3Settings {
        prefix: cold.prefix.clone(),
        region: cold.region.clone(),
        endpoint: cold.endpoint.clone(),
        credentials: cold.credentials.clone().map_or(Credentials::Environment, Credentials::Folder),
        ..S3Settings::new(bucket)
    }
}

fn tiering(cold: &cli::ColdTier) -> Tiering {
    Tiering {
        ack: match cold.ack {
            cli::TieringAck::Hot => tiering::Ack::Hot,
            cli::TieringAck::Cold => tiering::Ack::Cold,
        },
        promote_after_reads: cold.promote_after_reads,
        demote_after_ms: cold.demote_after_hours * 60 * 60 * 1000,
        watermark_percent: cold.watermark_percent,
        ..Tiering::default()
    }
}

fn layers(arguments: &cli::Serve) -> Result<Layers, ConfigError> {
    let algorithm = match arguments.compression {
        cli::CompressionChoice::None => None,
        cli::CompressionChoice::Zstd => Some(Algorithm::Zstd),
        cli::CompressionChoice::Gzip => Some(Algorithm::Gzip),
    };
    let cache = CacheSize { entries: u64::MAX, bytes: arguments.cache_megabytes << 20 };
    let ack = match arguments.batch_ack {
        cli::AckChoice::Durable => Ack::Durable,
        cli::AckChoice::Buffered => Ack::Buffered,
    };
    if ack == Ack::Buffered && arguments.batch_milliseconds == 0 {
        let problem =
            "is buffered, but nothing waits: set --batch-milliseconds to how long a write may wait".to_owned();
        return Err(ConfigError::Wrong { field: "--batch-ack", problem });
    }
    let batching = Batching { max_delay_ms: arguments.batch_milliseconds, ack, ..Batching::default() };
    let limiting = Limiting { max_concurrent: arguments.max_concurrent, ..Limiting::default() };
    Ok(Layers {
        caching: (cache.bytes > 0).then_some(cache),
        batching: (batching.max_delay_ms > 0).then_some(batching),
        limiting: (limiting.max_concurrent > 0).then_some(limiting),
        compression: algorithm.map(|algorithm| Compression { algorithm, ..Compression::default() }),
    })
}
