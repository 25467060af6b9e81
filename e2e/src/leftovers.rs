//! What is left in a namespace after its BrainyClusters are gone. Volume claims are not counted: they are kept on purpose.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, Service, ServiceAccount};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::api::ListParams;
use kube::core::NamespaceResourceScope;
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;

/// Kind and name of everything that Kubernetes itself did not put there.
pub async fn of(client: &Client, namespace: &str) -> anyhow::Result<Vec<String>> {
    let mut left = names::<StatefulSet>(client, namespace).await?;
    left.extend(names::<Pod>(client, namespace).await?);
    left.extend(names::<Service>(client, namespace).await?);
    left.extend(names::<ConfigMap>(client, namespace).await?);
    left.extend(names::<Secret>(client, namespace).await?);
    left.extend(names::<Lease>(client, namespace).await?);
    left.extend(names::<ServiceAccount>(client, namespace).await?);
    left.extend(names::<Role>(client, namespace).await?);
    left.extend(names::<RoleBinding>(client, namespace).await?);
    left.extend(names::<PodDisruptionBudget>(client, namespace).await?);
    left.retain(|name| name != "ConfigMap/kube-root-ca.crt" && name != "ServiceAccount/default");
    Ok(left)
}

async fn names<K>(client: &Client, namespace: &str) -> anyhow::Result<Vec<String>>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
{
    let found = Api::<K>::namespaced(client.clone(), namespace).list(&ListParams::default()).await?;
    Ok(found.items.iter().map(|object| format!("{}/{}", K::kind(&()), object.name_any())).collect())
}
