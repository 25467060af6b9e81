//! Clients whose calls end. kube's defaults wait for an answer without limit and retry many times with long pauses:
//! a renewal that is stuck behind them would lapse unnoticed, and a retried compare-and-swap may meet its own first
//! attempt and report a clean rejection.

use std::time::Duration;

use kube::{Client, Config};

/// Longest wait for a connection to the API server.
pub const CONNECT_LIMIT: Duration = Duration::from_secs(3);
/// Longest wait for an answer of the API server.
pub const READ_LIMIT: Duration = Duration::from_secs(5);
/// Longest silence on a watch. The API server sends bookmarks about once a minute.
pub const WATCH_LIMIT: Duration = Duration::from_secs(300);

/// A client for leases, elections and sessions: bounded calls, no retry.
pub fn bounded(config: &Config) -> Result<Client, kube::Error> {
    Client::try_from(without_retry(config, READ_LIMIT))
}

/// A client for watches: the same, but the stream may be silent for [`WATCH_LIMIT`].
pub fn watching(config: &Config) -> Result<Client, kube::Error> {
    Client::try_from(without_retry(config, WATCH_LIMIT))
}

/// A configuration with our limits.
pub(crate) fn without_retry(config: &Config, read_limit: Duration) -> Config {
    let mut config = config.clone();
    config.connect_timeout = Some(CONNECT_LIMIT);
    config.read_timeout = Some(read_limit);
    config.write_timeout = Some(READ_LIMIT);
    // The limit counts from the request, not from when a pooled connection went idle.
    config.reset_reader_on_write = true;
    config.default_retry = false;
    config
}
