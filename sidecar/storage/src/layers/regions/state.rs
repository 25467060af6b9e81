//! How all stores of a process together stand.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use super::store::Store;
use super::{Progress, RegionLag, Run, Shared, home};

/// How the stores of a process stand.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RegionsState {
    /// How many stores are open.
    pub stores: u64,
    /// The regions that one of them reads, nearest first.
    pub order: Vec<Distance>,
    /// In which region so many of them have their keys decided; of the others it is not known yet.
    pub homes: BTreeMap<String, u64>,
    /// To which region the home of so many of them is about to move: their keys can't be decided meanwhile.
    pub moving: BTreeMap<String, u64>,
    /// How far each region is behind.
    pub lag: Vec<RegionLag>,
    /// What each store has done last that takes longer, and what is under way.
    pub runs: Vec<Runs>,
    /// How far stamps are ahead of the clock, in milliseconds: as far as that of some other region, or of an earlier process.
    pub ahead_ms: u64,
}

impl RegionsState {
    /// Of how many stores a region is being filled.
    pub fn filling(&self, region: &str) -> u64 {
        let runs = self.runs.iter().filter(|runs| runs.run == Run::Filling && runs.region == region);
        runs.map(|runs| runs.running).sum()
    }
}

/// How far a region is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Distance {
    /// The region.
    pub region: String,
    /// How long it took to answer when it was asked last, in microseconds, where that is measured and it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub micros: Option<u64>,
}

/// The last runs of one kind for one region, of all stores for which no other has begun since.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Runs {
    /// What is done.
    pub run: Run,
    /// For which region.
    pub region: String,
    /// Of so many stores it goes on.
    pub running: u64,
    /// Of so many it has ended well.
    pub done: u64,
    /// Of so many it has ended before its time.
    pub failed: u64,
    /// Records that were looked at.
    pub examined: u64,
    /// Records that there are, about, where a region is filled and another one has said it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
    /// Records that a region lacked.
    pub copied: u64,
    /// Why one has ended before its time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

impl Runs {
    fn add(&mut self, progress: &Progress) {
        let Progress { running, examined, total, copied, failure, .. } = progress;
        let count = match (running, failure) {
            (true, _) => &mut self.running,
            (false, None) => &mut self.done,
            (false, Some(_)) => &mut self.failed,
        };
        *count += 1;
        self.examined += examined;
        self.total = total.map(|total| total + self.total.unwrap_or(0)).or(self.total);
        self.copied += copied;
        self.failure = self.failure.take().or_else(|| failure.clone());
    }
}

/// How far each region is behind, of some stores together.
pub(super) fn lag(stores: &[Arc<Store>]) -> Vec<RegionLag> {
    let mut all: Vec<RegionLag> = Vec::new();
    for lag in stores.iter().flat_map(|store| store.lag()) {
        let Some(known) = all.iter_mut().find(|known| known.region == lag.region) else {
            all.push(lag);
            continue;
        };
        known.keys += lag.keys;
        known.bytes += lag.bytes;
        known.oldest_ms = known.oldest_ms.max(lag.oldest_ms);
        known.complete &= lag.complete;
        known.problem = known.problem.take().or(lag.problem);
    }
    all
}

pub(super) fn of(shared: &Shared) -> RegionsState {
    let stores = shared.stores.all();
    let mut state = RegionsState {
        stores: stores.len() as u64,
        lag: lag(&stores),
        ahead_ms: shared.ahead_ms(),
        ..RegionsState::default()
    };
    if let Some(store) = stores.first() {
        let distance = |at: usize| {
            let region = &store.regions[at].name;
            Distance { region: region.to_string(), micros: shared.measured.micros(region) }
        };
        state.order = store.order().into_iter().map(distance).collect();
    }
    for store in &stores {
        if let Some(home) = home::known(store) {
            *state.homes.entry(home.home).or_default() += 1;
            if let Some(to) = home.moving {
                *state.moving.entry(to).or_default() += 1;
            }
        }
        let progress = store.progress();
        if progress.region.is_empty() {
            continue;
        }
        let is_it = |runs: &Runs| runs.run == progress.run && runs.region == progress.region;
        let at = state.runs.iter().position(is_it).unwrap_or_else(|| {
            let (run, region) = (progress.run, progress.region.clone());
            state.runs.push(Runs { run, region, ..Runs::default() });
            state.runs.len() - 1
        });
        state.runs[at].add(&progress);
    }
    state.runs.sort_unstable_by(|one, other| (one.run, &one.region).cmp(&(other.run, &other.region)));
    state
}
