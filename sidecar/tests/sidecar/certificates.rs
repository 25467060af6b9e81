//! Certificates that are renewed while the node runs.

use std::sync::Arc;

use brainy_sidecar::peers::Certificates;

use crate::support::tls::Authority;

const NAME: &str = "*.demo-nodes.default.svc";

#[test]
fn renewed_certificates_are_used_without_a_restart() {
    let authority = Authority::new();
    let (certificates, mut follower) = authority.followed();
    let before = certificates.current();
    assert!(!follower.look().unwrap());
    assert!(Arc::ptr_eq(&before.server, &certificates.current().server));

    let folder = authority.issue();
    let (certificates, mut follower) = Certificates::load(&folder).unwrap();
    let before = certificates.current();
    authority.write(&folder, NAME);
    assert!(follower.look().unwrap());
    assert!(!Arc::ptr_eq(&before.server, &certificates.current().server));
    assert!(!Arc::ptr_eq(&before.client, &certificates.current().client));
}

#[test]
fn a_half_replaced_certificate_leaves_the_old_one_in_use() {
    let authority = Authority::new();
    let folder = authority.issue();
    let (certificates, mut follower) = Certificates::load(&folder).unwrap();
    let before = certificates.current();
    let key = std::fs::read(folder.join("tls.key")).unwrap();
    authority.write(&folder, NAME);
    let renewed_key = std::fs::read(folder.join("tls.key")).unwrap();
    std::fs::write(folder.join("tls.key"), key).unwrap();
    assert!(follower.look().is_err());
    assert!(Arc::ptr_eq(&before.server, &certificates.current().server));

    std::fs::write(folder.join("tls.key"), renewed_key).unwrap();
    assert!(follower.look().unwrap());
}

#[test]
fn missing_or_malformed_certificates_name_the_file() {
    let authority = Authority::new();
    for file in ["ca.crt", "tls.crt", "tls.key"] {
        let folder = authority.issue();
        std::fs::write(folder.join(file), "no certificate").unwrap();
        let message = Certificates::load(&folder).unwrap_err().to_string();
        assert!(message.contains(file), "{message}");
        std::fs::remove_file(folder.join(file)).unwrap();
        let message = Certificates::load(&folder).unwrap_err().to_string();
        assert!(message.contains(file), "{message}");
    }
}
