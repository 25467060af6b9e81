//! The operator's process.

use brainy_kubernetes::process::{end_on_panic, log_filter};
use brainy_operator::cli::{LogFormat, Options};
use brainy_operator::run::run;
use clap::Parser;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{fmt, registry};

fn main() -> anyhow::Result<()> {
    end_on_panic();
    let options = Options::parse();
    log(options.log_format);
    // One thread renews the lease while the other works.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(run(options))
}

fn log(format: LogFormat) {
    let log = registry().with(log_filter("RUST_LOG"));
    let lines = fmt::layer().with_writer(std::io::stderr);
    match format {
        LogFormat::Json => log.with(lines.json()).init(),
        LogFormat::Text => log.with(lines).init(),
    }
}
