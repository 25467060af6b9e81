//! Three regions, each with an S3 server and a process of its own, 5, 80 and 150 ms apart: one is cut off, slowed, its process
//! killed, restarted empty, and healed. In the end all must be equal, and what each client was told.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use brainy_kubernetes::config::{BucketConfig, NodeConfig, RegionConfig, RegionsConfig, StorageConfig};
use brainy_storage::layers::regions::WriteConcern;
use serde_json::{Value, json};

use super::clients::request;
use super::cluster::{LEASE, copy_folder, write_spec};
use super::links::{Link, Way};
use super::notes::{JSON, Notes, client, said};
use super::store::{ACCESS_KEY_ID, BUCKET, SECRET_ACCESS_KEY, Store};
use super::support::{Dice, own_ip, say, wait_for};
use super::tls::{Authority, CLUSTER, NAMESPACE};

/// The second one is the home.
const NAMES: [&str; 3] = ["ap", "eu", "us"];
const HOME: usize = 1;
const SHARDS: u32 = 4;
/// Keys of each client.
const KEYS: usize = 6;

/// How long a question and its answer take.
pub(crate) fn distance(one: usize, other: usize) -> Duration {
    Duration::from_millis(match (one.min(other), one.max(other)) {
        (one, other) if one == other => 5,
        (1, 2) => 80,
        _ => 150,
    })
}

/// A region's process, and its ways to the stores of all regions.
pub(crate) struct Node {
    child: Child,
    folder: tempfile::TempDir,
    tls: PathBuf,
    uid: String,
    ip: Ipv4Addr,
    pub(crate) api: SocketAddr,
    ways: Vec<Link>,
}

impl Node {
    /// The process of a region. Not started yet.
    fn of_region(here: usize, stores: &[Store], authority: &Authority) -> Self {
        Self::make(NAMES[here], stores, authority, |buckets| {
            let region = |at: usize| RegionConfig {
                name: NAMES[at].to_owned(),
                bucket: (at != here).then(|| buckets[at].clone()),
            };
            let regions = RegionsConfig {
                own: NAMES[here].to_owned(),
                home: NAMES[HOME].to_owned(),
                home_since: 1,
                write_concern: WriteConcern::Local,
                all: (0..NAMES.len()).map(region).collect(),
            };
            (buckets[here].clone(), Some(regions))
        })
    }

    /// One with a bucket of its own, and no regions. Not started yet.
    fn alone(store: &Store, authority: &Authority) -> Self {
        Self::make("alone", std::slice::from_ref(store), authority, |buckets| {
            (BucketConfig { prefix: "alone".to_owned(), ..buckets[0].clone() }, None)
        })
    }

