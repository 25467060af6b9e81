//! What is asked of a cluster, and one run of it under trouble.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use brainy_crds::BrainyCluster;
use brainy_crds::condition::{HIBERNATED, PROGRESSING, READY};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::cluster::ControlPlane;
use crate::nodes::Timing;
use crate::operator::Operator;
use crate::proxy::{Proxy, Trouble, Write};
use crate::scale::metrics;
use crate::state::{self, State};

/// The cluster.
pub(crate) const NAME: &str = "demo";
/// Sessions outlast every run: nothing lapses by time.
pub(crate) const TIMING: Timing = Timing { duration: 3600, renew: 1800 };

/// Longer than the operator's pause between looks while something is on its way: then nothing is.
const QUIET: Duration = Duration::from_millis(1500);
/// For Kubernetes to do its part without an operator.
const AWAY: Duration = Duration::from_secs(2);
/// The operator's own pauses after failures grow to eight seconds within this.
const LIMIT: Duration = Duration::from_secs(90);

/// A change of a cluster that has come to rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scenario {
    /// Two nodes, of nothing.
    Create,
    /// From two nodes to three.
    ScaleUp,
    /// From three nodes to two.
    ScaleDown,
    /// Every pod is replaced.
    Roll,
    /// Pods get other resources where they run, and volumes grow.
    Resize,
    /// From two nodes to none.
    Hibernate,
    /// From none to two.
    Wake,
    /// Volumes are to go with the cluster, from now on.
    OwnVolumes,
    /// Volumes stay.
    Delete,
    /// Volumes go.
    DeleteWithVolumes,
    /// Three nodes in two zones, of nothing.
    CreateInZones,
    /// From three nodes to five, in two zones.
    ScaleUpInZones,
    /// From five nodes to two, in two zones.
    ScaleDownInZones,
    /// Every pod is replaced, zone by zone.
    RollInZones,
}

impl Scenario {
    /// All.
    pub(crate) const ALL: [Self; 14] = [
        Self::Create,
        Self::ScaleUp,
        Self::ScaleDown,
        Self::Roll,
        Self::Resize,
        Self::Hibernate,
        Self::Wake,
        Self::OwnVolumes,
        Self::Delete,
        Self::DeleteWithVolumes,
        Self::CreateInZones,
        Self::ScaleUpInZones,
        Self::ScaleDownInZones,
        Self::RollInZones,
    ];

    /// The specs that come before, each until it is at rest.
    fn before(self) -> Vec<Value> {
        match self {
            Self::Create | Self::CreateInZones => Vec::new(),
            Self::ScaleDown => vec![spec(json!({"replicas": 3}))],
            Self::Wake => vec![spec(json!({})), spec(json!({"replicas": 0}))],
            Self::DeleteWithVolumes => vec![spec(json!({"deletionPolicy": "Delete"}))],
            Self::ScaleUpInZones | Self::RollInZones => vec![in_zones(json!({}))],
            Self::ScaleDownInZones => vec![in_zones(json!({"replicas": 5}))],
            _ => vec![spec(json!({}))],
        }
    }

    /// The spec that is asked for; none: the cluster is deleted.
    fn asks(self) -> Option<Value> {
        Some(match self {
            Self::Create | Self::ScaleDown | Self::Wake => spec(json!({})),
            Self::ScaleUp => spec(json!({"replicas": 3})),
            Self::Roll => spec(json!({"pod": {"annotations": {"example.org/version": "2"}}})),
            Self::Resize => spec(json!({
                "pod": {"resources": {"requests": {"cpu": "70m", "memory": "64Mi"}}},
                "storage": {"volume": {"size": "2Gi"}},
            })),
            Self::Hibernate => spec(json!({"replicas": 0})),
            Self::OwnVolumes => spec(json!({"deletionPolicy": "Delete"})),
            Self::Delete | Self::DeleteWithVolumes => return None,
            Self::CreateInZones => in_zones(json!({})),
            Self::ScaleUpInZones => in_zones(json!({"replicas": 5})),
            Self::ScaleDownInZones => in_zones(json!({"replicas": 2})),
            Self::RollInZones => in_zones(json!({"pod": {"annotations": {"example.org/version": "2"}}})),
        })
    }
}

/// A spec of two nodes and four shards, with these differences.
pub(crate) fn spec(differs: Value) -> Value {
    let mut spec = json!({
        "replicas": 2,
        "shards": 4,
        "storage": {"strategy": "Isolated", "volume": {"size": "1Gi"}},
        "coordination": {"lease": {"durationSeconds": TIMING.duration, "renewSeconds": TIMING.renew}},
        "pod": {"resources": {"requests": {"cpu": "50m", "memory": "64Mi"}}},
    });
    merge(&mut spec, differs);
    spec
}

/// A spec of three nodes in two zones, with these differences.
fn in_zones(differs: Value) -> Value {
    let mut spec = spec(json!({"replicas": 3, "zones": ["west-1a", "west-1b"]}));
    merge(&mut spec, differs);
    spec
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
        proxy.watch_over(operator.clone());
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
            ask(&self.plane.client, &self.namespace, Some(&spec)).await;
            self.comes_to_rest().await?;
        }
        self.proxy.begin(trouble.clone());
        let is_away = *trouble == Trouble::Away;
        ask(&self.plane.client, &self.namespace, scenario.asks().as_ref()).await;
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

    /// Until the operator says that all is as the spec wants it, and writes nothing any more.
    pub(crate) async fn comes_to_rest(&self) -> Result<(), String> {
        let began = Instant::now();
        loop {
            let cluster = read(&self.plane.client, &self.namespace).await;
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
        left.keys().all(|key| key.starts_with("persistentvolumeclaims/") || key.starts_with("lives of "))
    }
}

/// Asks for this spec, or that the cluster goes.
pub(crate) async fn ask(client: &Client, namespace: &str, spec: Option<&Value>) {
    let clusters: Api<BrainyCluster> = Api::namespaced(client.clone(), namespace);
    let Some(spec) = spec else {
        clusters.delete(NAME, &DeleteParams::default()).await.unwrap();
        return;
    };
    let wish =
        json!({"apiVersion": "brainy.io/v1alpha1", "kind": "BrainyCluster", "metadata": {"name": NAME}, "spec": spec});
    let created = clusters.create(&PostParams::default(), &serde_json::from_value(wish.clone()).unwrap()).await;
    if created.is_err() {
        clusters.patch(NAME, &PatchParams::default(), &Patch::Merge(json!({"spec": spec}))).await.unwrap();
    }
}

/// The cluster, if there is one.
pub(crate) async fn read(client: &Client, namespace: &str) -> Option<BrainyCluster> {
    Api::<BrainyCluster>::namespaced(client.clone(), namespace).get_opt(NAME).await.unwrap()
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
