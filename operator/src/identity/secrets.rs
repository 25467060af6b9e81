//! The Secrets of a cluster's certificates: what is in them, and how they are read and written.

use std::collections::BTreeMap;

use brainy_kubernetes::names;
use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::PostParams;
use kube::{Api, Client, ResourceExt};

use super::cert_manager::CERTIFICATE_ANNOTATION;
use super::pair::Issued;
use crate::certificates::{self, KeyedCertificate};
use crate::reconcile::apply::must_be_ours;
use crate::reconcile::build::metadata;
use crate::reconcile::validate::ValidatedCluster;
use crate::reconcile::{Error, FIELD_MANAGER};

const AUTHORITIES: &str = "ca.crt";
const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";
/// Annotation of the nodes' Secret: who issued the certificate in it, where that was not the operator.
const ISSUER_ANNOTATION: &str = "brainy.io/certificate-issuer";
const CERT_MANAGER: &str = "CertManager";

/// Who issued a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// The operator.
    Operator,
    /// cert-manager.
    CertManager,
}

/// The Secret that the nodes mount.
pub(super) struct Mounted {
    /// Its resourceVersion.
    pub(super) version: String,
    /// The authorities that nodes trust.
    pub(super) trusted: String,
    /// What they show, with its key.
    pub(super) pair: KeyedCertificate,
    /// Who issued that.
    pub(super) origin: Origin,
}

/// The Secrets of one cluster.
pub(super) struct Secrets<'a> {
    api: Api<Secret>,
    cluster: &'a ValidatedCluster,
}

impl<'a> Secrets<'a> {
    pub(super) fn of(client: &Client, cluster: &'a ValidatedCluster) -> Self {
        Self { api: Api::namespaced(client.clone(), &cluster.namespace), cluster }
    }

    /// What the nodes mount. What is missing in it reads as empty, and is replaced.
    pub(super) async fn mounted(&self) -> Result<Option<Mounted>, Error> {
        let Some(secret) = self.owned(&names::tls_secret(&self.cluster.name)).await? else {
            return Ok(None);
        };
        let part = |key| text(&secret, key).unwrap_or_default();
        let issuer = secret.annotations().get(ISSUER_ANNOTATION);
        Ok(Some(Mounted {
            version: secret.resource_version().unwrap_or_default(),
            trusted: part(AUTHORITIES),
            pair: KeyedCertificate { certificate: part(CERTIFICATE), key: part(KEY) },
            origin: match issuer.is_some_and(|issuer| issuer == CERT_MANAGER) {
                true => Origin::CertManager,
                false => Origin::Operator,
            },
        }))
    }

    /// Writes what the nodes mount, if it is still as it was read: two operators never mix two renewals. Its new version; none: another
    /// operator came first.
    pub(super) async fn mount(
        &self,
        before: Option<&Mounted>,
        trusted: String,
        pair: &KeyedCertificate,
        origin: Origin,
    ) -> Result<Option<String>, Error> {
        let name = names::tls_secret(&self.cluster.name);
        let mut secret = tls_secret(self.cluster, name.clone(), pair, trusted);
        if origin == Origin::CertManager {
            secret.metadata.annotations =
                Some(BTreeMap::from([(ISSUER_ANNOTATION.to_owned(), CERT_MANAGER.to_owned())]));
        }
        let written = match before {
            None => self.api.create(&params(), &secret).await,
            Some(before) => {
                secret.metadata.resource_version = Some(before.version.clone());
                self.api.replace(&name, &params(), &secret).await
            }
        };
        match written {
            Ok(written) => Ok(Some(written.resource_version().unwrap_or_default())),
            Err(kube::Error::Api(status)) if status.is_already_exists() || status.is_conflict() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The operator's own authority of the cluster, made anew before it is over. Where another operator came first, its authority is the
    /// one.
    pub(super) async fn authority(&self, now: Timestamp) -> Result<KeyedCertificate, Error> {
        let name = names::ca_secret(&self.cluster.name);
        let before = self.owned(&name).await?;
        if let Some(secret) = &before {
            match (text(secret, CERTIFICATE), text(secret, KEY)) {
                (Some(certificate), Some(key)) if !certificates::ends_soon(&certificate, now) => {
                    return Ok(KeyedCertificate { certificate, key });
                }
                (Some(_), Some(_)) => {}
                _ => return Err(Error::DamagedSecret { name, key: format!("{CERTIFICATE} or {KEY}") }),
            }
        }
        let authority = certificates::new_authority(&self.cluster.name, now)?;
        let bundle = authority.certificate.clone();
        let mut secret = tls_secret(self.cluster, name.clone(), &authority, bundle);
        match before {
            None => self.api.create(&params(), &secret).await?,
            Some(before) => {
                secret.metadata.resource_version = before.resource_version();
                self.api.replace(&name, &params(), &secret).await?
            }
        };
        Ok(authority)
    }

    /// A Secret that cert-manager wrote for one of the cluster's Certificates; none: it has not. It is made to go with the cluster,
    /// which cert-manager by itself does not see to.
    pub(super) async fn issued(&self, name: &str, certificate: &str) -> Result<Option<Issued>, Error> {
        let Some(mut secret) = self.api.get_opt(name).await? else {
            return Ok(None);
        };
        let owners = secret.metadata.owner_references.get_or_insert_default();
        if !owners.iter().any(|owner| owner.uid == self.cluster.uid) {
            // Not as its controller: cert-manager may want to be that.
            owners.push(OwnerReference { controller: None, block_owner_deletion: None, ..self.cluster.owner.clone() });
            if secret.annotations().get(CERTIFICATE_ANNOTATION).map(String::as_str) != Some(certificate) {
                return Err(Error::NameTaken { kind: "Secret".into(), name: name.to_owned(), owner: None });
            }
            match self.api.replace(name, &params(), &secret).await {
                Ok(_) => {}
                // cert-manager wrote it meanwhile; the next look finds that.
                Err(kube::Error::Api(status)) if status.is_conflict() || status.is_not_found() => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
        let part = |key| text(&secret, key).unwrap_or_default();
        Ok(Some(Issued { authority: part(AUTHORITIES), certificate: part(CERTIFICATE), key: part(KEY) }))
    }

    /// Reads a Secret, which must be this cluster's own (R10).
    async fn owned(&self, name: &str) -> Result<Option<Secret>, Error> {
        let found = self.api.get_opt(name).await?;
        if let Some(secret) = &found {
            must_be_ours(self.cluster, "Secret", &secret.metadata)?;
        }
        Ok(found)
    }
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
