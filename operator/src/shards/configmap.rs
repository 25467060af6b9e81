//! The shard map in the ConfigMap `<cluster>-shard-map`. Its resourceVersion is the compare-and-swap.

use std::collections::BTreeMap;

use brainy_coordination::ShardMap;
use brainy_kubernetes::names;
use brainy_storage::documents::DocumentVersion;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::PostParams;
use kube::{Api, Client, ResourceExt};

use super::Present;
use crate::reconcile::apply::must_be_ours;
use crate::reconcile::build::metadata;
use crate::reconcile::validate::ValidatedCluster;
use crate::reconcile::{Error, FIELD_MANAGER};

/// The published map. A ConfigMap of the name that is not this cluster's is refused (R10).
pub(super) async fn read(client: &Client, cluster: &ValidatedCluster) -> Result<Present, Error> {
    let name = names::shard_map(&cluster.name);
    let Some(found) = api(client, cluster).get_opt(&name).await? else {
        return Ok(Present::default());
    };
    must_be_ours(cluster, "ConfigMap", &found.metadata)?;
    let version = found.resource_version().map(DocumentVersion);
    let map = match found.data.as_ref().and_then(|data| data.get(names::SHARD_MAP_KEY)) {
        Some(body) => Some(serde_json::from_str(body).map_err(|source| Error::DamagedDocument { name, source })?),
        None => None,
    };
    Ok(Present { map, version })
}

/// The map alone, for what is only told to people.
pub async fn published(client: &Client, cluster: &ValidatedCluster) -> Result<Option<ShardMap>, Error> {
    Ok(read(client, cluster).await?.map)
}

/// Writes if the ConfigMap still stands as read. A lost race is an error: the next look decides anew.
pub(super) async fn write(
    client: &Client,
    cluster: &ValidatedCluster,
    read: &Present,
    map: &ShardMap,
) -> Result<(), Error> {
    let name = names::shard_map(&cluster.name);
    let body = serde_json::to_string(map).map_err(|source| Error::DamagedDocument { name, source })?;
    swap(client, cluster, read, BTreeMap::from([(names::SHARD_MAP_KEY.to_owned(), body)])).await
}

/// Removes the map, if there is one: no node goes by it any more, and the next controller must not either.
pub async fn forget(client: &Client, cluster: &ValidatedCluster) -> Result<(), Error> {
    let there = read(client, cluster).await?;
    match there.map {
        Some(_) => swap(client, cluster, &there, BTreeMap::new()).await,
        None => Ok(()),
    }
}

async fn swap(
    client: &Client,
    cluster: &ValidatedCluster,
    read: &Present,
    data: BTreeMap<String, String>,
) -> Result<(), Error> {
    let name = names::shard_map(&cluster.name);
    let mut object = ConfigMap { metadata: metadata(cluster, name.clone()), data: Some(data), ..ConfigMap::default() };
    let params = PostParams { field_manager: Some(FIELD_MANAGER.into()), dry_run: false };
    let api = api(client, cluster);
    let written = match &read.version {
        None => api.create(&params, &object).await,
        Some(version) => {
            object.metadata.resource_version = Some(version.0.clone());
            api.replace(&name, &params, &object).await
        }
    };
    match written {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.is_conflict() || status.is_already_exists() => {
            Err(Error::LostRace { document: name })
        }
        Err(error) => Err(error.into()),
    }
}

fn api(client: &Client, cluster: &ValidatedCluster) -> Api<ConfigMap> {
    Api::namespaced(client.clone(), &cluster.namespace)
}
