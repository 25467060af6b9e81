//! The objects of cert-manager that stand for a cluster's certificates. Pure. Only the fields that the operator writes or reads.
//!
//! cert-manager writes what it issues to a Secret of its own, which no pod mounts: nodes get it from the operator, once they trust
//! the authority that it is of.

use brainy_crds::IssuerRef;
use brainy_kubernetes::names;
use kube::CustomResource;
use serde::{Deserialize, Serialize};

use crate::certificates;
use crate::reconcile::build::metadata;
use crate::reconcile::validate::ValidatedCluster;

/// Its API group.
const GROUP: &str = "cert-manager.io";
/// The annotation by which cert-manager says for which Certificate it wrote a Secret.
pub(super) const CERTIFICATE_ANNOTATION: &str = "cert-manager.io/certificate-name";

/// Ten years; the last third of it is for its renewal.
const AUTHORITY_DURATION: &str = "87600h0m0s";
const AUTHORITY_RENEW_BEFORE: &str = "29200h0m0s";
/// 90 days, of which the last 30 are for its renewal.
const NODE_DURATION: &str = "2160h0m0s";
const NODE_RENEW_BEFORE: &str = "720h0m0s";

/// What an Issuer signs with.
#[derive(CustomResource, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[kube(
    group = "cert-manager.io",
    version = "v1",
    kind = "Issuer",
    namespaced,
    schema = "disabled",
    status = "ConditionsStatus"
)]
#[serde(rename_all = "camelCase")]
pub struct IssuerSpec {
    /// Each certificate with its own key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub self_signed: Option<SelfSigned>,
    /// With an authority.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<Authority>,
}

/// There is nothing to say.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
pub struct SelfSigned {}

/// An authority in a Secret.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Authority {
    /// The Secret.
    pub secret_name: String,
}

/// A certificate that is wanted.
#[derive(CustomResource, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[kube(
    group = "cert-manager.io",
    version = "v1",
    kind = "Certificate",
    namespaced,
    schema = "disabled",
    status = "ConditionsStatus"
)]
#[serde(rename_all = "camelCase")]
pub struct CertificateSpec {
    /// Where it is written to.
    pub secret_name: String,
    /// Who issues it.
    pub issuer_ref: Reference,
    /// It may sign others.
    #[serde(default, rename = "isCA", skip_serializing_if = "std::ops::Not::not")]
    pub is_ca: bool,
    /// A name for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub common_name: Option<String>,
    /// The names that it is for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dns_names: Vec<String>,
    /// What it may be used for.
    #[serde(default)]
    pub usages: Vec<String>,
    /// How long it lasts.
    pub duration: String,
    /// How long before its end it is renewed.
    pub renew_before: String,
    /// Its key.
    pub private_key: PrivateKey,
}

/// The key of a certificate.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct PrivateKey {
    /// What kind.
    pub algorithm: String,
    /// Its length, or the curve.
    pub size: i32,
    /// How it is written.
    pub encoding: String,
    /// Whether a renewal makes a new one.
    pub rotation_policy: String,
}

/// Names an issuer.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
pub struct Reference {
    /// Its name.
    pub name: String,
    /// Its kind.
    pub kind: String,
    /// Its API group.
    pub group: String,
}

impl From<&IssuerRef> for Reference {
    fn from(issuer: &IssuerRef) -> Self {
        Self { name: issuer.name.clone(), kind: issuer.kind.clone(), group: issuer.group.clone() }
    }
}

/// What cert-manager says of both.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ConditionsStatus {
    /// Its conditions.
    #[serde(default)]
    pub conditions: Vec<Said>,
}

/// A condition of cert-manager: unlike Kubernetes' own it may lack any part.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
pub struct Said {
    /// Of what.
    #[serde(default, rename = "type")]
    pub type_: String,
    /// True, False or Unknown.
    #[serde(default)]
    pub status: String,
    /// In a word.
    #[serde(default)]
    pub reason: String,
    /// In a sentence.
    #[serde(default)]
    pub message: String,
}

/// What the operator makes of them for a cluster.
#[derive(Clone, Debug)]
pub(super) struct Wished {
    /// The cluster's own authority; none where the spec names an issuer.
    pub(super) chain: Option<Chain>,
    /// The nodes' certificate.
    pub(super) node: Certificate,
}

/// An authority that cert-manager keeps for one cluster.
#[derive(Clone, Debug)]
pub(super) struct Chain {
    /// Signs the authority's certificate only.
    pub(super) self_signed: Issuer,
    /// The authority's certificate.
    pub(super) authority: Certificate,
    /// Signs the nodes' certificate.
    pub(super) issuer: Issuer,
}

