//! What every reconcile of one term of leadership shares, and what is remembered of each cluster meanwhile. A new term
//! starts with nothing: what an earlier leader observed counts for nobody else (R1).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use brainy_coordination::clock::Clock;
use brainy_coordination::elector::Term;
use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client, ResourceExt};
use tokio::sync::OnceCell;

use crate::events::Events;
use crate::machines::Machines;
use crate::metrics::Metrics;
use crate::reconcile::Error;
use crate::reconcile::apply::Ledger;
use crate::reconcile::build::SidecarImage;
use crate::reconcile::{planning, rolling, s3_keys};
use crate::seen::Seen;
use crate::{identity, shards, storage, volumes};

/// How long nodes have to read a Secret that has changed, where nothing else is said: kubelets look every minute and a half at most, of
/// a machine that is out of sight for five minutes pods are evicted.
pub const TRUST_OVERLAP: Duration = Duration::from_secs(300);

/// Shared by all reconciles of one term.
pub struct Context {
    /// Calls that end.
    pub client: Client,
    /// The clock that observers count on.
    pub clock: Arc<dyn Clock>,
    /// This operator process, unique to its life.
    pub identity: String,
    /// What runs in every node's pod.
    pub sidecar: SidecarImage,
    /// The term.
    pub term: Term,
    /// What the watches saw.
    pub seen: Seen,
    /// Which machines are being emptied.
    pub machines: Machines,
    /// Where to say what happened.
    pub events: Events,
    /// Numbers.
    pub metrics: Metrics,
    /// How long nodes have to read a Secret that has changed.
    pub trust_overlap: Duration,
    /// The operator's own namespace, where each cluster is to have a NetworkPolicy.
    pub network_policies: Option<String>,
    kubernetes: OnceCell<String>,
    memories: Mutex<HashMap<String, Arc<tokio::sync::Mutex<ClusterMemory>>>>,
}

/// What is remembered of one cluster between reconciles.
#[derive(Debug, Default)]
pub struct ClusterMemory {
    /// What was applied.
    pub ledger: Ledger,
    /// The storage check.
    pub storage: storage::Memory,
    /// The shard controller.
    pub shards: shards::Memory,
    /// Volumes that were not resized.
    pub volumes: volumes::Memory,
    /// Templates of pods, and what became of their resizes.
    pub rolling: rolling::Memory,
    /// What the pod template would become.
    pub planning: planning::Memory,
    /// Since when no pod of a cluster that is to stand still was there.
    pub still_since: Option<Duration>,
    /// The nodes' certificates.
    pub certificates: identity::Memory,
    /// The keys of S3.
    pub s3_keys: s3_keys::Memory,
    /// Failed reconciles in a row.
    pub failures: u32,
    unsettled_since: Option<Duration>,
    /// Since when evictions are refused because the cluster is not well.
    refusing_since: Option<Duration>,
}

impl ClusterMemory {
    /// Notes whether the cluster is as it should be, and says for how long it has not been.
    pub fn unsettled_for(&mut self, settled: bool, now: Duration) -> Option<Duration> {
        if settled {
            self.unsettled_since = None;
            return None;
        }
        Some(now.saturating_sub(*self.unsettled_since.get_or_insert(now)))
    }

    /// Notes whether evictions are refused because the cluster is not well, and says for how long they have been.
    pub fn refusing_for(&mut self, refuses: bool, now: Duration) -> Duration {
        self.refusing_since = refuses.then(|| self.refusing_since.unwrap_or(now));
        self.refusing_since.map_or(Duration::ZERO, |since| now.saturating_sub(since))
    }
}

/// What a context is made of.
pub struct Parts {
    /// See [`Context::client`].
    pub client: Client,
    /// See [`Context::clock`].
    pub clock: Arc<dyn Clock>,
    /// See [`Context::identity`].
    pub identity: String,
    /// See [`Context::sidecar`].
    pub sidecar: SidecarImage,
    /// See [`Context::term`].
    pub term: Term,
    /// See [`Context::events`].
    pub events: Events,
    /// See [`Context::metrics`].
    pub metrics: Metrics,
}

impl Context {
    /// The context of a term.
    pub fn new(parts: Parts) -> Self {
        let Parts { client, clock, identity, sidecar, term, events, metrics } = parts;
        Self {
            client,
            clock,
            identity,
            sidecar,
            term,
            seen: Seen::default(),
            machines: Machines::default(),
            events,
            metrics,
            trust_overlap: TRUST_OVERLAP,
            network_policies: None,
            kubernetes: OnceCell::new(),
            memories: Mutex::default(),
        }
    }

    /// Has a NetworkPolicy made for each cluster, which lets pods of the operator in this namespace through.
    pub fn with_network_policies(mut self, operator_namespace: Option<String>) -> Self {
        self.network_policies = operator_namespace;
        self
    }

    /// Gives nodes this long to read a Secret that has changed.
    pub fn with_trust_overlap(mut self, overlap: Duration) -> Self {
        self.trust_overlap = overlap;
        self
    }

    /// Asked before each act that only a leader may do.
    pub fn must_lead(&self) -> Result<(), Error> {
        if self.term.is_valid() { Ok(()) } else { Err(Error::NotLeading) }
    }

    /// What is remembered of a cluster, by its UID.
    pub fn memory(&self, uid: &str) -> Arc<tokio::sync::Mutex<ClusterMemory>> {
        let mut memories = self.memories.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(memories.entry(uid.to_owned()).or_default())
    }

    /// Forgets a cluster that is gone.
    pub fn forget(&self, uid: &str) {
        self.memories.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }

    /// UID of the namespace `kube-system`, which stands for the Kubernetes cluster.
    pub async fn kubernetes_uid(&self) -> Result<&str, Error> {
        let uid = self.kubernetes.get_or_try_init(|| async {
            let namespaces: Api<Namespace> = Api::all(self.client.clone());
            let found = namespaces.get("kube-system").await?;
            Ok::<_, Error>(found.uid().unwrap_or_default())
        });
        uid.await.map(String::as_str)
    }
}
