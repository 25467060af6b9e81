//! One leader at a time, over any [`Lock`]. The rules are those of sessions: observers judge by the exact version and
//! their own clock (R1), the leader counts from before it asked (R2), and nobody writes but conditionally on what it
//! read. A leader that stops ends its work first, and then frees the lock if it is still its own.

use std::fmt::Debug;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use brainy_storage::Error;
use brainy_storage::documents::{DocumentVersion, Swap};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::clock::{Clock, Validity};
use crate::session::Observer;

/// How soon a leader notices that its term was ended: timers don't run while a machine is suspended.
const LAPSE_CHECK: Duration = Duration::from_millis(200);

/// What a lock says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LockRecord {
    /// Who leads; none: the last leader released it.
    pub holder: Option<String>,
    /// How often the leadership changed hands. For people: a lock can be deleted, so this is no fencing token.
    pub transitions: u64,
    /// Grows with each write: equal content must never make an equal version (R5).
    pub revision: u64,
    /// How long the holder leads after a renewal, in seconds.
    pub ttl_seconds: u64,
}

/// A record under compare-and-swap.
#[async_trait]
pub trait Lock: Debug + Send + Sync + 'static {
    /// The record with its exact version, or `None`.
    async fn read(&self) -> Result<Option<(LockRecord, DocumentVersion)>, Error>;

    /// Writes if the record stands at `expected` (`None`: must not exist). Never retried below.
    async fn write(&self, expected: Option<&DocumentVersion>, record: &LockRecord) -> Result<Swap, Error>;
}

/// One time of leading.
#[derive(Clone, Debug)]
pub struct Term {
    validity: Validity,
    /// The lock's transitions when it began.
    pub transitions: u64,
}

impl Term {
    /// Whether this process leads now. Ask before each act that only a leader may do.
    pub fn is_valid(&self) -> bool {
        self.validity.holds()
    }

    /// Ends it from within: the work can't be done under it. The elector frees or renews the lock as it finds it.
    pub fn resign(&self) {
        self.validity.end();
    }

    /// Resolves when the term is over.
    pub async fn over(&self) {
        while self.is_valid() {
            tokio::time::sleep(self.validity.remaining().min(LAPSE_CHECK)).await;
        }
    }
}

/// Settings of an elector. `renew` and `call_limit` together leave room in `ttl` for a second try.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Who this is: unique to this process's life (a restart must not take its predecessor's term for its own).
    pub identity: String,
    /// How long a leader leads after a renewal. Whole seconds.
    pub ttl: Duration,
    /// Time between renewals.
    pub renew: Duration,
    /// Time between looks at another's lock: how late a renewal of it may be seen.
    pub look: Duration,
    /// Longest that one call on the lock may take.
    pub call_limit: Duration,
}

/// Takes part in an election.
#[derive(Debug)]
pub struct Elector<L> {
    lock: L,
    candidate: Candidate,
    renew: Duration,
    look: Duration,
    call_limit: Duration,
    leading: watch::Sender<Option<Term>>,
}

impl<L: Lock> Elector<L> {
    /// A candidate that does not lead yet.
    pub fn new(lock: L, clock: Arc<dyn Clock>, settings: Settings) -> Self {
        let Settings { identity, ttl, renew, look, call_limit } = settings;
        Self {
            lock,
            candidate: Candidate::new(identity, ttl, clock),
            renew,
            look,
            call_limit,
            leading: watch::Sender::new(None),
        }
    }

    /// Says where this process runs; see [`Candidate::in_place`].
    pub fn in_place(mut self, place: String) -> Self {
        self.candidate = self.candidate.in_place(place);
        self
    }

    /// The present term while this process leads.
    pub fn leadership(&self) -> watch::Receiver<Option<Term>> {
        self.leading.subscribe()
    }

    /// Takes part until `stop` resolves. While leading, `work` runs in a task of its own; it is cancelled (aborted at
    /// its next await, and joined) when the term is over, and before the lock is released. Work that returns by itself
    /// is started again in the next term only.
    pub async fn run<W, F>(mut self, stop: impl Future<Output = ()>, work: W)
    where
        W: Fn(Term) -> F,
        F: Future<Output = ()> + Send + 'static,
    {
        let mut work_of: Option<Work> = None;
        tokio::pin!(stop);
        loop {
            tokio::select! {
                () = self.step() => {}
                // The step may hang up to its limits; the term does not wait for it.
                () = lapse(&work_of) => self.candidate.resign(),
                () = &mut stop => break,
            }
            if work_of.as_ref().is_some_and(|work| !work.term.is_valid()) {
                self.end(work_of.take()).await;
            }
            if let (None, Some(term)) = (&work_of, self.candidate.term()) {
                tracing::info!(identity = self.candidate.identity, "leading");
                self.leading.send_replace(Some(term.clone()));
                work_of = Some(Work { task: tokio::spawn(work(term.clone())), term });
            }
            tokio::select! {
                () = tokio::time::sleep(self.pause()) => {}
                () = lapse(&work_of) => {}
                () = &mut stop => break,
            }
        }
        self.end(work_of.take()).await;
        self.release().await;
    }

