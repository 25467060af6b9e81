//! Step 2, pure: turns a BrainyCluster and what it refers to into a [`ValidatedCluster`], or says what is wrong with it.
//!
//! The API server checks the same bounds at apply. They are checked again here, because a resource may be older than
//! the rules, and because everything behind this step relies on them.

use brainy_coordination::bucket::spec::Pattern;
use brainy_coordination::marker::ADOPT;
use brainy_coordination::placement::Balance;
use brainy_crds::{
    ApplicationSpec, BrainyCluster, BucketSpec, CertificateIssuer, DEFAULT_REGION, DeletionPolicy, IssuerRef,
    LayerKind, PodSpec, Provider, RegionSpec, ReplicationSpec, S3Access, Strategy, TieringAck, VolumeSpec,
};
use brainy_storage::layers::Layers;
use brainy_storage::layers::batching::{Ack, Batching};
use brainy_storage::layers::caching::CacheSize;
use brainy_storage::layers::compression::{Algorithm, Compression};
use brainy_storage::layers::limiting::Limiting;
use brainy_storage::layers::regions::WriteConcern;
use brainy_storage::layers::tiering::{self, Tiering};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Resource;

use crate::layout::{Layout, segment};
use crate::regions;
use crate::shards::ZONE_LABEL;
use crate::volumes::health::WARN_PERCENT;

/// Longest name of a cluster: it is the prefix of pod, Lease and Service names, and part of their labels.
const MAX_NAME: usize = 40;
/// Longest name of a cluster and one of its zones together: with a hyphen between, and the hash of a template behind, they are a label.
const MAX_ZONED_NAME: usize = 51;
/// Most zones of a cluster.
const MAX_ZONES: usize = 9;
/// Most nodes of a cluster.
const MAX_REPLICAS: i32 = 1000;
/// Most shards of a cluster.
const MAX_SHARDS: i32 = 16384;
const MAX_MOVE_RATE: i32 = 100_000;
/// Keys on a page of a listing of S3 where nothing is said, as in S3 itself.
const LIST_PAGE_SIZE: i32 = 1000;
/// Most keys on a page of a listing of S3.
const MAX_LIST_PAGE_SIZE: i32 = 100_000;
/// Most regions.
const MAX_REGIONS: usize = 8;
/// Longest time before a key is demoted: ten years.
const MAX_DEMOTE_HOURS: i32 = 87_600;
const MILLISECONDS_OF_AN_HOUR: u64 = 60 * 60 * 1000;
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
    /// Which node is in which StatefulSet.
    pub layout: Layout,
    /// Number of shards, at least 1.
    pub shards: u32,
    /// Where data lives.
    pub storage: ValidatedStorage,
    /// The regions, of which one's bucket is the storage's (strategy Shared).
    pub regions: Option<ValidatedRegions>,
    /// The cold tier under the volumes (strategy Isolated).
    pub tiering: Option<ValidatedTiering>,
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
    /// S3 beside the storage API, where it is served.
    pub s3: Option<ValidatedS3>,
    /// Pod settings.
    pub pod: PodSpec,
    /// Where the nodes' certificates come from.
    pub certificates: Certificates,
    /// What happens to data on deletion.
    pub deletion_policy: DeletionPolicy,
    /// UID of the cluster whose bucket and prefix it is to get.
    pub adopt: Option<String>,
    /// Makes an object belong to this very BrainyCluster.
    pub owner: OwnerReference,
}

/// S3 on the pods' loopback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ValidatedS3 {
    /// Who may ask.
    pub access: S3Access,
    /// Most keys on a page of a listing; 0: all there are.
    pub list_page_size: u32,
}

/// Where the nodes' certificates come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Certificates {
    /// From the operator's own authority of the cluster.
    Operator,
    /// From cert-manager, by this issuer; none: by one that the operator makes for the cluster.
    CertManager(Option<IssuerRef>),
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

/// Several regions, each with a bucket and a cluster of its own.
#[derive(Clone, Debug, PartialEq)]
pub struct ValidatedRegions {
    /// This cluster's own.
    pub own: String,
    /// Where keys are to be decided.
    pub home: String,
    /// The generation of the spec that has wished for that first.
    pub home_since: i64,
    /// How many have a write when it is acknowledged.
    pub write_concern: WriteConcern,
    /// All of them, in the order of the spec.
    pub all: Vec<ValidatedRegion>,
}

/// A region.
#[derive(Clone, Debug, PartialEq)]
pub struct ValidatedRegion {
    /// Its name.
    pub name: String,
    /// Its bucket.
    pub bucket: BucketSpec,
}

/// Two tiers: the volumes, and a bucket.
#[derive(Clone, Debug, PartialEq)]
pub struct ValidatedTiering {
    /// The cold tier.
    pub bucket: BucketSpec,
    /// What moves between them, and when.
    pub settings: Tiering,
}

impl ValidatedRegions {
    /// Those that are not the own one.
    pub fn others(&self) -> impl Iterator<Item = &ValidatedRegion> {
        self.all.iter().filter(|region| region.name != self.own)
    }
}

