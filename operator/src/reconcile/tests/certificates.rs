//! Where the nodes' certificates come from, and how they get from one issuer to another.

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use serde_json::{Value, json};

use super::super::*;
use super::*;
use crate::certificates::{KeyedCertificate, count, issue, new_authority, trusts};
use crate::context::TRUST_OVERLAP;

const CERT_MANAGER: &str = "/apis/cert-manager.io";
const CERTIFICATE: &str = "/apis/cert-manager.io/v1/namespaces/team/certificates/demo-node";
const ISSUED: &str = "/api/v1/namespaces/team/secrets/demo-node-issued";
const ISSUED_AUTHORITY: &str = "/api/v1/namespaces/team/secrets/demo-authority-issued";
const MOUNTED: &str = "/api/v1/namespaces/team/secrets/demo-node-tls";

fn by_cert_manager() -> Value {
    json!({"issuer": "CertManager"})
}

fn certified(tls: &Value) -> BrainyCluster {
    let mut cluster = isolated();
    cluster.spec.tls = serde_json::from_value(tls.clone()).unwrap();
    cluster
}

/// What cert-manager would write, signed by this authority.
fn issues(world: &World, authority: &KeyedCertificate) {
    let node = issue(authority, "*.demo-nodes.team.svc", Timestamp::now()).unwrap();
    let bytes = |text: &str| ByteString(text.as_bytes().to_vec());
    let secret = json!({
        "metadata": {"name": "demo-node-issued", "annotations": {"cert-manager.io/certificate-name": "demo-node"}},
        "data": {"ca.crt": bytes(&authority.certificate), "tls.crt": bytes(&node.certificate), "tls.key": bytes(&node.key)},
    });
    world.api.insert(ISSUED, &secret);
    world.api.edit(CERTIFICATE, |certificate| {
        certificate["status"] = json!({"conditions": [{"type": "Ready", "status": "True", "reason": "Ready"}]});
    });
}

fn authority() -> KeyedCertificate {
    new_authority("demo", Timestamp::now()).unwrap()
}

fn part(world: &World, path: &str, key: &str) -> String {
    let secret: Secret = serde_json::from_value(world.api.object(path).unwrap()).unwrap();
    String::from_utf8(secret.data.unwrap()[key].0.clone()).unwrap()
}

/// All nodes are ready, as the operator wants them.
fn run_nodes(world: &World) {
    world.set_revision("one");
    for ordinal in 0..3 {
        world.add_pod(ordinal, "one", true);
    }
}

/// Another spec, of the next generation.
fn ask(world: &World, tls: &Value) {
    world.api.edit(CLUSTER, |cluster| {
        cluster["spec"]["tls"] = tls.clone();
        cluster["metadata"]["generation"] = json!(8);
    });
}

/// Later, when the nodes have had time to read their Secret.
async fn later(world: &mut World) {
    world.clock.advance(TRUST_OVERLAP);
    world.context.term = term(&world.clock);
    world.reconcile().await.unwrap();
}

#[tokio::test]
async fn cert_manager_is_asked_first_and_no_node_is_made_before_it_has_issued() {
    let mut world = World::new(certified(&by_cert_manager()));
    world.reconcile().await.unwrap();
    let asked: Vec<_> = changes(&world).into_iter().filter(|call| call.contains(CERT_MANAGER)).collect();
    let kinds: Vec<_> = asked.iter().map(|call| call.rsplit("/team/").next().unwrap()).collect();
    assert_eq!(
        kinds,
        ["issuers/demo-self-signed", "certificates/demo-authority", "issuers/demo-authority", "certificates/demo-node"]
    );
    assert!(world.api.object(SET).is_none(), "nodes without a certificate would only wait");
    assert_eq!(world.condition("CertificatesReady"), ("False".into(), "NotIssued".into()));
    assert_eq!(world.condition("Progressing"), ("True".into(), "NotIssued".into()));

    let authority = authority();
    issues(&world, &authority);
    let of_authority = json!({"metadata": {"name": "demo-authority-issued", "annotations": {"cert-manager.io/certificate-name": "demo-authority"}}});
    world.api.insert(ISSUED_AUTHORITY, &of_authority);
    world.reconcile().await.unwrap();
    assert_eq!(part(&world, MOUNTED, "tls.crt"), part(&world, ISSUED, "tls.crt"));
    assert!(trusts(&part(&world, MOUNTED, "ca.crt"), &authority.certificate));
    assert!(world.api.object(SET).is_some());
    assert_eq!(world.condition("CertificatesReady"), ("True".into(), "Issued".into()));
    for path in [ISSUED, ISSUED_AUTHORITY] {
        let owners = &world.api.object(path).unwrap()["metadata"]["ownerReferences"];
        assert_eq!(owners[0]["uid"], "1111-2222", "{path} goes with the cluster");
        assert!(owners[0]["controller"].is_null(), "cert-manager may want to be the controller of {path}");
    }
}

