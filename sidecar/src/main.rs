//! The sidecar's process: reads the command line, starts the runtime, says how it ended.

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use brainy_kubernetes::process::{end_on_panic, log_filter};
use brainy_sidecar::cli::{Cli, Command};
use brainy_sidecar::commands::{self, CommandError};
use brainy_sidecar::traces::Traces;
use clap::Parser;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{fmt, registry};

/// Says what is logged.
const LOG: &str = "BRAINY_LOG";
/// Threads for file operations. Each costs memory while it is used, and disks gain nothing from more.
const BLOCKING_THREADS: usize = 32;
/// For file operations to end when everything else has.
const LAST_FILES: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    end_on_panic();
    let cli = Cli::parse();
    // What is left of them is sent last of all.
    let (traces, untraced) = Traces::from_environment();
    let ended = match cli.command {
        Command::Serve(serve) => {
            log_for_people(&traces, untraced);
            run(cli.worker_threads, commands::serve::run(serve))
        }
        Command::Node(node) => {
            log_as_json(&traces, untraced);
            run(cli.worker_threads, commands::node::run(node))
        }
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::from(error.exit_code())
        }
    }
}

fn run(threads: u16, command: impl Future<Output = Result<(), CommandError>>) -> Result<(), CommandError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(usize::from(threads))
        .max_blocking_threads(BLOCKING_THREADS)
        .enable_all()
        .build()
        .map_err(|error| CommandError::Start(format!("can't start threads: {error}")))?;
    let ended = runtime.block_on(command);
    // A file operation that hangs must not keep the process.
    runtime.shutdown_timeout(LAST_FILES);
    ended
}

fn log_for_people(traces: &Traces, untraced: Option<String>) {
    let lines = fmt::layer().with_target(false).with_ansi(std::io::stderr().is_terminal());
    let lines = lines.with_writer(std::io::stderr).with_filter(log_filter(LOG));
    registry().with(lines).with(traces.layer()).init();
    say(untraced);
}

fn log_as_json(traces: &Traces, untraced: Option<String>) {
    let lines = fmt::layer().json().flatten_event(true);
    let lines = lines.with_writer(std::io::stderr).with_filter(log_filter(LOG));
    registry().with(lines).with(traces.layer()).init();
    say(untraced);
}

fn say(untraced: Option<String>) {
    if let Some(why) = untraced {
        tracing::warn!("{why}");
    }
}
