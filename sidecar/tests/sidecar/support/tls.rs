//! Certificate authorities and nodes' certificates, as the operator makes them.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use brainy_kubernetes::names;
use brainy_sidecar::peers::Certificates;
use brainy_sidecar::peers::certificates::Follower;
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::pki_types::ServerName;

pub(crate) const CLUSTER: &str = "demo";
pub(crate) const NAMESPACE: &str = "default";

/// By which a node of it is called.
pub(crate) fn name() -> ServerName<'static> {
    names::node_dns(&format!("{CLUSTER}-0"), CLUSTER, NAMESPACE).try_into().unwrap()
}

/// An authority.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    folder: tempfile::TempDir,
    issued: AtomicU32,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        let folder = tempfile::tempdir().unwrap();
        Self { issuer: Issuer::new(params, key), pem, folder, issued: AtomicU32::new(0) }
    }

    /// A folder with a certificate for all nodes of the cluster.
    pub(crate) fn issue(&self) -> PathBuf {
        self.issue_for(&format!("*.{CLUSTER}-nodes.{NAMESPACE}.svc"))
    }

    pub(crate) fn issue_for(&self, name: &str) -> PathBuf {
        let folder = self.folder.path().join(self.issued.fetch_add(1, Ordering::Relaxed).to_string());
        std::fs::create_dir(&folder).unwrap();
        self.write(&folder, name);
        folder
    }

    /// Replaces the files in a folder.
    pub(crate) fn write(&self, folder: &Path, name: &str) {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        std::fs::write(folder.join("ca.crt"), &self.pem).unwrap();
        std::fs::write(folder.join("tls.crt"), certificate.pem()).unwrap();
        std::fs::write(folder.join("tls.key"), key.serialize_pem()).unwrap();
    }

    pub(crate) fn certificates(&self) -> Certificates {
        self.followed().0
    }

    pub(crate) fn followed(&self) -> (Certificates, Follower) {
        Certificates::load(&self.issue()).unwrap()
    }
}
