//! What cert-manager is asked for, and what it has issued. Whatever goes wrong with cert-manager is said of the cluster's certificates, and
//! stops nothing else: nodes go on with what they have.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::time::Duration;

use brainy_kubernetes::names;
use jiff::Timestamp;
use kube::core::NamespaceResourceScope;
use kube::{Api, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::cert_manager::{self, Certificate, Chain, Issuer};
use super::pair::{self, Issued};
use super::secrets::Secrets;
use super::{NOT_ISSUED, View};
use crate::context::{ClusterMemory, Context};
use crate::reconcile::Error;
use crate::reconcile::apply::{Applier, delete_exactly, is_owned_by};
use crate::reconcile::validate::{Certificates, ValidatedCluster};

/// After this time its objects are looked at whether or not the spec has changed.
const RESYNC: Duration = Duration::from_secs(600);

/// Reason where Kubernetes knows nothing of cert-manager.
const ABSENT: &str = "CertManagerAbsent";
/// Reason where the operator may not use it.
const FORBIDDEN: &str = "CertManagerForbidden";
/// Reason where calls about it fail.
const FAILS: &str = "CertManagerFails";
/// Reason where nodes could not use what was issued.
const UNUSABLE: &str = "CertificateUnusable";

/// What cert-manager has issued.
pub(super) struct Found {
    /// It.
    pub(super) issued: Issued,
    /// Why it will not be renewed.
    pub(super) trouble: Option<String>,
}

/// Which of a cluster's objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// All.
    All,
    /// Those of the authority that cert-manager keeps for the cluster.
    Chain,
}

/// Has cert-manager issue what the spec wants (`holds`: what it issues already), and says what it has issued, or what is the matter.
pub(super) async fn look(
    context: &Context,
    cluster: &ValidatedCluster,
    secrets: &Secrets<'_>,
    holds: bool,
    memory: &mut ClusterMemory,
) -> Result<Found, View> {
    let now = context.clock.now();
    let is_applied = memory
        .certificates
        .applied
        .is_some_and(|(generation, at)| generation == cluster.generation && now.saturating_sub(at) < RESYNC);
    if !holds && !is_applied {
        apply(context, cluster, secrets, memory).await?;
        memory.certificates.applied = Some((cluster.generation, now));
    }
    let (secret, name) = (names::issued_secret(&cluster.name), names::node_certificate(&cluster.name));
    let issued = secrets.issued(&secret, &name).await.map_err(|error| problem(&error))?;
    let certificate = get::<Certificate>(context, cluster, &name).await?;
    let trouble = match &certificate {
        Some(certificate) => cert_manager::trouble(certificate).map(|why| format!("Certificate {name}: {why}")),
        None => Some(format!("Certificate {name} is gone; it is made again")),
    };
    if certificate.is_none() {
        memory.certificates.applied = None;
    }
    if matches!(cluster.certificates, Certificates::CertManager(None)) {
        let name = names::authority_issuer(&cluster.name);
        let authority = secrets.issued(&names::issued_authority_secret(&cluster.name), &name).await;
        authority.map_err(|error| problem(&error))?;
    }
    let Some(issued) = issued else {
        return Err(not_issued(context, cluster, trouble).await);
    };
    let server = names::node_dns(&cluster.layout.node(0), &cluster.name, &cluster.namespace);
    match pair::check(&issued, &server, Timestamp::now()) {
        Ok(()) => Ok(Found { issued, trouble }),
        Err(why) => Err(View::bad(
            UNUSABLE,
            format!(
                "nodes could not use what cert-manager wrote to Secret {secret}, so they are not given it: {why}. The issuer must give the authority (ca.crt) and names below svc"
            ),
        )),
    }
}

/// Applies the objects, those that others wait for first.
async fn apply(
    context: &Context,
    cluster: &ValidatedCluster,
    secrets: &Secrets<'_>,
    memory: &mut ClusterMemory,
) -> Result<(), View> {
    let issuer = match &cluster.certificates {
        Certificates::CertManager(issuer) => issuer.as_ref(),
        Certificates::Operator => None,
    };
    let wished = cert_manager::build(cluster, issuer);
    context.must_lead().map_err(|error| problem(&error))?;
    // cert-manager would overwrite whatever has the name of a Secret that it is to write.
    for certificate in wished.chain.iter().map(|chain| &chain.authority).chain([&wished.node]) {
        let name = certificate.metadata.name.as_deref().unwrap_or_default();
        secrets.issued(&certificate.spec.secret_name, name).await.map_err(|error| problem(&error))?;
    }
    let none = BTreeSet::new();
    let mut applier = Applier {
        client: &context.client,
        cluster,
        seen: &context.seen,
        existing_sessions: &none,
        ledger: &mut memory.ledger,
        now: context.clock.now(),
    };
    if let Some(Chain { self_signed, authority, issuer }) = wished.chain {
        applier.put(self_signed).await.map_err(|error| problem(&error))?;
        applier.put(authority).await.map_err(|error| problem(&error))?;
        applier.put(issuer).await.map_err(|error| problem(&error))?;
    }
    applier.put(wished.node).await.map_err(|error| problem(&error))?;
    Ok(())
}

