//! Certificates by cert-manager's own controllers, as nodes and the operator use them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use brainy_kubernetes::names;
use brainy_operator::identity::cert_manager::{Certificate, Issuer};
use brainy_operator::shards;
use brainy_sidecar::peers::Certificates;
use brainy_sidecar::peers::certificates::Identity;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::{ApiResource, DynamicObject, ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, ConnectionCommon, ServerConfig, ServerConnection, SideData};
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::time::{Instant, sleep};

use crate::cluster::{ControlPlane, KEYS};
use crate::scenarios::{NAME, Run, ask, read, spec};

/// What is waited for comes long before.
const LIMIT: Duration = Duration::from_secs(150);
/// Between looks: much less than nodes are given to read their Secret.
const LOOK: Duration = Duration::from_millis(100);

type Parts = BTreeMap<String, Vec<u8>>;

#[test]
fn cert_manager_issues_what_nodes_and_operator_use_and_what_it_renews_is_taken_over_while_they_run() {
    Runtime::new().unwrap().block_on(async {
        let mut plane = ControlPlane::start().await;
        plane.add_cert_manager().await;
        tokio::join!(issued_from_the_beginning(&plane), changed_while_nodes_run(&plane));
        plane.must_live();
    });
}

async fn issued_from_the_beginning(plane: &ControlPlane) {
    let run = Run::start(plane).await;
    ask(plane, run.namespace(), Some(&spec(json!({"tls": {"issuer": "CertManager"}})))).await;
    run.comes_to_rest().await.unwrap();
    let (first, pods, template) = (mounted(plane, &run).await, pods(plane, &run).await, template(plane, &run).await);
    assert_eq!(first, issued(plane, &run).await, "nodes have what cert-manager wrote");
    accepts(&first, &first, run.namespace()).unwrap();
    assert_eq!(said_of(plane, &run).await, ("True".into(), "Issued".into()));

    renew(plane, &run).await;
    let renewed = until(|| mounted(plane, &run), |parts| parts["tls.crt"] != first["tls.crt"]).await;
    assert_eq!(renewed, issued(plane, &run).await);
    assert_ne!(renewed["tls.key"], first["tls.key"], "a renewal makes a new key");
    for (caller, called) in [(&first, &renewed), (&renewed, &first)] {
        accepts(caller, called, run.namespace()).unwrap();
    }
    assert_eq!(self::template(plane, &run).await, template);
    assert_eq!(self::pods(plane, &run).await, pods, "no pod was restarted");

    ask(plane, run.namespace(), None).await;
    let secrets: Api<Secret> = Api::namespaced(plane.client.clone(), run.namespace());
    // The keys of the namespace's bucket are the user's.
    let left = async || secrets.list(&ListParams::default()).await.unwrap().items.len();
    until(left, |left| *left == KEYS.len()).await;
    run.ends();
}

/// From the operator's own authority to cert-manager and back: whoever has read its Secret talks with whoever has not.
async fn changed_while_nodes_run(plane: &ControlPlane) {
    let run = Run::start(plane).await;
    let mut history: Vec<Parts> = Vec::new();
    let goes_on = async |history: &mut Vec<Parts>, reason: &str| {
        let began = Instant::now();
        while said_of(plane, &run).await != ("True".into(), reason.into()) {
            let now = mounted(plane, &run).await;
            if history.last() != Some(&now) {
                history.push(now);
            }
            assert!(began.elapsed() < LIMIT, "it never says {reason}: {:?}", said_of(plane, &run).await);
            sleep(LOOK).await;
        }
    };
    ask(plane, run.namespace(), Some(&spec(json!({})))).await;
    run.comes_to_rest().await.unwrap();
    let (pods, template) = (pods(plane, &run).await, template(plane, &run).await);
    history.push(mounted(plane, &run).await);

    ask(plane, run.namespace(), Some(&spec(json!({"tls": {"issuer": "CertManager"}})))).await;
    goes_on(&mut history, "Issued").await;
    history.push(mounted(plane, &run).await);
    assert_eq!(history.last(), Some(&issued(plane, &run).await), "what was before is not trusted any more");
    ask(plane, run.namespace(), Some(&spec(json!({"tls": {"issuer": "Operator"}})))).await;
    goes_on(&mut history, "OperatorIssues").await;
    history.push(mounted(plane, &run).await);
    history.dedup();

    assert!(history.len() >= 7, "three changes each way: {}", history.len());
    for pair in history.windows(2) {
        accepts(&pair[0], &pair[1], run.namespace()).unwrap();
        accepts(&pair[1], &pair[0], run.namespace()).unwrap();
    }
    assert_eq!(self::template(plane, &run).await, template);
    assert_eq!(self::pods(plane, &run).await, pods, "no pod was restarted");
    let certificates: Api<Certificate> = Api::namespaced(plane.client.clone(), run.namespace());
    let issuers: Api<Issuer> = Api::namespaced(plane.client.clone(), run.namespace());
    let all = ListParams::default();
    assert_eq!(certificates.list(&all).await.unwrap().items.len(), 0);
    assert_eq!(issuers.list(&all).await.unwrap().items.len(), 0);
    run.ends();
}

