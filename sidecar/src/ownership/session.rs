//! Keeps this node's session: renews it in time, tells others through it what has changed here, and starts a new life
//! when one is lost. Decisions are [`SessionHolder`]'s; here is the I/O, each call bounded.

use std::sync::Arc;
use std::time::Duration;

use brainy_coordination::bucket;
use brainy_coordination::names;
use brainy_coordination::session::holder::{Attempt, Life, Step};
use brainy_coordination::session::{Report, SessionHolder, SessionRecord};
use brainy_storage::documents::{DocumentVersion, Documents, Swap};
use brainy_storage::{Error, chance};
use tokio::sync::watch;

use super::table::Table;
use super::{Renewed, in_words, stopped};
use crate::host;

/// Changes are gathered this long before they are written.
const GATHER: Duration = Duration::from_millis(20);
/// Before another try when a call failed, or another pod's session stands in the way.
const RETRY: Duration = Duration::from_millis(500);
/// Tries to end the session; after that it lapses.
const END_TRIES: u32 = 3;

/// What a strategy says of the node in its session record.
pub(super) trait Reporting: Send + Sync {
    fn report(&self) -> Report;
}

pub(super) struct SessionLoop {
    pub(super) table: Arc<Table>,
    pub(super) holder: SessionHolder,
    pub(super) documents: Arc<dyn Documents>,
    pub(super) reporting: Arc<dyn Reporting>,
    /// Counts what a strategy has to report beside the table's changes.
    pub(super) news: watch::Receiver<u64>,
    /// The present life, for the strategy.
    pub(super) lives: watch::Sender<Option<Life>>,
    /// Counts what the controller should hear of at once: a life that began, that the node is about to stop, what it wishes, and
    /// what is new on its volume.
    pub(super) announced: watch::Sender<u64>,
    /// How this node's record stands.
    pub(super) stands: watch::Sender<Option<Renewed>>,
    /// UID of this node's cluster, where the documents are in a bucket that another cluster may have got meanwhile.
    pub(super) belongs_to: Option<String>,
    /// Says that it has.
    pub(super) superseded: watch::Sender<Option<Error>>,
    pub(super) renew: Duration,
    pub(super) ttl: Duration,
}

/// How long until the next step.
enum Pause {
    /// The record stands as we want it.
    UntilRenewal,
    /// Something was in the way.
    Retry,
    /// Go on at once.
    None,
}

