//! The cluster: a store, the nodes, and the ways between them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use brainy_coordination::bucket::spec::{self, ClusterSpec, Memory, Pattern};
use brainy_coordination::placement::Policy;
use brainy_coordination::{NodeId, names};
use brainy_faults::WallClock;
use brainy_kubernetes::config::{BucketConfig, NodeConfig, S3Config, StorageConfig};
use brainy_storage::documents::Documents;
use jiff::Timestamp;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::clients::request;
use super::links::{Link, Processes};
use super::store::{ACCESS_KEY_ID, BUCKET, SECRET_ACCESS_KEY, Store};
use super::support::{own_ip, wait_for};
use super::tls::{Authority, CLUSTER, NAMESPACE};

/// How long a session lasts while trouble is made.
pub(crate) const LEASE: Duration = Duration::from_secs(3);
const UID: &str = "3f1c1a9e";
const PEERS: u16 = 7701;

/// Each shard's owner and token.
pub(crate) type Owners = BTreeMap<u64, (usize, u64)>;

/// What a cluster is like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup {
    pub(crate) nodes: usize,
    pub(crate) shards: u32,
    pub(crate) lease: Duration,
    pub(crate) renew: Duration,
    /// The store's disk can be filled.
    pub(crate) small_disk: bool,
    /// Each node has a clock on the wall of its own.
    pub(crate) wall_clocks: bool,
    /// Where traces are sent.
    pub(crate) collector: Option<SocketAddr>,
    /// They serve S3 as well.
    pub(crate) s3: bool,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            nodes: 5,
            shards: 16,
            lease: LEASE,
            renew: LEASE / 3,
            small_disk: false,
            wall_clocks: false,
            collector: None,
            s3: false,
        }
    }
}

pub(crate) struct Cluster {
    setup: Setup,
    pub(crate) store: Store,
    pub(crate) nodes: Vec<Node>,
    folder: tempfile::TempDir,
}

pub(crate) struct Node {
    child: Child,
    number: usize,
    processes: Processes,
    /// By which its process goes; `None`: the machine's.
    wall_clock: Option<WallClock>,
    collector: Option<SocketAddr>,
    folder: PathBuf,
    tls: PathBuf,
    name: String,
    /// Where other nodes reach it: the listening end of `inward`.
    ip: std::net::Ipv4Addr,
    /// Where it listens for them.
    peers: SocketAddr,
    /// Of its storage API.
    pub(crate) api: SocketAddr,
    /// Where it serves S3, if it does.
    pub(crate) s3: SocketAddr,
    /// To the store.
    pub(crate) outward: Link,
    /// From the other nodes.
    pub(crate) inward: Link,
}

impl Cluster {
    /// `None` where this machine can't make what is asked for.
    pub(crate) fn start(setup: Setup) -> Option<Self> {
        let store = Store::start(setup.small_disk)?;
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::new();
        std::fs::write(folder.path().join("accessKeyId"), ACCESS_KEY_ID).unwrap();
        std::fs::write(folder.path().join("secretAccessKey"), SECRET_ACCESS_KEY).unwrap();
        let names: Vec<String> = (0..setup.nodes).map(|number| format!("{CLUSTER}-{number}")).collect();
        write_spec(&store, UID, "", &names);
        let processes = Processes::default();
        let node = |(number, name)| {
            let place = Place { number, name, processes: Arc::clone(&processes), folder: folder.path().into() };
            Node::make(place, &setup, &store, &authority)
        };
        let nodes = names.into_iter().enumerate().map(node).collect();
        Some(Self { setup, store, nodes, folder })
    }

    /// Waits until every shard is served by just one node, and every node serves some. Their owners.
    pub(crate) fn settled(&self) -> Owners {
        wait_for("every shard is served", || {
            let mut owners = Owners::new();
            for (number, node) in self.nodes.iter().enumerate() {
                for shard in node.shards().map_err(|why| format!("{} says: {why}: {}", node.name, self.logs()))? {
                    let field = |name: &str| shard[name].as_u64().unwrap();
                    if shard["state"] == "serving" && owners.insert(field("shard"), (number, field("token"))).is_some()
                    {
                        // They were asked one after the other: it has moved meanwhile.
                        return Err(format!("shard {} moves", shard["shard"]));
                    }
                }
            }
            let busy: BTreeSet<usize> = owners.values().map(|(node, _)| *node).collect();
            let all = owners.len() == self.setup.shards as usize && busy.len() == self.nodes.len();
            if all { Ok(owners) } else { Err(format!("only {owners:?}: {}", self.logs())) }
        })
    }

    /// A document as it stands.
    pub(crate) fn document(&self, name: &str) -> Value {
        let found = asynchronously(async { self.store.open().await.documents("").read(name).await });
        serde_json::from_slice(&found.unwrap().unwrap_or_else(|| panic!("there is no {name}")).body).unwrap()
    }

    /// When a node's session is over, as it has told itself, by its own clock on the wall.
    pub(crate) fn expires(&self, node: usize) -> Timestamp {
        let name = names::session(&NodeId(self.nodes[node].name.clone()));
        self.document(&name)["expires"].as_str().unwrap().parse().unwrap()
    }

    /// How long a session lasts.
    pub(crate) fn lease(&self) -> Duration {
        self.setup.lease
    }

    /// The last lines of what the nodes have logged.
    fn logs(&self) -> String {
        let last = |node: &Node| {
            let text =
                std::fs::read_to_string(self.folder.path().join(format!("{}.log", node.name))).unwrap_or_default();
            let lines: Vec<&str> = text.lines().rev().take(5).collect();
            format!("\n{}:\n{}", node.name, lines.into_iter().rev().collect::<Vec<_>>().join("\n"))
        };
        self.nodes.iter().map(last).collect()
    }
}

