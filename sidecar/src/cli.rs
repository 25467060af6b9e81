//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::data_folder::Engine;

/// Storage for small values, with shards spread over the nodes of a cluster.
#[derive(Debug, Parser)]
#[command(name = "brainy-sidecar", version, after_help = EXIT_CODES)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Threads that serve requests.
    #[arg(long, env = "BRAINY_WORKER_THREADS", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=256), global = true)]
    pub worker_threads: u16,
}

const EXIT_CODES: &str = "Exit codes: 0 done; 1 failed; 2 wrong use or configuration; 3 an address is in use; \
    4 another process uses the data folder; 5 the data folder can't be used. \
    BRAINY_LOG sets what is logged (error, warn, info, debug).";

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve a folder, with no cluster.
    Serve(Serve),
    /// Serve as a node of a cluster.
    Node(Node),
}

/// `serve`.
#[derive(Clone, Debug, Args)]
pub struct Serve {
    /// Folder to keep data in; it is made if it is not there.
    #[arg(long, env = "BRAINY_DATA", default_value = "./data")]
    pub data: PathBuf,
    /// Address of the storage API. There is no access control: keep it on loopback.
    #[arg(long, env = "BRAINY_LISTEN", default_value = "127.0.0.1:7700")]
    pub listen: SocketAddr,
    /// Unix socket of the storage API, besides.
    #[arg(long, env = "BRAINY_SOCKET")]
    pub socket: Option<PathBuf>,
    /// Address of S3, on loopback as the storage API. [default: 127.0.0.1:7780]
    #[arg(long, env = "BRAINY_S3_LISTEN", conflicts_with = "no_s3")]
    pub s3_listen: Option<SocketAddr>,
    /// Unix socket of S3, besides.
    #[arg(long, env = "BRAINY_S3_SOCKET", conflicts_with = "no_s3")]
    pub s3_socket: Option<PathBuf>,
    /// Folder with accessKeyId and secretAccessKey, by which requests of S3 must be signed; without it anyone may ask.
    #[arg(long, env = "BRAINY_S3_KEYS", conflicts_with = "no_s3")]
    pub s3_keys: Option<PathBuf>,
    /// Most keys on a page of a listing of S3; 0: all there are, for programs that ask for no second page.
    #[arg(long, env = "BRAINY_S3_PAGE_SIZE", default_value_t = crate::s3::DEFAULT_PAGE, value_parser = clap::value_parser!(u32).range(0..=100_000))]
    pub s3_page_size: u32,
    /// Serve no S3.
    #[arg(long, env = "BRAINY_NO_S3")]
    pub no_s3: bool,
    /// Shards of a new data folder. It never changes afterwards.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=16_384))]
    pub shards: u32,
    /// What a new data folder keeps its data in. It never changes afterwards. [default: embedded]
    #[arg(long, env = "BRAINY_ENGINE", value_enum)]
    pub engine: Option<Engine>,
    /// Most megabytes (MiB) of keys and values to keep in memory; 0: none.
    #[arg(long, env = "BRAINY_CACHE_MEGABYTES", default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=65_536))]
    pub cache_megabytes: u64,
    /// Longest time in milliseconds that a write waits to be written together with others; 0: it does not.
    #[arg(long, env = "BRAINY_BATCH_MILLISECONDS", default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=10_000))]
    pub batch_milliseconds: u64,
    /// When a write that waits is acknowledged: once it is flushed, or at once. What was acknowledged at once and not
    /// flushed is lost with the process. Needs --batch-milliseconds.
    #[arg(long, env = "BRAINY_BATCH_ACK", value_enum, default_value_t = AckChoice::Durable)]
    pub batch_ack: AckChoice,
    /// Most operations on storage under way at once; up to 1,024 more wait, each at most 10 s. 0: no limit.
    #[arg(long, env = "BRAINY_MAX_CONCURRENT", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=10_000))]
    pub max_concurrent: u32,
    /// How values of more than 1,024 bytes are compressed, where that makes them smaller.
    #[arg(long, env = "BRAINY_COMPRESSION", value_enum, default_value_t = CompressionChoice::None)]
    pub compression: CompressionChoice,
    /// Bucket of an S3-compatible store for what is not read for long: the cold tier. A new data folder is made with it, and
    /// can't be used without it afterwards.
    #[arg(long, env = "BRAINY_COLD_BUCKET")]
    pub cold_bucket: Option<String>,
    /// The cold tier.
    #[command(flatten)]
    pub cold: ColdTier,
}

