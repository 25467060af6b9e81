//! Operations that are decided in the home of the keys: each is judged on what stands there, and becomes one conditional
//! write of that region's store. Nothing is ever decided anywhere else.

use std::sync::Arc;

use super::home::{self, Home};
use super::pending::Unsent;
use super::record::Record;
use super::region::{MAX_ATTEMPTS, Missed, Space};
use super::store::Store;
use crate::group::{Change, Judged, judge};
use crate::layers::behind::{Answers, Item};
use crate::layers::gates::Place;
use crate::performed::{Performed, Stands};
use crate::{Condition, Error, Key, Outcome, Unknown, Version};

/// Does the operations on one key.
pub(super) async fn decide(store: &Arc<Store>, space: &Arc<Space>, item: &Item) -> Answers {
    let failed = |error: Error| vec![Err(error); item.requests.len()];
    if let Err(error) = store.ready().await {
        return failed(error);
    }
    if let Err(error) = store.room().await {
        return failed(error);
    }
    let place = (Arc::clone(&space.folder), item.key.clone());
    let _alone = store.gates.alone(vec![place.clone()]).await;
    let _work = store.begin();
    space.keep(&store.spaces);
    let deciding = Deciding { store, space, item, place };
    for _ in 0..MAX_ATTEMPTS {
        match Box::pin(deciding.attempt()).await {
            Ok(Some(answers)) => return answers,
            Ok(None) => {}
            Err(error) => return failed(error),
        }
    }
    failed(Error::Contended { key: item.key.to_string(), attempts: MAX_ATTEMPTS })
}

struct Deciding<'a> {
    store: &'a Arc<Store>,
    space: &'a Arc<Space>,
    item: &'a Item,
    place: Place,
}