/// Tells the nodes that they elect their controller, as the operator would.
pub(crate) fn write_spec(store: &Store, uid: &str, prefix: &str, names: &[String]) {
    let wish = ClusterSpec {
        revision: 0,
        cluster: uid.to_owned(),
        generation: 1,
        writer: "test".to_owned(),
        pattern: Pattern::StorageNative,
        nodes: names.iter().cloned().map(NodeId).collect(),
        volumes: BTreeSet::new(),
        placement: Policy::default(),
    };
    asynchronously(async {
        let documents = store.open_below(prefix).await.documents("");
        spec::publish(&documents, wish, &mut Memory::default()).await.unwrap();
    });
}

fn asynchronously<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

/// Where a node is.
struct Place {
    number: usize,
    name: String,
    processes: Processes,
    folder: PathBuf,
}

impl Node {
    fn make(place: Place, setup: &Setup, store: &Store, authority: &Authority) -> Self {
        let Place { number, name, processes, folder } = place;
        let (ip, inside, to_store) = (own_ip(), own_ip(), SocketAddr::from((own_ip(), 7070)));
        let config = NodeConfig {
            cluster: CLUSTER.to_owned(),
            namespace: NAMESPACE.to_owned(),
            uid: UID.to_owned(),
            shards: setup.shards,
            storage: StorageConfig::Shared(BucketConfig {
                bucket: BUCKET.to_owned(),
                prefix: String::new(),
                region: "us-east-1".to_owned(),
                endpoint: Some(format!("http://{to_store}")),
                credentials: Some(folder.clone()),
            }),
            regions: None,
            layers: serde_yaml::from_str("caching: {entries: 1000, bytes: 1000000}").unwrap(),
            s3: setup.s3.then_some(S3Config { keys: None, list_page_size: 1000 }),
            consensus: None,
            lease_seconds: setup.lease.as_secs(),
            renew_seconds: setup.renew.as_secs(),
        };
        std::fs::write(folder.join(format!("{name}.yaml")), serde_yaml::to_string(&config).unwrap()).unwrap();
        let peers = SocketAddr::from((inside, PEERS));
        let tls = authority.issue();
        // The authority's folder goes with it.
        let kept = folder.join(format!("{name}-tls"));
        copy_folder(&tls, &kept);
        let mut node = Self {
            child: Command::new("true").spawn().unwrap(),
            number,
            wall_clock: setup.wall_clocks.then(WallClock::new),
            collector: setup.collector,
            tls: kept,
            api: SocketAddr::from((inside, 7700)),
            s3: SocketAddr::from((inside, 7780)),
            outward: Link::new(to_store, store.address),
            inward: Link::knowing(Arc::clone(&processes), SocketAddr::from((ip, PEERS)), peers),
            processes,
            folder,
            name,
            ip,
            peers,
        };
        node.child.wait().unwrap();
        node.start();
        node
    }

    /// Starts its process, in the same pod.
    pub(crate) fn start(&mut self) {
        let file = |end: &str| self.folder.join(format!("{}{end}", self.name));
        let log = File::options().create(true).append(true).open(file(".log")).unwrap();
        let _none_yet = std::fs::remove_file(file(".sock"));
        let _nor_this = std::fs::remove_file(file(".s3.sock"));
        let mut command = Command::new(env!("CARGO_BIN_EXE_brainy-sidecar"));
        command.arg("node").arg("--config").arg(file(".yaml")).arg("--tls").arg(&self.tls);
        command.args(["--listen", &self.api.to_string(), "--peers", &self.peers.to_string()]);
        command.args(["--s3-listen", &self.s3.to_string()]).arg("--s3-socket").arg(file(".s3.sock"));
        command.arg("--socket").arg(file(".sock")).args(["--node-id", &self.name, "--namespace", NAMESPACE]);
        command.args(["--pod-uid", &format!("uid-of-{}", self.name), "--pod-ip", &self.ip.to_string()]);
        if let Some(collector) = self.collector {
            command.env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{collector}"));
            command.env("OTEL_RESOURCE_ATTRIBUTES", format!("service.instance.id={}", self.name));
            command.env("OTEL_BSP_SCHEDULE_DELAY", "100");
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.child = match &self.wall_clock {
            Some(clock) => clock.start(command).unwrap(),
            None => command.spawn().unwrap(),
        };
        self.processes.lock().unwrap().insert(self.number, self.child.id());
    }

    pub(crate) fn wall_clock(&self) -> &WallClock {
        self.wall_clock.as_ref().expect("`wall_clocks` is asked for")
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits until its process has ended by itself.
    pub(crate) fn ended(&mut self) {
        self.child.wait().unwrap();
    }

    /// kill -9.
    pub(crate) fn kill(&mut self) {
        assert_eq!(self.child.try_wait().unwrap(), None, "{} has ended by itself", self.name);
        self.signal(Signal::KILL);
        self.child.wait().unwrap();
    }

    /// All shards as it sees them.
    fn shards(&self) -> Result<Vec<Value>, String> {
        let answer = request(self.api, "GET /v1/shards", &[], "").map_err(|why| why.to_string())?;
        answer.json()["items"].as_array().cloned().ok_or_else(|| answer.text())
    }
}

pub(crate) fn copy_folder(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir(to).unwrap();
    for file in std::fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
