//! Every state that sessions, leases and hand-offs can come to at a small size, visited one by one: three nodes and two
//! shards, with answers that are lost, requests that arrive late or twice, processes that pause, crash and start again, in
//! the pod before or in another, and a clock that runs slow. The simulation tries long histories; this leaves none out.
//!
//! What to do is decided by the code that ships, in `real`; what is modelled is who has sent what, and what has arrived
//! (`steps`). Each decision can be broken on purpose ([`Broken`]), and then a way into trouble is found.
//!
//! Not here: the controller (any node may take or leave any shard at any moment, whatever a map says), session records
//! that are deleted, two processes of one name at once.

mod real;
mod state;
mod steps;
#[cfg(test)]
mod tests;

use stateright::{Model, Property};

use self::state::{Cache, Holder, Known, NODES, Node, Process, SHARDS, Session, State, Tenure};
use self::steps::Step;

/// How much may happen. Between any two steps there may be a pause.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    nodes: usize,
    shards: usize,
    /// Ticks of the clocks. A session lasts two, and others wait for three.
    ticks: u8,
    /// Writes of session records: renewals and new lives.
    sessions: u8,
    /// Tries to take a shard.
    takes: u8,
    /// Writes by clients.
    writes: u8,
    /// Of any kind: a crash, a departure, an answer that does not come, a request that a proxy sends twice, a clock that
    /// leaves out a tick.
    troubles: u8,
}

/// One rule that is not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Broken {
    /// A node that has lapsed renews, and goes on with its shards (R8).
    GoesOnAfterALapse,
    /// The deadline counts from the answer (R2).
    CountsFromTheAnswer,
    /// Others wait for as long as a session lasts, and no longer (R1).
    NoMargin,
    /// A session is ended before anyone has waited (R1, R6).
    EndsTooEarly,
    /// A lease is taken whatever its holder's session says (R6).
    TakesFromTheLiving,
    /// An operation is acknowledged without a second look at the lease (R3).
    ChecksOnce,
    /// Values are written without a condition (R4).
    PutsBlindly,
    /// A take leaves the token as it was.
    KeepsTheToken,
    /// A release deletes the lease, and its token with it.
    DeletesTheLease,
    /// A take that was tried again is refused, and that is taken for a sign that the first had been applied.
    BelievesARetry,
    /// A new life goes on with the values that the one before it has kept (R8).
    KeepsTheCache,
    /// A shard is given away while operations are under way that may yet be acknowledged.
    LeavesBeforeItsOperations,
}

/// The protocol at one size.
#[derive(Clone, Copy, Debug)]
struct Protocol {
    bounds: Bounds,
    broken: Option<Broken>,
}

const ONE_OWNER: &str = "at most one node acknowledges operations of a shard";
const TOKENS_GROW: &str = "a shard's token never falls, and none is taken twice";
const NOTHING_LOST: &str = "what was acknowledged is in the store";
const NOTHING_STALE: &str = "an owner reads everything that was acknowledged";
const ENDED_IS_ENDED: &str = "a life whose session has ended acknowledges nothing";
/// What must hold in every state.
const INVARIANTS: [&str; 5] = [ONE_OWNER, TOKENS_GROW, NOTHING_LOST, NOTHING_STALE, ENDED_IS_ENDED];
/// Needs two writes.
const TWO_WRITE: &str = "two owners acknowledge a write each";

fn acknowledging(state: &State, shard: usize) -> impl Iterator<Item = (usize, &Node)> {
    state.nodes.iter().enumerate().filter(move |(_, node)| node.acknowledges(shard).is_some())
}

fn each_shard(holds: impl Fn(usize) -> bool) -> bool {
    (0..SHARDS).all(holds)
}

fn one_owner(state: &State) -> bool {
    each_shard(|shard| acknowledging(state, shard).count() <= 1)
}

fn nothing_lost(state: &State) -> bool {
    each_shard(|at| state.shards[at].acknowledged & !state.shards[at].value == 0)
}

