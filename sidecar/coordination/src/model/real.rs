//! The decisions, asked of the code that ships: what a decision depends on is written out as records, leases and clocks,
//! and what the holder, the observer and the lease say of them is read back. The same question comes up in many states, so
//! answers are remembered.

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;
use std::thread::LocalKey;
use std::time::Duration;

use brainy_storage::documents::{DocumentVersion, Swap};

use super::Broken;
use super::state::{Holder, Known, Lease, Life, Session};
use crate::clock::{ManualClock, Validity};
use crate::lease::{HolderSession, ShardLease, Take, Taker, may_take, release};
use crate::session::holder::{self, Attempt, Identity, SessionHolder, Step, states};
use crate::session::observer::margin;
use crate::session::{Observer, Report, SessionRecord, SessionState};
use crate::{FencingToken, Incarnation, NodeId, ShardId};

/// One tick.
const TICK: Duration = Duration::from_secs(1);
/// How long a session lasts: two ticks, so that a renewal can lengthen it. The margin is one more.
const TTL: Duration = Duration::from_secs(2);
/// The same in ticks.
pub(super) const TICKS: u8 = 2;
/// Ticks after which it makes no difference for how long a record has stood, or a request been under way.
pub(super) const OLD: u8 = 3;
/// What all clocks show: only differences count.
const NOW: Duration = Duration::from_secs(1000);

/// The node that asks, and any other.
const ME: &str = "me";
const OTHER: &str = "other";

type Memory<K, V> = RefCell<HashMap<K, V>>;
type Rule = Option<Broken>;

fn remembered<K: Copy + Eq + Hash, V: Copy>(
    memory: &'static LocalKey<Memory<K, V>>,
    question: K,
    ask: impl Fn(K) -> V,
) -> V {
    memory.with_borrow_mut(|memory| *memory.entry(question).or_insert_with(|| ask(question)))
}

fn standing() -> DocumentVersion {
    DocumentVersion("standing".into())
}

fn incarnation(node: &str, life: Life) -> Incarnation {
    Incarnation { pod_uid: format!("{node}-{}", life & 1), start: u64::from(life >> 1), nonce: life.to_string() }
}

fn life_of(incarnation: &Incarnation) -> Life {
    incarnation.nonce.parse().unwrap()
}

fn record(node: &str, life: Life, live: bool) -> SessionRecord {
    SessionRecord {
        node: NodeId(node.into()),
        incarnation: incarnation(node, life),
        state: if live { SessionState::Live } else { SessionState::Ended },
        revision: 1,
        ttl_seconds: TTL.as_secs(),
        expires: String::new(),
        address: String::new(),
        map_revision: 0,
        leaving: false,
        holds: Vec::new(),
        received: Vec::new(),
        stored: Vec::new(),
        load: Vec::new(),
        requests: Default::default(),
        volume: None,
        regions: None,
        problem: None,
    }
}

fn found(node: &str, session: Session) -> Option<(SessionRecord, DocumentVersion)> {
    (session.life != 0).then(|| (record(node, session.life, session.live), standing()))
}

/// As it was written.
fn session_of(attempt: &Attempt) -> Session {
    let SessionRecord { incarnation, state, .. } = &attempt.record;
    Session { life: life_of(incarnation), live: *state == SessionState::Live, age: 0 }
}

fn write_out(node: Holder, session: Session, broken: Rule) -> SessionHolder {
    let identity = Identity {
        node: NodeId(ME.into()),
        pod_uid: incarnation(ME, node.pod).pod_uid,
        address: String::new(),
        ttl: TTL,
    };
    let clock = ManualClock::default();
    clock.advance(NOW);
    let clock = Arc::new(clock);
    let left = match broken {
        Some(Broken::GoesOnAfterALapse) => node.left.max(1),
        _ => node.left,
    };
    let life = (node.life != 0).then(|| holder::Life {
        incarnation: incarnation(ME, node.life),
        validity: Validity::new(Arc::clone(&clock) as _, NOW + TICK * u32::from(left)),
    });
    let known = match node.known {
        Known::Nothing => None,
        Known::Standing => found(ME, session),
        Known::Passed => Some((record(ME, node.life, true), DocumentVersion("passed".into()))),
    };
    let seen = (session.life != 0).then(|| (standing(), NOW - TICK * u32::from(session.age)));
    states::restored(identity, clock, life, known, seen)
}

/// `stands`: what it knows of its record, if anything, is what stands there.
fn read_back(node: Holder, holder: &SessionHolder, stands: bool) -> Holder {
    let life = holder.life();
    let known = match (states::knows_its_record(holder), stands) {
        (false, _) => Known::Nothing,
        (true, true) => Known::Standing,
        (true, false) => Known::Passed,
    };
    Holder {
        life: life.map_or(0, |life| life_of(&life.incarnation)),
        left: life.map_or(0, |life| u8::try_from(life.validity.remaining().as_secs()).unwrap()),
        known,
        ..node
    }
}

/// What a node writes to its session record: which life, and whether it can be applied.
type Written = Option<(Life, bool)>;

/// What a node writes to its session record now, if anything.
pub(super) fn session_step(node: Holder, session: Session, broken: Rule) -> (Holder, Written) {
    thread_local!(static MEMORY: Memory<(Holder, Session, Rule), (Holder, Written)> = RefCell::default());
    remembered(&MEMORY, (node, session, broken), |(node, session, broken)| {
        let mut holder = write_out(node, session, broken);
        let read = holder.needs_read().then(|| found(ME, session));
        let nonce = ((node.lives + 1) << 1) | node.pod;
        let step = holder.step(read, &Report::default(), &nonce.to_string(), "");
        let written = match step {
            Step::Wait(_) => None,
            Step::Write(attempt) => {
                let stands = attempt.expected == found(ME, session).map(|(_, version)| version);
                Some((session_of(&attempt).life, stands))
            }
        };
        (read_back(node, &holder, node.known == Known::Standing), written)
    })
}

