//! What can happen next, and what comes of it. The map is a wish, and any node may have seen any map: so a node takes and
//! gives away whatever it likes, whenever it may.

use super::real::{self, Heard, MayTake, OLD, Seen, TICKS};
use super::state::{
    Cache, Call, Holder, Late, Lease, LeaseCall, Life, NODES, Process, Put, Renewal, SHARDS, Session, State, Tenure,
    Work,
};
use super::{Bounds, Broken};

/// One step. A pause, of any length, is whatever others do between two steps of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Time passes, on all clocks but that of one node, which runs slow.
    Tick {
        but: Option<usize>,
    },
    /// The node looks at its session, and sends what it has to write.
    Session(usize),
    SessionArrives(usize),
    /// It takes effect, and is sent on again by a proxy: the answer is that of the second time.
    SessionArrivesTwice(usize),
    SessionAnswered(usize),
    /// No answer comes in time. The request may yet arrive.
    SessionLost(usize),
    /// Someone who has waited long enough ends a node's session.
    End(usize),
    /// The node looks at a lease, and sends a write if it may take it.
    Take(usize, usize),
    /// Lets nothing more in. What is under way may still end.
    Stop(usize, usize),
    /// Marks the lease free. What is still under way can't be acknowledged any more.
    Release(usize, usize),
    LeaseArrives(usize, usize),
    LeaseArrivesTwice(usize, usize),
    LeaseAnswered(usize, usize),
    LeaseLost(usize, usize),
    /// A client's write, on what the owner keeps, or else has just loaded.
    Put(usize, usize),
    PutArrives(usize, usize),
    PutAnswered(usize, usize),
    PutLost(usize, usize),
    /// A request arrives that nobody waits for any more.
    Late(usize),
    Crash(usize),
    /// The node ends its own session, and is gone.
    Leave(usize),
    /// A process starts, in the pod before it or in another.
    Start(usize, bool),
}

/// All that may be tried. What changes nothing is no step.
pub(super) fn all(state: &State, steps: &mut Vec<Step>) {
    steps.push(Step::Tick { but: None });
    for node in 0..NODES {
        match state.nodes[node].process {
            Process::Absent => {}
            Process::Down => steps.extend([Step::Start(node, false), Step::Start(node, true), Step::End(node)]),
            Process::Up => {
                steps.push(Step::Tick { but: Some(node) });
                match state.nodes[node].renewal.map(|renewal| renewal.call) {
                    // A session that is as long as it can be gains nothing by a renewal.
                    None if !state.nodes[node].is_fresh() => steps.push(Step::Session(node)),
                    None => {}
                    Some(Call::Sent) => steps.extend([
                        Step::SessionArrives(node),
                        Step::SessionArrivesTwice(node),
                        Step::SessionLost(node),
                    ]),
                    Some(Call::Applied { .. } | Call::Refused) => {
                        steps.extend([Step::SessionAnswered(node), Step::SessionLost(node)]);
                    }
                }
                steps.extend([Step::End(node), Step::Crash(node), Step::Leave(node)]);
                for shard in (0..SHARDS).filter(|shard| state.shards[*shard].exists) {
                    on_a_shard(state, node, shard, steps);
                }
            }
        }
    }
    steps.extend((0..state.late.len()).map(Step::Late));
}

fn on_a_shard(state: &State, node: usize, shard: usize, steps: &mut Vec<Step>) {
    let work = &state.nodes[node].work[shard];
    match work.call.map(|call| call.call) {
        None => steps.extend([Step::Take(node, shard), Step::Stop(node, shard), Step::Release(node, shard)]),
        Some(Call::Sent) => steps.extend([
            Step::LeaseArrives(node, shard),
            Step::LeaseArrivesTwice(node, shard),
            Step::LeaseLost(node, shard),
        ]),
        Some(Call::Applied { .. } | Call::Refused) => {
            steps.extend([Step::LeaseAnswered(node, shard), Step::LeaseLost(node, shard)]);
        }
    }
    match work.put.map(|put| put.call) {
        None => steps.push(Step::Put(node, shard)),
        Some(Call::Sent) => steps.extend([Step::PutArrives(node, shard), Step::PutLost(node, shard)]),
        Some(Call::Applied { .. } | Call::Refused) => {
            steps.extend([Step::PutAnswered(node, shard), Step::PutLost(node, shard)]);
        }
    }
}

