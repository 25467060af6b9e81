//! Step 2, pure: turns a BrainyCluster and what it refers to into a [`ValidatedCluster`], or says what is wrong with it.
//!
//! The API server checks the same bounds at apply. They are checked again here, because a resource may be older than
//! the rules, and because everything behind this step relies on them.

use brainy_coordination::bucket::spec::Pattern;
use brainy_coordination::marker::ADOPT;
use brainy_coordination::placement::Balance;
use brainy_crds::{
    ApplicationSpec, BrainyCluster, BucketSpec, DEFAULT_REGION, DeletionPolicy, LayerKind, PodSpec, Provider, Strategy,
    VolumeSpec,
};
use brainy_storage::layers::Layers;
use brainy_storage::layers::batching::{Ack, Batching};
use brainy_storage::layers::caching::CacheSize;
use brainy_storage::layers::compression::{Algorithm, Compression};
use brainy_storage::layers::limiting::Limiting;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Resource;

use crate::volumes::health::WARN_PERCENT;

/// Longest name of a cluster: it is the prefix of pod, Lease and Service names, and part of their labels.
const MAX_NAME: usize = 40;
/// Most nodes of a cluster.
const MAX_REPLICAS: i32 = 1000;
/// Most shards of a cluster.
const MAX_SHARDS: i32 = 16384;
const MAX_MOVE_RATE: i32 = 100_000;
/// A node's volume where only its log is on it. A snapshot follows every thousand entries: this is plenty.
const LOG_SIZE: &str = "1Gi";
/// The region of every bucket on R2.
const R2_REGION: &str = "auto";

/// A BrainyCluster that can run: everything behind this type relies on its fields.
#[derive(Clone, Debug, PartialEq)]
pub struct ValidatedCluster {
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its UID: what belongs to it carries this, not its name (R10).
    pub uid: String,
    /// The generation of the spec that was validated.
    pub generation: i64,
    /// Wanted nodes; 0: it hibernates.
    pub replicas: i32,
    /// Number of shards, at least 1.
    pub shards: u32,
    /// Where data lives.
    pub storage: ValidatedStorage,
    /// Each node's volume: for its data (strategy Isolated), for its log (pattern Consensus).
    pub volume: Option<VolumeSpec>,
    /// From how many percent on a volume is nearly full.
    pub warn_percent: u8,
    /// What lies over it.
    pub layers: Layers,
    /// Who is the controller.
    pub pattern: Pattern,
    /// What is the same for every node.
    pub balance: Balance,
    /// Most shards on the way at once.
    pub max_moves: Option<u32>,
    /// MiB of shards in transit that a node sends in a second, where it is said (strategy Isolated).
    pub move_mebibytes_per_second: Option<u32>,
    /// Session length in seconds.
    pub lease_seconds: u64,
    /// Time between renewals in seconds, at most half of `lease_seconds`.
    pub renew_seconds: u64,
    /// The container beside the sidecar.
    pub application: Option<ApplicationSpec>,
    /// Pod settings.
    pub pod: PodSpec,
    /// What happens to data on deletion.
    pub deletion_policy: DeletionPolicy,
    /// UID of the cluster whose bucket and prefix it is to get.
    pub adopt: Option<String>,
    /// Makes an object belong to this very BrainyCluster.
    pub owner: OwnerReference,
}

/// Where data lives, of what runs.
#[derive(Clone, Debug, PartialEq)]
pub enum ValidatedStorage {
    /// On a volume of each node.
    Isolated,
    /// In a bucket, below a namespace of each node.
    Namespaced(BucketSpec),
    /// In a bucket, each shard at one place.
    Shared(BucketSpec),
}

impl ValidatedStorage {
    /// The bucket, where nodes share one.
    pub fn bucket(&self) -> Option<&BucketSpec> {
        match self {
            Self::Isolated => None,
            Self::Namespaced(bucket) | Self::Shared(bucket) => Some(bucket),
        }
    }
}

/// Why a BrainyCluster does not run: the spec contradicts itself or a bound.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct Refusal {
    /// Path of the field.
    pub field: &'static str,
    /// What is wrong, and the way out.
    pub problem: String,
}