/// Why nothing is issued: what is said of the first that others wait for.
async fn not_issued(context: &Context, cluster: &ValidatedCluster, trouble: Option<String>) -> View {
    let mut said = Vec::new();
    if matches!(cluster.certificates, Certificates::CertManager(None)) {
        let authority = names::authority_issuer(&cluster.name);
        if let Ok(Some(certificate)) = get::<Certificate>(context, cluster, &authority).await
            && let Some(why) = cert_manager::trouble(&certificate)
        {
            said.push(format!("Certificate {authority}: {why}"));
        }
        if let Ok(Some(issuer)) = get::<Issuer>(context, cluster, &authority).await
            && let Some(why) = cert_manager::issuer_trouble(&issuer)
        {
            said.push(format!("Issuer {authority}: {why}"));
        }
    }
    said.extend(trouble);
    let why = if said.is_empty() { "its Secret is not there".to_owned() } else { said.join("; ") };
    View::bad(NOT_ISSUED, format!("cert-manager has not issued the nodes' certificate yet. {why}"))
}

/// Removes what was asked of cert-manager and is no longer wanted. Where there is no cert-manager nothing is left of it.
pub(super) async fn remove(context: &Context, cluster: &ValidatedCluster, part: Part) -> Result<(), View> {
    let name = &cluster.name;
    if part == Part::All {
        remove_one::<Certificate>(context, cluster, &names::node_certificate(name)).await?;
    }
    remove_one::<Issuer>(context, cluster, &names::authority_issuer(name)).await?;
    remove_one::<Certificate>(context, cluster, &names::authority_issuer(name)).await?;
    remove_one::<Issuer>(context, cluster, &names::self_signed_issuer(name)).await
}

async fn remove_one<K>(context: &Context, cluster: &ValidatedCluster, name: &str) -> Result<(), View>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + Serialize + DeserializeOwned,
{
    let Some(found) = get::<K>(context, cluster, name).await? else {
        return Ok(());
    };
    if !is_owned_by(found.meta(), &cluster.uid) {
        return Ok(());
    }
    context.must_lead().map_err(|error| problem(&error))?;
    delete_exactly(&api::<K>(context, cluster), name, found.meta().uid.clone()).await.map_err(|error| problem(&error))
}

async fn get<K>(context: &Context, cluster: &ValidatedCluster, name: &str) -> Result<Option<K>, View>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
{
    match api::<K>(context, cluster).get_opt(name).await {
        Ok(found) => Ok(found),
        // As the API server answers where the kind itself is unknown.
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
        Err(error) => Err(problem(&error.into())),
    }
}

fn api<K: Resource<DynamicType = (), Scope = NamespaceResourceScope>>(
    context: &Context,
    cluster: &ValidatedCluster,
) -> Api<K> {
    Api::namespaced(context.client.clone(), &cluster.namespace)
}

/// A failed call about cert-manager, with the way out.
fn problem(error: &Error) -> View {
    let code = match error {
        Error::KubernetesApi(error) => match &**error {
            kube::Error::Api(status) => status.code,
            _ => 0,
        },
        other => return View::bad(other.reason(), other.to_string()),
    };
    match code {
        404 => View::bad(
            ABSENT,
            "spec.tls.issuer is CertManager, and Kubernetes does not know cert-manager.io/v1: install cert-manager, or remove spec.tls, and the operator issues certificates itself. What the nodes have stays in use",
        ),
        403 => View::bad(
            FORBIDDEN,
            format!(
                "the operator may not use cert-manager: set certManager.enabled=true in its chart. What the nodes have stays in use. {error}"
            ),
        ),
        _ => View::bad(FAILS, format!("cert-manager is asked in vain, and what the nodes have stays in use: {error}")),
    }
}
