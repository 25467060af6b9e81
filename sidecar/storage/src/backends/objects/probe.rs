//! What a store must be proved to do before any data is trusted to it (R7). Some S3-compatible stores ignore the
//! conditional headers, and some check and write in two steps, which only a race brings to light.

use std::future::Future;

use bytes::Bytes;
use futures::future::join_all;
use serde::Serialize;
use uuid::Uuid;

use super::BucketStore;
use super::bucket::{Bucket, When, Written};
use super::etag::ETag;
use super::failure::TOO_MANY;
use crate::Error;

/// Writers in a race.
const RACERS: usize = 32;
/// Races of each kind.
const ROUNDS: usize = 4;

/// What a store was proved to do. All but the last are required.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Capabilities {
    /// `If-None-Match: *` writes only what does not exist.
    pub create_only: bool,
    /// `If-Match` writes only over that very version.
    pub if_match: bool,
    /// Of many writers under one condition, exactly one wins.
    pub atomic_under_race: bool,
    /// What was written is read, and listed, at once.
    pub read_after_write: bool,
    /// An object's ETag is the MD5 of its body. Then every read is checked to be one whole version.
    pub etag_is_md5: bool,
}

/// Runs all checks; an error names the one that failed.
pub(super) async fn prove<B: Bucket>(store: &BucketStore<B>) -> Result<Capabilities, Error> {
    let probe = Probe { bucket: store.bucket(), folder: format!("_probe/{}/", Uuid::new_v4().simple()) };
    let result = probe.run().await;
    // Even after a failure; its own failure matters less than the result.
    if let Err(error) = store.delete_prefix(&probe.folder).await {
        tracing::warn!(%error, folder = %probe.folder, "could not remove the probe's objects");
    }
    result
}

struct Probe<'a, B> {
    bucket: &'a B,
    folder: String,
}

/// A check that did not hold.
fn violated(check: &str, what: impl std::fmt::Display) -> Error {
    Error::unavailable("UnsafeStore", format!("check {check:?} failed: {what}"))
}

