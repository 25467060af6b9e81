//! `brainy-operator restore`: a BrainyCluster from what stands in its bucket, when the Kubernetes cluster that it was in is lost.
//! It reads, and prints what `kubectl apply` takes; whether the place may be adopted decides the operator that sees it.

use std::fmt::Write as _;

use anyhow::{Context as _, anyhow, bail};
use brainy_coordination::marker::{ADOPT, ClusterMarker};
use brainy_kubernetes::client::bounded;
use brainy_storage::backends::s3::{Credentials as Keys, S3Settings, S3Store};
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use serde_json::{Value, json};

use crate::cli::Restore;
use crate::storage::declaration::{self, Declaration, obstacle};
use crate::storage::{Credentials, read_marker};

/// The manifest of the cluster whose data is there.
pub async fn restore(options: &Restore) -> anyhow::Result<String> {
    let settings = S3Settings {
        prefix: options.prefix.trim_matches('/').to_owned(),
        region: options.region.clone(),
        endpoint: options.endpoint.clone(),
        credentials: keys(options).await?,
        ..S3Settings::new(&options.bucket)
    };
    let place = format!("bucket {}, prefix {:?}", options.bucket, settings.prefix);
    let documents = S3Store::open(&settings).await?.documents("");
    let (marker, _) = read_marker(&documents).await.with_context(|| place.clone())?;
    let marker = marker.ok_or_else(|| anyhow!("{place}: no BrainyCluster has ever been there"))?;
    let declaration = declaration::find(&documents).await.with_context(|| place.clone())?;
    manifest(&marker, declaration.as_ref(), options.namespace.as_deref()).map_err(|why| anyhow!("{place}: {why}"))
}

async fn keys(options: &Restore) -> anyhow::Result<Keys> {
    let Some(secret) = &options.secret else {
        return Ok(options.credentials.clone().map_or(Keys::Environment, Keys::Folder));
    };
    let Some((namespace, name)) =
        secret.split_once('/').filter(|(namespace, name)| !namespace.is_empty() && !name.is_empty())
    else {
        bail!("--secret {secret:?} is not NAMESPACE/NAME");
    };
    let config = kube::Config::infer().await.context("--secret: no Kubernetes API")?;
    let secrets: Api<Secret> = Api::namespaced(bounded(&config)?, namespace);
    let found = secrets.get(name).await.with_context(|| format!("--secret {secret}"))?;
    match Credentials::from_secret(namespace, name, &found) {
        Ok(Credentials::Keys { access_key_id, secret_access_key }) => {
            Ok(Keys::Keys { access_key_id, secret_access_key })
        }
        Ok(Credentials::PodIdentity) => Ok(Keys::Environment),
        Err(problem) => bail!(problem.message),
    }
}

/// What to apply, or why not. `namespace`: another one than it was in.
fn manifest(
    marker: &ClusterMarker,
    declaration: Option<&Declaration>,
    namespace: Option<&str>,
) -> Result<String, String> {
    if let Some(why) = obstacle(declaration, marker) {
        return Err(why);
    }
    let declaration = declaration.ok_or_else(|| format!("nothing is declared of UID {}", marker.uid))?;
    let Declaration { name, generation, .. } = declaration;
    let namespace = namespace.unwrap_or(&declaration.namespace);
    let mut spec = declaration.spec.clone();
    if let Some(rollout) = spec.get_mut("rollout").and_then(Value::as_object_mut) {
        // It was of a plan that was carried out there, if it was.
        rollout.remove("approvedPlan");
    }
    let resource = json!({
        "apiVersion": "brainy.io/v1alpha1",
        "kind": "BrainyCluster",
        "metadata": {"name": name, "namespace": namespace, "annotations": {ADOPT: marker.uid}},
        "spec": spec,
    });
    let mut text = format!(
        "# BrainyCluster {}/{name} (UID {}), generation {generation}. The namespace and the Secrets that the spec names must be \
         there.\n",
        declaration.namespace, marker.uid
    );
    let regions = spec.pointer("/storage/regions").and_then(Value::as_array).into_iter().flatten();
    for bucket in spec.pointer("/storage/bucket").into_iter().chain(regions.filter_map(|region| region.get("bucket"))) {
        if let Some(secret) = bucket.get("credentialsSecret").and_then(Value::as_str) {
            let name = bucket.get("name").and_then(Value::as_str).unwrap_or_default();
            let _never_fails = writeln!(text, "# Keys of the bucket {name}: Secret {namespace}/{secret}.");
        }
    }
    if spec.get("paused") == Some(&Value::Bool(true)) {
        text.push_str("# It was paused, and so it will be: nothing is adopted until spec.paused is false.\n");
    }
    text.push_str(&serde_yaml::to_string(&resource).map_err(|error| error.to_string())?);
    Ok(text)
}

#[cfg(test)]
mod tests {
    use brainy_crds::{BrainyCluster, manifest as manifest_of_types, rules};

    use super::*;
    use crate::fixtures::shared;
    use crate::reconcile::validate::validate;
    use crate::storage::declaration::Sessions;