impl Deciding<'_> {
    /// `Ok(None)`: somebody came between, and nothing was done. `Err`: nothing was done.
    async fn attempt(&self) -> Result<Option<Answers>, Error> {
        let (store, key) = (self.store, &self.item.key);
        let (at, home, doc) = home::find_in_time(store).await?;
        if let Some(to) = &home.moving {
            // Who moves it may have died after the last word.
            if let Some((newer, _)) = home::read(store, home::index(store, to)?).await?
                && newer.epoch > home.epoch
            {
                home::learn(store, &newer);
                return Ok(None);
            }
            let detail = format!(
                "keys are about to be decided in region {to:?}: try again in a moment. If nobody moves them there any more, move them again"
            );
            return Err(Error::unavailable("HomeMoving", detail));
        }
        let stands = self.find(at).await?;
        if self.bring_own(at, &stands).await? {
            return Ok(None);
        }
        let (record, condition) = match &stands {
            Some((record, version)) => (Some(record), Condition::Version(version.clone())),
            None => (None, Condition::Absent),
        };
        let clock = &store.shared.clock;
        let time = clock.next(store.now(), record.map_or(0, Record::time).max(home.floor));
        let entry = record.and_then(Record::entry);
        let nothing = Performed::default();
        let performed = record.map_or(&nothing, Record::performed);
        // What is written has that revision.
        let judged = judge(key, Stands { revision: time - 1, entry: entry.as_ref(), performed }, &self.item.requests);
        let (value, performed) = match judged.change() {
            Change::Nothing => {
                // What was read may be what the old home had.
                return Ok(home::still(store, at, &home).await?.then(|| judged.applied(None)));
            }
            Change::Put(value) => (Some(value), judged.performed()),
            Change::Remove => (None, Performed::default()),
        };
        if let Err(error) = store.check_path(self.space, key, record.is_some()) {
            return Ok(Some(judged.failed(&error)));
        }
        if time > home.ceiling {
            // One that was raised is looked at again: only then it counts.
            home::raise(store, at, (&home, doc), time).await?;
            return Ok(None);
        }
        let stamp = (time, &store.regions[store.here].name);
        let record = match Record::new(key, stamp, value.as_ref(), performed) {
            Ok(record) => record,
            Err(error) => return Ok(Some(judged.failed(&error))),
        };
        self.write((at, &home), judged, record, &condition).await
    }

    async fn find(&self, at: usize) -> Result<Option<(Record, Version)>, Error> {
        self.store.find(at, self.space, &self.item.key).await
    }

    /// What the own region has written later, and the home does not have yet, goes first: who has written it would wonder.
    async fn bring_own(&self, at: usize, stands: &Option<(Record, Version)>) -> Result<bool, Error> {
        let store = self.store;
        if at == store.here {
            return Ok(false);
        }
        // What can't be read has no say.
        let Ok(Some((own, _))) = self.find(store.here).await else { return Ok(false) };
        if stands.as_ref().is_some_and(|(stands, _)| own.order(stands).is_le()) {
            return Ok(false);
        }
        store.check_claim()?;
        let (space, key, clock) = (self.space, &self.item.key, &store.shared.clock);
        store.regions[at].merge(at, space, key, &own, clock).await.map_err(Missed::into_error)?;
        Ok(true)
    }

    async fn write(
        &self,
        (at, home): (usize, &Home),
        judged: Judged,
        record: Record,
        condition: &Condition,
    ) -> Result<Option<Answers>, Error> {
        let (store, space, key) = (self.store, self.space, &self.item.key);
        store.check_claim()?;
        store.regions[at].register(space).await?;
        let (time, bytes) = (record.time(), record.bytes());
        let unsent = Unsent { time, at: store.now(), bytes, source: at, relay: true };
        match space.stores[at].put(key, record.to_value(), condition).await {
            Ok(Outcome::Applied(_)) => {}
            Ok(Outcome::Rejected(_)) => return Ok(None),
            Ok(Outcome::Unknown(why)) => {
                store.spread(&self.place, space, unsent, false);
                return Ok(Some(judged.unknown(&why)));
            }
            Err(error) => return Ok(Some(judged.failed(&error))),
        }
        // Written while the home was about to move, it may have been left behind.
        if !home::still(store, at, home).await.unwrap_or(false) {
            store.spread(&self.place, space, unsent, false);
            let why = "it was written in a region that may not have been the home any more";
            return Ok(Some(judged.unknown(&Unknown(why.to_owned()))));
        }
        let version = record.entry().map(|entry| entry.version);
        let reached = self.spread((at, &record), unsent).await;
        if !reached {
            let why = "it was decided, and did not reach as many regions as are asked for in time; it will";
            return Ok(Some(judged.unknown(&Unknown(why.to_owned()))));
        }
        Ok(Some(judged.applied(version.as_ref())))
    }

    /// Brings what was decided to the own region, where it is read and from where it is sent on. `false`: fewer regions have
    /// it than are asked for.
    async fn spread(&self, (at, record): (usize, &Record), unsent: Unsent) -> bool {
        let (store, key) = (self.store, &self.item.key);
        let mut reached = 1;
        let mut source = at;
        if at != store.here {
            let (here, clock) = (&store.regions[store.here], &store.shared.clock);
            if here.merge(store.here, self.space, key, record, clock).await.is_ok() {
                (reached, source) = (2, store.here);
            }
        }
        let (concern, wait) = (store.concern(), store.concern() > reached);
        let mut waits = Vec::new();
        for other in store.active() {
            if other == at || other == store.here && source == store.here {
                continue;
            }
            let unsent = Unsent { source, relay: source != store.here, ..unsent };
            match wait {
                true => waits.push(store.pending[other].note_and_wait(&self.place, self.space, unsent)),
                false => store.pending[other].note(&self.place, self.space, unsent),
            }
        }
        !wait || store.reached(waits, concern - reached).await
    }
}

impl Store {
    /// Refuses a key that one region could hold and another could not.
    pub(super) fn check_path(&self, space: &Space, key: &Key, is_there: bool) -> Result<(), Error> {
        let length = Space::FOLDER + space.folder.len() + crate::encoding::encode(key.as_str()).len();
        if is_there || length <= self.longest_path {
            return Ok(());
        }
        let problem = format!(
            "is too long for the regions: there it takes {length} bytes, and {} are allowed; use a shorter key, or fewer \
             characters other than letters and digits",
            self.longest_path
        );
        Err(Error::invalid("key", problem))
    }
}
