//! The keys of S3: a Secret by which the containers of the pods sign. The operator makes it, and changes nothing in it: whoever wants
//! other keys deletes it. It goes with the cluster: the operator has no right to delete Secrets.

use std::collections::BTreeMap;
use std::time::Duration;

use brainy_crds::S3Access;
use brainy_kubernetes::names;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::PostParams;
use uuid::Uuid;

use super::apply::must_be_ours;
use super::build::metadata;
use super::validate::ValidatedCluster;
use super::{Error, FIELD_MANAGER};
use crate::context::Context;

/// Time between looks whether they are still there.
const CHECK: Duration = Duration::from_secs(60);

/// What is remembered of a cluster's keys between looks.
#[derive(Debug, Default)]
pub struct Memory {
    /// When they were there.
    there: Option<Duration>,
}

/// Sees that the keys are there where they are wanted.
pub(super) async fn keep(context: &Context, cluster: &ValidatedCluster, memory: &mut Memory) -> Result<(), Error> {
    let now = context.clock.now();
    let wanted = cluster.s3.is_some_and(|s3| s3.access == S3Access::Keys);
    if !wanted || memory.there.is_some_and(|at| now.saturating_sub(at) < CHECK) {
        return Ok(());
    }
    let name = names::s3_secret(&cluster.name);
    let api: Api<Secret> = Api::namespaced(context.client.clone(), &cluster.namespace);
    match api.get_metadata_opt(&name).await? {
        Some(there) => must_be_ours(cluster, "Secret", &there.metadata)?,
        None => {
            context.must_lead()?;
            let params = PostParams { field_manager: Some(FIELD_MANAGER.into()), dry_run: false };
            match api.create(&params, &keys(cluster, name)).await {
                Ok(_) => {}
                // Another operator came first: the next look sees whose it is.
                Err(kube::Error::Api(status)) if status.is_already_exists() => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }
    memory.there = Some(now);
    Ok(())
}

/// New keys: the secret has 244 random bits.
fn keys(cluster: &ValidatedCluster, name: String) -> Secret {
    let random = || Uuid::new_v4().simple().to_string();
    let text = |text: String| ByteString(text.into_bytes());
    Secret {
        metadata: metadata(cluster, name),
        type_: Some("Opaque".into()),
        data: Some(BTreeMap::from([
            ("accessKeyId".to_owned(), text(random()[..20].to_uppercase())),
            ("secretAccessKey".to_owned(), text(random() + &random())),
        ])),
        ..Secret::default()
    }
}
