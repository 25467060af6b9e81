//! Where the nodes' certificates come from.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where the nodes' certificates come from. It can be changed while the cluster runs: nodes trust both authorities before the first
/// shows a certificate of the new one.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "!has(self.issuerRef) || self.issuer == 'CertManager'", "message": "tls.issuerRef names an issuer of cert-manager: it has a use with tls.issuer CertManager only. Choose that, or remove tls.issuerRef"}
]))]
pub struct TlsSpec {
    /// Who issues them.
    #[serde(default)]
    pub issuer: CertificateIssuer,
    /// The issuer of cert-manager. Absent: the operator makes one for this cluster alone, with an authority that cert-manager keeps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer_ref: Option<IssuerRef>,
}

/// Who issues the nodes' certificates.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub enum CertificateIssuer {
    /// The operator, from an authority of the cluster's own.
    #[default]
    Operator,
    /// cert-manager, which must be there.
    CertManager,
}

/// An issuer of cert-manager. Its certificates must come with the authority (`ca.crt`), and it must issue names below `svc`.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "self.group != 'cert-manager.io' || self.kind in ['Issuer', 'ClusterIssuer']", "message": "tls.issuerRef.kind must be Issuer or ClusterIssuer in group cert-manager.io; an issuer of another kind has a group of its own"}
]))]
pub struct IssuerRef {
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Its kind: Issuer (of the same namespace), ClusterIssuer, or that of an external issuer.
    #[serde(default = "default_issuer_kind")]
    #[schemars(length(min = 1, max = 63))]
    pub kind: String,
    /// Its API group.
    #[serde(default = "default_issuer_group")]
    #[schemars(length(min = 1, max = 253))]
    pub group: String,
}

fn default_issuer_kind() -> String {
    "Issuer".into()
}

fn default_issuer_group() -> String {
    "cert-manager.io".into()
}
