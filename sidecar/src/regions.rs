//! The buckets of the other regions, and which buckets are regions of one another. Until a bucket has passed (`gated`) and is
//! known to be the region that it is taken for, that region is away.
//!
//! ```text
//! <prefix>/_cluster/region.json     {"region": "us", "shards": 256, "group": "a mark"}
//! ```
//!
//! Each bucket says which region it is, over how many shards its data is spread, and by a mark to which group it belongs. The
//! mark is made up once, by whoever comes first, in the bucket of the first region by name; only who has asked all of them
//! may be that. From then on any bucket that has it is enough to go by.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use brainy_coordination::marker::ClusterMarker;
use brainy_coordination::{ShardId, names};
use brainy_kubernetes::config::{BucketConfig, NodeConfig, RegionsConfig, StorageConfig};
use brainy_storage::backends::s3::{S3Settings, S3Store};
use brainy_storage::documents::{Documents, Swap};
use brainy_storage::layers::compression::Compression;
use brainy_storage::layers::observing::Observing;
use brainy_storage::layers::regions::{Nearness, Plan, RegionStores, Replication, Wish};
use brainy_storage::{Error, StorageAdapter, chance};
use futures::future::join_all;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::gated::{GatedBucket, Purpose, in_words, longest_path};

/// Says which region a bucket is.
const MEMBERSHIP: &str = "_cluster/region.json";
/// Longest wait for one call.
const CALL_LIMIT: Duration = Duration::from_secs(10);
/// Attempts to write what others write too.
const ATTEMPTS: u32 = 3;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Membership {
    region: String,
    shards: u32,
    group: String,
}

/// The regions of a node's configuration; `None`: it has none. What is wrong with them, in words.
pub fn plan(cluster: &NodeConfig) -> Result<Option<Plan>, String> {
    let Some(regions) = &cluster.regions else { return Ok(None) };
    let StorageConfig::Shared(bucket) = &cluster.storage else {
        return Err("have a use with strategy shared only".to_owned());
    };
    if cluster.layers.caching.is_some() || cluster.layers.batching.is_some() {
        return Err(
            "can't be had with the layers caching and batching: what other regions write would not be seen".to_owned()
        );
    }
    let last = ShardId(cluster.shards.saturating_sub(1));
    let folder = names::shard_data(last);
    let root = folder.trim_end_matches('/');
    let mut longest = longest_path(&bucket.prefix, root);
    for region in &regions.all {
        match (&region.bucket, region.name == regions.own) {
            (None, true) => {}
            (Some(bucket), false) => longest = longest.min(longest_path(&bucket.prefix, root)),
            (None, false) => return Err(format!("{} has no bucket", region.name)),
            (Some(_), true) => return Err(format!("{} is the own one: its bucket is that of storage", region.name)),
        }
    }
    let names = regions.all.iter().map(|region| region.name.clone()).collect();
    let plan = Plan::new(names, &regions.own, &regions.home, longest).map_err(|error| error.to_string())?;
    let since = u64::try_from(regions.home_since).unwrap_or(0);
    Ok(Some(plan.wished(Wish { by: cluster.uid.clone(), since })))
}

/// How they are kept equal.
pub fn replication(regions: &RegionsConfig) -> Replication {
    Replication { write_concern: regions.write_concern, nearness: Nearness::Measured, ..Replication::default() }
}

/// One that is not the own.
#[derive(Debug)]
struct Other {
    settings: S3Settings,
    bucket: GatedBucket,
}

/// The other regions.
#[derive(Debug)]
pub struct OtherRegions {
    plan: Plan,
    shards: u32,
    /// By their names: all of the plan but the own.
    others: BTreeMap<String, Other>,
    /// Known once the own region has joined it, or begun it.
    group: watch::Sender<Option<String>>,
}

impl OtherRegions {
    /// Opens their buckets in the background. Within a runtime.
    pub fn start(
        plan: Plan,
        (regions, shards): (&RegionsConfig, u32),
        settings: impl Fn(&BucketConfig) -> S3Settings,
        compression: Option<Compression>,
        observing: impl Fn() -> Observing,
    ) -> Arc<Self> {
        let group = watch::Sender::new(None);
        let other = |(name, bucket): (&String, &BucketConfig)| {
            let purpose = Region { name: name.clone(), shards, group: group.subscribe() };
            let settings = settings(bucket);
            let bucket = GatedBucket::start(settings.clone(), Arc::new(purpose), compression, observing());
            (name.clone(), Other { settings, bucket })
        };
        let buckets = regions.all.iter().filter_map(|region| Some((&region.name, region.bucket.as_ref()?)));
        let others = buckets.map(other).collect();
        Arc::new(Self { plan, shards, others, group })
    }

