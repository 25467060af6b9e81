//! Two operators, of which one leads: what becomes of the leader that can't renew, and how soon another is there for one that is killed.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::time::{Instant, sleep};

use crate::cluster::{ControlPlane, OPERATORS, TOKEN};
use crate::dice::Dice;
use crate::operator::Operator;
use crate::proxy::Proxy;
use crate::scenarios::{ask, is_at_rest, read, spec};

const NAMESPACE: &str = "led";
const LEASE: &str = "leader";
/// A lease of five seconds, as the chart's values name it.
const SHORT: [&str; 3] = ["--lease-seconds=5", "--lease-call-seconds=2", "--lease-renew-seconds=1"];
/// What is waited for comes long before.
const LIMIT: Duration = Duration::from_secs(60);
/// Between looks.
const LOOK: Duration = Duration::from_millis(10);
/// How long it is seen that nothing comes any more.
const AFTERWARDS: Duration = Duration::from_secs(3);

/// The cluster as it is to be, in one of many ways: each is work for the operator.
fn wish(way: usize) -> Value {
    spec(json!({"coordination": {"placement": {"maxMoves": way + 1}}}))
}

/// Who leads: how its name in the Lease begins.
async fn holder(plane: &ControlPlane) -> Option<String> {
    let leases: Api<Lease> = Api::namespaced(plane.client.clone(), OPERATORS);
    leases.get_opt(LEASE).await.unwrap()?.spec?.holder_identity
}

async fn until<F: Future<Output = bool>>(what: &str, is_so: impl Fn() -> F) {
    let began = Instant::now();
    while !is_so().await {
        assert!(began.elapsed() < LIMIT, "not yet: {what}");
        sleep(LOOK).await;
    }
}

async fn leads(plane: &ControlPlane, operator: &Operator) -> bool {
    holder(plane).await.is_some_and(|holder| holder.starts_with(&operator.place()))
}

/// The operator has said something of the newest spec.
async fn is_followed(plane: &ControlPlane) -> bool {
    let cluster = read(plane, NAMESPACE).await.unwrap();
    cluster.status.and_then(|status| status.observed_generation) == cluster.metadata.generation
}

async fn rests(plane: &ControlPlane) -> bool {
    read(plane, NAMESPACE).await.is_some_and(|cluster| is_at_rest(&cluster))
}

#[test]
fn a_leader_that_can_t_renew_acts_no_more_before_another_begins() {
    Runtime::new().unwrap().block_on(async {
        let mut plane = ControlPlane::start().await;
        plane.namespace(NAMESPACE).await;
        let (first, second) = (Proxy::start(&plane, NAMESPACE).await, Proxy::start(&plane, NAMESPACE).await);
        let operator = |name, proxy: &Proxy| {
            Operator::candidate(name, LEASE, &SHORT, plane.folder(), proxy.address(), None, Some(NAMESPACE))
        };
        let (one, other) = (operator("one", &first), operator("other", &second));
        one.start();
        until("one leads", || leads(&plane, &one)).await;
        other.start();
        ask(&plane, NAMESPACE, Some(&wish(0))).await;
        until("the cluster is made", || rests(&plane)).await;

        // Only its election is cut off: whatever else it tried would succeed.
        first.hold_election();
        let held_at = first.writes().len();
        let mut way = 0;
        while !leads(&plane, &other).await {
            way += 1;
            ask(&plane, NAMESPACE, Some(&wish(way))).await;
            sleep(LOOK * 5).await;
        }
        let (last, began) = (first.writes(), Instant::now());
        assert!(last.len() > held_at, "it had work, and did it while it led");
        while began.elapsed() < AFTERWARDS {
            way += 1;
            ask(&plane, NAMESPACE, Some(&wish(way))).await;
            sleep(LOOK * 5).await;
            let now = first.writes();
            assert_eq!(now.len(), last.len(), "it acts while another leads: {now:?}");
        }
        until("the other follows the spec", || is_followed(&plane)).await;
        assert!(!second.writes().is_empty());
        plane.must_live();
    });
}

#[test]
#[ignore = "it measures: scripts/bench.sh operator"]
fn figures_of_takeovers() {
    let rounds: usize = std::env::var("BRAINY_BENCH_TAKEOVERS").map_or(10, |rounds| rounds.parse().unwrap());
    Runtime::new().unwrap().block_on(async {
        let mut plane = ControlPlane::start().await;
        plane.namespace(NAMESPACE).await;
        let server = plane.config.cluster_url.to_string();
        let operator =
            |name| Operator::candidate(name, LEASE, &SHORT, plane.folder(), &server, Some(TOKEN), Some(NAMESPACE));
        let operators = [operator("one"), operator("other")];
        operators.iter().for_each(Operator::start);
        ask(&plane, NAMESPACE, Some(&wish(0))).await;
        until("the cluster is made", || rests(&plane)).await;
        let (mut taken, mut acted) = (Vec::new(), Vec::new());
        let mut dice = Dice::new(1);
        for round in 1..=rounds {
            until("the cluster is at rest", || rests(&plane)).await;
            // At any moment between two renewals, and when the one that was started again has looked several times.
            sleep(Duration::from_millis(4000 + u64::try_from(dice.below(1000)).unwrap())).await;
            let leader = usize::from(!leads(&plane, &operators[0]).await);
            operators[leader].kill();
            let began = Instant::now();
            ask(&plane, NAMESPACE, Some(&wish(round))).await;
            until("the other leads", || leads(&plane, &operators[1 - leader])).await;
            taken.push(began.elapsed());
            until("the other follows the spec", || is_followed(&plane)).await;
            acted.push(began.elapsed());
            operators[leader].start();
        }
        for (what, mut took) in [("another leads", taken), ("it has acted on a spec that was changed meanwhile", acted)]
        {
            took.sort();
            let (p50, most) = (took[took.len() / 2].as_secs_f64(), took[took.len() - 1].as_secs_f64());
            println!(
                "lease of 5 s, kill -9 of the leader, {rounds} times: {what} after {p50:.2} s (p50), {most:.2} s (most)"
            );
        }
        plane.must_live();
    });
}
