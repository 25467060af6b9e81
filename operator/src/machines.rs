//! The machines that are being emptied: whose node in Kubernetes is cordoned, or has a taint by which those that scale machines
//! say that it goes; and the regions in which machines are. One watch for the whole operator, of which only the names of such machines
//! and the regions of all are kept.
//!
//! An operator that has only Roles may not watch machines: then it knows of none, and nothing waits for it.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::stream::{self, Stream};
use futures::{StreamExt, future};
use k8s_openapi::api::core::v1::Node;
use kube::api::ApiResource;
use kube::core::{NotUsed, Object};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, ResourceExt};
use serde::Deserialize;
use tokio::sync::{broadcast, watch};

use crate::metrics::Metrics;
use crate::regions::LABEL as REGION_LABEL;

/// The taints of machines that are being emptied: of Kubernetes itself on one that is cordoned, of the cluster autoscaler, and
/// of Karpenter.
const TAINTS: [&str; 4] = [
    "node.kubernetes.io/unschedulable",
    "ToBeDeletedByClusterAutoscaler",
    "karpenter.sh/disrupted",
    "karpenter.sh/disruption",
];
/// Machines in one answer: what is not kept of them is large.
const PAGE: u32 = 100;
/// After a refusal.
const ASK_AGAIN: Duration = Duration::from_secs(300);
/// Clusters that are not yet reconciled for the news of a machine.
const NEWS: usize = 1024;

/// What is read of a machine.
#[derive(Clone, Debug, Default, Deserialize)]
struct Scheduling {
    #[serde(default)]
    unschedulable: bool,
    #[serde(default)]
    taints: Vec<Taint>,
}

#[derive(Clone, Debug, Deserialize)]
struct Taint {
    key: String,
}

type Machine = Object<Scheduling, NotUsed>;

fn is_emptied(machine: &Machine) -> bool {
    machine.spec.unschedulable || machine.spec.taints.iter().any(|taint| TAINTS.contains(&taint.key.as_str()))
}

type Regions = BTreeMap<String, Option<String>>;

fn region(machine: &Machine) -> Option<String> {
    machine.labels().get(REGION_LABEL).cloned()
}

/// What a list has said so far.
#[derive(Debug, Default)]
struct Listed {
    emptied: BTreeSet<String>,
    regions: Regions,
}

/// A BrainyCluster, by namespace and name.
pub type ClusterName = (String, String);

/// What is known of machines. Clones share it.
#[derive(Clone, Debug)]
pub struct Machines(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    known: watch::Sender<bool>,
    news: broadcast::Sender<ClusterName>,
}

#[derive(Debug, Default)]
struct State {
    emptied: BTreeSet<String>,
    /// In which region each machine is, as its label says.
    regions: Regions,
    /// On which machines each cluster has pods.
    hosts: BTreeMap<ClusterName, BTreeSet<String>>,
}

impl Default for Machines {
    fn default() -> Self {
        let (known, news) = (watch::Sender::new(false), broadcast::Sender::new(NEWS));
        Self(Arc::new(Inner { state: Mutex::default(), known, news }))
    }
}

impl Machines {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes where a cluster's pods are, and says which of these machines are being emptied. It is told of as
    /// [news](Self::news) when that changes.
    pub fn emptied(&self, cluster: ClusterName, hosts: BTreeSet<String>) -> BTreeSet<String> {
        let mut state = self.state();
        let emptied = hosts.intersection(&state.emptied).cloned().collect();
        state.hosts.insert(cluster, hosts);
        emptied
    }

    /// The regions in which machines are, as their labels say; nothing: none is known.
    pub fn regions(&self) -> BTreeSet<Option<String>> {
        self.state().regions.values().cloned().collect()
    }

    /// Forgets a cluster that is gone.
    pub fn forget(&self, cluster: &ClusterName) {
        self.state().hosts.remove(cluster);
    }