    fn marker(uid: &str) -> ClusterMarker {
        let marker =
            json!({"uid": uid, "namespace": "team", "name": "demo", "kubernetes": "k", "shards": 256, "revision": 1});
        serde_json::from_value(marker).unwrap()
    }

    fn declared(change: impl FnOnce(&mut BrainyCluster)) -> Declaration {
        let mut cluster = shared();
        change(&mut cluster);
        Declaration::of(&cluster, Sessions::Bucket, "me")
    }

    #[test]
    fn what_is_printed_is_the_cluster_as_it_was_declared_and_names_whose_data_it_adopts() {
        let zones = ["west-1a", "west-1b"].map(String::from).to_vec();
        let declaration = declared(|cluster| {
            cluster.spec.rollout.approved_plan = Some("1-2-3-4".into());
            cluster.spec.zones.clone_from(&zones);
        });
        let text = manifest(&marker("1111-2222"), Some(&declaration), None).unwrap();
        assert!(text.contains("Secret team/s3-keys"), "{text}");
        let resource: Value = serde_yaml::from_str(&text).unwrap();
        assert_eq!(rules::check(&resource, None).unwrap(), [], "the API server takes it");
        let mut made: BrainyCluster = serde_json::from_value(resource).unwrap();
        assert_eq!(made.spec.zones, zones, "its nodes are named alike");
        made.spec.zones.clear();
        assert_eq!(made.spec, shared().spec, "the approval of an earlier plan apart");
        made.metadata.uid = Some("3333".into());
        let validated = validate(&made).unwrap();
        assert_eq!(validated.adopt.as_deref(), Some("1111-2222"));
        assert_eq!((validated.namespace.as_str(), validated.name.as_str()), ("team", "demo"));
    }

    /// A spec in which every field says something else than it does when it is left out.
    fn everything() -> Value {
        json!({
            "replicas": 5, "zones": ["west-1a", "west-1b"], "shards": 8,
            "storage": {
                "strategy": "Shared",
                "bucket": {
                    "provider": "S3", "name": "data", "prefix": "demo", "region": "eu-west-1", "endpoint": "http://s3.store.svc:7070",
                    "credentialsSecret": "s3-keys",
                },
                "layers": [{"type": "Caching", "caching": {"maxEntries": 5, "maxMegabytes": 6}}, {"type": "Compression"}],
            },
            "coordination": {
                "pattern": "StorageNative", "lease": {"durationSeconds": 20, "renewSeconds": 5},
                "placement": {"balance": "Load", "maxMoves": 3},
            },
            "application": {"image": "app:1", "command": ["/app"], "args": ["serve"], "env": [{"name": "COLOUR", "value": "blue"}]},
            "s3": {"enabled": true, "access": "Anyone", "listPageSize": 7},
            "pod": {
                "resources": {"requests": {"cpu": "50m"}}, "nodeSelector": {"disk": "fast"}, "labels": {"team": "a"},
                "annotations": {"example.org/a": "1"}, "priorityClassName": "high",
                "tolerations": [{"key": "dedicated", "operator": "Exists"}],
                "tracing": {"endpoint": "http://collector:4318", "samplePercent": 7},
            },
            "tls": {"issuer": "CertManager", "issuerRef": {"name": "ours"}},
            "deletionPolicy": "Delete", "paused": true, "rollout": {"approval": "Manual"},
        })
    }

    #[test]
    fn no_field_of_the_spec_is_lost() {
        let schema = manifest_of_types::schema().unwrap();
        let fields = schema["properties"]["spec"]["properties"].as_object().unwrap();
        let spec = everything();
        assert_eq!(fields.keys().find(|field| spec.get(field.as_str()).is_none()), None, "a field that is not tried");
        let cluster = crate::fixtures::cluster("demo", spec);
        let declaration = Declaration::of(&cluster, Sessions::Bucket, "me");
        let text = manifest(&marker("1111-2222"), Some(&declaration), None).unwrap();
        let made: BrainyCluster = serde_yaml::from_str(&text).unwrap();
        assert_eq!(made.spec, cluster.spec);
    }

    #[test]
    fn what_is_declared_of_another_cluster_is_not_printed_as_this_one_s() {
        let why = manifest(&marker("5555-6666"), Some(&declared(|_| {})), None).unwrap_err();
        assert!(why.contains("1111-2222") && why.contains("5555-6666"), "{why}");
    }

    #[test]
    fn it_can_be_put_into_another_namespace_and_says_what_it_waits_for() {
        let declaration = declared(|cluster| cluster.spec.paused = true);
        let text = manifest(&marker("1111-2222"), Some(&declaration), Some("new")).unwrap();
        let resource: Value = serde_yaml::from_str(&text).unwrap();
        assert_eq!(resource["metadata"]["namespace"], "new");
        assert!(text.contains("Secret new/s3-keys") && text.contains("spec.paused"), "{text}");
    }

    #[test]
    fn what_could_not_be_adopted_is_not_printed() {
        assert!(manifest(&marker("1111-2222"), None, None).unwrap_err().contains("earlier version"));
        let consensus = Declaration { sessions: Sessions::Nodes, ..declared(|_| {}) };
        assert!(manifest(&marker("1111-2222"), Some(&consensus), None).unwrap_err().contains("Consensus"));
    }
}
