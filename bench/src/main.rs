//! `make bench`: how fast the storage stack is beside what it is compared with, on this machine, without a cluster. Nothing
//! fails on a number.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use brainy_bench::contest::Plan;
use brainy_bench::rows;
use brainy_bench::scenarios::{
    Setup, cached_get, durable_set, hot_and_cold, increments, many_keys, placement, s3_requests, s3_server,
};
use brainy_bench::server::Places;
use brainy_e2e::report::table;
use clap::{Parser, ValueEnum};

/// Measures the storage stack beside what it is compared with.
#[derive(Debug, Parser)]
struct Arguments {
    /// What to measure; all of it, if nothing is named.
    #[arg(value_enum)]
    parts: Vec<Part>,
    /// Folder with our own programs.
    #[arg(long)]
    programs: PathBuf,
    /// The program daprd. Without it, what is compared with it stands alone.
    #[arg(long, env = "BRAINY_DAPRD")]
    daprd: Option<PathBuf>,
    /// The program versitygw. Without it, S3 is left out.
    #[arg(long, env = "BRAINY_VERSITYGW")]
    versitygw: Option<PathBuf>,
    /// Folder in which data is kept meanwhile; its disk is what is measured. [default: the system's temporary folder]
    #[arg(long)]
    data: Option<PathBuf>,
    /// Rounds that each contender has, in turns with the others.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Length of a round in seconds.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Keys of the large store.
    #[arg(long, default_value_t = 1_000_000)]
    keys: u64,
    /// Size of the large object, in MiB.
    #[arg(long, default_value_t = 1024)]
    object_megabytes: u64,
}

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// GET of a cached value.
    CachedGet,
    /// PUT of a value that is on the disk before the answer.
    DurableSet,
    /// A store of a million keys.
    ManyKeys,
    /// What the adapter costs over aws-sdk-s3.
    S3Requests,
    /// S3 as the sidecar serves it.
    S3Server,
    /// Two tiers, beside the hot one alone.
    HotAndCold,
    /// Many clients that increment one key on S3.
    Increments,
    /// The controller's work for the largest cluster.
    Placement,
}

/// The magic number of a file system that is memory (statfs(2)).
const TMPFS: u64 = 0x0102_1994;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let place = arguments.data.clone().unwrap_or_else(std::env::temp_dir);
    std::fs::create_dir_all(&place).with_context(|| format!("can't make {}", place.display()))?;
    say_what_disturbs(&place)?;
    let data = tempfile::Builder::new().prefix("brainy-bench-").tempdir_in(&place)?;
    let setup = Setup {
        places: Places {
            programs: arguments.programs,
            data: data.path().to_owned(),
            daprd: arguments.daprd,
            versitygw: arguments.versitygw,
        },
        plan: Plan { rounds: arguments.rounds.max(1), duration: Duration::try_from_secs_f64(arguments.seconds)? },
        many: arguments.keys.max(1),
        large_megabytes: arguments.object_megabytes.max(1),
    };
    let parts = if arguments.parts.is_empty() { Part::value_variants().to_vec() } else { arguments.parts };
    let mut rows = vec![rows::HEADING.map(String::from).to_vec()];
    for part in parts {
        eprintln!("measuring {part:?} ...");
        rows.extend(measure(part, &setup).await?);
    }
    println!("\n{}", table(&rows));
    let Plan { rounds, duration } = setup.plan;
    println!("Medians of {rounds} rounds of {duration:?}, in turns. One part again: scripts/bench.sh NAME");
    Ok(())
}

async fn measure(part: Part, setup: &Setup) -> anyhow::Result<Vec<rows::Row>> {
    match part {
        Part::CachedGet => cached_get::measure(setup).await,
        Part::DurableSet => durable_set::measure(setup).await,
        Part::ManyKeys => many_keys::measure(setup).await,
        Part::S3Requests => s3_requests::measure(setup).await,
        Part::S3Server => s3_server::measure(setup).await,
        Part::HotAndCold => hot_and_cold::measure(setup).await,
        Part::Increments => increments::measure(setup).await,
        Part::Placement => placement::measure(),
    }
}

/// What makes figures worth less.
fn say_what_disturbs(data: &Path) -> anyhow::Result<()> {
    let load = std::fs::read_to_string("/proc/loadavg")?;
    let load: f64 = load.split_whitespace().next().unwrap_or_default().parse()?;
    let cores = std::thread::available_parallelism()?;
    println!("{cores} cores, load average {load} before the start");
    if load > 0.5 {
        println!("NOTE: something else keeps this machine busy: the figures say little");
    }
    if u64::try_from(rustix::fs::statfs(data)?.f_type).is_ok_and(|kind| kind == TMPFS) {
        println!(
            "NOTE: {} lies in memory: nothing is durable there; name a folder on a disk with --data",
            data.display()
        );
    }
    Ok(())
}
