//! What a user writes under `spec`.

mod coordination;
mod layers;
mod storage;
mod tiers;

use k8s_openapi::api::core::v1::{Affinity, EnvVar, ResourceRequirements, Toleration};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::coordination::*;
pub use self::layers::*;
pub use self::storage::*;
pub use self::tiers::*;
use crate::status::BrainyClusterStatus;
use crate::tls::TlsSpec;

/// N Brainy nodes, each with a sidecar that offers the storage API on localhost; every shard owned by exactly one node.
#[derive(CustomResource, Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[kube(
    group = "brainy.io",
    version = "v1alpha1",
    kind = "BrainyCluster",
    plural = "brainyclusters",
    shortname = "brainy",
    category = "all",
    namespaced,
    status = "BrainyClusterStatus",
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(name = "Nodes", type_ = "string", json_path = ".status.nodes", description = "ready nodes / wanted nodes"),
    printcolumn(name = "Shards", type_ = "string", json_path = ".status.shardsOwned", description = "owned shards / all shards"),
    printcolumn(name = "Strategy", type_ = "string", json_path = ".spec.storage.strategy"),
    printcolumn(name = "Pattern", type_ = "string", json_path = ".spec.coordination.pattern"),
    printcolumn(name = "State", type_ = "string", json_path = ".status.conditions[?(@.type==\"Progressing\")].reason", description = "Settled, Paused, PlanPending, Hibernated, or what is under way"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason", priority = 1),
    printcolumn(name = "Zones", type_ = "string", json_path = ".status.nodesByZone", description = "ready nodes / wanted nodes of each zone", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("self.metadata.name.matches('^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$')").message("metadata.name must be a DNS label of at most 40 characters that starts with a letter: it becomes the prefix of pod and Lease names"),
    validation = Rule::new("!has(self.spec.zones) || self.spec.zones.all(zone, self.metadata.name.size() + zone.size() <= 51)").message("metadata.name and the name of each zone of spec.zones may have 51 characters together: both become part of pod names and of their labels. Choose a shorter metadata.name")
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "self.storage.strategy != 'Isolated' || self.coordination.pattern != 'StorageNative'", "message": "coordination.pattern StorageNative keeps every lease in a store that all nodes share, and with storage.strategy Isolated there is none: choose pattern Leader or Consensus, or strategy Namespaced or Shared"},
    {"rule": "self.storage.strategy == 'Isolated' || self.coordination.pattern == 'Consensus' || !has(self.storage.volume)", "message": "storage.volume has a use with strategy Isolated or pattern Consensus only: otherwise data lives in the bucket, and nothing on the nodes. Remove storage.volume"},
    {"rule": "has(self.zones) == has(oldSelf.zones) && (!has(self.zones) || self.zones == oldSelf.zones)", "message": "zones can't be set, changed or removed once the BrainyCluster is there: nodes, and the volumes that have their data, are named by their zone. Create a new BrainyCluster with the wanted zones and copy the data"},
    {"rule": "!has(self.zones) || !has(self.pod.nodeSelector) || !('topology.kubernetes.io/zone' in self.pod.nodeSelector)", "message": "pod.nodeSelector names a zone, and with zones each node has one already: remove topology.kubernetes.io/zone from it"}
]))]
pub struct BrainyClusterSpec {
    /// How many nodes. Each is one pod with a stable name, `<cluster>-0` to `<cluster>-<replicas - 1>`; with `zones`
    /// `<cluster>-<zone>-0` and so on in each. 0: the cluster hibernates, with all its data.
    #[serde(default = "default_replicas")]
    #[schemars(range(min = 0, max = 1000))]
    pub replicas: i32,

    /// The zones that nodes are dealt out to in turn, one StatefulSet each, as machines name them in their label
    /// `topology.kubernetes.io/zone`. A node runs in its zone and nowhere else. Without them nodes run wherever there is room. Never
    /// changes after creation: a node and its volume are named by their zone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(min = 1, max = 9),
        inner(length(min = 1, max = 50), regex(pattern = r"^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$"))
    )]
    #[schemars(extend("x-kubernetes-validations" = [{"rule": "self.all(zone, self.exists_one(other, other == zone))", "message": "spec.zones has a zone twice: name each once"}]))]
    pub zones: Vec<String>,

    /// How many shards the keys are spread over. Never changes after creation: it is part of where every key lives.
    #[serde(default = "default_shards")]
    #[schemars(range(min = 1, max = 16384))]
    #[schemars(extend("x-kubernetes-validations" = [{"rule": "self == oldSelf", "message": "spec.shards can't be changed: every key's place depends on it. Create a new BrainyCluster with the wanted number and copy the data"}]))]
    pub shards: i32,

    /// Where data lives.
    pub storage: StorageSpec,

    /// Who decides which node owns which shard, and how liveness is judged.
    #[serde(default)]
    pub coordination: CoordinationSpec,

    /// The application beside the sidecar. Without it a node is the sidecar alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub application: Option<ApplicationSpec>,

    /// S3 on the pod's loopback, beside the storage API. Absent: it is not served.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub s3: Option<S3Spec>,

    /// Settings of every node's pod.
    #[serde(default)]
    pub pod: PodSpec,

    /// Where the nodes' certificates come from. Absent: from an authority of the operator's own, one for each cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsSpec>,

    /// What happens to volumes and bucket data when the BrainyCluster is deleted.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,

    /// Change nothing, whatever the spec says: the status, certificates and the shards of the nodes that there are go on.
    #[serde(default)]
    pub paused: bool,

    /// When a change is carried out.
    #[serde(default)]
    pub rollout: RolloutSpec,
}

