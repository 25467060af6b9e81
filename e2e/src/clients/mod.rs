//! Clients that are applications: each node's application container is the *hand* of some clients, which asks the sidecar
//! beside it. What they ask decides the *driver*, a pod of its own that notes and judges what they are told. So the clients
//! go on while the API server, the operator or a host is away, and nothing of what they saw is lost with a node.

mod driver;
pub mod hand;
#[allow(dead_code, reason = "shared with the simulation")]
#[path = "../../../sidecar/src/ownership/simulation/history.rs"]
mod history;
mod operations;
#[allow(dead_code, reason = "shared with the tests of storage")]
#[path = "../../../sidecar/storage/tests/linearizability/harness/spec.rs"]
mod spec;
pub mod tape;
mod wire;

use std::ops::Range;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::timeout;

pub use driver::drive;
use tape::Report;
use wire::{Hello, Lines};

use crate::helper::{Listening, Rights};
use crate::report::{always_say, thousands};
use crate::{Environment, Seen, hosts, until};

/// Where the driver listens.
const PORT: u16 = 7798;
/// Clients beside each node.
const BESIDE_A_NODE: usize = 2;
/// Longer than the driver takes for its last look.
const JUDGING: Duration = Duration::from_secs(420);
const MARKING: Duration = Duration::from_secs(10);

/// The clients of a test.
pub struct Clients {
    environment: Environment,
    driver: Listening,
    /// Where hands and others find the driver.
    pub address: String,
}

impl Clients {
    /// Starts the driver, on a host that no test takes away. `BRAINY_TEST_SEED`: which choices are made.
    pub async fn start(environment: &Environment) -> anyhow::Result<Self> {
        let seed = std::env::var("BRAINY_TEST_SEED").unwrap_or_else(|_| "1".into());
        let host = hosts::steady(environment).await?;
        let arguments = ["drive", "--listen", &PORT.to_string(), "--seed", &seed].map(str::to_owned);
        let driver = Listening::start(environment, "drive", &host, &arguments, PORT, Rights::Signals).await?;
        let address = format!("{}:{PORT}", driver.address().await?);
        Ok(Self { environment: environment.clone(), driver, address })
    }

    /// A spec with clients beside each node, which belong to the cluster of that name.
    pub fn beside(&self, cluster: &str, mut spec: Value) -> Value {
        let clients = BESIDE_A_NODE.to_string();
        spec["application"] = json!({
            "image": self.environment.tools_image,
            "args": ["hand", "--driver", self.address, "--cluster", cluster, "--clients", clients],
        });
        spec
    }

    /// Notes that something happens now.
    pub async fn mark(&self, what: &str) -> anyhow::Result<()> {
        self.ask(&Hello::Mark(what.to_owned()), MARKING).await
    }

    /// What the clients have been told so far.
    pub async fn look(&self) -> anyhow::Result<Report> {
        self.ask(&Hello::Look, MARKING * 3).await
    }

    /// Waits until every client of a cluster that is beside one of these nodes has been answered well since a mark.
    pub async fn are_answered(&self, cluster: &str, nodes: &[String], since: &str) -> anyhow::Result<()> {
        until(&format!("the clients of {cluster} to be answered after {since:?}"), Duration::from_secs(180), || async {
            let report = self.look().await?;
            let (tape, from) = (report.of(cluster)?, report.at(since)?);
            let answered = |node: &&String| {
                let mut after = tape.within(from..u64::MAX);
                after.any(|entry| entry.how == tape::Ended::Acknowledged && tape.is_of(entry, node))
            };
            let waiting: Vec<&String> = nodes.iter().filter(|node| !answered(node)).collect();
            Ok(if waiting.is_empty() {
                Seen::Done(())
            } else {
                Seen::NotYet(format!("those beside {waiting:?} are not: {}", tape.last_problem))
            })
        })
        .await
    }

    /// Ends the load, has every key read, and fails if what the clients were told does not fit together.
    pub async fn judge(self, what: &str) -> anyhow::Result<Report> {
        let report: Report = self.ask(&Hello::Judge, JUDGING).await?;
        self.driver.remove().await?;
        ensure!(!report.judged.is_empty(), "no client ever came");
        for (cluster, verdict) in &report.judged {
            match verdict {
                Ok(words) => always_say(&format!("  {what}, {cluster}: {words}")),
                Err(why) => bail!("{what}, {cluster}: {why}"),
            }
        }
        Ok(report)
    }

    async fn ask<T: DeserializeOwned>(&self, what: &Hello, limit: Duration) -> anyhow::Result<T> {
        let asked = async {
            let mut lines = Lines::over(self.driver.connect().await?);
            lines.say(what).await?;
            lines.hear().await
        };
        timeout(limit, asked).await.with_context(|| format!("the driver did not answer {what:?} in {limit:?}"))?
    }
}

/// Tells the driver that something happens now, from within the cluster.
pub async fn mark(driver: &str, what: &str) -> anyhow::Result<()> {
    let told = async {
        let mut lines = Lines::over(TcpStream::connect(driver).await?);
        lines.say(&Hello::Mark(what.to_owned())).await?;
        lines.hear().await
    };
    timeout(MARKING, told).await.with_context(|| format!("{driver} did not answer in {MARKING:?}"))?
}

/// Prints what the clients of a cluster saw in a span of time.
pub fn print_figures(report: &Report, cluster: &str, what: &str, span: Range<u64>) -> anyhow::Result<tape::Figures> {
    let seconds = (span.end.saturating_sub(span.start)) as f64 / 1000.0;
    let figures = report.of(cluster)?.figures(span);
    always_say(&format!(
        "  {what}, {cluster} ({seconds:.0} s): {} acknowledged, {} failed, {} unknown; answered after p50 {} ms, p99 {} ms; longest stall \
         {:.2} s",
        thousands(figures.acknowledged as u64),
        figures.failed,
        figures.unknown,
        figures.stall_p50.as_millis(),
        figures.stall_p99.as_millis(),
        figures.longest_stall.as_secs_f64()
    ));
    Ok(figures)
}
