//! What a seed says of a cluster, and of the trouble that it is in for.

use std::time::Duration;

use brainy_coordination::session::observer::margin;

use crate::host::simulated::Dice;

/// Kinds of trouble. Each seed leaves some out, so that the others come up more often and undisturbed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// A container is killed, and started again in the same pod.
    Crash,
    /// A pod is lost, and another one made for the node.
    Replace,
    /// A process stands still.
    Stand,
    /// A process is killed, or stands still, at the very moment in which a write of its arrives at the store.
    Trap,
    /// The answer to a renewal comes late, and nothing more of the process reaches the store.
    LastRenewal,
    /// No way between a process and the store, in one direction or both.
    CutStore,
    /// No way from one node to another.
    CutNodes,
    /// The store is slow, busy and forgetful.
    Storm,
    /// A node is no longer wanted, and wanted again later.
    Unwant,
    /// A node is stopped in order, and started again.
    Drain,
    /// Somebody sets a clock on a wall.
    SetWall,
}

const TROUBLES: [Trouble; 11] = [
    Trouble::Crash,
    Trouble::Replace,
    Trouble::Stand,
    Trouble::Trap,
    Trouble::LastRenewal,
    Trouble::CutStore,
    Trouble::CutNodes,
    Trouble::Storm,
    Trouble::Unwant,
    Trouble::Drain,
    Trouble::SetWall,
];

/// How the store and the network treat a request, in thousandths.
#[derive(Clone, Copy, Debug)]
pub(super) struct Weather {
    /// Lost on its way there, or back.
    pub(super) lost: u32,
    /// Takes seconds.
    pub(super) slow: u32,
    /// Turned away: 409 or 503, nothing written.
    pub(super) refused: u32,
    /// Answered with 500, before or after it took effect.
    pub(super) failed: u32,
    /// Arrives once more, later.
    pub(super) twice: u32,
    /// A write of a value that arrives long after its sender has given it up.
    pub(super) belated: u32,
    /// Longest time of a way.
    pub(super) way: Duration,
    /// Longest time of a slow one.
    pub(super) slow_way: Duration,
}

/// Where data is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Data {
    /// On volumes.
    Isolated,
    /// In a bucket, below a namespace of each node.
    Namespaced,
    /// In a bucket, each shard at one place.
    Shared,
}

/// A cluster and its time.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) data: Data,
    pub(super) nodes: usize,
    pub(super) shards: u32,
    pub(super) controllers: usize,
    pub(super) clients: usize,
    pub(super) ttl: Duration,
    pub(super) renew: Duration,
    /// How long trouble is made.
    pub(super) trouble_lasts: Duration,
    /// Between two troubles, about.
    pub(super) pace: Duration,
    /// Between two operations of a client, about.
    pub(super) think: Duration,
    /// Between two looks of a controller, about.
    pub(super) attention: Duration,
    pub(super) troubles: Vec<Trouble>,
    /// Between two wishes of nodes for other shards, about; `None`: they have none.
    pub(super) wishes: Option<Duration>,
    pub(super) fair: Weather,
    pub(super) storm: Weather,
}

impl Plan {
    pub(super) fn new(dice: &mut Dice) -> Self {
        let seconds = [2, 5, 10, 10][dice.below(4)];
        let ttl = Duration::from_secs(seconds);
        let mut troubles: Vec<Trouble> = TROUBLES.into_iter().filter(|_| dice.below(5) < 3).collect();
        if troubles.is_empty() {
            troubles.push(TROUBLES[dice.below(TROUBLES.len())]);
        }
        let way = Duration::from_millis([2, 10, 50][dice.below(3)]);
        let gentle = dice.below(3) == 0;
        let some = |dice: &mut Dice, most: usize| if gentle { 0 } else { dice.below(most) as u32 };
        let fair = Weather {
            lost: some(dice, 30),
            slow: some(dice, 30),
            refused: some(dice, 50),
            failed: some(dice, 30),
            twice: some(dice, 100),
            belated: some(dice, 40),
            way,
            slow_way: ttl,
        };
        let storm = Weather {
            lost: 150,
            slow: 150,
            refused: 200,
            failed: 150,
            twice: 300,
            belated: 100,
            way: way * 4,
            slow_way: ttl * 2,
        };
        let trouble_lasts = ttl * 5 + Duration::from_secs(5);
        let mut plan = Self {
            data: [Data::Isolated, Data::Namespaced, Data::Shared][dice.below(3)],
            nodes: [3, 3, 3, 4, 4, 5, 7][dice.below(7)],
            shards: 2 + dice.below(4) as u32,
            controllers: 1 + dice.below(2),
            clients: 2 + dice.below(3),
            ttl,
            renew: ttl / (3 + dice.below(2) as u32),
            trouble_lasts,
            pace: trouble_lasts / (4 + dice.below(12) as u32),
            think: trouble_lasts / (25 + dice.below(60) as u32),
            attention: ttl / [4, 10, 40][dice.below(3)],
            troubles,
            wishes: None,
            fair,
            storm,
        };
        plan.wishes = (dice.below(2) == 0).then(|| trouble_lasts / (4 + dice.below(20) as u32));
        plan
    }

    /// Longest time from the end of all trouble until every shard is served: a session that nobody renews lapses on the
    /// clock of an observer that begins to look only now; a call that was lost before is given up; then come the map, the
    /// leases, and a pause before each.
    pub(super) fn bound(&self) -> Duration {
        let served = (self.ttl + margin(self.ttl)) * 6 / 5 + self.call_limit() + self.renew + Duration::from_secs(4);
        match self.data {
            // Shards that move are copied, and each step of a move is told by a session and seen in a map.
            Data::Isolated => served + self.renew * 4 * self.shards,
            // What there is to copy is, after a pause that has grown, and cleared away twice.
            Data::Namespaced => served + self.latest() + Duration::from_secs(60),
            Data::Shared => served,
        }
    }

    /// Until what earlier tenures have left is cleared away again (Namespaced).
    pub(super) fn latest(&self) -> Duration {
        self.ttl
    }

    /// Longest wait for the store, as that of the bucket's client.
    pub(super) fn store_limit(&self) -> Duration {
        (self.ttl / 3).max(Duration::from_secs(1))
    }

    /// Longest wait for one call of the runtime.
    pub(super) fn call_limit(&self) -> Duration {
        Duration::from_secs(10)
    }
}
