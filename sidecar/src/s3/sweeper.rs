//! Removes the pieces that no object names: of uploads that were broken off or aborted, and of objects that were written over or
//! removed. It goes by the notes of uploads; each node looks at those in its own shards.
//!
//! - An upload whose bytes come in is given up when its note has stood unchanged for an hour on the clock of who looks: its
//!   writer gives a sign of life six times as often. From then on its writer does not acknowledge it.
//! - What was given up, or was named once, is removed when the object does not name it, and did not a while ago either: what
//!   still comes in for it, and who still reads it, have come to their end.
//! - An upload in parts is the client's: it stays until it is completed or aborted, as in S3.

use std::collections::HashMap;
use std::time::Duration;

use brainy_storage::{Condition, Key, Namespace, Value, Version};
use tokio::time::Instant;

use super::failure::{Answer, Failure};
use super::uploads::{Note, State, names_upload};
use super::{Gateway, names};
use crate::http::server::Stop;
use crate::routing::{Call, Listing, Reply};

/// Notes on a page.
const PAGE: usize = 1000;

/// How long the sweeper waits.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// Between two rounds.
    pub round: Duration,
    /// For a sign of life of an upload.
    pub life: Duration,
    /// For what nobody names to be left alone by who still writes or reads it.
    pub grace: Duration,
}

impl Default for Times {
    fn default() -> Self {
        Self { round: Duration::from_secs(300), life: Duration::from_secs(3600), grace: Duration::from_secs(900) }
    }
}

/// What is to be done about an upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Nothing yet.
    Leave,
    /// Its writer is gone: no object may name it from now on.
    GiveUp,
    /// An object names it all the same.
    Keep,
    /// It goes.
    Remove,
}

/// What has been seen of an upload, on this node's clock.
#[derive(Clone, Debug)]
struct Seen {
    version: Version,
    /// Since when its note has stood at that version.
    since: Instant,
    /// Since when no object names it.
    unnamed: Option<Instant>,
}

/// Decides about an upload; `named`: an object names it now.
fn decide(state: State, unchanged: Duration, unnamed: Option<Duration>, named: bool, times: &Times) -> Step {
    match state {
        State::InParts => Step::Leave,
        State::Coming if unchanged >= times.life => Step::GiveUp,
        State::Coming => Step::Leave,
        State::GivenUp if named => Step::Keep,
        State::Kept if named => Step::Leave,
        State::GivenUp | State::Kept if unnamed.is_some_and(|unnamed| unnamed >= times.grace) => Step::Remove,
        State::GivenUp | State::Kept => Step::Leave,
    }
}

/// Goes round the notes of uploads.
#[derive(Debug)]
pub struct Sweeper {
    gateway: Gateway,
    times: Times,
    seen: HashMap<Key, Seen>,
}

impl Gateway {
    /// What removes the pieces that no object names.
    pub fn sweeper(&self, times: Times) -> Sweeper {
        Sweeper { gateway: self.clone(), times, seen: HashMap::new() }
    }
}

impl Sweeper {
    /// Goes round until it is told to stop.
    pub async fn run(mut self, mut stop: Stop) {
        loop {
            tokio::select! {
                () = stop.wait() => return,
                () = tokio::time::sleep(self.times.round) => self.round().await,
            }
        }
    }

    /// Once round. What fails is tried again in the next round.
    pub async fn round(&mut self) {
        if let Err(failure) = self.try_round().await {
            tracing::debug!(?failure, "a round of the sweeper broke off");
        }
    }

    async fn try_round(&mut self) -> Answer<()> {
        let mut before = std::mem::take(&mut self.seen);
        let mut after = None;
        loop {
            let namespace = Some(names::uploads()?);
            let listing = Listing { namespace, prefix: String::new(), after: after.take(), limit: PAGE };
            let page = self.gateway.0.router.list_own(&listing).await?;
            for key in &page.keys {
                let seen = before.remove(key);
                if let Err(failure) = self.look_at(key, seen).await {
                    tracing::debug!(%key, ?failure, "an upload could not be looked at");
                }
            }
            after = page.keys.last().cloned();
            if !page.more || after.is_none() {
                return Ok(());
            }
        }
    }

    async fn look_at(&mut self, place: &Key, seen: Option<Seen>) -> Answer<()> {
        let Some((bucket, id)) = names::read_note(place.as_str()) else { return Ok(()) };
        let Some((note, version)) = self.gateway.read_note(bucket, id).await? else { return Ok(()) };
        let now = Instant::now();
        let fresh = || Seen { version: version.clone(), since: now, unnamed: None };
        let mut seen = seen.filter(|seen| seen.version == version).unwrap_or_else(fresh);
        let named = match note.state {
            State::Coming | State::InParts => false,
            State::GivenUp | State::Kept => self.is_named(bucket, id, &note).await?,
        };
        seen.unnamed = if named { None } else { seen.unnamed.or(Some(now)) };
        let unnamed = seen.unnamed.map(|since| now - since);
        let step = decide(note.state, now - seen.since, unnamed, named, &self.times);
        self.seen.insert(place.clone(), seen);
        let state = match step {
            Step::Leave => return Ok(()),
            Step::Remove => return self.remove(bucket, id, place, version).await,
            Step::GiveUp => State::GivenUp,
            Step::Keep => State::Kept,
        };
        if step == Step::Keep {
            self.tidy(bucket, id, &note).await?;
        }
        let note = Note { state, ..note };
        // Where it has changed meanwhile, it is looked at again.
        self.gateway.write_note(bucket, id, &note, Condition::Version(version)).await?;
        Ok(())
    }

