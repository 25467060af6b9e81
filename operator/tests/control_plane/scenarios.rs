//! What is asked of a cluster, and one run of it under trouble.

use std::fmt::{self, Write as _};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use brainy_crds::BrainyCluster;
use brainy_crds::condition::{HIBERNATED, PROGRESSING, READY};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::cluster::{BUCKET, ControlPlane, ENDPOINTS, KEYS};
use crate::groups;
use crate::nodes::Timing;
use crate::operator::Operator;
use crate::proxy::{Proxy, Trouble, Write};
use crate::scale::metrics;
use crate::state::{self, State};

/// The cluster.
pub(crate) const NAME: &str = "demo";
/// Sessions outlast every run: nothing lapses by time.
pub(crate) const TIMING: Timing = Timing { duration: 3600, renew: 1800 };

/// Where there are zones.
pub(crate) const ZONES: [&str; 2] = ["west-1a", "west-1b"];

/// Longer than the operator's pause between looks while something is on its way: then nothing is.
const QUIET: Duration = Duration::from_millis(1500);
/// For Kubernetes to do its part without an operator.
const AWAY: Duration = Duration::from_secs(2);
/// The operator's own pauses after failures grow to eight seconds within this.
const LIMIT: Duration = Duration::from_secs(90);

/// What is asked of a cluster that has come to rest, or that is not there yet.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Scenario {
    /// Of which cluster.
    pub(crate) kind: Kind,
    /// What.
    pub(crate) change: Change,
}

impl fmt::Debug for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} on {}", self.change, self.kind)
    }
}

/// A cluster by strategy and pattern, in zones or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Kind {
    strategy: &'static str,
    pattern: &'static str,
    zones: bool,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let zones = if self.zones { " in zones" } else { "" };
        write!(f, "{}/{}{zones}", self.strategy, self.pattern)
    }
}

impl Kind {
    /// One of them.
    pub(crate) const fn new(strategy: &'static str, pattern: &'static str, zones: bool) -> Self {
        Self { strategy, pattern, zones }
    }

    /// Whether this machine has what it takes.
    pub(crate) fn can_be_played(self) -> bool {
        self.pattern != "Consensus" || *groups::CAN_BE_PLAYED
    }

    fn is_on_volumes(self) -> bool {
        self.strategy == "Isolated"
    }

    /// How many nodes it has unless something else is said: a zone with two, and one with one.
    fn nodes(self) -> usize {
        if self.zones { 3 } else { 2 }
    }

    /// Its spec, with four shards.
    pub(crate) fn spec(self) -> Value {
        let mut spec = json!({
            "replicas": self.nodes(),
            "shards": 4,
            "storage": {"strategy": self.strategy},
            "coordination": {
                "pattern": self.pattern,
                "lease": if self.pattern == "Consensus" { short() } else { long() },
            },
        });
        match self.is_on_volumes() {
            true => spec["storage"]["volume"] = json!({"size": "1Gi"}),
            false => spec["storage"]["bucket"] = bucket(),
        }
        if self.zones {
            spec["zones"] = json!(ZONES);
        }
        spec
    }
}

/// Sessions that outlast every run: nothing lapses by time.
pub(crate) fn long() -> Value {
    json!({"durationSeconds": TIMING.duration, "renewSeconds": TIMING.renew})
}

/// Sessions that are over soon: a change from or to pattern Consensus waits for that.
pub(crate) fn short() -> Value {
    json!({"durationSeconds": 10, "renewSeconds": 3})
}

/// The bucket of the namespace.
pub(crate) fn bucket() -> Value {
    json!({"name": BUCKET, "endpoint": ENDPOINTS[0], "credentialsSecret": KEYS[0]})
}

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// A cluster, of nothing.
    Create,
    /// A node more; in zones, two more.
    ScaleUp,
    /// The way back; in zones, down to two.
    ScaleDown,
    /// Every pod is replaced; zone by zone.
    Roll,
    /// Pods get other resources where they run, and volumes grow.
    Resize,
    /// Sidecars are restarted where they run: another operator brings another, and pods get other resources along with it.
    Sidecar,
    /// All nodes go, and data stays.
    Hibernate,
    /// They come back.
    Wake,
    /// Another is the controller: the operator, or a node.
    AnotherPattern,
    /// Data is to go with the cluster, from now on.
    OwnData,
    /// Data stays.
    Delete,
    /// Data goes.
    DeleteWithData,
}

