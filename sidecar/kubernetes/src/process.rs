//! How a process of ours behaves towards whoever runs it.

use tracing_subscriber::filter::{LevelFilter, Targets};

/// From now on a panic anywhere ends the whole process. It is a mistake of ours, and the task that it ended (a renewal, a
/// hand-off, a watch) would be missing silently from then on; a crash is what every part of the system is made for.
pub fn end_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::abort();
    }));
}

/// What is logged: `info`, or levels by module (`info,brainy_sidecar=debug`), from an environment variable. What can't be read
/// counts as not set: a log must not keep a process from starting. The library that keeps the nodes' group tells of every
/// vote, and ten times a second of every node that is away; what matters of it we say ourselves. The one that speaks S3 tells of
/// signatures, and calls each error of a client its own: it is never listened to.
pub fn log_filter(variable: &str) -> Targets {
    let asked = std::env::var(variable).ok().and_then(|text| text.parse().ok());
    let usual = || Targets::new().with_default(tracing::Level::INFO).with_target("openraft", LevelFilter::OFF);
    asked.unwrap_or_else(usual).with_target("s3s", LevelFilter::OFF)
}
