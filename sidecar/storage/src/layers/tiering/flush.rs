//! Brings the newest write of each key from the hot tier to the cold one. No lock is held while the cold store is asked: a
//! flush ends with a conditional write of the hot tier, and what was written meanwhile stays unwritten.
//!
//! Every cold write is conditional: on nothing being there, or on the version that stands there being older than what is
//! written. What is newer is never written over. A removal leaves nothing in the cold tier that an earlier write of the same
//! key, still on its way, could take for its condition: [`fence`].

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::SemaphorePermit;
use tokio::time::sleep;

use super::Ack;
use super::pending::{Flight, Said};
use super::record::{Against, Noted, Record, State, against, from_cold};
use super::store::{Store, hash, read};
use crate::layers::behind::{Sealed, send_all};
use crate::performed::Performed;
use crate::{Condition, Error, Outcome, StorageAdapter, Value, Version};

/// Most attempts of one cold write while what stands there is found out.
const MAX_ATTEMPTS: u32 = 16;
/// What is in the cold tier is noted in the hot one at such times: so the notes of all stores of a process cost one flush of the disk
/// together, where each would take one from whoever writes.
const BEAT: Duration = Duration::from_millis(20);

/// Sends what there is to send, as long as it is let.
pub(super) async fn attend(store: &Arc<Store>) {
    // Half of them may wait for a beat.
    let most = 2 * store.shared.settings.flushes();
    send_all(most, || store.pending.next(), &store.pending.news, |flight| fly(store, flight)).await;
}

async fn fly(store: &Store, flight: Box<Flight>) {
    // Closed never: it is the process's.
    let permit = store.shared.flights.acquire().await.ok();
    let said = Box::pin(flush(store, &flight, permit)).await;
    match &said {
        Said::Away(error) | Said::Failed(error) => {
            store.shared.counts.failed.add(1);
            tracing::debug!(%error, key = flight.place.1.as_str(), "a key could not be brought to the cold tier");
        }
        Said::Foreign => tracing::error!(
            key = flight.place.1.as_str(),
            "the cold tier has a later write of a key than the hot tier: somebody else writes there; it is left as it is"
        ),
        Said::Written(_) | Said::Changed => {}
    }
    store.pending.end(&flight.place, said);
}

/// What is to be said of a failure: whether the store fails with everything.
fn failed(error: Error) -> Said {
    match error {
        Error::Unavailable { .. } => Said::Away(error),
        error => Said::Failed(error),
    }
}

/// Why a write was not ended, as what is to be said.
type Stopped<T> = Result<T, Said>;

/// With a permit for as long as the cold store is asked.
async fn flush(store: &Store, flight: &Flight, permit: Option<SemaphorePermit<'_>>) -> Said {
    let key = &flight.place.1;
    let (entry, version) = match flight.space.hot.get(key).await {
        Ok(Some(entry)) => (Some(entry.clone()), entry.version),
        // It was demoted, or what it removed is gone.
        Ok(None) => return Said::Written(0),
        Err(error) => return Said::Failed(error),
    };
    let (record, bytes) = match read(key, entry) {
        Ok(Some(read)) => read,
        Ok(None) => return Said::Written(0),
        Err(error) => return Said::Failed(error),
    };
    let State::Unwritten { over, inherits } = &record.state else {
        return Said::Written(record.sealed.revision());
    };
    let flushing = Flushing { store, flight, sealed: &record.sealed, inherits: *inherits };
    let done = if record.sealed.is_removal() {
        match flushing.remove(over.clone()).await {
            Ok(()) => flushing.drop_record(version, bytes).await,
            Err(said) => return said,
        }
    } else {
        match flushing.put(over.clone()).await {
            Ok((sealed, noted)) => {
                drop(permit);
                flushing.mark_clean(version, bytes, record.written_at, sealed, noted).await
            }
            Err(said) => return said,
        }
    };
    done.unwrap_or_else(|said| said)
}

/// One key on its way to the cold tier.
struct Flushing<'a> {
    store: &'a Store,
    flight: &'a Flight,
    sealed: &'a Sealed,
    inherits: bool,
}

/// What stands in the cold tier, for a write that is to take its place.
struct Stands {
    noted: Noted,
    performed: Performed,
}