impl Scenario {
    /// All.
    pub(crate) fn all() -> Vec<Self> {
        use Change::{
            AnotherPattern, Create, Delete, DeleteWithData, Hibernate, OwnData, Resize, Roll, ScaleDown, ScaleUp,
            Sidecar, Wake,
        };
        let volumes =
            [Create, ScaleUp, ScaleDown, Roll, Resize, Sidecar, Hibernate, Wake, OwnData, Delete, DeleteWithData]
                .as_slice();
        let bucket =
            [Create, ScaleUp, ScaleDown, Roll, Resize, Hibernate, Wake, AnotherPattern, Delete, DeleteWithData]
                .as_slice();
        let zones = [Create, ScaleUp, ScaleDown, Roll].as_slice();
        let volumes_in_zones = [Create, ScaleUp, ScaleDown, Roll, Sidecar].as_slice();
        let group = [Create, ScaleUp, ScaleDown, Roll, Hibernate, Wake, DeleteWithData].as_slice();
        let of = [
            (Kind::new("Isolated", "Leader", false), volumes),
            (Kind::new("Isolated", "Leader", true), volumes_in_zones),
            (Kind::new("Shared", "StorageNative", false), bucket),
            (Kind::new("Shared", "StorageNative", true), zones),
            (Kind::new("Namespaced", "Leader", false), &[Create, ScaleDown, Roll, AnotherPattern, DeleteWithData]),
            (Kind::new("Isolated", "Consensus", false), group),
            (Kind::new("Shared", "Consensus", true), zones),
        ];
        let of = of.into_iter().filter(|(kind, _)| kind.can_be_played());
        let each = |(kind, changes): (Kind, &[Change])| changes.iter().map(|&change| Self { kind, change }).collect();
        of.flat_map::<Vec<Self>, _>(each).collect()
    }

    /// The specs that come before, each until it is at rest.
    fn before(self) -> Vec<Value> {
        let first = self.kind.spec();
        match self.change {
            Change::Create => Vec::new(),
            Change::ScaleDown => vec![with(first, json!({"replicas": self.more()}))],
            Change::Wake => vec![with(first.clone(), json!({})), with(first, json!({"replicas": 0}))],
            Change::DeleteWithData => vec![with(first, json!({"deletionPolicy": "Delete"}))],
            _ => vec![with(first, json!({}))],
        }
    }

    fn more(self) -> usize {
        self.kind.nodes() + if self.kind.zones { 2 } else { 1 }
    }

    /// The spec that is asked for; none: the cluster is deleted.
    fn asks(self) -> Option<Value> {
        let differs = match self.change {
            Change::Create | Change::Wake => json!({}),
            Change::ScaleUp => json!({"replicas": self.more()}),
            Change::ScaleDown => json!({"replicas": 2}),
            Change::Roll => json!({"pod": {"annotations": {"example.org/version": "2"}}}),
            Change::Resize if self.kind.is_on_volumes() => json!({
                "pod": {"resources": {"requests": {"cpu": "70m", "memory": "64Mi"}}},
                "storage": {"volume": {"size": "2Gi"}},
            }),
            Change::Resize | Change::Sidecar => {
                json!({"pod": {"resources": {"requests": {"cpu": "70m", "memory": "64Mi"}}}})
            }
            Change::Hibernate => json!({"replicas": 0}),
            Change::AnotherPattern => {
                let other = if self.kind.pattern == "Leader" { "StorageNative" } else { "Leader" };
                json!({"coordination": {"pattern": other}})
            }
            Change::OwnData => json!({"deletionPolicy": "Delete"}),
            Change::Delete | Change::DeleteWithData => return None,
        };
        Some(with(self.kind.spec(), differs))
    }
}

fn with(mut spec: Value, differs: Value) -> Value {
    merge(&mut spec, json!({"pod": {"resources": {"requests": {"cpu": "50m", "memory": "64Mi"}}}}));
    merge(&mut spec, differs);
    spec
}

/// A spec of two nodes and four shards on volumes, with these differences.
pub(crate) fn spec(differs: Value) -> Value {
    with(Kind::new("Isolated", "Leader", false).spec(), differs)
}

/// Merges a patch (RFC 7386).
pub(crate) fn merge(into: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *into = patch;
        return;
    };
    if !into.is_object() {
        *into = json!({});
    }
    for (key, value) in patch {
        match value {
            Value::Null => {
                if let Some(into) = into.as_object_mut() {
                    into.remove(&key);
                }
            }
            value => merge(&mut into[key], value),
        }
    }
}