    /// Until the next step. Who leads and does not know whether that was renewed tries again soon.
    fn pause(&self) -> Duration {
        match (self.candidate.term(), self.candidate.needs_read()) {
            (Some(_), false) => self.renew,
            (Some(_), true) => self.renew.min(self.look) / 4,
            // Where it can be taken sooner than the next look would come, it is.
            (None, _) => self.candidate.left().map_or(self.look, |left| left.min(self.look)),
        }
    }

    /// Cancels the work of a term and waits until it is gone.
    async fn end(&self, work: Option<Work>) {
        if let Some(mut work) = work {
            tracing::info!(identity = self.candidate.identity, "no longer leading");
            self.leading.send_replace(None);
            work.task.abort();
            let _cancelled = (&mut work.task).await;
        }
    }

    /// One look at the lock, and at most one write.
    async fn step(&mut self) {
        let found = match self.candidate.needs_read() {
            false => None,
            true => match self.bounded_read().await {
                Ok(found) => Some(found),
                Err(error) => {
                    tracing::warn!(?error, "the lock can't be read");
                    return;
                }
            },
        };
        if let Some(attempt) = self.candidate.attempt(found) {
            let answer = self.bounded_write(&attempt).await;
            self.candidate.answered(attempt, answer);
        }
    }

    async fn bounded_read(&self) -> Result<Option<(LockRecord, DocumentVersion)>, Error> {
        let limit = self.call_limit;
        let late = |_| Error::unavailable("Timeout", format!("no answer within {limit:?}"));
        tokio::time::timeout(limit, self.lock.read()).await.map_err(late)?
    }

    async fn bounded_write(&self, attempt: &Attempt) -> Result<Swap, Error> {
        let write = self.lock.write(attempt.expected.as_ref(), &attempt.record);
        match tokio::time::timeout(self.call_limit, write).await {
            Ok(answer) => answer,
            Err(_) => Ok(Swap::Unknown(format!("no answer within {:?}", self.call_limit))),
        }
    }

    /// Frees the lock if it is still this candidate's own, so that the next leader need not wait.
    async fn release(&mut self) {
        let was_leading = self.candidate.term().is_some();
        self.candidate.resign();
        if !was_leading {
            return;
        }
        let Ok(Some(found)) = self.bounded_read().await else {
            return;
        };
        if let Some(attempt) = self.candidate.release(found) {
            match self.bounded_write(&attempt).await {
                Ok(Swap::Applied(_)) => tracing::info!("released the lock"),
                other => tracing::info!(?other, "the lock was not released; it will expire"),
            }
        }
    }
}

/// What runs while a term lasts.
#[derive(Debug)]
struct Work {
    term: Term,
    task: tokio::task::JoinHandle<()>,
}

/// Work does not outlive its elector.
impl Drop for Work {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Resolves when the term of the work is over; never without work.
async fn lapse(work: &Option<Work>) {
    match work {
        Some(work) => work.term.over().await,
        None => std::future::pending().await,
    }
}

/// A conditional write that a candidate is about to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// What must stand there.
    pub expected: Option<DocumentVersion>,
    /// What to write.
    pub record: LockRecord,
    /// This machine's clock before it is sent (R2).
    asked: Duration,
}

/// One candidate's decisions: no I/O, no waiting.
#[derive(Debug)]
pub struct Candidate {
    identity: String,
    /// Where this process runs, alone.
    place: Option<String>,
    ttl: Duration,
    clock: Arc<dyn Clock>,
    observer: Observer<DocumentVersion>,
    /// How long the holder that is waited for leads after a renewal.
    theirs: Option<Duration>,
    /// Our own record and its version, when certain.
    known: Option<(LockRecord, DocumentVersion)>,
    term: Option<Term>,
}

