//! A node's own side of its session: begin, renew, lapse, end. The deadline counts from before the question was sent
//! (R2); a life that lapsed or lost its record never goes on, a new one begins (R8). No I/O and no waiting here.

use std::sync::Arc;
use std::time::Duration;

use brainy_storage::Error;
use brainy_storage::documents::{DocumentVersion, Swap};

use super::{HeldShard, Observer, RegionsUse, Requests, SessionRecord, SessionState, ShardLoad, VolumeUse};
use crate::clock::{Clock, Validity};
use crate::{Incarnation, NodeId};

/// Who holds the session.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The node.
    pub node: NodeId,
    /// UID of its pod.
    pub pod_uid: String,
    /// `host:port` of its node-to-node listener.
    pub address: String,
    /// How long its session lasts after a renewal. Whole seconds.
    pub ttl: Duration,
}

/// What the node says of itself with each write.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// See [`SessionRecord::map_revision`].
    pub map_revision: u64,
    /// See [`SessionRecord::leaving`].
    pub leaving: bool,
    /// See [`SessionRecord::holds`].
    pub holds: Vec<HeldShard>,
    /// See [`SessionRecord::received`].
    pub received: Vec<HeldShard>,
    /// See [`SessionRecord::stored`].
    pub stored: Vec<HeldShard>,
    /// See [`SessionRecord::load`].
    pub load: Vec<ShardLoad>,
    /// See [`SessionRecord::requests`].
    pub requests: Requests,
    /// See [`SessionRecord::volume`].
    pub volume: Option<VolumeUse>,
    /// See [`SessionRecord::regions`].
    pub regions: Option<RegionsUse>,
    /// See [`SessionRecord::problem`].
    pub problem: Option<String>,
}

/// One life of the node, from its first write that succeeded.
#[derive(Clone, Debug)]
pub struct Life {
    /// Which.
    pub incarnation: Incarnation,
    /// Until when it may act.
    pub validity: Validity,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Send this, once, and report the answer.
    Write(Box<Attempt>),
    /// Nothing for now, and why.
    Wait(String),
}

/// A conditional write about to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// What must stand there.
    pub expected: Option<DocumentVersion>,
    /// What to write.
    pub record: SessionRecord,
    /// This machine's clock before it is sent (R2).
    asked: Duration,
}

/// Holds a node's session.
#[derive(Debug)]
pub struct SessionHolder {
    identity: Identity,
    clock: Arc<dyn Clock>,
    life: Option<Life>,
    /// Our own record and its version, while certain.
    known: Option<(SessionRecord, DocumentVersion)>,
    observer: Observer<DocumentVersion>,
    /// The life that is being ended, for as often as it takes.
    leaving: Option<Incarnation>,
}

impl SessionHolder {
    /// A holder with no session yet.
    pub fn new(identity: Identity, clock: Arc<dyn Clock>) -> Self {
        Self { identity, clock, life: None, known: None, observer: Observer::default(), leaving: None }
    }

    /// The present life, if it has not lapsed.
    pub fn life(&self) -> Option<&Life> {
        self.life.as_ref().filter(|life| life.validity.holds())
    }

    /// Whether [`step`](Self::step) needs to see the record first.
    pub fn needs_read(&self) -> bool {
        self.known.is_none() || self.life().is_none()
    }