    /// Makes sure that the own bucket is the own region, and finds out of which group. Before it is used.
    pub async fn join(&self, own: &dyn Documents) -> Result<(), Error> {
        let here = self.plan.here();
        let group = match membership(own, here, self.shards).await? {
            Some(found) => found.group,
            None => {
                let group = self.find().await?;
                let group = match group {
                    Some(group) => group,
                    None => self.begin(own).await?,
                };
                let stands = claim(own, &Membership { region: here.to_owned(), shards: self.shards, group }).await?;
                stands.group
            }
        };
        self.group.send_if_modified(|known| {
            let is_new = known.as_ref() != Some(&group);
            *known = Some(group);
            is_new
        });
        Ok(())
    }

    /// The group of the others; `None`: certainly none of them belongs to one.
    async fn find(&self) -> Result<Option<String>, Error> {
        let look = async |name: &str, other: &Other| {
            let store = S3Store::open(&other.settings).await?;
            membership(&store.documents(""), name, self.shards).await
        };
        let found = join_all(self.others.iter().map(async |(name, other)| (name, look(name, other).await))).await;
        let (mut groups, mut away) = (BTreeSet::new(), None);
        for (name, found) in found {
            match found {
                Ok(Some(found)) => drop(groups.insert(found.group)),
                Ok(None) => {}
                Err(error @ Error::Unavailable { .. }) if is_refusal(&error) => return Err(error),
                Err(error) => away = Some((name, error)),
            }
        }
        if groups.len() > 1 {
            let detail =
                "the buckets of the other regions belong to different groups: correct them in spec.storage.regions";
            return Err(refusal(detail.to_owned()));
        }
        match (groups.pop_first(), away) {
            (Some(group), _) => Ok(Some(group)),
            (None, None) => Ok(None),
            (None, Some((name, error))) => {
                let detail = format!(
                    "region {:?} is new, and begins once all others, or one with data, can be asked: {name:?} can't: {}",
                    self.plan.here(),
                    in_words(&error)
                );
                Err(Error::unavailable("RegionsUnknown", detail))
            }
        }
    }

    /// Makes up a group, where there is none yet.
    async fn begin(&self, own: &dyn Documents) -> Result<String, Error> {
        let first = self.plan.names().iter().min().map_or(self.plan.here(), String::as_str);
        let wish = Membership { region: first.to_owned(), shards: self.shards, group: chance::mark() };
        let stands = match self.others.get(first) {
            Some(other) => claim(&S3Store::open(&other.settings).await?.documents(""), &wish).await?,
            None => claim(own, &wish).await?,
        };
        Ok(stands.group)
    }
}

impl RegionStores for OtherRegions {
    fn plan(&self) -> &Plan {
        &self.plan
    }

    fn store(&self, region: &str, name: &str) -> Arc<dyn StorageAdapter> {
        self.others[region].bucket.store_in(format!("{}{name}", names::SHARDS))
    }

    fn problems(&self) -> Vec<(String, String)> {
        self.others.iter().filter_map(|(name, other)| Some((name.clone(), other.bucket.problem()?))).collect()
    }
}

/// What the bucket of another region is for.
#[derive(Debug)]
struct Region {
    name: String,
    shards: u32,
    group: watch::Receiver<Option<String>>,
}

#[async_trait]
impl Purpose for Region {
    fn cause(&self) -> &'static str {
        "RegionAway"
    }

    fn name(&self) -> String {
        format!("region {}", self.name)
    }

    async fn admit(&self, store: &S3Store) -> Result<(), Error> {
        let mut group = self.group.clone();
        // The own region first: by it is judged whether this one belongs to it.
        let group = match group.wait_for(Option::is_some).await.ok().and_then(|group| group.clone()) {
            Some(group) => group,
            None => return Err(Error::unavailable("Stopping", "this process is stopping")),
        };
        let wish = Membership { region: self.name.clone(), shards: self.shards, group };
        let stands = claim(&store.documents(""), &wish).await?;
        if stands.group == wish.group {
            return Ok(());
        }
        Err(refusal(format!(
            "its bucket and prefix are region {:?} of another group of regions: correct them in spec.storage.regions, or \
             choose another prefix",
            self.name
        )))
    }
}

fn refusal(detail: String) -> Error {
    Error::unavailable("AnothersRegion", detail)
}

fn is_refusal(error: &Error) -> bool {
    matches!(error, Error::Unavailable { cause, .. } if cause == "AnothersRegion")
}

