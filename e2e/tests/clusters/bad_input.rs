//! What the API server refuses at apply, and what the operator refuses with a condition.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use brainy_crds::condition;
use brainy_e2e::brainy::{self, Cluster};
use brainy_e2e::specs::{self, prepare_bucket};
use brainy_e2e::{Environment, with_temp_namespace};
use serde_json::Value;

/// The same files that the rules are tested with when there is no cluster.
fn bad_examples() -> anyhow::Result<Vec<(String, String)>> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../crds/examples/bad");
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        files.push((
            path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            std::fs::read_to_string(&path)?,
        ));
    }
    files.sort();
    ensure!(files.len() > 10, "the bad examples are not where they should be");
    Ok(files)
}

fn renamed(mut document: Value, namespace: &str, name: Option<&str>) -> Value {
    document["metadata"]["namespace"] = namespace.into();
    if let Some(name) = name {
        document["metadata"]["name"] = name.into();
        // One node is enough for a resource that is only there to be changed.
        document["spec"]["replicas"] = 1.into();
    }
    document
}

#[tokio::test(flavor = "multi_thread")]
async fn every_bad_example_is_refused_at_apply_with_the_rules_own_message() -> anyhow::Result<()> {
    let environment = &Environment::from_variables().await?;
    with_temp_namespace(environment, "bad", |namespace| async move {
        for (index, (file, text)) in bad_examples()?.into_iter().enumerate() {
            let first = text.lines().next().unwrap_or_default();
            let (_, message) =
                first.strip_prefix("# refused: ").and_then(|line| line.split_once(": ")).context(file.clone())?;
            let documents = brainy::documents(&text)?;
            // A pair: the first is applied for real, the second is the refused change of it.
            let name = format!("bad-{index}");
            let (refused, name) = match documents.as_slice() {
                [only] => (only, None),
                [before, after] => {
                    brainy::apply(environment, &renamed(before.clone(), &namespace, Some(&name)))
                        .await
                        .context(file.clone())?;
                    (after, Some(name.as_str()))
                }
                _ => anyhow::bail!("{file} has {} documents", documents.len()),
            };
            let error =
                match brainy::dry_run(environment, &renamed(refused.clone(), &namespace, name), name.is_some()).await {
                    Ok(()) => anyhow::bail!("{file} is not refused"),
                    Err(error) => format!("{error:#}").to_lowercase(),
                };
            ensure!(error.contains(&message.to_lowercase()), "{file}: {message:?} is not in {error:?}");
        }
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_cluster_on_the_same_bucket_and_prefix_is_refused_and_the_first_goes_on() -> anyhow::Result<()> {
    let environment = &Environment::from_variables().await?;
    with_temp_namespace(environment, "twice", |namespace| async move {
        prepare_bucket(environment, &namespace).await?;
        let first = Cluster::apply(environment, &namespace, "first", specs::shared(1, &namespace)).await?;
        first.ready().await?;
        let second = Cluster::apply(environment, &namespace, "second", specs::shared(1, &namespace)).await?;
        let refused = second
            .until_condition(condition::STORAGE_READY, "False", Some("BucketInUse"), Duration::from_secs(60))
            .await?;
        let message =
            refused.status.unwrap_or_default().conditions.into_iter().find(|c| c.type_ == condition::STORAGE_READY);
        let message = message.map(|c| c.message).unwrap_or_default();
        ensure!(message.contains(&format!("{namespace}/first")), "it does not say whose the bucket is: {message}");
        second.until_event("BucketInUse").await?;
        ensure!(second.pods().await?.is_empty(), "the second cluster has pods");
        first.ready().await?;
        Ok(())
    })
    .await
}