    /// Clusters with pods on a machine of which it has become known that it is being emptied, or is no more. Who is slow misses
    /// some, and sees it at the next look.
    pub fn news(&self) -> impl Stream<Item = ClusterName> + Send + 'static {
        stream::unfold(self.0.news.subscribe(), |mut news| async move {
            loop {
                match news.recv().await {
                    Ok(cluster) => return Some((cluster, news)),
                    Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Err(broadcast::error::RecvError::Closed) => return None,
                }
            }
        })
    }

    /// Waits until all machines were seen once, or may not be seen, but no longer than this: who looks before that takes shards
    /// for placed as they should be that an earlier leader has moved.
    pub async fn known(&self, patience: Duration) {
        let mut known = self.0.known.subscribe();
        let _in_time = tokio::time::timeout(patience, known.wait_for(|known| *known)).await;
    }

    /// Watches until it is dropped.
    pub async fn watch(&self, client: Client, metrics: Metrics) {
        let mut told = false;
        loop {
            self.follow(&client, &metrics).await;
            self.state().regions.clear();
            self.replace(BTreeSet::new());
            self.0.known.send_replace(true);
            if !std::mem::replace(&mut told, true) {
                tracing::info!(
                    "machines may not be watched: shards are not moved off one that is cordoned before its pods are told to stop"
                );
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }

    /// Returns when that is refused.
    async fn follow(&self, client: &Client, metrics: &Metrics) {
        let machines: Api<Machine> = Api::all_with(client.clone(), &ApiResource::erase::<Node>(&()));
        let config = watcher::Config::default().page_size(PAGE);
        let mut events = pin!(watcher::watcher(machines, config).default_backoff());
        let mut listed = Listed::default();
        while let Some(event) = events.next().await {
            match event {
                Ok(event) => self.note(event, &mut listed),
                Err(error) if is_forbidden(&error) => return,
                Err(error) => {
                    metrics.api_error("Watch");
                    tracing::warn!(%error, "the watch on machines failed; it goes on");
                }
            }
        }
    }

    fn note(&self, event: Event<Machine>, listed: &mut Listed) {
        match event {
            Event::Init => *listed = Listed::default(),
            Event::InitApply(machine) => {
                if is_emptied(&machine) {
                    listed.emptied.insert(machine.name_any());
                }
                listed.regions.insert(machine.name_any(), region(&machine));
            }
            Event::InitDone => {
                let Listed { emptied, regions } = std::mem::take(listed);
                self.state().regions = regions;
                self.replace(emptied);
                self.0.known.send_replace(true);
            }
            Event::Apply(machine) => {
                self.locate(machine.name_any(), region(&machine));
                self.set(machine.name_any(), is_emptied(&machine));
            }
            Event::Delete(machine) => {
                self.state().regions.remove(&machine.name_any());
                self.set(machine.name_any(), false);
            }
        }
    }

    pub(crate) fn locate(&self, host: String, region: Option<String>) {
        self.state().regions.insert(host, region);
    }

    pub(crate) fn set(&self, host: String, is_emptied: bool) {
        let mut emptied = self.state().emptied.clone();
        let changed = if is_emptied { emptied.insert(host) } else { emptied.remove(&host) };
        if changed {
            self.replace(emptied);
        }
    }

    fn replace(&self, emptied: BTreeSet<String>) {
        let mut state = self.state();
        let changed: BTreeSet<&String> = state.emptied.symmetric_difference(&emptied).collect();
        let touched = |hosts: &BTreeSet<String>| changed.iter().any(|host| hosts.contains(*host));
        let clusters = state.hosts.iter().filter(|(_, hosts)| touched(hosts));
        let clusters: Vec<ClusterName> = clusters.map(|(cluster, _)| cluster.clone()).collect();
        state.emptied = emptied;
        drop(state);
        for cluster in clusters {
            // Nobody listens before the first reconcile.
            let _heard = self.0.news.send(cluster);
        }
    }
}

fn is_forbidden(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => matches!(error, kube::Error::Api(status) if status.is_forbidden()),
        watcher::Error::WatchError(status) => status.is_forbidden(),
        watcher::Error::NoResourceVersion => false,
    }
}

