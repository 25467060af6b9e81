//! A bad day: the operator, the API server and a worker are away, one after the other, for clusters of every kind at once, under
//! load. What the clients were told is judged by a checker that is not ours. In a file of its own: for a while there is
//! no operator, and no API server.
//!
//! `BRAINY_TEST_OPERATOR_AWAY`, `BRAINY_TEST_API_SERVER_AWAY`, `BRAINY_TEST_WORKER_AWAY`: for how many seconds.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, ensure};
use brainy_coordination::{ShardId, ShardMap};
use brainy_e2e::brainy::{Cluster, pod_is_ready};
use brainy_e2e::clients::tape::{Ended, Entry, Tape};
use brainy_e2e::clients::{Clients, print_figures};
use brainy_e2e::kill::Killer;
use brainy_e2e::load::{self, Progress, verify};
use brainy_e2e::specs::{self, SESSION, prepare_bucket, sample};
use brainy_e2e::standstill::{Standstill, What};
use brainy_e2e::{Environment, Seen, hosts, operator, until, with_temp_namespace};
use futures::future::try_join_all;
use kube::ResourceExt;
use kube::api::DeleteParams;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until, timeout};

const LIMIT: Duration = Duration::from_secs(180);
/// An API server that does not answer within this time is away.
const ANSWER: Duration = Duration::from_secs(3);
/// Fewer answers would say little.
const ENOUGH: usize = 10;

/// Where a cluster keeps its sessions: which of the others it needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sessions {
    Kubernetes,
    Bucket,
    Nodes,
}

struct Subject {
    cluster: Cluster,
    sessions: Sessions,
    /// The only copy of a shard is on its owner's volume.
    isolated: bool,
}

fn away(variable: &str, seconds: u64) -> anyhow::Result<Duration> {
    let said = std::env::var(variable).ok().map(|said| said.parse().with_context(|| format!("{variable}={said}")));
    Ok(Duration::from_secs(said.transpose()?.unwrap_or(seconds)))
}

/// One of every kind, with nodes on every host.
async fn subjects(environment: &Environment, namespace: &str, clients: &Clients) -> anyhow::Result<Vec<Subject>> {
    let consensus = ("Consensus", Sessions::Nodes, true);
    let wanted: [(&str, Value, _); 4] = [
        ("isolated", specs::isolated(3), ("Leader", Sessions::Kubernetes, true)),
        ("shared", specs::shared(3, &format!("{namespace}/s")), ("Leader", Sessions::Bucket, false)),
        ("native", specs::namespaced(3, &format!("{namespace}/n")), ("StorageNative", Sessions::Bucket, false)),
        ("consensus", specs::isolated(3), consensus),
    ];
    let mut subjects = Vec::new();
    for (name, mut spec, (pattern, sessions, isolated)) in wanted {
        spec["coordination"]["pattern"] = json!(pattern);
        spec["pod"]["tolerations"] = json!([{"key": "node-role.kubernetes.io/control-plane", "operator": "Exists"}]);
        let cluster = Cluster::apply(environment, namespace, name, clients.beside(name, spec)).await?;
        subjects.push(Subject { cluster, sessions, isolated });
    }
    for subject in &subjects {
        subject.cluster.ready().await?;
    }
    Ok(subjects)
}

impl Subject {
    fn name(&self) -> &str {
        &self.cluster.name
    }

    async fn nodes(&self) -> anyhow::Result<Vec<String>> {
        Ok(self.cluster.pods().await?.iter().map(ResourceExt::name_any).collect())
    }

    /// The clients beside each node are answered after a mark, and every shard is served.
    async fn is_served(&self, clients: &Clients, since: &str) -> anyhow::Result<()> {
        let nodes = self.nodes().await?;
        clients.are_answered(self.name(), &nodes, since).await?;
        let records = sample(since, 200);
        load::write(&self.cluster.node(0), &records, &Progress::default(), None).await?;
        verify(&self.cluster.node(i32::try_from(nodes.len())? - 1), &records).await
    }
}

async fn all_are_served(subjects: &[Subject], clients: &Clients, since: &str) -> anyhow::Result<()> {
    clients.mark(since).await?;
    try_join_all(subjects.iter().map(|subject| subject.is_served(clients, since))).await?;
    for subject in subjects {
        subject.cluster.ready().await?;
    }
    Ok(())
}

/// One pod is deleted and the containers of another are killed, with nobody there to move a shard. Each node takes back what
/// was its own.
async fn struck(subject: &Subject, killer: Killer) -> anyhow::Result<()> {
    let pod = format!("{}-0", subject.name());
    let pods = subject.cluster.pods_api();
    let uid = pods.get(&pod).await?.uid();
    pods.delete(&pod, &DeleteParams::default()).await?;
    until(&format!("another pod {pod}"), LIMIT, || async {
        let found = pods.get_opt(&pod).await?.filter(|found| found.uid() != uid);
        Ok(match found.filter(pod_is_ready) {
            Some(_) => Seen::Done(()),
            None => Seen::NotYet("it is not ready".into()),
        })
    })
    .await?;
    killer.strike().await.map(drop)
}

