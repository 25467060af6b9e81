//! Small disks in the memory of the workers, as volumes of a test's own: where volumes are folders of one large disk, none is
//! ever full.

use k8s_openapi::api::core::v1::PersistentVolume;
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::DeleteParams;
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::helper::{self, Rights};
use crate::{Environment, brainy, hosts};

/// Disks of one size, and the StorageClass that gives them out.
pub struct Disks {
    environment: Environment,
    /// Also the name of the class.
    name: String,
    /// The worker of each.
    hosts: Vec<String>,
}

/// Works with so many disks of a size, named after what is unique to the test.
pub async fn with_disks<F>(
    environment: &Environment,
    name: &str,
    count: usize,
    mebibytes: u64,
    work: impl FnOnce(Disks) -> F,
) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<()>>,
{
    let workers = hosts::workers(environment).await?;
    let hosts: Vec<String> = workers.iter().cycle().take(count).cloned().collect();
    let disks = || Disks { environment: environment.clone(), name: name.to_owned(), hosts: hosts.clone() };
    let outcome = async {
        disks().make(mebibytes).await?;
        work(disks()).await
    };
    let outcome = outcome.await;
    let removed = disks().remove().await;
    outcome.and(removed)
}

impl Disks {
    /// The StorageClass.
    pub fn class(&self) -> &str {
        &self.name
    }

    fn volume(&self, at: usize) -> String {
        format!("{}-{at}", self.name)
    }

    /// Where its host has it.
    fn path(&self, at: usize) -> String {
        format!("{}/{}", helper::DISKS, self.volume(at))
    }

    async fn make(&self, mebibytes: u64) -> anyhow::Result<()> {
        let class = json!({
            "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": self.name},
            "provisioner": "kubernetes.io/no-provisioner", "volumeBindingMode": "WaitForFirstConsumer",
        });
        brainy::apply(&self.environment, &class).await?;
        self.resize(mebibytes).await?;
        for (at, host) in self.hosts.iter().enumerate() {
            let here = json!({"key": "kubernetes.io/hostname", "operator": "In", "values": [host]});
            let volume = json!({
                "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": self.volume(at)},
                "spec": {
                    // What claims ask for: the true size is what a test is about.
                    "capacity": {"storage": "1Gi"},
                    "accessModes": ["ReadWriteOnce"],
                    "persistentVolumeReclaimPolicy": "Retain",
                    "storageClassName": self.name,
                    "local": {"path": self.path(at)},
                    "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [here]}]}},
                },
            });
            brainy::apply(&self.environment, &volume).await?;
        }
        Ok(())
    }

    /// Gives all of them this size, whoever uses them meanwhile.
    pub async fn resize(&self, mebibytes: u64) -> anyhow::Result<()> {
        for (at, host) in self.hosts.iter().enumerate() {
            let path = self.path(at);
            let arguments = ["disk", "--path", &path, "--mebibytes", &mebibytes.to_string()].map(str::to_owned);
            helper::run(&self.environment, "disk", host, &arguments, Rights::Disks).await?;
        }
        Ok(())
    }

    /// Takes all away. A disk that is still in use goes when it no longer is.
    async fn remove(&self) -> anyhow::Result<()> {
        for at in 0..self.hosts.len() {
            delete::<PersistentVolume>(&self.environment, &self.volume(at)).await?;
        }
        delete::<StorageClass>(&self.environment, &self.name).await?;
        self.resize(0).await
    }
}

async fn delete<K>(environment: &Environment, name: &str) -> anyhow::Result<()>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
{
    let api: Api<K> = Api::all(environment.client.clone());
    match api.delete(name, &DeleteParams::default()).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(answer)) if answer.code == 404 => Ok(()),
        Err(error) => Err(error.into()),
    }
}