#[tokio::test]
async fn a_renewed_certificate_of_the_same_authority_is_taken_over_and_no_pod_is_restarted() {
    let mut world = World::new(certified(&by_cert_manager()));
    world.reconcile().await.unwrap();
    let authority = authority();
    issues(&world, &authority);
    world.reconcile().await.unwrap();
    let (before, template) =
        (part(&world, MOUNTED, "tls.crt"), world.api.object(SET).unwrap()["spec"]["template"].clone());
    issues(&world, &authority);
    later(&mut world).await;
    assert_ne!(part(&world, MOUNTED, "tls.crt"), before);
    assert_eq!(part(&world, MOUNTED, "tls.crt"), part(&world, ISSUED, "tls.crt"));
    assert_eq!(world.api.object(SET).unwrap()["spec"]["template"], template);
}

#[tokio::test]
async fn nodes_get_from_one_issuer_to_another_and_back_without_refusing_each_other() {
    let mut world = World::new(isolated());
    world.reconcile().await.unwrap();
    run_nodes(&world);
    let (own, first) = (part(&world, MOUNTED, "ca.crt"), part(&world, MOUNTED, "tls.crt"));
    ask(&world, &by_cert_manager());
    world.reconcile().await.unwrap();
    assert!(world.api.object(CERTIFICATE).is_some(), "another spec is not waited with");
    assert_eq!(part(&world, MOUNTED, "tls.crt"), first, "nothing is issued yet");
    let issuer = authority();
    issues(&world, &issuer);
    for (shown, trusted) in [(&first, 2), (&part(&world, ISSUED, "tls.crt"), 2), (&part(&world, ISSUED, "tls.crt"), 1)]
    {
        later(&mut world).await;
        assert_eq!((&part(&world, MOUNTED, "tls.crt"), count(&part(&world, MOUNTED, "ca.crt"))), (shown, trusted));
        assert!(trusts(&part(&world, MOUNTED, "ca.crt"), &issuer.certificate), "before anybody shows it");
    }
    assert!(!trusts(&part(&world, MOUNTED, "ca.crt"), &own), "what nobody shows any more is not trusted");
    assert_eq!(world.condition("CertificatesReady"), ("True".into(), "Issued".into()));

    ask(&world, &Value::Null);
    world.clock.advance(TRUST_OVERLAP);
    let theirs = part(&world, ISSUED, "tls.crt");
    for (shows_theirs, trusted) in [(true, 2), (false, 2), (false, 1)] {
        later(&mut world).await;
        assert_eq!(
            (part(&world, MOUNTED, "tls.crt") == theirs, count(&part(&world, MOUNTED, "ca.crt"))),
            (shows_theirs, trusted)
        );
    }
    assert_eq!(part(&world, MOUNTED, "ca.crt"), own, "the cluster's authority was kept");
    assert_eq!(world.condition("CertificatesReady"), ("True".into(), "OperatorIssues".into()));
    let left: Vec<_> = world.api.paths().into_iter().filter(|path| path.starts_with(CERT_MANAGER)).collect();
    assert_eq!(left, Vec::<String>::new(), "cert-manager is asked for nothing any more");
}

#[tokio::test]
async fn an_authority_of_the_operator_s_own_that_ends_soon_is_replaced_in_the_same_order() {
    const DAY: i64 = 24 * 3600;
    let days_ago = |days: i64| Timestamp::from_second(Timestamp::now().as_second() - days * DAY).unwrap();
    let mut world = World::new(isolated());
    world.reconcile().await.unwrap();
    run_nodes(&world);
    let old = new_authority("demo", days_ago(9 * 365)).unwrap();
    let node = issue(&old, "*.demo-nodes.team.svc", days_ago(260)).unwrap();
    let bytes = |text: &str| json!(ByteString(text.as_bytes().to_vec()));
    for (path, pair) in [("/api/v1/namespaces/team/secrets/demo-ca", &old), (MOUNTED, &node)] {
        world.api.edit(path, |secret| {
            let parts = [("ca.crt", &old.certificate), ("tls.crt", &pair.certificate), ("tls.key", &pair.key)];
            parts.iter().for_each(|(key, text)| secret["data"][*key] = bytes(text));
        });
    }
    world.memory = ClusterMemory::default();
    for (shows_old, trusts_old, trusted) in [(true, true, 2), (false, true, 2), (false, false, 1)] {
        later(&mut world).await;
        // The operator's own certificates are looked at every ten minutes.
        world.clock.advance(TRUST_OVERLAP);
        let (bundle, shown) = (part(&world, MOUNTED, "ca.crt"), part(&world, MOUNTED, "tls.crt"));
        let found = (shown == node.certificate, trusts(&bundle, &old.certificate), count(&bundle));
        assert_eq!(found, (shows_old, trusts_old, trusted));
    }
}