impl SessionLoop {
    /// Runs until `stop`; then ends the session.
    pub(super) async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let mut changes = self.table.changes();
        let mut written = None;
        loop {
            let pause = self.step(&mut written).await;
            self.announce();
            let pause = match pause {
                Pause::UntilRenewal => self.renew,
                Pause::Retry => RETRY.min(self.renew),
                Pause::None => Duration::ZERO,
            };
            if self.wait(pause, &mut changes, &written, &mut stop).await {
                break;
            }
        }
        self.end().await;
    }

    /// Waits until it is time for the next step. True: stop.
    async fn wait(
        &mut self,
        pause: Duration,
        changes: &mut watch::Receiver<u64>,
        written: &Option<Report>,
        stop: &mut watch::Receiver<bool>,
    ) -> bool {
        let timer = tokio::time::sleep(pause);
        tokio::pin!(timer);
        loop {
            let lapse = self.holder.life().map(|life| life.validity.remaining());
            tokio::select! {
                biased;
                () = &mut timer => return false,
                () = tokio::time::sleep(lapse.unwrap_or_default()), if lapse.is_some() => {
                    self.announce();
                    return false;
                }
                () = stopped(stop) => return true,
                _ = changes.changed() => {}
                _ = self.news.changed() => {}
            }
            if lapse.is_some() {
                tokio::time::sleep(GATHER).await;
                changes.mark_unchanged();
                self.news.mark_unchanged();
                if written.as_ref() != Some(&self.reporting.report()) {
                    return false;
                }
            }
        }
    }

    /// One look, if one is needed, and one write.
    async fn step(&mut self, written: &mut Option<Report>) -> Pause {
        let found = match self.holder.needs_read() {
            false => None,
            true => match self.read().await {
                Ok(found) => Some(found),
                Err(error) => return self.trouble(&error),
            },
        };
        let report = self.reporting.report();
        let nonce = chance::mark();
        let expires = host::wall() + jiff::SignedDuration::try_from(self.ttl).unwrap_or_default();
        let attempt = match self.holder.step(found, &report, &nonce, &expires.to_string()) {
            Step::Write(attempt) => *attempt,
            Step::Wait(why) => {
                self.table.problem("session", Some(why));
                return Pause::Retry;
            }
        };
        let answer = self.write(&attempt).await;
        let record = serde_json::to_string(&attempt.record).unwrap_or_default();
        let began = self.holder.answered(attempt, &answer);
        if began {
            if let Err(error) = self.must_belong().await {
                return self.give_back(error).await;
            }
            tracing::info!(node = %self.table.node(), "a session began");
        }
        match answer {
            Ok(Swap::Applied(version)) => {
                let node = self.table.node().clone();
                self.stands.send_replace(Some(Renewed { node, record, version: version.0 }));
                self.table.problem("session", None);
                if began || written.as_ref().is_none_or(|written| is_announced(&report, written)) {
                    self.announced.send_modify(|count| *count += 1);
                }
                *written = Some(report);
                match self.holder.life() {
                    Some(_) => Pause::UntilRenewal,
                    None => Pause::None,
                }
            }
            Ok(Swap::Rejected) => Pause::None,
            Ok(Swap::Unknown(why)) => {
                tracing::warn!(why, "the outcome of a renewal is unknown");
                Pause::Retry
            }
            Err(error) => self.trouble(&error),
        }
    }

    /// Asked after the session was written, and before it is gone by: whoever takes the place over looks at sessions after it
    /// has written the marker, so either it sees this one, or this node sees the marker.
    async fn must_belong(&self) -> Result<(), bucket::Error> {
        match &self.belongs_to {
            Some(cluster) => bucket::must_own(&*self.documents, cluster).await,
            None => Ok(()),
        }
    }

    /// A life that may not be: its session ends, before anything was done in it.
    async fn give_back(&mut self, error: bucket::Error) -> Pause {
        let is_anothers = matches!(error, bucket::Error::NotOurs { .. });
        let error = error.into_storage();
        if is_anothers {
            self.end_session().await;
            self.superseded.send_replace(Some(error.clone()));
        }
        self.holder.lapse();
        self.trouble(&error)
    }

    fn trouble(&self, error: &Error) -> Pause {
        let why = in_words(error);
        tracing::warn!(why, "the session can't be renewed");
        if self.holder.life().is_none() {
            self.table.problem("session", Some(format!("no session: {why}")));
        }
        Pause::Retry
    }

    /// Tells the strategy and the table of a life that began or ended.
    fn announce(&self) {
        let life = self.holder.life().cloned();
        self.lives.send_if_modified(|known| {
            let same = known.as_ref().map(|life| &life.incarnation) == life.as_ref().map(|life| &life.incarnation);
            if !same {
                if life.is_none() {
                    tracing::warn!(node = %self.table.node(), "the session has lapsed: every shard is dropped");
                }
                self.table.learn_session(life.as_ref().map(|life| life.validity.clone()));
                *known = life;
            }
            !same
        });
    }

    async fn end(&mut self) {
        self.end_session().await;
        self.announce();
    }

    async fn end_session(&mut self) {
        for _ in 0..END_TRIES {
            let Ok(found) = self.read().await else {
                continue;
            };
            let Some(attempt) = self.holder.end(found) else {
                break;
            };
            match self.write(&attempt).await {
                Ok(Swap::Applied(_)) => {
                    tracing::info!(node = %self.table.node(), "the session has ended");
                    break;
                }
                other => tracing::warn!(?other, "the session could not be ended; it will lapse"),
            }
        }
    }

    /// Short enough that a second try fits before the deadline.
    fn call_limit(&self) -> Duration {
        (self.ttl / 4).clamp(Duration::from_secs(1), Duration::from_secs(10))
    }

    async fn read(&self) -> Result<Option<(SessionRecord, DocumentVersion)>, Error> {
        read_session(&*self.documents, &names::session(self.table.node()), self.call_limit()).await
    }

    async fn write(&self, attempt: &Attempt) -> Result<Swap, Error> {
        let name = names::session(self.table.node());
        write_document(&*self.documents, &name, attempt.expected.as_ref(), &attempt.record, self.call_limit()).await
    }
}

/// Whether the controller waits for what is new in a report: that the node is about to stop, what it wishes, or what lies on
/// its volume.
fn is_announced(report: &Report, before: &Report) -> bool {
    (report.leaving && !before.leaving)
        || report.requests != before.requests
        || (&report.received, &report.stored) != (&before.received, &before.stored)
}

/// A session record with its version.
pub(super) async fn read_session(
    documents: &dyn Documents,
    name: &str,
    limit: Duration,
) -> Result<Option<(SessionRecord, DocumentVersion)>, Error> {
    read_document(documents, name, limit).await
}

/// A document, parsed, with its version.
pub(super) async fn read_document<T: serde::de::DeserializeOwned>(
    documents: &dyn Documents,
    name: &str,
    limit: Duration,
) -> Result<Option<(T, DocumentVersion)>, Error> {
    let late = |_| Error::unavailable("Timeout", format!("{name}: no answer within {limit:?}"));
    let Some(found) = tokio::time::timeout(limit, documents.read(name)).await.map_err(late)?? else {
        return Ok(None);
    };
    match serde_json::from_slice(&found.body) {
        Ok(parsed) => Ok(Some((parsed, found.version))),
        Err(error) => Err(Error::Corrupt { key: name.to_owned(), problem: error.to_string() }),
    }
}

/// Writes a document under a condition, in a form that people can read.
pub(super) async fn write_document(
    documents: &dyn Documents,
    name: &str,
    expected: Option<&DocumentVersion>,
    document: &impl serde::Serialize,
    limit: Duration,
) -> Result<Swap, Error> {
    let body = serde_json::to_vec(document)
        .map_err(|error| Error::Corrupt { key: name.to_owned(), problem: error.to_string() })?;
    match tokio::time::timeout(limit, documents.swap(name, expected, body.into())).await {
        Ok(answer) => answer,
        Err(_) => Ok(Swap::Unknown(format!("{name}: no answer within {limit:?}"))),
    }
}