impl ValidatedCluster {
    /// The bucket that the nodes need, for all data or for what is cold.
    pub fn any_bucket(&self) -> Option<&BucketSpec> {
        self.storage.bucket().or(self.tiering.as_ref().map(|tiering| &tiering.bucket))
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
        layout: layout_of(&name, cluster)?,
        name,
        namespace: meta.namespace.clone().ok_or_else(|| absent("metadata.namespace"))?,
        uid: meta.uid.clone().ok_or_else(|| absent("metadata.uid"))?,
        generation: meta.generation.unwrap_or_default(),
        replicas: within("spec.replicas", spec.replicas, 0, MAX_REPLICAS)?,
        shards: within("spec.shards", spec.shards, 1, MAX_SHARDS)?.unsigned_abs(),
        regions: regions_of(cluster)?,
        storage: storage_of(cluster)?,
        tiering: tiering_of(cluster)?,
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
        s3: s3_of(cluster)?,
        pod: spec.pod.clone(),
        certificates: certificates_of(cluster)?,
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

fn layout_of(name: &str, cluster: &BrainyCluster) -> Result<Layout, Refusal> {
    const FIELD: &str = "spec.zones";
    let zones = &cluster.spec.zones;
    if zones.len() > MAX_ZONES {
        return Err(Refusal::invalid(FIELD, format!("{} are too many: at most {MAX_ZONES} may be named", zones.len())));
    }
    for (at, zone) in zones.iter().enumerate() {
        if !is_label_value(zone) {
            return Err(Refusal::invalid(
                FIELD,
                format!(
                    "{zone:?} can be no zone: machines name theirs in the label {ZONE_LABEL}, and this is no label's value"
                ),
            ));
        }
        if name.len() + zone.len() > MAX_ZONED_NAME {
            return Err(Refusal::invalid(
                FIELD,
                format!(
                    "{zone} is too long for a BrainyCluster of the name {name}: together they may have {MAX_ZONED_NAME} characters. Choose a shorter name"
                ),
            ));
        }
        if let Some(other) = zones.iter().take(at).find(|other| segment(other) == segment(zone)) {
            return Err(Refusal::invalid(
                FIELD,
                format!(
                    "{other} and {zone} can't both be zones: their nodes would have the same names. Name one of them"
                ),
            ));
        }
    }
    if !zones.is_empty() && cluster.spec.pod.node_selector.contains_key(ZONE_LABEL) {
        return Err(Refusal::invalid(
            "spec.pod.nodeSelector",
            format!("names a zone, and with spec.zones each node has one already: remove {ZONE_LABEL}"),
        ));
    }
    Ok(Layout::of(name, zones))
}

fn is_label_value(text: &str) -> bool {
    let outer = |b: u8| b.is_ascii_alphanumeric();
    let (first, last) = (text.bytes().next(), text.bytes().last());
    first.is_some_and(outer)
        && last.is_some_and(outer)
        && text.bytes().all(|b| outer(b) || [b'.', b'-', b'_'].contains(&b))
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

fn s3_of(cluster: &BrainyCluster) -> Result<Option<ValidatedS3>, Refusal> {
    let Some(s3) = cluster.spec.s3.as_ref().filter(|s3| s3.enabled) else { return Ok(None) };
    let page = s3.list_page_size.unwrap_or(LIST_PAGE_SIZE);
    let list_page_size = within("spec.s3.listPageSize", page, 0, MAX_LIST_PAGE_SIZE)?.unsigned_abs();
    Ok(Some(ValidatedS3 { access: s3.access, list_page_size }))
}

fn certificates_of(cluster: &BrainyCluster) -> Result<Certificates, Refusal> {
    let tls = cluster.spec.tls.clone().unwrap_or_default();
    match (tls.issuer, tls.issuer_ref) {
        (CertificateIssuer::CertManager, issuer) => Ok(Certificates::CertManager(issuer)),
        (CertificateIssuer::Operator, None) => Ok(Certificates::Operator),
        (CertificateIssuer::Operator, Some(_)) => {
            Err(Refusal::invalid("spec.tls.issuerRef", "has a use with spec.tls.issuer CertManager only: remove it"))
        }
    }
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
    if storage.regions.is_some() {
        return own_region_of(cluster).and_then(|region| bucket_of(&region.bucket)).map(ValidatedStorage::Shared);
    }
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

/// The region whose bucket is the cluster's.
fn own_region_of(cluster: &BrainyCluster) -> Result<&RegionSpec, Refusal> {
    let storage = &cluster.spec.storage;
    let Some(own) = regions::own(cluster) else {
        let problem = "is needed: which of storage.regions is this cluster's own is not known yet";
        return Err(Refusal::invalid("spec.storage.region", problem));
    };
    if let Some(said) = storage.region.as_ref().filter(|said| *said != own) {
        let problem = format!(
            "is {said}, and this cluster's data and leases are in region {own}: set it to {own}, or create a BrainyCluster in {said}"
        );
        return Err(Refusal::invalid("spec.storage.region", problem));
    }
    regions::own_spec(cluster).ok_or_else(|| {
        let problem = format!(
            "{own} is this cluster's own region, and is not among them any more: put it back, or delete this BrainyCluster"
        );
        Refusal::invalid("spec.storage.regions", problem)
    })
}

fn regions_of(cluster: &BrainyCluster) -> Result<Option<ValidatedRegions>, Refusal> {
    const FIELD: &str = "spec.storage.regions";
    let storage = &cluster.spec.storage;
    let Some(regions) = &storage.regions else {
        return match (&storage.region, &storage.replication) {
            (None, None) => Ok(None),
            (Some(_), _) => {
                Err(Refusal::invalid("spec.storage.region", "has a use with storage.regions only: remove it"))
            }
            (None, Some(_)) => {
                Err(Refusal::invalid("spec.storage.replication", "has a use with storage.regions only: remove it"))
            }
        };
    };
    let refused = |problem: String| Err(Refusal::invalid(FIELD, problem));
    if storage.strategy != Strategy::Shared {
        return refused("have a use with strategy Shared only: remove them, or choose strategy Shared".to_owned());
    }
    if storage.bucket.is_some() {
        return refused("exclude storage.bucket: each region has a bucket of its own. Remove one of them".to_owned());
    }
    if !(1..=MAX_REGIONS).contains(&regions.len()) {
        return refused(format!("are {}: there may be from 1 to {MAX_REGIONS}", regions.len()));
    }
    for (at, region) in regions.iter().enumerate() {
        let place = |region: &RegionSpec| {
            let BucketSpec { name, prefix, endpoint, .. } = region.bucket.clone();
            (name, prefix, endpoint)
        };
        for other in &regions[..at] {
            if other.name == region.name {
                return refused(format!("has {} twice: each region needs a name of its own", region.name));
            }
            if place(other) == place(region) {
                return refused(format!("{} and {} have the same bucket and prefix", other.name, region.name));
            }
        }
    }
    let names: Vec<String> = regions.iter().map(|region| region.name.clone()).collect();
    let ReplicationSpec { write_concern, home } = storage.replication.clone().unwrap_or_default();
    let home = home.unwrap_or_else(|| names[0].clone());
    let stands = cluster.status.as_ref().and_then(|status| status.home.as_ref()).filter(|stands| stands.region == home);
    let home_since = stands.map_or(0, |stands| stands.since);
    if !names.contains(&home) {
        let problem = format!("is {home:?}, which is none of storage.regions: choose one of {}", names.join(", "));
        return Err(Refusal::invalid("spec.storage.replication.home", problem));
    }
    if storage.layers.iter().any(|layer| matches!(layer.kind, LayerKind::Caching | LayerKind::Batching)) {
        let problem = "can't have Caching or Batching with storage.regions: what other regions write would not be seen";
        return Err(Refusal::invalid("spec.storage.layers", problem));
    }
    let own = own_region_of(cluster)?.name.clone();
    let validated =
        |region: &RegionSpec| Ok(ValidatedRegion { name: region.name.clone(), bucket: bucket_of(&region.bucket)? });
    let all: Result<Vec<ValidatedRegion>, Refusal> = regions.iter().map(validated).collect();
    let write_concern = match write_concern {
        brainy_crds::WriteConcern::Local => WriteConcern::Local,
        brainy_crds::WriteConcern::Majority => WriteConcern::Majority,
        brainy_crds::WriteConcern::All => WriteConcern::All,
    };
    Ok(Some(ValidatedRegions { own, home, home_since, write_concern, all: all? }))
}

fn tiering_of(cluster: &BrainyCluster) -> Result<Option<ValidatedTiering>, Refusal> {
    let storage = &cluster.spec.storage;
    let Some(tiering) = &storage.tiering else { return Ok(None) };
    if storage.strategy != Strategy::Isolated {
        let problem =
            "has a use with strategy Isolated only: with the others all data lies in the bucket already. Remove it";
        return Err(Refusal::invalid("spec.storage.tiering", problem));
    }
    let hours = within("spec.storage.tiering.demoteAfterHours", tiering.demote_after_hours, 1, MAX_DEMOTE_HOURS)?;
    let percent = within("spec.storage.tiering.watermarkPercent", tiering.watermark_percent, 10, 95)?;
    let reads = within("spec.storage.tiering.promoteAfterReads", tiering.promote_after_reads, 0, 255)?;
    let settings = Tiering {
        ack: match tiering.ack {
            TieringAck::Hot => tiering::Ack::Hot,
            TieringAck::Cold => tiering::Ack::Cold,
        },
        demote_after_ms: u64::from(hours.unsigned_abs()) * MILLISECONDS_OF_AN_HOUR,
        watermark_percent: u8::try_from(percent).unwrap_or(u8::MAX),
        promote_after_reads: reads.unsigned_abs(),
        ..Tiering::default()
    };
    Ok(Some(ValidatedTiering { bucket: bucket_of(&tiering.bucket)?, settings }))
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
mod tests;