impl Candidate {
    /// A candidate that has seen nothing.
    pub fn new(identity: String, ttl: Duration, clock: Arc<dyn Clock>) -> Self {
        Self { identity, place: None, ttl, clock, observer: Observer::default(), theirs: None, known: None, term: None }
    }

    /// Says where this process runs: a container of one pod, by the pod's UID. Identities of all processes there are it, `_`
    /// and what has no `_`. A container starts again only after its process has ended, so a holder from the same place is known to lead no
    /// more, and need not be waited for (R6). Never for a place where two processes can run at once.
    pub fn in_place(mut self, place: String) -> Self {
        self.place = Some(place);
        self
    }

    /// Whether a holder was an earlier process in this very place.
    fn is_predecessor(&self, holder: &str) -> bool {
        // All before the last `_` is the place: one place's name may begin with another's.
        let place = holder.rsplit_once('_').map(|(place, _)| place);
        holder != self.identity && place.is_some() && place == self.place.as_deref()
    }

    /// The present term, if it has not lapsed.
    pub fn term(&self) -> Option<Term> {
        self.term.clone().filter(Term::is_valid)
    }

    /// How long until another's lock that stands as it was seen last can be taken; `None`: none is waited for, or not any more.
    fn left(&self) -> Option<Duration> {
        self.observer.left(self.theirs?, self.clock.now()).filter(|left| !left.is_zero())
    }

    /// Whether [`attempt`](Self::attempt) needs to see the lock first.
    pub fn needs_read(&self) -> bool {
        self.known.is_none()
    }

    /// What to write now, if anything. `found`: what a read has just returned, or `None` where none was needed.
    #[allow(clippy::option_option, reason = "not read, read and absent, read and present")]
    pub fn attempt(&mut self, found: Option<Option<(LockRecord, DocumentVersion)>>) -> Option<Attempt> {
        let now = self.clock.now();
        let found = found.unwrap_or_else(|| self.known.clone());
        self.theirs = None;
        let (transitions, revision, expected) = match found {
            None => (0, 0, None),
            Some((record, version)) => {
                let ours = record.holder.as_ref() == Some(&self.identity);
                let ttl = Duration::from_secs(record.ttl_seconds);
                let waits = record.holder.as_ref().is_some_and(|holder| !ours && !self.is_predecessor(holder));
                if waits && !self.observer.expired(version.clone(), ttl, now) {
                    self.theirs = Some(ttl);
                    self.resign();
                    return None;
                }
                (record.transitions + u64::from(!ours), record.revision, Some(version))
            }
        };
        let record = LockRecord {
            holder: Some(self.identity.clone()),
            transitions,
            revision: revision + 1,
            ttl_seconds: self.ttl.as_secs(),
        };
        Some(Attempt { expected, record, asked: now })
    }

    /// What became of an attempt.
    pub fn answered(&mut self, attempt: Attempt, answer: Result<Swap, Error>) {
        match answer {
            Ok(Swap::Applied(version)) => {
                let until = attempt.asked + self.ttl;
                let transitions = attempt.record.transitions;
                let same = self.term.as_ref().filter(|term| term.transitions == transitions);
                if !same.is_some_and(|term| term.validity.extend(until)) {
                    // A new term, also for a leader that lapsed and found the lock still its own, or that took it anew
                    // after someone freed it: whoever worked under the old term must see that one end.
                    self.end_term();
                    let validity = Validity::new(Arc::clone(&self.clock), until);
                    self.term = Some(Term { validity, transitions });
                }
                self.known = Some((attempt.record, version));
            }
            // Rejected may be our own earlier write that was thought lost. Only a read tells.
            Ok(Swap::Rejected | Swap::Unknown(_)) => self.known = None,
            Err(error) => {
                tracing::warn!(?error, "the lock can't be written");
                self.known = None;
            }
        }
    }

    /// Ends the term at once.
    fn resign(&mut self) {
        self.end_term();
        self.known = None;
    }

    fn end_term(&mut self) {
        if let Some(term) = self.term.take() {
            term.validity.end();
        }
    }

    /// The write that frees the lock, if what was found is this candidate's own. Never another's.
    fn release(&self, (record, version): (LockRecord, DocumentVersion)) -> Option<Attempt> {
        (record.holder.as_ref() == Some(&self.identity)).then(|| Attempt {
            expected: Some(version),
            record: LockRecord { holder: None, revision: record.revision + 1, ..record },
            asked: self.clock.now(),
        })
    }
}

#[cfg(test)]
#[path = "elector_tests.rs"]
mod tests;