impl Refusal {
    /// The stable word for conditions and Events.
    pub const REASON: &str = "InvalidSpec";

    fn invalid(field: &'static str, problem: impl Into<String>) -> Self {
        Self { field, problem: problem.into() }
    }
}

/// Checks a BrainyCluster as read from the API server.
pub fn validate(cluster: &BrainyCluster) -> Result<ValidatedCluster, Refusal> {
    let spec = &cluster.spec;
    let name = name_of(cluster)?;
    let meta = &cluster.metadata;
    let absent = |field| Refusal::invalid(field, "is missing: the resource was not read from an API server");
    Ok(ValidatedCluster {
        name,
        namespace: meta.namespace.clone().ok_or_else(|| absent("metadata.namespace"))?,
        uid: meta.uid.clone().ok_or_else(|| absent("metadata.uid"))?,
        generation: meta.generation.unwrap_or_default(),
        replicas: within("spec.replicas", spec.replicas, 0, MAX_REPLICAS)?,
        shards: within("spec.shards", spec.shards, 1, MAX_SHARDS)?.unsigned_abs(),
        storage: storage_of(cluster)?,
        volume: volume_of(cluster)?,
        warn_percent: spec
            .storage
            .volume
            .as_ref()
            .and_then(|volume| u8::try_from(volume.warn_percent?).ok())
            .unwrap_or(WARN_PERCENT),
        layers: layers_of(cluster)?,
        pattern: pattern_of(cluster)?,
        balance: match spec.coordination.placement.balance {
            brainy_crds::Balance::Count => Balance::Count,
            brainy_crds::Balance::Load => Balance::Load,
        },
        max_moves: max_moves_of(cluster)?,
        move_mebibytes_per_second: move_rate_of(cluster)?,
        lease_seconds: u64::from(
            within("spec.coordination.lease.durationSeconds", spec.coordination.lease.duration_seconds, 2, 3600)?
                .unsigned_abs(),
        ),
        renew_seconds: u64::from(renewal_of(cluster)?.unsigned_abs()),
        application: spec.application.clone(),
        pod: spec.pod.clone(),
        deletion_policy: spec.deletion_policy,
        adopt: adopt_of(cluster)?,
        owner: cluster.controller_owner_ref(&()).ok_or_else(|| absent("metadata.uid"))?,
    })
}

fn name_of(cluster: &BrainyCluster) -> Result<String, Refusal> {
    let name = cluster.metadata.name.clone().unwrap_or_default();
    let lower = |b: u8| b.is_ascii_lowercase();
    let inner = |b: u8| lower(b) || b.is_ascii_digit() || b == b'-';
    let well_formed = name.len() <= MAX_NAME
        && name.bytes().next().is_some_and(lower)
        && name.bytes().all(inner)
        && !name.ends_with('-');
    if well_formed {
        Ok(name)
    } else {
        Err(Refusal::invalid(
            "metadata.name",
            format!("{name:?} must be a DNS label of at most {MAX_NAME} characters that starts with a letter"),
        ))
    }
}

fn adopt_of(cluster: &BrainyCluster) -> Result<Option<String>, Refusal> {
    let asked = cluster.metadata.annotations.as_ref().and_then(|annotations| annotations.get(ADOPT));
    match (asked, cluster.spec.storage.strategy) {
        (Some(_), Strategy::Isolated) => Err(Refusal::invalid(
            "metadata.annotations[brainy.io/adopt]",
            "has a use with strategy Namespaced or Shared only: with Isolated data lies on the volumes whose claims bear \
             the nodes' names, and is found there. Remove the annotation",
        )),
        (asked, _) => Ok(asked.cloned()),
    }
}

fn max_moves_of(cluster: &BrainyCluster) -> Result<Option<u32>, Refusal> {
    let Some(most) = cluster.spec.coordination.placement.max_moves else { return Ok(None) };
    Ok(Some(within("spec.coordination.placement.maxMoves", most, 1, MAX_SHARDS)?.unsigned_abs()))
}