/// For a scope of the watches: only clusters of this namespace, or all.
pub fn within(
    news: impl Stream<Item = ClusterName> + Send + 'static,
    namespace: Option<String>,
) -> impl Stream<Item = ClusterName> + Send + 'static {
    news.filter(move |(of, _)| future::ready(namespace.as_ref().is_none_or(|namespace| namespace == of)))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use futures::FutureExt;
    use serde_json::{Value, json};

    use super::*;
    use crate::fake_api::forbidding;

    fn machine(name: &str, spec: &Value) -> Machine {
        // As the API server says it: with much that is not read.
        let object = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "spec": spec, "status": {"images": [{"names": ["a"]}]}});
        serde_json::from_value(object).unwrap()
    }

    fn hosts(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn demo() -> ClusterName {
        ("team".into(), "demo".into())
    }

    #[test]
    fn a_machine_is_emptied_that_is_cordoned_or_that_its_scaler_removes() {
        let tainted =
            |key: &str| json!({"taints": [{"key": key, "effect": "NoSchedule", "timeAdded": "2026-01-01T00:00:00Z"}]});
        assert!(is_emptied(&machine("m", &json!({"unschedulable": true}))));
        for key in TAINTS {
            assert!(is_emptied(&machine("m", &tainted(key))), "{key}");
        }
        for spec in [json!({}), json!({"unschedulable": false}), tainted("node.kubernetes.io/not-ready")] {
            assert!(!is_emptied(&machine("m", &spec)), "{spec}");
        }
    }

    #[tokio::test]
    async fn clusters_with_pods_on_a_machine_hear_that_it_is_emptied_and_others_do_not() {
        let (machines, mut listed) = (Machines::default(), Listed::default());
        let mut news = pin!(within(machines.news(), Some("team".into())));
        assert!(machines.emptied(demo(), hosts(&["m1", "m2"])).is_empty());
        machines.emptied(("team".into(), "other".into()), hosts(&["m3"]));
        machines.emptied(("elsewhere".into(), "demo".into()), hosts(&["m1"]));
        machines.note(Event::Apply(machine("m1", &json!({"unschedulable": true}))), &mut listed);
        assert_eq!(news.next().now_or_never().flatten(), Some(demo()));
        assert!(news.next().now_or_never().is_none());
        assert_eq!(machines.emptied(demo(), hosts(&["m1", "m2"])), hosts(&["m1"]));
        machines.note(Event::Apply(machine("m1", &json!({"unschedulable": true}))), &mut listed);
        assert!(news.next().now_or_never().is_none(), "it is no news any more");
        machines.note(Event::Apply(machine("m1", &json!({}))), &mut listed);
        assert_eq!(news.next().now_or_never().flatten(), Some(demo()));
        assert!(machines.emptied(demo(), hosts(&["m1"])).is_empty());
    }

    #[tokio::test]
    async fn what_was_missed_while_the_watch_was_away_is_told_by_the_next_list() {
        let (machines, mut listed) = (Machines::default(), Listed::default());
        let mut news = pin!(machines.news());
        let cordoned = |name: &str| machine(name, &json!({"unschedulable": true}));
        machines.note(Event::Apply(cordoned("m1")), &mut listed);
        machines.emptied(demo(), hosts(&["m1", "m2"]));
        for event in [Event::Init, Event::InitApply(cordoned("m2")), Event::InitApply(machine("m1", &json!({})))] {
            machines.note(event, &mut listed);
        }
        assert_eq!(machines.emptied(demo(), hosts(&["m1", "m2"])), hosts(&["m1"]), "a list counts once it is whole");
        machines.note(Event::InitDone, &mut listed);
        assert_eq!(news.next().now_or_never().flatten(), Some(demo()));
        assert_eq!(machines.emptied(demo(), hosts(&["m1", "m2"])), hosts(&["m2"]));
    }

    #[test]
    fn where_machines_are_is_known_as_long_as_they_are_there() {
        let (machines, mut listed) = (Machines::default(), Listed::default());
        let labelled = |name: &str, region: &str| {
            let labels = json!({REGION_LABEL: region});
            let object =
                json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}, "spec": {}});
            serde_json::from_value::<Machine>(object).unwrap()
        };
        assert!(machines.regions().is_empty());
        for event in [Event::Init, Event::InitApply(labelled("m1", "eu")), Event::InitApply(machine("m2", &json!({})))]
        {
            machines.note(event, &mut listed);
        }
        assert!(machines.regions().is_empty(), "a list counts once it is whole");
        machines.note(Event::InitDone, &mut listed);
        assert_eq!(machines.regions(), BTreeSet::from([None, Some("eu".to_owned())]));
        machines.note(Event::Apply(labelled("m2", "us")), &mut listed);
        machines.note(Event::Delete(labelled("m1", "eu")), &mut listed);
        assert_eq!(machines.regions(), BTreeSet::from([Some("us".to_owned())]));
    }

    #[tokio::test(start_paused = true)]
    async fn an_operator_that_may_not_watch_machines_goes_on_at_once_and_asks_seldom() {
        let (asked, machines) = (Arc::default(), Machines::default());
        let watching = tokio::spawn({
            let (machines, client) = (machines.clone(), forbidding(&asked));
            async move { machines.watch(client, Metrics::default()).await }
        });
        let began = tokio::time::Instant::now();
        machines.known(Duration::from_secs(10)).await;
        assert!(began.elapsed() < Duration::from_secs(10));
        tokio::time::sleep(ASK_AGAIN / 2).await;
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        assert!(machines.emptied(demo(), hosts(&["m1"])).is_empty());
        watching.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn machines_that_do_not_answer_hold_nothing_up_for_ever() {
        let machines = Machines::default();
        machines.known(Duration::from_secs(10)).await;
        assert!(machines.emptied(demo(), hosts(&["m1"])).is_empty());
    }
}