/// What stands in a bucket, if it is this region with as many shards.
async fn membership(documents: &dyn Documents, region: &str, shards: u32) -> Result<Option<Membership>, Error> {
    let Some(found) = read::<Membership>(documents, MEMBERSHIP).await? else { return Ok(None) };
    if found.region != region {
        return Err(refusal(format!(
            "the bucket and prefix of region {region:?} are region {:?} already: correct them in spec.storage.regions",
            found.region
        )));
    }
    must_have(shards, found.shards, region)?;
    Ok(Some(found))
}

fn must_have(shards: u32, found: u32, region: &str) -> Result<(), Error> {
    if found == shards {
        return Ok(());
    }
    Err(refusal(format!(
        "the data of region {region:?} is spread over {found} shards, and spec.shards is {shards}: all regions must have as \
         many. Create the BrainyCluster with {found} shards, or choose another bucket or prefix"
    )))
}

/// Writes down what a bucket is, where nothing says so yet. What stands there.
async fn claim(documents: &dyn Documents, wish: &Membership) -> Result<Membership, Error> {
    for _ in 0..ATTEMPTS {
        if let Some(found) = membership(documents, &wish.region, wish.shards).await? {
            return Ok(found);
        }
        must_be_free(documents, wish).await?;
        let body = serde_json::to_vec(wish).map_err(|error| Error::invalid("region", error.to_string()))?;
        let swap = timeout(CALL_LIMIT, documents.swap(MEMBERSHIP, None, body.into())).await;
        match swap.map_err(|_| too_long(MEMBERSHIP))?? {
            Swap::Applied(_) => return Ok(wish.clone()),
            // Somebody was first, or nobody knows: the next look tells.
            Swap::Rejected | Swap::Unknown(_) => {}
        }
    }
    Err(Error::unavailable("Contended", "which region a bucket is could not be found out"))
}

/// What only says where a cluster's data is.
#[derive(Deserialize)]
struct Declared {
    namespace: String,
    name: String,
    spec: serde_json::Value,
}

/// A cluster with one bucket keeps its data otherwise: it would not see that of regions, nor they its.
async fn must_be_free(documents: &dyn Documents, wish: &Membership) -> Result<(), Error> {
    if let Some(marker) = read::<ClusterMarker>(documents, names::CLUSTER_MARKER).await? {
        must_have(wish.shards, marker.shards, &wish.region)?;
    }
    let Some(declared) = read::<Declared>(documents, names::DECLARATION).await? else { return Ok(()) };
    if declared.spec.pointer("/storage/regions").is_some() {
        return Ok(());
    }
    Err(refusal(format!(
        "the bucket and prefix of region {:?} hold the data of BrainyCluster {}/{}, which has no regions: choose another prefix",
        wish.region, declared.namespace, declared.name
    )))
}

async fn read<T: DeserializeOwned>(documents: &dyn Documents, name: &str) -> Result<Option<T>, Error> {
    let found = timeout(CALL_LIMIT, documents.read(name)).await.map_err(|_| too_long(name))??;
    let Some(document) = found else { return Ok(None) };
    let parsed = serde_json::from_slice(&document.body);
    parsed.map(Some).map_err(|error| Error::Corrupt { key: name.to_owned(), problem: error.to_string() })
}

fn too_long(name: &str) -> Error {
    Error::unavailable("TimedOut", format!("{name} was not answered for {} s", CALL_LIMIT.as_secs()))
}

#[cfg(test)]
mod tests {
    use brainy_storage::backends::memory::MemoryDocuments;

    use super::*;

    const CONFIG: &str = "
cluster: demo
namespace: default
uid: u
shards: 256
storage: {strategy: shared, bucket: near, prefix: data, region: us-east-1}
regions:
  own: us
  home: eu
  homeSince: 3
  writeConcern: majority
  all:
    - name: us
    - {name: eu, bucket: {bucket: far, prefix: a/longer/prefix, region: us-east-1}}
leaseSeconds: 30
renewSeconds: 10
";

    fn config(from: &str, to: &str) -> NodeConfig {
        assert!(CONFIG.contains(from), "{from}");
        serde_yaml::from_str(&CONFIG.replace(from, to)).unwrap()
    }