fn move_rate_of(cluster: &BrainyCluster) -> Result<Option<u32>, Refusal> {
    const FIELD: &str = "spec.coordination.placement.moveMebibytesPerSecond";
    let Some(rate) = cluster.spec.coordination.placement.move_mebibytes_per_second else { return Ok(None) };
    if cluster.spec.storage.strategy != Strategy::Isolated {
        return Err(Refusal::invalid(FIELD, "has a use with strategy Isolated only: remove it"));
    }
    Ok(Some(within(FIELD, rate, 1, MAX_MOVE_RATE)?.unsigned_abs()))
}

fn pattern_of(cluster: &BrainyCluster) -> Result<Pattern, Refusal> {
    match (cluster.spec.coordination.pattern, cluster.spec.storage.strategy) {
        (brainy_crds::Pattern::StorageNative, Strategy::Namespaced | Strategy::Shared) => Ok(Pattern::StorageNative),
        (brainy_crds::Pattern::StorageNative, Strategy::Isolated) => Err(Refusal::invalid(
            "spec.coordination.pattern",
            "StorageNative keeps every lease in a store that all nodes share, and with strategy Isolated there is none: choose Leader or Consensus, or strategy Namespaced or Shared",
        )),
        (brainy_crds::Pattern::Consensus, _) => Ok(Pattern::Consensus),
        (brainy_crds::Pattern::Leader, _) => Ok(Pattern::Leader),
    }
}

fn storage_of(cluster: &BrainyCluster) -> Result<ValidatedStorage, Refusal> {
    let storage = &cluster.spec.storage;
    match (storage.strategy, &storage.bucket) {
        (Strategy::Isolated, None) => Ok(ValidatedStorage::Isolated),
        (Strategy::Isolated, Some(_)) => Err(Refusal::invalid(
            "spec.storage.bucket",
            "has no use with strategy Isolated: remove it, or choose strategy Namespaced or Shared",
        )),
        (_, None) => Err(Refusal::invalid("spec.storage.bucket", "is required with strategy Namespaced or Shared")),
        (Strategy::Namespaced, Some(bucket)) => bucket_of(bucket).map(ValidatedStorage::Namespaced),
        (Strategy::Shared, Some(bucket)) => bucket_of(bucket).map(ValidatedStorage::Shared),
    }
}

fn volume_of(cluster: &BrainyCluster) -> Result<Option<VolumeSpec>, Refusal> {
    let checked = |volume: VolumeSpec| match volume.warn_percent {
        Some(percent) => within("spec.storage.volume.warnPercent", percent, 1, 99).map(|_| volume),
        None => Ok(volume),
    };
    let (storage, pattern) = (&cluster.spec.storage, cluster.spec.coordination.pattern);
    match (storage.strategy, pattern, &storage.volume) {
        (Strategy::Isolated, _, volume) => checked(volume.clone().unwrap_or_default()).map(Some),
        (_, brainy_crds::Pattern::Consensus, Some(volume)) => checked(volume.clone()).map(Some),
        (_, brainy_crds::Pattern::Consensus, None) => {
            Ok(Some(VolumeSpec { size: Quantity(LOG_SIZE.into()), ..VolumeSpec::default() }))
        }
        (_, _, Some(_)) => Err(Refusal::invalid(
            "spec.storage.volume",
            "has a use with strategy Isolated or pattern Consensus only: remove it",
        )),
        (_, _, None) => Ok(None),
    }
}

/// The bucket as it is spoken to. R2 is spoken to as S3, with what it needs beyond that.
fn bucket_of(bucket: &BucketSpec) -> Result<BucketSpec, Refusal> {
    if bucket.provider == Provider::S3 {
        return Ok(bucket.clone());
    }
    let required =
        |field, is_there| if is_there { Ok(()) } else { Err(Refusal::invalid(field, "is required with provider R2")) };
    required("spec.storage.bucket.endpoint", bucket.endpoint.is_some())?;
    required("spec.storage.bucket.credentialsSecret", bucket.credentials_secret.is_some())?;
    if ![R2_REGION, DEFAULT_REGION].contains(&bucket.region.as_str()) {
        return Err(Refusal::invalid("spec.storage.bucket.region", "has no use with provider R2: leave it out"));
    }
    Ok(BucketSpec { region: R2_REGION.to_owned(), ..bucket.clone() })
}

