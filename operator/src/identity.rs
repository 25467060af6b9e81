//! The Secrets of node-to-node traffic: the cluster's authority (read by the operator alone) and the nodes' certificate.
//! Both are made once and left alone; the certificate is renewed when less than a third of its life is left.

use std::collections::BTreeMap;

use brainy_kubernetes::names;
use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::PostParams;
use kube::{Api, Client, ResourceExt};

use crate::certificates::{self, KeyedCertificate};
use crate::reconcile::apply::must_be_ours;
use crate::reconcile::build::metadata;
use crate::reconcile::validate::ValidatedCluster;
use crate::reconcile::{Error, FIELD_MANAGER};

const AUTHORITIES: &str = "ca.crt";
const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";

/// Makes sure that the nodes have a certificate that lasts. Says until when, in seconds since 1970.
pub async fn ensure(client: &Client, cluster: &ValidatedCluster, now: Timestamp) -> Result<Option<i64>, Error> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &cluster.namespace);
    let wildcard = certificates::wildcard(&cluster.name, &cluster.namespace);
    let present = owned(&secrets, &names::tls_secret(&cluster.name), cluster).await?;
    let certificate = present.as_ref().and_then(|secret| text(secret, CERTIFICATE)).unwrap_or_default();
    if !certificates::needs_renewal(&certificate, &wildcard, now) {
        return Ok(certificates::expires(&certificate));
    }
    let authority = authority(&secrets, cluster, now).await?;
    let node = certificates::issue(&authority, &wildcard, now)?;
    let before = present.as_ref().and_then(|secret| text(secret, AUTHORITIES));
    let bundle = certificates::trust_bundle(&authority.certificate, before.as_deref(), now);
    let mut secret = tls_secret(cluster, names::tls_secret(&cluster.name), &node, bundle);
    match present {
        None => write(secrets.create(&params(), &secret).await)?,
        Some(present) => {
            // Conditional on what was read: two operators never mix two renewals.
            secret.metadata.resource_version = present.resource_version();
            write(secrets.replace(&secret.name_any(), &params(), &secret).await)?;
        }
    }
    tracing::info!(cluster = cluster.name, namespace = cluster.namespace, "issued a node certificate");
    Ok(certificates::expires(&node.certificate))
}

/// The cluster's authority. Create-only: where another operator came first, its authority is the one.
async fn authority(
    secrets: &Api<Secret>,
    cluster: &ValidatedCluster,
    now: Timestamp,
) -> Result<KeyedCertificate, Error> {
    let name = names::ca_secret(&cluster.name);
    if let Some(secret) = owned(secrets, &name, cluster).await? {
        return match (text(&secret, CERTIFICATE), text(&secret, KEY)) {
            (Some(certificate), Some(key)) => Ok(KeyedCertificate { certificate, key }),
            _ => Err(Error::DamagedSecret { name, key: format!("{CERTIFICATE} or {KEY}") }),
        };
    }
    let authority = certificates::new_authority(&cluster.name, now)?;
    let bundle = authority.certificate.clone();
    secrets.create(&params(), &tls_secret(cluster, name, &authority, bundle)).await?;
    Ok(authority)
}

/// Reads a Secret, which must be this cluster's own (R10).
async fn owned(secrets: &Api<Secret>, name: &str, cluster: &ValidatedCluster) -> Result<Option<Secret>, Error> {
    let found = secrets.get_opt(name).await?;
    if let Some(secret) = &found {
        must_be_ours(cluster, "Secret", &secret.metadata)?;
    }
    Ok(found)
}

fn tls_secret(cluster: &ValidatedCluster, name: String, pair: &KeyedCertificate, authorities: String) -> Secret {
    let bytes = |text: &str| ByteString(text.as_bytes().to_vec());
    Secret {
        metadata: metadata(cluster, name),
        type_: Some("kubernetes.io/tls".into()),
        data: Some(BTreeMap::from([
            (AUTHORITIES.to_owned(), bytes(&authorities)),
            (CERTIFICATE.to_owned(), bytes(&pair.certificate)),
            (KEY.to_owned(), bytes(&pair.key)),
        ])),
        ..Secret::default()
    }
}

fn text(secret: &Secret, key: &str) -> Option<String> {
    let bytes = secret.data.as_ref()?.get(key)?;
    String::from_utf8(bytes.0.clone()).ok()
}

fn params() -> PostParams {
    PostParams { field_manager: Some(FIELD_MANAGER.into()), dry_run: false }
}

/// A lost race is no failure: the other operator's certificate is as good.
fn write<T>(result: Result<T, kube::Error>) -> Result<(), Error> {
    match result {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.is_already_exists() || status.is_conflict() => Ok(()),
        Err(error) => Err(error.into()),
    }
}
