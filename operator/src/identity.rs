//! The certificates of node-to-node traffic. Nodes mount one Secret, which the operator alone writes: the authorities that they trust,
//! and the certificate that all of them show, from the operator's own authority or from cert-manager. A renewed one is
//! taken over while they run, [in an order](overlap) in which no node refuses another.

pub mod cert_manager;
mod issued;
mod overlap;
mod pair;
mod secrets;

use std::time::Duration;

use jiff::Timestamp;

use crate::certificates::{self, KeyedCertificate};
use crate::context::{ClusterMemory, Context};
use crate::reconcile::Error;
use crate::reconcile::validate::{Certificates, ValidatedCluster};
use overlap::{Rules, Shown, Step};
use secrets::{Mounted, Origin, Secrets};

/// Time between looks at certificates of the operator's own.
const OWN_CHECK: Duration = Duration::from_secs(600);
/// Time between looks at what cert-manager issues: how long one that was renewed by hand waits.
const ISSUED_CHECK: Duration = Duration::from_secs(30);
/// Time between looks while something is on its way or is the matter.
const UNSETTLED_CHECK: Duration = Duration::from_secs(15);

/// Reason of the condition where the operator issues the certificates (again).
pub const OPERATOR_ISSUES: &str = "OperatorIssues";
/// Reason while nodes get from one authority to another.
pub const CHANGING_AUTHORITY: &str = "ChangingAuthority";
/// Reason where cert-manager issues them and all is well.
pub const ISSUED: &str = "Issued";
/// Reason while cert-manager has not issued yet, or not again.
pub const NOT_ISSUED: &str = "NotIssued";

/// What is to be said of the certificates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// Whether they are as they should be, or get there by themselves.
    pub ready: bool,
    /// In a word.
    pub reason: &'static str,
    /// In a sentence.
    pub message: String,
}

impl View {
    fn good(reason: &'static str, message: impl Into<String>) -> Self {
        Self { ready: true, reason, message: message.into() }
    }

    fn bad(reason: &'static str, message: impl Into<String>) -> Self {
        Self { ready: false, reason, message: message.into() }
    }
}

/// What is remembered of a cluster's certificates between looks.
#[derive(Debug, Default)]
pub struct Memory {
    due: Option<Duration>,
    /// The generation that was looked at.
    generation: i64,
    /// The version of the nodes' Secret, and since when it is known.
    mounted: Option<(String, Duration)>,
    /// The generation for which cert-manager's objects were applied, and when.
    applied: Option<(i64, Duration)>,
    /// Nothing is left of an authority that is no longer wanted.
    cleaned: bool,
    view: Option<View>,
}

impl Memory {
    /// When the next look is due, from now; none: nodes have no certificate to look after yet.
    pub fn due_in(&self, now: Duration) -> Option<Duration> {
        self.due.filter(|_| self.mounted.is_some()).map(|due| due.saturating_sub(now))
    }

    fn is_due(&self, generation: i64, now: Duration) -> bool {
        self.generation != generation || self.due_in(now).is_none_or(|left| left.is_zero())
    }

    /// What was said last; none: there is nothing to say.
    pub fn view(&self) -> Option<&View> {
        self.view.as_ref()
    }

    /// How long the nodes' Secret has been seen as it is.
    fn seen_for(&mut self, version: &str, now: Duration) -> Duration {
        match &self.mounted {
            Some((seen, since)) if seen == version => now.saturating_sub(*since),
            _ => {
                self.mounted = Some((version.to_owned(), now));
                Duration::ZERO
            }
        }
    }
}

/// What a look goes by, besides the spec.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// Nothing is to be changed: whoever issues the certificates goes on with that.
    pub paused: bool,
    /// All nodes are ready.
    pub everyone_ready: bool,
    /// cert-manager has issued for this cluster before.
    pub had_cert_manager: bool,
    /// How long nodes have to read their Secret.
    pub overlap: Duration,
}