impl Flushing<'_> {
    fn key(&self) -> &crate::Key {
        &self.flight.place.1
    }

    fn cold(&self) -> &dyn StorageAdapter {
        &*self.flight.space.cold
    }

    /// Before each request to the cold store: it may go there, and from now on has perhaps arrived.
    fn send(&self) -> Stopped<()> {
        if !self.store.may_write() {
            return Err(Said::Failed(Error::unavailable("Released", "the store is another's now")));
        }
        self.store.pending.sent(&self.flight.place);
        Ok(())
    }

    /// What is found there, if it is older: `Ok(Err)` where it is this very write.
    fn judge(&self, value: Value, version: Version) -> Stopped<Result<Stands, (Sealed, Noted)>> {
        let noted = Noted { version, bytes: super::size(&value) };
        let stands = match from_cold(self.key(), value) {
            Ok(stands) => stands,
            // Nobody who goes by the rules has written that, and nobody can read it.
            Err(Error::Corrupt { .. }) => return Ok(Ok(Stands { noted, performed: Performed::default() })),
            Err(error) => return Err(Said::Failed(error)),
        };
        match against(self.sealed, &stands) {
            Against::Older => Ok(Ok(Stands { noted, performed: stands.performed().clone() })),
            Against::Same => Ok(Err((stands, noted))),
            Against::Newer => Err(Said::Foreign),
        }
    }

    /// Writes the value there, unless it is there already.
    async fn put(&self, over: Option<Noted>) -> Stopped<(Sealed, Noted)> {
        if let Some((sealed, noted)) = &self.flight.known
            && sealed.nonce() == self.sealed.nonce()
        {
            return Ok((sealed.clone(), noted.clone()));
        }
        let mut sealed = self.sealed.clone();
        // What was found out since goes before what the record says. Where the value is to remember what that does which
        // stands there, it has to be looked at: the store shows it where it is said to be absent.
        let known = self.flight.known.as_ref().map(|(_, noted)| noted.clone());
        let mut stands = if self.inherits { None } else { known.or(over) };
        for _ in 0..MAX_ATTEMPTS {
            self.send()?;
            let condition =
                stands.as_ref().map_or(Condition::Absent, |noted| Condition::Version(noted.version.clone()));
            let value = Value::Bytes(sealed.bytes.clone());
            let bytes = sealed.bytes.len() as u64;
            match self.cold().put(self.key(), value, &condition).await {
                Ok(Outcome::Applied(version)) => {
                    let before = stands.map(|noted| noted.bytes);
                    self.tally(before, Some(bytes));
                    return Ok((sealed, Noted { version, bytes }));
                }
                Ok(Outcome::Rejected(None)) => stands = None,
                Ok(Outcome::Rejected(Some(current))) => match self.judge(current.value, current.version)? {
                    Ok(found) => {
                        if self.inherits {
                            let performed = self.sealed.performed().after(&found.performed);
                            sealed = self.sealed.remembering(self.key(), performed).map_err(Said::Failed)?;
                        }
                        stands = Some(found.noted);
                    }
                    Err(same) => return Ok(same),
                },
                Ok(Outcome::Unknown(why)) => return Err(Said::Away(Error::unavailable("Unknown", why.0))),
                Err(Error::Corrupt { .. }) => {
                    // What is damaged there can be read by nobody; the hot tier has what is newer.
                    self.remove_damaged().await?;
                    stands = None;
                }
                Err(error) => return Err(failed(error)),
            }
        }
        Err(Said::Failed(self.contended()))
    }

    async fn remove_damaged(&self) -> Stopped<()> {
        self.send()?;
        match self.cold().remove(self.key(), &Condition::Any).await {
            Ok(Outcome::Applied(_) | Outcome::Rejected(_)) => Ok(()),
            Ok(Outcome::Unknown(why)) => Err(Said::Away(Error::unavailable("Unknown", why.0))),
            Err(error) => Err(failed(error)),
        }
    }

    /// Removes what stands there.
    async fn remove(&self, over: Option<Noted>) -> Stopped<()> {
        let mut stands = self.flight.known.as_ref().map(|(_, noted)| noted.clone()).or(over);
        for _ in 0..MAX_ATTEMPTS {
            let Some(noted) = stands else {
                stands = match self.look().await? {
                    Some(noted) => Some(noted),
                    // Nothing was ever sent there: nothing is on its way.
                    None if !self.flight.sent => return Ok(()),
                    None => Some(self.fence().await?),
                };
                continue;
            };
            self.send()?;
            match self.cold().remove(self.key(), &Condition::Version(noted.version)).await {
                Ok(Outcome::Applied(true)) => {
                    self.tally(Some(noted.bytes), None);
                    return Ok(());
                }
                Ok(Outcome::Applied(false) | Outcome::Rejected(None)) => stands = None,
                Ok(Outcome::Rejected(Some(current))) => stands = Some(self.judged(current.value, current.version)?),
                Ok(Outcome::Unknown(why)) => return Err(Said::Away(Error::unavailable("Unknown", why.0))),
                Err(error) => return Err(failed(error)),
            }
            if stands.is_none() && !self.flight.sent {
                return Ok(());
            }
        }
        Err(Said::Failed(self.contended()))
    }

    /// What stands there, if it may be removed: it is older, or the mark that [`Self::fence`] has left.
    fn judged(&self, value: Value, version: Version) -> Stopped<Noted> {
        Ok(match self.judge(value, version)? {
            Ok(found) => found.noted,
            Err((_, noted)) => noted,
        })
    }

    /// What stands there.
    async fn look(&self) -> Stopped<Option<Noted>> {
        match self.cold().get(self.key()).await {
            Ok(Some(entry)) => self.judged(entry.value, entry.version).map(Some),
            Ok(None) => Ok(None),
            Err(Error::Corrupt { .. }) => self.remove_damaged().await.map(|()| None),
            Err(error) => Err(failed(error)),
        }
    }

    /// Nothing stands there, but a write of something may still be on its way, on the condition that nothing stands there.
    /// So something is put there, that is removed again: after that the condition does not hold any more, because the
    /// store leaves a tombstone.
    async fn fence(&self) -> Stopped<Noted> {
        self.send()?;
        let (value, bytes) = (Value::Bytes(self.sealed.bytes.clone()), self.sealed.bytes.len() as u64);
        match self.cold().put(self.key(), value, &Condition::Absent).await {
            Ok(Outcome::Applied(version)) => {
                self.tally(None, Some(bytes));
                Ok(Noted { version, bytes })
            }
            Ok(Outcome::Rejected(Some(current))) => self.judged(current.value, current.version),
            Ok(Outcome::Rejected(None)) => Err(Said::Failed(self.contended())),
            Ok(Outcome::Unknown(why)) => Err(Said::Away(Error::unavailable("Unknown", why.0))),
            Err(error) => Err(failed(error)),
        }
    }

    fn contended(&self) -> Error {
        Error::Contended { key: self.key().to_string(), attempts: MAX_ATTEMPTS }
    }

    /// A key of the cold tier has taken so many bytes, and takes so many now.
    fn tally(&self, before: Option<u64>, now: Option<u64>) {
        let number = |n: Option<u64>| n.map_or((0, 0), |n| (1, i64::try_from(n).unwrap_or(i64::MAX)));
        let ((keys_before, bytes_before), (keys, bytes)) = (number(before), number(now));
        self.store.tally.cold.add(keys - keys_before, bytes - bytes_before);
    }

    /// Notes in the hot tier that the write is in the cold one, if it still is the newest.
    async fn mark_clean(
        &self,
        at: Version,
        bytes: u64,
        written_at: u64,
        sealed: Sealed,
        noted: Noted,
    ) -> Stopped<Said> {
        self.store.pending.known(&self.flight.place, Some((sealed.clone(), noted.clone())));
        let revision = sealed.revision();
        let clean = Record { sealed, state: State::Clean(noted), written_at }.to_value();
        let grown = super::size(&clean);
        self.beat().await;
        match self.flight.space.hot.put(self.key(), clean, &Condition::Version(at)).await {
            Ok(Outcome::Applied(_)) => {
                self.store.tally.hot.add(0, signed(grown) - signed(bytes));
                Ok(Said::Written(revision))
            }
            Ok(Outcome::Rejected(_)) => Ok(Said::Changed),
            Ok(Outcome::Unknown(why)) => Err(Said::Failed(Error::unavailable("Interrupted", why.0))),
            Err(error) => Err(Said::Failed(error)),
        }
    }

    /// Waits until it is time, unless somebody may wait for the note.
    async fn beat(&self) {
        let shared = &self.store.shared;
        if shared.settings.ack == Ack::Hot {
            let since = shared.began.elapsed().as_micros() % BEAT.as_micros();
            sleep(BEAT - Duration::from_micros(u64::try_from(since).unwrap_or_default())).await;
        }
    }

    /// Drops the record of a removal that has reached the cold tier, if it still is the newest.
    async fn drop_record(&self, at: Version, bytes: u64) -> Stopped<Said> {
        self.store.pending.known(&self.flight.place, None);
        let revision = self.sealed.revision();
        match self.flight.space.hot.remove(self.key(), &Condition::Version(at)).await {
            Ok(Outcome::Applied(_)) => {
                self.flight.space.forget_removal(self.key(), revision);
                self.store.tally.hot.add(-1, -signed(bytes));
                self.store.access.forget(hash(&self.flight.place.0, self.key()));
                Ok(Said::Written(revision))
            }
            Ok(Outcome::Rejected(_)) => Ok(Said::Changed),
            Ok(Outcome::Unknown(why)) => Err(Said::Failed(Error::unavailable("Interrupted", why.0))),
            Err(error) => Err(Said::Failed(error)),
        }
    }
}

pub(super) fn signed(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}
