//! The command line. Every setting is also an environment variable.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use brainy_coordination::session::observer::margin;
use clap::{Args, Parser, Subcommand, ValueEnum};

/// For the write by which a Lease is taken.
const WRITING: Duration = Duration::from_millis(200);

/// The operator of BrainyClusters.
#[derive(Clone, Debug, Parser)]
#[command(name = "brainy-operator", version)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Runs BrainyClusters until told to stop: makes their nodes, places their shards, says how they are.
    Run(Box<Options>),
    /// Prints the BrainyCluster whose data is under a bucket and prefix, for `kubectl apply -f -`: the Kubernetes cluster that it
    /// was in is lost. Changes nothing.
    Restore(Restore),
}

/// Where the data of a lost cluster is. Keys: of --secret, of --credentials, or else what the environment offers.
#[derive(Clone, Debug, Args)]
pub struct Restore {
    /// The bucket.
    #[arg(long)]
    pub bucket: String,

    /// The prefix in it.
    #[arg(long, default_value = "")]
    pub prefix: String,

    /// The server, for everything but AWS: `https://host:port`.
    #[arg(long)]
    pub endpoint: Option<String>,

    /// The region to sign for; R2: auto.
    #[arg(long, default_value = brainy_crds::DEFAULT_REGION)]
    pub region: String,

    /// A Secret with the keys accessKeyId and secretAccessKey, as NAMESPACE/NAME.
    #[arg(long, value_name = "NAMESPACE/NAME", conflicts_with = "credentials")]
    pub secret: Option<String>,

    /// A folder with the files accessKeyId and secretAccessKey.
    #[arg(long, value_name = "FOLDER")]
    pub credentials: Option<PathBuf>,

    /// The namespace to print; the one it was in, if it is left out.
    #[arg(long)]
    pub namespace: Option<String>,
}

/// How to run.
#[derive(Clone, Debug, Args)]
pub struct Options {
    /// Image of the sidecar in every node's pod.
    #[arg(long, env = "BRAINY_SIDECAR_IMAGE")]
    pub sidecar_image: String,

    /// When to pull it: Always, IfNotPresent or Never.
    #[arg(long, env = "BRAINY_SIDECAR_PULL_POLICY", default_value = "IfNotPresent")]
    pub sidecar_pull_policy: String,

    /// Where to look for BrainyClusters, separated by commas. Nothing: in every namespace.
    #[arg(long = "namespaces", alias = "namespace", env = "BRAINY_WATCH_NAMESPACES", value_delimiter = ',')]
    pub namespaces: Vec<String>,

    /// The Lease by which replicas elect their leader.
    #[arg(long, env = "BRAINY_LEASE_NAME", default_value = "brainy-operator")]
    pub lease_name: String,

    /// Its namespace.
    #[arg(long, env = "BRAINY_LEASE_NAMESPACE", default_value = "default")]
    pub lease_namespace: String,

    /// This replica: its pod's name.
    #[arg(long, env = "BRAINY_POD_NAME", default_value = "brainy-operator")]
    pub identity: String,

    /// UID of that pod: started again in it, the operator need not wait for its own earlier process. Only where one process at a
    /// time runs with this UID.
    #[arg(long, env = "BRAINY_POD_UID")]
    pub pod_uid: Option<String>,

    /// How long after the last renewal of a leader that is dead another leads at the latest, in seconds.
    #[arg(long, env = "BRAINY_LEASE_SECONDS", default_value_t = 15, value_parser = clap::value_parser!(u64).range(3..=600))]
    pub lease_seconds: u64,

    /// Longest that one call on the Lease may take, in seconds; less where a leader would have no time for a second one.
    #[arg(long, env = "BRAINY_LEASE_CALL_SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=300))]
    pub lease_call_seconds: u64,

    /// Time between renewals, in seconds; less where a leader leads for less than three of them.
    #[arg(long, env = "BRAINY_LEASE_RENEW_SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=200))]
    pub lease_renew_seconds: u64,

    /// Makes a NetworkPolicy for each cluster: only its own pods and the operator reach its nodes' port for each other.
    #[arg(long, env = "BRAINY_NETWORK_POLICIES", default_value_t = false, action = clap::ArgAction::Set)]
    pub network_policies: bool,

    /// How long nodes have to read their certificates anew, in seconds: as long as one may be without news from its kubelet. An authority
    /// is trusted that long before a certificate of it is shown, and one that is given up that long after.
    #[arg(long, env = "BRAINY_TRUST_OVERLAP_SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=86400))]
    pub trust_overlap_seconds: u64,

    /// Where /metrics, /healthz and /readyz are served.
    #[arg(long, env = "BRAINY_LISTEN", default_value = "0.0.0.0:8080")]
    pub listen: SocketAddr,

    /// Form of the log on standard error. What is logged: RUST_LOG.
    #[arg(long, env = "BRAINY_LOG_FORMAT", value_enum, default_value = "json")]
    pub log_format: LogFormat,
}

/// Form of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