fn nothing_stale(state: &State) -> bool {
    let reads_all = |shard: usize, node: &Node| match (node.work[shard].tenure, node.work[shard].cache) {
        (Tenure::Serving { .. }, Cache::Passed(value)) => state.shards[shard].acknowledged & !value == 0,
        _ => true,
    };
    each_shard(|shard| acknowledging(state, shard).all(|(_, node)| reads_all(shard, node)))
}

fn ended_is_ended(state: &State) -> bool {
    let live =
        |index: usize, node: &Node| state.sessions[index].live && state.sessions[index].life == node.session.life;
    !state.ended_acknowledged && each_shard(|shard| acknowledging(state, shard).all(|(index, node)| live(index, node)))
}

/// A shard is served that another life held, which was ended by others and has not noticed yet.
fn taken_over(state: &State) -> bool {
    let unaware = |(node, session): (&Node, &Session)| {
        node.session.life != 0 && node.session.life == session.life && !session.live
    };
    state.nodes.iter().zip(&state.sessions).any(unaware) && served_again(state)
}

fn served_again(state: &State) -> bool {
    !each_shard(|shard| acknowledging(state, shard).all(|(_, node)| node.acknowledges(shard) < Some(2)))
}

/// A shard is served by its second owner, and nothing has happened to anyone.
fn moved(state: &State) -> bool {
    let in_first_life =
        |node: &Node| node.process == Process::Absent || (node.session.lives == 1 && node.session.life != 0);
    state.used.troubles == 0 && state.nodes.iter().all(in_first_life) && served_again(state)
}

/// A shard is served by a life that is not its node's first.
fn started_again(state: &State) -> bool {
    !each_shard(|shard| acknowledging(state, shard).all(|(_, node)| node.session.life < 4))
}

/// Two owners have acknowledged one write each.
fn written_by_two(state: &State) -> bool {
    served_again(state) && state.shards.iter().any(|shard| shard.acknowledged.count_ones() >= 2)
}

/// A write took effect, and its client was told that nobody knows.
fn effect_unknown(state: &State) -> bool {
    let under_way = |at: usize| state.nodes.iter().any(|node| node.work[at].put.is_some());
    (0..SHARDS).any(|at| state.shards[at].value & !state.shards[at].acknowledged != 0 && !under_way(at))
}

impl Model for Protocol {
    type State = State;
    type Action = Step;

    /// Every node has just begun its first life, and nobody has taken anything.
    fn init_states(&self) -> Vec<State> {
        let mut state = State::default();
        for index in NODES - self.bounds.nodes..NODES {
            let life = 2;
            state.sessions[index] = Session { life, live: true, age: 0 };
            let session = Holder { pod: 0, lives: 1, life, left: real::TICKS, known: Known::Standing };
            state.nodes[index] = Node { process: Process::Up, session, ..Node::default() };
        }
        state.shards[SHARDS - self.bounds.shards..].iter_mut().for_each(|shard| shard.exists = true);
        vec![state.canonical()]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        steps::all(state, steps);
    }

    fn next_state(&self, state: &State, step: Step) -> Option<State> {
        let next = steps::taken(state.clone(), step, &self.bounds, self.broken)?.canonical();
        (next != *state).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(ONE_OWNER, |_, state| one_owner(state)),
            Property::always(TOKENS_GROW, |_, state: &State| !state.token_fell),
            Property::always(NOTHING_LOST, |_, state| nothing_lost(state)),
            Property::always(NOTHING_STALE, |_, state| nothing_stale(state)),
            Property::always(ENDED_IS_ENDED, |_, state| ended_is_ended(state)),
            // Without these the others would say little.
            Property::sometimes("a shard is taken over from a life that does not know it yet", |_, state| {
                taken_over(state)
            }),
            Property::sometimes("a shard moves in order", |_, state| moved(state)),
            Property::sometimes("a shard is served by a second life", |_, state| started_again(state)),
            Property::sometimes(TWO_WRITE, |_, state| written_by_two(state)),
            Property::sometimes("a write takes effect, and nobody is told", |_, state| effect_unknown(state)),
        ]
    }
}