/// A node with these parts, or the operator, calls a node with those.
fn accepts(caller: &Parts, called: &Parts, namespace: &str) -> Result<(), rustls::Error> {
    let name = names::node_dns(&names::node(NAME, 1), NAME, namespace);
    let (calling, called) = (identity(caller), identity(called).server);
    let operator = shards::client_config(&caller["ca.crt"], &caller["tls.crt"], &caller["tls.key"]).unwrap();
    shake(calling.client, Arc::clone(&called), &name)?;
    shake(Arc::new(operator), called, &name)
}

fn identity(parts: &Parts) -> Identity {
    let folder = tempfile::tempdir().unwrap();
    let write =
        |folder: &Path| parts.iter().for_each(|(name, bytes)| std::fs::write(folder.join(name), bytes).unwrap());
    write(folder.path());
    Certificates::load(folder.path()).unwrap().0.current()
}

/// A handshake, in memory.
fn shake(client: Arc<ClientConfig>, server: Arc<ServerConfig>, name: &str) -> Result<(), rustls::Error> {
    let mut client = ClientConnection::new(client, ServerName::try_from(name.to_owned()).unwrap())?;
    let mut server = ServerConnection::new(server)?;
    while client.is_handshaking() || server.is_handshaking() {
        pass(&mut client, &mut server)?;
        pass(&mut server, &mut client)?;
    }
    Ok(())
}

fn pass<A: SideData, B: SideData>(
    from: &mut ConnectionCommon<A>,
    to: &mut ConnectionCommon<B>,
) -> Result<(), rustls::Error> {
    let mut bytes = Vec::new();
    while from.wants_write() {
        from.write_tls(&mut bytes).unwrap();
    }
    let mut left = bytes.as_slice();
    while !left.is_empty() {
        to.read_tls(&mut left).unwrap();
        to.process_new_packets()?;
    }
    Ok(())
}

/// Has cert-manager renew it now, as `cmctl renew` does.
async fn renew(plane: &ControlPlane, run: &Run<'_>) {
    let kind = ApiResource::erase::<Certificate>(&());
    let certificates: Api<DynamicObject> = Api::namespaced_with(plane.client.clone(), run.namespace(), &kind);
    let name = names::node_certificate(NAME);
    let ask = || async {
        let found = certificates.get(&name).await.unwrap();
        let mut conditions = found.data["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.retain(|condition| condition["type"] != "Issuing");
        conditions
            .push(json!({"type": "Issuing", "status": "True", "reason": "ManuallyTriggered", "message": "a test"}));
        let meta = json!({"resourceVersion": found.resource_version()});
        let wish = json!({"metadata": meta, "status": {"conditions": conditions}});
        certificates.patch_status(&name, &PatchParams::default(), &Patch::Merge(wish)).await.is_ok()
    };
    until(ask, |is_asked| *is_asked).await;
}

async fn mounted(plane: &ControlPlane, run: &Run<'_>) -> Parts {
    parts(plane, run, &names::tls_secret(NAME)).await
}

async fn issued(plane: &ControlPlane, run: &Run<'_>) -> Parts {
    parts(plane, run, &names::issued_secret(NAME)).await
}

/// Authorities are compared as certificates: line ends say nothing.
async fn parts(plane: &ControlPlane, run: &Run<'_>, secret: &str) -> Parts {
    let secrets: Api<Secret> = Api::namespaced(plane.client.clone(), run.namespace());
    let data = secrets.get(secret).await.unwrap().data.unwrap();
    data.into_iter().map(|(name, bytes)| (name, [bytes.0.trim_ascii(), b"\n"].concat())).collect()
}

async fn pods(plane: &ControlPlane, run: &Run<'_>) -> Vec<Option<String>> {
    let pods: Api<Pod> = Api::namespaced(plane.client.clone(), run.namespace());
    pods.list(&ListParams::default()).await.unwrap().items.iter().map(ResourceExt::uid).collect()
}

async fn template(plane: &ControlPlane, run: &Run<'_>) -> Value {
    let sets: Api<StatefulSet> = Api::namespaced(plane.client.clone(), run.namespace());
    serde_json::to_value(sets.get(NAME).await.unwrap().spec.unwrap().template).unwrap()
}

/// Status and reason of the condition of the certificates.
async fn said_of(plane: &ControlPlane, run: &Run<'_>) -> (String, String) {
    let cluster = read(plane, run.namespace()).await.unwrap();
    let conditions = cluster.status.unwrap_or_default().conditions;
    let said = conditions.into_iter().find(|said| said.type_ == brainy_crds::condition::CERTIFICATES_READY);
    said.map(|said| (said.status, said.reason)).unwrap_or_default()
}

async fn until<T, F: Future<Output = T>>(look: impl Fn() -> F, is_it: impl Fn(&T) -> bool) -> T {
    let began = Instant::now();
    loop {
        let found = look().await;
        if is_it(&found) {
            return found;
        }
        assert!(began.elapsed() < LIMIT, "what is waited for does not come");
        sleep(LOOK).await;
    }
}