/// The objects of a cluster.
pub(super) fn build(cluster: &ValidatedCluster, issuer: Option<&IssuerRef>) -> Wished {
    let name = &cluster.name;
    let issued_by = |name: String| Reference { name, kind: "Issuer".into(), group: GROUP.into() };
    let node = CertificateSpec {
        secret_name: names::issued_secret(name),
        issuer_ref: issuer.map_or_else(|| issued_by(names::authority_issuer(name)), Reference::from),
        dns_names: vec![certificates::wildcard(name, &cluster.namespace)],
        usages: ["digital signature", "server auth", "client auth"].map(Into::into).into(),
        duration: NODE_DURATION.into(),
        renew_before: NODE_RENEW_BEFORE.into(),
        private_key: private_key(),
        ..CertificateSpec::default()
    };
    let chain = || {
        let authority = CertificateSpec {
            secret_name: names::issued_authority_secret(name),
            issuer_ref: issued_by(names::self_signed_issuer(name)),
            is_ca: true,
            common_name: Some(format!("brainy-ca-{name}")),
            usages: ["cert sign", "crl sign"].map(Into::into).into(),
            duration: AUTHORITY_DURATION.into(),
            renew_before: AUTHORITY_RENEW_BEFORE.into(),
            private_key: private_key(),
            ..CertificateSpec::default()
        };
        let signs = Authority { secret_name: names::issued_authority_secret(name) };
        Chain {
            self_signed: self::issuer(
                cluster,
                names::self_signed_issuer(name),
                IssuerSpec { self_signed: Some(SelfSigned {}), ca: None },
            ),
            authority: certificate(cluster, names::authority_issuer(name), authority),
            issuer: self::issuer(
                cluster,
                names::authority_issuer(name),
                IssuerSpec { self_signed: None, ca: Some(signs) },
            ),
        }
    };
    Wished { chain: issuer.is_none().then(chain), node: certificate(cluster, names::node_certificate(name), node) }
}

/// A renewal makes a new key: one that has leaked is of no use for longer than a certificate lasts.
fn private_key() -> PrivateKey {
    PrivateKey { algorithm: "ECDSA".into(), size: 256, encoding: "PKCS8".into(), rotation_policy: "Always".into() }
}

fn certificate(cluster: &ValidatedCluster, name: String, spec: CertificateSpec) -> Certificate {
    Certificate { metadata: metadata(cluster, name), spec, status: None }
}

fn issuer(cluster: &ValidatedCluster, name: String, spec: IssuerSpec) -> Issuer {
    Issuer { metadata: metadata(cluster, name), spec, status: None }
}

/// What keeps cert-manager from issuing, in its own words: what it says of the certificate, or of what that waits for.
pub(super) fn trouble(certificate: &Certificate) -> Option<String> {
    let said = certificate.status.iter().flat_map(|status| &status.conditions);
    let by_type = |type_: &str| said.clone().find(|condition| condition.type_ == type_);
    // A renewal that failed leaves the certificate ready until it is over.
    let failed = |issuing: &&Said| issuing.status == "False" && issuing.reason != "Issued";
    if let Some(failed) = by_type("Issuing").filter(failed) {
        return Some(format!("{}: {}", failed.reason, failed.message));
    }
    match by_type("Ready") {
        Some(ready) if ready.status == "True" => None,
        Some(ready) => Some(format!("{}: {}", ready.reason, ready.message)),
        None => Some("cert-manager has said nothing of it yet: is its controller running?".to_owned()),
    }
}

/// What cert-manager says of an issuer that is not ready.
pub(super) fn issuer_trouble(issuer: &Issuer) -> Option<String> {
    let said = issuer.status.iter().flat_map(|status| &status.conditions);
    let ready = said.clone().find(|condition| condition.type_ == "Ready")?;
    (ready.status != "True").then(|| format!("{}: {}", ready.reason, ready.message))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::fixtures::isolated;
    use crate::reconcile::validate::validate;

    fn wished(tls: Value) -> Wished {
        let mut cluster = isolated();
        cluster.spec.tls = serde_json::from_value(tls).unwrap();
        let validated = validate(&cluster).unwrap();
        let issuer = cluster.spec.tls.and_then(|tls| tls.issuer_ref);
        build(&validated, issuer.as_ref())
    }

    #[test]
    fn without_an_issuer_the_cluster_gets_an_authority_of_its_own() {
        let Wished { chain, node } = wished(json!({"issuer": "CertManager"}));
        let Chain { self_signed, authority, issuer } = chain.unwrap();
        insta::assert_yaml_snapshot!("chain", (self_signed, authority, issuer));
        insta::assert_yaml_snapshot!("node", node);
    }

    #[test]
    fn with_an_issuer_nothing_is_asked_for_but_a_certificate_of_it() {
        let named = wished(json!({"issuer": "CertManager", "issuerRef": {"name": "company", "kind": "ClusterIssuer"}}));
        assert!(named.chain.is_none());
        let expected = Reference { name: "company".into(), kind: "ClusterIssuer".into(), group: GROUP.into() };
        assert_eq!(named.node.spec.issuer_ref, expected);
    }

    #[test]
    fn what_keeps_cert_manager_from_issuing_is_said_in_its_own_words() {
        let said = |conditions: Value| {
            let mut certificate = wished(json!({"issuer": "CertManager"})).node;
            certificate.status = serde_json::from_value(json!({"conditions": conditions})).unwrap();
            trouble(&certificate)
        };
        let condition = |type_: &str, status: &str, reason: &str| json!({"type": type_, "status": status, "reason": reason, "message": "words"});
        assert_eq!(said(json!([condition("Ready", "True", "Ready")])), None);
        assert_eq!(said(json!([condition("Ready", "False", "DoesNotExist")])), Some("DoesNotExist: words".into()));
        let failed = json!([condition("Ready", "True", "Ready"), condition("Issuing", "False", "Failed")]);
        assert_eq!(said(failed), Some("Failed: words".into()), "a renewal fails long before the certificate is over");
        let renews = json!([condition("Ready", "True", "Ready"), condition("Issuing", "True", "Renewing")]);
        assert_eq!(said(renews), None);
        let renewed = json!([condition("Ready", "True", "Ready"), condition("Issuing", "False", "Issued")]);
        assert_eq!(said(renewed), None);
        assert!(said(json!([])).unwrap().contains("is its controller running"));
    }
}