    #[test]
    fn the_regions_of_a_configuration_are_as_it_says_and_fit_together() {
        let cluster = config("demo", "demo");
        let found = plan(&cluster).unwrap().unwrap();
        assert_eq!((found.here(), found.home(), found.names()), ("us", "eu", &["us".to_owned(), "eu".to_owned()][..]));
        let settings = replication(cluster.regions.as_ref().unwrap());
        assert_eq!(
            (settings.nearness, format!("{:?}", settings.write_concern).as_str()),
            (Nearness::Measured, "Majority")
        );
        assert_eq!(serde_yaml::from_str::<NodeConfig>(&serde_yaml::to_string(&cluster).unwrap()).unwrap(), cluster);
        for (from, to, why) in [
            ("strategy: shared", "strategy: namespaced", "strategy shared only"),
            ("leaseSeconds", "layers: {caching: {entries: 1, bytes: 1}}\nleaseSeconds", "caching and batching"),
            ("own: us", "own: ap", "us has no bucket"),
            ("home: eu", "home: ap", "\"ap\", the home, is not among"),
            ("    - name: us\n", "    - {name: us, bucket: {bucket: b, prefix: p, region: r}}\n", "us is the own one"),
            ("name: eu", "name: E U", "is no name"),
        ] {
            let refused = plan(&config(from, to)).unwrap_err();
            assert!(refused.contains(why), "{refused}");
        }
    }

    fn wish(region: &str, shards: u32, group: &str) -> Membership {
        Membership { region: region.to_owned(), shards, group: group.to_owned() }
    }

    async fn put(documents: &MemoryDocuments, name: &str, document: serde_json::Value) {
        let body = serde_json::to_vec(&document).unwrap();
        assert!(matches!(documents.swap(name, None, body.into()).await.unwrap(), Swap::Applied(_)));
    }

    #[tokio::test]
    async fn a_bucket_stays_the_region_that_it_was_first() {
        let documents = MemoryDocuments::new();
        let first = wish("eu", 16, "mark");
        assert_eq!(claim(&documents, &first).await.unwrap(), first);
        assert_eq!(claim(&documents, &wish("eu", 16, "another")).await.unwrap(), first, "whoever is first");
        for (wish, why) in [
            (wish("us", 16, "mark"), "are region \"eu\" already"),
            (wish("eu", 8, "mark"), "spread over 16 shards, and spec.shards is 8"),
        ] {
            let refused = claim(&documents, &wish).await.unwrap_err();
            assert!(is_refusal(&refused) && in_words(&refused).contains(why), "{refused}");
        }
    }

    #[tokio::test]
    async fn the_bucket_of_a_cluster_without_regions_or_with_other_shards_is_never_taken() {
        let marker = serde_json::json!({
            "uid": "u", "namespace": "team", "name": "demo", "kubernetes": "k", "shards": 16, "revision": 1,
        });
        let declared = |storage: serde_json::Value| serde_json::json!({"namespace": "team", "name": "demo", "spec": {"storage": storage}});
        let documents = MemoryDocuments::new();
        put(&documents, names::CLUSTER_MARKER, marker).await;
        let refused = claim(&documents, &wish("eu", 8, "mark")).await.unwrap_err();
        assert!(is_refusal(&refused) && in_words(&refused).contains("over 16 shards"), "{refused}");
        put(&documents, names::DECLARATION, declared(serde_json::json!({"bucket": {"name": "b"}}))).await;
        let refused = claim(&documents, &wish("eu", 16, "mark")).await.unwrap_err();
        assert!(is_refusal(&refused) && in_words(&refused).contains("team/demo, which has no regions"), "{refused}");
        let documents = MemoryDocuments::new();
        put(&documents, names::DECLARATION, declared(serde_json::json!({"regions": []}))).await;
        assert!(claim(&documents, &wish("eu", 16, "mark")).await.is_ok(), "its nodes have not begun yet");
    }

    #[tokio::test]
    async fn a_region_that_is_new_begins_only_when_the_others_could_be_asked() {
        let cluster = config("region: us-east-1}}", "region: us-east-1, endpoint: 'http://127.0.0.1:9'}}");
        let regions = cluster.regions.clone().unwrap();
        let settings = |bucket: &BucketConfig| S3Settings {
            endpoint: bucket.endpoint.clone(),
            credentials: brainy_storage::backends::s3::Credentials::Keys {
                access_key_id: "k".to_owned(),
                secret_access_key: "s".to_owned(),
            },
            ..S3Settings::new(&bucket.bucket)
        };
        let metrics = crate::metrics::Metrics::default();
        let plan = plan(&cluster).unwrap().unwrap();
        let others = OtherRegions::start(plan, (&regions, 256), settings, None, || metrics.observing("s3"));
        assert_eq!(others.problems().len(), 1);
        let own = MemoryDocuments::new();
        let refused = others.join(&own).await.unwrap_err();
        assert!(in_words(&refused).starts_with("RegionsUnknown: region \"us\" is new"), "{refused}");
        assert!(own.names("").await.unwrap().is_empty());
        // One that has begun needs nobody.
        put(&own, MEMBERSHIP, serde_json::json!({"region": "us", "shards": 256, "group": "mark"})).await;
        others.join(&own).await.unwrap();
        assert_eq!(others.group.borrow().as_deref(), Some("mark"));
    }
}
