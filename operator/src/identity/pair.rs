//! Whether nodes could use what an issuer gave them, by the very code that they use it with. Pure.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};

/// What a Secret of an issuer says.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Issued {
    /// The authority, as PEM text.
    pub(super) authority: String,
    /// The certificate, and those between it and the authority.
    pub(super) certificate: String,
    /// The key.
    pub(super) key: String,
}

/// Checks that each node could show it to each other, as `server` (one of their names): as a server and as a client.
pub(super) fn check(issued: &Issued, server: &str, now: Timestamp) -> Result<(), String> {
    let authorities = certificates("ca.crt", &issued.authority)?;
    let chain = certificates("tls.crt", &issued.certificate)?;
    let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes())
        .map_err(|error| format!("tls.key holds no usable private key: {error}"))?;
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots.add(authority).map_err(|error| format!("ca.crt holds no usable authority: {error}"))?;
    }
    let roots = Arc::new(roots);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let unusable = |error: &dyn std::fmt::Display| format!("ca.crt can't be trusted: {error}");
    let as_client = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider))
        .build()
        .map_err(|error| unusable(&error))?;
    let as_server = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider))
        .build()
        .map_err(|error| unusable(&error))?;
    let (leaf, between) = chain.split_first().ok_or("tls.crt holds no certificate")?;
    let name = ServerName::try_from(server).map_err(|error| format!("{server} is no name: {error}"))?;
    let at = UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(now.as_second()).unwrap_or_default()));
    as_server
        .verify_server_cert(leaf, between, &name, &[], at)
        .map_err(|error| format!("nodes would not take tls.crt for that of {server}: {error}"))?;
    as_client
        .verify_client_cert(leaf, between, at)
        .map_err(|error| format!("nodes would not take tls.crt for that of a node that calls them: {error}"))?;
    ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|config| config.with_no_client_auth().with_single_cert(chain, key))
        .map(drop)
        .map_err(|error| format!("tls.key and tls.crt don't belong together: {error}"))
}

fn certificates(file: &str, pem: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let found = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| format!("{file} can't be read: {error}"))?;
    if found.is_empty() { Err(format!("{file} holds no certificate")) } else { Ok(found) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certificates::{issue, new_authority};

    const WILDCARD: &str = "*.demo-nodes.team.svc";
    const NODE: &str = "demo-0.demo-nodes.team.svc";

    fn now() -> Timestamp {
        "2026-01-10T12:00:00Z".parse().unwrap()
    }

    fn issued() -> Issued {
        let authority = new_authority("demo", now()).unwrap();
        let node = issue(&authority, WILDCARD, now()).unwrap();
        Issued { authority: authority.certificate, certificate: node.certificate, key: node.key }
    }

    #[test]
    fn what_nodes_can_use_is_good() {
        assert_eq!(check(&issued(), NODE, now()), Ok(()));
    }

    #[test]
    fn what_nodes_could_not_use_never_reaches_them() {
        let other = issued();
        let refused = |issued: Issued, server: &str, at: &str, why: &str| {
            let problem = check(&issued, server, at.parse().unwrap()).unwrap_err();
            assert!(problem.contains(why), "{problem}");
        };
        let today = "2026-01-10T12:00:00Z";
        refused(Issued { authority: String::new(), ..issued() }, NODE, today, "ca.crt holds no certificate");
        refused(Issued { authority: other.authority, ..issued() }, NODE, today, "would not take tls.crt");
        refused(Issued { key: other.key, ..issued() }, NODE, today, "don't belong together");
        refused(issued(), "demo-0.other-nodes.team.svc", today, "would not take tls.crt for that of demo-0.other");
        refused(issued(), NODE, "2028-01-01T00:00:00Z", "would not take tls.crt");
    }
}