    fn make(
        name: &str,
        stores: &[Store],
        authority: &Authority,
        choose: impl FnOnce(&[BucketConfig]) -> (BucketConfig, Option<RegionsConfig>),
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("accessKeyId"), ACCESS_KEY_ID).unwrap();
        std::fs::write(folder.path().join("secretAccessKey"), SECRET_ACCESS_KEY).unwrap();
        let (ip, uid) = (own_ip(), format!("uid-of-{name}"));
        let (mut ways, mut buckets) = (Vec::new(), Vec::new());
        for store in stores {
            let there = SocketAddr::from((own_ip(), 7070));
            ways.push(Link::new(there, store.address));
            buckets.push(BucketConfig {
                bucket: BUCKET.to_owned(),
                prefix: "data".to_owned(),
                region: "us-east-1".to_owned(),
                endpoint: Some(format!("http://{there}")),
                credentials: Some(folder.path().to_owned()),
            });
        }
        let (own, regions) = choose(&buckets);
        let config = NodeConfig {
            cluster: CLUSTER.to_owned(),
            namespace: NAMESPACE.to_owned(),
            uid: uid.clone(),
            shards: SHARDS,
            storage: StorageConfig::Shared(own),
            regions,
            layers: Default::default(),
            s3: None,
            consensus: None,
            lease_seconds: LEASE.as_secs(),
            renew_seconds: (LEASE / 3).as_secs(),
        };
        std::fs::write(folder.path().join("node.yaml"), serde_yaml::to_string(&config).unwrap()).unwrap();
        let tls = folder.path().join("tls");
        copy_folder(&authority.issue(), &tls);
        let api = SocketAddr::from((ip, 7700));
        let mut child = Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        Self { child, folder, tls, uid, ip, api, ways }
    }

    fn start(&mut self) {
        let file = |name: &str| self.folder.path().join(name);
        let log = File::options().create(true).append(true).open(file("log")).unwrap();
        let _none_yet = std::fs::remove_file(file("sock"));
        let mut command = Command::new(env!("CARGO_BIN_EXE_brainy-sidecar"));
        command.arg("node").arg("--config").arg(file("node.yaml")).arg("--tls").arg(&self.tls);
        command.args(["--listen", &self.api.to_string(), "--peers", &format!("{}:7701", self.ip)]);
        command.arg("--socket").arg(file("sock")).args([
            "--node-id",
            &format!("{CLUSTER}-0"),
            "--namespace",
            NAMESPACE,
        ]);
        command.args(["--pod-uid", &self.uid, "--pod-ip", &self.ip.to_string()]);
        self.child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap();
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn state(&self) -> Result<Value, String> {
        request(self.api, "GET /v1/regions", &[], "").map(|answer| said(&answer)).map_err(|why| why.to_string())
    }

    /// Waits until the state is so.
    fn until(&self, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        wait_for(what, || {
            let state = self.state()?;
            if is_so(&state) { Ok(state) } else { Err(format!("{state}: {}", self.log())) }
        })
    }

    fn serves(&self) {
        wait_for("every shard is served", || {
            let answer = request(self.api, "GET /v1/shards", &[], "").map_err(|why| why.to_string())?;
            let answer = said(&answer);
            let shards = answer["items"].as_array().ok_or("no shards")?;
            let all = shards.iter().all(|shard| shard["state"] == "serving") && !shards.is_empty();
            if all { Ok(()) } else { Err(format!("{answer}: {}", self.log())) }
        });
    }

    /// The last lines of its log.
    fn log(&self) -> String {
        let text = std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().rev().take(8).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    fn post(&self, what: &str, body: &Value) {
        let answer = request(self.api, &format!("POST /v1/regions:{what}"), &JSON, &body.to_string());
        assert_eq!(answer.ok().unwrap().status.as_u16(), 202, "{what} {body}");
    }

    /// Adds one; `None`: that failed, or nobody knows.
    fn add(&self, key: &str) -> Option<i64> {
        let body = json!({"key": key, "delta": 1}).to_string();
        let answer = request(self.api, "POST /v1/kv:increment", &JSON, &body).ok()?;
        if answer.status.is_success() { said(&answer)["value"].as_i64() } else { None }
    }

    fn set(&self, key: &str, number: i64) {
        wait_for("a value is written", || {
            match request(self.api, &format!("PUT /v1/kv/{key}"), &JSON, &number.to_string()) {
                Ok(answer) if answer.status.is_success() => Ok(()),
                Ok(answer) => Err(answer.text()),
                Err(why) => Err(why.to_string()),
            }
        });
    }

    fn get(&self, key: &str) -> Option<i64> {
        wait_for("a key can be read", || match request(self.api, &format!("GET /v1/kv/{key}"), &[], "") {
            Ok(answer) if answer.status.is_success() => Ok(said(&answer).as_i64()),
            Ok(answer) if answer.status.as_u16() == 404 => Ok(None),
            Ok(answer) => Err(answer.text()),
            Err(why) => Err(why.to_string()),
        })
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn is_drained(state: &Value) -> bool {
    let lag = state["lag"].as_array().unwrap();
    lag.len() == NAMES.len()
        && lag.iter().all(|lag| lag["complete"] == true && lag["keys"] == 0 && lag["problem"].is_null())
}

pub(crate) struct World {
    stores: Vec<Store>,
    pub(crate) nodes: Vec<Node>,
    // The folder of its certificates goes with it.
    authority: Authority,
}

impl World {
    /// All regions are there, and as far from each other as they are.
    pub(crate) fn start() -> Self {
        let stores: Vec<Store> = NAMES.iter().map(|_| Store::start(false).unwrap()).collect();
        let authority = Authority::new();
        let mut nodes: Vec<Node> = (0..NAMES.len()).map(|here| Node::of_region(here, &stores, &authority)).collect();
        for (node, store) in nodes.iter_mut().zip(&stores) {
            write_spec(store, &node.uid, "data", &[format!("{CLUSTER}-0")]);
            node.start();
        }
        let world = Self { stores, nodes, authority };
        for node in &world.nodes {
            node.serves();
            // Shards are served before they are written to: all must be open to say how far they are, and where they are decided.
            node.until("all regions are used", |state| {
                state["stores"] == SHARDS && is_drained(state) && state["homes"][NAMES[HOME]] == SHARDS
            });
        }
        world.heal();
        world
    }

    /// A node beside that of a region, as far from the same store, which has no regions.
    pub(crate) fn alone(&self, region: usize) -> Node {
        let mut node = Node::alone(&self.stores[region], &self.authority);
        write_spec(&self.stores[region], &node.uid, "alone", &[format!("{CLUSTER}-0")]);
        node.ways[0].set_late(distance(region, region));
        node.start();
        node.serves();
        node
    }

    /// Every way is open, and takes as long as it does.
    fn heal(&self) {
        for (here, node) in self.nodes.iter().enumerate() {
            for (there, way) in node.ways.iter().enumerate() {
                way.set_late(distance(here, there));
                way.set(Way::Open);
            }
        }
    }

    /// A region and its process see only themselves.
    fn cut_off(&self, region: usize) {
        for (here, node) in self.nodes.iter().enumerate() {
            for (there, way) in node.ways.iter().enumerate() {
                if (here == region) != (there == region) {
                    way.set(Way::Cut);
                }
            }
        }
    }

    /// A region loses all that it has, and its process begins anew with what an operator writes down.
    fn restart_empty(&mut self, region: usize) {
        let node = &mut self.nodes[region];
        node.kill();
        self.stores[region].start_empty();
        write_spec(&self.stores[region], &node.uid, "data", &[format!("{CLUSTER}-0")]);
        node.start();
        node.serves();
    }

    /// Waits until every region has all that every process has acknowledged.
    pub(crate) fn drained(&self) {
        for node in &self.nodes {
            node.until("all is everywhere", is_drained);
        }
    }

    /// What all regions have of these keys; fails if they differ.
    fn agreed(&self, keys: &[String]) -> BTreeMap<String, Option<i64>> {
        let all = |node: &Node| keys.iter().map(|key| (key.clone(), node.get(key))).collect::<BTreeMap<_, _>>();
        let of: Vec<_> = self.nodes.iter().map(all).collect();
        assert_eq!((&of[0], &of[1]), (&of[1], &of[2]), "{NAMES:?} differ");
        of.into_iter().next().unwrap()
    }
}

/// Clients of each region.
struct Clients {
    notes: Vec<Arc<Notes>>,
    threads: Vec<JoinHandle<()>>,
}

impl Clients {
    fn start(world: &World, seed: u64) -> Self {
        let mut clients = Self { notes: Vec::new(), threads: Vec::new() };
        for (number, node) in world.nodes.iter().enumerate() {
            let notes = Arc::new(Notes::late());
            let seed = seed.wrapping_mul(10).wrapping_add(number as u64);
            clients.threads.push(client(NAMES[number], seed, KEYS, node.api, Arc::clone(&notes)));
            clients.notes.push(notes);
        }
        clients
    }

    fn answered(&self) -> Vec<u64> {
        self.notes.iter().map(|notes| notes.answered.load(Ordering::SeqCst)).collect()
    }

    /// Waits until each of these regions has acknowledged more.
    fn go_on(&self, regions: &[usize]) {
        let before = self.answered();
        wait_for("clients are answered", || {
            let now = self.answered();
            let more = regions.iter().all(|region| now[*region] > before[*region] + 5);
            if more { Ok(()) } else { Err(format!("{before:?}, then {now:?}")) }
        });
    }

    /// Ends them; their keys.
    fn end(&mut self) -> Vec<String> {
        self.notes.iter().for_each(|notes| notes.over.store(true, Ordering::SeqCst));
        self.threads.drain(..).for_each(|thread| thread.join().unwrap());
        NAMES.iter().flat_map(|name| (0..KEYS).map(move |key| format!("{name}-{key}"))).collect()
    }

    /// What each was told stands in every region.
    fn judge(&self, world: &World) {
        for (notes, name) in self.notes.iter().zip(NAMES) {
            for (node, key) in world.nodes.iter().flat_map(|node| (0..KEYS).map(move |key| (node, key))) {
                wait_for("a key can be read", || match notes.read(node.api, &format!("{name}-{key}")) {
                    true => Ok(()),
                    false => Err(format!("{name}-{key}")),
                });
            }
        }
    }
}

fn rounds() -> (usize, u64) {
    let number = |name: &str| std::env::var(name).map_or(1, |text| text.parse().unwrap());
    (usize::try_from(number("BRAINY_TEST_ROUNDS")).unwrap(), number("BRAINY_TEST_SEED"))
}

#[test]
fn regions_become_equal_after_one_was_cut_off_slowed_and_its_process_killed() {
    let (rounds, seed) = rounds();
    let mut dice = Dice::new(seed);
    let mut world = World::start();
    for round in 1..=rounds {
        let mut clients = Clients::start(&world, seed.wrapping_add(round as u64));
        clients.go_on(&[0, 1, 2]);

        // Without the others a region acknowledges plain writes; without the home nothing is decided.
        let far = if dice.below(2) == 0 { 0 } else { 2 };
        world.cut_off(far);
        clients.go_on(&[0, 1, 2]);
        let lag = world.nodes[HOME].until("the others know what it lacks", |state| {
            state["lag"].as_array().unwrap().iter().any(|lag| lag["region"] == NAMES[far] && lag["keys"] != 0)
        });
        assert_eq!(world.nodes[far].add("decided"), None, "the home is out of reach");
        assert!(world.nodes[HOME].add("decided").is_some());
        // What waits to be sent is known to the next process.
        world.nodes[far].kill();
        world.nodes[far].start();
        world.nodes[far].serves();
        world.heal();
        clients.go_on(&[0, 1, 2]);

        // Slow, and still right.
        for node in &world.nodes {
            node.ways[far].set_late(Duration::from_millis(700));
        }
        clients.go_on(&[0, 1, 2]);
        if round == 1 {
            world.nodes[far].until("it reads another region", |state| state["order"][0]["region"] != NAMES[far]);
        }
        world.heal();

        let keys = clients.end();
        world.drained();
        clients.judge(&world);
        let stands = world.agreed(&keys);
        let decided = world.agreed(&["decided".to_owned()])["decided"];
        assert!(decided.is_some_and(|sum| sum >= i64::try_from(round).unwrap()), "{decided:?}");
        let there = stands.values().flatten().count();
        say(
            "Regions",
            &format!(
                "round {round} of {rounds}: {} cut off ({}), {there} keys, {:?} writes",
                NAMES[far],
                lag["lag"],
                clients.answered()
            ),
        );
    }
}

#[test]
fn a_region_that_is_restarted_empty_is_filled_and_a_home_that_lost_what_it_had_is_moved() {
    let mut world = World::start();
    let keys: Vec<String> = (0..40).map(|key| format!("k{key}")).collect();
    for (key, number) in keys.iter().zip(0..) {
        world.nodes[usize::try_from(number).unwrap() % NAMES.len()].set(key, number);
    }
    assert_eq!(world.nodes[0].add("sum"), Some(1));
    world.drained();
    let before = world.agreed(&keys);
    assert_eq!(before.values().flatten().count(), keys.len());

    world.restart_empty(2);
    // Read at once from elsewhere, and filled behind.
    assert_eq!(world.nodes[2].get("k7"), Some(7));
    wait_for("the region is filled", || {
        let there = world.stores[2].records("data");
        if there > keys.len() { Ok(()) } else { Err(format!("{there} records: {}", world.nodes[2].log())) }
    });
    world.drained();
    assert_eq!(world.agreed(&keys), before);
    assert_eq!(wait_for("it is decided", || world.nodes[2].add("sum").ok_or_else(|| "not yet".to_owned())), 2);
    world.drained();

    world.restart_empty(HOME);
    wait_for("the home is filled", || {
        let there = world.stores[HOME].records("data");
        if there > keys.len() { Ok(()) } else { Err(format!("{there} records: {}", world.nodes[HOME].log())) }
    });
    assert_eq!(world.nodes[0].add("sum"), None, "it has lost what it had");
    world.nodes[HOME].post("moveHome", &json!({"region": "us"}));
    world.nodes[HOME].until("all have moved", |state| state["homes"]["us"] == SHARDS);
    for node in &world.nodes {
        let _sum = wait_for("it is decided", || node.add("sum").ok_or_else(|| format!("not yet: {}", node.log())));
    }
    world.drained();
    assert_eq!(world.agreed(&keys), before);
    assert_eq!(world.agreed(&["sum".to_owned()])["sum"], Some(5));

    // A process that is started again goes by where the keys are, not by what it was told long ago.
    world.nodes[0].kill();
    world.nodes[0].start();
    world.nodes[0].serves();
    assert_eq!(wait_for("it is decided", || world.nodes[0].add("sum").ok_or_else(|| "not yet".to_owned())), 6);
    let state = world.nodes[0].until("it knows where", |state| !state["homes"].as_object().unwrap().is_empty());
    assert!(state["homes"]["eu"].is_null(), "{state}");
}