/// The layers, from the application down.
fn layers_of(cluster: &BrainyCluster) -> Result<Layers, Refusal> {
    const FIELD: &str = "spec.storage.layers";
    let natural = |number: i32, least, most| Ok(within(FIELD, number, least, most)?.unsigned_abs());
    let mut layers = Layers::default();
    let mut above = None;
    for layer in &cluster.spec.storage.layers {
        let place = match layer.kind {
            LayerKind::Caching => 0,
            LayerKind::Batching => 1,
            LayerKind::Limiting => 2,
            LayerKind::Compression => 3,
        };
        if above.is_some_and(|above| above >= place) {
            let kind = layer.kind;
            let message = format!(
                "{kind:?} comes too late: each type may come once, in the order Caching, Batching, Limiting, Compression"
            );
            return Err(Refusal::invalid(FIELD, message));
        }
        above = Some(place);
        match layer.kind {
            LayerKind::Caching => {
                let size = layer.caching.unwrap_or_default();
                layers.caching = Some(CacheSize {
                    entries: u64::from(natural(size.max_entries, 1, 10_000_000)?),
                    bytes: u64::from(natural(size.max_megabytes, 1, 65_536)?) << 20,
                });
            }
            LayerKind::Batching => {
                let batching = layer.batching.unwrap_or_default();
                layers.batching = Some(Batching {
                    max_delay_ms: u64::from(natural(batching.max_delay_milliseconds, 1, 10_000)?),
                    max_items: natural(batching.max_items, 1, 10_000)?,
                    ack: match batching.ack {
                        brainy_crds::Ack::Durable => Ack::Durable,
                        brainy_crds::Ack::Buffered => Ack::Buffered,
                    },
                });
            }
            LayerKind::Limiting => {
                let limiting = layer.limiting.unwrap_or_default();
                layers.limiting = Some(Limiting {
                    max_concurrent: natural(limiting.max_concurrent, 1, 10_000)?,
                    max_waiting: natural(limiting.max_waiting, 0, 100_000)?,
                    timeout_ms: u64::from(natural(limiting.timeout_milliseconds, 10, 30_000)?),
                    read_attempts: natural(limiting.read_attempts, 1, 10)?,
                });
            }
            LayerKind::Compression => {
                let compression = layer.compression.unwrap_or_default();
                layers.compression = Some(Compression {
                    algorithm: match compression.algorithm {
                        brainy_crds::Algorithm::Zstd => Algorithm::Zstd,
                        brainy_crds::Algorithm::Gzip => Algorithm::Gzip,
                    },
                    above_bytes: u64::from(natural(compression.above_bytes, 0, 1 << 20)?),
                });
            }
        }
    }
    Ok(layers)
}

fn renewal_of(cluster: &BrainyCluster) -> Result<i32, Refusal> {
    const FIELD: &str = "spec.coordination.lease.renewSeconds";
    let lease = &cluster.spec.coordination.lease;
    let renew = within(FIELD, lease.renew_seconds, 1, 1800)?;
    if renew.saturating_mul(2) > lease.duration_seconds {
        return Err(Refusal::invalid(
            FIELD,
            "must be at most half of durationSeconds: one lost renewal must not end a node's session",
        ));
    }
    Ok(renew)
}

