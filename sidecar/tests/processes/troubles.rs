//! The troubles, one kind each.

use std::time::Duration;

use rustix::process::Signal;

use super::cluster::{Cluster, LEASE, Owners};
use super::links::Way;
use super::support::{Dice, wait_for};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// kill -9 of one node; it comes back at once, or after its session is over.
    Kill,
    /// kill -9 of all nodes.
    KillAll,
    /// SIGSTOP for longer than a session, then SIGCONT.
    Stand,
    /// No way between a node and the store, for longer than a session.
    CutFromStore,
    /// No way from the others to a node.
    CutFromNodes,
    /// kill -9 of the store; it comes back.
    StoreKilled,
    /// The store answers 503.
    StoreBusy,
    /// The store's disk is full.
    StoreFull,
}

impl Trouble {
    /// Makes trouble and ends it. Fails if it did nothing. What was done.
    pub(crate) fn make(self, cluster: &mut Cluster, stands: &Owners, dice: &mut Dice) -> String {
        let victim = dice.below(cluster.nodes.len());
        let short = dice.between(Duration::ZERO, LEASE);
        let long = dice.between(LEASE * 3 / 2, LEASE * 3);
        match self {
            Self::Kill => {
                let lasts = if dice.below(2) == 0 { short } else { long };
                cluster.nodes[victim].kill();
                std::thread::sleep(lasts);
                cluster.nodes[victim].start();
                changed_hands(cluster, stands, victim);
                format!("node {victim} away for {lasts:?}")
            }
            Self::KillAll => {
                cluster.nodes.iter_mut().for_each(super::cluster::Node::kill);
                std::thread::sleep(short);
                cluster.nodes.iter_mut().for_each(super::cluster::Node::start);
                (0..cluster.nodes.len()).for_each(|node| changed_hands(cluster, stands, node));
                format!("all away for {short:?}")
            }
            Self::Stand => {
                cluster.nodes[victim].signal(Signal::STOP);
                std::thread::sleep(long);
                cluster.nodes[victim].signal(Signal::CONT);
                changed_hands(cluster, stands, victim);
                format!("node {victim} stood still for {long:?}")
            }
            Self::CutFromStore => {
                cluster.nodes[victim].outward.set(Way::Cut);
                std::thread::sleep(long);
                cluster.nodes[victim].outward.set(Way::Open);
                changed_hands(cluster, stands, victim);
                format!("node {victim} away from the store for {long:?}")
            }
            Self::CutFromNodes => {
                let link = cluster.nodes[victim].inward.clone();
                let held = link.held();
                link.set(Way::Cut);
                std::thread::sleep(short);
                wait_for("the others miss it", || (link.held() > held).then_some(()).ok_or("not yet".into()));
                link.set(Way::Open);
                format!("node {victim} out of reach for {short:?}")
            }
            Self::StoreKilled => {
                cluster.store.kill();
                let lasts = if dice.below(2) == 0 { short } else { long };
                std::thread::sleep(lasts);
                cluster.store.start_again();
                format!("the store away for {lasts:?}")
            }
            Self::StoreBusy => {
                let links: Vec<_> = cluster.nodes.iter().map(|node| node.outward.clone()).collect();
                let held: Vec<_> = links.iter().map(super::links::Link::held).collect();
                links.iter().for_each(|link| link.set(Way::Busy));
                std::thread::sleep(long);
                links.iter().for_each(|link| link.set(Way::Open));
                for (link, held) in links.iter().zip(held) {
                    assert!(link.held() > held, "a node did not ask the store in {long:?}");
                }
                format!("503 for {long:?}")
            }
            Self::StoreFull => {
                cluster.store.fill();
                std::thread::sleep(long);
                cluster.store.make_room();
                // Sessions could not be renewed.
                (0..cluster.nodes.len()).for_each(|node| changed_hands(cluster, stands, node));
                format!("no room for {long:?}")
            }
        }
    }
}

/// Waits until each shard that a node had is served under a higher token.
fn changed_hands(cluster: &Cluster, before: &Owners, node: usize) {
    let mut had = before.iter().filter(|(_, (owner, _))| *owner == node).peekable();
    assert!(had.peek().is_some(), "node {node} had no shard: {before:?}");
    let now = cluster.settled();
    for (shard, (_, token)) in had {
        assert!(now[shard].1 > *token, "nobody has taken shard {shard} from node {node}: {:?} and {token}", now[shard]);
    }
}
