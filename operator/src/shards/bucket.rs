//! A cluster whose coordination documents are in a bucket (strategies Namespaced and Shared).

use std::collections::BTreeSet;
use std::time::Duration;

use brainy_coordination::bucket::look::Seen;
use brainy_coordination::bucket::operator::{self, Part};
use brainy_coordination::bucket::spec::Pattern;
use brainy_coordination::controller::Rules;
use brainy_coordination::placement::Policy;
use brainy_storage::documents::Documents;

use super::{Controller, Summary, configmap};
use crate::reconcile::Error;
use crate::reconcile::build::cluster_spec;

/// What is remembered of one cluster's bucket between looks.
#[derive(Debug, Default)]
pub(super) struct Memory {
    part: operator::Memory,
}

impl Controller<'_> {
    /// All nodes are to stop, and every shard is to stay whose it is. Nodes that place shards by themselves have to know that.
    pub async fn lay_to_rest(&mut self, placement: Policy) -> Result<(), Error> {
        if let (Some(bucket), Pattern::StorageNative) = (self.bucket, self.cluster.pattern) {
            let spec = cluster_spec(self.cluster, self.identity, placement, &BTreeSet::new());
            operator::lay_to_rest(&**bucket, spec, &mut self.memory.bucket.part).await?;
        }
        Ok(())
    }

    pub(super) async fn run_shared(&mut self, bucket: &dyn Documents) -> Result<Summary, Error> {
        let copy = configmap::read(self.client, self.cluster).await?;
        let placement = self.placement().await;
        let zones = placement.zones.clone();
        let part = Part {
            documents: bucket,
            spec: cluster_spec(self.cluster, self.identity, placement, &BTreeSet::new()),
            shards: self.cluster.shards,
            rules: Rules::Shared,
            ttl: Duration::from_secs(self.cluster.lease_seconds),
            published: copy.map.as_ref().map_or(0, |copy| copy.revision),
            clock: self.clock,
            memory: &mut self.memory.bucket.part,
        };
        let Seen { map, nodes, waiting, next_lapse, .. } = part.run().await?;
        if let Some(map) = &map {
            // The bucket first, the copy after: what nodes read from the copy is always in the bucket.
            self.show(&copy, map, &nodes, (Some(bucket), &zones)).await?;
        }
        let mut summary = Summary::new(map, &nodes, self.cluster, Rules::Shared, waiting, BTreeSet::new());
        summary.next_lapse = next_lapse;
        Ok(summary)
    }
}