fn within(field: &'static str, value: i32, least: i32, most: i32) -> Result<i32, Refusal> {
    if (least..=most).contains(&value) {
        Ok(value)
    } else {
        Err(Refusal::invalid(field, format!("{value} must be from {least} to {most}")))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::fixtures::{cluster, isolated, shared};

    fn refusal(spec: serde_json::Value) -> Refusal {
        validate(&cluster("demo", spec)).unwrap_err()
    }

    #[test]
    fn isolated_and_shared_with_leader_run() {
        assert!(matches!(validate(&isolated()).unwrap().storage, ValidatedStorage::Isolated));
        assert!(matches!(validate(&shared()).unwrap().storage, ValidatedStorage::Shared(_)));
        let namespaced = json!({"storage": {"strategy": "Namespaced", "bucket": {"name": "data"}}});
        let namespaced = validate(&cluster("demo", namespaced)).unwrap();
        assert!(matches!(namespaced.storage, ValidatedStorage::Namespaced(_)));
    }

    #[test]
    fn only_a_bucket_can_be_adopted() {
        let adopting = |mut cluster: BrainyCluster| {
            cluster.metadata.annotations = Some([(ADOPT.to_owned(), "u1".to_owned())].into());
            validate(&cluster).map(|valid| valid.adopt)
        };
        assert_eq!(adopting(shared()), Ok(Some("u1".into())));
        let refusal = adopting(isolated()).unwrap_err();
        assert!(refusal.field.contains(ADOPT) && refusal.problem.contains("Remove the annotation"), "{refusal}");
    }

    #[test]
    fn layers_are_as_the_spec_asks_for() {
        let layers =
            |layers| validate(&cluster("demo", json!({"storage": {"layers": layers}}))).map(|valid| valid.layers);
        assert_eq!(layers(json!([])).unwrap(), Layers::default());
        let all = json!([{"type": "Caching"}, {"type": "Batching"}, {"type": "Limiting"}, {"type": "Compression"}]);
        let defaults = Layers {
            caching: Some(CacheSize::default()),
            batching: Some(Batching::default()),
            limiting: Some(Limiting::default()),
            compression: Some(Compression::default()),
        };
        assert_eq!(layers(all).unwrap(), defaults);
        let some = json!([
            {"type": "Caching", "caching": {"maxEntries": 5, "maxMegabytes": 1}},
            {"type": "Batching", "batching": {"maxItems": 7, "ack": "Buffered"}},
            {"type": "Limiting", "limiting": {"maxConcurrent": 8, "maxWaiting": 0, "timeoutMilliseconds": 500, "readAttempts": 1}},
            {"type": "Compression", "compression": {"algorithm": "Gzip", "aboveBytes": 0}},
        ]);
        let asked = Layers {
            caching: Some(CacheSize { entries: 5, bytes: 1 << 20 }),
            batching: Some(Batching { max_items: 7, ack: Ack::Buffered, ..Batching::default() }),
            limiting: Some(Limiting { max_concurrent: 8, max_waiting: 0, timeout_ms: 500, read_attempts: 1 }),
            compression: Some(Compression { algorithm: Algorithm::Gzip, above_bytes: 0 }),
        };
        assert_eq!(layers(some).unwrap(), asked);
        for (wrong, late) in [
            (json!([{"type": "Batching"}, {"type": "Caching"}]), "Caching"),
            (json!([{"type": "Caching"}, {"type": "Caching"}]), "Caching"),
            (json!([{"type": "Limiting"}, {"type": "Batching"}]), "Batching"),
            (json!([{"type": "Compression"}, {"type": "Limiting"}]), "Limiting"),
        ] {
            let refusal = layers(wrong).unwrap_err().to_string();
            assert!(refusal.contains(&format!("{late} comes too late")), "{refusal}");
        }
    }

    #[test]
    fn the_nodes_elect_their_controller_only_where_they_share_a_store() {
        let spec = |storage| json!({"storage": storage, "coordination": {"pattern": "StorageNative"}});
        for strategy in ["Namespaced", "Shared"] {
            let storage = json!({"strategy": strategy, "bucket": {"name": "data"}});
            assert_eq!(validate(&cluster("demo", spec(storage))).unwrap().pattern, Pattern::StorageNative);
        }
        let refusal = refusal(spec(json!({})));
        let message = refusal.to_string();
        assert!(message.starts_with("spec.coordination.pattern: ") && message.contains("choose Leader"), "{message}");
    }

    #[test]
    fn a_node_has_a_volume_for_its_data_or_for_its_log() {
        let of = |strategy: &str, pattern: &str, volume: serde_json::Value| {
            let bucket = if strategy == "Isolated" { json!(null) } else { json!({"name": "data"}) };
            let storage = json!({"strategy": strategy, "bucket": bucket, "volume": volume});
            let spec = json!({"storage": storage, "coordination": {"pattern": pattern}});
            validate(&cluster("demo", spec)).unwrap().volume.map(|volume| volume.size.0)
        };
        let size = |size: &str| Some(size.to_owned());
        assert_eq!(of("Isolated", "Leader", json!(null)), size("10Gi"));
        assert_eq!(of("Isolated", "Consensus", json!({"size": "3Gi"})), size("3Gi"));
        for strategy in ["Namespaced", "Shared"] {
            assert_eq!(of(strategy, "Leader", json!(null)), None);
            assert_eq!(of(strategy, "StorageNative", json!(null)), None);
            assert_eq!(of(strategy, "Consensus", json!(null)), size(LOG_SIZE));
            assert_eq!(of(strategy, "Consensus", json!({"size": "3Gi"})), size("3Gi"));
        }
    }

    #[test]
    fn a_bucket_on_r2_is_spoken_to_as_s3_in_the_region_auto() {
        let whole =
            json!({"name": "data", "provider": "R2", "endpoint": "https://a.example", "credentialsSecret": "s"});
        let with = |field: &str, value: serde_json::Value| {
            let mut bucket = whole.clone();
            bucket[field] = value;
            json!({"storage": {"strategy": "Shared", "bucket": bucket}})
        };
        for region in ["us-east-1", "auto"] {
            let valid = validate(&cluster("demo", with("region", json!(region)))).unwrap();
            let ValidatedStorage::Shared(bucket) = valid.storage else { panic!("{:?}", valid.storage) };
            assert_eq!(bucket.region, "auto");
            assert_eq!(bucket.endpoint.as_deref(), Some("https://a.example"));
        }
        for (field, value) in
            [("endpoint", json!(null)), ("credentialsSecret", json!(null)), ("region", json!("eu-central-1"))]
        {
            let refusal = refusal(with(field, value));
            assert!(refusal.to_string().starts_with(&format!("spec.storage.bucket.{field}")), "{refusal}");
        }
    }

    #[test]
    fn an_invalid_spec_that_slipped_by_admission_is_refused() {
        let cases = [
            (json!({"replicas": -1, "storage": {}}), "spec.replicas"),
            (json!({"shards": 0, "storage": {}}), "spec.shards"),
            (json!({"storage": {"bucket": {"name": "data"}}}), "spec.storage.bucket"),
            (json!({"storage": {"strategy": "Shared"}}), "spec.storage.bucket"),
            (json!({"storage": {"strategy": "Namespaced"}}), "spec.storage.bucket"),
            (
                json!({"storage": {"strategy": "Shared", "volume": {}, "bucket": {"name": "data"}}}),
                "spec.storage.volume",
            ),
            (
                json!({"storage": {"strategy": "Namespaced", "volume": {}, "bucket": {"name": "data"}}}),
                "spec.storage.volume",
            ),
            (
                json!({"storage": {}, "coordination": {"lease": {"durationSeconds": 10, "renewSeconds": 6}}}),
                "spec.coordination.lease.renewSeconds",
            ),
            (json!({"storage": {}, "coordination": {"lease": {"durationSeconds": 1}}}), "spec.coordination.lease"),
            (json!({"storage": {"volume": {"warnPercent": 100}}}), "spec.storage.volume.warnPercent"),
            (
                json!({"storage": {}, "coordination": {"placement": {"maxMoves": 0}}}),
                "spec.coordination.placement.maxMoves",
            ),
            (
                json!({"storage": {}, "coordination": {"placement": {"moveMebibytesPerSecond": 0}}}),
                "spec.coordination.placement.moveMebibytesPerSecond",
            ),
            (
                json!({
                    "storage": {"strategy": "Shared", "bucket": {"name": "data"}},
                    "coordination": {"placement": {"moveMebibytesPerSecond": 10}}
                }),
                "spec.coordination.placement.moveMebibytesPerSecond",
            ),
        ];
        for (spec, field) in cases {
            let refusal = refusal(spec);
            assert!(refusal.to_string().starts_with(field), "{refusal}");
        }
    }

    #[test]
    fn a_name_that_can_be_no_prefix_of_a_pod_name_is_refused() {
        for name in ["", "1abc", "a-", "with.dot", "Upper", &"a".repeat(41)] {
            let refusal = validate(&cluster(name, json!({"storage": {}}))).unwrap_err();
            assert!(refusal.to_string().starts_with("metadata.name"), "{refusal}");
        }
    }
}