/// The cold tier of a data folder.
#[derive(Clone, Debug, Args)]
pub struct ColdTier {
    /// Prefix of its objects, without slashes at its ends.
    #[arg(long = "cold-prefix", env = "BRAINY_COLD_PREFIX", default_value = "", requires = "cold_bucket")]
    pub prefix: String,
    /// Region to sign for.
    #[arg(long = "cold-region", env = "BRAINY_COLD_REGION", default_value = "us-east-1", requires = "cold_bucket")]
    pub region: String,
    /// Address of the server, for everything but AWS.
    #[arg(long = "cold-endpoint", env = "BRAINY_COLD_ENDPOINT", requires = "cold_bucket")]
    pub endpoint: Option<String>,
    /// Folder with the files accessKeyId and secretAccessKey; without it what the environment offers.
    #[arg(long = "cold-credentials", env = "BRAINY_COLD_CREDENTIALS", requires = "cold_bucket")]
    pub credentials: Option<PathBuf>,
    /// When a write is acknowledged: once it is durable in the data folder, or once it is in the bucket too.
    #[arg(long = "tiering-ack", env = "BRAINY_TIERING_ACK", value_enum, default_value_t = TieringAck::Hot, requires = "cold_bucket")]
    pub ack: TieringAck,
    /// Hours after which a key that was not read or written is kept in the bucket alone.
    #[arg(long = "demote-after-hours", env = "BRAINY_DEMOTE_AFTER_HOURS", default_value_t = 168, value_parser = clap::value_parser!(u64).range(1..=876_000), requires = "cold_bucket")]
    pub demote_after_hours: u64,
    /// How full the disk may be, in percent, before the oldest keys are kept in the bucket alone.
    #[arg(long = "watermark-percent", env = "BRAINY_WATERMARK_PERCENT", default_value_t = 80, value_parser = clap::value_parser!(u8).range(10..=95), requires = "cold_bucket")]
    pub watermark_percent: u8,
    /// How often a key is read in the bucket, of late, before it comes back to the data folder; 0: it never does.
    #[arg(long = "promote-after-reads", env = "BRAINY_PROMOTE_AFTER_READS", default_value_t = 3, value_parser = clap::value_parser!(u32).range(0..=255), requires = "cold_bucket")]
    pub promote_after_reads: u32,
}

/// When a write is acknowledged that has two tiers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TieringAck {
    /// Once it is in the hot one.
    Hot,
    /// Once it is in both.
    Cold,
}

/// When a write is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AckChoice {
    /// Once it is flushed.
    Durable,
    /// At once.
    Buffered,
}

/// How values are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CompressionChoice {
    /// Not at all.
    None,
    /// RFC 8878.
    Zstd,
    /// RFC 1952.
    Gzip,
}

/// `node`.
#[derive(Clone, Debug, Args)]
pub struct Node {
    /// The node's configuration.
    #[arg(long, env = "BRAINY_CONFIG", default_value = "/etc/brainy/node.yaml")]
    pub config: PathBuf,
    /// Folder with ca.crt, tls.crt and tls.key.
    #[arg(long, env = "BRAINY_TLS", default_value = "/etc/brainy/tls")]
    pub tls: PathBuf,
    /// Address of the storage API.
    #[arg(long, env = "BRAINY_LISTEN", default_value = "127.0.0.1:7700")]
    pub listen: SocketAddr,
    /// Unix socket of the storage API.
    #[arg(long, env = "BRAINY_SOCKET", default_value = "/run/brainy/storage.sock")]
    pub socket: PathBuf,
    /// Address of S3, where the cluster has it.
    #[arg(long, env = "BRAINY_S3_LISTEN", default_value = "127.0.0.1:7780")]
    pub s3_listen: SocketAddr,
    /// Unix socket of S3, besides.
    #[arg(long, env = "BRAINY_S3_SOCKET", default_value = "/run/brainy/s3.sock")]
    pub s3_socket: PathBuf,
    /// Address for other nodes (mutual TLS).
    #[arg(long, env = "BRAINY_PEERS", default_value = "0.0.0.0:7701")]
    pub peers: SocketAddr,
    /// Address of /metrics, /healthz and /readyz alone, for who is not in the pod: Kubernetes among them, which
    /// asks at 7702. Where it is taken the node runs without.
    #[arg(long, env = "BRAINY_METRICS_LISTEN", default_value = "0.0.0.0:7702")]
    pub metrics: SocketAddr,
    /// Name of this node: its pod's name.
    #[arg(long, env = "BRAINY_NODE_ID")]
    pub node_id: String,
    /// Kubernetes namespace of this node.
    #[arg(long, env = "BRAINY_NAMESPACE")]
    pub namespace: String,
    /// UID of this node's pod.
    #[arg(long, env = "BRAINY_POD_UID")]
    pub pod_uid: String,
    /// IP address of this node's pod.
    #[arg(long, env = "BRAINY_POD_IP")]
    pub pod_ip: std::net::IpAddr,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn serve_needs_no_argument() {
        let Command::Serve(serve) = Cli::parse_from(["brainy-sidecar", "serve"]).command else { panic!() };
        assert_eq!((serve.listen.port(), serve.listen.ip().is_loopback(), serve.shards), (7700, true, 256));
    }

    #[test]
    fn a_cold_tier_needs_a_bucket() {
        let parse = |more: &[&str]| Cli::try_parse_from(["brainy-sidecar", "serve"].iter().chain(more));
        assert!(parse(&["--tiering-ack", "cold"]).is_err());
        assert!(parse(&["--tiering-ack", "cold", "--cold-bucket", "b"]).is_ok());
        assert!(parse(&["--watermark-percent", "99", "--cold-bucket", "b"]).is_err());
    }

    #[test]
    fn a_data_folder_of_no_shards_is_refused() {
        assert!(Cli::try_parse_from(["brainy-sidecar", "serve", "--shards", "0"]).is_err());
    }
}