#[tokio::test]
async fn without_cert_manager_nothing_is_lost_and_the_way_out_is_said() {
    for (code, reason) in [(404, "CertManagerAbsent"), (403, "CertManagerForbidden"), (500, "CertManagerFails")] {
        let mut world = World::new(isolated());
        world.reconcile().await.unwrap();
        run_nodes(&world);
        let before = world.api.object(MOUNTED).unwrap();
        world.api.refuse(CERT_MANAGER, code);
        ask(&world, &by_cert_manager());
        world.api.edit(CLUSTER, |cluster| cluster["spec"]["replicas"] = json!(4));
        later(&mut world).await;
        assert_eq!(world.condition("CertificatesReady"), ("False".into(), reason.into()));
        assert_eq!(world.api.object(MOUNTED).unwrap(), before);
        assert_eq!(world.api.object(SET).unwrap()["spec"]["replicas"], json!(4), "all else goes on");

        let mut new = World::new(certified(&by_cert_manager()));
        new.api.refuse(CERT_MANAGER, code);
        new.reconcile().await.unwrap();
        assert_eq!(new.condition("Ready"), ("False".into(), reason.into()));
        assert!(new.api.object(SET).is_none());
    }
}

#[tokio::test]
async fn what_nodes_could_not_use_is_not_given_to_them() {
    let mut world = World::new(certified(&by_cert_manager()));
    world.reconcile().await.unwrap();
    issues(&world, &authority());
    world.api.edit(ISSUED, |secret| {
        secret["data"].as_object_mut().unwrap().remove("ca.crt");
    });
    world.reconcile().await.unwrap();
    assert_eq!(world.condition("CertificatesReady"), ("False".into(), "CertificateUnusable".into()));
    assert!(world.condition_field("CertificatesReady", "message").contains("ca.crt"));
    assert!(world.api.object(MOUNTED).is_none());
}

#[tokio::test]
async fn a_secret_of_somebody_else_is_not_handed_to_cert_manager() {
    let mut world = World::new(certified(&by_cert_manager()));
    world.api.insert(ISSUED, &json!({"metadata": {"name": "demo-node-issued"}, "data": {}}));
    world.reconcile().await.unwrap();
    assert_eq!(world.condition("CertificatesReady"), ("False".into(), "NameTaken".into()));
    assert!(changes(&world).iter().all(|call| !call.contains(CERT_MANAGER)), "it would be overwritten");
}

#[tokio::test]
async fn a_cluster_that_never_asked_for_cert_manager_asks_it_nothing_and_says_nothing_of_it() {
    let mut world = World::new(isolated());
    world.reconcile().await.unwrap();
    later(&mut world).await;
    assert!(world.api.calls().iter().all(|call| !call.contains(CERT_MANAGER)));
    assert_eq!(world.condition("CertificatesReady"), (String::new(), String::new()));
}

#[tokio::test]
async fn a_paused_cluster_stays_with_its_issuer_whatever_the_spec_says() {
    let mut world = World::new(isolated());
    world.reconcile().await.unwrap();
    let before = world.api.object(MOUNTED).unwrap();
    ask(&world, &by_cert_manager());
    world.api.edit(CLUSTER, |cluster| cluster["spec"]["paused"] = json!(true));
    later(&mut world).await;
    assert!(world.api.calls().iter().all(|call| !call.contains(CERT_MANAGER)));
    assert_eq!(world.api.object(MOUNTED).unwrap(), before);
}

#[tokio::test]
async fn a_named_issuer_takes_the_place_of_the_one_that_the_operator_made() {
    let mut world = World::new(certified(&by_cert_manager()));
    world.reconcile().await.unwrap();
    issues(&world, &authority());
    world.reconcile().await.unwrap();
    run_nodes(&world);
    ask(&world, &json!({"issuer": "CertManager", "issuerRef": {"name": "company"}}));
    later(&mut world).await;
    assert_eq!(world.api.object(CERTIFICATE).unwrap()["spec"]["issuerRef"]["name"], "company");
    issues(&world, &authority());
    for _ in 0..3 {
        later(&mut world).await;
    }
    let left: Vec<_> = world.api.paths().into_iter().filter(|path| path.starts_with(CERT_MANAGER)).collect();
    assert_eq!(left, [CERTIFICATE]);
    assert_eq!(world.condition("CertificatesReady"), ("True".into(), "Issued".into()));
}