    /// What to do now. `found`: what a read has just returned, if one was needed. `nonce`: random, never used before.
    /// `expires`: RFC 3339, for people.
    #[allow(clippy::option_option, reason = "not read, read and absent, read and present")]
    pub fn step(
        &mut self,
        found: Option<Option<(SessionRecord, DocumentVersion)>>,
        report: &Report,
        nonce: &str,
        expires: &str,
    ) -> Step {
        let asked = self.clock.now();
        if self.life().is_none() {
            self.lapse();
        }
        let found = found.unwrap_or_else(|| self.known.clone());
        let incarnation = match (&self.life, &found) {
            (Some(life), Some((record, _))) if is_ours(record, &life.incarnation) => life.incarnation.clone(),
            _ => {
                // Someone ended it, replaced it or deleted it: whatever the clock says, this life is over (R8).
                self.lapse();
                match self.begin(found.as_ref(), nonce, asked) {
                    Ok(incarnation) => incarnation,
                    Err(why) => return Step::Wait(why),
                }
            }
        };
        let revision = found.as_ref().map_or(0, |(record, _)| record.revision) + 1;
        let Report { map_revision, leaving, holds, received, stored, load, requests, volume, regions, problem } =
            report.clone();
        let record = SessionRecord {
            node: self.identity.node.clone(),
            incarnation,
            state: SessionState::Live,
            revision,
            ttl_seconds: self.identity.ttl.as_secs(),
            expires: expires.to_owned(),
            address: self.identity.address.clone(),
            map_revision: map_revision.max(found.as_ref().map_or(0, |(record, _)| record.map_revision)),
            leaving,
            holds,
            received,
            stored,
            load,
            requests,
            volume,
            regions,
            problem,
        };
        Step::Write(Box::new(Attempt { expected: found.map(|(_, version)| version), record, asked }))
    }

    /// The incarnation to begin with, given what stands there.
    fn begin(
        &mut self,
        found: Option<&(SessionRecord, DocumentVersion)>,
        nonce: &str,
        now: Duration,
    ) -> Result<Incarnation, String> {
        let start = match found {
            None => 1,
            // The kubelet starts a container of a pod only after its predecessor ended, so an earlier life of this pod
            // is over for certain.
            Some((record, _)) if record.incarnation.pod_uid == self.identity.pod_uid => record.incarnation.start + 1,
            Some((record, _)) if record.state == SessionState::Ended => 1,
            Some((record, version)) => {
                if !self.observer.expired(version.clone(), record.ttl(), now) {
                    return Err(format!(
                        "an earlier pod {} of this node may still be alive: waiting until its session has lapsed",
                        record.incarnation.pod_uid
                    ));
                }
                1
            }
        };
        Ok(Incarnation { pod_uid: self.identity.pod_uid.clone(), start, nonce: nonce.to_owned() })
    }

    /// What became of an attempt. True: a new life began with it.
    pub fn answered(&mut self, attempt: Attempt, answer: &Result<Swap, Error>) -> bool {
        match answer {
            Ok(Swap::Applied(version)) => {
                let until = attempt.asked + self.identity.ttl;
                let incarnation = attempt.record.incarnation.clone();
                self.known = Some((attempt.record, version.clone()));
                match &self.life {
                    Some(life) if life.incarnation == incarnation => {
                        if !life.validity.extend(until) {
                            self.lapse();
                        }
                        false
                    }
                    _ => {
                        let validity = Validity::new(Arc::clone(&self.clock), until);
                        let began = validity.holds();
                        self.life = began.then_some(Life { incarnation, validity });
                        began
                    }
                }
            }
            // Rejected may be our own earlier write that was thought lost, or an edit by hand. Only a read tells.
            Ok(Swap::Rejected | Swap::Unknown(_)) => {
                self.known = None;
                false
            }
            Err(_) => false,
        }
    }

    /// Ends the life on this side: nothing may be acknowledged under it any more.
    pub fn lapse(&mut self) {
        if let Some(life) = self.life.take() {
            life.validity.end();
        }
        self.known = None;
    }

    /// The write that ends the session, if the record found is this life's own; the life is over on this side first.
    pub fn end(&mut self, found: Option<(SessionRecord, DocumentVersion)>) -> Option<Attempt> {
        if let Some(life) = &self.life {
            self.leaving = Some(life.incarnation.clone());
        }
        self.lapse();
        let (incarnation, (record, version)) = (self.leaving.as_ref()?, found?);
        is_ours(&record, incarnation).then(|| Attempt {
            expected: Some(version),
            record: record.ended(),
            asked: self.clock.now(),
        })
    }
}

fn is_ours(record: &SessionRecord, incarnation: &Incarnation) -> bool {
    record.state == SessionState::Live && record.incarnation == *incarnation
}

#[cfg(test)]
#[path = "holder_states.rs"]
pub(crate) mod states;
#[cfg(test)]
#[path = "holder_tests.rs"]
mod tests;