/// One step taken. `None`: it is none here.
pub(super) fn taken(mut state: State, step: Step, bounds: &Bounds, broken: Option<Broken>) -> Option<State> {
    let next = Taking { state: &mut state, bounds, broken };
    next.take(step)?;
    Some(state)
}

struct Taking<'a> {
    state: &'a mut State,
    bounds: &'a Bounds,
    broken: Option<Broken>,
}

/// One more, if the bound allows it.
fn one_more(used: &mut u8, most: u8) -> Option<()> {
    *used += 1;
    (*used <= most).then_some(())
}

impl Taking<'_> {
    fn take(mut self, step: Step) -> Option<()> {
        match step {
            Step::Tick { but } => self.tick(but),
            Step::Session(node) => self.session(node),
            Step::SessionArrives(node) => self.session_arrives(node),
            Step::SessionArrivesTwice(node) => {
                self.trouble()?;
                self.session_arrives(node)?;
                self.state.nodes[node].renewal.as_mut()?.call = Call::Refused;
                Some(())
            }
            Step::SessionAnswered(node) => self.session_answered(node, false),
            Step::SessionLost(node) => {
                self.trouble()?;
                self.session_answered(node, true)
            }
            Step::End(node) => {
                let ended = real::end_of_another(self.state.sessions[node], self.broken)?;
                self.state.write_session(node, ended);
                Some(())
            }
            Step::Take(node, shard) => self.take_shard(node, shard),
            Step::Stop(node, shard) => self.stop(node, shard),
            Step::Release(node, shard) => self.release(node, shard),
            Step::LeaseArrives(node, shard) => self.lease_arrives(node, shard),
            Step::LeaseArrivesTwice(node, shard) => {
                self.trouble()?;
                self.lease_arrives(node, shard)?;
                self.state.nodes[node].work[shard].call.as_mut()?.call = Call::Refused;
                Some(())
            }
            Step::LeaseAnswered(node, shard) => self.lease_answered(node, shard),
            Step::LeaseLost(node, shard) => {
                self.trouble()?;
                self.lease_lost(node, shard)
            }
            Step::Put(node, shard) => self.put(node, shard),
            Step::PutArrives(node, shard) => self.put_arrives(node, shard),
            Step::PutAnswered(node, shard) => self.put_answered(node, shard),
            Step::PutLost(node, shard) => {
                self.trouble()?;
                self.state.orphan_put(node, shard);
                self.state.nodes[node].work[shard].cache = Cache::Cold;
                Some(())
            }
            Step::Late(which) => self.late(which),
            Step::Crash(node) => {
                self.trouble()?;
                self.gone(node)
            }
            Step::Leave(node) => {
                self.trouble()?;
                let ended = real::session_end(self.state.nodes[node].session, self.state.sessions[node])?;
                self.state.write_session(node, ended);
                self.gone(node)
            }
            Step::Start(node, elsewhere) => {
                let node = &mut self.state.nodes[node];
                node.process = Process::Up;
                node.session.pod ^= u8::from(elsewhere);
                Some(())
            }
        }
    }

    fn trouble(&mut self) -> Option<()> {
        one_more(&mut self.state.used.troubles, self.bounds.troubles)
    }

    fn tick(&mut self, but: Option<usize>) -> Option<()> {
        one_more(&mut self.state.used.ticks, self.bounds.ticks)?;
        if but.is_some() {
            self.trouble()?;
            if std::mem::replace(&mut self.state.used.slow, true) {
                return None;
            }
        }
        for (index, node) in self.state.nodes.iter_mut().enumerate() {
            if but == Some(index) {
                continue;
            }
            node.session.left = node.session.left.saturating_sub(1);
            if let Some(renewal) = &mut node.renewal {
                renewal.age = (renewal.age + 1).min(TICKS);
            }
        }
        for session in self.state.sessions.iter_mut().filter(|session| session.live) {
            session.age = (session.age + 1).min(OLD);
        }
        Some(())
    }

    /// The node has no process any more.
    fn gone(&mut self, node: usize) -> Option<()> {
        if let Some(Renewal { life, call: Call::Sent, .. }) = self.state.nodes[node].renewal.take() {
            self.state.late.push(Late::Renewal { node: u8::try_from(node).ok()?, life });
        }
        self.drop_all(node, self.state.nodes[node].session.life);
        let node = &mut self.state.nodes[node];
        node.process = Process::Down;
        node.session = Holder { pod: node.session.pod, lives: node.session.lives, ..Holder::default() };
        Some(())
    }

    /// The life that took them is over: nothing is the node's any more (R8).
    fn drop_all(&mut self, node: usize, life: Life) {
        for shard in 0..SHARDS {
            self.state.orphan(node, shard, life);
            let work = &mut self.state.nodes[node].work[shard];
            let cache = if self.broken == Some(Broken::KeepsTheCache) { work.cache } else { Cache::Cold };
            *work = Work { cache, ..Work::default() };
        }
    }

    /// The holder has come to a verdict on its life.
    fn follow(&mut self, node: usize, verdict: Holder) {
        let before = std::mem::replace(&mut self.state.nodes[node].session, verdict).life;
        if before != 0 && verdict.life != before {
            self.drop_all(node, before);
        }
    }

    fn session(&mut self, node: usize) -> Option<()> {
        let before = self.state.nodes[node].session;
        let (verdict, written) = real::session_step(before, self.state.sessions[node], self.broken);
        self.follow(node, verdict);
        let Some((life, stands)) = written else {
            return (before != verdict).then_some(());
        };
        one_more(&mut self.state.used.sessions, self.bounds.sessions)?;
        let writer = &mut self.state.nodes[node];
        writer.session.lives += u8::from(life != verdict.life);
        writer.renewal = Some(Renewal { life, age: 0, call: if stands { Call::Sent } else { Call::Refused } });
        Some(())
    }

    fn session_arrives(&mut self, node: usize) -> Option<()> {
        let mut renewal = self.state.nodes[node].renewal.take()?;
        self.state.write_session(node, Session { life: renewal.life, live: true, age: 0 });
        renewal.call = Call::Applied { stands: true };
        self.state.nodes[node].renewal = Some(renewal);
        Some(())
    }

    fn session_answered(&mut self, node: usize, lost: bool) -> Option<()> {
        let Renewal { life, age, call } = self.state.nodes[node].renewal.take()?;
        if lost && call == Call::Sent {
            self.state.late.push(Late::Renewal { node: u8::try_from(node).ok()?, life });
        }
        let heard = match call {
            _ if lost => Heard::Nothing,
            Call::Applied { stands } => Heard::Applied { stands },
            Call::Sent | Call::Refused => Heard::Refused,
        };
        let verdict = real::session_answered(self.state.nodes[node].session, (life, age), heard, self.broken);
        self.follow(node, verdict);
        Some(())
    }

    fn take_shard(&mut self, node: usize, shard: usize) -> Option<()> {
        let taker = &mut self.state.nodes[node];
        if !taker.is_valid() || taker.work[shard].tenure != Tenure::Idle {
            return None;
        }
        let before = taker.work[shard].unresolved;
        if before == Some(false) {
            taker.work[shard].unresolved = None;
        }
        let life = taker.session.life;
        let seen = self.state.shards[shard].lease.map(|lease| Seen {
            lease,
            mine: lease.owner.map(usize::from) == Some(node),
            session: lease.owner.map_or(Session::default(), |owner| self.state.sessions[usize::from(owner)]),
        });
        match real::take(life, seen, self.broken) {
            MayTake::Wait => before.filter(|stands| !stands).map(drop),
            MayTake::Ours(token) => {
                self.state.nodes[node].work[shard].tenure = Tenure::Serving { token, stands: true };
                Some(())
            }
            MayTake::Write(token) => {
                let call = LeaseCall { takes: true, token, call: Call::Sent };
                self.state.nodes[node].work[shard].call = Some(call);
                one_more(&mut self.state.used.takes, self.bounds.takes)
            }
        }
    }

    fn stop(&mut self, node: usize, shard: usize) -> Option<()> {
        let stopper = &mut self.state.nodes[node];
        let work = &mut stopper.work[shard];
        match work.tenure {
            // Where nothing is under way, a release is all there is to it.
            Tenure::Serving { token, stands } if work.put.is_some() => {
                work.tenure = Tenure::Stopping { token, stands, over: false };
                Some(())
            }
            _ => None,
        }
    }

    fn release(&mut self, node: usize, shard: usize) -> Option<()> {
        let owner = &mut self.state.nodes[node];
        if !owner.is_valid() {
            return None;
        }
        let work = &mut owner.work[shard];
        let (token, stands) = match work.tenure {
            Tenure::Idle => return None,
            Tenure::Serving { .. } if work.put.is_some() => return None,
            Tenure::Serving { token, stands } | Tenure::Stopping { token, stands, .. } => (token, stands),
        };
        let over = self.broken != Some(Broken::LeavesBeforeItsOperations);
        work.tenure = Tenure::Stopping { token, stands, over };
        if over {
            self.state.orphan_put(node, shard);
        }
        let call = if stands { Call::Sent } else { Call::Refused };
        self.state.nodes[node].work[shard].call = Some(LeaseCall { takes: false, token, call });
        Some(())
    }

    /// A lease is written, by a take or a release.
    fn write_lease(&mut self, node: usize, shard: usize, life: Life, takes: bool, token: u8) -> Option<()> {
        let lease = Lease { owner: Some(u8::try_from(node).ok()?), life, token };
        let highest = &mut self.state.shards[shard].highest;
        self.state.token_fell |= token < *highest || (takes && token == *highest);
        *highest = token.max(*highest);
        let next = match takes {
            true => Some(lease),
            false => (self.broken != Some(Broken::DeletesTheLease)).then(|| real::released(lease)),
        };
        self.state.write_lease(shard, next);
        Some(())
    }

    fn lease_arrives(&mut self, node: usize, shard: usize) -> Option<()> {
        let sender = &mut self.state.nodes[node];
        let life = sender.session.life;
        let mut call = sender.work[shard].call.take()?;
        self.write_lease(node, shard, life, call.takes, call.token)?;
        call.call = Call::Applied { stands: true };
        self.state.nodes[node].work[shard].call = Some(call);
        Some(())
    }

    fn lease_answered(&mut self, node: usize, shard: usize) -> Option<()> {
        let LeaseCall { takes, token, call } = self.state.nodes[node].work[shard].call.take()?;
        let applied = match call {
            Call::Applied { stands } => Some(stands),
            Call::Sent | Call::Refused => None,
        };
        let work = &mut self.state.nodes[node].work[shard];
        match (takes, applied) {
            (true, Some(stands)) => {
                work.unresolved = None;
                work.tenure = Tenure::Serving { token, stands };
            }
            (true, None) if self.broken == Some(Broken::BelievesARetry) && work.unresolved.is_some() => {
                work.tenure = Tenure::Serving { token, stands: false };
            }
            // Or it is this very write that stands there. What stood before it does not any more, either way.
            (true, None) => work.unresolved = Some(false),
            (false, Some(_)) => *work = Work::default(),
            (false, None) => self.after_a_release(node, shard),
        }
        Some(())
    }

    fn lease_lost(&mut self, node: usize, shard: usize) -> Option<()> {
        let LeaseCall { takes, call, .. } = self.state.nodes[node].work[shard].call?;
        let put = self.state.nodes[node].work[shard].put.take();
        let life = self.state.nodes[node].session.life;
        self.state.orphan(node, shard, life);
        self.state.nodes[node].work[shard].put = put;
        match takes {
            true => self.state.nodes[node].work[shard].unresolved = Some(call == Call::Sent),
            false => self.after_a_release(node, shard),
        }
        Some(())
    }

    /// A release was not applied, as far as the node knows: it looks at what stands there.
    fn after_a_release(&mut self, node: usize, shard: usize) {
        let owner = &mut self.state.nodes[node];
        let ours = |lease: &Lease| lease.owner.map(usize::from) == Some(node) && lease.life == owner.session.life;
        match self.state.shards[shard].lease.filter(ours) {
            Some(Lease { token, .. }) => {
                owner.work[shard].tenure = Tenure::Stopping { token, stands: true, over: true };
            }
            None => owner.work[shard] = Work::default(),
        }
    }

    fn put(&mut self, node: usize, shard: usize) -> Option<()> {
        let owner = &self.state.nodes[node];
        if !owner.is_valid() || !matches!(owner.work[shard].tenure, Tenure::Serving { .. }) {
            return None;
        }
        let blindly = self.broken == Some(Broken::PutsBlindly);
        let (before, stands) = match self.state.nodes[node].work[shard].cache {
            Cache::Cold | Cache::Standing => (self.state.shards[shard].value, true),
            Cache::Passed(value) => (value, false),
        };
        let bit = 1 << self.state.used.writes;
        one_more(&mut self.state.used.writes, self.bounds.writes)?;
        let call = if stands || blindly { Call::Sent } else { Call::Refused };
        self.state.nodes[node].work[shard].put = Some(Put { bit, value: before | bit, call });
        Some(())
    }

    fn write_value(&mut self, shard: usize, value: u8) {
        self.state.write_value(shard, value, self.broken == Some(Broken::PutsBlindly));
    }

    fn put_arrives(&mut self, node: usize, shard: usize) -> Option<()> {
        let mut put = self.state.nodes[node].work[shard].put.take()?;
        self.write_value(shard, put.value);
        put.call = Call::Applied { stands: true };
        self.state.nodes[node].work[shard].put = Some(put);
        Some(())
    }

    /// The second check of R3: the owner still is one. Otherwise nobody knows.
    fn put_answered(&mut self, node: usize, shard: usize) -> Option<()> {
        let owner = &mut self.state.nodes[node];
        let unchecked = self.broken == Some(Broken::ChecksOnce);
        let still = owner.acknowledges(shard).is_some() || unchecked;
        let life = owner.session.life;
        let work = &mut owner.work[shard];
        let Put { bit, value, call } = work.put.take()?;
        work.cache = Cache::Cold;
        if let Call::Applied { stands } = call
            && still
        {
            work.cache = if stands { Cache::Standing } else { Cache::Passed(value) };
            self.state.shards[shard].acknowledged |= bit;
            let Session { life: of_record, live, .. } = self.state.sessions[node];
            self.state.ended_acknowledged |= !live || of_record != life;
        }
        Some(())
    }

    fn late(&mut self, which: usize) -> Option<()> {
        match self.state.late.remove(which) {
            Late::Renewal { node, life } => {
                self.state.write_session(node.into(), Session { life, live: true, age: 0 });
                Some(())
            }
            Late::Lease { node, shard, life, takes, token } => {
                self.write_lease(node.into(), shard.into(), life, takes, token)
            }
            Late::Put { shard, value } => {
                self.write_value(shard.into(), value);
                Some(())
            }
        }
    }
}