/// What a run came to.
pub(crate) struct Outcome {
    /// In the end.
    pub(crate) state: State,
    /// What the operator wrote meanwhile.
    pub(crate) writes: Vec<Write>,
    /// The trouble came.
    pub(crate) has_struck: bool,
    /// How often it bit.
    pub(crate) faults: usize,
}

/// One run, in a namespace of its own, with an operator of its own. `expected`: how it must end; none: as the operator says it does.
pub(crate) async fn run(
    plane: &ControlPlane,
    scenario: Scenario,
    trouble: Trouble,
    expected: Option<&State>,
) -> Result<Outcome, String> {
    let run = Run::start(plane).await;
    let ended = run.through(scenario, &trouble, expected).await;
    let log = if ended.is_err() { run.operator.last_words() } else { String::new() };
    run.ends();
    ended.map_err(|why| format!("{scenario:?}, {trouble} ({}):\n{why}\n{log}", run.namespace))
}

/// A namespace with an operator of its own behind a proxy of its own.
pub(crate) struct Run<'a> {
    plane: &'a ControlPlane,
    namespace: String,
    proxy: Proxy,
    operator: Operator,
}

impl<'a> Run<'a> {
    /// Nothing is asked yet.
    pub(crate) async fn start(plane: &'a ControlPlane) -> Self {
        static RUNS: AtomicUsize = AtomicUsize::new(1);
        let namespace = format!("run-{:05}", RUNS.fetch_add(1, Ordering::Relaxed));
        plane.namespace(&namespace).await;
        let proxy = Proxy::start(plane, &namespace).await;
        let operator = Operator::new(&namespace, plane.folder(), proxy.address(), None, Some(&namespace));
        plane.bucket(&namespace, proxy.guard()).await;
        proxy.watch_over(operator.clone());
        if *groups::CAN_BE_PLAYED {
            operator.has_hosts(plane.groups.hosts(&namespace, NAME, &ZONES));
        }
        operator.start();
        Self { plane, namespace, proxy, operator }
    }

    /// The namespace.
    pub(crate) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Nobody looks after the namespace any more.
    pub(crate) fn ends(&self) {
        self.operator.kill();
    }

    /// Kills the operator and starts it again. What it has written until it had looked at the cluster and was done with that.
    pub(crate) async fn begins_anew(&self) -> Result<Vec<Write>, String> {
        self.proxy.begin(Trouble::Away);
        self.proxy.goes_on();
        self.operator.start();
        self.comes_to_rest().await?;
        let is_done = |metrics: &str| {
            let mut counts = metrics.lines().filter(|line| line.starts_with("brainy_operator_reconciles_total"));
            counts.any(|line| line.rsplit(' ').next().is_some_and(|count| count != "0"))
        };
        let began = Instant::now();
        while !is_done(&metrics(self.operator.metrics()).await) {
            if began.elapsed() > LIMIT {
                return Err("it does not look at the cluster".to_owned());
            }
            sleep(Duration::from_millis(200)).await;
        }
        Ok(self.proxy.writes())
    }

    async fn through(
        &self,
        scenario: Scenario,
        trouble: &Trouble,
        expected: Option<&State>,
    ) -> Result<Outcome, String> {
        for spec in scenario.before() {
            ask(self.plane, &self.namespace, Some(&spec)).await;
            self.comes_to_rest().await?;
        }
        if scenario.change == Change::Sidecar {
            self.upgrade().await?;
        }
        self.proxy.begin(trouble.clone());
        let is_away = *trouble == Trouble::Away;
        ask(self.plane, &self.namespace, scenario.asks().as_ref()).await;
        let again = async {
            loop {
                self.proxy.struck().await;
                if is_away {
                    sleep(AWAY).await;
                }
                self.proxy.goes_on();
                self.operator.start();
            }
        };
        let ends = async {
            match expected {
                None => self.comes_to_rest().await,
                Some(expected) => self.comes_to(expected).await,
            }
        };
        tokio::select! {
            ended = ends => ended?,
            () = again => {}
        }
        Ok(Outcome {
            state: state::of(self.plane, &self.namespace).await,
            writes: self.proxy.writes(),
            has_struck: self.proxy.has_struck(),
            faults: self.proxy.faults(),
        })
    }