impl<B: Bucket> Probe<'_, B> {
    async fn run(&self) -> Result<Capabilities, Error> {
        // One after the other: what all of them take at once would stay with the process.
        self.create_only().await?;
        self.if_match().await?;
        self.race_to_create().await?;
        self.race_to_replace().await?;
        self.listing().await?;
        Ok(Capabilities {
            create_only: true,
            if_match: true,
            atomic_under_race: true,
            read_after_write: true,
            etag_is_md5: self.etag_is_md5().await?,
        })
    }

    fn name(&self, name: &str) -> String {
        format!("{}{name}", self.folder)
    }

    /// Content that no other write has, so that no ETag repeats (R5).
    fn content() -> Bytes {
        Bytes::from(format!("{{\"probe\":\"{}\"}}\n", Uuid::new_v4().simple()))
    }

    async fn put(&self, name: &str, when: When) -> Result<Option<ETag>, Error> {
        match self.bucket.put(&self.name(name), Self::content(), &when).await? {
            Written::Applied(etag) => Ok(Some(etag)),
            Written::Refused => Ok(None),
            Written::Unknown(why) => Err(Error::unavailable("Unreachable", why)),
        }
    }

    async fn must_apply(&self, check: &str, name: &str, when: When) -> Result<ETag, Error> {
        self.put(name, when).await?.ok_or_else(|| violated(check, "a write whose condition holds was refused"))
    }

    async fn must_refuse(&self, check: &str, name: &str, when: When, why: &str) -> Result<(), Error> {
        match self.put(name, when).await? {
            None => Ok(()),
            Some(_) => Err(violated(check, format!("the store accepted {why}"))),
        }
    }

    async fn create_only(&self) -> Result<(), Error> {
        let check = "create-only";
        let etag = self.must_apply(check, "create", When::Absent).await?;
        self.must_refuse(check, "create", When::Absent, "If-None-Match: * on an object that exists").await?;
        self.must_stand(check, "create", &etag).await
    }

    async fn if_match(&self) -> Result<(), Error> {
        let check = "if-match";
        let first = self.must_apply(check, "match", When::Absent).await?;
        let second = self.must_apply(check, "match", When::Matches(first.clone())).await?;
        if first == second {
            return Err(violated(check, "two different contents have one ETag"));
        }
        self.must_refuse(check, "match", When::Matches(first), "If-Match with an ETag that no longer stands").await?;
        self.must_stand(check, "match", &second).await?;
        self.must_refuse(check, "no-such", When::Matches(second), "If-Match on an object that does not exist").await
    }

    /// Read-after-write: what was written last is what is read.
    async fn must_stand(&self, check: &str, name: &str, etag: &ETag) -> Result<(), Error> {
        match self.bucket.get(&self.name(name)).await? {
            Some(object) if object.etag == *etag => Ok(()),
            Some(_) => Err(violated(check, "another version is read than was written last")),
            None => Err(violated(check, "what was written is not found")),
        }
    }

    async fn etag_is_md5(&self) -> Result<bool, Error> {
        self.must_apply("etag", "etag", When::Absent).await?;
        let object = self.bucket.get(&self.name("etag")).await?;
        Ok(object.is_some_and(|object| object.etag.is_md5_of(&object.body) == Some(true)))
    }

    async fn race_to_create(&self) -> Result<(), Error> {
        for round in 0..ROUNDS {
            let name = format!("race-create-{round}");
            let race = race("race-create", self.racers(&name, &When::Absent)).await?;
            self.must_stand("race-create", &name, &race.winner).await?;
            if race.limited {
                break;
            }
        }
        Ok(())
    }

    async fn race_to_replace(&self) -> Result<(), Error> {
        for round in 0..ROUNDS {
            let name = format!("race-match-{round}");
            let start = self.must_apply("race-match", &name, When::Absent).await?;
            let race = race("race-match", self.racers(&name, &When::Matches(start))).await?;
            self.must_stand("race-match", &name, &race.winner).await?;
            if race.limited {
                break;
            }
        }
        Ok(())
    }

    fn racers(&self, name: &str, when: &When) -> Vec<impl Future<Output = Result<Racer, Error>>> {
        (0..RACERS).map(|_| self.racer(name, when.clone())).collect::<Vec<_>>()
    }

    async fn racer(&self, name: &str, when: When) -> Result<Racer, Error> {
        match self.put(name, when).await {
            Ok(Some(etag)) => Ok(Racer::Won(etag)),
            Ok(None) => Ok(Racer::Lost),
            Err(Error::Unavailable { cause, .. }) if cause == TOO_MANY => Ok(Racer::TurnedAway),
            Err(error) => Err(error),
        }
    }

    async fn listing(&self) -> Result<(), Error> {
        let check = "list-after-write";
        // Names whose order a store could get wrong: a name, the same name longer, and one with a folder.
        let names = ["list/a", "list/a-2F", "list/a+/b", "list/b"].map(|name| self.name(name));
        let mut written = names.clone();
        written.sort_unstable();
        for name in names {
            let name = name.trim_start_matches(&self.folder).to_owned();
            self.must_apply(check, &name, When::Absent).await?;
        }
        let (listed, _) = self.bucket.list(&self.name("list/"), "", RACERS).await?;
        let listed: Vec<&str> = listed.iter().map(|object| object.name.as_str()).collect();
        if listed != written {
            return Err(violated(check, format!("wrote {written:?}, but the store lists {listed:?}")));
        }
        let (rest, _) = self.bucket.list(&self.name("list/"), &written[1], RACERS).await?;
        let rest: Vec<&str> = rest.iter().map(|object| object.name.as_str()).collect();
        if rest != written[2..] {
            return Err(violated(check, format!("after {:?}, the store lists {rest:?}", written[1])));
        }
        Ok(())
    }
}

/// What became of one of many writers under one condition.
#[derive(Debug)]
enum Racer {
    Won(ETag),
    Lost,
    /// By a store that takes only so many writes of one object a second, as R2 does: it has written nothing.
    TurnedAway,
}

/// A race that one writer won.
struct Race {
    winner: ETag,
    /// Some were turned away: the store takes the writes of one object one by one, and a further race would only take time.
    limited: bool,
}

/// Exactly one must have won, and at least one must have been refused, or there was no race.
async fn race(check: &str, racers: Vec<impl Future<Output = Result<Racer, Error>>>) -> Result<Race, Error> {
    let racers: Result<Vec<Racer>, Error> = join_all(racers).await.into_iter().collect();
    let (mut winners, mut lost, mut limited) = (Vec::new(), false, false);
    for racer in racers? {
        match racer {
            Racer::Won(etag) => winners.push(etag),
            Racer::Lost => lost = true,
            Racer::TurnedAway => limited = true,
        }
    }
    let winner = match <[ETag; 1]>::try_from(winners) {
        Ok([winner]) => winner,
        Err(winners) => {
            return Err(violated(check, format!("{} of {RACERS} writers won, exactly one may", winners.len())));
        }
    };
    if !lost {
        return Err(Error::unavailable(
            TOO_MANY,
            format!("check {check:?}: the store turned away all writers but one"),
        ));
    }
    Ok(Race { winner, limited })
}
