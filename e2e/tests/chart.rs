//! The chart: an upgrade upgrades the CustomResourceDefinition, and an uninstall keeps it with all that it defines. In a file
//! of its own: for a moment there is no operator.

use std::path::Path;

use anyhow::{Context, ensure};
use brainy_crds::manifest;
use brainy_e2e::brainy::Cluster;
use brainy_e2e::helm::{RELEASE, chart, helm, install, values};
use brainy_e2e::{Environment, specs, with_temp_namespace};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{Api, ResourceExt};

fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

/// What the first column of `kubectl get brainyclusters` is described as.
async fn first_column(crds: &Api<CustomResourceDefinition>) -> anyhow::Result<String> {
    let definition = crds.get(manifest::NAME).await?;
    let columns = definition.spec.versions.into_iter().next().and_then(|version| version.additional_printer_columns);
    Ok(columns.into_iter().flatten().next().and_then(|column| column.description).unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_upgrades_the_definition_and_an_uninstall_keeps_it_and_every_running_node() -> anyhow::Result<()> {
    let environment = &Environment::from_variables().await?;
    let folder = std::env::temp_dir().join(format!("brainy-chart-{}", uuid::Uuid::new_v4().simple()));
    std::fs::create_dir_all(&folder)?;
    let outcome = upgraded_and_kept(environment, &folder).await;
    std::fs::remove_dir_all(&folder)?;
    outcome
}

async fn upgraded_and_kept(environment: &Environment, folder: &Path) -> anyhow::Result<()> {
    let (chart, values) = (chart(), values(folder).await?);
    let crds: Api<CustomResourceDefinition> = Api::all(environment.client.clone());
    let described = first_column(&crds).await?;

    let newer = folder.join("newer");
    copy(&chart, &newer)?;
    let file = newer.join("files").join(format!("{}.yaml", manifest::NAME));
    let text = std::fs::read_to_string(&file)?;
    ensure!(text.contains(&described), "the chart's definition is not the installed one");
    std::fs::write(&file, text.replace(&described, "changed by an upgrade"))?;
    install(&newer, &values, &[]).await?;
    ensure!(first_column(&crds).await? == "changed by an upgrade", "the upgrade did not upgrade the definition");
    install(&chart, &values, &[]).await?;
    ensure!(first_column(&crds).await? == described, "the second upgrade did not upgrade the definition");

    with_temp_namespace(environment, "chart", |namespace| async move {
        let cluster = Cluster::apply(environment, &namespace, "c", specs::isolated(1)).await?;
        cluster.ready().await?;
        let before = cluster.pods().await?.first().and_then(ResourceExt::uid);
        let uninstalled = async {
            helm(&["uninstall", RELEASE, "--wait"]).await?;
            crds.get(manifest::NAME).await.context("the uninstall took the definition away")?;
            cluster.api().get("c").await.context("the uninstall took the BrainyCluster away")?;
            let keys =
                cluster.node(0).get("/v1/kv?limit=1").await.context("the node does not serve without an operator");
            keys.map(drop)
        }
        .await;
        // Whatever came out, the tests after this one need an operator.
        install(&chart, &values, &[]).await?;
        uninstalled?;
        cluster.ready().await?;
        let after = cluster.pods().await?.first().and_then(ResourceExt::uid);
        ensure!(before.is_some() && before == after, "the node was replaced");
        Ok(())
    })
    .await
}