    /// Starts an operator that has another sidecar for pods. It says so, and does nothing.
    async fn upgrade(&self) -> Result<(), String> {
        self.operator.kill();
        self.operator.has_sidecar("sidecar:2");
        self.operator.start();
        let began = Instant::now();
        let plans = |cluster: BrainyCluster| cluster.status.is_some_and(|status| status.plan.is_some());
        while !read(self.plane, &self.namespace).await.is_some_and(plans) {
            if began.elapsed() > LIMIT {
                return Err("it does not say what its sidecar would change".to_owned());
            }
            sleep(Duration::from_millis(200)).await;
        }
        self.comes_to_rest().await
    }

    /// Until the operator says that all is as the spec wants it, and writes nothing any more.
    pub(crate) async fn comes_to_rest(&self) -> Result<(), String> {
        let began = Instant::now();
        loop {
            let cluster = read(self.plane, &self.namespace).await;
            let rests = match &cluster {
                Some(cluster) => is_at_rest(cluster) && self.proxy.is_quiet_for(QUIET),
                None => self.is_empty().await,
            };
            if rests {
                return Ok(());
            }
            if began.elapsed() > LIMIT {
                return Err(format!("it does not come to rest: {}", json!(cluster.and_then(|cluster| cluster.status))));
            }
            sleep(Duration::from_millis(200)).await;
        }
    }

    /// Until all is as expected, and the operator writes nothing any more.
    async fn comes_to(&self, expected: &State) -> Result<(), String> {
        let began = Instant::now();
        loop {
            let found = state::of(self.plane, &self.namespace).await;
            let is_gone = !found.contains_key(&format!("brainyclusters/{NAME}"));
            if (is_gone || self.proxy.is_quiet_for(QUIET)) && found == *expected {
                return Ok(());
            }
            if began.elapsed() > LIMIT {
                let mut why = state::difference(expected, &found);
                writeln!(why, "what was written: {:?}", self.proxy.writes()).unwrap();
                return Err(why);
            }
            sleep(Duration::from_millis(250)).await;
        }
    }

    /// Nothing is left that goes with a cluster.
    async fn is_empty(&self) -> bool {
        let left = state::of(self.plane, &self.namespace).await;
        let stays = |key: &String| {
            ["persistentvolumeclaims/", "lives of ", "bucket"].iter().any(|kept| key.starts_with(kept))
                || key.strip_prefix("secrets/").is_some_and(|name| KEYS.contains(&name))
        };
        left.keys().all(stays)
    }
}

/// Asks for this spec, or that the cluster goes.
pub(crate) async fn ask(plane: &ControlPlane, namespace: &str, spec: Option<&Value>) {
    let clusters: Api<BrainyCluster> = Api::namespaced(plane.client.clone(), namespace);
    let Some(spec) = spec else {
        let gone = async || match clusters.delete(NAME, &DeleteParams::default()).await {
            Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
            other => other.map(drop),
        };
        plane.patiently(gone).await;
        return;
    };
    let spec = plane.in_namespace(spec, namespace);
    let wish =
        json!({"apiVersion": "brainy.io/v1alpha1", "kind": "BrainyCluster", "metadata": {"name": NAME}, "spec": spec});
    let asked =
        async || match clusters.create(&PostParams::default(), &serde_json::from_value(wish.clone()).unwrap()).await {
            Err(kube::Error::Api(status)) if status.is_already_exists() => {
                let patch = Patch::Merge(json!({"spec": spec}));
                clusters.patch(NAME, &PatchParams::default(), &patch).await.map(drop)
            }
            other => other.map(drop),
        };
    plane.patiently(asked).await;
}

/// The cluster, if there is one.
pub(crate) async fn read(plane: &ControlPlane, namespace: &str) -> Option<BrainyCluster> {
    let clusters: Api<BrainyCluster> = Api::namespaced(plane.client.clone(), namespace);
    plane.patiently(async || clusters.get_opt(NAME).await).await
}

/// The operator says of the newest spec that all is as it wants it.
pub(crate) fn is_at_rest(cluster: &BrainyCluster) -> bool {
    let status = cluster.status.clone().unwrap_or_default();
    let says = |type_: &str, what: &str| {
        status.conditions.iter().any(|condition| {
            condition.type_ == type_
                && condition.status == what
                && condition.observed_generation == cluster.metadata.generation
        })
    };
    status.observed_generation == cluster.metadata.generation
        && says(PROGRESSING, "False")
        && (says(READY, "True") || says(HIBERNATED, "True"))
}
