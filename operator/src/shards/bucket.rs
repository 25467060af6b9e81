//! The controller's documents in the bucket: the shard map, and the epoch of the controller that may write it.

use brainy_coordination::{Epoch, ShardMap, names as paths};
use brainy_storage::documents::{Documents, Swap};
use serde::{Deserialize, Serialize};

use super::Present;
use super::sessions::body;
use crate::reconcile::Error;

/// Which controller writes: `_cluster/elections/controller.json`. A Kubernetes Lease can be deleted, so its transitions
/// are no fencing token; this document's epoch is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ControllerElection {
    /// Grows with each new controller.
    epoch: Epoch,
    /// The operator process that took it.
    writer: String,
    /// Grows with each write (R5).
    revision: u64,
}

pub(super) async fn read_map(bucket: &dyn Documents) -> Result<Present, Error> {
    let Some(found) = bucket.read(paths::SHARD_MAP).await? else {
        return Ok(Present::default());
    };
    let map: ShardMap = parse(paths::SHARD_MAP, &found.body)?;
    Ok(Present { map: Some(map), version: Some(found.version) })
}

/// Writes if the map still stands as read.
pub(super) async fn write_map(bucket: &dyn Documents, read: &Present, map: &ShardMap) -> Result<(), Error> {
    applied(paths::SHARD_MAP, bucket.swap(paths::SHARD_MAP, read.version.as_ref(), body(map)?).await?)
}

/// Takes a new epoch for this process, or finds the one that it took and did not hear of. Never below `at_least`, the
/// epoch of the map that stands.
pub(super) async fn take_epoch(bucket: &dyn Documents, identity: &str, at_least: Epoch) -> Result<Epoch, Error> {
    let found = bucket.read(paths::CONTROLLER_ELECTION).await?;
    let before: Option<ControllerElection> =
        found.as_ref().map(|document| parse(paths::CONTROLLER_ELECTION, &document.body)).transpose()?;
    if let Some(ours) = before.as_ref().filter(|election| election.writer == identity && election.epoch >= at_least) {
        return Ok(ours.epoch);
    }
    let (epoch, revision) = before.map_or((Epoch(0), 0), |election| (election.epoch, election.revision));
    let next = ControllerElection {
        epoch: Epoch(epoch.max(at_least).0 + 1),
        writer: identity.to_owned(),
        revision: revision + 1,
    };
    let version = found.map(|document| document.version);
    applied(
        paths::CONTROLLER_ELECTION,
        bucket.swap(paths::CONTROLLER_ELECTION, version.as_ref(), body(&next)?).await?,
    )?;
    Ok(next.epoch)
}

/// Anything but applied ends this look: the next one reads again before it acts.
fn applied(document: &str, swap: Swap) -> Result<(), Error> {
    match swap {
        Swap::Applied(_) => Ok(()),
        Swap::Rejected => Err(Error::LostRace { document: document.to_owned() }),
        Swap::Unknown(why) => Err(Error::UnknownOutcome { document: document.to_owned(), why }),
    }
}

fn parse<T: serde::de::DeserializeOwned>(name: &str, body: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(body).map_err(|source| Error::DamagedDocument { name: name.to_owned(), source })
}