/// An answer to a session's write, or that none came in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Heard {
    Applied { stands: bool },
    Refused,
    Nothing,
}

/// What a node makes of an answer to what it wrote `age` ticks ago.
pub(super) fn session_answered(node: Holder, (life, age): (Life, u8), heard: Heard, broken: Rule) -> Holder {
    thread_local!(static MEMORY: Memory<(Holder, Life, u8, Heard, Rule), Holder> = RefCell::default());
    remembered(&MEMORY, (node, life, age, heard, broken), |(node, life, age, heard, broken)| {
        // What stands there now plays no part in it.
        let mut holder = write_out(node, Session { life: node.life, live: true, age: 0 }, broken);
        let age = if broken == Some(Broken::CountsFromTheAnswer) { 0 } else { age };
        let attempt = states::sent(record(ME, life, true), None, NOW - TICK * u32::from(age));
        let (answer, stands) = match heard {
            Heard::Applied { stands } => (Swap::Applied(standing()), stands),
            Heard::Refused => (Swap::Rejected, false),
            Heard::Nothing => (Swap::Unknown(String::new()), false),
        };
        holder.answered(attempt, &Ok(answer));
        read_back(node, &holder, stands)
    })
}

/// What a node that stops in order writes to its record.
pub(super) fn session_end(node: Holder, session: Session) -> Option<Session> {
    thread_local!(static MEMORY: Memory<(Holder, Session), Option<Session>> = RefCell::default());
    remembered(&MEMORY, (node, session), |(node, session)| {
        let attempt = write_out(node, session, None).end(found(ME, session))?;
        Some(session_of(&attempt))
    })
}

/// Ends a session as everyone but its holder does, if it may be ended.
pub(super) fn end_of_another(session: Session, broken: Rule) -> Option<Session> {
    thread_local!(static MEMORY: Memory<(Session, Rule), Option<Session>> = RefCell::default());
    remembered(&MEMORY, (session, broken), |(session, broken)| {
        let (record, version) = found(OTHER, session)?;
        let ttl = match broken {
            // The wait is then as long as without one.
            Some(Broken::NoMargin) => TTL - margin(TTL),
            _ => TTL,
        };
        let age = if broken == Some(Broken::EndsTooEarly) { OLD } else { session.age };
        let mut observer = Observer::default();
        observer.expired(version.clone(), ttl, NOW - TICK * u32::from(age));
        let over = record.state == SessionState::Live && observer.expired(version, ttl, NOW);
        let ended = record.ended();
        let live = ended.state == SessionState::Live;
        over.then(|| Session { life: life_of(&ended.incarnation), live, age: 0 })
    })
}

/// A lease, as one node sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Seen {
    pub(super) lease: Lease,
    /// It is the node's own, of whichever life.
    pub(super) mine: bool,
    /// That of its owner.
    pub(super) session: Session,
}

fn shard_lease(lease: Lease, mine: bool) -> ShardLease {
    let owner = if mine { ME } else { OTHER };
    ShardLease {
        shard: ShardId(0),
        owner: lease.owner.map(|_| NodeId(owner.into())),
        incarnation: Some(incarnation(owner, lease.life)),
        token: FencingToken(lease.token.into()),
        revision: 1,
        since: String::new(),
        why: String::new(),
        origins: Vec::new(),
        surplus: Vec::new(),
    }
}

/// Whether a node may take a shard, and under which token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MayTake {
    Write(u8),
    Ours(u8),
    Wait,
}

/// Whether the present life of a node may take a shard.
pub(super) fn take(life: Life, seen: Option<Seen>, broken: Rule) -> MayTake {
    thread_local!(static MEMORY: Memory<(Life, Option<Seen>, Rule), MayTake> = RefCell::default());
    remembered(&MEMORY, (life, seen, broken), |(life, seen, broken)| {
        let lease = seen.map(|seen| shard_lease(seen.lease, seen.mine));
        let record = seen.filter(|seen| !seen.mine).and_then(|seen| found(OTHER, seen.session));
        let session = match &record {
            _ if broken == Some(Broken::TakesFromTheLiving) => HolderSession::Gone,
            Some((record, _)) => HolderSession::Found(record),
            None => HolderSession::Missing,
        };
        let (node, incarnation) = (NodeId(ME.into()), incarnation(ME, life));
        let taker = Taker { node: &node, incarnation: &incarnation, now: "" };
        let token = |token: FencingToken| u8::try_from(token.0).unwrap();
        match may_take(ShardId(0), lease.as_ref(), session, &taker) {
            Take::Wait(_) => MayTake::Wait,
            Take::Ours(of) => MayTake::Ours(token(of)),
            Take::Write(next) => {
                assert_eq!((next.owner.as_ref(), next.incarnation.as_ref()), (Some(&node), Some(&incarnation)));
                let raised = token(next.token);
                MayTake::Write(match broken {
                    Some(Broken::KeepsTheToken) => seen.map_or(raised, |seen| seen.lease.token),
                    _ => raised,
                })
            }
        }
    })
}

/// A lease marked free.
pub(super) fn released(lease: Lease) -> Lease {
    thread_local!(static MEMORY: Memory<Lease, Lease> = RefCell::default());
    remembered(&MEMORY, lease, |lease| {
        let free = release(&shard_lease(lease, true), "", "");
        // The life in a free lease is for people: whose it was makes no difference.
        Lease { owner: free.owner.and(lease.owner), life: 0, token: u8::try_from(free.token.0).unwrap() }
    })
}