fn default_replicas() -> i32 {
    3
}

fn default_shards() -> i32 {
    256
}

/// S3 on the pod's loopback: buckets are namespaces of the storage API. The application finds it, and the keys, in
/// `AWS_ENDPOINT_URL_S3`, `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and `AWS_REGION`.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct S3Spec {
    /// Whether it is served, at `127.0.0.1:7780` and a Unix socket.
    #[serde(default)]
    pub enabled: bool,
    /// Who may ask.
    #[serde(default)]
    pub access: S3Access,
    /// Most keys on a page of a listing; 0: all there are at once, for programs that take the first page for the whole (1000 if it is left
    /// out).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100_000))]
    pub list_page_size: Option<i32>,
}

/// Who may ask S3.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub enum S3Access {
    /// Whoever signs with the keys of the Secret `<cluster>-s3`, which the operator makes.
    #[default]
    Keys,
    /// Every container of the pod; signatures are not looked at, and requests of web pages refused.
    Anyone,
}

/// The application container. It gets `BRAINY_STORAGE_URL`, `BRAINY_STORAGE_SOCKET` and `BRAINY_NODE_ID`.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ApplicationSpec {
    /// Its image.
    #[schemars(length(min = 1, max = 512))]
    pub image: String,
    /// Replaces the image's entry point.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// Replaces the image's arguments.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// Its environment. Names that start with `BRAINY_` belong to the operator.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<EnvVar>,
    /// Its resources.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
}

/// Settings of every node's pod.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PodSpec {
    /// Resources of the sidecar.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    /// Affinity. Absent: nodes of one cluster prefer different hosts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
    /// Tolerations.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tolerations: Vec<Toleration>,
    /// Node selector.
    #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub node_selector: std::collections::BTreeMap<String, String>,
    /// Priority class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority_class_name: Option<String>,
    /// Added to the pod's annotations.
    #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub annotations: std::collections::BTreeMap<String, String>,
    /// Added to the pod's labels.
    #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub labels: std::collections::BTreeMap<String, String>,
    /// Where the sidecars send traces of requests. Absent: nothing is traced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tracing: Option<TracingSpec>,
}

/// Traces of requests: through the node that was asked and the shard's owner to the store.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TracingSpec {
    /// A collector that takes OTLP over HTTP (binary), without the path `/v1/traces`: `http://collector.observability:4318`. It is
    /// sent the names of keys, and no values.
    #[schemars(length(min = 1, max = 1024), regex(pattern = r"^https?://[^\s/?#]+(/[^\s?#]*)?$"))]
    pub endpoint: String,
    /// How many of a hundred requests are traced, of those whose client has not decided that itself (W3C Trace Context).
    #[serde(default = "default_sample_percent")]
    #[schemars(range(min = 0, max = 100))]
    pub sample_percent: i32,
}

fn default_sample_percent() -> i32 {
    1
}

/// When a change is carried out.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RolloutSpec {
    /// Who approves a change that restarts pods, grows volumes, or changes the number of nodes or the pattern.
    #[serde(default)]
    pub approval: Approval,
    /// The hash of the plan that may be carried out, from `status.plan.hash`. One that no longer fits is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub approved_plan: Option<String>,
}

/// Who approves a change.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub enum Approval {
    /// Whoever writes the spec: a change of it is carried out at once. Only what a new operator alone would change waits for
    /// `approvedPlan`.
    #[default]
    Automatic,
    /// Every change waits for `approvedPlan`.
    Manual,
}

/// What happens to volumes and bucket data on deletion.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub enum DeletionPolicy {
    /// Volumes and bucket data stay.
    #[default]
    Retain,
    /// Volumes and everything under the bucket's prefix are deleted with the BrainyCluster.
    Delete,
}
