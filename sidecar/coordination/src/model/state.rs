//! What the model remembers. Of versions only one thing matters: whether what someone knows is the version that stands.
//! Versions never repeat (R5), so one that has passed never comes back. Of time only what is left of a session, and for
//! how long its record has stood. So the states are few, though renewals and ticks go on for ever.

use super::real;

pub(super) const NODES: usize = 3;
pub(super) const SHARDS: usize = 2;

/// Which life of a node, and in its lowest bit, of which of two pods. 0: none.
pub(super) type Life = u8;

/// A node's session record. Life 0: there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Session {
    pub(super) life: Life,
    pub(super) live: bool,
    /// For how many ticks it has stood unchanged, on the clock of an observer that never looks away.
    pub(super) age: u8,
}

/// A shard's lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Lease {
    pub(super) owner: Option<u8>,
    pub(super) life: Life,
    pub(super) token: u8,
}

/// What the store has of a shard. Of a value the writes that it comprises, a bit for each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Shard {
    pub(super) exists: bool,
    pub(super) lease: Option<Lease>,
    pub(super) value: u8,
    /// The writes that clients were told of.
    pub(super) acknowledged: u8,
    /// The highest token that ever stood in the lease.
    pub(super) highest: u8,
}

/// How a conditional write is doing. One whose condition can't hold any more is refused, whenever it arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Call {
    Sent,
    Applied { stands: bool },
    Refused,
}

impl Call {
    /// Something else was written there.
    pub(super) fn passed(&mut self) {
        *self = match *self {
            Self::Sent | Self::Refused => Self::Refused,
            Self::Applied { .. } => Self::Applied { stands: false },
        };
    }
}

/// A write of the session record under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Renewal {
    pub(super) life: Life,
    /// Ticks since it was sent, on the node's clock.
    pub(super) age: u8,
    pub(super) call: Call,
}

/// A write of a lease under way: a take, or a release.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct LeaseCall {
    pub(super) takes: bool,
    pub(super) token: u8,
    pub(super) call: Call,
}

/// A client's write under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Put {
    pub(super) bit: u8,
    pub(super) value: u8,
    pub(super) call: Call,
}

/// What a node knows of its own record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Known {
    #[default]
    Nothing,
    Standing,
    Passed,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Tenure {
    #[default]
    Idle,
    /// `stands`: the lease is at the version that the node knows.
    Serving { token: u8, stands: bool },
    /// Lets nothing in; `over`: nothing is acknowledged any more either.
    Stopping { token: u8, stands: bool, over: bool },
}

/// The value that an owner keeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Cache {
    #[default]
    Cold,
    /// The one that stands.
    Standing,
    /// An older one.
    Passed(u8),
}

/// A node's work on a shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Work {
    pub(super) tenure: Tenure,
    pub(super) call: Option<LeaseCall>,
    /// A try to take it whose outcome is not known; whether the version before it still stands.
    pub(super) unresolved: Option<bool>,
    pub(super) cache: Cache,
    pub(super) put: Option<Put>,
}

impl Work {
    /// Under which token an operation that is under way would be acknowledged, while the session holds.
    pub(super) fn acknowledges(&self) -> Option<u8> {
        match self.tenure {
            Tenure::Serving { token, .. } | Tenure::Stopping { token, over: false, .. } => Some(token),
            Tenure::Idle | Tenure::Stopping { over: true, .. } => None,
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Process {
    /// There is no such node.
    #[default]
    Absent,
    Down,
    Up,
}

/// A node's own side of its session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Holder {
    pub(super) pod: u8,
    /// Lives it has tried to begin.
    pub(super) lives: u8,
    /// The present one; 0: none.
    pub(super) life: Life,
    /// Ticks that are left of it, on the node's clock.
    pub(super) left: u8,
    pub(super) known: Known,
}

/// A node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Node {
    pub(super) process: Process,
    pub(super) session: Holder,
    pub(super) renewal: Option<Renewal>,
    pub(super) work: [Work; SHARDS],
}

impl Node {
    pub(super) fn is_valid(&self) -> bool {
        self.process == Process::Up && self.session.life != 0 && self.session.left > 0
    }

    /// It has just been renewed, as far as the node knows.
    pub(super) fn is_fresh(&self) -> bool {
        self.is_valid() && self.session.left == real::TICKS && self.session.known != Known::Nothing
    }

    /// Under which token it would acknowledge an operation of a shard now.
    pub(super) fn acknowledges(&self, shard: usize) -> Option<u8> {
        self.work[shard].acknowledges().filter(|_| self.is_valid())
    }
}

/// A request that nobody waits for any more, and that may still take effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Late {
    Renewal { node: u8, life: Life },
    Lease { node: u8, shard: u8, life: Life, takes: bool, token: u8 },
    Put { shard: u8, value: u8 },
}

/// What has been used up of the bounds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Used {
    pub(super) ticks: u8,
    pub(super) sessions: u8,
    pub(super) takes: u8,
    pub(super) writes: u8,
    pub(super) troubles: u8,
    /// A clock has left out a tick. More than one in the time of a session and its margin is more than any clock does.
    pub(super) slow: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct State {
    pub(super) sessions: [Session; NODES],
    pub(super) shards: [Shard; SHARDS],
    pub(super) nodes: [Node; NODES],
    pub(super) late: Vec<Late>,
    pub(super) used: Used,
    /// A token fell, or had two owners.
    pub(super) token_fell: bool,
    /// Something was acknowledged under a life whose record says that it is over.
    pub(super) ended_acknowledged: bool,
}