impl Options {
    /// Refuses timings with which a leader would lose its lease by one slow call.
    pub fn check(&self) -> Result<(), String> {
        if self.lease_renew_seconds * 3 > self.lease_seconds {
            return Err(format!(
                "--lease-renew-seconds {} must be at most a third of --lease-seconds {}",
                self.lease_renew_seconds, self.lease_seconds
            ));
        }
        if self.lease_call_seconds + self.lease_renew_seconds >= self.lease_seconds {
            return Err(format!(
                "--lease-call-seconds {} and --lease-renew-seconds {} must together be less than --lease-seconds {}",
                self.lease_call_seconds, self.lease_renew_seconds, self.lease_seconds
            ));
        }
        Ok(())
    }

    /// How the replicas elect.
    pub fn timing(&self) -> Timing {
        let renew = Duration::from_secs(self.lease_renew_seconds);
        let whole = Duration::from_secs(self.lease_seconds);
        let look = renew.min(whole / 10);
        let taken = |ttl: u64| Duration::from_secs(ttl) + margin(Duration::from_secs(ttl)) + look + WRITING;
        let ttl = Duration::from_secs((1..self.lease_seconds).rev().find(|ttl| taken(*ttl) <= whole).unwrap_or(1));
        let renew = renew.min(ttl / 3);
        let call_limit = Duration::from_secs(self.lease_call_seconds).min((ttl - renew) / 2);
        Timing { ttl, renew, look, call_limit }
    }

    /// The namespaces to watch; an empty variable names none.
    pub fn watched(&self) -> Vec<String> {
        self.namespaces.iter().map(|name| name.trim()).filter(|name| !name.is_empty()).map(str::to_owned).collect()
    }
}

/// How the replicas elect: see [`Settings`](brainy_coordination::elector::Settings).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// How long a leader leads after a renewal. The others wait for a [`margin`] more, and see a renewal a `look` late at most.
    pub ttl: Duration,
    /// Time between renewals.
    pub renew: Duration,
    /// Time between looks of those who wait.
    pub look: Duration,
    /// Longest that one call may take.
    pub call_limit: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(more: &[&str]) -> Options {
        let line = ["brainy-operator", "run", "--sidecar-image", "sidecar:1"];
        match Cli::parse_from(line.iter().chain(more)).command {
            Command::Run(options) => *options,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_restore_needs_the_bucket_alone_and_takes_keys_from_one_place() {
        let parse = |more: &[&str]| Cli::try_parse_from(["brainy-operator", "restore"].iter().chain(more));
        assert!(parse(&["--bucket", "data"]).is_ok());
        assert!(parse(&["--prefix", "p"]).is_err());
        assert!(parse(&["--bucket", "data", "--secret", "a/b", "--credentials", "/keys"]).is_err());
    }

    #[test]
    fn the_defaults_hold_together() {
        let options = options(&[]);
        options.check().unwrap();
        assert!(options.watched().is_empty());
    }

    #[test]
    fn timings_that_lose_the_lease_by_one_slow_call_are_refused() {
        assert!(options(&["--lease-renew-seconds", "6"]).check().is_err());
        assert!(options(&["--lease-call-seconds", "13"]).check().is_err());
    }

    #[test]
    fn another_leads_within_the_time_that_was_asked_for_and_a_leader_can_lose_a_call() {
        for seconds in 3..=600 {
            for (renew, call) in [(1, 1), (seconds / 3, 1), (1, (seconds - 2).min(300))] {
                let number = |name: &str, value: u64| [format!("--lease-{name}"), value.to_string()];
                let asked = [number("seconds", seconds), number("renew-seconds", renew), number("call-seconds", call)];
                let asked = asked.concat();
                let options = options(&asked.iter().map(String::as_str).collect::<Vec<_>>());
                if options.check().is_err() {
                    continue;
                }
                let Timing { ttl, renew, look, call_limit } = options.timing();
                let last = ttl + margin(ttl) + look;
                assert!(last < Duration::from_secs(seconds), "{seconds}: taken after {last:?}");
                assert!(renew * 3 <= ttl && renew + call_limit * 2 <= ttl, "{seconds}: {:?}", options.timing());
                assert_eq!(ttl.subsec_nanos(), 0, "the Lease says it in seconds");
            }
        }
        let seconds = Duration::from_secs;
        let of = |more: &[&str]| options(more).timing();
        let short = of(&["--lease-seconds", "5", "--lease-call-seconds", "2", "--lease-renew-seconds", "1"]);
        assert_eq!((short.ttl, short.renew, short.call_limit), (seconds(3), seconds(1), seconds(1)));
        let plain = of(&[]);
        assert_eq!((plain.ttl, plain.renew, plain.call_limit), (seconds(12), seconds(2), seconds(5)));
    }

    #[test]
    fn namespaces_are_separated_by_commas_and_an_empty_list_means_all() {
        assert_eq!(options(&["--namespace", "a,b"]).watched(), ["a", "b"]);
        assert_eq!(options(&["--namespaces", "a, b"]).watched(), ["a", "b"]);
        assert!(options(&["--namespace", ""]).watched().is_empty());
    }
}
