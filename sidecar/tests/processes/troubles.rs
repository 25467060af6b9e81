//! The troubles, one kind each.

use std::time::Duration;

use brainy_coordination::names::CONTROLLER_ELECTION;
use rustix::process::Signal;

use super::cluster::{Cluster, Owners, Setup};
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
    /// No way from one node to one other, or none back, or neither.
    CutPair,
    /// kill -9 of the store; it comes back.
    StoreKilled,
    /// The store answers 503.
    StoreBusy,
    /// The store's disk is full.
    StoreFull,
    /// The clock on a node's wall is set, forth and back.
    ClockSet,
    /// The clocks on all walls differ while a node stands still for longer than its session, whose clock then goes back.
    ClocksApart,
}

impl Trouble {
    /// The cluster in which it is made.
    pub(crate) fn setup(self) -> Setup {
        let usual = Setup::default();
        match self {
            Self::StoreFull => Setup { small_disk: true, ..usual },
            // No session may end: not for a busy machine either.
            Self::ClockSet => Setup { wall_clocks: true, lease: usual.lease * 4, ..usual },
            Self::ClocksApart => Setup { wall_clocks: true, ..usual },
            _ => usual,
        }
    }

    /// Makes trouble and ends it. Fails if it did nothing. What was done.
    pub(crate) fn make(self, cluster: &mut Cluster, stands: &Owners, dice: &mut Dice) -> String {
        let victim = dice.below(cluster.nodes.len());
        let lease = cluster.lease();
        let short = dice.between(Duration::ZERO, lease);
        let long = dice.between(lease * 3 / 2, lease * 3);
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
            Self::CutPair => {
                // For less and for more than one waits for the other's answer.
                let longer = dice.between(lease * 3, lease * 5);
                let lasts = if dice.below(2) == 0 { short } else { longer };
                format!("{} for {lasts:?}", cut_pair(cluster, victim, lasts, dice))
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
                cluster.store.is_full_for(long);
                // Sessions could not be renewed.
                (0..cluster.nodes.len()).for_each(|node| changed_hands(cluster, stands, node));
                format!("no room for {long:?}")
            }
            Self::ClockSet => {
                let epoch = cluster.document(CONTROLLER_ELECTION)["epoch"].clone();
                let told = set_forth_and_back(cluster, victim, dice);
                // Nobody's session was over, and nobody's term.
                assert_eq!(cluster.settled(), *stands, "a clock on the wall was set, and shards changed hands: {told}");
                assert_eq!(cluster.document(CONTROLLER_ELECTION)["epoch"], epoch, "{told}, and the controller changed");
                told
            }
            Self::ClocksApart => {
                let mut aheads: Vec<i64> = (0..cluster.nodes.len())
                    .map(|_| if dice.below(2) == 0 { 1 } else { -1 } * pick_off(dice))
                    .collect();
                for (node, ahead) in aheads.iter().enumerate() {
                    set_clock(cluster, node, *ahead);
                }
                cluster.nodes[victim].signal(Signal::STOP);
                std::thread::sleep(long);
                // What it went by yesterday it must not believe to be fresh.
                aheads[victim] -= i64::try_from(long.as_secs()).unwrap() + HOUR;
                cluster.nodes[victim].wall_clock().set(aheads[victim]);
                cluster.nodes[victim].signal(Signal::CONT);
                changed_hands(cluster, stands, victim);
                shows(cluster, victim, aheads[victim]);
                (0..aheads.len()).for_each(|node| set_clock(cluster, node, 0));
                format!("clocks ahead by {aheads:?} s, node {victim} stood still for {long:?}")
            }
        }
    }
}

const HOUR: i64 = 3600;
/// How far a clock is off: less than what S3 allows for (a quarter of an hour), more, and what has nothing to do with the
/// time of day any more.
const OFF: [i64; 3] = [300, HOUR, 10 * 365 * 24 * HOUR];
/// By how much a clock has to be set for a store to refuse what is signed by it.
const REFUSED: i64 = 20 * 60;

fn pick_off(dice: &mut Dice) -> i64 {
    OFF[dice.below(OFF.len())]
}

/// Before the right time, and behind it, in turn; and right again.
fn set_forth_and_back(cluster: &Cluster, node: usize, dice: &mut Dice) -> String {
    let (before, behind) = (pick_off(dice), -pick_off(dice));
    let aheads = if dice.below(2) == 0 { [0, before, behind, 0] } else { [0, behind, before, 0] };
    for step in aheads.windows(2) {
        let forbidden = cluster.nodes[node].outward.forbidden();
        set_clock(cluster, node, step[1]);
        if (step[1] - step[0]).abs() > REFUSED {
            assert!(cluster.nodes[node].outward.forbidden() > forbidden, "the store minds no clock: {aheads:?}");
        }
        // A node renews three times in a session; the controller looks at what others have renewed when it renews its own.
        std::thread::sleep(cluster.lease() / 2);
    }
    format!("clock of node {node} ahead by {aheads:?} s in turn")
}

/// Sets a node's clock, and waits until it goes by it.
fn set_clock(cluster: &Cluster, node: usize, ahead: i64) {
    let clock = cluster.nodes[node].wall_clock();
    let told = clock.told();
    clock.set(ahead);
    shows(cluster, node, ahead);
    // Set by little, it showed that before.
    wait_for("it asks what time it is", || {
        (clock.told() > told).then_some(()).ok_or_else(|| format!("node {node} has not"))
    });
}

/// Waits until a node tells others a time that is so far ahead.
fn shows(cluster: &Cluster, node: usize, ahead: i64) {
    wait_for("a node goes by its clock", || {
        let told = cluster.expires(node).as_second() - jiff::Timestamp::now().as_second();
        // Less than between any two.
        if (told - ahead).abs() < 120 { Ok(()) } else { Err(format!("node {node} is ahead by {told} s, not {ahead}")) }
    });
}

/// No way between a node and another one: there, back, or both. What was done.
fn cut_pair(cluster: &Cluster, asks: usize, lasts: Duration, dice: &mut Dice) -> String {
    let count = cluster.nodes.len();
    let asked = (asks + 1 + dice.below(count - 1)) % count;
    let third = (0..count).find(|node| ![asks, asked].contains(node)).unwrap();
    let (there, back) = (&cluster.nodes[asked].inward, &cluster.nodes[asks].inward);
    let (told, ways) = match dice.below(3) {
        0 => ("neither asks the other", vec![(there, asks, Way::Cut), (back, asked, Way::Cut)]),
        1 => ("the first can't ask", vec![(there, asks, Way::Cut)]),
        _ => ("the first gets no answer", vec![(there, asks, Way::Unanswered)]),
    };
    let before: Vec<_> = ways.iter().map(|(link, node, _)| link.traffic_of(*node)).collect();
    ways.iter().for_each(|(link, node, way)| link.set_of(*node, *way));
    let others = there.traffic_of(third);
    std::thread::sleep(lasts);
    for ((link, node, _), before) in ways.iter().zip(before) {
        let is_missed = || link.traffic_of(*node).held > before.held;
        wait_for("one misses the other", || is_missed().then_some(()).ok_or("not yet".into()));
    }
    let passes = || there.traffic_of(third).passed > others.passed;
    wait_for("others get through", || passes().then_some(()).ok_or("not yet".into()));
    ways.iter().for_each(|(link, node, _)| link.set_of(*node, Way::Open));
    format!("nodes {asks} and {asked}: {told}")
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