impl State {
    /// A session record is written.
    pub(super) fn write_session(&mut self, node: usize, session: Session) {
        let writer = &mut self.nodes[node];
        if writer.session.known == Known::Standing {
            writer.session.known = Known::Passed;
        }
        if let Some(renewal) = &mut writer.renewal {
            renewal.call.passed();
        }
        self.late.retain(|late| !matches!(late, Late::Renewal { node: of, .. } if usize::from(*of) == node));
        self.sessions[node] = session;
    }

    /// A lease is written.
    pub(super) fn write_lease(&mut self, shard: usize, lease: Option<Lease>) {
        for node in &mut self.nodes {
            let work = &mut node.work[shard];
            if let Tenure::Serving { stands, .. } | Tenure::Stopping { stands, .. } = &mut work.tenure {
                *stands = false;
            }
            work.unresolved = work.unresolved.map(|_| false);
            if let Some(call) = &mut work.call {
                call.call.passed();
            }
        }
        self.late.retain(|late| !matches!(late, Late::Lease { shard: of, .. } if usize::from(*of) == shard));
        self.shards[shard].lease = lease;
    }

    /// A value is written. `blindly`: those under way do not lose their condition by it.
    pub(super) fn write_value(&mut self, shard: usize, value: u8, blindly: bool) {
        let before = self.shards[shard].value;
        for node in &mut self.nodes {
            let work = &mut node.work[shard];
            if work.cache == Cache::Standing {
                work.cache = Cache::Passed(before);
            }
            if let Some(put) = &mut work.put
                && !(blindly && put.call == Call::Sent)
            {
                put.call.passed();
            }
        }
        self.late.retain(|late| blindly || !matches!(late, Late::Put { shard: of, .. } if usize::from(*of) == shard));
        self.shards[shard].value = value;
    }

    /// Nobody waits any more for what a node has sent about a shard in one of its lives.
    pub(super) fn orphan(&mut self, node: usize, shard: usize, life: Life) {
        let of = u8::try_from(shard).unwrap();
        let work = &mut self.nodes[node].work[shard];
        if let Some(LeaseCall { takes, token, call: Call::Sent }) = work.call.take() {
            self.late.push(Late::Lease { node: u8::try_from(node).unwrap(), shard: of, life, takes, token });
        }
        self.orphan_put(node, shard);
    }

    pub(super) fn orphan_put(&mut self, node: usize, shard: usize) {
        if let Some(Put { value, call: Call::Sent, .. }) = self.nodes[node].work[shard].put.take() {
            self.late.push(Late::Put { shard: u8::try_from(shard).unwrap(), value });
        }
    }

    /// Nodes are alike, and so are shards: of all states that are the same but for their names, the first.
    pub(super) fn canonical(mut self) -> Self {
        self.late.sort_unstable();
        let mut mirrored = self.clone();
        mirrored.swap_shards();
        self.sort_nodes();
        mirrored.sort_nodes();
        self.min(mirrored)
    }

    fn swap_shards(&mut self) {
        self.shards.swap(0, 1);
        self.nodes.iter_mut().for_each(|node| node.work.swap(0, 1));
        for late in &mut self.late {
            if let Late::Lease { shard, .. } | Late::Put { shard, .. } = late {
                *shard = 1 - *shard;
            }
        }
        self.late.sort_unstable();
    }

    /// By all that is known of each: two that are equal in that are equal in everything.
    fn sort_nodes(&mut self) {
        let key = |state: &Self, node: u8| {
            let index = usize::from(node);
            let owns = state.shards.map(|shard| shard.lease.is_some_and(|lease| lease.owner == Some(node)));
            let mine = |late: &&Late| match late {
                Late::Renewal { node: of, .. } | Late::Lease { node: of, .. } => *of == node,
                Late::Put { .. } => false,
            };
            let nameless = |late: &Late| match *late {
                Late::Renewal { life, .. } => Late::Renewal { node: 0, life },
                Late::Lease { shard, life, takes, token, .. } => Late::Lease { node: 0, shard, life, takes, token },
                put @ Late::Put { .. } => put,
            };
            let late: Vec<Late> = state.late.iter().filter(mine).map(nameless).collect();
            (state.nodes[index], state.sessions[index], owns, late)
        };
        let mut order = [0u8, 1, 2];
        order.sort_by_key(|node| key(self, *node));
        if order == [0, 1, 2] {
            return;
        }
        let renamed = |node: u8| (0u8..).zip(order).find(|(_, before)| *before == node).unwrap().0;
        self.nodes = order.map(|before| self.nodes[usize::from(before)]);
        self.sessions = order.map(|before| self.sessions[usize::from(before)]);
        for shard in &mut self.shards {
            if let Some(lease) = &mut shard.lease {
                lease.owner = lease.owner.map(renamed);
            }
        }
        for late in &mut self.late {
            if let Late::Renewal { node, .. } | Late::Lease { node, .. } = late {
                *node = renamed(*node);
            }
        }
        self.late.sort_unstable();
    }
}