/// Every node is struck or not, and serves on; what was asked of the operator meanwhile it does when it is back.
async fn operator_is_away(environment: &Environment, subjects: &[Subject], clients: &Clients) -> anyhow::Result<()> {
    let lasts = away("BRAINY_TEST_OPERATOR_AWAY", 30)?;
    println!(
        "▸ no operator for {} s; a pod of each cluster is deleted, the containers of another are killed",
        lasts.as_secs()
    );
    let mut killers = Vec::new();
    for subject in subjects {
        let pod = format!("{}-1", subject.name());
        killers.push(Killer::beside(environment, subject.cluster.pods_api(), &pod).await?);
    }
    let waits = subjects.iter().find(|subject| subject.name() == "shared").context("there is no shared cluster")?;
    let meanwhile = async {
        let ends = Instant::now() + lasts;
        clients.mark("the operator is away").await?;
        waits.cluster.change(json!({"replicas": 4})).await?;
        try_join_all(subjects.iter().zip(killers).map(|(subject, killer)| struck(subject, killer))).await?;
        clients.mark("all were struck").await?;
        try_join_all(subjects.iter().map(|subject| subject.is_served(clients, "all were struck"))).await?;
        sleep_until(ends).await;
        ensure!(operator::replicas(environment).await? == 0, "an operator came back by itself");
        ensure!(waits.nodes().await?.len() == 3, "somebody did the operator's work");
        clients.mark("the operator comes back").await
    };
    operator::without(environment, meanwhile).await?;
    all_are_served(subjects, clients, "the operator is back").await?;
    ensure!(waits.nodes().await?.len() == 4, "the operator did not catch up");
    let report = clients.look().await?;
    let span = report.between("the operator is away", "the operator comes back")?;
    for subject in subjects {
        let figures = print_figures(&report, subject.name(), "no operator", span.clone())?;
        ensure!(figures.acknowledged > ENOUGH, "{}: {figures:?}", subject.name());
    }
    Ok(())
}

/// Whether the API server answers.
async fn answers(environment: &Environment) -> bool {
    timeout(ANSWER, environment.client.apiserver_version()).await.is_ok_and(|version| version.is_ok())
}

async fn until_it_answers(environment: &Environment, wanted: bool, limit: Duration) -> anyhow::Result<()> {
    let what = if wanted { "the API server to answer again" } else { "the API server to answer no more" };
    until(what, limit, || async {
        let is = answers(environment).await;
        Ok(if is == wanted { Seen::Done(()) } else { Seen::NotYet(format!("it answers: {is}")) })
    })
    .await
}

/// What keeps its sessions elsewhere does not notice. What keeps them in Kubernetes can't renew them, and must stop: nobody else may
/// have a reason to think that it has; and comes back by itself.
async fn api_server_is_away(environment: &Environment, subjects: &[Subject], clients: &Clients) -> anyhow::Result<()> {
    let hosts = hosts::control_planes(environment).await?;
    if hosts.is_empty() {
        println!("▸ LEFT OUT: no API server for a while. This cluster's runs where no pod can");
        return Ok(());
    }
    let lasts = away("BRAINY_TEST_API_SERVER_AWAY", 30)?;
    println!("▸ no API server for {} s", lasts.as_secs());
    let still = Standstill::of(environment, What::ApiServer, &hosts, lasts, clients).await?;
    still.begin().await?;
    until_it_answers(environment, false, LIMIT).await?;
    until_it_answers(environment, true, lasts + LIMIT).await?;
    still.over().await?;
    all_are_served(subjects, clients, "the API server is back").await?;

    let report = clients.look().await?;
    let [from, to] = What::ApiServer.marks();
    let span = report.between(&from, &to)?;
    for subject in subjects {
        let figures = print_figures(&report, subject.name(), "no API server", span.clone())?;
        if subject.sessions != Sessions::Kubernetes {
            ensure!(figures.acknowledged > ENOUGH, "{}: {figures:?}", subject.name());
            ensure!((figures.failed, figures.unknown) == (0, 0), "{}: {figures:?}", subject.name());
            continue;
        }
        let tape = report.of(subject.name())?;
        // The last renewal was sent before it stood still.
        let over = span.start + u64::try_from(SESSION.as_millis())?;
        let served = tape.within(over..span.end).filter(|entry| entry.how == Ended::Acknowledged).count();
        ensure!(served == 0, "{} was served {served} times when its sessions were over", subject.name());
        ensure!(figures.failed > 0, "{} did not notice: the fault did not bite", subject.name());
    }
    Ok(())
}

/// What a cluster had on a host.
struct There {
    /// Its nodes there.
    nodes: BTreeSet<String>,
    map: ShardMap,
}