/// Makes sure that the nodes have a certificate that lasts. True: they have one.
pub async fn look(
    context: &Context,
    cluster: &ValidatedCluster,
    facts: Facts,
    memory: &mut ClusterMemory,
) -> Result<bool, Error> {
    let now = context.clock.now();
    if !memory.certificates.is_due(cluster.generation, now) {
        return Ok(true);
    }
    let secrets = Secrets::of(&context.client, cluster);
    let mounted = secrets.mounted().await?;
    let seen_for = match &mounted {
        Some(mounted) => memory.certificates.seen_for(&mounted.version, now),
        None => {
            memory.certificates.mounted = None;
            Duration::ZERO
        }
    };
    let keeps = mounted.as_ref().filter(|_| facts.paused).map(|mounted| mounted.origin);
    let from_cert_manager = match keeps {
        Some(origin) => origin == Origin::CertManager,
        None => cluster.certificates != Certificates::Operator,
    };
    let mut look = Look { context, cluster, secrets, facts, mounted, seen_for, at: Timestamp::now(), memory, now };
    let (view, check) = match from_cert_manager {
        true => (Some(look.issued().await?), ISSUED_CHECK),
        false => (look.own().await?, OWN_CHECK),
    };
    let (shown, again) = (look.shown(), look.again(check, view.as_ref()));
    memory.certificates.due = Some(now + again);
    memory.certificates.generation = cluster.generation;
    memory.certificates.view = view;
    if let Some(expires) = shown.as_deref().and_then(certificates::expires) {
        context.metrics.certificate(cluster, expires);
    }
    Ok(shown.is_some())
}

/// One look at the certificates of one cluster.
struct Look<'a> {
    context: &'a Context,
    cluster: &'a ValidatedCluster,
    secrets: Secrets<'a>,
    facts: Facts,
    mounted: Option<Mounted>,
    seen_for: Duration,
    /// As clocks say it: certificates go by that.
    at: Timestamp,
    memory: &'a mut ClusterMemory,
    now: Duration,
}

