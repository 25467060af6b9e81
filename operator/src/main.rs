//! The operator's process.

use brainy_kubernetes::process::{end_on_panic, log_filter};
use brainy_operator::cli::{Cli, Command, LogFormat};
use brainy_operator::restore::restore;
use brainy_operator::run::run;
use clap::Parser;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{fmt, registry};

fn main() -> anyhow::Result<()> {
    end_on_panic();
    // One thread renews the lease while the other works.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    match Cli::parse().command {
        Command::Run(options) => {
            log(options.log_format);
            runtime.block_on(run(*options))
        }
        Command::Restore(options) => {
            log(LogFormat::Text);
            print!("{}", runtime.block_on(restore(&options))?);
            Ok(())
        }
    }
}

fn log(format: LogFormat) {
    let log = registry().with(log_filter("RUST_LOG"));
    let lines = fmt::layer().with_writer(std::io::stderr);
    match format {
        LogFormat::Json => log.with(lines.json()).init(),
        LogFormat::Text => log.with(lines).init(),
    }
}
