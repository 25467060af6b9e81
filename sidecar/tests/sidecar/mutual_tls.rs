//! Who may speak to a node's peer port, and whom a node takes for another.

use std::sync::Arc;

use brainy_sidecar::peers::{Certificates, PeerError};
use brainy_sidecar::routing::{Call, Peers};
use brainy_storage::{Condition, Key, StorageAdapter, Value};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::support::cluster::{Cluster, node_id, pool};
use crate::support::tls::Authority;

fn put(key: &Key, value: Value) -> Call {
    Call::Put { key: key.clone(), value, condition: Condition::Any }
}

fn get(key: &Key) -> Call {
    Call::Get { key: key.clone() }
}

#[tokio::test]
async fn a_node_of_another_authority_is_refused_on_both_sides() {
    let cluster = Cluster::of(2).await;
    let (key, shard) = cluster.key_of(1);
    let stranger = Authority::new();
    let write = || vec![put(&key, Value::Json(1.into()))];
    let address = &cluster.nodes[1].address;

    // It does not trust us.
    let answer = pool(stranger.certificates()).calls(&node_id(1), address, None, write()).await;
    assert!(matches!(answer, Err(PeerError::NotSent(_))), "{answer:?}");

    // It trusts us, but we don't trust it.
    let folder = stranger.issue();
    std::fs::copy(cluster.authority.issue().join("ca.crt"), folder.join("ca.crt")).unwrap();
    let (certificates, _) = Certificates::load(&folder).unwrap();
    let answer = pool(certificates).calls(&node_id(1), address, None, write()).await;
    assert!(answer.is_err(), "{answer:?}");
    assert_eq!(cluster.nodes[1].shard(shard).get(&key).await.unwrap(), None);
}

#[tokio::test]
async fn a_node_at_anothers_address_is_not_taken_for_it() {
    let cluster = Cluster::of(1).await;
    let (key, _) = cluster.key_of(0);
    let folder = cluster.authority.issue_for("demo-9.demo-nodes.default.svc");
    let (certificates, _) = Certificates::load(&folder).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let acceptor = TlsAcceptor::from(certificates.current().server);
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        drop(acceptor.accept(stream).await);
    });
    let answer = pool(cluster.authority.certificates()).calls(&node_id(1), &address, None, vec![get(&key)]).await;
    assert!(matches!(answer, Err(PeerError::NotSent(_))), "{answer:?}");
}

#[tokio::test]
async fn whoever_has_a_certificate_of_the_same_authority_for_something_else_is_no_node() {
    let cluster = Cluster::of(2).await;
    let (key, shard) = cluster.key_of(1);
    let address = &cluster.nodes[1].address;
    for name in ["*.other-nodes.default.svc", "*.demo-nodes.other.svc", "web.example.org"] {
        let (certificates, _) = Certificates::load(&cluster.authority.issue_for(name)).unwrap();
        let write = vec![put(&key, Value::Json(1.into()))];
        assert!(pool(certificates).calls(&node_id(1), address, None, write).await.is_err(), "{name}");
    }
    assert_eq!(cluster.nodes[1].shard(shard).get(&key).await.unwrap(), None);
}

#[tokio::test]
async fn plain_http_gets_no_answer_from_the_peer_port() {
    let cluster = Cluster::of(1).await;
    let mut stream = TcpStream::connect(&cluster.nodes[0].address).await.unwrap();
    stream.write_all(b"POST /internal/calls HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP/"), "{}", String::from_utf8_lossy(&answer));
}

#[tokio::test]
async fn a_client_without_a_certificate_is_refused() {
    let cluster = Cluster::of(1).await;
    let authority = std::fs::read(cluster.authority.issue().join("ca.crt")).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    for certificate in
        <rustls::pki_types::CertificateDer<'_> as rustls::pki_types::pem::PemObject>::pem_slice_iter(&authority)
    {
        roots.add(certificate.unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let stream = TcpStream::connect(&cluster.nodes[0].address).await.unwrap();
    let name = "demo-0.demo-nodes.default.svc".try_into().unwrap();
    // With TLS 1.3 the client learns of the refusal only when it reads.
    let mut answer = Vec::new();
    if let Ok(mut stream) = connector.connect(name, stream).await {
        let _ = stream.write_all(b"POST /internal/calls HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n").await;
        assert!(stream.read_to_end(&mut answer).await.is_err());
    }
    assert!(answer.is_empty());
}