impl Look<'_> {
    /// Of the operator's own authority.
    async fn own(&mut self) -> Result<Option<View>, Error> {
        let name = certificates::wildcard(&self.cluster.name, &self.cluster.namespace);
        let is_good = |mounted: &Mounted| {
            mounted.origin == Origin::Operator
                && !certificates::needs_renewal(&mounted.pair.certificate, &name, self.at)
        };
        let current = self.mounted.as_ref().is_some_and(is_good);
        // As it mostly is: nothing else is read then.
        let is_alone = self.mounted.as_ref().is_some_and(|mounted| certificates::count(&mounted.trusted) == 1);
        let mut left = Step::Nothing;
        if !(current && is_alone) {
            let (authority, at) = (self.secrets.authority(self.at).await?, self.at);
            let issue = || Ok(certificates::issue(&authority, &name, at)?);
            left = self.take(current, &authority.certificate, Origin::Operator, issue).await?;
        }
        if !self.facts.had_cert_manager || self.facts.paused {
            return Ok(None);
        }
        if left != Step::Nothing {
            return Ok(Some(changing()));
        }
        Ok(Some(match issued::remove(self.context, self.cluster, issued::Part::All).await {
            Ok(()) => View::good(OPERATOR_ISSUES, "the operator issues the nodes' certificates"),
            Err(problem) => problem,
        }))
    }

    /// Of what cert-manager issues.
    async fn issued(&mut self) -> Result<View, Error> {
        let found = match issued::look(self.context, self.cluster, &self.secrets, self.facts.paused, self.memory).await
        {
            Ok(found) => found,
            Err(problem) => return Ok(problem),
        };
        let current = self.mounted.as_ref().is_some_and(|mounted| {
            mounted.origin == Origin::CertManager && mounted.pair.certificate == found.issued.certificate
        });
        let pair = KeyedCertificate { certificate: found.issued.certificate, key: found.issued.key };
        let left = self.take(current, &found.issued.authority, Origin::CertManager, || Ok(pair)).await?;
        if let Some(trouble) = found.trouble {
            let message =
                format!("cert-manager does not renew the nodes' certificate; what they have stays in use. {trouble}");
            return Ok(View::bad(NOT_ISSUED, message));
        }
        if left != Step::Nothing {
            return Ok(changing());
        }
        let is_own_chain = matches!(self.cluster.certificates, Certificates::CertManager(None));
        if !is_own_chain && !self.facts.paused && !self.memory.certificates.cleaned {
            if let Err(problem) = issued::remove(self.context, self.cluster, issued::Part::Chain).await {
                return Ok(problem);
            }
            self.memory.certificates.cleaned = true;
        }
        Ok(View::good(ISSUED, "cert-manager issues the nodes' certificate, and all nodes have been given it"))
    }

    fn step(&self, current: bool, authority: &str) -> Step {
        let name = certificates::wildcard(&self.cluster.name, &self.cluster.namespace);
        let shown = self.mounted.as_ref().map(|mounted| Shown {
            trusted: &mounted.trusted,
            usable: certificates::is_usable(&mounted.pair.certificate, &name, self.at),
            current,
            seen_for: self.seen_for,
        });
        let Facts { overlap, everyone_ready, .. } = self.facts;
        overlap::next(shown, authority, Rules { overlap, everyone_ready, now: self.at })
    }

    /// Takes the next step towards a certificate of the authority. What is left then: nothing, or to wait.
    async fn take(
        &mut self,
        current: bool,
        authority: &str,
        origin: Origin,
        pair: impl FnOnce() -> Result<KeyedCertificate, Error>,
    ) -> Result<Step, Error> {
        let step = self.step(current, authority);
        let (trusted, pair, origin) = match (step, self.mounted.as_ref()) {
            (step @ (Step::Nothing | Step::Wait(_)), _) => return Ok(step),
            (Step::Trust(trusted), Some(mounted)) => (trusted, mounted.pair.clone(), mounted.origin),
            (Step::Show(trusted) | Step::Trust(trusted), _) => (trusted, pair()?, origin),
        };
        self.context.must_lead()?;
        let (name, namespace) = (&self.cluster.name, &self.cluster.namespace);
        let written = self.secrets.mount(self.mounted.as_ref(), trusted.clone(), &pair, origin).await?;
        let Some(version) = written else {
            // What the other operator wrote is seen by the next look.
            return Ok(Step::Wait(Duration::ZERO));
        };
        let authorities = certificates::count(&trusted);
        tracing::info!(cluster = name, namespace, ?origin, authorities, "nodes are given other certificates");
        let is_last = certificates::same_authorities(&trusted, authority);
        self.memory.certificates.mounted = Some((version.clone(), self.now));
        self.seen_for = Duration::ZERO;
        self.mounted = Some(Mounted { version, trusted, pair, origin });
        Ok(if is_last { Step::Nothing } else { Step::Wait(self.facts.overlap) })
    }

    /// The certificate that the nodes have by now.
    fn shown(&self) -> Option<String> {
        self.mounted.as_ref().map(|mounted| mounted.pair.certificate.clone())
    }

    /// When to look again.
    fn again(&self, check: Duration, view: Option<&View>) -> Duration {
        if view.is_none_or(|view| view.ready && view.reason != CHANGING_AUTHORITY) {
            return check;
        }
        let left = self.facts.overlap.saturating_sub(self.seen_for);
        if left.is_zero() { UNSETTLED_CHECK } else { left.min(UNSETTLED_CHECK) }
    }
}

fn changing() -> View {
    View::good(
        CHANGING_AUTHORITY,
        "nodes trust the authority before and the one that comes, until all of them show a certificate of the new one",
    )
}