    async fn is_named(&self, bucket: &str, id: &str, note: &Note) -> Answer<bool> {
        let (namespace, key) = names::object(bucket, &note.key)?;
        let sight = self.gateway.look(&namespace, &key).await?;
        Ok(sight.is_some_and(|sight| names_upload(&sight.head, id)))
    }

    /// Removes all that was brought for an upload that no object names, and its note last.
    async fn remove(&self, bucket: &str, id: &str, place: &Key, version: Version) -> Answer<()> {
        self.clear(&names::pieces()?, &names::pieces_of(id), |_| true).await?;
        self.clear(&names::parts()?, &names::parts_of(bucket, id), |_| true).await?;
        let call = Call::Remove { key: place.clone(), condition: Condition::Version(version) };
        match self.gateway.0.router.run_one(Some(&names::uploads()?), call).await {
            Reply::Removed(_) | Reply::Rejected(_) => Ok(()),
            other => Err(other.into()),
        }
    }

    /// Removes what was brought for an object and is not in it: earlier attempts, parts that were not chosen.
    async fn tidy(&self, bucket: &str, id: &str, note: &Note) -> Answer<()> {
        let (namespace, key) = names::object(bucket, &note.key)?;
        let object = match self.gateway.0.router.run_one(Some(&namespace), Call::Get { key }).await {
            Reply::Found(Some(entry)) => match entry.value {
                Value::Object(object) if names_upload(&object.head, id) => object,
                // It was written over this moment: the next round sees it.
                _ => return Ok(()),
            },
            Reply::Found(None) => return Ok(()),
            other => return Err(other.into()),
        };
        let parts = object.head.parts.as_ref().map(|parts| parts.list.as_slice()).unwrap_or_default();
        let named: std::collections::HashSet<String> =
            parts.iter().map(|part| names::attempt(id, part.number, &part.attempt)).collect();
        let is_left_over = |piece: &str| piece.rsplit_once('/').is_none_or(|(attempt, _)| !named.contains(attempt));
        self.clear(&names::pieces()?, &names::pieces_of(id), is_left_over).await?;
        self.clear(&names::parts()?, &names::parts_of(bucket, id), |_| true).await
    }

    /// Removes the keys with this prefix that are told apart so.
    async fn clear(&self, namespace: &Namespace, prefix: &str, goes: impl Fn(&str) -> bool) -> Answer<()> {
        let mut after = None;
        loop {
            let (namespace, prefix) = (Some(namespace.clone()), prefix.to_owned());
            let listing = Listing { namespace: namespace.clone(), prefix, after: after.take(), limit: PAGE };
            let page = self.gateway.0.router.list(&listing).await?;
            let keys = page.keys.iter().filter(|key| goes(key.as_str()));
            let calls = keys.map(|key| Call::Remove { key: key.clone(), condition: Condition::Any }).collect();
            for reply in self.gateway.0.router.run(namespace.as_ref(), calls).await {
                if !matches!(reply, Reply::Removed(_)) {
                    return Err(Failure::from(reply));
                }
            }
            after = page.keys.last().cloned();
            if !page.more || after.is_none() {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMES: Times =
        Times { round: Duration::from_secs(1), life: Duration::from_secs(100), grace: Duration::from_secs(10) };

    fn step(state: State, unchanged: u64, unnamed: Option<u64>) -> Step {
        let unnamed = unnamed.map(Duration::from_secs);
        decide(state, Duration::from_secs(unchanged), unnamed, unnamed.is_none(), &TIMES)
    }

    #[test]
    fn nothing_is_removed_that_an_object_names_or_may_yet() {
        for unchanged in [0, 1_000_000] {
            assert_eq!(step(State::Kept, unchanged, None), Step::Leave);
            assert_eq!(step(State::GivenUp, unchanged, None), Step::Keep);
            assert_eq!(step(State::InParts, unchanged, Some(1_000_000)), Step::Leave, "the client's");
        }
        assert_eq!(step(State::Coming, 99, Some(99)), Step::Leave, "its writer may live");
        assert_eq!(step(State::Coming, 100, Some(100)), Step::GiveUp, "first it must know");
    }

    #[test]
    fn what_no_object_names_goes_after_a_while() {
        for state in [State::Kept, State::GivenUp] {
            assert_eq!(step(state, 1_000_000, Some(9)), Step::Leave);
            assert_eq!(step(state, 0, Some(10)), Step::Remove);
        }
    }
}
