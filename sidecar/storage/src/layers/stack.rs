//! The layers over a process's stores, in the one order that makes sense.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::batching::{Batcher, Batching, BufferCounts, Claim, Forget, Sole};
use super::caching::{Cache, CacheCounts, CacheSize};
use super::compression::Compression;
use super::limiting::{LimitCounts, Limiter, Limiting};
use super::observing::Observing;
use super::regions::{RegionLag, RegionStores, Regions, RegionsState};
use super::tiering::{ColdStores, TieringState, Tiers};
use crate::StorageAdapter;

/// Which layers there are. The cache lies above the queue, so that a read never waits for a flush, and above compression, so
/// that a value is not decompressed for each read. The limits lie below both: what is answered from memory, or waits for a
/// flush, takes no place among the operations under way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Layers {
    /// What is kept in memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caching: Option<CacheSize>,
    /// What is written together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batching: Option<Batching>,
    /// How much is asked of the store at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limiting: Option<Limiting>,
    /// What is stored compressed. Backends do that, with the values that they seal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compression: Option<Compression>,
}

impl Layers {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// The layers of one process: all its stores share the cache and the limits.
#[derive(Clone, Debug, Default)]
pub struct LayerStack {
    cache: Option<Cache>,
    batching: Option<Batcher>,
    limiter: Option<Limiter>,
    compression: Option<Compression>,
    observing: Option<Observing>,
    tiers: Option<(Tiers, Arc<dyn ColdStores>)>,
    regions: Option<(Regions, Arc<dyn RegionStores>)>,
}

impl LayerStack {
    /// With an empty cache, and nothing under way.
    pub fn new(layers: Layers) -> Self {
        Self {
            cache: layers.caching.map(Cache::new),
            batching: layers.batching.map(Batcher::new),
            limiter: layers.limiting.map(Limiter::new),
            compression: layers.compression,
            observing: None,
            tiers: None,
            regions: None,
        }
    }

    /// The same, over stores that are watched.
    #[must_use]
    pub fn observed(self, observing: Observing) -> Self {
        Self { observing: Some(observing), ..self }
    }

    /// The same, over stores that are hot tiers, each with its cold one.
    #[must_use]
    pub fn tiered(self, tiers: Tiers, cold: Arc<dyn ColdStores>) -> Self {
        Self { tiers: Some((tiers, cold)), ..self }
    }

    /// The same, over stores that are those of the own region, each with others in others.
    #[must_use]
    pub fn in_regions(self, regions: Regions, others: Arc<dyn RegionStores>) -> Self {
        Self { regions: Some((regions, others)), ..self }
    }

    /// The regions of its stores; `None`: they are in one.
    pub fn regions(&self) -> Option<(&Regions, &dyn RegionStores)> {
        self.regions.as_ref().map(|(regions, others)| (regions, &**others))
    }

    /// How these stand, and what is wrong with them.
    pub fn regions_state(&self) -> Option<RegionsState> {
        let (regions, others) = self.regions()?;
        let mut state = regions.state();
        for (region, problem) in others.problems() {
            match state.lag.iter_mut().find(|lag| lag.region == region) {
                Some(lag) => lag.problem = Some(problem),
                // No store is open yet.
                None => state.lag.push(RegionLag { region, problem: Some(problem), ..RegionLag::default() }),
            }
        }
        Some(state)
    }

    /// The tiers of its stores; `None`: they have one.
    pub fn tiers(&self) -> Option<&Tiers> {
        self.tiers.as_ref().map(|(tiers, _)| tiers)
    }

    /// How these stand, and what is wrong with the cold ones.
    pub fn tiering_state(&self) -> Option<TieringState> {
        let (tiers, cold) = self.tiers.as_ref()?;
        let mut state = tiers.state();
        state.lag.problem = state.lag.problem.or_else(|| cold.problem());
        Some(state)
    }

    /// For the backend that the layers will lie over.
    pub fn compression(&self) -> Option<Compression> {
        self.compression
    }

    /// A store below the layers. What an earlier call has cached, also of the same store, is not found through it.
    pub fn over(&self, name: &str, store: Arc<dyn StorageAdapter>) -> Arc<dyn StorageAdapter> {
        self.over_while(name, store, Arc::new(Sole))
    }

    /// The same for a store that is this process's own only while a claim holds: what was acknowledged before it is
    /// durable, in its cold tier or in other regions is not written there after that. Its name says which cold tier it has, and
    /// which stores in other regions.
    pub fn over_while(
        &self,
        name: &str,
        store: Arc<dyn StorageAdapter>,
        claim: Arc<dyn Claim>,
    ) -> Arc<dyn StorageAdapter> {
        let store = match &self.observing {
            Some(observing) => observing.over(store),
            None => store,
        };
        let store = match &self.tiers {
            Some((tiers, cold)) => tiers.over(store, cold.cold(name), Arc::clone(&claim)),
            None => store,
        };
        let store = match &self.regions {
            Some((regions, others)) => {
                let plan = others.plan();
                let in_region = |region: &str| match region == plan.here() {
                    true => Arc::clone(&store),
                    false => others.store(region, name),
                };
                regions.over(plan.place(in_region), Arc::clone(&claim)).adapter()
            }
            None => store,
        };
        let store = match &self.limiter {
            Some(limiter) => limiter.over(store),
            None => store,
        };
        let scope = self.cache.as_ref().map(Cache::scope);
        let store = match &self.batching {
            Some(batcher) => {
                let above = scope.clone().map(|scope| Arc::new(scope) as Arc<dyn Forget>);
                batcher.over(store, claim, above)
            }
            None => store,
        };
        match scope {
            Some(scope) => scope.over(store),
            None => store,
        }
    }

    /// What was acknowledged before it was durable; `None`: nothing ever is.
    pub fn buffer_counts(&self) -> Option<BufferCounts> {
        self.batching.as_ref().and_then(Batcher::counts)
    }

    /// How often the cache had the answer; `None`: there is no cache.
    pub fn cache_counts(&self) -> Option<CacheCounts> {
        self.cache.as_ref().map(Cache::counts)
    }

    /// How busy the stores are; `None`: there is no limit.
    pub fn limit_counts(&self) -> Option<LimitCounts> {
        self.limiter.as_ref().map(Limiter::counts)
    }
}