impl There {
    async fn of(subject: &Subject, host: &str) -> anyhow::Result<Self> {
        let pods = subject.cluster.pods().await?;
        let (nodes, others): (Vec<_>, Vec<_>) =
            pods.iter().partition(|pod| pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) == Some(host));
        let nodes: BTreeSet<String> = nodes.into_iter().map(ResourceExt::name_any).collect();
        ensure!(!nodes.is_empty(), "{} has no node on {host}", subject.name());
        // Where the nodes keep the sessions, a majority of them has to be elsewhere.
        ensure!(
            nodes.len() <= others.len() && !others.is_empty(),
            "{} has too many nodes on {host}: {nodes:?}",
            subject.name()
        );
        Ok(Self { nodes, map: subject.cluster.shard_map().await? })
    }

    /// A client is there.
    fn asks(&self, tape: &Tape, entry: &Entry) -> bool {
        self.nodes.iter().any(|node| tape.is_of(entry, node))
    }

    /// The key's shard was there.
    fn had(&self, key: &str) -> bool {
        let owner = self.map.owner(ShardId::of("", key, self.map.shards()));
        owner.is_some_and(|owner| self.nodes.contains(&owner.0))
    }

    /// Through a node elsewhere, whatever can be served is: with the data on volumes, what was not there.
    async fn is_replaced(&self, subject: &Subject) -> anyhow::Result<()> {
        let elsewhere = subject.nodes().await?.into_iter().find(|node| !self.nodes.contains(node));
        let elsewhere = elsewhere.context("there is no node elsewhere")?;
        let ordinal = elsewhere.rsplit('-').next().unwrap_or_default().parse()?;
        let mut records = sample("without a worker", 200);
        records.retain(|key, _| !(subject.isolated && self.had(key)));
        load::write(&subject.cluster.node(ordinal), &records, &Progress::default(), None).await.map(drop)
    }
}

/// Shards of which the data is elsewhere are served from elsewhere, the others wait for their volumes, and are served from nowhere
/// else. The nodes that come back with all that they had in mind do no harm.
async fn worker_is_away(
    environment: &Environment,
    subjects: &[Subject],
    clients: &Clients,
    host: &str,
) -> anyhow::Result<()> {
    let lasts = away("BRAINY_TEST_WORKER_AWAY", 60)?;
    println!("▸ no host {host} for {} s", lasts.as_secs());
    let mut there = Vec::new();
    for subject in subjects {
        there.push(There::of(subject, host).await?);
    }
    let still = Standstill::of(environment, What::Worker, &[host.to_owned()], lasts, clients).await?;
    still.begin().await?;
    let [from, to] = What::Worker.marks();
    until("the host to stand still", LIMIT, || async {
        let begun = clients.look().await?.at(&from);
        Ok(begun.map_or_else(|why| Seen::NotYet(why.to_string()), Seen::Done))
    })
    .await?;
    try_join_all(subjects.iter().zip(&there).map(|(subject, there)| there.is_replaced(subject))).await?;
    ensure!(clients.look().await?.at(&to).is_err(), "its shards were served only when the host was back");
    until("the host to come back", lasts + LIMIT, || async {
        let over = clients.look().await?.at(&to);
        Ok(over.map_or_else(|why| Seen::NotYet(why.to_string()), Seen::Done))
    })
    .await?;
    all_are_served(subjects, clients, "the host is back").await?;
    still.over().await?;

    let report = clients.look().await?;
    let span = report.between(&from, &to)?;
    for (subject, there) in subjects.iter().zip(&there) {
        print_figures(&report, subject.name(), "no worker", span.clone())?;
        let tape = report.of(subject.name())?;
        let within = || tape.within(span.clone());
        ensure!(
            !within().any(|entry| there.asks(tape, entry)),
            "{}: a client on the host was answered",
            subject.name()
        );
        let mut its = within().filter(|entry| entry.how == Ended::Acknowledged && there.had(&entry.key));
        if subject.isolated
            && let Some(entry) = its.next()
        {
            anyhow::bail!("{}: {} was served from nowhere", subject.name(), entry.key);
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_while_the_operator_the_api_server_and_a_worker_are_away() -> anyhow::Result<()> {
    let environment = &Environment::from_variables().await?;
    with_temp_namespace(environment, "outages", |namespace| async move {
        prepare_bucket(environment, &namespace).await?;
        let host = hosts::dispensable(environment).await?;
        let clients = Clients::start(environment).await?;
        let subjects = subjects(environment, &namespace, &clients).await?;
        all_are_served(&subjects, &clients, "all is well").await?;
        operator_is_away(environment, &subjects, &clients).await?;
        api_server_is_away(environment, &subjects, &clients).await?;
        worker_is_away(environment, &subjects, &clients, &host).await?;
        println!("▸ what the clients were told");
        clients.judge("outages").await.map(drop)
    })
    .await
}
