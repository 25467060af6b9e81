//! The nodes' sessions in Leases (strategy Isolated).

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use brainy_coordination::session::{FoundSession, SessionRecord};
use brainy_kubernetes::documents::session_document;
use brainy_kubernetes::names;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};

use crate::reconcile::Error;
use crate::reconcile::apply::is_owned_by;
use crate::reconcile::build::selector_text;
use crate::reconcile::validate::ValidatedCluster;

/// The session in each Lease of a cluster, by the Lease's name; `None` where the node has not written one yet. One call.
pub(super) async fn from_leases(
    client: &Client,
    cluster: &ValidatedCluster,
) -> Result<BTreeMap<String, Option<FoundSession>>, Error> {
    let leases: Api<Lease> = Api::namespaced(client.clone(), &cluster.namespace);
    let ours = ListParams::default().labels(&selector_text(&cluster.name));
    let listed = leases.list(&ours).await?;
    listed
        .items
        .into_iter()
        .filter(|lease| is_owned_by(&lease.metadata, &cluster.uid))
        .map(|lease| Ok((lease.name_any(), found_in(&lease)?)))
        .collect()
}

fn found_in(lease: &Lease) -> Result<Option<FoundSession>, Error> {
    let Some(document) = session_document(lease)? else {
        return Ok(None);
    };
    let record = serde_json::from_slice(&document.body)
        .map_err(|source| Error::DamagedDocument { name: lease.name_any(), source })?;
    Ok(Some(FoundSession { record, version: document.version }))
}

/// Changes when a session says something new; a mere renewal does not change it, nor what is asked of shards or how full a
/// volume is: that is looked at now and then.
pub fn significant_hash(lease: &Lease) -> Option<u64> {
    let body = lease.annotations().get(names::SESSION_ANNOTATION)?;
    let record: SessionRecord = serde_json::from_str(body).ok()?;
    let mut hasher = DefaultHasher::new();
    let renewed = SessionRecord { revision: 0, expires: String::new(), load: Vec::new(), volume: None, ..record };
    serde_json::to_string(&renewed).ok()?.hash(&mut hasher);
    Some(hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::super::tests::record;
    use super::*;
    use brainy_coordination::ShardId;
    use brainy_coordination::session::{Requests, ShardLoad, VolumeUse};

    #[test]
    fn a_renewal_is_no_news_and_a_new_shard_is() {
        let lease = |record: &SessionRecord| {
            let mut lease = Lease::default();
            let body = serde_json::to_string(record).unwrap();
            lease.metadata.annotations = Some(BTreeMap::from([(names::SESSION_ANNOTATION.to_owned(), body)]));
            significant_hash(&lease).unwrap()
        };
        let first = record("demo-0", &[1]);
        let load = vec![ShardLoad { shard: ShardId(1), per_second: 3 }];
        let renewed = SessionRecord {
            revision: 99,
            expires: "later".into(),
            load,
            volume: Some(VolumeUse::new(1, 2)),
            regions: None,
            ..first.clone()
        };
        assert_eq!(lease(&first), lease(&renewed));
        assert_ne!(lease(&first), lease(&record("demo-0", &[1, 2])));
        let drains = SessionRecord { requests: Requests { drain: true, ..Requests::default() }, ..first.clone() };
        assert_ne!(lease(&first), lease(&drains), "a wish does not wait for the next look");
    }
}
